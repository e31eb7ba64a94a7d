// A row's loss and gradient in float64, from the definition's distances of the codes that count.
#pragma once

#include <cstdint>
#include <vector>

#include "distance_cross_entropy/problem.h"

namespace spae::cross_entropy {

// A code other than the target, evaluated.
struct Evaluated {
  int64_t code;
  double sqdist;
};

class Exact {
 public:
  Exact(const Problem& problem, const CrossEntropyOutput& out)
      : problem_(problem),
        out_(out),
        scratch_(2 * static_cast<size_t>(problem.width)),
        own_(static_cast<size_t>(problem.width)),
        sums_(static_cast<size_t>(problem.width)) {}

  double sqdist(int64_t query, int64_t code) { return problem_.sqdist(query, code, scratch_.data()); }

  // Writes the row's loss and gradient; `codes`, in any order, hold at least those of S
  // (distance_cross_entropy.h), to which they are reduced.
  void write(int64_t query, std::vector<Evaluated>& codes);

  // The same of all codes.
  void write_all(int64_t query);

 private:
  void write_gradient(int64_t query, const std::vector<Evaluated>& codes, double nearest, double factor);

  const Problem& problem_;
  const CrossEntropyOutput& out_;
  std::vector<float> scratch_, own_;  // [2, D], [D]
  std::vector<double> sums_;          // [D]
};

}  // namespace spae::cross_entropy
