#include "plugin.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <limits>
#include <new>

#include "logging.h"

namespace emra {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr std::int32_t kOk = 0;
constexpr std::int32_t kFailed = 1;

bool isInputType(DataType type) noexcept { return type == DataType::kHALF || type == DataType::kFLOAT; }

bool isKnown(const nvinfer1::Dims& dims) noexcept {
  return dims.nbDims >= 0 && dims.nbDims <= nvinfer1::Dims::MAX_DIMS &&
         std::all_of(dims.d, dims.d + dims.nbDims, [](std::int64_t extent) { return extent >= 0; });
}

bool isSame(const nvinfer1::Dims& a, const nvinfer1::Dims& b) noexcept {
  return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d);
}

}  // namespace

AttentionAggregationPlugin::AttentionAggregationPlugin(const Attributes& attributes, const char* layer) noexcept
    : attributes_(attributes), fields_(toFields(&attributes_)) {
  std::snprintf(layer_.data(), layer_.size(), "%s", layer == nullptr ? "" : layer);
  // %a keeps every bit of the scale. The kernels' version keeps timings of other kernels from being reused.
  std::snprintf(identity_.data(), identity_.size(), "heads=%" PRId32 " classes=%" PRId32 " scale=%a kernels=%d",
                attributes_.num_heads, attributes_.num_class_tokens, static_cast<double>(attributes_.scale),
                emra_aggregation_version());
}

AttentionAggregationPlugin::AttentionAggregationPlugin(const AttentionAggregationPlugin& other) noexcept
    : AttentionAggregationPlugin(other.attributes_, other.layer_.data()) {
  blocks_ = other.blocks_;
}

nvinfer1::IPluginCapability* AttentionAggregationPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  log(Severity::kERROR, layer_.data(), "unknown capability %d", static_cast<int>(type));
  return nullptr;
}

nvinfer1::IPluginV3* AttentionAggregationPlugin::clone() noexcept {
  auto* const copy = new (std::nothrow) AttentionAggregationPlugin(*this);
  if (copy == nullptr) {
    log(Severity::kERROR, layer_.data(), "out of memory while cloning the plugin");
  }
  return copy;
}

nvinfer1::IPluginV3* AttentionAggregationPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();  // enqueue receives all memory: a context needs none of its own
}

const nvinfer1::PluginFieldCollection* AttentionAggregationPlugin::getFieldsToSerialize() noexcept {
  collection_.nbFields = static_cast<std::int32_t>(fields_.size());
  collection_.fields = fields_.data();
  return &collection_;
}

bool AttentionAggregationPlugin::checkCounts(std::int32_t nbInputs, std::int32_t nbOutputs) const noexcept {
  if (nbInputs < 1 || nbInputs > EMRA_MAX_BLOCKS || nbOutputs != 1) {
    log(Severity::kERROR, layer_.data(), "%d inputs and %d outputs, expected 1 to %d packed qkv tensors and 1 output",
        nbInputs, nbOutputs, EMRA_MAX_BLOCKS);
    return false;
  }
  return true;
}

bool AttentionAggregationPlugin::describe(const nvinfer1::Dims& dims, DataType type, std::int32_t blocks,
                                          EmraAggregationShape& shape) const noexcept {
  if (dims.nbDims != 3) {
    log(Severity::kERROR, layer_.data(), "an input of %d dimensions, expected 3: batch, tokens, 3 * width",
        dims.nbDims);
    return false;
  }
  if (!isInputType(type)) {
    log(Severity::kERROR, layer_.data(), "inputs of data type %d, expected FP16 or FP32", static_cast<int>(type));
    return false;
  }
  const std::int64_t heads = attributes_.num_heads;
  const std::int64_t limit = std::numeric_limits<std::int32_t>::max();
  if (dims.d[0] > limit || dims.d[1] > limit || dims.d[2] <= 0 || dims.d[2] % (3 * heads) != 0 ||
      dims.d[2] / (3 * heads) > limit) {
    log(Severity::kERROR, layer_.data(),
        "inputs of %" PRId64 " x %" PRId64 " x %" PRId64 ", expected batch x tokens x 3 * %" PRId64 " heads * width",
        dims.d[0], dims.d[1], dims.d[2], heads);
    return false;
  }
  shape = EmraAggregationShape{};
  shape.batch = static_cast<std::int32_t>(dims.d[0]);
  shape.tokens = static_cast<std::int32_t>(dims.d[1]);
  shape.num_class_tokens = attributes_.num_class_tokens;
  shape.num_heads = attributes_.num_heads;
  shape.head_width = static_cast<std::int32_t>(dims.d[2] / (3 * heads));
  shape.num_blocks = blocks;
  shape.scale = attributes_.scale;
  shape.type = type == DataType::kHALF ? EMRA_FP16 : EMRA_FP32;
  if (const char* const reason = emra_aggregation_check(&shape); reason != nullptr) {
    log(Severity::kERROR, layer_.data(),
        "inputs of %" PRId32 " x %" PRId32 " x %" PRId64 " with %" PRId64 " heads and %" PRId32
        " class tokens are not supported: %s",
        shape.batch, shape.tokens, dims.d[2], heads, shape.num_class_tokens, reason);
    return false;
  }
  return true;
}

std::int32_t AttentionAggregationPlugin::getOutputDataTypes(DataType* outputTypes, std::int32_t nbOutputs,
                                                            const DataType* inputTypes,
                                                            std::int32_t nbInputs) const noexcept {
  if (!checkCounts(nbInputs, nbOutputs) || outputTypes == nullptr || inputTypes == nullptr) {
    return kFailed;
  }
  for (std::int32_t i = 0; i < nbInputs; ++i) {
    if (!isInputType(inputTypes[i]) || inputTypes[i] != inputTypes[0]) {
      log(Severity::kERROR, layer_.data(),
          "input %d has data type %d and input 0 data type %d, expected all FP16 or all FP32", i,
          static_cast<int>(inputTypes[i]), static_cast<int>(inputTypes[0]));
      return kFailed;
    }
  }
  outputTypes[0] = DataType::kFLOAT;
  return kOk;
}

std::int32_t AttentionAggregationPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t nbInputs,
                                                         const nvinfer1::DimsExprs*, std::int32_t nbShapeInputs,
                                                         nvinfer1::DimsExprs* outputs, std::int32_t nbOutputs,
                                                         nvinfer1::IExprBuilder& exprBuilder) noexcept {
  if (!checkCounts(nbInputs, nbOutputs) || inputs == nullptr || outputs == nullptr) {
    return kFailed;
  }
  if (nbShapeInputs != 0) {
    log(Severity::kERROR, layer_.data(), "%d shape inputs, expected none", nbShapeInputs);
    return kFailed;
  }
  // Known extents are checked now, while a message can still name the network's layer. The smallest legal value stands
  // in for a dynamic extent, so that it never fails the check of the others.
  nvinfer1::Dims first{3, {1, std::int64_t{attributes_.num_class_tokens} + 1, 3 * std::int64_t{attributes_.num_heads}}};
  bool widthIsKnown = false;
  for (std::int32_t i = 0; i < nbInputs; ++i) {
    if (inputs[i].nbDims != 3) {
      log(Severity::kERROR, layer_.data(), "input %d has %d dimensions, expected 3: batch, tokens, 3 * width", i,
          inputs[i].nbDims);
      return kFailed;
    }
    for (std::int32_t j = 0; j < 3; ++j) {
      const nvinfer1::IDimensionExpr* const mine = inputs[i].d[j];
      const nvinfer1::IDimensionExpr* const its = inputs[0].d[j];
      if (mine == nullptr || its == nullptr) {
        return kFailed;
      }
      if (mine->isConstant() && its->isConstant() && mine->getConstantValue() != its->getConstantValue()) {
        log(Severity::kERROR, layer_.data(), "input %d has %" PRId64 " in dimension %d and input 0 has %" PRId64, i,
            mine->getConstantValue(), j, its->getConstantValue());
        return kFailed;
      }
      if (mine->isConstant()) {
        first.d[j] = mine->getConstantValue();
        widthIsKnown = widthIsKnown || j == 2;
      }
    }
  }
  if (!widthIsKnown) {
    log(Severity::kERROR, layer_.data(), "the width of the inputs is dynamic; only batch and tokens may be");
    return kFailed;
  }
  EmraAggregationShape shape;
  if (!describe(first, DataType::kFLOAT, nbInputs, shape)) {
    return kFailed;
  }
  const nvinfer1::IDimensionExpr* const classes = exprBuilder.constant(attributes_.num_class_tokens);
  if (classes == nullptr) {
    return kFailed;
  }
  outputs[0].nbDims = 3;
  outputs[0].d[0] = inputs[0].d[0];
  outputs[0].d[1] = classes;
  outputs[0].d[2] = exprBuilder.operation(nvinfer1::DimensionOperation::kSUB, *inputs[0].d[1], *classes);
  return outputs[0].d[2] == nullptr ? kFailed : kOk;
}

bool AttentionAggregationPlugin::supportsFormatCombination(std::int32_t pos, const DynamicPluginTensorDesc* inOut,
                                                           std::int32_t nbInputs, std::int32_t nbOutputs) noexcept {
  if (!checkCounts(nbInputs, nbOutputs) || inOut == nullptr || pos < 0 || pos >= nbInputs + nbOutputs) {
    return false;
  }
  const PluginTensorDesc& tensor = inOut[pos].desc;
  if (tensor.format != TensorFormat::kLINEAR) {
    return false;
  }
  return pos == nbInputs ? tensor.type == DataType::kFLOAT
                         : isInputType(tensor.type) && tensor.type == inOut[0].desc.type;
}

std::int32_t AttentionAggregationPlugin::configurePlugin(const DynamicPluginTensorDesc* in, std::int32_t nbInputs,
                                                         const DynamicPluginTensorDesc* out,
                                                         std::int32_t nbOutputs) noexcept {
  if (!checkCounts(nbInputs, nbOutputs) || in == nullptr || out == nullptr) {
    return kFailed;
  }
  EmraAggregationShape shape;
  for (std::int32_t i = 0; i < nbInputs; ++i) {
    if (!isSame(in[i].min, in[0].min) || !isSame(in[i].max, in[0].max) || in[i].desc.type != in[0].desc.type) {
      log(Severity::kERROR, layer_.data(), "input %d has another shape range or type than input 0", i);
      return kFailed;
    }
  }
  for (const nvinfer1::Dims* const bound : {&in[0].min, &in[0].max}) {
    if (isKnown(*bound) && !describe(*bound, in[0].desc.type, nbInputs, shape)) {
      return kFailed;
    }
  }
  return kOk;
}

std::size_t AttentionAggregationPlugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, std::int32_t nbInputs,
                                                         const DynamicPluginTensorDesc* outputs,
                                                         std::int32_t nbOutputs) const noexcept {
  EmraAggregationShape shape;
  if (!checkCounts(nbInputs, nbOutputs) || inputs == nullptr || outputs == nullptr ||
      !describe(inputs[0].max, inputs[0].desc.type, nbInputs, shape)) {
    return 0;
  }
  // Smaller shapes may need more: the kernels cut a small batch into more parts with separate sums. So every shape of
  // the range is queried, at some nanoseconds each, once, while the engine is built.
  const EmraAggregationShape largest = shape;
  const auto from = [](std::int64_t least, std::int64_t legal, std::int32_t most) {
    return static_cast<std::int32_t>(std::clamp(least, legal, std::int64_t{most}));
  };
  const std::int32_t batch = from(inputs[0].min.d[0], 1, largest.batch);
  const std::int32_t tokens = from(inputs[0].min.d[1], std::int64_t{largest.num_class_tokens} + 1, largest.tokens);
  std::size_t bytes = 0;
  for (shape.batch = batch; shape.batch <= largest.batch; ++shape.batch) {
    for (shape.tokens = tokens; shape.tokens <= largest.tokens; ++shape.tokens) {
      bytes = std::max(bytes, emra_aggregation_workspace(&shape));
    }
  }
  return bytes;
}

std::int32_t AttentionAggregationPlugin::onShapeChange(const PluginTensorDesc* in, std::int32_t nbInputs,
                                                       const PluginTensorDesc* out, std::int32_t nbOutputs) noexcept {
  blocks_ = 0;
  if (!checkCounts(nbInputs, nbOutputs) || in == nullptr || out == nullptr) {
    return kFailed;
  }
  for (std::int32_t i = 0; i < nbInputs; ++i) {
    if (!isSame(in[i].dims, in[0].dims) || in[i].type != in[0].type || in[i].format != TensorFormat::kLINEAR) {
      log(Severity::kERROR, layer_.data(), "input %d has another shape, type or format than input 0", i);
      return kFailed;
    }
  }
  EmraAggregationShape shape;
  const bool isEmpty = in[0].dims.nbDims == 3 && in[0].dims.d[0] == 0;
  if (!isEmpty && !describe(in[0].dims, in[0].type, nbInputs, shape)) {
    return kFailed;
  }
  blocks_ = nbInputs;
  return kOk;
}

std::int32_t AttentionAggregationPlugin::enqueue(const PluginTensorDesc* inputDesc, const PluginTensorDesc* outputDesc,
                                                 const void* const* inputs, void* const* outputs, void* workspace,
                                                 cudaStream_t stream) noexcept {
  if (inputDesc == nullptr || outputDesc == nullptr || inputs == nullptr || outputs == nullptr || blocks_ == 0) {
    log(Severity::kERROR, layer_.data(), "%s",
        blocks_ == 0 ? "enqueued before its shapes were set" : "enqueued without tensors");
    return kFailed;
  }
  if (inputDesc[0].dims.nbDims == 3 && inputDesc[0].dims.d[0] == 0) {
    return kOk;  // an empty batch has no output to write
  }
  EmraAggregationShape shape;
  if (!describe(inputDesc[0].dims, inputDesc[0].type, blocks_, shape)) {
    return kFailed;
  }
  const int status =
      emra_aggregation_launch(&shape, inputs, static_cast<float*>(outputs[0]), workspace, static_cast<void*>(stream));
  if (status != 0) {
    log(Severity::kERROR, layer_.data(),
        "the kernels failed with CUDA error %d for %" PRId32 " x %" PRId32 " tokens in %" PRId32 " blocks", status,
        shape.batch, shape.tokens, shape.num_blocks);
    return kFailed;
  }
  return kOk;
}

}  // namespace emra
