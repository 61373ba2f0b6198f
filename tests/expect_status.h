/* expect_status.h: a call that must fail, with its status and a piece of its sentence. */
#ifndef NIB_TEST_EXPECT_STATUS_H
#define NIB_TEST_EXPECT_STATUS_H

#include <string.h>

#include "nibble/device.h"
#include "nibble/format.h"
#include "nibble/status.h"
#include "shim.h"

/* Leaves a known text behind, so that the next failure is seen to write its own. */
static inline void soil_last_error(void)
{
    (void)nib_rules_fill(NIB_RULES_TE, NIB_NVFP4, NULL);
}

static inline int last_error_has(const char *piece)
{
    const char *text = nib_last_error();
    return text[0] && !strstr(text, "rules_fill: rules is NULL") && strstr(text, piece);
}

/* label says which row of a table is meant. */
#define EXPECT_FAILS(label, call, status, piece)                                            \
    do {                                                                                    \
        soil_last_error();                                                                  \
        const nib_status got_ = (call);                                                     \
        EXPECT(got_ == (status), "%s: %s, not %s", (label), nib_status_name(got_),          \
               nib_status_name(status));                                                    \
        EXPECT(got_ != (status) || last_error_has(piece), "%s: the text is '%s', without '%s'", \
               (label), nib_last_error(), (piece));                                         \
    } while (0)

#endif
