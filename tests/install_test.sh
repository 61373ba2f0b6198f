#!/bin/sh
# Installs into an empty folder and builds an outside program against it: shared and static, by
# pkg-config and by CMake. Nothing but the installed tree is in its reach.
set -eu
cd "$(dirname "$0")/.."
consumer=$PWD/tests/install_consumer/install_consumer.c
asker=$PWD/tests/install_consumer/cuda_consumer.c
with_cuda= # whether make builds the CUDA backend here
case $(make --no-print-directory -n all) in *"CUDA backend: libnibble_cuda.so"*) with_cuda=1 ;; esac
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
fail() { echo "install: $*"; exit 1; }

for bad in "PREFIX=/a b" "DESTDIR=$root/a b" PREFIX=here libdir=lib; do
    make --no-print-directory -n install "$bad" > "$root/bad.txt" 2>&1 && fail "$bad was taken"
    grep -qF "${bad%%=*}='${bad#*=}'" "$root/bad.txt" || fail "$bad: $(cat "$root/bad.txt")"
done

prefix=/opt/nibble
make --no-print-directory install DESTDIR="$root" PREFIX=$prefix V=1
for file in lib/libnibble.a lib/libnibble.so lib/libnibble.so.0 \
        lib/pkgconfig/nibble.pc lib/cmake/nibble/nibbleConfig.cmake; do
    [ -e "$root$prefix/$file" ] || fail "$file is missing"
done
for file in lib/libnibble_cuda.so lib/libnibble_cuda.a lib/pkgconfig/nibble_cuda.pc; do
    case $with_cuda$([ ! -e "$root$prefix/$file" ] || echo there) in
    1there | '') ;;
    1) fail "$file is missing" ;;
    *) fail "$file was installed without CUDA" ;;
    esac
done
for header in include/nibble/*.h; do
    cmp "$header" "$root$prefix/$header" || fail "$header is missing"
done
grep -r "$root" "$root$prefix/lib/pkgconfig" "$root$prefix/lib/cmake" && fail "DESTDIR in a file"

cd "$root" # away from the source tree
export PKG_CONFIG_PATH="$root$prefix/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$root"
lib=$root$prefix/lib
version=$(pkg-config --modversion nibble)
runs() { # COMMAND...: prints the line that the consumer prints
    [ "$("$@")" = "nibble $version: 16 numbers came back" ] || fail "$* printed: $("$@")"
}
cc=${CC:-cc}

# shellcheck disable=SC2046 # words
$cc -std=c99 -Wall -Wextra -Werror -pedantic "$consumer" -o shared \
    $(pkg-config --cflags --libs nibble)
LD_LIBRARY_PATH=$lib runs ./shared
readelf -d shared | grep -q 'NEEDED.*libnibble.so.0' || fail "shared does not need libnibble.so.0"

# shellcheck disable=SC2046
$cc -std=c99 -static "$consumer" -o static $(pkg-config --cflags nibble) \
    $(pkg-config --libs --static nibble) 2>static.txt || fail "static: $(cat static.txt)"
runs ./static
readelf -d static | grep NEEDED && fail "static needs a shared library"

LD_LIBRARY_PATH=$lib ldd -r "$lib/libnibble.so" > ldd.txt 2>&1
grep -E 'not found|undefined' ldd.txt && fail "libnibble.so lacks symbols or libraries"

# Asks for CUDA. With it the answer is a device, or the driver's words: the library was found.
answers() { # COMMAND...
    answer=$("$@") || fail "$* says $answer"
    case $with_cuda$answer in
    1NIB_OK,*"cuda sm_"* | 1NIB_ERR_NO_DEVICE*"CUDA error "*) ;;
    NIB_ERR_NO_DEVICE*"libnibble_cuda.so"*) ;;
    *) fail "$* says $answer" ;;
    esac
}
# shellcheck disable=SC2046
$cc -std=c11 -D_GNU_SOURCE "$asker" -o ask $(pkg-config --cflags --libs nibble) -lpthread
LD_LIBRARY_PATH=$lib answers ./ask
"$root$prefix/bin/qbench" quantize --backend cuda --rows 1 --cols 64 --max-time 0.1 \
    > qbench.txt 2>&1 || true
if [ -n "$with_cuda" ]; then
    # An installed tool finds it too.
    grep -qE "CUDA error |cuda sm_" qbench.txt || fail "qbench: $(cat qbench.txt)"
    # Linked in: no library is opened, wherever the program goes; with libc's too, none is needed.
    rm "$lib/libnibble_cuda.so"
    # shellcheck disable=SC2046
    $cc -std=c11 -D_GNU_SOURCE "$asker" -o ask_linked $(pkg-config --cflags --libs nibble_cuda) \
        -lpthread
    LD_LIBRARY_PATH=$lib answers ./ask_linked
    # shellcheck disable=SC2046
    $cc -std=c11 -D_GNU_SOURCE -static "$asker" -o ask_static \
        $(pkg-config --cflags --libs --static nibble_cuda) 2>static.txt ||
        fail "static with CUDA: $(cat static.txt)"
    answers ./ask_static
    readelf -d ask_static | grep NEEDED && fail "static with CUDA needs a shared library"
fi

cp "$(dirname "$consumer")/CMakeLists.txt" "$consumer" "$asker" .
cmake -S . -B cmake -DCMAKE_PREFIX_PATH="$root$prefix" -DCMAKE_C_COMPILER="$cc" > cmake.txt 2>&1 ||
    fail "cmake: $(cat cmake.txt)"
cmake --build cmake > build.txt 2>&1 || fail "cmake --build: $(cat build.txt)"
runs cmake/by_shared
runs cmake/by_static
readelf -d cmake/by_static | grep -q libnibble && fail "by_static needs libnibble.so"
[ -z "$with_cuda" ] || answers cmake/by_cuda

cd - >/dev/null
make --no-print-directory uninstall DESTDIR="$root" PREFIX=$prefix
left=$(find "$root$prefix" -type f -o -type l)
[ -z "$left" ] || fail "uninstall left $left"
