#!/bin/bash
# make demo-qat in small: a tiny model on a made-up text, in seconds. Training lowers the loss,
# quantizing adds to it, training on with fake-quantize takes most of that back; a seed always
# gives the same bytes. 77 (skipped): OpenBLAS is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${BUILD:-build}")
printf '#include <cblas.h>\n' | "${CC:-gcc}" -E - >/dev/null 2>&1 ||
    { echo "OpenBLAS (libopenblas-dev) is not installed"; exit 77; }
make --no-print-directory BUILD="${BUILD:-build}" CUDA=0 "${BUILD:-build}/qat_demo"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Sentences of a small grammar, by a generator that every awk computes alike.
awk 'BEGIN {
    split("king shepherd prophet river mountain servant stranger daughter widow scribe", noun)
    split("saw blessed followed heard kept remembered found answered", verb)
    split("great little old faithful silent golden", like)
    for (x = 7; n < 4000; n++) {
        for (i = 0; i < 6; i++) { x = (x * 16807) % 2147483647; r[i] = x }
        print "And the " like[r[0] % 6 + 1] " " noun[r[1] % 10 + 1] " " verb[r[2] % 8 + 1] \
            " the " (r[3] % 3 ? "" : like[r[4] % 6 + 1] " ") noun[r[5] % 10 + 1] "."
    }
}' > "$work/text"

run() { # NAME OPTIONS...
    "$build/qat_demo" --small --text "$work/text" --validate 8192 --output "$work/$1.json" "${@:2}"
}
loss() { # NAME KEY
    sed -n "s/^ *\"$2\": \([0-9.]*\),\{0,1\}\$/\1/p" "$work/$1.json"
}
holds() { # AWK-CONDITION, WHAT
    awk "BEGIN { exit !($1) }" || { echo "not so: $2: $1"; exit 1; }
    echo "so: $2: $1"
}

run f32 --steps 240 --model "$work/model"
tune=(--from "$work/model" --steps 60 --rate 5e-4)
run nvfp4 --run nvfp4 "${tune[@]}"
run progressive --run progressive "${tune[@]}"
run clamp --run nvfp4 --gradient clamp "${tune[@]}"
first=$(sed -n '/"curve"/,$p' "$work/f32.json" | grep -m 1 -oE '[0-9]+\.[0-9]+')
f32=$(loss f32 f32) ptq=$(loss f32 nvfp4) qat=$(loss nvfp4 nvfp4) mx=$(loss f32 mxfp4)
stages=$(loss progressive nvfp4)
holds "$f32 < 0.5 * $first" "training halves the loss"
holds "$ptq > $f32 && $mx > $f32" "quantizing adds to it"
holds "$qat < $ptq - 0.5 * ($ptq - $f32)" "QAT takes back half of what NVFP4 added, or more"
holds "$stages < $ptq" "so does it by stages"
holds "$(loss clamp nvfp4) < $ptq && $(loss clamp nvfp4) != $qat" "and with gradients that stop"

# The same again: every byte of the model, every digit of the losses.
run again --steps 240 --model "$work/again"
cmp "$work/model/model.safetensors" "$work/again/model.safetensors"
run nvfp4-again --run nvfp4 "${tune[@]}"
for name in f32:again nvfp4:nvfp4-again; do
    diff <(grep -v cpu_seconds "$work/${name%:*}.json") \
         <(grep -v cpu_seconds "$work/${name#*:}.json")
done
run other --steps 20 --seed 2 --model "$work/other"
if cmp -s "$work/model/model.safetensors" "$work/other/model.safetensors"; then exit 1; fi

# The model is what other tools take it for: nibble, and a Llama in numpy.
python3 scripts/byte_tokenizer.py "$work/model"
"$build/nibble" info "$work/model" | grep -q 'q_proj'
"$build/nibble" quantize "$work/model" --format nvfp4 --quiet -o "$work/quantized"
if python=$(scripts/python_env.sh); then
    "$python" scripts/oracles/check_loss.py "$work/model" "$work/text" "$work/f32.json"
fi

# Bad requests: 1 for work that fails, 2 for wrong usage, each with a sentence.
refused() { # STATUS WORDS OPTIONS...
    local status=0
    "$build/qat_demo" "${@:3}" >"$work/said" 2>&1 || status=$?
    [ "$status" = "$1" ] && grep -qF -- "$2" "$work/said" ||
        { echo "status $status, without '$2':"; cat "$work/said"; exit 1; }
}
small=(--small --steps 1 --output "$work/x.json")
refused 2 "--text and --output are needed" --steps 1
refused 2 "'0' is not a whole number" "${small[@]}" --text "$work/text" --steps 0
refused 2 "--rate 'x' is not a number" "${small[@]}" --text "$work/text" --rate x
refused 2 "the choices are identity, clamp" "${small[@]}" --text "$work/text" --gradient x
refused 1 "unknown format 'nvfp5'" "${small[@]}" --text "$work/text" --run nvfp5
refused 1 "a gap at the end" "${small[@]}" --text "$work/text" --run nvfp4:0.5
refused 1 "No such file" "${small[@]}" --text "$work/none"
head -c 7000 "$work/text" > "$work/short"
refused 1 "7000 bytes are too few to train on" "${small[@]}" --text "$work/short"
refused 1 "no F32 tensor" --steps 1 --output "$work/x.json" --text "$work/text" \
    --from "$work/model"
