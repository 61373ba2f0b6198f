/* internal.h: the error idiom and the small things every host file shares. */
#ifndef NIB_INTERNAL_H
#define NIB_INTERNAL_H

#include "kernels/backend.h"

/* Sets this thread's error text and returns status. */
nib_status nib_fail(nib_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* State a precondition once, in words that the caller will read. */
#define NIB_REQUIRE(cond, status, ...) \
    do { if (!(cond)) return nib_fail((status), __VA_ARGS__); } while (0)

/* Pass a failure up unchanged. */
#define NIB_TRY(call) \
    do { const nib_status nib_try_ = (call); if (nib_try_ != NIB_OK) return nib_try_; } while (0)

struct nib_device {
    nib_backend_kind       kind;
    const nib_backend     *ops;
    const nib_cuda_table  *cuda; /* NULL on the CPU */
    int32_t                ordinal, debug, max_threads;
    nib_device_info        info;
    char                   description[256];
    char                   reason[NIB_WHY_BYTES];
};

/* The CUDA backend's table, or NULL; *why then says what is missing, for the whole process. */
const nib_cuda_table *nib_cuda_library(const char **why);

/* Checks exec and fills in *launch and *ops. what: the public function, for the text. */
nib_status nib_exec_check(const nib_exec *exec, const char *what, nib_launch *launch,
                          const nib_backend **ops);

nib_status nib_matrix_check(const nib_matrix *matrix, const char *what, const char *name);
nib_status nib_packed_check(const nib_packed *packed, const char *what, const char *name);
/* Of a format of format.h or int_format.h. */
nib_status nib_weight_format_name(nib_format format, char *text, size_t text_bytes);

/* The integer format of this name, or 0xffffffff, without an error text. */
nib_format nib_int_format_named(const char *name);

/* policy.c: whether a policy has the text of nib_policy_export_text. */
struct nib_policy;
int nib_policy_is_export(const struct nib_policy *policy);

nib_status nib_rules_check(const nib_rules *rules, const char *what);

/* o (NULL: the defaults), checked for k inputs, with every default filled in, in made, which is
 * another. what: for the text. */
nib_status nib_gptq_factor_options_make(const char *what, const nib_gptq_factor_options *o,
                                        int64_t k, nib_gptq_factor_options *made);

/* 1 if exec's backend has nib_quantize_measured. */
int nib_has_quantize_measured(const nib_exec *exec);

/* nib_quantize, then nib_quantize_stats into *report, in one pass over src. report comes from our
 * own code: its size is not checked. */
nib_status nib_quantize_measured(const nib_exec *exec, const nib_matrix *src,
                                 const nib_quantize_options *options, const nib_packed *dst,
                                 nib_quantize_report *report);

#endif
