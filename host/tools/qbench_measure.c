/* qbench_measure.c: the one timing engine.
 *
 * Speeds of a shared machine drift by tens of percent within seconds, so an operation and
 * what it is held against are timed in turn, a few samples each, and compared by medians.
 * Sampling goes on until the median of the first work is known well enough:
 *
 *   noise = the larger of the median's standard error, from the order statistics around it,
 *           and half the distance between the medians of the first and second half (drift)
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qbench.h"

enum { FEWEST_RUNS = 10, MOST_BATCH = 1 << 20, MOST_TURN = 64 };

/* One sample is at least this long: the clock and its call take about 30 ns. */
static const double SAMPLE_S = 50e-6;

typedef struct series {
    const nib_qb_work *work;
    double *sample; /* seconds of one call */
    int64_t runs, room, batch, turn, calls;
} series;

static nib_status time_batch(series *s, double *seconds)
{
    const double start = nib_qb_now_s();
    for (int64_t i = 0; i < s->batch; i++) {
        const nib_status status = s->work->run(s->work->state, s->calls++);
        if (status != NIB_OK) return status;
    }
    *seconds = (nib_qb_now_s() - start) / (double)s->batch;
    return NIB_OK;
}

static nib_status take_sample(series *s)
{
    if (s->runs == s->room) {
        s->room = s->room ? 2 * s->room : 256;
        double *more = realloc(s->sample, (size_t)s->room * sizeof *more);
        if (!more) return NIB_ERR_OUT_OF_MEMORY;
        s->sample = more;
    }
    double seconds;
    const nib_status status = time_batch(s, &seconds);
    if (status == NIB_OK) s->sample[s->runs++] = seconds;
    return status;
}

/* Warms up, and finds how many calls make a sample. */
static nib_status calibrate(series *s, const nib_qb_policy *policy)
{
    double spent = 0, seconds = 0;
    for (s->batch = 1;;) {
        const nib_status status = time_batch(s, &seconds);
        if (status != NIB_OK) return status;
        spent += seconds * (double)s->batch;
        if (*policy->stop || spent >= 0.1 * policy->min_time_s) break;
        if (seconds * (double)s->batch < SAMPLE_S && s->batch < MOST_BATCH) s->batch *= 2;
    }
    return NIB_OK;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double sorted_median(const double *x, int64_t n)
{
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

static double median_of(double *scratch, const double *x, int64_t n)
{
    memcpy(scratch, x, (size_t)n * sizeof *x);
    qsort(scratch, (size_t)n, sizeof *scratch, by_value);
    return sorted_median(scratch, n);
}

static nib_status summarize(const series *s, const nib_qb_policy *policy, nib_qb_timing *t)
{
    const int64_t n = s->runs;
    *t = (nib_qb_timing){ .runs = n, .batch = s->batch, .noise = 1, .noisy = 1 };
    if (n == 0) return NIB_OK;
    double *sorted = malloc((size_t)n * sizeof *sorted);
    if (!sorted) return NIB_ERR_OUT_OF_MEMORY;

    const int64_t half = n / 2;
    double drift = 1;
    if (half > 0) {
        const double first = median_of(sorted, s->sample, half);
        const double second = median_of(sorted, s->sample + n - half, half);
        drift = 0.5 * fabs(first - second);
    }
    const double median = median_of(sorted, s->sample, n);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += sorted[i];
    const double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (sorted[i] - mean) * (sorted[i] - mean);

    /* Ranks n/2 -+ sqrt(n)/2 enclose the median with 68 %: two standard errors apart. */
    const double reach = 0.5 * sqrt((double)n);
    const int64_t low = (int64_t)floor(0.5 * (double)(n - 1) - reach);
    const int64_t high = (int64_t)ceil(0.5 * (double)(n - 1) + reach);
    const double spread = sorted[high < n ? high : n - 1] - sorted[low > 0 ? low : 0];
    const double error = 0.5 * spread > drift ? 0.5 * spread : drift;

    t->min_us = 1e6 * sorted[0];
    t->median_us = 1e6 * median;
    t->p99_us = 1e6 * sorted[(int64_t)ceil(0.99 * (double)n) - 1];
    t->cv = n > 1 ? sqrt(squares / (double)(n - 1)) / mean : 0;
    t->noise = median > 0 ? error / median : 1;
    t->noisy = n < FEWEST_RUNS || t->noise > policy->noise;
    free(sorted);
    return NIB_OK;
}

/* Samples of each work in one turn: about as long as the slowest one's single sample. */
static void plan_turns(series *s, int count)
{
    double slowest = 0;
    for (int i = 0; i < count; i++)
        slowest = fmax(slowest, s[i].sample[0] * (double)s[i].batch);
    for (int i = 0; i < count; i++) {
        const double fit = slowest / fmax(s[i].sample[0] * (double)s[i].batch, 1e-9);
        s[i].turn = fit < 1 ? 1 : fit > MOST_TURN ? MOST_TURN : (int64_t)fit;
        s[i].runs = 0;
    }
}

static nib_status take_turn(series *s, const nib_qb_policy *policy)
{
    if (policy->hot) { /* the other works have used the caches since */
        const nib_status status = s->work->run(s->work->state, s->calls++);
        if (status != NIB_OK) return status;
    }
    for (int64_t i = 0; i < s->turn && !*policy->stop && s->runs < policy->max_runs; i++) {
        const nib_status status = take_sample(s);
        if (status != NIB_OK) return status;
    }
    return NIB_OK;
}

static nib_status sample_all(series *s, int count, const nib_qb_policy *policy,
                             nib_qb_timing *timings)
{
    for (int i = 0; i < count; i++) {
        nib_status status = calibrate(&s[i], policy);
        if (status == NIB_OK) status = take_sample(&s[i]);
        if (status != NIB_OK) return status;
    }
    plan_turns(s, count);
    const double start = nib_qb_now_s();
    int64_t next_look = FEWEST_RUNS;
    while (!*policy->stop) {
        /* The others before and after the first, over and over. */
        for (int i = count - 1; i >= 0; i--) {
            const nib_status status = take_turn(&s[i], policy);
            if (status != NIB_OK) return status;
        }
        const double spent = nib_qb_now_s() - start;
        if (spent >= policy->max_time_s || s[0].runs >= policy->max_runs) break;
        if (spent < policy->min_time_s || s[0].runs < next_look) continue;
        const nib_status status = summarize(&s[0], policy, &timings[0]);
        if (status != NIB_OK || !timings[0].noisy) return status;
        next_look = s[0].runs + s[0].runs / 8; /* sorting must not become the work */
    }
    return NIB_OK;
}

nib_status nib_qb_measure(const nib_qb_work *works, int count, const nib_qb_policy *policy,
                          nib_qb_timing *timings)
{
    series s[4] = { { 0 } };
    for (int i = 0; i < count; i++) s[i].work = &works[i];
    nib_status status = sample_all(s, count, policy, timings);
    for (int i = 0; i < count; i++) {
        const nib_status done = summarize(&s[i], policy, &timings[i]);
        if (status == NIB_OK) status = done;
        free(s[i].sample);
    }
    return status;
}
