#include "nearest_code/cpu/prune.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <limits>

#include "common/parallel.h"

namespace spae {
namespace {

// With less than these, trying costs too much of what can be saved.
constexpr int64_t kMinRows = 64;
constexpr int64_t kMinCodes = 4096;
constexpr int64_t kMinWidth = 128;
// The trial: so many rows against one tile in so many. Guessing the distance to the nearest code from the prefix's part
// of it, it should rule out all but one tile in so many. One row where it does is enough: of near-code queries, only
// those whose code is in the tiles tried can tell.
constexpr int64_t kTrialRows = 96;
constexpr int64_t kTrialStep = 16;
constexpr int64_t kTrialTilesPerSurvivor = 16;
// A row is given up when more than one tile in so many reaches its threshold, or one code in so many is evaluated.
constexpr int64_t kTilesPerSurvivor = 2;
constexpr int64_t kCodesPerEvaluation = 256;
constexpr int64_t kTasksPerWorker = 8;
constexpr int64_t kMinTilesPerTask = 32;
constexpr int64_t kMaximaBytes = int64_t{2} << 20;
constexpr int64_t kRun = 32;
constexpr int64_t kLineFloats = 16;
constexpr float kNoThreshold = -std::numeric_limits<float>::max();

struct TileMaximum {
  float value;
  int64_t tile;
};

bool is_better(const TileMaximum& a, const TileMaximum& b) {
  return a.value > b.value || (a.value == b.value && a.tile < b.tile);
}

// From one row of maxima to the next: an odd number of cache lines, so that rows do not compete for the same sets.
int64_t row_stride(int64_t tiles) {
  return ((tiles + 2 * kLineFloats - 1) / (2 * kLineFloats) * 2 + 1) * kLineFloats;
}

// Calls visit(t) for every maxima[t] >= threshold, which visit may raise.
template <class F>
void for_each_reaching(const float* maxima, int64_t count, const float& threshold, const F& visit) {
  for (int64_t first = 0; first < count; first += kRun) {
    const int64_t last = std::min(first + kRun, count);
    bool any = false;
    for (int64_t t = first; t < last; ++t) any |= maxima[t] >= threshold;
    if (!any) continue;
    for (int64_t t = first; t < last; ++t)
      if (maxima[t] >= threshold) visit(t);
  }
}

// Writes to maxima [rows, stride], one column for each tile of a scan.
class MaximaSink final : public ScanSink {
 public:
  MaximaSink(float* maxima, int64_t first_row, int64_t stride)
      : maxima_(maxima), first_row_(first_row), stride_(stride) {}

  void take(const Block& block, int64_t tile, uint32_t, const float* largest) override {
    float* out = maxima_ + (block.first - first_row_) * stride_ + tile;
    for (int r = 0; r < block.rows; ++r) out[r * stride_] = largest[r];
  }

 private:
  float* const maxima_;
  const int64_t first_row_;
  const int64_t stride_;
};

}  // namespace

struct Pruner::Row {
  const Block& block;
  int index;  // within the block
  const RowBound& bound;
  int64_t query;
  const float* maxima;
};

Pruner::Pruner(const SearchTask& task, const PrefixScreen* screen, PruneChoice choice)
    : task_(task),
      screen_(screen),
      forced_(choice == PruneChoice::kOn),
      enabled_(screen != nullptr && choice != PruneChoice::kOff) {}

std::vector<int64_t> Pruner::run(const PackedRows& pass) {
  if (!enabled_ || !is_worthwhile(pass)) return pass.ids;
  const auto count = static_cast<int64_t>(pass.blocks.size());
  const int64_t row_bytes = row_stride(static_cast<int64_t>(task_.tiles.size())) * static_cast<int64_t>(sizeof(float));
  const int64_t step =
      std::max<int64_t>(kMaximaBytes / (row_bytes * pass.blocks.front().rows), screen_->prefix_blocks());
  std::vector<char> decided(pass.ids.size(), 0);
  for (int64_t first = 0; first < count && enabled_; first += step) {
    const int64_t last = std::min(first + step, count);
    const int64_t undecided = run_blocks(pass, first, last, decided);
    const Block &begin = pass.blocks[static_cast<size_t>(first)], &end = pass.blocks[static_cast<size_t>(last - 1)];
    enabled_ = forced_ || 2 * undecided <= end.first + end.rows - begin.first;
  }
  std::vector<int64_t> left;
  for (size_t row = 0; row < decided.size(); ++row)
    if (decided[row] == 0) left.push_back(pass.ids[row]);
  return left;
}

bool Pruner::is_worthwhile(const PackedRows& pass) {
  if (forced_ || tried_) return true;
  const auto rows = static_cast<int64_t>(pass.ids.size());
  if (rows < kMinRows || task_.codes.count() < kMinCodes || task_.codes.width() < kMinWidth) return false;
  tried_ = true;
  std::vector<int64_t> tiles;
  for (size_t t = 0; t < task_.tiles.size(); t += kTrialStep) tiles.push_back(task_.tiles[t]);
  int64_t blocks = 0, tried = 0;
  for (; blocks < static_cast<int64_t>(pass.blocks.size()) && tried < kTrialRows; ++blocks)
    tried += pass.blocks[static_cast<size_t>(blocks)].rows;
  score_tiles(pass, 0, blocks, tiles);
  std::atomic<bool> promising{false};
  for_each_row(pass, 0, blocks, [&](const Row& row, int64_t) {
    if (!row.bound.screened) return;
    const auto count = static_cast<int64_t>(tiles.size());
    const double least = row.bound.squares - 2.0 * *std::max_element(row.maxima, row.maxima + count);
    const double estimate = least * num_words(task_.codes.width()) / num_prefix_words(task_.codes.width());
    const auto left = std::count_if(row.maxima, row.maxima + count,
                                    [&](float v) { return row.bound.squares - 2.0 * v <= estimate; });
    if (left <= std::max<int64_t>(count / kTrialTilesPerSurvivor, 1)) promising = true;
  });
  enabled_ = promising;
  return enabled_;
}

// Marks the rows it decides; returns how many it does not.
int64_t Pruner::run_blocks(const PackedRows& pass, int64_t first, int64_t last, std::vector<char>& decided) {
  score_tiles(pass, first, last, task_.tiles);
  std::atomic<int64_t> undecided{0};
  for_each_row(pass, first, last, [&](const Row& row, int64_t index) {
    if (row.bound.screened && decide(row)) {
      decided[static_cast<size_t>(index)] = 1;
    } else {
      ++undecided;
    }
  });
  return undecided;
}

// Fills maxima_ for blocks [first, last) and the tiles given.
void Pruner::score_tiles(const PackedRows& pass, int64_t first, int64_t last, const std::vector<int64_t>& tiles) {
  const auto count = static_cast<int64_t>(tiles.size());
  const int64_t stride = row_stride(count);
  const int64_t first_row = pass.blocks[static_cast<size_t>(first)].first, workers = torch::stable::get_num_threads();
  const Block& end = pass.blocks[static_cast<size_t>(last - 1)];
  maxima_.resize(static_cast<size_t>((end.first + end.rows - first_row) * stride));
  const int64_t most = screen_->prefix_blocks(), groups = (last - first + most - 1) / most;
  const int64_t wanted = (kTasksPerWorker * workers + groups - 1) / groups;
  const int64_t ranges = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(count / kMinTilesPerTask, 1));
  for_each_task(groups * ranges, workers, [&](int64_t task, int64_t) {
    const int64_t begin_block = first + task % groups * (last - first) / groups;
    const int64_t end_block = first + (task % groups + 1) * (last - first) / groups;
    const int64_t begin = task / groups * count / ranges, stop = (task / groups + 1) * count / ranges;
    MaximaSink sink(maxima_.data() + begin, first_row, stride);
    screen_->scan_prefix({&pass.blocks[static_cast<size_t>(begin_block)], end_block - begin_block, tiles.data() + begin,
                          stop - begin, task_.bias, nullptr},
                         sink);
  });
}

// run(row, its index in the pass) for the rows of blocks [first, last), whose maxima were filled last.
template <class F>
void Pruner::for_each_row(const PackedRows& pass, int64_t first, int64_t last, const F& run) const {
  const int64_t first_row = pass.blocks[static_cast<size_t>(first)].first;
  const Block& end = pass.blocks[static_cast<size_t>(last - 1)];
  const int64_t rows = end.first + end.rows - first_row;
  const int64_t stride = static_cast<int64_t>(maxima_.size()) / rows;
  for_each_range(last - first, 1, [&](int64_t b, int64_t) {
    const Block& block = pass.blocks[static_cast<size_t>(first + b)];
    for (int r = 0; r < block.rows; ++r) {
      const int64_t index = block.first + r;
      run(Row{block, r, pass.bounds[static_cast<size_t>(index)], pass.ids[static_cast<size_t>(index)],
              maxima_.data() + (index - first_row) * stride},
          index);
    }
  });
}

// The threshold that the k best prefix scores' codes set, from the k best tiles.
float Pruner::seed_threshold(const Row& row) const {
  const auto k = static_cast<size_t>(task_.k);
  std::vector<TileMaximum> best;
  float worst = kNoThreshold;
  for_each_reaching(row.maxima, static_cast<int64_t>(task_.tiles.size()), worst, [&](int64_t t) {
    if (best.size() == k) best.pop_back();
    const TileMaximum entry{row.maxima[t], task_.tiles[static_cast<size_t>(t)]};
    best.insert(std::upper_bound(best.begin(), best.end(), entry, is_better), entry);
    if (best.size() == k) worst = best.back().value;
  });
  std::vector<Candidate> candidates;
  float scores[simd::kTile];
  for (const TileMaximum& entry : best) {
    const float* bias = task_.bias + entry.tile * simd::kTile;
    if (!screen_->score_prefix(row.block, row.index, entry.tile, bias, kNoThreshold, scores)) continue;
    for (int64_t j = 0; j < simd::kTile; ++j)
      if (scores[j] >= kNoThreshold)
        candidates.push_back({scores[j], static_cast<int32_t>(entry.tile * simd::kTile + j)});
  }
  const auto last = candidates.begin() + static_cast<int64_t>(std::min(k, candidates.size()));
  std::partial_sort(candidates.begin(), last, candidates.end(),
                    [](const Candidate& a, const Candidate& b) { return a.upper > b.upper; });
  Scorer scorer(task_, row.query, row.bound);
  Ranking ranking(task_.k);
  for (auto candidate = candidates.begin(); candidate != last; ++candidate)
    ranking.offer(scorer.sqdist(candidate->id), candidate->id);
  return scorer.threshold(ranking);
}

// Writes the row's answers, or returns false where its prefix leaves too many codes.
bool Pruner::decide(const Row& row) const {
  const auto count = static_cast<int64_t>(task_.tiles.size());
  const int64_t limit =
      forced_ ? task_.codes.count() : std::max(task_.codes.count() / kCodesPerEvaluation, task_.k);
  float threshold = std::max(kNoThreshold, seed_threshold(row));
  std::vector<TileMaximum> survivors;
  for_each_reaching(row.maxima, count, threshold, [&](int64_t t) {
    survivors.push_back({row.maxima[t], task_.tiles[static_cast<size_t>(t)]});
  });
  if (!forced_ && static_cast<int64_t>(survivors.size()) * kTilesPerSurvivor > count) return false;
  std::sort(survivors.begin(), survivors.end(), is_better);
  Scorer scorer(task_, row.query, row.bound);
  Ranking best(task_.k);
  std::vector<Candidate> candidates;
  float scores[simd::kTile];
  for (const TileMaximum& entry : survivors) {
    if (entry.value < threshold || scorer.evaluated() > limit) break;
    const float* bias = task_.bias + entry.tile * simd::kTile;
    if (!screen_->score_prefix(row.block, row.index, entry.tile, bias, threshold, scores)) continue;
    candidates.clear();
    for (int64_t j = 0; j < simd::kTile; ++j)
      if (scores[j] >= threshold)
        candidates.push_back({scores[j], static_cast<int32_t>(entry.tile * simd::kTile + j)});
    threshold = scorer.evaluate(candidates, threshold, best);
  }
  task_.out.rescored[row.query] += scorer.evaluated();
  if (scorer.evaluated() > limit) return false;
  best.write(task_.out.ids + row.query * task_.k, task_.out.sqdist + row.query * task_.k);
  return true;
}

}  // namespace spae
