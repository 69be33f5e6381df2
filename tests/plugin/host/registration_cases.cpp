// The library that registers the plugin when it is loaded, as trtexec --staticPlugins loads it.
#include <dlfcn.h>

#include <cstring>
#include <stdexcept>

#include "harness.h"
#include "trt_double.h"

namespace {

class Handle {
 public:
  explicit Handle(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
  }
  ~Handle() { dlclose(handle_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  template <typename Function>
  Function* symbol(const char* name) const {
    return reinterpret_cast<Function*>(dlsym(handle_, name));
  }

 private:
  void* handle_;
};

nvinfer1::IPluginCreatorInterface* find(const Handle& nvinfer, const char* space) {
  auto* const registry = nvinfer.symbol<nvinfer1::IPluginRegistry*()>("getPluginRegistry")();
  return registry->getCreator("AttentionAggregation", "1", space);
}

CASE(loading_registers_and_unloading_deregisters) {
  const Handle nvinfer(paths.nvinfer);
  EXPECT(find(nvinfer, "emra") == nullptr);
  for (int i = 0; i < 2; ++i) {
    const Handle registrar(paths.registrar);
    auto* const creator = static_cast<nvinfer1::IPluginCreatorV3One*>(find(nvinfer, "emra"));
    EXPECT(creator != nullptr);
    EXPECT(find(nvinfer, "") == nullptr);
    // Its messages reach the process-wide logger.
    auto* const messages = nvinfer.symbol<int()>("fakeNumberOfMessages");
    const int before = messages();
    const nvinfer1::PluginFieldCollection none{};
    EXPECT(creator->createPlugin("layer", &none, nvinfer1::TensorRTPhase::kBUILD) == nullptr);
    EXPECT(messages() == before + 1);
  }
}

CASE(unloading_leaves_nothing_behind) {
  const Handle nvinfer(paths.nvinfer);
  {
    const Handle registrar(paths.registrar);
  }
#if !defined(__SANITIZE_ADDRESS__)  // which never unloads libraries
  EXPECT(find(nvinfer, "emra") == nullptr);
#endif
}

CASE(loading_without_tensorrt_says_so) {
  const Handle registrar(paths.registrar);  // says so on stderr, which test_host.py reads
}

}  // namespace
