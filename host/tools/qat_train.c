/* qat_train.c: one training, how it is judged, and what it came to. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/tools/qat_demo.h"

enum { CURVE_POINTS = 16, CURVE_BYTES = 8192 };

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Mean loss over the first bytes of the validation text, in whole batches of QAT_SEQUENCES: an
 * input's tensor scale is its batch's, so that all runs are judged by the same ones. */
static double validate(qat_run *r, nib_format format, int64_t bytes)
{
    r->m.sequences = QAT_SEQUENCES;
    qat_fake_nibble by = { r->exec, format, NIB_FAKE_IDENTITY };
    const qat_fake fake = qat_fake_by(&by);
    const int64_t batch = r->m.sequences * r->m.shape.context;
    const int64_t most = (r->text.validation_bytes - 1) / batch, wanted = bytes / batch;
    const int64_t n = wanted > most ? most : wanted > 0 ? wanted : 1;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        qat_text_validation(&r->text, &r->m, i, r->tokens);
        sum += qat_forward(&r->m, r->tokens, format == NIB_FORMAT_NONE ? NULL : &fake);
    }
    return sum / (double)n;
}

static void curve_add(qat_run *r, int64_t step, nib_format format)
{
    json_array_append_new(r->curve, json_pack("[I, f]", (json_int_t)step,
                                              validate(r, format, CURVE_BYTES)));
}

static void progress_show(const qat_run *r, int64_t step, double loss, double started)
{
    const double went = seconds(CLOCK_MONOTONIC) - started;
    printf("seed %lld, %s: step %lld of %lld, loss %.4f, %.0f s left\n", (long long)r->a->seed,
           r->a->run, (long long)step, (long long)r->a->steps, loss,
           went / (double)step * (double)(r->a->steps - step));
    fflush(stdout);
}

void qat_train(qat_run *r)
{
    const qat_arguments *a = r->a;
    const double started = seconds(CLOCK_MONOTONIC);
    qat_adam adam = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .clip = 1 };
    adam.first = calloc(r->m.at.n, sizeof *adam.first);
    adam.second = calloc(r->m.at.n, sizeof *adam.second);
    if (!adam.first || !adam.second) qat_die("no memory for Adam's moments");
    const int64_t every = a->steps / CURVE_POINTS > 0 ? a->steps / CURVE_POINTS : 1;
    const int64_t warm_up = a->steps / 20 + 1;
    double mean = 0;
    for (int64_t step = 0; step < a->steps; step++) {
        nib_format format;
        if (nib_schedule_format_at(&r->schedule, step, a->steps, &format) != NIB_OK)
            qat_die("%s", nib_last_error());
        if (step % every == 0) curve_add(r, step, format);
        qat_fake_nibble by = { r->exec, format, a->gradient };
        const qat_fake fake = qat_fake_by(&by), *used = format == NIB_FORMAT_NONE ? NULL : &fake;
        r->m.sequences = a->sequences;
        /* A tuning reads other batches than the training that it follows. */
        qat_text_batch(&r->text, &r->m, (uint64_t)a->seed * 2 + (a->from != NULL), step, r->tokens);
        mean += qat_forward(&r->m, r->tokens, used);
        qat_backward(&r->m, r->tokens, used);
        adam.rate = qat_rate(step, a->steps, warm_up, a->rate, a->from ? 0 : a->rate / 50);
        (void)qat_adam_step(&adam, &r->m);
        if ((step + 1) % every == 0) {
            progress_show(r, step + 1, mean / (double)every, started);
            mean = 0;
        }
    }
    curve_add(r, a->steps, r->schedule.stages[r->schedule.n_stages - 1].format);
    free(adam.first);
    free(adam.second);
}

static void loss_add(qat_run *r, json_t *losses, nib_format format)
{
    char name[48] = "f32";
    if (format != NIB_FORMAT_NONE && nib_format_name(format, name, sizeof name) != NIB_OK)
        qat_die("%s", nib_last_error());
    json_object_set_new(losses, name, json_real(validate(r, format, r->a->validation_bytes)));
}

/* What the run came to, as JSON: the loss in its last format; of f32 also what quantizing makes. */
void qat_result_write(qat_run *r)
{
    const nib_format last = r->schedule.stages[r->schedule.n_stages - 1].format;
    json_t *losses = json_object();
    loss_add(r, losses, last);
    if (last == NIB_FORMAT_NONE) {
        loss_add(r, losses, NIB_NVFP4);
        loss_add(r, losses, NIB_MXFP4);
    }
    const int64_t batch = QAT_SEQUENCES * r->m.shape.context;
    const int64_t most = (r->text.validation_bytes - 1) / batch * batch;
    json_t *all = json_pack(
        "{s:s, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:f, s:o, s:O}", "run", r->a->run,
        "seed", (json_int_t)r->a->seed, "steps", (json_int_t)r->a->steps,
        "batch", (json_int_t)(r->a->sequences * r->m.shape.context), "rate", r->a->rate,
        "parameters", (json_int_t)r->m.at.n,
        "train_bytes", (json_int_t)r->text.train_bytes, "validation_bytes",
        (json_int_t)(r->a->validation_bytes < most ? r->a->validation_bytes / batch * batch : most),
        "cpu_seconds", seconds(CLOCK_PROCESS_CPUTIME_ID), "losses", losses, "curve", r->curve);
    char part[4096];
    if (!all || snprintf(part, sizeof part, "%s.part", r->a->output) >= (int)sizeof part
        || json_dump_file(all, part, JSON_INDENT(1)) || rename(part, r->a->output))
        qat_die("%s: %s", r->a->output, errno ? strerror(errno) : "cannot be written");
    json_decref(all);
}
