// As much of a tensor as csrc/common/rows.h reads.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

namespace torch::stable {

class Tensor {
 public:
  Tensor(void* data, torch::headeronly::ScalarType dtype, int64_t rows, int64_t width)
      : data_(data), dtype_(dtype), sizes_{rows, width} {}

  void* data_ptr() const { return data_; }
  torch::headeronly::ScalarType scalar_type() const { return dtype_; }
  int64_t size(int64_t dim) const { return sizes_[dim]; }

 private:
  void* data_;
  torch::headeronly::ScalarType dtype_;
  int64_t sizes_[2];
};

}  // namespace torch::stable
