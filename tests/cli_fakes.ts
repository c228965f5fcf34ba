/** A world for the command line that lives in memory: writers that remember, and a library that draws flat colours. */
import { main } from "../cli/main.ts";
import { ModelError } from "../src/errors.ts";
import type { Context, Library, OpenModel, Sink } from "../cli/context.ts";
import type { CalibrationEvent, CalibrationRequest } from "../src/calibrate.ts";
import type { GenerateEvent, GenerateRequest } from "../src/request.ts";
import type { Plan } from "../src/plan.ts";
import { encodePng } from "../src/png.ts";
import { pngText } from "../src/metadata.ts";

/** What a run of the command line needs of the world, and what it left there. */
export interface FakeWorld {
  env?: Record<string, string>;
  stdin?: string | Uint8Array | ReadableStream<Uint8Array>;
  tty?: boolean;
  columns?: number;
  generate?: (request: GenerateRequest, signal?: AbortSignal) => AsyncGenerator<GenerateEvent>;
  signal?: AbortSignal;
  /** Nobody reads stdout. */
  brokenPipe?: boolean;
}

/** A context that remembers what was written. */
export class FakeContext implements Context {
  readonly out: (string | Uint8Array)[] = [];
  readonly err: string[] = [];
  readonly stdout: Sink;
  readonly stderr: Sink;
  readonly signal: AbortSignal;
  readonly requests: GenerateRequest[] = [];
  /** Settings of every model opened, and how many were closed again. */
  readonly opened: Partial<GenerateRequest>[] = [];
  closed = 0;
  readonly calibrations: CalibrationRequest[] = [];
  readonly #world: FakeWorld;

  constructor(world: FakeWorld = {}) {
    this.#world = world;
    this.signal = world.signal ?? new AbortController().signal;
    const columns = world.columns ?? 80;
    const isTTY = world.tty ?? false;
    this.stdout = {
      isTTY,
      columns,
      write: (data): void => {
        if (world.brokenPipe) throw new Deno.errors.BrokenPipe("Broken pipe (os error 32)");
        this.out.push(data);
      },
    };
    this.stderr = { isTTY, columns, write: (data): void => void this.err.push(String(data)) };
  }

  get stdin(): ReadableStream<Uint8Array> {
    const data = this.#world.stdin;
    if (data === undefined) throw new Error("Nobody asked for stdin");
    if (data instanceof ReadableStream) return data;
    return ReadableStream.from([typeof data === "string" ? new TextEncoder().encode(data) : data]);
  }

  env(name: string): string | undefined {
    return this.#world.env?.[name];
  }

  library(): Promise<Library> {
    return Promise.resolve({
      open: (settings): Promise<OpenModel> => {
        this.opened.push(settings);
        return Promise.resolve({
          model: { hash: "0123456789" },
          generate: (request, options) => {
            this.requests.push(request);
            return (this.#world.generate ?? fakeGenerate)(request, options?.signal);
          },
          [Symbol.dispose]: () => void this.closed++,
        });
      },
      calibrate: (settings, request): AsyncGenerator<CalibrationEvent> => {
        this.opened.push(settings);
        this.calibrations.push(request);
        return fakeCalibrate(request);
      },
      planFor: (request) => Promise.resolve({ ...FAKE_PLAN, method: request.method ?? FAKE_PLAN.method }),
      findModel: (name): Promise<{ name: string; folder: string }> => {
        if (name === "mini") return Promise.resolve({ name, folder: "tests/golden/models/mini-2b" });
        throw new ModelError(`No model "${name}"`, { hint: "Run: stagevar ls" });
      },
      listModels: () => Promise.resolve([{ name: "mini", folder: "tests/golden/models/mini-2b" }]),
    });
  }

  /** All text written to stdout. */
  get outText(): string {
    return this.out.map((part) => typeof part === "string" ? part : new TextDecoder().decode(part)).join("");
  }

  /** All text written to stderr. */
  get errText(): string {
    return this.err.join("");
  }
}

/** Three scales: one guided, one reduced, one skipped. Costs are not what these tests are about. */
export const FAKE_PLAN = {
  model: "shapes",
  method: "stagevar",
  methodOptions: {},
  schedule: {
    ratio: 1,
    pixels: "0.06M",
    grids: [{ h: 1, w: 1 }, { h: 8, w: 8 }, { h: 16, w: 16 }],
    last1M: { h: 64, w: 64 },
  },
  width: 128,
  height: 128,
  stages: ["semantic", "fidelity", "fidelity"],
  steps: [
    { kind: "full", rows: "both", guidance: 3, tau: 0.5 },
    {
      kind: "reduced",
      rows: "null",
      guidance: 0,
      tau: 0.5,
      reduce: "project",
      ranks: [7, 21],
      projection: "gaussian",
      rope: "first",
      addUnselected: true,
    },
    { kind: "skip" },
  ],
  topP: 0.97,
  notes: ["Size rounded to 128x128"],
} as unknown as Plan;

async function* fakeGenerate(request: GenerateRequest, signal?: AbortSignal): AsyncGenerator<GenerateEvent> {
  const seed = request.seed ?? 0;
  const batch = request.batch ?? 1;
  const image = { width: 8, height: 8, data: new Uint8Array(192).fill(seed % 256) };
  const model = { name: "shapes", hash: "0123456789", folder: "models/shapes" };
  yield { type: "start", plan: FAKE_PLAN, seed, device: "cpu", model, notices: ["No CUDA device: running on the CPU"] };
  yield { type: "text", tokens: 5, truncated: false, ms: 1 };
  for (const [index, step] of FAKE_PLAN.steps.entries()) {
    await Promise.resolve();
    signal?.throwIfAborted();
    yield {
      type: "scale",
      index,
      grid: FAKE_PLAN.schedule.grids[index]!,
      stage: FAKE_PLAN.stages[index]!,
      step,
      tokensRun: [1, 21, 0][index]!,
      ms: 12.3,
      ...(request.preview ? { previews: Array<typeof image>(batch).fill(image) } : {}),
    };
  }
  for (let index = 0; index < batch; index++) {
    const record = {
      prompt: request.prompt,
      ...(request.negativePrompt === undefined ? {} : { negativePrompt: request.negativePrompt }),
      steps: 3,
      sampler: "VAR",
      cfgScale: 3,
      seed: seed + index,
      width: 8,
      height: 8,
      model: "shapes",
      modelHash: "0123456789",
      method: "stagevar",
      version: "0.1.0",
      request: { ...request, seed: seed + index, batch: 1 },
    };
    const png = await encodePng(image, pngText(record));
    yield { type: "image", index, seed: seed + index, image, png, record };
  }
  const timings = { load: 1, text: 2, transformer: 3000, decode: 4, encode: 5, total: 3015 };
  yield {
    type: "done",
    timings,
    peakMemory: 123_000_000,
    memory: { text: { anonymous: 5e6, mapped: 9e6 } },
    tokenLayers: 100,
    vanillaTokenLayers: 250,
  };
}

async function* fakeCalibrate({ prompts }: CalibrationRequest): AsyncGenerator<CalibrationEvent> {
  for (const [i, prompt] of prompts.entries()) {
    yield await Promise.resolve({ type: "picture" as const, done: i + 1, total: prompts.length, prompt });
  }
  const table = {
    version: 1 as const,
    model: "mini",
    chunks: 1,
    pixels: "0.06M" as const,
    prompts: prompts.length,
    fidelity: 1,
    alphas: { "0.9": { "1": { mean: [0.5] } } },
  };
  yield { type: "ranks", table };
}

/** Runs a command line in a world. */
export async function cli(args: string[], world: FakeWorld = {}): Promise<{ code: number; context: FakeContext }> {
  const context = new FakeContext(world);
  return { code: await main(args, context), context };
}

/** Runs with a folder that goes away; `{}` in an argument stands for it. */
export async function inFolder(
  args: string[],
  world: FakeWorld,
  check: (result: { code: number; context: FakeContext; folder: string }) => void | Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await check({ ...await cli(args.map((arg) => arg.replace("{}", folder)), world), folder });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Names of what is in a folder, sorted. */
export function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
}
