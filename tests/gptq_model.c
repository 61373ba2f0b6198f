/* gptq_model.c: see gptq_model.h. */
#include "gptq_model.h"

static void correlate(float *x, int64_t n)
{
    for (int64_t i = 1; i < n; i++) x[i] += 0.9f * x[i - 1];
    for (int64_t i = 0; i < n; i++)
        if (i % 64 == 5 || i % 64 == 40) x[i] *= 12.0f;
}

#define INPUTS(name, k) { name, NIB_TT_F32, 2, { GPTQ_TOKENS, k }, 1.0f, correlate }
#define LAYER(l)                                              \
    INPUTS("model.layers." l ".self_attn.qkv", 64),           \
    INPUTS("model.layers." l ".self_attn.o_proj.weight", 64), \
    INPUTS("model.layers." l ".mlp.gate_proj", 64),           \
    INPUTS("model.layers." l ".mlp.down_proj", 128)

const fixture_tensor *gptq_inputs(void)
{
    static const fixture_tensor inputs[GPTQ_INPUTS] = { LAYER("0"), LAYER("1") };
    return inputs;
}

int gptq_save_hessians(const char *path, nib_real real, size_t n)
{
    static double data[GPTQ_INPUTS][128 * 128], workspace[1 << 20];
    uint64_t tokens[GPTQ_INPUTS];
    const char *names[GPTQ_INPUTS];
    nib_hessian h[GPTQ_INPUTS];
    nib_exec exec = *fixture_exec(1);
    void *aligned = (void *)(((uintptr_t)workspace + 63) / 64 * 64);
    exec.workspace = aligned;
    exec.workspace_bytes = sizeof workspace - 64;
    int ok = 1;
    for (size_t i = 0; i < n; i++) {
        int64_t count;
        const int64_t k = gptq_inputs()[i].dims[1];
        float *x = fixture_floats(&gptq_inputs()[i], &count);
        const nib_matrix m = { x, NIB_F32, GPTQ_TOKENS, k, k };
        names[i] = gptq_inputs()[i].name;
        h[i] = (nib_hessian){ .size = sizeof h[i], .real = real, .k = k, .data = data[i],
                              .ld_elems = k, .tokens = &tokens[i] };
        ok = ok && nib_hessian_clear(&exec, &h[i]) == NIB_OK
          && nib_hessian_add(&exec, &m, NIB_HESSIAN_EXACT, &h[i]) == NIB_OK;
        free(x);
    }
    return ok && nib_hessian_save(path, (int64_t)n, names, h, 1) == NIB_OK;
}

int gptq_save_element(const char *path, const char *name, int64_t k, int64_t row, int64_t col,
                      double element)
{
    double *data = calloc((size_t)(k * k), sizeof *data);
    const nib_hessian h = { .size = sizeof h, .real = NIB_REAL_F64, .k = k, .data = data,
                            .ld_elems = k };
    for (int64_t i = 0; data && i < k; i++) data[i * k + i] = 1 + (double)i;
    if (data) data[row * k + col] = element;
    const int ok = data && nib_hessian_save(path, 1, &name, &h, 1) == NIB_OK;
    free(data);
    return ok;
}

int gptq_save_diagonal(const char *path, const char *name, int64_t k, int64_t at, double element)
{
    return gptq_save_element(path, name, k, at, at, element);
}

const char *gptq_feeds(const char *weight, char *text, size_t bytes)
{
    static const char *const rows[][2] = {
        { "q_proj.weight", "qkv" }, { "k_proj.weight", "qkv" }, { "v_proj.weight", "qkv" },
        { "o_proj.weight", "o_proj.weight" }, { "gate_proj.weight", "gate_proj" },
        { "up_proj.weight", "gate_proj" }, { "down_proj.weight", "down_proj" } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *at = strstr(weight, rows[i][0]);
        if (!at) continue;
        snprintf(text, bytes, "%.*s%s", (int)(at - weight), weight, rows[i][1]);
        return text;
    }
    return NULL;
}

int gptq_begin(gptq_case *c)
{
    *c = (gptq_case){ .dir = temp_dir_make() };
    snprintf(c->src, sizeof c->src, "%s/src", c->dir.path);
    snprintf(c->dst, sizeof c->dst, "%s/dst", c->dir.path);
    snprintf(c->other, sizeof c->other, "%s/other", c->dir.path);
    snprintf(c->hessians, sizeof c->hessians, "%s/h.safetensors", c->dir.path);
    c->factor.size = sizeof c->factor;
    c->gptq = (nib_checkpoint_gptq){ .size = sizeof c->gptq, .hessians = c->hessians,
                                     .factor = &c->factor };
    return fixture_folder(c->src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1)
        && gptq_save_hessians(c->hessians, NIB_REAL_F32, GPTQ_INPUTS);
}

nib_checkpoint_options gptq_options(const gptq_case *c, nib_export export_as, nib_format format)
{
    nib_checkpoint_options o = fixture_options(export_as, format);
    o.gptq = &c->gptq;
    return o;
}

nib_status run_model(const gptq_case *c, const char *to, const nib_checkpoint_options *options,
                    int threads, nib_checkpoint_report **report)
{
    return nib_checkpoint_quantize(fixture_exec(threads), c->src, to, options, report);
}
