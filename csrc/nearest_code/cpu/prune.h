// Pruning: finds queries' answers by the prefix screen alone, where they are much nearer than other codes.
//
// Every code's prefix is scored, a fifth of the work, and only the largest score of each tile is kept. The best code of
// the best tile, evaluated, sets a threshold that few tiles reach; these are scored again, and what reaches it there is
// evaluated. Rows with too much to evaluate are left to the screens. A call begins with a sixteenth of the tiles for
// some of its rows: a sixteenth of near-code queries have their code among these. Where none seems to, nothing is
// pruned.
#pragma once

#include <cstdint>
#include <vector>

#include "nearest_code/cpu/screens.h"
#include "nearest_code/cpu/task.h"

namespace spae {

// The rows of a pass, packed into a screen.
struct PackedRows {
  const std::vector<int64_t>& ids;  // the queries'
  const std::vector<Block>& blocks;
  const std::vector<RowBound>& bounds;
};

class Pruner {
 public:
  // With a null `screen` nothing is pruned.
  Pruner(const SearchTask& task, const PrefixScreen* screen, PruneChoice choice);

  // Writes the answers of the rows that the prefix decides, and returns the ids of the others, in order.
  std::vector<int64_t> run(const PackedRows& pass);

 private:
  struct Row;

  bool is_worthwhile(const PackedRows& pass);
  int64_t run_blocks(const PackedRows& pass, int64_t first, int64_t last, std::vector<char>& decided);
  void score_tiles(const PackedRows& pass, int64_t first, int64_t last, const std::vector<int64_t>& tiles);
  template <class F>
  void for_each_row(const PackedRows& pass, int64_t first, int64_t last, const F& run) const;
  float seed_threshold(const Row& row) const;
  bool decide(const Row& row) const;

  const SearchTask& task_;
  const PrefixScreen* screen_;
  const bool forced_;
  bool enabled_;
  bool tried_ = false;
  std::vector<float> maxima_;  // [rows, tiles]: each row's largest prefix score over each tile
};

}  // namespace spae
