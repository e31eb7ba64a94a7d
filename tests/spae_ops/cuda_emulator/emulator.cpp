#include "emulator.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <numeric>

namespace emulator {

void Block::enter() {
  try {
    block->body_();
  } catch (const std::exception& error) {
    block->error_ = error.what();
  }
  block->current_->done = true;
  swapcontext(&block->current_->context, &block->scheduler_);
}

void Block::resume(Fiber& fiber) {
  current_ = &fiber;
  thread_index = fiber.thread;
  fiber.ready = nullptr;
  swapcontext(&scheduler_, &fiber.context);
  if (!error_.empty()) throw Failure(error_);
}

void Block::run() {
  block = this;
  block_index = index_;
  grid_size = grid_;
  std::vector<size_t> order(fibers_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  while (stacks.size() < fibers_.size()) stacks.push_back(std::make_unique_for_overwrite<unsigned char[]>(kStackBytes));
  for (const size_t i : order) {
    Fiber& fiber = fibers_[i];
    fiber.thread.x = static_cast<unsigned>(i);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks[i].get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Block::enter, 0);
  }
  while (std::any_of(fibers_.begin(), fibers_.end(), [](const Fiber& fiber) { return !fiber.done; })) {
    std::shuffle(order.begin(), order.end(), generator);
    bool moved = false;
    for (const size_t i : order) {
      Fiber& fiber = fibers_[i];
      if (fiber.done || (fiber.ready && !fiber.ready())) continue;
      resume(fiber);
      moved = true;
    }
    std::erase_if(pending_, [](const auto& operation) { return operation->done; });
    if (!moved && pending_.empty()) throw Failure("deadlock: every thread waits");
    // Of what is under way something happens now: at times much, at times nothing unless nobody can go on without.
    const auto some = static_cast<unsigned>(pending_.size() + 1);
    for (auto count = moved ? random(4) == 0 ? random(some) : 0 : 1; count > 0; --count) {
      pending_[random(some - 1)]->complete();
    }
  }
  for (const auto& operation : pending_) operation->complete();
}

}  // namespace emulator

extern "C" {

void emulator_configure(unsigned seed, int sum_terms, int sum_bits) {
  emulator::settings = {seed, sum_terms, sum_bits};
  emulator::bank_conflicts = 0;
}

void emulator_leave_out(int fault) { emulator::fault = static_cast<emulator::Fault>(fault); }

void emulator_run_last(int64_t blocks) { emulator::settings.last_blocks = blocks; }

int64_t emulator_bank_conflicts() { return emulator::bank_conflicts; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = emulator::current_stream;
  return 0;
}
}
