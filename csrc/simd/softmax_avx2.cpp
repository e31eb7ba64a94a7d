#include "simd/softmax.h"

#if SPAE_X86

#include <immintrin.h>

#define SPAE_TARGET __attribute__((target("avx2,fma")))

namespace spae::softmax {
namespace {

using Vec = __m256;
constexpr int64_t kLanes = 8;
// 8, 8 and 12 accumulators of 16 registers.
constexpr int kGroup[] = {0, 8, 4, 4};

SPAE_TARGET inline Vec load(const float* from) { return _mm256_loadu_ps(from); }
SPAE_TARGET inline void store(float* to, Vec x) { _mm256_storeu_ps(to, x); }
SPAE_TARGET inline Vec broadcast(float x) { return _mm256_set1_ps(x); }
SPAE_TARGET inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }
SPAE_TARGET inline Vec minimum(Vec a, Vec b) { return _mm256_min_ps(a, b); }
SPAE_TARGET inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
SPAE_TARGET inline bool any_reaches(Vec a, Vec b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)) != 0;
}
SPAE_TARGET inline Vec to_integer(Vec x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SPAE_TARGET inline Vec times_power(Vec x, Vec n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
}
SPAE_TARGET inline Vec zero_below(Vec value, Vec x, Vec bound) {
  return _mm256_and_ps(value, _mm256_cmp_ps(x, bound, _CMP_GE_OQ));
}

#include "simd/softmax_kernels.h"

}  // namespace

const Kernels* avx2() { return &kKernels; }

}  // namespace spae::softmax

#else

namespace spae::softmax {
const Kernels* avx2() { return nullptr; }
}  // namespace spae::softmax

#endif
