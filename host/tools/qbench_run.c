/* qbench_run.c: one case, from its device to its row. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "qbench.h"

enum { OP, LIMIT, BASELINE, WORKS = BASELINE + NIB_QB_RIVALS - 1 };

static nib_status run_op(void *state, int64_t call)
{
    nib_qb_data *data = state;
    const nib_qb_call one = nib_qb_call_of(data, nib_qb_visit(call, data->copies));
    return data->c->op->run(&one);
}

/* "cpu avx2, AMD EPYC": the kernel's name, then the device's. */
static void name_device(nib_qb_row *row, const nib_device *device)
{
    const char *text = nib_device_description(device), *comma = strchr(text, ',');
    const int n = comma ? (int)(comma - text) : (int)strlen(text);
    snprintf(row->kernel, sizeof row->kernel, "%.*s", n, text);
    snprintf(row->device, sizeof row->device, "%s", comma ? comma + 2 : text);
    const nib_qb_op *op = row->c->op;
    const char *own = row->c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA ? op->cuda_kernel
                                                                         : op->cpu_kernel;
    if (own || !(op->axes & NIB_QB_AXIS(ISA))) /* a limit: the best loops of the machine */
        snprintf(row->kernel, sizeof row->kernel, "%s", own ? own : row->backend);
}

int nib_qb_obeys(const nib_qb_case *c, nib_qb_axis_id id)
{
    const int cuda = c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA;
    if (id == NIB_QB_ISA || id == NIB_QB_THREADS) return (c->op->axes >> id & 1) && !cuda;
    if (id == NIB_QB_DEVICE || id == NIB_QB_LAUNCH) return (c->op->axes >> id & 1) && cuda;
    return c->op->axes >> id & 1;
}

/* Later axes are named only where they say something: older lines stay what they were. A format's
 * name has its block. */
void nib_qb_write_command(const nib_qb_case *c, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "qbench %s", c->op->name);
    for (int id = 0; id < NIB_QB_AXES && used < bytes; id++) {
        char value[64];
        const int64_t v = c->value[id];
        if (!nib_qb_obeys(c, (nib_qb_axis_id)id)) continue;
        if (id == NIB_QB_BLOCK) {
            nib_qb_axis_print(NIB_QB_BLOCK, v % 8 ? NIB_QB_BY_ROW : v, value, sizeof value);
            if (!nib_qb_obeys(c, NIB_QB_FORMAT))
                used += (size_t)snprintf(text + used, bytes - used, " --block %s", value);
            continue;
        }
        if ((id == NIB_QB_BATCH && v == 1) || (id == NIB_QB_DEVICE && v == 0)
            || (id == NIB_QB_ROUNDING && v == NIB_ROUND_NEAREST)
            || ((id == NIB_QB_SCALE_ROWS || id == NIB_QB_TACTIC || id == NIB_QB_ACCUMULATE
                 || id == NIB_QB_ACTIVATIONS || id == NIB_QB_PRECISION) && v == 0)
            || (id == NIB_QB_LAUNCH && v == NIB_QB_LAUNCH_AUTO))
            continue;
        nib_qb_axis_print((nib_qb_axis_id)id, v, value, sizeof value);
        used += (size_t)snprintf(text + used, bytes - used, " --%s %s", nib_qb_axes[id].name,
                                 value);
    }
}

static void hold(nib_qb_held *held, const nib_qb_rival *rival, const nib_qb_timing *time,
                 double gbps)
{
    if (!rival->name || time->runs == 0) return;
    held->name = rival->name;
    held->median_us = time->median_us;
    held->rate = (double)rival->bytes / (1e3 * time->median_us);
    held->ratio = gbps / held->rate;
}

/* Rates from the medians of works that were timed in turn. */
static void rate(nib_qb_row *row, const nib_qb_timing *time, const nib_qb_rival *rival)
{
    row->time = time[OP];
    if (row->time.runs == 0) return;
    row->gbps = (double)row->bytes / (1e3 * row->time.median_us);
    row->tflops = (double)row->flops / (1e6 * row->time.median_us);
    if (!row->c->op->limit) /* held against itself */
        row->limit = (nib_qb_held){ row->c->op->name, row->time.median_us,
                                    row->bytes > 0 ? row->gbps : row->tflops, 1 };
    else
        hold(&row->limit, &rival[LIMIT], &time[LIMIT], row->gbps);
    int n = 0;
    for (int i = BASELINE; i < WORKS; i++) {
        hold(&row->baseline[n], &rival[i], &time[i], row->gbps);
        n += row->baseline[n].name != NULL;
    }
}

/* OpenBLAS does not know every processor, and is several times slower on one that it takes for an
 * older one: OPENBLAS_CORETYPE. */
static int uses_openblas(const nib_qb_row *row)
{
    const nib_qb_op *op = row->c->op;
    if (row->c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA) return 0;
    for (int i = 0; i < NIB_QB_RIVALS - 1; i++)
        if (row->baseline[i].name && op->baseline[i] == &nib_qb_baseline_dense) return 1;
    return op->limit == &nib_qb_limit_potrf || op->limit == &nib_qb_limit_syrk
        || (op->cpu_kernel && !strcmp(op->cpu_kernel, "openblas"));
}

/* Rates from the medians of works that were timed in turn, and what disturbed them. */
static nib_status time_works(nib_qb_data *data, const nib_qb_settings *settings,
                             const nib_qb_rival *rival, const nib_qb_work *work, const int *which,
                             int count, nib_qb_timer *timer, nib_qb_row *row)
{
    nib_qb_timing time[WORKS] = { { 0 } }, taken[WORKS] = { { 0 } };
    const int hot = row->c->value[NIB_QB_CACHE] == NIB_QB_CACHE_HOT;
    const double start = nib_qb_now_s(), foreign = nib_qb_foreign_s();
    const int64_t throttled = nib_qb_throttle_count(data->device);
    const nib_status status = nib_qb_measure(work, count, timer, hot, &settings->policy, taken);
    /* The system counts in ticks: a short row may meet more of them than it lasts. */
    row->foreign_cpus = fmin((double)sysconf(_SC_NPROCESSORS_ONLN),
                             fmax(0, (nib_qb_foreign_s() - foreign) / (nib_qb_now_s() - start)));
    row->throttled = nib_qb_throttle_count(data->device) > throttled;
    for (int i = 0; i < count; i++) time[which[i]] = taken[i];
    data->calls = time[OP].covered;
    if (status != NIB_OK) return status;
    rate(row, time, rival);
    if (row->c->op->stages) row->c->op->stages(row->stage);
    if (uses_openblas(row)) row->openblas = nib_bench_cpu.gemm_core();
    /* Not enough processors for all: long samples were interrupted, short ones less often. */
    if (row->foreign_cpus + row->threads > (double)sysconf(_SC_NPROCESSORS_ONLN) + 0.25)
        row->time.noisy = 1;
    if (row->throttled) row->time.noisy = 1;
    return NIB_OK;
}

static void say_why(nib_qb_row *row, const nib_qb_data *data)
{
    if (row->skipped[0]) return;
    snprintf(row->skipped, sizeof row->skipped, "%.500s",
             data->device->why[0] ? data->device->why : nib_last_error());
}

static nib_status measure(nib_qb_data *data, const nib_qb_settings *settings, nib_qb_row *row)
{
    nib_qb_rival rival[WORKS + 1] = { { .name = NULL } }, *flush = &rival[WORKS];
    nib_qb_work work[WORKS] = { { run_op, data, data->copies, row->c->op->waits } };
    nib_qb_timer timer = { .device = data->device };
    int which[WORKS] = { OP }, count = 1;
    int memory = nib_qb_limit_open(data, &rival[LIMIT]);
    for (int i = BASELINE; i < WORKS && settings->baselines; i++)
        memory &= nib_qb_baseline_open(data, i - BASELINE, &rival[i]);
    timer.graphs = row->c->value[NIB_QB_LAUNCH] != NIB_QB_LAUNCH_STREAM;
    if (row->c->value[NIB_QB_CACHE] == NIB_QB_CACHE_FLUSH) {
        *flush = (nib_qb_rival){ .kind = &nib_qb_limit_read, .windows = 1 };
        flush->bytes = 2 * data->device->cache_bytes;
        memory &= nib_qb_rival_open(data, flush);
        timer.flush = nib_qb_rival_work(flush);
    }
    for (int i = LIMIT; i < WORKS; i++) {
        if (!rival[i].name) continue;
        which[count] = i;
        work[count++] = nib_qb_rival_work(&rival[i]);
    }
    nib_status status = memory ? nib_qb_timer_open(&timer) : NIB_ERR_OUT_OF_MEMORY;
    if (!memory)
        snprintf(row->skipped, sizeof row->skipped, "no memory for its limit and baseline");
    if (status == NIB_OK)
        status = time_works(data, settings, rival, work, which, count, &timer, row);
    if (status != NIB_OK) say_why(row, data);
    if (data->device->runtime) nib_qb_timer_close(&timer);
    for (int i = LIMIT; i < WORKS + 1; i++) nib_qb_rival_close(&rival[i]);
    return status;
}

static nib_status run_and_wait(nib_qb_data *data, int64_t call)
{
    const nib_status status = run_op(data, call);
    return status == NIB_OK ? nib_qb_device_finish(data->device) : status;
}

/* One marked call that finds everything loaded, for a profiler to look at. */
static nib_status profile(nib_qb_data *data, nib_qb_row *row)
{
    nib_status status = NIB_OK;
    int marked = 0;
    for (int64_t call = 0; call < 3 && status == NIB_OK; call++) {
        if (call == 2) marked = nib_qb_mark_begin();
        status = run_and_wait(data, call);
        if (call == 2) nib_qb_mark_end();
    }
    data->calls = 3;
    if (status == NIB_OK)
        snprintf(row->skipped, sizeof row->skipped, "profiled: 3 calls, the last %s; not timed",
                 marked ? "in NVTX range qbench@profiled" : "unmarked, as this build has no NVTX");
    else say_why(row, data);
    return status;
}

static nib_status verify(nib_qb_data *data, const nib_qb_settings *settings, nib_qb_row *row)
{
    if (!settings->verify) return NIB_OK;
    const nib_status status = nib_qb_verify(data, settings->corrupt, &row->verdict);
    if (status != NIB_OK)
        snprintf(row->skipped, sizeof row->skipped, "could not be verified: %s",
                 nib_status_name(status));
    return status;
}

static nib_status with_devices(nib_qb_row *row, const nib_qb_settings *settings,
                               nib_qb_device *device, nib_device *portable)
{
    const nib_qb_case *c = row->c;
    nib_qb_data data = {
        .c = c,
        .device = device,
        .reference = { .size = sizeof(nib_exec), .device = portable, .threads = 1 },
    };
    nib_status status = nib_qb_data_open(&data, row->skipped, sizeof row->skipped);
    if (status != NIB_OK) return status;
    const nib_qb_call first = nib_qb_call_of(&data, 0);
    row->bytes = c->op->bytes ? c->op->bytes(c) : 0;
    row->flops = c->op->flops ? c->op->flops(&first) : 0;
    if (c->op->prepare) status = c->op->prepare(&first);
    if (status != NIB_OK) say_why(row, &data);
    else if (c->op->kernel) { /* "cpu avx2 rows" */
        const size_t n = strlen(row->kernel);
        snprintf(row->kernel + n, sizeof row->kernel - n, " %s", c->op->kernel(&first));
    }
    if (status == NIB_OK)
        status = settings->profile ? profile(&data, row) : measure(&data, settings, row);
    if (status == NIB_OK) status = verify(&data, settings, row);
    if (c->op->release) c->op->release(&first);
    nib_qb_data_close(&data);
    return status;
}

static void complain(const nib_qb_row *row)
{
    fprintf(stderr, "qbench: wrong result: %s: %lld bytes differ from the reference, "
            "largest error %g\n", row->command, (long long)row->verdict.wrong_bytes,
            row->verdict.max_err);
}

/* --block: the format with blocks of that length, which becomes the axis' value; or the length of
 * integers' groups. */
static int reblock(nib_qb_case *c, nib_qb_row *row)
{
    char text[32];
    const nib_format format = (nib_format)c->value[NIB_QB_FORMAT];
    const int64_t block = c->value[NIB_QB_BLOCK];
    if (c->op->axes & NIB_QB_AXIS(ELEMENT)) {
        if (block == 0) c->value[NIB_QB_BLOCK] = 128;
        if (block == NIB_QB_BY_ROW) c->value[NIB_QB_BLOCK] = c->value[NIB_QB_COLS];
        return 1;
    }
    c->value[NIB_QB_BLOCK] = nib_format_block(format);
    if (block == 0 || !(c->op->axes & NIB_QB_AXIS(BLOCK))) return 1;
    const nib_format made = nib_format_make(nib_format_element(format), nib_format_scale(format),
                                            (int32_t)block, nib_format_has_tensor_scale(format));
    if (!nib_format_is_valid(made)) {
        nib_qb_axis_print(NIB_QB_BLOCK, block, text, sizeof text);
        snprintf(row->skipped, sizeof row->skipped, "--block %s; the choices of a format are 8, "
                 "16, 32, 64, 128", text);
        return 0;
    }
    c->value[NIB_QB_FORMAT] = made;
    c->value[NIB_QB_BLOCK] = block;
    return 1;
}

static void run_opened(nib_qb_row *row, const nib_qb_settings *settings, nib_qb_output *output)
{
    const nib_device_options reference = {
        .size = sizeof reference, .backend = NIB_BACKEND_CPU, .cpu_isa = NIB_CPU_ISA_PORTABLE,
    };
    nib_device *portable = NULL;
    nib_qb_device device;
    if (nib_qb_device_open(row->c, &device) != NIB_OK) {
        snprintf(row->skipped, sizeof row->skipped, "%.500s", device.why);
        output->device_missing = 1;
        return;
    }
    if (nib_device_open(&reference, &portable) != NIB_OK) {
        snprintf(row->skipped, sizeof row->skipped, "%.500s", nib_last_error());
    } else {
        name_device(row, device.device);
        nib_qb_clocks(&device, row->clocks, sizeof row->clocks);
        if (device.runtime) nib_qb_gpu_driver(row->driver, sizeof row->driver);
        const nib_status status = with_devices(row, settings, &device, portable);
        if (status != NIB_OK && !row->skipped[0])
            snprintf(row->skipped, sizeof row->skipped, "%s", nib_status_name(status));
    }
    nib_qb_device_close(&device);
    nib_device_close(portable);
}

void nib_qb_run_case(const nib_qb_case *asked, const nib_qb_settings *settings,
                     nib_qb_output *output)
{
    nib_qb_case c = *asked;
    if (c.value[NIB_QB_THREADS] == 0) c.value[NIB_QB_THREADS] = nib_cpu_max_threads();
    const int cuda = c.value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA;
    nib_qb_row row = { .c = &c, .threads = cuda ? 1 : (int32_t)c.value[NIB_QB_THREADS] };
    const int possible = reblock(&c, &row);
    const char *why_not = possible && c.op->why_not ? c.op->why_not(&c) : NULL;
    nib_qb_write_command(&c, row.command, sizeof row.command);
    nib_qb_axis_print(NIB_QB_BACKEND, c.value[NIB_QB_BACKEND], row.backend, sizeof row.backend);
    if (possible && why_not) snprintf(row.skipped, sizeof row.skipped, "%s", why_not);
    else if (possible)
        run_opened(&row, settings, output);

    const int interrupted = *settings->policy.stop && row.time.runs == 0;
    if (interrupted && !settings->profile) return;
    nib_qb_report_row(output, &row);
    output->ran += !row.skipped[0] || settings->profile;
    output->unverified += row.skipped[0] && row.time.runs > 0;
    if (!output->skipped[0]) memcpy(output->skipped, row.skipped, sizeof row.skipped);
    if (row.verdict.checked && row.verdict.wrong_bytes) {
        output->wrong++;
        complain(&row);
    }
    for (int i = 0; i < output->n_floors; i++) {
        nib_qb_floor *floor = &output->floors[i];
        if (floor->op != c.op || !row.limit.name) continue;
        floor->rows++;
        if (row.limit.ratio >= floor->sol) continue;
        output->below++;
        fprintf(stderr, "qbench: %s: %.3f of its limit, less than --min-sol %s=%g\n", row.command,
                row.limit.ratio, c.op->name, floor->sol);
    }
}
