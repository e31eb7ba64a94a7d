// Rows of a contiguous [count, width] tensor of fp32, fp16 or bf16, read as fp32 (every such value is exact in fp32).
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

#include "common/strict_arithmetic.h"

namespace spae {

class Rows {
 public:
  explicit Rows(const torch::stable::Tensor& tensor)
      : data_(tensor.data_ptr()), dtype_(tensor.scalar_type()), count_(tensor.size(0)), width_(tensor.size(1)) {}

  static bool supports(torch::headeronly::ScalarType dtype) {
    using torch::headeronly::ScalarType;
    return dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
  }

  int64_t count() const { return count_; }
  int64_t width() const { return width_; }

  // Row `index`: in place for fp32, otherwise converted into `scratch` [width].
  const float* row(int64_t index, float* scratch) const {
    using torch::headeronly::ScalarType;
    const int64_t offset = index * width_;
    if (dtype_ == ScalarType::Float) return static_cast<const float*>(data_) + offset;
    if (dtype_ == ScalarType::Half) {
      widen(static_cast<const c10::Half*>(data_) + offset, scratch);
    } else {
      widen(static_cast<const c10::BFloat16*>(data_) + offset, scratch);
    }
    return scratch;
  }

  // Starts to fetch a row into cache.
  void prefetch(int64_t index) const {
    const int64_t size = width_ * (dtype_ == torch::headeronly::ScalarType::Float ? 4 : 2);
    const auto* from = static_cast<const char*>(data_) + index * size;
    for (int64_t line = 0; line < size; line += 64) __builtin_prefetch(from + line);
  }

 private:
  template <class T>
  void widen(const T* from, float* to) const {
    for (int64_t d = 0; d < width_; ++d) to[d] = static_cast<float>(from[d]);
  }

  const void* data_;
  torch::headeronly::ScalarType dtype_;
  int64_t count_;
  int64_t width_;
};

}  // namespace spae
