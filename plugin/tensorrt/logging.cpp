#include "logging.h"

#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdio>

#include "attributes.h"

namespace emra {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> g_finder{nullptr};

nvinfer1::ILogger* findLogger() noexcept {
  nvinfer1::ILoggerFinder* const finder = g_finder.load(std::memory_order_acquire);
  if (finder == nullptr) {
    return nullptr;
  }
  try {
    return finder->findLogger();
  } catch (...) {  // findLogger is not declared noexcept, and our caller must not be unwound
    return nullptr;
  }
}

}  // namespace

void useLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept { g_finder.store(finder, std::memory_order_release); }

void log(Severity severity, const char* layer, const char* format, ...) noexcept {
  char message[1024];
  const int prefix = std::snprintf(message, sizeof(message), "%s::%s '%.256s': ", kNamespace, kName, layer);
  if (prefix < 0) {
    return;
  }
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message + prefix, sizeof(message) - static_cast<std::size_t>(prefix), format, arguments);
  va_end(arguments);
  if (nvinfer1::ILogger* const logger = findLogger(); logger != nullptr) {
    logger->log(severity, message);
  } else if (severity <= Severity::kWARNING) {
    std::fprintf(stderr, "%s: %s\n", severity == Severity::kWARNING ? "warning" : "error", message);
  }
}

}  // namespace emra
