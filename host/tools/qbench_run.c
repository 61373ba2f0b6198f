/* qbench_run.c: one case, from its device to its row. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "qbench.h"

enum { OP, LIMIT, BASELINE, WORKS };

static nib_status run_op(void *state, int64_t call)
{
    nib_qb_data *data = state;
    data->calls++;
    return data->c->op->run(data, nib_qb_visit(call, data->copies));
}

/* "cpu avx2, AMD EPYC": the kernel's name, then the device's. */
static void name_device(nib_qb_row *row, const nib_device *device)
{
    const char *text = nib_device_description(device), *comma = strchr(text, ',');
    const int n = comma ? (int)(comma - text) : (int)strlen(text);
    snprintf(row->kernel, sizeof row->kernel, "%.*s", n, text);
    snprintf(row->device, sizeof row->device, "%s", comma ? comma + 2 : text);
    snprintf(row->backend, sizeof row->backend, "%s",
             nib_device_backend(device) == NIB_BACKEND_CUDA ? "cuda" : "cpu");
    if (!(row->c->op->axes >> NIB_QB_ISA & 1)) /* a limit: the best loops of the machine */
        snprintf(row->kernel, sizeof row->kernel, "%s", row->backend);
}

static void write_command(nib_qb_row *row)
{
    const nib_qb_case *c = row->c;
    size_t used = (size_t)snprintf(row->command, sizeof row->command, "qbench %s", c->op->name);
    for (int id = 0; id < NIB_QB_AXES && used < sizeof row->command; id++) {
        char value[64];
        if (!(c->op->axes >> id & 1)) continue;
        nib_qb_axis_print((nib_qb_axis_id)id, c->value[id], value, sizeof value);
        used += (size_t)snprintf(row->command + used, sizeof row->command - used, " --%s %s",
                                 nib_qb_axes[id].name, value);
    }
}

/* Rates from the medians of works that were timed in turn. */
static void rate(nib_qb_row *row, const nib_qb_timing *time, const nib_qb_rival *limit,
                 const nib_qb_rival *baseline)
{
    row->time = time[OP];
    if (row->time.runs == 0) return;
    row->gbps = (double)row->bytes / (1e3 * row->time.median_us);
    row->tflops = (double)row->flops / (1e6 * row->time.median_us);
    if (!limit->name) { /* held against itself */
        row->limit = row->c->op->name;
        row->limit_rate = row->bytes > 0 ? row->gbps : row->tflops;
        row->sol = 1;
    } else if (time[LIMIT].runs > 0) {
        row->limit = limit->name;
        row->limit_rate = (double)limit->bytes / (1e3 * time[LIMIT].median_us);
        row->sol = row->gbps / row->limit_rate;
    }
    if (baseline->name && time[BASELINE].runs > 0) {
        row->baseline = baseline->name;
        row->baseline_gbps = (double)baseline->bytes / (1e3 * time[BASELINE].median_us);
        row->speedup = row->gbps / row->baseline_gbps;
    }
}

static nib_status measure(nib_qb_data *data, const nib_qb_settings *settings, nib_qb_row *row)
{
    nib_qb_rival rival[WORKS] = { { .name = NULL } };
    nib_qb_timing time[WORKS] = { { 0 } }, taken[WORKS] = { { 0 } };
    nib_qb_work work[WORKS] = { { run_op, data } };
    int which[WORKS] = { OP }, count = 1;
    nib_status status = NIB_OK;
    if (!nib_qb_limit_open(data, &rival[LIMIT]) || !nib_qb_baseline_open(data, &rival[BASELINE])) {
        snprintf(row->skipped, sizeof row->skipped, "no memory for its limit and baseline");
        status = NIB_ERR_OUT_OF_MEMORY;
    }
    for (int i = LIMIT; i < WORKS; i++) {
        if (!rival[i].name) continue;
        which[count] = i;
        work[count++] = rival[i].work;
    }
    nib_qb_policy policy = settings->policy;
    policy.hot = row->c->value[NIB_QB_CACHE] == NIB_QB_CACHE_HOT;
    if (status == NIB_OK) {
        const double start = nib_qb_now_s(), foreign = nib_qb_foreign_s();
        status = nib_qb_measure(work, count, &policy, taken);
        row->foreign_cpus = fmax(0, (nib_qb_foreign_s() - foreign) / (nib_qb_now_s() - start));
        if (status != NIB_OK) snprintf(row->skipped, sizeof row->skipped, "%s", nib_last_error());
    }
    for (int i = 0; i < count; i++) time[which[i]] = taken[i];
    if (status == NIB_OK) rate(row, time, &rival[LIMIT], &rival[BASELINE]);
    /* Not enough processors for all: long samples were interrupted, short ones less often. */
    if (row->foreign_cpus + row->threads > (double)sysconf(_SC_NPROCESSORS_ONLN) + 0.25)
        row->time.noisy = 1;
    nib_qb_rival_close(&rival[LIMIT]);
    nib_qb_rival_close(&rival[BASELINE]);
    return status;
}

static nib_status verify(nib_qb_data *data, const nib_qb_settings *settings, nib_qb_row *row)
{
    const nib_qb_op *op = data->c->op;
    if (!settings->verify || !op->check || data->calls == 0) return NIB_OK;
    data->corrupt = settings->corrupt;
    const nib_status status = op->check(data, &row->verdict);
    if (status != NIB_OK) {
        snprintf(row->skipped, sizeof row->skipped, "could not be verified: %s",
                 nib_status_name(status));
        return status;
    }
    row->verdict.checked = 1;
    row->verdict.right = row->verdict.wrong_bytes == 0;
    return NIB_OK;
}

static nib_status with_devices(nib_qb_row *row, const nib_qb_settings *settings,
                               nib_device *device, nib_device *portable)
{
    const nib_qb_case *c = row->c;
    nib_qb_data data = {
        .c = c,
        .exec = { .size = sizeof(nib_exec), .device = device, .threads = row->threads },
        .reference = { .size = sizeof(nib_exec), .device = portable, .threads = 1 },
    };
    const nib_status opened = nib_qb_data_open(&data, row->skipped, sizeof row->skipped);
    if (opened != NIB_OK) return opened;
    row->bytes = c->op->bytes ? c->op->bytes(c) : 0;
    row->flops = c->op->flops ? c->op->flops(c) : 0;
    nib_status status = measure(&data, settings, row);
    if (status == NIB_OK) status = verify(&data, settings, row);
    nib_qb_data_close(&data);
    return status;
}

static void complain(const nib_qb_row *row)
{
    fprintf(stderr, "qbench: wrong result: %s: %lld bytes differ from the portable reference, "
            "largest error %g\n", row->command, (long long)row->verdict.wrong_bytes,
            row->verdict.max_err);
}

void nib_qb_run_case(const nib_qb_case *asked, const nib_qb_settings *settings,
                     nib_qb_output *output)
{
    nib_qb_case c = *asked;
    if (c.value[NIB_QB_THREADS] == 0) c.value[NIB_QB_THREADS] = nib_cpu_max_threads();
    nib_qb_row row = { .c = &c, .threads = (int32_t)c.value[NIB_QB_THREADS] };
    const nib_device_options options = {
        .size = sizeof options,
        .backend = (nib_backend_kind)c.value[NIB_QB_BACKEND],
        .cpu_isa = (nib_cpu_isa)c.value[NIB_QB_ISA],
    };
    const nib_device_options reference = {
        .size = sizeof reference, .backend = NIB_BACKEND_CPU, .cpu_isa = NIB_CPU_ISA_PORTABLE,
    };
    nib_device *device = NULL, *portable = NULL;
    write_command(&row);
    nib_qb_axis_print(NIB_QB_BACKEND, c.value[NIB_QB_BACKEND], row.backend, sizeof row.backend);
    if (nib_device_open(&options, &device) != NIB_OK
        || nib_device_open(&reference, &portable) != NIB_OK) {
        snprintf(row.skipped, sizeof row.skipped, "%s", nib_last_error());
        output->device_missing = 1;
    } else {
        name_device(&row, device);
        const nib_status status = with_devices(&row, settings, device, portable);
        if (status != NIB_OK && !row.skipped[0])
            snprintf(row.skipped, sizeof row.skipped, "%s", nib_status_name(status));
    }
    nib_device_close(device);
    nib_device_close(portable);

    const int interrupted = *settings->policy.stop && row.time.runs == 0;
    if (interrupted) return;
    nib_qb_report_row(output, &row);
    output->ran += !row.skipped[0];
    if (!output->skipped[0]) memcpy(output->skipped, row.skipped, sizeof row.skipped);
    if (row.verdict.checked && !row.verdict.right) {
        output->wrong++;
        complain(&row);
    }
}
