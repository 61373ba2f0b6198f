/* status_test.c: names of statuses, the error text of each thread, the version. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "expect_status.h"
#include "nibble/version.h"

NIB_TEST(Status, EveryValueHasItsName)
{
    static const struct {
        nib_status  status;
        int         value;
        const char *name;
    } all[] = {
        { NIB_OK, 0, "NIB_OK" },
        { NIB_ERR_ARGUMENT, 1, "NIB_ERR_ARGUMENT" },
        { NIB_ERR_SHAPE, 2, "NIB_ERR_SHAPE" },
        { NIB_ERR_ALIGNMENT, 3, "NIB_ERR_ALIGNMENT" },
        { NIB_ERR_UNSUPPORTED, 4, "NIB_ERR_UNSUPPORTED" },
        { NIB_ERR_OUT_OF_MEMORY, 5, "NIB_ERR_OUT_OF_MEMORY" },
        { NIB_ERR_DEVICE, 6, "NIB_ERR_DEVICE" },
        { NIB_ERR_IO, 7, "NIB_ERR_IO" },
        { NIB_ERR_FORMAT, 8, "NIB_ERR_FORMAT" },
        { NIB_ERR_NONFINITE, 9, "NIB_ERR_NONFINITE" },
        { NIB_ERR_EXISTS, 10, "NIB_ERR_EXISTS" },
        { NIB_ERR_CANCELLED, 11, "NIB_ERR_CANCELLED" },
        { NIB_ERR_NO_DEVICE, 12, "NIB_ERR_NO_DEVICE" },
        { NIB_ERR_NOT_PREPARED, 13, "NIB_ERR_NOT_PREPARED" },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        EXPECT((int)all[i].status == all[i].value, "%s is %d", all[i].name, (int)all[i].status);
        EXPECT(!strcmp(nib_status_name(all[i].status), all[i].name), "%d is called %s",
               all[i].value, nib_status_name(all[i].status));
    }
    static const int unknown[] = { -1, 14, 15, 1000, 0x7fffffff };
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        nib_status odd;
        memcpy(&odd, &unknown[i], sizeof odd);
        EXPECT(!strcmp(nib_status_name(odd), "NIB_ERR_?"), "%d is called %s", unknown[i],
               nib_status_name(odd));
    }
}

NIB_TEST(Status, SuccessLeavesTheTextAlone)
{
    nib_rules rules;
    char before[1024];
    soil_last_error();
    snprintf(before, sizeof before, "%s", nib_last_error());
    EXPECT(before[0], "a failure left no text");
    EXPECT(nib_rules_fill(NIB_RULES_TE, NIB_NVFP4, &rules) == NIB_OK, "%s", nib_last_error());
    EXPECT(!strcmp(before, nib_last_error()), "now '%s'", nib_last_error());
}

NIB_TEST(Status, TextIsCutNotOverrun)
{
    char name[4096];
    nib_format format;
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = '\0';
    EXPECT_FAILS("long name", nib_format_from_name(name, &format), NIB_ERR_ARGUMENT, "xxx");
    EXPECT(strlen(nib_last_error()) < sizeof name - 1, "%zu bytes", strlen(nib_last_error()));
}

/* Two threads fail differently, wait for each other, and read their own texts. */
typedef struct party {
    pthread_barrier_t *barrier;
    const char        *name;
    char               first[64], text[512];
    nib_status         status;
} party;

static void *fail_and_read(void *argument)
{
    party *p = argument;
    nib_format format;
    snprintf(p->first, sizeof p->first, "%s", nib_last_error());
    p->status = nib_format_from_name(p->name, &format);
    pthread_barrier_wait(p->barrier);
    snprintf(p->text, sizeof p->text, "%s", nib_last_error());
    return NULL;
}

NIB_TEST(Status, EachThreadHasItsText)
{
    pthread_barrier_t barrier;
    pthread_t thread[2];
    party p[2] = { { .barrier = &barrier, .name = "apple" },
                   { .barrier = &barrier, .name = "pear" } };
    REQUIRE(pthread_barrier_init(&barrier, NULL, 2) == 0, "no barrier");
    soil_last_error();
    for (int i = 0; i < 2; i++)
        REQUIRE(pthread_create(&thread[i], NULL, fail_and_read, &p[i]) == 0, "no thread");
    for (int i = 0; i < 2; i++) pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&barrier);
    for (int i = 0; i < 2; i++) {
        EXPECT(p[i].first[0] == '\0', "a new thread starts with '%s'", p[i].first);
        EXPECT(p[i].status == NIB_ERR_ARGUMENT, "%s", nib_status_name(p[i].status));
        EXPECT(strstr(p[i].text, p[i].name), "thread %d reads '%s'", i, p[i].text);
    }
    EXPECT(strstr(nib_last_error(), "rules_fill"), "this thread reads '%s'", nib_last_error());
}

NIB_TEST(Version, IsTheHeaders)
{
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", NIB_VERSION_MAJOR, NIB_VERSION_MINOR,
             NIB_VERSION_PATCH);
    EXPECT(!strcmp(nib_version(), text), "%s against the headers' %s", nib_version(), text);
}
