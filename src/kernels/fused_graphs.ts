/**
 * The kernels of the scale loop as graphs for a batch in one tensor, on a device that has operators of our own (runtime/fused_ops.ts):
 * random numbers are drawn where they are used, from streams [B, 5].
 *
 * @module
 */
import { batchRows, Graph, type Value } from "../graph/graph.ts";
import { fused } from "../runtime/fused_ops.ts";
import type { Grid } from "../schedule.ts";
import { type LatentShape, resize } from "./graphs.ts";

const FORM = { fused: true } as const;

/** Running latents [B, d, H, W] with the codes that are drawn of z [B, L, d_tok]; with `masked`, of the rows I [B, r] alone. */
export function drawBitsGraph(shape: LatentShape, { h, w }: Grid, masked: boolean, images: number): Graph {
  const { codeDim, tokenDim, cell, height, width } = shape;
  const graph = new Graph(`bits ${h}x${w}`, FORM);
  const dims = [images, codeDim, height, width];
  const latent = graph.input("latent", "F32", dims);
  const inputs = [
    graph.input("z", "F32", [images, h * w, tokenDim]),
    graph.input("streams", "I32", [images, 5]),
    graph.input("threshold", "F32", [1]),
  ];
  const attributes = { height: h, width: w, cell };
  const codes = masked
    ? fused(graph, "ChosenCodes", [...inputs, graph.input("chosen", "I64", [images, "r"])], attributes)
    : fused(graph, "Codes", inputs, attributes);
  const full = resize(graph, codes[0]!, [h * cell, w * cell], [height, width], "linear");
  graph.output("sum", graph.op("Add", [latent, full]), "F32", dims);
  return graph;
}

/** I [B, r] of x [B, M, C]: rows by energy, largest key first. */
export function drawRowsGraph(C: number): Graph {
  const graph = new Graph("draw rows", FORM);
  const inputs = [graph.input("x", "F32", ["B", "M", C]), graph.input("streams", "I32", ["B", 5])];
  const [keys] = fused(graph, "RowKeys", inputs) as [Value];
  const [, chosen] = graph.ops("TopK", [keys, graph.input("rank", "I64", [1])], 2);
  graph.output("chosen", chosen!, "I64", ["B", "r"]);
  return graph;
}

/** Q^T X [B, r, C] of x [B, M, C], Q drawn; as many mixtures as there are places I [B, r]. */
export function drawProjectGraph(C: number, sign: boolean): Graph {
  const graph = new Graph("project", FORM);
  const x = graph.input("x", "F32", ["B", "M", C]);
  const inputs = [x, graph.input("chosen", "I64", ["B", "r"]), graph.input("streams", "I32", ["B", 5])];
  const [q] = fused(graph, "Projection", inputs, { sign: Number(sign) }) as [Value];
  graph.output("y", graph.op("MatMul", [q, x]), "F32", ["B", "r", C]);
  return graph;
}

/** The same with Q^T [B, r, M] given. */
export function projectGivenGraph(C: number): Graph {
  const graph = new Graph("project given");
  const x = graph.input("x", "F32", ["B", "M", C]);
  graph.output("y", graph.op("MatMul", [graph.input("q", "F32", ["B", "r", "M"]), x]), "F32", ["B", "r", C]);
  return graph;
}

/** X[I] [B, r, C] of x [B, M, C]. */
export function gatherRowsGraph(C: number, tokens: number, images: number): Graph {
  const graph = new Graph("select rows");
  const x = graph.reshape(graph.input("x", "F32", [images, tokens, C]), [-1, C]);
  const first = graph.ints(Array.from({ length: images }, (_, image) => image * tokens), [images, 1]);
  const rows = graph.op("Add", [graph.input("chosen", "I64", [images, "r"]), first]);
  graph.output("y", graph.op("Gather", [x, rows], { axis: 0 }), "F32", [images, "r", C]);
  return graph;
}

/** Area averages of cached [B, h w, C] at another grid, with y [B, r, C] in the places I [B, r] if `fresh`. */
export function restoreRowsGraph(C: number, from: Grid, to: Grid, fresh: boolean): Graph {
  const graph = new Graph(`restore ${from.h}x${from.w} to ${to.h}x${to.w}`, FORM);
  const cached = graph.input("cached", "F32", ["B", from.h * from.w, C]);
  const attributes = { h: from.h, w: from.w, height: to.h, width: to.w };
  const [z] = fresh
    ? fused(
      graph,
      "RestoreRows",
      [cached, graph.input("y", "F32", ["B", "r", C]), graph.input("chosen", "I64", ["B", "r"])],
      attributes,
    )
    : fused(graph, "UpsampleRows", [cached], attributes);
  graph.output("z", z!, "F32", ["B", to.h * to.w, C]);
  return graph;
}

/**
 * z [B, L, d_tok] = (guidance own + rest nul) / tau of `factors` [3] (guidance, rest, 1 / tau), and `check` [1], which is 0 where all of
 * it is finite. `joined`: own and nul are the halves of `both` [2 B, L, d_tok].
 */
export function guideBatchGraph(tokenDim: number, joined: boolean): Graph {
  const graph = new Graph("guidance");
  const input = (name: string, rows: string): Value => graph.input(name, "F32", [rows, "L", tokenDim]);
  const [own, nul] = joined
    ? graph.split(input("both", "2B"), 2, 0) as [Value, Value]
    : [input("own", "B"), input("nul", "B")] as const;
  const [guidance, rest, cool] = graph.split(graph.input("factors", "F32", [3]), 3, 0) as [Value, Value, Value];
  const sum = graph.op("Add", [graph.op("Mul", [own, guidance]), graph.op("Mul", [nul, rest])]);
  const z = graph.op("Mul", [sum, cool]);
  graph.output("z", z, "F32", ["B", "L", tokenDim]);
  const zeros = graph.op("Mul", [z, graph.floats([0])]); // NaN where z is not finite
  const check = graph.op("ReduceSum", [zeros, graph.ints([0, 1, 2])], { keepdims: 0 });
  graph.output("check", graph.reshape(check, [1]), "F32", [1]);
  return graph;
}

/** One image's latent [1, d, H, W] of a batch. */
export function latentRowGraph(dims: readonly number[], image: number): Graph {
  const graph = new Graph("one latent");
  const row = batchRows(graph, graph.input("x", "F32", dims), image);
  graph.output("y", row, "F32", [1, ...dims.slice(1)]);
  return graph;
}
