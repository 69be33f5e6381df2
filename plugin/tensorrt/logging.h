// Messages of the plugin, to the logger of TensorRT's finder, or to stderr if it has none. It has one inside engines
// and contexts; while a network is parsed and the plugin is created from a node's attributes, it returns null.
#pragma once

#include <NvInferRuntime.h>

namespace emra {

using Severity = nvinfer1::ILogger::Severity;

// What TensorRT passes to the exported setLoggerFinder. A null finder sends messages to stderr again.
void useLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// Writes "emra::AttentionAggregation 'LAYER': MESSAGE". At most 1,023 bytes. It neither allocates nor throws,
// because it is called when memory has run out. Without a logger, only warnings and errors are printed.
[[gnu::format(printf, 3, 4)]] void log(Severity severity, const char* layer, const char* format, ...) noexcept;

}  // namespace emra
