/* fakequant_backward_avx2.c: gradients past the clamps, as words whose bits stay. What passes is in
 * the mask, or made again from the source: of E2M1 by blocks of 16 and 32 by the scales of
 * chunk_avx2.h, of all else by the plain C of fakequant_span.h. */
#include "avx2_cpu.h"

#if defined(__x86_64__)

#include "fakequant_avx2.h"
#include "load8_avx2.h"
#include "store16_avx2.h"

/* Of 8 words of 4 bytes, or 16 of 2, those whose bit is set; zeros for the others. */
static inline __attribute__((always_inline)) __m256i keep(int size, __m256i v, uint32_t bits)
{
    if (size == 4) {
        const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        const __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)bits), bit);
        return _mm256_and_si256(v, _mm256_cmpeq_epi32(set, bit));
    }
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
                                          8192, 16384, -32768);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi16((short)bits), bit);
    return _mm256_and_si256(v, _mm256_cmpeq_epi16(set, bit));
}

/* Whole vectors of n gradients of size bytes; bits: NULL, or what passes. Returns how many
 * gradients are done. */
static inline __attribute__((always_inline)) int words(int size, int masked, int stream,
                                                       const uint8_t *g, int n,
                                                       const uint8_t *bits, uint8_t *dst)
{
    const int each = 32 / size;
    int i = 0;
    for (; i + each <= n; i += each) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(g + i * size));
        uint16_t some = 0;
        if (masked) memcpy(&some, bits + i / 8, (size_t)each / 8);
        if (masked) v = keep(size, v, some);
        __m256i *const to = (__m256i *)(void *)(dst + i * size);
        if (stream) _mm256_stream_si256(to, v);
        else _mm256_storeu_si256(to, v);
    }
    return i;
}

/* The same to another dtype. */
static int converted(int from, int to, const uint8_t *g, int n, const uint8_t *bits, uint8_t *dst)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        float x[8];
        load8(from, g, i, x);
        if (bits) {
            __m256i *const at = (__m256i *)(void *)x;
            _mm256_storeu_si256(at, keep(4, _mm256_loadu_si256(at), bits[i / 8]));
        }
        store8(to, dst, i, x);
    }
    return i;
}

/* n gradients from column col on, at most a chunk. */
static void pass_chunk(const nib_fake_job *job, int64_t row, int64_t col, int n,
                       const uint8_t *bits, int stream)
{
    const int from = (int)job->grad_out->dtype, to = (int)job->dst->dtype;
    const uint8_t *g = nib_matrix_at(job->grad_out, row, col);
    uint8_t *dst = nib_matrix_at(job->dst, row, col), passes[16];
    const int size = from == NIB_DT_F32 ? 4 : 2;
    const int done = from != to ? converted(from, to, g, n, bits, dst)
                   : size == 4 ? bits ? stream ? words(4, 1, 1, g, n, bits, dst)
                                               : words(4, 1, 0, g, n, bits, dst)
                                      : stream ? words(4, 0, 1, g, n, bits, dst)
                                               : words(4, 0, 0, g, n, bits, dst)
                               : bits ? stream ? words(2, 1, 1, g, n, bits, dst)
                                               : words(2, 1, 0, g, n, bits, dst)
                                      : stream ? words(2, 0, 1, g, n, bits, dst)
                                               : words(2, 0, 0, g, n, bits, dst);
    if (done == n) return;
    for (int i = done; bits && i < n; i++) passes[i - done] = bits[i / 8] >> i % 8 & 1;
    pass_gradients(job, row, col + done, n - done, bits ? passes : NULL);
}

/* ---- what passes, made again ---- */

static void bits_of_block(const nib_fake_job *job, int64_t row, int64_t col, int n, uint8_t *bits)
{
    uint8_t passes[NIB_MAX_BLOCK];
    passes_of_block(job, NULL, row, col, n, passes);
    memset(bits, 0, (size_t)(n + 7) / 8);
    for (int i = 0; i < n; i++) bits[i / 8] |= (uint8_t)(passes[i] << i % 8);
}

/* Whole groups of blocks, by the scales that out has if they are given. */
static inline __attribute__((always_inline)) void
bits_of_chunk(const nib_fake_job *job, int dtype, int block, const uint8_t *x, int groups,
              chunk_out *out, uint8_t *bits)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), most = _mm256_set1_ps(6.0f);
    float factors[CHUNK / 16], steps[CHUNK / 16], v[16];
    (void)chunk_scales(&job->quantize, dtype, block, x, groups, factors, out, NULL);
    chunk_steps(job, block, groups, out, steps);
    for (int i = 0; i < groups * GROUP * block; i += 16) {
        const __m256 limit = _mm256_mul_ps(_mm256_broadcast_ss(steps + i / 16), most);
        load8(dtype, x, i, v);
        load8(dtype, x, i + 8, v + 8);
        bits[i / 8] = (uint8_t)passes8(_mm256_andnot_ps(sign, _mm256_loadu_ps(v)), limit);
        bits[i / 8 + 1] = (uint8_t)passes8(_mm256_andnot_ps(sign, _mm256_loadu_ps(v + 8)), limit);
    }
}

typedef void (*bits_function)(const nib_fake_job *, const uint8_t *, int, chunk_out *, uint8_t *);

#define BITS_FUNCTION(name, dtype, block)                                                  \
    static void name(const nib_fake_job *job, const uint8_t *x, int groups, chunk_out *out, \
                     uint8_t *bits)                                                        \
    { bits_of_chunk(job, dtype, block, x, groups, out, bits); }
BITS_FUNCTION(bits_f32_16, NIB_DT_F32, 16)
BITS_FUNCTION(bits_f32_32, NIB_DT_F32, 32)
BITS_FUNCTION(bits_f16_16, NIB_DT_F16, 16)
BITS_FUNCTION(bits_f16_32, NIB_DT_F16, 32)
BITS_FUNCTION(bits_bf16_16, NIB_DT_BF16, 16)
BITS_FUNCTION(bits_bf16_32, NIB_DT_BF16, 32)

/* What passes of n elements from column col on, at most a chunk, which begins at a multiple of one.
 * bits: of a whole chunk. */
static void bits_by_chunk(const nib_fake_job *job, int64_t row, int64_t col, int n, uint8_t *bits)
{
    const bits_function functions[3][2] = {
        { bits_f32_16, bits_f32_32 }, { bits_f16_16, bits_f16_32 },
        { bits_bf16_16, bits_bf16_32 },
    };
    const nib_quantize_job *q = &job->quantize;
    const int block = q->math.rules.block, whole_group = GROUP * block;
    const int groups = (n + whole_group - 1) / whole_group, whole = groups * whole_group;
    const int size = job->src->dtype == NIB_F32 ? 4 : 2;
    const uint8_t *x = nib_matrix_at(job->src, row, col);
    uint8_t padded[CHUNK * 4];
    chunk_out out;
    uint64_t again = 0;
    if (n != whole) { /* an unfinished group: with zeros behind it */
        memcpy(padded, x, (size_t)(n * size));
        memset(padded + n * size, 0, (size_t)((whole - n) * size));
        x = padded;
    }
    if (q->given) again = given_bytes(q, row, col / block, (n + block - 1) / block, out.scales);
    functions[job->src->dtype][block == 32](job, x, groups, &out, bits);
    for (again |= out.again; again; again &= again - 1) {
        const int at = __builtin_ctzll(again) * block, left = n - at;
        if (left > 0)
            bits_of_block(job, row, col + at, left < block ? left : block, bits + at / 8);
    }
}

static void bits_by_blocks(const nib_fake_job *job, int64_t row, int64_t col, int n, uint8_t *bits)
{
    const int block = job->quantize.math.rules.block;
    for (int at = 0; at < n; at += block)
        bits_of_block(job, row, col + at, n - at < block ? n - at : block, bits + at / 8);
}

/* ---- spans ---- */

static inline void backward_span(const nib_fake_job *job, int64_t row, int64_t first, int64_t last,
                                 void (*again)(const nib_fake_job *, int64_t, int64_t, int,
                                               uint8_t *))
{
    const nib_matrix *dst = job->dst;
    const int64_t block = job->quantize.math.rules.block, cols = dst->cols;
    const int64_t end = last * block < cols ? last * block : cols;
    const int64_t bytes = dst->rows * cols * (dst->dtype == NIB_F32 ? 4 : 2);
    const int stream = job->grad_out->data != dst->data && bytes >= NIB_STREAM_BYTES
                    && (uintptr_t)nib_matrix_at(dst, row, 0) % 32 == 0;
    for (int64_t col = first * block; col < end; col += CHUNK) {
        const int n = end - col < CHUNK ? (int)(end - col) : CHUNK;
        uint8_t made[CHUNK / 8];
        const uint8_t *bits = job->gradient != NIB_FAKE_CLAMP ? NULL
                            : job->mask ? job->mask + row * job->ld_mask + col / 8 : made;
        if (bits == made) again(job, row, col, n, made);
        pass_chunk(job, row, col, n, bits, stream);
    }
}

static void span_by_chunks(const nib_fake_job *job, int64_t row, int64_t first, int64_t last)
{
    backward_span(job, row, first, last, bits_by_chunk);
}

static void span_by_blocks(const nib_fake_job *job, int64_t row, int64_t first, int64_t last)
{
    backward_span(job, row, first, last, bits_by_blocks);
}

static void fence(void) { _mm_sfence(); }

nib_status nib_fake_backward_avx2(const nib_launch *launch, const nib_matrix *grad_out,
                                  const nib_matrix *src, const nib_fake_request *request,
                                  const nib_matrix *grad_in)
{
    const nib_packed shape = { .format = request->format, .code_order = NIB_CODES_PAIRS };
    nib_fake_request nearest = *request; /* scales do not depend on the rounding */
    nearest.quantize.rounding = NIB_ROUND_NEAREST;
    return nib_fake_run(launch, src, grad_out, &nearest, grad_in,
                        has_chunks(&nearest.quantize, &shape) ? span_by_chunks : span_by_blocks,
                        fence);
}

#endif
