/* step_codes_test.c: codes of integers by f32 steps on every runner, against a reference of their
 * own (steps_reference.h), bit for bit; and back, to what nib_fake_quantize_steps gives. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "nibble/step_codes.h"
#include "tests/expect_status.h"
#include "tests/steps_reference.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

static const nib_step_rule rules[] = { NIB_STEP_F32, NIB_STEP_E8M0_BYTE, NIB_STEP_BF16,
                                       NIB_STEP_F16 };

/* Rows of codes as step_codes.h says, gap bytes apart and POISON between. */
static uint8_t *codes_of(const step_setting *s, const step_case *c, int64_t gap, size_t *bytes)
{
    const int64_t used = s->element <= NIB_INT4 ? (s->cols + 1) / 2 : s->cols, ld = used + gap;
    const int64_t group = s->group < s->cols ? s->group : s->cols;
    const int64_t groups = (s->cols + group - 1) / group;
    *bytes = (size_t)(s->rows * ld - gap);
    uint8_t *codes = malloc(*bytes + 1);
    memset(codes, POISON, *bytes);
    for (int64_t r = 0; r < s->rows; r++) {
        uint8_t *row = codes + r * ld;
        memset(row, 0, (size_t)used);
        for (int64_t j = 0; j < s->cols; j++) {
            const int q = (int)c->v[r * s->cols + j] + c->used_zeros[r * groups + j / group];
            if (s->element > NIB_INT4) row[j] = (uint8_t)q;
            else row[j / 2] |= (uint8_t)((q & 15) << (j % 2 ? 4 : 0));
        }
    }
    return codes;
}

static void expect_bytes(buffer *b, const void *right, const char *what, const step_setting *s)
{
    const runner *r = b->on;
    const size_t n = b->bytes;
    uint8_t *got = buffer_take(b);
    const uint8_t *want = right;
    size_t i = 0;
    while (i < n && got[i] == want[i]) i++;
    EXPECT(i == n, "%s: %s, byte %zu of %zu is %#x, not %#x: element %d asymmetric %d given %d "
           "rule %d, group %lld of %lld x %lld, dtypes %d %d, off %zu", r->name, what, i, n,
           i < n ? got[i] : 0, i < n ? want[i] : 0, s->element, s->asymmetric, s->given, s->rule,
           (long long)s->group, (long long)s->rows, (long long)s->cols, s->dtype, s->out_dtype,
           s->off);
    free(got);
}

static buffer matrix_buffer(const runner *r, const step_setting *s, const void *data, nib_dtype d)
{
    return buffer_new(r, data, (size_t)step_matrix_bytes(s, d), s->off * (d == NIB_F32 ? 4 : 2));
}

static void check_on(const runner *r, const step_setting *s, const step_case *c)
{
    const int64_t gap = (int64_t)s->off % 5;
    const size_t n = (size_t)c->steps;
    const nib_exec exec = exec_of(r);
    size_t bytes;
    uint8_t *right = codes_of(s, c, gap, &bytes);
    buffer x = matrix_buffer(r, s, c->x, s->dtype), fake = matrix_buffer(r, s, NULL, s->out_dtype);
    buffer y = matrix_buffer(r, s, NULL, s->out_dtype);
    buffer codes = buffer_new(r, NULL, bytes, s->off);
    buffer steps = buffer_new(r, s->given ? c->given : NULL, n * 4, 4);
    buffer zeros = buffer_new(r, s->given ? c->zeros : NULL, s->asymmetric ? n : 0, s->off);
    const nib_matrix src = { x.at, s->dtype, s->rows, s->cols, s->cols + s->ld_extra };
    const nib_matrix values = { y.at, s->out_dtype, s->rows, s->cols, s->cols + s->ld_extra };
    nib_matrix faked = values;
    faked.data = fake.at;
    const nib_packed_steps dst = {
        .size = sizeof dst, .element = s->element, .asymmetric = s->asymmetric,
        .step_rule = s->rule, .rows = s->rows, .cols = s->cols, .group = s->group,
        .codes = codes.at, .ld_codes_bytes = nib_step_codes_row_bytes(s->element, s->cols) + gap,
        .steps = steps.at, .zeros = s->asymmetric ? zeros.at : NULL,
        .divisor = s->of_half ? NIB_STEP_OF_HALF : NIB_STEP_OF_HI
    };
    const nib_step_options o = {
        .size = sizeof o, .element = s->element, .asymmetric = s->asymmetric,
        .step_rule = s->rule, .group = s->group,
        .steps = s->given || s->of_half ? steps.at : NULL,
        .zeros = s->given || s->of_half ? dst.zeros : NULL
    };
    EXPECT(nib_step_count(s->rows, s->cols, s->group) == c->steps, "%lld steps",
           (long long)nib_step_count(s->rows, s->cols, s->group));
    OK(nib_quantize_steps(&exec, &src, s->given, &dst));
    OK(nib_dequantize_steps(&exec, &dst, &values));
    OK(nib_fake_quantize_steps(&exec, &src, &o, &faked));
    runner_wait(r);
    expect_bytes(&codes, right, "codes", s);
    expect_bytes(&steps, s->given ? c->given : c->used, "steps", s);
    if (s->asymmetric) expect_bytes(&zeros, s->given ? c->zeros : c->used_zeros, "zeros", s);
    else buffer_free(&zeros);
    expect_bytes(&y, c->values, "values", s);
    expect_bytes(&fake, c->values, "fake-quantized", s);
    buffer_free(&x);
    free(right);
}

static void check(const step_setting *s)
{
    const runner *list;
    const int n = runners_open(&list);
    step_case c;
    step_case_fill(s, &c);
    step_case_solve(s, &c);
    for (int i = 0; i < n && !nib_test_failed(); i++) check_on(&list[i], s, &c);
    step_case_free(&c);
}

NIB_TEST(OnDeviceStepCodes, EveryElementGroupAndRule)
{
    static const int64_t groups[] = { 8, 32, 128, 264, 1 << 30 };
    random_state = 301;
    for (int e = NIB_INT2; e <= NIB_INT8; e++) {
        for (int g = 0; g < 5; g++) {
            for (int i = 0; i < 8; i++) {
                const step_setting s = {
                    .element = (nib_step_element)e, .asymmetric = i % 2, .given = i / 2 % 2,
                    .rule = rules[(i / 2 + g) % 4], .rows = 3, .cols = i < 6 ? 600 : 37,
                    .group = groups[g], .dtype = (nib_dtype)((e + g + i) % 3),
                    .out_dtype = (nib_dtype)(i % 3), .off = i % 3 ? 0 : (size_t)i,
                    .of_half = (g + i) % 4 == 0
                };
                check(&s);
            }
        }
    }
}

NIB_TEST(OnDeviceStepCodes, RandomShapes)
{
    static const int64_t groups[] = { 8, 16, 24, 40, 64, 256, 1024, 2056, 1 << 30 };
    random_state = 302;
    for (int i = 0; i < 120; i++) {
        step_setting s = { .element = (nib_step_element)(NIB_INT2 + next_random() % 7) };
        s.asymmetric = next_random() % 2, s.given = next_random() % 2;
        s.rule = rules[next_random() % 4];
        s.group = groups[next_random() % 9];
        s.rows = 1 + next_random() % 9;
        s.cols = 1 + next_random() % (next_random() % 6 ? 200 : 5000);
        s.ld_extra = next_random() % 2 ? (int64_t)(next_random() % 20) : 0;
        s.dtype = (nib_dtype)(next_random() % 3);
        s.out_dtype = (nib_dtype)(next_random() % 3);
        s.off = next_random() % 2 ? 0 : next_random() % 9;
        s.of_half = next_random() % 2;
        check(&s);
    }
}

/* Element i: v = about -2 hi .. 2 hi steps or half a step more, a neighbour of that, or special. */
static void set_edge(const step_setting *s, step_case *c, int64_t i, float step)
{
    static const float special[] = { 0.0f, -0.0f, NAN, INFINITY, -INFINITY, 1e-45f, -1e-45f, 1e-39f,
                                     3.40282347e38f, -3e38f };
    const int span = 2 * (int)step_most(s->element) + 4, near = (int)(i % 3) - 1;
    const double v = (double)(i / 6 % (2 * span) - span) + (i / 3 % 2 ? 0.5 : 0.0);
    if (i % 17 == 16) {
        nib_store_f32((int)s->dtype, c->x, i, special[i / 17 % 10]);
        return;
    }
    nib_store_f32((int)s->dtype, c->x, i, (float)(v * (double)step));
    if (s->dtype == NIB_F32) ((uint32_t *)c->x)[i] += (uint32_t)near;
    else ((uint16_t *)c->x)[i] = (uint16_t)(((uint16_t *)c->x)[i] + near);
}

/* Every midpoint between two codes and its neighbours, all bounds, and what is special. */
NIB_TEST(OnDeviceStepCodes, EveryEdgeOfRounding)
{
    static const int64_t groups[] = { 8, 40, 128, 264, 1 << 30 };
    static const float   steps[] = { 1.0f, 0.1f, 0.0078125f, 1.1e-38f, 3e-45f, 2.6e36f };
    const runner *list;
    const int n = runners_open(&list);
    random_state = 304;
    for (int e = NIB_INT2; e <= NIB_INT8; e++) {
        for (int i = 0; i < 18 && !nib_test_failed(); i++) {
            const step_setting s = {
                .element = (nib_step_element)e, .asymmetric = i / 3 % 2, .given = i < 12,
                .rows = 2, .cols = 1567 + i, .ld_extra = i % 4, .group = groups[(e + i) % 5],
                .dtype = (nib_dtype)(i % 3), .out_dtype = (nib_dtype)((i + e) % 3)
            };
            const float step = steps[(i / 3 + e) % 6];
            step_case c;
            step_case_fill(&s, &c);
            for (int64_t k = 0; k < c.steps; k++) c.given[k] = step;
            for (int64_t k = 0; k < s.rows * (s.cols + s.ld_extra); k++) set_edge(&s, &c, k, step);
            step_case_solve(&s, &c);
            for (int r = 0; r < n && !nib_test_failed(); r++) check_on(&list[r], &s, &c);
            step_case_free(&c);
        }
    }
}

/* Many rows of many groups: over the borders of launches, and for several threads. */
NIB_TEST(OnDeviceStepCodes, LargeMatrices)
{
    random_state = 303;
    const step_setting some[] = {
        { .element = NIB_INT4, .rows = 300, .cols = 512, .group = 128, .rule = NIB_STEP_BF16 },
        { .element = NIB_INT8, .rows = 37, .cols = 9001, .group = 1 << 30, .asymmetric = 1 },
    };
    for (int i = 0; i < 2; i++) check(&some[i]);
}

/* ---- by hand ---- */

NIB_TEST(StepCodes, AreWhatTheHeaderSays)
{
    static const float x[9] = { 7, -8, 0.5f, 1.5f, -1, NAN, INFINITY, -INFINITY, 3 };
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    const uint8_t nibbles[5] = { 0x87, 0x20, 0x0f, 0x87, 0x03 };
    const uint8_t two[5] = { 0xe1, 0x10, 0x0f, 0xe1, 0x01 };
    const uint8_t bytes[9] = { 7, 0xf8, 0, 2, 0xff, 0, 127, 0x80, 3 };
    nib_device *device = NULL;
    uint8_t codes[9];
    float step = 1;
    OK(nib_device_open(&options, &device));
    const nib_exec exec = { .size = sizeof exec, .device = device };
    const nib_matrix src = { (void *)(uintptr_t)x, NIB_F32, 1, 9, 9 };
    nib_packed_steps p = { sizeof p, NIB_INT4, 0, NIB_STEP_F32, 1, 9, 16, codes, 9, &step, NULL,
                           NIB_STEP_OF_HI };
    OK(nib_quantize_steps(&exec, &src, 1, &p));
    EXPECT(memcmp(codes, nibbles, 5) == 0, "%x %x %x %x %x", codes[0], codes[1], codes[2], codes[3],
           codes[4]);
    p.element = NIB_INT2;
    OK(nib_quantize_steps(&exec, &src, 1, &p));
    EXPECT(memcmp(codes, two, 5) == 0, "%x %x %x %x %x", codes[0], codes[1], codes[2], codes[3],
           codes[4]);
    p.element = NIB_INT8;
    OK(nib_quantize_steps(&exec, &src, 1, &p));
    EXPECT(memcmp(codes, bytes, 9) == 0, "other bytes");
    nib_device_close(device);
}

/* What step_codes.h says of pack-quantized: word i of a row is the sum over its elements j of
 * (q_j - lo) << bits * j. */
NIB_TEST(StepCodes, AreWordsOfPackQuantized)
{
    enum { COLS = 32 };
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    nib_device *device = NULL;
    random_state = 304;
    OK(nib_device_open(&options, &device));
    const nib_exec exec = { .size = sizeof exec, .device = device };
    for (int bits = 4; bits <= 8; bits += 4) {
        const int low = -(1 << (bits - 1)), each = 32 / bits;
        float x[COLS], step = 1;
        uint8_t codes[COLS];
        for (int j = 0; j < COLS; j++) x[j] = (float)(low + (int)(next_random() >> (32 - bits)));
        const nib_matrix src = { x, NIB_F32, 1, COLS, COLS };
        const nib_packed_steps p = { sizeof p, (nib_step_element)(16 + bits), 0, NIB_STEP_F32, 1,
                                     COLS, COLS, codes, COLS, &step, NULL, NIB_STEP_OF_HI };
        OK(nib_quantize_steps(&exec, &src, 1, &p));
        for (int i = 0; i < COLS / each; i++) {
            uint32_t right = 0, got = 0;
            for (int j = 0; j < each; j++)
                right |= (uint32_t)((int)x[i * each + j] - low) << bits * j;
            for (int b = 0; b < 4; b++)
                got |= (uint32_t)(codes[4 * i + b] ^ (bits == 4 ? 0x88 : 0x80)) << 8 * b;
            EXPECT(got == right, "%d bits, word %d is %08x, not %08x", bits, i, got, right);
        }
    }
    nib_device_close(device);
}

/* 0.75 / 7.5 = 0.1: 0.75 is 7.5 steps, and its code 7; -0.75 is -7.5, and its code -8. */
NIB_TEST(StepCodes, DivideByHalfOfTheRange)
{
    static const float x[2][8] = { { 0.75f, 0.5f, -0.5f, 0 }, { -0.75f, 0.5f, -0.5f, 0 } };
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    nib_device *device = NULL;
    OK(nib_device_open(&options, &device));
    const nib_exec exec = { .size = sizeof exec, .device = device };
    const nib_matrix src = { (void *)(uintptr_t)x, NIB_F32, 2, 8, 8 };
    uint8_t codes[8];
    float steps[2];
    nib_packed_steps p = { sizeof p, NIB_INT4, 0, NIB_STEP_F32, 2, 8, 8, codes, 4, steps, NULL,
                           NIB_STEP_OF_HALF };
    OK(nib_quantize_steps(&exec, &src, 0, &p));
    EXPECT(steps[0] == 0.75f / 7.5f && steps[1] == steps[0] && codes[0] == 0x57
           && codes[4] == 0x58 && codes[1] == 0x0b, "steps %g %g, codes %x %x %x",
           (double)steps[0], (double)steps[1], codes[0], codes[4], codes[1]);
    p.size = offsetof(nib_packed_steps, divisor); /* a caller that knows no divisor */
    OK(nib_quantize_steps(&exec, &src, 0, &p));
    EXPECT(steps[0] == 0.75f / 7.0f && codes[0] == 0x57 && codes[4] == 0x59,
           "steps %g, codes %x %x", (double)steps[0], codes[0], codes[4]);
    nib_device_close(device);
}

NIB_TEST(StepCodes, Sizes)
{
    EXPECT(nib_step_codes_row_bytes(NIB_INT4, 9) == 5 && nib_step_codes_row_bytes(NIB_INT2, 8) == 4
           && nib_step_codes_row_bytes(NIB_INT5, 9) == 9
           && nib_step_codes_row_bytes(NIB_INT8, 0) == 0, "bytes");
    EXPECT(nib_step_codes_row_bytes(NIB_STEP_E2M1, 8) == -1
           && nib_step_codes_row_bytes(NIB_INT4, -1) == -1
           && nib_step_codes_row_bytes((nib_step_element)25, 8) == -1, "no bytes");
    EXPECT(nib_step_count(3, 40, 16) == 9 && nib_step_count(3, 41, INT64_MAX) == 3
           && nib_step_count(3, 0, 8) == 0, "steps");
    EXPECT(nib_step_count(3, 40, 12) == -1 && nib_step_count(3, 40, 0) == -1
           && nib_step_count(-1, 40, 8) == -1 && nib_step_count(INT64_MAX, 40, 8) == -1,
           "no steps");
}

/* ---- preconditions ---- */

enum { ROWS = 3, COLS = 40, STEPS = 9 };

typedef struct request {
    nib_exec         exec;
    nib_matrix       m;
    nib_packed_steps p;
    int32_t          given;
    float            x[ROWS * COLS], steps[STEPS];
    uint8_t          codes[ROWS * COLS];
    int8_t           zeros[STEPS];
} request;

static void request_init(request *r, const nib_device *device)
{
    memset(r, 0, sizeof *r);
    r->exec = (nib_exec){ .size = sizeof r->exec, .device = device, .threads = 1 };
    r->m = (nib_matrix){ r->x, NIB_F32, ROWS, COLS, COLS };
    r->p = (nib_packed_steps){ sizeof r->p, NIB_INT4, 1, NIB_STEP_F32, ROWS, COLS, 16, r->codes,
                               COLS / 2, r->steps, r->zeros, NIB_STEP_OF_HI };
}

NIB_TEST(StepCodes, RefuseBadInput)
{
#define ROW(member, value, status, piece)                                                        \
    { #member " = " #value, offsetof(request, member), sizeof(((request *)0)->member),           \
      (int64_t)(value), NIB_ERR_##status, piece }
    static const struct {
        const char *label;
        size_t      offset, bytes;
        int64_t     value;
        nib_status  status;
        const char *piece;
    } changes[] = {
        ROW(exec.size, 0, ARGUMENT, "size is 0"), ROW(m.dtype, 3, ARGUMENT, "dtype 3"),
        ROW(m.data, 0, ARGUMENT, "data is NULL"), ROW(m.rows, 2, SHAPE, "2 x 40"),
        ROW(p.size, offsetof(nib_packed_steps, divisor) - 1, ARGUMENT, "->size is"),
        ROW(p.element, NIB_STEP_E4M3, ARGUMENT, "element 3"),
        ROW(p.element, 17, ARGUMENT, "element 17"), ROW(p.element, 25, ARGUMENT, "element 25"),
        ROW(p.asymmetric, 2, ARGUMENT, "asymmetric is 2"),
        ROW(p.asymmetric, 0, ARGUMENT, "zeros is given"),
        ROW(p.step_rule, 5, ARGUMENT, "step rule 5"),
        ROW(p.divisor, 2, ARGUMENT, "divisor 2"),
        ROW(p.step_rule, NIB_STEP_E4M3_BYTE, UNSUPPORTED, "tensor scale"),
        ROW(p.rows, -1, SHAPE, "-1 x 40"), ROW(p.cols, 39, SHAPE, "3 x 39"),
        ROW(p.group, 12, SHAPE, "group 12"), ROW(p.group, 0, SHAPE, "group 0"),
        ROW(p.group, -8, SHAPE, "group -8"), ROW(p.ld_codes_bytes, 19, SHAPE, "bytes is 19"),
        ROW(p.ld_codes_bytes, INT64_MAX / 2, SHAPE, "ld_codes_bytes"),
        ROW(p.codes, 0, ARGUMENT, "codes is NULL"), ROW(p.steps, 0, ARGUMENT, "steps is NULL"),
        ROW(p.zeros, 0, ARGUMENT, "zeros is NULL"),
        ROW(p.steps, 0x1002, ALIGNMENT, "steps 0x1002"),
        ROW(given, 2, ARGUMENT, "given is 2"),
    };
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    nib_device *device = NULL;
    OK(nib_device_open(&options, &device));
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        request r, before;
        request_init(&r, device);
        memcpy((uint8_t *)&r + changes[i].offset, &changes[i].value, changes[i].bytes);
        memcpy(&before, &r, sizeof r);
        EXPECT_FAILS(changes[i].label, nib_quantize_steps(&r.exec, &r.m, r.given, &r.p),
                     changes[i].status, changes[i].piece);
        if (changes[i].offset != offsetof(request, given))
            EXPECT_FAILS(changes[i].label, nib_dequantize_steps(&r.exec, &r.p, &r.m),
                         changes[i].status, changes[i].piece);
        EXPECT(!memcmp(&before, &r, sizeof r), "%s: something was written", changes[i].label);
    }
    request r;
    request_init(&r, device);
    EXPECT_FAILS("NULL", nib_quantize_steps(&r.exec, &r.m, 0, NULL), NIB_ERR_ARGUMENT, "dst is");
    EXPECT_FAILS("NULL", nib_dequantize_steps(&r.exec, NULL, &r.m), NIB_ERR_ARGUMENT, "src is");
    r.m.cols = r.p.cols = 0;
    r.p.codes = NULL, r.p.steps = NULL, r.p.zeros = NULL;
    OK(nib_quantize_steps(&r.exec, &r.m, 0, &r.p));
    OK(nib_dequantize_steps(&r.exec, &r.p, &r.m));
    nib_device_close(device);
}
