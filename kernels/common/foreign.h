/* foreign.h: decoders of ggml's block types, the ones that GGUF files bring.
 *
 * Each takes one block of bytes and writes its elements as f32. Layouts: GGUF's
 * documentation and ggml-common.h; every formula below is that of ggml's reference decoder,
 * in its order of f32 operations.
 */
#ifndef NIB_FOREIGN_H
#define NIB_FOREIGN_H

#include "half.h"
#include "scale.h"

/* ggml's type numbers. */
enum {
    NIB_GGML_F32 = 0, NIB_GGML_F16 = 1, NIB_GGML_Q4_0 = 2, NIB_GGML_Q4_1 = 3,
    NIB_GGML_Q5_0 = 6, NIB_GGML_Q5_1 = 7, NIB_GGML_Q8_0 = 8, NIB_GGML_Q4_K = 12,
    NIB_GGML_Q5_K = 13, NIB_GGML_Q6_K = 14, NIB_GGML_BF16 = 30, NIB_GGML_MXFP4 = 39,
    NIB_GGML_NVFP4 = 40
};

#endif
