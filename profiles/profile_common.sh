# shellcheck shell=bash
# profile_common.sh: what run_ncu.sh and run_nsys.sh share. Sourced by bash, from the repo's root.
#
# set_up TOOL ARGUMENTS...: checks tool, GPU and qbench, sees that the case runs and is right, and
# opens $out, with command.txt: command, commit, driver, clocks.
name=$(basename "$0" .sh)
die() { echo "$name: $*" >&2; exit 1; }
# Decimal commas of a locale would end up in the tables.
export LC_ALL=C

set_up() {
    local tool=$1 log build=${BUILD:-build}
    shift
    command -v "$tool" >/dev/null || die "$tool is not installed, so nothing was profiled"
    nvidia-smi -L >/dev/null 2>&1 || die "nvidia-smi sees no GPU here, so nothing was profiled"
    qbench=${QBENCH:-$build/qbench}
    [ -x "$qbench" ] || die "there is no $qbench; make builds it"

    op=$1
    bench=("$qbench" "$@" --backend cuda --profile)
    out=${OUT:-$build/profiles/${name#run_}-$op-$(date -u +%Y%m%d-%H%M%S)}
    mkdir -p "$out" || die "cannot make $out"
    log=$out/qbench.txt
    "${bench[@]}" >"$log" 2>&1 ||
        die "the case does not run: $(grep -E '^qbench: ' "$log" | tail -n 1 | cut -c 1-300)"
    if ! grep -q 'NVTX range qbench@profiled' "$log"; then
        ! grep -q 'as this build has no NVTX' "$log" ||
            die "this qbench has no NVTX ranges: build it where NVTX's headers are (CUDA_HOME=)"
        die "the case does not run: $(grep -o 'not run: .*' "$log" | tail -n 1 | cut -c 1-300)"
    fi
    {
        echo "command: profiles/$name.sh $*"
        echo "commit: $(git rev-parse HEAD 2>/dev/null || echo unknown)$(
            [ -z "$(git status --porcelain 2>/dev/null)" ] || echo ', with changes')"
        echo "tool: $("$tool" --version 2>/dev/null | tail -n 1)"
        nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm \
            --format=csv,noheader | sed 's/^/gpu, driver, clocks SM, memory, most SM: /'
    } >"$out/command.txt"
}

# summarize FILES...: the tables, under what they were measured with
summarize() {
    {
        echo "# $op: ${name#run_}"
        echo
        sed 's/^/    /' "$out/command.txt"
        echo
        python3 profiles/summarize.py "$@"
    } >"$out/summary.md" || die "the exports cannot be summarized: $out"
    cat "$out/summary.md"
    echo "$name: $out/summary.md"
}
