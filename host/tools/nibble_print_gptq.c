/* nibble_print_gptq.c: what GPTQ did, for people. */
#include <stdlib.h>
#include <string.h>

#include "nibble_quantize.h"

double nibble_error_ratio(const nib_gptq_report *r)
{
    return r->plain_error > 0 ? r->error / r->plain_error : 1;
}

const char *nibble_outcome(nib_gptq_outcome outcome)
{
    switch (outcome) {
    case NIB_GPTQ_DONE:         return "done";
    case NIB_GPTQ_NO_TOKENS:    return "no-tokens";
    case NIB_GPTQ_NOT_DEFINITE: break;
    }
    return "not-definite";
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

nibble_ratios nibble_gptq_ratios(const nib_checkpoint_report *r)
{
    nibble_ratios all = { 0 };
    double *sorted = malloc((r->n_tensors + 1) * sizeof *sorted), sum = 0;
    for (uint64_t i = 0; sorted && i < r->n_tensors; i++) {
        const nib_tensor_gptq *g = r->gptq ? r->gptq[i] : NULL;
        if (!g || g->report.outcome != NIB_GPTQ_DONE) continue;
        sum += sorted[all.layers++] = nibble_error_ratio(&g->report);
    }
    if (all.layers) {
        qsort(sorted, all.layers, sizeof *sorted, by_size);
        all.median = (sorted[all.layers / 2] + sorted[(all.layers - 1) / 2]) / 2;
        all.mean = sum / (double)all.layers;
        all.worst = sorted[all.layers - 1];
    }
    free(sorted);
    return all;
}

/* "3, first NAME": tensors of one fate. */
typedef struct fate {
    const char *what;
    uint64_t    count;
    const char *first;
} fate;

static void add(fate *f, const char *name)
{
    if (!f->count++) f->first = name;
}

void nibble_print_gptq(FILE *out, const nib_checkpoint_report *r)
{
    fate none = { "have no Hessian", 0, NULL }, empty = { "whose inputs were never seen", 0, NULL };
    fate bad = { "with a Hessian that is not definite, however damped", 0, NULL };
    const fate *fates[] = { &none, &empty, &bad };
    int64_t rows = 0, plain_rows = 0;
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const nib_tensor_gptq *g = r->gptq[i];
        const char *name = r->tensors[i].name;
        if (!r->tensors[i].quantized) continue;
        if (!g) add(&none, name);
        else if (g->report.outcome == NIB_GPTQ_NO_TOKENS) add(&empty, name);
        else if (g->report.outcome == NIB_GPTQ_NOT_DEFINITE) add(&bad, name);
        else rows += g->report.rows, plain_rows += g->report.plain_rows;
    }
    const nibble_ratios all = nibble_gptq_ratios(r);
    fprintf(out, "  GPTQ             %llu tensors", (unsigned long long)all.layers);
    if (rows) /* not in a dry run */
        fprintf(out, "; of plain rounding's output error: median %.4f, mean %.4f, worst %.4f\n"
                "                   plain rounding kept in %lld of %lld rows", all.median, all.mean,
                all.worst, (long long)plain_rows, (long long)rows);
    fputc('\n', out);
    for (int i = 0; i < 3; i++)
        if (fates[i]->count)
            fprintf(out, "  rounded plainly  %llu %s (first %s)\n",
                    (unsigned long long)fates[i]->count, fates[i]->what, fates[i]->first);
}

void nibble_print_layers(FILE *out, const nib_checkpoint_report *r)
{
    fprintf(out, "%11s %9s %7s %5s %5s %7s  %20s %6s  %31s\n", "", "", "", "", "", "rows",
            "relative error ", "", "seconds              ");
    fprintf(out, "%11s %9s %7s %5s %5s %7s  %10s %9s %6s  %8s %7s %7s %7s  %s\n", "rows x k",
            "tokens", "damping", "tries", "dead", "plain", "plain", "GPTQ", "ratio", "Hessian",
            "factor", "plain", "GPTQ", "layer");
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const nib_tensor_gptq *g = r->gptq[i];
        if (!g) continue;
        const nib_gptq_report *x = &g->report;
        const double weight = x->weight > 0 ? x->weight : 1;
        char tokens[24] = "-";
        if (g->tokens != UINT64_MAX)
            snprintf(tokens, sizeof tokens, "%llu", (unsigned long long)g->tokens);
        fprintf(out, "%11s %9s %7.3g %5d %5lld %7lld  %10.3e %9.3e %6.4f  %8.3f %7.3f %7.3f %7.3f  "
                "%s%s%s\n", nibble_dims(&r->tensors[i]), tokens, g->damping, g->tries,
                (long long)g->dead, (long long)x->plain_rows, x->plain_error / weight,
                x->error / weight, nibble_error_ratio(x), g->seconds_hessian, g->seconds_factor,
                x->seconds_plain + x->seconds_measure, x->seconds_sweep, r->tensors[i].name,
                x->outcome == NIB_GPTQ_DONE ? "" : ": rounded plainly, ",
                x->outcome == NIB_GPTQ_DONE ? "" : nibble_outcome(x->outcome));
    }
}
