// Tensor maps of the driver API, as the emulator's TMA reads them.
#pragma once

#include <cstdint>
#include <cstring>

using cuuint32_t = uint32_t;
using cuuint64_t = uint64_t;

enum CUresult { CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE };
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_FLOAT16 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE };

struct CUtensorMap {
  alignas(64) unsigned char opaque[128];
};

namespace emulator {
struct TensorMap {
  const unsigned char* data;
  uint64_t sizes[2];  // columns, rows
  uint64_t stride;    // bytes from row to row
  uint32_t box[2];
};
}  // namespace emulator

// Two-dimensional fp16 in the 128-byte swizzle, with the requirements that the driver's documentation states for it.
inline CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data,
                                       const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                       const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const bool fits = reinterpret_cast<uintptr_t>(map) % 64 == 0 && rank == 2 &&
                    reinterpret_cast<uintptr_t>(data) % 16 == 0 && strides[0] % 16 == 0 && sizes[0] >= 1 &&
                    sizes[1] >= 1 && sizes[1] <= uint64_t{1} << 32 && box[0] * 2 <= 128 && box[0] * 2 % 16 == 0 &&
                    box[1] >= 1 && box[1] <= 256 && steps[0] == 1 && steps[1] == 1 &&
                    swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  if (!fits) return CUDA_ERROR_INVALID_VALUE;
  const emulator::TensorMap made{
      static_cast<const unsigned char*>(data), {sizes[0], sizes[1]}, strides[0], {box[0], box[1]}};
  std::memcpy(map->opaque, &made, sizeof(made));
  return CUDA_SUCCESS;
}
