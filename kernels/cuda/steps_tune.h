/* steps_tune.h: launch numbers of fake-quantization by steps. All untuned: no GPU has run them. */
#ifndef NIB_STEPS_TUNE_H
#define NIB_STEPS_TUNE_H

enum {
    NIB_STEPS_THREADS = 256,
    NIB_STEPS_PER_SM = 4,         /* blocks: 64 registers */
    NIB_STEPS_F32_PER_SM = 3,     /* of steps_units: 80 registers; with 64 ptxas spills */
    NIB_STEPS_MIN_WIDTH = 8,      /* threads along a row, at least */
    NIB_STEPS_TURNS = 4,          /* tiles of rows for a block, where there are enough of them */
    NIB_STEPS_ENOUGH_BLOCKS = 1024,
    NIB_STEPS_MOST_BLOCKS = 2048, /* of steps_groups and steps_sum, whose blocks take turns */
    NIB_STEPS_TEAM = 32,          /* lanes of a warp that share a group at most */
    NIB_STEPS_IN_FLIGHT = 4,      /* units that a thread of steps_groups loads before it uses one */
    NIB_STEPS_GRADIENT_PER_SM = 4 /* blocks: 64 registers */
};

#endif
