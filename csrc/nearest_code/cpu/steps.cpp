#include "nearest_code/cpu/steps.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common/parallel.h"

namespace spae {
namespace {

// Enough tasks that a slow or busy core leaves little waiting at the end, each long enough not to matter itself.
constexpr int64_t kTasksPerWorker = 8;
constexpr int64_t kMinTilesPerTask = 8;
// A list gives a row up to the fp32 screen when int8 leaves it more than one code in so many to evaluate: about where
// evaluating costs as much as the fp32 screen would.
constexpr int64_t kCodesPerEvaluation = 128;
constexpr int64_t kMinEvaluations = 32;
// Candidates of a full list to evaluate before all.
constexpr int64_t kFirstEvaluations = 4;
constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

}  // namespace

void Steps::run() {
  if (pass_.rows() == 0) return;
  const int64_t groups = pass_.groups(), ranges = num_ranges(), tiles = static_cast<int64_t>(task_.tiles.size());
  // A worker has one task at a time, a range of a group is one task: lists for either keep tasks apart.
  lists_ = std::min(workers_, ranges);
  candidates_.assign(pass_.rows() * lists_, task_.k);
  // Neighbouring tasks share a range of tiles, so workers side by side read the same codes.
  for_each_task(groups * ranges, workers_, [&](int64_t task, int64_t worker) {
    const int64_t range = task / groups, list = ranges <= workers_ ? range : worker;
    screen(pass_.group(task % groups), range * tiles / ranges, (range + 1) * tiles / ranges, list * pass_.rows());
  });
  for_each_range(pass_.rows(), 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) finish_row(row);
  });
}

int64_t Steps::max_rows(int64_t bytes) const {
  return bytes / (std::min(workers_, max_ranges()) * CandidateLists::slot_bytes(task_.k));
}

int64_t Steps::max_ranges() const {
  return std::max<int64_t>(static_cast<int64_t>(task_.tiles.size()) / kMinTilesPerTask, 1);
}

int64_t Steps::num_ranges() const {
  const int64_t wanted = (kTasksPerWorker * workers_ + pass_.groups() - 1) / pass_.groups();
  return std::clamp<int64_t>(wanted, 1, max_ranges());
}

class Steps::Collector final : public ScanSink {
 public:
  Collector(Steps& steps, const int64_t* tiles, int64_t slots) : steps_(steps), tiles_(tiles), slots_(slots) {}

  void take(const Block& block, int64_t tile, uint32_t hits, const float* scores) override {
    steps_.collect(hits, block, tiles_[tile], slots_, scores);
  }

 private:
  Steps& steps_;
  const int64_t* const tiles_;
  const int64_t slots_;
};

// Screens one group against tiles [begin, end) of the list, into the slots from `slots` on.
void Steps::screen(const Group& group, int64_t begin, int64_t end, int64_t slots) {
  float* thresholds = candidates_.thresholds() + slots;
  for (int64_t row = group.first_row; row < group.last_row; ++row)
    thresholds[row] = std::max(thresholds[row], pass_.threshold(row));
  const int64_t* tiles = task_.tiles.data() + begin;
  Collector collector(*this, tiles, slots);
  pass_.screen().scan({&pass_.block(group.first_block), group.last_block - group.first_block, tiles, end - begin,
                       task_.bias, thresholds},
                      collector);
  for (int64_t row = group.first_row; row < group.last_row; ++row) pass_.raise(row, thresholds[row]);
}

// Adds the codes of a tile that reach their row's threshold, which rises as they come.
void Steps::collect(uint32_t hits, const Block& block, int64_t tile, int64_t slots, const float* scores) {
  for (int r = 0; r < block.rows; ++r) {
    if ((hits >> r & 1u) == 0) continue;
    const int64_t row = block.first + r;
    const int64_t slot = slots + row;
    const double slack = pass_.bound(row).slack;
    for (int64_t j = 0; j < simd::kTile; ++j) {
      const float v = scores[r * simd::kTile + j];
      if (!(v >= candidates_.threshold(slot))) continue;
      if (candidates_.is_full(slot)) make_room(row, slot);
      const int64_t id = tile * simd::kTile + j;
      candidates_.add(slot, v, id, round_down(v - pass_.screen().margin(row, id) - 2.0 * slack));
    }
  }
}

// Makes a full list shorter. The threshold may have risen since; if not, the most promising codes are evaluated, which
// raises it; then, where codes stay undecided (thousands of duplicates, say), all. The best k are kept.
void Steps::make_room(int64_t row, int64_t slot) {
  candidates_.drop_beaten(slot, candidates_.threshold(slot));
  for (const int64_t most : {std::max(task_.k, kFirstEvaluations), kAll}) {
    if (!candidates_.is_crowded(slot)) return;
    Scorer scorer(task_, pass_.query(row), pass_.bound(row));
    std::vector<Candidate> chosen;
    candidates_.take(slot, most, chosen);
    candidates_.raise(slot, scorer.evaluate(chosen, candidates_.threshold(slot), candidates_.evaluated(slot)));
    candidates_.drop_beaten(slot, candidates_.threshold(slot));
    const int64_t evaluated = candidates_.count_evaluated(slot, scorer.evaluated());
    const int64_t limit = std::max(task_.codes.count() / kCodesPerEvaluation, kMinEvaluations);
    if (pass_.int8() && choice_ == ScreenChoice::kAuto && evaluated > limit) {
      candidates_.raise(slot, Pass::kNotScreened);
    }
  }
}

void Steps::finish_row(int64_t row) {
  const int64_t query = pass_.query(row);
  Scorer scorer(task_, query, pass_.bound(row));
  Ranking best(task_.k);
  const float threshold = candidates_.merged_threshold(row, pass_.rows(), lists_);
  std::vector<Candidate> all;
  for (int64_t slot = row; slot < lists_ * pass_.rows(); slot += pass_.rows()) {
    task_.out.rescored[query] += candidates_.merge_evaluated(slot, best);
    candidates_.drop_beaten(slot, threshold);
    candidates_.take(slot, kAll, all);
  }
  if (pass_.is_screened(row)) {
    scorer.evaluate(all, threshold, best);
  } else if (pass_.int8()) {
    return;  // for a pass in fp32
  } else {
    evaluate_all(scorer, best);
  }
  best.write(task_.out.ids + query * task_.k, task_.out.sqdist + query * task_.k);
  task_.out.rescored[query] += scorer.evaluated();
}

void Steps::evaluate_all(Scorer& scorer, Ranking& best) const {
  for (int64_t k = 0; k < task_.codes.count(); ++k)
    if (task_.mask == nullptr || task_.mask[k]) best.offer(scorer.sqdist(k), k);
}

}  // namespace spae
