/* gemm_rows_avx2.h: gemm_span.h's rows straight from codes, for 16 registers of 8 lanes.
 *
 * Instructions are the limit here, not memory. So weights become f32 by as few as there are: a byte
 * shuffle finds e + 12 = 0 .. 24 of 32 codes, another one spreads those of a column over its lanes,
 * and the multiplication with s takes the 12 off:
 *
 *     (e + 12) * s - 12 * s = e * s      which has 8 bits at most: exact, whatever s
 *
 * Strips are worked on together, column by column, since each of them is one chain of sums. Every
 * number of strips and tokens is a function of its own, or compilers mix them and run out of
 * registers. */
#ifndef NIB_GEMM_ROWS_AVX2_H
#define NIB_GEMM_ROWS_AVX2_H

/* e + 12 of columns 4 * half .. of a vector, as bytes. */
INLINE __m256i raised(vc codes, int half)
{
    return _mm256_shuffle_epi8(doubled(12), nibbles(codes, half));
}

/* Byte c of each lane. */
INLINE vf byte_as_f32(__m256i bytes, int c)
{
    const char    i = (char)c, no = -1;
    const __m128i to = _mm_setr_epi8(i, no, no, no, (char)(4 + i), no, no, no, (char)(8 + i), no,
                                     no, no, (char)(12 + i), no, no, no);
    if (c == 0) return _mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(255)));
    if (c == 3) return _mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 24));
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(to)));
}

/* Adds the products of 16 columns, whose codes and scales begin at at and scales_at. */
INLINE void rows_block(const strip *s, int64_t at, int64_t scales_at, int e4m3, int strips,
                       int tokens, const float *x, vf acc[ROWS_TOKENS][ROWS_STRIPS])
{
    vf scale[ROWS_STRIPS], less[ROWS_STRIPS];
    UNROLL
    for (int r = 0; r < strips; r++) {
        scale[r] = scales_of(&s[r], scales_at, e4m3);
        less[r] = vf_mul(scale[r], vf_set(-12.0f));
    }
    UNROLL
    for (int i = 0; i < 4; i++) { /* 4 columns: half a vector */
        __m256i bytes[ROWS_STRIPS];
        UNROLL
        for (int r = 0; r < strips; r++) bytes[r] = raised(vc_load(&s[r], at, i / 2), i % 2);
        UNROLL
        for (int c = 0; c < 4; c++) {
            UNROLL
            for (int r = 0; r < strips; r++) {
                const vf w = vf_fma(byte_as_f32(bytes[r], c), scale[r], less[r]);
                UNROLL
                for (int t = 0; t < tokens; t++)
                    acc[t][r] = vf_fma(vf_set(x[(4 * i + c) * tokens + t]), w, acc[t][r]);
            }
        }
    }
}

INLINE void rows_strips(const nib_gemm_job *job, const strip *given, int e4m3, int strips,
                        int tokens, const float *x, float *sums)
{
    vf    acc[ROWS_TOKENS][ROWS_STRIPS];
    strip s[ROWS_STRIPS];
    ahead next = ahead_of(job, given, strips);
    const int each = 256 / job->block, second = job->block == 16 ? 8 : 0;
    UNROLL
    for (int r = 0; r < strips; r++) {
        s[r] = given[r];
        UNROLL
        for (int t = 0; t < tokens; t++) acc[t][r] = vf_zero();
    }
    for (int64_t tile = 0; tile < job->padded / 32; tile++) {
        ahead_step(&next, strips);
        for (int b = 0; b < 2; b++, x += 16 * tokens)
            rows_block(s, tile * 128 + 64 * b, tile * each + second * b, e4m3, strips, tokens, x,
                       acc);
    }
    UNROLL
    for (int r = 0; r < strips; r++) {
        UNROLL
        for (int t = 0; t < tokens; t++) vf_store(sums + t * TASK + r * LANES, acc[t][r]);
    }
}

#define ROWS_OF(name, strips, tokens)                                                         \
    static __attribute__((noinline)) void name(const nib_gemm_job *job, const strip *s,       \
                                               const float *x, float *sums)                   \
    {                                                                                         \
        if (job->e4m3) rows_strips(job, s, 1, strips, tokens, x, sums);                       \
        else           rows_strips(job, s, 0, strips, tokens, x, sums);                       \
    }

ROWS_OF(rows_4x1, 4, 1)
ROWS_OF(rows_2x2, 2, 2)
ROWS_OF(rows_1x1, 1, 1)
ROWS_OF(rows_1x2, 1, 2)
ROWS_OF(rows_1x3, 1, 3)
ROWS_OF(rows_1x4, 1, 4)

/* Four sums at a time hide most of the additions' latency; of 8, with weights, compilers put some
 * into memory. Returns how many strips are done. */
static int rows_next(const nib_gemm_job *job, const strip *s, int left, int64_t tokens,
                     const float *x, float *sums)
{
    switch (tokens) {
    case 1:
        if (left >= 4) {
            rows_4x1(job, s, x, sums);
            return 4;
        }
        rows_1x1(job, s, x, sums);
        return 1;
    case 2:
        if (left >= 2) {
            rows_2x2(job, s, x, sums);
            return 2;
        }
        rows_1x2(job, s, x, sums);
        return 1;
    case 3:  rows_1x3(job, s, x, sums); return 1;
    default: rows_1x4(job, s, x, sums); return 1;
    }
}

static void rows_some(const nib_gemm_job *job, const strip *s, int strips, int64_t tokens,
                      const float *x, float *sums)
{
    for (int r = 0; r < strips;)
        r += rows_next(job, s + r, strips - r, tokens, x, sums + r * LANES);
}

#endif
