// The arithmetic of a tile of codes: from the scores of a block of rows to their weights, added to the rows' sums.
#pragma once

#include <cstdint>
#include <vector>

#include "distance_cross_entropy/group.h"
#include "distance_cross_entropy/problem.h"

namespace spae::cross_entropy {

class Tile {
 public:
  explicit Tile(const Problem& problem) : problem_(problem) {}

  // Turns to the codes of a tile; the one after it is fetched into cache meanwhile, if it is next.
  void open(int64_t tile, bool has_next);

  // Adds the weights of its codes to the sums of a block.
  void add(Group& group, size_t index);

 private:
  // A code whose distance to a row of the block the definition has evaluated.
  struct Exact {
    int32_t row;
    int32_t code;
    double sqdist;
  };

  // Of the rows of a block.
  struct Bounds {
    alignas(64) float best[softmax::kMaxBlockRows];     // the highest score of the tile
    alignas(64) float factors[softmax::kMaxBlockRows];  // what the sums so far have to be multiplied by
    alignas(64) float floor[softmax::kMaxBlockRows];    // exponents below are left out
  };

  void score(const Group& group, size_t index, float* best);
  void plan_prefetch(softmax::ScoreArguments& score, size_t index, size_t blocks) const;
  bool bound(Group& group, const Block& block, Bounds& bounds);
  bool bound_row(Group& group, const Block& block, int64_t r, Bounds& bounds);
  float take_out(float* scores, int64_t own, int64_t rows) const;
  double evaluate(Group& group, const Block& block, int64_t r, float threshold);
  int64_t select(Group& group, const Block& block, const float* floor);
  void put_evaluated(Group& group, const Block& block, int64_t count);
  void accumulate(Group& group, const Block& block, int64_t count);

  const Problem& problem_;
  int64_t first_ = 0, codes_ = 0;  // those of the tile
  int64_t next_ = 0;               // the first code of the next
  float largest_norm_ = 0;         // the largest N_k
  std::vector<float> bias_ = std::vector<float>(static_cast<size_t>(softmax::kTileCodes));  // -|C_k|^2 / 2
  std::vector<float> scores_ = std::vector<float>(static_cast<size_t>(softmax::kTileCodes * softmax::kMaxBlockRows));
  std::vector<int32_t> selected_ = std::vector<int32_t>(static_cast<size_t>(softmax::kTileCodes + 1));
  std::vector<Exact> exact_;
};

}  // namespace spae::cross_entropy
