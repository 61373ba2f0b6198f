/* transform_tune.h: launch numbers of transforms. All untuned: no GPU has run them yet.
 *
 * A prediction, counted by hand from the SASS of nvcc 13.0 for sm_90a, bf16 to NVFP4 by
 * TransformerEngine's rules, no block out of the ordinary: 20.0 instructions an element with a
 * rotation of 16, and 19.6 with RMSNorm and a bf16 weight, where quantizing alone takes 12.8. By
 * issue alone, at 1.7 GHz, an H200 then takes 2.9 TB of source a second with either, where a copy
 * at 4.2 TB/s of traffic has time for 3.3. See profiles/predicted. */
#ifndef NIB_TRANSFORM_TUNE_H
#define NIB_TRANSFORM_TUNE_H

enum {
    NIB_TRANSFORM_THREADS = 256,     /* of a block that has several rows, or a part of one */
    NIB_NORM_HELD = 4,               /* units that a thread of norm_e2m1 holds of a row: 16384
                                        elements of a block's threads */
    NIB_NORM_PER_SM = 3,             /* its blocks: 80 registers; one less of f16, which compilers
                                        convert once and keep, of f32, of twice the words, and of
                                        rows that are rotated or longer. Their 34 KB of shared
                                        memory fit twice where an SM has 100 KB: 8.6, 8.9, 12.x */
    NIB_NORM_WEIGHT_UNITS = 512,     /* of its weights in shared memory: 32 KiB */
    NIB_TRANSFORM_MIN_WIDTH = 8,     /* threads along a row: a rotation of 128 elements */
    NIB_TRANSFORM_TURNS = 4,         /* rows that a thread takes one after the other ... */
    NIB_TRANSFORM_ENOUGH_BLOCKS = 1024, /* ... where that many blocks are left */
    NIB_TRANSFORM_ANY_THREADS = 128,
    NIB_TRANSFORM_ANY_PER_SM = 4,    /* blocks: 128 registers */
    NIB_TRANSFORM_ANY_CHUNK = 2048   /* elements at a time, in shared memory: of each of 16 rows as
                                        many as the longest rotation */
};

#endif
