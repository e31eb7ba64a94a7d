// Checks that the CPU operators share.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "common/rows.h"
#include "simd/simd.h"

namespace spae {

inline void check_rows(const torch::stable::Tensor& tensor, const char* name) {
  const bool fits = tensor.is_cpu() && tensor.dim() == 2 && tensor.is_contiguous();
  STD_TORCH_CHECK(fits && Rows::supports(tensor.scalar_type()), name,
                  " must be a contiguous 2-D CPU tensor of float32, float16 or bfloat16");
}

inline void check_width(const Rows& queries, const Rows& codes) {
  STD_TORCH_CHECK(queries.width() == codes.width(), "x must be [N, ", codes.width(), "] like the codes, got [",
                  queries.count(), ", ", queries.width(), "]");
}

inline void check_prepared(const torch::stable::Tensor& tensor, const char* name,
                           torch::headeronly::ScalarType dtype, int64_t numel) {
  const bool fits = tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == dtype;
  STD_TORCH_CHECK(fits && tensor.numel() == numel, name, " was not prepared for these codes: expected ", numel,
                  " contiguous CPU elements, got ", tensor.numel());
}

inline const simd::Kernels& find_kernels(const std::string& isa) {
  std::string names;
  for (const auto name : simd::available()) names.append(names.empty() ? "" : ", ").append(name);
  const simd::Kernels* kernels = simd::find(isa);
  STD_TORCH_CHECK(kernels != nullptr, "isa must be one of ", names, ", got '", isa, "'");
  return *kernels;
}

}  // namespace spae
