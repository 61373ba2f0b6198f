/* qbench_ops.c: the public operations as rows of the benchmark. A new one is one entry here. */
#include <math.h>
#include <string.h>

#include "kernels/backend.h"
#include "qbench.h"

enum { MATRIX, CODES, SCALES };

#define AXIS(id) (1u << NIB_QB_##id)
enum {
    MATRIX_AXES = AXIS(BACKEND) | AXIS(ISA) | AXIS(DTYPE) | AXIS(ROWS) | AXIS(COLS) | AXIS(THREADS)
                | AXIS(CACHE),
    PACKED_AXES = MATRIX_AXES | AXIS(FORMAT) | AXIS(LAYOUT),
    QUANTIZE_AXES = PACKED_AXES | AXIS(RULES) | AXIS(CHOICE)
};

/* ---- the case's objects ---- */

int64_t nib_qb_matrix_bytes(const nib_qb_case *c)
{
    int64_t bytes;
    const int64_t element = c->value[NIB_QB_DTYPE] == NIB_F32 ? 4 : 2;
    if (__builtin_mul_overflow(c->value[NIB_QB_ROWS], c->value[NIB_QB_COLS], &bytes)
        || __builtin_mul_overflow(bytes, element, &bytes))
        return -1;
    return bytes;
}

static nib_status matrix_layout(const nib_qb_case *c, int64_t *part_bytes)
{
    part_bytes[MATRIX] = nib_qb_matrix_bytes(c);
    return part_bytes[MATRIX] < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status packed_layout(const nib_qb_case *c, int64_t *part_bytes)
{
    const nib_format format = (nib_format)c->value[NIB_QB_FORMAT];
    const int64_t rows = c->value[NIB_QB_ROWS], cols = c->value[NIB_QB_COLS];
    if (matrix_layout(c, part_bytes) != NIB_OK) return NIB_ERR_SHAPE; /* codes are smaller */
    part_bytes[CODES] = rows * nib_codes_row_bytes(format, cols);
    part_bytes[SCALES] = nib_scales_bytes(format, (nib_scale_layout)c->value[NIB_QB_LAYOUT], rows,
                                          cols);
    return part_bytes[SCALES] < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_matrix matrix_at(const nib_qb_data *data, void *p, nib_dtype dtype)
{
    const int64_t *value = data->c->value;
    return (nib_matrix){ p, dtype, value[NIB_QB_ROWS], value[NIB_QB_COLS], value[NIB_QB_COLS] };
}

static nib_matrix matrix_of(const nib_qb_data *data, int64_t copy)
{
    return matrix_at(data, nib_qb_part(data, copy, MATRIX),
                     (nib_dtype)data->c->value[NIB_QB_DTYPE]);
}

static nib_packed packed_at(nib_qb_data *data, uint8_t *codes, uint8_t *scales, float *tensor_scale)
{
    const int64_t *value = data->c->value;
    const nib_format format = (nib_format)value[NIB_QB_FORMAT];
    return (nib_packed){
        .size = sizeof(nib_packed),
        .format = format,
        .code_order = NIB_CODES_PAIRS,
        .scale_layout = (nib_scale_layout)value[NIB_QB_LAYOUT],
        .rows = value[NIB_QB_ROWS],
        .cols = value[NIB_QB_COLS],
        .codes = codes,
        .ld_codes_bytes = nib_codes_row_bytes(format, value[NIB_QB_COLS]),
        .scales = scales,
        .tensor_scale = nib_format_has_tensor_scale(format) ? tensor_scale : NULL,
    };
}

static nib_packed packed_of(nib_qb_data *data, int64_t copy)
{
    return packed_at(data, nib_qb_part(data, copy, CODES), nib_qb_part(data, copy, SCALES),
                     &data->tensor_scale);
}

/* ---- contents ---- */

/* Bell-shaped around 0, like weights, from a fixed seed: the sum of four uniform numbers. */
static void fill_weights(float *x, int64_t n, uint64_t *state)
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

static nib_status fill_matrix(nib_qb_data *data)
{
    enum { CHUNK = 4096 };
    const nib_matrix m = matrix_of(data, 0);
    const size_t element = m.dtype == NIB_F32 ? 4 : 2;
    float chunk[CHUNK];
    uint64_t state = 1;
    for (int64_t i = 0; i < m.rows * m.cols; i += CHUNK) {
        const int64_t left = m.rows * m.cols - i, n = left < CHUNK ? left : CHUNK;
        fill_weights(chunk, n, &state);
        nib_scalar_cpu.from_f32(m.dtype, chunk, n, (uint8_t *)m.data + (size_t)i * element);
    }
    return NIB_OK;
}

/* The source and its tensor scale, found beforehand. */
static nib_status fill_quantize(nib_qb_data *data)
{
    const int64_t *value = data->c->value;
    const nib_format format = (nib_format)value[NIB_QB_FORMAT];
    const nib_matrix m = matrix_of(data, 0);
    nib_rules rules;
    float encode;
    fill_matrix(data);
    nib_status status = nib_amax(&data->reference, &m, &data->amax, NULL);
    if (status != NIB_OK || !nib_format_has_tensor_scale(format)) return status;
    status = nib_rules_fill((nib_rules_preset)value[NIB_QB_RULES], format, &rules);
    if (status != NIB_OK) return status;
    return nib_tensor_scale(format, &rules, (nib_scale_choice)value[NIB_QB_CHOICE], m.dtype,
                            data->amax, &encode, &data->tensor_scale);
}

static nib_status quantize_into(nib_qb_data *data, const nib_exec *exec, int64_t copy,
                                const float *tensor_amax, const nib_packed *dst)
{
    const int64_t *value = data->c->value;
    nib_rules rules;
    const nib_status status = nib_rules_fill((nib_rules_preset)value[NIB_QB_RULES], dst->format,
                                             &rules);
    if (status != NIB_OK) return status;
    const nib_quantize_options options = {
        .size = sizeof options,
        .scale_choice = (nib_scale_choice)value[NIB_QB_CHOICE],
        .rules = &rules,
        .tensor_amax = tensor_amax,
    };
    const nib_matrix src = matrix_of(data, copy);
    return nib_quantize(exec, &src, &options, dst);
}

static nib_status fill_dequantize(nib_qb_data *data)
{
    const nib_packed dst = packed_of(data, 0);
    nib_status status = fill_quantize(data);
    if (status == NIB_OK) status = quantize_into(data, &data->reference, 0, NULL, &dst);
    memset(nib_qb_part(data, 0, MATRIX), 0xa5, (size_t)data->part_bytes[MATRIX]);
    return status;
}

/* ---- what is timed ---- */

static nib_status run_quantize(nib_qb_data *data, int64_t copy)
{
    const nib_packed dst = packed_of(data, copy);
    return quantize_into(data, &data->exec, copy, NULL, &dst);
}

static nib_status run_amax(nib_qb_data *data, int64_t copy)
{
    const nib_matrix src = matrix_of(data, copy);
    return nib_amax(&data->exec, &src, &data->amax, NULL);
}

static nib_status run_quantize_amax(nib_qb_data *data, int64_t copy)
{
    const nib_packed dst = packed_of(data, copy);
    const nib_status status = run_amax(data, copy);
    return status == NIB_OK ? quantize_into(data, &data->exec, copy, &data->amax, &dst) : status;
}

static nib_status run_dequantize(nib_qb_data *data, int64_t copy)
{
    const nib_packed src = packed_of(data, copy);
    const nib_matrix dst = matrix_of(data, copy);
    return nib_dequantize(&data->exec, &src, &dst);
}

/* ---- what is right ---- */

static int64_t count_wrong(const uint8_t *a, const uint8_t *b, int64_t n)
{
    int64_t wrong = 0;
    if (memcmp(a, b, (size_t)n) == 0) return 0;
    for (int64_t i = 0; i < n; i++) wrong += a[i] != b[i];
    return wrong;
}

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

/* How far apart two packed matrices are, decoded. */
static nib_status packed_difference(nib_qb_data *data, const nib_packed *a, const nib_packed *b,
                                    double *difference)
{
    const size_t bytes = (size_t)(a->rows * a->cols) * sizeof(float);
    float *x = nib_qb_map(bytes, 1), *y = nib_qb_map(bytes, 1);
    nib_status status = x && y ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    if (status == NIB_OK) {
        const nib_matrix mx = matrix_at(data, x, NIB_F32), my = matrix_at(data, y, NIB_F32);
        status = nib_dequantize(&data->reference, a, &mx);
        if (status == NIB_OK) status = nib_dequantize(&data->reference, b, &my);
        if (status == NIB_OK) *difference = largest_difference(x, y, a->rows * a->cols);
    }
    nib_qb_unmap(x, bytes);
    nib_qb_unmap(y, bytes);
    return status;
}

/* Compares the codes and scales of every copy that was written with the reference's. */
static nib_status check_packed(nib_qb_data *data, const float *tensor_amax, nib_qb_verdict *v)
{
    const int64_t n_codes = data->part_bytes[CODES], n_scales = data->part_bytes[SCALES];
    const int64_t written = data->calls < data->copies ? data->calls : data->copies;
    const size_t bytes = (size_t)(n_codes + n_scales);
    uint8_t *right = nib_qb_map(bytes, 1);
    if (!right) return NIB_ERR_OUT_OF_MEMORY;

    float tensor_scale = tensor_amax ? 0.0f : data->tensor_scale;
    const nib_packed expected = packed_at(data, right, right + n_codes, &tensor_scale);
    nib_status status = quantize_into(data, &data->reference, 0, tensor_amax, &expected);
    v->wrong_bytes = count_wrong((uint8_t *)&tensor_scale, (uint8_t *)&data->tensor_scale, 4);
    for (int64_t i = 0; i < written && status == NIB_OK; i++) {
        const nib_packed got = packed_of(data, nib_qb_visit(i, data->copies));
        if (data->corrupt && i == 0) got.codes[0] ^= 1;
        const int64_t wrong = count_wrong(got.codes, right, n_codes)
                            + count_wrong(got.scales, right + n_codes, n_scales);
        if (wrong && v->max_err == 0)
            status = packed_difference(data, &got, &expected, &v->max_err);
        v->wrong_bytes += wrong;
    }
    nib_qb_unmap(right, bytes);
    return status;
}

static nib_status check_quantize(nib_qb_data *data, nib_qb_verdict *v)
{
    return check_packed(data, NULL, v);
}

static nib_status check_amax(nib_qb_data *data, nib_qb_verdict *v)
{
    const nib_matrix src = matrix_of(data, 0);
    float right;
    const nib_status status = nib_amax(&data->reference, &src, &right, NULL);
    if (data->corrupt) data->amax *= 2;
    v->wrong_bytes = count_wrong((uint8_t *)&right, (uint8_t *)&data->amax, sizeof right);
    v->max_err = largest_difference(&right, &data->amax, 1);
    return status;
}

static nib_status check_quantize_amax(nib_qb_data *data, nib_qb_verdict *v)
{
    const nib_matrix src = matrix_of(data, 0);
    float right;
    const nib_status status = nib_amax(&data->reference, &src, &right, NULL);
    return status == NIB_OK ? check_packed(data, &right, v) : status;
}

static nib_status check_dequantize(nib_qb_data *data, nib_qb_verdict *v)
{
    const int64_t n = data->part_bytes[MATRIX], written = data->calls < data->copies
                                                            ? data->calls : data->copies;
    uint8_t *right = nib_qb_map((size_t)n, 1);
    if (!right) return NIB_ERR_OUT_OF_MEMORY;
    const nib_packed src = packed_of(data, 0);
    const nib_dtype dtype = (nib_dtype)data->c->value[NIB_QB_DTYPE];
    const nib_matrix expected = matrix_at(data, right, dtype);
    const nib_status status = nib_dequantize(&data->reference, &src, &expected);
    for (int64_t i = 0; i < written && status == NIB_OK; i++) {
        uint8_t *got = nib_qb_part(data, nib_qb_visit(i, data->copies), MATRIX);
        if (data->corrupt && i == 0) got[1] ^= 1;
        const int64_t wrong = count_wrong(got, right, n);
        v->wrong_bytes += wrong;
        for (int64_t at = 0; wrong && at < expected.rows * expected.cols; at++) {
            const int64_t size = dtype == NIB_F32 ? 4 : 2;
            float x, y;
            nib_scalar_cpu.to_f32(dtype, got + at * size, 1, &x);
            nib_scalar_cpu.to_f32(dtype, right + at * size, 1, &y);
            v->max_err = fmax(v->max_err, largest_difference(&x, &y, 1));
        }
    }
    nib_qb_unmap(right, (size_t)n);
    return status;
}

const nib_qb_op nib_qb_quantize = {
    .name = "quantize", .help = "matrix to codes and scales, tensor scale given; source bytes",
    .axes = QUANTIZE_AXES, .limit = NIB_QB_LIMIT_READ, .baseline = 1,
    .bytes = nib_qb_matrix_bytes, .layout = packed_layout, .fill = fill_quantize,
    .run = run_quantize, .check = check_quantize,
};
const nib_qb_op nib_qb_dequantize = {
    .name = "dequantize", .help = "codes and scales to matrix; bytes written",
    .axes = QUANTIZE_AXES, .limit = NIB_QB_LIMIT_FILL, .baseline = 1,
    .bytes = nib_qb_matrix_bytes, .layout = packed_layout, .fill = fill_dequantize,
    .run = run_dequantize, .check = check_dequantize,
};
const nib_qb_op nib_qb_amax = {
    .name = "amax", .help = "largest magnitude of a matrix; source bytes",
    .axes = MATRIX_AXES, .limit = NIB_QB_LIMIT_READ, .baseline = 1,
    .bytes = nib_qb_matrix_bytes, .layout = matrix_layout, .fill = fill_matrix,
    .run = run_amax, .check = check_amax,
};
const nib_qb_op nib_qb_quantize_amax = {
    .name = "quantize_amax", .help = "amax, then quantize by it: two passes; source bytes, once",
    .axes = QUANTIZE_AXES, .limit = NIB_QB_LIMIT_READ, .baseline = 1,
    .bytes = nib_qb_matrix_bytes, .layout = packed_layout, .fill = fill_quantize,
    .run = run_quantize_amax, .check = check_quantize_amax,
};

const nib_qb_op *const nib_qb_ops[] = {
    &nib_qb_quantize, &nib_qb_dequantize, &nib_qb_amax, &nib_qb_quantize_amax,
    &nib_qb_memcpy, &nib_qb_read, &nib_qb_fill, &nib_qb_fma, NULL,
};
