#!/bin/bash
# Everything that only a GPU can show, within SECONDS_LEFT (540) on a machine with a GPU, nvcc, gcc
# and make, and no network:
#
#   scripts/gpu_run.sh OUT        builds, tests, measures, sanitizes; logs and results in OUT
#   scripts/gpu_run.sh --build    builds all that it would run, for CUDA_ARCHS (sm_90a)
#
# ROWS=file: what is measured (profiles/standard_rows.txt), by qbench with TIMES= ("--max-time 2"),
# at most ROW_SECONDS (120) a line, until RESERVE (60) seconds are left. PROFILES=file: what Nsight
# Compute looks at last (profiles/profiled_rows.txt). STEPS=: some of "build test measure sanitize
# profile". BACKEND=cpu|emulated: the same without a GPU, tests by run_tests.sh; "make evidence",
# which makes one bundle of OUT, marks it so.
#
# qbench reads JSON by jansson: JANSSON=folder has jansson.h, jansson_config.h and libjansson.a,
# where the system has no package of it or qbench is to be carried elsewhere; without either nothing
# is measured. BUILT=1: what is there is run as it is. NIB_COMMIT=: where there is no git to say it.
# Exit status: 0 all passed, 1 something failed, 77 there is no GPU or no nvcc.
set -u
cd "$(dirname "$0")/.." || exit 2
[ $# = 1 ] || { echo "usage: scripts/gpu_run.sh OUT|--build" >&2; exit 2; }
export BUILD=${BUILD:-build}
limit=${SECONDS_LEFT:-540}
left() { echo $((limit - SECONDS > 10 ? limit - SECONDS : 10)); }
rows=${ROWS:-profiles/standard_rows.txt}
backend=${BACKEND:-cuda}
bench=$BUILD/gpu/qbench emulator=$BUILD/emulated100/libnibble_cuda.so
case $backend in
cuda)     ;;
cpu)      bench=$BUILD/qbench ;;
emulated) bench=$BUILD/qbench; NIBBLE_CUDA_LIBRARY=$(realpath -m "$emulator")
          export NIBBLE_CUDA_LIBRARY ;;
*)        echo "gpu_run: BACKEND=$backend: cuda, cpu or emulated" >&2; exit 2 ;;
esac
read -r _ _ _ libdir _ <<<"$(scripts/nvcc.sh)"
export LD_LIBRARY_PATH=${libdir:-}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ -r "$rows" ] || { echo "gpu_run: cannot read ROWS=$rows" >&2; exit 2; }

build_qbench() {
    local flags=()
    if [ -n "${JANSSON:-}" ] || ! echo '#include <jansson.h>' | gcc -E - >/dev/null 2>&1; then
        if [ ! -e "${JANSSON:-/nowhere}/jansson.h" ]; then
            echo "gpu_run: no jansson, so no qbench"
            return 0
        fi
        flags=("CPPFLAGS=-I$JANSSON" "LDFLAGS=-L$JANSSON")
    fi
    make -s -j"$(nproc)" "$bench" BUILD="$BUILD/gpu" CUDA=0 WERROR= "${flags[@]}"
}

if [ "$1" = --build ]; then
    CUDA_ARCHS=${CUDA_ARCHS:-sm_90a} scripts/gpu_test.sh build && build_qbench
    exit
fi

out=$1 status=0
mkdir -p "$out" || exit 2
{
    date -u
    changes=$(git status --porcelain 2>/dev/null | wc -l)
    echo "commit ${NIB_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}," \
        "$changes files changed"
    uname -srm; grep -m 1 'model name' /proc/cpuinfo; nproc; gcc --version | head -n 1
    grep -E 'MemTotal|MemAvailable' /proc/meminfo
    if [ "$backend" = cuda ]; then
        nvcc --version
        nvidia-smi | sed '/Processes/,$d' # what else runs there is nobody's business
        nvidia-smi -q -d CLOCK,PERFORMANCE,POWER,TEMPERATURE,ECC,COMPUTE
        echo "libraries that products and GPTQ open, in $libdir or known to ldconfig:"
        { ls "$libdir"; ldconfig -p; } | grep -oE 'lib(cublasLt|cusolver)\.so\.[0-9]+' | sort -u
    fi
} >"$out/machine.txt" 2>&1

# step LOG COMMAND...: in what is left of the time, or in most seconds
step() {
    local log=$out/$1 code=0 start=$SECONDS
    shift
    timeout -k 5 "${most:-$(left)}" "$@" >>"$log" 2>&1 || code=$?
    echo "$* : exit $code, $((SECONDS - start)) s: $(tail -n 1 "$log" | cut -c 1-160)" |
        tee -a "$out/summary.txt"
    [ $code = 0 ] || [ $code = 77 ] || status=1
    return $code
}
export -f build_qbench
export bench LOGS=$out

steps=${STEPS:-build test measure sanitize profile}
wanted() { case " $steps " in *" $1 "*) ;; *) return 1 ;; esac; }

test_step() { # LOG test|sanitize
    if [ "$backend" = cuda ]; then
        step "$1" env SANITIZERS="${3:-}" scripts/gpu_test.sh "$2"
    else
        step "$1" scripts/run_tests.sh "${2/test/check}"
    fi
}
if wanted build && [ "$backend" = cuda ]; then
    step build.txt scripts/gpu_test.sh build && export BUILT=1
    step build.txt bash -c build_qbench
elif wanted build; then
    library=$emulator
    [ "$backend" = emulated ] || library=
    step build.txt make -s -j"$(nproc)" "$bench" ${library:+"$library"} CUDA=0
fi
# Tests may take half of what is left: a suite that hangs must not cost the figures.
if wanted test; then
    most=$(($(left) / 2))
    wanted measure || most=
    test_step test.txt test || [ $? != 77 ] || exit 77
    most=
fi

# Each line of ROWS: its rows are added to qbench.txt, and are NAME.json.
measure() { # NAME BAR ARGUMENTS...
    local name=$1 most=${ROW_SECONDS:-120}
    shift 2
    [ "$most" -lt "$(left)" ] || most=$(left)
    [ -x "$bench" ] && [ "$(left)" -gt "${RESERVE:-60}" ] || return 0
    # shellcheck disable=SC2086 # words
    step qbench.txt "$bench" "$@" --backend "${backend/emulated/cuda}" \
        ${TIMES:---max-time 2} --json "$out/$name.json" </dev/null
}
if wanted measure; then
    while read -r line; do
        # shellcheck disable=SC2086 # words
        case $line in ''|'#'*) ;; *) measure $line ;; esac
    done <"$rows"
fi

# What is left goes to the sanitizers, which make a kernel tens of times slower.
tools=${SANITIZERS:-memcheck racecheck initcheck synccheck}
[ "$backend" = cuda ] || tools="of-the-compiler"
for tool in $tools; do
    wanted sanitize || break
    [ "$(left)" -gt 20 ] || { echo "$tool: no time left" | tee -a "$out/summary.txt"; continue; }
    most=$(($(left) / 2))
    test_step sanitize.txt sanitize "$tool"
done
# Each line of PROFILES, NAME ARGUMENTS...: what ncu sees of one call, in NAME/.
if wanted profile && [ "$backend" = cuda ] && command -v ncu >/dev/null; then
    while read -r name line; do
        case $name in ''|'#'*) continue ;; esac
        [ "$(left)" -gt 25 ] || { echo "ncu $name: no time left" >>"$out/summary.txt"; continue; }
        most=60
        [ "$most" -lt "$(left)" ] || most=$(left)
        # shellcheck disable=SC2086 # words
        step ncu.txt env OUT="$out/ncu-$name" QBENCH="$bench" profiles/run_ncu.sh $line </dev/null
    done <"${PROFILES:-profiles/profiled_rows.txt}"
fi
echo "gpu_run: $SECONDS s, $([ $status = 0 ] && echo all passed || echo something failed): $out"
exit $status
