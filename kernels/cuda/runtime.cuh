/* runtime.cuh: the one way from kernel sources to the CUDA runtime.
 *
 * nvcc takes <cuda_runtime.h> from its toolkit. Any other compiler takes the one of the same name
 * that the build puts first on its path, and runs the same source on the CPU. What plain
 * C++ cannot spell are macros, and kernel sources use nothing else for it:
 *
 *   NIB_LAUNCH(kernel, grid, block, smem_bytes, stream, args...)    kernel<<<...>>>(args...)
 *       A template with commas goes in parentheses: NIB_LAUNCH((copy<float, 4>), ...).
 *   NIB_LAUNCH_DEPENDENT(as NIB_LAUNCH)       may start as the stream's kernel before it ends; it
 *       begins with nib_ptx::grid_dependency_wait()
 *   NIB_SHARED(type, name, [rows][cols])      shared memory of one block; a scalar has no [...]
 *   NIB_SHARED_DYNAMIC(name)                  unsigned char name[smem_bytes], 1024-byte aligned
 *   NIB_UNROLL, NIB_NO_UNROLL                 #pragma unroll and unroll 1, which others warn of
 *   NIB_LIBRARY_OPEN(name), _FIND(library, symbol), _WHY()    NVIDIA's libraries: dlopen and so on
 *
 * No kernel waits for another block (DESIGN: no spin locks, no grid barriers): blocks may run one
 * after another, in any order. */
#ifndef NIB_RUNTIME_CUH
#define NIB_RUNTIME_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __CUDACC__
#include <dlfcn.h>

#define NIB_LAUNCH(kernel, grid, block, smem_bytes, stream, ...) \
    kernel<<<(grid), (block), (smem_bytes), (stream)>>>(__VA_ARGS__)
#define NIB_LAUNCH_DEPENDENT(kernel, grid, block, smem_bytes, stream, ...) \
    nib_launch_dependent((kernel), (grid), (block), (smem_bytes), (stream), __VA_ARGS__)
#define NIB_SHARED(type, name, dims) __shared__ type name dims
#define NIB_SHARED_DYNAMIC(name)     extern __shared__ __align__(1024) unsigned char name[]
#define NIB_UNROLL                   _Pragma("unroll")
#define NIB_NO_UNROLL                _Pragma("unroll 1")
#define NIB_LIBRARY_OPEN(name)          dlopen((name), RTLD_NOW | RTLD_LOCAL)
#define NIB_LIBRARY_FIND(library, name) dlsym((library), (name))
#define NIB_LIBRARY_WHY()               dlerror()

/* Programmatic dependent launch, if the image that runs was compiled for it (made from PTX of an
 * older target it would not wait) and graphs may hold it: from CUDA 12.3's drivers on. */
inline bool nib_waits_for_grids(const void *kernel)
{
    cudaFuncAttributes a;
    int                driver = 0;
    return cudaFuncGetAttributes(&a, kernel) == cudaSuccess && a.ptxVersion >= 90
        && cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12030;
}

template <class... Parameters, class... Arguments>
void nib_launch_dependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t smem_bytes,
                          cudaStream_t stream, const Arguments &...arguments)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block;
    config.dynamicSmemBytes = smem_bytes, config.stream = stream;
    config.attrs = &early;
    config.numAttrs = nib_waits_for_grids((const void *)kernel) ? 1 : 0;
    (void)cudaLaunchKernelEx(&config, kernel, arguments...); /* cudaGetLastError tells */
}
#endif

#endif
