// Makes AttentionAggregationPlugin from the attributes of an ONNX node or from those of an engine.
#pragma once

#include <NvInferRuntime.h>

#include <array>

#include "attributes.h"

namespace emra {

class AttentionAggregationCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  AttentionAggregationCreator() noexcept;
  AttentionAggregationCreator(const AttentionAggregationCreator&) = delete;
  AttentionAggregationCreator& operator=(const AttentionAggregationCreator&) = delete;
  ~AttentionAggregationCreator() override = default;

  // Null for invalid fields, after a message with the layer, the attribute and its expected value.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  std::array<nvinfer1::PluginField, 3> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace emra
