/* hessian_bad_input_test.c: every precondition of hessian.h's calls on a device, one broken at a
 * time: the status, a piece of the sentence, and nothing written. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/expect_status.h"
#include "tests/gptq_fixture.h"

enum { K = 32, ROWS = 40 };

#define ARGUMENT    NIB_ERR_ARGUMENT
#define SHAPE       NIB_ERR_SHAPE
#define UNSUPPORTED NIB_ERR_UNSUPPORTED
#define ALIGNMENT   NIB_ERR_ALIGNMENT
#define MEMORY      NIB_ERR_OUT_OF_MEMORY

/* Valid calls of everything, of which a test spoils one thing. */
typedef struct request {
    nib_exec         exec;
    nib_hessian      h, other;
    nib_matrix       x;
    nib_hessian_info info;
    int64_t          minor;
    void            *u;
    int64_t          ld;
    gptq_moments     moments, others;
    buffer           x_memory, u_memory, workspace;
} request;

static void request_open(request *r, const runner *on)
{
    double h[K * K] = { 0 };
    for (int i = 0; i < K; i++) h[i * (K + 1)] = 2;
    *r = (request){ .exec = exec_of(on), .info = { .size = sizeof r->info }, .ld = K };
    r->moments = gptq_moments_new(on, NIB_REAL_F64, K, 0, h, 3);
    r->others = gptq_moments_new(on, NIB_REAL_F64, K, 0, h, 4);
    r->h = r->moments.hessian, r->other = r->others.hessian;
    r->x_memory = buffer_new(on, NULL, ROWS * K * 4 + 16, 0); /* POISON is a finite f32 */
    r->x = (nib_matrix){ r->x_memory.at, NIB_F32, ROWS, K, K };
    r->u_memory = buffer_new(on, NULL, K * K * 8, 0);
    r->u = r->u_memory.at;
    r->workspace = buffer_new(on, NULL, nib_hessian_add_workspace_bytes(on->device, &r->h, ROWS)
                                            + 64, 0);
    r->exec.workspace = r->workspace.at, r->exec.workspace_bytes = r->workspace.bytes;
}

/* What a failed call leaves: everything as it was. */
static void request_close(request *r, const char *what)
{
    double h[K * K];
    int64_t changed = 0;
    EXPECT(gptq_moments_get(&r->moments, h) == 3, "%s: tokens", what);
    for (int i = 0; i < K * K; i++) changed += h[i] != (i % (K + 1) ? 0 : 2);
    uint8_t *u = buffer_take(&r->u_memory);
    for (int i = 0; i < K * K * 8; i++) changed += u[i] != POISON;
    EXPECT(changed == 0, "%s: %lld numbers were written", what, (long long)changed);
    free(u);
    gptq_moments_free(&r->moments), gptq_moments_free(&r->others);
    buffer_free(&r->x_memory), buffer_free(&r->workspace);
}

#define BAD(status, piece, call, what)                       \
    do {                                                     \
        request r;                                           \
        request_open(&r, device);                            \
        what;                                                \
        EXPECT_FAILS(#call ", " #what, call, status, piece); \
        request_close(&r, #call ", " #what);                 \
    } while (0)

#define CLEAR  nib_hessian_clear(&r.exec, &r.h)
#define ADD    nib_hessian_add(&r.exec, &r.x, NIB_HESSIAN_EXACT, &r.h)
#define MERGE  nib_hessian_merge(&r.exec, &r.other, &r.h)
#define ROTATE nib_hessian_rotate(&r.exec, &r.h, 16)
#define CHECK  nib_hessian_check(&r.exec, &r.h, &r.info)
#define INVERSE nib_hessian_inverse(&r.exec, &r.h, 0.5, r.u, r.ld, &r.minor)

/* What every call says of exec and of a Hessian. */
#define EACH(status, piece, what)         \
    do {                                  \
        BAD(status, piece, CLEAR, what);  \
        BAD(status, piece, ADD, what);    \
        BAD(status, piece, MERGE, what);  \
        BAD(status, piece, ROTATE, what); \
        BAD(status, piece, CHECK, what);  \
        BAD(status, piece, INVERSE, what);\
    } while (0)

static const runner *device; /* of the running test */

static int is_there(void)
{
    const runner *list[GPTQ_RUNNERS];
    const int n = gptq_runners(list);
    if (n) device = GPTQ_FAST(list, n);
    return n;
}

NIB_TEST(OnDeviceHessianBadInput, OfExecAndHessian)
{
    if (!is_there()) SKIP(gptq_missing());
    EACH(ARGUMENT, "exec->device is NULL", r.exec.device = NULL);
    EACH(ARGUMENT, "threads", r.exec.threads = 1025);
    EACH(ARGUMENT, "exec->size", r.exec.size = 4);
    EACH(ARGUMENT, "size is 8", r.h.size = 8);
    EACH(ARGUMENT, "real 2", r.h.real = (nib_real)2);
    EACH(SHAPE, "k = -1", r.h.k = -1);
    EACH(SHAPE, "k = 2147483648", r.h.k = r.h.ld_elems = (int64_t)INT32_MAX + 1);
    EACH(SHAPE, "ld_elems = 31", r.h.ld_elems = K - 1);
    EACH(ARGUMENT, "data", r.h.data = NULL);
    EACH(ALIGNMENT, "hessian", r.h.data = (uint8_t *)r.h.data + 4);
    EACH(ALIGNMENT, "tokens", r.h.tokens = (uint64_t *)(void *)((uint8_t *)r.h.tokens + 4));
    BAD(ARGUMENT, "is NULL", nib_hessian_clear(&r.exec, NULL), (void)0);
    BAD(ARGUMENT, "is NULL", nib_hessian_add(&r.exec, &r.x, NIB_HESSIAN_EXACT, NULL), (void)0);
    BAD(ARGUMENT, "is NULL", nib_hessian_merge(&r.exec, NULL, &r.h), (void)0);
    BAD(ARGUMENT, "is NULL", nib_hessian_merge(&r.exec, &r.h, NULL), (void)0);
    BAD(ARGUMENT, "is NULL", nib_hessian_rotate(&r.exec, NULL, 16), (void)0);
    BAD(ARGUMENT, "is NULL", nib_hessian_check(&r.exec, NULL, &r.info), (void)0);
    BAD(ARGUMENT, "is NULL", nib_hessian_inverse(&r.exec, NULL, 0, r.u, K, &r.minor), (void)0);
    BAD(ARGUMENT, "exec is NULL", nib_hessian_clear(NULL, &r.h), (void)0);
}

NIB_TEST(OnDeviceHessianBadInput, OfTokens)
{
    if (!is_there()) SKIP(gptq_missing());
    BAD(SHAPE, "x has 31 columns, hessian 32", ADD, r.x.cols = 31);
    BAD(SHAPE, "x is -1 x 32", ADD, r.x.rows = -1);
    BAD(SHAPE, "ld_elems 31", ADD, r.x.ld_elems = 31);
    BAD(ARGUMENT, "dtype 3", ADD, r.x.dtype = (nib_dtype)3);
    BAD(ARGUMENT, "x->data is NULL", ADD, r.x.data = NULL);
    BAD(ALIGNMENT, "x->data", ADD, r.x.data = (uint8_t *)r.x.data + 2);
    BAD(ARGUMENT, "x is NULL", nib_hessian_add(&r.exec, NULL, NIB_HESSIAN_EXACT, &r.h), (void)0);
    BAD(ARGUMENT, "precision is 2",
        nib_hessian_add(&r.exec, &r.x, (nib_hessian_precision)2, &r.h), (void)0);
    const size_t need = ROWS * K * 8;
    if (runner_is_cuda(device)) return;
    BAD(MEMORY, "10240 are needed", ADD, r.exec.workspace_bytes = need - 1);
    BAD(MEMORY, "has 0 bytes", ADD, r.exec.workspace = NULL);
    BAD(MEMORY, "64 bytes", ADD, r.exec.workspace = (uint8_t *)r.exec.workspace + 8);
}

NIB_TEST(OnDeviceHessianBadInput, OfMergingRotatingAndChecking)
{
    if (!is_there()) SKIP(gptq_missing());
    BAD(SHAPE, "31", MERGE, r.other.k = 31);
    BAD(UNSUPPORTED, "real", MERGE, r.other.real = NIB_REAL_F32);
    BAD(ARGUMENT, "size is 9", MERGE, r.other.size = 9);
    BAD(ARGUMENT, "block is 8", nib_hessian_rotate(&r.exec, &r.h, 8), (void)0);
    BAD(ARGUMENT, "block is 256", nib_hessian_rotate(&r.exec, &r.h, 256), (void)0);
    BAD(ARGUMENT, "block is 0", nib_hessian_rotate(&r.exec, &r.h, 0), (void)0);
    BAD(SHAPE, "k = 32 is no multiple of 64", nib_hessian_rotate(&r.exec, &r.h, 64), (void)0);
    BAD(ARGUMENT, "info is NULL", nib_hessian_check(&r.exec, &r.h, NULL), (void)0);
    BAD(ARGUMENT, "info->size is 8", CHECK, r.info.size = 8);
}

#define DAMPED(x) nib_hessian_inverse(&r.exec, &r.h, (x), r.u, r.ld, &r.minor)

NIB_TEST(OnDeviceHessianBadInput, OfInverting)
{
    if (!is_there()) SKIP(gptq_missing());
    BAD(ARGUMENT, "damping is -1", DAMPED(-1), (void)0);
    BAD(ARGUMENT, "damping is inf", DAMPED(INFINITY), (void)0);
    BAD(ARGUMENT, "damping is", DAMPED(NAN), (void)0);
    BAD(ARGUMENT, "u", INVERSE, r.u = NULL);
    BAD(SHAPE, "ld_elems = 31", INVERSE, r.ld = 31);
    BAD(ALIGNMENT, "u", INVERSE, r.u = (uint8_t *)r.u + 4);
    BAD(ARGUMENT, "info is NULL", nib_hessian_inverse(&r.exec, &r.h, 0, r.u, K, NULL), (void)0);
}

/* NaN, Inf and less than nothing on the diagonal: named, and U is not touched. */
NIB_TEST(OnDeviceHessianBadInput, InverseOfWhatIsNotFinite)
{
    if (!is_there()) SKIP(gptq_missing());
    const double bad[] = { NAN, INFINITY, -3 };
    for (int i = 0; i < 3; i++) {
        double h[16] = { 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1 };
        const nib_exec exec = exec_of(device);
        int64_t minor;
        h[10] = bad[i];
        gptq_moments m = gptq_moments_new(device, (nib_real)(i % 2), 4, 0, h, 3);
        buffer u = buffer_new(device, NULL, 16 * 8, 0);
        EXPECT_FAILS("a bad diagonal", nib_hessian_inverse(&exec, &m.hessian, 1, u.at, 4, &minor),
                     NIB_ERR_NONFINITE, "input 2");
        uint8_t *bytes = buffer_take(&u);
        for (int b = 0; b < 128; b++) EXPECT(bytes[b] == POISON, "u was written");
        free(bytes);
        gptq_moments_free(&m);
    }
}

/* What a test spoils is good before; and nothing at all is good as well. */
NIB_TEST(OnDeviceHessianBadInput, TheRestIsGood)
{
    if (!is_there()) SKIP(gptq_missing());
    request r;
    request_open(&r, device);
    OK(CHECK);
    OK(ADD); OK(MERGE); OK(ROTATE); OK(INVERSE); OK(CLEAR);
    EXPECT(r.minor == 0, "%lld", (long long)r.minor);
    r.x.rows = 0, r.x.data = NULL, r.exec.workspace = NULL;
    OK(ADD); /* no tokens */
    r.h.k = r.h.ld_elems = r.other.k = r.x.cols = 0, r.h.data = NULL, r.u = NULL;
    OK(ADD); OK(MERGE); OK(ROTATE); OK(INVERSE); OK(CLEAR); OK(CHECK);
    r.x.rows = 5; /* tokens of no inputs */
    OK(ADD);
    r.h.k = r.h.ld_elems = r.other.k = 0;
    OK(CHECK);
    EXPECT(r.info.tokens == 5 && r.info.mean_diag == 0 && r.info.first_nonfinite == -1, "tokens");
    buffer_free(&r.u_memory), buffer_free(&r.x_memory), buffer_free(&r.workspace);
    gptq_moments_free(&r.moments), gptq_moments_free(&r.others);
}
