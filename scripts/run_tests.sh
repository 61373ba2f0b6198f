#!/bin/bash
# Runs groups of tests and sums them up:
#
#   scripts/run_tests.sh check|test|cuda|sanitize|full|fuzz|aarch64 ...
#
# BUILD, CC, CXX as for make. FUZZ_SECONDS for each fuzzer (60). FULL_PART=N runs one of the
# parts of "full", the N-th modulo their number. Each check that is not a Google Test counts as
# one test; exit status 77 means skipped. Logs go to $BUILD/test-logs.
set -u
cd "$(dirname "$0")/.." || exit 2
export BUILD=${BUILD:-build} CC=${CC:-gcc} CXX=${CXX:-g++}
# Threads that wait for others leave the core to the next test's.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
logs=$(realpath -m "$BUILD/test-logs")
cores=$(nproc 2>/dev/null || echo 2)
passed=0 failed=0 skipped=0
mkdir -p "$logs"
trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM

# cpu: sets $cpu to the processors' seconds of this shell's ended children, which, unlike the
# clock's, other work on the machine does not add to. In /proc they are hundredths.
cpu() {
    local stat
    read -ra stat <"/proc/$BASHPID/stat"
    cpu=$(((stat[15] + stat[16]) / 100))
}

say() { printf '%-4s  %-38s %5s s %5s CPU s%s\n' "${@:1:4}" "${5:+   $5}"; }

show_log() { # the end of a log, where the reason is
    tail -n 40 "$1" | cut -c 1-400 | sed 's/^/      | /'
    echo "      | ($1)"
}

# run NAME COMMAND...: one test, judged by its exit status, which count() adds up.
run() {
    local name=$1 log start=$SECONDS status=0 cpu before
    shift
    log=$logs/${name//[ \/]/_}.txt
    cpu; before=$cpu
    "$@" >"$log" 2>&1 </dev/null || status=$?
    cpu; set -- $((SECONDS - start)) $((cpu - before))
    case $status in
    0)  say ok "$name" "$@" ;;
    77) say skip "$name" "$@" "$(tail -n 1 "$log")" ;;
    *)  say FAIL "$name" "$@"; show_log "$log" ;;
    esac
    return $status
}
count() {
    case $1 in
    0)  passed=$((passed + 1)) ;;
    77) skipped=$((skipped + 1)) ;;
    *)  failed=$((failed + 1)) ;;
    esac
}
step() { # NAME COMMAND...
    local status=0
    run "$@" || status=$?
    count $status
    return $status
}

# begin NAME COMMAND...: a step beside others, as many at a time as there are cores: of those that
# write to no file in common. end_begun waits for all.
begun=() beside=0
begin() {
    while [ $beside -ge "$cores" ]; do
        wait -n
        beside=$((beside - 1))
    done
    begun+=("$logs/${1//[ \/]/_}.status")
    rm -f "${begun[-1]}"
    { local status=0; run "$@" || status=$?; echo $status >"${begun[-1]}"; } &
    beside=$((beside + 1))
}
end_begun() {
    local file
    wait
    for file in ${begun[@]+"${begun[@]}"}; do
        count "$(cat "$file" 2>/dev/null || echo 1)"
        rm -f "$file"
    done
    begun=() beside=0
}

# build NAME MAKE-ARGUMENTS...: a step that may use all cores.
build() {
    local name=$1
    shift
    case ${MAKEFLAGS:-} in
    *jobserver*) step "$name" make "$@" ;;
    *)           step "$name" make -j"$cores" "$@" ;;
    esac
}

# suite NAME COMMAND...: many tests, in as many processes at a time as there are cores, and several
# times as many in all: those that drew short tests take more of them.
suite() {
    local name=$1 log start=$SECONDS status=0 code crashed=0 shard shards=$((8 * cores)) running=0
    local ok bad skip cpu before
    shift
    cpu; before=$cpu
    log=$logs/${name//[ \/]/_}.txt
    for ((shard = 0; shard < shards; shard++)); do
        if [ $running -ge "$cores" ]; then wait -n; running=$((running - 1)); fi
        {
            GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard GTEST_COLOR=no \
                "$@" >"$log.$shard" 2>&1 </dev/null &
            trap 'kill $!' TERM
            wait $!
            echo $? >"$log.$shard.status"
        } 2>/dev/null &
        running=$((running + 1))
    done
    wait
    for ((shard = 0; shard < shards; shard++)); do
        code=$(cat "$log.$shard.status" 2>/dev/null || echo 1)
        [ "$code" -lt 128 ] || crashed=$((crashed + 1)) # a signal
        [ "$code" = 0 ] || status=$code
    done
    for ((shard = 0; shard < shards; shard++)); do
        cat "$log.$shard"
        rm -f "$log.$shard" "$log.$shard.status"
    done >"$log"
    # Counts each test's own line: a crash leaves no summary.
    ok=$(grep -cE '\[       OK \] .* \([0-9]+ ms\)$' "$log")
    bad=$(grep -cE '\[  FAILED  \] .* \([0-9]+ ms\)$' "$log")
    skip=$(grep -cE '\[  SKIPPED \] .* \([0-9]+ ms\)$' "$log")
    bad=$((bad + crashed))
    [ $status = 0 ] || [ "$bad" != 0 ] || bad=1
    [ $((ok + bad + skip)) != 0 ] || bad=1
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
    cpu; set -- $((SECONDS - start)) $((cpu - before))
    if [ "$bad" = 0 ]; then
        say ok "$name" "$@" "$ok passed, $skip skipped"
    else
        say FAIL "$name" "$@" "$ok passed, $bad failed, $skip skipped"
        grep -nE -B 8 '\[  FAILED  \] .* \([0-9]+ ms\)$|ERROR: |runtime error' "$log" |
            head -n 60 | cut -c 1-400 | sed 's/^/      | /'
        [ $status -lt 2 ] || show_log "$log"
    fi
}

style_checks() {
    local check
    for check in scripts/checks/check_*.sh; do
        begin "$(basename "$check" .sh)" "$check"
    done
    begin "checks see seeded faults" scripts/checks/selftest.sh
    end_begun
}

# filter ALL LEFT-OUT...: Google Test's, of the tests in $only, or ALL, without those in each list.
only=
filter() {
    local list out=
    for list in "${@:2}"; do out+=${list:+:$list}; done
    echo "${only:-$1}${out:+-${out#:}}"
}

# The C suite on a CUDA device, and where there is none: tests/device_fixture.h.
on_cuda() { # NAME FOLDER LIBRARY LEFT-OUT...
    NIBBLE_TEST_DEVICE=cuda NIBBLE_CUDA_LIBRARY=$(realpath "$3") \
        suite "$1" "$2/tests/all" --gtest_filter="$(filter "OnDevice*" "${@:4}")"
}
# Tests of kernels, and that suite, on the emulator. A sanitizer, NAME, ends the program at a bad
# access, which the emulator alone takes for a fault of the device. On sm_100 the long tests of
# kernels that are the same objects for both targets (EMU_BY_TARGET) are left to "full".
one_for_both="CudaGptq.*:CudaHessian.*:StepsEmu.*:StepCodesEmu.*:ObserveEmu.*:OnDeviceGptq*:\
OnDeviceHessian*:OnDeviceSteps.*:OnDeviceStepCodes.*:OnDeviceObserve.*:OnDeviceStats.*"
on_emulator() { # FOLDER TARGET SCHEDULE [NAME [LEFT-OUT]]: 80 has no hardware conversions, 100 does
    local same=
    [ "$2" = 80 ] || same=$one_for_both
    NIB_EMU_REPORT=$logs/kernels_emulated NIB_EMU_SCHEDULE=$3 \
        suite "kernels, emulated sm_$2, $3${4:+, $4}" "$1/tests/emulated${2#80}" \
            --gtest_filter="$(filter "*" "$same" "${5:-}")"
    on_emulated "$@"
}
kernels_emulated() {
    echo "      $(sort -u "$logs/kernels_emulated" | wc -l) kernels ran on the emulator:" \
        "$logs/kernels_emulated"
}
on_emulated() {
    local library=$1/emulated${2#80}/libnibble_cuda.so same=
    [ -e "$library" ] || return 0
    [ "$2" = 80 ] || same=$one_for_both
    NIB_EMU_REPORT=$logs/kernels_emulated NIB_EMU_SCHEDULE=$3 \
        on_cuda "suite on emulated cuda, sm_$2, $3${4:+, $4}" "$1" "$library" "$same" "${5:-}" \
            "${4:+OnDeviceFault.WildPointer}"
}
cuda_done=
# nvcc's build takes half as long as all of "test", which leaves it out where there is no GPU.
group_cuda() {
    local script
    [ -z "$cuda_done" ] || return 0
    cuda_done=1
    if [ "$(scripts/nvcc.sh | head -c 2)" != ok ]; then
        step "CUDA build" skipped "nvcc 12.8 or later is missing"
        return
    fi
    build "CUDA build" all CUDA=1 || return
    for script in cuda_gates cuda_library install; do
        CUDA=1 begin "${script}_test, with CUDA" "tests/${script}_test.sh"
    done
    end_begun
    if nvidia-smi -L >/dev/null 2>&1; then
        on_cuda "suite on cuda" "$BUILD" "$BUILD/libnibble_cuda.so"
    else
        step "suite on cuda" skipped "this machine has no GPU"
    fi
}
skipped() { echo "$1"; return 77; }
# clang runs no kernel of the emulator's: it only has to take them, for which it need not optimise.
with_clang=(CC=clang CXX=clang++ WERROR=-Werror CFLAGS=-O2 CXXFLAGS=-O0 EMU_SHARE=0 CUDA=0)
cpu_suite() { # NAME LEFT-OUT COMMAND...: without graphs and faults, which the CPU does not have
    suite "$1" "${@:3}" --gtest_filter="$(filter "*" "OnDeviceGraph.*:OnDeviceFault.*" "$2")"
}

group_check() {
    if build "build" all tests CUDA=0; then
        cpu_suite "test suite" "" "$BUILD/tests/all"
        rm -f "$logs/kernels_emulated"
        on_emulator "$BUILD" 80 forward
        on_emulator "$BUILD" 100 skew
        kernels_emulated
    fi
    style_checks
}

group_test() {
    local script scripts="tests/cuda_gates_test.sh" # of group_cuda
    group_check
    local wanted=${CUDA:-auto}
    local -x CUDA=0
    for script in tests/{emu_bugs,kernel_bugs,qat_demo}_test.sh tests/*_test.sh; do
        case " $scripts " in *" $script "*) continue ;; esac # the longest came first
        scripts+=" $script"
        begin "$(basename "$script" .sh)" "$script"
    done
    end_begun
    step "symbols" scripts/abi/symbols.sh "$BUILD"
    step "abi" scripts/abi/abi.sh check "$BUILD/libnibble.so"
    build "build with clang" all suite BUILD="$BUILD/clang" "${with_clang[@]}"
    build "build without packages" -f scripts/plain.mk BUILD="$BUILD/plain" OPT=-O0 \
        "$BUILD/plain/tests/all"
    aarch64_arithmetic "$slow_on_aarch64"
    if [ "$wanted" != 0 ] && nvidia-smi -L >/dev/null 2>&1; then CUDA=$wanted group_cuda; fi
}

# Cross-compiled, under qemu. The arithmetic is a part of test, but for what takes 10 seconds and
# more; that and the kernels are one of test-full.
slow_on_aarch64="OnDeviceGemm.*:OnDeviceGemmBackward.*:OnDeviceGemmFar.*:OnDeviceGemmPlan.*:\
OnDeviceGemmValue.*:Search.LossAgainst*:OnDeviceFakequant.OutputsOf*:OnDeviceStats.PartialSums*:\
OnDeviceCalibrate.As*:OnDeviceExact.Every16Bit*:OnDeviceEquality.EveryFormatPreset*"
on_aarch64() { # TEST-PROGRAM...
    build "build for aarch64" -f scripts/plain.mk "${@/#/$BUILD/aarch64/tests/}" \
        BUILD="$BUILD/aarch64" STATIC=-static CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++
}
aarch64_arithmetic() { # LEFT-OUT
    on_aarch64 all &&
        cpu_suite "arithmetic on aarch64" "$1" qemu-aarch64 "$BUILD/aarch64/tests/all"
}
aarch64_kernels() {
    on_aarch64 emulated &&
        suite "kernels, emulated, on aarch64" qemu-aarch64 "$BUILD/aarch64/tests/emulated"
}
group_aarch64() {
    aarch64_arithmetic ""
    aarch64_kernels
}

# tests/emu_bugs_test.sh builds some of it before, with the same flags. -O1: what gcc takes to
# compile these checks at -O2 is five times as long where loops are long. The tests that take most
# of the time so, and the emulated sm_100, are one of test-full.
build_sanitized() { # TARGET...
    local checks="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    build "build with sanitizers" "$@" BUILD="$BUILD/sanitize" CFLAGS="-O1 -g" SAN="$checks" CUDA=0
}
sanitized_suite() { # LEFT-OUT
    ASAN_OPTIONS=detect_stack_use_after_return=1 \
        cpu_suite "test suite, sanitized" "$1" "$BUILD/sanitize/tests/all"
}
slow_sanitized="TransformEmu.NormsOfWholeRows:TransformEmu.RowsThatAreReadTwice:CudaGptq.IsTheCpus:\
CudaGptq.TakesIntegers:CudaBench.ArithmeticCounts*:FakeQuantEmu.ThreadsTake*:StepsEmu.BlocksTake*:\
OnDeviceGptqScales.HessianSearchIsExact:OnDeviceGptqSteps.EveryElementAndGroup:\
OnDeviceGptqSteps.LargerThanOneTile:OnDeviceEquality.MoreRows*:OnDeviceEquality.EveryFormatPreset*:\
OnDeviceGemmPlan.BatchInvariant*:OnDeviceBatch.MoreMatrices*:OnDeviceStats.PartialSums*:\
OnDeviceTransform.LongRowsAndManyRows:Qbench.WrongUsage*:OnDeviceGptqLoss.*:\
OnDeviceGptqSteps.Loss*:OnDeviceGptqScales.Loss*:Search.LossAgainst*"
group_sanitize() {
    build_sanitized suite "$BUILD/sanitize/"{tests/emulated,emulated/libnibble_cuda.so} &&
        sanitized_suite "$slow_sanitized" &&
        on_emulator "$BUILD/sanitize" 80 random sanitized "$slow_sanitized"
}
full_sanitized() {
    build_sanitized tests || return
    on_emulator "$BUILD/sanitize" 100 reverse sanitized "$slow_sanitized"
    local only=$slow_sanitized
    sanitized_suite "" && on_emulator "$BUILD/sanitize" 80 random sanitized
}

# A suite built again with other means: the bits must stay. The emulated backend, for tests of
# qbench, is C++, whose flags do not change.
other() { # NAME FOLDER MAKE-ARGUMENTS...
    local name=$1 folder=$BUILD/$2
    shift 2
    build "build" "$BUILD/emulated/libnibble_cuda.so" CUDA=0 || return
    mkdir -p "$folder/emulated"
    ln -sf "$(realpath "$BUILD/emulated/libnibble_cuda.so")" "$folder/emulated/"
    build "build, $name" suite BUILD="$folder" WERROR= "$@" &&
        cpu_suite "test suite, $name" "" "$folder/tests/all"
}
full_clang() {
    build "build, clang" all tests BUILD="$BUILD/clang" "${with_clang[@]}" || return
    step "one object for both targets" scripts/checks/emu_targets.sh "$BUILD/clang" \
        gptq hessian steps step_codes observe tensor_stats # one_for_both
    cpu_suite "test suite, clang" "" "$BUILD/clang/tests/all"
}
full_native() {
    other "-O3 -march=native" native CFLAGS="-O3 -march=native"
    step "build for a GPU" env CUDA_ARCHS=sm_90a BUILD="$BUILD/for-gpu" scripts/gpu_test.sh build
}
full_plain()   { other "-O0" O0 CFLAGS=-O0; }
full_threads() {
    build "build" tests || return
    OMP_NUM_THREADS=1 cpu_suite "test suite, 1 thread" "" "$BUILD/tests/all"
    OMP_NUM_THREADS=7 cpu_suite "test suite, 7 threads" "" "$BUILD/tests/all"
}
full_aarch64() { group_aarch64; }
# clang's OpenMP tells the thread sanitizer about its barriers; gcc's does not. The sanitizer
# starts by writing a file of its own that is larger than FullDisk's limit lets any file be.
build_tsan() {
    build "build, thread sanitizer" "$@" BUILD="$BUILD/tsan" CC=clang CXX=clang++ WERROR= CUDA=0 \
        SAN=-fsanitize=thread
}
full_tsan() {
    build_tsan suite "$BUILD/tsan/emulated/libnibble_cuda.so" &&
        TSAN_OPTIONS="ignore_noninstrumented_modules=1" OMP_NUM_THREADS=4 \
            suite "test suite, thread sanitizer" "$BUILD/tsan/tests/all" --gtest_filter="\
-NibbleKill.FullDiskIsSaidAndCanBeMended:OnDeviceGraph.*:OnDeviceFault.*"
}
full_tsan_emulator() {
    build_tsan "$BUILD/tsan/tests/"{all,emulated} "$BUILD/tsan/emulated/libnibble_cuda.so" &&
        OMP_NUM_THREADS=1 on_emulator "$BUILD/tsan" 80 random "thread sanitizer"
}
full_floats() {
    build "build" tests || return
    NIB_TEST_FULL=1 suite "every f32, and 100 kills" "$BUILD/tests/all" \
        --gtest_filter='*AllFloats*:NibbleKill.*'
    NIB_TEST_FULL=1 suite "every f32, emulated conversions" "$BUILD/tests/emulated" \
        --gtest_filter='*AllFloats*'
}
all_schedules() { # TARGET
    local schedule one_for_both=
    build "build" tests || return
    for schedule in forward reverse random skew; do
        on_emulator "$BUILD" "$1" $schedule
    done
}
full_emulator80() { # sm_90 too, which has wgmma: the same library
    all_schedules 80
    NIB_EMU_INJECT=sm=90 NIB_EMU_SCHEDULE=random on_cuda "suite on emulated cuda, sm_90, random" \
        "$BUILD" "$BUILD/emulated/libnibble_cuda.so"
}
full_emulator100() { all_schedules 100; }
# Every seeded bug, the thread sanitizer as race checker among the means.
full_emu_bugs() { EMU_BUGS=all step "emu_bugs_test, all means" tests/emu_bugs_test.sh; }
kernel_bugs() {
    KERNEL_BUGS=$1 step "kernel_bugs_test, $1" tests/kernel_bugs_test.sh
}
full_bugs1()     { kernel_bugs 1/3; }
full_bugs2()     { kernel_bugs 2/3; }
full_bugs3()     { kernel_bugs 3/3; }
full_bugs_tsan() { kernel_bugs tsan; }
# Parts of some 20 minutes at most, so that CI can take its turn with one in each run.
full_parts=(clang native plain threads aarch64 sanitized tsan tsan_emulator floats emulator80
            emulator100 emu_bugs bugs1 bugs2 bugs3 bugs_tsan)
group_full() {
    local parts=("${full_parts[@]}") part
    if [ -n "${FULL_PART:-}" ]; then
        parts=("${parts[FULL_PART % ${#parts[@]}]}")
    fi
    for part in "${parts[@]}"; do "full_$part"; done
}

# Runs one fuzzer from its seeds, tests/fuzz/corpus/X for X_fuzz.c; what it finds stays in BUILD.
fuzz_one() {
    local stem=$1 folder=$BUILD/fuzz seconds=${FUZZ_SECONDS:-60}
    local seeds=tests/fuzz/corpus/${stem%_fuzz}
    mkdir -p "$folder/corpus/$stem" "$folder/crashes"
    set -- "$folder/corpus/$stem"
    [ ! -d "$seeds" ] || set -- "$@" "$seeds"
    OMP_NUM_THREADS=1 "$folder/$stem" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$folder/crashes/$stem-" "$@"
}
group_fuzz() {
    local source stem stems=()
    # WERROR=: clang warns that loops with instruments in them do not become vectors. Fuzzers read
    # files: kernels, with whose loops and these checks clang takes minutes, do without.
    build "build fuzzers" fuzzers BUILD="$BUILD/fuzz" CC=clang CXX=clang++ WERROR= \
        KERNEL_CFLAGS=-fno-sanitize=undefined \
        SAN="-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all" || return
    for source in tests/fuzz/*_fuzz.c; do
        [ ! -e "$source" ] || stems+=("$(basename "$source" .c)")
    done
    for stem in ${stems[@]+"${stems[@]}"}; do
        begin "fuzz ${stem%_fuzz}, ${FUZZ_SECONDS:-60} s" fuzz_one "$stem"
    done
    end_begun
}

for group in "$@"; do
    case $group in
    check|test|cuda|sanitize|full|fuzz|aarch64) "group_$group" ;;
    *)
        echo "run_tests: no group '$group': check, test, cuda, sanitize, full, fuzz, aarch64" >&2
        exit 2 ;;
    esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] && [ $((passed + skipped)) != 0 ]
