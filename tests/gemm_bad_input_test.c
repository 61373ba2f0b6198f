/* gemm_bad_input_test.c: every precondition of gemm.h, one broken at a time: the status, and a
 * piece of the sentence, which has the numbers. */
#include <stdio.h>

#include "tests/expect_status.h"
#include "tests/gemm_fixture.h"

enum { M = 4, N = 128, K = 96, SPACE = 1 << 20 };

#define ARGUMENT    NIB_ERR_ARGUMENT
#define SHAPE       NIB_ERR_SHAPE
#define UNSUPPORTED NIB_ERR_UNSUPPORTED
#define ALIGNMENT   NIB_ERR_ALIGNMENT
#define MEMORY      NIB_ERR_OUT_OF_MEMORY

/* Valid calls of everything, of which a test spoils one thing. Nothing runs, but for good(). */
typedef struct request {
    nib_exec         exec;
    nib_gemm_options options;
    nib_gemm_plan    plan;
    nib_gemm_weights w, part;
    nib_packed       src;
    nib_matrix       a, d, residual, dst, dy, dx;
    nib_gemm_args    args, back;
    nib_gemm_tactic  tactic;
    buffer           memory[11];
} request;

static void *memory_of(request *r, const runner *on, int i, size_t bytes)
{
    r->memory[i] = buffer_new(on, NULL, bytes, 0);
    return r->memory[i].at;
}

static void request_open(request *r, const runner *on)
{
    *r = (request){ .exec = exec_of(on), .plan = { .size = sizeof r->plan } };
    r->options = gemm_options(NIB_NVFP4, N, K, 16, NIB_F16, NIB_F16);
    OK(nib_gemm_plan_make(on->device, &r->options, &r->plan));
    OK(nib_gemm_describe(on->device, NIB_GEMM_LAYOUT_AUTO, NIB_NVFP4, N, K, 0, &r->w));
    r->w.codes = memory_of(r, on, 0, (size_t)nib_gemm_codes_bytes(&r->w));
    r->w.scales = memory_of(r, on, 1, (size_t)nib_gemm_scales_bytes(&r->w));
    r->w.tensor_scale = memory_of(r, on, 2, 16);
    r->src = (nib_packed){ sizeof r->src, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, N, K,
                           memory_of(r, on, 3, N * K / 2), K / 2, memory_of(r, on, 4, N * K / 16),
                           r->w.tensor_scale };
    r->a = (nib_matrix){ memory_of(r, on, 5, M * K * 2 + 64), NIB_F16, M, K, K };
    r->d = (nib_matrix){ memory_of(r, on, 6, M * N * 2 + 64), NIB_F16, M, N, N };
    r->residual = (nib_matrix){ memory_of(r, on, 7, M * N * 2 + 64), NIB_F16, M, N, N };
    r->dst = (nib_matrix){ memory_of(r, on, 8, N * K * 4), NIB_F32, N, K, K };
    r->args = (nib_gemm_args){ .size = sizeof r->args, .a = &r->a, .w = &r->w, .d = &r->d,
                               .residual = &r->residual };
    r->dy = (nib_matrix){ r->d.data, NIB_F16, M, N, N };
    r->dx = (nib_matrix){ r->a.data, NIB_F16, M, K, K };
    r->back = (nib_gemm_args){ .size = sizeof r->back, .a = &r->dy, .w = &r->w, .d = &r->dx };
    r->exec.workspace = memory_of(r, on, 9, SPACE);
    r->exec.workspace_bytes = SPACE;
    r->args.bias = memory_of(r, on, 10, N * 4 + 16);
}

static void request_close(request *r)
{
    for (int i = 0; i < 11; i++) buffer_free(&r->memory[i]);
}

static const runner *device; /* of the running test */

static int is_there(void)
{
    const runner *list[GEMM_RUNNERS];
    if (gemm_runners(list) == 0) return 0;
    device = list[0];
    return 1;
}

#define BAD(status, piece, call, what)                                          \
    do {                                                                        \
        request r;                                                              \
        request_open(&r, device);                                               \
        what;                                                                   \
        EXPECT_FAILS(#what, call, status, piece);                               \
        request_close(&r);                                                      \
    } while (0)

#define DESCRIBE(status, piece, layout, format, rows, cols, is_gated)                     \
    BAD(status, piece, nib_gemm_describe(device->device, layout, format, rows, cols, is_gated, \
                                         &r.part), (void)0)

NIB_TEST(OnDeviceGemmBadInput, OfDescribe)
{
    const nib_gemm_layout cpu = NIB_GEMM_LAYOUT_CPU;
    REQUIRE(is_there(), "this backend has no products");
    BAD(ARGUMENT, "w is NULL", nib_gemm_describe(NULL, cpu, NIB_NVFP4, 8, 8, 0, NULL), (void)0);
    BAD(ARGUMENT, "device is NULL",
        nib_gemm_describe(NULL, NIB_GEMM_LAYOUT_AUTO, NIB_NVFP4, 8, 8, 0, &r.part), (void)0);
    DESCRIBE(ARGUMENT, "layout 4", (nib_gemm_layout)4, NIB_NVFP4, 8, 8, 0);
    DESCRIBE(ARGUMENT, "layout -1", (nib_gemm_layout)-1, NIB_NVFP4, 8, 8, 0);
    DESCRIBE(ARGUMENT, "0x1 is no format", cpu, 1, 8, 8, 0);
    DESCRIBE(UNSUPPORTED, "mxfp8", cpu, NIB_MXFP8_E4M3, 8, 8, 0);
    DESCRIBE(ARGUMENT, "gated is 2", cpu, NIB_NVFP4, 16, 8, 2);
    DESCRIBE(SHAPE, "N is -8", cpu, NIB_NVFP4, -8, 8, 0);
    DESCRIBE(SHAPE, "N is 12", cpu, NIB_NVFP4, 12, 8, 0);
    DESCRIBE(SHAPE, "N is 8; it must be with gated a multiple of 16", cpu, NIB_NVFP4, 8, 8, 1);
    DESCRIBE(SHAPE, "K is 12", cpu, NIB_NVFP4, 8, 12, 0);
    DESCRIBE(SHAPE, "K is -8", cpu, NIB_NVFP4, 8, -8, 0);
    DESCRIBE(SHAPE, "over INT64_MAX", cpu, NIB_NVFP4, INT64_MAX / 16 * 8, 64, 0);
    DESCRIBE(SHAPE, "over INT64_MAX", NIB_GEMM_LAYOUT_SM80, NIB_MXFP4, 8, INT64_MAX / 8 * 8, 0);
    nib_gemm_weights w;
    OK(nib_gemm_describe(NULL, NIB_GEMM_LAYOUT_SM80, NIB_MXFP4, 72, 136, 0, &w));
    EXPECT(!w.codes && !w.scales && !w.tensor_scale && w.ld_tiles == 3
           && nib_gemm_codes_bytes(&w) == 2 * 3 * 2048 && nib_gemm_scales_bytes(&w) == 6 * 128,
           "%lld", (long long)nib_gemm_codes_bytes(&w));
    w.k = 200; /* 4 tiles */
    EXPECT(nib_gemm_codes_bytes(&w) == -1 && nib_gemm_scales_bytes(&w) == -1
           && nib_gemm_codes_bytes(NULL) == -1 && nib_gemm_pack_workspace_bytes(&w) == 0, "K");
}

NIB_TEST(OnDeviceGemmBadInput, OfPackAndUnpack)
{
    REQUIRE(is_there(), "this backend has no products");
#define PACK(status, piece, what) BAD(status, piece, nib_gemm_pack(&r.exec, &r.src, &r.w), what)
#define BOTH(status, piece, what)                                                         \
    do {                                                                                  \
        PACK(status, piece, what);                                                        \
        BAD(status, piece, nib_gemm_unpack(&r.exec, &r.w, &r.dst), what);                 \
    } while (0)
    BOTH(ARGUMENT, "exec->device is NULL", r.exec.device = NULL);
    BOTH(ARGUMENT, "w->size is 8", r.w.size = 8);
    BOTH(ARGUMENT, "w->layout 0 is unknown", r.w.layout = NIB_GEMM_LAYOUT_AUTO);
    BOTH(ARGUMENT, "w->layout 9 is unknown", r.w.layout = (nib_gemm_layout)9);
    BOTH(UNSUPPORTED, "layout version is 7, this library's 2", r.w.layout_version = 7);
    BOTH(ARGUMENT, "w->gated is -1", r.w.gated = -1);
    BOTH(SHAPE, "w->ld_tiles 1 <", r.w.ld_tiles = 1);
    BOTH(ARGUMENT, "w->codes is NULL", r.w.codes = NULL);
    BOTH(ARGUMENT, "w->scales is NULL", r.w.scales = NULL);
    BOTH(ALIGNMENT, "w->codes", r.w.codes += 8);
    BOTH(ALIGNMENT, "w->scales", r.w.scales += 4);
    BOTH(ARGUMENT, "w->tensor_scale is NULL", r.w.tensor_scale = NULL);
    BOTH(ALIGNMENT, "w->tensor_scale",
         r.w.tensor_scale = (float *)(void *)((uint8_t *)r.w.tensor_scale + 2));
    BAD(ARGUMENT, "exec is NULL", nib_gemm_pack(NULL, &r.src, &r.w), (void)0);
    BAD(ARGUMENT, "src is NULL", nib_gemm_pack(&r.exec, NULL, &r.w), (void)0);
    BAD(ARGUMENT, "w is NULL", nib_gemm_pack(&r.exec, &r.src, NULL), (void)0);
    BAD(ARGUMENT, "w is NULL", nib_gemm_unpack(&r.exec, NULL, &r.dst), (void)0);
    BAD(ARGUMENT, "dst is NULL", nib_gemm_unpack(&r.exec, &r.w, NULL), (void)0);
    PACK(UNSUPPORTED, "format is 0x200000", r.src.format = NIB_MXFP4; r.src.tensor_scale = NULL);
    PACK(SHAPE, "src is 128 x 64, w 128 x 96", r.src.cols = 64);
    PACK(SHAPE, "src is 64 x 96", r.src.rows = 64);
    PACK(ARGUMENT, "src->size is 3", r.src.size = 3);
    PACK(SHAPE, "ld_codes_bytes 47", r.src.ld_codes_bytes = 47);
    BAD(SHAPE, "dst is 127 x 96, w 128 x 96", nib_gemm_unpack(&r.exec, &r.w, &r.dst), r.dst.rows--);
    BAD(ARGUMENT, "dst->dtype 5", nib_gemm_unpack(&r.exec, &r.w, &r.dst),
        r.dst.dtype = (nib_dtype)5);
    /* in place */
    PACK(ARGUMENT, "codes are packed in place, but not scales", r.src.codes = r.w.codes);
    PACK(ARGUMENT, "scales are packed in place, but not codes", r.src.scales = r.w.scales);
#define IN_PLACE r.src.codes = r.w.codes; r.src.scales = r.w.scales
    PACK(UNSUPPORTED, "gaps", IN_PLACE; r.src.ld_codes_bytes++);
    PACK(UNSUPPORTED, "swizzled", IN_PLACE; r.src.scale_layout = NIB_SCALES_SWIZZLED_128X4);
    PACK(UNSUPPORTED, "gated", IN_PLACE; r.w.gated = 1);
    PACK(UNSUPPORTED, "slice", IN_PLACE; r.w.ld_tiles = 7);
    PACK(MEMORY, "workspace of 100 bytes", IN_PLACE; r.exec.workspace_bytes = 100);
    PACK(MEMORY, "workspace of 0 bytes", IN_PLACE; r.exec.workspace = NULL);
    if (runner_is_cuda(device))
        BOTH(UNSUPPORTED, "CPU", r.w.layout = NIB_GEMM_LAYOUT_CPU; r.w.ld_tiles = 3);
}

NIB_TEST(OnDeviceGemmBadInput, OfSlice)
{
    REQUIRE(is_there(), "this backend has no products");
#define SLICE(status, piece, n0, rows, k0, cols) \
    BAD(status, piece, nib_gemm_slice(&w, n0, rows, k0, cols, &r.part), (void)0)
    nib_gemm_weights w;
    OK(nib_gemm_describe(NULL, NIB_GEMM_LAYOUT_SM80, NIB_MXFP4, 200, 264, 0, &w));
    BAD(ARGUMENT, "part is NULL", nib_gemm_slice(&w, 0, 64, 0, 64, NULL), (void)0);
    BAD(ARGUMENT, "w is NULL", nib_gemm_slice(NULL, 0, 64, 0, 64, &r.part), (void)0);
    SLICE(SHAPE, "rows 64 + 200", 64, 200, 0, 264);
    SLICE(SHAPE, "columns 64 + 264", 0, 64, 64, 264);
    SLICE(SHAPE, "-64", -64, 64, 0, 64);
    SLICE(SHAPE, "-8", 0, -8, 0, 64);
    SLICE(SHAPE, "rows 9223372036854775807", INT64_MAX, 64, 0, 64);
    SLICE(SHAPE, "tiles of 64 x 64", 32, 64, 0, 64);
    SLICE(SHAPE, "tiles of 64 x 64", 0, 72, 0, 64);
    SLICE(SHAPE, "tiles of 64 x 64", 0, 64, 16, 64);
    SLICE(SHAPE, "tiles of 64 x 64", 0, 64, 0, 72);
    w.n = 201;
    SLICE(SHAPE, "N is 201", 0, 64, 0, 64);
    w.n = 200, w.ld_tiles = 0;
    SLICE(SHAPE, "w->ld_tiles 0", 0, 64, 0, 64);
    w.layout_version++;
    SLICE(UNSUPPORTED, "layout version", 0, 64, 0, 64);
    w.size = 0;
    SLICE(ARGUMENT, "w->size is 0", 0, 64, 0, 64);
    OK(nib_gemm_describe(NULL, NIB_GEMM_LAYOUT_CPU, NIB_MXFP4, 48, 64, 1, &w));
    SLICE(SHAPE, "tiles of 16 x 32", 8, 16, 0, 64);
    SLICE(SHAPE, "tiles of 16 x 32", 0, 8, 0, 64);
    nib_gemm_weights part;
    OK(nib_gemm_slice(&w, 16, 32, 32, 32, &part));
    EXPECT(!part.codes && part.n == 32 && part.k == 32, "a slice without memory");
}

#define OPTION(status, piece, what)                                                            \
    do {                                                                                       \
        BAD(status, piece, nib_gemm_plan_make(device->device, &r.options, &r.plan), what);     \
        BAD(status, piece, nib_gemm_tactic_at(device->device, &r.options, 0, &r.tactic), what); \
    } while (0)

NIB_TEST(OnDeviceGemmBadInput, OfOptions)
{
    REQUIRE(is_there(), "this backend has no products");
    const nib_device *on = device->device;
    BAD(ARGUMENT, "plan is NULL", nib_gemm_plan_make(on, &r.options, NULL), (void)0);
    BAD(ARGUMENT, "plan->size is 8", nib_gemm_plan_make(on, &r.options, &r.plan), r.plan.size = 8);
    BAD(ARGUMENT, "device is NULL", nib_gemm_plan_make(NULL, &r.options, &r.plan), (void)0);
    BAD(ARGUMENT, "options is NULL", nib_gemm_plan_make(on, NULL, &r.plan), (void)0);
    BAD(ARGUMENT, "tactic is NULL", nib_gemm_tactic_at(on, &r.options, 0, NULL), (void)0);
    BAD(ARGUMENT, "options is NULL", nib_gemm_tactic_at(on, NULL, 0, &r.tactic), (void)0);
    OPTION(ARGUMENT, "options->size is 12", r.options.size = 12);
    OPTION(ARGUMENT, "layout 4", r.options.layout = (nib_gemm_layout)4);
    OPTION(ARGUMENT, "a_dtype 3", r.options.a_dtype = (nib_dtype)3);
    OPTION(ARGUMENT, "d_dtype -1", r.options.d_dtype = (nib_dtype)-1);
    OPTION(ARGUMENT, "accumulate 2", r.options.accumulate = (nib_gemm_accumulate)2);
    OPTION(ARGUMENT, "activations 2", r.options.activations = (nib_gemm_activations)2);
    OPTION(ARGUMENT, "act 5", r.options.act = (nib_gemm_act)5);
    OPTION(ARGUMENT, "gated is 2", r.options.gated = 2);
    OPTION(ARGUMENT, "batch_invariant -1", r.options.batch_invariant = -1);
    OPTION(ARGUMENT, "f16_chunk is 32", r.options.f16_chunk = 32);
    OPTION(ARGUMENT, "f16_chunk is -64", r.options.f16_chunk = -64);
    OPTION(ARGUMENT, "0x1 is no format", r.options.format = 1);
    OPTION(UNSUPPORTED, "products take nvfp4", r.options.format = NIB_MXFP8_E4M3);
    OPTION(SHAPE, "N is 4", r.options.n = 4);
    OPTION(SHAPE, "multiple of 16", r.options.gated = 1; r.options.n = 24);
    OPTION(SHAPE, "K is 20", r.options.k = 20);
    OPTION(SHAPE, "m_max is 0", r.options.m_max = 0);
    OPTION(SHAPE, "m_max is 2147483648", r.options.m_max = (int64_t)INT32_MAX + 1);
    OPTION(SHAPE, "over INT64_MAX", r.options.k = INT64_MAX / 8 * 8);
    OPTION(UNSUPPORTED, "f16_chunk is 128; with E8M0",
           r.options.f16_chunk = 128; r.options.format = NIB_MXFP4);
    BAD(ARGUMENT, "tactic is 'none'; there are ",
        nib_gemm_plan_make(on, &r.options, &r.plan), r.options.tactic = "none");
    BAD(ARGUMENT, "tactic is ''; there are ", nib_gemm_plan_make(on, &r.options, &r.plan),
        r.options.tactic = "");
}

NIB_TEST(OnDeviceGemmBadInput, PlansOfALaterVersion)
{
    REQUIRE(is_there(), "this backend has no products");
    struct {
        nib_gemm_plan plan;
        uint64_t      later[4];
    } mine = { .plan = { .size = sizeof mine }, .later = { 1, 2, 3, 4 } };
    const nib_gemm_options o = gemm_options(NIB_NVFP4, N, K, 16, NIB_F16, NIB_F16);
    OK(nib_gemm_plan_make(device->device, &o, &mine.plan));
    EXPECT(mine.plan.size == sizeof mine.plan && mine.plan.count > 0, "size %u", mine.plan.size);
    for (uint64_t i = 0; i < 4; i++) EXPECT(mine.later[i] == i + 1, "member %d", (int)i);
    mine.plan = (nib_gemm_plan){ .size = sizeof mine.plan - 1, .count = 77 };
    EXPECT(nib_gemm_plan_make(device->device, &o, &mine.plan) == NIB_ERR_ARGUMENT
           && mine.plan.count == 77, "a plan of %u bytes was written", mine.plan.size);
}

/* What this device's kernels do not have. */
NIB_TEST(OnDeviceGemmBadInput, OfWhatADeviceLacks)
{
    REQUIRE(is_there(), "this backend has no products");
#define LACKS(piece, what) OPTION(UNSUPPORTED, piece, what)
    if (runner_is_cuda(device)) {
        nib_device_info info = { .size = sizeof info };
        OK(nib_device_get_info(device->device, &info));
        const nib_gemm_layout other = info.compute_capability >= 100 ? NIB_GEMM_LAYOUT_SM80
                                                                     : NIB_GEMM_LAYOUT_SM100;
        LACKS("layout", r.options.layout = other);
        LACKS("layout", r.options.layout = NIB_GEMM_LAYOUT_CPU);
        LACKS("f32", r.options.a_dtype = NIB_F32);
        LACKS("INT8", r.options.activations = NIB_GEMM_ACTIVATIONS_INT8);
        LACKS("bf16", r.options.a_dtype = NIB_BF16;
              r.options.accumulate = NIB_GEMM_ACCUMULATE_F16);
    } else {
        LACKS("layout", r.options.layout = NIB_GEMM_LAYOUT_SM80);
        LACKS("layout", r.options.layout = NIB_GEMM_LAYOUT_SM100);
        LACKS("F16", r.options.accumulate = NIB_GEMM_ACCUMULATE_F16);
    }
}

NIB_TEST(OnDeviceGemmBadInput, OfQueries)
{
    REQUIRE(is_there(), "this backend has no products");
#define CHOICE(status, piece, m, what) \
    BAD(status, piece, nib_gemm_choice(&r.plan, m, &r.tactic), what)
    CHOICE(SHAPE, "M is 17, the plan is for 0 to 16", 17, (void)0);
    CHOICE(SHAPE, "M is -1", -1, (void)0);
    CHOICE(ARGUMENT, "was not made", 1, r.plan.size = 0);
    CHOICE(ARGUMENT, "was not made", 1, r.plan.device = NULL);
    CHOICE(ARGUMENT, "was not made", 1, r.plan.count = 0);
    BAD(ARGUMENT, "plan is NULL", nib_gemm_choice(NULL, 1, &r.tactic), (void)0);
    BAD(ARGUMENT, "tactic is NULL", nib_gemm_choice(&r.plan, 1, NULL), (void)0);
    request r;
    request_open(&r, device);
    EXPECT(nib_gemm_workspace_bytes(&r.plan, 17) == SIZE_MAX
           && nib_gemm_workspace_bytes(&r.plan, -1) == SIZE_MAX
           && nib_gemm_workspace_bytes(NULL, 1) == SIZE_MAX, "a bad plan or m");
    request_close(&r);
}

#define RUN(status, piece, what) BAD(status, piece, nib_gemm(&r.exec, &r.plan, &r.args), what)
#define BACK(status, piece, what) \
    BAD(status, piece, nib_gemm_backward(&r.exec, &r.plan, &r.back), what)

NIB_TEST(OnDeviceGemmBadInput, OfProducts)
{
    REQUIRE(is_there(), "this backend has no products");
    static nib_device *cpu;
    const nib_device_options another = { .size = sizeof another, .backend = NIB_BACKEND_CPU };
    OK(nib_device_open(&another, &cpu));
    RUN(ARGUMENT, "exec->device is NULL", r.exec.device = NULL);
    RUN(UNSUPPORTED, "another device", r.exec.device = cpu; r.exec.stream = NULL);
    nib_device_close(cpu);
    RUN(ARGUMENT, "plan was not made", r.plan.size = 1);
    RUN(ARGUMENT, "args->size", r.args.size = 8);
    RUN(ARGUMENT, "args->a is NULL", r.args.a = NULL);
    RUN(ARGUMENT, "args->d is NULL", r.args.d = NULL);
    RUN(ARGUMENT, "w is NULL", r.args.w = NULL);
    BAD(ARGUMENT, "plan is NULL", nib_gemm(&r.exec, NULL, &r.args), (void)0);
    BAD(ARGUMENT, "args is NULL", nib_gemm(&r.exec, &r.plan, NULL), (void)0);
    /* weights */
    RUN(UNSUPPORTED, "layout version is 1", r.w.layout_version = 1);
    RUN(UNSUPPORTED, "weights of layout", r.w.layout = r.w.layout == NIB_GEMM_LAYOUT_SM80
                                              ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80);
    RUN(UNSUPPORTED, "format 0x201100", r.w.format = NIB_NVFP4_B32);
    RUN(UNSUPPORTED, "gated 1; the plan", r.w.gated = 1);
    RUN(SHAPE, "weights are 64 x 96, the plan's 128 x 96", r.w.n = 64);
    RUN(SHAPE, "weights are 128 x 64", r.w.k = 64);
    RUN(ARGUMENT, "w->codes is NULL", r.w.codes = NULL);
    RUN(ALIGNMENT, "w->scales", r.w.scales += 4);
    request loaded; /* SM100: 32 bytes at once */
    request_open(&loaded, device);
    const int wide = loaded.w.layout == NIB_GEMM_LAYOUT_SM100;
    request_close(&loaded);
    RUN(ALIGNMENT, "w->codes", r.w.codes += wide ? 16 : 8);
    /* matrices */
    RUN(SHAPE, "a has 17 rows, the plan is for 0 to 16", r.a.rows = r.d.rows = 17);
    RUN(SHAPE, "a is 4 x 88, not 4 x 96", r.a.cols = 88);
    RUN(SHAPE, "d is 3 x 128, not 4 x 128", r.d.rows = 3);
    RUN(SHAPE, "residual is 4 x 120", r.residual.cols = 120);
    RUN(SHAPE, "a->ld_elems 95", r.a.ld_elems = 95);
    RUN(ARGUMENT, "a->data is NULL", r.a.data = NULL);
    RUN(UNSUPPORTED, "a->dtype is 2, the plan's 1", r.a.dtype = NIB_BF16);
    RUN(UNSUPPORTED, "d->dtype is 2, the plan's 1", r.d.dtype = NIB_BF16);
    RUN(UNSUPPORTED, "residual->dtype is 2", r.residual.dtype = NIB_BF16);
    RUN(ARGUMENT, "residual lies in d's place, with ld_elems 136, not 128",
        r.residual.data = r.d.data; r.residual.ld_elems = 136);
    RUN(ALIGNMENT, "alpha", r.args.alpha = (const float *)(const void *)((uint8_t *)r.a.data + 2));
    RUN(ALIGNMENT, "bias", r.args.bias = (const uint8_t *)r.args.bias + 1);
    if (!runner_is_cuda(device)) {
        RUN(ALIGNMENT, "a->data", r.a.data = (uint8_t *)r.a.data + 1);
        return;
    }
    RUN(ALIGNMENT, "a", r.a.data = (uint8_t *)r.a.data + 2);
    RUN(ALIGNMENT, "d", r.d.data = (uint8_t *)r.d.data + 8);
    RUN(ALIGNMENT, "residual", r.residual.data = (uint8_t *)r.residual.data + 4);
    RUN(ALIGNMENT, "a->ld_elems is 100: rows are 200 bytes apart", r.a.ld_elems = 100);
    RUN(ALIGNMENT, "d->ld_elems is 132: rows are 264 bytes apart", r.d.ld_elems = 132);
}

/* A workspace that is needed: K is cut. */
NIB_TEST(OnDeviceGemmBadInput, OfWorkspace)
{
    REQUIRE(is_there(), "this backend has no products");
    const nib_gemm_options o = gemm_options(NIB_NVFP4, 64, 8192, M, NIB_F16, NIB_F16);
    nib_gemm_plan plan = { .size = sizeof plan };
    gemm_source s = gemm_source_make(NIB_NVFP4, 64, 8192, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                     GEMM_TAME);
    OK(nib_gemm_plan_make(device->device, &o, &plan));
    const size_t bytes = nib_gemm_workspace_bytes(&plan, M);
    gemm_pack p = gemm_pack_of(device, &s, 0);
    buffer a = buffer_new(device, NULL, M * 8192 * 2, 0);
    buffer d = buffer_new(device, NULL, M * 64 * 2, 0);
    buffer workspace = buffer_new(device, NULL, bytes + 64, 0);
    const nib_matrix am = { a.at, NIB_F16, M, 8192, 8192 }, dm = { d.at, NIB_F16, M, 64, 64 };
    const nib_gemm_args args = { .size = sizeof args, .a = &am, .w = &p.w, .d = &dm };
    nib_exec exec = exec_of(device);
    EXPECT(bytes > 0 || !runner_is_cuda(device), "K is not cut");
    if (bytes) {
        char number[32];
        snprintf(number, sizeof number, "%zu are needed", bytes);
        EXPECT_FAILS("none", nib_gemm(&exec, &plan, &args), MEMORY, number);
        exec.workspace = workspace.at, exec.workspace_bytes = bytes - 1;
        EXPECT_FAILS("too little", nib_gemm(&exec, &plan, &args), MEMORY, number);
        exec.workspace = (uint8_t *)workspace.at + 64, exec.workspace_bytes = bytes;
        EXPECT_FAILS("off 256", nib_gemm(&exec, &plan, &args), ALIGNMENT, "workspace");
    }
    buffer_free(&a), buffer_free(&d), buffer_free(&workspace);
    gemm_pack_free(&p), gemm_source_free(&s);
}

NIB_TEST(OnDeviceGemmBadInput, OfGradients)
{
    REQUIRE(is_there(), "this backend has no products");
    BACK(ARGUMENT, "exec->device is NULL", r.exec.device = NULL);
    BACK(ARGUMENT, "args->size", r.back.size = 8);
    BACK(SHAPE, "a is 4 x 120, not 4 x 128", r.dy.cols = 120);
    BACK(SHAPE, "d is 4 x 88, not 4 x 96", r.dx.cols = 88);
    BACK(SHAPE, "a has 17 rows", r.dy.rows = r.dx.rows = 17);
    BACK(UNSUPPORTED, "a->dtype is 0", r.dy.dtype = NIB_F32);
    BACK(ARGUMENT, "args->bias is given", r.back.bias = r.args.bias);
    BACK(ARGUMENT, "args->residual is given", r.back.residual = &r.residual);
}

/* What a test spoils is good before. */
NIB_TEST(OnDeviceGemmBadInput, TheRestIsGood)
{
    request r;
    REQUIRE(is_there(), "this backend has no products");
    request_open(&r, device);
    OK(nib_gemm_pack(&r.exec, &r.src, &r.w));
    OK(nib_gemm_unpack(&r.exec, &r.w, &r.dst));
    OK(nib_gemm(&r.exec, &r.plan, &r.args));
    OK(nib_gemm_slice(&r.w, 64, 64, 64, 32, &r.part));
    OK(nib_gemm_choice(&r.plan, 0, &r.tactic));
    r.a.rows = r.d.rows = r.residual.rows = 0; /* no rows need no memory */
    r.a.data = r.d.data = NULL, r.residual.data = NULL;
    r.exec.workspace = NULL, r.exec.workspace_bytes = 0;
    OK(nib_gemm(&r.exec, &r.plan, &r.args));
    runner_wait(device);
    request_close(&r);
}
