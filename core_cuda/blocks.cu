// Between the products of a transformer block (infinity.md §3).

/**
 * A row of the residual stream a block: sum = x + gate (product + bias / headroom); then normed = norm(sum) scale + shift in float16.
 *
 * gate, scale and shift are rows of C, the same for `tokens` rows of x, `stride` values apart (0: one for all). product, gate, sum
 * and normed may be null.
 */
extern "C" __global__ void __launch_bounds__(256) add_norm(
    const float2 *x, const half2 *product, const float2 *bias, float headroom, const float *gate, const float *scale,
    const float *shift, int gate_stride, int norm_stride, int tokens, int pairs, float epsilon, float2 *sum, half2 *normed) {
  const long long row = blockIdx.x;
  const int image = blockIdx.x / tokens;
  x += row * pairs;
  const float2 *gates = (const float2 *)(gate + (long long)image * gate_stride);
  const float2 *scales = (const float2 *)(scale + (long long)image * norm_stride);
  const float2 *shifts = (const float2 *)(shift + (long long)image * norm_stride);
  float2 kept[PAIRS_A_THREAD], scale_of[PAIRS_A_THREAD], shift_of[PAIRS_A_THREAD]; // read before anybody waits
  float total = 0;
#pragma unroll
  for (int i = 0; i < PAIRS_A_THREAD; i++) {
    const int pair = threadIdx.x + i * 256;
    if (pair >= pairs) break;
    float2 value = x[pair];
    if (normed) {
      scale_of[i] = scales[pair];
      shift_of[i] = shifts[pair];
    }
    if (product) {
      const float2 p = __half22float2(product[row * pairs + pair]), b = bias[pair];
      float2 added = make_float2(p.x + b.x / headroom, p.y + b.y / headroom);
      if (gate) {
        const float2 g = gates[pair];
        added.x *= g.x;
        added.y *= g.y;
      }
      value.x += added.x;
      value.y += added.y;
    }
    if (sum) sum[row * pairs + pair] = value;
    kept[i] = value;
    total += value.x + value.y;
  }
  if (!normed) return;
  const float mean = block_sum(total) / (2 * pairs);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < PAIRS_A_THREAD; i++) {
    if (threadIdx.x + i * 256 >= pairs) break;
    kept[i].x -= mean;
    kept[i].y -= mean;
    squares += kept[i].x * kept[i].x + kept[i].y * kept[i].y;
  }
  const float inverse = rsqrtf(block_sum(squares) / (2 * pairs) + epsilon);
#pragma unroll
  for (int i = 0; i < PAIRS_A_THREAD; i++) {
    const int pair = threadIdx.x + i * 256;
    if (pair >= pairs) break;
    const float2 s = scale_of[i], t = shift_of[i];
    normed[row * pairs + pair] =
        __floats2half2_rn(kept[i].x * inverse * s.x + t.x, kept[i].y * inverse * s.y + t.y);
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
