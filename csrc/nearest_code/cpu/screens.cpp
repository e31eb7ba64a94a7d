#include "nearest_code/cpu/screens.h"

#include <algorithm>
#include <cstring>

#include "nearest_code/cpu/int8_screen.h"
#include "simd/tiles.h"

namespace spae {
namespace {

// A tile, the one after it, and where among a scan's blocks the call stands: for prefetching.
struct TileStep {
  int64_t tile;
  int64_t next;
  int64_t block;
  int64_t blocks;
};

// run(block, place of the tile, step) for all blocks against the first tile, then the next.
template <class F>
void for_each_pair(const Scan& scan, const F& run) {
  for (int64_t t = 0; t < scan.num_tiles; ++t) {
    TileStep step{scan.tiles[t], scan.tiles[std::min(t + 1, scan.num_tiles - 1)], 0, scan.num_blocks};
    for (; step.block < step.blocks; ++step.block) run(scan.blocks[step.block], t, step);
  }
}

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

  void scan(const Scan& scan, ScanSink& sink) const override {
    alignas(64) float scores[simd::kMaxRows * simd::kTile];
    for_each_pair(scan, [&](const Block& block, int64_t place, const TileStep& step) {
      const float* bias = scan.bias + step.tile * simd::kTile;
      const uint32_t hits = run(block, step, bias, scan.thresholds + block.first, scores);
      if (hits != 0) sink.take(block, place, hits, scores);
    });
  }

  double margin(int64_t row, int64_t code) const override {
    const double norm = prepared_.norms[code];
    return 2.0 * (slopes_[static_cast<size_t>(row)] * norm + kCodeSlope * norm * norm);
  }

 private:
  uint32_t run(const Block& block, const TileStep& step, const float* bias, const float* thresholds,
               float* scores) const {
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

  const PreparedCodes& prepared_;
  const simd::Kernels& kernels_;
  const int64_t width_;
  const double slope_;
  std::vector<float> packed_;  // blocks of [D, rows], one after another
  std::vector<float> slopes_;  // [rows]: a_q
};

class VectorScreen final : public Int8Screen {
 public:
  VectorScreen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width)
      : Int8Screen(prepared, kernels, width) {}

  int block_rows() const override { return kernels_.rows8; }
  int64_t row_bytes() const override { return words_ * 4; }
  int64_t prefix_blocks() const override { return 16; }

  void resize(int64_t rows) override {
    packed_.resize(static_cast<size_t>(rows * words_));
    resize_rows(rows);
  }

  void pack(const Block& block, int r, const float* framed, double norm) override {
    const std::vector<int8_t> integers = round_row(block.first + r, framed, norm);
    int32_t* out = packed_.data() + block.first * words_ + r;
    for (int64_t w = 0; w < words_; ++w) std::memcpy(out + w * block.rows, integers.data() + 4 * w, 4);
  }

  void scan(const Scan& scan, ScanSink& sink) const override {
    alignas(64) float scores[simd::kMaxRows * simd::kTile];
    for_each_pair(scan, [&](const Block& block, int64_t place, const TileStep& step) {
      simd::Tile8 tile = at_tile(step.tile, scan.bias + step.tile * simd::kTile, block.first, false);
      tile.queries = packed_.data() + block.first * words_;
      tile.thresholds = scan.thresholds + block.first;
      tile.scores = scores;
      plan_prefetch(tile, panels(step.next), panel_size(), step);
      const uint32_t hits = kernels_.screen8[block.rows](tile);
      if (hits != 0) sink.take(block, place, hits, scores);
    });
  }

  void scan_prefix(const Scan& scan, ScanSink& sink) const override {
    float largest[simd::kMaxRows];
    for_each_pair(scan, [&](const Block& block, int64_t place, const TileStep& step) {
      simd::Tile8 tile = at_tile(step.tile, scan.bias + step.tile * simd::kTile, block.first, true);
      tile.queries = packed_.data() + block.first * words_;
      tile.scores = largest;
      plan_prefix_prefetch(tile, panels(step.next), panel_size(), step);
      kernels_.maxima8[block.rows](tile);
      sink.take(block, place, 0, largest);
    });
  }

 private:
  void copy_words(const Block& block, int r, int64_t words, int32_t* out) const override {
    const int32_t* packed = packed_.data() + block.first * words_ + r;
    for (int64_t w = 0; w < words; ++w) out[w] = packed[w * block.rows];
  }

  std::vector<int32_t> packed_;  // blocks of [W, rows], one after another
};

}  // namespace

void Int8Screen::resize_rows(int64_t rows) {
  rows_.resize(static_cast<size_t>(rows));
  prefix_rows_.resize(static_cast<size_t>(rows));
}

std::vector<int8_t> Int8Screen::round_row(int64_t index, const float* framed, double norm) {
  std::vector<int8_t> integers(static_cast<size_t>(words_ * 4), int8_t{0});
  simd::QueryRow8 row{}, prefix_row{};
  if (framed != nullptr) {
    std::vector<double> rotated(static_cast<size_t>(width_));
    const double residual = quantize(framed, width_, kernels_.levels8, rotated.data(), integers.data(), &row.step);
    row.residual_slope = round_up(norm);
    row.norm_slope = round_up(residual + kIntegerSlope * norm);
    for (const int8_t integer : integers) row.start -= 128 * integer;
    prefix_row.step = row.step;
    prefix_row.residual_slope = tail_bound(rotated.data(), integers.data(), row.step, width_, norm);
    for (int64_t d = 0; d < 4 * prefix_words_; ++d) prefix_row.start -= 128 * integers[static_cast<size_t>(d)];
  }
  rows_[static_cast<size_t>(index)] = row;
  prefix_rows_[static_cast<size_t>(index)] = prefix_row;
  return integers;
}

bool Int8Screen::score_prefix(const Block& block, int r, int64_t tile_index, const float* bias, float threshold,
                              float* scores) const {
  std::vector<int32_t> query(static_cast<size_t>(prefix_words_));
  copy_words(block, r, prefix_words_, query.data());
  simd::Tile8 tile = at_tile(tile_index, bias, block.first + r, true);
  tile.queries = query.data();
  tile.thresholds = &threshold;
  tile.prefetch = reinterpret_cast<const char*>(tile.panels);
  tile.scores = scores;
  return kernels_.screen8[1](tile) != 0;
}

double Int8Screen::margin(int64_t row, int64_t code) const {
  const simd::QueryRow8& query = rows_[static_cast<size_t>(row)];
  const double norm = prepared_.norms[code], residual = prepared_.residuals[code];
  return 2.0 * (query.residual_slope * residual + query.norm_slope * norm + kCodeSlope * norm * norm);
}

simd::Tile8 Int8Screen::at_tile(int64_t index, const float* bias, int64_t row, bool prefix) const {
  const int64_t first = index * simd::kTile;
  simd::Tile8 tile{};
  tile.rows = rows(row, prefix);
  tile.panels = panels(index);
  tile.bias = bias;
  tile.norms = prepared_.norms + first;
  tile.residuals = (prefix ? prepared_.tails : prepared_.residuals) + first;
  tile.steps = prepared_.steps + first;
  tile.words = prefix ? prefix_words_ : words_;
  tile.panel_words = words_;
  return tile;
}

std::unique_ptr<Screen> make_fp32_screen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width) {
  return std::make_unique<Fp32Screen>(prepared, kernels, width);
}

std::unique_ptr<PrefixScreen> make_int8_screen(const PreparedCodes& prepared, const simd::Kernels& kernels,
                                               int64_t width, int64_t queries, bool named) {
  if (kernels.rows8 == 0 || width > kMaxIntegerWidth) return nullptr;
  const bool worthwhile = named || (queries >= simd::kMinTileQueries && width >= simd::kMinTileWidth);
  if (kernels.tiles != nullptr && worthwhile && !*kernels.tiles->lost)
    return make_tile_screen(prepared, kernels, width);
  return std::make_unique<VectorScreen>(prepared, kernels, width);
}

}  // namespace spae
