#include "distance_cross_entropy/distance_cross_entropy.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <limits>
#include <vector>

#include "common/parallel.h"
#include "simd/softmax.h"

namespace spae {
namespace {

using softmax::kMaxBlockRows;
using softmax::kTileCodes;

// Queries and sums that a task works on; well within a second-level cache.
constexpr int64_t kGroupBytes = int64_t{1} << 19;
// Of few queries a task takes fewer, for what it holds is to stay small beside their scores.
constexpr int64_t kMinGroups = 8;
constexpr int64_t kTasks = 32;
constexpr int64_t kMinTilesPerTask = 8;
// See distance_cross_entropy.h.
constexpr double kExactError = 0x1p-8;
constexpr double kLeftError = 0x1p-20;
constexpr double kRaise = 20;
// Keeps 0 * infinity out. Exponents below 2^-20 are 0 to fp32, and from 2^80 on any difference decides.
constexpr double kMinSlope = 0x1p-100, kMaxSlope = 0x1p100;

// A query within a group.
struct Row {
  int64_t query = -1;  // -1: only fills up a vector
  double squares = 0;  // |Q|^2
  double norm = 0;     // N_q
  double slack = 0;    // E_q
  double own = 0;      // d_y
  double origin = std::numeric_limits<double>::infinity();  // d_0; infinite before the first code but the target
  double total = 0;                                         // Z
};

// The neighbouring rows of a group that a kernel takes at once.
struct Block {
  int64_t first;
  int vectors;
};

// A code of a tile whose distance to a row of a block the definition has evaluated.
struct Exact {
  int32_t row;
  int32_t code;
  double sqdist;
};

// A chunk's turn to merge into its group, passed on to the next when this ends: by an exception (no memory) too, for
// the others would wait for ever. The group's later chunks are then not merged, and parallel_for throws in the end.
class Turn {
 public:
  Turn(std::atomic<int64_t>& turn, int64_t chunk)
      : turn_(turn), chunk_(chunk), exceptions_(std::uncaught_exceptions()) {}
  ~Turn() {
    if (std::uncaught_exceptions() > exceptions_) {
      turn_.store(kFailed);
    } else {
      int64_t seen = chunk_;
      turn_.compare_exchange_strong(seen, chunk_ + 1);  // a failure stays
    }
    turn_.notify_all();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  // False if a chunk of the group has failed.
  bool wait() const {
    int64_t seen = turn_.load();
    for (; seen != chunk_ && seen != kFailed; seen = turn_.load()) turn_.wait(seen);
    return seen == chunk_;
  }

 private:
  static constexpr int64_t kFailed = -1;
  std::atomic<int64_t>& turn_;
  const int64_t chunk_;
  const int exceptions_;
};

// What a worker needs for one task.
struct Workspace {
  int64_t group = -1;
  std::vector<Block> blocks;
  std::vector<Row> rows;
  std::vector<float> reference, best;  // [rows]
  std::vector<float> queries, sums;    // [D, R] for each block
  std::vector<float> bias = std::vector<float>(static_cast<size_t>(kTileCodes));  // of the tile: -|C_k|^2 / 2
  float largest_norm = 0;                                                         // of the tile: the largest N_k
  std::vector<float> scores = std::vector<float>(static_cast<size_t>(kTileCodes * kMaxBlockRows));
  std::vector<int32_t> selected = std::vector<int32_t>(static_cast<size_t>(kTileCodes + 1));
  std::vector<Exact> exact;
  std::vector<float> scratch;  // [2, D]
};

class CrossEntropy {
 public:
  CrossEntropy(const CrossEntropyInput& input, const simd::Kernels& kernels, float* loss, float* gradient)
      : in_(input),
        definition_(kernels),
        kernels_(softmax::of(kernels)),
        loss_(loss),
        gradient_(gradient),
        count_(input.queries.count()),
        width_(input.codes.width()),
        padded_(num_tiles(input.codes.count()) * simd::kTile),
        tiles_((padded_ + kTileCodes - 1) / kTileCodes),
        error_slope_(query_slope(width_)),
        slope_(std::clamp(2.0 / (input.scale * input.scale * input.temperature), kMinSlope, kMaxSlope)),
        gap_(std::log(static_cast<double>(input.codes.count())) + 26 * std::log(2.0)) {
    const int64_t vectors = (count_ + kernels_.lanes - 1) / kernels_.lanes;
    blocks_ = (vectors + softmax::kMaxVectors - 1) / softmax::kMaxVectors;
    const int64_t block_bytes = 2 * softmax::kMaxVectors * kernels_.lanes * width_ * 4;
    const int64_t most = std::max<int64_t>(kGroupBytes / block_bytes, 1);
    const int64_t group_blocks = std::clamp<int64_t>(blocks_ / kMinGroups, 1, most);
    groups_ = (blocks_ + group_blocks - 1) / group_blocks;
    chunks_ = std::clamp<int64_t>(kTasks / std::max<int64_t>(groups_, 1), 1,
                                  std::max<int64_t>(tiles_ / kMinTilesPerTask, 1));
  }

  void run() {
    merged_.resize(static_cast<size_t>(count_));
    turns_ = std::vector<std::atomic<int64_t>>(static_cast<size_t>(groups_));
    const int64_t workers = torch::stable::get_num_threads();
    std::vector<Workspace> workspaces(static_cast<size_t>(std::min(workers, groups_ * chunks_)));
    // A worker that goes on with its group keeps the packed queries. Earlier tasks never wait for later ones.
    for_each_task(groups_ * chunks_, workers, [&](int64_t task, int64_t worker) {
      Workspace& work = workspaces[static_cast<size_t>(worker)];
      const int64_t group = task / chunks_, chunk = task % chunks_;
      Turn turn(turns_[static_cast<size_t>(group)], chunk);
      if (work.group != group) pack_group(work, group);
      restart(work);
      const int64_t end = (chunk + 1) * tiles_ / chunks_;
      for (int64_t tile = chunk * tiles_ / chunks_; tile < end; ++tile) {
        open_tile(work, tile);
        for (size_t b = 0; b < work.blocks.size(); ++b) add_tile(work, b, tile, tile + 1 < end);
      }
      if (turn.wait()) merge(work, chunk);
    });
    for_each_range(count_, 1, [&](int64_t begin, int64_t) {
      if (merged_[static_cast<size_t>(begin)].query < 0) evaluate_row(begin);
    });
  }

 private:
  int64_t block_rows(const Block& block) const { return block.vectors * kernels_.lanes; }

  // Packs the queries of a group's blocks, which share the vectors of all rows evenly.
  void pack_group(Workspace& work, int64_t group) {
    const int64_t begin = group * blocks_ / groups_, end = (group + 1) * blocks_ / groups_;
    const int64_t vectors = (count_ + kernels_.lanes - 1) / kernels_.lanes;
    const int64_t origin = begin * vectors / blocks_;
    const int64_t rows = (end * vectors / blocks_ - origin) * kernels_.lanes;
    work.group = group;
    work.blocks.clear();
    work.rows.assign(static_cast<size_t>(rows), Row{});
    work.reference.resize(static_cast<size_t>(rows));
    work.best.resize(static_cast<size_t>(rows));
    work.queries.assign(static_cast<size_t>(rows * width_), 0.0f);
    work.sums.resize(gradient_ == nullptr ? 0 : static_cast<size_t>(rows * width_));
    work.scratch.resize(static_cast<size_t>(2 * width_));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t from = b * vectors / blocks_, to = (b + 1) * vectors / blocks_;
      const Block block{(from - origin) * kernels_.lanes, static_cast<int>(to - from)};
      work.blocks.push_back(block);
      for (int64_t r = 0; r < block_rows(block); ++r) {
        const int64_t query = from * kernels_.lanes + r;
        if (query < count_) pack_row(work, block, r, query);
      }
    }
  }

  void pack_row(Workspace& work, const Block& block, int64_t r, int64_t query) {
    Row& row = work.rows[static_cast<size_t>(block.first + r)];
    float* framed = work.scratch.data() + width_;
    const float* x = in_.queries.row(query, work.scratch.data());
    row.norm = frame_row(x, in_.shift, in_.scale, width_, framed, &row.squares);
    if (!(row.norm <= kMaxScreenNorm) || width_ > kMaxScreenWidth) return;
    row.query = query;
    row.slack = query_slack(width_, row.norm);
    float* out = work.queries.data() + block.first * width_ + r;
    for (int64_t d = 0; d < width_; ++d) out[d * block_rows(block)] = framed[d];
    row.own = sqdist(work, query, in_.target[query]);
  }

  // The definition's distance of a query and a code.
  double sqdist(Workspace& work, int64_t query, int64_t code) const {
    const float* q = in_.queries.row(query, work.scratch.data());
    return definition_.sqdist(q, in_.codes.row(code, work.scratch.data() + width_), width_);
  }

  void restart(Workspace& work) const {
    for (size_t i = 0; i < work.rows.size(); ++i) {
      Row& row = work.rows[i];
      row.total = 0;
      row.origin = std::numeric_limits<double>::infinity();
      work.reference[i] = 0;
      work.best[i] = -std::numeric_limits<float>::infinity();
    }
    std::fill(work.sums.begin(), work.sums.end(), 0.0f);
  }

  float score_of(const Row& row, double sqdist) const {
    return static_cast<float>(0.5 * (row.squares - in_.scale * sqdist * in_.scale));
  }

  // Makes a distance the row's origin and its score the reference, which float rounds. The origin is what that float
  // stands for, so that exponents in fp32 and those of evaluated codes agree; where that would move it far, the distance.
  void refer(Row& row, float& reference, double sqdist) const {
    reference = score_of(row, sqdist);
    const bool fine = slope_ * kUnit * std::fabs(reference) <= kExactError;
    row.origin = fine ? (row.squares - 2.0 * reference) / in_.scale / in_.scale : sqdist;
  }

  // The same later on; returns what the row's sums so far have to be multiplied by.
  float raise(Row& row, float& reference, double sqdist) const {
    const double before = row.origin;
    refer(row, reference, sqdist);
    const double factor = std::exp(std::min((row.origin - before) / in_.temperature, 0.0));
    row.total *= factor;
    return static_cast<float>(factor);
  }

  void open_tile(Workspace& work, int64_t tile) const {
    const int64_t first = tile * kTileCodes, codes = std::min(kTileCodes, padded_ - first);
    const float* norms = in_.norms + first;
    work.largest_norm = *std::max_element(norms, norms + codes);
    // Without the term in nearest_code.h's bound that screening needs.
    for (int64_t k = 0; k < codes; ++k) {
      const double norm = norms[k];
      work.bias[static_cast<size_t>(k)] = static_cast<float>(in_.bias[first + k] - kCodeSlope * norm * norm);
    }
  }

  void add_tile(Workspace& work, size_t index, int64_t tile, bool has_next) const {
    const Block& block = work.blocks[index];
    const int64_t rows = block_rows(block), first = tile * kTileCodes;
    const int64_t codes = std::min(kTileCodes, padded_ - first);
    const float* panels = in_.panels + first * width_;
    float* scores = work.scores.data();
    float* reference = work.reference.data() + block.first;
    float* best = work.best.data() + block.first;
    Row* row = work.rows.data() + block.first;

    alignas(64) float tile_best[kMaxBlockRows], factors[kMaxBlockRows], floor[kMaxBlockRows];
    softmax::ScoreArguments score{};
    score.queries = work.queries.data() + block.first * width_;
    score.panels = panels;
    score.bias = work.bias.data();
    score.width = width_;
    score.codes = codes;
    plan_prefetch(score, index, work.blocks.size(), has_next ? first + kTileCodes : padded_);
    score.scores = scores;
    score.best = tile_best;
    kernels_.score[block.vectors](score);

    bool raised = false;
    work.exact.clear();
    for (int64_t r = 0; r < rows; ++r) {
      factors[r] = 1;
      floor[r] = std::numeric_limits<float>::infinity();
      if (row[r].query < 0) continue;
      const int64_t own = in_.target[row[r].query] - first;
      if (own >= 0 && own < codes) tile_best[r] = take_out(scores + r, own, codes, rows);
      const double norm = work.largest_norm;
      const double error = slope_ * ((error_slope_ * row[r].norm + kCodeSlope * norm) * norm + row[r].slack);
      const bool first_codes = std::isinf(row[r].origin);
      double gap = gap_, nearest = row[r].origin;
      if (tile_best[r] == -std::numeric_limits<float>::infinity()) {
        // Nothing but the target and what fills up the panel.
        if (first_codes) continue;
      } else if (error <= kExactError) {
        best[r] = std::max(best[r], tile_best[r]);
        if (first_codes || slope_ * (tile_best[r] - reference[r]) > kRaise)
          nearest = (row[r].squares - 2.0 * tile_best[r]) / in_.scale / in_.scale;
      } else {
        const double exact_gap = std::log(error / kLeftError) - 0.5 * std::log(static_cast<double>(width_));
        const double reach = (std::fmax(exact_gap, 0.0) + 3 * error) / slope_;
        const auto threshold = static_cast<float>(std::max(best[r], tile_best[r]) - reach);
        if (tile_best[r] >= threshold) nearest = evaluate(work, block, r, first, codes, threshold);
        best[r] = std::max(best[r], score_of(row[r], nearest));
        gap = std::fmax(gap, exact_gap) + error;
      }
      if (first_codes) {
        refer(row[r], reference[r], nearest);
      } else if ((row[r].origin - nearest) / in_.temperature > kRaise) {
        factors[r] = raise(row[r], reference[r], nearest);
        raised = true;
      }
      floor[r] = static_cast<float>(slope_ * (best[r] - reference[r]) - gap - 2 * error);
    }
    if (raised && gradient_ != nullptr)
      kernels_.scale[block.vectors](work.sums.data() + block.first * width_, width_, factors);

    softmax::SelectArguments select{};
    select.scores = scores;
    select.codes = codes;
    select.reference = reference;
    select.slope = static_cast<float>(slope_);
    select.floor = floor;
    select.exponents = scores;
    select.selected = work.selected.data();
    const int64_t count = kernels_.select[block.vectors](select);
    if (count == 0) return;
    for (const Exact& exact : work.exact) {
      const auto end = work.selected.begin() + count;
      const auto at = std::lower_bound(work.selected.begin(), end, exact.code);
      if (at == end || *at != exact.code) continue;
      const double exponent = (row[exact.row].origin - exact.sqdist) / in_.temperature;
      scores[(at - work.selected.begin()) * rows + exact.row] = static_cast<float>(exponent);
    }

    alignas(64) float totals[kMaxBlockRows] = {};
    kernels_.exponentiate[block.vectors](scores, count, totals);
    for (int64_t r = 0; r < rows; ++r) row[r].total += totals[r];
    if (gradient_ == nullptr) return;
    kernels_.add[block.vectors]({scores, work.selected.data(), count, panels, width_,
                                 work.sums.data() + block.first * width_});
  }

  // Takes the target out of a row's scores; returns the best of the others.
  static float take_out(float* scores, int64_t own, int64_t codes, int64_t rows) {
    scores[own * rows] = -std::numeric_limits<float>::infinity();
    float best = scores[own * rows];
    for (int64_t k = 0; k < codes; ++k) best = std::max(best, scores[k * rows]);
    return best;
  }

  // Every block of a group fetches its share of the next tile.
  void plan_prefetch(softmax::ScoreArguments& score, size_t index, size_t blocks, int64_t next) const {
    const int64_t bytes = std::min(kTileCodes, padded_ - next) * width_ * 4;
    const auto begin = static_cast<int64_t>(index) * bytes / static_cast<int64_t>(blocks);
    const auto end = static_cast<int64_t>(index + 1) * bytes / static_cast<int64_t>(blocks);
    score.prefetch = reinterpret_cast<const char*>(in_.panels + next * width_) + begin;
    score.prefetch_bytes = end - begin;
  }

  // Evaluates the definition for the codes of a tile that reach a row's threshold; returns the least distance.
  double evaluate(Workspace& work, const Block& block, int64_t r, int64_t first, int64_t codes, float threshold) const {
    const Row& row = work.rows[static_cast<size_t>(block.first + r)];
    double nearest = std::numeric_limits<double>::infinity();
    for (int64_t k = 0; k < codes; ++k) {
      if (!(work.scores[static_cast<size_t>(k * block_rows(block) + r)] >= threshold)) continue;
      if (first + k == in_.target[row.query]) continue;
      const double distance = sqdist(work, row.query, first + k);
      work.exact.push_back({static_cast<int32_t>(r), static_cast<int32_t>(k), distance});
      nearest = std::min(nearest, distance);
    }
    return nearest;
  }

  // Adds a chunk's sums to those of the chunks before it; the last one finishes the rows.
  void merge(Workspace& work, int64_t chunk) {
    for (const Block& block : work.blocks) {
      const int64_t rows = block_rows(block);
      for (int64_t r = 0; r < rows; ++r) {
        const Row& row = work.rows[static_cast<size_t>(block.first + r)];
        if (row.query < 0) continue;
        Row& merged = merged_[static_cast<size_t>(row.query)];
        double before = 0, now = 1;
        if (chunk == 0) {
          merged = row;
        } else {
          const double origin = std::min(merged.origin, row.origin);
          before = fade(origin, merged.origin);
          now = fade(origin, row.origin);
          merged.origin = origin;
          merged.total = before * merged.total + now * row.total;
        }
        if (gradient_ != nullptr) {
          float* to = gradient_ + row.query * width_;
          const float* from = work.sums.data() + block.first * width_ + r;
          const auto old_share = static_cast<float>(before), new_share = static_cast<float>(now);
          for (int64_t d = 0; d < width_; ++d)
            to[d] = (chunk == 0 ? 0.0f : old_share * to[d]) + new_share * from[d * rows];
        }
        if (chunk + 1 == chunks_) finish(merged, work.scratch.data());
      }
    }
  }

  // What weights relative to `before` have to be multiplied by to be relative to `origin`, which is no farther.
  double fade(double origin, double before) const {
    return std::isinf(before) ? 0.0 : std::exp((origin - before) / in_.temperature);
  }

  // The loss and, from the weighted sum of framed codes, the gradient.
  void finish(const Row& row, float* scratch) {
    const double odds = std::log(row.total) + (row.own - row.origin) / in_.temperature;
    loss_[row.query] = static_cast<float>(std::fmax(odds, 0.0) + std::log1p(std::exp(-std::fabs(odds))));
    if (gradient_ == nullptr) return;
    float* gradient = gradient_ + row.query * width_;
    const float* own = in_.codes.row(in_.target[row.query], scratch);
    const double others = row.total > 0 ? 1.0 / (1.0 + std::exp(-odds)) : 0.0;
    const double factor = 2.0 / in_.temperature * others, share = row.total > 0 ? 1.0 / (row.total * in_.scale) : 0.0;
    for (int64_t d = 0; d < width_; ++d)
      gradient[d] = static_cast<float>(factor * (share * gradient[d] - (own[d] - in_.shift[d])));
  }

  // A row by the definition alone.
  void evaluate_row(int64_t query) {
    std::vector<float> scratch(static_cast<size_t>(2 * width_));
    std::vector<double> sums(static_cast<size_t>(width_), 0.0);
    const float* q = in_.queries.row(query, scratch.data());
    Row row;
    row.query = query;
    const auto sqdist = [&](int64_t code) {
      return definition_.sqdist(q, in_.codes.row(code, scratch.data() + width_), width_);
    };
    row.own = sqdist(in_.target[query]);
    for (int64_t k = 0; k < in_.codes.count(); ++k) {
      if (k == in_.target[query]) continue;
      const double distance = sqdist(k);
      const float* code = in_.codes.row(k, scratch.data() + width_);
      const double origin = std::min(row.origin, distance), share = fade(origin, row.origin);
      const double weight = fade(origin, distance);
      row.origin = origin;
      row.total = share * row.total + weight;
      for (int64_t d = 0; d < width_; ++d)
        sums[static_cast<size_t>(d)] =
            share * sums[static_cast<size_t>(d)] + weight * in_.scale * (code[d] - in_.shift[d]);
    }
    if (gradient_ != nullptr)
      for (int64_t d = 0; d < width_; ++d)
        gradient_[query * width_ + d] = static_cast<float>(sums[static_cast<size_t>(d)]);
    finish(row, scratch.data());
  }

  const CrossEntropyInput& in_;
  const simd::Kernels& definition_;
  const softmax::Kernels& kernels_;
  float* const loss_;
  float* const gradient_;
  const int64_t count_;
  const int64_t width_;
  const int64_t padded_;  // codes with those that fill up the panels
  const int64_t tiles_;   // of kTileCodes
  const double error_slope_, slope_, gap_;
  int64_t blocks_ = 0, groups_ = 0, chunks_ = 0;
  std::vector<Row> merged_;        // [N]; the sums are in the gradient
  std::vector<std::atomic<int64_t>> turns_;  // [groups]: the chunk to merge next
};

}  // namespace

void distance_cross_entropy(const CrossEntropyInput& input, const simd::Kernels& kernels, float* loss,
                            float* gradient) {
  CrossEntropy(input, kernels, loss, gradient).run();
}

}  // namespace spae
