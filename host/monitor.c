/* monitor.c: figures and lines of monitor.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"
#include "nibble/monitor.h"
#include "trace.h"

enum { OPTIONS_V1 = sizeof(nib_monitor_options), ROW_V1 = sizeof(nib_monitor_row) };

/* ---- figures ---- */

nib_status nib_monitor_add(nib_tensor_stats *total, const nib_tensor_stats *part)
{
    NIB_TRACE_NAME();
    NIB_REQUIRE(total && part, NIB_ERR_ARGUMENT, "monitor_add: total or part is NULL");
    nib_scalar_cpu.tensor_stats_add(total, part);
    return NIB_OK;
}

/* n numbers with this mean square and mean, of which the least and most are known. */
static double variance_of(double n, double mean_sq, double mean, double span)
{
    const double variance = mean_sq - mean * mean;
    const double least = span * span / (2.0 * n), most = span * span / 4.0;
    return variance > most ? most : variance > least ? variance : least;
}

static double relative_error_of(const nib_tensor_stats *s)
{
    if (s->sum_sq_error == 0.0) return 0.0;
    return s->sum_sq > 0.0 ? sqrt(s->sum_sq_error / s->sum_sq) : (double)INFINITY;
}

nib_status nib_monitor_report(const nib_tensor_stats *stats, const nib_monitor_options *options,
                              nib_monitor_row *row)
{
    NIB_TRACE_NAME();
    const char *what = "monitor_report";
    double max_error = 0.1, min_std = 1e-6;
    NIB_REQUIRE(stats && row, NIB_ERR_ARGUMENT, "%s: stats or row is NULL", what);
    NIB_REQUIRE(row->size >= ROW_V1, NIB_ERR_ARGUMENT,
                "%s: row->size is %u, at least %d is needed", what, row->size, (int)ROW_V1);
    NIB_REQUIRE(stats->nonfinite <= stats->elements, NIB_ERR_ARGUMENT,
                "%s: %llu of %llu elements are not finite", what,
                (unsigned long long)stats->nonfinite, (unsigned long long)stats->elements);
    if (options) {
        NIB_REQUIRE(options->size >= OPTIONS_V1, NIB_ERR_ARGUMENT,
                    "%s: options->size is %u, at least %d is needed", what, options->size,
                    (int)OPTIONS_V1);
        max_error = options->max_relative_error, min_std = options->min_std;
        NIB_REQUIRE(max_error >= 0.0 && min_std >= 0.0, NIB_ERR_ARGUMENT,
                    "%s: thresholds %g and %g; both are >= 0", what, max_error, min_std);
    }
    const double n = (double)(stats->elements - stats->nonfinite);
    nib_monitor_row r = {
        .size = row->size, .warnings = stats->nonfinite ? NIB_MONITOR_NONFINITE : 0,
        .elements = stats->elements, .nonfinite = stats->nonfinite, .clipped = stats->clipped,
        .zeroed = stats->zeroed, .mean = NAN, .std = NAN, .min = NAN, .max = NAN,
        .relative_error = NAN, .mse = NAN,
    };
    if (n > 0.0) {
        r.min = 0.0 - (double)stats->range[0];
        r.max = stats->range[1];
        r.mean = stats->sum / n;
        r.std = sqrt(variance_of(n, stats->sum_sq / n, r.mean, r.max - r.min));
        r.relative_error = relative_error_of(stats);
        r.mse = stats->sum_sq_error / n;
        r.clipped_share = (double)stats->clipped / n;
        r.zeroed_share = (double)stats->zeroed / n;
        if (r.relative_error > max_error) r.warnings |= NIB_MONITOR_ERROR;
        if (r.std < min_std) r.warnings |= NIB_MONITOR_STD;
    }
    *row = r;
    return NIB_OK;
}

/* ---- lines ---- */

typedef struct line {
    char  *text;
    size_t bytes, used; /* used counts what did not fit, too */
} line;

static void add_char(line *l, char c)
{
    if (l->used + 1 < l->bytes) l->text[l->used] = c;
    l->used++;
}

static void add_text(line *l, const char *text)
{
    while (*text) add_char(l, *text++);
}

static nib_status ended(line *l, const char *what)
{
    add_char(l, '\n');
    if (l->bytes) l->text[l->used < l->bytes ? l->used : l->bytes - 1] = '\0';
    NIB_REQUIRE(l->used < l->bytes, NIB_ERR_SHAPE, "%s: the line has %zu bytes and a NUL, "
                "text_bytes is %zu", what, l->used, l->bytes);
    return NIB_OK;
}

/* 9 digits; what the locale has for a point becomes one. */
static void add_double(line *l, double x, int json)
{
    char text[40];
    if (!isfinite(x)) {
        add_text(l, json ? "null" : isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
        return;
    }
    snprintf(text, sizeof text, "%.9g", x);
    for (size_t i = 0; text[i]; i++) {
        if (strchr("0123456789+-e", text[i])) add_char(l, text[i]);
        else if (i && strchr("0123456789", text[i - 1])) add_char(l, '.');
    }
}

static void add_count(line *l, uint64_t n)
{
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)n);
    add_text(l, text);
}

static void add_step(line *l, int64_t step)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)step);
    add_text(l, text);
}

static const char *const warning_names[] = { "error", "std", "nonfinite" };

enum { COUNTS = 4, FIGURES = 8, WARNINGS = 3 };
static const char *const count_names[COUNTS] = { "elements", "nonfinite", "clipped", "zeroed" };
static const char *const figure_names[FIGURES] = { "mean", "std", "min", "max", "relative_error",
                                                   "mse", "clipped_share", "zeroed_share" };

static uint64_t count_at(const nib_monitor_row *r, int i)
{
    const uint64_t count[COUNTS] = { r->elements, r->nonfinite, r->clipped, r->zeroed };
    return count[i];
}

static double figure_at(const nib_monitor_row *r, int i)
{
    const double figure[FIGURES] = { r->mean, r->std, r->min, r->max, r->relative_error, r->mse,
                                     r->clipped_share, r->zeroed_share };
    return figure[i];
}

nib_status nib_monitor_csv_header(char *text, size_t text_bytes)
{
    NIB_TRACE_NAME();
    NIB_REQUIRE(text, NIB_ERR_ARGUMENT, "monitor_csv_header: text is NULL");
    line l = { text, text_bytes, 0 };
    add_text(&l, "name,step");
    for (int i = 0; i < COUNTS; i++) add_char(&l, ','), add_text(&l, count_names[i]);
    for (int i = 0; i < FIGURES; i++) add_char(&l, ','), add_text(&l, figure_names[i]);
    add_text(&l, ",warnings");
    return ended(&l, "monitor_csv_header");
}

static nib_status row_check(const nib_monitor_row *row, const char *name, const char *text,
                            const char *what)
{
    NIB_REQUIRE(row && name && text, NIB_ERR_ARGUMENT, "%s: row, name or text is NULL", what);
    NIB_REQUIRE(row->size >= ROW_V1, NIB_ERR_ARGUMENT,
                "%s: row->size is %u, at least %d is needed", what, row->size, (int)ROW_V1);
    return NIB_OK;
}

static void add_csv_name(line *l, const char *name)
{
    const size_t n = strlen(name);
    const int quoted = strpbrk(name, ",\"\r\n") || (n && (name[0] == ' ' || name[n - 1] == ' '));
    if (quoted) add_char(l, '"');
    for (; *name; name++) {
        if (*name == '"') add_char(l, '"');
        add_char(l, *name);
    }
    if (quoted) add_char(l, '"');
}

nib_status nib_monitor_csv(const nib_monitor_row *row, const char *name, int64_t step, char *text,
                           size_t text_bytes)
{
    NIB_TRACE_NAME();
    NIB_TRY(row_check(row, name, text, "monitor_csv"));
    line l = { text, text_bytes, 0 };
    add_csv_name(&l, name);
    add_char(&l, ','), add_step(&l, step);
    for (int i = 0; i < COUNTS; i++) add_char(&l, ','), add_count(&l, count_at(row, i));
    for (int i = 0; i < FIGURES; i++) add_char(&l, ','), add_double(&l, figure_at(row, i), 0);
    add_char(&l, ',');
    for (int i = 0, any = 0; i < WARNINGS; i++) {
        if (!(row->warnings >> i & 1)) continue;
        if (any++) add_char(&l, ' ');
        add_text(&l, warning_names[i]);
    }
    return ended(&l, "monitor_csv");
}

/* Bytes of the UTF-8 sequence at p, 0 if it is none (RFC 3629: not overlong, no surrogates). */
static int utf8_length(const unsigned char *p)
{
    const int n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
                : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++) {
        if (p[i] >> 6 != 2) return 0;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0)
        || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90)) return 0;
    return n;
}

static void add_json_string(line *l, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    add_char(l, '"');
    while (*p) {
        const int n = utf8_length(p);
        char escape[8];
        if (n == 0) {
            add_text(l, "\\ufffd");
            p++;
            continue;
        }
        if (*p == '"' || *p == '\\') add_char(l, '\\');
        if (*p < 0x20 || *p == 0x7f) {
            snprintf(escape, sizeof escape, "\\u%04x", *p);
            add_text(l, escape);
            p++;
            continue;
        }
        for (int i = 0; i < n; i++) add_char(l, (char)*p++);
    }
    add_char(l, '"');
}

static void add_key(line *l, const char *key)
{
    add_text(l, ",\""), add_text(l, key), add_text(l, "\":");
}

nib_status nib_monitor_json(const nib_monitor_row *row, const char *name, int64_t step, char *text,
                            size_t text_bytes)
{
    NIB_TRACE_NAME();
    NIB_TRY(row_check(row, name, text, "monitor_json"));
    line l = { text, text_bytes, 0 };
    add_text(&l, "{\"name\":"), add_json_string(&l, name);
    add_key(&l, "step"), add_step(&l, step);
    for (int i = 0; i < COUNTS; i++) add_key(&l, count_names[i]), add_count(&l, count_at(row, i));
    for (int i = 0; i < FIGURES; i++) {
        add_key(&l, figure_names[i]), add_double(&l, figure_at(row, i), 1);
    }
    add_key(&l, "warnings"), add_char(&l, '[');
    for (int i = 0, any = 0; i < WARNINGS; i++) {
        if (!(row->warnings >> i & 1)) continue;
        if (any++) add_char(&l, ',');
        add_char(&l, '"'), add_text(&l, warning_names[i]), add_char(&l, '"');
    }
    add_text(&l, "]}");
    return ended(&l, "monitor_json");
}
