// nearest_code on CPUs: screen in int8 or fp32, certify with a proven bound, re-score what is left in float64.
//
// Definition. For fp32 values q, c (fp16 and bf16 widen exactly), all in float64, per element d:
//   t = fl(q_d - c_d);  hi = t rounded to 26 significant bits, halves away from zero;  lo = t - hi (exact);
//   acc[d mod 32] += hi*hi;  += (2*hi)*lo;  += lo*lo     (d ascending; the products are exact: FMA changes no bit)
//   for w in 16, 8, 4, 2, 1: acc[:w] += acc[w:2w];       sqdist64 = acc[0].
// The answer is the first k codes by (sqdist64, id). No step overflows or underflows: |t| is 0 or in [2^-149, 2^129].
//
// Screening. With a shift m (fp32 vector) and a power of two s, write in exact arithmetic
//   Q = s(q - m),  C_k = s(c_k - m),  score_k = <Q, C_k> - |C_k|^2 / 2,  so  s^2 |q - c_k|^2 = |Q|^2 - 2 score_k.
// Q' and C'_k are their fp32 roundings. u = 2^-24 and h = 2^-149 are fp32's unit roundoff and smallest subnormal,
// w = 2^-53, gamma_n = n u / (1 - n u). "Norms" are upper bounds measured in float64 and rounded up:
//   N_q >= max(|Q|, |Q - Q'| / u),  N_k >= max(|C_k|, |C_k - C'_k| / u),  inflated so that N_q >= |Q'| and
//   N_k >= |C'_k| (and N_k >= |C8_k|, below).
// The kernels return, for a_q >= A N_q and b_k = fl32(-|C_k|^2 / 2 + B N_k^2),
//   v_k = fl(fl(dot_k + a_q N_k) + b_k),   dot_k = fp32 sum of Q'_d C'_{k,d} in any order, fused or not.
//
// How far v_k is from score_k + a_q N_k + B N_k^2:
//   (1) |<Q, C_k> - <Q', C'_k>| = |<Q - Q', C_k> + <Q', C_k - C'_k>|        <= 2 u N_q N_k
//   (2) |dot_k - <Q', C'_k>|    <= gamma_D sum |Q'_d C'_d| + D h            <= gamma_D N_q N_k + D h
//       (each product passes at most D roundings; h/2 for each product that underflows, times 1 + gamma_D < 2)
//   (3) the two (unfused: three) roundings behind dot_k:
//       u [ 3 (|dot_k| + a_q N_k)(1 + 2u) + |b_k| ] + h  <=  3.5 u N_q N_k + 0.6 u N_k^2 + (D + 2) h
//       as gamma_D <= 1/15 and A <= 1/14 by D <= 2^20, |dot_k| <= (1 + gamma_D) N_q N_k + D h, |b_k| <= .51 N_k^2
//   (4) rounding b_k itself, and |C_k|^2 in float64:                            <= 0.6 u N_k^2 + h
//   (5) the definition's own error: |s^2 sqdist64 - (|Q|^2 - 2 score_k)| <= e (|Q| + |C_k|)^2, where
//       e = (3 ceil(D/32) + 9) w: 3 ceil(D/32) + 5 additions of terms that sum to at most t^2 (1 + 2^-24) in size, and
//       2w for t. In score units, delta_k = (e/2)(N_q + N_k)^2 = e N_q N_k + (e/2) N_k^2 + (e/2) N_q^2.
//   Hence with  A = gamma_D + 7u,  B = 3u,  E_q = (e/2) N_q^2 + 2 (D + 4) h   (e < u/2 for D <= 2^20; what the sums
//   leave of 7u, 3u and 2 (D + 4) h covers evaluating the lines below in float64):
//     upper_k = v_k + E_q                              >= score_k + delta_k
//     lower_k = v_k - 2 (a_q N_k + B N_k^2) - E_q      <= score_k - delta_k.
//
// Screening in int8. T is a fixed orthogonal map, so <T Q, T C_k> = <Q, C_k>: it spreads large elements over many,
// which brings the steps down. P and G_k are integer rows, |P_d| and |G_kd| <= 127, p and g_k fp32 steps >= 2^-60, and
// Q8 = p P, C8_k = g_k G_k. Residuals are measured in float64 from fl64(T Q') and fl64(T C'_k), which are within
// 16w |Q'| and 16w |C'_k| (one rounding an element in each of at most 14 stages, each sqrt(2) times orthogonal):
//   R_q >= |fl64(T Q') - Q8|, so |T Q - Q8| <= R_q + 2u N_q;   r_k >= |fl64(T C'_k) - C8_k| + 2u N_k >= |T C_k - C8_k|.
// No integer is farther than 0 is, so R_q <= 1.01 N_q and r_k <= 1.01 N_k. Sums of products I_k = <P, G_k> are exact
// (D <= 2^15). The kernels return, for a_q >= N_q, c_q >= R_q + A8 N_q, and the same b_k,
//   v_k = fl(fl(I_k) fl(p g_k) + z_k),  z_k = fl(a_q r_k + y_k),  y_k = fl(c_q N_k + b_k),  fused or not.
// How far v_k is from score_k + a_q r_k + c_q N_k + B N_k^2, beyond a_q r_k + R_q N_k:
//   (6) |<T Q, T C_k> - <Q8, C8_k>| = |<T Q - Q8, C8_k> + <T Q, T C_k - C8_k>| <= (R_q + 2u N_q) N_k + N_q r_k
//   (7) the roundings of v_k, all normal but for 4 h: with |I_k p g_k| = |<Q8, C8_k>| <= 2.02 N_q N_k (Cauchy-Schwarz),
//       a_q r_k and c_q N_k <= 1.02 N_q N_k, |b_k| <= .51 N_k^2: y_k, z_k, the product's three and the last sum's give
//       u (2.1 + 3.2 + 6.1 + 4.2) N_q N_k + 1.6 u N_k^2
//   and (4) and (5) as they are. Hence with A8 = 32u and the B and E_q from above, upper_k = v_k + E_q and
//   lower_k = v_k - 2 (a_q r_k + c_q N_k + B N_k^2) - E_q hold as for fp32.
//
// Screening a prefix. <.,.>_p and |.|_p take the first P elements of rotated vectors, |.|_t the rest, their tail. The
// same integers and steps give, for any r > 0,
//   <T Q, T C_k> - <Q8, C8_k>_p = <T Q - Q8, C8_k>_p + <T Q, T C_k - C8_k>_p + <T Q, T C_k>_t <= t'_q t'_k,
//   t'_q = | (|T Q|_t, |T Q - Q8|_p / r, r |T Q|_p) |,  t'_k = | (|T C_k|_t, r |C8_k|_p, |T C_k - C8_k|_p / r) |
// by Cauchy-Schwarz, twice. It is little more than |Q|_t |C_k|_t, so distances are bounded from below by the prefix's
// and by the difference of the tails' norms, at P / D of the work. With r = 2^-4, the elements of t' measured from
// fl64(T Q') and fl64(T C'_k) are off by at most 2u N, 2u N / r and 2u N, or together 33 u N. So with
//   M_q >= max(t'_q as measured, r N_q),  M_k likewise (inflated for the roundings behind them),
//   t_q >= (1 + 2^-11) M_q,  t_k >= (1 + 2^-11) M_k,
// t'_q t'_k <= (1 + 33 u / r)^2 M_q M_k, and t_q t_k exceeds that by 15000 u M_q M_k >= 4 u t_q t_k + 50 u N_q N_k.
// The kernels return v_k = fl(fl(I_k) fl(p g_k) + fl(t_q t_k + b_k)), I_k the sum over the prefix, fused or not. Its
// roundings are at most 4 u t_q t_k + 10 u N_q N_k + 1.6 u N_k^2 + 4 h, by (7)'s reasons, so that upper_k = v_k + E_q
// holds with (4) and (5) as they are. There is no lower_k: thresholds come from evaluated codes.
//
// Certificate. If upper_k < lower_j, then |q - c_k|^2 - |q - c_j|^2 exceeds the two evaluations' errors together, so
// sqdist64_k > sqdist64_j strictly. A code with k such j is not among the answers. So with
//   threshold = (k-th largest over any codes seen so far of lower_j) - E_q, rounded down,
// the answers are among the codes with v_k >= threshold ("candidates"). Nor is a code an answer if k codes have been
// evaluated to at most S < sqdist64_k. If sqdist64_k <= S then by (5) score_k + delta_k >= (|Q|^2 - s^2 S) / 2, hence
//   v_k >= (|Q|^2 - s^2 S) / 2 - E_q:
// a threshold too, tighter than the first where the screen is coarse. Candidates are evaluated by the definition, so
// ids do not depend on the screen, the instruction set, the number of threads, or the order in which tiles are visited.
//
// Range. s brings the table's largest |c - m| into [1/2, 1), so N_k <= 2^11; rows with N_q <= 2^60 cannot overflow.
// Other rows (and D > 2^20) skip the screens: every allowed code is evaluated by the definition.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "common/rows.h"
#include "simd/simd.h"

namespace spae {

inline constexpr double kUnit = 0x1p-24;             // u
inline constexpr double kTiny = 0x1p-149;            // h
inline constexpr double kUnit64 = 0x1p-53;           // w
inline constexpr double kCodeSlope = 3 * kUnit;      // B
inline constexpr double kIntegerSlope = 32 * kUnit;  // A8
inline constexpr int64_t kMaxScreenWidth = int64_t{1} << 20;
inline constexpr int64_t kMaxIntegerWidth = int64_t{1} << 15;
inline constexpr double kMinStep = 0x1p-60;
inline constexpr double kTailRatio = 0x1p-4;         // r
inline constexpr double kMaxScreenNorm = 0x1p60;

// A of the bound.
inline double query_slope(int64_t width) {
  const double n = static_cast<double>(width) * kUnit;
  return n / (1.0 - n) + 7 * kUnit;
}

// E_q of the bound.
inline double query_slack(int64_t width, double norm) {
  const double e = static_cast<double>(3 * ((width + 31) / 32) + 9) * kUnit64;
  return 0.5 * e * norm * norm + 2.0 * static_cast<double>(width + 4) * kTiny;
}

inline float round_up(double x) {
  const auto y = static_cast<float>(x);
  return static_cast<double>(y) >= x ? y : std::nextafterf(y, std::numeric_limits<float>::infinity());
}

inline float round_down(double x) { return -round_up(-x); }

// N of the bound, from float64 sums over a row: |fl64(X)|^2 and |fl64(X) - X'|^2. The last factor covers the
// roundings of the sums and makes the result an upper bound of |X'| <= |X| + |X - X'| too.
inline double norm_bound(double squares, double residual_squares) {
  const double norm = std::sqrt(squares);
  const double residual = std::sqrt(residual_squares) + kUnit64 * norm;
  return std::fmax(norm, residual / kUnit) * (1.0 + 0x1p-20);
}

// The threshold that an evaluated sqdist64 = S sets for a row with sum of squares |Q|^2 and slack E_q. The second term
// covers the roundings of |Q|^2, a plain sum of D squares, and of this line.
inline float evaluated_threshold(double squares, double sqdist, double scale, double slack, int64_t width) {
  const double scaled = scale * sqdist * scale;
  const double rounding = static_cast<double>(width + 8) * kUnit64 * (squares + scaled);
  return round_down(0.5 * (squares - scaled) - rounding - slack);
}

// Rounds T (a framed row) to integers in [-levels, levels] times *step, with `rotated` [width] to work in. Returns an
// upper bound of fl64(T x)'s distance from that.
double quantize(const float* framed, int64_t width, int levels, double* rotated, int8_t* integers, float* step);

// t of the bound for the row just quantized: `rotated` and `integers` as `quantize` left them, `norm` the row's N.
float tail_bound(const double* rotated, const int8_t* integers, float step, int64_t width, double norm);

// What `prepare` computes once about the codes, in memory owned by tensors.
struct PreparedCodes {
  const float* panels;     // [tiles, 2, D, 16]: C', zero where there is no code
  const uint8_t* panels8;  // [tiles, 2, W, 16, 4]: 128 + G, W = num_words(D); 128 where there is no code or element
  const float* bias;       // [32 tiles]: b_k, -inf where there is no code
  const float* norms;      // [32 tiles]: N_k
  const float* residuals;  // [32 tiles]: r_k
  const float* steps;      // [32 tiles]: g_k
  const float* tails;      // [32 tiles]: t_k
  const double* shift;     // [D]: m
  double scale;            // s
  int64_t tiles;
};

inline int64_t num_tiles(int64_t codes) { return (codes + simd::kTile - 1) / simd::kTile; }

// 32-bit words of four int8 elements in a row, and in the prefix of it that pruning looks at: a fifth of the elements
// tells a code at 0.3 of the typical distance from nearly all others, of tens of thousands.
inline int64_t num_words(int64_t width) { return (width + 3) / 4; }
inline int64_t num_prefix_words(int64_t width) { return (num_words(width) + 4) / 5; }

// X' = fl32(scale * (x - shift)), |fl64(X)|^2 in *squares, and the row's norm bound.
double frame_row(const float* x, const double* shift, double scale, int64_t width, float* out, double* squares);

// Chooses shift and scale: writes them to frame [D + 1] (scale last). False if some code is not finite.
bool choose_frame(const Rows& codes, double* frame);

// Where `pack_codes` writes what PreparedCodes names.
struct PackedCodes {
  float* panels;
  uint8_t* panels8;
  float* bias;
  float* norms;
  float* residuals;
  float* steps;
  float* tails;
};

void pack_codes(const Rows& codes, const double* frame, const PackedCodes& out);

enum class ScreenChoice { kAuto, kFp32, kInt8 };
enum class PruneChoice { kAuto, kOff, kOn };

struct SearchOptions {
  ScreenChoice screen = ScreenChoice::kAuto;
  PruneChoice prune = PruneChoice::kAuto;
  bool named_isa = false;  // the instruction set is somebody's choice
};

struct SearchOutput {
  int64_t* ids;         // [N, k]
  float* sqdist;        // [N, k]
  int64_t* rescored;    // [N]: codes evaluated by the definition
};

// The first k allowed codes by (sqdist64, id) for every query. mask [K] (null: all) must allow at least k codes.
void search_codes(const Rows& queries, const Rows& codes, const PreparedCodes& prepared, const bool* mask, int64_t k,
                  const simd::Kernels& kernels, const SearchOptions& options, const SearchOutput& out);

}  // namespace spae
