/* model_integers.c: reads compressed-tensors' pack-quantized: which integers a weight_packed holds,
 * by its parts and by config.json, which must not contradict them; and a row of them as f32. */
#include <stdlib.h>
#include <string.h>

#include "host/io/integers.h"

/* ---- config.json ---- */

enum { ROW = -1 };

/* What config.json says of a module's weights. */
typedef struct said {
    int64_t bits;      /* 0: nothing */
    int64_t group;     /* 0: nothing; ROW: one step for the row */
    int     symmetric; /* -1: nothing */
    int     indexed;   /* 1: columns go to groups by weight_g_idx */
} said;

static const json_t *groups_of(const json_t *config)
{
    return json_object_get(json_object_get(config, "quantization_config"), "config_groups");
}

nib_status nib_integers_named(const json_t *config, json_t **named)
{
    const char *key;
    json_t *group, *target;
    size_t i;
    *named = json_object();
    int ok = *named != NULL;
    json_object_foreach((json_t *)(uintptr_t)groups_of(config), key, group) {
        json_t *weights = json_object_get(group, "weights");
        json_array_foreach(json_object_get(group, "targets"), i, target)
            if (ok && json_is_object(weights) && json_is_string(target))
                ok = !json_object_set(*named, json_string_value(target), weights);
    }
    NIB_REQUIRE(ok, NIB_ERR_OUT_OF_MEMORY, "no memory for the modules of config.json");
    return NIB_OK;
}

/* compressed-tensors: "group", "dynamic" or true; "weight" and "static" reorder nothing stored. */
static int is_indexed(const json_t *order)
{
    const char *name = json_string_value(order);
    return name ? !strcmp(name, "group") || !strcmp(name, "dynamic") : json_is_true(order);
}

static said said_by(const json_t *weights)
{
    const json_t *symmetric = json_object_get(weights, "symmetric");
    const char *strategy = json_string_value(json_object_get(weights, "strategy"));
    const int64_t group = json_integer_value(json_object_get(weights, "group_size"));
    const int by_row = strategy ? !strcmp(strategy, "channel") : group < 0;
    const int by_group = !strategy || !strcmp(strategy, "group");
    return (said){ .bits = json_integer_value(json_object_get(weights, "num_bits")),
                   .group = by_row ? ROW : by_group && group > 0 ? group : 0,
                   .symmetric = json_is_boolean(symmetric) ? json_is_true(symmetric) : -1,
                   .indexed = by_group && is_indexed(json_object_get(weights, "actorder")) };
}

/* Of the group that names the module; else what all groups of integers say alike: their targets may
 * be classes or patterns. */
static said said_of(const nib_model *m, const char *weight)
{
    said all = { 0, 0, -1, 0 };
    int n = 0;
    const char *key;
    json_t *group;
    const size_t length = strlen(weight);
    const int tail = length > 7 && !strcmp(weight + length - 7, ".weight");
    char *module = strndup(weight, tail ? length - 7 : length);
    const json_t *own = module ? json_object_get(m->named, module) : NULL;
    free(module);
    if (own) return said_by(own);
    json_object_foreach((json_t *)(uintptr_t)groups_of(m->config), key, group) {
        const json_t *weights = json_object_get(group, "weights");
        const char *type = json_string_value(json_object_get(weights, "type"));
        if (type && !strcmp(type, "float")) continue;
        const said s = said_by(weights);
        if (!n++) all = s;
        if (s.bits != all.bits) all.bits = 0;
        if (s.group != all.group) all.group = 0;
        if (s.symmetric != all.symmetric) all.symmetric = -1;
        if (!s.indexed) all.indexed = 0;
    }
    return all;
}

/* Tensors that are lost, or are another model's, would be read as other weights. */
static nib_status check_said(const nib_model *m, const nib_integer_parts *p, const said *s,
                             int64_t cols)
{
    const int64_t groups = p->steps->dims[1];
    NIB_REQUIRE(s->group != ROW || groups == 1, NIB_ERR_FORMAT,
                "%s: %s has %lld steps for a row, config.json says one", m->path, p->steps->name,
                (long long)groups);
    NIB_REQUIRE(s->group <= 0 || (groups == 1 ? s->group >= cols : s->group * groups == cols),
                NIB_ERR_FORMAT,
                "%s: %s has %lld steps for a row of %lld columns, config.json says groups of %lld",
                m->path, p->steps->name, (long long)groups, (long long)cols, (long long)s->group);
    NIB_REQUIRE(s->symmetric != 1 || !p->zeros, NIB_ERR_FORMAT,
                "%s: %s is there, but config.json says symmetric", m->path, p->zeros->name);
    NIB_REQUIRE(s->symmetric != 0 || p->zeros, NIB_ERR_FORMAT,
                "%s: %s has no weight_zero_point, but config.json says that it is not symmetric",
                m->path, p->words->name);
    NIB_REQUIRE(!s->indexed || groups == 1, NIB_ERR_FORMAT,
                "%s: %s has no weight_g_idx, but config.json says by its actorder that columns go "
                "to groups by one", m->path, p->words->name);
    return NIB_OK;
}

/* ---- tensors ---- */

/* weight_shape's rows and columns. */
static nib_status shape_of(const nib_model *m, const nib_tensor *t, int64_t dims[2])
{
    const int wide = t->type == NIB_TT_I64;
    NIB_REQUIRE((wide || t->type == NIB_TT_I32) && nib_tensor_elements(t) == 2,
                NIB_ERR_UNSUPPORTED, "%s: %s is not two I64", m->path, t->name);
    for (int i = 0; i < 2; i++) {
        int32_t narrow;
        memcpy(wide ? (void *)&dims[i] : (void *)&narrow, t->data + i * (wide ? 8 : 4),
               wide ? 8 : 4);
        if (!wide) dims[i] = narrow;
    }
    NIB_REQUIRE(dims[0] >= 0 && dims[1] > 0 && dims[1] < INT64_MAX / 64, NIB_ERR_FORMAT,
                "%s: %s is %lld x %lld", m->path, t->name, (long long)dims[0],
                (long long)dims[1]);
    return NIB_OK;
}

/* 4 or 8, which few columns alone do not tell apart. */
static nib_status bits_of(const nib_model *m, const nib_tensor *w, const said *s, int64_t cols,
                          int *bits)
{
    const int64_t words = w->dims[1];
    const int four = words == nib_integers_words(4, cols);
    const int eight = words == nib_integers_words(8, cols);
    NIB_REQUIRE(four || eight, NIB_ERR_UNSUPPORTED,
                "%s: %s has %lld words for %lld columns, which are neither of 4 nor of 8 bits",
                m->path, w->name, (long long)words, (long long)cols);
    NIB_REQUIRE(!four || !eight || s->bits, NIB_ERR_UNSUPPORTED,
                "%s: %s has %lld columns in one word, of 4 or 8 bits; %s", m->path, w->name,
                (long long)cols, m->config ? "config.json does not tell which"
                                           : "no config.json beside it tells");
    *bits = four && (!eight || s->bits == 4) ? 4 : 8;
    NIB_REQUIRE(!s->bits || s->bits == *bits, NIB_ERR_FORMAT,
                "%s: %s has %lld words for %lld columns, config.json says %lld bits", m->path,
                w->name, (long long)words, (long long)cols, (long long)s->bits);
    return NIB_OK;
}

static nib_status check_zeros(const nib_model *m, const nib_integer_parts *p, int bits,
                              int64_t rows, int64_t groups)
{
    const nib_tensor *z = p->zeros;
    const int64_t words = nib_integers_words(bits, rows);
    NIB_REQUIRE(!z || z->type == NIB_TT_I32, NIB_ERR_UNSUPPORTED, "%s: %s is not I32", m->path,
                z->name);
    NIB_REQUIRE(!z || (z->n_dims == 2 && z->dims[0] == words && z->dims[1] == groups),
                NIB_ERR_FORMAT, "%s: %s is %lld x %lld, not %lld x %lld", m->path, z->name,
                (long long)z->dims[0], (long long)z->dims[1], (long long)words,
                (long long)groups);
    return NIB_OK;
}

static nib_status check_parts(const nib_model *m, const nib_integer_parts *p,
                              const int64_t dims[2])
{
    const nib_tensor *w = p->words, *s = p->steps;
    NIB_REQUIRE(!p->g_idx, NIB_ERR_UNSUPPORTED,
                "%s: %s puts columns into groups by an index, which nibble does not read", m->path,
                p->g_idx->name);
    NIB_REQUIRE(w->n_dims == 2 && w->dims[0] == dims[0], NIB_ERR_FORMAT,
                "%s: %s has %d dimensions and %lld rows, its weight_shape %lld rows", m->path,
                w->name, w->n_dims, (long long)w->dims[0], (long long)dims[0]);
    NIB_REQUIRE(s->type == NIB_TT_F32 || s->type == NIB_TT_F16 || s->type == NIB_TT_BF16,
                NIB_ERR_UNSUPPORTED, "%s: %s is %s, not F32, F16 or BF16", m->path, s->name,
                nib_tensor_type_get(s->type)->name);
    NIB_REQUIRE(s->n_dims == 2 && s->dims[0] == dims[0] && s->dims[1] > 0
                    && dims[1] % s->dims[1] == 0, NIB_ERR_FORMAT,
                "%s: %s is %lld x %lld, which do not divide %lld rows of %lld columns", m->path,
                s->name, (long long)s->dims[0], (long long)s->dims[1], (long long)dims[0],
                (long long)dims[1]);
    return NIB_OK;
}

nib_status nib_integers_logical(const nib_model *m, const nib_integer_parts *p, nib_logical *l)
{
    int64_t dims[2];
    int bits = 0;
    NIB_TRY(shape_of(m, p->shape, dims));
    NIB_TRY(check_parts(m, p, dims));
    const said s = said_of(m, l->name);
    NIB_TRY(bits_of(m, p->words, &s, dims[1], &bits));
    const int64_t groups = p->steps->dims[1], group = groups > 1 ? dims[1] / groups : 0;
    NIB_TRY(check_zeros(m, p, bits, dims[0], groups));
    NIB_TRY(check_said(m, p, &s, dims[1]));
    l->storage = NIB_STORAGE_INTEGERS;
    l->tensor = p->words;
    l->scales = p->steps;
    l->zeros = p->zeros;
    l->format = nib_int_format_make((nib_step_element)(16 + bits), group, p->zeros != NULL);
    NIB_REQUIRE(nib_int_format_is_valid(l->format), NIB_ERR_UNSUPPORTED,
                "%s: %s has groups of %lld columns, no multiple of 8", m->path, p->words->name,
                (long long)group);
    l->n_dims = 2;
    l->dims[0] = l->rows = dims[0];
    l->dims[1] = l->cols = dims[1];
    l->bytes = p->words->bytes + p->steps->bytes + p->shape->bytes
             + (p->zeros ? p->zeros->bytes : 0);
    return NIB_OK;
}

/* ---- rows ---- */

size_t nib_integers_scratch(const nib_logical *t)
{
    const size_t groups = (size_t)nib_integers_groups(t->format, t->cols);
    return groups * 5 + (size_t)t->cols;
}

nib_status nib_integers_read(const nib_exec *exec, const nib_logical *t, int64_t row,
                             uint8_t *scratch, float *dst)
{
    const nib_step_element element = nib_int_format_element(t->format);
    const int bits = (int)element - 16;
    const int64_t groups = nib_integers_groups(t->format, t->cols);
    const int64_t group = nib_int_format_group(t->format);
    float *steps = (float *)(void *)scratch;
    int8_t *zeros = (int8_t *)scratch + groups * 4;
    uint8_t *codes = scratch + groups * 5;
    const nib_tensor_type type = t->scales->type;
    const int size = type == NIB_TT_F32 ? 4 : 2;
    memcpy(dst, t->scales->data + row * groups * size, (size_t)(groups * size)); /* aligned */
    nib_scalar_cpu.to_f32(size == 4 ? NIB_F32 : type == NIB_TT_F16 ? NIB_F16 : NIB_BF16, dst,
                          groups, steps);
    for (int64_t g = 0; g < groups; g++) {
        NIB_REQUIRE(steps[g] > 0.0f && steps[g] <= 3.40282347e+38f, NIB_ERR_FORMAT,
                    "%s: element [%lld, %lld] of %s is %g, not a finite number > 0", t->name,
                    (long long)row, (long long)g, t->scales->name, (double)steps[g]);
        if (t->zeros) zeros[g] = nib_integers_zero(bits, t->zeros->data, groups, row, g);
    }
    nib_integers_unpack(bits, t->tensor->data + row * t->tensor->dims[1] * 4, t->cols, codes);
    const nib_packed_steps packed = {
        .size = sizeof packed, .element = element, .asymmetric = t->zeros != NULL, .rows = 1,
        .cols = t->cols, .group = group ? group : (t->cols + 7) / 8 * 8, .codes = codes,
        .ld_codes_bytes = nib_step_codes_row_bytes(element, t->cols), .steps = steps,
        .zeros = t->zeros ? zeros : NULL
    };
    const nib_matrix out = { dst, NIB_F32, 1, t->cols, t->cols };
    return nib_dequantize_steps(exec, &packed, &out);
}
