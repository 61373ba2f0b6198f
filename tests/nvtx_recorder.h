/* nvtx_recorder.h: what the profiler of the tests, nvtx_recorder.so, has seen. */
#ifndef NIB_TEST_NVTX_RECORDER_H
#define NIB_TEST_NVTX_RECORDER_H

#include <stddef.h>
#include <stdint.h>

enum { RECORDED_RANGES = 256, RECORDED_FIELDS = 16, RECORDED_BYTES = 128 };

typedef struct nvtx_range {
    char    name[64];
    int32_t depth;      /* 1: outermost */
    int32_t registered; /* the name was a registered string */
    int32_t in_domain;  /* the range is in the domain that was created */
    int32_t payload_bytes;
    uint8_t payload[RECORDED_BYTES];
} nvtx_range;

typedef struct nvtx_field {
    char     name[32];
    uint64_t type, offset, length;
} nvtx_field;

typedef struct nvtx_record {
    int32_t    domains, strings, pushes, pops, depth; /* depth: ranges that are open */
    char       domain[32];
    int32_t    enums, enum_names, schemas, n_fields;
    size_t     schema_bytes;
    nvtx_field fields[RECORDED_FIELDS];
    nvtx_range ranges[RECORDED_RANGES]; /* the first of them, in the order of their pushes */
} nvtx_record;

/* Exported under this name. */
typedef nvtx_record *nvtx_recorder_function(void);
#define NVTX_RECORDER_SYMBOL "nvtx_recorder"

#endif
