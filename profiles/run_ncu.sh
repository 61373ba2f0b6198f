#!/bin/bash
# Nsight Compute on one warm call of one operation:
#
#   profiles/run_ncu.sh OP [qbench's axes]     BUILD= QBENCH= OUT=folder CLOCKS=none|base
#   profiles/run_ncu.sh quantize --rows 8192 --cols 8192 --dtype bf16 --format nvfp4
#
# Writes report.ncu-rep, raw.csv, details.csv, command.txt and summary.md to OUT (a new folder
# under $BUILD/profiles). Caches are cold, as ncu empties them, but for --cache hot. CLOCKS=none:
# the clocks are left alone, as when the kernel is used; ncu's own default, base, locks them lower,
# which makes runs alike but not like qbench's, and needs rights that containers often lack.
set -u
cd "$(dirname "$0")/.." || exit 2
case ${1:--} in
-*) echo "usage: profiles/run_ncu.sh OP [qbench's axes]; qbench --help lists both" >&2; exit 2 ;;
esac
# shellcheck source=profiles/profile_common.sh
. profiles/profile_common.sh
set_up ncu "$@"

metrics='' sections=()
while read -r kind item _; do
    case $kind in
    metric)  metrics+=${metrics:+,}$item ;;
    section) sections+=(--section "$item") ;;
    esac
done <profiles/ncu_metrics.txt
flush=all
case " ${*//=/ } " in *" --cache hot "*|*" --cache none "*) flush=none ;; esac

# The slash says push/pop range; without it ncu looks for start/end ranges and finds none.
ncu --nvtx --nvtx-include "qbench@profiled/" --clock-control "${CLOCKS:-none}" \
    --cache-control "$flush" "${sections[@]}" --metrics "$metrics" --import-source yes -f \
    -o "$out/report" "${bench[@]}" --no-verify >"$out/ncu.txt" 2>&1 || {
    if grep -q ERR_NVGPUCTRPERM "$out/ncu.txt"; then
        die "the driver keeps performance counters for root (ERR_NVGPUCTRPERM)," \
            "see profiles/README.md"
    fi
    die "ncu failed: $(grep -E '==ERROR==' "$out/ncu.txt" | head -n 1 | cut -c 1-300)" \
        "($out/ncu.txt)"
}
[ -s "$out/report.ncu-rep" ] || die "ncu saw no kernel in the range qbench@profiled ($out/ncu.txt)"
for page in raw details; do
    ncu --import "$out/report.ncu-rep" --csv --page $page --print-units base >"$out/$page.csv" ||
        die "ncu cannot export its report: $out"
done
summarize "$out/raw.csv"
