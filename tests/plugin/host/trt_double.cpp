#include "trt_double.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <stdexcept>

namespace host {
namespace {

using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

using Function = std::function<std::int64_t(const std::vector<std::int64_t>&)>;

class Expression final : public IDimensionExpr {
 public:
  Expression(bool isConstant, Function value) : impl_(isConstant, value), value_(std::move(value)) { mImpl = &impl_; }
  ~Expression() noexcept override = default;

  std::int64_t evaluate(const std::vector<std::int64_t>& inputs) const { return value_(inputs); }

 private:
  class Impl final : public nvinfer1::apiv::VDimensionExpr {
   public:
    Impl(bool isConstant, Function value) : isConstant_(isConstant), value_(std::move(value)) {}
    bool isConstant() const override { return isConstant_; }
    // TensorRT gives the least 64-bit integer for an expression that is not constant.
    std::int64_t getConstantValue() const override { return isConstant_ ? value_({}) : INT64_MIN; }
    bool isSizeTensor() const override { return false; }

   private:
    bool isConstant_;
    Function value_;
  };

  Impl impl_;
  Function value_;
};

template <typename Interface>
Interface& capability(nvinfer1::IPluginV3& plugin, nvinfer1::PluginCapabilityType type, const char* kind) {
  auto* const found = plugin.getCapabilityInterface(type);
  // What TensorRT tells the interfaces apart by, before it casts.
  if (found == nullptr || std::strcmp(found->getInterfaceInfo().kind, kind) != 0) {
    throw std::runtime_error(std::string("the plugin has no ") + kind);
  }
  return static_cast<Interface&>(*found);
}

}  // namespace

void Logger::log(Severity severity, const char* message) noexcept { messages_.push_back({severity, message}); }

bool Logger::has(Severity severity, const std::vector<std::string>& words) const {
  return std::any_of(messages_.begin(), messages_.end(), [&](const Message& message) {
    return message.severity == severity && std::all_of(words.begin(), words.end(), [&](const std::string& word) {
             return message.text.find(word) != std::string::npos;
           });
  });
}

std::string Logger::text() const {
  std::string all;
  for (const Message& message : messages_) all += message.text + "\n";
  return all;
}

class ExprBuilder::Builder final : public nvinfer1::apiv::VExprBuilder {
 public:
  const IDimensionExpr* add(bool isConstant, Function value) {
    return &expressions_.emplace_back(isConstant, std::move(value));
  }
  const IDimensionExpr* constant(std::int64_t value) override {
    return add(true, [value](const auto&) { return value; });
  }
  const IDimensionExpr* operation(DimensionOperation operation, const IDimensionExpr& first,
                                  const IDimensionExpr& second) override {
    if (operation != DimensionOperation::kSUB) return nullptr;
    const auto* const a = static_cast<const Expression*>(&first);
    const auto* const b = static_cast<const Expression*>(&second);
    return add(first.isConstant() && second.isConstant(),
               [a, b](const auto& inputs) { return a->evaluate(inputs) - b->evaluate(inputs); });
  }
  const IDimensionExpr* declareSizeTensor(std::int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    return nullptr;
  }

 private:
  std::deque<Expression> expressions_;
};

ExprBuilder::ExprBuilder() : builder_(std::make_unique<Builder>()) { mImpl = builder_.get(); }
ExprBuilder::~ExprBuilder() noexcept = default;

const IDimensionExpr* ExprBuilder::input(std::size_t index) {
  return builder_->add(false, [index](const auto& inputs) { return inputs.at(index); });
}

std::int64_t ExprBuilder::evaluate(const IDimensionExpr& expression, const std::vector<std::int64_t>& inputs) {
  return static_cast<const Expression&>(expression).evaluate(inputs);
}

nvinfer1::Dims dims(std::initializer_list<std::int64_t> extents) {
  nvinfer1::Dims result{};
  result.nbDims = static_cast<std::int32_t>(extents.size());
  std::copy(extents.begin(), extents.end(), result.d);
  return result;
}

nvinfer1::PluginTensorDesc tensor(const nvinfer1::Dims& shape, nvinfer1::DataType type, nvinfer1::TensorFormat format) {
  return {shape, type, format, -1.0F};
}

nvinfer1::DynamicPluginTensorDesc dynamicTensor(const nvinfer1::Dims& shape, const nvinfer1::Dims& min,
                                                const nvinfer1::Dims& opt, const nvinfer1::Dims& max,
                                                nvinfer1::DataType type) {
  return {tensor(shape, type), min, max, opt};
}

Library::Library(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL)) {
  if (handle_ == nullptr) throw std::runtime_error(dlerror());
  auto* const setLoggerFinder = reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(symbol("setLoggerFinder"));
  auto* const getCreators =
      reinterpret_cast<nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&)>(symbol("getCreators"));
  setLoggerFinder(&logger_);
  std::int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* const creators = getCreators(count);
  if (count != 1 || std::strcmp(creators[0]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0) {
    throw std::runtime_error("expected one creator of the third generation");
  }
  creator_ = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[0]);
}

Library::~Library() {
  reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(symbol("setLoggerFinder"))(nullptr);
  dlclose(handle_);
}

void* Library::symbol(const char* name) const {
  void* const address = dlsym(handle_, name);
  if (address == nullptr) throw std::runtime_error(std::string("the library does not export ") + name);
  return address;
}

std::vector<nvinfer1::PluginField> Node::fields() const {
  return {{"num_heads", &num_heads, nvinfer1::PluginFieldType::kINT32, 1},
          {"num_class_tokens", &num_class_tokens, nvinfer1::PluginFieldType::kINT32, 1},
          {"scale", &scale, nvinfer1::PluginFieldType::kFLOAT32, 1}};
}

Plugin create(Library& library, const std::vector<nvinfer1::PluginField>& fields, nvinfer1::TensorRTPhase phase) {
  const nvinfer1::PluginFieldCollection collection{static_cast<std::int32_t>(fields.size()), fields.data()};
  return Plugin{library.creator().createPlugin("/mca/aggregate", &collection, phase)};
}

nvinfer1::IPluginV3OneCore& coreOf(nvinfer1::IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneCore>(plugin, nvinfer1::PluginCapabilityType::kCORE, "PLUGIN_V3ONE_CORE");
}

nvinfer1::IPluginV3OneBuild& buildOf(nvinfer1::IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneBuild>(plugin, nvinfer1::PluginCapabilityType::kBUILD, "PLUGIN_V3ONE_BUILD");
}

nvinfer1::IPluginV3OneRuntime& runtimeOf(nvinfer1::IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneRuntime>(plugin, nvinfer1::PluginCapabilityType::kRUNTIME,
                                                   "PLUGIN_V3ONE_RUNTIME");
}

}  // namespace host
