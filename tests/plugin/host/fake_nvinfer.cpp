// Stands for libnvinfer where a plugin registers itself: the two functions that libemra_plugins_register looks up.
#include <NvInferRuntime.h>

#include <map>
#include <string>
#include <vector>

namespace {

class Registry final : public nvinfer1::IPluginRegistry {
 public:
  Registry() = default;
  ~Registry() noexcept override = default;

  // `override` is left out: versions of TensorRT differ in what their registry has.
  bool registerCreator(nvinfer1::IPluginCreatorInterface& creator, const char* const space) noexcept {
    const auto& one = static_cast<nvinfer1::IPluginCreatorV3One&>(creator);
    return creators_.emplace(key(one.getPluginName(), one.getPluginVersion(), space), &creator).second;
  }
  nvinfer1::IPluginCreatorInterface* getCreator(const char* const name, const char* const version,
                                                const char* const space) noexcept {
    const auto found = creators_.find(key(name, version, space));
    return found == creators_.end() ? nullptr : found->second;
  }
  bool deregisterCreator(const nvinfer1::IPluginCreatorInterface& creator) noexcept {
    for (auto entry = creators_.begin(); entry != creators_.end(); ++entry) {
      if (entry->second == &creator) {
        creators_.erase(entry);
        return true;
      }
    }
    return false;
  }
#if NV_TENSORRT_MAJOR < 11
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  bool registerCreator(nvinfer1::IPluginCreator&, const char* const) noexcept { return false; }
  bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept { return false; }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t* const) const noexcept { return nullptr; }
  nvinfer1::IPluginCreator* getPluginCreator(const char* const, const char* const, const char* const) noexcept {
    return nullptr;
  }
#pragma GCC diagnostic pop
#endif
  void setErrorRecorder(nvinfer1::IErrorRecorder* const) noexcept {}
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept { return nullptr; }
  bool isParentSearchEnabled() const { return false; }
  void setParentSearchEnabled(const bool) {}
  PluginLibraryHandle loadLibrary(const char*) noexcept { return nullptr; }
  void deregisterLibrary(PluginLibraryHandle) noexcept {}
  nvinfer1::IPluginCreatorInterface* const* getAllCreators(std::int32_t* const) const noexcept { return nullptr; }
  nvinfer1::IPluginCreatorInterface* const* getAllCreatorsRecursive(std::int32_t* const) noexcept { return nullptr; }
  nvinfer1::IPluginResource* acquirePluginResource(const char*, nvinfer1::IPluginResource*) noexcept { return nullptr; }
  std::int32_t releasePluginResource(const char*) noexcept { return 0; }

 private:
  static std::string key(const std::string& name, const std::string& version, const std::string& space) {
    return space + "::" + name + " " + version;
  }

  std::map<std::string, nvinfer1::IPluginCreatorInterface*> creators_;
};

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity, const char* message) noexcept override { messages.emplace_back(message); }
  std::vector<std::string> messages;
};

Logger g_logger;

}  // namespace

extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  static Registry registry;
  return &registry;
}

__attribute__((visibility("default"))) nvinfer1::ILogger* getLogger() noexcept { return &g_logger; }

// For the cases alone.
__attribute__((visibility("default"))) int fakeNumberOfMessages() noexcept {
  return static_cast<int>(g_logger.messages.size());
}

}  // extern "C"
