// How a shape is cut into blocks of threads, and where the workspace's parts begin. Host code, no CUDA.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "../attention_aggregation.h"

namespace emra {

// At most this many blocks' worth of partial results exist (but one per block of queries always does), so that the
// workspace stays small: 128 queries x C x 4 bytes each. Three for each of an H100's 132 multiprocessors.
constexpr int kMaxPartialBlocks = 400;
constexpr int kPartialQueries = 128;

constexpr size_t kWorkspaceAlignment = 256;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Columns of 8 of the spread values that kernels exist for; the last column holds ones, so C is smaller than 8 * tiles.
inline int column_tiles(const EmraAggregationShape& shape) {
  const int needed = static_cast<int>(divide_up(shape.num_class_tokens + 1, 8));
  if (needed > 2) return 5;
  return shape.type == EMRA_FP32 ? 2 : needed;
}

struct Split {
  int keys;   // a multiple of `unit`
  int count;  // at most 6
};

// Cuts the keys for the sums of the class rows: as many blocks as possible, but few enough parts to add up by each
// reader.
inline Split split_keys(int tokens, int unit) {
  const int keys = static_cast<int>(unit * divide_up(tokens, static_cast<int64_t>(unit) * 6));
  return {keys, static_cast<int>(divide_up(tokens, keys))};
}

// Most groups that the heads may be cut into, on any device.
inline int most_groups(const EmraAggregationShape& shape) {
  const int64_t tiles = divide_up(shape.tokens - shape.num_class_tokens, kPartialQueries) * shape.batch;
  return static_cast<int>(
      std::clamp<int64_t>(kMaxPartialBlocks / tiles, 1, static_cast<int64_t>(shape.num_heads) * shape.num_blocks));
}

struct Cut {
  int warps;   // per block
  int groups;  // of heads
};

// Cuts queries and heads for the refinement so that the busiest multiprocessor has the least to do.
//
// Its work is counted in warps times heads. A multiprocessor that holds few warps cannot hide latencies, so cuts that
// give it fewer than 12 are taken as if the work were done that much slower. Among equals the fewest groups win (less
// to add up), then the larger blocks (keys are fetched half as often).
inline Cut cut_refinement(const EmraAggregationShape& shape, int rows_per_warp, int max_warps, int multiprocessors) {
  constexpr double kWarpsWanted = 12;
  const int64_t heads = static_cast<int64_t>(shape.num_heads) * shape.num_blocks;
  const int64_t patches = shape.tokens - shape.num_class_tokens;
  Cut best = {4, 1};
  double best_cost = 0;
  for (int warps = max_warps; warps >= 4; warps /= 2) {
    const int64_t tiles = divide_up(patches, static_cast<int64_t>(rows_per_warp) * warps) * shape.batch;
    for (int groups = 1; groups <= most_groups(shape); ++groups) {
      const int64_t blocks = divide_up(tiles * groups, multiprocessors);
      const double idle = std::max(1.0, kWarpsWanted / static_cast<double>(blocks * warps));
      const double cost = static_cast<double>(blocks * warps * divide_up(heads, groups)) * idle;
      const bool first = best_cost == 0;
      if (first || cost < best_cost || (cost == best_cost && groups < best.groups)) {
        best = {warps, groups};
        best_cost = cost;
      }
    }
  }
  return best;
}

// Byte offsets into the workspace.
struct WorkspaceLayout {
  size_t class_sums, spread, refined, total;
};

inline WorkspaceLayout workspace_layout(const EmraAggregationShape& shape, int sum_unit, int key_padding) {
  const auto align = [](size_t bytes) {
    return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
  };
  const size_t batch = shape.batch, classes = shape.num_class_tokens;
  const size_t heads = static_cast<size_t>(shape.num_heads) * shape.num_blocks;
  const size_t patches = static_cast<size_t>(shape.tokens) - classes;
  const size_t padded = static_cast<size_t>(divide_up(shape.tokens, key_padding)) * key_padding;
  const size_t element = shape.type == EMRA_FP16 ? 2 : 4;
  const size_t groups = most_groups(shape);

  WorkspaceLayout layout = {};
  layout.class_sums = 0;
  layout.spread = align(batch * heads * split_keys(shape.tokens, sum_unit).count * classes * 2 * sizeof(float));
  layout.refined = layout.spread + align(batch * column_tiles(shape) * 8 * padded * element);
  // With one group the result is written where it belongs.
  layout.total = layout.refined + (groups > 1 ? align(groups * batch * classes * patches * sizeof(float)) : 0);
  return layout;
}

}  // namespace emra
