/* cuda_consumer.c: an outside program that asks for a CUDA device, twice and by two threads at
 * once where it is told so, and prints what it got: "STATUS, MILLISECONDS ms: SENTENCE". With
 * "auto" the backend is left open, and "backend B: why not CUDA" is printed. */
#include <nibble/nibble.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static void *ask(void *text)
{
    nib_device *device = NULL;
    nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CUDA };
    const double start = now_ms();
    const nib_status status = nib_device_open(&options, &device);
    snprintf(text, 1024, "%s, %.0f ms: %s", nib_status_name(status), now_ms() - start,
             device ? nib_device_description(device) : nib_last_error());
    nib_device_close(device);
    return NULL;
}

static int ask_auto(void)
{
    nib_device *device = NULL;
    if (nib_device_open(NULL, &device) != NIB_OK) return puts(nib_last_error()), 1;
    printf("backend %d: %s\n", (int)nib_device_backend(device), nib_device_reason(device));
    nib_device_close(device);
    return 0;
}

int main(int argc, char **argv)
{
    char text[3][1024];
    pthread_t other;
    if (argc > 1 && !strcmp(argv[1], "auto")) return ask_auto();
    if (pthread_create(&other, NULL, ask, text[0])) return 1;
    ask(text[1]);
    pthread_join(other, NULL);
    ask(text[2]);
    puts(text[0]);
    /* Everyone is told the same; only the time may differ. */
    for (int i = 1; i < 3; i++)
        if (strcmp(strchr(text[0], ':'), strchr(text[i], ':'))) return puts(text[i]), 1;
    return 0;
}
