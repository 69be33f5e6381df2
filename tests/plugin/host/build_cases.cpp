// The build phase: shapes, types, formats, ranges, workspace.
#include <algorithm>
#include <cstring>

#include "harness.h"
#include "trt_double.h"

namespace {

using host::dims;
using host::ExprBuilder;
using host::Library;
using host::Node;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::TensorFormat;
using Severity = nvinfer1::ILogger::Severity;

constexpr std::int64_t kWidth = 3 * 3 * 64;  // q, k and v of 3 heads of 64

DimsExprs shapeOf(std::initializer_list<const nvinfer1::IDimensionExpr*> extents) {
  DimsExprs shape{};
  for (const nvinfer1::IDimensionExpr* const extent : extents) shape.d[shape.nbDims++] = extent;
  return shape;
}

std::vector<DynamicPluginTensorDesc> tensors(std::size_t inputs, DataType type, const Dims& min, const Dims& max) {
  std::vector<DynamicPluginTensorDesc> all(inputs, host::dynamicTensor(dims({-1, -1, max.d[2]}), min, max, max, type));
  all.push_back(host::dynamicTensor(dims({-1, 6, -1}), dims({min.d[0], 6, min.d[1] - 6}),
                                    dims({max.d[0], 6, max.d[1] - 6}), dims({max.d[0], 6, max.d[1] - 6}),
                                    DataType::kFLOAT));
  return all;
}

std::int32_t configure(nvinfer1::IPluginV3& plugin, const std::vector<DynamicPluginTensorDesc>& all) {
  const auto inputs = static_cast<std::int32_t>(all.size()) - 1;
  return host::buildOf(plugin).configurePlugin(all.data(), inputs, &all.back(), 1);
}

std::size_t workspace(nvinfer1::IPluginV3& plugin, const std::vector<DynamicPluginTensorDesc>& all) {
  const auto inputs = static_cast<std::int32_t>(all.size()) - 1;
  return host::buildOf(plugin).getWorkspaceSize(all.data(), inputs, &all.back(), 1);
}

struct Fixture {
  explicit Fixture(const host::Paths& paths) : library(paths.plugins), plugin(host::create(library, Node{}.fields())) {}

  // getOutputShapes of inputs of these shapes, and whether it succeeded.
  bool shapes(const std::vector<DimsExprs>& inputs, DimsExprs& output) {
    return host::buildOf(*plugin).getOutputShapes(inputs.data(), static_cast<std::int32_t>(inputs.size()), nullptr, 0,
                                                  &output, 1, builder) == 0;
  }

  void expectRefused(const std::vector<DimsExprs>& inputs, const std::vector<std::string>& words) {
    library.logger().clear();
    DimsExprs output{};
    EXPECT(!shapes(inputs, output));
    if (!library.logger().has(Severity::kERROR, words)) {
      host::fail(__FILE__, __LINE__, words.front() + " is not in: " + library.logger().text());
    }
  }

  Library library;
  host::Plugin plugin;
  ExprBuilder builder;
};

CASE(output_shape_of_static_inputs) {
  Fixture f(paths);
  const DimsExprs input = shapeOf({f.builder.constant(2), f.builder.constant(1030), f.builder.constant(kWidth)});
  for (std::size_t blocks = 1; blocks <= 12; ++blocks) {
    DimsExprs output{};
    EXPECT(f.shapes(std::vector<DimsExprs>(blocks, input), output));
    EXPECT(output.nbDims == 3);
    for (std::int32_t i = 0; i < 3; ++i) EXPECT(output.d[i]->isConstant());
    EXPECT(output.d[0]->getConstantValue() == 2);
    EXPECT(output.d[1]->getConstantValue() == 6);
    EXPECT(output.d[2]->getConstantValue() == 1024);
  }
}

CASE(output_shape_of_dynamic_batch_and_tokens) {
  Fixture f(paths);
  const DimsExprs input = shapeOf({f.builder.input(0), f.builder.input(1), f.builder.constant(kWidth)});
  DimsExprs output{};
  EXPECT(f.shapes({input, input, input, input}, output));
  EXPECT(!output.d[0]->isConstant());
  EXPECT(!output.d[2]->isConstant());
  for (const std::int64_t batch : {1, 16}) {
    for (const std::int64_t tokens : {7, 205, 4103}) {
      EXPECT(ExprBuilder::evaluate(*output.d[0], {batch, tokens}) == batch);
      EXPECT(ExprBuilder::evaluate(*output.d[1], {batch, tokens}) == 6);
      EXPECT(ExprBuilder::evaluate(*output.d[2], {batch, tokens}) == tokens - 6);
    }
  }
}

CASE(shapes_that_no_kernel_takes_are_refused) {
  Fixture f(paths);
  const auto* const batch = f.builder.input(0);
  const auto* const tokens = f.builder.constant(1030);
  const auto* const width = f.builder.constant(kWidth);
  const DimsExprs good = shapeOf({batch, tokens, width});
  f.expectRefused({}, {"/mca/aggregate", "0 inputs", "1 to 12"});
  f.expectRefused(std::vector<DimsExprs>(13, good), {"13 inputs", "1 to 12"});
  f.expectRefused({shapeOf({batch, tokens})}, {"2 dimensions", "expected 3"});
  f.expectRefused({good, shapeOf({batch, tokens, f.builder.constant(3), f.builder.constant(192)})}, {"4 dimensions"});
  f.expectRefused({good, shapeOf({batch, f.builder.constant(1031), width})}, {"input 1", "1031", "1030"});
  f.expectRefused({good, shapeOf({batch, tokens, f.builder.constant(2 * kWidth)})}, {"input 1", "1152", "576"});
  f.expectRefused({shapeOf({batch, tokens, f.builder.constant(kWidth + 1)})}, {"577", "3 heads"});
  f.expectRefused({shapeOf({batch, tokens, f.builder.constant(9 * 48)})}, {"head width", "64"});
  f.expectRefused({shapeOf({batch, tokens, f.builder.constant(0)})}, {"3 heads"});
  f.expectRefused({shapeOf({batch, f.builder.constant(6), width})}, {"6 class tokens", "more tokens"});
  f.expectRefused({shapeOf({batch, tokens, f.builder.input(2)})}, {"width", "dynamic"});
  f.expectRefused({shapeOf({batch, f.builder.constant(std::int64_t{1} << 40), width})}, {"1099511627776"});
}

CASE(shape_inputs_are_refused) {
  Fixture f(paths);
  const DimsExprs input = shapeOf({f.builder.input(0), f.builder.input(1), f.builder.constant(kWidth)});
  DimsExprs output{};
  EXPECT(host::buildOf(*f.plugin).getOutputShapes(&input, 1, &input, 1, &output, 1, f.builder) != 0);
  EXPECT(f.library.logger().has(Severity::kERROR, {"1 shape inputs"}));
}

CASE(output_is_fp32_whatever_the_inputs) {
  Fixture f(paths);
  nvinfer1::IPluginV3OneBuild& build = host::buildOf(*f.plugin);
  EXPECT(build.getNbOutputs() == 1);
  for (const DataType type : {DataType::kFLOAT, DataType::kHALF}) {
    const DataType inputs[] = {type, type, type};
    DataType output = DataType::kINT8;
    EXPECT(build.getOutputDataTypes(&output, 1, inputs, 3) == 0);
    EXPECT(output == DataType::kFLOAT);
  }
  DataType output = DataType::kINT8;
  for (const DataType wrong : {DataType::kINT8, DataType::kINT32, DataType::kBF16, DataType::kFP8}) {
    EXPECT(build.getOutputDataTypes(&output, 1, &wrong, 1) != 0);
    EXPECT(f.library.logger().has(Severity::kERROR, {"FP16", "FP32"}));
  }
  const DataType mixed[] = {DataType::kHALF, DataType::kFLOAT};
  EXPECT(build.getOutputDataTypes(&output, 1, mixed, 2) != 0);
  EXPECT(build.getOutputDataTypes(&output, 2, mixed, 1) != 0);
}

CASE(formats_are_linear_fp16_or_fp32_in_and_fp32_out) {
  Fixture f(paths);
  nvinfer1::IPluginV3OneBuild& build = host::buildOf(*f.plugin);
  const std::vector<DataType> types = {DataType::kFLOAT, DataType::kHALF, DataType::kINT8,
                                       DataType::kINT32, DataType::kBOOL, DataType::kUINT8,
                                       DataType::kFP8,   DataType::kBF16, DataType::kINT64};
  const std::vector<TensorFormat> formats = {TensorFormat::kLINEAR, TensorFormat::kCHW2,  TensorFormat::kHWC8,
                                             TensorFormat::kCHW4,   TensorFormat::kCHW16, TensorFormat::kCHW32,
                                             TensorFormat::kHWC,    TensorFormat::kHWC16};
  // What TensorRT does: of every position, every combination, with the positions before it fixed.
  for (const std::int32_t blocks : {1, 4, 12}) {
    std::int32_t combinations = 0;
    for (const DataType first : {DataType::kFLOAT, DataType::kHALF}) {
      std::vector<DynamicPluginTensorDesc> all(static_cast<std::size_t>(blocks) + 1);
      for (std::int32_t pos = 0; pos <= blocks; ++pos) {
        auto& mine = all[static_cast<std::size_t>(pos)].desc;
        for (const DataType type : types) {
          for (const TensorFormat format : formats) {
            mine.type = type;
            mine.format = format;
            const bool isFirst = pos == 0 && (type == DataType::kFLOAT || type == DataType::kHALF);
            const DataType wanted = pos == blocks ? DataType::kFLOAT : first;
            const bool expected = format == TensorFormat::kLINEAR && (isFirst || type == wanted);
            EXPECT(build.supportsFormatCombination(pos, all.data(), blocks, 1) == expected);
          }
        }
        mine.type = pos == blocks ? DataType::kFLOAT : first;
        mine.format = TensorFormat::kLINEAR;
      }
      ++combinations;
    }
    EXPECT(combinations <= build.getFormatCombinationLimit());
  }
}

CASE(format_questions_out_of_range_are_answered_no) {
  Fixture f(paths);
  nvinfer1::IPluginV3OneBuild& build = host::buildOf(*f.plugin);
  const auto all = tensors(1, DataType::kHALF, dims({1, 70, kWidth}), dims({1, 70, kWidth}));
  EXPECT(!build.supportsFormatCombination(-1, all.data(), 1, 1));
  EXPECT(!build.supportsFormatCombination(2, all.data(), 1, 1));
  EXPECT(!build.supportsFormatCombination(0, all.data(), 0, 1));
  EXPECT(!build.supportsFormatCombination(0, all.data(), 1, 2));
  EXPECT(!build.supportsFormatCombination(0, nullptr, 1, 1));
}

CASE(profiles_are_checked) {
  Fixture f(paths);
  EXPECT(configure(*f.plugin, tensors(4, DataType::kHALF, dims({1, 70, kWidth}), dims({8, 1030, kWidth}))) == 0);
  EXPECT(configure(*f.plugin, tensors(1, DataType::kFLOAT, dims({1, 7, kWidth}), dims({1, 7, kWidth}))) == 0);
  EXPECT(f.library.logger().text().empty());
  // Before a profile is chosen, TensorRT may not know a range.
  EXPECT(configure(*f.plugin, tensors(4, DataType::kHALF, dims({-1, -1, kWidth}), dims({-1, -1, kWidth}))) == 0);

  EXPECT(configure(*f.plugin, tensors(4, DataType::kHALF, dims({1, 6, kWidth}), dims({8, 70, kWidth}))) != 0);
  EXPECT(f.library.logger().has(Severity::kERROR, {"more tokens than class tokens"}));
  EXPECT(configure(*f.plugin, tensors(4, DataType::kBF16, dims({1, 70, kWidth}), dims({8, 70, kWidth}))) != 0);
  EXPECT(f.library.logger().has(Severity::kERROR, {"FP16 or FP32"}));
  EXPECT(configure(*f.plugin, tensors(4, DataType::kHALF, dims({1, 70, 432}), dims({8, 70, 432}))) != 0);
  EXPECT(f.library.logger().has(Severity::kERROR, {"head width"}));

  auto uneven = tensors(4, DataType::kHALF, dims({1, 70, kWidth}), dims({8, 70, kWidth}));
  uneven[2].max = dims({8, 71, kWidth});
  EXPECT(configure(*f.plugin, uneven) != 0);
  EXPECT(f.library.logger().has(Severity::kERROR, {"input 2", "input 0"}));
  uneven[2] = uneven[0];
  uneven[3].desc.type = DataType::kFLOAT;
  EXPECT(configure(*f.plugin, uneven) != 0);
  EXPECT(f.library.logger().has(Severity::kERROR, {"input 3", "input 0"}));
}

// The kernels' workspace does not only grow: they cut a small batch into more parts. So does the double's.
CASE(workspace_is_the_largest_of_all_shapes_of_a_profile) {
  Fixture f(paths);
  const std::int64_t fewest = 60;
  const std::int64_t most = 205;
  std::size_t largest = 0;
  for (std::int64_t batch = 1; batch <= 16; ++batch) {
    for (std::int64_t tokens = fewest; tokens <= most; ++tokens) {
      const Dims shape = dims({batch, tokens, kWidth});
      const std::size_t bytes = workspace(*f.plugin, tensors(4, DataType::kHALF, shape, shape));
      EXPECT(bytes > 0);
      largest = std::max(largest, bytes);
    }
  }
  const auto profile = tensors(4, DataType::kHALF, dims({1, fewest, kWidth}), dims({16, most, kWidth}));
  EXPECT(workspace(*f.plugin, profile) == largest);
}

CASE(workspace_of_an_open_range_starts_at_the_smallest_legal_shape) {
  Fixture f(paths);
  const auto open = tensors(4, DataType::kHALF, dims({0, -1, kWidth}), dims({16, 70, kWidth}));
  const auto whole = tensors(4, DataType::kHALF, dims({1, 7, kWidth}), dims({16, 70, kWidth}));
  EXPECT(workspace(*f.plugin, open) > 0);
  EXPECT(workspace(*f.plugin, open) == workspace(*f.plugin, whole));
}

CASE(no_workspace_for_what_is_not_supported) {
  Fixture f(paths);
  const Dims shape = dims({1, 70, 432});
  EXPECT(workspace(*f.plugin, tensors(4, DataType::kHALF, shape, shape)) == 0);
  EXPECT(f.library.logger().has(Severity::kERROR, {"head width"}));
}

CASE(timing_cache_tells_attributes_apart) {
  Library library(paths.plugins);
  const auto identity = [&](const Node& node) {
    const host::Plugin plugin = host::create(library, node.fields());
    EXPECT(std::strcmp(host::buildOf(*plugin).getTimingCacheID(), host::buildOf(*plugin).getMetadataString()) == 0);
    return std::string(host::buildOf(*plugin).getTimingCacheID());
  };
  const std::string one = identity({3, 6, 0.125F});
  EXPECT(one == identity({3, 6, 0.125F}));
  EXPECT(one != identity({4, 6, 0.125F}));
  EXPECT(one != identity({3, 7, 0.125F}));
  EXPECT(one != identity({3, 6, 0.12500001F}));
  EXPECT(!identity({2147483647, 32, 3.4e38F}).empty());
}

CASE(no_custom_tactics) {
  Fixture f(paths);
  EXPECT(host::buildOf(*f.plugin).getNbTactics() == 0);
}

}  // namespace
