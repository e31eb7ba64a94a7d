#include "nearest_code_screens.h"

#include <algorithm>
#include <cstring>

namespace spae {
namespace {

// The first two blocks of a group fetch one panel of the next tile each; a lone block fetches every other line and
// leaves the rest to the processor's adjacent-line prefetcher.
template <class Tile, class T>
void plan_prefetch(Tile& tile, const T* next, int64_t panel_size, const TileStep& step) {
  constexpr int64_t kLine = 64;
  const bool fetch = step.block < 2;
  tile.prefetch = reinterpret_cast<const char*>(fetch ? next + step.block * panel_size : next);
  tile.prefetch_step = !fetch ? 0 : step.blocks == 1 ? 2 * kLine : kLine;
}

class Fp32Screen final : public Screen {
 public:
  Fp32Screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width)
      : prepared_(prepared), kernels_(kernels), width_(width), slope_(query_slope(width)) {}

  int block_rows() const override { return kernels_.rows; }
  int64_t row_bytes() const override { return width_ * static_cast<int64_t>(sizeof(float)); }

  void resize(int64_t rows) override {
    packed_.resize(static_cast<size_t>(rows * width_));
    slopes_.resize(static_cast<size_t>(rows));
  }

  void pack(const Block& block, int r, const float* framed, double norm) override {
    float* out = packed_.data() + block.first * width_ + r;
    for (int64_t d = 0; d < width_; ++d) out[d * block.rows] = framed == nullptr ? 0.0f : framed[d];
    slopes_[static_cast<size_t>(block.first + r)] = framed == nullptr ? 0.0f : round_up(slope_ * norm);
  }

  uint32_t run(const Block& block, const TileStep& step, const float* bias, const float* thresholds,
               float* scores) const override {
    const int64_t panel_size = simd::kPanel * width_;
    simd::Tile tile{};
    tile.queries = packed_.data() + block.first * width_;
    tile.panels = prepared_.panels + step.tile * 2 * panel_size;
    tile.bias = bias;
    tile.norms = prepared_.norms + step.tile * simd::kTile;
    tile.slopes = slopes_.data() + block.first;
    tile.thresholds = thresholds;
    tile.width = width_;
    tile.scores = scores;
    plan_prefetch(tile, prepared_.panels + step.next * 2 * panel_size, panel_size, step);
    return kernels_.screen[block.rows](tile);
  }

  double margin(int64_t row, int64_t code) const override {
    const double norm = prepared_.norms[code];
    return 2.0 * (slopes_[static_cast<size_t>(row)] * norm + kCodeSlope * norm * norm);
  }

 private:
  const PreparedCodes& prepared_;
  const simd::Kernels& kernels_;
  const int64_t width_;
  const double slope_;
  std::vector<float> packed_;  // blocks of [D, rows], one after another
  std::vector<float> slopes_;  // [rows]: a_q
};

class Int8Screen final : public Screen {
 public:
  Int8Screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width)
      : prepared_(prepared), kernels_(kernels), width_(width), words_(num_words(width)) {}

  int block_rows() const override { return kernels_.rows8; }
  int64_t row_bytes() const override { return words_ * 4; }

  void resize(int64_t rows) override {
    packed_.resize(static_cast<size_t>(rows * words_));
    rows_.resize(static_cast<size_t>(rows));
  }

  void pack(const Block& block, int r, const float* framed, double norm) override {
    std::vector<int8_t> integers(static_cast<size_t>(words_ * 4), int8_t{0});
    std::vector<double> rotated(static_cast<size_t>(width_));
    simd::QueryRow8 row{};
    if (framed != nullptr) {
      const double residual =
          quantize(framed, width_, kernels_.levels8, rotated.data(), integers.data(), &row.step);
      row.residual_slope = round_up(norm);
      row.norm_slope = round_up(residual + kIntegerSlope * norm);
      for (const int8_t integer : integers) row.start -= 128 * integer;
    }
    rows_[static_cast<size_t>(block.first + r)] = row;
    int32_t* out = packed_.data() + block.first * words_ + r;
    for (int64_t w = 0; w < words_; ++w) std::memcpy(out + w * block.rows, integers.data() + 4 * w, 4);
  }

  uint32_t run(const Block& block, const TileStep& step, const float* bias, const float* thresholds,
               float* scores) const override {
    const int64_t panel_size = simd::kPanel * words_ * 4, first = step.tile * simd::kTile;
    simd::Tile8 tile{};
    tile.queries = packed_.data() + block.first * words_;
    tile.rows = rows_.data() + block.first;
    tile.panels = prepared_.panels8 + step.tile * 2 * panel_size;
    tile.bias = bias;
    tile.norms = prepared_.norms + first;
    tile.residuals = prepared_.residuals + first;
    tile.steps = prepared_.steps + first;
    tile.thresholds = thresholds;
    tile.words = words_;
    tile.scores = scores;
    plan_prefetch(tile, prepared_.panels8 + step.next * 2 * panel_size, panel_size, step);
    return kernels_.screen8[block.rows](tile);
  }

  double margin(int64_t row, int64_t code) const override {
    const simd::QueryRow8& query = rows_[static_cast<size_t>(row)];
    const double norm = prepared_.norms[code], residual = prepared_.residuals[code];
    return 2.0 * (query.residual_slope * residual + query.norm_slope * norm + kCodeSlope * norm * norm);
  }

 private:
  const PreparedCodes& prepared_;
  const simd::Kernels& kernels_;
  const int64_t width_;
  const int64_t words_;
  std::vector<int32_t> packed_;         // blocks of [W, rows], one after another
  std::vector<simd::QueryRow8> rows_;   // [rows]
};

}  // namespace

std::unique_ptr<Screen> make_fp32_screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width) {
  return std::make_unique<Fp32Screen>(prepared, kernels, width);
}

std::unique_ptr<Screen> make_int8_screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width) {
  if (kernels.rows8 == 0 || width > kMaxIntegerWidth) return nullptr;
  return std::make_unique<Int8Screen>(prepared, kernels, width);
}

}  // namespace spae
