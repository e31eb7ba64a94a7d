// The int8 screen on matrix tiles. Where a check of theirs fails, vector instructions do the rest of the scan, and all
// later ones of this process.
#include <algorithm>
#include <vector>

#include "nearest_code/cpu/int8_screen.h"
#include "simd/packed_tiles.h"
#include "simd/tiles.h"

namespace spae {
namespace {

// Brings a scan's findings from tiles to a screen's sink.
class Bridge final : public simd::TileSink {
 public:
  Bridge(const Scan& scan, ScanSink& sink) : scan_(scan), sink_(sink) {}

  void take(int64_t block, int64_t tile, uint32_t hits, const float* scores) override {
    sink_.take(scan_.blocks[block], tile, hits, scores);
  }

 private:
  const Scan& scan_;
  ScanSink& sink_;
};

class TileScreen final : public Int8Screen {
 public:
  TileScreen(const PreparedCodes& prepared, const simd::Kernels& kernels, int64_t width)
      : Int8Screen(prepared, kernels, width), packed_(words_), packed_prefixes_(prefix_words_) {}

  int block_rows() const override { return simd::kTileBlockRows; }
  int64_t row_bytes() const override {
    const int64_t bytes = simd::PackedTiles::block_bytes(words_) + simd::PackedTiles::block_bytes(prefix_words_);
    return (bytes + simd::kTileBlockRows - 1) / simd::kTileBlockRows;
  }
  int64_t prefix_blocks() const override { return 6; }

  void resize(int64_t rows) override {
    const int64_t blocks = (rows + simd::kTileBlockRows - 1) / simd::kTileBlockRows;
    packed_.resize(blocks);
    packed_prefixes_.resize(blocks);
    resize_rows(rows);
  }

  void pack(const Block& block, int r, const float* framed, double norm) override {
    if (r == 0) {
      packed_.clear(block.index);
      packed_prefixes_.clear(block.index);
    }
    const int64_t row = block.first + r;
    const std::vector<int8_t> integers = round_row(row, framed, norm);
    packed_.set(block.index, r, integers.data(), rows(row, false)->start);
    packed_prefixes_.set(block.index, r, integers.data(), rows(row, true)->start);
  }

  void scan(const Scan& scan, ScanSink& sink) const override { run(scan, sink, false); }
  void scan_prefix(const Scan& scan, ScanSink& sink) const override { run(scan, sink, true); }

 private:
  void run(const Scan& scan, ScanSink& sink, bool prefix) const {
    const simd::TileKernels& tiles = *kernels_.tiles;
    int64_t done = 0;
    if (!*tiles.lost) {
      Bridge bridge(scan, sink);
      const simd::PackedTiles& packed = prefix ? packed_prefixes_ : packed_;
      std::vector<simd::TileBlock> blocks;
      for (const Block* b = scan.blocks; b != scan.blocks + scan.num_blocks; ++b)
        blocks.push_back({packed.queries(b->index), packed.start(b->index), rows(b->first, prefix),
                          prefix ? nullptr : scan.thresholds + b->first, b->rows});
      const simd::Tile8 first = at_tile(0, scan.bias, 0, prefix);
      const simd::TileScan arguments{blocks.data(), scan.num_blocks, scan.tiles,  scan.num_tiles,
                                     first.panels,  scan.bias,       first.norms, first.residuals,
                                     first.steps,   first.words,     words_,      &bridge};
      done = (prefix ? tiles.maxima : tiles.screen)(arguments);
    }
    if (done == scan.num_blocks * scan.num_tiles) return;
    *tiles.lost = true;
    for (int64_t b = 0; b < scan.num_blocks; ++b) run_vectors(scan, sink, b, done, prefix);
  }

  // A block's pairs from `done` on, by vector instructions, as many rows at a time as these take.
  void run_vectors(const Scan& scan, ScanSink& sink, int64_t b, int64_t done, bool prefix) const {
    const Block& whole = scan.blocks[b];
    const int64_t words = prefix ? prefix_words_ : words_;
    std::vector<int32_t> row(static_cast<size_t>(words)), queries(static_cast<size_t>(words * kernels_.rows8));
    alignas(64) float scores[simd::kMaxRows * simd::kTile];
    for (int first = 0; first < whole.rows; first += kernels_.rows8) {
      const Block part{whole.first + first, std::min(kernels_.rows8, whole.rows - first), whole.index};
      for (int r = 0; r < part.rows; ++r) {
        copy_words(whole, first + r, words, row.data());
        for (int64_t w = 0; w < words; ++w) queries[static_cast<size_t>(w * part.rows + r)] = row[static_cast<size_t>(w)];
      }
      const int64_t start = std::max<int64_t>((done - b + scan.num_blocks - 1) / scan.num_blocks, 0);
      for (int64_t t = start; t < scan.num_tiles; ++t) {
        simd::Tile8 tile = at_tile(scan.tiles[t], scan.bias + scan.tiles[t] * simd::kTile, part.first, prefix);
        tile.queries = queries.data();
        tile.thresholds = prefix ? nullptr : scan.thresholds + part.first;
        tile.prefetch = reinterpret_cast<const char*>(tile.panels);
        tile.scores = scores;
        const uint32_t hits = (prefix ? kernels_.maxima8 : kernels_.screen8)[part.rows](tile);
        if (prefix || hits != 0) sink.take(part, t, hits, scores);
      }
    }
  }

  void copy_words(const Block& block, int r, int64_t words, int32_t* out) const override {
    packed_.copy_words(block.index, r, words, out);
  }

  simd::PackedTiles packed_;
  simd::PackedTiles packed_prefixes_;
};

}  // namespace

std::unique_ptr<PrefixScreen> make_tile_screen(const PreparedCodes& prepared, const simd::Kernels& kernels,
                                               int64_t width) {
  return std::make_unique<TileScreen>(prepared, kernels, width);
}

}  // namespace spae
