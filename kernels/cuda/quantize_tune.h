/* quantize_tune.h: launch numbers of quantize. All untuned: no GPU has run them yet.
 *
 * A prediction: the loop of a bf16 kernel has, by the SASS of nvcc 13.0 for sm_90a, 12.4
 * instructions an element with NVFP4 by TransformerEngine's rules (linear scales, no block out of
 * the ordinary), of which 5 are at half rate. An H200 at full bandwidth has time for about 15. */
#ifndef NIB_QUANTIZE_TUNE_H
#define NIB_QUANTIZE_TUNE_H

/* Blocks of an SM: 6 leave a thread 40 registers, 5 48, 4 64; with fewer it would spill. One block
 * less where f32 has twice the words or the rules have more to hold; and on older SMs, which have
 * less bandwidth to keep busy and, on sm_80, no conversions. Untuned. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define NIB_QUANTIZE_PER_SM 5
#define NIB_QUANTIZE_MSE_PER_SM 2 /* the search holds errors of 8 scales */
#else
#define NIB_QUANTIZE_PER_SM 6
#define NIB_QUANTIZE_MSE_PER_SM 3
#endif

enum {
    NIB_QUANTIZE_THREADS = 256, /* untuned */
    NIB_QUANTIZE_TURNS = 4, /* rows that a thread takes one after the other ... */
    NIB_QUANTIZE_ENOUGH_BLOCKS = 1024, /* ... where that many blocks are left; untuned */
    NIB_QUANTIZE_ANY_THREADS = 128, /* untuned */
    NIB_QUANTIZE_ANY_PER_SM = 5, /* blocks: 96 registers, with which ptxas need not spill */
    NIB_QUANTIZE_SQUARE_PER_SM = 4, /* blocks: 64 registers; untuned */
    NIB_QUANTIZE_SEARCH_PER_SM = 3, /* of other searches and of stochastic rounding: 80, with which
                                       all but some by divisors need not spill; untuned */
    NIB_BOTH_PER_SM = 3, /* blocks of quantize_both: 80 registers; untuned */
    NIB_QUANTIZE_MIN_WIDTH = 4 /* threads along a row: a group of 4 scales; untuned */
};

#endif
