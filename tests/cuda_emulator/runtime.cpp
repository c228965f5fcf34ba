// A CUDA runtime of one device whose memory is the host's. Copies are done when the queue is waited for, as late as a device may: who
// changes what is still to be copied sees it.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

struct Copy { void *to; const void *from; size_t bytes; };
static std::vector<Copy> queue;
static const size_t MEMORY = size_t(1) << 31;
static const int OUT_OF_MEMORY = 2;

extern "C" {
const char *cudaGetErrorString(int error) { return error == OUT_OF_MEMORY ? "out of memory" : "unknown error"; }

int cudaGetDeviceCount(int *count) { return *count = 1, 0; }

int cudaGetDeviceProperties(char *properties, int) { return strcpy(properties, "Emulated GPU"), 0; }

int cudaMalloc(void **place, size_t bytes) {
  if (bytes > MEMORY) return OUT_OF_MEMORY;
  return *place = aligned_alloc(256, (bytes + 255) / 256 * 256), 0;
}

int cudaFree(void *place) { return free(place), 0; }

int cudaMallocHost(void **place, size_t bytes) { return cudaMalloc(place, bytes); }

int cudaFreeHost(void *place) { return free(place), 0; }

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, void *) { return queue.push_back({to, from, bytes}), 0; }

int cudaStreamCreate(uint64_t *stream) { return *stream = 1, 0; }

int cudaStreamSynchronize(void *) {
  for (const Copy &copy : queue) memcpy(copy.to, copy.from, copy.bytes);
  return queue.clear(), 0;
}

int cudaStreamDestroy(void *) { return 0; }
}
