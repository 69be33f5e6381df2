// The arguments of every kernel of one launch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "intrinsics.cuh"

namespace emra {

constexpr int kMaxBlocks = 12;
constexpr int kMaxClassTokens = 32;

// Class rows are computed 16 at a time, the rows of one matrix instruction.
constexpr int kRowsPerTile = 16;

// Keys of a class-row block of threads; the spread values are padded to whole tiles of the refinement.
constexpr int kSpreadKeys = 16;
constexpr int kKeyPadding = 128;

// Passed by value to each kernel. "Head" below counts the heads of all P blocks, block by block.
struct Problem {
  const unsigned char* qkv[kMaxBlocks];  // P tensors, B x T x 3 x heads x width
  int32_t batch, tokens, class_tokens, heads_per_block, heads;
  int32_t row_bytes;    // 3 * heads_per_block * width elements: one token of qkv
  int32_t key_offset;   // bytes from a token's q to its k
  float scale;          // factor on Q K^T, times log2(e): all exponentials are powers of 2
  int32_t splits;       // parts that the keys are cut into for the sums of the class rows
  int32_t split_keys;   // keys of a part, a multiple of 256
  int32_t padded_keys;  // T rounded up to kKeyPadding
  int32_t columns;      // columns of the spread values, a multiple of 8, more than C
  float value_scale;    // power of 2 near N that brings c2p, of the order of 1 / N, into the range of FP16
  float mean_factor;    // 1 / (heads * value_scale)
  int32_t groups;       // parts that the heads are cut into for the refinement
  float2* class_sums;   // B x heads x splits x C: (largest exponent, sum of powers relative to it)
  void* spread;         // B x columns x padded_keys: c2p, and a last column of ones, in the input's type
  float* refined;       // groups x B x C x N: the sums of each group; gca itself where groups == 1
  float* gca;           // B x C x N

  __host__ __device__ __forceinline__ int patches() const { return tokens - class_tokens; }

  // q of token 0 of one head, in bytes of that head's width.
  __device__ __forceinline__ const unsigned char* queries(int image, int head, int head_bytes) const {
    const int block = head / heads_per_block;
    return qkv[block] + static_cast<size_t>(image) * tokens * row_bytes +
           static_cast<size_t>(head - block * heads_per_block) * head_bytes;
  }
};

}  // namespace emra
