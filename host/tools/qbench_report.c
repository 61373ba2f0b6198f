/* qbench_report.c: a row as a line of the table, of CSV and of JSON. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nibble/version.h"
#include "qbench.h"

static int obeys(const nib_qb_row *row, nib_qb_axis_id id)
{
    return row->c->op->axes >> id & 1;
}

/* The value of an axis as text, "-" if the op does not obey it. */
static const char *axis_text(const nib_qb_row *row, nib_qb_axis_id id, char *text, size_t bytes)
{
    snprintf(text, bytes, "-");
    if (obeys(row, id)) nib_qb_axis_print(id, row->c->value[id], text, bytes);
    return text;
}

static const char *verdict_text(const nib_qb_row *row)
{
    return !row->verdict.checked ? "-" : row->verdict.right ? "yes" : "WRONG";
}

/* ---- table ---- */

static void print_ratio(FILE *out, const char *name, double ratio)
{
    if (name) fprintf(out, " %5.2f", ratio);
    else fprintf(out, " %5s", "-");
}

static void report_table(FILE *out, const nib_qb_row *row, int first)
{
    char format[48], dtype[16], rules[32], layout[16], shape[48], cache[8];
    if (first)
        fprintf(out, "\n%-13s %-12s %-12s %-5s %-8s %-8s %13s %3s %-5s %10s %10s %5s %8s"
                " %-7s %5s %5s  %s\n", "op", "kernel", "format", "dtype", "rules", "layout",
                "rows x cols", "thr", "cache", "median us", "p99 us", "cv %", "GB/s", "limit",
                "sol", "x cpy", "verified");
    snprintf(shape, sizeof shape, "-");
    if (obeys(row, NIB_QB_ROWS))
        snprintf(shape, sizeof shape, "%lldx%lld", (long long)row->c->value[NIB_QB_ROWS],
                 (long long)row->c->value[NIB_QB_COLS]);
    fprintf(out, "%-13s %-12s %-12s %-5s %-8.8s %-8s %13s %3d %-5s", row->c->op->name,
            row->kernel, axis_text(row, NIB_QB_FORMAT, format, sizeof format),
            axis_text(row, NIB_QB_DTYPE, dtype, sizeof dtype),
            axis_text(row, NIB_QB_RULES, rules, sizeof rules),
            axis_text(row, NIB_QB_LAYOUT, layout, sizeof layout), shape, (int)row->threads,
            axis_text(row, NIB_QB_CACHE, cache, sizeof cache));
    if (row->skipped[0]) {
        fprintf(out, "  not run: %s\n", row->skipped);
        return;
    }
    fprintf(out, " %10.2f %10.2f %5.1f", row->time.median_us, row->time.p99_us,
            100 * row->time.cv);
    if (row->bytes > 0) fprintf(out, " %8.2f", row->gbps);
    else fprintf(out, " %6.1fGF", 1e3 * row->tflops);
    fprintf(out, " %-7s", row->limit ? row->limit : "-");
    print_ratio(out, row->limit, row->sol);
    print_ratio(out, row->baseline, row->speedup);
    fprintf(out, "  %s", verdict_text(row));
    if (row->time.noisy) fprintf(out, " noisy (others used %.1f cpus)", row->foreign_cpus);
    fputc('\n', out);
    fflush(out);
}

/* ---- JSON ---- */

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
    set(object, key, obeys(row, id) ? json_string(axis_text(row, id, text, sizeof text))
                                    : json_null());
}

static void set_what(json_t *o, const nib_qb_row *row)
{
    json_t *shape = json_object();
    set(o, "op", json_string(row->c->op->name));
    set(o, "backend", json_string(row->backend));
    set(o, "device", json_string(row->device));
    set(o, "kernel", json_string(row->kernel));
    set_axis(o, "format", row, NIB_QB_FORMAT);
    set_axis(o, "dtype", row, NIB_QB_DTYPE);
    set_axis(o, "rules", row, NIB_QB_RULES);
    set_axis(o, "scale_choice", row, NIB_QB_CHOICE);
    set_axis(o, "layout", row, NIB_QB_LAYOUT);
    if (obeys(row, NIB_QB_ROWS)) {
        set(shape, "rows", json_integer(row->c->value[NIB_QB_ROWS]));
        set(shape, "cols", json_integer(row->c->value[NIB_QB_COLS]));
    }
    set(o, "shape", shape);
    set(o, "threads", json_integer(row->threads));
    set_axis(o, "cache", row, NIB_QB_CACHE);
}

static void set_figures(json_t *o, const nib_qb_row *row)
{
    const nib_qb_timing *t = &row->time;
    const int ran = !row->skipped[0] && t->runs > 0, in_bytes = row->bytes > 0;
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
    set(o, "noisy", ran ? json_boolean(t->noisy) : json_null());
    set(o, "gbps", number_or_null(ran && in_bytes, row->gbps));
    set(o, "tflops", number_or_null(ran && row->flops > 0, row->tflops));
    set(o, "limit", text_or_null(row->limit));
    set(o, "limit_gbps", number_or_null(row->limit && in_bytes, row->limit_rate));
    set(o, "limit_tflops", number_or_null(row->limit && !in_bytes, row->limit_rate));
    set(o, "sol", number_or_null(row->limit != NULL, row->sol));
    set(o, "baseline", text_or_null(row->baseline));
    set(o, "baseline_gbps", number_or_null(row->baseline != NULL, row->baseline_gbps));
    set(o, "speedup", number_or_null(row->baseline != NULL, row->speedup));
    set(o, "verified", row->verdict.checked ? json_boolean(row->verdict.right) : json_null());
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

static void report_csv(FILE *out, json_t *o, int header)
{
    const char *key;
    json_t *value;
    for (int line = header ? 0 : 1; line < 2; line++) {
        const char *comma = "";
        json_object_foreach (o, key, value) {
            if (!strcmp(key, "shape")) {
                fputs(line ? "," : ",rows,cols", out);
                if (line) csv_field(out, json_object_get(value, "rows"));
                if (line) fputc(',', out);
                if (line) csv_field(out, json_object_get(value, "cols"));
                continue;
            }
            fputs(comma, out);
            if (line) csv_field(out, value);
            else fputs(key, out);
            comma = ",";
        }
        fputc('\n', out);
    }
    fflush(out);
}

void nib_qb_report_row(nib_qb_output *output, const nib_qb_row *row)
{
    if (output->table) report_table(output->table, row, output->rows == 0);
    if (output->json || output->csv) {
        json_t *o = row_as_json(row);
        if (output->json) {
            json_dumpf(o, output->json, JSON_COMPACT | JSON_REAL_PRECISION(7));
            fputc('\n', output->json);
            fflush(output->json);
        }
        if (output->csv) report_csv(output->csv, o, output->rows == 0);
        json_decref(o);
    }
    output->rows++;
}
