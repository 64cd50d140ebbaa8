// SVDQuant's W4A4 GEMM for many rows, where what counts is that integer products never wait.
//
// Tiling. A block owns one tile of BLOCK_M x BLOCK_N outputs, and a warp on its grid of WARPS_M x
// WARPS_N a part of more than 2 x 4 products, so large that what it reads from shared memory is
// little beside what it multiplies. Tiles are numbered in bands of `band` tile rows, so that blocks
// that run together share weights in L2. k is never split.
//
// Overlap. A warp computes its products in slots of 16 x 16, a whole step of GROUPS groups without
// a loop. Between a slot's products stand the instructions that scale the sums of the slot before,
// and the matrices of a slot to come are loaded: so few warps keep tensor cores and fp32 units
// busy.
//
// Layout. Codes [m, k/2] and [n, k/2] are read as they are, two codes a byte, even k low. A stage
// in shared memory is BLOCK_M + BLOCK_N rows of 32 * GROUPS bytes, in chunks of 16; chunk c of row
// r lies at place c ^ swizzle(r), so that the 8 rows of one matrix load touch all 32 banks. Codes
// come by asynchronous copies, STAGES - 1 steps ahead. Scales come by way of registers, one step
// ahead: a thread loads those of one row and of one column, by halves, because those of rows begin
// at any multiple of 2 bytes, and stores them as the floats that a lane needs together.
//
// A thread's sums may be half of all registers that it can have. So what it adds to addresses lies
// in shared memory, too, and is loaded when a step needs it.
//
// codes.cuh tells the order of operations in a group, low_rank.cuh the rest.

#include "codes.cuh"

namespace {

constexpr int kThreads = 32 * WARPS_M * WARPS_N;
constexpr int kTilesM = BLOCK_M / WARPS_M / 16;  // products that a warp has in a column of its tile
constexpr int kTilesN = BLOCK_N / WARPS_N / 8;
constexpr int kPairs = kTilesN / 2;  // slots in a row of its tile
constexpr int kSlots = kTilesM * kPairs;
constexpr int kPitch = kGroupBytes * GROUPS;
constexpr int kChunks = kPitch / 16;
constexpr int kRowsAtOnce = kThreads / kChunks;  // that all threads copy together
constexpr int kStageBytes = (BLOCK_M + BLOCK_N) * kPitch;
constexpr int kRowBytes = 8 * BLOCK_M, kColumnBytes = 4 * BLOCK_N;  // of the scales of a group
constexpr int kColumnsAt = GROUPS * kRowBytes;                      // of the scales of a step
constexpr int kScaleBytes = kColumnsAt + GROUPS * kColumnBytes;
// Behind the stages lie the scales of two steps, and behind them three times 16 bytes a thread.
constexpr int kScalesAt = STAGES * kStageBytes, kOffsetsAt = kScalesAt + 2 * kScaleBytes;

static_assert(kTilesM * WARPS_M * 16 == BLOCK_M, "BLOCK_M is not whole m16 tiles of the warps");
static_assert(kPairs * WARPS_N * 16 == BLOCK_N, "BLOCK_N is not whole slots of the warps");
static_assert(GROUPS == 2 || GROUPS == 4, "another group's chunks are found by exclusive or");
static_assert(STAGES >= 2, "a stage is filled while another is read");
static_assert(kRowsAtOnce % 8 == 0, "the rows of one thread must share their swizzle");
static_assert(BLOCK_M % kRowsAtOnce == 0 && BLOCK_N % kRowsAtOnce == 0, "copies must be whole");
static_assert(BLOCK_M <= kThreads && BLOCK_N <= kThreads, "a thread brings a scale of a group");

// What is finished at once.
constexpr int kPieceM = 2, kPieceN = 4;
static_assert(kTilesM % kPieceM == 0 && kTilesN % kPieceN == 0, "pieces must fill the tile");
static_assert(BLOCK_M * BLOCK_N * 4 <= kScalesAt, "the sums must fit where the stages were");

using Sums = float[kTilesM][kTilesN][4];

// The place in its row at which a chunk of row `row` lies, given as what to exclusive-or it with.
SVDQ_INLINE unsigned swizzle(unsigned row) { return (row / (8 / kChunks)) % kChunks; }

SVDQ_INLINE int smaller(int a, int b) { return a < b ? a : b; }

// Where the block's tile begins, and the warp's tile within it.
struct Place {
  int row, col, warp_row, warp_col, lane, warp;
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
  place.warp = thread / 32;
  place.warp_row = place.warp / WARPS_N * (BLOCK_M / WARPS_M);
  place.warp_col = place.warp % WARPS_N * (BLOCK_N / WARPS_N);
  return place;
}

// What the tile is made of.
struct Tile {
  const unsigned char* codes;     // of its first row
  const unsigned char* wcodes;    // of its first column
  const unsigned short* ascales;  // [groups, m]
  const unsigned short* wscales;  // [groups, n]
  int m, n, k, groups, steps;
};

// Places of scales, in floats, among those of a group. Rows: {scale, -kMagic * scale} of row r,
// then of row r + 8: a Float4 of what a lane needs for 16 rows. Columns: c + 1, c, c + 9 and c + 8
// for even c, in this order so that an even sum and its column's scale, both in aligned registers,
// come from different banks of them.
SVDQ_INLINE unsigned place_of_row(unsigned row) {
  return row / 16 * 32 + row % 8 * 4 + row / 8 % 2 * 2;
}
SVDQ_INLINE unsigned place_of_column(unsigned column) {
  return column / 16 * 16 + column % 8 / 2 * 4 + column / 8 % 2 * 2 + (column % 2 ^ 1);
}

// A thread's offsets: where its lane reads, where its copies go to, where its scales come from and
// go to. Nobody else reads them.
struct Offsets {
  Word4* at;

  SVDQ_INLINE explicit Offsets(unsigned char* shared)
      : at(reinterpret_cast<Word4*>(shared + kOffsetsAt) + ptx::thread()) {}
  SVDQ_INLINE Word4& reading() const { return at[0]; }
  SVDQ_INLINE Word4& bringing() const { return at[kThreads]; }
  SVDQ_INLINE Word4& scaling() const { return at[2 * kThreads]; }
};

// Where a lane finds its part of group 0, in bytes: codes of rows and of columns within a stage,
// and scales of rows and of columns within those of a step. Rows of a matrix load differ from
// `lane`'s by multiples of 8: one swizzle serves them all.
SVDQ_INLINE Word4 sources_of(unsigned warp_row, unsigned warp_col, unsigned lane) {
  const unsigned a_row = warp_row + lane % 16;
  const unsigned b_row = BLOCK_M + warp_col + lane / 16 * 8 + lane % 8;
  return Word4{{a_row * kPitch + (lane / 16 ^ swizzle(a_row)) * 16,
                b_row * kPitch + (lane / 8 % 2 ^ swizzle(b_row)) * 16,
                place_of_row(warp_row + lane / 4) * 4,
                kColumnsAt + place_of_column(warp_col + lane % 4 * 2 + 1) * 4}};
}

// Which of a thread's copies there are, as bits, if `rows` are left and the thread's first is
// `row`.
template <int kRows>
SVDQ_INLINE unsigned present_of(int row, int rows) {
  unsigned present = 0;
#pragma unroll
  for (int j = 0; j < kRows / kRowsAtOnce; ++j) {
    if (row + j * kRowsAtOnce < rows) present |= 1u << j;
  }
  return present;
}

// The first place that a thread copies to, which of its copies there are, of rows and then of
// columns, and in how many steps.
SVDQ_INLINE Word4 copies_of(const Tile& tile, const Place& place, unsigned base) {
  static_assert((BLOCK_M + BLOCK_N) / kRowsAtOnce <= 32, "bits of what is present");
  const unsigned row = static_cast<unsigned>(ptx::thread()) / kChunks;
  const unsigned chunk = static_cast<unsigned>(ptx::thread()) % kChunks;
  const int at = static_cast<int>(row);
  return Word4{{base + row * kPitch + (chunk ^ swizzle(row)) * 16,
                present_of<BLOCK_M>(at, tile.m - place.row) |
                    present_of<BLOCK_N>(at, tile.n - place.col) << BLOCK_M / kRowsAtOnce,
                static_cast<unsigned>(smaller(
                    tile.steps, (tile.groups - static_cast<int>(chunk) / 2 + GROUPS - 1) / GROUPS)),
                0}};
}

// The row and the column, of the matrix, whose scales a thread brings, and the places of these
// among those of a step. Behind the last row or column it is that one again.
SVDQ_INLINE Word4 scales_of(const Tile& tile, const Place& place) {
  return Word4{{static_cast<unsigned>(smaller(place.row + ptx::thread(), tile.m - 1)),
                static_cast<unsigned>(smaller(place.col + ptx::thread(), tile.n - 1)),
                place_of_row(ptx::thread()) * 4, kColumnsAt + place_of_column(ptx::thread()) * 4}};
}

// Starts the copies of kRows rows to `to`, those in `present`; zeros in place of the others.
template <int kRows>
SVDQ_INLINE void bring_codes(const unsigned char* from, unsigned to, unsigned present, int k) {
#pragma unroll
  for (int j = 0; j < kRows / kRowsAtOnce; ++j) {
    ptx::copy_async_if(to + j * kRowsAtOnce * kPitch, from, present & (1u << j));
    from += static_cast<long long>(kRowsAtOnce) * (k / 2);
  }
}

// Starts the copies of a step, whose chunk of the thread is `from` bytes behind the tile's first.
SVDQ_INLINE void bring_step(const Tile& tile, const Offsets& offsets, unsigned& from, int step) {
  const Word4 to = offsets.bringing();
  const unsigned present = step < static_cast<int>(to.at[2]) ? to.at[1] : 0;
  const unsigned at = to.at[0] + static_cast<unsigned>(step) % STAGES * kStageBytes;
  bring_codes<BLOCK_M>(tile.codes + from, at, present, tile.k);
  bring_codes<BLOCK_N>(tile.wcodes + from, at + BLOCK_M * kPitch,
                       present >> BLOCK_M / kRowsAtOnce, tile.k);
  from += kPitch;
  ptx::close_batch();
}

// Scales on their way: the halves of one row and one column, and whether any needs careful sums.
struct Scales {
  unsigned row = 0, column = 0;
  bool careful = false;
};

SVDQ_INLINE void load_scales(Scales& scales, const Tile& tile, const Offsets& offsets, int group) {
  const Word4 own = offsets.scaling();
  const bool valid = group < tile.groups;
  scales.row =
      ptx::load_half(tile.ascales + (static_cast<unsigned>(group * tile.m) + own.at[0]), valid);
  scales.column =
      ptx::load_half(tile.wscales + (static_cast<unsigned>(group * tile.n) + own.at[1]), valid);
}

// Where the scales of a step lie.
SVDQ_INLINE unsigned char* scales_at(unsigned char* shared, int step) {
  return shared + kScalesAt + static_cast<unsigned>(step) % 2 * kScaleBytes;
}

SVDQ_INLINE void store_scales(Scales& scales, unsigned char* shared, const Offsets& offsets,
                              int step, int group) {
  const Word4 own = offsets.scaling();
  unsigned char* at = scales_at(shared, step);
  scales.careful |= (scales.row & 0x7fffu) >= kCareful;
  if (BLOCK_M == kThreads || ptx::thread() < BLOCK_M) {
    *reinterpret_cast<Float2*>(at + own.at[2] + group * kRowBytes) =
        row_scale(static_cast<unsigned short>(scales.row));
  }
  if (BLOCK_N == kThreads || ptx::thread() < BLOCK_N) {
    *reinterpret_cast<float*>(at + own.at[3] + group * kColumnBytes) =
        from_half(static_cast<unsigned short>(scales.column), BF16);
  }
}

// acc += rows * columns * total.
template <bool kPlain>
SVDQ_INLINE void add_product(float (&acc)[4], const int (&total)[4], const Float4& rows,
                             float column0, float column1) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const Float2 row{rows.at[e / 2 * 2], rows.at[e / 2 * 2 + 1]};
    acc[e] = add_scaled<kPlain>(total[e], row, e % 2 ? column1 : column0, acc[e]);
  }
}

// What one product of 16 rows takes of them, of one of 16 columns.
SVDQ_INLINE void spread_rows(unsigned (&a)[kWaves][4], const unsigned (&word)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    unsigned wide[kWaves];
    spread(wide, word[e], UNSIGNED);
#pragma unroll
    for (int wave = 0; wave < kWaves; ++wave) a[wave][e] = wide[wave];
  }
}

SVDQ_INLINE void spread_columns(unsigned (&b)[2][2][kWaves], const unsigned (&word)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) spread(b[e / 2][e % 2], word[e], false);
}

// acc += the products of `kGroups` groups of a step from `first` on, by one warp, whose codes are
// in the stage at `codes`. begin(g) and end(g) are called where group g begins and ends.
template <bool kPlain, int kGroups, class Begin, class End>
SVDQ_INLINE void add_groups(Sums& acc, unsigned codes, const unsigned char* scales, int first,
                            const Word4& sources, Begin begin, End end) {
  const unsigned a_at = codes + sources.at[0], b_at = codes + sources.at[1];
  const unsigned char* rows_at = scales + sources.at[2] + first * kRowBytes;
  const unsigned char* columns_at = scales + sources.at[3] + first * kColumnBytes;

  unsigned a_words[4], b_words[4];
  auto load_a = [&](int group, int i) {
    ptx::load_matrices(a_words, (a_at ^ ((first + group) * 32)) + 16 * i * kPitch);
  };
  auto load_b = [&](int group, int pair) {
    ptx::load_matrices(b_words, (b_at ^ ((first + group) * 32)) + 16 * pair * kPitch);
  };
  load_a(0, 0);
  load_b(0, 0);
  begin(0);
  unsigned a[kWaves][4], b[kPairs][2][2][kWaves];
  Float4 rows[2], columns[2][kPairs];
  int total[2][2][4];
#pragma unroll
  for (int slot = 0; slot <= kGroups * kSlots; ++slot) {
    const int group = slot / kSlots, i = slot % kSlots / kPairs, pair = slot % kPairs;
    auto scale_before = [&](int odd) {
      if (slot == 0) return;
      const int before = slot - 1, row = before % kSlots / kPairs, column = before % kPairs;
      const Float4& by = columns[before / kSlots % 2][column];
      add_product<kPlain>(acc[row][2 * column + odd], total[before % 2][odd], rows[row % 2],
                          by.at[2 * odd + 1], by.at[2 * odd]);
    };
    if (slot == kGroups * kSlots) {
      scale_before(0);
      scale_before(1);
      end(kGroups - 1);
      break;
    }
    if (pair == 0) spread_rows(a, a_words);
    if (i == 0) {
      spread_columns(b[pair], b_words);
      columns[group % 2][pair] =
          *reinterpret_cast<const Float4*>(columns_at + group * kColumnBytes + 64 * pair);
      if (pair + 1 < kPairs) load_b(group, pair + 1);
    }
    if (pair == 0) {
      rows[i % 2] = *reinterpret_cast<const Float4*>(rows_at + group * kRowBytes + 128 * i);
    }
    if (pair == kPairs / 2) {
      if (i + 1 < kTilesM) {
        load_a(group, i + 1);
      } else if (group + 1 < kGroups) {
        load_a(group + 1, 0);
        load_b(group + 1, 0);
      }
    }
    if (slot > 0 && slot % kSlots == 0) {
      end(group - 1);
      begin(group);
    }
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) multiply_first(total[slot % 2][odd], a, b[pair][odd]);
    scale_before(0);
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) multiply_last(total[slot % 2][odd], a, b[pair][odd]);
    scale_before(1);
  }
}

// The sums of a warp over all steps.
SVDQ_INLINE void multiply(Sums& acc, unsigned char* shared, const Tile& tile,
                          const Offsets& offsets) {
  const unsigned base = ptx::shared_address(shared);
  // One block along y, and the first step is 0, which the compiler cannot know: it would keep in
  // registers, and spill, what it moves along with the steps.
  const int share = (tile.steps + ptx::blocks_y() - 1) / ptx::blocks_y();
  const int first = ptx::block_y() * share;
  unsigned from = static_cast<unsigned>(ptx::thread()) / kChunks * (tile.k / 2) + first * kPitch +
                  static_cast<unsigned>(ptx::thread()) % kChunks * 16;
#pragma unroll 1
  for (int ahead = 0; ahead < STAGES - 1; ++ahead) bring_step(tile, offsets, from, first + ahead);
  Scales scales;
#pragma unroll 1
  for (int group = 0; group < GROUPS; ++group) {
    load_scales(scales, tile, offsets, first * GROUPS + group);
    store_scales(scales, shared, offsets, first, group);
  }
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0.0f;
    }
  }
  int step = first;
  auto stage = [&] { return base + static_cast<unsigned>(step) % STAGES * kStageBytes; };
  auto load_next = [&](int group) {
    load_scales(scales, tile, offsets, (step + 1) * GROUPS + group);
  };
  auto store_next = [&](int group) { store_scales(scales, shared, offsets, step + 1, group); };
#pragma unroll 1
  for (; step < tile.steps; ++step) {
    ptx::wait_batches<STAGES - 2>();
    // After this, the step's codes and scales are there, and the stage of step - 1 is free.
    scales.careful = ptx::block_barrier_any(scales.careful);
    if (scales.careful) break;
    auto begin = [&](int group) {
      load_next(group);
      if (group == 0) bring_step(tile, offsets, from, step + STAGES - 1);
    };
    add_groups<true, GROUPS>(acc, stage(), scales_at(shared, step), 0, offsets.reading(), begin,
                             store_next);
  }
  // The same with careful sums, which take over for good; of one group at a time, to be less code.
#pragma unroll 1
  for (; step < tile.steps; ++step) {
    ptx::wait_batches<STAGES - 2>();
    ptx::block_barrier();
    bring_step(tile, offsets, from, step + STAGES - 1);
#pragma unroll 1
    for (int group = 0; group < GROUPS; ++group) {
      add_groups<false, 1>(
          acc, stage(), scales_at(shared, step), group, offsets.reading(),
          [&](int) { load_next(group); }, [&](int) { store_next(group); });
    }
  }
  ptx::wait_batches<0>();
}

// Finishes a warp's tile piece by piece. The sums pass through shared memory, because a loop cannot
// index registers, and unrolled it is 12,000 instructions and spills. A lane reads back only what
// it wrote itself.
SVDQ_INLINE void finish_in_pieces(const Sums& acc, const Finish& f, unsigned char* shared, int warp,
                                  int row, int col, int lane) {
  Float4* place = reinterpret_cast<Float4*>(shared) + warp * kTilesM * kTilesN * 32 + lane;
  ptx::block_barrier();  // every warp has read its last stage
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < kTilesN; ++j) {
      const float(&sum)[4] = acc[i][j];
      place[(i * kTilesN + j) * 32] = Float4{{sum[0], sum[1], sum[2], sum[3]}};
    }
  }
#pragma unroll 1
  for (int piece = 0; piece < kTilesM / kPieceM * (kTilesN / kPieceN); ++piece) {
    const int first_i = piece / (kTilesN / kPieceN) * kPieceM;
    const int first_j = piece % (kTilesN / kPieceN) * kPieceN;
    auto load = [&](float(&sum)[kPieceM][kPieceN][4]) {
#pragma unroll
      for (int i = 0; i < kPieceM; ++i) {
#pragma unroll
        for (int j = 0; j < kPieceN; ++j) {
          const Float4 four = place[((first_i + i) * kTilesN + first_j + j) * 32];
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[i][j][e] = four.at[e];
        }
      }
    };
    finish<kPieceM, kPieceN>(load, f, row + 16 * first_i, col + 8 * first_j, lane);
  }
}

}  // namespace

// Grid: x = output tiles.
SVDQ_KERNEL(kThreads, BLOCKS)
svdq_gemm_w4a4_tall(const unsigned char* __restrict__ codes,
                    const unsigned char* __restrict__ wcodes,
                    const unsigned short* __restrict__ ascales,
                    const unsigned short* __restrict__ wscales, const float* __restrict__ lora_act,
                    const unsigned short* __restrict__ lora_up,
                    const unsigned short* __restrict__ bias,
                    const unsigned short* __restrict__ wcscales, unsigned short* __restrict__ y,
                    int m, int n, int k, int r, float alpha, int out_bf16, int band) {
  SVDQ_SHARED(shared);
  const Place place = place_of(ptx::thread(), m, n, band);
  const int groups = k / 64;
  const Tile tile{codes + static_cast<long long>(place.row) * (k / 2),
                  wcodes + static_cast<long long>(place.col) * (k / 2),
                  ascales,
                  wscales,
                  m,
                  n,
                  k,
                  groups,
                  (groups + GROUPS - 1) / GROUPS};
  const Finish f{lora_act, lora_up, bias, wcscales, y, m, n, r, alpha, BF16, out_bf16};
  prefetch_finish(f, place.col, BLOCK_N);
  const Offsets offsets(shared);
  offsets.reading() = sources_of(place.warp_row, place.warp_col, place.lane);
  offsets.bringing() = copies_of(tile, place, ptx::shared_address(shared));
  offsets.scaling() = scales_of(tile, place);
  Sums acc;
  multiply(acc, shared, tile, offsets);
  finish_in_pieces(acc, f, shared, place.warp, place.row + place.warp_row,
                   place.col + place.warp_col, place.lane);
}
