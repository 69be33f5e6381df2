// Checks a shape, cuts it into blocks of threads, and launches the kernels of kernels/.
#include <cmath>

#include "attention_aggregation.h"
#include "kernels/add_groups.cuh"
#include "kernels/class_rows.cuh"
#include "kernels/plan.h"
#include "kernels/refine.cuh"

static_assert(emra::kMaxBlocks == EMRA_MAX_BLOCKS, "the kernels' limit is the interface's");
static_assert(emra::kMaxClassTokens == EMRA_MAX_CLASS_TOKENS, "the kernels' limit is the interface's");

namespace emra {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

// Shared memory that a kernel may use without asking for more.
constexpr size_t kDefaultSharedBytes = 48 * 1024;

Problem make_problem(const EmraAggregationShape& shape, const void* const* qkv, float* gca, unsigned char* workspace) {
  const int element = shape.type == EMRA_FP16 ? 2 : 4;
  const Split split = split_keys(shape.tokens, kSumKeys);
  const WorkspaceLayout layout = workspace_layout(shape, kSumKeys, kKeyPadding);
  Problem problem = {};
  for (int block = 0; block < shape.num_blocks; ++block) {
    problem.qkv[block] = static_cast<const unsigned char*>(qkv[block]);
  }
  problem.batch = shape.batch;
  problem.tokens = shape.tokens;
  problem.class_tokens = shape.num_class_tokens;
  problem.heads_per_block = shape.num_heads;
  problem.heads = shape.num_heads * shape.num_blocks;
  problem.key_offset = shape.num_heads * shape.head_width * element;
  problem.row_bytes = 3 * problem.key_offset;
  problem.scale = shape.scale * kLog2E;
  problem.splits = split.count;
  problem.split_keys = split.keys;
  problem.padded_keys = static_cast<int32_t>(divide_up(shape.tokens, kKeyPadding)) * kKeyPadding;
  problem.columns = column_tiles(shape) * 8;
  // c2p is at most 1, so N times it stays below FP16's 65504 up to N = 2^15.
  problem.value_scale = std::ldexp(1.f, std::min(std::ilogb(static_cast<float>(problem.patches())), 15));
  problem.mean_factor = 1.f / (static_cast<float>(problem.heads) * problem.value_scale);
  problem.class_sums = reinterpret_cast<float2*>(workspace + layout.class_sums);
  problem.spread = workspace + layout.spread;
  problem.refined = reinterpret_cast<float*>(workspace + layout.refined);
  problem.gca = gca;
  return problem;
}

// Whether each kernel but the first may start while the one before it ends, from compute capability 9.0 on. Off until
// it has been timed: benchmarks/gpu_suite.py times both.
#ifndef EMRA_PROGRAMMATIC_LAUNCH
#define EMRA_PROGRAMMATIC_LAUNCH 0
#endif

cudaError_t start(void (*kernel)(Problem), dim3 grid, int threads, size_t shared, cudaStream_t stream,
                  const Problem& problem, [[maybe_unused]] bool first = false) {
  if (shared > kDefaultSharedBytes) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
#if EMRA_PROGRAMMATIC_LAUNCH
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = first ? 0 : 1;
#endif
  return cudaLaunchKernelEx(&config, kernel, problem);
}

cudaError_t multiprocessor_count(int& count) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error != cudaSuccess ? error : cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
}

template <class Element, int kWidth>
cudaError_t start_class_rows(const Problem& problem, cudaStream_t stream) {
  const cudaError_t error = start(sum_class_rows<Element, kWidth>, dim3(problem.splits, problem.heads, problem.batch),
                                  kSumWarps * 32, kSumWarps * kRowsPerTile * sizeof(float2), stream, problem, true);
  if (error != cudaSuccess) return error;
  return start(spread_class_rows<Element, kWidth>, dim3(problem.padded_keys / kSpreadKeys, problem.batch),
               kSpreadWarps * 32, kSpreadWarps * kRowsPerTile * kSpreadKeys * sizeof(float), stream, problem);
}

template <class Traits>
cudaError_t start_refinement(Problem problem, const EmraAggregationShape& shape, cudaStream_t stream) {
  int multiprocessors = 0;
  cudaError_t error = multiprocessor_count(multiprocessors);
  if (error != cudaSuccess) return error;
  const Cut cut = cut_refinement(shape, Traits::kRowsPerWarp, Traits::kMaxWarps, multiprocessors);
  problem.groups = cut.groups;
  if (cut.groups == 1) problem.refined = problem.gca;
  const int64_t tiles = divide_up(problem.patches(), Traits::kRowsPerWarp * cut.warps);
  error = start(refine<Traits>, dim3(static_cast<unsigned>(tiles), cut.groups, problem.batch), cut.warps * 32,
                Traits::kSharedBytes, stream, problem);
  if (error != cudaSuccess || cut.groups == 1) return error;
  const int64_t size = static_cast<int64_t>(problem.batch) * problem.class_tokens * problem.patches();
  return start(add_groups, dim3(static_cast<unsigned>(divide_up(size, 32))), kReduceWarps * 32,
               kReduceWarps * 32 * sizeof(float), stream, problem);
}

template <class Element, int kWidth>
cudaError_t launch_width(const Problem& problem, const EmraAggregationShape& shape, cudaStream_t stream) {
  const cudaError_t error = start_class_rows<Element, kWidth>(problem, stream);
  if (error != cudaSuccess) return error;
  switch (column_tiles(shape)) {
    case 1:
      if constexpr (Element::kBytes == 2) {
        return start_refinement<Refinement<Element, kWidth, 1>>(problem, shape, stream);
      } else {
        return cudaErrorInvalidValue;  // column_tiles() asks for at least two.
      }
    case 2:
      return start_refinement<Refinement<Element, kWidth, 2>>(problem, shape, stream);
    default:
      return start_refinement<Refinement<Element, kWidth, 5>>(problem, shape, stream);
  }
}

template <class Element>
cudaError_t launch_type(const Problem& problem, const EmraAggregationShape& shape, cudaStream_t stream) {
  switch (shape.head_width) {
    case 32:
      return launch_width<Element, 32>(problem, shape, stream);
    case 64:
      return launch_width<Element, 64>(problem, shape, stream);
    case 80:
      return launch_width<Element, 80>(problem, shape, stream);
    default:
      return launch_width<Element, 128>(problem, shape, stream);
  }
}

bool misaligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes != 0; }

}  // namespace
}  // namespace emra

extern "C" {

int emra_aggregation_version(void) { return EMRA_AGGREGATION_VERSION; }

const char* emra_aggregation_check(const EmraAggregationShape* shape) {
  if (shape == nullptr) return "expected a shape, got a null pointer";
  if (shape->type != EMRA_FP32 && shape->type != EMRA_FP16) return "expected type FP32 (0) or FP16 (1)";
  if (shape->batch < 1 || shape->batch > 65535) return "expected a batch of 1 to 65535";
  if (shape->num_class_tokens < 1 || shape->num_class_tokens > EMRA_MAX_CLASS_TOKENS) {
    return "expected 1 to 32 class tokens";
  }
  if (shape->tokens <= shape->num_class_tokens) return "expected more tokens than class tokens";
  if (shape->tokens > 1 << 24) return "expected at most 16777216 tokens";
  if (shape->num_heads < 1 || shape->num_heads > 128) return "expected 1 to 128 heads";
  if (shape->head_width != 32 && shape->head_width != 64 && shape->head_width != 80 && shape->head_width != 128) {
    return "expected a head width of 32, 64, 80 or 128";
  }
  if (shape->num_blocks < 1 || shape->num_blocks > EMRA_MAX_BLOCKS) return "expected 1 to 12 blocks";
  if (!(shape->scale > 0.f) || !std::isfinite(shape->scale)) return "expected a positive, finite scale";
  return nullptr;
}

size_t emra_aggregation_workspace(const EmraAggregationShape* shape) {
  if (emra_aggregation_check(shape) != nullptr) return 0;
  return emra::workspace_layout(*shape, emra::kSumKeys, emra::kKeyPadding).total;
}

int emra_aggregation_launch(const EmraAggregationShape* shape, const void* const* qkv, float* gca, void* workspace,
                            void* stream) {
  if (emra_aggregation_check(shape) != nullptr || qkv == nullptr || gca == nullptr || workspace == nullptr ||
      emra::misaligned(gca, sizeof(float)) || emra::misaligned(workspace, emra::kWorkspaceAlignment)) {
    return cudaErrorInvalidValue;
  }
  for (int block = 0; block < shape->num_blocks; ++block) {
    if (qkv[block] == nullptr || emra::misaligned(qkv[block], 16)) return cudaErrorInvalidValue;
  }
  const emra::Problem problem = emra::make_problem(*shape, qkv, gca, static_cast<unsigned char*>(workspace));
  const auto on = static_cast<cudaStream_t>(stream);
  return shape->type == EMRA_FP16 ? emra::launch_type<emra::Half>(problem, *shape, on)
                                  : emra::launch_type<emra::Float>(problem, *shape, on);
}

}  // extern "C"
