#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "common/parallel.h"
#include "nearest_code/cpu/nearest_code.h"
#include "nearest_code/cpu/pass.h"
#include "nearest_code/cpu/prune.h"
#include "nearest_code/cpu/screens.h"
#include "nearest_code/cpu/steps.h"
#include "nearest_code/cpu/task.h"

namespace spae {
namespace {

// Packed queries held at a time.
constexpr int64_t kPassBytes = int64_t{8} << 20;
// Their candidate lists may take more where [N, K] is large: an eightieth of it in fp32.
constexpr int64_t kMinListBytes = int64_t{8} << 20;
constexpr int64_t kMaxListBytes = int64_t{256} << 20;
constexpr int64_t kListShare = 20;
// The first rows of many tell how the others will fare in int8.
constexpr int64_t kTrialRows = 96;

// Queries are screened in passes of a bounded number of rows, so that memory does not grow with N: a pass packs the rows,
// prunes where that pays, and screens what is left. Rows that the int8 screen leaves too many candidates go through
// another pass, in fp32.
class Search {
 public:
  Search(const Rows& queries, const Rows& codes, const PreparedCodes& prepared, const bool* mask, int64_t k,
         const simd::Kernels& kernels, const SearchOptions& options, const SearchOutput& out)
      : task_{queries, codes, prepared, kernels, out, mask, k, prepared.bias, {}},
        choice_(options.screen),
        fp32_(make_fp32_screen(prepared, kernels, queries.width())),
        int8_(make_int8_screen(prepared, kernels, queries.width(), queries.count(), options.named_isa)),
        pruner_(task_, int8_.get(), options.prune),
        always_prune_(int8_ != nullptr && options.prune == PruneChoice::kOn),
        pass_(task_),
        steps_(task_, pass_, choice_, torch::stable::get_num_threads()) {
    select_tiles();
  }

  void run() {
    const int64_t count = task_.queries.count();
    std::fill(task_.out.rescored, task_.out.rescored + count, 0);
    bool int8 = int8_ != nullptr && choice_ != ScreenChoice::kFp32 &&
                (choice_ == ScreenChoice::kInt8 || task_.queries.width() >= task_.kernels.min_width8);
    const bool trial = int8 && choice_ == ScreenChoice::kAuto && count >= 2 * kTrialRows;
    for (int64_t first = 0, last = 0; first < count; first = last) {
      const int64_t most = max_rows(int8);
      last = std::min(count, first + (trial && first == 0 ? std::min(kTrialRows, most) : most));
      std::vector<int64_t> rows(static_cast<size_t>(last - first));
      std::iota(rows.begin(), rows.end(), first);
      rows = run_pass(std::move(rows), int8);
      if (!int8) continue;
      int8 = choice_ == ScreenChoice::kInt8 || 2 * static_cast<int64_t>(rows.size()) < last - first;
      run_fp32(rows);
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

  // Rows of a pass: bounded by what they take packed, unless that is less than a group, and by their candidate lists,
  // unless these leave less than a block.
  int64_t max_rows(bool int8) const {
    const Screen& screen = int8 ? *int8_ : *fp32_;
    const int64_t packed = std::max(kPassBytes / screen.row_bytes(), max_group_blocks(screen) * screen.block_rows());
    const int64_t share = task_.queries.count() * task_.codes.count() / kListShare;
    const int64_t listed = steps_.max_rows(std::clamp(share, kMinListBytes, kMaxListBytes));
    return std::max<int64_t>(std::min(packed, listed), screen.block_rows());
  }

  // Answers the rows, but for those that the int8 screen gives up, which it returns.
  std::vector<int64_t> run_pass(std::vector<int64_t> rows, bool int8) {
    pack(std::move(rows), int8 || always_prune_);
    if (pass_.int8()) {
      std::vector<int64_t> left = pruner_.run(pass_.packed());
      if (static_cast<int64_t>(left.size()) < pass_.rows() || !int8) pack(std::move(left), int8);
    }
    steps_.run();
    return int8 ? pass_.not_screened() : std::vector<int64_t>();
  }

  void run_fp32(const std::vector<int64_t>& rows) {
    const auto count = static_cast<int64_t>(rows.size()), most = max_rows(false);
    for (int64_t first = 0; first < count; first += most) {
      pack({rows.begin() + first, rows.begin() + std::min(count, first + most)}, false);
      steps_.run();
    }
  }

  void pack(std::vector<int64_t> rows, bool int8) {
    pass_.pack(std::move(rows), int8 ? static_cast<Screen&>(*int8_) : *fp32_, int8);
  }

  SearchTask task_;
  const ScreenChoice choice_;
  const std::unique_ptr<Screen> fp32_;
  const std::unique_ptr<PrefixScreen> int8_;  // null where there is none
  Pruner pruner_;
  const bool always_prune_;
  std::vector<float> masked_bias_;
  Pass pass_;
  Steps steps_;
};

}  // namespace

void search_codes(const Rows& queries, const Rows& codes, const PreparedCodes& prepared, const bool* mask, int64_t k,
                  const simd::Kernels& kernels, const SearchOptions& options, const SearchOutput& out) {
  Search(queries, codes, prepared, mask, k, kernels, options, out).run();
}

}  // namespace spae
