// Tiles of tile_schedule.h in portable C++: the instructions as the processor's manual has them, bit for bit.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/tiles.h"

namespace spae::simd {

// Whether it is time for lose_emulated_tiles' loss, and which.
struct TileLoss {
  int registers;
  int line;
  int fill;
};
bool is_lost_now(TileLoss* loss);

class EmulatedTiles {
 public:
  // As LDTILECFG leaves them: zero. Queries are 16 lines of so many words, codes so many lines.
  explicit EmulatedTiles(int64_t words) : words_(words) {}

  // TILELOADD: what a register's shape does not cover becomes zero.
  template <int T>
  void load(const void* from, int64_t apart) {
    std::memset(registers_[T], 0, sizeof registers_[T]);
    for (int64_t line = 0; line < lines(T); ++line)
      std::memcpy(registers_[T][line], static_cast<const char*>(from) + line * apart, static_cast<size_t>(bytes(T)));
  }

  // TILESTORED
  template <int T>
  void store(void* to, int64_t apart) const {
    for (int64_t line = 0; line < lines(T); ++line)
      std::memcpy(static_cast<char*>(to) + line * apart, registers_[T][line], static_cast<size_t>(bytes(T)));
  }

  // TDPBSUD: sums wrap around.
  template <int C, int A, int B>
  void add_products() {
    TileLoss loss;
    if (is_lost_now(&loss)) lose(loss);
    for (int64_t line = 0; line < lines(C); ++line) {
      uint32_t sums[kLineWords];
      std::memcpy(sums, registers_[C][line], sizeof sums);
      for (int64_t word = 0; word < words_; ++word) {
        int8_t query[4];
        std::memcpy(query, registers_[A][line] + 4 * word, sizeof query);
        const uint8_t* codes = registers_[B][word];
        for (int64_t j = 0; j < kLineWords; ++j)
          for (int64_t i = 0; i < 4; ++i) sums[j] += static_cast<uint32_t>(query[i] * codes[4 * j + i]);
      }
      std::memcpy(registers_[C][line], sums, sizeof sums);
    }
  }

 private:
  int64_t lines(int t) const { return t < 6 ? kLines : words_; }
  int64_t bytes(int t) const { return t == 4 || t == 5 ? 4 * words_ : kLineBytes; }

  void lose(const TileLoss& loss) {
    for (int t = 0; t < 8; ++t)
      for (int line = 0; line < kLines; ++line)
        if ((loss.registers >> t & 1) != 0 && (loss.line < 0 || loss.line == line))
          std::memset(registers_[t][line], loss.fill, kLineBytes);
  }

  const int64_t words_;
  alignas(kLineBytes) uint8_t registers_[8][kLines][kLineBytes] = {};
};

}  // namespace spae::simd
