/* C interface of the attention-aggregation kernels: device pointers and a stream, no TensorRT, no PyTorch.
 *
 * With A(l, n) = softmax(Q K^T * scale), T x T, of block l and head n (docs/decisions/0009 and training/model/aggregation.py):
 *
 *     c2p = mean over l, n of A[:C, C:]                 C x N
 *     GCA = mean over l, n of A[C:, C:] @ c2p^T         N x C, written as C x N
 *
 * All functions are safe to call from several threads. None allocates device memory, synchronises, or throws.
 */
#ifndef EMRA_ATTENTION_AGGREGATION_H_
#define EMRA_ATTENTION_AGGREGATION_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EMRA_API __declspec(dllexport)
#else
#define EMRA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a caller compiled against an older header would misread this one. */
#define EMRA_AGGREGATION_VERSION 1

/* Most blocks whose attention one call aggregates (P). */
#define EMRA_MAX_BLOCKS 12

/* Most class tokens (C). */
#define EMRA_MAX_CLASS_TOKENS 32

/* Element type of the packed qkv tensors. Softmax and sums are FP32 for both; the output is always FP32, because
 * GCA is of the order of 1 / N, where FP16 loses digits. */
enum EmraType { EMRA_FP32 = 0, EMRA_FP16 = 1 };

struct EmraAggregationShape {
  int32_t batch;            /* B >= 1 */
  int32_t tokens;           /* T = C + N, at least C + 1 */
  int32_t num_class_tokens; /* C, 1 to 32: the first C of the T tokens */
  int32_t num_heads;        /* heads per block */
  int32_t head_width;       /* 32, 64, 80 or 128 */
  int32_t num_blocks;       /* P, 1 to 12 */
  float scale;              /* factor on Q K^T, positive; usually head_width ** -0.5 */
  int32_t type;             /* EmraType */
};

#ifndef __cplusplus
typedef struct EmraAggregationShape EmraAggregationShape;
typedef enum EmraType EmraType;
#endif

/* EMRA_AGGREGATION_VERSION of the library that was loaded. */
EMRA_API int emra_aggregation_version(void);

/* NULL when the shape is supported, else a static text saying what is expected. */
EMRA_API const char* emra_aggregation_check(const EmraAggregationShape* shape);

/* Bytes of device memory that a launch of this shape needs; depends on the shape alone. 0 for an unsupported shape.
 * It grows with (T + heads * P) * C and never with T * T. */
EMRA_API size_t emra_aggregation_workspace(const EmraAggregationShape* shape);

/* Enqueues the aggregation on `stream` and returns at once; may be captured in a CUDA graph.
 *
 * qkv:       host array of num_blocks device pointers, each B x T x 3 * num_heads * head_width, contiguous, 16-byte
 *            aligned: q, k, v one after the other, each num_heads x head_width, as the qkv linear wrote them. v is
 *            never read. The array itself may be freed when the call returns.
 * gca:       device pointer, B x C x N floats; every element is written.
 * workspace: device pointer, emra_aggregation_workspace(shape) bytes, 256-byte aligned; need not be initialised. Two
 *            launches that may run at the same time need two workspaces.
 * stream:    cudaStream_t.
 *
 * Returns a cudaError_t: cudaErrorInvalidValue for an unsupported shape or a null or misaligned pointer. The result of
 * one shape on one device model is bitwise repeatable: no atomics. */
EMRA_API int emra_aggregation_launch(const EmraAggregationShape* shape, const void* const* qkv, float* gca,
                                     void* workspace, void* stream);

#ifdef __cplusplus
}
#endif

#endif /* EMRA_ATTENTION_AGGREGATION_H_ */
