// The rows of a pass: which queries they are, packed in blocks into a screen, and what is known of their thresholds.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "nearest_code/cpu/prune.h"
#include "nearest_code/cpu/screens.h"
#include "nearest_code/cpu/task.h"

namespace spae {

// Neighbouring blocks that are screened against a tile one after another, and their rows.
struct Group {
  int64_t first_block;
  int64_t last_block;
  int64_t first_row;
  int64_t last_row;
};

// Blocks of a group: half of the second-level cache holds them; the other half, the tile that they are screened against.
int64_t max_group_blocks(const Screen& screen);

class Pass {
 public:
  explicit Pass(const SearchTask& task) : task_(task) {}

  // Packs queries into the screen.
  void pack(std::vector<int64_t> queries, Screen& screen, bool int8);

  int64_t rows() const { return static_cast<int64_t>(queries_.size()); }
  bool int8() const { return int8_; }
  const Screen& screen() const { return *screen_; }
  int64_t query(int64_t row) const { return queries_[static_cast<size_t>(row)]; }
  const RowBound& bound(int64_t row) const { return bounds_[static_cast<size_t>(row)]; }
  const Block& block(int64_t index) const { return blocks_[static_cast<size_t>(index)]; }
  PackedRows packed() const { return {queries_, blocks_, bounds_}; }

  int64_t groups() const { return (static_cast<int64_t>(blocks_.size()) + group_blocks_ - 1) / group_blocks_; }
  Group group(int64_t index) const;

  // A lower bound on what a row's answers score, found by any thread. Which ones are known when depends on timing, and
  // changes only how many codes are re-scored.
  float threshold(int64_t row) const {
    return thresholds_[static_cast<size_t>(row)].load(std::memory_order_relaxed);
  }
  void raise(int64_t row, float threshold);

  // False for rows too large to screen and, in int8, for those given up.
  bool is_screened(int64_t row) const { return threshold(row) != kNotScreened; }
  // The queries of these.
  std::vector<int64_t> not_screened() const;

  static constexpr float kNotScreened = std::numeric_limits<float>::infinity();

 private:
  void split_blocks();
  void pack_block(const Block& block);

  const SearchTask& task_;
  std::vector<int64_t> queries_;                // [rows]
  bool int8_ = false;
  Screen* screen_ = nullptr;
  std::vector<Block> blocks_;
  int64_t group_blocks_ = 1;
  std::vector<RowBound> bounds_;                // [rows] or more
  std::vector<std::atomic<float>> thresholds_;  // likewise
};

}  // namespace spae
