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
// Cut. G = log K + 26 log 2. Write d_1 for the least distance of a code other than the target. Every code with
// d_k > d_1 + tau G has less than e^-G = 2^-26 / K of the largest of Z's weights, so without them
// - Z falls by less than 2^-26 of itself, hence a by less than 2^-26 (1 + 2^-25), and the loss by less than that share
//   of itself, as its derivative 1 / (1 + e^-a) <= log(1 + e^a). Rounding it to fp32 may take twice as much.
// - The mean of the c_k that Z weighs moves by less than 2^-26 of the distance between the mean of those left out and
//   of those kept (each by its weights), and 1 / (1 + e^-a) by less than 2^-26 of itself.
//
// Truncated rows (truncate.h). S is the set of codes other than the target with fl((d_k - d_1) / tau) <= G, all of
// them the definition's float64 distances. What comes out is the float64 sum over S in the order of ids, so it depends
// neither on how S was found nor on the instruction set. The screen finds it: a code of S has
//   d_k <= d_1 + tau G (1 + 3w) <= cut = fl((d_e + tau G) (1 + 2^-48))   for any evaluated code e but the target,
// as d_1 <= d_e and the three roundings of cut (w each) are less than 2^-48. So it reaches nearest_code.h's threshold
// for S = cut, in fp32 or int8, of all elements or of a prefix. While tiles are scored, before anything is evaluated,
// lower bounds do: s^2 d_k <= s^2 d_j + s^2 tau G means score_k + delta_k >= score_j - delta_j - s^2 tau G / 2, so with
//   threshold = lower_j - E_q - s^2 tau G / 2 (1 + 2^-48), rounded down,
// a tile without a v_k >= threshold has no code of S.
//
// Other rows. Scores are those of nearest_code.h, in its frame, in fp32: s^2 d_k = |Q|^2 - 2 score_k, so the exponents
// are slope (score_k - reference) with slope = 2 / (s^2 tau). The frame's shift takes a common mean of the codes out of
// all roundings. d_y is the definition's float64 distance. Three bounds decide what is done with a tile of codes, all
// with E = slope (A N_q N_k + B N_k^2 + E_q), the scores' error in units of exponents (nearest_code.h):
// - Left out are codes below the cut, of the best so far but the target and with E allowed for. Where no row of a block
//   needs a code, neither its exponential nor its part of the second product is computed.
// - Where E exceeds kExactError, codes whose weight times E / sqrt(D), about the error they bring, may exceed kLeftError
//   of the best are evaluated by the definition instead. There exponents lie so far apart that these are few.
// - The reference is the best of the first tile, the target apart, and follows the best once that is kRaise ahead, so
//   that no exponential overflows, nor all of them underflow.
// Rows too large for the frame (N_q > 2^60) are evaluated by the definition altogether.
//
// Chunks of codes and groups of rows form the tasks. They depend on K, D and how many rows are not truncated, which the
// inputs decide, and the chunks of a group are merged in order, so the result does not depend on the number of threads.
#pragma once

#include <cstdint>

#include "common/rows.h"
#include "nearest_code/cpu/nearest_code.h"
#include "simd/simd.h"

namespace spae {

struct CrossEntropyInput {
  const Rows& queries;
  const Rows& codes;
  const PreparedCodes& prepared;
  const int64_t* target;  // [N]
  double temperature;
};

struct CrossEntropyOutput {
  float* loss;         // [N]
  float* gradient;     // [N, D], or null if it is not wanted
  int64_t* evaluated;  // [N]: the codes that make up a truncated row, the target apart; -1 for other rows
};

// Which rows are truncated: those of which that seems to pay, none, or all but those too large for the frame.
enum class TruncateChoice { kAuto, kOff, kOn };

struct CrossEntropyOptions {
  TruncateChoice truncate = TruncateChoice::kAuto;
  bool named_isa = false;  // the instruction set is somebody's choice
};

void distance_cross_entropy(const CrossEntropyInput& input, const simd::Kernels& kernels,
                            const CrossEntropyOptions& options, const CrossEntropyOutput& out);

}  // namespace spae
