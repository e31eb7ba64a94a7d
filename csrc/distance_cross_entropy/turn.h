// The order in which the chunks of a group are merged.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

namespace spae::cross_entropy {

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

}  // namespace spae::cross_entropy
