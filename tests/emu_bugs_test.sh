#!/bin/bash
# Every seeded bug of tests/emu/seeded_kernels.cu is caught by the means that the table names, and
# the kernel without a bug by none. EMU_BUGS=all adds the thread sanitizer.
#
# Each row: bug, then the means that must catch it, each as it is or followed by "=pattern" that
# grep must find in its output. forward reverse random skew are schedules; asan is the address
# and the undefined-behaviour sanitizer, tsan the thread sanitizer.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
schedules="forward reverse random skew"
table="
no_barrier_after_wait    forward random tsan=race
no_barrier_before_reuse  skew tsan=race
wait_for_too_few         forward reverse random skew
no_wait                  forward reverse random skew
no_commit                forward reverse random skew
cp_async_misaligned      forward=aligned reverse=aligned random=aligned skew=aligned
lane_skips_mma           forward reverse random skew
wrong_fragment           forward reverse random skew
ldmatrix_outside         forward=outside reverse=outside random=outside skew=outside
mask_names_ended_lanes   forward reverse random skew
caller_not_in_mask       forward=lacks reverse=lacks random=lacks skew=lacks
shuffle_too_narrow       forward reverse random skew
no_syncwarp              tsan=race
partial_not_written      forward reverse random skew
warps_share_a_slot       forward tsan=race
warp_skips_barrier       forward reverse random skew
barrier_in_two_places    forward=places reverse=places random=places skew=places
barrier_counts_too_many  forward=expects reverse=expects random=expects skew
mbarrier_counts_too_many forward=deadlock reverse=deadlock random=deadlock skew=deadlock
mbarrier_wrong_parity    tsan=race
shared_overrun           asan=overflow\|bounds
dynamic_overrun          asan=heap-buffer-overflow
global_overrun           asan=heap-buffer-overflow
vector_misaligned        asan=misaligned
relaxed_arrival          tsan=race
blocks_share_a_word      tsan=race
"
passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

program_for() {
    case $1 in
    asan) echo "$build/sanitize/tests/emulator" ;;
    tsan) echo "$build/emu-tsan/tests/emulator" ;;
    *)    echo "$build/tests/emulator" ;;
    esac
}

# run BUG MEANS: the seeded kernel's exit status, its output in the log.
run() {
    local schedule=$2
    case $schedule in asan|tsan) schedule=forward ;; esac
    NIB_EMU_BUG=$1 NIB_EMU_SCHEDULE=$schedule TSAN_OPTIONS="exitcode=66 halt_on_error=1" \
        timeout 120 "$(program_for "$2")" --gtest_filter='EmuSeeded.*' >"$log" 2>&1
}

verdict() { # OK TEXT
    if [ "$1" = 1 ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAIL $2"
    grep -vE '^(\[|Running|Note|$)' "$log" | head -n 12 | cut -c 1-300 | sed 's/^/    | /'
}

other_builds="asan"
[ "${EMU_BUGS:-}" != all ] || other_builds="asan tsan"
jobs=-j2
case ${MAKEFLAGS:-} in *jobserver*) jobs= ;; esac
checks="-fno-sanitize-recover=all -fno-omit-frame-pointer"
for means in $other_builds; do
    case $means in
    asan) make -s $jobs "$(program_for asan)" BUILD="$build/sanitize" CUDA=0 CFLAGS="-O1 -g" \
              SAN="-fsanitize=address,undefined $checks" ;; # run_tests.sh's, to the word
    tsan) make -s $jobs "$(program_for tsan)" BUILD="$build/emu-tsan" CXXFLAGS="-O1 -g" \
              CUDA=0 SAN=-fsanitize=thread ;;
    esac || exit 1
    "$(program_for $means)" >"$log" 2>&1
    verdict $((! $?)) "the emulator's own tests under $means"
done
make -s $jobs "$(program_for forward)" BUILD="$build" CUDA=0 || exit 1

for means in $schedules $other_builds; do
    run none "$means"
    verdict $((! $?)) "$means: the kernel without a bug fails"
done
while read -r bug all_means; do
    for item in $all_means; do
        means=${item%%=*} word=
        case $item in *=*) word=${item#*=} ;; esac
        case " $schedules $other_builds " in *" $means "*) ;; *) continue ;; esac
        status=0
        run "$bug" "$means" || status=$?
        ok=0
        case $status in
        0|124) ;; # not seen; or it never ended
        *) grep -q -- "$word" "$log" && ok=1 ;;
        esac
        verdict $ok "$means does not see $bug${word:+ ($word)}: exit $status"
    done
done < <(printf '%s\n' "$table" | grep .)

# A row for each bug that the kernel knows.
known=$(sed -n 's/^    X(\([a-z_]*\)).*/\1/p' tests/emu/seeded_kernels.cu | grep -vx none)
[ "$(printf '%s\n' "$known" | sort)" = "$(printf '%s' "$table" | awk 'NF {print $1}' | sort)" ]
verdict $((! $?)) "the table's bugs are not those of seeded_kernels.cu"

echo "$(printf '%s\n' "$known" | wc -l) seeded bugs, by $schedules $other_builds:" \
    "$passed as they should be, $failed not"
[ $failed = 0 ]
