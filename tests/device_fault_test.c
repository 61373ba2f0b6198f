/* device_fault_test.c: what goes wrong on a CUDA device, with its sentence, and whether the context
 * is usable afterwards. Each in a process of its own, since some leave nothing usable. */
#include <stdlib.h>
#include <string.h>

#include "tests/device_case.h"
#include "tests/expect_status.h"

/* Goes on in the process where the fault is made, with name=value in its environment. */
#define ALONE(test, name, value)                                                             \
    do {                                                                                     \
        const char *kind_ = getenv("NIBBLE_TEST_DEVICE");                                    \
        if (!kind_ || strcmp(kind_, "cuda") != 0) SKIP("faults of a CUDA device");           \
        if (!test_is_alone()) {                                                              \
            run_test_alone("OnDeviceFault." test, name, value);                              \
            return;                                                                          \
        }                                                                                    \
    } while (0)

static const runner *cuda_runner(void)
{
    const runner *list;
    return runners_open(&list) == 2 ? &list[1] : NULL;
}

/* The context is usable: the right bytes come out. */
static void expect_usable(void)
{
    setting s = setting_of(NIB_NVFP4, NIB_BF16, NIB_RULES_TE);
    random_state = 3;
    s.rows = 5;
    s.cols = 100;
    case_check_random(&s, 0, 1);
}

static nib_status amax_of(const nib_exec *exec, const void *data, float *amax)
{
    const nib_matrix m = { (void *)(uintptr_t)data, NIB_F32, 4, 64, 64 };
    return nib_amax(exec, &m, amax, NULL);
}

static void expect_lost(const runner *r, const nib_exec *exec, float *amax, const void *data)
{
    char why[NIB_WHY_BYTES] = "";
    void *p = NULL;
    EXPECT_FAILS("the next call", amax_of(exec, data, amax), NIB_ERR_DEVICE, "700");
    EXPECT(strstr(nib_last_error(), "context is lost"), "%s", nib_last_error());
    EXPECT_FAILS("one more", amax_of(exec, data, amax), NIB_ERR_DEVICE, "context is lost");
    EXPECT(r->runtime->allocate(r->ordinal, 64, &p, why) == NIB_ERR_DEVICE
               && strstr(why, "context is lost"), "'%s'", why);
}

NIB_TEST(OnDeviceFault, StickyErrorOfTheCallersOwn)
{
    ALONE("StickyErrorOfTheCallersOwn", "NIB_TEST_ALONE", "1");
    const runner *r = cuda_runner();
    REQUIRE(r, "no device");
    if (!runner_is_emulated(r)) SKIP("only the emulator can be told to fail");
    const nib_exec exec = exec_of(r);
    static buffer x, amax; /* no longer to be freed, and not lost */
    x = buffer_new(r, NULL, 4096, 0), amax = buffer_new(r, NULL, 4, 0);
    EXPECT(amax_of(&exec, x.at, amax.at) == NIB_OK, "%s", nib_last_error());
    EXPECT(emulator_inject("sticky=700") == 0, "no emulator");
    expect_lost(r, &exec, amax.at, x.at);
}

/* A wild pointer is not seen without debug mode; the wait, and every later call, tells of it. */
NIB_TEST(OnDeviceFault, WildPointer)
{
    ALONE("WildPointer", "NIB_TEST_ALONE", "1");
    const runner *r = cuda_runner();
    REQUIRE(r, "no device");
    if (runner_is_emulated(r) && sanitizer_takes_faults()) SKIP("the sanitizer ends the process");
    char why[NIB_WHY_BYTES] = "";
    const nib_exec exec = exec_of(r);
    static buffer x, amax; /* no longer to be freed, and not lost */
    x = buffer_new(r, NULL, 4096, 0), amax = buffer_new(r, NULL, 4, 0);
    const void *wild = (const void *)(uintptr_t)0x100000;
    const nib_status status = amax_of(&exec, wild, amax.at);
    EXPECT(status == NIB_OK || status == NIB_ERR_DEVICE, "%s", nib_last_error());
    EXPECT(r->runtime->synchronize(r->ordinal, r->stream, why) == NIB_ERR_DEVICE
               && strstr(why, "context is lost"), "'%s'", why);
    expect_lost(r, &exec, amax.at, x.at);
}

static nib_device *open_debug(int32_t ordinal)
{
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CUDA,
                                         .ordinal = ordinal, .debug = 1 };
    nib_device *device = NULL;
    EXPECT(nib_device_open(&options, &device) == NIB_OK, "%s", nib_last_error());
    return device;
}

enum { SRC, VALUES, CODES, SCALES, TENSOR, AMAX, NONFINITE, RANDOM, ROW_AMAX, FROM, TO,
       POINTERS };
static const char *const names[POINTERS] = { "src", "dst", "codes", "scales", "tensor_scale",
                                             "amax", "nonfinite", "random", "amax", "src",
                                             "dst" };

/* Each operation with the pointers at; only >= 0: each that takes this one, which must be refused.
 * Returns a status that is not NIB_OK if there was one. */
static nib_status with_pointers(const nib_exec *exec, void *const at[POINTERS], int only)
{
    const char *name = only < 0 ? "" : names[only];
    nib_status worst = NIB_OK;
    const nib_matrix src = { at[SRC], NIB_F32, 4, 64, 64 };
    const nib_matrix dst = { at[VALUES], NIB_F32, 4, 64, 64 };
    const nib_packed p = { sizeof p, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 4, 64,
                           at[CODES], 32, at[SCALES], at[TENSOR] };
    const nib_quantize_options o = { .size = sizeof o, .rounding = NIB_ROUND_STOCHASTIC,
                                     .random = at[RANDOM], .tensor_amax = at[AMAX] };
    const nib_packed q = p; /* what dequantize reads */
    const unsigned in_quantize = 1u << SRC | 1u << CODES | 1u << SCALES | 1u << TENSOR | 1u << AMAX
                               | 1u << RANDOM;
    const unsigned in_dequantize = 1u << VALUES | 1u << CODES | 1u << SCALES | 1u << TENSOR;
    const unsigned in_amax = 1u << SRC | 1u << AMAX | 1u << NONFINITE;
    const unsigned bit = only < 0 ? ~0u : 1u << only;
#define TRY_CALL(set, call) \
    do { \
        if ((set) & bit) { \
            const nib_status got_ = (call); \
            if (got_ != NIB_OK) worst = got_; \
            EXPECT(only < 0 || (got_ == NIB_ERR_ARGUMENT && strstr(nib_last_error(), name) \
                                && strstr(nib_last_error(), "still usable")), \
                   "host memory for %s: %s, '%s'", name, nib_status_name(got_), \
                   nib_last_error()); \
        } \
    } while (0)
    TRY_CALL(in_quantize, nib_quantize(exec, &src, &o, &p));
    TRY_CALL(in_dequantize, nib_dequantize(exec, &q, &dst));
    TRY_CALL(in_amax, nib_amax(exec, &src, at[AMAX], at[NONFINITE]));
    TRY_CALL(1u << SRC | 1u << ROW_AMAX, nib_amax_rows(exec, &src, at[ROW_AMAX]));
    for (int i = 0; i < 4; i++) {
        TRY_CALL(1u << FROM | 1u << TO,
                 nib_relayout_scales(exec, 4, 4, (nib_scale_layout)(i / 2), at[FROM],
                                     (nib_scale_layout)(i % 2), at[TO]));
    }
    return worst;
}

static void host_pointers(int accepted)
{
    const runner *r = cuda_runner();
    REQUIRE(r, "no device");
    runner debug = *r;
    debug.device = open_debug(0);
    REQUIRE(debug.device, "no device");
    nib_device_info info = { .size = sizeof info };
    EXPECT(nib_device_get_info(debug.device, &info) == NIB_OK, "%s", nib_last_error());
    EXPECT(!runner_is_emulated(r) || info.pageable_memory == accepted, "the injection failed");
    const nib_exec exec = exec_of(&debug);
    buffer good[POINTERS];
    void *at[POINTERS];
    uint64_t *host = calloc(4096, 1);
    for (int i = 0; i < POINTERS; i++) {
        good[i] = buffer_new(r, host, 2048, 0);
        at[i] = good[i].at;
    }
    EXPECT(with_pointers(&exec, at, -1) == NIB_OK, "%s", nib_last_error());
    for (int i = 0; i < POINTERS; i++) {
        const uint64_t kernels = emulator_kernels();
        at[i] = host;
        if (!info.pageable_memory) (void)with_pointers(&exec, at, i);
        else EXPECT(with_pointers(&exec, at, -1) == NIB_OK, "%s: %s", names[i], nib_last_error());
        EXPECT(info.pageable_memory || emulator_kernels() == kernels, "%s: something was launched",
               names[i]);
        at[i] = good[i].at;
    }
    for (int i = 0; i < POINTERS; i++) buffer_free(&good[i]);
    nib_device_close(debug.device);
    free(host);
    expect_usable();
}

NIB_TEST(OnDeviceFault, HostPointerInDebugMode)
{
    ALONE("HostPointerInDebugMode", "NIB_EMU_INJECT", "pinned");
    host_pointers(0);
}

NIB_TEST(OnDeviceFault, HostPointerOfAUnifiedHostInDebugMode)
{
    ALONE("HostPointerOfAUnifiedHostInDebugMode", "NIB_EMU_INJECT", "pageable");
    const runner *r = cuda_runner();
    REQUIRE(r, "no device");
    if (!runner_is_emulated(r)) SKIP("the device is what it is");
    host_pointers(1);
}

NIB_TEST(OnDeviceFault, NothingGoesWrongInDebugMode) /* every operation, and a wait after each */
{
    ALONE("NothingGoesWrongInDebugMode", "NIBBLE_DEBUG", "1");
    random_state = 8;
    for (int i = 0; i < 20; i++) {
        setting s = setting_of(case_formats[i % NAMED_FORMATS], (nib_dtype)(i % 3), i % 5);
        s.rows = i % 4; /* none too */
        s.cols = 1 + i * 13;
        s.ld_extra = i % 3;
        s.layout = (nib_scale_layout)(i % 2);
        s.rounding = (nib_rounding)(i / 2 % 2);
        case_check_random(&s, 0, 1);
    }
}

NIB_TEST(OnDeviceFault, StreamOfAnotherDevice)
{
    ALONE("StreamOfAnotherDevice", "NIB_EMU_INJECT", "devices=2");
    const runner *r = cuda_runner();
    REQUIRE(r, "no device");
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CUDA,
                                         .ordinal = 1 };
    nib_device *other = NULL;
    if (nib_device_open(&options, &other) == NIB_ERR_UNSUPPORTED) SKIP("there is one device");
    REQUIRE(other, "%s", nib_last_error());
    char why[NIB_WHY_BYTES] = "";
    void *stream = NULL;
    EXPECT(r->runtime->stream_create(1, &stream, why) == NIB_OK, "%s", why);
    buffer x = buffer_new(r, NULL, 4096, 0), amax = buffer_new(r, NULL, 4, 0);
    nib_exec exec = exec_of(r);
    exec.stream = stream;
    EXPECT_FAILS("stream 1, device 0", amax_of(&exec, x.at, amax.at), NIB_ERR_ARGUMENT, "stream");
    EXPECT(strstr(nib_last_error(), "device 1"), "%s", nib_last_error());
    exec = exec_of(r);
    exec.device = other;
    EXPECT_FAILS("stream 0, device 1", amax_of(&exec, x.at, amax.at), NIB_ERR_ARGUMENT, "stream");
    buffer_free(&x), buffer_free(&amax);
    expect_usable();
    runner second = *r;
    second.device = other, second.ordinal = 1, second.stream = stream;
    x = buffer_new(&second, NULL, 4096, 0), amax = buffer_new(&second, NULL, 4, 0);
    exec.stream = stream;
    EXPECT(amax_of(&exec, x.at, amax.at) == NIB_OK, "%s", nib_last_error());
    buffer_free(&x), buffer_free(&amax);
    EXPECT(r->runtime->stream_destroy(1, stream, why) == NIB_OK, "%s", why);
    nib_device_close(other);
}

NIB_TEST(OnDeviceFault, OutOfMemory)
{
    ALONE("OutOfMemory", "NIB_TEST_ALONE", "1");
    const runner *r = cuda_runner();
    REQUIRE(r, "no device");
    char why[NIB_WHY_BYTES] = "";
    void *p = NULL;
    EXPECT(r->runtime->allocate(r->ordinal, (size_t)1 << 56, &p, why) == NIB_ERR_OUT_OF_MEMORY
               && strstr(why, "still usable"), "'%s'", why);
    if (runner_is_emulated(r)) {
        const nib_exec exec = exec_of(r);
        buffer x = buffer_new(r, NULL, 4096, 0), amax = buffer_new(r, NULL, 4, 0);
        EXPECT(nib_prepare(r->device, NIB_PREPARE_ALL) == NIB_OK, "%s", nib_last_error());
        EXPECT(emulator_inject("fail=cudaLaunchKernel:2:0") == 0, "no injection");
        EXPECT_FAILS("a launch", amax_of(&exec, x.at, amax.at), NIB_ERR_OUT_OF_MEMORY,
                     "still usable");
        EXPECT(emulator_inject("fail=cudaLaunchKernel:701:0") == 0, "no injection");
        EXPECT_FAILS("a launch", amax_of(&exec, x.at, amax.at), NIB_ERR_DEVICE, "still usable");
        buffer_free(&x), buffer_free(&amax);
    }
    expect_usable();
}

NIB_TEST(OnDeviceFault, OutOfMemoryWhilePreparing)
{
    ALONE("OutOfMemoryWhilePreparing", "NIB_TEST_ALONE", "1");
    const runner *r = cuda_runner();
    REQUIRE(r, "no device");
    if (!runner_is_emulated(r)) SKIP("only the emulator can be told to fail");
    EXPECT(emulator_inject("fail=cudaFuncGetAttributes:2:0") == 0, "no injection");
    EXPECT_FAILS("prepare", nib_prepare(r->device, NIB_PREPARE_ALL), NIB_ERR_OUT_OF_MEMORY,
                 "still usable");
    EXPECT(nib_prepare(r->device, NIB_PREPARE_ALL) == NIB_OK, "%s", nib_last_error());
    expect_usable();
}

/* Preconditions are the host's: the same ones, before anything is launched. */
NIB_TEST(OnDeviceFault, PreconditionsAreRefusedBeforeAnyLaunch)
{
    ALONE("PreconditionsAreRefusedBeforeAnyLaunch", "NIB_TEST_ALONE", "1");
    const runner *r = cuda_runner();
    REQUIRE(r, "no device");
    const nib_exec exec = exec_of(r);
    buffer b = buffer_new(r, NULL, 4096, 0);
    const nib_matrix good = { b.at, NIB_F32, 4, 64, 64 };
    nib_matrix bad = good;
    uint8_t *codes = (uint8_t *)b.at + 1024, *scales = (uint8_t *)b.at + 2048;
    nib_packed p = { sizeof p, NIB_MXFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 4, 64, codes, 32,
                     scales, NULL };
    const uint64_t kernels = emulator_kernels();
    bad.data = (uint8_t *)b.at + 2;
    EXPECT_FAILS("data", nib_quantize(&exec, &bad, NULL, &p), NIB_ERR_ALIGNMENT, "4 bytes");
    EXPECT_FAILS("amax", nib_amax(&exec, &good, (float *)(void *)((uint8_t *)b.at + 2), NULL),
                 NIB_ERR_ALIGNMENT, "amax");
    bad = good, bad.ld_elems = 63;
    EXPECT_FAILS("ld", nib_dequantize(&exec, &p, &bad), NIB_ERR_SHAPE, "63");
    p.scales = NULL;
    EXPECT_FAILS("scales", nib_dequantize(&exec, &p, &good), NIB_ERR_ARGUMENT, "NULL");
    p.scales = scales;
    runner_wait(r);
    EXPECT(emulator_kernels() == kernels, "something was launched");
    static const nib_format unnamed[] = { 0x00801100, 0x00080000, 0x00100100, 0x00200101 };
    for (int i = 0; i < 4; i++) {
        p.format = unnamed[i];
        p.tensor_scale = nib_format_has_tensor_scale(p.format)
                       ? (float *)(void *)((uint8_t *)b.at + 3072) : NULL;
        p.ld_codes_bytes = 64;
        const nib_status status = nib_quantize(&exec, &good, NULL, &p);
        EXPECT(status == NIB_OK || status == NIB_ERR_UNSUPPORTED, "%s", nib_last_error());
        EXPECT(status == NIB_OK || strstr(nib_last_error(), "GPU"), "%s", nib_last_error());
    }
    buffer_free(&b);
    expect_usable();
}
