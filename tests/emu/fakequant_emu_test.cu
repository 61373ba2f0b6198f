/* fakequant_emu_test.cu: fake-quantize's kernels write the values that the CPU's plain C makes by
 * quantizing and dequantizing, and gradients by its mask; and their arithmetic is the rules'. */
#include "kernels/cuda/fakequant_tune.h"
#include "kernels/cuda/fakequant_values.cuh"
#include "kernels/cuda/ops_cuda.cuh"
#include "kernels/cuda/quantize_tune.h"
#include "kernels/packed.h"
#include "tests/emu/quantize_source.h"

#include <stdio.h>
#include <string.h>

namespace {

constexpr uint8_t poison = 0xa5;
typedef std::vector<uint8_t> Bytes;

struct Setting {
    nib_format       format;
    nib_dtype        dtype = NIB_BF16, out_dtype = NIB_BF16;
    int64_t          rows = 3, cols = 96, ld_extra = 0, out_extra = 0, mask_extra = 0;
    int64_t          offset = 0; /* of the matrices, in elements; of mask, in bytes */
    bool             in_place = false, mask = true;
    nib_rules_preset preset = NIB_RULES_TE;
    nib_scale_choice choice = NIB_SCALE_AMAX;
    nib_rounding     rounding = NIB_ROUND_NEAREST;
    float            given = 0.0f; /* tensor scale; 0: from amax */
    nib_rules        rules = {};   /* instead of the preset's, where size is not 0 */
};

int64_t size_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

/* What one setting comes to on the CPU. */
struct Expected {
    Bytes x, values, mask; /* as in memory, with all that lies around them */
    float amax = 0.0f;
    int64_t ld, ld_out, ld_mask;
};

nib_matrix matrix_at(const Setting &s, void *data, nib_dtype dtype, int64_t ld)
{
    return { (uint8_t *)data + s.offset * size_of(dtype), dtype, s.rows, s.cols, ld };
}

nib_quantize_request request_of(const Setting &s)
{
    nib_quantize_request r = {};
    r.rules = s.rules;
    if (!s.rules.size) (void)nib_rules_fill(s.preset, s.format, &r.rules);
    r.scale_choice = s.choice;
    r.rounding = s.rounding;
    return r;
}

Expected expected(const Setting &s, const uint64_t *words, Random &random)
{
    const int64_t block = nib_part_block(s.format), bits = nib_part_bits(s.format);
    const int64_t scale_cols = nib_ceil_div(s.cols, block);
    const bool    has_tensor = nib_part_has_tensor_scale(s.format) != 0;
    Expected e;
    e.ld = s.cols + s.ld_extra;
    e.ld_out = s.in_place ? e.ld : s.cols + s.out_extra;
    e.ld_mask = (s.cols + 7) / 8 + s.mask_extra;
    e.x = source(s.dtype, (size_t)(s.offset + s.rows * e.ld), random);
    e.values = s.in_place ? e.x : Bytes((size_t)((s.offset + s.rows * e.ld_out)
                                                 * size_of(s.out_dtype)) + guard, poison);
    e.mask.assign((size_t)(s.offset + s.rows * e.ld_mask) + guard, poison);

    nib_launch launch = {};
    launch.threads = 1;
    const nib_matrix src = matrix_at(s, e.x.data(), s.dtype, e.ld);
    const nib_matrix dst = matrix_at(s, e.values.data(), s.out_dtype, e.ld_out);
    (void)nib_backend_cpu_portable.amax(&launch, &src, &e.amax, nullptr);
    const int64_t ld_codes = nib_code_bytes((int)bits, s.cols);
    Bytes codes((size_t)(s.rows * ld_codes)), scales((size_t)(s.rows * scale_cols));
    float tensor = s.given;
    const nib_packed p = {
        sizeof p, s.format, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, s.rows, s.cols, codes.data(),
        ld_codes, scales.data(), has_tensor ? &tensor : nullptr
    };
    nib_quantize_request r = request_of(s);
    r.tensor_amax = has_tensor && s.given == 0.0f ? &e.amax : nullptr;
    r.random = s.rounding == NIB_ROUND_STOCHASTIC ? words : nullptr;
    (void)nib_backend_cpu_portable.quantize(&launch, &src, &r, &p);
    (void)nib_backend_cpu_portable.dequantize(&launch, &p, &dst);

    for (int64_t row = 0; row < s.rows; row++) {
        uint8_t *const mask = e.mask.data() + s.offset + row * e.ld_mask;
        memset(mask, 0, (size_t)(s.cols + 7) / 8);
        for (int64_t c = 0; c < s.cols; c++) {
            const float step = nib_block_step(nib_part_e4m3_scale(s.format),
                                              scales[(size_t)(row * scale_cols + c / block)],
                                              nib_packed_decode(&p));
            const float x = nib_load_f32((int)s.dtype, e.x.data(), s.offset + row * e.ld + c);
            const float limit = nib_block_limit(nib_part_element(s.format), step);
            if (!nib_is_clamped(x, limit)) mask[c / 8] |= (uint8_t)(1 << c % 8);
        }
    }
    return e;
}

/* Random bits: NaN of every kind among them. */
Bytes gradients(size_t bytes, Random &random)
{
    Bytes g(bytes);
    for (size_t i = 0; i < bytes; i++) g[i] = (uint8_t)random.next();
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        if (random.below(8) == 0) g[i + 3] |= 0x7f, g[i + 2] |= 0x80;
    }
    return g;
}

/* The device's mask and values, and the three gradients: with the mask made again, given, none. */
void check(const Setting &s, uint64_t seed)
{
    Random random(seed);
    const std::vector<uint64_t> words = { random.next(), random.next() };
    const Expected e = expected(s, words.data(), random);
    const bool     has_tensor = nib_part_has_tensor_scale(s.format) != 0;
    const bool     dynamic = has_tensor && s.given == 0.0f;
    const Device<uint8_t>  x(e.x);
    const Device<uint8_t>  own(Bytes(e.values.size(), poison));
    const Device<uint8_t>  mask(Bytes(e.mask.size(), poison));
    const Device<float>    amax(std::vector<float>{ e.amax });
    const Device<float>    tensor(std::vector<float>{ s.given });
    const Device<uint64_t> device_words(words);

    nib_fake_request request = {};
    request.quantize = request_of(s);
    request.quantize.tensor_amax = dynamic ? (float *)amax : nullptr;
    request.quantize.random = s.rounding == NIB_ROUND_STOCHASTIC ? (uint64_t *)device_words
                                                                 : nullptr;
    request.format = s.format;
    request.tensor_scale = has_tensor && !dynamic ? (float *)tensor : nullptr;
    request.mask = s.mask ? (uint8_t *)mask + s.offset : nullptr;
    request.ld_mask_bytes = e.ld_mask;

    char why[NIB_WHY_BYTES] = "";
    nib_launch launch = {};
    launch.why = why;
    const auto tell = [&](const char *what, nib_status status, const Bytes &got,
                          const Bytes &want) {
        size_t first = 0;
        while (first < want.size() && got[first] == want[first]) first++;
        EXPECT(status == NIB_OK && got == want,
               "seed %llu %s: status %d %s: format %#x dtype %d to %d, %lld x %lld + %lld + %lld "
               "at %lld, mask %d in place %d preset %d choice %d rounding %d given %g: byte %zu",
               (unsigned long long)seed, what, status, why, s.format, s.dtype, s.out_dtype,
               (long long)s.rows, (long long)s.cols, (long long)s.ld_extra,
               (long long)s.out_extra, (long long)s.offset, s.mask, s.in_place, s.preset,
               s.choice, s.rounding, (double)s.given, first);
    };

    /* Backward first: in place, the forward pass is src's end. */
    const nib_matrix src = matrix_at(s, x, s.dtype, e.ld);
    const Bytes      g = gradients(e.x.size(), random);
    const Device<uint8_t> given_mask(e.mask);
    for (int kind = 0; kind < 3; kind++) {
        const bool clamps = kind < 2, in_place = s.in_place && clamps;
        const nib_dtype grad_dtype = s.dtype;
        Bytes want = in_place ? g : Bytes(e.values.size(), poison);
        for (int64_t i = 0; i < s.rows * s.cols; i++) {
            const int64_t row = i / s.cols, c = i % s.cols;
            const uint8_t byte = e.mask[(size_t)(s.offset + row * e.ld_mask + c / 8)];
            const int64_t from = s.offset + row * e.ld + c, to = s.offset + row * e.ld_out + c;
            const int64_t size = size_of(s.out_dtype);
            if (clamps && !(byte >> c % 8 & 1)) {
                memset(want.data() + to * size, 0, (size_t)size);
            } else if (grad_dtype == s.out_dtype) {
                memcpy(want.data() + to * size, g.data() + from * size, (size_t)size);
            } else {
                nib_store_f32((int)s.out_dtype, want.data(), to,
                              nib_load_f32((int)grad_dtype, g.data(), from));
            }
        }
        const Device<uint8_t> grad(g), apart(Bytes(e.values.size(), poison));
        const Device<uint8_t> &out = in_place ? grad : apart;
        nib_fake_request r = request;
        r.gradient = clamps ? NIB_FAKE_CLAMP : NIB_FAKE_IDENTITY;
        r.mask = kind == 1 ? (uint8_t *)given_mask + s.offset : nullptr;
        const nib_matrix grad_out = matrix_at(s, grad, grad_dtype, e.ld);
        const nib_matrix grad_in = matrix_at(s, out, s.out_dtype, e.ld_out);
        const nib_status status = nib_cuda_fake_backward(&launch, &grad_out,
                                                         kind == 0 ? &src : nullptr, &r, &grad_in);
        const char *const names[] = { "clamped again", "clamped by mask", "identity" };
        tell(names[kind], status, out.read(), want);
    }

    const Device<uint8_t> &out = s.in_place ? x : own;
    const nib_matrix dst = matrix_at(s, out, s.out_dtype, e.ld_out);
    const nib_status status = nib_cuda_fake_quantize(&launch, &src, &request, &dst);
    tell("values", status, out.read(), e.values);
    if (s.mask) tell("mask", status, mask.read(), e.mask);
    if (!s.in_place) tell("src", status, x.read(), e.x);
}

/* By given scales, all bytes among them: as the CPU's plain C. */
void check_given(const Setting &s, nib_scale_layout layout, uint64_t seed)
{
    Random random(seed);
    const std::vector<uint64_t> words = { random.next(), random.next() };
    const Expected e = expected(s, words.data(), random); /* whose scales are not these */
    const bool     has_tensor = nib_part_has_tensor_scale(s.format) != 0;
    const int64_t  scales = nib_ceil_div(s.cols, nib_part_block(s.format));
    const int64_t  count = layout == NIB_SCALES_LINEAR
                             ? s.rows * scales
                             : nib_ceil_div(s.rows, 128) * nib_ceil_div(scales, 4) * 512;
    const int64_t  grad_bytes = (s.offset + s.rows * e.ld) * size_of(s.dtype) + guard;
    Bytes bytes((size_t)count), values = s.in_place ? e.x : Bytes(e.values.size(), poison);
    Bytes mask(e.mask.size(), poison), grad((size_t)grad_bytes, poison);
    for (uint8_t &b : bytes) {
        b = (uint8_t)(random.below(3) ? 100 + random.below(50) : random.next());
    }

    nib_launch launch = {};
    launch.threads = 1;
    nib_fake_request request = {};
    float            tensor = s.given;
    request.quantize = request_of(s);
    request.quantize.random = words.data();
    request.format = s.format;
    request.tensor_scale = has_tensor ? &tensor : nullptr;
    request.gradient = NIB_FAKE_CLAMP;
    request.scales = bytes.data();
    request.scale_layout = layout;
    request.ld_mask_bytes = e.ld_mask;
    Bytes x = e.x;
    const nib_matrix src = matrix_at(s, x.data(), s.dtype, e.ld);
    const nib_matrix into = matrix_at(s, grad.data(), s.dtype, e.ld);
    const nib_matrix dst = matrix_at(s, values.data(), s.out_dtype, e.ld_out);
    (void)nib_backend_cpu_portable.fake_quantize_backward(&launch, &src, &src, &request, &into);
    request.mask = mask.data() + s.offset;
    (void)nib_backend_cpu_portable.fake_quantize(&launch, &src, &request, &dst);

    const Device<uint8_t>  d_x(e.x), d_bytes(bytes), d_grad(Bytes((size_t)grad_bytes, poison));
    const Device<uint8_t>  own(Bytes(e.values.size(), poison));
    const Device<uint8_t>  d_mask(Bytes(e.mask.size(), poison));
    const Device<float>    d_tensor(std::vector<float>{ s.given });
    const Device<uint64_t> d_words(words);
    const Device<uint8_t> &out = s.in_place ? d_x : own;
    request.quantize.random = (uint64_t *)d_words;
    request.tensor_scale = has_tensor ? (float *)d_tensor : nullptr;
    request.scales = (uint8_t *)d_bytes;
    request.mask = nullptr;
    const nib_matrix d_src = matrix_at(s, d_x, s.dtype, e.ld);
    const nib_matrix d_into = matrix_at(s, d_grad, s.dtype, e.ld);
    const nib_matrix d_dst = matrix_at(s, out, s.out_dtype, e.ld_out);
    const nib_status back = nib_cuda_fake_backward(&launch, &d_src, &d_src, &request, &d_into);
    request.mask = (uint8_t *)d_mask + s.offset;
    const nib_status forth = nib_cuda_fake_quantize(&launch, &d_src, &request, &d_dst);
    EXPECT(back == NIB_OK && forth == NIB_OK && d_grad.read() == grad && out.read() == values
               && d_mask.read() == mask,
           "seed %llu: gradient %d, values %d, mask %d: format %#x dtype %d to %d, %lld x %lld at "
           "%lld, layout %d preset %d rounding %d in place %d given %g", (unsigned long long)seed,
           d_grad.read() == grad, out.read() == values, d_mask.read() == mask, s.format, s.dtype,
           s.out_dtype, (long long)s.rows, (long long)s.cols, (long long)s.offset, layout,
           s.preset, s.rounding, s.in_place, (double)s.given);
}

} // namespace

NIB_TEST(FakeQuantEmu, GivenScales)
{
    Random random(9);
    for (uint64_t seed = 0; seed < 200; seed++) {
        Setting s;
        s.format = named[random.below(15)];
        s.dtype = dtypes[random.below(3)];
        s.out_dtype = random.below(2) ? s.dtype : dtypes[random.below(3)];
        s.preset = (nib_rules_preset)random.below(5);
        s.rounding = (nib_rounding)random.below(2);
        s.rows = 1 + random.below(seed % 8 ? 9 : 150);
        s.cols = 1 + random.below(seed % 8 ? 200 : 40);
        s.ld_extra = random.below(9), s.out_extra = random.below(9), s.offset = random.below(3);
        s.in_place = s.out_dtype == s.dtype && random.below(2);
        s.given = random.below(3) ? 0.02f : ldexpf(1.3f, random.below(250) - 127);
        check_given(s, (nib_scale_layout)random.below(2), seed);
    }
    each_schedule([] {
        Setting s;
        s.format = NIB_NVFP4, s.rows = 140, s.cols = 160, s.given = 0.02f;
        check_given(s, NIB_SCALES_SWIZZLED_128X4, 1);
        s.format = NIB_MXFP8_E4M3, s.in_place = true;
        check_given(s, NIB_SCALES_LINEAR, 2);
    });
}

/* The adder's rounding to the grid, for every binade, tie and neighbour of one. */
NIB_TEST(FakeQuantEmu, NearestValues)
{
    const nib_element_traits t = nib_element_traits_of(NIB_EL_E2M1);
    uint64_t wrong = 0, seen = 0;
    const auto look = [&](uint32_t bits) {
        const float a = nib_float_of(bits);
        const float want = nib_decode_magnitude(t, nib_encode_nearest(t, a));
        wrong += nib_bits_of(nib_e2m1_nearest(a)) != nib_bits_of(want);
        if (a < 7.0f) wrong += nib_bits_of(nib_e2m1_nearest_below7(a)) != nib_bits_of(want);
        seen++;
    };
    for (uint32_t bits = 0x3e000000u; bits <= 0x41000000u; bits++) look(bits); /* 1/8 .. 8 */
    for (uint64_t bits = 0; bits <= NIB_F32_INF_BITS; bits += 4099) look((uint32_t)bits);
    look(NIB_F32_INF_BITS);
    EXPECT(wrong == 0, "%llu of %llu magnitudes", (unsigned long long)wrong,
           (unsigned long long)seen);
}

/* Aligned rows of whole blocks are the fast kernels', by every preset. */
NIB_TEST(FakeQuantEmu, NamedFormatsPresetsAndTypes)
{
    uint64_t seed = 0;
    for (const nib_format format : named) {
        for (int preset = NIB_RULES_TE; preset <= NIB_RULES_GGUF; preset++) {
            for (const nib_dtype dtype : dtypes) {
                for (const float given : { 0.0f, 0.0078125f, 3.3f, 3e38f, INFINITY }) {
                    if (given != 0.0f && !nib_part_has_tensor_scale(format)) continue;
                    Setting s;
                    s.format = format, s.dtype = s.out_dtype = dtype;
                    s.preset = (nib_rules_preset)preset, s.given = given;
                    s.cols = 32 * (1 + (int64_t)(seed % 9));
                    s.in_place = seed % 3 == 0, s.mask = seed % 4 != 0;
                    check(s, seed++);
                }
            }
        }
    }
}

NIB_TEST(FakeQuantEmu, RaggedAndUnalignedRows)
{
    Random random(5);
    for (uint64_t seed = 0; seed < 300; seed++) {
        Setting s;
        s.format = named[random.below(seed % 3 ? 4 : 15)];
        s.dtype = dtypes[random.below(3)];
        s.out_dtype = random.below(3) ? s.dtype : dtypes[random.below(3)];
        s.preset = (nib_rules_preset)random.below(5);
        s.rows = 1 + random.below(9);
        s.cols = 1 + random.below(200);
        s.ld_extra = random.below(2) ? random.below(33) : 15 - (s.cols + 15) % 16;
        s.out_extra = random.below(2) ? random.below(33) : s.ld_extra;
        s.mask_extra = random.below(3);
        s.offset = random.below(3) ? 0 : random.below(9);
        s.in_place = s.out_dtype == s.dtype && random.below(2);
        s.mask = random.below(2);
        s.given = random.below(2) ? 0.0f : 0.02f;
        check(s, seed);
    }
}

/* Rules that no preset has, which the fast kernels know in part. */
NIB_TEST(FakeQuantEmu, AnyRules)
{
    Random random(6);
    for (uint64_t seed = 0; seed < 400; seed++) {
        Setting s;
        s.format = named[random.below(seed % 5 ? 4 : 15)];
        s.dtype = s.out_dtype = dtypes[random.below(3)];
        s.cols = 16 + random.below(6) * 16;
        s.given = random.below(3) ? 0.0f : ldexpf(1.3f, random.below(150) - 100);
        s.in_place = random.below(2);
        (void)nib_rules_fill(NIB_RULES_TE, s.format, &s.rules);
        s.rules.tensor = (nib_tensor_rule)random.below(3);
        s.rules.block = (nib_block_rule)random.below(3);
        s.rules.element = (nib_element_rule)random.below(3);
        s.rules.mx = (nib_mx_rule)random.below(7);
        s.rules.ties = (nib_tie_rule)random.below(2);
        s.rules.zero_sign = (nib_zero_rule)(random.below(2) ? NIB_ZERO_INPUT : random.below(5));
        s.rules.nonfinite = (nib_nonfinite_rule)random.below(2);
        s.rules.e4m3_zero = random.below(2) ? 0 : (uint32_t)random.below(127);
        s.rules.e4m3_min = random.below(2) ? 0 : (uint32_t)random.below(127);
        check(s, seed);
    }
}

NIB_TEST(FakeQuantEmu, SearchedScalesAndStochasticRounding)
{
    Random random(7);
    for (uint64_t seed = 0; seed < 120; seed++) {
        Setting s;
        s.format = named[random.below(15)];
        s.dtype = s.out_dtype = dtypes[random.below(3)];
        s.preset = (nib_rules_preset)random.below(5);
        s.rows = 1 + random.below(3);
        s.cols = 1 + random.below(70);
        const bool four_over_six = s.format == NIB_NVFP4 || s.format == NIB_NVFP4_B32;
        s.choice = (nib_scale_choice)random.below(four_over_six ? 5 : 3);
        if (s.choice == NIB_SCALE_MSE_FULL) s.cols = 1 + random.below(20), s.rows = 1;
        s.rounding = (nib_rounding)random.below(2);
        s.in_place = random.below(2);
        check(s, seed);
    }
}

/* Several tiles along and down, in either direction, and passes of several vectors a thread. */
NIB_TEST(FakeQuantEmu, SeveralTilesUnderEverySchedule)
{
    each_schedule([] {
        for (const nib_format format : { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP8_E4M3 }) {
            Setting s;
            s.format = format, s.rows = 70, s.cols = 160, s.in_place = format != NIB_NVFP4;
            check(s, 1);
            s.rows = 2, s.given = 0.02f;
            s.cols = 16 * (NIB_FAKE_PASS_VECTORS * NIB_FAKE_PASS_THREADS / 2 + 20);
            check(s, 2);
        }
    });
}

/* So many rows that each thread takes two, forward and backward. */
NIB_TEST(FakeQuantEmu, ThreadsTakeSeveralRows)
{
    Setting s;
    s.format = NIB_NVFP4, s.cols = 16, s.mask_extra = 1;
    s.rows = NIB_FAKE_THREADS / NIB_QUANTIZE_MIN_WIDTH * 2 * NIB_QUANTIZE_ENOUGH_BLOCKS + 70;
    check(s, 1);
    s.given = 0.02f, s.in_place = true;
    check(s, 2);
}

NIB_TEST(FakeQuantEmu, LargerBlocksAreRefused)
{
    nib_launch       launch = {};
    char             why[NIB_WHY_BYTES] = "";
    nib_fake_request request = {};
    float            x = 1.0f;
    const nib_matrix m = { &x, NIB_F32, 1, 1, 1 };
    launch.why = why;
    request.format = 0x00801100; /* E2M1 by E4M3 by 128 */
    request.tensor_scale = &x;
    EXPECT(nib_cuda_fake_quantize(&launch, &m, &request, &m) == NIB_ERR_UNSUPPORTED
           && strstr(why, "128"), "%s", why);
    request.gradient = NIB_FAKE_CLAMP;
    EXPECT(nib_cuda_fake_backward(&launch, &m, &m, &request, &m) == NIB_ERR_UNSUPPORTED
           && strstr(why, "128"), "%s", why);
}
