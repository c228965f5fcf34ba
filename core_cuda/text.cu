// The text: between the products of T5's encoder (infinity.md §2.2), and what every block reads of a prompt (§2.6-2.8).

/**
 * A row of T5's residual stream a block: sum = x + product peak; then normed = sum / (root mean square of sum) weight in float16.
 *
 * peak has one number a row; without it (null) it is 1. product, sum and normed may be null.
 */
extern "C" __global__ void add_root_norm(
    const float4 *x, const Half4 *product, const float *peak, const float4 *weight, int fours, float epsilon, float4 *sum,
    Half4 *normed) {
  const long long row = (long long)blockIdx.x * fours;
  const float factor = peak ? peak[blockIdx.x] : 1;
  float4 kept[A_THREAD];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < A_THREAD; i++) {
    const int at = threadIdx.x + i * blockDim.x;
    if (at >= fours) break;
    float4 value = x[row + at];
    if (product) value = value + widened(product[row + at]) * factor;
    if (sum) sum[row + at] = value;
    kept[i] = value;
    squares += total_of(value * value);
  }
  if (!normed) return;
  const float inverse = rsqrtf(block_sum(squares) / (4 * fours) + epsilon);
#pragma unroll
  for (int i = 0; i < A_THREAD; i++) {
    const int at = threadIdx.x + i * blockDim.x;
    if (at >= fours) break;
    normed[row + at] = narrowed(kept[i] * inverse * weight[at]);
  }
}

static __device__ float2 gated(half2 gate, half2 value) {
  const float2 g = __half22float2(gate), v = __half22float2(value);
  return make_float2(gelu(g.x) * v.x, gelu(g.y) * v.y);
}

/** A row a block: gelu(gate) value, divided by its largest magnitude, peak [rows], so that it fits float16 whatever it was. */
extern "C" __global__ void __launch_bounds__(256) gated_gelu(
    const half2 *gate, const half2 *value, int pairs, half2 *y, float *peak) {
  const long long row = blockIdx.x;
  gate += row * pairs;
  value += row * pairs;
  float most = 0;
  for (int pair = threadIdx.x; pair < pairs; pair += 256) {
    const float2 product = gated(gate[pair], value[pair]);
    most = fmaxf(most, fmaxf(fabsf(product.x), fabsf(product.y)));
  } // computed again below: a row of T5-XXL is more than threads keep
  const float largest = block_max(most) + 1e-30f; // a row of zeros stays one
  for (int pair = threadIdx.x; pair < pairs; pair += 256) {
    const float2 product = gated(gate[pair], value[pair]);
    y[row * pairs + pair] = __floats2half2_rn(product.x / largest, product.y / largest);
  }
  if (threadIdx.x == 0) peak[row] = largest;
}

#define QUERIES 8
#define MOST_PAIRS 64 // heads of up to 128 values

/**
 * softmax(q K^T + table[bucket]) V of T5's heads, scores unscaled: eight queries of a head a block, a warp each, over keys by the
 * 32, as flash attention does. q, k, v [T, H, hd] -> y; table [buckets, H], buckets [T, T].
 */
extern "C" __global__ void __launch_bounds__(256) biased_attention(
    const half2 *q, const half2 *k, const half2 *v, const float *table, const long long *buckets, int tokens, int heads, int pairs,
    half2 *y) {
  __shared__ half2 keys[32][MOST_PAIRS + 1]; // the odd width keeps lanes, a key each, off each other's banks
  __shared__ half2 values[32][MOST_PAIRS];
  __shared__ float2 queries[QUERIES][MOST_PAIRS];
  const int head = blockIdx.x % heads, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int query = blockIdx.x / heads * QUERIES + warp;
  const bool there = query < tokens;
  for (int pair = lane; pair < pairs; pair += 32) {
    queries[warp][pair] = there ? __half22float2(q[((long long)query * heads + head) * pairs + pair]) : make_float2(0, 0);
  }
  float most = -1e30f, total = 0;
  float2 mixed[2] = {make_float2(0, 0), make_float2(0, 0)};
  for (int start = 0; start < tokens; start += 32) {
    __syncthreads();
    for (int i = threadIdx.x; i < 32 * pairs; i += 256) {
      const int token = start + i / pairs, pair = i % pairs;
      const long long at = ((long long)token * heads + head) * pairs + pair;
      const bool past_end = token >= tokens;
      keys[i / pairs][pair] = past_end ? __floats2half2_rn(0, 0) : k[at];
      values[i / pairs][pair] = past_end ? __floats2half2_rn(0, 0) : v[at];
    }
    __syncthreads();
    float score = -1e30f;
    if (there && start + lane < tokens) {
      score = table[buckets[(long long)query * tokens + start + lane] * heads + head];
      for (int pair = 0; pair < pairs; pair++) {
        const float2 key = __half22float2(keys[lane][pair]), asked = queries[warp][pair];
        score += key.x * asked.x + key.y * asked.y;
      }
    }
    const float now = fmaxf(most, warp_max(score)), shrink = __expf(most - now);
    const float weight = start + lane < tokens ? __expf(score - now) : 0;
    total = total * shrink + warp_sum(weight);
    for (int i = 0; i < 2; i++) {
      mixed[i].x *= shrink;
      mixed[i].y *= shrink;
    }
    for (int key = 0; key < 32; key++) {
      const float share = __shfl_sync(FULL, weight, key);
      for (int i = 0; i < 2; i++) {
        const int pair = lane + 32 * i;
        if (pair >= pairs) break;
        const float2 value = __half22float2(values[key][pair]);
        mixed[i].x += share * value.x;
        mixed[i].y += share * value.y;
      }
    }
    most = now;
  }
  if (!there) return;
  for (int i = 0; i < 2; i++) {
    const int pair = lane + 32 * i;
    if (pair >= pairs) break;
    y[((long long)query * heads + head) * pairs + pair] = __floats2half2_rn(mixed[i].x / total, mixed[i].y / total);
  }
}

/** Keys and values of a text: product [T, 2 C] times peak [T], bias [C] on the values. */
extern "C" __global__ void enter_text(
    const half2 *product, const float *peak, const float2 *bias, int pairs, long long count, half2 *keys, half2 *values) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    const long long row = i / pairs;
    const int pair = i % pairs;
    const float factor = peak[row];
    const float2 key = __half22float2(product[row * 2 * pairs + pair]);
    const float2 value = __half22float2(product[row * 2 * pairs + pairs + pair]), b = bias[pair];
    keys[i] = __floats2half2_rn(key.x * factor, key.y * factor);
    values[i] = __floats2half2_rn(value.x * factor + b.x, value.y * factor + b.y);
  }
}

/** The six vectors of a block [6, C]: shared + own, two gammas times headroom, two scales and 1, two shifts. */
extern "C" __global__ void modulate(const float *shared, const float *own, float headroom, int width, float *y) {
  const int step = gridDim.x * blockDim.x;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < 6 * width; i += step) {
    const float sum = shared[i] + own[i];
    y[i] = i < 2 * width ? sum * headroom : i < 4 * width ? sum + 1 : sum;
  }
}
