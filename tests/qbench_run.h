/* qbench_run.h: runs the built qbench and reads what it prints. */
#ifndef NIB_TESTS_QBENCH_RUN_H
#define NIB_TESTS_QBENCH_RUN_H

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "shim.h"
#include "temp_dir.h"

#ifndef NIB_BUILD_DIR
#define NIB_BUILD_DIR "build"
#endif

typedef struct result {
    int    status; /* of exit; -signal if one ended it */
    char  *out, *err;
    json_t *rows;  /* the JSON lines of out, as an array */
} result;

static inline void result_free(result *r)
{
    free(r->out);
    free(r->err);
    json_decref(r->rows);
}

static inline json_t *json_lines(const char *text)
{
    json_t *rows = json_array();
    while (text && *text == '{') {
        const char *end = strchr(text, '\n');
        json_t *row = end ? json_loadb(text, (size_t)(end - text), 0, NULL) : NULL;
        if (!row) break;
        json_array_append_new(rows, row);
        text = end + 1;
    }
    EXPECT(text && !*text, "not a line of JSON: '%.80s'", text);
    return rows;
}

/* The shell splits the arguments. */
static inline result run(const char *arguments)
{
    const temp_dir dir = temp_dir_make();
    char command[1024];
    snprintf(command, sizeof command, "%s/qbench %s >%s/out 2>%s/err", NIB_BUILD_DIR, arguments,
             dir.path, dir.path);
    const int status = system(command);
    result r = { .status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status) };
    r.out = temp_read(temp_path(&dir, "out"), NULL);
    r.err = temp_read(temp_path(&dir, "err"), NULL);
    if (strstr(arguments, "--json -")) r.rows = json_lines(r.out);
    temp_dir_remove(&dir);
    return r;
}

static inline const json_t *row_of(const result *r, size_t i) { return json_array_get(r->rows, i); }

static inline const char *text_of(const json_t *row, const char *key)
{
    const char *text = json_string_value(json_object_get(row, key));
    return text ? text : "(none)";
}

static inline double number_of(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static inline int near(double a, double b) { return fabs(a - b) <= 1e-4 * fabs(b); }

#define QUICK " --min-time 0.01 --max-time 0.05 --json - "

#endif
