/* gptq_span.h: the sweep's inner loops, compiled for each instruction set: the compiler makes the
 * vectors. Products and sums are not fused, so that every set gives the same bits. */
#ifndef NIB_GPTQ_SPAN_H
#define NIB_GPTQ_SPAN_H

#include "gptq_cpu.h"

typedef float float_lanes[NIB_GPTQ_LANES] __attribute__((aligned(64)));

static inline __attribute__((always_inline)) void
units_of(const nib_gptq_job *job, const uint8_t *bytes, float *factor, float *step)
{
    for (int l = 0; l < NIB_GPTQ_LANES; l++) {
        factor[l] = job->factor[bytes[l]];
        step[l] = job->step[bytes[l]];
    }
}

/* The units of a group in use, at element at of the scratch's. Of integers: s and lo - z. */
static inline __attribute__((always_inline)) void
units_at(const nib_gptq_job *job, int kind, const nib_gptq_scratch *s, int64_t at, float *factor,
         float *step)
{
    if (kind != NIB_GPTQ_INTEGER) {
        units_of(job, s->scales + at, factor, step);
        return;
    }
    memcpy(factor, s->steps + at, sizeof(float_lanes));
    memcpy(step, s->lows + at, sizeof(float_lanes));
}

/* Codes and values of finite x by steps factor and step, which is lo - z. */
static inline __attribute__((always_inline)) void
round_integers(const nib_gptq_job *job, const float *x, const float *factor, const float *step,
               uint8_t *code, float *value)
{
    const nib_grid grid = job->grid;
    int32_t wide[NIB_GPTQ_LANES] __attribute__((aligned(64)));
#pragma omp simd
    for (int l = 0; l < NIB_GPTQ_LANES; l++) {
        const nib_step unit = { factor[l], step[l], step[l] + (grid.hi - grid.lo), 0 };
        const float v = nib_grid_integer(unit, x[l] / factor[l]);
        value[l] = v * factor[l];
        wide[l] = nib_step_code(&grid, step[l], v);
    }
#pragma omp simd
    for (int l = 0; l < NIB_GPTQ_LANES; l++) code[l] = (uint8_t)wide[l];
}

/* nib_block_code and nib_block_value of finite x. kind: the job's, as a constant. */
static inline __attribute__((always_inline)) void
round_lanes(const nib_gptq_job *job, int kind, const float *x, const float *factor,
            const float *step, uint8_t *code, float *value)
{
    const int divide = job->divide;
    if (kind == NIB_GPTQ_INTEGER) {
        round_integers(job, x, factor, step, code, value);
        return;
    }
    const nib_element_traits t =
        nib_element_traits_of(kind == NIB_GPTQ_E2M1 ? NIB_EL_E2M1 : job->math.rules.element);
    if (kind == NIB_GPTQ_ANY) {
        for (int l = 0; l < NIB_GPTQ_LANES; l++) {
            const nib_block_unit unit = { factor[l], divide };
            code[l] = (uint8_t)nib_block_code(&job->math, unit, x[l], 0, 0);
            value[l] = nib_block_value(job->math.rules.element, code[l], step[l]);
        }
        return;
    }
    const uint32_t keep = 0u - (uint32_t)job->keep;
    float_lanes scaled;
    uint32_t wide[NIB_GPTQ_LANES] __attribute__((aligned(64)));
    if (divide)
#pragma omp simd
        for (int l = 0; l < NIB_GPTQ_LANES; l++) scaled[l] = x[l] / factor[l];
    else
#pragma omp simd
        for (int l = 0; l < NIB_GPTQ_LANES; l++) scaled[l] = x[l] * factor[l];
#pragma omp simd
    for (int l = 0; l < NIB_GPTQ_LANES; l++) {
        const uint32_t number = 0u - (uint32_t)!nib_is_nan(scaled[l]); /* 0 / 0 becomes 0 */
        const uint32_t y = nib_bits_of(scaled[l]) & number, a = y & 0x7fffffffu;
        float rounded;
        const uint32_t magnitude = nib_round_nearest(t, nib_float_of(a), &rounded);
        const uint32_t sign = y >> 31 & (keep | (uint32_t)(a != 0));
        value[l] = nib_float_of(nib_bits_of(rounded) | sign << 31) * step[l];
        wide[l] = magnitude | sign << (t.bits - 1);
    }
#pragma omp simd
    for (int l = 0; l < NIB_GPTQ_LANES; l++) code[l] = (uint8_t)wide[l];
}

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#ifdef __has_builtin
#define HAS_SHUFFLES __has_builtin(__builtin_shufflevector) /* gcc: from 12 on */
#else
#define HAS_SHUFFLES 0
#endif

#define REAL float
#define NAME(x) x##_f32
#include "gptq_lanes.h"
#undef REAL
#undef NAME
#define REAL double
#define NAME(x) x##_f64
#include "gptq_lanes.h"
#undef REAL
#undef NAME

static inline void gptq_block(const nib_gptq_job *job, nib_gptq_scratch *s, int rows, int64_t first,
                              int64_t last, int64_t *segment)
{
    (job->f64 ? block_f64 : block_f32)(job, s, rows, first, last, *segment);
    while (job->segments[*segment] < last) ++*segment;
}

static inline void gptq_scales(const nib_gptq_job *job, nib_gptq_scratch *s, int rows)
{
    (job->f64 ? scales_f64 : scales_f32)(job, s, rows);
}

#endif
