// TensorRT's part, played against TensorRT's own headers: a logger, expressions of dimensions, descriptions of tensors,
// and the loading of a plugin library by the two names that TensorRT looks up in it.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace host {

class Logger final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity severity, const char* message) noexcept override;
  nvinfer1::ILogger* findLogger() override { return this; }

  // Whether a message of this severity holds all the words.
  bool has(Severity severity, const std::vector<std::string>& words) const;
  std::string text() const;
  void clear() { messages_.clear(); }

 private:
  struct Message {
    Severity severity;
    std::string text;
  };
  std::vector<Message> messages_;
};

// Expressions are constants or functions of the network's inputs, which `evaluate` is given.
class ExprBuilder final : public nvinfer1::IExprBuilder {
 public:
  ExprBuilder();
  ~ExprBuilder() noexcept override;
  ExprBuilder(const ExprBuilder&) = delete;
  ExprBuilder& operator=(const ExprBuilder&) = delete;

  const nvinfer1::IDimensionExpr* input(std::size_t index);
  static std::int64_t evaluate(const nvinfer1::IDimensionExpr& expression, const std::vector<std::int64_t>& inputs);

 private:
  class Builder;
  std::unique_ptr<Builder> builder_;
};

nvinfer1::Dims dims(std::initializer_list<std::int64_t> extents);
nvinfer1::PluginTensorDesc tensor(const nvinfer1::Dims& shape, nvinfer1::DataType type,
                                  nvinfer1::TensorFormat format = nvinfer1::TensorFormat::kLINEAR);
nvinfer1::DynamicPluginTensorDesc dynamicTensor(const nvinfer1::Dims& shape, const nvinfer1::Dims& min,
                                                const nvinfer1::Dims& opt, const nvinfer1::Dims& max,
                                                nvinfer1::DataType type);

// A plugin library, loaded as IPluginRegistry::loadLibrary does it.
class Library {
 public:
  explicit Library(const std::string& path);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  Logger& logger() { return logger_; }
  nvinfer1::IPluginCreatorV3One& creator() { return *creator_; }
  void* symbol(const char* name) const;

 private:
  Logger logger_;
  void* handle_ = nullptr;
  nvinfer1::IPluginCreatorV3One* creator_ = nullptr;
};

// The attributes of a node, as the ONNX parser hands them over.
struct Node {
  std::int32_t num_heads = 3;
  std::int32_t num_class_tokens = 6;
  float scale = 0.125F;

  std::vector<nvinfer1::PluginField> fields() const;
};

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

Plugin create(Library& library, const std::vector<nvinfer1::PluginField>& fields,
              nvinfer1::TensorRTPhase phase = nvinfer1::TensorRTPhase::kBUILD);

nvinfer1::IPluginV3OneCore& coreOf(nvinfer1::IPluginV3& plugin);
nvinfer1::IPluginV3OneBuild& buildOf(nvinfer1::IPluginV3& plugin);
nvinfer1::IPluginV3OneRuntime& runtimeOf(nvinfer1::IPluginV3& plugin);

}  // namespace host
