#include "nearest_code/cpu/screens.h"

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

// For prefixes, which are screened faster than two blocks can fetch the next ones: half of a group's blocks share the
// work on one panel, the others on the next.
void plan_prefix_prefetch(simd::Tile8& tile, const uint8_t* next, int64_t panel_size, const TileStep& step) {
  constexpr int64_t kLine = 64;
  const int64_t half = std::max<int64_t>(step.blocks / 2, 1), part = step.block % half;
  const bool fetch = step.block < 2 * half;
  const uint8_t* panel = next + (step.block < half ? 0 : panel_size);
  tile.prefetch = reinterpret_cast<const char*>(panel + part * tile.words * kLine / half);
  tile.prefetch_step = fetch ? kLine / half : 0;
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

class Int8Screen final : public PrefixScreen {
 public:
  Int8Screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width)
      : prepared_(prepared),
        kernels_(kernels),
        width_(width),
        words_(num_words(width)),
        prefix_words_(num_prefix_words(width)) {}

  int block_rows() const override { return kernels_.rows8; }
  int64_t row_bytes() const override { return words_ * 4; }

  void resize(int64_t rows) override {
    packed_.resize(static_cast<size_t>(rows * words_));
    rows_.resize(static_cast<size_t>(rows));
    prefix_rows_.resize(static_cast<size_t>(rows));
  }

  void pack(const Block& block, int r, const float* framed, double norm) override {
    std::vector<int8_t> integers(static_cast<size_t>(words_ * 4), int8_t{0});
    std::vector<double> rotated(static_cast<size_t>(width_));
    simd::QueryRow8 row{}, prefix_row{};
    if (framed != nullptr) {
      const double residual =
          quantize(framed, width_, kernels_.levels8, rotated.data(), integers.data(), &row.step);
      row.residual_slope = round_up(norm);
      row.norm_slope = round_up(residual + kIntegerSlope * norm);
      for (const int8_t integer : integers) row.start -= 128 * integer;
      prefix_row.step = row.step;
      prefix_row.residual_slope = tail_bound(rotated.data(), integers.data(), row.step, width_, norm);
      for (int64_t d = 0; d < 4 * prefix_words_; ++d) prefix_row.start -= 128 * integers[static_cast<size_t>(d)];
    }
    rows_[static_cast<size_t>(block.first + r)] = row;
    prefix_rows_[static_cast<size_t>(block.first + r)] = prefix_row;
    int32_t* out = packed_.data() + block.first * words_ + r;
    for (int64_t w = 0; w < words_; ++w) std::memcpy(out + w * block.rows, integers.data() + 4 * w, 4);
  }

  uint32_t run(const Block& block, const TileStep& step, const float* bias, const float* thresholds,
               float* scores) const override {
    simd::Tile8 tile = at_tile(step.tile, bias, scores);
    tile.queries = packed_.data() + block.first * words_;
    tile.rows = rows_.data() + block.first;
    tile.residuals = prepared_.residuals + step.tile * simd::kTile;
    tile.thresholds = thresholds;
    tile.words = words_;
    plan_prefetch(tile, panels(step.next), panel_size(), step);
    return kernels_.screen8[block.rows](tile);
  }

  void run_prefix(const Block& block, const TileStep& step, const float* bias, float* maxima) const override {
    simd::Tile8 tile = at_tile(step.tile, bias, maxima);
    tile.queries = packed_.data() + block.first * words_;
    tile.rows = prefix_rows_.data() + block.first;
    tile.residuals = prepared_.tails + step.tile * simd::kTile;
    tile.words = prefix_words_;
    plan_prefix_prefetch(tile, panels(step.next), panel_size(), step);
    kernels_.maxima8[block.rows](tile);
  }

  bool score_prefix(const Block& block, int r, int64_t tile_index, const float* bias, float threshold,
                    float* scores) const override {
    std::vector<int32_t> query(static_cast<size_t>(prefix_words_));
    const int32_t* packed = packed_.data() + block.first * words_ + r;
    for (int64_t w = 0; w < prefix_words_; ++w) query[static_cast<size_t>(w)] = packed[w * block.rows];
    simd::Tile8 tile = at_tile(tile_index, bias, scores);
    tile.queries = query.data();
    tile.rows = prefix_rows_.data() + block.first + r;
    tile.residuals = prepared_.tails + tile_index * simd::kTile;
    tile.thresholds = &threshold;
    tile.words = prefix_words_;
    tile.prefetch = reinterpret_cast<const char*>(tile.panels);
    return kernels_.screen8[1](tile) != 0;
  }

  double margin(int64_t row, int64_t code) const override {
    const simd::QueryRow8& query = rows_[static_cast<size_t>(row)];
    const double norm = prepared_.norms[code], residual = prepared_.residuals[code];
    return 2.0 * (query.residual_slope * residual + query.norm_slope * norm + kCodeSlope * norm * norm);
  }

 private:
  int64_t panel_size() const { return simd::kPanel * words_ * 4; }
  const uint8_t* panels(int64_t tile) const { return prepared_.panels8 + tile * 2 * panel_size(); }

  // What calls on a tile have in common.
  simd::Tile8 at_tile(int64_t index, const float* bias, float* scores) const {
    const int64_t first = index * simd::kTile;
    simd::Tile8 tile{};
    tile.panels = panels(index);
    tile.bias = bias;
    tile.norms = prepared_.norms + first;
    tile.steps = prepared_.steps + first;
    tile.panel_words = words_;
    tile.scores = scores;
    return tile;
  }

  const PreparedCodes& prepared_;
  const simd::Kernels& kernels_;
  const int64_t width_;
  const int64_t words_;
  const int64_t prefix_words_;
  std::vector<int32_t> packed_;         // blocks of [W, rows], one after another
  std::vector<simd::QueryRow8> rows_;   // [rows]
  std::vector<simd::QueryRow8> prefix_rows_;  // [rows]: a_q is t_q, c_q is 0
};

}  // namespace

std::unique_ptr<Screen> make_fp32_screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width) {
  return std::make_unique<Fp32Screen>(prepared, kernels, width);
}

std::unique_ptr<PrefixScreen> make_int8_screen(const PreparedCodes& prepared, const simd::Kernels& kernels,
                                               int64_t width) {
  if (kernels.rows8 == 0 || width > kMaxIntegerWidth) return nullptr;
  return std::make_unique<Int8Screen>(prepared, kernels, width);
}

}  // namespace spae
