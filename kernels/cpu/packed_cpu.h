/* packed_cpu.h: a format and its request unpacked, and one block's bytes in and out. */
#ifndef NIB_PACKED_CPU_H
#define NIB_PACKED_CPU_H

#include "kernels/backend.h"
#include "kernels/common/layout.h"
#include "kernels/common/search.h"

enum { NIB_MAX_BLOCK = 128 };

/* kernels/common repeats the public enums' values, since it includes nothing. */
_Static_assert(NIB_EL_E2M1 == (int)NIB_E2M1 && NIB_EL_E2M3 == (int)NIB_E2M3
               && NIB_EL_E3M2 == (int)NIB_E3M2 && NIB_EL_E4M3 == (int)NIB_E4M3
               && NIB_EL_E5M2 == (int)NIB_E5M2, "elements");
_Static_assert(NIB_DT_F32 == (int)NIB_F32 && NIB_DT_F16 == (int)NIB_F16
               && NIB_DT_BF16 == (int)NIB_BF16, "dtypes");
_Static_assert(NIB_T_ENCODE == (int)NIB_TENSOR_ENCODE && NIB_T_DECODE == (int)NIB_TENSOR_DECODE
               && NIB_T_SOURCE == (int)NIB_TENSOR_SOURCE, "tensor rules");
_Static_assert(NIB_B_FOLDED == (int)NIB_BLOCK_FOLDED && NIB_B_DIVIDE == (int)NIB_BLOCK_DIVIDE
               && NIB_B_TWO_STEP == (int)NIB_BLOCK_TWO_STEP, "block rules");
_Static_assert(NIB_E_RECIPROCAL == (int)NIB_ELEMENT_RECIPROCAL
               && NIB_E_DIVIDE == (int)NIB_ELEMENT_DIVIDE
               && NIB_E_DIVIDE_ENC == (int)NIB_ELEMENT_DIVIDE_ENC, "element rules");
_Static_assert(NIB_MX_RULE_RCEIL == (int)NIB_MX_RCEIL && NIB_MX_RULE_FLOOR == (int)NIB_MX_FLOOR
               && NIB_MX_RULE_EVEN == (int)NIB_MX_EVEN && NIB_MX_RULE_CEIL == (int)NIB_MX_CEIL
               && NIB_MX_RULE_RCEIL_LOG2 == (int)NIB_MX_RCEIL_LOG2, "mx rules");
_Static_assert(NIB_TIE_EVEN == (int)NIB_TIES_EVEN && NIB_TIE_DOWN == (int)NIB_TIES_DOWN, "ties");
_Static_assert(NIB_Z_KEEP == (int)NIB_ZERO_KEEP && NIB_Z_INPUT == (int)NIB_ZERO_INPUT
               && NIB_Z_POSITIVE == (int)NIB_ZERO_POSITIVE
               && NIB_Z_MODELOPT == (int)NIB_ZERO_MODELOPT, "zero rules");
_Static_assert(NIB_NF_SATURATE == (int)NIB_NONFINITE_SATURATE
               && NIB_NF_NAN == (int)NIB_NONFINITE_NAN, "nonfinite rules");
_Static_assert(NIB_SC_AMAX == (int)NIB_SCALE_AMAX && NIB_SC_MSE == (int)NIB_SCALE_MSE
               && NIB_SC_MSE_FULL == (int)NIB_SCALE_MSE_FULL
               && NIB_SC_46_MSE == (int)NIB_SCALE_FOUR_OVER_SIX_MSE
               && NIB_SC_46_MAE == (int)NIB_SCALE_FOUR_OVER_SIX_MAE, "scale choices");

/* The parts of a format: see nib_format. */
static inline int nib_part_element(nib_format f) { return (int)(f & 0xff); }
static inline int nib_part_e4m3_scale(nib_format f) { return (f >> 8 & 0xf) == NIB_SCALE_E4M3; }
static inline int nib_part_has_tensor_scale(nib_format f) { return (int)(f >> 12 & 0xf); }
static inline int nib_part_block(nib_format f) { return (int)(f >> 16 & 0xfff); }

static inline int nib_part_bits(nib_format f)
{
    return nib_element_traits_of(nib_part_element(f)).bits;
}

static inline nib_block_rules nib_block_rules_of(nib_format f, const nib_rules *rules,
                                                 nib_scale_choice choice, nib_dtype source)
{
    const int four_over_six = choice == NIB_SCALE_FOUR_OVER_SIX_MSE
                           || choice == NIB_SCALE_FOUR_OVER_SIX_MAE;
    const nib_block_rules r = {
        .element = nib_part_element(f),
        .e4m3_scale = nib_part_e4m3_scale(f),
        .has_tensor_scale = nib_part_has_tensor_scale(f),
        .block = nib_part_block(f),
        .tensor = (int)rules->tensor,
        .block_scale = (int)rules->block,
        .factor = (int)rules->element,
        .mx = (int)rules->mx,
        .ties = (int)rules->ties,
        .zero_sign = (int)rules->zero_sign,
        .nonfinite = (int)rules->nonfinite,
        .source = (int)source,
        .e4m3_zero = rules->e4m3_zero,
        .e4m3_min = rules->e4m3_min,
        .scale_max = four_over_six ? NIB_FOUR_OVER_SIX_MAX : 448.0f,
    };
    return r;
}

/* Multiplier of a packed matrix: 1 when it has none, or none that is finite and positive. */
static inline float nib_packed_decode(const nib_packed *p)
{
    return p->tensor_scale ? nib_tensor_given(*p->tensor_scale).decode : 1.0f;
}

static inline int64_t nib_scale_index(nib_scale_layout layout, int64_t row, int64_t k,
                                      int64_t scale_cols)
{
    return layout == NIB_SCALES_LINEAR ? row * scale_cols + k
                                       : nib_swizzle_128x4(row, k, scale_cols);
}

/* Bytes of n codes of the given width. */
static inline int64_t nib_code_bytes(int bits, int64_t n)
{
    return n / 8 * bits + (n % 8 * bits + 7) / 8;
}

/* n codes of a block to its bytes. codes has zeros from n up to the next multiple of 4.
 * halves: 4 bits in GGUF's order, where n is the whole block. */
static inline void nib_pack_codes(int bits, int halves, const uint8_t *codes, int n, uint8_t *dst)
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

static inline void nib_unpack_codes(int bits, int halves, const uint8_t *src, int n, uint8_t *codes)
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

#endif
