// The CUDA operators: checks, tensors in and out. The kernels' interface is kernels.h.
#include "nearest_code/cuda/kernels.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <limits>
#include <optional>

// The tests' emulator registers the operators, and takes tensors, on the CPU.
#ifndef SPAE_CUDA_DEVICE
#define SPAE_CUDA_DEVICE CUDA
#endif

namespace spae::cuda {
namespace {

using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check(const Tensor& tensor, const char* name, ScalarType dtype, int64_t numel) {
  const bool fits = tensor.device().type() == DeviceType::SPAE_CUDA_DEVICE && tensor.is_contiguous();
  STD_TORCH_CHECK(fits && tensor.scalar_type() == dtype && tensor.numel() == numel, name,
                  " has the wrong device, dtype, layout or size: expected ", numel, " contiguous elements, got ",
                  tensor.numel());
}

template <class T>
T* pointer(const Tensor& tensor, const char* name, ScalarType dtype, int64_t numel) {
  check(tensor, name, dtype, numel);
  return static_cast<T*>(tensor.data_ptr());
}

float* floats(const Tensor& tensor, const char* name, int64_t numel) {
  return pointer<float>(tensor, name, ScalarType::Float, numel);
}

Matrix matrix(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 2, name, " must be [rows, D], got ", tensor.dim(), " dimensions");
  const auto dtype = tensor.scalar_type();
  check(tensor, name, dtype, tensor.numel());
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16, name,
                  " must be float32, float16 or bfloat16");
  const auto element = dtype == ScalarType::Float  ? Element::kFloat
                       : dtype == ScalarType::Half ? Element::kHalf
                                                   : Element::kBFloat16;
  return {tensor.data_ptr(), element, tensor.size(0), tensor.size(1)};
}

// Everything runs on the current stream of the device that `tensor` is on and that is current.
cudaStream_t stream_of(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_launch(cudaError_t error, const char* kernel) {
  STD_TORCH_CHECK(error == cudaSuccess, "nearest_code: ", kernel, ": ", cudaGetErrorString(error));
}

// measured [4 or 3, R]: norms, residuals, extra, and 1 / r if x are queries.
void frame_operator(const Tensor& x, const Tensor& frame, const Tensor& out, const Tensor& measured) {
  const Matrix rows = matrix(x, "x");
  const int64_t padded_rows = out.size(0), padded = out.size(1);
  STD_TORCH_CHECK(padded_rows >= rows.rows && padded >= rows.width, "out is smaller than x");
  float* data = floats(measured, "measured", measured.size(0) * padded_rows);
  const auto* position = pointer<double>(frame, "frame", ScalarType::Double, rows.width + 1);
  auto* half = pointer<uint16_t>(out, "out", ScalarType::Half, padded_rows * padded);
  float* inverse = measured.size(0) == 4 ? data + 3 * padded_rows : nullptr;
  const Frame arguments{rows, position,           half, padded_rows, padded,
                        data, data + padded_rows, data + 2 * padded_rows, inverse};
  check_launch(frame_rows(arguments, stream_of(x)), "frame");
}

void screen_operator(const Tensor& queries, const Tensor& table, const Tensor& inverse, const Tensor& bias,
                     const Tensor& scores, int64_t tiles_per_split, int64_t processors, bool sm90a) {
  const int64_t rows = queries.size(0), width = queries.size(1), codes = table.size(0), tiles = codes / kTile;
  STD_TORCH_CHECK(rows % kRowBlock == 0 && codes % kTile == 0 && width % kWidthStep == 0,
                  "queries and table must be padded, got ", rows, ", ", codes, " and ", width);
  STD_TORCH_CHECK(codes < std::numeric_limits<int32_t>::max() && rows < std::numeric_limits<int32_t>::max() &&
                      width < std::numeric_limits<int32_t>::max() && tiles_per_split >= 1 && processors >= 1,
                  "queries and table must have fewer than 2^31 rows, and tiles_per_split and processors be positive");
  float* first = floats(scores, "scores", 2 * tiles * rows);
  const Screen arguments{pointer<uint16_t>(queries, "queries", ScalarType::Half, rows * width),
                         pointer<uint16_t>(table, "table", ScalarType::Half, codes * width),
                         floats(inverse, "inverse", rows),
                         floats(bias, "bias", codes),
                         first,
                         first + tiles * rows,
                         rows,
                         static_cast<int>(tiles),
                         static_cast<int>(width),
                         static_cast<int>(tiles_per_split < tiles ? tiles_per_split : tiles),
                         static_cast<int>(processors)};
  check_launch(sm90a ? screen_sm90a(arguments, stream_of(queries)) : screen_sm80(arguments, stream_of(queries)),
               sm90a ? "screen_sm90a" : "screen_sm80");
}

// Queries and codes of one width; a row of every query in `bounded`.
void check_pair(const Matrix& x, const Matrix& codes, const Summary& bounded) {
  STD_TORCH_CHECK(x.width == codes.width, "x must be [N, ", codes.width, "] like the codes, got ", x.width);
  STD_TORCH_CHECK(x.rows <= bounded.rows && codes.rows <= int64_t{bounded.tiles} * kTile,
                  "scores are of other queries or codes");
}

// scores [2, T, R], bounds [3, T], measured [4, R]: norms, residuals, owns, 1 / r.
Summary summary(const Tensor& scores, const Tensor& bounds, const Tensor& measured) {
  const int64_t tiles = scores.size(1), rows = scores.size(2);
  const float* first = floats(scores, "scores", 2 * tiles * rows);
  const float* norms = floats(measured, "measured", 4 * rows);
  return {first,        first + tiles * rows, floats(bounds, "bounds", 3 * tiles), norms, norms + rows,
          norms + 2 * rows, rows, static_cast<int>(tiles)};
}

void certify_operator(const Tensor& x, const Tensor& codes, const Tensor& scores, const Tensor& bounds,
                      const Tensor& measured, const Tensor& threshold, const Tensor& ids, const Tensor& sqdist) {
  const Matrix queries = matrix(x, "x");
  const Certify arguments{queries,
                          matrix(codes, "codes"),
                          summary(scores, bounds, measured),
                          floats(threshold, "threshold", queries.rows),
                          pointer<int64_t>(ids, "ids", ScalarType::Long, queries.rows),
                          pointer<double>(sqdist, "sqdist", ScalarType::Double, queries.rows)};
  check_pair(arguments.x, arguments.codes, arguments.summary);
  check_launch(certify(arguments, stream_of(x)), "certify");
}

// ids and sqdist [N, ranges, k].
void resolve_operator(const Tensor& x, const Tensor& codes, const Tensor& scores, const Tensor& bounds,
                      const Tensor& measured, const Tensor& bias, const Tensor& threshold,
                      const std::optional<Tensor>& after, const std::optional<Tensor>& after_ids, const Tensor& ids,
                      const Tensor& sqdist, int64_t tiles_per_range) {
  const Matrix queries = matrix(x, "x");
  const Summary bounded = summary(scores, bounds, measured);
  const int64_t ranges = ids.size(1), k = ids.size(2);
  STD_TORCH_CHECK(after.has_value() == after_ids.has_value(), "after and after_ids must come together");
  STD_TORCH_CHECK(ranges * tiles_per_range >= bounded.tiles && ranges <= 65535, "ranges must cover the tiles");
  const Resolve arguments{
      queries,
      matrix(codes, "codes"),
      bounded,
      floats(bias, "bias", int64_t{bounded.tiles} * kTile),
      floats(threshold, "threshold", queries.rows),
      after ? pointer<double>(*after, "after", ScalarType::Double, queries.rows) : nullptr,
      after_ids ? pointer<int64_t>(*after_ids, "after_ids", ScalarType::Long, queries.rows) : nullptr,
      pointer<int64_t>(ids, "ids", ScalarType::Long, queries.rows * ranges * k),
      pointer<double>(sqdist, "sqdist", ScalarType::Double, queries.rows * ranges * k),
      static_cast<int>(tiles_per_range),
      static_cast<int>(ranges),
      static_cast<int>(k)};
  check_pair(arguments.x, arguments.codes, arguments.summary);
  check_launch(resolve(arguments, stream_of(x)), "resolve");
}

// partial_ids and partial [N, ranges, k] -> ids and sqdist [N, k].
void merge_operator(const Tensor& partial_ids, const Tensor& partial, const Tensor& threshold, const Tensor& ids,
                    const Tensor& sqdist) {
  const int64_t rows = ids.size(0), k = ids.size(1), size = partial.size(1) * k;
  const Merge arguments{pointer<int64_t>(partial_ids, "partial_ids", ScalarType::Long, rows * size),
                        pointer<double>(partial, "partial", ScalarType::Double, rows * size),
                        floats(threshold, "threshold", rows),
                        pointer<int64_t>(ids, "ids", ScalarType::Long, rows * k),
                        pointer<double>(sqdist, "sqdist", ScalarType::Double, rows * k),
                        rows,
                        static_cast<int>(size),
                        static_cast<int>(k)};
  check_launch(merge(arguments, stream_of(ids)), "merge");
}

}  // namespace
}  // namespace spae::cuda

STABLE_TORCH_LIBRARY_IMPL(spae_ops, SPAE_CUDA_DEVICE, library) {
  library.impl("nearest_code_cuda_frame", TORCH_BOX(&spae::cuda::frame_operator));
  library.impl("nearest_code_cuda_screen", TORCH_BOX(&spae::cuda::screen_operator));
  library.impl("nearest_code_cuda_certify", TORCH_BOX(&spae::cuda::certify_operator));
  library.impl("nearest_code_cuda_resolve", TORCH_BOX(&spae::cuda::resolve_operator));
  library.impl("nearest_code_cuda_merge", TORCH_BOX(&spae::cuda::merge_operator));
}
