// What the sm_80 and sm_90a screens share: which elements of an accumulator a thread holds, in what order blocks take
// tiles, and the two largest scores. Index maps are constexpr functions.
#pragma once

#include <cstdint>

#include "nearest_code/cuda/kernels.h"
#include "nearest_code/cuda/ptx.cuh"

namespace spae::cuda {

// Accumulators of m16n8 and of m64nN by warps: lane 4g + t holds rows g and g + 8, columns 8i + 2t and 8i + 2t + 1.
__host__ __device__ constexpr int fragment_row(int lane) { return lane / 4; }
__host__ __device__ constexpr int fragment_column(int lane) { return 2 * (lane % 4); }

// A persistent block's work: `items` in turn, of one row block and one range of tiles each. Neighbours differ in rows,
// so that blocks running together read the same codes, from L2.
struct Item {
  int64_t row;
  int begin;  // tiles
  int end;
};

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

__host__ __device__ constexpr int64_t num_items(const Screen& screen) {
  return screen.rows / kRowBlock * ceil_div(screen.tiles, screen.tiles_per_split);
}

__host__ __device__ constexpr Item item(const Screen& screen, int64_t index) {
  const int64_t blocks = screen.rows / kRowBlock;
  const int begin = static_cast<int>(index / blocks) * screen.tiles_per_split;
  const int end = begin + screen.tiles_per_split;
  return {index % blocks * kRowBlock, begin, end < screen.tiles ? end : screen.tiles};
}

// The two largest of a row's scores with their columns: w of the proof, whose low 7 bits are the column in the tile.
// Columns differ, so no two are equal.
struct TopTwo {
  float first = kLowest;
  float second = kLowest;

  // `column` may leave out bits that all scores given to one TopTwo share; `complete` adds them.
  __device__ void add(float score, int column) {
    const float packed = __int_as_float((__float_as_int(score) & -kTile) | column);
    second = fmaxf(second, fminf(first, packed));
    first = fmaxf(first, packed);
  }

  __device__ void complete(int column) {
    first = __int_as_float(__float_as_int(first) | column);
    second = __int_as_float(__float_as_int(second) | column);
  }

  __device__ void merge(float other_first, float other_second) {
    second = fmaxf(fmaxf(second, other_second), fminf(first, other_first));
    first = fmaxf(first, other_first);
  }

  // Over the four lanes that hold one row.
  __device__ void merge_lanes() {
    for (int step = 1; step <= 2; step *= 2) {
      const float other_first = __shfl_xor_sync(0xffffffffu, first, step);
      const float other_second = __shfl_xor_sync(0xffffffffu, second, step);
      merge(other_first, other_second);
    }
  }
};

}  // namespace spae::cuda
