#!/bin/bash
# Registers, spills and instructions of every kernel, for every target, against kernels/cuda's
# budget.txt and gates.txt; then the checks themselves, against kernels with a seeded fault each.
# Needs nvcc 12.8 and no GPU; exit status 77 without it. Compiles nothing that is already built.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
found=$(scripts/nvcc.sh)
case $found in
ok*) ;;
*)   echo "the CUDA kernels are not checked: ${found#no }"; exit 77 ;;
esac
gates=$PWD/scripts/checks/cuda_gates.sh
status=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

make --no-print-directory CUDA=1 BUILD="$build" "$build/libnibble_cuda.a" || exit 1
"$gates" "$build/cuda/kernels/cuda" || status=1

# ---- seeds: each kernel has one fault ----

seeds="good spilling frame double contracted calling serialized"
head='#include <stdint.h>
#define IN const uint4 *__restrict__ in
#define AT (blockIdx.x * blockDim.x + threadIdx.x)'
cat >"$work/good.cu" <<END
$head
__global__ void good(IN, uint4 *out) { out[AT] = in[AT]; }
template <int n, bool b> __global__ void good_too(IN, uint4 *out) { out[n * AT + b] = in[AT]; }
template __global__ void good_too<3, true>(IN, uint4 *out);
END
cat >"$work/spilling.cu" <<END
$head
__global__ void __launch_bounds__(1024, 2) spilling(const float *in, float *out)
{
    float x[64];
#pragma unroll
    for (int i = 0; i < 64; i++) x[i] = in[64 * AT + i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 64; i++) out[64 * AT + i] = x[63 - i] * x[(i * 7) % 64] + x[i ^ 5];
}
END
cat >"$work/frame.cu" <<END
$head
__global__ void frame(const int *in, int *out)
{
    int x[32];
    for (int i = 0; i < 32; i++) x[in[i]] = i;
    out[AT] = x[in[AT] & 31];
}
END
cat >"$work/double.cu" <<END
$head
__global__ void twice(const float *in, float *out)
{
    int one; /* the end of this asm is not the kernel's */
    asm volatile("{\n.reg .pred p;\nmov.u32 %0, 1;\n}" : "=r"(one));
    out[AT] = (float)(in[one * AT] * 2.1);
}
END
cat >"$work/contracted.cu" <<END
$head
__global__ void contracted(const float *in, float *out) { out[AT] = __fmaf_rn(in[AT], 3.f, 1.f); }
END
cat >"$work/calling.cu" <<END
$head
__device__ __noinline__ int other(int x) { return x * x + 7; }
__global__ void calling(const int *in, int *out) { out[AT] = other(in[AT]); }
END
cat >"$work/serialized.cu" <<END
$head
#define MULTIPLY(d, a) asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 " \\
    "{%0, %1, %2, %3}, {%4, %4, %4, %4}, %5, 1, 1, 1, 0;"                               \\
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a), "l"(b))
__global__ void serialized(uint64_t b, float *out, uint32_t x)
{
    float d[4] = {};
    asm volatile("wgmma.fence.sync.aligned;");
    MULTIPLY(d, x);
    d[0] += 1;
    MULTIPLY(d, x);
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;");
    out[AT] = d[0] + d[1] + d[2] + d[3];
}
END

compile() { # FOLDER SETTING...: what make's rule keeps of each seed
    local folder=$1 seed targets=
    shift
    for seed in $seeds; do targets="$targets $folder/cuda/$work/$seed.cu.o"; done
    # shellcheck disable=SC2086 # a list of words
    MAKEFLAGS='' make -s -k -j2 CUDA=1 CUDA_ARCHS=sm_90a BUILD="$folder" "$@" $targets
}
# Warnings as errors, as all is built: some seeds must not compile.
compile "$work/strict" >"$work/strict.txt" 2>&1
for seed in spilling frame; do
    [ ! -e "$work/strict/cuda/$work/$seed.cu.o" ] || { echo "$seed.cu compiles"; status=1; }
done
# And without, for the checks.
compile "$work/lax" WERROR= >"$work/lax.txt" 2>&1 || { cat "$work/lax.txt"; exit 1; }

printf 'good(_too<3,true>)? 40\n' >"$work/budget.txt"
{
    grep -E '^\.\* +\.\* +lacks ' kernels/cuda/gates.txt
    echo 'good.* .* bytes 20000'
    echo 'good.* 90a has ^ld\.global\.nc\.v4\.'
} >"$work/gates.txt"

# seed EXPECTED NAME BUDGET GATES: the checks must complain of the kernels in NAME.cu, and of good
# ones only what the tables' extra lines make of them. "fine": no complaint.
seed() {
    local expected=$1 name=$2 folder=$work/check said
    rm -rf "$folder"
    mkdir "$folder"
    cp -r "$work/lax/cuda/$work/good.cu.keep" "$folder"
    [ "$name" = good ] || cp -r "$work/lax/cuda/$work/$name.cu.keep" "$folder"
    { printf '%b' "$3"; cat "$work/budget.txt"; } >"$work/b.txt"
    { printf '%b' "$4"; cat "$work/gates.txt"; } >"$work/g.txt"
    if said=$("$gates" "$folder" "$work/b.txt" "$work/g.txt" 2>&1); then
        [ "$expected" = fine ] || { echo "not seen in $name.cu: $expected"; status=1; }
    elif ! printf '%s\n' "$said" | grep -qE -e "$expected"; then
        echo "$name.cu: expected '$expected', got:"; printf '%s\n' "$said"; status=1
    fi
}
seed fine good '' ''
seed 'spilling: spills, [1-9]' spilling 'spilling 99\n' 'spilling .* bytes 99999\n'
seed 'frame: a stack frame of [1-9]' frame 'frame 99\n' 'frame .* bytes 99999\n'
seed 'frame: .* times .*local' frame 'frame 99\n' 'frame .* bytes 99999\n'
seed 'twice: .*f64' double 'twice 99\n' 'double .* bytes 99999\n'
seed 'contracted: .*fma' contracted 'contracted 99\n' 'contracted .* bytes 99999\n'
seed fine contracted 'contracted 99\n' \
    "contracted .* bytes 99999\ncontracted .* allows $(grep -o '[^ ]*fma[^ ]*' "$work/gates.txt" |
        sed 's/\\/\\\\/g')\n"
seed 'calling: .*call|a function' calling 'calling 99\n' 'calling .* bytes 99999\n'
seed 'serialized.cu: ptxas lets no products run on' serialized 'serialized 99\n' \
    'serialized .* bytes 99999\n'
seed 'contracted: no line in .* it has [0-9]+ registers' contracted '' ''
seed 'good: [0-9]+ registers, the budget is 2' good 'good 2\n' ''
seed 'no kernel is absent' good 'absent 40\n' ''
seed 'good: no instruction .*ld.*shared' good '' 'good .* has ^ld\\.shared\n'
seed 'good: 1 times .*st.*global, first: st' good '' 'good .* lacks ^st\\.global\n'
seed 'nothing is absent for' good '' 'absent .* lacks ^st\\.global\n'
seed fine good '' 'absent 120f lacks ^st\\.global\n'
seed 'not a kernel and a number' good 'good forty\n' ''
seed 'has.lacks.allows.bytes' good '' 'good .* hath x\n'
seed 'contracted.cu, 90a: [0-9]+ bytes of machine code, no line' contracted '' ''
exit $status
