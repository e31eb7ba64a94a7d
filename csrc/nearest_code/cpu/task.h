// What the parts of one search share: its inputs, and the evaluation of a query's candidates by the definition.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/ranking.h"
#include "nearest_code/cpu/nearest_code.h"
#include "simd/simd.h"

namespace spae {

struct SearchTask {
  const Rows& queries;
  const Rows& codes;
  const PreparedCodes& prepared;
  const simd::Kernels& kernels;
  const SearchOutput& out;
  const bool* mask;            // [K] or null
  int64_t k;
  const float* bias;           // [32 tiles]: b_k, -inf for codes that may not be chosen
  std::vector<int64_t> tiles;  // those with a code that may be
};

// Of a query's row in a pass.
struct RowBound {
  double squares;  // |Q|^2
  double slack;    // E_q
  bool screened;   // false for rows too large to screen
};

// Evaluates the definition for one query.
class Scorer {
 public:
  Scorer(const SearchTask& task, int64_t query, const RowBound& bound)
      : task_(task),
        bound_(bound),
        scratch_(2 * static_cast<size_t>(task.queries.width())),
        query_(task.queries.row(query, scratch_.data())) {}

  double sqdist(int64_t id) {
    ++evaluated_;
    const int64_t width = task_.queries.width();
    return task_.kernels.sqdist(query_, task_.codes.row(id, scratch_.data() + width), width);
  }

  // The threshold that codes evaluated to `best` set.
  float threshold(const Ranking& best) const {
    return evaluated_threshold(bound_.squares, best.worst(), task_.prepared.scale, bound_.slack,
                               task_.queries.width());
  }

  // Offers to `best` the candidates that may be among the answers, the most promising first, as each may rule out
  // the rest. Returns the threshold, raised by what was found.
  float evaluate(std::vector<Candidate>& candidates, float threshold, Ranking& best) {
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.upper > b.upper; });
    for (const Candidate& candidate : candidates) {
      threshold = std::max(threshold, this->threshold(best));
      if (candidate.upper < threshold) break;
      best.offer(sqdist(candidate.id), candidate.id);
    }
    return std::max(threshold, this->threshold(best));
  }

  int64_t evaluated() const { return evaluated_; }

 private:
  const SearchTask& task_;
  const RowBound& bound_;
  std::vector<float> scratch_;
  const float* query_;
  int64_t evaluated_ = 0;
};

}  // namespace spae
