#!/usr/bin/env bash
# quickstart.sh BUILD: quantizes a real model three ways and shows what became of it.
# MODEL=path: the user's own file or folder. With CI=true, a model that cannot be had is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

build=$1
nibble=$build/nibble
out=$build/quickstart
mkdir -p "$out"

model=${MODEL:-}
if [ -z "$model" ]; then
    scripts/bootstrap.sh model
    if fetched=$(scripts/get_model.sh); then
        model=$fetched
    else
        echo "The real model cannot be had (see above)."
        [ "${CI:-}" = true ] && exit 1
        model=$out/sample-model
        echo "Going on with a model of random weights, made in $model."
        python3 scripts/make_sample_model.py "$model"
    fi
fi

step() { printf '\n$ %s\n' "$*"; "$@"; }

step "$nibble" info "$model"
step "$nibble" quantize "$model" --format nvfp4 --export gguf --force -o "$out/model-nvfp4.gguf"
step "$nibble" quantize "$model" --format mxfp4 --export gguf --force -o "$out/model-mxfp4.gguf"
step "$nibble" quantize "$model" --format nvfp4 --export modelopt --force -o "$out/model-modelopt"
step "$nibble" info "$out/model-modelopt"

cat <<END

Done. In $out:
  model-nvfp4.gguf   for llama.cpp        model-modelopt/   for TensorRT-LLM, vLLM, SGLang
  model-mxfp4.gguf   for llama.cpp
Next: $nibble quantize --help; MODEL=path make quickstart takes your own model.
END
