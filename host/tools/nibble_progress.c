/* nibble_progress.c: device, signals, and the bar. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "nibble_tool.h"

volatile int nibble_stopped;

static void on_signal(int number)
{
    /* A second signal ends the process at once: what stands aside can be resumed all the same. */
    if (nibble_stopped) _exit(128 + number);
    nibble_stopped = number;
}

void nibble_catch_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    /* Writes past a file size limit then fail with a sentence instead of a signal. */
    signal(SIGXFSZ, SIG_IGN);
}

void nibble_open_cpu(int threads, nib_device **device, nib_exec *exec)
{
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    if (nib_device_open(&options, device) != NIB_OK) exit(nibble_failed(NULL));
    *exec = (nib_exec){ .size = sizeof *exec, .device = *device, .threads = threads };
}

int nibble_failed(const char *what)
{
    if (what) fprintf(stderr, "nibble: %s: %s\n", what, nib_last_error());
    else fprintf(stderr, "nibble: %s\n", nib_last_error());
    return 1;
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void nibble_meter_start(nibble_meter *meter, const char *verb, int quiet)
{
    *meter = (nibble_meter){ verb, isatty(STDERR_FILENO), quiet, seconds_now(), 0 };
    meter->shown = meter->started;
}

static void show_bar(const nibble_meter *m, const nib_progress *s, double share, double rate,
                     double left)
{
    char bar[31];
    const int full = (int)(share * 30);
    for (int i = 0; i < 30; i++) bar[i] = i < full ? '#' : '.';
    bar[30] = '\0';
    fprintf(stderr, "\r\033[K%s [%s] %3d%%  %s/s  %d:%02d left  %.40s", m->verb, bar,
            (int)(share * 100), nibble_bytes(rate), (int)left / 60, (int)left % 60, s->tensor);
    fflush(stderr);
}

void nibble_meter_show(void *meter, const nib_progress *s)
{
    nibble_meter *m = meter;
    const double t = seconds_now(), spent = t - m->started;
    if (m->quiet || t - m->shown < (m->terminal ? 0.1 : 10.0)) return;
    m->shown = t;
    const double total = (double)s->source_bytes_total, done = (double)s->source_bytes_done;
    const double share = total > 0 ? done / total : 1, rate = spent > 0 ? done / spent : 0;
    const double left = rate > 0 ? (total - done) / rate : 0;
    if (m->terminal) {
        show_bar(m, s, share, rate, left);
        return;
    }
    fprintf(stderr, "%s: %d%%, %llu of %llu tensors, %s/s, %d:%02d left\n", m->verb,
            (int)(share * 100), (unsigned long long)s->tensors_done,
            (unsigned long long)s->tensors_total, nibble_bytes(rate), (int)left / 60,
            (int)left % 60);
}

void nibble_meter_end(nibble_meter *meter)
{
    if (meter->terminal && !meter->quiet) fputs("\r\033[K", stderr);
}
