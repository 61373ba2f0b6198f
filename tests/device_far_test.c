/* device_far_test.c: offsets beyond 32 bits: rows that lie far apart, in memory that is mostly not
 * there, or on a GPU not filled. */
#include <stdlib.h>
#include <string.h>

#include "tests/device_case.h"
#include "tests/far_memory.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

enum { COLS = 1000 };

/* The reference works on near, dense rows; the runner on far ones. Returns 0 without memory. */
static int check_far(const runner *r, nib_dtype dtype, int64_t rows, int64_t ld, int64_t ld_codes)
{
    const size_t width = dtype == NIB_F32 ? 4 : 2, row_bytes = (size_t)COLS * width;
    setting s = setting_of(NIB_MXFP4, dtype, NIB_RULES_TE);
    s.rows = rows;
    s.cols = COLS;
    uint8_t *x = malloc((size_t)rows * row_bytes);
    fill_matrix(dtype, x, rows * COLS, 0);
    const runner *list;
    outcome near;
    runners_open(&list);
    case_run(&list[0], &s, x, &near);

    far_buffer src = far_new(r, (size_t)((rows - 1) * ld + COLS) * width);
    far_buffer dst = far_new(r, src.bytes);
    far_buffer codes = far_new(r, (size_t)((rows - 1) * ld_codes + COLS / 2));
    const int there = src.at && dst.at && codes.at;
    if (there) {
        const nib_exec exec = exec_of(r);
        const int64_t scales_n = setting_scales_bytes(&s);
        buffer scales = buffer_new(r, NULL, (size_t)scales_n, 0);
        buffer amax = buffer_new(r, NULL, 4, 0), nonfinite = buffer_new(r, NULL, 8, 0);
        buffer amaxes = buffer_new(r, NULL, (size_t)rows * 4, 0);
        for (int64_t i = 0; i < rows; i++)
            far_copy(&src, i * ld * (int64_t)width, x + (size_t)i * row_bytes, row_bytes, 0);
        const nib_matrix in = { src.at, dtype, rows, COLS, ld };
        const nib_matrix out = { dst.at, dtype, rows, COLS, ld };
        const nib_packed packed = { sizeof packed, s.format, NIB_CODES_PAIRS, NIB_SCALES_LINEAR,
                                    rows, COLS, codes.at, ld_codes, scales.at, NULL };
        OK(nib_amax(&exec, &in, amax.at, nonfinite.at));
        OK(nib_amax_rows(&exec, &in, amaxes.at));
        OK(nib_quantize(&exec, &in, NULL, &packed));
        OK(nib_dequantize(&exec, &packed, &out));
        runner_wait(r);
        void *k = buffer_take(&scales), *a = buffer_take(&amax), *n = buffer_take(&nonfinite);
        void *rows_amax = buffer_take(&amaxes);
        EXPECT(!memcmp(k, near.scales, (size_t)scales_n), "%s: scales", r->name);
        EXPECT(!memcmp(a, &near.amax, 4) && !memcmp(n, &near.nonfinite, 8), "%s: amax", r->name);
        EXPECT(!memcmp(rows_amax, near.amax_rows, (size_t)rows * 4), "%s: rows' amax", r->name);
        free(k), free(a), free(n), free(rows_amax);
        for (int64_t i = 0; i < rows; i++) {
            uint8_t row[COLS * 4];
            far_copy(&codes, i * ld_codes, row, COLS / 2, 1);
            EXPECT(!memcmp(row, near.codes + i * COLS / 2, COLS / 2), "%s: codes of row %lld",
                   r->name, (long long)i);
            far_copy(&dst, i * ld * (int64_t)width, row, row_bytes, 1);
            EXPECT(!memcmp(row, near.values[dtype] + (size_t)i * row_bytes, row_bytes),
                   "%s: values of row %lld", r->name, (long long)i);
        }
    }
    far_free(&src), far_free(&dst), far_free(&codes);
    case_release(&near), free(x);
    return there;
}

NIB_TEST(OnDeviceFar, RowsBeyond32BitsOfElementsAndBytes)
{
    const int64_t G = (int64_t)1 << 30;
    const struct { nib_dtype dtype; int64_t rows, ld, ld_codes; } cases[] = {
        { NIB_BF16, 3, G, 500 },               /* bytes of matrices past 2^32 */
        { NIB_F16, 2, 4 * G + 24, 500 },       /* elements past 2^32 */
        { NIB_F32, 2, 2 * G + 1, 2 * G + 12 }, /* elements and codes past 2^31, odd */
        { NIB_BF16, 2, 1000, 4 * G + 7 },      /* codes past 2^32 */
    };
    const runner *list;
    const int n = runners_open(&list);
    random_state = 5;
    for (int i = 0; i < n; i++) {
        if (i % 3 == 1 && !runner_is_cuda(&list[i])) continue;
        for (int c = 0; c < 4; c++) {
            if (!check_far(&list[i], cases[c].dtype, cases[c].rows, cases[c].ld,
                           cases[c].ld_codes))
                SKIP("no address space, or no such memory on the device");
        }
    }
}

NIB_TEST(OnDeviceFar, BatchesBeyond32Bits)
{
    enum { N = 2, BYTES = 500 };
    const int64_t stride = ((int64_t)1 << 32) + 64;
    const runner *list;
    const int n = runners_open(&list);
    random_state = 6;
    setting s = setting_of(NIB_MXFP4, NIB_BF16, NIB_RULES_TE);
    s.rows = 1;
    s.cols = COLS;
    uint16_t x[N][COLS];
    fill_matrix(NIB_BF16, x, N * COLS, 0);
    for (int i = 0; i < n; i++) {
        const nib_exec exec = exec_of(&list[i]);
        const nib_batch batch = { sizeof batch, N, stride / 2, stride, stride, 0 };
        if (i % 3 == 1 && !runner_is_cuda(&list[i])) continue;
        far_buffer src = far_new(&list[i], (size_t)stride + sizeof x[0]);
        far_buffer dst = far_new(&list[i], src.bytes), codes = far_new(&list[i], src.bytes);
        far_buffer scales = far_new(&list[i], src.bytes);
        const int there = src.at && dst.at && codes.at && scales.at;
        if (there) {
            const nib_matrix in = { src.at, NIB_BF16, 1, COLS, COLS };
            const nib_matrix out = { dst.at, NIB_BF16, 1, COLS, COLS };
            const nib_packed packed = { sizeof packed, s.format, NIB_CODES_PAIRS,
                                        NIB_SCALES_LINEAR, 1, COLS, codes.at, BYTES, scales.at,
                                        NULL };
            for (int b = 0; b < N; b++) far_copy(&src, b * stride, x[b], sizeof x[b], 0);
            OK(nib_quantize_batch(&exec, &batch, &in, NULL, &packed));
            OK(nib_dequantize_batch(&exec, &batch, &packed, &out));
            runner_wait(&list[i]);
        }
        for (int b = 0; b < N && there; b++) {
            outcome near;
            uint8_t got[COLS * 2];
            case_run(&list[0], &s, x[b], &near);
            far_copy(&codes, b * stride, got, BYTES, 1);
            EXPECT(!memcmp(got, near.codes, BYTES), "%s: codes of %d", list[i].name, b);
            far_copy(&scales, b * stride, got, 32, 1);
            EXPECT(!memcmp(got, near.scales, 32), "%s: scales of %d", list[i].name, b);
            far_copy(&dst, b * stride, got, COLS * 2, 1);
            EXPECT(!memcmp(got, near.values[NIB_BF16], COLS * 2), "%s: values of %d", list[i].name,
                   b);
            case_release(&near);
        }
        far_free(&src), far_free(&dst), far_free(&codes), far_free(&scales);
        if (!there) SKIP("no address space, or no such memory on the device");
    }
}

/* On a GPU a matrix of more than 2^31 elements, zeros but for three rows; elsewhere, where it would
 * take minutes, the same with fewer rows. */
NIB_TEST(OnDeviceFar, MoreThan2To31Elements)
{
    enum { WIDE = 4096, SAMPLES = 3, SCALES = WIDE / 16 };
    const runner *list;
    const int n = runners_open(&list);
    if (n == 0) return;
    const runner *r = &list[n - 1];
    const int64_t rows = far_is_host(r) ? 301 : ((int64_t)1 << 19) + 5;
    const int64_t sample[SAMPLES] = { 0, rows / 2, rows - 1 };
    const nib_exec exec = exec_of(r);
    char why[NIB_WHY_BYTES] = "";
    setting s = setting_of(NIB_NVFP4, NIB_BF16, NIB_RULES_TE);
    s.rows = SAMPLES;
    s.cols = WIDE;
    static uint16_t x[SAMPLES][WIDE], got[WIDE];
    random_state = 31;
    fill_matrix(NIB_BF16, x, SAMPLES * WIDE, 0);
    outcome near;
    case_run(&list[0], &s, x, &near);
    far_buffer src = far_new(r, (size_t)rows * WIDE * 2), dst = far_new(r, src.bytes);
    far_buffer codes = far_new(r, (size_t)rows * WIDE / 2);
    far_buffer scales = far_new(r, (size_t)rows * SCALES);
    buffer amax = buffer_new(r, NULL, 4, 0), nonfinite = buffer_new(r, NULL, 8, 0);
    buffer amaxes = buffer_new(r, NULL, (size_t)rows * 4, 0), scale = buffer_new(r, NULL, 4, 0);
    const int there = src.at && dst.at && codes.at && scales.at;
    if (there) {
        if (!far_is_host(r)) /* what mmap gives is zero */
            EXPECT(r->runtime->fill(r->ordinal, r->stream, src.at, 0, src.bytes, why) == NIB_OK,
                   "%s", why);
        runner_wait(r);
        for (int i = 0; i < SAMPLES; i++)
            far_copy(&src, sample[i] * WIDE * 2, x[i], sizeof x[i], 0);
        const nib_matrix in = { src.at, NIB_BF16, rows, WIDE, WIDE };
        const nib_matrix out = { dst.at, NIB_BF16, rows, WIDE, WIDE };
        const nib_packed packed = { sizeof packed, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR,
                                    rows, WIDE, codes.at, WIDE / 2, scales.at, scale.at };
        OK(nib_amax(&exec, &in, amax.at, nonfinite.at));
        OK(nib_amax_rows(&exec, &in, amaxes.at));
        OK(nib_quantize_dynamic(&exec, NULL, &in, NULL, &packed, amax.at));
        OK(nib_dequantize(&exec, &packed, &out));
        runner_wait(r);
    }
    float *most = buffer_take(&amax), *of_row = buffer_take(&amaxes), *t = buffer_take(&scale);
    uint64_t *count = buffer_take(&nonfinite);
    if (there) {
        EXPECT(*most == near.amax && *t == near.tensor_scale && *count == near.nonfinite,
               "%s: amax %g, tensor scale %g, %llu not finite", r->name, (double)*most, (double)*t,
               (unsigned long long)*count);
        int64_t wrong = 0;
        for (int64_t i = 0; i < rows; i++) {
            const int at = i == sample[0] ? 0 : i == sample[1] ? 1 : i == sample[2] ? 2 : -1;
            wrong += of_row[i] != (at < 0 ? 0.0f : near.amax_rows[at]);
        }
        EXPECT(wrong == 0, "%s: the amax of %lld rows", r->name, (long long)wrong);
        for (int i = 0; i < SAMPLES; i++) {
            far_copy(&codes, sample[i] * WIDE / 2, got, WIDE / 2, 1);
            EXPECT(!memcmp(got, near.codes + i * WIDE / 2, WIDE / 2), "%s: codes of sample %d",
                   r->name, i);
            far_copy(&scales, sample[i] * SCALES, got, SCALES, 1);
            EXPECT(!memcmp(got, near.scales + i * SCALES, SCALES), "%s: scales of sample %d",
                   r->name, i);
            far_copy(&dst, sample[i] * WIDE * 2, got, sizeof got, 1);
            EXPECT(!memcmp(got, near.values[NIB_BF16] + (size_t)i * sizeof got, sizeof got),
                   "%s: values of sample %d", r->name, i);
        }
    }
    free(most), free(of_row), free(t), free(count);
    case_release(&near);
    far_free(&src), far_free(&dst), far_free(&codes), far_free(&scales);
    if (!there) SKIP("no such memory on the device");
}
