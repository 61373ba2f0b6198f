/* emu_cublaslt.cc: a cublasLt that multiplies on the CPU, in double, one rounding at the end;
 * column-major, as the real one. It holds its caller to what that one may do and a result alone
 * would not show: pointers are as aligned as the heuristic was told, the algorithm is the shape's,
 * C is D, and both ends of the workspace are written over. The first product of a process loads a
 * kernel, which a capture forbids unless it is relaxed. */
#include "tests/emu/emu.h"
#include "tests/emu/emu_runtime.h"

#include "tests/emu/emu_convert.h"
#include "tests/emu/include/cublasLt.h"

#include <algorithm>
#include <cstring>
#include <vector>

struct cublasLtContext {
    int ordinal;
};

namespace {

using namespace nib_emu;

/* What lies in the opaque structures. */
struct Layout {
    uint64_t type, rows, cols, ld;
};
struct Desc {
    uint64_t mode, transposed, b_transposed, compute, scale;
};
struct Wish {
    uint64_t workspace, schemes, alignment[4];
};
struct Algo {
    uint32_t m, n, k, transposed, b_transposed, compute, schemes, alignment[3]; /* of A, B, D */
    uint32_t types, apart; /* of A, B, D, and of their columns: mixed into one word each */
    uint64_t workspace;
};

template <class T, class Opaque> T held(const Opaque *opaque)
{
    static_assert(sizeof(T) <= sizeof(Opaque), "room");
    T value;
    memcpy(&value, opaque, sizeof value);
    return value;
}
template <class T, class Opaque> void hold(Opaque *opaque, const T &value)
{
    static_assert(sizeof(T) <= sizeof(Opaque), "room");
    memset(opaque, 0, sizeof *opaque);
    memcpy(opaque, &value, sizeof value);
}

uint32_t types_of(const Desc &op, const Layout &a, const Layout &b, const Layout &d)
{
    return (uint32_t)(((op.mode * 61 + a.type) * 61 + b.type) * 61 + d.type);
}

uint32_t apart_of(const Layout &a, const Layout &b, const Layout &d)
{
    return (uint32_t)((a.ld * 65599 + b.ld) * 65599 + d.ld);
}

bool                         has_loaded, is_shy;
int                          heuristics;
std::vector<nib_emu_product> products;

#define TRY(name)                                                              \
    std::lock_guard<std::recursive_mutex> call_lock(device_lock());            \
    do {                                                                       \
        const int refused_ = (int)refused(name);                               \
        if (refused_ || has_failed())                                          \
            return refused_ ? (cublasStatus_t)refused_ : CUBLAS_STATUS_EXECUTION_FAILED; \
    } while (0)

double element(const Layout &l, const void *p, uint64_t row, uint64_t col)
{
    const uint64_t at = col * l.ld + row;
    if (l.type == CUDA_R_64F) return ((const double *)p)[at];
    if (l.type == CUDA_R_32F) return (double)((const float *)p)[at];
    const uint32_t bits = ((const uint16_t *)p)[at];
    return (double)(l.type == CUDA_R_16F ? f32_of_f16(bits) : from_bits<float>(bits << 16));
}

/* x, once rounded in f32 unless D is of doubles. */
void store(const Layout &l, void *p, uint64_t row, uint64_t col, double x)
{
    const uint64_t at = col * l.ld + row;
    if (l.type == CUDA_R_64F) ((double *)p)[at] = x;
    else if (l.type == CUDA_R_32F) ((float *)p)[at] = (float)x;
    else ((uint16_t *)p)[at] = (uint16_t)(l.type == CUDA_R_16F ? f16_of((float)x)
                                                               : bf16_of((float)x));
}

struct Work {
    Layout       a, b, d;
    Desc         op;
    const void  *A, *B;
    void        *D, *workspace;
    size_t       workspace_bytes;
    const float *alpha_at, *beta_at; /* or NULL */
    double       alpha, beta;
};

/* Cut to 11 bits of significand: the most that a tensor core may take away. */
double tf32_of(double x)
{
    uint32_t bits = (uint32_t)to_bits((float)x);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits &= ~0x1fffu;
    return (double)from_bits<float>(bits);
}

/* Column after column of terms or, turned, of what is multiplied. */
std::vector<double> columns(const Layout &l, const void *p, bool turned, bool rounded)
{
    std::vector<double> all;
    for (uint64_t i = 0; i < (turned ? l.rows : l.cols); i++) {
        for (uint64_t j = 0; j < (turned ? l.cols : l.rows); j++) {
            const double x = element(l, p, turned ? i : j, turned ? j : i);
            all.push_back(rounded ? tf32_of(x) : x);
        }
    }
    return all;
}

/* beta 0 reads no C, as the real one. Sums of f32 products are exact to 2^-53, and rounded once. */
cudaError_t multiply(const Work &w)
{
    const Guard guard;
    const bool     tf32 = w.op.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const uint64_t k = w.op.b_transposed ? w.b.cols : w.b.rows;
    const double   alpha = w.alpha_at ? (double)*w.alpha_at : w.alpha;
    const double   beta = w.beta_at ? (double)*w.beta_at : w.beta;
    const size_t   end = std::min(w.workspace_bytes, (size_t)1 << 16);
    memset(w.workspace, 0xff, end);
    memset((char *)w.workspace + w.workspace_bytes - end, 0xff, end);
    const std::vector<double> a = columns(w.a, w.A, !w.op.transposed, tf32),
                              b = columns(w.b, w.B, w.op.b_transposed != 0, tf32);
    for (uint64_t m = 0; m < w.d.cols; m++) {
        for (uint64_t n = 0; n < w.d.rows; n++) {
            double sum = 0;
            for (uint64_t i = 0; i < k; i++) sum += a[n * k + i] * b[m * k + i];
            if (w.op.compute != CUBLAS_COMPUTE_64F) sum = (double)(float)sum;
            sum *= alpha;
            if (beta != 0) sum += beta * element(w.d, w.D, n, m);
            store(w.d, w.D, n, m, sum);
        }
    }
    return cudaSuccess;
}

bool is_aligned(const void *p, uint64_t bytes) { return (uintptr_t)p % bytes == 0; }

/* A kernel's first use. */
bool may_load()
{
    if (has_loaded) return true;
    if (forbidden_by_capture() != cudaSuccess) return false;
    return has_loaded = true;
}

} // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    TRY("cublasLtCreate");
    *handle = new cublasLtContext{ current_device() };
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t,
                                               cublasComputeType_t compute, cudaDataType_t scale)
{
    if ((compute == CUBLAS_COMPUTE_64F) != (scale == CUDA_R_64F))
        return CUBLAS_STATUS_INVALID_VALUE;
    hold(desc, Desc{ CUBLASLT_POINTER_MODE_HOST, CUBLAS_OP_N, CUBLAS_OP_N, (uint64_t)compute,
                     (uint64_t)scale });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes)
{
    Desc    d = held<Desc>(desc);
    int32_t given;
    if (bytes != sizeof given) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&given, value, sizeof given);
    (what == CUBLASLT_MATMUL_DESC_TRANSA   ? d.transposed
     : what == CUBLASLT_MATMUL_DESC_TRANSB ? d.b_transposed : d.mode) = (uint64_t)given;
    hold(desc, d);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t,
                                                 cudaDataType type, uint64_t rows, uint64_t cols,
                                                 int64_t ld)
{
    TRY("cublasLtMatrixLayoutInit_internal");
    if (!rows || !cols || ld < (int64_t)rows) return CUBLAS_STATUS_INVALID_VALUE;
    hold(layout, Layout{ (uint64_t)type, rows, cols, (uint64_t)ld });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t wish, size_t)
{
    hold(wish, Wish{ 0, CUBLASLT_REDUCTION_SCHEME_MASK, { 256, 256, 256, 256 } });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wish,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t bytes)
{
    Wish     w = held<Wish>(wish);
    uint32_t small = 0;
    if (bytes != (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8u : 4u))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (bytes == 4) memcpy(&small, value, 4);
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) memcpy(&w.workspace, value, 8);
    else if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) w.schemes = small;
    else w.alignment[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES] = small;
    hold(wish, w);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t wish, int, cublasLtMatmulHeuristicResult_t *found, int *count)
{
    TRY("cublasLtMatmulAlgoGetHeuristic");
    heuristics++;
    if (is_shy && is_capturing()) return CUBLAS_STATUS_INTERNAL_ERROR;
    const Layout la = held<Layout>(a), lb = held<Layout>(b), ld = held<Layout>(d);
    const Desc   op = held<Desc>(desc);
    const Wish   w = held<Wish>(wish);
    const uint64_t k = op.b_transposed ? lb.cols : lb.rows;
    const bool     f64 = op.compute == CUBLAS_COMPUTE_64F;
    *count = 0;
    if ((op.transposed ? la.cols : la.rows) != ld.rows
        || (op.b_transposed ? lb.rows : lb.cols) != ld.cols
        || (op.transposed ? la.rows : la.cols) != k || la.type != lb.type
        || w.alignment[2] != w.alignment[3])
        return CUBLAS_STATUS_INVALID_VALUE;
    if ((f64 || ld.type != CUDA_R_32F) && ld.type != la.type) return CUBLAS_STATUS_SUCCESS;
    if ((la.type == CUDA_R_64F) != f64) return CUBLAS_STATUS_SUCCESS; /* none */
    *found = {};
    hold(&found->algo, Algo{ (uint32_t)ld.cols, (uint32_t)ld.rows, (uint32_t)k,
                             (uint32_t)op.transposed, (uint32_t)op.b_transposed,
                             (uint32_t)op.compute, (uint32_t)w.schemes,
                             { (uint32_t)w.alignment[0], (uint32_t)w.alignment[1],
                               (uint32_t)w.alignment[3] }, types_of(op, la, lb, ld),
                             apart_of(la, lb, ld), w.workspace });
    found->workspaceSize = w.workspace;
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                              const void *alpha, const void *A, cublasLtMatrixLayout_t a,
                              const void *B, cublasLtMatrixLayout_t b, const void *beta,
                              const void *C, cublasLtMatrixLayout_t, void *D,
                              cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    TRY("cublasLtMatmul");
    const Desc op = held<Desc>(desc);
    const Algo chosen = held<Algo>(algo);
    const bool on_device = op.mode == CUBLASLT_POINTER_MODE_DEVICE;
    Work w = { held<Layout>(a), held<Layout>(b), held<Layout>(d), op, A, B, D, workspace,
               workspace_bytes, nullptr, nullptr, 0, 0 };
    const uint64_t k = op.b_transposed ? w.b.cols : w.b.rows;
    if (on_device) w.alpha_at = (const float *)alpha, w.beta_at = (const float *)beta;
    else if (op.scale == CUDA_R_64F)
        w.alpha = *(const double *)alpha, w.beta = *(const double *)beta;
    else w.alpha = (double)*(const float *)alpha, w.beta = (double)*(const float *)beta;
    if (handle->ordinal != current_device() || C != D || chosen.m != w.d.cols
        || chosen.n != w.d.rows || chosen.k != k || chosen.transposed != op.transposed
        || chosen.b_transposed != op.b_transposed || chosen.compute != op.compute
        || chosen.types != types_of(op, w.a, w.b, w.d) || chosen.apart != apart_of(w.a, w.b, w.d)
        || chosen.workspace > workspace_bytes || !is_aligned(A, chosen.alignment[0])
        || !is_aligned(B, chosen.alignment[1]) || !is_aligned(D, chosen.alignment[2])
        || !is_aligned(workspace, 256))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!may_load()) return CUBLAS_STATUS_EXECUTION_FAILED;
    products.push_back({ (int64_t)w.d.cols, (int64_t)w.d.rows, (int64_t)k, op.transposed != 0,
                         (int32_t)w.a.type, (int32_t)w.d.type, on_device, workspace,
                         workspace_bytes, (int32_t)op.compute, (int32_t)chosen.schemes, D,
                         (int64_t)w.b.ld, (int64_t)w.d.ld });
    return enqueue(stream, [w] { return multiply(w); }) == cudaSuccess
        ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

/* ---- the library's file ---- */

namespace nib_emu {

void forget_cublaslt() { has_loaded = false; }
void set_shy_heuristic(bool shy) { is_shy = shy; }

void *cublaslt_symbol(const char *symbol)
{
    static const struct {
        const char *name;
        void       *function;
    } symbols[] = {
#define SYMBOL(name) { #name, (void *)name },
        SYMBOL(cublasLtCreate) SYMBOL(cublasLtDestroy) SYMBOL(cublasLtMatmul)
        SYMBOL(cublasLtMatmulAlgoGetHeuristic) SYMBOL(cublasLtMatmulDescInit_internal)
        SYMBOL(cublasLtMatmulDescSetAttribute) SYMBOL(cublasLtMatrixLayoutInit_internal)
        SYMBOL(cublasLtMatmulPreferenceInit_internal)
        SYMBOL(cublasLtMatmulPreferenceSetAttribute)
    };
    for (const auto &s : symbols) if (!strcmp(s.name, symbol)) return s.function;
    return nullptr;
}

} // namespace nib_emu

extern "C" int nib_emu_cublaslt_product(int n, nib_emu_product *product)
{
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    if (n >= 0 && n < (int)products.size()) *product = products[(size_t)n];
    return (int)products.size();
}

extern "C" int nib_emu_cublaslt_heuristics(void)
{
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    return heuristics;
}
