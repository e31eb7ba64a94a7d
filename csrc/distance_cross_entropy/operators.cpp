// The CPU operator: checks, tensors in and out. The method is in distance_cross_entropy.h.
#include "distance_cross_entropy/distance_cross_entropy.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "common/checks.h"
#include "common/parallel.h"

namespace spae {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> loss_and_gradient(const Tensor& x, const Tensor& codes, const Tensor& panels,
                                             const Tensor& bounds, const Tensor& frame, const Tensor& target,
                                             double temperature, bool with_gradient, const std::string& isa) {
  check_rows(x, "x");
  check_rows(codes, "codes");
  const Rows queries(x), table(codes);
  check_width(queries, table);
  const int64_t count = queries.count(), width = table.width();
  const int64_t padded = num_tiles(table.count()) * simd::kTile;
  check_prepared(panels, "panels", ScalarType::Float, padded * width);
  check_prepared(bounds, "bounds", ScalarType::Float, 5 * padded);
  check_prepared(frame, "frame", ScalarType::Double, width + 1);
  STD_TORCH_CHECK(target.is_cpu() && target.scalar_type() == ScalarType::Long && target.is_contiguous() &&
                      target.dim() == 1 && target.numel() == count,
                  "target must be a contiguous CPU int64 tensor [", count, "]");
  const auto* ids = target.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(std::all_of(ids, ids + count, [&](int64_t id) { return id >= 0 && id < table.count(); }),
                  "target must hold ids in [0, ", table.count(), ")");
  STD_TORCH_CHECK(temperature > 0 && std::isfinite(temperature), "temperature must be positive and finite, got ",
                  temperature);
  const simd::Kernels& kernels = find_kernels(isa);
  Tensor loss = torch::stable::empty({count}, ScalarType::Float);
  Tensor gradient = torch::stable::empty({with_gradient ? count : 0, width}, ScalarType::Float);
  const auto* bounds_data = bounds.const_data_ptr<float>();
  const auto* frame_data = frame.const_data_ptr<double>();
  const DefaultFloatEnvironment environment;
  const CrossEntropyInput input{queries,     table,                 ids,        temperature,       panels.const_data_ptr<float>(),
                                bounds_data, bounds_data + padded, frame_data, frame_data[width]};
  distance_cross_entropy(input, kernels, loss.mutable_data_ptr<float>(),
                         with_gradient ? gradient.mutable_data_ptr<float>() : nullptr);
  return {loss, gradient};
}

}  // namespace
}  // namespace spae

STABLE_TORCH_LIBRARY_IMPL(spae_ops, CPU, library) {
  library.impl("distance_cross_entropy_cpu", TORCH_BOX(&spae::loss_and_gradient));
}
