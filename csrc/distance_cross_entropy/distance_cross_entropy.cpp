// The plan: every task adds the tiles of a chunk of codes (tile.h) to a group of rows (group.h), then merges its sums
// into those of the group's earlier chunks (turn.h).
#include "distance_cross_entropy/distance_cross_entropy.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "common/parallel.h"
#include "distance_cross_entropy/group.h"
#include "distance_cross_entropy/plan.h"
#include "distance_cross_entropy/problem.h"
#include "distance_cross_entropy/tile.h"
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

class CrossEntropy {
 public:
  CrossEntropy(const CrossEntropyInput& input, const simd::Kernels& kernels, float* loss, float* gradient)
      : in_(input), problem_(input, kernels, gradient != nullptr), plan_(problem_), loss_(loss), gradient_(gradient) {}

  void run() {
    merged_.resize(static_cast<size_t>(problem_.count));
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
    for_each_range(problem_.count, 1, [&](int64_t begin, int64_t) {
      if (merged_[static_cast<size_t>(begin)].query < 0) evaluate_row(begin);
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
    if (gradient_ == nullptr) return;
    const int64_t width = problem_.width;
    float* to = gradient_ + row.query * width;
    const auto old_share = static_cast<float>(before), new_share = static_cast<float>(now);
    for (int64_t d = 0; d < width; ++d)
      to[d] = (chunk == 0 ? 0.0f : old_share * to[d]) + new_share * from[d * step];
  }

  // The loss and, from the weighted sum of framed codes, the gradient.
  void finish(const Row& row, float* scratch) {
    const double odds = std::log(row.total) + (row.own - row.origin) / in_.temperature;
    loss_[row.query] = static_cast<float>(std::fmax(odds, 0.0) + std::log1p(std::exp(-std::fabs(odds))));
    if (gradient_ == nullptr) return;
    float* gradient = gradient_ + row.query * problem_.width;
    const float* own = in_.codes.row(in_.target[row.query], scratch);
    const double others = row.total > 0 ? 1.0 / (1.0 + std::exp(-odds)) : 0.0;
    const double factor = 2.0 / in_.temperature * others, share = row.total > 0 ? 1.0 / (row.total * in_.scale) : 0.0;
    for (int64_t d = 0; d < problem_.width; ++d)
      gradient[d] = static_cast<float>(factor * (share * gradient[d] - (own[d] - in_.shift[d])));
  }

  // A row by the definition alone.
  void evaluate_row(int64_t query) {
    const int64_t width = problem_.width;
    std::vector<float> scratch(static_cast<size_t>(2 * width));
    std::vector<double> sums(static_cast<size_t>(width), 0.0);
    const float* q = in_.queries.row(query, scratch.data());
    Row row;
    row.query = query;
    const auto sqdist = [&](int64_t code) {
      return problem_.definition.sqdist(q, in_.codes.row(code, scratch.data() + width), width);
    };
    row.own = sqdist(in_.target[query]);
    for (int64_t k = 0; k < in_.codes.count(); ++k) {
      if (k == in_.target[query]) continue;
      const double distance = sqdist(k);
      const float* code = in_.codes.row(k, scratch.data() + width);
      const double origin = std::min(row.origin, distance), share = problem_.fade(origin, row.origin);
      const double weight = problem_.fade(origin, distance);
      row.origin = origin;
      row.total = share * row.total + weight;
      for (int64_t d = 0; d < width; ++d)
        sums[static_cast<size_t>(d)] =
            share * sums[static_cast<size_t>(d)] + weight * in_.scale * (code[d] - in_.shift[d]);
    }
    if (gradient_ != nullptr)
      for (int64_t d = 0; d < width; ++d)
        gradient_[query * width + d] = static_cast<float>(sums[static_cast<size_t>(d)]);
    finish(row, scratch.data());
  }

  const CrossEntropyInput& in_;
  const Problem problem_;
  const Plan plan_;
  float* const loss_;
  float* const gradient_;
  std::vector<Row> merged_;                  // [N]; the sums are in the gradient
  std::vector<std::atomic<int64_t>> turns_;  // [groups]: the chunk to merge next
};

}  // namespace
}  // namespace cross_entropy

void distance_cross_entropy(const CrossEntropyInput& input, const simd::Kernels& kernels, float* loss,
                            float* gradient) {
  cross_entropy::CrossEntropy(input, kernels, loss, gradient).run();
}

}  // namespace spae
