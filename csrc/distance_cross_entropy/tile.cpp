#include "distance_cross_entropy/tile.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spae::cross_entropy {

using softmax::kMaxBlockRows;
using softmax::kTileCodes;

void Tile::open(int64_t tile, bool has_next) {
  first_ = tile * kTileCodes;
  codes_ = std::min(kTileCodes, problem_.padded - first_);
  next_ = has_next ? first_ + kTileCodes : problem_.padded;
  const float* norms = problem_.in.prepared.norms + first_;
  largest_norm_ = *std::max_element(norms, norms + codes_);
  // Without the term in nearest_code.h's bound that screening needs.
  for (int64_t k = 0; k < codes_; ++k) {
    const double norm = norms[k];
    const float bias = problem_.in.prepared.bias[first_ + k];
    bias_[static_cast<size_t>(k)] = static_cast<float>(bias - kCodeSlope * norm * norm);
  }
}

void Tile::add(Group& group, size_t index) {
  const Block& block = group.blocks[index];
  Bounds bounds;
  score(group, index, bounds.best);
  if (bound(group, block, bounds) && problem_.with_gradient)
    problem_.kernels.scale[block.vectors](group.sums_of(block), problem_.width, bounds.factors);
  const int64_t count = select(group, block, bounds.floor);
  if (count == 0) return;
  put_evaluated(group, block, count);
  accumulate(group, block, count);
}

void Tile::score(const Group& group, size_t index, float* best) {
  const Block& block = group.blocks[index];
  softmax::ScoreArguments score{};
  score.queries = group.queries_of(block);
  score.panels = problem_.in.prepared.panels + first_ * problem_.width;
  score.bias = bias_.data();
  score.width = problem_.width;
  score.codes = codes_;
  plan_prefetch(score, index, group.blocks.size());
  score.scores = scores_.data();
  score.best = best;
  problem_.kernels.score[block.vectors](score);
}

// Every block of a group fetches its share of the next tile.
void Tile::plan_prefetch(softmax::ScoreArguments& score, size_t index, size_t blocks) const {
  const int64_t bytes = std::min(kTileCodes, problem_.padded - next_) * problem_.width * 4;
  const auto begin = static_cast<int64_t>(index) * bytes / static_cast<int64_t>(blocks);
  const auto end = static_cast<int64_t>(index + 1) * bytes / static_cast<int64_t>(blocks);
  score.prefetch = reinterpret_cast<const char*>(problem_.in.prepared.panels + next_ * problem_.width) + begin;
  score.prefetch_bytes = end - begin;
}

// True if some row's sums have to be multiplied by its factor.
bool Tile::bound(Group& group, const Block& block, Bounds& bounds) {
  bool raised = false;
  exact_.clear();
  for (int64_t r = 0; r < block.rows; ++r) {
    bounds.factors[r] = 1;
    bounds.floor[r] = std::numeric_limits<float>::infinity();
    if (group.rows_of(block)[r].query >= 0 && bound_row(group, block, r, bounds)) raised = true;
  }
  return raised;
}

// The three bounds of distance_cross_entropy.h for a row; true if its reference has followed the best.
bool Tile::bound_row(Group& group, const Block& block, int64_t r, Bounds& bounds) {
  Row& row = group.rows_of(block)[r];
  float& reference = group.reference[static_cast<size_t>(block.first + r)];
  float& best = group.best[static_cast<size_t>(block.first + r)];
  float& tile_best = bounds.best[r];
  const double slope = problem_.slope;
  const int64_t own = problem_.in.target[row.query] - first_;
  if (own >= 0 && own < codes_) tile_best = take_out(scores_.data() + r, own, block.rows);
  const double error = problem_.error(row, largest_norm_);
  const bool first_codes = std::isinf(row.origin);
  double gap = problem_.gap, nearest = row.origin;
  if (tile_best == -std::numeric_limits<float>::infinity()) {
    // Nothing but the target and what fills up the panel.
    if (first_codes) return false;
  } else if (error <= kExactError) {
    best = std::max(best, tile_best);
    if (first_codes || slope * (tile_best - reference) > kRaise) nearest = problem_.sqdist_of(row, tile_best);
  } else {
    const double exact_gap = std::log(error / kLeftError) - 0.5 * std::log(static_cast<double>(problem_.width));
    const double reach = (std::fmax(exact_gap, 0.0) + 3 * error) / slope;
    const auto threshold = static_cast<float>(std::max(best, tile_best) - reach);
    if (tile_best >= threshold) nearest = evaluate(group, block, r, threshold);
    best = std::max(best, problem_.score_of(row, nearest));
    gap = std::fmax(gap, exact_gap) + error;
  }
  bool raised = false;
  if (first_codes) {
    problem_.refer(row, reference, nearest);
  } else if ((row.origin - nearest) / problem_.in.temperature > kRaise) {
    bounds.factors[r] = problem_.raise(row, reference, nearest);
    raised = true;
  }
  bounds.floor[r] = static_cast<float>(slope * (best - reference) - gap - 2 * error);
  return raised;
}

// Takes the target out of a row's scores; returns the best of the others.
float Tile::take_out(float* scores, int64_t own, int64_t rows) const {
  scores[own * rows] = -std::numeric_limits<float>::infinity();
  float best = scores[own * rows];
  for (int64_t k = 0; k < codes_; ++k) best = std::max(best, scores[k * rows]);
  return best;
}

// Evaluates the definition for the codes that reach a row's threshold; returns the least distance.
double Tile::evaluate(Group& group, const Block& block, int64_t r, float threshold) {
  const Row& row = group.rows_of(block)[r];
  double nearest = std::numeric_limits<double>::infinity();
  for (int64_t k = 0; k < codes_; ++k) {
    if (!(scores_[static_cast<size_t>(k * block.rows + r)] >= threshold)) continue;
    if (first_ + k == problem_.in.target[row.query]) continue;
    const double distance = group.sqdist(row.query, first_ + k);
    exact_.push_back({static_cast<int32_t>(r), static_cast<int32_t>(k), distance});
    nearest = std::min(nearest, distance);
  }
  return nearest;
}

// Puts the exponents of the codes that some row needs in place of the scores; returns how many there are.
int64_t Tile::select(Group& group, const Block& block, const float* floor) {
  softmax::SelectArguments select{};
  select.scores = scores_.data();
  select.codes = codes_;
  select.reference = group.reference.data() + block.first;
  select.slope = static_cast<float>(problem_.slope);
  select.floor = floor;
  select.exponents = scores_.data();
  select.selected = selected_.data();
  return problem_.kernels.select[block.vectors](select);
}

// The exponents of evaluated codes, from their distances.
void Tile::put_evaluated(Group& group, const Block& block, int64_t count) {
  const Row* row = group.rows_of(block);
  for (const Exact& exact : exact_) {
    const auto end = selected_.begin() + count;
    const auto at = std::lower_bound(selected_.begin(), end, exact.code);
    if (at == end || *at != exact.code) continue;
    const double exponent = (row[exact.row].origin - exact.sqdist) / problem_.in.temperature;
    scores_[static_cast<size_t>((at - selected_.begin()) * block.rows + exact.row)] = static_cast<float>(exponent);
  }
}

// Adds up the weights and, for the gradient, the weighted codes.
void Tile::accumulate(Group& group, const Block& block, int64_t count) {
  alignas(64) float totals[kMaxBlockRows] = {};
  float* weights = scores_.data();
  problem_.kernels.exponentiate[block.vectors](weights, count, totals);
  Row* row = group.rows_of(block);
  for (int64_t r = 0; r < block.rows; ++r) row[r].total += totals[r];
  if (!problem_.with_gradient) return;
  const float* panels = problem_.in.prepared.panels + first_ * problem_.width;
  problem_.kernels.add[block.vectors](
      {weights, selected_.data(), count, panels, problem_.width, group.sums_of(block)});
}

}  // namespace spae::cross_entropy
