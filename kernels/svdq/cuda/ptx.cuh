// Everything that the kernels ask of the machine beyond plain C++, one wrapper an operation.
//
// All inline PTX of this package is in this file. A second implementation of the same names,
// ptx_host.h, runs the unchanged kernels on a CPU; the comment at a wrapper is the contract that
// both keep. "Lane" is a thread's place in its warp, `quad = lane / 4`, `pair = lane % 4`.
// A *collective* must be reached by all 32 lanes of a warp together.
#pragma once

#ifdef SVDQ_HOST
#include "ptx_host.h"
#else

#define SVDQ_KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define SVDQ_INLINE __device__ __forceinline__
// The block's dynamic shared memory, as bytes.
#define SVDQ_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace ptx {

// ---- places ------------------------------------------------------------------------------------

SVDQ_INLINE int thread() { return static_cast<int>(threadIdx.x); }
SVDQ_INLINE int block_x() { return static_cast<int>(blockIdx.x); }
SVDQ_INLINE int block_y() { return static_cast<int>(blockIdx.y); }
SVDQ_INLINE int block_z() { return static_cast<int>(blockIdx.z); }
SVDQ_INLINE int blocks_y() { return static_cast<int>(gridDim.y); }
SVDQ_INLINE int blocks_z() { return static_cast<int>(gridDim.z); }

// The 32-bit address of a byte in the block's shared memory; bytes follow each other.
SVDQ_INLINE unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Whether an address of a half is no multiple of 4 bytes.
SVDQ_INLINE bool is_odd_half(const unsigned short* pointer) {
  return reinterpret_cast<unsigned long long>(pointer) % 4 != 0;
}

// ---- synchronisation ---------------------------------------------------------------------------

// All threads of the block wait for each other; writes to shared memory before are seen after.
SVDQ_INLINE void block_barrier() { __syncthreads(); }

// A block barrier that tells every thread whether any of them said true.
SVDQ_INLINE bool block_barrier_any(bool mine) { return __syncthreads_or(mine ? 1 : 0) != 0; }

// All lanes of a warp wait for each other; writes to shared memory before are seen after.
SVDQ_INLINE void warp_barrier() { __syncwarp(); }

// The value of the lane whose number differs in the bits of `mask`. Collective.
SVDQ_INLINE unsigned exchange(unsigned value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// Whether any lane said true. Collective.
SVDQ_INLINE bool any_lane(bool mine) { return __any_sync(0xffffffffu, mine) != 0; }

// ---- launches that overlap, and clusters of blocks; from sm90 on, before that nothing -----------

// Waits until all that was launched before on the stream is complete, and its writes are seen.
// Before it, a kernel launched to overlap may read nothing, but may bring lines into the
// second-level cache: all writes go there, so what it reads later is never old.
SVDQ_INLINE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Says that the next kernel on the stream may start, if it is launched to overlap: it waits itself
// for this one's end.
SVDQ_INLINE void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// All threads of the cluster's blocks wait for each other; writes to shared memory before are seen
// after, in all of them.
SVDQ_INLINE void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
#endif
}

// A float of another block's shared memory, at the address that it has in this one's; `block`
// counts the blocks of the cluster.
SVDQ_INLINE float cluster_float(unsigned shared, int block) {
  float value = 0.0f;
#if __CUDA_ARCH__ >= 900
  unsigned remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared), "r"(block));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(remote) : "memory");
#endif
  return value;
}

// ---- asynchronous copies -----------------------------------------------------------------------

// Starts to copy 16 bytes from global to shared memory, both aligned to 16; writes 16 zeros, and
// does not read, if not `valid`. Done, for this thread, only after a wait that covers its batch.
SVDQ_INLINE void copy_async(unsigned shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(bytes)
               : "memory");
}

// The same, if `valid` is not 0: a mask's bit becomes a predicate by one instruction.
SVDQ_INLINE void copy_async_if(unsigned shared, const void* global, unsigned valid) {
  asm volatile(
      "{\n"
      ".reg .pred absent;\n"
      "setp.eq.u32 absent, %2, 0;\n"
      "cp.async.cg.shared.global [%0], [%1], 16, absent;\n"
      "}" ::"r"(shared), "l"(global), "r"(valid)
      : "memory");
}

// Starts to copy `bytes`, 0 to 4, from global to shared memory, both aligned to 4; zeros follow.
SVDQ_INLINE void copy_async_word(unsigned shared, const void* global, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(bytes)
               : "memory");
}

// A half of memory that nobody writes meanwhile, or 0, unread, if not `valid`. It stays where it
// is, before what comes later: the compiler would else load when the value is needed.
SVDQ_INLINE unsigned load_half(const unsigned short* global, bool valid) {
  unsigned short bits;
  asm volatile(
      "{\n"
      ".reg .pred present;\n"
      "setp.ne.s32 present, %2, 0;\n"
      "mov.u16 %0, 0;\n"
      "@present ld.global.nc.u16 %0, [%1];\n"
      "}"
      : "=h"(bits)
      : "l"(global), "r"(static_cast<int>(valid)));
  return bits;
}

// Brings the line of an address into the second-level cache, some time.
SVDQ_INLINE void prefetch(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// Closes a batch: all copies that this thread started since the last one.
SVDQ_INLINE void close_batch() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kOpen` of this thread's newest batches are unfinished.
template <int kOpen>
SVDQ_INLINE void wait_batches() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

// ---- matrices from shared memory ---------------------------------------------------------------

// Four matrices of 8 rows of 16 bytes. Lane l gives the address of row l % 8 of matrix l / 8; word
// i that a lane receives is word `pair` of row `quad` of matrix i. Collective.
SVDQ_INLINE void load_matrices(unsigned (&word)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(address)
               : "memory");
}

// The same matrices of 8 by 8 halves, transposed: word i holds the halves [2 * pair][quad], low,
// and [2 * pair + 1][quad], high, of matrix i. Collective.
SVDQ_INLINE void load_matrices_transposed(unsigned (&word)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(address)
               : "memory");
}

// ---- matrix products ---------------------------------------------------------------------------
//
// sum[16][8] += a[16][k] * b[k][8]. All are collective, and lanes hold, where an "item" is a word:
//   sum[0..1] = [quad][2 * pair + 0..1], sum[2..3] = [quad + 8][2 * pair + 0..1];
//   a[0], a[1] = rows quad and quad + 8, word `pair` of the row; a[2], a[3] = those rows, word
//   pair + 4; b0, b1 = column quad, words pair and pair + 4. A word is 8 codes of 4 bits, 4 bytes,
//   2 halves or 1 float along k, the lowest k in the lowest bits.

// Of integers there is also `name_from`, which begins with `start` in place of each sum.

#define SVDQ_INTEGER_PRODUCT(name, instruction)                                                  \
  SVDQ_INLINE void name(int (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {       \
    asm(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"           \
        : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])                                 \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                         \
  }                                                                                              \
  SVDQ_INLINE void name##_from(int start, int (&sum)[4], const unsigned (&a)[4], unsigned b0,    \
                               unsigned b1) {                                                    \
    asm(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"       \
        : "=r"(sum[0]), "=r"(sum[1]), "=r"(sum[2]), "=r"(sum[3])                                 \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(start));             \
  }
#define SVDQ_FLOAT_PRODUCT(name, instruction)                                                    \
  SVDQ_INLINE void name(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {     \
    asm(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"           \
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                 \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                         \
  }

// k = 64, exact in 32 bits: a and b of signed 4-bit codes.
SVDQ_INTEGER_PRODUCT(product_s4, "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32")
// k = 64, exact in 32 bits: a of unsigned 4-bit codes, b of signed ones.
SVDQ_INTEGER_PRODUCT(product_u4, "mma.sync.aligned.m16n8k64.row.col.s32.u4.s4.s32")
// The same, a of signed codes, b of unsigned ones.
SVDQ_INTEGER_PRODUCT(product_s4_u4, "mma.sync.aligned.m16n8k64.row.col.s32.s4.u4.s32")
// k = 32, exact in 32 bits: a and b of signed bytes.
SVDQ_INTEGER_PRODUCT(product_s8, "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32")
// k = 16: halves, products exact, summed in fp32 or a little better, truncating.
SVDQ_FLOAT_PRODUCT(product_fp16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
SVDQ_FLOAT_PRODUCT(product_bf16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
// k = 8: tf32 numbers (floats whose 13 lowest bits are zero), products exact, summed as above.
SVDQ_FLOAT_PRODUCT(product_tf32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")

#undef SVDQ_INTEGER_PRODUCT
#undef SVDQ_FLOAT_PRODUCT

// ---- fp32 arithmetic: IEEE, nearest even, never contracted by the compiler ----------------------

SVDQ_INLINE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
SVDQ_INLINE float multiply(float a, float b) { return __fmul_rn(a, b); }
SVDQ_INLINE float add(float a, float b) { return __fadd_rn(a, b); }
SVDQ_INLINE float divide(float a, float b) { return __fdiv_rn(a, b); }

// Within 1 ulp of 1 / value. Not IEEE: a subnormal value counts as a zero of its sign, whose
// reciprocal is an infinity; a subnormal reciprocal, that of values above 2^126, is a zero.
SVDQ_INLINE float reciprocal(float value) {
  float found;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(value));
  return found;
}

// Within 2 ulp of 2 ^ value; subnormal operands and results count as zeros.
SVDQ_INLINE float exp2(float value) {
  float found;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(value));
  return found;
}

// The larger one; a NaN if either is.
SVDQ_INLINE float larger_or_nan(float a, float b) {
  float found;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(found) : "f"(a), "f"(b));
  return found;
}

// The smaller one; if one is a NaN, the other.
SVDQ_INLINE float smaller(float a, float b) { return fminf(a, b); }
SVDQ_INLINE float magnitude(float value) { return fabsf(value); }

SVDQ_INLINE float as_float(unsigned bits) { return __uint_as_float(bits); }
SVDQ_INLINE unsigned as_bits(float value) { return __float_as_uint(value); }

// ---- conversions; halves travel as their 16 bits ----------------------------------------------

// fp16 -> fp32, exact.
SVDQ_INLINE float from_fp16(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// fp32 -> fp16, nearest even; beyond 65520 an infinity.
SVDQ_INLINE unsigned short to_fp16(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// fp32 -> bf16, nearest even.
SVDQ_INLINE unsigned short to_bf16(float value) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// Two fp32 -> a word of two halves, each as above.
SVDQ_INLINE unsigned to_fp16_pair(float low, float high) {
  unsigned word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

SVDQ_INLINE unsigned to_bf16_pair(float low, float high) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// fp32 -> tf32, nearest, ties away from zero; the 13 lowest bits are zero.
SVDQ_INLINE float to_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}

}  // namespace ptx
#endif
