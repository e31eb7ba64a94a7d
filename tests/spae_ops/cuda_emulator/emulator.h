// Runs CUDA kernels on one CPU thread: every thread of a block is a fiber, resumed in random order, and what the
// hardware does asynchronously happens at a random time between its issue and the wait that promises it. A data race or
// a missing wait therefore shows as a wrong answer for some seed, a missing arrival as a deadlock that is reported.
// Blocks run one after the other.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What can be left out of all kernels, to see that it is missed.
enum class Fault { kNone, kSyncthreads, kCopyWait, kMbarrierWait, kWgmmaWait };

// Set through the C functions of emulator.cpp.
struct Settings {
  unsigned seed = 0;
  int sum_terms = 8;  // what one step of the tensor cores adds, and where it cuts; see multiply.h
  int sum_bits = 24;
  int64_t last_blocks = 0;  // of every grid, where only so many are to run; 0 for all
};

inline Settings settings;
inline Fault fault = Fault::kNone;
inline int64_t bank_conflicts = 0;
inline char stream_marker;
inline void* const current_stream = &stream_marker;  // the only one that launches may name
inline std::minstd_rand generator;

inline unsigned random(unsigned below) { return generator() % below; }

// Something asynchronous. It happens once, after `previous`.
struct Operation {
  std::function<void()> act;
  std::shared_ptr<Operation> previous;
  bool done = false;

  void complete() {
    if (done) return;
    if (previous != nullptr) previous->complete();
    previous.reset();
    done = true;
    act();
  }
};

using Group = std::vector<std::shared_ptr<Operation>>;

// Operations committed in groups, as cp.async and wgmma have them.
struct Groups {
  Group open;
  std::deque<Group> committed;

  void commit() {
    committed.push_back(std::move(open));
    open.clear();
  }

  void wait(size_t pending) {
    while (committed.size() > pending) {
      for (const auto& operation : committed.front()) operation->complete();
      committed.pop_front();
    }
  }
};

// Where threads meet for a collective operation.
struct Gathering {
  std::vector<void*> arguments;
  int arrived = 0;
  const char* operation = nullptr;
  uint64_t generation = 0;
};

// PTX ISA, "mbarrier": a phase is over when nothing is pending any more.
struct Mbarrier {
  int64_t expected = 0;
  int64_t arrivals = 0;
  int64_t bytes = 0;
  uint64_t phase = 0;
  bool fenced = false;  // seen by what is asynchronous

  void settle() {
    if (arrivals != 0 || bytes != 0) return;
    ++phase;
    arrivals = expected;
  }
};

struct NamedBarrier {
  int arrived = 0;
  uint64_t generation = 0;
};

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Fiber {
  ucontext_t context;
  Index thread;
  bool done = false;
  std::function<bool()> ready;
  Groups copies;
};

inline constexpr size_t kStackBytes = 128 << 10;
inline std::vector<std::unique_ptr<unsigned char[]>> stacks;  // of a block's fibers, used again by the next
inline constexpr int kRegisters = 65536;  // of a multiprocessor
inline constexpr uint32_t kSharedBase = 1024;  // a real block's dynamic memory does not start at 0 either

class Block {
 public:
  Block(Index index, Index grid, int threads, int shared, std::function<void()> body)
      : index_(index), grid_(grid), body_(std::move(body)), fibers_(static_cast<size_t>(threads)),
        warp_groups_(fibers_.size() / 32), last_wgmma_(fibers_.size() / 32), fenced_(fibers_.size() / 32),
        registers_(fibers_.size(), kRegisters / threads / 8 * 8), shared_bytes_(shared),
        memory_(new(std::align_val_t{1024}) unsigned char[static_cast<size_t>(shared) + 1]) {
    std::memset(memory_, 0xff, static_cast<size_t>(shared));  // NaN, and the largest integers
  }

  ~Block() { ::operator delete[](memory_, std::align_val_t{1024}); }

  void run();

  Fiber& fiber() { return *current_; }
  int thread() const { return static_cast<int>(current_->thread.x); }
  int threads() const { return static_cast<int>(fibers_.size()); }

  // Suspends the running fiber until `ready`.
  void wait(std::function<bool()> ready) {
    if (ready()) return;
    current_->ready = std::move(ready);
    swapcontext(&current_->context, &scheduler_);
  }

  static void require(bool holds, const char* message) {
    if (!holds) throw Failure(message);
  }

  // The last of `size` threads to come does `act` on all arguments, in order of their places.
  template <class Argument, class Act>
  void meet(Gathering& gathering, int place, int size, const char* operation, Argument& argument, Act act) {
    require(gathering.arrived == 0 || gathering.operation == operation, "threads meet in different operations");
    gathering.operation = operation;
    gathering.arguments.resize(static_cast<size_t>(size));
    gathering.arguments[static_cast<size_t>(place)] = &argument;
    if (++gathering.arrived < size) {
      const uint64_t generation = gathering.generation;
      wait([&gathering, generation] { return gathering.generation != generation; });
      return;
    }
    std::vector<Argument*> all;
    for (void* pointer : gathering.arguments) all.push_back(static_cast<Argument*>(pointer));
    act(all);
    gathering.arrived = 0;
    ++gathering.generation;
  }

  // To meet in: the running fiber's warp, its warpgroup, the block.
  Gathering& warp_gathering() { return warps_[thread() / 32]; }
  Gathering& warpgroup_gathering() { return warpgroups_[thread() / 128]; }
  Gathering& block_gathering() { return all_; }

  std::shared_ptr<Operation> start(std::function<void()> act, std::shared_ptr<Operation> previous = nullptr) {
    auto operation = std::make_shared<Operation>(Operation{std::move(act), std::move(previous)});
    pending_.push_back(operation);
    return operation;
  }

  // The groups of wgmma of a warp, and its last one: they happen in order.
  Groups& wgmma_groups(int warp) { return warp_groups_[static_cast<size_t>(warp)]; }
  std::shared_ptr<Operation>& last_wgmma(int warp) { return last_wgmma_[static_cast<size_t>(warp)]; }

  // Whether a warp may start a wgmma: after a fence, until its registers are free for other uses again.
  std::vector<bool>::reference wgmma_fenced(int warp) { return fenced_[static_cast<size_t>(warp)]; }

  // PTX ISA, "setmaxnreg": what a thread gives up others may take, and wait for.
  void set_registers(int64_t wanted) {
    int64_t& mine = registers_[static_cast<size_t>(thread())];
    require(wanted % 8 == 0 && wanted >= 24 && wanted <= 256, "setmaxnreg takes multiples of 8 from 24 to 256");
    wait([this, needed = wanted - mine] { return needed <= free_registers_; });
    free_registers_ -= wanted - mine;
    mine = wanted;
  }

  Mbarrier& mbarrier(uint32_t address) {
    const auto found = mbarriers_.find(address);
    require(found != mbarriers_.end(), "mbarrier used before its initialisation");
    return found->second;
  }

  void initialise_mbarrier(uint32_t address, int64_t count) {
    require(address % 8 == 0, "mbarrier is not aligned");
    shared(address, 8);
    mbarriers_[address] = {count, count, 0, 0};
  }

  void fence_mbarriers() {
    for (auto& [address, barrier] : mbarriers_) barrier.fenced = true;
  }

  NamedBarrier& named_barrier(int barrier) { return named_[barrier]; }

  unsigned char* dynamic_shared() { return memory_; }

  uint32_t shared_address(const void* pointer) {
    const auto offset = static_cast<const unsigned char*>(pointer) - memory_;
    require(offset >= 0 && offset <= shared_bytes_, "not an address of dynamic shared memory");
    return static_cast<uint32_t>(offset) + kSharedBase;
  }

  unsigned char* shared(uint32_t address, int bytes) {
    require(address >= kSharedBase && int64_t{address} + bytes <= int64_t{kSharedBase} + shared_bytes_,
            "shared memory is accessed out of bounds");
    return memory_ + (address - kSharedBase);
  }

 private:
  static void enter();
  void resume(Fiber& fiber);

  Index index_, grid_;
  std::function<void()> body_;
  std::vector<Fiber> fibers_;
  Fiber* current_ = nullptr;
  ucontext_t scheduler_;
  std::string error_;
  std::map<int, Gathering> warps_, warpgroups_;
  Gathering all_;
  std::vector<std::shared_ptr<Operation>> pending_;
  std::vector<Groups> warp_groups_;
  std::vector<std::shared_ptr<Operation>> last_wgmma_;
  std::vector<bool> fenced_;
  std::vector<int64_t> registers_;  // of each thread; they start with an equal share of kRegisters
  int64_t free_registers_ = 0;
  std::map<uint32_t, Mbarrier> mbarriers_;
  std::map<int, NamedBarrier> named_;
  int64_t shared_bytes_;
  unsigned char* memory_;
};

inline Block* block = nullptr;  // the one that runs
inline Index thread_index, block_index, grid_size;

// A shuffle: each lane of a warp receives the value of lane source(own lane).
template <class T, class Source>
T exchange(T value, const char* operation, Source source) {
  struct Lane {
    T value;
    T result;
    int from;
  };
  const int lane = block->thread() % 32;
  Lane mine{value, value, source(lane)};
  block->meet(block->warp_gathering(), lane, 32, operation, mine, [](const std::vector<Lane*>& lanes) {
    for (Lane* to : lanes) to->result = lanes[static_cast<size_t>(to->from)]->value;
  });
  return mine.result;
}

}  // namespace emulator
