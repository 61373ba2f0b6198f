/* packed.h: a format and its request unpacked, and one block's bytes in and out. What kernels/cpu
 * and kernels/cuda share beside kernels/common, which knows nothing of the public types. */
#ifndef NIB_PACKED_H
#define NIB_PACKED_H

#include <assert.h>

#include "kernels/backend.h"
#include "kernels/common/layout.h"
#include "kernels/common/observe.h"
#include "kernels/common/search.h"

enum { NIB_MAX_BLOCK = 128 };

/* kernels/common repeats the public enums' values, since it includes nothing. */
static_assert(NIB_EL_E2M1 == (int)NIB_E2M1 && NIB_EL_E2M3 == (int)NIB_E2M3
              && NIB_EL_E3M2 == (int)NIB_E3M2 && NIB_EL_E4M3 == (int)NIB_E4M3
              && NIB_EL_E5M2 == (int)NIB_E5M2, "elements");
static_assert(NIB_DT_F32 == (int)NIB_F32 && NIB_DT_F16 == (int)NIB_F16
              && NIB_DT_BF16 == (int)NIB_BF16, "dtypes");
static_assert(NIB_T_ENCODE == (int)NIB_TENSOR_ENCODE && NIB_T_DECODE == (int)NIB_TENSOR_DECODE
              && NIB_T_SOURCE == (int)NIB_TENSOR_SOURCE, "tensor rules");
static_assert(NIB_B_FOLDED == (int)NIB_BLOCK_FOLDED && NIB_B_DIVIDE == (int)NIB_BLOCK_DIVIDE
              && NIB_B_TWO_STEP == (int)NIB_BLOCK_TWO_STEP, "block rules");
static_assert(NIB_E_RECIPROCAL == (int)NIB_ELEMENT_RECIPROCAL
              && NIB_E_DIVIDE == (int)NIB_ELEMENT_DIVIDE
              && NIB_E_DIVIDE_ENC == (int)NIB_ELEMENT_DIVIDE_ENC, "element rules");
static_assert(NIB_MX_RULE_RCEIL == (int)NIB_MX_RCEIL && NIB_MX_RULE_FLOOR == (int)NIB_MX_FLOOR
              && NIB_MX_RULE_EVEN == (int)NIB_MX_EVEN && NIB_MX_RULE_CEIL == (int)NIB_MX_CEIL
              && NIB_MX_RULE_RCEIL_LOG2 == (int)NIB_MX_RCEIL_LOG2
              && NIB_MX_RULE_FLOOR_LOG2 == (int)NIB_MX_FLOOR_LOG2
              && NIB_MX_RULE_EVEN_SOURCE == (int)NIB_MX_EVEN_SOURCE, "mx rules");
static_assert(NIB_TIE_EVEN == (int)NIB_TIES_EVEN && NIB_TIE_DOWN == (int)NIB_TIES_DOWN, "ties");
static_assert(NIB_Z_KEEP == (int)NIB_ZERO_KEEP && NIB_Z_INPUT == (int)NIB_ZERO_INPUT
              && NIB_Z_POSITIVE == (int)NIB_ZERO_POSITIVE
              && NIB_Z_MODELOPT == (int)NIB_ZERO_MODELOPT
              && NIB_Z_SOURCE == (int)NIB_ZERO_SOURCE, "zero rules");
static_assert(NIB_NF_SATURATE == (int)NIB_NONFINITE_SATURATE
              && NIB_NF_NAN == (int)NIB_NONFINITE_NAN, "nonfinite rules");
static_assert(NIB_SC_AMAX == (int)NIB_SCALE_AMAX && NIB_SC_MSE == (int)NIB_SCALE_MSE
              && NIB_SC_MSE_FULL == (int)NIB_SCALE_MSE_FULL
              && NIB_SC_46_MSE == (int)NIB_SCALE_FOUR_OVER_SIX_MSE
              && NIB_SC_46_MAE == (int)NIB_SCALE_FOUR_OVER_SIX_MAE, "scale choices");

/* The parts of a format: see nib_format. */
NIB_HD int nib_part_element(nib_format f) { return (int)(f & 0xff); }
NIB_HD int nib_part_e4m3_scale(nib_format f)
{
    return (int)(f >> 8 & 0xf) == (int)NIB_SCALE_E4M3;
}
NIB_HD int nib_part_has_tensor_scale(nib_format f) { return (int)(f >> 12 & 0xf); }
NIB_HD int nib_part_block(nib_format f) { return (int)(f >> 16 & 0xfff); }

NIB_HD int nib_part_bits(nib_format f)
{
    return nib_element_traits_of(nib_part_element(f)).bits;
}

NIB_HD nib_block_rules nib_block_rules_of(nib_format f, const nib_rules *rules,
                                          nib_scale_choice choice, nib_dtype source)
{
    const int four_over_six = choice == NIB_SCALE_FOUR_OVER_SIX_MSE
                           || choice == NIB_SCALE_FOUR_OVER_SIX_MAE;
    nib_block_rules r;
    r.element = nib_part_element(f);
    r.e4m3_scale = nib_part_e4m3_scale(f);
    r.has_tensor_scale = nib_part_has_tensor_scale(f);
    r.block = nib_part_block(f);
    r.tensor = (int)rules->tensor;
    r.block_scale = (int)rules->block;
    r.factor = (int)rules->element;
    r.mx = (int)rules->mx;
    r.ties = (int)rules->ties;
    r.zero_sign = (int)rules->zero_sign;
    r.nonfinite = (int)rules->nonfinite;
    r.source = (int)source;
    r.e4m3_zero = rules->e4m3_zero;
    r.e4m3_min = rules->e4m3_min;
    r.scale_max = four_over_six ? NIB_FOUR_OVER_SIX_MAX : 448.0f;
    return r;
}

/* Multiplier of a packed matrix: 1 when it has none, or none that is finite and positive. */
NIB_HD float nib_packed_decode(const nib_packed *p)
{
    return p->tensor_scale ? nib_tensor_given(*p->tensor_scale).decode : 1.0f;
}

NIB_HD int64_t nib_scale_index(nib_scale_layout layout, int64_t row, int64_t k,
                               int64_t scale_cols)
{
    return layout == NIB_SCALES_LINEAR ? row * scale_cols + k
                                       : nib_swizzle_128x4(row, k, scale_cols);
}

/* Bytes of n codes of the given width. */
NIB_HD int64_t nib_code_bytes(int bits, int64_t n)
{
    return n / 8 * bits + (n % 8 * bits + 7) / 8;
}

/* n codes of a block to its bytes. codes has zeros from n up to the next multiple of 4.
 * halves: 4 bits in GGUF's order, where n is the whole block. */
NIB_HD void nib_pack_codes(int bits, int halves, const uint8_t *codes, int n, uint8_t *dst)
{
    if (bits == 8) {
        memcpy(dst, codes, (size_t)n);
    } else if (bits == 4 && halves) {
        for (int j = 0; j < n / 2; j++) dst[j] = (uint8_t)(codes[j] | codes[j + n / 2] << 4);
    } else if (bits == 4) {
        for (int j = 0; j < (n + 1) / 2; j++) {
            dst[j] = (uint8_t)(codes[2 * j] | codes[2 * j + 1] << 4);
        }
    } else {
        const int64_t bytes = nib_code_bytes(6, n);
        for (int64_t j = 0; j < bytes; j += 3) {
            const uint8_t *c = codes + j / 3 * 4;
            const uint32_t word = c[0] | (uint32_t)c[1] << 6 | (uint32_t)c[2] << 12
                                | (uint32_t)c[3] << 18;
            for (int64_t b = j; b < j + 3 && b < bytes; b++) {
                dst[b] = (uint8_t)(word >> 8 * (b - j));
            }
        }
    }
}

NIB_HD void nib_unpack_codes(int bits, int halves, const uint8_t *src, int n, uint8_t *codes)
{
    if (bits == 8) {
        memcpy(codes, src, (size_t)n);
    } else if (bits == 4 && halves) {
        for (int j = 0; j < n / 2; j++) {
            codes[j] = src[j] & 15;
            codes[j + n / 2] = src[j] >> 4;
        }
    } else if (bits == 4) {
        for (int j = 0; j < n; j++) codes[j] = src[j / 2] >> 4 * (j % 2) & 15;
    } else {
        for (int j = 0; j < n; j++) {
            const int64_t byte = nib_six_bit_byte(j), shift = nib_six_bit_shift(j);
            const uint32_t next = shift > 2 ? (uint32_t)src[byte + 1] << 8 : 0;
            codes[j] = (uint8_t)((src[byte] | next) >> shift & 63);
        }
    }
}

/* Rows begin .. end - 1; a matrix without any has no data either. */
static inline nib_matrix nib_matrix_rows(const nib_matrix *m, int64_t begin, int64_t end)
{
    nib_matrix part = *m;
    const int64_t size = m->dtype == NIB_F32 ? 4 : 2;
    part.rows = end - begin;
    if (m->data) part.data = (uint8_t *)m->data + begin * m->ld_elems * size;
    return part;
}

/* Numbers of tokens of two Hessians; UINT64_MAX: not counted. */
NIB_HD uint64_t nib_tokens_sum(uint64_t a, uint64_t b)
{
    return a == UINT64_MAX || b == UINT64_MAX ? UINT64_MAX : a + b;
}

/* ---- a tensor's statistics ---- */

static_assert(NIB_PIECE == (int)NIB_OBSERVE_PIECE && NIB_PARTIALS == (int)NIB_OBSERVE_PARTIALS
              && sizeof(nib_stats_partial) == (size_t)NIB_OBSERVE_PARTIAL_BYTES
              && NIB_HISTOGRAM_BINS == (int)NIB_OBSERVE_BINS, "backend.h's sizes");

/* *to += *part. Until there is a finite element, the range is not one. */
NIB_HD void nib_tensor_stats_merge(nib_tensor_stats *to, const nib_tensor_stats *part)
{
    const int is_first = to->elements == to->nonfinite;
    const int has_any = part->elements != part->nonfinite;
    for (int i = 0; i < 2 && has_any; i++) {
        to->range[i] = is_first ? part->range[i] : nib_range_merged(to->range[i], part->range[i]);
    }
    to->elements += part->elements;
    to->nonfinite += part->nonfinite;
    to->clipped += part->clipped;
    to->zeroed += part->zeroed;
    to->sum += part->sum;
    to->sum_sq += part->sum_sq;
    to->sum_sq_error += part->sum_sq_error;
}

#endif
