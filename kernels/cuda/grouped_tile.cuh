/* grouped_tile.cuh: which rows a block of threads has, where groups are known on the device alone.
 *
 * Every group is cut into tiles of 32 rows, its last one short, or, where its scales are padded to
 * 128 rows, into as many as those. A grid has the most tiles that there can be; a block looks for
 * its own among the groups' sums, 32 groups at a time. */
#ifndef NIB_GROUPED_TILE_CUH
#define NIB_GROUPED_TILE_CUH

#include "kernels/backend.h"
#include "kernels/common/groups.h"
#include "kernels/common/layout.h"
#include "ptx.cuh"

enum { NIB_TILE_ROWS = 32, NIB_TILE_NONE = -1 };

struct Groups {
    const int64_t *offsets;
    int64_t        count, rows; /* of groups; of the matrix */
    int            padded;      /* groups are padded to 128 rows */
    unsigned       across;      /* blocks of threads of a tile */
};

struct GroupTile {
    int64_t group;       /* or NIB_TILE_NONE */
    int64_t begin, rows; /* of the group */
    int64_t row;         /* the tile's first, in its group */
    int64_t scales_row;  /* where the group's scales begin */
};

__device__ __forceinline__ int64_t group_tiles(const Groups &g, int64_t rows)
{
    return g.padded ? nib_ceil_div(rows, 128) * (128 / NIB_TILE_ROWS)
                    : nib_ceil_div(rows, NIB_TILE_ROWS);
}

/* By all lanes of a warp: lane's group's sum or maximum with those of the lanes before it. */
__device__ __forceinline__ long long scan_max(long long x, unsigned lane)
{
    for (unsigned d = 1; d < 32; d *= 2) {
        const long long before = __shfl_up_sync(~0u, x, d);
        if (lane >= d && before > x) x = before;
    }
    return x;
}

__device__ __forceinline__ long long scan_sum(long long x, unsigned lane)
{
    for (unsigned d = 1; d < 32; d *= 2) {
        const long long before = __shfl_up_sync(~0u, x, d);
        if (lane >= d) x += before;
    }
    return x;
}

/* The tile of this number, by one whole warp; lane 0 .. 31 of it. */
__device__ __forceinline__ void find_tile(const Groups &g, int64_t tile, unsigned lane,
                                          GroupTile &found)
{
    long long begun = nib_group_next(0, g.offsets[0], g.rows), tiles = 0; /* of groups before */
    if (lane == 0) found.group = NIB_TILE_NONE;
    __syncwarp();
    for (int64_t first = 0; first < g.count; first += 32) {
        const int64_t group = first + lane;
        long long     end = scan_max(group < g.count ? g.offsets[group + 1] : 0, lane);
        end = nib_group_next(begun, end, g.rows);
        const long long before = __shfl_up_sync(~0u, end, 1), begin = lane ? before : begun;
        const long long mine = group_tiles(g, end - begin);
        const long long last = tiles + scan_sum(mine, lane);
        const unsigned  has = __ballot_sync(~0u, last > tile);
        if (has) {
            if ((int)lane == __ffs((int)has) - 1) {
                const long long skipped = last - mine;
                found.group = group;
                found.begin = begin;
                found.rows = end - begin;
                found.row = (tile - skipped) * NIB_TILE_ROWS;
                found.scales_row = g.padded ? skipped * NIB_TILE_ROWS : begin;
            }
            return;
        }
        begun = __shfl_sync(~0u, end, 31);
        tiles = __shfl_sync(~0u, last, 31);
    }
}

/* ---- launching ---- */

/* Blocks of threads for all tiles there can be, or 0 if they are too many for a grid. */
static inline unsigned tile_blocks(const Groups *g)
{
    const int64_t filled = g->count < g->rows ? g->count : g->rows; /* groups that have rows */
    if (g->rows > INT64_MAX / 2 || filled > INT64_MAX / 256) return 0;
    const int64_t tiles = g->padded ? (g->rows + 127 * filled) / 128 * (128 / NIB_TILE_ROWS)
                                    : (g->rows + (NIB_TILE_ROWS - 1) * filled) / NIB_TILE_ROWS;
    const int64_t least = tiles > 0 ? tiles : 1;
    return least <= (int64_t)INT32_MAX / g->across ? (unsigned)(least * g->across) : 0;
}

static inline Groups groups_of(const nib_groups *groups, const nib_matrix *src, int padded)
{
    Groups g = {};
    g.offsets = groups->offsets;
    g.count = groups->count;
    g.rows = src->rows;
    g.padded = padded;
    g.across = 1;
    return g;
}

#endif
