# files.sh: what the checks share. Sourced; the working folder is the tree to check.
export LC_ALL=C

# Prints the tree's files: what git holds or would add, or everything where there is no git.
files() {
    if [ -e .git ]; then
        git ls-files --cached --others --exclude-standard | while IFS= read -r file; do
            [ ! -f "$file" ] || printf '%s\n' "$file"
        done
    else
        find . -type f -not -path './build*' -not -path './.cache/*' | sed 's|^\./||'
    fi | sort -u
}

# Fails with the findings on standard input, if there are any.
report() {
    findings=$(cat)
    [ -z "$findings" ] && return 0
    printf '%s\n' "$findings"
    return 1
}
