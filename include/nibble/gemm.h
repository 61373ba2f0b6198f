/* gemm.h: activations times packed FP4 weights, W4A16.
 *
 *     y[m,n] = alpha * t * sum over k of A[m,k] * W[n,k]      W[n,k] = element(code) * block scale
 *     D[m,n] = act(y[m,n] + bias[n]) + residual[m,n]           t: the tensor scale, 1 without one
 *
 *     gated:  D[m,j] = act(y[m,j] + bias[j]) * (y[m,N/2+j] + bias[N/2+j]) + residual[m,j]
 *
 * A is M x K, D is M x N (gated: M x N/2), W is N x K. Weights are packed once, by nib_gemm_pack;
 * a plan, made once by nib_gemm_plan_make, chooses a kernel for each M at run; nib_gemm runs one.
 *
 * Formats: NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16. N and K are multiples of 8, gated N
 * of 16; the last block of a row may be short; M is anything from 0.
 *
 * All that quantize.h says of exec, matrices, memory and asynchrony holds here too: nib_gemm,
 * nib_gemm_backward, nib_gemm_pack and nib_gemm_unpack are asynchronous, nothing is allocated. In a
 * graph, the first product of a kind may return NIB_ERR_NOT_PREPARED: nib_prepare, device.h.
 * Outputs must not overlap inputs, but D may be residual.
 *
 * Numbers. Products and sums are f32 (NIB_GEMM_ACCUMULATE_F32), then alpha, t, bias, activation and
 * residual are applied in f32, and D is rounded once, nearest even, overflow to Inf. alpha and t
 * are never applied to anything already rounded to 16 bits. Before the activation,
 *
 *     |y - exact| <= |alpha t| * ((K + 64) * 2^-23 * sum |A W| + sum |A| u[n,k]) + 2^-22 * |y|
 *
 * while no partial sum, doubled, leaves f32's range, with u = 0 but for E8M0 scales: there a
 * block whose scale is 2^23 or more times smaller than E, the largest of its row's blocks that
 * are not all 0, has u <= 2^-22 E, since weights go through f16; with F16 accumulation one 2^17
 * or more times smaller has u <= 2^-16 E. With bf16 or f32 activations u <= 2^-60 E. A row's Inf
 * and NaN activations spoil that row of D and no other; so does a NaN scale its column. A tensor
 * scale that is not finite and > 0 counts as 1.
 *
 * Bits. A plan's results are the same from run to run and, for one kernel and shape, on every
 * stream; they differ between backends, kernels and architectures within the bound. With
 * batch_invariant a row of D depends on its row of A alone: not on M, nor on the other rows.
 *
 * Literature: Marlin, arXiv:2408.11743, for weights in the order of the tensor cores' fragments;
 * NVFP4, arXiv:2509.25149; OCP Microscaling Formats v1.0; GLU variants, arXiv:2002.05202.
 */
#ifndef NIBBLE_GEMM_H
#define NIBBLE_GEMM_H

#include "nibble/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- packed weights ---- */

/* One order of bytes serves every kernel of a family; kernels/common/gemm_layout.h draws them. */
typedef enum nib_gemm_layout {
    NIB_GEMM_LAYOUT_AUTO  = 0, /* the device's own */
    NIB_GEMM_LAYOUT_CPU   = 1, /* tiles of  8 rows x 32 columns */
    NIB_GEMM_LAYOUT_SM80  = 2, /* tiles of 64 rows x 64 columns: Ampere, Ada, Hopper */
    NIB_GEMM_LAYOUT_SM100 = 3  /* the same tiles, codes in the order of hardware's cvt: Blackwell */
} nib_gemm_layout;             /* append-only */

enum { NIB_GEMM_LAYOUT_VERSION = 2 }; /* of the bytes; a pack of another version is refused */

/* What a pack is. A plain value without a header in the bytes: it is stored with them. All but the
 * pointers come from nib_gemm_describe. */
typedef struct nib_gemm_weights {
    uint32_t        size;           /* sizeof(nib_gemm_weights) */
    nib_gemm_layout layout;
    uint32_t        layout_version; /* NIB_GEMM_LAYOUT_VERSION */
    nib_format      format;
    int64_t         n, k;           /* of the weights that are in it */
    int32_t         gated;          /* 1: rows j and N/2 + j lie together */
    int64_t         ld_tiles;       /* tiles from one row of tiles to the next */
    uint8_t        *codes;          /* nib_gemm_codes_bytes, 16-byte aligned; products with layout
                                       SM100: 32 */
    uint8_t        *scales;         /* nib_gemm_scales_bytes, 16-byte aligned; layout CPU: 8 */
    float          *tensor_scale;   /* as nib_packed's */
    int64_t         reserved[2];    /* 0 */
} nib_gemm_weights;

/* Fills in *w for N x K weights: all but its three pointers, which become NULL.
 *
 *   device  says what NIB_GEMM_LAYOUT_AUTO means; NULL if layout is another
 *
 * Returns NIB_ERR_ARGUMENT for w NULL, an unknown layout, an invalid format, gated not 0 or 1, or
 * device NULL with AUTO; NIB_ERR_UNSUPPORTED for a format that is none of the four; NIB_ERR_SHAPE
 * for N or K that is negative or breaks its multiple, or a pack over INT64_MAX bytes. */
nib_status nib_gemm_describe(const nib_device *device, nib_gemm_layout layout, nib_format format,
                             int64_t n, int64_t k, int32_t gated, nib_gemm_weights *w);

/* Bytes of the two buffers, whole tiles: up(N, R) * up(K, C) / 2 of codes for tiles of R x C, and
 * up(N, R) * up(K, C) / block of scales. A slice's are those from its first tile to its last.
 * -1 for a *w that nib_gemm_describe would not make. */
int64_t nib_gemm_codes_bytes(const nib_gemm_weights *w);
int64_t nib_gemm_scales_bytes(const nib_gemm_weights *w);

/* Reorders a packed matrix into w, exactly. Padding is written as zeros.
 *
 *   src  N x K, any code order and scale layout; gated: rows 0..N/2-1 the gate, N/2..N-1 the other
 *   w    described for src's format and size, with buffers; its tensor_scale is not touched: it is
 *        src's pointer, or a copy of its value
 *
 * In place: w->codes may be src->codes and w->scales src->scales, each if src's rows lie without
 * gaps, its scales are linear and it is not gated; the buffers then have nib_gemm_..._bytes and
 * exec's workspace nib_gemm_pack_workspace_bytes. src is destroyed. A layout may be packed where
 * it is not used: the CPU packs for every GPU.
 *
 * Also returns NIB_ERR_ARGUMENT for a NULL pointer or one buffer in place and the other not,
 * NIB_ERR_SHAPE if sizes differ or w is a slice that does not hold them, NIB_ERR_ALIGNMENT for
 * buffers not aligned as nib_gemm_weights says, NIB_ERR_UNSUPPORTED if formats differ, for another
 * layout version, or for in place where that is not possible; NIB_ERR_OUT_OF_MEMORY for too small a
 * workspace. */
nib_status nib_gemm_pack(const nib_exec *exec, const nib_packed *src, const nib_gemm_weights *w);

/* Workspace of nib_gemm_pack in place: a row of tiles, more is faster. 0 out of place. */
size_t nib_gemm_pack_workspace_bytes(const nib_gemm_weights *w);

/* dst = the weights that kernels multiply by, times the tensor scale: element * scale, both f32,
 * times t in f32, rounded once to dst's dtype. dst: N x K in src's order of rows. For tests, and
 * for whoever needs the weights back. Returns as nib_gemm_pack. */
nib_status nib_gemm_unpack(const nib_exec *exec, const nib_gemm_weights *w, const nib_matrix *dst);

/* *part = rows n0 .. n0 + n - 1 and columns k0 .. k0 + k - 1 of *whole, in the same memory: bit for
 * bit the pack of that slice of the weights, as tensor parallelism needs. n0 and k0 begin a tile,
 * and the slice ends with one or with the matrix. Of a gated pack n0 and n count both halves: the
 * slice has rows n0/2 ... of each; on the CPU it begins and ends with an even tile. Copying its
 * bytes with a smaller ld_tiles is allowed. Host memory, any thread.
 * Returns NIB_ERR_ARGUMENT for NULL; what nib_gemm_describe returns, or NIB_ERR_UNSUPPORTED for
 * another layout version, for a *whole that it would not make; NIB_ERR_SHAPE for a slice outside it
 * or off the tiles. */
nib_status nib_gemm_slice(const nib_gemm_weights *whole, int64_t n0, int64_t n, int64_t k0,
                          int64_t k, nib_gemm_weights *part);

/* ---- plans ---- */

typedef enum nib_gemm_accumulate {
    NIB_GEMM_ACCUMULATE_F32 = 0,
    NIB_GEMM_ACCUMULATE_F16 = 1 /* f16 activations on a GPU: sums of f16_chunk products in f16, each
                                   sum then added in f32. With C = f16_chunk the bound above gains
                                     |alpha t| * (C/16 * 2^-10 * sum |A W| + K/16 * 2^-10 * T),
                                   T = E4M3 scales: 1, E8M0: 2^-7 max(E, 2^-113). No sum
                                   overflows while
                                     C * max |A| < 399000 (E4M3), 698000 (E8M0, C = 64);
                                   one that does is Inf or NaN in D, never another number. Twice as
                                   fast only where the tensor cores are: GeForce */
} nib_gemm_accumulate;

typedef enum nib_gemm_activations {
    NIB_GEMM_ACTIVATIONS_EXACT = 0,
    NIB_GEMM_ACTIVATIONS_INT8  = 1 /* CPU: A is rounded to 8 bits, by a step for each 16 columns of
                                      a row, amax / 127: the bound gains
                                      |alpha t| * sum over blocks of amax/254 * sum |W| */
} nib_gemm_activations;

typedef enum nib_gemm_act {
    NIB_GEMM_ACT_NONE      = 0,
    NIB_GEMM_ACT_RELU      = 1, /* max(x, 0); NaN stays */
    NIB_GEMM_ACT_GELU      = 2, /* x/2 * (1 + erf(x / sqrt 2)) */
    NIB_GEMM_ACT_GELU_TANH = 3, /* x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) */
    NIB_GEMM_ACT_SILU      = 4  /* x / (1 + e^-x) */
} nib_gemm_act;                 /* within 2^-20 * max(|value|, |x| * 2^-4); append-only */

typedef struct nib_gemm_options {
    uint32_t             size;            /* sizeof(nib_gemm_options) */
    nib_gemm_layout      layout;          /* of the weights; AUTO: the device's */
    nib_format           format;
    int64_t              n, k;
    int64_t              m_max;           /* the plan is for M = 0 .. m_max, 1 .. 2^31 - 1 */
    nib_dtype            a_dtype;         /* f16 or bf16; on the CPU also f32 */
    nib_dtype            d_dtype;         /* any; bias and residual have it too */
    nib_gemm_accumulate  accumulate;
    int32_t              f16_chunk;       /* 64 (also as 0), 128 or 256; E8M0 scales: 64 */
    nib_gemm_activations activations;
    nib_gemm_act         act;
    int32_t              gated;           /* as the weights */
    int32_t              batch_invariant; /* 1: rows do not depend on each other or on M */
    const char          *tactic;          /* NULL: by M, from the device's table; or one's name */
    int32_t              reserved[8];     /* 0 */
} nib_gemm_options;

/* A kernel, and the rows of A for which a plan takes it. */
typedef struct nib_gemm_tactic {
    char        name[24]; /* "small16", "tile64", "exact", ... */
    int32_t     id;       /* the backend's */
    int32_t     splits;   /* of K, at most; each M's own is in nib_gemm_choice */
    int64_t     m_low, m_high;
    const char *reason;   /* a sentence, for as long as the library is loaded */
    int32_t     reserved[4];
} nib_gemm_tactic;

enum { NIB_GEMM_TACTICS = 16 };

/* A plain value, made once for a layer and used by any number of threads. */
typedef struct nib_gemm_plan {
    uint32_t          size;       /* sizeof(nib_gemm_plan), set before nib_gemm_plan_make */
    const nib_device *device;     /* outlives the plan */
    nib_gemm_options  options;    /* with every default filled in; tactic NULL */
    int32_t           count;
    nib_gemm_tactic   tactic[NIB_GEMM_TACTICS]; /* in order of M, without gaps up to m_max */
} nib_gemm_plan;

/* Makes *plan, whose size says how much of it is written. Host memory, no device work; a GPU that
 * is to use "exact" is prepared first (NIB_PREPARE_GEMM), since only then is it known whether
 * cuBLASLt is there.
 *
 * Returns NIB_ERR_ARGUMENT for NULL, a size of either smaller than the first version's, an unknown
 * enum or tactic (the text names those there are), or a chunk not above; NIB_ERR_SHAPE for N, K or
 * m_max out of range; NIB_ERR_UNSUPPORTED for a combination that this device's kernels do not have,
 * with the reason: a layout of another family, f32 activations or INT8 ones on a GPU, bf16
 * activations with F16 accumulation, F16 accumulation on the CPU, a chunk over 64 with E8M0 scales,
 * a tactic that cannot hold the options. */
nib_status nib_gemm_plan_make(const nib_device *device, const nib_gemm_options *options,
                              nib_gemm_plan *plan);

/* Which tactic M rows take, with its m_low and m_high, and splits for this M. Returns
 * NIB_ERR_ARGUMENT for NULL, NIB_ERR_SHAPE for M outside 0..m_max. */
nib_status nib_gemm_choice(const nib_gemm_plan *plan, int64_t m, nib_gemm_tactic *tactic);

/* Workspace that is enough for every M from 0 to m: grows with m. SIZE_MAX for a bad plan or m. */
size_t nib_gemm_workspace_bytes(const nib_gemm_plan *plan, int64_t m);

/* The i-th tactic that the device's kernels have for these options, whether or not a plan would
 * take it; *tactic's range is where it works. Returns NIB_ERR_SHAPE for an i past the last. */
nib_status nib_gemm_tactic_at(const nib_device *device, const nib_gemm_options *options, int32_t i,
                              nib_gemm_tactic *tactic);

/* ---- products ---- */

typedef struct nib_gemm_args {
    uint32_t                size;     /* sizeof(nib_gemm_args) */
    const nib_matrix       *a;        /* M x K, of a_dtype; data and rows on 16 bytes (CPU: on an
                                         element) */
    const nib_gemm_weights *w;
    const nib_matrix       *d;        /* M x N, gated M x N/2, of d_dtype; data and rows on 16 bytes
                                         (CPU: on an element) */
    const float            *alpha;    /* NULL: 1; else 1 float where the device computes */
    const void             *bias;     /* NULL, or N elements of d_dtype where the device computes */
    const nib_matrix       *residual; /* NULL, or as d; may be d */
} nib_gemm_args;

/* D, as above. Asynchronous. Batch: any M from 0 to the plan's m_max; M = 0 succeeds.
 *
 * Returns NIB_ERR_ARGUMENT for a NULL pointer, a struct smaller than the first version's, or a
 * residual in d's place with another ld_elems; NIB_ERR_SHAPE for sizes that do not fit the plan;
 * NIB_ERR_ALIGNMENT for pointers or row strides off the bytes above and in nib_gemm_weights, or a
 * workspace off 256;
 * NIB_ERR_UNSUPPORTED for weights of another layout, version, format or gating than the plan's,
 * matrices of another dtype, or an exec of another device; NIB_ERR_OUT_OF_MEMORY for a workspace
 * smaller than nib_gemm_workspace_bytes (the text has both).
 *
 * From compute capability 9.0 on, a product that is cut along K is two kernels, of which the second
 * starts while the first ends; captured, they are two nodes with a programmatic edge,
 * which calls that list edges without their data answer with cudaErrorLossyQuery. */
nib_status nib_gemm(const nib_exec *exec, const nib_gemm_plan *plan, const nib_gemm_args *args);

/* dX[m,k] = alpha * t * sum over n of dY[m,n] * W[n,k]: the gradient of the activations, by the
 * same pack, exactly dequantized. Gated: dY is M x N, in the order of nib_gemm_pack's src. bias and
 * residual are NULL; a is dY, M x N of a_dtype, d is dX, M x K of d_dtype. Same bound, with N for
 * K, sums being f32 whatever the options accumulate in; of E8M0 scales with f16 dY, u <= 2^-35 of
 * the largest in k's 64 columns, of all rows: weights go through f16 with one exponent for these.
 * Returns as nib_gemm, and NIB_ERR_UNSUPPORTED on a GPU without cuBLASLt; the workspace is
 * nib_gemm_backward_workspace_bytes, which grows with m. */
nib_status nib_gemm_backward(const nib_exec *exec, const nib_gemm_plan *plan,
                             const nib_gemm_args *args);
size_t nib_gemm_backward_workspace_bytes(const nib_gemm_plan *plan, int64_t m);

#ifdef __cplusplus
}
#endif

#endif
