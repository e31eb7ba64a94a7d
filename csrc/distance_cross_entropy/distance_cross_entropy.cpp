// Rows that few codes decide are truncated (truncate.h). For the others, every task adds the tiles of a chunk of codes
// (tile.h) to a group of rows (group.h), then merges its sums into those of the group's earlier chunks (turn.h).
#include "distance_cross_entropy/distance_cross_entropy.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "common/parallel.h"
#include "distance_cross_entropy/exact.h"
#include "distance_cross_entropy/group.h"
#include "distance_cross_entropy/plan.h"
#include "distance_cross_entropy/problem.h"
#include "distance_cross_entropy/tile.h"
#include "distance_cross_entropy/truncate.h"
#include "distance_cross_entropy/turn.h"

namespace spae {
namespace cross_entropy {
namespace {

// What a worker needs for one task.
struct Workspace {
  explicit Workspace(const Problem& problem) : group(problem), tile(problem) {}

  Group group;
  Tile tile;
};

// Rows that all codes may matter to.
class Dense {
 public:
  Dense(const Problem& problem, std::vector<int64_t> queries, const CrossEntropyOutput& out)
      : in_(problem.in), problem_(problem), plan_(problem, std::move(queries)), out_(out) {}

  void run() {
    merged_.resize(static_cast<size_t>(in_.queries.count()));
    turns_ = std::vector<std::atomic<int64_t>>(static_cast<size_t>(plan_.groups));
    const int64_t workers = torch::stable::get_num_threads(), tasks = plan_.groups * plan_.chunks;
    std::vector<Workspace> workspaces(static_cast<size_t>(std::min(workers, tasks)), Workspace(problem_));
    // A worker that goes on with its group keeps the packed queries. Earlier tasks never wait for later ones.
    for_each_task(tasks, workers, [&](int64_t task, int64_t worker) {
      auto& [group, tile] = workspaces[static_cast<size_t>(worker)];
      const int64_t id = task / plan_.chunks, chunk = task % plan_.chunks;
      Turn turn(turns_[static_cast<size_t>(id)], chunk);
      group.pack(plan_, id);
      group.restart();
      const int64_t end = plan_.first_tile(chunk + 1);
      for (int64_t t = plan_.first_tile(chunk); t < end; ++t) {
        tile.open(t, t + 1 < end);
        for (size_t b = 0; b < group.blocks.size(); ++b) tile.add(group, b);
      }
      if (turn.wait()) merge(group, chunk);
    });
    for_each_range(static_cast<int64_t>(plan_.queries.size()), 1, [&](int64_t i, int64_t) {
      const int64_t query = plan_.queries[static_cast<size_t>(i)];
      out_.evaluated[query] = -1;
      if (merged_[static_cast<size_t>(query)].query < 0) Exact(problem_, out_).write_all(query);
    });
  }

 private:
  // Adds a chunk's sums to those of the chunks before it; the last one finishes the rows.
  void merge(Group& group, int64_t chunk) {
    for (const Block& block : group.blocks) {
      for (int64_t r = 0; r < block.rows; ++r) {
        const Row& row = group.rows_of(block)[r];
        if (row.query < 0) continue;
        merge_row(row, group.sums_of(block) + r, block.rows, chunk);
        if (chunk + 1 == plan_.chunks) finish(merged_[static_cast<size_t>(row.query)], group.scratch.data());
      }
    }
  }

  // `from` is the first of the row's sums, `step` the way to the next.
  void merge_row(const Row& row, const float* from, int64_t step, int64_t chunk) {
    Row& merged = merged_[static_cast<size_t>(row.query)];
    double before = 0, now = 1;
    if (chunk == 0) {
      merged = row;
    } else {
      const double origin = std::min(merged.origin, row.origin);
      before = problem_.fade(origin, merged.origin);
      now = problem_.fade(origin, row.origin);
      merged.origin = origin;
      merged.total = before * merged.total + now * row.total;
    }
    if (!problem_.with_gradient) return;
    const int64_t width = problem_.width;
    float* to = out_.gradient + row.query * width;
    const auto old_share = static_cast<float>(before), new_share = static_cast<float>(now);
    for (int64_t d = 0; d < width; ++d)
      to[d] = (chunk == 0 ? 0.0f : old_share * to[d]) + new_share * from[d * step];
  }

  // The loss and, from the weighted sum of framed codes, the gradient.
  void finish(const Row& row, float* scratch) {
    const double odds = std::log(row.total) + (row.own - row.origin) / in_.temperature;
    out_.loss[row.query] = loss_of(odds);
    if (!problem_.with_gradient) return;
    float* gradient = out_.gradient + row.query * problem_.width;
    const float* own = in_.codes.row(in_.target[row.query], scratch);
    const double others = row.total > 0 ? share_of(odds) : 0.0;
    const double share = row.total > 0 ? 1.0 / (row.total * in_.prepared.scale) : 0.0;
    const double factor = 2.0 / in_.temperature * others;
    for (int64_t d = 0; d < problem_.width; ++d)
      gradient[d] = static_cast<float>(factor * (share * gradient[d] - (own[d] - in_.prepared.shift[d])));
  }

  const CrossEntropyInput& in_;
  const Problem& problem_;
  const Plan plan_;
  const CrossEntropyOutput& out_;
  std::vector<Row> merged_;                  // [N]; the sums are in the gradient
  std::vector<std::atomic<int64_t>> turns_;  // [groups]: the chunk to merge next
};

}  // namespace
}  // namespace cross_entropy

void distance_cross_entropy(const CrossEntropyInput& input, const simd::Kernels& kernels,
                            const CrossEntropyOptions& options, const CrossEntropyOutput& out) {
  const cross_entropy::Problem problem(input, kernels, out.gradient != nullptr);
  cross_entropy::Dense(problem, cross_entropy::Truncation(problem, options, out).run(), out).run();
}

}  // namespace spae
