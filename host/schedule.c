/* schedule.c: schedules of schedule.h, read, written and asked. */
#include "nibble/schedule.h"

#include <stdio.h>
#include <string.h>

#include "internal.h"

enum { SCHEDULE_V1 = sizeof(nib_schedule), NAME_BYTES = 48, WHOLE = NIB_SCHEDULE_WHOLE };

static const struct {
    const char *name, *text;
} presets[] = { { "progressive", "mxfp8-e4m3:0.3,mxfp6-e2m3:0.7,nvfp4:1" } };

/* Reads "0", "1", "0.35" or ".35" at *at as millionths and moves *at behind it; -1 if there is no
 * such number. */
static int32_t millionths_read(const char **at)
{
    const char *p = *at;
    int32_t value = 0, digits = 0, scale = WHOLE / 10;
    for (; *p >= '0' && *p <= '9'; p++, digits++) {
        if (value > 1) return -1;
        value = value * 10 + (*p - '0');
    }
    if (value > 1) return -1;
    value *= WHOLE;
    if (*p == '.')
        for (p++; *p >= '0' && *p <= '9'; p++, digits++, scale /= 10) {
            if (scale == 0) return -1;
            value += (*p - '0') * scale;
        }
    if (digits == 0 || value > WHOLE) return -1;
    *at = p;
    return value;
}

/* "0.3": no more digits than it takes. */
static const char *millionths_text(int32_t value, char text[16])
{
    snprintf(text, 16, "%d.%06d", (int)(value / WHOLE), (int)(value % WHOLE));
    for (size_t n = strlen(text); text[n - 1] == '0' || text[n - 1] == '.'; n--) {
        const int was_point = text[n - 1] == '.';
        text[n - 1] = '\0';
        if (was_point) break;
    }
    return text;
}

static nib_status format_read(const char *name, int number, nib_format *format)
{
    *format = NIB_FORMAT_NONE;
    if (!strcmp(name, "none") || nib_format_from_name(name, format) == NIB_OK) return NIB_OK;
    char why[512];
    snprintf(why, sizeof why, "%s", nib_last_error());
    return nib_fail(NIB_ERR_FORMAT, "schedule, stage %d: %s, and none", number, why);
}

/* Reads one stage at *at, which begins where the last one ended, and moves *at behind it. */
static nib_status stage_read(const char **at, int number, int32_t begin, nib_schedule_stage *stage)
{
    char name[NAME_BYTES], a[16], b[16];
    const size_t n = strcspn(*at, ":,");
    NIB_REQUIRE((*at)[n] == ':', NIB_ERR_FORMAT,
                "schedule, stage %d: '%.40s' is not FORMAT:UNTIL; the preset is %s", number, *at,
                presets[0].name);
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name), *at);
    NIB_TRY(format_read(name, number, &stage->format));
    *at += n + 1;
    const char *const fractions = *at;
    int32_t from = begin, until = millionths_read(at);
    if (until >= 0 && **at == '-') {
        from = until;
        *at += 1;
        until = millionths_read(at);
    }
    NIB_REQUIRE(until >= 0 && (**at == ',' || **at == '\0'), NIB_ERR_FORMAT,
                "schedule, stage %d (%s): '%.40s' is not a fraction between 0 and 1 with up to six "
                "decimals", number, name, fractions);
    NIB_REQUIRE(from <= begin, NIB_ERR_FORMAT,
                "schedule, stage %d (%s): a gap: it begins at %s, the one before ends at %s",
                number, name, millionths_text(from, a), millionths_text(begin, b));
    NIB_REQUIRE(from == begin, NIB_ERR_FORMAT,
                "schedule, stage %d (%s): an overlap: it begins at %s, the one before ends at %s",
                number, name, millionths_text(from, a), millionths_text(begin, b));
    NIB_REQUIRE(until > begin, NIB_ERR_FORMAT,
                "schedule, stage %d (%s): it ends at %s, but the one before lasts until %s",
                number, name, millionths_text(until, a), millionths_text(begin, b));
    stage->until_millionths = until;
    return NIB_OK;
}

nib_status nib_schedule_parse(const char *text, nib_schedule *schedule)
{
    NIB_REQUIRE(text && schedule, NIB_ERR_ARGUMENT, "schedule_parse: text or schedule is NULL");
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (!strcmp(text, presets[i].name)) text = presets[i].text;

    nib_schedule s = { .size = sizeof s };
    int32_t begin = 0;
    for (const char *at = text;; at++) {
        NIB_REQUIRE(s.n_stages < NIB_SCHEDULE_STAGES, NIB_ERR_FORMAT,
                    "schedule: more than %d stages", (int)NIB_SCHEDULE_STAGES);
        NIB_TRY(stage_read(&at, s.n_stages + 1, begin, &s.stages[s.n_stages]));
        begin = s.stages[s.n_stages++].until_millionths;
        if (!*at) break;
    }
    char end[16];
    NIB_REQUIRE(begin == WHOLE, NIB_ERR_FORMAT,
                "schedule: a gap at the end: the last stage ends at %s, not 1",
                millionths_text(begin, end));
    *schedule = s;
    return NIB_OK;
}

static nib_status schedule_check(const nib_schedule *s, const char *what)
{
    NIB_REQUIRE(s, NIB_ERR_ARGUMENT, "%s: schedule is NULL", what);
    NIB_REQUIRE(s->size >= SCHEDULE_V1, NIB_ERR_ARGUMENT,
                "%s: schedule->size is %u, at least %d is needed", what, s->size,
                (int)SCHEDULE_V1);
    NIB_REQUIRE(s->n_stages >= 1 && s->n_stages <= NIB_SCHEDULE_STAGES, NIB_ERR_ARGUMENT,
                "%s: n_stages is %d, not 1..%d", what, (int)s->n_stages, (int)NIB_SCHEDULE_STAGES);
    int32_t begin = 0;
    for (int i = 0; i < s->n_stages; i++) {
        const nib_schedule_stage *stage = &s->stages[i];
        NIB_REQUIRE(stage->format == NIB_FORMAT_NONE || nib_format_is_valid(stage->format),
                    NIB_ERR_ARGUMENT, "%s: stage %d: %#x is not a format", what, i + 1,
                    stage->format);
        NIB_REQUIRE(stage->until_millionths > begin && stage->until_millionths <= WHOLE,
                    NIB_ERR_ARGUMENT, "%s: stage %d: until_millionths is %d, not %d..%d", what,
                    i + 1, (int)stage->until_millionths, (int)begin + 1, (int)WHOLE);
        begin = stage->until_millionths;
    }
    NIB_REQUIRE(begin == WHOLE, NIB_ERR_ARGUMENT,
                "%s: the last stage's until_millionths is %d, not %d", what, (int)begin,
                (int)WHOLE);
    return NIB_OK;
}

nib_status nib_schedule_text(const nib_schedule *schedule, char *text, size_t text_bytes)
{
    NIB_REQUIRE(text, NIB_ERR_ARGUMENT, "schedule_text: text is NULL");
    if (text_bytes > 0) text[0] = '\0';
    NIB_TRY(schedule_check(schedule, "schedule_text"));
    char full[NIB_SCHEDULE_TEXT_BYTES];
    int used = 0;
    for (int i = 0; i < schedule->n_stages; i++) {
        char name[NAME_BYTES] = "none", until[16];
        if (schedule->stages[i].format != NIB_FORMAT_NONE)
            NIB_TRY(nib_format_name(schedule->stages[i].format, name, sizeof name));
        used += snprintf(full + used, sizeof full - (size_t)used, "%s%s:%s", i ? "," : "", name,
                         millionths_text(schedule->stages[i].until_millionths, until));
    }
    const int need = snprintf(text, text_bytes, "%s", full);
    NIB_REQUIRE((size_t)need < text_bytes, NIB_ERR_SHAPE,
                "schedule_text: '%s' needs %d bytes, text has %zu", full, need + 1, text_bytes);
    return NIB_OK;
}

nib_status nib_schedule_format_at(const nib_schedule *schedule, int64_t step, int64_t steps,
                                  nib_format *format)
{
    NIB_TRY(schedule_check(schedule, "schedule_format_at"));
    NIB_REQUIRE(format, NIB_ERR_ARGUMENT, "schedule_format_at: format is NULL");
    NIB_REQUIRE(step >= 0 && step < steps, NIB_ERR_ARGUMENT,
                "schedule_format_at: step %lld is outside 0..%lld", (long long)step,
                (long long)steps - 1);
    int i = 0;
    while ((__int128)step * WHOLE >= (__int128)schedule->stages[i].until_millionths * steps) i++;
    *format = schedule->stages[i].format;
    return NIB_OK;
}
