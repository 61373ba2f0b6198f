#!/bin/sh
# Finds a CUDA compiler that is new enough and prints, for cuda.mk, one line:
#
#   ok VERSION NVCC LIBDIR ARCH...     LIBDIR has libcudart_static.a; the default targets it knows
#   no REASON
#
# NVCC= names one; else that of CUDA_HOME, else that in PATH.
set -u
no() { echo "no $*"; exit 0; }

home=${CUDA_HOME:-/usr/local/cuda}
nvcc=${NVCC:-}
if [ -n "$nvcc" ]; then
    command -v "$nvcc" >/dev/null || no "NVCC=$nvcc is not a program"
elif [ -x "$home/bin/nvcc" ]; then
    nvcc=$home/bin/nvcc
else
    nvcc=$(command -v nvcc) || no "no nvcc in $home/bin or PATH"
fi
version=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9][0-9]*\.[0-9][0-9]*\).*/\1/p')
[ -n "$version" ] || no "$nvcc --version does not name a release"
number=$((${version%.*} * 100 + ${version#*.}))
[ "$number" -ge 1208 ] || no "$nvcc is of CUDA $version, 12.8 or later is needed"

real=$(readlink -f "$(command -v "$nvcc")")
root=${real%/bin/*}
libdir=
for folder in "$root"/lib64 "$root"/targets/*/lib "$root"/lib "$root"/lib/*-linux-gnu; do
    [ ! -e "$folder/libcudart_static.a" ] || { libdir=$folder; break; }
done
[ -n "$libdir" ] || no "$root has no libcudart_static.a"

# Code for a whole family, suffix f, came with 12.9; it, or a, admits the family's instructions.
family=f
[ "$number" -ge 1209 ] || family=a
known=" $("$nvcc" --list-gpu-arch 2>/dev/null | tr '\n' ' ')"
archs=
for arch in 80 89 90a 100$family 120$family; do
    case $known in *" compute_${arch%[af]} "*) archs="$archs sm_$arch" ;; esac
done
echo "ok $version $nvcc $libdir$archs compute_90"
