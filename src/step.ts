/**
 * What happens at one scale: the word between methods, which choose it, and the loop, which does it.
 *
 * Knows no tensors; plain JSON-able data.
 *
 * @module
 */

/** What a scale is for (stagevar.md §1): meaning, layout, detail. */
export type Stage = "semantic" | "structure" | "fidelity";

/** The conditional row of the batch, which knows the prompt, or the null row. */
export type RowKind = "cond" | "null";

/** Every token of the scale goes through every block. */
export interface FullStep {
  /** Discriminator. */
  kind: "full";
  /**
   * Batch rows that run: conditional and null, or one of them alone. A row that stops running never comes back: KV
   * caches, text and cached chunk outputs are cut to the other one from here on.
   */
  rows: "both" | RowKind;
  /** g in g * conditional + (1 - g) * null logits; 1 = the conditional row's own, 0 = the null row's own. */
  guidance: number;
  /** Temperature the logits are divided by; 0 = greedy, bit = [guided logit difference > 0] (infinity.md §4.3). */
  tau: number;
}

/** Fewer rows of X go through the blocks, of one batch row; the rest comes from the cached chunk outputs (stagevar.md §3). */
export interface ReducedStep {
  /** Discriminator. */
  kind: "reduced";
  /** The null row, where the prompt plays no part any more (the released code), or the conditional one (star.md §15, V-cond). */
  rows: RowKind;
  /** As a full step on that row alone: 0 on the null row, 1 on the conditional one. */
  guidance: 0 | 1;
  /** As in a full step. */
  tau: number;
  /**
   * `project`: r mixtures Q^T X, restored at the indices I (the method); `select`: the rows X[I] themselves (control c);
   * `cache`: no block runs, the chunk's output is the upsampled cached one (control b).
   */
  reduce: "project" | "select" | "cache";
  /** Rank r of every chunk, 1..tokens; empty for `cache`. */
  ranks: number[];
  /** Q: dense N(0, 1/r), or signs +-1/sqrt(r). Only `project` draws it. */
  projection: "gaussian" | "sign";
  /** Positions of the pseudo-tokens: the first r of the scale's RoPE table, or those at I. Nothing to place at `cache`. */
  rope: "first" | "indices";
  /** False: only the rows in I of the last chunk add their code to the running sum (control d). */
  addUnselected: boolean;
}

/** Nothing runs and nothing is added: the running sum goes on as it is. */
export interface SkipStep {
  /** Discriminator. */
  kind: "skip";
}

/** What happens at one scale. */
export type Step = FullStep | ReducedStep | SkipStep;
