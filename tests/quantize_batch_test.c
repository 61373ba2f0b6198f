/* quantize_batch_test.c: the strides that a batch of outputs may have, to the last byte. What else
 * is refused stands in quantize_test.c; what is computed, in device_batch_test.c. */
#include <stdlib.h>
#include <string.h>

#include "expect_status.h"
#include "nibble/quantize.h"

enum { ROWS = 3, COLS = 40, CODE_BYTES = 20, SCALES = 9, N = 1 << 14 };

static nib_device *open_cpu(void)
{
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    nib_device *device = NULL;
    EXPECT(nib_device_open(&options, &device) == NIB_OK, "%s", nib_last_error());
    return device;
}

/* In elements, codes and scales: where one more is needed, and where it is enough. */
static const struct {
    const char *label;
    int64_t     count, ld, ld_codes, matrix, codes, scales;
    const char *values_piece, *codes_piece; /* of dequantize's, quantize's refusals; NULL: none */
} rows[] = {
    { "behind each other", 5, 50, 30, 140, 80, SCALES, NULL, NULL },
    { "matrix one short", 5, 50, 30, 139, 80, SCALES, "matrix_stride_elems 139", NULL },
    { "codes one short", 5, 50, 30, 140, 79, SCALES, NULL, "codes_stride_bytes 79" },
    { "scales one short", 5, 50, 30, 140, 80, SCALES - 1, NULL, "scales_stride_bytes 8" },
    { "rows in turn", 5, 200, 100, 40, 20, SCALES, NULL, NULL },
    { "rows in turn, gaps", 5, 208, 104, 42, 21, SCALES, NULL, NULL },
    { "a row too narrow", 5, 200, 100, 39, 20, SCALES, "matrix_stride_elems 39", NULL },
    { "codes of a row too narrow", 5, 200, 100, 40, 19, SCALES, NULL, "codes_stride_bytes 19" },
    { "one matrix too many", 6, 200, 120, 40, 20, SCALES, "matrix_stride_elems 40", NULL },
    { "one matrix's codes too many", 6, 240, 100, 40, 20, SCALES, NULL, "codes_stride_bytes 20" },
    { "rows that end too late", 5, 199, 100, 40, 20, SCALES, "matrix_stride_elems 40", NULL },
    { "one matrix", 1, 40, 20, 0, 0, 0, NULL, NULL },
    { "all of one", 2, 40, 20, 0, 0, 0, "matrix_stride_elems 0", "codes_stride_bytes 0" },
};

NIB_TEST(QuantizeBatch, OutputsThatOverlapAreRefused)
{
    nib_device *device = open_cpu();
    const nib_exec exec = { .size = sizeof exec, .device = device, .threads = 1 };
    float *values = calloc(N, sizeof *values), t = 1, amax;
    uint8_t *codes = calloc(N, 1), *scales = calloc(N, 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *label = rows[i].label;
        const nib_batch batch = { sizeof batch, rows[i].count, rows[i].matrix, rows[i].codes,
                                  rows[i].scales, 0 };
        const nib_matrix m = { values, NIB_F32, ROWS, COLS, rows[i].ld };
        const nib_packed p = { .size = sizeof p, .format = NIB_NVFP4, .rows = ROWS, .cols = COLS,
                               .codes = codes, .ld_codes_bytes = rows[i].ld_codes,
                               .scales = scales, .tensor_scale = &t };
        const char *piece = rows[i].codes_piece;
        if (piece) {
            EXPECT_FAILS(label, nib_quantize_batch(&exec, &batch, &m, NULL, &p), NIB_ERR_SHAPE,
                         piece);
            EXPECT_FAILS(label, nib_quantize_dynamic(&exec, &batch, &m, NULL, &p, &amax),
                         NIB_ERR_SHAPE, piece);
        } else {
            EXPECT(nib_quantize_batch(&exec, &batch, &m, NULL, &p) == NIB_OK, "%s: %s", label,
                   nib_last_error());
        }
        if (rows[i].values_piece)
            EXPECT_FAILS(label, nib_dequantize_batch(&exec, &batch, &p, &m), NIB_ERR_SHAPE,
                         rows[i].values_piece);
        else
            EXPECT(nib_dequantize_batch(&exec, &batch, &p, &m) == NIB_OK, "%s: %s", label,
                   nib_last_error());
        EXPECT(nib_amax_batch(&exec, &batch, &m, &amax, NULL) == NIB_OK, "%s: inputs may overlap",
               label);
    }
    free(values), free(codes), free(scales);
    nib_device_close(device);
}

NIB_TEST(QuantizeBatch, OfNoneOrEmptyMatricesTakesAnyStride)
{
    nib_device *device = open_cpu();
    const nib_exec exec = { .size = sizeof exec, .device = device, .threads = 1 };
    float t = 7;
    for (int i = 0; i < 3; i++) {
        const nib_batch batch = { sizeof batch, i ? 1000 : 0, 0, 0, 0, i ? 0 : 1 };
        const int64_t m_rows = i == 1 ? 0 : 2, m_cols = i == 2 ? 0 : 5;
        const nib_matrix m = { i ? NULL : &t, NIB_F32, m_rows, m_cols, INT64_MAX / 16 };
        const nib_packed p = { .size = sizeof p, .format = NIB_NVFP4, .rows = m_rows,
                               .cols = m_cols, .codes = (uint8_t *)&t, .scales = (uint8_t *)&t,
                               .ld_codes_bytes = 3, .tensor_scale = &t };
        EXPECT(nib_quantize_batch(&exec, &batch, &m, NULL, &p) == NIB_OK, "%s", nib_last_error());
        EXPECT(nib_dequantize_batch(&exec, &batch, &p, &m) == NIB_OK, "%s", nib_last_error());
        if (i == 0)
            EXPECT(nib_amax_batch(&exec, &batch, &m, NULL, NULL) == NIB_OK, "%s",
                   nib_last_error());
        EXPECT(t == 7, "wrote %g", (double)t);
    }
    nib_device_close(device);
}
