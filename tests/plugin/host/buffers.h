// Memory of the size a device would be given, so that the address sanitizer sees every byte too many.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace host {

struct Free {
  void operator()(void* pointer) const { std::free(pointer); }
};

using Buffer = std::unique_ptr<void, Free>;

// Exactly `bytes`, aligned.
inline Buffer allocate(std::size_t bytes, std::size_t alignment = 256) {
  void* pointer = nullptr;
  if (posix_memalign(&pointer, alignment, bytes == 0 ? 1 : bytes) != 0) throw std::bad_alloc();
  return Buffer{pointer};
}

}  // namespace host
