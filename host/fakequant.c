/* fakequant.c: checks, defaults and dispatch of fakequant.h. No arithmetic lives here. */
#include "dispatch.h"
#include "trace.h"

enum { OPTIONS_V1 = offsetof(nib_fake_options, scales) };

/* The format of options that are large enough to have one. */
#define FORMAT_OF(options) \
    ((options) && (options)->size >= (uint32_t)OPTIONS_V1 ? &(options)->format : NULL)

/* Whether options give block scales, and where those lie. */
#define HAS_SCALES(options) \
    ((options) && (options)->size >= sizeof *(options) && (options)->scales)
#define LAYOUT_OF(options) (HAS_SCALES(options) ? (options)->scale_layout : NIB_SCALES_LINEAR)

/* Block scales of m's size that o, whose format is valid, may give. */
static nib_status take_scales(const char *what, const nib_fake_options *o, const nib_matrix *m,
                              nib_fake_request *request)
{
    request->scales = HAS_SCALES(o) ? o->scales : NULL;
    request->scale_layout = NIB_SCALES_LINEAR;
    if (!request->scales) return NIB_OK;
    NIB_REQUIRE((unsigned)o->scale_layout <= NIB_SCALES_SWIZZLED_128X4, NIB_ERR_ARGUMENT,
                "%s: options->scale_layout %d is unknown", what, (int)o->scale_layout);
    NIB_REQUIRE(nib_scales_bytes(o->format, o->scale_layout, m->rows, m->cols) >= 0, NIB_ERR_SHAPE,
                "%s: scales of %lld x %lld are over INT64_MAX bytes", what, (long long)m->rows,
                (long long)m->cols);
    request->scale_layout = o->scale_layout;
    request->quantize.scale_rows = 1; /* each row has its own bytes */
    return NIB_OK;
}

/* Checks o, for matrices of m's size, and fills in every default. */
static nib_status request_make(const char *what, const nib_fake_options *o, const nib_matrix *m,
                               nib_fake_request *request)
{
    NIB_REQUIRE(o, NIB_ERR_ARGUMENT, "%s: options is NULL", what);
    NIB_REQUIRE(o->size >= OPTIONS_V1, NIB_ERR_ARGUMENT,
                "%s: options->size is %u, at least %d is needed", what, o->size,
                (int)OPTIONS_V1);
    NIB_REQUIRE(nib_format_is_valid(o->format), NIB_ERR_ARGUMENT,
                "%s: options->format %#x is not a format", what, o->format);
    NIB_REQUIRE((unsigned)o->gradient <= NIB_FAKE_CLAMP, NIB_ERR_ARGUMENT,
                "%s: unknown gradient %d", what, (int)o->gradient);
    NIB_TRY(nib_request_make(what, o->quantize, o->format, &request->quantize));
    const int has = nib_format_has_tensor_scale(o->format);
    const int given = (o->tensor_scale != NULL) + (request->quantize.tensor_amax != NULL);
    NIB_REQUIRE(has || !o->tensor_scale, NIB_ERR_ARGUMENT,
                "%s: tensor_scale is given, but format %#x has none", what, o->format);
    NIB_REQUIRE(!has || given == 1, NIB_ERR_ARGUMENT,
                given ? "%s: tensor_scale and tensor_amax are both given"
                      : "%s: tensor_scale is NULL, and so is tensor_amax, but the format has one",
                what);
    NIB_TRY(nib_pointer_check(o->tensor_scale, sizeof(float), what, "tensor_scale"));
    NIB_TRY(nib_mask_check(o->mask, o->ld_mask_bytes, m, what));
    NIB_TRY(take_scales(what, o, m, request));
    request->format = o->format;
    request->tensor_scale = o->tensor_scale;
    request->gradient = o->gradient;
    request->mask = o->mask;
    request->ld_mask_bytes = o->ld_mask_bytes;
    return NIB_OK;
}

nib_status nib_fake_quantize(const nib_exec *exec, const nib_matrix *src,
                             const nib_fake_options *options, const nib_matrix *dst)
{
    NIB_TRACE(.reads = src, .writes = dst, .format = FORMAT_OF(options),
              .scales = HAS_SCALES(options), .from = LAYOUT_OF(options));
    const char *what = "fake_quantize";
    nib_launch launch;
    const nib_backend *ops;
    nib_fake_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_pair_check(what, "src", src, "dst", dst));
    NIB_TRY(request_make(what, options, src, &request));
    NIB_NEED(ops, fake_quantize, what);
    NIB_LOG(exec, &launch, request.scales ? "fake_quantize_given" : what, .matrix = src,
            .format = &request.format, .request = &request.quantize, .fake = &request,
            .note = dst->dtype != src->dtype ? "to another dtype" : NULL);
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->fake_quantize(&launch, src, &request, dst), what, ops, &launch);
}

nib_status nib_fake_quantize_backward(const nib_exec *exec, const nib_matrix *grad_out,
                                      const nib_matrix *src, const nib_fake_options *options,
                                      const nib_matrix *grad_in)
{
    NIB_TRACE(.reads = grad_out, .reads_too = src, .writes = grad_in,
              .format = FORMAT_OF(options), .scales = src && HAS_SCALES(options),
              .from = LAYOUT_OF(options));
    const char *what = "fake_quantize_backward";
    nib_launch launch;
    const nib_backend *ops;
    nib_fake_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_pair_check(what, "grad_out", grad_out, "grad_in", grad_in));
    NIB_TRY(request_make(what, options, grad_out, &request));
    if (src) {
        NIB_TRY(nib_matrix_check(src, what, "src"));
        NIB_TRY(nib_same_size_check(what, "src", grad_out, src));
    }
    const int identity = request.gradient == NIB_FAKE_IDENTITY;
    const int reads_src = !identity && !request.mask;
    NIB_REQUIRE(src || !reads_src, NIB_ERR_ARGUMENT,
                "%s: src is NULL, and there is no mask to tell what was clamped", what);
    NIB_NEED(ops, fake_quantize_backward, what);
    NIB_LOG(exec, &launch, what, .matrix = grad_out, .format = &request.format,
            .request = &request.quantize, .fake = &request, .backward = 1,
            .note = reads_src && request.scales ? "by given scales"
                    : grad_in->dtype != grad_out->dtype ? "to another dtype" : NULL);
    if (grad_out->rows == 0 || grad_out->cols == 0) return NIB_OK;
    if (identity && grad_out->data == grad_in->data) return NIB_OK;
    return nib_dispatched(ops->fake_quantize_backward(&launch, grad_out, reads_src ? src : NULL,
                                                      &request, grad_in), what, ops, &launch);
}
