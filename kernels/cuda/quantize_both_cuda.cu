/* quantize_both_cuda.cu: a matrix and its transpose in one pass.
 *
 * A block of threads takes a tile of 128 rows of 128 bytes: 64 columns of halves, 32 of f32. It
 * loads units of 16 elements of rows, leaves them in shared memory, and takes from there units of
 * 16 elements of columns; of halves a thread takes two columns at once, whose words it splits. Both
 * kinds of units are quantized as quantize_e2m1 does it, and each row of either output gets whole
 * sectors of codes.
 *
 *   a row of the tile: 8 chunks of 16 bytes; chunk c of row r lies at c ^ chunk_swap(r)
 *   rows     8 neighbouring lanes store 8 different chunks, of two or four rows
 *   columns  a half-warp reads 16 neighbouring words of row r, the other of row r + 16: 32 banks
 *
 * Whole blocks in both directions, aligned: all else is done by quantize's kernels, in two passes.
 */
#include "ops_cuda.cuh"
#include "quantize_ways.cuh"

struct BothJob {
    QuantizeJob row, column;
    int         has_row, is_square; /* is_square: tiles of 16 x 16 share a scale */
    int         tiles_across;
    int64_t     tiles;
};

enum { TILE_ROWS = 128, ROW_CHUNKS = 8, THREADS = 256 };

__device__ __forceinline__ unsigned chunk_swap(unsigned r) { return (r & 3) ^ (r >> 2 & 4); }

/* A unit of an output: codes, and the scale by the thread that leads. most: its block's, or that of
 * all rows that share the scale; first: of those. */
template <int way, int dtype>
__device__ __forceinline__ void quantize_unit(const QuantizeJob &job, const nib_tensor_math &math,
                                              const Unit<dtype> &x, uint32_t most, int64_t row,
                                              int64_t unit, bool leads, bool first)
{
    const int64_t  k = unit >> job.lane_shift;
    const float    amax = Unit<dtype>::amax_value(most);
    float          factor;
    const uint32_t byte = block_scale<way>(job, math, amax, factor);
    if (most >= Unit<dtype>::inf) {
        if (leads && first) {
            quantize_block<PLAIN_USUAL>(job, math, 0, row, job.scale_rows, k, NIB_SC_AMAX);
        }
        return;
    }
    if (leads) store_scale(job, 0, row, k, byte);
    uint2 words;
    words.x = codes8<CODES_PLAIN>(x, 0, factor, 0.0f, job.codes_rules);
    words.y = codes8<CODES_PLAIN>(x, 8, factor, 0.0f, job.codes_rules);
    *(uint2 *)(job.codes + row * job.codes_ld + unit * 8) = words;
}

__device__ __forceinline__ void set_scales(nib_tensor_math &math, const TensorShared &tensor)
{
    math.scales.encode = tensor.encode, math.scales.decode = tensor.decode;
    math.folded = tensor.folded, math.denominator = tensor.denominator;
    math.inverse = tensor.inverse;
}

template <int dtype, int way>
__global__ void __launch_bounds__(THREADS, NIB_BOTH_PER_SM)
quantize_both(const __grid_constant__ BothJob job)
{
    NIB_SHARED(TensorShared, row_tensor, );
    NIB_SHARED(TensorShared, column_tensor, );
    NIB_SHARED(uint4, chunks, [TILE_ROWS * ROW_CHUNKS]);
    NIB_SHARED(uint32_t, tile_most, [TILE_ROWS / 16][4]); /* of 16 x 16 */
    constexpr int words = Unit<dtype>::words, units = 32 / words; /* of a row of the tile */
    constexpr int own = TILE_ROWS * units / THREADS, in_word = dtype == NIB_DT_F32 ? 1 : 2;
    constexpr int tile_cols = 16 * units;
    const unsigned t = threadIdx.x, lane = t % 32, warp = t / 32;
    const int64_t  tile = job.column.backward ? job.tiles - 1 - blockIdx.x : blockIdx.x;
    const int64_t  row0 = tile / job.tiles_across * TILE_ROWS;
    const int64_t  col0 = tile % job.tiles_across * tile_cols;
    const int64_t  rows = job.column.cols, cols = job.column.rows; /* of src */
    const bool     is_square = job.is_square, pair = job.column.lane_shift;
    nib_tensor_math math = known_math<way, dtype>(job.column);

    Unit<dtype> x[own];
    NIB_UNROLL
    for (int i = 0; i < own; i++) {
        const unsigned r = (t + i * THREADS) / units, u = t % units;
        x[i] = {};
        if (row0 + r < rows && col0 + 16 * u < cols) {
            x[i].load(job.row.x + (row0 + r) * job.row.x_ld + (col0 * 4 / in_word)
                          + (int64_t)u * (4 * words), job.row.aligned32);
        }
        NIB_UNROLL
        for (unsigned c = 0; c < words / 4; c++) {
            chunks[r * ROW_CHUNKS + ((u * (words / 4) + c) ^ chunk_swap(r))] =
                make_uint4(x[i].word[4 * c], x[i].word[4 * c + 1], x[i].word[4 * c + 2],
                           x[i].word[4 * c + 3]);
        }
    }
    if (way == WAY_TE) {
        if (job.has_row) share_tensor(job.row, math.rules, 0, row_tensor);
        share_tensor(job.column, math.rules, 0, column_tensor);
        set_scales(math, column_tensor);
    }
    __syncthreads();

    /* Columns: 16 rows of a word, whose elements are in_word columns. */
    const unsigned group = warp / 2 * 2 + lane / 16, word = warp % 2 * 16 + lane % 16;
    const int64_t  unit = row0 / 16 + group;
    uint32_t       down[16];
    NIB_UNROLL
    for (unsigned i = 0; i < 16; i++) {
        const unsigned r = group * 16 + i;
        down[i] = ((const uint32_t *)chunks)[(r * ROW_CHUNKS + (word / 4 ^ chunk_swap(r))) * 4
                                             + word % 4];
    }
    Unit<dtype> column[in_word];
    uint32_t    most[in_word], both = 0;
    NIB_UNROLL
    for (int c = 0; c < in_word; c++) {
        NIB_UNROLL
        for (int i = 0; i < words; i++) {
            column[c].word[i] = in_word == 1 ? down[i]
                              : __byte_perm(down[2 * i % 16], down[(2 * i + 1) % 16],
                                            c ? 0x7632 : 0x5410);
        }
        most[c] = column[c].amax();
        if (pair) most[c] = max(most[c], __shfl_xor_sync(~0u, most[c], 16));
        both = max(both, most[c]);
    }
    if (is_square) {
        NIB_UNROLL
        for (int other = 1; other < 16 / in_word; other *= 2) {
            both = max(both, __shfl_xor_sync(~0u, both, other));
        }
        if (word % (16 / in_word) == 0) tile_most[group][word / (16 / in_word)] = both;
    }
    NIB_UNROLL
    for (int c = 0; c < in_word; c++) {
        const int64_t col = col0 + word * in_word + c;
        if (unit * 16 < rows && col < cols) {
            quantize_unit<way>(job.column, math, column[c], is_square ? both : most[c], col, unit,
                               !pair || group % 2 == 0, !is_square || col % 16 == 0);
        }
    }
    if (!job.has_row) return;
    if (is_square) __syncthreads();
    if (way == WAY_TE) set_scales(math, row_tensor);
    NIB_UNROLL
    for (int i = 0; i < own; i++) {
        const unsigned r = (t + i * THREADS) / units, u = t % units;
        uint32_t       of_row = is_square ? tile_most[r / 16][u] : x[i].amax();
        if (pair) of_row = max(of_row, __shfl_xor_sync(~0u, of_row, 1));
        if (row0 + r < rows && col0 + 16 * u < cols) {
            quantize_unit<way>(job.row, math, x[i], of_row, row0 + r, col0 / 16 + u,
                               !pair || u % 2 == 0, !is_square || r % 16 == 0);
        }
    }
}

/* ---- launching ---- */

typedef void (*both_kernel)(BothJob);

static both_kernel kernel_of(int dtype, int way)
{
    static const both_kernel kernels[3][2] = {
#define ROW(dtype) { quantize_both<dtype, WAY_TE>, quantize_both<dtype, WAY_MX> }
        ROW(NIB_DT_F32), ROW(NIB_DT_F16), ROW(NIB_DT_BF16)
#undef ROW
    };
    return way == WAY_TE ? kernels[dtype][0] : way == WAY_MX ? kernels[dtype][1] : nullptr;
}

/* The kernel of one pass, if it knows this. */
static both_kernel fast_kernel(const BothJob *job)
{
    const QuantizeJob *c = &job->column, *r = &job->row;
    const int block = c->rules.block, way = way_of(&c->rules);
    const bool is_fast = way >= 0 && c->rules.element == NIB_EL_E2M1 && (block == 16 || block == 32)
                      && c->choice == NIB_SC_AMAX && !c->stochastic && !c->halves
                      && c->rows % block == 0 && c->cols % block == 0 && c->rows && c->cols
                      && (c->scale_rows == 1 || block == 16) && aligned(r->x, r->x_ld, 0, 16)
                      && aligned(c->codes, c->codes_ld, 0, 8)
                      && (!job->has_row || (!r->halves && aligned(r->codes, r->codes_ld, 0, 8)))
                      && job->tiles <= INT32_MAX && job->tiles_across > 0;
    return is_fast ? kernel_of(c->rules.source, way) : nullptr;
}

/* The kernel writes no padding. */
static nib_status zero_padding(const nib_launch *launch, const QuantizeJob *job)
{
    if (job->padded_rows == job->rows && job->padded_cols == job->scale_cols) return NIB_OK;
    const cudaError_t error = cudaMemsetAsync(job->scales, 0,
                                              (size_t)(job->padded_rows * job->padded_cols),
                                              (cudaStream_t)launch->stream);
    return error == cudaSuccess ? NIB_OK : nib_cuda_failed(launch->why, "quantize_both", error);
}

static BothJob job_of(const nib_matrix *src, const nib_quantize_request *request,
                      const nib_packed *rowwise, const nib_packed *columnwise)
{
    const nib_batch one = { (uint32_t)sizeof one, 1, 0, 0, 0, 0 };
    const int       tile_cols = src->dtype == NIB_F32 ? 32 : 64;
    BothJob         job = {};
    job.column = nib_cuda_quantize_job(&one, src, request, columnwise, true);
    nib_packed none = *columnwise; /* of src's shape, for its source */
    none.rows = columnwise->cols, none.cols = columnwise->rows;
    job.row = nib_cuda_quantize_job(&one, src, request, rowwise ? rowwise : &none, false);
    job.has_row = rowwise != nullptr;
    job.is_square = job.column.scale_rows > 1;
    job.column.lane_shift = job.row.lane_shift = job.column.rules.block == 32;
    const int64_t across = nib_ceil_div(src->cols, tile_cols);
    job.tiles_across = across <= INT32_MAX ? (int)across : 0;
    job.tiles = job.tiles_across ? across * nib_ceil_div(src->rows, TILE_ROWS) : 0;
    return job;
}

nib_status nib_cuda_quantize_both(const nib_launch *launch, const nib_matrix *src,
                                  const nib_quantize_request *request, const nib_packed *rowwise,
                                  const nib_packed *columnwise)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    BothJob            job = job_of(src, request, rowwise, columnwise);
    if (!nib_cuda_quantize_has(launch, &job.column)) return NIB_ERR_UNSUPPORTED;
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_QUANTIZE));
    NIB_CUDA_TRY(nib_cuda_quantize_check(launch, &job.column));
    if (rowwise) NIB_CUDA_TRY(nib_cuda_quantize_check(launch, &job.row));
    if (const both_kernel kernel = fast_kernel(&job)) {
        NIB_CUDA_TRY(zero_padding(launch, &job.column));
        if (rowwise) NIB_CUDA_TRY(zero_padding(launch, &job.row));
        NIB_LAUNCH(kernel, (unsigned)job.tiles, THREADS, 0, stream, job);
    } else {
        if (rowwise) nib_cuda_quantize_launch(&job.row, stream);
        nib_cuda_quantize_launch(&job.column, stream);
    }
    return nib_cuda_end(launch, "quantize_both");
}

cudaError_t nib_cuda_load_both()
{
    cudaFuncAttributes attributes;
    for (int dtype = NIB_DT_F32; dtype <= NIB_DT_BF16; dtype++) {
        for (const int way : { WAY_TE, WAY_MX }) {
            const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel_of(dtype, way));
            if (error != cudaSuccess) return error;
        }
    }
    return cudaSuccess;
}
