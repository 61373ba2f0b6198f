/* qbench_nvml.c: a GPU's clocks and whether they are held down, from NVML, which comes with the
 * driver and is opened at run time. Without it nothing is known, and nothing is claimed. */
#include <dlfcn.h>

#include "qbench.h"

typedef void *nvml_device;

/* nvml.h: NVML_CLOCK_SM 1, NVML_CLOCK_MEM 2; reasons: SW power cap 0x4, HW slowdown 0x8, SW
 * thermal 0x20, HW thermal 0x40, HW power brake 0x80. */
enum { CLOCK_SM = 1, CLOCK_MEM = 2, SLOWED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80 };

static struct {
    int tried;
    int (*device_by_bus)(const char *, nvml_device *);
    int (*bus_of)(char *, int, int); /* of libcuda's device */
    int (*clock)(nvml_device, unsigned, unsigned *);
    int (*max_clock)(nvml_device, unsigned, unsigned *);
    int (*reasons)(nvml_device, unsigned long long *);
    int (*power_limit)(nvml_device, unsigned *);
    int (*driver)(char *, unsigned);
} nvml;

static void *entry(void *library, const char *name) { return dlsym(library, name); }

/* The driver that the CUDA backend has loaded by now; its devices are numbered as the runtime's. */
static void open_driver(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    int (*init)(unsigned) = library ? (int (*)(unsigned))entry(library, "cuInit") : NULL;
    if (init && init(0) == 0) *(void **)&nvml.bus_of = entry(library, "cuDeviceGetPCIBusId");
}

static int open_nvml(void)
{
    if (nvml.tried) return nvml.device_by_bus != NULL;
    nvml.tried = 1;
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return 0;
    int (*init)(void) = (int (*)(void))entry(library, "nvmlInit_v2");
    if (!init || init() != 0) return 0;
    *(void **)&nvml.clock = entry(library, "nvmlDeviceGetClockInfo");
    *(void **)&nvml.max_clock = entry(library, "nvmlDeviceGetMaxClockInfo");
    *(void **)&nvml.reasons = entry(library, "nvmlDeviceGetCurrentClocksThrottleReasons");
    *(void **)&nvml.power_limit = entry(library, "nvmlDeviceGetEnforcedPowerLimit");
    *(void **)&nvml.driver = entry(library, "nvmlSystemGetDriverVersion");
    *(void **)&nvml.device_by_bus = entry(library, "nvmlDeviceGetHandleByPciBusId_v2");
    open_driver();
    return nvml.device_by_bus != NULL;
}

/* NVML counts GPUs by their places on the bus; CUDA by CUDA_DEVICE_ORDER, the fastest first, those
 * that CUDA_VISIBLE_DEVICES names. The place itself is the same for both. */
static int handle(int32_t ordinal, nvml_device *device)
{
    char bus[32];
    return open_nvml() && nvml.bus_of && nvml.bus_of(bus, (int)sizeof bus, ordinal) == 0
        && nvml.device_by_bus(bus, device) == 0;
}

int64_t nib_qb_gpu_throttled(int32_t ordinal)
{
    static int64_t seen; /* NVML tells the present only: each look that finds it adds 1 */
    nvml_device device;
    unsigned long long reasons = 0;
    if (handle(ordinal, &device) && nvml.reasons && nvml.reasons(device, &reasons) == 0
        && (reasons & SLOWED))
        seen++;
    return seen;
}

void nib_qb_gpu_driver(char *text, size_t bytes)
{
    if (!open_nvml() || !nvml.driver || nvml.driver(text, (unsigned)bytes) != 0) text[0] = '\0';
}

void nib_qb_gpu_clocks(int32_t ordinal, char *text, size_t bytes)
{
    nvml_device device;
    unsigned sm = 0, most = 0, memory = 0, milliwatts = 0;
    text[0] = '\0';
    if (!handle(ordinal, &device) || !nvml.clock) return;
    if (nvml.clock(device, CLOCK_SM, &sm) != 0) return;
    (void)nvml.clock(device, CLOCK_MEM, &memory);
    if (nvml.max_clock) (void)nvml.max_clock(device, CLOCK_SM, &most);
    if (nvml.power_limit) (void)nvml.power_limit(device, &milliwatts);
    snprintf(text, bytes, "SM %u of %u MHz, memory %u MHz, power limit %u W", sm, most, memory,
             milliwatts / 1000);
}
