/* device_exact_test.c: every code times every scale, and every 16-bit input, on every backend. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "tests/device_case.h"

static void set_code(uint8_t *row, nib_format format, nib_code_order order, int64_t col,
                     unsigned code)
{
    const int bits = nib_format_element_bits(format), half = nib_format_block(format) / 2;
    if (order == NIB_CODES_GGUF_HALVES) {
        const int64_t block = col / (2 * half), at = col % (2 * half);
        row[block * half + at % half] |= (uint8_t)(code << (at < half ? 0 : 4));
        return;
    }
    for (int b = 0; b < bits; b++) {
        const int64_t at = col * bits + b;
        row[at / 8] |= (uint8_t)((code >> b & 1u) << at % 8);
    }
}

/* Dequantizes 256 rows, one for each scale byte, whose columns hold every code. */
static void *every_value(const runner *r, const setting *s, const uint8_t *codes,
                         const uint8_t *scales)
{
    const nib_exec exec = exec_of(r);
    buffer c = buffer_new(r, codes, (size_t)setting_codes_bytes(s), 0);
    buffer k = buffer_new(r, scales, (size_t)setting_scales_bytes(s), 0);
    buffer t = buffer_new(r, &s->tensor_scale, sizeof(float), 0);
    buffer v = buffer_new(r, NULL, (size_t)setting_matrix_bytes(s, s->dtype), 0);
    const nib_packed packed = { sizeof packed, s->format, s->order, s->layout, s->rows, s->cols,
                                c.at, setting_ld_codes(s), k.at,
                                nib_format_has_tensor_scale(s->format) ? t.at : NULL };
    const nib_matrix dst = { v.at, s->dtype, s->rows, s->cols, s->cols + s->ld_extra };
    EXPECT(nib_dequantize(&exec, &packed, &dst) == NIB_OK, "%s", nib_last_error());
    void *values = buffer_take(&v);
    buffer_free(&c), buffer_free(&k), buffer_free(&t);
    return values;
}

static void check_every_value(const setting *s)
{
    const runner *list;
    const int n = runners_open(&list), codes_n = 1 << nib_format_element_bits(s->format);
    const int64_t ld = setting_ld_codes(s), per_row = nib_scales_per_row(s->format, s->cols);
    uint8_t *codes = calloc((size_t)(s->rows * ld), 1);
    uint8_t *scales = malloc((size_t)(s->rows * per_row));
    for (int64_t r = 0; r < s->rows; r++) {
        for (int64_t c = 0; c < s->cols; c++)
            set_code(codes + r * ld, s->format, s->order, c, (unsigned)(c + r) % (unsigned)codes_n);
        memset(scales + r * per_row, (int)r, (size_t)per_row);
    }
    void *expected = NULL;
    for (int i = 0; i < n; i++) {
        if (i > 0 && i != 2 && i != 5 && !runner_is_cuda(&list[i])) continue;
        void *got = every_value(&list[i], s, codes, scales);
        if (i == 0) {
            expected = got;
            continue;
        }
        const int64_t bytes = setting_matrix_bytes(s, s->dtype);
        int64_t wrong = 0, first = -1;
        for (int64_t b = 0; b < bytes; b++) {
            if (((uint8_t *)expected)[b] == ((uint8_t *)got)[b]) continue;
            if (wrong++ == 0) first = b / (s->dtype == NIB_F32 ? 4 : 2);
        }
        EXPECT(wrong == 0, "%s: format %#x dtype %d order %d tensor scale %g: %lld bytes, the "
               "first of scale %#x, column %lld", list[i].name, s->format, s->dtype, s->order,
               (double)s->tensor_scale, (long long)wrong,
               (unsigned)(first / (s->cols + s->ld_extra)),
               (long long)(first % (s->cols + s->ld_extra)));
        free(got);
    }
    free(expected), free(codes), free(scales);
}

NIB_TEST(OnDeviceExact, EveryCodeTimesEveryScale)
{
    static const float scales[] = { 1.0f, 0.0117f, 3.1e-40f, 2.9e38f, 1e-45f,
                                    0.0f, -2.0f, NAN, INFINITY, -INFINITY };
    for (int i = 0; i < NAMED_FORMATS * 3 * 2; i++) {
        setting s = setting_of(case_formats[i / 6], (nib_dtype)(i / 2 % 3), NIB_RULES_TE);
        const int bits = nib_format_element_bits(s.format), block = nib_format_block(s.format);
        s.order = (nib_code_order)(i % 2);
        if (s.order == NIB_CODES_GGUF_HALVES && bits != 4) continue;
        s.rows = 256;
        s.cols = (1 << bits) < block ? block : 1 << bits;
        if (s.order == NIB_CODES_PAIRS) s.cols += 5;
        s.ld_extra = i % 5;
        const int tensor = nib_format_has_tensor_scale(s.format);
        for (int t = 0; t < (tensor ? 10 : 1); t++) {
            s.tensor_scale = scales[t];
            check_every_value(&s);
        }
    }
}

/* Neighbours have neighbouring bits: blocks of one exponent, and all NaN and Inf. */
NIB_TEST(OnDeviceExact, Every16BitInput)
{
    uint16_t *x = malloc(65536 * sizeof *x);
    for (int i = 0; i < 65536; i++) x[i] = (uint16_t)i;
    for (int i = 0; i < NAMED_FORMATS * 5 * 2 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i / 10], i % 2 ? NIB_BF16 : NIB_F16, i / 2 % 5);
        s.rows = 64;
        s.cols = 1024;
        s.tensor_scale = i / 2 % 3 ? 0.0f : 0.03f;
        s.layout = (nib_scale_layout)(i / 2 % 2);
        case_check(&s, x, 1);
    }
    free(x);
}

/* Each block holds its format's largest element, so that its step is known, and 7 more inputs. */
NIB_TEST(OnDeviceExact, Every16BitInputBesideTheLargestElement)
{
    static const float largest[] = { 6.0f, 7.5f, 28.0f, 448.0f, 57344.0f };
    enum { N = 65536 / 7 * 8 + 64 };
    uint16_t *x = calloc(N, sizeof *x);
    for (int i = 0; i < NAMED_FORMATS * 5 * 2 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i / 10], i % 2 ? NIB_BF16 : NIB_F16, i / 2 % 5);
        const float m = largest[nib_format_element(s.format)];
        for (int j = 0, next = 0; j < N; j++) {
            if (j % 8 == 3) nib_store_f32((int)s.dtype, x, j, m);
            else x[j] = (uint16_t)next++;
            if (fabsf(nib_load_f32((int)s.dtype, x, j)) <= m) continue;
            x[j] = 0; /* NaN, Inf and what would move the amax */
        }
        s.rows = 1;
        s.cols = N;
        s.tensor_scale = 1.0f;
        case_check(&s, x, 1);
    }
    free(x);
}

/* Every 16-bit number as the amax of a block, which decides its scale. */
NIB_TEST(OnDeviceExact, Every16BitAmaxOfABlock)
{
    static const nib_format formats[] = { NIB_NVFP4, NIB_MXFP4_B16, NIB_FP8_E4M3_B16 };
    enum { N = 32768 * 16 };
    uint16_t *x = calloc(N, sizeof *x);
    for (int i = 0; i < 32768; i++) {
        x[i * 16 + i % 16] = (uint16_t)(i | (i & 1) << 15);
        x[i * 16 + (i + 5) % 16] = (uint16_t)(i / 2);
    }
    for (int i = 0; i < 3 * 5 * 2 && !nib_test_failed(); i++) {
        setting s = setting_of(formats[i / 10], i % 2 ? NIB_BF16 : NIB_F16, i / 2 % 5);
        s.rows = 16;
        s.cols = N / 16;
        s.tensor_scale = i / 2 % 2 ? 1.0f : 0.0009f;
        case_check(&s, x, 1);
    }
    free(x);
}
