// The self-test of tiles: two implementations of the schedule on the same problems.
#include <cstring>
#include <vector>

#include "simd/packed_tiles.h"
#include "simd/tiles.h"

namespace spae::simd {
namespace {

class Record final : public TileSink {
 public:
  explicit Record(const std::vector<TileBlock>& blocks, bool maxima) : blocks_(blocks), maxima_(maxima) {}

  void take(int64_t block, int64_t tile, uint32_t hits, const float* scores) override {
    found_.insert(found_.end(), {static_cast<uint32_t>(block), static_cast<uint32_t>(tile), hits});
    const int count = blocks_[static_cast<size_t>(block)].count;
    if (maxima_) return keep(scores, count);
    for (int r = 0; r < count; ++r)
      if ((hits >> r & 1) != 0) keep(scores + r * kTile, kTile);
  }

  const std::vector<uint32_t>& found() const { return found_; }

 private:
  void keep(const float* scores, int64_t count) {
    const auto size = found_.size();
    found_.resize(size + static_cast<size_t>(count));
    std::memcpy(found_.data() + size, scores, static_cast<size_t>(count) * sizeof(float));
  }

  const std::vector<TileBlock>& blocks_;
  const bool maxima_;
  std::vector<uint32_t> found_;  // pairs, hits and the bits of scores
};

class Random {
 public:
  int32_t between(int32_t least, int32_t most) {
    state_ = state_ * 1664525u + 1013904223u;
    return least + static_cast<int32_t>((state_ >> 8) % static_cast<uint32_t>(most - least + 1));
  }
  std::vector<float> floats(size_t count) {
    std::vector<float> made(count);
    for (float& x : made) x = static_cast<float>(between(-1000, 1000)) * 0x1p-8f;
    return made;
  }

 private:
  uint32_t state_ = 1;
};

bool agree_on(const TileKernels& tiles, const TileKernels& expected, int64_t words, const std::vector<int>& counts) {
  constexpr int64_t kTiles = 3;
  const int64_t panel_words = words + words / 2;
  Random random;
  std::vector<uint8_t> panels(static_cast<size_t>(kTiles * 2 * panel_words * kLineBytes));
  for (uint8_t& code : panels) code = static_cast<uint8_t>(random.between(1, 255));
  const auto bias = random.floats(kTiles * kTile), norms = random.floats(kTiles * kTile);
  const auto residuals = random.floats(kTiles * kTile), steps = random.floats(kTiles * kTile);
  const std::vector<float> thresholds(kTileBlockRows, 0.0f);  // about half of the scores reach it

  PackedTiles packed(words);
  packed.resize(static_cast<int64_t>(counts.size()));
  std::vector<QueryRow8> rows;
  std::vector<TileBlock> blocks;
  std::vector<int8_t> integers(static_cast<size_t>(4 * words));
  rows.reserve(counts.size() * kTileBlockRows);
  for (size_t b = 0; b < counts.size(); ++b) {
    const auto block = static_cast<int64_t>(b);
    packed.clear(block);
    blocks.push_back({packed.queries(block), packed.start(block), rows.data() + rows.size(), thresholds.data(), counts[b]});
    for (int r = 0; r < counts[b]; ++r) {
      int32_t start = 0;
      for (int8_t& integer : integers) {
        integer = static_cast<int8_t>(random.between(-127, 127));
        start -= 128 * integer;
      }
      packed.set(block, r, integers.data(), start);
      const auto factors = random.floats(3);
      rows.push_back({factors[0] * 0x1p-9f, factors[1], factors[2], start});
    }
  }
  const int64_t order[kTiles] = {1, 0, 2}, pairs = kTiles * static_cast<int64_t>(blocks.size());
  for (const bool maxima : {false, true}) {
    Record got(blocks, maxima), wanted(blocks, maxima);
    TileScan scan{blocks.data(), static_cast<int64_t>(blocks.size()), order,        kTiles, panels.data(), bias.data(),
                  norms.data(),  residuals.data(),                    steps.data(), words,  panel_words,   &got};
    if ((maxima ? tiles.maxima : tiles.screen)(scan) != pairs) return false;
    scan.sink = &wanted;
    (maxima ? expected.maxima : expected.screen)(scan);
    if (got.found() != wanted.found()) return false;
  }
  return true;
}

}  // namespace

bool agree(const TileKernels& tiles, const TileKernels& expected) {
  const std::vector<int> counts = {kTileBlockRows, 1, kHalfRows, kHalfRows + 1};
  for (const int64_t words : {1, 7, 16, 40, 160})
    if (!agree_on(tiles, expected, words, counts)) return false;
  return true;
}

}  // namespace spae::simd
