// csrc's ptx.cuh on the emulator, after the PTX ISA again: what csrc says in one way, this says in another.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "cuda_fp16.h"
#include "cuda_runtime.h"
#include "emulator.h"
#include "multiply.h"

namespace spae::ptx {

using emulator::block;

inline unsigned char* dynamic_shared() { return block->dynamic_shared(); }
inline uint32_t shared_address(const void* pointer) { return block->shared_address(pointer); }

inline float half_at(const unsigned char* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return __half(bits, __half::from_bits());
}

inline void cp_async_16(uint32_t to, const void* from) {
  block->require(to % 16 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0, "cp.async is not aligned");
  unsigned char* target = block->shared(to, 16);
  block->fiber().copies.open.push_back(block->start([=] { std::memcpy(target, from, 16); }));
}

inline void cp_async_commit() { block->fiber().copies.commit(); }

template <int kPending>
void cp_async_wait() {
  if (emulator::fault == emulator::Fault::kCopyWait) return;
  block->fiber().copies.wait(kPending);
}

inline void ldmatrix_x4(uint32_t (&to)[4], uint32_t from) {
  struct Lane {
    uint32_t from;
    uint32_t* to;
  } mine{from, to};
  block->require(from % 16 == 0, "ldmatrix is not aligned");
  block->meet(block->warp_gathering(), block->thread() % 32, 32, "ldmatrix", mine, [](const std::vector<Lane*>& lanes) {
    for (size_t matrix = 0; matrix < 4; ++matrix) {
      unsigned banks = 0;
      for (size_t row = 0; row < 8; ++row) {
        const uint32_t address = lanes[8 * matrix + row]->from;
        banks |= 1u << (address / 16 % 8);
        for (size_t pair = 0; pair < 4; ++pair) {
          std::memcpy(lanes[4 * row + pair]->to + matrix, block->shared(address, 16) + 4 * pair, 4);
        }
      }
      emulator::bank_conflicts += banks != 0xff;
    }
  });
}

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Lane {
    float* d;
    std::array<uint32_t, 4> a;
    std::array<uint32_t, 2> b;
  } mine{d, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  block->meet(block->warp_gathering(), block->thread() % 32, 32, "mma", mine, [](const std::vector<Lane*>& lanes) {
    // PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type", written for element i of a fragment.
    float whole_a[16][16], whole_b[16][8], whole_d[16][8];
    const auto visit_d = [&](auto act) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) act(lane, i, lane / 4 + (i < 2 ? 0 : 8), lane % 4 * 2 + (i & 1));
      }
    };
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane >> 2, within = lane % 4;
      const auto* a = reinterpret_cast<const unsigned char*>(lanes[lane]->a.data());
      const auto* b = reinterpret_cast<const unsigned char*>(lanes[lane]->b.data());
      for (int i = 0; i < 8; ++i) {
        const bool upper = i < 2 || (i >= 4 && i < 6);
        whole_a[upper ? group : group + 8][within * 2 + (i & 1) + (i < 4 ? 0 : 8)] = half_at(a + 2 * i);
      }
      for (int i = 0; i < 4; ++i) whole_b[within * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = half_at(b + 2 * i);
    }
    visit_d([&](int lane, int i, int row, int column) { whole_d[row][column] = lanes[lane]->d[i]; });
    emulator::multiply(16, 8, 16, &whole_a[0][0], &whole_b[0][0], &whole_d[0][0]);
    visit_d([&](int lane, int i, int row, int column) { lanes[lane]->d[i] = whole_d[row][column]; });
  });
}

inline void mbarrier_init(uint32_t barrier, uint32_t count) { block->initialise_mbarrier(barrier, count); }
inline void mbarrier_init_fence() { block->fence_mbarriers(); }

inline void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  emulator::Mbarrier& state = block->mbarrier(barrier);
  block->require(state.arrivals > 0, "more arrivals than the mbarrier expects");
  state.bytes += bytes;
  --state.arrivals;
  state.settle();
}

inline void mbarrier_arrive(uint32_t barrier) { mbarrier_arrive_expect(barrier, 0); }

inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  if (emulator::fault == emulator::Fault::kMbarrierWait) return;
  block->wait([&state = block->mbarrier(barrier), parity] { return state.phase % 2 != parity; });
}

inline void named_barrier_arrive(int barrier, int threads) {
  emulator::NamedBarrier& state = block->named_barrier(barrier);
  block->require(barrier >= 1 && barrier <= 15 && threads % 32 == 0, "no such barrier");
  if (++state.arrived == threads) {
    state.arrived = 0;
    ++state.generation;
  }
}

inline void named_barrier_sync(int barrier, int threads) {
  emulator::NamedBarrier& state = block->named_barrier(barrier);
  const uint64_t generation = state.generation;
  named_barrier_arrive(barrier, threads);
  block->wait([&state, generation] { return state.generation != generation; });
}

inline void tma_load_2d(uint32_t to, const CUtensorMap* map, uint32_t barrier, int column, int row) {
  emulator::TensorMap tensor;
  std::memcpy(&tensor, map->opaque, sizeof(tensor));
  const uint32_t columns = tensor.box[0], rows = tensor.box[1];
  block->require(to % 1024 == 0 && columns * 2 == 128, "the box is not whole swizzle atoms");
  block->shared(to, static_cast<int>(columns * rows * 2));
  block->require(block->mbarrier(barrier).fenced, "mbarrier is not fenced after its initialisation");
  block->start([=, &state = block->mbarrier(barrier)] {
    for (uint32_t i = 0; i < rows; ++i) {
      for (uint32_t j = 0; j < columns; ++j) {
        uint16_t value = 0;
        const int64_t x = int64_t{column} + j, y = int64_t{row} + i;
        const auto width = static_cast<int64_t>(tensor.sizes[0]), height = static_cast<int64_t>(tensor.sizes[1]);
        if (x >= 0 && y >= 0 && x < width && y < height) {
          std::memcpy(&value, tensor.data + static_cast<uint64_t>(y) * tensor.stride + static_cast<uint64_t>(x) * 2, 2);
        }
        // 128-byte swizzle: in row i of an atom of eight, chunk c of 16 bytes takes the place of chunk c ^ i.
        const uint32_t chunk = j / 8 ^ i % 8;
        std::memcpy(block->shared(to + i * 128 + chunk * 16 + j % 8 * 2, 2), &value, 2);
      }
    }
    state.bytes -= columns * rows * 2;
    state.settle();
  });
}

inline void tma_prefetch_map(const CUtensorMap*) {}

template <int kRegisters>
void registers_decrease() {
  block->set_registers(kRegisters);
}
template <int kRegisters>
void registers_increase() {
  block->set_registers(kRegisters);
}

inline void wgmma_fence() { block->wgmma_fenced(block->thread() / 32) = true; }

inline void wgmma_commit() {
  emulator::exchange(0, "wgmma.commit", [](int lane) { return lane; });
  if (block->thread() % 32 == 0) block->wgmma_groups(block->thread() / 32).commit();
  emulator::exchange(0, "wgmma.committed", [](int lane) { return lane; });
}

template <int kPending>
void wgmma_wait() {
  if (emulator::fault == emulator::Fault::kWgmmaWait) return;
  emulator::exchange(0, "wgmma.wait", [](int lane) { return lane; });
  if (block->thread() % 32 == 0) block->wgmma_groups(block->thread() / 32).wait(kPending);
  if (kPending == 0) block->wgmma_fenced(block->thread() / 32) = false;
  emulator::exchange(0, "wgmma.waited", [](int lane) { return lane; });
}

// Element (row, k) behind a matrix descriptor with K contiguous in the 128-byte swizzle.
inline float element_at(uint64_t descriptor, int row, int k) {
  block->require(descriptor >> 62 == 1 && (descriptor >> 49 & 7) == 0, "not a 128-byte swizzle");
  const auto start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  const auto stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  const uint32_t plain = start + static_cast<uint32_t>(row / 8) * stride + static_cast<uint32_t>(row % 8 * 128 + k * 2);
  const uint32_t line = plain / 128 % 8, chunk = plain / 16 % 8;
  return half_at(block->shared(plain - chunk * 16 + (chunk ^ line) * 16, 2));
}

inline void wgmma_m64n256k16(float (&d)[128], uint64_t a, uint64_t b, bool accumulate) {
  struct Lane {
    float* d;
    uint64_t a, b;
    bool accumulate;
  } mine{d, a, b, accumulate};
  const int first_warp = block->thread() / 128 * 4;
  block->require(block->wgmma_fenced(block->thread() / 32), "wgmma without a fence before it");
  block->meet(block->warpgroup_gathering(), block->thread() % 128, 128, "wgmma", mine,
              [=](const std::vector<Lane*>& lanes) {
                for (const Lane* lane : lanes) {
                  block->require(lane->a == a && lane->b == b && lane->accumulate == accumulate,
                                 "threads give wgmma different operands");
                }
                for (int warp = 0; warp < 4; ++warp) {
                  std::array<float*, 32> sums;
                  for (size_t i = 0; i < 32; ++i) sums[i] = lanes[static_cast<size_t>(warp) * 32 + i]->d;
                  // Each warp's quarter happens on its own, after the quarter before.
                  const auto act = [=] {
                    std::vector<float> left(16 * 16), right(16 * 256), product(16 * 256);
                    for (int i = 0; i < 256; ++i) left[i] = element_at(a, warp * 16 + i / 16, i % 16);
                    for (int i = 0; i < 16 * 256; ++i) right[i] = element_at(b, i % 256, i / 256);
                    const auto visit = [&](auto visitor) {
                      for (int i = 0; i < 16 * 256; ++i) {
                        const int row = i / 256, column = i % 256;
                        const int lane = row % 8 * 4 + column % 8 / 2;
                        visitor(product[i], sums[lane][column / 8 * 4 + row / 8 * 2 + column % 2]);
                      }
                    };
                    if (accumulate) visit([](float& whole, float& part) { whole = part; });
                    emulator::multiply(16, 256, 16, left.data(), right.data(), product.data());
                    visit([](float& whole, float& part) { part = whole; });
                  };
                  auto& last = block->last_wgmma(first_warp + warp);
                  last = block->start(act, last);
                  block->wgmma_groups(first_warp + warp).open.push_back(last);
                }
              });
}

}  // namespace spae::ptx
