/* checkpoint_compare_test.c: info lists every layout alike; compare finds what was changed, and
 * the errors that quantize reported. */
#include <math.h>

#include "model_fixture.h"
#include "shim.h"

static temp_dir dir;
static char src[300], dst[300];

static int begin(nib_tensor_type type)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    return fixture_folder(src, fixture_llama(type), FIXTURE_LLAMA, 2);
}

static const nib_tensor_report *find(const nib_checkpoint_report *r, const char *name)
{
    for (uint64_t i = 0; r && i < r->n_tensors; i++)
        if (!strcmp(r->tensors[i].name, name)) return &r->tensors[i];
    return NULL;
}

/* max_error is exact; nibble quantize adds squares in f32 first, compare does not. */
static int near(double a, double b) { return fabs(a - b) <= 1e-6 * (fabs(a) + fabs(b)); }

static nib_checkpoint_report *compared(const char *a, const char *b)
{
    nib_checkpoint_report *r = NULL;
    const nib_status status = nib_checkpoint_compare(fixture_exec(0), a, b, NULL, &r);
    EXPECT(status == NIB_OK, "%s", nib_last_error());
    return r;
}

NIB_TEST(CheckpointCompare, ModelAgainstItself)
{
    static const nib_tensor_type types[] = { NIB_TT_F32, NIB_TT_F16, NIB_TT_BF16 };
    for (int i = 0; i < 3; i++) {
        REQUIRE(begin(types[i]), "%s", src);
        nib_checkpoint_report *r = compared(src, src);
        REQUIRE(r, "no report");
        EXPECT(r->n_tensors == FIXTURE_LLAMA, "%llu tensors", (unsigned long long)r->n_tensors);
        for (uint64_t t = 0; t < r->n_tensors; t++) {
            const nib_tensor_report *x = &r->tensors[t];
            EXPECT(x->error.sum_sq_error == 0 && x->error.max_error == 0
                       && x->error.nonfinite == 0 && x->error.sum_sq > 0
                       && x->error.elements == x->elements,
                   "%s: error %g of %g", x->name, x->error.sum_sq_error, x->error.sum_sq);
        }
        nib_checkpoint_report_free(r);
        temp_dir_remove(&dir);
    }
}

static void check_export(nib_export export_as, nib_format format, const char *type,
                         const char *a, const char *b)
{
    nib_checkpoint_options o = fixture_options(export_as, format);
    nib_checkpoint_report *made = NULL;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), a, b, &o, &made) == NIB_OK, "%s",
            nib_last_error());
    nib_checkpoint_report *r = compared(a, b), *list = NULL;
    REQUIRE(r, "no report");
    EXPECT(nib_checkpoint_info(b, &list) == NIB_OK, "%s", nib_last_error());
    EXPECT(list && list->n_tensors == made->n_tensors && r->n_tensors == made->n_tensors,
           "the lists differ in length");
    for (uint64_t t = 0; t < made->n_tensors; t++) {
        const nib_tensor_report *q = &made->tensors[t], *c = find(r, q->name),
                                *l = find(list, q->name);
        REQUIRE(c && l, "%s is missing", q->name);
        EXPECT(!strcmp(l->stored_type, q->stored_type), "%s: %s, %s", q->name, l->stored_type,
               q->stored_type);
        EXPECT(!strcmp(l->layer_type, q->layer_type), "%s: %s", q->name, l->layer_type);
        EXPECT(l->n_dims == q->n_dims && !memcmp(l->dims, q->dims, sizeof q->dims), "%s: dims",
               q->name);
        EXPECT(l->stored_bytes == q->stored_bytes, "%s: %llu bytes, %llu", q->name,
               (unsigned long long)l->stored_bytes, (unsigned long long)q->stored_bytes);
        EXPECT(fabsf(l->tensor_scale / q->tensor_scale - 1) < 1e-6f, "%s: scale", q->name);
        if (q->quantized) {
            EXPECT(!strcmp(q->stored_type, type), "%s: %s", q->name, q->stored_type);
            EXPECT(near(c->error.sum_sq_error, q->error.sum_sq_error)
                       && near(c->error.sum_sq, q->error.sum_sq)
                       && c->error.max_error == q->error.max_error
                       && q->error.sum_sq_error > 0,
                   "%s: %g of %g, %g of %g reported", q->name, c->error.sum_sq_error,
                   c->error.sum_sq, q->error.sum_sq_error, q->error.sum_sq);
        } else {
            EXPECT(c->error.sum_sq_error == 0, "%s is kept, but differs", q->name);
        }
    }
    EXPECT(list->stored_bytes == made->stored_bytes, "bytes in all");
    nib_checkpoint_report_free(list);
    nib_checkpoint_report_free(made);
    nib_checkpoint_report_free(r);
}

NIB_TEST(CheckpointCompare, ErrorsAreThoseOfTheRun)
{
    REQUIRE(begin(NIB_TT_BF16), "%s", src);
    check_export(NIB_EXPORT_MODELOPT, NIB_NVFP4, "NVFP4", src, dst);
    check_export(NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4, "MXFP4", src, temp_path(&dir, "mx"));
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointCompare, DivisorsAreReadBack)
{
    /* 1 / divisor is the multiplier but for one rounding, so errors agree less closely. */
    REQUIRE(begin(NIB_TT_F32), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4);
    nib_checkpoint_report *made = NULL;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, &made) == NIB_OK, "%s",
            nib_last_error());
    nib_checkpoint_report *r = compared(src, dst);
    for (uint64_t t = 0; r && t < r->n_tensors; t++) {
        const nib_tensor_report *q = find(made, r->tensors[t].name);
        EXPECT(q && fabs(r->tensors[t].error.sum_sq_error - q->error.sum_sq_error)
                   <= 1e-5 * q->error.sum_sq_error, "%s", r->tensors[t].name);
    }
    nib_checkpoint_report_free(made);
    nib_checkpoint_report_free(r);
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointCompare, GgufErrorsAreThoseOfTheRun)
{
    dir = temp_dir_make();
    const char *a = temp_path(&dir, "a.gguf");
    REQUIRE(fixture_gguf(a, fixture_llama_gguf(NIB_TT_F32), FIXTURE_LLAMA), "%s", a);
    check_export(NIB_EXPORT_GGUF, NIB_NVFP4, "NVFP4", a, temp_path(&dir, "nv.gguf"));
    check_export(NIB_EXPORT_GGUF, NIB_MXFP4, "MXFP4", a, temp_path(&dir, "mx.gguf"));
    temp_dir_remove(&dir);
}

/* ---- differences ---- */

static void change_one(float *x, int64_t n) { x[n - 1] = 2.5f; }
static void change_to_inf(float *x, int64_t n) { x[n - 1] = INFINITY; }

NIB_TEST(CheckpointCompare, OneChangedElementIsFound)
{
    fixture_tensor t[FIXTURE_LLAMA];
    REQUIRE(begin(NIB_TT_F32), "%s", src);
    for (int inf = 0; inf < 2; inf++) {
        memcpy(t, fixture_llama(NIB_TT_F32), sizeof t);
        t[5].edit = inf ? change_to_inf : change_one;
        const char *b = temp_path(&dir, inf ? "inf" : "one");
        REQUIRE(fixture_folder(b, t, FIXTURE_LLAMA, 1), "%s", b);
        nib_checkpoint_report *r = compared(src, b);
        for (uint64_t i = 0; r && i < r->n_tensors; i++) {
            const nib_quantize_report *e = &r->tensors[i].error;
            const int changed = !strcmp(r->tensors[i].name, t[5].name);
            EXPECT((e->sum_sq_error > 0) == (changed && !inf), "%s: %g", r->tensors[i].name,
                   e->sum_sq_error);
            EXPECT(e->nonfinite == (uint64_t)(changed && inf), "%s: nonfinite",
                   r->tensors[i].name);
            if (changed && !inf) EXPECT(e->max_error > 2 && e->max_error < 3, "%g", e->max_error);
        }
        nib_checkpoint_report_free(r);
    }
    temp_dir_remove(&dir);
}

static void refused(const char *a, const char *b, nib_status want, const char *says)
{
    nib_checkpoint_report *r = NULL;
    const nib_status got = nib_checkpoint_compare(fixture_exec(0), a, b, NULL, &r);
    EXPECT(got == want && !r, "%s: %s", nib_status_name(got), nib_last_error());
    EXPECT(fixture_error_has(says), "'%s' is not in '%s'", says, nib_last_error());
}

NIB_TEST(CheckpointCompare, MissingAndMisshapenTensorsAreNamed)
{
    fixture_tensor t[FIXTURE_LLAMA];
    REQUIRE(begin(NIB_TT_F32), "%s", src);
    memcpy(t, fixture_llama(NIB_TT_F32), sizeof t);
    const char *less = temp_path(&dir, "less"), *other = temp_path(&dir, "other");
    const char *renamed = temp_path(&dir, "renamed");
    REQUIRE(fixture_folder(less, t, FIXTURE_LLAMA - 1, 1), "%s", less);
    refused(src, less, NIB_ERR_SHAPE, "lm_head.weight");
    refused(less, src, NIB_ERR_SHAPE, "lm_head.weight");
    t[3].dims[0] = 16;
    REQUIRE(fixture_folder(other, t, FIXTURE_LLAMA, 1), "%s", other);
    refused(src, other, NIB_ERR_SHAPE, t[3].name);
    t[3] = fixture_llama(NIB_TT_F32)[3];
    t[3].name = "model.another.weight";
    REQUIRE(fixture_folder(renamed, t, FIXTURE_LLAMA, 1), "%s", renamed);
    refused(src, renamed, NIB_ERR_SHAPE, "v_proj");
    refused(renamed, src, NIB_ERR_SHAPE, "model.another.weight");
    refused(src, temp_path(&dir, "nothing"), NIB_ERR_IO, "nothing");
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointCompare, IntegersMustAgreeToTheByte)
{
    fixture_tensor t[] = { { "ids", NIB_TT_I64, 2, { 1, 16 }, 0, NULL },
                           { "w.weight", NIB_TT_F32, 2, { 4, 16 }, 1, NULL },
                           { "none", NIB_TT_I64, 1, { 0 }, 0, NULL } };
    dir = temp_dir_make();
    const char *a = temp_path(&dir, "a.safetensors"), *b = temp_path(&dir, "b.safetensors");
    REQUIRE(fixture_safetensors(a, t, 3) && fixture_safetensors(b, t, 3), "%s", a);
    nib_checkpoint_report *r = compared(a, b);
    nib_checkpoint_report_free(r);
    size_t n;
    char *bytes = temp_read(b, &n);
    char *at = bytes ? memmem(bytes, n, "\0\1\2\3\4\5\6", 7) : NULL;
    REQUIRE(at, "the integers are not in the file");
    at[3] = 77;
    REQUIRE(temp_write(b, bytes, n), "%s", b);
    free(bytes);
    refused(a, b, NIB_ERR_UNSUPPORTED, "ids: differs at byte 3");
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointCompare, ArgumentsAreChecked)
{
    nib_checkpoint_report *r = NULL;
    const nib_exec *exec = fixture_exec(0);
    const nib_checkpoint_options small = { .size = 8 };
    REQUIRE(begin(NIB_TT_F32), "%s", src);
    EXPECT(nib_checkpoint_compare(exec, NULL, src, NULL, &r) == NIB_ERR_ARGUMENT, "a");
    EXPECT(nib_checkpoint_compare(exec, src, NULL, NULL, &r) == NIB_ERR_ARGUMENT, "b");
    EXPECT(nib_checkpoint_compare(exec, src, src, NULL, NULL) == NIB_ERR_ARGUMENT, "report");
    EXPECT(nib_checkpoint_compare(NULL, src, src, NULL, &r) == NIB_ERR_ARGUMENT, "exec");
    EXPECT(nib_checkpoint_compare(exec, src, src, &small, &r) == NIB_ERR_ARGUMENT, "size");
    EXPECT(nib_checkpoint_info(NULL, &r) == NIB_ERR_ARGUMENT, "path");
    EXPECT(nib_checkpoint_info(src, NULL) == NIB_ERR_ARGUMENT, "report");
    const volatile int stop = 1;
    const nib_checkpoint_options cancel = { .size = sizeof cancel, .cancel = &stop };
    EXPECT(nib_checkpoint_compare(exec, src, src, &cancel, &r) == NIB_ERR_CANCELLED, "cancel");
    temp_dir_remove(&dir);
}

/* ---- planned sizes ---- */

NIB_TEST(CheckpointCompare, DryRunTellsTheSizesAndWritesNothing)
{
    REQUIRE(begin(NIB_TT_BF16), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    nib_checkpoint_report *planned = NULL, *made = NULL;
    o.dry_run = 1;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, &planned) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(temp_count(dst) < 0 && temp_count(dir.path) == 1, "a dry run wrote");
    o.dry_run = 0;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, &made) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(planned->n_tensors == made->n_tensors && planned->stored_bytes == made->stored_bytes
               && planned->source_bytes == made->source_bytes, "the plan differs");
    uint64_t in_file = 0, in_report = 0;
    size_t n;
    nib_safetensors *st = NULL;
    REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
    const nib_tensor *t = nib_safetensors_tensors(st, &n);
    for (size_t i = 0; i < n; i++) in_file += t[i].bytes;
    for (uint64_t i = 0; i < planned->n_tensors; i++) {
        const nib_tensor_report *p = &planned->tensors[i], *m = &made->tensors[i];
        in_report += p->stored_bytes;
        EXPECT(!strcmp(p->name, m->name) && p->stored_bytes == m->stored_bytes, "%s", p->name);
    }
    EXPECT(in_file == planned->stored_bytes && in_report == in_file, "%llu in the file, %llu",
           (unsigned long long)in_file, (unsigned long long)planned->stored_bytes);
    nib_safetensors_close(st);
    /* What the run would refuse, the dry run does. */
    char nowhere[600];
    snprintf(nowhere, sizeof nowhere, "%s/no/dst", dir.path);
    for (o.dry_run = 0; o.dry_run < 2; o.dry_run++) {
        o.force = 0;
        EXPECT(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL) == NIB_ERR_EXISTS,
               "%d: dst is there", o.dry_run);
        EXPECT(nib_checkpoint_quantize(fixture_exec(0), src, nowhere, &o, NULL) == NIB_ERR_IO,
               "%d: no parent", o.dry_run);
        o.force = 1;
        o.export_as = NIB_EXPORT_GGUF;
        EXPECT(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL) == NIB_ERR_EXISTS,
               "%d: a folder in a file's place", o.dry_run);
        o.export_as = NIB_EXPORT_MODELOPT;
        EXPECT(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL) == NIB_OK, "%d: %s",
               o.dry_run, nib_last_error());
    }
    nib_checkpoint_report_free(planned);
    nib_checkpoint_report_free(made);
    temp_dir_remove(&dir);
}
