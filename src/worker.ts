/**
 * What a thread of {@linkcode Workers} runs: one task after the other, as they come.
 *
 * @module
 */
/// <reference lib="deno.worker" />
import { runTask, type Task } from "./tasks.ts";

self.postMessage({ id: -1 }); // it runs
self.onmessage = ({ data: { id, task } }: MessageEvent<{ id: number; task: Task }>) => {
  try {
    const result = runTask(task);
    self.postMessage({ id, result }, [result.buffer]);
  } catch (error) {
    self.postMessage({ id, message: String(error) }); // the task is done again, where its error is heard
  }
};
