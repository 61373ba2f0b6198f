/* gptq_model.h: inputs and Hessians for the small Llama of model_fixture.h, as files. */
#ifndef NIB_TEST_GPTQ_MODEL_H
#define NIB_TEST_GPTQ_MODEL_H

#include "kernels/backend.h"
#include "model_fixture.h"
#include "shim.h"

/* Skips a test where the CPU cannot add up a Hessian. */
#define NEEDS_OPENBLAS \
    do { if (nib_bench_cpu.gemm_missing()) SKIP(nib_bench_cpu.gemm_missing()); } while (0)

/* What the layers of a file are fed with: inputs whose neighbours are alike, a few of them large.
 * q, k and v share "....qkv", gate and up take what gate alone has, the others have their own. */
enum { GPTQ_TOKENS = 200, GPTQ_INPUTS = 8 };
const fixture_tensor *gptq_inputs(void);

/* Writes the Hessians of the first n of gptq_inputs(). 1 if that was done. */
int gptq_save_hessians(const char *path, nib_real real, size_t n);

/* A Hessian of F64 for one name, diagonal, whose element i is 1 + i, but for one element. */
int gptq_save_element(const char *path, const char *name, int64_t k, int64_t row, int64_t col,
                      double element);
int gptq_save_diagonal(const char *path, const char *name, int64_t k, int64_t at, double element);

/* A run's paths and options, in a folder of its own: the small Llama in a folder, all Hessians in
 * F32, the library's defaults. */
typedef struct gptq_case {
    temp_dir                dir;
    char                    src[300], dst[300], other[300], hessians[300];
    nib_gptq_factor_options factor;
    nib_checkpoint_gptq     gptq; /* of hessians and factor */
} gptq_case;

int                    gptq_begin(gptq_case *c);
nib_checkpoint_options gptq_options(const gptq_case *c, nib_export export_as, nib_format format);
nib_status             run_model(const gptq_case *c, const char *to,
                                const nib_checkpoint_options *options, int threads,
                                nib_checkpoint_report **report);

/* The name among gptq_inputs() of what feeds this weight. */
const char *gptq_feeds(const char *weight, char *text, size_t bytes);

#endif
