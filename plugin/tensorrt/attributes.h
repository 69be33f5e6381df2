// The attributes of emra::AttentionAggregation, as ONNX nodes and engines carry them.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstdint>

namespace emra {

// ONNX domain and operator, and the registry's key of the plugin. A node chooses the plugin by its attributes
// plugin_namespace = "emra" and plugin_version = "1".
inline constexpr char kNamespace[] = "emra";
inline constexpr char kName[] = "AttentionAggregation";
inline constexpr char kVersion[] = "1";

struct Attributes {
  std::int32_t num_heads = 0;         // heads of each attention, at least 1
  std::int32_t num_class_tokens = 0;  // C: the first C of the T tokens, at least 1
  float scale = 0.0F;                 // of Q K^T before the softmax, finite and above 0
};

// The attributes as TensorRT's fields. They point into `attributes`, which has to outlive them; with a null pointer
// they hold names, types and lengths only.
std::array<nvinfer1::PluginField, 3> toFields(const Attributes* attributes) noexcept;

// Reads the fields of a node or of an engine. Every field must occur once, with one value; integers may be INT32
// or INT64 and `scale` FLOAT32 or FLOAT64, because Python callers have NumPy's defaults. `layer` is for messages.
// Returns false, after a message, if anything is missing, unknown, of another type or out of range.
bool fromFields(const nvinfer1::PluginFieldCollection* fields, const char* layer, Attributes& attributes) noexcept;

}  // namespace emra
