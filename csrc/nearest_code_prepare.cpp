#include <algorithm>
#include <atomic>
#include <vector>

#include "nearest_code.h"
#include "parallel.h"

namespace spae {
namespace {

constexpr int64_t kSample = 255;
constexpr int64_t kRowsPerTask = 512;

double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The coordinate-wise median of a sample of rows, where that at least halves the typical norm; zero otherwise. A
// mean would follow the few largest rows of a table whose norms span decades. Any shift is correct: it only has to
// keep the norms, hence the bound, small beside the distances.
void choose_shift(const Rows& codes, double* shift) {
  const int64_t width = codes.width();
  const int64_t count = std::min(codes.count(), kSample);
  std::vector<float> sample(static_cast<size_t>(count * width));
  std::vector<float> scratch(static_cast<size_t>(width));
  for (int64_t i = 0; i < count; ++i) {
    const float* row = codes.row(i * codes.count() / count, scratch.data());
    std::copy(row, row + width, sample.data() + i * width);
  }
  for_each_range(width, 32, [&](int64_t begin, int64_t end) {
    std::vector<double> column(static_cast<size_t>(count));
    for (int64_t d = begin; d < end; ++d) {
      for (int64_t i = 0; i < count; ++i) column[static_cast<size_t>(i)] = sample[static_cast<size_t>(i * width + d)];
      shift[d] = median(column);
    }
  });
  std::vector<double> plain(static_cast<size_t>(count)), shifted(static_cast<size_t>(count));
  for_each_range(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double squares = 0, shifted_squares = 0;
      for (int64_t d = 0; d < width; ++d) {
        const double x = sample[static_cast<size_t>(i * width + d)];
        squares += x * x;
        shifted_squares += (x - shift[d]) * (x - shift[d]);
      }
      plain[static_cast<size_t>(i)] = squares;
      shifted[static_cast<size_t>(i)] = shifted_squares;
    }
  });
  if (!(median(shifted) < 0.25 * median(plain))) std::fill(shift, shift + width, 0.0);
}

}  // namespace

double frame_row(const float* x, const double* shift, double scale, int64_t width, float* out, int64_t stride,
                 double* squares) {
  double sum = 0, residual_sum = 0;
  for (int64_t d = 0; d < width; ++d) {
    const double t = (static_cast<double>(x[d]) - shift[d]) * scale;
    const auto rounded = static_cast<float>(t);
    const double residual = t - static_cast<double>(rounded);
    sum += t * t;
    residual_sum += residual * residual;
    out[d * stride] = rounded;
  }
  *squares = sum;
  return norm_bound(sum, residual_sum);
}

bool choose_frame(const Rows& codes, double* frame) {
  const int64_t width = codes.width();
  choose_shift(codes, frame);
  std::vector<double> largest(static_cast<size_t>((codes.count() + kRowsPerTask - 1) / kRowsPerTask));
  std::atomic<bool> finite{true};
  for_each_range(codes.count(), kRowsPerTask, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(width));
    double most = 0;
    bool all_finite = true;
    for (int64_t i = begin; i < end; ++i) {
      const float* row = codes.row(i, scratch.data());
      for (int64_t d = 0; d < width; ++d) {
        const double size = std::fabs(static_cast<double>(row[d]) - frame[d]);
        all_finite &= size <= std::numeric_limits<double>::max();
        most = size > most ? size : most;
      }
    }
    largest[static_cast<size_t>(begin / kRowsPerTask)] = most;
    if (!all_finite) finite = false;
  });
  const double most = *std::max_element(largest.begin(), largest.end());
  int exponent = 0;
  if (most > 0) std::frexp(most, &exponent);
  frame[width] = std::ldexp(1.0, -exponent);
  return finite;
}

void pack_codes(const Rows& codes, const double* frame, float* panels, float* bias, float* norms) {
  const int64_t width = codes.width();
  const double scale = frame[width];
  for_each_range(num_tiles(codes.count()) * 2, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(width));
    for (int64_t p = begin; p < end; ++p) {
      float* panel = panels + p * width * simd::kPanel;
      for (int64_t j = 0; j < simd::kPanel; ++j) {
        const int64_t k = p * simd::kPanel + j;
        if (k >= codes.count()) {
          for (int64_t d = 0; d < width; ++d) panel[d * simd::kPanel + j] = 0.0f;
          bias[k] = -std::numeric_limits<float>::infinity();
          norms[k] = 0.0f;
          continue;
        }
        double squares = 0;
        const float* row = codes.row(k, scratch.data());
        norms[k] = round_up(frame_row(row, frame, scale, width, panel + j, simd::kPanel, &squares));
        const double norm = norms[k];
        bias[k] = static_cast<float>(-0.5 * squares + kCodeSlope * norm * norm);
      }
    }
  });
}

}  // namespace spae
