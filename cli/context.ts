/**
 * What a command may touch of the world: two writers, stdin, the environment, an abort signal and the library.
 * Tests build their own and run commands in-process; {@linkcode processContext} is the real one.
 *
 * @module
 */
import type { CalibrationEvent, CalibrationRequest } from "../src/calibrate.ts";
import type { FoundModel } from "../src/models/registry.ts";
import type { GenerateEvent, GenerateRequest } from "../src/request.ts";
import type { Plan } from "../src/plan.ts";

/** Somewhere to write: a terminal, a pipe or a file. */
export interface Sink {
  /** Writes all of it before returning. */
  write(data: string | Uint8Array): void;
  /** Whether a person is looking: bars and colours make sense. */
  readonly isTTY: boolean;
  /** Width of the terminal in characters, 80 where there is none. */
  readonly columns: number;
}

/** A model held ready on a device; disposing frees it. */
export interface OpenModel extends Disposable {
  /** Its identity. */
  readonly model: { readonly hash: string };
  /** Runs a request, event by event. */
  generate(request: GenerateRequest, options?: { signal?: AbortSignal }): AsyncGenerator<GenerateEvent>;
}

/** What of a request belongs to the opened model rather than to a picture. */
export type OpenSettings = Pick<GenerateRequest, "model" | "device" | "threads" | "dtype" | "lowMemory">;

/** Told how many of how many weights are copied, while a dtype's copies are made beside the model. */
export type CopyProgress = (done: number, total: number) => void;

/** The library as commands see it. */
export interface Library {
  /** Opens the model and device that settings name. */
  open(settings: OpenSettings, progress?: CopyProgress): Promise<OpenModel>;
  /** Says what a request would run, from the model's headers alone; of the prompt only the length matters. */
  planFor(request: Omit<GenerateRequest, "prompt"> & { prompt?: string }): Promise<Plan>;
  /** Opens a model and measures its ranks. */
  calibrate(settings: OpenSettings, request: CalibrationRequest): AsyncGenerator<CalibrationEvent>;
  /** Finds a model by name or folder, or throws ModelError. */
  findModel(nameOrFolder: string): Promise<FoundModel>;
  /** Lists the models of the models folders. */
  listModels(): Promise<FoundModel[]>;
}

/** Everything a command needs besides its own words and flags. */
export interface Context {
  /** Results only. */
  readonly stdout: Sink;
  /** Progress, notices and errors. */
  readonly stderr: Sink;
  /** Read only where a person asked for it with `-`. */
  readonly stdin: ReadableStream<Uint8Array>;
  /** One variable of the environment. */
  env(name: string): string | undefined;
  /** Aborted by the first SIGINT. */
  readonly signal: AbortSignal;
  /** Loads the library, which `--help` and `info` never need. */
  library(): Promise<Library>;
}

/** The writer over a standard stream; a closed stderr is ignored, a closed stdout throws BrokenPipe and ends the run. */
function sink(stream: typeof Deno.stdout, ignoreBrokenPipe: boolean): Sink {
  return {
    write(data): void {
      let bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
      try {
        while (bytes.length > 0) bytes = bytes.subarray(stream.writeSync(bytes));
      } catch (error) {
        if (!(ignoreBrokenPipe && error instanceof Deno.errors.BrokenPipe)) throw error;
      }
    },
    get isTTY(): boolean {
      return stream.isTerminal();
    },
    get columns(): number {
      try {
        return Deno.consoleSize().columns;
      } catch {
        return 80;
      }
    },
  };
}

/** The context of this process. The first SIGINT aborts the signal so that nothing is left half done; the second kills. */
export function processContext(): Context {
  const controller = new AbortController();
  Deno.addSignalListener("SIGINT", () => {
    if (controller.signal.aborted) Deno.exit(130);
    controller.abort();
  });
  return {
    stdout: sink(Deno.stdout, false),
    stderr: sink(Deno.stderr, true),
    get stdin(): ReadableStream<Uint8Array> {
      return Deno.stdin.readable;
    },
    env: (name) => Deno.env.get(name),
    signal: controller.signal,
    async library(): Promise<Library> {
      const { calibrate, Engine, findModel, listModels, planFor } = await import("../mod.ts");
      return {
        open: (settings, progress) => Engine.open({ ...settings, ...progress && { progress } }),
        async *calibrate(settings, request): AsyncGenerator<CalibrationEvent> {
          using engine = await Engine.open(settings);
          yield* calibrate(engine, request);
        },
        findModel,
        listModels,
        planFor,
      };
    },
  };
}
