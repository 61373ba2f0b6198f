/* report.c: see report.h. */
#include "host/io/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/select.h"

nib_checkpoint_report *nib_report_new(size_t n)
{
    nib_checkpoint_report *r = calloc(1, sizeof *r);
    if (r) r->tensors = calloc(n ? n : 1, sizeof *r->tensors);
    if (!r || !r->tensors) {
        free(r);
        return NULL;
    }
    r->size = sizeof *r;
    r->n_tensors = n;
    for (size_t i = 0; i < n; i++) {
        r->tensors[i].error.size = sizeof r->tensors[i].error;
        r->tensors[i].tensor_scale = 1.0f;
    }
    return r;
}

const char *nib_stored_type_name(nib_format format, char text[NIB_TYPE_NAME_BYTES])
{
    if (nib_weight_format_name(format, text, NIB_TYPE_NAME_BYTES) != NIB_OK)
        snprintf(text, NIB_TYPE_NAME_BYTES, "?");
    for (char *at = text; *at; at++)
        if (*at >= 'a' && *at <= 'z') *at = (char)(*at - 'a' + 'A');
    return text;
}

const char *nib_logical_type_name(const nib_logical *t, char text[NIB_TYPE_NAME_BYTES])
{
    if (t->storage != NIB_STORAGE_PLAIN) return nib_stored_type_name(t->format, text);
    snprintf(text, NIB_TYPE_NAME_BYTES, "%s", nib_tensor_type_get(t->tensor->type)->name);
    return text;
}

nib_status nib_report_tensor(nib_checkpoint_report *report, size_t i, const nib_logical *t,
                             const char *stored_type, uint64_t stored_bytes, int quantized)
{
    nib_tensor_report *r = &report->tensors[i];
    char type[128], stored[NIB_TYPE_NAME_BYTES];
    nib_layer_type(t->name, type, sizeof type);
    r->name = strdup(t->name);
    r->layer_type = strdup(type);
    r->source_type = strdup(nib_logical_type_name(t, stored));
    r->stored_type = strdup(stored_type ? stored_type : r->source_type ? r->source_type : "");
    NIB_REQUIRE(r->name && r->layer_type && r->source_type && r->stored_type,
                NIB_ERR_OUT_OF_MEMORY, "no memory for a report");
    r->quantized = quantized;
    r->n_dims = t->n_dims;
    memcpy(r->dims, t->dims, sizeof r->dims);
    r->elements = (uint64_t)t->rows * (uint64_t)t->cols;
    r->source_bytes = t->bytes;
    r->stored_bytes = stored_bytes;
    report->source_bytes += t->bytes;
    report->stored_bytes += stored_bytes;
    const int blocks = t->storage != NIB_STORAGE_PLAIN
                    || nib_tensor_type_get(t->tensor->type)->block > 1;
    if (blocks && quantized) report->source_quantized = 1;
    return NIB_OK;
}

nib_status nib_report_gptq(nib_checkpoint_report *report, size_t i, const nib_hessian_entry *entry)
{
    if (!report->gptq) report->gptq = calloc(report->n_tensors, sizeof *report->gptq);
    nib_tensor_gptq *g = report->gptq ? calloc(1, sizeof *g) : NULL;
    NIB_REQUIRE(g, NIB_ERR_OUT_OF_MEMORY, "no memory for a report");
    report->gptq[i] = g;
    g->hessian = strdup(entry->tensor->name);
    NIB_REQUIRE(g->hessian, NIB_ERR_OUT_OF_MEMORY, "no memory for a report");
    g->k = entry->k;
    g->tokens = UINT64_MAX;
    if (entry->tokens) memcpy(&g->tokens, entry->tokens->data, sizeof g->tokens);
    if (entry->inputs && entry->k)
        g->tokens = (uint64_t)(nib_tensor_elements(entry->tensor) / entry->k);
    return NIB_OK;
}

void nib_checkpoint_report_free(nib_checkpoint_report *report)
{
    if (!report) return;
    for (uint64_t i = 0; i < report->n_tensors; i++) {
        free((char *)(uintptr_t)report->tensors[i].name);
        free((char *)(uintptr_t)report->tensors[i].layer_type);
        free((char *)(uintptr_t)report->tensors[i].source_type);
        free((char *)(uintptr_t)report->tensors[i].stored_type);
    }
    for (uint64_t i = 0; report->gptq && i < report->n_tensors; i++) {
        if (report->gptq[i]) free((char *)(uintptr_t)report->gptq[i]->hessian);
        free(report->gptq[i]);
    }
    free(report->gptq);
    free(report->tensors);
    free(report);
}
