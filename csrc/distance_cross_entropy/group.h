// A group of rows as one worker holds it, with what a chunk of codes has added to them.
#pragma once

#include <cstdint>
#include <vector>

#include "distance_cross_entropy/plan.h"
#include "distance_cross_entropy/problem.h"

namespace spae::cross_entropy {

// The neighbouring rows of a group that a kernel takes at once.
struct Block {
  int64_t first;
  int64_t rows;
  int vectors;
};

class Group {
 public:
  explicit Group(const Problem& problem) : problem_(problem) {}

  // Packs the queries of a group, unless they are packed already.
  void pack(const Plan& plan, int64_t group);

  // Forgets all codes.
  void restart();

  double sqdist(int64_t query, int64_t code) { return problem_.sqdist(query, code, scratch.data()); }

  // Of a block.
  Row* rows_of(const Block& block) { return rows.data() + block.first; }
  const float* queries_of(const Block& block) const { return queries.data() + block.first * problem_.width; }
  float* sums_of(const Block& block) { return sums.data() + block.first * problem_.width; }

  std::vector<Block> blocks;
  std::vector<Row> rows;
  std::vector<float> reference, best;  // [rows]
  std::vector<float> queries, sums;    // [D, R] for each block
  std::vector<float> scratch;          // [2, D]

 private:
  void pack_row(const Block& block, int64_t r, int64_t query);

  const Problem& problem_;
  int64_t packed_ = -1;
};

}  // namespace spae::cross_entropy
