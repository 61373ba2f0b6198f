/* quantize_both.c: a matrix and its transpose in one call. No arithmetic lives here. */
#include "dispatch.h"
#include "trace.h"

/* All that columnwise has to be, besides what rowwise has to. */
static nib_status columnwise_check(const char *what, const nib_matrix *src,
                                   const nib_packed *rowwise, const nib_packed *columnwise)
{
    NIB_TRY(nib_packed_check(columnwise, what, "columnwise"));
    NIB_REQUIRE(columnwise->rows == src->cols && columnwise->cols == src->rows, NIB_ERR_SHAPE,
                "%s: columnwise is %lld x %lld, but src's transpose %lld x %lld", what,
                (long long)columnwise->rows, (long long)columnwise->cols, (long long)src->cols,
                (long long)src->rows);
    NIB_REQUIRE(!rowwise || rowwise->format == columnwise->format, NIB_ERR_UNSUPPORTED,
                "%s: rowwise is of format %#x, columnwise of %#x", what, rowwise->format,
                columnwise->format);
    return NIB_OK;
}

nib_status nib_quantize_both(const nib_exec *exec, const nib_matrix *src,
                             const nib_quantize_options *options, const nib_packed *rowwise,
                             const nib_packed *columnwise)
{
    NIB_TRACE(.reads = src, .packs = rowwise, .packs_too = columnwise);
    const char *what = "quantize_both";
    nib_launch launch;
    const nib_backend *ops;
    nib_quantize_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_REQUIRE(rowwise || columnwise, NIB_ERR_ARGUMENT, "%s: rowwise and columnwise are NULL",
                what);
    if (rowwise) {
        NIB_TRY(nib_packed_check(rowwise, what, "rowwise"));
        NIB_TRY(nib_shape_check(what, src, rowwise));
    }
    if (columnwise) NIB_TRY(columnwise_check(what, src, rowwise, columnwise));
    const nib_packed *any = rowwise ? rowwise : columnwise;
    NIB_TRY(nib_request_make(what, options, any->format, &request));
    NIB_NEED(ops, quantize, what);
    NIB_NEED(ops, quantize_both, what);
    NIB_LOG(exec, &launch, what, .matrix = src, .packed = any, .request = &request,
            .note = !columnwise ? "rowwise alone" : !rowwise ? "columnwise alone" : NULL);
    return nib_dispatched(columnwise
                              ? ops->quantize_both(&launch, src, &request, rowwise, columnwise)
                              : ops->quantize(&launch, src, &request, rowwise),
                          what, ops, &launch);
}
