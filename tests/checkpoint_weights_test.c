/* checkpoint_weights_test.c: the bytes of exported weights are those of nib_quantize with the
 * amax of all tensors that share a scale; kept tensors are the source's bytes. */
#include <math.h>

#include "kernels/backend.h"
#include "model_fixture.h"
#include "shim.h"

enum { NAMES = 4 };

/* What nibble must make of tensor t when `group` (NULL ends) shares its scale. */
typedef struct expected {
    uint8_t *codes, *scales;
    int64_t  code_bytes, scale_bytes;
    float    encode, decode;
} expected;

static float amax_of(const float *x, int64_t n)
{
    float a = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i]) && fabsf(x[i]) > a) a = fabsf(x[i]);
    return a;
}

static expected expect(const fixture_tensor *model, size_t n, const char *name,
                       const char *const *group, nib_format format, nib_rules_preset preset,
                       nib_scale_choice choice, int widen)
{
    const fixture_tensor *t = fixture_find(model, n, name);
    const int64_t cols = t->dims[t->n_dims - 1];
    float amax = 0;
    int64_t count = 0;
    for (int i = 0; i < NAMES && group[i]; i++) {
        float *x = fixture_floats(fixture_find(model, n, group[i]), &count);
        const float a = amax_of(x, count);
        if (a > amax) amax = a;
        free(x);
    }
    uint64_t bytes;
    uint8_t *own = fixture_bytes(t, &bytes);
    float *x = fixture_floats(t, &count);
    const nib_dtype dtype = t->type == NIB_TT_F32 || widen ? NIB_F32
                          : t->type == NIB_TT_F16 ? NIB_F16 : NIB_BF16;
    const int64_t rows = cols ? count / cols : 0;
    expected e = { .code_bytes = count / 2,
                   .scale_bytes = rows * nib_scales_per_row(format, cols) };
    e.codes = calloc(1, (size_t)e.code_bytes + 1);
    e.scales = calloc(1, (size_t)e.scale_bytes + 1);
    nib_rules rules;
    nib_rules_fill(preset, format, &rules);
    const int has_scale = nib_format_has_tensor_scale(format);
    float scale = 1;
    const nib_quantize_options q = { .size = sizeof q, .rules = &rules, .scale_choice = choice,
                                     .tensor_amax = has_scale ? &amax : NULL };
    const nib_matrix src = { dtype == NIB_F32 ? (void *)x : (void *)own, dtype, rows, cols, cols };
    const nib_packed dst = { .size = sizeof dst, .format = format, .rows = rows, .cols = cols,
                             .codes = e.codes, .ld_codes_bytes = cols / 2, .scales = e.scales,
                             .tensor_scale = has_scale ? &scale : NULL };
    const nib_status status = nib_quantize(fixture_exec(1), &src, &q, &dst);
    EXPECT(status == NIB_OK, "%s: %s", name, nib_last_error());
    if (has_scale)
        EXPECT(nib_tensor_scale(format, &rules, choice, dtype, amax, &e.encode, &e.decode)
                   == NIB_OK, "%s", nib_last_error());
    free(own);
    free(x);
    return e;
}

static int holds(const nib_safetensors *st, const char *name, const char *tail, const void *bytes,
                 int64_t n)
{
    char text[160];
    snprintf(text, sizeof text, "%s%s", name, tail);
    const nib_tensor *t = nib_safetensors_find(st, text);
    return t && t->bytes == (uint64_t)n && (n == 0 || !memcmp(t->data, bytes, (size_t)n));
}

/* Checks one weight of an exported folder. */
static void check(const nib_safetensors *st, nib_export export_as, const char *name, expected e)
{
    const int modelopt = export_as == NIB_EXPORT_MODELOPT;
    EXPECT(holds(st, name, modelopt ? "" : "_packed", e.codes, e.code_bytes), "%s: codes", name);
    EXPECT(holds(st, name, "_scale", e.scales, e.scale_bytes), "%s: scales", name);
    if (e.decode > 0 && modelopt)
        EXPECT(holds(st, name, "_scale_2", &e.decode, 4), "%s: multiplier", name);
    if (e.decode > 0 && !modelopt)
        EXPECT(holds(st, name, "_global_scale", &e.encode, 4), "%s: divisor", name);
    free(e.codes);
    free(e.scales);
}

#define L0 "model.layers.0."
static const char *const groups[][NAMES] = {
    { L0 "self_attn.q_proj.weight", L0 "self_attn.k_proj.weight", L0 "self_attn.v_proj.weight" },
    { L0 "mlp.gate_proj.weight", L0 "mlp.up_proj.weight" },
    { L0 "self_attn.o_proj.weight" },
    { L0 "mlp.down_proj.weight" },
};
enum { GROUPS = 4 };

static void check_llama(const char *dst, nib_tensor_type type, nib_export export_as,
                        nib_format format, nib_rules_preset preset, nib_scale_choice choice)
{
    const fixture_tensor *t = fixture_llama(type);
    /* compressed-tensors computes in the weights' dtype; f16 would overflow its divisor. */
    const int widen = export_as == NIB_EXPORT_COMPRESSED_TENSORS && type == NIB_TT_F16;
    nib_safetensors *st = NULL;
    REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < NAMES && groups[g][i]; i++)
            check(st, export_as, groups[g][i],
                  expect(t, FIXTURE_LLAMA, groups[g][i], groups[g], format, preset, choice,
                         widen));
    for (size_t i = 0; i < FIXTURE_LLAMA; i++) {
        if (strstr(t[i].name, "_proj.weight")) continue;
        uint64_t bytes;
        uint8_t *data = fixture_bytes(&t[i], &bytes);
        EXPECT(holds(st, t[i].name, "", data, (int64_t)bytes), "%s changed", t[i].name);
        free(data);
    }
    nib_safetensors_close(st);
}

NIB_TEST(CheckpointWeights, CodesAndScalesAreThoseOfQuantize)
{
    static const struct {
        nib_export       export_as;
        nib_format       format;
        nib_rules_preset preset;
    } rows[] = { { NIB_EXPORT_MODELOPT, NIB_NVFP4, NIB_RULES_MODELOPT },
                 { NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4, NIB_RULES_COMPRESSED_TENSORS },
                 { NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4, NIB_RULES_COMPRESSED_TENSORS } };
    static const nib_tensor_type types[] = { NIB_TT_F32, NIB_TT_F16, NIB_TT_BF16 };
    const temp_dir dir = temp_dir_make();
    for (int d = 0; d < 3; d++) {
        char src[300];
        snprintf(src, sizeof src, "%s/src%d", dir.path, d);
        REQUIRE(fixture_folder(src, fixture_llama(types[d]), FIXTURE_LLAMA, 2), "%s", src);
        for (int i = 0; i < 3; i++) {
            char dst[300];
            snprintf(dst, sizeof dst, "%s/dst%d-%d", dir.path, d, i);
            const nib_status status = fixture_quantize(src, dst, rows[i].export_as,
                                                       rows[i].format);
            EXPECT(status == NIB_OK, "%s", nib_last_error());
            check_llama(dst, types[d], rows[i].export_as, rows[i].format, rows[i].preset,
                        NIB_SCALE_AMAX);
        }
    }
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointWeights, RulesAndScaleChoiceReachTheBytes)
{
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src"), *dst = temp_path(&dir, "dst");
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    nib_rules rules;
    nib_rules_fill(NIB_RULES_TE, NIB_NVFP4, &rules);
    o.rules = &rules;
    o.scale_choice = NIB_SCALE_FOUR_OVER_SIX_MSE;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    check_llama(dst, NIB_TT_BF16, NIB_EXPORT_MODELOPT, NIB_NVFP4, NIB_RULES_TE,
                NIB_SCALE_FOUR_OVER_SIX_MSE);
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointWeights, DivisorIsTheMultipliersInverse)
{
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src"), *mo = temp_path(&dir, "mo");
    const char *ct = temp_path(&dir, "ct");
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_F32), FIXTURE_LLAMA, 1), "%s", src);
    REQUIRE(fixture_quantize(src, mo, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    REQUIRE(fixture_quantize(src, ct, NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    nib_safetensors *a = NULL, *b = NULL;
    REQUIRE(nib_safetensors_open(mo, &a) == NIB_OK && nib_safetensors_open(ct, &b) == NIB_OK, "%s",
            nib_last_error());
    for (int g = 0; g < GROUPS; g++) {
        float multiplier = 0, divisor = 0, first = 0;
        for (int i = 0; i < NAMES && groups[g][i]; i++) {
            char name[160];
            snprintf(name, sizeof name, "%s_scale_2", groups[g][i]);
            memcpy(&multiplier, nib_safetensors_find(a, name)->data, 4);
            snprintf(name, sizeof name, "%s_global_scale", groups[g][i]);
            memcpy(&divisor, nib_safetensors_find(b, name)->data, 4);
            EXPECT(fabsf(multiplier * divisor - 1) < 1e-6f, "%s: %g * %g", groups[g][i],
                   (double)multiplier, (double)divisor);
            if (i > 0) EXPECT(memcmp(&first, &multiplier, 4) == 0, "%s: own scale", groups[g][i]);
            first = multiplier;
        }
    }
    nib_safetensors_close(a);
    nib_safetensors_close(b);
    temp_dir_remove(&dir);
}

/* ---- other names and ranks ---- */

#define MOE "model.layers.0.block_sparse_moe."
static const fixture_tensor moe[] = {
    { MOE "gate.weight", NIB_TT_BF16, 2, { 8, 64 }, 0.5f, NULL },
    { MOE "experts.0.w1.weight", NIB_TT_BF16, 2, { 32, 64 }, 0.5f, NULL },
    { MOE "experts.0.w2.weight", NIB_TT_BF16, 2, { 64, 32 }, 0.9f, NULL },
    { MOE "experts.0.w3.weight", NIB_TT_BF16, 2, { 32, 64 }, 0.7f, NULL },
    { MOE "experts.1.w1.weight", NIB_TT_BF16, 2, { 32, 64 }, 0.1f, NULL },
    { MOE "experts.1.w3.weight", NIB_TT_BF16, 2, { 32, 64 }, 0.2f, NULL },
    { "model.layers.1.mlp.experts.gate_up_proj.weight", NIB_TT_BF16, 3, { 3, 32, 64 }, 0.4f, NULL },
    { "model.layers.1.mlp.experts.down_proj", NIB_TT_BF16, 3, { 3, 32, 64 }, 0.4f, NULL },
    { "model.layers.1.mlp.shared_expert_gate.weight", NIB_TT_BF16, 2, { 1, 64 }, 0.4f, NULL },
    { "model.layers.1.self_attn.q_proj.bias", NIB_TT_BF16, 1, { 64 }, 0.4f, NULL },
    { "model.position_ids", NIB_TT_I64, 2, { 1, 32 }, 0, NULL },
};
enum { MOES = sizeof moe / sizeof *moe };

NIB_TEST(CheckpointWeights, ExpertsShareScalesAndRoutersStay)
{
    static const char *const pairs[][NAMES] = {
        { MOE "experts.0.w1.weight", MOE "experts.0.w3.weight" },
        { MOE "experts.1.w1.weight", MOE "experts.1.w3.weight" },
        { MOE "experts.0.w2.weight" },
        { "model.layers.1.mlp.experts.gate_up_proj.weight" },
    };
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src"), *dst = temp_path(&dir, "dst");
    REQUIRE(fixture_folder(src, moe, MOES, 1), "%s", src);
    REQUIRE(fixture_quantize(src, dst, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    nib_safetensors *st = NULL;
    REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
    for (int g = 0; g < 4; g++)
        for (int i = 0; i < NAMES && pairs[g][i]; i++)
            check(st, NIB_EXPORT_MODELOPT, pairs[g][i],
                  expect(moe, MOES, pairs[g][i], pairs[g], NIB_NVFP4, NIB_RULES_MODELOPT,
                         NIB_SCALE_AMAX, 0));
    static const int kept[] = { 0, 7, 8, 9, 10 };
    for (int i = 0; i < 5; i++) {
        uint64_t bytes;
        uint8_t *data = fixture_bytes(&moe[kept[i]], &bytes);
        EXPECT(holds(st, moe[kept[i]].name, "", data, (int64_t)bytes), "%s", moe[kept[i]].name);
        free(data);
    }
    nib_safetensors_close(st);
    json_t *config = fixture_json(dst, "hf_quant_config.json");
    const json_t *excluded = json_object_get(json_object_get(config, "quantization"),
                                             "exclude_modules");
    char *text = json_dumps(excluded, 0);
    EXPECT(strstr(text, MOE "gate\""), "the router is not in %s", text);
    EXPECT(strstr(text, "shared_expert_gate\""), "the gate is not in %s", text);
    EXPECT(!strstr(text, "experts.0"), "%s", text);
    free(text);
    json_decref(config);
    temp_dir_remove(&dir);
}

/* ---- odd contents ---- */

static void tiny_values(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = ldexpf(x[i], -146); /* subnormal in f32 */
}

static void one_huge(float *x, int64_t n)
{
    (void)n;
    x[3] = 3e38f;
}

static const fixture_tensor odd[] = {
    { "a.zeros.weight", NIB_TT_F32, 2, { 16, 64 }, 0, NULL },
    { "b.tiny.weight", NIB_TT_F32, 2, { 16, 64 }, 30.0f, tiny_values },
    { "c.huge.weight", NIB_TT_F32, 2, { 16, 64 }, 1.0f, one_huge },
    { "d.no_rows.weight", NIB_TT_F32, 2, { 0, 64 }, 1.0f, NULL },
    { "e.nothing.bias", NIB_TT_F32, 1, { 0 }, 1.0f, NULL },
    { "f.scalar", NIB_TT_F32, 0, { 0 }, 1.0f, NULL },
    { "g.row.weight", NIB_TT_F32, 2, { 1, 64 }, 1.0f, NULL },
};
enum { ODDS = sizeof odd / sizeof *odd };

NIB_TEST(CheckpointWeights, ZerosDenormalsAndEmptyTensors)
{
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src");
    REQUIRE(fixture_folder(src, odd, ODDS, 1), "%s", src);
    for (int ct = 0; ct < 2; ct++) {
        const nib_export export_as = ct ? NIB_EXPORT_COMPRESSED_TENSORS : NIB_EXPORT_MODELOPT;
        const char *dst = temp_path(&dir, ct ? "ct" : "mo");
        nib_checkpoint_options o = fixture_options(export_as, NIB_NVFP4);
        nib_checkpoint_report *r = NULL;
        REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, &r) == NIB_OK, "%s",
                nib_last_error());
        nib_safetensors *st = NULL;
        REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
        for (int i = 0; i < ODDS; i++) {
            const char *const alone[NAMES] = { odd[i].name };
            if (odd[i].n_dims == 2)
                check(st, export_as, odd[i].name,
                      expect(odd, ODDS, odd[i].name, alone, NIB_NVFP4,
                             ct ? NIB_RULES_COMPRESSED_TENSORS : NIB_RULES_MODELOPT,
                             NIB_SCALE_AMAX, 0));
            EXPECT(isfinite(r->tensors[i].tensor_scale) && r->tensors[i].tensor_scale > 0,
                   "%s: scale %g", odd[i].name, (double)r->tensors[i].tensor_scale);
        }
        EXPECT(r->tensors[0].error.sum_sq_error == 0, "zeros are exact");
        nib_safetensors_close(st);
        nib_checkpoint_report_free(r);
    }
    temp_dir_remove(&dir);
}
