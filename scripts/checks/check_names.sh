#!/bin/sh
# Fails when two files share a base name (README.md excepted), or a name tells of an older one.
. "$(dirname "$0")/files.sh"
{
    files | grep -v -e '^tests/golden/' -e '^tests/fuzz/corpus/' | sed 's|.*/||' |
        grep -vx 'README.md' | sort | uniq -d | sed 's/$/: two files have this base name/'
    files | grep -E '(^|[/_.-])(old|new|v[0-9]|copy|backup|bak)[_.]' |
        grep -v -e '^tests/golden/' -e '^tests/fuzz/' | sed 's/$/: older versions live in git/'
} | report
