/**
 * Threads for work beside the device. They start when there is something to do, and end when there was nothing for a while: a
 * thread keeps its program running. (node:worker_threads has threads that do not, and takes 20 ms for 256 KiB.)
 *
 * @module
 */
import { type ResultOf, runTask, type Task } from "./tasks.ts";

/** Milliseconds after which threads without work end. */
const IDLE = 1000;

/** More would wait for each other's memory. */
const MOST = 16;

interface Job {
  readonly id: number;
  readonly task: Task;
  readonly done: (result: ResultOf<Task>) => void;
  readonly fail: (error: unknown) => void;
}

interface Thread {
  readonly worker: Worker;
  job: Job | undefined;
  /** Whether it has answered: one that is starting takes longer than most tasks. */
  ready: boolean;
}

/**
 * A pool of threads. What a thread cannot do, because it may not start or has died, is done here.
 *
 * @example
 * ```ts
 * import { Workers } from "@stagevar/stagevar/workers.ts";
 * import assert from "node:assert/strict";
 * using workers = new Workers(2);
 * const stream = { seed: 1, purpose: "projection", scale: 0, chunk: 0 } as const;
 * const q = await workers.run({ type: "projection", kind: "gaussian", stream, rows: 4, rank: 2 });
 * assert.equal(q.length, 8);
 * ```
 */
export class Workers implements Disposable {
  readonly #most: number;
  readonly #threads = new Set<Thread>();
  readonly #waiting: Job[] = [];
  #count = 0;
  #kept = 0; // callers who want threads soon
  #broken = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** No thread at first. */
  constructor(most: number = Math.max(1, Math.min(MOST, navigator.hardwareConcurrency - 1))) {
    this.#most = most;
  }

  /** Threads that have nothing to do and are known to run. */
  get idle(): number {
    return [...this.#threads].filter(({ ready, job }) => ready && !job).length;
  }

  /**
   * Starts threads for what is to come, and keeps all of them until the returned object is disposed.
   *
   * @param count at least so many, where as many may be
   */
  ready(count: number): Disposable {
    while (!this.#broken && this.#threads.size < count && this.#start());
    this.#kept++;
    clearTimeout(this.#timer);
    return {
      [Symbol.dispose]: () => {
        this.#kept--;
        this.#rest();
      },
    };
  }

  /** Does a task in the next thread that is free. */
  run<T extends Task>(task: T): Promise<ResultOf<T>> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ id: this.#count++, task, done: resolve as Job["done"], fail: reject });
      this.#assign();
    });
  }

  /** Ends the threads; what they were doing is done here. */
  [Symbol.dispose](): void {
    this.#broken = true;
    this.#end();
    this.#assign();
  }

  #assign(): void {
    while (this.#waiting.length > 0) {
      if (this.#broken) {
        this.#doHere(this.#waiting.shift()!);
        continue;
      }
      const thread = [...this.#threads].find(({ job }) => !job) ?? this.#start();
      if (!thread && !this.#broken) return;
      if (!thread) continue;
      thread.job = this.#waiting.shift()!;
      clearTimeout(this.#timer);
      const { id, task } = thread.job;
      thread.worker.postMessage({ id, task });
    }
  }

  /** One thread more; undefined where there are enough, or none can be had. */
  #start(): Thread | undefined {
    if (this.#threads.size === this.#most) return undefined;
    const script = new URL("./worker.ts", import.meta.url);
    if (!mayLoad(script)) { // the thread would end with a message on the terminal
      this.#broken = true;
      return undefined;
    }
    try {
      const worker = new Worker(script, { type: "module" });
      const thread: Thread = { worker, job: undefined, ready: false };
      worker.onmessage = ({ data: { id, result } }: MessageEvent<{ id: number; result?: ResultOf<Task> }>) => {
        const { job } = thread;
        thread.ready = true;
        if (job?.id !== id) return;
        thread.job = undefined;
        result === undefined ? this.#doHere(job) : job.done(result); // here, what fails says so
        this.#assign();
        this.#rest();
      };
      worker.onerror = (event) => {
        event.preventDefault(); // else it ends the program
        this.#broken = true; // it would happen again
        this.#end();
        this.#assign();
      };
      this.#threads.add(thread);
      return thread;
    } catch {
      this.#broken = true;
      return undefined;
    }
  }

  /** Ends all threads a while after the last task. */
  #rest(): void {
    clearTimeout(this.#timer);
    if (this.#kept > 0 || [...this.#threads].some(({ job }) => job)) return;
    this.#timer = setTimeout(() => this.#end(), IDLE);
  }

  #end(): void {
    clearTimeout(this.#timer);
    for (const thread of this.#threads) this.#bury(thread);
  }

  #bury(thread: Thread): void {
    this.#threads.delete(thread);
    thread.worker.terminate();
    if (thread.job) this.#doHere(thread.job);
  }

  #doHere({ task, done, fail }: Job): void {
    try {
      done(runTask(task));
    } catch (error) {
      fail(error);
    }
  }
}

/** Whether the script and all that it imports may be read. */
function mayLoad(script: URL): boolean {
  if (script.protocol !== "file:") return true;
  return ["./", "../core_rs/pkg/"].every((folder) =>
    Deno.permissions.querySync({ name: "read", path: new URL(folder, script) }).state === "granted"
  );
}
