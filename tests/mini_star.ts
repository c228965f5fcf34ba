/** The miniature STAR model of the golden cases: copies of it that a test may change, and what an engine does with it. */
import { join } from "node:path";
import type { Engine, GenerateOptions } from "../src/engine.ts";
import { openStar } from "../src/models/star/model.ts";
import type { EngineRequest } from "../src/prepare.ts";
import type { RankTable } from "../src/presets.ts";
import type { GenerateEvent } from "../src/request.ts";

/** Its folder. */
export const MINI_STAR = join(import.meta.dirname!, "golden-star", "models", "mini-star");

/** Ranks of it that nobody measured: the last scale takes 8 to 20 pseudo-tokens a block, the one before runs in full on one row. */
export const MINI_STAR_RANKS: RankTable = {
  version: 1,
  model: "mini-star",
  chunks: 6,
  pixels: "0.06M",
  prompts: 1,
  fidelity: 2,
  defaultAlpha: [1, 0.9],
  alphas: { "0.9": { "1": { mean: [0.25, 0.3, 0.4, 0.6, 0.5, 0.35] } } },
};

/** Gives `work` a copy of mini-star whose files a test may spoil. */
export async function withCopyOfMiniStar(work: (folder: string) => Promise<void>): Promise<void> {
  const parent = await Deno.makeTempDir();
  try {
    const folder = join(parent, "mini-star");
    await copy(MINI_STAR, folder);
    await work(folder);
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
}

/** Gives `work` a copy of mini-star with {@linkcode MINI_STAR_RANKS} beside it. */
export async function withRankedMiniStar(work: (folder: string) => Promise<void>): Promise<void> {
  await withCopyOfMiniStar(async (folder) => {
    const modelHash = (await openStar(folder)).hash;
    await Deno.writeTextFile(join(folder, "ranks.json"), JSON.stringify({ ...MINI_STAR_RANKS, modelHash }));
    await work(folder);
  });
}

async function copy(from: string, to: string): Promise<void> {
  await Deno.mkdir(to);
  for await (const { name, isDirectory } of Deno.readDir(from)) {
    await (isDirectory ? copy : Deno.copyFile)(join(from, name), join(to, name));
  }
}

/** What is drawn where a test does not care. */
export const PROMPT = "a red circle left of a blue square";

/** What a test asks for otherwise. */
export type Change = Partial<EngineRequest>;

/** All that happens while an engine draws {@linkcode PROMPT} with seed 5, or what a test changes of that. */
export async function events(
  engine: Engine,
  change: Change = {},
  options: GenerateOptions = {},
): Promise<GenerateEvent[]> {
  return await Array.fromAsync(engine.generate({ prompt: PROMPT, seed: 5, ...change }, options));
}

type Of<T extends GenerateEvent["type"]> = Extract<GenerateEvent, { type: T }>;

/** The events of one type. */
export function of<T extends GenerateEvent["type"]>(all: readonly GenerateEvent[], type: T): Of<T>[] {
  return all.filter((event): event is Of<T> => event.type === type);
}
