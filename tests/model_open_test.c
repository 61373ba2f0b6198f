/* model_open_test.c: models whose parts are sound each, but not together; NULLs within options. */
#include "model_fixture.h"
#include "shim.h"

static temp_dir dir;
static char path[300], dst[300];

static void begin(const char *name)
{
    dir = temp_dir_make();
    snprintf(path, sizeof path, "%s/%s", dir.path, name);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
}

/* Every call that opens the model refuses it, by these words. */
static void expect_refused(const char *a, const char *b)
{
    const nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    nib_checkpoint_report *r = NULL;
    EXPECT(nib_checkpoint_info(path, &r) == NIB_ERR_FORMAT && !r, "info");
    EXPECT(fixture_error_has(a) && fixture_error_has(b), "%s", nib_last_error());
    EXPECT(nib_checkpoint_compare(fixture_exec(0), path, path, NULL, &r) == NIB_ERR_FORMAT && !r,
           "compare");
    EXPECT(nib_checkpoint_quantize(fixture_exec(0), path, dst, &o, NULL) == NIB_ERR_FORMAT,
           "quantize");
    EXPECT(!fixture_leftovers(dst), "something is left");
}

NIB_TEST(ModelOpen, OneWeightPackedAndPlain)
{
    const fixture_tensor t[] = {
        { "a.weight", NIB_TT_F32, 2, { 4, 32 }, 1.0f, NULL },
        { "a.weight_packed", NIB_TT_U8, 2, { 4, 16 }, 0.0f, NULL },
        { "a.weight_scale", NIB_TT_U8, 2, { 4, 1 }, 0.0f, NULL },
    };
    begin("two.safetensors");
    REQUIRE(fixture_safetensors(path, t, 3), "%s", path);
    expect_refused("a.weight_packed", "stand for a.weight");
    REQUIRE(fixture_safetensors(path, t + 1, 2), "%s", path); /* alone it is a model */
    nib_checkpoint_report *r = NULL;
    EXPECT(nib_checkpoint_info(path, &r) == NIB_OK, "%s", nib_last_error());
    nib_checkpoint_report_free(r);
    temp_dir_remove(&dir);
}

NIB_TEST(ModelOpen, OneWeightUnderBothWorldsNames)
{
    const fixture_tensor t[] = {
        { "blk.0.ffn_up.weight", NIB_TT_F32, 2, { 4, 64 }, 1.0f, NULL },
        { "model.layers.0.mlp.up_proj.weight", NIB_TT_F32, 2, { 4, 64 }, 1.0f, NULL },
    };
    begin("two.gguf");
    REQUIRE(fixture_gguf(path, t, 2), "%s", path);
    expect_refused("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight");
    temp_dir_remove(&dir);
}

static void tiny(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = 0x1p-140f;
}

NIB_TEST(ModelOpen, DivisorWithoutReciprocal)
{
    const fixture_tensor t[] = {
        { "a.weight_packed", NIB_TT_U8, 2, { 4, 16 }, 0.0f, NULL },
        { "a.weight_scale", NIB_TT_F8_E4M3, 2, { 4, 2 }, 0.0f, NULL },
        { "a.weight_global_scale", NIB_TT_F32, 1, { 1 }, 1.0f, tiny },
    };
    begin("divisor.safetensors");
    REQUIRE(fixture_safetensors(path, t, 3), "%s", path);
    expect_refused("a.weight_global_scale", "7.17465e-43");
    temp_dir_remove(&dir);
}

NIB_TEST(ModelOpen, NoRowsOfManyColumns) /* take no memory */
{
    const fixture_tensor t = { "a.weight", NIB_TT_F32, 2, { 0, INT64_C(1) << 60 }, 1.0f, NULL };
    begin("empty.safetensors");
    REQUIRE(fixture_safetensors(path, &t, 1), "%s", path);
    EXPECT(fixture_quantize(path, dst, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
           nib_last_error());
    nib_checkpoint_report *r = NULL;
    EXPECT(nib_checkpoint_compare(fixture_exec(0), path, dst, NULL, &r) == NIB_OK, "%s",
           nib_last_error());
    nib_checkpoint_report_free(r);
    temp_dir_remove(&dir);
}

NIB_TEST(ModelOpen, NullPatterns)
{
    const char *patterns[] = { "*", NULL };
    begin("src");
    REQUIRE(fixture_folder(path, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1), "%s", path);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    o.include = patterns;
    o.n_include = 2;
    EXPECT(nib_checkpoint_quantize(fixture_exec(0), path, dst, &o, NULL) == NIB_ERR_ARGUMENT
               && fixture_error_has("include[1]"), "%s", nib_last_error());
    o.n_include = 1;
    o.exclude = patterns;
    o.n_exclude = 2;
    EXPECT(nib_checkpoint_quantize(fixture_exec(0), path, dst, &o, NULL) == NIB_ERR_ARGUMENT
               && fixture_error_has("exclude[1]"), "%s", nib_last_error());
    temp_dir_remove(&dir);
}

NIB_TEST(ModelOpen, ReportIsNullAfterEveryFailure)
{
    nib_checkpoint_report *r = (nib_checkpoint_report *)(void *)&dir;
    EXPECT(nib_checkpoint_info(NULL, &r) == NIB_ERR_ARGUMENT && !r, "info");
    r = (nib_checkpoint_report *)(void *)&dir;
    EXPECT(nib_checkpoint_compare(fixture_exec(0), NULL, NULL, NULL, &r) == NIB_ERR_ARGUMENT && !r,
           "compare");
}
