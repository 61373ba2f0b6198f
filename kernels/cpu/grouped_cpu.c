/* grouped_cpu.c: each group as a matrix of its own, by the instruction set's quantize and amax. */
#include "avx2_cpu.h"
#include "kernels/common/groups.h"
#include "kernels/packed.h"
#include "portable_cpu.h"

typedef nib_status (*quantize_entry)(const nib_launch *launch, const nib_matrix *src,
                                     const nib_quantize_request *request, const nib_packed *dst);
typedef nib_status (*amax_entry)(const nib_launch *launch, const nib_matrix *src, float *amax,
                                 uint64_t *nonfinite);

static nib_status quantize_groups(const nib_launch *launch, const nib_groups *groups,
                                  const nib_matrix *src, const nib_quantize_request *request,
                                  const nib_packed *dst, quantize_entry quantize)
{
    const int64_t scale_cols = nib_ceil_div(dst->cols, nib_part_block(dst->format));
    const int swizzled = dst->scale_layout == NIB_SCALES_SWIZZLED_128X4;
    const int64_t ld_scales = swizzled ? nib_ceil_div(scale_cols, 4) * 4 : scale_cols;
    int64_t begin = nib_group_next(0, groups->offsets[0], src->rows), scales_row = begin;
    if (swizzled) scales_row = 0;
    for (int64_t g = 0; g < groups->count; g++) {
        const int64_t end = nib_group_next(begin, groups->offsets[g + 1], src->rows);
        const nib_matrix x = nib_matrix_rows(src, begin, end);
        nib_packed p = *dst;
        nib_quantize_request r = *request;
        uint64_t random[2];
        p.rows = end - begin;
        if (p.codes) p.codes += begin * dst->ld_codes_bytes;
        if (p.scales) p.scales += scales_row * ld_scales;
        if (p.tensor_scale) p.tensor_scale += g;
        if (r.tensor_amax) r.tensor_amax += g;
        if (r.random) {
            random[0] = r.random[0];
            random[1] = r.random[1] + nib_group_random(g, begin, src->cols);
            r.random = random;
        }
        const nib_status status = quantize(launch, &x, &r, &p);
        if (status != NIB_OK) return status;
        scales_row += swizzled ? nib_ceil_div(p.rows, 128) * 128 : p.rows;
        begin = end;
    }
    return NIB_OK;
}

static nib_status amax_groups(const nib_launch *launch, const nib_groups *groups,
                              const nib_matrix *src, float *amax, amax_entry entry)
{
    int64_t begin = nib_group_next(0, groups->offsets[0], src->rows);
    for (int64_t g = 0; g < groups->count; g++) {
        const int64_t end = nib_group_next(begin, groups->offsets[g + 1], src->rows);
        const nib_matrix x = nib_matrix_rows(src, begin, end);
        const nib_status status = entry(launch, &x, amax + g, NULL);
        if (status != NIB_OK) return status;
        begin = end;
    }
    return NIB_OK;
}

nib_status nib_quantize_grouped_portable(const nib_launch *launch, const nib_groups *groups,
                                         const nib_matrix *src,
                                         const nib_quantize_request *request,
                                         const nib_packed *dst)
{
    return quantize_groups(launch, groups, src, request, dst, nib_quantize_portable);
}

nib_status nib_amax_grouped_portable(const nib_launch *launch, const nib_groups *groups,
                                     const nib_matrix *src, float *amax)
{
    return amax_groups(launch, groups, src, amax, nib_amax_portable);
}

#if defined(__x86_64__)

nib_status nib_quantize_grouped_avx2(const nib_launch *launch, const nib_groups *groups,
                                     const nib_matrix *src, const nib_quantize_request *request,
                                     const nib_packed *dst)
{
    return quantize_groups(launch, groups, src, request, dst, nib_quantize_avx2);
}

nib_status nib_amax_grouped_avx2(const nib_launch *launch, const nib_groups *groups,
                                 const nib_matrix *src, float *amax)
{
    return amax_groups(launch, groups, src, amax, nib_amax_avx2);
}

#endif
