/* qbench_gemm_kernels.c: --list-kernels: what multiplies packed weights, where, and how far it is
 * proven. The marks are those of README's table, and change with it. */
#include "qbench_ops.h"

typedef struct kernel_row {
    const char *name, *takes, *where, *mark;
} kernel_row;

static const char gpu_takes[] = "nvfp4 mxfp4 by 16, 32; f16 bf16; f32 sums, f16 sums";

static const kernel_row kernels[] = {
    { "rows", "nvfp4 mxfp4 by 16, 32; f32 f16 bf16", "portable avx2 avx512", "ran" },
    { "panel", "the same, dequantized once for all rows", "portable avx2 avx512", "ran" },
    { "rows-int8", "the same; activations as 8 bits", "portable avx2 avx512", "ran" },
    { "panel-int8", "the same, decoded once for all rows", "portable avx2 avx512", "ran" },
    { "small8", gpu_takes, "sm_80 sm_89 sm_90a sm_100f sm_120f", "emulated" },
    { "small16", gpu_takes, "sm_80 sm_89 sm_90a sm_100f sm_120f", "emulated" },
    { "tile32", gpu_takes, "sm_80 sm_89 sm_90a sm_100f sm_120f", "emulated" },
    { "tile64", gpu_takes, "sm_80 sm_89 sm_90a sm_100f sm_120f", "emulated" },
    { "wgmma128", "nvfp4 mxfp4 by 16, 32; f16 bf16; f32 sums", "sm_90a", "emulated" },
    { "exact", "nvfp4 mxfp4 by 16, 32; f16 bf16; f32 sums; needs cublasLt",
      "sm_80 sm_89 sm_90a sm_100f sm_120f", "emulated" },
};

const char *const nib_qb_tactic_names[] = { NIB_QB_TACTIC_NAMES, NULL };

/* What plans on this machine's devices take for a 4096 x 4096 layer. */
static void print_plan(nib_backend_kind backend, nib_dtype dtype)
{
    const nib_device_options options = { .size = sizeof options, .backend = backend };
    const nib_gemm_options wanted = {
        .size = sizeof wanted, .format = NIB_NVFP4, .n = 4096, .k = 4096, .m_max = 8192,
        .a_dtype = dtype, .d_dtype = dtype,
    };
    nib_device *device;
    nib_gemm_plan plan = { .size = sizeof plan };
    if (nib_device_open(&options, &device) != NIB_OK) return;
    (void)nib_prepare(device, NIB_PREPARE_GEMM);
    if (nib_gemm_plan_make(device, &wanted, &plan) == NIB_OK) {
        printf("\nA plan of 4096 x 4096 nvfp4 on %s:\n", nib_device_description(device));
        for (int i = 0; i < plan.count; i++)
            printf("  M %5lld .. %-5lld %-10s %s\n", (long long)plan.tactic[i].m_low,
                   (long long)plan.tactic[i].m_high, plan.tactic[i].name, plan.tactic[i].reason);
    }
    nib_device_close(device);
}

void nib_qb_list_kernels(void)
{
    printf("%-10s %-9s %-34s %s\n", "--tactic", "evidence", "where", "takes");
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        const kernel_row *k = &kernels[i];
        printf("%-10s %-9s %-34s %s\n", k->name, k->mark, k->where, k->takes);
    }
    printf("\nran: on such a processor, figures in profiles/. emulated: its source passes on the "
           "CPU emulator. compiled: it assembles without spills.\n");
    print_plan(NIB_BACKEND_CPU, NIB_F32);
    print_plan(NIB_BACKEND_CUDA, NIB_F16);
}
