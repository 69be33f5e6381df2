// The instructions the kernels are built from, one function each, so that the kernels themselves are plain C++.
//
// Under a C++ compiler without CUDA this header includes tests/plugin/emulation/emulated_intrinsics.h instead, where
// the same functions compute what a warp's 32 lanes would: the tests run the kernels' own source on a CPU that way.
//
// Fragment layouts (PTX ISA, "Matrix Fragments for mma.m16n8k16" and ".m16n8k8"), with g = lane / 4, t = lane % 4:
//   A, 16 rows x 32 bytes:   a[0] row g, word t;  a[1] row g + 8, word t;  a[2] row g, word t + 4;  a[3] row g + 8,
//   word t + 4 B, 8 columns x 32 bytes: b[0] column g, word t;  b[1] column g, word t + 4 D, 16 x 8 floats: d[0], d[1]
//   row g, columns 2t, 2t + 1;  d[2], d[3] row g + 8, the same columns
// A word is two halves or one float, so both element types share one geometry in bytes.
#pragma once

#include <cstdint>

#if !defined(__CUDACC__)
#include "emulated_intrinsics.h"
#else

#include <cuda_runtime.h>

#define EMRA_UNROLL _Pragma("unroll")
#define EMRA_UNROLL_TWICE _Pragma("unroll 2")
#define EMRA_NO_UNROLL _Pragma("unroll 1")

namespace emra {

extern __shared__ __align__(16) unsigned char dynamic_shared[];

// The launch's dynamic shared memory, and an address in it that takes one register instead of two.
__device__ __forceinline__ unsigned char* shared_memory() { return dynamic_shared; }
using SharedAddress = uint32_t;
__device__ __forceinline__ SharedAddress shared_address() {
  return static_cast<uint32_t>(__cvta_generic_to_shared(dynamic_shared));
}

__device__ __forceinline__ uint32_t load_shared_word(SharedAddress address) {
  uint32_t word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

// Four 8 x 16-byte matrices; lane i gives the address of row i % 8 of matrix i / 8 and receives word t of row g of
// each.
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(row)
               : "memory");
}

// Two such matrices; lanes 0 to 15 give the addresses.
__device__ __forceinline__ void load_matrices(uint32_t (&words)[2], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(words[0]), "=r"(words[1])
               : "r"(row)
               : "memory");
}

// Copies 16 aligned bytes from global to shared memory, past the registers and the L1 cache.
__device__ __forceinline__ void copy_async(SharedAddress shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kPending` of this thread's committed groups are still under way.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// d += a b, FP16 operands, FP32 sums.
__device__ __forceinline__ void mma_half(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d += a b, TF32 operands, FP32 sums.
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Nearest TF32 number, as the bits of a float.
__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t bits;
  // Volatile, or the parts of all queries are computed before the loop over keys and crowd out its registers.
  asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

// Two FP16 numbers in a word, `low` in the low half. Beyond 65504 they become infinite, never saturated.
__device__ __forceinline__ uint32_t pack_halves(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

__device__ __forceinline__ uint16_t to_half(float value) { return static_cast<uint16_t>(pack_halves(value, 0.f)); }

// 2^x by the special-function unit: relative error 2^-22, results below 2^-126 are 0.
__device__ __forceinline__ float exp2_special(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float log2_special(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x within one unit in the last place; x below 2^126.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float shuffle(float value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }

__device__ __forceinline__ float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

__device__ __forceinline__ bool any_lane(bool predicate) { return __any_sync(0xffffffffu, predicate) != 0; }

__device__ __forceinline__ void synchronize_block() { __syncthreads(); }

// Where kernels are launched programmatically (EMRA_PROGRAMMATIC_LAUNCH), this one starts while the one before it in
// the stream still runs: it lets the next be started likewise, and waits for the memory of the one before. Otherwise,
// and before compute capability 9.0, kernels start after one another and there is nothing to do.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Aligned words of memory that no kernel of this launch writes.
__device__ __forceinline__ void load_words(uint32_t (&words)[4], const unsigned char* address) {
  const uint4 four = __ldg(reinterpret_cast<const uint4*>(address));
  words[0] = four.x;
  words[1] = four.y;
  words[2] = four.z;
  words[3] = four.w;
}

__device__ __forceinline__ void load_words(uint32_t (&words)[2], const unsigned char* address) {
  const uint2 two = __ldg(reinterpret_cast<const uint2*>(address));
  words[0] = two.x;
  words[1] = two.y;
}

__device__ __forceinline__ uint32_t load_word(const unsigned char* address) {
  return __ldg(reinterpret_cast<const uint32_t*>(address));
}

}  // namespace emra
#endif  // __CUDACC__
