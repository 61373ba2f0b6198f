#!/bin/bash
# qbench asks NVML of the GPU that it times, whatever NVML's number of it: with a libcuda and an
# NVML of this test's own, and the emulated GPUs. 77 (skipped): the emulated library is not built.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${BUILD:-build}")
emulated=$build/emulated/libnibble_cuda.so
[ -e "$emulated" ] || { echo "there is no $emulated"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $*"; exit 1; }

cat >"$work/cuda.c" <<'C'
#include <stdio.h>
int cuInit(unsigned flags) { return (int)flags; }
/* CUDA's devices 0 and 1 are the third and the first on the bus. */
int cuDeviceGetPCIBusId(char *bus, int bytes, int device)
{
    if (device > 1) return 101;
    snprintf(bus, (unsigned)bytes, "0000:%s:00.0", device ? "17" : "C3");
    return 0;
}
C
cat >"$work/nvml.c" <<'C'
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    return *device = (char *)0 + index + 1, 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device)
{
    static const char *const places[] = { "0000:17:00.0", "0000:65:00.0", "0000:C3:00.0" };
    for (int i = 0; i < 3; i++)
        if (!strcmp(bus, places[i])) return *device = (char *)0 + i + 1, 0;
    return 6;
}
int nvmlDeviceGetClockInfo(void *device, unsigned kind, unsigned *clock)
{
    return *clock = 1000 * (unsigned)((char *)device - (char *)0) + kind, 0;
}
C
compile() { "${CC:-gcc}" -shared -fPIC -w "$work/$1.c" -o "$work/$2"; }
compile cuda libcuda.so.1
compile nvml libnvidia-ml.so.1

clocks() { # LIBRARIES ARGUMENTS...
    local libraries=$1
    shift
    LD_LIBRARY_PATH=$libraries NIBBLE_CUDA_LIBRARY=$emulated "$build/qbench" amax --backend cuda \
        --rows 1 --cols 64 --cache hot --max-runs 2 --json - "$@" 2>&1
}
clocks "$work" >"$work/said"
grep -q '"clocks": *"SM 3001 of' "$work/said" || fail "device 0: $(cat "$work/said")"
CUDA_VISIBLE_DEVICES=GPU-of-that-name clocks "$work" --device 1 >"$work/said"
grep -q '"clocks": *"SM 1001 of' "$work/said" || fail "device 1: $(cat "$work/said")"
rm "$work/libcuda.so.1"
clocks "$work" >"$work/said"
grep -q '"clocks": *""' "$work/said" || fail "no driver: $(cat "$work/said")"
echo "nvml: the GPU that is timed"
