/* nibble_memory_test.c: the most memory that a run holds: under 3x the largest tensor + 64 MB,
 * and the same for a small and a large model. Mapped pages of files count. */
#include "model_fixture.h"
#include "run_tool.h"
#include "shim.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { MB = 1 << 20 };

/* n tensors of rows x 1024 elements, named as given; the values are one megabyte repeated,
 * because drawing them all would take longer than quantizing them. */
static int write_model(const char *path, const char *const *names, int n, nib_tensor_type type,
                       int64_t rows)
{
    const int64_t bytes = rows * 1024 * nib_tensor_type_get(type)->block_bytes;
    nib_tensor_spec *specs = calloc((size_t)n, sizeof *specs);
    nib_file_layout layout;
    uint64_t some;
    const fixture_tensor t = { "values", type, 1, { MB / nib_tensor_type_get(type)->block_bytes },
                               0.5f, NULL };
    uint8_t *values = fixture_bytes(&t, &some);
    for (int i = 0; i < n; i++)
        specs[i] = (nib_tensor_spec){ names[i], type, 2, { rows, 1024 } };
    int ok = nib_safetensors_layout(specs, (size_t)n, &layout) == NIB_OK;
    FILE *f = ok ? fopen(path, "wb") : NULL;
    ok = f && fwrite(layout.header, 1, layout.header_bytes, f) == layout.header_bytes;
    for (int64_t at = 0; ok && at < n * bytes; at += MB)
        ok = fwrite(values, 1, MB, f) == MB;
    if (f) ok &= fclose(f) == 0;
    nib_file_layout_free(&layout);
    free(values);
    free(specs);
    return ok;
}

/* Peak memory in kB of a run with these two options; 0 if it failed. */
static long peak(const temp_dir *dir, const char *src, const char *export_as, const char *format)
{
    char dst[300];
    snprintf(dst, sizeof dst, "%s/dst", dir->path);
    const tool_result r = tool_run(dir, "quantize", src, "-o", dst, "--force", "--quiet",
                                   "--export", export_as, "--format", format);
    EXPECT(r.status == 0, "%s", r.err);
    temp_dir_remove_at(dst);
    return r.status == 0 ? r.max_rss_kb : 0;
}

NIB_TEST(NibbleMemory, ThreeTimesTheLargestTensorAnd64MB)
{
    /* Two that share a scale: both are read before either is written. */
    static const char *const names[] = { "model.layers.0.mlp.gate_proj.weight",
                                         "model.layers.0.mlp.up_proj.weight" };
    static const struct {
        nib_tensor_type type;
        int64_t         rows; /* 64 MB */
        const char     *export_as, *format;
    } rows[] = { { NIB_TT_BF16, 32768, "modelopt", "nvfp4" },
                 { NIB_TT_F32, 16384, "modelopt", "nvfp4" },
                 { NIB_TT_F32, 16384, "compressed-tensors", "mxfp4" },
                 { NIB_TT_F16, 32768, "compressed-tensors", "nvfp4" },
                 { NIB_TT_F32, 16384, "compressed-tensors", "int8-b8-asym" } };
    if (SANITIZED) SKIP("a sanitizer's own memory counts");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const temp_dir dir = temp_dir_make();
        const char *src = temp_path(&dir, "x.safetensors");
        const int ok = write_model(src, names, 2, rows[i].type, rows[i].rows);
        const long kb = ok ? peak(&dir, src, rows[i].export_as, rows[i].format) : 0;
        EXPECT(ok, "%s", src);
        EXPECT(kb > 0 && kb < (3 * 64 + 64) * 1024, "row %zu: %ld kB", i, kb);
        temp_dir_remove(&dir);
    }
}

NIB_TEST(NibbleMemory, DoesNotGrowWithTheModel)
{
    enum { SMALL = 32, LARGE = 160 }; /* tensors of 1 MB, a quarter of them kept */
    static char text[LARGE][64];
    const char *names[LARGE];
    long kb[2] = { 0 };
    if (SANITIZED) SKIP("a sanitizer's own memory counts");
    for (int i = 0; i < LARGE; i++) {
        static const char *const kinds[] = { "mlp.down_proj.weight", "self_attn.o_proj.weight",
                                             "self_attn.q_proj.weight", "embed.weight" };
        snprintf(text[i], sizeof text[i], "model.layers.%d.%s", i / 4, kinds[i % 4]);
        names[i] = text[i];
    }
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "x.safetensors");
    for (int large = 0; large < 2; large++) {
        REQUIRE(write_model(src, names, large ? LARGE : SMALL, NIB_TT_BF16, 512), "%s", src);
        kb[large] = peak(&dir, src, "modelopt", "nvfp4");
    }
    EXPECT(kb[0] > 0 && kb[1] < kb[0] + 8 * 1024, "%ld kB for %d MB, %ld kB for %d MB", kb[0],
           SMALL, kb[1], LARGE);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleMemory, MergeAndCompareHoldLittle)
{
    static const char *const names[] = { "a.o_proj.weight", "b.o_proj.weight" };
    if (SANITIZED) SKIP("a sanitizer's own memory counts");
    const temp_dir dir = temp_dir_make();
    char src[300], a[300], b[300], dst[300];
    snprintf(src, sizeof src, "%s/x.safetensors", dir.path);
    snprintf(a, sizeof a, "%s/a", dir.path);
    snprintf(b, sizeof b, "%s/b", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    REQUIRE(write_model(src, names, 2, NIB_TT_BF16, 32768), "%s", src);
    EXPECT(tool_run(&dir, "quantize", src, "-o", a, "-q", "--shard", "1/2").status == 0, "1/2");
    EXPECT(tool_run(&dir, "quantize", src, "-o", b, "-q", "--shard", "2/2").status == 0, "2/2");
    const tool_result merged = tool_run(&dir, "merge", a, b, "-o", dst);
    EXPECT(merged.status == 0 && merged.max_rss_kb < 64 * 1024, "merge: %ld kB, %s",
           merged.max_rss_kb, merged.err);
    const tool_result compared = tool_run(&dir, "compare", src, dst);
    EXPECT(compared.status == 0 && compared.max_rss_kb < (3 * 64 + 64) * 1024,
           "compare: %ld kB, %s", compared.max_rss_kb, compared.err);
    printf("merge %ld kB, compare %ld kB\n", merged.max_rss_kb, compared.max_rss_kb);
    temp_dir_remove(&dir);
}
