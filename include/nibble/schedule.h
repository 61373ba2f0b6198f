/* schedule.h: which format a training quantizes to at which step.
 *
 * A training may begin in 8 bits, go on in 6 and end in the format that is served; `make demo-qat`
 * holds that against 4 bits from the first step. A schedule is a plain value: a list of stages,
 * each in force until a fraction of all steps. Host memory, any thread, no device; nothing is
 * allocated.
 */
#ifndef NIBBLE_SCHEDULE_H
#define NIBBLE_SCHEDULE_H

#include "nibble/format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In the place of a format: leave the values as they are. It is no format of format.h. */
enum { NIB_FORMAT_NONE = 0 };

enum { NIB_SCHEDULE_STAGES = 16, NIB_SCHEDULE_WHOLE = 1000000 };

/* In force from the end of the stage before it until this fraction of the steps. */
typedef struct nib_schedule_stage {
    nib_format format;           /* a format, or NIB_FORMAT_NONE */
    int32_t    until_millionths; /* 1..1000000: fractions are exact decimals */
} nib_schedule_stage;

typedef struct nib_schedule {
    uint32_t           size;     /* sizeof(nib_schedule) */
    int32_t            n_stages; /* 1..NIB_SCHEDULE_STAGES */
    nib_schedule_stage stages[NIB_SCHEDULE_STAGES]; /* ascending; the last until 1000000 */
} nib_schedule;

/* Reads a schedule. text: a preset's name, or stages with commas and no blanks between them:
 *
 *     FORMAT:[FROM-]UNTIL,...     mxfp8-e4m3:0.3,mxfp6-e2m3:0.7,nvfp4:1
 *
 *   FORMAT  "none", or a name that nib_format_from_name reads
 *   FROM    where the stage before it ends (0 for the first), if given
 *   UNTIL   0 < UNTIL <= 1, up to six decimals; 1 for the last stage
 *
 * Presets: "progressive" is the schedule above.
 *
 * Returns NIB_ERR_ARGUMENT for a NULL pointer and NIB_ERR_FORMAT for a text that is not a
 * schedule: an unknown format or preset, no fraction where one must be or one outside 0..1, a gap
 * or an overlap between two stages, an empty stage, steps that no stage covers at the end, over
 * NIB_SCHEDULE_STAGES stages. The sentence names the stage and the numbers. *schedule is then
 * as it was. */
nib_status nib_schedule_parse(const char *text, nib_schedule *schedule);

/* Writes the schedule as nib_schedule_parse reads it, without FROM. Always ends with NUL when
 * text_bytes > 0; NIB_SCHEDULE_TEXT_BYTES suffice for any. Returns NIB_ERR_ARGUMENT for a NULL
 * pointer or a schedule that breaks a rule of nib_schedule, NIB_ERR_SHAPE if the text was cut. */
enum { NIB_SCHEDULE_TEXT_BYTES = 512 };
nib_status nib_schedule_text(const nib_schedule *schedule, char *text, size_t text_bytes);

/* *format = that of the first stage with step < until * steps, in exact arithmetic: over steps 0
 * to steps - 1 each stage gets its share, rounded to whole steps. A stage that is shorter than
 * the distance of two steps may get none.
 *
 * Returns NIB_ERR_ARGUMENT for a NULL pointer, a schedule that breaks a rule of nib_schedule, or
 * a step outside 0..steps - 1. */
nib_status nib_schedule_format_at(const nib_schedule *schedule, int64_t step, int64_t steps,
                                  nib_format *format);

#ifdef __cplusplus
}
#endif

#endif
