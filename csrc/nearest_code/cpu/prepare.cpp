#include <algorithm>
#include <atomic>
#include <vector>

#include "common/parallel.h"
#include "nearest_code/cpu/nearest_code.h"

namespace spae {
namespace {

constexpr int64_t kSample = 255;
constexpr int64_t kRowsPerTask = 512;
constexpr int kCodeLevels = 127;

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

// T of the int8 bound: signs from a fixed sequence, then Walsh-Hadamard transforms of blocks of 4^j elements, each as
// large as fits, scaled by 2^-j.
void rotate(const float* x, int64_t width, double* out) {
  uint32_t random = 1;
  for (int64_t d = 0; d < width; ++d) {
    random = random * 1664525u + 1013904223u;
    out[d] = random >> 31 != 0 ? -x[d] : x[d];
  }
  for (int64_t first = 0, size = 1; first < width; first += size) {
    double scale = 1;
    for (size = 1; 4 * size <= width - first; size *= 4) scale *= 0.5;
    for (int64_t half = 1; half < size; half *= 2) {
      for (int64_t pair = first; pair < first + size; pair += 2 * half) {
        for (int64_t d = pair; d < pair + half; ++d) {
          const double a = out[d], b = out[d + half];
          out[d] = a + b;
          out[d + half] = a - b;
        }
      }
    }
    for (int64_t d = first; d < first + size; ++d) out[d] *= scale;
  }
}

}  // namespace

double frame_row(const float* x, const double* shift, double scale, int64_t width, float* out, double* squares) {
  double sum = 0, residual_sum = 0;
  for (int64_t d = 0; d < width; ++d) {
    const double t = (static_cast<double>(x[d]) - shift[d]) * scale;
    const auto rounded = static_cast<float>(t);
    const double residual = t - static_cast<double>(rounded);
    sum += t * t;
    residual_sum += residual * residual;
    out[d] = rounded;
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

double quantize(const float* framed, int64_t width, int levels, double* rotated, int8_t* integers, float* step) {
  rotate(framed, width, rotated);
  double most = 0;
  for (int64_t d = 0; d < width; ++d) most = std::fmax(most, std::fabs(rotated[d]));
  *step = round_up(std::fmax(most / levels, kMinStep));
  const double wide_step = *step, inverse = 1.0 / wide_step;
  double squares = 0;
  for (int64_t d = 0; d < width; ++d) {
    const double x = rotated[d];
    // Halves away from zero; at most `levels`, as most * inverse exceeds it by a few roundings at the most.
    const double size = std::fabs(x) * inverse + 0.5;
    const auto integer = static_cast<int>(x < 0 ? -size : size);
    integers[d] = static_cast<int8_t>(integer);
    const double residual = x - wide_step * integer;
    squares += residual * residual;
  }
  return std::sqrt(squares) * (1.0 + 0x1p-20);
}

float tail_bound(const double* rotated, const int8_t* integers, float step, int64_t width, double norm) {
  const int64_t prefix = std::min(width, num_prefix_words(width) * 4);
  double residual = 0, tail = 0, prefix_squares = 0, integer_squares = 0;
  for (int64_t d = 0; d < prefix; ++d) {
    const double rounded = static_cast<double>(step) * integers[d], error = rotated[d] - rounded;
    prefix_squares += rotated[d] * rotated[d];
    integer_squares += rounded * rounded;
    residual += error * error;
  }
  for (int64_t d = prefix; d < width; ++d) tail += rotated[d] * rotated[d];
  constexpr double kRatio2 = kTailRatio * kTailRatio;
  const double measured = std::sqrt(tail + residual / kRatio2 + kRatio2 * std::fmax(prefix_squares, integer_squares));
  return round_up(std::fmax(measured * (1.0 + 0x1p-20), kTailRatio * norm) * (1.0 + 0x1p-11));
}

void pack_codes(const Rows& codes, const double* frame, const PackedCodes& out) {
  const int64_t width = codes.width(), words = num_words(width);
  const double scale = frame[width];
  for_each_range(num_tiles(codes.count()) * 2, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(width)), framed(static_cast<size_t>(width));
    std::vector<double> rotated(static_cast<size_t>(width));
    std::vector<int8_t> integers(static_cast<size_t>(words * 4));
    for (int64_t p = begin; p < end; ++p) {
      float* panel = out.panels + p * width * simd::kPanel;
      uint8_t* panel8 = out.panels8 + p * words * 4 * simd::kPanel;
      for (int64_t j = 0; j < simd::kPanel; ++j) {
        const int64_t k = p * simd::kPanel + j;
        if (k < codes.count()) {
          double squares = 0;
          const float* row = codes.row(k, scratch.data());
          double norm = frame_row(row, frame, scale, width, framed.data(), &squares);
          const double residual = 2 * kUnit * norm + quantize(framed.data(), width, kCodeLevels, rotated.data(),
                                                              integers.data(), out.steps + k);
          double squares8 = 0;
          for (int64_t d = 0; d < width; ++d) squares8 += static_cast<double>(integers[d] * integers[d]);
          norm = std::fmax(norm, std::sqrt(squares8) * out.steps[k] * (1.0 + 0x1p-20));
          out.norms[k] = round_up(norm);
          out.residuals[k] = round_up(residual);
          norm = out.norms[k];
          out.tails[k] = tail_bound(rotated.data(), integers.data(), out.steps[k], width, norm);
          out.bias[k] = static_cast<float>(-0.5 * squares + kCodeSlope * norm * norm);
        } else {
          std::fill(framed.begin(), framed.end(), 0.0f);
          std::fill(integers.begin(), integers.end(), int8_t{0});
          out.bias[k] = -std::numeric_limits<float>::infinity();
          out.norms[k] = out.residuals[k] = out.steps[k] = out.tails[k] = 0.0f;
        }
        for (int64_t d = 0; d < width; ++d) panel[d * simd::kPanel + j] = framed[static_cast<size_t>(d)];
        for (int64_t d = 0; d < words * 4; ++d)
          panel8[(d / 4 * simd::kPanel + j) * 4 + d % 4] = static_cast<uint8_t>(128 + integers[static_cast<size_t>(d)]);
      }
    }
  });
}

}  // namespace spae
