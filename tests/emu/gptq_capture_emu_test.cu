/* gptq_capture_emu_test.cu: what waits for its stream and a capture: of that stream it is refused,
 * and the capture goes on; of another's, in another thread, neither minds the other. */
#include "kernels/cuda/cublaslt.cuh"
#include "kernels/cuda/cusolver.cuh"
#include "kernels/cuda/gptq_job.cuh"
#include "tests/emu/emu_test.h"

#include <functional>
#include <string.h>
#include <thread>

namespace {

enum { K = 8, ROWS = 3 };

std::vector<float> unit_matrix()
{
    std::vector<float> h(K * K, 0.0f);
    for (int i = 0; i < K; i++) h[(size_t)(i * K + i)] = (float)(K - i);
    return h;
}

/* A layer, and each entry that waits: its steps, one after another. */
struct Layer {
    Device<float>    h = Device<float>(unit_matrix()), l = Device<float>(K * K);
    Device<float>    weights = Device<float>(std::vector<float>(ROWS * K, 1.0f));
    Device<int32_t>  order = Device<int32_t>(K);
    Device<uint8_t>  codes = Device<uint8_t>(ROWS * K), scales = Device<uint8_t>(ROWS * K);
    Device<uint8_t>  workspace = Device<uint8_t>(nib_cuda_gptq_need(NIB_REAL_F32, ROWS, K, 0, 0));
    nib_hessian      hessian = {};
    nib_gptq_factor  factor = {};
    nib_matrix       w = {};
    nib_packed       dst = {};
    nib_gptq_request request = {};
    nib_launch       launch = {};
    nib_hessian_info info = {};
    nib_gptq_sums    sums = {};
    int64_t          numbers[2] = { 0, 0 };
    char             why[NIB_WHY_BYTES] = "";

    explicit Layer(cudaStream_t stream)
    {
        hessian.size = sizeof hessian, hessian.k = hessian.ld_elems = K, hessian.data = (float *)h;
        factor.size = sizeof factor, factor.k = factor.ld_elems = K, factor.l = (float *)l;
        factor.order = order;
        w = { (float *)weights, NIB_F32, ROWS, K, K };
        dst = { sizeof dst, NIB_MXFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, ROWS, K, codes, K,
                scales, nullptr };
        request.hessian = &hessian, request.factor = &factor, request.w = &w, request.dst = &dst;
        EXPECT(nib_rules_fill(NIB_RULES_TE, NIB_MXFP4, &request.quantize.rules) == NIB_OK, "rules");
        launch.why = why, launch.stream = stream;
        launch.workspace = (uint8_t *)workspace;
    }

    struct Call {
        const char                 *name;
        std::function<nib_status()> run;
    };
    std::vector<Call> calls()
    {
        const nib_backend *const ops = nib_cuda_table_v1.ops;
        return {
            { "info", [&, ops] { return ops->hessian_info(&launch, &hessian, 1, &info); } },
            { "nonfinite", [&, ops] { return ops->find_nonfinite(&launch, &w, numbers); } },
            { "order", [&, ops] {
                  return ops->gptq_order(&launch, &hessian, NIB_GPTQ_ACT, 0, &factor);
              } },
            { "factor", [&, ops] {
                  return ops->gptq_factor(&launch, &hessian, 0.1, &factor, numbers);
              } },
            { "plain", [&, ops] { return ops->quantize(&launch, &w, &request.quantize, &dst); } },
            { "measure", [&, ops] { return ops->gptq_measure(&launch, &request, &sums); } },
            { "sweep", [&, ops] { return ops->gptq_sweep(&launch, &request, &sums); } },
            { "inverse", [&, ops] {
                  return ops->hessian_inverse(&launch, &hessian, 0.1, (float *)l, K, numbers);
              } },
        };
    }
};

bool lacks_libraries()
{
    char why[NIB_WHY_BYTES] = "";
    (void)cudaGetLastError(); /* what an earlier test's destructors left */
    EXPECT(nib_cuda_prepare(0, NIB_PREPARE_GPTQ | NIB_PREPARE_QUANTIZE, why) == NIB_OK, "%s", why);
    return nib_cuda_solver_why_not(0) || nib_cuda_lt_why_not(0);
}

} // namespace

NIB_TEST(CudaGptqCapture, OfItsOwnStreamIsRefused)
{
    if (lacks_libraries()) SKIP("cuSOLVER or cublasLt cannot be opened");
    cudaStream_t stream;
    cudaGraph_t  graph;
    size_t       nodes = 99;
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    {
        Layer layer(stream);
        EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        for (const Layer::Call &c : layer.calls()) {
            if (!strcmp(c.name, "plain")) continue;
            layer.why[0] = 0;
            const nib_status status = c.run();
            EXPECT(status == NIB_ERR_UNSUPPORTED && strstr(layer.why, "being captured"),
                   "%s: status %d, %s", c.name, (int)status, layer.why);
        }
        EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
        EXPECT_CUDA(cudaGraphGetNodes(graph, nullptr, &nodes));
        EXPECT(nodes == 0, "%d nodes", (int)nodes);
        EXPECT_CUDA(cudaGraphDestroy(graph));
        for (const Layer::Call &c : layer.calls())
            EXPECT(c.run() == NIB_OK, "%s, after it: %s", c.name, layer.why);
    }
    EXPECT_CUDA(cudaStreamDestroy(stream));
}

/* A capture that holds every thread, as cudaStreamBeginCapture's mode "global" does. */
NIB_TEST(CudaGptqCapture, OfAnotherThreadGoesOn)
{
    if (lacks_libraries()) SKIP("cuSOLVER or cublasLt cannot be opened");
    cudaStream_t captured, stream;
    cudaGraph_t  graph;
    EXPECT_CUDA(cudaStreamCreateWithFlags(&captured, cudaStreamNonBlocking));
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    {
        Layer layer(stream);
        EXPECT_CUDA(cudaStreamBeginCapture(captured, cudaStreamCaptureModeGlobal));
        std::thread([&layer] {
            for (const Layer::Call &c : layer.calls())
                EXPECT(c.run() == NIB_OK, "%s: %s", c.name, layer.why);
        }).join();
        EXPECT_CUDA(cudaStreamEndCapture(captured, &graph));
        EXPECT_CUDA(cudaGraphDestroy(graph));
    }
    EXPECT_CUDA(cudaStreamDestroy(captured));
    EXPECT_CUDA(cudaStreamDestroy(stream));
}
