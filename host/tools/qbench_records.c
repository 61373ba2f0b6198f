/* qbench_records.c: reads rows back from JSON lines, and finds those that measured the same. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qbench_compare.h"

/* What makes two rows the same measurement; a field that is null or missing is left out. An older
 * file lacks those that its version did not know, whose values were these. */
static const struct {
    const char *name, *usual;
} fields[] = {
    { "op", NULL }, { "backend", NULL }, { "kernel", NULL }, { "device", NULL },
    { "format", NULL }, { "dtype", NULL }, { "rules", NULL }, { "scale_choice", NULL },
    { "rounding", "nearest" }, { "scale_rows", "1" }, { "gradient", NULL }, { "mask", "none" },
    { "layout", NULL }, { "real", NULL }, { "order", NULL }, { "scales", NULL },
    { "guard", NULL }, { "element", "int4" }, { "precision", "exact" }, { "cache", NULL },
    { "launch", NULL },
};

static void add(char *key, size_t bytes, const char *name, const char *value)
{
    const size_t used = strlen(key);
    if (used < bytes)
        snprintf(key + used, bytes - used, "%s%s %s", used ? " " : "", name, value);
}

static void key_of(const json_t *row, char *key, size_t bytes)
{
    const json_t *shape = json_object_get(row, "shape");
    const char *name;
    json_t *size;
    char number[32];
    key[0] = '\0';
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const char *text = json_string_value(json_object_get(row, fields[i].name));
        if (text && !(fields[i].usual && !strcmp(text, fields[i].usual)))
            add(key, bytes, fields[i].name, text);
    }
    if (json_is_string(json_object_get(row, "element"))) { /* a format's name has its block */
        const long long block = json_integer_value(json_object_get(row, "block"));
        snprintf(number, sizeof number, "%lld", block);
        if (block != 128) add(key, bytes, "block", number);
    }
    json_object_foreach ((json_t *)(uintptr_t)shape, name, size) {
        const long long n = json_integer_value(size);
        if (!strcmp(name, "batch") && n == 1) continue;
        snprintf(number, sizeof number, "%lld", n);
        add(key, bytes, name, number);
    }
    snprintf(number, sizeof number, "%lld",
             (long long)json_integer_value(json_object_get(row, "threads")));
    add(key, bytes, "threads", number);
}

nib_qb_record *nib_qb_record_find(const nib_qb_records *records, const char *key)
{
    for (int i = 0; i < records->count; i++)
        if (!strcmp(records->record[i].key, key)) return &records->record[i];
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of the rows' medians, and how far they lie apart. */
static int settle(nib_qb_record *r, double noise)
{
    double *sorted = malloc((size_t)r->count * sizeof *sorted);
    if (!sorted) return 0;
    memcpy(sorted, r->each, (size_t)r->count * sizeof *sorted);
    qsort(sorted, (size_t)r->count, sizeof *sorted, by_value);
    const int n = r->count;
    r->median_us = n % 2 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
    r->noise = fmax(fmax(r->noise, noise), 0.5 * (sorted[n - 1] - sorted[0]) / r->median_us);
    free(sorted);
    return 1;
}

static int add_row(nib_qb_records *records, const json_t *row)
{
    const double median = json_number_value(json_object_get(row, "median_us"));
    const json_t *sol = json_object_get(row, "sol"), *noise = json_object_get(row, "noise");
    char key[sizeof records->record->key];
    if (!(median > 0)) return 1; /* a row that did not run */
    key_of(row, key, sizeof key);
    nib_qb_record *r = nib_qb_record_find(records, key);
    if (!r) {
        nib_qb_record *more = realloc(records->record,
                                      ((size_t)records->count + 1) * sizeof *more);
        if (!more) return 0;
        records->record = more;
        r = &more[records->count++];
        *r = (nib_qb_record){ .noise = 0 };
        memcpy(r->key, key, sizeof key);
        snprintf(r->op, sizeof r->op, "%s", json_string_value(json_object_get(row, "op")));
    }
    const char *command = json_string_value(json_object_get(row, "command"));
    snprintf(r->label, sizeof r->label, "%s",
             !command ? key : strncmp(command, "qbench ", 7) ? command : command + 7);
    double *each = realloc(r->each, ((size_t)r->count + 1) * sizeof *each);
    if (!each) return 0;
    r->each = each;
    r->each[r->count++] = median;
    r->wrong |= json_is_false(json_object_get(row, "verified"));
    r->sol = json_is_number(sol) ? json_number_value(sol) : (double)NAN;
    return settle(r, json_is_number(noise) ? json_number_value(noise) : 0.01);
}

int nib_qb_records_read(const char *path, nib_qb_records *records, char *error,
                        size_t error_bytes)
{
    FILE *f = fopen(path, "r");
    if (!f) {
        snprintf(error, error_bytes, "cannot read '%.300s': %s", path, strerror(errno));
        return 0;
    }
    char *line = NULL;
    size_t room = 0;
    int number = 0, good = 1;
    while (good && getline(&line, &room, f) > 0) {
        json_error_t why;
        number++;
        if (line[strspn(line, " \t\r\n")] == '\0') continue;
        json_t *row = json_loads(line, 0, &why);
        if (!json_is_object(row) || !json_is_string(json_object_get(row, "op"))) {
            snprintf(error, error_bytes, "line %d of '%.300s' is not a row of qbench --json",
                     number, path);
            good = 0;
        } else if (!add_row(records, row)) {
            snprintf(error, error_bytes, "no memory for '%.300s'", path);
            good = 0;
        }
        json_decref(row);
    }
    free(line);
    fclose(f);
    return good;
}

void nib_qb_records_free(nib_qb_records *records)
{
    for (int i = 0; i < records->count; i++) free(records->record[i].each);
    free(records->record);
    *records = (nib_qb_records){ 0 };
}
