/* element_test.c: kernels/common/element.h against the definition in f64, and ml_dtypes. */
#include <math.h>
#include <stdint.h>

#include "kernels/common/element.h"
#include "tests/shim.h"

/* OCP MX v1.0 section 5.3, table by table; written apart from nib_element_traits_of. */
static const struct {
    const char *name;
    int         exponent_bits, mantissa_bits, bias, codes; /* codes: finite, without sign */
} definitions[5] = {
    { "e2m1", 2, 1, 1, 8 },    { "e2m3", 2, 3, 1, 32 },    { "e3m2", 3, 2, 3, 32 },
    { "e4m3", 4, 3, 7, 127 }, { "e5m2", 5, 2, 15, 124 },
};

static double value_of(int el, int code)
{
    const int m = definitions[el].mantissa_bits, e = code >> m, f = code & ((1 << m) - 1);
    return e ? ldexp(1.0 + ldexp(f, -m), e - definitions[el].bias)
             : ldexp(f, 1 - definitions[el].bias - m);
}

enum { EVEN, DOWN };

/* Nearest code by linear search over the exact f64 values. */
static int nearest(int el, double a, int ties)
{
    const int last = definitions[el].codes - 1;
    if (a >= value_of(el, last)) return last;
    int below = 0;
    while (value_of(el, below + 1) <= a) below++;
    const double down = a - value_of(el, below), up = value_of(el, below + 1) - a;
    if (down != up) return below + (up < down);
    return ties == DOWN || below % 2 == 0 ? below : below + 1;
}

static void check_both(int el, float a)
{
    const nib_element_traits t = nib_element_traits_of(el);
    const int even = (int)nib_encode_nearest(t, a), down = (int)nib_encode_ties_down(t, a);
    EXPECT(even == nearest(el, a, EVEN), "%s: %a gives %#x, want %#x", definitions[el].name,
           (double)a, even, nearest(el, a, EVEN));
    EXPECT(down == nearest(el, a, DOWN), "%s, ties down: %a gives %#x, want %#x",
           definitions[el].name, (double)a, down, nearest(el, a, DOWN));
}

static float ulps(float a, int n) { return nib_float_of(nib_bits_of(a) + (uint32_t)n); }

NIB_TEST(Element, Traits)
{
    for (int el = 0; el < 5; el++) {
        const nib_element_traits t = nib_element_traits_of(el);
        const int last = definitions[el].codes - 1;
        EXPECT(t.max == (float)value_of(el, last) && (int)t.max_code == last, "%s",
               definitions[el].name);
        EXPECT(t.emax == ilogb(value_of(el, last)) && t.emin == 1 - definitions[el].bias, "%s",
               definitions[el].name);
        EXPECT(t.bits == 1 + definitions[el].exponent_bits + definitions[el].mantissa_bits, "%s",
               definitions[el].name);
    }
}

NIB_TEST(Element, EveryCodeDecodesAndComesBack)
{
    for (int el = 0; el < 5; el++)
        for (int sign = 0; sign < 2; sign++)
            for (int c = 0; c < definitions[el].codes; c++) {
                const nib_element_traits t = nib_element_traits_of(el);
                const uint32_t code = (uint32_t)(c | sign << (t.bits - 1));
                const float want = (float)(sign ? -value_of(el, c) : value_of(el, c));
                const float x = nib_element_to_f32(el, code);
                EXPECT(nib_bits_of(x) == nib_bits_of(want), "%s %#x is %g, want %g",
                       definitions[el].name, code, (double)x, (double)want);
                EXPECT(nib_element_from_f32(el, x) == code, "%s %#x comes back as %#x",
                       definitions[el].name, code, nib_element_from_f32(el, x));
            }
}

NIB_TEST(Element, NanAndInfCodes)
{
    const float inf = nib_float_of(NIB_F32_INF_BITS);
    const struct {
        int      element;
        uint32_t code;
    } nans[] = { { NIB_EL_E4M3, 0x7f }, { NIB_EL_E4M3, 0xff }, { NIB_EL_E5M2, 0x7d },
                 { NIB_EL_E5M2, 0x7e }, { NIB_EL_E5M2, 0x7f }, { NIB_EL_E5M2, 0xfd },
                 { NIB_EL_E5M2, 0xfe }, { NIB_EL_E5M2, 0xff } };
    for (int i = 0; i < 8; i++)
        EXPECT(nib_bits_of(nib_element_to_f32(nans[i].element, nans[i].code)) == NIB_F32_NAN_BITS,
               "%s %#x", definitions[nans[i].element].name, nans[i].code);
    EXPECT(nib_element_to_f32(NIB_EL_E5M2, 0x7c) == inf, "E5M2 0x7c");
    EXPECT(nib_element_to_f32(NIB_EL_E5M2, 0xfc) == -inf, "E5M2 0xfc");

    const uint32_t nan_code[5] = { 0x7, 0x1f, 0x1f, 0x7f, 0x7f };
    for (int el = 0; el < 5; el++) {
        const uint32_t last = (uint32_t)definitions[el].codes - 1;
        const int top = nib_element_traits_of(el).bits - 1;
        EXPECT(nib_element_from_f32(el, inf) == last, "+Inf saturates in %s", definitions[el].name);
        EXPECT(nib_element_from_f32(el, -inf) == (last | 1u << top), "-Inf in %s",
               definitions[el].name);
        for (uint32_t sign = 0; sign < 2; sign++) /* quiet and signalling, both signs */
            for (uint32_t bits = 0x7f800001; bits < 0x80000000u; bits += 0x1fffff)
                EXPECT(nib_element_from_f32(el, nib_float_of(bits | sign << 31)) == nan_code[el],
                       "NaN %#x in %s", bits, definitions[el].name);
    }
}

NIB_TEST(Element, MidpointsAndValuesByOneUlp)
{
    for (int el = 0; el < 5; el++)
        for (int c = 0; c < definitions[el].codes; c++) {
            const float at = (float)value_of(el, c);
            const float mid = (float)(0.5 * (value_of(el, c) + value_of(el, c + 1)));
            for (int n = -2; n <= 2; n++) {
                if (at > 0.0f || n >= 0) check_both(el, ulps(at, n));
                check_both(el, ulps(mid, n));
            }
        }
}

NIB_TEST(Element, AllBinades) /* every exponent, 509 mantissas: subnormals and overflow too */
{
    for (int el = 0; el < 5; el++)
        for (uint32_t e = 0; e < 255 && !nib_test_failed(); e++)
            for (uint32_t f = 0; f < 1u << 23; f += 16519)
                check_both(el, nib_float_of(e << 23 | f));
}

NIB_TEST(Element, SignOfZeroIsKept)
{
    for (int el = 0; el < 5; el++) {
        const uint32_t minus = 1u << (nib_element_traits_of(el).bits - 1);
        EXPECT(nib_element_from_f32(el, -0.0f) == minus, "%s", definitions[el].name);
        EXPECT(nib_element_from_f32(el, -nib_pow2(-149)) == minus, "%s", definitions[el].name);
        EXPECT(nib_element_from_f32(el, nib_pow2(-149)) == 0, "%s", definitions[el].name);
    }
}

/* The number of the 2^24 random words that round a up must be a's distance from the code below
 * in units of 2^-24 of the gap, rounded up: exact where that is a whole number. */
static void check_stochastic(int el, float a)
{
    const nib_element_traits t = nib_element_traits_of(el);
    const int last = definitions[el].codes - 1;
    int below = 0;
    while (below < last && value_of(el, below + 1) <= a) below++;
    uint32_t ups = 0;
    if (below < last)
        ups = (uint32_t)ceil(ldexp((a - value_of(el, below))
                                       / (value_of(el, below + 1) - value_of(el, below)), 24));

    const uint32_t words[] = { 0, 1, ups / 2, ups ? ups - 1 : 0, ups, ups + 1, 0xfffffe, 0xffffff };
    for (int i = 0; i < 8; i++) {
        if (words[i] > 0xffffff) continue;
        const int up = words[i] < ups;
        for (uint32_t low = 0; low < 256; low += 255) { /* the lower 8 bits do not count */
            const uint32_t code = nib_encode_stochastic(t, a, words[i] << 8 | low);
            EXPECT((int)code == below + up, "%s %a word %#x: code %#x, want %#x",
                   definitions[el].name, (double)a, words[i], code, below + up);
        }
    }
}

NIB_TEST(ElementStochastic, ProbabilityIsTheDistance)
{
    for (int el = 0; el < 5; el++) {
        for (int c = 0; c < definitions[el].codes; c++) {
            const double gap = value_of(el, c + 1) - value_of(el, c);
            const double part[] = { 0, 0x1p-24, 0.125, 0.3, 0.5, 0.75, 0.999 };
            for (int i = 0; i < 7; i++)
                check_stochastic(el, (float)(value_of(el, c) + part[i] * gap));
        }
        check_stochastic(el, nib_pow2(-149));
        check_stochastic(el, nib_float_of(NIB_F32_INF_BITS)); /* saturates */
        check_stochastic(el, NIB_F32_MAX);
        check_stochastic(el, ulps((float)value_of(el, definitions[el].codes - 1), -1));
    }
}

NIB_TEST(ElementStochastic, MeanOfAllWordsIsTheInput) /* 2^24 words; exactly unbiased */
{
    const float inputs[] = { 0.1875f, 2.3125f, 5.5f }; /* multiples of 2^-24 of their gaps */
    const nib_element_traits t = nib_element_traits_of(NIB_EL_E2M1);
    for (int i = 0; i < 3; i++) {
        double sum = 0;
        for (uint32_t word = 0; word < 1u << 24; word++)
            sum += (double)nib_decode_magnitude(t, nib_encode_stochastic(t, inputs[i], word << 8));
        EXPECT(sum == ldexp((double)inputs[i], 24), "mean of %g is %.9g", (double)inputs[i],
               ldexp(sum, -24));
    }
}
