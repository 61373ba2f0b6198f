/* transform_rule_test.c: the exponential and silu of kernels/common/transform_rule.h against
 * libm's in double, and the order of a row's sum. NIB_TEST_FULL=1: every f32. */
#include <stdlib.h>

#include "kernels/common/transform_rule.h"
#include "tests/shim.h"

typedef struct errors {
    double ulp, below; /* of normal results; of others, in units of 2^-149 */
} errors;

static void add_error(errors *e, double right, float got)
{
    const double d = fabs((double)got - right);
    int exponent;
    if (fabs(right) >= 0x1p-126) {
        (void)frexp(right, &exponent);
        e->ulp = fmax(e->ulp, d / ldexp(1, exponent - 24));
    } else {
        e->below = fmax(e->below, d * 0x1p149);
    }
}

NIB_TEST(TransformRule, ExponentialAndSiluAreWithinTheirBounds)
{
    const int64_t step = getenv("NIB_TEST_FULL") ? 1 : 509;
    double exp_ulp = 0, exp_below = 0, silu_ulp = 0, silu_below = 0;
#pragma omp parallel for reduction(max : exp_ulp, exp_below, silu_ulp, silu_below)
    for (int64_t i = 0; i < 0x7f800000 / step; i++) {
        errors e = { 0, 0 }, s = { 0, 0 };
        for (int negative = 0; negative < 2; negative++) {
            const float x = nib_float_of((uint32_t)(i * step) | (uint32_t)negative << 31);
            if (negative)
                add_error(&e, exp((double)x), nib_exp_value(nib_exp_of_negative(x)));
            add_error(&s, (double)x / (1 + exp(-(double)x)), nib_silu(x));
        }
        exp_ulp = fmax(exp_ulp, e.ulp), exp_below = fmax(exp_below, e.below);
        silu_ulp = fmax(silu_ulp, s.ulp), silu_below = fmax(silu_below, s.below);
    }
    EXPECT(exp_ulp < 1.02 && exp_below < 1, "exp: %g ulp, %g", exp_ulp, exp_below);
    EXPECT(silu_ulp < 3.4 && silu_below < 2, "silu: %g ulp, %g", silu_ulp, silu_below);
    EXPECT(nib_is_nan(nib_silu(NAN)) && nib_silu(INFINITY) == INFINITY && nib_silu(0.0f) == 0.0f,
           "%g", (double)nib_silu(INFINITY));
}

/* Each of 2048 units in a place of its own: a sum that another order would round otherwise. */
NIB_TEST(TransformRule, SumsOfSquaresAreInTheirOrder)
{
    float x[NIB_UNIT], lane[NIB_SUM_LANES];
    for (int i = 0; i < NIB_UNIT; i++) x[i] = i == 0 ? 4096.0f : i == 8 ? 1.0f : 0.0f;
    EXPECT(nib_sum_sq16(x) == 0x1p24f, "1 is lost beside 2^24");
    for (int i = 0; i < NIB_UNIT; i++) x[i] = i == 0 ? 4096.0f : i == 4 || i == 12 ? 1.0f : 0.0f;
    EXPECT(nib_sum_sq16(x) == 0x1p24f + 2.0f, "1 and 1 meet before 2^24");
    for (int i = 0; i < NIB_SUM_LANES; i++) lane[i] = 0.0f;
    lane[0] = 0x1p24f, lane[1] = lane[17] = 1.0f;
    EXPECT(nib_sum_lanes(lane) == 0x1p24f + 2.0f, "lanes 1 and 17 meet first");
    for (int i = 0; i < NIB_SUM_LANES; i++) lane[i] = 0.0f;
    lane[0] = 0x1p24f, lane[32] = lane[544] = 1.0f;
    EXPECT(nib_sum_lanes(lane) == 0x1p24f + 2.0f, "runs 1 and 17 meet first");
    for (int i = 0; i < NIB_SUM_LANES; i++) lane[i] = 0.0f;
    lane[0] = 0x1p24f, lane[16] = lane[32] = 1.0f;
    EXPECT(nib_sum_lanes(lane) == 0x1p24f, "lane 16 meets lane 0, and run 1 run 0, last");
}

NIB_TEST(TransformRule, ButterfliesAreSylvesters)
{
    for (int k = 16; k <= 128; k *= 2) {
        const double scale = (double)nib_hadamard_scale(k) * sqrt((double)k) - 1;
        EXPECT(fabs(scale) < 0x1p-24, "1 / sqrt(%d): %g", k, scale);
        for (int one = 0; one < k; one++) {
            float x[128] = { 0 };
            x[one] = 1.0f;
            for (int d = 1; d < k; d *= 2) nib_butterflies(x, k, d);
            for (int i = 0; i < k; i++)
                EXPECT(x[i] == (__builtin_popcount((unsigned)(i & one)) % 2 ? -1.0f : 1.0f),
                       "H_%d[%d][%d] is %g", k, i, one, (double)x[i]);
        }
    }
}
