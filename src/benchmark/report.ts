/**
 * What a bench run says: one JSON-able report, its Markdown tables, and the machine it came from.
 *
 * @module
 */
import { cpus } from "node:os";
import { basename } from "node:path";
import { type Measured, PARTS, type Sample, type SampleRequest } from "./sample.ts";

/** The machine, without its name. */
export interface Machine {
  /** What the processor calls itself. */
  readonly cpu: string;
  /** Threads that run at once. */
  readonly cores: number;
  /** Bytes. */
  readonly memory: number;
  /** System, its release and processor type. */
  readonly os: string;
  /** Version of Deno. */
  readonly deno: string;
  /** Mean number of processes that wanted a core in the minute before: others than this one slow it down. */
  readonly load: number;
}

/** Share of pictures that follow their prompts, where `stagevar eval` has measured it. */
export interface Quality {
  /** Percent right, mean of the tasks. */
  readonly mean: number;
  /** Its standard error. */
  readonly error: number;
}

/** One configuration: what was asked, and what came of it. */
export interface BenchRow {
  /** Settings of the pictures. */
  readonly settings: SampleRequest["settings"];
  /** What was measured; absent where it could not be run. */
  readonly sample?: Sample;
  /** Why it could not be run. */
  readonly error?: string;
  /** How good its pictures are; absent where nobody measured that. */
  readonly quality?: Quality;
}

/** Everything that was measured: the output of `-o json`. */
export interface BenchReport {
  /** Says what this is. */
  readonly bench: "stagevar";
  /** Version of this program. */
  readonly version: string;
  /** ISO 8601 date and time, UTC. */
  readonly date: string;
  /** Where. */
  readonly machine: Machine;
  /** One a configuration. */
  readonly rows: readonly BenchRow[];
  /** What the numbers leave out. */
  readonly notTimed: readonly string[];
}

/** What the numbers leave out. */
export const NOT_TIMED: readonly string[] = [
  "Reading weights from a cold disk, where a warm-up has read them",
  'Building graphs and packing weights, where a warm-up has: "first picture" has them',
  "How good the pictures are, where the quality column is empty: stagevar eval measures it for shapes",
];

/**
 * Describes this machine.
 *
 * @example
 * ```ts
 * import { describeMachine } from "@stagevar/stagevar/benchmark/report.ts";
 * import assert from "node:assert/strict";
 * assert(describeMachine().cores > 0);
 * ```
 */
export function describeMachine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: navigator.hardwareConcurrency,
    memory: Deno.systemMemoryInfo().total,
    os: `${Deno.build.os} ${Deno.osRelease().split("-")[0]} ${Deno.build.arch}`,
    deno: Deno.version.deno,
    load: Deno.loadavg()[0]!,
  };
}

/**
 * The report as Markdown: a table of pictures, one of phases, one of scales for each size, what is not in them, the machine.
 *
 * @example
 * ```ts
 * import { describeMachine, renderReport } from "@stagevar/stagevar/benchmark/report.ts";
 * import assert from "node:assert/strict";
 * const rows = [{ settings: { method: "vanilla", device: "cuda" as const }, error: "No CUDA" }];
 * const report = { bench: "stagevar", version: "0", date: "", machine: describeMachine(), rows, notTimed: [] } as const;
 * assert.match(renderReport(report), /vanilla, f32, cuda: No CUDA/);
 * ```
 */
export function renderReport({ rows, machine, notTimed, version, date }: BenchReport): string {
  const { cpu, cores, memory, os, deno, load } = machine;
  const measured = rows.filter((row): row is MeasuredRow => row.sample !== undefined);
  const failed = rows.filter(({ error }) => error !== undefined);
  const rates = [...Map.groupBy(measured, ({ sample }) => sample.gemm)].map(([product, rows]) =>
    `A ${product} runs at ${[...new Set(rows.map(({ sample }) => sample.gemmRate.toFixed(0)))].join(", ")} GFLOP/s.\n`
  );
  return [
    ...measured.length > 0 ? [renderPictures(measured), renderPhases(measured), ...renderScales(measured)] : [],
    ...failed.length > 0 ? [failed.map((row) => `* Not run: ${label(row, KEYS)}: ${row.error}\n`).join("")] : [],
    ...notTimed.length > 0 ? [notTimed.map((line) => `* Not timed: ${line}\n`).join("")] : [],
    ...rates,
    `${cpu}, ${cores} cores, ${(memory / 1e9).toFixed(1)} GB, ${os}, load ${load.toFixed(1)} at the start; stagevar ` +
    `${version}, Deno ${deno}, ${measured[0]?.sample.runtime ?? "nothing run"}, ${date}\n`,
  ].join("\n");
}

type MeasuredRow = BenchRow & { readonly sample: Sample };

/** Settings that tell configurations apart, as columns. */
const KEYS = ["model", "size", "batch", "method", "dtype", "threads", "device", "lowMemory"] as const;
type Key = typeof KEYS[number];

function setting({ settings, sample }: BenchRow, key: Key): string {
  switch (key) {
    case "model":
      return sample?.model ?? basename(settings.model ?? "shapes"); // a report is to be shown around, folders are not
    case "size":
      return sample ? sample.size.join("x") : [settings.pixels, settings.aspect].filter(Boolean).join(" ");
    case "device":
      return sample?.device ?? settings.device ?? "auto";
    case "lowMemory":
      return settings.lowMemory ? "low memory" : "";
    case "dtype":
      return sample?.dtype ?? settings.dtype ?? "f32";
    case "threads":
      return settings.threads === undefined ? "" : `${settings.threads} threads`;
    case "batch":
      return settings.batch === undefined || settings.batch === 1 ? "" : `${settings.batch} pictures`;
    case "method":
      return settings.method;
  }
}

/** Keys whose value is not the same in all rows. */
function varying(rows: readonly BenchRow[]): Key[] {
  return KEYS.filter((key) => key === "method" || new Set(rows.map((row) => setting(row, key))).size > 1);
}

function label(row: BenchRow, keys: readonly Key[]): string {
  return keys.map((key) => setting(row, key)).filter((text) => text !== "").join(", ");
}

/** The first row of the same model, size and batch: what the others are compared with. */
function baseOf(row: MeasuredRow, rows: readonly MeasuredRow[]): MeasuredRow {
  const group = (["model", "size", "batch"] as const).map((key) => setting(row, key)).join();
  return rows.find((other) =>
    (["model", "size", "batch"] as const).map((key) => setting(other, key)).join() === group
  )!;
}

function renderPictures(rows: readonly MeasuredRow[]): string {
  const keys = varying(rows);
  const constant = KEYS.filter((key) => !keys.includes(key)).map((key) => setting(rows[0]!, key)).filter(Boolean);
  const unit = unitOf(rows.flatMap(({ sample }) => sample.parts.whole!.ms.runs));
  const parts = PARTS.filter((part) => part !== "load");
  const cells = rows.map((row) => {
    const { sample, quality } = row;
    const base = baseOf(row, rows).sample;
    const faster = (part: string): string => `${(base.parts[part]!.ms.mean / sample.parts[part]!.ms.mean).toFixed(2)}x`;
    return [
      ...keys.map((key) => setting(row, key)),
      ...parts.map((part) => spread(sample.parts[part]!.ms, unit)),
      faster("transformer"),
      faster("whole"),
      `${(sample.vanillaTokenLayers / sample.tokenLayers).toFixed(2)}x`,
      quality ? `${quality.mean.toFixed(1)} ± ${quality.error.toFixed(1)}` : "-",
      inUnit(sample.firstPicture, unit),
    ];
  });
  const head = [
    ...keys,
    ...parts,
    "transformer faster",
    "whole faster",
    "token-layers less",
    "quality",
    "first picture",
  ];
  const runs = rows[0]!.sample.parts.whole!.ms.runs.length;
  return `${
    constant.join(", ")
  }: ${unit.name}, mean ± standard deviation of ${runs}; faster than the first of the same ` +
    `size; quality in percent of prompts followed\n\n${markdownTable(head, cells, keys.length)}`;
}

function renderPhases(rows: readonly MeasuredRow[]): string {
  const keys = varying(rows);
  const cells = rows.map((row) => {
    const { parts, gemmRate } = row.sample;
    return [
      ...keys.map((key) => setting(row, key)),
      ...(["text", "transformer", "decode", "whole"] as const).map((part) => {
        const { flops, ms } = parts[part]!;
        if (flops === undefined) return "-";
        const rate = flops / ms.mean / 1e6;
        return `${rate.toFixed(0)} (${(100 * rate / gemmRate).toFixed(0)} %)`;
      }),
      ...(["text", "transformer", "decode"] as const).map((part) => {
        const { anonymous, mapped } = parts[part]!.memory!;
        return `${(anonymous / 1e9).toFixed(2)} + ${(mapped / 1e9).toFixed(2)}`;
      }),
    ];
  });
  const head = [
    ...keys,
    ...["text", "transformer", "decode", "whole"].map((part) => `${part} GFLOP/s`),
    ...["text", "transformer", "decode"].map((part) => `${part} GB`),
  ];
  return `GFLOP/s by the definition's arithmetic, and their share of what a large product reaches; peak memory, anonymous + mapped ` +
    `file pages\n\n${markdownTable(head, cells, keys.length)}`;
}

/** One table for all rows of the same scales. */
function renderScales(rows: readonly MeasuredRow[]): string[] {
  const groups = Map.groupBy(rows, ({ sample }) => `${sample.size} ${sample.scales.length}`);
  return [...groups.values()].map((group) => {
    const keys = varying(group);
    const unit = unitOf(group.flatMap(({ sample }) => sample.parts.transformer!.ms.runs));
    const cells = group[0]!.sample.scales.map(({ grid, stage }, k) => [
      `${k + 1}`,
      `${grid.h}x${grid.w}`,
      stage,
      ...group.map(({ sample }) => {
        const { step, ms, flops } = sample.scales[k]!;
        return step === "skip" ? "-" : `${spread(ms, unit)} (${(flops / ms.mean / 1e6).toFixed(0)})`;
      }),
    ]);
    const head = ["scale", "grid", "stage", ...group.map((row) => label(row, keys))];
    return `${group[0]!.sample.size.join("x")}, scale by scale: ${unit.name} (GFLOP/s)\n\n` +
      markdownTable(head, cells, 3);
  });
}

interface Unit {
  readonly name: string;
  readonly ms: number;
}

function unitOf(ms: readonly number[]): Unit {
  return Math.max(...ms) >= 10_000 ? { name: "seconds", ms: 1000 } : { name: "milliseconds", ms: 1 };
}

function spread({ mean, sd, runs }: Measured, unit: Unit): string {
  return runs.length === 1 ? inUnit(mean, unit) : `${inUnit(mean, unit)} ± ${inUnit(sd, unit)}`;
}

/** Three digits are what a mean of a few runs is worth. */
function inUnit(ms: number, unit: Unit): string {
  const value = ms / unit.ms;
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

/** A Markdown table whose source is aligned too; all columns but the first few hold numbers. */
function markdownTable(head: readonly string[], rows: readonly (readonly string[])[], words: number): string {
  const widths = head.map((cell, i) => Math.max(cell.length, 3, ...rows.map((row) => row[i]!.length)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, i) => i < words ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join(" | ")} |\n`;
  const rule = widths.map((width, i) => i < words ? "-".repeat(width) : `${"-".repeat(width - 1)}:`);
  return line(head) + `| ${rule.join(" | ")} |\n` + rows.map(line).join("");
}
