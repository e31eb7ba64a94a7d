#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <vector>

#include "nearest_code.h"
#include "parallel.h"
#include "ranking.h"

namespace spae {
namespace {

// Enough tasks that a slow or busy core leaves little waiting at the end, each long enough not to matter itself.
constexpr int64_t kTasksPerWorker = 8;
constexpr int64_t kMinTilesPerTask = 8;
// Packed queries held at a time.
constexpr int64_t kPassBytes = int64_t{8} << 20;

int64_t second_level_cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes >= (int64_t{128} << 10)) return bytes;
#endif
  return int64_t{512} << 10;
}

// Up to kMaxRows neighbouring queries, packed [D, rows] for the kernels.
struct Block {
  int64_t first;  // row within the pass
  int rows;
};

// Queries are screened in passes of a bounded number of rows, so that memory does not grow with N. A pass has three
// steps, each parallel: pack the rows into blocks; screen groups of blocks against ranges of tiles, every worker with
// candidate lists of its own; merge a row's lists and re-score what is left.
class Search {
 public:
  Search(const Rows& queries, const Rows& codes, const PreparedCodes& prepared, const bool* mask, int64_t k,
         const simd::Kernels& kernels, const SearchOutput& out)
      : queries_(queries),
        codes_(codes),
        prepared_(prepared),
        mask_(mask),
        k_(k),
        kernels_(kernels),
        out_(out),
        workers_(torch::stable::get_num_threads()),
        width_(queries.width()),
        slope_(query_slope(queries.width())) {
    select_tiles();
    plan();
  }

  void run() {
    for (int64_t first = 0; first < queries_.count(); first += pass_rows_) {
      first_ = first;
      rows_ = std::min(pass_rows_, queries_.count() - first);
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
  void plan() {
    const int64_t row_bytes = width_ * static_cast<int64_t>(sizeof(float));
    const int64_t group_rows = std::max<int64_t>(second_level_cache_bytes() / 2 / row_bytes, 4 * kernels_.rows);
    group_blocks_ = (group_rows + kernels_.rows - 1) / kernels_.rows;
    const int64_t rows = std::max(kPassBytes / row_bytes, group_blocks_ * kernels_.rows);
    pass_rows_ = std::min(rows, std::max<int64_t>(queries_.count(), 1));
    const auto size = static_cast<size_t>(pass_rows_);
    packed_.resize(size * static_cast<size_t>(width_));
    slopes_.resize(size);
    slack_.resize(size);
    shared_ = std::vector<std::atomic<float>>(size);
  }

  void split_blocks() {
    const int64_t count = (rows_ + kernels_.rows - 1) / kernels_.rows;
    blocks_.clear();
    for (int64_t b = 0; b < count; ++b) {
      const int64_t first = b * rows_ / count;
      blocks_.push_back({first, static_cast<int>((b + 1) * rows_ / count - first)});
    }
    group_blocks_ = std::min(group_blocks_, count);
    const int64_t groups = (count + group_blocks_ - 1) / group_blocks_;
    group_blocks_ = (count + groups - 1) / groups;
  }

  int64_t num_ranges(int64_t groups) const {
    const auto tiles = static_cast<int64_t>(tiles_.size());
    const int64_t wanted = (kTasksPerWorker * workers_ + groups - 1) / groups;
    return std::clamp<int64_t>(wanted, 1, std::max<int64_t>(tiles / kMinTilesPerTask, 1));
  }

  void pack_block(int64_t index) {
    const Block block = blocks_[static_cast<size_t>(index)];
    std::vector<float> scratch(static_cast<size_t>(width_));
    float* out = packed_.data() + block.first * width_;
    for (int r = 0; r < block.rows; ++r) {
      const int64_t row = block.first + r;
      const auto slot = static_cast<size_t>(row);
      const float* x = queries_.row(first_ + row, scratch.data());
      double squares = 0;
      const double norm =
          frame_row(x, prepared_.shift, prepared_.scale, width_, out + r, block.rows, &squares);
      const bool screened = norm <= kMaxScreenNorm && width_ <= kMaxScreenWidth;
      slopes_[slot] = screened ? round_up(slope_ * norm) : 0.0f;
      slack_[slot] = screened ? query_slack(width_, norm) : 0.0;
      shared_[slot].store(screened ? kNoThreshold : kNotScreened, std::memory_order_relaxed);
      if (!screened)
        for (int64_t d = 0; d < width_; ++d) out[d * block.rows + r] = 0.0f;
    }
  }

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
    simd::Tile tile{};
    tile.width = width_;
    tile.scores = scores;
    const int64_t tile_floats = simd::kTile * width_;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t index = tiles_[static_cast<size_t>(t)];
      const int64_t next = tiles_[static_cast<size_t>(std::min(t + 1, end - 1))];
      tile.panels = prepared_.panels + index * tile_floats;
      tile.bias = bias_ + index * simd::kTile;
      tile.norms = prepared_.norms + index * simd::kTile;
      for (int64_t b = first_block; b < last_block; ++b) {
        const Block block = blocks_[static_cast<size_t>(b)];
        plan_prefetch(tile, prepared_.panels + next * tile_floats, b - first_block, last_block - first_block);
        tile.queries = packed_.data() + block.first * width_;
        tile.slopes = slopes_.data() + block.first;
        tile.thresholds = thresholds + block.first;
        const uint32_t hits = kernels_.screen[block.rows](tile);
        if (hits != 0) collect(hits, block, index, slots, scores);
      }
    }
    for (int64_t row = first_row; row < last_row; ++row) raise(shared_[static_cast<size_t>(row)], thresholds[row]);
  }

  // The first two blocks fetch one panel of the next tile each; a lone block fetches every other line and leaves the
  // rest to the processor's adjacent-line prefetcher.
  static void plan_prefetch(simd::Tile& tile, const float* next, int64_t block, int64_t blocks) {
    constexpr int64_t kLine = simd::kPanel * static_cast<int64_t>(sizeof(float));
    const bool fetch = block < 2;
    tile.prefetch = reinterpret_cast<const char*>(fetch ? next + block * simd::kPanel * tile.width : next);
    tile.prefetch_step = !fetch ? 0 : blocks == 1 ? 2 * kLine : kLine;
  }

  static void raise(std::atomic<float>& shared, float value) {
    float seen = shared.load(std::memory_order_relaxed);
    while (seen < value && !shared.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
    }
  }

  // Adds the codes of a tile that reach their row's threshold, which rises as they come.
  void collect(uint32_t hits, const Block& block, int64_t tile, int64_t slots, const float* scores) {
    const float* norms = prepared_.norms + tile * simd::kTile;
    for (int r = 0; r < block.rows; ++r) {
      if ((hits >> r & 1u) == 0) continue;
      const int64_t row = block.first + r;
      const int64_t slot = slots + row;
      const double slope = slopes_[static_cast<size_t>(row)];
      const double slack = slack_[static_cast<size_t>(row)];
      for (int64_t j = 0; j < simd::kTile; ++j) {
        const float v = scores[r * simd::kTile + j];
        if (!(v >= candidates_.threshold(slot))) continue;
        if (candidates_.is_full(slot)) make_room(row, slot);
        const double norm = norms[j];
        const double lower = v - 2.0 * (slope * norm + kCodeSlope * norm * norm) - 2.0 * slack;
        candidates_.add(slot, v, tile * simd::kTile + j, round_down(lower));
      }
    }
  }

  // A list that stays full of undecided codes (thousands of duplicates, say) is evaluated now, and its best k kept.
  void make_room(int64_t row, int64_t slot) {
    candidates_.drop_beaten(slot, candidates_.threshold(slot));
    if (!candidates_.is_crowded(slot)) return;
    Scorer scorer(*this, row);
    Ranking& kept = candidates_.evaluated(slot);
    for (const Candidate& candidate : candidates_.list(slot)) kept.offer(scorer.sqdist(candidate.id), candidate.id);
    candidates_.clear(slot, scorer.evaluated());
  }

  void finish_row(int64_t row) {
    Scorer scorer(*this, row);
    Ranking best(k_);
    int64_t evaluated = 0;
    if (is_screened(row)) {
      const float threshold = candidates_.merged_threshold(row, rows_, workers_);
      for (int64_t slot = row; slot < workers_ * rows_; slot += rows_) {
        for (const Candidate& candidate : candidates_.list(slot))
          if (candidate.upper >= threshold) best.offer(scorer.sqdist(candidate.id), candidate.id);
        evaluated += candidates_.merge_evaluated(slot, best);
      }
    } else {
      for (int64_t k = 0; k < codes_.count(); ++k)
        if (mask_ == nullptr || mask_[k]) best.offer(scorer.sqdist(k), k);
    }
    best.write(out_.ids + (first_ + row) * k_, out_.sqdist + (first_ + row) * k_);
    out_.rescored[first_ + row] = evaluated + scorer.evaluated();
  }

  // Evaluates the definition for one query.
  class Scorer {
   public:
    Scorer(const Search& search, int64_t row)
        : search_(search),
          scratch_(2 * static_cast<size_t>(search.width_)),
          query_(search.queries_.row(search.first_ + row, scratch_.data())) {}

    double sqdist(int64_t id) {
      ++evaluated_;
      const float* code = search_.codes_.row(id, scratch_.data() + search_.width_);
      return search_.kernels_.sqdist(query_, code, search_.width_);
    }

    int64_t evaluated() const { return evaluated_; }

   private:
    const Search& search_;
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
  const SearchOutput& out_;
  const int64_t workers_;
  const int64_t width_;
  const double slope_;

  const float* bias_ = nullptr;
  std::vector<float> masked_bias_;
  std::vector<int64_t> tiles_;
  int64_t group_blocks_ = 1;
  int64_t pass_rows_ = 1;

  // The pass under way.
  int64_t first_ = 0;
  int64_t rows_ = 0;
  std::vector<Block> blocks_;
  std::vector<float> packed_;                // blocks of [D, rows], one after another
  std::vector<float> slopes_;                // [rows]: a_q
  std::vector<double> slack_;                // [rows]: E_q
  std::vector<std::atomic<float>> shared_;   // [rows]: the best threshold of any finished task
  CandidateLists candidates_;                // slot = range * rows + row
};

}  // namespace

void search_codes(const Rows& queries, const Rows& codes, const PreparedCodes& prepared, const bool* mask, int64_t k,
                  const simd::Kernels& kernels, const SearchOutput& out) {
  Search(queries, codes, prepared, mask, k, kernels, out).run();
}

}  // namespace spae
