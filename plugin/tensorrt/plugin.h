// emra::AttentionAggregation as a TensorRT layer.
//
// Inputs:  P packed qkv tensors, 1 to 12, each B x T x 3D, all FP16 or all FP32, linear: q, k, v one after the other,
//          each num_heads x head width, as the qkv linear of a block wrote them.
// Output:  GCA, B x C x N, FP32, linear, with C = num_class_tokens and N = T - C.
// B and T may be dynamic. The formula and the limits are those of ../attention_aggregation.h.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "attention_aggregation.h"
#include "attributes.h"

namespace emra {

// Nothing here throws: TensorRT's calls are noexcept, and the plugin reports failure by its return values and its log.
class AttentionAggregationPlugin final : public nvinfer1::IPluginV3,
                                         public nvinfer1::IPluginV3OneCore,
                                         public nvinfer1::IPluginV3OneBuild,
                                         public nvinfer1::IPluginV3OneRuntime {
 public:
  // `attributes` have passed fromFields and the kernels' own limits. `layer` is copied, for messages only.
  AttentionAggregationPlugin(const Attributes& attributes, const char* layer) noexcept;
  AttentionAggregationPlugin& operator=(const AttentionAggregationPlugin&) = delete;
  ~AttentionAggregationPlugin() override = default;

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // IPluginV3OneBuild. Not IPluginV3OneBuildV2: the output is smaller than any input, so it can alias none.
  std::int32_t getNbOutputs() const noexcept override { return 1; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, std::int32_t nbOutputs,
                                  const nvinfer1::DataType* inputTypes, std::int32_t nbInputs) const noexcept override;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t nbInputs,
                               const nvinfer1::DimsExprs* shapeInputs, std::int32_t nbShapeInputs,
                               nvinfer1::DimsExprs* outputs, std::int32_t nbOutputs,
                               nvinfer1::IExprBuilder& exprBuilder) noexcept override;
  bool supportsFormatCombination(std::int32_t pos, const nvinfer1::DynamicPluginTensorDesc* inOut,
                                 std::int32_t nbInputs, std::int32_t nbOutputs) noexcept override;
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t nbInputs,
                               const nvinfer1::DynamicPluginTensorDesc* out, std::int32_t nbOutputs) noexcept override;
  std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t nbInputs,
                               const nvinfer1::DynamicPluginTensorDesc* outputs,
                               std::int32_t nbOutputs) const noexcept override;
  const char* getTimingCacheID() noexcept override { return identity_.data(); }
  const char* getMetadataString() noexcept override { return identity_.data(); }

  // IPluginV3OneRuntime
  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t nbInputs,
                             const nvinfer1::PluginTensorDesc* out, std::int32_t nbOutputs) noexcept override;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* inputDesc, const nvinfer1::PluginTensorDesc* outputDesc,
                       const void* const* inputs, void* const* outputs, void* workspace,
                       cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  // For clone alone: the fields point into the object, so they are not copied.
  AttentionAggregationPlugin(const AttentionAggregationPlugin& other) noexcept;

  // The kernels' description of inputs of these dimensions and type; false, after a message, where there is none.
  bool describe(const nvinfer1::Dims& dims, nvinfer1::DataType type, std::int32_t blocks,
                EmraAggregationShape& shape) const noexcept;
  bool checkCounts(std::int32_t nbInputs, std::int32_t nbOutputs) const noexcept;

  Attributes attributes_;
  std::array<char, 128> layer_{};
  std::array<char, 96> identity_{};  // the creation state as text, for the timing cache
  std::int32_t blocks_ = 0;          // P, from onShapeChange: enqueue does not receive the number of inputs
  std::array<nvinfer1::PluginField, 3> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace emra
