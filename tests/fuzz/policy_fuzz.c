/* policy_fuzz.c: any bytes give either a sentence or a policy that answers for every one of its own
 * patterns; any text is no schedule, or one that is written and read back the same. */
#include <stdlib.h>
#include <string.h>

#include "nibble/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_schedule(const char *text)
{
    nib_schedule schedule, again;
    char written[NIB_SCHEDULE_TEXT_BYTES];
    if (nib_schedule_parse(text, &schedule) != NIB_OK) return;
    if (nib_schedule_text(&schedule, written, sizeof written) != NIB_OK) abort();
    if (nib_schedule_parse(written, &again) != NIB_OK) abort();
    if (memcmp(&schedule, &again, sizeof again) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *text = malloc(bytes + 1);
    if (!text) return 0;
    if (bytes) memcpy(text, data, bytes);
    text[bytes] = '\0';
    check_schedule(text);
    free(text);

    nib_policy *policy;
    if (nib_policy_parse("fuzz", (const char *)data, bytes, &policy) != NIB_OK) {
        if (policy || !*nib_last_error()) abort();
        return 0;
    }
    for (int32_t i = 0; i < nib_policy_count(policy); i++) {
        nib_policy_line line = { .size = sizeof line }, found = { .size = sizeof found };
        if (nib_policy_get(policy, i, &line) != NIB_OK) abort();
        /* Every pattern matches itself; the line that decides is its own or an earlier one. */
        if (nib_policy_find(policy, line.pattern, &found) != NIB_OK) abort();
        if (found.line > line.line) abort();
    }
    nib_policy_close(policy);
    return 0;
}
