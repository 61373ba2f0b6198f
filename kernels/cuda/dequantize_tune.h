/* dequantize_tune.h: the launch numbers of dequantize_cuda.cu. Not measured on a GPU yet.
 *
 * Predictions, from counting the machine code that nvcc 13.0 makes for sm_90a. A thread of
 * dequantize_e2m1 whose four chunks are whole issues
 *
 *     bf16, f16   293 instructions for 32 values: 9.2 a value, 9.8 with swizzled scales
 *     f32         246 instructions for 16 values: 15.4 a value
 *
 * An H200 (132 processors, 4 warp instructions a clock each, 1.75 GHz) that moves 4.8 TB/s has time
 * for 15 to 17 instructions for each bf16 value (2.5625 bytes), 28 for each f32 (4.5625), so the
 * kernel should be held by memory. It takes 32 registers: all 64 warps of a processor fit, and with
 * at least two chunks of each on their way 16 KB of codes are, where 5.6 KB cover 0.7 us.
 *
 * dequantize_any issues about 50 instructions a value and is likely held by them. */
#ifndef NIB_DEQUANTIZE_TUNE_H
#define NIB_DEQUANTIZE_TUNE_H

enum {
    NIB_DEQUANTIZE_WARPS = 8,  /* of a block, one row each */
    NIB_DEQUANTIZE_CHUNKS = 4, /* of 16 bytes of values, for each thread of dequantize_e2m1 */
    NIB_DEQUANTIZE_GROUPS = 4  /* of 4 values, for each thread of dequantize_any */
};

#endif
