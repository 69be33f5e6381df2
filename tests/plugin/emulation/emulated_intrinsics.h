// plugin/kernels/intrinsics.cuh for a CPU: the same functions, each computing what 32 lanes compute together.
//
// Fragment layouts are those of the PTX ISA, written here from its tables and not from the kernels. Products are exact
// and sums are in double, rounded to float once per instruction: at least as exact as the tensor cores.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_runtime.h"
#include "machine.h"

#define EMRA_UNROLL
#define EMRA_UNROLL_TWICE
#define EMRA_NO_UNROLL

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

namespace emra {

using std::max;
using std::min;

inline emulation::Machine& machine() { return emulation::Machine::instance(); }

inline unsigned char* shared_memory() { return machine().shared(); }
using SharedAddress = unsigned char*;
inline SharedAddress shared_address() { return machine().shared(); }

inline uint32_t load_shared_word(SharedAddress address) { return *reinterpret_cast<const uint32_t*>(address); }

inline float half_value(uint32_t bits) {
  const auto narrow = static_cast<uint16_t>(bits);
  _Float16 value;
  std::memcpy(&value, &narrow, sizeof value);
  return static_cast<float>(value);
}

inline uint16_t to_half(float value) {
  const auto half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

inline uint32_t pack_halves(float low, float high) { return to_half(low) | static_cast<uint32_t>(to_half(high)) << 16; }

// Nearest, ties away from zero, 10 bits of mantissa.
inline uint32_t to_tf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  return std::isfinite(value) ? (bits + 0x1000u) & ~0x1fffu : bits;
}

inline float exp2_special(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.f : y;
}

inline float log2_special(float x) { return std::log2(x); }

inline float reciprocal(float x) { return x >= 0x1p126f ? 0.f : 1.f / x; }

struct Load {
  uint32_t* words;
  const unsigned char* row;
};

template <int kMatrices>
void load_matrices(uint32_t (&words)[kMatrices], SharedAddress row) {
  Load load{words, row};
  machine().join_warp(
      [](void* const(&lanes)[32]) {
        for (int lane = 0; lane < 32; ++lane) {
          for (int matrix = 0; matrix < kMatrices; ++matrix) {
            const auto* const from = static_cast<const Load*>(lanes[matrix * 8 + lane / 4])->row;
            // The alignment that the hardware traps on.
            if (reinterpret_cast<uintptr_t>(from) % 16 != 0) std::abort();
            std::memcpy(&static_cast<Load*>(lanes[lane])->words[matrix], from + lane % 4 * 4, 4);
          }
        }
      },
      &load);
}

struct Product {
  float* d;
  const uint32_t *a, *b;
};

// kPerWord elements per word; element e of a row stands in word e / kPerWord of 8.
template <int kPerWord, class Value>
void multiply(void* const (&lanes)[32], Value value) {
  float a[16][8 * kPerWord], b[8 * kPerWord][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& part = *static_cast<const Product*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int e = 0; e < kPerWord; ++e) {
      for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][(t + i / 2 * 4) * kPerWord + e] = value(part.a[i], e);
      for (int i = 0; i < 2; ++i) b[(t + i * 4) * kPerWord + e][g] = value(part.b[i], e);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& part = *static_cast<const Product*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = part.d[i];
      for (int k = 0; k < 8 * kPerWord; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      part.d[i] = static_cast<float>(sum);
    }
  }
}

inline void mma_half(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Product product{d, a, b};
  machine().join_warp(
      [](void* const(&lanes)[32]) {
        multiply<2>(lanes, [](uint32_t word, int e) { return half_value(word >> 16 * e); });
      },
      &product);
}

inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Product product{d, a, b};
  machine().join_warp(
      [](void* const(&lanes)[32]) {
        // The hardware does not read the last 13 bits.
        multiply<1>(lanes, [](uint32_t word, int) { return __uint_as_float(word & ~0x1fffu); });
      },
      &product);
}

struct Exchange {
  float value;
  int lane;
  float result;
};

inline float shuffle(float value, int lane) {
  Exchange exchange{value, lane & 31, 0.f};
  machine().join_warp(
      [](void* const(&lanes)[32]) {
        for (void* const argument : lanes) {
          auto& one = *static_cast<Exchange*>(argument);
          one.result = static_cast<const Exchange*>(lanes[one.lane])->value;
        }
      },
      &exchange);
  return exchange.result;
}

inline float shuffle_xor(float value, int mask) { return shuffle(value, machine().lane() ^ mask); }

inline bool any_lane(bool predicate) {
  bool answer = predicate;
  machine().join_warp(
      [](void* const(&lanes)[32]) {
        bool any = false;
        for (const void* const lane : lanes) any |= *static_cast<const bool*>(lane);
        for (void* const lane : lanes) *static_cast<bool*>(lane) = any;
      },
      &answer);
  return answer;
}

// Kernels run one after the other here.
inline void wait_for_previous_kernel() {}

inline void synchronize_block() { machine().join_block(); }

inline void copy_async(SharedAddress shared, const void* global) { machine().copy(shared, global, 16); }
inline void copy_async_commit() { machine().commit_copies(); }
template <int kPending>
void copy_async_wait() {
  machine().wait_for_copies(kPending);
}

template <int kWords>
void load_words(uint32_t (&words)[kWords], const unsigned char* address) {
  struct alignas(4 * kWords) Words {
    uint32_t word[kWords];
  };
  const Words loaded = *reinterpret_cast<const Words*>(address);
  std::copy(loaded.word, loaded.word + kWords, words);
}

inline uint32_t load_word(const unsigned char* address) { return *reinterpret_cast<const uint32_t*>(address); }

}  // namespace emra
