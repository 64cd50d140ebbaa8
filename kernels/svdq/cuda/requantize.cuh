// The end of a W4A4 GEMM whose result is the next layer's input: y never leaves the block.
//
// Tiling. The block's tile of y, as halves, goes to shared memory where the stages were. Then its
// warps, all slices of k among them, share out pieces of 16 rows: by groups of 64 columns to be
// quantized (encode.cuh), and by 16 ranks to be multiplied by the next lora_down. A tile has whole
// groups, so codes and scales have one owner each.
//
// Layout. Rows of the tile and of lora_down, of which kRanksAtOnce columns are there at a time, are
// an odd number of 16 bytes apart, so that the 8 rows of a matrix load touch all 32 banks.
//
// Order of operations: y = half(finish(sums)); codes and scales of half(y / smooth), or unsigned of
// half(half(y + 0.171875) / smooth); lora_act = y @ lora_down on tensor cores, of a tile's columns
// here, to sums[tile column][m][r]. A second kernel adds these in the order of the tiles: nothing
// is added atomically.
#pragma once
#include "encode.cuh"
#include "low_rank.cuh"

#ifndef NEXT_UNSIGNED
#error "define NEXT_UNSIGNED: whether the next layer takes unsigned codes"
#endif

#define SVDQ_NEXT_PARAMETERS                                                              \
  , const unsigned short *__restrict__ next_smooth,                                       \
      const unsigned short *__restrict__ next_lora_down,                                  \
      unsigned char *__restrict__ next_codes, unsigned short *__restrict__ next_ascales, \
      float *__restrict__ next_sums, int next_r
#define SVDQ_NEXT \
  Next { next_smooth, next_lora_down, next_codes, next_ascales, next_sums, next_r }

// What the next layer reads, and what it is given.
struct Next {
  const unsigned short* smooth;     // [n]
  const unsigned short* lora_down;  // [n, r]
  unsigned char* codes;             // [m, n / 2]
  unsigned short* ascales;          // [n / 64, m]
  float* sums;                      // [tile columns, m, r]
  int r;
};

constexpr int kRanksAtOnce = 32;
constexpr int kTilePitch = 2 * BLOCK_N + 16;  // bytes
constexpr int kTileBytes = BLOCK_M * kTilePitch;
constexpr int kDownPitch = 2 * kRanksAtOnce + 16;
constexpr int kRequantizeBytes = kTileBytes + BLOCK_N * kDownPitch;
static_assert(BLOCK_N % 64 == 0, "a tile must have whole groups");

// Starts the copies of lora_down's columns `rank` and on, for the tile's columns.
SVDQ_INLINE void bring_next_down(const Next& next, unsigned place, int n, int col, int rank) {
  constexpr int kChunks = kRanksAtOnce / 8;
  constexpr int kThreads = 32 * WARPS_M * WARPS_N * WARPS_K;
#pragma unroll 1
  for (int item = ptx::thread(); item < BLOCK_N * kChunks; item += kThreads) {
    const int row = item / kChunks, first = rank + item % kChunks * 8;
    const unsigned short* from = next.lora_down + static_cast<long long>(col + row) * next.r;
    ptx::copy_async(place + row * kDownPitch + item % kChunks * 16, from + first,
                    col + row < n && first < next.r);
  }
  ptx::close_batch();
}

// Quantizes 16 rows of one group; `tile` and `col` are those of its first element.
SVDQ_INLINE void requantize_group(const Next& next, const unsigned char* tile, int m, int n,
                                  int row, int col, int lane) {
  const int quad = lane / 4, pair = lane % 4;
  unsigned word[2][8], divisors[8];
  auto row_of = [&](int half) {
    return reinterpret_cast<const unsigned short*>(tile + (quad + 8 * half) * kTilePitch);
  };
  auto is_there = [&](int half) { return row + quad + 8 * half < m; };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    load_row(word[half], row_of(half), pair, is_there(half));
    if constexpr (NEXT_UNSIGNED) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        word[half][i] = to_halves(ptx::add(half_of(word[half][i], 0), kShift),
                                  ptx::add(half_of(word[half][i], 1), kShift));
      }
    }
  }
  load_row(divisors, next.smooth + col, pair, true);
  const auto store = [&](int half, const Codes& made) {
    const int at = row + quad + 8 * half;
    if (at >= m) return;
    unsigned char* place = next.codes + static_cast<long long>(at) * (n / 2) + col / 2 + 4 * pair;
    *reinterpret_cast<unsigned*>(place) = made.word[0];
    *reinterpret_cast<unsigned*>(place + 16) = made.word[1];
    if (pair == 0) next.ascales[static_cast<long long>(col / 64) * m + at] = to_half(made.scale);
  };
  encode_group<NEXT_UNSIGNED>(word, divisors, true, store, [&](int half) {
    return quantize_extreme<NEXT_UNSIGNED>(row_of(half), next.smooth + col, pair, is_there(half));
  });
}

// The product of 16 rows of the tile with 16 columns of lora_down, over `columns` of y.
SVDQ_INLINE void multiply_next_down(const Next& next, unsigned tile, unsigned down, int columns,
                                    float* sums, int m, int row, int rank, int lane) {
  float sum[2][4] = {};
  const unsigned a_at = tile + lane % 16 * kTilePitch + lane / 16 * 16;
  // Matrices: the first and last 8 rows of lora_down, of 8 ranks, then of the next 8.
  const unsigned b_at = down + (lane / 8 % 2 * 8 + lane % 8) * kDownPitch + lane / 16 * 16;
#pragma unroll 2
  for (int k = 0; k < columns; k += 16) {
    unsigned a[4], b[4];
    ptx::load_matrices(a, a_at + 2 * k);
    ptx::load_matrices_transposed(b, b_at + k * kDownPitch);
    multiply_halves(sum[0], a, b[0], b[1]);
    multiply_halves(sum[1], a, b[2], b[3]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = row + lane / 4 + 8 * half;
    if (at >= m || rank >= next.r) continue;  // r is a multiple of 16
    float* place = sums + static_cast<long long>(at) * next.r + rank + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      *reinterpret_cast<Float2*>(place + 8 * j) = Float2{sum[j][2 * half], sum[j][2 * half + 1]};
    }
  }
}

// All of it. `load(sum)` brings a warp's sums, which begin at (warp_row, warp_col) of the tile, whose
// first element is y[row][col]; warps of `owns` have them. All threads of the block come here.
template <int kTilesM, int kTilesN, class Load>
SVDQ_INLINE void requantize(Load load, const Finish& f, const Next& next, unsigned char* shared,
                            bool owns, int row, int col, int warp_row, int warp_col) {
  constexpr int kStrips = BLOCK_M / 16;
  constexpr int kWarps = WARPS_M * WARPS_N * WARPS_K;
  const int lane = ptx::thread() % 32, warp = ptx::thread() / 32;
  const unsigned tile = ptx::shared_address(shared), down = tile + kTileBytes;
  ptx::block_barrier();  // every warp has read its last stage, and the other slices' sums
  bring_next_down(next, down, f.n, col, 0);
  if (owns) {
    auto store = [&](int at, int column, unsigned two) {
      *reinterpret_cast<unsigned*>(shared + (at - row) * kTilePitch + 2 * (column - col)) = two;
    };
    finish_to<kTilesM, kTilesN>(store, load, f, row + warp_row, col + warp_col, lane);
  }
  ptx::wait_batches<0>();
  ptx::block_barrier();  // the tile and the first columns of lora_down are there
  const int columns = f.n - col < BLOCK_N ? f.n - col : BLOCK_N;
#pragma unroll 1
  for (int item = warp; item < kStrips * (columns / 64); item += kWarps) {
    const int strip = item % kStrips * 16, group = item / kStrips * 64;
    requantize_group(next, shared + strip * kTilePitch + 2 * group, f.m, f.n, row + strip,
                     col + group, lane);
  }
  float* sums = next.sums + static_cast<long long>(col / BLOCK_N) * f.m * next.r;
#pragma unroll 1
  for (int rank = 0; rank < next.r; rank += kRanksAtOnce) {
    if (rank > 0) {
      ptx::block_barrier();  // every warp has read the columns before
      bring_next_down(next, down, f.n, col, rank);
      ptx::wait_batches<0>();
      ptx::block_barrier();
    }
#pragma unroll 1
    for (int item = warp; item < kStrips * (kRanksAtOnce / 16); item += kWarps) {
      const int strip = item % kStrips * 16, part = item / kStrips * 16;
      multiply_next_down(next, tile + strip * kTilePitch, down + 2 * part, columns, sums, f.m,
                         row + strip, rank + part, lane);
    }
  }
}
