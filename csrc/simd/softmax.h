// Kernels of a softmax over codes that is never stored: scores of a tile of codes, their weights, and the weighted sum
// of the codes. Once per instruction set, like simd.h.
//
// Query rows stand in lanes: V vectors of `lanes` rows make a block, and every array below holds a block's rows side by
// side, so maxima and sums over codes are plain vector operations. Both products broadcast elements of the same panels
// of codes, [D, 16] each as in simd.h: the scores four or more codes at a time, the sums four or more elements.
#pragma once

#include <cstdint>

#include "simd/simd.h"

namespace spae::softmax {

inline constexpr int kMaxVectors = 3;
inline constexpr int kMaxLanes = 16;
inline constexpr int kMaxBlockRows = kMaxVectors * kMaxLanes;
// Codes whose scores are held at once, a multiple of the panel. With 48 rows they fill half of a first-level cache.
inline constexpr int64_t kTileCodes = 128;

// R = V * lanes rows against `codes` codes, a multiple of 16.
struct ScoreArguments {
  const float* queries;  // [D, R]
  const float* panels;   // [codes / 16, D, 16]
  const float* bias;     // [codes]
  int64_t width;         // D
  int64_t codes;
  const char* prefetch;  // this much is fetched into cache from here on meanwhile
  int64_t prefetch_bytes;
  float* scores;  // [codes, R]: <query, code> + bias
  float* best;    // [R]: the highest of them
};

struct SelectArguments {
  const float* scores;     // [codes, R]
  int64_t codes;
  const float* reference;  // [R]
  float slope;
  const float* floor;      // [R]
  float* exponents;        // [selected, R], may be `scores`: slope * (score - reference)
  int32_t* selected;       // the codes where some row's exponent reaches its floor, ascending
};

struct AddArguments {
  const float* weights;     // [selected, R]
  const int32_t* selected;  // codes, counted from the first of `panels`
  int64_t count;            // at most kTileCodes
  const float* panels;
  int64_t width;
  float* sums;  // [D, R] += weights^T codes
};

// Indexed by V.
struct Kernels {
  int lanes;
  void (*score[kMaxVectors + 1])(const ScoreArguments&);
  // How many codes it selects.
  int64_t (*select[kMaxVectors + 1])(const SelectArguments&);
  // exponents [count, R] -> e^exponents in place, at most e^88 and 0 below e^-86; adds them up in totals [R].
  void (*exponentiate[kMaxVectors + 1])(float* exponents, int64_t count, float* totals);
  void (*add[kMaxVectors + 1])(const AddArguments&);
  // [rows, R] *= factors [R]
  void (*scale[kMaxVectors + 1])(float* values, int64_t rows, const float* factors);
};

// Null where this build has none.
const Kernels* portable();
const Kernels* avx2();
const Kernels* avx512();

// Those that go with a set of simd.h.
const Kernels& of(const simd::Kernels& set);

}  // namespace spae::softmax
