/* gemm_tune.h: launch numbers of products, and the table that plans choose from. All untuned: no
 * GPU has run them yet; scripts/tune.sh prints a table from qbench's figures.
 *
 * Predictions, per 8 weights, from the SASS of nvcc 13.0 (profiles/predicted/README.md has the
 * counts): an H200 at its memory's rate leaves 29 issue slots and 14.5 of the ALU's, an A100 43 and
 * 21.5, a B200 20 and 9.8. */
#ifndef NIB_GEMM_TUNE_H
#define NIB_GEMM_TUNE_H

enum {
    /* small: instructions per 8 weights, 8 tokens: 20.5 (bf16 22.5), sm_100 12 (24); with E8M0
     * scales 20.9 (23.3), sm_100 12.7 (25.1). 8 warps share a stripe's columns. Two CTAs an SM hold
     * 16 warps with 2.3 KB in flight each, 37 KB, where an H200 needs 29 (4.8 TB/s * 0.8 us /
     * 132). */
    NIB_GEMM_SMALL_WARPS = 8,
    NIB_GEMM_SMALL_PER_SM = 2,
    NIB_GEMM_SMALL_MIN_UNITS = 8, /* of 64 columns in a split, at least: one a warp */
    NIB_GEMM_SMALL_MAX_SPLITS = 16,
    /* tile: rows of 64 weights a CTA, CTAs an SM, and steps of 128 columns, the one in use and
     * those under way: of 26 and 34 KB, so 4 where an SM has 163 KB or more, 3 and 2 in 99 KB.
     *
     * Main loop, f16, E4M3 scales (E8M0: 4 more at most), per 128 x 64 weights and quarter of an
     * SM; predicted:
     *
     *   tokens  instructions: sm_80 90a 100f   of them mma   cycles of shared memory
     *    32            201 204 162              32            152
     *    64            242 247 206              64            232
     *
     * In 222 cycles an H200's memory gives an SM that much weight, in 344 an A100's, whose mma
     * takes 8. So memory bounds 32 tokens, and issue, shared memory and memory about alike 64 on
     * an H200, the tensor cores 64 on an A100.
     *
     * 256 rows by 64 tokens take K * (256 * 0.5625 + 64 * 2) = 272 K bytes from L2. 128 by 128 take
     * 328, with their weights decoded twice all the same (499 instructions, 492 cycles, where two
     * CTAs of 64 tokens need 493 and 464), so there is no kernel of 128 tokens; 512 by 32 take 352.
     * A warp of 32 rows by 128 tokens would decode once, but take 710 cycles. What would take fewer
     * bytes is 256 x 128 without a cut of K among warps, 200 K for as many products, whose 16 warps
     * of 32 rows by 64 tokens would take 625 cycles of shared memory; Hopper's wgmma, which reads
     * one copy of the activations for four warps (gemm_wgmma); or activations multicast to a
     * cluster's CTAs.
     * Two CTAs an SM of 32 tokens would leave 128 registers, and spill: 235 to 243 instructions. */
    NIB_GEMM_TILE_STRIPES = 4,
    NIB_GEMM_TILE_PER_SM = 1,
    NIB_GEMM_TILE32_STAGES = 4,
    NIB_GEMM_TILE64_STAGES = 4,
    /* wgmma: steps of 50 KB, two under way, where 29 KB would do; one in use, and one whose
     * products may not have ended. One CTA an SM. */
    NIB_GEMM_WGMMA_STAGES = 4,
    NIB_GEMM_TILE_MIN_UNITS = 4, /* in a split */
    NIB_GEMM_TILE_MAX_SPLITS = 16,
    /* How K is cut, predicted. BUSY: percent of the slots with which an H200's memory is as busy as
     * with all: 29 of small's 37 KB in flight; tile32's 816 issue slots a step of 888 cycles.
     * SECOND_LAUNCH: bytes a processor, of those that pass L2 meanwhile, some 1.4 us. So
     * 28672 x 4096 at M = 8, 448 stripes in 264 slots, is not cut: 3.4 us of sums and launch would
     * save 0.6. */
    NIB_GEMM_SMALL_BUSY = 80,
    NIB_GEMM_TILE32_BUSY = 92,
    NIB_GEMM_SECOND_LAUNCH = 64 << 10,
    NIB_GEMM_REDUCE_THREADS = 128,
    NIB_GEMM_PACK_THREADS = 256,
    /* exact: outputs (rows of weights; backward: columns) dequantized at a time. A product of 2048
     * activations and 4096 outputs is 256 of cublasLt's tiles of 128 x 256, two waves of 132 SMs;
     * with more activations fewer outputs give four, and the 16-bit weights, of K = 8192 32 MB or
     * less, stay in the L2 of an A100 (40 MB), H200 (50) or B200 (126). Longer sums: fewer outputs,
     * so that the scratch is no more than WEIGHTS elements, 256 MB. */
    NIB_GEMM_EXACT_OUTPUTS = 4096,
    NIB_GEMM_EXACT_LEAST = 1024,
    NIB_GEMM_EXACT_WEIGHTS = 1 << 27,
    NIB_GEMM_EXACT_SUMS = 1 << 24, /* f32, 64 MB; 4 waves as above */
    NIB_GEMM_DEQUANTIZE_THREADS = 256,
    NIB_GEMM_EXPONENTS_THREADS = 1024,
    NIB_GEMM_FINISH_THREADS = 256,
    NIB_GEMM_FINISH_ROWS = 4, /* a thread */
    /* cublasLt's workspace, as NVIDIA's manual of cublasSetWorkspace has it: Hopper and later, and
     * before. */
    NIB_GEMM_LT_WORKSPACE_SM90 = 32 << 20,
    NIB_GEMM_LT_WORKSPACE = 4 << 20
};

/* The last M for which a plan takes each kernel; beyond: exact. By compute capability, the last
 * line whose capability is not above the device's. Predicted, from reference figures: Marlin-like
 * kernels fall behind dequantize + cuBLAS at M = 512 (A100) to 1024 (H100).
 *
 * wgmma128: sm_90a's, for F32 sums and plans whose rows may depend on M; others go on with
 * tile64. */
typedef struct nib_gemm_table {
    int capability, small8, small16, tile32, tile64, wgmma128;
} nib_gemm_table;

static const nib_gemm_table nib_gemm_tables[] = {
    /*  sm  small8 16  tile32 64    wgmma128 */
    {  80,  8,     16, 32,    512,  0 },
    {  86,  8,     16, 32,    2048, 0 }, /* GDDR: the scratch's traffic costs more */
    {  90,  8,     16, 32,    64,   512 },
    { 100,  8,     16, 32,    256,  0 },
    { 120,  8,     16, 32,    1024, 0 },
};

#endif
