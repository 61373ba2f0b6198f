/* qbench_report.c: a row as a line of the table and of Markdown. */
#include <string.h>

#include "qbench.h"

/* The value of an axis as text, "-" if it means nothing here. */
static const char *axis_text(const nib_qb_row *row, nib_qb_axis_id id, char *text, size_t bytes)
{
    snprintf(text, bytes, "-");
    if (nib_qb_obeys(row->c, id)) nib_qb_axis_print(id, row->c->value[id], text, bytes);
    return text;
}

static const char *verdict_text(const nib_qb_row *row)
{
    return !row->verdict.checked ? "-" : row->verdict.wrong_bytes ? "WRONG" : "yes";
}

static void shape_text(const nib_qb_row *row, char *text, size_t bytes)
{
    const int64_t *value = row->c->value;
    snprintf(text, bytes, "-");
    if (nib_qb_obeys(row->c, NIB_QB_N))
        snprintf(text, bytes, "%lldx%lldx%lld", (long long)value[NIB_QB_M],
                 (long long)value[NIB_QB_N], (long long)value[NIB_QB_K]);
    if (!nib_qb_obeys(row->c, NIB_QB_ROWS)) {
        if (nib_qb_obeys(row->c, NIB_QB_COLS))
            snprintf(text, bytes, "%lld", (long long)value[NIB_QB_COLS]);
        return;
    }
    if (value[NIB_QB_BATCH] == 1)
        snprintf(text, bytes, "%lldx%lld", (long long)value[NIB_QB_ROWS],
                 (long long)value[NIB_QB_COLS]);
    else
        snprintf(text, bytes, "%lldx%lldx%lld", (long long)value[NIB_QB_BATCH],
                 (long long)value[NIB_QB_ROWS], (long long)value[NIB_QB_COLS]);
}

static void print_ratio(FILE *out, const nib_qb_held *held)
{
    if (held->name) fprintf(out, " %5.2f", held->ratio);
    else fprintf(out, " %5s", "-");
}

/* Bytes have the table's column; operations come behind. */
static int out_of_both(const nib_qb_row *row) { return row->bytes > 0 && row->flops > 0; }

static void print_remarks(FILE *out, const nib_qb_row *row)
{
    if (out_of_both(row)) fprintf(out, " %.1f GFLOP/s", 1e3 * row->tflops);
    if (row->throttled) fprintf(out, " throttled");
    if (row->time.noisy) fprintf(out, " noisy (others used %.1f cpus)", row->foreign_cpus);
    for (int i = 1; i < NIB_QB_RIVALS - 1 && row->baseline[i].name; i++)
        fprintf(out, " x %s %.2f", row->baseline[i].name, row->baseline[i].ratio);
    for (int id = NIB_QB_PRECISION; id <= NIB_QB_ELEMENT; id++) { /* axes without a column */
        char text[64];
        if (!nib_qb_obeys(row->c, (nib_qb_axis_id)id)) continue;
        fprintf(out, " %s %s", nib_qb_axes[id].name,
                axis_text(row, (nib_qb_axis_id)id, text, sizeof text));
    }
    if (nib_qb_obeys(row->c, NIB_QB_ELEMENT)) /* a format's name has its block */
        fprintf(out, " block %lld", (long long)row->c->value[NIB_QB_BLOCK]);
    for (int i = 0; i < NIB_QB_STAGES && row->stage[i].name; i++)
        fprintf(out, "%s%s %.1f ms", i ? ", " : "  ", row->stage[i].name,
                row->stage[i].median_us / 1e3);
    if (row->openblas) fprintf(out, "  OpenBLAS for %s", row->openblas);
    if (row->c->layer) fprintf(out, "  %s", row->c->layer);
}

static void report_table(FILE *out, const nib_qb_row *row, int first)
{
    char format[48], dtype[16], rules[32], layout[16], shape[80], cache[16];
    if (first)
        fprintf(out, "\n%-28s %-12s %-12s %-5s %-8s %-8s %15s %3s %-6s %10s %10s %5s %8s"
                " %-7s %5s %5s  %s\n", "op", "kernel", "format", "dtype", "rules", "layout",
                "rows x cols", "thr", "cache", "median us", "p99 us", "cv %", "GB/s", "limit",
                "sol", "x cpy", "verified");
    shape_text(row, shape, sizeof shape);
    fprintf(out, "%-28s %-12s %-12s %-5s %-8.8s %-8s %15s %3d %-6.6s", row->c->op->name,
            row->kernel, axis_text(row, NIB_QB_FORMAT, format, sizeof format),
            axis_text(row, NIB_QB_DTYPE, dtype, sizeof dtype),
            axis_text(row, NIB_QB_RULES, rules, sizeof rules),
            axis_text(row, NIB_QB_LAYOUT, layout, sizeof layout), shape, (int)row->threads,
            axis_text(row, NIB_QB_CACHE, cache, sizeof cache));
    if (row->time.runs == 0) {
        fprintf(out, "  %s%s\n", row->verdict.checked ? "" : "not run: ", row->skipped);
        return;
    }
    fprintf(out, " %10.2f %10.2f %5.1f", row->time.median_us, row->time.p99_us,
            100 * row->time.cv);
    if (row->bytes > 0) fprintf(out, " %8.2f", row->gbps);
    else fprintf(out, " %6.1fGF", 1e3 * row->tflops);
    fprintf(out, " %-7s", row->limit.name ? row->limit.name : "-");
    print_ratio(out, &row->limit);
    print_ratio(out, &row->baseline[0]);
    fprintf(out, "  %s", verdict_text(row));
    print_remarks(out, row);
    if (row->skipped[0]) fprintf(out, " %s", row->skipped);
    fputc('\n', out);
    fflush(out);
}

void nib_qb_report_markdown(FILE *out, const nib_qb_row *row, int first)
{
    char format[48], dtype[16], rules[32], layout[16], shape[80], cache[16];
    if (first)
        fprintf(out, "| op | kernel | format | dtype | rules | layout | shape | threads | cache |"
                " median us | p99 us | cv %% | GB/s | TFLOP/s | limit | share | x copy | verified |"
                " remarks |\n"
                "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    shape_text(row, shape, sizeof shape);
    fprintf(out, "| %s | %s | %s | %s | %s | %s | %s | %d | %s |", row->c->op->name, row->kernel,
            axis_text(row, NIB_QB_FORMAT, format, sizeof format),
            axis_text(row, NIB_QB_DTYPE, dtype, sizeof dtype),
            axis_text(row, NIB_QB_RULES, rules, sizeof rules),
            axis_text(row, NIB_QB_LAYOUT, layout, sizeof layout), shape, (int)row->threads,
            axis_text(row, NIB_QB_CACHE, cache, sizeof cache));
    if (row->time.runs == 0) {
        fprintf(out, " | | | | | | | | %s | %s |\n", verdict_text(row), row->skipped);
        fflush(out);
        return;
    }
    fprintf(out, " %.2f | %.2f | %.1f |", row->time.median_us, row->time.p99_us,
            100 * row->time.cv);
    if (row->bytes > 0) fprintf(out, " %.2f |", row->gbps);
    else fprintf(out, " |");
    if (row->flops > 0) fprintf(out, " %.4g |", row->tflops);
    else fprintf(out, " |");
    fprintf(out, " %s |", row->limit.name ? row->limit.name : "");
    for (int i = 0; i < 2; i++) {
        const nib_qb_held *held = i ? &row->baseline[0] : &row->limit;
        if (held->name) fprintf(out, " %.3f |", held->ratio);
        else fprintf(out, " |");
    }
    fprintf(out, " %s |", verdict_text(row));
    print_remarks(out, row);
    fprintf(out, " |\n");
    fflush(out);
}

void nib_qb_report_row(nib_qb_output *output, const nib_qb_row *row)
{
    const int first = output->rows == 0;
    if (output->table) report_table(output->table, row, first);
    if (output->markdown) nib_qb_report_markdown(output->markdown, row, first);
    if (output->json || output->csv) nib_qb_report_json(output->json, output->csv, row, first);
    output->rows++;
}
