/* qbench_tokens.c: tokens as layers see them, and the Hessian that they give. */
#include <math.h>
#include <string.h>

#include "qbench_gptq.h"

/* x = H x of n numbers, n a power of two, without the factor 1 / sqrt(n). */
static void hadamard(float *x, int64_t n)
{
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t i = 0; i < n; i += 2 * half)
            for (int64_t j = i; j < i + half; j++) {
                const float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
}

/* Outliers lie an eighth of the inputs apart. */
static void size_inputs(float *size, int64_t n, uint64_t *state)
{
    const int64_t apart = n < 64 ? 8 : n / 8;
    nib_qb_bell_shaped(size, n, state);
    for (int64_t i = 0; i < n; i++) {
        size[i] = fminf(1.5f, fmaxf(0.5f, 1 + 8 * size[i]));
        if (i % apart == apart / 2) size[i] *= 15;
    }
}

nib_status nib_qb_fill_tokens(const nib_matrix *x, uint64_t *state)
{
    const int64_t element = x->dtype == NIB_F32 ? 4 : 2;
    int64_t n = 1;
    while (n < x->cols) n *= 2;
    float *token = nib_qb_map((size_t)n * 3 * sizeof(float), 1);
    if (!token) return NIB_ERR_OUT_OF_MEMORY;
    float *size = token + n, *d = size + n;
    size_inputs(size, x->cols, &(uint64_t){ 7 });
    for (int64_t i = 0; i < n; i++) d[i] = 1 / sqrtf((float)(i + 1));
    for (int64_t row = 0; row < x->rows; row++) {
        nib_qb_bell_shaped(token, n, state);
        for (int64_t i = 0; i < n; i++) token[i] *= d[i];
        hadamard(token, n);
        for (int64_t i = 0; i < x->cols; i++) token[i] *= size[i];
        nib_scalar_cpu.from_f32(x->dtype, token, x->cols,
                                (uint8_t *)x->data + row * x->ld_elems * element);
    }
    nib_qb_unmap(token);
    return NIB_OK;
}

nib_hessian nib_qb_hessian_of(const nib_qb_case *c, void *data)
{
    return (nib_hessian){
        .size = sizeof(nib_hessian), .real = (nib_real)c->value[NIB_QB_REAL],
        .k = c->value[NIB_QB_COLS], .data = data, .ld_elems = c->value[NIB_QB_COLS],
    };
}

int64_t nib_qb_hessian_bytes(const nib_qb_case *c)
{
    const int64_t k = c->value[NIB_QB_COLS];
    int64_t bytes;
    const int over = __builtin_mul_overflow(k, k, &bytes)
                  || __builtin_mul_overflow(bytes, c->value[NIB_QB_REAL] == NIB_REAL_F64 ? 8 : 4,
                                            &bytes);
    return over ? -1 : bytes;
}

/* What adds up a Hessian: tokens in host memory, and the rest where the case's device computes. */
typedef struct adder {
    nib_qb_device *device;
    nib_exec       exec;
    nib_hessian    h;
    nib_matrix     x;      /* there; on a CPU the tokens themselves */
    float         *tokens;
} adder;

enum { SOME = 1024 }; /* tokens at a time */

static nib_status adder_open(adder *a)
{
    const int64_t k = a->h.k;
    const size_t bytes = (size_t)(SOME * k) * sizeof(float);
    a->x = (nib_matrix){ NULL, NIB_F32, SOME, k, k };
    a->tokens = nib_qb_map(bytes, 1);
    a->x.data = a->device->runtime ? nib_qb_device_allocate(a->device, bytes) : a->tokens;
    a->exec.workspace_bytes = nib_hessian_add_workspace_bytes(a->exec.device, &a->h, SOME);
    if (a->exec.workspace_bytes && a->exec.workspace_bytes < SIZE_MAX)
        a->exec.workspace = nib_qb_device_allocate(a->device, a->exec.workspace_bytes);
    return a->tokens && a->x.data ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
}

static void adder_close(adder *a)
{
    if (a->device->runtime && a->x.data) nib_qb_device_release(a->device, a->x.data);
    if (a->exec.workspace) nib_qb_device_release(a->device, a->exec.workspace);
    nib_qb_unmap(a->tokens);
}

static nib_status add_some(adder *a, int64_t rows, uint64_t *state)
{
    nib_matrix tokens = a->x;
    tokens.data = a->tokens;
    tokens.rows = a->x.rows = rows;
    nib_status status = nib_qb_fill_tokens(&tokens, state);
    if (status == NIB_OK && a->device->runtime)
        status = nib_qb_device_copy(a->device, a->x.data, a->tokens,
                                    (size_t)(rows * a->h.k) * sizeof(float));
    return status == NIB_OK ? nib_hessian_add(&a->exec, &a->x, NIB_HESSIAN_EXACT, &a->h) : status;
}

/* By the case's device, which is fast at it; on all threads of a CPU: the sums are the same for
 * every number of them. */
nib_status nib_qb_fill_hessian(const nib_qb_call *call, void *data)
{
    const size_t bytes = (size_t)nib_qb_hessian_bytes(call->c);
    const int gpu = call->home->runtime != NULL;
    void *there = gpu ? nib_qb_device_allocate(call->home, bytes) : data;
    adder a = { .device = call->home, .h = nib_qb_hessian_of(call->c, there),
                .exec = { .size = sizeof a.exec, .device = call->target } };
    uint64_t state = 20240229;
    if (!there) return NIB_ERR_OUT_OF_MEMORY;
    a.exec.stream = call->home->exec.stream;
    nib_status status = adder_open(&a);
    if (status == NIB_OK) status = nib_hessian_clear(&a.exec, &a.h);
    for (int64_t left = 2 * a.h.k; left > 0 && status == NIB_OK; left -= SOME)
        status = add_some(&a, left < SOME ? left : SOME, &state);
    if (status == NIB_OK && gpu) status = nib_qb_device_copy(call->home, data, there, bytes);
    adder_close(&a);
    if (gpu) nib_qb_device_release(call->home, there);
    return status;
}
