// The arithmetic of tensor cores as experiments found it (sources in spae_ops/lookup/tensor_cores.py): one step
// adds `sum_terms` products to the accumulator, all cut to multiples of 2^(x - sum_bits), x the largest exponent (of a
// product the sum of its factors'), and cuts the exact sum to fp32. A format's subnormals have the exponent of its
// smallest normal number, whatever their leading bit; zeros count for nothing.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "emulator.h"

namespace emulator {

inline constexpr int kLowestHalf = -14, kLowestFloat = -126;

inline int exponent(float value, int lowest) {
  if (value == 0) return -1000;
  const int own = std::ilogb(value);
  return own > lowest ? own : lowest;
}

inline float cut_to_float(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits &= ~((uint64_t{1} << 29) - 1);
  std::memcpy(&value, &bits, sizeof(bits));
  return static_cast<float>(value);
}

// d [rows][columns] += a [rows][depth] b [depth][columns], values of fp16.
inline void multiply(int rows, int columns, int depth, const float* a, const float* b, float* d) {
  const int terms = settings.sum_terms, bits = settings.sum_bits;
  std::vector<int> a_exponents(static_cast<size_t>(rows * depth)), b_exponents(static_cast<size_t>(depth * columns));
  for (size_t i = 0; i < a_exponents.size(); ++i) a_exponents[i] = exponent(a[i], kLowestHalf);
  for (size_t i = 0; i < b_exponents.size(); ++i) b_exponents[i] = exponent(b[i], kLowestHalf);
  std::vector<int> most(static_cast<size_t>(columns));
  std::vector<double> scale(most.size()), sum(most.size());
  for (int row = 0; row < rows; ++row) {
    float* target = d + row * columns;
    for (int start = 0; start < depth; start += terms) {
      const int stop = start + terms < depth ? start + terms : depth;
      for (int j = 0; j < columns; ++j) most[j] = exponent(target[j], kLowestFloat);
      for (int k = start; k < stop; ++k) {
        const int e = a_exponents[row * depth + k];
        const int* f = b_exponents.data() + k * columns;
        for (int j = 0; j < columns; ++j) most[j] = e + f[j] > most[j] ? e + f[j] : most[j];
      }
      for (int j = 0; j < columns; ++j) {
        const uint64_t power = static_cast<uint64_t>(1023 + bits - (most[j] < -900 ? 0 : most[j])) << 52;
        std::memcpy(&scale[j], &power, sizeof(power));
        sum[j] = std::trunc(target[j] * scale[j]);
      }
      for (int k = start; k < stop; ++k) {
        const double factor = a[row * depth + k];
        const float* g = b + k * columns;
        for (int j = 0; j < columns; ++j) {
          sum[j] += static_cast<double>(static_cast<int32_t>(factor * static_cast<double>(g[j]) * scale[j]));
        }
      }
      for (int j = 0; j < columns; ++j) target[j] = cut_to_float(sum[j] / scale[j]);
    }
  }
}

}  // namespace emulator
