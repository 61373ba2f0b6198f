/* emu_cusolver.cc: a cuSOLVER that factors and inverts by plain loops, in the matrix's type;
 * column-major, as the real one, and of the upper triangle. It holds its caller to the order of
 * calls: a stream of the handle's device, the size of the very problem, buffers of it. Both buffers
 * are written over, as is info, and the other triangle is let be. */
#include "tests/emu/emu.h"
#include "tests/emu/emu_runtime.h"

#include "tests/emu/include/cusolverDn.h"

#include <cmath>
#include <cstring>

namespace {

struct Problem {
    bool        inverse;
    int64_t     n, ld;
    const void *a;
    int         type;
    size_t      device_bytes, host_bytes;
};

enum { HOST_BYTES = 96 };

} // namespace

struct cusolverDnContext {
    int          ordinal;
    bool         has_stream;
    cudaStream_t stream;
    Problem      sized; /* by the last query */
};
struct cusolverDnParams {};

using namespace nib_emu;

namespace {

bool is_old; /* 11.6.0 */

#define TRY(name)                                                              \
    std::lock_guard<std::recursive_mutex> call_lock(device_lock());            \
    do {                                                                       \
        const int refused_ = (int)refused(name);                               \
        if (refused_ || has_failed())                                          \
            return refused_ ? (cusolverStatus_t)refused_ : CUSOLVER_STATUS_EXECUTION_FAILED; \
    } while (0)

/* a(i, j), i <= j, in column-major order. Returns LAPACK's info. */
template <class T> int factor(T *a, int64_t n, int64_t ld)
{
    for (int64_t j = 0; j < n; j++) {
        for (int64_t i = 0; i <= j; i++) {
            T sum = a[j * ld + i];
            for (int64_t k = 0; k < i; k++) sum -= a[i * ld + k] * a[j * ld + k];
            if (i < j) a[j * ld + i] = sum / a[i * ld + i];
            else if (sum > (T)0) a[j * ld + i] = std::sqrt(sum);
            else if (sum != sum) a[j * ld + i] = sum; /* as on a GPU: NaN goes on, unnoticed */
            else return (int)(j + 1);
        }
    }
    return 0;
}

template <class T> int invert(T *a, int64_t n, int64_t ld)
{
    for (int64_t j = 0; j < n; j++) if (a[j * ld + j] == (T)0) return (int)(j + 1);
    for (int64_t j = 0; j < n; j++) { /* columns of the inverse; those before are done */
        for (int64_t i = 0; i < j; i++) {
            T sum = 0;
            for (int64_t k = i; k < j; k++) sum += a[k * ld + i] * a[j * ld + k];
            a[j * ld + i] = -sum;
        }
        const T pivot = (T)1 / a[j * ld + j];
        for (int64_t i = 0; i < j; i++) a[j * ld + i] *= pivot;
        a[j * ld + j] = pivot;
    }
    return 0;
}

template <class T> int solve(T *a, const Problem &p)
{
    return p.inverse ? invert(a, p.n, p.ld) : factor(a, p.n, p.ld);
}

cusolverStatus_t size_of(cusolverDnHandle_t h, bool inverse, cublasFillMode_t uplo, int64_t n,
                         int type, const void *a, int64_t ld, size_t *device_bytes,
                         size_t *host_bytes)
{
    if (!h->has_stream || uplo != CUBLAS_FILL_MODE_UPPER || n < 1 || ld < n
        || (type != CUDA_R_32F && type != CUDA_R_64F))
        return CUSOLVER_STATUS_INVALID_VALUE;
    *device_bytes = (size_t)n * 16 + 512;
    *host_bytes = inverse ? 0 : (size_t)HOST_BYTES;
    h->sized = { inverse, n, ld, a, type, *device_bytes, *host_bytes };
    if (is_old && inverse) *device_bytes /= type == CUDA_R_64F ? 8 : 4;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t run(cusolverDnHandle_t h, const Problem &p, void *device, void *host, int *info)
{
    const Problem &q = h->sized;
    if (!h->has_stream || h->ordinal != current_device() || q.inverse != p.inverse || q.n != p.n
        || q.ld != p.ld || q.a != p.a || q.type != p.type || p.device_bytes < q.device_bytes
        || p.host_bytes < q.host_bytes || !device || (q.host_bytes && !host) || !info
        || (uintptr_t)p.a % (p.type == CUDA_R_64F ? 8 : 4))
        return CUSOLVER_STATUS_INVALID_VALUE;
    if (forbidden_by_capture() != cudaSuccess) return CUSOLVER_STATUS_EXECUTION_FAILED;
    if (host) memset(host, 0xff, p.host_bytes);
    const int said = (int)refused("info");
    const cudaError_t error = enqueue(h->stream, [p, device, info, said] {
        const Guard guard;
        memset(device, 0xff, p.device_bytes);
        *info = said ? said
              : p.type == CUDA_R_64F ? solve((double *)p.a, p) : solve((float *)p.a, p);
        return cudaSuccess;
    });
    return error == cudaSuccess ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_EXECUTION_FAILED;
}

} // namespace

cusolverStatus_t cusolverGetVersion(int *version)
{
    TRY("cusolverGetVersion");
    *version = is_old ? 11600 : 1000 * CUSOLVER_VER_MAJOR;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle)
{
    TRY("cusolverDnCreate");
    *handle = new cusolverDnContext{ current_device(), false, nullptr, {} };
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params)
{
    TRY("cusolverDnCreateParams");
    *params = new cusolverDnParams;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream)
{
    TRY("cusolverDnSetStream");
    int ordinal = -1;
    if (device_of(stream, &ordinal) != cudaSuccess || ordinal != handle->ordinal)
        return CUSOLVER_STATUS_INVALID_VALUE;
    handle->has_stream = true;
    handle->stream = stream;
    handle->sized = {};
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                             cublasFillMode_t uplo, int64_t n, cudaDataType type,
                                             const void *A, int64_t lda, cudaDataType compute,
                                             size_t *device_bytes, size_t *host_bytes)
{
    TRY("cusolverDnXpotrf_bufferSize");
    if (!params || compute != type) return CUSOLVER_STATUS_INVALID_VALUE;
    return size_of(handle, false, uplo, n, type, A, lda, device_bytes, host_bytes);
}

cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                  cublasFillMode_t uplo, int64_t n, cudaDataType type, void *A,
                                  int64_t lda, cudaDataType compute, void *device,
                                  size_t device_bytes, void *host, size_t host_bytes, int *info)
{
    TRY("cusolverDnXpotrf");
    if (!params || compute != type || uplo != CUBLAS_FILL_MODE_UPPER)
        return CUSOLVER_STATUS_INVALID_VALUE;
    return run(handle, { false, n, lda, A, type, device_bytes, host_bytes }, device, host, info);
}

cusolverStatus_t cusolverDnXtrtri_bufferSize(cusolverDnHandle_t handle, cublasFillMode_t uplo,
                                             cublasDiagType_t diag, int64_t n, cudaDataType type,
                                             void *A, int64_t lda, size_t *device_bytes,
                                             size_t *host_bytes)
{
    TRY("cusolverDnXtrtri_bufferSize");
    if (diag != CUBLAS_DIAG_NON_UNIT) return CUSOLVER_STATUS_INVALID_VALUE;
    return size_of(handle, true, uplo, n, type, A, lda, device_bytes, host_bytes);
}

cusolverStatus_t cusolverDnXtrtri(cusolverDnHandle_t handle, cublasFillMode_t uplo,
                                  cublasDiagType_t diag, int64_t n, cudaDataType type, void *A,
                                  int64_t lda, void *device, size_t device_bytes, void *host,
                                  size_t host_bytes, int *info)
{
    TRY("cusolverDnXtrtri");
    if (diag != CUBLAS_DIAG_NON_UNIT || uplo != CUBLAS_FILL_MODE_UPPER)
        return CUSOLVER_STATUS_INVALID_VALUE;
    return run(handle, { true, n, lda, A, type, device_bytes, host_bytes }, device, host, info);
}

/* ---- the library's file ---- */

namespace nib_emu {

void set_old_solver(bool old) { is_old = old; }

void *cusolver_symbol(const char *symbol)
{
    static const struct {
        const char *name;
        void       *function;
    } symbols[] = {
#define SYMBOL(name) { #name, (void *)name },
        SYMBOL(cusolverGetVersion)
        SYMBOL(cusolverDnCreate) SYMBOL(cusolverDnCreateParams) SYMBOL(cusolverDnSetStream)
        SYMBOL(cusolverDnXpotrf_bufferSize) SYMBOL(cusolverDnXpotrf)
        SYMBOL(cusolverDnXtrtri_bufferSize) SYMBOL(cusolverDnXtrtri)
    };
    for (const auto &s : symbols) if (!strcmp(s.name, symbol)) return s.function;
    return nullptr;
}

} // namespace nib_emu
