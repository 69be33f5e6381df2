// libemra_plugins_register: registers the plugin when it is loaded, for programs that only dlopen a plugin library:
// trtexec --staticPlugins, Polygraphy --plugins, ctypes.CDLL. TensorRT must be loaded first.
//
// It is a library of its own because IPluginRegistry::loadLibrary fails where the plugin is registered already: one
// library cannot both register itself and be handed to --dynamicPlugins. It needs libemra_plugins beside it.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "attributes.h"

// From libemra_plugins.
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& nbCreators) noexcept;
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

namespace {

#define EMRA_STRING_OF(value) #value
#define EMRA_STRING(value) EMRA_STRING_OF(value)

// The process has loaded TensorRT: nothing is loaded here. trtexec opens it with RTLD_LOCAL, so its names are not among
// the global ones, and it is found by the name it is loaded under, the full runtime before the lean and dispatch
// runtimes. The name must contain the major version: the registry's virtual functions differ between 10 and 11.
void* openTensorRT() noexcept {
  for (const char* const name :
       {"libnvinfer.so." EMRA_STRING(NV_TENSORRT_MAJOR), "libnvinfer_lean.so." EMRA_STRING(NV_TENSORRT_MAJOR),
        "libnvinfer_dispatch.so." EMRA_STRING(NV_TENSORRT_MAJOR)}) {
    if (void* const library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD); library != nullptr) {
      return library;
    }
  }
  return nullptr;
}

template <typename Function>
Function* symbolOf(void* library, const char* name) noexcept {
  void* const address = dlsym(library, name);
  Function* function = nullptr;
  static_assert(sizeof(function) == sizeof(address));
  std::memcpy(&function, &address, sizeof(function));
  return function;
}

// TensorRT gives no logger finder to libraries that it does not load itself; its process-wide logger stands in.
class GlobalLoggerFinder final : public nvinfer1::ILoggerFinder {
 public:
  explicit GlobalLoggerFinder(nvinfer1::ILogger* (*getLogger)() noexcept) noexcept : getLogger_(getLogger) {}
  nvinfer1::ILogger* findLogger() override { return getLogger_ == nullptr ? nullptr : getLogger_(); }

 private:
  nvinfer1::ILogger* (*getLogger_)() noexcept;
};

class Registration {
 public:
  Registration() noexcept
      : library_(openTensorRT()),
        finder_(library_ == nullptr ? nullptr : symbolOf<nvinfer1::ILogger*() noexcept>(library_, "getLogger")) {
    if (library_ == nullptr) {
      std::fputs("error: libemra_plugins_register: libnvinfer.so." EMRA_STRING(
                     NV_TENSORRT_MAJOR) " is not loaded in this process; load TensorRT " EMRA_STRING(NV_TENSORRT_MAJOR) " before the plugin\n",
                 stderr);
      return;
    }
    using GetRegistry = nvinfer1::IPluginRegistry*() noexcept;
    auto* const getRegistry = symbolOf<GetRegistry>(library_, "getPluginRegistry");
    registry_ = getRegistry == nullptr ? nullptr : getRegistry();
    if (registry_ == nullptr) {
      std::fputs("error: libemra_plugins_register: TensorRT has no plugin registry\n", stderr);
      return;
    }
    setLoggerFinder(&finder_);
    std::int32_t count = 0;
    nvinfer1::IPluginCreatorInterface* const* const creators = getCreators(count);
    for (std::int32_t i = 0; i < count; ++i) {
      if (!registry_->registerCreator(*creators[i], emra::kNamespace)) {
        std::fputs("warning: libemra_plugins_register: the plugin is registered already\n", stderr);
      }
    }
  }

  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

  // The registry must not keep pointers into an unloaded library.
  ~Registration() {
    if (registry_ != nullptr) {
      std::int32_t count = 0;
      nvinfer1::IPluginCreatorInterface* const* const creators = getCreators(count);
      for (std::int32_t i = 0; i < count; ++i) {
        registry_->deregisterCreator(*creators[i]);
      }
      setLoggerFinder(nullptr);
    }
    if (library_ != nullptr) {
      dlclose(library_);
    }
  }

 private:
  void* library_;
  GlobalLoggerFinder finder_;
  nvinfer1::IPluginRegistry* registry_ = nullptr;
};

const Registration g_registration;

}  // namespace
