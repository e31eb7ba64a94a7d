#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "common/parallel.h"
#include "common/ranking.h"
#include "nearest_code/cpu/nearest_code.h"
#include "nearest_code/cpu/prune.h"
#include "nearest_code/cpu/screens.h"
#include "nearest_code/cpu/task.h"

namespace spae {
namespace {

// Enough tasks that a slow or busy core leaves little waiting at the end, each long enough not to matter itself.
constexpr int64_t kTasksPerWorker = 8;
constexpr int64_t kMinTilesPerTask = 8;
// Packed queries held at a time.
constexpr int64_t kPassBytes = int64_t{8} << 20;
// A worker gives a row up to the fp32 screen when int8 leaves it more than one code in so many to evaluate: about
// where evaluating costs as much as the fp32 screen would. The first rows of many tell how the others will fare.
constexpr int64_t kCodesPerEvaluation = 128;
constexpr int64_t kMinEvaluations = 32;
constexpr int64_t kTrialRows = 96;
// Candidates of a full list to evaluate before all.
constexpr int64_t kFirstEvaluations = 4;

int64_t second_level_cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes >= (int64_t{128} << 10)) return bytes;
#endif
  return int64_t{512} << 10;
}

// Queries are screened in passes of a bounded number of rows, so that memory does not grow with N. A pass has three
// steps, each parallel: pack the rows into blocks; screen groups of blocks against ranges of tiles, every worker with
// candidate lists of its own; merge a row's lists and evaluate what is left, best first. Rows that the int8 screen
// leaves too many candidates go through another pass, in fp32.
class Search {
 public:
  Search(const Rows& queries, const Rows& codes, const PreparedCodes& prepared, const bool* mask, int64_t k,
         const simd::Kernels& kernels, const SearchOptions& options, const SearchOutput& out)
      : task_{queries, codes, prepared, kernels, out, mask, k, prepared.bias, {}},
        choice_(options.screen),
        workers_(torch::stable::get_num_threads()),
        width_(queries.width()),
        fp32_(make_fp32_screen(prepared, kernels, width_)),
        int8_(make_int8_screen(prepared, kernels, width_)),
        pruner_(task_, int8_.get(), options.prune),
        always_prune_(int8_ != nullptr && options.prune == PruneChoice::kOn) {
    select_tiles();
  }

  void run() {
    std::fill(task_.out.rescored, task_.out.rescored + task_.queries.count(), 0);
    bool int8 = int8_ != nullptr && choice_ != ScreenChoice::kFp32 &&
                (choice_ == ScreenChoice::kInt8 || width_ >= task_.kernels.min_width8);
    const bool trial = int8 && choice_ == ScreenChoice::kAuto && task_.queries.count() >= 2 * kTrialRows;
    std::vector<int64_t> rows;
    for (int64_t first = 0, last = 0; first < task_.queries.count(); first = last) {
      last = std::min(task_.queries.count(), first + (trial && first == 0 ? kTrialRows : max_rows(int8)));
      rows.resize(static_cast<size_t>(last - first));
      std::iota(rows.begin(), rows.end(), first);
      rows = run_pass(std::move(rows), int8);
      if (!int8) continue;
      int8 = choice_ == ScreenChoice::kInt8 || 2 * static_cast<int64_t>(rows.size()) < last - first;
      for (size_t done = 0; done < rows.size(); done += static_cast<size_t>(max_rows(false))) {
        const size_t end = std::min(rows.size(), done + static_cast<size_t>(max_rows(false)));
        pack({rows.begin() + static_cast<int64_t>(done), rows.begin() + static_cast<int64_t>(end)}, false);
        screen_rows();
      }
    }
  }

 private:
  // The tiles with an allowed code, and the bias with -inf for codes that are not.
  void select_tiles() {
    if (task_.mask != nullptr) {
      masked_bias_.assign(task_.prepared.bias, task_.prepared.bias + task_.prepared.tiles * simd::kTile);
      for (int64_t k = 0; k < task_.codes.count(); ++k)
        if (!task_.mask[k]) masked_bias_[static_cast<size_t>(k)] = -std::numeric_limits<float>::infinity();
      task_.bias = masked_bias_.data();
    }
    for (int64_t tile = 0; tile < task_.prepared.tiles; ++tile) {
      const float* bias = task_.bias + tile * simd::kTile;
      const bool any = std::any_of(bias, bias + simd::kTile, [](float b) { return std::isfinite(b); });
      if (any) task_.tiles.push_back(tile);
    }
  }

  // Half of the second-level cache holds a group of blocks; the other half, the tile that they are screened against.
  static int64_t max_group_blocks(const Screen& screen) {
    const int64_t rows = second_level_cache_bytes() / 2 / screen.row_bytes();
    return std::max<int64_t>((rows + screen.block_rows() - 1) / screen.block_rows(), 4);
  }

  // Rows of a pass.
  int64_t max_rows(bool int8) const {
    const Screen& screen = int8 ? *int8_ : *fp32_;
    return std::max(kPassBytes / screen.row_bytes(), max_group_blocks(screen) * screen.block_rows());
  }

  // Answers the rows, but for those that the int8 screen gives up, which it returns.
  std::vector<int64_t> run_pass(std::vector<int64_t> rows, bool int8) {
    pack(std::move(rows), int8 || always_prune_);
    if (int8_pass_) {
      std::vector<int64_t> left = pruner_.run({row_ids_, blocks_, bounds_});
      if (left.size() < row_ids_.size() || !int8) pack(std::move(left), int8);
    }
    screen_rows();
    std::vector<int64_t> given_up;
    for (int64_t row = 0; int8 && row < rows_; ++row)
      if (!is_screened(row)) given_up.push_back(row_ids_[static_cast<size_t>(row)]);
    return given_up;
  }

  void pack(std::vector<int64_t> rows, bool int8) {
    row_ids_ = std::move(rows);
    rows_ = static_cast<int64_t>(row_ids_.size());
    int8_pass_ = int8;
    screen_ = int8 ? int8_.get() : fp32_.get();
    if (static_cast<int64_t>(bounds_.size()) < rows_) {
      bounds_.resize(static_cast<size_t>(rows_));
      shared_ = std::vector<std::atomic<float>>(static_cast<size_t>(rows_));
    }
    screen_->resize(rows_);
    split_blocks();
    for_each_range(static_cast<int64_t>(blocks_.size()), 1, [&](int64_t b, int64_t) { pack_block(b); });
  }

  // Screens the rows packed last.
  void screen_rows() {
    if (rows_ == 0) return;
    candidates_.assign(rows_ * workers_, task_.k);
    const int64_t groups = (static_cast<int64_t>(blocks_.size()) + group_blocks_ - 1) / group_blocks_;
    const int64_t ranges = num_ranges(groups);
    // Neighbouring tasks share a range of tiles, so workers side by side read the same codes.
    for_each_task(groups * ranges, workers_, [&](int64_t task, int64_t worker) {
      const int64_t range = task / groups, tiles = static_cast<int64_t>(task_.tiles.size());
      screen(task % groups, range * tiles / ranges, (range + 1) * tiles / ranges, worker * rows_);
    });
    for_each_range(rows_, 8, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) finish_row(row);
    });
  }

  void split_blocks() {
    blocks_.clear();
    if (rows_ == 0) return;
    const int64_t count = (rows_ + screen_->block_rows() - 1) / screen_->block_rows();
    for (int64_t b = 0; b < count; ++b) {
      const int64_t first = b * rows_ / count;
      blocks_.push_back({first, static_cast<int>((b + 1) * rows_ / count - first)});
    }
    const int64_t largest = max_group_blocks(*screen_), groups = (count + largest - 1) / largest;
    group_blocks_ = (count + groups - 1) / groups;
  }

  int64_t num_ranges(int64_t groups) const {
    const auto tiles = static_cast<int64_t>(task_.tiles.size());
    const int64_t wanted = (kTasksPerWorker * workers_ + groups - 1) / groups;
    return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(tiles / kMinTilesPerTask, 1));
  }

  void pack_block(int64_t index) {
    const Block block = blocks_[static_cast<size_t>(index)];
    std::vector<float> scratch(static_cast<size_t>(width_)), framed(static_cast<size_t>(width_));
    for (int r = 0; r < block.rows; ++r) {
      const auto row = static_cast<size_t>(block.first + r);
      const float* x = task_.queries.row(row_ids_[row], scratch.data());
      double squares = 0;
      const double norm = frame_row(x, task_.prepared.shift, task_.prepared.scale, width_, framed.data(), &squares);
      const bool screened = norm <= kMaxScreenNorm && width_ <= kMaxScreenWidth;
      screen_->pack(block, r, screened ? framed.data() : nullptr, norm);
      bounds_[row] = {squares, screened ? query_slack(width_, norm) : 0.0, screened};
      shared_[row].store(screened ? kNoThreshold : kNotScreened, std::memory_order_relaxed);
    }
  }

  // False for rows too large to screen and, in int8, for those given up.
  bool is_screened(int64_t row) const {
    return shared_[static_cast<size_t>(row)].load(std::memory_order_relaxed) != kNotScreened;
  }

  // Screens one group of blocks against tiles [begin, end) of the list, into the worker's slots from `slots` on.
  void screen(int64_t group, int64_t begin, int64_t end, int64_t slots) {
    const int64_t first_block = group * group_blocks_;
    const int64_t last_block = std::min(first_block + group_blocks_, static_cast<int64_t>(blocks_.size()));
    const int64_t first_row = blocks_[static_cast<size_t>(first_block)].first;
    const Block& last = blocks_[static_cast<size_t>(last_block - 1)];
    const int64_t last_row = last.first + last.rows;
    float* thresholds = candidates_.thresholds() + slots;
    // A lower bound that another worker found holds here too. Which ones are known by now depends on timing, and
    // changes only how many codes are re-scored.
    for (int64_t row = first_row; row < last_row; ++row) {
      const float known = shared_[static_cast<size_t>(row)].load(std::memory_order_relaxed);
      thresholds[row] = std::max(thresholds[row], known);
    }

    alignas(64) float scores[simd::kMaxRows * simd::kTile];
    for (int64_t t = begin; t < end; ++t) {
      TileStep step{task_.tiles[static_cast<size_t>(t)], task_.tiles[static_cast<size_t>(std::min(t + 1, end - 1))], 0,
                    last_block - first_block};
      const float* bias = task_.bias + step.tile * simd::kTile;
      for (; step.block < step.blocks; ++step.block) {
        const Block& block = blocks_[static_cast<size_t>(first_block + step.block)];
        const uint32_t hits = screen_->run(block, step, bias, thresholds + block.first, scores);
        if (hits != 0) collect(hits, block, step.tile, slots, scores);
      }
    }
    for (int64_t row = first_row; row < last_row; ++row) raise(shared_[static_cast<size_t>(row)], thresholds[row]);
  }

  static void raise(std::atomic<float>& shared, float value) {
    float seen = shared.load(std::memory_order_relaxed);
    while (seen < value && !shared.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
    }
  }

  // Adds the codes of a tile that reach their row's threshold, which rises as they come.
  void collect(uint32_t hits, const Block& block, int64_t tile, int64_t slots, const float* scores) {
    for (int r = 0; r < block.rows; ++r) {
      if ((hits >> r & 1u) == 0) continue;
      const int64_t row = block.first + r;
      const int64_t slot = slots + row;
      const double slack = bounds_[static_cast<size_t>(row)].slack;
      for (int64_t j = 0; j < simd::kTile; ++j) {
        const float v = scores[r * simd::kTile + j];
        if (!(v >= candidates_.threshold(slot))) continue;
        if (candidates_.is_full(slot)) make_room(row, slot);
        const int64_t id = tile * simd::kTile + j;
        candidates_.add(slot, v, id, round_down(v - screen_->margin(row, id) - 2.0 * slack));
      }
    }
  }

  // Makes a full list shorter. The threshold may have risen since; if not, the most promising codes are evaluated,
  // which raises it; then, where codes stay undecided (thousands of duplicates, say), all. The best k are kept.
  void make_room(int64_t row, int64_t slot) {
    candidates_.drop_beaten(slot, candidates_.threshold(slot));
    for (const int64_t most : {std::max(task_.k, kFirstEvaluations), std::numeric_limits<int64_t>::max()}) {
      if (!candidates_.is_crowded(slot)) return;
      Scorer scorer(task_, row_ids_[static_cast<size_t>(row)], bounds_[static_cast<size_t>(row)]);
      std::vector<Candidate> chosen;
      candidates_.take(slot, most, chosen);
      candidates_.raise(slot, scorer.evaluate(chosen, candidates_.threshold(slot), candidates_.evaluated(slot)));
      candidates_.drop_beaten(slot, candidates_.threshold(slot));
      const int64_t evaluated = candidates_.count_evaluated(slot, scorer.evaluated());
      const int64_t limit = std::max(task_.codes.count() / kCodesPerEvaluation, kMinEvaluations);
      if (int8_pass_ && choice_ == ScreenChoice::kAuto && evaluated > limit) candidates_.raise(slot, kNotScreened);
    }
  }

  void finish_row(int64_t row) {
    const int64_t query = row_ids_[static_cast<size_t>(row)];
    Scorer scorer(task_, query, bounds_[static_cast<size_t>(row)]);
    Ranking best(task_.k);
    std::vector<Candidate> all;
    for (int64_t slot = row; slot < workers_ * rows_; slot += rows_) {
      task_.out.rescored[query] += candidates_.merge_evaluated(slot, best);
      candidates_.take(slot, std::numeric_limits<int64_t>::max(), all);
    }
    if (is_screened(row)) {
      scorer.evaluate(all, candidates_.merged_threshold(row, rows_, workers_), best);
    } else if (int8_pass_) {
      return;  // for a pass in fp32
    } else {
      for (int64_t k = 0; k < task_.codes.count(); ++k)
        if (task_.mask == nullptr || task_.mask[k]) best.offer(scorer.sqdist(k), k);
    }
    best.write(task_.out.ids + query * task_.k, task_.out.sqdist + query * task_.k);
    task_.out.rescored[query] += scorer.evaluated();
  }

  static constexpr float kNoThreshold = -std::numeric_limits<float>::max();
  static constexpr float kNotScreened = std::numeric_limits<float>::infinity();

  SearchTask task_;
  const ScreenChoice choice_;
  const int64_t workers_;
  const int64_t width_;
  const std::unique_ptr<Screen> fp32_;
  const std::unique_ptr<PrefixScreen> int8_;  // null where there is none
  Pruner pruner_;
  const bool always_prune_;
  std::vector<float> masked_bias_;

  // The pass under way.
  std::vector<int64_t> row_ids_;             // [rows]: the queries' ids
  int64_t rows_ = 0;
  bool int8_pass_ = false;
  Screen* screen_ = nullptr;
  std::vector<Block> blocks_;
  int64_t group_blocks_ = 1;
  std::vector<RowBound> bounds_;             // [rows]
  std::vector<std::atomic<float>> shared_;   // [rows]: the best threshold of any finished task
  CandidateLists candidates_;                // slot = worker * rows + row
};

}  // namespace

void search_codes(const Rows& queries, const Rows& codes, const PreparedCodes& prepared, const bool* mask, int64_t k,
                  const simd::Kernels& kernels, const SearchOptions& options, const SearchOutput& out) {
  Search(queries, codes, prepared, mask, k, kernels, options, out).run();
}

}  // namespace spae
