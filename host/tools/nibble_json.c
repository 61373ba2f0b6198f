/* nibble_json.c: reports as JSON, and where it may be written. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/io/guard.h"
#include "host/io/output.h"
#include "nibble_tool.h"

/* JSON has no Inf: an error of nothing has no SNR, and a weight that became Inf an error of Inf. */
static json_t *number_or_null(double x) { return isfinite(x) ? json_real(x) : json_null(); }

/* Nothing if nobody counted. */
static void set_counts(json_t *j, const char *name, const uint64_t count[256])
{
    int last = 256;
    while (last > 0 && count[last - 1] == 0) last--;
    if (!last) return;
    json_t *array = json_array();
    for (int i = 0; i < last; i++) json_array_append_new(array, json_integer((json_int_t)count[i]));
    json_object_set_new(j, name, array);
}

static json_t *gptq_json(const nib_tensor_gptq *g)
{
    const nib_gptq_report *r = &g->report;
    json_t *tokens = g->tokens == UINT64_MAX ? json_null() : json_integer((json_int_t)g->tokens);
    json_t *seconds = json_pack("{s:f,s:f,s:f,s:f,s:f}", "hessian", g->seconds_hessian, "factor",
                                g->seconds_factor, "plain", r->seconds_plain, "measure",
                                r->seconds_measure, "sweep", r->seconds_sweep);
    return json_pack("{s:s,s:I,s:o,s:f,s:i,s:I,s:s,s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o}",
                     "hessian", g->hessian, "k", (json_int_t)g->k, "tokens", tokens, "damping",
                     g->damping, "tries", g->tries, "dead", (json_int_t)g->dead, "outcome",
                     nibble_outcome(r->outcome), "rows", (json_int_t)r->rows, "plain_rows",
                     (json_int_t)r->plain_rows, "error", number_or_null(r->error), "plain_error",
                     number_or_null(r->plain_error), "weight", number_or_null(r->weight),
                     "relative_error", number_or_null(r->error / r->weight),
                     "relative_plain_error", number_or_null(r->plain_error / r->weight), "ratio",
                     number_or_null(nibble_error_ratio(r)), "seconds", seconds);
}

static json_t *tensor_json(const nib_tensor_report *t, const nib_tensor_gptq *gptq)
{
    json_t *dims = json_array();
    for (int i = 0; i < t->n_dims; i++) json_array_append_new(dims, json_integer(t->dims[i]));
    json_t *j = json_pack("{s:s,s:s,s:s,s:s,s:b,s:o,s:I,s:I}", "name", t->name, "layer_type",
                          t->layer_type, "source_type", t->source_type, "stored_type",
                          t->stored_type, "quantized", t->quantized, "dims", dims, "source_bytes",
                          (json_int_t)t->source_bytes, "stored_bytes",
                          (json_int_t)t->stored_bytes);
    const nib_quantize_report *e = &t->error;
    if (j && gptq) json_object_set_new(j, "gptq", gptq_json(gptq));
    if (!j || !e->elements) return j;
    json_object_set_new(j, "tensor_scale", number_or_null((double)t->tensor_scale));
    json_object_set_new(j, "mse", number_or_null(nibble_mse(e)));
    json_object_set_new(j, "relative_mse", number_or_null(nibble_relative_mse(e)));
    json_object_set_new(j, "snr_db", number_or_null(nibble_snr_db(e)));
    json_object_set_new(j, "max_error", number_or_null(nibble_max_error(e)));
    json_object_set_new(j, "sum_sq_error", number_or_null(e->sum_sq_error));
    json_object_set_new(j, "sum_sq", number_or_null(e->sum_sq));
    json_object_set_new(j, "overflowed", json_boolean(nibble_overflowed(e)));
    json_object_set_new(j, "nonfinite", json_integer((json_int_t)e->nonfinite));
    json_object_set_new(j, "flushed", json_integer((json_int_t)e->flushed));
    json_object_set_new(j, "saturated", json_integer((json_int_t)e->saturated));
    set_counts(j, "code_count", e->code_count);
    set_counts(j, "scale_count", e->scale_count);
    return j;
}

static json_t *report_json(const char *command, const nib_checkpoint_report *r,
                           const char *source, const char *target)
{
    json_t *tensors = json_array();
    for (uint64_t i = 0; i < r->n_tensors; i++)
        json_array_append_new(tensors, tensor_json(&r->tensors[i], r->gptq ? r->gptq[i] : NULL));
    json_t *seconds = json_pack("{s:f,s:f,s:f,s:f,s:f}", "total", r->seconds, "amax",
                                r->seconds_amax, "quantize", r->seconds_quantize, "stats",
                                r->seconds_stats, "write", r->seconds_write);
    const nibble_ratios all = nibble_gptq_ratios(r);
    json_t *gptq = r->gptq ? json_pack("{s:I,s:o,s:o,s:o}", "layers", (json_int_t)all.layers,
                                       "median_ratio", number_or_null(all.median), "mean_ratio",
                                       number_or_null(all.mean), "worst_ratio",
                                       number_or_null(all.worst)) : NULL;
    return json_pack("{s:s,s:s,s:s,s:s*,s:o*,s:I,s:I,s:I,s:b,s:i,s:o,s:o}", "command", command,
                     "version", nib_version(), "source", source, "target", target, "gptq", gptq,
                     "source_bytes", (json_int_t)r->source_bytes, "stored_bytes",
                     (json_int_t)r->stored_bytes, "nonfinite", (json_int_t)r->nonfinite,
                     "source_quantized", r->source_quantized, "threads", r->threads, "seconds",
                     seconds, "tensors", tensors);
}

/* ---- the file ---- */

/* Devices, pipes and links are written through, like standard output. */
static int is_special(const char *path)
{
    struct stat st;
    return !strcmp(path, "-") || (lstat(path, &st) == 0 && !S_ISREG(st.st_mode));
}

int nibble_check_json(const char *path, const nibble_reads *reads)
{
    struct stat st;
    if (!path || !strcmp(path, "-") || (stat(path, &st) == 0 && !S_ISREG(st.st_mode))) return 0;
    const char *hessians = reads->hessians ? reads->hessians : reads->inputs;
    nib_hessian_table table = { 0 };
    nib_model *model;
    nib_status status = NIB_OK;
    /* What cannot be opened is the run's to tell. */
    for (int i = 0; i < 2 && status == NIB_OK; i++) {
        if (!reads->models[i] || nib_model_open(reads->models[i], &model) != NIB_OK) continue;
        status = nib_guard_model(path, model);
        nib_model_close(model);
    }
    if (status == NIB_OK && hessians
        && nib_hessian_table_open(hessians, !reads->hessians, &table) == NIB_OK)
        status = nib_guard_hessians(path, &table);
    nib_hessian_table_close(&table);
    if (status != NIB_OK) return nibble_failed("the JSON");
    if (!reads->dst || !nib_path_is_within(reads->dst, path)) return 0;
    fprintf(stderr, "nibble: the JSON: %s: lies in %s, which is made whole or not at all\n", path,
            reads->dst);
    return 1;
}

/* Aside and renamed, so that a full disk leaves what was there. */
static int write_file(const char *path, const char *text, size_t bytes)
{
    nib_output *out;
    nib_output_data *data;
    nib_status status = nib_output_begin(path, 0, 1, 0, "json", &out);
    if (status != NIB_OK) return nibble_failed("the JSON");
    status = nib_output_file(out, NULL, text, bytes, bytes, &data);
    if (status == NIB_OK) status = nib_output_commit(out);
    if (status == NIB_OK) return 0;
    nib_output_abort(out, 0);
    return nibble_failed("the JSON");
}

/* Whether a file can be made beside path. If not for want of a right to, errno says so: a folder
 * that is written to alone, a read-only system with one file mounted into it, /proc. */
static int is_folder_open(const char *path)
{
    const char *const slash = strrchr(path, '/');
    char *name;
    if (asprintf(&name, "%.*s.nibble-XXXXXX", slash ? (int)(slash + 1 - path) : 0, path) < 0)
        return 1;
    const int file = mkostemp(name, O_CLOEXEC);
    const int error = errno;
    if (file >= 0) {
        close(file);
        unlink(name);
    }
    free(name);
    errno = error;
    return file >= 0 || (error != EACCES && error != EPERM && error != EROFS && error != ENOENT);
}

/* A file that is there, and only it, may be written to: then not aside. */
static int is_only_file_open(const char *path)
{
    if (access(path, W_OK) != 0 || is_folder_open(path)) return 0;
    fprintf(stderr, "nibble: %s: its folder takes no new file (%s), so the JSON is written over "
            "what is there: a failure would leave a part of it\n", path, strerror(errno));
    return 1;
}

static int write_through(const char *path, const char *text)
{
    FILE *out = strcmp(path, "-") ? fopen(path, "w") : stdout;
    if (!out) {
        fprintf(stderr, "nibble: %s: %s\n", path, strerror(errno));
        return 1;
    }
    int failed = fputs(text, out) == EOF;
    failed |= (out == stdout ? fflush(out) : fclose(out)) != 0;
    if (failed) fprintf(stderr, "nibble: %s: the JSON could not be written\n", path);
    return failed;
}

int nibble_write_json(const char *path, const char *command, const nib_checkpoint_report *report,
                      const char *source, const char *target)
{
    json_t *j = report_json(command, report, source, target);
    char *dumped = j ? json_dumps(j, JSON_INDENT(1)) : NULL, *text = NULL;
    const int bytes = dumped ? asprintf(&text, "%s\n", dumped) : -1;
    json_decref(j);
    free(dumped);
    if (bytes < 0) {
        fprintf(stderr, "nibble: %s: the JSON could not be made\n", path);
        return 1;
    }
    const int failed = is_special(path) || is_only_file_open(path)
                     ? write_through(path, text) : write_file(path, text, (size_t)bytes);
    free(text);
    return failed;
}
