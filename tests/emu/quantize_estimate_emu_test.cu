/* quantize_estimate_emu_test.cu: what the search of E4M3 scales estimates, by sums in double. The
 * device's functions run on the host here, which only the emulator's compiler takes. */
#include "kernels/cuda/quantize_estimate.cuh"
#include "tests/emu/emu_test.h"

#include <math.h>
#if NIB_ON_EMULATOR
namespace {

nib_tensor_math math_of(float tensor_scale)
{
    nib_block_rules r = {};
    r.element = NIB_EL_E2M1, r.e4m3_scale = r.has_tensor_scale = 1, r.block = 16;
    r.block_scale = NIB_B_FOLDED, r.factor = NIB_E_RECIPROCAL, r.scale_max = 448.0f;
    return nib_tensor_math_of(&r, nib_tensor_given(tensor_scale));
}

Candidates table_of(const nib_tensor_math &m)
{
    static Candidates table;
    for (int i = 0; i < NIB_CANDIDATE_BYTES; i++) set_candidate<WAY_TE>(m, i - 2, table);
    return table;
}

/* The value nearest to y: of the two that are as near, either. */
double nearest(double y)
{
    double best = 0.0;
    for (const double v : { 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0 }) {
        if (fabs(y - v) < fabs(y - best)) best = v;
    }
    return best;
}

/* Error less the sum of squares, of 16 elements by a step, with the codes of a scale. */
double error_less_squares(const float *x, double step)
{
    double sum = 0.0;
    for (int i = 0; i < 16; i++) {
        const double a = fabs((double)x[i]), v = nearest(a / step) * step;
        sum += v * v - 2.0 * a * v;
    }
    return sum;
}

template <int dtype> Unit<dtype> unit_of(const float *x)
{
    Unit<dtype> unit = {};
    for (int i = 0; i < 16; i++) {
        if (dtype == NIB_DT_F32) unit.word[i] = nib_bits_of(x[i]);
        else unit.word[i / 2] |= (nib_bits_of(x[i]) >> 16) << (16 * (i % 2));
    }
    return unit;
}

/* Whether all of a block's estimates are what they claim. rounding: as part of the squares' sum. */
template <int dtype>
bool estimates_hold(const nib_tensor_math &m, const Candidates &table, const float *x,
                    uint32_t base, double rounding)
{
    float e[8], amax = 0.0f;
    double squares = 0.0;
    for (int i = 0; i < 16; i++) {
        amax = fmaxf(amax, fabsf(x[i]));
        squares += (double)x[i] * (double)x[i];
    }
    estimate(unit_of<dtype>(x), table, m.scales.encode, base, amax, false, e);
    const double unit = ldexp(dtype == NIB_DT_BF16 ? 1.0 : 1.0 - 0x1p-16, 15 - ilogbf(amax));
    for (unsigned i = 0; i < 8; i++) {
        const int byte = (int)base + mse_distance(i);
        if (byte > (int)NIB_E4M3_LAST) {
            if (e[i] < 0.0f) return false;
            continue;
        }
        const double step = (double)nib_block_step(1, (uint32_t)byte, m.scales.decode);
        const double want = error_less_squares(x, step), got = 4.0 * (double)e[i] / (unit * unit);
        if (fabs(got - want) > rounding * squares) return false;
    }
    return true;
}

} // namespace

/* Every number of 8 bits below amax, beside which lie all ties of all scales, with each base. */
NIB_TEST(QuantizeEstimateEmu, EveryGapBetweenTies)
{
    const nib_tensor_math m = math_of(1.0f);
    const Candidates      table = table_of(m);
    int wrong = 0;
    for (uint32_t base = 10; base <= NIB_E4M3_LAST; base++) {
        const float scale = nib_e4m3_to_f32(base);
        for (const float most : { 5.5078125f, 6.0f, 6.4921875f }) {
            uint32_t       bits = nib_bits_of(scale * 0x1p-5f) & 0xffff0000u;
            const uint32_t last = nib_bits_of(scale * most) & 0xffff0000u;
            while (bits <= last) {
                float x[16] = { nib_float_of(last) };
                for (int i = 1; i < 16; i++, bits += 0x10000u) {
                    x[i] = nib_float_of(bits <= last ? bits : 0) * (i % 2 ? 1.0f : -1.0f);
                }
                wrong += !estimates_hold<NIB_DT_BF16>(m, table, x, base, 4 * 0x1p-24);
            }
        }
    }
    EXPECT(wrong == 0, "%d blocks", wrong);
}

/* The place in likely_candidates of a block's best scale by f32 errors, and whether it is not among
 * the likely ones. several: more by one if there are others. */
template <int dtype>
static unsigned best_of(const nib_tensor_math &m, const float *x, uint32_t base, float amax,
                        bool &is_lost, int &several)
{
    const Candidates table = table_of(m);
    float    e[8], least = NIB_F32_MAX;
    unsigned best = 0;
    estimate(unit_of<dtype>(x), table, m.scales.encode, base, amax, false, e);
    const uint32_t likely = (uint32_t)likely_candidates<dtype>(e, false);
    for (unsigned i = 0; i < 8; i++) {
        const int byte = (int)base + mse_distance(i);
        if (byte > (int)NIB_E4M3_LAST) continue;
        const float error = nib_block_error(&m, x, 16, (uint32_t)byte, 0);
        if (error < least) least = error, best = 2 + (unsigned)mse_distance(i);
    }
    is_lost = !(likely >> best & 1);
    several += (likely & (likely - 1)) != 0;
    return best;
}

/* Any blocks and tensor scales; and the candidates that are left have the least f32 error. */
template <int dtype> static void expect_best_is_likely(double rounding, int most_several)
{
    Random random(18);
    int wrong = 0, lost = 0, several = 0, ties = 0;
    for (int block = 0; block < 10000; block++) {
        const float t = nib_float_of(0x34000000u + random.next() % 0x0a000000u);
        const nib_tensor_math m = math_of(t);
        const Candidates      table = table_of(m);
        const uint32_t        base = 10 + random.next() % (NIB_E4M3_LAST - 9);
        const float           scale = nib_block_step(1, base, m.scales.decode);
        float x[16];
        for (float &element : x) {
            const int y = (int)(random.next() % 131072) - 65536; /* at most 6.4 */
            element = (block % 3 ? (float)y * fabsf((float)y) * 0x1p-16f : (float)y) * scale
                    * (6.4f / 65536.0f);
        }
        x[block % 16] = scale * (5.51f + 0.97f * (float)(random.next() % 65536) / 65536.0f);
        float amax = 0.0f;
        for (float &element : x) {
            if (dtype == NIB_DT_BF16) element = nib_bf16_to_f32(nib_bf16_from_f32(element));
            amax = fmaxf(amax, fabsf(element));
        }
        if (!is_estimable(base, amax, table.of_byte[2 + base].z)) continue;
        wrong += !estimates_hold<dtype>(m, table, x, base, rounding);
        bool is_lost;
        const unsigned best = best_of<dtype>(m, x, base, amax, is_lost, several);
        lost += is_lost;
        /* Between tensor scales by which different candidates are best there are two neighbours,
         * beside which the errors lie as near to each other as they can. */
        uint32_t low = nib_bits_of(m.scales.decode), high = nib_bits_of(m.scales.decode * 1.02f);
        bool     other = best_of<dtype>(math_of(nib_float_of(high)), x, base, amax, is_lost, ties)
                      != best;
        while (block % 16 == 0 && other && high - low > 1) {
            const uint32_t middle = low + (high - low) / 2;
            const unsigned found = best_of<dtype>(math_of(nib_float_of(middle)), x, base, amax,
                                                  is_lost, ties);
            if (found == best) low = middle;
            else high = middle;
            lost += is_lost;
        }
    }
    EXPECT(wrong == 0 && lost == 0 && several <= most_several, "%d estimates, %d lost, %d several",
           wrong, lost, several);
}

NIB_TEST(QuantizeEstimateEmu, LeastErrorIsAmongTheLikely)
{
    expect_best_is_likely<NIB_DT_BF16>(16 * 0x1p-24, 50);
    expect_best_is_likely<NIB_DT_F32>(0x1p-12, 300);
}
#endif
