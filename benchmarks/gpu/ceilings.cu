// The rates that bound the aggregation, as this very chip reaches them: nothing but the instruction, everywhere, in
// independent chains. Built and called by benchmarks/gpu/ceilings.py.
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kThreads = 256;
constexpr int kChains = 8;
constexpr int kRepeats = 512;

// 2^x in FP32, kChains * kRepeats per thread.
__global__ void exponentials(float* out) {
  float x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = static_cast<float>(threadIdx.x + i) * -1e-3f;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x[i]));
  }
  float sum = 0.f;
  for (int i = 0; i < kChains; ++i) sum += x[i];
  if (sum == 12345.f) *out = sum;  // never, but the compiler does not know
}

// 2^x in pairs of FP16, 2 * kChains * kRepeats per thread.
__global__ void half_exponentials(float* out) {
  uint32_t x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = 0x80018001u + threadIdx.x + i;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) asm volatile("ex2.approx.f16x2 %0, %0;" : "+r"(x[i]));
  }
  uint32_t sum = 0;
  for (int i = 0; i < kChains; ++i) sum += x[i];
  if (sum == 12345u) *out = 1.f;
}

// m16n8k16 products of FP16 with FP32 sums, kChains * kRepeats per warp, 4096 operations each.
__global__ void products(float* out) {
  float d[kChains][4] = {};
  const uint32_t a = 0x3c003c00u + threadIdx.x, b = 0x2c002c00u + threadIdx.x;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%5, %5}, "
          "{%0, %1, %2, %3};"
          : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
          : "r"(a), "r"(b));
    }
  }
  float sum = 0.f;
  for (int i = 0; i < kChains; ++i) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
  if (sum == 12345.f) *out = sum;
}

}  // namespace

extern "C" {

// Enqueues one of the kernels on every multiprocessor, `blocks` blocks in all. Returns the work done: exponentials, or
// operations; -1 for an unknown kind, -2 if the launch failed.
double emra_ceiling(int kind, int blocks, float* out, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const double per_thread = static_cast<double>(kChains) * kRepeats, threads = static_cast<double>(blocks) * kThreads;
  double work = 0;
  switch (kind) {
    case 0:
      exponentials<<<blocks, kThreads, 0, on>>>(out);
      work = threads * per_thread;
      break;
    case 1:
      half_exponentials<<<blocks, kThreads, 0, on>>>(out);
      work = threads * per_thread * 2;
      break;
    case 2:
      products<<<blocks, kThreads, 0, on>>>(out);
      work = threads / 32 * per_thread * 4096;
      break;
    default:
      return -1;
  }
  return cudaGetLastError() == cudaSuccess ? work : -2;
}

}  // extern "C"
