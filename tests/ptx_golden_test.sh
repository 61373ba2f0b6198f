#!/bin/bash
# The PTX that nvcc makes of each wrapper in ptx.cuh is the instruction that it is named for, once,
# and nothing spills into local memory. Needs nvcc and no GPU; exit status 77 without it.
set -u
nvcc=${NVCC:-${CUDA_HOME:-/usr/local/cuda}/bin/nvcc}
if ! command -v "$nvcc" >/dev/null; then
    echo "no nvcc ($nvcc): the PTX of ptx.cuh is not checked"
    exit 77
fi
source=tests/emu/golden_kernels.cu
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
flags="-std=c++17 -I. -Iinclude -Werror all-warnings"
status=0

for arch in ${PTX_ARCHS:-80 89 90a 100f 120f 120}; do
    # shellcheck disable=SC2086 # a list of words
    "$nvcc" $flags -arch="compute_$arch" -ptx "$source" -o "$out/all.ptx" || exit 1
    # Each "want" belongs to the next kernel in the file's order; a % there stands for an operand.
    grep -o 'want .*[^ ] *\*/' "$source" | sed -e 's/^want //' -e 's/ *\*\/$//' >"$out/wants"
    grep -oE '\.entry [A-Za-z0-9_]*golden_[a-z0-9_]*' "$out/all.ptx" | wc -l >"$out/kernels"
    awk -v folder="$out" '
        /\.entry / { file = sprintf("%s/body.%03d", folder, ++n) }
        file != "" { print > file }
        /^}/ { file = "" }' "$out/all.ptx"
    wanted=$(wc -l <"$out/wants")
    if [ "$wanted" != "$(cat "$out/kernels")" ]; then
        echo "compute_$arch: $(cat "$out/kernels") kernels and $wanted wants in $source"; status=1
        continue
    fi
    while IFS= read -r want; do
        times_wanted=1
        if [[ $want =~ ^([0-9]+a)\ (.*)$ ]]; then # that target alone
            want=${BASH_REMATCH[2]}
            [ "$arch" = "${BASH_REMATCH[1]}" ] || times_wanted=0
        elif [[ $want =~ ^([0-9]+)(f?)\ (.*)$ ]]; then # from that target on
            want=${BASH_REMATCH[3]}
            [ "${arch%[af]}" -ge "${BASH_REMATCH[1]}" ] || times_wanted=0
            [ -z "${BASH_REMATCH[2]}" ] || [[ $arch = *[af] ]] || times_wanted=0
        fi
        pattern=$(printf '%s' "$want" | sed -e 's/[.[{}*]/\\&/g' -e 's/\]/\\]/g' \
            -e 's/%/[%a-z0-9_]+/g')
        found=$(grep -lE "^[[:space:]]*$pattern" "$out"/body.* | wc -l)
        times=$(grep -hE "^[[:space:]]*$pattern" "$out"/body.* | wc -l)
        if [ "$found" != $times_wanted ] || [ "$times" != $times_wanted ]; then
            echo "compute_$arch: '$want' stands $times times in $found kernels, not $times_wanted"
            status=1
        fi
    done <"$out/wants"
    if grep -nE '(ld|st)\.local' "$out/all.ptx"; then
        echo "compute_$arch: local memory"; status=1
    fi
    rm -f "$out"/body.*
done
[ $status = 0 ] && echo "$(wc -l <"$out/wants") wrappers' PTX"
exit $status
