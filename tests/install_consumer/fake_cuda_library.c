/* fake_cuda_library.c: stands in for libnibble_cuda.so, to see which file is opened and which is
 * refused. It finds no device, and signs its refusal with NAME. */
#include <stdio.h>

#include "kernels/backend.h"
#include "nibble/version.h"

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)

#ifndef VERSION
#define VERSION NIB_CUDA_TABLE_VERSION
#endif
#ifndef SIZE
#define SIZE sizeof(nib_cuda_table)
#endif
#ifndef LIBRARY
#define LIBRARY TEXT(NIB_VERSION_MAJOR) "." TEXT(NIB_VERSION_MINOR) "." TEXT(NIB_VERSION_PATCH)
#endif

static nib_status probe(int32_t ordinal, nib_device_info *info, char *why)
{
    (void)ordinal, (void)info;
    snprintf(why, NIB_WHY_BYTES, "asked %s", NAME);
    return NIB_ERR_NO_DEVICE;
}

const nib_cuda_table nib_cuda_table_v1 = {
    .version = VERSION, .size = SIZE, .library = LIBRARY, .probe = probe,
};
