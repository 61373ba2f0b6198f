/* policy_test.c: policies from text and files: what they say of a name, and what is wrong with bad
 * ones, word for word. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "expect_status.h"
#include "nibble/policy.h"
#include "temp_dir.h"

static nib_policy *policy_of(const char *text)
{
    nib_policy *p = NULL;
    const nib_status status = nib_policy_parse("p", text, strlen(text), &p);
    EXPECT(status == NIB_OK && p, "%s", nib_last_error());
    return p;
}

static nib_policy_line found(const nib_policy *p, const char *name)
{
    nib_policy_line line = { .size = sizeof line };
    EXPECT(nib_policy_find(p, name, &line) == NIB_OK, "%s", nib_last_error());
    return line;
}

static const struct { const char *name; nib_format format; } by_default[] = {
    { "model.embed_tokens.weight", NIB_FP8_E4M3_B8 },
    { "model.layers.0.input_layernorm.weight", NIB_FORMAT_NONE },
    { "model.layers.0.self_attn.q_proj.weight", NIB_FP6_E2M3_B16 },
    { "model.layers.31.self_attn.o_proj.weight", NIB_FP6_E2M3_B16 },
    { "model.layers.0.self_attn.q_proj.bias", NIB_FORMAT_NONE },
    { "model.layers.0.self_attn.q_norm.weight", NIB_FORMAT_NONE },
    { "model.layers.0.self_attn.k_cache", NIB_FP8_E4M3_B16 },
    { "model.layers.0.self_attn.v_cache", NIB_FP8_E4M3_B16 },
    { "model.layers.0.post_attention_layernorm.weight", NIB_FORMAT_NONE },
    { "model.layers.0.mlp.gate_proj.weight", NIB_NVFP4_B32 },
    { "model.layers.0.mlp.down_proj.weight", NIB_NVFP4_B32 },
    { "model.layers.0.mlp.experts.7.up_proj.weight", NIB_NVFP4_B32 },
    { "model.layers.0.mlp.gate.weight", NIB_FORMAT_NONE },
    { "model.norm.weight", NIB_FORMAT_NONE },
    { "lm_head.weight", NIB_FP8_E4M3_B8 },
};
enum { BY_DEFAULT = sizeof by_default / sizeof *by_default };

NIB_TEST(Policy, DefaultIsWhatTheHeaderSays)
{
    nib_policy *p = policy_of(nib_policy_default_text());
    const char *names[BY_DEFAULT];
    for (int i = 0; i < BY_DEFAULT; i++) {
        const nib_policy_line line = found(p, by_default[i].name);
        EXPECT(line.format == by_default[i].format, "%s: %#x", by_default[i].name, line.format);
        names[i] = by_default[i].name;
    }
    EXPECT(nib_policy_check(p, names, BY_DEFAULT) == NIB_OK, "%s", nib_last_error());
    nib_policy_line line = { .size = sizeof line };
    EXPECT_FAILS("unknown", nib_policy_find(p, "model.layers.0.mixer.weight", &line),
                 NIB_ERR_ARGUMENT, "p: no line matches the tensor 'model.layers.0.mixer.weight'");
    nib_policy_close(p);
}

/* Names that the default of training has no line for. */
static const struct { const char *name; nib_format format; nib_scale_choice choice; } others[] = {
    { "transformer.wte.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "transformer.wpe.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "model.layers.0.mlp.shared_expert_gate.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "model.layers.0.block_sparse_moe.gate.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "model.layers.0.feed_forward.router.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "model.layers.0.conv.conv.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "backbone.layers.0.mixer.conv1d.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "model.encoder.conv1.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "visual.blocks.0.mlp.fc1.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "vision_tower.layers.0.mlp.fc1.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "multi_modal_projector.linear_1.weight", NIB_FORMAT_NONE, NIB_SCALE_AMAX },
    { "model.layers.0.block_sparse_moe.experts.7.w1.weight", NIB_NVFP4, NIB_SCALE_MSE },
    { "model.layers.0.feed_forward.w2.weight", NIB_NVFP4, NIB_SCALE_MSE },
    { "model.layers.0.ffn.up_proj.weight", NIB_NVFP4, NIB_SCALE_MSE },
    { "model.decoder.layers.0.fc2.weight", NIB_NVFP4, NIB_SCALE_MSE },
    { "model.layers.0.mlp.dense_h_to_4h.weight", NIB_NVFP4, NIB_SCALE_MSE },
    { "backbone.layers.0.mixer.in_proj.weight", NIB_NVFP4, NIB_SCALE_AMAX },
    { "model.layers.0.conv.in_proj.weight", NIB_NVFP4, NIB_SCALE_AMAX },
};
enum { OTHERS = sizeof others / sizeof *others };

NIB_TEST(Policy, ThatOfExportsIsNvfp4OrKept)
{
    nib_policy *p = policy_of(nib_policy_export_text());
    const char *names[BY_DEFAULT + OTHERS];
    size_t n = 0;
    for (int i = 0; i < OTHERS; i++) {
        const nib_policy_line line = found(p, others[i].name);
        EXPECT(line.format == others[i].format && line.scale_choice == others[i].choice, "%s: %#x",
               others[i].name, line.format);
        names[n++] = others[i].name;
    }
    for (int i = 0; i < BY_DEFAULT; i++) {
        const char *name = by_default[i].name;
        if (strstr(name, "_cache")) continue; /* no tensor of a file */
        const int projects = strstr(name, "_proj.weight") != NULL;
        const nib_policy_line line = found(p, name);
        EXPECT(line.format == (projects ? NIB_NVFP4 : NIB_FORMAT_NONE)
                   && (line.scale_choice == NIB_SCALE_MSE) == (projects && strstr(name, ".mlp."))
                   && !line.has_rules, "%s: %#x", name, line.format);
        names[n++] = name;
    }
    EXPECT(nib_policy_check(p, names, n) == NIB_OK, "%s", nib_last_error());
    nib_policy_close(p);
}

NIB_TEST(Policy, LinesSayAllThreeThings)
{
    nib_policy *p = policy_of("a mxfp4\n\n  # nothing\nb\tnvfp4  mse # words\nc nvfp4 modelopt\n"
                              "d nvfp4 four-over-six-mae compressed-tensors\ne keep#\n"
                              "f e2m3/e4m3/64/tensor mse-full te");
    static const struct { int32_t line; nib_format format; nib_scale_choice choice; int preset; }
    want[] = {
        { 1, NIB_MXFP4, NIB_SCALE_AMAX, NIB_RULES_TE },
        { 4, NIB_NVFP4, NIB_SCALE_MSE, NIB_RULES_TE },
        { 5, NIB_NVFP4, NIB_SCALE_AMAX, NIB_RULES_MODELOPT },
        { 6, NIB_NVFP4, NIB_SCALE_FOUR_OVER_SIX_MAE, NIB_RULES_COMPRESSED_TENSORS },
        { 7, NIB_FORMAT_NONE, NIB_SCALE_AMAX, -1 },
        { 8, 0x00401101, NIB_SCALE_MSE_FULL, NIB_RULES_TE },
    };
    EXPECT(nib_policy_count(p) == 6, "%d lines", (int)nib_policy_count(p));
    for (int i = 0; i < 6; i++) {
        nib_policy_line line = { .size = sizeof line };
        nib_rules rules = { .size = 0 };
        const char name[2] = { (char)('a' + i), '\0' };
        EXPECT(nib_policy_get(p, i, &line) == NIB_OK, "%s", nib_last_error());
        if (want[i].preset >= 0)
            EXPECT(nib_rules_fill((nib_rules_preset)want[i].preset, want[i].format, &rules)
                       == NIB_OK, "%s", nib_last_error());
        EXPECT(line.line == want[i].line && line.format == want[i].format
                   && line.scale_choice == want[i].choice && !strcmp(line.pattern, name)
                   && !memcmp(&line.rules, &rules, sizeof rules), "line %d", i);
        const nib_policy_line same = found(p, name);
        EXPECT(same.pattern == line.pattern && same.line == line.line, "%s", name);
    }
    nib_policy_close(p);
}

NIB_TEST(Policy, SuccessLeavesTheLastErrorAlone)
{
    soil_last_error();
    nib_policy *p = policy_of("a nvfp4 modelopt\nb keep\n");
    (void)found(p, "b");
    EXPECT(strstr(nib_last_error(), "rules_fill: rules is NULL"), "'%s'", nib_last_error());
    nib_policy_close(p);
}

NIB_TEST(Policy, FirstMatchWins)
{
    nib_policy *p = policy_of("model.layers.0.* keep\n*.mlp.* mxfp4\n* nvfp4\n");
    EXPECT(found(p, "model.layers.0.mlp.x").line == 1, "0");
    EXPECT(found(p, "model.layers.1.mlp.x").line == 2, "1");
    EXPECT(found(p, "model.layers.10.mlp.x").line == 2, "10");
    EXPECT(found(p, "").line == 3, "the empty name");
    nib_policy_close(p);
}

/* ---- patterns, against a definition that tries everything ---- */

static int matches_slowly(const char *pattern, const char *name)
{
    if (!*pattern) return !*name;
    if (*pattern == '*')
        return matches_slowly(pattern + 1, name) || (*name && matches_slowly(pattern, name + 1));
    return *name && (*pattern == '?' || *pattern == *name) && matches_slowly(pattern + 1, name + 1);
}

/* Every pattern of up to 5 of "a.*?" with every name of up to 5 of "a.*". */
NIB_TEST(Policy, PatternsMatchAsDefined)
{
    static const char of_pattern[] = "a.*?", of_name[] = "a.*";
    for (int code = 0; code < 1 << 10; code++)
        for (int length = 1; length <= 5; length++) {
            char text[16] = "";
            for (int i = 0; i < length; i++) text[i] = of_pattern[code >> 2 * i & 3];
            if (length < 5 && code >> 2 * length) continue;
            memcpy(text + length, " keep", 6);
            nib_policy *p = policy_of(text);
            text[length] = '\0';
            if (!p) return;
            for (int other = 0; other < 243; other++)
                for (int n = 0; n <= 5; n++) {
                    char name[8] = "";
                    for (int i = 0, rest = other; i < n; i++, rest /= 3)
                        name[i] = of_name[rest % 3];
                    nib_policy_line line = { .size = sizeof line };
                    const int got = nib_policy_find(p, name, &line) == NIB_OK;
                    if (got != matches_slowly(text, name))
                        EXPECT(0, "'%s' and '%s': %d", text, name, got);
                }
            nib_policy_close(p);
            if (nib_test_failed()) return;
        }
}

/* A million characters against many stars: a matcher that backs up to all of them never ends. */
NIB_TEST(Policy, ManyStarsTakeNoLongTime)
{
    nib_policy *p = policy_of("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b keep\n");
    const size_t n = 1000000;
    char *name = malloc(n + 1);
    REQUIRE(p && name, "memory");
    memset(name, 'a', n);
    name[n] = '\0';
    nib_policy_line line = { .size = sizeof line };
    EXPECT(nib_policy_find(p, name, &line) == NIB_ERR_ARGUMENT, "no b");
    EXPECT(strlen(nib_last_error()) < 400, "a name of a megabyte is cut");
    name[n - 1] = 'b';
    EXPECT(nib_policy_find(p, name, &line) == NIB_OK, "%s", nib_last_error());
    free(name);
    nib_policy_close(p);
}

/* ---- bad texts ---- */

NIB_TEST(Policy, BadTextsNameFileLineAndWord)
{
    static const struct { const char *text, *piece; size_t bytes; } bad[] = {
        { "", "p: no line says anything", 0 },
        { "\n# a nvfp4\n \t\r\n", "p: no line says anything", 0 },
        { "a", "p:1: 'a' has no format behind it", 0 },
        { "a keep\nb # keep", "p:2: 'b' has no format behind it", 0 },
        { "a nvfp5", "p:1: unknown format 'nvfp5'", 0 },
        { "a nvfp5", "fp8-e4m3-b32, and keep", 0 },
        { "a Keep", "unknown format 'Keep'", 0 },
        { "a none", "unknown format 'none'", 0 },
        { "a nvfp4 best", "p:1: 'best' is no scale choice and no rules; scale choices are", 0 },
        { "a nvfp4 best te", "'best' is no scale choice; ", 0 },
        { "a nvfp4 te mse", "'te' is no scale choice; ", 0 },
        { "a nvfp4 mse mse", "'mse' is no rules; ", 0 },
        { "a nvfp4 mse tee", "'tee' is no rules; ", 0 },
        { "a nvfp4 mse te mse", "p:1: 'mse' is a word too many", 0 },
        { "a keep mse", "p:1: 'mse' is a word too many", 0 },
        { "a mxfp4 four-over-six-mse", "p:1: four-over-six-mse is not for mxfp4", 0 },
        { "a keep\n\na nvfp4", "p:3: 'a' is the pattern of line 1 already", 0 },
        { "a keep\nb k\0eep", "p:2: byte 4 is the control character 0", 14 },
        { "\0", "p:1: byte 1 is the control character 0", 1 },
        { "a keep\n\x1b[2J nvfp4", "p:2: byte 1 is the control character 0x1b", 0 },
        { "a keep # \x7f", "byte 10 is the control character 0x7f", 0 },
        { "a keep\r\rb keep", "byte 7 is the control character 0xd", 0 },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        nib_policy *p = (nib_policy *)(uintptr_t)8;
        const size_t bytes = bad[i].bytes ? bad[i].bytes : strlen(bad[i].text);
        EXPECT_FAILS(bad[i].piece, nib_policy_parse("p", bad[i].text, bytes, &p), NIB_ERR_FORMAT,
                     bad[i].piece);
        EXPECT(!p, "%s", bad[i].piece);
    }
}

/* Exactly at a limit, and one over it. */
NIB_TEST(Policy, LimitsHold)
{
    nib_policy *p;
    char *text = malloc(NIB_POLICY_BYTES + 2);
    REQUIRE(text, "memory");
    for (int over = 0; over < 2; over++) {
        const size_t line = (size_t)NIB_POLICY_LINE_BYTES + (size_t)over;
        memset(text, ' ', line);
        memcpy(text, "a keep", 6);
        const nib_status status = nib_policy_parse("p", text, line, &p);
        EXPECT(status == (over ? NIB_ERR_FORMAT : NIB_OK), "a line of %zu bytes", line);
        nib_policy_close(p);

        size_t used = 0;
        for (int i = 0; i < NIB_POLICY_LINES + over; i++)
            used += (size_t)snprintf(text + used, 32, "x%d keep\n", i);
        EXPECT(nib_policy_parse("p", text, used, &p) == (over ? NIB_ERR_FORMAT : NIB_OK),
               "%d lines", NIB_POLICY_LINES + over);
        EXPECT(!over || strstr(nib_last_error(), "p:1025: more than 1024 patterns"), "%s",
               nib_last_error());
        nib_policy_close(p);

        memset(text, '\n', NIB_POLICY_BYTES + 1);
        memcpy(text, "a keep", 6);
        EXPECT(nib_policy_parse("p", text, (size_t)NIB_POLICY_BYTES + (size_t)over, &p)
                   == (over ? NIB_ERR_FORMAT : NIB_OK), "%s", nib_last_error());
        nib_policy_close(p);
    }
    memset(text, 'a', 1 << 20); /* a line of a megabyte, behind a good one */
    memcpy(text, "b keep\n", 7);
    EXPECT_FAILS("1 MB", nib_policy_parse("p", text, 1 << 20, &p), NIB_ERR_FORMAT,
                 "p:2: the line has 1048569 bytes, at most 4096");
    free(text);
}

/* Every prefix of a good file, and every byte of it changed: an answer, never a crash. What is
 * read is read within its bytes: they end where the heap block ends. */
NIB_TEST(Policy, CutAndChangedTextsAreAnswered)
{
    const char *whole = nib_policy_default_text();
    const size_t n = strlen(whole);
    int good = 0;
    for (size_t cut = 0; cut <= n; cut++) {
        char *text = malloc(cut ? cut : 1);
        REQUIRE(text, "memory");
        memcpy(text, whole, cut);
        nib_policy *p;
        good += nib_policy_parse("p", text, cut, &p) == NIB_OK;
        nib_policy_close(p);
        for (int bit = 0; cut && bit < 8; bit++) {
            text[cut - 1] = (char)(whole[cut - 1] ^ 1 << bit);
            const nib_status status = nib_policy_parse("p", text, cut, &p);
            EXPECT(status == NIB_OK || status == NIB_ERR_FORMAT, "%s", nib_last_error());
            nib_policy_close(p);
        }
        free(text);
    }
    EXPECT(good > 20, "%d prefixes are whole", good);
}

/* ---- files ---- */

NIB_TEST(Policy, FilesOfAllLineEnds)
{
    static const char *const texts[] = { "*.w nvfp4 mse\n* keep\n", "*.w nvfp4 mse\n* keep",
                                         "*.w nvfp4 mse\r\n* keep\r\n", "*.w nvfp4 mse\r\n* keep\r",
                                         "\n\n*.w\tnvfp4\tmse\n\t* keep\t\n\n" };
    temp_dir dir = temp_dir_make();
    const char *path = temp_path(&dir, "policy.txt");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        nib_policy *p;
        REQUIRE(temp_write(path, texts[i], strlen(texts[i])), "%s", path);
        if (i == 3) { /* a CR at the file's end ends no line */
            EXPECT_FAILS("CR", nib_policy_open(path, &p), NIB_ERR_FORMAT, "control character 0xd");
            continue;
        }
        REQUIRE(nib_policy_open(path, &p) == NIB_OK, "%s", nib_last_error());
        EXPECT(nib_policy_count(p) == 2 && found(p, "a.w").scale_choice == NIB_SCALE_MSE
                   && found(p, "b").format == NIB_FORMAT_NONE, "text %zu", i);
        nib_policy_close(p);
    }
    temp_dir_remove(&dir);
}

NIB_TEST(Policy, FilesThatCannotBeRead)
{
    temp_dir dir = temp_dir_make();
    nib_policy *p;
    EXPECT_FAILS("none", nib_policy_open(temp_path(&dir, "none"), &p), NIB_ERR_IO,
                 "none: No such file");
    EXPECT_FAILS("folder", nib_policy_open(dir.path, &p), NIB_ERR_IO, "not a regular file");
    const char *pipe = temp_path(&dir, "pipe");
    REQUIRE(mkfifo(pipe, 0600) == 0, "a pipe");
    EXPECT_FAILS("pipe", nib_policy_open(pipe, &p), NIB_ERR_IO, "not a regular file");
    const char *path = temp_path(&dir, "a\nb");
    REQUIRE(temp_write(path, "a", 1), "%s", path);
    EXPECT_FAILS("name", nib_policy_open(path, &p), NIB_ERR_FORMAT, "a?b:1: 'a' has no format");
    const char *huge = temp_path(&dir, "huge");
    REQUIRE(temp_write(huge, "a keep\n", 7) && truncate(huge, NIB_POLICY_BYTES + 1) == 0, "huge");
    EXPECT_FAILS("huge", nib_policy_open(huge, &p), NIB_ERR_FORMAT, "at most 8388608");
    const char *empty = temp_path(&dir, "empty");
    REQUIRE(temp_write(empty, "", 0), "empty");
    EXPECT_FAILS("empty", nib_policy_open(empty, &p), NIB_ERR_FORMAT, "no line says anything");
    temp_dir_remove(&dir);
}

/* ---- against a model ---- */

NIB_TEST(Policy, CheckFindsWhatIsMisspelt)
{
    static const char *const names[] = { "a.mlp.weight", "a.norm.weight" };
    nib_policy *good = policy_of("*.mlp.* nvfp4\n*.norm.* keep\n");
    nib_policy *unused = policy_of("*.mlp.* nvfp4\n*.mlq.* mxfp4\n*.norm.* keep\n");
    nib_policy *shadowed = policy_of("* nvfp4\n*.norm.* keep\n");
    EXPECT(nib_policy_check(good, names, 2) == NIB_OK, "%s", nib_last_error());
    EXPECT_FAILS("unmatched", nib_policy_check(good, (const char *const[]){ "a.mpl.weight" }, 1),
                 NIB_ERR_ARGUMENT, "p: no line matches the tensor 'a.mpl.weight'");
    EXPECT_FAILS("unused", nib_policy_check(unused, names, 2), NIB_ERR_ARGUMENT,
                 "p:2: '*.mlq.*' decides for no tensor");
    EXPECT_FAILS("shadowed", nib_policy_check(shadowed, names, 2), NIB_ERR_ARGUMENT,
                 "p:2: '*.norm.*' decides for no tensor");
    EXPECT_FAILS("no names", nib_policy_check(good, NULL, 0), NIB_ERR_ARGUMENT, "p:1: ");
    nib_policy_close(good);
    nib_policy_close(unused);
    nib_policy_close(shadowed);
}

NIB_TEST(Policy, ArgumentsAreChecked)
{
    nib_policy *p = policy_of("a keep\n"), *none;
    nib_policy_line line = { .size = sizeof line }, shorter = { .size = 8 };
    EXPECT_FAILS("parse", nib_policy_parse("p", "a keep", 6, NULL), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("parse", nib_policy_parse(NULL, "a keep", 6, &none), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("parse", nib_policy_parse("p", NULL, 0, &none), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("open", nib_policy_open("x", NULL), NIB_ERR_ARGUMENT, "policy is NULL");
    EXPECT_FAILS("open", nib_policy_open(NULL, &none), NIB_ERR_ARGUMENT, "path is NULL");
    EXPECT_FAILS("find", nib_policy_find(NULL, "a", &line), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("find", nib_policy_find(p, NULL, &line), NIB_ERR_ARGUMENT, "name is NULL");
    EXPECT_FAILS("find", nib_policy_find(p, "a", NULL), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("find", nib_policy_find(p, "a", &shorter), NIB_ERR_ARGUMENT, "line->size is 8");
    EXPECT_FAILS("get", nib_policy_get(NULL, 0, &line), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("get", nib_policy_get(p, 0, NULL), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("get", nib_policy_get(p, 0, &shorter), NIB_ERR_ARGUMENT, "line->size is 8");
    EXPECT_FAILS("get", nib_policy_get(p, -1, &line), NIB_ERR_ARGUMENT, "-1 is outside 0..0");
    EXPECT_FAILS("get", nib_policy_get(p, 1, &line), NIB_ERR_ARGUMENT, "1 is outside 0..0");
    EXPECT_FAILS("check", nib_policy_check(NULL, NULL, 0), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("check", nib_policy_check(p, NULL, 1), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("check", nib_policy_check(p, (const char *const[]){ NULL }, 1), NIB_ERR_ARGUMENT,
                 "name 0 is NULL");
    EXPECT(nib_policy_count(NULL) == -1 && nib_policy_count(p) == 1, "count");
    nib_policy *q = policy_of("a nvfp4 mse te\nb nvfp4 mse\n");
    for (int i = 0; i < 2; i++) { /* a line of the first version is filled in up to its end */
        nib_policy_line old = { .size = offsetof(nib_policy_line, has_rules), .has_rules = 7 };
        EXPECT(nib_policy_get(q, i, &line) == NIB_OK && line.has_rules == !i, "line %d", i);
        EXPECT(nib_policy_find(q, i ? "b" : "a", &old) == NIB_OK && old.has_rules == 7
                   && old.size == offsetof(nib_policy_line, has_rules)
                   && old.scale_choice == NIB_SCALE_MSE, "line %d", i);
    }
    nib_policy_close(q);
    nib_policy_close(NULL);
    nib_policy_close(p);
}

NIB_TEST(Policy, ScaleChoicesHaveNames)
{
    static const char *const names[] = { "amax", "mse", "mse-full", "four-over-six-mse",
                                         "four-over-six-mae" };
    nib_scale_choice choice = NIB_SCALE_AMAX;
    for (int i = 0; i < 5; i++) {
        EXPECT(!strcmp(nib_scale_choice_name((nib_scale_choice)i), names[i]), "%d", i);
        EXPECT(nib_scale_choice_from_name(names[i], &choice) == NIB_OK && (int)choice == i, "%s",
               names[i]);
    }
    EXPECT(!strcmp(nib_scale_choice_name((nib_scale_choice)5), "?"), "5");
    EXPECT_FAILS("unknown", nib_scale_choice_from_name("AMAX", &choice), NIB_ERR_ARGUMENT,
                 "unknown scale choice 'AMAX'; the choices are amax, mse");
    EXPECT_FAILS("NULL", nib_scale_choice_from_name(NULL, &choice), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("NULL", nib_scale_choice_from_name("mse", NULL), NIB_ERR_ARGUMENT, "NULL");
}
