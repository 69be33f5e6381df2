#include "creator.h"

#include <cinttypes>
#include <cstdint>
#include <new>

#include "attention_aggregation.h"
#include "logging.h"
#include "plugin.h"

namespace emra {

AttentionAggregationCreator::AttentionAggregationCreator() noexcept : fields_(toFields(nullptr)) {
  collection_.nbFields = static_cast<std::int32_t>(fields_.size());
  collection_.fields = fields_.data();
}

nvinfer1::IPluginV3* AttentionAggregationCreator::createPlugin(const char* name,
                                                               const nvinfer1::PluginFieldCollection* fields,
                                                               nvinfer1::TensorRTPhase) noexcept {
  const char* const layer = name == nullptr ? "" : name;
  if (emra_aggregation_version() != EMRA_AGGREGATION_VERSION) {
    log(Severity::kERROR, layer, "the kernels have version %d, the plugin was built for version %d",
        emra_aggregation_version(), EMRA_AGGREGATION_VERSION);
    return nullptr;
  }
  Attributes attributes;
  if (!fromFields(fields, layer, attributes)) {
    return nullptr;
  }
  if (attributes.num_class_tokens > EMRA_MAX_CLASS_TOKENS) {
    log(Severity::kERROR, layer, "attribute 'num_class_tokens' is %" PRId32 ", expected 1 to %d",
        attributes.num_class_tokens, EMRA_MAX_CLASS_TOKENS);
    return nullptr;
  }
  auto* const plugin = new (std::nothrow) AttentionAggregationPlugin(attributes, layer);
  if (plugin == nullptr) {
    log(Severity::kERROR, layer, "out of memory while creating the plugin");
  }
  return plugin;
}

}  // namespace emra
