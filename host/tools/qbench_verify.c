/* qbench_verify.c: compares every output that was written, and all that should have been left
 * alone, with what the portable kernels make of the same inputs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qbench.h"

static int64_t count_wrong(const uint8_t *a, const uint8_t *b, int64_t n, double *largest)
{
    int64_t wrong = 0;
    if (memcmp(a, b, (size_t)n) == 0) return 0;
    for (int64_t i = 0; i < n; i++) {
        wrong += a[i] != b[i];
        if (largest) *largest = fmax(*largest, abs(a[i] - b[i]));
    }
    return wrong;
}

static int part_at(const nib_qb_data *data, int64_t at, int64_t *end)
{
    *end = data->stride;
    for (int i = 0; i < NIB_QB_PARTS; i++) {
        const int64_t first = data->offset[i], last = first + data->part[i].bytes;
        if (first == last) continue;
        if (at >= first && at < last) {
            *end = last;
            return i;
        }
        if (first > at && first < *end) *end = first;
    }
    return -1; /* between parts */
}

/* Part by part, with the gaps between them. */
static nib_status compare_image(const nib_qb_data *data, uint8_t *got, nib_qb_verdict *v)
{
    const nib_qb_op *op = data->c->op;
    const nib_qb_call a = nib_qb_call_in(data, got), b = nib_qb_call_in(data, data->image);
    double bytes_apart = 0;
    int64_t wrong = 0;
    int outputs = 0;
    for (int64_t at = 0, end; at < data->stride; at = end) {
        const int i = part_at(data, at, &end);
        const nib_qb_role role = i < 0 ? NIB_QB_UNUSED : data->part[i].role;
        const int is_output = role == NIB_QB_OUT || role == NIB_QB_OUT_HOST;
        if (role == NIB_QB_SCRATCH || (is_output && op->compare)) continue;
        const int64_t n = count_wrong(got + at, data->image + at, end - at,
                                      is_output ? &bytes_apart : NULL);
        outputs |= is_output && n > 0;
        wrong += n;
    }
    v->wrong_bytes += wrong;
    if (outputs && !op->distance) v->max_err = fmax(v->max_err, bytes_apart);
    nib_status status = NIB_OK;
    if (outputs && op->distance) status = op->distance(&a, &b, &v->max_err);
    if (status == NIB_OK && op->compare) status = op->compare(&a, &b, v);
    return status;
}

static void spoil(const nib_qb_data *data, uint8_t *image)
{
    for (int i = 0; i < NIB_QB_PARTS; i++) {
        const nib_qb_role role = data->part[i].role;
        if (data->part[i].bytes == 0 || (role != NIB_QB_OUT && role != NIB_QB_OUT_HOST)) continue;
        /* The report's first words say its size and kind. Else an exponent's bit of what may be
         * a float: a lower one could be within a product's bound. */
        const int64_t at = role == NIB_QB_OUT_HOST ? 8 : data->part[i].bytes > 3 ? 3 : 0;
        image[data->offset[i] + at] ^= 0x40;
        return;
    }
}

static int compared(const nib_qb_data *data)
{
    for (int i = 0; i < NIB_QB_PARTS; i++)
        if (data->part[i].bytes
            && (data->part[i].role == NIB_QB_OUT || data->part[i].role == NIB_QB_OUT_HOST))
            return 1;
    return 0;
}

nib_status nib_qb_verify(nib_qb_data *data, int corrupt, nib_qb_verdict *v)
{
    if (data->calls == 0 || !compared(data)) return NIB_OK;
    const int weights_only = data->c->value[NIB_QB_CACHE] == NIB_QB_CACHE_WEIGHTS;
    const int64_t copies = weights_only ? 1 : data->copies;
    const int64_t written = data->calls < copies ? data->calls : copies;
    uint8_t *got = nib_qb_map((size_t)data->stride, 1);
    const nib_qb_call right = nib_qb_call_in(data, data->image);
    nib_status status = got ? data->c->op->run(&right) : NIB_ERR_OUT_OF_MEMORY;
    for (int64_t k = 0; k < written && status == NIB_OK; k++) {
        const int64_t copy = nib_qb_visit(k, copies);
        status = nib_qb_device_copy(data->device, got, data->base + copy * data->stride,
                                    (size_t)data->stride);
        for (int i = 0; i < NIB_QB_PARTS; i++)
            if (data->part[i].role == NIB_QB_OUT_HOST)
                memcpy(got + data->offset[i], data->side + data->offset[i],
                       (size_t)data->part[i].bytes);
        if (corrupt && k == 0) spoil(data, got);
        if (status == NIB_OK) status = compare_image(data, got, v);
    }
    nib_qb_unmap(got);
    v->checked = status == NIB_OK;
    return status;
}
