/* quantize_e2m1.cuh: the kernel of E2M1 blocks, 16 elements a thread.
 *
 * Blocks of 32 are two lanes' of a warp, which exchange their largest magnitude. What a warp loads,
 * it loads in whole sectors. Blocks at a row's ragged end, with NaN or Inf, or with a divisor out
 * of the ordinary, are done by one thread the plain way.
 */
#ifndef NIB_QUANTIZE_E2M1_CUH
#define NIB_QUANTIZE_E2M1_CUH

#include "quantize_search.cuh"

/* Where a block's scale comes from, and how its codes are rounded. */
enum Kind {
    KIND_AMAX,
    KIND_SQUARE, /* the amax of 16 rows */
    KIND_RANDOM, /* amax; codes by stochastic rounding */
    KIND_MSE,
    KIND_FOUR_OVER_SIX_MSE,
    KIND_FOUR_OVER_SIX_MAE,
    KIND_GIVEN,  /* scales are an input */
    KINDS
};


/* A block of threads with KIND_SQUARE: each warp has two units of 16 rows. */
enum { NIB_SQUARE_WIDTH = NIB_QUANTIZE_THREADS / 16, NIB_SQUARE_HEIGHT = 16 };

constexpr int quantize_blocks_per_sm(int dtype, int way, int kind)
{
    const int is_heavy = dtype == NIB_DT_F32 || way == WAY_DIVIDE || way == WAY_MX_ANY;
    const int divides = way == WAY_DIVIDE && (kind > KIND_MSE || dtype == NIB_DT_F32);
    return kind == KIND_AMAX || kind == KIND_GIVEN ? NIB_QUANTIZE_PER_SM - is_heavy
         : kind == KIND_SQUARE ? NIB_QUANTIZE_SQUARE_PER_SM
         : kind == KIND_MSE && way != WAY_MX ? NIB_QUANTIZE_MSE_PER_SM - divides
                               : NIB_QUANTIZE_SEARCH_PER_SM - divides;
}

/* Codes of 16 finite elements; element i takes word i % 4 of counter + i / 4. The four counters go
 * through the generator together, which share its keys. */
template <int dtype>
__device__ __forceinline__ uint2 random_codes(const Unit<dtype> &x, float factor, uint64_t seed,
                                              uint64_t counter)
{
    const nib_element_traits t = nib_element_traits_of(NIB_EL_E2M1);
    nib_philox4 random[4];
    NIB_UNROLL
    for (uint32_t i = 0; i < 4; i++) random[i] = nib_philox_counter(counter + i, 0);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    NIB_UNROLL
    for (int round = 0; round < NIB_PHILOX_ROUNDS; round++) {
        NIB_UNROLL
        for (int i = 0; i < 4; i++) random[i] = nib_philox_round(random[i], k0, k1);
        k0 += NIB_PHILOX_KEY0, k1 += NIB_PHILOX_KEY1;
    }
    uint32_t words[2] = { 0, 0 };
    NIB_UNROLL
    for (int i = 0; i < 16; i++) {
        const uint32_t code = nib_encode_stochastic(t, fabsf(x.at(i) * factor),
                                                    random[i / 4].word[i % 4]);
        words[i / 8] |= code << (4 * (i % 8));
    }
    return make_uint2(words[0] | x.template signs<false>(0), words[1] | x.template signs<false>(8));
}

/* x       rows of 16-byte aligned units of 16 elements; KIND_RANDOM: cols a multiple of 4
 * codes   8-byte aligned: 8 bytes of each unit are one store
 * grid    x: units of a row, y: job.turns tiles of a block of threads' rows, one behind the other,
 *         z: matrices, which go on by strides
 *
 * All threads of a block take every turn of the loops, since lanes exchange amax. */
template <int dtype, int way, int kind>
__global__ void __launch_bounds__(NIB_QUANTIZE_THREADS, quantize_blocks_per_sm(dtype, way, kind))
quantize_e2m1(const __grid_constant__ QuantizeJob job)
{
    NIB_SHARED(TensorShared, tensor, );
    NIB_SHARED(Candidates, table, );
    constexpr bool has_tensor = way == WAY_TE || way == WAY_DIVIDE;
    constexpr int  choice = kind == KIND_MSE ? NIB_SC_MSE
                          : kind == KIND_FOUR_OVER_SIX_MSE ? NIB_SC_46_MSE
                          : kind == KIND_FOUR_OVER_SIX_MAE ? NIB_SC_46_MAE : NIB_SC_AMAX;
    constexpr bool is_square = kind == KIND_SQUARE, is_given = kind == KIND_GIVEN;
    constexpr bool chooses = kind == KIND_FOUR_OVER_SIX_MSE || kind == KIND_FOUR_OVER_SIX_MAE;
    constexpr bool searches = kind == KIND_MSE || chooses;
    constexpr bool has_table = searches && has_tensor;
    const unsigned lane = threadIdx.x;
    const unsigned width = is_square ? (unsigned)NIB_SQUARE_WIDTH : blockDim.x;
    const unsigned unit = blockIdx.x * width + (is_square ? threadIdx.y * 2 + lane % 2 : lane);
    const unsigned height = is_square ? (unsigned)NIB_SQUARE_HEIGHT : blockDim.y;
    const unsigned k = unit >> job.lane_shift;
    const bool     leads = k << job.lane_shift == unit;
    const unsigned rows = k < (unsigned)job.scale_cols ? (unsigned)job.rows : 0; /* with blocks */
    const unsigned whole_rows = unit < job.whole_units ? rows : 0;
    const unsigned last = (unsigned)job.row_tiles - 1;
    nib_tensor_math math = known_math<way, dtype>(job);

    for (unsigned matrix = blockIdx.z; matrix < (unsigned)job.count; matrix += gridDim.z) {
        /* The amax pass has left the end of the last matrix in L2: begin there. */
        const unsigned z = job.backward ? (unsigned)job.count - 1 - matrix : matrix;
        const unsigned first = blockIdx.y * job.turns, tile = job.backward ? last - first : first;
        unsigned       row = tile * height + (is_square ? lane / 2 : threadIdx.y); /* past either
                                                                                  end: no row */
        const uint8_t *x_rd = job.x + z * job.x_stride + row * job.x_ld
                            + (int64_t)unit * (4 * Unit<dtype>::words);
        uint8_t *codes_wr = job.codes + z * job.codes_stride + row * job.codes_ld
                          + (int64_t)unit * 8;
        uint8_t *scale_wr = job.scales + z * job.scales_stride
                          + scale_index(job, job.swizzled ? 0 : row, k);
        for (unsigned turn = 0; turn < job.turns;
             turn++, row += job.row_step, x_rd += job.x_step,
                     codes_wr += job.codes_step, scale_wr += job.scales_step) {
            Unit<dtype> x = {};
            if (row < whole_rows) x.load(x_rd, job.aligned32);
            if (has_tensor && turn == 0) share_tensor(job, math.rules, z, tensor);
            if (has_tensor) use_tensor(math, tensor);
            if (has_table && turn == 0) share_candidates<way>(math, table);
            uint32_t most = x.amax();
            if (job.lane_shift) most = max(most, __shfl_xor_sync(~0u, most, 1));
            if (is_square) {
                NIB_UNROLL
                for (int other = 2; other < 32; other *= 2) {
                    most = max(most, __shfl_xor_sync(~0u, most, other));
                }
            }
            const auto place_scale = [&] { /* and a zero where there is no row */
                uint8_t *const at = scale_wr + (job.swizzled ? scale_index(job, row, 0) : 0);
                if (!is_given && row >= rows && leads && row < (unsigned)job.padded_rows
                    && k < (unsigned)job.padded_cols) {
                    *at = 0;
                }
                return at;
            };
            uint8_t *to = nullptr;
            if (!searches) to = place_scale();
            if (!searches && row >= rows) continue;
            const float amax = Unit<dtype>::amax_value(most);
            float       factor = 0.0f, inverse = 0.0f;
            uint32_t    byte = is_given ? nib_scale_given(has_tensor, *to)
                                        : block_byte<way>(job, math, amax);
            uint2       words;
            bool        ordinary = row < whole_rows && most < Unit<dtype>::inf;
            if (is_given) ordinary = ordinary && byte != nib_scale_nan_byte(has_tensor);
            if constexpr (searches) {
                const bool pair = job.lane_shift, some = ordinary && amax > 0.0f;
                bool       exact = true;
                uint32_t   best;
                if constexpr (chooses) {
                    best = four_over_six<way, kind == KIND_FOUR_OVER_SIX_MAE>(
                        job, math, table, x, byte, amax, pair, words, exact);
                } else if constexpr (way == WAY_MX) {
                    best = search_e8m0(math, x, byte, amax, pair);
                } else {
                    best = search_e4m3<way>(math, table, x, byte, amax, some, pair, exact);
                }
                if (some) byte = best, ordinary = exact;
            }
            if (searches) to = place_scale(); /* the search needs the registers */
            if (searches && row >= rows) continue;
            if constexpr (has_table) factor = candidate_of<way>(math, table, byte).factor;
            else factor = block_factor<way>(math, byte);
            if (way == WAY_DIVIDE) {
                ordinary = ordinary && nib_quotient_is_exact(dtype, amax, factor);
                inverse = 1.0f / factor;
            }
            if (!ordinary) {
                const int shared = is_square ? tile_rows(job, row) : 1;
                if (leads && (!is_square || lane < 2)) {
                    constexpr Plain plain = searches ? PLAIN_SEARCH : is_given ? PLAIN_GIVEN
                                          : kind == KIND_RANDOM ? PLAIN_RANDOM : PLAIN_USUAL;
                    quantize_block<plain>(job, math, z, row, shared, k, choice);
                }
                continue;
            }
            if (leads && !is_given) *to = (uint8_t)byte;
            constexpr int codes = way == WAY_DIVIDE ? CODES_DIVIDED
                                : way == WAY_MX_ANY ? CODES_ANY : CODES_PLAIN;
            if constexpr (chooses) {
                /* words are made */
            } else if constexpr (kind == KIND_RANDOM) {
                const uint64_t at = ((uint64_t)z * (uint64_t)job.rows + row) * (uint64_t)job.cols
                                  + (uint64_t)unit * 16;
                words = random_codes(x, factor, job.random[0], job.random[1] + at / 4);
            } else {
                words.x = codes8<codes>(x, 0, factor, inverse, job.codes_rules);
                words.y = codes8<codes>(x, 8, factor, inverse, job.codes_rules);
            }
            *(uint2 *)codes_wr = words;
        }
    }
}

/* ---- launching ---- */

typedef void (*quantize_kernel)(QuantizeJob);

/* The kernels that quantize_kinds_cuda.cu has: all but KIND_AMAX's. NULL: there is none. */
quantize_kernel nib_cuda_quantize_kind(int kind, int dtype, int way);

#endif
