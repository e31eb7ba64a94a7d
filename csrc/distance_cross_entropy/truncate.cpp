#include "distance_cross_entropy/truncate.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/parallel.h"
#include "nearest_code/cpu/pass.h"

namespace spae::cross_entropy {
namespace {

// With fewer codes there is too little to leave out.
constexpr int64_t kMinCodes = 4096;
// The trial: so many rows against one tile in so many. One row is enough, for of queries near codes only those whose
// code is in the tiles tried can tell.
constexpr int64_t kTrialRows = 96;
constexpr int64_t kTrialStep = 16;
// A row is left to the dense path when more than one tile in so many reaches its threshold, or one code in so many is
// evaluated: about where that costs a third of the dense path.
constexpr int64_t kTilesPerSurvivor = 8;
constexpr int64_t kTilesPerPrefixSurvivor = 32;  // the next level costs as much
constexpr int64_t kCodesPerEvaluation = 128;
// Maxima may take a hundredth of [N, K] in fp32, within these bounds.
constexpr int64_t kMaximaShare = 25;
constexpr int64_t kMinMaxima = int64_t{1} << 17;
constexpr int64_t kMaxMaxima = int64_t{1} << 20;
// Ranges of tiles into which a group of blocks is divided. Its thresholds are its own, so that what is kept of a tile
// depends on no other task.
constexpr int64_t kRanges = 16;
constexpr int64_t kMinTilesPerRange = 32;
constexpr int64_t kLineFloats = 16;
constexpr float kNoThreshold = -std::numeric_limits<float>::max();
constexpr double kRoundings = 1 + 0x1p-48;  // see distance_cross_entropy.h

// From one row of maxima to the next: an odd number of cache lines, so that rows do not compete for the same sets.
int64_t row_stride(int64_t tiles) {
  return ((tiles + 2 * kLineFloats - 1) / (2 * kLineFloats) * 2 + 1) * kLineFloats;
}

}  // namespace

Truncation::Workspace::Workspace(const Truncation& parent)
    : problem(parent.problem_),
      exact(parent.problem_, parent.out_),
      screen(make_int8_screen(parent.problem_.in.prepared, parent.kernels_, parent.problem_.width, 1, false)),
      scratch(static_cast<size_t>(parent.problem_.width)),
      framed(static_cast<size_t>(parent.problem_.width)) {
  screen->resize(1);
}

void Truncation::Workspace::open(int64_t query) {
  const float* x = problem.in.queries.row(query, scratch.data());
  const PreparedCodes& prepared = problem.in.prepared;
  double squares = 0;
  const double norm = frame_row(x, prepared.shift, prepared.scale, problem.width, framed.data(), &squares);
  screen->pack({0, 1, 0}, 0, framed.data(), norm);
  codes.clear();
}

const float* Truncation::Workspace::score(int64_t tile, float threshold) {
  struct Sink final : ScanSink {
    void take(const Block&, int64_t, uint32_t hits, const float* from) override {
      any = hits != 0;
      if (any) std::copy(from, from + simd::kTile, to);
    }
    float* to = nullptr;
    bool any = false;
  } sink;
  sink.to = scores;
  const Block block{0, 1, 0};
  screen->scan({&block, 1, &tile, 1, problem.in.prepared.bias, &threshold}, sink);
  return sink.any ? scores : nullptr;
}

// Each row's largest prefix score over every tile of a scan.
class Truncation::PrefixMaxima final : public ScanSink {
 public:
  PrefixMaxima(Truncation& parent, int64_t begin) : maxima_(parent.maxima_.data() + begin), stride_(parent.stride_) {}

  void take(const Block& block, int64_t tile, uint32_t, const float* largest) override {
    for (int r = 0; r < block.rows; ++r) maxima_[(block.first + r) * stride_ + tile] = largest[r];
  }

 private:
  float* const maxima_;
  const int64_t stride_;
};

// The same of all elements, where a tile reaches a row's threshold, which rises as codes are seen.
class Truncation::Maxima final : public ScanSink {
 public:
  Maxima(Truncation& parent, const std::vector<int64_t>& tiles, int64_t begin)
      : parent_(parent),
        tiles_(tiles.data() + begin),
        maxima_(parent.maxima_.data() + begin),
        best_(parent.rows_.size(), kNoThreshold),
        thresholds_(parent.rows_.size(), kNoThreshold) {}

  const float* thresholds() const { return thresholds_.data(); }

  void take(const Block& block, int64_t tile, uint32_t hits, const float* scores) override {
    for (int r = 0; r < block.rows; ++r) {
      if ((hits >> r & 1u) == 0) continue;
      const float* row = scores + r * simd::kTile;
      float largest = kNoThreshold;
      for (int64_t j = 0; j < simd::kTile; ++j) largest = std::max(largest, row[j]);
      const int64_t index = block.first + r;
      maxima_[index * parent_.stride_ + tile] = largest;
      if (!(largest > best_[static_cast<size_t>(index)])) continue;
      best_[static_cast<size_t>(index)] = largest;
      float& threshold = thresholds_[static_cast<size_t>(index)];
      threshold = std::max(threshold, parent_.running_threshold(index, tiles_[tile], row));
    }
  }

 private:
  const Truncation& parent_;
  const int64_t* const tiles_;
  float* const maxima_;
  std::vector<float> best_, thresholds_;  // [rows]
};

Truncation::Truncation(const Problem& problem, const CrossEntropyOptions& options, const CrossEntropyOutput& out)
    : problem_(problem),
      out_(out),
      kernels_(problem.definition),
      forced_(options.truncate == TruncateChoice::kOn),
      count_(problem.in.codes.count()) {
  const bool pays = forced_ || (count_ >= kMinCodes && problem.width >= kernels_.min_width8);
  if (options.truncate == TruncateChoice::kOff || !pays) return;
  const PreparedCodes& prepared = problem.in.prepared;
  screen_ = make_int8_screen(prepared, kernels_, problem.width, problem.in.queries.count(), options.named_isa);
  reach_ = 0.5 * problem.scale * problem.scale * problem.in.temperature * problem.gap * kRoundings;
  tiles_.resize(static_cast<size_t>(prepared.tiles));
  std::iota(tiles_.begin(), tiles_.end(), 0);
}

std::vector<int64_t> Truncation::run() {
  std::vector<int64_t> left(static_cast<size_t>(problem_.in.queries.count()));
  std::iota(left.begin(), left.end(), 0);
  if (screen_ == nullptr) return left;
  for (const Level level : {Level::kPrefix, Level::kAll})
    if (!left.empty() && (forced_ || is_promising(level, left))) left = run_level(level, left);
  return left;
}

bool Truncation::is_promising(Level level, const std::vector<int64_t>& queries) {
  const auto rows = std::min<int64_t>(static_cast<int64_t>(queries.size()), kTrialRows);
  // Of fewer rows, more tiles: some row's code should be among them.
  const int64_t step = std::clamp<int64_t>(rows * kTrialStep / kTrialRows, 1, kTrialStep);
  std::vector<int64_t> tiles;
  for (size_t t = 0; t < tiles_.size(); t += static_cast<size_t>(step)) tiles.push_back(tiles_[t]);
  pack(queries.data(), rows);
  score(level, tiles);
  for (const Block& block : blocks_)
    for (int r = 0; r < block.rows; ++r)
      if (is_promising(level, scored(block, r), tiles)) return true;
  return false;
}

// Whether few enough tiles would reach the threshold that the best of these may set. The target's says nothing.
bool Truncation::is_promising(Level level, const Scored& scored, const std::vector<int64_t>& tiles) const {
  if (!scored.row.screened) return false;
  const int64_t own = problem_.in.target[scored.row.query] / simd::kTile;
  const auto maximum = [&](size_t t) { return tiles[t] == own ? kNoThreshold : scored.maxima[t]; };
  double best = kNoThreshold;
  for (size_t t = 0; t < tiles.size(); ++t) best = std::max<double>(best, maximum(t));
  if (level == Level::kPrefix) {
    // The prefix's part of a distance is about as large as its part of the elements.
    const int64_t words = num_words(problem_.width), prefix = num_prefix_words(problem_.width);
    const double least = (scored.row.squares - 2 * best) * static_cast<double>(words) / static_cast<double>(prefix);
    best = 0.5 * (scored.row.squares - least);
  }
  int64_t reaching = 0;
  for (size_t t = 0; t < tiles.size(); ++t) reaching += maximum(t) >= best - reach_;
  return reaching * kTilesPerSurvivor <= static_cast<int64_t>(tiles.size());
}

// By steps of a bounded number of rows; the first is short, as it may be the last.
std::vector<int64_t> Truncation::run_level(Level level, const std::vector<int64_t>& queries) {
  const auto count = static_cast<int64_t>(queries.size()), tiles = static_cast<int64_t>(tiles_.size());
  const int64_t share = problem_.in.queries.count() * count_ / (4 * kMaximaShare);
  const int64_t most = std::max<int64_t>(std::clamp(share, kMinMaxima, kMaxMaxima) / row_stride(tiles), 1);
  const int64_t workers = torch::stable::get_num_threads();
  std::vector<Workspace> workspaces;
  for (int64_t w = 0; w < std::min(workers, count); ++w) workspaces.emplace_back(*this);
  std::vector<char> decided(queries.size(), 0);
  for (int64_t first = 0, last = 0; first < count; first = last) {
    last = std::min(count, first + (first == 0 && !forced_ ? std::min(most, kTrialRows) : most));
    pack(queries.data() + first, last - first);
    score(level, tiles_);
    std::atomic<int64_t> left{0};
    for_each_task(static_cast<int64_t>(blocks_.size()), workers, [&](int64_t b, int64_t worker) {
      const Block& block = blocks_[static_cast<size_t>(b)];
      for (int r = 0; r < block.rows; ++r) {
        const bool done = decide(level, scored(block, r), workspaces[static_cast<size_t>(worker)]);
        decided[static_cast<size_t>(first + block.first + r)] = done;
        left += !done;
      }
    });
    if (!forced_ && 2 * left > last - first) break;
  }
  std::vector<int64_t> rest;
  for (size_t i = 0; i < queries.size(); ++i)
    if (decided[i] == 0) rest.push_back(queries[i]);
  return rest;
}

// Packs the rows of a step in blocks of nearly the same size.
void Truncation::pack(const int64_t* queries, int64_t count) {
  const int64_t blocks = (count + screen_->block_rows() - 1) / screen_->block_rows();
  blocks_.clear();
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * count / blocks;
    blocks_.push_back({first, static_cast<int>((b + 1) * count / blocks - first), b});
  }
  rows_.resize(static_cast<size_t>(count));
  screen_->resize(count);
  for_each_range(blocks, 1, [&](int64_t b, int64_t) { pack_block(blocks_[static_cast<size_t>(b)], queries); });
}

void Truncation::pack_block(const Block& block, const int64_t* queries) {
  const CrossEntropyInput& in = problem_.in;
  const int64_t width = problem_.width;
  std::vector<float> scratch(static_cast<size_t>(width)), framed(static_cast<size_t>(width));
  for (int r = 0; r < block.rows; ++r) {
    const int64_t query = queries[block.first + r];
    const float* x = in.queries.row(query, scratch.data());
    double squares = 0;
    const double norm = frame_row(x, in.prepared.shift, in.prepared.scale, width, framed.data(), &squares);
    const bool screened = norm <= kMaxScreenNorm;
    screen_->pack(block, r, screened ? framed.data() : nullptr, norm);
    rows_[static_cast<size_t>(block.first + r)] = {query, squares, screened ? query_slack(width, norm) : 0, screened};
  }
}

Truncation::Scored Truncation::scored(const Block& block, int index) const {
  const auto row = static_cast<size_t>(block.first + index);
  return {rows_[row], block, index, maxima_.data() + row * static_cast<size_t>(stride_)};
}

// Fills maxima_ for the rows of the step and the tiles given.
void Truncation::score(Level level, const std::vector<int64_t>& tiles) {
  const auto count = static_cast<int64_t>(tiles.size()), blocks = static_cast<int64_t>(blocks_.size());
  stride_ = row_stride(count);
  maxima_.resize(rows_.size() * static_cast<size_t>(stride_));
  const int64_t most = level == Level::kPrefix ? screen_->prefix_blocks() : max_group_blocks(*screen_);
  const int64_t groups = (blocks + most - 1) / most;
  const int64_t ranges = std::clamp<int64_t>(count / kMinTilesPerRange, 1, kRanges);
  for_each_task(groups * ranges, torch::stable::get_num_threads(), [&](int64_t task, int64_t) {
    const int64_t group = task % groups, range = task / groups;
    const int64_t first = group * blocks / groups, last = (group + 1) * blocks / groups;
    const int64_t begin = range * count / ranges, end = (range + 1) * count / ranges;
    const Scan scan{&blocks_[static_cast<size_t>(first)], last - first, tiles.data() + begin, end - begin,
                    problem_.in.prepared.bias, nullptr};
    if (level == Level::kPrefix) {
      PrefixMaxima sink(*this, begin);
      return screen_->scan_prefix(scan, sink);
    }
    for (int64_t b = first; b < last; ++b) {
      const Block& block = blocks_[static_cast<size_t>(b)];
      for (int64_t row = block.first; row < block.first + block.rows; ++row)
        std::fill_n(maxima_.begin() + row * stride_ + begin, end - begin, kNoThreshold);
    }
    Maxima sink(*this, tiles, begin);
    screen_->scan({scan.blocks, scan.num_blocks, scan.tiles, scan.num_tiles, scan.bias, sink.thresholds()}, sink);
  });
}

// What the best of a tile's scores but the target's rules out, by its lower bound.
float Truncation::running_threshold(int64_t row, int64_t tile, const float* scores) const {
  const Row& bound = rows_[static_cast<size_t>(row)];
  int64_t best = -1;
  for (int64_t j = 0; j < simd::kTile; ++j) {
    const int64_t code = tile * simd::kTile + j;
    if (code == problem_.in.target[bound.query] || code >= count_) continue;
    if (best < 0 || scores[j] > scores[best]) best = j;
  }
  if (best < 0 || !bound.screened) return kNoThreshold;
  const double lower = scores[best] - screen_->margin(row, tile * simd::kTile + best) - 2 * bound.slack;
  return std::max(kNoThreshold, round_down(lower - reach_));
}

// What every code of the cut reaches, if one other than the target is that near.
float Truncation::threshold(const Row& row, double nearest) const {
  const double cut = (nearest + problem_.in.temperature * problem_.gap) * kRoundings;
  if (!(cut <= std::numeric_limits<double>::max())) return kNoThreshold;
  return std::max(kNoThreshold, evaluated_threshold(row.squares, cut, problem_.scale, row.slack, problem_.width));
}

// The distance of a near code: the best, but the target, of the two best tiles.
double Truncation::seed(const Scored& scored, Workspace& work) const {
  const float* end = scored.maxima + tiles_.size();
  const float* best = std::max_element(scored.maxima, end);
  const float* second = best == scored.maxima ? best + 1 : scored.maxima;
  for (const float* other = second; other < end; ++other)
    if (other != best && *other > *second) second = other;
  const int64_t target = problem_.in.target[scored.row.query];
  double nearest = std::numeric_limits<double>::infinity();
  for (const float* maximum : {best, second}) {
    const int64_t tile = maximum - scored.maxima, first = tile * simd::kTile;
    if (maximum >= end) continue;
    const float* scores = work.score(tile, kNoThreshold);
    if (scores == nullptr) continue;
    int64_t code = -1;
    for (int64_t j = 0; j < std::min(simd::kTile, count_ - first); ++j)
      if (first + j != target && (code < 0 || scores[j] > scores[code - first])) code = first + j;
    if (code >= 0) nearest = std::min(nearest, work.exact.sqdist(scored.row.query, code));
  }
  return nearest;
}

// Evaluates the codes of a tile that reach the threshold, the target apart; false if there are none.
bool Truncation::evaluate(const Row& row, int64_t tile, float threshold, Workspace& work) const {
  const float* scores = work.score(tile, threshold);
  if (scores == nullptr) return false;
  const int64_t first = tile * simd::kTile;
  for (int64_t j = 0; j < std::min(simd::kTile, count_ - first); ++j)
    if (scores[j] >= threshold && first + j != problem_.in.target[row.query])
      work.codes.push_back({first + j, work.exact.sqdist(row.query, first + j)});
  return true;
}

// Writes the row's loss and gradient, or returns false where the screen leaves too many codes.
bool Truncation::decide(Level level, const Scored& scored, Workspace& work) const {
  const Row& row = scored.row;
  if (!row.screened) return false;
  work.open(row.query);
  double nearest = seed(scored, work);
  float reached = threshold(row, nearest);
  std::vector<int64_t> survivors;
  for (const int64_t tile : tiles_)
    if (scored.maxima[tile] >= reached) survivors.push_back(tile);
  const int64_t tiles = static_cast<int64_t>(tiles_.size()) /
                        (level == Level::kPrefix ? kTilesPerPrefixSurvivor : kTilesPerSurvivor);
  if (!forced_ && static_cast<int64_t>(survivors.size()) > tiles) return false;
  std::sort(survivors.begin(), survivors.end(), [&](int64_t a, int64_t b) {
    return scored.maxima[a] != scored.maxima[b] ? scored.maxima[a] > scored.maxima[b] : a < b;
  });
  const int64_t limit = forced_ ? count_ : count_ / kCodesPerEvaluation;
  size_t seen = 0;
  for (const int64_t tile : survivors) {
    if (scored.maxima[tile] < reached) break;
    if (!evaluate(row, tile, reached, work)) continue;
    if (static_cast<int64_t>(work.codes.size()) > limit) return false;
    for (; seen < work.codes.size(); ++seen) nearest = std::min(nearest, work.codes[seen].sqdist);
    reached = std::max(reached, threshold(row, nearest));
  }
  work.exact.write(row.query, work.codes);
  out_.evaluated[row.query] = static_cast<int64_t>(work.codes.size());
  return true;
}

}  // namespace spae::cross_entropy
