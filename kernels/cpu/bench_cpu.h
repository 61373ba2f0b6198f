/* bench_cpu.h: the loops behind nib_bench_cpu, for one thread's part. */
#ifndef NIB_BENCH_CPU_H
#define NIB_BENCH_CPU_H

#include <stddef.h>
#include <stdint.h>

#define NIB_BENCH_GRAIN  256 /* bytes: a part is a multiple of it, 64-byte aligned */
#define NIB_BENCH_FILL   0x55 /* not 0: some processors (seen on a Zen 5) drop lines of zeros on
                                 the way to memory, which doubles the apparent bandwidth */
#define NIB_BENCH_CHAINS 96  /* independent multiply-adds of one iteration */

typedef struct nib_bench_loops {
    uint32_t (*read)(const void *src, size_t bytes);
    void     (*nt_copy)(void *dst, const void *src, size_t bytes);
    void     (*nt_fill)(void *dst, size_t bytes);
    float    (*fma)(int64_t iterations); /* the result keeps the loop alive */
} nib_bench_loops;

/* blas_cpu.c: as nib_bench_ops says. */
const char *nib_bench_gemm_missing(void);
const char *nib_bench_gemm_core(void);
void nib_bench_gemm(int64_t m, int64_t n, int64_t k, const float *a, const float *w, float *d,
                    int32_t threads);
void nib_bench_potrf(int64_t n, float *a, int32_t threads);
void nib_bench_syrk(int64_t n, int64_t k, const float *x, float *h, int32_t threads);

#if defined(__x86_64__)
extern const nib_bench_loops nib_bench_loops_avx2;
#endif

#endif
