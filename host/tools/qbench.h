/* qbench.h: the parts of the benchmark, and how a new operation or axis joins it.
 *
 *   axes      what the user may vary; a case is one value of each      qbench_axes.c, _shapes.c
 *   op        what is timed: one entry, in one file                    qbench_op_*.c
 *   device    where it runs, and its clock                             qbench_device.c, _timer.c
 *   data      an op's buffers, in enough copies to be cold             qbench_data.c, _verify.c
 *   rival     what an op is held against, timed in turn with it        qbench_rivals.c
 *   measure   times works in turn until their medians are known        qbench_measure.c
 *   row       what is said about a case                                qbench_report.c, _json.c
 *
 * A new operation is one nib_qb_op and its line in nib_qb_ops (qbench_ops.c). Its run is called
 * with buffers where exec computes, and once more with the same inputs on the portable CPU backend
 * to know what is right; nothing else has to be written. */
#ifndef NIB_QBENCH_H
#define NIB_QBENCH_H

#include <signal.h>
#include <stdio.h>

#include "kernels/backend.h"

/* ---- axes ---- */

typedef enum nib_qb_axis_id {
    NIB_QB_BACKEND, NIB_QB_DEVICE, NIB_QB_ISA, NIB_QB_LAUNCH, NIB_QB_FORMAT, NIB_QB_BLOCK,
    NIB_QB_DTYPE, NIB_QB_RULES, NIB_QB_CHOICE, NIB_QB_ROUNDING, NIB_QB_SCALE_ROWS,
    NIB_QB_GRADIENT, NIB_QB_MASK, NIB_QB_LAYOUT, NIB_QB_TACTIC, NIB_QB_ACCUMULATE,
    NIB_QB_ACTIVATIONS, NIB_QB_PRECISION, NIB_QB_REAL, NIB_QB_ORDER, NIB_QB_GPTQ_SCALES,
    NIB_QB_GUARD, NIB_QB_ELEMENT, NIB_QB_BATCH, NIB_QB_M, NIB_QB_N, NIB_QB_K,
    NIB_QB_ROWS, NIB_QB_COLS, NIB_QB_THREADS, NIB_QB_CACHE,
    NIB_QB_AXES
} nib_qb_axis_id;

#define NIB_QB_AXIS(id) (1u << NIB_QB_##id)

enum { NIB_QB_CACHE_COLD, NIB_QB_CACHE_WEIGHTS, NIB_QB_CACHE_FLUSH, NIB_QB_CACHE_HOT };
enum { NIB_QB_BY_ROW = -1 }; /* of --block: the row's columns, once a case is run */
enum { NIB_QB_LAUNCH_AUTO, NIB_QB_LAUNCH_GRAPH, NIB_QB_LAUNCH_STREAM };

typedef struct nib_qb_values {
    int64_t *value;
    int      count;
} nib_qb_values;

typedef struct nib_qb_axis {
    const char *name, *metavar, *initial, *help;
    const char *const *names; /* of the values 0, 1, ..., ending with NULL; else by read */
    const char *const *also;  /* NULL, or other names of the same values, ending with NULL */
    nib_status (*read)(const char *text, int64_t *value);
    void (*write)(int64_t value, char *text, size_t bytes);
    const char *choices; /* what read takes, in an error; NULL: what the library says */
    int64_t low; /* of a number */
} nib_qb_axis;

extern const nib_qb_axis nib_qb_axes[NIB_QB_AXES];

/* Reads a list such as "1,128", "te,ocp" or "1:4096:x2". On failure writes a sentence that
 * names the valid choices and returns 0. */
int nib_qb_axis_parse(nib_qb_axis_id id, const char *list, nib_qb_values *values, char *error,
                      size_t error_bytes);
void nib_qb_axis_print(nib_qb_axis_id id, int64_t value, char *text, size_t bytes);

/* Named shapes, such as a model's layers: rows x cols, which are N and K of a product. */
typedef struct nib_qb_shape {
    int64_t rows, cols, batch;
    char    name[64];
} nib_qb_shape;

typedef struct nib_qb_shapes {
    nib_qb_shape *shape;
    int           count;
} nib_qb_shapes;

/* Add a list of models' layers, or the lines "rows cols [batch [name]]" of a file. 0: error has a
 * sentence. */
int nib_qb_shapes_of_models(const char *list, nib_qb_shapes *shapes, char *error,
                            size_t error_bytes);
int nib_qb_shapes_of_file(const char *path, nib_qb_shapes *shapes, char *error,
                          size_t error_bytes);
void nib_qb_models_list(FILE *out);

/* ---- operations ---- */

typedef struct nib_qb_op nib_qb_op;
typedef struct nib_qb_device nib_qb_device;
typedef struct nib_qb_rival_kind nib_qb_rival_kind;

typedef struct nib_qb_case {
    const nib_qb_op *op;
    const char      *layer; /* the shape's name, or NULL */
    int64_t          value[NIB_QB_AXES];
} nib_qb_case;

typedef enum nib_qb_role {
    NIB_QB_UNUSED,
    NIB_QB_IN,
    NIB_QB_WEIGHT, /* an input that --cache cold-weights keeps cold */
    NIB_QB_OUT,
    NIB_QB_OUT_HOST, /* in host memory, whatever the device */
    NIB_QB_SCRATCH   /* written, but not compared */
} nib_qb_role;

typedef struct nib_qb_part {
    int64_t     bytes;
    nib_qb_role role;
} nib_qb_part;

enum { NIB_QB_PARTS = 8, NIB_QB_RIVALS = 4, NIB_QB_STAGES = 4 };

/* One call: buffers lie where exec computes. */
typedef struct nib_qb_call {
    const nib_qb_case *c;
    const nib_exec    *exec;
    nib_qb_device     *gpu; /* NULL: the CPU */
    nib_qb_device     *home;   /* the case's device, and */
    const nib_device  *target; /* what the library has of it, whose layouts inputs have */
    void              *part[NIB_QB_PARTS];
} nib_qb_call;

/* A part of what a call does, as the library reports it. */
typedef struct nib_qb_stage {
    const char *name; /* NULL: none */
    double      median_us;
} nib_qb_stage;

typedef struct nib_qb_verdict {
    int     checked;
    double  max_err;     /* largest difference of a decoded value */
    int64_t wrong_bytes; /* of outputs, of inputs that changed, and between them; 0: right */
} nib_qb_verdict;

struct nib_qb_op {
    const char *name, *help;
    uint32_t    axes;       /* NIB_QB_AXIS of each axis that it obeys */
    int         waits;      /* 1: its calls return when the work is done, on any device */
    const char *(*why_not)(const nib_qb_case *c); /* NULL, or what says why a case cannot run;
                                                     it returns NULL if the case can */
    const char *cpu_kernel, *cuda_kernel; /* NULL: the backend's name */
    const nib_qb_rival_kind *limit;    /* NULL: it is a limit itself */
    const nib_qb_rival_kind *baseline[NIB_QB_RIVALS - 1];
    int64_t (*bytes)(const nib_qb_case *c); /* that count for gbps; NULL: none */
    int64_t (*flops)(const nib_qb_call *call); /* NULL: none that count */
    /* NULL, or once before a case is timed; what it runs (NULL: the kernel above); and after it. */
    nib_status (*prepare)(const nib_qb_call *call);
    const char *(*kernel)(const nib_qb_call *call);
    void (*release)(const nib_qb_call *call);
    /* Sizes and roles of one copy's buffers. The engine allocates, fills and compares them. */
    nib_status (*layout)(const nib_qb_case *c, nib_qb_part part[NIB_QB_PARTS]);
    /* Contents of the inputs. call: host memory, portable kernels. NULL: any will do. */
    nib_status (*fill)(const nib_qb_call *call);
    nib_status (*run)(const nib_qb_call *call);
    /* Both in host memory. NULL: every byte of outputs has to be the reference's. */
    nib_status (*compare)(const nib_qb_call *got, const nib_qb_call *right,
                          nib_qb_verdict *verdict);
    /* NULL, or what the timed calls' time went into. */
    void (*stages)(nib_qb_stage stage[NIB_QB_STAGES]);
    /* How far outputs that are wrong lie from what is right. NULL: in bytes' values. */
    nib_status (*distance)(const nib_qb_call *got, const nib_qb_call *right, double *max_err);
};

/* Every operation; ends with NULL. */
extern const nib_qb_op *const nib_qb_ops[];

/* What the entries share (qbench_objects.c). Parts in this order; an op may leave some out. */
enum { NIB_QB_MATRIX, NIB_QB_CODES, NIB_QB_SCALES, NIB_QB_TENSOR, NIB_QB_AMAX, NIB_QB_RANDOM,
       NIB_QB_OTHER, NIB_QB_REPORT };
int64_t nib_qb_matrix_bytes(const nib_qb_case *c); /* of the batch; -1 if over INT64_MAX */
int64_t nib_qb_scales_bytes(const nib_qb_case *c); /* of one matrix, likewise */
nib_matrix nib_qb_matrix_of(const nib_qb_call *call);
nib_packed nib_qb_packed_of(const nib_qb_call *call);
nib_batch nib_qb_batch_of(const nib_qb_case *c);
nib_status nib_qb_fill_matrix(const nib_qb_call *call);
/* Bell-shaped around 0, like weights, from *state on: sums of four uniform numbers. */
void nib_qb_bell_shaped(float *x, int64_t n, uint64_t *state);
nib_status nib_qb_packed_layout(const nib_qb_case *c, nib_qb_part *part);
nib_status nib_qb_matrix_distance(const nib_qb_call *got, const nib_qb_call *right, double *max);
nib_status nib_qb_packed_distance(const nib_qb_call *got, const nib_qb_call *right, double *max);
nib_status nib_qb_amax_distance(const nib_qb_call *got, const nib_qb_call *right, double *max);

/* ---- devices ---- */

struct nib_qb_device {
    nib_device               *device;
    nib_exec                  exec;
    const nib_runtime_ops    *runtime; /* NULL on the CPU: plain memory, and calls wait */
    const nib_bench_cuda_ops *bench;
    int32_t                   ordinal;
    int64_t                   cache_bytes; /* the last cache before memory */
    char                      why[NIB_WHY_BYTES];
};

/* On failure d->why has the sentence. */
nib_status nib_qb_device_open(const nib_qb_case *c, nib_qb_device *d);
void nib_qb_device_close(nib_qb_device *d);
nib_launch nib_qb_device_launch(nib_qb_device *d); /* for the limits of a GPU; says why in d */
nib_status nib_qb_device_finish(nib_qb_device *d); /* waits for its stream */
void *nib_qb_device_allocate(nib_qb_device *d, size_t bytes);
void nib_qb_device_release(nib_qb_device *d, void *p);
nib_status nib_qb_device_copy(nib_qb_device *d, void *dst, const void *src, size_t bytes);
/* What auto means here; auto itself where it means nothing, nib_last_error() says why. */
nib_backend_kind nib_qb_backend_auto(void);

/* Touched memory on huge pages where they are to be had; NULL if there is not enough. */
void *nib_qb_map(size_t bytes, int32_t threads);
void nib_qb_unmap(void *p);
int64_t nib_qb_memory_available(void);
int64_t nib_qb_llc_bytes(void);

/* ---- data ---- */

typedef struct nib_qb_data {
    const nib_qb_case *c;
    nib_qb_device     *device;
    nib_exec           reference; /* portable C, one thread: what is right */
    nib_qb_part        part[NIB_QB_PARTS];
    int64_t            offset[NIB_QB_PARTS];
    int64_t            stride, copies;
    int64_t            calls; /* of run so far */
    uint8_t           *base;  /* copies images, where the device computes */
    uint8_t           *image; /* one image in host memory: inputs, later what is right */
    uint8_t           *side;  /* another, of which NIB_QB_OUT_HOST parts are used */
} nib_qb_data;

/* Allocates, touches and fills. On failure frees, and error has the sentence. */
nib_status nib_qb_data_open(nib_qb_data *data, char *error, size_t error_bytes);
void nib_qb_data_close(nib_qb_data *data);
nib_qb_call nib_qb_call_of(const nib_qb_data *data, int64_t copy);
nib_qb_call nib_qb_call_in(const nib_qb_data *data, uint8_t *image); /* host, reference */

/* The copy that call number i of n copies uses: all of them in turn, neighbours far apart. */
int64_t nib_qb_visit(int64_t i, int64_t copies);

/* Compares every copy that was written with the reference's. corrupt: spoil one bit before. */
nib_status nib_qb_verify(nib_qb_data *data, int corrupt, nib_qb_verdict *verdict);

/* ---- measurement ---- */

typedef struct nib_qb_policy {
    double  min_time_s, max_time_s;
    double  noise;     /* relative standard error of the median that is good enough */
    int64_t max_runs;
    double  slowdown;  /* 0, or by how much to make the first work slower than it is */
    volatile sig_atomic_t *stop;
} nib_qb_policy;

typedef struct nib_qb_work {
    nib_status (*run)(void *state, int64_t call); /* call counts up */
    void   *state;
    int64_t ring;  /* calls until they come back to the same memory */
    int     waits; /* as nib_qb_op's */
} nib_qb_work;

typedef struct nib_qb_timing {
    int64_t runs;  /* samples */
    int64_t batch; /* calls in one sample, when one is too short for the clock */
    double  min_us, median_us, p99_us; /* of one call */
    double  cv;    /* standard deviation / mean of the samples */
    double  noise; /* of the median, see qbench_measure.c */
    int     noisy;
    int     graph;   /* its calls were replayed from graphs */
    int64_t covered; /* calls 0 .. covered - 1 of its ring were made */
} nib_qb_timing;

/* How calls are launched and timed: by the CPU's clock, or between events of a stream, where they
 * come from graphs that hold a batch each. */
typedef struct nib_qb_timer {
    nib_qb_device *device;
    int            graphs; /* 1: capture them */
    nib_qb_work    flush;  /* run NULL, or what empties the caches before each call */
    void          *event[2];
    void          *sink;   /* of the pause before a sample */
} nib_qb_timer;

typedef struct nib_qb_series {
    const nib_qb_work *work;
    nib_qb_timer *timer;
    double  *sample; /* seconds of one call */
    int64_t  runs, room, batch, turn, calls, covered;
    void   **graph; /* graph i holds calls i * batch ... of the ring */
    int64_t  graphs, next_graph;
    double   slowdown;
} nib_qb_series;

nib_status nib_qb_timer_open(nib_qb_timer *timer);
void nib_qb_timer_close(nib_qb_timer *timer);
double nib_qb_timer_resolution_s(const nib_qb_timer *timer); /* one sample is at least so long */
/* After batch was set or changed; captures the graphs. */
nib_status nib_qb_series_prepare(nib_qb_series *s);
nib_status nib_qb_series_sample(nib_qb_series *s, double *seconds);
nib_status nib_qb_series_call(nib_qb_series *s); /* one, untimed, done on return */
void nib_qb_series_close(nib_qb_series *s);

nib_status nib_qb_summarize(const double *samples, int64_t n, const nib_qb_policy *policy,
                            nib_qb_timing *timing); /* qbench_summary.c */

/* Times works in turn until the first one's median is good enough. hot: calls each once before
 * its turn. */
nib_status nib_qb_measure(const nib_qb_work *works, int count, nib_qb_timer *timer, int hot,
                          const nib_qb_policy *policy, nib_qb_timing *timings);

/* ---- limits and baselines ---- */

typedef struct nib_qb_rival nib_qb_rival;

struct nib_qb_rival_kind {
    const char *name, *cuda_name; /* on a GPU; NULL: the CPU only */
    int         buffers;          /* of bytes each: 1, or 2 for a copy */
    int         waits;            /* as nib_qb_op's */
    nib_status (*run)(nib_qb_rival *rival, uint8_t *first, uint8_t *second);
    /* NULL, or of one that does the case's own work: bytes of its place (0: it cannot be had),
     * what it does when it has memory, where bytes may become what its work counts as, and at its
     * end. */
    int64_t (*place)(const nib_qb_rival *rival);
    nib_status (*open)(nib_qb_rival *rival);
    void (*close)(nib_qb_rival *rival);
};

struct nib_qb_rival {
    const nib_qb_rival_kind *kind;
    nib_qb_device *device;
    const char    *name;
    int64_t        bytes;   /* that one call counts */
    double         flops;
    int64_t        windows; /* places that calls take in turn */
    int64_t        window;  /* bytes of one buffer's place */
    uint8_t       *buffer;
    void          *sink;
    int32_t        threads;
    const nib_qb_case *c;
    void          *plan; /* the kind's own */
};

extern const nib_qb_rival_kind nib_qb_limit_read, nib_qb_limit_fill, nib_qb_limit_copy,
    nib_qb_limit_potrf, nib_qb_limit_syrk, nib_qb_baseline_copy, nib_qb_baseline_dense;

/* 0: no memory. One that the device does not offer has no name. rival_open takes kind, bytes and
 * windows from *rival. */
int nib_qb_rival_open(const nib_qb_data *data, nib_qb_rival *rival);
int nib_qb_limit_open(const nib_qb_data *data, nib_qb_rival *limit);
int nib_qb_baseline_open(const nib_qb_data *data, int i, nib_qb_rival *baseline);
void nib_qb_rival_close(nib_qb_rival *rival);
nib_qb_work nib_qb_rival_work(nib_qb_rival *rival);

/* ---- rows and their output ---- */

typedef struct nib_qb_held {
    const char *name; /* NULL: none */
    double      median_us, rate; /* GB/s, or TFLOP/s for an op without bytes */
    double      ratio;           /* of the op's rate to this */
} nib_qb_held;

typedef struct nib_qb_row {
    const nib_qb_case *c;
    char               backend[8], device[128], kernel[32], clocks[160], driver[48];
    int32_t            threads;
    int64_t            bytes, flops;
    nib_qb_timing      time;
    double             foreign_cpus; /* that other processes kept busy meanwhile */
    int                throttled;    /* the processor's clock was held down meanwhile */
    double             gbps, tflops;
    nib_qb_held        limit, baseline[NIB_QB_RIVALS - 1];
    nib_qb_stage       stage[NIB_QB_STAGES];
    nib_qb_verdict     verdict;
    const char        *openblas; /* whose loops a rate hangs on, or NULL */
    char               skipped[512]; /* why the case could not run, or "" */
    char               command[640]; /* the line that repeats it */
} nib_qb_row;

typedef struct nib_qb_floor { /* --min-sol OP=FRACTION */
    const nib_qb_op *op;
    double           sol;
    int              rows; /* that were held against it */
} nib_qb_floor;

typedef struct nib_qb_output {
    FILE *table, *json, *csv, *markdown; /* NULL: not wanted */
    nib_qb_floor *floors;
    int   n_floors;
    int   rows, wrong, ran, below;
    int   unverified;     /* timed, but what they made could not be looked at */
    int   device_missing; /* a case did not run for want of its device */
    char  skipped[512];   /* why the first one that did not run did not */
} nib_qb_output;

typedef struct nib_qb_settings {
    nib_qb_policy policy;
    int           verify, corrupt, profile, baselines;
} nib_qb_settings;

/* Times, verifies and reports one case. Failures become the row's text. */
void nib_qb_run_case(const nib_qb_case *c, const nib_qb_settings *settings,
                     nib_qb_output *output);
void nib_qb_write_command(const nib_qb_case *c, char *text, size_t bytes);
/* Whether the axis means something for the case: its op obeys it, and its backend does. */
int nib_qb_obeys(const nib_qb_case *c, nib_qb_axis_id id);

void nib_qb_report_environment(FILE *out, const char *prefix, const char *command);
void nib_qb_report_row(nib_qb_output *output, const nib_qb_row *row);
void nib_qb_report_json(FILE *json, FILE *csv, const nib_qb_row *row, int first);
void nib_qb_report_markdown(FILE *out, const nib_qb_row *row, int first);

/* CPU seconds that all processes but this one have used on this machine; 0 if not known. */
double nib_qb_foreign_s(void);
double nib_qb_now_s(void);
/* How often the processor of this device was throttled so far; 0 if not known. */
int64_t nib_qb_throttle_count(const nib_qb_device *d);
/* "1980 MHz" and the like, as far as the system tells; "" else. */
void nib_qb_clocks(const nib_qb_device *d, char *text, size_t bytes);

/* The same of a GPU, from NVML (qbench_nvml.c). */
int64_t nib_qb_gpu_throttled(int32_t ordinal);
void nib_qb_gpu_clocks(int32_t ordinal, char *text, size_t bytes);
void nib_qb_gpu_driver(char *text, size_t bytes);

/* Around the call that --profile is about (qbench_mark.c). Returns 0 in a build without NVTX. */
int nib_qb_mark_begin(void);
void nib_qb_mark_end(void);

const char *nib_qb_compiler(void);
const char *nib_qb_commit(void);
const char *nib_qb_system(void);

/* ---- comparing ---- */

int nib_qb_compare_main(int argc, char **argv); /* argv[0] is "compare" */

#endif
