// What W4A4 GEMM kernels know of codes: how products take them, and how sums become floats.
//
// PATH_S8, for arches where 4-bit products are emulated (sm90 and later), spreads each word of 8
// codes to two of bytes, the low nibbles and the high ones, 16 times too large, because a nibble is
// cheapest to sign-extend by leaving it in the upper half of a byte; two m16n8k32 then replace one
// m16n8k64, with the even k in one and the odd k in the other. A sum does not care in which order k
// comes.
//
// The integer sum of a group of 64 is exact, and its accumulator starts at the bits of kMagic, so
// that read as a float it is kMagic + sum: converting integers costs nothing. kMagic is 1.5 * 2^23 /
// (scale of the spread codes), so their factor of 256 or 16 vanishes too. Then
//   row = fma(total, ascale, -kMagic * ascale)   which is exactly ascale * sum (24 bits at most),
//   acc = fma(row, wscale, acc)    one rounding a group, as for acc + sum * (as * ws).
// -kMagic * ascale is not finite if ascale is not, or is a bf16 beyond some 2^104: such scales, at
// kCareful and above, need acc = fma(total - kMagic, ascale * wscale, acc).
#pragma once
#include "low_rank.cuh"

#ifndef PATH_S8
#error "define what the tile's defines give: PATH_S8, UNSIGNED, BF16, BLOCK_M and the rest"
#endif

constexpr int kGroupBytes = 32;  // of a row: 64 codes
constexpr int kWaves = PATH_S8 ? 2 : 1;  // products that make one group

// How many times the integers exceed the sum of codes: 16 for each operand of signed bytes.
constexpr float kFactor = !PATH_S8 ? 1.0f : UNSIGNED ? 16.0f : 256.0f;
// Its last bit is 1 / kFactor, with room for +-2^22 of them.
constexpr float kMagic = 1.5f * 8388608.0f / kFactor;
constexpr int kMagicBits = !PATH_S8 ? 0x4B400000 : UNSIGNED ? 0x49400000 : 0x47400000;

// Row scales from here on, as bits without a sign, may make -kMagic * ascale infinite.
constexpr unsigned kCareful = !BF16 ? 0x7c00u : (!PATH_S8 ? 231u : UNSIGNED ? 235u : 239u) << 7;

// One word of 8 codes as the `kWaves` words that products take.
SVDQ_INLINE void spread(unsigned (&wide)[kWaves], unsigned word, bool is_unsigned) {
  if constexpr (!PATH_S8) {
    wide[0] = word;
  } else if (is_unsigned) {
    wide[0] = word & 0x0f0f0f0fu;
    wide[kWaves - 1] = (word >> 4) & 0x0f0f0f0fu;
  } else {
    wide[0] = (word << 4) & 0xf0f0f0f0u;
    wide[kWaves - 1] = word & 0xf0f0f0f0u;
  }
}

// The first of the products that make total = kMagicBits + the sum of products of codes.
SVDQ_INLINE void multiply_first(int (&total)[4], const unsigned (&a)[kWaves][4],
                                const unsigned (&b)[2][kWaves]) {
  if constexpr (PATH_S8) {
    ptx::product_s8_from(kMagicBits, total, a[0], b[0][0], b[1][0]);
  } else if constexpr (UNSIGNED) {
    ptx::product_u4_from(kMagicBits, total, a[0], b[0][0], b[1][0]);
  } else {
    ptx::product_s4_from(kMagicBits, total, a[0], b[0][0], b[1][0]);
  }
}

// The last of them, if there are two.
SVDQ_INLINE void multiply_last(int (&total)[4], const unsigned (&a)[kWaves][4],
                               const unsigned (&b)[2][kWaves]) {
  if constexpr (PATH_S8) ptx::product_s8(total, a[1], b[0][1], b[1][1]);
}

// Both.
SVDQ_INLINE void multiply_codes(int (&total)[4], const unsigned (&a)[kWaves][4],
                                const unsigned (&b)[2][kWaves]) {
  multiply_first(total, a, b);
  multiply_last(total, a, b);
}

// The same of columns' codes as the operand `a`, and rows' as the other.
SVDQ_INLINE void multiply_columns(int (&total)[4], const unsigned (&a)[kWaves][4],
                                  const unsigned (&b)[2][kWaves]) {
  if constexpr (PATH_S8) {
    multiply_codes(total, a, b);
  } else if constexpr (UNSIGNED) {
    ptx::product_s4_u4_from(kMagicBits, total, a[0], b[0][0], b[1][0]);
  } else {
    ptx::product_s4_from(kMagicBits, total, a[0], b[0][0], b[1][0]);
  }
}

// The scale of a row, and what the row's sums are too large by: see above.
SVDQ_INLINE Float2 row_scale(unsigned short bits) {
  const float scale = from_half(bits, BF16);
  return Float2{scale, ptx::multiply(scale, -kMagic)};
}

// sum += the products of one group, whose integer sum `total` is.
template <bool kPlain>
SVDQ_INLINE float add_scaled(int total, Float2 row, float column, float sum) {
  const float value = ptx::as_float(static_cast<unsigned>(total));
  if constexpr (kPlain) {
    return ptx::multiply_add(ptx::multiply_add(value, row.x, row.y), column, sum);
  }
  return ptx::multiply_add(ptx::add(value, -kMagic), ptx::multiply(row.x, column), sum);
}
