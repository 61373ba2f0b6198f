/* cublaslt_emu_test.cu: the product of plain matrices that benchmarks hold kernels against; and
 * handles of cuSOLVER. */
#include "kernels/cuda/cublaslt.cuh"
#include "kernels/cuda/cusolver.cuh"
#include "kernels/common/half.h"
#include "tests/emu/emu_test.h"

#include <string.h>
#include <thread>

static std::vector<uint8_t> small(nib_dtype dtype, int64_t n, Random &random)
{
    std::vector<uint8_t> x((size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        nib_store_f32((int)dtype, x.data(), i, (float)(random.below(9) - 4));
    return x;
}

static double number(nib_dtype dtype, const std::vector<uint8_t> &x, int64_t i)
{
    return (double)nib_load_f32((int)dtype, x.data(), i);
}

NIB_TEST(CudaCublasLt, BenchmarksProduct)
{
    if (nib_cuda_lt_why_not(0)) SKIP("cublasLt cannot be opened");
    const int64_t m = 3, n = 24, k = 40;
    for (const nib_dtype dtype : { NIB_F32, NIB_F16, NIB_BF16 }) {
        Random          random(1);
        const auto      a = small(dtype, m * k, random), w = small(dtype, n * k, random);
        Device<uint8_t> at_a(a), at_w(w), at_d((size_t)(m * n * 4));
        char            why[NIB_WHY_BYTES] = "";
        nib_launch      launch = {};
        void           *plan;
        launch.why = why;
        REQUIRE(nib_bench_cuda.gemm_plan(&launch, dtype, m, n, k, (uint8_t *)at_a, (uint8_t *)at_w,
                                         (uint8_t *)at_d, &plan) == NIB_OK, "%s", why);
        EXPECT_CUDA(cudaMemset((uint8_t *)at_d, 0xff, (size_t)(m * n * 4)));
        EXPECT(nib_bench_cuda.gemm(&launch, plan, (uint8_t *)at_a, (uint8_t *)at_w,
                                   (uint8_t *)at_d) == NIB_OK, "%s", why);
        const std::vector<uint8_t> d = at_d.read();
        for (int64_t i = 0; i < m * n; i++) {
            double sum = 0;
            for (int64_t j = 0; j < k; j++)
                sum += number(dtype, a, i / n * k + j) * number(dtype, w, i % n * k + j);
            EXPECT(number(dtype, d, i) == sum, "%d: [%lld] is %g, not %g", (int)dtype, (long long)i,
                   number(dtype, d, i), sum);
        }
        nib_bench_cuda.gemm_release(plan);
    }
}

#if NIB_ON_EMULATOR
NIB_TEST(CudaCublasLt, BenchmarksFailuresAreTold)
{
    const struct { const char *inject, *text; } rows[] = {
        { "fail=cublasLtMatmulAlgoGetHeuristic:15:0", "no heuristic: status 15" },
        { "fail=cublasLtMatmul:13:0", "no heuristic runs" },
        { "fail=cudaMalloc:2:0", "cublasLt's workspace" },
    };
    for (const auto &row : rows) {
        Device<uint8_t> x(4096);
        char            why[NIB_WHY_BYTES] = "";
        nib_launch      launch = {};
        void           *plan;
        launch.why = why;
        (void)nib_emu_inject(row.inject);
        EXPECT(nib_bench_cuda.gemm_plan(&launch, NIB_F16, 1, 8, 8, (uint8_t *)x, (uint8_t *)x,
                                        (uint8_t *)x + 1024, &plan) != NIB_OK && !plan
                   && strstr(why, row.text), "%s: %s", row.inject, why);
    }
    (void)nib_emu_inject("none");
}

/* Products of 1 x k with 8 x k ones, for k from first on. */
static void expect_products(int64_t first, int64_t count, void *workspace)
{
    Device<float> ones(std::vector<float>(8 * 1024, 1.0f)), d(8);
    char          why[NIB_WHY_BYTES] = "";
    nib_launch    launch = {};
    launch.why = why;
    LtProduct p = {};
    p.a_dtype = p.d_dtype = NIB_F32, p.transposed = true, p.factor = 1.0f;
    p.m = 1, p.n = p.d_ld = 8, p.a = p.w = (float *)ones, p.d = (float *)d;
    for (int64_t k = first; k < first + count; k++) {
        p.k = p.a_ld = p.w_ld = k;
        EXPECT(nib_cuda_lt_product(&launch, p, workspace, 65536) == NIB_OK, "%s", why);
        EXPECT(d.read() == std::vector<float>(8, (float)k), "k = %lld", (long long)k);
    }
}

/* Threads, and more kinds of products than are remembered; then the last of them again. */
NIB_TEST(CudaCublasLt, RemembersTheLatestKinds)
{
    char why[NIB_WHY_BYTES] = "";
    REQUIRE(nib_cuda_prepare(0, NIB_PREPARE_GEMM, why) == NIB_OK, "%s", why);
    Device<uint8_t>          workspace(4 * 65536);
    std::vector<std::thread> threads;
    int before = nib_emu_cublaslt_heuristics();
    for (int t = 0; t < 4; t++)
        threads.emplace_back([&workspace, t] {
            expect_products(1 + 150 * t, 300, (uint8_t *)workspace + t * 65536);
        });
    for (std::thread &t : threads) t.join();
    int asked = nib_emu_cublaslt_heuristics() - before;
    EXPECT(asked >= 750 && asked <= 1200, "%d of 1200 products in threads", asked);
    expect_products(1, 800, (uint8_t *)workspace);
    before = nib_emu_cublaslt_heuristics();
    expect_products(781, 20, (uint8_t *)workspace);
    EXPECT(nib_emu_cublaslt_heuristics() == before, "of 20, %d asked",
           nib_emu_cublaslt_heuristics() - before);
    expect_products(1, 400, (uint8_t *)workspace);
    asked = nib_emu_cublaslt_heuristics() - before;
    EXPECT(asked > 50, "only %d of the older ones were forgotten: is there no bound?", asked);
}

/* What cuSOLVER refuses once is asked for again: by nib_prepare, and by what needs it. */
NIB_TEST(CudaCuSolver, AHandleIsAskedForAgain)
{
    char why[NIB_WHY_BYTES] = "";
    (void)nib_emu_inject("devices=8 fail=cusolverDnCreate:1:0 fail=cusolverDnCreateParams:3:0 "
                         "fail=cusolverDnCreateParams:7:0");
    EXPECT(nib_cuda_prepare(4, NIB_PREPARE_GPTQ, why) == NIB_OK, "%s", why);
    const char *no = nib_cuda_solver_why_not(4);
    EXPECT(no && strstr(no, "cuSOLVER: no handle for CUDA device 4: status 1"), "%s", no);
    EXPECT(nib_cuda_prepare(4, NIB_PREPARE_GPTQ, why) == NIB_OK, "%s", why);
    no = nib_cuda_solver_why_not(4);
    EXPECT(no && strstr(no, "status 3"), "%s", no);
    EXPECT_CUDA(cudaSetDevice(4));
    {
        nib_launch launch = {};
        int64_t    minor;
        launch.why = why, launch.ordinal = 4;
        Device<float> a(std::vector<float>{ 4.0f });
        EXPECT(nib_cuda_solver_factor(&launch, NIB_REAL_F32, 1, (float *)a, 1, false, &minor)
                   == NIB_ERR_UNSUPPORTED && strstr(why, "status 7"), "%s", why);
        EXPECT(nib_cuda_solver_factor(&launch, NIB_REAL_F32, 1, (float *)a, 1, false, &minor)
                   == NIB_OK && !minor && a.read()[0] == 2.0f, "%s", why);
    }
    EXPECT_CUDA(cudaSetDevice(0));
    EXPECT(!nib_cuda_solver_why_not(4), "refused for good");
    (void)nib_emu_inject("none");
}

/* Sizes for the inverse in numbers, not bytes: cuSOLVER before 11.6.1. */
NIB_TEST(CudaCuSolver, OldOnesAreGivenRoom)
{
    char       why[NIB_WHY_BYTES] = "";
    int64_t    minor = -1;
    nib_launch launch = {};
    launch.why = why;
    REQUIRE(nib_cuda_prepare(0, NIB_PREPARE_GPTQ, why) == NIB_OK, "%s", why);
    (void)nib_emu_inject("old_cusolver");
    Device<float>  a(std::vector<float>{ 4.0f, 0.0f, 2.0f, 5.0f });
    Device<double> b(std::vector<double>{ 4.0, 0.0, 2.0, 5.0 });
    EXPECT(nib_cuda_solver_factor(&launch, NIB_REAL_F32, 2, (float *)a, 2, true, &minor) == NIB_OK
               && !minor, "f32: %s", why);
    EXPECT(nib_cuda_solver_factor(&launch, NIB_REAL_F64, 2, (double *)b, 2, true, &minor)
               == NIB_OK && !minor, "f64: %s", why);
    EXPECT(a.read() == (std::vector<float>{ 0.5f, 0.0f, -0.25f, 0.5f })
               && b.read() == (std::vector<double>{ 0.5, 0.0, -0.25, 0.5 }), "the inverse");
    (void)nib_emu_inject("none");
}

/* Where cublasLt's heuristic fails under capture: the status, and a capture that goes on; after one
 * run outside, a graph. */
NIB_TEST(CudaCublasLt, AskedUnderCaptureInVain)
{
    char            why[NIB_WHY_BYTES] = "";
    cudaStream_t    stream;
    cudaGraph_t     graph;
    cudaGraphExec_t exec;
    REQUIRE(nib_cuda_prepare(0, NIB_PREPARE_GEMM, why) == NIB_OK, "%s", why);
    Device<float>   ones(std::vector<float>(8 * 2048, 1.0f)), d(8);
    Device<uint8_t> workspace(65536);
    nib_launch      launch = {};
    LtProduct       p = {};
    p.a_dtype = p.d_dtype = NIB_F32, p.transposed = true, p.factor = 1.0f;
    p.m = 1, p.n = p.d_ld = 8, p.a = p.w = (float *)ones, p.d = (float *)d;
    p.k = p.a_ld = p.w_ld = 2000; /* no other test's: its algorithm is not known */
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    launch.why = why, launch.stream = stream;
    (void)nib_emu_inject("shy_heuristic");
    const auto product = [&] {
        return nib_cuda_lt_product(&launch, p, (uint8_t *)workspace, 65536);
    };
    for (int turn = 0; turn < 2; turn++) {
        EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        const nib_status status = product();
        EXPECT(status == (turn ? NIB_OK : NIB_ERR_NOT_PREPARED), "status %d: %s", (int)status, why);
        EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
        if (!turn) {
            EXPECT(strstr(why, "status 14") && strstr(why, "run this product once before"), "%s",
                   why);
            EXPECT(product() == NIB_OK, "outside: %s", why);
            EXPECT_CUDA(cudaStreamSynchronize(stream));
            EXPECT_CUDA(cudaMemset(d, 0xff, 8 * sizeof(float)));
            EXPECT_CUDA(cudaDeviceSynchronize());
        } else {
            EXPECT_CUDA(cudaGraphInstantiate(&exec, graph, 0));
            EXPECT_CUDA(cudaGraphLaunch(exec, stream));
            EXPECT_CUDA(cudaStreamSynchronize(stream));
            EXPECT(d.read() == std::vector<float>(8, 2000.0f), "the graph's");
            EXPECT_CUDA(cudaGraphExecDestroy(exec));
        }
        EXPECT_CUDA(cudaGraphDestroy(graph));
    }
    EXPECT_CUDA(cudaStreamDestroy(stream));
    (void)nib_emu_inject("none");
}
#endif
