/* checkpoint.h: whole models from file to file: quantize, compare, merge, list.
 *
 * Sources and operands are Hugging Face folders (config.json and safetensors, plain or already
 * in one of the layouts below), single safetensors files, or GGUF files. Every function here is
 * synchronising, reads through memory maps, and holds a few panels of rows at a time whatever
 * the model's size. Output is written aside (".NAME.nibble-partial" beside NAME), synced and
 * renamed: nothing half-written ever stands under its final name. A source must not be cut short
 * by others while it is read: like every memory map, that ends in SIGBUS.
 *
 * Statuses that all share: NIB_ERR_ARGUMENT for a NULL pointer, an unknown enum or a size below
 * the first version's; NIB_ERR_IO with the system's words; NIB_ERR_FORMAT for a file that breaks
 * its format's rules; NIB_ERR_OUT_OF_MEMORY. nib_last_error() names file, tensor and number.
 */
#ifndef NIBBLE_CHECKPOINT_H
#define NIBBLE_CHECKPOINT_H

#include "nibble/gptq.h"
#include "nibble/int_format.h"
#include "nibble/policy.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is written. P is a module's name, weights are [N, K].
 *
 *   MODELOPT            folder; P.weight U8 [N,K/2], P.weight_scale F8_E4M3 [N,K/16],
 *                       P.weight_scale_2 F32 [] (multiplier); hf_quant_config.json and
 *                       config.json with quant_algo W4A16_NVFP4. NVFP4 only
 *   COMPRESSED_TENSORS  folder; P.weight_packed U8, P.weight_scale F8_E4M3 (NVFP4) or U8
 *                       (MXFP4), P.weight_global_scale F32 [1] (NVFP4; divisor); config.json with
 *                       nvfp4-pack-quantized or mxfp4-pack-quantized, weights only. F16 weights
 *                       are taken as F32: its own rules compute in the weights' type, where
 *                       F16 overflows the divisor to 1. Integers, see below
 *   GGUF                one file, version 3; block types NVFP4 (with P.scale F32 [1], multiplier)
 *                       or MXFP4 */
/* Integers (int_format.h) are COMPRESSED_TENSORS' pack-quantized (W4A16, W8A16): codes and steps of
 * step_codes.h with NIB_STEP_OF_HALF, in f32 whatever the weights' type, steps then rounded to the
 * type that they are stored in: the weights' own, or keep_dtype. K must be a multiple of the group.
 *
 *     P.weight_packed      I32 [N, ceil(K * bits / 32)]  little-endian words of q - lo, lowest bits
 *                          first; a row's last word is filled up with 0, which compressed-tensors
 *                          unpacks, but vLLM takes whole words only
 *     P.weight_scale       F32, F16 or BF16 [N, K / group], or [N, 1]
 *     P.weight_zero_point  I32 [ceil(N * bits / 32), K / group]  z - lo, packed along N; asymmetric
 *     P.weight_shape       I64 [2]  N, K
 *
 * By GPTQ too a group is of neighbours along a row, in whatever order they were rounded: there is
 * no weight_g_idx. actorder is "weight" (also called static) of groups rounded in NIB_GPTQ_ACT, and
 * else null, which loads alike; null too of whole rows in that order, for which compressed-tensors
 * refuses "weight".
 *
 * Such a folder is read by its tensors. Its config.json must not contradict them in num_bits, the
 * group or symmetric: NIB_ERR_FORMAT. What it says of a module is in the config group that names
 * it, or else is what all groups of integers say alike. NIB_ERR_FORMAT too for a weight_packed
 * with a weight_scale, but no weight_shape, or the other way round. */
typedef enum nib_export {
    NIB_EXPORT_MODELOPT           = 0,
    NIB_EXPORT_COMPRESSED_TENSORS = 1,
    NIB_EXPORT_GGUF               = 2
} nib_export;

typedef enum nib_nonfinite_policy {
    NIB_NONFINITE_REFUSE = 0, /* NIB_ERR_NONFINITE with the tensor and the first index */
    NIB_NONFINITE_GO_ON  = 1  /* by the rules' nonfinite member; counted in the report */
} nib_nonfinite_policy;

typedef enum nib_stage {
    NIB_STAGE_AMAX     = 0,
    NIB_STAGE_QUANTIZE = 1,
    NIB_STAGE_COPY     = 2
} nib_stage;

/* Rounding by gptq.h of the tensors that have a Hessian; the others are rounded plainly, and the
 * report tells which. A matrix P.weight goes with what the files name P, or else P.weight, or else,
 * of inputs, P.input. Where there is none, A.q_proj, A.k_proj and A.v_proj take A.qkv, A.gate_proj
 * and A.up_proj (A.w1 and A.w3) A.gate_up, or else what the only one of them that has any has.
 * Hessians of the same bytes, one after the other, are factored once.
 *
 * Such a tensor is worked on as a whole, which takes memory for the largest: its Hessian and one
 * factor, k * k reals each; codes and scales; W as f32 unless it lies ready in the source; and the
 * workspace of nib_gptq_quantize, at most W in reals and a byte for each weight. NaN and Inf in its
 * weights are refused, whatever the policy. */
typedef struct nib_checkpoint_gptq {
    uint32_t        size;      /* sizeof(nib_checkpoint_gptq) */
    const char     *hessians;  /* a file as nib_hessian_save writes it, or a folder of such; or */
    const char     *inputs;    /* the same with tensors [..., k] of F32, F16 or BF16, whose rows are
                                  inputs: Hessians are made of them. The other is NULL */
    const nib_gptq_factor_options *factor; /* NULL: the defaults. block is the format's, or group */
    nib_gptq_scales scales;    /* of integers in groups over 128 FROZEN, or BY_FORMAT, which is */
    int32_t         without_guard; /* as in nib_gptq_options */
    int32_t         real_bits; /* 32 or 64: type of all sums. 0: the Hessian's; 32 of inputs */
    int32_t         rotate;    /* 0, or 16, 32, 64 or 128: weights and Hessians are rotated by runs
                                  of so many inputs (nib_transform's hadamard). The output is that
                                  of the model only where the inputs of these layers are rotated
                                  too; nibble_rotation.json, or GGUF's nibble.rotation, says so */
    int32_t         all;       /* 1, and needed for rotate: a tensor that is quantized and has no
                                  Hessian is an error */
} nib_checkpoint_gptq;

/* State of a run, given to the progress callback from the calling thread. */
typedef struct nib_progress {
    uint32_t    size;
    nib_stage   stage;
    const char *tensor;        /* the source's name for it */
    uint64_t    source_bytes_done, source_bytes_total;
    uint64_t    tensors_done, tensors_total;
} nib_progress;

typedef struct nib_checkpoint_options {
    uint32_t             size;         /* sizeof(nib_checkpoint_options) */
    nib_export           export_as;
    nib_format           format;       /* NIB_NVFP4, NIB_MXFP4 or of int_format.h */
    const nib_rules     *rules;        /* NULL: MODELOPT and COMPRESSED_TENSORS their own preset,
                                          GGUF TransformerEngine's (NVFP4) or gguf's (MXFP4).
                                          Integers: NULL */
    nib_scale_choice     scale_choice; /* integers: NIB_SCALE_AMAX */
    nib_rounding         rounding;     /* integers: to nearest */
    uint64_t             seed;         /* stochastic rounding; tensors get distinct offsets */
    nib_nonfinite_policy nonfinite;
    nib_dtype            keep_dtype;   /* what unquantized tensors in GGUF blocks become */
    const char *const   *include;      /* glob patterns on Hugging Face names, in which * matches
                                          dots too. None: every matrix of a linear layer but
                                          embeddings, lm_head and routers. Else just what matches;
                                          folders have no quantized embeddings */
    size_t               n_include;
    const char *const   *exclude;      /* patterns that win over include */
    size_t               n_exclude;
    uint64_t             max_file_bytes; /* of one safetensors file; 0: 5 * 10^9 */
    int32_t              shard, shards;  /* 1 <= shard <= shards: write that part only, for
                                            nib_checkpoint_merge; 0, 0: the whole */
    int32_t              force;        /* 1: replace what stands under dst */
    int32_t              resume;       /* 1: go on from a stopped run with the same arguments */
    int32_t              dry_run;      /* 1: plan and report sizes; read and write no weights. What
                                          options and dst the run would refuse, this does too */
    void               (*progress)(void *user, const nib_progress *state); /* or NULL */
    void                *user;
    const volatile int  *cancel;       /* or NULL; not 0: stop soon with NIB_ERR_CANCELLED */
    int32_t              counts;       /* 1: count the uses of codes and scales, which takes a
                                          little longer; 0: the counts in reports are zeros */
    const nib_checkpoint_gptq *gptq;   /* NULL: every tensor is rounded plainly. Options of a size
                                          without this member have NULL */
    const nib_policy    *policy;       /* NULL, or what decides in place of format, rules,
                                          scale_choice and include, see below. Options of a size
                                          without this member have NULL */
} nib_checkpoint_options;

/* By a policy, a matrix is quantized as the first line says that matches its name, unless exclude
 * matches too. What no line matches is kept, as is what "keep" says and what has fewer than two
 * dimensions. A line that names no rules follows the export's own. A line with a format has to
 * decide for some matrix, or be one for caches, which are no tensors of a file; of
 * nib_policy_export_text, which is for any model, only some line has to.
 *
 * An export takes the formats that it lists above, alone or side by side: COMPRESSED_TENSORS then
 * has a config group of each, with its modules by name, and says "mixed-precision", or of integers
 * alone "pack-quantized"; GGUF has a type for each tensor anyway. In folders q, k and v of a layer
 * must not differ in format, scale choice or rules, nor gate and up: loaders make one matrix of
 * them. In GGUF those that differ share no tensor scale. format is not read; rules, scale_choice
 * and include have to be left out. */

/* One source tensor in a report. Strings belong to the report. */
typedef struct nib_tensor_report {
    const char *name;          /* Hugging Face name */
    const char *layer_type;    /* "q_proj", "down_proj", "embed_tokens", "norm", ... */
    const char *source_type;   /* "BF16", "Q4_1", ... */
    const char *stored_type;   /* "NVFP4", "MXFP4", "INT4", "INT8-B32-ASYM", ... (the format's name
                                  in capitals), or the type it is kept in */
    int32_t     quantized;
    int32_t     n_dims;
    int64_t     dims[8];
    uint64_t    elements;
    uint64_t    source_bytes, stored_bytes; /* stored: codes and all scales */
    float       tensor_scale;  /* multiplier; 1 without one */
    nib_quantize_report error; /* zeros if not quantized or in a dry run; of integers code_count is
                                  of q - lo, and scale_count zeros; counts of codes and
                                  scales are zeros without options->counts, and for tensors
                                  that a resumed run found done */
} nib_tensor_report;

/* What GPTQ made of a tensor. A dry run tells the name of the Hessian, k and tokens. */
typedef struct nib_tensor_gptq {
    const char     *hessian;   /* its name in the file; the report's */
    int64_t         k;
    uint64_t        tokens;    /* UINT64_MAX: not counted */
    double          damping;   /* what was used, times the mean of the diagonal */
    int32_t         tries;     /* factorisations */
    int64_t         dead;      /* dead inputs */
    double          seconds_hessian, seconds_factor; /* 0 for a tensor that took over those of the
                                                        one before */
    nib_gptq_report report;
} nib_tensor_gptq;

typedef struct nib_checkpoint_report {
    uint32_t           size;
    int32_t            source_quantized; /* 1: weights came as 4-, 5-, 6- or 8-bit blocks */
    uint64_t           n_tensors;
    nib_tensor_report *tensors;
    uint64_t           source_bytes, stored_bytes;
    uint64_t           nonfinite;
    double             seconds;          /* of the clock, whole call */
    double             seconds_amax, seconds_quantize, seconds_stats; /* summed over threads;
                                            stats: 0 where they are taken while quantizing, and
                                            count there */
    double             seconds_write;    /* wall time: the threads' sum divided among them, and
                                            creating, syncing and renaming files */
    int32_t            threads;          /* that worked; 0 if none was needed */
    nib_tensor_gptq  **gptq;             /* NULL, or n_tensors: what GPTQ made of each, NULL for one
                                            without a Hessian */
} nib_checkpoint_report;

/* Quantizes the model at src into dst.
 *
 *   exec     a CPU device (weights are in host memory); exec->threads is obeyed
 *   dst      must not exist unless force; its parent must
 *   report   NULL, or out: free with nib_checkpoint_report_free, also after a failure (then NULL)
 *
 * q, k and v of a layer share one tensor scale, as do gate and up (w1 and w3), and all experts
 * of a fused [E, N, K] tensor. Every tensor has the same bytes for every thread count, number of
 * shards and restart; so have whole files, but that merged folders are cut into other files.
 *
 * NIB_ERR_UNSUPPORTED: what the target cannot hold (text says what and why): the format, K that
 * is no multiple of the block (GGUF NVFP4: of 64; integers: the group), integers of another rank
 * than 2, or what they have not; in folders an embedding ("embed_tokens", "wte", "word_embeddings",
 * ...) that include or policy choose, where loaders know linear layers only, and a tensor that has
 * the name of a part of a quantized one (P.weight_scale, P.weight_zero_point of integers, ...); an
 * architecture that cannot be converted between Hugging Face and GGUF, a source that is quantized
 * in a way nibble cannot read.
 * NIB_ERR_NONFINITE, NIB_ERR_CANCELLED, NIB_ERR_EXISTS as above and in status.h; ARGUMENT for
 * a flag that is not 0 or 1, shard outside 1..shards or an include pattern that matches no matrix.
 * With policy ARGUMENT for what it replaces, or a line that decides for nothing; UNSUPPORTED,
 * naming line and tensor, for a format that the target cannot hold, or unlike tensors that loaders
 * join. With gptq also what the functions of gptq.h return, for bad options before any work; SHAPE
 * for a Hessian of another k than its tensor's; UNSUPPORTED for one of a stack of matrices,
 * stochastic rounding, or scales that integers cannot have (gptq.h); ARGUMENT if no tensor has one,
 * not every one though all is 1, or it is not clear which; NONFINITE for a bad diagonal before any
 * work.
 *
 * Nothing that is read is ever replaced: NIB_ERR_EXISTS, force or not and before any work, also of
 * a dry run, if the source, a file of it or a file of Hessians or inputs is dst or lies anywhere in
 * the folder dst, by its name or where symbolic links lead. */
nib_status nib_checkpoint_quantize(const nib_exec *exec, const char *src, const char *dst,
                                   const nib_checkpoint_options *options,
                                   nib_checkpoint_report **report);

/* Joins the parts that nib_checkpoint_quantize wrote with shard = 1..shards into dst, which must
 * not exist unless force. NIB_ERR_ARGUMENT if parts are missing, doubled or of different runs;
 * NIB_ERR_EXISTS also if a part, or a file of one, is dst or lies in it, as above. */
nib_status nib_checkpoint_merge(const char *const *parts, size_t n_parts, const char *dst,
                                int32_t force);

/* Lists a model's logical tensors (a quantized weight with its scales is one tensor, whose
 * stored_type names its layout). Nothing is decoded. */
nib_status nib_checkpoint_info(const char *path, nib_checkpoint_report **report);

/* Compares the logical tensors that both models have, decoded to f32: error is b against a, its
 * sum_sq that of a. Tensors of one model only: NIB_ERR_SHAPE, naming one; different dims too. What
 * GGUF has as a tensor and a folder in config.json, rope_freqs.weight, is left out between them.
 * Types that are not decoded (plain integers, FP8) must agree to the byte: NIB_ERR_UNSUPPORTED.
 * exec as above; progress and cancel of options are obeyed, options may be NULL. */
nib_status nib_checkpoint_compare(const nib_exec *exec, const char *a, const char *b,
                                  const nib_checkpoint_options *options,
                                  nib_checkpoint_report **report);

void nib_checkpoint_report_free(nib_checkpoint_report *report);

#ifdef __cplusplus
}
#endif

#endif
