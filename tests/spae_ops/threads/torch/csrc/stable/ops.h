// torch's thread pool for `make sanitize`: threads that the thread sanitizer sees all of, unlike those of an OpenMP
// runtime that was not compiled with it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace torch::stable {

inline uint32_t num_threads = 1;

inline uint32_t get_num_threads() { return num_threads; }

// run(first, last) for pieces of [begin, end) of about the same size, one to a thread.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t, const F& run) {
  const int64_t count = end - begin, pieces = std::min<int64_t>(count, num_threads);
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < pieces; ++i)
    threads.emplace_back([&, i] { run(begin + i * count / pieces, begin + (i + 1) * count / pieces); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace torch::stable
