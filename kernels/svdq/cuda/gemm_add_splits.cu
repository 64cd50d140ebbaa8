// The second pass of a W4A4 GEMM whose k was split: a kernel of its own, because no tiling changes
// it.

#include "low_rank.cuh"

// Adds the sums of the splits in their order and finishes them. A warp owns 16 x 16
// outputs, a block 16 x 64. Grid: x = blocks of rows (which may be 65536), y = blocks of columns.
SVDQ_KERNEL(128, 1)
svdq_gemm_w4a4_add_splits(const float* __restrict__ workspace, int splits,
                          const float* __restrict__ lora_act,
                          const unsigned short* __restrict__ lora_up,
                          const unsigned short* __restrict__ bias,
                          const unsigned short* __restrict__ wcscales,
                          unsigned short* __restrict__ y, int m, int n, int r, float alpha,
                          int scales_bf16, int out_bf16) {
  const int lane = ptx::thread() % 32;
  const int row = ptx::block_x() * 16;
  const int col = ptx::block_y() * 64 + ptx::thread() / 32 * 16;
  float acc[1][2][4];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = row + 8 * half + lane / 4, column = col + 8 * j + 2 * (lane % 4);
      Float2 sum{0.0f, 0.0f};
      if (at < m && column < n) {
        const float* place = workspace + static_cast<long long>(at) * n + column;
        sum = *reinterpret_cast<const Float2*>(place);
#pragma unroll 4
        for (int split = 1; split < splits; ++split) {
          const Float2 term =
              *reinterpret_cast<const Float2*>(place + static_cast<long long>(split) * m * n);
          sum = Float2{ptx::add(sum.x, term.x), ptx::add(sum.y, term.y)};
        }
      }
      acc[0][j][2 * half] = sum.x;
      acc[0][j][2 * half + 1] = sum.y;
    }
  }
  const Finish f{lora_act, lora_up, bias, wcscales, y, m, n, r, alpha, scales_bf16, out_bf16};
  auto load = [&](float(&sum)[1][2][4]) { copy_sums(sum, acc); };
  finish<1, 2>(load, f, row, col, lane);
}
