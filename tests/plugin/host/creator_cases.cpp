// Creators and attributes: what a node or an engine may say, and what is said when it is wrong.
#include <cmath>
#include <cstring>
#include <limits>

#include "harness.h"
#include "trt_double.h"

namespace {

using host::Library;
using host::Node;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using Severity = nvinfer1::ILogger::Severity;

// A node with one field replaced, and the words its refusal must have.
void expectRefused(Library& library, std::vector<PluginField> fields, const std::vector<std::string>& words) {
  for (const auto phase : {nvinfer1::TensorRTPhase::kBUILD, nvinfer1::TensorRTPhase::kRUNTIME}) {
    library.logger().clear();
    EXPECT(host::create(library, fields, phase) == nullptr);
    std::vector<std::string> all = {"emra::AttentionAggregation", "/mca/aggregate"};
    all.insert(all.end(), words.begin(), words.end());
    if (!library.logger().has(Severity::kERROR, all)) host::fail(__FILE__, __LINE__, library.logger().text());
  }
}

std::vector<PluginField> replaced(const Node& node, std::size_t which, const PluginField& field) {
  std::vector<PluginField> fields = node.fields();
  fields[which] = field;
  return fields;
}

CASE(creator_has_the_name_that_onnx_nodes_ask_for) {
  Library library(paths.plugins);
  EXPECT(std::strcmp(library.creator().getPluginName(), "AttentionAggregation") == 0);
  EXPECT(std::strcmp(library.creator().getPluginVersion(), "1") == 0);
  EXPECT(std::strcmp(library.creator().getPluginNamespace(), "emra") == 0);
}

CASE(creator_lists_its_attributes) {
  Library library(paths.plugins);
  const nvinfer1::PluginFieldCollection* const fields = library.creator().getFieldNames();
  const std::vector<PluginField> expected = Node{}.fields();
  EXPECT(fields->nbFields == 3);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT(std::strcmp(fields->fields[i].name, expected[i].name) == 0);
    EXPECT(fields->fields[i].type == expected[i].type);
    EXPECT(fields->fields[i].length == 1);
  }
}

CASE(plugin_has_the_name_of_its_creator) {
  Library library(paths.plugins);
  const host::Plugin plugin = host::create(library, Node{}.fields());
  EXPECT(std::strcmp(host::coreOf(*plugin).getPluginName(), library.creator().getPluginName()) == 0);
  EXPECT(std::strcmp(host::coreOf(*plugin).getPluginVersion(), library.creator().getPluginVersion()) == 0);
  EXPECT(std::strcmp(host::coreOf(*plugin).getPluginNamespace(), library.creator().getPluginNamespace()) == 0);
  EXPECT(library.logger().text().empty());
}

CASE(plugin_has_no_other_capability) {
  Library library(paths.plugins);
  const host::Plugin plugin = host::create(library, Node{}.fields());
  EXPECT(plugin->getCapabilityInterface(static_cast<nvinfer1::PluginCapabilityType>(3)) == nullptr);
}

CASE(numpy_types_are_taken) {
  Library library(paths.plugins);
  const std::int64_t heads = 3;
  const std::int64_t classes = 6;
  const double scale = 0.125;
  const host::Plugin wide = host::create(library, {{"num_heads", &heads, PluginFieldType::kINT64, 1},
                                                   {"num_class_tokens", &classes, PluginFieldType::kINT64, 1},
                                                   {"scale", &scale, PluginFieldType::kFLOAT64, 1}});
  const host::Plugin narrow = host::create(library, Node{}.fields());
  EXPECT(wide != nullptr);
  EXPECT(std::strcmp(host::buildOf(*wide).getTimingCacheID(), host::buildOf(*narrow).getTimingCacheID()) == 0);
}

CASE(order_of_attributes_does_not_matter) {
  Library library(paths.plugins);
  const Node node;
  const std::vector<PluginField> fields = node.fields();
  EXPECT(host::create(library, {fields[2], fields[0], fields[1]}) != nullptr);
}

CASE(missing_attributes_are_refused) {
  Library library(paths.plugins);
  const Node node;
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<PluginField> fields = node.fields();
    const std::string name = fields[i].name;
    fields.erase(fields.begin() + static_cast<std::ptrdiff_t>(i));
    expectRefused(library, fields, {name, "missing"});
  }
  expectRefused(library, {}, {"num_heads", "missing"});
}

CASE(no_collection_is_refused) {
  Library library(paths.plugins);
  EXPECT(library.creator().createPlugin("layer", nullptr, nvinfer1::TensorRTPhase::kBUILD) == nullptr);
  const nvinfer1::PluginFieldCollection hollow{3, nullptr};
  EXPECT(library.creator().createPlugin("layer", &hollow, nvinfer1::TensorRTPhase::kBUILD) == nullptr);
  EXPECT(library.logger().has(Severity::kERROR, {"layer", "no attributes", "num_heads"}));
}

CASE(a_layer_without_name_is_created) {
  Library library(paths.plugins);
  const Node node;
  const std::vector<PluginField> fields = node.fields();
  const nvinfer1::PluginFieldCollection collection{3, fields.data()};
  const host::Plugin plugin{library.creator().createPlugin(nullptr, &collection, nvinfer1::TensorRTPhase::kBUILD)};
  EXPECT(plugin != nullptr);
}

CASE(a_very_long_name_is_cut) {
  Library library(paths.plugins);
  const std::string name(5000, 'n');
  const nvinfer1::PluginFieldCollection none{};
  EXPECT(library.creator().createPlugin(name.c_str(), &none, nvinfer1::TensorRTPhase::kBUILD) == nullptr);
  EXPECT(library.logger().has(Severity::kERROR, {"num_heads", "missing"}));
  const Node node;
  const std::vector<PluginField> fields = node.fields();
  const nvinfer1::PluginFieldCollection collection{3, fields.data()};
  const host::Plugin plugin{library.creator().createPlugin(name.c_str(), &collection, nvinfer1::TensorRTPhase::kBUILD)};
  EXPECT(plugin != nullptr);
}

CASE(wrong_types_are_refused) {
  Library library(paths.plugins);
  const Node node;
  const float real = 3.0F;
  const char text[] = "3";
  const std::int8_t small = 3;
  expectRefused(library, replaced(node, 0, {"num_heads", &real, PluginFieldType::kFLOAT32, 1}),
                {"num_heads", "FLOAT32", "INT32 or INT64"});
  expectRefused(library, replaced(node, 0, {"num_heads", text, PluginFieldType::kCHAR, 1}), {"num_heads", "CHAR"});
  expectRefused(library, replaced(node, 1, {"num_class_tokens", &small, PluginFieldType::kINT8, 1}),
                {"num_class_tokens", "INT8"});
  expectRefused(library, replaced(node, 2, {"scale", &node.num_heads, PluginFieldType::kINT32, 1}),
                {"scale", "INT32", "FLOAT32 or FLOAT64"});
  expectRefused(library, replaced(node, 2, {"scale", &real, static_cast<PluginFieldType>(99), 1}), {"scale"});
}

CASE(out_of_range_values_are_refused) {
  Library library(paths.plugins);
  const Node node;
  for (const std::int32_t value : {0, -1, std::numeric_limits<std::int32_t>::min()}) {
    expectRefused(library, replaced(node, 0, {"num_heads", &value, PluginFieldType::kINT32, 1}),
                  {"num_heads", std::to_string(value), "1 or more"});
  }
  for (const std::int32_t value : {0, -6}) {
    expectRefused(library, replaced(node, 1, {"num_class_tokens", &value, PluginFieldType::kINT32, 1}),
                  {"num_class_tokens", std::to_string(value)});
  }
  const std::int32_t tooMany = 33;
  expectRefused(library, replaced(node, 1, {"num_class_tokens", &tooMany, PluginFieldType::kINT32, 1}),
                {"num_class_tokens", "33", "1 to 32"});
  const std::int64_t wide = (std::int64_t{1} << 32) + 3;  // 3, were it cut to 32 bits
  expectRefused(library, replaced(node, 0, {"num_heads", &wide, PluginFieldType::kINT64, 1}), {"num_heads"});
  for (const float value : {0.0F, -0.125F, NAN, INFINITY, -INFINITY}) {
    expectRefused(library, replaced(node, 2, {"scale", &value, PluginFieldType::kFLOAT32, 1}),
                  {"scale", "finite number above 0"});
  }
  const double vast = 1e300;  // finite as FP64 only
  expectRefused(library, replaced(node, 2, {"scale", &vast, PluginFieldType::kFLOAT64, 1}), {"scale"});
}

CASE(wrong_counts_are_refused) {
  Library library(paths.plugins);
  const Node node;
  const std::int32_t two[] = {3, 3};
  expectRefused(library, replaced(node, 0, {"num_heads", two, PluginFieldType::kINT32, 2}), {"num_heads", "2 values"});
  expectRefused(library, replaced(node, 0, {"num_heads", two, PluginFieldType::kINT32, 0}), {"num_heads", "0 values"});
  expectRefused(library, replaced(node, 0, {"num_heads", nullptr, PluginFieldType::kINT32, 1}),
                {"num_heads", "0 values"});
}

CASE(unknown_and_repeated_attributes_are_refused) {
  Library library(paths.plugins);
  const Node node;
  std::vector<PluginField> fields = node.fields();
  fields.push_back({"dropout", &node.scale, PluginFieldType::kFLOAT32, 1});
  expectRefused(library, fields, {"unknown", "dropout", "num_heads, num_class_tokens and scale"});
  fields.back().name = "num_heads ";
  expectRefused(library, fields, {"unknown", "num_heads "});
  fields.back().name = nullptr;
  expectRefused(library, fields, {"unknown"});
  fields.back() = fields.front();
  expectRefused(library, fields, {"num_heads", "twice"});
}

CASE(unaligned_values_are_read) {
  Library library(paths.plugins);
  alignas(8) unsigned char bytes[8] = {};
  const std::int32_t heads = 3;
  std::memcpy(bytes + 1, &heads, sizeof(heads));
  const Node node;
  EXPECT(host::create(library, replaced(node, 0, {"num_heads", bytes + 1, PluginFieldType::kINT32, 1})) != nullptr);
}

CASE(messages_go_to_stderr_without_a_logger) {
  Library library(paths.plugins);
  auto* const set = reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(library.symbol("setLoggerFinder"));
  set(nullptr);
  EXPECT(host::create(library, {}) == nullptr);
  EXPECT(library.logger().text().empty());
}

class ThrowingFinder final : public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* findLogger() override { throw 1; }
};

CASE(a_logger_finder_that_throws_does_not_unwind_the_plugin) {
  Library library(paths.plugins);
  ThrowingFinder finder;
  auto* const set = reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(library.symbol("setLoggerFinder"));
  set(&finder);
  EXPECT(host::create(library, {}) == nullptr);
}

}  // namespace
