/* transform.c: checks, defaults and dispatch of transform.h. No arithmetic lives here. */
#include "dispatch.h"
#include "trace.h"

enum { TRANSFORM_V1 = sizeof(nib_transform) };

/* The other matrix that an op reads, of options that are large enough to have one. */
static inline const nib_matrix *reads_too(const nib_transform *t)
{
    if (!t || t->size < (uint32_t)TRANSFORM_V1) return NULL;
    return t->op == NIB_TRANSFORM_RMSNORM    ? t->residual
           : t->op == NIB_TRANSFORM_SILU_MUL ? t->y : NULL;
}

/* A matrix that goes with src, under its own name. */
static nib_status other_check(const char *what, const nib_matrix *m, const nib_matrix *src,
                              const char *name)
{
    NIB_TRY(nib_matrix_check(m, what, name));
    NIB_REQUIRE(m->rows == src->rows && m->cols == src->cols, NIB_ERR_SHAPE,
                "%s: %s is %lld x %lld, src %lld x %lld", what, name, (long long)m->rows,
                (long long)m->cols, (long long)src->rows, (long long)src->cols);
    NIB_REQUIRE(m->dtype == src->dtype, NIB_ERR_ARGUMENT, "%s: %s->dtype is %d, src's %d", what,
                name, (int)m->dtype, (int)src->dtype);
    return NIB_OK;
}

static nib_status rmsnorm_check(const char *what, const nib_transform *t, const nib_matrix *src)
{
    NIB_REQUIRE(t->eps >= 0.0f && t->eps <= 3.40282347e+38f, NIB_ERR_ARGUMENT,
                "%s: transform->eps is %g, not a finite number >= 0", what, (double)t->eps);
    if (t->weight) {
        NIB_REQUIRE(t->weight_dtype == NIB_F32 || t->weight_dtype == src->dtype, NIB_ERR_ARGUMENT,
                    "%s: transform->weight_dtype is %d, neither src's %d nor f32", what,
                    (int)t->weight_dtype, (int)src->dtype);
        NIB_TRY(nib_pointer_check(t->weight, t->weight_dtype == NIB_F32 ? 4 : 2, what,
                                  "transform->weight"));
    }
    NIB_REQUIRE(t->residual || !t->residual_out, NIB_ERR_ARGUMENT,
                "%s: transform->residual_out is given, but residual is NULL", what);
    if (t->residual) NIB_TRY(other_check(what, t->residual, src, "transform->residual"));
    if (!t->residual_out) return NIB_OK;
    NIB_TRY(other_check(what, t->residual_out, src, "transform->residual_out"));
    NIB_REQUIRE(!t->residual->data || t->residual->data != t->residual_out->data
                    || t->residual->ld_elems == t->residual_out->ld_elems,
                NIB_ERR_ARGUMENT,
                "%s: residual_out in residual's place has ld_elems %lld, not %lld", what,
                (long long)t->residual_out->ld_elems, (long long)t->residual->ld_elems);
    return NIB_OK;
}

static nib_status hadamard_check(const char *what, const nib_transform *t, const nib_matrix *src)
{
    const int32_t k = t->hadamard;
    NIB_REQUIRE(k == 0 || k == 16 || k == 32 || k == 64 || k == 128, NIB_ERR_ARGUMENT,
                "%s: transform->hadamard is %d, not 0, 16, 32, 64 or 128", what, k);
    NIB_REQUIRE(k || !t->signs, NIB_ERR_ARGUMENT,
                "%s: transform->signs is given, but hadamard is 0", what);
    NIB_REQUIRE(!k || src->cols % k == 0, NIB_ERR_SHAPE,
                "%s: %lld columns are no multiple of transform->hadamard %d", what,
                (long long)src->cols, k);
    return NIB_OK;
}

/* Checks t for src, and copies it with what its op reads alone. */
static nib_status transform_make(const char *what, const nib_transform *t, const nib_matrix *src,
                                 nib_transform *made)
{
    NIB_REQUIRE(t, NIB_ERR_ARGUMENT, "%s: transform is NULL", what);
    NIB_REQUIRE(t->size >= TRANSFORM_V1, NIB_ERR_ARGUMENT,
                "%s: transform->size is %u, at least %d is needed", what, t->size,
                (int)TRANSFORM_V1);
    NIB_REQUIRE((unsigned)t->op <= NIB_TRANSFORM_SILU_MUL, NIB_ERR_ARGUMENT,
                "%s: transform->op %d is unknown", what, (int)t->op);
    NIB_TRY(hadamard_check(what, t, src));
    NIB_TRY(nib_pointer_check(t->amax, sizeof *t->amax, what, "transform->amax"));
    *made = (nib_transform){ .size = sizeof *made, .op = t->op, .hadamard = t->hadamard,
                             .signs = t->signs, .amax = t->amax };
    if (t->op == NIB_TRANSFORM_RMSNORM) {
        NIB_TRY(rmsnorm_check(what, t, src));
        made->weight = t->weight;
        made->weight_dtype = t->weight_dtype;
        made->eps = t->eps;
        made->residual = t->residual;
        made->residual_out = t->residual_out;
    } else if (t->op == NIB_TRANSFORM_SILU_MUL) {
        NIB_REQUIRE(t->y, NIB_ERR_ARGUMENT, "%s: transform->y is NULL", what);
        NIB_TRY(other_check(what, t->y, src, "transform->y"));
        made->y = t->y;
    }
    return NIB_OK;
}

static const char *note_of(const nib_transform *t)
{
    static const char *const names[][2] = {
        { "no op", "rotated" },
        { "rmsnorm", "rmsnorm, rotated" },
        { "silu_mul", "silu_mul, rotated" },
    };
    return names[t->op][t->hadamard != 0];
}

nib_status nib_transform_apply(const nib_exec *exec, const nib_transform *transform,
                               const nib_matrix *src, const nib_matrix *dst)
{
    NIB_TRACE(.reads = src, .reads_too = reads_too(transform), .writes = dst);
    const char *what = "transform_apply";
    nib_launch launch;
    const nib_backend *ops;
    nib_transform t;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_matrix_check(dst, what, "dst"));
    NIB_TRY(nib_same_size_check(what, "dst", src, dst));
    NIB_TRY(transform_make(what, transform, src, &t));
    NIB_NEED(ops, transform_apply, what);
    NIB_LOG(exec, &launch, what, .matrix = src, .note = note_of(&t));
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->transform_apply(&launch, &t, src, dst), what, ops, &launch);
}

nib_status nib_quantize_transformed(const nib_exec *exec, const nib_transform *transform,
                                    const nib_matrix *src, const nib_quantize_options *options,
                                    const nib_packed *dst)
{
    NIB_TRACE(.reads = src, .reads_too = reads_too(transform), .packs = dst);
    const char *what = "quantize_transformed";
    nib_launch launch;
    const nib_backend *ops;
    nib_transform t;
    nib_quantize_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_packed_check(dst, what, "dst"));
    NIB_TRY(nib_shape_check(what, src, dst));
    NIB_TRY(transform_make(what, transform, src, &t));
    NIB_TRY(nib_request_make(what, options, dst->format, &request));
    NIB_REQUIRE(!t.amax || t.amax != request.tensor_amax, NIB_ERR_ARGUMENT,
                "%s: options->tensor_amax is transform->amax: one is read, the other written",
                what);
    NIB_NEED(ops, quantize_transformed, what);
    NIB_LOG(exec, &launch, what, .matrix = src, .packed = dst, .request = &request,
            .note = note_of(&t));
    return nib_dispatched(ops->quantize_transformed(&launch, &t, src, &request, dst), what, ops,
                          &launch);
}
