// The threaded CPU code without Python or torch's libraries, to be run under a sanitizer (`make sanitize`): searches
// and cross-entropies by every instruction set, screen and several numbers of threads, against the definition and
// against one thread.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/rows.h"
#include "distance_cross_entropy/distance_cross_entropy.h"
#include "nearest_code/cpu/nearest_code.h"
#include "simd/simd.h"
#include "simd/tiles.h"

namespace {

using spae::Rows;
using torch::headeronly::ScalarType;

struct Matrix {
  int64_t rows;
  int64_t width;
  std::vector<float> values;

  Rows view() const {
    return Rows({const_cast<float*>(values.data()), ScalarType::Float, rows, width});
  }
  const float* row(int64_t i) const { return values.data() + i * width; }
};

Matrix gaussian(int64_t rows, int64_t width, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Matrix made{rows, width, std::vector<float>(static_cast<size_t>(rows * width))};
  for (float& value : made.values) value = normal(generator);
  return made;
}

// Owns what PreparedCodes points to.
class Prepared {
 public:
  explicit Prepared(const Matrix& codes)
      : tiles_(spae::num_tiles(codes.rows)), stride_(static_cast<size_t>(tiles_ * spae::simd::kTile)),
        width_(static_cast<size_t>(codes.width)), panels_(stride_ * width_),
        panels8_(stride_ * 4 * static_cast<size_t>(spae::num_words(codes.width))), bounds_(5 * stride_),
        frame_(width_ + 1) {
    if (!spae::choose_frame(codes.view(), frame_.data())) std::abort();
    float* b = bounds_.data();
    spae::pack_codes(codes.view(), frame_.data(),
                     {panels_.data(), panels8_.data(), b, b + stride_, b + 2 * stride_, b + 3 * stride_, b + 4 * stride_});
  }

  spae::PreparedCodes get() const {
    const float* b = bounds_.data();
    return {panels_.data(),  panels8_.data(), b,      b + stride_, b + 2 * stride_, b + 3 * stride_, b + 4 * stride_,
            frame_.data(), frame_[width_],  tiles_};
  }

 private:
  int64_t tiles_;
  size_t stride_, width_;
  std::vector<float> panels_;
  std::vector<uint8_t> panels8_;
  std::vector<float> bounds_;
  std::vector<double> frame_;
};

void fail(const std::string& what) {
  std::printf("WRONG: %s\n", what.c_str());
  std::exit(1);
}

std::vector<int64_t> search(const Matrix& x, const Matrix& codes, const Prepared& prepared, const bool* mask, int64_t k,
                            const spae::simd::Kernels& kernels, const spae::SearchOptions& options) {
  std::vector<int64_t> ids(static_cast<size_t>(x.rows * k)), rescored(static_cast<size_t>(x.rows));
  std::vector<float> sqdist(ids.size());
  spae::search_codes(x.view(), codes.view(), prepared.get(), mask, k, kernels, options,
                     {ids.data(), sqdist.data(), rescored.data()});
  return ids;
}

std::vector<int64_t> by_definition(const Matrix& x, const Matrix& codes, const bool* mask, int64_t k) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < x.rows; ++i) {
    std::vector<std::pair<double, int64_t>> all;
    for (int64_t j = 0; j < codes.rows; ++j)
      if (mask == nullptr || mask[j])
        all.emplace_back(spae::simd::portable()->sqdist(x.row(i), codes.row(j), x.width), j);
    std::partial_sort(all.begin(), all.begin() + k, all.end());
    for (int64_t j = 0; j < k; ++j) ids.push_back(all[static_cast<size_t>(j)].second);
  }
  return ids;
}

void check_searches(const std::string& name, const Matrix& x, const Matrix& codes, const bool* mask, int64_t k) {
  using spae::PruneChoice;
  using spae::ScreenChoice;
  const Prepared prepared(codes);
  const auto expected = by_definition(x, codes, mask, k);
  for (const auto isa : spae::simd::available()) {
    for (const auto& options : {spae::SearchOptions{ScreenChoice::kFp32, PruneChoice::kOff, true},
                                {ScreenChoice::kInt8, PruneChoice::kOff, true},
                                {ScreenChoice::kInt8, PruneChoice::kOn, true},
                                {ScreenChoice::kAuto, PruneChoice::kAuto, true}}) {
      for (const unsigned threads : {1u, 2u, 5u}) {
        torch::stable::num_threads = threads;
        if (search(x, codes, prepared, mask, k, *spae::simd::find(isa), options) != expected)
          fail(name + ", " + std::string(isa) + ", " + std::to_string(threads) + " threads");
      }
    }
  }
}

bool lost_tiles() {
  bool any = false;
  for (const auto* set : {spae::simd::amx_emulated(), spae::simd::amx_emulated_avx512()})
    any |= set != nullptr && *set->tiles->lost;
  return any;
}

// Unless their set is named, tiles are for large searches: in others no loss can be met.
void check_lost_tiles(const Matrix& x, const Matrix& codes) {
  const Prepared prepared(codes);
  spae::simd::lose_emulated_tiles(500, 0xff, -1, 0);
  torch::stable::num_threads = 2;
  search(x, codes, prepared, nullptr, 1, *spae::simd::amx_emulated(), {spae::ScreenChoice::kInt8});
  if (lost_tiles()) fail("a small search has taken tiles by itself");
  check_searches("registers lost", x, codes, nullptr, 2);
  if (!lost_tiles()) fail("nobody noticed lost registers");
}

void check_cross_entropy(const Matrix& x, const Matrix& codes, double temperature) {
  using spae::TruncateChoice;
  const Prepared prepared(codes);
  const spae::PreparedCodes packed = prepared.get();
  const Rows queries = x.view(), table = codes.view();
  std::vector<int64_t> target(static_cast<size_t>(x.rows));
  for (size_t i = 0; i < target.size(); ++i) target[i] = static_cast<int64_t>(i * 37) % codes.rows;
  const spae::CrossEntropyInput input{queries, table, packed, target.data(), temperature};
  for (const auto isa : spae::simd::available()) {
    for (const auto truncate : {TruncateChoice::kAuto, TruncateChoice::kOff, TruncateChoice::kOn}) {
      std::vector<float> first;
      for (const unsigned threads : {1u, 2u, 5u}) {
        torch::stable::num_threads = threads;
        std::vector<float> out(static_cast<size_t>(x.rows * (x.width + 1)));
        std::vector<int64_t> evaluated(static_cast<size_t>(x.rows));
        spae::distance_cross_entropy(input, *spae::simd::find(isa), {truncate, true},
                                     {out.data(), out.data() + x.rows, evaluated.data()});
        if (threads == 1) first = out;
        if (out != first) fail("cross-entropy, " + std::string(isa) + ", " + std::to_string(threads) + " threads");
      }
    }
  }
}

// Rows near codes among others, of so many codes that truncation is tried: some rows are truncated, some are not.
void check_truncation() {
  const Matrix codes = gaussian(4200, 64, 4);
  Matrix x = gaussian(140, 64, 5);
  for (int64_t i = 0; i < 110 * x.width; ++i)
    x.values[static_cast<size_t>(i)] = codes.values[static_cast<size_t>(i)] + 0.3f * x.values[static_cast<size_t>(i)];
  check_cross_entropy(x, codes, 1.0);
}

}  // namespace

int main() {
  const Matrix codes = gaussian(1500, 40, 1), x = gaussian(230, 40, 2);
  Matrix near = gaussian(230, 40, 3), duplicates = codes;
  for (int64_t i = 0; i < near.rows * near.width; ++i)
    near.values[static_cast<size_t>(i)] = codes.values[static_cast<size_t>(i)] + 0.1f * near.values[static_cast<size_t>(i)];
  near.values[7] = 1e30f;  // a row that no screen takes
  for (int64_t i = 0; i < duplicates.rows; ++i)
    std::copy(codes.row(i % 3), codes.row(i % 3) + codes.width, duplicates.values.begin() + i * codes.width);
  std::vector<char> allowed(1500);
  for (size_t i = 0; i < allowed.size(); ++i) allowed[i] = i % 3 != 0;
  const auto* mask = reinterpret_cast<const bool*>(allowed.data());
  check_searches("gaussian", x, codes, nullptr, 1);
  check_searches("near", near, codes, nullptr, 3);
  check_searches("masked", near, codes, mask, 40);
  check_searches("duplicates", x, duplicates, nullptr, 1);
  check_lost_tiles(near, codes);
  for (const double temperature : {0.5, 50.0}) check_cross_entropy(near, codes, temperature);
  check_truncation();
  std::puts("all right");
  return 0;
}
