#include "simd/simd.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "simd/tiles.h"

namespace spae::simd {
namespace {

// Four floats in whatever the baseline has (SSE2, NEON; two or four scalars elsewhere).
typedef float Vec4 __attribute__((vector_size(16)));

inline Vec4 load(const float* from) {
  Vec4 to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

// 4 rows x 8 codes, four times: 8 accumulators in a baseline's 16 registers.
template <int R>
uint32_t screen(const Tile& tile) {
  constexpr int64_t kCodes = 8;
  const int64_t width = tile.width;
  uint32_t hits = 0;
  for (int64_t first = 0; first < kTile; first += kCodes) {
    const float* codes = tile.panels + first / kPanel * width * kPanel + first % kPanel;
    Vec4 sums[R][2] = {};
    for (int64_t d = 0; d < width; ++d) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const float x = tile.queries[d * R + r];
        const Vec4 q = {x, x, x, x};
        sums[r][0] += q * load(codes + d * kPanel);
        sums[r][1] += q * load(codes + d * kPanel + 4);
      }
    }
    for (int r = 0; r < R; ++r) {
      float* scores = tile.scores + r * kTile + first;
      std::memcpy(scores, sums[r], sizeof sums[r]);
      bool hit = false;
      for (int64_t j = 0; j < kCodes; ++j) {
        scores[j] = (scores[j] + tile.slopes[r] * tile.norms[first + j]) + tile.bias[first + j];
        hit |= scores[j] >= tile.thresholds[r];
      }
      hits |= static_cast<uint32_t>(hit) << r;
    }
  }
  return hits;
}

// One row x 16 codes at a time.
template <int R, bool kMaxima>
uint32_t screen8(const Tile8& tile) {
  uint32_t hits = 0;
  for (int r = 0; r < R; ++r) {
    const QueryRow8& row = tile.rows[r];
    bool hit = false;
    if (kMaxima) tile.scores[r] = -std::numeric_limits<float>::infinity();
    for (int64_t half = 0; half < 2; ++half) {
      int32_t sums[kPanel];
      std::fill(sums, sums + kPanel, row.start);
      for (int64_t w = 0; w < tile.words; ++w) {
        const uint8_t* codes = tile.panels + (half * tile.panel_words + w) * 4 * kPanel;
        int8_t query[4];
        std::memcpy(query, tile.queries + w * R + r, sizeof query);
        for (int64_t j = 0; j < kPanel; ++j)
          for (int64_t i = 0; i < 4; ++i) sums[j] += codes[4 * j + i] * query[i];
      }
      for (int64_t j = 0; j < kPanel; ++j) {
        const int64_t k = half * kPanel + j;
        const float z = (tile.bias[k] + row.norm_slope * tile.norms[k]) + row.residual_slope * tile.residuals[k];
        const float v = static_cast<float>(sums[j]) * (row.step * tile.steps[k]) + z;
        if constexpr (kMaxima) {
          tile.scores[r] = std::max(tile.scores[r], v);
        } else {
          tile.scores[r * kTile + k] = v;
          hit |= v >= tile.thresholds[r];
        }
      }
    }
    hits |= static_cast<uint32_t>(hit) << r;
  }
  return hits;
}

double sqdist(const float* q, const float* c, int64_t width) {
  constexpr int64_t kLanes = 32;
  double acc[kLanes] = {};
  for (int64_t start = 0; start < width; start += kLanes) {
    const int64_t lanes = std::min(kLanes, width - start);
    for (int64_t j = 0; j < lanes; ++j) {
      const double t = static_cast<double>(q[start + j]) - static_cast<double>(c[start + j]);
      uint64_t bits;
      std::memcpy(&bits, &t, sizeof bits);
      bits = (bits + (uint64_t{1} << 26)) & ~((uint64_t{1} << 27) - 1);
      double hi;
      std::memcpy(&hi, &bits, sizeof hi);
      const double lo = t - hi;
      acc[j] += hi * hi;
      acc[j] += (2.0 * hi) * lo;
      acc[j] += lo * lo;
    }
  }
  for (int64_t w = kLanes / 2; w > 0; w /= 2)
    for (int64_t j = 0; j < w; ++j) acc[j] += acc[j + w];
  return acc[0];
}

constexpr Kernels kPortable = {"portable",
                               4,
                               {nullptr, screen<1>, screen<2>, screen<3>, screen<4>},
                               sqdist,
                               4,
                               {nullptr, screen8<1, false>, screen8<2, false>, screen8<3, false>, screen8<4, false>},
                               {nullptr, screen8<1, true>, screen8<2, true>, screen8<3, true>, screen8<4, true>},
                               127,
                               std::numeric_limits<int64_t>::max()};

}  // namespace

const Kernels* portable() { return &kPortable; }

namespace {

// Fastest first. One is looked at only where it may be taken: finding out about some takes time and permission.
struct Set {
  std::string_view name;
  const Kernels* (*find)();
};
constexpr Set kSets[] = {{"amx", amx},
                         {"avx512", avx512},
                         {"avxvnni", avxvnni},
                         {"avx2", avx2},
                         {"portable", portable},
                         {"amx-emulated-avx512", amx_emulated_avx512},
                         {"amx-emulated", amx_emulated}};

}  // namespace

std::vector<std::string_view> available() {
  std::vector<std::string_view> names;
  for (const Set& set : kSets)
    if (set.find() != nullptr) names.push_back(set.name);
  return names;
}

const Kernels* find(std::string_view name) {
  for (const Set& set : kSets) {
    if (!is_automatic(name) && name != set.name) continue;
    if (const Kernels* kernels = set.find()) return kernels;
  }
  return nullptr;
}

}  // namespace spae::simd
