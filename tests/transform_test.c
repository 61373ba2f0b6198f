/* transform_test.c: a transform is what this file computes from its definition, to a bound, in f64;
 * what the portable CPU makes of it, byte for byte, on every backend; and quantizing it in one
 * pass is applying it and quantizing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "nibble/transform.h"
#include "tests/device_case.h"

static int is_offered(const runner *r) { return r->device->ops->quantize_transformed != NULL; }

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

static size_t width_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

/* A transform of a setting's matrix, in the host's memory. */
typedef struct plan {
    setting          s;
    nib_transform_op op;
    int32_t          hadamard;
    int              weight, residual, residual_out, in_place, signs; /* whether there is one */
    nib_dtype        weight_dtype;
    float            eps, amax_before;
    void            *x, *other, *w; /* other: residual or y */
    uint8_t         *sign_bits;
} plan;

static void plan_fill(plan *p, int only_tame)
{
    setting *s = &p->s;
    const int64_t n = s->rows * (s->cols + s->ld_extra);
    p->x = malloc((size_t)n * 4 + 4);
    p->other = malloc((size_t)n * 4 + 4);
    p->w = malloc((size_t)s->cols * 4 + 4);
    p->sign_bits = malloc((size_t)s->cols / 8 + 1);
    fill_matrix(s->dtype, p->x, n, only_tame);
    fill_matrix(s->dtype, p->other, n, only_tame);
    fill_matrix(p->weight_dtype, p->w, s->cols, 1);
    for (int64_t i = 0; i < s->cols / 8 + 1; i++) p->sign_bits[i] = (uint8_t)(next_random() >> 9);
}

static void plan_free(plan *p) { free(p->x), free(p->other), free(p->w), free(p->sign_bits); }

/* A plan's buffers on a runner, and what the library is told. */
typedef struct staged {
    const plan   *p;
    buffer        x, other, out, w, signs, amax;
    nib_matrix    src, other_matrix, out_matrix;
    nib_transform t;
} staged;

static buffer matrix_buffer(const runner *r, const setting *s, const void *data)
{
    return buffer_new(r, data, (size_t)setting_matrix_bytes(s, s->dtype),
                      s->off * width_of(s->dtype));
}

static void stage(staged *g, const plan *p, const runner *r)
{
    const setting *s = &p->s;
    const int64_t ld = s->cols + s->ld_extra;
    const size_t w_bytes = (size_t)s->cols * width_of(p->weight_dtype);
    const int rms = p->op == NIB_TRANSFORM_RMSNORM;
    g->p = p;
    g->x = matrix_buffer(r, s, p->x);
    g->other = matrix_buffer(r, s, p->other);
    g->out = matrix_buffer(r, s, NULL);
    g->w = buffer_new(r, p->w, w_bytes, s->off * width_of(p->weight_dtype));
    g->signs = buffer_new(r, p->sign_bits, (size_t)(s->cols + 7) / 8, s->off);
    g->amax = buffer_new(r, &p->amax_before, sizeof(float), 0);
    g->src = (nib_matrix){ g->x.at, s->dtype, s->rows, s->cols, ld };
    g->other_matrix = (nib_matrix){ g->other.at, s->dtype, s->rows, s->cols, ld };
    g->out_matrix = p->in_place ? g->other_matrix
                                : (nib_matrix){ g->out.at, s->dtype, s->rows, s->cols, ld };
    g->t = (nib_transform){
        .size = sizeof g->t, .op = p->op, .hadamard = p->hadamard,
        .weight = p->weight ? g->w.at : NULL, .weight_dtype = p->weight_dtype, .eps = p->eps,
        .residual = rms && p->residual ? &g->other_matrix : NULL,
        .residual_out = rms && p->residual && p->residual_out ? &g->out_matrix : NULL,
        .y = p->op == NIB_TRANSFORM_SILU_MUL ? &g->other_matrix : NULL,
        .signs = p->signs && p->hadamard ? g->signs.at : NULL,
        .amax = g->amax.at,
    };
}

/* What is left in the host's memory. */
typedef struct left {
    void *other, *out;
    float amax;
} left;

static left unstage(staged *g)
{
    left l;
    buffer_get(&g->amax, &l.amax);
    l.other = buffer_take(&g->other);
    l.out = buffer_take(&g->out);
    const size_t bytes = g->x.bytes;
    void *x = buffer_take(&g->x);
    EXPECT(!bytes || !memcmp(x, g->p->x, bytes), "src changed");
    free(x);
    buffer_free(&g->w), buffer_free(&g->signs), buffer_free(&g->amax);
    return l;
}

static void same(const void *a, const void *b, int64_t n, const char *what, const plan *p,
                 const runner *r)
{
    const uint8_t *got = a, *right = b;
    for (int64_t i = 0; n > 0 && memcmp(got, right, (size_t)n) && i < n; i++) {
        if (got[i] == right[i]) continue;
        EXPECT(0, "%s: %s, byte %lld of %lld is %#x, not %#x: op %d hadamard %d, format %#x, dtype "
               "%d, %lld x %lld + %lld, weight %d of %d, residual %d%d%d, signs %d, layout %d, "
               "choice %d, rounding %d, scale rows %d, off %zu", r->name, what, (long long)i,
               (long long)n, got[i], right[i], p->op, p->hadamard, p->s.format, p->s.dtype,
               (long long)p->s.rows, (long long)p->s.cols, (long long)p->s.ld_extra, p->weight,
               p->weight_dtype, p->residual, p->residual_out, p->in_place, p->signs, p->s.layout,
               p->s.choice, p->s.rounding, p->s.scale_rows, p->s.off);
        return;
    }
}

/* nib_transform_apply to dtype. */
static void *applied(const plan *p, const runner *r, nib_dtype dtype, left *l)
{
    const nib_exec exec = exec_of(r);
    staged g;
    stage(&g, p, r);
    buffer to = buffer_new(r, NULL, (size_t)setting_matrix_bytes(&p->s, dtype),
                           p->s.off * width_of(dtype));
    const nib_matrix dst = { to.at, dtype, p->s.rows, p->s.cols, p->s.cols + p->s.ld_extra };
    OK(nib_transform_apply(&exec, &g.t, &g.src, &dst));
    *l = unstage(&g);
    return buffer_take(&to);
}

/* nib_quantize_transformed; its codes, scales and tensor scale. */
static void quantized(const plan *p, const runner *r, const float *amax, outcome *o, left *l)
{
    const setting *s = &p->s;
    const nib_exec exec = exec_of(r);
    const int tensor = nib_format_has_tensor_scale(s->format);
    const float given = s->tensor_scale == 0.0f ? NAN : s->tensor_scale;
    staged g;
    stage(&g, p, r);
    buffer codes = buffer_new(r, NULL, (size_t)setting_codes_bytes(s), s->off);
    buffer scales = buffer_new(r, NULL, (size_t)setting_scales_bytes(s), s->off);
    buffer scale = buffer_new(r, &given, sizeof given, 0);
    buffer most = buffer_new(r, amax, sizeof *amax, 0);
    buffer random = buffer_new(r, s->random, sizeof s->random, 0);
    const nib_packed packed = { sizeof packed, s->format, s->order, s->layout, s->rows, s->cols,
                                codes.at, setting_ld_codes(s), scales.at,
                                tensor ? scale.at : NULL };
    const nib_quantize_options options = {
        .size = sizeof options, .scale_choice = s->choice, .rounding = s->rounding,
        .rules = &s->rules, .random = random.at,
        .tensor_amax = tensor && s->tensor_scale == 0.0f ? most.at : NULL,
        .scale_rows = s->scale_rows,
    };
    OK(nib_quantize_transformed(&exec, &g.t, &g.src, &options, &packed));
    *l = unstage(&g);
    buffer_get(&scale, &o->tensor_scale);
    o->codes = buffer_take(&codes);
    o->scales = buffer_take(&scales);
    buffer_free(&scale), buffer_free(&most), buffer_free(&random);
}

/* On every runner, or on few: every dtype of apply, and the fused pass against two calls of the
 * reference. */
static void check(const plan *p, int few, int turn)
{
    const setting *s = &p->s;
    const runner *list;
    const int n = runners_open(&list);
    left right_left[3], l;
    void *right[3];
    outcome o, got;
    for (int d = 0; d < 3; d++) right[d] = applied(p, &list[0], (nib_dtype)d, &right_left[d]);
    case_run(&list[0], s, right[s->dtype], &o); /* of the values, with their gaps */
    EXPECT(right_left[0].amax == fmaxf(o.amax, p->amax_before), "amax %g, not %g of %g",
           (double)right_left[0].amax, (double)o.amax, (double)p->amax_before);
    const int64_t bytes = setting_matrix_bytes(s, s->dtype);
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        const runner *r = &list[i];
        if (!is_offered(r) || (few && i != 0 && i != 2 && i != 4 && i != n - 1)) continue;
        for (int d = 0; d < 3 && i; d++) {
            if (few && d != (int)s->dtype && d != turn % 3) continue;
            void *values = applied(p, r, (nib_dtype)d, &l);
            same(values, right[d], setting_matrix_bytes(s, (nib_dtype)d), "values", p, r);
            same(l.other, right_left[d].other, bytes, "residual or y", p, r);
            same(l.out, right_left[d].out, bytes, "residual_out", p, r);
            same(&l.amax, &right_left[d].amax, sizeof l.amax, "amax", p, r);
            free(values), free(l.other), free(l.out);
        }
        if (runner_is_cuda(r) && !format_has_name(s->format)) continue;
        quantized(p, r, &o.amax, &got, &l);
        same(got.codes, o.codes, setting_codes_bytes(s), "codes", p, r);
        same(got.scales, o.scales, setting_scales_bytes(s), "scales", p, r);
        same(&got.tensor_scale, &o.tensor_scale, sizeof o.tensor_scale, "tensor scale", p, r);
        same(l.other, right_left[0].other, bytes, "residual or y", p, r);
        same(l.out, right_left[0].out, bytes, "residual_out", p, r);
        same(&l.amax, &right_left[0].amax, sizeof l.amax, "amax of the fused pass", p, r);
        free(got.codes), free(got.scales), free(l.other), free(l.out);
    }
    for (int d = 0; d < 3; d++) free(right[d]), free(right_left[d].other), free(right_left[d].out);
    case_release(&o);
}

static plan plan_of(int turn, nib_format format, nib_dtype dtype, int preset)
{
    plan p = { .s = setting_of(format, dtype, preset), .op = (nib_transform_op)(turn % 3) };
    const int32_t rotations[] = { 0, 16, 32, 64, 128 };
    p.hadamard = rotations[turn / 3 % 5];
    p.weight = turn / 2 % 3 != 0;
    p.weight_dtype = turn / 6 % 2 ? NIB_F32 : dtype;
    p.residual = turn / 3 % 2;
    p.residual_out = turn / 5 % 3 != 0;
    p.in_place = p.residual_out && turn / 7 % 2;
    p.signs = turn / 4 % 2;
    p.eps = turn % 5 ? 1e-6f : 0.0f;
    p.amax_before = turn % 4 == 0 ? 3e38f : turn % 4 == 1 ? 1.5f : 0.0f;
    p.s.layout = (nib_scale_layout)(turn / 9 % 2);
    p.s.tensor_scale = turn / 11 % 3 ? 0.0f : 0.02f;
    p.s.random[0] = next_random(), p.s.random[1] = (uint64_t)next_random() << 32;
    return p;
}

/* ---- the tests ---- */

/* Sums, roots, exponentials and rotations against the definitions in f64. */
NIB_TEST(OnDeviceTransform, IsWhatItsDefinitionSays)
{
    random_state = 7;
    for (int turn = 0; turn < 120 && !nib_test_failed(); turn++) {
        plan p = plan_of(turn, NIB_MXFP4, NIB_F32, NIB_RULES_TE);
        p.s.rows = 2;
        p.s.cols = 128 * (1 + turn % 9) + (p.hadamard ? 0 : turn % 7);
        plan_fill(&p, 1);
        const runner *list;
        const int n = runners_open(&list);
        left l;
        const int64_t cols = p.s.cols;
        const float *x = p.x, *other = p.other, *w = p.w;
        float *got = applied(&p, &list[n - 1], NIB_F32, &l);
        double *right = malloc((size_t)cols * sizeof *right), worst = 0;
        for (int64_t row = 0; row < p.s.rows; row++) {
            double sum = 0, norm = 0;
            for (int64_t c = 0; c < cols; c++) {
                const float h = x[row * cols + c]
                              + (p.residual && p.op == NIB_TRANSFORM_RMSNORM ? other[row * cols + c]
                                                                             : 0.0f);
                right[c] = h;
                sum += (double)h * (double)h;
            }
            for (int64_t c = 0; c < cols; c++) {
                if (p.op == NIB_TRANSFORM_RMSNORM)
                    right[c] *= (p.weight ? (double)w[c] : 1) / sqrt(sum / (double)cols
                                                                     + (double)p.eps);
                if (p.op == NIB_TRANSFORM_SILU_MUL)
                    right[c] *= (double)other[row * cols + c] / (1 + exp(-right[c]));
                if (p.hadamard && p.signs && p.sign_bits[c / 8] >> c % 8 & 1) right[c] = -right[c];
                norm = fmax(norm, fabs(right[c]));
            }
            for (int64_t c = 0; c < cols; c++) {
                double value = right[c];
                const int64_t k = p.hadamard, run = k ? c / k * k : 0;
                for (int64_t j = 0; j < k; j++)
                    value = (j ? value : 0)
                          + (__builtin_popcountll((unsigned long long)((c - run) & j)) % 2
                                 ? -right[run + j] : right[run + j]);
                if (k) value /= sqrt((double)k);
                worst = fmax(worst, fabs(value - (double)got[row * cols + c]) / norm);
            }
        }
        EXPECT(worst < 4e-6, "turn %d: op %d, hadamard %d: %g of the largest", turn, p.op,
               p.hadamard, worst);
        free(got), free(l.other), free(l.out), free(right);
        plan_free(&p);
    }
}

NIB_TEST(OnDeviceTransform, FusedIsUnfusedForEveryFormatAndPreset)
{
    const int64_t cols[] = { 128, 384, 1152, 256, 2176 };
    random_state = 20;
    for (int f = 0; f < FORMATS && !nib_test_failed(); f++) {
        for (int preset = 0; preset < 5; preset++) {
            for (int c = 0; c < 5; c++) {
                const int turn = f * 31 + preset * 7 + c * 3 + f / 3 + c / 2;
                plan p = plan_of(turn, case_formats[f], (nib_dtype)((f + c) % 3), preset);
                p.s.rows = 1 + turn % 4;
                p.s.cols = cols[c];
                p.s.ld_extra = turn % 3 ? 0 : 16;
                plan_fill(&p, turn % 2);
                check(&p, 1, turn);
                plan_free(&p);
            }
        }
    }
}

NIB_TEST(OnDeviceTransform, RaggedEmptyAndUnaligned)
{
    const int64_t cols[] = { 1, 15, 17, 33, 100, 0, 1000, 1025, 2047 };
    random_state = 21;
    for (int turn = 0; turn < 160 && !nib_test_failed(); turn++) {
        plan p = plan_of(turn, case_formats[turn % (turn % 2 ? 4 : FORMATS)],
                         (nib_dtype)(turn / 2 % 3), turn % 5);
        p.s.rows = turn % 13 == 0 ? 0 : 1 + turn % 3;
        p.s.cols = p.hadamard ? p.hadamard * (turn % 5) : cols[turn % 9];
        p.s.ld_extra = turn % 3 ? 3 : 0;
        p.s.off = turn % 4 ? (size_t)(turn % 4) : 0;
        plan_fill(&p, 0);
        check(&p, 1, turn);
        plan_free(&p);
    }
}

NIB_TEST(OnDeviceTransform, StochasticSearchedAndHalvesOrder)
{
    random_state = 22;
    for (int turn = 0; turn < 60 && !nib_test_failed(); turn++) {
        plan p = plan_of(turn, case_formats[turn % 4], (nib_dtype)(turn / 4 % 3), turn % 5);
        const int four = p.s.format == NIB_NVFP4 || p.s.format == NIB_NVFP4_B32;
        p.s.choice = turn % 3 ? NIB_SCALE_AMAX : (nib_scale_choice)(turn / 3 % (four ? 5 : 3));
        p.s.rounding = (nib_rounding)(turn % 2);
        p.s.order = turn % 4 == 2 ? NIB_CODES_GGUF_HALVES : NIB_CODES_PAIRS;
        p.s.rows = 2;
        p.s.cols = 128 * (1 + turn % 2) + (p.hadamard || p.s.order ? 0 : turn % 5);
        if (p.s.choice == NIB_SCALE_MSE_FULL) p.s.rows = 1, p.s.cols = 128;
        plan_fill(&p, 0);
        check(&p, 1, turn);
        plan_free(&p);
    }
}

/* Scales of 16 rows: of every kind of matrix, NaN and Inf in it, and the last tile short. */
NIB_TEST(OnDeviceTransform, RowsThatShareScales)
{
    const int64_t cols[] = { 128, 1, 384, 33, 0, 1000, 256, 17, 2176 };
    random_state = 25;
    for (int turn = 0; turn < 90 && !nib_test_failed(); turn++) {
        plan p = plan_of(turn, case_formats[turn * 5 % (turn % 2 ? 4 : FORMATS)],
                         (nib_dtype)(turn / 2 % 3), turn % 5);
        p.s.scale_rows = 16;
        p.s.rows = turn % 17 == 0 ? 0 : 1 + turn * 7 % 37;
        p.s.cols = p.hadamard ? p.hadamard * (1 + turn % 5) : cols[turn % 9];
        p.s.rounding = turn % 7 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        p.s.order = p.s.cols % 32 == 0 && turn % 8 == 3 && turn % 2 ? NIB_CODES_GGUF_HALVES
                                                                    : NIB_CODES_PAIRS;
        p.s.ld_extra = turn % 3 ? 0 : 3;
        p.s.off = turn % 4 ? 0 : (size_t)(turn % 3);
        plan_fill(&p, turn % 2);
        check(&p, 1, turn);
        plan_free(&p);
    }
}

/* Rows that threads hold whole, just, and not; many rows, and one. */
NIB_TEST(OnDeviceTransform, LongRowsAndManyRows)
{
    const int64_t shapes[][2] = { { 3, 4096 }, { 2, 8192 }, { 2, 16384 }, { 2, 16512 },
                                  { 1, 70016 }, { 300, 128 }, { 130, 512 }, { 700, 48 } };
    random_state = 23;
    for (int i = 0; i < 8 * 3 && !nib_test_failed(); i++) {
        plan p = plan_of(i * 5 + 1, i % 2 ? NIB_NVFP4 : NIB_MXFP4, (nib_dtype)(i % 3),
                         NIB_RULES_TE);
        p.op = (nib_transform_op)(i / 8);
        p.residual = p.residual_out = 1;
        p.in_place = i % 2;
        p.s.rows = shapes[i % 8][0];
        p.s.cols = shapes[i % 8][1];
        if (p.s.cols == 48) p.hadamard = p.hadamard ? 16 : 0;
        plan_fill(&p, i % 4 != 0);
        check(&p, 0, i);
        plan_free(&p);
    }
}

/* A rotation of a rotation, and of signs twice, is what it was, to a rounding. */
NIB_TEST(OnDeviceTransform, RotatesBack)
{
    const runner *list;
    const int n = runners_open(&list);
    const runner *r = &list[n - 1];
    random_state = 24;
    for (int32_t k = 16; k <= 128; k *= 2) {
        float x[256], back[256];
        for (int i = 0; i < 256; i++) x[i] = next_unit();
        const nib_exec exec = exec_of(r);
        buffer a = buffer_new(r, x, sizeof x, 0), b = buffer_new(r, NULL, sizeof x, 0);
        const nib_matrix ma = { a.at, NIB_F32, 1, 256, 256 }, mb = { b.at, NIB_F32, 1, 256, 256 };
        const nib_transform t = { .size = sizeof t, .hadamard = k };
        OK(nib_transform_apply(&exec, &t, &ma, &mb));
        OK(nib_transform_apply(&exec, &t, &mb, &ma));
        buffer_get(&a, back);
        for (int i = 0; i < 256; i++)
            EXPECT(fabsf(back[i] - x[i]) < 2e-6f, "k %d, [%d]: %g, not %g", k, i, (double)back[i],
                   (double)x[i]);
        buffer_free(&a), buffer_free(&b);
    }
}

/* By hand: halves of one matrix, specials, and what a NaN spoils. */
NIB_TEST(OnDeviceTransform, HandMadeRows)
{
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < n; i++) {
        const nib_exec exec = exec_of(&list[i]);
        float both[64], got[32];
        for (int j = 0; j < 32; j++) both[j] = (float)j - 16.0f, both[32 + j] = 2.0f;
        both[0] = -INFINITY, both[1] = INFINITY, both[2] = NAN, both[3] = -0.0f, both[4] = -1e30f;
        buffer in = buffer_new(&list[i], both, sizeof both, 0);
        buffer out = buffer_new(&list[i], NULL, sizeof got, 0);
        const nib_matrix gate = { in.at, NIB_F32, 1, 32, 64 };
        const nib_matrix up = { (float *)in.at + 32, NIB_F32, 1, 32, 64 };
        const nib_matrix dst = { out.at, NIB_F32, 1, 32, 32 };
        nib_transform t = { .size = sizeof t, .op = NIB_TRANSFORM_SILU_MUL, .y = &up };
        OK(nib_transform_apply(&exec, &t, &gate, &dst));
        buffer_get(&out, got);
        EXPECT(got[0] == 0.0f && signbit(got[0]), "silu(-Inf) * 2 = %g", (double)got[0]);
        EXPECT(got[1] == INFINITY && isnan(got[2]), "%g %g", (double)got[1], (double)got[2]);
        EXPECT(got[3] == 0.0f && signbit(got[3]) && got[4] == 0.0f, "%g", (double)got[4]);
        EXPECT(fabsf(got[17] - 2.0f * 0.73105858f) < 1e-6f, "silu(1) * 2 = %g", (double)got[17]);
        t = (nib_transform){ .size = sizeof t, .op = NIB_TRANSFORM_NONE, .hadamard = 16 };
        both[0] = both[1] = 1.0f;
        buffer_put(&in, both);
        OK(nib_transform_apply(&exec, &t, &gate, &dst));
        buffer_get(&out, got);
        for (int j = 0; j < 32; j++) /* the first run alone has a NaN */
            EXPECT(!isnan(got[j]) == (j >= 16), "[%d] is %g", j, (double)got[j]);
        EXPECT(got[16] == 30.0f, "a sum of 0 .. 15 over 4 is %g", (double)got[16]);
        t.op = NIB_TRANSFORM_RMSNORM, t.hadamard = 0, t.eps = 0.0f;
        for (int j = 0; j < 32; j++) both[j] = j % 2 ? 3.0f : -3.0f;
        buffer_put(&in, both);
        OK(nib_transform_apply(&exec, &t, &gate, &dst));
        buffer_get(&out, got);
        for (int j = 0; j < 32; j++)
            EXPECT(got[j] == (j % 2 ? 1.0f : -1.0f), "[%d] is %.9g", j, (double)got[j]);
        buffer_free(&in), buffer_free(&out);
    }
}
