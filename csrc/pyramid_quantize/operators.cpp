// The gathers of pyramid quantization on CPUs: the next queries and the features of positions whose codes are known,
// straight from the codes, so that no running sums are kept. spae_ops/quantize/rules.py defines the values; all
// in float64, rounded once, and bit for bit the same.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <vector>

#include "common/checks.h"
#include "common/parallel.h"

namespace spae {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Places worked on at once: a cache line of floats, for the side on which they are neighbours.
constexpr int64_t kPlaces = 16;

void check_ids(const Tensor& tensor, const char* name, int64_t dim) {
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Long && tensor.is_contiguous() &&
                      tensor.dim() == dim,
                  name, " must be a contiguous ", dim, "-D CPU int64 tensor");
}

// The codes that each of a number of places adds up: chains [R, J] holds tokens in order, then -1; ids [B, n] their codes.
class Chains {
 public:
  Chains(const Tensor& ids, const Tensor& chains, const Tensor& codes) : codes_(codes) {
    check_ids(ids, "ids", 2);
    check_ids(chains, "chains", 2);
    tokens_ = ids.size(1);
    places_ = chains.size(0);
    longest_ = chains.size(1);
    ids_ = ids.const_data_ptr<int64_t>();
    chains_ = chains.const_data_ptr<int64_t>();
    const int64_t entries = chains.numel();
    STD_TORCH_CHECK(std::all_of(chains_, chains_ + entries, [&](int64_t t) { return t >= -1 && t < tokens_; }),
                    "chains must hold tokens in [0, ", tokens_, ") or -1");
    bool known = true;
    for (int64_t b = 0; b < ids.size(0); ++b)
      for (int64_t i = 0; i < entries; ++i) known &= chains_[i] < 0 || is_code(ids_[b * tokens_ + chains_[i]]);
    STD_TORCH_CHECK(known, "ids must hold codes in [0, ", codes_.count(), ")");
  }

  int64_t width() const { return codes_.width(); }

  // Writes a place's sum to `sums` [D]; returns how many codes there are. `scratch` [D] is for codes in half precision.
  int64_t add(int64_t image, int64_t place, double* sums, float* scratch) const {
    std::fill(sums, sums + width(), 0.0);
    for (int64_t i = 0; i < longest_ && (place + 1) < places_ && chains_[(place + 1) * longest_ + i] >= 0; ++i)
      codes_.prefetch(ids_[image * tokens_ + chains_[(place + 1) * longest_ + i]]);
    int64_t count = 0;
    for (; count < longest_ && chains_[place * longest_ + count] >= 0; ++count) {
      const float* code = codes_.row(ids_[image * tokens_ + chains_[place * longest_ + count]], scratch);
      for (int64_t d = 0; d < width(); ++d) sums[d] += code[d];
    }
    return count;
  }

 private:
  bool is_code(int64_t id) const { return id >= 0 && id < codes_.count(); }

  const Rows codes_;
  const int64_t* ids_ = nullptr;
  const int64_t* chains_ = nullptr;
  int64_t tokens_ = 0;
  int64_t places_ = 0;
  int64_t longest_ = 0;
};

// run(image, begin, end) over all images and places, kPlaces of one image at a time at the most.
template <class F>
void for_each_places(int64_t images, int64_t places, const F& run) {
  const int64_t pieces = (places + kPlaces - 1) / kPlaces;
  for_each_range(images * pieces, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      run(i / pieces, i % pieces * kPlaces, std::min(places, (i % pieces + 1) * kPlaces));
  });
}

// Latents [B, D, P] with whatever strides they have.
template <class T>
void gather_queries(const Tensor& z, const Chains& chains, const int64_t* positions, int64_t places, bool average,
                    float* out) {
  const int64_t width = z.size(1), image_stride = z.stride(0), stride = z.stride(1), place_stride = z.stride(2);
  const auto* latents = static_cast<const T*>(z.data_ptr());
  for_each_places(z.size(0), places, [&](int64_t image, int64_t begin, int64_t end) {
    float* rows = out + (image * places + begin) * width;
    for (int64_t d = 0; d < width; ++d) {
      const T* from = latents + image * image_stride + d * stride;
      for (int64_t i = begin; i < end; ++i)
        rows[(i - begin) * width + d] = static_cast<float>(from[positions[i] * place_stride]);
    }
    std::vector<double> sums(static_cast<size_t>(width));
    std::vector<float> scratch(static_cast<size_t>(width));
    for (int64_t i = begin; i < end; ++i, rows += width) {
      const int64_t count = chains.add(image, i, sums.data(), scratch.data());
      const double scale = average ? static_cast<double>(count + 1) : 1.0;
      for (int64_t d = 0; d < width; ++d) rows[d] = static_cast<float>(scale * rows[d] - sums[static_cast<size_t>(d)]);
    }
  });
}

Tensor queries(const Tensor& z, const Tensor& ids, const Tensor& codes, const Tensor& positions, const Tensor& chains,
               bool average) {
  check_rows(codes, "codes");
  check_ids(positions, "positions", 1);
  const Chains sums(ids, chains, codes);
  const int64_t places = positions.numel();
  STD_TORCH_CHECK(z.is_cpu() && z.dim() == 3 && Rows::supports(z.scalar_type()) && z.size(0) == ids.size(0) &&
                      z.size(1) == sums.width(),
                  "z must be a CPU tensor [B, ", sums.width(), ", P] of float32, float16 or bfloat16, with ids [B, n]");
  const auto* at = positions.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(std::all_of(at, at + places, [&](int64_t p) { return p >= 0 && p < z.size(2); }),
                  "positions must lie in [0, ", z.size(2), ")");
  STD_TORCH_CHECK(chains.size(0) == places, "chains must be [", places, ", J] like the positions");
  Tensor out = torch::stable::empty({z.size(0), places, sums.width()}, ScalarType::Float);
  auto* data = out.mutable_data_ptr<float>();
  if (z.scalar_type() == ScalarType::Float) {
    gather_queries<float>(z, sums, at, places, average, data);
  } else if (z.scalar_type() == ScalarType::Half) {
    gather_queries<c10::Half>(z, sums, at, places, average, data);
  } else {
    gather_queries<c10::BFloat16>(z, sums, at, places, average, data);
  }
  return out;
}

// [B, D, R]: channels first, as latents are; a place without codes is zero.
Tensor features(const Tensor& ids, const Tensor& codes, const Tensor& chains, bool average) {
  check_rows(codes, "codes");
  const Chains chosen(ids, chains, codes);
  const int64_t images = ids.size(0), places = chains.size(0), width = chosen.width();
  Tensor out = torch::stable::empty({images, width, places}, ScalarType::Float);
  auto* data = out.mutable_data_ptr<float>();
  for_each_places(images, places, [&](int64_t image, int64_t begin, int64_t end) {
    std::vector<double> sums(static_cast<size_t>(width));
    std::vector<float> scratch(static_cast<size_t>(width)), rows(static_cast<size_t>((end - begin) * width));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t count = chosen.add(image, i, sums.data(), scratch.data());
      const double divisor = average && count > 1 ? static_cast<double>(count) : 1.0;
      float* row = rows.data() + (i - begin) * width;
      for (int64_t d = 0; d < width; ++d) row[d] = static_cast<float>(sums[static_cast<size_t>(d)] / divisor);
    }
    for (int64_t d = 0; d < width; ++d)
      for (int64_t i = begin; i < end; ++i)
        data[(image * width + d) * places + i] = rows[static_cast<size_t>((i - begin) * width + d)];
  });
  return out;
}

}  // namespace
}  // namespace spae

STABLE_TORCH_LIBRARY_IMPL(spae_ops, CPU, library) {
  library.impl("pyramid_queries_cpu", TORCH_BOX(&spae::queries));
  library.impl("pyramid_features_cpu", TORCH_BOX(&spae::features));
}
