/* observe_tune.h: launch numbers of the observers. All untuned: no GPU has run them yet. */
#ifndef NIB_OBSERVE_TUNE_H
#define NIB_OBSERVE_TUNE_H

enum {
    NIB_RANGE_THREADS = 256,
    NIB_RANGE_IN_FLIGHT = 4,       /* 16-byte loads of a thread before it uses the first */
    NIB_RANGE_VECTORS = 16,        /* of a thread, where there are enough */
    NIB_RANGE_LONG_ROW = 16384,    /* bytes from which few rows are shared by many blocks ... */
    NIB_RANGE_MANY_ROWS = 2048,    /* ... unless there are that many */
    NIB_EMA_THREADS = 256,
    NIB_HISTOGRAM_THREADS = 512,
    NIB_HISTOGRAM_IN_FLIGHT = 4,
    NIB_HISTOGRAM_VECTORS = 16,    /* of a thread at least, where there are enough */
    NIB_HISTOGRAM_BLOCKS = 264,    /* at most: each ends with an atomic for each bin it has seen */
    NIB_HISTOGRAM_COPIES = 8,      /* of the counts in shared memory, at most: warps take turns */
    NIB_STATS_WARPS = 8,           /* of a block */
    NIB_STATS_PER_SM = 4,          /* blocks: 64 registers; 128 SMs take all partial sums at once */
    NIB_STATS_MERGE_THREADS = 1024
};

#endif
