// Vec of tile_schedule.h in AVX-512 with VNNI; included in an unnamed namespace after SPAE_TARGET.

#include "simd/largest_avx512.h"

using Vec = __m512;

SPAE_TARGET inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
SPAE_TARGET inline void store(float* to, Vec x) { _mm512_storeu_ps(to, x); }
SPAE_TARGET inline Vec broadcast(float x) { return _mm512_set1_ps(x); }
SPAE_TARGET inline Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
SPAE_TARGET inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
SPAE_TARGET inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
SPAE_TARGET inline Vec to_float(const int32_t* from) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(from)); }
SPAE_TARGET inline bool any_reaches(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ) != 0; }
SPAE_TARGET inline bool equal(const int32_t* a, const int32_t* b) {
  return _mm512_cmpneq_epi32_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b)) == 0;
}

SPAE_TARGET inline void add_up(const uint8_t* panel, int64_t words, int32_t* sums) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i total = _mm512_set1_epi32(kCheckStart), other = _mm512_setzero_si512();
  int64_t w = 0;
  for (; w + 2 <= words; w += 2) {
    total = _mm512_dpbusd_epi32(total, _mm512_loadu_si512(panel + w * kLineBytes), ones);
    other = _mm512_dpbusd_epi32(other, _mm512_loadu_si512(panel + (w + 1) * kLineBytes), ones);
  }
  if (w < words) total = _mm512_dpbusd_epi32(total, _mm512_loadu_si512(panel + w * kLineBytes), ones);
  _mm512_storeu_si512(sums, _mm512_add_epi32(total, other));
}

SPAE_TARGET inline void largest_of_lines(const float* lines, float* largest) {
  __m512 x[kLines];
#pragma GCC unroll 16
  for (int i = 0; i < kLines; ++i) x[i] = _mm512_loadu_ps(lines + i * kPanel);
  _mm512_storeu_ps(largest, largest_of_16(x));
}
