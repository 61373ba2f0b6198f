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

made=()
# make_one OUTPUT RUNTIMES OPTIONS...: one checkpoint. The model that is fetched must go into each;
# a user's own may be of a kind that not every layout can hold.
make_one() {
    local dst=$out/$1 for=$2
    shift 2
    if step "$nibble" quantize "$model" "$@" --force -o "$dst"; then
        made+=("$(printf '%-18s for %s' "${dst##*/}" "$for")")
    elif [ -z "${MODEL:-}" ]; then
        exit 1
    fi
}

step "$nibble" info "$model"
make_one model-nvfp4.gguf llama.cpp --format nvfp4 --export gguf
make_one model-mxfp4.gguf llama.cpp --format mxfp4 --export gguf
make_one model-modelopt "TensorRT-LLM, vLLM, SGLang" --format nvfp4 --export modelopt
if [ "${#made[@]}" = 0 ]; then
    echo "Nothing could be made of $model (see above)." >&2
    exit 1
fi
[[ ${made[*]} == *model-modelopt* ]] && step "$nibble" info "$out/model-modelopt"

printf '\nDone, %d of 3. In %s:\n' "${#made[@]}" "$out"
printf '  %s\n' "${made[@]}"
echo "Next: $nibble quantize --help; MODEL=path make quickstart takes your own model."
