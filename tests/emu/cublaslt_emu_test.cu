/* cublaslt_emu_test.cu: the product of plain matrices that benchmarks hold kernels against. */
#include "kernels/cuda/cublaslt.cuh"
#include "kernels/common/half.h"
#include "tests/emu/emu_test.h"

#include <string.h>

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
#endif
