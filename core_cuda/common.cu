// What the kernels share. Between the products of a transformer, the convolutions of the decoder and the steps of the scale loop
// each does at once what ONNX Runtime's operators make three to twenty launches of (infinity.md, stagevar.md; bench/LOG.md). Maps are
// float16 or float32 as named, arithmetic is float32 where nothing else is said. build.ts makes kernels.ptx of these files, one after
// the other; src/runtime/cuda_kernels.ts says what the arguments are.
#include <cuda_fp16.h>

#define FULL 0xffffffffu
#define A_THREAD 2 // times four values of a row, which a thread of a norm keeps: rows of up to 8192 values, 1024 threads

static __device__ float warp_sum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(FULL, value, offset);
  return value;
}

static __device__ float warp_max(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(FULL, value, offset));
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

/** The largest of values that are not negative. */
static __device__ float block_max(float value) {
  __shared__ float most[32];
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = value;
  __syncthreads();
  float largest = 0;
  for (int warp = 0; warp < blockDim.x / 32; warp++) largest = fmaxf(largest, most[warp]);
  return largest;
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

static __device__ float4 operator+(float4 a, float b) { return make_float4(a.x + b, a.y + b, a.z + b, a.w + b); }

static __device__ float4 operator*(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }

static __device__ float4 operator*(float4 a, float b) { return make_float4(a.x * b, a.y * b, a.z * b, a.w * b); }

static __device__ float4 operator/(float4 a, float b) { return make_float4(a.x / b, a.y / b, a.z / b, a.w / b); }

static __device__ float total_of(float4 a) { return a.x + a.y + a.z + a.w; }
