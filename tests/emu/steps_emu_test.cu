/* steps_emu_test.cu: the kernels of steps.h write what the CPU's plain C writes: values, masks,
 * steps, zero points, gradients and their sums; and their quotients are the rule's. */
#include "kernels/cuda/ops_cuda.cuh"
#include "kernels/cuda/steps_job.cuh"
#include "kernels/cuda/steps_tune.h"
#include "tests/emu/quantize_source.h"

#include <stdio.h>
#include <string.h>

namespace {

constexpr uint8_t poison = 0xa5;
typedef std::vector<uint8_t> Bytes;

const nib_step_element elements[] = { NIB_STEP_E2M1, NIB_STEP_E2M3, NIB_STEP_E3M2, NIB_STEP_E4M3,
                                      NIB_STEP_E5M2, NIB_INT2, NIB_INT3, NIB_INT4, NIB_INT5,
                                      NIB_INT6, NIB_INT7, NIB_INT8 };

struct Setting {
    nib_step_element element = NIB_INT4;
    bool          asymmetric = false, given = false, mask = true, clamp = true, in_place = false;
    nib_step_rule rule = NIB_STEP_F32;
    int64_t       rows = 3, cols = 96, group = 32; /* 0: the matrix */
    nib_dtype     dtype = NIB_BF16, out_dtype = NIB_BF16, grad_dtype = NIB_BF16;
    int64_t       ld_extra = 0, out_extra = 0, mask_extra = 0, offset = 0;
    float         factor = 0.0f;
};

int64_t size_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

/* What one pass reads and writes, on the host or the device. Outputs end a guard behind. */
struct Buffers {
    Bytes x, grad, out, mask, steps, zeros, range, scale, steps_out, zeros_out, sums, grad_steps;
};

template <class F> void each(Buffers &b, F f)
{
    for (Bytes *part : { &b.x, &b.grad, &b.out, &b.mask, &b.steps, &b.zeros, &b.range, &b.scale,
                         &b.steps_out, &b.zeros_out, &b.sums, &b.grad_steps }) f(*part);
}

typedef nib_status forward(const nib_launch *, const nib_matrix *, const nib_step_request *,
                           const nib_matrix *);
typedef nib_status backward(const nib_launch *, const nib_matrix *, const nib_matrix *,
                            const nib_step_request *, const nib_matrix *);
enum Pass { FORWARD, CLAMP, LEARN };

/* memory: the parts in the order of each. */
nib_status run(const Setting &s, Pass pass, const std::vector<uint8_t *> &memory, int32_t threads,
               char *why, forward *values, backward *gradients)
{
    const int64_t ld = s.cols + s.ld_extra, out_ld = s.cols + s.out_extra;
    nib_launch launch = {};
    launch.threads = threads, launch.why = why;
    launch.workspace = memory[10];
    const auto at = [&](uint8_t *p, nib_dtype dtype) { return p + s.offset * size_of(dtype); };
    const nib_matrix src = { at(memory[0], s.dtype), s.dtype, s.rows, s.cols, ld };
    const nib_matrix grad = { at(memory[1], s.grad_dtype), s.grad_dtype, s.rows, s.cols, ld };
    nib_matrix dst = { at(memory[2], s.out_dtype), s.out_dtype, s.rows, s.cols, out_ld };
    if (s.in_place) dst = pass == FORWARD ? src : grad;
    const bool along = s.group == 0 || s.group >= s.cols;
    nib_step_request r = {};
    r.element = s.element, r.asymmetric = s.asymmetric, r.rule = s.rule;
    r.gradient = s.clamp || pass == CLAMP ? NIB_FAKE_CLAMP : NIB_FAKE_IDENTITY;
    r.whole = s.group == 0;
    r.group = along ? (s.cols + 7) / 8 * 8 : s.group;
    if (s.given) r.steps = (const float *)(void *)memory[4];
    if (s.given && s.asymmetric) r.zeros = (const int8_t *)memory[5];
    if (!s.given && r.whole) r.range = (const float *)(void *)memory[6];
    if (s.rule == NIB_STEP_E4M3_BYTE) r.tensor_scale = (const float *)(void *)memory[7];
    r.grad_factor = s.factor;
    if (pass == FORWARD) {
        r.mask = s.mask ? memory[3] + s.offset : nullptr;
        r.ld_mask_bytes = (s.cols + 7) / 8 + s.mask_extra;
        r.steps_out = (float *)(void *)memory[8];
        r.zeros_out = s.asymmetric ? (int8_t *)memory[9] : nullptr;
        return values(&launch, &src, &r, &dst);
    }
    if (pass == LEARN) r.grad_steps = (float *)(void *)memory[11];
    return gradients(&launch, &grad, &src, &r, &dst);
}

Buffers buffers_of(const Setting &s, Random &random)
{
    const int64_t ld = s.cols + s.ld_extra, out_ld = s.cols + s.out_extra;
    const int64_t group = s.group == 0 || s.group >= s.cols ? s.cols : s.group;
    const int64_t steps = s.group ? s.rows * nib_ceil_div(s.cols, group) : 1;
    Buffers b;
    b.x = source(s.dtype, (size_t)(s.offset + s.rows * ld), random);
    b.grad = source(s.grad_dtype, (size_t)(s.offset + s.rows * ld), random);
    b.out.assign((size_t)((s.offset + s.rows * out_ld) * size_of(s.out_dtype)) + guard, poison);
    b.mask.assign((size_t)(s.offset + s.rows * ((s.cols + 7) / 8 + s.mask_extra)) + guard, poison);
    b.steps.resize((size_t)steps * 4), b.zeros.resize((size_t)steps + 1);
    const float odd[] = { 0.0f, -1.0f, NAN, INFINITY, 1e-45f, 3e38f, 1.0f, 1e-20f };
    for (int64_t i = 0; i < steps; i++) {
        const float step = random.below(9) ? ldexpf(fabsf(unit(random)), random.below(14) - 12)
                                           : odd[random.below(8)];
        memcpy(b.steps.data() + i * 4, &step, 4);
        b.zeros[(size_t)i] = (uint8_t)(random.below(3) ? random.below(17) - 8 : random.next());
    }
    const float range[2] = { random.below(4) ? fabsf(unit(random)) : NAN,
                             random.below(4) ? fabsf(unit(random)) : 3e38f };
    const float scale = random.below(4) ? 0.003f * fabsf(unit(random)) : -1.0f;
    b.range.assign((const uint8_t *)range, (const uint8_t *)(range + 2));
    b.scale.assign((const uint8_t *)&scale, (const uint8_t *)(&scale + 1));
    b.steps_out.assign((size_t)steps * 4 + guard, poison);
    b.zeros_out.assign((size_t)steps + guard, poison);
    b.grad_steps.assign((size_t)steps * 4 + guard, poison);
    const int64_t work = nib_steps_workspace_bytes(s.rows, s.cols, s.group);
    b.sums.assign((size_t)(work > 0 ? work : 0) + guard, poison);
    return b;
}

void check(const Setting &s, uint64_t seed)
{
    static const char *const passes[] = { "forward", "clamp", "learn" };
    static const char *const parts[] = { "x", "grad", "out", "mask", "steps", "zeros", "range",
                                         "scale", "steps_out", "zeros_out", "sums", "grad_steps" };
    Random random(seed);
    const Buffers inputs = buffers_of(s, random);
    for (int pass = FORWARD; pass <= LEARN; pass++) {
        if (pass == LEARN && !s.given) continue;
        char    why[NIB_WHY_BYTES] = "";
        Buffers want = inputs, got = inputs;
        std::vector<uint8_t *> host, device;
        each(want, [&](Bytes &part) { host.push_back(part.data()); });
        (void)run(s, (Pass)pass, host, 1, why, nib_backend_cpu_portable.fake_quantize_steps,
                  nib_backend_cpu_portable.fake_quantize_steps_backward);
        each(got, [&](Bytes &part) {
            uint8_t *p = nullptr;
            EXPECT_CUDA(cudaMalloc(&p, part.size()));
            EXPECT_CUDA(cudaMemcpy(p, part.data(), part.size(), cudaMemcpyHostToDevice));
            device.push_back(p);
        });
        const nib_status status = run(s, (Pass)pass, device, 0, why, nib_cuda_fake_steps,
                                      nib_cuda_fake_steps_backward);
        size_t i = 0;
        each(got, [&](Bytes &part) {
            EXPECT_CUDA(cudaMemcpy(part.data(), device[i], part.size(), cudaMemcpyDeviceToHost));
            cudaFree(device[i++]);
        });
        i = 0;
        std::vector<const Bytes *> right;
        each(want, [&](Bytes &part) { right.push_back(&part); });
        each(got, [&](Bytes &part) {
            const Bytes &w = *right[i];
            size_t       first = 0;
            while (first < w.size() && part[first] == w[first]) first++;
            EXPECT(status == NIB_OK && first == w.size(),
                   "seed %llu %s, %s: status %d %s: element %d asymmetric %d given %d rule %d, "
                   "group %lld of %lld x %lld, dtypes %d %d %d, extra %lld %lld, off %lld, in "
                   "place %d clamp %d: byte %zu", (unsigned long long)seed, passes[pass], parts[i],
                   status, why, s.element, s.asymmetric, s.given, s.rule, (long long)s.group,
                   (long long)s.rows, (long long)s.cols, s.dtype, s.out_dtype, s.grad_dtype,
                   (long long)s.ld_extra, (long long)s.out_extra, (long long)s.offset, s.in_place,
                   s.clamp, first);
            i++;
        });
    }
}

Setting random_setting(Random &random)
{
    const int64_t groups[] = { 0, 8, 16, 24, 32, 64, 72, 128, 256, 264, 512, 1024, 2048, 1 << 20 };
    Setting s;
    s.element = elements[random.below(12)];
    s.asymmetric = s.element >= NIB_INT2 && random.below(2);
    s.given = random.below(2), s.clamp = random.below(2), s.mask = random.below(3);
    s.rule = (nib_step_rule)random.below(5);
    s.group = groups[random.below(14)];
    s.rows = 1 + random.below(5);
    s.cols = 8 * (1 + random.below(random.below(6) ? 60 : 600));
    s.dtype = s.out_dtype = s.grad_dtype = dtypes[random.below(3)];
    s.factor = random.below(2) ? 0.0f : unit(random);
    s.in_place = random.below(3) == 0;
    return s;
}

} // namespace

/* Aligned rows of whole units: the vectors' kernels. */
NIB_TEST(StepsEmu, ElementsGroupsRulesAndTypes)
{
    for (uint64_t seed = 0; seed < 500 && !nib_test_failed(); seed++) {
        Random random(seed + 1);
        check(random_setting(random), seed);
    }
}

NIB_TEST(StepsEmu, RaggedAndUnalignedRows)
{
    for (uint64_t seed = 0; seed < 500 && !nib_test_failed(); seed++) {
        Random  random(seed + 9001);
        Setting s = random_setting(random);
        s.cols -= random.below(2) * random.below(8);
        s.rows = 1 + random.below(9);
        if (random.below(3) == 0) s.out_dtype = dtypes[random.below(3)];
        if (random.below(3) == 0) s.grad_dtype = dtypes[random.below(3)];
        s.ld_extra = random.below(2) ? random.below(33) : 7 - (s.cols + 7) % 8;
        s.out_extra = random.below(2) ? random.below(33) : 7 - (s.cols + 7) % 8;
        s.mask_extra = random.below(3);
        s.offset = random.below(3) ? 0 : random.below(9);
        s.in_place = s.in_place && s.out_dtype == s.dtype && s.grad_dtype == s.dtype;
        check(s, seed);
    }
}

NIB_TEST(StepsEmu, SeveralBlocksUnderEverySchedule)
{
    each_schedule([] {
        for (int i = 0; i < 6; i++) {
            Setting s;
            s.given = i % 2, s.in_place = i == 2;
            s.group = i < 2 ? 16 : i < 4 ? 4096 : 0;
            s.rows = i < 4 ? 40 : 300, s.cols = i < 4 ? 5000 : 1032;
            s.element = i % 3 ? NIB_INT8 : NIB_STEP_E4M3;
            check(s, (uint64_t)i);
        }
    });
}

/* So many rows that a block takes several tiles of them. */
NIB_TEST(StepsEmu, BlocksTakeSeveralTiles)
{
    for (int i = 0; i < 2; i++) {
        Setting s;
        s.group = i ? 0 : 8, s.given = i, s.cols = 8;
        s.rows = NIB_STEPS_THREADS / NIB_STEPS_MIN_WIDTH * 2 * NIB_STEPS_ENOUGH_BLOCKS + 70;
        check(s, (uint64_t)i);
    }
}

/* And of groups, one after the other in the same shared memory. */
NIB_TEST(StepsEmu, BlocksTakeSeveralGroups)
{
    Setting s;
    s.group = s.cols = 1032; /* two warps a group */
    s.rows = NIB_STEPS_MOST_BLOCKS + 40;
    each_schedule([s] { check(s, 1); });
    s.given = true;
    check(s, 2);
}

/* RN(x / s), for all mantissas of s, and x at and beside the products that make ties, bounds and
 * anything; sizes as StepUse and is_moderate let them. */
NIB_TEST(StepsEmu, QuotientsAreCorrectlyRounded)
{
    uint64_t wrong = 0, signs = 0;
    Random   random(3);
    for (uint32_t mantissa = 0; mantissa < 1u << 23; mantissa++) {
        const float s = ldexpf(1.0f + (float)mantissa * 0x1p-23f, random.below(60) - 60);
        const float inverse = 1.0f / s;
        const float near = s * ((float)(1 + random.below(511)) * 0.5f);
        const float xs[] = { near, nib_float_of(nib_bits_of(near) + 1),
                             nib_float_of(nib_bits_of(near) - 1),
                             ldexpf(unit(random), random.below(110) - 50) };
        for (const float x : xs) {
            wrong += nib_bits_of(nib_step_quotient(x, s, inverse)) != nib_bits_of(x / s);
        }
        const float tiny = nib_float_of((random.next() & 0x80ffffffu) | 1); /* below 2^-125 */
        const float y = nib_step_quotient(tiny, s, inverse);
        signs += !(fabsf(y) < 0x1p-40f) || (y < 0.0f) != (tiny < 0.0f) || y == 0.0f;
    }
    EXPECT(wrong == 0 && signs == 0, "%llu quotients and %llu tiny ones", (unsigned long long)wrong,
           (unsigned long long)signs);
}
