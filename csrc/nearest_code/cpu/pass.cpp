#include "nearest_code/cpu/pass.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include <algorithm>
#include <utility>

#include "common/parallel.h"

namespace spae {
namespace {

constexpr float kNoThreshold = -std::numeric_limits<float>::max();
constexpr int64_t kMinGroupBlocks = 4;

int64_t second_level_cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes >= (int64_t{128} << 10)) return bytes;
#endif
  return int64_t{512} << 10;
}

}  // namespace

int64_t max_group_blocks(const Screen& screen) {
  const int64_t rows = second_level_cache_bytes() / 2 / screen.row_bytes();
  return std::max((rows + screen.block_rows() - 1) / screen.block_rows(), kMinGroupBlocks);
}

void Pass::pack(std::vector<int64_t> queries, Screen& screen, bool int8) {
  queries_ = std::move(queries);
  int8_ = int8;
  screen_ = &screen;
  if (static_cast<int64_t>(bounds_.size()) < rows()) {
    bounds_.resize(static_cast<size_t>(rows()));
    thresholds_ = std::vector<std::atomic<float>>(static_cast<size_t>(rows()));
  }
  screen_->resize(rows());
  split_blocks();
  for_each_range(static_cast<int64_t>(blocks_.size()), 1, [&](int64_t b, int64_t) { pack_block(block(b)); });
}

// Blocks of nearly the same size, and groups of them.
void Pass::split_blocks() {
  blocks_.clear();
  if (rows() == 0) return;
  const int64_t count = (rows() + screen_->block_rows() - 1) / screen_->block_rows();
  for (int64_t b = 0; b < count; ++b) {
    const int64_t first = b * rows() / count;
    blocks_.push_back({first, static_cast<int>((b + 1) * rows() / count - first), b});
  }
  const int64_t largest = max_group_blocks(*screen_), groups = (count + largest - 1) / largest;
  group_blocks_ = (count + groups - 1) / groups;
}

void Pass::pack_block(const Block& block) {
  const int64_t width = task_.queries.width();
  std::vector<float> scratch(static_cast<size_t>(width)), framed(static_cast<size_t>(width));
  for (int r = 0; r < block.rows; ++r) {
    const auto row = static_cast<size_t>(block.first + r);
    const float* x = task_.queries.row(queries_[row], scratch.data());
    double squares = 0;
    const double norm = frame_row(x, task_.prepared.shift, task_.prepared.scale, width, framed.data(), &squares);
    const bool screened = norm <= kMaxScreenNorm && width <= kMaxScreenWidth;
    screen_->pack(block, r, screened ? framed.data() : nullptr, norm);
    bounds_[row] = {squares, screened ? query_slack(width, norm) : 0.0, screened};
    thresholds_[row].store(screened ? kNoThreshold : kNotScreened, std::memory_order_relaxed);
  }
}

Group Pass::group(int64_t index) const {
  const int64_t first = index * group_blocks_;
  const int64_t last = std::min(first + group_blocks_, static_cast<int64_t>(blocks_.size()));
  return {first, last, block(first).first, block(last - 1).first + block(last - 1).rows};
}

void Pass::raise(int64_t row, float threshold) {
  std::atomic<float>& shared = thresholds_[static_cast<size_t>(row)];
  float seen = shared.load(std::memory_order_relaxed);
  while (seen < threshold && !shared.compare_exchange_weak(seen, threshold, std::memory_order_relaxed)) {
  }
}

std::vector<int64_t> Pass::not_screened() const {
  std::vector<int64_t> left;
  for (int64_t row = 0; row < rows(); ++row)
    if (!is_screened(row)) left.push_back(query(row));
  return left;
}

}  // namespace spae
