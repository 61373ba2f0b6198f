/* gptq_job.cuh: what the files of hessian.h and gptq.h give each other. */
#ifndef NIB_GPTQ_JOB_CUH
#define NIB_GPTQ_JOB_CUH

#include "gptq_tune.h"
#include "kernels/packed.h"
#include "ops_cuda.cuh"

static inline size_t nib_cuda_real_bytes(nib_real real) { return real == NIB_REAL_F64 ? 8 : 4; }

static inline size_t nib_cuda_up256(size_t bytes) { return (bytes + 255) & ~(size_t)255; }

/* The first address on 256 bytes of a workspace that is aligned to 64. */
static inline uint8_t *nib_cuda_workspace(const nib_launch *launch)
{
    return (uint8_t *)nib_cuda_up256((size_t)launch->workspace);
}

/* Bytes from the first element of a matrix of reals to its end. */
static inline int64_t nib_cuda_square_bytes(nib_real real, int64_t k, int64_t ld)
{
    return ((k - 1) * ld + k) * (int64_t)nib_cuda_real_bytes(real);
}

/* A call's own device memory: a synchronising one's alone. */
class nib_cuda_scratch {
public:
    nib_cuda_scratch() = default;
    ~nib_cuda_scratch()
    {
        const nib_cuda_relaxed relaxed;
        if (at_) (void)cudaFree(at_);
    }
    nib_cuda_scratch(const nib_cuda_scratch &) = delete;
    nib_cuda_scratch &operator=(const nib_cuda_scratch &) = delete;

    /* Once. what: for words. */
    nib_status allocate(const nib_launch *launch, const char *what, size_t bytes)
    {
        const nib_cuda_relaxed relaxed;
        const cudaError_t error = cudaMalloc(&at_, bytes);
        if (error == cudaSuccess) return NIB_OK;
        at_ = nullptr;
        return nib_cuda_failed(launch->why, what, error);
    }
    template <class T> T *as() const { return (T *)at_; }

private:
    void *at_ = nullptr;
};

/* What comes before any launch on a Hessian. */
nib_status nib_cuda_hessian_begin(const nib_launch *launch, const nib_hessian *hessian);

/* bytes of the device to the host, after what was launched before. */
nib_status nib_cuda_fetch(const nib_launch *launch, const char *what, void *to, const void *from,
                          size_t bytes);

/* The diagonal of k x k reals into the host's memory. */
nib_status nib_cuda_diagonal(const nib_launch *launch, nib_real real, int64_t k, const void *data,
                             int64_t ld_elems, double *to);

cudaError_t nib_cuda_load_hessian_look();

#endif
