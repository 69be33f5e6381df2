// Differences between FP16 and FP32 inputs: the multiply-accumulate, the exponential, and the conversion of
// probabilities to an A fragment. All other code handles rows of bytes.
#pragma once

#include "intrinsics.cuh"

// How many of every eight exponentials of the FP16 path are computed by a polynomial on the FMA units instead of the
// special-function unit (docs/decisions/0009 has the reason for one).
#ifndef EMRA_POLYNOMIAL_EIGHTHS
#define EMRA_POLYNOMIAL_EIGHTHS 1
#endif

namespace emra {

constexpr float kInfinity = __builtin_huge_valf();

// 2^x without the special-function unit, relative error 7.5e-5: a sixth of the rounding to FP16 that follows.
//
// x = i + f with i the nearest integer; 2^f by the minimax polynomial of degree 3 over [-0.5, 0.5] (Remez, relative
// error); i is added to the exponent bits. Below -100 the result is 2^-100, which is 0 in FP16; from 17 on it is 2^17,
// which is infinite in FP16, as it would be with exp2_special.
__device__ __forceinline__ float exp2_polynomial(float x) {
  constexpr float kShift = 12582912.f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits.
  x = fminf(fmaxf(x, -100.f), 17.f);
  const float shifted = x + kShift;
  const float f = x - (shifted - kShift);
  const float power =
      fmaf(fmaf(fmaf(0.05517166852951050f, f, 0.24261112511157990f), f, 0.69326096773147580f), f, 0.99992805719375610f);
  return __uint_as_float(__float_as_uint(power) + (__float_as_uint(shifted) << 23));
}

struct Half {
  static constexpr int kBytes = 2;
  static constexpr int kKeysPerTile = 128;  // 256 bytes of a row of the spread values
  static constexpr int kOctetsPerStep = 2;  // eights of keys in a 32-byte step

  __device__ __forceinline__ static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_half(d, a, b);
  }

  // `index` counts the exponentials of an unrolled loop, so the choice is made by the compiler.
  __device__ __forceinline__ static float exp2(float x, int index) {
    return index % 8 < EMRA_POLYNOMIAL_EIGHTHS ? exp2_polynomial(x) : exp2_special(x);
  }

  // The D fragment of 8 keys -> its half of the A fragment of 16.
  __device__ __forceinline__ static void pack(uint32_t (&a)[4], const float (&p)[4], int octet) {
    a[octet % 2 * 2] = pack_halves(p[0], p[1]);
    a[octet % 2 * 2 + 1] = pack_halves(p[2], p[3]);
  }

  // Where key `i` of a step stands in a row of the spread values.
  __device__ __forceinline__ static int position(int i) { return i; }

  __device__ __forceinline__ static void store(void* values, size_t index, float value) {
    static_cast<uint16_t*>(values)[index] = to_half(value);
  }
};

struct Float {
  static constexpr int kBytes = 4;
  static constexpr int kKeysPerTile = 64;
  static constexpr int kOctetsPerStep = 1;

  // Three TF32 products of high and low parts; what is dropped is of the order of 2^-22, that of FP32 rounding. The
  // small products are summed first and apart, so that they are not cut off against the large sum (CUTLASS, example
  // 27).
  __device__ __forceinline__ static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
    EMRA_UNROLL
    for (int i = 0; i < 4; ++i) split(a_high[i], a_low[i], a[i]);
    EMRA_UNROLL
    for (int i = 0; i < 2; ++i) split(b_high[i], b_low[i], b[i]);
    float small[4] = {0.f, 0.f, 0.f, 0.f};
    mma_tf32(small, a_low, b_high);
    mma_tf32(small, a_high, b_low);
    mma_tf32(d, a_high, b_high);
    EMRA_UNROLL
    for (int i = 0; i < 4; ++i) d[i] += small[i];
  }

  __device__ __forceinline__ static float exp2(float x, int) { return exp2_special(x); }

  // The D fragment holds keys 2t and 2t + 1 where the A fragment wants words t and t + 4: the keys of a step are taken
  // in that order instead, and `position` stores the values alike.
  __device__ __forceinline__ static void pack(uint32_t (&a)[4], const float (&p)[4], int) {
    a[0] = __float_as_uint(p[0]);
    a[1] = __float_as_uint(p[2]);
    a[2] = __float_as_uint(p[1]);
    a[3] = __float_as_uint(p[3]);
  }

  __device__ __forceinline__ static int position(int i) { return i / 2 + i % 2 * 4; }

  __device__ __forceinline__ static void store(void* values, size_t index, float value) {
    static_cast<float*>(values)[index] = value;
  }

 private:
  __device__ __forceinline__ static void split(uint32_t& high, uint32_t& low, uint32_t bits) {
    const float value = __uint_as_float(bits);
    high = to_tf32(value);
    low = to_tf32(value - __uint_as_float(high));
  }
};

}  // namespace emra
