/* quantize_kernel_test.c: NVFP4 and MXFP4 kernels against a second definition.
 *
 * The reference here shares no code with kernels/: values by ldexp, rounding by trying every code
 * in double, scales by the formulas of nibble/format.h in plain C floats. Codes are held on every
 * backend; statistics are the CPU's, whose tables the last tests call below include/.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/device_fixture.h"

static double e2m1_value(int code)
{
    const int e = code >> 1 & 3, f = code & 1;
    const double v = e ? ldexp(1.0 + f / 2.0, e - 1) : f / 2.0;
    return code & 8 ? -v : v;
}

static double e4m3_value(int code)
{
    const int e = code >> 3 & 15, f = code & 7;
    return e ? ldexp(1.0 + f / 8.0, e - 7) : ldexp(f, -9);
}

/* The code of 0..last nearest to a >= 0; of two, the even one. */
static int nearest(double (*value)(int), int last, double a)
{
    int best = 0;
    double least = INFINITY;
    for (int c = 0; c <= last; c++) {
        const double d = fabs(value(c) - a);
        if (d < least || (d == least && c % 2 == 0)) best = c, least = d;
    }
    return best;
}

static int e2m1_code(float y)
{
    const double a = fabs((double)y);
    return nearest(e2m1_value, 7, a > 6.0 ? 6.0 : a) | (signbit(y) ? 8 : 0);
}

static float block_amax(const float *x, int n)
{
    float a = 0;
    for (int i = 0; i < n; i++) a = fmaxf(a, fabsf(x[i]));
    return a;
}

/* TransformerEngine's NVFP4: tensor scale t given. Writes codes one a byte. */
static void reference_nvfp4(const float *x, int n, float t, uint8_t *codes, uint8_t *scale)
{
    const float encode = fminf(1.0f / t, 3.40282346638528859812e+38f);
    const float v = block_amax(x, n) * (encode * (1.0f / 6.0f));
    *scale = (uint8_t)nearest(e4m3_value, 126, v > 448.0f ? 448.0 : (double)v);
    const float s = (float)e4m3_value(*scale);
    const float factor = fminf(1.0f / (s * (1.0f / encode)), 3.40282346638528859812e+38f);
    for (int i = 0; i < n; i++) codes[i] = (uint8_t)e2m1_code(x[i] * factor);
}

/* MXFP4, RCEIL: the least power of two s with amax <= 6 s. */
static void reference_mxfp4(const float *x, int n, float t, uint8_t *codes, uint8_t *scale)
{
    (void)t;
    const double a = (double)block_amax(x, n);
    int e = -127;
    while (a > 6.0 * ldexp(1.0, e)) e++;
    *scale = (uint8_t)(e + 127);
    for (int i = 0; i < n; i++) codes[i] = (uint8_t)e2m1_code((float)ldexp((double)x[i], -e));
}

typedef void (*reference)(const float *, int, float, uint8_t *, uint8_t *);

/* What one runner makes of a row of f32; report.size 0: it has no statistics. */
typedef struct made {
    uint8_t *codes, *scales;
    float   *values;
    nib_quantize_report report;
} made;

static const nib_rules plain_rules = { .size = sizeof plain_rules };

static made make(const runner *r, nib_format format, const float *x, int64_t cols, float t)
{
    const nib_exec exec = exec_of(r);
    const int tensor = nib_format_has_tensor_scale(format);
    buffer input = buffer_new(r, x, (size_t)cols * 4, 0), scale = buffer_new(r, &t, sizeof t, 0);
    buffer codes = buffer_new(r, NULL, (size_t)(cols + 1) / 2, 0);
    buffer scales = buffer_new(r, NULL, (size_t)nib_scales_per_row(format, cols), 0);
    buffer values = buffer_new(r, NULL, (size_t)cols * 4, 0);
    const nib_matrix src = { input.at, NIB_F32, 1, cols, cols };
    const nib_matrix dst = { values.at, NIB_F32, 1, cols, cols };
    const nib_packed packed = { sizeof packed, format, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 1, cols,
                                codes.at, (cols + 1) / 2, scales.at, tensor ? scale.at : NULL };
    const nib_quantize_options options = { .size = sizeof options, .rules = &plain_rules };
    made m = { .report.size = sizeof m.report };
    EXPECT(nib_quantize(&exec, &src, &options, &packed) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_dequantize(&exec, &packed, &dst) == NIB_OK, "%s", nib_last_error());
    const nib_status status = nib_quantize_stats(&exec, &src, &packed, &m.report);
    EXPECT(status == NIB_OK || (status == NIB_ERR_UNSUPPORTED && runner_is_cuda(r)), "%s",
           nib_last_error());
    if (status != NIB_OK) m.report.size = 0;
    m.codes = buffer_take(&codes), m.scales = buffer_take(&scales), m.values = buffer_take(&values);
    buffer_free(&input), buffer_free(&scale);
    return m;
}

static void made_release(made *m) { free(m->codes), free(m->scales), free(m->values); }

/* Counts and sums over what was made, as the report should have them. */
static void expect_report(const float *x, const made *m, int64_t cols, const char *name)
{
    const nib_quantize_report *r = &m->report;
    uint64_t flushed = 0, saturated = 0, uses[16] = { 0 };
    double most = 0, sum = 0, square = 0;
    if (!r->size) return;
    for (int64_t c = 0; c < cols; c++) {
        const int code = m->codes[c / 2] >> c % 2 * 4 & 15;
        const float value = m->values[c];
        const double error = (double)(x[c] - value);
        flushed += value == 0.0f && x[c] != 0.0f;
        saturated += (code & 7) == 7 && fabsf(x[c]) > fabsf(value);
        uses[code]++;
        most = fmax(most, fabs(error));
        sum += error * error;
        square += (double)x[c] * (double)x[c];
    }
    EXPECT(r->elements == (uint64_t)cols && r->nonfinite == 0, "%s", name);
    EXPECT(r->flushed == flushed && r->saturated == saturated, "%s: %lld %lld", name,
           (long long)r->flushed, (long long)r->saturated);
    EXPECT(memcmp(r->code_count, uses, sizeof uses) == 0, "%s: code counts", name);
    EXPECT(r->max_error == most, "%s: %a for %a", name, r->max_error, most);
    EXPECT(fabs(r->sum_sq_error - sum) <= 1e-6 * sum, "%s: error %g", name, sum);
    EXPECT(fabs(r->sum_sq - square) <= 1e-6 * square, "%s: square %g", name, square);
}

/* Quantizes on every runner and compares codes, scales, values and statistics. */
static void check(nib_format format, int block, reference ref, const float *x, int64_t cols,
                  float t)
{
    const runner *list;
    const int n = runners_open(&list), tensor = nib_format_has_tensor_scale(format);
    const int64_t blocks = (cols + block - 1) / block;
    uint8_t *codes = malloc((size_t)cols), *scales = malloc((size_t)blocks);
    for (int64_t k = 0; k < blocks; k++) {
        const int64_t left = cols - k * block;
        ref(x + k * block, left < block ? (int)left : block, t, codes + k * block, scales + k);
    }
    for (int i = 0; i < n; i++) {
        if (i != 0 && i != 4 && !runner_is_cuda(&list[i])) continue;
        int64_t wrong_codes = 0, wrong_scales = 0, wrong_values = 0, at = -1;
        made m = make(&list[i], format, x, cols, t);
        for (int64_t k = 0; k < blocks; k++) wrong_scales += scales[k] != m.scales[k];
        for (int64_t c = 0; c < cols; c++) {
            const int code = m.codes[c / 2] >> c % 2 * 4 & 15, byte = m.scales[c / block];
            const float s = (float)(tensor ? e4m3_value(byte) : ldexp(1.0, byte - 127));
            const float step = tensor ? s * t : s, value = (float)e2m1_value(code) * step;
            if (code != codes[c]) wrong_codes++, at = c;
            wrong_values += memcmp(&value, m.values + c, 4) != 0;
        }
        const char *name = list[i].name;
        EXPECT(wrong_codes == 0, "%s %#x: %lld codes differ, the last at %lld: x %a, %d for %d",
               name, format, (long long)wrong_codes, (long long)at,
               at < 0 ? 0.0 : (double)x[at], at < 0 ? 0 : m.codes[at / 2] >> at % 2 * 4 & 15,
               at < 0 ? 0 : codes[at]);
        EXPECT(wrong_scales == 0, "%s: %lld scales", name, (long long)wrong_scales);
        EXPECT(wrong_values == 0, "%s: %lld values", name, (long long)wrong_values);
        expect_report(x, &m, cols, name);
        made_release(&m);
    }
    free(codes), free(scales);
}

static uint32_t state = 2463534242u;

static float next_unit(void)
{
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return (float)(state >> 8) * 0x1p-23f - 1.0f;
}

/* Blocks of wide and narrow range, of a quarter grid (ties of every step), and of zeros. */
static void fill(float *x, int64_t n, int block)
{
    for (int64_t i = 0; i < n; i++) {
        const int64_t b = i / block;
        const float u = next_unit();
        x[i] = b % 7 == 3 ? 0.0f * u
             : b % 7 == 5 ? rintf(u * 28.0f) * 0.25f
             : b % 7 == 6 ? rintf(u * 96.0f) * 0.0625f
                          : ldexpf(u, (int)(b % 13) - 6 - (b % 11 == 0 ? 12 : 0));
    }
}

enum { N = 3 * 16384 + 45 };

NIB_TEST(OnDeviceKernel, Nvfp4EqualsASecondDefinition)
{
    const float scales[] = { 1.0f, 1.0f / 2688.0f, 0.0123f, 3e-6f, 40.0f };
    float *x = malloc(N * sizeof *x);
    for (int i = 0; i < 5; i++) {
        fill(x, N, 16);
        check(NIB_NVFP4, 16, reference_nvfp4, x, N, scales[i]);
    }
    free(x);
}

NIB_TEST(OnDeviceKernel, Mxfp4EqualsASecondDefinition)
{
    float *x = malloc(N * sizeof *x);
    fill(x, N, 32);
    check(NIB_MXFP4, 32, reference_mxfp4, x, N, 1.0f);
    free(x);
}

NIB_TEST(OnDeviceKernel, EveryMidpointAndItsNeighboursByHand)
{
    /* amax 6 and tensor scale 1 make the factor 1: the codes are those of x itself. */
    const float mid[] = { 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f };
    const uint8_t at[] = { 0, 2, 2, 4, 4, 6, 6 };
    float x[7 * 128] = { 0 };
    for (int i = 0; i < 7; i++) { /* one block of eight each, the others stay 0 */
        const float six[8] = { 6.0f, mid[i], nextafterf(mid[i], 0), nextafterf(mid[i], 9),
                               -mid[i], -nextafterf(mid[i], 0), -nextafterf(mid[i], 9), -0.0f };
        memcpy(x + 128 * i, six, sizeof six);
    }
    const runner *list;
    const int n = runners_open(&list);
    for (int r = 0; r < n; r++) {
        const char *name = list[r].name;
        made m = make(&list[r], NIB_NVFP4, x, 7 * 128, 1.0f);
        for (int i = 0; i < 7; i++) {
            const uint8_t *q = m.codes + 64 * i;
            EXPECT(m.scales[8 * i] == 0x38, "%s: scale %#x", name, m.scales[8 * i]);
            EXPECT(q[0] == (7 | at[i] << 4), "%s: %g", name, (double)mid[i]);
            EXPECT(q[1] == (i | (i + 1) << 4), "%s: beside %g: %#x", name, (double)mid[i], q[1]);
            EXPECT(q[2] == (8 | at[i] | (8 | i) << 4), "%s: -%g", name, (double)mid[i]);
            EXPECT(q[3] == (8 | (i + 1) | 8 << 4), "%s: -0 after %g", name, (double)mid[i]);
        }
        made_release(&m);
    }
}

NIB_TEST(OnDeviceKernel, RandomWordsGoByRowTimesColsPlusCol) /* not by the stride, not by rows */
{
    enum { ROWS = 4, COLS = 256, LD = 300 };
    const uint64_t random[2] = { 7, 11 };
    static float x[ROWS * COLS], wide[ROWS * LD];
    const runner *list;
    const int n = runners_open(&list);
    for (int k = 0; k < n; k++) {
        const nib_exec exec = exec_of(&list[k]);
        uint8_t *codes[3];
        fill(x, ROWS * COLS, 32);
        for (int r = 0; r < ROWS; r++) memcpy(wide + r * LD, x + r * COLS, COLS * sizeof *x);
        for (int i = 0; i < 3; i++) { /* dense, one long row, strided */
            const int64_t rows = i == 1 ? 1 : ROWS, cols = i == 1 ? ROWS * COLS : COLS;
            buffer input = buffer_new(&list[k], i == 2 ? wide : x, i == 2 ? sizeof wide : sizeof x,
                                      0);
            buffer words = buffer_new(&list[k], random, sizeof random, 0);
            buffer c = buffer_new(&list[k], NULL, ROWS * COLS / 2, 0);
            buffer scales = buffer_new(&list[k], NULL, ROWS * COLS / 32, 0);
            const nib_matrix src = { input.at, NIB_F32, rows, cols, i == 2 ? LD : cols };
            const nib_packed packed = { sizeof packed, NIB_MXFP4, NIB_CODES_PAIRS,
                                        NIB_SCALES_LINEAR, rows, cols, c.at, cols / 2, scales.at,
                                        NULL };
            const nib_quantize_options options = { .size = sizeof options, .rules = &plain_rules,
                                                   .rounding = NIB_ROUND_STOCHASTIC,
                                                   .random = words.at };
            EXPECT(nib_quantize(&exec, &src, &options, &packed) == NIB_OK, "%s", nib_last_error());
            codes[i] = buffer_take(&c);
            EXPECT(memcmp(codes[0], codes[i], ROWS * COLS / 2) == 0, "%s, shape %d", list[k].name,
                   i);
            buffer_free(&input), buffer_free(&words), buffer_free(&scales);
        }
        for (int i = 0; i < 3; i++) free(codes[i]);
    }
}

/* Statistics of x against codes in the order of the definition, without any of its shortcuts. */
static nib_quantize_report plain_stats(const float *x, int64_t cols, const nib_packed *p)
{
    nib_quantize_report r = { .elements = (uint64_t)cols };
    for (int64_t c = 0; c < cols; c++) {
        const int code = p->codes[c / 2] >> c % 2 * 4 & 15;
        const float step = (float)e4m3_value(p->scales[c / 16]) * *p->tensor_scale;
        const float value = (float)e2m1_value(code) * step, d = x[c] - value;
        r.nonfinite += isfinite(x[c]) ? 0 : 1;
        if (!isfinite(x[c])) continue;
        r.flushed += value == 0.0f && x[c] != 0.0f;
        r.saturated += (code & 7) == 7 && fabsf(x[c]) > fabsf(value);
        r.max_error = fmax(r.max_error, fabs((double)d));
        r.sum_sq_error += (double)d * (double)d;
        r.sum_sq += (double)x[c] * (double)x[c];
    }
    return r;
}

static void check_stats(const float *x, int64_t cols, const nib_packed *p, const char *what)
{
    const nib_backend *tables[] = { &nib_backend_cpu_portable, nib_backend_cpu_avx2() };
    const nib_matrix src = { (void *)(uintptr_t)x, NIB_F32, 1, cols, cols };
    const nib_quantize_report e = plain_stats(x, cols, p);
    for (int i = 0; i < 4 && tables[i / 2]; i++) { /* with counts, and without */
        nib_quantize_report r = { .size = sizeof r, .without_counts = (uint32_t)i % 2 };
        const nib_launch launch = { .threads = 1 };
        uint64_t codes = 0, scales = 0;
        tables[i / 2]->quantize_stats(&launch, &src, p, &r);
        for (int k = 0; k < 256; k++) codes += r.code_count[k], scales += r.scale_count[k];
        EXPECT(codes == (i % 2 ? 0 : e.elements - e.nonfinite)
                   && scales == (i % 2 ? 0u : (uint64_t)(cols + 15) / 16),
               "%s, %s: %llu codes, %llu scales", tables[i / 2]->name, what,
               (unsigned long long)codes, (unsigned long long)scales);
        EXPECT(r.nonfinite == e.nonfinite && r.flushed == e.flushed && r.saturated == e.saturated,
               "%s, %s: %llu flushed for %llu, %llu saturated for %llu", tables[i / 2]->name, what,
               (unsigned long long)r.flushed, (unsigned long long)e.flushed,
               (unsigned long long)r.saturated, (unsigned long long)e.saturated);
        EXPECT(r.max_error == e.max_error, "%s, %s: %a for %a", tables[i / 2]->name, what,
               r.max_error, e.max_error);
        EXPECT(fabs(r.sum_sq_error - e.sum_sq_error) <= 1e-6 * e.sum_sq_error
                   && fabs(r.sum_sq - e.sum_sq) <= 1e-6 * e.sum_sq,
               "%s, %s: %g of %g for %g of %g", tables[i / 2]->name, what, r.sum_sq_error,
               r.sum_sq, e.sum_sq_error, e.sum_sq);
    }
}

/* Codes and scales at random: what no quantizer makes must be told right as well. */
NIB_TEST(QuantizeKernel, StatisticsOfEverySizeAndOfStrangeCodes)
{
    enum { COLS = 5 * 1024 + 333 };
    static float x[COLS];
    static uint8_t codes[COLS / 2 + 1], scales[COLS / 16 + 1];
    const int powers[] = { 0, -30, -48, -52, -64, -80, -100, -126, -140, 50, 58, 62, 64, 100, 126 };
    for (int i = 0; i < 15 * 4; i++) {
        float t = ldexpf(1.0f, powers[i / 4] - 8);
        char what[40];
        snprintf(what, sizeof what, "2^%d, kind %d", powers[i / 4], i % 4);
        for (int c = 0; c < COLS; c++) {
            const int code = (int)(8 + 8 * next_unit()) & 15;
            if (c % 2 == 0) codes[c / 2] = 0;
            codes[c / 2] |= (uint8_t)(code << c % 2 * 4);
            if (c % 16 == 0) {
                const int zero = i % 4 == 1 && c / 16 % 5 == 0;
                scales[c / 16] = (uint8_t)(zero ? 0 : 40 + (c / 16) % 60);
            }
            const float step = (float)e4m3_value(scales[c / 16]) * t;
            const float value = (float)e2m1_value(code) * step;
            x[c] = i % 4 == 2          ? value                     /* all exact */
                 : c / 1024 == 2       ? 0.0f                      /* a piece of zeros */
                 : i % 4 == 3          ? value + step * next_unit() * 1e-6f
                 : next_unit() > 0.9f  ? 0.0f
                                       : value + step * next_unit();
            if (!isfinite(x[c])) x[c] = 1.0f;
        }
        codes[COLS / 2] |= 0xf0; /* beyond the last column */
        if (i % 4 == 1) x[4 * 1024 + 5] = NAN, x[7] = i % 8 == 1 ? INFINITY : x[7];
        const nib_packed packed = { sizeof packed, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR,
                                    1, COLS, codes, sizeof codes, scales, &t };
        check_stats(x, COLS, &packed, what);
    }
}

/* One square of 2^-100 lets sums run in f32; the others underflow there, where a fused sum has
 * one rounding and not two. */
NIB_TEST(QuantizeKernel, StatisticsOfSquaresThatUnderflowAreTheSame)
{
    const nib_backend *avx2 = nib_backend_cpu_avx2();
    if (!avx2) SKIP("no AVX2");
    static uint16_t x[1024];
    static uint8_t codes[512], scales[64];
    for (int i = 0; i < 300; i++) {
        for (int c = 0; c < 1024; c++) {
            const float v = c ? ldexpf(next_unit(), -61 - (i + c % 3) % 8) : 0x1.2p-50f;
            uint32_t bits;
            memcpy(&bits, &v, 4);
            x[c] = (uint16_t)(bits >> 16);
        }
        float t = 1.0f;
        const nib_matrix src = { x, NIB_BF16, 1, 1024, 1024 };
        const nib_packed packed = { sizeof packed, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR,
                                    1, 1024, codes, sizeof codes, scales, &t };
        const nib_launch launch = { .threads = 1 };
        nib_quantize_report a = { .size = sizeof a }, b = a;
        memset(scales, 0x38, sizeof scales);
        nib_backend_cpu_portable.quantize_stats(&launch, &src, &packed, &a);
        avx2->quantize_stats(&launch, &src, &packed, &b);
        EXPECT(memcmp(&a, &b, sizeof a) == 0, "%a for %a", b.sum_sq, a.sum_sq);
    }
}
