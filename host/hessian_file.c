/* hessian_file.c: Hessians to and from safetensors files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/hessian_table.h"
#include "host/io/output.h"
#include "hessian_checks.h"
#include "trace.h"

enum { HESSIAN_V1 = sizeof(nib_hessian) };

static uint64_t real_bytes(nib_real real) { return real == NIB_REAL_F64 ? 8 : 4; }

/* ---- writing ---- */

/* One tensor of the file: a Hessian, or its tokens. */
typedef struct part {
    const nib_hessian *hessian;
    int                is_tokens;
} part;

static nib_status write_part(nib_output_data *data, uint64_t at, const part *p)
{
    const nib_hessian *h = p->hessian;
    if (p->is_tokens) return nib_output_write(data, at, h->tokens, sizeof *h->tokens);
    const uint64_t bytes = real_bytes(h->real), row_bytes = (uint64_t)h->k * bytes;
    uint8_t *row = calloc(1, row_bytes + 1);
    NIB_REQUIRE(row, NIB_ERR_OUT_OF_MEMORY, "no memory for a row of %lld", (long long)h->k);
    nib_status status = NIB_OK;
    for (int64_t i = 0; i < h->k && status == NIB_OK; i++) { /* zeros stay behind the diagonal */
        const uint8_t *from = (const uint8_t *)h->data + (uint64_t)(i * h->ld_elems) * bytes;
        memcpy(row, from, (uint64_t)(i + 1) * bytes);
        status = nib_output_write(data, at + (uint64_t)i * row_bytes, row, row_bytes);
    }
    free(row);
    return status;
}

static nib_status write_file(const char *path, int32_t force, const nib_tensor_spec *specs,
                             const part *parts, size_t n)
{
    nib_output *out;
    nib_output_data *data;
    nib_file_layout layout;
    NIB_TRY(nib_safetensors_layout(specs, n, &layout));
    nib_status status = nib_output_begin(path, 0, force, 0, "hessians", &out);
    if (status == NIB_OK) {
        status = nib_output_file(out, NULL, layout.header, layout.header_bytes, layout.file_bytes,
                                 &data);
        for (size_t i = 0; i < n && status == NIB_OK; i++)
            status = write_part(data, layout.offsets[i], &parts[i]);
        if (status == NIB_OK) status = nib_output_commit(out);
        if (status != NIB_OK) nib_output_abort(out, 0);
    }
    nib_file_layout_free(&layout);
    return status;
}

/* Wider types first: safetensors has no holes, and so every tensor is aligned. names: those of
 * tokens, to be freed. */
static nib_status save(const char *path, size_t count, const char *const *names,
                       const nib_hessian *hessians, int32_t force, nib_tensor_spec *specs,
                       part *parts, char **token_names)
{
    size_t n = 0;
    for (int real = NIB_REAL_F64; real >= NIB_REAL_F32; real--) {
        for (size_t i = 0; i < count; i++) {
            const nib_hessian *h = &hessians[i];
            if ((int)h->real != real) continue;
            parts[n] = (part){ h, 0 };
            specs[n++] = (nib_tensor_spec){
                names[i], real == NIB_REAL_F64 ? NIB_TT_F64 : NIB_TT_F32, 2, { h->k, h->k } };
        }
        for (size_t i = 0; real == NIB_REAL_F64 && i < count; i++) {
            if (!hessians[i].tokens) continue;
            NIB_REQUIRE(asprintf(&token_names[i], "%s.tokens", names[i]) >= 0,
                        NIB_ERR_OUT_OF_MEMORY, "no memory for a name");
            parts[n] = (part){ &hessians[i], 1 };
            specs[n++] = (nib_tensor_spec){ token_names[i], NIB_TT_U64, 1, { 1 } };
        }
    }
    return write_file(path, force, specs, parts, n);
}

nib_status nib_hessian_save(const char *path, int64_t count, const char *const *names,
                            const nib_hessian *hessians, int32_t force)
{
    NIB_TRACE_NAME();
    const char *what = "hessian_save";
    NIB_REQUIRE(path, NIB_ERR_ARGUMENT, "%s: path is NULL", what);
    NIB_REQUIRE(count >= 0 && count <= INT32_MAX, NIB_ERR_SHAPE, "%s: count is %lld", what,
                (long long)count);
    NIB_REQUIRE(count == 0 || (names && hessians), NIB_ERR_ARGUMENT,
                "%s: names or hessians is NULL", what);
    for (int64_t i = 0; i < count; i++) {
        NIB_REQUIRE(names[i], NIB_ERR_ARGUMENT, "%s: names[%lld] is NULL", what, (long long)i);
        NIB_TRY(nib_hessian_valid(what, &hessians[i]));
    }
    const size_t n = (size_t)count;
    nib_tensor_spec *specs = calloc(2 * n + 1, sizeof *specs);
    part *parts = calloc(2 * n + 1, sizeof *parts);
    char **token_names = calloc(n + 1, sizeof *token_names);
    const nib_status status =
        specs && parts && token_names
            ? save(path, n, names, hessians, force, specs, parts, token_names)
            : nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu Hessians", what, n);
    for (size_t i = 0; token_names && i < n; i++) free(token_names[i]);
    free(token_names);
    free(parts);
    free(specs);
    return status;
}

/* ---- reading ---- */

static nib_status load(const nib_safetensors *file, const char *path, const char *name,
                       nib_hessian *h)
{
    char some[400];
    nib_hessian_entry entry;
    NIB_TRY(nib_hessian_entry_find(file, 0, name, &entry));
    NIB_REQUIRE(entry.tensor, NIB_ERR_SHAPE, "%s: has no Hessian '%.200s', but %s", path, name,
                nib_hessian_names(file, some, sizeof some));
    const nib_real real = entry.tensor->type == NIB_TT_F64 ? NIB_REAL_F64 : NIB_REAL_F32;
    if (!h->data) {
        h->real = real;
        h->k = h->ld_elems = entry.k;
        return NIB_OK;
    }
    NIB_TRY(nib_hessian_valid("hessian_load", h));
    NIB_REQUIRE(h->real == real && h->k == entry.k, NIB_ERR_SHAPE,
                "%s: Hessian '%.200s' is %s of k %lld, *hessian %s of k %lld", path, name,
                real == NIB_REAL_F64 ? "F64" : "F32", (long long)entry.k,
                h->real == NIB_REAL_F64 ? "F64" : "F32", (long long)h->k);
    nib_hessian_entry_read(&entry, h);
    return NIB_OK;
}

nib_status nib_hessian_load(const char *path, const char *name, nib_hessian *hessian)
{
    NIB_TRACE_NAME();
    NIB_REQUIRE(path && name && hessian, NIB_ERR_ARGUMENT,
                "hessian_load: path, name or hessian is NULL");
    NIB_REQUIRE(hessian->size >= HESSIAN_V1, NIB_ERR_ARGUMENT,
                "hessian_load: hessian->size is %u, at least %d is needed", hessian->size,
                (int)HESSIAN_V1);
    nib_safetensors *file;
    NIB_TRY(nib_safetensors_open(path, &file));
    const nib_status status = load(file, path, name, hessian);
    nib_safetensors_close(file);
    return status;
}
