// The screen for sm_90a: tiles of 128 queries x 256 codes x 64, brought by one warp's TMA through a ring of four stages
// to two warpgroups that multiply by wgmma, 64 queries each. A block per multiprocessor stays and takes items in turn.
//
// The two share the codes: a stage of 48 KiB feeds 1,024 cycles of the tensor cores, so that 48 bytes a cycle come
// from L2; two with tiles of their own, 128 x 128 or 64 x 256, would need 64 or 80. They take turns all the same
// (ping-pong): the first starts two stages ahead, so that one's comparisons fall beside the other's products. A stage is
// free when both have released it, which keeps them within a ring of each other.
#include <cuda.h>

#include "nearest_code/cuda/screen.cuh"

namespace spae::cuda {
namespace {

constexpr int kStages = 4;
constexpr int kCodes = 2 * kTile;  // of a block's tile
constexpr int kStep = 64;          // elements of a stage
constexpr int kRowBytes = 2 * kStep;
constexpr int kQueryBytes = kRowBlock * kRowBytes;
constexpr int kStageBytes = kQueryBytes + kCodes * kRowBytes;
constexpr int kWarpgroup = 128;
constexpr int kConsumers = 2;
constexpr int kThreads = kWarpgroup * (1 + kConsumers);
constexpr int kHeadStart = 2;                            // stages, less than kStages
constexpr int kHeadStartBarrier = 1;                     // 0 is __syncthreads'
constexpr int kSharedBytes = kStages * (kStageBytes + 2 * static_cast<int>(sizeof(uint64_t)));
// 128 x 40 + 256 x 232 <= 65536; the kernel starts with 168 each.
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;

static_assert(kHeadStart < kStages);
static_assert(kStageBytes % 1024 == 0, "the swizzle's atom");

// Matrix descriptor of wgmma (PTX ISA, "Matrix descriptor"): address and offsets in units of 16 bytes in bits 0-13,
// 16-29 (leading dimension: not used where one swizzle atom holds all of K) and 32-45 (from eight rows to the next eight);
// bits 62-63: 1, the 128-byte swizzle. The swizzle works on address bits, and atoms are aligned, so that the next 16
// elements of every row are 32 bytes on.
__host__ __device__ constexpr uint64_t descriptor(uint32_t address) {
  return (uint64_t{1} << 62) | (uint64_t{8 * kRowBytes / 16} << 32) | (uint64_t{1} << 16) | ((address & 0x3ffff) >> 4);
}

// Position in the ring. Consumers wait for the full barrier's phase, the producer for the empty barrier's before that,
// which passes in the first round.
struct Ring {
  uint32_t stage = 0;
  uint32_t phase = 0;

  __host__ __device__ constexpr void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Where a stage's tiles and barriers lie.
struct Layout {
  uint32_t base;

  __device__ uint32_t queries(uint32_t stage) const { return base + stage * kStageBytes; }
  __device__ uint32_t codes(uint32_t stage) const { return queries(stage) + kQueryBytes; }
  __device__ uint32_t full(uint32_t stage) const { return base + kStages * kStageBytes + stage * 8; }
  __device__ uint32_t empty(uint32_t stage) const { return full(kStages) + stage * 8; }
};

struct Arguments {
  CUtensorMap queries;
  CUtensorMap codes;
  Screen screen;
};

__device__ __forceinline__ void produce(const Arguments& arguments, Layout layout) {
  const Screen& screen = arguments.screen;
  Ring ring;
  for (int64_t index = blockIdx.x; index < num_items(screen); index += gridDim.x) {
    const Item work = item(screen, index);
    for (int tile = work.begin; tile < work.end; tile += kCodes / kTile) {
      for (int column = 0; column < screen.width; column += kStep, ring.advance()) {
        const uint32_t full = layout.full(ring.stage);
        ptx::mbarrier_wait(layout.empty(ring.stage), ring.phase ^ 1);
        ptx::mbarrier_arrive_expect(full, kStageBytes);
        ptx::tma_load_2d(layout.queries(ring.stage), &arguments.queries, full, column, static_cast<int>(work.row));
        ptx::tma_load_2d(layout.codes(ring.stage), &arguments.codes, full, column, tile * kTile);
      }
    }
  }
}

// sums = 64 queries x 256 codes. `head_start` says whether to let the other consumer go when it is over.
__device__ __forceinline__ void multiply(float (&sums)[128], Layout layout, Ring& ring, int steps, int consumer,
                                         bool head_start) {
  const bool releases = threadIdx.x % 32 == 0;  // for its warp: each waits for its own quarter of the products
  uint32_t previous = 0;
  for (int step = 0; step < steps; ++step, ring.advance()) {
    ptx::mbarrier_wait(layout.full(ring.stage), ring.phase);
    const uint64_t a = descriptor(layout.queries(ring.stage) + static_cast<uint32_t>(consumer * 64 * kRowBytes));
    const uint64_t b = descriptor(layout.codes(ring.stage));
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) {
      ptx::wgmma_m64n256k16(sums, a + k * 2, b + k * 2, step > 0 || k > 0);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();  // the stage before this one has been read
    if (step > 0 && releases) ptx::mbarrier_arrive(layout.empty(previous));
    previous = ring.stage;
    if (head_start && step + 1 == (steps < kHeadStart ? steps : kHeadStart)) {
      ptx::named_barrier_arrive(kHeadStartBarrier, kConsumers * kWarpgroup);
    }
  }
  ptx::wgmma_wait<0>();
  if (releases) ptx::mbarrier_arrive(layout.empty(previous));
}

// Writes the summaries of tile and, before `end`, tile + 1. This thread's sums are of `row` and `row` + 8.
__device__ __forceinline__ void finish_tiles(const Screen& screen, const float (&sums)[128], int64_t row,
                                             const float (&factor)[2], int tile, int end, int lane) {
  const int column = fragment_column(lane);
#pragma unroll
  for (int half = 0; half < kCodes / kTile; ++half) {
    if (tile + half >= end) return;
    TopTwo top[2];
    const float* bias = screen.bias + int64_t{tile + half} * kTile + column;
#pragma unroll
    for (int j = 0; j < kTile / 8; ++j) {
      const auto [left, right] = *reinterpret_cast<const float2*>(bias + 8 * j);
      const int i = 4 * (half * (kTile / 8) + j);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        top[h].add(fmaf(sums[i + 2 * h], factor[h], left), 8 * j);
        top[h].add(fmaf(sums[i + 2 * h + 1], factor[h], right), 8 * j + 1);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h].complete(column);
      top[h].merge_lanes();
      if (lane % 4 == 0) {
        const int64_t target = int64_t{tile + half} * screen.rows + row + 8 * h;
        screen.first[target] = top[h].first;
        screen.second[target] = top[h].second;
      }
    }
  }
}

__device__ __forceinline__ void consume(const Screen& screen, Layout layout, int consumer) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, lane = thread % 32;
  const int local = consumer * 64 + thread / 32 * 16 + fragment_row(lane);
  if (consumer > 0) ptx::named_barrier_sync(kHeadStartBarrier, kConsumers * kWarpgroup);
  bool head_start = consumer == 0;
  Ring ring;
  float sums[128];
  for (int64_t index = blockIdx.x; index < num_items(screen); index += gridDim.x) {
    const Item work = item(screen, index);
    const int64_t row = work.row + local;
    const float factor[2] = {screen.inverse[row], screen.inverse[row + 8]};
    for (int tile = work.begin; tile < work.end; tile += kCodes / kTile) {
      multiply(sums, layout, ring, screen.width / kStep, consumer, head_start);
      head_start = false;
      finish_tiles(screen, sums, row, factor, tile, work.end, lane);
    }
  }
}

__global__ void __launch_bounds__(kThreads, 1) screen_kernel(const __grid_constant__ Arguments arguments) {
  const Layout layout{ptx::shared_address(ptx::dynamic_shared())};
  const int warpgroup = static_cast<int>(threadIdx.x) / kWarpgroup;
  if (threadIdx.x == 0) {
    ptx::tma_prefetch_map(&arguments.queries);
    ptx::tma_prefetch_map(&arguments.codes);
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(layout.full(stage), 1);
      ptx::mbarrier_init(layout.empty(stage), kConsumers * kWarpgroup / 32);
    }
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if (warpgroup == 0) {
    ptx::registers_decrease<kProducerRegisters>();
    if (threadIdx.x == 0) produce(arguments, layout);
  } else {
    ptx::registers_increase<kConsumerRegisters>();
    consume(arguments.screen, layout, warpgroup - 1);
  }
}

// The driver's cuTensorMapEncodeTiled, found at run time so that nothing links to it; null if it has none.
decltype(&cuTensorMapEncodeTiled) encoder() {
  constexpr const char* kName = "cuTensorMapEncodeTiled";
  void* function = nullptr;
  auto found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const auto error = cudaGetDriverEntryPointByVersion(kName, &function, 12000, cudaEnableDefault, &found);
#else  // the one that CUDA 13 has no more
  const auto error = cudaGetDriverEntryPoint(kName, &function, cudaEnableDefault, &found);
#endif
  const bool usable = error == cudaSuccess && found == cudaDriverEntryPointSuccess;
  return usable ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function) : nullptr;
}

// fp16 [rows, width], read in boxes of [box_rows, kStep] in the 128-byte swizzle, zero beyond the last row.
bool encode(CUtensorMap* map, const uint16_t* data, int64_t rows, int width, int box_rows) {
  static const auto function = encoder();
  if (function == nullptr) return false;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(width) * sizeof(uint16_t)};
  const cuuint32_t box[] = {kStep, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  return function(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<uint16_t*>(data), sizes, strides, box, steps,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

cudaError_t screen_sm90a(const Screen& screen, cudaStream_t stream) {
  Arguments arguments{.queries = {}, .codes = {}, .screen = screen};
  if (!encode(&arguments.queries, screen.queries, screen.rows, screen.width, kRowBlock) ||
      !encode(&arguments.codes, screen.codes, int64_t{screen.tiles} * kTile, screen.width, kCodes)) {
    return cudaErrorNotSupported;
  }
  const int64_t items = num_items(screen);
  const auto blocks = static_cast<unsigned>(items < screen.processors ? items : screen.processors);
  return launch(screen_kernel, dim3(blocks), kThreads, kSharedBytes, stream, arguments);
}

}  // namespace spae::cuda
