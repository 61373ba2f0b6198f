/* bench_cpu.c: memory and arithmetic limits of this machine, threads on equal parts. */
#include <string.h>

#include <omp.h>

#include "bench_cpu.h"
#include "isa_cpu.h"

/* Results go here, so that no loop can be dropped as unused. */
static volatile uint32_t sink;

static uint32_t plain_read(const void *src, size_t bytes)
{
    const uint8_t *p = src;
    uint32_t sum = 0;
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        uint32_t word;
        memcpy(&word, p + i, 4);
        sum += word;
    }
    return sum;
}

static void plain_copy(void *dst, const void *src, size_t bytes) { memcpy(dst, src, bytes); }
static void plain_fill(void *dst, size_t bytes) { memset(dst, NIB_BENCH_FILL, bytes); }

static float plain_fma(int64_t iterations)
{
    float x[NIB_BENCH_CHAINS];
    for (int c = 0; c < NIB_BENCH_CHAINS; c++) x[c] = (float)c;
    for (int64_t i = 0; i < iterations; i++) {
        for (int c = 0; c < NIB_BENCH_CHAINS; c++) x[c] = x[c] * 0.999f + 0.5f;
    }
    float sum = 0;
    for (int c = 0; c < NIB_BENCH_CHAINS; c++) sum += x[c];
    return sum;
}

static const nib_bench_loops plain = { plain_read, plain_copy, plain_fill, plain_fma };

/* Found once: in a virtual machine each cpuid costs microseconds. */
static const nib_bench_loops *best_loops(void)
{
    static const nib_bench_loops *found;
    const nib_bench_loops *best = __atomic_load_n(&found, __ATOMIC_RELAXED);
    if (best) return best;
    best = &plain;
#if defined(__x86_64__)
    if (nib_cpu_has_avx2()) best = &nib_bench_loops_avx2;
#endif
    __atomic_store_n(&found, best, __ATOMIC_RELAXED);
    return best;
}

/* This thread's bytes: whole grains in [0, *whole), what is left of the last in [*whole, *n). */
static size_t own_part(size_t bytes, size_t *whole, size_t *n)
{
    const size_t t = (size_t)omp_get_thread_num(), team = (size_t)omp_get_num_threads();
    const size_t grains = bytes / NIB_BENCH_GRAIN;
    const size_t first = grains * t / team * NIB_BENCH_GRAIN;
    const size_t last = grains * (t + 1) / team * NIB_BENCH_GRAIN;
    *whole = last - first;
    *n = t == team - 1 ? bytes - first : *whole;
    return first;
}

static void bench_read(const void *src, size_t bytes, int32_t threads)
{
    const nib_bench_loops *loops = best_loops();
#pragma omp parallel num_threads(threads)
    {
        size_t whole, n;
        const uint8_t *p = (const uint8_t *)src + own_part(bytes, &whole, &n);
        const uint32_t sum = loops->read(p, whole) + plain_read(p + whole, n - whole);
        __atomic_store_n(&sink, sum, __ATOMIC_RELAXED);
    }
}

static void bench_copy(void *dst, const void *src, size_t bytes, int32_t threads)
{
#pragma omp parallel num_threads(threads)
    {
        size_t whole, n;
        const size_t first = own_part(bytes, &whole, &n);
        memcpy((uint8_t *)dst + first, (const uint8_t *)src + first, n);
    }
}

static void bench_nt_copy(void *dst, const void *src, size_t bytes, int32_t threads)
{
    const nib_bench_loops *loops = best_loops();
#pragma omp parallel num_threads(threads)
    {
        size_t whole, n;
        const size_t first = own_part(bytes, &whole, &n);
        uint8_t *to = (uint8_t *)dst + first;
        const uint8_t *from = (const uint8_t *)src + first;
        loops->nt_copy(to, from, whole);
        memcpy(to + whole, from + whole, n - whole);
    }
}

static void bench_nt_fill(void *dst, size_t bytes, int32_t threads)
{
    const nib_bench_loops *loops = best_loops();
#pragma omp parallel num_threads(threads)
    {
        size_t whole, n;
        uint8_t *to = (uint8_t *)dst + own_part(bytes, &whole, &n);
        loops->nt_fill(to, whole);
        memset(to + whole, NIB_BENCH_FILL, n - whole);
    }
}

static double bench_fma_flops(int64_t iterations, int32_t threads)
{
    const nib_bench_loops *loops = best_loops();
    int team = 1;
#pragma omp parallel num_threads(threads)
    {
        const float sum = loops->fma(iterations);
        __atomic_store_n(&sink, (uint32_t)(sum > 0.0f), __ATOMIC_RELAXED);
#pragma omp single
        team = omp_get_num_threads();
    }
    return 2.0 * NIB_BENCH_CHAINS * (double)iterations * team;
}

const nib_bench_ops nib_bench_cpu = {
    .read = bench_read,
    .copy = bench_copy,
    .nt_copy = bench_nt_copy,
    .nt_fill = bench_nt_fill,
    .fma_flops = bench_fma_flops,
    .gemm_missing = nib_bench_gemm_missing,
    .gemm_core = nib_bench_gemm_core,
    .gemm = nib_bench_gemm,
    .potrf = nib_bench_potrf,
    .syrk = nib_bench_syrk,
};
