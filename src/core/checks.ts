/**
 * What the core's functions ask of their arguments. A wrong length or size is a mistake of the calling code, so it is a
 * `RangeError` and not one of the errors of `errors.ts`.
 *
 * @module
 */

/** Most values in one array. A few such arrays fit the 4 GiB a wasm memory can address, so no call can exhaust it. */
export const MAX_VALUES = 2 ** 27;

/** Longest side of a grid or map: bounds the rows between the two passes of a resize, which are held in float64. */
const MAX_SIDE = 8192;

/**
 * An argument that is an integer in `least`..`most`.
 *
 * @throws {RangeError} if not, naming the call and the argument
 */
export function expectInteger(call: string, name: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new RangeError(`Cannot call ${call}(): "${name}" is ${value}, wanted an integer in ${least}..${most}`);
  }
}

/**
 * Values of an array of this shape, sizes from 1 on and not too many of them.
 *
 * @throws {RangeError} if not, naming the call and the argument
 */
export function countValues(call: string, name: string, shape: number[]): number {
  shape.forEach((size, axis) => expectInteger(call, `${name}.shape[${axis}]`, size, 1, MAX_VALUES));
  const count = shape.reduce((product, size) => product * size, 1);
  if (count > MAX_VALUES) {
    throw new RangeError(`Cannot call ${call}(): "${name}" [${shape}] has more than ${MAX_VALUES} values`);
  }
  return count;
}

/**
 * An array that holds its shape.
 *
 * @throws {RangeError} if not, naming the call and the argument
 */
export function expectShape(call: string, name: string, array: { length: number }, shape: number[]): void {
  const count = countValues(call, name, shape);
  if (array.length !== count) {
    throw new RangeError(`Cannot call ${call}(): "${name}" has ${array.length} values, wanted ${count} [${shape}]`);
  }
}

/**
 * Sides of grids or maps.
 *
 * @throws {RangeError} if not, naming the call and the argument
 */
export function expectSides(call: string, ...sides: number[]): void {
  for (const side of sides) expectInteger(call, "side", side, 1, MAX_SIDE);
}

/**
 * Indices of `count` rows.
 *
 * @throws {RangeError} if not, naming the call and the argument
 */
export function expectIndices(call: string, indices: Uint32Array, count: number): void {
  const i = indices.findIndex((index) => index >= count);
  if (i >= 0) {
    throw new RangeError(`Cannot call ${call}(): "indices[${i}]" is ${indices[i]}, wanted less than ${count}`);
  }
}

/** The error for an array that has a value which is not a number, or infinite. */
export function notFinite(call: string, name: string, array: Float32Array): RangeError {
  const i = array.findIndex((value) => !Number.isFinite(value));
  return new RangeError(`Cannot call ${call}(): "${name}[${i}]" is ${array[i]}, wanted a finite number`);
}
