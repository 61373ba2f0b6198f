/* qbench_limits.c: what the machine can do: as operations of their own, and as the limit and
 * the baseline that another operation is timed against. */
#include <string.h>

#include "kernels/backend.h"
#include "qbench.h"

enum { TO, FROM };
enum { FMA_ITERATIONS = 100000 };

#define AXIS(id) (1u << NIB_QB_##id)
enum {
    THREAD_AXES = AXIS(BACKEND) | AXIS(THREADS),
    BYTE_AXES = THREAD_AXES | AXIS(DTYPE) | AXIS(ROWS) | AXIS(COLS) | AXIS(CACHE)
};

/* ---- as operations ---- */

static nib_status one_buffer(const nib_qb_case *c, int64_t *part_bytes)
{
    part_bytes[TO] = nib_qb_matrix_bytes(c);
    return part_bytes[TO] < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status two_buffers(const nib_qb_case *c, int64_t *part_bytes)
{
    part_bytes[FROM] = nib_qb_matrix_bytes(c);
    return one_buffer(c, part_bytes);
}

static nib_status no_buffers(const nib_qb_case *c, int64_t *part_bytes)
{
    (void)c, (void)part_bytes;
    return NIB_OK;
}

static nib_status fill_copy(nib_qb_data *data)
{
    uint8_t *from = nib_qb_part(data, 0, FROM);
    for (int64_t i = 0; i < data->part_bytes[FROM]; i++) from[i] = (uint8_t)(i * 131 >> 3);
    return NIB_OK;
}

static nib_status run_memcpy(nib_qb_data *data, int64_t copy)
{
    nib_bench_cpu.copy(nib_qb_part(data, copy, TO), nib_qb_part(data, copy, FROM),
                       (size_t)data->part_bytes[TO], data->exec.threads);
    return NIB_OK;
}

static nib_status run_read(nib_qb_data *data, int64_t copy)
{
    nib_bench_cpu.read(nib_qb_part(data, copy, TO), (size_t)data->part_bytes[TO],
                       data->exec.threads);
    return NIB_OK;
}

static nib_status run_fill(nib_qb_data *data, int64_t copy)
{
    nib_bench_cpu.nt_fill(nib_qb_part(data, copy, TO), (size_t)data->part_bytes[TO],
                          data->exec.threads);
    return NIB_OK;
}

static nib_status run_fma(nib_qb_data *data, int64_t copy)
{
    (void)copy;
    (void)nib_bench_cpu.fma_flops(FMA_ITERATIONS, data->exec.threads);
    return NIB_OK;
}

static int64_t fma_flops(const nib_qb_case *c)
{
    static double one_thread; /* of one call; the table's business, asked once */
    if (one_thread == 0) one_thread = nib_bench_cpu.fma_flops(FMA_ITERATIONS, 1);
    return (int64_t)one_thread * c->value[NIB_QB_THREADS];
}

/* The bytes that the loops should leave: a copy of FROM, or what nt_fill writes. */
static nib_status check_buffer(nib_qb_data *data, nib_qb_verdict *v)
{
    const int64_t n = data->part_bytes[TO], copies = data->copies;
    const int64_t written = data->calls < copies ? data->calls : copies;
    for (int64_t k = 0; k < written; k++) {
        const int64_t copy = nib_qb_visit(k, copies);
        uint8_t *to = nib_qb_part(data, copy, TO);
        const uint8_t *from = data->part_bytes[FROM] ? nib_qb_part(data, copy, FROM) : NULL;
        if (data->corrupt && k == 0) to[n / 2] ^= 1;
        for (int64_t i = 0; i < n; i++) {
            const int difference = to[i] - (from ? from[i] : 0x55);
            v->wrong_bytes += difference != 0;
            if (difference > v->max_err) v->max_err = difference;
            if (-difference > v->max_err) v->max_err = -difference;
        }
    }
    return NIB_OK;
}

const nib_qb_op nib_qb_memcpy = {
    .name = "memcpy", .help = "libc's, on equal parts; bytes copied, counted once",
    .axes = BYTE_AXES, .limit = NIB_QB_LIMIT_SELF, .bytes = nib_qb_matrix_bytes,
    .layout = two_buffers, .fill = fill_copy, .run = run_memcpy, .check = check_buffer,
};
const nib_qb_op nib_qb_read = {
    .name = "read", .help = "sum of a buffer; bytes read",
    .axes = BYTE_AXES, .limit = NIB_QB_LIMIT_SELF, .bytes = nib_qb_matrix_bytes,
    .layout = one_buffer, .run = run_read,
};
const nib_qb_op nib_qb_fill = {
    .name = "fill", .help = "one value by non-temporal stores; bytes written",
    .axes = BYTE_AXES, .limit = NIB_QB_LIMIT_SELF, .bytes = nib_qb_matrix_bytes,
    .layout = one_buffer, .run = run_fill, .check = check_buffer,
};
const nib_qb_op nib_qb_fma = {
    .name = "fma", .help = "independent f32 multiply-adds; 2 flops each",
    .axes = THREAD_AXES, .limit = NIB_QB_LIMIT_SELF, .flops = fma_flops,
    .layout = no_buffers, .run = run_fma,
};

/* ---- beside an operation ---- */

static nib_status rival_read(void *state, int64_t call)
{
    const nib_qb_rival *r = state;
    (void)call;
    nib_bench_cpu.read(r->buffer, (size_t)r->bytes, r->threads);
    return NIB_OK;
}

static nib_status rival_fill(void *state, int64_t call)
{
    const nib_qb_rival *r = state;
    (void)call;
    nib_bench_cpu.nt_fill(r->buffer, (size_t)r->bytes, r->threads);
    return NIB_OK;
}

static nib_status rival_copy(void *state, int64_t call)
{
    const nib_qb_rival *r = state;
    const size_t half = r->buffer_bytes / 2;
    const size_t window = (half / (size_t)r->windows) & ~(size_t)63;
    uint8_t *from = r->buffer + (size_t)nib_qb_visit(call, r->windows) * window;
    nib_bench_cpu.copy(from + half, from, (size_t)r->bytes, r->threads);
    return NIB_OK;
}

static int open_rival(nib_qb_rival *rival, const char *name, const nib_qb_data *data,
                      nib_status (*run)(void *, int64_t))
{
    rival->buffer = nib_qb_map(rival->buffer_bytes, data->exec.threads);
    if (!rival->buffer) return 0;
    rival->name = name;
    rival->threads = data->exec.threads;
    rival->work = (nib_qb_work){ run, rival };
    return 1;
}

/* Cold: the whole of a buffer that no cache holds. Hot: as many bytes as the op, again. */
int nib_qb_limit_open(const nib_qb_data *data, nib_qb_rival *limit)
{
    *limit = (nib_qb_rival){ .windows = 1 };
    const nib_qb_case *c = data->c;
    if (c->op->limit == NIB_QB_LIMIT_SELF) return 1;
    const int64_t beyond_caches = 4 * nib_qb_llc_bytes();
    limit->bytes = c->op->bytes(c);
    if (c->value[NIB_QB_CACHE] == NIB_QB_CACHE_COLD && limit->bytes < beyond_caches)
        limit->bytes = beyond_caches;
    limit->buffer_bytes = (size_t)limit->bytes;
    return c->op->limit == NIB_QB_LIMIT_READ
         ? open_rival(limit, "read", data, rival_read)
         : open_rival(limit, "nt fill", data, rival_fill);
}

/* A plain copy of the bytes that count, from one half of a buffer to the other. */
int nib_qb_baseline_open(const nib_qb_data *data, nib_qb_rival *baseline)
{
    *baseline = (nib_qb_rival){ .windows = 1 };
    const nib_qb_case *c = data->c;
    if (!c->op->baseline) return 1;
    baseline->bytes = c->op->bytes(c);
    const int64_t window = (baseline->bytes + 63) & ~(int64_t)63;
    if (c->value[NIB_QB_CACHE] == NIB_QB_CACHE_COLD)
        baseline->windows = (2 * nib_qb_llc_bytes() + window - 1) / window;
    baseline->buffer_bytes = (size_t)(2 * window * baseline->windows);
    return open_rival(baseline, "memcpy", data, rival_copy);
}

void nib_qb_rival_close(nib_qb_rival *rival)
{
    if (rival->buffer) nib_qb_unmap(rival->buffer, rival->buffer_bytes);
    rival->buffer = NULL;
}
