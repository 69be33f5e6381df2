// Launches every kernel once on small shapes, for compute-sanitizer: memory of exact sizes, all inputs initialised.
// Built and run by benchmarks/gpu/sanitizer.py. Ends with 1 where a call fails or a result is not finite.
#include <cmath>
#include <cstdio>
#include <vector>

#include "../../plugin/attention_aggregation.cu"

namespace {

bool run(const EmraAggregationShape& shape) {
  const size_t element = shape.type == EMRA_FP16 ? 2 : 4;
  const size_t count = static_cast<size_t>(shape.batch) * shape.tokens * 3 * shape.num_heads * shape.head_width;
  const size_t result = static_cast<size_t>(shape.batch) * shape.num_class_tokens *
                        (static_cast<size_t>(shape.tokens) - shape.num_class_tokens);
  // FP16: bits 0x3800 to 0x3bff and their negatives, 0.5 to 1; FP32 likewise.
  std::vector<unsigned char> host(count * element);
  unsigned state = 12345u + static_cast<unsigned>(shape.tokens);
  for (size_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    if (element == 2) {
      reinterpret_cast<uint16_t*>(host.data())[i] = static_cast<uint16_t>(0x3800u | (state >> 16 & 0x83ffu));
    } else {
      reinterpret_cast<uint32_t*>(host.data())[i] = 0x3f000000u | (state >> 1 & 0x807fffffu) | (state & 0x80000000u);
    }
  }
  std::vector<void*> blocks(shape.num_blocks);
  void *gca = nullptr, *workspace = nullptr;
  bool good = true;
  for (void*& block : blocks) {
    good &= cudaMalloc(&block, host.size()) == cudaSuccess &&
            cudaMemcpy(block, host.data(), host.size(), cudaMemcpyHostToDevice) == cudaSuccess;
  }
  good &= cudaMalloc(&gca, result * sizeof(float)) == cudaSuccess;
  good &= cudaMalloc(&workspace, emra_aggregation_workspace(&shape)) == cudaSuccess;
  std::vector<float> out(result, NAN);
  good = good && emra_aggregation_launch(&shape, blocks.data(), static_cast<float*>(gca), workspace, nullptr) == 0 &&
         cudaDeviceSynchronize() == cudaSuccess &&
         cudaMemcpy(out.data(), gca, result * sizeof(float), cudaMemcpyDeviceToHost) == cudaSuccess;
  for (const float value : out) good &= std::isfinite(value);
  for (void* const block : blocks) cudaFree(block);
  cudaFree(gca);
  cudaFree(workspace);
  if (!good) {
    std::printf("failed: type %d T %d C %d width %d: %s\n", shape.type, shape.tokens, shape.num_class_tokens,
                shape.head_width, cudaGetErrorString(cudaGetLastError()));
  }
  return good;
}

}  // namespace

int main() {
  bool good = true;
  for (const int type : {EMRA_FP16, EMRA_FP32}) {
    for (const int width : {32, 64, 80, 128}) {
      for (const int classes : {7, 15, 32}) {
        const float scale = 1.f / std::sqrt(static_cast<float>(width));
        good &= run({2, 131, classes, 2, width, 2, scale, type});
      }
    }
  }
  good &= run({1, 8, 7, 1, 64, 1, 0.125f, EMRA_FP16});
  good &= run({1, 300, 7, 3, 64, 4, 0.125f, EMRA_FP16});
  return good ? 0 : 1;
}
