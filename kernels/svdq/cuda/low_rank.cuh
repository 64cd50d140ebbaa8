// The end of the W4A4 GEMM for the accumulators of one warp, shared by the kernel and its second
// pass: scales of channels, bias, the low-rank product, activation, rounding, the store.
//
// Layout: kTilesM x kTilesN products of 16 x 8; a lane holds of each what ptx::product_* leaves to
// it, so it stores two neighbouring columns at once, 4 bytes.
//
// Order of operations, in fp32: `* alpha`, `* wcscales`, `+ bias`, `+ low rank`, the activation if
// FINISH brings one, which is activation.cuh; a float16 result saturates at +-65504 and keeps NaN;
// one rounding.
//
// The low-rank product is lora_act (fp32) times lora_up (half) by tensor cores in tf32: lora_up is
// exact there (11 bits at most), lora_act is the sum of two tf32 numbers to within 2^-24, relative.
// So two products suffice where "tf32x3" of two fp32 operands takes three. True fp32 fma would cost
// 70 us at m = n = 4096, r = 128, half of the whole GEMM's time. Ranks are taken 16 a step, in an
// order of their own: a lane reads 4 neighbours at once, and both operands agree on who is where.
#pragma once
#include "ptx.cuh"
#include "vectors.cuh"

#ifdef FINISH
#include FINISH
#else
SVDQ_INLINE float activate(float value) { return value; }
#endif

struct Finish {
  const float* lora_act;           // [m, r], or null
  const unsigned short* lora_up;   // [n, r]
  const unsigned short* bias;      // [n], or null
  const unsigned short* wcscales;  // [n], or null
  unsigned short* y;               // [m, n]
  int m, n, r;
  float alpha;
  int scales_bf16, out_bf16;
};

constexpr float kLargestFp16 = 65504.0f;
constexpr unsigned kInfinity = 0x7f800000u;

SVDQ_INLINE float from_half(unsigned short bits, int bf16) {
  return bf16 ? ptx::as_float(static_cast<unsigned>(bits) << 16) : ptx::from_fp16(bits);
}

SVDQ_INLINE bool is_finite(float value) {
  return (ptx::as_bits(value) & kInfinity) != kInfinity;
}

SVDQ_INLINE unsigned short round_output(float value, int bf16) {
  if (bf16) return ptx::to_bf16(value);
  // By comparison, because minimum and maximum would turn a NaN into the bound.
  if (value > kLargestFp16) value = kLargestFp16;
  if (value < -kLargestFp16) value = -kLargestFp16;
  return ptx::to_fp16(value);
}

// value = high + low, both tf32, to within 2^-24. If it is not finite, or within 2^-12 of the
// largest float, neither is `high`, and `low` says nothing.
SVDQ_INLINE void split_tf32(float value, unsigned& high, unsigned& low) {
  const float rounded = ptx::to_tf32(value);
  high = ptx::as_bits(rounded);
  low = ptx::as_bits(ptx::to_tf32(ptx::add(value, -rounded)));
}

// The low-rank product, of what the higher and the lower parts of lora_act contribute. A rest that is
// not finite met an operand that is not, or an overflow: then it says nothing (infinity times a rest
// of zero, or of the other sign), and `high` decides alone.
SVDQ_INLINE float add_rest(float high, float rest) {
  return ptx::add(high, is_finite(rest) ? rest : 0.0f);
}

// low_rank[i][j] = lora_act @ lora_up^T for kTilesM x kTilesN tiles from (row, col) on.
template <int kTilesM, int kTilesN>
SVDQ_INLINE void multiply_low_rank(float (&low_rank)[kTilesM][kTilesN][4], const Finish& f, int row,
                                   int col, int quad, int pair) {
  float rest[kTilesM][kTilesN][4];
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) rest[i][j][e] = low_rank[i][j][e] = 0.0f;
    }
  }
#pragma unroll 1
  for (int rank = 0; rank < f.r; rank += 16) {
    // Slot s of a lane is rank 4 * pair + s: word pair + 4 * (s % 2) of product s / 2.
    unsigned high[kTilesM][2][4], low[kTilesM][2][4];
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = row + 16 * i + 8 * half + quad;
        Float4 act = Float4{};
        if (at < f.m) {
          act = *reinterpret_cast<const Float4*>(f.lora_act + static_cast<long long>(at) * f.r +
                                                 rank + 4 * pair);
        }
#pragma unroll
        for (int slot = 0; slot < 4; ++slot) {
          split_tf32(act.at[slot], high[i][slot / 2][half + 2 * (slot % 2)],
                     low[i][slot / 2][half + 2 * (slot % 2)]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
      const int column = col + 8 * j + quad;
      Half4 up = Half4{};
      if (column < f.n) {
        up = *reinterpret_cast<const Half4*>(f.lora_up + static_cast<long long>(column) * f.r +
                                             rank + 4 * pair);
      }
      unsigned b[4];
#pragma unroll
      for (int slot = 0; slot < 4; ++slot) {
        b[slot] = ptx::as_bits(from_half(up.at[slot], f.scales_bf16));
      }
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
        for (int product = 0; product < 2; ++product) {
          ptx::product_tf32(rest[i][j], low[i][product], b[2 * product], b[2 * product + 1]);
          ptx::product_tf32(low_rank[i][j], high[i][product], b[2 * product], b[2 * product + 1]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        low_rank[i][j][e] = add_rest(low_rank[i][j][e], rest[i][j][e]);
      }
    }
  }
}

// Has what finishing a block's columns reads, but for lora_act, on its way to the second-level
// cache: at the end of a block nothing would hide its way from memory.
SVDQ_INLINE void prefetch_finish(const Finish& f, int col, int columns) {
  const int column = col + ptx::thread();
  if (ptx::thread() >= columns || column >= f.n) return;
  if (f.lora_act != nullptr) {
    const unsigned short* up = f.lora_up + static_cast<long long>(column) * f.r;
    for (int rank = 0; rank < f.r; rank += 64) ptx::prefetch(up + rank);
  }
  if (column % 64 != 0) return;  // a line is 64 halves
  if (f.bias != nullptr) ptx::prefetch(f.bias + column);
  if (f.wcscales != nullptr) ptx::prefetch(f.wcscales + column);
}

// What the sums of a column are multiplied by, and then added to.
struct Channel {
  float scale, offset;
};

SVDQ_INLINE Channel channel_of(const Finish& f, int column) {
  Channel channel{1.0f, 0.0f};
  if (f.wcscales != nullptr) channel.scale = from_half(f.wcscales[column], f.scales_bf16);
  if (f.bias != nullptr) channel.offset = from_half(f.bias[column], f.scales_bf16);
  return channel;
}

// An output before its rounding.
SVDQ_INLINE float finish_value(float sum, Channel channel, float low_rank, const Finish& f) {
  const float value = ptx::multiply(ptx::multiply(sum, f.alpha), channel.scale);
  const float moved = ptx::add(value, channel.offset);
  return activate(f.lora_act != nullptr ? ptx::add(moved, low_rank) : moved);
}

// Finishes the tiles whose first element is y[row][col]. `load(sum)` brings the sums, late: they
// need no registers while the low-rank product is computed. `store(row, column, two)` takes two
// neighbours as halves.
template <int kTilesM, int kTilesN, class Load, class Store>
SVDQ_INLINE void finish_to(Store store, Load load, const Finish& f, int row, int col, int lane) {
  const int quad = lane / 4, pair = lane % 4;
  float low_rank[kTilesM][kTilesN][4];
  if (f.lora_act != nullptr) {
    multiply_low_rank<kTilesM, kTilesN>(low_rank, f, row, col, quad, pair);
  }
  float sum[kTilesM][kTilesN][4];
  load(sum);
#pragma unroll
  for (int j = 0; j < kTilesN; ++j) {
    const int column = col + 8 * j + 2 * pair;
    if (column >= f.n) continue;  // n is a multiple of 8: both columns are in, or both out
    const Channel channel[2] = {channel_of(f, column), channel_of(f, column + 1)};
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = row + 16 * i + 8 * half + quad;
        if (at >= f.m) continue;
        unsigned pack = 0;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int item = 2 * half + e;
          const float value = finish_value(sum[i][j][item], channel[e], low_rank[i][j][item], f);
          pack |= static_cast<unsigned>(round_output(value, f.out_bf16)) << (16 * e);
        }
        store(at, column, pack);
      }
    }
  }
}

// Finishes tiles and stores them where they belong in y.
template <int kTilesM, int kTilesN, class Load>
SVDQ_INLINE void finish(Load load, const Finish& f, int row, int col, int lane) {
  auto store = [&](int at, int column, unsigned two) {
    *reinterpret_cast<unsigned*>(f.y + static_cast<long long>(at) * f.n + column) = two;
  };
  finish_to<kTilesM, kTilesN>(store, load, f, row, col, lane);
}

// Copies sums; what `finish` calls where they never left the registers.
template <int kRows, int kCols>
SVDQ_INLINE void copy_sums(float (&to)[kRows][kCols][4], const float (&from)[kRows][kCols][4]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kCols; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) to[i][j][e] = from[i][j][e];
    }
  }
}
