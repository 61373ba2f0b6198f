/* checkpoint_guard_test.c: nothing that a run reads is ever replaced by it, by whatever way it lies
 * in the destination. */
#include "gptq_model.h"
#include "shim.h"

static gptq_case c;
static nib_checkpoint_options o;

static const char *in(const char *name) { return temp_path(&c.dir, name); }

static void make_folder(const char *name) { EXPECT(mkdir(in(name), 0777) == 0, "%s", name); }

/* Refused, dry or not, and the destination keeps that many entries. */
static void refused(const char *from, const char *to, int entries)
{
    for (o.dry_run = 0; o.dry_run < 2; o.dry_run++) {
        const nib_status got = nib_checkpoint_quantize(fixture_exec(1), from, to, &o, NULL);
        EXPECT(got == NIB_ERR_EXISTS, "%s -> %s: %s: %s", from, to, nib_status_name(got),
               nib_last_error());
        EXPECT(fixture_error_has("is read"), "%s", nib_last_error());
        EXPECT(temp_count(to) == entries, "%s: %d entries", to, temp_count(to));
        EXPECT(!fixture_leftovers(to), "something is left of %s", to);
    }
    o.dry_run = 0;
}

static void begin(void)
{
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    o.force = 1;
}

NIB_TEST(CheckpointGuard, SourceFileInTheFolderThatIsReplaced)
{
    begin();
    make_folder("old");
    REQUIRE(fixture_gguf(in("old/m.gguf"), fixture_llama_gguf(NIB_TT_BF16), FIXTURE_LLAMA), "gguf");
    refused(in("old/m.gguf"), in("old"), 1);
    refused(in("old"), in("old"), 1);
    /* By a link to it, from it, and beside it with another name of the folder. */
    REQUIRE(symlink("old/m.gguf", in("link.gguf")) == 0, "symlink");
    refused(in("link.gguf"), in("old"), 1);
    refused(in("link.gguf"), in("src/../old//"), 1);
    REQUIRE(rename(in("old/m.gguf"), in("m.gguf")) == 0, "rename");
    REQUIRE(symlink("../m.gguf", in("old/m.gguf")) == 0, "symlink");
    refused(in("old/m.gguf"), in("old"), 1);
    /* A file that only lies near it is no reason. */
    REQUIRE(nib_checkpoint_quantize(fixture_exec(1), in("m.gguf"), in("old"), &o, NULL) == NIB_OK,
            "%s", nib_last_error());
    EXPECT(fixture_has(in("old"), "model.safetensors"), "nothing was made");
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointGuard, SourceFolderWhoseFilesLieThere)
{
    begin();
    make_folder("old");
    static const char *const names[] = { "model.safetensors", "tokenizer.json", "config.json" };
    for (int i = 0; i < 3; i++) { /* weights, a file that is copied, one that is changed */
        char file[320], moved[320], link[320];
        snprintf(file, sizeof file, "%s/%s", c.src, names[i]);
        snprintf(moved, sizeof moved, "%s/old/%s", c.dir.path, names[i]);
        snprintf(link, sizeof link, "../old/%s", names[i]);
        REQUIRE(rename(file, moved) == 0 && symlink(link, file) == 0, "%s", names[i]);
        refused(c.src, in("old"), 1);
        REQUIRE(rename(moved, file) == 0, "%s", names[i]);
    }
    /* Weights that are not read do not matter. */
    REQUIRE(temp_write(in("old/x.bin"), "x", 1) && symlink("../old/x.bin", in("src/x.bin")) == 0,
            "x.bin");
    REQUIRE(nib_checkpoint_quantize(fixture_exec(1), c.src, in("old"), &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointGuard, SourceDeepInside)
{
    begin();
    make_folder("old");
    make_folder("old/deep");
    REQUIRE(rename(c.src, in("old/deep/src")) == 0, "rename");
    refused(in("old/deep/src"), in("old"), 1);
    refused(in("old/deep/src/model.safetensors"), in("old"), 1);
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointGuard, HessiansAndInputs)
{
    begin();
    make_folder("old");
    REQUIRE(rename(c.hessians, in("old/h.safetensors")) == 0, "rename");
    const char *const places[] = { "old/h.safetensors", "old" };
    o.gptq = &c.gptq;
    for (int i = 0; i < 2; i++) {
        char path[320];
        snprintf(path, sizeof path, "%s/%s", c.dir.path, places[i]);
        c.gptq.hessians = path;
        refused(c.src, in("old"), 1);
    }
    REQUIRE(fixture_safetensors(in("old/x.safetensors"), gptq_inputs(), GPTQ_INPUTS), "inputs");
    REQUIRE(symlink("old/x.safetensors", in("x.safetensors")) == 0, "symlink");
    c.gptq.hessians = NULL;
    c.gptq.inputs = in("x.safetensors");
    refused(c.src, in("old"), 2);
    /* As a file that is the destination itself. */
    REQUIRE(fixture_gguf(in("m.gguf"), fixture_llama_gguf(NIB_TT_BF16), FIXTURE_LLAMA), "gguf");
    c.gptq.inputs = in("old/x.safetensors");
    o.export_as = NIB_EXPORT_GGUF;
    refused(in("m.gguf"), in("old/x.safetensors"), -1);
    EXPECT(fixture_has(in("old"), "x.safetensors"), "the inputs are gone");
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointGuard, PartsOfAMerge)
{
    char parts[2][300];
    const char *const list[] = { parts[0], parts[1] };
    begin();
    make_folder("old");
    for (int i = 0; i < 2; i++) {
        o.shard = i + 1;
        o.shards = 2;
        o.export_as = NIB_EXPORT_GGUF;
        snprintf(parts[i], sizeof parts[i], "%s/old/%d.gguf", c.dir.path, i);
        REQUIRE(fixture_gguf(in("m.gguf"), fixture_llama_gguf(NIB_TT_BF16), FIXTURE_LLAMA), "gguf");
        REQUIRE(nib_checkpoint_quantize(fixture_exec(1), in("m.gguf"), parts[i], &o, NULL)
                    == NIB_OK, "%s", nib_last_error());
    }
    EXPECT(nib_checkpoint_merge(list, 2, in("old"), 1) == NIB_ERR_EXISTS, "the parts' folder");
    EXPECT(nib_checkpoint_merge(list, 2, parts[1], 1) == NIB_ERR_EXISTS, "a part");
    EXPECT(temp_count(in("old")) == 2, "parts are gone");
    /* A folder whose weights lie in the destination. */
    o.export_as = NIB_EXPORT_MODELOPT;
    for (int i = 0; i < 2; i++) {
        o.shard = i + 1;
        snprintf(parts[i], sizeof parts[i], "%s/part%d", c.dir.path, i);
        REQUIRE(nib_checkpoint_quantize(fixture_exec(1), c.src, parts[i], &o, NULL) == NIB_OK, "%s",
                nib_last_error());
    }
    REQUIRE(rename(in("part1/model.safetensors"), in("old/model.safetensors")) == 0
                && symlink("../old/model.safetensors", in("part1/model.safetensors")) == 0, "link");
    EXPECT(nib_checkpoint_merge(list, 2, in("old"), 1) == NIB_ERR_EXISTS, "a part's weights");
    EXPECT(temp_count(in("old")) == 3, "weights are gone");
    REQUIRE(nib_checkpoint_merge(list, 2, in("whole"), 1) == NIB_OK, "%s", nib_last_error());
    temp_dir_remove(&c.dir);
}
