#!/bin/bash
# make evidence: what it says without a GPU, a bundle of rows from the emulated GPU, and what the
# summary makes of a run on a GPU, from a folder of invented results.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${BUILD:-build}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
fail() { echo "FAIL: $*"; status=1; }
has() { # FILE PIECES...
    local file=$1 piece
    for piece in "${@:2}"; do
        grep -qF -e "$piece" "$file" || fail "no '$piece' in $(cat "$file")"
    done
}

# ---- without a GPU ----
mkdir "$work/bin"
printf '#!/bin/sh\nexit 9\n' >"$work/bin/nvidia-smi"
chmod +x "$work/bin/nvidia-smi"
code=0
BUILD=$work/build PATH=$work/bin:$PATH scripts/evidence.sh >"$work/said" 2>&1 || code=$?
[ $code = 1 ] || fail "no GPU: exit status $code"
[ "$(wc -l <"$work/said")" = 1 ] || fail "no GPU: not one sentence"
has "$work/said" "evidence: nvidia-smi sees no GPU here; BACKEND=cpu makes a bundle of the CPU"
code=0
BACKEND=tpu scripts/evidence.sh >"$work/said" 2>&1 || code=$?
[ $code = 1 ] || fail "BACKEND=tpu: exit status $code"
has "$work/said" "evidence: BACKEND=tpu: cuda, cpu or emulated"

# ---- a bundle, on the emulator ----
if [ -e "$build/emulated100/libnibble_cuda.so" ]; then
    mkdir -p "$work/build/emulated100"
    ln -s "$build/qbench" "$work/build/qbench"
    ln -s "$build/emulated100/libnibble_cuda.so" "$work/build/emulated100/libnibble_cuda.so"
    BUILD=$work/build BACKEND=emulated STEPS=measure ROWS=tests/golden/evidence_rows.txt \
        scripts/evidence.sh >"$work/said" 2>&1 || fail "a bundle: $(cat "$work/said")"
    mkdir "$work/open"
    tar -C "$work/open" -xzf "$work"/build/evidence-emulated-*.tar.gz || fail "no bundle"
    names=$(sed -n 's/^\([a-z0-9-]*\) .*/\1.json/p' tests/golden/evidence_rows.txt)
    for file in summary.md machine.txt summary.txt qbench.txt rows.txt $names; do
        [ -s "$(echo "$work"/open/evidence-emulated-*/$file)" ] || fail "no $file in the bundle"
    done
    has "$(echo "$work"/open/*/summary.md)" "**emulated: CUDA kernels on the CPU emulator; times" \
        "| tests | **not run** |" "| sanitizers | **not run** |" \
        "| quantize nvfp4 bf16 te | 2x128 |" "| hessian_grouped bf16 f32 | 2x4x32 |" \
        "| hessian_inverse f32 | 32 |" "| gptq_quantize_steps f32 f32 int4 | 2x32 |"
    ! grep -q 'not run: ' "$work"/open/*/summary.md || fail "a row that did not run"
    ! grep -qE '\| (met|\*\*missed)' "$work"/open/*/summary.md || fail "emulated rows were judged"
fi

# ---- the summary of invented results ----
invented=$work/evidence-invented
mkdir "$invented"
cat >"$invented/rows.txt" <<'ROWS'
# bars
large copy>=0.85 quantize
slow copy>=0.85 quantize
read read>=0.90 amax
small time<=1.3 quantize
wrong - quantize
absent copy>=0.5 quantize
product lib>=2.0 gemm
ROWS
cat >"$invented/summary.txt" <<'STEPS'
scripts/gpu_test.sh build : exit 0, 9 s: gpu_test: built
env SANITIZERS= scripts/gpu_test.sh test : exit 1, 7 s: 5 passed, 1 failed, 0 skipped
env SANITIZERS=memcheck scripts/gpu_test.sh sanitize : exit 77, 0 s: compute-sanitizer is missing
b/qbench quantize --rows 8 --max-time 2 --json x : exit 0, 1 s: row
racecheck: no time left
STEPS
printf 'invented machine\n=====NVSMI LOG=====\nlong\n' >"$invented/machine.txt"
# 32 x 32 bf16 and NVFP4: 2048 bytes and 576; a copy of the 2048 in COPY us moves 4096.
row() { # OP MEDIAN COPY SOL NOISY VERIFIED
    printf '{"op":"%s","format":"nvfp4","block":16,"dtype":"bf16",' "$1"
    printf '"rules":"te","layout":"linear",'
    printf '"shape":{"rows":32,"cols":32,"batch":1},"bytes":2048,"median_us":%s,"gbps":2,' "$2"
    printf '"baselines":[{"name":"copy","median_us":%s}],"sol":%s,"noisy":%s,' "$3" "$4" "$5"
    printf '"verified":%s,"skipped":null}\n' "$6"
}
row quantize 6.40625 10 0.5 false true >"$invented/large.json" # 2624 / 4096 / 0.640625 is 1
row quantize 8 10 0.5 true true >"$invented/slow.json"
row amax 1 1 0.95 false true >"$invented/read.json"
{ row quantize 1.2 1 0.5 false true; row quantize 1.4 1 0.5 false true; } >"$invented/small.json"
row quantize 1 1 0.5 false false >"$invented/wrong.json"
for us in 4.0 1.0; do # 4 times as fast, and as fast: 2 in the geometric mean
    printf '{"op":"gemm","format":"nvfp4","dtype":"f16","shape":{"m":1,"n":8,"k":16},"bytes":72,'
    printf '"median_us":1,"gbps":0.07,"baselines":[{"name":"cublaslt","median_us":%s}],' $us
    printf '"sol":0.5,"noisy":false,"verified":true,"skipped":null}\n'
done >"$invented/product.json"
code=0
python3 scripts/evidence_summary.py "$invented" cuda >"$work/summary.md" || code=$?
[ $code = 1 ] || fail "a wrong row: exit status $code"
row="| quantize nvfp4 bf16 te | 32x32 |"
has "$work/summary.md" "# Evidence: invented" "Mark: ran" \
    '| `scripts/gpu_test.sh test` | **failed**, exit 1 | 5 passed, 1 failed, 0 skipped | 7 |' \
    '| `SANITIZERS=memcheck scripts/gpu_test.sh sanitize` | skipped | compute-sanitizer is' \
    '| `qbench quantize --rows 8` | passed |  | 1 |' "|  | skipped | racecheck: no time left |" \
    "$row 6.41 | 2.00 | 1.00 | 0.50 | 0.64 | copy>=0.85 | met | yes |" \
    "$row 8.00 | 2.00 | 0.80 | 0.50 | 0.80 | copy>=0.85 | **missed**, noisy | yes |" \
    "| 32x32 | 1.00 | 2.00 | - | 0.95 | 1.00 | read>=0.90 | met | yes |" \
    "| 1.20 | time<=1.3 | met | yes |" "| 1.40 | time<=1.3 | **missed** | yes |" \
    "| product: 2 of 2, 2.00 times as fast as cublaslt |" "| lib>=2.0 | met |  |" \
    "| - | - | **wrong** |" "| absent | not measured |" "    invented machine"
! grep -q 'NVSMI\|long' "$work/summary.md" || fail "all of nvidia-smi -q in the summary"
echo "{" >"$invented/large.json"
code=0
python3 scripts/evidence_summary.py "$invented" cuda >"$work/said" 2>&1 || code=$?
[ $code = 1 ] || fail "broken JSON: exit status $code"
has "$work/said" "evidence_summary: $invented: cannot be read"
[ $status = 0 ] && echo "evidence: all as it should be"
exit $status
