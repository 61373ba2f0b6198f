/* gemm_small_cuda.cu: products with few rows of activations, at the speed of the weights' memory.
 *
 * Weights are the 16-row operand of mma m16n8k16, straight from global memory to registers: 64 rows
 * and all 8 or 16 tokens a warp, its tiles WARPS apart along K. Activations come from L1 and L2, 32
 * bytes a lane. No shared memory and no barrier until the warps' sums are added, in order. K is cut
 * for several CTAs (job.splits) without regard to M, so a token's bits do not depend on M. */
#include "gemm_floor.cuh"
#include "gemm_tune.h"

namespace {

constexpr int WARPS = NIB_GEMM_SMALL_WARPS;
constexpr int RED_LD = 68; /* floats from a token to the next: 2 * 68 = 8 banks apart */

/* A lane's share of one tile. Scales of two row tiles, as they are loaded. */
struct Tile {
    uint4         code[4]; /* row tile rt: words j = 0..3 */
    GemmScales<2> scale[2];
};

/* Row tiles that come by one load, of which rt is the last; codes and scales: the lane's. */
template <int layout>
__device__ __forceinline__ void load_rows(const uint8_t *codes, const uint8_t *scales, int rt,
                                          Tile *to)
{
    if constexpr (layout == NIB_GL_SM80) {
        to->code[rt] = nib_ptx::ld_once((const uint4 *)(codes + rt * 512));
    } else if (rt % 2) {
        const nib_ptx::Bytes32 v =
            nib_ptx::ld_once((const nib_ptx::Bytes32 *)(codes + rt / 2 * 1024));
        to->code[rt - 1] = v.lo, to->code[rt] = v.hi;
    }
    if (rt % 2) gemm_load_scales<false>(scales, rt - 1, &to->scale[rt / 2]);
}

/* Activations: columns 16 * t .. + 15 of token g. */
template <int token_tiles> struct Tokens {
    uint4 x[token_tiles][2];
};

/* chunks: of 8 columns that are left of K. */
template <int token_tiles>
__device__ __forceinline__ void load_tokens(const uint16_t *const (&row)[token_tiles], int chunks,
                                            Tokens<token_tiles> *to)
{
    NIB_UNROLL
    for (int i = 0; i < token_tiles; i++) {
        NIB_UNROLL
        for (int h = 0; h < 2; h++) {
            to->x[i][h] = h < chunks ? __ldg((const uint4 *)row[i] + h) : make_uint4(0, 0, 0, 0);
        }
    }
}

/* Sums of a warp: [row tile][token tile]; F16 ones of a chunk. E8M0's chunks are one tile, so one
 * row tile's are under way at a time. floors: gemm_floor.cuh, of row tiles 0 and 1, 2 and 3. */
template <class Kind, int token_tiles> struct Sums {
    static constexpr int half_tiles = Kind::f16_sums && Kind::scale == GEMM_E4M3 ? 4 : 1;
    float    sum[4][token_tiles][4];
    uint32_t half[half_tiles][token_tiles][2];
    uint32_t floors[2][1];
};

template <class Kind, int token_tiles>
__device__ __forceinline__ void promote(Sums<Kind, token_tiles> *s, int rt)
{
    NIB_UNROLL
    for (int i = 0; i < token_tiles; i++) {
        uint32_t (&half)[2] = s->half[rt % Sums<Kind, token_tiles>::half_tiles][i];
        NIB_UNROLL
        for (int e = 0; e < 4; e++) {
            s->sum[rt][i][e] += nib_ptx::cvt_f32_f16(half[e / 2] >> 16 * (e % 2));
        }
        half[0] = half[1] = 0;
    }
}

/* Sums of rows g (h = 0) or g + 8 of a row tile. */
template <class Kind, int token_tiles>
__device__ __forceinline__ void rescale(Sums<Kind, token_tiles> *s, int rt, int h, float by)
{
    NIB_UNROLL
    for (int i = 0; i < token_tiles * 2; i++) s->sum[rt][i / 2][2 * h + i % 2] *= by;
}

/* Row tile rt of a tile; as soon as its words are decoded, its registers take the next tile's. */
template <class Kind, int token_tiles>
__device__ __forceinline__ void multiply(const Tokens<token_tiles> &tokens, int rt, bool chunk_ends,
                                         bool more, const uint8_t *next_codes,
                                         const uint8_t *next_scales, Tile *tile,
                                         Sums<Kind, token_tiles> *s)
{
    GemmScales<2> &scale = tile->scale[rt / 2];
    if (rt % 2 == 0) {
        gemm_settle<Kind, 2>(&scale, s->floors[rt / 2], [&](int i, int h, float by) {
            rescale(s, rt + i, h, by);
        });
    }
    const uint32_t by_g = Kind::pair_scale(scale, rt % 2, 0);
    const uint32_t by_g8 = Kind::pair_scale(scale, rt % 2, 1);
    NIB_UNROLL
    for (int j = 0; j < 4; j++) {
        uint32_t w[4];
        Kind::weights(gemm_word(tile->code[rt], j), by_g, by_g8, w);
        if (j == 3 && more) load_rows<Kind::layout>(next_codes, next_scales, rt, tile);
        NIB_UNROLL
        for (int i = 0; i < token_tiles; i++) {
            const uint4   &x = tokens.x[i][j / 2];
            const uint32_t b[2] = { gemm_word(x, j % 2 * 2), gemm_word(x, j % 2 * 2 + 1) };
            uint32_t (&half)[2] = s->half[rt % Sums<Kind, token_tiles>::half_tiles][i];
            if constexpr (Kind::f16_sums) nib_ptx::mma_f16_f16(half, w, b);
            else Kind::mma(s->sum[rt][i], w, b);
            (void)half;
        }
    }
    if constexpr (Kind::f16_sums) {
        if (Kind::scale == GEMM_E8M0 || chunk_ends) promote(s, rt);
    }
}

/* The warps' sums, in order, to the partial sums of this split or to D. */
template <int tokens>
__device__ __forceinline__ void end(const GemmJob &job, const float *red, int64_t stripe,
                                    int64_t m0)
{
    constexpr int warp_floats = tokens * RED_LD;
    const float   scale = gemm_factor(job);
    for (int i = (int)threadIdx.x; i < tokens * NIB_GEMM_TILE; i += WARPS * 32) {
        const int     token = i / NIB_GEMM_TILE, r = i % NIB_GEMM_TILE;
        const int64_t m = m0 + token, n = stripe * NIB_GEMM_TILE + r;
        if (m >= job.m || n >= job.n) continue;
        float sum = 0.0f, up = 0.0f;
        for (int w = 0; w < WARPS; w++) sum += red[w * warp_floats + token * RED_LD + r];
        if (job.splits > 1) {
            job.partials[((int64_t)blockIdx.y * job.m + m) * job.partial_ld + n] = sum;
            continue;
        }
        int64_t column;
        if (!gemm_is_column(job, n, &column)) continue;
        for (int w = 0; job.gated && w < WARPS; w++)
            up += red[w * warp_floats + token * RED_LD + r + 8];
        gemm_finish(job, scale, m, column, sum, up);
    }
}

/* Blocks: (stripe, split, tokens). */
template <int layout, int dtype, int scale, bool f16_sums, int tokens>
__global__ void __launch_bounds__(WARPS * 32, NIB_GEMM_SMALL_PER_SM) gemm_small(const GemmJob job)
{
    NIB_SHARED(float, red, [WARPS * tokens * RED_LD]);
    if constexpr (gemm_has_layout<layout>) {
        using Kind = GemmKind<layout, dtype, scale, f16_sums>;
        constexpr int token_tiles = tokens / 8;
        const int     lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        const int64_t stripe = blockIdx.x, m0 = (int64_t)blockIdx.z * tokens;
        const int64_t first = job.units * blockIdx.y / job.splits + warp;
        const int64_t last = job.units * (blockIdx.y + 1) / job.splits;
        const int64_t tile0 = stripe * job.ld_tiles + first;
        const int     scale_bytes = nib_gemm_scale_tile_bytes(job.block);
        const int     lane_code = nib_gemm_chunk_at(layout, 0, lane);
        const uint8_t *codes = job.codes + tile0 * NIB_GEMM_CODE_BYTES + lane_code;
        const uint8_t *scales = job.scales + tile0 * scale_bytes
                              + gemm_scales_at(job.block, lane);
        const uint16_t *row[token_tiles];
        const int64_t   column = first * NIB_GEMM_TILE + 16 * (lane % 4);
        int             chunks = (int)((job.k - column) / 8); /* k is a multiple of 8 */
        NIB_UNROLL
        for (int i = 0; i < token_tiles; i++) { /* the last for those that are not: nobody reads
                                                   their sums */
            const int64_t m = m0 + 8 * i + lane / 4;
            row[i] = job.a + (m < job.m ? m : job.m - 1) * job.a_ld + column;
        }
        Sums<Kind, token_tiles> s = {};
        Tile                tile = {};
        Tokens<token_tiles> now, next = {};
        if (first < last) {
            NIB_UNROLL
            for (int rt = 0; rt < 4; rt++) load_rows<layout>(codes, scales, rt, &tile);
            load_tokens(row, chunks, &next);
        }
        /* One register, instead of the parts that it is of, during the loop. */
        const int red_at = warp * tokens * RED_LD + 2 * (lane % 4) * RED_LD + lane / 4;
        int       in_chunk = 0;
        NIB_NO_UNROLL
        for (int left = first < last ? (int)nib_ceil_div(last - first, WARPS) : 0; left > 0;
             left--) {
            const bool more = left > 1;
            now = next;
            codes += WARPS * NIB_GEMM_CODE_BYTES;
            scales += WARPS * scale_bytes;
            NIB_UNROLL
            for (int i = 0; i < token_tiles; i++) row[i] += WARPS * NIB_GEMM_TILE;
            chunks -= WARPS * NIB_GEMM_TILE / 8;
            if (more) load_tokens(row, chunks, &next);
            in_chunk = in_chunk + 1 == job.chunk_units ? 0 : in_chunk + 1;
            NIB_UNROLL
            for (int rt = 0; rt < 4; rt++) {
                multiply(now, rt, in_chunk == 0 || !more, more, codes, scales, &tile, &s);
            }
        }
        NIB_UNROLL
        for (int i = 0; Kind::scale == GEMM_E8M0 && i < 8; i++)
            rescale(&s, i / 2, i % 2, gemm_row_factor<Kind>(s.floors[i / 4], i / 2 % 2, i % 2));
        NIB_UNROLL
        for (int rt = 0; rt < 4; rt++) {
            NIB_UNROLL
            for (int i = 0; i < token_tiles * 4; i++) {
                const int e = i % 4;
                red[red_at + (i / 4 * 8 + e % 2) * RED_LD + 16 * rt + 8 * (e / 2)] =
                    s.sum[rt][i / 4][e];
            }
        }
        __syncthreads();
        if (job.splits > 1) nib_ptx::grid_launch_dependents();
        end<tokens>(job, red, stripe, m0);
    } else {
        gemm_no_image(), (void)job, (void)red;
    }
}

using kernel = void (*)(GemmJob);

/* f16 sums: of f16 activations alone. */
template <int layout, int tokens> kernel kernel_of(int dtype, int scale, bool f16_sums)
{
    static const kernel kernels[3][2] = {
        { gemm_small<layout, NIB_DT_F16, GEMM_E4M3, false, tokens>,
          gemm_small<layout, NIB_DT_F16, GEMM_E8M0, false, tokens> },
        { gemm_small<layout, NIB_DT_BF16, GEMM_E4M3, false, tokens>,
          gemm_small<layout, NIB_DT_BF16, GEMM_E8M0, false, tokens> },
        { gemm_small<layout, NIB_DT_F16, GEMM_E4M3, true, tokens>,
          gemm_small<layout, NIB_DT_F16, GEMM_E8M0, true, tokens> },
    };
    return kernels[f16_sums ? 2 : dtype == NIB_DT_BF16][scale];
}

kernel kernel_of(int layout, int tokens, int dtype, int scale, bool f16_sums)
{
    kernel (*const of)(int, int, bool) = layout == NIB_GL_SM80
        ? (tokens == 8 ? kernel_of<NIB_GL_SM80, 8> : kernel_of<NIB_GL_SM80, 16>)
        : (tokens == 8 ? kernel_of<NIB_GL_SM100, 8> : kernel_of<NIB_GL_SM100, 16>);
    return of(dtype, scale, f16_sums);
}

} // namespace

void nib_cuda_gemm_small(const GemmJob &job, int layout, int dtype, int scale, bool f16_sums,
                         int tokens, cudaStream_t stream)
{
    const kernel run = kernel_of(layout, tokens, dtype, scale, f16_sums);
    const dim3   grid((unsigned)job.stripes, (unsigned)job.splits,
                      (unsigned)nib_ceil_div(job.m, tokens));
    NIB_LAUNCH(run, grid, WARPS * 32, 0, stream, job);
    if (job.splits > 1) nib_cuda_gemm_reduce(job, stream);
}

cudaError_t nib_cuda_load_gemm_small()
{
    cudaFuncAttributes attributes;
    for (int i = 0; i < 24; i++) {
        const int layout = i % 2 ? NIB_GL_SM100 : NIB_GL_SM80, way = i / 4;
        const int dtype = way / 2 == 1 ? NIB_DT_BF16 : NIB_DT_F16;
        const cudaError_t error = cudaFuncGetAttributes(
            &attributes, kernel_of(layout, i / 2 % 2 ? 16 : 8, dtype, way % 2, way / 2 == 2));
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}
