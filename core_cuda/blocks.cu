// Between the products of a transformer block (infinity.md §3).

/**
 * A row of the residual stream a block: sum = x + gate (product + bias / headroom); then normed = norm(sum) scale + shift in float16.
 *
 * gate, scale and shift are rows of C, the same for `tokens` rows of x, `stride` values apart (0: one for all). product, gate, sum
 * and normed may be null.
 */
extern "C" __global__ void add_norm(
    const float4 *x, const Half4 *product, const float4 *bias, float headroom, const float *gate, const float *scale,
    const float *shift, int gate_stride, int norm_stride, int tokens, int fours, float epsilon, float4 *sum, Half4 *normed) {
  const long long row = (long long)blockIdx.x * fours;
  const int image = blockIdx.x / tokens;
  const float4 *gates = (const float4 *)(gate + (long long)image * gate_stride);
  const float4 *scales = (const float4 *)(scale + (long long)image * norm_stride);
  const float4 *shifts = (const float4 *)(shift + (long long)image * norm_stride);
  float4 kept[A_THREAD], scale_of[A_THREAD], shift_of[A_THREAD]; // read before anybody waits
  float total = 0;
#pragma unroll
  for (int i = 0; i < A_THREAD; i++) {
    const int at = threadIdx.x + i * blockDim.x;
    if (at >= fours) break;
    float4 value = x[row + at];
    if (normed) {
      scale_of[i] = scales[at];
      shift_of[i] = shifts[at];
    }
    if (product) {
      float4 added = widened(product[row + at]) + bias[at] / headroom;
      if (gate) added = added * gates[at];
      value = value + added;
    }
    if (sum) sum[row + at] = value;
    kept[i] = value;
    total += total_of(value);
  }
  if (!normed) return;
  const float mean = block_sum(total) / (4 * fours);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < A_THREAD; i++) {
    if (threadIdx.x + i * blockDim.x >= fours) break;
    kept[i] = kept[i] + -mean;
    squares += total_of(kept[i] * kept[i]);
  }
  const float inverse = rsqrtf(block_sum(squares) / (4 * fours) + epsilon);
#pragma unroll
  for (int i = 0; i < A_THREAD; i++) {
    const int at = threadIdx.x + i * blockDim.x;
    if (at >= fours) break;
    normed[row + at] = narrowed(kept[i] * inverse * scale_of[i] + shift_of[i]);
  }
}

/**
 * Queries, keys and values of new tokens, and the cache that they extend. The first R L blocks take a token each, a warp a head:
 * bias, direction of q (times temperature) and k, rotation of adjacent pairs; the others copy the past.
 *
 * qkv [R, L, 3, H, hd] -> q [R, L, H, hd]; past_k, past_v [R, H, P, hd] -> k, v [R, H, P + L, hd]. `positions` has R L rows of cos
 * and sin [M, hd / 2], or one, which the others follow.
 */
extern "C" __global__ void enter_cache(
    const half2 *qkv, const float2 *q_bias, const float2 *v_bias, const float *temperature, const long long *positions,
    int follow, const float *cosines, const float *sines, const int4 *past_k, const int4 *past_v, int rows, int tokens,
    int heads, int pairs, int past, half2 *q, half2 *k, half2 *v) {
  const int all = past + tokens;
  if (blockIdx.x >= rows * tokens) {
    const long long units = (long long)past * pairs / 4; // of 16 bytes, a head
    const long long total = units * rows * heads;
    const long long step = (long long)(gridDim.x - rows * tokens) * blockDim.x;
    int4 *to_k = (int4 *)k, *to_v = (int4 *)v;
    for (long long i = (long long)(blockIdx.x - rows * tokens) * blockDim.x + threadIdx.x; i < total; i += step) {
      const long long to = i / units * ((long long)all * pairs / 4) + i % units;
      to_k[to] = past_k[i];
      to_v[to] = past_v[i];
    }
    return;
  }
  const int head = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = blockIdx.x / tokens, token = blockIdx.x % tokens;
  const long long place = follow ? positions[0] + token : positions[blockIdx.x];
  const half2 *from = qkv + ((long long)blockIdx.x * 3 * heads + head) * pairs;
  const int third = heads * pairs;
  const long long to = (((long long)row * heads + head) * all + past + token) * pairs;
  float2 query[4], key[4];
  float query_squares = 0, key_squares = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int pair = lane + i * 32;
    if (pair >= pairs) break;
    const float2 b = q_bias[head * pairs + pair], c = v_bias[head * pairs + pair];
    query[i] = __half22float2(from[pair]);
    key[i] = __half22float2(from[third + pair]);
    query[i].x += b.x;
    query[i].y += b.y;
    query_squares += query[i].x * query[i].x + query[i].y * query[i].y;
    key_squares += key[i].x * key[i].x + key[i].y * key[i].y;
    const float2 value = __half22float2(from[2 * third + pair]);
    v[to + pair] = __floats2half2_rn(value.x + c.x, value.y + c.y);
  }
  const float query_scale = temperature[head] * rsqrtf(fmaxf(warp_sum(query_squares), 1e-24f));
  const float key_scale = rsqrtf(fmaxf(warp_sum(key_squares), 1e-24f));
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int pair = lane + i * 32;
    if (pair >= pairs) break;
    const float c = cosines[place * pairs + pair], s = sines[place * pairs + pair];
    const float2 a = query[i], b = key[i];
    q[((long long)blockIdx.x * heads + head) * pairs + pair] =
        __floats2half2_rn((a.x * c - a.y * s) * query_scale, (a.x * s + a.y * c) * query_scale);
    k[to + pair] = __floats2half2_rn((b.x * c - b.y * s) * key_scale, (b.x * s + b.y * c) * key_scale);
  }
}

/** y = x + bias, rows of `pairs` pairs. */
extern "C" __global__ void add_bias(const half2 *x, const float2 *bias, int pairs, long long count, half2 *y) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    const float2 value = __half22float2(x[i]), b = bias[i % pairs];
    y[i] = __floats2half2_rn(value.x + b.x, value.y + b.y);
  }
}

static __device__ float gelu(float x) {
  return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

/** y = gelu(x + bias), rows of `fours` times four. */
extern "C" __global__ void bias_gelu(const Half4 *x, const float4 *bias, int fours, long long count, Half4 *y) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    const float4 value = widened(x[i]) + bias[i % fours];
    y[i] = narrowed(make_float4(gelu(value.x), gelu(value.y), gelu(value.z), gelu(value.w)));
  }
}
