/* qbench_axes.c: what can be varied: one table, and the reader of lists and ranges. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qbench_ops.h"

static const char *const backend_names[] = { "auto", "cpu", "cuda", NULL };
static const char *const isa_names[] = { "auto", "portable", "avx2", "avx512", NULL };
static const char *const launch_names[] = { "auto", "graph", "stream", NULL };
static const char *const dtype_names[] = { "f32", "f16", "bf16", NULL };
static const char *const choice_names[] = { "amax", "mse", "mse-full", "four-over-six-mse",
                                            "four-over-six-mae", NULL };
static const char *const rounding_names[] = { "nearest", "stochastic", NULL };
static const char *const gradient_names[] = { "identity", "clamp", NULL }; /* nib_fake_gradient */
static const char *const mask_names[] = { "none", "bits", NULL };
static const char *const scale_rows_names[] = { "1", "16", NULL };
static const char *const layout_names[] = { "linear", "swizzled", NULL };
static const char *const tactic_names[] = { "auto", NIB_QB_TACTIC_NAMES, NULL };
static const char *const accumulate_names[] = { "f32", "f16", "f16-128", "f16-256", NULL };
static const char *const activations_names[] = { "exact", "int8", NULL };
static const char *const precision_names[] = { "exact", "tf32", NULL }; /* nib_hessian_precision */
static const char *const real_names[] = { "f32", "f64", NULL }; /* nib_real */
static const char *const order_names[] = { "natural", "act", "group-aware", NULL };
static const char *const gptq_scales_names[] = { "frozen", "fresh", "hessian", "hessian-fresh",
                                                 "hessian-full", NULL };
static const char *const element_names[] = { "int2", "int3", "int4", "int5", "int6", "int7", "int8",
                                             NULL }; /* nib_step_element, from NIB_INT2 on */
static const char *const guard_names[] = { "off", "on", NULL };
static const char *const cache_names[] = { "cold", "cold-weights", "flush", "hot", NULL };
static const char *const cache_also[] = { "all", "weights", "flush", "none", NULL };

static nib_status read_format(const char *text, int64_t *value)
{
    nib_format format;
    const nib_status status = nib_format_from_name(text, &format);
    if (status == NIB_OK) *value = format;
    return status;
}

static void write_format(int64_t value, char *text, size_t bytes)
{
    if (nib_format_name((nib_format)value, text, bytes) != NIB_OK) snprintf(text, bytes, "?");
}

static nib_status read_rules(const char *text, int64_t *value)
{
    nib_rules_preset preset;
    const nib_status status = nib_rules_preset_from_name(text, &preset);
    if (status == NIB_OK) *value = preset;
    return status;
}

static void write_rules(int64_t value, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s", nib_rules_preset_name((nib_rules_preset)value));
}

/* An operation may take less. */
static nib_status read_block(const char *text, int64_t *value)
{
    enum { UNIT = 8, MOST = 1 << 30 };
    char *end;
    *value = NIB_QB_BY_ROW;
    if (!strcmp(text, "channel")) return NIB_OK;
    if (*text < '0' || *text > '9') return NIB_ERR_ARGUMENT;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return errno || *end || *value > MOST || *value % UNIT ? NIB_ERR_ARGUMENT : NIB_OK;
}

static void write_block(int64_t value, char *text, size_t bytes)
{
    if (value == NIB_QB_BY_ROW) snprintf(text, bytes, "channel");
    else snprintf(text, bytes, "%lld", (long long)value);
}

const nib_qb_axis nib_qb_axes[NIB_QB_AXES] = {
    [NIB_QB_BACKEND] = { "backend", "NAME", "auto", "auto, cpu, cuda", .names = backend_names },
    [NIB_QB_DEVICE] = { "device", "N", "0", "number of the GPU", .low = 0 },
    [NIB_QB_ISA] = { "isa", "NAME", "auto", "of the CPU: auto, portable, avx2, avx512",
                     .names = isa_names },
    [NIB_QB_LAUNCH] = { "launch", "NAME", "auto", "of a GPU's calls: graph (what auto takes where "
                        "it can), stream: one by one", .names = launch_names },
    [NIB_QB_FORMAT] = { "format", "NAME", "nvfp4",
                        "nvfp4, mxfp4, mxfp8-e4m3, ... or parts such as e2m1/e4m3/64/tensor",
                        .read = read_format, .write = write_format },
    [NIB_QB_BLOCK] = { "block", "N", "0", "that format with blocks of 8, 16, 32, 64 or 128; 0: its "
                       "own; or integers by groups of so many, a multiple of 8 (0: 128), or "
                       "channel: by the row", .read = read_block, .write = write_block,
                       .choices = "0, 8, 16, 32, 64, 128, of integers any multiple of 8, and "
                                  "channel" },
    [NIB_QB_DTYPE] = { "dtype", "NAME", "f32", "of the plain matrix: f32, f16, bf16",
                       .names = dtype_names },
    [NIB_QB_RULES] = { "rules", "NAME", "te", "te, modelopt, compressed-tensors, ocp, gguf",
                       .read = read_rules, .write = write_rules },
    [NIB_QB_CHOICE] = { "scale-choice", "NAME", "amax",
                        "amax, mse, mse-full, four-over-six-mse, four-over-six-mae",
                        .names = choice_names },
    [NIB_QB_ROUNDING] = { "rounding", "NAME", "nearest", "nearest, stochastic",
                          .names = rounding_names },
    [NIB_QB_GRADIENT] = { "gradient", "NAME", "clamp", "of fake-quantization: identity, clamp",
                          .names = gradient_names },
    [NIB_QB_MASK] = { "mask", "NAME", "none", "of what was clamped: none, or bits, which forward "
                      "writes and backward reads", .names = mask_names },
    [NIB_QB_SCALE_ROWS] = { "scale-rows", "N", "1", "that share their blocks' scales: 1, 16",
                            .names = scale_rows_names },
    [NIB_QB_LAYOUT] = { "layout", "NAME", "linear", "of the block scales: linear, swizzled",
                        .names = layout_names },
    [NIB_QB_TACTIC] = { "tactic", "NAME", "auto", "of gemm: auto takes the plan's, by M; qbench "
                        "gemm --list-kernels names them", .names = tactic_names },
    [NIB_QB_ACCUMULATE] = { "accumulate", "NAME", "f32", "of gemm: f32, or f16 sums of 64 (f16), "
                            "128 (f16-128) or 256 products", .names = accumulate_names },
    [NIB_QB_ACTIVATIONS] = { "activations", "NAME", "exact", "of gemm on a CPU: exact, int8",
                             .names = activations_names },
    [NIB_QB_PRECISION] = { "precision", "NAME", "exact", "of a Hessian's f32 products on a GPU: "
                           "exact, tf32", .names = precision_names },
    [NIB_QB_REAL] = { "real", "NAME", "f32", "of a Hessian and its factor: f32, f64",
                      .names = real_names },
    [NIB_QB_ORDER] = { "order", "NAME", "natural", "of gptq's inputs: natural, act, group-aware",
                       .names = order_names },
    [NIB_QB_GPTQ_SCALES] = { "scales", "NAME", "frozen", "of gptq's blocks: frozen, fresh, "
                             "hessian, hessian-fresh, hessian-full", .names = gptq_scales_names },
    [NIB_QB_GUARD] = { "guard", "NAME", "off", "of gptq: on keeps rows whose plain rounding is "
                       "better, as the library does unasked; off leaves factor and sweep",
                       .names = guard_names },
    [NIB_QB_ELEMENT] = { "element", "NAME", "int4", "of integers' codes: int2, ..., int8",
                         .names = element_names },
    [NIB_QB_BATCH] = { "batch", "N", "1", "matrices in one call, such as experts", .low = 1 },
    [NIB_QB_M] = { "m", "N", "1", "rows of a product's left matrix, such as tokens", .low = 1 },
    [NIB_QB_N] = { "n", "N", "4096", "rows of its weights, and columns of the result", .low = 1 },
    [NIB_QB_K] = { "k", "N", "4096", "what is summed over", .low = 1 },
    [NIB_QB_ROWS] = { "rows", "N", "4096", "rows of the matrix", .low = 1 },
    [NIB_QB_COLS] = { "cols", "N", "4096", "columns, the direction of the blocks", .low = 1 },
    [NIB_QB_THREADS] = { "threads", "N", "1", "CPU threads; 0: all", .low = 0 },
    [NIB_QB_CACHE] = { "cache", "NAME", "cold",
                       "what is cold before a call: cold (or all), by rotating copies; "
                       "cold-weights (or weights): those alone; flush: one copy, caches emptied; "
                       "hot (or none): nothing",
                       .names = cache_names, .also = cache_also },
};

static int append(nib_qb_values *values, int64_t value)
{
    enum { MOST = 1 << 16 };
    if (values->count >= MOST) return 0;
    int64_t *more = realloc(values->value, ((size_t)values->count + 1) * sizeof *more);
    if (!more) return 0;
    values->value = more;
    values->value[values->count++] = value;
    return 1;
}

static int read_number(const char **text, int64_t *value)
{
    if (**text < '0' || **text > '9') return 0;
    char *end;
    errno = 0;
    *value = strtoll(*text, &end, 10);
    *text = end;
    return errno == 0;
}

/* "16", "1:4096:x2" (factor) or "16:64:+16" (step); both ends belong to the range. */
static int append_numbers(const char *text, int64_t low, nib_qb_values *values)
{
    int64_t first, last, step = 1;
    int     factor = 0;
    if (!read_number(&text, &first) || first < low) return 0;
    last = first;
    if (*text == ':') {
        text++;
        if (!read_number(&text, &last) || last < first || *text++ != ':') return 0;
        if (*text != 'x' && *text != '+') return 0;
        factor = *text++ == 'x';
        if (!read_number(&text, &step) || step < 1 + factor || (factor && first == 0)) return 0;
    }
    if (*text) return 0;
    while (first <= last) {
        if (!append(values, first)) return 0;
        if (factor ? __builtin_mul_overflow(first, step, &first)
                   : __builtin_add_overflow(first, step, &first))
            break;
    }
    return 1;
}

static int append_item(const nib_qb_axis *axis, const char *item, nib_qb_values *values)
{
    int64_t value;
    if (axis->read) return axis->read(item, &value) == NIB_OK && append(values, value);
    if (!axis->names) return append_numbers(item, axis->low, values);
    for (int i = 0; axis->names[i]; i++)
        if (!strcmp(axis->names[i], item) || (axis->also && !strcmp(axis->also[i], item)))
            return append(values, i);
    return 0;
}

static const char *join(const char *const *names, char *text, size_t bytes)
{
    size_t used = 0;
    for (int i = 0; names[i] && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", names[i]);
    return text;
}

int nib_qb_axis_parse(nib_qb_axis_id id, const char *list, nib_qb_values *values, char *error,
                      size_t error_bytes)
{
    const nib_qb_axis *axis = &nib_qb_axes[id];
    free(values->value);
    *values = (nib_qb_values){ 0 };
    for (const char *at = list;; at++) {
        const size_t n = strcspn(at, ",");
        char item[64], choices[512];
        snprintf(item, sizeof item, "%.*s", (int)(n < sizeof item ? n : sizeof item - 1), at);
        if (!append_item(axis, item, values)) { /* no choice is so long that item cuts it */
            if (axis->choices)
                snprintf(error, error_bytes, "--%s: unknown '%s'; the choices are %s", axis->name,
                         item, axis->choices);
            else if (axis->read)
                snprintf(error, error_bytes, "--%s: %s", axis->name, nib_last_error());
            else if (axis->names)
                snprintf(error, error_bytes, "--%s: unknown '%s'; the choices are %s", axis->name,
                         item, join(axis->names, choices, sizeof choices));
            else
                snprintf(error, error_bytes,
                         "--%s: '%s' is not a number >= %lld, nor a range such as 1:4096:x2 or "
                         "16:64:+16", axis->name, item, (long long)axis->low);
            return 0;
        }
        at += n;
        if (!*at) return 1;
    }
}

void nib_qb_axis_print(nib_qb_axis_id id, int64_t value, char *text, size_t bytes)
{
    const nib_qb_axis *axis = &nib_qb_axes[id];
    if (axis->write) axis->write(value, text, bytes);
    else if (axis->names) snprintf(text, bytes, "%s", axis->names[value]);
    else snprintf(text, bytes, "%lld", (long long)value);
}
