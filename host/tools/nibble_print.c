/* nibble_print.c: figures for people. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nibble_tool.h"

enum { WORST = 5, TYPES = 64 };

const char *nibble_bytes(double bytes)
{
    static char text[8][32];
    static int next;
    static const char *const units[] = { "B", "kB", "MB", "GB", "TB" };
    int unit = 0;
    while (bytes >= 999.5 && unit < 4) bytes /= 1000, unit++;
    char *out = text[next++ % 8];
    snprintf(out, sizeof text[0], unit ? "%.3g %s" : "%.0f %s", bytes, units[unit]);
    return out;
}

const char *nibble_dims(const nib_tensor_report *t)
{
    static char text[8][96];
    static int next;
    char *out = text[next++ % 8];
    out[0] = '\0';
    for (int i = 0; i < t->n_dims; i++) {
        const size_t used = strlen(out);
        snprintf(out + used, sizeof text[0] - used, "%s%lld", i ? "x" : "", (long long)t->dims[i]);
    }
    return t->n_dims ? out : "scalar";
}

/* NaN and Inf are in no figure: of them alone there is none. */
static int has_figures(const nib_quantize_report *e)
{
    return !e->elements || e->nonfinite < e->elements;
}

double nibble_mse(const nib_quantize_report *e)
{
    if (!has_figures(e)) return NAN;
    return e->elements ? e->sum_sq_error / (double)e->elements : 0;
}

double nibble_max_error(const nib_quantize_report *e)
{
    return has_figures(e) ? e->max_error : NAN;
}

double nibble_snr_db(const nib_quantize_report *e)
{
    if (!has_figures(e)) return NAN;
    return e->sum_sq_error > 0 ? 10 * log10(e->sum_sq / e->sum_sq_error) : INFINITY;
}

double nibble_relative_mse(const nib_quantize_report *e)
{
    if (!has_figures(e)) return NAN;
    return e->sum_sq > 0 ? e->sum_sq_error / e->sum_sq : e->sum_sq_error > 0 ? INFINITY : 0;
}

int nibble_overflowed(const nib_quantize_report *e) { return !isfinite(e->max_error); }

/* One line of the table: every tensor of a layer type. */
typedef struct type_line {
    const char         *type;
    uint64_t            tensors;
    nib_quantize_report sum;
} type_line;

static void add(type_line *line, const nib_quantize_report *e)
{
    line->tensors++;
    line->sum.elements += e->elements;
    line->sum.nonfinite += e->nonfinite;
    line->sum.sum_sq += e->sum_sq;
    line->sum.sum_sq_error += e->sum_sq_error;
    if (e->max_error > line->sum.max_error) line->sum.max_error = e->max_error;
}

static void print_line(FILE *out, const char *name, uint64_t tensors,
                       const nib_quantize_report *e)
{
    fprintf(out, "  %-14s %7llu  %10.4g  %10.3e  %9.3e  %8.2f  %9.3g\n", name,
            (unsigned long long)tensors, (double)e->elements, nibble_mse(e),
            nibble_relative_mse(e), nibble_snr_db(e), nibble_max_error(e));
}

/* Nothing is worse than no figures at all. */
static double badness(const nib_tensor_report *t)
{
    return has_figures(&t->error) ? nibble_relative_mse(&t->error) : INFINITY;
}

static int by_error(const void *a, const void *b)
{
    const nib_tensor_report *x = *(const nib_tensor_report *const *)a;
    const nib_tensor_report *y = *(const nib_tensor_report *const *)b;
    const double p = badness(x), q = badness(y);
    return p != q ? (p < q) - (p > q) : strcmp(x->name, y->name);
}

static void print_worst(FILE *out, const nib_checkpoint_report *r)
{
    const nib_tensor_report **sorted = malloc((r->n_tensors + 1) * sizeof *sorted);
    size_t n = 0;
    for (uint64_t i = 0; sorted && i < r->n_tensors; i++)
        if (r->tensors[i].quantized) sorted[n++] = &r->tensors[i];
    if (sorted) qsort(sorted, n, sizeof *sorted, by_error);
    fprintf(out, "Worst tensors by relative error:\n");
    for (size_t i = 0; i < n && i < WORST; i++)
        fprintf(out, "  %.3e  SNR %5.2f dB  %s\n", nibble_relative_mse(&sorted[i]->error),
                nibble_snr_db(&sorted[i]->error), sorted[i]->name);
    free(sorted);
}

void nibble_print_errors(FILE *out, const nib_checkpoint_report *r, const char *what)
{
    type_line lines[TYPES], all = { .type = "all" };
    int n = 0;
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const nib_tensor_report *t = &r->tensors[i];
        if (!t->quantized) continue;
        int k = 0;
        while (k < n && strcmp(lines[k].type, t->layer_type)) k++;
        if (k == n && n < TYPES) lines[n++] = (type_line){ .type = t->layer_type };
        if (k < n) add(&lines[k], &t->error);
        add(&all, &t->error);
    }
    if (!all.tensors) {
        fprintf(out, "No %s tensors.\n", what);
        return;
    }
    fprintf(out, "Error of the %s tensors (relMSE = sum of squared errors / sum of squares):\n"
                 "  %-14s %7s  %10s  %10s  %9s  %8s  %9s\n", what, "layer type", "tensors",
            "weights", "MSE", "relMSE", "SNR dB", "max error");
    for (int k = 0; k < n; k++) print_line(out, lines[k].type, lines[k].tensors, &lines[k].sum);
    print_line(out, "all", all.tensors, &all.sum);
    print_worst(out, r);
}
