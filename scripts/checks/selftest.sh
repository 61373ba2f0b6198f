#!/bin/sh
# Seeds faults into a small tree and fails when a check does not see one of them, or
# complains about the tree without them.
set -u
checks=$(cd "$(dirname "$0")" && pwd)
status=0
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cd "$tree" || exit 1

fresh() {
    rm -rf "${tree:?}"/*
    mkdir -p include/nibble host/io host/tools kernels/common kernels/cpu kernels/cuda tests scripts
    echo '#include <stdint.h>' > include/nibble/format.h
    echo '#include <math.h>' > kernels/common/half.h
    echo '#include "nibble/format.h"' > kernels/backend.h
    printf '#include "kernels/%s"\n' backend.h common/half.h > kernels/cpu/amax_cpu.c
    echo '#include "kernels/backend.h"' > host/internal.h
    printf '#include "internal.h"\n/* printf(x) */ const char *s = "exit(1)";\n' > host/amax.c
    echo '#include "../internal.h"' > host/io/gguf.c
    printf '#include "host/io/gguf.h"\nvoid f(void) { printf("a"); }\n' > host/tools/tool.c
    echo '#include "kernels/common/half.h"' > tests/half_test.c
}
# seed CHECK FILE TEXT...: the check must fail once FILE has these lines, and pass before.
seed() {
    check=$1 file=$2
    shift 2
    fresh
    if ! "$checks/$check" >out.txt 2>&1; then
        echo "$check complains about a clean tree:"; cat out.txt; status=1
    fi
    rm -f out.txt
    mkdir -p "$(dirname "$file")"
    printf '%s\n' "$@" >> "$file"
    if "$checks/$check" >/dev/null 2>&1; then
        echo "$check does not see in $file: $(printf '%s' "$*" | cut -c 1-80)"; status=1
    fi
}

up=check_layering.sh
seed $up include/nibble/format.h '#include "kernels/backend.h"'
seed $up include/nibble/format.h '#include <host/internal.h>'
seed $up kernels/common/half.h '#include "nibble/format.h"'
seed $up kernels/common/half.h '#include "../backend.h"'
seed $up kernels/cpu/amax_cpu.c '#include "host/internal.h"'
seed $up kernels/cpu/amax_cpu.c '  #  include <../host/io/gguf.h>'
seed $up kernels/cpu/amax_cpu.c '#include "../cuda/ptx.cuh"'
seed $up kernels/cuda/amax_cuda.cu '#include "kernels/cpu/simd_cpu.h"'
seed $up kernels/cuda/amax_cuda.cu '#include "tests/emu/emu.h"'
seed $up kernels/backend.h '#include "host/internal.h"'
seed $up kernels/packed.h '#include "kernels/cpu/simd_cpu.h"'
seed $up kernels/backend.h '#include "kernels/packed.h"'
seed $up host/amax.c '#include "kernels/packed.h"'
seed $up host/amax.c '#include "kernels/common/half.h"'
seed $up host/amax.c '#include "kernels/cpu/simd_cpu.h"'
seed $up host/amax.c '#include "tests/shim.h"'
seed $up host/io/gguf.c '#include "../tools/tool_text.h"'
seed $up host/io/gguf.c '#include "kernels/common/half.h"'
seed $up host/tools/tool.c '#include "host/internal.h"'
seed $up scripts/demo.c '#include "tests/shim.h"'

seed check_length.sh host/amax.c "$(printf '%0101d' 0)"
seed check_length.sh host/long.c "$(awk 'BEGIN { while (n++ < 501) print "//" }')"
seed check_names.sh kernels/cpu/format.h ''
seed check_names.sh host/gemm_v2.c ''

no=check_banned.sh
seed $no host/amax.c 'void f(void) { printf ("a"); }'
seed $no host/amax.c '/* a */ void f(void) { fprintf(stderr, "a"); }'
seed $no host/io/gguf.c '/* "' '*/ void f(void) { exit(1); }'
seed $no kernels/cpu/amax_cpu.c 'void f(void) { abort(); }'
seed $no kernels/cuda/amax_cuda.cu 'void f(void) { assert(1); }'
seed $no host/tools/tool.c 'int f(const char *s) { return atoi(s); }'
seed $no tests/half_test.c 'void f(char *a) { strcpy(a, "b"); }'
seed $no tests/half_test.c 'void f(char *a) { sprintf(a, "b"); }'
seed $no host/amax.c '#if 0' '#endif'
seed $no host/amax.c '#pragma STDC FP_CONTRACT ON'
seed $no host/amax.c '/* TODO: finish */'
seed $no scripts/build.sh 'gcc -ffast-math'
seed $no kernels/cuda/build.mk 'NVCC += --use_fast_math'
seed $no tests/half_test.c '/* see /home/someone/notes */'
seed $no host/amax.c "$(printf '\tint x;')"
seed $no host/amax.c 'int x; '
exit $status
