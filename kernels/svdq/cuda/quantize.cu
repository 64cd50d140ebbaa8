// SVDQuant's activation quantizer with the low-rank down projection, on tensor cores.
//
// Tiling. A block owns BLOCK_M = 16 * WARPS_M rows, up to 8 * RANK_TILES ranks, and its share of k:
// the groups of its split. Warps lie on a grid of WARPS_M over rows and WARPS_K over k; a warp
// takes 16 rows, and in every step one group of 64. Codes and scales have one owner each. Sums of
// lora_act meet twice, both times in a fixed order: the warps of a block over shared memory; the
// splits of k, if CLUSTERED, over that of their cluster's blocks, or else over
// workspace[split][m][r] in a second kernel. Nothing is added atomically. With
// more ranks than 8 * RANK_TILES, blockIdx.z counts the pieces, which quantize in turns.
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
// zero group to 0; s stored as half.
//
// Overlap. If OVERLAPS, the kernel may be launched while the one before it still runs, and lets the
// next one start at once.
//
// How codes are made is in encode.cuh.

#include "encode.cuh"

#ifndef RANK_TILES
#error "define BF16, WARPS_M, WARPS_K, RANK_TILES (0 or even), STAGES, BLOCKS, CLUSTERED, OVERLAPS"
#endif

namespace {

constexpr int kThreads = 32 * WARPS_M * WARPS_K;
constexpr int kBlockM = 16 * WARPS_M;
constexpr int kPitch = 16 * RANK_TILES + 16;  // bytes of a row of lora_down, and 16 for the banks
constexpr int kGroupBytes = 64 * kPitch;
constexpr int kStageBytes = WARPS_K * kGroupBytes;
constexpr int kCopies = (WARPS_K * 64 * RANK_TILES + kThreads - 1) / kThreads;
constexpr int kCluster = 8;  // blocks, at most
constexpr int kSums = RANK_TILES > 0 ? RANK_TILES : 1;

static_assert(RANK_TILES % 2 == 0, "a matrix load brings two tiles of 8 ranks");
static_assert(STAGES >= 2, "a stage is filled while another is read");
static_assert(!CLUSTERED || WARPS_K > 1, "blocks leave their sums where slices left theirs");
static_assert(RANK_TILES == 0 || WARPS_K * WARPS_M * kSums * 512 <= STAGES * kStageBytes,
              "the sums of the slices must fit where the stages were");

// Starts the copies of a step of lora_down: WARPS_K groups of 64 rows, of which `until` are there.
// A thread copies every kRowsApart-th row, of 8 ranks each; `from` is its first.
SVDQ_INLINE void bring_down(unsigned stage, const unsigned short* from, int until, int r,
                            bool has_ranks) {
  constexpr int kRowsApart = kThreads / kSums;  // kSums = RANK_TILES wherever copies are
  const int first = ptx::thread() / kSums, chunk = ptx::thread() % kSums;
#pragma unroll
  for (int j = 0; j < kCopies; ++j) {
    const int row = first + j * kRowsApart, k = row % 64;
    if (row >= WARPS_K * 64) continue;
    const int place = k / 32 * 32 + k % 8 / 2 * 8 + k % 32 / 8 * 2 + k % 2;
    ptx::copy_async(stage + row / 64 * kGroupBytes + place * kPitch + chunk * 16,
                    from + j * kRowsApart * r, has_ranks && row / 64 < until);
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

// Sums of lora_act of a block, in shared memory: [slice][warp of rows][item][lane].
constexpr int kSlice = WARPS_M * kSums * 128;

// Which output an element of a slice is.
struct Element {
  int row, column;

  SVDQ_INLINE explicit Element(int at) {
    const int lane = at % 32, item = at / 32 % 4, tile = at / 128 % kSums, warp = at / 128 / kSums;
    row = 16 * warp + lane / 4 + item / 2 * 8;
    column = 8 * tile + lane % 4 * 2 + item % 2;
  }
};

// Leaves a warp's sums for the block.
SVDQ_INLINE void leave_sums(const float (&sum)[kSums][4], float* shared, int slice, int warp,
                            int lane) {
  float* place = shared + slice * kSlice + warp * kSums * 128 + lane;
  ptx::block_barrier();  // every warp has read its last stage
#pragma unroll
  for (int item = 0; item < kSums * 4; ++item) place[item * 32] = sum[item / 4][item % 4];
  ptx::block_barrier();
}

// Element `at` of the block's sums: those of its slices, in their order.
SVDQ_INLINE float add_slices(const float* shared, int at) {
  float sum = shared[at];
#pragma unroll
  for (int slice = 1; slice < WARPS_K; ++slice) sum = ptx::add(sum, shared[slice * kSlice + at]);
  return sum;
}

// The same of the cluster: those of its blocks, in their order, each at `at` of slice 0.
SVDQ_INLINE float add_blocks(const float* shared, int at) {
  float sum = shared[at], other[kCluster];
#pragma unroll
  for (int block = 1; block < kCluster; ++block) {
    other[block] = 0.0f;
    if (block < ptx::blocks_y()) {
      other[block] = ptx::cluster_float(ptx::shared_address(shared + at), block);
    }
  }
#pragma unroll
  for (int block = 1; block < kCluster; ++block) {
    if (block < ptx::blocks_y()) sum = ptx::add(sum, other[block]);
  }
  return sum;
}

// Has the block's lora_down and smooth on their way to the second-level cache.
SVDQ_INLINE void prefetch_weights(const unsigned short* lora_down, const unsigned short* smooth,
                                  int from, int until, int r) {
  const unsigned short* down = lora_down + 64LL * from * r;
  for (int at = 64 * ptx::thread(); at < 64 * (until - from) * r; at += 64 * kThreads) {
    ptx::prefetch(down + at);  // a line is 64 halves
  }
  if (from + ptx::thread() < until) ptx::prefetch(smooth + 64LL * (from + ptx::thread()));
}

}  // namespace

// Grid: x = row tiles, y = splits of k, z = pieces of the ranks. With one split, or with splits that
// are one cluster, `sums` is lora_act [m, r], otherwise the workspace [splits, m, r]. A split has
// `share` groups.
SVDQ_KERNEL(kThreads, BLOCKS)
svdq_quantize_w4a4(const unsigned short* __restrict__ x,
                   const unsigned short* __restrict__ lora_down,
                   const unsigned short* __restrict__ smooth, unsigned char* __restrict__ codes,
                   unsigned short* __restrict__ ascales, float* __restrict__ sums, int m, int k,
                   int r, int share, long long x_row) {
  SVDQ_SHARED(shared);
  const int lane = ptx::thread() % 32, quad = lane / 4, pair = lane % 4;
  const int slice = ptx::thread() / 32 / WARPS_M, warp = ptx::thread() / 32 % WARPS_M;
  const int row = ptx::block_x() * kBlockM + 16 * warp + quad;  // and row + 8
  const int rank = ptx::block_z() * 8 * RANK_TILES;

  const int groups = k / 64;
  const int from = ptx::block_y() * share;
  const int until = from + share < groups ? from + share : groups;
  const int steps = until > from ? (until - from + WARPS_K - 1) / WARPS_K : 0;

  if constexpr (OVERLAPS) {
    prefetch_weights(lora_down, smooth, from, until, r);
    ptx::wait_for_previous();
    ptx::let_next_start();
  }
  const unsigned base = ptx::shared_address(shared);
  const int chunk = rank + 8 * (ptx::thread() % kSums);
  const unsigned short* down = lora_down + (64LL * from + ptx::thread() / kSums) * r + chunk;
  const long long down_step = 64LL * WARPS_K * r;
#pragma unroll
  for (int ahead = 0; ahead < STAGES - 1; ++ahead) {
    if (RANK_TILES > 0 && ahead < steps) {
      bring_down(base + ahead * kStageBytes, down, until - from - ahead * WARPS_K, r, chunk < r);
      down += down_step;
    }
    ptx::close_batch();
  }

  float sum[kSums][4];
#pragma unroll
  for (int item = 0; item < kSums * 4; ++item) sum[item / 4][item % 4] = 0.0f;
  // All of these move on by a step at a time.
  const unsigned short* x_of = x + row * x_row + 64LL * (from + slice);
  const unsigned short* smooth_of = smooth + 64LL * (from + slice);
  unsigned char* codes_of =
      codes + static_cast<long long>(row) * (k / 2) + 32LL * (from + slice) + 4 * pair;
  const bool there[2] = {row < m, row + 8 < m};
  const bool has_bottom = row - quad + 8 < m;  // of rows: a warp with few of them is done sooner

  unsigned next[2][8], next_smooth[8];
  const auto load_group = [&](bool present) {
    load_row(next[0], x_of, pair, there[0] && present);
    load_row(next[1], x_of + 8 * x_row, pair, there[1] && present);
    load_row(next_smooth, smooth_of, pair, present);
    x_of += 64 * WARPS_K;
    smooth_of += 64 * WARPS_K;
  };
  load_group(from + slice < until);
  int turn = slice % ptx::blocks_z();  // whose it is, among the pieces of the ranks, to store codes
  for (int step = 0; step < steps; ++step) {
    const int group = from + step * WARPS_K + slice;
    unsigned now[2][8], divisors[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      now[0][i] = next[0][i];
      now[1][i] = next[1][i];
      divisors[i] = next_smooth[i];
    }
    load_group(group + WARPS_K < until);
    if constexpr (RANK_TILES > 0) {
      ptx::wait_batches<STAGES - 2>();
      // After this, the step's lora_down is there, and the stage of step - 1 is free.
      ptx::block_barrier();
      if (step + STAGES - 1 < steps) {
        bring_down(base + (step + STAGES - 1) % STAGES * kStageBytes, down,
                   until - from - (step + STAGES - 1) * WARPS_K, r, chunk < r);
        down += down_step;
      }
      ptx::close_batch();
      multiply_group(sum, now[0], now[1],
                     base + step % STAGES * kStageBytes + slice * kGroupBytes, lane);
    }
    const bool stores = turn == ptx::block_z() && group < until;
    turn = turn + 1 < ptx::blocks_z() ? turn + 1 : 0;
    codes_of += 32 * WARPS_K;
    if (!stores) continue;  // all lanes of a warp agree

    const auto store = [&](int half, const Codes& made) {
      const int at = row + 8 * half;
      if (at >= m) return;
      unsigned char* place = codes_of - 32 * WARPS_K + half * 4LL * k;
      *reinterpret_cast<unsigned*>(place) = made.word[0];
      *reinterpret_cast<unsigned*>(place + 16) = made.word[1];
      if (pair == 0) ascales[static_cast<long long>(group) * m + at] = to_half(made.scale);
    };
    encode_group<false>(now, divisors, has_bottom, store, [&](int half) {
      const long long at = row + 8LL * half;
      return quantize_extreme<false>(x + at * x_row + 64LL * group, smooth + 64LL * group, pair,
                                     at < m);
    });
  }
  ptx::wait_batches<0>();

  if constexpr (RANK_TILES > 0) {
    float* place = sums + (CLUSTERED ? 0 : static_cast<long long>(ptx::block_y()) * m * r);
    if constexpr (WARPS_K == 1) {
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
    } else {
      float* all = reinterpret_cast<float*>(shared);
      leave_sums(sum, all, slice, warp, lane);
      if constexpr (CLUSTERED) {
        for (int at = ptx::thread(); at < kSlice; at += kThreads) all[at] = add_slices(all, at);
        ptx::cluster_barrier();
      }
      if (!CLUSTERED || ptx::block_y() == 0) {
        for (int at = ptx::thread(); at < kSlice; at += kThreads) {
          const Element element(at);
          const int of_m = ptx::block_x() * kBlockM + element.row, column = rank + element.column;
          const float value = CLUSTERED ? add_blocks(all, at) : add_slices(all, at);
          if (of_m < m && column < r) place[static_cast<long long>(of_m) * r + column] = value;
        }
      }
      if constexpr (CLUSTERED) ptx::cluster_barrier();  // nobody leaves while its sums are read
    }
  }
}
