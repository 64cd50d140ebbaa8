// The second pass of a quantizer whose k was split: a kernel of its own, as no tiling changes it.

#include "ptx.cuh"
#include "vectors.cuh"

namespace {

constexpr int kAtOnce = 32;  // splits read together: one after the other, each takes its latency

}  // namespace

// lora_act = the sums of the splits, added in their order. A thread owns two
// neighbours. Grid: x = blocks of 64 pairs.
SVDQ_KERNEL(64, 1)
svdq_quantize_w4a4_add_splits(const float* __restrict__ workspace, int splits,
                              float* __restrict__ lora_act, int m, int r) {
  const long long all = static_cast<long long>(m) * r;
  const long long at = 2 * (ptx::block_x() * 64LL + ptx::thread());
  if (at >= all) return;
  Float2 sum = *reinterpret_cast<const Float2*>(workspace + at);
#pragma unroll 1
  for (int first = 1; first < splits; first += kAtOnce) {
    Float2 term[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      term[i] = Float2{0.0f, 0.0f};
      if (first + i < splits) {
        term[i] = *reinterpret_cast<const Float2*>(workspace + (first + i) * all + at);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < splits) sum = Float2{ptx::add(sum.x, term[i].x), ptx::add(sum.y, term[i].y)};
    }
  }
  *reinterpret_cast<Float2*>(lora_act + at) = sum;
}
