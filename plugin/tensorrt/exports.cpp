// What TensorRT looks up in a plugin library: after IPluginRegistry::loadLibrary, for trtexec's --dynamicPlugins, and
// in libraries serialised into an engine.
#include <NvInferRuntime.h>

#include <cstdint>

#include "creator.h"
#include "logging.h"

#define EMRA_EXPORT __attribute__((visibility("default")))
#define EMRA_STRING_OF(value) #value
#define EMRA_STRING(value) EMRA_STRING_OF(value)

namespace {

// The library is linked with no libnvinfer that would say which major version it was built for. This does, to whoever
// looks into the file before loading it (emra_deploy/engine/plugins.py).
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
