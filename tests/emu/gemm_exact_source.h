/* gemm_exact_source.h: packed weights, activations and what a product of them is in double, for the
 * tests of exact products. */
#ifndef NIB_GEMM_EXACT_SOURCE_H
#define NIB_GEMM_EXACT_SOURCE_H

#include "kernels/gemm_pack.h"
#include "tests/emu/own_layout.h"

#include <math.h>
#include <string.h>

namespace {

typedef std::vector<uint8_t> Bytes;
constexpr uint8_t poison = 0xa5;
constexpr size_t  guard = 256;

/* WHOLE: nothing rounds. TOP: E8M0 at both ends. */
enum Scales { ORDINARY, WHOLE, WIDE, TOP, NAN_AT_ROW_3 };

struct Case {
    nib_format      format = NIB_NVFP4;
    nib_gemm_layout layout = own_layout();
    nib_dtype       a = NIB_F16, d = NIB_F16;
    int64_t         m = 3, n = 72, k = 40;
    nib_gemm_act    act = NIB_GEMM_ACT_NONE;
    bool            gated = false, bias = false, residual = false, in_place = false, alpha = false;
    bool            backward = false;
    Scales          scales = ORDINARY;
    int64_t         a_gap = 8, d_gap = 16; /* elements between rows */
    int             shift = 16; /* bytes by which A and D are off 256 */
};

int size_of(nib_dtype d) { return d == NIB_F32 ? 4 : 2; }

struct Inputs {
    Bytes a, bias, residual, codes, scales, packed_codes, packed_scales;
    float alpha = 0.375f, tensor_scale = 1.0f;
    int64_t a_ld, d_ld, d_cols;
    nib_gemm_weights w = {}; /* of the packed bytes, on the host */
};

uint8_t scale_byte(const Case &c, Random &random, int64_t row)
{
    const bool e4m3 = nib_part_e4m3_scale(c.format);
    switch (c.scales) {
    case WHOLE: return (uint8_t)(e4m3 ? 0x30 + 8 * random.below(3) : 126 + random.below(3));
    case WIDE: return (uint8_t)(e4m3 ? random.below(0x7f) : random.below(200) + 40);
    case TOP: return (uint8_t)(random.below(2) ? 254 - random.below(4) : random.below(4));
    case NAN_AT_ROW_3:
        if (row == 3) return e4m3 ? 0x7f : 0xff;
        /* fall through */
    case ORDINARY: break;
    }
    if (e4m3) return (uint8_t)(random.below(0x7f) | (random.below(8) ? 0 : 0x80));
    return (uint8_t)(110 + random.below(30));
}

Bytes numbers(nib_dtype dtype, int64_t n, Random &random, bool whole, float size)
{
    Bytes x((size_t)(n * size_of(dtype)));
    for (int64_t i = 0; i < n; i++) {
        const float v = whole ? (float)(random.below(9) - 4)
                              : size * ((float)(random.next() >> 8) * 0x1p-23f - 1.0f);
        nib_store_f32((int)dtype, x.data(), i, v);
    }
    return x;
}

Inputs inputs_of(const Case &c, uint64_t seed)
{
    Random  random(seed);
    Inputs  in;
    const int     block = nib_part_block(c.format);
    const int64_t scale_cols = nib_ceil_div(c.k, block), ld_codes = nib_ceil_div(c.k, 2);
    const int64_t a_cols = c.backward ? c.n : c.k;
    const bool    whole = c.scales == WHOLE;
    const float   size = c.scales == TOP ? 0x1p-9f : 2.0f;
    in.d_cols = c.backward ? c.k : c.gated ? c.n / 2 : c.n;
    in.a_ld = a_cols + c.a_gap, in.d_ld = in.d_cols + c.d_gap;
    in.a = numbers(c.a, c.m * in.a_ld, random, whole, size);
    in.bias = numbers(c.d, c.n, random, whole, size);
    in.residual = numbers(c.d, c.m * in.d_ld, random, whole, size);
    in.tensor_scale = whole ? 0.25f : 0.0123f;
    in.codes.resize((size_t)(c.n * ld_codes) + 1), in.scales.resize((size_t)(c.n * scale_cols) + 1);
    for (uint8_t &b : in.codes) b = (uint8_t)random.next();
    for (int64_t i = 0; i < c.n * scale_cols; i++)
        in.scales[(size_t)i] = scale_byte(c, random, i / scale_cols);
    const nib_packed src = { sizeof src, c.format, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, c.n, c.k,
                             in.codes.data(), ld_codes, in.scales.data(), nullptr };
    const int64_t stripes = nib_ceil_div(c.n, NIB_GEMM_TILE);
    const int64_t units = nib_ceil_div(c.k, NIB_GEMM_TILE);
    nib_gemm_weights &w = in.w;
    w.size = sizeof w;
    w.layout = c.layout, w.layout_version = NIB_GEMM_LAYOUT_VERSION, w.format = c.format;
    w.n = c.n, w.k = c.k, w.gated = c.gated, w.ld_tiles = units + 1; /* as of a slice */
    in.packed_codes.assign((size_t)(stripes * w.ld_tiles * NIB_GEMM_CODE_BYTES) + 1, 0x77);
    in.packed_scales.assign(
        (size_t)(stripes * w.ld_tiles * nib_gemm_scale_tile_bytes(block)) + 1, 0xfe);
    w.codes = in.packed_codes.data(), w.scales = in.packed_scales.data();
    for (int64_t s = 0; s < stripes; s++)
        for (int64_t u = 0; u < units; u++)
            for (int i = 0; i < NIB_GEMM_CHUNKS; i++) nib_gemm_pack_chunk(&src, &w, s, u, i);
    return in;
}

double number(nib_dtype dtype, const Bytes &x, int64_t i)
{
    return (double)nib_load_f32((int)dtype, x.data(), i);
}

/* Of the source, row as there: 2^(byte - 127) or E4M3, in double; and times the element. */
double scale_of(const Case &c, const Inputs &in, int64_t row, int64_t k)
{
    const int block = nib_part_block(c.format);
    const uint8_t byte = in.scales[(size_t)(row * nib_ceil_div(c.k, block) + k / block)];
    if (nib_part_e4m3_scale(c.format)) return (double)nib_element_to_f32(NIB_EL_E4M3, byte);
    return byte == NIB_E8M0_NAN ? (double)NAN : ldexp(1.0, byte - 127);
}

double weight_of(const Case &c, const Inputs &in, int64_t row, int64_t k)
{
    const uint32_t byte = in.codes[(size_t)(row * nib_ceil_div(c.k, 2) + k / 2)];
    return (double)nib_element_to_f32(NIB_EL_E2M1, byte >> 4 * (k % 2) & 15u)
         * scale_of(c, in, row, k);
}

/* E8M0: the largest scale of the output's row of weights, or of its 64 columns. */
double largest_scale(const Case &c, const Inputs &in, int64_t output)
{
    const int64_t first = output / 64 * 64, last = first + 64 < c.k ? first + 64 : c.k;
    double        most = 0;
    for (int64_t row = c.backward ? 0 : output; row < (c.backward ? c.n : output + 1); row++) {
        for (int64_t k = c.backward ? first : 0; k < (c.backward ? last : c.k); k++)
            most = fmax(most, scale_of(c, in, row, k)); /* not of NaN */
    }
    return most;
}

/* y, and how far from it a result may lie: gemm.h's bound, and gemm_dequantize.cuh's. output: a row
 * of the source, or a column. */
struct Value {
    double y, error;
};

Value product_of(const Case &c, const Inputs &in, int64_t m, int64_t output)
{
    const int64_t terms = c.backward ? c.n : c.k;
    const double  alpha = c.alpha ? (double)in.alpha : 1.0;
    const double  t = nib_part_has_tensor_scale(c.format) ? (double)in.tensor_scale : 1.0;
    double sum = 0, whole = 0, of_a = 0, u = 0;
    for (int64_t i = 0; i < terms; i++) {
        const double a = number(c.a, in.a, m * in.a_ld + i);
        const double w = c.backward ? weight_of(c, in, i, output) : weight_of(c, in, output, i);
        sum += a * w, whole += fabs(a * w), of_a += fabs(a);
    }
    if (!nib_part_e4m3_scale(c.format))
        u = largest_scale(c, in, output) * (c.a == NIB_F16 ? 0x1p-35 : 0x1p-60);
    const double y = alpha * t * sum;
    return { y, fabs(alpha * t) * ((double)(terms + 64) * 0x1p-23 * whole + of_a * u)
                    + 0x1p-22 * fabs(y) };
}

double act_of(nib_gemm_act act, double x)
{
    switch (act) {
    case NIB_GEMM_ACT_RELU: return x < 0 ? 0 : x;
    case NIB_GEMM_ACT_GELU: return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    case NIB_GEMM_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case NIB_GEMM_ACT_SILU: return x / (1 + exp(-x));
    case NIB_GEMM_ACT_NONE: break;
    }
    return x;
}

/* D's element, with the errors of what ends it. */
Value element_of(const Case &c, const Inputs &in, int64_t m, int64_t column)
{
    Value v = product_of(c, in, m, column);
    if (c.backward) return v;
    if (c.bias) v.y += number(c.d, in.bias, column);
    v.error = 1.13 * v.error + 0x1p-20 * fabs(v.y) + 0x1p-140;
    v.y = act_of(c.act, v.y);
    if (c.gated) {
        Value up = product_of(c, in, m, c.n / 2 + column);
        if (c.bias) up.y += number(c.d, in.bias, c.n / 2 + column);
        up.error += 0x1p-22 * fabs(up.y);
        v.error = v.error * fabs(up.y) + up.error * fabs(v.y) + v.error * up.error;
        v.y *= up.y;
    }
    if (c.residual) v.y += number(c.d, in.residual, m * in.d_ld + column);
    return v;
}

/* ---- on the device ---- */

struct Result {
    Bytes      d;
    nib_status status;
    char       why[NIB_WHY_BYTES];
    size_t     need;
};

nib_gemm_options options_of(const Case &c)
{
    nib_gemm_options o = {};
    o.size = sizeof o;
    o.layout = c.layout, o.format = c.format, o.n = c.n, o.k = c.k, o.m_max = c.m;
    o.a_dtype = c.a, o.d_dtype = c.d, o.f16_chunk = 64, o.act = c.act, o.gated = c.gated;
    return o;
}

/* The exact tactic, as gemm_tactics gives it to a plan of the device's own layout. */
bool exact_tactic(const Case &c, const nib_device_info &info, nib_gemm_tactic *tactic)
{
    nib_gemm_tactic  all[NIB_GEMM_TACTICS];
    char             why[NIB_WHY_BYTES] = "";
    nib_gemm_options o = options_of(c);
    o.layout = own_layout();
    const int32_t count = nib_cuda_gemm_tactics(&o, &info, all, why);
    for (int32_t i = 0; i < count; i++) {
        if (strcmp(all[i].name, "exact")) continue;
        *tactic = all[i];
        return true;
    }
    return false;
}

/* Device memory of one case, and its call. */
Bytes shifted(const Bytes &x, int by)
{
    Bytes all((size_t)by, poison);
    all.insert(all.end(), x.begin(), x.end());
    return all;
}

struct Product {
    Case             c;
    Inputs           in;
    nib_gemm_options options;
    Device<uint8_t>  a, d, bias, residual, codes, scales;
    Device<float>    alpha, tensor_scale;
    nib_device_info  info;
    nib_gemm_tactic  tactic;
    nib_matrix       a_matrix, d_matrix, residual_matrix;
    nib_gemm_weights w;
    nib_gemm_request request = {};
    size_t           need;

    Product(const Case &of, const Inputs &from, int ordinal = 0)
        : c(of), in(from), options(options_of(of)), a(shifted(from.a, of.shift)),
          d(shifted(of.in_place ? from.residual : Bytes(from.residual.size(), poison), of.shift)),
          bias(from.bias), residual(from.residual), codes(from.packed_codes),
          scales(from.packed_scales),
          alpha(std::vector<float>(1, from.alpha)),
          tensor_scale(std::vector<float>(1, from.tensor_scale)), info(info_of(ordinal))
    {
        tactic = {};
        if (!exact_tactic(c, info, &tactic)) (void)exact_tactic(c, info_of(0), &tactic);
        a_matrix = { (uint8_t *)a + c.shift, c.a, c.m, c.backward ? c.n : c.k, in.a_ld };
        d_matrix = { (uint8_t *)d + c.shift, c.d, c.m, in.d_cols, in.d_ld };
        residual_matrix = d_matrix;
        if (!c.in_place) residual_matrix.data = (uint8_t *)residual;
        w = from.w;
        w.codes = codes, w.scales = scales;
        w.tensor_scale = nib_part_has_tensor_scale(c.format) ? (float *)tensor_scale : nullptr;
        request.options = &options;
        request.tactic = tactic.id, request.splits = 1;
        request.a = &a_matrix, request.w = &w, request.d = &d_matrix;
        request.alpha = c.alpha ? (float *)alpha : nullptr;
        request.bias = c.bias ? (uint8_t *)bias : nullptr;
        request.residual = c.residual ? &residual_matrix : nullptr;
        int32_t splits;
        need = c.backward ? nib_cuda_gemm_backward_need(&options, &info, c.m)
                          : nib_cuda_gemm_need(&options, &info, &tactic, c.m, &splits);
    }

    Bytes written() const
    {
        const Bytes all = d.read();
        return Bytes(all.begin() + c.shift, all.end());
    }

    nib_status run(const nib_launch &launch)
    {
        return c.backward ? nib_cuda_gemm_backward(&launch, &request)
                          : nib_cuda_gemm_run(&launch, &request);
    }
};

Result result_of(const Case &c, const Inputs &in, bool debug = false)
{
    Product         p(c, in);
    Device<uint8_t> workspace(p.need + guard);
    EXPECT_CUDA(cudaMemset((uint8_t *)workspace + p.need, poison, guard));
    Result     r = {};
    nib_launch launch = {};
    launch.why = r.why, launch.debug = debug;
    launch.workspace = (uint8_t *)workspace, launch.workspace_bytes = p.need;
    r.need = p.need;
    r.status = p.run(launch);
    EXPECT_CUDA(cudaDeviceSynchronize());
    r.d = p.written();
    uint8_t behind[guard];
    EXPECT_CUDA(cudaMemcpy(behind, (uint8_t *)workspace + p.need, guard, cudaMemcpyDeviceToHost));
    for (const uint8_t b : behind)
        if (b != poison) EXPECT(0, "the workspace ends at %zu bytes", p.need);
    return r;
}

} // namespace

#endif
