/* isa_cpu.c: the tables of the CPU backends, and which of them this processor runs. Compiled
 * for the base instruction set, as is everything that runs before the check. */
#include "isa_cpu.h"
#include "avx2_cpu.h"
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

int32_t nib_cpu_max_threads(void)
{
    const int n = omp_get_max_threads();
    return n < 1 ? 1 : n > 1024 ? 1024 : n;
}

const nib_backend nib_backend_cpu_portable = {
    .version = NIB_BACKEND_VERSION,
    .name = "cpu portable",
    .quantize = nib_quantize_portable,
    .dequantize = nib_dequantize_portable,
    .amax = nib_amax_portable,
    .amax_rows = nib_amax_rows_portable,
    .relayout_scales = nib_relayout_scales_cpu,
    .quantize_stats = nib_quantize_stats_portable,
};

#if defined(__x86_64__)
static const nib_backend backend_avx2 = {
    .version = NIB_BACKEND_VERSION,
    .name = "cpu avx2",
    .quantize = nib_quantize_avx2,
    .dequantize = nib_dequantize_avx2,
    .amax = nib_amax_avx2,
    .amax_rows = nib_amax_rows_avx2,
    .relayout_scales = nib_relayout_scales_cpu,
    .quantize_stats = nib_quantize_stats_avx2,
};
#endif

const nib_backend *nib_backend_cpu_avx2(void)
{
#if defined(__x86_64__)
    if (nib_cpu_has_avx2()) return &backend_avx2;
#endif
    return NULL;
}
