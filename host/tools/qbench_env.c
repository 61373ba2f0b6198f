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

static void print_file(FILE *out, const char *label, const char *path)
{
    char line[128];
    FILE *f = fopen(path, "r");
    if (!f) return;
    if (fgets(line, sizeof line, f))
        fprintf(out, "# %-10s %.*s\n", label, (int)strcspn(line, "\n"), line);
    fclose(f);
}

void nib_qb_report_environment(FILE *out, const char *command)
{
    nib_device *device = NULL;
    const nib_device_options cpu = { .size = sizeof cpu, .backend = NIB_BACKEND_CPU };
    if (nib_device_open(&cpu, &device) != NIB_OK) device = NULL;
    double load = 0;
    if (getloadavg(&load, 1) != 1) load = 0;

    fprintf(out, "# %-10s %s\n", "command", command);
    fprintf(out, "# %-10s nibble %s, commit %s, %s\n", "build", nib_version(), nib_qb_commit(),
            nib_qb_compiler());
    fprintf(out, "# %-10s %s, %ld processors, last cache %lld MB, %s\n", "machine",
            nib_device_description(device), sysconf(_SC_NPROCESSORS_ONLN),
            (long long)(nib_qb_llc_bytes() >> 20), nib_qb_system());
    fprintf(out, "# %-10s %.2f\n", "load", load);
    print_file(out, "governor", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    print_file(out, "hugepages", "/sys/kernel/mm/transparent_hugepage/enabled");
    nib_device_close(device);
}
