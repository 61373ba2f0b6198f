#!/bin/bash
# The README's C example is taken from the README itself, built against the library and run.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${BUILD:-build}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk '/^```c$/ {inside = 1; next} /^```$/ {inside = 0} inside' README.md > "$work/example.c"
[ -s "$work/example.c" ] || { echo "README.md has no C example"; exit 1; }
"${CC:-gcc}" -std=c99 -Wall -Wextra -Werror -Iinclude "$work/example.c" -o "$work/example" \
    -L"$build" -lnibble -Wl,-rpath,"$build"
"$work/example" | tee "$work/output.txt"
# x = 0..15 with amax 63: tensor scale 63/2688, first block scale e4m3(15/6 / (63/2688)) = 104,
# step 2.4375, so 0 -> 0, 1 -> .5 (code 1), 2 -> 1 (code 2), 3 -> 1 (code 2).
grep -qx 'first codes 10 22, scale 6d' "$work/output.txt"
