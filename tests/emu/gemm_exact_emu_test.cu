/* gemm_exact_emu_test.cu: exact products lie within gemm.h's bound of what double gives, under
 * every schedule, whatever the parts they are cut into; and what they ask of cublasLt. */
#include "kernels/cuda/cublaslt.cuh"
#include "kernels/cuda/gemm_tune.h"
#include "tests/emu/gemm_exact_source.h"

#include <stdio.h>
#include <thread>

namespace {

const nib_format      formats[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16 };
const nib_gemm_layout both[] = { NIB_GEMM_LAYOUT_SM80, NIB_GEMM_LAYOUT_SM100 };

bool is_here(nib_gemm_layout layout) { return NIB_ON_EMULATOR || layout == own_layout(); }

void text_of(const Case &c, char *text, size_t bytes)
{
    snprintf(text, bytes, "format %#x layout %d a %d d %d, %lld x %lld x %lld, act %d%s%s%s%s%s%s",
             c.format, (int)c.layout, (int)c.a, (int)c.d, (long long)c.m, (long long)c.n,
             (long long)c.k, (int)c.act, c.gated ? " gated" : "", c.bias ? " bias" : "",
             c.residual ? " residual" : "", c.in_place ? " in place" : "", c.alpha ? " alpha" : "",
             c.backward ? " backward" : "");
}

/* One unit in the last place of a number of this size, halved, by dtype; Inf past the largest. */
double rounding(nib_dtype dtype, double y)
{
    return dtype == NIB_F32 ? 0x1p-24 * fabs(y) + 0x1p-149
         : dtype == NIB_F16 ? 0x1p-11 * fabs(y) + 0x1p-25 : 0x1p-8 * fabs(y) + 0x1p-134;
}

double largest_of(nib_dtype dtype)
{
    return dtype == NIB_F16 ? 65504.0 : (double)3.3e38f;
}

/* Every element within its bound, and nothing written between rows. */
void check(const Case &c, const Inputs &in, const Result &r)
{
    char text[256];
    text_of(c, text, sizeof text);
    REQUIRE(r.status == NIB_OK, "%s: status %d %s", text, (int)r.status, r.why);
    for (int64_t m = 0; m < c.m; m++) {
        for (int64_t j = 0; j < in.d_ld; j++) {
            const int64_t i = m * in.d_ld + j;
            if (j >= in.d_cols) {
                const Bytes &before = c.in_place ? in.residual : Bytes(r.d.size(), poison);
                const int    size = size_of(c.d);
                const size_t at = (size_t)(i * size);
                REQUIRE(!memcmp(&r.d[at], &before[at], (size_t)size),
                        "%s: row %lld is written past its end", text, (long long)m);
                continue;
            }
            const Value  v = element_of(c, in, m, j);
            const double got = number(c.d, r.d, i);
            if (isnan(v.y) ? isnan(got) : fabs(v.y) + v.error > largest_of(c.d)) continue;
            REQUIRE(fabs(got - v.y) <= v.error + rounding(c.d, v.y) * 1.001,
                    "%s: [%lld, %lld] is %.9g, not %.9g +- %.3g", text, (long long)m, (long long)j,
                    got, v.y, v.error);
        }
    }
}

void check(const Case &c, uint64_t seed = 1)
{
    const Inputs in = inputs_of(c, seed);
    check(c, in, result_of(c, in, seed % 2));
}

bool lacks_library()
{
    const nib_device_info info = info_of(0);
    return nib_cuda_gemm_exact_why_not(&info) != nullptr;
}
#define NEEDS_LIBRARY()                                                    \
    do {                                                                   \
        if (lacks_library()) SKIP("cublasLt cannot be opened");            \
    } while (0)

/* Ways to end a product. */
Case ended(Case c, int way)
{
    const nib_gemm_act acts[] = { NIB_GEMM_ACT_NONE, NIB_GEMM_ACT_RELU, NIB_GEMM_ACT_GELU,
                                  NIB_GEMM_ACT_GELU_TANH, NIB_GEMM_ACT_SILU };
    c.alpha = way % 2, c.bias = way == 2 || way == 5, c.residual = way == 3 || way == 6;
    c.in_place = way == 6;
    c.gated = way == 4 || way == 5 || way == 6;
    c.act = way >= 2 ? acts[way % 5] : NIB_GEMM_ACT_NONE;
    return c;
}

} // namespace

NIB_TEST(CudaGemmExact, EveryKindIsWithinItsBound)
{
    NEEDS_LIBRARY();
    const struct { int64_t m, n, k; } shapes[] = { { 1, 16, 8 }, { 3, 80, 72 }, { 9, 144, 136 } };
    int way = 0;
    for (const nib_format format : formats) {
        for (const nib_gemm_layout layout : both) {
            if (!is_here(layout)) continue;
            for (const nib_dtype a : { NIB_F16, NIB_BF16 }) {
                for (const nib_dtype d : { NIB_F32, NIB_F16, NIB_BF16 }) {
                    Case c;
                    c.format = format, c.layout = layout, c.a = a, c.d = d;
                    const auto &s = shapes[way % 3];
                    c.m = s.m, c.n = s.n, c.k = s.k;
                    check(c, (uint64_t)way + 1);
                    check(ended(c, way % 7), (uint64_t)way + 2);
                    check(ended(c, (way + 3) % 7), (uint64_t)way + 3);
                    way++;
                    c.backward = true, c.gated = way % 2, c.alpha = way % 3 == 0;
                    check(c, (uint64_t)way + 1);
                    if (nib_test_failed()) return;
                }
            }
        }
    }
}

NIB_TEST(CudaGemmExact, EverySchedule)
{
    NEEDS_LIBRARY();
    each_schedule([] {
        for (const nib_format format : formats) {
            for (int backward = 0; backward < 2; backward++) {
                Case c;
                c.format = format, c.n = 144, c.k = 104, c.backward = backward;
                check(backward ? c : ended(c, 5));
            }
        }
    });
}

/* Weights and activations of few bits: no rounding anywhere, so D is what double says. */
NIB_TEST(CudaGemmExact, NothingRoundsWhereNothingMust)
{
    NEEDS_LIBRARY();
    for (const nib_format format : formats) {
        for (const nib_dtype a : { NIB_F16, NIB_BF16 }) {
            for (int backward = 0; backward < 2; backward++) {
                Case c;
                c.format = format, c.a = a, c.d = NIB_F32, c.scales = WHOLE, c.backward = backward;
                c.n = 136, c.k = 200, c.alpha = true;
                const Inputs in = inputs_of(c, 3);
                const Result r = result_of(c, in);
                REQUIRE(r.status == NIB_OK, "%s", r.why);
                for (int64_t m = 0; m < c.m; m++) {
                    for (int64_t j = 0; j < in.d_cols; j++) {
                        const double want = element_of(c, in, m, j).y;
                        const double got = number(c.d, r.d, m * in.d_ld + j);
                        REQUIRE(got == want, "%#x: %.9g, not %.9g", format, got, want);
                    }
                }
            }
        }
    }
}

/* Scales from 2^-127 to 2^127, far apart within a row and a column. */
NIB_TEST(CudaGemmExact, E8M0ScalesOfAnySize)
{
    NEEDS_LIBRARY();
    for (const Scales scales : { WIDE, TOP }) {
        for (const nib_format format : { NIB_MXFP4, NIB_MXFP4_B16 }) {
            for (const nib_gemm_layout layout : both) {
                if (!is_here(layout)) continue;
                for (const nib_dtype a : { NIB_F16, NIB_BF16 }) {
                    Case c;
                    c.format = format, c.layout = layout, c.a = a, c.d = NIB_F32;
                    c.k = 136, c.scales = scales;
                    check(c, 5);
                    c.backward = true;
                    check(c, 5);
                }
            }
        }
    }
}

/* NaN in row 3's scales: column 3 of D. An Inf among activations: its row. */
NIB_TEST(CudaGemmExact, NanStaysWhereItIs)
{
    NEEDS_LIBRARY();
    for (const nib_format format : formats) {
        for (const nib_dtype a : { NIB_F16, NIB_BF16 }) {
            Case c;
            c.format = format, c.a = a, c.d = NIB_F32, c.scales = NAN_AT_ROW_3, c.bias = true;
            Inputs in = inputs_of(c, 7);
            nib_store_f32((int)a, in.a.data(), 1 * in.a_ld + 5, INFINITY);
            const Result r = result_of(c, in);
            REQUIRE(r.status == NIB_OK, "%s", r.why);
            for (int64_t j = 0; j < c.n; j++) {
                EXPECT(isfinite(number(c.d, r.d, j)) == (j != 3)
                           && isfinite(number(c.d, r.d, 2 * in.d_ld + j)) == (j != 3)
                           && !isfinite(number(c.d, r.d, in.d_ld + j)),
                       "%#x: column %lld", format, (long long)j);
            }
        }
    }
}

NIB_TEST(CudaGemmExact, SumsOfNothing)
{
    NEEDS_LIBRARY();
    Case c;
    c.k = 0, c.bias = c.residual = true;
    check(c);
    c = Case();
    c.n = 0, c.backward = true;
    check(c);
    c.format = NIB_MXFP4;
    check(c);
}

/* ---- parts ---- */

/* More outputs than a part, and the last one ragged. */
NIB_TEST(CudaGemmExact, PartsOfOutputs)
{
    NEEDS_LIBRARY();
    for (const nib_format format : { NIB_NVFP4, NIB_MXFP4 }) {
        Case c;
        c.format = format, c.m = 2, c.n = NIB_GEMM_EXACT_OUTPUTS + 72, c.k = 8;
        check(c);
        c.gated = true, c.n += 8;
        check(c);
        c.gated = false, c.backward = true;
        c.n = 24, c.k = NIB_GEMM_EXACT_OUTPUTS + 72;
        check(c);
    }
}

/* More rows than the sums' scratch holds. */
NIB_TEST(CudaGemmExact, PartsOfRows)
{
    NEEDS_LIBRARY();
    Case c;
    c.m = NIB_GEMM_EXACT_SUMS / NIB_GEMM_EXACT_LEAST + 3;
    c.n = NIB_GEMM_EXACT_LEAST, c.k = 8, c.scales = WHOLE;
    c.a = NIB_BF16; /* cublasLt does not write f16 D then */
    const Inputs in = inputs_of(c, 9);
    const Result r = result_of(c, in);
    REQUIRE(r.status == NIB_OK, "%s", r.why);
    for (int64_t m = 0; m < c.m; m += m < c.m - 6 ? 997 : 1) {
        for (int64_t j = 0; j < c.n; j += 97)
            REQUIRE(number(c.d, r.d, m * in.d_ld + j) == element_of(c, in, m, j).y, "row %lld",
                    (long long)m);
    }
}

NIB_TEST(CudaGemmExact, WorkspaceGrowsWithRowsAndHasABound)
{
    nib_device_info  info = info_of(0);
    nib_gemm_options o = options_of(Case());
    const int64_t sizes[] = { 0, 8, 4096, 4104, 14336, 131072, (int64_t)1 << 22 };
    for (const int64_t n : sizes) {
        for (const int64_t k : sizes) {
            for (const bool backward : { false, true }) {
                size_t before = 0;
                o.n = n, o.k = k;
                for (int64_t m = 1; m < INT32_MAX; m = m * 5 / 4 + 1) {
                    const size_t now = nib_cuda_gemm_exact_need(&o, &info, m, backward);
                    EXPECT(now >= before, "%lld x %lld, %lld rows", (long long)n, (long long)k,
                           (long long)m);
                    before = now;
                }
                const size_t terms = (size_t)(backward ? n : k);
                const size_t weights = terms * 128 > 2u * NIB_GEMM_EXACT_WEIGHTS
                    ? terms * 128 : 2u * NIB_GEMM_EXACT_WEIGHTS;
                EXPECT(before <= weights + 4u * NIB_GEMM_EXACT_SUMS + NIB_GEMM_LT_WORKSPACE_SM90
                           + 8192, "%lld x %lld: %zu", (long long)n, (long long)k, before);
            }
        }
    }
}

NIB_TEST(CudaGemmExact, SaysWhatItLacks)
{
    char why[NIB_WHY_BYTES] = "";
    EXPECT(!nib_cuda_lt_would_open("libcublasLt.so.999", why)
               && strstr(why, "libcublasLt.so.999 cannot be opened"), "%s", why);
}

#if NIB_ON_EMULATOR
/* ---- what cublasLt is asked for ---- */

NIB_TEST(CudaGemmExact, CublasLtWritesDWhereItCan)
{
    const struct { Case c; bool direct, device_factor; } rows[] = {
        { Case(), true, true },                          /* a tensor scale */
        { [] { Case c; c.format = NIB_MXFP4, c.a = c.d = NIB_BF16; return c; }(), true, false },
        { [] { Case c; c.format = NIB_MXFP4; return c; }(), false, false },
        { [] { Case c; c.a = NIB_BF16; return c; }(), false, false },
        { [] { Case c; c.bias = true; return c; }(), false, false },
        { [] { Case c; c.backward = true; return c; }(), true, true },
    };
    for (const auto &row : rows) {
        nib_emu_product p;
        const int before = nib_emu_cublaslt_product(-1, &p);
        check(row.c);
        EXPECT(nib_emu_cublaslt_product(before, &p) == before + 1, "one product");
        const int dtype = row.c.d == NIB_BF16 ? 14 : 2;
        EXPECT(p.d_type == (row.direct ? dtype : 0) && p.factor_on_device == row.device_factor,
               "type %d, factor %d", p.d_type, p.factor_on_device);
        EXPECT(p.m == row.c.m && p.n == (row.c.backward ? row.c.k : row.c.n)
                   && p.k == (row.c.backward ? row.c.n : row.c.k)
                   && p.transposed == !row.c.backward, "%lld x %lld x %lld", (long long)p.m,
               (long long)p.n, (long long)p.k);
        EXPECT(p.workspace_bytes == (size_t)(NIB_EMU_ARCH >= 90 ? NIB_GEMM_LT_WORKSPACE_SM90
                                                               : NIB_GEMM_LT_WORKSPACE),
               "%zu", (size_t)p.workspace_bytes);
    }
}

/* A single row's ld says nothing: cublasLt hears of none that is odd, or beyond what it takes. */
NIB_TEST(CudaGemmExact, TheLdOfASingleRowIsNotRead)
{
    for (const bool backward : { false, true }) {
        Case c;
        c.m = 1, c.backward = backward;
        const Inputs    in = inputs_of(c, 1);
        Product         product(c, in);
        Device<uint8_t> workspace(product.need);
        nib_emu_product p;
        nib_launch      launch = {};
        launch.workspace = (uint8_t *)workspace;
        product.a_matrix.ld_elems = ((int64_t)1 << 40) + 1, product.d_matrix.ld_elems = 1001;
        const nib_status status = product.run(launch);
        EXPECT_CUDA(cudaDeviceSynchronize());
        check(c, in, { product.written(), status, "", 0 });
        (void)nib_emu_cublaslt_product(nib_emu_cublaslt_product(-1, &p) - 1, &p);
        EXPECT(p.a_ld == product.a_matrix.cols && p.d_ld == in.d_cols, "%lld, %lld",
               (long long)p.a_ld, (long long)p.d_ld);
    }
}

NIB_TEST(CudaGemmExact, FailuresAreTold)
{
    const struct { const char *inject, *text; nib_status status; } rows[] = {
        { "fail=cublasLtMatmulAlgoGetHeuristic:15:0", "no algorithm", NIB_ERR_UNSUPPORTED },
        { "fail=cublasLtMatmul:13:0", "status 13, its kernel failed to launch", NIB_ERR_DEVICE },
        { "fail=cublasLtMatmul:14:0", "status 14", NIB_ERR_DEVICE },
        { "fail=cublasLtMatmul:3:0", "status 3, no memory", NIB_ERR_OUT_OF_MEMORY },
        { "fail=cublasLtMatmul:15:0", "status 15, not supported", NIB_ERR_UNSUPPORTED },
        { "fail=cublasLtMatrixLayoutInit_internal:7:1", "status 7", NIB_ERR_UNSUPPORTED },
    };
    Case c;
    c.m = 11; /* no other test's: its algorithm is not known */
    const Inputs in = inputs_of(c, 1);
    for (const auto &row : rows) {
        (void)nib_emu_inject(row.inject);
        const Result r = result_of(c, in);
        EXPECT(r.status == row.status && strstr(r.why, row.text), "%s: status %d, %s", row.inject,
               (int)r.status, r.why);
        check(Case()); /* and the next call runs */
    }
    (void)nib_emu_inject("none");
}

/* A product of a known kind asks for no algorithm; of another, once. */
NIB_TEST(CudaGemmExact, AsksForAnAlgorithmOnce)
{
    Case c;
    c.m = 13, c.n = 48, c.k = 40; /* no other test's */
    const int before = nib_emu_cublaslt_heuristics();
    check(c);
    EXPECT(nib_emu_cublaslt_heuristics() == before + 1, "the first time");
    check(c), check(c, 3);
    EXPECT(nib_emu_cublaslt_heuristics() == before + 1, "again");
    Case others[5] = { c, c, c, c, c };
    others[0].m = 14, others[1].bias = true, others[2].backward = true;
    others[3].a = others[3].d = others[4].a = others[4].d = NIB_BF16;
    others[4].format = NIB_MXFP4; /* its factor is no number of the device's */
    for (int i = 0; i < 10; i++) check(others[i % 5]);
    EXPECT(nib_emu_cublaslt_heuristics() == before + 6, "other kinds: %d",
           nib_emu_cublaslt_heuristics() - before);
}

/* A device that gets no handle has no exact products, and says so; others have. The next product
 * and the next nib_prepare ask for one again. */
NIB_TEST(CudaGemmExact, WithoutAHandle)
{
    (void)nib_emu_inject("devices=8 fail=cublasLtCreate:1:0 fail=cublasLtCreate:3:0");
    char why[NIB_WHY_BYTES] = "";
    EXPECT(nib_cuda_prepare(7, NIB_PREPARE_GEMM, why) == NIB_OK, "%s", why);
    const nib_device_info info = info_of(7);
    const char *const     no = nib_cuda_gemm_exact_why_not(&info);
    EXPECT(no && strstr(no, "no handle for CUDA device 7: status 1"), "%s", no ? no : "NULL");
    nib_gemm_tactic tactic;
    EXPECT(!exact_tactic(Case(), info, &tactic), "a tactic that cannot run");
    EXPECT(exact_tactic(Case(), info_of(0), &tactic), "of the other device");
    EXPECT_CUDA(cudaSetDevice(7));
    {
        Product         p(Case(), inputs_of(Case(), 1), 7);
        Device<uint8_t> workspace(p.need);
        nib_launch      launch = {};
        launch.why = why, launch.ordinal = 7;
        launch.workspace = (uint8_t *)workspace, launch.workspace_bytes = p.need;
        EXPECT(p.run(launch) == NIB_ERR_UNSUPPORTED
                   && strstr(why, "no handle for CUDA device 7: status 3, no memory"), "%s", why);
        EXPECT(p.run(launch) == NIB_OK, "the third time: %s", why);
        EXPECT_CUDA(cudaDeviceSynchronize());
    }
    EXPECT(exact_tactic(Case(), info, &tactic), "a tactic that can run by now");
    (void)nib_emu_inject("devices=8 fail=cublasLtCreate:1:0");
    const nib_device_info second = info_of(2);
    EXPECT(nib_cuda_prepare(2, NIB_PREPARE_GEMM, why) == NIB_OK
               && nib_cuda_gemm_exact_why_not(&second), "refused once");
    EXPECT(nib_cuda_prepare(2, NIB_PREPARE_GEMM, why) == NIB_OK
               && !nib_cuda_gemm_exact_why_not(&second), "prepared again");
    EXPECT_CUDA(cudaSetDevice(0));
    (void)nib_emu_inject("none");
}

/* Threads that all find it refused; and none is made while the stream is being captured. */
NIB_TEST(CudaGemmExact, AHandleIsAskedForAgainInThreads)
{
    (void)nib_emu_inject("devices=8 fail=cublasLtCreate:1:0");
    char why[NIB_WHY_BYTES] = "";
    EXPECT(nib_cuda_prepare(5, NIB_PREPARE_GEMM, why) == NIB_OK, "%s", why);
    EXPECT_CUDA(cudaSetDevice(5));
    {
        Product         p(Case(), inputs_of(Case(), 1), 5);
        Device<uint8_t> workspace(p.need);
        cudaStream_t    stream;
        cudaGraph_t     graph;
        EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        nib_launch launch = {};
        launch.why = why, launch.ordinal = 5, launch.stream = stream;
        launch.workspace = (uint8_t *)workspace, launch.workspace_bytes = p.need;
        EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        EXPECT(p.run(launch) == NIB_ERR_UNSUPPORTED && strstr(why, "no handle"), "%s", why);
        EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
        EXPECT_CUDA(cudaGraphDestroy(graph));
        EXPECT_CUDA(cudaStreamDestroy(stream));
    }
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([] {
            char            words[NIB_WHY_BYTES] = "";
            EXPECT_CUDA(cudaSetDevice(5));
            Product         p(Case(), inputs_of(Case(), 1), 5);
            Device<uint8_t> workspace(p.need);
            nib_launch      launch = {};
            launch.why = words, launch.ordinal = 5;
            launch.workspace = (uint8_t *)workspace, launch.workspace_bytes = p.need;
            EXPECT(p.run(launch) == NIB_OK, "%s", words);
            EXPECT_CUDA(cudaDeviceSynchronize());
        });
    }
    for (std::thread &t : threads) t.join();
    EXPECT_CUDA(cudaSetDevice(0));
    (void)nib_emu_inject("none");
}

/* In a graph, with cublasLt's kernel not loaded before; and again with other activations. */
NIB_TEST(CudaGemmExact, IsCaptured)
{
    for (const nib_format format : { NIB_NVFP4, NIB_MXFP4 }) {
        nib_emu_reset();
        EXPECT_CUDA(nib_cuda_load_gemm());
        EXPECT_CUDA(nib_cuda_load_gemm_exact());
        Case c;
        c.format = format, c.alpha = true;
        Inputs in = inputs_of(c, 1);
        char   why[NIB_WHY_BYTES] = "";
        EXPECT(nib_cuda_prepare(0, NIB_PREPARE_GEMM, why) == NIB_OK, "%s", why);
        Product         p(c, in);
        Device<uint8_t> workspace(p.need);
        cudaStream_t    stream;
        cudaGraph_t     graph;
        cudaGraphExec_t exec;
        EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        nib_launch launch = {};
        launch.why = why, launch.stream = stream;
        launch.workspace = (uint8_t *)workspace, launch.workspace_bytes = p.need;
        EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        EXPECT(p.run(launch) == NIB_OK, "%s", why);
        EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
        EXPECT_CUDA(cudaGraphInstantiate(&exec, graph, 0));
        for (int turn = 0; turn < 2; turn++) {
            Inputs now = in;
            now.a = inputs_of(c, (uint64_t)turn + 1).a;
            EXPECT_CUDA(cudaMemcpy(p.a_matrix.data, now.a.data(), now.a.size(),
                                   cudaMemcpyHostToDevice));
            EXPECT_CUDA(cudaGraphLaunch(exec, stream));
            EXPECT_CUDA(cudaStreamSynchronize(stream));
            Result r = {};
            r.d = p.written();
            check(c, now, r);
        }
        EXPECT_CUDA(cudaGraphExecDestroy(exec));
        EXPECT_CUDA(cudaGraphDestroy(graph));
    }
    nib_emu_reset();
}

#endif
