/* quantize_batch.c: many matrices of one shape in one call, and the dynamic tensor scale. */
#include "dispatch.h"
#include "trace.h"

enum { BATCH_V1 = sizeof(nib_batch) };

static int64_t dtype_bytes(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

static nib_status batch_check(const nib_batch *b, const char *what)
{
    NIB_REQUIRE(b, NIB_ERR_ARGUMENT, "%s: batch is NULL", what);
    NIB_REQUIRE(b->size >= BATCH_V1, NIB_ERR_ARGUMENT,
                "%s: batch->size is %u, at least %d is needed", what, b->size, (int)BATCH_V1);
    NIB_REQUIRE(b->tensor_stride == 0 || b->tensor_stride == 1, NIB_ERR_ARGUMENT,
                "%s: batch->tensor_stride is %lld, not 0 or 1", what, (long long)b->tensor_stride);
    NIB_REQUIRE(b->count >= 0, NIB_ERR_SHAPE, "%s: batch->count is %lld", what,
                (long long)b->count);
    return NIB_OK;
}

/* A stride of unit bytes, from one matrix of rows x width units to the next, rows ld apart.
 * Outputs are apart if each matrix ends before the next begins, or if their rows take turns. */
static nib_status stride_check(const nib_batch *b, int64_t stride, int64_t unit, int64_t rows,
                               int64_t width, int64_t ld, int is_output, const char *what,
                               const char *name)
{
    NIB_REQUIRE(stride >= 0, NIB_ERR_SHAPE, "%s: batch->%s is %lld", what, name,
                (long long)stride);
    int64_t size; /* rows * ld * unit is known to fit */
    NIB_REQUIRE(!__builtin_mul_overflow(b->count, stride, &size)
                    && !__builtin_mul_overflow(size, unit, &size)
                    && size <= INT64_MAX - rows * ld * unit,
                NIB_ERR_SHAPE, "%s: %lld matrices at batch->%s %lld are over INT64_MAX bytes",
                what, (long long)b->count, name, (long long)stride);
    if (!is_output || b->count < 2 || rows == 0 || width == 0) return NIB_OK;
    const int after = stride >= (rows - 1) * ld + width;
    const int between = stride >= width && (b->count - 1) * stride <= ld - width;
    NIB_REQUIRE(after || between, NIB_ERR_SHAPE,
                "%s: at batch->%s %lld outputs overlap: %lld rows of %lld, %lld apart", what, name,
                (long long)stride, (long long)rows, (long long)width, (long long)ld);
    return NIB_OK;
}

static nib_status matrix_stride_check(const nib_batch *b, const nib_matrix *m, int is_output,
                                      const char *what)
{
    return stride_check(b, b->matrix_stride_elems, dtype_bytes(m->dtype), m->rows, m->cols,
                        m->ld_elems, is_output, what, "matrix_stride_elems");
}

static nib_status packed_strides_check(const nib_batch *b, const nib_packed *p, int is_output,
                                       const char *what)
{
    const int64_t row_bytes = nib_codes_row_bytes(p->format, p->cols);
    const int64_t scales = nib_scales_bytes(p->format, p->scale_layout, p->rows, p->cols);
    NIB_TRY(stride_check(b, b->codes_stride_bytes, 1, p->rows, row_bytes, p->ld_codes_bytes,
                         is_output, what, "codes_stride_bytes"));
    return stride_check(b, b->scales_stride_bytes, 1, 1, scales, scales, is_output, what,
                        "scales_stride_bytes");
}

/* The i-th of a batch's matrices. Pointers that are NULL stay so. */
static nib_matrix matrix_at(const nib_batch *b, const nib_matrix *first, int64_t i)
{
    nib_matrix m = *first;
    if (m.data)
        m.data = (uint8_t *)m.data + i * b->matrix_stride_elems * dtype_bytes(m.dtype);
    return m;
}

static nib_packed packed_at(const nib_batch *b, const nib_packed *first, int64_t i)
{
    nib_packed p = *first;
    if (p.codes) p.codes += i * b->codes_stride_bytes;
    if (p.scales) p.scales += i * b->scales_stride_bytes;
    if (p.tensor_scale) p.tensor_scale += i * b->tensor_stride;
    return p;
}

/* Matrix by matrix, for a backend without the entry: the CPU, whose memory is the host's. */
static nib_status quantize_each(const nib_launch *launch, const nib_backend *ops,
                                const nib_batch *b, const nib_matrix *src,
                                const nib_quantize_request *request, const nib_packed *dst,
                                float *dynamic_amax)
{
    const uint64_t quads = ((uint64_t)src->rows * (uint64_t)src->cols + 3) / 4;
    for (int64_t i = 0; i < b->count; i++) {
        const nib_matrix x = matrix_at(b, src, i);
        const nib_packed p = packed_at(b, dst, i);
        nib_quantize_request r = *request;
        uint64_t random[2];
        if (r.random) {
            random[0] = r.random[0];
            random[1] = r.random[1] + (uint64_t)i * quads;
            r.random = random;
        }
        if (r.tensor_amax) r.tensor_amax += i * b->tensor_stride;
        if (dynamic_amax) NIB_TRY(ops->amax(launch, &x, dynamic_amax + i, NULL));
        NIB_TRY(ops->quantize(launch, &x, &r, &p));
    }
    return NIB_OK;
}

static nib_status amax_each(const nib_launch *launch, const nib_backend *ops, const nib_batch *b,
                            const nib_matrix *src, float *amax, uint64_t *nonfinite)
{
    float most = 0;
    uint64_t sum = 0;
    for (int64_t i = 0; i < b->count; i++) {
        const nib_matrix x = matrix_at(b, src, i);
        float a;
        uint64_t n;
        NIB_TRY(ops->amax(launch, &x, &a, &n));
        if (a > most) most = a;
        sum += n;
        if (b->tensor_stride) {
            amax[i] = a;
            if (nonfinite) nonfinite[i] = n;
        }
    }
    if (b->tensor_stride) return NIB_OK;
    *amax = most;
    if (nonfinite) *nonfinite = sum;
    return NIB_OK;
}

#define NEED_BATCH(exec, entry, what)                                                      \
    NIB_REQUIRE((exec)->device->ops->entry##_batch                                         \
                    || ((exec)->device->ops->entry                                         \
                        && (exec)->device->kind == NIB_BACKEND_CPU),                       \
                NIB_ERR_UNSUPPORTED, "%s: not in the %s backend", what,                    \
                (exec)->device->ops->name)

static nib_status amax_all(const nib_launch *launch, const nib_backend *ops, const nib_batch *b,
                           const nib_matrix *src, float *amax, uint64_t *nonfinite)
{
    if (b->count == 0) { /* the amax of nothing, if there is a place for it */
        const nib_matrix none = { .dtype = src->dtype };
        return b->tensor_stride ? NIB_OK : ops->amax(launch, &none, amax, nonfinite);
    }
    return ops->amax_batch ? ops->amax_batch(launch, b, src, amax, nonfinite)
                           : amax_each(launch, ops, b, src, amax, nonfinite);
}

nib_status nib_quantize_batch(const nib_exec *exec, const nib_batch *batch, const nib_matrix *src,
                              const nib_quantize_options *options, const nib_packed *dst)
{
    NIB_TRACE(.batch = batch, .reads = src, .packs = dst);
    const char *what = "quantize_batch";
    nib_launch launch;
    const nib_backend *ops;
    nib_quantize_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(batch_check(batch, what));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_packed_check(dst, what, "dst"));
    NIB_TRY(nib_shape_check(what, src, dst));
    NIB_TRY(matrix_stride_check(batch, src, 0, what));
    NIB_TRY(packed_strides_check(batch, dst, 1, what));
    NIB_TRY(nib_request_make(what, options, dst->format, &request));
    NEED_BATCH(exec, quantize, what);
    NIB_LOG(exec, &launch, "quantize", .batch = batch, .matrix = src, .packed = dst,
            .request = &request);
    if (batch->count == 0) return NIB_OK;
    return nib_dispatched(ops->quantize_batch
                              ? ops->quantize_batch(&launch, batch, src, &request, dst)
                              : quantize_each(&launch, ops, batch, src, &request, dst, NULL),
                          what, ops, &launch);
}

nib_status nib_dequantize_batch(const nib_exec *exec, const nib_batch *batch,
                                const nib_packed *src, const nib_matrix *dst)
{
    NIB_TRACE(.batch = batch, .unpacks = src, .writes = dst);
    const char *what = "dequantize_batch";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(batch_check(batch, what));
    NIB_TRY(nib_packed_check(src, what, "src"));
    NIB_TRY(nib_matrix_check(dst, what, "dst"));
    NIB_TRY(nib_shape_check(what, dst, src));
    NIB_TRY(packed_strides_check(batch, src, 0, what));
    NIB_TRY(matrix_stride_check(batch, dst, 1, what));
    NEED_BATCH(exec, dequantize, what);
    NIB_LOG(exec, &launch, "dequantize", .batch = batch, .matrix = dst, .packed = src);
    if (batch->count == 0 || src->rows == 0 || src->cols == 0) return NIB_OK;
    if (ops->dequantize_batch)
        return nib_dispatched(ops->dequantize_batch(&launch, batch, src, dst), what, ops, &launch);
    for (int64_t i = 0; i < batch->count; i++) {
        const nib_packed p = packed_at(batch, src, i);
        const nib_matrix m = matrix_at(batch, dst, i);
        NIB_TRY(nib_dispatched(ops->dequantize(&launch, &p, &m), what, ops, &launch));
    }
    return NIB_OK;
}

nib_status nib_amax_batch(const nib_exec *exec, const nib_batch *batch, const nib_matrix *src,
                          float *amax, uint64_t *nonfinite)
{
    NIB_TRACE(.batch = batch, .reads = src);
    const char *what = "amax_batch";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(batch_check(batch, what));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(matrix_stride_check(batch, src, 0, what));
    NIB_REQUIRE(amax || (batch->count == 0 && batch->tensor_stride), NIB_ERR_ARGUMENT,
                "%s: amax is NULL", what);
    NIB_TRY(nib_pointer_check(amax, sizeof *amax, what, "amax"));
    NIB_TRY(nib_pointer_check(nonfinite, sizeof *nonfinite, what, "nonfinite"));
    NEED_BATCH(exec, amax, what);
    NIB_LOG(exec, &launch, "amax", .batch = batch, .matrix = src);
    return nib_dispatched(amax_all(&launch, ops, batch, src, amax, nonfinite), what, ops, &launch);
}

/* Both passes of each matrix in turn, where there is no entry for a batch and no common amax. */
static nib_status dynamic(const nib_launch *launch, const nib_backend *ops, const nib_batch *b,
                          const nib_matrix *src, const nib_quantize_request *request,
                          const nib_packed *dst, float *amax)
{
    if (b->count == 1) {
        NIB_TRY(ops->amax(launch, src, amax, NULL));
        return ops->quantize(launch, src, request, dst);
    }
    if (!ops->quantize_batch && b->tensor_stride)
        return quantize_each(launch, ops, b, src, request, dst, amax);
    NIB_TRY(amax_all(launch, ops, b, src, amax, NULL));
    if (b->count == 0) return NIB_OK;
    return ops->quantize_batch ? ops->quantize_batch(launch, b, src, request, dst)
                               : quantize_each(launch, ops, b, src, request, dst, NULL);
}

nib_status nib_quantize_dynamic(const nib_exec *exec, const nib_batch *batch,
                                const nib_matrix *src, const nib_quantize_options *options,
                                const nib_packed *dst, float *amax)
{
    NIB_TRACE(.batch = batch, .reads = src, .passes = 2, .packs = dst);
    const char *what = "quantize_dynamic";
    const nib_batch one = { .size = sizeof one, .count = 1 };
    const nib_batch *b = batch ? batch : &one;
    nib_launch launch;
    const nib_backend *ops;
    nib_quantize_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(batch_check(b, what));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_packed_check(dst, what, "dst"));
    NIB_TRY(nib_shape_check(what, src, dst));
    NIB_TRY(matrix_stride_check(b, src, 0, what));
    NIB_TRY(packed_strides_check(b, dst, 1, what));
    NIB_TRY(nib_request_make(what, options, dst->format, &request));
    NIB_REQUIRE(nib_format_has_tensor_scale(dst->format), NIB_ERR_UNSUPPORTED,
                "%s: format %#x has no tensor scale", what, dst->format);
    NIB_REQUIRE(!request.tensor_amax, NIB_ERR_ARGUMENT,
                "%s: options->tensor_amax is given, but amax is where it comes from", what);
    NIB_REQUIRE(amax || (b->count == 0 && b->tensor_stride), NIB_ERR_ARGUMENT, "%s: amax is NULL",
                what);
    NIB_TRY(nib_pointer_check(amax, sizeof *amax, what, "amax"));
    NEED_BATCH(exec, amax, what);
    NEED_BATCH(exec, quantize, what);
    NIB_LOG(exec, &launch, what, .batch = b, .matrix = src, .packed = dst, .request = &request);
    request.tensor_amax = amax;
    return nib_dispatched(dynamic(&launch, ops, b, src, &request, dst, amax), what, ops, &launch);
}
