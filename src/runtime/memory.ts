/**
 * Memory that this process holds, as the operating system counts it.
 *
 * @module
 */

/** Bytes of memory by kind. */
export interface MemoryUse {
  /** Largest resident set so far. */
  readonly peak: number;
  /** Resident now: anonymous pages, which the process must have. */
  readonly anonymous: number;
  /** Resident now: mapped file pages (weights), which the system may drop and read again. */
  readonly mapped: number;
}

/**
 * Resident memory of this process. Where the system does not tell kinds apart (not Linux), all counts as anonymous and the
 * peak is the present.
 *
 * @example
 * ```ts
 * import { memoryUse } from "@stagevar/stagevar/runtime/memory.ts";
 * import assert from "node:assert/strict";
 * const { peak, anonymous } = memoryUse();
 * assert(peak >= anonymous && anonymous > 0);
 * ```
 */
export function memoryUse(): MemoryUse {
  const { rss } = Deno.memoryUsage();
  let status = "";
  try {
    if (Deno.build.os === "linux") status = Deno.readTextFileSync("/proc/self/status");
  } catch {
    // Without permission to read it the resident set is what there is.
  }
  const field = (name: string): number | undefined => {
    const kilobytes = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1];
    return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
  };
  return {
    peak: Math.max(rss, field("VmHWM") ?? 0),
    anonymous: field("RssAnon") ?? rss,
    mapped: field("RssFile") ?? 0,
  };
}

/** The largest amounts of memory seen at one time or another during a phase. */
export interface MemoryPeak {
  /** Bytes of anonymous pages. */
  readonly anonymous: number;
  /** Bytes of mapped file pages that were resident. */
  readonly mapped: number;
}

/** Milliseconds between two looks; reading /proc takes 0.02. */
const LOOK_EVERY = 25;

/**
 * Watches the memory of this process, until stopped, by looking at it now and then: runs go on in the background, so that
 * timers fire.
 *
 * @returns stops watching and gives the peaks
 * @example
 * ```ts
 * import { watchMemory } from "@stagevar/stagevar/runtime/memory.ts";
 * import assert from "node:assert/strict";
 * const stop = watchMemory();
 * const held = new Uint8Array(64e6).fill(1);
 * assert(stop().anonymous > held.length);
 * ```
 */
export function watchMemory(): () => MemoryPeak {
  const peak = { anonymous: 0, mapped: 0 };
  const look = (): void => {
    const { anonymous, mapped } = memoryUse();
    peak.anonymous = Math.max(peak.anonymous, anonymous);
    peak.mapped = Math.max(peak.mapped, mapped);
  };
  look();
  const timer = setInterval(look, LOOK_EVERY);
  Deno.unrefTimer(timer);
  return () => {
    clearInterval(timer);
    look();
    return peak;
  };
}
