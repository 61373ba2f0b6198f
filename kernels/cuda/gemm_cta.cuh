/* gemm_cta.cuh: what products by CTAs of 256 rows of weights share (gemm_tile, gemm_wgmma): sizes,
 * and what follows the sums. Copies are each kernel's own: gemm_tile has no register left over, and
 * gemm_wgmma no branch. */
#ifndef NIB_GEMM_CTA_CUH
#define NIB_GEMM_CTA_CUH

#include "gemm_floor.cuh"
#include "gemm_tune.h"

constexpr int GEMM_STRIPES = NIB_GEMM_TILE_STRIPES, GEMM_ROWS = GEMM_STRIPES * NIB_GEMM_TILE;
constexpr int GEMM_STEP = 2; /* tiles, along K */
constexpr int GEMM_THREADS = 256;
constexpr int GEMM_SUM_LD = GEMM_ROWS + 4; /* floats from a token's sums to the next's: two are 8
                                              banks apart */
constexpr int GEMM_SCALE_SLOT = 256; /* of a tile's scales in shared memory */
constexpr int GEMM_STEP_CODE_BYTES = GEMM_STRIPES * GEMM_STEP * NIB_GEMM_CODE_BYTES;
constexpr int GEMM_STEP_SCALE_BYTES = GEMM_STRIPES * GEMM_STEP * GEMM_SCALE_SLOT;

__device__ __forceinline__ int gemm_scale_bytes(const GemmJob &job) /* without a division */
{
    return job.block == 16 ? nib_gemm_scale_tile_bytes(16) : nib_gemm_scale_tile_bytes(32);
}

/* ---- what follows the sums: they lie in shared memory, [token][GEMM_SUM_LD] ---- */

template <int tokens>
__device__ __forceinline__ void gemm_write_partials(const GemmJob &job, const float *sums,
                                                    int64_t m0, int64_t n0)
{
    for (int i = (int)threadIdx.x; i < tokens * (GEMM_ROWS / 4); i += GEMM_THREADS) {
        const int     token = i / (GEMM_ROWS / 4), r = i % (GEMM_ROWS / 4) * 4;
        const int64_t m = m0 + token, n = n0 + r;
        if (m >= job.m || n >= job.n) continue;
        float *const to = job.partials + (blockIdx.y * job.m + m) * job.partial_ld + n;
        *(float4 *)to = *(const float4 *)(sums + token * GEMM_SUM_LD + r);
    }
}

/* Elements in place of their sums (gated: of the gates'), neighbours by neighbouring lanes; then D
 * in runs of 8, of which each lies within D or without. */
template <int tokens>
__device__ __forceinline__ void gemm_write_d(const GemmJob &job, float *sums, int64_t m0,
                                             int64_t n0)
{
    static_assert(GEMM_ROWS == 256, "log2");
    const int   columns = job.gated ? GEMM_ROWS / 2 : GEMM_ROWS, log2 = job.gated ? 7 : 8;
    const float scale = gemm_factor(job);
    NIB_NO_UNROLL
    for (int i = (int)threadIdx.x; i < tokens * columns; i += GEMM_THREADS) {
        const int     token = i >> log2, c = i & (columns - 1);
        const int     r = job.gated ? c / 8 * 16 + c % 8 : c;
        const int64_t m = m0 + token;
        int64_t       column;
        if (m >= job.m || !gemm_is_column(job, n0 + r, &column)) continue;
        float *const at = sums + token * GEMM_SUM_LD + r;
        *at = gemm_value(job, scale, m, column, at[0], job.gated ? at[8] : 0.0f);
    }
    __syncthreads();
    NIB_NO_UNROLL
    for (int i = (int)threadIdx.x; i < tokens * columns / 8; i += GEMM_THREADS) {
        const int     token = i >> (log2 - 3), c = (i & (columns / 8 - 1)) * 8;
        const int     r = job.gated ? c * 2 : c;
        const int64_t m = m0 + token;
        int64_t       column;
        if (m >= job.m || !gemm_is_column(job, n0 + r, &column)) continue;
        gemm_store_8(job.d_dtype, job.d, m * job.d_ld + column, sums + token * GEMM_SUM_LD + r);
    }
}

#endif
