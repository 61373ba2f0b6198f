/* gemm_pack_test.c: packed weights: unpacking gives them back, every device packs the same bytes,
 * in place too, and a slice of the pack is the pack of the slice. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gemm_fixture.h"

static int is_packed_by(const runner *r, nib_gemm_layout layout)
{
    return r->device->ops->gemm_pack && !(runner_is_cuda(r) && layout == NIB_GEMM_LAYOUT_CPU);
}

static gemm_source random_source(int turn, int64_t n, int64_t k, enum gemm_fill fill)
{
    const nib_format format = gemm_formats[turn % 4];
    const int halves = k % nib_format_block(format) == 0 && turn / 4 % 2;
    return gemm_source_make(format, n, k, halves ? NIB_CODES_GGUF_HALVES : NIB_CODES_PAIRS,
                            (nib_scale_layout)(turn / 2 % 2), turn % 3, fill);
}

/* Rows of a source as a source of its own: linear scales, pairs, no gaps. rows[i]: which. */
static gemm_source part_of(gemm_source *s, const int64_t *rows, int64_t n, int64_t k0, int64_t k,
                           int64_t with_rows, int64_t with_cols)
{
    const int64_t block = nib_format_block(s->p.format);
    gemm_source part = gemm_source_make(s->p.format, with_rows, with_cols, NIB_CODES_PAIRS,
                                        NIB_SCALES_LINEAR, 0, GEMM_TAME);
    memset(part.p.codes, 0, (size_t)part.codes_bytes);
    memset(part.p.scales, 0, (size_t)part.scales_bytes);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < k; j++) { /* the source's code, by its own nibble */
            const int64_t col = k0 + j, first = col / block * block, at = col - first;
            const int halves = s->p.code_order == NIB_CODES_GGUF_HALVES;
            const int64_t byte = halves ? first / 2 + at % (block / 2) : col / 2;
            const int shift = halves ? (at < block / 2 ? 0 : 4) : (int)(col % 2) * 4;
            gemm_source_put(&part, i, j,
                            s->p.codes[rows[i] * s->p.ld_codes_bytes + byte] >> shift & 15);
        }
        for (int64_t b = 0; b < (k + block - 1) / block; b++)
            *gemm_source_scale(&part, i, b) = *gemm_source_scale(s, rows[i], k0 / block + b);
    }
    gemm_source_decode(&part);
    return part;
}

typedef struct bytes_of { uint8_t *codes, *scales; size_t codes_bytes, scales_bytes; } bytes_of;

static bytes_of bytes_take(gemm_pack *p)
{
    bytes_of b = { .codes_bytes = p->codes.bytes, .scales_bytes = p->scales.bytes };
    b.codes = buffer_take(&p->codes), b.scales = buffer_take(&p->scales);
    buffer_free(&p->tensor_scale);
    return b;
}

static void bytes_free(bytes_of *b) { free(b->codes), free(b->scales); }

static void expect_same(const runner *r, const bytes_of *got, const bytes_of *right,
                        const gemm_source *s, nib_gemm_layout layout, const char *what)
{
    EXPECT(got->codes_bytes == right->codes_bytes && got->scales_bytes == right->scales_bytes
           && !memcmp(got->codes, right->codes, right->codes_bytes),
           "%s: %s: codes of layout %d, format %#x, %lld x %lld", r->name, what, (int)layout,
           s->p.format, (long long)s->p.rows, (long long)s->p.cols);
    EXPECT(nib_test_failed() || !memcmp(got->scales, right->scales, right->scales_bytes),
           "%s: %s: scales of layout %d, format %#x, %lld x %lld", r->name, what, (int)layout,
           s->p.format, (long long)s->p.rows, (long long)s->p.cols);
}

/* What zeros within the matrix have as E8M0 scales on the CPU, 1, and zeros beyond it have not. */
static void forget_ones(const bytes_of *got, bytes_of *right)
{
    for (size_t i = 0; i < right->scales_bytes; i++)
        if (right->scales[i] == 127 && got->scales[i] == 0) right->scales[i] = 0;
}

static bytes_of packed_by(const runner *r, nib_gemm_layout layout, const gemm_source *s,
                          int32_t gated)
{
    gemm_pack p = gemm_pack_new(r, layout, &s->p, gated, s->tensor_scale);
    OK(gemm_pack_into(r, s, &p.w));
    return bytes_take(&p);
}

/* ---- back ---- */

static void expect_unpacked(const runner *r, nib_gemm_layout layout, gemm_source *s, int32_t gated,
                            nib_dtype dtype)
{
    const int64_t n = s->p.rows, k = s->p.cols, ld = k + 5;
    const size_t width = dtype == NIB_F32 ? 4 : 2, bytes = (size_t)(n * ld) * width;
    const nib_exec exec = exec_of(r);
    const double t = gemm_tensor_scale(s);
    int64_t wrong = 0;
    gemm_pack p = gemm_pack_new(r, layout, &s->p, gated, s->tensor_scale);
    OK(gemm_pack_into(r, s, &p.w));
    buffer dst = buffer_new(r, NULL, bytes, width);
    const nib_matrix m = { dst.at, dtype, n, k, ld };
    OK(nib_gemm_unpack(&exec, &p.w, &m));
    runner_wait(r);
    uint8_t *got = buffer_take(&dst);
    for (int64_t i = 0; i < n * ld; i++) {
        const int64_t row = i / ld, col = i % ld;
        uint8_t right[4];
        memset(right, POISON, 4);
        if (col < k) { /* element * scale in f32, then times t */
            gemm_put_number(dtype, right, 0, (double)((float)s->w[row * k + col] * (float)t));
        }
        const double a = gemm_number(dtype, got, i), b = gemm_number(dtype, right, 0);
        wrong += col < k ? !(a == b || (isnan(a) && isnan(b)))
                         : memcmp(got + (size_t)i * width, right, width) != 0;
        EXPECT(wrong != 1, "%s: layout %d, format %#x, gated %d, dtype %d, %lld x %lld: "
               "W[%lld,%lld] is %g, not %g", r->name, (int)layout, s->p.format, gated, (int)dtype,
               (long long)n, (long long)k, (long long)row, (long long)col, a, b);
        if (wrong) break;
    }
    free(got);
    gemm_pack_free(&p);
}

NIB_TEST(OnDeviceGemmPack, UnpackingGivesTheWeightsBack)
{
    static const int64_t shapes[][2] = { { 64, 64 }, { 8, 8 }, { 72, 40 }, { 136, 200 },
                                         { 16, 136 }, { 128, 96 }, { 48, 320 } };
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 620;
    for (int i = 0; i < n; i++) {
        for (int turn = 0; turn < 56 && !nib_test_failed(); turn++) {
            const nib_gemm_layout layout = (nib_gemm_layout)(1 + turn / 2 % 3);
            const int64_t rows = shapes[turn % 7][0];
            if (!is_packed_by(list[i], layout)) continue;
            gemm_source s = random_source(turn, rows, shapes[turn % 7][1],
                                          turn % 2 ? GEMM_FULL : GEMM_WIDE);
            expect_unpacked(list[i], layout, &s, rows % 16 == 0 && turn / 3 % 2,
                            (nib_dtype)(turn % 3));
            gemm_source_free(&s);
        }
    }
}

/* ---- the same bytes ---- */

NIB_TEST(OnDeviceGemmPack, EveryDevicePacksTheSameBytes)
{
    const runner *all, *list[GEMM_RUNNERS];
    (void)runners_open(&all);
    const int n = gemm_runners(list);
    REQUIRE(n > 0 && gemm_is_offered(&all[0]), "this backend has no products");
    random_state = 621;
    for (int turn = 0; turn < 48 && !nib_test_failed(); turn++) {
        const nib_gemm_layout layout = (nib_gemm_layout)(1 + turn / 4 % 3);
        const int64_t rows = 8 + (int64_t)(turn * 40 % 200), cols = 8 + (int64_t)(turn * 56 % 300);
        const int gated = rows % 16 == 0 && turn % 2;
        gemm_source s = random_source(turn, rows / 8 * 8, cols / 8 * 8, GEMM_FULL);
        if (turn % 5 == 0) *gemm_source_scale(&s, 1, 0) = 255;
        bytes_of right = packed_by(&all[0], layout, &s, gated);
        for (int i = 0; i < n; i++) {
            if (!is_packed_by(list[i], layout)) continue;
            bytes_of got = packed_by(list[i], layout, &s, gated);
            expect_same(list[i], &got, &right, &s, layout, "the portable CPU's");
            bytes_free(&got);
        }
        bytes_free(&right);
        gemm_source_free(&s);
    }
}

/* A matrix whose last tiles are not full packs to the bytes of the one with zeros there. */
NIB_TEST(OnDeviceGemmPack, PaddingIsZeros)
{
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 622;
    for (int turn = 0; turn < 24 && !nib_test_failed(); turn++) {
        const nib_gemm_layout layout = (nib_gemm_layout)(1 + turn % 3);
        const int64_t rows = 8 * (1 + turn % 12), cols = 8 * (1 + turn * 5 % 27);
        const int64_t r = layout == NIB_GEMM_LAYOUT_CPU ? 8 : 64, c = r == 8 ? 32 : 64;
        int64_t same[96];
        for (int64_t i = 0; i < rows; i++) same[i] = i;
        gemm_source s = random_source(turn / 3, rows, cols, GEMM_WIDE);
        gemm_source full = part_of(&s, same, rows, 0, cols, (rows + r - 1) / r * r,
                                   (cols + c - 1) / c * c);
        for (int i = 0; i < n; i++) {
            if (!is_packed_by(list[i], layout)) continue;
            bytes_of got = packed_by(list[i], layout, &s, 0);
            bytes_of right = packed_by(list[i], layout, &full, 0);
            if (layout == NIB_GEMM_LAYOUT_CPU && nib_format_scale(s.p.format) == NIB_SCALE_E8M0)
                forget_ones(&got, &right);
            expect_same(list[i], &got, &right, &s, layout, "padded");
            bytes_free(&got), bytes_free(&right);
        }
        gemm_source_free(&s), gemm_source_free(&full);
    }
}

/* In place of a source without gaps, with the least workspace and with more. */
static void expect_in_place(const runner *r, nib_gemm_layout layout, const gemm_source *s,
                            int64_t stripes)
{
    nib_exec exec = exec_of(r);
    bytes_of right = packed_by(r, layout, s, 0);
    gemm_pack p = gemm_pack_new(r, layout, &s->p, 0, s->tensor_scale);
    uint8_t *codes = malloc(p.codes.bytes + 1), *scales = malloc(p.scales.bytes + 1);
    memset(codes, 0x77, p.codes.bytes), memset(scales, 0x77, p.scales.bytes);
    memcpy(codes, s->p.codes, (size_t)s->codes_bytes);
    memcpy(scales, s->p.scales, (size_t)s->scales_bytes);
    buffer_put(&p.codes, codes), buffer_put(&p.scales, scales);
    const size_t least = nib_gemm_pack_workspace_bytes(&p.w);
    buffer workspace = buffer_new(r, NULL, (size_t)stripes * least, 0);
    nib_packed src = s->p;
    src.codes = p.w.codes, src.scales = p.w.scales, src.tensor_scale = p.w.tensor_scale;
    exec.workspace = workspace.at;
    exec.workspace_bytes = workspace.bytes;
    OK(nib_gemm_pack(&exec, &src, &p.w));
    runner_wait(r);
    buffer_free(&workspace);
    bytes_of got = bytes_take(&p);
    expect_same(r, &got, &right, s, layout, "in place");
    bytes_free(&got), bytes_free(&right);
    free(codes), free(scales);
}

NIB_TEST(OnDeviceGemmPack, InPlaceIsTheSame)
{
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 623;
    for (int i = 0; i < n; i++) {
        for (int turn = 0; turn < 24 && !nib_test_failed(); turn++) {
            const nib_gemm_layout layout = (nib_gemm_layout)(1 + turn / 2 % 3);
            if (!is_packed_by(list[i], layout)) continue;
            gemm_source s = gemm_source_make(gemm_formats[turn % 4], 8 * (1 + turn * 7 % 40),
                                             8 * (1 + turn * 11 % 30), NIB_CODES_PAIRS,
                                             NIB_SCALES_LINEAR, 0, GEMM_WIDE);
            expect_in_place(list[i], layout, &s, 1 + turn % 3);
            gemm_source_free(&s);
        }
    }
}

/* ---- slices ---- */

/* The slice's tiles, one row of them after the other. */
static bytes_of tiles_of(const nib_gemm_weights *part, const bytes_of *whole, const uint8_t *codes,
                         const uint8_t *scales)
{
    nib_gemm_weights tight = *part;
    const int cpu = part->layout == NIB_GEMM_LAYOUT_CPU;
    const int64_t r = cpu ? 8 : 64, c = cpu ? 32 : 64, high = (part->n + r - 1) / r;
    tight.ld_tiles = (part->k + c - 1) / c;
    bytes_of b = { .codes_bytes = (size_t)nib_gemm_codes_bytes(&tight),
                   .scales_bytes = (size_t)nib_gemm_scales_bytes(&tight) };
    const size_t code_tile = (size_t)(r * c / 2);
    const size_t scale_tile = (size_t)(r * c / nib_format_block(part->format));
    b.codes = malloc(b.codes_bytes + 1), b.scales = malloc(b.scales_bytes + 1);
    for (int64_t i = 0; i < high; i++) {
        const size_t wide = (size_t)tight.ld_tiles, ld = (size_t)part->ld_tiles, row = (size_t)i;
        memcpy(b.codes + row * wide * code_tile,
               whole->codes + (part->codes - codes) + row * ld * code_tile, wide * code_tile);
        memcpy(b.scales + row * wide * scale_tile,
               whole->scales + (part->scales - scales) + row * ld * scale_tile, wide * scale_tile);
    }
    return b;
}

static void expect_slice(const runner *r, nib_gemm_layout layout, gemm_source *s, int32_t gated,
                         int64_t n0, int64_t n, int64_t k0, int64_t k)
{
    int64_t rows[512];
    nib_gemm_weights part;
    gemm_pack p = gemm_pack_new(r, layout, &s->p, gated, s->tensor_scale);
    OK(gemm_pack_into(r, s, &p.w));
    OK(nib_gemm_slice(&p.w, n0, n, k0, k, &part));
    EXPECT(part.n == n && part.k == k && part.gated == gated && part.ld_tiles == p.w.ld_tiles
           && part.tensor_scale == p.w.tensor_scale, "%lld x %lld", (long long)part.n,
           (long long)part.k);
    for (int64_t i = 0; i < n; i++) { /* rows n0 / 2 ... of each half */
        const int64_t in_half = gated ? i % (n / 2) + n0 / 2 : i + n0;
        rows[i] = gated && i >= n / 2 ? s->p.rows / 2 + in_half : in_half;
    }
    gemm_source sliced = part_of(s, rows, n, k0, k, n, k);
    bytes_of right = packed_by(r, layout, &sliced, gated);
    const uint8_t *codes = p.w.codes, *scales = p.w.scales;
    bytes_of whole = bytes_take(&p), got = tiles_of(&part, &whole, codes, scales);
    expect_same(r, &got, &right, &sliced, layout, gated ? "a gated slice" : "a slice");
    bytes_free(&whole), bytes_free(&got), bytes_free(&right);
    gemm_source_free(&sliced);
}

NIB_TEST(OnDeviceGemmPack, ASliceOfThePackIsThePackOfTheSlice)
{
    static const int64_t slices[][4] = { { 0, 64, 0, 264 }, { 64, 144, 0, 264 },
                                         { 0, 208, 64, 128 }, { 0, 208, 192, 72 },
                                         { 64, 64, 64, 64 },
                                         { 128, 80, 128, 136 }, { 0, 208, 0, 264 },
                                         { 64, 0, 64, 0 } };
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 624;
    for (int i = 0; i < n; i++) {
        for (int turn = 0; turn < 8 * 6 && !nib_test_failed(); turn++) {
            const nib_gemm_layout layout = (nib_gemm_layout)(1 + turn / 8 % 3);
            const int64_t *at = slices[turn % 8];
            if (!is_packed_by(list[i], layout)) continue;
            gemm_source s = random_source(turn + turn / 8, 208, 264, GEMM_FULL);
            expect_slice(list[i], layout, &s, turn / 24, at[0], at[1], at[2], at[3]);
            gemm_source_free(&s);
        }
    }
}
