#include "simd.h"

#if SPAE_X86

#include <immintrin.h>

#define SPAE_AVX2 __attribute__((target("avx2,fma")))

namespace spae::simd {
namespace {

// 6 rows x 16 codes, twice: 12 accumulators, 2 registers of codes, one broadcast query.
template <int R>
SPAE_AVX2 uint32_t screen(const Tile& tile) {
  const int64_t width = tile.width;
  const float* queries = tile.queries;
  const char* prefetch = tile.prefetch;
  int64_t prefetch_step = tile.prefetch_step;
  uint32_t hits = 0;
  for (int half = 0; half < 2; ++half) {
    const float* codes = tile.panels + half * width * kPanel;
    __m256 sums[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
    for (int64_t d = 0; d < width; ++d) {
      _mm_prefetch(prefetch, _MM_HINT_T1);
      prefetch += prefetch_step;
      const __m256 c0 = _mm256_loadu_ps(codes + d * kPanel);
      const __m256 c1 = _mm256_loadu_ps(codes + d * kPanel + 8);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m256 q = _mm256_broadcast_ss(queries + d * R + r);
        sums[r][0] = _mm256_fmadd_ps(q, c0, sums[r][0]);
        sums[r][1] = _mm256_fmadd_ps(q, c1, sums[r][1]);
      }
    }
    prefetch_step = 0;
    const float* norms = tile.norms + half * kPanel;
    const float* bias = tile.bias + half * kPanel;
    const __m256 norms0 = _mm256_loadu_ps(norms), norms1 = _mm256_loadu_ps(norms + 8);
    const __m256 bias0 = _mm256_loadu_ps(bias), bias1 = _mm256_loadu_ps(bias + 8);
    float* scores = tile.scores + half * kPanel;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m256 slope = _mm256_broadcast_ss(tile.slopes + r);
      const __m256 threshold = _mm256_broadcast_ss(tile.thresholds + r);
      const __m256 v0 = _mm256_add_ps(_mm256_fmadd_ps(slope, norms0, sums[r][0]), bias0);
      const __m256 v1 = _mm256_add_ps(_mm256_fmadd_ps(slope, norms1, sums[r][1]), bias1);
      // Stored whether or not this half hits: the other half may.
      _mm256_storeu_ps(scores + r * kTile, v0);
      _mm256_storeu_ps(scores + r * kTile + 8, v1);
      const __m256 hit =
          _mm256_or_ps(_mm256_cmp_ps(v0, threshold, _CMP_GE_OQ), _mm256_cmp_ps(v1, threshold, _CMP_GE_OQ));
      hits |= static_cast<uint32_t>(_mm256_movemask_ps(hit) != 0) << r;
    }
  }
  return hits;
}

// Four lanes of the definition: acc += hi*hi; acc += (2*hi)*lo; acc += lo*lo.
SPAE_AVX2 inline __m256d add_squares(__m128 q, __m128 c, __m256d acc) {
  const __m256d t = _mm256_sub_pd(_mm256_cvtps_pd(q), _mm256_cvtps_pd(c));
  const __m256i half = _mm256_set1_epi64x(int64_t{1} << 26);
  const __m256i keep = _mm256_set1_epi64x(~((int64_t{1} << 27) - 1));
  const __m256d hi = _mm256_castsi256_pd(
      _mm256_and_si256(_mm256_add_epi64(_mm256_castpd_si256(t), half), keep));
  const __m256d lo = _mm256_sub_pd(t, hi);
  acc = _mm256_fmadd_pd(hi, hi, acc);
  acc = _mm256_fmadd_pd(_mm256_add_pd(hi, hi), lo, acc);
  return _mm256_fmadd_pd(lo, lo, acc);
}

SPAE_AVX2 double sqdist(const float* q, const float* c, int64_t width) {
  __m256d acc[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) acc[i] = _mm256_setzero_pd();
  int64_t d = 0;
  for (; d + 32 <= width; d += 32) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      acc[i] = add_squares(_mm_loadu_ps(q + d + 4 * i), _mm_loadu_ps(c + d + 4 * i), acc[i]);
  }
  if (d < width) {
    alignas(32) float tail_q[32] = {}, tail_c[32] = {};
    for (int64_t j = 0; d + j < width; ++j) tail_q[j] = q[d + j], tail_c[j] = c[d + j];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      acc[i] = add_squares(_mm_load_ps(tail_q + 4 * i), _mm_load_ps(tail_c + 4 * i), acc[i]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) acc[i] = _mm256_add_pd(acc[i], acc[i + 4]);
  const __m256d w4 = _mm256_add_pd(_mm256_add_pd(acc[0], acc[2]), _mm256_add_pd(acc[1], acc[3]));
  const __m128d w2 = _mm_add_pd(_mm256_castpd256_pd128(w4), _mm256_extractf128_pd(w4, 1));
  return _mm_cvtsd_f64(_mm_add_sd(w2, _mm_unpackhi_pd(w2, w2)));
}

constexpr Kernels kAvx2 = {
    "avx2",
    6,
    {nullptr, screen<1>, screen<2>, screen<3>, screen<4>, screen<5>, screen<6>},
    sqdist};

}  // namespace

const Kernels* avx2() {
  static const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return runs ? &kAvx2 : nullptr;
}

}  // namespace spae::simd

#else

namespace spae::simd {
const Kernels* avx2() { return nullptr; }
}  // namespace spae::simd

#endif
