/* amax_tune.h: launch numbers of amax. All untuned: no GPU has run them yet.
 *
 * A prediction, from the SASS of nvcc 13.0 for sm_90a: about 8 instructions a bf16 element, where
 * an H200 that reads at full bandwidth has time for 14. */
#ifndef NIB_AMAX_TUNE_H
#define NIB_AMAX_TUNE_H

enum {
    NIB_AMAX_THREADS = 256,      /* untuned */
    NIB_AMAX_IN_FLIGHT = 4,      /* 16-byte loads of a thread before it uses the first; untuned */
    NIB_AMAX_VECTORS = 16,       /* of a thread, where there are enough; untuned */
    NIB_AMAX_LONG_ROW = 16384,   /* bytes from which few rows are shared by many blocks ... */
    NIB_AMAX_MANY_ROWS = 2048    /* ... unless there are that many; untuned */
};

#endif
