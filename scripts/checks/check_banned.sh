#!/bin/sh
# Fails on what may not stand in the tree; see the reasons below. Comments and strings are
# not code. This folder, which has to name these words, is excepted.
. "$(dirname "$0")/files.sh"
text=$(files | grep -v -e '^scripts/checks/' -e '^LICENSE$' -e '^scripts/abi/.*\.abi$' \
    -e '^tests/fuzz/corpus/' -e '^tests/golden/')
code=$(printf '%s\n' "$text" | grep -E '\.(c|h|cc|cu|cuh)$')

in_code() {
    printf '%s\n' "$code" | tr '\n' '\0' | xargs -0 awk '
    function bare(line,    out, token, end) { # the line without comments, strings emptied
        out = ""
        while (line != "") {
            if (in_comment) {
                end = index(line, "*/")
                if (!end) return out
                line = substr(line, end + 2)
                in_comment = 0
            }
            if (!match(line, /"([^"\\]|\\.)*"|\047([^\047\\]|\\.)*\047|\/\*|\/\//)) return out line
            token = substr(line, RSTART, RLENGTH)
            out = out substr(line, 1, RSTART - 1)
            line = substr(line, RSTART + RLENGTH)
            if (token == "//") return out
            if (token == "/*") in_comment = 1
            else out = out substr(token, 1, 1) substr(token, 1, 1)
        }
        return out
    }
    function ban(pattern, why) {
        if (line ~ "(^|[^a-zA-Z0-9_])" pattern)
            printf "%s:%d: %s: %s\n", FILENAME, FNR, why, $0
    }
    FNR == 1 {
        in_comment = 0
        library = FILENAME ~ /^kernels\// || FILENAME ~ /^host\// && FILENAME !~ /^host\/tools\//
        no_assert = FILENAME ~ /^(include|kernels\/common|kernels\/cuda)\//
    }
    {
        line = bare($0)
        if (library) {
            ban("(printf|vprintf|puts|putchar|perror) *\\(", "the library never prints")
            ban("v?fprintf *\\( *(stderr|stdout)", "the library never prints")
            ban("(exit|_exit|_Exit|quick_exit|abort) *\\(", "the library never ends the process")
            ban("(system|popen|fork) *\\(", "the library starts no process")
        }
        if (no_assert) ban("assert *\\(", "assert belongs in host/ and kernels/cpu")
        ban("(sprintf|vsprintf|strcpy|strcat|gets|strtok) *\\(", "unbounded")
        ban("(atoi|atol|atoll|atof) *\\(", "takes any text for a number; use strtol and its kin")
        ban("(tmpnam|tempnam|mktemp) *\\(", "races; use mkstemp or mkdtemp")
        if (line ~ /^[ \t]*# *if +0([^-9a-zA-Z_.]|$)/)
            printf "%s:%d: dead code lives in git: %s\n", FILENAME, FNR, $0
        if (line ~ /# *pragma.*(fast|fp_contract|FP_CONTRACT)/ && line !~ /OFF|off/)
            printf "%s:%d: the same bits everywhere: no loose arithmetic: %s\n", FILENAME, FNR, $0
    }'
}

in_text() { # WHY PATTERN: extended, over every text file, minus lines matching $3
    printf '%s\n' "$text" | tr '\n' '\0' | xargs -0 grep -InE -e "$2" /dev/null |
        grep -vE -e "${3:-^$}" | sed "s/\$/   <- $1/"
}
in_files() { # GLOB-PATTERN WHY PATTERN
    printf '%s\n' "$text" | grep -E "$1" | tr '\n' '\0' | xargs -0 grep -InE -e "$3" /dev/null |
        sed "s/\$/   <- $2/"
}
tab=$(printf '\t')
{
    in_code
    in_text 'needs the number of an issue' '(^|[^A-Za-z])(TODO|FIXME)([^A-Za-z]|$)' \
        '(TODO|FIXME)[ (]*#[0-9]'
    in_text 'a path of one machine' '(^|[^A-Za-z0-9_.$}*-])/(work|home|root|Users)/'
    in_files '\.(c|h|cc|cu|cuh|py|sh|md|in|yml)$' 'a tab' "$tab"
    in_files '\.(c|h|cc|cu|cuh|py|sh|mk)$|Makefile$' 'trailing blank' '[[:blank:]]+$'
    in_files '\.(sh|mk|cmake|in)$|(^|/)Makefile$|^\.ci/' 'no loose arithmetic' \
        '-Ofast|-ffast-math|-funsafe-math|-ffp-contract=(on|fast)|use_fast_math|-fmad=true'
} | report
