// SVDQuant's W4A4 GEMM for few rows, where what counts is how fast weights come from memory.
//
// Tiling. A block owns BLOCK_M x BLOCK_N outputs, or with several blocks a tile its share of k.
// Columns are the operand with 16 rows and the rows of activations the one with 8 columns: so with 8
// rows or less a product computes nothing in vain. Each of WARPS warps takes the whole tile for
// steps of its own: every WARPS-th one of GROUPS groups. It fills and reads stages that no other warp
// sees, so these warps wait for memory and never for each other before the end. Some more warps, the
// finishers, compute the low-rank product meanwhile. Then they finish the tile in pieces of 16
// columns and 8 rows: a finisher adds the warps' sums in the order of their numbers, and those of the
// blocks that share the tile in the order of theirs. From sm90 on these blocks are a cluster, and
// read each other's shared memory; before, the sums go to workspace[split][m][n], and a second kernel
// adds them. Nothing is added atomically: the bits do not depend on timing.
//
// Layout. Codes [m, k/2] and [n, k/2] are read as they are, two codes a byte, even k low: of a row,
// one line of 128 bytes a step. In shared memory, chunk c of 16 bytes of row r lies at place
// c ^ swizzle(r), so that the 8 rows of one matrix load touch all 32 banks. Beside the codes lie the
// scales as they are in memory. Those of columns begin at a multiple of 16 bytes, because n is a
// multiple of 8; those of rows at any multiple of 2, and come as words of 4, the half in front of an
// odd one too.
//
// Overlap. From sm90 on the kernel may be launched while the one before it still runs, which it waits
// for; it lets the next one start when nothing is left to it but to finish.
//
// codes.cuh tells the order of operations in a group, low_rank.cuh the rest.

#include "codes.cuh"

namespace {

constexpr int kGroups = 4;  // a step: of a row, a whole line of 128 bytes
constexpr int kAtOnce = 2;  // groups whose products are interleaved
constexpr int kTilesM = BLOCK_M / 8, kTilesN = BLOCK_N / 16, kPieces = kTilesM * kTilesN;
constexpr int kFinishers = kPieces < 4 ? kPieces : 4;
constexpr int kOwn = (kPieces + kFinishers - 1) / kFinishers;  // pieces of a finisher, at most
constexpr int kThreads = 32 * (WARPS + kFinishers);
constexpr int kPitch = kGroupBytes * kGroups;
constexpr int kChunks = kPitch / 16;
constexpr int kRowsAtOnce = 32 / kChunks;
constexpr int kRowsAt = (BLOCK_M + BLOCK_N) * kPitch;  // of a stage: where row scales begin
constexpr int kRowWords = BLOCK_M / 2 + 1;             // of the row scales of a group
constexpr int kColumnsAt = kRowsAt + (kGroups * kRowWords * 4 + 15) / 16 * 16;
constexpr int kStageBytes = kColumnsAt + kGroups * BLOCK_N * 2;
constexpr int kColumnChunks = BLOCK_N / 8;  // of the column scales of a group
constexpr int kWarpBytes = STAGES * kStageBytes;

static_assert(BLOCK_M % 8 == 0 && BLOCK_N % 32 == 0, "a matrix load brings scales of 32 columns");
static_assert(kRowsAtOnce == 4 && kChunks == 8, "the copies of a lane have swizzles 4 apart");
static_assert(kGroups * kColumnChunks <= 32, "a lane brings one chunk of column scales");
static_assert(STAGES >= 2, "a stage is filled while another is read");
static_assert(kPieces * 512 <= kWarpBytes, "a warp's sums must fit where its stages were");

// [i][t]: 16 columns from 16 * i on, 8 rows from 8 * t on. Items 0 and 1 are column `quad`, rows
// 2 * pair and 2 * pair + 1; items 2 and 3 column quad + 8.
using Sums = float[kTilesN][kTilesM][4];

SVDQ_INLINE int swizzle(int row) { return row % kChunks; }

// What the tile is made of, at its first row and column.
struct Tile {
  const unsigned char* codes;     // of the row
  const unsigned char* wcodes;    // of the column
  const unsigned short* ascales;  // [groups, m], of the row in group 0
  const unsigned short* wscales;  // [groups, n], of the column in group 0
  int rows, columns;              // that there are, from here on
  int m, n, k;
};

// Whether a half lies in front of the row scales of a step's `group` in their first word. It is the
// same in every step, because a step is an even number of groups.
SVDQ_INLINE int in_front(const Tile& tile, int group) {
  return (ptx::is_odd_half(tile.ascales) + group * tile.m) & 1;
}

// A word of row scales that a lane brings of every step.
struct Word {
  int group;  // of the step
  int half;   // the row that is its first half; -1 if that is in front

  SVDQ_INLINE Word(const Tile& tile, int at) {
    group = at / kRowWords;
    half = at % kRowWords * 2 - in_front(tile, group);
  }
};

// Where a warp copies from next, of rows or of columns.
struct Cursor {
  const unsigned char* codes;    // the lane's first chunk of the step
  const unsigned short* scales;  // of the step's first group, and the tile's first row or column
  int groups;                    // left
};

SVDQ_INLINE Cursor cursor_at(const unsigned char* codes, const unsigned short* scales, int across,
                             int k, int step, int lane) {
  Cursor cursor;
  cursor.codes = codes + lane / kChunks * (k / 2LL) + lane % kChunks * 16 +
                 static_cast<long long>(step) * kPitch;
  cursor.scales = scales + static_cast<long long>(step) * kGroups * across;
  cursor.groups = k / 64 - step * kGroups;
  return cursor;
}

// To the warp's next step, with scales of `across` rows or columns a group.
SVDQ_INLINE void move_on(Cursor& cursor, int across) {
  cursor.codes += WARPS * kPitch;
  cursor.scales += static_cast<long long>(WARPS * kGroups) * across;
  cursor.groups -= WARPS * kGroups;
}

// Starts the copies of kRows rows of codes; those that there are not become zeros. If kWhole, all
// are there.
template <int kRows, bool kWhole>
SVDQ_INLINE void bring_codes(unsigned to, const unsigned char* from, const Tile& tile, int rows,
                             int groups, int lane) {
  const int row = lane / kChunks, chunk = lane % kChunks;
  const unsigned place[2] = {to + row * kPitch + (chunk ^ row) * 16,
                             to + row * kPitch + (chunk ^ row ^ 4) * 16};
  const long long apart = kRowsAtOnce * (tile.k / 2LL);
#pragma unroll
  for (int j = 0; j < kRows / kRowsAtOnce; ++j) {
    const bool valid = kWhole || (chunk / 2 < groups && row + j * kRowsAtOnce < rows);
    ptx::copy_async(place[j % 2] + j * kRowsAtOnce * kPitch, from, valid);
    from += apart;
  }
}

// Starts the copies of row scales; in the place of rows that there are not comes whatever lies
// behind in the array, or nothing.
SVDQ_INLINE void bring_row_scales(unsigned char* stage, unsigned stage_at, const Cursor& cursor,
                                  const Tile& tile, int lane) {
#pragma unroll
  for (int first = 0; first < kGroups * kRowWords; first += 32) {
    const int at = first + lane;
    const Word word(tile, at);
    if (at >= kGroups * kRowWords || word.half >= tile.rows || word.group >= cursor.groups) continue;
    const unsigned short* from = cursor.scales + word.group * tile.m + word.half;
    // A word's second half may be the first one that the array has not.
    if (word.group == cursor.groups - 1 && word.half + 1 == tile.rows) {
      *reinterpret_cast<unsigned short*>(stage + kRowsAt + 4 * at) = *from;
    } else {
      ptx::copy_async_word(stage_at + kRowsAt + 4 * at, from, 4);
    }
  }
}

// Starts the copies of the next step of columns, codes and scales, and moves on to the one after.
SVDQ_INLINE void bring_columns(unsigned stage_at, Cursor& cursor, const Tile& tile, int lane) {
  const unsigned codes_at = stage_at + BLOCK_M * kPitch;
  const int groups = cursor.groups;
  if (tile.columns >= BLOCK_N && groups >= kGroups) {
    bring_codes<BLOCK_N, true>(codes_at, cursor.codes, tile, 0, 0, lane);
  } else {
    bring_codes<BLOCK_N, false>(codes_at, cursor.codes, tile, tile.columns, groups, lane);
  }
  if (lane < kGroups * kColumnChunks) {
    const int column = lane % kColumnChunks * 8;
    const unsigned short* from =
        cursor.scales + lane / kColumnChunks * static_cast<long long>(tile.n) + column;
    ptx::copy_async(stage_at + kColumnsAt + lane * 16, from,
                    lane / kColumnChunks < groups && column < tile.columns);
  }
  move_on(cursor, tile.n);
}

// The same of rows.
SVDQ_INLINE void bring_rows(unsigned char* stage, unsigned stage_at, Cursor& cursor,
                            const Tile& tile, int lane) {
  bring_codes<BLOCK_M, false>(stage_at, cursor.codes, tile, tile.rows, cursor.groups, lane);
  bring_row_scales(stage, stage_at, cursor, tile, lane);
  move_on(cursor, tile.m);
}

// The rows of activations as an operand, of one group.
struct Rows {
  unsigned codes[kTilesM][2][kWaves];
  Float2 scale[kTilesM][2];  // of rows 2 * pair and 2 * pair + 1
};

// Rows of groups from `first` on.
SVDQ_INLINE void load_rows(Rows (&rows)[kAtOnce], unsigned stage_at, int first, int lane) {
  // Four matrices at once: both halves of k, of two tiles, or of both groups if there is one tile.
  const int half = lane / 8;
#pragma unroll
  for (int part = 0; part < kTilesM; ++part) {
    const int group = first + (kTilesM == 1 ? half / 2 : part % 2);
    const int tile = kTilesM == 1 ? 0 : part / 2 * 2 + half / 2;
    const int row = 8 * tile + lane % 8, chunk = 2 * group + half % 2;
    unsigned word[4];
    ptx::load_matrices(word, stage_at + row * kPitch + (chunk ^ swizzle(row)) * 16);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      Rows& of = rows[kTilesM == 1 ? e / 2 : part % 2];
      spread(of.codes[kTilesM == 1 ? 0 : part / 2 * 2 + e / 2][e % 2], word[e], UNSIGNED);
    }
  }
}

// Half of a word whose halves are the same.
SVDQ_INLINE float either_half(unsigned word) {
  if constexpr (BF16) return ptx::as_float(word & 0xffff0000u);
  return ptx::from_fp16(static_cast<unsigned short>(word));
}

// acc += the products of one group.
template <bool kPlain>
SVDQ_INLINE void add_group(Sums& acc, const Rows& rows, unsigned stage_at, int group, int lane) {
  const int column = BLOCK_M + lane % 16;
  const unsigned at = stage_at + column * kPitch + ((2 * group + lane / 16) ^ swizzle(column)) * 16;
  // Every row of matrix q is the same 8 scales: transposed, lanes of a quad have that of theirs.
  const unsigned scales_at = stage_at + kColumnsAt + group * BLOCK_N * 2 + lane / 8 * 16;
#pragma unroll
  for (int i = 0; i < kTilesN; i += 2) {
    unsigned scales[4];
    ptx::load_matrices_transposed(scales, scales_at + i * 32);
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      unsigned word[4], wide[kWaves][4];
      ptx::load_matrices(word, at + 16 * (i + odd) * kPitch);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        unsigned parts[kWaves];
        spread(parts, word[e], false);
#pragma unroll
        for (int wave = 0; wave < kWaves; ++wave) wide[wave][e] = parts[wave];
      }
      const float column_scale[2] = {either_half(scales[2 * odd]),
                                     either_half(scales[2 * odd + 1])};
#pragma unroll
      for (int t = 0; t < kTilesM; ++t) {
        int total[4];
        multiply_columns(total, wide, rows.codes[t]);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& sum = acc[i + odd][t][e];
          sum = add_scaled<kPlain>(total[e], rows.scale[t][e % 2], column_scale[e / 2], sum);
        }
      }
    }
  }
}

// acc += the products of `kAtOnce` groups of a step from `first` on. `groups` of the step are in k.
SVDQ_INLINE void add_groups(Sums& acc, const unsigned char* stage, const Tile& tile, int first,
                            int groups, int lane) {
  const unsigned stage_at = ptx::shared_address(stage);
  const int pair = lane % 4;
  Rows rows[kAtOnce];
  bool careful = false;
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    const auto* halves = reinterpret_cast<const unsigned short*>(stage + kRowsAt) +
                         (first + i) * 2 * kRowWords + in_front(tile, first + i);
#pragma unroll
    for (int t = 0; t < kTilesM; ++t) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = 8 * t + 2 * pair + e;
        const unsigned short scale = row < tile.rows && first + i < groups ? halves[row] : 0;
        careful |= (scale & 0x7fffu) >= kCareful;
        rows[i].scale[t][e] = row_scale(scale);
      }
    }
  }
  load_rows(rows, stage_at, first, lane);
  // Of a group that there is not, all codes and scales are zeros.
  if (ptx::any_lane(careful)) {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      add_group<false>(acc, rows[i], stage_at, first + i, lane);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) add_group<true>(acc, rows[i], stage_at, first + i, lane);
  }
}

SVDQ_INLINE int after(int stage) { return stage + 1 == STAGES ? 0 : stage + 1; }

// Where piece `piece` of warp `warp` has its sums: a Float4 a lane, where the warp's stages were.
SVDQ_INLINE Float4* sums_of(unsigned char* shared, int warp, int piece, int lane) {
  return reinterpret_cast<Float4*>(shared + warp * kWarpBytes) + piece * 32 + lane;
}

// The sums of one warp over its steps, left where its stages were. They are every WARPS-th of the
// block's from the warp's number on, begun at another one in each block: all of them at the same
// place of their rows would be many requests to few channels of memory.
SVDQ_INLINE void multiply_share(unsigned char* shared, const Tile& tile, int from, int until,
                                int warp, int lane) {
  const int first = from + warp;
  const int count = first < until ? (until - first + WARPS - 1) / WARPS : 0;
  const int turn = count > 0 ? ptx::block_x() % count : 0;
  const auto columns_from = [&](int step) {
    return cursor_at(tile.wcodes, tile.wscales, tile.n, tile.k, step, lane);
  };
  const auto rows_from = [&](int step) {
    return cursor_at(tile.codes, tile.ascales, tile.m, tile.k, step, lane);
  };
  Cursor columns = columns_from(first + turn * WARPS), rows = rows_from(first + turn * WARPS);
  unsigned char* stages = shared + warp * kWarpBytes;
  Sums acc;
#pragma unroll
  for (int i = 0; i < kTilesN; ++i) {
#pragma unroll
    for (int t = 0; t < kTilesM; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][t][e] = 0.0f;
    }
  }
  constexpr int kAhead = STAGES - 1;
  int read = 0, brought = 0;  // stages
#pragma unroll 1
  for (int i = -kAhead; i < count; ++i) {  // below 0 nothing has come
    if (i >= 0) {
      ptx::wait_batches<STAGES - 2>();
      // After this, every lane's copies of the step are there, and the stage before it is free.
      ptx::warp_barrier();
    }
    const int next = i + kAhead;
    if (next < count) {
      unsigned char* stage = stages + brought * kStageBytes;
      const unsigned stage_at = ptx::shared_address(stage);
      if (next > 0 && next + turn == count) {
        rows = rows_from(first);
        columns = columns_from(first);
      }
      bring_columns(stage_at, columns, tile, lane);
      bring_rows(stage, stage_at, rows, tile, lane);
    }
    ptx::close_batch();
    brought = after(brought);
    if (i < 0) continue;
    const int step = first + (i + turn - (i + turn < count ? 0 : count)) * WARPS;
    const int groups = tile.k / 64 - step * kGroups;
#pragma unroll 1
    for (int group = 0; group < kGroups && group < groups; group += kAtOnce) {
      add_groups(acc, stages + read * kStageBytes, tile, group, groups, lane);
    }
    read = after(read);
  }
  ptx::wait_batches<0>();
  ptx::warp_barrier();  // every lane has read the last stage
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const float(&sum)[4] = acc[piece / kTilesM][piece % kTilesM];
    *sums_of(shared, warp, piece, lane) = Float4{{sum[0], sum[1], sum[2], sum[3]}};
  }
}

SVDQ_INLINE Float4 add_four(Float4 a, Float4 b) {
#pragma unroll
  for (int e = 0; e < 4; ++e) a.at[e] = ptx::add(a.at[e], b.at[e]);
  return a;
}

// The sums of one piece over all warps.
SVDQ_INLINE Float4 add_warps(unsigned char* shared, int piece, int lane) {
  Float4 sum = *sums_of(shared, 0, piece, lane);
#pragma unroll
  for (int warp = 1; warp < WARPS; ++warp) sum = add_four(sum, *sums_of(shared, warp, piece, lane));
  return sum;
}

// Those of one piece over all blocks of the cluster, each of which has left its own with warp 0.
SVDQ_INLINE Float4 add_blocks(unsigned char* shared, int piece, int lane) {
  Float4* place = sums_of(shared, 0, piece, lane);
  Float4 sum = *place;
#pragma unroll 1
  for (int block = 1; block < ptx::blocks_y(); ++block) {
    Float4 other;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      other.at[e] = ptx::cluster_float(ptx::shared_address(place) + 4 * e, block);
    }
    sum = add_four(sum, other);
  }
  return sum;
}

// The low-rank product of a piece, as multiply_low_rank has it, with columns for rows.
SVDQ_INLINE Float4 multiply_low_rank_piece(const Finish& f, int row, int col, int lane) {
  const int quad = lane / 4, pair = lane % 4, act_row = row + quad;
  float sum[4] = {}, rest[4] = {};
#pragma unroll 2
  for (int rank = 0; rank < f.r; rank += 16) {
    // Slot s of a lane is rank 4 * pair + s: word pair + 4 * (s % 2) of product s / 2.
    Float4 act = Float4{};
    if (act_row < f.m) {
      act = *reinterpret_cast<const Float4*>(f.lora_act + static_cast<long long>(act_row) * f.r +
                                             rank + 4 * pair);
    }
    unsigned up[2][4];  // as operand words: [product][half + 2 * (slot % 2)]
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = col + quad + 8 * half;
      Half4 four = Half4{};
      if (column < f.n) {
        four = *reinterpret_cast<const Half4*>(f.lora_up + static_cast<long long>(column) * f.r +
                                               rank + 4 * pair);
      }
#pragma unroll
      for (int slot = 0; slot < 4; ++slot) {
        up[slot / 2][half + 2 * (slot % 2)] =
            ptx::as_bits(from_half(four.at[slot], f.scales_bf16));
      }
    }
    unsigned high[4], low[4];
#pragma unroll
    for (int slot = 0; slot < 4; ++slot) split_tf32(act.at[slot], high[slot], low[slot]);
#pragma unroll
    for (int product = 0; product < 2; ++product) {
      ptx::product_tf32(rest, up[product], low[2 * product], low[2 * product + 1]);
      ptx::product_tf32(sum, up[product], high[2 * product], high[2 * product + 1]);
    }
  }
  Float4 made;
#pragma unroll
  for (int e = 0; e < 4; ++e) made.at[e] = add_rest(sum[e], rest[e]);
  return made;
}

// Finishes and stores a piece, with its low-rank product if there is one.
SVDQ_INLINE void finish_piece(const Float4& sum, const Float4& low_rank, const Finish& f, int row,
                              int col, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int column = col + lane / 4 + 8 * half;
    if (column >= f.n) continue;
    const Channel channel = channel_of(f, column);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int at = row + 2 * (lane % 4) + e;
      if (at >= f.m) continue;
      const float value = finish_value(sum.at[2 * half + e], channel, low_rank.at[2 * half + e], f);
      f.y[static_cast<long long>(at) * f.n + column] = round_output(value, f.out_bf16);
    }
  }
}

// Stores the sums of a piece as they are, for the second kernel.
SVDQ_INLINE void store_partial(const Float4& sum, float* partial, int m, int n, int row, int col,
                               int lane) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int at = row + 2 * (lane % 4) + e % 2, column = col + lane / 4 + e / 2 * 8;
    if (at < m && column < n) partial[static_cast<long long>(at) * n + column] = sum.at[e];
  }
}

}  // namespace

// Grid: x = output tiles, rows of tiles slowest; y = splits of k, on PATH_S8 one cluster of blocks.
// Elsewhere `workspace` [splits, m, n] is used if there are several.
SVDQ_KERNEL(kThreads, 1)
svdq_gemm_w4a4_short(const unsigned char* __restrict__ codes,
                     const unsigned char* __restrict__ wcodes,
                     const unsigned short* __restrict__ ascales,
                     const unsigned short* __restrict__ wscales, const float* __restrict__ lora_act,
                     const unsigned short* __restrict__ lora_up,
                     const unsigned short* __restrict__ bias,
                     const unsigned short* __restrict__ wcscales, unsigned short* __restrict__ y,
                     float* __restrict__ workspace, int m, int n, int k, int r, float alpha,
                     int out_bf16) {
  SVDQ_SHARED(shared);
  const int lane = ptx::thread() % 32, warp = ptx::thread() / 32;
  const int tile_cols = (n + BLOCK_N - 1) / BLOCK_N;
  const int row = ptx::block_x() / tile_cols * BLOCK_M, col = ptx::block_x() % tile_cols * BLOCK_N;
  const Tile tile{codes + static_cast<long long>(row) * (k / 2),
                  wcodes + static_cast<long long>(col) * (k / 2),
                  ascales + row,
                  wscales + col,
                  m - row,
                  n - col,
                  m,
                  n,
                  k};
  const int steps = (k / 64 + kGroups - 1) / kGroups;
  const int share = (steps + ptx::blocks_y() - 1) / ptx::blocks_y();
  const int from = ptx::block_y() * share;
  const int until = from + share < steps ? from + share : steps;

  const Finish f{lora_act, lora_up, bias, wcscales, y, m, n, r, alpha, BF16, out_bf16};
  const bool finishes = ptx::block_y() == 0 && (PATH_S8 || ptx::blocks_y() == 1);
  if (PATH_S8 && finishes) prefetch_finish(f, col, BLOCK_N);
  ptx::wait_for_previous();

  const int finisher = warp - WARPS;
  Float4 low_rank[kOwn];
  if (finisher < 0) {
    multiply_share(shared, tile, from, until, warp, lane);
  } else if (finishes && f.lora_act != nullptr) {
#pragma unroll
    for (int own = 0; own < kOwn; ++own) {
      const int piece = finisher + own * kFinishers;
      if (piece >= kPieces) continue;
      low_rank[own] =
          multiply_low_rank_piece(f, row + piece % kTilesM * 8, col + piece / kTilesM * 16, lane);
    }
  }
  ptx::block_barrier();
  ptx::let_next_start();
  const bool clustered = PATH_S8 && ptx::blocks_y() > 1;
  if (clustered) {
    if (finisher >= 0) {
      for (int piece = finisher; piece < kPieces; piece += kFinishers) {
        const Float4 sum = add_warps(shared, piece, lane);
        *sums_of(shared, 0, piece, lane) = sum;
      }
    }
    ptx::cluster_barrier();
  }
#pragma unroll
  for (int own = 0; own < kOwn; ++own) {
    const int piece = finisher + own * kFinishers;
    if (finisher < 0 || piece >= kPieces || (PATH_S8 && !finishes)) continue;
    const Float4 sum = clustered ? add_blocks(shared, piece, lane) : add_warps(shared, piece, lane);
    const int at = row + piece % kTilesM * 8, column = col + piece / kTilesM * 16;
    if (finishes) {
      finish_piece(sum, low_rank[own], f, at, column, lane);
    } else {
      float* partial = workspace + static_cast<long long>(ptx::block_y()) * m * n;
      store_partial(sum, partial, m, n, at, column, lane);
    }
  }
  if (clustered) ptx::cluster_barrier();  // nobody leaves while its sums are read
}
