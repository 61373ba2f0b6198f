/* convert_emu_test.cu: the conversions and wide loads of ptx.cuh. Emulated, the models follow the
 * PTX ISA's text; on a GPU the instructions run. Both are held to the rules of kernels/common. */
#undef NIB_EMU_ARCH
#define NIB_EMU_ARCH 100 /* has every instruction */
#include "kernels/common/element.h"
#include "kernels/common/half.h"
#include "tests/emu/emu_test.h"

#include <cstdlib>
#include <thread>

enum Encode { E2M1, E4M3, F16, BF16, ENCODES };
static const char *const encode_names[ENCODES] = { "e2m1x2", "e4m3x2", "f16x2", "bf16x2" };
static const int encode_bits[ENCODES] = { 4, 8, 16, 16 };
static constexpr uint32_t missing = 0xdeadbeef; /* of a code that no conversion of these gives */

template <int op> __device__ static uint32_t instruction(float lo, float hi)
{
    if constexpr (op == F16) return nib_ptx::cvt_f16x2(lo, hi);
    if constexpr (op == BF16) return nib_ptx::cvt_bf16x2(lo, hi);
#if NIB_HAS_CVT_E2M1
    if constexpr (op == E2M1) return nib_ptx::cvt_e2m1x2(lo, hi);
#endif
#if NIB_HAS_CVT_E4M3
    if constexpr (op == E4M3) return nib_ptx::cvt_e4m3x2(lo, hi);
#endif
    return missing;
}

NIB_HD uint32_t rule_of(int op, float x)
{
    return op == E2M1 ? nib_element_from_f32(NIB_EL_E2M1, x)
         : op == E4M3 ? nib_element_from_f32(NIB_EL_E4M3, x)
         : op == F16  ? nib_f16_from_f32(x)
                      : nib_bf16_from_f32(x);
}

template <int op>
__global__ static void encode(const uint32_t *lo, const uint32_t *hi, uint32_t n, uint32_t *out)
{
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        out[i] = instruction<op>(nib_float_of(lo[i]), nib_float_of(hi[i]));
    }
}

/* Every upper half with lower halves at the ends and around the tie of bf16, every tie of the other
 * types and its neighbours, with both signs, and random bits. */
static std::vector<uint32_t> inputs()
{
    std::vector<uint32_t> in;
    for (uint32_t upper = 0; upper < 0x10000; upper++) {
        for (const uint32_t lower : { 0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu }) {
            in.push_back(upper << 16 | lower);
        }
    }
    const auto around = [&](double tie) {
        const uint32_t bits = nib_bits_of((float)tie);
        for (uint32_t i = 0; i < 3; i++) {
            in.push_back(bits - 1 + i);
            in.push_back((bits - 1 + i) | 0x80000000u);
        }
    };
    for (const int element : { NIB_EL_E2M1, NIB_EL_E4M3 }) {
        const uint32_t most = nib_element_traits_of(element).max_code;
        for (uint32_t c = 1; c <= most; c++) {
            const double at = nib_element_to_f32(element, c);
            const double below = nib_element_to_f32(element, c - 1);
            around((at + below) / 2);
            around(at);
            if (c == most) around(at + (at - below) / 2);
        }
    }
    for (uint32_t h = 1; h < 0x7c00; h++) {
        const double at = nib_f16_to_f32((uint16_t)h), below = nib_f16_to_f32((uint16_t)(h - 1));
        around((at + below) / 2);
        if (h == 0x7bff) around(at + (at - below) / 2);
    }
    Random random(11);
    for (int i = 0; i < 1 << 16; i++) in.push_back(random.next());
    return in;
}

template <int op> static void expect_encode(const std::vector<uint32_t> &in)
{
    const uint32_t n = (uint32_t)in.size();
    std::vector<uint32_t> reversed(in.rbegin(), in.rend());
    Device<uint32_t> lo(in), hi(reversed), out(n);
    NIB_LAUNCH(encode<op>, 64, 128, 0, 0, (const uint32_t *)lo, (const uint32_t *)hi, n,
               (uint32_t *)out);
    const std::vector<uint32_t> got = out.read();
    for (uint32_t i = 0; i < n && !nib_test_failed(); i++) {
        if (got[i] == missing) return; /* not on this GPU */
        const uint32_t want = rule_of(op, nib_float_of(in[i])) |
                              rule_of(op, nib_float_of(reversed[i])) << encode_bits[op];
        EXPECT(got[i] == want, "%s of %#x, %#x: %#x, not %#x", encode_names[op], in[i],
               reversed[i], got[i], want);
    }
}

NIB_TEST(EmuConvert, EncodesAsTheRules)
{
    const std::vector<uint32_t> in = inputs();
    expect_encode<E2M1>(in);
    expect_encode<E4M3>(in);
    expect_encode<F16>(in);
    expect_encode<BF16>(in);
}

enum Decode { E2M1_F16, E4M3_F16, F16_F32 };

template <int op> __global__ static void decode(uint32_t *out)
{
    const uint32_t codes = blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t v = missing;
    if constexpr (op == F16_F32) v = nib_bits_of(nib_ptx::cvt_f32_f16(codes));
#if NIB_HAS_CVT_E2M1
    if constexpr (op == E2M1_F16) { /* of each byte alike, whatever the others are */
        v = nib_ptx::cvt_f16x2_e2m1x2(codes);
        if (v != nib_ptx::cvt_f16x2_e2m1x2<1>(codes << 8 | 0xa500005au)) v = missing;
        if (v != nib_ptx::cvt_f16x2_e2m1x2<2>(codes << 16 | 0xa5005a5au)) v = missing;
        if (v != nib_ptx::cvt_f16x2_e2m1x2<3>(codes << 24 | 0x005a5a5au)) v = missing;
    }
#endif
#if NIB_HAS_CVT_E4M3
    if constexpr (op == E4M3_F16) v = nib_ptx::cvt_f16x2_e4m3x2(codes);
#endif
    out[codes] = v;
}

/* codes: all of them, in pairs but for F16. Two NaN are the same here; one of an f16 is 0x7fff. */
template <int op> static void expect_decode(uint32_t codes, int element, int bits)
{
    Device<uint32_t> out(codes);
    NIB_LAUNCH(decode<op>, codes / 256, 256, 0, 0, (uint32_t *)out);
    const std::vector<uint32_t> got = out.read();
    for (uint32_t c = 0; c < codes && !nib_test_failed(); c++) {
        if (got[c] == missing) return; /* not on this GPU */
        if (op == F16_F32) {
            const float want = nib_f16_to_f32((uint16_t)c), v = nib_float_of(got[c]);
            EXPECT(nib_is_nan(want) ? nib_is_nan(v) : nib_bits_of(want) == got[c], "%#x: %#x", c,
                   got[c]);
            continue;
        }
        uint32_t want = 0;
        for (int i = 0; i < 2; i++) {
            const float x = nib_element_to_f32(element, c >> (i * bits) & ((1u << bits) - 1));
            want |= (uint32_t)nib_f16_from_f32(x) << (16 * i);
        }
        EXPECT(got[c] == want, "decode %d of %#x: %#x, not %#x", op, c, got[c], want);
    }
}

NIB_TEST(EmuConvert, DecodesAsTheRules)
{
    expect_decode<E2M1_F16>(256, NIB_EL_E2M1, 4);
    expect_decode<E4M3_F16>(65536, NIB_EL_E4M3, 8);
    expect_decode<F16_F32>(65536, 0, 16);
}

/* ---- the larger and the smaller of halves ---- */

enum Extreme { MAX_F16, MIN_F16, MAX_BF16, MIN_BF16, MAX_ABS_F16, MAX_ABS_BF16, MUL_F16, MUL_BF16 };

template <int op> __global__ static void extreme(const uint32_t *a, const uint32_t *b,
                                                 uint32_t *out)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if constexpr (op == MAX_F16) out[i] = nib_ptx::max_f16x2(a[i], b[i]);
    if constexpr (op == MIN_F16) out[i] = nib_ptx::min_f16x2(a[i], b[i]);
    if constexpr (op == MAX_BF16) out[i] = nib_ptx::max_bf16x2(a[i], b[i]);
    if constexpr (op == MIN_BF16) out[i] = nib_ptx::min_bf16x2(a[i], b[i]);
    if constexpr (op == MAX_ABS_F16) out[i] = nib_ptx::max_abs_f16x2(a[i], b[i]);
    if constexpr (op == MAX_ABS_BF16) out[i] = nib_ptx::max_abs_bf16x2(a[i], b[i]);
    if constexpr (op == MUL_F16) out[i] = nib_ptx::mul_f16x2(a[i], b[i]);
    if constexpr (op == MUL_BF16) out[i] = nib_ptx::mul_bf16x2(a[i], b[i]);
}

static bool half_is_right(int op, uint32_t a, uint32_t b, uint32_t got)
{
    const bool bf16 = op == MAX_BF16 || op == MIN_BF16 || op == MAX_ABS_BF16 || op == MUL_BF16;
    const bool smaller = op == MIN_F16 || op == MIN_BF16;
    const auto f32 = [=](uint32_t h) {
        return bf16 ? nib_bf16_to_f32((uint16_t)h) : nib_f16_to_f32((uint16_t)h);
    };
    const float x = f32(a), y = f32(b);
    const bool  nan_x = nib_is_nan(x), nan_y = nib_is_nan(y);
    if (op == MUL_F16 || op == MUL_BF16) {
        const double exact = (double)x * (double)y;
        float        right = (float)exact; /* exact but for bf16's subnormals, 2^-133 apart */
        if (bf16 && std::fabs(exact) < 0x1p-126)
            right = (float)(std::nearbyint(exact * 0x1p133) * 0x1p-133);
        const uint32_t want = bf16 ? nib_bf16_from_f32(right) : nib_f16_from_f32(right);
        return exact != exact ? nib_is_nan(f32(got))
             : got == (want | ((a ^ b) & 0x8000)); /* of 0 too */
    }
    if (op >= MAX_ABS_F16) {
        const float most = nib_abs(x) > nib_abs(y) ? nib_abs(x) : nib_abs(y);
        return nan_x || nan_y ? nib_is_nan(f32(got)) : nib_abs(f32(got)) == most;
    }
    if (nan_x || nan_y) {
        return nan_x && nan_y ? nib_is_nan(f32(got)) : got == (nan_x ? b : a);
    }
    if (x == y) return got == (smaller ? a | b : a & b); /* -0 is below +0 */
    return got == ((x > y) != smaller ? a : b);
}

template <int op> static void expect_extreme(const std::vector<uint32_t> &a,
                                             const std::vector<uint32_t> &b)
{
    Device<uint32_t> left(a), right(b), out(a.size());
    NIB_LAUNCH(extreme<op>, (unsigned)a.size() / 256, 256, 0, 0, (const uint32_t *)left,
               (const uint32_t *)right, (uint32_t *)out);
    const std::vector<uint32_t> got = out.read();
    for (size_t i = 0; i < a.size() && !nib_test_failed(); i++) {
        EXPECT(half_is_right(op, a[i] & 0xffff, b[i] & 0xffff, got[i] & 0xffff)
               && half_is_right(op, a[i] >> 16, b[i] >> 16, got[i] >> 16),
               "extreme %d of %#x and %#x: %#x", op, a[i], b[i], got[i]);
    }
}

/* Every half against itself, its neighbours, its negative, 0, NaN and 8 others. */
NIB_TEST(EmuConvert, ExtremesOfHalves)
{
    std::vector<uint32_t> a, b;
    Random random(16);
    for (uint32_t h = 0; h < 65536; h++) {
        const uint32_t others[] = { h, (h + 1) & 0xffff, h ^ 0x8000, 0, 0x8000, 0x7fff, 0xfe00,
                                    0x7c00 };
        for (const uint32_t other : others) {
            const uint32_t more = random.next();
            a.push_back(h | more << 16);
            b.push_back(other | (more & 0xffff0000u));
        }
    }
    expect_extreme<MAX_F16>(a, b);
    expect_extreme<MIN_F16>(a, b);
    expect_extreme<MAX_BF16>(a, b);
    expect_extreme<MIN_BF16>(a, b);
    expect_extreme<MAX_ABS_F16>(a, b);
    expect_extreme<MAX_ABS_BF16>(a, b);
}

/* Every half by 8 others, in the upper halves by random ones. */
NIB_TEST(EmuConvert, ProductsOfHalves)
{
    std::vector<uint32_t> a, b;
    Random random(17);
    for (uint32_t h = 0; h < 65536; h++) {
        const uint32_t others[] = { h, 0x3c00, 0x8400, 0x0001, 0x7bff, 0x7f80, 0x0400, 0x3555 };
        for (const uint32_t other : others) {
            a.push_back(h | random.next() << 16);
            b.push_back(other | random.next() << 16);
        }
    }
    expect_extreme<MUL_F16>(a, b);
    expect_extreme<MUL_BF16>(a, b);
}

/* ---- sums of products, comparisons and bytes of halves ---- */

enum Ternary { FMA_BF16, ABOVE_F16, PRMT };

template <int op> __global__ static void ternary(const uint32_t *in, uint32_t *out)
{
    const uint32_t  i = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t *p = in + 3 * i;
    if constexpr (op == FMA_BF16) out[i] = nib_ptx::fma_bf16x2(p[0], p[1], p[2]);
    if constexpr (op == ABOVE_F16) out[i] = nib_ptx::above_f16x2(p[0], p[1]);
    if constexpr (op == PRMT) out[i] = nib_ptx::prmt(p[0], p[1], p[2]);
}

/* The bf16 nearest to a * b + c, all of which are so near to each other that double is exact, or so
 * far that c is the sum. */
static uint32_t nearest_sum(uint32_t a, uint32_t b, uint32_t c)
{
    const double x = nib_bf16_to_f32((uint16_t)a), y = nib_bf16_to_f32((uint16_t)b);
    const double z = nib_bf16_to_f32((uint16_t)c);
    if (fabs(x * y) < fabs(z) * 0x1p-12) return c;
    const double sum = x * y + z;
    if (sum == 0.0) return 0;
    const double ulp = ldexp(1.0, ilogb(sum) - 7);
    return nib_bf16_from_f32((float)(nearbyint(sum / ulp) * ulp));
}

static uint32_t right_ternary(int op, const uint32_t *p)
{
    uint32_t want = 0;
    for (int i = 0; i < 32 && op == PRMT; i += 8) {
        const uint32_t pick = p[2] >> (i / 2) & 7;
        want |= (p[pick / 4] >> (pick % 4 * 8) & 0xff) << i;
    }
    for (int i = 0; i < 32 && op != PRMT; i += 16) {
        const uint32_t a = p[0] >> i & 0xffff, b = p[1] >> i & 0xffff, c = p[2] >> i & 0xffff;
        const bool above = nib_f16_to_f32((uint16_t)a) > nib_f16_to_f32((uint16_t)b);
        want |= (op == ABOVE_F16 ? (above ? 0x3c00u : 0) : nearest_sum(a, b, c)) << i;
    }
    return want;
}

template <int op> static void expect_ternary(const std::vector<uint32_t> &in)
{
    Device<uint32_t> from(in), out(in.size() / 3);
    NIB_LAUNCH(ternary<op>, (unsigned)in.size() / 3 / 256, 256, 0, 0, (const uint32_t *)from,
               (uint32_t *)out);
    const std::vector<uint32_t> got = out.read();
    for (size_t i = 0; i < got.size() && !nib_test_failed(); i++) {
        const uint32_t want = right_ternary(op, &in[3 * i]);
        EXPECT(got[i] == want, "ternary %d of %#x, %#x and %#x: %#x, not %#x", op, in[3 * i],
               in[3 * i + 1], in[3 * i + 2], got[i], want);
    }
}

/* Halves with exponents near those of 1 and, for sums, some far greater ones; every half beside
 * itself and its neighbours; bytes chosen by any three bits of a nibble. */
NIB_TEST(EmuConvert, SumsComparisonsAndBytes)
{
    std::vector<uint32_t> sums, pairs, bytes;
    Random random(19);
    for (int i = 0; i < 65536; i++) {
        for (int k = 0; k < 3; k++) {
            uint32_t low = 0x3c00 + random.next() % 0x780, high = 0x3c00 + random.next() % 0x780;
            if (k == 2 && i % 8 == 0) low += 0x1800, high += 0x1800;
            const uint32_t signs = random.next() & 0x80008000u;
            sums.push_back(low | high << 16 | signs);
        }
        const uint32_t h = (uint32_t)i, more = random.next();
        const uint32_t beside = (h + more % 3 - 1) & 0xffff;
        pairs.insert(pairs.end(), { h | more << 16, beside | more << 16, 0 });
        bytes.insert(bytes.end(), { more, random.next(), random.next() & 0x7777 });
    }
    expect_ternary<FMA_BF16>(sums);
    expect_ternary<ABOVE_F16>(pairs);
    expect_ternary<PRMT>(bytes);
}

/* Differences over a part of all f32. */
#if NIB_ON_EMULATOR
static uint32_t model_of(int op, float x)
{
    return op == E2M1 ? nib_emu::e2m1_of(x) : op == E4M3 ? nib_emu::e4m3_of(x)
         : op == F16 ? nib_emu::f16_of(x) : nib_emu::bf16_of(x);
}

template <int op> static uint64_t differences()
{
    const unsigned threads = std::max(1u, std::thread::hardware_concurrency());
    std::vector<uint64_t> found(threads);
    std::vector<std::thread> team;
    for (unsigned t = 0; t < threads; t++) {
        team.emplace_back([t, threads, &found] {
            for (uint64_t u = t; u < 1ull << 32; u += threads) {
                const float x = nib_float_of((uint32_t)u);
                found[t] += model_of(op, x) != rule_of(op, x);
            }
        });
    }
    uint64_t sum = 0;
    for (unsigned t = 0; t < threads; t++) {
        team[t].join();
        sum += found[t];
    }
    return sum;
}
#else
template <int op> __global__ static void compare(unsigned long long *found)
{
    const uint32_t first = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    unsigned long long differ = 0;
    for (uint64_t u = first; u < 1ull << 32; u += n) {
        const float x = nib_float_of((uint32_t)u);
        const uint32_t got = instruction<op>(x, 0.0f);
        differ += got != missing && got != rule_of(op, x);
    }
    atomicAdd(found, differ);
}

template <int op> static uint64_t differences()
{
    Device<unsigned long long> found(std::vector<unsigned long long>(1));
    NIB_LAUNCH(compare<op>, 4096, 256, 0, 0, (unsigned long long *)found);
    return found.read()[0];
}
#endif

NIB_TEST(EmuConvert, AllFloats)
{
    if (!getenv("NIB_TEST_FULL")) SKIP("2^32 conversions: NIB_TEST_FULL=1");
    const uint64_t found[ENCODES] = { differences<E2M1>(), differences<E4M3>(), differences<F16>(),
                                      differences<BF16>() };
    for (int op = 0; op < ENCODES; op++) {
        EXPECT(found[op] == 0, "%s: %llu of 2^32 differ", encode_names[op],
               (unsigned long long)found[op]);
    }
}

template <class T> __global__ static void move(const T *in, T *out)
{
    const T v = nib_ptx::ld_once(in + threadIdx.x);
    if constexpr (sizeof(T) == 32) nib_ptx::st_32(out + threadIdx.x, v);
    else out[threadIdx.x] = v;
}

template <class T> static void expect_move()
{
    std::vector<uint32_t> in(32 * sizeof(T) / 4);
    Random random(sizeof(T));
    for (uint32_t &w : in) w = random.next();
    Device<uint32_t> src(in), dst(in.size());
    NIB_LAUNCH(move<T>, 1, 32, 0, 0, (const T *)(const uint32_t *)src, (T *)(uint32_t *)dst);
    EXPECT(dst.read() == in, "%zu bytes", sizeof(T));
}

NIB_TEST(EmuConvert, LoadsOnceAndStores)
{
    each_schedule([] {
        expect_move<uint32_t>();
        expect_move<uint2>();
        expect_move<uint4>();
        expect_move<nib_ptx::Bytes32>();
    });
}
