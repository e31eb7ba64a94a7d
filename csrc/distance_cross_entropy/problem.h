// What the parts of one loss share: its inputs, its bounds and the arithmetic of a row.
// The method, and the names in comments, are in distance_cross_entropy.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "distance_cross_entropy/distance_cross_entropy.h"
#include "simd/softmax.h"

namespace spae::cross_entropy {

// See distance_cross_entropy.h.
inline constexpr double kExactError = 0x1p-8;
inline constexpr double kLeftError = 0x1p-20;
inline constexpr double kRaise = 20;
inline constexpr double kCutBits = 26;
// Keeps 0 * infinity out. Exponents below 2^-20 are 0 to fp32, and from 2^80 on any difference decides.
inline constexpr double kMinSlope = 0x1p-100, kMaxSlope = 0x1p100;

// A query and the sum of its weights so far.
struct Row {
  int64_t query = -1;  // -1: only fills up a vector
  double squares = 0;  // |Q|^2
  double norm = 0;     // N_q
  double slack = 0;    // E_q
  double own = 0;      // d_y
  double origin = std::numeric_limits<double>::infinity();  // d_0; infinite before the first code but the target
  double total = 0;                                         // Z
};

// log(1 + e^a) and 1 / (1 + e^-a).
inline float loss_of(double odds) {
  return static_cast<float>(std::fmax(odds, 0.0) + std::log1p(std::exp(-std::fabs(odds))));
}
inline double share_of(double odds) { return 1.0 / (1.0 + std::exp(-odds)); }

struct Problem {
  Problem(const CrossEntropyInput& input, const simd::Kernels& set, bool with_gradient)
      : in(input),
        definition(set),
        kernels(softmax::of(set)),
        with_gradient(with_gradient),
        width(input.codes.width()),
        padded(num_tiles(input.codes.count()) * simd::kTile),
        tiles((padded + softmax::kTileCodes - 1) / softmax::kTileCodes),
        error_slope(query_slope(width)),
        scale(input.prepared.scale),
        slope(std::clamp(2.0 / (scale * scale * input.temperature), kMinSlope, kMaxSlope)),
        gap(std::log(static_cast<double>(input.codes.count())) + kCutBits * std::log(2.0)) {}

  // The definition's distance of a query and a code; scratch [2, D].
  double sqdist(int64_t query, int64_t code, float* scratch) const {
    const float* q = in.queries.row(query, scratch);
    return definition.sqdist(q, in.codes.row(code, scratch + width), width);
  }

  // E of a row and codes of at most this norm.
  double error(const Row& row, double norm) const {
    return slope * ((error_slope * row.norm + kCodeSlope * norm) * norm + row.slack);
  }

  float score_of(const Row& row, double sqdist) const {
    return static_cast<float>(0.5 * (row.squares - scale * sqdist * scale));
  }

  double sqdist_of(const Row& row, float score) const { return (row.squares - 2.0 * score) / scale / scale; }

  // Makes a distance the row's origin and its score the reference, which float rounds. The origin is what that float
  // stands for, so that exponents in fp32 and those of evaluated codes agree; where that would move it far, the distance.
  void refer(Row& row, float& reference, double sqdist) const {
    reference = score_of(row, sqdist);
    const bool fine = slope * kUnit * std::fabs(reference) <= kExactError;
    row.origin = fine ? sqdist_of(row, reference) : sqdist;
  }

  // The same later on; returns what the row's sums so far have to be multiplied by.
  float raise(Row& row, float& reference, double sqdist) const {
    const double before = row.origin;
    refer(row, reference, sqdist);
    const double factor = std::exp(std::min((row.origin - before) / in.temperature, 0.0));
    row.total *= factor;
    return static_cast<float>(factor);
  }

  // What weights relative to `before` have to be multiplied by to be relative to `origin`, which is no farther.
  double fade(double origin, double before) const {
    return std::isinf(before) ? 0.0 : std::exp((origin - before) / in.temperature);
  }

  const CrossEntropyInput& in;
  const simd::Kernels& definition;
  const softmax::Kernels& kernels;
  const bool with_gradient;
  const int64_t width;   // D
  const int64_t padded;  // codes with those that fill up the panels
  const int64_t tiles;   // of kTileCodes
  const double error_slope;
  const double scale;  // s
  const double slope;
  const double gap;    // G
};

}  // namespace spae::cross_entropy
