/* isa_cpu.h: what this processor runs. */
#ifndef NIB_ISA_CPU_H
#define NIB_ISA_CPU_H

#include "kernels/backend.h"

/* 1 if the build has the AVX2 kernels and the processor AVX2, FMA and F16C, else 0. */
int nib_cpu_has_avx2(void);

#endif
