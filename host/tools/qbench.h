/* qbench.h: the parts of the benchmark, and how a new operation or axis joins it.
 *
 *   axes      what the user may vary; a case is one value of each        qbench_axes.c
 *   op        what is timed: one entry of nib_qb_ops                     qbench_ops.c, _limits.c
 *   data      an op's buffers, in enough copies to be cold               qbench_data.c
 *   measure   times an op, its limit and its baseline in turn            qbench_measure.c
 *   report    table, CSV, JSON lines                                     qbench_report.c
 */
#ifndef NIB_QBENCH_H
#define NIB_QBENCH_H

#include <signal.h>
#include <stdio.h>

#include "nibble/device.h"
#include "nibble/format.h"
#include "nibble/quantize.h"

/* ---- axes ---- */

typedef enum nib_qb_axis_id {
    NIB_QB_BACKEND, NIB_QB_ISA, NIB_QB_FORMAT, NIB_QB_DTYPE, NIB_QB_RULES, NIB_QB_CHOICE,
    NIB_QB_LAYOUT, NIB_QB_ROWS, NIB_QB_COLS, NIB_QB_THREADS, NIB_QB_CACHE,
    NIB_QB_AXES
} nib_qb_axis_id;

enum { NIB_QB_CACHE_COLD = 0, NIB_QB_CACHE_HOT = 1 };

typedef struct nib_qb_values {
    int64_t *value;
    int      count;
} nib_qb_values;

typedef struct nib_qb_axis {
    const char *name, *metavar, *initial, *help;
    const char *const *names; /* of the values 0, 1, ..., ending with NULL; else by read */
    nib_status (*read)(const char *text, int64_t *value);
    void (*write)(int64_t value, char *text, size_t bytes);
    int64_t low; /* of a number */
} nib_qb_axis;

extern const nib_qb_axis nib_qb_axes[NIB_QB_AXES];

/* Reads a list such as "1,128", "te,ocp" or "1:4096:x2". On failure writes a sentence that
 * names the valid choices and returns 0. */
int nib_qb_axis_parse(nib_qb_axis_id id, const char *list, nib_qb_values *values, char *error,
                      size_t error_bytes);
void nib_qb_axis_print(nib_qb_axis_id id, int64_t value, char *text, size_t bytes);

/* ---- operations ---- */

typedef struct nib_qb_op nib_qb_op;
typedef struct nib_qb_data nib_qb_data;

typedef struct nib_qb_case {
    const nib_qb_op *op;
    int64_t          value[NIB_QB_AXES];
} nib_qb_case;

typedef struct nib_qb_verdict {
    int     checked, right;
    double  max_err;     /* largest difference of a decoded value */
    int64_t wrong_bytes;
} nib_qb_verdict;

/* Which bandwidth or rate an op is held against. */
typedef enum nib_qb_limit {
    NIB_QB_LIMIT_SELF, NIB_QB_LIMIT_READ, NIB_QB_LIMIT_FILL
} nib_qb_limit;

enum { NIB_QB_PARTS = 4 };

struct nib_qb_op {
    const char  *name, *help;
    unsigned     axes;     /* 1 << nib_qb_axis_id of each axis that it obeys */
    nib_qb_limit limit;
    int          baseline; /* 1: also time a memcpy of the bytes that count */
    int64_t (*bytes)(const nib_qb_case *c); /* that count for gbps; NULL: none */
    int64_t (*flops)(const nib_qb_case *c); /* NULL: none that count */
    /* Sizes of one copy's buffers, by part; the engine allocates and touches them. */
    nib_status (*layout)(const nib_qb_case *c, int64_t part_bytes[NIB_QB_PARTS]);
    nib_status (*fill)(nib_qb_data *data); /* contents of copy 0; the others get the same */
    nib_status (*run)(nib_qb_data *data, int64_t copy);
    nib_status (*check)(nib_qb_data *data, nib_qb_verdict *verdict); /* NULL: nothing to see */
};

extern const nib_qb_op nib_qb_quantize, nib_qb_dequantize, nib_qb_amax, nib_qb_quantize_amax;
extern const nib_qb_op nib_qb_memcpy, nib_qb_read, nib_qb_fill, nib_qb_fma;

/* Every operation; ends with NULL. */
extern const nib_qb_op *const nib_qb_ops[];

/* Bytes of the plain matrix, -1 if over INT64_MAX; its rows, columns and dtype are axes. */
int64_t nib_qb_matrix_bytes(const nib_qb_case *c);

/* ---- data ---- */

struct nib_qb_data {
    const nib_qb_case *c;
    nib_exec           exec;      /* what is timed */
    nib_exec           reference; /* portable C, one thread: what is right */
    int64_t            part_bytes[NIB_QB_PARTS], part_offset[NIB_QB_PARTS];
    int64_t            stride, copies;
    int64_t            calls;     /* of run so far */
    uint8_t           *base;
    size_t             mapped_bytes;
    float              tensor_scale, amax;
    int                corrupt;   /* flip one bit of the output before it is checked */
};

/* Allocates, touches and fills. On failure frees, and nib_last_error or error has the text. */
nib_status nib_qb_data_open(nib_qb_data *data, char *error, size_t error_bytes);
void nib_qb_data_close(nib_qb_data *data);
void *nib_qb_part(const nib_qb_data *data, int64_t copy, int part);

/* The copy that call number i of n copies uses: all of them in turn, neighbours far apart. */
int64_t nib_qb_visit(int64_t i, int64_t copies);

/* Touched memory on huge pages where they are to be had; NULL if there is not enough. */
void *nib_qb_map(size_t bytes, int32_t threads);
void nib_qb_unmap(void *p, size_t bytes);
int64_t nib_qb_memory_available(void);
int64_t nib_qb_llc_bytes(void);

/* ---- measurement ---- */

typedef struct nib_qb_policy {
    double  min_time_s, max_time_s;
    double  noise;     /* relative standard error of the median that is good enough */
    int64_t max_runs;
    int     hot;
    volatile sig_atomic_t *stop;
} nib_qb_policy;

typedef struct nib_qb_work {
    nib_status (*run)(void *state, int64_t call); /* call counts up */
    void *state;
} nib_qb_work;

typedef struct nib_qb_timing {
    int64_t runs;  /* samples */
    int64_t batch; /* calls in one sample, when one is too short for the clock */
    double  min_us, median_us, p99_us; /* of one call */
    double  cv;    /* standard deviation / mean of the samples */
    double  noise; /* of the median, see qbench_measure.c */
    int     noisy;
} nib_qb_timing;

/* Times works in turn until the first one's median is good enough. */
nib_status nib_qb_measure(const nib_qb_work *works, int count, const nib_qb_policy *policy,
                          nib_qb_timing *timings);

/* ---- limits and baselines ---- */

typedef struct nib_qb_rival {
    nib_qb_work work;
    const char *name;    /* "read", "nt fill", "memcpy"; NULL when there is none */
    int64_t     bytes;   /* that one call counts */
    int64_t     windows; /* places in the buffer that calls take in turn */
    uint8_t    *buffer;
    size_t      buffer_bytes;
    int32_t     threads;
} nib_qb_rival;

/* 0: no memory. No rival at all (name NULL) is a success. */
int nib_qb_limit_open(const nib_qb_data *data, nib_qb_rival *limit);
int nib_qb_baseline_open(const nib_qb_data *data, nib_qb_rival *baseline);
void nib_qb_rival_close(nib_qb_rival *rival);

/* ---- rows and their output ---- */

typedef struct nib_qb_row {
    const nib_qb_case *c;
    char               backend[8], device[128], kernel[32];
    int32_t            threads;
    int64_t            bytes, flops;
    nib_qb_timing      time;
    double             foreign_cpus;     /* that other processes kept busy meanwhile */
    const char        *limit, *baseline; /* NULL: none */
    double             gbps, tflops;
    double             limit_rate;       /* GB/s, or TFLOP/s for an op without bytes */
    double             baseline_gbps, sol, speedup;
    nib_qb_verdict     verdict;
    char               skipped[512];     /* why the case could not run, or "" */
    char               command[512];     /* the line that repeats it */
} nib_qb_row;

typedef struct nib_qb_output {
    FILE *table, *json, *csv; /* NULL: not wanted */
    int   rows, wrong, ran;
    int   device_missing;     /* a case did not run for want of its device */
    char  skipped[512];       /* why the first one that did not run did not */
} nib_qb_output;

typedef struct nib_qb_settings {
    nib_qb_policy policy;
    int           verify, corrupt;
} nib_qb_settings;

/* Times, verifies and reports one case. Failures become the row's text. */
void nib_qb_run_case(const nib_qb_case *c, const nib_qb_settings *settings,
                     nib_qb_output *output);

void nib_qb_report_environment(FILE *out, const char *command);
void nib_qb_report_row(nib_qb_output *output, const nib_qb_row *row);

/* CPU seconds that all processes but this one have used on this machine; 0 if not known. */
double nib_qb_foreign_s(void);
double nib_qb_now_s(void);

const char *nib_qb_compiler(void);
const char *nib_qb_commit(void);
const char *nib_qb_system(void);

#endif
