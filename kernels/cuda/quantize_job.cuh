/* quantize_job.cuh: what quantize's kernels are told, and any one block by any rules: the plain
 * way, which the fast kernels take for blocks that are not theirs. */
#ifndef NIB_QUANTIZE_JOB_CUH
#define NIB_QUANTIZE_JOB_CUH

#include "kernels/packed.h"
#include "quantize_codes.cuh"

#ifdef __CUDACC__
#define NIB_NO_UNROLL _Pragma("unroll 1")
#else
#define NIB_NO_UNROLL
#endif

/* A call, as every thread sees it. Pointers are those of the batch's first matrix. */
struct QuantizeJob {
    nib_block_rules rules;
    int             choice, stochastic, bits, halves;
    int             swizzled, backward, aligned32;
    int             given;                /* scales are an input */
    int             lane_shift;           /* log2 of the threads that share a block */
    int             scale_rows;           /* rows that share their blocks' scales: 1 or 16 */
    uint32_t        round;                /* nib_e8m0_round */
    CodeRules       codes_rules;
    const uint8_t  *x;
    uint8_t        *codes, *scales;
    float          *tensor_scale;         /* NULL: the format has none, or it is kept nowhere */
    const float    *tensor_amax;          /* NULL: tensor_scale is an input */
    const uint64_t *random;
    uint64_t        random_skip;          /* counters behind random's offset */
    int64_t         rows, cols, scale_cols;
    int64_t         padded_rows, padded_cols; /* of scales */
    int64_t         x_ld, codes_ld;       /* in bytes */
    int64_t         x_next;               /* from an element of a row to the next, in elements */
    int64_t         count, x_stride, codes_stride, scales_stride, tensor_stride; /* in bytes, but
                                             the last */
    int64_t         row_tiles;            /* of a block of threads' rows */
    /* Of quantize_e2m1: units of 16 elements of a row's whole blocks; tiles of a block of threads,
     * and how far it is from one to the next */
    unsigned        whole_units, turns, row_step;
    int64_t         x_step, codes_step, scales_step;
};

/* The factors of matrix z; rules: the job's, of which the compiler may know some. */
__device__ __forceinline__ nib_tensor_scales tensor_scales(const QuantizeJob &job,
                                                           const nib_block_rules &rules, int64_t z)
{
    const nib_tensor_scales one = { 1.0f, 1.0f };
    if (job.tensor_amax) {
        return nib_tensor_factors(&rules, job.tensor_amax[z * job.tensor_stride]);
    }
    return job.tensor_scale ? nib_tensor_given(job.tensor_scale[z * job.tensor_stride]) : one;
}

/* One thread of all writes the multiplier that follows from amax. */
__device__ __forceinline__ void store_tensor_scale(const QuantizeJob &job, int64_t z, float decode)
{
    const bool mine = blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0 && threadIdx.y == 0;
    if (mine && job.tensor_amax && job.tensor_scale && (job.tensor_stride || z == 0)) {
        job.tensor_scale[z * job.tensor_stride] = decode;
    }
}

/* Where the scale of (row, k) lies: a sum of row's part and k's. Neighbouring threads have
 * neighbouring scales: of linear ones a warp makes one line; of swizzled ones it fills 4 bytes of
 * every line of a tile, which other rows' warps complete in L2, and no exchange between lanes would
 * change how many sectors are written. */
__device__ __forceinline__ int64_t scale_index(const QuantizeJob &job, int64_t row, int64_t k)
{
    const nib_scale_layout layout = job.swizzled ? NIB_SCALES_SWIZZLED_128X4 : NIB_SCALES_LINEAR;
    return nib_scale_index(layout, row, k, job.scale_cols);
}

__device__ __forceinline__ void store_scale(const QuantizeJob &job, int64_t z, int64_t row,
                                            int64_t k, uint32_t byte)
{
    job.scales[z * job.scales_stride + scale_index(job, row, k)] = (uint8_t)byte;
}

/* ---- any block ---- */

/* Elements of a block where they lie: a thread's own array would be in local memory. */
struct BlockSource {
    int         dtype;
    const void *x;
    int64_t     next, ld; /* to the next element, and in bytes to the same of the next row */

    __device__ __forceinline__ float at(int64_t i) const
    {
        return nib_load_f32(dtype, x, i * next);
    }

    __device__ __forceinline__ BlockSource row(int r) const
    {
        return { dtype, (const uint8_t *)x + r * ld, next, ld };
    }
};

/* nib_block_error, whose argument for the elements is a BlockSource here: nib_block_search_by
 * only hands it on. */
__device__ __forceinline__ float block_error(const nib_tensor_math *m, const float *source, int n,
                                             uint32_t byte, int absolute)
{
    const BlockSource *const s = (const BlockSource *)(const void *)source;
    const nib_block_unit unit = nib_block_unit_of(m, byte);
    const float step = nib_block_step(m->rules.e4m3_scale, byte, m->scales.decode);
    float p[8] = { 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f };
    NIB_NO_UNROLL
    for (int i = 0; i < n; i += 8) {
        NIB_UNROLL
        for (int j = 0; j < 8; j++) {
            if (i + j >= n) continue;
            const float x = s->at(i + j);
            if (nib_magnitude_bits(x) >= NIB_F32_INF_BITS) continue;
            const uint32_t code = nib_block_code(m, unit, x, 0, 0);
            const float d = x - nib_block_value(m->rules.element, code, step);
            p[j] += absolute ? nib_abs(d) : d * d;
        }
    }
    return nib_sum8(p);
}

/* nib_random_word without an array that is indexed. */
__device__ __forceinline__ uint32_t random_word(uint64_t seed, uint64_t offset, uint64_t i)
{
    const nib_philox4 p = nib_philox(offset + i / 4, seed);
    const uint32_t low = i & 1 ? p.word[1] : p.word[0], high = i & 1 ? p.word[3] : p.word[2];
    return i & 2 ? high : low;
}

/* Block k of some rows of matrix z, and the scale that they share. */
struct ScaledBlock {
    BlockSource source; /* of the first row */
    int64_t     col;
    int         n;
    bool        is_nan; /* the rules let an element that is not finite spoil it */
    uint32_t    byte;
};

/* What the compiler knows of a block that is done the plain way. */
enum Plain {
    PLAIN_USUAL,  /* nearest rounding, the scale from amax, codes in pairs */
    PLAIN_RANDOM, /* stochastic rounding, the scale from amax, codes in pairs */
    PLAIN_SEARCH, /* nearest rounding, codes in pairs */
    PLAIN_GIVEN,  /* nearest rounding, the scale given, codes in pairs */
    PLAIN_ANY
};

/* math: of rules some of which the compiler may know. choice: of the scale, if there is one.
 * source: n elements of each of so many rows, 1 where the scale is searched. */
template <Plain plain>
__device__ __forceinline__ ScaledBlock scaled_source(const nib_tensor_math &math,
                                                     const BlockSource &source, int rows,
                                                     int64_t col, int n, int choice)
{
    constexpr bool usual = plain == PLAIN_USUAL || plain == PLAIN_RANDOM;
    uint32_t most = 0;
    bool     special = false;
    NIB_NO_UNROLL
    for (int r = 0; r < rows; r++) {
        const BlockSource of_row = source.row(r);
        NIB_NO_UNROLL
        for (int i = 0; i < n; i++) {
            const uint32_t magnitude = nib_magnitude_bits(of_row.at(i));
            if (magnitude >= NIB_F32_INF_BITS) special = true;
            else most = magnitude > most ? magnitude : most;
        }
    }
    const bool     is_nan = special && math.rules.nonfinite == NIB_NF_NAN;
    const float    amax = nib_float_of(most);
    const uint32_t byte = is_nan ? nib_scale_nan_byte(math.rules.e4m3_scale)
                        : usual  ? nib_block_scale(&math, amax)
                                 : nib_block_search_by(&math, choice,
                                                       (const float *)(const void *)&source, n,
                                                       amax, block_error);
    return { source, col, n, is_nan, byte };
}

/* Block k of rows from row on, without its scale. */
__device__ __forceinline__ ScaledBlock block_at(const QuantizeJob &job, const nib_tensor_math &math,
                                                int64_t z, int64_t row, int64_t k)
{
    const int     dtype = math.rules.source, size = dtype == NIB_DT_F32 ? 4 : 2;
    const int64_t col = k * job.rules.block, left = job.cols - col;
    const int     n = left < job.rules.block ? (int)left : job.rules.block;
    const BlockSource source = { dtype, job.x + z * job.x_stride + row * job.x_ld
                                            + col * job.x_next * size, job.x_next, job.x_ld };
    return { source, col, n, false, 0 };
}

/* rows: from row on. */
template <Plain plain>
__device__ __forceinline__ ScaledBlock scaled_block(const QuantizeJob &job,
                                                    const nib_tensor_math &math, int64_t z,
                                                    int64_t row, int rows, int64_t k, int choice)
{
    const ScaledBlock at = block_at(job, math, z, row, k);
    return scaled_source<plain>(math, at.source, rows, at.col, at.n, choice);
}

/* The random words of a block's elements: matrices of a batch begin with a counter of their own. */
struct BlockRandom {
    uint64_t seed, offset, first;
};

__device__ __forceinline__ BlockRandom block_random(const QuantizeJob &job, int64_t z, int64_t row,
                                                    int64_t col)
{
    const uint64_t elements = (uint64_t)job.rows * (uint64_t)job.cols;
    return { job.random[0], job.random[1] + job.random_skip + (uint64_t)z * ((elements + 3) / 4),
             (uint64_t)row * (uint64_t)job.cols + (uint64_t)col };
}

/* Codes of row r of those that share a scale. */
template <Plain plain>
__device__ __forceinline__ void quantize_row(const QuantizeJob &job, const nib_tensor_math &math,
                                             const ScaledBlock &block, int64_t z, int64_t row,
                                             int r)
{
    const bool stochastic = plain == PLAIN_RANDOM || (plain == PLAIN_ANY && job.stochastic);
    const bool halves = plain == PLAIN_ANY && job.halves;
    const BlockSource source = block.source.row(r);
    const int  bits = nib_element_traits_of(math.rules.element).bits, n = block.n;
    const bool is_nan = block.is_nan;
    uint8_t   *out = job.codes + z * job.codes_stride + (row + r) * job.codes_ld
                 + block.col / 8 * bits;
    const nib_block_unit none = { 0.0f, 0 };
    const nib_block_unit unit = is_nan ? none : nib_block_unit_of(&math, block.byte);

    BlockRandom random = {};
    if (stochastic) random = block_random(job, z, row + r, block.col);
    uint32_t pending = 0; /* bits that wait for a byte to be whole */
    int      held = 0;
    NIB_NO_UNROLL
    for (int s = 0; s < n; s++) {
        const int   i = halves ? s / 2 + s % 2 * (n / 2) : s;
        const float x = source.at(i);
        uint32_t    code = 0; /* a block whose scale is NaN has no values */
        if (!is_nan && stochastic) {
            code = nib_block_code(&math, unit, x, 1,
                                  random_word(random.seed, random.offset,
                                              random.first + (uint64_t)i));
        } else if (!is_nan) {
            code = nib_block_code(&math, unit, x, 0, 0);
        }
        pending |= code << held;
        held += bits;
        if (held >= 8) *out++ = (uint8_t)pending, pending >>= 8, held -= 8;
    }
    if (held) *out = (uint8_t)pending;
}

/* Block k of a row by the scale that it was given. */
__device__ __forceinline__ ScaledBlock given_block(const QuantizeJob &job,
                                                   const nib_tensor_math &math, int64_t z,
                                                   int64_t row, int64_t k)
{
    ScaledBlock block = block_at(job, math, z, row, k);
    block.byte = nib_scale_given(math.rules.e4m3_scale,
                                 job.scales[z * job.scales_stride + scale_index(job, row, k)]);
    block.is_nan = block.byte == nib_scale_nan_byte(math.rules.e4m3_scale);
    return block;
}

/* Block k of so many rows from row on, which share a scale. */
template <Plain plain>
__device__ __forceinline__ void quantize_block(const QuantizeJob &job, const nib_tensor_math &math,
                                               int64_t z, int64_t row, int rows, int64_t k,
                                               int choice)
{
    const bool given = plain == PLAIN_GIVEN || (plain == PLAIN_ANY && job.given);
    const ScaledBlock block = given ? given_block(job, math, z, row, k)
                                    : scaled_block<plain>(job, math, z, row, rows, k, choice);
    NIB_NO_UNROLL
    for (int r = 0; r < rows; r++) {
        if (!given) store_scale(job, z, row + r, k, block.byte);
        quantize_row<plain>(job, math, block, z, row, r);
    }
}

/* Rows of the tile that begins at row. */
__device__ __forceinline__ int tile_rows(const QuantizeJob &job, int64_t row)
{
    const int64_t left = job.rows - row;
    return left < job.scale_rows ? (int)left : job.scale_rows;
}

#endif
