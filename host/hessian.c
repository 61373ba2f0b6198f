/* hessian.c: checks and dispatch of hessian.h. No arithmetic lives here. */
#include "hessian_checks.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "trace.h"

enum { HESSIAN_V1 = sizeof(nib_hessian), INFO_V1 = offsetof(nib_hessian_info, bad_row) };

nib_status nib_square_check(const char *what, const char *name, nib_real real, int64_t k,
                            const void *data, int64_t ld_elems)
{
    NIB_REQUIRE((unsigned)real <= NIB_REAL_F64, NIB_ERR_ARGUMENT, "%s: %s is of real %d; there are "
                "0 and 1", what, name, (int)real);
    NIB_REQUIRE(k >= 0 && k <= INT32_MAX && ld_elems >= k && ld_elems <= INT32_MAX, NIB_ERR_SHAPE,
                "%s: %s has k = %lld, ld_elems = %lld; 0 <= k <= ld_elems < 2^31 is needed", what,
                name, (long long)k, (long long)ld_elems);
    NIB_REQUIRE(data || k == 0, NIB_ERR_ARGUMENT, "%s: %s has no data", what, name);
    return nib_pointer_check(data, real == NIB_REAL_F64 ? 8 : 4, what, name);
}

nib_status nib_hessian_valid(const char *what, const nib_hessian *h)
{
    NIB_REQUIRE(h, NIB_ERR_ARGUMENT, "%s: hessian is NULL", what);
    NIB_REQUIRE(h->size >= HESSIAN_V1, NIB_ERR_ARGUMENT,
                "%s: hessian->size is %u, at least %d is needed", what, h->size, (int)HESSIAN_V1);
    NIB_TRY(nib_square_check(what, "hessian", h->real, h->k, h->data, h->ld_elems));
    return nib_pointer_check(h->tokens, sizeof *h->tokens, what, "hessian->tokens");
}

nib_status nib_room_check(const char *what, const nib_launch *launch, size_t needed)
{
    const size_t given = launch->workspace ? launch->workspace_bytes : 0;
    NIB_REQUIRE(given >= needed, NIB_ERR_OUT_OF_MEMORY,
                "%s: the workspace has %zu bytes, %zu are needed", what, given, needed);
    NIB_REQUIRE(!needed || (uintptr_t)launch->workspace % 64 == 0, NIB_ERR_OUT_OF_MEMORY,
                "%s: the workspace is at %p, which is not aligned to 64 bytes", what,
                launch->workspace);
    return NIB_OK;
}

nib_status nib_hessian_clear(const nib_exec *exec, const nib_hessian *hessian)
{
    NIB_TRACE_NAME();
    const char *what = "hessian_clear";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_hessian_valid(what, hessian));
    NIB_NEED(ops, hessian_clear, what);
    if (hessian->k == 0 && !hessian->tokens) return NIB_OK;
    return nib_dispatched(ops->hessian_clear(&launch, hessian), what, ops, &launch);
}

size_t nib_hessian_add_workspace_bytes(const nib_device *device, const nib_hessian *hessian,
                                       int64_t rows)
{
    const char *what = "hessian_add_workspace_bytes";
    if (!device || rows < 0 || !device->ops->hessian_add_need
        || nib_hessian_valid(what, hessian) != NIB_OK)
        return SIZE_MAX;
    return hessian->k && rows ? device->ops->hessian_add_need(hessian, rows) : 0;
}

static nib_status tokens_check(const char *what, const nib_matrix *x,
                               nib_hessian_precision precision)
{
    NIB_TRY(nib_matrix_check(x, what, "x"));
    NIB_REQUIRE((unsigned)precision <= NIB_HESSIAN_TF32, NIB_ERR_ARGUMENT,
                "%s: precision is %d; there are 0 and 1", what, (int)precision);
    NIB_REQUIRE(x->ld_elems <= INT32_MAX, NIB_ERR_SHAPE,
                "%s: x->ld_elems is %lld, not below 2^31", what, (long long)x->ld_elems);
    return NIB_OK;
}

static nib_status fits_check(const char *what, const nib_matrix *x, const nib_hessian *hessian)
{
    NIB_REQUIRE(x->cols == hessian->k, NIB_ERR_SHAPE, "%s: x has %lld columns, hessian %lld", what,
                (long long)x->cols, (long long)hessian->k);
    return NIB_OK;
}

nib_status nib_hessian_add(const nib_exec *exec, const nib_matrix *x,
                           nib_hessian_precision precision, const nib_hessian *hessian)
{
    NIB_TRACE(.reads = x);
    const char *what = "hessian_add";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_hessian_valid(what, hessian));
    NIB_TRY(tokens_check(what, x, precision));
    NIB_TRY(fits_check(what, x, hessian));
    NIB_NEED(ops, hessian_add, what);
    NIB_LOG(exec, &launch, "hessian", .matrix = x, .hessian = hessian, .precision = precision);
    if (x->rows == 0) return NIB_OK;
    if (hessian->k)
        NIB_TRY(nib_room_check(what, &launch, ops->hessian_add_need(hessian, x->rows)));
    return nib_dispatched(ops->hessian_add(&launch, x, precision, hessian), what, ops, &launch);
}

nib_status nib_hessian_add_grouped(const nib_exec *exec, const nib_groups *groups,
                                   const nib_matrix *x, nib_hessian_precision precision,
                                   const nib_hessian *hessians)
{
    NIB_TRACE(.reads = x);
    const char *what = "hessian_add_grouped";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_groups_check(groups, what));
    NIB_TRY(tokens_check(what, x, precision));
    NIB_REQUIRE(hessians || groups->count == 0, NIB_ERR_ARGUMENT, "%s: hessians is NULL", what);
    for (int64_t g = 0; g < groups->count; g++) {
        char which[64];
        snprintf(which, sizeof which, "%s: hessians[%lld]", what, (long long)g);
        NIB_TRY(nib_hessian_valid(which, &hessians[g]));
        NIB_TRY(fits_check(which, x, &hessians[g]));
        NIB_REQUIRE(hessians[g].real == hessians[0].real, NIB_ERR_UNSUPPORTED,
                    "%s: real is %d, hessians[0]'s %d", which, (int)hessians[g].real,
                    (int)hessians[0].real);
    }
    NIB_NEED(ops, hessian_add_grouped, what);
    if (groups->count == 0) return NIB_OK;
    NIB_LOG(exec, &launch, "hessian_grouped", .matrix = x, .hessian = hessians,
            .precision = precision, .note = "rows in groups");
    if (x->rows == 0) return NIB_OK;
    if (hessians->k)
        NIB_TRY(nib_room_check(what, &launch, ops->hessian_add_need(hessians, x->rows)));
    return nib_dispatched(ops->hessian_add_grouped(&launch, groups, x, precision, hessians), what,
                          ops, &launch);
}

nib_status nib_hessian_merge(const nib_exec *exec, const nib_hessian *from, const nib_hessian *to)
{
    NIB_TRACE_NAME();
    const char *what = "hessian_merge";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_hessian_valid(what, from));
    NIB_TRY(nib_hessian_valid(what, to));
    NIB_REQUIRE(from->k == to->k, NIB_ERR_SHAPE, "%s: k is %lld and %lld", what,
                (long long)from->k, (long long)to->k);
    NIB_REQUIRE(from->real == to->real, NIB_ERR_UNSUPPORTED, "%s: real is %d and %d", what,
                (int)from->real, (int)to->real);
    NIB_NEED(ops, hessian_merge, what);
    return nib_dispatched(ops->hessian_merge(&launch, from, to), what, ops, &launch);
}

nib_status nib_hessian_rotate(const nib_exec *exec, const nib_hessian *hessian, int32_t block)
{
    NIB_TRACE_NAME();
    const char *what = "hessian_rotate";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_hessian_valid(what, hessian));
    NIB_REQUIRE(block == 16 || block == 32 || block == 64 || block == 128, NIB_ERR_ARGUMENT,
                "%s: block is %d, not 16, 32, 64 or 128", what, block);
    NIB_REQUIRE(hessian->k % block == 0, NIB_ERR_SHAPE, "%s: k = %lld is no multiple of %d", what,
                (long long)hessian->k, block);
    NIB_NEED(ops, hessian_rotate, what);
    if (hessian->k == 0) return NIB_OK;
    return nib_dispatched(ops->hessian_rotate(&launch, hessian, block), what, ops, &launch);
}

nib_status nib_hessian_look(const char *what, const nib_backend *ops, const nib_launch *launch,
                            const nib_hessian *hessian, int32_t whole, nib_hessian_info *info)
{
    NIB_NEED(ops, hessian_info, what);
    NIB_TRY(nib_dispatched(ops->hessian_info(launch, hessian, whole, info), what, ops, launch));
    NIB_REQUIRE(!info->nonfinite, NIB_ERR_NONFINITE,
                "%s: %lld of %lld inputs have a diagonal element that is NaN, Inf or negative, the "
                "first is input %lld; the first such element of H is in row %lld, column %lld",
                what, (long long)info->nonfinite, (long long)hessian->k,
                (long long)info->first_nonfinite, (long long)info->bad_row,
                (long long)info->bad_col);
    NIB_REQUIRE(info->bad_row < 0, NIB_ERR_NONFINITE,
                "%s: H is NaN or Inf in row %lld, column %lld, beside the diagonal", what,
                (long long)info->bad_row, (long long)info->bad_col);
    return NIB_OK;
}

nib_status nib_hessian_check(const nib_exec *exec, const nib_hessian *hessian,
                             nib_hessian_info *info)
{
    NIB_TRACE_NAME();
    const char *what = "hessian_check";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_hessian_valid(what, hessian));
    NIB_REQUIRE(info, NIB_ERR_ARGUMENT, "%s: info is NULL", what);
    NIB_REQUIRE(info->size >= INFO_V1, NIB_ERR_ARGUMENT,
                "%s: info->size is %u, at least %d is needed", what, info->size, (int)INFO_V1);
    nib_hessian_info made = { .size = info->size };
    const nib_status status = nib_hessian_look(what, ops, &launch, hessian, 1, &made);
    if (status == NIB_OK || status == NIB_ERR_NONFINITE)
        memcpy(info, &made, made.size < sizeof made ? made.size : sizeof made);
    return status;
}

nib_status nib_hessian_inverse(const nib_exec *exec, const nib_hessian *hessian, double damping,
                               void *u, int64_t ld_elems, int64_t *info)
{
    NIB_TRACE_NAME();
    const char *what = "hessian_inverse";
    nib_launch launch;
    const nib_backend *ops;
    nib_hessian_info look = { .size = sizeof look };
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_hessian_valid(what, hessian));
    NIB_REQUIRE(damping >= 0.0 && damping < INFINITY, NIB_ERR_ARGUMENT,
                "%s: damping is %g, not a finite number >= 0", what, damping);
    NIB_TRY(nib_square_check(what, "u", hessian->real, hessian->k, u, ld_elems));
    NIB_REQUIRE(info, NIB_ERR_ARGUMENT, "%s: info is NULL", what);
    NIB_REQUIRE(u != hessian->data || ld_elems == hessian->ld_elems || hessian->k == 0,
                NIB_ERR_SHAPE, "%s: in place, but rows are %lld and %lld apart", what,
                (long long)ld_elems, (long long)hessian->ld_elems);
    NIB_NEED(ops, hessian_inverse, what);
    NIB_LOG(exec, &launch, what, .hessian = hessian);
    *info = 0;
    if (hessian->k == 0) return NIB_OK;
    NIB_TRY(nib_hessian_look(what, ops, &launch, hessian, 1, &look));
    return nib_dispatched(ops->hessian_inverse(&launch, hessian, damping, u, ld_elems, info), what,
                          ops, &launch);
}
