/* quantize_cpu.c: quantize in plain C, every format and every rule. */
#include "quantize_cpu.h"
#include "portable_cpu.h"
#include "tasks_cpu.h"

/* Largest magnitude among finite elements, as bits; *special is set when another was seen. */
static inline uint32_t block_amax(const float *x, int n, int *special)
{
    uint32_t a = 0;
    int seen = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t bits = nib_magnitude_bits(x[i]);
        const int finite = bits < NIB_F32_INF_BITS;
        seen |= !finite;
        a = finite && bits > a ? bits : a;
    }
    *special = seen;
    return a;
}

/* One block of n elements. math is a copy whose fields the compiler may know. A block whose
 * scale is NaN has no values, so its codes are written as 0. */
static inline __attribute__((always_inline)) void
quantize_block(const nib_quantize_job *job, const nib_tensor_math *math, int choice,
               int stochastic, int64_t row, int64_t k)
{
    const int block = math->rules.block, bits = nib_element_traits_of(math->rules.element).bits;
    const int64_t col = k * block, left = job->dst->cols - col;
    const int n = left < block ? (int)left : block;
    const int64_t at = row * job->src->ld_elems + col;
    const int dtype = (int)job->src->dtype;
    float x[NIB_MAX_BLOCK];
    uint8_t codes[NIB_MAX_BLOCK];
    int special;

    if (dtype == NIB_DT_F32) memcpy(x, (const float *)job->src->data + at, (size_t)n * sizeof *x);
    else for (int i = 0; i < n; i++) x[i] = nib_load_f32(dtype, job->src->data, at + i);

    const float amax = nib_float_of(block_amax(x, n, &special));
    const int is_nan = special && math->rules.nonfinite == NIB_NF_NAN;
    const uint32_t byte = is_nan ? nib_scale_nan_byte(math->rules.e4m3_scale)
                        : choice == NIB_SC_AMAX ? nib_block_scale(math, amax)
                                                : nib_block_search(math, choice, x, n, amax);
    for (int i = n; i < (n + 3) / 4 * 4; i++) codes[i] = 0;
    if (is_nan) {
        memset(codes, 0, (size_t)n);
    } else if (stochastic) {
        const nib_block_unit unit = nib_block_unit_of(math, byte);
        const uint64_t first = (uint64_t)row * (uint64_t)job->dst->cols + (uint64_t)col;
        for (int i = 0; i < n; i++) {
            const uint32_t word = nib_random_word(job->seed, job->offset, first + (uint64_t)i);
            codes[i] = (uint8_t)nib_block_code(math, unit, x[i], 1, word);
        }
    } else {
        const nib_block_unit unit = nib_block_unit_of(math, byte);
        for (int i = 0; i < n; i++) codes[i] = (uint8_t)nib_block_code(math, unit, x[i], 0, 0);
    }
    uint8_t *out = job->dst->codes + row * job->dst->ld_codes_bytes + col / 8 * bits;
    nib_pack_codes(bits, job->dst->code_order == NIB_CODES_GGUF_HALVES, codes, n, out);
    nib_quantize_store_scale(job, row, k, byte);
}

/* The same with the element and the scale type known, and the usual rounding. */
static inline __attribute__((always_inline)) void
common_span(const nib_quantize_job *job, int64_t row, int64_t first, int64_t last, int element,
            int e4m3_scale)
{
    nib_tensor_math math = job->math;
    math.rules.element = element;
    math.rules.e4m3_scale = e4m3_scale;
    math.rules.ties = NIB_TIE_EVEN;
    math.rules.zero_sign = NIB_Z_KEEP;
    for (int64_t k = first; k < last; k++) quantize_block(job, &math, NIB_SC_AMAX, 0, row, k);
}

void nib_quantize_span_portable(const nib_quantize_job *job, int64_t row, int64_t first,
                                int64_t last)
{
    const nib_block_rules *r = &job->math.rules;
    if (job->choice == NIB_SC_AMAX && !job->stochastic && r->ties == NIB_TIE_EVEN
        && r->zero_sign == NIB_Z_KEEP) {
        switch (r->element * 2 + r->e4m3_scale) {
        case NIB_EL_E2M1 * 2:     common_span(job, row, first, last, NIB_EL_E2M1, 0); return;
        case NIB_EL_E2M1 * 2 + 1: common_span(job, row, first, last, NIB_EL_E2M1, 1); return;
        case NIB_EL_E2M3 * 2:     common_span(job, row, first, last, NIB_EL_E2M3, 0); return;
        case NIB_EL_E2M3 * 2 + 1: common_span(job, row, first, last, NIB_EL_E2M3, 1); return;
        case NIB_EL_E3M2 * 2:     common_span(job, row, first, last, NIB_EL_E3M2, 0); return;
        case NIB_EL_E4M3 * 2:     common_span(job, row, first, last, NIB_EL_E4M3, 0); return;
        case NIB_EL_E4M3 * 2 + 1: common_span(job, row, first, last, NIB_EL_E4M3, 1); return;
        case NIB_EL_E5M2 * 2:     common_span(job, row, first, last, NIB_EL_E5M2, 0); return;
        default: break; /* not a named format */
        }
    }
    for (int64_t k = first; k < last; k++) {
        quantize_block(job, &job->math, job->choice, job->stochastic, row, k);
    }
}

nib_status nib_quantize_run(const nib_launch *launch, const nib_matrix *src,
                            const nib_quantize_request *request, const nib_packed *dst,
                            nib_quantize_span span)
{
    const nib_block_rules rules = nib_block_rules_of(dst->format, &request->rules,
                                                     request->scale_choice, src->dtype);
    nib_tensor_scales scales = { 1.0f, 1.0f };
    if (dst->tensor_scale && request->tensor_amax) {
        scales = nib_tensor_factors(&rules, *request->tensor_amax);
        *dst->tensor_scale = scales.decode;
    } else if (dst->tensor_scale) {
        scales = nib_tensor_given(*dst->tensor_scale);
    }
    const nib_quantize_job job = {
        .math = nib_tensor_math_of(&rules, scales),
        .choice = (int)request->scale_choice,
        .stochastic = request->rounding == NIB_ROUND_STOCHASTIC,
        .bits = nib_part_bits(dst->format),
        .scale_cols = nib_ceil_div(dst->cols, rules.block),
        .seed = request->random ? request->random[0] : 0,
        .offset = request->random ? request->random[1] : 0,
        .src = src,
        .dst = dst,
    };
    const nib_tasks tasks = nib_tasks_of(dst->rows, dst->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < tasks.count; i++) {
        const nib_task t = nib_task_at(&tasks, i);
        const int64_t first = t.col0 / rules.block, last = nib_ceil_div(t.col1, rules.block);
        for (int64_t row = t.row0; row < t.row1; row++) span(&job, row, first, last);
    }
    if (dst->scale_layout == NIB_SCALES_SWIZZLED_128X4) {
        nib_zero_scale_padding(dst->rows, job.scale_cols, dst->scales, launch->threads);
    }
    return NIB_OK;
}

nib_status nib_quantize_portable(const nib_launch *launch, const nib_matrix *src,
                                 const nib_quantize_request *request, const nib_packed *dst)
{
    return nib_quantize_run(launch, src, request, dst, nib_quantize_span_portable);
}
