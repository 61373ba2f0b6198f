#!/bin/sh
# The shared library exports what the public headers declare and nothing else; the static one
# defines no global name without our prefix. scripts/abi/symbols.sh FOLDER-OF-THE-LIBRARIES
set -eu
folder=$(cd "${1:?the build folder}" && pwd)
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

scripts/exports.sh > "$work/declared"
nm -D --defined-only "$folder/libnibble.so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' |
    LC_ALL=C sort -u > "$work/exported"
if ! diff "$work/declared" "$work/exported" > "$work/diff"; then
    echo "declared in include/nibble (<) and exported by libnibble.so (>) differ:"
    cat "$work/diff"
    exit 1
fi
if nm --defined-only -g "$folder/libnibble.a" | awk 'NF == 3 && $3 !~ /^(nib_|[.])/' |
        grep .; then
    echo "libnibble.a: global names without the prefix nib_"
    exit 1
fi
major=$(awk '$2 == "NIB_VERSION_MAJOR" {print $3}' include/nibble/version.h)
readelf -d "$folder/libnibble.so" > "$work/dynamic"
grep -q "SONAME.*\[libnibble.so.$major\]" "$work/dynamic" || {
    echo "libnibble.so: soname is not libnibble.so.$major"
    exit 1
}
# What a host program may be made to load: no C++, no CUDA, no BLAS.
allowed='lib(jansson|gomp|omp|m|c|pthread|dl)\.so|ld-linux'
if sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' "$work/dynamic" | grep -vE "$allowed"; then
    echo "libnibble.so: needs the libraries above"
    exit 1
fi
