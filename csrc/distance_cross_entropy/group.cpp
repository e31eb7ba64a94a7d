#include "distance_cross_entropy/group.h"

#include <algorithm>
#include <limits>

namespace spae::cross_entropy {

void Group::pack(const Plan& plan, int64_t group) {
  if (packed_ == group) return;
  const int64_t lanes = problem_.kernels.lanes;
  const int64_t begin = plan.first_block(group), end = plan.first_block(group + 1);
  const int64_t origin = plan.first_vector(begin);
  const int64_t count = (plan.first_vector(end) - origin) * lanes;
  packed_ = group;
  blocks.clear();
  rows.assign(static_cast<size_t>(count), Row{});
  reference.resize(static_cast<size_t>(count));
  best.resize(static_cast<size_t>(count));
  queries.assign(static_cast<size_t>(count * problem_.width), 0.0f);
  sums.resize(problem_.with_gradient ? static_cast<size_t>(count * problem_.width) : 0);
  scratch.resize(static_cast<size_t>(2 * problem_.width));
  for (int64_t b = begin; b < end; ++b) {
    const int64_t from = plan.first_vector(b), to = plan.first_vector(b + 1);
    const Block block{(from - origin) * lanes, (to - from) * lanes, static_cast<int>(to - from)};
    blocks.push_back(block);
    for (int64_t r = 0; r < block.rows; ++r) {
      const auto position = static_cast<size_t>(from * lanes + r);
      if (position < plan.queries.size()) pack_row(block, r, plan.queries[position]);
    }
  }
}

void Group::pack_row(const Block& block, int64_t r, int64_t query) {
  const CrossEntropyInput& in = problem_.in;
  const int64_t width = problem_.width;
  Row& row = rows_of(block)[r];
  float* framed = scratch.data() + width;
  const float* x = in.queries.row(query, scratch.data());
  row.norm = frame_row(x, in.prepared.shift, in.prepared.scale, width, framed, &row.squares);
  if (!(row.norm <= kMaxScreenNorm) || width > kMaxScreenWidth) return;
  row.query = query;
  row.slack = query_slack(width, row.norm);
  float* out = queries.data() + block.first * width + r;
  for (int64_t d = 0; d < width; ++d) out[d * block.rows] = framed[d];
  row.own = sqdist(query, in.target[query]);
}

void Group::restart() {
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].total = 0;
    rows[i].origin = std::numeric_limits<double>::infinity();
    reference[i] = 0;
    best[i] = -std::numeric_limits<float>::infinity();
  }
  std::fill(sums.begin(), sums.end(), 0.0f);
}

}  // namespace spae::cross_entropy
