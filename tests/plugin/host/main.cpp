// A host for the plugin library: what TensorRT does with it, without TensorRT and without a GPU.
//
//     plugin_host --list
//     plugin_host PLUGINS REGISTRAR NVINFER CASE      runs one case
//     plugin_host PLUGINS --enqueue IN OUT            runs one layer from IN's tensors, for comparison with NumPy
#include <cstdio>
#include <exception>
#include <string>

#include "enqueue.h"
#include "harness.h"

namespace host {

static int failures = 0;

void fail(const char* file, int line, const std::string& what) {
  ++failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

}  // namespace host

int main(int argc, char** argv) {
  try {
    if (argc == 2 && std::string(argv[1]) == "--list") {
      for (const host::Case& one : host::cases()) std::printf("%s\n", one.name.c_str());
      return 0;
    }
    if (argc == 5 && std::string(argv[2]) == "--enqueue") {
      host::enqueueFile(argv[1], argv[3], argv[4]);
      return 0;
    }
    if (argc == 5) {
      const host::Paths paths{argv[1], argv[2], argv[3]};
      for (const host::Case& one : host::cases()) {
        if (one.name == argv[4]) {
          one.run(paths);
          return host::failures == 0 ? 0 : 1;
        }
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::fprintf(stderr, "usage: see main.cpp\n");
  return 2;
}
