/* step_codes_cuda.cu: integers by f32 steps to codes, and back.
 *
 * step_codes: a team of lanes a group of a row, which it reads twice if its step is dynamic: for
 * the range, and again, from a cache, for the codes. step_values: a thread 8 codes. Groups begin at
 * units of 8 elements, so that a unit's codes are whole bytes.
 */
#include "ops_cuda.cuh"
#include "quantize_ways.cuh"
#include "steps_job.cuh"
#include "steps_tune.h"

namespace {

struct CodesJob {
    StepJob  step;  /* out: the codes, or the values; x: the elements, or the codes */
    int      bits;
    int      whole_units; /* codes of a unit lie on addresses that take them at once */
};

/* The codes of n elements from column col on. */
template <int dtype>
__device__ __forceinline__ void store_codes(const CodesJob &job, const StepUse<dtype> &use,
                                            const Octet<dtype> &x, int64_t row, int64_t col, int n)
{
    uint8_t *const to = job.step.out + row * job.step.out_ld + col * job.bits / 8;
    const bool     fast = use.fast && x.is_moderate();
    uint32_t       code[NIB_GRID_UNIT], word[2] = { 0, 0 };
    NIB_UNROLL
    for (int i = 0; i < NIB_GRID_UNIT; i++) {
        const float e = x.at(i);
        const float y = fast ? nib_step_quotient(e, use.step.s, use.inverse) : e / use.step.s;
        const float v = nib_is_nan(y) ? 0.0f : nib_grid_integer(use.step, y);
        code[i] = i < n ? (uint32_t)nib_step_code(&job.step.grid, use.step.low, v) : 0u;
        if (job.bits == 8) word[i / 4] |= (code[i] & 255u) << i % 4 * 8;
        else word[0] |= (code[i] & 15u) << i * 4;
    }
    if (n == NIB_GRID_UNIT && job.whole_units) {
        if (job.bits == 8) *(uint2 *)to = make_uint2(word[0], word[1]);
        else *(uint32_t *)to = word[0];
        return;
    }
    const int bytes = (n * job.bits + 7) / 8;
    NIB_UNROLL
    for (int b = 0; b < NIB_GRID_UNIT; b++)
        if (b < bytes) to[b] = (uint8_t)(word[b / 4] >> b % 4 * 8);
}

/* grid  x: teams of a row's groups, y: tiles of blockDim.y rows, strided
 *
 * All threads of a block take every turn of the loop, since lanes exchange ranges. */
template <int dtype>
__global__ void __launch_bounds__(NIB_STEPS_THREADS, NIB_STEPS_PER_SM)
step_codes(const __grid_constant__ CodesJob codes)
{
    const StepJob &job = codes.step;
    const int64_t  t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, k = t >> job.shift;
    const int      team = 1 << job.shift, lane = (int)threadIdx.x & (team - 1);
    const int64_t  first = k * job.group, left = job.cols - first;
    const int64_t  end = k >= job.groups ? first : first + (left < job.group ? left : job.group);
    const int64_t  begin = first + lane * NIB_GRID_UNIT, turn = team * NIB_GRID_UNIT;
    for (int64_t tile = blockIdx.y; tile < job.row_tiles; tile += gridDim.y) {
        const int64_t        row = tile * blockDim.y + threadIdx.y, i = row * job.groups + k;
        const bool           live = row < job.rows && k < job.groups;
        const uint8_t *const from = job.x + row * job.x_ld;
        nib_step             step = {};
        Octet<dtype>         x;
        if (!job.steps) {
            nib_grid_range range = { 0.0f, 0.0f };
            NIB_NO_UNROLL
            for (int64_t col = begin; live && col < end; col += turn) {
                x.load(job.dtype, from, col, unit_elements(col, end));
                range = x.add_range(range, job.asymmetric);
            }
            if (!job.asymmetric) range.above = fmaxf(range.above, range.below);
            for (int o = team / 2; o; o /= 2) {
                range.below = fmaxf(range.below, __shfl_xor_sync(~0u, range.below, o));
                range.above = fmaxf(range.above, __shfl_xor_sync(~0u, range.above, o));
            }
            step = dynamic_step(job, range);
        }
        if (!live) continue;
        if (job.steps) step = given_step(job, i);
        if (lane == 0) store_step(job, i, step);
        const StepUse<dtype> use(step);
        NIB_NO_UNROLL
        for (int64_t col = begin; col < end; col += turn) {
            const int n = unit_elements(col, end);
            x.load(job.dtype, from, col, n);
            store_codes<dtype>(codes, use, x, row, col, n);
        }
    }
}

/* grid  x: units of a row, y: as above */
__global__ void __launch_bounds__(NIB_STEPS_THREADS, NIB_STEPS_PER_SM)
step_values(const __grid_constant__ CodesJob codes)
{
    const StepJob &job = codes.step;
    const int64_t  unit = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t  col = unit * NIB_GRID_UNIT, k = unit / job.group_units;
    const int      n = unit_elements(col, job.cols);
    if (n == 0) return;
    for (int64_t tile = blockIdx.y; tile < job.row_tiles; tile += gridDim.y) {
        const int64_t row = tile * blockDim.y + threadIdx.y;
        if (row >= job.rows) return;
        const nib_step       step = given_step(job, row * job.groups + k);
        const uint8_t *const from = job.x + row * job.x_ld + col * codes.bits / 8;
        uint8_t *const       to = job.out + row * job.out_ld;
        NIB_UNROLL
        for (int i = 0; i < NIB_GRID_UNIT; i++) {
            if (i >= n) continue;
            const int q = nib_step_code_at(from, codes.bits, i);
            nib_store_f32(job.out_dtype, to, col + i, (float)(q - step.z) * step.s);
        }
    }
}

typedef void (*codes_kernel)(CodesJob);

const codes_kernel codes_kernels[4] = {
    step_codes<NIB_DT_F32>, step_codes<NIB_DT_F16>, step_codes<NIB_DT_BF16>, step_codes<ANY_DTYPE>,
};

/* A thread for each of units of a row, in as many rows as a block has room for. */
void launch(CodesJob *job, codes_kernel kernel, int64_t units, cudaStream_t stream)
{
    int width = NIB_STEPS_TEAM;
    while (width < units && width < NIB_STEPS_THREADS) width *= 2;
    const int height = NIB_STEPS_THREADS / width;
    job->step.row_tiles = nib_ceil_div(job->step.rows, height);
    const int64_t tiles = job->step.row_tiles < 65535 ? job->step.row_tiles : 65535;
    NIB_LAUNCH(kernel, dim3((unsigned)nib_ceil_div(units, width), (unsigned)tiles),
               dim3((unsigned)width, (unsigned)height), 0, stream, *job);
}

CodesJob job_of(const nib_step_request *r, const nib_packed_steps *p)
{
    CodesJob job = {};
    StepJob &s = job.step;
    job.bits = nib_step_code_bits((int)r->element);
    job.whole_units = ((uintptr_t)p->codes | (uintptr_t)p->ld_codes_bytes)
                    % (unsigned)job.bits == 0;
    s.grid = nib_grid_of_codes((int)r->element, r->middle);
    s.asymmetric = r->asymmetric, s.rule = (int)r->rule;
    s.steps = r->steps, s.zeros = r->zeros;
    s.steps_out = r->steps_out, s.zeros_out = r->zeros_out;
    s.rows = p->rows, s.cols = p->cols, s.group = r->group;
    s.group_units = s.group / NIB_GRID_UNIT;
    s.groups = nib_ceil_div(s.cols, s.group);
    return job;
}

nib_status check_pointers(const nib_launch *launch, const nib_packed_steps *p, const nib_matrix *m,
                          int64_t groups)
{
    const int64_t steps = p->rows * groups, bits = nib_step_code_bits((int)p->element);
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "steps", p->steps, steps * 4));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "zeros", p->zeros, steps));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "codes", p->codes, (p->rows - 1) * p->ld_codes_bytes
                                                                 + (p->cols * bits + 7) / 8));
    return nib_cuda_pointer(launch, "the matrix", m->data,
                            ((m->rows - 1) * m->ld_elems + m->cols) * fake_size((int)m->dtype));
}

} // namespace

nib_status nib_cuda_quantize_steps(const nib_launch *launched, const nib_matrix *src,
                                   const nib_step_request *request, const nib_packed_steps *dst)
{
    CodesJob job = job_of(request, dst);
    StepJob &s = job.step;
    s.dtype = (int)src->dtype;
    s.x = (const uint8_t *)src->data, s.x_ld = src->ld_elems * fake_size(s.dtype);
    s.out = dst->codes, s.out_ld = dst->ld_codes_bytes;
    NIB_CUDA_TRY(nib_cuda_begin(launched, NIB_PREPARE_FAKE_QUANTIZE));
    NIB_CUDA_TRY(check_pointers(launched, dst, src, s.groups));
    while (s.shift < 5 && INT64_C(1) << s.shift < s.group_units) s.shift++;
    launch(&job, codes_kernels[aligned(s.x, s.x_ld, 0, 16) ? s.dtype : (int)ANY_DTYPE],
           s.groups << s.shift, (cudaStream_t)launched->stream);
    return nib_cuda_end(launched, "quantize_steps");
}

nib_status nib_cuda_dequantize_steps(const nib_launch *launched, const nib_packed_steps *src,
                                     const nib_step_request *request, const nib_matrix *dst)
{
    CodesJob job = job_of(request, src);
    StepJob &s = job.step;
    s.out_dtype = (int)dst->dtype;
    s.x = src->codes, s.x_ld = src->ld_codes_bytes;
    s.out = (uint8_t *)dst->data, s.out_ld = dst->ld_elems * fake_size(s.out_dtype);
    NIB_CUDA_TRY(nib_cuda_begin(launched, NIB_PREPARE_FAKE_QUANTIZE));
    NIB_CUDA_TRY(check_pointers(launched, src, dst, s.groups));
    launch(&job, step_values, nib_ceil_div(s.cols, (int64_t)NIB_GRID_UNIT),
           (cudaStream_t)launched->stream);
    return nib_cuda_end(launched, "dequantize_steps");
}

cudaError_t nib_cuda_load_step_codes()
{
    cudaFuncAttributes a;
    cudaError_t        error = cudaFuncGetAttributes(&a, (const void *)step_values);
    for (int d = 0; d < 4 && error == cudaSuccess; d++)
        error = cudaFuncGetAttributes(&a, (const void *)codes_kernels[d]);
    return error;
}
