// How the rows and codes of a loss are divided: vectors of rows into blocks, blocks into groups, tiles of codes into
// chunks. It depends on how many rows there are, K and D only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "distance_cross_entropy/problem.h"

namespace spae::cross_entropy {

// Queries and sums that a task works on; well within a second-level cache.
inline constexpr int64_t kGroupBytes = int64_t{1} << 19;
// Of few queries a task takes fewer, for what it holds is to stay small beside their scores.
inline constexpr int64_t kMinGroups = 8;
inline constexpr int64_t kTasks = 32;
inline constexpr int64_t kMinTilesPerTask = 8;

struct Plan {
  // Of the rows that are not truncated.
  Plan(const Problem& problem, std::vector<int64_t> rows) : queries(std::move(rows)), tiles(problem.tiles) {
    const auto count = static_cast<int64_t>(queries.size());
    const int64_t lanes = problem.kernels.lanes;
    vectors = (count + lanes - 1) / lanes;
    blocks = (vectors + softmax::kMaxVectors - 1) / softmax::kMaxVectors;
    const int64_t block_bytes = 2 * softmax::kMaxVectors * lanes * problem.width * 4;
    const int64_t most = std::max<int64_t>(kGroupBytes / block_bytes, 1);
    const int64_t group_blocks = std::clamp<int64_t>(blocks / kMinGroups, 1, most);
    groups = (blocks + group_blocks - 1) / group_blocks;
    chunks = std::clamp<int64_t>(kTasks / std::max<int64_t>(groups, 1), 1,
                                 std::max<int64_t>(tiles / kMinTilesPerTask, 1));
  }

  // Where each begins; that of the one after the last is the end.
  int64_t first_block(int64_t group) const { return group * blocks / groups; }
  int64_t first_vector(int64_t block) const { return block * vectors / blocks; }
  int64_t first_tile(int64_t chunk) const { return chunk * tiles / chunks; }

  std::vector<int64_t> queries;
  int64_t tiles;
  int64_t vectors = 0;  // of `lanes` rows
  int64_t blocks = 0;   // which share the vectors evenly
  int64_t groups = 0;
  int64_t chunks = 0;
};

}  // namespace spae::cross_entropy
