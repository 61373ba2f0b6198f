/* emu_launch.h: NIB_LAUNCH and NIB_LAUNCH_DEPENDENT for a C++ compiler. */
#ifndef NIB_EMU_LAUNCH_H
#define NIB_EMU_LAUNCH_H

#include "tests/emu/emu_api.h"
#include "tests/emu/emu_types.h"

#include <functional>
#include <tuple>

namespace nib_emu {

/* dependent: by NIB_LAUNCH_DEPENDENT. */
void launch(const char *name, const void *function, dim3 grid, dim3 block, size_t smem_bytes,
            cudaStream_t stream, std::function<void()> body, bool dependent);

/* Arguments are converted and copied at the launch, as on a GPU: the kernel runs later. */
template <bool dependent, class... Parameters, class... Arguments>
void launch_kernel(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t smem_bytes, cudaStream_t stream, Arguments &&...arguments)
{
    std::tuple<std::decay_t<Parameters>...> copy(std::forward<Arguments>(arguments)...);
    launch(name, (const void *)kernel, grid, block, smem_bytes, stream,
           [kernel, copy] { std::apply(kernel, copy); }, dependent);
}

/* NVIDIA's libraries, of which there are cublasLt and cuSOLVER. */
void       *library_open(const char *name);
void       *library_find(void *library, const char *symbol);
const char *library_why();

} // namespace nib_emu

#define NIB_LIBRARY_OPEN(name)          nib_emu::library_open(name)
#define NIB_LIBRARY_FIND(library, name) nib_emu::library_find((library), (name))
#define NIB_LIBRARY_WHY()               nib_emu::library_why()
#define NIB_LAUNCH(kernel, grid, block, smem_bytes, stream, ...) \
    nib_emu::launch_kernel<false>(#kernel, kernel, grid, block, smem_bytes, stream, ##__VA_ARGS__)
#define NIB_LAUNCH_DEPENDENT(kernel, grid, block, smem_bytes, stream, ...) \
    nib_emu::launch_kernel<true>(#kernel, kernel, grid, block, smem_bytes, stream, ##__VA_ARGS__)

#endif
