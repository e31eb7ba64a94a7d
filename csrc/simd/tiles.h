// Matrix tiles (AMX): int8 scores of blocks of queries against tiles of codes, from sums that tile registers add up.
//
// A tile register holds 16 lines of 64 bytes. One product takes 16 queries by up to 64 elements and as many elements by
// 16 codes to 16 x 16 sums in 32 bits, which is exact. Codes need no packing of their own: a panel of simd.h is a column
// of such registers already, 64 bytes for each word of four elements, and signed times unsigned products take the 128
// that it holds more, like VNNI's. A block of two registers of queries and a tile of codes, two panels, give four
// registers of sums; two and two more hold operands: all eight.
//
// What a thread's registers hold can be lost behind its back: some virtual machines do so when it is switched out. So the
// last line of every register of queries is all ones, and its sums start at kCheckStart. They must come out as that and
// the sum of each code's elements, which vector instructions add up once a tile; a register of queries, codes or sums that
// was lost at any time gives it away. Sums are looked at only after that.
//
// The schedule (tile_schedule.h) is one text, compiled for the processor's tiles (amx.cpp) and for an emulation of them,
// bit for bit, that runs everywhere (tiles_emulated.cpp; tiles_emulated_avx512.cpp with the vector instructions of amx).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "simd/simd.h"

namespace spae::simd {

inline constexpr int kLines = 16;
inline constexpr int64_t kLineBytes = 64;
inline constexpr int64_t kLineWords = kLineBytes / 4;
// Queries of a register, and of a block of two.
inline constexpr int kHalfRows = kLines - 1;
inline constexpr int kTileBlockRows = 2 * kHalfRows;
// Far above the sums of 2^15 elements of at most 255, so that none of these looks like it.
inline constexpr int32_t kCheckStart = 1 << 28;

// Of a search that names no instruction set: from so many queries and elements on, it takes tiles. Guesses on the safe
// side, that wait for a machine with AMX: no such machine has run this yet.
inline constexpr int64_t kMinTileQueries = 256;
inline constexpr int64_t kMinTileWidth = 128;

// A row of W words is added up in steps of 16 words, or in one of W if that is less. The last one begins early enough to
// end with the row; queries hold zeros there for what the step before has had.
inline int64_t step_words(int64_t words) { return std::min(words, kLineWords); }
inline int64_t num_steps(int64_t words) { return (words + kLineWords - 1) / kLineWords; }
inline int64_t step_begin(int64_t words, int64_t step) { return std::min(step * kLineWords, words - step_words(words)); }

// Up to kTileBlockRows queries as PackedTiles holds them.
struct TileBlock {
  const int8_t* queries;    // [steps, 2, 16, 64]
  const int32_t* start;     // [2, 16, 16]: a line's start 16 times; kCheckStart in the last
  const QueryRow8* rows;    // [R]
  const float* thresholds;  // [R], which may rise meanwhile
  int count;                // R
};

// Takes what a scan finds, pair of block and tile by pair.
class TileSink {
 public:
  // hits and scores as of Screen8Fn, scores [R, 32], where some hit; for maxima always, scores [R]. `tile` is its place in
  // the scan's list.
  virtual void take(int64_t block, int64_t tile, uint32_t hits, const float* scores) = 0;

 protected:
  ~TileSink() = default;
};

// Blocks against tiles, all blocks against the first tile first.
struct TileScan {
  const TileBlock* blocks;
  int64_t num_blocks;
  const int64_t* tiles;    // [num_tiles]
  int64_t num_tiles;
  const uint8_t* panels;   // as in Tile8, of tile 0; the next four too
  const float* bias;
  const float* norms;
  const float* residuals;
  const float* steps;
  int64_t words;           // W
  int64_t panel_words;     // >= W
  TileSink* sink;
};

// How many pairs are done: all, or those before the first whose check fails.
using TileScanFn = int64_t (*)(const TileScan& scan);

struct TileKernels {
  TileScanFn screen;
  TileScanFn maxima;
  std::atomic<bool>* lost;  // set when a check has failed: this process takes tiles no more
};

const TileKernels& emulated_tiles();
// Null where this processor lacks AVX-512 with VNNI.
const TileKernels* emulated_tiles_avx512();

// The sets of simd.h with them. Null where they do not run.
const Kernels* amx();
const Kernels* amx_emulated();
const Kernels* amx_emulated_avx512();

// Whether AMX runs here, in words, and if not why.
std::string amx_status();

// Both give the same bits, for rows and blocks of many lengths.
bool agree(const TileKernels& tiles, const TileKernels& expected);

// For tests. Before the `after`-th emulated product from now, those of the registers (a bit each) hold `fill` in every
// byte of a line (-1: of all). Once. A negative `after` takes that back, and emulated tiles are taken again.
void lose_emulated_tiles(int64_t after, int registers, int line, int fill);

}  // namespace spae::simd
