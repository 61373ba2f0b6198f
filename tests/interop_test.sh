#!/bin/bash
# Exports are opened by the Python packages safetensors and gguf, decoded by numpy alone, and
# must equal what nibble decodes, bit for bit. 77 (skipped): no Python packages to be had here.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${BUILD:-build}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python=$(scripts/python_env.sh) || exit 77
python3 scripts/make_sample_model.py "$work/model" 2 128 384
for export in "modelopt nvfp4 out" "compressed-tensors nvfp4 out" "compressed-tensors mxfp4 out" \
              "compressed-tensors int4-b32-asym out" "compressed-tensors int8-channel out" \
              "gguf nvfp4 out.gguf" "gguf mxfp4 out.gguf"; do
    read -r target format name <<<"$export"
    echo "== $export"
    "$build/nibble" quantize "$work/model" --export "$target" --format "$format" --force --quiet \
        -o "$work/$target-$format-$name"
    "$python" scripts/oracles/dequantize_export.py "$work/$target-$format-$name" "$work/plain"
    "$build/nibble" compare --quiet "$work/$target-$format-$name" "$work/plain" | tee "$work/said"
    grep -qE ': ([0-9]+) tensors, \1 of them equal$' "$work/said"
    # A decoder that is wrong must not pass: the original is no equal of its export.
    "$build/nibble" compare --quiet "$work/model" "$work/plain" | head -n 1 | tee "$work/said"
    ! grep -qE ': ([0-9]+) tensors, \1 of them equal$' "$work/said"
done

# Meaning: logits that transformers computed with a GGUF source, from its exports, in numpy.
golden=tests/golden/logits
nibble() { "$build/nibble" "$@" --quiet --force; }
logits() {
    echo "== logits of $1"
    "$python" scripts/oracles/llama_forward.py "$work/$1" "$golden/logits.npz"
}
nibble quantize "$golden/model.gguf" --exclude '*' --keep-dtype f32 -o "$work/plain-hf"
nibble quantize "$golden/model.gguf" --export modelopt --keep-dtype f32 -o "$work/modelopt"
nibble quantize "$golden/model.gguf" --export compressed-tensors --keep-dtype f32 -o "$work/ct"
nibble quantize "$golden/model.gguf" --export compressed-tensors --format mxfp4 --keep-dtype f32 \
    -o "$work/ct-mx"
nibble quantize "$golden/model.gguf" -o "$work/same.gguf"
nibble quantize "$work/plain-hf" -o "$work/nvfp4.gguf"
nibble quantize "$work/plain-hf" --format mxfp4 -o "$work/mxfp4.gguf"
for made in plain-hf modelopt ct ct-mx same.gguf nvfp4.gguf mxfp4.gguf; do logits "$made"; done
