#include "simd/packed_tiles.h"

#include <algorithm>
#include <cstring>

namespace spae::simd {
namespace {

// Its line within the two registers: the last of each is the check's.
int line_of(int r) { return r + r / kHalfRows; }

}  // namespace

void PackedTiles::resize(int64_t blocks) {
  const auto bytes = static_cast<size_t>(blocks * block_bytes(words_) + kLineBytes);
  if (memory_.size() < bytes) memory_.resize(bytes);
  const auto address = reinterpret_cast<uintptr_t>(memory_.data());
  data_ = memory_.data() + (kLineBytes - static_cast<int64_t>(address % kLineBytes)) % kLineBytes;
}

void PackedTiles::clear(int64_t block) {
  std::memset(data_ + block * block_bytes(words_), 0, static_cast<size_t>(block_bytes(words_)));
  const std::vector<int8_t> ones(static_cast<size_t>(4 * words_), int8_t{1});
  for (const int half : {0, 1}) set_line(block, half * kLines + kHalfRows, ones.data(), kCheckStart);
}

void PackedTiles::set(int64_t block, int r, const int8_t* integers, int32_t start) {
  set_line(block, line_of(r), integers, start);
}

void PackedTiles::set_line(int64_t block, int line, const int8_t* integers, int32_t start) {
  int8_t* out = data_ + block * block_bytes(words_) + line * kLineBytes;
  const int64_t length = step_words(words_), steps = num_steps(words_);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t begin = step_begin(words_, step), skip = step * kLineWords - begin;
    std::memcpy(out + step * kPairBytes + 4 * skip, integers + 4 * (begin + skip), static_cast<size_t>(4 * (length - skip)));
  }
  int32_t starts[kLines];
  std::fill(starts, starts + kLines, start);
  std::memcpy(out + steps * kPairBytes, starts, sizeof starts);
}

void PackedTiles::copy_words(int64_t block, int r, int64_t words, int32_t* out) const {
  const int8_t* from = queries(block) + line_of(r) * kLineBytes;
  for (int64_t w = 0; w < words; ++w) {
    const int64_t step = w / kLineWords;
    std::memcpy(out + w, from + step * kPairBytes + 4 * (w - step_begin(words_, step)), 4);
  }
}

}  // namespace spae::simd
