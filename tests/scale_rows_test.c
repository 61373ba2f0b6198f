/* scale_rows_test.c: scales that 16 rows share, on every backend: against the rules of
 * kernels/common, and against the transpose. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/packed.h"
#include "tests/device_case.h"

/* The scales and codes that one runner makes, held to the rule for each tile. */
static void check_rule(const setting *s, const void *x)
{
    const runner *list;
    outcome o;
    if (!runners_open(&list)) return;
    case_run(&list[0], s, x, &o);
    const nib_block_rules rules = nib_block_rules_of(s->format, &s->rules, s->choice, s->dtype);
    const nib_tensor_scales scales = !nib_format_has_tensor_scale(s->format)
                                         ? (nib_tensor_scales){ 1, 1 }
                                     : s->tensor_scale == 0 ? nib_tensor_factors(&rules, o.amax)
                                                            : nib_tensor_given(s->tensor_scale);
    const nib_tensor_math math = nib_tensor_math_of(&rules, scales);
    const int64_t block = rules.block, per_row = nib_scales_per_row(s->format, s->cols);
    const int64_t ld = s->cols + s->ld_extra;
    const int bits = nib_format_element_bits(s->format);
    int64_t wrong_scales = 0, wrong_codes = 0;
    for (int64_t r = 0; r < s->rows; r++) {
        for (int64_t k = 0; k < per_row; k++) {
            const int64_t end = (k + 1) * block < s->cols ? (k + 1) * block : s->cols;
            float most = 0;
            int special = 0;
            for (int64_t i = r / 16 * 16; i < s->rows && i / 16 == r / 16; i++) {
                for (int64_t c = k * block; c < end; c++) {
                    const float a = fabsf(nib_load_f32((int)s->dtype, x, i * ld + c));
                    if (!(a <= NIB_F32_MAX)) special = 1;
                    else if (a > most) most = a;
                }
            }
            const int is_nan = special && rules.nonfinite == NIB_NF_NAN;
            const uint32_t byte = is_nan ? nib_scale_nan_byte(rules.e4m3_scale)
                                         : nib_block_scale(&math, most);
            wrong_scales += o.scales[nib_scale_index(s->layout, r, k, per_row)] != byte;
            const nib_block_unit unit = is_nan ? (nib_block_unit){ 0, 0 }
                                               : nib_block_unit_of(&math, byte);
            for (int64_t c = k * block; bits == 4 && c < end; c++) {
                const float v = nib_load_f32((int)s->dtype, x, r * ld + c);
                const uint32_t word = nib_random_word(s->random[0], s->random[1],
                                                      (uint64_t)(r * s->cols + c));
                const uint32_t code = is_nan ? 0
                    : nib_block_code(&math, unit, v, s->rounding == NIB_ROUND_STOCHASTIC, word);
                const uint8_t got = o.codes[r * setting_ld_codes(s) + c / 2];
                wrong_codes += (got >> 4 * (c % 2) & 15) != (int)code;
            }
        }
    }
    EXPECT(wrong_scales == 0 && wrong_codes == 0, "format %#x dtype %d %lldx%lld: %lld scales and "
           "%lld codes", s->format, s->dtype, (long long)s->rows, (long long)s->cols,
           (long long)wrong_scales, (long long)wrong_codes);
    case_release(&o);
}

NIB_TEST(OnDeviceScaleRows, EveryFormatRuleAndRaggedShape)
{
    random_state = 1616;
    for (int i = 0; i < 400 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i % FORMATS], (nib_dtype)(i / 7 % 3), i % 5);
        s.scale_rows = 16;
        s.rows = i % 23 == 0 ? 0 : 1 + (int64_t)(next_random() % 70);
        s.cols = i % 3 ? 32 * (1 + (int64_t)(next_random() % 9)) : (int64_t)(next_random() % 150);
        s.ld_extra = i % 4 == 0 ? 5 : 0;
        s.layout = (nib_scale_layout)(i / 2 % 2);
        s.tensor_scale = i % 2 ? 0.0f : 0.02f;
        s.rounding = i % 11 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        s.random[0] = next_random(), s.random[1] = next_random();
        if (i % 6 == 0) {
            s.rules.ties = (nib_tie_rule)(next_random() % 2);
            s.rules.zero_sign = (nib_zero_rule)(next_random() % 5);
            s.rules.nonfinite = (nib_nonfinite_rule)(next_random() % 2);
            s.rules.e4m3_min = next_random() % 127;
        }
        const int64_t n = s.rows * (s.cols + s.ld_extra);
        void *x = malloc((size_t)n * 4 + 4);
        fill_matrix(s.dtype, x, n, i % 3 == 0);
        case_check(&s, x, 1);
        check_rule(&s, x);
        free(x);
    }
}

NIB_TEST(OnDeviceScaleRows, ThreadsShareTallAndWideMatrices)
{
    const int64_t shapes[][2] = { { 16, 70000 }, { 3001, 48 }, { 330, 1024 } };
    random_state = 77;
    for (int i = 0; i < 3 && !nib_test_failed(); i++) {
        setting s = setting_of(i == 1 ? NIB_MXFP4 : NIB_NVFP4, NIB_BF16, NIB_RULES_TE);
        s.scale_rows = 16;
        s.rows = shapes[i][0], s.cols = shapes[i][1];
        case_check_random(&s, 1, 0);
    }
}

/* With blocks of 16 a tile is square. */
NIB_TEST(OnDeviceScaleRows, ATransposeGetsTransposedValues)
{
    const nib_format formats[] = { NIB_NVFP4, NIB_MXFP4_B16, NIB_FP8_E4M3_B16, NIB_FP6_E2M3_B16 };
    const runner *list;
    const int n = runners_open(&list);
    random_state = 4242;
    for (int i = 0; i < 48 && !nib_test_failed(); i++) {
        setting s = setting_of(formats[i % 4], (nib_dtype)(i / 4 % 3), i / 12 % 3), t;
        s.scale_rows = 16;
        s.rows = 16 * (1 + (int64_t)(next_random() % 4));
        s.cols = 16 * (1 + (int64_t)(next_random() % 9));
        t = s;
        t.rows = s.cols, t.cols = s.rows;
        const int64_t size = s.dtype == NIB_F32 ? 4 : 2;
        uint8_t *x = malloc((size_t)(s.rows * s.cols * size)), *y = malloc((size_t)(s.rows * s.cols
                                                                                   * size));
        fill_matrix(s.dtype, x, s.rows * s.cols, i % 2);
        for (int64_t r = 0; r < s.rows; r++) {
            for (int64_t c = 0; c < s.cols; c++)
                memcpy(y + (c * s.rows + r) * size, x + (r * s.cols + c) * size, (size_t)size);
        }
        outcome a, b;
        const runner *on = &list[n - 1];
        case_run(on, &s, x, &a);
        case_run(on, &t, y, &b);
        int64_t wrong = 0;
        const uint32_t *p = (const uint32_t *)(void *)a.values[0];
        const uint32_t *q = (const uint32_t *)(void *)b.values[0];
        for (int64_t r = 0; r < s.rows; r++)
            for (int64_t c = 0; c < s.cols; c++) wrong += p[r * s.cols + c] != q[c * s.rows + r];
        EXPECT(wrong == 0, "%s: %lld of %lld values, format %#x", on->name, (long long)wrong,
               (long long)(s.rows * s.cols), s.format);
        case_release(&a), case_release(&b);
        free(x), free(y);
    }
}

/* What lies behind a smaller struct is not read. */
NIB_TEST(ScaleRows, OptionsOfTheFirstVersion)
{
    const runner *list;
    if (!runners_open(&list)) return;
    const nib_exec exec = { .size = sizeof exec, .device = list[0].device, .threads = 1 };
    float x[32 * 16], scale = 0.25f;
    uint8_t codes[2][32 * 8], scales[2][32];
    random_state = 5;
    for (int i = 0; i < 32 * 16; i++) x[i] = next_unit();
    const nib_matrix m = { x, NIB_F32, 32, 16, 16 };
    nib_packed p = { .size = sizeof p, .format = NIB_NVFP4, .rows = 32, .cols = 16,
                     .ld_codes_bytes = 8, .tensor_scale = &scale };
    nib_quantize_options o = { .size = offsetof(nib_quantize_options, scale_rows),
                               .scale_rows = 16 };
    for (int i = 0; i < 2; i++) {
        p.codes = codes[i], p.scales = scales[i];
        EXPECT(nib_quantize(&exec, &m, i ? NULL : &o, &p) == NIB_OK, "%s", nib_last_error());
    }
    EXPECT(!memcmp(codes[0], codes[1], sizeof codes[0]), "codes");
    EXPECT(!memcmp(scales[0], scales[1], sizeof scales[0]), "scales");
    o.size = sizeof o;
    EXPECT(nib_quantize(&exec, &m, &o, &p) == NIB_OK, "%s", nib_last_error());
    EXPECT(memcmp(scales[0], scales[1], sizeof scales[0]), "16 rows share nothing");
}
