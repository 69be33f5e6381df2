// Last step: the sum of the groups that the heads were cut into.
#pragma once

#include "problem.cuh"

namespace emra {

constexpr int kReduceWarps = 8;

// gca = sum of refined, always in the same order. Grid: 32 elements of gca per block; 8 warps share the groups.
static __global__ void __launch_bounds__(kReduceWarps * 32) add_groups(const Problem problem) {
  wait_for_previous_kernel();
  float* const warp_sums = reinterpret_cast<float*>(shared_memory());  // kReduceWarps x 32
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const size_t size = static_cast<size_t>(problem.batch) * problem.class_tokens * problem.patches();
  const size_t cell = static_cast<size_t>(blockIdx.x) * 32 + lane;
  float sum = 0.f;
  if (cell < size) {
    for (int group = warp; group < problem.groups; group += kReduceWarps) sum += problem.refined[group * size + cell];
  }
  warp_sums[warp * 32 + lane] = sum;
  synchronize_block();
  if (warp == 0 && cell < size) {
    for (int other = 1; other < kReduceWarps; ++other) sum += warp_sums[other * 32 + lane];
    problem.gca[cell] = sum;
  }
}

}  // namespace emra
