// A multiprocessor on one CPU thread: runs the blocks of a grid one after the other, each lane of each warp as a fiber.
//
// A warp runs as far as it can before another gets its turn, and the order of the warps can be reversed, so a missing
// barrier shows as a wrong result. Shared memory starts as NaN and has its exact size on the heap, where ASan watches
// it.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace emulation {

struct Index {
  unsigned x = 1, y = 1, z = 1;
};

// When the bytes of an asynchronous copy arrive: at once, or as late as the program allows, and as NaN before that.
enum class Copies { kEarly, kLate };

struct Settings {
  bool reverse_warps = false;
  Copies copies = Copies::kEarly;
  int multiprocessors = 132;
};

class Machine {
 public:
  static Machine& instance();

  Settings settings;

  void run_grid(Index grid, Index block, size_t shared_bytes, const std::function<void()>& kernel);

  // Called by a lane. `operation` is what the warp does once all 32 lanes have come to it, given each one's argument.
  // Ends the process where lanes of one warp come to different operations.
  void join_warp(void (*operation)(void* const (&arguments)[32]), void* argument);
  void join_block();

  unsigned char* shared() const { return shared_; }
  int lane() const { return current_ % 32; }

  void copy(void* shared, const void* global, size_t bytes);
  void commit_copies();
  void wait_for_copies(size_t pending_groups);

  size_t operations() const { return operations_; }

 private:
  struct Copy {
    void* shared;
    const void* global;
    size_t bytes;
  };
  struct Lane;

  void run_block();
  bool advance(size_t warp);
  static void finish(const Copy& copy);

  std::vector<Lane> lanes_;
  unsigned char* shared_ = nullptr;
  int current_ = 0;
  size_t operations_ = 0;
};

}  // namespace emulation

// What CUDA calls these; each lane sees its own.
extern emulation::Index threadIdx, blockIdx, blockDim, gridDim;
