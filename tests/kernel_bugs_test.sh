#!/bin/bash
# Bugs in the real kernels, one at a time, in a copy: the C suite on the emulator must see each.
#
#   KERNEL_BUGS=all tests/kernel_bugs_test.sh       all of them, the thread sanitizer's too
#   KERNEL_BUGS=1/3, 2/3, 3/3; tsan                 each third of the schedules'; the sanitizer's
#   KERNEL_BUGS="name name" ...                     these; without it 3 that change with commits
#
# Each row: name, file, the .cu that is compiled again if another, how it is seen (a schedule, sm90:
# forward on a device with wgmma, or tsan), the tests that see it; then sed's script, each line of
# which must change the file. Where a race needs more work than one turn of a block, the script
# makes the grid smaller, or the blocks.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
table='
ragged_end_unchecked   quantize_cuda.cu   -                 forward OnDevice*
    s/k < job.scale_cols \? tile_rows/k <= job.scale_cols ? tile_rows/
amax_of_wrong_lane     quantize_e2m1.cuh  quantize_cuda.cu  forward OnDevice*
    s/__shfl_xor_sync\(~0u, most, 1\)/__shfl_xor_sync(~0u, most, 2)/
padding_not_zero       quantize_e2m1.cuh  quantize_cuda.cu  forward OnDevice*
    s/^( +)\*at = 0;/\1*at = 1;/
batch_stride_of_other  quantize_e2m1.cuh  quantize_cuda.cu  forward OnDeviceBatch*
    s/job\.codes \+ z \* job\.codes_stride/job.codes + z * job.scales_stride/
near_errors_guessed    quantize_search.cuh quantize_kinds_cuda.cu forward OnDeviceSearch*
    s/if \(!__any_sync\(~0u, several\)\) return best;/return best;/
estimate_out_of_order  quantize_estimate.cuh quantize_kinds_cuda.cu forward OnDeviceSearch*
    s/fixed\[at \+ 2\]/fixed[at + 1]/
few_errors_of_one_lane quantize_search.cuh quantize_kinds_cuda.cu forward OnDeviceSearch*
    s/lane < 16 \? one : other/one/
half_sum_of_own_first  quantize_search.cuh quantize_kinds_cuda.cu forward OnDeviceSearch*
    s/__shfl_sync\(~0u, p\[i\], 0, 2\)/__shfl_sync(~0u, p[i], 1, 2)/
tile_of_eight_rows     quantize_e2m1.cuh  quantize_kinds_cuda.cu forward OnDeviceScaleRows*
    s/other < 32; other/other < 16; other/
given_nan_is_a_scale   quantize_e2m1.cuh  quantize_kinds_cuda.cu forward OnDeviceQuantizeGiven*
    s/if \(is_given\) ordinary = .*/(void)0;/
columns_exchanged      quantize_both_cuda.cu -              forward OnDeviceBoth*
    s/c \? 0x7632 : 0x5410/c ? 0x5410 : 0x7632/
chunk_of_another_row   quantize_both_cuda.cu -              forward OnDeviceBoth*
    s/word \/ 4 \^ chunk_swap\(r\)/word \/ 4 ^ chunk_swap(r + 4)/
tile_read_too_early    quantize_both_cuda.cu -              tsan    OnDeviceBoth.WholeBlocks
    /^    __syncthreads\(\);$/d
tensor_scale_too_early quantize_ways.cuh  quantize_cuda.cu  tsan    OnDeviceExact.Every16BitInput
    /^    __syncthreads\(\);$/d
random_word_off_by_one quantize_job.cuh   quantize_cuda.cu  forward OnDevice*
    s/philox\(offset \+ i \/ 4, seed\)/philox(offset + (i + 1) \/ 4, seed)/
swizzle_off_by_one     dequantize_cuda.cu -                 forward OnDevice*
    s/swizzle_128x4\(row, k, (job\.scale_cols\) : row \*)/swizzle_128x4(row, k + 1, \1/
row_end_overrun        dequantize_cuda.cu -                 forward OnDevice*
    s/left < Lane::tile \? \(int\)left : Lane::tile/Lane::tile/
nan_step_forgotten     dequantize_cuda.cu -                 forward OnDevice*
    s/finite = finite \&\& step\[u\] <= NIB_F32_MAX;/(void)finite;/
ld_of_the_other        dequantize_cuda.cu -                 forward OnDevice*
    s/row \* job\.dst\.ld_elems \+ col/row * job.src.cols + col/
panel_read_too_early   relayout_cuda.cu   -                 tsan    OnDeviceEquality.Relayout*
    /^        __syncthreads\(\);$/d
panel_reused_too_early relayout_cuda.cu   -                 tsan    OnDeviceEquality.Relayout*
    /before the next panel.s words/d
    s/row_panels < 65535 \? row_panels : 65535/1/
tile_padding_kept      relayout_cuda.cu   -                 forward OnDevice*
    s/\*word = n \? load_four\((.*)\) : 0;/if (n) *word = load_four(\1);/
atomic_left_out        amax_cuda.cu       -                 forward OnDevice*
    s/atomicMax\(\&(job\.amax\[[^]]*\]), all\)/\1 = all/
    s/NIB_AMAX_VECTORS/1/g
warp_left_out          amax_cuda.cu       -                 forward OnDevice*
    s/thread < NIB_AMAX_THREADS \/ 32 \?/thread < NIB_AMAX_THREADS \/ 32 - 1 ?/
inf_counts_as_finite   amax_cuda.cu       -                 forward OnDevice*
    s/if \(largest < M::inf\)/if (largest <= M::inf)/
kernel_not_loaded      amax_cuda.cu       -                 forward OnDeviceGraph*
    s/dtype <= NIB_DT_BF16; dtype\+\+/dtype < NIB_DT_BF16; dtype++/
waits_under_capture    amax_cuda.cu       -                 forward OnDeviceGraph*
    s/cudaMemsetAsync\((.*), \(cudaStream_t\)launch->stream\)/cudaMemset(\1)/
infinity_in_range      observe_cuda.cu    -                 forward OnDeviceObserve*
    s/if \(group\.has_inf\(\)\)/if (false)/
counts_read_too_early  observe_cuda.cu    -                 tsan    OnDeviceObserve.LongRowsAndMany
    /^    __syncthreads\(\);$/d
scale_of_the_other     tensor_stats_cuda.cu -               forward OnDeviceStats*
    s/thread == 2 \? ed : ex/ex/
partial_sum_left_out   tensor_stats_cuda.cu -               forward OnDeviceStats*
    s/k >= job\.partials/k >= job.partials - 1/
sums_added_too_early   tensor_stats_cuda.cu -               tsan    OnDeviceStats.KnownAnswer
    /^        __syncthreads\(\);$/d
half_of_sums_left_out  transform_job.cuh  transform_cuda.cu forward OnDeviceTransform.*
    s/lane < held \* width \/ 32 \?/lane < held * width \/ 64 ?/
residual_added_twice   transform_job.cuh  transform_cuda.cu forward OnDeviceTransform.*
    s/\(!first \&\& job\.residual_out\) \{/(!first \&\& !job.x) {/
rotation_lanes_swapped transform_job.cuh  transform_cuda.cu forward OnDeviceTransform.*
    s/\) != 0; \/\* has b/) == 0; \/* has b/
sums_read_too_early    transform_job.cuh  transform_cuda.cu forward OnDeviceTransform.*
    /^    __syncthreads\(\);$/d
norm_piece_not_reread  transform_norm.cuh transform_cuda.cu forward OnDeviceTransform.*
    s/if \(base != last\) load_row/if (base != last \&\& base) load_row/
nan_keeps_its_sign     quantize_unit.cuh  grouped_cuda.cu   forward OnDeviceGrouped.*
    s/0x7fff0000u : w/w \& 0xffff0000u : w/
grouped_tile_of_8_rows quantize_unit.cuh  grouped_cuda.cu   forward OnDeviceGrouped.*
    s/square \&\& other < 32/square \&\& other < 16/
transformed_tile_cut   transform_any.cuh  transform_cuda.cu forward OnDeviceTransform.*
    s/source, rows, col \+ at, some/source, rows > 1 ? rows - 1 : 1, col + at, some/
groups_after_32_lost   grouped_tile.cuh   grouped_cuda.cu   forward OnDeviceGrouped.*
    s/tiles = __shfl_sync\(~0u, last, 31\)/tiles = 0/
offsets_believed       grouped_tile.cuh   grouped_cuda.cu   forward OnDeviceGrouped.*
    s/nib_group_next\(begun, end, g\.rows\)/end < g.rows ? end : g.rows/
step_range_too_early   steps_cuda.cu      -                 tsan    OnDeviceSteps.Threads*
    /after the last reader of the group before/d
    s/job->groups, NIB_STEPS_MOST_BLOCKS/job->groups, 1/
step_sums_too_early    steps_cuda.cu      -                 forward OnDeviceSteps*
    /^            __syncthreads\(\);$/d
factor_of_other_group  steps_cuda.cu      -                 forward OnDeviceSteps*
    s/k == job.groups - 1 \? job.last_factor : job.factor/job.factor/
lanes_left_out         steps_cuda.cu      -                 forward OnDeviceSteps*
    s/o = team \/ 2; o; o \/= 2\) sum/o = team \/ 4; o; o \/= 2) sum/
quotient_of_inf        steps_job.cuh      steps_cuda.cu     forward OnDeviceSteps*
    s/0x5d80u/0x7f80u/
step_nibbles_turned    step_codes_cuda.cu -                 forward OnDeviceStepCodes*
    s/\(code\[i\] \& 15u\) << i \* 4/(code[i] \& 15u) << (i ^ 1) * 4/
step_of_hi_always      step_codes_cuda.cu -                 forward OnDeviceStepCodes*
    s/nib_grid_of_codes\(\(int\)r->element, r->middle\)/nib_grid_of((int)r->element)/
step_lanes_forgotten   step_codes_cuda.cu -                 forward OnDeviceStepCodes*
    s/o = team \/ 2; o;/o = team \/ 4; o;/
product_scale_of_row_g gemm_decode.cuh    gemm_small_cuda.cu forward OnDeviceGemm*
    s/i % 2 \* 2 \+ h;/i % 2 * 2;/
product_bias_of_gate   gemm_job.cuh       gemm_tile_cuda.cu forward OnDeviceGemm*
    s/job\.n \/ 2 \+ column/column/
product_split_too_long gemm_small_cuda.cu -                 forward OnDeviceGemm*
    s/job\.units \* \(blockIdx\.y \+ 1\) \/ job\.splits/job.units/
product_part_left_out  gemm_cuda.cu       -                 forward OnDeviceGemm*
    s/left = job\.splits;/left = job.splits - 1;/
product_sum_too_early  gemm_cuda.cu       -                 forward OnDeviceGemm*
    s/nib_ptx::grid_dependency_wait\(\);//
product_half_kept      gemm_small_cuda.cu -                 forward OnDeviceGemm*
    s/half\[0\] = half\[1\] = 0;//
product_past_k         gemm_small_cuda.cu -                 forward OnDeviceGemm*
    s/h < chunks \? __ldg/h <= chunks ? __ldg/
product_copy_past_k    gemm_tile_cuda.cu  -                 forward OnDeviceGemm*
    s/from->chunks > 0 \&\&/from->chunks >= 0 \&\&/
product_chunk_end_lost gemm_tile_cuda.cu  -                 forward OnDeviceGemm*
    s/in_chunk == 0 \|\| u \+ 1 == left/in_chunk == 0/
product_stripe_too_far gemm_tile_cuda.cu  -                 forward OnDeviceGemm*
    s/i < from->stripes/i <= from->stripes/
product_word_misplaced gemm_wgmma_cuda.cu -                 sm90    OnDeviceGemm.*
    s/lane \/ 8 \* 4;/(lane \/ 8 ^ 1) * 4;/
product_columns_past_k gemm_wgmma_cuda.cu -                 sm90    OnDeviceGemm.*
    s/NIB_GEMM_TILE < from->columns/NIB_GEMM_TILE <= from->columns/
product_copies_unknown gemm_wgmma_cuda.cu -                 sm90    OnDeviceGemm.*
    /nib_ptx::fence_proxy_async\(\);/d
product_weights_in_use gemm_wgmma_cuda.cu -                 sm90    OnDeviceGemm.*
    s/wgmma_wait<1>/wgmma_wait<2>/
product_step_in_use    gemm_wgmma_cuda.cu -                 sm90    OnDeviceGemm.*
    s/ahead = STAGES - 2/ahead = STAGES - 1/
product_sums_in_use    gemm_wgmma_cuda.cu -                 sm90    OnDeviceGemm.*
    s/^        nib_ptx::wgmma_wait<0>/        nib_ptx::wgmma_wait<1>/
product_stripe_scaled  gemm_wgmma_cuda.cu -                 sm90    OnDeviceGemm.*
    s/lo \| hi << 16/hi | lo << 16/
product_sums_too_high  gemm_floor.cuh     gemm_small_cuda.cu forward OnDeviceGemmValue.E8M0*
    s/\(127 \+ down\)/127/
product_floor_too_low  gemm_floor.cuh     gemm_tile_cuda.cu forward OnDeviceGemmValue.E8M0*
    s/top > floor \+ Kind::span/top > floor + Kind::span + 9/
product_top_too_low    gemm_decode.cuh    gemm_small_cuda.cu forward OnDeviceGemmValue.Small*
    s/\? 7 : f16_sums/? 63 : f16_sums/
product_top_off_by_one gemm_exact_cuda.cu -                 forward OnDeviceGemm*
    s/- 127 - 13/- 127 - 12/
gptq_errors_misplaced  gptq_block.cuh     gptq_sweep_cuda.cu forward OnDeviceGptqBackends.*
    s/triangle_row\(c\);/triangle_row(c) + 1;/
gptq_next_step_spared  gptq_block.cuh     gptq_sweep_cuda.cu forward OnDeviceGptqBackends.*
    s/if \(t > c \&\&/if (t > c + 1 \&\&/
gptq_group_unsettled   gptq_block.cuh     gptq_sweep_cuda.cu forward OnDeviceGptqSteps.StepsBy*
    s/now\[i\] \+= change/now[i] -= change/
gptq_steps_of_codes    gptq_sweep_cuda.cu -                 forward OnDeviceGptqSteps.StepsBy*
    s/col != group \* g\.block/col != group/
gptq_stage_too_early   gptq_block.cuh     gptq_sweep_cuda.cu tsan    OnDeviceGptqBackends.*
    /^    __syncwarp\(\);$/d
gptq_part_too_early    gptq_sweep_cuda.cu -                 forward OnDeviceGptqBackends.*
    /^    __syncthreads\(\);$/d
gptq_dead_input_lives  gptq_factor_cuda.cu -                forward OnDeviceGptqBackends.*
    s/1\.0 \+ added : added/added : added/
gptq_square_half_known gptq_cuda.cu       -                 forward OnDeviceGptqBackends.*
    s/\(i > j \? i : j\), q/i, q/
gptq_panels_at_least_0 gptq_cuda.cu       -                 forward OnDeviceGptqOutcome.*
    s/m->done \&\& first \+ side == g\.k/m->done/
gptq_below_zero_kept   gptq_cuda.cu       -                 forward OnDeviceGptqOutcome.*
    s/clamps \&\& sum < 0\.0/clamps \&\& sum < -1e300/
hessian_rotated_wrong  hessian_cuda.cu    -                 forward OnDeviceGptqBackends.*
    s/\(ab - cd\) \* factor/(cd - ab) * factor/
hessian_look_too_wide  hessian_look_cuda.cu -               forward OnDeviceHessian.*
    s/triangle \? row \+ 1 : m\.cols/m.cols/
hessian_first_any      hessian_look_cuda.cu -               forward OnDeviceHessian.*
    s/atomicMin\(first, (.*)\);/*first = \1;/
hessian_groups_stand   hessian_cuda.cu    -                 forward OnDeviceHessianGrouped.*
    s/^        begin = end;/        begin = begin * (end >= 0);/
hessian_steps_mixed    hessian_cuda.cu    -                 forward OnDeviceGptqBackends.*
    /^            __syncthreads\(\);$/d
'
rows=$(printf '%s' "$table" | grep '^[^ ]')
names=$(printf '%s\n' "$rows" | awk '{print $1}')
plain=$(printf '%s\n' "$rows" | awk '$4 != "tsan" {print $1}')
wanted=${KERNEL_BUGS:-} at_once=$(nproc) bare=
case $wanted in
all)   wanted=$names bare="forward sm90 tsan" ;;
tsan)  wanted=$(printf '%s\n' "$rows" | awk '$4 == "tsan" {print $1}') bare=tsan ;;
*/*)   [ "${wanted%/*}" != 1 ] || bare=forward
       wanted=$(printf '%s\n' "$plain" | awk "NR % ${wanted#*/} == ${wanted%/*} % ${wanted#*/}") ;;
'')    at_once=1 # beside other tests
       commits=$(git rev-list --count HEAD 2>/dev/null || echo 0)
       count=$(printf '%s\n' "$plain" | wc -l)
       wanted=$(for i in 0 1 2; do
           printf '%s\n' "$plain" | sed -n "$(((commits * 3 + i) % count + 1))p"
       done) ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/log
fail() {
    echo "FAIL $*"
    tail -n 15 "$log" | cut -c 1-300 | sed 's/^/    | /'
    return 1
}

# What each means builds with.
make_for() { # MEANS TARGET...
    local means=$1 jobs=-j2
    shift
    case ${MAKEFLAGS:-} in *jobserver*) jobs= ;; esac
    case $means in
    tsan) make -s $jobs BUILD="$build/tsan" CC=clang CXX=clang++ WERROR= CUDA=0 \
              SAN=-fsanitize=thread "$@" ;;
    *)    make -s $jobs BUILD="$build" CUDA=0 "$@" ;;
    esac
}
folder_of() { case $1 in tsan) echo "$build/tsan" ;; *) echo "$build" ;; esac; }

run() { # MEANS LIBRARY FILTER [SECONDS]
    local schedule=$1 inject=none
    case $schedule in sm90) inject=sm=90 ;; esac
    case $schedule in sm90|tsan) schedule=forward ;; esac
    NIBBLE_TEST_DEVICE=cuda NIBBLE_CUDA_LIBRARY=$2 NIB_EMU_SCHEDULE=$schedule OMP_NUM_THREADS=1 \
        NIB_EMU_INJECT=$inject TSAN_OPTIONS="exitcode=66 halt_on_error=1 history_size=7" \
        timeout "${4:-900}" "$(folder_of "$1")/tests/all" --gtest_filter="$3" --gtest_fail_fast \
        >"$log" 2>&1
}

# Of the wanted rows, their means, each with all its filters.
filters=$(while read -r name _ _ means filter; do
    case " $(echo $wanted) " in *" $name "*) echo "$means $filter" ;; esac
done <<<"$rows" | sort -u | awk '{all[$1] = all[$1] ":" $2} END {for (m in all) print m, all[m]}')
for means in $(echo "$filters" | cut -d ' ' -f 1); do # before several copies are made at a time
    make_for "$means" "$(folder_of "$means")/tests/all" \
        "$(folder_of "$means")/emulated/libnibble_cuda.so" >"$log" 2>&1 ||
        { fail "$means: build"; exit 1; }
done

# Without a bug nothing may be seen, or what follows says nothing.
bare() { # MEANS
    log=$work/$1.log
    run "$1" "$(realpath "$(folder_of "$1")/emulated/libnibble_cuda.so")" \
        "$(echo "$filters" | sed -n "s/^$1 ://p")-OnDeviceFault.WildPointer" 3600 ||
        { fail "$1: the kernels without a bug"; return; }
    echo "$1: nothing without a bug"
}

bug() { # NAME FILE CU MEANS FILTER
    local name=$1 file=$2 cu=$3 means=$4 filter=$5 seed copy script unchanged='' status by
    log=$work/$name.log
    [ "$cu" != - ] || cu=$file
    seed=$(realpath -m "$(folder_of "$means")/seeded/$name")
    rm -rf "$seed"
    mkdir -p "$seed/kernels"
    cp -r kernels/cuda "$seed/kernels/"
    copy=$seed/kernels/cuda/$file
    while IFS= read -r script; do
        cp "$copy" "$seed/before"
        sed -E -i "$script" "$copy"
        ! cmp -s "$seed/before" "$copy" || unchanged=$script
    done < <(printf '%s' "$table" |
        awk -v name="$name" '/^[^ ]/ {on = $1 == name; next} on {print substr($0, 5)}')
    : >"$log"
    if [ -n "$unchanged" ]; then
        fail "$name: $file has no such line any more: $unchanged"; return
    fi
    if ! make_for "$means" SEED="$seed" SEED_CU="$cu" "$seed/libnibble_cuda.so" >"$log" 2>&1; then
        fail "$name: does not build"; return
    fi
    run "$means" "$seed/libnibble_cuda.so" "$filter"
    status=$?
    by=$(grep -m 1 -oE 'ThreadSanitizer: data race|\[  FAILED  \] [A-Za-z0-9]+\.\w+' "$log")
    case $status:$means in
    0:*|124:*) fail "$name: not seen by $filter, $means (exit $status)"; return ;;
    *:tsan) grep -q 'data race' "$log" || { fail "$name: no data race was reported"; return; } ;;
    esac
    echo "$name: $means, ${by:-exit $status}"
    rm -rf "$seed"
}
tried='' running=0 seen=0 failed=0
begin() { # NAME COMMAND...
    if [ $running -ge "$at_once" ]; then wait -n; running=$((running - 1)); fi
    tried="$tried $1"
    { "${@:2}" >"$work/$1.said" 2>&1 && : >"$work/$1.done"; } </dev/null &
    running=$((running + 1))
}
for means in $bare; do
    begin "$means" bare "$means"
done
while read -r name file cu means filter; do
    case " $(echo $wanted) " in *" $name "*) ;; *) continue ;; esac
    begin "$name" bug "$name" "$file" "$cu" "$means" "$filter"
done <<<"$rows"
wait
for name in $tried; do
    cat "$work/$name.said"
    if [ ! -e "$work/$name.done" ]; then
        failed=$((failed + 1))
    else
        case " $bare " in *" $name "*) ;; *) seen=$((seen + 1)) ;; esac
    fi
done
echo "$seen of $(printf '%s\n' "$names" | wc -l) bugs seen, $failed failures"
[ $failed = 0 ] && [ $seen != 0 ]
