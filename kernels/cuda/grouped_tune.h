/* grouped_tune.h: launch numbers of grouped quantization. All untuned: no GPU has run them yet. */
#ifndef NIB_GROUPED_TUNE_H
#define NIB_GROUPED_TUNE_H

enum {
    NIB_GROUPED_THREADS = 256,    /* of which a tile has at most this many along a row */
    NIB_GROUPED_PER_SM = 5,       /* blocks: 48 registers; two less for f32, of twice the words */
    NIB_GROUPED_MIN_WIDTH = 8,    /* threads along a row: no more than 32 rows at a time */
    NIB_GROUPED_ANY_THREADS = 128,
    NIB_GROUPED_ANY_PER_SM = 5    /* blocks: 96 registers */
};

#endif
