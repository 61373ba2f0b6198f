/* fakequant_tune.h: launch numbers of fake-quantize. All untuned: no GPU has run them yet. */
#ifndef NIB_FAKEQUANT_TUNE_H
#define NIB_FAKEQUANT_TUNE_H

enum {
    NIB_FAKE_THREADS = 256,
    NIB_FAKE_PER_SM = 5,     /* blocks: 48 registers for a thread; one less, 64, for f32 or rules
                                that have more to hold */
    NIB_FAKE_TURNS = 4,      /* as NIB_QUANTIZE_TURNS */
    NIB_FAKE_ANY_THREADS = 128,
    NIB_FAKE_ANY_PER_SM = 5, /* blocks: 96 registers, with which ptxas need not spill */
    NIB_FAKE_PASS_THREADS = 256,
    NIB_FAKE_PASS_PER_SM = 4, /* 64 registers: with 48 ptxas spills the masked ones */
    NIB_FAKE_PASS_VECTORS = 4 /* of 16 bytes, on their way at once for each thread of fake_pass */
};

#endif
