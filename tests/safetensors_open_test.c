/* safetensors_open_test.c: folders and indices. Looks below include/. */
#include <stdint.h>

#include "host/io/safetensors.h"
#include "shim.h"
#include "temp_dir.h"

#define INDEX "model.safetensors.index.json"

/* A file of one-byte tensors named by the letters; each holds its own letter. */
static int write_shard(const char *path, const char *letters)
{
    nib_tensor_spec specs[8];
    char names[8][2];
    nib_file_layout layout;
    const size_t count = strlen(letters);
    for (size_t i = 0; i < count; i++) {
        names[i][0] = letters[i];
        names[i][1] = '\0';
        specs[i] = (nib_tensor_spec){ names[i], NIB_TT_U8, 1, { 1 } };
    }
    if (nib_safetensors_layout(specs, count, &layout) != NIB_OK) return 0;
    uint8_t *file = malloc(layout.file_bytes);
    if (!file) return 0;
    memcpy(file, layout.header, layout.header_bytes);
    memcpy(file + layout.header_bytes, letters, count);
    const int ok = temp_write(path, file, layout.file_bytes);
    free(file);
    nib_file_layout_free(&layout);
    return ok;
}

static int write_index(const temp_dir *dir, const char *map)
{
    char text[1024];
    const int n = snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":%s}", map);
    return temp_write(temp_path(dir, INDEX), text, (size_t)n);
}

static void expect_refused(const char *path, nib_status status, const char *words)
{
    nib_safetensors *st;
    EXPECT(nib_safetensors_open(path, &st) == status && !st, "%s: %s", words, nib_last_error());
    EXPECT(strstr(nib_last_error(), words), "%s\n    not: %s", nib_last_error(), words);
    nib_safetensors_close(st);
}

static void expect_letters(const char *path, const char *letters, size_t files)
{
    nib_safetensors *st;
    size_t count;
    REQUIRE(nib_safetensors_open(path, &st) == NIB_OK, "%s", nib_last_error());
    const nib_tensor *tensors = nib_safetensors_tensors(st, &count);
    EXPECT(count == strlen(letters) && nib_safetensors_files(st) == files, "%s: %zu", path, count);
    for (size_t i = 0; i < count; i++) {
        EXPECT(tensors[i].name[0] == letters[i] && tensors[i].data[0] == (uint8_t)letters[i], "%s",
               tensors[i].name);
        EXPECT(nib_safetensors_find(st, tensors[i].name) == &tensors[i], "%s", tensors[i].name);
        EXPECT((size_t)tensors[i].file < files &&
                   strstr(nib_safetensors_path(st, (size_t)tensors[i].file), ".safetensors"), " ");
    }
    nib_safetensors_close(st);
}

NIB_TEST(SafetensorsOpen, FolderPrecedence)
{
    const temp_dir dir = temp_dir_make();
    expect_refused(temp_path(&dir, "absent"), NIB_ERR_IO, "No such file");
    expect_refused(dir.path, NIB_ERR_FORMAT, "0 .safetensors files");
    REQUIRE(write_shard(temp_path(&dir, ".hidden.safetensors"), "h"), " ");
    REQUIRE(write_shard(temp_path(&dir, "other.safetensors"), "oz"), " ");
    expect_letters(dir.path, "oz", 1);
    REQUIRE(write_shard(temp_path(&dir, "second.safetensors"), "s"), " ");
    expect_refused(dir.path, NIB_ERR_FORMAT, "2 .safetensors files, and neither");
    REQUIRE(write_shard(temp_path(&dir, "model.safetensors"), "m"), " ");
    expect_letters(dir.path, "m", 1);
    REQUIRE(write_index(&dir, "{\"s\":\"second.safetensors\",\"o\":\"other.safetensors\","
                              "\"z\":\"other.safetensors\"}"), " ");
    expect_letters(dir.path, "ozs", 2); /* files by name, tensors by offset */
    expect_letters(temp_path(&dir, INDEX), "ozs", 2);
    expect_letters(temp_path(&dir, "second.safetensors"), "s", 1);
    temp_dir_remove(&dir);
}

/* An index that is named without a folder lies in the current one. */
NIB_TEST(SafetensorsOpen, RelativeIndex)
{
    const temp_dir dir = temp_dir_make();
    char *here = getcwd(NULL, 0);
    REQUIRE(here && write_shard(temp_path(&dir, "a.safetensors"), "a") &&
                write_index(&dir, "{\"a\":\"a.safetensors\"}") && chdir(dir.path) == 0, " ");
    expect_letters(INDEX, "a", 1);
    EXPECT(chdir(here) == 0, "%s", here);
    free(here);
    temp_dir_remove(&dir);
}

/* The Hugging Face cache: a snapshot folder of links into ../../blobs. */
NIB_TEST(SafetensorsOpen, LinksAreFollowed)
{
    const temp_dir dir = temp_dir_make();
    REQUIRE(write_shard(temp_path(&dir, "blob"), "a"), " ");
    REQUIRE(mkdir(temp_path(&dir, "snapshot"), 0700) == 0 &&
                symlink("../blob", temp_path(&dir, "snapshot/model.safetensors")) == 0, " ");
    expect_letters(temp_path(&dir, "snapshot"), "a", 1);
    temp_dir_remove(&dir);
}

NIB_TEST(SafetensorsOpen, IndexRefusals)
{
    static const struct { const char *map; nib_status status; const char *words; } rows[] = {
        { "{}", NIB_ERR_FORMAT, "no 'weight_map'" },
        { "[]", NIB_ERR_FORMAT, "no 'weight_map'" },
        { "3", NIB_ERR_FORMAT, "no 'weight_map'" },
        { "{\"a\":1}", NIB_ERR_FORMAT, "gives tensor 'a' no file name" },
        { "{\"a\":null}", NIB_ERR_FORMAT, "gives tensor 'a' no file name" },
        { "{\"a\":\"\"}", NIB_ERR_FORMAT, "'a' into '', which is not the name" },
        { "{\"a\":\"..\"}", NIB_ERR_FORMAT, "not the name" },
        { "{\"a\":\"../x.safetensors\"}", NIB_ERR_FORMAT, "'../x.safetensors', which is not" },
        { "{\"a\":\"/etc/x.safetensors\"}", NIB_ERR_FORMAT, "not the name" },
        { "{\"a\":\"sub/x.safetensors\"}", NIB_ERR_FORMAT, "not the name" },
        { "{\"a\":\"x.bin\"}", NIB_ERR_FORMAT, "not the name" },
        { "{\"a\":\"x\\n.safetensors\"}", NIB_ERR_FORMAT, "not the name" },
        { "{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}", NIB_ERR_FORMAT, "duplicate" },
        { "{\"a\":\"gone.safetensors\"}", NIB_ERR_IO, "gone.safetensors: cannot open" },
        { "{\"a\":\"torn.safetensors\"}", NIB_ERR_FORMAT, "torn.safetensors: 3 bytes" },
        { "{\"a\":\"one.safetensors\"}", NIB_ERR_FORMAT, "holds tensor 'b', which" },
        { "{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"q\":\"one.safetensors\"}",
          NIB_ERR_FORMAT, "puts tensor 'q' into 'one.safetensors', which does not hold it" },
        { "{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"c\":\"two.safetensors\"}",
          NIB_ERR_FORMAT, "holds tensor 'b'" },
        { "{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"d\":\"again.safetensors\"}",
          NIB_ERR_FORMAT, "tensor 'a' is in two files" },
    };
    const temp_dir dir = temp_dir_make();
    REQUIRE(write_shard(temp_path(&dir, "one.safetensors"), "ab") &&
                write_shard(temp_path(&dir, "two.safetensors"), "c") &&
                write_shard(temp_path(&dir, "again.safetensors"), "ad") &&
                temp_write(temp_path(&dir, "torn.safetensors"), "abc", 3), " ");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        REQUIRE(write_index(&dir, rows[i].map), " ");
        expect_refused(dir.path, rows[i].status, rows[i].words);
    }
    REQUIRE(temp_write(temp_path(&dir, INDEX), "{\n\"weight_map\": {\"a\": x}}", 24), " ");
    expect_refused(dir.path, NIB_ERR_FORMAT, "JSON, line 2");
    temp_dir_remove(&dir);
}
