/* walk.cuh: every element of a matrix once, 16 bytes a load whatever the alignment, several loads
 * in flight: how amax and the observers read. */
#ifndef NIB_WALK_CUH
#define NIB_WALK_CUH

#include "kernels/packed.h"
#include "runtime.cuh"

/* Matrices, all in bytes but rows and count. */
struct WalkMatrix {
    const uint8_t *x;
    int64_t        rows, row_bytes, ld, count, stride;
    int64_t        chunk; /* what a block has of a row, a multiple of 16 */
};

/* Bytes from .. to - 1 of the 16 at p, which is aligned to 16; fill's for the others. */
template <int size>
__device__ __forceinline__ uint4 load_part(const uint8_t *p, int64_t from, int64_t to,
                                           uint32_t fill)
{
    uint32_t word[4] = { fill, fill, fill, fill };
    NIB_UNROLL
    for (int i = 0; i < 16; i += size) {
        if (i < from || i >= to) continue;
        if (size == 4) {
            word[i / 4] = *(const uint32_t *)(p + i);
        } else {
            word[i / 4] &= ~(0xffffu << 8 * (i % 4));
            word[i / 4] |= (uint32_t)*(const uint16_t *)(p + i) << 8 * (i % 4);
        }
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* The vectors of a thread: those of every v_step-th place in every row_step-th row. A row's vectors
 * are the aligned 16 bytes that hold some of it: at its ends, they are loaded in part. */
struct Walk {
    const uint8_t *x;
    int64_t        ld, row_bytes, rows, row, row_step, v, v_step;
};

/* Calls visit(got) for each group of vectors, which may be filled up. fill: a word. */
template <int size, uint32_t fill, int in_flight, class Visit>
__device__ __forceinline__ void walk_groups(Walk w, Visit visit)
{
    const int64_t first_v = w.v;
    while (w.row < w.rows) {
        uint4 got[in_flight];
        NIB_UNROLL
        for (int i = 0; i < in_flight; i++) {
            got[i] = make_uint4(fill, fill, fill, fill);
            if (w.row >= w.rows) continue;
            const uint8_t *const row = w.x + w.row * w.ld;
            const int64_t lead = (int64_t)((uintptr_t)row & 15), end = lead + w.row_bytes;
            const int64_t at = 16 * w.v;
            const uint8_t *const p = row - lead + at;
            if (at >= lead && at + 16 <= end) got[i] = __ldg((const uint4 *)p);
            else if (at < end) got[i] = load_part<size>(p, lead - at, end - at, fill);
            w.v += w.v_step;
            if (16 * w.v >= end) w.v = first_v, w.row += w.row_step;
        }
        visit(got);
    }
}

/* A block's part of matrix z: one piece of each of its rows. */
__device__ __forceinline__ Walk walk_piece(const WalkMatrix &m, int64_t z)
{
    const int64_t from = blockIdx.x * m.chunk, left = m.row_bytes - from;
    return { m.x + z * m.stride + from, m.ld, left < m.chunk ? left : m.chunk, m.rows,
             (int64_t)blockIdx.y * blockDim.y + threadIdx.y, (int64_t)gridDim.y * blockDim.y,
             threadIdx.x, blockDim.x };
}

/* One row by a warp, whose lane is threadIdx.x. */
__device__ __forceinline__ Walk walk_row(const WalkMatrix &m, int64_t row)
{
    return { m.x, m.ld, m.row_bytes, row + 1, row, 1, threadIdx.x, 32 };
}

/* ---- launching ---- */

struct WalkShape {
    dim3 grid, block;
};

enum { WALK_MOST_BLOCKS = 65535 /* along y and z */ };

static inline int64_t walk_at_most(int64_t n, int64_t most) { return n < most ? n : most; }

/* src as bytes; dense rows are one. */
static inline WalkMatrix walk_matrix(const nib_matrix *src)
{
    const int64_t size = src->dtype == NIB_F32 ? 4 : 2;
    return { (const uint8_t *)src->data, src->rows, src->cols * size, src->ld_elems * size, 1, 0,
             0 };
}

static inline void walk_join_rows(WalkMatrix *m)
{
    if (m->ld == m->row_bytes) m->row_bytes *= m->rows, m->rows = 1;
}

/* Threads of a row's block for so many vectors: a power of two. */
static inline int walk_width(int64_t vectors, int threads)
{
    int width = 8;
    while (width < vectors && width < threads) width *= 2;
    return width;
}

/* Blocks for walk_piece, about each_vectors vectors a thread; sets m->chunk. grid x, y: along and
 * down a matrix, z: matrices. */
static inline WalkShape walk_shape(WalkMatrix *m, int threads, int each_vectors)
{
    const int64_t vectors = nib_ceil_div(m->row_bytes, 16) + 1; /* with a head and a tail */
    const int     width = walk_width(vectors, threads);
    const int64_t height = threads / width;
    const int64_t across = nib_ceil_div(vectors, (int64_t)width * each_vectors);
    const int64_t of_row = nib_ceil_div(vectors, width * across); /* vectors of a thread */
    const int64_t rows = of_row < each_vectors ? each_vectors / of_row : 1;
    m->chunk = 16 * width * of_row;
    return { dim3((unsigned)nib_ceil_div(m->row_bytes, m->chunk), /* 2^31: over 2^42 bytes */
                  (unsigned)walk_at_most(nib_ceil_div(m->rows, height * rows), WALK_MOST_BLOCKS),
                  (unsigned)walk_at_most(m->count, WALK_MOST_BLOCKS)),
             dim3((unsigned)width, (unsigned)height) };
}

#endif
