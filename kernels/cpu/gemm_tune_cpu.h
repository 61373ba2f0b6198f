/* gemm_tune_cpu.h: the last M for which a plan multiplies straight from codes; from the next on a
 * panel of decoded weights pays.
 *
 * Milliseconds on one thread of a Zen 5 at 4.1 GHz, 4096 x 4096 NVFP4, weights cold, gcc 12.2 -O2:
 *
 *             AVX-512                          AVX2
 *     M       4     6     8     16    24       4     6     8     16    24
 *     rows    0.99  1.42  1.81  3.68           2.49  3.76  4.99
 *     panel   1.15  1.36  1.60  3.40           2.01  2.44  3.71
 *     rows-int8           0.61  1.20  1.74                 1.61  3.23  4.82
 *     panel-int8          0.84  1.30  1.79                 1.51  2.75  3.87
 *
 * AVX2's rows have become faster since (gemm_rows_avx2.h, profiles/cpu-zen3). A Zen 3 at 3.2 GHz
 * takes 1.21, 1.57, 2.65 and 2.68 ms for M = 1 .. 4, and 3.3 for M = 5, by a panel. */
#ifndef NIB_GEMM_TUNE_CPU_H
#define NIB_GEMM_TUNE_CPU_H

enum { NIB_GEMM_ROWS_LAST = 4, NIB_GEMM_ROWS_INT8_LAST = 8 };

#endif
