// The second pass of a quantizer whose k was split: a kernel of its own, as no tiling changes it.

#include "ptx.cuh"
#include "vectors.cuh"

// lora_act = the sums of the splits, added in their order. A thread owns two
// neighbours. Grid: x = blocks of 256 pairs.
SVDQ_KERNEL(256, 1)
svdq_quantize_w4a4_add_splits(const float* __restrict__ workspace, int splits,
                              float* __restrict__ lora_act, int m, int r) {
  const long long all = static_cast<long long>(m) * r;
  const long long at = 2 * (ptx::block_x() * 256LL + ptx::thread());
  if (at >= all) return;
  Float2 sum = *reinterpret_cast<const Float2*>(workspace + at);
#pragma unroll 4
  for (int split = 1; split < splits; ++split) {
    const Float2 term = *reinterpret_cast<const Float2*>(workspace + split * all + at);
    sum = Float2{ptx::add(sum.x, term.x), ptx::add(sum.y, term.y)};
  }
  *reinterpret_cast<Float2*>(lora_act + at) = sum;
}
