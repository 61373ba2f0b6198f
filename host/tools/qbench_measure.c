/* qbench_measure.c: the one timing engine.
 *
 * Speeds of a shared machine drift by tens of percent within seconds, so an operation and
 * what it is held against are timed in turn, a few samples each, and compared by medians.
 * Sampling goes on until the median of the first work is known well enough (qbench_summary.c). */
#include <math.h>
#include <stdlib.h>

#include "qbench.h"

enum { FEWEST_RUNS = 10, MOST_BATCH = 1 << 20, MOST_TURN = 64, MOST_WORKS = 8 };

static nib_status take_sample(nib_qb_series *s)
{
    if (s->runs == s->room) {
        s->room = s->room ? 2 * s->room : 256;
        double *more = realloc(s->sample, (size_t)s->room * sizeof *more);
        if (!more) return NIB_ERR_OUT_OF_MEMORY;
        s->sample = more;
    }
    double seconds;
    const nib_status status = nib_qb_series_sample(s, &seconds);
    if (status == NIB_OK) s->sample[s->runs++] = seconds;
    return status;
}

/* Warms up, and finds how many calls make a sample. */
static nib_status calibrate(nib_qb_series *s, const nib_qb_policy *policy)
{
    const double least = nib_qb_timer_resolution_s(s->timer), start = nib_qb_now_s();
    s->batch = 1;
    nib_status status = nib_qb_series_call(s); /* loads what a first call loads */
    if (status == NIB_OK) status = nib_qb_series_prepare(s);
    while (status == NIB_OK) {
        double seconds;
        status = nib_qb_series_sample(s, &seconds);
        if (status != NIB_OK) break;
        const double sample = seconds * (double)s->batch;
        const int64_t before = s->batch;
        if (sample < least && s->batch < MOST_BATCH) {
            /* At most eightfold: a first sample says little. */
            const double factor = fmin(8, fmax(2, 1.2 * least / fmax(sample, 1e-9)));
            s->batch = (int64_t)((double)s->batch * factor);
            status = nib_qb_series_prepare(s); /* may hold it down */
        }
        if (*policy->stop || nib_qb_now_s() - start >= 5 * policy->min_time_s + 1) break;
        if (s->batch == before && nib_qb_now_s() - start >= 0.1 * policy->min_time_s) break;
    }
    return status;
}

static nib_status summarize(const nib_qb_series *s, const nib_qb_policy *policy, nib_qb_timing *t)
{
    *t = (nib_qb_timing){ .batch = s->batch, .graph = s->graphs > 0, .covered = s->covered };
    return nib_qb_summarize(s->sample, s->runs, policy, t);
}

/* Samples of each work in one turn: about as long as the slowest one's single sample. */
static void plan_turns(nib_qb_series *s, int count)
{
    double slowest = 0;
    for (int i = 0; i < count; i++)
        slowest = fmax(slowest, s[i].sample[0] * (double)s[i].batch);
    for (int i = 0; i < count; i++) {
        const double most = s[i].timer->flush.run ? 1 : MOST_TURN; /* flushing is what takes long */
        const double fit = slowest / fmax(s[i].sample[0] * (double)s[i].batch, 1e-9);
        s[i].turn = (int64_t)fmax(1, fmin(fit, most));
        s[i].runs = 0;
    }
}

static nib_status take_turn(nib_qb_series *s, int hot, const nib_qb_policy *policy)
{
    if (hot) { /* the other works have used the caches since */
        const nib_status status = nib_qb_series_call(s);
        if (status != NIB_OK) return status;
    }
    for (int64_t i = 0; i < s->turn && !*policy->stop && s->runs < policy->max_runs; i++) {
        const nib_status status = take_sample(s);
        if (status != NIB_OK) return status;
    }
    return NIB_OK;
}

static nib_status sample_all(nib_qb_series *s, int count, int hot, const nib_qb_policy *policy,
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
            const nib_status status = take_turn(&s[i], hot, policy);
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

nib_status nib_qb_measure(const nib_qb_work *works, int count, nib_qb_timer *timer, int hot,
                          const nib_qb_policy *policy, nib_qb_timing *timings)
{
    nib_qb_series s[MOST_WORKS] = { { 0 } };
    for (int i = 0; i < count; i++) s[i] = (nib_qb_series){ .work = &works[i], .timer = timer };
    s[0].slowdown = policy->slowdown;
    nib_status status = sample_all(s, count, hot, policy, timings);
    for (int i = 0; i < count; i++) {
        const nib_status done = summarize(&s[i], policy, &timings[i]);
        if (status == NIB_OK) status = done;
        nib_qb_series_close(&s[i]);
    }
    return status;
}
