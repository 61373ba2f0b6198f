#!/bin/bash
# emu_targets.sh BUILD [STEM...]: which sources' code depends on the emulated target is what
# emulated.mk says, or a program for one target is linked with code for the other. Compares the
# objects of a build with EMU_SHARE=0 and without debugging information, which may differ.
# STEM: kernels that must not depend on it, as their tests are left out on the second target.
set -u
cd "$(dirname "$0")/../.." || exit 2
build=$1 status=0 compared=0
listed=" $(make -s --no-print-directory emu-by-target CUDA=0 | tr '\n' ' ') "
for object in "$build"/emulated/{kernels/cuda,tests/emu}/*.cu.o; do
    source=${object#"$build"/emulated/} source=${source%.o}
    is_listed='' differs=''
    case $listed in *" $source "*) is_listed=1 ;; esac
    other=$build/emulated100/$source.o
    [ -e "$other" ] || { echo "$other is missing: the build was not with EMU_SHARE=0"; exit 1; }
    cmp -s "$object" "$other" || differs=1
    compared=$((compared + 1))
    case $is_listed:$differs in
    :1) echo "$source depends on the target: add it to EMU_BY_TARGET"; status=1 ;;
    1:) echo "$source does not depend on the target: take it from EMU_BY_TARGET"; status=1 ;;
    esac
done
for stem in "${@:2}"; do
    ls kernels/cuda/"$stem"*.cu >/dev/null || status=1
    case $listed in *" kernels/cuda/${stem}_"*) echo "$stem depends on the target"; status=1 ;; esac
done
[ $compared -gt 1 ] || { echo "no objects in $build"; exit 1; }
exit $status
