#include "simd/softmax.h"

#if SPAE_X86

#include <immintrin.h>

#define SPAE_TARGET __attribute__((target("avx512f,avx2,fma")))

namespace spae::softmax {
namespace {

using Vec = __m512;
constexpr int64_t kLanes = 16;
// 24, 16 and 16 accumulators of 32 registers.
constexpr int kGroup[] = {0, 16, 8, 8};

SPAE_TARGET inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
SPAE_TARGET inline void store(float* to, Vec x) { _mm512_storeu_ps(to, x); }
SPAE_TARGET inline Vec broadcast(float x) { return _mm512_set1_ps(x); }
SPAE_TARGET inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
SPAE_TARGET inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
SPAE_TARGET inline bool any_reaches(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ) != 0; }

SPAE_TARGET inline Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a, b); }
SPAE_TARGET inline Vec to_integer(Vec x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SPAE_TARGET inline Vec times_power(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }
SPAE_TARGET inline Vec zero_below(Vec value, Vec x, Vec bound) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ), value);
}

#include "simd/softmax_kernels.h"

}  // namespace

const Kernels* avx512() { return &kKernels; }

}  // namespace spae::softmax

#else

namespace spae::softmax {
const Kernels* avx512() { return nullptr; }
}  // namespace spae::softmax

#endif
