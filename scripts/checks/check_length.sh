#!/bin/sh
# Fails on a source file over 500 lines or a line over 100 columns. Golden data is excepted.
. "$(dirname "$0")/files.sh"
files | grep -E '\.(c|h|cc|cu|cuh|py|sh|mk|cmake)$|(^|/)Makefile$|^\.ci/' |
    grep -v '^tests/golden/' | tr '\n' '\0' | xargs -0 awk '
    length($0) > 100 { printf "%s:%d: %d columns, at most 100\n", FILENAME, FNR, length($0) }
    FNR == 501       { printf "%s: more than 500 lines\n", FILENAME }' | report
