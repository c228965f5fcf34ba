/**
 * Times every graph that is loaded and every run, by a runtime around the runtime: nothing is in the way when it is off.
 *
 * @module
 */
import type { Graph } from "../graph/graph.ts";
import type { DeviceSession, Runtime } from "./runtime.ts";

/** Something that took time. */
export interface Span {
  /** Name of the phase, scale or graph. */
  readonly name: string;
  /** What it is. */
  readonly kind: "phase" | "scale" | "load" | "run";
  /** When it began, as `performance.now()` has it. */
  readonly start: number;
  /** Milliseconds. */
  readonly ms: number;
}

/** Is told of every span when it has ended. */
export type Trace = (span: Span) => void;

/**
 * Runs work and tells the trace how long it took, also when it fails.
 *
 * @example
 * ```ts
 * import { type Span, spanning } from "@stagevar/stagevar/runtime/trace.ts";
 * import assert from "node:assert/strict";
 * const spans: Span[] = [];
 * assert.equal(await spanning((span) => spans.push(span), "sum", "phase", () => Promise.resolve(3)), 3);
 * assert.deepEqual(spans.map(({ name }) => name), ["sum"]);
 * ```
 */
export async function spanning<T>(
  trace: Trace | undefined,
  name: string,
  kind: Span["kind"],
  work: () => Promise<T>,
): Promise<T> {
  const start = performance.now();
  try {
    return await work();
  } finally {
    trace?.({ name, kind, start, ms: performance.now() - start });
  }
}

/**
 * A runtime that tells of every load and run.
 *
 * @example
 * ```ts
 * import { Graph } from "@stagevar/stagevar/graph/graph.ts";
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import { floatTensor } from "@stagevar/stagevar/runtime/runtime.ts";
 * import { type Span, tracedRuntime } from "@stagevar/stagevar/runtime/trace.ts";
 * import assert from "node:assert/strict";
 * const spans: Span[] = [];
 * using runtime = tracedRuntime(openNative(), (span) => spans.push(span));
 * const graph = new Graph("negate");
 * graph.output("y", graph.op("Neg", [graph.input("x", "F32", ["n"])]), "F32", ["n"]);
 * using session = await runtime.createSession(graph);
 * await session.run({ x: floatTensor(Float32Array.of(1), [1]) }, { y: floatTensor(new Float32Array(1), [1]) });
 * assert.deepEqual(spans.map(({ kind, name }) => `${kind} ${name}`), ["load negate", "run negate"]);
 * ```
 */
export function tracedRuntime(runtime: Runtime, trace: Trace): Runtime {
  const load = runtime.createDeviceSession;
  return {
    ...load && {
      async createDeviceSession(graph: Graph, repeated?: boolean): Promise<DeviceSession> {
        const session = await spanning(trace, graph.name, "load", () => load(graph, repeated));
        return {
          run: (...args) => spanning(trace, graph.name, "run", () => session.run(...args)),
          runKeeping: (...args) => spanning(trace, graph.name, "run", () => session.runKeeping(...args)),
          [Symbol.dispose]: () => session[Symbol.dispose](),
        };
      },
    },
    upload: runtime.upload,
    device: runtime.device,
    version: runtime.version,
    form: runtime.form,
    async createSession(graph, residency) {
      const session = await spanning(trace, graph.name, "load", () => runtime.createSession(graph, residency));
      return {
        run: (inputs, outputs, signal) =>
          spanning(trace, graph.name, "run", () => session.run(inputs, outputs, signal)),
        [Symbol.dispose]: () => session[Symbol.dispose](),
      };
    },
    [Symbol.dispose]: () => runtime[Symbol.dispose](),
  };
}

/** Rows of the trace's picture, one a kind; loads overlap each other. */
const TRACKS: readonly Span["kind"][] = ["phase", "scale", "run", "load"];

/**
 * Spans as a Chrome trace, for chrome://tracing or ui.perfetto.dev.
 *
 * @example
 * ```ts
 * import { chromeTrace } from "@stagevar/stagevar/runtime/trace.ts";
 * import assert from "node:assert/strict";
 * const { traceEvents } = JSON.parse(chromeTrace([{ name: "text", kind: "phase", start: 2, ms: 1.5 }]));
 * assert.deepEqual(traceEvents.at(-1), { name: "text", cat: "phase", ph: "X", ts: 0, dur: 1500, pid: 1, tid: 1 });
 * ```
 */
export function chromeTrace(spans: readonly Span[]): string {
  const zero = Math.min(...spans.map(({ start }) => start));
  const names = TRACKS.map((kind, i) => ({ name: "thread_name", ph: "M", pid: 1, tid: i + 1, args: { name: kind } }));
  const events = spans.map(({ name, kind, start, ms }) => ({
    name,
    cat: kind,
    ph: "X",
    ts: Math.round((start - zero) * 1000),
    dur: Math.round(ms * 1000),
    pid: 1,
    tid: TRACKS.indexOf(kind) + 1,
  }));
  return JSON.stringify({ traceEvents: [...names, ...events], displayTimeUnit: "ms" });
}
