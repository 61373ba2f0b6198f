/* plan.h: everything about a run that can be decided before a weight is read: which tensors are
 * quantized, which share a tensor scale, what is written where.
 *
 *   model --> items (one per logical tensor, in units that share a tensor scale)
 *         --> outs  (tensors of the output, each in one file at one offset)
 *         --> files (headers and sizes)
 */
#ifndef NIB_PLAN_H
#define NIB_PLAN_H

#include "host/io/hessian_table.h"
#include "host/io/target.h"

/* Keys of a part's GGUF metadata, and of nibble_part.json in a part's folder. */
#define NIB_PART_SHARD  "nibble.part.shard"
#define NIB_PART_SHARDS "nibble.part.shards"
#define NIB_PART_RUN    "nibble.part.run"
#define NIB_PART_FILE   "nibble_part.json"

/* What an output of rotated weights says. */
#define NIB_ROTATION_FILE  "nibble_rotation.json"
#define NIB_ROTATION_KEY   "nibble.rotation"
#define NIB_ROTATION_NEEDS "inputs of every quantized layer rotated by the same block Hadamard " \
                           "transform, H / sqrt(block); without it the outputs are wrong"

typedef struct nib_out_tensor {
    nib_tensor_spec spec;   /* name owned by the plan */
    int32_t         file;
    uint64_t        offset; /* absolute, in its file */
} nib_out_tensor;

/* How a tensor is quantized. */
typedef struct nib_plan_way {
    nib_format       format; /* of format.h or int_format.h, which has no more */
    nib_scale_choice scale_choice;
    nib_rules        rules;
} nib_plan_way; /* without padding: ways are compared as bytes */

typedef struct nib_plan_item {
    const nib_logical *src;
    int32_t            quantize;
    int32_t            line;       /* of the policy, which decided; 0: none */
    nib_plan_way       way;        /* if quantize */
    nib_tensor_type    stored;     /* kept tensors: the type they are written in; integers: that of
                                      their steps */
    nib_row_order      order;      /* of the rows that are written */
    int64_t            out[NIB_ROLES]; /* index into outs, -1: no such part */
    uint64_t           random_offset;  /* counter of its first element's random word */
    nib_hessian_entry  hessian;        /* tensor NULL: plain rounding */
    nib_gptq_scales    scales;         /* with a Hessian: never BY_FORMAT */
} nib_plan_item;

/* Items that share one tensor scale. */
typedef struct nib_plan_unit {
    size_t first, count; /* in plan->order */
} nib_plan_unit;

typedef struct nib_out_file {
    char            name[64];
    size_t          n_outs;
    size_t         *outs;   /* indices in the file's order */
    nib_file_layout layout;
} nib_out_file;

typedef struct nib_plan {
    const nib_target *target;
    nib_plan_way      way;     /* of all items, but by a policy */
    nib_plan_item    *items;   /* one per logical tensor of the model */
    size_t            n_items;
    size_t           *order;   /* items of this shard, unit after unit */
    size_t            n_order;
    nib_plan_unit    *units;
    size_t            n_units;
    nib_out_tensor   *outs;
    size_t            n_outs;
    nib_out_file     *files;
    size_t            n_files;
    nib_target_modules modules; /* of the whole model */
    size_t            n_quantized; /* items of the whole model that are */
    nib_gguf_meta    *meta;    /* GGUF only */
    nib_gguf_heads    heads;   /* GGUF only: how its q and k rows are ordered */
    nib_logical       made;    /* a tensor that the source has as configuration; name NULL: none */
    nib_tensor        made_tensor;
    void             *made_data;
    nib_text_files    texts;   /* small files made from GGUF's metadata */
    nib_hessian_table hessians;
    uint64_t          source_bytes; /* of this shard's items */
    char              run[416];         /* names source and options: what all parts share */
    char              fingerprint[480]; /* the same and the part: what a restart must share */
} nib_plan;

nib_status nib_plan_make(const nib_model *model, const nib_checkpoint_options *options,
                         nib_plan **out);
void       nib_plan_free(nib_plan *plan);

/* The parts of nib_plan_make, in the order of their work. plan_policy.c: what the policy says of an
 * item: quantize, line and way; whether the target holds it; and when all items were asked. */
nib_status nib_plan_policy_item(const nib_checkpoint_options *options, const nib_plan *plan,
                                nib_plan_item *item);
nib_status nib_plan_policy_holds(const nib_checkpoint_options *options, const nib_plan *plan,
                                 const nib_plan_item *item);
nib_status nib_plan_policy_used(const nib_checkpoint_options *options, const nib_plan *plan);
/* Refuses items that loaders join, but that are quantized in unlike ways. */
nib_status nib_plan_policy_unlike(const nib_plan *plan, const nib_plan_item *a,
                                  const nib_plan_item *b);
/* plan_names.c: */
nib_status nib_plan_names(const nib_plan *plan);
/* plan_cross.c: */
nib_status nib_plan_cross(const nib_model *model, const nib_checkpoint_options *options,
                          nib_plan *plan);
nib_status nib_plan_cross_items(const nib_checkpoint_options *options, nib_plan *plan);
/* plan_gptq.c: */
nib_status nib_plan_gptq(const nib_checkpoint_options *options, nib_plan *plan);
/* plan_files.c: */
nib_status nib_plan_files(const nib_checkpoint_options *options, nib_plan *plan);
/* Lays out one file from plan->outs; file->outs and n_outs are set. */
nib_status nib_plan_layout(nib_plan *plan, const nib_gguf_meta *meta, nib_out_file *file);

#endif
