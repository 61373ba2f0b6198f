/* gemm_wgmma_cuda.cu: products with about 65 to 500 rows of activations on sm_90a, by wgmma: the
 * one way to all of Hopper's tensor cores, of which mma.sync is said to reach 62 to 75 %.
 *
 * D^T = W X^T: weights are the operand of 64 rows, which may come from registers, where decoding
 * leaves them; activations are the other, which must lie in shared memory. A CTA: 256 rows of
 * weights, four stripes, by 128 tokens. Its two warpgroups have two stripes each, a warp 16 rows of
 * either, and all of K: 2 x 64 sums a thread. A weight is decoded once for 128 tokens, by the code
 * of the other kernels, since wgmma's registers are those of mma m16n8k16.
 *
 * Of a step of 128 columns a warpgroup makes four parts, (tile u, stripe s): decode 64 x 64 weights
 * to 16 registers, start four wgmma of them, start a quarter of the copies of a step to come. Two
 * sets of registers take turns, so that one part's products run while the next is decoded, and the
 * other warpgroup's run while this one waits: their tensor cores are the same.
 *
 * Activations. A lane's weights are of 16 neighbouring columns (gemm_layout.h), so that wgmma's k
 * runs through them in another order than memory does: in 4-byte words of a row of 64 columns
 *
 *     word 8 * t + 2 * j + i of memory goes to word 8 * j + 4 * i + t: mma j has 8, 32 bytes
 *
 * Copies of 4 bytes put them there: a warp takes a token's 128 bytes to all 32 banks. Copies of 16,
 * then ldmatrix and stores, would pass shared memory three times; wgmma's own reads take half of
 * its cycles. Cycles of a step, 2048 of the tensor cores (predicted, profiles/predicted):
 *
 *     shared memory   1024 wgmma, 256 activations, 256 codes, 80 scales = 1616 (or 2128)
 *     issue           962 (f16, E4M3), half rate 804
 *
 * Sums are in f32; a token's depend neither on other tokens nor on their number. No CTA waits for
 * another. */
#include "gemm_cta.cuh"
#include "ptx_wgmma.cuh"

namespace {

constexpr int TOKENS = 128, STAGES = NIB_GEMM_WGMMA_STAGES;
constexpr int STRIPES = 2; /* of a warpgroup */

/* ---- shared memory, a step: activations, codes, scales ----
 * activations   [tile][token][128 bytes], 16-byte chunk c at c ^ token % 8, as wgmma wants it
 * codes         [stripe][tile][2048 bytes], as they come
 * scales        [stripe][tile][256 bytes] */
constexpr int X_ROW = 2 * NIB_GEMM_TILE, X_TILE = TOKENS * X_ROW;
constexpr int CODES_AT = GEMM_STEP * X_TILE, SCALES_AT = CODES_AT + GEMM_STEP_CODE_BYTES;
constexpr int STEP_BYTES = SCALES_AT + GEMM_STEP_SCALE_BYTES;

static_assert(STEP_BYTES % 1024 == 0, "swizzled rows begin at multiples of 1024");
static_assert(STAGES * STEP_BYTES <= 227 << 10, "an SM's");
static_assert(STAGES * STEP_BYTES >= TOKENS * GEMM_SUM_LD * 4, "the sums take the steps' memory");

/* A thread's part of the copies: two columns of every eighth token, 16 bytes of codes of a tile in
 * each stripe, 8 of scales of one tile. */
struct Copies {
    const uint16_t *x;              /* of its first token */
    const uint8_t  *codes, *scales; /* of its first tile */
    int             tokens, columns; /* from its own on */
    int             stripes, tiles;  /* tiles along K, from u = 0 on */
};

/* maybe_unused: of the next three, where the target has no wgmma. */
[[maybe_unused]] __device__ __forceinline__ Copies
copies_of(const GemmJob &job, int64_t m0, int64_t stripe0, int64_t first, int64_t last)
{
    const int     tid = (int)threadIdx.x, warp = tid / 32, lane = tid % 32;
    const int64_t begin = first * NIB_GEMM_TILE, tile = stripe0 * job.ld_tiles + first;
    const int64_t end = last * NIB_GEMM_TILE < job.k ? last * NIB_GEMM_TILE : job.k;
    Copies        from;
    from.x = job.a + (m0 + warp) * job.a_ld + begin + 2 * lane;
    from.codes = job.codes + tile * NIB_GEMM_CODE_BYTES + tid * 16; /* of tile tid / 128 */
    from.scales = job.scales + lane * 8 /* of tile tid / 32 */
                + (tile + warp / GEMM_STEP * job.ld_tiles + warp % GEMM_STEP)
                      * gemm_scale_bytes(job);
    from.tokens = (int)(job.m - m0 < TOKENS ? job.m - m0 : TOKENS) - warp;
    from.columns = (int)(end - begin) - 2 * lane;
    from.stripes = (int)(job.stripes - stripe0 < GEMM_STRIPES ? job.stripes - stripe0
                                                              : GEMM_STRIPES);
    from.tiles = (int)(last - first);
    return from;
}

/* A quarter of a step: 32 tokens, a stripe's codes; with the first all scales. What is past an edge
 * becomes zeros, past K's end all: without a branch, behind which ptxas would not let products run
 * on. */
template <int quarter>
__device__ __forceinline__ void copy_quarter(const GemmJob &job, Copies *from, unsigned char *to)
{
    const int tid = (int)threadIdx.x, warp = tid / 32, lane = tid % 32, u = tid / 128;
    /* word 8 * t + 2 * j + i of a row: chunk 2 * j + i, of which it is word t */
    unsigned char *const x_wr = to + warp * X_ROW + (lane % 8 ^ warp) * 16 + lane / 8 * 4;
    NIB_UNROLL
    for (int i = 4 * quarter; i < 4 * quarter + 4; i++, from->x += 8 * job.a_ld) {
        NIB_UNROLL
        for (int v = 0; v < GEMM_STEP; v++) {
            nib_ptx::cp_async<4>(x_wr + v * X_TILE + i * 8 * X_ROW, from->x + v * NIB_GEMM_TILE,
                                 v * NIB_GEMM_TILE < from->columns && i * 8 < from->tokens);
        }
    }
    nib_ptx::cp_async<16>(to + CODES_AT + quarter * GEMM_STEP * NIB_GEMM_CODE_BYTES + tid * 16,
                          from->codes + quarter * job.ld_tiles * NIB_GEMM_CODE_BYTES,
                          quarter < from->stripes && u < from->tiles);
    if constexpr (quarter == 0) {
        nib_ptx::cp_async<8>(to + SCALES_AT + tid * 8, from->scales,
                             warp / GEMM_STEP < from->stripes && warp % GEMM_STEP < from->tiles
                                 && lane * 8 < gemm_scale_bytes(job));
    } else if constexpr (quarter == 3) {
        from->x += GEMM_STEP * NIB_GEMM_TILE - TOKENS * job.a_ld;
        from->codes += GEMM_STEP * NIB_GEMM_CODE_BYTES;
        from->scales += GEMM_STEP * gemm_scale_bytes(job);
        from->columns -= GEMM_STEP * NIB_GEMM_TILE;
        from->tiles -= GEMM_STEP;
    }
}

static_assert(TOKENS == 4 * 4 * 8 && GEMM_STRIPES == 4 && GEMM_THREADS == 8 * 32
              && GEMM_THREADS == GEMM_STEP * NIB_GEMM_CHUNKS && GEMM_SCALE_SLOT == 32 * 8,
              "a warp 16 tokens and a tile's scales, 128 threads a tile's codes");

/* ---- a warp's share ---- */

struct Sums {
    float    sum[STRIPES][64];   /* gemm_cta.cuh's rows, wgmma's registers */
    uint32_t a[STRIPES][4][4];   /* decoded, of one part each */
    uint32_t floors[1];          /* gemm_floor.cuh: of the two stripes */
};

[[maybe_unused]] __device__ __forceinline__ void hold(Sums *sums)
{
    NIB_UNROLL
    for (int s = 0; s < STRIPES; s++) nib_ptx::wgmma_hold(sums->sum[s]);
}

struct Place {
    int codes, scales; /* of tile 0 of its first stripe in a step */
    int red;           /* where its first sum goes */
};

[[maybe_unused]] __device__ __forceinline__ Place place_of(int block)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int stripe = warp / 4 * STRIPES, rt = warp % 4;
    Place     at;
    at.codes = CODES_AT + stripe * GEMM_STEP * NIB_GEMM_CODE_BYTES
             + nib_gemm_chunk_at(NIB_GL_SM80, rt, lane);
    at.scales = SCALES_AT + stripe * GEMM_STEP * GEMM_SCALE_SLOT + gemm_scales_at(block, lane)
              + 2 * rt;
    at.red = 2 * (lane % 4) * GEMM_SUM_LD + stripe * NIB_GEMM_TILE + 16 * rt + lane / 4;
    return at;
}

/* Of tile u, its stripes as two row tiles. */
template <int u>
__device__ __forceinline__ GemmScales<2> load_scales(const unsigned char *step, const Place &at)
{
    const unsigned char *const p = step + at.scales + u * GEMM_SCALE_SLOT;
    const uint32_t lo = *(const uint16_t *)p;
    const uint32_t hi = *(const uint16_t *)(p + GEMM_STEP * GEMM_SCALE_SLOT);
    return { { lo | hi << 16 } };
}

/* B of mma 0 of tile u: ptx_wgmma.cuh. Others add bytes / 16. */
template <int u> __device__ __forceinline__ uint64_t activations_at(const unsigned char *step)
{
    constexpr uint64_t eight_rows = 8 * X_ROW, swizzle128 = 1;
    return ((nib_ptx::shared_address(step) & 0x3ffff) + u * X_TILE) >> 4 | (eight_rows >> 4) << 32
         | swizzle128 << 62;
}

/* Part (u, s) of a step, and a quarter of a later one's copies. Before the registers of a part
 * before are written again, its products have ended; with E8M0 scales, whose floors may rise, all
 * have, since then sums change too. */
template <class Kind, int part>
__device__ __forceinline__ void do_part(const GemmJob &job, const unsigned char *step,
                                        unsigned char *later, const Place &at, Copies *from,
                                        GemmScales<2> *scales, Sums *sums)
{
    constexpr int u = part / STRIPES, s = part % STRIPES;
    const uint4 code = *(const uint4 *)(step + at.codes
                                        + (s * GEMM_STEP + u) * NIB_GEMM_CODE_BYTES);
    if (s == 0) *scales = load_scales<u>(step, at);
    if constexpr (Kind::scale == GEMM_E4M3) {
        nib_ptx::wgmma_wait<1>();
    } else if constexpr (s == 0) {
        nib_ptx::wgmma_wait<0>();
        hold(sums);
        gemm_settle<Kind>(scales, sums->floors, [&](int stripe, int h, float by) {
            NIB_UNROLL
            for (int i = 0; i < 32; i++) sums->sum[stripe][i / 2 * 4 + 2 * h + i % 2] *= by;
        });
    }
    NIB_UNROLL
    for (int j = 0; j < 4; j++) {
        Kind::weights(gemm_word(code, j), Kind::pair_scale(*scales, s, 0),
                      Kind::pair_scale(*scales, s, 1), sums->a[s][j]);
    }
    const uint64_t x = activations_at<u>(step);
    nib_ptx::wgmma_fence();
    NIB_UNROLL
    for (int j = 0; j < 4; j++) {
        if constexpr (Kind::dtype == NIB_DT_F16)
            nib_ptx::wgmma_f16_f32(sums->sum[s], sums->a[s][j], x + j * 2);
        else nib_ptx::wgmma_bf16_f32(sums->sum[s], sums->a[s][j], x + j * 2);
    }
    nib_ptx::wgmma_commit();
    copy_quarter<part>(job, from, later);
}

/* ---- what follows the sums ---- */

[[maybe_unused]] __device__ __forceinline__ void
gather(const Sums &sums, const Place &at, float *red)
{
    NIB_UNROLL
    for (int i = 0; i < STRIPES * 64; i++) {
        const int s = i / 64, tokens = i % 64 / 4, e = i % 4;
        red[at.red + (8 * tokens + e % 2) * GEMM_SUM_LD + s * NIB_GEMM_TILE + 8 * (e / 2)] =
            sums.sum[s][i % 64];
    }
    __syncthreads();
}

/* ---- kernels ---- */

/* Steps of this CTA's share of K, each after a barrier that says that it is there, and that the
 * products of the last but one, whose memory the copies take, have ended. */
template <class Kind>
__device__ __forceinline__ void sum_up(const GemmJob &job, Copies from, int steps, const Place &at,
                                       unsigned char *smem, Sums *sums)
{
    constexpr int end = STAGES * STEP_BYTES, ahead = STAGES - 2;
    int           rd = 0, wr = ahead * STEP_BYTES;
    GemmScales<2> scales;
    NIB_UNROLL
    for (int i = 0; i < ahead; i++) {
        copy_quarter<0>(job, &from, smem + i * STEP_BYTES);
        copy_quarter<1>(job, &from, smem + i * STEP_BYTES);
        copy_quarter<2>(job, &from, smem + i * STEP_BYTES);
        copy_quarter<3>(job, &from, smem + i * STEP_BYTES);
        nib_ptx::cp_async_commit();
    }
    NIB_NO_UNROLL
    for (; steps > 0; steps--) {
        nib_ptx::cp_async_wait<ahead - 1>();
        nib_ptx::fence_proxy_async();
        __syncthreads();
        do_part<Kind, 0>(job, smem + rd, smem + wr, at, &from, &scales, sums);
        do_part<Kind, 1>(job, smem + rd, smem + wr, at, &from, &scales, sums);
        do_part<Kind, 2>(job, smem + rd, smem + wr, at, &from, &scales, sums);
        do_part<Kind, 3>(job, smem + rd, smem + wr, at, &from, &scales, sums);
        nib_ptx::cp_async_commit();
        rd = rd + STEP_BYTES == end ? 0 : rd + STEP_BYTES;
        wr = wr + STEP_BYTES == end ? 0 : wr + STEP_BYTES;
    }
    nib_ptx::wgmma_wait<0>();
    hold(sums);
    NIB_UNROLL
    for (int i = 0; Kind::scale == GEMM_E8M0 && i < STRIPES * 64; i++)
        sums->sum[i / 64][i % 64] *= gemm_row_factor<Kind>(sums->floors, i / 64, i % 4 / 2);
    nib_ptx::cp_async_wait_all(); /* zeros past K's end, which land in the sums' memory too */
    __syncthreads();
}

/* Blocks as gemm_tile's: (tokens, of the same rows next to each other; split of K). */
template <int dtype, int scale>
__global__ void __launch_bounds__(GEMM_THREADS, 1) gemm_wgmma(const GemmJob job)
{
    NIB_SHARED_DYNAMIC(smem);
    if constexpr (NIB_HAS_WGMMA) {
        const unsigned blocks_m = (unsigned)nib_ceil_div(job.m, TOKENS);
        const unsigned block_m = blockIdx.x % blocks_m, block_n = blockIdx.x / blocks_m;
        const int64_t  m0 = block_m * (int64_t)TOKENS, n0 = block_n * (int64_t)GEMM_ROWS;
        const int64_t  first = job.units * blockIdx.y / job.splits;
        const int64_t  last = job.units * (blockIdx.y + 1) / job.splits;
        const Place    at = place_of(job.block);
        Sums           sums = {};
        sum_up<GemmKind<NIB_GL_SM80, dtype, scale, false>>(
            job, copies_of(job, m0, block_n * (int64_t)GEMM_STRIPES, first, last),
            (int)nib_ceil_div(last - first, (int64_t)GEMM_STEP), at, smem, &sums);
        float *const red = (float *)smem;
        if (job.splits > 1) nib_ptx::grid_launch_dependents();
        gather(sums, at, red);
        if (job.splits > 1) gemm_write_partials<TOKENS>(job, red, m0, n0);
        else gemm_write_d<TOKENS>(job, red, m0, n0);
    } else {
        gemm_no_image(), (void)job, (void)smem;
    }
}

using kernel = void (*)(GemmJob);

kernel kernel_of(int dtype, int scale)
{
    static const kernel kernels[2][2] = {
        { gemm_wgmma<NIB_DT_F16, GEMM_E4M3>, gemm_wgmma<NIB_DT_F16, GEMM_E8M0> },
        { gemm_wgmma<NIB_DT_BF16, GEMM_E4M3>, gemm_wgmma<NIB_DT_BF16, GEMM_E8M0> },
    };
    return kernels[dtype == NIB_DT_BF16][scale];
}

} // namespace

void nib_cuda_gemm_wgmma(const GemmJob &job, int dtype, int scale, cudaStream_t stream)
{
    const dim3 grid((unsigned)(nib_ceil_div(job.m, TOKENS)
                               * nib_ceil_div(job.stripes, (int64_t)GEMM_STRIPES)),
                    (unsigned)job.splits);
    NIB_LAUNCH(kernel_of(dtype, scale), grid, GEMM_THREADS, (size_t)(STAGES * STEP_BYTES), stream,
               job);
    if (job.splits > 1) nib_cuda_gemm_reduce(job, stream);
}

/* Other devices have neither the kernels nor the memory, and are not offered them. */
cudaError_t nib_cuda_load_gemm_wgmma()
{
    int device = 0, major = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    for (int way = 0; way < 4 && major == 9 && error == cudaSuccess; way++) {
        error = cudaFuncSetAttribute(kernel_of(way / 2 ? NIB_DT_BF16 : NIB_DT_F16, way % 2),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     STAGES * STEP_BYTES);
    }
    return error;
}
