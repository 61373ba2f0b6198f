#!/bin/bash
# profiles/: the table of predicted products; what the run scripts ask ncu and nsys for, seen by
# fakes of both that write down their arguments; what they say where something is missing; tables
# of summarize.py, from synthetic exports; that qbench --profile marks one call. Needs neither a GPU
# nor Nsight.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${BUILD:-build}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
fail() { echo "FAIL: $*"; status=1; }
golden=tests/golden/nsight

# fails LABEL PIECE COMMAND...: exit status 1, and one line that has PIECE
fails() {
    local label=$1 piece=$2 out code=0
    shift 2
    out=$("$@" 2>&1) || code=$?
    [ $code = 1 ] || fail "$label: exit status $code: $out"
    [ "$(wc -l <<<"$out")" = 1 ] || fail "$label: not one line: $out"
    case $out in *"$piece"*) ;; *) fail "$label: no '$piece' in: $out" ;; esac
}

# ---- summarize.py ----
summarize() { python3 profiles/summarize.py "$@"; }
summarize $golden/n*.csv | diff $golden/expected.md - || fail "tables differ from expected.md"
for file in $golden/n*.csv; do
    grep -q '^# SYNTHETIC' "$file" || fail "$file does not say that it is synthetic"
done
fails "missing" "no.csv: No such file" summarize "$work/no.csv"
printf 'SKIPPED: x.sqlite does not contain CUDA kernel data.\n' >"$work/empty.csv"
fails "nothing found" "it begins: SKIPPED: x.sqlite does not" summarize "$work/empty.csv"
: >"$work/zero.csv"
fails "empty" "it begins: nothing" summarize "$work/zero.csv"
printf '"ID","Kernel' >"$work/open.csv"
fails "open quote" "open.csv: is no CSV: unexpected end" summarize "$work/open.csv"
printf '\xff\xfe\n' >"$work/latin.csv"
fails "no UTF-8" "is no CSV" summarize "$work/latin.csv"
head -n 4 $golden/ncu_raw.csv >"$work/none.csv"
fails "no kernel" "no kernel was profiled" summarize "$work/none.csv"
grep -v '""' $golden/ncu_raw.csv >"$work/units.csv"
fails "no units" "no row of units" summarize "$work/units.csv"
sed '$s/"example",.*/"example"/' $golden/ncu_raw.csv >"$work/cut.csv"
fails "cut off" "cut.csv:6: 3 columns, but the header has 35" summarize "$work/cut.csv"
sed 's/"ns"/"fortnight"/' $golden/ncu_raw.csv >"$work/fortnight.csv"
fails "unit" "gpu__time_duration.sum: 'fortnight' is no unit of time" \
    summarize "$work/fortnight.csv"
sed 's/gpu__time_duration.sum/gpu__other.sum/' $golden/ncu_raw.csv >"$work/time.csv"
fails "no time" "so there is no rate" summarize "$work/time.csv"
sed 's/3000,1,3000.0/much,1,3000.0/' $golden/nsys_cuda_gpu_kern_sum.csv >"$work/much.csv"
fails "no number" "much.csv:4: 'much' is no number for Total Time (ns)" summarize "$work/much.csv"

# ---- predictions: what the page shows is what its script says ----
python3 profiles/predicted/products.py | grep -vxFf profiles/predicted/README.md &&
    fail "profiles/predicted/README.md lacks these lines of products.py"

# ---- the run scripts, with a PATH that has no tool but those that are put there ----
mkdir "$work/bin"
for tool in bash sh env basename cat cut date dirname git grep head mkdir sed tail tr; do
    ln -s "$(command -v $tool)" "$work/bin/$tool"
done
# Not what "command -v" finds, which may be a script that looks for another in PATH.
printf '#!/bin/bash\nexec %s "$@"\n' "$(python3 -c 'import sys; print(sys.executable)')" \
    >"$work/bin/python3"
chmod +x "$work/bin/python3"
script() { # NAME ARGUMENTS...
    PATH=$work/bin OUT=$work/out QBENCH=$work/qbench BUILD=$build "profiles/run_$1.sh" "${@:2}"
}
fake() { # NAME SCRIPT
    printf '#!/bin/bash\n%s\n' "$2" >"$work/$1"
    chmod +x "$work/$1"
}
for tool in ncu nsys; do
    fails "no $tool" "run_$tool: $tool is not installed, so nothing was profiled" \
        script $tool quantize
done
fake bin/ncu 'printf "%s\n" "$@" >>'"$work"'/arguments; echo --- >>'"$work"'/arguments
case $1 in
--version) echo "Version 0 (fake)" ;;
--import) cat tests/golden/nsight/ncu_"${5}".csv ;;
*) echo fake >'"$work"'/out/report.ncu-rep ;;
esac'
fake bin/nsys 'printf "%s\n" "$@" >>'"$work"'/arguments; echo --- >>'"$work"'/arguments
case $1 in
--version) echo "Version 0 (fake)" ;;
stats) cat tests/golden/nsight/nsys_"$3".csv ;;
*) echo fake >'"$work"'/out/report.nsys-rep ;;
esac'
fails "no GPU" "nvidia-smi sees no GPU here" script ncu quantize
fake bin/nvidia-smi 'echo "Example GPU, 1.0, 1 MHz, 2 MHz, 3 MHz"'
fails "no qbench" "there is no $work/qbench; make builds it" script nsys quantize
fake qbench 'echo "qbench: no CUDA device: there is no driver" >&2; exit 1'
fails "no device" "the case does not run: qbench: no CUDA device" script ncu quantize
fake qbench 'echo "not run: profiled: 3 calls, the last unmarked, as this build has no NVTX"'
fails "no NVTX" "this qbench has no NVTX ranges" script ncu quantize
fake qbench 'echo "op not run: no memory for its limit"'
fails "no memory" "the case does not run: not run: no memory" script nsys quantize
fake qbench 'echo "profiled: 3 calls, the last in NVTX range qbench@profiled; not timed"'
usage=0
PATH=$work/bin profiles/run_ncu.sh --help >/dev/null 2>&1 || usage=$?
[ $usage = 2 ] || fail "usage of run_ncu.sh: exit status $usage"

# asked LINES...: each is an argument that the tool was given, in that order
asked() {
    local at=0 line found
    for line in "$@"; do
        found=$(tail -n +$((at + 1)) "$work/arguments" | grep -nxF -m 1 -e "$line" || true)
        if [ -z "$found" ]; then
            fail "not asked for '$line' after line $at of: $(cat "$work/arguments")"
            return
        fi
        at=$((at + ${found%%:*}))
    done
}
rm -f "$work/arguments"
script ncu quantize --rows 8 --cols 64 --dtype bf16 >"$work/said" ||
    fail "run_ncu: $(cat "$work/said")"
asked --nvtx --nvtx-include "qbench@profiled/" --clock-control none --cache-control all \
    --section WarpStateStats -o "$work/out/report" "$work/qbench" quantize --rows 8 --cols 64 \
    --dtype bf16 --backend cuda --profile --no-verify --- --import --csv --page raw \
    --- --import --csv --page details
metrics=$(grep -x -m 1 'gpu__time_duration.sum,.*' "$work/arguments")
wanted=$(awk '$1 == "metric" { printf "%s%s", sep, $2; sep = " " }' \
    profiles/ncu_metrics.txt)
[ "${metrics//,/ }" = "$wanted" ] || fail "metrics: $metrics"
for piece in "# quantize: ncu" "    command: profiles/run_ncu.sh quantize --rows 8" "    commit: " \
             "tool: Version 0 (fake)" "gpu, driver, clocks SM, memory, most SM: Example GPU," \
             '| `example_b` | 1.00 | 1.0 |'; do
    grep -qF -e "$piece" "$work/out/summary.md" ||
        fail "no '$piece' in $(cat "$work/out/summary.md")"
done
rm -f "$work/arguments"
script ncu amax --cache=hot >/dev/null || fail "run_ncu, hot"
asked --cache-control none
script nsys amax --rows 8 >"$work/said" || fail "run_nsys: $(cat "$work/said")"
asked profile -t cuda,nvtx --cuda-graph-trace=node "$work/qbench" amax --backend cuda --profile \
    --- stats -r cuda_gpu_kern_sum --format csv --filter-nvtx profiled@qbench \
    --- stats -r nvtx_gpu_proj_sum
grep -qF '| `nibble:nib_quantize` | 3 | 6.00 |' "$work/out/summary.md" ||
    fail "no range in nsys' table"
fake bin/ncu 'echo "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission"; exit 1'
fails "counters" "keeps performance counters for root" script ncu quantize
fake bin/ncu 'echo "==ERROR== Failed to find metric x"; exit 1'
fails "ncu's own error" "ncu failed: ==ERROR== Failed to find metric x" script ncu quantize
rm -f "$work/out/report.ncu-rep"
fake bin/ncu 'echo "==WARNING== No kernels were profiled."'
fails "no kernel seen" "ncu saw no kernel in the range qbench@profiled" script ncu quantize

# ---- what qbench marks, seen by a profiler of the tests' own ----
recorder=$build/tests/nvtx_recorder.so
if [ -e "$recorder" ]; then
    NVTX_INJECTION64_PATH=$recorder NVTX_RECORDER_LOG=$work/log "$build/qbench" quantize_amax \
        --backend cpu --rows 16 --cols 64 --profile --no-verify >"$work/said" 2>&1 ||
        fail "qbench --profile: $(cat "$work/said")"
    marked=$(sed -n '/^push profiled@qbench/,/^pop @qbench/p' "$work/log" | tr '\n' ';')
    want="push profiled@qbench;push nib_amax@nibble;pop @nibble;push nib_quantize@nibble;"
    [ "$marked" = "${want}pop @nibble;pop @qbench;" ] || fail "marked: $marked"
    [ "$(grep -c 'push nib_quantize@nibble' "$work/log")" = 3 ] || fail "not three calls"
fi
[ $status = 0 ] && echo "profiles: all as they should be"
exit $status
