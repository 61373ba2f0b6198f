/* isa_cpu.c: the tables of the CPU backends, and which of them this processor runs. Compiled
 * for the base instruction set, as is everything that runs before the check. */
#include "isa_cpu.h"
#include "avx2_cpu.h"
#include "gemm_cpu.h"
#include "gptq_cpu.h"
#include "hessian_cpu.h"
#include "observe_cpu.h"
#include "portable_cpu.h"

#include <omp.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

int nib_cpu_has_avx2(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d; /* clang 14's __builtin_cpu_supports does not know f16c */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
        && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
#else
    return 0;
#endif
}

#if defined(__x86_64__)
/* AVX-512 beside AVX2: what gemm_avx512.c is compiled for. */
static int has_avx512(void)
{
    return nib_cpu_has_avx2() && __builtin_cpu_supports("avx512f")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#endif

int32_t nib_cpu_max_threads(void)
{
    const int n = omp_get_max_threads();
    return n < 1 ? 1 : n > 1024 ? 1024 : n;
}

#define GPTQ_ENTRIES \
    .hessian_add_need = nib_hessian_add_need_cpu, \
    .hessian_clear = nib_hessian_clear_cpu, \
    .hessian_add = nib_hessian_add_cpu, \
    .hessian_add_grouped = nib_hessian_add_grouped_cpu, \
    .hessian_merge = nib_hessian_merge_cpu, \
    .hessian_rotate = nib_hessian_rotate_cpu, \
    .hessian_info = nib_hessian_info_cpu, \
    .hessian_inverse = nib_hessian_inverse_cpu, \
    .gptq_order = nib_gptq_order_cpu, \
    .gptq_factor = nib_gptq_factor_cpu, \
    .find_nonfinite = nib_find_nonfinite_cpu, \
    .gptq_need = nib_gptq_need_cpu, \
    .gptq_measure = nib_gptq_measure_cpu

const nib_backend nib_backend_cpu_portable = {
    .version = NIB_BACKEND_VERSION,
    .name = "cpu portable",
    .quantize = nib_quantize_portable,
    .dequantize = nib_dequantize_portable,
    .amax = nib_amax_portable,
    .amax_rows = nib_amax_rows_portable,
    .relayout_scales = nib_relayout_scales_cpu,
    .quantize_stats = nib_quantize_stats_portable,
    .fake_quantize = nib_fake_quantize_portable,
    .fake_quantize_backward = nib_fake_backward_portable,
    .observe_range = nib_observe_range_cpu,
    .observe_range_rows = nib_observe_range_rows_cpu,
    .observe_ema = nib_observe_ema_cpu,
    .observe_histogram = nib_observe_histogram_cpu,
    .observe_stats = nib_observe_stats_cpu,
    .fake_quantize_steps = nib_fake_steps_portable,
    .fake_quantize_steps_backward = nib_fake_steps_backward_portable,
    .quantize_steps = nib_quantize_steps_portable,
    .dequantize_steps = nib_dequantize_steps_portable,
    .transform_apply = nib_transform_apply_portable,
    .quantize_transformed = nib_quantize_transformed_portable,
    .quantize_grouped = nib_quantize_grouped_portable,
    .amax_grouped = nib_amax_grouped_portable,
    .quantize_both = nib_quantize_both_portable,
    .gemm_tactics = nib_gemm_tactics_cpu,
    .gemm_plan = nib_gemm_plan_cpu,
    .gemm_need = nib_gemm_need_cpu,
    .gemm_backward_need = nib_gemm_backward_need_cpu,
    .gemm_pack = nib_gemm_pack_cpu,
    .gemm_unpack = nib_gemm_unpack_cpu,
    .gemm = nib_gemm_portable,
    .gemm_backward = nib_gemm_backward_portable,
    GPTQ_ENTRIES,
    .gptq_sweep = nib_gptq_sweep_portable,
};

#if defined(__x86_64__)
#define AVX2_ENTRIES \
    .quantize = nib_quantize_avx2, \
    .dequantize = nib_dequantize_avx2, \
    .amax = nib_amax_avx2, \
    .amax_rows = nib_amax_rows_avx2, \
    .relayout_scales = nib_relayout_scales_cpu, \
    .quantize_stats = nib_quantize_stats_avx2, \
    .quantize_measured = nib_quantize_measured_avx2, \
    .fake_quantize = nib_fake_quantize_avx2, \
    .fake_quantize_backward = nib_fake_backward_avx2, \
    .observe_range = nib_observe_range_cpu, \
    .observe_range_rows = nib_observe_range_rows_cpu, \
    .observe_ema = nib_observe_ema_cpu, \
    .observe_histogram = nib_observe_histogram_cpu, \
    .observe_stats = nib_observe_stats_cpu, \
    .fake_quantize_steps = nib_fake_steps_avx2, \
    .fake_quantize_steps_backward = nib_fake_steps_backward_avx2, \
    .quantize_steps = nib_quantize_steps_avx2, \
    .dequantize_steps = nib_dequantize_steps_avx2, \
    .transform_apply = nib_transform_apply_avx2, \
    .quantize_transformed = nib_quantize_transformed_avx2, \
    .quantize_grouped = nib_quantize_grouped_avx2, \
    .amax_grouped = nib_amax_grouped_avx2, \
    .quantize_both = nib_quantize_both_avx2, \
    .gemm_tactics = nib_gemm_tactics_cpu, \
    .gemm_plan = nib_gemm_plan_cpu, \
    .gemm_need = nib_gemm_need_cpu, \
    .gemm_backward_need = nib_gemm_backward_need_cpu, \
    .gemm_pack = nib_gemm_pack_cpu, \
    .gemm_unpack = nib_gemm_unpack_cpu, \
    GPTQ_ENTRIES

static const nib_backend backend_avx2 = {
    .version = NIB_BACKEND_VERSION,
    .name = "cpu avx2",
    AVX2_ENTRIES,
    .gemm = nib_gemm_avx2,
    .gemm_backward = nib_gemm_backward_avx2,
    .gptq_sweep = nib_gptq_sweep_avx2,
};

static const nib_backend backend_avx512 = {
    .version = NIB_BACKEND_VERSION,
    .name = "cpu avx512",
    AVX2_ENTRIES,
    .gemm = nib_gemm_avx512,
    .gemm_backward = nib_gemm_backward_avx512,
    .gptq_sweep = nib_gptq_sweep_avx512,
};
#endif

const nib_backend *nib_backend_cpu_avx2(void)
{
#if defined(__x86_64__)
    if (nib_cpu_has_avx2()) return &backend_avx2;
#endif
    return NULL;
}

const nib_backend *nib_backend_cpu_avx512(void)
{
#if defined(__x86_64__)
    if (has_avx512()) return &backend_avx512;
#endif
    return NULL;
}
