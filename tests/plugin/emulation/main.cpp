// Runs the kernels' own source on the emulated machine, for tests/plugin/test_emulation.py.
//
// Usage: emulate DIRECTORY < cases. A line of cases is
//
//     name type batch tokens class_tokens heads width blocks scale multiprocessors reverse late
//
// DIRECTORY/name.in holds the qkv tensors one after the other, DIRECTORY/name.out receives gca. All memory that the
// kernels get is of the exact size asked for, and everything that they must write first is NaN before.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "../../../plugin/attention_aggregation.h"
#include "machine.h"

namespace {

struct Free {
  void operator()(void* pointer) const { std::free(pointer); }
};
using Memory = std::unique_ptr<unsigned char, Free>;

Memory allocate(size_t alignment, size_t bytes) {
  // posix_memalign keeps the exact size, which aligned_alloc rounds up in some C libraries.
  void* pointer = nullptr;
  if (posix_memalign(&pointer, alignment, bytes) != 0) std::abort();
  std::memset(pointer, 0xff, bytes);
  return Memory(static_cast<unsigned char*>(pointer));
}

int run(const std::string& directory, const std::string& name, const EmraAggregationShape& shape) {
  if (const char* expected = emra_aggregation_check(&shape)) {
    std::cerr << "error: " << name << ": " << expected << '\n';
    return 2;
  }
  const size_t element = shape.type == EMRA_FP16 ? 2 : 4;
  const size_t bytes = element * shape.batch * shape.tokens * 3 * shape.num_heads * shape.head_width;
  std::ifstream in(directory + "/" + name + ".in", std::ios::binary);
  std::vector<Memory> qkv;
  std::vector<const void*> pointers;
  for (int block = 0; block < shape.num_blocks; ++block) {
    qkv.push_back(allocate(16, bytes));
    in.read(reinterpret_cast<char*>(qkv.back().get()), static_cast<std::streamsize>(bytes));
    pointers.push_back(qkv.back().get());
  }
  if (!in) {
    std::cerr << "error: " << name << ".in is too short\n";
    return 2;
  }
  const size_t patches = shape.tokens - shape.num_class_tokens;
  const size_t result = sizeof(float) * shape.batch * shape.num_class_tokens * patches;
  const Memory gca = allocate(sizeof(double), result);
  const Memory workspace = allocate(256, emra_aggregation_workspace(&shape));
  const int error =
      emra_aggregation_launch(&shape, pointers.data(), reinterpret_cast<float*>(gca.get()), workspace.get(), nullptr);
  if (error != 0) {
    std::cerr << "error: " << name << ": launch returned " << error << '\n';
    return 3;
  }
  std::ofstream out(directory + "/" + name + ".out", std::ios::binary);
  out.write(reinterpret_cast<const char*>(gca.get()), static_cast<std::streamsize>(result));
  return out ? 0 : 3;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: emulate DIRECTORY < cases\n";
    return 2;
  }
  emulation::Settings& settings = emulation::Machine::instance().settings;
  std::string name;
  EmraAggregationShape shape{};
  bool late = false;
  while (std::cin >> name >> shape.type >> shape.batch >> shape.tokens >> shape.num_class_tokens >> shape.num_heads >>
         shape.head_width >> shape.num_blocks >> shape.scale >> settings.multiprocessors >> settings.reverse_warps >>
         late) {
    settings.copies = late ? emulation::Copies::kLate : emulation::Copies::kEarly;
    if (const int code = run(argv[1], name, shape)) return code;
  }
  return std::cin.eof() ? 0 : 2;
}
