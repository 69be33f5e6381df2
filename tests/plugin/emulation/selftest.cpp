// A kernel of a few lines with one fault planted in it, to see that the emulated machine notices.
//
// Each warp copies its part of the input into shared memory, and reads the part of the next warp.
#include <cstdio>
#include <string>
#include <vector>

#include "emulated_intrinsics.h"

namespace {

constexpr int kThreads = 64;

std::string fault;
std::vector<float> input(kThreads), output(kThreads, -1.f);

void kernel() {
  const unsigned i = threadIdx.x;
  float* const shared = reinterpret_cast<float*>(emra::shared_memory());
  if (fault == "leave" && i >= 32) return;
  if (i % 4 == 0) {
    emra::copy_async(emra::shared_address() + i * 4, &input[i]);
    emra::copy_async_commit();
    if (fault != "wait" && fault != "pending") emra::copy_async_wait<0>();
  }
  if (fault == "diverge" && i == 3) {
    emra::any_lane(true);
  } else if (fault != "barrier") {
    emra::synchronize_block();
  }
  output[i] = shared[(i + 32) % kThreads + (fault == "overrun" ? 32 : 0)];
  if (fault == "wait" && i % 4 == 0) emra::copy_async_wait<0>();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  fault = argv[1];
  for (int i = 0; i < kThreads; ++i) input[i] = static_cast<float>(i);
  emra::machine().settings.copies = emulation::Copies::kLate;
  emra::machine().run_grid({1, 1, 1}, {kThreads, 1, 1}, kThreads * sizeof(float), kernel);
  for (int i = 0; i < kThreads; ++i) {
    if (output[i] != static_cast<float>((i + 32) % kThreads)) {
      std::fprintf(stderr, "wrong result\n");
      return 1;
    }
  }
  return 0;
}
