/* checkpoint_merge_test.c: the same bytes whatever the threads, and whatever the parts. */
#include "model_fixture.h"
#include "shim.h"

enum { MOST = 40 }; /* parts, more than there are tensors */

static temp_dir dir;
static char src[300], src_gguf[300], whole[300], merged[300], parts[MOST][300];

/* 1 if the sources and an undisturbed output are there. */
static int begin(nib_export export_as, nib_format format)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(src_gguf, sizeof src_gguf, "%s/src.gguf", dir.path);
    snprintf(whole, sizeof whole, "%s/whole", dir.path);
    snprintf(merged, sizeof merged, "%s/merged", dir.path);
    for (int i = 0; i < MOST; i++)
        snprintf(parts[i], sizeof parts[i], "%s/part%d", dir.path, i + 1);
    const int gguf = export_as == NIB_EXPORT_GGUF;
    if (gguf ? !fixture_gguf(src_gguf, fixture_llama_gguf(NIB_TT_BF16), FIXTURE_LLAMA)
             : !fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 2))
        return 0;
    if (gguf) memcpy(src, src_gguf, sizeof src);
    return fixture_quantize(src, whole, export_as, format) == NIB_OK;
}

static nib_status make_part(nib_export export_as, nib_format format, int shard, int shards,
                            const char *dst)
{
    nib_checkpoint_options o = fixture_options(export_as, format);
    o.shard = shard;
    o.shards = shards;
    return nib_checkpoint_quantize(fixture_exec(shard), src, dst, &o, NULL);
}

static int make_parts(nib_export export_as, nib_format format, int n)
{
    for (int i = 0; i < n; i++)
        if (make_part(export_as, format, i + 1, n, parts[i]) != NIB_OK) return 0;
    return 1;
}

/* Order k of the parts, rotated and turned round. */
static nib_status merge(int n, int k, const char *dst)
{
    const char *list[MOST];
    for (int i = 0; i < n; i++) list[i] = parts[k < n ? (i + k) % n : n - 1 - i];
    return nib_checkpoint_merge(list, (size_t)n, dst, 0);
}

/* ---- threads ---- */

/* Wide enough for several panels, which threads take in any order. */
static const fixture_tensor wide[] = {
    { "model.layers.0.self_attn.q_proj.weight", NIB_TT_BF16, 2, { 1001, 512 }, 0.5f, NULL },
    { "model.layers.0.self_attn.k_proj.weight", NIB_TT_F32, 2, { 300, 512 }, 0.7f, NULL },
    { "model.layers.0.self_attn.o_proj.weight", NIB_TT_F16, 2, { 700, 512 }, 0.9f, NULL },
};

NIB_TEST(CheckpointMerge, ThreadsDoNotChangeBytesOrFigures)
{
    static const nib_format formats[] = { NIB_NVFP4, NIB_MXFP4 };
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    REQUIRE(fixture_folder(src, wide, 3, 1), "%s", src);
    for (int f = 0; f < 2; f++) {
        for (int stochastic = 0; stochastic < 2; stochastic++) {
            static const int threads[] = { 1, 2, 5 };
            nib_checkpoint_report *r[3] = { NULL };
            char dst[3][300];
            for (int i = 0; i < 3; i++) {
                nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS,
                                                           formats[f]);
                o.rounding = stochastic ? NIB_ROUND_STOCHASTIC : NIB_ROUND_NEAREST;
                o.seed = 7;
                snprintf(dst[i], sizeof dst[i], "%s/dst%d-%d-%d", dir.path, f, stochastic, i);
                EXPECT(nib_checkpoint_quantize(fixture_exec(threads[i]), src, dst[i], &o, &r[i])
                           == NIB_OK, "%s", nib_last_error());
                EXPECT(fixture_same(dst[0], dst[i]), "%d threads: other bytes", threads[i]);
                for (uint64_t t = 0; r[i] && t < 3; t++)
                    EXPECT(!memcmp(&r[0]->tensors[t].error, &r[i]->tensors[t].error,
                                   sizeof r[0]->tensors[t].error),
                           "%d threads: other figures of %s", threads[i], r[i]->tensors[t].name);
            }
            for (int i = 0; i < 3; i++) nib_checkpoint_report_free(r[i]);
        }
    }
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointMerge, SeedsDecideStochasticRounding)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_F32), FIXTURE_LLAMA, 1), "%s", src);
    char dst[3][300];
    for (int i = 0; i < 3; i++) {
        nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
        o.rounding = NIB_ROUND_STOCHASTIC;
        o.seed = i == 2;
        snprintf(dst[i], sizeof dst[i], "%s/dst%d", dir.path, i);
        EXPECT(nib_checkpoint_quantize(fixture_exec(1), src, dst[i], &o, NULL) == NIB_OK, "%s",
               nib_last_error());
    }
    EXPECT(fixture_same(dst[0], dst[1]), "one seed, two results");
    EXPECT(!fixture_same_tensors(dst[0], dst[2]), "two seeds, one result");
    temp_dir_remove(&dir);
}

/* ---- parts ---- */

NIB_TEST(CheckpointMerge, PartsJoinToTheWhole)
{
    static const struct {
        nib_export export_as;
        nib_format format;
        int        shards;
    } rows[] = { { NIB_EXPORT_MODELOPT, NIB_NVFP4, 1 }, { NIB_EXPORT_MODELOPT, NIB_NVFP4, 3 },
                 { NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4, 2 },
                 { NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4, 8 },
                 { NIB_EXPORT_MODELOPT, NIB_NVFP4, MOST } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int n = rows[i].shards;
        REQUIRE(begin(rows[i].export_as, rows[i].format), "%s", nib_last_error());
        REQUIRE(make_parts(rows[i].export_as, rows[i].format, n), "%s", nib_last_error());
        for (int k = 0; k <= n; k += n > 3 ? n : 1) {
            EXPECT(merge(n, k, merged) == NIB_OK, "%s", nib_last_error());
            EXPECT(fixture_same_tensors(whole, merged), "%d parts, order %d: other tensors", n, k);
            static const char *const same[] = { "config.json", "tokenizer.json",
                                                "generation_config.json", "chat_template.jinja" };
            for (int s = 0; s < 4; s++) {
                char a[600], b[600];
                snprintf(a, sizeof a, "%s/%s", whole, same[s]);
                snprintf(b, sizeof b, "%s/%s", merged, same[s]);
                EXPECT(fixture_same(a, b), "%s", same[s]);
            }
            EXPECT(!fixture_has(merged, "nibble_part.json"), "still a part");
            EXPECT(!fixture_leftovers(merged), "something is left");
            if (n == MOST) EXPECT(temp_count(merged) < MOST, "files without tensors are left");
            nib_checkpoint_report *r = NULL;
            EXPECT(nib_checkpoint_compare(fixture_exec(0), whole, merged, NULL, &r) == NIB_OK,
                   "%s", nib_last_error());
            nib_checkpoint_report_free(r);
            temp_dir_remove_at(merged);
        }
        temp_dir_remove(&dir);
    }
}

NIB_TEST(CheckpointMerge, GgufPartsJoinToTheSameFile)
{
    for (int mx = 0; mx < 2; mx++) {
        const nib_format format = mx ? NIB_MXFP4 : NIB_NVFP4;
        REQUIRE(begin(NIB_EXPORT_GGUF, format), "%s", nib_last_error());
        REQUIRE(make_parts(NIB_EXPORT_GGUF, format, 3), "%s", nib_last_error());
        for (int k = 0; k < 4; k++) {
            EXPECT(merge(3, k, merged) == NIB_OK, "%s", nib_last_error());
            EXPECT(fixture_same(whole, merged), "order %d: other bytes", k);
            temp_dir_remove_at(merged);
        }
        temp_dir_remove(&dir);
    }
}

NIB_TEST(CheckpointMerge, WrongPartsAreRefused)
{
    REQUIRE(begin(NIB_EXPORT_MODELOPT, NIB_NVFP4), "%s", nib_last_error());
    REQUIRE(make_parts(NIB_EXPORT_MODELOPT, NIB_NVFP4, 3), "%s", nib_last_error());
    REQUIRE(make_part(NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4, 2, 3, parts[3]) == NIB_OK, "%s",
            nib_last_error());
    const struct {
        const char *list[4];
        size_t      n;
        const char *says;
    } rows[] = {
        { { parts[0], parts[1] }, 2, "2 parts are given" },
        { { parts[0], parts[1], parts[1] }, 3, "part 3 of 3 is missing" },
        { { parts[0], parts[0], parts[2] }, 3, "part 2 of 3 is missing" },
        { { parts[0], parts[1], parts[2], parts[0] }, 4, "4 parts are given" },
        { { parts[0], parts[3], parts[2] }, 3,
          "different runs: 'export=modelopt', 'export=compressed-tensors'" },
        { { parts[0], whole, parts[2] }, 3, "not a part" },
        { { parts[0], src, parts[2] }, 3, "not a part" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const nib_status got = nib_checkpoint_merge(rows[i].list, rows[i].n, merged, 0);
        EXPECT(got == NIB_ERR_ARGUMENT, "%zu: %s: %s", i, nib_status_name(got), nib_last_error());
        EXPECT(fixture_error_has(rows[i].says), "%zu: %s", i, nib_last_error());
        EXPECT(temp_count(merged) < 0 && !fixture_leftovers(merged), "%zu: something is left", i);
    }
    const char *const none[] = { parts[0], "/no/such/part" }, *const null[] = { parts[0], NULL };
    EXPECT(nib_checkpoint_merge(none, 2, merged, 0) == NIB_ERR_IO, "%s", nib_last_error());
    EXPECT(nib_checkpoint_merge(null, 2, merged, 0) == NIB_ERR_ARGUMENT, "NULL part");
    EXPECT(nib_checkpoint_merge(NULL, 2, merged, 0) == NIB_ERR_ARGUMENT, "no parts");
    EXPECT(nib_checkpoint_merge(none, 0, merged, 0) == NIB_ERR_ARGUMENT, "no parts");
    EXPECT(nib_checkpoint_merge(none, 1, NULL, 0) == NIB_ERR_ARGUMENT, "no dst");

    /* What stands there stays, unless forced; a part never goes. */
    EXPECT(merge(3, 0, whole) == NIB_ERR_EXISTS, "%s", nib_last_error());
    const char *const good[] = { parts[0], parts[1], parts[2] };
    EXPECT(nib_checkpoint_merge(good, 3, parts[1], 1) == NIB_ERR_EXISTS, "over a part");
    EXPECT(fixture_has(parts[1], "nibble_part.json"), "a part was replaced");
    EXPECT(nib_checkpoint_merge(good, 3, whole, 1) == NIB_OK, "%s", nib_last_error());
    temp_dir_remove(&dir);
}

static void negate(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = -x[i];
}

/* Parts may come from copies of the source, but from no other model, even of the same shapes. */
NIB_TEST(CheckpointMerge, PartsOfCopiesJoin)
{
    fixture_tensor other[FIXTURE_LLAMA];
    memcpy(other, fixture_llama(NIB_TT_BF16), sizeof other);
    REQUIRE(begin(NIB_EXPORT_MODELOPT, NIB_NVFP4), "%s", nib_last_error());
    REQUIRE(make_part(NIB_EXPORT_MODELOPT, NIB_NVFP4, 1, 2, parts[0]) == NIB_OK, "%s",
            nib_last_error());
    for (int changed = 0; changed < 2; changed++) {
        temp_dir_remove_at(src);
        temp_dir_remove_at(parts[1]);
        for (int i = 0; i < FIXTURE_LLAMA; i++) other[i].edit = changed ? negate : NULL;
        REQUIRE(fixture_folder(src, other, FIXTURE_LLAMA, 2), "%s", src);
        REQUIRE(make_part(NIB_EXPORT_MODELOPT, NIB_NVFP4, 2, 2, parts[1]) == NIB_OK, "%s",
                nib_last_error());
        const nib_status got = merge(2, 0, merged);
        EXPECT(got == (changed ? NIB_ERR_ARGUMENT : NIB_OK), "%d: %s", changed, nib_last_error());
        if (!changed) EXPECT(fixture_same_tensors(whole, merged), "other tensors");
        temp_dir_remove_at(merged);
    }
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointMerge, PartsOfAnotherSourceAreRefused)
{
    REQUIRE(begin(NIB_EXPORT_MODELOPT, NIB_NVFP4), "%s", nib_last_error());
    REQUIRE(make_part(NIB_EXPORT_MODELOPT, NIB_NVFP4, 1, 2, parts[0]) == NIB_OK, "%s",
            nib_last_error());
    temp_dir_remove_at(src);
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_F16), FIXTURE_LLAMA, 2), "%s", src);
    REQUIRE(make_part(NIB_EXPORT_MODELOPT, NIB_NVFP4, 2, 2, parts[1]) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(merge(2, 0, merged) == NIB_ERR_ARGUMENT, "%s", nib_last_error());
    EXPECT(fixture_error_has("different runs"), "%s", nib_last_error());
    temp_dir_remove(&dir);
}

static void same_values(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(i * 7919 % 1000) * 0.001f - 0.5f;
}

/* Panels take their random words where the whole tensor would; tensors do not share any. */
NIB_TEST(CheckpointMerge, RandomWordsFollowTheElements)
{
    enum { ROWS = 600, COLS = 512, N = ROWS * COLS };
    static const fixture_tensor two[] = {
        { "a.o_proj.weight", NIB_TT_F32, 2, { ROWS, COLS }, 1, same_values },
        { "b.o_proj.weight", NIB_TT_F32, 2, { ROWS, COLS }, 1, same_values },
    };
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(whole, sizeof whole, "%s/whole", dir.path);
    REQUIRE(fixture_folder(src, two, 2, 1), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    o.rounding = NIB_ROUND_STOCHASTIC;
    o.seed = 11;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, whole, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    int64_t n;
    float *x = fixture_floats(&two[0], &n), amax = 0, scale;
    uint8_t *codes = malloc(N / 2), *scales = malloc(N / 16);
    nib_rules rules;
    nib_rules_fill(NIB_RULES_MODELOPT, NIB_NVFP4, &rules);
    const nib_matrix m = { x, NIB_F32, ROWS, COLS, COLS };
    EXPECT(nib_amax(fixture_exec(1), &m, &amax, NULL) == NIB_OK, "%s", nib_last_error());
    const uint64_t random[2] = { 11, 0 };
    const nib_quantize_options q = { .size = sizeof q, .rules = &rules, .tensor_amax = &amax,
                                     .rounding = NIB_ROUND_STOCHASTIC, .random = random };
    const nib_packed p = { .size = sizeof p, .format = NIB_NVFP4, .rows = ROWS, .cols = COLS,
                           .codes = codes, .ld_codes_bytes = COLS / 2, .scales = scales,
                           .tensor_scale = &scale };
    EXPECT(nib_quantize(fixture_exec(1), &m, &q, &p) == NIB_OK, "%s", nib_last_error());
    nib_safetensors *st = NULL;
    REQUIRE(nib_safetensors_open(whole, &st) == NIB_OK, "%s", nib_last_error());
    const nib_tensor *a = nib_safetensors_find(st, two[0].name);
    const nib_tensor *b = nib_safetensors_find(st, two[1].name);
    EXPECT(a && !memcmp(a->data, codes, N / 2), "%s: other random words", two[0].name);
    EXPECT(b && memcmp(b->data, codes, N / 2), "both tensors take the same random words");
    nib_safetensors_close(st);
    free(x);
    free(codes);
    free(scales);
    temp_dir_remove(&dir);
}
