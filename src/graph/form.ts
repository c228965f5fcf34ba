/**
 * Forms that a graph can be built in: they compute the same, and which one is right or quick depends on the device and on the
 * number of rows.
 *
 * @module
 */

/**
 * Most rows of x at which a linear layer with weights in their file is quicker as W x^T: MatMul packs its right operand at
 * every call, and W is the larger one by far. At 8 rows it takes half the time, at 72 the same (bench/LOG.md).
 */
export const FEW_ROWS = 64;

/** Rows that the linear layers of a graph see: at most {@linkcode FEW_ROWS}, with weights in their files, or any number. */
export type RowCount = "few" | "many";

/** Forms of a graph that compute the same. */
export interface GraphForm {
  /** Default `many`. */
  readonly rows?: RowCount;
  /**
   * One operator (the default), whose flash kernel keeps no scores; or products and softmax one by one, for devices whose
   * kernel is wrong (runtime/attention_probe.ts).
   */
  readonly attention?: "fused" | "plain";
  /**
   * Whether a norm's scale and shift, one of each a batch row, go into the operator, or are two more passes: the default, for
   * devices whose operator takes one for all rows.
   */
  readonly norms?: "rowwise" | "apart";
  /**
   * Half precision of a block: `products` alone, between rows scaled for it (`Graph.halfLinear`), or the whole
   * `block`, attention included, but for residuals and norms. Default: none.
   */
  readonly half?: "products" | "block" | undefined;
  /** How the decoder's maps lie: channels first, the default, or last, in operators that only CUDA has. */
  readonly maps?: "channels first" | "channels last" | undefined;
  /** Whether what lies between products may be operators of our own (runtime/fused_ops.ts). Default: no. */
  readonly fused?: boolean | undefined;
}
