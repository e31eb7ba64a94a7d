// What int8 screens have in common: rounded queries, and scores of single rows' prefixes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "nearest_code/cpu/screens.h"
#include "simd/simd.h"

namespace spae {

class Int8Screen : public PrefixScreen {
 public:
  bool score_prefix(const Block& block, int r, int64_t tile, const float* bias, float threshold,
                    float* scores) const final;
  double margin(int64_t row, int64_t code) const final;

 protected:
  Int8Screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width)
      : prepared_(prepared),
        kernels_(kernels),
        words_(num_words(width)),
        prefix_words_(num_prefix_words(width)),
        width_(width) {}

  void resize_rows(int64_t rows);
  // Keeps what the kernels need of a row of the pass; its integers [4 W]. Zeros for a null `framed`.
  std::vector<int8_t> round_row(int64_t row, const float* framed, double norm);
  // The first words of a packed row.
  virtual void copy_words(const Block& block, int r, int64_t words, int32_t* out) const = 0;
  // What calls on a tile have in common: for prefixes rows and residuals differ, too.
  simd::Tile8 at_tile(int64_t index, const float* bias, int64_t row, bool prefix) const;

  int64_t panel_size() const { return simd::kPanel * words_ * 4; }
  const uint8_t* panels(int64_t tile) const { return prepared_.panels8 + tile * 2 * panel_size(); }
  const simd::QueryRow8* rows(int64_t row, bool prefix) const {
    return (prefix ? prefix_rows_ : rows_).data() + row;
  }

  const PreparedCodes& prepared_;
  const simd::Kernels& kernels_;
  const int64_t words_;
  const int64_t prefix_words_;

 private:
  const int64_t width_;
  std::vector<simd::QueryRow8> rows_;         // [rows]
  std::vector<simd::QueryRow8> prefix_rows_;  // [rows]: a_q is t_q, c_q is 0
};

std::unique_ptr<PrefixScreen> make_tile_screen(const PreparedCodes& prepared, const simd::Kernels& kernels,
                                               int64_t width);

}  // namespace spae
