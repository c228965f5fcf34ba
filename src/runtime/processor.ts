/**
 * What the processor's instructions mean for the choice of an arithmetic.
 *
 * @module
 */

/**
 * Whether products of unsigned and signed bytes are summed without saturating (VNNI, AMX): ONNX Runtime then runs signed
 * eight-bit weights right, and on AMX six times as fast as unsigned ones. Older x86 processors saturate at 16 bits
 * (specs/onnxruntime.md C). False where the system does not say.
 *
 * @param cpuinfo text of Linux's /proc/cpuinfo; read from there by default
 * @example
 * ```ts
 * import { sumsSignedBytes } from "@stagevar/stagevar/runtime/processor.ts";
 * import assert from "node:assert/strict";
 * assert(sumsSignedBytes("flags\t\t: fpu avx2 avx512_vnni"));
 * assert(!sumsSignedBytes("flags\t\t: fpu avx2 fma"));
 * ```
 */
export function sumsSignedBytes(cpuinfo: string = readCpuinfo()): boolean {
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.trim().split(/\s+/) ?? [];
  return flags.some((flag) => /^(avx_vnni|avx512_vnni|amx_int8)$/.test(flag));
}

/**
 * Whether products in sixteen bits take longer than in float32: on x86 without those instructions, 1.7 times as long
 * (bench/results/2026-11-27-amd-epyc-avx2.md). False where the system does not say.
 *
 * @param cpuinfo text of Linux's /proc/cpuinfo; read from there by default
 * @example
 * ```ts
 * import { slowInSixteenBits } from "@stagevar/stagevar/runtime/processor.ts";
 * import assert from "node:assert/strict";
 * assert(slowInSixteenBits("flags\t\t: fpu avx2 fma"));
 * assert(!slowInSixteenBits("flags\t\t: fpu avx2 avx_vnni"));
 * assert(!slowInSixteenBits("Features\t: fp asimd")); // not an x86
 * ```
 */
export function slowInSixteenBits(cpuinfo: string = readCpuinfo()): boolean {
  return /^flags\s*:/m.test(cpuinfo) && !sumsSignedBytes(cpuinfo);
}

function readCpuinfo(): string {
  try {
    return Deno.build.os === "linux" ? Deno.readTextFileSync("/proc/cpuinfo") : "";
  } catch {
    return ""; // without permission to read it, the arithmetic that is right everywhere
  }
}
