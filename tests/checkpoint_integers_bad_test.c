/* checkpoint_integers_bad_test.c: INT4 and INT8 exports: weights that have no ordinary steps, what
 * is refused and how; GPTQ. */
#include <math.h>

#include "gptq_model.h"

static gptq_case c;

static nib_format format_of(const char *name)
{
    nib_format f = 0;
    EXPECT(nib_int_format_from_name(name, &f) == NIB_OK, "%s", nib_last_error());
    return f;
}

static nib_checkpoint_options options_of(const char *format)
{
    return fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, format_of(format));
}

/* Of one tensor alone; 0 paths mean that the folder is not there. */
static void begin(const fixture_tensor *t, size_t n)
{
    c = (gptq_case){ .dir = temp_dir_make() };
    snprintf(c.src, sizeof c.src, "%s/src", c.dir.path);
    snprintf(c.dst, sizeof c.dst, "%s/dst", c.dir.path);
    snprintf(c.other, sizeof c.other, "%s/other", c.dir.path);
    REQUIRE(fixture_safetensors(c.src, t, n), "%s", c.src);
}

/* ---- weights ---- */

static void spoil(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(i % 15 - 7);
    x[3] = NAN, x[64 + 5] = INFINITY, x[64 + 6] = -INFINITY;
    for (int i = 128; i < 192; i++) x[i] = NAN;
    for (int i = 192; i < 256; i++) x[i] = 0.0f;
    x[256] = 1e30f; /* all others of its row are flushed */
    for (int i = 257; i < 320; i++) x[i] = 1.0f;
}

NIB_TEST(CheckpointIntegers, NanInfAndZeros)
{
    static const fixture_tensor t[] = { { "a.down_proj.weight", NIB_TT_F32, 2, { 6, 64 }, 1.0f,
                                          spoil } };
    static const char *const formats[] = { "int4-channel", "int4-b32-asym", "int8-channel-asym" };
    static const char *const types[] = { "INT4-CHANNEL", "INT4-B32-ASYM", "INT8-CHANNEL-ASYM" };
    begin(t, 1);
    for (int i = 0; i < 3; i++) {
        nib_checkpoint_report *r = NULL;
        nib_checkpoint_options o = options_of(formats[i]);
        o.counts = 1;
        EXPECT(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &o, NULL) == NIB_ERR_NONFINITE
                   && fixture_error_has("a.down_proj.weight: element [0, 3] is NaN"), "%s",
               nib_last_error());
        EXPECT(!fixture_leftovers(c.dst), "leftovers");
        o.nonfinite = NIB_NONFINITE_GO_ON;
        REQUIRE(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &o, &r) == NIB_OK, "%s",
                nib_last_error());
        const nib_quantize_report *e = &r->tensors[0].error;
        uint64_t codes = 0;
        for (int k = 0; k < 256; k++) codes += e->code_count[k];
        EXPECT(e->elements == 384 && e->nonfinite == 67 && codes == 384, "%s: %llu of %llu",
               formats[i], (unsigned long long)e->nonfinite, (unsigned long long)e->elements);
        EXPECT(e->flushed >= 31 && isfinite(e->sum_sq_error), "%s: %llu flushed, %g", formats[i],
               (unsigned long long)e->flushed, e->sum_sq_error);
        EXPECT(!strcmp(r->tensors[0].stored_type, types[i]), "%s", r->tensors[0].stored_type);
        nib_checkpoint_report_free(r);
        /* Rows of NaN and of zeros come back as zeros. */
        REQUIRE(nib_checkpoint_compare(fixture_exec(1), c.dst, c.dst, NULL, &r) == NIB_OK, "%s",
                nib_last_error());
        EXPECT(r->nonfinite == 0 && r->tensors[0].error.elements == 384, "%s", formats[i]);
        nib_checkpoint_report_free(r);
        temp_dir_remove_at(c.dst);
    }
    temp_dir_remove(&c.dir);
}

static void ends(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(i % 7 - 3) / 10.0f;
    x[0] = 0.75f, x[64] = -0.75f, x[1] = 0.7f, x[65] = -0.7f;
}

/* 0.75 is 7.5 steps of 0.1: half a step too much for 7, none for -8. */
NIB_TEST(CheckpointIntegers, FiguresByHand)
{
    static const fixture_tensor t[] = { { "a.down_proj.weight", NIB_TT_F32, 2, { 2, 64 }, 1.0f,
                                          ends } };
    nib_checkpoint_report *r = NULL;
    begin(t, 1);
    const nib_checkpoint_options o = options_of("int4-b64");
    REQUIRE(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &o, &r) == NIB_OK, "%s",
            nib_last_error());
    const nib_quantize_report *e = &r->tensors[0].error;
    EXPECT(e->saturated == 1 && e->flushed == 0 && fabs(e->max_error - 0.05) < 1e-6
               && fabs(e->sum_sq_error - 0.005) < 1e-6, "%llu saturated, %g, %g",
           (unsigned long long)e->saturated, e->max_error, e->sum_sq_error);
    EXPECT(r->tensors[0].stored_bytes == 2 * 32 + 2 * 4 + 16, "%llu bytes",
           (unsigned long long)r->tensors[0].stored_bytes);
    nib_checkpoint_report_free(r);
    temp_dir_remove(&c.dir);
}

static void count_amax(void *user, const nib_progress *state)
{
    *(int *)user += state->stage == NIB_STAGE_AMAX;
}

/* Numbers of integer formats are none of which format.h could say that they have a tensor scale:
 * weights are read once. */
NIB_TEST(CheckpointIntegers, WeightsAreReadOnce)
{
    static const fixture_tensor t[] = { { "a.down_proj.weight", NIB_TT_BF16, 2, { 8, 1024 }, 1.0f,
                                          NULL } };
    static const char *const formats[] = { "int4-b32", "int4-b64", "int4", "int8-b256-asym",
                                           "int4-b512", "int8-b1024", "int8-channel-asym" };
    begin(t, 1);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        int passes = 0;
        nib_checkpoint_options o = options_of(formats[i]);
        o.progress = count_amax;
        o.user = &passes;
        REQUIRE(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &o, NULL) == NIB_OK, "%s",
                nib_last_error());
        EXPECT(passes == 0, "%s: %d panels in a first pass", formats[i], passes);
        temp_dir_remove_at(c.dst);
    }
    temp_dir_remove(&c.dir);
}

/* ---- refused ---- */

static void refuse(nib_export export_as, const char *format, nib_status status, const char *part)
{
    nib_checkpoint_options o = options_of(format);
    o.export_as = export_as;
    for (o.dry_run = 0; o.dry_run < 2; o.dry_run++)
        EXPECT(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &o, NULL) == status
                   && fixture_error_has(part), "%s: %s", format, nib_last_error());
    EXPECT(!fixture_leftovers(c.dst), "leftovers");
}

NIB_TEST(CheckpointIntegers, RefusedTargetsAndShapes)
{
    static const fixture_tensor t[] = {
        { "a.down_proj.weight", NIB_TT_BF16, 2, { 8, 64 }, 1.0f, NULL },
        { "a.experts.weight", NIB_TT_BF16, 3, { 2, 8, 64 }, 1.0f, NULL } };
    begin(t, 1);
    refuse(NIB_EXPORT_MODELOPT, "int4-b64", NIB_ERR_UNSUPPORTED,
           "modelopt cannot hold int4-b64: its loaders know nvfp4 (block 16) only");
    refuse(NIB_EXPORT_GGUF, "int8-channel-asym", NIB_ERR_UNSUPPORTED,
           "gguf cannot hold int8-channel-asym: its loaders know nvfp4 and mxfp4 only");
    refuse(NIB_EXPORT_COMPRESSED_TENSORS, "int4", NIB_ERR_UNSUPPORTED, "a.down_proj.weight: 64 "
           "columns; int4 in compressed-tensors needs a multiple of its group, 128");
    refuse(NIB_EXPORT_COMPRESSED_TENSORS, "int4-b24", NIB_ERR_UNSUPPORTED, "its group, 24");
    const nib_checkpoint_options six = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS,
                                                       NIB_FP6_E2M3_B16);
    EXPECT(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &six, NULL) == NIB_ERR_UNSUPPORTED
               && fixture_error_has("nvfp4 and mxfp4 only, int4 and int8"), "%s", nib_last_error());
    REQUIRE(fixture_safetensors(c.src, t, 2), "%s", c.src);
    refuse(NIB_EXPORT_COMPRESSED_TENSORS, "int8-b64", NIB_ERR_UNSUPPORTED,
           "a.experts.weight: 3 dimensions; int8-b64");
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointIntegers, RefusedArithmetic)
{
    static const fixture_tensor t[] = { { "a.down_proj.weight", NIB_TT_BF16, 2, { 8, 256 }, 1.0f,
                                          NULL } };
    nib_rules rules = { .size = sizeof rules };
    begin(t, 1);
    REQUIRE(nib_rules_fill(NIB_RULES_TE, NIB_NVFP4, &rules) == NIB_OK, "%s", nib_last_error());
    nib_checkpoint_options o = options_of("int4");
    o.rules = &rules;
    EXPECT(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &o, NULL) == NIB_ERR_UNSUPPORTED
               && fixture_error_has("integers have steps"), "%s", nib_last_error());
    for (int choice = NIB_SCALE_MSE; choice <= NIB_SCALE_FOUR_OVER_SIX_MAE; choice++) {
        o = options_of("int4");
        o.scale_choice = (nib_scale_choice)choice;
        EXPECT(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &o, NULL)
                   == NIB_ERR_UNSUPPORTED && fixture_error_has("from the range alone"), "%s",
               nib_last_error());
    }
    o = options_of("int8");
    o.rounding = NIB_ROUND_STOCHASTIC;
    EXPECT(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &o, NULL) == NIB_ERR_UNSUPPORTED
               && fixture_error_has("not stochastically"), "%s", nib_last_error());
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointIntegers, RefusedPolicies)
{
    static const struct { const char *text, *part; nib_status status; nib_export to; } rows[] = {
        { "*.q_proj.weight int4-b32\n*.self_attn.*_proj.weight int8-b32\n",
          "loaders of compressed-tensors make one matrix", NIB_ERR_UNSUPPORTED,
          NIB_EXPORT_COMPRESSED_TENSORS },
        { "*.down_proj.weight int4\n*_proj.weight int4-b32\n", "", NIB_OK,
          NIB_EXPORT_COMPRESSED_TENSORS },
        { "*_proj.weight int4\n", "'*_proj.weight int4', decides for", NIB_ERR_UNSUPPORTED,
          NIB_EXPORT_COMPRESSED_TENSORS },
        { "*_proj.weight int4-b32\n*embed* int8-b32\n", "'*embed* int8-b32', decides for "
          "model.embed_tokens.weight, but model.embed_tokens.weight: is an embedding",
          NIB_ERR_UNSUPPORTED, NIB_EXPORT_COMPRESSED_TENSORS },
        { "*_proj.weight int8-b32-asym\n", "cannot hold int8-b32-asym", NIB_ERR_UNSUPPORTED,
          NIB_EXPORT_MODELOPT },
    };
    REQUIRE(gptq_begin(&c) || 1, "%s", nib_last_error());
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        nib_policy *policy = NULL;
        nib_checkpoint_options o = fixture_options(rows[i].to, NIB_NVFP4);
        REQUIRE(nib_policy_parse("p", rows[i].text, strlen(rows[i].text), &policy) == NIB_OK, "%s",
                nib_last_error());
        o.policy = policy;
        o.dry_run = 1;
        EXPECT(nib_checkpoint_quantize(fixture_exec(1), c.src, c.dst, &o, NULL) == rows[i].status
                   && (!*rows[i].part || fixture_error_has(rows[i].part)), "%zu: %s", i,
               nib_last_error());
        nib_policy_close(policy);
    }
    nib_policy *policy = NULL;
    EXPECT(nib_policy_parse("p", "a int4 mse", 10, &policy) == NIB_ERR_FORMAT
               && fixture_error_has("'mse' is a word too many; integers have neither"), "%s",
           nib_last_error());
    EXPECT(nib_policy_parse("p", "a int4-b12", 10, &policy) == NIB_ERR_FORMAT
               && fixture_error_has("and keep; of integers int4 and int8"), "%s", nib_last_error());
    temp_dir_remove(&c.dir);
}

/* ---- GPTQ ---- */

/* What a direct call makes of a layer: its report, and codes as step_codes.h has them. */
static nib_gptq_report direct(const char *name, nib_format f, uint8_t *codes)
{
    static double data[128 * 128], l[128 * 128], room[1 << 19];
    static float steps[128 * 16];
    static int8_t zeros[128 * 16];
    static int32_t order[128];
    char text[128];
    uint64_t tokens, bytes;
    const fixture_tensor *t = fixture_find(fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, name);
    const nib_matrix w = { fixture_bytes(t, &bytes), NIB_BF16, t->dims[0], t->dims[1], t->dims[1] };
    nib_exec exec = *fixture_exec(1);
    exec.workspace = (void *)(((uintptr_t)room + 63) / 64 * 64);
    exec.workspace_bytes = sizeof room - 64;
    nib_hessian h = { .size = sizeof h };
    nib_gptq_report report = { .size = sizeof report };
    nib_status s = nib_hessian_load(c.hessians, gptq_feeds(name, text, sizeof text), &h);
    h.data = data;
    h.tokens = &tokens;
    if (s == NIB_OK) s = nib_hessian_load(c.hessians, text, &h);
    nib_gptq_factor factor = { .size = sizeof factor, .real = h.real, .k = h.k, .l = l,
                               .ld_elems = h.k, .order = order };
    const int64_t group = nib_int_format_group(f) ? nib_int_format_group(f) : w.cols;
    nib_gptq_factor_options how = c.factor;
    how.block = (int32_t)group;
    if (s == NIB_OK) s = nib_gptq_factor_make(&exec, &h, &how, &factor);
    const nib_gptq_options options = { .size = sizeof options, .scales = c.gptq.scales };
    const int asymmetric = nib_int_format_asymmetric(f);
    const nib_packed_steps p = {
        .size = sizeof p, .element = nib_int_format_element(f), .asymmetric = asymmetric,
        .step_rule = NIB_STEP_BF16, .rows = w.rows, .cols = w.cols, .group = group,
        .codes = codes, .steps = steps, .zeros = asymmetric ? zeros : NULL,
        .ld_codes_bytes = nib_step_codes_row_bytes(nib_int_format_element(f), w.cols),
        .divisor = NIB_STEP_OF_HALF };
    if (s == NIB_OK) s = nib_gptq_quantize_steps(&exec, &h, &factor, &w, &options, &p, &report);
    EXPECT(s == NIB_OK, "%s: %s", name, nib_last_error());
    free(w.data);
    return report;
}

static void check_gptq(const char *format, double most_ratio)
{
    static uint8_t codes[128 * 128];
    nib_checkpoint_report *r = NULL;
    nib_safetensors *st = NULL;
    const nib_format f = format_of(format);
    const nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_COMPRESSED_TENSORS, f);
    const uint8_t sign = nib_int_format_element(f) == NIB_INT4 ? 0x88 : 0x80;
    REQUIRE(run_model(&c, c.dst, &o, 2, &r) == NIB_OK, "%s: %s", format, nib_last_error());
    REQUIRE(nib_safetensors_open(c.dst, &st) == NIB_OK, "%s", nib_last_error());
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        char name[160];
        const nib_tensor_report *t = &r->tensors[i];
        if (!t->quantized) continue;
        REQUIRE(r->gptq && r->gptq[i], "%s has no Hessian", t->name);
        const nib_gptq_report *g = &r->gptq[i]->report, d = direct(t->name, f, codes);
        snprintf(name, sizeof name, "%s_packed", t->name);
        const nib_tensor *packed = nib_safetensors_find(st, name);
        REQUIRE(packed, "%s", name);
        uint64_t at = 0;
        while (at < packed->bytes && packed->data[at] == (codes[at] ^ sign)) at++;
        EXPECT(at == packed->bytes, "%s %s: byte %llu", format, t->name, (unsigned long long)at);
        EXPECT(g->error == d.error && g->plain_error == d.plain_error, "%s: report", t->name);
        EXPECT(g->error < most_ratio * g->plain_error && g->weight > 0, "%s %s: %g over %g", format,
               t->name, g->error, g->plain_error);
    }
    nib_safetensors_close(st);
    nib_checkpoint_report_free(r);
    temp_dir_remove_at(c.dst);
}

NIB_TEST(CheckpointIntegers, GptqIsBetterThanPlainRounding)
{
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    c.factor.order = NIB_GPTQ_ACT;
    c.gptq.scales = NIB_GPTQ_SCALES_HESSIAN;
    check_gptq("int4-b32", 0.9);
    check_gptq("int8-b64-asym", 0.9);
    c.gptq.scales = NIB_GPTQ_SCALES_FROZEN;
    check_gptq("int4-channel-asym", 0.9);
    c.factor.order = NIB_GPTQ_GROUP_AWARE;
    c.gptq.scales = NIB_GPTQ_SCALES_HESSIAN_FRESH;
    check_gptq("int4-b16", 0.9);
    check_gptq("int4-channel", 0.9);
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointIntegers, ActOrderIsInTheConfiguration)
{
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    for (int i = 0; i < 3; i++) {
        const int act = i == 1; /* compressed-tensors refuses it of whole rows */
        c.factor.order = i ? NIB_GPTQ_ACT : NIB_GPTQ_GROUP_AWARE;
        const nib_checkpoint_options o = gptq_options(
            &c, NIB_EXPORT_COMPRESSED_TENSORS, format_of(i < 2 ? "int4-b32" : "int4-channel"));
        REQUIRE(run_model(&c, c.dst, &o, 1, NULL) == NIB_OK, "%s", nib_last_error());
        json_t *config = fixture_json(c.dst, "config.json");
        const json_t *groups = json_object_get(json_object_get(config, "quantization_config"),
                                               "config_groups");
        const json_t *order = json_object_get(
            json_object_get(json_object_get(groups, "group_0"), "weights"), "actorder");
        EXPECT(act ? json_is_string(order) && !strcmp(json_string_value(order), "weight")
                   : json_is_null(order), "actorder %d", i);
        json_decref(config);
        temp_dir_remove_at(c.dst);
    }
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointIntegers, RefusedWithGptq)
{
    static const fixture_tensor t[] = { { "a.down_proj.weight", NIB_TT_BF16, 2, { 8, 256 }, 1.0f,
                                          NULL } };
    begin(t, 1);
    snprintf(c.hessians, sizeof c.hessians, "%s/h.safetensors", c.dir.path);
    c.factor.size = sizeof c.factor;
    c.gptq = (nib_checkpoint_gptq){ .size = sizeof c.gptq, .hessians = c.hessians,
                                    .factor = &c.factor, .scales = NIB_GPTQ_SCALES_HESSIAN };
    REQUIRE(gptq_save_diagonal(c.hessians, "a.down_proj", 256, 3, 1), "%s", nib_last_error());
    nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_COMPRESSED_TENSORS,
                                            format_of("int4-channel"));
    EXPECT(run_model(&c, c.dst, &o, 1, NULL) == NIB_ERR_UNSUPPORTED
               && fixture_error_has("groups of 256 inputs: steps of integers in groups over "),
           "%s", nib_last_error());
    o.format = format_of("int4");
    c.gptq.scales = NIB_GPTQ_SCALES_HESSIAN_FULL;
    EXPECT(run_model(&c, c.dst, &o, 1, NULL) == NIB_ERR_UNSUPPORTED
               && fixture_error_has("integers have no list of all steps"), "%s", nib_last_error());
    temp_dir_remove(&c.dir);
}
