#include "distance_cross_entropy/exact.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spae::cross_entropy {

void Exact::write(int64_t query, std::vector<Evaluated>& codes) {
  const double temperature = problem_.in.temperature;
  double nearest = std::numeric_limits<double>::infinity();
  for (const Evaluated& code : codes) nearest = std::min(nearest, code.sqdist);
  codes.erase(std::remove_if(codes.begin(), codes.end(),
                             [&](const Evaluated& code) {
                               return !((code.sqdist - nearest) / temperature <= problem_.gap);
                             }),
              codes.end());
  std::sort(codes.begin(), codes.end(), [](const Evaluated& a, const Evaluated& b) { return a.code < b.code; });
  double total = 0;
  for (const Evaluated& code : codes) total += std::exp((nearest - code.sqdist) / temperature);
  const double own = sqdist(query, problem_.in.target[query]);
  const double odds = codes.empty() ? -nearest : std::log(total) + (own - nearest) / temperature;
  out_.loss[query] = loss_of(odds);
  if (problem_.with_gradient)
    write_gradient(query, codes, nearest, codes.empty() ? 0.0 : 2.0 / temperature * share_of(odds) / total);
}

// factor times the sum of w_k (c_k - c_y).
void Exact::write_gradient(int64_t query, const std::vector<Evaluated>& codes, double nearest, double factor) {
  const Rows& table = problem_.in.codes;
  const float* own = table.row(problem_.in.target[query], own_.data());
  std::fill(sums_.begin(), sums_.end(), 0.0);
  for (const Evaluated& evaluated : codes) {
    const double weight = std::exp((nearest - evaluated.sqdist) / problem_.in.temperature);
    const float* code = table.row(evaluated.code, scratch_.data());
    for (size_t d = 0; d < sums_.size(); ++d) sums_[d] += weight * (static_cast<double>(code[d]) - own[d]);
  }
  float* gradient = out_.gradient + query * problem_.width;
  for (size_t d = 0; d < sums_.size(); ++d) gradient[d] = static_cast<float>(factor * sums_[d]);
}

void Exact::write_all(int64_t query) {
  std::vector<Evaluated> codes;
  for (int64_t k = 0; k < problem_.in.codes.count(); ++k)
    if (k != problem_.in.target[query]) codes.push_back({k, sqdist(query, k)});
  write(query, codes);
}

}  // namespace spae::cross_entropy
