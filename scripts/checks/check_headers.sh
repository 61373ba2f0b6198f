#!/bin/sh
# Each public header compiles alone, as strict C99 and as C++, with every compiler there is,
# and two files that include everything link into one program.
. "$(dirname "$0")/files.sh"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
warnings="-Wall -Wextra -Werror -pedantic -Wshadow -Wundef"
{
    for header in include/nibble/*.h; do
        name=nibble/$(basename "$header")
        grep -q "\"$name\"" include/nibble/nibble.h || [ "$name" = nibble/nibble.h ] ||
            echo "$header: nibble.h does not include it"
        for compiler in gcc clang; do
            command -v $compiler >/dev/null || continue
            for language in c99 c11 c++11 c++17 c++20; do
                case $language in c9*|c1*) as=c ;; *) as=c++ ;; esac
                printf '#include "%s"\ntypedef int nib_at_least_one_declaration;\n' "$name" |
                    $compiler -std=$language -x $as $warnings -Iinclude -fsyntax-only - 2>&1 |
                    sed "s|^|$name alone, $compiler -std=$language: |"
            done
        done
    done

    for unit in one two; do
        printf '#include "nibble/nibble.h"\nint %s(void);\nint %s(void) { return 0; }\n' \
            $unit $unit > "$out/$unit.c"
    done
    echo 'int one(void); int two(void); int main(void) { return one() + two(); }' > "$out/main.c"
    (cd "$out" && ${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Werror -I"$OLDPWD/include" \
        -o both one.c two.c main.c && ./both) 2>&1 || echo "two files with nibble.h do not link"
} | report
