// The largest of 16 lanes, for 16 registers at once; included in an unnamed namespace after SPAE_TARGET.

// The largest element of each of 4 registers (blocks of 128 bits stay what they are, one a register), then of 16.
SPAE_TARGET inline __m512 largest_of_4(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd = _mm512_max_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  return _mm512_max_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

SPAE_TARGET inline __m512 largest_of_16(const __m512* x) {
  const __m512 a = largest_of_4(x[0], x[4], x[8], x[12]), b = largest_of_4(x[1], x[5], x[9], x[13]);
  const __m512 c = largest_of_4(x[2], x[6], x[10], x[14]), d = largest_of_4(x[3], x[7], x[11], x[15]);
  const __m512 ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  return _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}
