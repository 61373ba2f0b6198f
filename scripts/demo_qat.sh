#!/usr/bin/env bash
# demo_qat.sh BUILD: trains a small Llama on the King James Bible, quantizes it, and trains on with
# fake-quantize; prints what validation loss that costs and gives back, and draws it.
#
# CORES= jobs at a time (all), SEEDS= ("1 2 3"), STEPS=, TUNE_STEPS=, TUNE_RATE= of the trainings.
# What an earlier run of the same build finished is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."

build=$1
out=$build/demo-qat
mkdir -p "$out"

# The verses without their numbers: 4137850 bytes, whose translation of 1611 is in the public
# domain. Debian's bible-kjv and bible-kjv-text hold it compressed.
text=$out/text.txt
text_sha256=b5c4940bcfeee072c0935b5200d0f9d88a00a0199cb0961d16133458fcdfae5d
if ! [ -s "$text" ]; then
    bible -f gen1:1-rev22:21 </dev/null | sed 's/^[^ ]* //' > "$text.part"
    mv "$text.part" "$text"
fi
echo "$text_sha256  $text" | sha256sum --check --status ||
    echo "demo-qat: $text is of another edition: expect other numbers"

start=$SECONDS
env -u MAKEFLAGS -u MFLAGS make --no-print-directory -j"${CORES:-$(nproc)}" \
    -f scripts/demo_qat.mk TOOL="$build/qat_demo" OUT="$out" TEXT="$text" \
    SEEDS="${SEEDS:-1 2 3}" STEPS="${STEPS:-2000}" TUNE_STEPS="${TUNE_STEPS:-1000}" \
    TUNE_RATE="${TUNE_RATE:-3e-4}"

rm -rf "$out/model"
first=${SEEDS:-1 2 3}
cp -r "$out/model-${first%% *}" "$out/model"
python3 scripts/byte_tokenizer.py "$out/model"
"$build/nibble" info "$out/model" | tail -n 3
"$build/nibble" quantize "$out/model" --format nvfp4 --force --quiet -o "$out/model-nvfp4"

python=$(scripts/python_env.sh scripts/plots.txt)
echo
"$python" scripts/plot_qat.py "$out"/*-[0-9]*.json -o "$out"
echo "$((SECONDS - start)) s. In $out: table.md, loss.png, model/ (f32), model-nvfp4/"
