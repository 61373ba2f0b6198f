/* qbench_objects.c: the matrices of a case, their contents, and how far results lie apart. */
#include <math.h>
#include <string.h>

#include "qbench.h"

int64_t nib_qb_matrix_bytes(const nib_qb_case *c)
{
    int64_t bytes;
    const int64_t element = c->value[NIB_QB_DTYPE] == NIB_F32 ? 4 : 2;
    if (__builtin_mul_overflow(c->value[NIB_QB_ROWS], c->value[NIB_QB_COLS], &bytes)
        || __builtin_mul_overflow(bytes, element, &bytes)
        || __builtin_mul_overflow(bytes, c->value[NIB_QB_BATCH], &bytes))
        return -1;
    return bytes;
}

int64_t nib_qb_scales_bytes(const nib_qb_case *c)
{
    return nib_scales_bytes((nib_format)c->value[NIB_QB_FORMAT],
                            (nib_scale_layout)c->value[NIB_QB_LAYOUT], c->value[NIB_QB_ROWS],
                            c->value[NIB_QB_COLS]);
}

static int64_t codes_bytes(const nib_qb_case *c)
{
    return c->value[NIB_QB_ROWS]
         * nib_codes_row_bytes((nib_format)c->value[NIB_QB_FORMAT], c->value[NIB_QB_COLS]);
}

nib_matrix nib_qb_matrix_of(const nib_qb_call *call)
{
    const int64_t *value = call->c->value;
    return (nib_matrix){ call->part[NIB_QB_MATRIX], (nib_dtype)value[NIB_QB_DTYPE],
                         value[NIB_QB_ROWS], value[NIB_QB_COLS], value[NIB_QB_COLS] };
}

nib_packed nib_qb_packed_of(const nib_qb_call *call)
{
    const int64_t *value = call->c->value;
    const nib_format format = (nib_format)value[NIB_QB_FORMAT];
    return (nib_packed){
        .size = sizeof(nib_packed),
        .format = format,
        .code_order = NIB_CODES_PAIRS,
        .scale_layout = (nib_scale_layout)value[NIB_QB_LAYOUT],
        .rows = value[NIB_QB_ROWS],
        .cols = value[NIB_QB_COLS],
        .codes = call->part[NIB_QB_CODES],
        .ld_codes_bytes = nib_codes_row_bytes(format, value[NIB_QB_COLS]),
        .scales = call->part[NIB_QB_SCALES],
        .tensor_scale = nib_format_has_tensor_scale(format) ? call->part[NIB_QB_TENSOR] : NULL,
    };
}

nib_batch nib_qb_batch_of(const nib_qb_case *c)
{
    return (nib_batch){
        .size = sizeof(nib_batch),
        .count = c->value[NIB_QB_BATCH],
        .matrix_stride_elems = c->value[NIB_QB_ROWS] * c->value[NIB_QB_COLS],
        .codes_stride_bytes = codes_bytes(c),
        .scales_stride_bytes = nib_qb_scales_bytes(c),
        .tensor_stride = 1,
    };
}

/* The matrix, and what packs it, each of the whole batch. Roles are the op's business. */
nib_status nib_qb_packed_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const int64_t batch = c->value[NIB_QB_BATCH], scales = nib_qb_scales_bytes(c);
    part[NIB_QB_MATRIX].bytes = nib_qb_matrix_bytes(c);
    if (part[NIB_QB_MATRIX].bytes < 0 || scales < 0) return NIB_ERR_SHAPE;
    part[NIB_QB_CODES].bytes = codes_bytes(c) * batch; /* smaller than the matrix */
    if (__builtin_mul_overflow(scales, batch, &part[NIB_QB_SCALES].bytes)) return NIB_ERR_SHAPE;
    if (nib_format_has_tensor_scale((nib_format)c->value[NIB_QB_FORMAT]))
        part[NIB_QB_TENSOR].bytes = batch * (int64_t)sizeof(float);
    return NIB_OK;
}

void nib_qb_bell_shaped(float *x, int64_t n, uint64_t *state)
{
    for (int64_t i = 0; i < n; i++) {
        *state += 0x9e3779b97f4a7c15u; /* splitmix64, Steele et al. 2014 */
        uint64_t z = *state;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        const int64_t sum = (int64_t)(z & 0xffff) + (int64_t)(z >> 16 & 0xffff)
                          + (int64_t)(z >> 32 & 0xffff) + (int64_t)(z >> 48);
        x[i] = (float)(sum - 131070) * 0x1p-20f;
    }
}

nib_status nib_qb_fill_matrix(const nib_qb_call *call)
{
    enum { CHUNK = 4096 };
    const nib_matrix m = nib_qb_matrix_of(call);
    const int64_t n = m.rows * m.cols * call->c->value[NIB_QB_BATCH];
    const size_t element = m.dtype == NIB_F32 ? 4 : 2;
    float chunk[CHUNK];
    uint64_t state = 1;
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t some = n - i < CHUNK ? n - i : CHUNK;
        nib_qb_bell_shaped(chunk, some, &state);
        nib_scalar_cpu.from_f32(m.dtype, chunk, some, (uint8_t *)m.data + (size_t)i * element);
    }
    return NIB_OK;
}

/* ---- distances ---- */

static double largest_difference(const float *a, const float *b, int64_t n)
{
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a) == 0) continue;
        const double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= largest)) largest = isnan(d) ? (double)INFINITY : d;
    }
    return largest;
}

nib_status nib_qb_matrix_distance(const nib_qb_call *got, const nib_qb_call *right, double *max)
{
    enum { CHUNK = 1024 };
    const nib_matrix a = nib_qb_matrix_of(got), b = nib_qb_matrix_of(right);
    const int64_t n = a.rows * a.cols * got->c->value[NIB_QB_BATCH];
    const int64_t element = a.dtype == NIB_F32 ? 4 : 2;
    float x[CHUNK], y[CHUNK];
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t some = n - i < CHUNK ? n - i : CHUNK;
        nib_scalar_cpu.to_f32(a.dtype, (uint8_t *)a.data + i * element, some, x);
        nib_scalar_cpu.to_f32(b.dtype, (uint8_t *)b.data + i * element, some, y);
        *max = fmax(*max, largest_difference(x, y, some));
    }
    return NIB_OK;
}

nib_status nib_qb_packed_distance(const nib_qb_call *got, const nib_qb_call *right, double *max)
{
    const nib_packed a = nib_qb_packed_of(got), b = nib_qb_packed_of(right);
    const nib_batch batch = nib_qb_batch_of(got->c);
    const int64_t n = a.rows * a.cols * batch.count;
    float *x = nib_qb_map((size_t)n * sizeof(float), 1), *y = nib_qb_map((size_t)n * 4, 1);
    nib_status status = x && y ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    const nib_matrix mx = { x, NIB_F32, a.rows, a.cols, a.cols };
    const nib_matrix my = { y, NIB_F32, a.rows, a.cols, a.cols };
    if (status == NIB_OK) status = nib_dequantize_batch(right->exec, &batch, &a, &mx);
    if (status == NIB_OK) status = nib_dequantize_batch(right->exec, &batch, &b, &my);
    if (status == NIB_OK) *max = fmax(*max, largest_difference(x, y, n));
    nib_qb_unmap(x);
    nib_qb_unmap(y);
    return status;
}

nib_status nib_qb_amax_distance(const nib_qb_call *got, const nib_qb_call *right, double *max)
{
    const int64_t n = got->c->value[got->c->op->axes & NIB_QB_AXIS(BATCH) ? NIB_QB_BATCH
                                                                           : NIB_QB_ROWS];
    *max = fmax(*max, largest_difference(got->part[NIB_QB_AMAX], right->part[NIB_QB_AMAX], n));
    return NIB_OK;
}
