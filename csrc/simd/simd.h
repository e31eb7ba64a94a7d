// Kernels that exist once per instruction set, behind one table of function pointers chosen at run time.
//
// Every set is compiled into the same binary (function target attributes, no per-file flags) and gives the same ids:
// `screen` may round differently from set to set, which the bound in nearest_code.h allows for, and `sqdist` returns
// the same bits everywhere.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/strict_arithmetic.h"

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))
#define SPAE_X86 1
#else
#define SPAE_X86 0
#endif

namespace spae::simd {

// Codes stand in panels of 16, element after element: one 64-byte line holds element d of 16 codes.
inline constexpr int64_t kPanel = 16;
// `screen` scores two neighbouring panels at once.
inline constexpr int64_t kTile = 2 * kPanel;
// The most query rows any instruction set scores at once.
inline constexpr int kMaxRows = 12;

// One call of `screen`: R query rows against the 32 codes of a tile.
struct Tile {
  const float* queries;     // [D, R]
  const float* panels;      // [2, D, 16]
  const float* bias;        // [32]
  const float* norms;       // [32]
  const float* slopes;      // [R]
  const float* thresholds;  // [R]
  const char* prefetch;     // where the next tile starts to be fetched into cache, one line per element of D
  int64_t prefetch_step;    // bytes from one prefetched line to the next; 0 where there is nothing to fetch
  int64_t width;            // D
  float* scores;            // [R, 32], written for the rows that hit (and possibly for others)
};

// v[r, k] = <query r, code k> + slopes[r] * norms[k] + bias[k]; bit r of the result is set where some v[r, k] >=
// thresholds[r], and those rows' v are written to `scores`.
using ScreenFn = uint32_t (*)(const Tile& tile);

// What `screen8` needs of a query row: the int8 screen of nearest_code.h.
struct QueryRow8 {
  float step;            // p
  float residual_slope;  // a_q
  float norm_slope;      // c_q
  int32_t start;         // -128 sum of the row's integers: codes are stored with 128 added
};

// One call of `screen8` or `maxima8`. Four neighbouring elements form a 32-bit word; a row has ceil(D / 4), padded with
// zeros, of which the first W are used.
struct Tile8 {
  const int32_t* queries;   // [W, R] words of four int8
  const QueryRow8* rows;    // [R]
  const uint8_t* panels;    // [2, panel_words, 16, 4], 128 added
  const float* bias;        // [32]
  const float* norms;       // [32]
  const float* residuals;   // [32]
  const float* steps;       // [32]
  const float* thresholds;  // [R]
  const char* prefetch;     // as in Tile, one line per word
  int64_t prefetch_step;
  int64_t words;            // W
  int64_t panel_words;      // >= W
  float* scores;            // screen8: [R, 32], as in Tile; maxima8: [R], each row's largest v
};

// v[r, k] = p_r g_k <integers of r, integers of k> + a_r residuals[k] + c_r norms[k] + bias[k], otherwise as `screen`.
// `maxima8` compares with no thresholds and returns 0.
using Screen8Fn = uint32_t (*)(const Tile8& tile);

// The squared distance of nearest_code.h's definition between two fp32 rows of width D.
using SqdistFn = double (*)(const float* q, const float* c, int64_t width);

struct TileKernels;  // tiles.h

struct Kernels {
  const char* name;
  int rows;                        // rows scored at once at full speed, <= kMaxRows
  ScreenFn screen[kMaxRows + 1];   // [R], 1 <= R <= rows
  SqdistFn sqdist;
  int rows8;                         // as `rows`, for screen8; 0 where this set has none
  Screen8Fn screen8[kMaxRows + 1];
  Screen8Fn maxima8[kMaxRows + 1];
  int levels8;                       // queries are rounded to integers in [-levels8, levels8]
  int64_t min_width8;                // from this width on, int8 screening beats fp32
  const TileKernels* tiles;          // what screens in int8 with matrix tiles, beside screen8; mostly null
};

// One per instruction set; null where this processor (or this build) cannot run it.
const Kernels* portable();
const Kernels* avx2();
const Kernels* avxvnni();
const Kernels* avx512();

// Names of the sets that run here, fastest first; emulated ones, which are for tests, are the last.
std::vector<std::string_view> available();

inline bool is_automatic(std::string_view name) { return name.empty() || name == "auto"; }

// The named set, or the fastest one where the choice is automatic; null if there is no such set here.
const Kernels* find(std::string_view name);

}  // namespace spae::simd
