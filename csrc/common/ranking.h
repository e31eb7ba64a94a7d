// Bounded lists for top-k search: the best k evaluated codes, and the undecided candidates of every query.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

namespace spae {

// The first k codes by (sqdist64, id) among those offered, each at most once.
class Ranking {
 public:
  static constexpr int64_t kEntryBytes = sizeof(std::pair<double, int64_t>);

  explicit Ranking(int64_t k) : capacity_(static_cast<size_t>(k)) {}

  void offer(double sqdist, int64_t id) {
    // NaN, which only non-finite queries make, ranks last, so that an id always comes out.
    const Entry entry{sqdist == sqdist ? sqdist : std::numeric_limits<double>::infinity(), id};
    if (heap_.size() == capacity_) {
      if (!(entry < heap_.front())) return;
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.back() = entry;
    } else {
      heap_.push_back(entry);
    }
    std::push_heap(heap_.begin(), heap_.end());
  }

  // The k-th best squared distance, or infinity while there are fewer.
  double worst() const {
    return heap_.size() == capacity_ ? heap_.front().first : std::numeric_limits<double>::infinity();
  }

  void offer_all(const Ranking& other) {
    for (const Entry& entry : other.heap_) offer(entry.first, entry.second);
  }

  // Writes the k entries in order. At least k codes must have been offered.
  void write(int64_t* ids, float* sqdist) {
    std::sort_heap(heap_.begin(), heap_.end());
    for (size_t i = 0; i < heap_.size(); ++i) {
      sqdist[i] = static_cast<float>(heap_[i].first);
      ids[i] = heap_[i].second;
    }
  }

 private:
  using Entry = std::pair<double, int64_t>;
  size_t capacity_;
  std::vector<Entry> heap_;  // a max-heap: the worst of the best in front
};

struct Candidate {
  float upper;  // v of nearest_code.h
  int32_t id;
};

// One bounded list of candidates per slot (a query, as seen by one worker), with the threshold that a code must reach
// to be one: the slot's k-th best lower bound, or a better one from elsewhere.
class CandidateLists {
 public:
  // What a slot takes when everything in it is full.
  static int64_t slot_bytes(int64_t k) {
    const int64_t lists = capacity(k) * static_cast<int64_t>(sizeof(Candidate)) + (k > 1 ? k * 4 + 8 : 0);
    return lists + 16 + static_cast<int64_t>(sizeof(Evaluated)) + k * Ranking::kEntryBytes;
  }

  void assign(int64_t slots, int64_t k) {
    k_ = k;
    capacity_ = capacity(k);
    const auto count = static_cast<size_t>(slots);
    thresholds_.assign(count, -std::numeric_limits<float>::max());
    sizes_.assign(count, 0);
    entries_.resize(count * static_cast<size_t>(capacity_));
    evaluated_.clear();
    evaluated_.resize(count);
    if (k > 1) {
      lower_sizes_.assign(count, 0);
      lower_.resize(count * static_cast<size_t>(k));
    }
  }

  float* thresholds() { return thresholds_.data(); }
  float threshold(int64_t slot) const { return thresholds_[static_cast<size_t>(slot)]; }
  bool is_full(int64_t slot) const { return sizes_[static_cast<size_t>(slot)] == capacity_; }
  bool is_crowded(int64_t slot) const { return 4 * sizes_[static_cast<size_t>(slot)] > 3 * capacity_; }

  void add(int64_t slot, float upper, int64_t id, float lower) {
    const auto s = static_cast<size_t>(slot);
    entries_[s * static_cast<size_t>(capacity_) + static_cast<size_t>(sizes_[s]++)] = {upper,
                                                                                      static_cast<int32_t>(id)};
    thresholds_[s] = std::max(thresholds_[s], k_ == 1 ? lower : kth_lower(s, lower));
  }

  // The k-th best lower bound over `count` slots, `stride` apart: at least every one of their thresholds.
  float merged_threshold(int64_t first, int64_t stride, int64_t count) const {
    float best = -std::numeric_limits<float>::max();
    std::vector<float> lower;
    for (int64_t i = 0; i < count; ++i) {
      const auto s = static_cast<size_t>(first + i * stride);
      best = std::max(best, thresholds_[s]);
      if (k_ == 1) continue;
      const float* heap = lower_.data() + s * static_cast<size_t>(k_);
      lower.insert(lower.end(), heap, heap + lower_sizes_[s]);
      if (static_cast<int64_t>(lower.size()) < k_) continue;
      std::nth_element(lower.begin(), lower.begin() + (k_ - 1), lower.end(), std::greater<float>());
      lower.resize(static_cast<size_t>(k_));
      best = std::max(best, lower.back());
    }
    return best;
  }

  void drop_beaten(int64_t slot, float threshold) {
    const auto s = static_cast<size_t>(slot);
    Candidate* first = entries_.data() + s * static_cast<size_t>(capacity_);
    const auto last = std::remove_if(first, first + sizes_[s],
                                     [threshold](const Candidate& entry) { return entry.upper < threshold; });
    sizes_[s] = static_cast<int32_t>(last - first);
  }

  // Moves up to `most` of the slot's candidates to the end of `to`, the most promising first.
  void take(int64_t slot, int64_t most, std::vector<Candidate>& to) {
    const auto s = static_cast<size_t>(slot);
    Candidate* first = entries_.data() + s * static_cast<size_t>(capacity_);
    Candidate* last = first + sizes_[s];
    Candidate* rest = first + std::min<int64_t>(most, sizes_[s]);
    const auto better = [](const Candidate& a, const Candidate& b) { return a.upper > b.upper; };
    std::partial_sort(first, rest, last, better);
    to.insert(to.end(), first, rest);
    sizes_[s] = static_cast<int32_t>(std::move(rest, last, first) - first);
  }

  // Candidates that had to be evaluated before their time, best k of them.
  Ranking& evaluated(int64_t slot) {
    auto& kept = evaluated_[static_cast<size_t>(slot)];
    if (kept == nullptr) kept = std::make_unique<Evaluated>(Evaluated{Ranking(k_), 0});
    return kept->best;
  }

  void raise(int64_t slot, float threshold) {
    float& current = thresholds_[static_cast<size_t>(slot)];
    current = std::max(current, threshold);
  }

  // Notes that many evaluations by the slot; returns how many there were so far.
  int64_t count_evaluated(int64_t slot, int64_t evaluated) {
    return evaluated_[static_cast<size_t>(slot)]->count += evaluated;
  }

  // Offers them to `best`; returns how many evaluations they took.
  int64_t merge_evaluated(int64_t slot, Ranking& best) const {
    const auto& kept = evaluated_[static_cast<size_t>(slot)];
    if (kept == nullptr) return 0;
    best.offer_all(kept->best);
    return kept->count;
  }

 private:
  struct Evaluated {
    Ranking best;
    int64_t count;
  };

  static int64_t capacity(int64_t k) { return std::max<int64_t>(32, 2 * k); }

  // Adds to the slot's k largest lower bounds and returns the k-th, or the lowest float while there are fewer.
  float kth_lower(size_t slot, float lower) {
    float* heap = lower_.data() + slot * static_cast<size_t>(k_);
    int64_t& size = lower_sizes_[slot];
    const auto smallest_first = std::greater<float>();
    if (size < k_) {
      heap[size++] = lower;
      std::push_heap(heap, heap + size, smallest_first);
    } else if (lower > heap[0]) {
      std::pop_heap(heap, heap + size, smallest_first);
      heap[size - 1] = lower;
      std::push_heap(heap, heap + size, smallest_first);
    }
    return size == k_ ? heap[0] : -std::numeric_limits<float>::max();
  }

  int64_t k_ = 1;
  int64_t capacity_ = 0;
  std::vector<float> thresholds_;                       // [slots]
  std::vector<int32_t> sizes_;                          // [slots]
  std::vector<Candidate> entries_;                      // [slots, capacity]
  std::vector<std::unique_ptr<Evaluated>> evaluated_;   // [slots], mostly null
  std::vector<int64_t> lower_sizes_;                    // [slots] where k > 1
  std::vector<float> lower_;                            // [slots, k]: heaps of lower bounds, smallest in front
};

}  // namespace spae
