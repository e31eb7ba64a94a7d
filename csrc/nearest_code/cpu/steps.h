// What is done with a packed pass: groups of its blocks are screened against ranges of tiles, each into candidate lists
// of its own; then every row's lists are merged and what is left is evaluated, best first.
#pragma once

#include <cstdint>

#include "common/ranking.h"
#include "nearest_code/cpu/pass.h"
#include "nearest_code/cpu/task.h"

namespace spae {

class Steps {
 public:
  Steps(const SearchTask& task, Pass& pass, ScreenChoice choice, int64_t workers)
      : task_(task), pass_(pass), choice_(choice), workers_(workers) {}

  // The most rows whose candidate lists take no more than `bytes`.
  int64_t max_rows(int64_t bytes) const;

  // Answers the rows of the pass, but for those that the int8 screen gives up.
  void run();

 private:
  int64_t max_ranges() const;
  int64_t num_ranges() const;
  void screen(const Group& group, int64_t begin, int64_t end, int64_t slots);
  class Collector;
  void collect(uint32_t hits, const Block& block, int64_t tile, int64_t slots, const float* scores);
  void make_room(int64_t row, int64_t slot);
  void finish_row(int64_t row);
  void evaluate_all(Scorer& scorer, Ranking& best) const;

  const SearchTask& task_;
  Pass& pass_;
  const ScreenChoice choice_;
  const int64_t workers_;
  int64_t lists_ = 1;          // of a row
  CandidateLists candidates_;  // slot = list * rows + row
};

}  // namespace spae
