#include <algorithm>
#include <mutex>

#include "simd/tile_emulation.h"

#define SPAE_TARGET

namespace spae::simd {
namespace {

struct Vec {
  float x[kPanel];
};

template <class F>
inline Vec for_each_lane(const F& make) {
  Vec made;
  for (int64_t j = 0; j < kPanel; ++j) made.x[j] = make(j);
  return made;
}

inline Vec load(const float* from) {
  return for_each_lane([&](int64_t j) { return from[j]; });
}
inline void store(float* to, const Vec& x) { std::copy(x.x, x.x + kPanel, to); }
inline Vec broadcast(float x) {
  return for_each_lane([&](int64_t) { return x; });
}
inline Vec multiply(const Vec& a, const Vec& b) {
  return for_each_lane([&](int64_t j) { return a.x[j] * b.x[j]; });
}
inline Vec multiply_add(const Vec& a, const Vec& b, const Vec& c) {
  return for_each_lane([&](int64_t j) { return a.x[j] * b.x[j] + c.x[j]; });
}
inline Vec maximum(const Vec& a, const Vec& b) {
  return for_each_lane([&](int64_t j) { return std::max(a.x[j], b.x[j]); });
}
inline Vec to_float(const int32_t* from) {
  return for_each_lane([&](int64_t j) { return static_cast<float>(from[j]); });
}
inline bool any_reaches(const Vec& a, const Vec& b) {
  bool any = false;
  for (int64_t j = 0; j < kPanel; ++j) any |= a.x[j] >= b.x[j];
  return any;
}
inline bool equal(const int32_t* a, const int32_t* b) { return std::equal(a, a + kPanel, b); }

inline void add_up(const uint8_t* panel, int64_t words, int32_t* sums) {
  std::fill(sums, sums + kPanel, kCheckStart);
  for (int64_t w = 0; w < words; ++w)
    for (int64_t j = 0; j < kPanel; ++j)
      for (int64_t i = 0; i < 4; ++i) sums[j] += panel[w * kLineBytes + 4 * j + i];
}

inline void largest_of_lines(const float* lines, float* largest) {
  for (int i = 0; i < kLines; ++i) largest[i] = *std::max_element(lines + i * kPanel, lines + (i + 1) * kPanel);
}

using Tiles = EmulatedTiles;

#include "simd/tile_schedule.h"

std::atomic<bool> lost{false};

// The loss that is to come. Guarded, but for the look whether there is any.
std::mutex loss_guard;
std::atomic<bool> loss_to_come{false};
int64_t loss_after = 0;
TileLoss next_loss;

}  // namespace

bool is_lost_now(TileLoss* loss) {
  if (!loss_to_come.load(std::memory_order_relaxed)) return false;
  const std::lock_guard<std::mutex> lock(loss_guard);
  if (!loss_to_come || loss_after-- > 0) return false;
  loss_to_come = false;
  *loss = next_loss;
  return true;
}

void lose_emulated_tiles(int64_t after, int registers, int line, int fill) {
  const std::lock_guard<std::mutex> lock(loss_guard);
  loss_to_come = after >= 0;
  loss_after = after;
  next_loss = {registers, line, fill};
  if (loss_to_come) return;
  lost = false;
  if (const TileKernels* others = emulated_tiles_avx512()) *others->lost = false;
}

const TileKernels& emulated_tiles() {
  static constexpr TileKernels kTiles = {scan_pairs<false>, scan_pairs<true>, &lost};
  return kTiles;
}

const Kernels* amx_emulated() {
  static const Kernels kernels = [] {
    Kernels made = *portable();
    made.name = "amx-emulated";
    made.tiles = &emulated_tiles();
    return made;
  }();
  return &kernels;
}

}  // namespace spae::simd
