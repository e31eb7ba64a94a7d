// nearest_code on NVIDIA GPUs: what the kernels and the operators that launch them share. No torch here.
//
// The method, its proof and what it assumes of the tensor cores are in spae_ops/lookup/tensor_cores.py, whose
// functions call these in turn: frame, screen (sm_80 or sm_90a), certify, resolve, merge. Shapes: N queries and K codes
// of width D; R = N padded to kRowBlock, T = ceil(K / kTile), W = D padded to kWidthStep. Offsets are 64-bit, every
// output has one writer, and what it writes does not depend on timing.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace spae::cuda {

// These constants are tensor_cores.py's.
inline constexpr int kTile = 128;                     // codes that share a summary
inline constexpr int kRowBlock = 128;                 // queries of a block of `screen`
inline constexpr int kWidthStep = 64;
inline constexpr float kAbsent = -0x1p126f;           // the bias of codes that do not exist or may not be chosen
inline constexpr float kLowest = -0x1.8p126f;         // below every score
inline constexpr float kFloor = -0x1.ep127f;          // below every score less its slack
inline constexpr float kUnscreened = 0x1p127f;        // the slack of a query that cannot be screened
inline constexpr float kColumnSlack = 0x1.2p-16f;
inline constexpr double kInflation = 1 + 0x1p-20;
inline constexpr double kLeast = 0x1p-14;             // fp16's least normal number; what is below is framed as 0

enum class Element { kFloat, kHalf, kBFloat16 };

// A contiguous matrix [rows, width] of finite values.
struct Matrix {
  const void* data;
  Element element;
  int64_t rows;
  int64_t width;
};

// Rows x [N, D] as fp16 out [R, W] in the frame (float64 [D + 1]: shift, then scale), zero beyond N and D and below
// kLeast.
struct Frame {
  Matrix x;
  const double* frame;
  uint16_t* out;
  int64_t rows;      // R
  int64_t padded;    // W
  float* norms;      // [R]
  float* residuals;  // [R]
  float* extra;      // [R]: a query's own slack, a code's bias
  float* inverse;    // [R]: 1 / r of queries; null for codes
};

// The two largest scores of every query and tile, their columns in the low bits: first and second [T, R].
struct Screen {
  const uint16_t* queries;  // fp16 [R, W]
  const uint16_t* codes;    // fp16 [kTile T, W]
  const float* inverse;     // [R]
  const float* bias;        // [kTile T]
  float* first;
  float* second;
  int64_t rows;  // R, a multiple of kRowBlock
  int tiles;     // T
  int width;     // W, a multiple of kWidthStep
  int tiles_per_split;
  int processors;
};

// What screening leaves, and the factors of its error bound.
struct Summary {
  const float* first;      // [T, R]
  const float* second;     // [T, R]
  const float* bounds;     // [3, T]
  const float* norms;      // [R]
  const float* residuals;  // [R]
  const float* owns;       // [R]
  int64_t rows;            // R
  int tiles;               // T
};

// Answers of queries with one candidate, [N] each; the others' thresholds. A finished query's threshold is infinity.
struct Certify {
  Matrix x;
  Matrix codes;
  Summary summary;
  float* threshold;
  int64_t* ids;
  double* sqdist;
};

// The k lowest (sqdist64, id), ascending, among an unfinished query's candidates in each range of tiles: ids and sqdist
// [N, ranges, k], infinitely far where there are fewer. With `after` [N], only those past (after, after_ids) count.
struct Resolve {
  Matrix x;
  Matrix codes;
  Summary summary;
  const float* bias;       // [kTile T]
  const float* threshold;  // [N]
  const double* after;
  const int64_t* after_ids;
  int64_t* ids;
  double* sqdist;
  int tiles_per_range;
  int ranges;
  int k;
};

// The k lowest of an unfinished query's ranges, [N, size] -> [N, k].
struct Merge {
  const int64_t* partial_ids;
  const double* partial;
  const float* threshold;
  int64_t* ids;
  double* sqdist;
  int64_t rows;  // N
  int size;      // ranges * k, range by range, each ascending
  int k;
};

cudaError_t frame_rows(const Frame& frame, cudaStream_t stream);
cudaError_t screen_sm80(const Screen& screen, cudaStream_t stream);
cudaError_t screen_sm90a(const Screen& screen, cudaStream_t stream);
cudaError_t certify(const Certify& certify, cudaStream_t stream);
cudaError_t resolve(const Resolve& resolve, cudaStream_t stream);
cudaError_t merge(const Merge& merge, cudaStream_t stream);

// Launches `kernel(arguments)` on one-dimensional blocks with dynamic shared memory.
template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 grid, int threads, int shared, cudaStream_t stream,
                   const Arguments& arguments) {
  if (shared > 48 << 10) {
    const auto error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments);
}

}  // namespace spae::cuda
