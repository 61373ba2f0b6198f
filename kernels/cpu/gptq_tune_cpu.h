/* gptq_tune_cpu.h: sizes of tiles. Each decides in which order numbers are added: another value
 * gives other bits. Untuned, but for those of the Hessian (profiles/cpu-xeon, profiles/cpu-zen3),
 * for the factor's and for WIDE (profiles/cpu-zen3). */
#ifndef NIB_GPTQ_TUNE_CPU_H
#define NIB_GPTQ_TUNE_CPU_H

enum {
    NIB_HESSIAN_CHUNK = 1024, /* tokens that are multiplied at a time */
    NIB_HESSIAN_TILE  = 512,  /* rows of a tile of H; most are twice as wide */
    NIB_GATHER_TILE   = 64,   /* of H on its way to the factor: changes no bit */
    NIB_FACTOR_TILE   = 256,  /* of the factor; 2 x 2 of them are updated together */
    NIB_GPTQ_ROWS     = 256,  /* of W that go through the sweep together */
    NIB_GPTQ_WIDE     = 512,  /* inputs between two products with all errors before */
    NIB_GPTQ_STEPS    = 128,  /* inputs between two products with some of the same WIDE */
    NIB_GPTQ_SEGMENT  = 16,   /* inputs whose errors are carried on one by one */
    NIB_GPTQ_LANES    = 16    /* rows of one vector of the compiler's */
};

#endif
