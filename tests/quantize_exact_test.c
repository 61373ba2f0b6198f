/* quantize_exact_test.c: answers known beforehand, through the public API only: values on the
 * grid, repetition, empty matrices, gaps between rows, later versions' structs. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "expect_status.h"
#include "nibble/quantize.h"

enum { MOST_DEVICES = 2, POISON = 0xa5 };

static const nib_format formats[] = {
    NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16, NIB_MXFP6_E2M3, NIB_MXFP6_E3M2,
    NIB_MXFP8_E4M3, NIB_MXFP8_E5M2, NIB_FP6_E2M3_B8, NIB_FP6_E2M3_B16, NIB_FP6_E2M3_B32,
    NIB_FP8_E4M3_B8, NIB_FP8_E4M3_B16, NIB_FP8_E4M3_B32,
};
enum { FORMATS = sizeof formats / sizeof *formats };

/* Every instruction set that this machine has. */
static int open_devices(nib_device *device[MOST_DEVICES])
{
    int n = 0;
    for (int isa = NIB_CPU_ISA_PORTABLE; isa <= NIB_CPU_ISA_AVX2; isa++) {
        const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU,
                                             .cpu_isa = (nib_cpu_isa)isa };
        n += nib_device_open(&options, &device[n]) == NIB_OK;
    }
    EXPECT(n > 0, "%s", nib_last_error());
    return n;
}

static void close_devices(nib_device **device, int n)
{
    while (n > 0) nib_device_close(device[--n]);
}

/* A packed matrix with buffers of its own, filled with POISON. */
typedef struct owned {
    nib_packed p;
    float      tensor_scale;
    int64_t    scales_bytes, codes_bytes;
} owned;

static void owned_init(owned *o, nib_format format, int64_t rows, int64_t cols, int64_t gap)
{
    const int64_t ld = nib_codes_row_bytes(format, cols) + gap;
    o->codes_bytes = rows * ld;
    o->scales_bytes = nib_scales_bytes(format, NIB_SCALES_LINEAR, rows, cols);
    o->tensor_scale = 1;
    o->p = (nib_packed){
        .size = sizeof o->p, .format = format, .rows = rows, .cols = cols,
        .codes = malloc((size_t)o->codes_bytes + 1), .ld_codes_bytes = ld,
        .scales = malloc((size_t)o->scales_bytes + 1),
        .tensor_scale = nib_format_has_tensor_scale(format) ? &o->tensor_scale : NULL,
    };
    memset(o->p.codes, POISON, (size_t)o->codes_bytes);
    memset(o->p.scales, POISON, (size_t)o->scales_bytes);
}

static void owned_free(owned *o)
{
    free(o->p.codes);
    free(o->p.scales);
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u; /* Numerical Recipes' generator */
    return *state >> 8;
}

static void put_code(uint8_t *row, int bits, int64_t i, unsigned code)
{
    for (int b = 0; b < bits; b++) {
        const int64_t at = i * bits + b;
        row[at / 8] = (uint8_t)((row[at / 8] & ~(1u << at % 8)) | (code >> b & 1u) << at % 8);
    }
}

/* NaN and Inf codes are no results of quantizing. */
static int is_finite_code(nib_element element, unsigned code)
{
    if (element == NIB_E4M3) return (code & 0x7f) != 0x7f;
    return element != NIB_E5M2 || (code & 0x7f) < 0x7c;
}

static unsigned largest_code(nib_element element)
{
    static const unsigned largest[] = { 0x7, 0x1f, 0x1f, 0x7e, 0x7b };
    return largest[element];
}

/* Random codes, in each block the largest one, so that the block's scale is determined. */
static void fill_on_grid(owned *o, uint32_t *state)
{
    const nib_format f = o->p.format;
    const nib_element element = nib_format_element(f);
    const int bits = nib_format_element_bits(f), block = nib_format_block(f);
    memset(o->p.codes, 0, (size_t)o->codes_bytes);
    for (int64_t r = 0; r < o->p.rows; r++)
        for (int64_t c = 0; c < o->p.cols; c++) {
            unsigned code = next_random(state) & ((1u << bits) - 1);
            if (!is_finite_code(element, code)) code = 0;
            if (c % block == r % block % 3)
                code = largest_code(element) | (code & 1u) << (bits - 1);
            put_code(o->p.codes + r * o->p.ld_codes_bytes, bits, c, code);
        }
    for (int64_t i = 0; i < o->scales_bytes; i++)
        o->p.scales[i] = (uint8_t)(nib_format_scale(f) == NIB_SCALE_E4M3
                                       ? 8 + next_random(state) % 119  /* normal, up to 448 */
                                       : 60 + next_random(state) % 130);
    o->tensor_scale = 0x1p-7f;
}

NIB_TEST(QuantizeExact, TheGridIsLosslessInEveryNamedFormat)
{
    enum { N_ROWS = 37, N_COLS = 3 * 32 + 5 };
    nib_device *device[MOST_DEVICES];
    const int devices = open_devices(device);
    float *x = malloc(sizeof *x * N_ROWS * N_COLS);
    uint32_t state = 1;
    for (int f = 0; f < FORMATS; f++)
        for (int d = 0; d < devices; d++) {
            owned grid, got;
            const nib_exec exec = { .size = sizeof exec, .device = device[d], .threads = d + 1 };
            const nib_matrix m = { x, NIB_F32, N_ROWS, N_COLS, N_COLS };
            owned_init(&grid, formats[f], N_ROWS, N_COLS, 0);
            owned_init(&got, formats[f], N_ROWS, N_COLS, 0);
            fill_on_grid(&grid, &state);
            got.tensor_scale = grid.tensor_scale;
            EXPECT(nib_dequantize(&exec, &grid.p, &m) == NIB_OK, "%s", nib_last_error());
            EXPECT(nib_quantize(&exec, &m, NULL, &got.p) == NIB_OK, "%s", nib_last_error());
            EXPECT(!memcmp(grid.p.scales, got.p.scales, (size_t)grid.scales_bytes),
                   "%#x %s: scales changed", formats[f], nib_device_description(device[d]));
            EXPECT(!memcmp(grid.p.codes, got.p.codes, (size_t)grid.codes_bytes),
                   "%#x %s: codes changed", formats[f], nib_device_description(device[d]));

            nib_quantize_report report = { .size = sizeof report };
            EXPECT(nib_quantize_stats(&exec, &m, &got.p, &report) == NIB_OK, "%s",
                   nib_last_error());
            EXPECT(report.max_error == 0 && report.sum_sq_error == 0 && report.sum_sq > 0
                       && report.elements == N_ROWS * N_COLS && report.nonfinite == 0
                       && report.flushed == 0 && report.saturated == 0,
                   "%#x: error %g", formats[f], report.max_error);
            owned_free(&grid);
            owned_free(&got);
        }
    free(x);
    close_devices(device, devices);
}

NIB_TEST(QuantizeExact, Nvfp4ByHand)
{
    static const float e2m1[16] = { 0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4,
                                    -6 };
    nib_device *device[MOST_DEVICES];
    const int devices = open_devices(device);
    for (int d = 0; d < devices; d++) {
        float x[16], back[16];
        owned o;
        const nib_exec exec = { .size = sizeof exec, .device = device[d] };
        const nib_matrix m = { x, NIB_F32, 1, 16, 16 }, out = { back, NIB_F32, 1, 16, 16 };
        owned_init(&o, NIB_NVFP4, 1, 16, 0);
        o.tensor_scale = 0.25f;
        for (int i = 0; i < 16; i++) x[i] = e2m1[i] * 2; /* block scale 8, step 2 */
        EXPECT(nib_quantize(&exec, &m, NULL, &o.p) == NIB_OK, "%s", nib_last_error());
        EXPECT(o.p.scales[0] == 0x50, "e4m3 8 is 0x50, got %#x", o.p.scales[0]);
        for (int i = 0; i < 8; i++)
            EXPECT(o.p.codes[i] == (2 * i | (2 * i + 1) << 4), "byte %d is %#x", i, o.p.codes[i]);
        EXPECT(nib_dequantize(&exec, &o.p, &out) == NIB_OK, "%s", nib_last_error());
        EXPECT(!memcmp(x, back, sizeof x), "values changed");
        owned_free(&o);
    }
    close_devices(device, devices);
}

/* Holds where a block's largest code stays the largest (E2M1: its scale is within 1/16 of
 * amax / 6, and 5.6 rounds to 6) or where halving a scale doubles codes exactly (E8M0). */
NIB_TEST(QuantizeExact, RepeatingChangesNothing)
{
    enum { N_ROWS = 64, N_COLS = 217, N = N_ROWS * N_COLS };
    nib_device *device[MOST_DEVICES];
    const int devices = open_devices(device);
    float *x = malloc(sizeof *x * N), *once = malloc(sizeof *x * N), *twice = malloc(sizeof *x * N);
    uint32_t state = 7;
    for (int i = 0; i < N; i++) {
        const float unit = (float)next_random(&state) * 0x1p-23f - 1.0f;
        x[i] = ldexpf(unit * unit * unit, (int)(next_random(&state) % 6) + (i / N_COLS) % 8);
    }
    for (int f = 0; f < FORMATS; f++) {
        const int e8m0 = nib_format_scale(formats[f]) == NIB_SCALE_E8M0;
        if (!e8m0 && nib_format_element(formats[f]) != NIB_E2M1) continue;
        for (int d = 0; d < devices; d++) {
            owned o;
            float amax = 0;
            const nib_exec exec = { .size = sizeof exec, .device = device[d], .threads = 2 };
            const nib_matrix source = { x, NIB_F32, N_ROWS, N_COLS, N_COLS };
            const nib_matrix first = { once, NIB_F32, N_ROWS, N_COLS, N_COLS };
            const nib_matrix second = { twice, NIB_F32, N_ROWS, N_COLS, N_COLS };
            const nib_quantize_options options = { .size = sizeof options,
                                                   .tensor_amax = e8m0 ? NULL : &amax };
            owned_init(&o, formats[f], N_ROWS, N_COLS, 0);
            EXPECT(nib_amax(&exec, &source, &amax, NULL) == NIB_OK, "%s", nib_last_error());
            EXPECT(nib_quantize(&exec, &source, &options, &o.p) == NIB_OK, "%s", nib_last_error());
            EXPECT(nib_dequantize(&exec, &o.p, &first) == NIB_OK, "%s", nib_last_error());
            EXPECT(memcmp(x, once, sizeof *x * N), "%#x loses nothing of random data", formats[f]);
            EXPECT(nib_quantize(&exec, &first, NULL, &o.p) == NIB_OK, "%s", nib_last_error());
            EXPECT(nib_dequantize(&exec, &o.p, &second) == NIB_OK, "%s", nib_last_error());
            EXPECT(!memcmp(once, twice, sizeof *x * N), "%#x: values changed", formats[f]);
            owned_free(&o);
        }
    }
    free(x), free(once), free(twice);
    close_devices(device, devices);
}

NIB_TEST(QuantizeExact, HalvesGiveTheBytesOfTheirValues) /* bf16: the upper half of an f32 */
{
    enum { N_ROWS = 9, N_COLS = 131, N = N_ROWS * N_COLS };
    nib_device *device[MOST_DEVICES];
    const int devices = open_devices(device);
    uint16_t half[N];
    float wide[N];
    uint32_t state = 3;
    for (int i = 0; i < N; i++) {
        half[i] = (uint16_t)(next_random(&state) & 0x8fffu) | 0x3000u; /* finite, near 1 */
        const uint32_t bits = (uint32_t)half[i] << 16;
        memcpy(&wide[i], &bits, sizeof bits);
    }
    for (int f = 0; f < FORMATS; f++)
        for (int d = 0; d < devices; d++) {
            owned a, b;
            const nib_exec exec = { .size = sizeof exec, .device = device[d] };
            const nib_matrix narrow = { half, NIB_BF16, N_ROWS, N_COLS, N_COLS };
            const nib_matrix f32 = { wide, NIB_F32, N_ROWS, N_COLS, N_COLS };
            owned_init(&a, formats[f], N_ROWS, N_COLS, 0);
            owned_init(&b, formats[f], N_ROWS, N_COLS, 0);
            EXPECT(nib_quantize(&exec, &narrow, NULL, &a.p) == NIB_OK, "%s", nib_last_error());
            EXPECT(nib_quantize(&exec, &f32, NULL, &b.p) == NIB_OK, "%s", nib_last_error());
            EXPECT(!memcmp(a.p.codes, b.p.codes, (size_t)a.codes_bytes)
                       && !memcmp(a.p.scales, b.p.scales, (size_t)a.scales_bytes),
                   "%#x: bf16 and its f32 differ", formats[f]);
            owned_free(&a);
            owned_free(&b);
        }
    close_devices(device, devices);
}

NIB_TEST(QuantizeExact, EmptyMatricesSucceedAndWriteNothing)
{
    static const int64_t sizes[][2] = { { 0, 0 }, { 0, 16 }, { 3, 0 }, { 0, INT64_MAX / 8 } };
    nib_device *device[MOST_DEVICES];
    const int devices = open_devices(device);
    for (int d = 0; d < devices; d++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const int64_t rows = sizes[i][0], cols = sizes[i][1];
            const nib_exec exec = { .size = sizeof exec, .device = device[d], .threads = 2 };
            const nib_matrix m = { NULL, NIB_F32, rows, cols, cols };
            float scale = 7, amax = 2688, row_amax[3] = { 7, 7, 7 };
            uint64_t nonfinite = 9;
            const nib_packed p = {
                .size = sizeof p, .format = NIB_NVFP4, .rows = rows, .cols = cols,
                .ld_codes_bytes = nib_codes_row_bytes(NIB_NVFP4, cols), .tensor_scale = &scale,
            };
            const nib_quantize_options by_amax = { .size = sizeof by_amax, .tensor_amax = &amax };
            nib_quantize_report report = { .size = sizeof report };
            EXPECT(nib_quantize(&exec, &m, NULL, &p) == NIB_OK && scale == 7, "%s",
                   nib_last_error());
            EXPECT(nib_quantize(&exec, &m, &by_amax, &p) == NIB_OK, "%s", nib_last_error());
            EXPECT(scale == 1, "tensor scale %g of amax 2688 and no elements", (double)scale);
            EXPECT(nib_dequantize(&exec, &p, &m) == NIB_OK, "%s", nib_last_error());
            EXPECT(nib_quantize_stats(&exec, &m, &p, &report) == NIB_OK && report.elements == 0,
                   "%s", nib_last_error());
            EXPECT(nib_amax(&exec, &m, &amax, &nonfinite) == NIB_OK && amax == 0 && nonfinite == 0,
                   "amax %g, %lld not finite", (double)amax, (long long)nonfinite);
            EXPECT(nib_amax_rows(&exec, &m, row_amax) == NIB_OK, "%s", nib_last_error());
            for (int r = 0; r < 3; r++)
                EXPECT(row_amax[r] == (r < rows ? 0.0f : 7.0f), "row %d: %g", r,
                       (double)row_amax[r]);
            EXPECT(nib_relayout_scales(&exec, rows, 0, NIB_SCALES_LINEAR, NULL,
                                       NIB_SCALES_SWIZZLED_128X4, NULL) == NIB_OK, "%s",
                   nib_last_error());
        }
    close_devices(device, devices);
}

NIB_TEST(QuantizeExact, GapsBetweenRowsAreLeftAlone)
{
    enum { N_ROWS = 5, N_COLS = 51, LD = 64, GAP = 7 };
    nib_device *device[MOST_DEVICES];
    const int devices = open_devices(device);
    for (int f = 0; f < FORMATS; f++)
        for (int d = 0; d < devices; d++) {
            float x[N_ROWS * LD], back[N_ROWS * LD];
            owned o;
            const nib_exec exec = { .size = sizeof exec, .device = device[d], .threads = 2 };
            const nib_matrix src = { x, NIB_F32, N_ROWS, N_COLS, LD };
            const nib_matrix dst = { back, NIB_F32, N_ROWS, N_COLS, LD };
            const int64_t row_bytes = nib_codes_row_bytes(formats[f], N_COLS);
            float amax;
            for (int i = 0; i < N_ROWS * LD; i++)
                x[i] = i % LD < N_COLS ? (float)(i % 11 - 5) : NAN; /* gaps are not read */
            memset(back, POISON, sizeof back);
            owned_init(&o, formats[f], N_ROWS, N_COLS, GAP);
            EXPECT(nib_amax(&exec, &src, &amax, NULL) == NIB_OK && amax == 5, "amax %g",
                   (double)amax);
            EXPECT(nib_quantize(&exec, &src, NULL, &o.p) == NIB_OK, "%s", nib_last_error());
            EXPECT(nib_dequantize(&exec, &o.p, &dst) == NIB_OK, "%s", nib_last_error());
            const int used = (int)(N_COLS * nib_format_element_bits(formats[f]) % 8);
            for (int r = 0; r < N_ROWS; r++) {
                const uint8_t *row = o.p.codes + r * o.p.ld_codes_bytes;
                for (int64_t i = row_bytes; i < row_bytes + GAP; i++)
                    EXPECT(row[i] == POISON, "%#x: row %d byte %lld is %#x", formats[f], r,
                           (long long)i, row[i]);
                EXPECT(used == 0 || row[row_bytes - 1] >> used == 0, "%#x: tail bits %#x",
                       formats[f], row[row_bytes - 1]);
                for (int c = 0; c < LD; c++) {
                    uint32_t bits;
                    memcpy(&bits, &back[r * LD + c], sizeof bits);
                    EXPECT(c < N_COLS ? fabsf(back[r * LD + c]) <= 6 : bits == 0xa5a5a5a5u,
                           "%#x: row %d column %d holds %#x", formats[f], r, c, bits);
                }
            }
            owned_free(&o);
        }
    close_devices(device, devices);
}

NIB_TEST(QuantizeExact, TakesStructsOfALaterVersion) /* more members behind the ones known here */
{
    nib_device *device[MOST_DEVICES];
    const int devices = open_devices(device);
    struct { nib_exec known; uint64_t later[4]; } exec = { .later = { 1, 2, 3, 4 } };
    struct { nib_packed known; uint64_t later[4]; } packed = { .later = { 1, 2, 3, 4 } };
    struct { nib_rules known; uint64_t later[4]; } rules = { .later = { 1, 2, 3, 4 } };
    struct { nib_quantize_options known; uint64_t later[4]; } options = { .later = { 1, 2, 3, 4 } };
    struct { nib_quantize_report known; uint64_t later[4]; } report = { .later = { 1, 2, 3, 4 } };
    float x[16] = { 6, -3, 1 }, scale = 1;
    uint8_t codes[8], scales[1];
    const nib_matrix m = { x, NIB_F32, 1, 16, 16 };
    exec.known = (nib_exec){ .size = sizeof exec, .device = device[0] };
    packed.known = (nib_packed){ .size = sizeof packed, .format = NIB_NVFP4, .rows = 1, .cols = 16,
                                 .codes = codes, .ld_codes_bytes = 8, .scales = scales,
                                 .tensor_scale = &scale };
    EXPECT(nib_rules_fill(NIB_RULES_TE, NIB_NVFP4, &rules.known) == NIB_OK, "%s",
           nib_last_error());
    rules.known.size = sizeof rules;
    options.known = (nib_quantize_options){ .size = sizeof options, .rules = &rules.known };
    report.known.size = sizeof report;
    EXPECT(nib_quantize(&exec.known, &m, &options.known, &packed.known) == NIB_OK, "%s",
           nib_last_error());
    EXPECT(nib_quantize_stats(&exec.known, &m, &packed.known, &report.known) == NIB_OK, "%s",
           nib_last_error());
    EXPECT(report.known.size == sizeof report && report.known.elements == 16, "size %u",
           report.known.size);
    for (uint64_t i = 0; i < 4; i++)
        EXPECT(report.later[i] == i + 1, "member %d beyond this version was written", (int)i);
    close_devices(device, devices);
}
