/* gemm_cpu.c: products with packed weights: which kernel, with what workspace, on which threads. */
#include "gemm_cpu.h"
#include "gemm_tune_cpu.h"

#include <omp.h>
#include <stdio.h>

/* ---- tactics ---- */

enum { ROWS, PANEL, ROWS_INT8, PANEL_INT8, TACTICS };

static const char *const names[TACTICS] = { "rows", "panel", "rows-int8", "panel-int8" };
static const char *const reasons[TACTICS] = {
    "few rows: the weights' memory is the limit, and they are multiplied as they are decoded",
    "weights become f32 once, a panel at a time, for all rows",
    "few rows: the weights' memory is the limit, and they are multiplied as bytes",
    "weights become bytes once, a panel at a time, for all rows",
};

static nib_gemm_tactic tactic_of(int id, int64_t low, int64_t high)
{
    nib_gemm_tactic t = { .id = id, .splits = 1, .m_low = low, .m_high = high,
                          .reason = reasons[id] };
    snprintf(t.name, sizeof t.name, "%s", names[id]);
    return t;
}

static const char *refused(const nib_gemm_options *o)
{
    if (o->accumulate != NIB_GEMM_ACCUMULATE_F32) return "F16 accumulation is a GPU's";
    if (o->layout != NIB_GEMM_LAYOUT_CPU) return "this device takes weights in layout CPU";
    return NULL;
}

static int first_of(const nib_gemm_options *o)
{
    return o->activations == NIB_GEMM_ACTIVATIONS_INT8 ? ROWS_INT8 : ROWS;
}

int32_t nib_gemm_tactics_cpu(const nib_gemm_options *o, const nib_device_info *info,
                             nib_gemm_tactic *tactics, char *why)
{
    const char *no = refused(o);
    const int   first = first_of(o);
    (void)info;
    if (no) {
        if (why) snprintf(why, NIB_WHY_BYTES, "%s", no);
        return 0;
    }
    tactics[0] = tactic_of(first, 1, INT32_MAX);
    tactics[1] = tactic_of(first + 1, 1, INT32_MAX);
    return 2;
}

/* batch_invariant needs no choice: both sum in the same order. */
int32_t nib_gemm_plan_cpu(const nib_gemm_options *o, const nib_device_info *info,
                          nib_gemm_tactic *tactics, char *why)
{
    const int     first = first_of(o);
    const int64_t last = first == ROWS ? NIB_GEMM_ROWS_LAST : NIB_GEMM_ROWS_INT8_LAST;
    if (!nib_gemm_tactics_cpu(o, info, tactics, why)) return 0;
    tactics[0] = tactic_of(first, 1, o->m_max < last ? o->m_max : last);
    if (o->m_max <= last) return 1;
    tactics[1] = tactic_of(first + 1, last + 1, o->m_max);
    return 2;
}

/* ---- workspace: activations, bias, and each thread's scratch ---- */

typedef struct room {
    size_t bias, scratch, bytes; /* where the parts begin; bytes: with scratches for one thread */
} room;

static size_t up64(size_t bytes) { return (bytes + 63) / 64 * 64; }

static room room_of(int int8, int has_scratch, int64_t m, int64_t depth, int64_t bias)
{
    const size_t padded = (size_t)nib_gemm_round_up(depth, 32);
    room r;
    r.bias = up64((size_t)m * (int8 ? padded / 16 * sizeof(nib_gemm_q16)
                                    : padded * sizeof(float)));
    r.scratch = r.bias + up64((size_t)bias * sizeof(float));
    r.bytes = r.scratch + (has_scratch ? sizeof(nib_gemm_scratch) : 0);
    return r;
}

static size_t need(room r, const nib_device_info *info)
{
    const size_t threads = info->processors > 1 ? (size_t)info->processors : 1;
    return r.scratch + threads * (r.bytes - r.scratch);
}

size_t nib_gemm_need_cpu(const nib_gemm_options *o, const nib_device_info *info,
                         const nib_gemm_tactic *tactic, int64_t m, int32_t *splits)
{
    const int id = tactic->id;
    *splits = 1;
    return need(room_of(id >= ROWS_INT8, id == PANEL || id == PANEL_INT8, m, o->k, o->n), info);
}

size_t nib_gemm_backward_need_cpu(const nib_gemm_options *o, const nib_device_info *info,
                                  int64_t m)
{
    return need(room_of(0, 1, m, o->n, 0), info);
}

/* ---- running ---- */

static nib_gemm_job job_of(const nib_gemm_request *r, int most_tokens)
{
    const nib_gemm_weights *w = r->w;
    const int64_t m = r->a->rows;
    nib_gemm_job  job = { .request = r, .w = w, .m = m, .depth = r->a->cols };
    const float t = w->tensor_scale ? nib_tensor_given(*w->tensor_scale).decode : 1.0f;
    job.e4m3 = nib_part_e4m3_scale(w->format);
    job.block = nib_part_block(w->format);
    job.padded = nib_gemm_round_up(job.depth, 32);
    job.width = nib_ceil_div(m, nib_ceil_div(m, most_tokens)); /* groups of about the same size */
    job.factor = job.e4m3 ? 0.5f : 8.0f;
    job.scale = r->alpha ? *r->alpha * t : t;
    return job;
}

typedef void (*task_of)(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch);

static void run_tasks(const nib_launch *launch, const nib_gemm_kernels *kernels,
                      const nib_gemm_job *job, task_of task, room r)
{
    const int64_t groups = nib_ceil_div(job->m, job->width);
    const int64_t pieces = nib_ceil_div(job->padded, NIB_GEMM_PIECE);
    const int64_t tasks = nib_ceil_div(job->outputs, NIB_GEMM_TASK_ROWS);
    const size_t  each = r.bytes - r.scratch;
    uint8_t *const scratch = (uint8_t *)launch->workspace + r.scratch;
    int64_t threads = launch->threads < tasks ? launch->threads : tasks;
    if (each && (size_t)threads > (launch->workspace_bytes - r.scratch) / each)
        threads = (int64_t)((launch->workspace_bytes - r.scratch) / each);
    if (job->m * job->depth < (1 << 18) / job->outputs) threads = 1; /* waking takes longer */
#pragma omp parallel num_threads((int)threads)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < groups * pieces; i++) {
            const int64_t from = i % pieces * NIB_GEMM_PIECE, to = from + NIB_GEMM_PIECE;
            kernels->prepare(job, i / pieces, from, to < job->padded ? to : job->padded);
        }
        nib_gemm_scratch *own = (nib_gemm_scratch *)(void *)
            (scratch + (size_t)omp_get_thread_num() * each);
        if (each && !job->depth) memset(own->sums, 0, sizeof own->sums); /* of no products */
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tasks; i++) task(job, i * NIB_GEMM_TASK_ROWS, own);
    }
}

nib_status nib_gemm_run(const nib_launch *launch, const nib_gemm_request *r,
                        const nib_gemm_kernels *kernels)
{
    const int id = r->tactic, int8 = id >= ROWS_INT8, panel = id == PANEL || id == PANEL_INT8;
    const task_of task = id == ROWS ? kernels->rows : id == PANEL ? kernels->panel
                       : id == ROWS_INT8 ? kernels->rows_int8 : kernels->panel_int8;
    const room    parts = room_of(int8, panel, r->a->rows, r->a->cols, r->w->n);
    uint8_t *const at = launch->workspace;
    nib_gemm_job  job = job_of(r, !panel ? kernels->rows_tokens
                                  : int8 ? kernels->int8_tokens : kernels->panel_tokens);
    job.int8 = int8;
    job.unsigned_q = panel && kernels->panel_signed;
    job.outputs = r->w->n;
    job.x = (float *)(void *)at;
    job.q = (nib_gemm_q16 *)(void *)at;
    if (r->bias) {
        float *bias = (float *)(void *)(at + parts.bias);
        kernels->load((int)r->d->dtype, r->bias, r->w->n, bias);
        job.bias = bias;
    }
    run_tasks(launch, kernels, &job, task, parts);
    return NIB_OK;
}

nib_status nib_gemm_backward_run(const nib_launch *launch, const nib_gemm_request *r,
                                 const nib_gemm_kernels *kernels)
{
    nib_gemm_job job = job_of(r, kernels->panel_tokens);
    job.backward = 1;
    job.outputs = r->w->k;
    job.x = launch->workspace;
    run_tasks(launch, kernels, &job, kernels->backward,
              room_of(0, 1, r->a->rows, r->a->cols, 0));
    return NIB_OK;
}
