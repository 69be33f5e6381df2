// Second pass: GCA, c2p spread by the attention between patches. T * T exponentials per head: the cost of the operator.
//
// A warp keeps 16 * kRowTiles queries in registers; the keys and the spread values stream through shared memory, one
// tile ahead. Per 16 keys: scores = Q K^T, powers = 2^(scores - shift), sums += powers * spread values, the first and
// the last on the tensor cores. The last column of the spread values is ones, so the sums carry the denominators along.
//
// The softmax is online, but optimistic: `shift` is a row's largest score of the first step, lowered by kHeadroom,
// and no maximum is sought after that. If a power outgrows the range of its type (2^16 in FP16), a sum becomes
// infinite or NaN; the warp then finds the maximum of that tile, rescales the sums it had before, and computes the
// tile once more. That leaves one multiply-add, one exponential and half a conversion per element.
#pragma once

#include "element.cuh"
#include "problem.cuh"

namespace emra {

// A tile of 128 keys takes a multiprocessor 4,000 clocks, several times as long as the next one's copy.
constexpr int kRefineStages = 2;

// log2 of the power that the largest score seen so far gets: FP16 holds 2^16 at most and 2^-14 in full precision.
constexpr float kHeadroom = 8.f;

template <class Element_, int kWidth_, int kColumnTiles_>
struct Refinement {
  using Element = Element_;
  static constexpr int kWidth = kWidth_;
  static constexpr int kColumnTiles = kColumnTiles_;
  static constexpr int kHeadBytes = kWidth * Element::kBytes;
  static constexpr int kSteps = kHeadBytes / 32;
  static constexpr int kKeys = Element::kKeysPerTile;
  static constexpr int kValueBytes = kKeys * Element::kBytes;  // 256
  // An odd number of 16-byte units between rows: the 8 rows of a matrix lie in different banks.
  static constexpr int kKeyStride = kHeadBytes + 16;
  static constexpr int kValueStride = kValueBytes + 16;
  static constexpr int kStageBytes = kKeys * kKeyStride + kColumnTiles * 8 * kValueStride;
  static constexpr int kSharedBytes = kRefineStages * kStageBytes;
  // 32 queries per warp halve the traffic from shared memory, which would be the bound with 16; the larger shapes have
  // no registers left for that.
  static constexpr int kRowTiles = Element::kBytes == 2 && kColumnTiles <= 2 ? 2 : 1;
  static constexpr int kRowsPerWarp = 16 * kRowTiles;
  // Where 128 registers do, two blocks of 8 warps (or four of 4) share a multiprocessor; elsewhere three or two of 4.
  static constexpr bool kSmall = Element::kBytes == 2 && kColumnTiles == 1 && kWidth <= 64;
  static constexpr int kMaxWarps = kSmall ? 8 : 4;
  static constexpr int kMinBlocks = kSmall || Element::kBytes == 4 || (kWidth == 128 && kColumnTiles == 2) ? 2 : 3;
};

template <class Traits>
class RefineWarp {
 public:
  using Element = typename Traits::Element;
  static constexpr int kRowTiles = Traits::kRowTiles;
  static constexpr int kColumnTiles = Traits::kColumnTiles;
  static constexpr int kRun = Element::kOctetsPerStep;

  __device__ __forceinline__ RefineWarp(const Problem& problem, int first_row, int lane)
      : problem_(problem), first_row_(first_row), lane_(lane) {}

  // Loads the queries of a head, and forgets the last one's sums.
  __device__ __forceinline__ void begin(const unsigned char* queries) {
    EMRA_UNROLL
    for (int tile = 0; tile < kRowTiles; ++tile) {
      EMRA_UNROLL
      for (int half = 0; half < 2; ++half) {
        // Rows past the last patch repeat it and are not stored.
        const int row = min(problem_.class_tokens + first_row_ + tile * 16 + half * 8 + lane_ / 4, problem_.tokens - 1);
        const unsigned char* const token = queries + static_cast<size_t>(row) * problem_.row_bytes + lane_ % 4 * 4;
        EMRA_UNROLL
        for (int step = 0; step < Traits::kSteps; ++step) {
          queries_[tile][step][half] = load_word(token + step * 32);
          queries_[tile][step][half + 2] = load_word(token + step * 32 + 16);
        }
        shift_[tile][half] = -kInfinity;
      }
      EMRA_UNROLL
      for (int column = 0; column < kColumnTiles; ++column) {
        EMRA_UNROLL
        for (int i = 0; i < 4; ++i) sums_[tile][column][i] = 0.f;
      }
    }
  }

  // Adds `steps` steps of keys and values in shared memory to the sums.
  __device__ __forceinline__ void add(SharedAddress keys, SharedAddress values, int steps, bool first_tile) {
    if (first_tile) raise_shift(keys, 1);
    float sums[kRowTiles][kColumnTiles][4];
    EMRA_NO_UNROLL
    for (int attempt = 0; attempt < 2; ++attempt) {
      add_optimistically(sums, keys, values, steps);
      // Checking the last column, of ones, is enough, and any lane can: an infinite power spoils every column.
      bool spoilt = false;
      EMRA_UNROLL
      for (int tile = 0; tile < kRowTiles; ++tile) {
        spoilt |= !(sums[tile][kColumnTiles - 1][1] < 1e36f) | !(sums[tile][kColumnTiles - 1][3] < 1e36f);
      }
      // After one raise no finite score can overflow; remaining infinities and NaNs are of the input, and propagate.
      if (attempt == 1 || !any_lane(spoilt)) break;
      raise_shift(keys, steps);
    }
    EMRA_UNROLL
    for (int tile = 0; tile < kRowTiles; ++tile) {
      EMRA_UNROLL
      for (int column = 0; column < kColumnTiles; ++column) {
        EMRA_UNROLL
        for (int i = 0; i < 4; ++i) sums_[tile][column][i] = sums[tile][column][i];
      }
    }
  }

  // Adds this head's result to `refined`, C x N; the first head of a group overwrites it. Every element has one owner.
  __device__ __forceinline__ void finish(float* refined, bool first_head) {
    EMRA_UNROLL
    for (int tile = 0; tile < kRowTiles; ++tile) {
      EMRA_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float denominator = shuffle(sums_[tile][kColumnTiles - 1][2 * half + 1], lane_ | 3);
        const float factor = problem_.mean_factor * reciprocal(denominator);
        const int row = first_row_ + tile * 16 + half * 8 + lane_ / 4;
        EMRA_UNROLL
        for (int column_tile = 0; column_tile < kColumnTiles; ++column_tile) {
          EMRA_UNROLL
          for (int i = 0; i < 2; ++i) {
            const int column = column_tile * 8 + lane_ % 4 * 2 + i;
            if (row < problem_.patches() && column < problem_.class_tokens) {
              float* const cell = refined + static_cast<size_t>(column) * problem_.patches() + row;
              const float value = sums_[tile][column_tile][2 * half + i] * factor;
              *cell = first_head ? value : *cell + value;
            }
          }
        }
      }
    }
  }

 private:
  // Where this lane's row of the first eight keys begins: matrix lane / 8 of a load is the 16 bytes from 16 * (lane /
  // 8) of each key, so that one load brings two steps of 32 bytes.
  __device__ __forceinline__ SharedAddress key_row(SharedAddress keys) const {
    return keys + lane_ % 8 * Traits::kKeyStride + lane_ / 8 * 16;
  }

  // Scores of this warp's queries against the eight keys of `row`, before scaling.
  __device__ __forceinline__ void score(float (&scores)[kRowTiles][4], SharedAddress row) const {
    EMRA_UNROLL
    for (int tile = 0; tile < kRowTiles; ++tile) {
      EMRA_UNROLL
      for (int i = 0; i < 4; ++i) scores[tile][i] = 0.f;
    }
    EMRA_UNROLL
    for (int step = 0; step + 1 < Traits::kSteps; step += 2) {
      uint32_t words[4];
      load_matrices(words, row + step * 32);
      EMRA_UNROLL
      for (int j = 0; j < 2; ++j) {
        const uint32_t b[2] = {words[2 * j], words[2 * j + 1]};
        EMRA_UNROLL
        for (int tile = 0; tile < kRowTiles; ++tile) Element::mma(scores[tile], queries_[tile][step + j], b);
      }
    }
    if constexpr (Traits::kSteps % 2 != 0) {
      uint32_t b[2];
      // Two matrices: lanes 16 to 31 repeat the addresses of lanes 0 to 15, which are not used.
      load_matrices(b, row - lane_ / 16 * 32 + (Traits::kSteps - 1) * 32);
      EMRA_UNROLL
      for (int tile = 0; tile < kRowTiles; ++tile) Element::mma(scores[tile], queries_[tile][Traits::kSteps - 1], b);
    }
  }

  // Makes the shift of each row follow the largest score of the first `steps` steps, and the sums follow the shift.
  __device__ __forceinline__ void raise_shift(SharedAddress keys, int steps) {
    float largest[kRowTiles][2];
    EMRA_UNROLL
    for (int tile = 0; tile < kRowTiles; ++tile) largest[tile][0] = largest[tile][1] = -kInfinity;
    SharedAddress row = key_row(keys);
    EMRA_NO_UNROLL
    for (int octet = 0; octet < steps * kRun; ++octet) {
      float scores[kRowTiles][4];
      score(scores, row);
      row += 8 * Traits::kKeyStride;
      EMRA_UNROLL
      for (int tile = 0; tile < kRowTiles; ++tile) {
        EMRA_UNROLL
        for (int i = 0; i < 4; ++i) largest[tile][i / 2] = fmaxf(largest[tile][i / 2], scores[tile][i]);
      }
    }
    EMRA_UNROLL
    for (int tile = 0; tile < kRowTiles; ++tile) {
      EMRA_UNROLL
      for (int half = 0; half < 2; ++half) {
        float top = largest[tile][half];
        top = fmaxf(top, shuffle_xor(top, 1));
        top = fmaxf(top, shuffle_xor(top, 2));
        const float raised = fmaxf(shift_[tile][half], fmaf(top, problem_.scale, -kHeadroom));
        const float factor = exp2_special(shift_[tile][half] - raised);
        shift_[tile][half] = raised;
        EMRA_UNROLL
        for (int column = 0; column < kColumnTiles; ++column) {
          sums_[tile][column][2 * half] *= factor;
          sums_[tile][column][2 * half + 1] *= factor;
        }
      }
    }
  }

  // sums = sums_ + powers * values, with the shifts as they are.
  __device__ __forceinline__ void add_optimistically(float (&sums)[kRowTiles][kColumnTiles][4], SharedAddress keys,
                                                     SharedAddress values, int steps) const {
    EMRA_UNROLL
    for (int tile = 0; tile < kRowTiles; ++tile) {
      EMRA_UNROLL
      for (int column = 0; column < kColumnTiles; ++column) {
        EMRA_UNROLL
        for (int i = 0; i < 4; ++i) sums[tile][column][i] = sums_[tile][column][i];
      }
    }
    // One step of values at a time: unrolled further, the compiler keeps more scores than there are registers.
    SharedAddress row = key_row(keys);
    SharedAddress value_row = values + lane_ / 4 * Traits::kValueStride + lane_ % 4 * 4;
    float scores[kRun][kRowTiles][4];
    score(scores[0], row);
    EMRA_NO_UNROLL
    for (int step = 1; step < steps; ++step) {
      add_step<true>(sums, scores, row, value_row);
      row += kRun * 8 * Traits::kKeyStride;
      value_row += 32;
    }
    add_step<false>(sums, scores, row, value_row);
  }

  // Adds one step, of whose keys the scores of the first eight are there; leaves those of the next step, if there is
  // `kMore`. The tensor cores work on the scores of eight keys while the powers of the eight before are computed.
  template <bool kMore>
  __device__ __forceinline__ void add_step(float (&sums)[kRowTiles][kColumnTiles][4],
                                           float (&scores)[kRun][kRowTiles][4], SharedAddress row,
                                           SharedAddress value_row) const {
    uint32_t powers[kRowTiles][4];
    EMRA_UNROLL
    for (int octet = 0; octet < kRun; ++octet) {
      const SharedAddress next = row + (octet + 1) * 8 * Traits::kKeyStride;
      if (kRun == 2 && (octet == 0 || kMore)) score(scores[(octet + 1) % kRun], next);
      EMRA_UNROLL
      for (int tile = 0; tile < kRowTiles; ++tile) {
        EMRA_UNROLL
        for (int i = 0; i < 4; ++i) {
          float& cell = scores[octet][tile][i];
          cell = Element::exp2(fmaf(cell, problem_.scale, -shift_[tile][i / 2]), octet * 4 + i);
        }
        Element::pack(powers[tile], scores[octet][tile], octet);
      }
      // With one buffer of scores there is nothing to overlap with, and no register to spare for another.
      if (kRun == 1 && kMore) score(scores[0], next);
    }
    EMRA_UNROLL
    for (int column = 0; column < kColumnTiles; ++column) {
      uint32_t b[2];
      load_values(b, value_row + column * 8 * Traits::kValueStride);
      EMRA_UNROLL
      for (int tile = 0; tile < kRowTiles; ++tile) Element::mma(sums[tile][column], powers[tile], b);
    }
  }

  // B fragment of 8 columns of the spread values and one 32-byte step of keys, of which `row` is this lane's first
  // word: two words, no bank conflicts (see kValueStride), and fewer registers than a load of four matrices.
  __device__ __forceinline__ static void load_values(uint32_t (&b)[2], SharedAddress row) {
    b[0] = load_shared_word(row);
    b[1] = load_shared_word(row + 16);
  }

  const Problem& problem_;
  const int first_row_, lane_;
  uint32_t queries_[kRowTiles][Traits::kSteps][4];
  float shift_[kRowTiles][2];
  float sums_[kRowTiles][kColumnTiles][4];
};

// Starts copying `wanted` keys and a tile of spread values into a stage of shared memory. Keys past the last repeat it:
// their scores are ordinary, and the zeros of the spread values, the last column included, take them out of every sum.
template <class Traits>
__device__ __forceinline__ void copy_tile(SharedAddress stage, const Problem& problem, const unsigned char* keys,
                                          const unsigned char* spread, int first_key, int wanted) {
  constexpr int kUnits = Traits::kHeadBytes / 16, kValueUnits = Traits::kValueBytes / 16;
  const int threads = static_cast<int>(blockDim.x);
  for (int i = threadIdx.x; i < wanted * kUnits; i += threads) {
    const int key = i / kUnits, unit = i % kUnits;
    const size_t token = min(first_key + key, problem.tokens - 1);
    copy_async(stage + key * Traits::kKeyStride + unit * 16, keys + token * problem.row_bytes + unit * 16);
  }
  const SharedAddress values = stage + Traits::kKeys * Traits::kKeyStride;
  for (int i = threadIdx.x; i < Traits::kColumnTiles * 8 * kValueUnits; i += threads) {
    const int column = i / kValueUnits, unit = i % kValueUnits;
    const size_t cell = static_cast<size_t>(column) * problem.padded_keys + first_key;
    copy_async(values + column * Traits::kValueStride + unit * 16, spread + cell * Traits::Element::kBytes + unit * 16);
  }
}

// Grid: tiles of queries x groups of heads x images; 1 to kMaxWarps warps, each with queries of its own.
template <class Traits>
__global__ void __launch_bounds__(Traits::kMaxWarps * 32, Traits::kMinBlocks) refine(const Problem problem) {
  wait_for_previous_kernel();
  const SharedAddress shared = shared_address();
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int first_row = (static_cast<int>(blockIdx.x) * warps + warp) * Traits::kRowsPerWarp;
  const int group = blockIdx.y, image = blockIdx.z;
  const int first_head = group * problem.heads / problem.groups;
  const int heads = (group + 1) * problem.heads / problem.groups - first_head;
  const int tiles = (problem.tokens + Traits::kKeys - 1) / Traits::kKeys;
  const size_t result = static_cast<size_t>(problem.class_tokens) * problem.patches();
  float* const refined = problem.refined + (static_cast<size_t>(group) * problem.batch + image) * result;
  const unsigned char* const spread =
      static_cast<const unsigned char*>(problem.spread) +
      static_cast<size_t>(image) * problem.columns * problem.padded_keys * Traits::Element::kBytes;

  RefineWarp<Traits> rows(problem, first_row, static_cast<int>(threadIdx.x) % 32);

  // The last tile of a head is cut to whole steps: T is often a few class tokens more than a multiple of a tile.
  constexpr int kStepKeys = 8 * Traits::Element::kOctetsPerStep;
  const auto steps_of = [&](int tile) {
    return (min(Traits::kKeys, problem.tokens - tile * Traits::kKeys) + kStepKeys - 1) / kStepKeys;
  };

  // Tiles are copied ahead of the computation, across the heads of the group.
  const auto copy = [&](int head, int tile, int stage) {
    for (; tile >= tiles; tile -= tiles) ++head;
    if (head < heads) {
      const unsigned char* const keys =
          problem.queries(image, first_head + head, Traits::kHeadBytes) + problem.key_offset;
      copy_tile<Traits>(shared + stage * Traits::kStageBytes, problem, keys, spread, tile * Traits::kKeys,
                        steps_of(tile) * kStepKeys);
    }
    copy_async_commit();  // An empty group at the end keeps the count that copy_async_wait goes by.
  };
  EMRA_UNROLL
  for (int i = 0; i < kRefineStages - 1; ++i) copy(0, i, i);

  int stage = 0;
  EMRA_NO_UNROLL
  for (int head = 0; head < heads; ++head) {
    rows.begin(problem.queries(image, first_head + head, Traits::kHeadBytes));
    EMRA_NO_UNROLL
    for (int tile = 0; tile < tiles; ++tile) {
      copy_async_wait<kRefineStages - 2>();
      // Now this tile is there for all, and all have left the stage that is copied into next.
      synchronize_block();
      copy(head, tile + kRefineStages - 1, stage == 0 ? kRefineStages - 1 : stage - 1);
      const SharedAddress keys = shared + stage * Traits::kStageBytes;
      if (first_row < problem.patches()) {
        rows.add(keys, keys + Traits::kKeys * Traits::kKeyStride, steps_of(tile), tile == 0);
      }
      stage = stage == kRefineStages - 1 ? 0 : stage + 1;
    }
    if (first_row < problem.patches()) rows.finish(refined, head == 0);
  }
  copy_async_wait<0>();
}

}  // namespace emra
