/* hessian_mpi.c: tokens shared among processes: each adds up its own, MPI sums the parts, and the
 * sum is the Hessian of all, which every process also makes by itself to compare. The reduction is
 * what hessian.h says: MPI_SUM of the k * ld_elems numbers, of a buffer that was cleared whole. */
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nibble/nibble.h"

enum { K = 100, LD = 112, ROWS = 60 }; /* ROWS: of each process */

static int rank, failed;

static void ok(nib_status status)
{
    if (status == NIB_OK) return;
    printf("rank %d: %s: %s\n", rank, nib_status_name(status), nib_last_error());
    failed = 1;
}

/* One process's tokens: integers, or anything. */
static void fill(int of, int integers, float *x)
{
    uint32_t state = 12345u + 977u * (uint32_t)of;
    for (int i = 0; i < ROWS * K; i++) {
        state = state * 1664525u + 1013904223u;
        const int small = (int)(state >> 24) % 15 - 7;
        x[i] = integers ? (float)small : (float)(state >> 8) * 0x1p-23f - 1.0f;
    }
}

static void add(const nib_exec *exec, float *x, const nib_hessian *h)
{
    const nib_matrix tokens = { x, NIB_F32, ROWS, K, K };
    nib_exec with = *exec;
    with.workspace_bytes = (nib_hessian_add_workspace_bytes(exec->device, h, ROWS) + 63) / 64 * 64;
    with.workspace = with.workspace_bytes ? aligned_alloc(64, with.workspace_bytes) : NULL;
    ok(nib_hessian_add(&with, &tokens, NIB_HESSIAN_EXACT, h));
    free(with.workspace);
}

static double at(const nib_hessian *h, int i, int j)
{
    return h->real == NIB_REAL_F64 ? ((double *)h->data)[i * LD + j]
                                   : (double)((float *)h->data)[i * LD + j];
}

/* Sums by MPI and by one process, held to each other. */
static void compare(const nib_exec *exec, nib_real real, int processes, int integers)
{
    const size_t bytes = (size_t)K * LD * (real == NIB_REAL_F64 ? 8 : 4);
    uint64_t tokens = 1, tokens_whole = 1;
    nib_hessian part = { sizeof part, real, K, calloc(1, bytes), LD, &tokens };
    nib_hessian whole = { sizeof whole, real, K, calloc(1, bytes), LD, &tokens_whole };
    float *x = malloc(ROWS * K * sizeof *x);
    ok(nib_hessian_clear(exec, &part));
    ok(nib_hessian_clear(exec, &whole));
    for (int p = 0; p < processes; p++) {
        fill(p, integers, x);
        if (p == rank) add(exec, x, &part);
        add(exec, x, &whole);
    }
    MPI_Allreduce(MPI_IN_PLACE, part.data, K * LD,
                  real == NIB_REAL_F64 ? MPI_DOUBLE : MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, &tokens, 1, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
    /* Sums of magnitudes are below sqrt(H_ii H_jj); one rounding for each token and process. */
    const double unit = real == NIB_REAL_F64 ? 0x1p-53 : 0x1p-24;
    const double terms = 2.0 * (ROWS * processes + processes);
    for (int i = 0; i < K; i++) {
        for (int j = 0; j <= i; j++) {
            const double bound = terms * unit * sqrt(at(&whole, i, i) * at(&whole, j, j));
            const double off = fabs(at(&part, i, j) - at(&whole, i, j));
            if (off <= (integers ? 0.0 : bound)) continue;
            printf("rank %d, real %d: (%d, %d) is %.17g, not %.17g\n", rank, (int)real, i, j,
                   at(&part, i, j), at(&whole, i, j));
            failed = 1;
        }
    }
    if (tokens != (uint64_t)(ROWS * processes) || tokens != tokens_whole) {
        printf("rank %d: %llu tokens\n", rank, (unsigned long long)tokens);
        failed = 1;
    }
    free(part.data), free(whole.data), free(x);
}

int main(int argc, char **argv)
{
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    nib_exec exec = { .size = sizeof exec, .threads = 1 };
    nib_device *device = NULL;
    int processes = 0, any = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &processes);
    ok(nib_device_open(&options, &device));
    exec.device = device;
    for (int real = 0; real < 2 && !failed; real++)
        for (int integers = 0; integers < 2; integers++)
            compare(&exec, (nib_real)real, processes, integers);
    MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (rank == 0 && !any) printf("%d processes: the parts' sum is the whole\n", processes);
    nib_device_close(device);
    MPI_Finalize();
    return any;
}
