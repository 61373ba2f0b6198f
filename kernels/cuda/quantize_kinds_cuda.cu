/* quantize_kinds_cuda.cu: quantize_e2m1 with scales of 16 rows, with searched and given scales and
 * with stochastic rounding, for the ways whose codes go to the nearest and break ties to even. Any
 * other call is quantize_any's. */
#include "ops_cuda.cuh"
#include "quantize_e2m1.cuh"

#define ROW(dtype, kind) \
    { quantize_e2m1<dtype, WAY_TE, kind>, nullptr, quantize_e2m1<dtype, WAY_MX, kind>, nullptr }
#define ROW_DIVIDE(dtype, kind) \
    { quantize_e2m1<dtype, WAY_TE, kind>, quantize_e2m1<dtype, WAY_DIVIDE, kind>, \
      quantize_e2m1<dtype, WAY_MX, kind>, nullptr }
#define ROW_E4M3(dtype, kind) \
    { quantize_e2m1<dtype, WAY_TE, kind>, quantize_e2m1<dtype, WAY_DIVIDE, kind>, nullptr, nullptr }
#define KIND(ROW, kind) { ROW(NIB_DT_F32, kind), ROW(NIB_DT_F16, kind), ROW(NIB_DT_BF16, kind) }

quantize_kernel nib_cuda_quantize_kind(int kind, int dtype, int way)
{
    static const quantize_kernel kernels[KINDS - 1][3][4] = {
        KIND(ROW, KIND_SQUARE), KIND(ROW, KIND_RANDOM), KIND(ROW_DIVIDE, KIND_MSE),
        KIND(ROW_E4M3, KIND_FOUR_OVER_SIX_MSE), KIND(ROW_E4M3, KIND_FOUR_OVER_SIX_MAE),
        KIND(ROW, KIND_GIVEN)
    };
    return kernels[kind - 1][dtype][way];
}
