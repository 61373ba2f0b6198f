/* monitor_test.c: figures from sums, and lines that others can read. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "nibble/monitor.h"
#include "tests/expect_status.h"
#include "tests/temp_dir.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

static nib_monitor_row report(const nib_tensor_stats *s)
{
    nib_monitor_row row = { .size = sizeof row };
    OK(nib_monitor_report(s, NULL, &row));
    return row;
}

static int near(double a, double b) { return fabs(a - b) <= 1e-12 * fabs(b); }

/* 1, 2, 3, 4 against 1, 2, 3.5, 0, and a NaN. */
static const nib_tensor_stats known = { .elements = 5, .nonfinite = 1, .clipped = 1, .zeroed = 1,
                                        .sum = 10, .sum_sq = 30, .sum_sq_error = 16.25,
                                        .range = { -1, 4 } };

NIB_TEST(Monitor, FiguresByHand)
{
    const nib_monitor_row r = report(&known);
    EXPECT(r.elements == 5 && r.nonfinite == 1 && r.clipped == 1 && r.zeroed == 1, "counts");
    EXPECT(near(r.mean, 2.5) && near(r.std, sqrt(1.25)) && r.min == 1 && r.max == 4,
           "%g %g %g %g", r.mean, r.std, r.min, r.max);
    EXPECT(near(r.relative_error, sqrt(16.25 / 30)) && near(r.mse, 16.25 / 4)
               && r.clipped_share == 0.25 && r.zeroed_share == 0.25, "%g %g", r.relative_error,
           r.mse);
    EXPECT(r.warnings == (NIB_MONITOR_ERROR | NIB_MONITOR_NONFINITE), "%u", r.warnings);
}

/* Sums whose difference is rounding: the range says what can be. */
NIB_TEST(Monitor, StandardDeviationOfConstants)
{
    nib_tensor_stats s = { .elements = 1000, .sum = 1e5, .sum_sq = 1e7 * (1 + 1e-7),
                           .range = { -100, 100 } };
    nib_monitor_row r = report(&s);
    EXPECT(r.std == 0 && r.warnings == NIB_MONITOR_STD, "%g", r.std);
    s.sum_sq = 1e7 * (1 - 1e-7); /* below 0 */
    EXPECT(report(&s).std == 0, "%g", report(&s).std);
    s.range[1] = 100.001f; /* one of a thousand differs: std >= span / sqrt(2000) */
    r = report(&s);
    const double span = r.max - r.min;
    EXPECT(near(r.std, span / sqrt(2000)) && r.warnings == 0, "%g", r.std);
    s.sum_sq = 1e7 * (1 + 1e-7);
    EXPECT(near(report(&s).std, span / 2), "%g", report(&s).std);
}

NIB_TEST(Monitor, Thresholds)
{
    nib_tensor_stats s = { .elements = 4, .sum = 0, .sum_sq = 4, .range = { 1, 1 } };
    nib_monitor_row r = { .size = sizeof r };
    nib_monitor_options o = { .size = sizeof o, .max_relative_error = 0.1, .min_std = 1e-6 };
    s.sum_sq_error = 0.04; /* sqrt(0.01) is 0.1, which is not above it */
    EXPECT(report(&s).warnings == 0 && near(report(&s).relative_error, 0.1), "%g",
           report(&s).relative_error);
    s.sum_sq_error = 0.0401;
    EXPECT(report(&s).warnings == NIB_MONITOR_ERROR, "0.1 is exceeded");
    o.max_relative_error = INFINITY;
    OK(nib_monitor_report(&s, &o, &r));
    EXPECT(r.warnings == 0, "Inf never warns");
    o.min_std = 1.5;
    OK(nib_monitor_report(&s, &o, &r));
    EXPECT(r.warnings == NIB_MONITOR_STD && r.std == 1, "std %g", r.std);
    const nib_tensor_stats zeros = { .elements = 7 };
    r = report(&zeros);
    EXPECT(r.warnings == NIB_MONITOR_STD && r.relative_error == 0 && r.std == 0 && r.mean == 0,
           "zeros");
    o.min_std = 0;
    OK(nib_monitor_report(&zeros, &o, &r));
    EXPECT(r.warnings == 0, "0 never warns");
    const nib_tensor_stats wrong = { .elements = 7, .sum_sq_error = 1 };
    r = report(&wrong);
    EXPECT(isinf(r.relative_error) && r.warnings & NIB_MONITOR_ERROR, "%g", r.relative_error);
    const nib_tensor_stats none = { .elements = 3, .nonfinite = 3 }, empty = { 0 };
    r = report(&none);
    EXPECT(isnan(r.mean) && isnan(r.std) && isnan(r.min) && isnan(r.relative_error)
               && r.clipped_share == 0 && r.warnings == NIB_MONITOR_NONFINITE, "nothing finite");
    EXPECT(report(&empty).warnings == 0, "nothing at all");
}

NIB_TEST(Monitor, PartsAddUp)
{
    nib_tensor_stats total = { 0 };
    const nib_tensor_stats nothing = { .elements = 2, .nonfinite = 2 };
    const nib_tensor_stats positive = { .elements = 1, .sum = 3, .sum_sq = 9, .range = { -3, 3 } };
    OK(nib_monitor_add(&total, &nothing));
    EXPECT(total.range[0] == 0 && total.nonfinite == 2, "nothing finite");
    OK(nib_monitor_add(&total, &positive)); /* the first range is taken, 0 is not in it */
    EXPECT(total.range[0] == -3 && total.range[1] == 3 && total.elements == 3, "%g",
           (double)total.range[0]);
    OK(nib_monitor_add(&total, &nothing));
    OK(nib_monitor_add(&total, &known));
    EXPECT(total.range[0] == -1 && total.range[1] == 4 && total.elements == 10
               && total.nonfinite == 5 && total.sum == 13 && total.sum_sq == 39
               && total.sum_sq_error == 16.25 && total.clipped == 1 && total.zeroed == 1, "sums");
}

/* ---- lines ---- */

NIB_TEST(Monitor, Csv)
{
    char text[1024];
    const nib_monitor_row r = report(&known);
    OK(nib_monitor_csv_header(text, sizeof text));
    EXPECT(!strcmp(text, "name,step,elements,nonfinite,clipped,zeroed,mean,std,min,max,"
                   "relative_error,mse,clipped_share,zeroed_share,warnings\n"), "%s", text);
    OK(nib_monitor_csv(&r, "blk.0", -7, text, sizeof text));
    EXPECT(!strcmp(text, "blk.0,-7,5,1,1,1,2.5,1.11803399,1,4,0.735980072,4.0625,0.25,0.25,"
                   "error nonfinite\n"), "%s", text);
    const nib_tensor_stats none = { .elements = 3, .nonfinite = 3 };
    const nib_tensor_stats wrong = { .elements = 2, .sum_sq_error = 1 };
    const nib_monitor_row a = report(&none), b = report(&wrong);
    OK(nib_monitor_csv(&a, "", INT64_MIN, text, sizeof text));
    EXPECT(!strcmp(text, ",-9223372036854775808,3,3,0,0,nan,nan,nan,nan,nan,nan,0,0,nonfinite\n"),
           "%s", text);
    OK(nib_monitor_csv(&b, "x", 0, text, sizeof text));
    EXPECT(!strcmp(text, "x,0,2,0,0,0,0,0,0,0,inf,0.5,0,0,error std\n"), "%s", text);
    const struct { const char *name, *field; } names[] = {
        { "a b", "a b" }, { "a,b", "\"a,b\"" }, { "a\"b", "\"a\"\"b\"" }, { "\"", "\"\"\"\"" },
        { "a\nb", "\"a\nb\"" }, { "\r", "\"\r\"" }, { " a", "\" a\"" }, { "a ", "\"a \"" },
        { "\xc3\xa9", "\xc3\xa9" },
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        OK(nib_monitor_csv(&b, names[i].name, 0, text, sizeof text));
        const size_t n = strlen(names[i].field);
        EXPECT(!strncmp(text, names[i].field, n) && !strncmp(text + n, ",0,2,", 5), "%s", text);
    }
}

/* What a parser of JSON makes of a line. */
static json_t *parse(const char *text)
{
    json_error_t error;
    json_t *line = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    EXPECT(line, "%s: %s", error.text, text);
    EXPECT(strchr(text, '\n') == text + strlen(text) - 1, "one line: %s", text);
    return line;
}

static double number_of(const json_t *line, const char *key)
{
    return json_number_value(json_object_get(line, key));
}

NIB_TEST(Monitor, Json)
{
    char text[1024];
    const nib_monitor_row r = report(&known);
    OK(nib_monitor_json(&r, "blk.0", 7, text, sizeof text));
    EXPECT(!strcmp(text, "{\"name\":\"blk.0\",\"step\":7,\"elements\":5,\"nonfinite\":1,"
                   "\"clipped\":1,\"zeroed\":1,\"mean\":2.5,\"std\":1.11803399,\"min\":1,"
                   "\"max\":4,\"relative_error\":0.735980072,\"mse\":4.0625,"
                   "\"clipped_share\":0.25,\"zeroed_share\":0.25,"
                   "\"warnings\":[\"error\",\"nonfinite\"]}\n"), "%s", text);
    json_t *line = parse(text);
    EXPECT(fabs(number_of(line, "std") - r.std) < 1e-8 && number_of(line, "step") == 7, "%s",
           text);
    json_decref(line);
    const nib_tensor_stats none = { .elements = 3, .nonfinite = 3 };
    const nib_monitor_row a = report(&none);
    OK(nib_monitor_json(&a, "", 0, text, sizeof text));
    line = parse(text);
    EXPECT(json_is_null(json_object_get(line, "mean"))
               && json_is_null(json_object_get(line, "relative_error")), "%s", text);
    json_decref(line);
    const struct { const char *name, *value; } names[] = {
        { "\"\\\b\f\n\r\t/", "\"\\\b\f\n\r\t/" }, { "\x01\x1f\x7f", "\x01\x1f\x7f" },
        { "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80" },
        { "\xff", "\xef\xbf\xbd" }, { "a\xc3", "a\xef\xbf\xbd" }, { "\xc0\x80",
        "\xef\xbf\xbd\xef\xbf\xbd" }, { "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xe0\x9f\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xf0\x8f\xbf\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        OK(nib_monitor_json(&r, names[i].name, 0, text, sizeof text));
        line = parse(text);
        const char *value = json_string_value(json_object_get(line, "name"));
        EXPECT(value && !strcmp(value, names[i].value), "name %zu: %s", i, text);
        json_decref(line);
    }
}

/* Every length of buffer: cut where it must be, never beyond, always ended. */
NIB_TEST(Monitor, ShortBuffers)
{
    char whole[1024], text[1024];
    const nib_monitor_row r = report(&known);
    for (int kind = 0; kind < 3; kind++) {
        OK(kind == 0 ? nib_monitor_csv_header(whole, sizeof whole)
           : kind == 1 ? nib_monitor_csv(&r, "a\"\xff", 1, whole, sizeof whole)
                       : nib_monitor_json(&r, "a\"\xff", 1, whole, sizeof whole));
        const size_t n = strlen(whole);
        for (size_t room = 0; room <= n + 2; room++) {
            memset(text, '#', sizeof text);
            const nib_status status =
                kind == 0 ? nib_monitor_csv_header(text, room)
                : kind == 1 ? nib_monitor_csv(&r, "a\"\xff", 1, text, room)
                            : nib_monitor_json(&r, "a\"\xff", 1, text, room);
            EXPECT(status == (room > n ? NIB_OK : NIB_ERR_SHAPE), "room %zu of %zu", room, n);
            EXPECT(text[room] == '#', "wrote behind %zu", room);
            const size_t fits = room > n ? n : room ? room - 1 : 0;
            EXPECT(room == 0 || (strlen(text) == fits && !strncmp(text, whole, fits)),
                   "room %zu: %.*s", room, (int)room, text);
        }
    }
    EXPECT_FAILS("cut", nib_monitor_json(&r, "x", 1, text, 10), NIB_ERR_SHAPE, "text_bytes is 10");
}

/* One that is installed, or that localedef makes here from the system's sources. */
static const char *comma_locale(const temp_dir *dir)
{
    char command[400];
    const char *const name = "de_DE.UTF-8";
    if (setlocale(LC_NUMERIC, name)) return name;
    snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 '%s/%s' >/dev/null 2>&1",
             dir->path, name);
    if (system(command) != 0) return NULL;
    setenv("LOCPATH", dir->path, 1);
    const char *const made = setlocale(LC_NUMERIC, name);
    unsetenv("LOCPATH");
    return made;
}

NIB_TEST(Monitor, PointsWhateverTheLocale)
{
    char right[1024], text[1024], comma[16];
    const nib_monitor_row r = report(&known);
    temp_dir dir = temp_dir_make();
    OK(nib_monitor_json(&r, "x", 1, right, sizeof right));
    const char *const locale = comma_locale(&dir);
    if (locale) {
        snprintf(comma, sizeof comma, "%g", 0.5);
        OK(nib_monitor_json(&r, "x", 1, text, sizeof text));
        EXPECT(!strcmp(comma, "0,5") && !strcmp(text, right), "%s: %s", comma, text);
    }
    setlocale(LC_NUMERIC, "C");
    temp_dir_remove(&dir);
    if (!locale) SKIP("no locale here writes numbers with a comma");
}

NIB_TEST(Monitor, BadArgumentsAreNamed)
{
    char text[64];
    nib_tensor_stats s = known, odd = known;
    nib_monitor_row r = report(&known), small = r, out = { .size = sizeof out };
    nib_monitor_options o = { .size = sizeof o, .max_relative_error = 0.1 };
    small.size--;
    odd.nonfinite = 6;
    EXPECT_FAILS("total", nib_monitor_add(NULL, &s), NIB_ERR_ARGUMENT, "total");
    EXPECT_FAILS("part", nib_monitor_add(&s, NULL), NIB_ERR_ARGUMENT, "part");
    EXPECT_FAILS("stats", nib_monitor_report(NULL, NULL, &out), NIB_ERR_ARGUMENT, "stats");
    EXPECT_FAILS("row", nib_monitor_report(&s, NULL, NULL), NIB_ERR_ARGUMENT, "row");
    EXPECT_FAILS("size", nib_monitor_report(&s, NULL, &small), NIB_ERR_ARGUMENT, "row->size");
    EXPECT_FAILS("odd", nib_monitor_report(&odd, NULL, &out), NIB_ERR_ARGUMENT, "6 of 5");
    o.size--;
    EXPECT_FAILS("options", nib_monitor_report(&s, &o, &out), NIB_ERR_ARGUMENT, "options->size");
    o.size++;
    o.max_relative_error = NAN;
    EXPECT_FAILS("error", nib_monitor_report(&s, &o, &out), NIB_ERR_ARGUMENT, "thresholds");
    o.max_relative_error = 1, o.min_std = -1;
    EXPECT_FAILS("std", nib_monitor_report(&s, &o, &out), NIB_ERR_ARGUMENT, "thresholds");
    EXPECT_FAILS("header", nib_monitor_csv_header(NULL, 9), NIB_ERR_ARGUMENT, "text");
    for (int json = 0; json < 2; json++) {
        nib_status (*line)(const nib_monitor_row *, const char *, int64_t, char *, size_t) =
            json ? nib_monitor_json : nib_monitor_csv;
        EXPECT_FAILS("row", line(NULL, "x", 1, text, 64), NIB_ERR_ARGUMENT, "row");
        EXPECT_FAILS("name", line(&r, NULL, 1, text, 64), NIB_ERR_ARGUMENT, "name");
        EXPECT_FAILS("text", line(&r, "x", 1, NULL, 64), NIB_ERR_ARGUMENT, "text");
        EXPECT_FAILS("size", line(&small, "x", 1, text, 64), NIB_ERR_ARGUMENT, "row->size");
    }
}
