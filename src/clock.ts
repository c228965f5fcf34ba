/**
 * Where the time and memory of one request go, phase by phase.
 *
 * @module
 */
import type { Phase, Timings } from "./request.ts";
import { type MemoryPeak, watchMemory } from "./runtime/memory.ts";
import { spanning, type Trace } from "./runtime/trace.ts";

/**
 * Milliseconds and peaks of memory by phase; phases may come back, and their times add up.
 *
 * @example
 * ```ts
 * import { Clock } from "@stagevar/stagevar/clock.ts";
 * import assert from "node:assert/strict";
 * const clock = new Clock();
 * await clock.time("text", () => new Promise((resolve) => setTimeout(resolve, 5)));
 * const { text, decode } = clock.finish(0);
 * assert(text > 0 && decode === 0 && clock.memory.text!.anonymous > 0);
 * ```
 */
export class Clock {
  /** Milliseconds so far. */
  readonly spent: Timings = { load: 0, text: 0, transformer: 0, decode: 0, encode: 0, total: 0 };
  /** Peaks so far. */
  readonly memory: Partial<Record<Phase, MemoryPeak>> = {};
  readonly #trace: Trace | undefined;
  readonly #started = performance.now();

  /** Starts the clock of the whole; the trace is told of every phase. */
  constructor(trace?: Trace) {
    this.#trace = trace;
  }

  /** Runs the work of a phase. */
  async time<T>(phase: Phase, work: () => Promise<T>): Promise<T> {
    const stop = this.watch(phase);
    const started = performance.now();
    try {
      return await spanning(this.#trace, phase, "phase", work);
    } finally {
      this.spent[phase] += performance.now() - started;
      stop();
    }
  }

  /** Watches the memory of a phase until the function that comes back is called. */
  watch(phase: Phase): () => void {
    const stop = watchMemory();
    return () => {
      const { anonymous, mapped } = stop();
      const before = this.memory[phase];
      this.memory[phase] = {
        anonymous: Math.max(anonymous, before?.anonymous ?? 0),
        mapped: Math.max(mapped, before?.mapped ?? 0),
      };
    };
  }

  /** All times, with what was spent on loading before. */
  finish(loadMs: number): Timings {
    return { ...this.spent, load: this.spent.load + loadMs, total: performance.now() - this.#started + loadMs };
  }
}
