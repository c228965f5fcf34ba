// What lies between the products of a transformer block and between the convolutions of the decoder, one kernel where ONNX
// Runtime's operators make three to ten (infinity.md §3, §6; bench/LOG.md, 2026-11-27). Maps are float16 or float32 as named,
// arithmetic is float32. build.ts makes kernels.ptx of it; src/runtime/cuda_kernels.ts says what the arguments are.
#include <cuda_fp16.h>

#define FULL 0xffffffffu
#define CHANNELS_A_THREAD 16 // pairs of a row that a thread of add_norm keeps: rows of up to 8192

static __device__ float warp_sum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(FULL, value, offset);
  return value;
}

/** Sum over a block of at most 1024 threads, given to all of them. */
static __device__ float block_sum(float value) {
  __shared__ float sums[32];
  value = warp_sum(value);
  __syncthreads(); // the last sum has been read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < blockDim.x / 32; warp++) sum += sums[warp];
  return sum;
}

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
  float2 kept[CHANNELS_A_THREAD], scale_of[CHANNELS_A_THREAD], shift_of[CHANNELS_A_THREAD]; // read before anybody waits
  float total = 0;
#pragma unroll
  for (int i = 0; i < CHANNELS_A_THREAD; i++) {
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
  for (int i = 0; i < CHANNELS_A_THREAD; i++) {
    if (threadIdx.x + i * 256 >= pairs) break;
    kept[i].x -= mean;
    kept[i].y -= mean;
    squares += kept[i].x * kept[i].x + kept[i].y * kept[i].y;
  }
  const float inverse = rsqrtf(block_sum(squares) / (2 * pairs) + epsilon);
#pragma unroll
  for (int i = 0; i < CHANNELS_A_THREAD; i++) {
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

struct alignas(8) Half4 {
  half2 low, high;
};

static __device__ float4 widened(Half4 value) {
  const float2 low = __half22float2(value.low), high = __half22float2(value.high);
  return make_float4(low.x, low.y, high.x, high.y);
}

static __device__ Half4 narrowed(float4 value) {
  return {__floats2half2_rn(value.x, value.y), __floats2half2_rn(value.z, value.w)};
}

static __device__ float4 operator+(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/** What a convolution left, its bias, and a residual: another convolution's with its bias, or a running sum. */
static __device__ float4 summed(
    const Half4 *map, const float4 *bias, const Half4 *other, const float4 *other_bias, const float4 *x, long long at, int channel) {
  float4 value = widened(map[at]) + bias[channel];
  if (other) value = value + (widened(other[at]) + other_bias[channel]);
  if (x) value = value + x[at];
  return value;
}

/**
 * sum = map + bias (+ other + other_bias) (+ x), and what of each channel every block has seen: the sum of deviations from the
 * channel's first value and the sum of their squares, partials [2, C, blocks], behind them the first values [C]. Threads of a
 * block keep their four channels. sum may be null.
 */
extern "C" __global__ void __launch_bounds__(256) sum_moments(
    const Half4 *map, const float4 *bias, const Half4 *other, const float4 *other_bias, const float4 *x, int fours,
    long long count, float4 *sum, float *partials) {
  extern __shared__ float4 shared[]; // [2, 256]
  const int channel = threadIdx.x % fours;
  const float4 first = summed(map, bias, other, other_bias, x, channel, channel);
  float4 deviations = make_float4(0, 0, 0, 0), squares = deviations;
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
    const float4 value = summed(map, bias, other, other_bias, x, at, channel);
    if (sum) sum[at] = value;
    const float4 d = make_float4(value.x - first.x, value.y - first.y, value.z - first.z, value.w - first.w);
    deviations = deviations + d;
    squares = squares + make_float4(d.x * d.x, d.y * d.y, d.z * d.z, d.w * d.w);
  }
  shared[threadIdx.x] = deviations;
  shared[256 + threadIdx.x] = squares;
  __syncthreads();
  if (threadIdx.x >= fours) return;
  for (int other_thread = threadIdx.x + fours; other_thread < 256; other_thread += fours) {
    deviations = deviations + shared[other_thread];
    squares = squares + shared[256 + other_thread];
  }
  const float sums[2][4] = {
      {deviations.x, deviations.y, deviations.z, deviations.w}, {squares.x, squares.y, squares.z, squares.w}};
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < 4; j++) {
      partials[((long long)i * 4 * fours + 4 * threadIdx.x + j) * gridDim.x + blockIdx.x] = sums[i][j];
    }
  }
  if (blockIdx.x == 0) ((float4 *)(partials + 8LL * fours * gridDim.x))[threadIdx.x] = first;
}

/**
 * A group of channels a block: mean and gain = weight / deviation of every channel, moments [2, C], of the partial sums of
 * `blocks` blocks over `pixels` pixels.
 */
extern "C" __global__ void __launch_bounds__(256) merge_moments(
    const float *partials, const float *weight, int blocks, int channels, int width, float pixels, float epsilon, float *moments) {
  const float *first = partials + (long long)blocks * 2 * channels;
  __shared__ float means[64], variances[64]; // of the group's channels, a warp each
  for (int i = threadIdx.x / 32; i < width; i += 8) {
    const int channel = blockIdx.x * width + i;
    const float *ones = partials + (long long)channel * blocks, *twos = ones + (long long)channels * blocks;
    float deviations = 0, squares = 0;
    for (int block = threadIdx.x % 32; block < blocks; block += 32) {
      deviations += ones[block];
      squares += twos[block];
    }
    const float deviation = warp_sum(deviations) / pixels;
    const float square = warp_sum(squares) / pixels;
    means[i] = first[channel] + deviation; // the same from every lane
    variances[i] = square - deviation * deviation;
  }
  __syncthreads();
  float group_mean = 0;
  for (int i = 0; i < width; i++) group_mean += means[i];
  group_mean /= width;
  float variance = 0;
  for (int i = 0; i < width; i++) variance += variances[i] + (means[i] - group_mean) * (means[i] - group_mean);
  variance /= width;
  if (threadIdx.x >= width) return;
  const int channel = blockIdx.x * width + threadIdx.x;
  moments[channel] = group_mean;
  moments[channels + channel] = weight[channel] * rsqrtf(fmaxf(variance, 0.0f) + epsilon);
}

static __device__ float swish(float x, float mean, float gain, float shift) {
  const float y = (x - mean) * gain + shift;
  return y / (1 + __expf(-y));
}

/** SiLU of the norm: of a float16 map and its convolution's bias, or of a running sum, float32 (the other is null). */
extern "C" __global__ void norm_swish(
    const Half4 *map, const float4 *bias, const float4 *x, const float4 *moments, const float4 *shift, int fours, long long count,
    Half4 *y) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
    const int channel = at % fours;
    const float4 value = map ? widened(map[at]) + bias[channel] : x[at];
    const float4 mean = moments[channel], gain = moments[fours + channel], s = shift[channel];
    y[at] = narrowed(make_float4(
        swish(value.x, mean.x, gain.x, s.x), swish(value.y, mean.y, gain.y, s.y), swish(value.z, mean.z, gain.z, s.z),
        swish(value.w, mean.w, gain.w, s.w)));
  }
}

/** map + bias + x [H, W, C], each pixel four times: [2 H, 2 W, C]. */
extern "C" __global__ void sum_double(
    const Half4 *map, const float4 *bias, const float4 *x, int fours, int width, long long count, Half4 *y) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
    const int channel = at % fours;
    const long long pixel = at / fours;
    const Half4 value = narrowed(summed(map, bias, nullptr, nullptr, x, at, channel));
    const long long row = pixel / width * 2, column = pixel % width * 2;
    const long long to = (row * 2 * width + column) * fours + channel;
    y[to] = y[to + fours] = value;
    y[to + 2LL * width * fours] = y[to + 2LL * width * fours + fours] = value;
  }
}
