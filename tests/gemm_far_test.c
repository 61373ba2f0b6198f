/* gemm_far_test.c: products and packs whose rows lie so far apart that offsets do not fit 32 bits
 * give what near ones give, bit for bit. */
#include <stdlib.h>
#include <string.h>

#include "tests/far_memory.h"
#include "tests/gemm_fixture.h"

enum { M = 2, N = 136, K = 200 };

/* From one row to the next: elements, bytes of source codes, tiles, elements of unpacked weights.
 * The last rows begin past 2^31 elements or bytes, tiles' codes past 2^32. */
static const int64_t LD = ((int64_t)1 << 31) + 64, CODES_LD = ((int64_t)1 << 25) + 16;
static const int64_t TILES_LD = ((int64_t)1 << 20) + 7, VALUES_LD = ((int64_t)1 << 25) + 8;

typedef struct far_layer {
    far_buffer       src, codes, scales;
    buffer           src_scales, tensor_scale;
    nib_gemm_weights w;
} far_layer;

static int64_t tile_bytes(const nib_gemm_weights *w, int64_t per_element)
{
    return (w->layout == NIB_GEMM_LAYOUT_CPU ? 8 * 32 : 64 * 64) / per_element;
}

/* Packs s from far rows to far rows of tiles. Returns 0 without memory. */
static int layer_open(far_layer *l, const runner *r, gemm_source *s)
{
    const nib_exec exec = exec_of(r);
    const int64_t row = s->p.ld_codes_bytes;
    *l = (far_layer){ .src = far_new(r, (size_t)(N * CODES_LD)) };
    OK(nib_gemm_describe(r->device, NIB_GEMM_LAYOUT_AUTO, s->p.format, N, K, 0, &l->w));
    l->w.ld_tiles = TILES_LD * (l->w.layout == NIB_GEMM_LAYOUT_CPU ? 2 : 1);
    l->codes = far_new(r, (size_t)nib_gemm_codes_bytes(&l->w));
    l->scales = far_new(r, (size_t)nib_gemm_scales_bytes(&l->w));
    l->src_scales = buffer_new(r, s->p.scales, (size_t)s->scales_bytes, 0);
    l->tensor_scale = buffer_new(r, &s->tensor_scale, 4, 0);
    if (!l->src.at || !l->codes.at || !l->scales.at) return 0;
    l->w.codes = l->codes.at, l->w.scales = l->scales.at;
    if (nib_format_has_tensor_scale(s->p.format)) l->w.tensor_scale = l->tensor_scale.at;
    for (int64_t n = 0; n < N; n++)
        far_copy(&l->src, n * CODES_LD, s->p.codes + n * row, (size_t)row, 0);
    nib_packed src = s->p;
    src.codes = l->src.at, src.ld_codes_bytes = CODES_LD;
    src.scales = l->src_scales.at, src.tensor_scale = l->w.tensor_scale;
    OK(nib_gemm_pack(&exec, &src, &l->w));
    runner_wait(r);
    return 1;
}

static void layer_close(far_layer *l)
{
    far_free(&l->src), far_free(&l->codes), far_free(&l->scales);
    buffer_free(&l->src_scales), buffer_free(&l->tensor_scale);
}

/* The pack's tiles, row of tiles by row of tiles. */
static void expect_tiles(const runner *r, const far_layer *l, gemm_pack *near)
{
    uint8_t *codes = malloc(near->codes.bytes), *scales = malloc(near->scales.bytes);
    buffer_get(&near->codes, codes), buffer_get(&near->scales, scales);
    const int64_t each[2] = { tile_bytes(&l->w, 2),
                              tile_bytes(&l->w, nib_format_block(l->w.format)) };
    const int64_t high = (N + (each[0] == 128 ? 7 : 63)) / (each[0] == 128 ? 8 : 64);
    for (int part = 0; part < 2; part++) {
        const size_t bytes = (size_t)(near->w.ld_tiles * each[part]);
        uint8_t *got = malloc(bytes), *right = part ? scales : codes;
        for (int64_t i = 0; i < high; i++) {
            far_copy(part ? &l->scales : &l->codes, i * l->w.ld_tiles * each[part], got, bytes, 1);
            EXPECT(!memcmp(got, right + (size_t)i * bytes, bytes), "%s: %s of row of tiles %lld",
                   r->name, part ? "scales" : "codes", (long long)i);
        }
        free(got);
    }
    free(codes), free(scales);
}

/* The product by one tactic with far rows of everything, held to the near one's bits. Returns 0
 * without memory. */
static int check_product(const runner *r, const gemm_case *c, const gemm_source *s,
                         const far_layer *l, const gemm_pack *near)
{
    gemm_inputs x = gemm_inputs_make(c);
    size_t bytes;
    nib_gemm_plan plan = { .size = sizeof plan };
    uint8_t *right = gemm_run(r, c, s, near, &x, &bytes), got[N * 2];
    far_buffer a = far_new(r, (size_t)(LD + K) * 2), d = far_new(r, (size_t)(LD + N) * 2);
    far_buffer residual = far_new(r, d.bytes);
    const int there = a.at && d.at && residual.at && right;
    OK(nib_gemm_plan_make(r->device, &c->o, &plan));
    buffer workspace = buffer_new(r, NULL, nib_gemm_workspace_bytes(&plan, M), 0);
    if (there) {
        nib_exec exec = exec_of(r);
        exec.workspace = workspace.at, exec.workspace_bytes = workspace.bytes;
        for (int64_t m = 0; m < M; m++) {
            far_copy(&a, m * LD * 2, x.a + m * x.a_ld * 2, K * 2, 0);
            far_copy(&residual, m * LD * 2, x.residual + m * x.d_ld * 2, N * 2, 0);
        }
        const nib_matrix am = { a.at, NIB_F16, M, K, LD }, dm = { d.at, NIB_BF16, M, N, LD };
        const nib_matrix rm = { residual.at, NIB_BF16, M, N, LD };
        const nib_gemm_args args = { .size = sizeof args, .a = &am, .w = &l->w, .d = &dm,
                                     .residual = &rm };
        OK(nib_gemm(&exec, &plan, &args));
        runner_wait(r);
        for (int64_t m = 0; m < M; m++) {
            far_copy(&d, m * LD * 2, got, N * 2, 1);
            EXPECT(!memcmp(got, right + m * x.d_ld * 2, N * 2), "%s: row %lld", gemm_text(r, c),
                   (long long)m);
        }
    }
    far_free(&a), far_free(&d), far_free(&residual);
    buffer_free(&workspace);
    free(right);
    gemm_inputs_free(&x);
    return there;
}

/* Unpacked to far rows. */
static int check_values(const runner *r, gemm_source *s, const far_layer *l)
{
    const nib_exec exec = exec_of(r);
    far_buffer dst = far_new(r, (size_t)(N * VALUES_LD) * 2);
    const int there = dst.at != NULL;
    if (there) {
        const nib_matrix m = { dst.at, NIB_BF16, N, K, VALUES_LD };
        OK(nib_gemm_unpack(&exec, &l->w, &m));
        runner_wait(r);
    }
    for (int64_t n = 0; n < N && there; n++) {
        uint8_t got[K * 2], right[K * 2];
        far_copy(&dst, n * VALUES_LD * 2, got, sizeof got, 1);
        for (int64_t k = 0; k < K; k++)
            gemm_put_number(NIB_BF16, right, k,
                            (double)((float)s->w[n * K + k] * (float)gemm_tensor_scale(s)));
        int64_t wrong = 0;
        for (int64_t k = 0; k < K; k++)
            wrong += gemm_number(NIB_BF16, got, k) != gemm_number(NIB_BF16, right, k);
        EXPECT(wrong == 0, "%s: %lld values of row %lld", r->name, (long long)wrong, (long long)n);
    }
    far_free(&dst);
    return there;
}

NIB_TEST(OnDeviceGemmFar, OffsetsBeyond32Bits)
{
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 670;
    for (int i = 0; i < n * 2; i++) {
        const runner *r = list[i / 2];
        const nib_format format = i % 2 ? NIB_MXFP4 : NIB_NVFP4;
        gemm_source s = gemm_source_make(format, N, K, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        gemm_case c = { .m = M, .residual = 1, .label = "far" };
        gemm_pack near = gemm_pack_of(r, &s, 0);
        far_layer l;
        nib_gemm_tactic t;
        int there = layer_open(&l, r, &s);
        c.o = gemm_options(format, N, K, M, NIB_F16, NIB_BF16);
        if (there) expect_tiles(r, &l, &near);
        there = there && check_values(r, &s, &l);
        for (int32_t j = 0; there && nib_gemm_tactic_at(r->device, &c.o, j, &t) == NIB_OK; j++) {
            c.o.tactic = t.name;
            there = check_product(r, &c, &s, &l, &near);
            c.o.tactic = NULL;
        }
        layer_close(&l);
        gemm_pack_free(&near), gemm_source_free(&s);
        if (!there) SKIP("no address space, or no such memory on the device");
    }
}
