/* steps_cpu.c: fake-quantization by f32 steps for the base instruction set, in plain C. */
#include "portable_cpu.h"
#include "steps_span.h"

static inline void chunk_load(int dtype, const void *src, int n, float *x)
{
    load_block(dtype, src, n, x);
}

static inline nib_grid_range chunk_range(nib_grid_range r, int n, const float *x)
{
    for (int i = 0; i < n; i++) r = nib_grid_range_add(r, x[i]);
    return r;
}

static inline void chunk_integers(nib_step step, int n, const float *x, float *y, float *v)
{
    const nib_grid g = { .floats = 0, .nan_value = 0.0f };
    const int whole = (n + LANES - 1) / LANES * LANES;
#pragma omp simd
    for (int i = 0; i < whole; i++) {
        y[i] = x[i] / step.s;
        v[i] = nib_grid_nearest(&g, step, y[i]);
    }
}

static inline void chunk_codes(int bits, const nib_grid *grid, float low, int n, const float *v,
                               uint8_t *to)
{
    uint8_t code[STEP_CHUNK + 1];
    for (int i = 0; i < n; i++) code[i] = (uint8_t)nib_step_code(grid, low, v[i]);
    if (bits == 8) {
        memcpy(to, code, (size_t)n);
        return;
    }
    code[n] = 0;
    for (int i = 0; i < n; i += 2) to[i / 2] = (uint8_t)((code[i] & 15) | code[i + 1] << 4);
}

static inline void chunk_values(int dtype, float s, int n, const float *v, void *to)
{
    for (int i = 0; i < n; i++) nib_store_f32(dtype, to, i, v[i] * s);
}

static inline void chunk_mask(nib_step step, int n, const float *y, uint8_t *mask)
{
    for (int i = 0; i < n; i += 8) {
        uint32_t bits = 0;
        for (int j = i; j < i + 8 && j < n; j++)
            bits |= (uint32_t)!nib_grid_is_clamped(step, y[j]) << (j - i);
        mask[i / 8] = (uint8_t)bits;
    }
}

static inline void chunk_passes(nib_step step, int n, const float *y, uint8_t *passes)
{
    for (int i = 0; i < n; i++) passes[i] = (uint8_t)!nib_grid_is_clamped(step, y[i]);
}

static inline void chunk_slopes(nib_step step, int n, const float *y, const float *v, float *g)
{
    const int whole = (n + LANES - 1) / LANES * LANES;
    for (int i = 0; i < whole; i++) g[i] *= nib_grid_slope(step, y[i], v[i]);
}

static inline void chunk_sums(int n, const float *g, float *lanes)
{
    for (int i = 0; i < n; i += NIB_GRID_UNIT) lanes[i / NIB_GRID_UNIT] += nib_sum8(g + i);
}

static inline void chunk_decode(int bits, nib_step step, int n, const uint8_t *codes, int dtype,
                                void *to)
{
    for (int i = 0; i < n; i++)
        nib_store_f32(dtype, to, i, (float)(nib_step_code_at(codes, bits, i) - step.z) * step.s);
}

nib_status nib_fake_steps_portable(const nib_launch *launch, const nib_matrix *src,
                                   const nib_step_request *request, const nib_matrix *dst)
{
    return steps_run(launch, NULL, src, request, dst);
}

nib_status nib_fake_steps_backward_portable(const nib_launch *launch, const nib_matrix *grad_out,
                                            const nib_matrix *src,
                                            const nib_step_request *request,
                                            const nib_matrix *grad_in)
{
    return steps_run(launch, grad_out, src, request, grad_in);
}

nib_status nib_quantize_steps_portable(const nib_launch *launch, const nib_matrix *src,
                                       const nib_step_request *request,
                                       const nib_packed_steps *dst)
{
    return step_codes_run(launch, src, request, dst);
}

nib_status nib_dequantize_steps_portable(const nib_launch *launch, const nib_packed_steps *src,
                                         const nib_step_request *request, const nib_matrix *dst)
{
    return step_decode_run(launch, src, request, dst);
}

int64_t nib_bad_step_cpu(const float *steps, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!nib_is_step(steps[i])) return i;
    return n;
}
