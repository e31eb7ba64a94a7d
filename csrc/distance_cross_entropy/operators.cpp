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
#include "nearest_code/cpu/prepared.h"

namespace spae {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

TruncateChoice parse_truncate(const std::string& name) {
  STD_TORCH_CHECK(name.empty() || name == "auto" || name == "on" || name == "off",
                  "truncate must be auto, on or off, got '", name, "'");
  return name == "on" ? TruncateChoice::kOn : name == "off" ? TruncateChoice::kOff : TruncateChoice::kAuto;
}

std::tuple<Tensor, Tensor, Tensor> loss_and_gradient(const Tensor& x, const Tensor& codes, const Tensor& panels,
                                                     const Tensor& panels8, const Tensor& bounds, const Tensor& frame,
                                                     const Tensor& target, double temperature, bool with_gradient,
                                                     const std::string& isa, const std::string& truncate) {
  check_rows(x, "x");
  check_rows(codes, "codes");
  const Rows queries(x), table(codes);
  check_width(queries, table);
  const int64_t count = queries.count(), width = table.width();
  const PreparedCodes prepared = read_prepared(panels, panels8, bounds, frame, table.count(), width);
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
  Tensor evaluated = torch::stable::empty({count}, ScalarType::Long);
  const DefaultFloatEnvironment environment;
  const CrossEntropyOutput out{loss.mutable_data_ptr<float>(),
                               with_gradient ? gradient.mutable_data_ptr<float>() : nullptr,
                               evaluated.mutable_data_ptr<int64_t>()};
  const CrossEntropyOptions options{parse_truncate(truncate), !simd::is_automatic(isa)};
  distance_cross_entropy({queries, table, prepared, ids, temperature}, kernels, options, out);
  return {loss, gradient, evaluated};
}

}  // namespace
}  // namespace spae

STABLE_TORCH_LIBRARY_IMPL(spae_ops, CPU, library) {
  library.impl("distance_cross_entropy_cpu", TORCH_BOX(&spae::loss_and_gradient));
}
