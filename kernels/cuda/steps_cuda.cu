/* steps_cuda.cu: fake-quantization by f32 steps, and the gradients of its steps.
 *
 * Everything works on units of 8 elements of a row, where groups begin. steps_units: a run of two
 * units a thread, or one where a group has an odd number; a dynamic group's runs are those of a
 * team of lanes. steps_groups: a block of threads a group of more; of a dynamic one it reads the
 * elements again, from a cache. steps_gradient: a team of lanes a piece of a group, whose sum it
 * writes; steps_sum adds those of groups that have several, in a second launch.
 *
 * dst may be src, and grad_in grad_out: a thread reads what it writes, before it does and after all
 * that others want of it, by loads that are not read-only.
 */
#include "ops_cuda.cuh"
#include "quantize_ways.cuh"
#include "steps_job.cuh"
#include "steps_tune.h"

static_assert(NIB_STEP_E5M2 == (int)NIB_EL_E5M2 && NIB_INT2 == NIB_GR_INT + 2
              && NIB_INT8 == NIB_GR_INT + 8, "step elements");
static_assert(NIB_SR_F32 == (int)NIB_STEP_F32 && NIB_SR_E4M3 == (int)NIB_STEP_E4M3_BYTE
              && NIB_SR_E8M0 == (int)NIB_STEP_E8M0_BYTE && NIB_SR_BF16 == (int)NIB_STEP_BF16
              && NIB_SR_F16 == (int)NIB_STEP_F16, "step rules");
static_assert((int)NIB_STEPS_TEAM == (int)NIB_GRID_LANES, "a team is at most a warp");

/* grid  x: runs of a row (dynamic: teams of its groups), y: tiles of blockDim.y rows, strided
 *
 * All threads of a block take every turn of the loop, since lanes exchange ranges. */
template <int dtype, bool dynamic, bool gradient>
__global__ void __launch_bounds__(NIB_STEPS_THREADS, dtype == NIB_DT_F32 ? NIB_STEPS_F32_PER_SM
                                                                         : NIB_STEPS_PER_SM)
steps_units(const __grid_constant__ StepJob job)
{
    NIB_SHARED(nib_step, whole, );
    const int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int     team = 1 << (dynamic ? job.shift : 0), lane = (int)threadIdx.x & (team - 1);
    const int64_t k = job.shift >= 0 ? t >> job.shift : t / job.group_runs;
    const int64_t run = dynamic ? k * job.group_runs + lane : t;
    const int64_t col = run * (job.run_units * NIB_GRID_UNIT), next = col + NIB_GRID_UNIT;
    const bool    mine = !dynamic || (k < job.groups && lane < job.group_runs);
    const bool    leads = run == k * job.group_runs;
    const int     n = mine ? unit_elements(col, job.cols) : 0;
    const int     m = mine && job.run_units == 2 ? unit_elements(next, job.cols) : 0;
    if (!dynamic && job.whole) {
        if (threadIdx.x == 0 && threadIdx.y == 0) {
            whole = whole_step(job);
            if (!gradient && blockIdx.x == 0 && blockIdx.y == 0) store_step(job, 0, whole);
        }
        __syncthreads();
    }
    for (int64_t tile = blockIdx.y; tile < job.row_tiles; tile += gridDim.y) {
        const int64_t row = tile * blockDim.y + threadIdx.y, i = row * job.groups + k;
        const bool    live = n > 0 && row < job.rows;
        const uint8_t *const from = job.x + row * job.x_ld;
        Octet<dtype>  x = {}, y = {};
        nib_step      step;
        if (live) x.load(job.dtype, from, col, n);
        if (live && m) y.load(job.dtype, from, next, m);
        if constexpr (dynamic) {
            nib_grid_range range = x.add_range({ 0.0f, 0.0f }, job.asymmetric);
            if (job.run_units == 2) range = y.add_range(range, job.asymmetric);
            if (!job.asymmetric) range.above = fmaxf(range.above, range.below);
            for (int o = team / 2; o; o /= 2) {
                if (job.asymmetric) {
                    range.below = fmaxf(range.below, __shfl_xor_sync(~0u, range.below, o));
                }
                range.above = fmaxf(range.above, __shfl_xor_sync(~0u, range.above, o));
            }
            step = dynamic_step(job, range);
        }
        if (!live) continue;
        if constexpr (!dynamic) step = job.whole ? whole : given_step(job, i);
        if (!gradient && leads && !job.whole) store_step(job, i, step);
        const StepUse<dtype> use(step);
        use_step<dtype, gradient>(job, use, x, row, col, n);
        if (m) use_step<dtype, gradient>(job, use, y, row, next, m);
    }
}

/* The range of all threads' ranges; every thread calls. */
__device__ __forceinline__ nib_grid_range block_range(nib_grid_range r, nib_grid_range *of_warp)
{
    NIB_UNROLL
    for (int o = 16; o; o /= 2) {
        r.below = fmaxf(r.below, __shfl_xor_sync(~0u, r.below, o));
        r.above = fmaxf(r.above, __shfl_xor_sync(~0u, r.above, o));
    }
    __syncthreads(); /* after the last reader of the group before */
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = r;
    __syncthreads();
    for (unsigned w = 0; w < blockDim.x / 32; w++) {
        r.below = fmaxf(r.below, of_warp[w].below);
        r.above = fmaxf(r.above, of_warp[w].above);
    }
    return r;
}

/* Groups of any size. grid  x: groups, strided */
template <int dtype, bool gradient>
__global__ void __launch_bounds__(NIB_STEPS_THREADS, NIB_STEPS_PER_SM)
steps_groups(const __grid_constant__ StepJob job)
{
    NIB_SHARED(nib_grid_range, of_warp, [NIB_STEPS_THREADS / 32]);
    constexpr int at_once = NIB_STEPS_IN_FLIGHT;
    for (int64_t i = blockIdx.x; i < job.rows * job.groups; i += gridDim.x) {
        const int64_t row = i / job.groups, first = i % job.groups * job.group;
        const int64_t left = job.cols - first, end = first + (left < job.group ? left : job.group);
        const int64_t turn = (int64_t)blockDim.x * NIB_GRID_UNIT;
        const int64_t start = first + (int64_t)threadIdx.x * NIB_GRID_UNIT;
        const uint8_t *const from = job.x + row * job.x_ld;
        nib_step step;
        if (job.whole) {
            step = whole_step(job);
        } else if (job.steps) {
            step = given_step(job, i);
        } else {
            nib_grid_range range = { 0.0f, 0.0f };
            for (int64_t col = start; col < end; col += at_once * turn) {
                Octet<dtype> x[at_once];
                NIB_UNROLL
                for (int j = 0; j < at_once; j++) {
                    x[j].load(job.dtype, from, col + j * turn, unit_elements(col + j * turn, end));
                }
                NIB_UNROLL
                for (int j = 0; j < at_once; j++) range = x[j].add_range(range, job.asymmetric);
            }
            step = dynamic_step(job, block_range(range, of_warp));
        }
        const StepUse<dtype> use(step);
        if (!gradient && threadIdx.x == 0 && (!job.whole || i == 0)) store_step(job, i, step);
        NIB_NO_UNROLL
        for (int64_t col = start; col < end; col += 2 * turn) {
            const int    n = unit_elements(col, end), m = unit_elements(col + turn, end);
            Octet<dtype> x = {}, y = {};
            if (dtype != ANY_DTYPE) x.load(job.dtype, from, col, n);
            if (dtype != ANY_DTYPE) y.load(job.dtype, from, col + turn, m);
            use_step<dtype, gradient>(job, use, x, row, col, n);
            if (m) use_step<dtype, gradient>(job, use, y, row, col + turn, m);
        }
    }
}

/* What a unit adds to its step's gradient, and which elements are not clamped. Plain quotients: a
 * slope wants the last bit of the smallest ones too. */
template <int dtype, bool floats>
__device__ __forceinline__ float products_of(const StepJob &job, const nib_step &step,
                                             const Octet<dtype> &x, const Octet<dtype> &g,
                                             uint32_t &passes)
{
    nib_grid grid = job.grid;
    grid.floats = floats;
    float p[8];
    passes = 0;
    NIB_UNROLL
    for (int i = 0; i < NIB_GRID_UNIT; i++) {
        const float y = x.at(i) / step.s, v = nib_grid_nearest(&grid, step, y);
        p[i] = nib_grid_slope(step, y, v) * g.at(i);
        passes |= nib_grid_is_clamped(step, y) ? 0 : 1u << i;
    }
    return nib_sum8(p);
}

/* grid  x: teams of a row's pieces, y: as above */
template <int dtype>
__global__ void __launch_bounds__(NIB_STEPS_THREADS, NIB_STEPS_GRADIENT_PER_SM)
steps_gradient(const __grid_constant__ StepJob job)
{
    const int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, i = t >> job.shift;
    const int     team = 1 << job.shift, lane = (int)threadIdx.x & (team - 1);
    const int64_t k = job.pieces == 1 ? i : i / job.pieces, of_row = job.groups * job.pieces;
    const int64_t first = k * job.group, begin = first + (i - k * job.pieces) * NIB_GRID_PIECE;
    const int64_t left = job.cols - first;
    int64_t       end = first + (left < job.group ? left : job.group);
    if (end - begin > NIB_GRID_PIECE) end = begin + NIB_GRID_PIECE;
    for (int64_t tile = blockIdx.y; tile < job.row_tiles; tile += gridDim.y) {
        const int64_t row = tile * blockDim.y + threadIdx.y;
        const bool    live = i < of_row && row < job.rows;
        float         sum = 0.0f;
        nib_step      step = {};
        if (live) step = given_step(job, job.whole ? 0 : row * job.groups + k);
        int64_t col = begin + lane * NIB_GRID_UNIT;
        NIB_NO_UNROLL
        for (; live && col < end; col += team * NIB_GRID_UNIT) {
            const int    n = unit_elements(col, end);
            Octet<dtype> x, g;
            uint32_t     passes;
            x.load(job.dtype, job.x + row * job.x_ld, col, n);
            g.load(job.grad_dtype, job.grad + row * job.grad_ld, col, n);
            sum += job.grid.floats ? products_of<dtype, true>(job, step, x, g, passes)
                                   : products_of<dtype, false>(job, step, x, g, passes);
            if (job.out) pass_unit<dtype>(job, g, row, col, n, job.clamp ? passes : 0xffu);
        }
        for (int o = team / 2; o; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
        if (!live || lane) continue;
        if (job.final) sum = sum * (k == job.groups - 1 ? job.last_factor : job.factor);
        job.sums[row * of_row + i] = nib_canonical(sum);
    }
}

/* Pieces of each step to its gradient. grid  x: steps, strided; a thread a partial sum */
__global__ void __launch_bounds__(NIB_GRID_SUMS) steps_sum(const __grid_constant__ StepJob job)
{
    NIB_SHARED(double, part, [NIB_GRID_SUMS]);
    const int64_t steps = job.whole ? 1 : job.rows * job.groups;
    for (int64_t i = blockIdx.x; i < steps; i += gridDim.x) {
        const float *const sums = job.sums + i * job.pieces;
        double sum = 0.0;
        for (int64_t p = threadIdx.x; p < job.pieces; p += NIB_GRID_SUMS) sum += (double)sums[p];
        part[threadIdx.x] = sum;
        __syncthreads();
        for (unsigned o = blockDim.x / 2; o; o /= 2) { /* of fewer threads, all others' are 0 */
            if (threadIdx.x < o) part[threadIdx.x] += part[threadIdx.x + o];
            __syncthreads();
        }
        const bool last = i % job.groups == job.groups - 1;
        if (threadIdx.x == 0) {
            job.grad_steps[i] = nib_grid_gradient(part[0], last ? job.last_factor : job.factor);
        }
        /* No barrier: since the last one only part[0] is read, by the thread that writes it. */
    }
}

/* ---- launching ---- */

typedef void (*step_kernel)(StepJob);

/* [dtype][dynamic][gradient] */
static const step_kernel units_kernels[4][2][2] = {
#define ROW(dtype)                                                                           \
    { { steps_units<dtype, false, false>, steps_units<dtype, false, true> },                 \
      { steps_units<dtype, true, false>, steps_units<dtype, true, true> } }
    ROW(NIB_DT_F32), ROW(NIB_DT_F16), ROW(NIB_DT_BF16), ROW(ANY_DTYPE)
#undef ROW
};
static const step_kernel groups_kernels[4][2] = {
    { steps_groups<NIB_DT_F32, false>, steps_groups<NIB_DT_F32, true> },
    { steps_groups<NIB_DT_F16, false>, steps_groups<NIB_DT_F16, true> },
    { steps_groups<NIB_DT_BF16, false>, steps_groups<NIB_DT_BF16, true> },
    { steps_groups<ANY_DTYPE, false>, steps_groups<ANY_DTYPE, true> },
};
static const step_kernel gradient_kernels[4] = {
    steps_gradient<NIB_DT_F32>, steps_gradient<NIB_DT_F16>, steps_gradient<NIB_DT_BF16>,
    steps_gradient<ANY_DTYPE>,
};

static int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

/* The least s with 2^s >= n. */
static int log2_up(int64_t n)
{
    int s = 0;
    while (INT64_C(1) << s < n) s++;
    return s;
}

static StepJob job_of(const nib_matrix *src, const nib_matrix *grad,
                      const nib_step_request *request, const nib_matrix *out)
{
    StepJob job = {};
    job.grid = nib_grid_of((int)request->element);
    job.dtype = (int)src->dtype;
    job.out_dtype = (int)out->dtype;
    job.asymmetric = request->asymmetric;
    job.rule = (int)request->rule;
    job.whole = request->whole;
    job.clamp = request->gradient == NIB_FAKE_CLAMP;
    job.x = (const uint8_t *)src->data;
    job.x_ld = src->ld_elems * fake_size(job.dtype);
    job.out = (uint8_t *)out->data;
    job.out_ld = out->ld_elems * fake_size(job.out_dtype);
    if (grad) {
        job.grad = (const uint8_t *)grad->data;
        job.grad_dtype = (int)grad->dtype;
        job.grad_ld = grad->ld_elems * fake_size(job.grad_dtype);
    } else {
        job.mask = request->mask;
        job.mask_ld = request->mask ? request->ld_mask_bytes : 0;
        job.steps_out = request->steps_out;
        job.zeros_out = request->zeros_out;
    }
    job.steps = request->steps;
    job.zeros = request->zeros;
    job.range = request->range;
    job.tensor_scale = request->tensor_scale;
    job.rows = src->rows;
    job.cols = src->cols;
    job.group = request->group;
    job.group_units = request->group / NIB_GRID_UNIT;
    job.groups = nib_ceil_div(job.cols, job.group);
    return job;
}

/* The dtype that all of a job's matrices have at aligned addresses, or ANY_DTYPE. */
static int dtype_of(const StepJob *job)
{
    const bool same = job->out_dtype == job->dtype
                   && (!job->grad || job->grad_dtype == job->dtype);
    return same && aligned(job->x, job->x_ld, 0, 16) && aligned(job->out, job->out_ld, 0, 16)
        && aligned(job->grad, job->grad_ld, 0, 16) ? job->dtype : ANY_DTYPE;
}

/* A thread for each of units of a row, in as many rows as a block has room for. */
static void launch_units(StepJob *job, step_kernel kernel, int64_t units, cudaStream_t stream)
{
    int width = NIB_STEPS_MIN_WIDTH;
    while (width < units && width < NIB_STEPS_THREADS) width *= 2;
    const int height = NIB_STEPS_THREADS / width;
    const int64_t across = nib_ceil_div(units, width);
    int           turns = NIB_STEPS_TURNS;
    job->row_tiles = nib_ceil_div(job->rows, height);
    while (turns > 1 && across * job->row_tiles / turns < NIB_STEPS_ENOUGH_BLOCKS) turns /= 2;
    const dim3 grid((unsigned)across,
                    (unsigned)at_most(nib_ceil_div(job->row_tiles, turns), 65535));
    NIB_LAUNCH(kernel, grid, dim3((unsigned)width, (unsigned)height), 0, stream, *job);
}

static void launch_groups(const StepJob *job, step_kernel kernel, cudaStream_t stream)
{
    const int64_t units = nib_ceil_div(job->group_units, NIB_STEPS_IN_FLIGHT);
    int width = 32;
    while (width < units && width < NIB_STEPS_THREADS) width *= 2;
    NIB_LAUNCH(kernel, dim3((unsigned)at_most(job->rows * job->groups, NIB_STEPS_MOST_BLOCKS)),
               dim3((unsigned)width), 0, stream, *job);
}

/* Values, or gradients that only the clamp stops. */
static nib_status over_units(const nib_launch *launch, StepJob *job)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    const bool dynamic = !job->steps && !job->whole, gradient = job->grad != nullptr;
    const int  dtype = dtype_of(job);
    job->run_units = dtype == ANY_DTYPE || job->group_units % 2 ? 1 : 2;
    job->group_runs = job->group_units / job->run_units;
    if (job->group_runs > NIB_STEPS_TEAM) {
        launch_groups(job, groups_kernels[dtype][gradient], stream);
    } else {
        const int64_t units = nib_ceil_div(job->cols, NIB_GRID_UNIT);
        const int     shift = log2_up(job->group_runs);
        const bool    whole_team = INT64_C(1) << shift == job->group_runs;
        job->shift = dynamic || whole_team ? shift : -1;
        launch_units(job, units_kernels[dtype][dynamic][gradient],
                     dynamic ? job->groups << shift : nib_ceil_div(units, job->run_units), stream);
    }
    return nib_cuda_end(launch, gradient ? "fake_quantize_steps_backward" : "fake_quantize_steps");
}

static nib_status over_pieces(const nib_launch *launch, StepJob *job,
                              const nib_step_request *request)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    const int64_t last = job->cols - (job->groups - 1) * job->group;
    const int64_t steps = job->whole ? 1 : job->rows * job->groups;
    const int64_t n = job->whole ? job->rows * job->cols : job->group;
    job->pieces = nib_grid_pieces(at_most(job->group, job->cols));
    const int64_t each = job->whole ? job->rows * job->pieces : job->pieces; /* of a step */
    job->factor = nib_grid_factor(request->grad_factor, n, job->grid.hi);
    job->last_factor = nib_grid_factor(request->grad_factor, job->whole ? n : last, job->grid.hi);
    job->grad_steps = request->grad_steps;
    job->final = each == 1;
    job->sums = job->final ? job->grad_steps : (float *)launch->workspace;
    job->shift = log2_up(at_most(job->group_units, NIB_STEPS_TEAM));
    if (!job->clamp && job->out == job->grad) job->out = nullptr;
    launch_units(job, gradient_kernels[job->out ? dtype_of(job) : ANY_DTYPE],
                 (job->groups * job->pieces) << job->shift, stream);
    if (!job->final) {
        job->pieces = each;
        NIB_LAUNCH(steps_sum, dim3((unsigned)at_most(steps, NIB_STEPS_MOST_BLOCKS)),
                   dim3(each <= 32 ? 32 : NIB_GRID_SUMS), 0, stream, *job);
    }
    return nib_cuda_end(launch, "fake_quantize_steps_backward");
}

static nib_status check_rows(const nib_launch *launch, const char *what, const void *p,
                             int64_t rows, int64_t ld, int64_t bytes)
{
    return nib_cuda_pointer(launch, what, p, (rows - 1) * ld + bytes);
}

static nib_status check_pointers(const nib_launch *launch, const StepJob *job,
                                 const nib_step_request *request)
{
    const int64_t rows = job->rows, cols = job->cols, steps = job->whole ? 1 : rows * job->groups;
    const bool    gradient = job->grad != nullptr;
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "steps", job->steps, steps * 4));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "zeros", job->zeros, steps));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "range", job->range, 8));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_scale", job->tensor_scale, 4));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "steps_out", job->steps_out, steps * 4));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "zeros_out", job->zeros_out, steps));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "grad_steps", request->grad_steps, steps * 4));
    NIB_CUDA_TRY(check_rows(launch, "src", job->x, rows, job->x_ld, cols * fake_size(job->dtype)));
    NIB_CUDA_TRY(check_rows(launch, "mask", job->mask, rows, job->mask_ld, (cols + 7) / 8));
    NIB_CUDA_TRY(check_rows(launch, "grad_out", job->grad, rows, job->grad_ld,
                            cols * fake_size(job->grad_dtype)));
    return check_rows(launch, gradient ? "grad_in" : "dst", job->out, rows, job->out_ld,
                      cols * fake_size(job->out_dtype));
}

nib_status nib_cuda_fake_steps(const nib_launch *launch, const nib_matrix *src,
                               const nib_step_request *request, const nib_matrix *dst)
{
    StepJob job = job_of(src, nullptr, request, dst);
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_FAKE_QUANTIZE));
    NIB_CUDA_TRY(check_pointers(launch, &job, request));
    return over_units(launch, &job);
}

nib_status nib_cuda_fake_steps_backward(const nib_launch *launch, const nib_matrix *grad_out,
                                        const nib_matrix *src, const nib_step_request *request,
                                        const nib_matrix *grad_in)
{
    StepJob job = job_of(src, grad_out, request, grad_in);
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_FAKE_QUANTIZE));
    NIB_CUDA_TRY(check_pointers(launch, &job, request));
    return request->grad_steps ? over_pieces(launch, &job, request) : over_units(launch, &job);
}

static cudaError_t load(step_kernel kernel)
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kernel);
}

cudaError_t nib_cuda_load_steps()
{
    cudaError_t error = load(steps_sum);
    for (int d = 0; d < 4 && error == cudaSuccess; d++) {
        error = load(gradient_kernels[d]);
        for (int i = 0; i < 6 && error == cudaSuccess; i++) {
            error = load(i < 4 ? units_kernels[d][i / 2][i % 2] : groups_kernels[d][i % 2]);
        }
    }
    return error;
}
