/* qbench_op_limits.c: what the machine can do, as operations of their own. */
#include "qbench_ops.h"

enum { TO = NIB_QB_MATRIX, FROM = NIB_QB_OTHER, SINK = NIB_QB_AMAX };
enum { FMA_ITERATIONS = 100000 };

enum { BYTE_AXES = MATRIX_AXES & ~NIB_QB_AXIS(ISA) };

/* ---- memory ---- */

/* Kernels of the GPU's limits take whole vectors of 16 bytes. */
static int64_t whole_bytes(const nib_qb_case *c)
{
    const int64_t bytes = nib_qb_matrix_bytes(c);
    if (bytes < 0 || c->value[NIB_QB_BACKEND] != NIB_BACKEND_CUDA) return bytes;
    return bytes > INT64_MAX - 15 ? -1 : (bytes + 15) / 16 * 16;
}

static nib_status copy_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[FROM] = (nib_qb_part){ whole_bytes(c), NIB_QB_IN };
    part[TO] = (nib_qb_part){ whole_bytes(c), NIB_QB_OUT };
    return part[TO].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status read_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[TO] = (nib_qb_part){ whole_bytes(c), NIB_QB_IN };
    part[SINK] = (nib_qb_part){ 16, NIB_QB_SCRATCH };
    return part[TO].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status fill_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[TO] = (nib_qb_part){ whole_bytes(c), NIB_QB_OUT };
    return part[TO].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status copy_fill(const nib_qb_call *call)
{
    uint8_t *from = call->part[FROM];
    for (int64_t i = 0, n = whole_bytes(call->c); i < n; i++) from[i] = (uint8_t)(i * 131 >> 3);
    return NIB_OK;
}

static nib_status copy_run(const nib_qb_call *call)
{
    const size_t bytes = (size_t)whole_bytes(call->c);
    if (call->gpu) {
        const nib_launch launch = nib_qb_device_launch(call->gpu);
        return call->gpu->bench->copy(&launch, call->part[TO], call->part[FROM], bytes);
    }
    nib_bench_cpu.copy(call->part[TO], call->part[FROM], bytes, call->exec->threads);
    return NIB_OK;
}

static nib_status read_run(const nib_qb_call *call)
{
    const size_t bytes = (size_t)whole_bytes(call->c);
    if (call->gpu) {
        const nib_launch launch = nib_qb_device_launch(call->gpu);
        return call->gpu->bench->read(&launch, call->part[TO], bytes, call->part[SINK]);
    }
    nib_bench_cpu.read(call->part[TO], bytes, call->exec->threads);
    return NIB_OK;
}

static nib_status fill_run(const nib_qb_call *call)
{
    const size_t bytes = (size_t)whole_bytes(call->c);
    if (call->gpu) {
        const nib_launch launch = nib_qb_device_launch(call->gpu);
        return call->gpu->bench->fill(&launch, call->part[TO], bytes);
    }
    nib_bench_cpu.nt_fill(call->part[TO], bytes, call->exec->threads);
    return NIB_OK;
}

const nib_qb_op nib_qb_memcpy = {
    .name = "memcpy", .help = "libc's on equal parts, a copy kernel on a GPU; bytes, once",
    .axes = BYTE_AXES, .bytes = whole_bytes, .layout = copy_layout, .fill = copy_fill,
    .run = copy_run,
};
const nib_qb_op nib_qb_read = {
    .name = "read", .help = "sum of a buffer; bytes read",
    .axes = BYTE_AXES, .bytes = whole_bytes, .layout = read_layout, .run = read_run,
};
const nib_qb_op nib_qb_fill = {
    .name = "fill", .help = "one value by non-temporal stores; bytes written",
    .axes = BYTE_AXES, .bytes = whole_bytes, .layout = fill_layout, .run = fill_run,
};

/* ---- arithmetic ---- */

static nib_status sink_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA)
        part[SINK] = (nib_qb_part){ 16, NIB_QB_SCRATCH };
    return NIB_OK;
}

/* One launch of a GPU's arithmetic. */
static nib_status launch(const nib_qb_call *call, int tensor_cores, int64_t iterations,
                         double *flops)
{
    const nib_bench_cuda_ops *bench = call->gpu->bench;
    const nib_launch how = nib_qb_device_launch(call->gpu);
    return tensor_cores ? bench->mma(&how, iterations, 0, call->part[SINK], flops)
                        : bench->fma(&how, iterations, call->part[SINK], flops);
}

/* As many iterations as outlast a launch by far, found by doubling them. */
static nib_status enough(const nib_qb_call *call, int tensor_cores, int64_t *iterations,
                         double *flops)
{
    static const double least_s = 500e-6;
    nib_status status = NIB_OK;
    double taken = 0;
    for (int64_t n = 1; status == NIB_OK && taken < least_s; n *= 2) {
        const double start = nib_qb_now_s();
        status = launch(call, tensor_cores, n, flops);
        if (status == NIB_OK) status = nib_qb_device_finish(call->gpu);
        taken = nib_qb_now_s() - start;
        *iterations = n;
    }
    return status;
}

static int64_t fma_iterations, mma_iterations; /* of the last GPU asked */

static int64_t fma_flops(const nib_qb_call *call)
{
    double flops = 0;
    if (call->gpu) (void)enough(call, 0, &fma_iterations, &flops);
    else flops = nib_bench_cpu.fma_flops(FMA_ITERATIONS, call->exec->threads);
    return (int64_t)flops;
}

static int64_t mma_flops(const nib_qb_call *call)
{
    double flops = 0;
    (void)enough(call, 1, &mma_iterations, &flops);
    return (int64_t)flops;
}

static nib_status fma_run(const nib_qb_call *call)
{
    double flops;
    if (call->gpu) return launch(call, 0, fma_iterations, &flops);
    (void)nib_bench_cpu.fma_flops(FMA_ITERATIONS, call->exec->threads);
    return NIB_OK;
}

static nib_status mma_run(const nib_qb_call *call)
{
    double flops;
    return launch(call, 1, mma_iterations, &flops);
}

static const char *no_tensor_cores(const nib_qb_case *c)
{
    return c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA
         ? NULL : "the cpu has no tensor cores; --backend cuda";
}

const nib_qb_op nib_qb_fma = {
    .name = "fma", .help = "independent f32 multiply-adds; 2 flops each",
    .axes = DEVICE_AXES, .flops = fma_flops, .layout = sink_layout, .run = fma_run,
};
const nib_qb_op nib_qb_mma = {
    .name = "mma", .help = "tensor cores by mma.sync m16n8k16, f16 with f32 sums; GPUs only",
    .axes = DEVICE_AXES, .why_not = no_tensor_cores, .flops = mma_flops, .layout = sink_layout,
    .run = mma_run,
};
