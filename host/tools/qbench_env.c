/* qbench_env.c: what a number needs beside it to mean something: machine, compiler, commit. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "nibble/version.h"
#include "qbench.h"

#ifndef NIB_COMMIT
#define NIB_COMMIT "unknown"
#endif

const char *nib_qb_commit(void) { return NIB_COMMIT; }

const char *nib_qb_compiler(void)
{
#ifdef __clang__
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

const char *nib_qb_system(void)
{
    static char text[160];
    struct utsname u;
    if (text[0] == '\0' && uname(&u) == 0)
        snprintf(text, sizeof text, "%.40s %.60s %.40s", u.sysname, u.release, u.machine);
    return text;
}

double nib_qb_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double seconds_of(struct timeval t) { return (double)t.tv_sec + 1e-6 * (double)t.tv_usec; }

double nib_qb_foreign_s(void)
{
    /* proc(5): user nice system idle iowait irq softirq steal, in clock ticks */
    unsigned long long t[8];
    struct rusage own;
    FILE *f = fopen("/proc/stat", "r");
    if (!f) return 0;
    const int n = fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2],
                         &t[3], &t[4], &t[5], &t[6], &t[7]);
    fclose(f);
    if (n != 8 || getrusage(RUSAGE_SELF, &own) != 0) return 0;
    const double busy = (double)(t[0] + t[1] + t[2] + t[5] + t[6] + t[7]);
    return busy / (double)sysconf(_SC_CLK_TCK) - seconds_of(own.ru_utime)
         - seconds_of(own.ru_stime);
}

static int read_line(const char *path, char *line, size_t bytes)
{
    FILE *f = fopen(path, "r");
    const int read = f && fgets(line, (int)bytes, f);
    if (f) fclose(f);
    if (read) line[strcspn(line, "\n")] = '\0';
    return read;
}

static int64_t read_number(const char *path)
{
    char line[64];
    return read_line(path, line, sizeof line) ? strtoll(line, NULL, 10) : 0;
}

/* Linux counts how often a core or its package was held back for heat. */
int64_t nib_qb_throttle_count(const nib_qb_device *d)
{
    if (d->runtime) return nib_qb_gpu_throttled(d->ordinal);
    static const char folder[] = "/sys/devices/system/cpu/cpu0/thermal_throttle";
    char core[96], package[96];
    snprintf(core, sizeof core, "%s/core_throttle_count", folder);
    snprintf(package, sizeof package, "%s/package_throttle_count", folder);
    return read_number(core) + read_number(package);
}

static void cpu_clocks(char *text, size_t bytes)
{
    static const char folder[] = "/sys/devices/system/cpu/cpu0/cpufreq";
    char path[96], governor[64] = "";
    snprintf(path, sizeof path, "%s/scaling_cur_freq", folder);
    const int64_t khz = read_number(path);
    snprintf(path, sizeof path, "%s/scaling_max_freq", folder);
    const int64_t most = read_number(path);
    snprintf(path, sizeof path, "%s/scaling_governor", folder);
    if (!read_line(path, governor, sizeof governor)) governor[0] = '\0';
    text[0] = '\0';
    if (khz > 0)
        snprintf(text, bytes, "%lld of %lld MHz, governor %s", (long long)khz / 1000,
                 (long long)most / 1000, governor);
}

/* Without cpufreq, as in a virtual machine, what the processor says of itself. */
static void cpuinfo_clocks(char *text, size_t bytes)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    double mhz = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "cpu MHz : %lf", &mhz) == 1) break;
    if (f) fclose(f);
    if (mhz > 0) snprintf(text, bytes, "%.0f MHz by /proc/cpuinfo", mhz);
}

void nib_qb_clocks(const nib_qb_device *d, char *text, size_t bytes)
{
    text[0] = '\0';
    if (d && d->runtime) {
        nib_qb_gpu_clocks(d->ordinal, text, bytes);
        return;
    }
    cpu_clocks(text, bytes);
    if (!text[0]) cpuinfo_clocks(text, bytes);
}

static void report_gpu(FILE *out, const char *prefix)
{
    nib_device *device = NULL;
    char clocks[160];
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CUDA };
    if (nib_device_open(&options, &device) != NIB_OK) {
        fprintf(out, "%s%-10s none: %s\n", prefix, "gpu", nib_last_error());
        return;
    }
    nib_device_info info = { .size = sizeof info };
    if (nib_device_get_info(device, &info) == NIB_OK) {
        fprintf(out, "%s%-10s %s, sm_%d, %d multiprocessors, %lld MB, L2 %lld MB\n", prefix, "gpu",
                info.name, info.compute_capability, info.processors,
                (long long)(info.memory_bytes >> 20), (long long)(info.l2_bytes >> 20));
        fprintf(out, "%s%-10s CUDA %d.%d, runtime %d.%d", prefix, "driver",
                info.driver_version / 1000, info.driver_version % 1000 / 10,
                info.runtime_version / 1000, info.runtime_version % 1000 / 10);
        nib_qb_gpu_driver(clocks, sizeof clocks);
        fprintf(out, "%s%s\n", clocks[0] ? ", " : "", clocks);
        nib_qb_gpu_clocks(0, clocks, sizeof clocks);
        fprintf(out, "%s%-10s %s\n", prefix, "gpu clocks", clocks[0] ? clocks : "not known");
    }
    nib_device_close(device);
}

void nib_qb_report_environment(FILE *out, const char *prefix, const char *command)
{
    nib_device *device = NULL;
    const nib_device_options cpu = { .size = sizeof cpu, .backend = NIB_BACKEND_CPU };
    if (nib_device_open(&cpu, &device) != NIB_OK) device = NULL;
    double load = 0;
    char text[160];
    const time_t now = time(NULL);
    struct tm utc;
    if (getloadavg(&load, 1) != 1) load = 0;

    fprintf(out, "%s%-10s %s\n", prefix, "command", command);
    fprintf(out, "%s%-10s nibble %s, commit %s, %s\n", prefix, "build", nib_version(),
            nib_qb_commit(), nib_qb_compiler());
    fprintf(out, "%s%-10s %s, %ld processors, last cache %lld MB, %s\n", prefix, "machine",
            nib_device_description(device), sysconf(_SC_NPROCESSORS_ONLN),
            (long long)(nib_qb_llc_bytes() >> 20), nib_qb_system());
    nib_qb_clocks(NULL, text, sizeof text);
    fprintf(out, "%s%-10s %s\n", prefix, "clocks", text[0] ? text : "not known");
    fprintf(out, "%s%-10s %.2f\n", prefix, "load", load);
    if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text))
        fprintf(out, "%s%-10s %s\n", prefix, "hugepages", text);
    report_gpu(out, prefix);
    if (gmtime_r(&now, &utc) && strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &utc))
        fprintf(out, "%s%-10s %s\n", prefix, "time", text);
    nib_device_close(device);
}
