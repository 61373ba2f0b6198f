/* qbench_mark.c: the NVTX range "profiled" of the domain "qbench" around the one call that
 * --profile is about, so that a profiler can leave out all others:
 *
 *     ncu --nvtx --nvtx-include "qbench@profiled/" ... qbench quantize --profile
 *
 * The library's own ranges (host/trace.h) lie within it. Nothing without NVTX's headers. */
#include "qbench.h"

#ifdef NIB_NVTX

#include <nvtx3/nvToolsExt.h>

static nvtxDomainHandle_t domain;

int nib_qb_mark_begin(void)
{
    if (!domain) domain = nvtxDomainCreateA("qbench"); /* NULL without a profiler */
    /* Registered: nsys ranges to capture by name need it. */
    const nvtxEventAttributes_t event = {
        .version = NVTX_VERSION,
        .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
        .messageType = NVTX_MESSAGE_TYPE_REGISTERED,
        .message.registered = nvtxDomainRegisterStringA(domain, "profiled"),
    };
    nvtxDomainRangePushEx(domain, &event);
    return 1;
}

void nib_qb_mark_end(void) { nvtxDomainRangePop(domain); }

#else

int nib_qb_mark_begin(void) { return 0; }
void nib_qb_mark_end(void) { }

#endif
