// The screen for sm_80 and later: mma.sync m16n8k16 on tiles of 128 queries x 128 codes x 32, three of which are on
// their way to shared memory by cp.async. 50 KiB and at most 128 registers a thread, so that two blocks share a
// multiprocessor, one block's comparisons beside the other's products, also where it has 100 KiB (8.6, 8.9, 12.0).
#include "nearest_code/cuda/screen.cuh"

namespace spae::cuda {
namespace {

constexpr int kStages = 3;
constexpr int kStep = 32;              // elements of a stage
constexpr int kRowBytes = 2 * kStep;   // 64, in four chunks of 16 bytes
constexpr int kOperandBytes = 128 * kRowBytes;
constexpr int kStageBytes = 2 * kOperandBytes;
constexpr int kThreads = 256;
constexpr int kSharedBytes = kStages * kStageBytes + kRowBlock * 2 * static_cast<int>(sizeof(float));

// Eight warps, 4 x 2, each with 32 queries x 64 codes.
__host__ __device__ constexpr int warp_row(int warp) { return warp / 2 * 32; }
__host__ __device__ constexpr int warp_column(int warp) { return warp % 2 * 64; }

// ldmatrix of four 8x8 matrices, in the order in which mma takes a's registers; 2 b's of 8 columns each for `codes`.
__host__ __device__ constexpr int query_row(int lane) { return lane % 16; }
__host__ __device__ constexpr int query_chunk(int lane) { return lane / 16; }
__host__ __device__ constexpr int code_row(int lane) { return lane % 8 + lane / 16 * 8; }
__host__ __device__ constexpr int code_chunk(int lane) { return lane / 8 % 2; }

// Where 16 bytes of a row lie: as in TMA's 64-byte swizzle (PTX ISA, "Tensor swizzling modes"), the chunk index,
// address bits 4 and 5, is XORed with bits 7 and 8, so that eight rows of one chunk lie in eight different groups of
// four banks.
__host__ __device__ constexpr uint32_t element_offset(int row, int chunk) {
  const auto address = static_cast<uint32_t>(row * kRowBytes + chunk * 16);
  return address ^ ((address >> 3) & 0x30);
}

// Copies elements [column, column + 32) of 128 queries and 128 codes: two chunks of each by every thread.
__device__ __forceinline__ void load_stage(const Screen& screen, uint32_t stage, int64_t row, int64_t code,
                                           int column) {
  for (int half = 0; half < 2; ++half) {
    const int local = static_cast<int>(threadIdx.x) / 4 + half * 64, chunk = static_cast<int>(threadIdx.x) % 4;
    const uint32_t offset = element_offset(local, chunk);
    const int64_t element = column + chunk * 8;
    ptx::cp_async_16(stage + offset, screen.queries + (row + local) * screen.width + element);
    ptx::cp_async_16(stage + kOperandBytes + offset, screen.codes + (code + local) * screen.width + element);
  }
}

__device__ __forceinline__ void multiply_stage(uint32_t stage, float (&sums)[2][8][4], int warp, int lane) {
#pragma unroll
  for (int k = 0; k < kStep / 16; ++k) {
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = warp_row(warp) + i * 16 + query_row(lane);
      ptx::ldmatrix_x4(a[i], stage + element_offset(row, 2 * k + query_chunk(lane)));
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t b[4];
      const int row = warp_column(warp) + j * 16 + code_row(lane);
      ptx::ldmatrix_x4(b, stage + kOperandBytes + element_offset(row, 2 * k + code_chunk(lane)));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        ptx::mma_m16n8k16(sums[i][2 * j], a[i], b[0], b[1]);
        ptx::mma_m16n8k16(sums[i][2 * j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// Row of the block that sums[i][..][2h], [2h + 1] belong to.
__host__ __device__ constexpr int sum_row(int warp, int lane, int i, int h) {
  return warp_row(warp) + i * 16 + h * 8 + fragment_row(lane);
}

// Writes the tile's summary; sums become zero. other [128][2]: shared, what the right half of the warps found.
__device__ __forceinline__ void finish_tile(const Screen& screen, float (&sums)[2][8][4], float* other, int64_t row,
                                            int tile, int warp, int lane) {
  TopTwo top[2][2];
  const int column = warp_column(warp) + fragment_column(lane);
  const float* bias = screen.bias + int64_t{tile} * kTile + column;
  float factor[2][2];
  for (int i = 0; i < 2; ++i) {
    for (int h = 0; h < 2; ++h) factor[i][h] = screen.inverse[row + sum_row(warp, lane, i, h)];
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const auto [left, right] = *reinterpret_cast<const float2*>(bias + 8 * j);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float(&pair)[4] = sums[i][j];
        top[i][h].add(fmaf(pair[2 * h], factor[i][h], left), 8 * j);
        top[i][h].add(fmaf(pair[2 * h + 1], factor[i][h], right), 8 * j + 1);
        pair[2 * h] = pair[2 * h + 1] = 0;
      }
    }
  }
  const bool writes = lane % 4 == 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[i][h].complete(column);
      top[i][h].merge_lanes();
      float* mine = other + 2 * sum_row(warp, lane, i, h);
      if (writes && warp % 2 == 1) {
        mine[0] = top[i][h].first;
        mine[1] = top[i][h].second;
      }
    }
  }
  __syncthreads();
  if (!writes || warp % 2 == 1) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int local = sum_row(warp, lane, i, h);
      top[i][h].merge(other[2 * local], other[2 * local + 1]);
      const int64_t target = int64_t{tile} * screen.rows + row + local;
      screen.first[target] = top[i][h].first;
      screen.second[target] = top[i][h].second;
    }
  }
}

// Position among a block's stages: the elements [step * kStep, ..) of a tile.
struct Cursor {
  int tile;
  int step = 0;

  __device__ void advance(int steps) {
    if (++step == steps) {
      step = 0;
      ++tile;
    }
  }
};

__global__ void __launch_bounds__(kThreads, 2) screen_kernel(const __grid_constant__ Screen screen) {
  unsigned char* memory = ptx::dynamic_shared();
  const uint32_t stages = ptx::shared_address(memory);
  auto* other = reinterpret_cast<float*>(memory + kStages * kStageBytes);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const Item work = item(screen, blockIdx.x);
  const int steps = screen.width / kStep;
  Cursor ahead{work.begin};
  const auto load_next = [&](int stage) {
    if (ahead.tile < work.end) {
      load_stage(screen, stages + static_cast<uint32_t>(stage * kStageBytes), work.row, int64_t{ahead.tile} * kTile,
                 ahead.step * kStep);
      ahead.advance(steps);
    }
    ptx::cp_async_commit();  // of nothing at the end, so that every stage is one group
  };
  for (int stage = 0; stage < kStages - 1; ++stage) load_next(stage);
  float sums[2][8][4] = {};
  int stage = 0;
  for (Cursor now{work.begin}; now.tile < work.end; now.advance(steps)) {
    ptx::cp_async_wait<kStages - 2>();
    // Everybody's chunks of this stage have come, and everybody is done with the one before, which is loaded next.
    __syncthreads();
    load_next((stage + kStages - 1) % kStages);
    multiply_stage(stages + static_cast<uint32_t>(stage * kStageBytes), sums, warp, lane);
    // The barrier above lies between two uses of `other`.
    if (now.step == steps - 1) finish_tile(screen, sums, other, work.row, now.tile, warp, lane);
    stage = (stage + 1) % kStages;
  }
}

}  // namespace

cudaError_t screen_sm80(const Screen& screen, cudaStream_t stream) {
  return launch(screen_kernel, dim3(static_cast<unsigned>(num_items(screen))), kThreads, kSharedBytes, stream, screen);
}

}  // namespace spae::cuda
