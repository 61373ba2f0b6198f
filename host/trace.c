/* trace.c: NVTX ranges; what a profiler is told of a call. See trace.h.
 *
 * NVTX 3 is headers only: its code is compiled into this file, and looks for a profiler once, at
 * the first call. Its symbols are made local by the build. */
#include "trace.h"

#ifdef NIB_NVTX

#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>
#include <pthread.h>
#include <stdio.h>

enum { NAME_BYTES = 24, NO_DTYPE = 255 };

/* The payload, as schema_fields describes it to the profiler. */
typedef struct trace_payload {
    char     format_name[NAME_BYTES]; /* "" where there is none */
    uint32_t format;                  /* 0xffffffff */
    uint32_t dtype;                   /* of the plain matrix; NO_DTYPE */
    int64_t  rows, cols, count, bytes_read, bytes_written;
} trace_payload;

atomic_int nib_trace_state = NIB_TRACE_UNKNOWN;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static nvtxDomainHandle_t domain;
static uint64_t schema; /* 0: the profiler takes no payloads of our own */

static uint64_t register_dtypes(void)
{
    static const nvtxPayloadEnum_t names[] = {
        { "f32", NIB_F32, 0 }, { "f16", NIB_F16, 0 }, { "bf16", NIB_BF16, 0 },
        { "none", NO_DTYPE, 0 },
    };
    const nvtxPayloadEnumAttr_t attributes = {
        .fieldMask = NVTX_PAYLOAD_ENUM_ATTR_FIELD_NAME | NVTX_PAYLOAD_ENUM_ATTR_FIELD_ENTRIES
                     | NVTX_PAYLOAD_ENUM_ATTR_FIELD_NUM_ENTRIES
                     | NVTX_PAYLOAD_ENUM_ATTR_FIELD_SIZE,
        .name = "nib_dtype",
        .entries = names,
        .numEntries = sizeof names / sizeof *names,
        .sizeOfEnum = sizeof(uint32_t),
    };
    return nvtxPayloadEnumRegister(domain, &attributes);
}

#define FIELD(entry_type, member) \
    { .type = (entry_type), .name = #member, .offset = offsetof(trace_payload, member) }

static uint64_t register_schema(void)
{
    const uint64_t dtypes = register_dtypes();
    const nvtxPayloadSchemaEntry_t fields[] = {
        { .flags = NVTX_PAYLOAD_ENTRY_FLAG_ARRAY_FIXED_SIZE,
          .type = NVTX_PAYLOAD_ENTRY_TYPE_CSTRING,
          .name = "format_name",
          .arrayOrUnionDetail = NAME_BYTES,
          .offset = offsetof(trace_payload, format_name) },
        FIELD(NVTX_PAYLOAD_ENTRY_TYPE_UINT32, format),
        FIELD(dtypes ? dtypes : NVTX_PAYLOAD_ENTRY_TYPE_UINT32, dtype),
        FIELD(NVTX_PAYLOAD_ENTRY_TYPE_INT64, rows),
        FIELD(NVTX_PAYLOAD_ENTRY_TYPE_INT64, cols),
        FIELD(NVTX_PAYLOAD_ENTRY_TYPE_INT64, count),
        FIELD(NVTX_PAYLOAD_ENTRY_TYPE_INT64, bytes_read),
        FIELD(NVTX_PAYLOAD_ENTRY_TYPE_INT64, bytes_written),
    };
    const nvtxPayloadSchemaAttr_t attributes = {
        .fieldMask = NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NAME | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_TYPE
                     | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_ENTRIES
                     | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NUM_ENTRIES
                     | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_STATIC_SIZE,
        .name = "nib_call",
        .type = NVTX_PAYLOAD_SCHEMA_TYPE_STATIC,
        .entries = fields,
        .numEntries = sizeof fields / sizeof *fields,
        .payloadStaticSize = sizeof(trace_payload),
    };
    return nvtxPayloadSchemaRegister(domain, &attributes);
}

static void find_profiler(void)
{
    domain = nvtxDomainCreateA("nibble"); /* NULL without a profiler */
    if (domain) schema = register_schema();
    atomic_store(&nib_trace_state, domain ? NIB_TRACE_ON : NIB_TRACE_OFF);
}

/* Sizes of what a caller may have got wrong: 0 for a negative one, INT64_MAX for too large. */
static int64_t times(int64_t a, int64_t b)
{
    int64_t product;
    if (a <= 0 || b <= 0) return 0;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

static int64_t plus(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static int64_t matrix_bytes(const nib_matrix *m)
{
    if (!m) return 0;
    const int64_t element = m->dtype == NIB_F32 ? 4
                            : m->dtype == NIB_F16 || m->dtype == NIB_BF16 ? 2 : 0;
    return times(times(m->rows, m->cols), element);
}

static int64_t packed_bytes(const nib_packed *p)
{
    if (!p) return 0;
    const int64_t codes = times(p->rows, nib_codes_row_bytes(p->format, p->cols));
    const int64_t scales = nib_scales_bytes(p->format, p->scale_layout, p->rows, p->cols);
    return plus(codes, scales > 0 ? scales : 0);
}

/* All but the padding, in which tiles may be apart. */
static int64_t weights_bytes(const nib_gemm_weights *w)
{
    if (!w || !nib_format_is_valid(w->format)) return 0;
    return plus(times(w->n, nib_codes_row_bytes(w->format, w->k)),
                times(w->n, nib_scales_per_row(w->format, w->k)));
}

static int64_t scale_bytes(nib_scale_layout layout, int64_t rows, int64_t cols)
{
    if (layout == NIB_SCALES_LINEAR) return times(rows, cols);
    return times(times(plus(rows, 127) / 128, 512), plus(cols, 3) / 4);
}

static trace_payload payload_of(const nib_trace_args *args)
{
    nib_trace_args a = *args;
    if (a.unpacks && a.unpacks->size < sizeof *a.unpacks) a.unpacks = NULL;
    if (a.packs && a.packs->size < sizeof *a.packs) a.packs = NULL;
    if (a.packs_too && a.packs_too->size < sizeof *a.packs_too) a.packs_too = NULL;
    if (a.batch && a.batch->size < sizeof *a.batch) a.batch = NULL;
    if (a.weights && a.weights->size < sizeof *a.weights) a.weights = NULL;
    if (a.packs_weights && a.packs_weights->size < sizeof *a.packs_weights) a.packs_weights = NULL;
    if (a.weights) a.format = &a.weights->format;
    const nib_matrix *plain = a.reads ? a.reads : a.writes;
    const nib_packed *packed = a.packs ? a.packs : a.packs_too ? a.packs_too : a.unpacks;
    const int64_t count = a.batch ? a.batch->count : 1;

    trace_payload p = {
        .format = packed ? packed->format : a.format ? *a.format : UINT32_MAX,
        .dtype = plain ? (uint32_t)plain->dtype : NO_DTYPE,
        .rows = plain ? plain->rows : packed ? packed->rows : a.rows,
        .cols = plain ? plain->cols : packed ? packed->cols : a.cols,
        .count = count,
        .bytes_read = plus(times(matrix_bytes(a.reads), a.passes ? a.passes : 1),
                           plus(plus(matrix_bytes(a.reads_too), packed_bytes(a.unpacks)),
                                weights_bytes(a.weights))),
        .bytes_written = plus(plus(matrix_bytes(a.writes), weights_bytes(a.packs_weights)),
                              plus(packed_bytes(a.packs), packed_bytes(a.packs_too))),
    };
    if (a.scales && plain) {
        const int64_t given = nib_scales_bytes(p.format, a.from, plain->rows, plain->cols);
        p.bytes_read = plus(p.bytes_read, given > 0 ? given : 0);
    }
    if (a.given && a.packs) {
        const nib_packed *to = a.packs;
        const int64_t given = nib_scales_bytes(to->format, to->scale_layout, to->rows, to->cols);
        p.bytes_read = plus(p.bytes_read, given > 0 ? given : 0);
        p.bytes_written = times(to->rows, nib_codes_row_bytes(to->format, to->cols));
    }
    if (a.writes_row_amax) p.bytes_written = times(p.rows, (int64_t)sizeof(float));
    if (a.relayout) {
        p.bytes_read = scale_bytes(a.from, a.rows, a.cols);
        p.bytes_written = scale_bytes(a.to, a.rows, a.cols);
    }
    p.bytes_read = times(p.bytes_read, count);
    p.bytes_written = times(p.bytes_written, count);
    if (nib_format_is_valid(p.format))
        nib_format_name(p.format, p.format_name, sizeof p.format_name);
    return p;
}

int nib_trace_begin(_Atomic(void *) *site, const char *name, const nib_trace_args *args)
{
    pthread_once(&once, find_profiler);
    if (!domain) return 0;
    nvtxStringHandle_t message = atomic_load(site);
    if (!message) { /* two threads may both register it: the name is the same */
        message = nvtxDomainRegisterStringA(domain, name);
        atomic_store(site, message);
    }
    const trace_payload payload = args ? payload_of(args) : (trace_payload){ .count = 0 };
    const nvtxPayloadData_t data = { schema, sizeof payload, &payload };
    nvtxEventAttributes_t event = {
        .version = NVTX_VERSION,
        .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
        .messageType = NVTX_MESSAGE_TYPE_REGISTERED,
        .message.registered = message,
    };
    if (args && schema) {
        event.payloadType = NVTX_PAYLOAD_TYPE_EXT;
        event.reserved0 = 1; /* payloads */
        event.payload.ullValue = (uintptr_t)&data;
    }
    nvtxDomainRangePushEx(domain, &event);
    return 1;
}

void nib_trace_end(void) { nvtxDomainRangePop(domain); }

#endif
