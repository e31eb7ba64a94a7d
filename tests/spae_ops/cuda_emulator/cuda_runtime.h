// What the kernels and their launchers use of CUDA's runtime, on the emulator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "cuda.h"
#include "emulator.h"

#ifndef CUDART_VERSION
#define CUDART_VERSION 13000
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after the other
#define __grid_constant__
#define __launch_bounds__(...)

inline const emulator::Index& threadIdx = emulator::thread_index;
inline const emulator::Index& blockIdx = emulator::block_index;
inline const emulator::Index& gridDim = emulator::grid_size;

using cudaStream_t = void*;

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorNotSupported, cudaErrorLaunchFailure };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
inline constexpr int cudaEnableDefault = 0;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct float2 {
  float x, y;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace emulator {
inline std::string last_error;
inline size_t allowed_shared = 0;
}  // namespace emulator

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? emulator::last_error.c_str() : "invalid value or not supported";
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int value) {
  if (value > 227 << 10) return cudaErrorInvalidValue;
  emulator::allowed_shared = static_cast<size_t>(value);
  return cudaSuccess;
}

template <class Parameter, class Argument>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameter), const Argument& argument) {
  const dim3 grid = config->gridDim;
  const size_t shared = config->dynamicSmemBytes;
  if (grid.x == 0 || grid.y == 0 || grid.y > 65535 || config->blockDim.x > 1024 || config->blockDim.x % 32 != 0 ||
      (shared > 48 << 10 && shared > emulator::allowed_shared)) {
    return cudaErrorInvalidValue;
  }
  if (config->stream != emulator::current_stream) {
    emulator::last_error = "the launch is not on the current stream";
    return cudaErrorLaunchFailure;
  }
  emulator::generator.seed(emulator::settings.seed);
  const int64_t blocks = int64_t{grid.x} * grid.y, last = emulator::settings.last_blocks;
  try {
    for (int64_t i = last > 0 && last < blocks ? blocks - last : 0; i < blocks; ++i) {
      const emulator::Index index{static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x), 0};
      emulator::Block block(index, {grid.x, grid.y, 1}, static_cast<int>(config->blockDim.x),
                            static_cast<int>(shared), [&] { kernel(argument); });
      block.run();
    }
  } catch (const emulator::Failure& failure) {
    emulator::last_error = failure.what();
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

#if CUDART_VERSION >= 12050
inline cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* found) {
#else
inline cudaError_t cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long,
                                           cudaDriverEntryPointQueryResult* found) {
#endif
  const bool known = std::string(name) == "cuTensorMapEncodeTiled";
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

inline void __syncthreads() {
  if (emulator::fault == emulator::Fault::kSyncthreads) return;
  int none = 0;
  emulator::block->meet(emulator::block->block_gathering(), emulator::block->thread(), emulator::block->threads(),
                        "syncthreads", none, [](const auto&) {});
}

inline void __syncwarp() { emulator::exchange(0, "syncwarp", [](int lane) { return lane; }); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::exchange(value, "shfl.xor", [mask](int lane) { return lane ^ mask; });
}

template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return emulator::exchange(value, "shfl", [from](int) { return from; });
}

inline unsigned __ballot_sync(unsigned, bool holds) {
  struct Lane {
    bool holds;
    unsigned all;
  } mine{holds, 0};
  emulator::block->meet(emulator::block->warp_gathering(), emulator::block->thread() % 32, 32, "ballot", mine,
                        [](const std::vector<Lane*>& lanes) {
                          unsigned all = 0;
                          for (size_t i = 0; i < lanes.size(); ++i) all |= unsigned{lanes[i]->holds} << i;
                          for (Lane* lane : lanes) lane->all = all;
                        });
  return mine.all;
}

template <class To, class From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

inline int __float_as_int(float value) { return bits_as<int>(value); }
inline float __int_as_float(int value) { return bits_as<float>(value); }
inline long long __double_as_longlong(double value) { return bits_as<long long>(value); }
inline double __longlong_as_double(long long value) { return bits_as<double>(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int min(int a, int b) { return a < b ? a : b; }
