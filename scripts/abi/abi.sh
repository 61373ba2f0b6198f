#!/bin/sh
# The library's binary interface against the recorded one, scripts/abi/libnibble.abi.
#
#   scripts/abi/abi.sh check LIBRARY.so     fails when a public function or type has changed
#   scripts/abi/abi.sh update LIBRARY.so    records the present one
#
# Reads debug information, so LIBRARY.so is built with -g. Types that the public headers keep
# to themselves are left out.
set -eu
what=${1:?check or update} library=${2:?the shared library}
cd "$(dirname "$0")/../.."
recorded=scripts/abi/libnibble.abi
command -v abidw >/dev/null || { echo "abidw is not here: abigail-tools"; exit 77; }

record() {
    abidw --headers-dir include --drop-private-types --no-show-locs --no-corpus-path \
        --no-comp-dir-path --no-elf-needed --no-architecture --no-parameter-names \
        --exported-interfaces-only --drop-undefined-syms --type-id-style hash \
        --out-file "$1" "$library"
}
case $what in
update)
    record $recorded
    echo "$recorded: $(grep -c '<elf-symbol ' $recorded) symbols" ;;
check)
    [ -e $recorded ] || { echo "$recorded is missing: make abi-update"; exit 1; }
    now=$(mktemp)
    trap 'rm -f "$now"' EXIT
    record "$now"
    if ! abidiff --no-show-locs $recorded "$now"; then
        echo "The ABI changed. If that is meant: make abi-update, and a line in README's changes."
        exit 1
    fi ;;
*)  echo "abi: check or update, not '$what'" >&2; exit 2 ;;
esac
