// How rows of halves become 4-bit codes and the scales of their groups of 64, by one warp.
//
// A warp takes 16 rows of one group: a lane has elements 8p..8p+7 and 32+8p..32+8p+7 of rows `quad`
// and `quad + 8`, 8 words a row. Signed codes are -7..7, and a group's scale is its largest |xs|
// over 7; unsigned ones are 0..15, over 15, and what is negative becomes 0.
//
// Divisions. All give what IEEE divisions in fp32 give: multiplying by a reciprocal gives other
// codes. The compiler's division has a branch each, and a warp would wait for 64 of them one after
// the other. So a lane takes quotients without a branch, right for all operands but extreme ones,
// and its warp repeats a group with the compiler's divisions if a lane has found extreme ones.
// suites/meta/test_svdq_cuda_division.py tries every mantissa with each reciprocal within 1 ulp:
//   fp16 / fp16, half / (half / 7 or 15): q = x * r, then q + r * (x - d * q), is correctly rounded;
//   bf16 / bf16: x * r is not, but becomes the same bf16, where that is normal.
// An element below 1/16 of its group's largest (unsigned: 1/32) needs no accuracy: its code is 0. A
// quotient -0 / d may come out as +0, which no result shows.
#pragma once
#include "ptx.cuh"
#include "vectors.cuh"

#ifndef BF16
#error "define BF16: whether halves are bf16, or else fp16"
#endif

constexpr float kRound = 1.5f * 8388608.0f;  // added: rounds, half to even, into the lowest bits
constexpr unsigned kRoundBits = 0x4b400000u;
constexpr unsigned kOne = BF16 ? 0x3f803f80u : 0x3c003c00u;  // two halves
// bf16 only: within these a group's largest, its scale, and their reciprocals are normal, with room
// for the remainder of a division.
constexpr float kLeast = 0x1p-90f, kMost = 0x1p120f;

SVDQ_INLINE float from_half(unsigned short bits) {
  if constexpr (BF16) return ptx::as_float(static_cast<unsigned>(bits) << 16);
  return ptx::from_fp16(bits);
}

SVDQ_INLINE unsigned short to_half(float value) {
  if constexpr (BF16) return ptx::to_bf16(value);
  return ptx::to_fp16(value);
}

// Half `e` of a word, as fp32.
SVDQ_INLINE float half_of(unsigned word, int e) {
  return from_half(static_cast<unsigned short>(word >> (16 * e)));
}

SVDQ_INLINE void multiply_halves(float (&sum)[4], const unsigned (&a)[4], unsigned b0,
                                 unsigned b1) {
  if constexpr (BF16) {
    ptx::product_bf16(sum, a, b0, b1);
  } else {
    ptx::product_fp16(sum, a, b0, b1);
  }
}

// A word of two halves.
SVDQ_INLINE unsigned to_halves(float low, float high) {
  if constexpr (BF16) return ptx::to_bf16_pair(low, high);
  return ptx::to_fp16_pair(low, high);
}

// A lane's 16 elements of a row and group: 8 words, the first 4 of which begin at k = 8 * pair.
// Ones where there is no row: nothing extreme.
SVDQ_INLINE void load_row(unsigned (&word)[8], const unsigned short* row, int pair, bool present) {
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    Word4 four = Word4{{kOne, kOne, kOne, kOne}};
    if (present) four = *reinterpret_cast<const Word4*>(row + 32 * part + 8 * pair);
#pragma unroll
    for (int e = 0; e < 4; ++e) word[4 * part + e] = four.at[e];
  }
}

// x / divisor, correctly rounded, by a reciprocal within 1 ulp; a NaN if that is not finite.
SVDQ_INLINE float quotient(float x, float divisor, float reciprocal) {
  const float near = ptx::multiply(x, reciprocal);
  return ptx::multiply_add(reciprocal, ptx::multiply_add(-divisor, near, x), near);
}

// A row's 16 codes of one lane, and its group's scale.
struct Codes {
  unsigned word[2];
  float scale;
};

// What shows that fast quotients of a lane were right, beside the largest of them.
struct Signs {
  bool divisors;  // none of a kind that may hide
  bool zeros[2];  // all x of the row are
};

// xs of one group of rows `quad` and `quad + 8`, as halves, and their largest in this lane.
SVDQ_INLINE Signs smooth_rows(unsigned (&smoothed)[2][8], float (&largest)[2],
                              const unsigned (&word)[2][8], const unsigned (&smooth)[8]) {
  float least = 1.0f;
  unsigned any[2] = {0, 0};
  largest[0] = largest[1] = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float xs[2][2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float divisor = half_of(smooth[i], e), r = ptx::reciprocal(divisor);
      if constexpr (BF16) least = ptx::smaller(least, ptx::magnitude(r));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float x = half_of(word[half][i], e);
        xs[half][e] = BF16 ? ptx::multiply(x, r) : quotient(x, divisor, r);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      smoothed[half][i] = to_halves(xs[half][0], xs[half][1]);
      any[half] |= word[half][i];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float rounded = ptx::magnitude(half_of(smoothed[half][i], e));
        largest[half] = ptx::larger_or_nan(largest[half], rounded);
      }
    }
  }
  // bf16: the reciprocal of a divisor above 2^126 is 0. That of one that is 0 or subnormal is an
  // infinity, and makes the largest one, or a NaN.
  return Signs{least > 0.0f, {(any[0] & 0x7fff7fffu) == 0, (any[1] & 0x7fff7fffu) == 0}};
}

// Whether fast quotients were right in a row's group with this `largest`.
SVDQ_INLINE bool is_plain(float largest, bool zeros) {
  if constexpr (!BF16) return largest <= 65504.0f;  // neither an infinity nor a NaN
  return (zeros && largest == 0.0f) || (largest >= kLeast && largest <= kMost);
}

// The largest code.
template <bool kUnsigned>
constexpr float kSteps = kUnsigned ? 15.0f : 7.0f;

template <bool kUnsigned>
SVDQ_INLINE Codes encode_row(const unsigned (&smoothed)[8], float largest) {
  Codes made;
  made.scale = quotient(largest, kSteps<kUnsigned>, 1.0f / kSteps<kUnsigned>);
  const float divisor = made.scale == 0.0f ? 1.0f : made.scale;
  const float r = ptx::reciprocal(divisor);
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    // The bits of q + kRound are kRoundBits + code. The sum of these, times powers of 16, less that
    // of kRoundBits, is the codes side by side; 8 is added to each signed one so that none borrows.
    unsigned sum = 0;
#pragma unroll
    for (int i = 7; i >= 0; --i) {
      float q = quotient(half_of(smoothed[4 * part + i / 2], i % 2), divisor, r);
      if constexpr (kUnsigned) q = ptx::larger_or_nan(q, 0.0f);
      sum = sum * 16 + ptx::as_bits(ptx::add(q, kRound));
    }
    constexpr unsigned kApart = kUnsigned ? 0u : 0x88888888u;
    made.word[part] = (sum + (kApart - kRoundBits * 0x11111111u)) ^ kApart;
  }
  return made;
}

// The largest of the four lanes of a quad, for each of two rows; a NaN if one is. Collective.
SVDQ_INLINE void largest_of_quads(float (&largest)[2]) {
#pragma unroll
  for (int mask = 1; mask <= 2; mask *= 2) {
    const unsigned other[2] = {ptx::exchange(ptx::as_bits(largest[0]), mask),
                               ptx::exchange(ptx::as_bits(largest[1]), mask)};
    largest[0] = ptx::larger_or_nan(largest[0], ptx::as_float(other[0]));
    largest[1] = ptx::larger_or_nan(largest[1], ptx::as_float(other[1]));
  }
}

// What unsigned codes are made of: more than gelu_tanh falls below 0, and exact in either half.
constexpr float kShift = 0.171875f;

// A lane's part of a row for any operands, slowly: few registers, and its numbers are read anew.
// `x` and `smooth` point to the group. Collective.
template <bool kUnsigned>
SVDQ_INLINE Codes quantize_extreme(const unsigned short* x, const unsigned short* smooth, int pair,
                                   bool present) {
  const auto smoothed = [&](int i) {
    const int at = i / 8 * 32 + 8 * pair + i % 8;
    float value = present ? from_half(x[at]) : 1.0f;
    if constexpr (kUnsigned) value = from_half(to_half(ptx::add(value, kShift)));
    return from_half(to_half(ptx::divide(value, from_half(smooth[at]))));
  };
  float largest[2] = {0.0f, 0.0f};  // the second stays alone
#pragma unroll 1
  for (int i = 0; i < 16; ++i) {
    largest[0] = ptx::larger_or_nan(largest[0], ptx::magnitude(smoothed(i)));
  }
  largest_of_quads(largest);
  Codes made = Codes{{0, 0}, ptx::divide(largest[0], kSteps<kUnsigned>)};
  const float divisor = made.scale == 0.0f ? 1.0f : made.scale;
#pragma unroll 1
  for (int i = 0; i < 16; ++i) {
    const float quotient = ptx::divide(smoothed(i), divisor);
    float rounded = ptx::add(ptx::add(quotient, kRound), -kRound);
    constexpr float kMostCode = kSteps<kUnsigned>, kLeastCode = kUnsigned ? 0.0f : -kMostCode;
    rounded = rounded > kMostCode ? kMostCode : rounded;
    rounded = rounded < kLeastCode ? kLeastCode : rounded;
    const int code = rounded == rounded ? static_cast<int>(rounded) : 0;
    // Codes enter at the top: after 8 more the first ones have moved on to word 0.
    made.word[0] = made.word[0] >> 4 | made.word[1] << 28;
    made.word[1] = made.word[1] >> 4 | static_cast<unsigned>(code) << 28;
  }
  return made;
}

// Codes and scales of a warp's two rows a lane. `store(half, codes)` takes those of row `quad + 8 *
// half`, a second time if `extreme(half)` had to make them by `quantize_extreme`; those of the bottom
// row only if any lane `has_bottom`. Collective.
template <bool kUnsigned, class Store, class Extreme>
SVDQ_INLINE void encode_group(const unsigned (&word)[2][8], const unsigned (&divisors)[8],
                              bool has_bottom, Store store, Extreme extreme) {
  unsigned smoothed[2][8];
  float largest[2];
  const Signs signs = smooth_rows(smoothed, largest, word, divisors);
  largest_of_quads(largest);
  const bool plain = signs.divisors && is_plain(largest[0], signs.zeros[0]) &&
                     is_plain(largest[1], signs.zeros[1]);
  store(0, encode_row<kUnsigned>(smoothed[0], largest[0]));
  if (has_bottom) store(1, encode_row<kUnsigned>(smoothed[1], largest[1]));
  if (!ptx::any_lane(!plain)) return;
#pragma unroll 1
  for (int half = 0; half < 2; ++half) store(half, extreme(half));
}
