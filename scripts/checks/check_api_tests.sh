#!/bin/sh
# Fails when a public function or a status is named by no test.
. "$(dirname "$0")/files.sh"
words=$(files | grep -E '^tests/.*\.(c|cc|h)$' | tr '\n' '\0' | xargs -0 cat |
    grep -oE '(nib|NIB)_[A-Za-z0-9_]+' | sort -u)
{
    scripts/exports.sh
    grep -oE 'NIB_ERR_[A-Z_]+' include/nibble/status.h | sort -u
} | grep -vxF -e "$words" | sed 's/$/: named by no test/' | report
