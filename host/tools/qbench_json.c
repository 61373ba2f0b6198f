/* qbench_json.c: a row as a line of JSON and of CSV. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nibble/version.h"
#include "qbench.h"

static json_t *number_or_null(int given, double value)
{
    return given && isfinite(value) ? json_real(value) : json_null();
}

static json_t *text_or_null(const char *text) { return text ? json_string(text) : json_null(); }

static void set(json_t *object, const char *key, json_t *value)
{
    (void)json_object_set_new(object, key, value); /* fails for value NULL: the key is left out */
}

static void set_axis(json_t *object, const char *key, const nib_qb_row *row, nib_qb_axis_id id)
{
    char text[64];
    if (nib_qb_obeys(row->c, id)) nib_qb_axis_print(id, row->c->value[id], text, sizeof text);
    set(object, key, nib_qb_obeys(row->c, id) ? json_string(text) : json_null());
}

static void set_what(json_t *o, const nib_qb_row *row)
{
    json_t *shape = json_object();
    set(o, "op", json_string(row->c->op->name));
    set(o, "backend", json_string(row->backend));
    set(o, "device", json_string(row->device));
    set(o, "kernel", json_string(row->kernel));
    set_axis(o, "format", row, NIB_QB_FORMAT);
    set(o, "block", nib_qb_obeys(row->c, NIB_QB_BLOCK)
                        ? json_integer(row->c->value[NIB_QB_BLOCK]) : json_null());
    set_axis(o, "dtype", row, NIB_QB_DTYPE);
    set_axis(o, "rules", row, NIB_QB_RULES);
    set_axis(o, "scale_choice", row, NIB_QB_CHOICE);
    set_axis(o, "rounding", row, NIB_QB_ROUNDING);
    set_axis(o, "gradient", row, NIB_QB_GRADIENT);
    set_axis(o, "mask", row, NIB_QB_MASK);
    set_axis(o, "scale_rows", row, NIB_QB_SCALE_ROWS);
    set_axis(o, "layout", row, NIB_QB_LAYOUT);
    set_axis(o, "precision", row, NIB_QB_PRECISION);
    set_axis(o, "real", row, NIB_QB_REAL);
    set_axis(o, "order", row, NIB_QB_ORDER);
    set_axis(o, "scales", row, NIB_QB_GPTQ_SCALES);
    set_axis(o, "guard", row, NIB_QB_GUARD);
    set_axis(o, "element", row, NIB_QB_ELEMENT);
    if (nib_qb_obeys(row->c, NIB_QB_ROWS)) {
        set(shape, "rows", json_integer(row->c->value[NIB_QB_ROWS]));
        set(shape, "cols", json_integer(row->c->value[NIB_QB_COLS]));
        set(shape, "batch", json_integer(row->c->value[NIB_QB_BATCH]));
    } else if (nib_qb_obeys(row->c, NIB_QB_COLS)) {
        set(shape, "cols", json_integer(row->c->value[NIB_QB_COLS]));
    }
    if (nib_qb_obeys(row->c, NIB_QB_N)) {
        set(shape, "m", json_integer(row->c->value[NIB_QB_M]));
        set(shape, "n", json_integer(row->c->value[NIB_QB_N]));
        set(shape, "k", json_integer(row->c->value[NIB_QB_K]));
    }
    set(o, "shape", shape);
    set(o, "layer", text_or_null(row->c->layer));
    set(o, "threads", json_integer(row->threads));
    set_axis(o, "cache", row, NIB_QB_CACHE);
    set(o, "launch", !nib_qb_obeys(row->c, NIB_QB_LAUNCH) || row->time.runs == 0 ? json_null()
                     : json_string(row->time.graph ? "graph" : "stream"));
}

/* The fastest one that was timed. */
static const nib_qb_held *best_baseline(const nib_qb_row *row)
{
    const nib_qb_held *best = &row->baseline[0];
    for (int i = 1; i < NIB_QB_RIVALS - 1; i++)
        if (row->baseline[i].name && row->baseline[i].rate > best->rate) best = &row->baseline[i];
    return best;
}

static json_t *baselines_of(const nib_qb_row *row)
{
    json_t *all = json_array();
    for (int i = 0; i < NIB_QB_RIVALS - 1 && row->baseline[i].name; i++) {
        const nib_qb_held *b = &row->baseline[i];
        json_t *one = json_object();
        set(one, "name", json_string(b->name));
        set(one, "median_us", json_real(b->median_us));
        set(one, "rate", json_real(b->rate));
        set(one, "speedup", json_real(b->ratio));
        (void)json_array_append_new(all, one);
    }
    return all;
}

/* Microseconds by name: "factor", "sweep". */
static json_t *stages_of(const nib_qb_row *row)
{
    if (!row->stage[0].name) return json_null();
    json_t *all = json_object();
    for (int i = 0; i < NIB_QB_STAGES && row->stage[i].name; i++)
        set(all, row->stage[i].name, json_real(row->stage[i].median_us));
    return all;
}

static void set_figures(json_t *o, const nib_qb_row *row)
{
    const nib_qb_timing *t = &row->time;
    const int ran = t->runs > 0, in_bytes = row->bytes > 0;
    set(o, "bytes", json_integer(row->bytes));
    set(o, "flops", json_integer(row->flops));
    set(o, "runs", json_integer(t->runs));
    set(o, "batch", json_integer(t->batch));
    set(o, "min_us", number_or_null(ran, t->min_us));
    set(o, "median_us", number_or_null(ran, t->median_us));
    set(o, "p99_us", number_or_null(ran, t->p99_us));
    set(o, "cv", number_or_null(ran, t->cv));
    set(o, "noise", number_or_null(ran, t->noise));
    set(o, "foreign_cpus", number_or_null(ran, row->foreign_cpus));
    set(o, "throttled", ran ? json_boolean(row->throttled) : json_null());
    set(o, "noisy", ran ? json_boolean(t->noisy) : json_null());
    set(o, "gbps", number_or_null(ran && in_bytes, row->gbps));
    set(o, "tflops", number_or_null(ran && row->flops > 0, row->tflops));
    const nib_qb_held *limit = &row->limit, *best = best_baseline(row);
    set(o, "limit", text_or_null(limit->name));
    set(o, "limit_gbps", number_or_null(limit->name && in_bytes, limit->rate));
    set(o, "limit_tflops", number_or_null(limit->name && !in_bytes, limit->rate));
    set(o, "sol", number_or_null(limit->name != NULL, limit->ratio));
    set(o, "baseline", text_or_null(best->name));
    set(o, "baseline_gbps", number_or_null(best->name != NULL, best->rate));
    set(o, "speedup", number_or_null(best->name != NULL, best->ratio));
    set(o, "baselines", baselines_of(row));
    set(o, "stages_us", stages_of(row));
    set(o, "openblas", text_or_null(row->openblas));
    set(o, "verified", row->verdict.checked ? json_boolean(row->verdict.wrong_bytes == 0)
                                            : json_null());
    set(o, "max_err", number_or_null(row->verdict.checked, row->verdict.max_err));
}

static json_t *row_as_json(const nib_qb_row *row)
{
    json_t *o = json_object();
    set_what(o, row);
    set_figures(o, row);
    set(o, "skipped", row->skipped[0] ? json_string(row->skipped) : json_null());
    set(o, "command", json_string(row->command));
    set(o, "system", json_string(nib_qb_system()));
    set(o, "compiler", json_string(nib_qb_compiler()));
    set(o, "version", json_string(nib_version()));
    set(o, "commit", json_string(nib_qb_commit()));
    set(o, "clocks", json_string(row->clocks));
    set(o, "driver", json_string(row->driver));
    return o;
}

/* ---- CSV: the same members, the shape's taken apart, null as nothing (RFC 4180) ---- */

static void csv_field(FILE *out, const json_t *value)
{
    if (json_is_string(value)) {
        const char *text = json_string_value(value);
        if (!strpbrk(text, ",\"\n")) {
            fputs(text, out);
            return;
        }
        fputc('"', out);
        for (; *text; text++) {
            if (*text == '"') fputc('"', out);
            fputc(*text, out);
        }
        fputc('"', out);
    } else if (json_is_integer(value)) {
        fprintf(out, "%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        fprintf(out, "%.7g", json_real_value(value));
    } else if (json_is_boolean(value)) {
        fputs(json_is_true(value) ? "true" : "false", out);
    }
}

static void csv_shape(FILE *out, const json_t *shape)
{
    static const char *const names[] = { "rows", "cols", "batch" };
    for (int i = 0; i < 3; i++) {
        fputc(',', out);
        if (shape) csv_field(out, json_object_get(shape, names[i]));
        else fputs(names[i], out);
    }
}

static void report_csv(FILE *out, json_t *o, int header)
{
    const char *key;
    json_t *value;
    for (int line = header ? 0 : 1; line < 2; line++) {
        const char *comma = "";
        json_object_foreach (o, key, value) {
            if (!strcmp(key, "shape")) {
                csv_shape(out, line ? value : NULL);
                continue;
            }
            if (!strcmp(key, "baselines")) continue; /* the fastest is there already */
            if (!strcmp(key, "stages_us")) continue; /* each op has its own */
            fputs(comma, out);
            if (line) csv_field(out, value);
            else fputs(key, out);
            comma = ",";
        }
        fputc('\n', out);
    }
    fflush(out);
}

void nib_qb_report_json(FILE *json, FILE *csv, const nib_qb_row *row, int first)
{
    json_t *o = row_as_json(row);
    if (json) {
        json_dumpf(o, json, JSON_COMPACT | JSON_REAL_PRECISION(7));
        fputc('\n', json);
        fflush(json);
    }
    if (csv) report_csv(csv, o, first);
    json_decref(o);
}
