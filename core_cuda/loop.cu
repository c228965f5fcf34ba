// The scale loop around the transformer: random numbers where they are used, rows and bits drawn, rows restored (infinity.md §4-5,
// stagevar.md §3). The streams are those of core_rs/src/random.rs: a picture does not depend on where its numbers were drawn.

/** Ten rounds of Philox4x32 on block `index` of a stream of five words: key, and the rest of the counter. */
static __device__ uint4 philox(const unsigned *stream, unsigned index) {
  uint4 counter = make_uint4(index, stream[2], stream[3], stream[4]);
  unsigned low = stream[0], high = stream[1];
  for (int round = 0; round < 10; round++) {
    const unsigned long long a = (unsigned long long)counter.x * 0xD2511F53u, b = (unsigned long long)counter.z * 0xCD9E8D57u;
    counter = make_uint4(
        (unsigned)(b >> 32) ^ counter.y ^ low, (unsigned)b, (unsigned)(a >> 32) ^ counter.w ^ high, (unsigned)a);
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  return counter;
}

/** All 32 bits of a word as a number in (0, 1). */
static __device__ double open_unit(unsigned word) { return (word + 0.5) / 4294967296.0; }

/** Top 24 bits of a word as a float in [0, 1). */
static __device__ float unit(unsigned word) { return (word >> 8) / 16777216.0f; }

static __device__ void box_muller(unsigned first, unsigned second, float *normals) {
  const double radius = sqrt(-2 * log(open_unit(first))), angle = open_unit(second) * 6.283185307179586477;
  normals[0] = (float)(radius * cos(angle));
  normals[1] = (float)(radius * sin(angle));
}

/**
 * Projections of B images, transposed: Q^T [B, r, M], whose entry (j, i) is number i r + j of the image's stream [B, 5]. Normals times
 * `size`, or signs: `size`, its negative, and four zeros of six.
 */
extern "C" __global__ void draw_projection(const unsigned *streams, int sign, float size, int rows, int rank, int images, float *q) {
  const long long entries = (long long)rows * rank, blocks = (entries + 3) / 4; // of the generator
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < blocks * images; i += step) {
    const long long image = i / blocks, block = i % blocks;
    const uint4 words = philox(streams + 5 * image, (unsigned)block);
    const unsigned four[4] = {words.x, words.y, words.z, words.w};
    float drawn[4];
    if (sign) {
      for (int lane = 0; lane < 4; lane++) {
        const unsigned face = (unsigned)(((unsigned long long)four[lane] * 6) >> 32);
        drawn[lane] = face == 0 ? size : face == 1 ? -size : 0;
      }
    } else {
      box_muller(four[0], four[1], drawn);
      box_muller(four[2], four[3], drawn + 2);
      for (int lane = 0; lane < 4; lane++) drawn[lane] *= size;
    }
    for (int lane = 0; lane < 4; lane++) {
      const long long entry = block * 4 + lane;
      if (entry < entries) q[image * entries + entry % rank * rows + entry / rank] = drawn[lane];
    }
  }
}

/**
 * What rows of x [B, M, C] are drawn by: the logarithm of a row's squared norm and a Gumbel number of the image's stream; rows of
 * zeros come after all others, in the order of their noise. A row a block.
 */
extern "C" __global__ void __launch_bounds__(256) row_keys(
    const float2 *x, const unsigned *streams, int rows, int pairs, float *keys) {
  const long long row = blockIdx.x;
  float squares = 0;
  for (int pair = threadIdx.x; pair < pairs; pair += 256) {
    const float2 value = x[row * pairs + pair];
    squares += value.x * value.x + value.y * value.y;
  }
  const float energy = block_sum(squares);
  if (threadIdx.x > 0) return;
  const unsigned place = blockIdx.x % rows;
  const uint4 words = philox(streams + 5 * (blockIdx.x / rows), place / 4);
  const unsigned four[4] = {words.x, words.y, words.z, words.w};
  const float gumbel = (float)-log(-log(open_unit(four[place % 4])));
  keys[row] = (energy > 0 ? logf(energy) : -1e4f) + gumbel;
}

/**
 * Bits of logits z [B, L, t] as codes of a map [B, d, h cell, w cell], t = d cell cell, of -size and size: a bit is its sign where |z|
 * reaches threshold[0], else 1 where a uniform number of the image's stream is below sigmoid(z). Where there is `chosen` [B, r], other
 * tokens are zero.
 */
extern "C" __global__ void draw_codes(
    const float *z, const unsigned *streams, const float *threshold, const long long *chosen, int rank, float size, int height, int width,
    int bits, int cell, long long count, float *codes) {
  const long long step = (long long)gridDim.x * blockDim.x;
  const float sure = threshold[0];
  const int tokens = height * width;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    const int bit = i % bits;
    const long long token = i / bits;
    const int image = token / tokens, place = token % tokens;
    const unsigned position = (unsigned)place * bits + bit;
    const uint4 words = philox(streams + 5 * image, position / 4);
    const unsigned four[4] = {words.x, words.y, words.z, words.w};
    const float value = z[i];
    const bool one = fabsf(value) >= sure ? value > 0 : unit(four[position % 4]) < 1 / (1 + expf(-value));
    float code = one ? size : -size;
    if (chosen) {
      bool taken = false;
      for (int j = 0; j < rank; j++) taken = taken || chosen[(long long)image * rank + j] == place;
      if (!taken) code = 0;
    }
    const int area = cell * cell, channel = bit / area, dy = bit % area / cell, dx = bit % cell;
    const int y = place / width * cell + dy, x = place % width * cell + dx;
    codes[(((long long)image * (bits / area) + channel) * height * cell + y) * width * cell + x] = code;
  }
}

/**
 * Tokens of a grid, Z [B, H W, C]: row j of y [B, r, C] where the token is chosen[j], else the mean of the cached rows [B, h w, C] that
 * its cell meets. A token a block; without y (null) all are means.
 */
extern "C" __global__ void __launch_bounds__(256) restore_rows(
    const float4 *cached, const float4 *y, const long long *chosen, int rank, int h, int w, int height, int width, int fours, float4 *z) {
  const int tokens = height * width, image = blockIdx.x / tokens, token = blockIdx.x % tokens;
  __shared__ int found;
  if (threadIdx.x == 0) found = -1;
  __syncthreads();
  if (y) {
    for (int j = threadIdx.x; j < rank; j += 256) {
      if (chosen[(long long)image * rank + j] == token) found = j; // rows are told apart
    }
  }
  __syncthreads();
  z += (long long)blockIdx.x * fours;
  if (found >= 0) {
    y += ((long long)image * rank + found) * fours;
    for (int i = threadIdx.x; i < fours; i += 256) z[i] = y[i];
    return;
  }
  const int row = token / width, column = token % width;
  const int top = row * h / height, bottom = ((row + 1) * h + height - 1) / height;
  const int left = column * w / width, right = ((column + 1) * w + width - 1) / width;
  const float share = 1.0f / ((bottom - top) * (right - left));
  cached += (long long)image * h * w * fours;
  for (int i = threadIdx.x; i < fours; i += 256) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (int a = top; a < bottom; a++) {
      for (int b = left; b < right; b++) sum = sum + cached[((long long)a * w + b) * fours + i];
    }
    z[i] = make_float4(sum.x * share, sum.y * share, sum.z * share, sum.w * share);
  }
}
