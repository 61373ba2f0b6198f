/* checkpoint_fault_test.c: bad weights, bad files, bad places to write: each is refused with a
 * sentence that names file, tensor and number, and leaves nothing behind. */
#include <fcntl.h>
#include <math.h>

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

static nib_status run(void) { return fixture_quantize(src, dst, NIB_EXPORT_MODELOPT, NIB_NVFP4); }

/* The run must fail so, say all of that, and leave nothing. */
static void refused(nib_status want, const char *first, const char *second)
{
    const nib_status got = run();
    EXPECT(got == want, "%s: %s", nib_status_name(got), nib_last_error());
    EXPECT(fixture_error_has(first), "'%s' is not in '%s'", first, nib_last_error());
    EXPECT(fixture_error_has(second), "'%s' is not in '%s'", second, nib_last_error());
    EXPECT(!fixture_leftovers(dst), "something is left");
}

/* ---- types that are not computed with ---- */

/* They are copied; where one would have to be quantized, it is refused by name. */
NIB_TEST(CheckpointFault, TypesThatNibbleCannotReadAsNumbers)
{
    static const fixture_tensor t[] = {
        { "model.layers.0.mlp.down_proj.weight", NIB_TT_BF16, 2, { 32, 64 }, 1.0f, NULL },
        { "model.layers.0.mlp.up_proj.weight", NIB_TT_F4, 2, { 32, 64 }, 1.0f, NULL },
        { "model.four", NIB_TT_F4, 2, { 2, 7 }, 1.0f, NULL },
        { "model.six", NIB_TT_F6_E2M3, 2, { 2, 6 }, 1.0f, NULL },
        { "model.other_six", NIB_TT_F6_E3M2, 1, { 20 }, 1.0f, NULL },
        { "model.complex", NIB_TT_C64, 1, { 9 }, 1.0f, NULL },
        { "model.fnuz", NIB_TT_F8_E4M3FNUZ, 2, { 3, 3 }, 1.0f, NULL },
        { "model.scales", NIB_TT_F8_E8M0, 2, { 3, 5 }, 1.0f, NULL },
    };
    enum { COUNT = sizeof t / sizeof *t };
    begin();
    REQUIRE(fixture_folder(src, t, COUNT, 1), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4);
    EXPECT(nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL) == NIB_ERR_UNSUPPORTED
               && fixture_error_has(t[1].name) && fixture_error_has("stored as F4"), "%s",
           nib_last_error());
    const char *exclude[] = { "*up_proj*" };
    o.exclude = exclude, o.n_exclude = 1;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(2), src, dst, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    nib_safetensors *st = NULL;
    REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
    for (int i = 1; i < COUNT; i++) {
        uint64_t bytes;
        uint8_t *data = fixture_bytes(&t[i], &bytes);
        const nib_tensor *kept = nib_safetensors_find(st, t[i].name);
        EXPECT(kept && kept->type == t[i].type && kept->bytes == bytes
                   && !memcmp(kept->data, data, bytes), "%s", t[i].name);
        free(data);
    }
    nib_safetensors_close(st);
    temp_dir_remove(&dir);
}

/* ---- NaN and Inf ---- */

static void put_nan(float *x, int64_t n) { x[n - 3] = NAN; }
static void put_infs(float *x, int64_t n) { x[5] = -INFINITY, x[n - 1] = INFINITY; }

static void check_nonfinite(nib_tensor_type type, nib_format format)
{
    const fixture_tensor t[] = {
        { "model.layers.0.mlp.down_proj.weight", type, 2, { 4096, 1024 }, 1.0f, put_nan },
        { "model.layers.1.mlp.down_proj.weight", type, 2, { 32, 64 }, 1.0f, put_infs },
        { "model.norm.weight", type, 1, { 64 }, 1.0f, put_nan }, /* kept: nobody minds */
    };
    begin();
    REQUIRE(fixture_folder(src, t, 3, 1), "%s", src);
    for (int first = 0; first < 2; first++) { /* the last panel of several; the first row */
        const char *exclude[] = { "*layers.0*" };
        nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, format);
        o.exclude = exclude;
        o.n_exclude = (size_t)first;
        for (int threads = 1; threads < 4; threads++) {
            const nib_status got = nib_checkpoint_quantize(fixture_exec(threads), src, dst, &o,
                                                           NULL);
            EXPECT(got == NIB_ERR_NONFINITE, "%s", nib_status_name(got));
            EXPECT(fixture_error_has(first ? t[1].name : t[0].name), "%s", nib_last_error());
            EXPECT(fixture_error_has(first ? "[0, 5] is Inf" : "[4095, 1021] is NaN"), "%s",
                   nib_last_error());
            EXPECT(!fixture_leftovers(dst) && temp_count(dst) < 0, "something is left");
        }
    }
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, format);
    nib_checkpoint_report *r = NULL;
    o.nonfinite = NIB_NONFINITE_GO_ON;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, &r) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(r->nonfinite == 3, "%llu counted", (unsigned long long)r->nonfinite);
    EXPECT(r->tensors[0].error.nonfinite == 1 && r->tensors[1].error.nonfinite == 2, "by tensor");
    nib_checkpoint_report_free(r);
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointFault, NonFiniteWeightsAreRefusedOrCounted)
{
    check_nonfinite(NIB_TT_BF16, NIB_NVFP4);
    check_nonfinite(NIB_TT_F16, NIB_NVFP4);
    check_nonfinite(NIB_TT_F32, NIB_MXFP4); /* no amax pass: seen while quantizing */
}

/* ---- files that are not whole ---- */

static int cut(const char *path, long by)
{
    struct stat info;
    return stat(path, &info) == 0 && truncate(path, info.st_size - by) == 0;
}

static int source(size_t files)
{
    begin();
    return fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, files);
}

static int in_source(const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", src, name);
    return text ? temp_write(path, text, strlen(text)) : !remove(path);
}

NIB_TEST(CheckpointFault, BrokenSources)
{
    REQUIRE(source(1), "%s", src);
    REQUIRE(cut(temp_path(&dir, "src/model.safetensors"), 1), "cut");
    refused(NIB_ERR_FORMAT, "model.safetensors", "");
    temp_dir_remove(&dir);

    REQUIRE(source(3), "%s", src);
    REQUIRE(in_source("model-00002-of-00003.safetensors", NULL), "remove");
    refused(NIB_ERR_IO, "model-00002-of-00003.safetensors", "");
    temp_dir_remove(&dir);

    REQUIRE(source(1), "%s", src);
    REQUIRE(in_source("config.json", "{\"architectures\": [\"Llama\""), "config.json");
    refused(NIB_ERR_FORMAT, "config.json", "");
    REQUIRE(in_source("config.json", "[1, 2]"), "config.json");
    refused(NIB_ERR_FORMAT, "config.json", "");
    REQUIRE(in_source("config.json", "{\"quantization_config\": {\"quant_method\": \"fp8\"}}"), "");
    refused(NIB_ERR_UNSUPPORTED, "quantized", "config.json");
    REQUIRE(in_source("config.json", "{\"quantization_config\": null}"), "config.json");
    EXPECT(run() == NIB_OK, "a source that says it is not quantized: %s", nib_last_error());
    temp_dir_remove_at(dst);
    REQUIRE(in_source("config.json", NULL), "remove");
    EXPECT(run() == NIB_OK, "a folder without config.json: %s", nib_last_error());
    temp_dir_remove(&dir);

    begin();
    refused(NIB_ERR_IO, src, "No such file");
    REQUIRE(mkdir(src, 0777) == 0, "mkdir");
    const nib_status status = run();
    EXPECT(status == NIB_ERR_IO || status == NIB_ERR_FORMAT, "%s: %s", nib_status_name(status),
           nib_last_error());
    EXPECT(fixture_error_has(src), "%s", nib_last_error());
    temp_dir_remove(&dir);
}

/* Small files are copied before the long work, so that a run ends early and not at its end. */
NIB_TEST(CheckpointFault, DanglingLinkIsFoundBeforeAnyWeightIsRead)
{
    const fixture_tensor t = { "a.q_proj.weight", NIB_TT_F32, 2, { 16, 64 }, 1, put_nan };
    begin();
    REQUIRE(fixture_folder(src, &t, 1, 1), "%s", src);
    REQUIRE(symlink("/no/such/file", temp_path(&dir, "src/merges.txt")) == 0, "symlink");
    const nib_status status = run();
    EXPECT(status == NIB_ERR_IO && fixture_error_has("merges.txt"), "%s", nib_last_error());
    EXPECT(temp_count(dst) < 0, "something stands under the final name");
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointFault, QuantizedSourceIsRefused)
{
    REQUIRE(source(1), "%s", src);
    REQUIRE(run() == NIB_OK, "%s", nib_last_error());
    snprintf(src, sizeof src, "%s/dst", dir.path);
    snprintf(dst, sizeof dst, "%s/again", dir.path);
    refused(NIB_ERR_UNSUPPORTED, "modelopt", "quantized");
    temp_dir_remove(&dir);
}

/* ---- places to write ---- */

static int put_text(const char *path) { return temp_write(path, "mine", 4); }

static int still_there(const char *path)
{
    size_t n = 0;
    char *text = temp_read(path, &n);
    const int same = text && n == 4 && !memcmp(text, "mine", 4);
    free(text);
    return same;
}

NIB_TEST(CheckpointFault, WhatStandsThereIsKeptUnlessForced)
{
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    REQUIRE(source(1), "%s", src);
    REQUIRE(mkdir(dst, 0777) == 0 && put_text(temp_path(&dir, "dst/a")), "%s", dst);
    refused(NIB_ERR_EXISTS, dst, "exists");
    EXPECT(still_there(temp_path(&dir, "dst/a")), "it was touched");
    o.force = 1;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(!fixture_has(dst, "a") && fixture_has(dst, "model.safetensors"), "not replaced");
    EXPECT(!fixture_leftovers(dst), "something is left");

    /* A failed run keeps what it was to replace. */
    REQUIRE(temp_write(temp_path(&dir, "src/model.safetensors"), "torn", 4), "torn");
    EXPECT(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL) == NIB_ERR_FORMAT, "torn");
    EXPECT(fixture_has(dst, "model.safetensors"), "the earlier output is gone");
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointFault, ParentsThatCannotBeWritten)
{
    REQUIRE(source(1), "%s", src);
    REQUIRE(put_text(temp_path(&dir, "file")), "file");
    snprintf(dst, sizeof dst, "%s/file/dst", dir.path);
    refused(NIB_ERR_IO, "file", "");
    EXPECT(still_there(temp_path(&dir, "file")), "it was touched");
    snprintf(dst, sizeof dst, "%s/no/such/dst", dir.path);
    refused(NIB_ERR_IO, "no/such", "No such file");
    snprintf(dst, sizeof dst, "/proc/nibble-test");
    const nib_status status = run();
    EXPECT(status == NIB_ERR_IO, "%s: %s", nib_status_name(status), nib_last_error());
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointFault, SourceIsNeverReplaced)
{
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    REQUIRE(source(1), "%s", src);
    o.force = 1;
    char with_slash[310], link[300];
    snprintf(with_slash, sizeof with_slash, "%s//", src);
    snprintf(link, sizeof link, "%s/link", dir.path);
    REQUIRE(symlink(src, link) == 0, "symlink");
    const char *const from[] = { src, src, link, src };
    const char *const to[] = { src, with_slash, src, link };
    for (int i = 0; i < 4; i++) {
        const nib_status got = nib_checkpoint_quantize(fixture_exec(0), from[i], to[i], &o, NULL);
        EXPECT(got == NIB_ERR_EXISTS, "%d: %s: %s", i, nib_status_name(got), nib_last_error());
        EXPECT(fixture_has(src, "model.safetensors") && !fixture_has(src, "hf_quant_config.json"),
               "%d: the source was replaced", i);
    }
    /* Through the link it can be read. */
    EXPECT(fixture_quantize(link, dst, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
           nib_last_error());
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointFault, DestinationWithSlashAndInsideTheSource)
{
    char inside[310], slash[310];
    REQUIRE(source(1), "%s", src);
    snprintf(slash, sizeof slash, "%s/", dst);
    snprintf(inside, sizeof inside, "%s/out", src);
    REQUIRE(fixture_quantize(src, slash, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    REQUIRE(fixture_quantize(src, inside, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(fixture_same(dst, inside), "the place changed the output");
    EXPECT(!fixture_leftovers(inside), "something is left");
    temp_dir_remove(&dir);
}

/* ---- a model in two forms ---- */

NIB_TEST(CheckpointFault, GgufBesideSafetensorsIsNotTheModel)
{
    REQUIRE(source(1), "%s", src);
    REQUIRE(fixture_gguf(temp_path(&dir, "src/made.gguf"), fixture_llama_gguf(NIB_TT_F16),
                         FIXTURE_LLAMA), "gguf");
    nib_checkpoint_report *r = NULL;
    REQUIRE(nib_checkpoint_info(src, &r) == NIB_OK, "%s", nib_last_error());
    EXPECT(!strcmp(r->tensors[0].source_type, "BF16"), "read %s", r->tensors[0].source_type);
    nib_checkpoint_report_free(r);
    temp_dir_remove(&dir);
}

/* ---- stopping ---- */

typedef struct stopper {
    int          at, ticks;
    volatile int cancel;
    uint64_t     done, total;
} stopper;

static void stop(void *user, const nib_progress *p)
{
    stopper *s = user;
    EXPECT(p->source_bytes_done >= s->done && p->source_bytes_done <= p->source_bytes_total,
           "%llu of %llu", (unsigned long long)p->source_bytes_done,
           (unsigned long long)p->source_bytes_total);
    s->done = p->source_bytes_done;
    s->total = p->source_bytes_total;
    if (++s->ticks == s->at) s->cancel = 1;
}

NIB_TEST(CheckpointFault, CancelledRunsAreResumedToTheSameBytes)
{
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    REQUIRE(source(1), "%s", src);
    char whole[300];
    snprintf(whole, sizeof whole, "%s/whole", dir.path);
    stopper s = { 0 };
    o.progress = stop;
    o.user = &s;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(1), src, whole, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(s.done == s.total && s.total > 0, "the progress ends at %llu of %llu",
           (unsigned long long)s.done, (unsigned long long)s.total);
    const int ticks = s.ticks;
    for (int at = 1; at <= ticks; at += at < 8 ? 1 : 5) {
        s = (stopper){ .at = at };
        o.cancel = &s.cancel;
        o.resume = 0;
        const nib_status got = nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL);
        EXPECT(got == NIB_ERR_CANCELLED, "tick %d: %s", at, nib_last_error());
        EXPECT(temp_count(dst) < 0 && fixture_leftovers(dst), "tick %d", at);
        /* Another run's arguments do not fit, and do no harm. */
        nib_checkpoint_options other = o;
        other.resume = 1;
        other.cancel = NULL;
        other.scale_choice = NIB_SCALE_MSE;
        EXPECT(nib_checkpoint_quantize(fixture_exec(1), src, dst, &other, NULL) == NIB_ERR_EXISTS,
               "tick %d: resumed with other arguments", at);
        EXPECT(fixture_error_has("scale_choice"), "%s", nib_last_error());
        s = (stopper){ 0 };
        o.resume = 1;
        nib_checkpoint_report *r = NULL;
        EXPECT(nib_checkpoint_quantize(fixture_exec(2), src, dst, &o, &r) == NIB_OK, "tick %d: %s",
               at, nib_last_error());
        EXPECT(r && r->tensors[1].error.sum_sq > 0, "tick %d: the figures of done work", at);
        EXPECT(fixture_same(whole, dst) && !fixture_leftovers(dst), "tick %d: other bytes", at);
        nib_checkpoint_report_free(r);
        temp_dir_remove_at(dst);
        if (nib_test_failed()) break;
    }
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointFault, ChangedSourceIsNotResumed)
{
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    stopper s = { .at = 5 };
    REQUIRE(source(1), "%s", src);
    o.progress = stop;
    o.user = &s;
    o.cancel = &s.cancel;
    EXPECT(nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL) == NIB_ERR_CANCELLED, "%s",
           nib_last_error());
    const struct timespec times[2] = { { 1, 0 }, { 1, 0 } };
    REQUIRE(utimensat(AT_FDCWD, temp_path(&dir, "src/model.safetensors"), times, 0) == 0, "times");
    o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    o.resume = 1;
    EXPECT(nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL) == NIB_ERR_EXISTS, "%s",
           nib_last_error());
    EXPECT(fixture_error_has("files="), "%s", nib_last_error());
    temp_dir_remove(&dir);
}
