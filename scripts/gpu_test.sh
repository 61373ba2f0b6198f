#!/bin/bash
# The tests on a real GPU, with nothing but a C compiler, make and nvcc:
#
#   scripts/gpu_test.sh build|test|sanitize      BUILD= CUDA_ARCHS= as for make
#   BUILT=1: what is there is used as it is   JOBS= (8) processes share the tests
#   TEST_SECONDS= (60) a test may last        LOGS=folder of the programs' output ($BUILD/gpu/plain)
#
# build: for this machine's GPU, or for CUDA_ARCHS. test: every test of kernels, compiled by nvcc,
# and the C suite on the CUDA backend. sanitize: both under compute-sanitizer's tools, of SANITIZERS
# (memcheck racecheck initcheck synccheck). Exit status 77: something is missing, which the last
# line names; else 1 if a test failed, and the last line counts them. Reasons of skips are told: a
# machine without cublasLt or cuSOLVER tests no exact products, Hessians or GPTQ.
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=${BUILD:-build}
cuda=$BUILD/gpu plain=$BUILD/gpu/plain
logs=${LOGS:-$plain} jobs=${JOBS:-8}
missing() { echo "gpu_test: $*, so nothing ran on a GPU"; exit 77; }

found=$(scripts/nvcc.sh)
[ "${found%% *}" = ok ] || missing "${found#no }"
read -r _ _ nvcc libdir _ <<<"$found"
export LD_LIBRARY_PATH=$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} # cublasLt and cuSOLVER
gpu=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
if [ -z "${CUDA_ARCHS:-}" ] && [ -n "$gpu" ]; then
    capability=${gpu##*, }
    case $capability in
    9.0)      CUDA_ARCHS=sm_90a ;;
    10.*)     CUDA_ARCHS=sm_100f ;;
    12.*)     CUDA_ARCHS=sm_120f ;;
    *)        CUDA_ARCHS=sm_${capability/./} ;;
    esac
fi
archs=${CUDA_ARCHS:-sm_90a}

# Another compiler may warn of more than those that the tests use: that stops nothing here.
build() {
    local jobs
    [ -z "${BUILT:-}" ] || return 0
    jobs=-j$(nproc)
    case ${MAKEFLAGS:-} in *jobserver*) jobs= ;; esac
    # shellcheck disable=SC2086 # no option, or one
    make -s $jobs cuda BUILD="$cuda" CUDA=1 CUDA_ARCHS="$archs" WERROR= &&
    make -s -k $jobs -f scripts/plain.mk gpu BUILD="$plain" NVCC="$nvcc" CUDA_ARCHS="$archs" \
        WERROR= CUDA_A="$cuda/libnibble_cuda.a" CUDART="-L$libdir -lcudart_static -lrt" >/dev/null
}

passed=0 failed=0 skipped=0
# count NAME COMMAND...: the lines of a test program, of which JOBS run side by side, each with a
# share of the tests; a crash is one more failure.
count() {
    local name=$1 log=$logs/$1.txt status=0 ok bad skip start=$SECONDS i pids=()
    shift
    for ((i = 0; i < jobs; i++)); do
        GTEST_TOTAL_SHARDS=$jobs GTEST_SHARD_INDEX=$i "$@" >"${log%.txt}.$i.txt" 2>&1 </dev/null &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || status=$?; done
    cat "${log%.txt}".[0-9]*.txt >"$log"
    rm -f "${log%.txt}".[0-9]*.txt
    ok=$(grep -cE '\[       OK \] .* \([0-9]+ ms\)$' "$log")
    bad=$(grep -cE '\[  FAILED  \] .* \([0-9]+ ms\)$' "$log")
    skip=$(grep -cE '\[  SKIPPED \] .* \([0-9]+ ms\)$' "$log")
    [ $status = 0 ] || [ "$bad" != 0 ] || bad=1
    [ $((ok + bad + skip)) != 0 ] || bad=1
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
    echo "$name: $ok passed, $bad failed, $skip skipped, $((SECONDS - start)) s, exit $status: $log"
    [ "$skip" = 0 ] || grep -hA 1 ': Skipped$' "$log" | grep -v ': Skipped$\|^--$' | sort | uniq -c
    [ "$bad" = 0 ] || grep -nE 'Failure|FAILED|ERROR SUMMARY|=========' -A 3 "$log" |
        head -n "${SHOW:-40}" | cut -c 1-300
}
suite() { # NAME [PREFIX...]: both programs
    local name=$1
    shift
    count "$name-kernels" "$@" "$plain/tests/gpu" ${FILTER:+"--gtest_filter=$FILTER"}
    NIBBLE_TEST_DEVICE=cuda NIBBLE_CUDA_LIBRARY=$(realpath "$cuda/libnibble_cuda.so") \
        count "$name-suite" "$@" "$plain/tests/all" "--gtest_filter=${FILTER:-OnDevice*}$without"
}
# Of one tool. Two tests fail on purpose, by a wild pointer and by asking for too much memory, in
# calls that the tool would count as errors of its own.
without=
sanitize() { # TOOL
    local tool=(--tool "$1" --error-exitcode 66 --target-processes all --report-api-errors no)
    without=-OnDeviceFault.WildPointer:OnDeviceFault.OutOfMemory
    case ${FILTER:-} in *-*) without=${without/-/:} ;; esac
    suite "$1" "$sanitizer" "${tool[@]}"
}
# Some machines have the program and no way to run it: virtual ones that hide the debugger's calls.
sanitizer_works() {
    local log=$plain/sanitizer.txt
    "$sanitizer" --tool memcheck "$plain/tests/gpu" --gtest_filter='EmuWarp.Reductions' >"$log" 2>&1
    grep -q 'ERROR SUMMARY: 0 errors' "$log"
}
done_counting() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ]
}

case ${1:-} in
build) build && echo "gpu_test: built for $archs in $cuda" ;;
test|sanitize)
    [ -n "$gpu" ] || missing "nvidia-smi sees no GPU here"
    build || { echo "gpu_test: not all was built"; failed=1; } # what is there is run
    echo "gpu_test: $gpu, $archs"
    mkdir -p "$logs"
    trap 'echo "gpu_test: stopped, shares are in $logs"; done_counting; exit 1' TERM INT
    if [ "$1" = test ]; then
        # Each test in a process of its own: a context that is lost takes no other test along.
        export NIB_TEST_SECONDS=${TEST_SECONDS:-60}
        suite gpu
    else
        sanitizer=$(command -v compute-sanitizer || echo "${nvcc%/*}/compute-sanitizer")
        [ -x "$sanitizer" ] || missing "compute-sanitizer is not installed"
        sanitizer_works || missing "compute-sanitizer does not work here: $plain/sanitizer.txt"
        for tool in ${SANITIZERS:-memcheck racecheck initcheck synccheck}; do
            sanitize "$tool"
        done
    fi
    done_counting ;;
*) echo "usage: scripts/gpu_test.sh build|test|sanitize" >&2; exit 2 ;;
esac
