/* model_integers.c: reads compressed-tensors' pack-quantized: which integers a weight_packed holds,
 * and a row of them as f32. */
#include <string.h>

#include "host/io/integers.h"

/* num_bits, if all groups of config.json's have the same; else 0. */
static int configured_bits(const nib_model *m)
{
    const json_t *groups = json_object_get(json_object_get(m->config, "quantization_config"),
                                           "config_groups");
    const char *key;
    json_t *group;
    int bits = 0;
    json_object_foreach((json_t *)(uintptr_t)groups, key, group) {
        const int own = (int)json_integer_value(json_object_get(json_object_get(group, "weights"),
                                                                "num_bits"));
        if (bits && own != bits) return 0;
        bits = own;
    }
    return bits;
}

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
static nib_status bits_of(const nib_model *m, const nib_tensor *w, int64_t cols, int *bits)
{
    const int64_t words = w->dims[1];
    const int four = words == nib_integers_words(4, cols);
    const int eight = words == nib_integers_words(8, cols);
    NIB_REQUIRE(four || eight, NIB_ERR_UNSUPPORTED,
                "%s: %s has %lld words for %lld columns, which are neither of 4 nor of 8 bits",
                m->path, w->name, (long long)words, (long long)cols);
    *bits = four && eight ? configured_bits(m) : four ? 4 : 8;
    NIB_REQUIRE(*bits == 4 || *bits == 8, NIB_ERR_UNSUPPORTED,
                "%s: %s has %lld columns in one word, of 4 or 8 bits; no config.json beside it "
                "tells", m->path, w->name, (long long)cols);
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
    NIB_TRY(bits_of(m, p->words, dims[1], &bits));
    const int64_t groups = p->steps->dims[1], group = groups > 1 ? dims[1] / groups : 0;
    NIB_TRY(check_zeros(m, p, bits, dims[0], groups));
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
