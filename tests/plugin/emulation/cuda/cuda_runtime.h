// As much of the CUDA runtime as plugin/attention_aggregation.cu uses, over the emulated machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "../machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(8) float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

struct dim3 {
  dim3(size_t x = 1, size_t y = 1, size_t z = 1)
      : x(static_cast<unsigned>(x)), y(static_cast<unsigned>(y)), z(static_cast<unsigned>(z)) {}
  unsigned x, y, z;
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = emulation::Machine::instance().settings.multiprocessors;
  return cudaSuccess;
}

// 99 KiB: what the smallest of the supported chips, sm_120, gives one block.
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= 99 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const auto index = [](dim3 d) { return emulation::Index{d.x, d.y, d.z}; };
  emulation::Machine::instance().run_grid(index(config->gridDim), index(config->blockDim), config->dynamicSmemBytes,
                                          [&] { kernel(arguments...); });
  return cudaSuccess;
}
