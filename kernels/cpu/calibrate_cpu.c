/* calibrate_cpu.c: from a histogram to an amax. Lengths are in bins, so that the numbers do not
 * depend on top; the logarithm is our own, so that they do not depend on the machine's. */
#include "calibrate_cpu.h"
#include "kernels/common/element.h"
#include "kernels/common/observe.h"

#include <string.h>

/* ---- arithmetic ---- */

/* ln x of a normal x > 0: x = m * 2^e with m in [1/sqrt 2, sqrt 2), and with s = (m - 1) / (m + 1)
 * ln m = 2 (s + s^3/3 + s^5/5 + ...); s^2 < 0.0295, so that the term of s^25 is below 2^-60. */
double nib_natural_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint64_t half = bits + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu); /* from 1/sqrt 2 */
    const int e = (int)(half >> 52) - 1023;
    bits -= (uint64_t)(int64_t)e << 52;
    static const double over[] = { 1.0 / 25, 1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15,
                                   1.0 / 13, 1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3 };
    double m, series = 0.0;
    memcpy(&m, &bits, sizeof m);
    const double s = (m - 1.0) / (m + 1.0), square = s * s;
    for (int k = 0; k < 12; k++) series = (series + over[k]) * square;
    const double high = 0x1.62e42fefap-1, low = 0x1.cf79abc9e3b3ap-40; /* ln 2, in two parts */
    return e * high + (2.0 * s + (2.0 * s * series + e * low));
}

/* Nearest integer of 0 <= x < 2^51, ties to even. */
static double nearest_even(double x)
{
    return (x + 0x1p52) - 0x1p52; /* not for compilers that loosen arithmetic: see hd.h */
}

static float length(double in_bins, int32_t bins, float top)
{
    return (float)((double)top / bins * in_bins);
}

/* Only bin 0 has counts. */
static int only_first(const uint64_t *counts, int32_t bins)
{
    for (int32_t b = 1; b < bins; b++) {
        if (counts[b]) return 0;
    }
    return 1;
}

/* ---- percentile ---- */

float nib_percentile_amax(const uint64_t *counts, int32_t bins, float top, double percentile)
{
    uint64_t total = 0, below = 0;
    int32_t b = 0;
    for (int32_t i = 0; i < bins; i++) total += counts[i];
    for (; b < bins - 1; b++) {
        below += counts[b];
        if ((double)below / (double)total >= percentile / 100.0) break;
    }
    return length(b + 1, bins, top);
}

/* ---- Kullback-Leibler ---- */

typedef struct levels {
    int                integers; /* 2^(bits - 1), or 0: elements */
    nib_element_traits element;
} levels;

static levels levels_of(const nib_calibrate_options *o)
{
    levels l = { 0, nib_element_traits_of((int)o->element) };
    if (o->integer_bits) l.integers = 1 << (o->integer_bits - 1);
    return l;
}

/* The level of bin b of i. Rises with b. */
static int level_of(const levels *l, int32_t b, int32_t i)
{
    if (l->integers) return (int)((int64_t)b * l->integers / i);
    const double at = (b + 0.5) / i * (double)l->element.max;
    return (int)nib_encode_nearest(l->element, (float)at);
}

typedef struct entropy {
    const levels *levels;
    int32_t bins;
    double  count[NIB_HISTOGRAM_BINS], itself[NIB_HISTOGRAM_BINS]; /* count * ln count */
    double  total;
} entropy;

static double times_log(double x) { return x > 0.0 ? x * nib_natural_log(x) : 0.0; }

/* Bins of one level, from b on; b moves behind them. Adds sum of p ln(p / q), where p is the count,
 * of the last bin with the tail. */
static double group_divergence(const entropy *e, int32_t i, int32_t *b, double tail)
{
    const int level = level_of(e->levels, *b, i);
    double sum = 0.0, itself = 0.0, one = 0.0;
    int n = 0, equal = 1;
    for (; *b < i && level_of(e->levels, *b, i) == level; ++*b) {
        const double count = e->count[*b];
        if (count == 0.0) continue;
        equal &= n == 0 || count == one;
        one = count;
        sum += count;
        itself += e->itself[*b];
        n++;
    }
    if (n == 0) return 0.0;
    const double log_mean = equal && (*b < i || tail == 0.0) ? 0.0 : nib_natural_log(sum / n);
    const double divergence = equal ? 0.0 : itself - sum * log_mean; /* equal: exactly 0 */
    if (*b < i || tail == 0.0) return divergence;
    const double with_tail = e->count[i - 1] + tail; /* b ln b - b' ln b' - (b - b') ln q */
    return divergence + ((times_log(with_tail) - e->itself[i - 1]) - tail * log_mean);
}

/* Of the first i bins; tail: counts behind them. */
static double divergence_of(const entropy *e, int32_t i, double tail)
{
    const double inside = e->total - tail;
    if (inside == 0.0 || (tail > 0.0 && e->count[i - 1] == 0.0)) return __builtin_inf();
    double sum = 0.0;
    for (int32_t b = 0; b < i;) sum += group_divergence(e, i, &b, tail);
    return tail == 0.0 ? sum / e->total : sum / e->total + nib_natural_log(inside / e->total);
}

float nib_kl_amax(const uint64_t *counts, int32_t bins, float top,
                  const nib_calibrate_options *options)
{
    const levels l = levels_of(options);
    if (only_first(counts, bins)) return length(1, bins, top);
    entropy e = { .levels = &l, .bins = bins };
    for (int32_t b = 0; b < bins; b++) {
        e.count[b] = (double)counts[b ? b : 1];
        e.itself[b] = times_log(e.count[b]);
        e.total += e.count[b];
    }
    const int32_t start = options->start < bins ? options->start : bins;
    int32_t best = bins;
    double least = __builtin_inf(), tail = 0.0;
    for (int32_t i = bins; i >= start; i--) { /* downwards: of equal ones the first stays */
        const double divergence = divergence_of(&e, i, tail);
        if (divergence < least) least = divergence, best = i;
        tail += e.count[i - 1];
    }
    return length(best, bins, top);
}

/* ---- least squares ---- */

/* Sum of count * (c - Q(c))^2 over n bins' centres c, whose counts are weight: a is the amax. */
static double squares_of(const levels *l, const double *c, const double *weight, int32_t n,
                         double a)
{
    const double m = l->integers ? l->integers - 1 : (double)l->element.max;
    const double step = a / m, last = m * step;
    double sum = 0.0;
    int32_t i = 0;
    for (; i < n && c[i] < a; i++) {
        const double at = c[i] / step;
        const double q = l->integers ? nearest_even(at)
            : (double)nib_decode_magnitude(l->element, nib_encode_nearest(l->element, (float)at));
        const double d = c[i] - q * step;
        sum += weight[i] * (d * d);
    }
    for (; i < n; i++) {
        const double d = c[i] - last;
        sum += weight[i] * (d * d);
    }
    return sum;
}

float nib_mse_amax(const uint64_t *counts, int32_t bins, float top,
                   const nib_calibrate_options *options)
{
    const levels l = levels_of(options);
    double c[NIB_HISTOGRAM_BINS], weight[NIB_HISTOGRAM_BINS];
    int32_t n = 0;
    if (only_first(counts, bins)) return length(1, bins, top);
    for (int32_t b = 0; b < bins; b++) {
        if (counts[b]) c[n] = b + 0.5, weight[n++] = (double)counts[b];
    }
    const int32_t start = options->start < bins - 1 ? options->start : bins - 1;
    int32_t best = start;
    double least = __builtin_inf();
    for (int32_t i = start; i < bins; i++) {
        const double sum = squares_of(&l, c, weight, n, i + 0.5);
        if (sum < least) least = sum, best = i;
    }
    return length(best + 0.5, bins, top);
}
