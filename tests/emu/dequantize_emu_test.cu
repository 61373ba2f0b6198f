/* dequantize_emu_test.cu: the CUDA backend's dequantize against the CPU's portable one: whole
 * buffers, with what lies before, between and behind the rows. */
#include "kernels/cuda/ops_cuda.cuh"
#include "kernels/packed.h"
#include "tests/emu/emu_test.h"

#include <string.h>

/* Both nibbles' order, block lengths without a name, and all named formats. */
static const nib_format formats[] = {
    NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16, NIB_MXFP6_E2M3, NIB_MXFP6_E3M2,
    NIB_MXFP8_E4M3, NIB_MXFP8_E5M2, NIB_FP6_E2M3_B8, NIB_FP6_E2M3_B16, NIB_FP6_E2M3_B32,
    NIB_FP8_E4M3_B8, NIB_FP8_E4M3_B16, NIB_FP8_E4M3_B32,
    0x00081100 /* e2m1/e4m3/8/tensor */, 0x00400000 /* e2m1/e8m0/64 */,
};
enum { FORMATS = sizeof formats / sizeof *formats, NAMED_FP4 = 4 };

struct Case {
    nib_format       format = NIB_NVFP4;
    nib_dtype        dtype = NIB_BF16;
    nib_code_order   order = NIB_CODES_PAIRS;
    nib_scale_layout layout = NIB_SCALES_LINEAR;
    int64_t          rows = 1, cols = 1, count = 1;
    int64_t          ld_codes_extra = 0, ld_extra = 0, gap = 0; /* gap: between matrices, bytes */
    int64_t          codes_before = 0, values_before = 0;       /* bytes, elements */
    int64_t          tensor_stride = 1;
};

/* Sizes in bytes of one matrix, and strides. */
struct Sizes {
    int64_t ld_codes, ld, scale_cols, codes, scales, values, element;

    explicit Sizes(const Case &c)
    {
        const int block = nib_part_block(c.format);
        element = c.dtype == NIB_F32 ? 4 : 2;
        scale_cols = nib_ceil_div(c.cols, block);
        ld_codes = nib_code_bytes(nib_part_bits(c.format), c.cols) + c.ld_codes_extra;
        ld = c.cols + c.ld_extra;
        codes = c.rows * ld_codes + c.gap;
        scales = c.gap + (c.layout == NIB_SCALES_LINEAR
                              ? c.rows * scale_cols
                              : nib_ceil_div(c.rows, 128) * nib_ceil_div(scale_cols, 4) * 512);
        values = (c.rows * ld + c.gap) * element;
    }
};

struct Inputs {
    std::vector<uint8_t> codes, scales;
    std::vector<float>   tensor;
};

static Inputs random_inputs(const Case &c, Random &random)
{
    const Sizes s(c);
    Inputs in;
    in.codes.resize((size_t)(c.codes_before + c.count * s.codes));
    in.scales.resize((size_t)(c.count * s.scales));
    for (uint8_t &b : in.codes) b = (uint8_t)random.next();
    /* Mostly small scales: NaN in each row would leave the fast path untested. */
    for (uint8_t &b : in.scales) b = (uint8_t)(random.below(64) ? 90 + random.below(36)
                                                                : random.below(256));
    for (int64_t i = 0; i < c.count; i++) {
        in.tensor.push_back(random.below(8) ? nib_float_of(random.next() % 0x7f800000u) : 1.0f);
    }
    return in;
}

/* The library gives a backend a tensor scale exactly when the format has one. */
static nib_packed packed_of(const Case &c, uint8_t *codes, uint8_t *scales, float *tensor)
{
    const Sizes s(c);
    return { (uint32_t)sizeof(nib_packed), c.format, c.order, c.layout, c.rows, c.cols, codes,
             s.ld_codes, scales, nib_part_has_tensor_scale(c.format) ? tensor : nullptr };
}

static void expect_equal(const Case &c, const Inputs &in, int32_t debug = 0)
{
    const Sizes s(c);
    const size_t bytes = (size_t)(c.values_before * s.element + c.count * s.values + 64);
    std::vector<uint8_t> want(bytes, 0xa5), codes = in.codes, scales = in.scales;
    std::vector<float> tensor = in.tensor;
    for (int64_t i = 0; i < c.count; i++) {
        const nib_launch launch = { nullptr, nullptr, 0, 1, 0, 0, nullptr };
        const nib_packed src = packed_of(c, codes.data() + c.codes_before + i * s.codes,
                                         scales.data() + i * s.scales,
                                         tensor.data() + i * c.tensor_stride);
        const nib_matrix dst = { want.data() + c.values_before * s.element + i * s.values, c.dtype,
                                 c.rows, c.cols, s.ld };
        (void)nib_backend_cpu_portable.dequantize(&launch, &src, &dst);
    }

    char why[NIB_WHY_BYTES] = "";
    const nib_launch launch = { nullptr, nullptr, 0, 0, 0, debug, why };
    const nib_batch batch = { (uint32_t)sizeof(nib_batch), c.count, s.values / s.element, s.codes,
                              s.scales, c.tensor_stride };
    Device<uint8_t> d_codes(in.codes), d_scales(in.scales);
    Device<uint8_t> d_values(std::vector<uint8_t>(bytes, 0xa5));
    Device<float> d_tensor(in.tensor);
    const nib_packed src = packed_of(c, d_codes + c.codes_before, d_scales, d_tensor);
    const nib_matrix dst = { d_values + c.values_before * s.element, c.dtype, c.rows, c.cols,
                             s.ld };
    const nib_status status = nib_cuda_dequantize(&launch, &batch, &src, &dst);
    EXPECT(status == NIB_OK, "%s", why);
    const std::vector<uint8_t> got = d_values.read();
    size_t at = 0;
    while (at < bytes && got[at] == want[at]) at++;
    EXPECT(at == bytes, "byte %zu of %zu is %02x, not %02x: format %#x dtype %d order %d layout "
           "%d, %lld x %lld x %lld, + %lld, + %lld, gap %lld, before %lld, %lld", at, bytes,
           at < bytes ? got[at] : 0, at < bytes ? want[at] : 0, c.format, (int)c.dtype,
           (int)c.order, (int)c.layout, (long long)c.count, (long long)c.rows, (long long)c.cols,
           (long long)c.ld_codes_extra, (long long)c.ld_extra, (long long)c.gap,
           (long long)c.codes_before, (long long)c.values_before);
}

/* Row r has scale r; its codes begin with all of them, and go on so that each place in a group of
 * eight sees each code. */
static void expect_all_codes_and_scales(Case c, float tensor_scale)
{
    c.rows = 256;
    const Sizes s(c);
    const int bits = nib_part_bits(c.format), codes = 1 << bits;
    Inputs in;
    in.codes.assign((size_t)(c.rows * s.ld_codes), 0);
    in.scales.assign((size_t)s.scales, 0);
    in.tensor.push_back(tensor_scale);
    for (int64_t r = 0; r < c.rows; r++) {
        uint8_t row[256], *at = in.codes.data() + r * s.ld_codes;
        for (int64_t col = 0; col < c.cols; col += 128) {
            const int n = c.cols - col < 128 ? (int)(c.cols - col) : 128;
            memset(row, 0, sizeof row);
            for (int i = 0; i < n; i++) row[i] = (uint8_t)((col + i + (col + i) / 16) % codes);
            nib_pack_codes(bits, 0, row, n, at + col / 8 * bits);
        }
        for (int64_t k = 0; k < s.scale_cols; k++) {
            in.scales[(size_t)nib_scale_index(c.layout, r, k, s.scale_cols)] = (uint8_t)r;
        }
    }
    expect_equal(c, in);
}

/* Steps from underflow to overflow; NaN counts as 1. */
static const float tensor_scales[] = { 1.0f, 0x1.8p-7f, 0x1.234p-130f, 0x1p-149f, 0x1.fp119f,
                                       0x1.fffffep127f, NAN };

NIB_TEST(EmuDequantize, AllFp4CodesAndScales)
{
    for (int f = 0; f < NAMED_FP4; f++) {
        for (int dtype = 0; dtype < 3; dtype++) {
            for (const float t : tensor_scales) {
                Case c;
                c.format = formats[f];
                c.dtype = (nib_dtype)dtype;
                c.layout = (nib_scale_layout)(t == 1.0f);
                c.cols = 1024;
                if (t == 1.0f || nib_part_has_tensor_scale(c.format)) {
                    expect_all_codes_and_scales(c, t);
                }
                c.cols = 256;
                if (t == 1.0f || nib_part_has_tensor_scale(c.format)) {
                    expect_all_codes_and_scales(c, t);
                }
            }
        }
    }
}

NIB_TEST(EmuDequantize, AllCodesAndScalesOfAnyFormat)
{
    for (const nib_format format : formats) {
        for (int dtype = 0; dtype < 3; dtype++) {
            Case c;
            c.format = format;
            c.dtype = (nib_dtype)dtype;
            c.cols = 256;
            c.values_before = format == NIB_NVFP4; /* FP4 by the other kernel as well */
            expect_all_codes_and_scales(c, 0x1.8p-7f);
            c.order = NIB_CODES_GGUF_HALVES;
            if (nib_part_bits(format) == 4) expect_all_codes_and_scales(c, 1.0f);
        }
    }
}

/* aligned: what the fast kernel takes, but for the ends of rows. */
static Case random_case(Random &random, int max_rows, int max_cols, bool aligned)
{
    Case c;
    c.format = formats[random.below(aligned ? NAMED_FP4 : FORMATS)];
    c.dtype = (nib_dtype)random.below(3);
    c.layout = (nib_scale_layout)random.below(2);
    c.rows = 1 + random.below(random.below(3) ? 9 : max_rows);
    c.cols = 1 + random.below(random.below(3) ? max_cols : 80);
    c.count = random.below(3) ? 1 : 1 + random.below(3);
    c.tensor_stride = random.below(2);
    if (aligned) {
        const Sizes s(c);
        c.ld_codes_extra = (8 - s.ld_codes % 8) % 8 + 8 * random.below(2);
        c.ld_extra = (8 - s.ld % 8) % 8 + 8 * random.below(2);
        c.gap = 16 * random.below(3);
        c.codes_before = 4 * random.below(3);
        c.values_before = 8 * random.below(3);
        return c;
    }
    const int block = nib_part_block(c.format);
    if (nib_part_bits(c.format) == 4 && random.below(2)) {
        c.order = NIB_CODES_GGUF_HALVES;
        c.cols = nib_ceil_div(c.cols, block) * block;
    }
    c.ld_codes_extra = random.below(6);
    c.ld_extra = random.below(6);
    c.gap = random.below(7);
    c.codes_before = random.below(5);
    c.values_before = random.below(5);
    return c;
}

static void expect_random(uint64_t seed, int cases, int max_rows, int max_cols)
{
    Random random(seed);
    for (int i = 0; i < cases && !nib_test_failed(); i++) {
        const Case c = random_case(random, max_rows, max_cols, i % 2 == 0);
        const Inputs in = random_inputs(c, random);
        expect_equal(c, in, i % 4 == 1);
    }
}

NIB_TEST(EmuDequantize, RandomShapes) { expect_random(3, 400, 200, 3000); }

NIB_TEST(EmuDequantize, RandomShapesInEachOrder)
{
    each_schedule([] { expect_random(5, 40, 40, 1300); });
}

/* More rows and more matrices than a grid has blocks in y and z. */
NIB_TEST(EmuDequantize, MoreThanAGridHolds)
{
    Random random(7);
    Case c;
    c.dtype = NIB_F16;
    c.cols = 16;
    c.rows = 65535 * 8 + 9;
    expect_equal(c, random_inputs(c, random));
    c.rows = 1;
    c.count = 65537;
    expect_equal(c, random_inputs(c, random));
    c.values_before = 1;
    expect_equal(c, random_inputs(c, random));
}
