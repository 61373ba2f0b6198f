/* int_format.c: integer formats as values: their parts and names.
 *
 *     bits 0..7 nib_step_element   bit 8 asymmetric   bits 9..30 group / 8   bit 31 one
 */
#include "nibble/int_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum { UNIT = 8, MOST_GROUP = 1 << 24 };

#define MARK 0x80000000u

nib_step_element nib_int_format_element(nib_format f) { return (nib_step_element)(f & 0xff); }
int32_t          nib_int_format_asymmetric(nib_format f) { return (int32_t)(f >> 8 & 1); }
int64_t          nib_int_format_group(nib_format f) { return (int64_t)(f >> 9 & 0x3fffff) * UNIT; }

int32_t nib_int_format_is_valid(nib_format f)
{
    const nib_step_element e = nib_int_format_element(f);
    return (f & MARK) && (e == NIB_INT4 || e == NIB_INT8) && nib_int_format_group(f) <= MOST_GROUP;
}

nib_format nib_int_format_make(nib_step_element element, int64_t group, int32_t asymmetric)
{
    if ((element != NIB_INT4 && element != NIB_INT8) || (unsigned)asymmetric > 1 || group < 0
        || group > MOST_GROUP || group % UNIT)
        return 0xffffffffu;
    return MARK | (uint32_t)element | (uint32_t)asymmetric << 8 | (uint32_t)(group / UNIT) << 9;
}

nib_status nib_int_format_name(nib_format f, char *text, size_t text_bytes)
{
    NIB_REQUIRE(text, NIB_ERR_ARGUMENT, "int_format_name: text is NULL");
    if (text_bytes > 0) text[0] = '\0';
    NIB_REQUIRE(nib_int_format_is_valid(f), NIB_ERR_ARGUMENT, "%#x is no integer format", f);
    char group[16] = "";
    const int64_t n = nib_int_format_group(f);
    if (n == 0) snprintf(group, sizeof group, "-channel");
    else if (n != NIB_INT_FORMAT_GROUP) snprintf(group, sizeof group, "-b%d", (int)n);
    const int length = snprintf(text, text_bytes, "int%d%s%s",
                                (int)nib_int_format_element(f) - 16, group,
                                nib_int_format_asymmetric(f) ? "-asym" : "");
    NIB_REQUIRE((size_t)length < text_bytes, NIB_ERR_SHAPE, "a name of %d characters in %zu bytes",
                length, text_bytes);
    return NIB_OK;
}

/* Past head, if text begins with it; else NULL. */
static const char *past(const char *text, const char *head)
{
    const size_t n = strlen(head);
    return strncmp(text, head, n) ? NULL : text + n;
}

/* What follows "int4" or "int8"; 0xffffffff for what is no such name. */
static nib_format tail_read(nib_step_element element, const char *at)
{
    int64_t group = NIB_INT_FORMAT_GROUP;
    const char *next = past(at, "-channel");
    if (next) {
        group = 0;
        at = next;
    } else if ((next = past(at, "-b")) && *next >= '1' && *next <= '9') {
        char *end;
        group = strtoll(next, &end, 10);
        at = end;
    }
    const char *end = past(at, "-asym");
    return *(end ? end : at) ? 0xffffffffu : nib_int_format_make(element, group, end != NULL);
}

nib_format nib_int_format_named(const char *name)
{
    const char *four = past(name, "int4"), *eight = past(name, "int8");
    return four ? tail_read(NIB_INT4, four) : eight ? tail_read(NIB_INT8, eight) : 0xffffffffu;
}

nib_status nib_int_format_from_name(const char *name, nib_format *format)
{
    NIB_REQUIRE(name && format, NIB_ERR_ARGUMENT, "int_format_from_name: name or format is NULL");
    const nib_format f = nib_int_format_named(name);
    NIB_REQUIRE(nib_int_format_is_valid(f), NIB_ERR_ARGUMENT,
                "unknown integer format '%s'; they are int4 and int8, then if wanted -bN for a "
                "group of N, a multiple of 8 (128), or -channel for the row, and -asym for zero "
                "points", name);
    *format = f;
    return NIB_OK;
}

nib_status nib_weight_format_name(nib_format f, char *text, size_t text_bytes)
{
    return nib_int_format_is_valid(f) ? nib_int_format_name(f, text, text_bytes)
                                      : nib_format_name(f, text, text_bytes);
}
