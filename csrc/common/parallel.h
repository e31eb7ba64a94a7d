// Tasks over torch's own thread pool (no second OpenMP runtime), in a known floating-point environment.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cstdint>

namespace spae {

// Round to nearest and keep subnormals while this lives: the error bounds assume both, and
// torch.set_flush_denormal(True) takes the second away.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  std::fenv_t saved_;
};

// Calls run(task, worker) once for every task in [0, tasks), with worker < workers and never twice at a time for the
// same worker. Workers take tasks as they come free, so that one slow core does not hold up the rest; which worker
// runs which task must not matter to the caller's results.
template <class F>
void for_each_task(int64_t tasks, int64_t workers, const F& run) {
  std::atomic<int64_t> next_task{0}, next_worker{0};
  torch::stable::parallel_for(0, std::min(tasks, workers), 1, [&](int64_t, int64_t) {
    const DefaultFloatEnvironment environment;
    const int64_t worker = next_worker.fetch_add(1);
    for (int64_t task = next_task.fetch_add(1); task < tasks; task = next_task.fetch_add(1)) run(task, worker);
  });
}

// run(begin, end) over [0, count) in pieces of at most `piece`, on all of torch's threads.
template <class F>
void for_each_range(int64_t count, int64_t piece, const F& run) {
  for_each_task((count + piece - 1) / piece, torch::stable::get_num_threads(), [&](int64_t task, int64_t) {
    run(task * piece, std::min(count, (task + 1) * piece));
  });
}

}  // namespace spae
