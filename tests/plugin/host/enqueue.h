// One layer from attributes to numbers, through every step that TensorRT takes.
#pragma once

#include <string>

namespace host {

// Reads int32 batch, tokens, classes, heads, width, blocks, type (EmraType), float scale, then the blocks' packed qkv;
// writes GCA, float32. Throws std::runtime_error at the first step that fails.
void enqueueFile(const std::string& library, const std::string& input, const std::string& output);

}  // namespace host
