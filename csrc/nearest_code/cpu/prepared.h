// A prepared index as the operators get it: four tensors, checked.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "common/checks.h"
#include "nearest_code/cpu/nearest_code.h"

namespace spae {

// Of `count` codes of `width`; the tensors must outlive it.
inline PreparedCodes read_prepared(const torch::stable::Tensor& panels, const torch::stable::Tensor& panels8,
                                   const torch::stable::Tensor& bounds, const torch::stable::Tensor& frame,
                                   int64_t count, int64_t width) {
  using torch::headeronly::ScalarType;
  const int64_t tiles = num_tiles(count), padded = tiles * simd::kTile;
  check_prepared(panels, "panels", ScalarType::Float, padded * width);
  check_prepared(panels8, "panels8", ScalarType::Byte, padded * 4 * num_words(width));
  check_prepared(bounds, "bounds", ScalarType::Float, 5 * padded);
  check_prepared(frame, "frame", ScalarType::Double, width + 1);
  const auto* bounds_data = bounds.const_data_ptr<float>();
  const auto* frame_data = frame.const_data_ptr<double>();
  return {panels.const_data_ptr<float>(),
          panels8.const_data_ptr<uint8_t>(),
          bounds_data,
          bounds_data + padded,
          bounds_data + 2 * padded,
          bounds_data + 3 * padded,
          bounds_data + 4 * padded,
          frame_data,
          frame_data[width],
          tiles};
}

}  // namespace spae
