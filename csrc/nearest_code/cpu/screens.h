// The two ways to score a pass's queries against a tile of codes: in fp32, and in int8 at a quarter of the bytes.
// nearest_code.h has both bounds.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "nearest_code/cpu/nearest_code.h"
#include "simd/simd.h"

namespace spae {

// Up to kMaxRows neighbouring queries of a pass, packed together for the kernels.
struct Block {
  int64_t first;  // row within the pass
  int rows;
};

// A tile, the one after it, and where in its group of blocks the call stands: for prefetching.
struct TileStep {
  int64_t tile;
  int64_t next;
  int64_t block;
  int64_t blocks;
};

class Screen {
 public:
  virtual ~Screen() = default;
  // Queries scored at once at full speed.
  virtual int block_rows() const = 0;
  // Bytes of a packed query.
  virtual int64_t row_bytes() const = 0;
  virtual void resize(int64_t rows) = 0;
  // Packs row `r` of a block; `framed` [D] and `norm` are what frame_row made of it. A null `framed` packs zeros.
  virtual void pack(const Block& block, int r, const float* framed, double norm) = 0;
  // Scores v of a block's rows against a tile: as ScreenFn. bias [32] is the tile's.
  virtual uint32_t run(const Block& block, const TileStep& step, const float* bias, const float* thresholds,
                       float* scores) const = 0;
  // v_k - lower_k - E_q of the bound, for a row of the pass and a code.
  virtual double margin(int64_t row, int64_t code) const = 0;
};

// A screen that can also score the leading elements alone: v of "Screening a prefix".
class PrefixScreen : public Screen {
 public:
  // Each row's largest prefix score over a tile, to maxima [rows].
  virtual void run_prefix(const Block& block, const TileStep& step, const float* bias, float* maxima) const = 0;
  // The prefix scores [32] of one row of a block. False, and no scores, if none reaches the threshold.
  virtual bool score_prefix(const Block& block, int r, int64_t tile, const float* bias, float threshold,
                            float* scores) const = 0;
};

std::unique_ptr<Screen> make_fp32_screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width);
// Null where the instruction set has none or the codes are too wide.
std::unique_ptr<PrefixScreen> make_int8_screen(const PreparedCodes& prepared, const simd::Kernels& kernels,
                                               int64_t width);

}  // namespace spae
