#!/bin/sh
# Prints the functions that include/nibble declares, one per line, sorted; with --map as a
# version script for the linker. Run from the repository's root.
set -eu

names() {
    for header in include/nibble/*.h; do
        [ "$header" = include/nibble/nibble.h ] || printf '#include "nibble/%s"\n' "${header##*/}"
    done |
        ${CC:-cc} -std=c11 -Iinclude -E -xc - |
        # Only our own headers' lines. A pointer to a function reads (*name)( and so does not match.
        awk '/^#/ { own = $3 ~ /^"(\.\/)?include\/nibble\//; next } own' |
        tr '\n' ' ' | grep -oE '(^|[^a-zA-Z0-9_])nib_[a-z0-9_]+ *\(' |
        grep -oE 'nib_[a-z0-9_]+' | LC_ALL=C sort -u
}

list=$(names)
[ -n "$list" ] || { echo "exports: no function found in include/nibble" >&2; exit 1; }
if [ "${1:-}" = --map ]; then
    major=$(awk '$2 == "NIB_VERSION_MAJOR" {print $3}' include/nibble/version.h)
    printf 'NIBBLE_%s {\nglobal:\n' "$major"
    printf '    %s;\n' $list
    printf 'local:\n    *;\n};\n'
else
    printf '%s\n' $list
fi
