#!/bin/bash
# One bundle of evidence from this machine: the suite and the sanitizers on its GPU, the standard
# rows of qbench, what they were measured with. All by scripts/gpu_run.sh, without its time limit.
#
#   scripts/evidence.sh       BUILD= SECONDS_LEFT= ROWS= STEPS= as for gpu_run.sh
#   BACKEND=cpu               without a GPU, of the CPU kernels alone; the bundle says so
#   BACKEND=emulated          the CUDA kernels on the CPU emulator: to try this script; says so too
#
# Leaves $BUILD/evidence-<gpu>-<commit>.tar.gz, whose summary.md is for people. Exit status 1: there
# is nothing to run on, or a step failed, which the bundle then shows.
set -u
cd "$(dirname "$0")/.." || exit 2
die() { echo "evidence: $*" >&2; exit 1; }
export BUILD=${BUILD:-build} BACKEND=${BACKEND:-cuda} SECONDS_LEFT=${SECONDS_LEFT:-86400}
export ROWS=${ROWS:-profiles/standard_rows.txt}

case $BACKEND in
cuda)
    other="; BACKEND=cpu makes a bundle of the CPU alone"
    machine=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
    [ -n "$machine" ] || die "nvidia-smi sees no GPU here$other"
    found=$(scripts/nvcc.sh)
    [ "${found%% *}" = ok ] || die "${found#no }, so no kernel can be built for the GPU$other" ;;
cpu)      machine=cpu-$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1) ;;
emulated) machine=emulated ;;
*)        die "BACKEND=$BACKEND: cuda, cpu or emulated" ;;
esac
command -v python3 >/dev/null || die "python3 is not installed, which writes the summary"

commit=${NIB_COMMIT:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit+=-changed
machine=$(tr '[:upper:] ' '[:lower:]-' <<<"$machine" | tr -cd 'a-z0-9.\n-')
bundle=evidence-${machine:-unknown}-$commit
out=$BUILD/$bundle
rm -rf "$out" "$out.tar.gz"
mkdir -p "$out" || exit 2

status=0
scripts/gpu_run.sh "$out" || status=1
cp "$ROWS" "$out/rows.txt"
python3 scripts/evidence_summary.py "$out" "$BACKEND" >"$out/summary.md" || status=1
tar -C "$BUILD" -czf "$out.tar.gz" "$bundle" || die "cannot write $out.tar.gz"
cat "$out/summary.md"
echo "evidence: $out.tar.gz$([ $status = 0 ] || echo ', in which something failed')"
exit $status
