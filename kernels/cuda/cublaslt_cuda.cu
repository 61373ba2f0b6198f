/* cublaslt_cuda.cu: cublasLt, opened at run time; its header is read where the toolkit has one.
 *
 * cublasLt is column-major: d[M,N] there is N x M, a is K x M, and w, N x K here, is K x N to be
 * transposed. Descriptors lie on the stack: a product allocates nothing. */
#include "cublaslt.cuh"
#include "library.cuh"

#if __has_include(<cublasLt.h>)
#include "cublaslt_known.cuh"

#include <cublasLt.h>
#include <new>
#include <pthread.h>

namespace {

enum { HEURISTICS = 16, WARM = 2, TIMED = 5 };
const size_t BENCH_WORKSPACE = (size_t)64 << 20;

/* ---- the library ---- */

#define FUNCTIONS(DO)                                                                          \
    DO(Create) DO(Destroy) DO(Matmul) DO(MatmulAlgoGetHeuristic) DO(MatmulDescInit_internal)   \
    DO(MatmulDescSetAttribute) DO(MatrixLayoutInit_internal)                                   \
    DO(MatmulPreferenceInit_internal) DO(MatmulPreferenceSetAttribute)

struct Library {
    char why[NIB_WHY_BYTES];
#define MEMBER(name) decltype(&cublasLt##name) name;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

Library        lt;
pthread_once_t once = PTHREAD_ONCE_INIT;

void open_named(const char *name, Library *to)
{
    static const LibraryFunction functions[] = {
#define ROW(name) { "cublasLt" #name, offsetof(Library, name) },
        FUNCTIONS(ROW)
#undef ROW
    };
    library_open(name, functions, to, to->why);
}

void open_library()
{
    char name[64];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    open_named(name, &lt);
}

const char *words(int status)
{
    static const LibraryStatus statuses[] = { LIBRARY_STATUSES(CUBLAS) };
    return library_words(statuses, status);
}

nib_status failed(const nib_launch *launch, const char *what, cublasStatus_t s)
{
    const bool refused = s == CUBLAS_STATUS_INVALID_VALUE || s == CUBLAS_STATUS_ARCH_MISMATCH
                      || s == CUBLAS_STATUS_NOT_SUPPORTED;
    if (launch->why)
        snprintf(launch->why, NIB_WHY_BYTES, "cublasLt: %s: status %d, %s", what, (int)s,
                 words((int)s));
    return refused ? NIB_ERR_UNSUPPORTED
         : s == CUBLAS_STATUS_ALLOC_FAILED ? NIB_ERR_OUT_OF_MEMORY : NIB_ERR_DEVICE;
}

/* ---- a handle for each device ---- */

struct Handle : LibraryHandle {
    cublasLtHandle_t handle;
};
Handle handles[LIBRARY_DEVICES];

/* ---- one product ---- */

struct Problem {
    cublasLtMatmulDescOpaque_t   product;
    cublasLtMatrixLayoutOpaque_t a, w, d;
};

cudaDataType type_of(const LtProduct &p, nib_dtype dtype)
{
    return p.sums == LT_F64 ? CUDA_R_64F
         : dtype == NIB_F32 ? CUDA_R_32F : dtype == NIB_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

cublasStatus_t layout_of(cublasLtMatrixLayoutOpaque_t *to, cudaDataType type, int64_t rows,
                         int64_t cols, int64_t ld)
{
    return lt.MatrixLayoutInit_internal(to, sizeof *to, type, (uint64_t)rows, (uint64_t)cols, ld);
}

template <class T>
cublasStatus_t set(Problem *q, cublasLtMatmulDescAttributes_t what, T value)
{
    return lt.MatmulDescSetAttribute(&q->product, what, &value, sizeof value);
}

cublasStatus_t describe(Problem *q, const LtProduct &p)
{
    const cublasOperation_t w_op = p.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t a_op = p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int32_t mode = p.factor_at ? CUBLASLT_POINTER_MODE_DEVICE : CUBLASLT_POINTER_MODE_HOST;
    const cublasComputeType_t compute = p.sums == LT_F64  ? CUBLAS_COMPUTE_64F
                                      : p.sums == LT_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                          : CUBLAS_COMPUTE_32F;
    const cudaDataType a = type_of(p, p.a_dtype), d = type_of(p, p.d_dtype);
    cublasStatus_t s = lt.MatmulDescInit_internal(&q->product, sizeof q->product, compute,
                                                  p.sums == LT_F64 ? CUDA_R_64F : CUDA_R_32F);
    if (s == 0) s = set(q, CUBLASLT_MATMUL_DESC_TRANSA, w_op);
    if (s == 0) s = set(q, CUBLASLT_MATMUL_DESC_TRANSB, a_op);
    if (s == 0) s = set(q, CUBLASLT_MATMUL_DESC_POINTER_MODE, mode);
    if (s == 0) s = layout_of(&q->w, a, p.transposed ? p.k : p.n, p.transposed ? p.n : p.k,
                              p.w_ld);
    if (s == 0) s = layout_of(&q->a, a, p.a_transposed ? p.m : p.k, p.a_transposed ? p.k : p.m,
                              p.a_ld);
    if (s == 0) s = layout_of(&q->d, d, p.n, p.m, p.d_ld);
    return s;
}

cublasStatus_t find(int32_t ordinal, Problem *q, cublasLtMatmulPreferenceOpaque_t *wish, int most,
                    cublasLtMatmulHeuristicResult_t *found, int *count)
{
    return lt.MatmulAlgoGetHeuristic(handles[ordinal].handle, &q->product, &q->w, &q->a, &q->d,
                                     &q->d, wish, most, found, count);
}

template <class T>
cublasStatus_t prefer(cublasLtMatmulPreferenceOpaque_t *wish,
                      cublasLtMatmulPreferenceAttributes_t what, T value)
{
    return lt.MatmulPreferenceSetAttribute(wish, what, &value, sizeof value);
}

cublasStatus_t prefer_workspace(cublasLtMatmulPreferenceOpaque_t *wish, size_t bytes)
{
    const cublasStatus_t s = lt.MatmulPreferenceInit_internal(wish, sizeof *wish);
    return s ? s : prefer(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)bytes);
}

uint32_t alignment_of(const void *p)
{
    const uintptr_t low = (uintptr_t)p & (0 - (uintptr_t)p);
    return low && low < 256 ? (uint32_t)low : 256u;
}

/* Of a and d those that are promised, not what the caller's happen to
 * have, so that where matrices lie does not change bits; strict: what there is. */
LtAlignments alignments_of(const LtProduct &p)
{
    return { { alignment_of(p.w), p.strict ? alignment_of(p.a) : 16,
               p.strict ? alignment_of(p.d) : 16 } };
}

/* Unless told, heuristics take pointers to be on 256 bytes, and K may be cut into parts that are
 * added up in D's dtype: the one must not be believed, the other would round twice. */
cublasStatus_t choose(int32_t ordinal, Problem *q, const LtProduct &p, const LtAlignments &on,
                      size_t workspace_bytes, cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulPreferenceOpaque_t wish;
    cublasLtMatmulHeuristicResult_t  found;
    const uint32_t schemes = p.strict ? CUBLASLT_REDUCTION_SCHEME_NONE
                                      : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    int            count = 0;
    cublasStatus_t s = prefer_workspace(&wish, workspace_bytes);
    if (s == 0) s = prefer(&wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
    if (s == 0) s = prefer(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, on.of[0]);
    if (s == 0) s = prefer(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, on.of[1]);
    if (s == 0) s = prefer(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, on.of[2]);
    if (s == 0) s = prefer(&wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, on.of[2]);
    if (s == 0) s = find(ordinal, q, &wish, 1, &found, &count);
    if (s == 0 && (count < 1 || found.state != 0)) s = CUBLAS_STATUS_NOT_SUPPORTED;
    if (s == 0) *algorithm = found.algo;
    return s;
}

LtKnown known;

/* As it was chosen before, or by a heuristic. */
cublasStatus_t algorithm_for(int32_t ordinal, Problem *q, const LtProduct &p,
                             size_t workspace_bytes, cublasLtMatmulAlgo_t *algorithm)
{
    const LtAlignments on = alignments_of(p);
    const LtKey        key = lt_key_of(ordinal, p, on, workspace_bytes);
    if (known.find(key, algorithm)) return CUBLAS_STATUS_SUCCESS;
    const cublasStatus_t s = choose(ordinal, q, p, on, workspace_bytes, algorithm);
    if (s == 0) known.add(key, *algorithm);
    return s;
}

cublasStatus_t multiply(const nib_launch *launch, Problem *q, const LtProduct &p,
                        const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes)
{
    const float  factor[2] = { p.factor, p.adds ? 1.0f : 0.0f };
    const double wide[2] = { (double)factor[0], (double)factor[1] };
    const void  *one = factor, *keep = factor + 1;
    if (p.factor_at) one = p.factor_at, keep = p.factor_at + 1;
    else if (p.sums == LT_F64) one = wide, keep = wide + 1;
    return lt.Matmul(handles[launch->ordinal].handle, &q->product, one, p.w, &q->w, p.a, &q->a,
                     keep, p.d, &q->d, p.d, &q->d, algo, workspace, workspace_bytes,
                     (cudaStream_t)launch->stream);
}

nib_status ready(const nib_launch *launch)
{
    if (nib_cuda_lt_is_refused(launch->ordinal)) nib_cuda_load_again(launch, nib_cuda_lt_load);
    const char *const why = nib_cuda_lt_why_not(launch->ordinal);
    if (why && launch->why) snprintf(launch->why, NIB_WHY_BYTES, "%s", why);
    return why ? NIB_ERR_UNSUPPORTED : NIB_OK;
}

/* The heuristic of some versions fails while a stream is being captured, not for the product. */
nib_status no_algorithm(const nib_launch *launch, cublasStatus_t s)
{
    const bool       captured = nib_cuda_not_captured(launch) == NIB_ERR_UNSUPPORTED;
    const nib_status status = failed(launch, "no algorithm for a product", s);
    if (!captured || status == NIB_ERR_UNSUPPORTED) return status;
    if (launch->why)
        snprintf(launch->why, NIB_WHY_BYTES, "exec->stream %p is being captured, and cublasLt "
                 "finds no algorithm then (status %d, %s): run this product once before the "
                 "capture", launch->stream, (int)s, words((int)s));
    return NIB_ERR_NOT_PREPARED;
}

} // namespace

bool nib_cuda_lt_would_open(const char *name, char *why)
{
    Library other = {};
    open_named(name, &other);
    snprintf(why, NIB_WHY_BYTES, "%s", other.why);
    return !other.why[0];
}

const char *nib_cuda_lt_why_not(int32_t ordinal)
{
    (void)pthread_once(&once, open_library);
    return library_why_not("cublasLt", lt.why, handles, ordinal, words);
}

bool nib_cuda_lt_is_refused(int32_t ordinal) { return library_is_refused(handles, ordinal); }

void nib_cuda_lt_load()
{
    const int ordinal = library_wants_handle(handles);
    (void)pthread_once(&once, open_library);
    if (ordinal < 0 || lt.why[0]) return;
    library_handle_made(&handles[ordinal], (int)lt.Create(&handles[ordinal].handle));
}

nib_status nib_cuda_lt_product(const nib_launch *launch, const LtProduct &p, void *workspace,
                               size_t workspace_bytes)
{
    NIB_CUDA_TRY(ready(launch));
    const nib_cuda_relaxed relaxed; /* a kernel is loaded when it is first wanted */
    Problem                q;
    cublasLtMatmulAlgo_t   algorithm;
    cublasStatus_t         s = describe(&q, p);
    if (s != 0) return failed(launch, "describing a product", s);
    s = algorithm_for(launch->ordinal, &q, p, workspace_bytes, &algorithm);
    if (s != 0) return no_algorithm(launch, s);
    s = multiply(launch, &q, p, &algorithm, workspace, workspace_bytes);
    return s == 0 ? NIB_OK : failed(launch, "a product", s);
}

/* ---- for benchmarks: the fastest of the heuristics, by the clock ---- */

namespace {

struct Plan {
    Problem              problem;
    LtProduct            shape;
    cublasLtMatmulAlgo_t best;
    void                *workspace;
};

cublasStatus_t run_plan(const nib_launch *launch, Plan *p, const cublasLtMatmulAlgo_t *algo,
                        const void *a, const void *w, void *d)
{
    LtProduct now = p->shape;
    now.a = a, now.w = w, now.d = d;
    return multiply(launch, &p->problem, now, algo, p->workspace, BENCH_WORKSPACE);
}

/* Milliseconds of TIMED calls, or a negative number if it does not run. */
float time_of(const nib_launch *launch, Plan *p, const cublasLtMatmulAlgo_t *algo, const void *a,
              const void *w, void *d, cudaEvent_t from, cudaEvent_t to)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    float              ms = -1.0f;
    for (int i = -WARM; i < TIMED; i++) {
        if (i == 0 && cudaEventRecord(from, stream) != cudaSuccess) return -1.0f;
        if (run_plan(launch, p, algo, a, w, d) != 0) return -1.0f;
    }
    if (cudaEventRecord(to, stream) != cudaSuccess || cudaEventSynchronize(to) != cudaSuccess
        || cudaEventElapsedTime(&ms, from, to) != cudaSuccess) {
        return -1.0f;
    }
    return ms;
}

/* Times each; false if none runs. */
bool fastest(const nib_launch *launch, Plan *p, const cublasLtMatmulHeuristicResult_t *found,
             int count, const void *a, const void *w, void *d)
{
    cudaEvent_t from = nullptr, to = nullptr;
    float       least = -1.0f;
    if (cudaEventCreate(&from) == cudaSuccess && cudaEventCreate(&to) == cudaSuccess) {
        for (int i = 0; i < count; i++) {
            if (found[i].state != 0) continue;
            const float ms = time_of(launch, p, &found[i].algo, a, w, d, from, to);
            if (ms < 0.0f || (least >= 0.0f && ms >= least)) continue;
            least = ms, p->best = found[i].algo;
        }
    }
    if (from) (void)cudaEventDestroy(from);
    if (to) (void)cudaEventDestroy(to);
    return least >= 0.0f;
}

/* *plan: for products of this shape. */
nib_status make_plan(const nib_launch *launch, const LtProduct &shape, const void *a, const void *w,
                     void *d, void **plan)
{
    *plan = nullptr;
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_CUDA_PREPARE_BENCH));
    NIB_CUDA_TRY(ready(launch));
    Plan *const p = new (std::nothrow) Plan();
    if (!p) return NIB_ERR_OUT_OF_MEMORY;
    p->shape = shape;
    cublasLtMatmulPreferenceOpaque_t wish;
    cublasLtMatmulHeuristicResult_t  found[HEURISTICS];
    int               count = 0;
    nib_status        status = NIB_OK;
    const cudaError_t error = cudaMalloc(&p->workspace, BENCH_WORKSPACE);
    if (error != cudaSuccess) status = nib_cuda_failed(launch->why, "cublasLt's workspace", error);
    if (status == NIB_OK) {
        cublasStatus_t s = describe(&p->problem, p->shape);
        if (s == 0) s = prefer_workspace(&wish, BENCH_WORKSPACE);
        if (s == 0) s = find(launch->ordinal, &p->problem, &wish, HEURISTICS, found, &count);
        if (s != 0) status = failed(launch, "no heuristic", s);
    }
    if (status == NIB_OK && !fastest(launch, p, found, count, a, w, d))
        status = failed(launch, "no heuristic runs", CUBLAS_STATUS_NOT_SUPPORTED);
    if (status == NIB_OK) *plan = p;
    else nib_cuda_gemm_release(p);
    return status == NIB_OK ? nib_cuda_end(launch, "cublasLt") : status;
}

} // namespace

nib_status nib_cuda_gemm_plan(const nib_launch *launch, nib_dtype dtype, int64_t m, int64_t n,
                              int64_t k, const void *a, const void *w, void *d, void **plan)
{
    LtProduct shape = {};
    shape.a_dtype = shape.d_dtype = dtype;
    shape.transposed = true;
    shape.m = m, shape.n = n, shape.k = k;
    shape.a_ld = shape.w_ld = k, shape.d_ld = n;
    shape.factor = 1.0f;
    return make_plan(launch, shape, a, w, d, plan);
}

nib_status nib_cuda_square_plan(const nib_launch *launch, nib_dtype dtype, nib_real real,
                                nib_hessian_precision precision, int64_t rows, int64_t k,
                                const void *x, void *h, void **plan)
{
    LtProduct shape = {};
    shape.a_dtype = dtype, shape.d_dtype = NIB_F32;
    shape.a_transposed = true;
    shape.m = shape.n = k, shape.k = rows;
    shape.a_ld = shape.w_ld = shape.d_ld = k;
    shape.factor = 1.0f;
    shape.sums = real == NIB_REAL_F64 ? LT_F64
               : precision == NIB_HESSIAN_TF32 && dtype == NIB_F32 ? LT_TF32 : LT_F32;
    return make_plan(launch, shape, x, x, h, plan);
}

nib_status nib_cuda_gemm(const nib_launch *launch, void *plan, const void *a, const void *w,
                         void *d)
{
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_CUDA_PREPARE_BENCH));
    Plan *const          p = (Plan *)plan;
    const cublasStatus_t s = run_plan(launch, p, &p->best, a, w, d);
    return s == 0 ? nib_cuda_end(launch, "cublasLt") : failed(launch, "a product", s);
}

void nib_cuda_gemm_release(void *plan)
{
    Plan *const p = (Plan *)plan;
    if (!p) return;
    if (p->workspace) (void)cudaFree(p->workspace);
    delete p;
}

#else

static const char *const missing = "this build has no cublasLt: its header was missing";

static nib_status refuse(const nib_launch *launch)
{
    if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "%s", missing);
    return NIB_ERR_UNSUPPORTED;
}

const char *nib_cuda_lt_why_not(int32_t) { return missing; }
bool nib_cuda_lt_is_refused(int32_t) { return false; }
void nib_cuda_lt_load() {}
bool nib_cuda_lt_would_open(const char *, char *why)
{
    snprintf(why, NIB_WHY_BYTES, "%s", missing);
    return false;
}

nib_status nib_cuda_lt_product(const nib_launch *launch, const LtProduct &, void *, size_t)
{
    return refuse(launch);
}

nib_status nib_cuda_gemm_plan(const nib_launch *launch, nib_dtype, int64_t, int64_t, int64_t,
                              const void *, const void *, void *, void **plan)
{
    *plan = nullptr;
    return refuse(launch);
}

nib_status nib_cuda_square_plan(const nib_launch *launch, nib_dtype, nib_real,
                                nib_hessian_precision, int64_t, int64_t, const void *, void *,
                                void **plan)
{
    *plan = nullptr;
    return refuse(launch);
}

nib_status nib_cuda_gemm(const nib_launch *launch, void *, const void *, const void *, void *)
{
    return refuse(launch);
}

void nib_cuda_gemm_release(void *) {}

#endif
