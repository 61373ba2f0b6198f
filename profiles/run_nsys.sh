#!/bin/bash
# Nsight Systems on one operation: what the CPU and the GPU do around its calls.
#
#   profiles/run_nsys.sh OP [qbench's axes]     BUILD= QBENCH= OUT=folder
#   profiles/run_nsys.sh quantize_dynamic --rows 1 --cols 4096 --dtype bf16
#
# Writes report.nsys-rep, a CSV file for each of nsys' summaries, command.txt and summary.md to OUT
# (a new folder under $BUILD/profiles). The timeline has three calls; the tables of kernels and of
# the CUDA API count the marked one alone.
set -u
cd "$(dirname "$0")/.." || exit 2
case ${1:--} in
-*) echo "usage: profiles/run_nsys.sh OP [qbench's axes]; qbench --help lists both" >&2; exit 2 ;;
esac
# shellcheck source=profiles/profile_common.sh
. profiles/profile_common.sh
set_up nsys "$@"

nsys profile -t cuda,nvtx --cuda-graph-trace=node --sample=none --cpuctxsw=none \
    --force-overwrite=true -o "$out/report" "${bench[@]}" --no-verify >"$out/nsys.txt" 2>&1 ||
    die "nsys failed: $(grep -iE 'error|fail' "$out/nsys.txt" | head -n 1 | cut -c 1-300)" \
        "($out/nsys.txt)"
[ -s "$out/report.nsys-rep" ] || die "nsys wrote no report ($out/nsys.txt)"
files=()
export_table() { # REPORT OPTIONS...
    local report=$1
    shift
    nsys stats -r "$report" --format csv --force-export=true "$@" "$out/report.nsys-rep" \
        >"$out/$report.csv" 2>>"$out/nsys.txt" ||
        die "nsys stats cannot make $report: $out/nsys.txt"
    files+=("$out/$report.csv")
}
export_table cuda_gpu_kern_sum --filter-nvtx profiled@qbench
export_table cuda_api_sum --filter-nvtx profiled@qbench
export_table nvtx_pushpop_sum
export_table nvtx_gpu_proj_sum
summarize "${files[@]}"
