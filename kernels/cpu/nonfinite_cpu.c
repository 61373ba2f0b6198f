/* nonfinite_cpu.c: the first NaN or Inf of a matrix or of a Hessian's triangle, along its rows.
 * Threads share the rows, and the least of what they find is the answer: it is always the same. */
#include "hessian_cpu.h"
#include "kernels/common/half.h"
#include "tasks_cpu.h"

enum { DOUBLES = -1 }; /* beside NIB_DT_* */

typedef struct numbers {
    const uint8_t *data;
    int64_t        rows, cols, ld;
    int            type, triangle; /* of elements; 1: only columns up to the row's number */
} numbers;

/* Whether any of n numbers is NaN or Inf. Their exponents are all ones, so that one more is carried
 * into the sign's place: no branch, no comparison, vectors on every machine. */
#define ANY(type, unsigned_type, bits, sign, one)                              \
    do {                                                                       \
        const type *const p = data;                                            \
        unsigned_type carried = 0;                                             \
        _Pragma("omp simd reduction(| : carried)")                             \
        for (int64_t i = 0; i < n; i++)                                        \
            carried |= (unsigned_type)(((bits) & ~(sign)) + (one));            \
        return (carried & (sign)) != 0;                                        \
    } while (0)

static int has_nonfinite(int type, const void *data, int64_t n)
{
    switch (type) {
    case NIB_DT_F32: ANY(float, uint32_t, nib_bits_of(p[i]), 0x80000000u, 0x800000u);
    case NIB_DT_F16: ANY(uint16_t, uint16_t, p[i], 0x8000, 0x400);
    case NIB_DT_BF16: ANY(uint16_t, uint16_t, p[i], 0x8000, 0x80);
    default:
        ANY(double, uint64_t, nib_bits_of64(p[i]), UINT64_C(1) << 63, UINT64_C(1) << 52);
    }
}

static void first_nonfinite(const nib_launch *launch, const numbers *m, int64_t at[2])
{
    const nib_tasks tasks = nib_tasks_of(m->rows, m->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
    const int64_t size = m->type == DOUBLES ? 8 : m->type == NIB_DT_F32 ? 4 : 2;
    int64_t first = INT64_MAX; /* row * cols + col */
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(min : first)
    for (int64_t i = 0; i < tasks.count; i++) {
        const nib_task t = nib_task_at(&tasks, i);
        for (int64_t row = t.row0; row < t.row1 && row * m->cols + t.col0 < first; row++) {
            const int64_t end = m->triangle && row + 1 < t.col1 ? row + 1 : t.col1;
            const uint8_t *const data = m->data + row * m->ld * size;
            if (end <= t.col0 || !has_nonfinite(m->type, data + t.col0 * size, end - t.col0))
                continue;
            int64_t col = t.col0;
            while (!has_nonfinite(m->type, data + col * size, 1)) col++;
            if (row * m->cols + col < first) first = row * m->cols + col;
        }
    }
    at[0] = first == INT64_MAX ? -1 : first / m->cols;
    at[1] = first == INT64_MAX ? -1 : first % m->cols;
}

nib_status nib_find_nonfinite_cpu(const nib_launch *launch, const nib_matrix *m, int64_t at[2])
{
    const numbers all = { m->data, m->rows, m->cols, m->ld_elems, (int)m->dtype, 0 };
    first_nonfinite(launch, &all, at);
    return NIB_OK;
}

void nib_hessian_nonfinite_cpu(const nib_launch *launch, const nib_hessian *h, int64_t at[2])
{
    const numbers all = { h->data, h->k, h->k, h->ld_elems,
                          h->real == NIB_REAL_F64 ? DOUBLES : NIB_DT_F32, 1 };
    first_nonfinite(launch, &all, at);
}
