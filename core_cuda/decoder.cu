// Between the convolutions of the decoder, maps with channels last (infinity.md §6).

/** What a convolution left, its bias, and a residual: another convolution's with its bias, or a running sum. */
static __device__ float4 summed(
    const Half4 *map, const float4 *bias, const Half4 *other, const float4 *other_bias, const float4 *x, long long at, int channel) {
  float4 value = widened(map[at]) + bias[channel];
  if (other) value = value + (widened(other[at]) + other_bias[channel]);
  if (x) value = value + x[at];
  return value;
}

/**
 * Where pixel values of a map [2 h, 2 w, C] lie in what a convolution of 2x2 left of a map half as large, [h + 1, w + 1, 4, C]: pixels of
 * odd rows in the next row, of odd columns in the next column, the four kinds of pixels behind each other.
 */
static __device__ long long quad(long long at, int fours, int width) {
  const long long pixel = at / fours, row = pixel / width;
  const int column = pixel % width, odd_row = row % 2, odd_column = column % 2;
  const long long cell = (row / 2 + odd_row) * (width / 2 + 1) + column / 2 + odd_column;
  return (cell * 4 + odd_row * 2 + odd_column) * fours + at % fours;
}

/**
 * sum = map + bias (+ other + other_bias) (+ x), and what of each channel every block has seen: the sum of deviations from the
 * channel's first value and the sum of their squares, partials [2, C, blocks], behind them the first values [C]. Threads of a
 * block keep their four channels. sum may be null. With a width, the map is read as quad() says, and that is the sum's.
 */
extern "C" __global__ void __launch_bounds__(256) sum_moments(
    const Half4 *map, const float4 *bias, const Half4 *other, const float4 *other_bias, const float4 *x, int fours, int width,
    long long count, float4 *sum, float *partials) {
  extern __shared__ float4 shared[]; // [2, 256]
  const int channel = threadIdx.x % fours;
  const float4 first = summed(map, bias, other, other_bias, x, channel, channel);
  float4 deviations = make_float4(0, 0, 0, 0), squares = deviations;
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
    const float4 value = summed(map, bias, other, other_bias, x, width ? quad(at, fours, width) : at, channel);
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

/** map + bias + x, float16. */
extern "C" __global__ void sum_half(const Half4 *map, const float4 *bias, const float4 *x, int fours, long long count, Half4 *y) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step) {
    y[at] = narrowed(summed(map, bias, nullptr, nullptr, x, at, at % fours));
  }
}
