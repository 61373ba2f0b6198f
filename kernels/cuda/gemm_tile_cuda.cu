/* gemm_tile_cuda.cu: products with some more rows of activations: 17 to about 1000.
 *
 * A CTA: 256 rows of weights, the 16-row operand of mma m16n8k16, by 32 or 64 tokens. Both come by
 * cp.async, 128 columns a step, some steps ahead. Its 8 warps, in parentheses those with F16 sums,
 * of which each chunk's lie beside the others and fewer registers are left:
 *
 *            along n         along m            along K
 *   a warp   64 (32) rows    all tokens         every second tile of 64 columns (all of them)
 *   warps    4 (8)           1                  2 (1)
 *
 * A decoded weight serves all tokens of its CTA, and a warp's activations its 64 rows. Rows and
 * tokens are as 4 to 1 or more since weights are 3.56 times smaller than activations: what a CTA
 * takes from L2 for its products is near its least (gemm_tune.h). A token's sum is that of the even
 * tiles plus that of the odd ones (that of all), for any tokens. K may be cut for several CTAs too
 * (job.splits). No CTA waits for another. */
#include "gemm_cta.cuh"

namespace {

constexpr int STRIPES = GEMM_STRIPES, ROWS = GEMM_ROWS, STEP = GEMM_STEP, THREADS = GEMM_THREADS;
constexpr int RED_LD = GEMM_SUM_LD;

template <bool f16_sums, int tokens> struct Shape {
    static constexpr int row_tiles = f16_sums ? 2 : 4, token_tiles = tokens / 8;
    static constexpr int warps_n = ROWS / 16 / row_tiles, warps_k = f16_sums ? 1 : 2;
    static_assert(32 * warps_n * warps_k == THREADS, "warps");
};

/* ---- shared memory: the steps, of which each has activations, codes and scales ----
 * activations   [token][16 chunks of 8 columns], chunk c at c ^ (token & 7)
 * codes         [stripe][tile][2048 bytes], as they come, but of layout SM100 every second 4 lanes'
 *               row tiles exchanged
 * scales        [stripe][tile][256 bytes]
 * so that 8 lanes that read 16 bytes each are in different banks, and 8 that write them too. */
constexpr int X_ROW = STEP * NIB_GEMM_TILE * 2, SCALE_SLOT = GEMM_SCALE_SLOT;

template <int tokens> constexpr int codes_at = tokens * X_ROW;
template <int tokens> constexpr int scales_at = codes_at<tokens> + GEMM_STEP_CODE_BYTES;
template <int tokens> constexpr int step_bytes = scales_at<tokens> + GEMM_STEP_SCALE_BYTES;

static_assert(2 * step_bytes<32> >= 32 * RED_LD * 4 && 2 * step_bytes<64> >= 64 * RED_LD * 4,
              "the sums of a CTA take its steps' memory");

/* A thread's part of the copies: from where, and what is left. */
struct Copies {
    const uint16_t *x;              /* its chunk of its first token */
    const uint8_t  *codes, *scales; /* its chunk of its first tile */
    int             tokens, stripes; /* from its first on */
    int             chunks, tiles;   /* along K: of 8 columns, from its own on; of 64, from u = 0 */
};

template <int tokens>
__device__ __forceinline__ Copies copies_of(const GemmJob &job, int64_t m0, int64_t stripe0,
                                            int64_t first, int64_t last)
{
    const int     tid = (int)threadIdx.x, row = tid / 16, chunk = tid % 16;
    const int64_t begin = first * NIB_GEMM_TILE, tile = stripe0 * job.ld_tiles + first;
    const int64_t end = last * NIB_GEMM_TILE < job.k ? last * NIB_GEMM_TILE : job.k;
    Copies        from;
    from.x = job.a + (m0 + row) * job.a_ld + begin + 8 * chunk;
    from.codes = job.codes + tile * NIB_GEMM_CODE_BYTES + tid * 16; /* of tile tid / 128 */
    from.scales = job.scales + chunk * 16 /* 16 threads a tile */
                + (tile + row / STEP * job.ld_tiles + row % STEP) * gemm_scale_bytes(job);
    from.tokens = (int)(job.m - m0 < tokens ? job.m - m0 : tokens) - row;
    from.stripes = (int)(job.stripes - stripe0 < STRIPES ? job.stripes - stripe0 : STRIPES);
    from.chunks = (int)((end - begin) / 8) - chunk;
    from.tiles = (int)(last - first);
    return from;
}

/* The next step; what is past an edge becomes zeros. */
template <int layout, int tokens>
__device__ __forceinline__ void copy_step(const GemmJob &job, Copies *from, unsigned char *to)
{
    constexpr int rows = THREADS / 16;
    const int     tid = (int)threadIdx.x, row = tid / 16, u = tid / 128;
    from->tiles -= STEP; /* below 0 says how many steps ago K ended */
    if (from->tiles <= -STEP) return;
    const uint16_t      *x = from->x;
    unsigned char *const x_wr = to + (tid * 16 ^ (row & 7) * 16);
    NIB_UNROLL
    for (int i = 0; i < tokens / rows; i++, x += rows * job.a_ld) {
        nib_ptx::cp_async<16>(x_wr + i * rows * X_ROW, x,
                              from->chunks > 0 && i * rows < from->tokens);
    }
    const int            c = tid % 128; /* of a tile's chunks */
    unsigned char *const codes_wr = to + codes_at<tokens> + u * NIB_GEMM_CODE_BYTES
                                  + (layout == NIB_GL_SM80 ? c : c ^ c / 8 % 2) * 16;
    NIB_UNROLL
    for (int i = 0; i < STRIPES; i++) {
        nib_ptx::cp_async<16>(codes_wr + i * STEP * NIB_GEMM_CODE_BYTES,
                              from->codes + i * job.ld_tiles * NIB_GEMM_CODE_BYTES,
                              i < from->stripes && u < from->tiles + STEP);
    }
    if (row < STRIPES * STEP && tid % 16 * 16 < gemm_scale_bytes(job)) {
        nib_ptx::cp_async<16>(to + scales_at<tokens> + tid * 16, from->scales,
                              row / STEP < from->stripes && row % STEP < from->tiles + STEP);
    }
    from->x += STEP * NIB_GEMM_TILE;
    from->codes += STEP * NIB_GEMM_CODE_BYTES;
    from->scales += STEP * gemm_scale_bytes(job);
    from->chunks -= STEP * NIB_GEMM_TILE / 8;
}

static_assert(X_ROW == 16 * 16 && SCALE_SLOT == 16 * 16 && THREADS == STEP * NIB_GEMM_CHUNKS,
              "16 threads a row and a tile's scales, 128 a tile's codes");

/* Until the oldest of stages - 1 steps that are under way is here. */
__device__ __forceinline__ void wait_for_step(int stages)
{
    if (stages == 2) nib_ptx::cp_async_wait<0>();
    else if (stages == 3) nib_ptx::cp_async_wait<1>();
    else nib_ptx::cp_async_wait<2>();
}

/* ---- a warp's share of a tile ---- */

template <class Kind, class S> struct Sums {
    float    sum[S::row_tiles][S::token_tiles][4];
    uint32_t half[Kind::f16_sums ? S::row_tiles : 1][Kind::f16_sums ? S::token_tiles : 1][2];
    uint32_t floors[S::row_tiles / 2]; /* gemm_floor.cuh */
};

/* Where a lane finds its own in a step, and where its first sum goes. */
struct Place {
    int x;             /* columns 16 * t .. + 7 of token g: B of mma 0 and 1; ^ 16: of 2 and 3 */
    int codes, scales; /* of its first row tile; codes of layout SM100: of the second at ^ 16 */
    int rt0, lane, red;
};

template <class Kind, class S, int tokens>
__device__ __forceinline__ Place place_of(int block)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int g = lane / 4, t = lane % 4;
    const int row_tile = warp % S::warps_n * S::row_tiles, u = warp / S::warps_n;
    const int tile = row_tile / 4 * STEP + u, rt0 = row_tile % 4;
    Place     at;
    at.rt0 = rt0, at.lane = lane;
    at.red = 2 * t * RED_LD + 16 * row_tile + g;
    at.x = g * X_ROW + 8 * u * 16 + ((2 * t) ^ g) * 16;
    at.codes = codes_at<tokens> + tile * NIB_GEMM_CODE_BYTES + rt0 * 512
             + (Kind::layout == NIB_GL_SM80 ? lane * 16 : lane * 32 + lane / 4 % 2 * 16);
    at.scales = scales_at<tokens> + tile * SCALE_SLOT + gemm_scales_at(block, lane);
    return at;
}

template <int tiles> struct Rows {
    uint4             code[tiles];
    GemmScales<tiles> scale;
};

template <int layout, int tiles>
__device__ __forceinline__ void load_rows(const unsigned char *step, const Place &at,
                                          Rows<tiles> *to)
{
    NIB_UNROLL
    for (int r = 0; r < tiles; r++) {
        to->code[r] = *(const uint4 *)(step + (layout == NIB_GL_SM80
            ? at.codes + r * 512 : (at.codes ^ r % 2 * 16) + r / 2 * 1024));
    }
    gemm_load_scales<true>((const uint8_t *)step + at.scales, at.rt0, &to->scale);
}

/* Sums of rows g (h = 0) or g + 8 of a row tile. */
template <class Kind, class S>
__device__ __forceinline__ void rescale(Sums<Kind, S> *s, int rt, int h, float by)
{
    NIB_UNROLL
    for (int i = 0; i < S::token_tiles * 2; i++) s->sum[rt][i / 2][2 * h + i % 2] *= by;
}

/* Words j0 .. j0 + words - 1 of the row tiles, decoded, times all tokens. */
template <class Kind, class S, int j0, int words>
__device__ __forceinline__ void multiply_words(const unsigned char *step, const Place &at,
                                               const Rows<S::row_tiles> &rows, Sums<Kind, S> *s)
{
    constexpr int tiles = S::row_tiles;
    uint32_t      w[tiles][words][4];
    NIB_UNROLL
    for (int i = 0; i < words * tiles; i++) {
        const int j = i / tiles, r = i % tiles;
        Kind::weights(gemm_word(rows.code[r], j0 + j), Kind::pair_scale(rows.scale, r, 0),
                      Kind::pair_scale(rows.scale, r, 1), w[r][j]);
    }
    NIB_UNROLL
    for (int i = 0; i < S::token_tiles; i++) {
        NIB_UNROLL
        for (int j = 0; j < words; j++) {
            const uint4    x = *(const uint4 *)(step + (at.x ^ (j0 + j) / 2 * 16) + i * 8 * X_ROW);
            const uint32_t b[2] = { gemm_word(x, j % 2 * 2), gemm_word(x, j % 2 * 2 + 1) };
            NIB_UNROLL
            for (int r = 0; r < tiles; r++) {
                if constexpr (Kind::f16_sums) nib_ptx::mma_f16_f16(s->half[r][i], w[r][j], b);
                else Kind::mma(s->sum[r][i], w[r][j], b);
            }
        }
    }
}

template <class Kind, class S> __device__ __forceinline__ void promote(Sums<Kind, S> *s)
{
    NIB_UNROLL
    for (int rt = 0; rt < S::row_tiles; rt++) {
        NIB_UNROLL
        for (int i = 0; i < S::token_tiles; i++) {
            NIB_UNROLL
            for (int e = 0; e < 4; e++)
                s->sum[rt][i][e] += nib_ptx::cvt_f32_f16(s->half[rt][i][e / 2] >> 16 * (e % 2));
            s->half[rt][i][0] = s->half[rt][i][1] = 0;
        }
    }
}

/* One tile. Registers hold all of it decoded of two row tiles, of four the words of 32 columns. */
template <class Kind, class S>
__device__ __forceinline__ void multiply(const unsigned char *step, const Place &at,
                                         bool chunk_ends, Sums<Kind, S> *s)
{
    Rows<S::row_tiles> rows;
    load_rows<Kind::layout>(step, at, &rows);
    gemm_settle<Kind>(&rows.scale, s->floors, [&](int rt, int h, float by) {
        rescale(s, rt, h, by);
    });
    if constexpr (S::row_tiles == 2) {
        multiply_words<Kind, S, 0, 4>(step, at, rows, s);
    } else {
        multiply_words<Kind, S, 0, 2>(step, at, rows, s);
        multiply_words<Kind, S, 2, 2>(step, at, rows, s);
    }
    if constexpr (Kind::f16_sums) {
        if (chunk_ends) promote(s);
    }
}

/* ---- what follows the sums ---- */

/* The sums of all warps to red, [token][row]; of two along K, the first's plus the second's. */
template <class Kind, class S>
__device__ __forceinline__ void gather(const Sums<Kind, S> &s, const Place &at, float *red)
{
    const int warp_k = (int)threadIdx.x / 32 / S::warps_n;
    NIB_UNROLL
    for (int k = S::warps_k - 1; k >= 0; k--) {
        NIB_UNROLL
        for (int i = 0; i < S::row_tiles * S::token_tiles * 4 && warp_k == k; i++) {
            const int    e = i % 4, tt = i / 4 % S::token_tiles, rt = i / 4 / S::token_tiles;
            float *const to = red + at.red + (8 * tt + e % 2) * RED_LD + 16 * rt + 8 * (e / 2);
            *to = k + 1 < S::warps_k ? s.sum[rt][tt][e] + *to : s.sum[rt][tt][e];
        }
        __syncthreads();
    }
}

/* ---- kernels ---- */

/* Steps of this CTA's share of K, each after a barrier that says that it is there and that the
 * oldest one's memory is free. */
template <class Kind, class S, int tokens>
__device__ __forceinline__ void sum_up(const GemmJob &job, Copies from, int stages, const Place &at,
                                       unsigned char *smem, Sums<Kind, S> *s)
{
    constexpr int bytes = step_bytes<tokens>;
    const int     end = stages * bytes;
    const int     warp_k = (int)threadIdx.x / 32 / S::warps_n;
    int           rd = 0, in_chunk = 0;
    for (int wr = 0; wr < end - bytes; wr += bytes) {
        copy_step<Kind::layout, tokens>(job, &from, smem + wr);
        nib_ptx::cp_async_commit();
    }
    NIB_NO_UNROLL
    while (from.tiles > -(stages - 1) * STEP) {
        wait_for_step(stages);
        __syncthreads();
        copy_step<Kind::layout, tokens>(job, &from, smem + (rd ? rd - bytes : end - bytes));
        nib_ptx::cp_async_commit();
        const int left = from.tiles + stages * STEP; /* from the step at rd on */
        if constexpr (S::warps_k == STEP) {
            if (warp_k < left) multiply<Kind, S>(smem + rd, at, true, s);
        } else {
            Place of_u = at;
            NIB_NO_UNROLL
            for (int u = 0; u < STEP && u < left; u++) {
                in_chunk = in_chunk + 1 == job.chunk_units ? 0 : in_chunk + 1;
                multiply<Kind, S>(smem + rd, of_u, in_chunk == 0 || u + 1 == left, s);
                of_u.x += NIB_GEMM_TILE * 2;
                of_u.codes += NIB_GEMM_CODE_BYTES, of_u.scales += SCALE_SLOT;
            }
        }
        rd = rd + bytes == end ? 0 : rd + bytes;
    }
    NIB_UNROLL
    for (int i = 0; Kind::scale == GEMM_E8M0 && i < 2 * S::row_tiles; i++)
        rescale(s, i / 2, i % 2, gemm_row_factor<Kind>(s->floors, i / 2, i % 2));
    nib_ptx::cp_async_wait_all(); /* empty groups */
    __syncthreads();
}

/* Blocks: (tokens, of the same rows next to each other, so that weights come once to L2; split). */
template <int layout, int dtype, int scale, bool f16_sums, int tokens>
__global__ void __launch_bounds__(THREADS, NIB_GEMM_TILE_PER_SM)
gemm_tile(const GemmJob job, int stages)
{
    NIB_SHARED_DYNAMIC(smem);
    if constexpr (gemm_has_layout<layout>) {
        using Kind = GemmKind<layout, dtype, scale, f16_sums>;
        using S = Shape<f16_sums, tokens>;
        const unsigned blocks_m = (unsigned)nib_ceil_div(job.m, tokens);
        const unsigned block_m = blockIdx.x % blocks_m, block_n = blockIdx.x / blocks_m;
        const Place    at = place_of<Kind, S, tokens>(job.block);
        Sums<Kind, S>  s = {};
        sum_up<Kind, S, tokens>(
            job, copies_of<tokens>(job, block_m * (int64_t)tokens, block_n * (int64_t)STRIPES,
                                   job.units * blockIdx.y / job.splits,
                                   job.units * (blockIdx.y + 1) / job.splits),
            stages, at, smem, &s);
        float *const  red = (float *)smem;
        const int64_t m0 = block_m * (int64_t)tokens, n0 = block_n * (int64_t)ROWS;
        if (job.splits > 1) nib_ptx::grid_launch_dependents();
        gather(s, at, red);
        if (job.splits > 1) gemm_write_partials<tokens>(job, red, m0, n0);
        else gemm_write_d<tokens>(job, red, m0, n0);
    } else {
        gemm_no_image(), (void)job, (void)stages, (void)smem;
    }
}

using kernel = void (*)(GemmJob, int);

/* f16 sums: of f16 activations alone. */
template <int layout, int tokens> kernel kernel_of(int dtype, int scale, bool f16_sums)
{
    static const kernel kernels[3][2] = {
        { gemm_tile<layout, NIB_DT_F16, GEMM_E4M3, false, tokens>,
          gemm_tile<layout, NIB_DT_F16, GEMM_E8M0, false, tokens> },
        { gemm_tile<layout, NIB_DT_BF16, GEMM_E4M3, false, tokens>,
          gemm_tile<layout, NIB_DT_BF16, GEMM_E8M0, false, tokens> },
        { gemm_tile<layout, NIB_DT_F16, GEMM_E4M3, true, tokens>,
          gemm_tile<layout, NIB_DT_F16, GEMM_E8M0, true, tokens> },
    };
    return kernels[f16_sums ? 2 : dtype == NIB_DT_BF16][scale];
}

/* Steps that a CTA's shared memory holds, as far as they are wanted; 2 fit every device. */
int stages_of(int wanted, int bytes)
{
    int device = 0, most = 0;
    if (cudaGetDevice(&device) != cudaSuccess
        || cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)
               != cudaSuccess) return 2;
    const int room = most / bytes;
    return room < 2 ? 2 : room < wanted ? room : wanted;
}

template <int tokens> void launch(const GemmJob &job, int layout, int dtype, int scale,
                                  bool f16_sums, int wanted, cudaStream_t stream)
{
    const kernel run = (layout == NIB_GL_SM80 ? kernel_of<NIB_GL_SM80, tokens>
                                              : kernel_of<NIB_GL_SM100, tokens>)(dtype, scale,
                                                                                 f16_sums);
    const int  stages = stages_of(wanted, step_bytes<tokens>);
    const dim3 grid((unsigned)(nib_ceil_div(job.m, tokens) * nib_ceil_div(job.stripes, STRIPES)),
                    (unsigned)job.splits);
    NIB_LAUNCH(run, grid, THREADS, (size_t)(stages * step_bytes<tokens>), stream, job,
               stages);
}

template <int layout, int tokens> cudaError_t load(int wanted)
{
    for (int way = 0; way < 6; way++) {
        const kernel k = kernel_of<layout, tokens>(way / 2 == 1 ? NIB_DT_BF16 : NIB_DT_F16, way % 2,
                                                   way / 2 == 2);
        cudaFuncAttributes a; /* this loads k; to set an attribute need not */
        cudaError_t        error = cudaFuncGetAttributes(&a, k);
        if (error == cudaSuccess)
            error = cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         stages_of(wanted, step_bytes<tokens>)
                                             * step_bytes<tokens>);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

template <int layout> cudaError_t load()
{
    const cudaError_t error = load<layout, 32>(NIB_GEMM_TILE32_STAGES);
    return error == cudaSuccess ? load<layout, 64>(NIB_GEMM_TILE64_STAGES) : error;
}

} // namespace

void nib_cuda_gemm_tile(const GemmJob &job, int layout, int dtype, int scale, bool f16_sums,
                        int tokens, cudaStream_t stream)
{
    if (tokens == 32)
        launch<32>(job, layout, dtype, scale, f16_sums, NIB_GEMM_TILE32_STAGES, stream);
    else
        launch<64>(job, layout, dtype, scale, f16_sums, NIB_GEMM_TILE64_STAGES, stream);
    if (job.splits > 1) nib_cuda_gemm_reduce(job, stream);
}

cudaError_t nib_cuda_load_gemm_tile()
{
    const cudaError_t error = load<NIB_GL_SM80>();
    return error == cudaSuccess ? load<NIB_GL_SM100>() : error;
}
