// A driver that runs core_cuda on the CPU: a thread a thread, barriers where they wait for each other, blocks one after
// another. tests/cuda_emulator/build.ts makes it a library with the driver's names.
#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(4) half2 { _Float16 x, y; };
struct uint4 { unsigned x, y, z, w; };
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static float2 __half22float2(half2 value) { return {(float)value.x, (float)value.y}; }
static half2 __floats2half2_rn(float x, float y) { return {(_Float16)x, (_Float16)y}; }
static float rsqrtf(float value) { return 1 / sqrtf(value); }

struct Index { int x; };
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::unique_ptr<std::barrier<>> block;
static std::vector<std::unique_ptr<std::barrier<>>> warps;
static float lanes[32][32];
static float4 dynamic_shared[4096];

static void __syncthreads() { block->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned, float value, int mask) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  warps[warp]->arrive_and_wait(); // the last values have been read
  lanes[warp][lane] = value;
  warps[warp]->arrive_and_wait();
  return lanes[warp][lane ^ mask];
}

static float __shfl_sync(unsigned, float value, int from) { return __shfl_xor_sync(0xffffffffu, value, (threadIdx.x ^ from) % 32); }

#define __device__
#define __global__
#define __shared__ static // blocks do not overlap
#define __launch_bounds__(threads)
#define __expf expf
#include "kernels.inc"

template <typename... Parameters, size_t... I>
static void call(void (*kernel)(Parameters...), void **values, std::index_sequence<I...>) {
  kernel(*(std::decay_t<Parameters> *)values[I]...);
}

template <typename... Parameters> static void call(void (*kernel)(Parameters...), void **values) {
  call(kernel, values, std::index_sequence_for<Parameters...>{});
}

struct Kernel { const char *name; void (*run)(void **); };
#define KERNEL(name) {#name, [](void **values) { call(name, values); }}
static const Kernel kernels[] = {KERNEL(add_norm),      KERNEL(enter_cache), KERNEL(add_bias),  KERNEL(sum_moments),
                                 KERNEL(merge_moments), KERNEL(norm_swish),  KERNEL(sum_half),
                                 KERNEL(add_root_norm), KERNEL(gated_gelu),  KERNEL(biased_attention), KERNEL(enter_text),
                                 KERNEL(modulate), KERNEL(bias_gelu), KERNEL(draw_projection), KERNEL(row_keys), KERNEL(draw_codes),
                                 KERNEL(restore_rows)};
static const int INVALID_VALUE = 1, INVALID_PTX = 218, NOT_FOUND = 500;

extern "C" {
int cuModuleLoadData(const void **module, const char *image) {
  *module = image;
  return strstr(image, ".version") ? 0 : INVALID_PTX;
}

int cuModuleUnload(void *) { return 0; }

int cuModuleGetFunction(const Kernel **function, void *, const char *name) {
  for (const Kernel &kernel : kernels) {
    if (strcmp(name, kernel.name) == 0) return *function = &kernel, 0;
  }
  return NOT_FOUND;
}

int cuGetErrorString(int error, const char **text) {
  *text = error == NOT_FOUND ? "named symbol not found" : error == INVALID_PTX ? "a PTX JIT compilation failed" : "invalid argument";
  return 0;
}

int cuLaunchKernel(
    const Kernel *kernel, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned shared, void *,
    void **values, void **) {
  if (blocks == 0 || threads == 0 || threads > 1024 || threads % 32 || shared > sizeof dynamic_shared) return INVALID_VALUE;
  blockDim = {(int)threads};
  gridDim = {(int)blocks};
  block = std::make_unique<std::barrier<>>(threads);
  warps.clear();
  for (unsigned warp = 0; warp < threads / 32; warp++) warps.push_back(std::make_unique<std::barrier<>>(32));
  std::barrier<> end(threads);
  std::vector<std::thread> running;
  for (unsigned thread = 0; thread < threads; thread++) {
    running.emplace_back([&, thread] {
      for (unsigned index = 0; index < blocks; index++) {
        threadIdx = {(int)thread};
        blockIdx = {(int)index};
        kernel->run(values);
        end.arrive_and_wait();
      }
    });
  }
  for (std::thread &thread : running) thread.join();
  return 0;
}
}
