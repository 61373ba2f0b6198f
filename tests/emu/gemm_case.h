/* gemm_case.h: products for the tests of gemm.h's kernels: inputs, one run through the backend's
 * own entry, and the bound of gemm.h against fp64. */
#ifndef NIB_GEMM_CASE_H
#define NIB_GEMM_CASE_H

#include "kernels/common/half.h"
#include "kernels/gemm_pack.h"
#include "tests/emu/own_layout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

typedef std::vector<uint8_t> Bytes;

struct Case {
    const char     *tactic = "small8";
    nib_gemm_layout layout = NIB_GEMM_LAYOUT_SM80; /* on a GPU: its own, whatever this says */
    nib_format      format = NIB_NVFP4;
    nib_dtype       a_dtype = NIB_F16, d_dtype = NIB_F32;
    bool            f16_sums = false;
    int32_t         chunk = 64, splits = 1;
    nib_gemm_act    act = NIB_GEMM_ACT_NONE;
    bool            gated = false, bias = false, residual = false, in_place = false;
    bool            exact = false; /* inputs of which every sum is exact */
    int64_t         m = 5, n = 72, k = 136;
    int64_t         a_pad = 0, d_pad = 0, tile_pad = 0; /* between rows; multiples of 8, but for
                                                           tiles */
};

const nib_format gemm_formats[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16 };

/* Kinds of kernels: 0 f16, 1 bf16, 2 f16 with F16 sums. */
void set_kind(Case *c, int kind)
{
    c->a_dtype = kind == 1 ? NIB_BF16 : NIB_F16;
    c->f16_sums = kind == 2;
}

nib_gemm_layout layout_of(const Case &c) { return NIB_ON_EMULATOR ? c.layout : own_layout(); }

size_t bytes_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

struct Inputs {
    Bytes              src_codes, src_scales, codes, scales, a, bias, residual;
    nib_gemm_weights   w; /* of the host */
    float              tensor_scale = 0.37f, alpha = 1.25f;
    int64_t            a_ld, d_ld, columns; /* of D */
    std::vector<double> weight; /* [packed row][k], without the tensor scale */
};

/* E4M3 scales of all magnitudes and both signs; E8M0 ones within 2^12, and some far below. */
uint8_t scale_byte(const Case &c, Random &random)
{
    if (nib_part_e4m3_scale(c.format)) {
        if (c.exact) return c.f16_sums ? 0x38 : (uint8_t)(0x30 + 8 * random.below(3)); /* 1/2..2 */
        if (random.below(4)) return (uint8_t)(0x28 + random.below(0x28));
        return (uint8_t)((random.below(0x7f)) | random.below(2) << 7);
    }
    if (c.exact) return (uint8_t)(c.f16_sums ? 127 : 126 + random.below(3));
    return (uint8_t)(random.below(12) ? 121 + random.below(12) : random.below(120));
}

float activation(const Case &c, Random &random)
{
    if (c.exact) return (float)(random.below(c.f16_sums ? 3 : 9) - (c.f16_sums ? 1 : 4));
    const float x = (float)(random.next() >> 8) * 0x1p-23f - 1.0f;
    return random.below(16) ? x : 3.0f * x;
}

Bytes random_matrix(nib_dtype dtype, int64_t rows, int64_t cols, int64_t ld, Random &random,
                    const Case *activations)
{
    Bytes x((size_t)(rows * ld) * bytes_of(dtype), 0xff); /* NaN between the rows */
    for (int64_t i = 0; i < rows * cols; i++) {
        const float value = activations ? activation(*activations, random)
                                        : (float)(random.below(65) - 32) * 0.25f;
        nib_store_f32((int)dtype, x.data(), i / cols * ld + i % cols, value);
    }
    return x;
}

void pack(const Case &c, Inputs *in)
{
    nib_packed src = {};
    src.format = c.format;
    src.rows = c.n, src.cols = c.k;
    src.codes = in->src_codes.data(), src.scales = in->src_scales.data();
    src.ld_codes_bytes = c.k / 2;
    in->codes.assign((size_t)nib_gemm_codes_bytes(&in->w), 0xff);
    in->scales.assign((size_t)nib_gemm_scales_bytes(&in->w), 0xff);
    in->w.codes = in->codes.data(), in->w.scales = in->scales.data();
    const int64_t units = nib_ceil_div(c.k, NIB_GEMM_TILE);
    for (int64_t tile = 0; tile < nib_ceil_div(c.n, NIB_GEMM_TILE) * units; tile++) {
        for (int chunk = 0; chunk < NIB_GEMM_CHUNKS; chunk++)
            nib_gemm_pack_chunk(&src, &in->w, tile / units, tile % units, chunk);
    }
    in->weight.resize((size_t)(c.n * c.k));
    for (int64_t i = 0; i < c.n * c.k; i++)
        in->weight[(size_t)i] = (double)nib_gemm_value(&in->w, i / c.k, i % c.k);
}

/* The same for every tactic and number of splits; a's rows do not depend on m. */
Inputs make_inputs(const Case &c, uint64_t seed)
{
    Random random(seed);
    Inputs in;
    EXPECT(nib_gemm_describe(nullptr, layout_of(c), c.format, c.n, c.k, c.gated, &in.w) == NIB_OK,
           "%s", nib_last_error());
    in.w.ld_tiles += c.tile_pad;
    in.columns = c.gated ? c.n / 2 : c.n;
    in.a_ld = c.k + c.a_pad, in.d_ld = in.columns + c.d_pad;
    if (c.exact) in.tensor_scale = 0.5f, in.alpha = 4.0f;
    in.src_codes.resize((size_t)(c.n * c.k / 2));
    for (uint8_t &b : in.src_codes) b = (uint8_t)random.next();
    in.src_scales.resize((size_t)(c.n * nib_scales_per_row(c.format, c.k)));
    for (uint8_t &b : in.src_scales) b = scale_byte(c, random);
    pack(c, &in);
    in.bias = random_matrix(c.d_dtype, 1, c.n, c.n, random, nullptr);
    in.a = random_matrix(c.a_dtype, c.m, c.k, in.a_ld, random, &c);
    in.residual = random_matrix(c.d_dtype, c.m, in.columns, in.d_ld, random, nullptr);
    return in;
}

nib_gemm_options options_of(const Case &c)
{
    nib_gemm_options o = {};
    o.size = sizeof o;
    o.layout = layout_of(c), o.format = c.format;
    o.n = c.n, o.k = c.k, o.m_max = c.m;
    o.a_dtype = c.a_dtype, o.d_dtype = c.d_dtype;
    o.accumulate = c.f16_sums ? NIB_GEMM_ACCUMULATE_F16 : NIB_GEMM_ACCUMULATE_F32;
    o.f16_chunk = c.chunk, o.act = c.act, o.gated = c.gated;
    return o;
}

int32_t tactic_of(const Case &c, const nib_gemm_options &o)
{
    nib_gemm_tactic all[NIB_GEMM_TACTICS];
    nib_device_info info = {};
    char            why[NIB_WHY_BYTES] = "";
    info.compute_capability = o.layout == NIB_GEMM_LAYOUT_SM100 ? 100
                            : !strncmp(c.tactic, "wgmma", 5) ? 90 : 80;
    const int32_t count = nib_cuda_gemm_tactics(&o, &info, all, why);
    for (int32_t i = 0; i < count; i++) {
        if (!strcmp(all[i].name, c.tactic)) return all[i].id;
    }
    EXPECT(0, "no tactic %s: %s", c.tactic, why);
    return 0;
}

/* D with what lies between its rows, which stays 0xff. */
Bytes multiply(const Case &c, const Inputs &in)
{
    const Device<uint8_t> a(in.a), codes(in.codes), scales(in.scales), bias(in.bias);
    const Device<uint8_t> residual(in.residual);
    const Device<uint8_t> d(Bytes(in.residual.size(), 0xff));
    const Device<float>   tensor_scale(std::vector<float>(1, in.tensor_scale));
    const Device<float>   alpha(std::vector<float>(1, in.alpha));
    const int64_t         sums = c.splits * c.m * nib_gemm_round_up(c.n, NIB_GEMM_TILE);
    const Device<uint8_t> workspace(Bytes(c.splits > 1 ? (size_t)sums * 4 : 4, 0xff));
    uint8_t *const        to = c.in_place ? (uint8_t *)residual : (uint8_t *)d;
    nib_gemm_weights      w = in.w;
    w.codes = codes, w.scales = scales;
    w.tensor_scale = nib_part_has_tensor_scale(c.format) ? (float *)tensor_scale : nullptr;
    const nib_matrix x = { (uint8_t *)a, c.a_dtype, c.m, c.k, in.a_ld };
    const nib_matrix y = { to, c.d_dtype, c.m, in.columns, in.d_ld };
    const nib_matrix r = { (uint8_t *)residual, c.d_dtype, c.m, in.columns, in.d_ld };
    const nib_gemm_options options = options_of(c);
    nib_gemm_request request = {};
    request.options = &options;
    request.tactic = tactic_of(c, options), request.splits = c.splits;
    request.a = &x, request.w = &w, request.d = &y;
    request.alpha = alpha;
    request.bias = c.bias ? (uint8_t *)bias : nullptr;
    request.residual = c.residual ? &r : nullptr;
    char       why[NIB_WHY_BYTES] = "";
    nib_launch launch = {};
    launch.workspace = (uint8_t *)workspace;
    launch.debug = 1;
    launch.why = why;
    EXPECT_CUDA(nib_cuda_load_gemm_wgmma());
    EXPECT_CUDA(nib_cuda_load_gemm_tile()); /* a reset emulator has forgotten its attributes */
    const nib_status status = nib_cuda_gemm_run(&launch, &request);
    EXPECT(status == NIB_OK, "status %d: %s", status, why);
    return c.in_place ? residual.read() : d.read();
}

/* ---- against fp64 ---- */

struct Value {
    double is, within;
};

/* E8M0: log2 of a block's scale, from the source, and of the largest of packed row n, E; of blocks
 * that are not all zeros. */
int scale_log2(const Inputs &in, int64_t n, int64_t k)
{
    const int64_t row = nib_gemm_source_row(in.w.gated, in.w.n, n);
    const int64_t at = row * nib_scales_per_row(in.w.format, in.w.k);
    return (int)in.src_scales[(size_t)(at + k / nib_part_block(in.w.format))] - 127;
}

int top_of(const Inputs &in, int64_t n)
{
    int top = -127;
    for (int64_t k = 0; k < in.w.k; k++) {
        const int e = scale_log2(in, n, k);
        if (e > top && e < 128 && in.weight[(size_t)(n * in.w.k + k)] != 0) top = e;
    }
    return top;
}

/* y of packed row n, and the bound that gemm.h gives. */
Value product(const Case &c, const Inputs &in, int64_t m, int64_t n)
{
    const bool   e4m3 = nib_part_e4m3_scale(c.format) != 0;
    const double t = nib_part_has_tensor_scale(c.format) ? (double)in.tensor_scale : 1.0;
    const double factor = (double)in.alpha * t;
    const int    e = e4m3 ? 0 : top_of(in, n), far = c.f16_sums ? 17 : 23;
    const double most = ldexp(1.0, e);
    double sum = 0, absolute = 0, small = 0, f16 = 0;
    for (int64_t k = 0; k < c.k; k++) {
        const double a = (double)nib_load_f32((int)c.a_dtype, in.a.data(), m * in.a_ld + k);
        const double w = in.weight[(size_t)(n * c.k + k)];
        sum += a * w;
        absolute += fabs(a * w);
        if (!e4m3 && c.a_dtype == NIB_F16 && scale_log2(in, n, k) <= e - far)
            small += fabs(a) * most * (c.f16_sums ? 0x1p-16 : 0x1p-22);
        if (!e4m3 && c.a_dtype == NIB_BF16) small += fabs(a) * most * 0x1p-60;
        if (k % 16 == 0) f16 += 0x1p-10 * (e4m3 ? 1.0 : 0x1p-7 * most);
    }
    Value y = { factor * sum, 0 };
    y.within = fabs(factor) * ((double)(c.k + 64) * 0x1p-23 * absolute + small);
    if (c.f16_sums) y.within += fabs(factor) * (c.chunk / 16 * 0x1p-10 * absolute + f16);
    y.within += 0x1p-22 * fabs(y.is);
    return y;
}

double gemm_act_f64(nib_gemm_act act, double x)
{
    switch (act) {
    case NIB_GEMM_ACT_RELU: return x < 0 ? 0 : x;
    case NIB_GEMM_ACT_GELU: return x / 2 * (1 + erf(x / sqrt(2)));
    case NIB_GEMM_ACT_GELU_TANH:
        return x / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case NIB_GEMM_ACT_SILU: return x / (1 + exp(-x));
    default: return x;
    }
}

Value element_of(const Case &c, const Inputs &in, int64_t m, int64_t column)
{
    const auto row_of = [&](int64_t source) { return nib_gemm_packed_row(c.gated, c.n, source); };
    const auto with_bias = [&](Value y, int64_t source) {
        if (c.bias) y.is += (double)nib_load_f32((int)c.d_dtype, in.bias.data(), source);
        y.within += 0x1p-22 * fabs(y.is);
        return y;
    };
    const Value x = with_bias(product(c, in, m, row_of(column)), column);
    Value       v = { gemm_act_f64(c.act, x.is), 0 };
    v.within = 1.13 * x.within + 0x1p-20 * fmax(fabs(v.is), fabs(x.is) / 16);
    if (c.gated) {
        const int64_t source = c.n / 2 + column;
        const Value   up = with_bias(product(c, in, m, row_of(source)), source);
        v = { v.is * up.is, v.within * (fabs(up.is) + up.within) + up.within * fabs(v.is) };
        v.within += 0x1p-23 * fabs(v.is);
    }
    if (c.residual) {
        v.is += (double)nib_load_f32((int)c.d_dtype, in.residual.data(), m * in.d_ld + column);
        v.within += 0x1p-23 * fabs(v.is);
    }
    const double step = c.d_dtype == NIB_F32 ? 0x1p-24 : c.d_dtype == NIB_F16 ? 0x1p-11 : 0x1p-8;
    v.within += step * (fabs(v.is) + v.within) + 0x1p-25;
    return v;
}

void describe(const Case &c, char *to, size_t bytes)
{
    snprintf(to, bytes, "%s layout %d format %#x a %d d %d f16 %d chunk %d splits %d act %d gated "
             "%d bias %d residual %d in place %d, %lld x %lld x %lld", c.tactic, layout_of(c),
             c.format, c.a_dtype, c.d_dtype, c.f16_sums, c.chunk, c.splits, c.act, c.gated,
             c.bias, c.residual, c.in_place, (long long)c.m, (long long)c.n, (long long)c.k);
}

void compare(const Case &c, const Inputs &in, const Bytes &d)
{
    char what[256];
    describe(c, what, sizeof what);
    const double most = c.d_dtype == NIB_F16 ? 65504.0 : 3.3e38;
    int wrong = 0;
    for (int64_t m = 0; m < c.m; m++) {
        for (int64_t i = 0; i < in.d_ld && !(i >= in.columns && c.in_place); i++) {
            const double got = (double)nib_load_f32((int)c.d_dtype, d.data(), m * in.d_ld + i);
            if (i >= in.columns) {
                wrong += !isnan(got);
                continue;
            }
            const Value want = element_of(c, in, m, i);
            const bool  over = fabs(want.is) + want.within > most;
            const bool  good = c.exact ? got == want.is
                : over ? isinf(got) || fabs(got - want.is) <= want.within
                       : fabs(got - want.is) <= want.within;
            if (good) continue;
            if (!wrong++) {
                EXPECT(0, "%s: (%lld, %lld) is %.9g, not %.9g within %.3g", what, (long long)m,
                       (long long)i, got, want.is, want.within);
            }
        }
    }
    EXPECT(!wrong, "%s: %d wrong, or written between rows", what, wrong);
}

Bytes check(const Case &c, uint64_t seed)
{
    const Inputs in = make_inputs(c, seed);
    const Bytes  d = multiply(c, in);
    compare(c, in, d);
    return d;
}

/* Everything but tactic, layout, kind and format, at random. */
void shuffle(Case *c, int64_t most_m, int64_t most_n, int64_t most_k, Random &random)
{
    c->gated = random.below(3) == 0;
    c->m = 1 + random.below((int)most_m);
    c->n = (c->gated ? 16 : 8) * (1 + random.below((int)most_n / (c->gated ? 16 : 8)));
    c->k = 8 * (1 + random.below((int)most_k / 8));
    const int64_t units = nib_ceil_div(c->k, NIB_GEMM_TILE);
    c->splits = random.below(2) ? 1 : 1 + random.below(units < 4 ? (int)units : 4);
    c->d_dtype = (nib_dtype)random.below(3);
    c->act = (nib_gemm_act)(random.below(2) ? 0 : random.below(5));
    c->bias = random.below(2), c->residual = random.below(2);
    c->in_place = c->residual && random.below(2);
    if (c->f16_sums && nib_part_e4m3_scale(c->format)) c->chunk = 64 << random.below(3);
    c->a_pad = 8 * random.below(3), c->d_pad = 8 * random.below(3), c->tile_pad = random.below(3);
}

} // namespace

#endif
