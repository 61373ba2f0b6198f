/* quantize_measured.c: quantize and its statistics in one step, where a backend has that. Not
 * public: callers of the library ask for the two. */
#include "dispatch.h"

int nib_has_quantize_measured(const nib_exec *exec)
{
    return exec && exec->device && exec->device->ops->quantize_measured;
}

nib_status nib_quantize_measured(const nib_exec *exec, const nib_matrix *src,
                                 const nib_quantize_options *options, const nib_packed *dst,
                                 nib_quantize_report *report)
{
    const char *what = "quantize";
    nib_launch launch;
    const nib_backend *ops;
    nib_quantize_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_packed_check(dst, what, "dst"));
    NIB_TRY(nib_shape_check(what, src, dst));
    NIB_TRY(nib_request_make(what, options, dst->format, &request));
    NIB_REQUIRE(report, NIB_ERR_ARGUMENT, "%s: report is NULL", what);
    NIB_NEED(ops, quantize_measured, what);
    NIB_LOG(exec, &launch, what, .matrix = src, .packed = dst, .request = &request,
            .note = "and its statistics in the same step");
    return nib_dispatched(ops->quantize_measured(&launch, src, &request, dst, report), what, ops,
                          &launch);
}
