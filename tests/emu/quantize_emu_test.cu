/* quantize_emu_test.cu: quantize's kernels write the bytes of the CPU's plain C. */
#include "kernels/cuda/ops_cuda.cuh"
#include "kernels/cuda/quantize_tune.h"
#include "kernels/packed.h"
#include "tests/emu/quantize_source.h"

#include <stdio.h>
#include <string.h>

namespace {

constexpr uint8_t poison = 0xa5;

struct Setting {
    nib_format       format;
    nib_dtype        dtype = NIB_BF16;
    int64_t          rows = 3, cols = 96, ld_extra = 0, codes_extra = 0;
    int64_t          offset = 0;        /* of the source, in elements; of codes, in bytes */
    int64_t          count = 1, tensor_stride = 1;
    nib_rules_preset preset = NIB_RULES_TE;
    nib_scale_layout layout = NIB_SCALES_LINEAR;
    nib_code_order   order = NIB_CODES_PAIRS;
    nib_scale_choice choice = NIB_SCALE_AMAX;
    nib_rounding     rounding = NIB_ROUND_NEAREST;
    float            given = 0.0f;      /* tensor scale; 0: from amax */
    nib_rules        rules = {};        /* instead of the preset's, where size is not 0 */
    int32_t          scale_rows = 1;
    int              even = 0;          /* 1: elements of one size, 2: of few values */
    std::vector<float> elements = {};   /* all of them, where there are some */
};

struct Outcome {
    std::vector<uint8_t> codes, scales;
    std::vector<float>   tensor;
};

bool equal(const Outcome &a, const Outcome &b)
{
    return a.codes == b.codes && a.scales == b.scales && a.tensor.size() == b.tensor.size()
        && !memcmp(a.tensor.data(), b.tensor.data(), 4 * a.tensor.size());
}

/* Both backends on one batch. The descriptors that go with it hold device pointers for one. */
void check(const Setting &s, uint64_t seed)
{
    Random random(seed);
    const int64_t size = s.dtype == NIB_F32 ? 4 : 2, block = nib_part_block(s.format);
    const int64_t row_bytes = nib_code_bytes(nib_part_bits(s.format), s.cols);
    const int64_t scale_cols = nib_ceil_div(s.cols, block), ld = s.cols + s.ld_extra;
    const int64_t ld_codes = row_bytes + s.codes_extra;
    const int64_t scales = s.layout == NIB_SCALES_LINEAR
        ? s.rows * scale_cols
        : nib_ceil_div(s.rows, 128) * 128 * nib_ceil_div(scale_cols, 4) * 4;
    const bool    has_tensor = nib_part_has_tensor_scale(s.format) != 0;
    nib_batch     batch = {};
    batch.size = sizeof batch;
    batch.count = s.count;
    batch.matrix_stride_elems = s.rows * ld + s.ld_extra;
    batch.codes_stride_bytes = s.rows * ld_codes + s.codes_extra;
    batch.scales_stride_bytes = scales + 3;
    batch.tensor_stride = s.tensor_stride;

    std::vector<uint8_t> x =
        source(s.dtype, (size_t)(s.offset + s.count * batch.matrix_stride_elems), random);
    for (size_t i = 0; i < s.elements.size(); i++) {
        nib_store_f32((int)s.dtype, x.data(), (int64_t)i, s.elements[i]);
    }
    const int64_t elements = s.even ? (int64_t)(x.size() - guard) / size : 0;
    for (int64_t i = 0; i < elements; i++) {
        const float bell = unit(random) + unit(random) + unit(random) + unit(random);
        nib_store_f32((int)s.dtype, x.data(), i,
                      s.even == 1 ? bell : 0.375f * (float)(random.below(9) - 4));
    }
    Outcome want;
    want.codes.assign((size_t)(s.offset + s.count * batch.codes_stride_bytes) + guard, poison);
    want.scales.assign((size_t)(s.count * batch.scales_stride_bytes) + guard, poison);
    want.tensor.assign((size_t)s.count, s.given);
    const Outcome before = want;

    nib_quantize_request request = {};
    request.rules = s.rules;
    if (!s.rules.size) (void)nib_rules_fill(s.preset, s.format, &request.rules);
    request.scale_choice = s.choice;
    request.rounding = s.rounding;
    request.scale_rows = s.scale_rows;
    const std::vector<uint64_t> words = { random.next(), random.next() };

    nib_launch launch = {};
    launch.threads = 1;
    const uint8_t *const first = x.data() + s.offset * size;
    std::vector<float> amax((size_t)s.count, 0.0f);
    for (int64_t i = 0; i < s.count; i++) {
        const nib_matrix m = { (void *)(uintptr_t)(first + i * batch.matrix_stride_elems * size),
                               s.dtype, s.rows, s.cols, ld };
        float a = 0.0f;
        (void)nib_backend_cpu_portable.amax(&launch, &m, &a, nullptr);
        float &to = amax[(size_t)(i * s.tensor_stride)];
        to = a > to ? a : to;
    }
    for (int64_t i = 0; i < s.count; i++) {
        const nib_matrix m = { (void *)(uintptr_t)(first + i * batch.matrix_stride_elems * size),
                               s.dtype, s.rows, s.cols, ld };
        const nib_packed p = {
            sizeof p, s.format, s.order, s.layout, s.rows, s.cols,
            want.codes.data() + s.offset + i * batch.codes_stride_bytes, ld_codes,
            want.scales.data() + i * batch.scales_stride_bytes,
            has_tensor ? &want.tensor[(size_t)(i * s.tensor_stride)] : nullptr
        };
        const uint64_t quads = (uint64_t)(s.rows * s.cols + 3) / 4;
        const uint64_t of_matrix[2] = { words[0], words[1] + (uint64_t)i * quads };
        nib_quantize_request r = request;
        r.random = s.rounding == NIB_ROUND_STOCHASTIC ? of_matrix : nullptr;
        r.tensor_amax = has_tensor && s.given == 0.0f ? &amax[(size_t)(i * s.tensor_stride)]
                                                      : nullptr;
        (void)nib_backend_cpu_portable.quantize(&launch, &m, &r, &p);
    }

    const Device<uint8_t>  device_x(x), codes(before.codes), scale_bytes(before.scales);
    const Device<float>    tensor(before.tensor), device_amax(amax);
    const Device<uint64_t> device_words(words);
    const nib_matrix m = { (uint8_t *)device_x + s.offset * size, s.dtype, s.rows, s.cols, ld };
    const nib_packed p = { sizeof p, s.format, s.order, s.layout, s.rows, s.cols,
                           (uint8_t *)codes + s.offset, ld_codes, scale_bytes,
                           has_tensor ? (float *)tensor : nullptr };
    request.random = s.rounding == NIB_ROUND_STOCHASTIC ? (uint64_t *)device_words : nullptr;
    request.tensor_amax = has_tensor && s.given == 0.0f ? (float *)device_amax : nullptr;
    char why[NIB_WHY_BYTES] = "";
    launch.why = why;
    const nib_status status = nib_cuda_quantize(&launch, &batch, &m, &request, &p);
    const Outcome got = { codes.read(), scale_bytes.read(), tensor.read() };

    EXPECT(status == NIB_OK && equal(want, got),
           "status %d %s: format %#x dtype %d %lld x %lld x %lld + %lld, %lld at %lld, layout %d "
           "order %d preset %d choice %d rounding %d given %g stride %lld rows %d: codes %d "
           "scales %d",
           status, why, s.format, s.dtype, (long long)s.count, (long long)s.rows,
           (long long)s.cols, (long long)s.ld_extra, (long long)s.codes_extra,
           (long long)s.offset, s.layout, s.order, s.preset, s.choice, s.rounding,
           (double)s.given, (long long)s.tensor_stride, s.scale_rows, got.codes == want.codes,
           got.scales == want.scales);
}

} // namespace

/* Aligned rows of whole blocks are the fast kernels', by every preset. */
NIB_TEST(QuantizeEmu, NamedFormatsPresetsAndTypes)
{
    uint64_t seed = 0;
    for (const nib_format format : named) {
        for (int preset = NIB_RULES_TE; preset <= NIB_RULES_GGUF; preset++) {
            for (const nib_dtype dtype : dtypes) {
                for (const float given : { 0.0f, 0.0078125f, 3.3f, INFINITY }) {
                    if (given != 0.0f && !nib_part_has_tensor_scale(format)) continue;
                    Setting s;
                    s.format = format, s.dtype = dtype, s.preset = (nib_rules_preset)preset;
                    s.given = given;
                    s.cols = 32 * (1 + (int64_t)(seed % 9));
                    s.layout = seed % 2 ? NIB_SCALES_SWIZZLED_128X4 : NIB_SCALES_LINEAR;
                    check(s, seed++);
                }
            }
        }
    }
}

NIB_TEST(QuantizeEmu, RaggedAndUnalignedRows)
{
    Random random(5);
    for (uint64_t seed = 0; seed < 200; seed++) {
        Setting s;
        s.format = named[random.below(seed % 3 ? 4 : 15)];
        s.dtype = dtypes[random.below(3)];
        s.preset = (nib_rules_preset)random.below(5);
        s.rows = 1 + random.below(9);
        s.cols = 1 + random.below(200);
        s.ld_extra = random.below(2) * random.below(33);
        s.codes_extra = random.below(2) * random.below(17);
        s.offset = random.below(3) ? 0 : random.below(9);
        s.layout = (nib_scale_layout)random.below(2);
        s.given = random.below(2) ? 0.0f : 0.02f;
        check(s, seed);
    }
}

/* Rules that no preset has, which the fast kernels know in part. */
NIB_TEST(QuantizeEmu, AnyRules)
{
    Random random(6);
    for (uint64_t seed = 0; seed < 300; seed++) {
        Setting s;
        s.format = named[random.below(seed % 5 ? 4 : 15)];
        s.dtype = dtypes[random.below(3)];
        s.cols = 16 + random.below(6) * 16;
        s.given = random.below(3) ? 0.0f : ldexpf(1.3f, random.below(40) - 30);
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

NIB_TEST(QuantizeEmu, SearchedScalesStochasticRoundingAndHalves)
{
    Random random(7);
    for (uint64_t seed = 0; seed < 120; seed++) {
        Setting s;
        s.format = named[random.below(15)];
        s.dtype = dtypes[random.below(3)];
        s.preset = (nib_rules_preset)random.below(5);
        s.rows = 1 + random.below(3);
        s.cols = 1 + random.below(70);
        const bool four_over_six = s.format == NIB_NVFP4 || s.format == NIB_NVFP4_B32;
        s.choice = (nib_scale_choice)random.below(four_over_six ? 5 : 3);
        if (s.choice == NIB_SCALE_MSE_FULL) s.cols = 1 + random.below(20), s.rows = 1;
        s.rounding = (nib_rounding)random.below(2);
        s.layout = (nib_scale_layout)random.below(2);
        if (nib_part_bits(s.format) == 4 && random.below(2)) {
            s.order = NIB_CODES_GGUF_HALVES;
            s.cols = nib_part_block(s.format) * (1 + random.below(3));
        }
        check(s, seed);
    }
}

const nib_format e2m1[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16, 0x00100100 };

/* Aligned rows of whole blocks, some with elements that are not finite, and ragged ends: what the
 * fast kernels take, and what they leave. */
NIB_TEST(QuantizeEmu, SearchedScalesOfTheFastKernels)
{
    Random random(9);
    for (uint64_t seed = 0; seed < 400; seed++) {
        Setting s;
        s.format = e2m1[random.below(5)];
        s.dtype = dtypes[random.below(3)];
        s.preset = random.below(2) ? NIB_RULES_TE : NIB_RULES_MODELOPT;
        s.rows = 1 + random.below(9);
        s.cols = random.below(4) ? 32 * (1 + random.below(6)) : 1 + random.below(180);
        if (s.cols % 8) {
            s.ld_extra = 15 - (s.cols + 15) % 16;
            s.codes_extra = 8 - (s.cols + 1) / 2 % 8;
        }
        s.choice = nib_part_e4m3_scale(s.format)
            ? (nib_scale_choice)(random.below(3) ? 2 + random.below(3) : 1) : NIB_SCALE_MSE;
        if (s.choice == NIB_SCALE_MSE_FULL) s.choice = NIB_SCALE_MSE;
        s.layout = (nib_scale_layout)random.below(2);
        const float given[] = { 0.0f, 0.0f, 0.02f, 1e-44f, 1e-30f, 3e38f };
        s.given = given[random.below(6)];
        s.even = random.below(3);
        check(s, seed);
    }
}

/* Many blocks of one size, whose errors are first estimated, and of few values: errors that tie. */
NIB_TEST(QuantizeEmu, EstimatedErrors)
{
    uint64_t seed = 0;
    for (const nib_format format : { NIB_NVFP4, NIB_NVFP4_B32 }) {
        for (const nib_rules_preset preset : { NIB_RULES_TE, NIB_RULES_MODELOPT }) {
            for (const nib_dtype dtype : dtypes) {
                for (int even = 1; even < 3; even++) {
                    Setting s;
                    s.format = format, s.preset = preset, s.dtype = dtype, s.even = even;
                    s.rows = 48, s.cols = 1024, s.choice = NIB_SCALE_MSE;
                    s.given = seed % 2 ? 0.0f : 0.003f;
                    check(s, seed++);
                }
            }
        }
    }
}

/* Pairs of blocks in which one element differs by the least that there is, and with it the scale
 * of least error: two errors lie nearer to each other than any estimate can tell. */
NIB_TEST(QuantizeEmu, ErrorsThatAlmostTie)
{
    Random  random(12);
    Setting s;
    s.format = NIB_NVFP4, s.dtype = NIB_F32, s.choice = NIB_SCALE_MSE, s.given = 1.0f;
    (void)nib_rules_fill(NIB_RULES_TE, s.format, &s.rules);
    const nib_block_rules rules = nib_block_rules_of(s.format, &s.rules, s.choice, s.dtype);
    const nib_tensor_math math = nib_tensor_math_of(&rules, nib_tensor_given(1.0f));
    float block[16];
    const auto best = [&](uint32_t bits) {
        block[3] = nib_float_of(bits);
        return nib_block_search(&math, NIB_SC_MSE, block, 16, 40.0f);
    };
    while (s.elements.size() < 800 * 32) {
        for (float &x : block) x = 16.0f * unit(random);
        block[0] = 40.0f;
        uint32_t low = nib_bits_of(0.5f), high = nib_bits_of(39.0f);
        if (best(low) == best(high)) continue;
        while (high - low > 1) {
            const uint32_t middle = low + (high - low) / 2;
            if (best(middle) == best(low)) low = middle;
            else high = middle;
        }
        for (const uint32_t bits : { low, high }) {
            (void)best(bits);
            s.elements.insert(s.elements.end(), block, block + 16);
        }
    }
    s.rows = 100, s.cols = (int64_t)s.elements.size() / s.rows;
    check(s, 1);
}

NIB_TEST(QuantizeEmu, StochasticRoundingOfTheFastKernel)
{
    Random random(10);
    for (uint64_t seed = 0; seed < 120; seed++) {
        Setting s;
        s.format = e2m1[random.below(5)];
        s.dtype = dtypes[random.below(3)];
        s.rounding = NIB_ROUND_STOCHASTIC;
        s.count = 1 + random.below(3);
        s.rows = 1 + random.below(7);
        s.cols = 4 * (1 + random.below(40));
        s.ld_extra = 15 - (s.cols + 15) % 16, s.codes_extra = 7 - (s.cols / 2 + 7) % 8;
        s.layout = (nib_scale_layout)random.below(2);
        s.given = random.below(2) ? 0.0f : 0.02f;
        s.even = random.below(2);
        check(s, seed);
    }
}

/* Rows that share scales: the fast kernel's, and all others. */
NIB_TEST(QuantizeEmu, ScalesOfSixteenRows)
{
    Random random(11);
    for (uint64_t seed = 0; seed < 300; seed++) {
        Setting s;
        s.scale_rows = 16;
        s.format = seed % 3 ? e2m1[random.below(5)] : named[random.below(15)];
        s.dtype = dtypes[random.below(3)];
        s.preset = random.below(3) ? NIB_RULES_TE : (nib_rules_preset)random.below(5);
        s.count = 1 + random.below(2);
        s.rows = 1 + random.below(70);
        s.cols = random.below(3) ? 32 * (1 + random.below(9)) : 1 + random.below(90);
        if (s.count > 1 || s.cols % 16) s.ld_extra = 15 - (s.cols + 15) % 16;
        if (s.cols % 16) s.codes_extra = 8;
        s.rounding = (nib_rounding)(random.below(5) == 0);
        s.layout = (nib_scale_layout)random.below(2);
        s.given = random.below(2) ? 0.0f : 0.02f;
        s.even = random.below(2);
        if (nib_part_bits(s.format) == 4 && random.below(5) == 0) {
            s.order = NIB_CODES_GGUF_HALVES;
            s.cols = nib_part_block(s.format) * (1 + random.below(3));
        }
        check(s, seed);
    }
}

NIB_TEST(QuantizeEmu, Batches)
{
    Random random(8);
    for (uint64_t seed = 0; seed < 60; seed++) {
        Setting s;
        s.format = named[random.below(seed % 3 ? 4 : 15)];
        s.dtype = dtypes[random.below(3)];
        s.count = 2 + random.below(3);
        s.rows = 1 + random.below(5);
        s.cols = 16 + random.below(4) * 16;
        s.ld_extra = random.below(2) * 16;
        s.codes_extra = random.below(2) * 8;
        s.tensor_stride = random.below(2);
        s.given = random.below(2) ? 0.0f : 0.02f;
        s.rounding = (nib_rounding)(random.below(4) == 0);
        if (s.rounding == NIB_ROUND_STOCHASTIC) s.cols -= random.below(4); /* counters in fours */
        s.layout = (nib_scale_layout)random.below(2);
        check(s, seed);
    }
}

/* Enough rows that threads take several, in either direction; more tiles of scales than one. */
NIB_TEST(QuantizeEmu, SeveralTilesUnderEverySchedule)
{
    each_schedule([] {
        for (const float given : { 0.0f, 0.02f }) {
            for (const nib_format format : { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4 }) {
                Setting s;
                s.format = format, s.rows = 130, s.cols = 160, s.given = given;
                s.layout = NIB_SCALES_SWIZZLED_128X4;
                check(s, 1);
                s.scale_rows = 16;
                check(s, 2);
                s.scale_rows = 1, s.choice = NIB_SCALE_MSE;
                check(s, 3);
            }
        }
    });
}

/* So many rows that each thread takes two, forward and backward. */
NIB_TEST(QuantizeEmu, ThreadsTakeSeveralRows)
{
    Setting s;
    s.format = NIB_NVFP4, s.rows = 64 * 2 * NIB_QUANTIZE_ENOUGH_BLOCKS + 70, s.cols = 16;
    check(s, 1);
    s.given = 0.02f, s.layout = NIB_SCALES_SWIZZLED_128X4;
    check(s, 2);
}

/* A launch with nothing to quantize still writes the tensor scale. */
NIB_TEST(QuantizeEmu, NothingButATensorScale)
{
    Setting s;
    s.format = NIB_NVFP4, s.rows = 0, s.count = 3;
    check(s, 1);
    s.rows = 3, s.cols = 0;
    check(s, 1);
    s.tensor_stride = 0;
    check(s, 1);
    s.format = NIB_MXFP4;
    check(s, 1);
}

NIB_TEST(QuantizeEmu, LargerBlocksAreRefused)
{
    nib_launch           launch = {};
    char                 why[NIB_WHY_BYTES] = "";
    nib_batch            batch = {};
    nib_quantize_request request = {};
    nib_matrix           src = {};
    nib_packed           dst = {};
    launch.why = why;
    batch.count = 1;
    dst.format = 0x00801100; /* E2M1 by E4M3 by 128 */
    EXPECT(nib_cuda_quantize(&launch, &batch, &src, &request, &dst) == NIB_ERR_UNSUPPORTED
           && strstr(why, "128"), "%s", why);
}
