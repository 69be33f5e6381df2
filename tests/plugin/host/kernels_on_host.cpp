// The kernels' C interface on host memory: a test double, so that the plugin's own code is run where there is no GPU.
//
// It computes the formula of attention_aggregation.h in FP64, the plain way. What a device would refuse, it refuses
// too: null and misaligned pointers. Tests of the kernels themselves are elsewhere.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention_aggregation.h"

namespace {

constexpr int kCudaErrorInvalidValue = 1;
constexpr std::size_t kWorkspaceAlignment = 256;

float halfToFloat(std::uint16_t bits) {
  const int sign = (bits & 0x8000) != 0 ? -1 : 1;
  const int exponent = (bits >> 10) & 0x1f;
  const int mantissa = bits & 0x3ff;
  if (exponent == 31) {
    return mantissa != 0 ? NAN : static_cast<float>(sign) * INFINITY;
  }
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                        : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return static_cast<float>(sign) * magnitude;
}

// One packed qkv tensor, B x T x 3 * heads * width.
class PackedQkv {
 public:
  PackedQkv(const EmraAggregationShape& shape, const void* data) : shape_(shape), data_(data) {}

  double at(std::int64_t batch, std::int64_t token, int which, std::int64_t head, std::int64_t column) const {
    const std::int64_t width = std::int64_t{shape_.num_heads} * shape_.head_width;
    const std::int64_t index =
        (batch * shape_.tokens + token) * 3 * width + which * width + head * shape_.head_width + column;
    if (shape_.type == EMRA_FP16) {
      return static_cast<double>(halfToFloat(static_cast<const std::uint16_t*>(data_)[index]));
    }
    return static_cast<double>(static_cast<const float*>(data_)[index]);
  }

 private:
  EmraAggregationShape shape_;
  const void* data_;
};

// softmax(Q K^T * scale) of one head, T x T.
std::vector<double> attentionOf(const EmraAggregationShape& shape, const PackedQkv& qkv, std::int64_t batch,
                                std::int64_t head) {
  const auto tokens = static_cast<std::size_t>(shape.tokens);
  std::vector<double> rows(tokens * tokens);
  for (std::size_t i = 0; i < tokens; ++i) {
    double largest = -INFINITY;
    for (std::size_t j = 0; j < tokens; ++j) {
      double product = 0.0;
      for (std::int64_t column = 0; column < shape.head_width; ++column) {
        product += qkv.at(batch, static_cast<std::int64_t>(i), 0, head, column) *
                   qkv.at(batch, static_cast<std::int64_t>(j), 1, head, column);
      }
      rows[i * tokens + j] = product * static_cast<double>(shape.scale);
      largest = std::fmax(largest, rows[i * tokens + j]);
    }
    double sum = 0.0;
    for (std::size_t j = 0; j < tokens; ++j) {
      rows[i * tokens + j] = std::exp(rows[i * tokens + j] - largest);
      sum += rows[i * tokens + j];
    }
    for (std::size_t j = 0; j < tokens; ++j) {
      rows[i * tokens + j] /= sum;
    }
  }
  return rows;
}

void aggregate(const EmraAggregationShape& shape, const void* const* qkv, std::int64_t batch, float* gca) {
  const auto tokens = static_cast<std::size_t>(shape.tokens);
  const auto classes = static_cast<std::size_t>(shape.num_class_tokens);
  const std::size_t patches = tokens - classes;
  std::vector<double> mean(tokens * tokens);
  for (std::int32_t block = 0; block < shape.num_blocks; ++block) {
    const PackedQkv packed(shape, qkv[block]);
    for (std::int32_t head = 0; head < shape.num_heads; ++head) {
      const std::vector<double> rows = attentionOf(shape, packed, batch, head);
      for (std::size_t i = 0; i < mean.size(); ++i) {
        mean[i] += rows[i] / (static_cast<double>(shape.num_blocks) * shape.num_heads);
      }
    }
  }
  for (std::size_t c = 0; c < classes; ++c) {
    for (std::size_t n = 0; n < patches; ++n) {
      double sum = 0.0;
      for (std::size_t m = 0; m < patches; ++m) {
        sum += mean[(classes + n) * tokens + classes + m] * mean[c * tokens + classes + m];
      }
      gca[c * patches + n] = static_cast<float>(sum);
    }
  }
}

bool isAligned(const void* pointer, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0;
}

}  // namespace

extern "C" {

int emra_aggregation_version(void) { return EMRA_AGGREGATION_VERSION; }

const char* emra_aggregation_check(const EmraAggregationShape* shape) {
  if (shape == nullptr) return "expected a shape";
  if (shape->batch < 1) return "expected a batch of 1 or more";
  if (shape->num_class_tokens < 1 || shape->num_class_tokens > EMRA_MAX_CLASS_TOKENS)
    return "expected 1 to 32 class tokens";
  if (shape->tokens <= shape->num_class_tokens) return "expected more tokens than class tokens";
  if (shape->num_heads < 1) return "expected 1 head or more";
  if (shape->head_width != 32 && shape->head_width != 64 && shape->head_width != 80 && shape->head_width != 128)
    return "expected a head width of 32, 64, 80 or 128";
  if (shape->num_blocks < 1 || shape->num_blocks > EMRA_MAX_BLOCKS) return "expected 1 to 12 blocks";
  if (!(shape->scale > 0.0F) || !std::isfinite(shape->scale)) return "expected a positive scale";
  if (shape->type != EMRA_FP32 && shape->type != EMRA_FP16) return "expected FP32 or FP16";
  return nullptr;
}

size_t emra_aggregation_workspace(const EmraAggregationShape* shape) {
  if (emra_aggregation_check(shape) != nullptr) return 0;
  // Like the kernels, it needs more for some small batches than for larger ones.
  const std::size_t parts = shape->batch < 9 ? 24 : 0;
  const auto batch = static_cast<std::size_t>(shape->batch);
  return kWorkspaceAlignment * (batch + parts) * static_cast<std::size_t>(shape->tokens);
}

int emra_aggregation_launch(const EmraAggregationShape* shape, const void* const* qkv, float* gca, void* workspace,
                            void* stream) {
  if (emra_aggregation_check(shape) != nullptr || qkv == nullptr || gca == nullptr || workspace == nullptr ||
      !isAligned(workspace, kWorkspaceAlignment) || stream == nullptr)
    return kCudaErrorInvalidValue;
  for (std::int32_t block = 0; block < shape->num_blocks; ++block) {
    if (qkv[block] == nullptr || !isAligned(qkv[block], 16)) return kCudaErrorInvalidValue;
  }
  // Every byte that was asked for is written, so that a workspace of fewer bytes is found by the address sanitizer.
  std::memset(workspace, 0xff, emra_aggregation_workspace(shape));
  const std::int64_t patches = std::int64_t{shape->tokens} - shape->num_class_tokens;
  for (std::int64_t batch = 0; batch < shape->batch; ++batch) {
    aggregate(*shape, qkv, batch, gca + batch * shape->num_class_tokens * patches);
  }
  return 0;
}

}  // extern "C"
