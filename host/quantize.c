/* quantize.c: validate, fill in defaults, dispatch. No arithmetic lives here. */
#include "dispatch.h"
#include "trace.h"

enum {
    PACKED_V1 = sizeof(nib_packed),
    OPTIONS_V1 = offsetof(nib_quantize_options, scale_rows),
    RULES_V1 = sizeof(nib_rules),
    REPORT_V1 = sizeof(nib_quantize_report)
};

static int dtype_bytes(nib_dtype dtype)
{
    switch (dtype) {
    case NIB_F32: return 4;
    case NIB_F16:
    case NIB_BF16: return 2;
    }
    return 0;
}

nib_status nib_matrix_check(const nib_matrix *m, const char *what, const char *name)
{
    NIB_REQUIRE(m, NIB_ERR_ARGUMENT, "%s: %s is NULL", what, name);
    const int bytes = dtype_bytes(m->dtype);
    NIB_REQUIRE(bytes, NIB_ERR_ARGUMENT, "%s: %s->dtype %d is unknown", what, name, (int)m->dtype);
    NIB_REQUIRE(m->rows >= 0 && m->cols >= 0, NIB_ERR_SHAPE, "%s: %s is %lld x %lld", what, name,
                (long long)m->rows, (long long)m->cols);
    NIB_REQUIRE(m->ld_elems >= m->cols, NIB_ERR_SHAPE, "%s: %s->ld_elems %lld < cols %lld", what,
                name, (long long)m->ld_elems, (long long)m->cols);
    int64_t size;
    NIB_REQUIRE(!__builtin_mul_overflow(m->rows, m->ld_elems, &size)
                    && !__builtin_mul_overflow(size, 4, &size),
                NIB_ERR_SHAPE, "%s: %s has %lld rows of ld_elems %lld, which is over 2^61 elements",
                what, name, (long long)m->rows, (long long)m->ld_elems);
    NIB_REQUIRE(m->data || m->rows == 0 || m->cols == 0, NIB_ERR_ARGUMENT, "%s: %s->data is NULL",
                what, name);
    NIB_REQUIRE((uintptr_t)m->data % (uintptr_t)bytes == 0, NIB_ERR_ALIGNMENT,
                "%s: %s->data %p is not aligned to %d bytes", what, name, m->data, bytes);
    return NIB_OK;
}

nib_status nib_packed_check(const nib_packed *p, const char *what, const char *name)
{
    NIB_REQUIRE(p, NIB_ERR_ARGUMENT, "%s: %s is NULL", what, name);
    NIB_REQUIRE(p->size >= PACKED_V1, NIB_ERR_ARGUMENT,
                "%s: %s->size is %u, at least %d is needed", what, name, p->size, (int)PACKED_V1);
    NIB_REQUIRE(nib_format_is_valid(p->format), NIB_ERR_ARGUMENT,
                "%s: %s->format %#x is not a format", what, name, p->format);
    NIB_REQUIRE((unsigned)p->code_order <= NIB_CODES_GGUF_HALVES, NIB_ERR_ARGUMENT,
                "%s: %s->code_order %d is unknown", what, name, (int)p->code_order);
    NIB_REQUIRE((unsigned)p->scale_layout <= NIB_SCALES_SWIZZLED_128X4, NIB_ERR_ARGUMENT,
                "%s: %s->scale_layout %d is unknown", what, name, (int)p->scale_layout);
    NIB_REQUIRE(p->rows >= 0 && p->cols >= 0, NIB_ERR_SHAPE, "%s: %s is %lld x %lld", what, name,
                (long long)p->rows, (long long)p->cols);

    const int64_t row_bytes = nib_codes_row_bytes(p->format, p->cols);
    NIB_REQUIRE(p->ld_codes_bytes >= row_bytes, NIB_ERR_SHAPE,
                "%s: %s->ld_codes_bytes %lld < %lld, the codes of %lld columns", what, name,
                (long long)p->ld_codes_bytes, (long long)row_bytes, (long long)p->cols);
    int64_t size;
    NIB_REQUIRE(!__builtin_mul_overflow(p->rows, p->ld_codes_bytes, &size)
                    && nib_scales_bytes(p->format, p->scale_layout, p->rows, p->cols) >= 0,
                NIB_ERR_SHAPE, "%s: %s of %lld x %lld is over INT64_MAX bytes", what, name,
                (long long)p->rows, (long long)p->cols);

    const int32_t block = nib_format_block(p->format);
    NIB_REQUIRE(p->code_order == NIB_CODES_PAIRS
                    || (nib_format_element_bits(p->format) == 4 && p->cols % block == 0),
                NIB_ERR_UNSUPPORTED,
                "%s: GGUF halves hold 4-bit codes in whole blocks; %s has %d bits and %lld "
                "columns in blocks of %d", what, name, nib_format_element_bits(p->format),
                (long long)p->cols, block);
    const int empty = p->rows == 0 || p->cols == 0;
    NIB_REQUIRE(empty || (p->codes && p->scales), NIB_ERR_ARGUMENT,
                "%s: %s->codes or %s->scales is NULL", what, name, name);
    const int has = nib_format_has_tensor_scale(p->format);
    NIB_REQUIRE(!has == !p->tensor_scale, NIB_ERR_ARGUMENT,
                has ? "%s: %s->tensor_scale is NULL, but the format has one"
                    : "%s: %s->tensor_scale is given, but the format has none", what, name);
    return nib_pointer_check(p->tensor_scale, sizeof(float), what, "tensor_scale");
}

nib_status nib_rules_check(const nib_rules *r, const char *what)
{
    NIB_REQUIRE(r->size >= RULES_V1, NIB_ERR_ARGUMENT,
                "%s: rules->size is %u, at least %d is needed", what, r->size, (int)RULES_V1);
    const struct {
        const char *name;
        unsigned    value, last;
    } members[] = {
        { "tensor", (unsigned)r->tensor, NIB_TENSOR_SOURCE },
        { "block", (unsigned)r->block, NIB_BLOCK_TWO_STEP },
        { "element", (unsigned)r->element, NIB_ELEMENT_DIVIDE_ENC },
        { "mx", (unsigned)r->mx, NIB_MX_EVEN_SOURCE },
        { "ties", (unsigned)r->ties, NIB_TIES_DOWN },
        { "zero_sign", (unsigned)r->zero_sign, NIB_ZERO_SOURCE },
        { "nonfinite", (unsigned)r->nonfinite, NIB_NONFINITE_NAN },
        { "e4m3_zero", r->e4m3_zero, 126 },
        { "e4m3_min", r->e4m3_min, 126 },
    };
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        NIB_REQUIRE(members[i].value <= members[i].last, NIB_ERR_ARGUMENT,
                    "%s: rules->%s is %u, the last is %u", what, members[i].name,
                    members[i].value, members[i].last);
    return NIB_OK;
}

nib_status nib_shape_check(const char *what, const nib_matrix *m, const nib_packed *p)
{
    NIB_REQUIRE(m->rows == p->rows && m->cols == p->cols, NIB_ERR_SHAPE,
                "%s: the matrix is %lld x %lld, the packed one %lld x %lld", what,
                (long long)m->rows, (long long)m->cols, (long long)p->rows, (long long)p->cols);
    return NIB_OK;
}

nib_status nib_pointer_check(const void *p, size_t bytes, const char *what, const char *name)
{
    NIB_REQUIRE((uintptr_t)p % bytes == 0, NIB_ERR_ALIGNMENT, "%s: %s %p is not aligned to %zu "
                "bytes", what, name, p, bytes);
    return NIB_OK;
}

nib_status nib_dispatched(nib_status status, const char *what, const nib_backend *ops,
                          const nib_launch *launch)
{
    NIB_REQUIRE(status == NIB_OK || !launch->why || !launch->why[0], status, "%s: %s", what,
                launch->why);
    NIB_REQUIRE(status == NIB_OK, status, "%s: %s from the %s backend", what,
                nib_status_name(status), ops->name);
    return NIB_OK;
}

static nib_status check_choice(nib_format format, nib_scale_choice choice, const char *what)
{
    NIB_REQUIRE((unsigned)choice <= NIB_SCALE_FOUR_OVER_SIX_MAE, NIB_ERR_ARGUMENT,
                "%s: unknown scale choice %d", what, (int)choice);
    NIB_REQUIRE(choice < NIB_SCALE_FOUR_OVER_SIX_MSE
                    || (nib_format_element(format) == NIB_E2M1
                        && nib_format_scale(format) == NIB_SCALE_E4M3),
                NIB_ERR_UNSUPPORTED,
                "%s: four-over-six is for E2M1 with E4M3 scales, not format %#x", what, format);
    return NIB_OK;
}

nib_status nib_request_make(const char *what, const nib_quantize_options *o, nib_format format,
                            nib_quantize_request *request)
{
    *request = (nib_quantize_request){ .scale_choice = NIB_SCALE_AMAX, .scale_rows = 1 };
    NIB_TRY(nib_rules_fill(NIB_RULES_TE, format, &request->rules));
    if (!o) return NIB_OK;

    NIB_REQUIRE(o->size >= OPTIONS_V1, NIB_ERR_ARGUMENT,
                "%s: options->size is %u, at least %d is needed", what, o->size,
                (int)OPTIONS_V1);
    NIB_TRY(check_choice(format, o->scale_choice, what));
    NIB_REQUIRE((unsigned)o->rounding <= NIB_ROUND_STOCHASTIC, NIB_ERR_ARGUMENT,
                "%s: unknown rounding %d", what, (int)o->rounding);
    NIB_REQUIRE(o->rounding == NIB_ROUND_NEAREST || o->random, NIB_ERR_ARGUMENT,
                "%s: stochastic rounding needs options->random", what);
    NIB_REQUIRE(!o->tensor_amax || nib_format_has_tensor_scale(format), NIB_ERR_UNSUPPORTED,
                "%s: tensor_amax is given, but format %#x has no tensor scale", what, format);
    NIB_TRY(nib_pointer_check(o->tensor_amax, sizeof(float), what, "options->tensor_amax"));
    NIB_TRY(nib_pointer_check(o->random, sizeof(uint64_t), what, "options->random"));
    if (o->rules) {
        NIB_TRY(nib_rules_check(o->rules, what));
        request->rules = *o->rules;
    }
    const int32_t scale_rows = o->size >= sizeof *o ? o->scale_rows : 0; /* the first version's */
    NIB_REQUIRE(scale_rows == 0 || scale_rows == 1 || scale_rows == 16, NIB_ERR_ARGUMENT,
                "%s: options->scale_rows is %d, not 0, 1 or 16", what, (int)scale_rows);
    NIB_REQUIRE(scale_rows <= 1 || o->scale_choice == NIB_SCALE_AMAX, NIB_ERR_UNSUPPORTED,
                "%s: scales of 16 rows come from their amax, not by scale choice %d", what,
                (int)o->scale_choice);
    if (scale_rows) request->scale_rows = scale_rows;
    request->scale_choice = o->scale_choice;
    request->rounding = o->rounding;
    request->tensor_amax = o->tensor_amax;
    request->random = o->random;
    return NIB_OK;
}

/* Either kind of nib_quantize. */
static nib_status quantize(const char *what, int given, const nib_exec *exec,
                           const nib_matrix *src, const nib_quantize_options *options,
                           const nib_packed *dst)
{
    nib_launch launch;
    const nib_backend *ops;
    nib_quantize_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_packed_check(dst, what, "dst"));
    NIB_TRY(nib_shape_check(what, src, dst));
    NIB_TRY(nib_request_make(what, options, dst->format, &request));
    if (given) request.given = request.scale_rows = 1; /* each row has its own bytes */
    NIB_NEED(ops, quantize, what);
    NIB_LOG(exec, &launch, what, .matrix = src, .packed = dst, .request = &request);
    return nib_dispatched(ops->quantize(&launch, src, &request, dst), what, ops, &launch);
}

nib_status nib_quantize(const nib_exec *exec, const nib_matrix *src,
                        const nib_quantize_options *options, const nib_packed *dst)
{
    NIB_TRACE(.reads = src, .packs = dst);
    return quantize("quantize", 0, exec, src, options, dst);
}

nib_status nib_quantize_given(const nib_exec *exec, const nib_matrix *src,
                              const nib_quantize_options *options, const nib_packed *dst)
{
    NIB_TRACE(.reads = src, .packs = dst, .given = 1);
    return quantize("quantize_given", 1, exec, src, options, dst);
}

nib_status nib_dequantize(const nib_exec *exec, const nib_packed *src, const nib_matrix *dst)
{
    NIB_TRACE(.unpacks = src, .writes = dst);
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, "dequantize", &launch, &ops));
    NIB_TRY(nib_packed_check(src, "dequantize", "src"));
    NIB_TRY(nib_matrix_check(dst, "dequantize", "dst"));
    NIB_TRY(nib_shape_check("dequantize", dst, src));
    NIB_NEED(ops, dequantize, "dequantize");
    NIB_LOG(exec, &launch, "dequantize", .matrix = dst, .packed = src);
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->dequantize(&launch, src, dst), "dequantize", ops, &launch);
}

nib_status nib_amax(const nib_exec *exec, const nib_matrix *src, float *amax, uint64_t *nonfinite)
{
    NIB_TRACE(.reads = src);
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, "amax", &launch, &ops));
    NIB_TRY(nib_matrix_check(src, "amax", "src"));
    NIB_REQUIRE(amax, NIB_ERR_ARGUMENT, "amax: amax is NULL");
    NIB_TRY(nib_pointer_check(amax, sizeof *amax, "amax", "amax"));
    NIB_TRY(nib_pointer_check(nonfinite, sizeof *nonfinite, "amax", "nonfinite"));
    NIB_NEED(ops, amax, "amax");
    NIB_LOG(exec, &launch, "amax", .matrix = src);
    return nib_dispatched(ops->amax(&launch, src, amax, nonfinite), "amax", ops, &launch);
}

nib_status nib_amax_rows(const nib_exec *exec, const nib_matrix *src, float *amax)
{
    NIB_TRACE(.reads = src, .writes_row_amax = 1);
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, "amax_rows", &launch, &ops));
    NIB_TRY(nib_matrix_check(src, "amax_rows", "src"));
    NIB_REQUIRE(amax || src->rows == 0, NIB_ERR_ARGUMENT, "amax_rows: amax is NULL");
    NIB_TRY(nib_pointer_check(amax, sizeof *amax, "amax_rows", "amax"));
    NIB_NEED(ops, amax_rows, "amax_rows");
    NIB_LOG(exec, &launch, "amax_rows", .matrix = src);
    if (src->rows == 0) return NIB_OK;
    return nib_dispatched(ops->amax_rows(&launch, src, amax), "amax_rows", ops, &launch);
}

nib_status nib_tensor_scale(nib_format format, const nib_rules *rules,
                            nib_scale_choice scale_choice, nib_dtype source, float amax,
                            float *encode, float *decode)
{
    NIB_TRACE(.format = &format);
    const char *what = "tensor_scale";
    NIB_REQUIRE(encode && decode, NIB_ERR_ARGUMENT, "%s: encode or decode is NULL", what);
    NIB_REQUIRE(nib_format_is_valid(format), NIB_ERR_ARGUMENT, "%s: %#x is not a format", what,
                format);
    NIB_REQUIRE(nib_format_has_tensor_scale(format), NIB_ERR_UNSUPPORTED,
                "%s: format %#x has no tensor scale", what, format);
    NIB_REQUIRE(dtype_bytes(source), NIB_ERR_ARGUMENT, "%s: unknown dtype %d", what, (int)source);
    NIB_REQUIRE(amax >= 0.0f && amax <= 3.40282347e+38f, NIB_ERR_ARGUMENT,
                "%s: amax is %g, not a finite number >= 0", what, (double)amax);
    NIB_TRY(check_choice(format, scale_choice, what));
    nib_rules r;
    NIB_TRY(nib_rules_fill(NIB_RULES_TE, format, &r));
    if (rules) {
        NIB_TRY(nib_rules_check(rules, what));
        r = *rules;
    }
    nib_scalar_cpu.tensor_scale(format, &r, scale_choice, source, amax, encode, decode);
    return NIB_OK;
}

nib_status nib_relayout_scales(const nib_exec *exec, int64_t rows, int64_t scale_cols,
                               nib_scale_layout from, const uint8_t *src, nib_scale_layout to,
                               uint8_t *dst)
{
    NIB_TRACE(.relayout = 1, .from = from, .to = to, .rows = rows, .cols = scale_cols);
    const char *what = "relayout_scales";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_REQUIRE((unsigned)from <= NIB_SCALES_SWIZZLED_128X4
                    && (unsigned)to <= NIB_SCALES_SWIZZLED_128X4,
                NIB_ERR_ARGUMENT, "%s: layouts %d, %d; only 0 and 1 exist", what, (int)from,
                (int)to);
    int64_t size;
    NIB_REQUIRE(rows >= 0 && scale_cols >= 0 && rows <= INT64_MAX - 127
                    && scale_cols <= INT64_MAX - 3
                    && !__builtin_mul_overflow((rows + 127) / 128 * 128, (scale_cols + 3) / 4 * 4,
                                               &size),
                NIB_ERR_SHAPE, "%s: %lld x %lld scales", what, (long long)rows,
                (long long)scale_cols);
    if (rows == 0 || scale_cols == 0) return NIB_OK;
    NIB_REQUIRE(src && dst, NIB_ERR_ARGUMENT, "%s: src or dst is NULL", what);
    NIB_NEED(ops, relayout_scales, what);
    NIB_LOG(exec, &launch, "relayout", .relayout = 1, .to = to, .rows = rows, .cols = scale_cols,
            .note = from == to ? "a copy: both layouts are the same" : NULL);
    return nib_dispatched(ops->relayout_scales(&launch, rows, scale_cols, from, src, to, dst), what,
                          ops, &launch);
}

nib_status nib_quantize_stats(const nib_exec *exec, const nib_matrix *src,
                              const nib_packed *packed, nib_quantize_report *report)
{
    NIB_TRACE(.reads = src, .unpacks = packed);
    const char *what = "quantize_stats";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_packed_check(packed, what, "packed"));
    NIB_TRY(nib_shape_check(what, src, packed));
    NIB_REQUIRE(report, NIB_ERR_ARGUMENT, "%s: report is NULL", what);
    NIB_REQUIRE(report->size >= REPORT_V1, NIB_ERR_ARGUMENT,
                "%s: report->size is %u, at least %d is needed", what, report->size,
                (int)REPORT_V1);
    NIB_REQUIRE(report->without_counts <= 1, NIB_ERR_ARGUMENT,
                "%s: report->without_counts is %u, not 0 or 1", what, report->without_counts);
    NIB_NEED(ops, quantize_stats, what);
    NIB_LOG(exec, &launch, what, .matrix = src, .packed = packed);
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->quantize_stats(&launch, src, packed, report), what, ops, &launch);
}
