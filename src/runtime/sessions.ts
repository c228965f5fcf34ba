/**
 * The loaded graphs of one model part: each is created when it is first asked for, and all are freed together.
 *
 * @module
 */
import { FEW_ROWS, type RowCount } from "../graph/form.ts";
import type { Residency, Runtime, Session } from "./runtime.ts";

/**
 * Sessions by key.
 *
 * @example
 * ```ts
 * import { Graph } from "@stagevar/stagevar/graph/graph.ts";
 * import { openNative } from "@stagevar/stagevar/runtime/native.ts";
 * import { Sessions } from "@stagevar/stagevar/runtime/sessions.ts";
 * import assert from "node:assert/strict";
 * using runtime = openNative();
 * using sessions = new Sessions();
 * const load = () => {
 *   const graph = new Graph("same");
 *   graph.output("y", graph.input("x", "F32", ["n"]), "F32", ["n"]);
 *   return runtime.createSession(graph);
 * };
 * assert.equal(await sessions.get("same", load), await sessions.get("same", load));
 * ```
 */
export class Sessions<S extends Session = Session> implements Disposable {
  readonly #known = new Map<string, Promise<S>>();

  /** The session of a key, created where there is none; one that failed to load is tried again when it is next asked for. */
  get(key: string, create: () => Promise<S>): Promise<S> {
    let session = this.#known.get(key);
    if (!session) {
      session = create();
      this.#known.set(key, session);
      const loading = session;
      loading.catch(() => this.#known.get(key) === loading && this.#known.delete(key));
    }
    return session;
  }

  /** Frees the sessions whose key ends so. */
  release(ending: string): void {
    for (const [key, session] of this.#known) {
      if (!key.endsWith(ending)) continue;
      session.then((open) => open[Symbol.dispose](), () => {});
      this.#known.delete(key);
    }
  }

  /** Frees all. */
  [Symbol.dispose](): void {
    this.release("");
  }
}

/**
 * Which graphs some rows go through: those for few rows are for weights that a CPU reads from their file (see FEW_ROWS).
 *
 * @example
 * ```ts
 * import { rowCountOf } from "@stagevar/stagevar/runtime/sessions.ts";
 * import assert from "node:assert/strict";
 * assert.equal(rowCountOf({ device: "cpu" }, "mapped", 8), "few");
 * assert.equal(rowCountOf({ device: "cpu" }, "packed", 8), "many");
 * ```
 */
export function rowCountOf({ device }: Pick<Runtime, "device">, residency: Residency, rows: number): RowCount {
  return device === "cpu" && residency === "mapped" && rows <= FEW_ROWS ? "few" : "many";
}
