/* step_codes.c: checks and dispatch of step_codes.h. No arithmetic lives here. */
#include "log.h"
#include "step_checks.h"
#include "trace.h"

enum { PACKED_V1 = offsetof(nib_packed_steps, divisor), UNIT = 8 };

static int64_t ceil_div(int64_t n, int64_t by) { return n / by + (n % by != 0); }

static nib_step_divisor divisor_of(const nib_packed_steps *p)
{
    return p->size >= sizeof *p ? p->divisor : NIB_STEP_OF_HI;
}

static int is_integer(nib_step_element e) { return e >= NIB_INT2 && e <= NIB_INT8; }

int64_t nib_step_codes_row_bytes(nib_step_element element, int64_t cols)
{
    if (!is_integer(element) || cols < 0) return -1;
    return element <= NIB_INT4 ? ceil_div(cols, 2) : cols;
}

int64_t nib_step_count(int64_t rows, int64_t cols, int64_t group)
{
    int64_t all;
    if (rows < 0 || cols < 0 || group <= 0 || (group % UNIT && group < cols)) return -1;
    return __builtin_mul_overflow(rows, ceil_div(cols, group), &all) || all > INT64_MAX / 4 ? -1
                                                                                            : all;
}

nib_status nib_packed_steps_check(const char *what, const char *name, const nib_packed_steps *p)
{
    int64_t bytes;
    NIB_REQUIRE(p, NIB_ERR_ARGUMENT, "%s: %s is NULL", what, name);
    NIB_REQUIRE(p->size >= PACKED_V1, NIB_ERR_ARGUMENT,
                "%s: %s->size is %u, at least %d is needed", what, name, p->size, (int)PACKED_V1);
    NIB_REQUIRE(is_integer(p->element), NIB_ERR_ARGUMENT, "%s: %s->element %d is no integer", what,
                name, (int)p->element);
    NIB_REQUIRE((unsigned)p->asymmetric <= 1, NIB_ERR_ARGUMENT, "%s: %s->asymmetric is %d", what,
                name, p->asymmetric);
    NIB_REQUIRE((unsigned)p->step_rule <= NIB_STEP_F16, NIB_ERR_ARGUMENT,
                "%s: unknown step rule %d", what, (int)p->step_rule);
    NIB_REQUIRE((unsigned)divisor_of(p) <= NIB_STEP_OF_HALF, NIB_ERR_ARGUMENT,
                "%s: unknown divisor %d of steps", what, (int)divisor_of(p));
    NIB_REQUIRE(p->step_rule != NIB_STEP_E4M3_BYTE, NIB_ERR_UNSUPPORTED,
                "%s: E4M3 steps, which want a tensor scale", what);
    NIB_REQUIRE(p->rows >= 0 && p->cols >= 0, NIB_ERR_SHAPE, "%s: %s is %lld x %lld", what, name,
                (long long)p->rows, (long long)p->cols);
    NIB_REQUIRE(nib_step_count(p->rows, p->cols, p->group) >= 0, NIB_ERR_SHAPE,
                "%s: %s->group %lld is neither a multiple of %d nor >= %lld columns", what, name,
                (long long)p->group, (int)UNIT, (long long)p->cols);
    NIB_REQUIRE(p->ld_codes_bytes >= nib_step_codes_row_bytes(p->element, p->cols)
                    && !__builtin_mul_overflow(p->rows, p->ld_codes_bytes, &bytes), NIB_ERR_SHAPE,
                "%s: %s->ld_codes_bytes is %lld for %lld x %lld", what, name,
                (long long)p->ld_codes_bytes, (long long)p->rows, (long long)p->cols);
    NIB_REQUIRE(!p->zeros || p->asymmetric, NIB_ERR_ARGUMENT,
                "%s: %s->zeros is given, but asymmetric is 0", what, name);
    NIB_TRY(nib_pointer_check(p->steps, sizeof *p->steps, what, "steps"));
    if (p->rows == 0 || p->cols == 0) return NIB_OK;
    NIB_REQUIRE(p->codes && p->steps, NIB_ERR_ARGUMENT, "%s: %s->%s is NULL", what, name,
                p->codes ? "steps" : "codes");
    NIB_REQUIRE(p->zeros || !p->asymmetric, NIB_ERR_ARGUMENT,
                "%s: %s->zeros is NULL, but asymmetric is 1", what, name);
    return NIB_OK;
}

nib_status nib_packed_steps_size_check(const char *what, const nib_matrix *m, const char *name,
                                       const nib_packed_steps *p)
{
    NIB_REQUIRE(m->rows == p->rows && m->cols == p->cols, NIB_ERR_SHAPE,
                "%s: the matrix is %lld x %lld, %s %lld x %lld", what, (long long)m->rows,
                (long long)m->cols, name, (long long)p->rows, (long long)p->cols);
    return NIB_OK;
}

nib_step_request nib_packed_steps_request(const nib_packed_steps *p, int32_t given)
{
    nib_step_request r = { .element = p->element, .asymmetric = p->asymmetric,
                           .rule = p->step_rule, .group = p->group,
                           .middle = divisor_of(p) == NIB_STEP_OF_HALF };
    if (p->group >= p->cols) r.group = ceil_div(p->cols, UNIT) * UNIT;
    if (given) r.steps = p->steps, r.zeros = p->zeros;
    else r.steps_out = p->steps, r.zeros_out = p->zeros;
    return r;
}

nib_status nib_quantize_steps(const nib_exec *exec, const nib_matrix *src, int32_t given,
                              const nib_packed_steps *dst)
{
    NIB_TRACE(.reads = src);
    const char *what = "quantize_steps";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_packed_steps_check(what, "dst", dst));
    NIB_TRY(nib_packed_steps_size_check(what, src, "dst", dst));
    NIB_REQUIRE((unsigned)given <= 1, NIB_ERR_ARGUMENT, "%s: given is %d, not 0 or 1", what, given);
    NIB_NEED(ops, quantize_steps, what);
    const nib_step_request request = nib_packed_steps_request(dst, given);
    NIB_LOG(exec, &launch, what, .matrix = src, .steps = &request,
            .note = given ? "given steps" : NULL);
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->quantize_steps(&launch, src, &request, dst), what, ops, &launch);
}

nib_status nib_dequantize_steps(const nib_exec *exec, const nib_packed_steps *src,
                                const nib_matrix *dst)
{
    NIB_TRACE(.writes = dst);
    const char *what = "dequantize_steps";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_packed_steps_check(what, "src", src));
    NIB_TRY(nib_matrix_check(dst, what, "dst"));
    NIB_TRY(nib_packed_steps_size_check(what, dst, "src", src));
    NIB_NEED(ops, dequantize_steps, what);
    nib_step_request request = nib_packed_steps_request(src, 1);
    request.middle = 0; /* of how steps are made */
    NIB_LOG(exec, &launch, what, .matrix = dst, .steps = &request);
    if (dst->rows == 0 || dst->cols == 0) return NIB_OK;
    return nib_dispatched(ops->dequantize_steps(&launch, src, &request, dst), what, ops, &launch);
}
