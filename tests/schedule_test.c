/* schedule_test.c: schedules as text and as values, and what is in force at each step. */
#include <stdio.h>
#include <string.h>

#include "expect_status.h"
#include "nibble/schedule.h"

static const char progressive[] = "mxfp8-e4m3:0.3,mxfp6-e2m3:0.7,nvfp4:1";

NIB_TEST(Schedule, ProgressiveIsThirtySeventyHundred)
{
    nib_schedule s, same;
    REQUIRE(nib_schedule_parse("progressive", &s) == NIB_OK, "%s", nib_last_error());
    REQUIRE(nib_schedule_parse(progressive, &same) == NIB_OK, "%s", nib_last_error());
    EXPECT(memcmp(&s, &same, sizeof s) == 0, "the preset is what the header says");
    EXPECT(s.size == sizeof s && s.n_stages == 3, "%d stages", (int)s.n_stages);
    static const struct { int64_t step; nib_format format; } at[] = {
        { 0, NIB_MXFP8_E4M3 },   { 299, NIB_MXFP8_E4M3 }, { 300, NIB_MXFP6_E2M3 },
        { 699, NIB_MXFP6_E2M3 }, { 700, NIB_NVFP4 },      { 999, NIB_NVFP4 },
    };
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        nib_format format = 1;
        EXPECT(nib_schedule_format_at(&s, at[i].step, 1000, &format) == NIB_OK, "%s",
               nib_last_error());
        EXPECT(format == at[i].format, "step %d has %#x", (int)at[i].step, format);
    }
}

/* Exact: the first step of a stage is the smallest one with step * 10^6 >= until * steps, which
 * f64 products miss (0.29 * 100 < 29). Every number of steps to 400, every hundredth. */
NIB_TEST(Schedule, StagesBeginAtExactSteps)
{
    for (int hundredth = 1; hundredth < 100; hundredth++) {
        char text[64];
        nib_schedule s;
        snprintf(text, sizeof text, "none:0.%02d,mxfp4:1", hundredth);
        REQUIRE(nib_schedule_parse(text, &s) == NIB_OK, "%s", nib_last_error());
        for (int64_t steps = 1; steps <= 400; steps++) {
            const int64_t first = (hundredth * steps + 99) / 100;
            for (int64_t step = first - 1; step <= first; step++) {
                nib_format format = 1;
                if (step < 0 || step >= steps) continue;
                REQUIRE(nib_schedule_format_at(&s, step, steps, &format) == NIB_OK, "%s",
                        nib_last_error());
                if (format != (step < first ? (nib_format)NIB_FORMAT_NONE : (nib_format)NIB_MXFP4))
                    EXPECT(0, "'%s', step %d of %d", text, (int)step, (int)steps);
            }
            if (nib_test_failed()) return;
        }
    }
}

NIB_TEST(Schedule, HugeNumbersOfStepsDoNotOverflow)
{
    nib_schedule s;
    nib_format format = 1;
    REQUIRE(nib_schedule_parse("none:0.999999,nvfp4:1", &s) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_schedule_format_at(&s, INT64_MAX - 1, INT64_MAX, &format) == NIB_OK
               && format == NIB_NVFP4, "last: %#x", format);
    EXPECT(nib_schedule_format_at(&s, INT64_MAX / 1000000 * 999999, INT64_MAX, &format) == NIB_OK
               && format == NIB_FORMAT_NONE, "just before: %#x", format);
}

NIB_TEST(Schedule, TextRoundTrips)
{
    static const struct { const char *from, *to; } cases[] = {
        { progressive, progressive },
        { "nvfp4:1", "nvfp4:1" },
        { "none:.5,nvfp4:1.", "none:0.5,nvfp4:1" },
        { "none:0.000001,mxfp4:0.999999,nvfp4:1.000000", "none:0.000001,mxfp4:0.999999,nvfp4:1" },
        { "mxfp8-e4m3:0-0.3,mxfp6-e2m3:0.3-0.70,nvfp4:0.7-1", progressive },
        { "e2m1/e4m3/64/tensor:0.10,none:00.2,nvfp4:01",
          "e2m1/e4m3/64/tensor:0.1,none:0.2,nvfp4:1" },
        { "nvfp4:0.5,nvfp4:1", "nvfp4:0.5,nvfp4:1" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nib_schedule s;
        char text[NIB_SCHEDULE_TEXT_BYTES];
        REQUIRE(nib_schedule_parse(cases[i].from, &s) == NIB_OK, "%s: %s", cases[i].from,
                nib_last_error());
        REQUIRE(nib_schedule_text(&s, text, sizeof text) == NIB_OK, "%s", nib_last_error());
        EXPECT(!strcmp(text, cases[i].to), "'%s' became '%s'", cases[i].from, text);
        EXPECT(nib_schedule_text(&s, text, strlen(cases[i].to) + 1) == NIB_OK, "exactly enough");
        EXPECT_FAILS("cut", nib_schedule_text(&s, text, strlen(cases[i].to)), NIB_ERR_SHAPE,
                     "bytes, text has");
        EXPECT(strlen(text) == strlen(cases[i].to) - 1, "cut, but ended");
    }
}

NIB_TEST(Schedule, LongestTextFits)
{
    nib_schedule s = { .size = sizeof s, .n_stages = NIB_SCHEDULE_STAGES };
    for (int i = 0; i < NIB_SCHEDULE_STAGES; i++)
        s.stages[i] = (nib_schedule_stage){
            nib_format_make(NIB_E4M3, NIB_SCALE_E4M3, 128, 1),
            i == NIB_SCHEDULE_STAGES - 1 ? NIB_SCHEDULE_WHOLE : 999900 + i };
    char text[NIB_SCHEDULE_TEXT_BYTES];
    nib_schedule again;
    REQUIRE(nib_schedule_text(&s, text, sizeof text) == NIB_OK, "%s", nib_last_error());
    REQUIRE(nib_schedule_parse(text, &again) == NIB_OK, "%s", nib_last_error());
    EXPECT(memcmp(&s, &again, sizeof s) == 0, "'%s'", text);
}

NIB_TEST(Schedule, BadTextsAreNamed)
{
    static const struct { const char *text, *piece; } bad[] = {
        { "", "stage 1: '' is not FORMAT:UNTIL; the preset is progressive" },
        { "progresive", "'progresive' is not FORMAT:UNTIL" },
        { "nvfp4", "'nvfp4' is not FORMAT:UNTIL" },
        { "nvfp5:1", "stage 1: unknown format 'nvfp5'" },
        { "NVFP4:1", "unknown format 'NVFP4'" },
        { " nvfp4:1", "unknown format ' nvfp4'" },
        { "none:0.5,nvfp5:1", "stage 2: unknown format 'nvfp5'" },
        { ":1", "unknown format ''" },
        { "nvfp4:", "stage 1 (nvfp4): '' is not a fraction" },
        { "nvfp4:x", "'x' is not a fraction" },
        { "nvfp4:1x", "'1x' is not a fraction" },
        { "nvfp4:-1", "'-1' is not a fraction" },
        { "nvfp4:.", "'.' is not a fraction" },
        { "nvfp4:1.000001", "'1.000001' is not a fraction" },
        { "nvfp4:2", "'2' is not a fraction" },
        { "nvfp4:99999999999999999999", "is not a fraction" },
        { "nvfp4:0.1234567", "up to six decimals" },
        { "nvfp4:1e0", "'1e0' is not a fraction" },
        { "nvfp4:nan", "'nan' is not a fraction" },
        { "nvfp4:0.5-", "'0.5-' is not a fraction" },
        { "nvfp4:0-1-1", "'0-1-1' is not a fraction" },
        { "nvfp4:0.9", "a gap at the end: the last stage ends at 0.9, not 1" },
        { "nvfp4:0.1-1", "stage 1 (nvfp4): a gap: it begins at 0.1, the one before ends at 0" },
        { "mxfp4:0.3,nvfp4:0.4-1",
          "stage 2 (nvfp4): a gap: it begins at 0.4, the one before ends at 0.3" },
        { "mxfp4:0.3,nvfp4:0.2-1",
          "stage 2 (nvfp4): an overlap: it begins at 0.2, the one before ends at 0.3" },
        { "mxfp4:0.3,nvfp4:0.3", "it ends at 0.3, but the one before lasts until 0.3" },
        { "mxfp4:0.3,nvfp4:0.2", "it ends at 0.2, but the one before lasts until 0.3" },
        { "mxfp4:0,nvfp4:1", "it ends at 0, but the one before lasts until 0" },
        { "mxfp4:1,nvfp4:1", "it ends at 1, but the one before lasts until 1" },
        { "nvfp4:1,", "stage 2: '' is not FORMAT:UNTIL" },
        { "nvfp4:0.5,,nvfp4:1", "stage 2: ',nvfp4:1' is not FORMAT:UNTIL" },
        { "none:.01,none:.02,none:.03,none:.04,none:.05,none:.06,none:.07,none:.08,none:.09,"
          "none:.1,none:.11,none:.12,none:.13,none:.14,none:.15,none:.16,none:1",
          "more than 16 stages" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        nib_schedule s, before;
        memset(&s, 0x5a, sizeof s);
        before = s;
        EXPECT_FAILS(bad[i].text, nib_schedule_parse(bad[i].text, &s), NIB_ERR_FORMAT,
                     bad[i].piece);
        EXPECT(memcmp(&s, &before, sizeof s) == 0, "'%s' left a half", bad[i].text);
    }
    nib_schedule s;
    char text[64];
    memset(text, 'a', sizeof text);
    memcpy(text + 50, ":1", 3);
    EXPECT_FAILS("a long name", nib_schedule_parse(text, &s), NIB_ERR_FORMAT, "unknown format 'aa");
    EXPECT_FAILS("NULL text", nib_schedule_parse(NULL, &s), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("NULL", nib_schedule_parse("nvfp4:1", NULL), NIB_ERR_ARGUMENT, "NULL");
}

NIB_TEST(Schedule, BadValuesAreNamed)
{
    nib_schedule good;
    nib_format format = 7;
    char text[NIB_SCHEDULE_TEXT_BYTES];
    REQUIRE(nib_schedule_parse("progressive", &good) == NIB_OK, "%s", nib_last_error());
    static const struct { const char *label, *piece; } rows[] = {
        { "size", "schedule->size is 4" },
        { "no stage", "n_stages is 0, not 1..16" },
        { "17 stages", "n_stages is 17" },
        { "no format", "stage 2: 0x7 is not a format" },
        { "not ascending", "stage 2: until_millionths is 300000, not 300001..1000000" },
        { "over 1", "stage 3: until_millionths is 1000001" },
        { "under 1", "the last stage's until_millionths is 999999, not 1000000" },
        { "negative", "stage 1: until_millionths is -1" },
    };
    for (int i = 0; i < (int)(sizeof rows / sizeof *rows); i++) {
        nib_schedule s = good;
        switch (i) {
        case 0: s.size = 4; break;
        case 1: s.n_stages = 0; break;
        case 2: s.n_stages = 17; break;
        case 3: s.stages[1].format = 7; break;
        case 4: s.stages[1].until_millionths = 300000; break;
        case 5: s.stages[2].until_millionths = 1000001; break;
        case 6: s.stages[2].until_millionths = 999999; break;
        default: s.stages[0].until_millionths = -1; break;
        }
        EXPECT_FAILS(rows[i].label, nib_schedule_format_at(&s, 0, 10, &format), NIB_ERR_ARGUMENT,
                     rows[i].piece);
        EXPECT_FAILS(rows[i].label, nib_schedule_text(&s, text, sizeof text), NIB_ERR_ARGUMENT,
                     rows[i].piece);
    }
    EXPECT(format == 7, "nothing was written");
    EXPECT_FAILS("text NULL", nib_schedule_text(&good, NULL, 5), NIB_ERR_ARGUMENT, "text is NULL");
    EXPECT_FAILS("NULL", nib_schedule_text(NULL, text, 5), NIB_ERR_ARGUMENT, "schedule is NULL");
    EXPECT_FAILS("NULL", nib_schedule_format_at(NULL, 0, 1, &format), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("NULL", nib_schedule_format_at(&good, 0, 1, NULL), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("step -1", nib_schedule_format_at(&good, -1, 10, &format), NIB_ERR_ARGUMENT,
                 "step -1 is outside 0..9");
    EXPECT_FAILS("step 10", nib_schedule_format_at(&good, 10, 10, &format), NIB_ERR_ARGUMENT,
                 "step 10 is outside 0..9");
    EXPECT_FAILS("no steps", nib_schedule_format_at(&good, 0, 0, &format), NIB_ERR_ARGUMENT,
                 "step 0 is outside 0..-1");
}
