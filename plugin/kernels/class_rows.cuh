// First pass: c2p, the attention of the class tokens to the patches, mean over heads and blocks.
//
// Two kernels, because a softmax must know its sum before the heads can be added up, and keeping the C x T rows of
// every head would take heads * P times the memory of the result: `sum_class_rows` finds each row's sum, and
// `spread_class_rows` computes the rows again, which is cheap, and adds them up.
//
// Each key is used once per block of threads, so fragments come straight from global memory, 16 bytes per lane: the
// four words are those of two steps. The order of a head's elements does not matter as long as queries and keys share
// it.
#pragma once

#include "element.cuh"
#include "problem.cuh"

namespace emra {

constexpr int kSumWarps = 4;
constexpr int kSumKeysPerWarp = 64;
constexpr int kSumKeys = kSumWarps * kSumKeysPerWarp;
constexpr int kSpreadWarps = 16;

// Adds the products of `kBytes` (64 or 32) bytes of 16 class tokens and of 8 * kOctets keys to their scores. `rows` are
// the two class tokens, and `keys` the keys, of which this lane loads its words.
template <class Element, int kBytes, int kOctets>
__device__ __forceinline__ void multiply_piece(float (&scores)[kOctets][4], const unsigned char* const (&rows)[2],
                                               const unsigned char* const (&keys)[kOctets], int offset, int t) {
  constexpr int kSteps = kBytes / 32;
  uint32_t a[kSteps][4];
  EMRA_UNROLL
  for (int half = 0; half < 2; ++half) {
    uint32_t words[2 * kSteps];
    load_words(words, rows[half] + offset + t * 8 * kSteps);
    EMRA_UNROLL
    for (int i = 0; i < 2 * kSteps; ++i) a[i / 2][half + i % 2 * 2] = words[i];
  }
  EMRA_UNROLL
  for (int octet = 0; octet < kOctets; ++octet) {
    uint32_t words[2 * kSteps];
    load_words(words, keys[octet] + offset + t * 8 * kSteps);
    EMRA_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t b[2] = {words[2 * step], words[2 * step + 1]};
      Element::mma(scores[octet], a[step], b);
    }
  }
}

// Scores of class tokens first_row ... first_row + 15 against 8 * kOctets keys from first_key, before scaling. Rows
// past the last class token and keys past the last repeat it; their scores are not used.
template <class Element, int kWidth, int kOctets>
__device__ __forceinline__ void score_class_rows(float (&scores)[kOctets][4], const Problem& problem,
                                                 const unsigned char* queries, int first_row, int first_key, int lane) {
  constexpr int kHeadBytes = kWidth * Element::kBytes;
  const unsigned char *rows[2], *keys[kOctets];
  EMRA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const size_t row = min(first_row + lane / 4 + half * 8, problem.class_tokens - 1);
    rows[half] = queries + row * problem.row_bytes;
  }
  EMRA_UNROLL
  for (int octet = 0; octet < kOctets; ++octet) {
    const size_t key = min(first_key + octet * 8 + lane / 4, problem.tokens - 1);
    keys[octet] = queries + problem.key_offset + key * problem.row_bytes;
    EMRA_UNROLL
    for (int i = 0; i < 4; ++i) scores[octet][i] = 0.f;
  }
  EMRA_UNROLL_TWICE
  for (int offset = 0; offset + 64 <= kHeadBytes; offset += 64) {
    multiply_piece<Element, 64>(scores, rows, keys, offset, lane % 4);
  }
  if constexpr (kHeadBytes % 64 != 0) {
    multiply_piece<Element, kHeadBytes % 64>(scores, rows, keys, kHeadBytes / 64 * 64, lane % 4);
  }
}

// Grid: splits x heads x images; kSumWarps warps, which share a split's keys.
template <class Element, int kWidth>
__global__ void __launch_bounds__(kSumWarps * 32, Element::kBytes == 2 ? 3 : 2) sum_class_rows(const Problem problem) {
  wait_for_previous_kernel();
  float2* const warp_sums = reinterpret_cast<float2*>(shared_memory());  // kSumWarps x 16
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int split = blockIdx.x, head = blockIdx.y, image = blockIdx.z;
  const unsigned char* const queries = problem.queries(image, head, kWidth * Element::kBytes);
  const int end = min((split + 1) * problem.split_keys, problem.tokens);

  for (int first_row = 0; first_row < problem.class_tokens; first_row += kRowsPerTile) {
    float largest[2] = {-kInfinity, -kInfinity}, sum[2] = {0.f, 0.f};
    EMRA_NO_UNROLL
    for (int first = split * problem.split_keys + warp * kSumKeysPerWarp; first < end; first += kSumKeys) {
      float scores[kSumKeysPerWarp / 8][4];
      score_class_rows<Element, kWidth>(scores, problem, queries, first_row, first, lane);
      EMRA_UNROLL
      for (int half = 0; half < 2; ++half) {
        // Repeated keys do no harm to the largest score, so only the sum has to leave them out.
        float top = largest[half];
        EMRA_UNROLL
        for (int j = 0; j < kSumKeysPerWarp / 8; ++j) {
          top = fmaxf(top, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]) * problem.scale);
        }
        float total = sum[half] * exp2_special(largest[half] - top);
        EMRA_UNROLL
        for (int j = 0; j < kSumKeysPerWarp / 8; ++j) {
          EMRA_UNROLL
          for (int i = 0; i < 2; ++i) {
            const float power = exp2_special(fmaf(scores[j][2 * half + i], problem.scale, -top));
            total += first + j * 8 + lane % 4 * 2 + i < end ? power : 0.f;
          }
        }
        largest[half] = top;
        sum[half] = total;
      }
    }
    EMRA_UNROLL
    for (int half = 0; half < 2; ++half) {
      float top = largest[half];
      top = fmaxf(top, shuffle_xor(top, 1));
      top = fmaxf(top, shuffle_xor(top, 2));
      // A warp without keys has -infinity and 0, and so has a quad of it.
      float total = top == -kInfinity ? 0.f : sum[half] * exp2_special(largest[half] - top);
      total += shuffle_xor(total, 1);
      total += shuffle_xor(total, 2);
      if (lane % 4 == 0) warp_sums[warp * kRowsPerTile + lane / 4 + half * 8] = make_float2(top, total);
    }
    synchronize_block();
    const int row = first_row + static_cast<int>(threadIdx.x);
    if (threadIdx.x < kRowsPerTile && row < problem.class_tokens) {
      float2 all = warp_sums[threadIdx.x];  // Warp 0 always has keys: a split is never empty.
      for (int other = 1; other < kSumWarps; ++other) {
        const float2 one = warp_sums[other * kRowsPerTile + threadIdx.x];
        const float top = fmaxf(all.x, one.x);
        all = make_float2(top, all.y * exp2_special(all.x - top) + one.y * exp2_special(one.x - top));
      }
      const size_t index = (static_cast<size_t>(image) * problem.heads + head) * problem.splits + split;
      problem.class_sums[index * problem.class_tokens + row] = all;
    }
    synchronize_block();  // warp_sums is written again for the next rows.
  }
}

// log2 of the softmax's denominator of one class row, over all splits.
__device__ __forceinline__ float log_sum(const Problem& problem, int image, int head, int row) {
  const size_t first = (static_cast<size_t>(image) * problem.heads + head) * problem.splits;
  const float2* const parts = problem.class_sums + first * problem.class_tokens + row;
  float2 all = parts[0];
  for (int split = 1; split < problem.splits; ++split) {
    const float2 one = parts[static_cast<size_t>(split) * problem.class_tokens];
    const float top = fmaxf(all.x, one.x);
    all = make_float2(top, all.y * exp2_special(all.x - top) + one.y * exp2_special(one.x - top));
  }
  return all.x + log2_special(all.y);
}

// Grid: padded_keys / kSpreadKeys x images; kSpreadWarps warps, which share the heads. Writes every element of
// `spread`: zero for class tokens and padding, and ones in the last column for keys that exist, so that the product
// that spreads c2p also sums the probabilities.
template <class Element, int kWidth>
__global__ void __launch_bounds__(kSpreadWarps * 32, 1) spread_class_rows(const Problem problem) {
  wait_for_previous_kernel();
  float* const warp_rows = reinterpret_cast<float*>(shared_memory());  // kSpreadWarps x 16 rows x kSpreadKeys
  constexpr int kCells = kRowsPerTile * kSpreadKeys;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_key = blockIdx.x * kSpreadKeys, image = blockIdx.y;

  for (int first_row = 0; first_row < problem.columns; first_row += kRowsPerTile) {
    float rows[kSpreadKeys / 8][4] = {};
    if (first_row < problem.class_tokens && first_key < problem.tokens) {
      EMRA_NO_UNROLL
      for (int head = warp; head < problem.heads; head += kSpreadWarps) {
        const unsigned char* const queries = problem.queries(image, head, kWidth * Element::kBytes);
        float scores[kSpreadKeys / 8][4];
        score_class_rows<Element, kWidth>(scores, problem, queries, first_row, first_key, lane);
        float logs[2];
        EMRA_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int row = min(first_row + lane / 4 + half * 8, problem.class_tokens - 1);
          logs[half] = log_sum(problem, image, head, row);
        }
        EMRA_UNROLL
        for (int j = 0; j < kSpreadKeys / 8; ++j) {
          EMRA_UNROLL
          for (int i = 0; i < 4; ++i) rows[j][i] += exp2_special(fmaf(scores[j][i], problem.scale, -logs[i / 2]));
        }
      }
    }
    EMRA_UNROLL
    for (int j = 0; j < kSpreadKeys / 8; ++j) {
      EMRA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, key = j * 8 + lane % 4 * 2 + i % 2;
        warp_rows[warp * kCells + row * kSpreadKeys + key] = rows[j][i];
      }
    }
    synchronize_block();
    for (int cell = threadIdx.x; cell < kCells; cell += kSpreadWarps * 32) {
      const int column = first_row + cell / kSpreadKeys, key = first_key + cell % kSpreadKeys;
      if (column < problem.columns) {
        float value = 0.f;
        if (column == problem.columns - 1) {
          value = key < problem.tokens ? 1.f : 0.f;
        } else if (column < problem.class_tokens && key >= problem.class_tokens && key < problem.tokens) {
          for (int other = 0; other < kSpreadWarps; ++other) value += warp_rows[other * kCells + cell];
          value *= problem.value_scale / static_cast<float>(problem.heads);
        }
        const int position = key / 8 * 8 + Element::position(key % 8);
        const size_t row = static_cast<size_t>(image) * problem.columns + column;
        Element::store(problem.spread, row * problem.padded_keys + position, value);
      }
    }
    synchronize_block();
  }
}

}  // namespace emra
