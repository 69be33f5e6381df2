#include "machine.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>

#include "fiber.h"

emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

// All bits set: NaN as FP16, FP32 and every pair of them.
constexpr int kPoison = 0xff;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "error: %s (block %u, %u, %u, thread %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x);
  std::exit(3);
}

void at_barrier(void* const (&)[32]) {}

}  // namespace

struct Machine::Lane {
  Fiber fiber;
  void (*operation)(void* const (&)[32]) = nullptr;
  void* argument = nullptr;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> committed;
};

Machine& Machine::instance() {
  static Machine machine;
  return machine;
}

void Machine::run_grid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& kernel) {
  if (block.x % 32 != 0 || block.y != 1 || block.z != 1 || block.x > 1024) fail("expected whole warps in one row");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) fail("bad grid");
  gridDim = grid;
  blockDim = block;
  if (lanes_.size() != block.x) lanes_ = std::vector<Lane>(block.x);
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        // As aligned as shared memory is promised to be; the sanitizer marks the bytes after it.
        shared_ = static_cast<unsigned char*>(std::aligned_alloc(16, shared_bytes));
        std::memset(shared_, kPoison, shared_bytes);
        for (Lane& lane : lanes_) {
          lane.fiber.restart(&kernel);
          lane.operation = nullptr;
        }
        run_block();
        for (const Lane& lane : lanes_) {
          if (!lane.open.empty() || !lane.committed.empty()) fail("a thread ended with copies under way");
        }
        std::free(shared_);
      }
    }
  }
}

void Machine::run_block() {
  const size_t warps = lanes_.size() / 32;
  for (;;) {
    size_t waiting = 0;
    for (size_t i = 0; i < warps; ++i) {
      const size_t warp = settings.reverse_warps ? warps - 1 - i : i;
      if (advance(warp)) ++waiting;
    }
    if (waiting == 0) return;
    if (waiting != warps) fail("a warp ended while others wait for it");
    for (Lane& lane : lanes_) lane.operation = nullptr;
  }
}

// Runs one warp to its next barrier (true) or its end (false).
bool Machine::advance(size_t warp) {
  Lane* const lanes = &lanes_[warp * 32];
  for (;;) {
    int ended = 0;
    void* arguments[32];
    for (int i = 0; i < 32; ++i) {
      current_ = static_cast<int>(warp * 32) + i;
      threadIdx = {static_cast<unsigned>(current_), 0, 0};
      if (!lanes[i].fiber.done()) lanes[i].fiber.resume();
      ended += lanes[i].fiber.done();
      arguments[i] = lanes[i].argument;
    }
    if (ended == 32) return false;
    if (ended != 0) fail("some lanes of a warp ended");
    for (int i = 1; i < 32; ++i) {
      if (lanes[i].operation != lanes[0].operation) fail("lanes of a warp diverged");
    }
    ++operations_;
    if (lanes[0].operation == &at_barrier) return true;
    lanes[0].operation(arguments);
  }
}

void Machine::join_warp(void (*operation)(void* const (&)[32]), void* argument) {
  Lane& lane = lanes_[current_];
  lane.operation = operation;
  lane.argument = argument;
  Fiber::suspend();
}

void Machine::join_block() { join_warp(&at_barrier, nullptr); }

void Machine::finish(const Copy& copy) { std::memcpy(copy.shared, copy.global, copy.bytes); }

void Machine::copy(void* shared, const void* global, size_t bytes) {
  const Copy copy{shared, global, bytes};
  if (reinterpret_cast<size_t>(shared) % bytes != 0 || reinterpret_cast<size_t>(global) % bytes != 0) {
    fail("misaligned copy");
  }
  lanes_[current_].open.push_back(copy);
  if (settings.copies == Copies::kEarly) {
    finish(copy);
  } else {
    std::memset(shared, kPoison, bytes);
  }
}

void Machine::commit_copies() {
  Lane& lane = lanes_[current_];
  lane.committed.push_back(std::move(lane.open));
  lane.open.clear();
}

void Machine::wait_for_copies(size_t pending_groups) {
  Lane& lane = lanes_[current_];
  while (lane.committed.size() > pending_groups) {
    if (settings.copies == Copies::kLate) {
      for (const Copy& copy : lane.committed.front()) finish(copy);
    }
    lane.committed.pop_front();
  }
}

}  // namespace emulation
