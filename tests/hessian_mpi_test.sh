#!/bin/bash
# Hessians of parts that three processes add up, reduced by MPI, are that of the whole. 77
# (skipped): MPI or OpenBLAS is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build}
command -v mpicc >/dev/null && command -v mpirun >/dev/null ||
    { echo "MPI (libopenmpi-dev, openmpi-bin) is not installed"; exit 77; }
printf '#include <cblas.h>\n' | "${CC:-gcc}" -E - >/dev/null 2>&1 ||
    { echo "OpenBLAS (libopenblas-dev) is not installed"; exit 77; }
make --no-print-directory BUILD="$build" CUDA=0 "$build/libnibble.a"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# mpicc has a compiler of its own, which need not know the library's.
mpicc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Iinclude tests/hessian_mpi/hessian_mpi.c \
    "$build/libnibble.a" -fopenmp -ljansson -lpthread -ldl -lm -o "$work/hessian_mpi"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # in a container one is root
export OMPI_MCA_btl_vader_single_copy_mechanism=none             # which it may not allow
export OMPI_MCA_rmaps_base_oversubscribe=1 TMPDIR=$work
run() { timeout 120 mpirun --oversubscribe -np "$1" "$work/hessian_mpi"; }
[ "$(run 3)" = "3 processes: the parts' sum is the whole" ] || { run 3; exit 1; }
[ "$(run 1)" = "1 processes: the parts' sum is the whole" ] || { run 1; exit 1; }
