/* gemm_fixture.h: one product of gemm.h: its inputs, what f64 makes of them, the bound that the
 * header states, and a run on a device. Formats are decoded by the test's own rules. */
#ifndef NIB_TEST_GEMM_FIXTURE_H
#define NIB_TEST_GEMM_FIXTURE_H

#include "nibble/gemm.h"
#include "tests/device_case.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

extern const nib_format gemm_formats[4];

/* 1 if the runner's backend has products. */
int gemm_is_offered(const runner *r);

/* Few ways to compute: CUDA's one, or of the CPU portable, AVX2 and AVX-512, 1 and more threads. */
enum { GEMM_RUNNERS = 5 };
int gemm_runners(const runner *list[GEMM_RUNNERS]);

/* The i-th tactic's name, in static memory; NULL past the last. */
const char *gemm_tactic_name(const runner *r, const nib_gemm_options *o, int32_t i);

/* ---- weights ---- */

/* N x K packed weights in the host's memory, in the order that a source may have. */
typedef struct gemm_source {
    nib_packed p;
    float      tensor_scale;
    int64_t    codes_bytes, scales_bytes;
    double    *w; /* N x K: element * block scale; gemm_source_decode */
} gemm_source;

enum gemm_fill {
    GEMM_TAME, /* scales near 1 */
    GEMM_WIDE, /* E4M3: any byte but NaN, negative ones and 0 too; E8M0: 2^-20 to 2^20 */
    GEMM_FULL  /* E8M0: any byte but NaN; E4M3 as GEMM_WIDE */
};

/* Random, in the given order. gap: bytes between rows of codes. */
gemm_source gemm_source_make(nib_format format, int64_t n, int64_t k, nib_code_order order,
                             nib_scale_layout layout, int64_t gap, enum gemm_fill fill);
void gemm_source_free(gemm_source *s);
void gemm_source_decode(gemm_source *s); /* again, after a change of its bytes */
uint8_t *gemm_source_scale(gemm_source *s, int64_t row, int64_t block);
void gemm_source_put(gemm_source *s, int64_t row, int64_t col, uint8_t code);
double gemm_tensor_scale(const gemm_source *s); /* what a product is multiplied by */

/* Weights where a runner computes. */
typedef struct gemm_pack {
    nib_gemm_weights w;
    buffer           codes, scales, tensor_scale;
} gemm_pack;

gemm_pack gemm_pack_new(const runner *r, nib_gemm_layout layout, const nib_packed *like,
                        int32_t gated, float tensor_scale); /* not yet packed */
gemm_pack gemm_pack_of(const runner *r, const gemm_source *s, int32_t gated); /* device's layout */
void      gemm_pack_free(gemm_pack *p);

/* nib_gemm_pack of a source in the host's memory into *w, which has its buffers. */
nib_status gemm_pack_into(const runner *r, const gemm_source *s, const nib_gemm_weights *w);

/* ---- products ---- */

typedef struct gemm_case {
    nib_gemm_options o;
    int64_t          m;
    int64_t          gap;      /* rows of a, d and residual lie so many times 16 bytes apart (CPU:
                                  elements) beyond their length */
    int              alpha, bias, residual, in_place; /* whether there is one */
    size_t           off;      /* bytes by which a, d and residual are off an alignment of 256 */
    int              tame;     /* activations: small integers */
    double           shrink;   /* activations times this power of two; 0: as they are */
    const char      *label;
} gemm_case;

typedef struct gemm_inputs {
    int64_t a_ld, d_ld, columns;
    uint8_t *a, *bias, *residual; /* of their dtypes; rows with gaps */
    float    alpha;
} gemm_inputs;

gemm_inputs gemm_inputs_make(const gemm_case *c);
void        gemm_inputs_free(gemm_inputs *x);

double gemm_number(nib_dtype dtype, const void *data, int64_t i);
void   gemm_put_number(nib_dtype dtype, void *data, int64_t i, double value); /* representable */

/* D's rows with their gaps, or NULL where a call failed; the rest of the memory is checked. bytes:
 * of d, for comparisons. */
uint8_t *gemm_run(const runner *r, const gemm_case *c, const gemm_source *s, const gemm_pack *p,
                  const gemm_inputs *x, size_t *bytes);

/* Element (m, column) of D in f64, and how far from it the header allows D to be. */
typedef struct gemm_answer { double value, bound; } gemm_answer;
gemm_answer gemm_exact(const gemm_case *c, const gemm_source *s, const gemm_inputs *x, int64_t m,
                       int64_t column);

/* Equal, or as near as the bound says; where the exact value is NaN or Inf, that; past the largest
 * number of the type, Inf. */
int gemm_is_within(nib_dtype dtype, double got, gemm_answer right);

/* Runs the case on r and holds each element to its bound. */
void gemm_check(const runner *r, const gemm_case *c, const gemm_source *s);
void gemm_check_with(const runner *r, const gemm_case *c, const gemm_source *s,
                     const gemm_inputs *x);

/* What a case is, for messages; static memory of the thread. */
const char *gemm_text(const runner *r, const gemm_case *c);

nib_gemm_options gemm_options(nib_format format, int64_t n, int64_t k, int64_t m_max,
                              nib_dtype a_dtype, nib_dtype d_dtype);

#endif
