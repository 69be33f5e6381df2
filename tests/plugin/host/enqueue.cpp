#include "enqueue.h"

#include <cstring>
#include <fstream>
#include <stdexcept>

#include "buffers.h"
#include "trt_double.h"

namespace host {
namespace {

struct Header {
  std::int32_t batch, tokens, classes, heads, width, blocks, type;
  float scale;
};

void expect(bool condition, const char* step, Library& library) {
  if (!condition) throw std::runtime_error(std::string(step) + " failed\n" + library.logger().text());
}

}  // namespace

void enqueueFile(const std::string& path, const std::string& input, const std::string& output) {
  std::ifstream in(input, std::ios::binary);
  Header header{};
  in.read(reinterpret_cast<char*>(&header), sizeof(header));
  const nvinfer1::DataType type = header.type == 1 ? nvinfer1::DataType::kHALF : nvinfer1::DataType::kFLOAT;
  const std::size_t elementBytes = header.type == 1 ? 2 : 4;
  const auto blocks = static_cast<std::size_t>(header.blocks);
  const nvinfer1::Dims shape = dims({header.batch, header.tokens, std::int64_t{3} * header.heads * header.width});
  const auto bytes = static_cast<std::size_t>(shape.d[0] * shape.d[1] * shape.d[2]) * elementBytes;
  std::vector<Buffer> buffers;
  std::vector<const void*> inputs;
  for (std::size_t i = 0; i < blocks; ++i) {
    buffers.push_back(allocate(bytes));
    inputs.push_back(buffers.back().get());
    in.read(static_cast<char*>(buffers.back().get()), static_cast<std::streamsize>(bytes));
  }
  if (!in) throw std::runtime_error("the input file is too short");

  // Build: shapes of a network whose batch is dynamic, the format, one profile of batches 1 to 16, workspace.
  Library library(path);
  Plugin built = create(library, Node{header.heads, header.classes, header.scale}.fields());
  expect(built != nullptr, "createPlugin", library);
  built.reset(built->clone());  // what addPluginV3 keeps
  nvinfer1::IPluginV3OneBuild& build = buildOf(*built);
  ExprBuilder builder;
  nvinfer1::DimsExprs expressions{};
  expressions.nbDims = 3;
  expressions.d[0] = builder.input(0);
  expressions.d[1] = builder.constant(header.tokens);
  expressions.d[2] = builder.constant(shape.d[2]);
  const std::vector<nvinfer1::DimsExprs> inputExpressions(blocks, expressions);
  nvinfer1::DimsExprs out{};
  expect(build.getOutputShapes(inputExpressions.data(), header.blocks, nullptr, 0, &out, 1, builder) == 0,
         "getOutputShapes", library);
  nvinfer1::Dims outShape{};
  outShape.nbDims = out.nbDims;
  for (std::int32_t i = 0; i < out.nbDims; ++i) outShape.d[i] = ExprBuilder::evaluate(*out.d[i], {header.batch});
  const nvinfer1::Dims one = dims({1, shape.d[1], shape.d[2]});
  const nvinfer1::Dims most = dims({16, shape.d[1], shape.d[2]});
  const nvinfer1::Dims open = dims({-1, shape.d[1], shape.d[2]});
  std::vector<nvinfer1::DynamicPluginTensorDesc> all(blocks, dynamicTensor(open, one, shape, most, type));
  all.push_back(dynamicTensor(outShape, outShape, outShape, outShape, nvinfer1::DataType::kFLOAT));
  for (std::int32_t i = 0; i <= header.blocks; ++i) {
    expect(build.supportsFormatCombination(i, all.data(), header.blocks, 1), "supportsFormatCombination", library);
  }
  expect(build.configurePlugin(all.data(), header.blocks, &all.back(), 1) == 0, "configurePlugin", library);
  const Buffer workspace = allocate(build.getWorkspaceSize(all.data(), header.blocks, &all.back(), 1));

  // The engine keeps the fields alone; a context gets a plugin made of them.
  const Plugin loaded{library.creator().createPlugin("/mca/aggregate", runtimeOf(*built).getFieldsToSerialize(),
                                                     nvinfer1::TensorRTPhase::kRUNTIME)};
  expect(loaded != nullptr, "createPlugin of the engine", library);
  built.reset();
  const Plugin attached{runtimeOf(*loaded).attachToContext(nullptr)};
  expect(attached != nullptr, "attachToContext", library);
  const std::vector<nvinfer1::PluginTensorDesc> descriptions(blocks, tensor(shape, type));
  const nvinfer1::PluginTensorDesc outDescription = tensor(outShape, nvinfer1::DataType::kFLOAT);
  nvinfer1::IPluginV3OneRuntime& runtime = runtimeOf(*attached);
  expect(runtime.onShapeChange(descriptions.data(), header.blocks, &outDescription, 1) == 0, "onShapeChange", library);
  const std::size_t outBytes = static_cast<std::size_t>(outShape.d[0] * outShape.d[1] * outShape.d[2]) * sizeof(float);
  const Buffer gca = allocate(outBytes);
  std::memset(gca.get(), 0xff, outBytes);  // NaN, so that an element that is not written is seen
  void* const outputs[] = {gca.get()};
  int stream = 0;
  expect(runtime.enqueue(descriptions.data(), &outDescription, inputs.data(), outputs, workspace.get(),
                         reinterpret_cast<cudaStream_t>(&stream)) == 0,
         "enqueue", library);
  std::ofstream(output, std::ios::binary)
      .write(static_cast<const char*>(gca.get()), static_cast<std::streamsize>(outBytes));
}

}  // namespace host
