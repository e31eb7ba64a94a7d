// Distance cross-entropy on CPUs: the loss and its gradient from one pass over the codes, no score ever stored.
//
//   loss = -log( exp(-d_y / tau) / sum_k exp(-d_k / tau) ),   d_k = |x - c_k|^2,   y the target
//   gradient = 2 / tau (sum_k p_k c_k - c_y).
// With the target taken out of the sums, Z = sum_{k != y} exp((d_0 - d_k) / tau) for any origin d_0 and
// a = log Z + (d_y - d_0) / tau, no step cancels, however near 1 the target's probability is:
//   loss = log(1 + e^a),   gradient = 2 / tau * 1 / (1 + e^-a) * (sum_{k != y} w_k c_k / Z - c_y).
// So both are as accurate, relative to themselves, as the exponents are absolutely: within E, below, and 2^-20. (The
// gradient's error is relative to 1 / (1 + e^-a) times the longest c_k - c_y that counts, for its terms may cancel.)
//
// Scores are those of nearest_code.h, in its frame, in fp32: s^2 d_k = |Q|^2 - 2 score_k, so the exponents are
// slope (score_k - reference) with slope = 2 / (s^2 tau). The frame's shift takes a common mean of the codes out of all
// roundings. d_y is the definition's float64 distance. Three bounds decide what is done with a tile of codes, all with
// E = slope (A N_q N_k + B N_k^2 + E_q), the scores' error in units of exponents (nearest_code.h):
// - Left out are codes whose weight is below 2^-26 / K of the row's best so far but the target, E allowed for: together
//   they take less than 2^-26 of Z. Where no row of a block needs a code, neither its exponential nor its part of the
//   second product is computed.
// - Where E exceeds kExactError, codes whose weight times E / sqrt(D), about the error they bring, may exceed kLeftError
//   of the best are evaluated by the definition instead. There exponents lie so far apart that these are few.
// - The reference is the best of the first tile, the target apart, and follows the best once that is kRaise ahead, so
//   that no exponential overflows, nor all of them underflow.
// Rows too large for the frame (N_q > 2^60) are evaluated by the definition altogether.
//
// Chunks of codes and groups of rows form the tasks. They depend on N, K and D only, and the chunks of a group are merged
// in order, so the result does not depend on the number of threads.
#pragma once

#include <cstdint>

#include "common/rows.h"
#include "nearest_code/cpu/nearest_code.h"
#include "simd/simd.h"

namespace spae {

struct CrossEntropyInput {
  const Rows& queries;
  const Rows& codes;
  const int64_t* target;  // [N]
  double temperature;
  const float* panels;  // the rest as in PreparedCodes
  const float* bias;
  const float* norms;
  const double* shift;
  double scale;
};

// loss [N]; gradient [N, D], or null if it is not wanted.
void distance_cross_entropy(const CrossEntropyInput& input, const simd::Kernels& kernels, float* loss, float* gradient);

}  // namespace spae
