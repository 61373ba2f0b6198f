/* qbench_op_gemm.c: products with packed FP4 weights, beside OpenBLAS or cublasLt's of plain ones.
 *
 *     gemm           D[M,N] = A[M,K] * W[N,K]^T
 *     gemm_backward  D[M,K] = A[M,N] * W[N,K]
 *     gemm_pack      W from codes and scales, row by row
 *     gemm_unpack    the plain matrix of W
 *
 * A and D are of --dtype. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "qbench_ops.h"

enum { D = NIB_QB_MATRIX, A = NIB_QB_OTHER, WORKSPACE = NIB_QB_REPORT };

static int64_t m_of(const nib_qb_case *c) { return c->value[NIB_QB_M]; }
static int64_t n_of(const nib_qb_case *c) { return c->value[NIB_QB_N]; }
static int64_t k_of(const nib_qb_case *c) { return c->value[NIB_QB_K]; }
/* Columns of A, which are summed over, and of D. */
static int is_backward(const nib_qb_case *c) { return c->op == &nib_qb_gemm_backward; }
static int64_t depth_of(const nib_qb_case *c) { return is_backward(c) ? n_of(c) : k_of(c); }
static int64_t width_of(const nib_qb_case *c) { return is_backward(c) ? k_of(c) : n_of(c); }
static nib_dtype dtype_of(const nib_qb_case *c) { return (nib_dtype)c->value[NIB_QB_DTYPE]; }
static nib_format format_of(const nib_qb_case *c) { return (nib_format)c->value[NIB_QB_FORMAT]; }
static int64_t size_of(const nib_qb_case *c) { return dtype_of(c) == NIB_F32 ? 4 : 2; }

static nib_matrix matrix_of(const nib_qb_case *c, void *data, int64_t rows, int64_t cols)
{
    return (nib_matrix){ data, dtype_of(c), rows, cols, cols };
}

static nib_gemm_options options_of(const nib_qb_case *c)
{
    static const int32_t chunks[] = { 0, 64, 128, 256 };
    const int64_t tactic = c->value[NIB_QB_TACTIC];
    return (nib_gemm_options){
        .size = sizeof(nib_gemm_options), .format = format_of(c), .n = n_of(c), .k = k_of(c),
        .m_max = m_of(c), .a_dtype = dtype_of(c), .d_dtype = dtype_of(c),
        .accumulate = c->value[NIB_QB_ACCUMULATE] ? NIB_GEMM_ACCUMULATE_F16
                                                  : NIB_GEMM_ACCUMULATE_F32,
        .f16_chunk = chunks[c->value[NIB_QB_ACCUMULATE]],
        .activations = (nib_gemm_activations)c->value[NIB_QB_ACTIVATIONS],
        .tactic = tactic ? nib_qb_tactic_names[tactic - 1] : NULL,
    };
}

/* ---- sizes: those of the layouts that a backend's devices take agree ---- */

static nib_status described(const nib_qb_case *c, const nib_device *device, nib_gemm_weights *w)
{
    const nib_gemm_layout any = c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA
                              ? NIB_GEMM_LAYOUT_SM80 : NIB_GEMM_LAYOUT_CPU;
    return nib_gemm_describe(device, device ? NIB_GEMM_LAYOUT_AUTO : any, format_of(c), n_of(c),
                             k_of(c), 0, w);
}

static int64_t packed_bytes(const nib_qb_case *c)
{
    nib_gemm_weights w;
    if (described(c, NULL, &w) != NIB_OK) return -1;
    return nib_gemm_codes_bytes(&w) + nib_gemm_scales_bytes(&w);
}

static int64_t area(const nib_qb_case *c, int64_t rows, int64_t cols)
{
    int64_t bytes;
    const int over = __builtin_mul_overflow(rows, cols, &bytes)
                  || __builtin_mul_overflow(bytes, size_of(c), &bytes);
    return over ? -1 : bytes;
}

/* The workspace that any device may ask for is not known before it is open: see gemm_prepare. */
static nib_status gemm_layout(const nib_qb_case *c, nib_qb_part *part)
{
    nib_gemm_weights w;
    if (described(c, NULL, &w) != NIB_OK) return NIB_ERR_SHAPE;
    part[A] = (nib_qb_part){ area(c, m_of(c), depth_of(c)), NIB_QB_IN };
    part[D] = (nib_qb_part){ area(c, m_of(c), width_of(c)), NIB_QB_OUT };
    part[NIB_QB_CODES] = (nib_qb_part){ nib_gemm_codes_bytes(&w), NIB_QB_WEIGHT };
    part[NIB_QB_SCALES] = (nib_qb_part){ nib_gemm_scales_bytes(&w), NIB_QB_WEIGHT };
    if (nib_format_has_tensor_scale(format_of(c)))
        part[NIB_QB_TENSOR] = (nib_qb_part){ sizeof(float), NIB_QB_IN };
    return part[A].bytes < 0 || part[D].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static int64_t gemm_flops(const nib_qb_call *call)
{
    return 2 * m_of(call->c) * n_of(call->c) * k_of(call->c);
}

static nib_status weights_of(const nib_qb_call *call, nib_gemm_weights *w)
{
    const nib_status status = described(call->c, call->target, w);
    w->codes = call->part[NIB_QB_CODES];
    w->scales = call->part[NIB_QB_SCALES];
    w->tensor_scale = call->part[NIB_QB_TENSOR];
    return status;
}

/* ---- contents: bell-shaped weights, quantized by the default rules and packed by the CPU ---- */

static nib_status pack(const nib_qb_call *call, nib_qb_call *plain)
{
    nib_gemm_weights w;
    nib_exec exec = *call->exec; /* the bytes are the same for every number of threads */
    const nib_packed packed = nib_qb_packed_of(plain);
    nib_status status = weights_of(call, &w);
    if (status == NIB_OK) status = nib_qb_quantize_fill(plain);
    const nib_matrix src = nib_qb_matrix_of(plain);
    exec.threads = 0;
    if (status == NIB_OK) status = nib_quantize(&exec, &src, NULL, &packed);
    return status == NIB_OK ? nib_gemm_pack(&exec, &packed, &w) : status;
}

static nib_status gemm_fill(const nib_qb_call *call)
{
    nib_qb_case c = *call->c;
    nib_qb_call plain = { .c = &c, .exec = call->exec };
    const size_t elements = (size_t)(n_of(&c) * k_of(&c));
    c.value[NIB_QB_BATCH] = 1;
    c.value[NIB_QB_ROWS] = m_of(&c), c.value[NIB_QB_COLS] = depth_of(&c);
    plain.part[NIB_QB_MATRIX] = call->part[A];
    if (call->part[A]) (void)nib_qb_fill_matrix(&plain);
    c.value[NIB_QB_ROWS] = n_of(&c), c.value[NIB_QB_COLS] = k_of(&c);
    c.value[NIB_QB_DTYPE] = NIB_F32;
    plain.part[NIB_QB_TENSOR] = call->part[NIB_QB_TENSOR];
    plain.part[NIB_QB_MATRIX] = nib_qb_map(elements * sizeof(float), 1);
    plain.part[NIB_QB_CODES] = nib_qb_map(elements, 1); /* of which scales are the second half */
    nib_status status = NIB_ERR_OUT_OF_MEMORY;
    if (plain.part[NIB_QB_MATRIX] && plain.part[NIB_QB_CODES]) {
        plain.part[NIB_QB_SCALES] = (uint8_t *)plain.part[NIB_QB_CODES] + elements / 2;
        status = pack(call, &plain);
    }
    nib_qb_unmap(plain.part[NIB_QB_MATRIX]);
    nib_qb_unmap(plain.part[NIB_QB_CODES]);
    return status;
}

/* ---- running ---- */

static struct { /* of the case that is being measured */
    nib_gemm_plan  plan;
    nib_qb_device *gpu;
    void          *workspace;
    size_t         bytes;
} now;

static void forget(void)
{
    if (now.gpu) nib_qb_device_release(now.gpu, now.workspace);
    else nib_qb_unmap(now.workspace);
    memset(&now, 0, sizeof now);
}

static nib_status gemm_prepare(const nib_qb_call *call)
{
    const nib_gemm_options options = options_of(call->c);
    nib_status status = call->gpu ? nib_prepare(call->target, NIB_PREPARE_GEMM) : NIB_OK;
    forget();
    now.plan.size = sizeof now.plan;
    if (status == NIB_OK) status = nib_gemm_plan_make(call->target, &options, &now.plan);
    if (status != NIB_OK) return status;
    now.bytes = is_backward(call->c) ? nib_gemm_backward_workspace_bytes(&now.plan, m_of(call->c))
                                     : nib_gemm_workspace_bytes(&now.plan, m_of(call->c));
    if (!now.bytes) return NIB_OK;
    now.gpu = call->gpu;
    now.workspace = call->gpu ? nib_qb_device_allocate(call->gpu, now.bytes)
                              : nib_qb_map(now.bytes, 1);
    return now.workspace ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
}

static const char *gemm_kernel(const nib_qb_call *call)
{
    static nib_gemm_tactic chosen;
    return nib_gemm_choice(&now.plan, m_of(call->c), &chosen) == NIB_OK ? chosen.name : "?";
}

static void gemm_release(const nib_qb_call *call)
{
    (void)call;
    forget();
}

/* The reference is gemm_compare's, in f64. */
static nib_status gemm_run(const nib_qb_call *call)
{
    const nib_qb_case *c = call->c;
    nib_gemm_weights w;
    if (call->exec->device != call->target) return NIB_OK;
    nib_exec exec = *call->exec;
    exec.workspace = now.workspace;
    exec.workspace_bytes = now.bytes;
    const nib_status status = weights_of(call, &w);
    const nib_matrix a = matrix_of(c, call->part[A], m_of(c), depth_of(c));
    const nib_matrix d = matrix_of(c, call->part[D], m_of(c), width_of(c));
    const nib_gemm_args args = { .size = sizeof args, .a = &a, .w = &w, .d = &d };
    if (status != NIB_OK) return status;
    return is_backward(c) ? nib_gemm_backward(&exec, &now.plan, &args)
                          : nib_gemm(&exec, &now.plan, &args);
}

static const char *pack_why_not(const nib_qb_case *c)
{
    static char why[512];
    nib_gemm_weights w;
    if (described(c, NULL, &w) == NIB_OK) return NULL;
    snprintf(why, sizeof why, "%s", nib_last_error());
    return why;
}

static const char *gemm_why_not(const nib_qb_case *c)
{
    if (c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA && dtype_of(c) == NIB_F32)
        return "a GPU multiplies f16 and bf16 activations; --dtype f16, --dtype bf16";
    return pack_why_not(c);
}

/* ---- checking ---- */

static double element_at(const nib_qb_case *c, const void *matrix, int64_t i)
{
    float x;
    nib_scalar_cpu.to_f32(dtype_of(c), (const uint8_t *)matrix + i * size_of(c), 1, &x);
    return x;
}

/* What gemm.h says of a sum of depth products, its magnitudes, and the largest activation of each
 * 16 times the weights there. */
static double bound(const nib_qb_call *call, double value, double magnitudes,
                    double weighted_amax)
{
    const nib_qb_case *c = call->c;
    const float *t = call->part[NIB_QB_TENSOR]; /* E8M0: 2^-7 E, E here at most 2^-5 */
    const double depth = (double)depth_of(c);
    const int64_t f16 = c->value[NIB_QB_ACCUMULATE];
    const double rounding = dtype_of(c) == NIB_F32 ? 0x1p-24 : dtype_of(c) == NIB_F16 ? 0x1p-11
                                                                                      : 0x1p-8;
    double error = (depth + 64) * 0x1p-23 * magnitudes;
    if (f16) error += (double)(2 << f16) * 0x1p-10 * magnitudes
                    + depth / 16 * 0x1p-10 * (t ? (double)*t : 0x1p-12);
    if (c->value[NIB_QB_ACTIVATIONS] == NIB_GEMM_ACTIVATIONS_INT8) error += weighted_amax / 254;
    return error * 1.0001 + (rounding + 0x1p-22) * fabs(value) + DBL_MIN;
}

/* Element (m, column) of D, whose weights are w[i * step]. */
static void compare_one(const nib_qb_call *got, const nib_qb_call *right, const float *w,
                        int64_t step, int64_t m, int64_t column, nib_qb_verdict *verdict)
{
    const nib_qb_case *c = got->c;
    const int64_t depth = depth_of(c);
    double sum = 0, magnitudes = 0, weighted = 0;
    for (int64_t i0 = 0; i0 < depth; i0 += 16) {
        double amax = 0, weights = 0;
        for (int64_t i = i0; i < i0 + 16 && i < depth; i++) {
            const double x = element_at(c, right->part[A], m * depth + i), y = w[i * step];
            sum += x * y;
            magnitudes += fabs(x * y);
            amax = fmax(amax, fabs(x));
            weights += fabs(y);
        }
        weighted += amax * weights;
    }
    const double apart = fabs(element_at(c, got->part[D], m * width_of(c) + column) - sum);
    if (!(apart <= bound(right, sum, magnitudes, weighted))) verdict->wrong_bytes += size_of(c);
    if (!(apart <= verdict->max_err)) verdict->max_err = apart;
}

/* Slices of 64 of D's columns spread over all, 16 tokens of each: all of a small product, of a
 * large one about 2^26 multiplications. */
static nib_status gemm_compare(const nib_qb_call *got, const nib_qb_call *right,
                               nib_qb_verdict *verdict)
{
    enum { SLICE = 64 };
    const nib_qb_case *c = got->c;
    const int64_t width = width_of(c), depth = depth_of(c), backward = is_backward(c);
    const int64_t slices = (width + SLICE - 1) / SLICE, tokens = m_of(c) < 16 ? m_of(c) : 16;
    const int64_t most = ((int64_t)1 << 26) / (SLICE * depth * tokens) + 1;
    nib_gemm_weights whole, part;
    float *w = nib_qb_map((size_t)(SLICE * depth) * sizeof *w, 1);
    nib_status status = w ? weights_of(right, &whole) : NIB_ERR_OUT_OF_MEMORY;
    for (int64_t i = 0; i < (slices < most ? slices : most) && status == NIB_OK; i++) {
        const int64_t at = nib_qb_visit(i, slices) * SLICE;
        const int64_t some = width - at < SLICE ? width - at : SLICE;
        const nib_matrix to = { w, NIB_F32, backward ? depth : some, backward ? some : depth,
                                backward ? some : depth };
        status = backward ? nib_gemm_slice(&whole, 0, depth, at, some, &part)
                          : nib_gemm_slice(&whole, at, some, 0, depth, &part);
        if (status == NIB_OK) status = nib_gemm_unpack(right->exec, &part, &to);
        for (int64_t j = 0; j < some * tokens && status == NIB_OK; j++)
            compare_one(got, right, backward ? w + j % some : w + j % some * depth,
                        backward ? some : 1, nib_qb_visit(i * tokens + j / some, m_of(c)),
                        at + j % some, verdict);
    }
    nib_qb_unmap(w);
    return status;
}

/* ---- packing alone ---- */

static nib_status pack_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const nib_status status = gemm_layout(c, part);
    const int64_t codes = nib_codes_row_bytes(format_of(c), k_of(c));
    part[D] = (nib_qb_part){ 0 };
    part[A] = (nib_qb_part){ n_of(c) * (codes + nib_scales_per_row(format_of(c), k_of(c))),
                             NIB_QB_IN };
    part[NIB_QB_CODES].role = part[NIB_QB_SCALES].role = NIB_QB_OUT;
    return status;
}

/* Codes and then scales in one part; any bytes will do that are no NaN. */
static nib_status pack_fill(const nib_qb_call *call)
{
    const nib_qb_case *c = call->c;
    const int64_t codes = n_of(c) * nib_codes_row_bytes(format_of(c), k_of(c));
    const int64_t all = codes + n_of(c) * nib_scales_per_row(format_of(c), k_of(c));
    uint8_t *p = call->part[A];
    for (int64_t i = 0; i < all; i++) p[i] = (uint8_t)(i < codes ? i * 37 + i / 251 : 90 + i % 31);
    if (call->part[NIB_QB_TENSOR]) memcpy(call->part[NIB_QB_TENSOR], &(float){ 1 }, sizeof(float));
    return NIB_OK;
}

static nib_status pack_run(const nib_qb_call *call)
{
    const nib_qb_case *c = call->c;
    nib_gemm_weights w;
    const nib_status status = weights_of(call, &w);
    const int64_t ld = nib_codes_row_bytes(format_of(c), k_of(c));
    const nib_packed src = {
        .size = sizeof src, .format = format_of(c), .rows = n_of(c), .cols = k_of(c),
        .codes = call->part[A], .ld_codes_bytes = ld,
        .scales = (uint8_t *)call->part[A] + n_of(c) * ld,
        .tensor_scale = call->part[NIB_QB_TENSOR],
    };
    return status == NIB_OK ? nib_gemm_pack(call->exec, &src, &w) : status;
}

/* ---- and back ---- */

static int64_t plain_bytes(const nib_qb_case *c) { return area(c, n_of(c), k_of(c)); }

static nib_status unpack_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const nib_status status = gemm_layout(c, part);
    part[A] = (nib_qb_part){ 0 };
    part[D] = (nib_qb_part){ plain_bytes(c), NIB_QB_OUT };
    return part[D].bytes < 0 ? NIB_ERR_SHAPE : status;
}

static nib_status unpack_run(const nib_qb_call *call)
{
    const nib_qb_case *c = call->c;
    nib_gemm_weights w;
    const nib_status status = weights_of(call, &w);
    const nib_matrix d = matrix_of(c, call->part[D], n_of(c), k_of(c));
    return status == NIB_OK ? nib_gemm_unpack(call->exec, &w, &d) : status;
}

enum {
    PACK_AXES = (MATRIX_AXES & ~(NIB_QB_AXIS(ROWS) | NIB_QB_AXIS(COLS) | NIB_QB_AXIS(DTYPE)))
              | NIB_QB_AXIS(FORMAT) | NIB_QB_AXIS(BLOCK) | NIB_QB_AXIS(N) | NIB_QB_AXIS(K),
    PRODUCT_AXES = PACK_AXES | NIB_QB_AXIS(DTYPE) | NIB_QB_AXIS(M)
};

const nib_qb_op nib_qb_gemm = {
    .name = "gemm", .help = "M x N x K product with packed FP4 weights; packed bytes",
    .axes = PRODUCT_AXES | NIB_QB_AXIS(TACTIC) | NIB_QB_AXIS(ACCUMULATE)
          | NIB_QB_AXIS(ACTIVATIONS),
    .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_dense }, .bytes = packed_bytes,
    .flops = gemm_flops, .layout = gemm_layout, .fill = gemm_fill, .prepare = gemm_prepare,
    .kernel = gemm_kernel, .release = gemm_release, .run = gemm_run, .why_not = gemm_why_not,
    .compare = gemm_compare,
};

const nib_qb_op nib_qb_gemm_backward = {
    .name = "gemm_backward", .help = "gradient of its activations, M x N to M x K; packed bytes",
    .axes = PRODUCT_AXES, .limit = &nib_qb_limit_read, .bytes = packed_bytes, .flops = gemm_flops,
    .layout = gemm_layout, .fill = gemm_fill, .prepare = gemm_prepare, .release = gemm_release,
    .run = gemm_run, .why_not = gemm_why_not, .compare = gemm_compare,
};

const nib_qb_op nib_qb_gemm_pack = {
    .name = "gemm_pack", .help = "N x K codes and scales to packed weights; packed bytes",
    .axes = PACK_AXES, .limit = &nib_qb_limit_copy, .bytes = packed_bytes, .layout = pack_layout,
    .fill = pack_fill, .run = pack_run, .why_not = pack_why_not,
};

const nib_qb_op nib_qb_gemm_unpack = {
    .name = "gemm_unpack", .help = "N x K packed weights to a matrix; bytes written",
    .axes = PACK_AXES | NIB_QB_AXIS(DTYPE), .limit = &nib_qb_limit_fill, .bytes = plain_bytes,
    .layout = unpack_layout, .fill = gemm_fill, .run = unpack_run, .why_not = pack_why_not,
};
