#!/bin/sh
# Fails on an #include, "..." or <...>, that points the wrong way:
#
#   include, kernels/common     -> themselves
#   kernels/backend.h           -> include
#   kernels/{packed,gemm_pack,gptq_order}.h -> kernels/backend.h, kernels/common, include,
#                                  each other
#   kernels/cpu, kernels/cuda   -> themselves and all of these
#   host/*.[ch]                 -> include, kernels/backend.h, host/io, host/model, themselves
#   host/io, host/model         -> include, kernels/backend.h, host/internal.h, host/io, themselves
#   host/tools                  -> include, kernels/backend.h, host/io, host/model, themselves
#   host/plugin                 -> include, themselves
#   tests, scripts              -> anything; only tests names tests
. "$(dirname "$0")/files.sh"
tree=$(files)
{
    printf '%s\n' "$tree" | sed 's/^/file /'
    printf '%s\n' "$tree" | grep -E '\.(c|h|cc|cu|cuh|in)$' | tr '\n' '\0' |
        xargs -0 grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<]' /dev/null
} | awk '
function folder(path) { return path ~ /\// ? substr(path, 1, match(path, /\/[^\/]*$/) - 1) : "" }
function tidy(path) { # a/b/../c is a/c
    gsub(/\/\.\//, "/", path)
    while (match(path, /[^\/]+\/\.\.\//))
        path = substr(path, 1, RSTART - 1) substr(path, RSTART + RLENGTH)
    return path
}
# The file an include means, or what it would mean in this tree; "" for a system header.
function target(from, name, quoted,    near) {
    near = tidy(folder(from) "/" name)
    if (quoted && near in have) return near
    if (tidy(name) in have) return tidy(name)
    if (name ~ /^nibble\//) return "include/" name
    if (tidy("include/" name) in have) return tidy("include/" name)
    sub(/^(\.\.?\/)+/, "", name)
    if (name ~ /^(include|host|kernels|tests|scripts)\//) return tidy(name)
    return quoted ? near : ""
}
function layer(path) {
    if (path == "kernels/backend.h") return "backend"
    if (path ~ /^kernels\/(packed|gemm_pack|gptq_order)\.h$/) return "packed"
    if (path == "host/internal.h") return "internal"
    if (match(path, /^(kernels\/(common|cpu|cuda)|host\/(io|model|tools|plugin))\//))
        return substr(path, 1, RLENGTH - 1)
    return substr(path, 1, index(path, "/") - 1)
}
BEGIN {
    may["include"] = ""
    may["kernels/common"] = ""
    may["backend"] = "include"
    may["packed"] = "backend kernels/common include"
    may["kernels/cpu"] = may["kernels/cuda"] = "packed backend kernels/common include"
    may["internal"] = "backend include host"
    may["host"] = "include backend internal host/io host/model"
    may["host/io"] = may["host/model"] = "include backend internal host/io"
    may["host/tools"] = "include backend host/io host/model"
    may["host/plugin"] = "include"
    may["tests"] = may["scripts"] = "*"
}
/^file / { have[substr($0, 6)] = 1; next }
{
    from = substr($0, 1, index($0, ":") - 1)
    rest = substr($0, index($0, ":") + 1)
    line = substr(rest, 1, index(rest, ":") - 1)
    match(rest, /["<][^">]*/)
    name = substr(rest, RSTART + 1, RLENGTH - 1)
    to = target(from, name, substr(rest, RSTART, 1) == "\"")
    if (to == "") next
    a = layer(from); b = layer(to)
    if (a == b) next
    if (!(a in may)) { printf "%s:%s: no layer has this folder\n", from, line; next }
    if (b == "tests" || may[a] != "*" && index(" " may[a] " ", " " b " ") == 0)
        printf "%s:%s: %s may not include %s (%s)\n", from, line, a, b, name
}' | report
