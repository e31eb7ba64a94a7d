// The CPU operators: checks, tensors in and out. The method is in nearest_code.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <tuple>

#include "common/checks.h"
#include "common/parallel.h"
#include "nearest_code/cpu/prepared.h"

namespace spae {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

ScreenChoice parse_screen(const std::string& name) {
  STD_TORCH_CHECK(name.empty() || name == "auto" || name == "fp32" || name == "int8",
                  "screen must be auto, fp32 or int8, got '", name, "'");
  return name == "int8" ? ScreenChoice::kInt8 : name == "fp32" ? ScreenChoice::kFp32 : ScreenChoice::kAuto;
}

PruneChoice parse_prune(const std::string& name) {
  STD_TORCH_CHECK(name.empty() || name == "auto" || name == "on" || name == "off",
                  "prune must be auto, on or off, got '", name, "'");
  return name == "on" ? PruneChoice::kOn : name == "off" ? PruneChoice::kOff : PruneChoice::kAuto;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> prepare(const Tensor& codes) {
  check_rows(codes, "codes");
  const Rows rows(codes);
  STD_TORCH_CHECK(rows.count() >= 1 && rows.width() >= 1, "codes must be [K, D] with K >= 1 and D >= 1, got [",
                  rows.count(), ", ", rows.width(), "]");
  STD_TORCH_CHECK(rows.count() <= std::numeric_limits<int32_t>::max() - simd::kTile,
                  "codes must have fewer than 2^31 rows, got ", rows.count());
  const int64_t tiles = num_tiles(rows.count());
  Tensor panels = torch::stable::empty({tiles, 2, rows.width(), simd::kPanel}, ScalarType::Float);
  Tensor panels8 =
      torch::stable::empty({tiles, 2, num_words(rows.width()), simd::kPanel, 4}, ScalarType::Byte);
  Tensor bounds = torch::stable::empty({5 * tiles * simd::kTile}, ScalarType::Float);
  Tensor frame = torch::stable::empty({rows.width() + 1}, ScalarType::Double);
  const DefaultFloatEnvironment environment;
  auto* frame_data = frame.mutable_data_ptr<double>();
  auto* bounds_data = bounds.mutable_data_ptr<float>();
  STD_TORCH_CHECK(choose_frame(rows, frame_data), "codes must be finite");
  const int64_t stride = tiles * simd::kTile;
  pack_codes(rows, frame_data,
             {panels.mutable_data_ptr<float>(), panels8.mutable_data_ptr<uint8_t>(), bounds_data, bounds_data + stride,
              bounds_data + 2 * stride, bounds_data + 3 * stride, bounds_data + 4 * stride});
  return {panels, panels8, bounds, frame};
}

std::tuple<Tensor, Tensor, Tensor> search(const Tensor& x, const Tensor& codes, const Tensor& panels,
                                          const Tensor& panels8, const Tensor& bounds, const Tensor& frame,
                                          const std::optional<Tensor>& mask, int64_t k, const std::string& isa,
                                          const std::string& screen, const std::string& prune) {
  check_rows(x, "x");
  check_rows(codes, "codes");
  const Rows queries(x), table(codes);
  const int64_t count = table.count(), width = table.width();
  check_width(queries, table);
  const PreparedCodes prepared = read_prepared(panels, panels8, bounds, frame, count, width);
  int64_t allowed = count;
  const bool* allow = nullptr;
  if (mask.has_value()) {
    STD_TORCH_CHECK(mask->is_cpu() && mask->scalar_type() == ScalarType::Bool && mask->is_contiguous() &&
                        mask->dim() == 1 && mask->numel() == count,
                    "mask must be a contiguous CPU bool tensor [", count, "]");
    allow = mask->const_data_ptr<bool>();
    allowed = std::count(allow, allow + count, true);
  }
  STD_TORCH_CHECK(k >= 1 && k <= allowed, "k must be in [1, ", allowed, "] (the allowed codes), got ", k);
  const simd::Kernels& kernels = find_kernels(isa);

  Tensor ids = torch::stable::empty({queries.count(), k}, ScalarType::Long);
  Tensor sqdist = torch::stable::empty({queries.count(), k}, ScalarType::Float);
  Tensor rescored = torch::stable::empty({queries.count()}, ScalarType::Long);
  const SearchOutput out{ids.mutable_data_ptr<int64_t>(), sqdist.mutable_data_ptr<float>(),
                         rescored.mutable_data_ptr<int64_t>()};
  const SearchOptions options{parse_screen(screen), parse_prune(prune), !simd::is_automatic(isa)};
  search_codes(queries, table, prepared, allow, k, kernels, options, out);
  return {ids, sqdist, rescored};
}

}  // namespace
}  // namespace spae

STABLE_TORCH_LIBRARY_IMPL(spae_ops, CPU, library) {
  library.impl("nearest_code_cpu_prepare", TORCH_BOX(&spae::prepare));
  library.impl("nearest_code_cpu_search", TORCH_BOX(&spae::search));
}
