/* status.c: the one place that turns a failure into text. */
#include <stdarg.h>
#include <stdio.h>

#include <string.h>

#include "internal.h"
#include "nibble/version.h"

static _Thread_local char last_error[1024];

nib_status nib_fail(nib_status status, const char *format, ...)
{
    /* The arguments may point into the old text: build the new one aside. */
    char text[sizeof last_error];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(last_error, text, sizeof text);
    return status;
}

const char *nib_last_error(void) { return last_error; }

const char *nib_status_name(nib_status status)
{
    switch (status) {
    case NIB_OK:                return "NIB_OK";
    case NIB_ERR_ARGUMENT:      return "NIB_ERR_ARGUMENT";
    case NIB_ERR_SHAPE:         return "NIB_ERR_SHAPE";
    case NIB_ERR_ALIGNMENT:     return "NIB_ERR_ALIGNMENT";
    case NIB_ERR_UNSUPPORTED:   return "NIB_ERR_UNSUPPORTED";
    case NIB_ERR_OUT_OF_MEMORY: return "NIB_ERR_OUT_OF_MEMORY";
    case NIB_ERR_DEVICE:        return "NIB_ERR_DEVICE";
    case NIB_ERR_IO:            return "NIB_ERR_IO";
    case NIB_ERR_FORMAT:        return "NIB_ERR_FORMAT";
    case NIB_ERR_NONFINITE:     return "NIB_ERR_NONFINITE";
    case NIB_ERR_EXISTS:        return "NIB_ERR_EXISTS";
    case NIB_ERR_CANCELLED:     return "NIB_ERR_CANCELLED";
    case NIB_ERR_NO_DEVICE:     return "NIB_ERR_NO_DEVICE";
    case NIB_ERR_NOT_PREPARED:  return "NIB_ERR_NOT_PREPARED";
    }
    return "NIB_ERR_?"; /* no default above: -Wswitch names the code that someone forgot */
}

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)

const char *nib_version(void)
{
    return TEXT(NIB_VERSION_MAJOR) "." TEXT(NIB_VERSION_MINOR) "." TEXT(NIB_VERSION_PATCH);
}
