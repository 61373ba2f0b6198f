/* hessian_emu_test.cu: Hessians by CUDA against sums in f64, under every schedule; and what
 * cublasLt is asked for. */
#include "kernels/cuda/cublaslt.cuh"
#include "kernels/cuda/gptq_job.cuh"
#include "kernels/common/half.h"
#include "tests/emu/emu_test.h"

#include <math.h>
#include <string.h>

namespace {

struct Case {
    nib_real  real = NIB_REAL_F32;
    nib_dtype dtype = NIB_F32;
    int64_t   k = 37, rows = 9, ld_extra = 3, x_extra = 1, off = 0; /* off: elements of x */
    nib_hessian_precision precision = NIB_HESSIAN_EXACT;
};

enum { OTHER = -77 }; /* in what is not the lower triangle */

/* A Hessian on the device. */
struct Held {
    Case                  c;
    std::vector<uint8_t>  initial;
    Device<uint8_t>       data;
    Device<uint64_t>      tokens;
    nib_hessian           h = {};

    static std::vector<uint8_t> other(const Case &c)
    {
        std::vector<uint8_t> all((size_t)(c.k * (c.k + c.ld_extra)) * (c.real ? 8 : 4));
        for (size_t i = 0; i < all.size() / (c.real ? 8 : 4); i++) {
            const double value = OTHER;
            const float  narrow = OTHER;
            if (c.real) memcpy(&all[8 * i], &value, 8);
            else memcpy(&all[4 * i], &narrow, 4);
        }
        return all;
    }
    explicit Held(const Case &held)
        : c(held), initial(other(held)), data(initial), tokens(std::vector<uint64_t>{ 5 })
    {
        h.size = sizeof h, h.real = c.real, h.k = c.k, h.ld_elems = c.k + c.ld_extra;
        h.data = (uint8_t *)data, h.tokens = tokens;
    }
    std::vector<double> read() const
    {
        const std::vector<uint8_t> bytes = data.read();
        std::vector<double>        all(bytes.size() / (c.real ? 8 : 4));
        for (size_t i = 0; i < all.size(); i++) {
            float narrow;
            if (c.real) memcpy(&all[i], &bytes[8 * i], 8);
            else memcpy(&narrow, &bytes[4 * i], 4), all[i] = (double)narrow;
        }
        return all;
    }
    /* The lower triangle is its caller's to look at; all else must be as it was. */
    void expect_rest(const std::vector<double> &now) const
    {
        for (int64_t i = 0; i < c.k; i++)
            for (int64_t j = i + 1; j < h.ld_elems; j++)
                EXPECT(now[(size_t)(i * h.ld_elems + j)] == OTHER, "(%lld, %lld) was written",
                       (long long)i, (long long)j);
    }
};

struct Tokens {
    std::vector<uint8_t> bytes;
    Device<uint8_t>      data;
    nib_matrix           x = {};

    static std::vector<uint8_t> made(const Case &c, uint64_t seed)
    {
        Random random(seed);
        const int64_t n = c.off + c.rows * (c.k + c.x_extra);
        std::vector<uint8_t> all((size_t)n * (c.dtype == NIB_F32 ? 4 : 2));
        for (int64_t i = 0; i < n; i++)
            nib_store_f32((int)c.dtype, all.data(), i, (float)(random.below(20001) - 10000) / 7000);
        return all;
    }
    Tokens(const Case &c, uint64_t seed) : bytes(made(c, seed)), data(bytes)
    {
        x.data = (uint8_t *)data + c.off * (c.dtype == NIB_F32 ? 4 : 2);
        x.dtype = c.dtype, x.rows = c.rows, x.cols = c.k, x.ld_elems = c.k + c.x_extra;
    }
    double at(const Case &c, int64_t row, int64_t col) const
    {
        return (double)nib_load_f32((int)c.dtype, bytes.data(),
                                    c.off + row * (c.k + c.x_extra) + col);
    }
};

nib_status add(const Held &held, const Tokens &tokens, char *why, cudaStream_t stream = nullptr)
{
    const size_t    need = nib_cuda_hessian_add_need(&held.h, held.c.rows);
    Device<uint8_t> workspace(need);
    nib_launch      launch = {};
    launch.why = why, launch.stream = stream;
    launch.workspace = (uint8_t *)workspace, launch.workspace_bytes = need;
    const nib_status status = nib_cuda_hessian_add(&launch, &tokens.x, held.c.precision, &held.h);
    if (!stream) EXPECT_CUDA(cudaDeviceSynchronize());
    return status;
}

void clear(const Held &held)
{
    char       why[NIB_WHY_BYTES] = "";
    nib_launch launch = {};
    launch.why = why;
    EXPECT(nib_cuda_hessian_clear(&launch, &held.h) == NIB_OK, "%s", why);
    EXPECT_CUDA(cudaDeviceSynchronize());
}

/* Two calls' sums of different tokens. */
void check_add(const Case &c)
{
    char         why[NIB_WHY_BYTES] = "";
    const Held   held(c);
    const Tokens first(c, 1), second(c, 2);
    clear(held);
    EXPECT(held.tokens.read()[0] == 0, "cleared");
    REQUIRE(add(held, first, why) == NIB_OK && add(held, second, why) == NIB_OK, "%s", why);
    EXPECT(held.tokens.read()[0] == (uint64_t)(2 * c.rows), "tokens");
    const std::vector<double> h = held.read();
    held.expect_rest(h);
    const double unit = c.real ? ldexp(1, -53) : ldexp(1, -24);
    const bool   tf32 = c.precision == NIB_HESSIAN_TF32 && c.dtype == NIB_F32;
    const double rough = tf32 ? ldexp(1, -9) : 0;
    const int    times = !c.real && (c.dtype != NIB_F32 || tf32) ? 2 : 1; /* of tensor cores */
    for (int64_t i = 0; i < c.k; i++) {
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0, size = 0;
            for (int64_t t = 0; t < c.rows; t++) {
                const double a = first.at(c, t, i) * first.at(c, t, j);
                const double b = second.at(c, t, i) * second.at(c, t, j);
                sum += a, sum += b, size += fabs(a) + fabs(b);
            }
            const double got = h[(size_t)(i * held.h.ld_elems + j)];
            EXPECT(fabs(got - sum) <= size * ((double)(times * c.rows + 2) * unit + rough),
                   "(%lld, %lld) is %g, not %g", (long long)i, (long long)j, got, sum);
            if (nib_test_failed()) return;
        }
    }
}

Case of(nib_real real, nib_dtype dtype, int64_t k)
{
    Case c;
    c.real = real, c.dtype = dtype, c.k = k;
    return c;
}

bool lacks_library() { return nib_cuda_lt_why_not(0) != nullptr; }

} // namespace

NIB_TEST(CudaHessian, AddsTokens)
{
    if (lacks_library()) SKIP("cublasLt cannot be opened");
    each_schedule([] {
        for (const nib_real real : { NIB_REAL_F32, NIB_REAL_F64 })
            for (const nib_dtype dtype : { NIB_F32, NIB_F16, NIB_BF16 })
                for (const int64_t k : { 1, 64, 130 }) check_add(of(real, dtype, k));
        Case c;
        c.off = 3, c.rows = 1, c.x_extra = 0;
        check_add(c);
    });
}

/* More than a tile of H; in f64 in more than one part of the tokens, if there were more of them. */
NIB_TEST(CudaHessian, AddsByTiles)
{
    if (lacks_library()) SKIP("cublasLt cannot be opened");
    Case c = of(NIB_REAL_F32, NIB_BF16, NIB_HESSIAN_TILE + 9);
    c.rows = 3;
    check_add(c);
    c.real = NIB_REAL_F64, c.rows = 2;
    check_add(c);
}

NIB_TEST(CudaHessian, ConvertsTokensInParts)
{
    if (lacks_library()) SKIP("cublasLt cannot be opened");
    Case c = of(NIB_REAL_F64, NIB_F16, 1);
    c.rows = NIB_HESSIAN_WIDE + 3; /* parts: one of WIDE, and 3 */
    c.x_extra = 0;
    const Held   held(c);
    const Tokens tokens(c, 1);
    char         why[NIB_WHY_BYTES] = "";
    double       sum = 0;
    clear(held);
    REQUIRE(add(held, tokens, why) == NIB_OK, "%s", why);
    for (int64_t t = 0; t < c.rows; t++) sum += tokens.at(c, t, 0) * tokens.at(c, t, 0);
    EXPECT(fabs(held.read()[0] - sum) < 1e-9 * sum, "%g, not %g", held.read()[0], sum);
    EXPECT(held.tokens.read()[0] == (uint64_t)c.rows, "tokens");
}

NIB_TEST(CudaHessian, MayRoundToTf32)
{
    if (lacks_library()) SKIP("cublasLt cannot be opened");
    Case c;
    c.precision = NIB_HESSIAN_TF32;
    check_add(c);
}

/* Bits do not depend on the run, and no sum is cut into parts. */
NIB_TEST(CudaHessian, IsRepeatable)
{
    if (lacks_library()) SKIP("cublasLt cannot be opened");
    char         why[NIB_WHY_BYTES] = "";
    const Case   c;
    const Held   a(c), b(c);
    const Tokens x(c, 1), y(c, 1);
    clear(a);
    clear(b);
    EXPECT(add(a, x, why) == NIB_OK && add(b, y, why) == NIB_OK, "%s", why);
    EXPECT(a.data.read() == b.data.read(), "two runs differ");
}

NIB_TEST(CudaHessian, Merges)
{
    each_schedule([] {
        for (const nib_real real : { NIB_REAL_F32, NIB_REAL_F64 }) {
            Case         c = of(real, NIB_F32, 70);
            const Held   from(c), to(c);
            const double twice = 2 * OTHER;
            char         why[NIB_WHY_BYTES] = "";
            nib_launch   launch = {};
            launch.why = why;
            EXPECT(nib_cuda_hessian_merge(&launch, &from.h, &to.h) == NIB_OK, "%s", why);
            const std::vector<double> now = to.read();
            to.expect_rest(now);
            for (int64_t i = 0; i < c.k; i++)
                for (int64_t j = 0; j <= i; j++)
                    EXPECT(now[(size_t)(i * to.h.ld_elems + j)] == twice, "merged");
            EXPECT(to.tokens.read()[0] == 10 && from.tokens.read()[0] == 5, "tokens");
        }
    });
}

/* Against B H B^T element by element. */
static void check_rotation(nib_real real, int64_t k, int block)
{
    const Case           c = of(real, NIB_F32, k);
    Held                 held(c);
    Random               random(3);
    std::vector<double>  h((size_t)(k * k));
    std::vector<uint8_t> bytes = held.initial;
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j <= i; j++) {
            const float  x = (float)(random.below(2001) - 1000) / 256;
            const double wide = (double)x;
            h[(size_t)(i * k + j)] = h[(size_t)(j * k + i)] = wide;
            const size_t at = (size_t)(i * held.h.ld_elems + j);
            if (real) memcpy(&bytes[8 * at], &wide, 8);
            else memcpy(&bytes[4 * at], &x, 4);
        }
    }
    EXPECT_CUDA(cudaMemcpy((uint8_t *)held.data, bytes.data(), bytes.size(),
                           cudaMemcpyHostToDevice));
    char       why[NIB_WHY_BYTES] = "";
    nib_launch launch = {};
    launch.why = why;
    EXPECT(nib_cuda_hessian_rotate(&launch, &held.h, block) == NIB_OK, "%s", why);
    const std::vector<double> now = held.read();
    held.expect_rest(now);
    for (int64_t i = 0; i < k; i += 5) {
        for (int64_t j = 0; j <= i; j += 3) {
            double sum = 0, size = 0;
            for (int a = 0; a < block; a++) {
                for (int b = 0; b < block; b++) {
                    const int64_t p = i / block * block + a, q = j / block * block + b;
                    const int odd = (__builtin_popcount((unsigned)(i % block & a))
                                   + __builtin_popcount((unsigned)(j % block & b))) & 1;
                    const double x = h[(size_t)(p * k + q)] / block;
                    sum += odd ? -x : x, size += fabs(x);
                }
            }
            const double got = now[(size_t)(i * held.h.ld_elems + j)];
            EXPECT(fabs(got - sum) <= 16 * size * ldexp(1, real ? -53 : -24),
                   "block %d: (%lld, %lld) is %g, not %g", block, (long long)i, (long long)j, got,
                   sum);
        }
    }
}

NIB_TEST(CudaHessian, Rotates)
{
    each_schedule([] {
        check_rotation(NIB_REAL_F32, 48, 16);
        check_rotation(NIB_REAL_F64, 160, 32);
        check_rotation(NIB_REAL_F32, 192, 64);
        check_rotation(NIB_REAL_F64, 256, 128);
    });
}

NIB_TEST(CudaHessian, TellsOfItsDiagonal)
{
    for (const nib_real real : { NIB_REAL_F32, NIB_REAL_F64 }) {
        const Case c = of(real, NIB_F32, 300);
        Held       held(c);
        char       why[NIB_WHY_BYTES] = "";
        nib_launch launch = {};
        launch.why = why;
        const struct { int64_t at; double value; } set[] = {
            { 0, 0 }, { 7, 0 }, { 20, 6 }, { 299, 3 }, { 120, NAN }, { 40, -1 },
        };
        std::vector<uint8_t> bytes = held.initial;
        for (int64_t i = 0; i < c.k; i++) {
            double value = 2;
            for (const auto &s : set) if (s.at == i) value = s.value;
            const float  narrow = (float)value;
            const size_t at = (size_t)(i * held.h.ld_elems + i);
            if (real) memcpy(&bytes[8 * at], &value, 8);
            else memcpy(&bytes[4 * at], &narrow, 4);
        }
        EXPECT_CUDA(cudaMemcpy((uint8_t *)held.data, bytes.data(), bytes.size(),
                               cudaMemcpyHostToDevice));
        nib_hessian_info info = {};
        EXPECT(nib_cuda_hessian_info(&launch, &held.h, 1, &info) == NIB_OK, "%s", why);
        EXPECT(info.tokens == 5 && info.dead == 2 && info.nonfinite == 2
                   && info.first_nonfinite == 40 && info.min_diag == 0 && info.max_diag == 6,
               "%lld dead, %lld, first %lld", (long long)info.dead, (long long)info.nonfinite,
               (long long)info.first_nonfinite);
        EXPECT(fabs(info.mean_diag - (294 * 2 + 9) / 298.0) < 1e-12, "%g", info.mean_diag);
        held.h.tokens = nullptr;
        EXPECT(nib_cuda_hessian_info(&launch, &held.h, 1, &info) == NIB_OK
                   && info.tokens == UINT64_MAX, "not counted");
    }
}

NIB_TEST(CudaHessian, FindsTheFirstNonfinite)
{
    each_schedule([] {
        for (const nib_dtype dtype : { NIB_F32, NIB_F16, NIB_BF16 }) {
            Case c = of(NIB_REAL_F32, dtype, 300);
            c.rows = 20;
            Tokens     t(c, 1);
            char       why[NIB_WHY_BYTES] = "";
            nib_launch launch = {};
            launch.why = why;
            int64_t at[2] = { 3, 3 };
            EXPECT(nib_cuda_find_nonfinite(&launch, &t.x, at) == NIB_OK && at[0] == -1
                       && at[1] == -1, "none: %s", why);
            const int64_t spots[][2] = { { 19, 299 }, { 7, 290 }, { 7, 2 } };
            for (const auto &spot : spots) {
                nib_store_f32((int)dtype, t.bytes.data(), spot[0] * t.x.ld_elems + spot[1],
                              spot[1] == 2 ? (float)INFINITY : (float)NAN);
                EXPECT_CUDA(cudaMemcpy((uint8_t *)t.data, t.bytes.data(), t.bytes.size(),
                                       cudaMemcpyHostToDevice));
                EXPECT(nib_cuda_find_nonfinite(&launch, &t.x, at) == NIB_OK
                           && at[0] == spot[0] && at[1] == spot[1], "%lld, %lld",
                       (long long)at[0], (long long)at[1]);
            }
        }
    });
}

NIB_TEST(CudaHessian, FindsTheFirstBadElementOfTheTriangle)
{
    each_schedule([] {
        for (const nib_real real : { NIB_REAL_F32, NIB_REAL_F64 }) {
            const Case c = of(real, NIB_F32, 300);
            Held       held(c);
            char       why[NIB_WHY_BYTES] = "";
            nib_launch launch = {};
            launch.why = why;
            std::vector<uint8_t> bytes = held.initial;
            const auto put = [&](int64_t row, int64_t col, double value) {
                const float  narrow = (float)value;
                const size_t at = (size_t)(row * held.h.ld_elems + col);
                if (real) memcpy(&bytes[8 * at], &value, 8);
                else memcpy(&bytes[4 * at], &narrow, 4);
            };
            for (int64_t i = 0; i < c.k * c.k; i++) put(i / c.k, i % c.k, i % c.k > i / c.k ? NAN
                                                                                          : 1);
            const int64_t spots[][3] = { { -1, -1, -1 }, { 299, 298, 0 }, { 260, 260, 0 },
                                         { 260, 256, 1 }, { 260, 3, 0 }, { 1, 0, 1 },
                                         { 0, 0, -1 } };
            for (const auto &spot : spots) {
                nib_hessian_info info = {};
                if (spot[0] >= 0)
                    put(spot[0], spot[1], spot[2] < 0 ? -1 : spot[2] ? INFINITY : NAN);
                EXPECT_CUDA(cudaMemcpy((uint8_t *)held.data, bytes.data(), bytes.size(),
                                       cudaMemcpyHostToDevice));
                EXPECT(nib_cuda_hessian_info(&launch, &held.h, 1, &info) == NIB_OK
                           && info.bad_row == spot[0] && info.bad_col == spot[1], "%s %lld, %lld",
                       why, (long long)info.bad_row, (long long)info.bad_col);
                EXPECT(nib_cuda_hessian_info(&launch, &held.h, 0, &info) == NIB_OK
                           && info.bad_row == info.first_nonfinite
                           && info.bad_col == info.first_nonfinite, "the diagonal alone");
            }
        }
    });
}

#if NIB_ON_EMULATOR
NIB_TEST(CudaHessian, AsksCublasLtForWholeSums)
{
    const struct { Case c; int type, compute; } rows[] = {
        { of(NIB_REAL_F32, NIB_F32, 40), 0, 68 },
        { of(NIB_REAL_F32, NIB_BF16, 40), 14, 68 },
        { of(NIB_REAL_F32, NIB_F16, 40), 2, 68 },
        { of(NIB_REAL_F64, NIB_BF16, 40), 1, 70 },
        { [] { Case c; c.precision = NIB_HESSIAN_TF32; return c; }(), 0, 77 },
        { [] { Case c = of(NIB_REAL_F32, NIB_F16, 40); c.precision = NIB_HESSIAN_TF32;
               return c; }(), 2, 68 },
    };
    for (const auto &row : rows) {
        nib_emu_product p = {};
        const int before = nib_emu_cublaslt_product(-1, &p);
        check_add(row.c);
        EXPECT(nib_emu_cublaslt_product(before, &p) == before + 2, "a product a call");
        EXPECT(p.type == row.type && p.compute == row.compute && p.schemes == 0
                   && p.d_type == (row.c.real ? 1 : 0), "type %d, compute %d, schemes %d", p.type,
               p.compute, p.schemes);
        EXPECT(p.m == row.c.k && p.n == row.c.k && p.k == row.c.rows, "shape");
    }
}

NIB_TEST(CudaHessian, FailuresAreTold)
{
    const struct { const char *inject, *text; nib_status status; } rows[] = {
        { "fail=cublasLtMatmulAlgoGetHeuristic:15:0", "no algorithm", NIB_ERR_UNSUPPORTED },
        { "fail=cublasLtMatmul:13:0", "status 13", NIB_ERR_DEVICE },
        { "fail=cublasLtMatmul:15:0", "status 15", NIB_ERR_UNSUPPORTED },
    };
    Case c;
    c.rows = 43; /* no other test's: its algorithm is not known */
    const Held   held(c);
    const Tokens tokens(c, 1);
    char         why[NIB_WHY_BYTES] = "";
    nib_launch   launch = {};
    launch.why = why;
    for (const auto &row : rows) {
        (void)nib_emu_inject(row.inject);
        const nib_status status = add(held, tokens, why);
        EXPECT(status == row.status && strstr(why, row.text), "%s: status %d, %s", row.inject,
               (int)status, why);
    }
    (void)nib_emu_inject("fail=cudaMalloc:2:0");
    nib_hessian_info info = {};
    EXPECT(nib_cuda_hessian_info(&launch, &held.h, 1, &info) == NIB_ERR_OUT_OF_MEMORY
               && strstr(why, "diagonal"), "%s", why);
    (void)nib_emu_inject("fail=cudaMalloc:2:1");
    EXPECT(nib_cuda_hessian_info(&launch, &held.h, 1, &info) == NIB_ERR_OUT_OF_MEMORY
               && strstr(why, "index"), "%s", why);
    (void)nib_emu_inject("none");
    check_add(c);
}

/* Adding is asynchronous: a graph adds as often as it is launched. */
NIB_TEST(CudaHessian, IsCaptured)
{
    nib_emu_reset();
    EXPECT_CUDA(nib_cuda_load_hessian());
    const Case      c;
    char            why[NIB_WHY_BYTES] = "";
    EXPECT(nib_cuda_prepare(0, NIB_PREPARE_GPTQ, why) == NIB_OK, "%s", why);
    const Held      held(c);
    const Tokens    tokens(c, 1);
    const size_t    need = nib_cuda_hessian_add_need(&held.h, c.rows);
    Device<uint8_t> workspace(need);
    cudaStream_t    stream;
    cudaGraph_t     graph;
    cudaGraphExec_t exec;
    nib_launch      launch = {};
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    launch.why = why, launch.stream = stream;
    launch.workspace = (uint8_t *)workspace, launch.workspace_bytes = need;
    clear(held);
    EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    EXPECT(nib_cuda_hessian_add(&launch, &tokens.x, c.precision, &held.h) == NIB_OK, "%s", why);
    EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
    EXPECT_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    for (int turn = 1; turn <= 2; turn++) {
        EXPECT_CUDA(cudaGraphLaunch(exec, stream));
        EXPECT_CUDA(cudaStreamSynchronize(stream));
        EXPECT(held.tokens.read()[0] == (uint64_t)(turn * c.rows), "turn %d", turn);
    }
    EXPECT_CUDA(cudaGraphExecDestroy(exec));
    EXPECT_CUDA(cudaGraphDestroy(graph));
    EXPECT_CUDA(cudaStreamDestroy(stream)); /* no reset: what is freed after it is unknown */
}
#endif
