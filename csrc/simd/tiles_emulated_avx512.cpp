#include "simd/tile_emulation.h"

#if SPAE_X86

#include <immintrin.h>

#define SPAE_TARGET __attribute__((target("avx512f,avx512vnni,avx2,fma")))

namespace spae::simd {
namespace {

#include "simd/tile_lanes_avx512.h"

using Tiles = EmulatedTiles;

#include "simd/tile_schedule.h"

std::atomic<bool> lost{false};
constexpr TileKernels kTiles = {scan_pairs<false>, scan_pairs<true>, &lost};

}  // namespace

const TileKernels* emulated_tiles_avx512() {
  const Kernels* base = avx512();
  return base != nullptr && base->rows8 != 0 ? &kTiles : nullptr;
}

const Kernels* amx_emulated_avx512() {
  if (emulated_tiles_avx512() == nullptr) return nullptr;
  static const Kernels kernels = [] {
    Kernels made = *avx512();
    made.name = "amx-emulated-avx512";
    made.tiles = &kTiles;
    return made;
  }();
  return &kernels;
}

}  // namespace spae::simd

#else

namespace spae::simd {
const TileKernels* emulated_tiles_avx512() { return nullptr; }
const Kernels* amx_emulated_avx512() { return nullptr; }
}  // namespace spae::simd

#endif
