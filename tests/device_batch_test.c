/* device_batch_test.c: batches and dynamic tensor scales give the bytes of single calls, on every
 * backend. The single calls are the reference's: the portable code on one thread. */
#include <stdlib.h>
#include <string.h>

#include "tests/device_case.h"

typedef struct batch_case {
    setting s;
    int64_t count, gap; /* gap: elements and bytes that lie between what belongs to two matrices */
    int     tensor_stride;
    int     take_turns; /* rows of all matrices in turn; else matrix behind matrix */
    int     one_input;  /* all matrices are quantized from one */
} batch_case;

/* Strides, distances of rows, and what buffers hold then. */
typedef struct places {
    nib_batch quantize, dequantize;
    int64_t   ld_elems, ld_codes, matrix_elems, codes_bytes, scales_bytes;
} places;

static places places_of(const batch_case *c)
{
    const setting *s = &c->s;
    const int64_t row_bytes = nib_codes_row_bytes(s->format, s->cols);
    const int64_t scales = setting_scales_bytes(s), last = c->count - 1;
    places p = { .ld_elems = s->cols + s->ld_extra, .ld_codes = row_bytes + s->ld_extra };
    nib_batch *b = &p.quantize;
    *b = (nib_batch){ .size = sizeof *b, .count = c->count, .tensor_stride = c->tensor_stride,
                      .scales_stride_bytes = scales + c->gap };
    if (c->take_turns) {
        b->matrix_stride_elems = s->cols + c->gap;
        b->codes_stride_bytes = row_bytes + c->gap;
        p.ld_elems = c->count * b->matrix_stride_elems;
        p.ld_codes = c->count * b->codes_stride_bytes;
    } else {
        b->matrix_stride_elems = (s->rows - 1) * p.ld_elems + s->cols + c->gap;
        b->codes_stride_bytes = (s->rows - 1) * p.ld_codes + row_bytes + c->gap;
    }
    p.dequantize = *b;
    p.matrix_elems = last * b->matrix_stride_elems + (s->rows - 1) * p.ld_elems + s->cols;
    p.codes_bytes = last * b->codes_stride_bytes + (s->rows - 1) * p.ld_codes + row_bytes;
    p.scales_bytes = last * b->scales_stride_bytes + scales;
    if (c->one_input) b->matrix_stride_elems = 0;
    return p;
}

enum { MOST = 64 };

/* Buffers on a runner, then what came of them. */
typedef struct result {
    buffer   input, codes, scales, values, scale, amax, nonfinite, random;
    uint8_t *codes_out, *scales_out, *values_out;
    float    scale_out[MOST], amax_out[MOST];
    uint64_t nonfinite_out[MOST];
} result;

static nib_quantize_options options_of(const batch_case *c, const result *o)
{
    return (nib_quantize_options){ .size = sizeof(nib_quantize_options), .rules = &c->s.rules,
                                   .scale_choice = c->s.choice, .rounding = c->s.rounding,
                                   .random = o->random.at };
}

static size_t elem_bytes(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

static void result_init(const runner *r, const batch_case *c, const places *p, const void *x,
                        result *o)
{
    const size_t size = elem_bytes(c->s.dtype), n = (size_t)(c->tensor_stride ? c->count : 1);
    float given[MOST];
    for (int i = 0; i < MOST; i++) given[i] = 0.001f * (float)(i + 1);
    memset(o, 0, sizeof *o);
    o->input = buffer_new(r, x, (size_t)p->matrix_elems * size, c->s.off * size);
    o->codes = buffer_new(r, NULL, (size_t)p->codes_bytes, c->s.off);
    o->scales = buffer_new(r, NULL, (size_t)p->scales_bytes, c->s.off);
    o->values = buffer_new(r, NULL, (size_t)p->matrix_elems * size, c->s.off * size);
    o->scale = buffer_new(r, given, n * sizeof(float), 0);
    o->amax = buffer_new(r, NULL, n * sizeof(float), 0);
    o->nonfinite = buffer_new(r, NULL, n * sizeof(uint64_t), 0);
    o->random = buffer_new(r, c->s.random, sizeof c->s.random, 0);
}

static void take_into(buffer *b, void *to)
{
    const size_t bytes = b->bytes;
    void *content = buffer_take(b);
    memcpy(to, content, bytes);
    free(content);
}

static void result_take(result *o)
{
    o->codes_out = buffer_take(&o->codes);
    o->scales_out = buffer_take(&o->scales);
    o->values_out = buffer_take(&o->values);
    take_into(&o->scale, o->scale_out);
    take_into(&o->amax, o->amax_out);
    take_into(&o->nonfinite, o->nonfinite_out);
    buffer_free(&o->input), buffer_free(&o->random);
}

static void result_release(result *o)
{
    free(o->codes_out), free(o->scales_out), free(o->values_out);
}

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

enum { GIVEN_SCALE, TWO_CALLS, DYNAMIC };

/* On the reference, whose memory is this program's: each matrix by itself. */
static void singles(const nib_exec *exec, const batch_case *c, const places *p, const result *o,
                    const nib_matrix *src, const nib_packed *dst, int how)
{
    const int tensor = nib_format_has_tensor_scale(c->s.format);
    float *amax = o->amax.at;
    uint64_t *nonfinite = o->nonfinite.at, n;
    for (int64_t i = 0; i < c->count; i++) {
        nib_matrix m = *src;
        float a;
        m.data = (uint8_t *)m.data
               + (size_t)(i * p->quantize.matrix_stride_elems) * elem_bytes(m.dtype);
        OK(nib_amax(exec, &m, &a, &n));
        if (c->tensor_stride || i == 0) amax[i] = a, nonfinite[i] = n;
        else amax[0] = a > amax[0] ? a : amax[0], nonfinite[0] += n;
    }
    for (int64_t i = 0; i < c->count; i++) {
        nib_matrix m = *src;
        nib_packed q = *dst;
        nib_quantize_options options = options_of(c, o);
        const uint64_t quads = (uint64_t)(m.rows * m.cols + 3) / 4;
        const uint64_t random[2] = { c->s.random[0], c->s.random[1] + (uint64_t)i * quads };
        options.random = random;
        options.tensor_amax = tensor && how ? amax + i * c->tensor_stride : NULL;
        m.data = (uint8_t *)m.data
               + (size_t)(i * p->quantize.matrix_stride_elems) * elem_bytes(m.dtype);
        q.codes += i * p->quantize.codes_stride_bytes;
        q.scales += i * p->quantize.scales_stride_bytes;
        if (tensor) q.tensor_scale += i * c->tensor_stride;
        OK(nib_quantize(exec, &m, &options, &q));
        m.data = (uint8_t *)o->values.at
               + (size_t)(i * p->dequantize.matrix_stride_elems) * elem_bytes(m.dtype);
        OK(nib_dequantize(exec, &q, &m));
    }
}

static void run(const runner *r, const batch_case *c, const void *x, int how, int by_singles,
                result *o)
{
    const nib_exec exec = exec_of(r);
    const places p = places_of(c);
    const setting *s = &c->s;
    const int tensor = nib_format_has_tensor_scale(s->format);
    result_init(r, c, &p, x, o);
    const nib_matrix src = { o->input.at, s->dtype, s->rows, s->cols, p.ld_elems };
    const nib_matrix dst = { o->values.at, s->dtype, s->rows, s->cols, p.ld_elems };
    const nib_packed packed = { sizeof packed, s->format, s->order, s->layout, s->rows, s->cols,
                                o->codes.at, p.ld_codes, o->scales.at,
                                tensor ? o->scale.at : NULL };
    nib_quantize_options options = options_of(c, o);
    if (by_singles) {
        singles(&exec, c, &p, o, &src, &packed, how);
    } else {
        OK(nib_amax_batch(&exec, &p.quantize, &src, o->amax.at, o->nonfinite.at));
        if (how == TWO_CALLS && tensor) options.tensor_amax = o->amax.at;
        if (how == DYNAMIC) {
            const float none[MOST] = { 0 };
            buffer_put(&o->amax, none);
            OK(nib_quantize_dynamic(&exec, &p.quantize, &src, &options, &packed, o->amax.at));
        } else {
            OK(nib_quantize_batch(&exec, &p.quantize, &src, &options, &packed));
        }
        OK(nib_dequantize_batch(&exec, &p.dequantize, &packed, &dst));
    }
    result_take(o);
}

static void check(const batch_case *c, const void *x, int how)
{
    const runner *list;
    const int n = runners_open(&list);
    const places p = places_of(c);
    const setting *s = &c->s;
    result a, b;
    if (n == 0) return;
    run(&list[0], c, x, how, 1, &a);
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        if (i > 0 && i != 1 && i != 4 + (int)(next_random() % 4)) continue;
        run(&list[i], c, x, how, 0, &b);
#define SAME(member, bytes)                                                                     \
        EXPECT(!memcmp(a.member, b.member, (size_t)(bytes)), "%s: format %#x dtype %d, %lld of "   \
               "%lldx%lld, tensor stride %d, take turns %d, one input %d, layout %d, rounding %d, "\
               "choice %d, how %d", list[i].name, s->format, s->dtype, (long long)c->count,     \
               (long long)s->rows, (long long)s->cols, c->tensor_stride, c->take_turns,         \
               c->one_input, s->layout, s->rounding, s->choice, how)
        SAME(amax_out, sizeof a.amax_out);
        SAME(nonfinite_out, sizeof a.nonfinite_out);
        SAME(scale_out, sizeof a.scale_out);
        SAME(scales_out, p.scales_bytes);
        SAME(codes_out, p.codes_bytes);
        SAME(values_out, p.matrix_elems * (int64_t)elem_bytes(s->dtype));
        result_release(&b);
    }
    result_release(&a);
}

NIB_TEST(OnDeviceBatch, IsSoManySingleCalls)
{
    random_state = 8086;
    for (int i = 0; i < 400 && !nib_test_failed(); i++) {
        batch_case c = { .s = setting_of(case_formats[i % NAMED_FORMATS], (nib_dtype)(i / 3 % 3),
                                         (int)(next_random() % 5)) };
        c.s.rows = 1 + next_random() % (i % 7 == 0 ? 140 : 9);
        c.s.cols = 1 + next_random() % 400;
        c.s.ld_extra = next_random() % 2 * (next_random() % 20);
        c.s.layout = (nib_scale_layout)(next_random() % 2);
        c.s.off = next_random() % 4 ? 0 : next_random() % 16;
        c.s.rounding = next_random() % 4 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        c.s.random[0] = next_random();
        c.s.random[1] = UINT64_MAX - next_random() % 200; /* wraps within the batch */
        c.count = i % 9 == 8 ? 40 + next_random() % 24 : 1 + next_random() % 6;
        c.gap = next_random() % 3 ? 0 : next_random() % 30;
        c.tensor_stride = (int)(next_random() % 2);
        c.take_turns = next_random() % 4 == 0;
        c.one_input = next_random() % 8 == 0;
        if (c.count > 6) c.s.rows = c.s.rows % 6 + 1, c.s.cols = c.s.cols % 100 + 1;
        if (i % 2 == 0) { /* a GPU's wide loads and stores want all of these */
            c.s.cols = (c.s.cols + 31) / 32 * 32;
            c.s.ld_extra = c.s.ld_extra / 8 * 32;
            c.gap = c.gap / 8 * 32;
            c.s.off = 0;
        }
        if (i % 11 == 3) c.s.choice = NIB_SCALE_MSE, c.s.cols = c.s.cols % 100 + 1;
        if (i % 11 == 5 && c.s.format == NIB_NVFP4) c.s.choice = NIB_SCALE_FOUR_OVER_SIX_MSE;
        const int64_t n = places_of(&c).matrix_elems;
        void *x = malloc((size_t)n * 4);
        fill_matrix(c.s.dtype, x, n, i % 3 == 0);
        const int tensor = nib_format_has_tensor_scale(c.s.format);
        check(&c, x, tensor ? (int)(next_random() % 3) : GIVEN_SCALE);
        free(x);
    }
}

NIB_TEST(OnDeviceBatch, MoreMatricesThanAGridIsHigh) /* 65535 in y and z */
{
    const int64_t count = 66000;
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < n; i++) {
        if (i != 0 && i != 4 && !runner_is_cuda(&list[i])) continue;
        const nib_exec exec = exec_of(&list[i]);
        const nib_batch batch = { sizeof batch, count, 16, 8, 1, 1 };
        const int amax_too = !runner_is_emulated(&list[i]) || getenv("NIB_TEST_FULL");
        uint16_t *x = calloc((size_t)count * 16, sizeof *x);
        for (int64_t m = 0; m < count; m++) x[m * 16] = (uint16_t)(0x3c00 + m % 1024);
        buffer input = buffer_new(&list[i], x, (size_t)count * 32, 0);
        buffer codes = buffer_new(&list[i], NULL, (size_t)count * 8, 0);
        buffer scales = buffer_new(&list[i], NULL, (size_t)count, 0);
        float *given = malloc((size_t)count * 4);
        for (int64_t m = 0; m < count; m++)
            given[m] = (1.0f + (float)(m % 1024) / 1024.0f) / 2688.0f;
        buffer scale = buffer_new(&list[i], given, (size_t)count * 4, 0);
        buffer amax = buffer_new(&list[i], NULL, (size_t)count * 4, 0);
        const nib_matrix src = { input.at, NIB_F16, 1, 16, 16 };
        const nib_packed packed = { sizeof packed, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR,
                                    1, 16, codes.at, 8, scales.at, scale.at };
        if (amax_too) OK(nib_quantize_dynamic(&exec, &batch, &src, NULL, &packed, amax.at));
        else OK(nib_quantize_batch(&exec, &batch, &src, NULL, &packed)); /* amax takes its time */
        OK(nib_dequantize_batch(&exec, &batch, &packed, &src));
        uint16_t *back = buffer_take(&input);
        float *most = buffer_take(&amax);
        int64_t wrong = 0, wrong_amax = 0;
        for (int64_t m = 0; m < count; m++) { /* the amax of a tensor comes back, within a step */
            const float v = 1.0f + (float)(m % 1024) / 1024.0f;
            wrong_amax += amax_too && most[m] != v;
            wrong += back[m * 16] < x[m * 16] - 1 || back[m * 16] > x[m * 16] + 1
                  || back[m * 16 + 1] != 0;
        }
        EXPECT(wrong == 0 && wrong_amax == 0, "%s: %lld matrices, %lld amax", list[i].name,
               (long long)wrong, (long long)wrong_amax);
        free(back), free(most), free(x), free(given);
        buffer_free(&codes), buffer_free(&scales), buffer_free(&scale);
    }
}

NIB_TEST(OnDeviceBatch, OfNothing)
{
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < n; i++) {
        const nib_exec exec = exec_of(&list[i]);
        const float poison[2] = { 77, 78 };
        const uint64_t counts[2] = { 79, 80 };
        for (int empty = 0; empty < 3; empty++) { /* no matrices, no rows, no columns */
            for (int stride = 0; stride < 2; stride++) {
                const nib_batch batch = { sizeof batch, empty ? 2 : 0, 64, 32, 512, stride };
                buffer data = buffer_new(&list[i], NULL, 512, 0);
                buffer amax = buffer_new(&list[i], poison, sizeof poison, 0);
                buffer nonfinite = buffer_new(&list[i], counts, sizeof counts, 0);
                const int64_t rows = empty == 1 ? 0 : 2, cols = empty == 2 ? 0 : 32;
                const nib_matrix m = { data.at, NIB_F16, rows, cols, 32 };
                const nib_packed packed = { sizeof packed, NIB_NVFP4, NIB_CODES_PAIRS,
                                            NIB_SCALES_SWIZZLED_128X4, rows, cols, data.at, 16,
                                            data.at, amax.at };
                OK(nib_quantize_batch(&exec, &batch, &m, NULL, &packed));
                OK(nib_dequantize_batch(&exec, &batch, &packed, &m));
                float a[2];
                buffer_get(&amax, a);
                EXPECT(a[0] == 77 && a[1] == 78, "%s wrote %g, %g", list[i].name, (double)a[0],
                       (double)a[1]);
                OK(nib_amax_batch(&exec, &batch, &m, amax.at, nonfinite.at));
                uint64_t c[2];
                take_into(&amax, a), take_into(&nonfinite, c);
                const int first = empty || !stride, second = empty && stride;
                EXPECT(a[0] == (first ? 0 : 77) && a[1] == (second ? 0 : 78)
                           && c[0] == (first ? 0 : 79) && c[1] == (second ? 0 : 80),
                       "%s, empty %d, stride %d: %g %g %llu %llu", list[i].name, empty, stride,
                       (double)a[0], (double)a[1], (unsigned long long)c[0],
                       (unsigned long long)c[1]);
                uint8_t *bytes = buffer_take(&data);
                size_t touched = 0;
                for (int b = 0; b < 512; b++) touched += bytes[b] != POISON;
                EXPECT(touched == 0, "%s, empty %d: %zu bytes", list[i].name, empty, touched);
                free(bytes);
            }
        }
    }
}

NIB_TEST(OnDeviceBatch, DynamicWithoutABatchIsOneMatrix)
{
    const runner *list;
    const int n = runners_open(&list);
    random_state = 64;
    for (int i = 0; i < n; i++) {
        const nib_exec exec = exec_of(&list[i]);
        float x[300], a, t, decode, encode;
        fill_matrix(NIB_F32, x, 300, 0);
        buffer input = buffer_new(&list[i], x, sizeof x, 0);
        buffer codes = buffer_new(&list[i], NULL, 150, 0);
        buffer scales = buffer_new(&list[i], NULL, 21, 0);
        buffer scale = buffer_new(&list[i], NULL, 4, 0), amax = buffer_new(&list[i], NULL, 4, 0);
        const nib_matrix m = { input.at, NIB_F32, 3, 100, 100 };
        const nib_packed packed = { sizeof packed, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR,
                                    3, 100, codes.at, 50, scales.at, scale.at };
        OK(nib_quantize_dynamic(&exec, NULL, &m, NULL, &packed, amax.at));
        take_into(&amax, &a), take_into(&scale, &t);
        OK(nib_tensor_scale(NIB_NVFP4, NULL, NIB_SCALE_AMAX, NIB_F32, a, &encode, &decode));
        EXPECT(t == decode && a > 0, "%s: %g for %g", list[i].name, (double)t, (double)decode);
        buffer_free(&input), buffer_free(&codes), buffer_free(&scales);
    }
}

NIB_TEST(OnDeviceBatch, DynamicScaleOfEmptyMatricesIsOne) /* as that of zeros */
{
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < 2 * 3 * n; i++) {
        const runner *r = &list[i % n];
        const nib_exec exec = exec_of(r);
        const int empty = i / n % 2, how = i / n / 2; /* no batch, one for all, one each */
        const nib_batch batch = { sizeof batch, 3, 0, 0, 0, how == 2 };
        const int64_t count = how == 2 ? 3 : 1;
        buffer scale = buffer_new(r, NULL, (size_t)count * 4, 0);
        buffer amax = buffer_new(r, NULL, (size_t)count * 4, 0);
        const nib_matrix m = { NULL, NIB_BF16, empty ? 5 : 0, empty ? 0 : 64, 64 };
        const nib_packed p = { .size = sizeof p, .format = NIB_NVFP4, .rows = m.rows,
                               .cols = m.cols, .ld_codes_bytes = 32, .tensor_scale = scale.at };
        OK(nib_quantize_dynamic(&exec, how ? &batch : NULL, &m, NULL, &p, amax.at));
        float *a = buffer_take(&amax), *t = buffer_take(&scale);
        for (int64_t k = 0; k < count; k++)
            EXPECT(a[k] == 0 && t[k] == 1, "%s, %lld x %lld, how %d: amax %g, scale %g", r->name,
                   (long long)m.rows, (long long)m.cols, how, (double)a[k], (double)t[k]);
        free(a), free(t);
    }
}
