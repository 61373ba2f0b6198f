/* integers.c: see integers.h. */
#include "host/io/integers.h"

#include <float.h>
#include <math.h>
#include <string.h>

int64_t nib_integers_words(int bits, int64_t n)
{
    const int64_t each = 32 / bits;
    return n / each + (n % each != 0);
}

/* What turns the sign bits of a byte of codes, q in two's complement, into q - lo. */
static uint8_t signs(int bits) { return bits == 4 ? 0x88 : 0x80; }

static int64_t code_bytes(int bits, int64_t cols) { return bits == 4 ? (cols + 1) / 2 : cols; }

void nib_integers_pack(int bits, const uint8_t *codes, int64_t cols, uint8_t *words)
{
    const int64_t n = code_bytes(bits, cols), all = nib_integers_words(bits, cols) * 4;
    for (int64_t i = 0; i < n; i++) words[i] = codes[i] ^ signs(bits);
    if (bits == 4 && cols % 2) words[n - 1] &= 15;
    memset(words + n, 0, (size_t)(all - n));
}

void nib_integers_unpack(int bits, const uint8_t *words, int64_t cols, uint8_t *codes)
{
    const int64_t n = code_bytes(bits, cols);
    for (int64_t i = 0; i < n; i++) codes[i] = words[i] ^ signs(bits);
}

void nib_integers_pack_zeros(int bits, const int8_t *zeros, int64_t rows, int64_t groups,
                             uint8_t *words)
{
    const int each = 32 / bits, half = 1 << (bits - 1);
    for (int64_t w = 0; w < nib_integers_words(bits, rows); w++)
        for (int64_t g = 0; g < groups; g++) {
            uint32_t word = 0;
            for (int64_t j = 0; j < each && w * each + j < rows; j++)
                word |= (uint32_t)(zeros[(w * each + j) * groups + g] + half) << bits * j;
            memcpy(words + (w * groups + g) * 4, &word, sizeof word);
        }
}

int8_t nib_integers_zero(int bits, const uint8_t *words, int64_t groups, int64_t row,
                         int64_t group)
{
    const int each = 32 / bits, half = 1 << (bits - 1);
    uint32_t word;
    memcpy(&word, words + (row / each * groups + group) * 4, sizeof word);
    return (int8_t)((int)(word >> bits * (row % each) & ((1u << bits) - 1)) - half);
}

int64_t nib_integers_groups(nib_format format, int64_t cols)
{
    const int64_t group = nib_int_format_group(format);
    return group ? cols / group + (cols % group != 0) : 1;
}

/* ---- panels ---- */

nib_packed_steps nib_integers_of(const nib_panel *p)
{
    const nib_format f = p->item->way.format;
    const nib_step_element element = nib_int_format_element(f);
    const int64_t cols = p->item->src->cols, group = nib_int_format_group(f);
    const nib_tensor_type type = p->item->stored;
    return (nib_packed_steps){
        .size = sizeof(nib_packed_steps), .element = element,
        .asymmetric = nib_int_format_asymmetric(f), .rows = p->n, .cols = cols,
        .step_rule = type == NIB_TT_BF16 ? NIB_STEP_BF16 : type == NIB_TT_F16 ? NIB_STEP_F16
                                                                              : NIB_STEP_F32,
        .group = group ? group : (cols + 7) / 8 * 8, .codes = p->buffers->codes,
        .ld_codes_bytes = nib_step_codes_row_bytes(element, cols), .steps = p->buffers->steps,
        .zeros = nib_int_format_asymmetric(f) ? p->buffers->zeros : NULL,
        .divisor = NIB_STEP_OF_HALF
    };
}

enum { LANES = 8 };

/* Figures of the elements i with i % LANES == l, which a compiler can take together. */
typedef struct lanes {
    double  error[LANES], square[LANES];
    float   most[LANES]; /* error */
    int32_t nonfinite[LANES], flushed[LANES], saturated[LANES];
} lanes;

/* LANES elements x, of which v is stored; least and most are what can be. */
static void measure_lanes(const float *x, const float *v, float least, float most, lanes *s)
{
    for (int l = 0; l < LANES; l++) {
        const int finite = fabsf(x[l]) <= FLT_MAX;
        const float a = finite ? x[l] : 0.0f, d = finite ? x[l] - v[l] : 0.0f;
        s->nonfinite[l] += !finite;
        s->flushed[l] += (v[l] == 0.0f) & (a != 0.0f);
        s->saturated[l] += ((v[l] == most) & (a > most)) | ((v[l] == least) & (a < least));
        s->most[l] = fabsf(d) > s->most[l] ? fabsf(d) : s->most[l];
        s->error[l] += (double)d * (double)d;
        s->square[l] += (double)a * (double)a;
    }
}

static double sum8(const double *p)
{
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

/* A group of n elements. */
static void measure_group(const float *x, const float *v, int64_t n, float least, float most,
                          nib_quantize_report *e)
{
    lanes s = { 0 };
    float last[2][LANES] = { 0 };
    const int64_t whole = n / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) measure_lanes(x + i, v + i, least, most, &s);
    for (int64_t i = whole; i < n; i++) last[0][i - whole] = x[i], last[1][i - whole] = v[i];
    measure_lanes(last[0], last[1], least, most, &s); /* zeros change nothing */
    for (int l = 0; l < LANES; l++) {
        e->nonfinite += (uint64_t)s.nonfinite[l];
        e->flushed += (uint64_t)s.flushed[l];
        e->saturated += (uint64_t)s.saturated[l];
        if ((double)s.most[l] > e->max_error) e->max_error = (double)s.most[l];
    }
    e->sum_sq_error += sum8(s.error);
    e->sum_sq += sum8(s.square);
}

static void count_codes(const nib_packed_steps *p, nib_quantize_report *e)
{
    const int nibbles = p->element == NIB_INT4;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t i = 0; i < p->cols; i++) {
            const uint8_t byte = p->codes[r * p->ld_codes_bytes + (nibbles ? i / 2 : i)];
            e->code_count[nibbles ? (byte >> i % 2 * 4 & 15) ^ 8 : byte ^ 0x80]++;
        }
}

nib_status nib_integers_measure(const nib_panel *p, const nib_matrix *m,
                                const nib_packed_steps *packed, nib_quantize_report *e)
{
    const int64_t cols = packed->cols, half = (int64_t)1 << (packed->element - 17);
    const int64_t groups = nib_integers_groups(p->item->way.format, cols);
    const nib_matrix values = { p->buffers->blocks, NIB_F32, packed->rows, cols, cols };
    const float *v = values.data, *x = m->data;
    NIB_TRY(nib_dequantize_steps(p->exec, packed, &values));
    if (m->dtype != NIB_F32) {
        nib_scalar_cpu.to_f32(m->dtype, m->data, m->rows * cols, p->buffers->rows);
        x = p->buffers->rows;
    }
    for (int64_t i = 0; i < packed->rows * groups; i++) {
        const int64_t first = i % groups * packed->group, left = cols - first;
        const int64_t at = i / groups * cols + first, n = left < packed->group ? left
                                                                               : packed->group;
        const int64_t z = packed->zeros ? packed->zeros[i] : 0;
        measure_group(x + at, v + at, n, (float)(-half - z) * packed->steps[i],
                      (float)(half - 1 - z) * packed->steps[i], e);
    }
    e->elements += (uint64_t)(packed->rows * cols);
    if (!e->without_counts) count_codes(packed, e);
    return NIB_OK;
}

nib_status nib_integers_put(const nib_panel *p, const nib_packed_steps *packed,
                            nib_integers_write *write, void *context)
{
    const int bits = (int)packed->element - 16;
    const int64_t row_bytes = nib_integers_words(bits, packed->cols) * 4;
    const int64_t groups = nib_integers_groups(p->item->way.format, packed->cols);
    const int64_t steps = packed->rows * groups;
    const nib_tensor_type type = p->item->stored;
    const nib_dtype dtype = type == NIB_TT_BF16 ? NIB_BF16 : type == NIB_TT_F16 ? NIB_F16 : NIB_F32;
    const int64_t size = dtype == NIB_F32 ? 4 : 2;
    uint8_t *to = p->buffers->blocks;
    for (int64_t r = 0; r < packed->rows; r++)
        nib_integers_pack(bits, packed->codes + r * packed->ld_codes_bytes, packed->cols,
                          to + r * row_bytes);
    NIB_TRY(write(context, NIB_ROLE_CODES, (uint64_t)(p->first * row_bytes), to,
                  (uint64_t)(packed->rows * row_bytes)));
    nib_scalar_cpu.from_f32(dtype, packed->steps, steps, to);
    NIB_TRY(write(context, NIB_ROLE_SCALES, (uint64_t)(p->first * groups * size), to,
                  (uint64_t)(steps * size)));
    if (!packed->zeros) return NIB_OK;
    nib_integers_pack_zeros(bits, packed->zeros, packed->rows, groups, to);
    return write(context, NIB_ROLE_ZEROS,
                 (uint64_t)(nib_integers_words(bits, p->first) * groups * 4), to,
                 (uint64_t)(nib_integers_words(bits, packed->rows) * groups * 4));
}
