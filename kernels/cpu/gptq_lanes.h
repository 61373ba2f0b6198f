/* gptq_lanes.h: the steps of a block for NIB_GPTQ_LANES rows. Included by gptq_span.h once for each
 * type of real, as REAL, with NAME(x) to tell the functions apart; no guard for that reason. */

/* A number of each row; and the same in the machine's vectors, where it must stay in registers:
 * compilers do badly with a vector of more than one. */
typedef REAL NAME(lanes)[NIB_GPTQ_LANES] __attribute__((aligned(64)));
typedef REAL NAME(vector) __attribute__((vector_size(VECTOR_BYTES), may_alias));
enum {
    NAME(L) = NIB_GPTQ_LANES,
    NAME(APART) = NIB_GPTQ_APART,
    NAME(PARTS) = NIB_GPTQ_LANES * sizeof(REAL) / VECTOR_BYTES,
    /* Sums that 16 registers hold. */
    NAME(TOGETHER) = NAME(PARTS) <= 2 ? 4 : NAME(PARTS) <= 4 ? 2 : 1
};
typedef struct NAME(wide) { NAME(vector) part[NAME(PARTS)]; } NAME(wide);

static inline __attribute__((always_inline)) NAME(wide) *NAME(wide_of)(const REAL *lanes)
{
    return (NAME(wide) *)(uintptr_t)lanes;
}

typedef REAL NAME(four) __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL)),
                                       may_alias));

/* dst(j, i) = src(i, j) of 4 x 4; compilers copy such one by one. */
static inline __attribute__((always_inline)) void NAME(turn)(const REAL *src, int64_t src_ld,
                                                             REAL *dst, int64_t dst_ld)
{
#if HAS_SHUFFLES
    const NAME(four) a = *(const NAME(four) *)src, b = *(const NAME(four) *)(src + src_ld);
    const NAME(four) c = *(const NAME(four) *)(src + 2 * src_ld);
    const NAME(four) d = *(const NAME(four) *)(src + 3 * src_ld);
    const NAME(four) ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const NAME(four) cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const NAME(four) ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const NAME(four) cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(NAME(four) *)dst = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    *(NAME(four) *)(dst + dst_ld) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    *(NAME(four) *)(dst + 2 * dst_ld) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
    *(NAME(four) *)(dst + 3 * dst_ld) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
#else
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 4; i++) dst[j * dst_ld + i] = src[i * src_ld + j];
#endif
}

/* Rows of count columns, the last of which is the first step, to lanes. */
static inline void NAME(to_lanes)(const REAL *rows, int64_t ld, int count, NAME(lanes) *to)
{
    int c = 0;
    for (; c + 4 <= count; c += 4)
        for (int l = 0; l < NAME(L); l += 4)
            NAME(turn)(rows + l * ld + c, ld, to[count - 1 - c] + l, -NAME(L));
    for (; c < count; c++)
        for (int l = 0; l < NAME(L); l++) to[count - 1 - c][l] = rows[l * ld + c];
}

static inline void NAME(from_lanes)(const NAME(lanes) *from, int count, REAL *rows, int64_t ld)
{
    int c = 0;
    for (; c + 4 <= count; c += 4)
        for (int l = 0; l < NAME(L); l += 4)
            NAME(turn)(from[count - 1 - c] + l, -NAME(L), rows + l * ld + c, ld);
    for (; c < count; c++)
        for (int l = 0; l < NAME(L); l++) rows[l * ld + c] = from[count - 1 - c][l];
}

/* targets of n steps += the errors d of count steps, times a's columns: a is the first target's,
 * and the next ones' are to the left. Each is added up in rising order. */
static inline __attribute__((always_inline)) void
NAME(carry_to)(NAME(lanes) *target, int n, const NAME(lanes) *d, const REAL *a, int count)
{
    NAME(wide) sum[NAME(TOGETHER)];
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) sum[i] = *NAME(wide_of)(target[i]);
    for (int k = 0; k < count; k++) {
        const NAME(wide) error = *NAME(wide_of)(d[k]);
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            const REAL weight = a[k * NAME(APART) - i];
#pragma GCC unroll 8
            for (int p = 0; p < NAME(PARTS); p++) sum[i].part[p] += error.part[p] * weight;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) *NAME(wide_of)(target[i]) = sum[i];
}

/* The same of steps [j0, j1) and all steps of the block before. */
static inline __attribute__((always_inline)) void
NAME(carry)(NAME(lanes) *target, const NAME(lanes) *d, const REAL *a, int j0, int j1)
{
    int j = j0;
    for (; j + NAME(TOGETHER) <= j1; j += NAME(TOGETHER))
        NAME(carry_to)(target + j, NAME(TOGETHER), d, a - j, j0);
    for (; j < j1; j++) NAME(carry_to)(target + j, 1, d, a - j, j0);
}

/* What w' of steps [j0, j1) would be if none of them were rounded: the weights that are best now,
 * which the published loop holds at this point. They differ from target, which has the steps before
 * j0, by what the steps' own changes carry on among themselves. w: the weights. */
static inline __attribute__((always_inline)) void
NAME(settle)(const NAME(lanes) *target, const NAME(lanes) *w, const REAL *a, int j0, int j1,
             NAME(lanes) *now)
{
    NAME(lanes) change[NIB_MAX_BLOCK];
    for (int j = 0; j < j1 - j0; j++) {
        memcpy(now + j, target + j0 + j, sizeof *now);
        NAME(carry_to)(now + j, 1, (const NAME(lanes) *)change, a + j0 * NAME(APART) - j0 - j, j);
#pragma omp simd
        for (int l = 0; l < NAME(L); l++) change[j][l] = w[j0 + j][l] - now[j][l];
    }
}

/* The Hessian of n inputs, given by steps (order) or as columns from first on (order NULL). */
static inline void NAME(hessian_of)(const nib_hessian *h, const int32_t *order, int64_t first,
                                    int n, REAL *block)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j <= i; j++) {
            const int64_t p = order ? order[first + i] : first + i;
            const int64_t q = order ? order[first + j] : first + j;
            const REAL v = ((const REAL *)h->data)[p > q ? p * h->ld_elems + q
                                                         : q * h->ld_elems + p];
            block[i * NIB_MAX_BLOCK + j] = v;
        }
}

/* d h d^T of n inputs' errors under each lane's units. kind: the job's, as a constant. */
static inline __attribute__((always_inline)) void
NAME(weighted_as)(int kind, const nib_gptq_job *job, const NAME(lanes) *w, int n, const REAL *h,
                  const float *factor, const float *step, REAL *loss)
{
    NAME(lanes) d[NIB_MAX_BLOCK];
    float_lanes x, q;
    uint8_t code[NIB_GPTQ_LANES];
    NAME(wide) sum = { 0 };
    for (int c = 0; c < n; c++) {
#pragma omp simd
        for (int l = 0; l < NAME(L); l++) x[l] = (float)w[c][l];
        round_lanes(job, kind, x, factor, step, code, q);
#pragma omp simd
        for (int l = 0; l < NAME(L); l++) d[c][l] = w[c][l] - (REAL)q[l];
        const NAME(wide) own = *NAME(wide_of)(d[c]);
        NAME(wide) others = { 0 };
        for (int b = 0; b < c; b++) {
            const NAME(wide) other = *NAME(wide_of)(d[b]);
#pragma GCC unroll 8
            for (int p = 0; p < NAME(PARTS); p++)
                others.part[p] += other.part[p] * h[c * NIB_MAX_BLOCK + b];
        }
#pragma GCC unroll 8
        for (int p = 0; p < NAME(PARTS); p++)
            sum.part[p] += own.part[p] * (own.part[p] * h[c * NIB_MAX_BLOCK + c]
                                          + (others.part[p] + others.part[p]));
    }
    memcpy(loss, &sum, sizeof sum);
}

static void NAME(weighted)(const nib_gptq_job *job, const NAME(lanes) *w, int n, const REAL *h,
                           const float *factor, const float *step, REAL *loss)
{
    switch (job->kind) {
    case NIB_GPTQ_E2M1:
        NAME(weighted_as)(NIB_GPTQ_E2M1, job, w, n, h, factor, step, loss);
        break;
    case NIB_GPTQ_PLAIN:
        NAME(weighted_as)(NIB_GPTQ_PLAIN, job, w, n, h, factor, step, loss);
        break;
    case NIB_GPTQ_INTEGER:
        NAME(weighted_as)(NIB_GPTQ_INTEGER, job, w, n, h, factor, step, loss);
        break;
    default: NAME(weighted_as)(NIB_GPTQ_ANY, job, w, n, h, factor, step, loss); break;
    }
}

/* The scale bytes of a block of n weights, a row in each lane. h: for the Hessian's choice. */
static void NAME(choose)(const nib_gptq_job *job, const NAME(lanes) *w, int n, const REAL *h,
                         uint8_t *bytes)
{
    const int e4m3 = job->math.rules.e4m3_scale;
    float_lanes amax = { 0 }, factor, step;
    NAME(lanes) least, loss;
    uint8_t base[NIB_GPTQ_LANES], tried[NIB_GPTQ_LANES];
    for (int c = 0; c < n; c++)
#pragma omp simd
        for (int l = 0; l < NAME(L); l++) {
            const float a = nib_abs((float)w[c][l]);
            amax[l] = a > amax[l] ? a : amax[l];
        }
    for (int l = 0; l < NAME(L); l++) {
        float x[NIB_MAX_BLOCK];
        const int choice = job->by_hessian ? NIB_SC_AMAX
                                           : (int)job->request->quantize.scale_choice;
        for (int c = 0; c < n && choice != NIB_SC_AMAX; c++) x[c] = (float)w[c][l];
        base[l] = (uint8_t)nib_block_search(&job->math, choice, x, n, amax[l]);
    }
    memcpy(bytes, base, sizeof base);
    if (!job->by_hessian) return;

    const int first = e4m3 ? 1 : 0, last = e4m3 ? (int)NIB_E4M3_LAST : 254;
    const int tries = job->full ? last - first + 2 : nib_mse_candidates(e4m3);
    units_of(job, base, factor, step);
    NAME(weighted)(job, w, n, h, factor, step, least);
    for (int i = 1; i < tries; i++) {
        for (int l = 0; l < NAME(L); l++) { /* base again changes nothing */
            const int byte = job->full ? first + i - 1
                           : (int)base[l] + nib_mse_offset(job->math.rules.element, e4m3, i);
            tried[l] = byte < first || byte > last ? base[l] : (uint8_t)byte;
        }
        units_of(job, tried, factor, step);
        NAME(weighted)(job, w, n, h, factor, step, loss);
        for (int l = 0; l < NAME(L); l++) {
            const int better = loss[l] < least[l];
            bytes[l] = better ? tried[l] : bytes[l];
            least[l] = better ? loss[l] : least[l];
        }
    }
}

/* The same of integers: s and lo - z by the dynamic rule, of the group's range or one of those
 * inside. */
static void NAME(choose_steps)(const nib_gptq_job *job, const NAME(lanes) *w, int n, const REAL *h,
                               float *steps, float *lows)
{
    const nib_step_request *const r = &job->request->step;
    nib_grid_range range[NIB_GPTQ_LANES] = { { 0.0f, 0.0f } };
    float_lanes factor, low;
    NAME(lanes) least, loss;
    for (int c = 0; c < n; c++)
        for (int l = 0; l < NAME(L); l++) range[l] = nib_grid_range_add(range[l], (float)w[c][l]);
    for (int i = 0; i < (job->by_hessian ? NIB_GRID_SHRINKS : 1); i++) {
        for (int l = 0; l < NAME(L); l++) {
            const nib_step step = nib_step_dynamic(&job->grid, r->asymmetric, (int)r->rule, 1.0f,
                                                   nib_grid_shrunk(range[l], i));
            factor[l] = step.s;
            low[l] = step.low;
        }
        if (job->by_hessian) NAME(weighted)(job, w, n, h, factor, low, loss);
        for (int l = 0; l < NAME(L); l++) {
            if (i && !(loss[l] < least[l])) continue;
            steps[l] = factor[l];
            lows[l] = low[l];
            if (job->by_hessian) least[l] = loss[l];
        }
    }
}

/* Of the group that begins with weight first, into the scratch. */
static void NAME(choose_at)(const nib_gptq_job *job, nib_gptq_scratch *s, const NAME(lanes) *w,
                            int n, int64_t first, int row)
{
    const int64_t at = first / job->block * NIB_GPTQ_ROWS + row;
    if (job->kind == NIB_GPTQ_INTEGER)
        NAME(choose_steps)(job, w, n, s->h, s->steps + at, s->lows + at);
    else NAME(choose)(job, w, n, s->h, s->scales + at);
}

/* Steps [first, last) for the rows from row on. */
static inline __attribute__((always_inline)) void
NAME(block_as)(int kind, const nib_gptq_job *job, nib_gptq_scratch *s, int row, int64_t first,
               int64_t last, int64_t segment)
{
    const nib_gptq_factor *const f = job->request->factor;
    const int64_t k = job->k, ld = job->ld, block = job->block;
    const int count = (int)(last - first);
    const REAL *const before = (const REAL *)s->before + row * NIB_GPTQ_PART_APART
                             + s->kept_last - last;
    const REAL *const a = (const REAL *)s->a + count - 1;
    REAL *const tile = (REAL *)s->d + row * ld + k - last;
    NAME(lanes) target[NIB_GPTQ_STEPS], d[NIB_GPTQ_STEPS]; /* d: the weights, then their errors */
    NAME(lanes) error = { 0 }, added = { 0 };
    float_lanes factor[NIB_GPTQ_STEPS], step[NIB_GPTQ_STEPS], x, q;
    uint8_t code[NIB_GPTQ_STEPS][NIB_GPTQ_LANES];

    NAME(to_lanes)(tile, ld, count, target);
    NAME(to_lanes)(before, NIB_GPTQ_PART_APART, count, d);
    for (int j0 = 0, j1; j0 < count; j0 = j1, segment++) {
        j1 = (int)(job->segments[segment + 1] - first);
        NAME(carry)(target, (const NAME(lanes) *)d, a, j0, j1);
        if (job->fresh) {
            NAME(lanes) now[NIB_MAX_BLOCK];
            if (job->by_hessian)
                NAME(hessian_of)(job->request->hessian, f->order, first + j0, j1 - j0, s->h);
            NAME(settle)((const NAME(lanes) *)target, (const NAME(lanes) *)d, a, j0, j1, now);
            NAME(choose_at)(job, s, (const NAME(lanes) *)now, j1 - j0, f->order[first + j0], row);
        }
        for (int j = j0; j < j1; j++)
            units_at(job, kind, s, f->order[first + j] / block * NIB_GPTQ_ROWS + row, factor[j],
                     step[j]);
        for (int j = j0; j < j1; j++) {
            const int64_t column = k - 1 - first - j;
            NAME(carry_to)(target + j, 1, (const NAME(lanes) *)d + j0, a + j0 * NAME(APART) - j,
                           j - j0);
#pragma omp simd
            for (int l = 0; l < NAME(L); l++) x[l] = (float)target[j][l];
            round_lanes(job, kind, x, factor[j], step[j], code[j], q);
            const REAL square = (REAL)job->pivot_sq[column], extra = (REAL)job->extra[column];
#pragma omp simd
            for (int l = 0; l < NAME(L); l++) {
                const REAL e = target[j][l] - (REAL)q[l], own = d[j][l] - (REAL)q[l];
                d[j][l] = own;
                error[l] += e * (e * square); /* e * e alone may underflow */
                added[l] += own * (own * extra);
            }
        }
    }
    NAME(from_lanes)((const NAME(lanes) *)d, count, tile, ld);
    memcpy(s->codes + row * k + first * NAME(L), code, (size_t)count * NAME(L));
    for (int l = 0; l < NAME(L); l++)
        s->error[row + l] += (double)error[l] - (double)added[l];
}

static void NAME(block)(const nib_gptq_job *job, nib_gptq_scratch *s, int rows, int64_t first,
                        int64_t last, int64_t segment)
{
    for (int row = 0; row < rows; row += NAME(L)) {
        switch (job->kind) {
        case NIB_GPTQ_E2M1:
            NAME(block_as)(NIB_GPTQ_E2M1, job, s, row, first, last, segment);
            break;
        case NIB_GPTQ_PLAIN:
            NAME(block_as)(NIB_GPTQ_PLAIN, job, s, row, first, last, segment);
            break;
        case NIB_GPTQ_INTEGER:
            NAME(block_as)(NIB_GPTQ_INTEGER, job, s, row, first, last, segment);
            break;
        default: NAME(block_as)(NIB_GPTQ_ANY, job, s, row, first, last, segment); break;
        }
    }
}

static void NAME(scales)(const nib_gptq_job *job, nib_gptq_scratch *s, int rows)
{
    const int64_t k = job->k;
    const int block = (int)job->block;
    NAME(lanes) w[NIB_MAX_BLOCK];
    for (int64_t g = 0; g < job->groups; g++) {
        const int n = k - g * block < block ? (int)(k - g * block) : block;
        NAME(hessian_of)(job->request->hessian, NULL, g * block, n, s->h);
        for (int row = 0; row < rows; row += NAME(L)) {
            for (int l = 0; l < NAME(L); l++)
                for (int c = 0; c < n; c++)
                    w[c][l] = ((const REAL *)s->d)[(row + l) * job->ld + g * block + c];
            NAME(choose_at)(job, s, (const NAME(lanes) *)w, n, g * block, row);
        }
    }
}
