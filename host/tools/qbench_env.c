/* qbench_env.c: what a number needs beside it to mean something: machine, compiler, commit. */
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
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
