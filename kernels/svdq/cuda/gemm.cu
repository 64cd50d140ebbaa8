// SVDQuant's W4A4 GEMM on warp-level integer tensor cores, Ampere to Blackwell.
//
// Tiling. A block owns one tile of BLOCK_M x BLOCK_N outputs, or with `splits` > 1 its share of k.
// Its warps lie on a grid of WARPS_M x WARPS_N over the tile and WARPS_K over k: the warps of slice
// s take groups s, s + WARPS_K, ... of every stage, and slice 0 adds the others' sums in the order
// of their numbers. Tiles are numbered in bands of `band` tile rows, so that blocks that run
// together share weights in L2. With splits, fp32 sums go to workspace[split][m][n] and a second
// kernel adds them in the order of the splits. Nothing is added atomically: the bits do not depend
// on timing.
//
// Layout. Activations [m, k/2] and weights [n, k/2] are read as they are, two codes a byte, even k
// low; there is no private packing, because with 2 or 4 groups a stage a row's piece is 64 or 128
// contiguous bytes, a whole line. A stage in shared memory is BLOCK_M + BLOCK_N rows of 32 * GROUPS
// bytes, in chunks of 16; chunk c of row r lies at place c ^ swizzle(r), so that the 8 rows of one
// matrix load touch all 32 banks. Beside it lie the scales as they are in memory. Both come by
// asynchronous copies, STAGES - 1 ahead: codes 16 bytes at once, scales 4, because their rows begin
// at any multiple of 2 bytes; the half in front of an odd one is copied, too, and skipped. No word
// that reaches behind the array is read.
//
// codes.cuh tells how codes become operands, and the order of operations in a group; a block that
// has met a row scale for careful sums makes them from then on. One ldmatrix of 16 rows x 32 bytes
// is at once the operand of m16n8k64 for 4-bit codes. The rest is in low_rank.cuh, or in EPILOGUE,
// which is requantize.cuh: there y becomes the next layer's codes.

#include "codes.cuh"

#ifdef EPILOGUE
#include EPILOGUE
#else
#define SVDQ_NEXT_PARAMETERS
#endif

namespace {

constexpr int kThreads = 32 * WARPS_M * WARPS_N * WARPS_K;
constexpr int kTilesM = BLOCK_M / WARPS_M / 16;  // products that a warp has in a column of its tile
constexpr int kTilesN = BLOCK_N / WARPS_N / 8;
constexpr int kPitch = kGroupBytes * GROUPS;
constexpr int kChunks = kPitch / 16;
constexpr int kCodeBytes = (BLOCK_M + BLOCK_N) * kPitch;
template <int kRows>
constexpr int kScaleBytes = GROUPS * (kRows / 2 + 1) * 4;
constexpr int kColumnsAt = kCodeBytes + kScaleBytes<BLOCK_M>;  // of a stage
constexpr int kStageBytes = (kColumnsAt + kScaleBytes<BLOCK_N> + 15) / 16 * 16;

static_assert(kTilesM * WARPS_M * 16 == BLOCK_M, "BLOCK_M is not whole m16 tiles of the warps");
static_assert(kTilesN * WARPS_N * 8 == BLOCK_N, "BLOCK_N is not whole n8 tiles of the warps");
static_assert(kTilesN % 2 == 0, "a matrix load brings two n8 tiles");
static_assert(kTilesM <= 2 && kTilesN <= 4, "what a warp finishes at once must not spill");
static_assert(GROUPS == 2 || GROUPS == 4, "the parity of a row of scales must not change");
static_assert(GROUPS % WARPS_K == 0, "every slice needs as many groups of a stage");
static_assert(STAGES >= 2, "a stage is filled while another is read");
static_assert((WARPS_K - 1) * WARPS_M * WARPS_N * kTilesM * kTilesN * 512 <= STAGES * kStageBytes,
              "the sums of the slices must fit where the stages were");

// The place in its row at which a chunk of row `row` lies, given as what to exclusive-or it with.
SVDQ_INLINE int swizzle(int row) { return (row / (8 / kChunks)) % kChunks; }

using Sums = float[kTilesM][kTilesN][4];

// acc += the products of one group, by one warp. `codes` is the address of the stage's codes;
// `ascales` and `wscales` are the group's, of the warp's first row and column.
template <bool kPlain>
SVDQ_INLINE void add_group(Sums& acc, unsigned codes, const unsigned short* ascales,
                           const unsigned short* wscales, int group, int warp_row, int warp_col,
                           int lane) {
  const int quad = lane / 4, pair = lane % 4;
  unsigned a[kTilesM][kWaves][4];
  // Rows of a matrix load differ from `lane`'s by multiples of 8: one swizzle serves them all.
  const int a_row = warp_row + lane % 16;
  const unsigned a_at = codes + a_row * kPitch + (((2 * group + lane / 16) ^ swizzle(a_row)) * 16);
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
    unsigned word[4];
    ptx::load_matrices(word, a_at + 16 * i * kPitch);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      unsigned wide[kWaves];
      spread(wide, word[e], UNSIGNED);
#pragma unroll
      for (int wave = 0; wave < kWaves; ++wave) a[i][wave][e] = wide[wave];
    }
  }
  ascales += quad;
  wscales += 2 * pair;
  Float2 ascale[kTilesM][2];
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) ascale[i][half] = row_scale(ascales[16 * i + 8 * half]);
  }
  const int b_row = warp_col + lane / 16 * 8 + lane % 8;
  const unsigned b_at = codes + (BLOCK_M + b_row) * kPitch +
                        (((2 * group + lane / 8 % 2) ^ swizzle(BLOCK_M + b_row)) * 16);
#pragma unroll
  for (int j = 0; j < kTilesN; j += 2) {
    unsigned word[4];
    ptx::load_matrices(word, b_at + 8 * j * kPitch);
    unsigned b[2][2][kWaves];
    float wscale[2][2];
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      spread(b[odd][0], word[2 * odd], false);
      spread(b[odd][1], word[2 * odd + 1], false);
#pragma unroll
      for (int e = 0; e < 2; ++e) wscale[odd][e] = from_half(wscales[8 * (j + odd) + e], BF16);
    }
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        int total[4];
        multiply_codes(total, a[i], b[odd]);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& sum = acc[i][j + odd][e];
          sum = add_scaled<kPlain>(total[e], ascale[i][e / 2], wscale[odd][e % 2], sum);
        }
      }
    }
  }
}

// What one thread brings of every stage from one operand, of kRows rows (or columns, of y): some
// chunks of codes, and a word of two scales. All addresses of codes are one pointer, which moves on
// from step to step, plus multiples of one stride, because the compiler would keep a pointer for
// each chunk in registers, and spill the sums.
template <int kRows>
struct Operand {
  static constexpr int kRowsAtOnce = kThreads / kChunks;
  static constexpr int kCopies = (kRows + kRowsAtOnce - 1) / kRowsAtOnce;
  static constexpr int kWords = kRows / 2 + 1;  // of the scales of a group
  static_assert(kRowsAtOnce % 8 == 0, "the rows of one thread must share their swizzle");
  static_assert(GROUPS * kWords <= kThreads, "a thread brings one word of scales");

  const unsigned char* codes;  // the thread's first chunk of the next step to start
  int code_rows;               // rows of its first chunk and below
  const unsigned char* scales;  // its word of the next step to start
  int halves;                   // of it that are rows of the tile, or in front of them
  unsigned mask;                // of the word: what is rows of the tile
  int first;                    // whether a half lies in front, in group 0; it is so in all
  int odd;                      // groups, or in every other one
};

template <int kRows>
SVDQ_INLINE Operand<kRows> operand_at(const unsigned char* codes, const unsigned short* scales,
                                      int rows, int k, int row, int step) {
  using Shape = Operand<kRows>;
  const int chunk_row = row + ptx::thread() / kChunks;
  Operand<kRows> operand;
  operand.codes = codes + static_cast<long long>(chunk_row) * (k / 2) + step * kPitch +
                  ptx::thread() % kChunks * 16;
  operand.code_rows = rows - chunk_row;
  const int group = ptx::thread() / Shape::kWords, word = ptx::thread() % Shape::kWords;
  operand.first = ptx::is_odd_half(scales + row);
  operand.odd = rows % 2;
  const int front = (operand.first + group * operand.odd) % 2;
  operand.scales = reinterpret_cast<const unsigned char*>(
      scales + static_cast<long long>(step * GROUPS + group) * rows + row + 2 * word - front);
  const int present = rows - row < kRows ? rows - row : kRows;
  operand.halves = group >= GROUPS ? 0 : present + front - 2 * word;
  operand.mask = word == 0 && front ? 0x7fff0000u : operand.halves == 1 ? 0x7fffu : 0x7fff7fffu;
  return operand;
}

// Where in its row of halves group `group` begins.
template <int kRows>
SVDQ_INLINE int first_half(const Operand<kRows>& operand, int group) {
  return group * 2 * Operand<kRows>::kWords + (operand.first + group * operand.odd) % 2;
}

// Starts the copy of the thread's word of scales, with `groups` groups left. Where the tile has but
// one half of it, the other is whatever comes next in the array.
template <int kRows>
SVDQ_INLINE void bring_scales(const Operand<kRows>& operand, unsigned char* scales, int groups) {
  const int group = ptx::thread() / Operand<kRows>::kWords;
  if (group >= GROUPS) return;
  unsigned char* to = scales + 4 * ptx::thread();
  if (group == groups - 1 && operand.halves == 1) {  // nothing may come next
    *reinterpret_cast<unsigned*>(to) = *reinterpret_cast<const unsigned short*>(operand.scales);
  } else {
    const bool valid = group < groups && operand.halves > 0;
    ptx::copy_async_word(ptx::shared_address(to), operand.scales, valid ? 4 : 0);
  }
}

// Starts the copies of the next step, with `groups` groups left, to rows at `codes` and `scales`;
// what is outside of the matrix becomes zeros, or scales that nobody needs.
template <int kRows>
SVDQ_INLINE void bring(Operand<kRows>& operand, unsigned codes, unsigned char* scales, int groups,
                       int k, int rows) {
  using Shape = Operand<kRows>;
  const int row = ptx::thread() / kChunks, chunk = ptx::thread() % kChunks;
  const unsigned place = codes + row * kPitch + ((chunk ^ swizzle(row)) * 16);
  const unsigned char* from = operand.codes;
#pragma unroll
  for (int j = 0; j < Shape::kCopies; ++j) {
    const bool valid = j * Shape::kRowsAtOnce < operand.code_rows && chunk / 2 < groups;
    if (kRows % Shape::kRowsAtOnce == 0 || row + j * Shape::kRowsAtOnce < kRows) {
      ptx::copy_async(place + j * Shape::kRowsAtOnce * kPitch, from, valid);
    }
    from += static_cast<long long>(Shape::kRowsAtOnce) * (k / 2);
  }
  operand.codes += kPitch;
  bring_scales(operand, scales, groups);
  operand.scales += static_cast<long long>(GROUPS) * rows * 2;
}

// Whether a row's scale that this thread brought needs the careful sums.
SVDQ_INLINE bool is_careful(const Operand<BLOCK_M>& operand, const unsigned* scales) {
  if (ptx::thread() >= GROUPS * Operand<BLOCK_M>::kWords) return false;
  const unsigned word = scales[ptx::thread()] & operand.mask;
  return (word & 0xffffu) >= kCareful || (word >> 16) >= kCareful;
}

SVDQ_INLINE int after(int stage) { return stage + 1 == STAGES ? 0 : stage + 1; }

// Slice 0 adds the sums of slices 1, 2, ... to its own, in this order.
SVDQ_INLINE void add_slices(Sums& acc, unsigned char* shared, int warp, int slice, int lane) {
  constexpr int kWarpsOfSlice = WARPS_M * WARPS_N;
  float* place = reinterpret_cast<float*>(shared);
  ptx::block_barrier();  // every warp has read its last stage
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int item = (i * kTilesN + j) * 4 + e;
        if (slice > 0) {
          place[(((slice - 1) * kWarpsOfSlice + warp) * kTilesM * kTilesN * 4 + item) * 32 + lane] =
              acc[i][j][e];
        }
      }
    }
  }
  ptx::block_barrier();
  if (slice > 0) return;
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int item = (i * kTilesN + j) * 4 + e;
#pragma unroll
        for (int other = 0; other < WARPS_K - 1; ++other) {
          acc[i][j][e] = ptx::add(
              acc[i][j][e],
              place[((other * kWarpsOfSlice + warp) * kTilesM * kTilesN * 4 + item) * 32 + lane]);
        }
      }
    }
  }
}

// Stores a warp's sums as they are, for the second kernel.
SVDQ_INLINE void store_partial(const Sums& acc, float* partial, int m, int n, int row, int col,
                               int lane) {
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = row + 16 * i + 8 * half + lane / 4;
        const int column = col + 8 * j + 2 * (lane % 4);
        if (at < m && column < n) {
          *reinterpret_cast<Float2*>(partial + static_cast<long long>(at) * n + column) =
              Float2{acc[i][j][2 * half], acc[i][j][2 * half + 1]};
        }
      }
    }
  }
}

// Where the block's tile begins, and the warp's tile within it.
struct Place {
  int row, col, warp_row, warp_col, lane, slice, warp;
};

SVDQ_INLINE Place place_of(int thread, int m, int n, int band) {
  const int tile_rows = (m + BLOCK_M - 1) / BLOCK_M, tile_cols = (n + BLOCK_N - 1) / BLOCK_N;
  const int first = ptx::block_x() / (band * tile_cols) * band;
  const int in_band = tile_rows - first < band ? tile_rows - first : band;
  const int number = ptx::block_x() % (band * tile_cols);
  Place place;
  place.row = (first + number % in_band) * BLOCK_M;
  place.col = number / in_band * BLOCK_N;
  place.lane = thread % 32;
  place.slice = thread / 32 / (WARPS_M * WARPS_N);
  place.warp = thread / 32 % (WARPS_M * WARPS_N);
  place.warp_row = place.warp / WARPS_N * (BLOCK_M / WARPS_M);
  place.warp_col = place.warp % WARPS_N * (BLOCK_N / WARPS_N);
  return place;
}

}  // namespace

// Grid: x = output tiles, y = splits. `workspace` [splits, m, n] is used if there are several.
SVDQ_KERNEL(kThreads, BLOCKS)
svdq_gemm_w4a4(const unsigned char* __restrict__ codes, const unsigned char* __restrict__ wcodes,
               const unsigned short* __restrict__ ascales,
               const unsigned short* __restrict__ wscales, const float* __restrict__ lora_act,
               const unsigned short* __restrict__ lora_up, const unsigned short* __restrict__ bias,
               const unsigned short* __restrict__ wcscales, unsigned short* __restrict__ y,
               float* __restrict__ workspace, int m, int n, int k, int r, float alpha,
               int out_bf16, int band SVDQ_NEXT_PARAMETERS) {
  SVDQ_SHARED(shared);
  const Place place = place_of(ptx::thread(), m, n, band);
  const int slice = place.slice;
  const int groups = k / 64;
  const int steps = (groups + GROUPS - 1) / GROUPS;
  const int share = (steps + ptx::blocks_y() - 1) / ptx::blocks_y();
  const int from = ptx::block_y() * share;
  const int until = from + share < steps ? from + share : steps;

  const Finish f{lora_act, lora_up, bias, wcscales, y, m, n, r, alpha, BF16, out_bf16};
  if (ptx::blocks_y() == 1) prefetch_finish(f, place.col, BLOCK_N);

  // A stage: codes of rows and of columns, scales of rows and of columns.
  const unsigned base = ptx::shared_address(shared);
  Operand<BLOCK_M> acts = operand_at<BLOCK_M>(codes, ascales, m, k, place.row, from);
  Operand<BLOCK_N> weights = operand_at<BLOCK_N>(wcodes, wscales, n, k, place.col, from);
  auto bring_step = [&](int step, int stage) {
    if (step < until) {
      const int left = groups - step * GROUPS;
      const unsigned at = base + stage * kStageBytes;
      unsigned char* scales = shared + stage * kStageBytes;
      bring(acts, at, scales + kCodeBytes, left, k, m);
      bring(weights, at + BLOCK_M * kPitch, scales + kColumnsAt, left, k, n);
    }
    ptx::close_batch();
  };
#pragma unroll 1
  for (int ahead = 0; ahead < STAGES - 1; ++ahead) bring_step(from + ahead, ahead);

  Sums acc;
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0.0f;
    }
  }
  bool careful = false;
  int read = 0, brought = STAGES - 1;  // stages
#pragma unroll 1
  for (int step = from; step < until; ++step) {
    const unsigned char* stage = shared + read * kStageBytes;
    const unsigned stage_at = base + read * kStageBytes;
    ptx::wait_batches<STAGES - 2>();
    careful |= is_careful(acts, reinterpret_cast<const unsigned*>(stage + kCodeBytes));
    // After this, the step's codes and scales are there, and the stage of step - 1 is free.
    careful = ptx::block_barrier_any(careful);
    bring_step(step + STAGES - 1, brought);
    const auto* rows = reinterpret_cast<const unsigned short*>(stage + kCodeBytes);
    const auto* columns = reinterpret_cast<const unsigned short*>(stage + kColumnsAt);
#pragma unroll 1
    for (int turn = 0; turn < GROUPS / WARPS_K; ++turn) {
      const int group = turn * WARPS_K + slice;
      const unsigned short* ascale = rows + first_half(acts, group) + place.warp_row;
      const unsigned short* wscale = columns + first_half(weights, group) + place.warp_col;
      if (careful) {
        add_group<false>(acc, stage_at, ascale, wscale, group, place.warp_row, place.warp_col,
                         place.lane);
      } else {
        add_group<true>(acc, stage_at, ascale, wscale, group, place.warp_row, place.warp_col,
                        place.lane);
      }
    }
    read = after(read);
    brought = after(brought);
  }
  ptx::wait_batches<0>();

  if constexpr (WARPS_K > 1) {
    add_slices(acc, shared, place.warp, place.slice, place.lane);
#ifndef EPILOGUE
    if (place.slice > 0) return;
#endif
  }
#ifdef EPILOGUE
  static_assert(kRequantizeBytes <= STAGES * kStageBytes, "y must fit where the stages were");
  auto load = [&](Sums& sum) { copy_sums(sum, acc); };
  requantize<kTilesM, kTilesN>(load, f, SVDQ_NEXT, shared, place.slice == 0, place.row, place.col,
                               place.warp_row, place.warp_col);
#else
  const int row = place.row + place.warp_row, col = place.col + place.warp_col;
  if (ptx::blocks_y() == 1) {
    auto load = [&](Sums& sum) { copy_sums(sum, acc); };
    finish<kTilesM, kTilesN>(load, f, row, col, place.lane);
  } else {
    float* partial = workspace + static_cast<long long>(ptx::block_y()) * m * n;
    store_partial(acc, partial, m, n, row, col, place.lane);
  }
#endif
}
