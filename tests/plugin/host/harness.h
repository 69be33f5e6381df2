// The least that lets one program hold many named cases: pytest lists them and runs each as a process of its own.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace host {

// Paths given on the command line.
struct Paths {
  std::string plugins;    // libemra_plugins, made of the plugin and of kernels_on_host.cpp
  std::string registrar;  // libemra_plugins_register
  std::string nvinfer;    // fake_nvinfer.cpp under TensorRT's own name
};

struct Case {
  std::string name;
  std::function<void(const Paths&)> run;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

// Reports and remembers a failure; cases go on, to show all that is wrong at once.
void fail(const char* file, int line, const std::string& what);

struct Registered {
  Registered(std::string name, std::function<void(const Paths&)> run) {
    cases().push_back({std::move(name), std::move(run)});
  }
};

}  // namespace host

#define CASE(name)                                                     \
  static void case_##name(const host::Paths& paths);                   \
  static const host::Registered registered_##name{#name, case_##name}; \
  static void case_##name([[maybe_unused]] const host::Paths& paths)

#define EXPECT(condition)                                         \
  do {                                                            \
    if (!(condition)) host::fail(__FILE__, __LINE__, #condition); \
  } while (false)
