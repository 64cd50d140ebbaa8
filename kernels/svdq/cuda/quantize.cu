// SVDQuant's activation quantizer with the low-rank down projection, on tensor cores.
//
// Tiling. A block owns BLOCK_M = 16 * WARPS_M rows, up to 8 * RANK_TILES ranks, and its share of k:
// the groups of its split. Warps lie on a grid of WARPS_M over rows and WARPS_K over k; a warp
// takes 16 rows, and in every step one group of 64. Codes and scales have one owner each. Sums of
// lora_act meet twice, both times in a fixed order: the warps of a block over shared memory, the
// splits of k over workspace[split][m][r] in a second kernel. Nothing is added atomically. With
// more ranks than 8 * RANK_TILES, blockIdx.z counts the pieces, and only the first stores codes and
// scales.
//
// Layout. x [m, k] is read straight into registers, with rows x_row apart (a multiple of 8): the
// four lanes of a quad read a row's 64 elements as 2 x 64 contiguous bytes, so a lane holds
// elements 8p..8p+7 and 32+8p..32+8p+7. That is no tensor-core operand by itself, but k may come in
// any order as long as lora_down comes in the same one: word i (of 8) of a lane stands for k = i /
// 4 * 32 + 8p + i % 4 * 2. lora_down [k, r] goes to shared memory, STAGES - 1 steps ahead, with row
// k of a group stored at place k / 32 * 32 + k % 8 / 2 * 8 + k % 32 / 8 * 2 + k % 2, so that word i
// of all lanes is rows 8i..8i+7: one transposing matrix load. Rows are an odd number of 16 bytes
// apart, and 8 neighbours touch all 32 banks.
//
// Order of operations, a group: lora_act += x @ lora_down, products exact, sums in fp32 on tensor
// cores, on the raw x; xs = half(x / smooth); largest = max |xs| over the group, taken over bits,
// so that a NaN wins; s = largest / 7; code = rint(xs / s), half to even, within [-7, 7], NaN and a
// zero group to 0; s stored as half. All divisions are IEEE divisions in fp32: a multiplication by
// a reciprocal gives other codes.

#include "ptx.cuh"
#include "vectors.cuh"

#ifndef RANK_TILES
#error "define BF16, WARPS_M, WARPS_K, RANK_TILES (0 without low-rank branch, or even), STAGES"
#endif

namespace {

constexpr int kThreads = 32 * WARPS_M * WARPS_K;
constexpr int kBlockM = 16 * WARPS_M;
constexpr int kPitch = 16 * RANK_TILES + 16;  // bytes of a row of lora_down, and 16 for the banks
constexpr int kGroupBytes = 64 * kPitch;
constexpr int kStageBytes = WARPS_K * kGroupBytes;
constexpr int kCopies = (WARPS_K * 64 * RANK_TILES + kThreads - 1) / kThreads;
constexpr int kSums = RANK_TILES > 0 ? RANK_TILES : 1;
constexpr float kRound = 1.5f * 8388608.0f;  // added and taken away: rounds, half to even

static_assert(RANK_TILES % 2 == 0, "a matrix load brings two tiles of 8 ranks");
static_assert(STAGES >= 2, "a stage is filled while another is read");
static_assert(RANK_TILES == 0 || (WARPS_K - 1) * WARPS_M * kSums * 512 <= STAGES * kStageBytes,
              "the sums of the slices must fit where the stages were");

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

// A lane's 16 elements of a row and group: 8 words, the first 4 of which begin at k = 8 * pair.
SVDQ_INLINE void load_row(unsigned (&word)[8], const unsigned short* row, int pair, bool present) {
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    Word4 four = Word4{};
    if (present) four = *reinterpret_cast<const Word4*>(row + 32 * part + 8 * pair);
#pragma unroll
    for (int e = 0; e < 4; ++e) word[4 * part + e] = four.at[e];
  }
}

// Quantizes a lane's 16 elements with its quad; returns two words of 8 codes, and the scale.
SVDQ_INLINE float quantize_row(unsigned (&codes)[2], const unsigned (&word)[8],
                               const unsigned (&smooth)[8]) {
  float smoothed[16];
  unsigned largest = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float quotient = ptx::divide(half_of(word[i / 2], i % 2), half_of(smooth[i / 2], i % 2));
    smoothed[i] = from_half(to_half(quotient));
    // The bits of |xs| order as integers, NaN above infinity: a NaN reaches the scale, where a
    // floating-point maximum would drop it.
    const unsigned bits = ptx::as_bits(smoothed[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
#pragma unroll
  for (int mask = 1; mask <= 2; mask *= 2) {
    const unsigned other = ptx::exchange(largest, mask);
    largest = other > largest ? other : largest;
  }
  const float scale = ptx::divide(ptx::as_float(largest), 7.0f);
  const float divisor = scale == 0.0f ? 1.0f : scale;
  codes[0] = codes[1] = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float quotient = ptx::divide(smoothed[i], divisor);
    float rounded = ptx::add(ptx::add(quotient, kRound), -kRound);
    rounded = rounded > 7.0f ? 7.0f : rounded;
    rounded = rounded < -7.0f ? -7.0f : rounded;
    const int code = rounded == rounded ? static_cast<int>(rounded) : 0;
    codes[i / 8] |= (static_cast<unsigned>(code) & 0xfu) << (i % 8 * 4);
  }
  return scale;
}

// Starts the copies of step `step` of lora_down: WARPS_K groups of 64 rows, ranks from `rank` on.
SVDQ_INLINE void bring_down(unsigned stage, const unsigned short* lora_down, int first_group,
                            int until, int r, int rank) {
#pragma unroll
  for (int j = 0; j < kCopies; ++j) {
    const int index = ptx::thread() + j * kThreads;
    const int row = index / kSums, chunk = index % kSums;  // kSums = RANK_TILES wherever copies are
    if (row >= WARPS_K * 64) continue;
    const int k = row % 64, group = first_group + row / 64;
    const bool valid = group < until && rank + 8 * chunk < r;
    const int place = k / 32 * 32 + k % 8 / 2 * 8 + k % 32 / 8 * 2 + k % 2;
    const unsigned short* from = lora_down;
    if (valid) from += (static_cast<long long>(group) * 64 + k) * r + rank + 8 * chunk;
    ptx::copy_async(stage + row / 64 * kGroupBytes + place * kPitch + chunk * 16, from, valid);
  }
}

// sum += x @ lora_down for one group, by one warp; `top`, `bottom` are rows `quad` and `quad + 8`.
SVDQ_INLINE void multiply_group(float (&sum)[kSums][4], const unsigned (&top)[8],
                                const unsigned (&bottom)[8], unsigned down, int lane) {
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const unsigned a[4] = {top[i], bottom[i], top[i + 1], bottom[i + 1]};
    // Matrices: words i and i + 1 of tile j, then of tile j + 1.
    const unsigned row = down + (8 * (i + lane / 8 % 2) + lane % 8) * kPitch + lane / 16 * 16;
#pragma unroll
    for (int j = 0; j + 1 < RANK_TILES; j += 2) {
      unsigned b[4];
      ptx::load_matrices_transposed(b, row + 16 * j);
      multiply_halves(sum[j], a, b[0], b[1]);
      multiply_halves(sum[j + 1], a, b[2], b[3]);
    }
  }
}

// Slice 0 adds the sums of slices 1, 2, ... to its own, in this order.
SVDQ_INLINE void add_slices(float (&sum)[kSums][4], unsigned char* shared, int warp, int slice,
                            int lane) {
  float* place = reinterpret_cast<float*>(shared) + warp * kSums * 128 + lane;
  constexpr int kSlice = WARPS_M * kSums * 128;
  ptx::block_barrier();  // every warp has read its last stage
#pragma unroll
  for (int item = 0; item < kSums * 4; ++item) {
    if (slice > 0) place[(slice - 1) * kSlice + item * 32] = sum[item / 4][item % 4];
  }
  ptx::block_barrier();
  if (slice > 0) return;
#pragma unroll
  for (int item = 0; item < kSums * 4; ++item) {
#pragma unroll
    for (int other = 0; other < WARPS_K - 1; ++other) {
      sum[item / 4][item % 4] =
          ptx::add(sum[item / 4][item % 4], place[other * kSlice + item * 32]);
    }
  }
}

}  // namespace

// Grid: x = row tiles, y = splits of k, z = pieces of the ranks. With one split `sums` is lora_act
// [m, r], otherwise the workspace [splits, m, r].
SVDQ_KERNEL(kThreads, 1)
svdq_quantize_w4a4(const unsigned short* __restrict__ x,
                   const unsigned short* __restrict__ lora_down,
                   const unsigned short* __restrict__ smooth, unsigned char* __restrict__ codes,
                   unsigned short* __restrict__ ascales, float* __restrict__ sums, int m, int k,
                   int r, long long x_row) {
  SVDQ_SHARED(shared);
  const int lane = ptx::thread() % 32, quad = lane / 4, pair = lane % 4;
  const int slice = ptx::thread() / 32 / WARPS_M, warp = ptx::thread() / 32 % WARPS_M;
  const int row = ptx::block_x() * kBlockM + 16 * warp + quad;  // and row + 8
  const int rank = ptx::block_z() * 8 * RANK_TILES;
  const bool stores = ptx::block_z() == 0;

  const int groups = k / 64;
  const int share = (groups + ptx::blocks_y() - 1) / ptx::blocks_y();
  const int from = ptx::block_y() * share;
  const int until = from + share < groups ? from + share : groups;
  const int steps = until > from ? (until - from + WARPS_K - 1) / WARPS_K : 0;

  const unsigned base = ptx::shared_address(shared);
#pragma unroll
  for (int ahead = 0; ahead < STAGES - 1; ++ahead) {
    if (RANK_TILES > 0 && ahead < steps) {
      bring_down(base + ahead * kStageBytes, lora_down, from + ahead * WARPS_K, until, r, rank);
    }
    ptx::close_batch();
  }

  float sum[kSums][4];
#pragma unroll
  for (int item = 0; item < kSums * 4; ++item) sum[item / 4][item % 4] = 0.0f;
  const unsigned short* x_of[2] = {x + row * x_row, x + (row + 8LL) * x_row};
  unsigned next[2][8];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    load_row(next[half], x_of[half] + 64LL * (from + slice), pair,
             row + 8 * half < m && from + slice < until);
  }
  for (int step = 0; step < steps; ++step) {
    const int group = from + step * WARPS_K + slice;
    unsigned now[2][8];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 8; ++i) now[half][i] = next[half][i];
      load_row(next[half], x_of[half] + 64LL * (group + WARPS_K), pair,
               row + 8 * half < m && group + WARPS_K < until);
    }
    if constexpr (RANK_TILES > 0) {
      ptx::wait_batches<STAGES - 2>();
      // After this, the step's lora_down is there, and the stage of step - 1 is free.
      ptx::block_barrier();
      if (step + STAGES - 1 < steps) {
        bring_down(base + (step + STAGES - 1) % STAGES * kStageBytes, lora_down,
                   from + (step + STAGES - 1) * WARPS_K, until, r, rank);
      }
      ptx::close_batch();
      multiply_group(sum, now[0], now[1],
                     base + step % STAGES * kStageBytes + slice * kGroupBytes, lane);
    }
    if (!stores || group >= until) continue;  // the same for all lanes of a warp
    unsigned divisors[8];
    load_row(divisors, smooth + 64LL * group, pair, true);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned words[2];
      const float scale = quantize_row(words, now[half], divisors);
      const int at = row + 8 * half;
      if (at >= m) continue;
      unsigned char* place = codes + static_cast<long long>(at) * (k / 2) + 32LL * group + 4 * pair;
      *reinterpret_cast<unsigned*>(place) = words[0];
      *reinterpret_cast<unsigned*>(place + 16) = words[1];
      if (pair == 0) ascales[static_cast<long long>(group) * m + at] = to_half(scale);
    }
  }
  ptx::wait_batches<0>();

  if constexpr (RANK_TILES > 0) {
    if constexpr (WARPS_K > 1) {
      add_slices(sum, shared, warp, slice, lane);
      if (slice > 0) return;
    }
    float* place = sums + static_cast<long long>(ptx::block_y()) * m * r;
#pragma unroll
    for (int j = 0; j < RANK_TILES; ++j) {
      const int column = rank + 8 * j + 2 * pair;
      if (column >= r) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = row + 8 * half;
        if (at < m) {
          *reinterpret_cast<Float2*>(place + static_cast<long long>(at) * r + column) =
              Float2{sum[j][2 * half], sum[j][2 * half + 1]};
        }
      }
    }
  }
}
