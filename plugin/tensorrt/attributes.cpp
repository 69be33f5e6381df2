#include "attributes.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "logging.h"

namespace emra {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

const char* typeName(PluginFieldType type) noexcept {
  switch (type) {
    case PluginFieldType::kFLOAT16:
      return "FLOAT16";
    case PluginFieldType::kFLOAT32:
      return "FLOAT32";
    case PluginFieldType::kFLOAT64:
      return "FLOAT64";
    case PluginFieldType::kINT8:
      return "INT8";
    case PluginFieldType::kINT16:
      return "INT16";
    case PluginFieldType::kINT32:
      return "INT32";
    case PluginFieldType::kINT64:
      return "INT64";
    case PluginFieldType::kCHAR:
      return "CHAR";
    case PluginFieldType::kDIMS:
      return "DIMS";
    default:  // later versions of TensorRT have more
      return "another type";
  }
}

// memcpy, because the bytes of an engine may be unaligned.
template <typename T>
T valueOf(const PluginField& field) noexcept {
  T value;
  std::memcpy(&value, field.data, sizeof(value));
  return value;
}

bool readInteger(const PluginField& field, const char* layer, std::int32_t& value) noexcept {
  std::int64_t wide = 0;
  if (field.type == PluginFieldType::kINT32) {
    wide = valueOf<std::int32_t>(field);
  } else if (field.type == PluginFieldType::kINT64) {
    wide = valueOf<std::int64_t>(field);
  } else {
    log(Severity::kERROR, layer, "attribute '%s' is %s, expected INT32 or INT64", field.name, typeName(field.type));
    return false;
  }
  if (wide < 1 || wide > std::numeric_limits<std::int32_t>::max()) {
    log(Severity::kERROR, layer, "attribute '%s' is %lld, expected 1 or more", field.name,
        static_cast<long long>(wide));
    return false;
  }
  value = static_cast<std::int32_t>(wide);
  return true;
}

bool readScale(const PluginField& field, const char* layer, float& value) noexcept {
  if (field.type == PluginFieldType::kFLOAT32) {
    value = valueOf<float>(field);
  } else if (field.type == PluginFieldType::kFLOAT64) {
    value = static_cast<float>(valueOf<double>(field));
  } else {
    log(Severity::kERROR, layer, "attribute '%s' is %s, expected FLOAT32 or FLOAT64", field.name, typeName(field.type));
    return false;
  }
  if (!std::isfinite(value) || value <= 0.0F) {
    log(Severity::kERROR, layer, "attribute '%s' is %g, expected a finite number above 0", field.name,
        static_cast<double>(value));
    return false;
  }
  return true;
}

}  // namespace

std::array<PluginField, 3> toFields(const Attributes* attributes) noexcept {
  const bool known = attributes != nullptr;
  return {
      PluginField{"num_heads", known ? &attributes->num_heads : nullptr, PluginFieldType::kINT32, 1},
      PluginField{"num_class_tokens", known ? &attributes->num_class_tokens : nullptr, PluginFieldType::kINT32, 1},
      PluginField{"scale", known ? &attributes->scale : nullptr, PluginFieldType::kFLOAT32, 1},
  };
}

bool fromFields(const nvinfer1::PluginFieldCollection* fields, const char* layer, Attributes& attributes) noexcept {
  if (fields == nullptr || (fields->nbFields > 0 && fields->fields == nullptr)) {
    log(Severity::kERROR, layer, "no attributes, expected num_heads, num_class_tokens and scale");
    return false;
  }
  const std::array<PluginField, 3> known = toFields(nullptr);
  std::array<bool, 3> seen{};
  for (std::int32_t i = 0; i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    std::size_t which = 0;
    while (which < known.size() && (field.name == nullptr || std::strcmp(field.name, known[which].name) != 0)) {
      ++which;
    }
    if (which == known.size()) {
      log(Severity::kERROR, layer,
          "unknown attribute '%s'; version %s of the plugin knows num_heads, num_class_tokens and scale",
          field.name == nullptr ? "(no name)" : field.name, kVersion);
      return false;
    }
    if (seen[which]) {
      log(Severity::kERROR, layer, "attribute '%s' is given twice", field.name);
      return false;
    }
    if (field.data == nullptr || field.length != 1) {
      log(Severity::kERROR, layer, "attribute '%s' has %d values, expected 1", field.name,
          field.data == nullptr ? 0 : field.length);
      return false;
    }
    seen[which] = true;
    const bool read = which == 0   ? readInteger(field, layer, attributes.num_heads)
                      : which == 1 ? readInteger(field, layer, attributes.num_class_tokens)
                                   : readScale(field, layer, attributes.scale);
    if (!read) {
      return false;
    }
  }
  for (std::size_t which = 0; which < known.size(); ++which) {
    if (!seen[which]) {
      log(Severity::kERROR, layer, "attribute '%s' is missing", known[which].name);
      return false;
    }
  }
  return true;
}

}  // namespace emra
