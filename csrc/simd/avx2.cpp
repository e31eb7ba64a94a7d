#include "simd/simd.h"

#if SPAE_X86

#include <cpuid.h>
#include <immintrin.h>

#include <limits>

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

// acc += the sum of four products, unsigned codes times signed queries, in each 32-bit lane. As instructions: {vex} is
// AVX-VNNI's encoding, and the rest can stay in AVX2 functions; without it, pairs add up with saturation to 16 bits,
// where 2 * 255 * 64 still fits, hence levels8 = 64, and three instructions kept together leave GCC no sums to spill.
template <bool kVnni>
SPAE_AVX2 inline void add_products(__m256i& acc, __m256i codes, __m256i queries) {
  if constexpr (kVnni) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(codes), "x"(queries));
  } else {
    alignas(32) static constexpr int16_t kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    __m256i pairs;
    asm("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
        : "+x"(acc), "=&x"(pairs)
        : "x"(codes), "x"(queries), "m"(kOnes));
  }
}

SPAE_AVX2 inline float largest_of(__m256 x) {
  const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_max_ss(by2, _mm_movehdup_ps(by2)));
}

// The same shape as `screen`, with four elements a step.
template <bool kVnni, int R, bool kMaxima>
SPAE_AVX2 uint32_t screen8(const Tile8& tile) {
  const int64_t words = tile.words;
  const int32_t* queries = tile.queries;
  const char* prefetch = tile.prefetch;
  int64_t prefetch_step = tile.prefetch_step;
  uint32_t hits = 0;
  for (int half = 0; half < 2; ++half) {
    const uint8_t* codes = tile.panels + half * tile.panel_words * 4 * kPanel;
    __m256i sums[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm256_set1_epi32(tile.rows[r].start);
    for (int64_t w = 0; w < words; ++w) {
      _mm_prefetch(prefetch, _MM_HINT_T1);
      prefetch += prefetch_step;
      const auto* word = reinterpret_cast<const __m256i*>(codes + w * 4 * kPanel);
      const __m256i c0 = _mm256_loadu_si256(word), c1 = _mm256_loadu_si256(word + 1);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m256i q = _mm256_set1_epi32(queries[w * R + r]);
        add_products<kVnni>(sums[r][0], c0, q);
        add_products<kVnni>(sums[r][1], c1, q);
      }
    }
    prefetch_step = 0;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const QueryRow8& row = tile.rows[r];
      const __m256 step = _mm256_set1_ps(row.step);
      const __m256 residual_slope = _mm256_set1_ps(row.residual_slope), norm_slope = _mm256_set1_ps(row.norm_slope);
      __m256 most = _mm256_set1_ps(-std::numeric_limits<float>::infinity());
      int hit = 0;
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const int64_t j = half * kPanel + 8 * i;
        const __m256 y = _mm256_fmadd_ps(norm_slope, _mm256_loadu_ps(tile.norms + j), _mm256_loadu_ps(tile.bias + j));
        const __m256 z = _mm256_fmadd_ps(residual_slope, _mm256_loadu_ps(tile.residuals + j), y);
        const __m256 steps = _mm256_mul_ps(step, _mm256_loadu_ps(tile.steps + j));
        const __m256 v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r][i]), steps, z);
        if constexpr (kMaxima) {
          most = _mm256_max_ps(most, v);
        } else {
          // Stored whether or not this one hits: another may.
          _mm256_storeu_ps(tile.scores + r * kTile + j, v);
          hit |= _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(tile.thresholds[r]), _CMP_GE_OQ));
        }
      }
      if constexpr (kMaxima) {
        const float largest = largest_of(most);
        tile.scores[r] = half == 0 || largest > tile.scores[r] ? largest : tile.scores[r];
      }
      hits |= static_cast<uint32_t>(hit != 0) << r;
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

template <bool kVnni>
constexpr Kernels kKernels = {
    kVnni ? "avxvnni" : "avx2",
    6,
    {nullptr, screen<1>, screen<2>, screen<3>, screen<4>, screen<5>, screen<6>},
    sqdist,
    6,
    {nullptr, screen8<kVnni, 1, false>, screen8<kVnni, 2, false>, screen8<kVnni, 3, false>, screen8<kVnni, 4, false>,
     screen8<kVnni, 5, false>, screen8<kVnni, 6, false>},
    {nullptr, screen8<kVnni, 1, true>, screen8<kVnni, 2, true>, screen8<kVnni, 3, true>, screen8<kVnni, 4, true>,
     screen8<kVnni, 5, true>, screen8<kVnni, 6, true>},
    kVnni ? 127 : 64,
    kVnni ? 32 : 64};

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

// Leaf 7, subleaf 1, EAX bit 4; GCC's and clang's own names for it are too new to rely on.
bool has_avxvnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1u) != 0;
}

}  // namespace

const Kernels* avx2() {
  static const bool runs = has_avx2();
  return runs ? &kKernels<false> : nullptr;
}

const Kernels* avxvnni() {
  static const bool runs = has_avxvnni();
  return runs ? &kKernels<true> : nullptr;
}

}  // namespace spae::simd

#else

namespace spae::simd {
const Kernels* avx2() { return nullptr; }
const Kernels* avxvnni() { return nullptr; }
}  // namespace spae::simd

#endif
