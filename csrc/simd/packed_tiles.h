// Blocks of queries in the order in which tile registers take them.
#pragma once

#include <cstdint>
#include <vector>

#include "simd/tiles.h"

namespace spae::simd {

class PackedTiles {
 public:
  // Of rows of so many words of four elements.
  explicit PackedTiles(int64_t words) : words_(words) {}

  static int64_t block_bytes(int64_t words) { return (num_steps(words) + 1) * kPairBytes; }

  void resize(int64_t blocks);
  // Zeros, but for the check lines.
  void clear(int64_t block);
  // Row r < kTileBlockRows of a block: integers [4 W], and what their sums start at.
  void set(int64_t block, int r, const int8_t* integers, int32_t start);
  // The first words of a row, as Tile8 takes them.
  void copy_words(int64_t block, int r, int64_t words, int32_t* out) const;

  const int8_t* queries(int64_t block) const { return data_ + block * block_bytes(words_); }
  const int32_t* start(int64_t block) const {
    return reinterpret_cast<const int32_t*>(queries(block) + num_steps(words_) * kPairBytes);
  }

 private:
  static constexpr int64_t kPairBytes = 2 * kLines * kLineBytes;  // of two registers

  void set_line(int64_t block, int line, const int8_t* integers, int32_t start);

  int64_t words_;
  std::vector<int8_t> memory_;
  int8_t* data_ = nullptr;  // where memory_ reaches a cache line: [blocks, steps + 1, 2, 16, 64], the last are the starts
};

}  // namespace spae::simd
