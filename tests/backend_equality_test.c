/* backend_equality_test.c: every backend, instruction set, thread count and layout writes the same
 * bytes, on ragged shapes, every rule, every search. device_fixture.h says what is compared. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "tests/device_case.h"

NIB_TEST(OnDeviceEquality, EveryFormatPresetDtypeAndRaggedShape)
{
    const int64_t cols[] = { 0, 1, 7, 15, 16, 17, 31, 33, 100, 128, 1000, 1024, 4101 };
    const int64_t rows[] = { 0, 1, 2, 3, 127, 129 };
    random_state = 12345;
    for (int f = 0; f < FORMATS && !nib_test_failed(); f++) {
        for (int preset = 0; preset < 5; preset++) {
            for (int c = 0; c < 13; c++) {
                for (int r = 0; r < 6; r++) {
                    const int turn = f + preset + c + r;
                    if (r >= 4 && (cols[c] > 128 || (turn & 3))) continue;
                    if (cols[c] > 4000 && r != 1 + turn % 3) continue;
                    setting s = setting_of(case_formats[f], (nib_dtype)(turn % 3), preset);
                    s.rows = rows[r];
                    s.cols = cols[c];
                    s.ld_extra = turn % 2 ? 5 : 0;
                    s.layout = (nib_scale_layout)(turn / 2 % 2);
                    const float given[] = { 0.0f, 0.011f, 1.0f };
                    s.tensor_scale = given[turn / 3 % 3];
                    s.off = turn % 7 == 0 ? (size_t)(turn / 7 % 5) : 0;
                    case_check_random(&s, turn % 5 == 0, 1);
                }
            }
        }
    }
}

NIB_TEST(OnDeviceEquality, EveryFourBitRuleOnTiesAndSpecials) /* each rule alone and together */
{
    const nib_format four[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16, 0x00100100 };
    random_state = 777;
    for (int i = 0; i < 400 && !nib_test_failed(); i++) {
        setting s = setting_of(four[i % 5], (nib_dtype)(i / 5 % 3), NIB_RULES_TE);
        nib_rules *r = &s.rules;
        r->tensor = (nib_tensor_rule)(next_random() % 3);
        r->block = (nib_block_rule)(next_random() % 3);
        r->element = (nib_element_rule)(next_random() % 3);
        r->mx = (nib_mx_rule)(next_random() % 7);
        r->ties = (nib_tie_rule)(next_random() % 2);
        r->zero_sign = (nib_zero_rule)(next_random() % 5);
        r->nonfinite = (nib_nonfinite_rule)(next_random() % 2);
        r->e4m3_zero = next_random() % 127;
        r->e4m3_min = next_random() % 3 ? next_random() % 127 : 0;
        const float given[] = { 0.0f, 1.0f, 1e-3f, 1e-44f, 2e-38f, 3e38f, -1.0f, NAN, INFINITY };
        s.tensor_scale = given[next_random() % 9];
        s.rows = 1 + i % 3;
        s.cols = 2048 + i % 7 * 11;
        s.layout = (nib_scale_layout)(i % 2);
        case_check_random(&s, 0, 1);
    }
}

/* Blocks whose amax lies within 100 ulp of c * 2^k for every k: where rules of E8M0 scales turn.
 * c is 1, 1.5 (the quotient by 6) and 1.75 (rounded up to E2M1's mantissa). */
NIB_TEST(OnDeviceEquality, EveryMxRuleAroundEveryPowerOfTwo)
{
    enum { BLOCKS = 255 * 3 * 41, N = BLOCKS * 16 };
    float *x = calloc(N, sizeof *x);
    for (int i = 0; i < BLOCKS; i++) {
        const uint32_t mantissa[] = { 0, 0x400000, 0x600000 };
        const uint32_t power = (uint32_t)(i / 123) << 23 | mantissa[i / 41 % 3];
        const uint32_t bits = power + (uint32_t)(i % 41 * 5 - 100);
        x[i * 16 + i % 16] = nib_float_of((int32_t)bits < 0 ? 0 : bits);
    }
    for (int rule = 0; rule < 7; rule++) {
        setting s = setting_of(NIB_MXFP4_B16, NIB_F32, NIB_RULES_TE);
        s.rules.mx = (nib_mx_rule)rule;
        s.rows = 1;
        s.cols = N;
        case_check(&s, x, 1);
    }
    uint16_t *h = malloc(N * sizeof *h); /* every third pattern */
    for (int i = 0; i < BLOCKS; i++) {
        for (int j = 0; j < 16; j++) h[i * 16 + j] = j ? 0 : (uint16_t)(i * 3);
    }
    for (int rule = 0; rule < 7; rule++) {
        setting s = setting_of(NIB_MXFP4_B16, rule % 2 ? NIB_F16 : NIB_BF16, NIB_RULES_TE);
        s.rules.mx = rule % 2 ? NIB_MX_EVEN_SOURCE : (nib_mx_rule)rule;
        s.rules.zero_sign = NIB_ZERO_SOURCE;
        s.rows = 1;
        s.cols = N;
        case_check(&s, h, 1);
    }
    free(x), free(h);
}

NIB_TEST(OnDeviceEquality, SearchesStochasticRoundingAndGgufOrder)
{
    const uint64_t random[2] = { 0x123456789abcdefu, 0xfffffffffffffff0u };
    random_state = 4242;
    for (int i = 0; i < 120 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i % FORMATS], (nib_dtype)(i % 3), i % 5);
        const int four = (s.format & 0xfff) == 0x100;
        s.choice = (nib_scale_choice)(i % (four ? 5 : 3));
        s.rounding = (nib_rounding)(i / 2 % 2);
        memcpy(s.random, random, sizeof random);
        s.rows = 3;
        s.cols = s.choice == NIB_SCALE_MSE_FULL ? 384 : 1280;
        if (i % 4 == 1) s.order = (s.format & 0xff) ? NIB_CODES_PAIRS : NIB_CODES_GGUF_HALVES;
        else s.cols += i % 9;
        s.layout = (nib_scale_layout)(i / 3 % 2);
        case_check_random(&s, i % 2, 1);
    }
}

NIB_TEST(OnDeviceEquality, EverySearchOfFourBits)
{
    const nib_format four[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16 };
    random_state = 2024;
    for (int i = 0; i < 4 * 5 * 3 * 2 && !nib_test_failed(); i++) {
        const int choice = i / 4 % 5;
        setting s = setting_of(four[i % 4], (nib_dtype)(i / 20 % 3), (int)(next_random() % 4));
        if (choice >= 3 && s.format != NIB_NVFP4 && s.format != NIB_NVFP4_B32) continue;
        const float given[] = { 0.0f, 1e-3f, 1e-44f, 3e38f };
        s.tensor_scale = given[next_random() % 4];
        s.choice = (nib_scale_choice)choice;
        s.rows = 2;
        s.cols = choice == NIB_SCALE_MSE_FULL ? 500 : 2100;
        case_check_random(&s, i / 60, 1);
    }
}

NIB_TEST(OnDeviceEquality, ThreadsShareOneLongRowAndManyShortOnes)
{
    const int64_t shapes[][2] = { { 1, 200007 }, { 2, 70000 }, { 3001, 40 }, { 90, 1024 } };
    random_state = 99;
    const nib_format format[] = { NIB_NVFP4, NIB_MXFP6_E2M3, NIB_MXFP4, NIB_NVFP4_B32 };
    for (int i = 0; i < 4 && !nib_test_failed(); i++) {
        setting s = setting_of(format[i], (nib_dtype)(i % 3), NIB_RULES_TE);
        s.rows = shapes[i][0];
        s.cols = shapes[i][1];
        s.layout = (nib_scale_layout)(i % 2);
        case_check_random(&s, i == 2, 0);
    }
}

NIB_TEST(OnDeviceEquality, StreamedStoresWriteWhatPlainOnesDo) /* outputs of more than 8 MiB */
{
    random_state = 31;
    setting s = setting_of(NIB_NVFP4, NIB_BF16, NIB_RULES_TE);
    s.rows = 1500;
    s.cols = 3008;
    case_check_random(&s, 1, 1);
}

static int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

static void relayout(const runner *r, int64_t m, int64_t k, nib_scale_layout from,
                     const buffer *src, nib_scale_layout to, const buffer *dst)
{
    const nib_exec exec = exec_of(r);
    EXPECT(nib_relayout_scales(&exec, m, k, from, src->at, to, dst->at) == NIB_OK, "%s",
           nib_last_error());
}

NIB_TEST(OnDeviceEquality, RelayoutIsItsOwnInverseAndPadsWithZero)
{
    const nib_scale_layout linear = NIB_SCALES_LINEAR, swizzled = NIB_SCALES_SWIZZLED_128X4;
    const int64_t shapes[][2] = { { 1, 1 }, { 127, 3 }, { 128, 4 }, { 129, 5 }, { 300, 64 },
                                  { 0, 7 }, { 7, 0 }, { 1000, 257 }, { 66000, 3 }, { 2, 70001 } };
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < 10 * n; i++) {
        const runner *r = &list[i % n];
        const int64_t m = shapes[i / n][0], k = shapes[i / n][1];
        const size_t plain = (size_t)(m * k), off = (size_t)(i / n % 3);
        const size_t padded = (size_t)(round_up(m, 128) * round_up(k, 4));
        uint8_t *x = malloc(plain + 1);
        for (size_t b = 0; b < plain; b++) x[b] = (uint8_t)(1 + b % 255);
        buffer src = buffer_new(r, x, plain, off), same = buffer_new(r, NULL, plain, off);
        buffer tiles = buffer_new(r, NULL, padded, off), copy = buffer_new(r, NULL, padded, off);
        buffer back = buffer_new(r, NULL, plain, off);
        relayout(r, m, k, linear, &src, swizzled, &tiles);
        relayout(r, m, k, swizzled, &tiles, swizzled, &copy);
        relayout(r, m, k, swizzled, &tiles, linear, &back);
        relayout(r, m, k, linear, &back, linear, &same);
        uint8_t *t = buffer_take(&tiles), *c = buffer_take(&copy), *b = buffer_take(&back);
        uint8_t *s = buffer_take(&same);
        size_t wrong = 0;
        for (size_t at = 0; at < padded; at++) { /* format.h's formula, inverted */
            const int64_t tile = (int64_t)at / 512, in = (int64_t)at % 512, wide = (k + 3) / 4;
            const int64_t row = tile / wide * 128 + in % 16 / 4 * 32 + in / 16;
            const int64_t col = tile % wide * 4 + in % 4;
            wrong += t[at] != (row < m && col < k ? x[row * k + col] : 0);
        }
        EXPECT(wrong == 0, "%s %lldx%lld: %zu wrong", r->name, (long long)m, (long long)k, wrong);
        EXPECT(memcmp(t, c, padded) == 0, "%s %lldx%lld", r->name, (long long)m, (long long)k);
        EXPECT(memcmp(x, b, plain) == 0, "%s %lldx%lld", r->name, (long long)m, (long long)k);
        EXPECT(memcmp(x, s, plain) == 0, "%s %lldx%lld", r->name, (long long)m, (long long)k);
        free(t), free(c), free(b), free(s), free(x), buffer_free(&src);
    }
}

NIB_TEST(OnDeviceEquality, MoreRowsThanAGridIsHigh) /* grids end at 65535 in y and z */
{
    static const int64_t shapes[][2] = { { 70001, 17 }, { 65537, 1 }, { 131079, 3 } };
    random_state = 70001;
    for (int i = 0; i < 3; i++) {
        setting s = setting_of(i == 1 ? NIB_MXFP4 : NIB_NVFP4, (nib_dtype)i, NIB_RULES_TE);
        s.rows = shapes[i][0];
        s.cols = shapes[i][1];
        s.layout = (nib_scale_layout)(i % 2);
        case_check_random(&s, 0, 1);
    }
}

NIB_TEST(OnDeviceEquality, PointersAlignedToTheirElementsOnly)
{
    random_state = 4321;
    for (int i = 0; i < 96; i++) {
        setting s = setting_of(case_formats[i % NAMED_FORMATS], (nib_dtype)(i / 3 % 3), i % 5);
        s.rows = 1 + i % 5;
        s.cols = 64 + i * 37 % 450;
        s.ld_extra = i % 4;
        s.off = 1 + (size_t)i % 17;
        s.layout = (nib_scale_layout)(i / 2 % 2);
        case_check_random(&s, i % 2, 1);
    }
}

/* Row r has its largest element, and a NaN or an Inf behind it, at place r: heads and tails of
 * vectors, lanes and warps in turn. */
NIB_TEST(OnDeviceEquality, TheLargestAtEveryPlaceOfARow)
{
    for (int i = 0; i < 3 * 24 && !nib_test_failed(); i++) {
        setting s = setting_of(i % 2 ? NIB_MXFP4 : NIB_NVFP4, (nib_dtype)(i % 3), NIB_RULES_TE);
        const int n = i < 60 ? 1 + i : 200 + i;
        float *x = malloc((size_t)(n * n) * sizeof *x);
        void *data = malloc((size_t)(n * n) * sizeof *x);
        for (int at = 0; at < n * n; at++) {
            const int r = at / n, c = at % n;
            x[at] = c == r ? -(3.0f + (float)r)
                  : c == r + 1 && r % 3 == 0 ? (r % 2 ? NAN : -INFINITY)
                                             : (float)(c % 5) * 0.25f;
            if (s.dtype == NIB_F32) ((float *)data)[at] = x[at];
            else nib_store_f32((int)s.dtype, data, at, x[at]);
        }
        s.rows = s.cols = n;
        s.off = (size_t)(i % 9);
        case_check(&s, data, 1);
        free(x), free(data);
    }
}

NIB_TEST(OnDeviceEquality, RandomRaggedShapes)
{
    random_state = 90210;
    for (int i = 0; i < 300 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[next_random() % NAMED_FORMATS],
                               (nib_dtype)(next_random() % 3), (int)(next_random() % 5));
        s.rows = next_random() % 4 ? next_random() % 40 : next_random() % 300;
        s.cols = next_random() % (s.rows > 40 ? 200 : 3000);
        s.ld_extra = next_random() % 3 ? 0 : next_random() % 70;
        s.off = next_random() % 3 ? 0 : next_random() % 16;
        s.layout = (nib_scale_layout)(next_random() % 2);
        s.tensor_scale = next_random() % 2 ? 0.0f : ldexpf(1.0f + next_unit() / 2, -9);
        s.rounding = next_random() % 8 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        s.random[0] = next_random();
        s.random[1] = (uint64_t)next_random() << 32 | next_random();
        if (nib_format_element_bits(s.format) == 4 && next_random() % 4 == 0) {
            s.order = NIB_CODES_GGUF_HALVES;
            s.cols -= s.cols % nib_format_block(s.format);
        }
        case_check_random(&s, next_random() % 3 == 0, 1);
    }
}
