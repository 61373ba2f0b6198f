/* checkpoint_gptq_test.c: GPTQ within nib_checkpoint_quantize: the bytes are those of direct calls,
 * whatever the export, threads, shards and restarts. */
#include <math.h>

#include "gptq_model.h"
#include "shim.h"

static gptq_case c;

/* ---- direct calls ---- */

/* A layer's weights as the pipeline takes them, f32 if they are rotated. */
static nib_matrix weights(const char *name, int32_t rotate)
{
    const fixture_tensor *t = fixture_find(fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, name);
    uint64_t bytes;
    nib_matrix m = { fixture_bytes(t, &bytes), NIB_BF16, t->dims[0], t->dims[1], t->dims[1] };
    if (!rotate) return m;
    const nib_transform turn = { .size = sizeof turn, .hadamard = rotate };
    nib_matrix rotated = { malloc(bytes * 2), NIB_F32, m.rows, m.cols, m.cols };
    EXPECT(nib_transform_apply(fixture_exec(1), &turn, &m, &rotated) == NIB_OK, "%s",
           nib_last_error());
    free(m.data);
    return rotated;
}

/* The largest of those that share name's tensor scale. */
static float shared_amax(const char *name, int32_t rotate)
{
    static const char *const groups[][4] = { { "q_proj", "k_proj", "v_proj" },
                                             { "gate_proj", "up_proj" } };
    float largest = 0, amax = 0;
    char text[128];
    for (int g = 0; g < 3; g++) {
        for (int i = 0; g < 2 && i < 4 && groups[g][i]; i++) {
            const char *at = strstr(name, groups[g][i]);
            for (int k = 0; at && k < 4 && groups[g][k]; k++) {
                snprintf(text, sizeof text, "%.*s%s.weight", (int)(at - name), name, groups[g][k]);
                const nib_matrix m = weights(text, rotate);
                EXPECT(nib_amax(fixture_exec(1), &m, &amax, NULL) == NIB_OK, "%s", text);
                largest = fmaxf(largest, amax);
                free(m.data);
            }
            if (at) return largest;
        }
    }
    const nib_matrix m = weights(name, rotate);
    EXPECT(nib_amax(fixture_exec(1), &m, &amax, NULL) == NIB_OK, "%s", name);
    free(m.data);
    return amax;
}

typedef struct direct {
    uint8_t         codes[8192], scales[1024];
    float           tensor_scale, encode; /* a multiplier; what compressed-tensors stores */
    nib_gptq_report report;
} direct;

static nib_status solve(const char *name, const nib_checkpoint_options *o, nib_rules_preset preset,
                        direct *d)
{
    static double data[128 * 128], l[128 * 128], room[1 << 19];
    static int32_t order[128];
    char text[128];
    uint64_t tokens;
    nib_rules rules = { .size = sizeof rules };
    nib_exec exec = *fixture_exec(1);
    exec.workspace = (void *)(((uintptr_t)room + 63) / 64 * 64);
    exec.workspace_bytes = sizeof room - 64;
    nib_hessian h = { .size = sizeof h };
    const nib_matrix w = weights(name, c.gptq.rotate);
    const float amax = shared_amax(name, c.gptq.rotate);
    const int scaled = nib_format_has_tensor_scale(o->format);
    nib_status s = nib_hessian_load(c.hessians, gptq_feeds(name, text, sizeof text), &h);
    h.data = data;
    h.tokens = &tokens;
    if (s == NIB_OK) s = nib_hessian_load(c.hessians, text, &h);
    if (s == NIB_OK && c.gptq.rotate) s = nib_hessian_rotate(&exec, &h, c.gptq.rotate);
    nib_gptq_factor f = { .size = sizeof f, .real = h.real, .k = h.k, .l = l, .ld_elems = h.k,
                          .order = order };
    nib_gptq_factor_options how = c.factor;
    how.block = nib_format_block(o->format);
    if (s == NIB_OK) s = nib_gptq_factor_make(&exec, &h, &how, &f);
    if (s == NIB_OK) s = nib_rules_fill(preset, o->format, &rules);
    const nib_gptq_options options = {
        .size = sizeof options, .scales = c.gptq.scales,
        .quantize = { .size = sizeof options.quantize, .scale_choice = o->scale_choice,
                      .rules = &rules, .tensor_amax = scaled ? &amax : NULL } };
    const nib_packed dst_packed = {
        .size = sizeof dst_packed, .format = o->format, .rows = w.rows, .cols = w.cols,
        .codes = d->codes, .ld_codes_bytes = w.cols / 2, .scales = d->scales,
        .tensor_scale = scaled ? &d->tensor_scale : NULL };
    d->report = (nib_gptq_report){ .size = sizeof d->report };
    if (s == NIB_OK) s = nib_gptq_quantize(&exec, &h, &f, &w, &options, &dst_packed, &d->report);
    if (s == NIB_OK && scaled)
        s = nib_tensor_scale(o->format, &rules, o->scale_choice, w.dtype, amax, &d->encode,
                             &d->tensor_scale);
    free(w.data);
    return s;
}

static int same_tensor(const nib_safetensors *st, const char *weight, const char *tail,
                       const void *bytes)
{
    char name[160];
    snprintf(name, sizeof name, "%.*s%s", (int)strlen(weight) - 7, weight, tail);
    const nib_tensor *t = nib_safetensors_find(st, name);
    return t && !memcmp(t->data, bytes, t->bytes);
}

static void expect_direct(const nib_checkpoint_options *o, nib_rules_preset preset,
                          const nib_checkpoint_report *r)
{
    static direct d;
    nib_safetensors *st;
    const int modelopt = o->export_as == NIB_EXPORT_MODELOPT;
    int layers = 0;
    REQUIRE(nib_safetensors_open(c.dst, &st) == NIB_OK, "%s", nib_last_error());
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const char *name = r->tensors[i].name;
        if (!r->tensors[i].quantized) continue;
        REQUIRE(r->gptq && r->gptq[i], "%s has no Hessian", name);
        const nib_tensor_gptq *g = r->gptq[i];
        const nib_status s = solve(name, o, preset, &d);
        REQUIRE(s == NIB_OK, "%s: %s", name, nib_last_error());
        EXPECT(same_tensor(st, name, modelopt ? ".weight" : ".weight_packed", d.codes), "%s", name);
        EXPECT(same_tensor(st, name, ".weight_scale", d.scales), "%s: scales", name);
        if (modelopt)
            EXPECT(same_tensor(st, name, ".weight_scale_2", &d.tensor_scale), "%s: %g", name,
                   (double)d.tensor_scale);
        else if (o->format == NIB_NVFP4)
            EXPECT(same_tensor(st, name, ".weight_global_scale", &d.encode), "%s: %g", name,
                   (double)d.encode);
        EXPECT(!memcmp(&g->report.error, &d.report.error, sizeof(double))
                   && !memcmp(&g->report.plain_error, &d.report.plain_error, sizeof(double))
                   && g->report.plain_rows == d.report.plain_rows, "%s: report", name);
        EXPECT(g->report.error <= g->report.plain_error * 1.0001 && g->report.weight > 0,
               "%s: %g over %g", name, g->report.error, g->report.plain_error);
        EXPECT(g->k == r->tensors[i].dims[1] && g->tokens == GPTQ_TOKENS && g->tries == 1
                   && g->damping > 0.0099 && g->damping < 0.0101, "%s: %d tries", name, g->tries);
        const int shares = strstr(name, ".k_") || strstr(name, ".v_") || strstr(name, ".up_");
        EXPECT((g->seconds_factor > 0) == !shares, "%s: factored again, or not at all", name);
        layers++;
    }
    nib_safetensors_close(st);
    EXPECT(layers == 14, "%d layers", layers);
}

static void check_direct(nib_export export_as, nib_format format, nib_rules_preset preset)
{
    nib_checkpoint_report *r = NULL;
    const nib_checkpoint_options o = gptq_options(&c, export_as, format);
    REQUIRE(run_model(&c, c.dst, &o, 3, &r) == NIB_OK, "%s", nib_last_error());
    expect_direct(&o, preset, r);
    EXPECT(fixture_has(c.dst, "nibble_rotation.json") == (c.gptq.rotate != 0), "rotation");
    nib_checkpoint_report_free(r);
    temp_dir_remove_at(c.dst);
}

NIB_TEST(CheckpointGptq, BytesOfDirectCalls)
{
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    check_direct(NIB_EXPORT_MODELOPT, NIB_NVFP4, NIB_RULES_MODELOPT);
    c.gptq.rotate = 32;
    c.gptq.all = 1;
    check_direct(NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4, NIB_RULES_COMPRESSED_TENSORS);
    c.gptq.rotate = 0;
    c.factor.order = NIB_GPTQ_GROUP_AWARE;
    c.gptq.scales = NIB_GPTQ_SCALES_HESSIAN_FRESH;
    check_direct(NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4, NIB_RULES_COMPRESSED_TENSORS);
    REQUIRE(gptq_save_hessians(c.hessians, NIB_REAL_F64, GPTQ_INPUTS), "%s", nib_last_error());
    c.factor.order = NIB_GPTQ_ACT;
    c.gptq.scales = NIB_GPTQ_SCALES_HESSIAN;
    check_direct(NIB_EXPORT_MODELOPT, NIB_NVFP4, NIB_RULES_MODELOPT);
    temp_dir_remove(&c.dir);
}

/* ---- the same bytes by c.other ways ---- */

/* Inputs in place of Hessians, and a folder of files, one for each name. */
NIB_TEST(CheckpointGptq, InputsAndFolders)
{
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_MODELOPT, NIB_NVFP4);
    REQUIRE(run_model(&c, c.dst, &o, 1, NULL) == NIB_OK, "%s", nib_last_error());
    const char *inputs = temp_path(&c.dir, "inputs");
    REQUIRE(mkdir(inputs, 0777) == 0, "%s", inputs);
    for (int i = 0; i < GPTQ_INPUTS; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%d.safetensors", inputs, i);
        REQUIRE(fixture_safetensors(path, &gptq_inputs()[i], 1), "%s", path);
    }
    c.gptq.hessians = NULL;
    c.gptq.inputs = inputs;
    c.gptq.all = 1;
    for (int threads = 1; threads < 3; threads++) {
        REQUIRE(run_model(&c, c.other, &o, threads, NULL) == NIB_OK, "%s", nib_last_error());
        EXPECT(fixture_same(c.dst, c.other), "%d threads", threads);
        temp_dir_remove_at(c.other);
    }
    temp_dir_remove(&c.dir);
}

/* GGUF has q's and k's rows in another order, and the same values. */
NIB_TEST(CheckpointGptq, GgufHoldsTheSameValues)
{
    nib_rules rules = { .size = sizeof rules };
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    snprintf(c.src, sizeof c.src, "%s/src.gguf", c.dir.path);
    REQUIRE(fixture_gguf(c.src, fixture_llama_gguf(NIB_TT_BF16), FIXTURE_LLAMA), "%s", c.src);
    for (int mx = 0; mx < 2; mx++) {
        nib_checkpoint_report *r = NULL;
        const nib_format format = mx ? NIB_MXFP4 : NIB_NVFP4;
        nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_COMPRESSED_TENSORS, format);
        REQUIRE(nib_rules_fill(NIB_RULES_TE, format, &rules) == NIB_OK, "%s", nib_last_error());
        o.rules = &rules;
        REQUIRE(run_model(&c, c.dst, &o, 2, NULL) == NIB_OK, "%s", nib_last_error());
        o.export_as = NIB_EXPORT_GGUF;
        REQUIRE(run_model(&c, c.other, &o, 1, NULL) == NIB_OK, "%s", nib_last_error());
        REQUIRE(nib_checkpoint_compare(fixture_exec(0), c.dst, c.other, NULL, &r) == NIB_OK, "%s",
                nib_last_error());
        for (uint64_t i = 0; i < r->n_tensors; i++)
            EXPECT(r->tensors[i].error.max_error < 1e-12, "%s: %g", r->tensors[i].name,
                   r->tensors[i].error.max_error);
        nib_checkpoint_report_free(r);
        temp_dir_remove_at(c.dst);
        temp_dir_remove_at(c.other);
    }
    temp_dir_remove(&c.dir);
}

/* Those with a Hessian as if all had one, the others as if none had. */
NIB_TEST(CheckpointGptq, OthersAreRoundedPlainly)
{
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    nib_checkpoint_report *r = NULL;
    nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_MODELOPT, NIB_NVFP4);
    REQUIRE(run_model(&c, c.dst, &o, 1, NULL) == NIB_OK, "%s", nib_last_error());
    o.gptq = NULL;
    REQUIRE(run_model(&c, c.other, &o, 1, &r) == NIB_OK, "%s", nib_last_error());
    EXPECT(!r->gptq, "a report of GPTQ");
    nib_checkpoint_report_free(r);
    o.gptq = &c.gptq;
    const char *part = temp_path(&c.dir, "part");
    REQUIRE(gptq_save_hessians(c.hessians, NIB_REAL_F32, GPTQ_INPUTS / 2), "%s", nib_last_error());
    REQUIRE(run_model(&c, part, &o, 1, &r) == NIB_OK, "%s", nib_last_error());
    nib_safetensors *st[3];
    REQUIRE(nib_safetensors_open(part, &st[0]) == NIB_OK && nib_safetensors_open(c.dst, &st[1])
                == NIB_OK && nib_safetensors_open(c.other, &st[2]) == NIB_OK, "%s",
            nib_last_error());
    int differ = 0;
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const char *name = r->tensors[i].name;
        const int first = strstr(name, "layers.0.") != NULL;
        if (!r->tensors[i].quantized) continue;
        EXPECT((r->gptq[i] != NULL) == first, "%s", name);
        const nib_tensor *t[3];
        for (int k = 0; k < 3; k++) t[k] = nib_safetensors_find(st[k], name);
        EXPECT(!memcmp(t[0]->data, t[first ? 1 : 2]->data, t[0]->bytes), "%s", name);
        differ += memcmp(t[1]->data, t[2]->data, t[1]->bytes) != 0;
    }
    EXPECT(differ == 14, "%d tensors differ from plain rounding", differ);
    for (int k = 0; k < 3; k++) nib_safetensors_close(st[k]);
    nib_checkpoint_report_free(r);
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointGptq, PartsAreTheWhole)
{
    char parts[3][300];
    const char *paths[3];
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4);
    REQUIRE(run_model(&c, c.dst, &o, 1, NULL) == NIB_OK, "%s", nib_last_error());
    o.shards = 3;
    for (int i = 0; i < 3; i++) {
        snprintf(parts[i], sizeof parts[i], "%s/part%d", c.dir.path, i);
        paths[i] = parts[i];
        o.shard = i + 1;
        REQUIRE(run_model(&c, parts[i], &o, 1, NULL) == NIB_OK, "%s", nib_last_error());
    }
    REQUIRE(nib_checkpoint_merge(paths, 3, c.other, 0) == NIB_OK, "%s", nib_last_error());
    EXPECT(fixture_same_tensors(c.dst, c.other), "other tensors");
    temp_dir_remove_at(c.other);
    c.gptq.scales = NIB_GPTQ_SCALES_HESSIAN; /* a part of another run */
    temp_dir_remove_at(parts[2]);
    REQUIRE(run_model(&c, parts[2], &o, 1, NULL) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_checkpoint_merge(paths, 3, c.other, 0) == NIB_ERR_ARGUMENT, "merged");
    EXPECT(fixture_error_has("'scales=frozen', 'scales=hessian'"), "%s", nib_last_error());
    temp_dir_remove(&c.dir);
}

/* ---- stops ---- */

NIB_TEST(CheckpointGptq, ResumesToTheSameBytes)
{
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    nib_checkpoint_report *whole = NULL, *r = NULL;
    nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_MODELOPT, NIB_NVFP4);
    REQUIRE(run_model(&c, c.other, &o, 1, &whole) == NIB_OK, "%s", nib_last_error());
    fixture_stopper s = { 0, 0 };
    o.progress = fixture_stop;
    o.user = &s;
    o.cancel = &s.cancel;
    o.resume = 1;
    for (s.after = 3; s.after < 18; s.after += 4) { /* each goes on from the last */
        s.cancel = 0;
        EXPECT(run_model(&c, c.dst, &o, 2, NULL) == NIB_ERR_CANCELLED, "%d: %s", s.after,
               nib_last_error());
    }
    c.gptq.real_bits = 64;
    s.after = 1000, s.cancel = 0;
    EXPECT(run_model(&c, c.dst, &o, 1, NULL) == NIB_ERR_EXISTS && fixture_error_has("f64"), "%s",
           nib_last_error());
    c.gptq.real_bits = 0;
    REQUIRE(run_model(&c, c.dst, &o, 1, &r) == NIB_OK, "%s", nib_last_error());
    EXPECT(fixture_same(c.dst, c.other), "other bytes");
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const nib_tensor_gptq *a = whole->gptq[i], *b = r->gptq[i];
        EXPECT(!a == !b, "%s", r->tensors[i].name);
        if (!a || !b) continue;
        EXPECT(a->tokens == b->tokens && a->tries == b->tries && a->dead == b->dead
                   && a->report.rows == b->report.rows && a->report.outcome == b->report.outcome
                   && a->report.plain_rows == b->report.plain_rows
                   && !memcmp(&a->damping, &b->damping, 8)
                   && !memcmp(&a->report.error, &b->report.error, 8)
                   && !memcmp(&a->report.plain_error, &b->report.plain_error, 8)
                   && !memcmp(&a->report.weight, &b->report.weight, 8),
               "%s: other figures", r->tensors[i].name);
    }
    nib_checkpoint_report_free(whole);
    nib_checkpoint_report_free(r);

    temp_dir_remove_at(c.dst); /* c.other Hessians: nothing to go on from */
    s.after = 5, s.cancel = 0;
    EXPECT(run_model(&c, c.dst, &o, 2, NULL) == NIB_ERR_CANCELLED, "%s", nib_last_error());
    REQUIRE(gptq_save_hessians(c.hessians, NIB_REAL_F32, GPTQ_INPUTS), "%s", nib_last_error());
    s.cancel = 0;
    EXPECT(run_model(&c, c.dst, &o, 2, NULL) == NIB_ERR_EXISTS && fixture_error_has("files="), "%s",
           nib_last_error());
    temp_dir_remove(&c.dir);
}
