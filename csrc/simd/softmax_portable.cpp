#include "simd/softmax.h"

#include <cstring>
#include <string_view>

#define SPAE_TARGET

namespace spae::softmax {
namespace {

// Four floats in whatever the baseline has.
typedef float Vec __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;
// 8, 8 and 12 accumulators of a baseline's 16 registers.
constexpr int kGroup[] = {0, 8, 4, 4};

inline Vec load(const float* from) {
  Vec to;
  std::memcpy(&to, from, sizeof to);
  return to;
}
inline void store(float* to, Vec x) { std::memcpy(to, &x, sizeof x); }
inline Vec broadcast(float x) { return Vec{x, x, x, x}; }
inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
inline Vec minimum(Vec a, Vec b) { return a < b ? a : b; }
inline Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
inline bool any_reaches(Vec a, Vec b) {
  const Integers reaches = a >= b;
  return (reaches[0] | reaches[1] | reaches[2] | reaches[3]) != 0;
}
inline Vec to_integer(Vec x) {
  // Adding 1.5 * 2^23 leaves no bits below the point. (-inf stays; zero_below sorts it out.)
  const Vec shift = broadcast(0x1.8p23f);
  return (x + shift) - shift;
}
inline Vec times_power(Vec x, Vec n) {
  const Integers exponent = __builtin_convertvector(maximum(n, broadcast(-126.0f)), Integers) << 23;
  Integers bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits += exponent;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline Vec zero_below(Vec value, Vec x, Vec bound) { return x >= bound ? value : broadcast(0.0f); }

#include "simd/softmax_kernels.h"

}  // namespace

const Kernels* portable() { return &kKernels; }

const Kernels& of(const simd::Kernels& set) {
  const std::string_view name = set.name;
  if (name == "portable" || name == "amx-emulated") return *portable();
  return name.starts_with("avx2") || name == "avxvnni" ? *avx2() : *avx512();
}

}  // namespace spae::softmax
