/* quantize_block.h: the scale and the codes of one block in plain C, which compilers make vectors
 * of. */
#ifndef NIB_QUANTIZE_BLOCK_H
#define NIB_QUANTIZE_BLOCK_H

#include "quantize_cpu.h"

enum { LANES = 8 }; /* of the inner loops, whose fixed length lets compilers use vectors */

/* Loads n elements as f32, with zeros behind them up to a multiple of LANES, into x. */
static inline __attribute__((always_inline)) void load_block(int dtype, const void *data, int n,
                                                             float *x)
{
    for (int i = n / LANES * LANES; i < (n + LANES - 1) / LANES * LANES; i++) x[i] = 0.0f;
    if (dtype == NIB_DT_F32) {
        memcpy(x, data, (size_t)n * sizeof *x);
    } else if (dtype == NIB_DT_BF16) {
        const uint16_t *h = data;
        for (int i = 0; i < n; i++) x[i] = nib_bf16_to_f32(h[i]);
    } else {
        const uint16_t *h = data;
        for (int i = 0; i < n; i++) x[i] = nib_f16_to_f32(h[i]);
    }
}

/* Largest magnitude among finite elements, as bits; *special is set when another was seen. */
static inline __attribute__((always_inline)) uint32_t block_amax(const float *x, int n,
                                                                 int *special)
{
    int32_t lanes[LANES] = { 0 }, all = 0;
    for (int i = 0; i < n; i += LANES) {
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            const int32_t bits = (int32_t)nib_magnitude_bits(x[i + j]);
            lanes[j] = bits > lanes[j] ? bits : lanes[j];
        }
    }
    for (int j = 0; j < LANES; j++) all = lanes[j] > all ? lanes[j] : all;
    *special = (uint32_t)all >= NIB_F32_INF_BITS;
    if (!*special) return (uint32_t)all;
    uint32_t a = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t bits = nib_magnitude_bits(x[i]);
        if (bits < NIB_F32_INF_BITS && bits > a) a = bits;
    }
    return a;
}

/* nib_block_code of finite x, nearest even, the input's sign. */
static inline __attribute__((always_inline)) void
plain_codes(nib_element_traits t, float factor, int divide, const float *x, int n, uint8_t *codes)
{
    const int whole = (n + LANES - 1) / LANES * LANES;
#pragma omp simd
    for (int i = 0; i < whole; i++) {
        const float scaled = divide ? x[i] / factor : x[i] * factor;
        const uint32_t number = 0u - (uint32_t)!nib_is_nan(scaled); /* 0 / 0 becomes 0 */
        const uint32_t y = nib_bits_of(scaled) & number;
        codes[i] = (uint8_t)(nib_encode_nearest(t, nib_float_of(y & 0x7fffffffu))
                             | y >> 31 << (t.bits - 1));
    }
}

/* What the elements of a block have to do with each other. */
typedef struct block_scale {
    uint32_t byte;
    int      special; /* there are NaN or Inf */
    int      is_nan;  /* so is the scale, and the block has no values */
} block_scale;

/* Of elements whose largest finite magnitude has these bits. math is a copy whose fields the
 * compiler may know. x, n: read by a search alone. */
static inline __attribute__((always_inline)) block_scale
scale_of_amax(const nib_tensor_math *math, int choice, const float *x, int n, uint32_t bits,
              int special)
{
    const float amax = nib_float_of(bits);
    block_scale s = { .special = special };
    s.is_nan = special && math->rules.nonfinite == NIB_NF_NAN;
    s.byte = s.is_nan ? nib_scale_nan_byte(math->rules.e4m3_scale)
           : choice == NIB_SC_AMAX ? nib_block_scale(math, amax)
                                   : nib_block_search(math, choice, x, n, amax);
    return s;
}

/* x: as load_block leaves it. */
static inline __attribute__((always_inline)) block_scale
scale_of_block(const nib_tensor_math *math, int choice, const float *x, int n)
{
    int special;
    const uint32_t bits = block_amax(x, n, &special);
    return scale_of_amax(math, choice, x, n, bits, special);
}

/* Of block k, whose byte is given. */
static inline block_scale given_scale(const nib_quantize_job *job, int64_t row, int64_t k,
                                      const float *x, int n)
{
    block_scale s = { .byte = nib_given_byte(job, row, k) };
    (void)block_amax(x, n, &s.special);
    s.is_nan = s.byte == nib_scale_nan_byte(job->math.rules.e4m3_scale);
    return s;
}

/* The scale of rows of blocks of n elements of dtype, ld bytes apart. */
static inline block_scale scale_of_tile(const nib_tensor_math *math, int dtype, const void *from,
                                        int64_t ld, int rows, int n)
{
    uint32_t most = 0;
    int special = 0;
    for (int r = 0; r < rows; r++) {
        float x[NIB_MAX_BLOCK];
        int is_special;
        load_block(dtype, (const uint8_t *)from + r * ld, n, x);
        const uint32_t bits = block_amax(x, n, &is_special);
        if (bits > most) most = bits;
        special |= is_special;
    }
    return scale_of_amax(math, NIB_SC_AMAX, NULL, 0, most, special);
}

/* Codes by this scale of a block whose first element is number first of the matrix. plain: ties to
 * even, the input's sign, nearest. Codes without a scale are written as 0. */
static inline __attribute__((always_inline)) void
codes_of_block(const nib_quantize_job *job, const nib_tensor_math *math, int plain,
               block_scale scale, uint64_t first, const float *x, int n, uint8_t *codes)
{
    const nib_element_traits t = nib_element_traits_of(math->rules.element);
    const nib_block_unit unit = scale.is_nan ? (nib_block_unit){ 0.0f, 0 }
                                             : nib_block_unit_of(math, scale.byte);
    if (scale.is_nan) {
        memset(codes, 0, (size_t)n);
    } else if (job->stochastic && !plain) {
        for (int i = 0; i < n; i++) {
            const uint32_t word = nib_random_word(job->seed, job->offset, first + (uint64_t)i);
            codes[i] = (uint8_t)nib_block_code(math, unit, x[i], 1, word);
        }
    } else if (plain && !scale.special && !unit.divide) {
        plain_codes(t, unit.factor, 0, x, n, codes);
    } else if (plain && !scale.special) {
        plain_codes(t, unit.factor, 1, x, n, codes);
    } else {
        for (int i = 0; i < n; i++) codes[i] = (uint8_t)nib_block_code(math, unit, x[i], 0, 0);
    }
}

/* Block k of a row: n elements, as load_block leaves them, by this scale. */
static inline __attribute__((always_inline)) void
store_block(const nib_quantize_job *job, const nib_tensor_math *math, int plain, block_scale scale,
            int64_t row, int64_t k, const float *x, int n)
{
    const int bits = nib_element_traits_of(math->rules.element).bits;
    const int64_t col = k * math->rules.block;
    uint8_t codes[NIB_MAX_BLOCK];
    const uint64_t first = (uint64_t)row * (uint64_t)job->dst->cols + (uint64_t)col;
    codes_of_block(job, math, plain, scale, first, x, n, codes);
    for (int i = n; i < (n + 3) / 4 * 4; i++) codes[i] = 0;
    uint8_t *out = job->dst->codes + row * job->dst->ld_codes_bytes + col / 8 * bits;
    nib_pack_codes(bits, job->dst->code_order == NIB_CODES_GGUF_HALVES, codes, n, out);
    if (!job->given) nib_quantize_store_scale(job, row, k, scale.byte);
}

/* Number of the named formats' element and scale type if the request is plain, else -1. */
static inline int plain_kind(const nib_quantize_job *job)
{
    const nib_block_rules *r = &job->math.rules;
    const int plain = job->choice == NIB_SC_AMAX && !job->stochastic && r->ties == NIB_TIE_EVEN
                   && r->zero_sign == NIB_Z_KEEP;
    return plain ? r->element * 2 + r->e4m3_scale : -1;
}

#endif
