/* model_rows.c: rows of a logical tensor as f32, in the order that is asked for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/model.h"

int64_t nib_logical_row(const nib_logical *t, nib_row_order order, int64_t i)
{
    if (order.to_gguf_heads == t->gguf_heads) return i;
    if (order.to_gguf_heads) i = nib_hf_row_of_gguf(i, t->rows, order.to_gguf_heads);
    return t->gguf_heads ? nib_gguf_row_of_hf(i, t->rows, t->gguf_heads) : i;
}

static int plain_dtype(nib_tensor_type type, nib_dtype *dtype)
{
    switch (type) {
    case NIB_TT_F32:  *dtype = NIB_F32; return 4;
    case NIB_TT_F16:  *dtype = NIB_F16; return 2;
    case NIB_TT_BF16: *dtype = NIB_BF16; return 2;
    default:          return 0;
    }
}

const void *nib_logical_in_place(const nib_logical *t, nib_dtype *dtype)
{
    if (t->storage != NIB_STORAGE_PLAIN || t->gguf_heads) return NULL;
    const int bytes = plain_dtype(t->tensor->type, dtype);
    return bytes && (uintptr_t)t->tensor->data % (uintptr_t)bytes == 0 ? t->tensor->data : NULL;
}

int nib_logical_decodable(const nib_logical *t)
{
    return t->storage != NIB_STORAGE_PLAIN || nib_tensor_type_get(t->tensor->type)->decodable;
}

static int64_t row_bytes(const nib_logical *t)
{
    if (t->storage == NIB_STORAGE_PACKED) return t->cols / 2;
    if (t->storage == NIB_STORAGE_INTEGERS) return t->tensor->dims[1] * 4;
    const nib_tensor_type_info *type = nib_tensor_type_get(t->tensor->type);
    return t->cols / type->block * type->block_bytes;
}

/* Codes and scales of n rows of the file, starting at row, to f32. */
static nib_status dequantize_rows(const nib_exec *exec, const nib_logical *t, const uint8_t *codes,
                                  const uint8_t *scales, nib_code_order order, int64_t n,
                                  float *dst)
{
    float tensor_scale = t->tensor_scale;
    const nib_packed packed = {
        .size = sizeof packed, .format = t->format, .code_order = order,
        .scale_layout = NIB_SCALES_LINEAR, .rows = n, .cols = t->cols,
        .codes = (uint8_t *)(uintptr_t)codes, .ld_codes_bytes = t->cols / 2,
        .scales = (uint8_t *)(uintptr_t)scales,
        .tensor_scale = nib_format_has_tensor_scale(t->format) ? &tensor_scale : NULL,
    };
    const nib_matrix out = { dst, NIB_F32, n, t->cols, t->cols };
    return nib_dequantize(exec, &packed, &out);
}

/* One row of GGUF's NVFP4: 64 elements in 36 bytes, 4 scales then 4 x 8 bytes of codes. */
static nib_status read_gguf_nvfp4_row(const nib_exec *exec, const nib_logical *t,
                                      const uint8_t *row, uint8_t *scratch, float *dst)
{
    uint8_t *codes = scratch, *scales = scratch + t->cols / 2;
    for (int64_t b = 0; b < t->cols / 64; b++) {
        memcpy(scales + b * 4, row + b * 36, 4);
        memcpy(codes + b * 32, row + b * 36 + 4, 32);
    }
    return dequantize_rows(exec, t, codes, scales, NIB_CODES_GGUF_HALVES, 1, dst);
}

static nib_status read_row(const nib_exec *one, const nib_logical *t, int64_t row,
                           uint8_t *scratch, float *dst)
{
    const uint8_t *src = t->tensor->data + row * row_bytes(t);
    const nib_tensor_type_info *type = nib_tensor_type_get(t->tensor->type);
    nib_dtype dtype;
    if (t->storage == NIB_STORAGE_INTEGERS) return nib_integers_read(one, t, row, scratch, dst);
    if (t->storage == NIB_STORAGE_PACKED) {
        const int64_t per_row = nib_scales_per_row(t->format, t->cols);
        return dequantize_rows(one, t, src, t->scales->data + row * per_row, NIB_CODES_PAIRS, 1,
                               dst);
    }
    if (t->tensor->type == NIB_TT_NVFP4) return read_gguf_nvfp4_row(one, t, src, scratch, dst);
    if (plain_dtype(t->tensor->type, &dtype)) nib_scalar_cpu.to_f32(dtype, src, t->cols, dst);
    else nib_scalar_cpu.decode_foreign(type->ggml, src, t->cols, dst);
    return NIB_OK;
}

nib_status nib_logical_read(const nib_exec *exec, const nib_logical *t, nib_row_order order,
                            int64_t first, int64_t n, float *dst)
{
    NIB_REQUIRE(nib_logical_decodable(t), NIB_ERR_UNSUPPORTED, "%s: cannot decode type %s",
                t->name, nib_tensor_type_get(t->tensor->type)->name);
    nib_exec one = *exec; /* each row in one thread; rows in parallel */
    one.threads = 1;
    const int threads = exec->threads > 0 ? exec->threads : nib_cpu_max_threads();
    nib_status status = NIB_OK;
    char why[512] = "";
#pragma omp parallel num_threads(threads)
    {
        const size_t needed = t->storage == NIB_STORAGE_INTEGERS ? nib_integers_scratch(t)
                            : t->tensor->type == NIB_TT_NVFP4    ? (size_t)t->cols : 0;
        uint8_t *scratch = needed ? malloc(needed) : NULL;
        nib_status mine = needed && !scratch
                            ? nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for a row") : NIB_OK;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++)
            if (mine == NIB_OK)
                mine = read_row(&one, t, nib_logical_row(t, order, first + i), scratch,
                                dst + i * t->cols);
        free(scratch);
        if (mine != NIB_OK) {
#pragma omp critical
            {
                status = mine; /* error texts belong to threads */
                snprintf(why, sizeof why, "%s", nib_last_error());
            }
        }
    }
    NIB_REQUIRE(status == NIB_OK, status, "%s: cannot be decoded: %s", t->name, why);
    return NIB_OK;
}

void nib_logical_release(const nib_logical *t, int64_t first, int64_t n)
{
    const int64_t bytes = row_bytes(t);
    if (t->tensor->bytes && n > 0)
        nib_mapping_release(t->tensor->data + first * bytes, (uint64_t)(n * bytes));
}
