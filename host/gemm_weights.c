/* gemm_weights.c: packed weights of gemm.h: what they are, packing, slices. */
#include "gemm_checks.h"
#include "trace.h"

enum { WEIGHTS_V1 = sizeof(nib_gemm_weights) };

/* ---- what a pack is ---- */

static int is_offered(nib_format f)
{
    return f == NIB_NVFP4 || f == NIB_NVFP4_B32 || f == NIB_MXFP4 || f == NIB_MXFP4_B16;
}

nib_status nib_gemm_format_check(const char *what, nib_format f)
{
    char name[64];
    NIB_REQUIRE(nib_format_is_valid(f), NIB_ERR_ARGUMENT, "%s: %#x is no format", what, f);
    if (is_offered(f)) return NIB_OK;
    (void)nib_format_name(f, name, sizeof name);
    return nib_fail(NIB_ERR_UNSUPPORTED, "%s: format %s; products take nvfp4, nvfp4-b32, mxfp4 and "
                    "mxfp4-b16", what, name);
}

nib_status nib_gemm_shape_check(const char *what, int64_t n, int64_t k, int32_t gated)
{
    const int unit = gated ? 16 : 8;
    NIB_REQUIRE(n >= 0 && n % unit == 0, NIB_ERR_SHAPE, "%s: N is %lld; it must be %sa multiple of "
                "%d", what, (long long)n, gated ? "with gated " : "", unit);
    NIB_REQUIRE(k >= 0 && k % 8 == 0, NIB_ERR_SHAPE, "%s: K is %lld; it must be a multiple of 8",
                what, (long long)k);
    return NIB_OK;
}

static int64_t tile_rows(const nib_gemm_weights *w)
{
    return w->layout == NIB_GEMM_LAYOUT_CPU ? NIB_GEMM_CPU_ROWS : NIB_GEMM_GPU_ROWS;
}

static int64_t tile_cols(const nib_gemm_weights *w)
{
    return w->layout == NIB_GEMM_LAYOUT_CPU ? NIB_GEMM_CPU_COLS : NIB_GEMM_GPU_COLS;
}

static int64_t tiles_high(const nib_gemm_weights *w)
{
    return w->n / tile_rows(w) + (w->n % tile_rows(w) != 0);
}

static int64_t tiles_wide(const nib_gemm_weights *w)
{
    return w->k / tile_cols(w) + (w->k % tile_cols(w) != 0);
}

/* Elements of all tiles from the first to the last; -1 if they are over INT64_MAX. */
static int64_t elements_of(const nib_gemm_weights *w)
{
    int64_t tiles, elements;
    if (w->n == 0 || w->k == 0) return 0;
    const int64_t each = tile_rows(w) * tile_cols(w);
    const int over = __builtin_mul_overflow(tiles_high(w) - 1, w->ld_tiles, &tiles)
                  || __builtin_add_overflow(tiles, tiles_wide(w), &tiles)
                  || __builtin_mul_overflow(tiles, each, &elements);
    return over ? -1 : elements;
}

nib_status nib_gemm_weights_check(const char *what, const nib_gemm_weights *w)
{
    NIB_REQUIRE(w, NIB_ERR_ARGUMENT, "%s: w is NULL", what);
    NIB_REQUIRE(w->size >= WEIGHTS_V1, NIB_ERR_ARGUMENT, "%s: w->size is %u, at least %d is needed",
                what, w->size, (int)WEIGHTS_V1);
    NIB_REQUIRE(w->layout >= NIB_GEMM_LAYOUT_CPU && w->layout <= NIB_GEMM_LAYOUT_SM100,
                NIB_ERR_ARGUMENT, "%s: w->layout %d is unknown", what, (int)w->layout);
    NIB_REQUIRE(w->layout_version == NIB_GEMM_LAYOUT_VERSION, NIB_ERR_UNSUPPORTED,
                "%s: the pack's layout version is %u, this library's %d: pack again", what,
                w->layout_version, (int)NIB_GEMM_LAYOUT_VERSION);
    NIB_REQUIRE(w->gated == 0 || w->gated == 1, NIB_ERR_ARGUMENT, "%s: w->gated is %d", what,
                w->gated);
    NIB_TRY(nib_gemm_format_check(what, w->format));
    NIB_TRY(nib_gemm_shape_check(what, w->n, w->k, w->gated));
    NIB_REQUIRE(w->ld_tiles >= tiles_wide(w), NIB_ERR_SHAPE, "%s: w->ld_tiles %lld < %lld, the "
                "tiles of K = %lld", what, (long long)w->ld_tiles, (long long)tiles_wide(w),
                (long long)w->k);
    NIB_REQUIRE(elements_of(w) >= 0, NIB_ERR_SHAPE, "%s: %lld x %lld weights, %lld tiles a row: "
                "over INT64_MAX bytes", what, (long long)w->n, (long long)w->k,
                (long long)w->ld_tiles);
    return NIB_OK;
}

nib_status nib_gemm_buffers_check(const char *what, const nib_gemm_weights *w)
{
    const int has_scale = nib_format_has_tensor_scale(w->format);
    NIB_REQUIRE((w->codes && w->scales) || !elements_of(w), NIB_ERR_ARGUMENT, "%s: w->%s is NULL",
                what, w->codes ? "scales" : "codes");
    NIB_TRY(nib_pointer_check(w->codes, 16, what, "w->codes"));
    NIB_TRY(nib_pointer_check(w->scales, w->layout == NIB_GEMM_LAYOUT_CPU ? 8 : 16, what,
                              "w->scales")); /* 8: of a slice, blocks of 32 */
    NIB_REQUIRE(!w->tensor_scale == !has_scale, NIB_ERR_ARGUMENT, "%s: w->tensor_scale is %s, but "
                "its format has %s", what, has_scale ? "NULL" : "given",
                has_scale ? "one" : "none");
    return nib_pointer_check(w->tensor_scale, sizeof *w->tensor_scale, what, "w->tensor_scale");
}

nib_gemm_layout nib_gemm_own_layout(const nib_device *device)
{
    if (device->kind == NIB_BACKEND_CPU) return NIB_GEMM_LAYOUT_CPU;
    return device->info.compute_capability >= 100 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
}

nib_status nib_gemm_describe(const nib_device *device, nib_gemm_layout layout, nib_format format,
                             int64_t n, int64_t k, int32_t gated, nib_gemm_weights *w)
{
    const char *what = "gemm_describe";
    NIB_REQUIRE(w, NIB_ERR_ARGUMENT, "%s: w is NULL", what);
    NIB_REQUIRE((unsigned)layout <= NIB_GEMM_LAYOUT_SM100, NIB_ERR_ARGUMENT,
                "%s: layout %d is unknown", what, (int)layout);
    NIB_REQUIRE(layout != NIB_GEMM_LAYOUT_AUTO || device, NIB_ERR_ARGUMENT,
                "%s: layout is AUTO, but device is NULL", what);
    nib_gemm_weights made = {
        .size = sizeof made, .layout_version = NIB_GEMM_LAYOUT_VERSION, .format = format, .n = n,
        .k = k, .gated = gated,
        .layout = layout != NIB_GEMM_LAYOUT_AUTO ? layout : nib_gemm_own_layout(device),
    };
    made.ld_tiles = k > 0 ? tiles_wide(&made) : 0;
    NIB_TRY(nib_gemm_weights_check(what, &made));
    *w = made;
    return NIB_OK;
}

int64_t nib_gemm_codes_bytes(const nib_gemm_weights *w)
{
    return nib_gemm_weights_check("gemm_codes_bytes", w) == NIB_OK ? elements_of(w) / 2 : -1;
}

int64_t nib_gemm_scales_bytes(const nib_gemm_weights *w)
{
    if (nib_gemm_weights_check("gemm_scales_bytes", w) != NIB_OK) return -1;
    return elements_of(w) / nib_format_block(w->format);
}

nib_status nib_gemm_slice(const nib_gemm_weights *whole, int64_t n0, int64_t n, int64_t k0,
                          int64_t k, nib_gemm_weights *part)
{
    const char *what = "gemm_slice";
    NIB_REQUIRE(part, NIB_ERR_ARGUMENT, "%s: part is NULL", what);
    NIB_TRY(nib_gemm_weights_check(what, whole));
    const int64_t rows = tile_rows(whole), cols = tile_cols(whole);
    const int64_t step = whole->gated && rows < 16 ? 16 : rows; /* a gate's rows and the other's */
    NIB_REQUIRE(n0 >= 0 && n >= 0 && n0 <= whole->n && n <= whole->n - n0 && k0 >= 0 && k >= 0
                    && k0 <= whole->k && k <= whole->k - k0, NIB_ERR_SHAPE,
                "%s: rows %lld + %lld and columns %lld + %lld of %lld x %lld", what, (long long)n0,
                (long long)n, (long long)k0, (long long)k, (long long)whole->n,
                (long long)whole->k);
    NIB_REQUIRE(n0 % step == 0 && (n % step == 0 || n0 + n == whole->n) && k0 % cols == 0
                    && (k % cols == 0 || k0 + k == whole->k), NIB_ERR_SHAPE,
                "%s: rows %lld + %lld and columns %lld + %lld are not whole tiles of %lld x %lld",
                what, (long long)n0, (long long)n, (long long)k0, (long long)k, (long long)step,
                (long long)cols);
    const int64_t tile = n0 / rows * whole->ld_tiles + k0 / cols, each = rows * cols;
    const int64_t block = nib_format_block(whole->format);
    *part = *whole;
    part->size = sizeof *part;
    part->n = n;
    part->k = k;
    if (whole->codes) part->codes = whole->codes + tile * (each / 2);
    if (whole->scales) part->scales = whole->scales + tile * (each / block);
    return NIB_OK;
}

/* ---- packing ---- */

static size_t stripe_bytes(const nib_gemm_weights *w)
{
    const int64_t rows = tile_rows(w);
    return (size_t)(rows * (nib_codes_row_bytes(w->format, w->k)
                            + nib_scales_per_row(w->format, w->k)));
}

size_t nib_gemm_pack_workspace_bytes(const nib_gemm_weights *w)
{
    if (nib_gemm_weights_check("gemm_pack_workspace_bytes", w) != NIB_OK) return 0;
    return elements_of(w) ? stripe_bytes(w) : 0;
}

static nib_status in_place_check(const nib_packed *src, const nib_gemm_weights *w,
                                 const nib_launch *launch)
{
    const char *what = "gemm_pack";
    NIB_REQUIRE((src->codes == w->codes) == (src->scales == w->scales), NIB_ERR_ARGUMENT,
                "%s: %s are packed in place, but not %s", what,
                src->codes == w->codes ? "codes" : "scales",
                src->codes == w->codes ? "scales" : "codes");
    if (src->codes != w->codes) return NIB_OK;
    NIB_REQUIRE(src->ld_codes_bytes == nib_codes_row_bytes(src->format, src->cols)
                    && src->scale_layout == NIB_SCALES_LINEAR && !w->gated
                    && w->ld_tiles == tiles_wide(w), NIB_ERR_UNSUPPORTED,
                "%s: in place, with %s", what, w->gated ? "gated weights"
                : src->scale_layout != NIB_SCALES_LINEAR ? "swizzled scales"
                : w->ld_tiles != tiles_wide(w) ? "a slice to be filled"
                                               : "gaps between the rows of codes");
    NIB_REQUIRE(launch->workspace && launch->workspace_bytes >= stripe_bytes(w),
                NIB_ERR_OUT_OF_MEMORY, "%s: in place, with a workspace of %zu bytes, not %zu", what,
                launch->workspace ? launch->workspace_bytes : (size_t)0, stripe_bytes(w));
    return NIB_OK;
}

nib_status nib_gemm_pack(const nib_exec *exec, const nib_packed *src, const nib_gemm_weights *w)
{
    NIB_TRACE(.unpacks = src, .packs_weights = w);
    const char *what = "gemm_pack";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_packed_check(src, what, "src"));
    NIB_TRY(nib_gemm_weights_check(what, w));
    NIB_TRY(nib_gemm_buffers_check(what, w));
    NIB_REQUIRE(src->format == w->format, NIB_ERR_UNSUPPORTED,
                "%s: src's format is %#x, that of w %#x", what, src->format, w->format);
    NIB_REQUIRE(src->rows == w->n && src->cols == w->k, NIB_ERR_SHAPE,
                "%s: src is %lld x %lld, w %lld x %lld", what, (long long)src->rows,
                (long long)src->cols, (long long)w->n, (long long)w->k);
    NIB_NEED(ops, gemm_pack, what);
    if (w->n == 0 || w->k == 0) return NIB_OK;
    NIB_TRY(in_place_check(src, w, &launch));
    NIB_LOG(exec, &launch, what, .weights = w);
    return nib_dispatched(ops->gemm_pack(&launch, src, w), what, ops, &launch);
}

nib_status nib_gemm_unpack(const nib_exec *exec, const nib_gemm_weights *w, const nib_matrix *dst)
{
    NIB_TRACE(.weights = w, .writes = dst);
    const char *what = "gemm_unpack";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_gemm_weights_check(what, w));
    NIB_TRY(nib_gemm_buffers_check(what, w));
    NIB_TRY(nib_matrix_check(dst, what, "dst"));
    NIB_REQUIRE(dst->rows == w->n && dst->cols == w->k, NIB_ERR_SHAPE,
                "%s: dst is %lld x %lld, w %lld x %lld", what, (long long)dst->rows,
                (long long)dst->cols, (long long)w->n, (long long)w->k);
    NIB_NEED(ops, gemm_unpack, what);
    if (w->n == 0 || w->k == 0) return NIB_OK;
    NIB_LOG(exec, &launch, what, .weights = w, .matrix = dst);
    return nib_dispatched(ops->gemm_unpack(&launch, w, dst), what, ops, &launch);
}
