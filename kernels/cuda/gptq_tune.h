/* gptq_tune.h: sizes of hessian*_cuda.cu's, gptq_factor_cuda.cu's and gptq_cuda.cu's launches. All
 * are predicted: profiles/predicted. Those of tiles decide in which order numbers are added. */
#ifndef NIB_GPTQ_TUNE_H
#define NIB_GPTQ_TUNE_H

enum {
    NIB_GPTQ_THREADS = 256,
    NIB_GPTQ_TRIANGLE = 64, /* rows and columns of a block's part of a triangle */
    /* Rows of H of one product. 2048 x 2048 is 128 of cublasLt's tiles of 128 x 256 on 132 SMs, and
     * a diagonal tile, half of which is thrown away, is that or less. */
    NIB_HESSIAN_TILE = 2048,
    NIB_HESSIAN_WIDE = 1 << 23, /* doubles that tokens are converted to at a time, 64 MB, */
    NIB_HESSIAN_WIDE_LEAST = 64, /* but so many tokens at least */
    NIB_HESSIAN_ROTATE = 128,   /* rows and columns of a block's tile: the largest Hadamard */
    /* Rows of W in the workspace at a time: 32 tiles of 128, with 512 steps 128 blocks. */
    NIB_GPTQ_ROWS = 4096,
    NIB_GPTQ_PANEL = 512, /* steps between two products with all errors before; inputs of a product
                             that measures */
    NIB_GPTQ_STEPS = 128, /* steps of one launch, whose errors are carried on chip */
    NIB_GPTQ_WARPS = 8,   /* rows of a block of threads, which share its part of the factor */
    /* cublasLt's workspace: products whose sums are not cut into parts need none to speak of. */
    NIB_GPTQ_LT_WORKSPACE = 4 << 20
};

#endif
