// Truncation: rows whose softmax few codes make up, found by the int8 screen and evaluated by the definition.
//
// Every code's score is bounded from above by the screen of nearest_code.h, of a fifth of the elements first, then of
// all; of each tile of codes only the largest bound is kept. The best tiles' best codes, evaluated, set a threshold
// that all codes of S (distance_cross_entropy.h) reach. Tiles that reach it are screened again, of all elements and for
// the row alone, and what reaches it there is evaluated. Rows with too much to evaluate are left to the dense path; so
// is everything where some rows against a sixteenth of the tiles, or the first rows altogether, show that little can be
// left out.
//
// Which rows are truncated depends on the inputs and the instruction set, not on threads; what comes out for them does
// not depend on the screen at all.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "distance_cross_entropy/exact.h"
#include "distance_cross_entropy/problem.h"
#include "nearest_code/cpu/screens.h"

namespace spae::cross_entropy {

class Truncation {
 public:
  Truncation(const Problem& problem, const CrossEntropyOptions& options, const CrossEntropyOutput& out);

  // Writes the losses and gradients of the rows it can; returns the other queries, ascending.
  std::vector<int64_t> run();

 private:
  enum class Level { kPrefix, kAll };

  // Of the rows of a step.
  struct Row {
    int64_t query;
    double squares, slack;  // |Q|^2, E_q
    bool screened;          // false for rows too large to screen
  };

  // A row as `score` left it.
  struct Scored {
    const Row& row;
    const Block& block;
    int index;  // within the block
    const float* maxima;
  };

  class PrefixMaxima;
  class Maxima;

  // What a worker needs to decide rows.
  struct Workspace {
    explicit Workspace(const Truncation& parent);

    // Packs a row into the screen of its own.
    void open(int64_t query);

    const Problem& problem;
    Exact exact;
    // The row's bounds [32] of a tile's codes; null if none reaches the threshold.
    const float* score(int64_t tile, float threshold);

    std::unique_ptr<PrefixScreen> screen;  // of a row alone
    alignas(64) float scores[simd::kTile];
    std::vector<float> scratch, framed;    // [D]
    std::vector<Evaluated> codes;
  };

  bool is_promising(Level level, const std::vector<int64_t>& queries);
  bool is_promising(Level level, const Scored& scored, const std::vector<int64_t>& tiles) const;
  std::vector<int64_t> run_level(Level level, const std::vector<int64_t>& queries);
  void pack(const int64_t* queries, int64_t count);
  void pack_block(const Block& block, const int64_t* queries);
  void score(Level level, const std::vector<int64_t>& tiles);
  float running_threshold(int64_t row, int64_t tile, const float* scores) const;
  Scored scored(const Block& block, int index) const;
  bool decide(Level level, const Scored& scored, Workspace& work) const;
  double seed(const Scored& scored, Workspace& work) const;
  bool evaluate(const Row& row, int64_t tile, float threshold, Workspace& work) const;
  float threshold(const Row& row, double nearest) const;

  const Problem& problem_;
  const CrossEntropyOutput& out_;
  const simd::Kernels& kernels_;
  const bool forced_;
  const int64_t count_;                    // K
  std::unique_ptr<PrefixScreen> screen_;   // null where there is none, or it would not pay
  double reach_ = 0;                       // s^2 tau G / 2, rounded up
  int64_t stride_ = 0;                     // of maxima_
  std::vector<int64_t> tiles_;             // all of them
  std::vector<Block> blocks_;              // of the step
  std::vector<Row> rows_;                  // [rows]
  std::vector<float> maxima_;              // [rows, stride]: each row's largest bound over each tile
};

}  // namespace spae::cross_entropy
