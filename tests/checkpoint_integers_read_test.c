/* checkpoint_integers_read_test.c: INT4 and INT8 that are read: files that are wrong, and a
 * config.json that contradicts them. */
#include <sys/stat.h>

#include "model_fixture.h"
#include "shim.h"

static temp_dir dir;
static char src[300], dst[300];

static void begin(void)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
}

static nib_checkpoint_options options_of(const char *format)
{
    nib_format f = 0;
    EXPECT(nib_int_format_from_name(format, &f) == NIB_OK, "%s", nib_last_error());
    return fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, f);
}

/* A module of 4 x 64 by 4 bits in groups of 32, with one part changed: a case. */
typedef struct broken {
    const char    *part;  /* which of parts */
    fixture_tensor as;    /* its other type and dims; name NULL: left out */
    const char    *words; /* of the sentence; NULL: it is read */
} broken;

static int write_module(const char *path, const broken *b)
{
    fixture_tensor t[6] = {
        { "m.weight_packed", NIB_TT_I32, 2, { 4, 8 }, 1.0f, NULL },
        { "m.weight_scale", NIB_TT_F32, 2, { 4, 2 }, 1.0f, NULL },
        { "m.weight_shape", NIB_TT_I64, 1, { 2 }, 1.0f, NULL },
        { "m.weight_zero_point", NIB_TT_I32, 2, { 1, 2 }, 1.0f, NULL } };
    int64_t dims[2] = { 4, 64 };
    nib_tensor_spec specs[6];
    nib_file_layout layout;
    size_t n = 4;
    for (size_t i = 0; i < 4; i++)
        if (b && !strcmp(b->part, t[i].name)) {
            if (b->as.name) t[i] = b->as;
            else t[i--] = t[--n];
            break;
        }
    if (b && !strcmp(b->part, "shape")) dims[0] = b->as.dims[0], dims[1] = b->as.dims[1];
    if (b && !strcmp(b->part, "more")) t[n++] = b->as;
    for (size_t i = 0; i < n; i++) {
        specs[i] = (nib_tensor_spec){ t[i].name, t[i].type, t[i].n_dims, { 0 } };
        memcpy(specs[i].dims, t[i].dims, sizeof t[i].dims);
    }
    if (nib_safetensors_layout(specs, n, &layout) != NIB_OK) return 0;
    uint8_t *bytes = calloc(1, layout.file_bytes);
    memcpy(bytes, layout.header, layout.header_bytes);
    for (size_t i = 0; i < n; i++) {
        const float one[8] = { 1, 1, 1, b && !strcmp(b->part, "zero") ? 0.0f : 1, 1, 1, 1, 1 };
        uint8_t *to = bytes + layout.offsets[i];
        if (!strcmp(t[i].name, "m.weight_shape") && t[i].type == NIB_TT_I64) memcpy(to, dims, 16);
        if (!strcmp(t[i].name, "m.weight_scale") && t[i].type == NIB_TT_F32)
            memcpy(to, one, (size_t)nib_tensor_spec_bytes(&specs[i]) < 32 ? 4 : 32);
    }
    const int ok = temp_write(path, bytes, layout.file_bytes);
    nib_file_layout_free(&layout);
    free(bytes);
    return ok;
}

NIB_TEST(CheckpointIntegers, FilesThatAreWrong)
{
#define AS(name, type, n, ...) { name, NIB_TT_##type, n, __VA_ARGS__, 1.0f, NULL }
    static const broken cases[] = {
        { "none", { 0 }, NULL },
        { "m.weight_packed", AS("m.weight_packed", I32, 2, { 4, 6 }), "neither of 4 nor of 8" },
        { "m.weight_packed", AS("m.weight_packed", I32, 2, { 3, 8 }), "3 rows, its weight_shape" },
        { "m.weight_packed", AS("m.weight_packed", I32, 1, { 4 }), "1 dimensions" },
        { "m.weight_scale", AS("m.weight_scale", F64, 2, { 4, 2 }), "is F64, not F32" },
        { "m.weight_scale", AS("m.weight_scale", F32, 2, { 4, 3 }), "4 x 3, which do not divide" },
        { "m.weight_scale", AS("m.weight_scale", F32, 1, { 4 }), "which do not divide" },
        { "m.weight_scale", AS("m.weight_scale", F32, 2, { 4, 16 }), "1 x 2, not 1 x 16" },
        { "m.weight_shape", AS("m.weight_shape", F32, 1, { 2 }), "is not two I64" },
        { "m.weight_shape", AS("m.weight_shape", I64, 1, { 3 }), "is not two I64" },
        { "m.weight_zero_point", AS("m.weight_zero_point", I8, 2, { 1, 2 }), "is not I32" },
        { "m.weight_zero_point", AS("m.weight_zero_point", I32, 2, { 4, 2 }), "4 x 2, not 1 x 2" },
        { "shape", AS("", I64, 1, { 4, -64 }), "is 4 x -64" },
        { "shape", AS("", I64, 1, { 4, INT64_MAX }), "is 4 x" },
        { "shape", AS("", I64, 1, { 4, 0 }), "is 4 x 0" },
        { "shape", AS("", I64, 1, { 4, 68 }), "neither of 4 nor of 8" },
        { "shape", AS("", I64, 1, { 4, 60 }), "groups of 30 columns, no multiple of 8" },
        { "m.weight_shape", { 0 }, "m.weight_packed has a weight_scale beside it, but no "
                                   "weight_shape" },
        { "m.weight_scale", { 0 }, "m.weight_packed has a weight_shape beside it, but no "
                                   "weight_scale" },
        { "more", AS("m.weight_g_idx", I32, 1, { 64 }), "by an index" },
        { "more", AS("m.weight", F32, 2, { 4, 64 }), "both m.weight" },
        { "zero", { 0 }, "element [1, 1] of m.weight_scale is 0" },
    };
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/m.safetensors", dir.path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nib_checkpoint_report *r = NULL;
        REQUIRE(write_module(src, &cases[i]), "%zu", i);
        const nib_status s = nib_checkpoint_compare(fixture_exec(1), src, src, NULL, &r);
        if (!cases[i].words)
            EXPECT(s == NIB_OK && r->n_tensors == 1 && r->tensors[0].dims[1] == 64
                       && !strcmp(r->tensors[0].name, "m.weight")
                       && !strcmp(r->tensors[0].stored_type, "INT4-B32-ASYM"), "%zu: %s", i,
                   nib_last_error());
        else
            EXPECT(s != NIB_OK && fixture_error_has(cases[i].words), "%zu: %s", i,
                   nib_last_error());
        nib_checkpoint_report_free(r);
    }
    temp_dir_remove(&dir);
}

/* One word of 4 columns is of 4 or of 8 bits: config.json tells. */
NIB_TEST(CheckpointIntegers, FewColumns)
{
    static const fixture_tensor t[] = { { "a.down_proj.weight", NIB_TT_F32, 2, { 5, 3 }, 1.0f,
                                          NULL } };
    char file[400];
    nib_checkpoint_report *r = NULL;
    begin();
    REQUIRE(fixture_folder(src, t, 1, 1), "%s", src);
    for (int bits = 4; bits <= 8; bits += 4) {
        const nib_checkpoint_options o = options_of(bits == 4 ? "int4-channel-asym"
                                                              : "int8-channel-asym");
        REQUIRE(nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL) == NIB_OK, "%s",
                nib_last_error());
        REQUIRE(nib_checkpoint_compare(fixture_exec(1), src, dst, NULL, &r) == NIB_OK, "%s",
                nib_last_error());
        const double share = r->tensors[0].error.sum_sq_error / r->tensors[0].error.sum_sq;
        EXPECT(share < (bits == 4 ? 1e-2 : 4e-5) && share > 0, "%d bits: %g", bits, share);
        nib_checkpoint_report_free(r);
        snprintf(file, sizeof file, "%s/model.safetensors", dst);
        EXPECT(nib_checkpoint_info(file, &r) == NIB_ERR_UNSUPPORTED
                   && fixture_error_has("3 columns in one word"), "%s", nib_last_error());
        temp_dir_remove_at(dst);
    }
    temp_dir_remove(&dir);
}

/* ---- config.json ---- */

/* Writes a folder of the module and of so much of a config.json. */
static int write_folder(const broken *b, const char *groups)
{
    char path[400], text[1000];
    mkdir(src, 0777);
    snprintf(path, sizeof path, "%s/config.json", src);
    const int n = snprintf(text, sizeof text, "{\"quantization_config\":{\"quant_method\":"
                           "\"compressed-tensors\",\"config_groups\":{%s}}}", groups);
    if (!temp_write(path, text, (size_t)n)) return 0;
    snprintf(path, sizeof path, "%s/model.safetensors", src);
    return write_module(path, b);
}

#define GROUP(name, target, ...) "\"" name "\":{\"targets\":[\"" target "\"],\"weights\":{" \
                                 __VA_ARGS__ "}}"
#define BITS(n)      "\"num_bits\":" #n
#define SIZE(n)      "\"group_size\":" #n
#define SYMMETRIC(b) "\"symmetric\":" #b
#define STRATEGY(s)  "\"strategy\":\"" s "\""
#define TYPE(s)      "\"type\":\"" s "\""
#define ORDER(s)     "\"actorder\":" s
#define OWN          BITS(4) "," SIZE(32) "," STRATEGY("group") "," SYMMETRIC(false)

NIB_TEST(CheckpointIntegers, ConfigurationAgainstTensors)
{
    static const struct {
        const char *lost, *groups, *words;
    } cases[] = {
        { "", GROUP("0", "Linear", OWN), NULL },
        { "", GROUP("0", "Linear", ""), NULL },
        { "", GROUP("0", "Linear", BITS(8)), "8 words for 64 columns, config.json says 8 bits" },
        { "", GROUP("0", "Linear", BITS(3)), "config.json says 3 bits" },
        { "", GROUP("0", "Linear", SIZE(64)), "m.weight_scale has 2 steps for a row of 64 columns, "
                                              "config.json says groups of 64" },
        { "", GROUP("0", "Linear", SIZE(16) "," STRATEGY("group")), "says groups of 16" },
        { "", GROUP("0", "Linear", STRATEGY("channel")), "has 2 steps for a row, config.json says "
                                                         "one" },
        { "", GROUP("0", "Linear", SIZE(-1)), "config.json says one" },
        { "", GROUP("0", "Linear", SYMMETRIC(true)), "m.weight_zero_point is there, but" },
        { "m.weight_zero_point", GROUP("0", "Linear", SYMMETRIC(true)), NULL },
        { "m.weight_zero_point", GROUP("0", "Linear", OWN), "m.weight_packed has no "
                                                            "weight_zero_point, but config.json" },
        { "", GROUP("0", "Linear", OWN "," ORDER("\"weight\"")), NULL },
        { "", GROUP("0", "Linear", OWN "," ORDER("null")), NULL },
        { "", GROUP("0", "Linear", OWN "," ORDER("\"group\"")), "m.weight_packed has no "
                                                                  "weight_g_idx" },
        { "", GROUP("0", "m", OWN "," ORDER("true")), "config.json says by its actorder" },
        { "", GROUP("0", "a", OWN "," ORDER("\"group\"")) "," GROUP("1", "b", OWN), NULL },
        /* The group that names the module decides; else what all say alike. */
        { "", GROUP("0", "a", BITS(8) "," SIZE(64)) "," GROUP("1", "m", OWN), NULL },
        { "", GROUP("0", "m", BITS(8)) "," GROUP("1", "Linear", OWN), "config.json says 8 bits" },
        { "", GROUP("0", "re:.*", BITS(8)) "," GROUP("1", "Linear", OWN), NULL },
        { "m.weight_zero_point", GROUP("0", "re:.*", BITS(8) "," SYMMETRIC(false)) ","
          GROUP("1", "Linear", OWN), "no weight_zero_point" },
        { "", GROUP("0", "a", BITS(8) "," TYPE("float")) "," GROUP("1", "Linear", BITS(8)),
          "config.json says 8 bits" },
        { "", GROUP("0", "a", BITS(8) "," TYPE("float")) "," GROUP("1", "Linear", OWN), NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const broken lost = { cases[i].lost, { 0 }, NULL };
        nib_checkpoint_report *r = NULL;
        begin();
        REQUIRE(write_folder(&lost, cases[i].groups), "%zu", i);
        const nib_status s = nib_checkpoint_info(src, &r);
        EXPECT(s == (cases[i].words ? NIB_ERR_FORMAT : NIB_OK)
                   && (!cases[i].words || fixture_error_has(cases[i].words)), "%zu: %s", i,
               nib_last_error());
        nib_checkpoint_report_free(r);
        temp_dir_remove(&dir);
    }
}

/* One step for a row that is shorter than a group is no contradiction. */
NIB_TEST(CheckpointIntegers, RowsShorterThanAGroup)
{
    static const fixture_tensor t[] = { { "m.weight", NIB_TT_F32, 2, { 4, 64 }, 1.0f, NULL } };
    static const int sizes[] = { 64, 128, 32 };
    char path[400], text[300];
    nib_checkpoint_report *r = NULL;
    const nib_checkpoint_options o = options_of("int4-channel");
    begin();
    REQUIRE(fixture_folder(src, t, 1, 1), "%s", src);
    REQUIRE(nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    snprintf(path, sizeof path, "%s/config.json", dst);
    for (int i = 0; i < 3; i++) {
        const int n = snprintf(text, sizeof text,
                               "{\"quantization_config\":{\"config_groups\":{\"0\":"
                               "{\"weights\":{\"group_size\":%d}}}}}", sizes[i]);
        REQUIRE(temp_write(path, text, (size_t)n), "%s", path);
        EXPECT(nib_checkpoint_info(dst, &r) == (i < 2 ? NIB_OK : NIB_ERR_FORMAT)
                   && (i < 2 || fixture_error_has("1 steps for a row of 64 columns, config.json "
                                                  "says groups of 32")), "%s", nib_last_error());
        nib_checkpoint_report_free(r);
    }
    temp_dir_remove(&dir);
}

/* Formats side by side: each module's group is looked up by its name. */
NIB_TEST(CheckpointIntegers, FewColumnsOfSeveralFormats)
{
    static const fixture_tensor t[] = {
        { "a.down_proj.weight", NIB_TT_F32, 2, { 5, 3 }, 1.0f, NULL },
        { "b.down_proj.weight", NIB_TT_F32, 2, { 5, 4 }, 1.0f, NULL },
        { "c.down_proj.weight", NIB_TT_F32, 2, { 4, 32 }, 1.0f, NULL } };
    static const char text[] = "a.* int4-channel\nb.* int8-channel-asym\nc.* nvfp4\n";
    static const double most[] = { 1e-2, 4e-5, 1e-1 };
    nib_policy *policy = NULL;
    nib_checkpoint_report *r = NULL;
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4);
    begin();
    REQUIRE(fixture_folder(src, t, 3, 1), "%s", src);
    REQUIRE(nib_policy_parse("p", text, strlen(text), &policy) == NIB_OK, "%s", nib_last_error());
    o.policy = policy;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    REQUIRE(nib_checkpoint_compare(fixture_exec(1), src, dst, NULL, &r) == NIB_OK, "%s",
            nib_last_error());
    for (int i = 0; i < 3; i++) {
        const double share = r->tensors[i].error.sum_sq_error / r->tensors[i].error.sum_sq;
        EXPECT(share > 0 && share < most[i], "%d: %g", i, share);
    }
    nib_checkpoint_report_free(r);
    nib_policy_close(policy);
    /* A config.json that does not tell is not called missing. */
    char path[400];
    snprintf(path, sizeof path, "%s/config.json", dst);
    REQUIRE(temp_write(path, "{}", 2), "%s", path);
    EXPECT(nib_checkpoint_info(dst, &r) == NIB_ERR_UNSUPPORTED
               && fixture_error_has("config.json does not tell which"), "%s", nib_last_error());
    temp_dir_remove(&dir);
}
