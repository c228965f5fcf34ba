/**
 * `stagevar doctor`: what is on this machine, what is missing, and what to do about it.
 *
 * @module
 */
import { dirname } from "node:path";
import { DeviceError, StageVarError } from "../src/errors.ts";
import type { Finding } from "../src/runtime/doctor_library.ts";
import type { System } from "../src/runtime/system.ts";
import type { Arguments, Command } from "./command.ts";
import type { Context } from "./context.ts";
import { byteCount, jsonLine, type Paint, paintFor, printable } from "./term.ts";

/** The command on this machine. */
export const command: Command = doctorOf(async () => (await import("../src/runtime/system.ts")).thisSystem());

/** The command on a machine; tests make one up. */
export function doctorOf(system: () => Promise<System>): Command {
  return {
    usage: ["doctor [flags]"],
    options: [{ name: "json", help: "Print one JSON object" }],
    words: { min: 0, max: 0, name: "words" },
    details: `What --device auto uses stands under "devices"; no other device is needed. Exits 5 where none works.`,
    run: async (context, args) => await run(context, args, await system()),
  };
}

async function run(context: Context, args: Arguments, system: System): Promise<void> {
  const { diagnose } = await import("../src/runtime/doctor.ts");
  const { device, findings } = await diagnose(system);
  const all = [...findings, ...await checkModels(context, system)];
  const report = args.on("json") ? jsonLine({ device: device ?? null, findings: all }) : inWords(all, context);
  context.stdout.write(report);
  if (device === undefined) {
    throw new DeviceError("No device works on this machine", { hint: `Do what the report says under "onnxruntime"` });
  }
}

async function checkModels(context: Context, system: System): Promise<Finding[]> {
  const { finding } = await import("../src/runtime/doctor_library.ts");
  const { openModel } = await import("../src/models/open.ts");
  const models = await (await context.library()).listModels();
  const findings = models.length > 0 ? [] : [
    finding(
      "models",
      "none",
      "missing",
      "no models found",
      "Put a model's folder into the folder models of STAGEVAR_HOME",
    ),
  ];
  for (const { name, folder } of models) {
    try {
      const { shape } = await openModel(folder);
      findings.push(finding("models", name, "ok", `${shape.name} in "${folder}"`));
    } catch (error) {
      if (!(error instanceof StageVarError)) throw error;
      findings.push(finding("models", name, "missing", error.message, error.hint));
    }
  }
  for (const parent of new Set(models.map(({ folder }) => dirname(folder)))) {
    const free = await system.freeBytes(parent);
    if (free !== undefined) findings.push(finding("models", "disk", "ok", `${byteCount(free)} free for "${parent}"`));
  }
  return findings;
}

const COLOURS: Readonly<Record<Finding["status"], Parameters<Paint>[0]>> = {
  ok: "green",
  missing: "red",
  note: "yellow",
};

/** A line a finding, under its part; what to do about it on the lines below. */
function inWords(findings: readonly Finding[], context: Context): string {
  const paint = paintFor(context.stdout, context);
  const width = Math.max(...findings.map(({ name }) => printable(name).length));
  return findings.map(({ part, name, found, status, next }, i) => {
    const title = part === findings[i - 1]?.part ? "" : `${i === 0 ? "" : "\n"}${paint("bold", part)}\n`;
    const line = `  ${printable(name).padEnd(width)}  ${printable(found)}  ${paint(COLOURS[status], status)}\n`;
    const advice = next?.split("\n").map((line) => `  ${" ".repeat(width)}  ${printable(line)}\n`).join("") ?? "";
    return title + line + advice;
  }).join("");
}
