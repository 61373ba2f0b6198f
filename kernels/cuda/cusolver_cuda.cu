/* cusolver_cuda.cu: cuSOLVER, opened at run time; its header is read where the toolkit has one.
 *
 * It is column-major: the triangle j <= i of rows is the upper one of columns, and a = L L^T there
 * is U^T U with U = L^T, in the same place. */
#include "cusolver.cuh"
#include "gptq_job.cuh"
#include "library.cuh"

#if __has_include(<cusolverDn.h>)
#include <cusolverDn.h>
#include <pthread.h>
#include <stdlib.h>

namespace {

#define FUNCTIONS(DO) DO(Create) DO(CreateParams) DO(SetStream) DO(Xpotrf_bufferSize) DO(Xpotrf) \
    DO(Xtrtri_bufferSize) DO(Xtrtri)

struct Library {
    char why[NIB_WHY_BYTES];
#define MEMBER(name) decltype(&cusolverDn##name) name;
    FUNCTIONS(MEMBER)
#undef MEMBER
    decltype(&cusolverGetVersion) GetVersion;
};

Library        solver;
pthread_once_t once = PTHREAD_ONCE_INIT;

void open_named(const char *name, Library *to)
{
    static const LibraryFunction functions[] = {
#define ROW(name) { "cusolverDn" #name, offsetof(Library, name) },
        FUNCTIONS(ROW)
#undef ROW
        { "cusolverGetVersion", offsetof(Library, GetVersion) },
    };
    library_open(name, functions, to, to->why);
}

void open_library()
{
    char name[64];
    snprintf(name, sizeof name, "libcusolver.so.%d", CUSOLVER_VER_MAJOR);
    open_named(name, &solver);
}

const char *words(int status)
{
    static const LibraryStatus statuses[] = { LIBRARY_STATUSES(CUSOLVER) };
    return library_words(statuses, status);
}

nib_status failed(const nib_launch *launch, const char *what, cusolverStatus_t s)
{
    const bool refused = s == CUSOLVER_STATUS_ARCH_MISMATCH || s == CUSOLVER_STATUS_NOT_SUPPORTED;
    if (launch->why)
        snprintf(launch->why, NIB_WHY_BYTES, "cuSOLVER: %s: status %d, %s", what, (int)s,
                 words((int)s));
    return refused ? NIB_ERR_UNSUPPORTED
         : s == CUSOLVER_STATUS_ALLOC_FAILED ? NIB_ERR_OUT_OF_MEMORY : NIB_ERR_DEVICE;
}

/* ---- a handle for each device; it has one stream, so threads take turns ---- */

struct Handle : LibraryHandle {
    pthread_mutex_t    turn;
    cusolverDnHandle_t handle;
    cusolverDnParams_t params;
};
Handle handles[LIBRARY_DEVICES]; /* zeros are a mutex nobody holds, on Linux */

class Turn {
public:
    explicit Turn(Handle *h) : h_(h) { pthread_mutex_lock(&h_->turn); }
    ~Turn() { pthread_mutex_unlock(&h_->turn); }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

private:
    Handle *h_;
};

/* ---- one triangle ---- */

/* The reason for each failure is what was being done. */
struct Triangle {
    const nib_launch *launch;
    Handle           *handle;
    cudaDataType      type;
    int64_t           n, ld;
    void             *a;
    int              *info; /* where the device computes */
};

nib_status fetch_info(const Triangle &t, const char *what, int64_t *minor)
{
    int info = 0;
    NIB_CUDA_TRY(nib_cuda_fetch(t.launch, what, &info, t.info, sizeof info));
    *minor = info;
    if (info >= 0) return NIB_OK;
    if (t.launch->why)
        snprintf(t.launch->why, NIB_WHY_BYTES, "cuSOLVER: %s: argument %d is wrong", what, -info);
    return NIB_ERR_DEVICE;
}

/* What cuSOLVER computes in, on both sides. */
struct Buffers {
    nib_cuda_scratch device;
    void            *host = nullptr;
    size_t           device_bytes = 0, host_bytes = 0;

    ~Buffers() { free(host); }
    nib_status allocate(const nib_launch *launch)
    {
        host = host_bytes ? malloc(host_bytes) : nullptr;
        if (host_bytes && !host) return NIB_ERR_OUT_OF_MEMORY;
        return device_bytes ? device.allocate(launch, "cuSOLVER's workspace", device_bytes)
                            : NIB_OK;
    }
};

nib_status potrf(const Triangle &t, int64_t *minor)
{
    Handle *const    h = t.handle;
    Buffers          b;
    cusolverStatus_t s = solver.Xpotrf_bufferSize(h->handle, h->params, CUBLAS_FILL_MODE_UPPER,
                                                  t.n, t.type, t.a, t.ld, t.type, &b.device_bytes,
                                                  &b.host_bytes);
    if (s != 0) return failed(t.launch, "the size of a Cholesky factorisation", s);
    NIB_CUDA_TRY(b.allocate(t.launch));
    s = solver.Xpotrf(h->handle, h->params, CUBLAS_FILL_MODE_UPPER, t.n, t.type, t.a, t.ld, t.type,
                      b.device.as<void>(), b.device_bytes, b.host, b.host_bytes, t.info);
    if (s != 0) return failed(t.launch, "a Cholesky factorisation", s);
    return fetch_info(t, "a Cholesky factorisation", minor);
}

/* Up to 11.6.0 the sizes for Xtrtri were numbers of elements, not bytes. */
enum { TRTRI_IN_BYTES = 11601 };

bool counts_elements()
{
    int version = 0;
    return solver.GetVersion(&version) != CUSOLVER_STATUS_SUCCESS || version < TRTRI_IN_BYTES;
}

nib_status trtri(const Triangle &t, int64_t *minor)
{
    Handle *const    h = t.handle;
    Buffers          b;
    cusolverStatus_t s = solver.Xtrtri_bufferSize(h->handle, CUBLAS_FILL_MODE_UPPER,
                                                  CUBLAS_DIAG_NON_UNIT, t.n, t.type, t.a, t.ld,
                                                  &b.device_bytes, &b.host_bytes);
    if (s != 0) return failed(t.launch, "the size of a triangular inverse", s);
    if (counts_elements()) {
        const size_t size = t.type == CUDA_R_64F ? sizeof(double) : sizeof(float);
        b.device_bytes *= size, b.host_bytes *= size;
    }
    NIB_CUDA_TRY(b.allocate(t.launch));
    s = solver.Xtrtri(h->handle, CUBLAS_FILL_MODE_UPPER, CUBLAS_DIAG_NON_UNIT, t.n, t.type, t.a,
                      t.ld, b.device.as<void>(), b.device_bytes, b.host, b.host_bytes, t.info);
    if (s != 0) return failed(t.launch, "a triangular inverse", s);
    return fetch_info(t, "a triangular inverse", minor);
}

} // namespace

bool nib_cuda_solver_would_open(const char *name, char *why)
{
    Library other = {};
    open_named(name, &other);
    snprintf(why, NIB_WHY_BYTES, "%s", other.why);
    return !other.why[0];
}

const char *nib_cuda_solver_why_not(int32_t ordinal)
{
    (void)pthread_once(&once, open_library);
    return library_why_not("cuSOLVER", solver.why, handles, ordinal, words);
}

bool nib_cuda_solver_is_refused(int32_t ordinal) { return library_is_refused(handles, ordinal); }

/* A handle whose parameters were refused stays for the next time. */
void nib_cuda_solver_load()
{
    const int ordinal = library_wants_handle(handles);
    (void)pthread_once(&once, open_library);
    if (ordinal < 0 || solver.why[0]) return;
    Handle          &h = handles[ordinal];
    cusolverStatus_t s = CUSOLVER_STATUS_SUCCESS;
    if (!h.handle && (s = solver.Create(&h.handle)) != 0) h.handle = nullptr;
    if (s == 0) s = solver.CreateParams(&h.params);
    library_handle_made(&h, (int)s);
}

nib_status nib_cuda_solver_factor(const nib_launch *launch, nib_real real, int64_t n, void *a,
                                  int64_t ld_elems, bool inverted, int64_t *minor)
{
    *minor = 0;
    if (nib_cuda_solver_is_refused(launch->ordinal))
        nib_cuda_load_again(launch, nib_cuda_solver_load);
    const char *const why = nib_cuda_solver_why_not(launch->ordinal);
    if (why) {
        if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "%s", why);
        return NIB_ERR_UNSUPPORTED;
    }
    Handle *const          h = &handles[launch->ordinal];
    const Turn             turn(h);
    const nib_cuda_relaxed relaxed; /* it loads kernels, and may allocate */
    nib_cuda_scratch       info;
    NIB_CUDA_TRY(info.allocate(launch, "memory for cuSOLVER's info", sizeof(int)));
    const Triangle t = { launch, h, real == NIB_REAL_F64 ? CUDA_R_64F : CUDA_R_32F, n, ld_elems,
                         a, info.as<int>() };
    const cusolverStatus_t s = solver.SetStream(h->handle, (cudaStream_t)launch->stream);
    if (s != 0) return failed(launch, "exec->stream", s);
    NIB_CUDA_TRY(potrf(t, minor));
    return inverted && !*minor ? trtri(t, minor) : NIB_OK;
}

#else

static const char *const missing = "this build has no cuSOLVER: its header was missing";

const char *nib_cuda_solver_why_not(int32_t) { return missing; }
bool nib_cuda_solver_is_refused(int32_t) { return false; }
void nib_cuda_solver_load() {}
bool nib_cuda_solver_would_open(const char *, char *why)
{
    snprintf(why, NIB_WHY_BYTES, "%s", missing);
    return false;
}

nib_status nib_cuda_solver_factor(const nib_launch *launch, nib_real, int64_t, void *, int64_t,
                                  bool, int64_t *minor)
{
    *minor = 0;
    if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "%s", missing);
    return NIB_ERR_UNSUPPORTED;
}

#endif
