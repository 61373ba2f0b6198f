#!/bin/sh
# Times every kernel of gemm on a GPU over M and prints the line of kernels/cuda/gemm_tune.h's table
# that its figures give, with the figures: the last M for which each kernel is taken, so that all Ms
# together lose least (scripts/tune_table.py).
#
#   scripts/tune.sh [QBENCH] [-o FOLDER]        keeps qbench's rows in FOLDER (build/tune)
#   MODELS=llama-3.1-8b DTYPE=bf16 FORMAT=nvfp4 DEVICE=0
set -eu
cd "$(dirname "$0")/.."
qbench=build/qbench out=build/tune
while [ $# -gt 0 ]; do
    case $1 in
    -o) [ $# -gt 1 ] || { echo "tune: -o needs a folder" >&2; exit 2; }
        out=$2; shift ;;
    -*) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
    *) qbench=$1 ;;
    esac
    shift
done
[ -x "$qbench" ] || { echo "tune: no $qbench: make first" >&2; exit 2; }
mkdir -p "$out"
"$qbench" gemm --backend cuda --device "${DEVICE:-0}" --dtype "${DTYPE:-bf16}" \
    --format "${FORMAT:-nvfp4}" --model "${MODELS:-llama-3.1-8b}" --cache weights \
    --tactic small8,small16,tile32,tile64,wgmma128,exact \
    --m 1,4,8,16,24,32,48,64,96,128,256,512,1024,2048 --no-baseline \
    --no-verify --min-time 0.1 --max-time 0.5 --json "$out/rows.json"
exec python3 scripts/tune_table.py "$out/rows.json"
