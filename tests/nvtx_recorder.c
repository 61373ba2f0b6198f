/* nvtx_recorder.c: a profiler for the tests. The library finds it by NVTX_INJECTION64_PATH, as it
 * finds Nsight, and it writes down what it is told. NVTX_RECORDER=core: it takes no payloads;
 * NVTX_RECORDER=refuse: it does not start. NVTX_RECORDER_LOG=file: a line for each push and pop. */
#define NVTX_NO_IMPL
#include "nvtx_recorder.h"

#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { ENUM_ID = 4711, SCHEMA_ID = 4712 };

static nvtx_record record;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char strings[64][64];
static char domains[4][32];

EXPORT nvtx_record *nvtx_recorder(void);
EXPORT int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table);
EXPORT int InitializeInjectionNvtxExtension(nvtxExtModuleInfo_t *module);

nvtx_record *nvtx_recorder(void) { return &record; }

/* Appends, so that the order of two processes' lines is that of their calls. */
static void write_log(const char *what, const char *name, nvtxDomainHandle_t domain)
{
    const char *path = getenv("NVTX_RECORDER_LOG");
    FILE *f = path ? fopen(path, "a") : NULL;
    if (!f) return;
    fprintf(f, "%s %s@%s\n", what, name, (const char *)(void *)domain);
    fclose(f);
}

static nvtxDomainHandle_t create_domain(const char *name)
{
    char *copy = domains[record.domains++ % 4];
    snprintf(copy, sizeof domains[0], "%s", name);
    snprintf(record.domain, sizeof record.domain, "%s", name);
    return (nvtxDomainHandle_t)(void *)copy;
}

static nvtxStringHandle_t register_string(nvtxDomainHandle_t domain, const char *text)
{
    (void)domain;
    pthread_mutex_lock(&lock);
    char *copy = strings[record.strings++ % 64];
    snprintf(copy, sizeof strings[0], "%s", text);
    pthread_mutex_unlock(&lock);
    return (nvtxStringHandle_t)(void *)copy;
}

static int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *event)
{
    pthread_mutex_lock(&lock);
    const int depth = ++record.depth;
    if (record.pushes < RECORDED_RANGES) {
        nvtx_range *range = &record.ranges[record.pushes];
        memset(range, 0, sizeof *range);
        range->depth = depth;
        range->in_domain = (void *)domain == (void *)domains[0];
        range->registered = event->messageType == NVTX_MESSAGE_TYPE_REGISTERED;
        if (range->registered)
            snprintf(range->name, sizeof range->name, "%s",
                     (const char *)(const void *)event->message.registered);
        if (event->payloadType == NVTX_PAYLOAD_TYPE_EXT && event->reserved0 == 1) {
            const nvtxPayloadData_t *data =
                (const nvtxPayloadData_t *)(uintptr_t)event->payload.ullValue;
            if (data->schemaId == SCHEMA_ID && data->size <= RECORDED_BYTES) {
                range->payload_bytes = (int32_t)data->size;
                memcpy(range->payload, data->payload, data->size);
            }
        }
    }
    record.pushes++;
    write_log("push", event->messageType != NVTX_MESSAGE_TYPE_REGISTERED ? "" :
                      (const char *)(const void *)event->message.registered, domain);
    pthread_mutex_unlock(&lock);
    return depth - 1;
}

static int pop(nvtxDomainHandle_t domain)
{
    pthread_mutex_lock(&lock);
    record.pops++;
    const int depth = --record.depth;
    write_log("pop", "", domain);
    pthread_mutex_unlock(&lock);
    return depth;
}

static uint64_t register_enum(nvtxDomainHandle_t domain, const nvtxPayloadEnumAttr_t *enumeration)
{
    (void)domain;
    record.enums++;
    record.enum_names = (int32_t)enumeration->numEntries;
    return ENUM_ID;
}

static uint64_t register_schema(nvtxDomainHandle_t domain, const nvtxPayloadSchemaAttr_t *schema)
{
    (void)domain;
    record.schemas++;
    record.schema_bytes = schema->payloadStaticSize;
    for (size_t i = 0; i < schema->numEntries && i < RECORDED_FIELDS; i++) {
        const nvtxPayloadSchemaEntry_t *entry = &schema->entries[i];
        nvtx_field *field = &record.fields[record.n_fields++];
        snprintf(field->name, sizeof field->name, "%s", entry->name);
        field->type = entry->type == ENUM_ID ? NVTX_PAYLOAD_ENTRY_TYPE_UINT32 : entry->type;
        field->offset = entry->offset;
        field->length = entry->arrayOrUnionDetail;
    }
    return SCHEMA_ID;
}

static int is_mode(const char *mode)
{
    const char *value = getenv("NVTX_RECORDER");
    return value && strcmp(value, mode) == 0;
}

#define SET(table, id, function) \
    (*(table)[NVTX_CBID_CORE2_##id] = (NvtxFunctionPointer)(function))

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table)
{
    if (is_mode("refuse")) return 0;
    const NvtxExportTableCallbacks *callbacks =
        (const NvtxExportTableCallbacks *)get_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table = NULL;
    unsigned size = 0;
    if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size)
        || size < NVTX_CBID_CORE2_DomainCreateA)
        return 0;
    SET(table, DomainCreateA, create_domain);
    SET(table, DomainRegisterStringA, register_string);
    SET(table, DomainRangePushEx, push);
    SET(table, DomainRangePop, pop);
    return 1;
}

int InitializeInjectionNvtxExtension(nvtxExtModuleInfo_t *module)
{
    if (is_mode("core") || module->moduleId != NVTX_EXT_PAYLOAD_MODULEID) return 0;
    intptr_t *slots = module->segments[0].functionSlots;
    slots[NVTX3EXT_CBID_nvtxPayloadSchemaRegister] = (intptr_t)register_schema;
    slots[NVTX3EXT_CBID_nvtxPayloadEnumRegister] = (intptr_t)register_enum;
    return 1;
}
