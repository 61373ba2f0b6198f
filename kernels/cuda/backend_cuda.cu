/* backend_cuda.cu: the one table that this backend exports, which devices it can use, and the
 * loading of its kernels. */
#include "cublaslt.cuh"
#include "cusolver.cuh"

#include "nibble/version.h"

#include <atomic>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)

enum { MAX_DEVICES = 64, MIN_CAPABILITY = 80 };

/* ---- loading ---- */

static std::atomic<uint32_t> prepared[MAX_DEVICES];
static pthread_mutex_t       loading = PTHREAD_MUTEX_INITIALIZER;

static const struct {
    uint32_t     group;
    const char  *what;
    cudaError_t (*load)();
} loads[] = {
    { NIB_PREPARE_QUANTIZE, "loading quantize's kernels", nib_cuda_load_quantize },
    { NIB_PREPARE_QUANTIZE, "loading quantize_both's kernels", nib_cuda_load_both },
    { NIB_PREPARE_QUANTIZE, "loading dequantize's kernels", nib_cuda_load_dequantize },
    { NIB_PREPARE_QUANTIZE, "loading amax's kernels", nib_cuda_load_amax },
    { NIB_PREPARE_QUANTIZE, "loading relayout's kernels", nib_cuda_load_relayout },
    { NIB_PREPARE_FAKE_QUANTIZE, "loading fake-quantize's kernels", nib_cuda_load_fakequant },
    { NIB_PREPARE_OBSERVE, "loading the observers' kernels", nib_cuda_load_observe },
    { NIB_PREPARE_OBSERVE, "loading the statistics' kernels", nib_cuda_load_tensor_stats },
    { NIB_PREPARE_FAKE_QUANTIZE, "loading the kernels of steps", nib_cuda_load_steps },
    { NIB_PREPARE_FAKE_QUANTIZE, "loading the kernels of steps' codes", nib_cuda_load_step_codes },
    { NIB_PREPARE_TRANSFORM, "loading transforms' kernels", nib_cuda_load_transform },
    { NIB_PREPARE_GROUPED, "loading groups' kernels", nib_cuda_load_grouped },
    { NIB_PREPARE_GEMM, "loading products' kernels", nib_cuda_load_gemm },
    { NIB_PREPARE_GEMM, "loading the packing kernels", nib_cuda_load_gemm_pack },
    { NIB_PREPARE_GEMM, "loading products' small kernels", nib_cuda_load_gemm_small },
    { NIB_PREPARE_GEMM, "loading products' tiles", nib_cuda_load_gemm_tile },
    { NIB_PREPARE_GEMM, "loading products by wgmma", nib_cuda_load_gemm_wgmma },
    { NIB_PREPARE_GEMM, "loading dequantization for products", nib_cuda_load_gemm_exact },
    { NIB_PREPARE_GPTQ, "loading Hessians' kernels", nib_cuda_load_hessian },
    { NIB_PREPARE_GPTQ, "loading factors' kernels", nib_cuda_load_gptq_factor },
    { NIB_PREPARE_GPTQ, "loading GPTQ's kernels", nib_cuda_load_gptq },
    { NIB_CUDA_PREPARE_BENCH, "loading the benchmark's kernels", nib_cuda_load_bench },
};

/* Whose calls need a handle of NVIDIA's libraries. */
enum { WITH_LT = NIB_PREPARE_GEMM | NIB_PREPARE_GPTQ | NIB_CUDA_PREPARE_BENCH,
       WITH_SOLVER = NIB_PREPARE_GPTQ };

bool nib_cuda_is_prepared(int32_t ordinal, uint32_t group)
{
    return (prepared[ordinal].load(std::memory_order_acquire) & group) == group;
}

static nib_status load_missing(int32_t ordinal, uint32_t group, char *why)
{
    const uint32_t done = prepared[ordinal].load(std::memory_order_relaxed);
    for (const auto &row : loads) {
        if (!(row.group & group & ~done)) continue;
        const cudaError_t error = row.load();
        if (error != cudaSuccess) return nib_cuda_failed(why, row.what, error);
    }
    if (group & WITH_LT) nib_cuda_lt_load();
    if (group & WITH_SOLVER) nib_cuda_solver_load();
    prepared[ordinal].store(done | group, std::memory_order_release);
    return NIB_OK;
}

static bool lacks_handle(int32_t ordinal, uint32_t group)
{
    return (group & WITH_LT && nib_cuda_lt_is_refused(ordinal))
        || (group & WITH_SOLVER && nib_cuda_solver_is_refused(ordinal));
}

/* One thread at a time. */
class Loading {
public:
    Loading()
    {
        if (error() == cudaSuccess) pthread_mutex_lock(&loading);
    }
    ~Loading()
    {
        if (error() == cudaSuccess) pthread_mutex_unlock(&loading);
    }
    Loading(const Loading &) = delete;
    Loading &operator=(const Loading &) = delete;
    cudaError_t error() const { return relaxed_.error(); }

private:
    const nib_cuda_relaxed relaxed_;
};

nib_status nib_cuda_prepare(int32_t ordinal, uint32_t group, char *why)
{
    if (nib_cuda_is_prepared(ordinal, group) && !lacks_handle(ordinal, group)) return NIB_OK;
    const nib_cuda_current restored;
    NIB_CUDA_TRY(nib_cuda_use(ordinal, why));
    const Loading now;
    if (now.error() != cudaSuccess) return nib_cuda_failed(why, "preparing", now.error());
    return load_missing(ordinal, group, why);
}

void nib_cuda_load_again(const nib_launch *launch, void (*load)())
{
    if (nib_cuda_not_captured(launch) != NIB_OK) return;
    const Loading now;
    if (now.error() == cudaSuccess) load();
    else (void)cudaGetLastError();
}

/* ---- devices ---- */

bool nib_cuda_compiled_for(const char *archs, int32_t capability)
{
    for (const char *word = archs; *word; word += strcspn(word, " "), word += strspn(word, " ")) {
        const bool portable = !strncmp(word, "compute_", 8); /* PTX, for all later ones */
        const char *digits = strchr(word, '_');
        char       *suffix = nullptr;
        const long  least = digits ? strtol(digits + 1, &suffix, 10) : 0;
        if (!least || capability < least) continue;
        if (*suffix == 'a' ? capability == least
                           : (portable && *suffix != 'f') || capability / 10 == least / 10) {
            return true;
        }
    }
    return false;
}

bool nib_cuda_has_arch(const char *archs, const char *arch)
{
    const size_t length = strlen(arch);
    for (const char *word = archs; *word; word += strcspn(word, " "), word += strspn(word, " "))
        if (strcspn(word, " ") == length && !strncmp(word, arch, length)) return true;
    return false;
}

/* 34, 35 and 100 are what machines without a device give; in words of ours, then CUDA's. */
static nib_status no_device(char *why, cudaError_t error)
{
    int  driver = 0;
    char what[128];
    if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
    if ((int)error == 34) {
        snprintf(what, sizeof what, "libcuda.so.1 is the toolkit's stub, not a driver's");
    } else if ((int)error == 100) {
        snprintf(what, sizeof what, "the driver sees no GPU");
    } else if ((int)error == 35 && driver > 0) {
        snprintf(what, sizeof what, "the NVIDIA driver is for CUDA %d.%d, this build needs %d.%d",
                 driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                 CUDART_VERSION % 1000 / 10);
    } else if ((int)error == 35) {
        snprintf(what, sizeof what, "there is no NVIDIA driver");
    } else {
        snprintf(what, sizeof what, "asking for CUDA devices");
    }
    (void)nib_cuda_failed(why, what, error);
    return NIB_ERR_NO_DEVICE;
}

static nib_status refuse(char *why, const cudaDeviceProp *p, int32_t ordinal, const char *reason)
{
    snprintf(why, NIB_WHY_BYTES, "CUDA device %d, %.128s, has compute capability %d.%d: %.256s",
             ordinal, p->name, p->major, p->minor, reason);
    return NIB_ERR_NO_DEVICE;
}

nib_status nib_cuda_probe(int32_t ordinal, nib_device_info *info, char *why)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count < 1) error = (cudaError_t)100;
    if (error != cudaSuccess) return no_device(why, error);
    if (ordinal >= count || ordinal >= MAX_DEVICES) {
        snprintf(why, NIB_WHY_BYTES, "ordinal %d, but the CUDA devices are 0 to %d", ordinal,
                 (count < MAX_DEVICES ? count : MAX_DEVICES) - 1);
        return NIB_ERR_UNSUPPORTED;
    }
    cudaDeviceProp p;
    error = cudaGetDeviceProperties(&p, ordinal);
    if (error != cudaSuccess) return no_device(why, error);
    const int capability = 10 * p.major + p.minor;
    if (capability < MIN_CAPABILITY) return refuse(why, &p, ordinal, "nibble needs 8.0 or later");
#ifdef NIB_CUDA_ARCHS
    if (!nib_cuda_compiled_for(NIB_CUDA_ARCHS, capability)) {
        return refuse(why, &p, ordinal, "this build of nibble is for " NIB_CUDA_ARCHS);
    }
#endif
    info->backend = NIB_BACKEND_CUDA;
    info->ordinal = ordinal;
    info->compute_capability = capability;
    info->processors = p.multiProcessorCount;
    info->pageable_memory = p.pageableMemoryAccess;
    if (cudaDriverGetVersion(&info->driver_version) != cudaSuccess) info->driver_version = 0;
    if (cudaRuntimeGetVersion(&info->runtime_version) != cudaSuccess) info->runtime_version = 0;
    info->memory_bytes = p.totalGlobalMem;
    info->l2_bytes = (size_t)p.l2CacheSize;
    info->shared_bytes = p.sharedMemPerBlockOptin;
    snprintf(info->name, sizeof info->name, "%.127s", p.name);
    return NIB_OK;
}

/* ---- the table: every entry leaves the caller's device current ---- */

static const nib_batch one = { (uint32_t)sizeof one, 1, 0, 0, 0, 0 };

static nib_status quantize(const nib_launch *launch, const nib_matrix *src,
                           const nib_quantize_request *request, const nib_packed *dst)
{
    const nib_cuda_current restored;
    return nib_cuda_quantize(launch, &one, src, request, dst);
}

static nib_status dequantize(const nib_launch *launch, const nib_packed *src,
                             const nib_matrix *dst)
{
    const nib_cuda_current restored;
    return nib_cuda_dequantize(launch, &one, src, dst);
}

static nib_status amax(const nib_launch *launch, const nib_matrix *src, float *amax,
                       uint64_t *nonfinite)
{
    const nib_cuda_current restored;
    return nib_cuda_amax(launch, &one, src, amax, nonfinite);
}

/* Any entry of ops_cuda.cuh with the table's own arguments. */
template <auto entry, class... Args>
static nib_status keeping_device(const nib_launch *launch, Args... args)
{
    const nib_cuda_current restored;
    return entry(launch, args...);
}

static const nib_backend ops = {
    NIB_BACKEND_VERSION,
    "cuda",
    quantize,
    dequantize,
    amax,
    keeping_device<nib_cuda_amax_rows>,
    keeping_device<nib_cuda_relayout_scales>,
    nullptr, /* quantize_stats: a synchronising report, the CPU's */
    keeping_device<nib_cuda_quantize>,
    keeping_device<nib_cuda_dequantize>,
    keeping_device<nib_cuda_amax>,
    nullptr,
    keeping_device<nib_cuda_fake_quantize>,
    keeping_device<nib_cuda_fake_backward>,
    keeping_device<nib_cuda_observe_range>,
    keeping_device<nib_cuda_observe_range_rows>,
    keeping_device<nib_cuda_observe_ema>,
    keeping_device<nib_cuda_observe_histogram>,
    keeping_device<nib_cuda_observe_stats>,
    keeping_device<nib_cuda_fake_steps>,
    keeping_device<nib_cuda_fake_steps_backward>,
    keeping_device<nib_cuda_transform_apply>,
    keeping_device<nib_cuda_quantize_transformed>,
    keeping_device<nib_cuda_quantize_grouped>,
    keeping_device<nib_cuda_amax_grouped>,
    keeping_device<nib_cuda_quantize_both>,
    nib_cuda_gemm_tactics,
    nib_cuda_gemm_plan,
    nib_cuda_gemm_need,
    nib_cuda_gemm_backward_need,
    keeping_device<nib_cuda_gemm_pack>,
    keeping_device<nib_cuda_gemm_unpack>,
    keeping_device<nib_cuda_gemm_run>,
    keeping_device<nib_cuda_gemm_backward>,
    nib_cuda_hessian_add_need,
    keeping_device<nib_cuda_hessian_clear>,
    keeping_device<nib_cuda_hessian_add>,
    keeping_device<nib_cuda_hessian_add_grouped>,
    keeping_device<nib_cuda_hessian_merge>,
    keeping_device<nib_cuda_hessian_rotate>,
    keeping_device<nib_cuda_hessian_info>,
    keeping_device<nib_cuda_hessian_inverse>,
    keeping_device<nib_cuda_gptq_order>,
    keeping_device<nib_cuda_gptq_factor>,
    keeping_device<nib_cuda_find_nonfinite>,
    nib_cuda_gptq_need,
    keeping_device<nib_cuda_gptq_measure>,
    keeping_device<nib_cuda_gptq_sweep>,
    keeping_device<nib_cuda_quantize_steps>,
    keeping_device<nib_cuda_dequantize_steps>,
};

extern "C" __attribute__((visibility("default"))) const nib_cuda_table nib_cuda_table_v1 = {
    NIB_CUDA_TABLE_VERSION,
    (uint32_t)sizeof(nib_cuda_table),
    TEXT(NIB_VERSION_MAJOR) "." TEXT(NIB_VERSION_MINOR) "." TEXT(NIB_VERSION_PATCH),
    &ops,
    &nib_runtime_cuda,
    &nib_bench_cuda,
    nib_cuda_probe,
    nib_cuda_prepare,
};
