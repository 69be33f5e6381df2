// Symbols that TensorRT looks up in a plugin library: after IPluginRegistry::loadLibrary, for trtexec's
// --dynamicPlugins, and in libraries serialised into an engine.
#include <NvInferRuntime.h>

#include <cstdint>

#include "creator.h"
#include "logging.h"

#define EMRA_EXPORT __attribute__((visibility("default")))
#define EMRA_STRING_OF(value) #value
#define EMRA_STRING(value) EMRA_STRING_OF(value)

namespace {

// The library is not linked with libnvinfer, so its dependencies do not show the major version it was built for. This
// string does, to emra_deploy/backends/tensorrt/plugin_library.py, which reads the file before it is loaded.
[[gnu::used]] const char kBuiltFor[] = "built for libnvinfer.so." EMRA_STRING(NV_TENSORRT_MAJOR);

}  // namespace

extern "C" {

// Both are declared here first, because TensorRT's headers describe them without declaring them.
EMRA_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& nbCreators) noexcept;
EMRA_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& nbCreators) noexcept {
  static emra::AttentionAggregationCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  nbCreators = 1;
  return creators;
}

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept { emra::useLoggerFinder(finder); }

}  // extern "C"
