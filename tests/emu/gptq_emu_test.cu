/* gptq_emu_test.cu: order, factor, inverse and sweep by CUDA against the CPU's portable code, under
 * every schedule. In f64 they give the same codes; in f32 sums that were cut otherwise may round a
 * few weights the other way. */
#include "kernels/backend.h"
#include "kernels/cuda/cusolver.cuh"
#include "kernels/cuda/gptq_job.cuh"
#include "kernels/common/half.h"
#include "tests/emu/two_memories.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

namespace {

struct Case {
    nib_real         real = NIB_REAL_F64;
    nib_format       format = NIB_NVFP4;
    nib_rules_preset preset = NIB_RULES_TE;
    nib_dtype        dtype = NIB_F32;
    int64_t          rows = 9, k = 48, extra = 3, tokens = 100; /* extra: behind rows */
    nib_gptq_order   order = NIB_GPTQ_NATURAL;
    nib_gptq_scales  scales = NIB_GPTQ_SCALES_FROZEN;
    nib_scale_choice choice = NIB_SCALE_AMAX;
    nib_code_order   codes = NIB_CODES_PAIRS;
    nib_scale_layout layout = NIB_SCALES_LINEAR;
    bool             guard = true, given = false; /* given: a tensor scale, not amax */
    int64_t          group = 0; /* not 0: integers by steps */
    nib_step_element element = NIB_INT4;
    bool             asymmetric = false;
};

/* A layer's weights and the sum of x x^T of inputs that hang together; input 5 is dead. */
struct Input {
    std::vector<uint8_t> w, h;
    float                amax = 0;
    double               mean = 0;
};

Input input_of(const Case &c)
{
    Random              random(11);
    Input               in;
    const int64_t       ld = c.k + c.extra, size = c.real ? 8 : 4;
    std::vector<double> sums((size_t)(c.k * c.k)), x((size_t)c.k);
    auto unit = [&] { return (double)(random.below(20001) - 10000) / 10000; };
    for (int64_t t = 0; t < c.tokens; t++) {
        double common = unit();
        for (int64_t i = 0; i < c.k; i++) {
            x[(size_t)i] = (unit() + 2 * common) * (1 + (double)(i * 7 % 13));
            common = 0.9 * common + 0.1 * unit();
        }
        x[5] = 0;
        for (int64_t i = 0; i < c.k; i++)
            for (int64_t j = 0; j <= i; j++)
                sums[(size_t)(i * c.k + j)] += x[(size_t)i] * x[(size_t)j];
    }
    in.h.resize((size_t)(c.k * ld * size), 0xff); /* NaN: the other triangle is not to be read */
    for (int64_t i = 0; i < c.k; i++) {
        in.mean += sums[(size_t)(i * c.k + i)] / (double)c.k;
        for (int64_t j = 0; j <= i; j++) {
            const double wide = sums[(size_t)(i * c.k + j)];
            const float  narrow = (float)wide;
            uint8_t *const to = &in.h[(size_t)((i * ld + j) * size)];
            if (c.real) memcpy(to, &wide, 8);
            else memcpy(to, &narrow, 4);
        }
    }
    in.w.resize((size_t)(c.rows * ld * 4));
    for (int64_t i = 0; i < c.rows * ld; i++) {
        const float value = (float)(unit() * unit() * (i % 29 ? 1 : 4));
        nib_store_f32((int)c.dtype, in.w.data(), i, value);
        const float stored = fabsf(nib_load_f32((int)c.dtype, in.w.data(), i));
        if (i % ld < c.k && stored > in.amax) in.amax = stored;
    }
    return in;
}

struct Outcome {
    std::vector<int32_t> order;
    std::vector<uint8_t> l, u, codes, scales;
    int64_t              minor = 0, u_minor = 0;
    nib_gptq_sums        measured = {}, swept = {};
    nib_status           status = NIB_OK;
    char                 why[NIB_WHY_BYTES] = "";
};

Outcome run(bool cuda, const Case &c, const Input &in, bool inverse,
            const int32_t *cancel = nullptr)
{
    const nib_backend *const ops = cuda ? nib_cuda_table_v1.ops : &nib_backend_cpu_portable;
    Outcome       o;
    Memory        m(cuda);
    const int64_t ld = c.k + c.extra, size = c.real ? 8 : 4;
    nib_launch    launch = {};
    launch.why = o.why, launch.threads = 1;
    nib_hessian h = {};
    h.size = sizeof h, h.real = c.real, h.k = c.k, h.ld_elems = ld;
    h.data = m.put(in.h);
    nib_gptq_factor f = {};
    f.size = sizeof f, f.real = c.real, f.k = c.k, f.ld_elems = ld;
    f.l = m.put(std::vector<uint8_t>((size_t)(c.k * ld * size), 0xff));
    f.order = m.put(std::vector<int32_t>((size_t)c.k, -1));
    f.added = 0.01 * in.mean, f.order_kind = c.order;
    if (cuda) EXPECT_CUDA(nib_cuda_load_gptq()); /* a reset forgets what was loaded */
    const int block = c.group ? (int)c.group : nib_part_block(c.format);
#define TRY(call) do { o.status = (call); if (o.status != NIB_OK) return o; } while (0)
    TRY(ops->gptq_order(&launch, &h, c.order, block, &f));
    TRY(ops->gptq_factor(&launch, &h, f.added, &f, &o.minor));
    o.order = m.get(f.order, (size_t)c.k);
    o.l = m.get((const uint8_t *)f.l, (size_t)(c.k * ld * size));
    if (inverse) {
        TRY(ops->hessian_inverse(&launch, &h, f.added, f.l, ld, &o.u_minor));
        o.u = m.get((const uint8_t *)f.l, (size_t)(c.k * ld * size));
        TRY(ops->hessian_inverse(&launch, &h, f.added, h.data, ld, &o.u_minor)); /* in place */
        const std::vector<uint8_t> again = m.get((const uint8_t *)h.data,
                                                 (size_t)(c.k * ld * size));
        for (int64_t i = 0; i < c.k; i++)
            EXPECT(!memcmp(&again[(size_t)(i * ld * size)], &o.u[(size_t)(i * ld * size)],
                           (size_t)(c.k * size)), "in place, row %lld differs", (long long)i);
        return o;
    }
    nib_matrix w = {};
    w.data = m.put(in.w), w.dtype = c.dtype, w.rows = c.rows, w.cols = c.k, w.ld_elems = ld;
    nib_gptq_request r = {};
    r.hessian = &h, r.factor = &f, r.w = &w;
    r.scales = c.scales, r.guard = c.guard, r.cancel = cancel;
    launch.workspace_bytes = ops->gptq_need(c.real, c.rows, c.k, c.group, 1);
    launch.workspace = m.room(launch.workspace_bytes);
    if (c.group) {
        nib_packed_steps p = {};
        p.size = sizeof p, p.element = c.element, p.asymmetric = c.asymmetric;
        p.step_rule = NIB_STEP_BF16, p.rows = c.rows, p.cols = c.k, p.group = c.group;
        p.ld_codes_bytes = nib_step_codes_row_bytes(c.element, c.k) + 5;
        const size_t codes = (size_t)(c.rows * p.ld_codes_bytes);
        const size_t steps = (size_t)(c.rows * nib_ceil_div(c.k, c.group));
        p.codes = m.put(std::vector<uint8_t>(codes, 0xa5));
        p.steps = m.put(std::vector<float>(steps, -1.0f));
        int8_t *const zeros = m.put(std::vector<int8_t>(steps, 99));
        if (c.asymmetric) p.zeros = zeros;
        r.step.element = p.element, r.step.asymmetric = c.asymmetric, r.step.rule = p.step_rule;
        r.step.group = c.group, r.step.steps_out = p.steps, r.step.zeros_out = p.zeros;
        r.steps = &p;
        TRY(ops->quantize_steps(&launch, &w, &r.step, &p));
        if (c.guard) TRY(ops->gptq_measure(&launch, &r, &o.measured));
        TRY(ops->gptq_sweep(&launch, &r, &o.swept));
        o.codes = m.get(p.codes, codes);
        o.scales = m.get((const uint8_t *)p.steps, steps * 4);
        const std::vector<uint8_t> z = m.get((const uint8_t *)zeros, steps);
        o.scales.insert(o.scales.end(), z.begin(), z.end());
        return o;
    }
    nib_packed dst = {};
    dst.size = sizeof dst, dst.format = c.format, dst.rows = c.rows, dst.cols = c.k;
    dst.code_order = c.codes, dst.scale_layout = c.layout;
    dst.ld_codes_bytes = nib_codes_row_bytes(c.format, c.k) + 5;
    const size_t codes = (size_t)(c.rows * dst.ld_codes_bytes);
    const size_t scales = (size_t)nib_scales_bytes(c.format, c.layout, c.rows, c.k);
    dst.codes = m.put(std::vector<uint8_t>(codes, 0xa5));
    dst.scales = m.put(std::vector<uint8_t>(scales, 0xa5));
    if (nib_part_has_tensor_scale(c.format)) {
        dst.tensor_scale = m.put(std::vector<float>{ in.amax / 2000 });
        if (!c.given) r.quantize.tensor_amax = m.put(std::vector<float>{ in.amax });
    }
    EXPECT(nib_rules_fill(c.preset, c.format, &r.quantize.rules) == NIB_OK, "rules");
    r.quantize.scale_choice = c.choice;
    r.dst = &dst;
    TRY(ops->quantize(&launch, &w, &r.quantize, &dst));
    if (c.guard) TRY(ops->gptq_measure(&launch, &r, &o.measured));
    TRY(ops->gptq_sweep(&launch, &r, &o.swept));
#undef TRY
    o.codes = m.get(dst.codes, codes);
    o.scales = m.get(dst.scales, scales);
    return o;
}

bool lacks_libraries()
{
    char why[NIB_WHY_BYTES] = "";
    EXPECT(nib_cuda_prepare(0, NIB_PREPARE_GPTQ, why) == NIB_OK, "%s", why);
    return nib_cuda_solver_why_not(0) || nib_bench_cpu.gemm_missing(); /* the CPU's own: OpenBLAS */
}

double real_at(const Case &c, const std::vector<uint8_t> &all, int64_t i, int64_t j)
{
    const size_t at = (size_t)(i * (c.k + c.extra) + j);
    double       wide;
    float        narrow;
    if (c.real) return memcpy(&wide, &all[8 * at], 8), wide;
    return memcpy(&narrow, &all[4 * at], 4), (double)narrow;
}

/* The triangle where i >= j, or the other, within rel of the row's largest. */
void expect_close(const Case &c, const char *what, const std::vector<uint8_t> &a,
                  const std::vector<uint8_t> &b, bool upper)
{
    const double rel = c.real ? 1e-10 : 3e-4;
    for (int64_t i = 0; i < c.k && !nib_test_failed(); i++) {
        double most = 0;
        for (int64_t j = upper ? i : 0; j < (upper ? c.k : i + 1); j++)
            most = fmax(most, fabs(real_at(c, a, i, j)));
        for (int64_t j = 0; j < c.k; j++) {
            if (upper ? j < i : j > i) {
                if (upper) EXPECT(real_at(c, b, i, j) == 0, "%s: zeros below", what);
                continue;
            }
            EXPECT(fabs(real_at(c, a, i, j) - real_at(c, b, i, j)) <= rel * most,
                   "%s(%lld, %lld): %g, not %g", what, (long long)i, (long long)j,
                   real_at(c, b, i, j), real_at(c, a, i, j));
        }
    }
}

bool near(double a, double b, double rel) { return fabs(a - b) <= rel * fabs(a) + 1e-300; }

int64_t differing(const std::vector<uint8_t> &a, const std::vector<uint8_t> &b)
{
    int64_t n = 0;
    for (size_t i = 0; i < a.size(); i++) n += a[i] != b[i];
    return n;
}

void check(const Case &c)
{
    const Input   in = input_of(c);
    const Outcome a = run(false, c, in, false), b = run(true, c, in, false);
    const double  rel = c.real ? 1e-9 : 0.02;
    REQUIRE(a.status == NIB_OK && b.status == NIB_OK, "status %d: %s; %d: %s", (int)a.status, a.why,
            (int)b.status, b.why);
    EXPECT(a.order == b.order, "the order");
    EXPECT(!a.minor && !b.minor, "minors %lld, %lld", (long long)a.minor, (long long)b.minor);
    expect_close(c, "l", a.l, b.l, false);
    if (c.guard) {
        EXPECT(near(a.measured.error, b.measured.error, rel), "plain: %.17g, not %.17g",
               b.measured.error, a.measured.error);
        EXPECT(near(a.measured.weight, b.measured.weight, c.real ? 1e-9 : 1e-4),
               "weight: %.17g, not %.17g", b.measured.weight, a.measured.weight);
        EXPECT(b.swept.error <= b.measured.error, "the guard");
    }
    EXPECT(near(a.swept.error, b.swept.error, rel), "swept: %.17g, not %.17g", b.swept.error,
           a.swept.error);
    const int64_t codes = differing(a.codes, b.codes), scales = differing(a.scales, b.scales);
    if (c.real) {
        EXPECT(!codes && !scales && a.swept.plain_rows == b.swept.plain_rows,
               "%lld bytes of codes, %lld scales, %lld and %lld rows", (long long)codes,
               (long long)scales, (long long)a.swept.plain_rows, (long long)b.swept.plain_rows);
    } else {
        EXPECT(codes <= (int64_t)a.codes.size() / 50 + 2 && scales <= 2, "%lld codes, %lld scales",
               (long long)codes, (long long)scales);
    }
}

const nib_gptq_scales all_scales[] = {
    NIB_GPTQ_SCALES_FROZEN, NIB_GPTQ_SCALES_FRESH, NIB_GPTQ_SCALES_HESSIAN,
    NIB_GPTQ_SCALES_HESSIAN_FRESH, NIB_GPTQ_SCALES_HESSIAN_FULL,
};

bool is_fresh(nib_gptq_scales s)
{
    return s == NIB_GPTQ_SCALES_FRESH || s == NIB_GPTQ_SCALES_HESSIAN_FRESH;
}

} // namespace

/* Every choice of scales with every order, the two types, ragged and whole numbers of inputs. */
NIB_TEST(CudaGptq, IsTheCpus)
{
    if (lacks_libraries()) SKIP("cuSOLVER or OpenBLAS cannot be opened");
    each_schedule([] {
        for (const nib_gptq_scales scales : all_scales) {
            for (int order = 0; order < 3; order++) {
                if (is_fresh(scales) && order == NIB_GPTQ_ACT) continue;
                Case c;
                c.scales = scales, c.order = (nib_gptq_order)order;
                c.k = order == NIB_GPTQ_ACT ? 64 : 42; /* a short block, somewhere */
                check(c);
            }
        }
    });
}

NIB_TEST(CudaGptq, TakesEveryFormat)
{
    if (lacks_libraries()) SKIP("cuSOLVER or OpenBLAS cannot be opened");
    const nib_format formats[] = {
        NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16, NIB_MXFP6_E2M3, NIB_MXFP6_E3M2, NIB_MXFP8_E4M3,
        NIB_MXFP8_E5M2, NIB_FP6_E2M3_B8, NIB_FP6_E2M3_B16, NIB_FP8_E4M3_B8, NIB_FP8_E4M3_B32,
    };
    for (const nib_format format : formats) {
        Case c;
        c.format = format, c.k = 77, c.rows = 5;
        check(c);
        c.scales = NIB_GPTQ_SCALES_HESSIAN_FRESH, c.order = NIB_GPTQ_GROUP_AWARE;
        check(c);
        c.scales = NIB_GPTQ_SCALES_FRESH, c.choice = NIB_SCALE_MSE;
        check(c);
    }
}

/* Integers by steps: groups shorter and longer than a warp, and than a block of steps. */
NIB_TEST(CudaGptq, TakesIntegers)
{
    if (lacks_libraries()) SKIP("cuSOLVER or OpenBLAS cannot be opened");
    each_schedule([] {
        for (const int64_t group : { 8, 40, 128 }) {
            for (int order = 0; order < 3; order++) {
                Case c;
                c.group = group, c.order = (nib_gptq_order)order, c.asymmetric = order != 1;
                c.k = group == 8 ? 42 : 140;
                c.element = order == 2 ? NIB_INT8 : NIB_INT4;
                check(c);
                if (order == NIB_GPTQ_ACT) continue;
                c.scales = NIB_GPTQ_SCALES_FRESH;
                check(c);
                c.rows = 3, c.scales = NIB_GPTQ_SCALES_HESSIAN_FRESH;
                check(c);
                c.scales = NIB_GPTQ_SCALES_HESSIAN;
                check(c);
            }
        }
    });
}

NIB_TEST(CudaGptq, TakesLongGroupsOfIntegers)
{
    if (lacks_libraries()) SKIP("cuSOLVER or OpenBLAS cannot be opened");
    Case c;
    c.group = 160, c.k = 300, c.rows = 3, c.dtype = NIB_BF16, c.guard = false;
    check(c);
    c.real = NIB_REAL_F32, c.tokens = 400, c.group = 64, c.scales = NIB_GPTQ_SCALES_FRESH;
    c.order = NIB_GPTQ_GROUP_AWARE;
    check(c);
}

NIB_TEST(CudaGptq, TakesEveryRequest)
{
    if (lacks_libraries()) SKIP("cuSOLVER or OpenBLAS cannot be opened");
    Case c;
    c.scales = NIB_GPTQ_SCALES_FRESH;
    for (const nib_scale_choice choice : { NIB_SCALE_MSE, NIB_SCALE_MSE_FULL,
                                           NIB_SCALE_FOUR_OVER_SIX_MSE,
                                           NIB_SCALE_FOUR_OVER_SIX_MAE }) {
        c.choice = choice;
        check(c);
    }
    for (const nib_rules_preset preset : { NIB_RULES_MODELOPT, NIB_RULES_COMPRESSED_TENSORS }) {
        c = Case();
        c.preset = preset;
        check(c);
    }
    for (const nib_dtype dtype : { NIB_F16, NIB_BF16 }) {
        c = Case();
        c.dtype = dtype, c.given = true, c.guard = false;
        check(c);
    }
    c = Case();
    c.codes = NIB_CODES_GGUF_HALVES, c.layout = NIB_SCALES_SWIZZLED_128X4;
    check(c);
}

/* gptq.h's formula, and not less than what lies there in any case. */
NIB_TEST(CudaGptq, WorkspaceIsWhatTheHeaderSays)
{
    for (const int64_t rows : { 1, 33, 4096, 4097, 14336 }) {
        for (const int64_t k : { 1, 24, 4096, 14336 }) {
            for (const nib_real real : { NIB_REAL_F32, NIB_REAL_F64 }) {
                const int64_t r = real ? 8 : 4, tile = rows < 4096 ? rows : 4096;
                const int64_t most = tile * (k * (r + 1) + k / 8 + 512 * r + 1) + 16 * rows
                                   + (7 << 20);
                const int64_t need = (int64_t)nib_cuda_gptq_need(real, rows, k, 0, 0);
                EXPECT(need <= most && need >= tile * k * (r + 1) + 16 * rows,
                       "%lld x %lld: %lld, not %lld", (long long)rows, (long long)k,
                       (long long)need, (long long)most);
                const int64_t steps = (int64_t)nib_cuda_gptq_need(real, rows, k, 24, 0);
                EXPECT(steps <= most - tile * (k / 8) + tile * nib_ceil_div(k, 24) * 8,
                       "%lld x %lld by 24: %lld", (long long)rows, (long long)k, (long long)steps);
            }
        }
    }
}

/* More than one block of steps and more than one panel of them, in both types. */
NIB_TEST(CudaGptq, CarriesErrorsFar)
{
    if (lacks_libraries()) SKIP("cuSOLVER or OpenBLAS cannot be opened");
    Case c;
    c.rows = 3, c.k = NIB_GPTQ_PANEL + NIB_GPTQ_STEPS + 20, c.order = NIB_GPTQ_ACT;
    c.tokens = 60;
    check(c);
    c.order = NIB_GPTQ_GROUP_AWARE, c.scales = NIB_GPTQ_SCALES_FRESH;
    check(c);
    c.real = NIB_REAL_F32, c.k = 300, c.tokens = 400;
    check(c);
    c.scales = NIB_GPTQ_SCALES_HESSIAN, c.order = NIB_GPTQ_NATURAL;
    check(c);
}

NIB_TEST(CudaGptq, InverseIsTheCpus)
{
    if (lacks_libraries()) SKIP("cuSOLVER or OpenBLAS cannot be opened");
    each_schedule([] {
        for (const nib_real real : { NIB_REAL_F32, NIB_REAL_F64 }) {
            for (const int64_t k : { 6, 45, 130 }) {
                Case c;
                c.real = real, c.k = k;
                const Input   in = input_of(c);
                const Outcome a = run(false, c, in, true), b = run(true, c, in, true);
                EXPECT(!a.u_minor && !b.u_minor && b.status == NIB_OK, "%s", b.why);
                expect_close(c, "u", a.u, b.u, true);
            }
        }
    });
}

/* A minor that is not positive definite is told, and so is NaN, of which cuSOLVER says nothing. */
NIB_TEST(CudaGptq, TellsOfMinors)
{
    if (lacks_libraries()) SKIP("cuSOLVER or OpenBLAS cannot be opened");
    Case  c;
    Input in = input_of(c);
    in.mean = -100 * in.mean; /* added to the diagonal: less than nothing */
    const Outcome a = run(false, c, in, false), b = run(true, c, in, false);
    EXPECT(a.minor > 0 && a.minor == b.minor, "minors %lld, %lld", (long long)a.minor,
           (long long)b.minor);
    in = input_of(c);
    const double nan = (double)NAN;
    memcpy(&in.h[(size_t)(8 * (3 * (c.k + c.extra) + 2))], &nan, 8);
    const Outcome n = run(true, c, in, false);
    EXPECT(n.status == NIB_OK && n.minor == c.k - 2, "%lld", (long long)n.minor);
}

NIB_TEST(CudaGptq, CanBeCancelled)
{
    if (lacks_libraries()) SKIP("cuSOLVER or OpenBLAS cannot be opened");
    const Case    c;
    const int32_t yes = 1, no = 0;
    const Input   in = input_of(c);
    EXPECT(run(true, c, in, false, &yes).status == NIB_ERR_CANCELLED, "cancelled");
    EXPECT(run(true, c, in, false, &no).status == NIB_OK, "not cancelled");
}

#if NIB_ON_EMULATOR
NIB_TEST(CudaGptq, FailuresAreTold)
{
    const struct { const char *inject, *text; nib_status status; } rows[] = {
        { "fail=cusolverDnXpotrf:6:0", "status 6, its kernel failed to launch", NIB_ERR_DEVICE },
        { "fail=cusolverDnXpotrf_bufferSize:3:0", "status 3", NIB_ERR_DEVICE },
        { "fail=cusolverDnXpotrf:4:0", "status 4, not for this GPU", NIB_ERR_UNSUPPORTED },
        { "fail=cusolverDnSetStream:1:0", "exec->stream", NIB_ERR_DEVICE },
        { "fail=info:-4:0", "argument 4 is wrong", NIB_ERR_DEVICE },
        { "fail=cudaMalloc:2:4", "cuSOLVER's workspace", NIB_ERR_OUT_OF_MEMORY },
        { "fail=cudaLaunchKernel:701:0", "launch of gptq_gather", NIB_ERR_DEVICE },
        { "fail=cublasLtMatmul:13:0", "cublasLt: a product: status 13", NIB_ERR_DEVICE },
    };
    Case c;
    c.order = NIB_GPTQ_NATURAL;
    const Input in = input_of(c);
    for (const auto &row : rows) {
        (void)nib_emu_inject(row.inject);
        const Outcome o = run(true, c, in, false);
        EXPECT(o.status == row.status && strstr(o.why, row.text), "%s: status %d, %s", row.inject,
               (int)o.status, o.why);
        (void)nib_emu_inject("none");
    }
    (void)nib_emu_inject("fail=info:3:0");
    EXPECT(run(true, c, in, false).minor == 3, "info");
    (void)nib_emu_inject("fail=cusolverDnXtrtri:7:0");
    const Outcome o = run(true, c, in, true);
    EXPECT(o.status == NIB_ERR_DEVICE && strstr(o.why, "a triangular inverse: status 7"), "%s",
           o.why);
    (void)nib_emu_inject("none");
    const Outcome after = run(true, c, in, false);
    EXPECT(after.status == NIB_OK, "nothing of it stays: %s", after.why);
    if (!lacks_libraries()) check(c);
}

NIB_TEST(CudaGptq, NamesWhatIsMissing)
{
    char why[NIB_WHY_BYTES] = "";
    EXPECT(!nib_cuda_solver_would_open("libcusolver.so.999", why)
               && strstr(why, "libcusolver.so.999 cannot be opened"), "%s", why);
}
#endif
