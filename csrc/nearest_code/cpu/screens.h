// The ways to score a pass's queries against tiles of codes: in fp32, and in int8 at a quarter of the bytes, by vector
// instructions or by matrix tiles. nearest_code.h has the bounds.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "nearest_code/cpu/nearest_code.h"
#include "simd/simd.h"

namespace spae {

// Neighbouring queries of a pass, packed together for the kernels.
struct Block {
  int64_t first;  // row within the pass
  int rows;
  int64_t index;  // among the pass's blocks
};

// Blocks against tiles.
struct Scan {
  const Block* blocks;
  int64_t num_blocks;
  const int64_t* tiles;
  int64_t num_tiles;
  const float* bias;        // [32 tiles]: of all
  const float* thresholds;  // [rows of the pass]; they may rise meanwhile
};

// Takes what a scan finds, as it finds it.
class ScanSink {
 public:
  // Of a block, or some rows of one, and a tile, by its place in the scan's list. hits and scores [rows, 32] as of
  // ScreenFn, where some hit; of a prefix each row's largest score [rows], always.
  virtual void take(const Block& block, int64_t tile, uint32_t hits, const float* scores) = 0;

 protected:
  ~ScanSink() = default;
};

class Screen {
 public:
  virtual ~Screen() = default;
  // Queries scored at once at full speed.
  virtual int block_rows() const = 0;
  // Bytes of a packed query.
  virtual int64_t row_bytes() const = 0;
  virtual void resize(int64_t rows) = 0;
  // Packs row `r` of a block, the first before the others; `framed` [D] and `norm` are what frame_row made of it. A null
  // `framed` packs zeros.
  virtual void pack(const Block& block, int r, const float* framed, double norm) = 0;
  virtual void scan(const Scan& scan, ScanSink& sink) const = 0;
  // v_k - lower_k - E_q of the bound, for a row of the pass and a code.
  virtual double margin(int64_t row, int64_t code) const = 0;
};

// A screen that can also score the leading elements alone: v of "Screening a prefix".
class PrefixScreen : public Screen {
 public:
  // Blocks whose prefixes a first-level cache holds beside a tile's.
  virtual int64_t prefix_blocks() const = 0;
  virtual void scan_prefix(const Scan& scan, ScanSink& sink) const = 0;
  // The prefix scores [32] of one row of a block. False, and no scores, if none reaches the threshold.
  virtual bool score_prefix(const Block& block, int r, int64_t tile, const float* bias, float threshold,
                            float* scores) const = 0;
};

std::unique_ptr<Screen> make_fp32_screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width);
// Null where the instruction set has none or the codes are too wide. With tiles where the set has them, if they are worth
// while for so many queries or the set is named.
std::unique_ptr<PrefixScreen> make_int8_screen(const PreparedCodes& prepared, const simd::Kernels& kernels,
                                               int64_t width, int64_t queries, bool named);

}  // namespace spae
