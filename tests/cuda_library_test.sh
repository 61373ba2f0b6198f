#!/bin/bash
# Where libnibble.so looks for the CUDA backend, what it refuses and says; what libnibble_cuda.so
# shows and needs, where it was built; which nvcc is good enough. Needs no GPU and no nvcc.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${BUILD:-build}")
cc=${CC:-gcc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
fail() { echo "FAIL: $*"; status=1; }
unset NIBBLE_BACKEND NIBBLE_CUDA_LIBRARY LD_LIBRARY_PATH NVCC

consumer=tests/install_consumer/cuda_consumer.c
fake_source=tests/install_consumer/fake_cuda_library.c
flags=(-std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -Iinclude)
fake() { # FILE NAME FLAGS...: a library that signs with NAME
    local file=$1 name=$2
    shift 2
    $cc "${flags[@]}" -I. -shared -fPIC -DNAME="\"$name\"" "$@" $fake_source -o "$file"
}
# says LABEL PIECE COMMAND...: the output of COMMAND has PIECE.
says() {
    local label=$1 piece=$2 out
    shift 2
    out=$("$@" 2>&1) || { fail "$label: exit status $?: $out"; return; }
    case $out in *"$piece"*) ;; *) fail "$label: no '$piece' in: $out" ;; esac
}

# ---- the search, in a folder of its own ----
mkdir "$work/lib" "$work/other" "$work/bin"
cp "$build/libnibble.so.0" "$work/lib/libnibble.so.0"
ln -s libnibble.so.0 "$work/lib/libnibble.so"
$cc "${flags[@]}" $consumer -o "$work/bin/ask" -L"$work/lib" -lnibble -Wl,-rpath,"$work/lib" \
    -lpthread
ask=$work/bin/ask
no="NIB_ERR_NO_DEVICE"

says "missing" "$no" "$ask"
says "missing, where" "no CUDA device: there is no $work/lib/libnibble_cuda.so, and elsewhere" \
    "$ask"
says "auto" "backend 1: there is no $work/lib/libnibble_cuda.so" "$ask" auto
out=$(NIBBLE_BACKEND=cuda "$ask" auto) && fail "NIBBLE_BACKEND=cuda without: $out"
case $out in *"no CUDA device"*) ;; *) fail "NIBBLE_BACKEND=cuda says $out" ;; esac
says "named, missing" "NIBBLE_CUDA_LIBRARY: /nowhere/x.so: cannot open" \
    env NIBBLE_CUDA_LIBRARY=/nowhere/x.so "$ask"
echo "int nothing;" | $cc -shared -fPIC -xc - -o "$work/other/nothing.so"
says "not ours" "$work/other/nothing.so is not nibble's CUDA backend" \
    env NIBBLE_CUDA_LIBRARY="$work/other/nothing.so" "$ask"
echo "text" > "$work/other/text.so"
says "no library" "NIBBLE_CUDA_LIBRARY: $work/other/text.so: " \
    env NIBBLE_CUDA_LIBRARY="$work/other/text.so" "$ask"

fake "$work/other/version.so" x -DVERSION=7
says "table's version" "version.so has version 7 of the backend's table, this nibble needs 1" \
    env NIBBLE_CUDA_LIBRARY="$work/other/version.so" "$ask"
fake "$work/other/size.so" x -DSIZE=8
says "table's size" "size.so has a table of 8 bytes, this nibble's has " \
    env NIBBLE_CUDA_LIBRARY="$work/other/size.so" "$ask"
fake "$work/other/nibble.so" x '-DLIBRARY="9.8.7"'
says "nibble's version" "nibble.so is of nibble 9.8.7, this is " \
    env NIBBLE_CUDA_LIBRARY="$work/other/nibble.so" "$ask"

fake "$work/other/libnibble_cuda.so" elsewhere
says "the loader's" "asked elsewhere" env LD_LIBRARY_PATH="$work/other" "$ask"
fake "$work/lib/libnibble_cuda.so" beside
says "beside" "asked beside" env LD_LIBRARY_PATH="$work/other" "$ask"
says "from another folder" "asked beside" env -C / "$ask"
says "named" "asked elsewhere" env NIBBLE_CUDA_LIBRARY="$work/other/libnibble_cuda.so" "$ask"
says "named nothing" "asked beside" env NIBBLE_CUDA_LIBRARY= "$ask"
# One that is there and broken is said to be; the search does not go on behind its back.
echo "text" > "$work/lib/libnibble_cuda.so"
says "beside, broken" "$work/lib/libnibble_cuda.so: " env LD_LIBRARY_PATH="$work/other" "$ask"

# ---- static programs ----
libs=("$build/libnibble.a" -ljansson -fopenmp -lpthread -ldl -lm)
$cc "${flags[@]}" $consumer -o "$work/bin/alone" "${libs[@]}"
fake "$work/bin/libnibble_cuda.so" "the program's"
says "beside the program" "asked the program's" "$work/bin/alone"
says "found by PATH" "asked the program's" env -C / PATH="$work/bin:$PATH" alone
$cc "${flags[@]}" -I. -c -DNAME='"linked"' $fake_source -o "$work/fake.o"
ar rc "$work/libnibble_cuda.a" "$work/fake.o"
$cc "${flags[@]}" $consumer -o "$work/bin/linked" -Wl,-u,nib_cuda_table_v1 \
    "$work/libnibble_cuda.a" "${libs[@]}"
says "linked" "asked linked" env NIBBLE_CUDA_LIBRARY="$work/other/libnibble_cuda.so" \
    "$work/bin/linked"
$cc "${flags[@]}" $consumer -o "$work/bin/mixed" -Wl,-u,nib_cuda_table_v1 "$work/libnibble_cuda.a" \
    -L"$work/lib" -lnibble -Wl,-rpath,"$work/lib" -lpthread
says "linked, with libnibble.so" "asked linked" "$work/bin/mixed"

# ---- the real one, if it was built, and is not left from before ----
real=$build/libnibble_cuda.so
if [ "${CUDA:-}" != 0 ] && [ -e "$real" ]; then
    names=$(nm -D --defined-only "$real" | awk '{print $NF}' | sed 's/@.*//' | tr '\n' ' ')
    [ "$names" = "nib_cuda_table_v1 " ] || fail "libnibble_cuda.so exports $names"
    readelf -d "$real" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' |
        grep -vE '^(lib(c|m|rt|dl|pthread)\.so\.[0-9]+|ld-linux.*)$' &&
        fail "libnibble_cuda.so needs the libraries above"
    # A probe takes no time where there is no device. The best of five: machines are busy.
    best=1000000
    for _ in 1 2 3 4 5; do
        out=$(NIBBLE_CUDA_LIBRARY=$real "$ask") || fail "the real one: $out"
        case $out in
        NIB_OK*"cuda sm_"* | "$no"*"CUDA error "[0-9]*) ;;
        *) fail "the real one says: $out" ;;
        esac
        ms=${out#*, } ms=${ms%% *}
        [ "$ms" -ge "$best" ] || best=$ms
    done
    echo "real backend: $out"
    case $out in "$no"*) [ "$best" -le 50 ] || fail "a probe in vain takes $best ms" ;; esac
else
    echo "libnibble_cuda.so was not built"
fi

# ---- which nvcc ----
nvcc_of() { # VERSION ARCHS: a toolkit with that nvcc
    mkdir -p "$work/cuda-$1/bin" "$work/cuda-$1/lib64"
    : > "$work/cuda-$1/lib64/libcudart_static.a"
    cat > "$work/cuda-$1/bin/nvcc" <<END
#!/bin/sh
case \$1 in
--version) echo "Cuda compilation tools, release $1, V$1.1" ;;
--list-gpu-arch) printf 'compute_%s\\n' $2 ;;
esac
END
    chmod +x "$work/cuda-$1/bin/nvcc"
}
nvcc_of 12.4 "80 89 90"
nvcc_of 12.8 "75 80 89 90 100 120"
nvcc_of 12.10 "80 89 90 100 103 120"
nvcc_of 14.1 "90 100 120 130"
nvcc_of none "80"
sed -i 's/release none/no number/' "$work/cuda-none/bin/nvcc"
# shellcheck disable=SC2317 # says calls it
home() { env CUDA_HOME="$work/cuda-$1" scripts/nvcc.sh; }
says "12.4" "no $work/cuda-12.4/bin/nvcc is of CUDA 12.4, 12.8 or later is needed" home 12.4
says "12.8" "/lib64 sm_80 sm_89 sm_90a sm_100a sm_120a compute_90" home 12.8
says "12.10" "ok 12.10 " home 12.10
says "12.10, targets" "/lib64 sm_80 sm_89 sm_90a sm_100f sm_120f compute_90" home 12.10
says "14.1, targets" "/lib64 sm_90a sm_100f sm_120f compute_90" home 14.1
says "no version" "does not name a release" home none
rm "$work/cuda-12.8/lib64/libcudart_static.a"
says "no runtime" "no $work/cuda-12.8 has no libcudart_static.a" home 12.8
says "none" "no no nvcc in /nowhere/bin or PATH" env CUDA_HOME=/nowhere PATH=/nowhere \
    scripts/nvcc.sh
says "NVCC=" "no NVCC=/nowhere/nvcc is not a program" env NVCC=/nowhere/nvcc scripts/nvcc.sh
says "by PATH" "ok 14.1 $work/cuda-14.1/bin/nvcc" \
    env CUDA_HOME=/nowhere PATH="$work/cuda-14.1/bin:$PATH" scripts/nvcc.sh

# ---- what make says of it ----
quiet_make() { make --no-print-directory BUILD="$work/build" "$@"; }
says "make, old nvcc" "CUDA backend: not built, $work/cuda-12.4/bin/nvcc is of CUDA 12.4" \
    quiet_make -n CUDA_HOME="$work/cuda-12.4" CUDA=auto
says "make CUDA=0" "CUDA backend: not built, CUDA=0" quiet_make -n all CUDA=0
says "make, nvcc" "CUDA backend: libnibble_cuda.so for sm_90a sm_100f sm_120f compute_90" \
    quiet_make -n all CUDA_HOME="$work/cuda-14.1" CUDA=auto
says "CUDA_ARCHS" "-gencode arch=compute_86,code=sm_86 " \
    quiet_make -n cuda V=1 CUDA_HOME="$work/cuda-14.1" CUDA=1 CUDA_ARCHS=sm_86
quiet_make cuda CUDA=1 CUDA_HOME="$work/cuda-12.4" > "$work/out" 2>&1 && fail "CUDA=1 with 12.4"
grep -q "not built, .* 12.8 or later is needed" "$work/out" || fail "CUDA=1: $(cat "$work/out")"
quiet_make -n all CUDA=yes > "$work/out" 2>&1 && fail "CUDA=yes was taken"
grep -q "CUDA=yes: 0, 1 or auto" "$work/out" || fail "CUDA=yes: $(cat "$work/out")"
exit $status
