#include "simd/simd.h"

#if SPAE_X86

#include <immintrin.h>

#define SPAE_TARGET __attribute__((target("avx512f,avx2,fma")))

namespace spae::simd {
namespace {

// 12 rows x 32 codes: 24 accumulators, 2 registers of codes, one broadcast query.
template <int R>
SPAE_TARGET uint32_t screen(const Tile& tile) {
  const int64_t width = tile.width;
  const float* queries = tile.queries;
  const float* codes0 = tile.panels;
  const float* codes1 = tile.panels + width * kPanel;
  const char* prefetch = tile.prefetch;
  __m512 sums[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  for (int64_t d = 0; d < width; ++d) {
    _mm_prefetch(prefetch, _MM_HINT_T1);
    prefetch += tile.prefetch_step;
    const __m512 c0 = _mm512_loadu_ps(codes0 + d * kPanel);
    const __m512 c1 = _mm512_loadu_ps(codes1 + d * kPanel);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512 q = _mm512_set1_ps(queries[d * R + r]);
      sums[r][0] = _mm512_fmadd_ps(q, c0, sums[r][0]);
      sums[r][1] = _mm512_fmadd_ps(q, c1, sums[r][1]);
    }
  }
  const __m512 norms0 = _mm512_loadu_ps(tile.norms), norms1 = _mm512_loadu_ps(tile.norms + kPanel);
  const __m512 bias0 = _mm512_loadu_ps(tile.bias), bias1 = _mm512_loadu_ps(tile.bias + kPanel);
  uint32_t hits = 0;
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const __m512 slope = _mm512_set1_ps(tile.slopes[r]), threshold = _mm512_set1_ps(tile.thresholds[r]);
    const __m512 v0 = _mm512_add_ps(_mm512_fmadd_ps(slope, norms0, sums[r][0]), bias0);
    const __m512 v1 = _mm512_add_ps(_mm512_fmadd_ps(slope, norms1, sums[r][1]), bias1);
    const __mmask16 hit0 = _mm512_cmp_ps_mask(v0, threshold, _CMP_GE_OQ);
    const __mmask16 hit1 = _mm512_cmp_ps_mask(v1, threshold, _CMP_GE_OQ);
    if (__builtin_expect((hit0 | hit1) != 0, 0)) {
      hits |= 1u << r;
      _mm512_storeu_ps(tile.scores + r * kTile, v0);
      _mm512_storeu_ps(tile.scores + r * kTile + kPanel, v1);
    }
  }
  return hits;
}

// acc += the sum of four products, unsigned codes times signed queries, in each 32-bit lane (VNNI). As an instruction:
// from the intrinsic, GCC 12 copies accumulators to and fro.
SPAE_TARGET inline void add_products(__m512i& acc, __m512i codes, __m512i queries) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(queries));
}

#include "simd/largest_avx512.h"

// The same shape as `screen`, with four elements a step.
template <int R, bool kMaxima>
SPAE_TARGET uint32_t screen8(const Tile8& tile) {
  const int64_t words = tile.words;
  const int32_t* queries = tile.queries;
  const uint8_t* codes0 = tile.panels;
  const uint8_t* codes1 = tile.panels + tile.panel_words * 4 * kPanel;
  const char* prefetch = tile.prefetch;
  __m512i sums[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_set1_epi32(tile.rows[r].start);
  for (int64_t w = 0; w < words; ++w) {
    _mm_prefetch(prefetch, _MM_HINT_T1);
    prefetch += tile.prefetch_step;
    const __m512i c0 = _mm512_loadu_si512(codes0 + w * 4 * kPanel);
    const __m512i c1 = _mm512_loadu_si512(codes1 + w * 4 * kPanel);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512i q = _mm512_set1_epi32(queries[w * R + r]);
      add_products(sums[r][0], c0, q);
      add_products(sums[r][1], c1, q);
    }
  }
  const __m512 norms0 = _mm512_loadu_ps(tile.norms), norms1 = _mm512_loadu_ps(tile.norms + kPanel);
  const __m512 bias0 = _mm512_loadu_ps(tile.bias), bias1 = _mm512_loadu_ps(tile.bias + kPanel);
  const __m512 steps0 = _mm512_loadu_ps(tile.steps), steps1 = _mm512_loadu_ps(tile.steps + kPanel);
  const __m512 residuals0 = _mm512_loadu_ps(tile.residuals), residuals1 = _mm512_loadu_ps(tile.residuals + kPanel);
  uint32_t hits = 0;
  __m512 largest[16];
  if constexpr (kMaxima)
    for (__m512& one : largest) one = _mm512_setzero_ps();
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const QueryRow8& row = tile.rows[r];
    const __m512 step = _mm512_set1_ps(row.step);
    const __m512 residual_slope = _mm512_set1_ps(row.residual_slope), norm_slope = _mm512_set1_ps(row.norm_slope);
    const __m512 z0 = _mm512_fmadd_ps(residual_slope, residuals0, _mm512_fmadd_ps(norm_slope, norms0, bias0));
    const __m512 z1 = _mm512_fmadd_ps(residual_slope, residuals1, _mm512_fmadd_ps(norm_slope, norms1, bias1));
    const __m512 v0 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][0]), _mm512_mul_ps(step, steps0), z0);
    const __m512 v1 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][1]), _mm512_mul_ps(step, steps1), z1);
    if constexpr (kMaxima) {
      largest[r] = _mm512_max_ps(v0, v1);
      continue;
    }
    const __m512 threshold = _mm512_set1_ps(tile.thresholds[r]);
    const __mmask16 hit0 = _mm512_cmp_ps_mask(v0, threshold, _CMP_GE_OQ);
    const __mmask16 hit1 = _mm512_cmp_ps_mask(v1, threshold, _CMP_GE_OQ);
    if (__builtin_expect((hit0 | hit1) != 0, 0)) {
      hits |= 1u << r;
      _mm512_storeu_ps(tile.scores + r * kTile, v0);
      _mm512_storeu_ps(tile.scores + r * kTile + kPanel, v1);
    }
  }
  if constexpr (kMaxima)
    _mm512_mask_storeu_ps(tile.scores, static_cast<__mmask16>((1u << R) - 1), largest_of_16(largest));
  return hits;
}

// Eight lanes of the definition: acc += hi*hi; acc += (2*hi)*lo; acc += lo*lo.
SPAE_TARGET inline __m512d add_squares(__m256 q, __m256 c, __m512d acc) {
  const __m512d t = _mm512_sub_pd(_mm512_cvtps_pd(q), _mm512_cvtps_pd(c));
  const __m512i half = _mm512_set1_epi64(int64_t{1} << 26);
  const __m512i keep = _mm512_set1_epi64(~((int64_t{1} << 27) - 1));
  const __m512d hi = _mm512_castsi512_pd(
      _mm512_and_si512(_mm512_add_epi64(_mm512_castpd_si512(t), half), keep));
  const __m512d lo = _mm512_sub_pd(t, hi);
  acc = _mm512_fmadd_pd(hi, hi, acc);
  acc = _mm512_fmadd_pd(_mm512_add_pd(hi, hi), lo, acc);
  return _mm512_fmadd_pd(lo, lo, acc);
}

SPAE_TARGET double sqdist(const float* q, const float* c, int64_t width) {
  __m512d acc[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};
  int64_t d = 0;
  for (; d + 32 <= width; d += 32) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      acc[i] = add_squares(_mm256_loadu_ps(q + d + 8 * i), _mm256_loadu_ps(c + d + 8 * i), acc[i]);
  }
  if (d < width) {
    alignas(32) float tail_q[32] = {}, tail_c[32] = {};
    for (int64_t j = 0; d + j < width; ++j) tail_q[j] = q[d + j], tail_c[j] = c[d + j];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      acc[i] = add_squares(_mm256_load_ps(tail_q + 8 * i), _mm256_load_ps(tail_c + 8 * i), acc[i]);
  }
  const __m512d w8 = _mm512_add_pd(_mm512_add_pd(acc[0], acc[2]), _mm512_add_pd(acc[1], acc[3]));
  const __m256d w4 = _mm256_add_pd(_mm512_castpd512_pd256(w8), _mm512_extractf64x4_pd(w8, 1));
  const __m128d w2 = _mm_add_pd(_mm256_castpd256_pd128(w4), _mm256_extractf128_pd(w4, 1));
  return _mm_cvtsd_f64(_mm_add_sd(w2, _mm_unpackhi_pd(w2, w2)));
}

constexpr Kernels kAvx512 = {"avx512",
                             12,
                             {nullptr, screen<1>, screen<2>, screen<3>, screen<4>, screen<5>, screen<6>,
                              screen<7>, screen<8>, screen<9>, screen<10>, screen<11>, screen<12>},
                             sqdist,
                             12,
                             {nullptr, screen8<1, false>, screen8<2, false>, screen8<3, false>, screen8<4, false>,
                              screen8<5, false>, screen8<6, false>, screen8<7, false>, screen8<8, false>,
                              screen8<9, false>, screen8<10, false>, screen8<11, false>, screen8<12, false>},
                             {nullptr, screen8<1, true>, screen8<2, true>, screen8<3, true>, screen8<4, true>,
                              screen8<5, true>, screen8<6, true>, screen8<7, true>, screen8<8, true>, screen8<9, true>,
                              screen8<10, true>, screen8<11, true>, screen8<12, true>},
                             127,
                             32};

// The set of processors with AVX-512 but not its VNNI part: fp32 screening only.
constexpr Kernels without_vnni() {
  Kernels kernels = kAvx512;
  kernels.rows8 = 0;
  return kernels;
}
constexpr Kernels kAvx512F = without_vnni();

}  // namespace

const Kernels* avx512() {
  static const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2") &&
                           __builtin_cpu_supports("fma");
  static const bool vnni = __builtin_cpu_supports("avx512vnni");
  return runs ? vnni ? &kAvx512 : &kAvx512F : nullptr;
}

}  // namespace spae::simd

#else

namespace spae::simd {
const Kernels* avx512() { return nullptr; }
}  // namespace spae::simd

#endif
