/* model.c: opens a model and gathers its files' tensors into logical ones. */
#include "host/io/model.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/io/file_util.h"
#include "host/io/json_util.h"

/* ---- logical tensors of safetensors ---- */

static int ends_with(const char *text, const char *tail)
{
    const size_t n = strlen(text), m = strlen(tail);
    return n >= m && !strcmp(text + n - m, tail);
}

/* The tensor named like name, with its tail replaced; NULL if there is none. */
static const nib_tensor *sibling(const nib_safetensors *st, const char *name, const char *tail,
                                 const char *new_tail)
{
    char *other = NULL;
    const int stem = (int)(strlen(name) - strlen(tail));
    if (asprintf(&other, "%.*s%s", stem, name, new_tail) < 0) return NULL;
    const nib_tensor *found = nib_safetensors_find(st, other);
    free(other);
    return found;
}

/* What belongs to codes. */
enum { SCALE, MULTIPLIER, DIVISOR, INPUT, INPUT_DIVISOR, ZEROS, SHAPE, G_IDX, PARTS };

/* How codes and what belongs to them are named: P.weight (ModelOpt) or P.weight_packed
 * (compressed-tensors) with P.weight_scale; of fused experts, whose names do not end in
 * ".weight", P or P_weight_packed with P_weight_scale (ModelOpt's quantizer_attr_names). */
typedef struct naming {
    const char *codes, *plain; /* tails: in the file, and of the logical name */
    const char *part[PARTS];
} naming;

#define NAMING(codes, plain, c) \
    { codes, plain, { c "weight_scale", c "weight_scale_2", c "weight_global_scale", \
      c "input_scale", c "input_global_scale", c "weight_zero_point", c "weight_shape", \
      c "weight_g_idx" } }
static const naming namings[] = {
    NAMING(".weight_packed", ".weight", "."), NAMING("_weight_packed", "", "_"),
    NAMING(".weight", ".weight", "."),        NAMING("", "", "_"),
};
enum { NAMINGS = sizeof namings / sizeof *namings, PACKED_NAMINGS = 2 };

static int is_of_integers(int part) { return part == ZEROS || part == SHAPE || part == G_IDX; }

/* U8 for formats with scale bytes, or I32 with a shape for integers. */
static int is_codes(const nib_safetensors *st, const nib_tensor *t, const naming *n)
{
    return (t->type == NIB_TT_U8 || t->type == NIB_TT_I32) && ends_with(t->name, n->codes)
        && sibling(st, t->name, n->codes, n->part[SCALE])
        && (t->type == NIB_TT_U8 || sibling(st, t->name, n->codes, n->part[SHAPE]));
}

static int is_companion(const nib_safetensors *st, const char *name)
{
    for (int i = 0; i < NAMINGS; i++) {
        const naming *n = &namings[i];
        for (int j = 0; j < PARTS; j++) {
            const nib_tensor *codes = ends_with(name, n->part[j])
                                        ? sibling(st, name, n->part[j], n->codes) : NULL;
            if (codes && is_codes(st, codes, n)
                && (codes->type == NIB_TT_I32 || !is_of_integers(j)))
                return 1;
        }
    }
    return 0;
}

nib_status nib_part_name(const char *name, char **whole, int *of_integers)
{
    *whole = NULL;
    for (int i = 0; i < PACKED_NAMINGS; i++)
        for (int j = 0; j <= PARTS; j++) {
            const char *tail = j < PARTS ? namings[i].part[j] : namings[i].codes;
            if (!ends_with(name, tail)) continue;
            *of_integers = is_of_integers(j);
            const int stem = (int)(strlen(name) - strlen(tail));
            NIB_REQUIRE(asprintf(whole, "%.*s%s", stem, name, namings[i].plain) >= 0,
                        NIB_ERR_OUT_OF_MEMORY, "no memory for a name");
            return NIB_OK;
        }
    return NIB_OK;
}

/* Words of integers without their shape, or steps, are no tensor to be copied. */
static nib_status check_words(const nib_model *m, const nib_tensor *t)
{
    for (int i = 0; i < PACKED_NAMINGS && t->type == NIB_TT_I32; i++) {
        const naming *n = &namings[i];
        if (!ends_with(t->name, n->codes)) continue;
        const int scale = sibling(m->st, t->name, n->codes, n->part[SCALE]) != NULL;
        const int shape = sibling(m->st, t->name, n->codes, n->part[SHAPE]) != NULL;
        NIB_REQUIRE(scale == shape, NIB_ERR_FORMAT, "%s: %s has a %s beside it, but no %s", m->path,
                    t->name, scale ? "weight_scale" : "weight_shape",
                    scale ? "weight_shape" : "weight_scale");
    }
    return NIB_OK;
}

static nib_status f32_scalar(const char *path, const nib_tensor *t, float *value)
{
    NIB_REQUIRE(t->type == NIB_TT_F32 && nib_tensor_elements(t) == 1, NIB_ERR_UNSUPPORTED,
                "%s: %s is not a single F32", path, t->name);
    memcpy(value, t->data, sizeof *value);
    NIB_REQUIRE(*value > 0.0f && *value <= 3.40282347e+38f, NIB_ERR_FORMAT,
                "%s: %s is %g, not a finite number > 0", path, t->name, (double)*value);
    return NIB_OK;
}

static void set_dims(nib_logical *l, int32_t n_dims, const int64_t *dims, int64_t last)
{
    l->n_dims = n_dims;
    l->rows = 1;
    for (int i = 0; i < n_dims; i++) {
        l->dims[i] = i + 1 == n_dims ? last : dims[i];
        if (i + 1 < n_dims) l->rows *= dims[i];
    }
    l->cols = n_dims ? last : 1;
}

/* w: codes. */
static nib_status packed_logical(const nib_model *m, const nib_tensor *w, const naming *names,
                                 nib_logical *l)
{
    const nib_tensor *s = sibling(m->st, w->name, names->codes, names->part[SCALE]);
    NIB_REQUIRE(s && s->n_dims == w->n_dims && w->n_dims >= 2, NIB_ERR_UNSUPPORTED,
                "%s: %s has no weight_scale of its rank", m->path, w->name);
    for (int i = 0; i + 1 < w->n_dims; i++)
        NIB_REQUIRE(s->dims[i] == w->dims[i], NIB_ERR_FORMAT,
                    "%s: %s has %lld rows, its weight_scale %lld", m->path, w->name,
                    (long long)w->dims[i], (long long)s->dims[i]);
    const int64_t cols = w->dims[w->n_dims - 1] * 2, n_scales = s->dims[w->n_dims - 1];
    const int64_t block = n_scales > 0 && cols % n_scales == 0 ? cols / n_scales : 0;
    const int e4m3 = s->type == NIB_TT_F8_E4M3;
    NIB_REQUIRE((e4m3 || s->type == NIB_TT_U8 || s->type == NIB_TT_F8_E8M0)
                    && (block == 16 || block == 32),
                NIB_ERR_UNSUPPORTED, "%s: %s: %s scales, %lld of them for %lld columns", m->path,
                w->name, nib_tensor_type_get(s->type)->name, (long long)n_scales, (long long)cols);

    l->storage = NIB_STORAGE_PACKED;
    l->tensor = w;
    l->scales = s;
    l->format = nib_format_make(NIB_E2M1, e4m3 ? NIB_SCALE_E4M3 : NIB_SCALE_E8M0, (int32_t)block,
                                e4m3);
    l->bytes = w->bytes + s->bytes;
    set_dims(l, w->n_dims, w->dims, cols);
    if (!e4m3) return NIB_OK;

    const nib_tensor *multiplier = sibling(m->st, w->name, names->codes, names->part[MULTIPLIER]);
    const nib_tensor *divisor = sibling(m->st, w->name, names->codes, names->part[DIVISOR]);
    NIB_REQUIRE(multiplier || divisor, NIB_ERR_UNSUPPORTED,
                "%s: %s has neither weight_scale_2 nor weight_global_scale", m->path, w->name);
    NIB_TRY(f32_scalar(m->path, multiplier ? multiplier : divisor, &l->tensor_scale));
    if (!multiplier) {
        const float divided_by = l->tensor_scale;
        l->tensor_scale = 1.0f / divided_by;
        NIB_REQUIRE(l->tensor_scale <= 3.40282347e+38f, NIB_ERR_FORMAT,
                    "%s: %s is %g, whose reciprocal is over the range of F32", m->path,
                    divisor->name, (double)divided_by);
    }
    l->bytes += 4;
    return NIB_OK;
}

static nib_status integers_logical(const nib_model *m, const nib_tensor *w, const naming *names,
                                   nib_logical *l)
{
    const nib_integer_parts parts = {
        w, sibling(m->st, w->name, names->codes, names->part[SCALE]),
        sibling(m->st, w->name, names->codes, names->part[SHAPE]),
        sibling(m->st, w->name, names->codes, names->part[ZEROS]),
        sibling(m->st, w->name, names->codes, names->part[G_IDX])
    };
    return nib_integers_logical(m, &parts, l);
}

static nib_status plain_logical(const nib_tensor *t, const char *name, nib_logical *l)
{
    l->name = strdup(name);
    NIB_REQUIRE(l->name, NIB_ERR_OUT_OF_MEMORY, "no memory for a name");
    l->storage = NIB_STORAGE_PLAIN;
    l->tensor = t;
    l->bytes = t->bytes;
    set_dims(l, t->n_dims, t->dims, t->n_dims ? t->dims[t->n_dims - 1] : 1);
    if (t->n_dims == 1 && nib_tensor_type_get(t->type)->block == 1) {
        l->rows = t->dims[0]; /* biases of q and k are permuted like rows */
        l->cols = 1;
    }
    return NIB_OK;
}

static nib_status gather_safetensors(nib_model *m)
{
    size_t n;
    const nib_tensor *t = nib_safetensors_tensors(m->st, &n);
    m->tensors = calloc(n ? n : 1, sizeof *m->tensors);
    NIB_REQUIRE(m->tensors, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu tensors", m->path, n);
    for (size_t i = 0; i < n; i++) {
        const char *name = t[i].name;
        if (is_companion(m->st, name)) continue;
        NIB_TRY(check_words(m, &t[i]));
        nib_logical *l = &m->tensors[m->count++];
        l->tensor_scale = 1.0f;
        const naming *names = NULL;
        for (int k = 0; k < NAMINGS && !names; k++)
            if (is_codes(m->st, &t[i], &namings[k])) names = &namings[k];
        if (!names) {
            NIB_TRY(plain_logical(&t[i], name, l));
            continue;
        }
        const int stem = (int)(strlen(name) - strlen(names->codes));
        NIB_REQUIRE(asprintf(&l->name, "%.*s%s", stem, name, names->plain) >= 0,
                    NIB_ERR_OUT_OF_MEMORY, "no memory for a name");
        NIB_TRY(t[i].type == NIB_TT_U8 ? packed_logical(m, &t[i], names, l)
                                       : integers_logical(m, &t[i], names, l));
    }
    return NIB_OK;
}

/* ---- logical tensors of GGUF ---- */

/* "blk.0.attn_q.weight" has its tensor scale in "blk.0.attn_q.scale". */
static int is_gguf_side(const nib_gguf *g, const nib_tensor *t)
{
    static const char *const tails[] = { ".scale", ".input_scale" };
    for (size_t i = 0; i < 2; i++) {
        if (!ends_with(t->name, tails[i]) || t->type != NIB_TT_F32) continue;
        char weight[128];
        snprintf(weight, sizeof weight, "%.*s.weight",
                 (int)(strlen(t->name) - strlen(tails[i])), t->name);
        if (nib_gguf_find_tensor(g, weight)) return 1;
    }
    return 0;
}

static nib_status gguf_logical(const nib_model *m, const nib_tensor *t, nib_logical *l)
{
    char name[128];
    const int gguf_only = nib_name_gguf_to_hf(t->name, name, sizeof name) != NIB_OK;
    if (gguf_only) snprintf(name, sizeof name, "%s", t->name);
    NIB_TRY(plain_logical(t, name, l));
    l->gguf_only = gguf_only;
    l->tensor_scale = 1.0f;
    l->gguf_heads = nib_permuted_heads(&m->heads, name);
    NIB_REQUIRE(!l->gguf_heads || l->rows % (2 * l->gguf_heads) == 0, NIB_ERR_FORMAT,
                "%s: %s has %lld rows for %d heads", m->path, t->name, (long long)l->rows,
                l->gguf_heads);
    if (t->type == NIB_TT_MXFP4) l->format = NIB_MXFP4;
    if (t->type != NIB_TT_NVFP4) return NIB_OK;

    l->format = NIB_NVFP4;
    char side[128];
    const size_t stem = ends_with(t->name, ".weight") ? strlen(t->name) - 7 : strlen(t->name);
    snprintf(side, sizeof side, "%.*s.scale", (int)stem, t->name);
    const nib_tensor *scale = nib_gguf_find_tensor(m->gguf, side);
    if (!scale) return NIB_OK;
    l->bytes += scale->bytes;
    return f32_scalar(m->path, scale, &l->tensor_scale);
}

static nib_status gather_gguf(nib_model *m)
{
    const int64_t parts = nib_gguf_i64(m->gguf, "split.count", 1); /* llama-gguf-split's */
    NIB_REQUIRE(parts <= 1, NIB_ERR_UNSUPPORTED,
                "%s: is part %lld of a GGUF model in %lld files; join them first "
                "(llama-gguf-split --merge)", m->gguf_path,
                (long long)nib_gguf_i64(m->gguf, "split.no", 0) + 1, (long long)parts);
    const nib_gguf_string arch = nib_gguf_str(m->gguf, "general.architecture");
    if (arch.data && arch.bytes < 64) {
        char key[128];
        snprintf(key, sizeof key, "%.*s.attention.head_count", (int)arch.bytes, arch.data);
        const int64_t q = nib_gguf_i64(m->gguf, key, 0);
        snprintf(key, sizeof key, "%.*s.attention.head_count_kv", (int)arch.bytes, arch.data);
        const int64_t kv = nib_gguf_i64(m->gguf, key, q);
        const int llama = arch.bytes == 5 && !memcmp(arch.data, "llama", 5);
        NIB_REQUIRE(!llama || (q > 0 && q < 65536 && kv > 0 && kv < 65536), NIB_ERR_FORMAT,
                    "%s: head counts %lld and %lld", m->path, (long long)q, (long long)kv);
        m->heads = (nib_gguf_heads){ llama, (int32_t)q, (int32_t)kv };
    }
    size_t n;
    const nib_tensor *t = nib_gguf_tensors(m->gguf, &n);
    m->tensors = calloc(n ? n : 1, sizeof *m->tensors);
    NIB_REQUIRE(m->tensors, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu tensors", m->path, n);
    for (size_t i = 0; i < n; i++) {
        if (is_gguf_side(m->gguf, &t[i])) continue;
        NIB_TRY(gguf_logical(m, &t[i], &m->tensors[m->count++]));
    }
    return NIB_OK;
}

/* ---- both ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const nib_logical *const *)a)->name, (*(const nib_logical *const *)b)->name);
}

/* Files have no two tensors of one name, but P.weight and P.weight_packed, or blk.0.attn_q.weight
 * and model.layers.0.self_attn.q_proj.weight, would be the same logical tensor. */
static nib_status check_names(const nib_model *m)
{
    const nib_logical **sorted = calloc(m->count ? m->count : 1, sizeof *sorted);
    NIB_REQUIRE(sorted, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu names", m->path, m->count);
    for (size_t i = 0; i < m->count; i++) sorted[i] = &m->tensors[i];
    qsort(sorted, m->count, sizeof *sorted, by_name);
    nib_status status = NIB_OK;
    for (size_t i = 1; i < m->count && status == NIB_OK; i++)
        if (!strcmp(sorted[i - 1]->name, sorted[i]->name))
            status = nib_fail(NIB_ERR_FORMAT, "%s: both %s and %s stand for %s", m->path,
                              sorted[i - 1]->tensor->name, sorted[i]->tensor->name,
                              sorted[i]->name);
    free(sorted);
    return status;
}

/* ---- config.json ---- */

static nib_status read_config(nib_model *m)
{
    char *path = nib_path_join(m->folder, "config.json");
    NIB_REQUIRE(path, NIB_ERR_OUT_OF_MEMORY, "no memory for a path");
    struct stat st;
    const nib_status status = stat(path, &st) == 0 ? nib_json_load(path, &m->config) : NIB_OK;
    free(path);
    NIB_TRY(status);
    NIB_REQUIRE(!m->config || json_is_object(m->config), NIB_ERR_FORMAT,
                "%s/config.json: is no JSON object", m->folder);
    const json_t *q = json_object_get(m->config, "quantization_config");
    const char *method = nib_json_str(q, "quant_method");
    if (q && !json_is_null(q)) m->quant = !method ? "unknown"
                    : !strcmp(method, "modelopt") ? "modelopt"
                    : !strcmp(method, "compressed-tensors") ? "compressed-tensors" : "unknown";
    return nib_integers_named(m->config, &m->named);
}

/* The only *.gguf of a folder, malloc'd; NULL if there is none or more than one, or if the
 * weights are in safetensors: a GGUF file beside them was made of them. */
static char *only_gguf(const char *folder)
{
    DIR *d = opendir(folder);
    if (!d) return NULL;
    char *path = NULL;
    int found = 0;
    for (const struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        if (ends_with(e->d_name, ".safetensors")) found = 2;
        if (!ends_with(e->d_name, ".gguf")) continue;
        if (!found++) path = nib_path_join(folder, e->d_name);
    }
    closedir(d);
    if (found == 1) return path;
    free(path);
    return NULL;
}

static int has_magic_gguf(const char *path)
{
    char magic[4] = "";
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    const size_t n = fread(magic, 1, 4, f);
    fclose(f);
    return n == 4 && !memcmp(magic, "GGUF", 4);
}

static nib_status open_files(nib_model *m)
{
    struct stat st;
    NIB_REQUIRE(stat(m->path, &st) == 0, NIB_ERR_IO, "%s: %s", m->path, strerror(errno));
    char *gguf = S_ISDIR(st.st_mode) ? only_gguf(m->path) : NULL;
    if (gguf || (S_ISREG(st.st_mode) && has_magic_gguf(m->path))) {
        m->is_gguf = 1;
        m->gguf_path = gguf ? gguf : strdup(m->path);
        NIB_REQUIRE(m->gguf_path, NIB_ERR_OUT_OF_MEMORY, "no memory for a path");
        NIB_TRY(nib_gguf_open(m->gguf_path, &m->gguf));
        return gather_gguf(m);
    }
    NIB_TRY(nib_safetensors_open(m->path, &m->st));
    if (S_ISDIR(st.st_mode)) m->folder = strdup(m->path);
    else if (ends_with(m->path, ".json")) {
        const char *slash = strrchr(m->path, '/');
        m->folder = slash ? strndup(m->path, (size_t)(slash - m->path)) : strdup(".");
    }
    if (m->folder) NIB_TRY(read_config(m));
    return gather_safetensors(m);
}

nib_status nib_model_open(const char *path, nib_model **out)
{
    *out = NULL;
    nib_model *m = calloc(1, sizeof *m);
    NIB_REQUIRE(m && (m->path = strdup(path)), NIB_ERR_OUT_OF_MEMORY, "no memory for a model");
    nib_status status = open_files(m);
    if (status == NIB_OK) status = check_names(m);
    if (status != NIB_OK) {
        nib_model_close(m);
        return status;
    }
    *out = m;
    return NIB_OK;
}

void nib_model_close(nib_model *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->count; i++) free(m->tensors[i].name);
    free(m->tensors);
    nib_safetensors_close(m->st);
    nib_gguf_close(m->gguf);
    json_decref(m->config);
    json_decref(m->named);
    free(m->folder);
    free(m->gguf_path);
    free(m->path);
    free(m);
}
