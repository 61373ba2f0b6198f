/* dispatch.c: checks that several operations share; see dispatch.h. */
#include "dispatch.h"

nib_status nib_mask_check(const uint8_t *mask, int64_t ld, const nib_matrix *m, const char *what)
{
    if (!mask) return NIB_OK;
    const int64_t row_bytes = m->cols / 8 + (m->cols % 8 != 0);
    NIB_REQUIRE(ld >= row_bytes, NIB_ERR_SHAPE,
                "%s: ld_mask_bytes %lld < %lld, the bits of %lld columns", what, (long long)ld,
                (long long)row_bytes, (long long)m->cols);
    int64_t size;
    NIB_REQUIRE(!__builtin_mul_overflow(m->rows, ld, &size), NIB_ERR_SHAPE,
                "%s: %lld rows of ld_mask_bytes %lld are over INT64_MAX bytes", what,
                (long long)m->rows, (long long)ld);
    return NIB_OK;
}

nib_status nib_same_size_check(const char *what, const char *name, const nib_matrix *a,
                               const nib_matrix *b)
{
    NIB_REQUIRE(a->rows == b->rows && a->cols == b->cols, NIB_ERR_SHAPE,
                "%s: %s is %lld x %lld, not %lld x %lld", what, name, (long long)b->rows,
                (long long)b->cols, (long long)a->rows, (long long)a->cols);
    return NIB_OK;
}

nib_status nib_pair_check(const char *what, const char *from_name, const nib_matrix *from,
                          const char *to_name, const nib_matrix *to)
{
    NIB_TRY(nib_matrix_check(from, what, from_name));
    NIB_TRY(nib_matrix_check(to, what, to_name));
    NIB_TRY(nib_same_size_check(what, to_name, from, to));
    NIB_REQUIRE(!to->data || from->data != to->data
                    || (from->dtype == to->dtype && from->ld_elems == to->ld_elems),
                NIB_ERR_ARGUMENT,
                "%s: in place, but of dtype %d with ld_elems %lld, not %d with %lld", what,
                (int)to->dtype, (long long)to->ld_elems, (int)from->dtype,
                (long long)from->ld_elems);
    return NIB_OK;
}
