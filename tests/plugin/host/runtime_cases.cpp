// The run phase: what goes into an engine and comes back, contexts, shapes that change, and enqueue's refusals.
// That enqueue's numbers are right is test_host.py's, which computes them with NumPy.
#include <cmath>
#include <cstring>

#include "buffers.h"
#include "harness.h"
#include "trt_double.h"

namespace {

using host::dims;
using host::Library;
using host::Node;
using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;
using Severity = nvinfer1::ILogger::Severity;

constexpr std::int64_t kWidth = 3 * 3 * 64;

// Bytes of an engine: a copy of the fields, after which the plugin that wrote them may go.
class Engine {
 public:
  explicit Engine(nvinfer1::IPluginV3& plugin) {
    const nvinfer1::PluginFieldCollection* const fields = host::runtimeOf(plugin).getFieldsToSerialize();
    for (std::int32_t i = 0; i < fields->nbFields; ++i) {
      const nvinfer1::PluginField& field = fields->fields[i];
      names_.push_back(std::make_unique<std::string>(field.name));
      values_.push_back(host::allocate(sizeof(std::int32_t), sizeof(void*)));
      std::memcpy(values_.back().get(), field.data, sizeof(std::int32_t) * static_cast<std::size_t>(field.length));
      fields_.emplace_back(names_.back()->c_str(), values_.back().get(), field.type, field.length);
    }
  }

  host::Plugin load(Library& library) const {
    return host::create(library, fields_, nvinfer1::TensorRTPhase::kRUNTIME);
  }

 private:
  std::vector<std::unique_ptr<std::string>> names_;
  std::vector<host::Buffer> values_;
  std::vector<nvinfer1::PluginField> fields_;
};

// One layer in an execution context, with memory for one shape.
class Layer {
 public:
  Layer(Library& library, std::size_t blocks, const nvinfer1::Dims& shape, DataType type)
      : plugin_(host::create(library, Node{}.fields())),
        inputs_(blocks, host::tensor(shape, type)),
        output_(host::tensor(dims({shape.d[0], 6, shape.d[1] - 6}), DataType::kFLOAT)) {
    const auto elements = static_cast<std::size_t>(shape.d[0] * shape.d[1] * shape.d[2]);
    for (std::size_t i = 0; i < blocks; ++i) {
      const std::size_t bytes = elements * (type == DataType::kHALF ? 2 : 4);
      buffers_.push_back(host::allocate(bytes));
      std::memset(buffers_.back().get(), 0, bytes);
      pointers_.push_back(buffers_.back().get());
    }
    gca_ = host::allocate(static_cast<std::size_t>(shape.d[0] * 6 * (shape.d[1] - 6)) * sizeof(float));
    workspace_ = host::allocate(256 * static_cast<std::size_t>((shape.d[0] + 24) * shape.d[1]));
  }

  std::int32_t reshape() {
    return host::runtimeOf(*plugin_).onShapeChange(inputs_.data(), static_cast<std::int32_t>(inputs_.size()), &output_,
                                                   1);
  }

  std::int32_t enqueue() {
    void* outputs[] = {gca_.get()};
    int stream = 0;  // the double only looks whether there is one
    return host::runtimeOf(*plugin_).enqueue(inputs_.data(), &output_, pointers_.data(), outputs, workspace_.get(),
                                             reinterpret_cast<cudaStream_t>(&stream));
  }

  float value(std::size_t index) const { return static_cast<const float*>(gca_.get())[index]; }

  host::Plugin plugin_;
  std::vector<PluginTensorDesc> inputs_;
  PluginTensorDesc output_;
  std::vector<host::Buffer> buffers_;
  std::vector<const void*> pointers_;
  host::Buffer gca_;
  host::Buffer workspace_;
};

CASE(engine_brings_back_the_attributes) {
  Library library(paths.plugins);
  for (const Node& node : {Node{3, 6, 0.125F}, Node{12, 1, 0.0883883461F}, Node{1, 32, 1e-30F}}) {
    host::Plugin written = host::create(library, node.fields());
    const Engine engine(*written);
    const std::string identity = host::buildOf(*written).getTimingCacheID();
    written.reset();
    const host::Plugin read = engine.load(library);
    EXPECT(read != nullptr);
    EXPECT(identity == host::buildOf(*read).getTimingCacheID());
    EXPECT(std::strcmp(host::coreOf(*read).getPluginName(), "AttentionAggregation") == 0);
  }
}

CASE(clones_outlive_what_they_were_cloned_from) {
  Library library(paths.plugins);
  host::Plugin original = host::create(library, Node{4, 7, 0.25F}.fields());
  const std::string identity = host::buildOf(*original).getTimingCacheID();
  const host::Plugin copy{original->clone()};
  original.reset();
  EXPECT(identity == host::buildOf(*copy).getTimingCacheID());
  // The fields point into the copy, not into the original, whose memory is gone.
  const nvinfer1::PluginFieldCollection* const fields = host::runtimeOf(*copy).getFieldsToSerialize();
  EXPECT(fields->nbFields == 3);
  EXPECT(*static_cast<const std::int32_t*>(fields->fields[0].data) == 4);
  EXPECT(*static_cast<const std::int32_t*>(fields->fields[1].data) == 7);
  const host::Plugin again{copy->clone()};
  EXPECT(identity == host::buildOf(*again).getTimingCacheID());
}

CASE(contexts_have_plugins_of_their_own) {
  Library library(paths.plugins);
  Layer layer(library, 2, dims({1, 70, kWidth}), DataType::kFLOAT);
  EXPECT(layer.reshape() == 0);
  host::Plugin other{host::runtimeOf(*layer.plugin_).attachToContext(nullptr)};
  EXPECT(other != nullptr && other.get() != layer.plugin_.get());
  layer.plugin_ = std::move(other);
  EXPECT(layer.enqueue() == 0);  // it was attached with shapes set
}

CASE(equal_tokens_give_a_flat_map) {
  Library library(paths.plugins);
  Layer layer(library, 2, dims({2, 70, kWidth}), DataType::kHALF);
  EXPECT(layer.reshape() == 0);
  EXPECT(layer.enqueue() == 0);
  // All of Q and K are 0: attention is 1 / T everywhere, c2p too, and GCA is N / T^2.
  for (std::size_t i = 0; i < std::size_t{2} * 6 * 64; ++i) {
    EXPECT(std::abs(layer.value(i) - 64.0F / (70.0F * 70.0F)) < 1e-6F);
  }
}

CASE(shapes_may_change_between_runs) {
  Library library(paths.plugins);
  Layer layer(library, 2, dims({3, 41, kWidth}), DataType::kFLOAT);
  for (const std::int64_t batch : {3, 1, 2}) {
    for (const std::int64_t tokens : {41, 7, 20}) {
      for (PluginTensorDesc& input : layer.inputs_) input.dims = dims({batch, tokens, kWidth});
      EXPECT(layer.reshape() == 0);
      EXPECT(layer.enqueue() == 0);
      const auto squared = static_cast<float>(tokens * tokens);
      EXPECT(std::abs(layer.value(0) - static_cast<float>(tokens - 6) / squared) < 1e-6F);
    }
  }
}

CASE(empty_batches_are_nothing_to_do) {
  Library library(paths.plugins);
  Layer layer(library, 1, dims({0, 70, kWidth}), DataType::kHALF);
  EXPECT(layer.reshape() == 0);
  EXPECT(layer.enqueue() == 0);
  EXPECT(library.logger().text().empty());
}

CASE(shapes_that_no_kernel_takes_are_refused_at_run_time) {
  Library library(paths.plugins);
  for (const auto& shape : {dims({1, 6, kWidth}), dims({1, 70, 9 * 48}), dims({1, 70, kWidth + 3}), dims({70, kWidth}),
                            dims({1, 70, 3, 192}), dims({1, -1, kWidth})}) {
    Layer layer(library, 2, dims({1, 70, kWidth}), DataType::kFLOAT);
    EXPECT(layer.reshape() == 0);
    for (PluginTensorDesc& input : layer.inputs_) input.dims = shape;
    library.logger().clear();
    EXPECT(layer.reshape() != 0);
    EXPECT(library.logger().has(Severity::kERROR, {"emra::AttentionAggregation", "/mca/aggregate", "expected"}));
    EXPECT(layer.enqueue() != 0);
  }
}

CASE(inputs_that_differ_are_refused_at_run_time) {
  Library library(paths.plugins);
  Layer layer(library, 3, dims({1, 70, kWidth}), DataType::kFLOAT);
  layer.inputs_[2].dims.d[1] = 71;
  EXPECT(layer.reshape() != 0);
  EXPECT(layer.enqueue() != 0);
  layer.inputs_[2] = layer.inputs_[0];
  layer.inputs_[1].type = DataType::kHALF;
  EXPECT(layer.reshape() != 0);
  layer.inputs_[1] = layer.inputs_[0];
  layer.inputs_[1].format = nvinfer1::TensorFormat::kHWC8;
  EXPECT(layer.reshape() != 0);
  EXPECT(library.logger().has(Severity::kERROR, {"input 1", "input 0"}));
  layer.inputs_[1] = layer.inputs_[0];
  EXPECT(layer.reshape() == 0);
  EXPECT(layer.enqueue() == 0);
}

CASE(enqueue_before_shapes_is_refused) {
  Library library(paths.plugins);
  Layer layer(library, 1, dims({1, 70, kWidth}), DataType::kFLOAT);
  EXPECT(layer.enqueue() != 0);
  EXPECT(library.logger().has(Severity::kERROR, {"before its shapes were set"}));
}

CASE(failures_of_the_kernels_are_reported) {
  Library library(paths.plugins);
  Layer layer(library, 2, dims({1, 70, kWidth}), DataType::kFLOAT);
  EXPECT(layer.reshape() == 0);
  layer.pointers_[1] = nullptr;
  EXPECT(layer.enqueue() != 0);
  EXPECT(library.logger().has(Severity::kERROR, {"CUDA error 1", "2 blocks"}));
  layer.pointers_[1] = layer.buffers_[1].get();
  layer.workspace_.reset();
  library.logger().clear();
  EXPECT(layer.enqueue() != 0);
  EXPECT(library.logger().has(Severity::kERROR, {"CUDA error 1"}));
}

}  // namespace
