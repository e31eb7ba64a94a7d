#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "nearest_code.h"
#include "nearest_code_screens.h"
#include "parallel.h"
#include "ranking.h"

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
         const simd::Kernels& kernels, ScreenChoice choice, const SearchOutput& out)
      : queries_(queries),
        codes_(codes),
        prepared_(prepared),
        mask_(mask),
        k_(k),
        kernels_(kernels),
        choice_(choice),
        out_(out),
        workers_(torch::stable::get_num_threads()),
        width_(queries.width()),
        fp32_(make_fp32_screen(prepared, kernels, width_)),
        int8_(make_int8_screen(prepared, kernels, width_)) {
    select_tiles();
  }

  void run() {
    std::fill(out_.rescored, out_.rescored + queries_.count(), 0);
    bool int8 = int8_ != nullptr && choice_ != ScreenChoice::kFp32 &&
                (choice_ == ScreenChoice::kInt8 || width_ >= kernels_.min_width8);
    const bool trial = int8 && choice_ == ScreenChoice::kAuto && queries_.count() >= 2 * kTrialRows;
    std::vector<int64_t> rows;
    for (int64_t first = 0, last = 0; first < queries_.count(); first = last) {
      last = std::min(queries_.count(), first + (trial && first == 0 ? kTrialRows : max_rows(int8)));
      rows.resize(static_cast<size_t>(last - first));
      std::iota(rows.begin(), rows.end(), first);
      run_pass(rows, int8);
      if (!int8) continue;
      const auto undone = std::partition(rows.begin(), rows.end(), [&](int64_t row) {
        return !is_screened(row - first);
      });
      rows.erase(undone, rows.end());
      int8 = choice_ == ScreenChoice::kInt8 || 2 * static_cast<int64_t>(rows.size()) < last - first;
      for (size_t done = 0; done < rows.size(); done += static_cast<size_t>(max_rows(false))) {
        const size_t end = std::min(rows.size(), done + static_cast<size_t>(max_rows(false)));
        run_pass({rows.begin() + static_cast<int64_t>(done), rows.begin() + static_cast<int64_t>(end)}, false);
      }
    }
  }

 private:
  // The tiles with an allowed code, and the bias with -inf for codes that are not.
  void select_tiles() {
    bias_ = prepared_.bias;
    if (mask_ != nullptr) {
      masked_bias_.assign(prepared_.bias, prepared_.bias + prepared_.tiles * simd::kTile);
      for (int64_t k = 0; k < codes_.count(); ++k)
        if (!mask_[k]) masked_bias_[static_cast<size_t>(k)] = -std::numeric_limits<float>::infinity();
      bias_ = masked_bias_.data();
    }
    for (int64_t tile = 0; tile < prepared_.tiles; ++tile) {
      const float* bias = bias_ + tile * simd::kTile;
      const bool any = std::any_of(bias, bias + simd::kTile, [](float b) { return std::isfinite(b); });
      if (any) tiles_.push_back(tile);
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

  void run_pass(std::vector<int64_t> rows, bool int8) {
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
    candidates_.assign(rows_ * workers_, k_);
    for_each_range(static_cast<int64_t>(blocks_.size()), 1, [&](int64_t b, int64_t) { pack_block(b); });
    const int64_t groups = (static_cast<int64_t>(blocks_.size()) + group_blocks_ - 1) / group_blocks_;
    const int64_t ranges = num_ranges(groups);
    // Neighbouring tasks share a range of tiles, so workers side by side read the same codes.
    for_each_task(groups * ranges, workers_, [&](int64_t task, int64_t worker) {
      const int64_t range = task / groups, tiles = static_cast<int64_t>(tiles_.size());
      screen(task % groups, range * tiles / ranges, (range + 1) * tiles / ranges, worker * rows_);
    });
    for_each_range(rows_, 8, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) finish_row(row);
    });
  }

  void split_blocks() {
    const int64_t count = (rows_ + screen_->block_rows() - 1) / screen_->block_rows();
    blocks_.clear();
    for (int64_t b = 0; b < count; ++b) {
      const int64_t first = b * rows_ / count;
      blocks_.push_back({first, static_cast<int>((b + 1) * rows_ / count - first)});
    }
    const int64_t largest = max_group_blocks(*screen_), groups = (count + largest - 1) / largest;
    group_blocks_ = (count + groups - 1) / groups;
  }

  int64_t num_ranges(int64_t groups) const {
    const auto tiles = static_cast<int64_t>(tiles_.size());
    const int64_t wanted = (kTasksPerWorker * workers_ + groups - 1) / groups;
    return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(tiles / kMinTilesPerTask, 1));
  }

  void pack_block(int64_t index) {
    const Block block = blocks_[static_cast<size_t>(index)];
    std::vector<float> scratch(static_cast<size_t>(width_)), framed(static_cast<size_t>(width_));
    for (int r = 0; r < block.rows; ++r) {
      const auto row = static_cast<size_t>(block.first + r);
      const float* x = queries_.row(row_ids_[row], scratch.data());
      double squares = 0;
      const double norm = frame_row(x, prepared_.shift, prepared_.scale, width_, framed.data(), &squares);
      const bool screened = norm <= kMaxScreenNorm && width_ <= kMaxScreenWidth;
      screen_->pack(block, r, screened ? framed.data() : nullptr, norm);
      bounds_[row] = {squares, screened ? query_slack(width_, norm) : 0.0};
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
      TileStep step{tiles_[static_cast<size_t>(t)], tiles_[static_cast<size_t>(std::min(t + 1, end - 1))], 0,
                    last_block - first_block};
      const float* bias = bias_ + step.tile * simd::kTile;
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
    for (const int64_t most : {std::max(k_, kFirstEvaluations), std::numeric_limits<int64_t>::max()}) {
      if (!candidates_.is_crowded(slot)) return;
      Scorer scorer(*this, row);
      std::vector<Candidate> chosen;
      candidates_.take(slot, most, chosen);
      candidates_.raise(slot, scorer.evaluate(chosen, candidates_.threshold(slot), candidates_.evaluated(slot)));
      candidates_.drop_beaten(slot, candidates_.threshold(slot));
      const int64_t evaluated = candidates_.count_evaluated(slot, scorer.evaluated());
      const int64_t limit = std::max(codes_.count() / kCodesPerEvaluation, kMinEvaluations);
      if (int8_pass_ && choice_ == ScreenChoice::kAuto && evaluated > limit) candidates_.raise(slot, kNotScreened);
    }
  }

  void finish_row(int64_t row) {
    Scorer scorer(*this, row);
    Ranking best(k_);
    const int64_t query = row_ids_[static_cast<size_t>(row)];
    std::vector<Candidate> all;
    for (int64_t slot = row; slot < workers_ * rows_; slot += rows_) {
      out_.rescored[query] += candidates_.merge_evaluated(slot, best);
      candidates_.take(slot, std::numeric_limits<int64_t>::max(), all);
    }
    if (is_screened(row)) {
      scorer.evaluate(all, candidates_.merged_threshold(row, rows_, workers_), best);
    } else if (int8_pass_) {
      return;  // for a pass in fp32
    } else {
      for (int64_t k = 0; k < codes_.count(); ++k)
        if (mask_ == nullptr || mask_[k]) best.offer(scorer.sqdist(k), k);
    }
    best.write(out_.ids + query * k_, out_.sqdist + query * k_);
    out_.rescored[query] += scorer.evaluated();
  }

  struct RowBound {
    double squares;  // |Q|^2
    double slack;    // E_q
  };

  // Evaluates the definition for one query.
  class Scorer {
   public:
    Scorer(const Search& search, int64_t row)
        : search_(search),
          bound_(search.bounds_[static_cast<size_t>(row)]),
          scratch_(2 * static_cast<size_t>(search.width_)),
          query_(search.queries_.row(search.row_ids_[static_cast<size_t>(row)], scratch_.data())) {}

    double sqdist(int64_t id) {
      ++evaluated_;
      const float* code = search_.codes_.row(id, scratch_.data() + search_.width_);
      return search_.kernels_.sqdist(query_, code, search_.width_);
    }

    // Offers to `best` the candidates that may be among the answers, the most promising first, as each may rule out
    // the rest. Returns the threshold, raised by what was found.
    float evaluate(std::vector<Candidate>& candidates, float threshold, Ranking& best) {
      std::sort(candidates.begin(), candidates.end(),
                [](const Candidate& a, const Candidate& b) { return a.upper > b.upper; });
      for (const Candidate& candidate : candidates) {
        threshold = std::max(threshold, evaluated_threshold(bound_.squares, best.worst(), search_.prepared_.scale,
                                                            bound_.slack, search_.width_));
        if (candidate.upper < threshold) break;
        best.offer(sqdist(candidate.id), candidate.id);
      }
      return std::max(threshold, evaluated_threshold(bound_.squares, best.worst(), search_.prepared_.scale,
                                                     bound_.slack, search_.width_));
    }

    int64_t evaluated() const { return evaluated_; }

   private:
    const Search& search_;
    const RowBound& bound_;
    std::vector<float> scratch_;
    const float* query_;
    int64_t evaluated_ = 0;
  };

  static constexpr float kNoThreshold = -std::numeric_limits<float>::max();
  static constexpr float kNotScreened = std::numeric_limits<float>::infinity();

  const Rows& queries_;
  const Rows& codes_;
  const PreparedCodes& prepared_;
  const bool* mask_;
  const int64_t k_;
  const simd::Kernels& kernels_;
  const ScreenChoice choice_;
  const SearchOutput& out_;
  const int64_t workers_;
  const int64_t width_;
  const std::unique_ptr<Screen> fp32_;
  const std::unique_ptr<Screen> int8_;  // null where there is none

  const float* bias_ = nullptr;
  std::vector<float> masked_bias_;
  std::vector<int64_t> tiles_;

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
                  const simd::Kernels& kernels, ScreenChoice screen, const SearchOutput& out) {
  Search(queries, codes, prepared, mask, k, kernels, screen, out).run();
}

}  // namespace spae
