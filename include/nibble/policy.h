/* policy.h: which tensor of a model gets which format, by patterns of names in a small file.
 *
 *     # PATTERN                  FORMAT        SCALE-CHOICE  RULES
 *     *.self_attn.?_proj.weight  fp6-e2m3-b16
 *     *.mlp.down_proj.weight     int8-b64-asym
 *     *.mlp.*_proj.weight        nvfp4-b32     mse           modelopt
 *     *norm.weight               keep
 *
 * A line is a pattern, a format's name (nib_format_from_name, nib_int_format_from_name) or "keep",
 * and then, if wanted and not of integers, how scales are chosen and whose rules hold; words are
 * parted by blanks or tabs, '#' begins a comment. In a pattern * matches any characters, dots too,
 * ? any one, and every other character itself; it must match the whole name. The first line that
 * matches a name decides. Lines end with LF or CRLF, the last one with the file too.
 *
 * Names are those of Hugging Face files. A cache of keys or values is no tensor of a file; nibble
 * calls those of layer N "model.layers.N.self_attn.k_cache" and "...v_cache".
 *
 * Host memory, no device. A policy does not change once made: any number of threads may ask it.
 */
#ifndef NIBBLE_POLICY_H
#define NIBBLE_POLICY_H

#include "nibble/int_format.h"
#include "nibble/quantize.h"
#include "nibble/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    NIB_POLICY_LINES      = 1024,   /* at most; comments and empty lines not counted */
    NIB_POLICY_LINE_BYTES = 4096,   /* at most, of one line */
    NIB_POLICY_BYTES      = 8388608 /* at most, of a file */
};

/* "amax", "mse", "mse-full", "four-over-six-mse", "four-over-six-mae"; "?" for an unknown one. */
const char *nib_scale_choice_name(nib_scale_choice scale_choice);

/* Reads such a name. Returns NIB_ERR_ARGUMENT for a NULL pointer or an unknown name. */
nib_status nib_scale_choice_from_name(const char *name, nib_scale_choice *scale_choice);

typedef struct nib_policy nib_policy;

/* What a line says. */
typedef struct nib_policy_line {
    uint32_t         size;         /* sizeof(nib_policy_line), set by the caller */
    int32_t          line;         /* of the file, from 1 */
    const char      *pattern;      /* the policy's */
    nib_format       format;       /* of format.h or int_format.h; NIB_FORMAT_NONE: keep */
    nib_scale_choice scale_choice; /* NIB_SCALE_AMAX if the line names none */
    nib_rules        rules;        /* of the preset that it names, else NIB_RULES_TE; zeros: keep
                                      and integers */
    int32_t          has_rules;    /* 1: it names a preset. A line of a size without this member is
                                      filled in up to it */
} nib_policy_line;

/* Reads a policy from a file, or from bytes of text (which need no NUL), of which name is what
 * errors call it. The policy is allocated and copies what it needs: close it. On failure *policy
 * is NULL.
 *
 * Returns NIB_ERR_ARGUMENT for a NULL pointer; NIB_ERR_IO with the system's words;
 * NIB_ERR_OUT_OF_MEMORY; and NIB_ERR_FORMAT, the sentence naming file, line and word, for: a
 * control character, NUL included; a line without a format or with a word too many; an unknown
 * format, scale choice or rules, or a scale choice that the format cannot have; a pattern that an
 * earlier line has already; no line at all; over the limits above. */
nib_status nib_policy_open(const char *path, nib_policy **policy);
nib_status nib_policy_parse(const char *name, const char *text, size_t text_bytes,
                            nib_policy **policy);
void       nib_policy_close(nib_policy *policy); /* NULL is allowed */

/* For training with fake-quantize (fakequant.h): attention in 6 bits by 16, MLP in 4 by 32,
 * embeddings and head in 8 by 8, caches in E4M3 by 16; norms, biases and routers are kept. No line
 * for anything else. No export holds these formats: nib_checkpoint_quantize refuses the policy. */
const char *nib_policy_default_text(void);

/* What comes of it where exports are the aim, all of which hold it, and what `nibble quantize
 * --policy default` takes, whose dry run prints it: linear layers in NVFP4, the scales of MLP and
 * experts by least squares; embeddings, head, routers, vision and what the other one keeps are
 * kept. It is for any model: of this very text nib_checkpoint_quantize takes lines that decide for
 * nothing, as long as one quantizes something. */
const char *nib_policy_export_text(void);

/* Lines in order; -1 for NULL. */
int32_t nib_policy_count(const nib_policy *policy);

/* *line = the i-th line, from 0. Returns NIB_ERR_ARGUMENT for a NULL pointer, a size smaller than
 * the first version's, or i outside 0..count - 1. */
nib_status nib_policy_get(const nib_policy *policy, int32_t i, nib_policy_line *line);

/* *line = the first line whose pattern matches name. Takes at most the product of the lengths of
 * pattern and name. Returns NIB_ERR_ARGUMENT as nib_policy_get does, and when no line matches: the
 * sentence names the policy and the tensor. */
nib_status nib_policy_find(const nib_policy *policy, const char *name, nib_policy_line *line);

/* Holds a policy against all names of a model, each of which needs a line: finds what is misspelt.
 * Returns NIB_ERR_ARGUMENT for a NULL pointer, for the first name that no line matches, and else
 * for the first line that decides for no name: it matches none, or lines above it take them all. */
nib_status nib_policy_check(const nib_policy *policy, const char *const *names, size_t n_names);

#ifdef __cplusplus
}
#endif

#endif
