/**
 * How much memory this process may still take: before gigabytes are touched, since a system that runs out kills without a
 * word.
 *
 * @module
 */

/** Reads a small text file; undefined where there is none. Tests give their own. */
export type ReadText = (path: string) => string | undefined;

const readFile: ReadText = (path) => {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined; // not Linux, no such controller, or no permission
  }
};

/**
 * Bytes of anonymous memory that can still be had: what the system has to give, and what the process's control group (a
 * container's limit, version 2) leaves of it. File pages do not count: the system takes them back.
 *
 * @example
 * ```ts
 * import { availableMemory } from "@stagevar/stagevar/runtime/available_memory.ts";
 * import assert from "node:assert/strict";
 * const container: Record<string, string> = {
 *   "/proc/self/cgroup": "0::/box\n",
 *   "/sys/fs/cgroup/box/memory.max": "3000000000\n",
 *   "/sys/fs/cgroup/box/memory.stat": "anon 1000000000\nfile 500000000\n",
 * };
 * assert.equal(availableMemory(8e9, (path) => container[path]), 2e9);
 * assert.equal(availableMemory(1e9, (path) => container[path]), 1e9);
 * ```
 */
export function availableMemory(
  system: number = Deno.systemMemoryInfo().available,
  read: ReadText = Deno.build.os === "linux" ? readFile : () => undefined,
): number {
  const group = /^0::(\/.*)$/m.exec(read("/proc/self/cgroup") ?? "")?.[1];
  let available = system;
  // A limit of any group above counts as well; inside a container the root of the tree is the container's own.
  for (let path = group; path !== undefined; path = parentOf(path)) {
    const folder = `/sys/fs/cgroup${path === "/" ? "" : path}`;
    const limit = Number(read(`${folder}/memory.max`)?.trim() ?? "max"); // NaN for "max"
    const used = Number(/^anon (\d+)$/m.exec(read(`${folder}/memory.stat`) ?? "")?.[1] ?? 0);
    if (limit - used < available) available = Math.max(0, limit - used);
  }
  return available;
}

function parentOf(path: string): string | undefined {
  return path === "/" ? undefined : path.slice(0, Math.max(1, path.lastIndexOf("/")));
}
