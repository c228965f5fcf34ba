import assert from "node:assert/strict";
import { gaussianProjection, signProjection } from "../src/core.ts";
import { encodePng, type RgbImage } from "../src/png.ts";
import { Workers } from "../src/workers.ts";

function picture(width: number, height: number): RgbImage {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i / 7) + 8 * Math.sin(i * 12.9898));
  return { width, height, data };
}

Deno.test("encodePng() makes the same file with any number of workers", async () => {
  for (const height of [170, 690, 850, 851]) { // bands have 170 rows; from 683 on a thread is asked
    const image = picture(512, height);
    const alone = await encodePng(image, { Title: "bands" });
    for (const threads of [1, 3]) {
      using workers = new Workers(threads);
      const files = await Promise.all([1, 2, 3].map(() => encodePng(image, { Title: "bands" }, workers)));
      if (height > 683) assert.equal(workers.idle, threads);
      files.push(await encodePng(image, { Title: "bands" }, workers, true)); // by those threads and this one
      files.push(...await Promise.all([1, 2].map(() => encodePng(image, { Title: "bands" }, workers, true))));
      for (const file of files) assert.deepEqual(file, alone, `${height} rows, ${threads} threads`);
    }
  }
});

Deno.test("workers draw what the core draws, and finish what was begun when they are disposed", async () => {
  const workers = new Workers(2);
  const tasks = [0, 1, 2, 3, 4].map((chunk) => {
    const stream = { seed: 5, purpose: "projection", scale: 1, chunk } as const;
    const kind = chunk % 2 === 0 ? "gaussian" as const : "sign" as const;
    return { type: "projection", kind, stream, rows: 300, rank: 40 } as const;
  });
  const wanted = tasks.map(({ kind, stream }) =>
    kind === "gaussian" ? gaussianProjection(stream, 300, 40) : signProjection(stream, 300, 40)
  );
  assert.deepEqual(await Promise.all(tasks.map((task) => workers.run(task))), wanted);
  const late = tasks.map((task) => workers.run(task));
  workers[Symbol.dispose]();
  assert.deepEqual(await Promise.all(late), wanted);
});

Deno.test("threads that are wanted soon start at once, and stay until nobody wants them", async () => {
  using workers = new Workers(3);
  const wanted = workers.ready(2);
  while (workers.idle < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  const more = workers.ready(9); // as many as there may be
  while (workers.idle < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  wanted[Symbol.dispose]();
  await new Promise((resolve) => setTimeout(resolve, 1300));
  assert.equal(workers.idle, 3, "somebody still wants them");
  more[Symbol.dispose]();
  while (workers.idle > 0) await new Promise((resolve) => setTimeout(resolve, 50));
});

Deno.test("a task that fails says so, and the workers go on", async () => {
  using workers = new Workers(1);
  const stream = { seed: 5, purpose: "projection", scale: 1, chunk: 0 } as const;
  await assert.rejects(workers.run({ type: "projection", kind: "sign", stream, rows: -1, rank: 2 }), RangeError);
  assert.equal((await workers.run({ type: "projection", kind: "sign", stream, rows: 3, rank: 2 })).length, 6);
});

/** Runs a program that uses workers, and gives what it wrote. */
async function program(permissions: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  const modules = ["png.ts", "workers.ts"].map((name) => import.meta.resolve(`../src/${name}`));
  const folder = await Deno.makeTempDir();
  try {
    const main = `${folder}/main.ts`;
    await Deno.writeTextFile(
      main,
      `import { encodePng } from "${modules[0]}";
       import { Workers } from "${modules[1]}";
       const image = { width: 512, height: 700, data: new Uint8Array(512 * 700 * 3) };
       console.log((await encodePng(image, {}, new Workers(2))).length); // never disposed`,
    );
    const config = new URL("../deno.json", import.meta.url).pathname;
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--config", config, ...permissions, main],
      env: { NO_COLOR: "1" },
    }).output();
    return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("workers let the program end, and are done without where they may not be started", async () => {
  const free = await program(["-A"]);
  assert.equal(free.code, 0, free.err);
  const bound = await program(["--allow-read=no-such-folder"]);
  assert.deepEqual([bound.code, bound.out], [0, free.out], bound.err);
  assert(!bound.err.includes("Uncaught"), bound.err);
});
