/* difference_cpu.c: error of b against a, in eight f64 sums as everywhere, so that one order of
 * additions holds whatever the compiler makes of the loop. */
#include "difference_cpu.h"

#include "kernels/common/hd.h"

static double sum8(const double *p)
{
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

void nib_difference_cpu(const float *a, const float *b, int64_t n, nib_quantize_report *report)
{
    double error[8] = { 0 }, square[8] = { 0 }, most = report->max_error;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t x = nib_bits_of(a[i]), y = nib_bits_of(b[i]);
        if (nib_magnitude_bits(a[i]) >= NIB_F32_INF_BITS
            || nib_magnitude_bits(b[i]) >= NIB_F32_INF_BITS) {
            report->nonfinite += x != y;
            continue;
        }
        const double d = (double)a[i] - (double)b[i], magnitude = d < 0 ? -d : d;
        error[i % 8] += d * d;
        square[i % 8] += (double)a[i] * (double)a[i];
        most = magnitude > most ? magnitude : most;
    }
    report->elements += (uint64_t)n;
    report->max_error = most;
    report->sum_sq_error += sum8(error);
    report->sum_sq += sum8(square);
}
