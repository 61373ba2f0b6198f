/* toolkit_codec_test.cc: kernels/common against the CUDA toolkit's own host conversions. Needs
 * the toolkit's headers, no GPU and no nvcc. C++ because those headers are. */
#include "tests/shim.h"

#if !__has_include(<cuda_fp6.h>)

NIB_TEST(ToolkitCodec, Conversions)
{
    SKIP("cuda_fp4.h, cuda_fp6.h and cuda_fp8.h are not here: install the CUDA toolkit >= 12.8");
}

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <thread>
#include <vector>

#include "kernels/common/half.h"
#include "kernels/common/scale.h"

namespace {

/* The toolkit's conversion of x and ours, each as one number. */
struct Conversion {
    const char *name;
    uint32_t (*theirs)(float x);
    uint32_t (*ours)(float x);
};

/* RCEIL and FLOOR by the toolkit: E8M0 of the quotient in f64, whose rounding is far smaller
 * than the distance of any f32 quotient from a power of two. */
template <int element> uint32_t rceil(float x)
{
    return nib_e8m0_from_amax(element, NIB_MX_RULE_RCEIL, nib_abs(x));
}
template <int element> uint32_t rceil_toolkit(float x)
{
    const double q = std::fabs((double)x) / nib_element_traits_of(element).max;
    return __nv_cvt_double_to_e8m0(q, __NV_SATFINITE, cudaRoundPosInf);
}
template <int element> uint32_t floored(float x)
{
    return nib_e8m0_from_amax(element, NIB_MX_RULE_FLOOR, nib_abs(x));
}
template <int element> uint32_t floored_toolkit(float x)
{
    const double q = std::ldexp(std::fabs((double)x), -nib_element_traits_of(element).emax);
    return __nv_cvt_double_to_e8m0(q, __NV_SATFINITE, cudaRoundZero);
}
template <int element> uint32_t encoded(float x) { return nib_element_from_f32(element, x); }

const Conversion elements[] = {
    { "e2m1", [](float x) -> uint32_t {
          return __nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest); }, encoded<NIB_EL_E2M1> },
    { "e2m3", [](float x) -> uint32_t {
          return __nv_cvt_float_to_fp6(x, __NV_E2M3, cudaRoundNearest); }, encoded<NIB_EL_E2M3> },
    { "e3m2", [](float x) -> uint32_t {
          return __nv_cvt_float_to_fp6(x, __NV_E3M2, cudaRoundNearest); }, encoded<NIB_EL_E3M2> },
    { "e4m3", [](float x) -> uint32_t {
          return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }, encoded<NIB_EL_E4M3> },
    { "e5m2", [](float x) -> uint32_t {
          return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2); }, encoded<NIB_EL_E5M2> },
    { "f16", [](float x) -> uint32_t { return __half_raw(__float2half_rn(x)).x; },
      [](float x) -> uint32_t { return nib_f16_from_f32(x); } },
    { "bf16", [](float x) -> uint32_t { return __nv_bfloat16_raw(__float2bfloat16_rn(x)).x; },
      [](float x) -> uint32_t { return nib_bf16_from_f32(x); } },
};

const Conversion scales[] = { /* finite x only: the block's amax */
    { "rceil e2m1", rceil_toolkit<NIB_EL_E2M1>, rceil<NIB_EL_E2M1> },
    { "rceil e2m3", rceil_toolkit<NIB_EL_E2M3>, rceil<NIB_EL_E2M3> },
    { "rceil e3m2", rceil_toolkit<NIB_EL_E3M2>, rceil<NIB_EL_E3M2> },
    { "rceil e4m3", rceil_toolkit<NIB_EL_E4M3>, rceil<NIB_EL_E4M3> },
    { "rceil e5m2", rceil_toolkit<NIB_EL_E5M2>, rceil<NIB_EL_E5M2> },
    { "floor e2m1", floored_toolkit<NIB_EL_E2M1>, floored<NIB_EL_E2M1> },
    { "floor e4m3", floored_toolkit<NIB_EL_E4M3>, floored<NIB_EL_E4M3> },
};

bool same(const Conversion &c, uint32_t bits)
{
    const float x = nib_float_of(bits);
    const uint32_t theirs = c.theirs(x), ours = c.ours(x);
    EXPECT(theirs == ours, "%s of %#x (%g): toolkit %#x, nibble %#x", c.name, bits, (double)x,
           theirs, ours);
    return theirs == ours;
}

bool is_finite(uint32_t bits) { return (bits & 0x7fffffffu) < NIB_F32_INF_BITS; }

void all_conversions(uint32_t bits)
{
    for (const Conversion &c : elements) same(c, bits);
    if (is_finite(bits))
        for (const Conversion &c : scales) same(c, bits);
}

/* Magnitude midway between codes c and c + 1 of element, from the definition. */
float midpoint(int element, uint32_t c)
{
    const nib_element_traits t = nib_element_traits_of(element);
    return 0.5f * (nib_decode_magnitude(t, c) + nib_decode_magnitude(t, c + 1));
}

}  // namespace

NIB_TEST(ToolkitCodec, Midpoints) /* +-2 ulp, and the codes' own values likewise */
{
    for (int element = 0; element < 5; element++) {
        const nib_element_traits t = nib_element_traits_of(element);
        for (uint32_t c = 0; c <= t.max_code; c++)
            for (int part = 0; part < 2; part++) {
                const float x = part ? midpoint(element, c) : nib_decode_magnitude(t, c);
                for (int ulp = -2; ulp <= 2; ulp++)
                    for (uint32_t sign = 0; sign < 2; sign++)
                        all_conversions((nib_bits_of(x) + (uint32_t)ulp) ^ sign << 31);
            }
    }
    for (uint32_t h = 0; h < 0x7c00; h++) { /* f16 */
        const float x = 0.5f * (nib_f16_to_f32((uint16_t)h) + nib_f16_to_f32((uint16_t)(h + 1)));
        const uint32_t bits = h == 0x7bff ? nib_bits_of(65520.0f) : nib_bits_of(x);
        for (int ulp = -1; ulp <= 1; ulp++) same(elements[5], bits + (uint32_t)ulp);
    }
}

NIB_TEST(ToolkitCodec, EveryUpperHalf) /* 65536 upper halves x 48 lower ones */
{
    uint32_t lows[48] = { 0, 1, 2, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff };
    for (uint32_t i = 8; i < 48; i++) lows[i] = i * 40503u >> 2 & 0xffffu;
    for (uint32_t high = 0; high < 65536 && !nib_test_failed(); high++)
        for (uint32_t low : lows) {
            for (const Conversion &c : elements) same(c, high << 16 | low);
            if (low < 3 || low > 0xfffd)
                for (const Conversion &c : scales)
                    if (is_finite(high << 16)) same(c, high << 16 | low);
        }
}

NIB_TEST(ToolkitCodec, Decoders) /* every code of every type, as bits of an f32 */
{
    const struct { int element; uint32_t codes; } all[] = {
        { NIB_EL_E2M1, 16 }, { NIB_EL_E2M3, 64 }, { NIB_EL_E3M2, 64 },
        { NIB_EL_E4M3, 256 }, { NIB_EL_E5M2, 256 },
    };
    for (const auto &e : all)
        for (uint32_t code = 0; code < e.codes; code++) {
            const auto c = (unsigned char)code;
            const __half_raw h =
                e.element == NIB_EL_E2M1   ? __nv_cvt_fp4_to_halfraw(c, __NV_E2M1)
                : e.element == NIB_EL_E2M3 ? __nv_cvt_fp6_to_halfraw(c, __NV_E2M3)
                : e.element == NIB_EL_E3M2 ? __nv_cvt_fp6_to_halfraw(c, __NV_E3M2)
                : e.element == NIB_EL_E4M3 ? __nv_cvt_fp8_to_halfraw(c, __NV_E4M3)
                                           : __nv_cvt_fp8_to_halfraw(c, __NV_E5M2);
            const float theirs = __half2float(__half(h));
            const float ours = nib_element_to_f32(e.element, code);
            EXPECT(nib_bits_of(nib_canonical(theirs)) == nib_bits_of(ours),
                   "element %d code %#x: toolkit %g, nibble %g", e.element, code, (double)theirs,
                   (double)ours);
        }
    for (uint32_t byte = 0; byte < 256; byte++) {
        const float theirs = __bfloat162float(
            __nv_bfloat16(__nv_cvt_e8m0_to_bf16raw((__nv_fp8_storage_t)byte)));
        EXPECT(nib_bits_of(nib_canonical(theirs)) == nib_bits_of(nib_e8m0_to_f32(byte)),
               "e8m0 %#x: toolkit %g", byte, (double)theirs);
    }
    for (uint32_t h = 0; h < 65536; h++) {
        __half_raw half;
        __nv_bfloat16_raw brain;
        half.x = brain.x = (unsigned short)h;
        const float f = nib_canonical(nib_f16_to_f32((uint16_t)h));
        const float b = nib_canonical(nib_bf16_to_f32((uint16_t)h));
        EXPECT(nib_bits_of(nib_canonical(__half2float(__half(half)))) == nib_bits_of(f),
               "f16 %#x", h);
        EXPECT(nib_bits_of(nib_canonical(__bfloat162float(__nv_bfloat16(brain))))
                   == nib_bits_of(b), "bf16 %#x", h);
    }
}

NIB_TEST(ToolkitCodec, AllFloats) /* 2^32 patterns, three minutes on two cores */
{
    if (!std::getenv("NIB_TEST_FULL")) SKIP("runs in make test-full (NIB_TEST_FULL=1)");
    std::vector<std::thread> workers;
    const uint32_t parts = std::max(1u, std::thread::hardware_concurrency());
    for (uint32_t part = 0; part < parts; part++)
        workers.emplace_back([part, parts] {
            for (uint64_t bits = part; bits < 1ull << 32; bits += parts) {
                for (const Conversion &c : elements)
                    if (!same(c, (uint32_t)bits)) return;
                if (bits < NIB_F32_INF_BITS)
                    for (const Conversion &c : scales)
                        if (!same(c, (uint32_t)bits)) return;
            }
        });
    for (std::thread &w : workers) w.join();
}

#endif
