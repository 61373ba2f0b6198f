/* step_codes_emu_test.cu: the kernels of step_codes.h write what the CPU's plain C writes: codes,
 * steps and zero points, and values of them. */
#include "kernels/cuda/ops_cuda.cuh"
#include "kernels/cuda/steps_job.cuh"
#include "tests/emu/quantize_source.h"

#include <string.h>

namespace {

typedef std::vector<uint8_t> Bytes;

struct Setting {
    nib_step_element element = NIB_INT4;
    bool          asymmetric = false, given = false;
    nib_step_rule rule = NIB_STEP_F32;
    int64_t       rows = 3, cols = 96, group = 32;
    nib_dtype     dtype = NIB_BF16, out_dtype = NIB_BF16;
    int64_t       ld_extra = 0, code_extra = 0, offset = 0;
};

enum { X, CODES, STEPS, ZEROS, VALUES, PARTS };

typedef nib_status quantize(const nib_launch *, const nib_matrix *, const nib_step_request *,
                            const nib_packed_steps *);
typedef nib_status dequantize(const nib_launch *, const nib_packed_steps *,
                              const nib_step_request *, const nib_matrix *);

nib_status run(const Setting &s, uint8_t *const *memory, char *why, quantize *to, dequantize *from)
{
    const int64_t ld = s.cols + s.ld_extra, size = s.dtype == NIB_F32 ? 4 : 2;
    nib_launch launch = {};
    launch.threads = 1, launch.why = why;
    const nib_matrix x = { memory[X] + s.offset * size, s.dtype, s.rows, s.cols, ld };
    const nib_matrix y = { memory[VALUES], s.out_dtype, s.rows, s.cols, ld };
    nib_packed_steps p = {};
    p.size = sizeof p, p.element = s.element, p.asymmetric = s.asymmetric, p.step_rule = s.rule;
    p.rows = s.rows, p.cols = s.cols, p.group = s.group;
    p.codes = memory[CODES] + s.offset;
    p.ld_codes_bytes = nib_step_codes_row_bytes(s.element, s.cols) + s.code_extra;
    p.steps = (float *)(void *)memory[STEPS];
    p.zeros = s.asymmetric ? (int8_t *)memory[ZEROS] : nullptr;
    nib_step_request r = {};
    r.element = s.element, r.asymmetric = s.asymmetric, r.rule = s.rule;
    r.group = s.group >= s.cols ? (s.cols + 7) / 8 * 8 : s.group;
    nib_step_request given = r;
    given.steps = p.steps, given.zeros = p.zeros;
    r.steps_out = p.steps, r.zeros_out = p.zeros;
    const nib_status status = to(&launch, &x, s.given ? &given : &r, &p);
    return status == NIB_OK ? from(&launch, &p, &given, &y) : status;
}

void check(const Setting &s, uint64_t seed)
{
    static const char *const names[] = { "x", "codes", "steps", "zeros", "values" };
    Random        random(seed + 5);
    const int64_t ld = s.cols + s.ld_extra, group = s.group < s.cols ? s.group : s.cols;
    const int64_t steps = s.rows * nib_ceil_div(s.cols, group);
    Bytes         want[PARTS], got[PARTS];
    want[X] = source(s.dtype, (size_t)(s.offset + s.rows * ld), random);
    want[CODES].assign((size_t)(s.offset + s.rows * (s.cols + s.code_extra)) + 8, 0xa5);
    want[STEPS].assign((size_t)steps * 4, 0x3c), want[ZEROS].assign((size_t)steps, 3);
    for (int64_t i = 0; i < steps && s.given; i++) {
        const float step = random.below(9) ? ldexpf(fabsf(unit(random)), random.below(14) - 12)
                                           : -1.0f;
        memcpy(want[STEPS].data() + i * 4, &step, 4);
        want[ZEROS][(size_t)i] = (uint8_t)(random.below(3) ? random.below(17) - 8 : random.next());
    }
    want[VALUES].assign((size_t)(s.rows * ld * 4) + 8, 0xa5);
    uint8_t *host[PARTS], *device[PARTS];
    for (int i = 0; i < PARTS; i++) {
        got[i] = want[i];
        host[i] = want[i].data();
        EXPECT_CUDA(cudaMalloc(&device[i], got[i].size()));
        EXPECT_CUDA(cudaMemcpy(device[i], got[i].data(), got[i].size(), cudaMemcpyHostToDevice));
    }
    char why[NIB_WHY_BYTES] = "";
    (void)run(s, host, why, nib_backend_cpu_portable.quantize_steps,
              nib_backend_cpu_portable.dequantize_steps);
    const nib_status status = run(s, device, why, nib_cuda_quantize_steps,
                                  nib_cuda_dequantize_steps);
    for (int i = 0; i < PARTS; i++) {
        EXPECT_CUDA(cudaMemcpy(got[i].data(), device[i], got[i].size(), cudaMemcpyDeviceToHost));
        cudaFree(device[i]);
        EXPECT(status == NIB_OK && got[i] == want[i], "seed %llu, %s: status %d %s: element %d "
               "asymmetric %d given %d rule %d, group %lld of %lld x %lld, dtypes %d %d, off %lld",
               (unsigned long long)seed, names[i], status, why, s.element, s.asymmetric, s.given,
               s.rule, (long long)s.group, (long long)s.rows, (long long)s.cols, s.dtype,
               s.out_dtype, (long long)s.offset);
    }
}

} // namespace

NIB_TEST(StepCodesEmu, ElementsGroupsRulesAndTypes)
{
    const int64_t       groups[] = { 8, 16, 24, 32, 64, 72, 128, 264, 1024, 1 << 20 };
    const nib_step_rule rules[] = { NIB_STEP_F32, NIB_STEP_E8M0_BYTE, NIB_STEP_BF16, NIB_STEP_F16 };
    for (uint64_t seed = 0; seed < 400 && !nib_test_failed(); seed++) {
        Random  random(seed + 1);
        Setting s;
        s.element = (nib_step_element)(NIB_INT2 + (int)random.below(7));
        s.asymmetric = random.below(2), s.given = random.below(2), s.rule = rules[random.below(4)];
        s.group = groups[random.below(10)];
        s.rows = 1 + random.below(9);
        s.cols = 8 * (1 + random.below(random.below(6) ? 60 : 400));
        s.cols -= random.below(2) * random.below(8);
        s.dtype = (nib_dtype)random.below(3), s.out_dtype = (nib_dtype)random.below(3);
        if (random.below(2)) {
            s.ld_extra = random.below(9), s.code_extra = random.below(9);
            s.offset = random.below(9);
        }
        check(s, seed);
    }
}

NIB_TEST(StepCodesEmu, SeveralBlocksUnderEverySchedule)
{
    each_schedule([] {
        for (int i = 0; i < 4; i++) {
            Setting s;
            s.given = i == 3, s.asymmetric = i % 2, s.element = i % 2 ? NIB_INT8 : NIB_INT4;
            s.group = i < 2 ? 32 : 4096;
            s.rows = 40, s.cols = 3000;
            check(s, (uint64_t)i);
        }
    });
}
