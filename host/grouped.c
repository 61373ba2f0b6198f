/* grouped.c: checks and dispatch of grouped.h. No arithmetic lives here. */
#include "dispatch.h"
#include "trace.h"

enum { GROUPS_V1 = sizeof(nib_groups) };

int64_t nib_grouped_scales_bytes(nib_format format, nib_scale_layout layout, int64_t count,
                                 int64_t rows, int64_t cols)
{
    if (layout != NIB_SCALES_SWIZZLED_128X4 || count < 0 || rows < 0)
        return count < 0 ? -1 : nib_scales_bytes(format, layout, rows, cols);
    const int64_t padded = count < rows ? count : rows; /* groups that have rows, at most */
    int64_t most;
    if (__builtin_mul_overflow(padded, 127, &most) || __builtin_add_overflow(most, rows, &most))
        return -1;
    return nib_scales_bytes(format, layout, most / 128 * 128, cols);
}

nib_status nib_groups_check(const nib_groups *g, const char *what)
{
    NIB_REQUIRE(g, NIB_ERR_ARGUMENT, "%s: groups is NULL", what);
    NIB_REQUIRE(g->size >= GROUPS_V1, NIB_ERR_ARGUMENT,
                "%s: groups->size is %u, at least %d is needed", what, g->size, (int)GROUPS_V1);
    NIB_REQUIRE(g->count >= 0, NIB_ERR_SHAPE, "%s: groups->count is %lld", what,
                (long long)g->count);
    NIB_REQUIRE(g->offsets || g->count == 0, NIB_ERR_ARGUMENT, "%s: groups->offsets is NULL", what);
    return nib_pointer_check(g->offsets, sizeof(int64_t), what, "groups->offsets");
}

nib_status nib_quantize_grouped(const nib_exec *exec, const nib_groups *groups,
                                const nib_matrix *src, const nib_quantize_options *options,
                                const nib_packed *dst)
{
    NIB_TRACE(.reads = src, .packs = dst);
    const char *what = "quantize_grouped";
    nib_launch launch;
    const nib_backend *ops;
    nib_quantize_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_groups_check(groups, what));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_packed_check(dst, what, "dst"));
    NIB_TRY(nib_shape_check(what, src, dst));
    NIB_REQUIRE(nib_grouped_scales_bytes(dst->format, dst->scale_layout, groups->count, dst->rows,
                                         dst->cols) >= 0,
                NIB_ERR_SHAPE,
                "%s: the scales of %lld groups in %lld x %lld are over INT64_MAX bytes", what,
                (long long)groups->count, (long long)dst->rows, (long long)dst->cols);
    NIB_TRY(nib_request_make(what, options, dst->format, &request));
    NIB_NEED(ops, quantize_grouped, what);
    NIB_LOG(exec, &launch, what, .matrix = src, .packed = dst, .request = &request,
            .note = "rows in groups");
    if (groups->count == 0) return NIB_OK;
    return nib_dispatched(ops->quantize_grouped(&launch, groups, src, &request, dst), what, ops,
                          &launch);
}

nib_status nib_amax_grouped(const nib_exec *exec, const nib_groups *groups, const nib_matrix *src,
                            float *amax)
{
    NIB_TRACE(.reads = src);
    const char *what = "amax_grouped";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_groups_check(groups, what));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_REQUIRE(amax || groups->count == 0, NIB_ERR_ARGUMENT, "%s: amax is NULL", what);
    NIB_TRY(nib_pointer_check(amax, sizeof *amax, what, "amax"));
    NIB_NEED(ops, amax_grouped, what);
    NIB_LOG(exec, &launch, what, .matrix = src, .note = "rows in groups");
    if (groups->count == 0) return NIB_OK;
    return nib_dispatched(ops->amax_grouped(&launch, groups, src, amax), what, ops, &launch);
}
