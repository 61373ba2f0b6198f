#!/bin/bash
# What nvcc made of each kernel, held against two tables. Needs no GPU and compiles nothing:
#
#   scripts/checks/cuda_gates.sh FOLDER [BUDGET [GATES]]
#
# FOLDER has the X.cu.keep of cuda.mk: for each target PTX and, but for PTX that is shipped itself,
# a cubin of the same name; and log.txt with what ptxas -v says. BUDGET (kernels/cuda/budget.txt):
# a kernel and its registers at most; the first line that fits counts. GATES (of the same folder)
# says its columns itself. Whatever the tables say, no kernel may spill, have a stack frame, have
# its wgmma serialized by ptxas, or stand without a line of BUDGET; a line that no kernel uses is an
# error.
#
# A kernel's name is as in the source, template arguments included and without blanks:
# quantize_block<2,16,true>. Tables hold extended regular expressions for the whole name.
set -u
export LC_ALL=C
folder=${1:?a folder of X.cu.keep} budget=${2:-kernels/cuda/budget.txt}
gates=${3:-kernels/cuda/gates.txt}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in "$budget" "$gates"; do
    [ -r "$file" ] || { echo "no $file"; exit 1; }
done
keeps=("$folder"/*.cu.keep)
[ -d "${keeps[0]}" ] || { echo "$folder: nothing was kept"; exit 1; }

for keep in "${keeps[@]}"; do
    stem=$(basename "$keep" .cu.keep)
    # kernel, stem, target, registers, stack bytes, bytes of spill stores and loads
    awk -v stem="$stem" '
        function tell(text) { print "bad\t" stem ".cu: " text }
        /Compiling entry function/ {
            if (open) tell("ptxas told nothing of " kernel)
            split($0, quoted, "\047"); kernel = quoted[2]; target = quoted[4]; open = 1
            sub(/^sm_/, "", target)
        }
        /\(C75[0-9]+\).*(wgmma|GMMA)/ { tell("ptxas lets no products run on: " $0) }
        /Function properties for/ && $NF != kernel { tell($NF " is a function of its own") }
        /bytes stack frame/ && open { stack = $1; stores = $5; loads = $9 }
        /Used [0-9]+ registers/ && open {
            for (i = 1; i < NF; i++) if ($i == "Used") registers = $(i + 1)
            printf "use\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", kernel, stem, target, registers, stack, \
                stores, loads
            open = 0; stack = stores = loads = "?"
        }
        END { if (open) tell("ptxas told nothing of " kernel) }' "$keep/log.txt"
    for ptx in "$keep"/*.ptx; do
        [ -e "$ptx" ] || { printf 'bad\t%s: no PTX\n' "$keep"; continue; }
        target=$(sed -n 's/^\.target sm_\([0-9a-z]*\).*/\1/p' "$ptx") cubin=${ptx%.ptx}.cubin
        printf 'ptx\t%s\t%s\t%s\t%s\n' "$ptx" "$stem" "$target" \
            "$([ ! -e "$cubin" ] || stat -c %s "$cubin")"
    done
done >"$work/made"

# Names for people. c++filt leaves each on its line.
{
    awk -F '\t' '$1 == "use" { print $2 }' "$work/made"
    awk -F '\t' '$1 == "ptx" { print $2 }' "$work/made" | tr '\n' '\0' |
        xargs -0 sed -n 's/.*\.entry \([A-Za-z0-9_$]*\).*/\1/p'
} | sort -u >"$work/mangled"
c++filt <"$work/mangled" | sed -e 's/(anonymous namespace):://g' -e 's/^void //' -e 's/ //g' \
    -e 's/^\([^(<]*\)(.*/\1/' -e 's/>(.*/>/' | paste "$work/mangled" - >"$work/names"

awk -v names="$work/names" -v budget="$budget" -v gates="$gates" '
function fail(text) { print text; failed = 1 }
function whole(text, pattern) { return text ~ ("^(" pattern ")$") }
function after(line, fields) { # the rest of a line behind so many fields
    while (fields-- > 0) sub(/^[ \t]*[^ \t]+/, "", line)
    sub(/^[ \t]+/, "", line)
    return line
}
function read_tables(    line, part) {
    while ((getline line < names) > 0) { split(line, part, "\t"); name[part[1]] = part[2] }
    while ((getline line < budget) > 0) {
        if (line ~ /^[ \t]*(#|$)/) continue
        if (split(line, part, " ") != 2 || part[2] !~ /^[0-9]+$/)
            fail(budget ": not a kernel and a number: " line)
        budgets++; budget_kernel[budgets] = part[1]; budget_most[budgets] = part[2] + 0
    }
    while ((getline line < gates) > 0) {
        if (line ~ /^[ \t]*(#|$)/) continue
        if (split(line, part, " ") < 4 || part[3] !~ /^(has|lacks|allows|bytes)$/)
            fail(gates ": not a kernel, targets, has|lacks|allows|bytes and a pattern: " line)
        rules++; rule_kernel[rules] = part[1]; rule_target[rules] = part[2]
        rule_verdict[rules] = part[3]; rule_pattern[rules] = after(line, 3)
    }
}
# The rules of one kernel, and what they ask for.
function begin_kernel(kernel, target,    r) {
    active = 0
    for (r in allowed) delete allowed[r]
    for (r = 1; r <= rules; r++) {
        if (rule_verdict[r] == "bytes" || !whole(kernel, rule_kernel[r])) continue
        if (!whole(target, rule_target[r])) continue
        rule_used[r] = 1
        if (rule_verdict[r] == "allows") allowed[rule_pattern[r]] = 1
        else { active_rule[++active] = r; seen[r] = 0 }
    }
}
function end_kernel(what,    i, r) {
    for (i = 1; i <= active; i++) {
        r = active_rule[i]
        if (rule_verdict[r] == "has" && !seen[r])
            fail(what ": no instruction " rule_pattern[r])
        if (rule_verdict[r] == "lacks" && seen[r] && !(rule_pattern[r] in allowed))
            fail(what ": " seen[r] " times " rule_pattern[r] ", first: " first[r])
    }
}
function read_ptx(file, stem, target,    line, kernel, body, inlined, part, n, p, \
                  i, r, what) {
    body = 0
    while ((getline line < file) > 0) {
        if (line ~ /\.entry /) {
            kernel = line; sub(/.*\.entry /, "", kernel); sub(/[^A-Za-z0-9_$].*/, "", kernel)
            entries[stem, target]++
            what = stem ".cu, " target ", " name[kernel]
            begin_kernel(name[kernel], target)
            kernels[stem, name[kernel]] = 1
        } else if (line ~ /^[^ \t].*\.func /) fail(stem ".cu, " target ": a function: " line)
        # Inline asm may have braces at the start of lines and several instructions in one.
        if (line ~ /\/\/ (begin|end) inline asm/) { inlined = line ~ /begin/; continue }
        if (line ~ /^\{/ && !body) { body = 1; continue }
        if (line ~ /^\}/ && body && !inlined) { body = 0; end_kernel(what); continue }
        if (!body || line !~ /;/) continue
        n = split(line, part, ";")
        for (p = 1; p <= n; p++) {
            sub(/^[ \t{}]*(@!?%?[a-z0-9]+[ \t]+)?/, "", part[p])
            if (part[p] == "" || part[p] ~ /^[.\/$]/) continue
            for (i = 1; i <= active; i++) {
                r = active_rule[i]
                if (part[p] ~ rule_pattern[r] && !seen[r]++) first[r] = part[p]
            }
        }
    }
    close(file)
}
BEGIN { FS = "\t"; read_tables() }
$1 == "bad" { fail($2) }
$1 == "use" {
    kernel = name[$2]; what = $3 ".cu, " $4 ", " kernel
    uses[$3, $4]++; targets[$4] = 1
    kernels[$3, kernel] = 1
    if ($6 != 0) fail(what ": a stack frame of " $6 " bytes")
    if ($7 != 0 || $8 != 0) fail(what ": spills, " $7 " bytes stored and " $8 " loaded")
    for (b = 1; b <= budgets; b++) if (whole(kernel, budget_kernel[b])) break
    if (b > budgets) {
        key = $3 ".cu, " kernel
        if ($5 + 0 > missing[key] + 0) missing[key] = $5
    } else {
        budget_used[b] = 1
        if ($5 + 0 > budget_most[b])
            fail(what ": " $5 " registers, the budget is " budget_most[b])
    }
    if ($5 + 0 > most) most = $5 + 0
}
$1 == "ptx" {
    targets[$4] = 1
    read_ptx($2, $3, $4)
    if ($5 != "" && uses[$3, $4] + 0 != entries[$3, $4] + 0)
        fail($3 ".cu, " $4 ": " entries[$3, $4] + 0 " kernels in PTX, " uses[$3, $4] + 0 \
             " in the log of ptxas")
    if ($5 == "") next
    for (r = 1; r <= rules; r++) {
        if (rule_verdict[r] != "bytes" || !whole($3, rule_kernel[r])) continue
        if (!whole($4, rule_target[r])) continue
        rule_used[r] = 1
        if ($5 + 0 > rule_pattern[r] + 0)
            fail($3 ".cu, " $4 ": " $5 " bytes of machine code, at most " rule_pattern[r])
        break
    }
    if (r > rules) fail($3 ".cu, " $4 ": " $5 " bytes of machine code, no line in " gates)
}
END {
    for (k in missing)
        fail(k ": no line in " budget ", it has " missing[k] " registers at most")
    for (b = 1; b <= budgets; b++)
        if (!budget_used[b]) fail(budget ": no kernel is " budget_kernel[b])
    for (r = 1; r <= rules; r++) {
        built = 0
        for (t in targets) if (whole(t, rule_target[r])) built = 1
        if (built && !rule_used[r])
            fail(gates ": nothing is " rule_kernel[r] " for " rule_target[r])
    }
    for (t in targets) n_targets++
    for (k in kernels) n_kernels++
    if (!n_kernels) fail("no kernel at all")
    if (failed) exit 1
    printf "%d kernels for %d targets: at most %d registers, no spills, %d rules\n", n_kernels, \
        n_targets, most, rules
}' "$work/made"
