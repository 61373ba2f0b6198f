/* qbench_summary.c: what a row says of its samples.
 *
 *   noise = the larger of the median's standard error, from the order statistics around it,
 *           and half the distance between the medians of the first and second half (drift) */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qbench.h"

enum { FEWEST_RUNS = 10 };

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

static double half_drift(double *scratch, const double *x, int64_t n)
{
    const int64_t half = n / 2;
    if (half == 0) return 1;
    const double first = median_of(scratch, x, half);
    return 0.5 * fabs(first - median_of(scratch, x + n - half, half));
}

static double deviation(const double *x, int64_t n, double *mean)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    *mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - *mean) * (x[i] - *mean);
    return n > 1 ? sqrt(squares / (double)(n - 1)) : 0;
}

nib_status nib_qb_summarize(const double *samples, int64_t n, const nib_qb_policy *policy,
                            nib_qb_timing *t)
{
    t->runs = n;
    t->noise = 1;
    t->noisy = 1;
    if (n == 0) return NIB_OK;
    double *sorted = malloc((size_t)n * sizeof *sorted), mean;
    if (!sorted) return NIB_ERR_OUT_OF_MEMORY;
    const double drift = half_drift(sorted, samples, n);
    const double median = median_of(sorted, samples, n);
    const double spread = deviation(sorted, n, &mean);

    /* Ranks n/2 -+ sqrt(n)/2 enclose the median with 68 %: two standard errors apart. */
    const double reach = 0.5 * sqrt((double)n);
    const int64_t low = (int64_t)floor(0.5 * (double)(n - 1) - reach);
    const int64_t high = (int64_t)ceil(0.5 * (double)(n - 1) + reach);
    const double around = sorted[high < n ? high : n - 1] - sorted[low > 0 ? low : 0];
    const double error = fmax(0.5 * around, drift);

    t->min_us = 1e6 * sorted[0];
    t->median_us = 1e6 * median;
    t->p99_us = 1e6 * sorted[(int64_t)ceil(0.99 * (double)n) - 1];
    t->cv = mean > 0 ? spread / mean : 0;
    t->noise = median > 0 ? error / median : 1;
    t->noisy = n < FEWEST_RUNS || t->noise > policy->noise;
    free(sorted);
    return NIB_OK;
}
