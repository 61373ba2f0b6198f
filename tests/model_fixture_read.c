/* model_fixture_read.c: running, and looking at what came out. */
#include "model_fixture.h"

const nib_exec *fixture_exec(int threads)
{
    static nib_exec exec[8];
    static nib_device *device;
    static unsigned turn;
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    if (!device && nib_device_open(&options, &device) != NIB_OK) abort();
    nib_exec *e = &exec[turn++ % 8];
    *e = (nib_exec){ .size = sizeof *e, .device = device, .threads = threads };
    return e;
}

nib_checkpoint_options fixture_options(nib_export export_as, nib_format format)
{
    return (nib_checkpoint_options){ .size = sizeof(nib_checkpoint_options),
                                     .export_as = export_as, .format = format,
                                     .keep_dtype = NIB_BF16 };
}

nib_status fixture_quantize(const char *src, const char *dst, nib_export export_as,
                            nib_format format)
{
    const nib_checkpoint_options o = fixture_options(export_as, format);
    return nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL);
}

static int same_file(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    char *x = temp_read(a, &n), *y = temp_read(b, &m);
    const int same = x && y && n == m && !memcmp(x, y, n);
    free(x);
    free(y);
    return same;
}

int fixture_same(const char *a, const char *b)
{
    struct stat info;
    if (stat(a, &info)) return 0;
    if (!S_ISDIR(info.st_mode)) return same_file(a, b);
    if (temp_count(a) != temp_count(b)) return 0;
    DIR *folder = opendir(a);
    int same = folder != NULL;
    for (const struct dirent *e; same && (e = readdir(folder));) {
        char x[1024], y[1024];
        if (e->d_name[0] == '.') continue;
        snprintf(x, sizeof x, "%s/%s", a, e->d_name);
        snprintf(y, sizeof y, "%s/%s", b, e->d_name);
        same = same_file(x, y);
    }
    if (folder) closedir(folder);
    return same;
}

int fixture_same_tensors(const char *a, const char *b)
{
    nib_safetensors *x = NULL, *y = NULL;
    size_t n = 0, m = 1;
    const nib_tensor *t = NULL;
    if (nib_safetensors_open(a, &x) == NIB_OK && nib_safetensors_open(b, &y) == NIB_OK) {
        t = nib_safetensors_tensors(x, &n);
        nib_safetensors_tensors(y, &m);
    }
    int same = n == m;
    for (size_t i = 0; i < n && same; i++) {
        const nib_tensor *u = nib_safetensors_find(y, t[i].name);
        same = u && u->type == t[i].type && u->n_dims == t[i].n_dims && u->bytes == t[i].bytes
            && !memcmp(u->dims, t[i].dims, sizeof u->dims)
            && (!u->bytes || !memcmp(u->data, t[i].data, u->bytes));
    }
    nib_safetensors_close(x);
    nib_safetensors_close(y);
    return same;
}

int fixture_has(const char *folder, const char *name)
{
    char path[1024];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return stat(path, &info) == 0;
}

int fixture_leftovers(const char *path)
{
    static const char *const tails[] = { "lock", "partial", "journal", "old" };
    const char *slash = strrchr(path, '/');
    for (int i = 0; i < 4; i++) {
        char name[1024];
        struct stat info;
        snprintf(name, sizeof name, "%.*s/.%s.nibble-%s", (int)(slash - path), path, slash + 1,
                 tails[i]);
        if (lstat(name, &info) == 0) return 1;
    }
    return 0;
}

json_t *fixture_json(const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return json_load_file(path, 0, NULL);
}

int fixture_error_has(const char *part) { return strstr(nib_last_error(), part) != NULL; }
