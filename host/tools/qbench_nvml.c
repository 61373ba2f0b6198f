/* qbench_nvml.c: a GPU's clocks and whether they are held down, from NVML, which comes with the
 * driver and is opened at run time. Without it nothing is known, and nothing is claimed. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "qbench.h"

typedef void *nvml_device;

/* nvml.h: NVML_CLOCK_SM 1, NVML_CLOCK_MEM 2; reasons: SW power cap 0x4, HW slowdown 0x8, SW
 * thermal 0x20, HW thermal 0x40, HW power brake 0x80. */
enum { CLOCK_SM = 1, CLOCK_MEM = 2, SLOWED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80 };

static struct {
    int tried;
    int (*device_by_index)(unsigned, nvml_device *);
    int (*clock)(nvml_device, unsigned, unsigned *);
    int (*max_clock)(nvml_device, unsigned, unsigned *);
    int (*reasons)(nvml_device, unsigned long long *);
    int (*power_limit)(nvml_device, unsigned *);
    int (*driver)(char *, unsigned);
} nvml;

static void *entry(void *library, const char *name) { return dlsym(library, name); }

static int open_nvml(void)
{
    if (nvml.tried) return nvml.device_by_index != NULL;
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
    *(void **)&nvml.device_by_index = entry(library, "nvmlDeviceGetHandleByIndex_v2");
    return nvml.device_by_index != NULL;
}

/* CUDA counts those devices that CUDA_VISIBLE_DEVICES names; only a list of numbers is read. */
static int handle(int32_t ordinal, nvml_device *device)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    unsigned index = (unsigned)ordinal;
    if (!open_nvml()) return 0;
    if (visible && *visible) {
        for (int32_t i = 0; i < ordinal && visible; i++) {
            visible = strchr(visible, ',');
            if (visible) visible++;
        }
        if (!visible || *visible < '0' || *visible > '9') return 0;
        index = (unsigned)strtoul(visible, NULL, 10);
    }
    return nvml.device_by_index(index, device) == 0;
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
