/* nibble_tool.h: what the subcommands of `nibble` share. Exit status: 0 done, 1 the work failed,
 * 2 wrong usage. */
#ifndef NIBBLE_TOOL_H
#define NIBBLE_TOOL_H

#include <stdio.h>

#include "nibble/nibble.h"

typedef struct nibble_command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is "nibble NAME" */
} nibble_command;

extern const nibble_command nibble_commands[];

int nibble_gptq_main(int argc, char **argv);
int nibble_info_main(int argc, char **argv);
int nibble_quantize_main(int argc, char **argv);
int nibble_compare_main(int argc, char **argv);
int nibble_merge_main(int argc, char **argv);

/* ---- arguments (nibble_args.c) ---- */

typedef struct nibble_choice {
    const char *name;
    int         value;
} nibble_choice;

/* Prints "COMMAND: sentence" and a pointer to --help, exits with 2. */
void nibble_usage(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

/* The value of a named choice (list ends with name NULL); exits with 2, naming them all. */
int nibble_choose(const char *command, const char *option, const char *text,
                  const nibble_choice *choices);

/* A whole number in [low, high]; exits with 2. Suffixes k or K, M, G, T (1000s)
 * where they fit. */
long long nibble_number(const char *command, const char *option, const char *text, long long low,
                        long long high);

/* A number in [low, high]; exits with 2. */
double nibble_real(const char *command, const char *option, const char *text, double low,
                   double high);

/* ---- running (nibble_progress.c) ---- */

/* Opens the CPU device; exits with 1 and the reason on failure. */
void nibble_open_cpu(int threads, nib_device **device, nib_exec *exec);

/* Set by SIGINT and SIGTERM once nibble_catch_signals was called. */
extern volatile int nibble_stopped;
void nibble_catch_signals(void);

/* Callback of nib_checkpoint_options: a bar on a terminal, else a line now and then, on stderr. */
typedef struct nibble_meter {
    const char *verb;     /* "quantize" */
    int         terminal, quiet;
    double      started, shown;
} nibble_meter;
void nibble_meter_start(nibble_meter *meter, const char *verb, int quiet);
void nibble_meter_show(void *meter, const nib_progress *state);
void nibble_meter_end(nibble_meter *meter);

/* ---- printing (nibble_print.c, nibble_print_gptq.c, nibble_json.c) ---- */

/* "1.23 GB" into one of a few static buffers. */
const char *nibble_bytes(double bytes);
/* "576x1536" likewise. */
const char *nibble_dims(const nib_tensor_report *tensor);

/* NaN where all elements are NaN or Inf, which are in no figure. */
double nibble_mse(const nib_quantize_report *error);
double nibble_max_error(const nib_quantize_report *error);
double nibble_snr_db(const nib_quantize_report *error);
double nibble_relative_mse(const nib_quantize_report *error);
/* 1 if a finite weight became Inf: blocks near the end of f32's range, whose scale a format without
 * tensor scale rounds up. */
int nibble_overflowed(const nib_quantize_report *error);

/* error / plain_error; 1 if both are 0. */
double nibble_error_ratio(const nib_gptq_report *report);
const char *nibble_outcome(nib_gptq_outcome outcome);

/* The error ratios of all layers that GPTQ rounded. */
typedef struct nibble_ratios {
    uint64_t layers;
    double   median, mean, worst;
} nibble_ratios;
nibble_ratios nibble_gptq_ratios(const nib_checkpoint_report *report);

/* Error by layer type and the worst tensors. what: "quantized" or "differing". */
void nibble_print_errors(FILE *out, const nib_checkpoint_report *report, const char *what);

/* What a command reads and makes, for nibble_check_json; NULL where there is none. */
typedef struct nibble_reads {
    const char *models[2], *hessians, *inputs, *dst;
} nibble_reads;

/* 0 if JSON may be written to path (NULL: none is wanted): it is no file that is read and does not
 * lie in what is made. Else 1 with a sentence. */
int nibble_check_json(const char *path, const nibble_reads *reads);

/* Writes a report as one JSON object to path ("-": stdout). A file appears whole or not at all; a
 * link is written through. Returns 0, or 1 with a sentence. */
int nibble_write_json(const char *path, const char *command, const nib_checkpoint_report *report,
                      const char *source, const char *target);

/* "nibble: sentence" on stderr; returns 1. */
int nibble_failed(const char *what);

#endif
