/* transform_emu_test.cu: transforms' kernels write what the CPU's plain C writes, under every
 * schedule; and a row's sum is the same for any number of threads. */
#include "kernels/cuda/ops_cuda.cuh"
#include "kernels/cuda/transform_job.cuh"
#include "tests/emu/quantize_source.h"

#include <string.h>

namespace {

constexpr uint8_t poison = 0xa5;
typedef std::vector<uint8_t> Bytes;

struct Setting {
    nib_format       format = NIB_NVFP4;
    nib_dtype        dtype = NIB_BF16, weight_dtype = NIB_BF16;
    nib_transform_op op = NIB_TRANSFORM_NONE;
    int32_t          hadamard = 0;
    int64_t          rows = 3, cols = 128;
    bool             weight = true, residual = true, in_place = false, signs = true;
    nib_scale_layout layout = NIB_SCALES_LINEAR;
    nib_rules_preset preset = NIB_RULES_TE;
    float            given = 0.0f; /* tensor scale; 0: from amax */
};

/* Everything that a call writes. */
struct Results {
    Bytes codes, scales, residual, residual_out, values;
    float tensor_scale, amax, applied_amax;
    bool operator==(const Results &o) const
    {
        return codes == o.codes && scales == o.scales && residual == o.residual
            && residual_out == o.residual_out && values == o.values
            && !memcmp(&tensor_scale, &o.tensor_scale, 12);
    }
};

struct Inputs {
    Bytes x, other, w, signs;
    float amax;
};

/* Host memory for the CPU, device memory for CUDA, with a copy of some bytes. */
struct HostBytes {
    Bytes bytes;
    explicit HostBytes(const Bytes &b) : bytes(b) {}
    uint8_t *at() { return bytes.data(); }
    Bytes    read() { return bytes; }
};

struct DeviceBytes {
    Device<uint8_t> bytes;
    explicit DeviceBytes(const Bytes &b) : bytes(b) {}
    uint8_t *at() { return bytes; }
    Bytes    read() { return bytes.read(); }
};

Bytes of_float(float x)
{
    Bytes b(sizeof x);
    memcpy(b.data(), &x, sizeof x);
    return b;
}

template <class Memory, class Apply, class Quantize>
Results run(const Setting &s, const Inputs &in, Apply apply, Quantize quantize)
{
    char       why[NIB_WHY_BYTES] = "";
    nib_launch launch = {};
    launch.threads = 1;
    launch.why = why;
    Results    r = {};
    const bool has_tensor = nib_part_has_tensor_scale(s.format) != 0;
    const int64_t ld_codes = nib_code_bytes(nib_part_bits(s.format), s.cols);
    const int64_t scale_cols = nib_ceil_div(s.cols, nib_part_block(s.format));
    const int64_t scales_bytes = s.layout == NIB_SCALES_LINEAR
        ? s.rows * scale_cols : nib_ceil_div(s.rows, 128) * 128 * (nib_ceil_div(scale_cols, 4) * 4);
    for (int quantizes = 0; quantizes < 2; quantizes++) {
        Memory x(in.x), other(in.other), w(in.w), signs(in.signs), out(Bytes(in.x.size(), poison));
        Memory amax(of_float(1.0f)), given(of_float(s.given)), most(of_float(in.amax));
        Memory values(Bytes(in.x.size(), poison));
        Memory codes(Bytes((size_t)(s.rows * ld_codes) + guard, poison));
        Memory scales(Bytes((size_t)scales_bytes + guard, poison));
        const nib_matrix src = { x.at(), s.dtype, s.rows, s.cols, s.cols };
        const nib_matrix second = { other.at(), s.dtype, s.rows, s.cols, s.cols };
        const nib_matrix third = { out.at(), s.dtype, s.rows, s.cols, s.cols };
        const bool    rms = s.op == NIB_TRANSFORM_RMSNORM && s.residual;
        nib_transform t = {};
        t.size = sizeof t;
        t.op = s.op;
        t.hadamard = s.hadamard;
        t.eps = 1e-5f;
        t.amax = (float *)(void *)amax.at();
        if (s.op == NIB_TRANSFORM_RMSNORM && s.weight) t.weight = w.at();
        t.weight_dtype = s.weight_dtype;
        if (rms) t.residual = &second, t.residual_out = s.in_place ? &second : &third;
        if (s.op == NIB_TRANSFORM_SILU_MUL) t.y = &second;
        if (s.signs && s.hadamard) t.signs = signs.at();
        nib_status status;
        if (quantizes) {
            nib_quantize_request request = {};
            (void)nib_rules_fill(s.preset, s.format, &request.rules);
            if (has_tensor && s.given == 0.0f) request.tensor_amax = (float *)(void *)most.at();
            const nib_packed dst = { sizeof dst, s.format, NIB_CODES_PAIRS, s.layout, s.rows,
                                     s.cols, codes.at(), ld_codes, scales.at(),
                                     has_tensor ? (float *)(void *)given.at() : nullptr };
            status = quantize(&launch, &t, &src, &request, &dst);
            r.codes = codes.read(), r.scales = scales.read();
            memcpy(&r.tensor_scale, given.read().data(), 4);
            memcpy(&r.amax, amax.read().data(), 4);
        } else {
            const nib_matrix dst = { values.at(), s.dtype, s.rows, s.cols, s.cols };
            status = apply(&launch, &t, &src, &dst);
            r.values = values.read();
            memcpy(&r.applied_amax, amax.read().data(), 4);
        }
        EXPECT(status == NIB_OK, "status %d %s", status, why);
        r.residual = other.read(), r.residual_out = out.read();
        EXPECT(x.read() == in.x, "src changed");
    }
    return r;
}

void check(const Setting &s, uint64_t seed)
{
    Random     random(seed);
    const auto n = (size_t)(s.rows * s.cols);
    Inputs     in = { source(s.dtype, n, random), source(s.dtype, n, random),
                      source(s.weight_dtype, (size_t)s.cols, random), Bytes((size_t)s.cols / 8 + 1),
                      3.0f };
    for (uint8_t &b : in.signs) b = (uint8_t)random.next();
    const nib_backend &cpu = nib_backend_cpu_portable;
    const Results right = run<HostBytes>(s, in, cpu.transform_apply, cpu.quantize_transformed);
    const Results got = run<DeviceBytes>(s, in, nib_cuda_transform_apply,
                                         nib_cuda_quantize_transformed);
    EXPECT(got == right,
           "seed %llu: codes %d scales %d residual %d %d values %d, tensor scale %g %g, amax %g "
           "%g, %g %g: format %#x dtype %d op %d hadamard %d, %lld x %lld, layout %d preset %d",
           (unsigned long long)seed, got.codes == right.codes, got.scales == right.scales,
           got.residual == right.residual, got.residual_out == right.residual_out,
           got.values == right.values, (double)got.tensor_scale, (double)right.tensor_scale,
           (double)got.amax, (double)right.amax, (double)got.applied_amax,
           (double)right.applied_amax, s.format, s.dtype, s.op, s.hadamard, (long long)s.rows,
           (long long)s.cols, s.layout, s.preset);
}

struct SumJob {
    float *lane, *sum; /* NIB_SUM_LANES; blockDim.y rows of 2 turns */
};

template <int held> __global__ void sum_rows(SumJob job)
{
    NIB_SHARED(RowSums, sums, );
    for (unsigned turn = 0; turn < 2; turn++) {
        float s[held];
        for (int i = 0; i < held; i++) s[i] = job.lane[turn + threadIdx.x + i * blockDim.x];
        const float sum = row_sum(sums, s, [](float all) { return all; });
        job.sum[(turn * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x] = sum;
    }
}

struct SquaresJob {
    const uint16_t *x; /* of each thread 4 units; bf16 */
    float          *sum;
    TransformJob    row; /* its units */
};

__global__ void sum_units(SquaresJob job)
{
    const unsigned    thread = blockIdx.x * blockDim.x + threadIdx.x;
    Unit<NIB_DT_BF16> x[4];
    float             sum[4];
    for (int i = 0; i < 4; i++) {
        x[i].load((const uint8_t *)(job.x + (thread * 4 + i) * NIB_UNIT), false);
    }
    sum_squares(job.row, x, 0, sum);
    for (int i = 0; i < 4; i++) job.sum[thread * 4 + i] = sum[i];
}

} // namespace

/* Squares that f32 has to round, with others of up to 2^70 times their size. */
NIB_TEST(TransformEmu, SquaresBelowTheNormalNumbers)
{
    Random random(3);
    const unsigned count = 4 * 64 * 128;
    std::vector<uint16_t> x(count * NIB_UNIT);
    for (unsigned u = 0; u < count; u++) { /* a unit's elements: most at a place, some far above */
        const int place = -73 + random.below(5), above = 1 + random.below(60);
        for (int i = 0; i < NIB_UNIT; i++) {
            const int up = random.below(4) ? 0 : random.below(above);
            x[u * NIB_UNIT + (unsigned)i] = nib_bf16_from_f32(ldexpf(unit(random), place + up));
        }
    }
    const Device<uint16_t> on_device(x);
    const Device<float>    sum(count);
    SquaresJob job = { on_device, sum, {} };
    job.row.units = 4 * 64; /* all are there */
    NIB_LAUNCH(sum_units, 128, 64, 0, nullptr, job);
    const std::vector<float> got = sum.read();
    unsigned wrong = 0;
    for (unsigned u = 0; u < count; u++) {
        float v[NIB_UNIT];
        for (int i = 0; i < NIB_UNIT; i++) v[i] = nib_bf16_to_f32(x[u * NIB_UNIT + (unsigned)i]);
        wrong += nib_bits_of(got[u]) != nib_bits_of(nib_sum_sq16(v));
    }
    EXPECT(wrong == 0, "%u units", wrong);
}

/* Scales of tensors at which a rotation's factor cannot be left to the block's. */
NIB_TEST(TransformEmu, RotationsByExtremeScales)
{
    for (uint64_t seed = 0; seed < 60; seed++) {
        const int exponents[] = { -140, -126, -100, -30, -14, 10, 30, 90, 100, 120 };
        Setting s;
        s.dtype = dtypes[seed % 3];
        s.hadamard = seed % 2 ? 16 : 64;
        s.rows = 4, s.cols = 256;
        s.given = ldexpf(1.0f, exponents[seed / 6]);
        check(s, 1000 + seed);
    }
}

NIB_TEST(TransformEmu, FormatsRulesTypesAndRotations)
{
    Random random(1);
    for (uint64_t seed = 0; seed < 240; seed++) {
        const int32_t rotations[] = { 0, 16, 32, 64, 128 };
        Setting s;
        s.format = named[random.below(seed % 4 ? 4 : 15)];
        s.dtype = dtypes[random.below(3)];
        s.weight_dtype = random.below(2) ? s.dtype : NIB_F32;
        s.op = (nib_transform_op)random.below(3);
        s.hadamard = rotations[random.below(5)];
        s.rows = 1 + random.below(5);
        s.cols = s.hadamard ? s.hadamard * (1 + random.below(5)) : 1 + random.below(400);
        if (random.below(2)) s.cols = (s.cols + 31) / 32 * 32;
        if (s.hadamard) s.cols = (s.cols + s.hadamard - 1) / s.hadamard * s.hadamard;
        s.weight = random.below(3), s.residual = random.below(3);
        s.in_place = random.below(2), s.signs = random.below(2);
        s.layout = (nib_scale_layout)random.below(2);
        s.preset = (nib_rules_preset)(random.below(2) ? 0 : random.below(5));
        s.given = random.below(2) ? 0.0f : 0.02f;
        check(s, seed);
    }
}

NIB_TEST(TransformEmu, EveryScheduleOfWidthsAndTurns)
{
    each_schedule([] {
        const int64_t shapes[][2] = { { 5, 128 }, { 40, 256 }, { 3, 1152 }, { 2, 2048 },
                                      { 70, 32 } };
        for (int i = 0; i < 15; i++) {
            Setting s;
            s.op = (nib_transform_op)(i / 5);
            s.rows = shapes[i % 5][0], s.cols = shapes[i % 5][1];
            s.hadamard = s.cols % 128 ? 32 : i % 2 ? 128 : 16;
            s.format = i % 2 ? NIB_NVFP4 : NIB_MXFP4;
            s.layout = (nib_scale_layout)(i / 2 % 2);
            s.in_place = i % 3 != 0;
            check(s, (uint64_t)i);
        }
        Setting odd; /* the general kernel */
        odd.op = NIB_TRANSFORM_RMSNORM, odd.cols = 1201, odd.in_place = true;
        check(odd, 1);
        odd.op = NIB_TRANSFORM_NONE, odd.cols = 1280, odd.hadamard = 128;
        odd.format = NIB_MXFP6_E2M3;
        check(odd, 2);
    });
}

/* norm_e2m1: rows of a part of a warp and of several, of weights in shared memory and not, rotated
 * and not. */
NIB_TEST(TransformEmu, NormsOfWholeRows)
{
    const int64_t shapes[][2] = { { 70, 32 }, { 5, 272 }, { 9, 640 }, { 3, 1152 }, { 130, 2048 },
                                  { 2, 8192 }, { 1, 8224 }, { 1, 16384 } };
    each_schedule([&] {
        for (int i = 0; i < 16; i++) {
            Setting s;
            s.op = NIB_TRANSFORM_RMSNORM, s.dtype = dtypes[(i + i / 3) % 3];
            s.weight_dtype = i % 4 == 1 ? NIB_F32 : s.dtype;
            s.rows = shapes[i / 2][0], s.cols = shapes[i / 2][1];
            s.hadamard = i % 4 < 2 ? 0 : s.cols % 128 ? 16 : 128;
            s.format = i % 2 && s.cols % 32 == 0 ? NIB_MXFP4 : NIB_NVFP4;
            s.layout = (nib_scale_layout)(i / 2 % 2);
            s.weight = i % 5 != 0, s.residual = i % 3 == 0, s.in_place = i % 2;
            check(s, (uint64_t)i);
        }
    });
}

/* Rows that 256 threads hold, and two units more; and more rows than blocks at one turn. */
NIB_TEST(TransformEmu, RowsThatAreReadTwice)
{
    for (const int64_t cols : { 16384, 16416, 33024 }) {
        for (const bool in_place : { false, true }) {
            Setting s;
            s.op = NIB_TRANSFORM_RMSNORM, s.rows = 2, s.cols = cols, s.in_place = in_place;
            s.dtype = s.weight_dtype = in_place ? NIB_F32 : NIB_BF16;
            s.hadamard = cols == 33024 ? 128 : 0;
            check(s, 3);
        }
    }
    Setting s;
    s.op = NIB_TRANSFORM_RMSNORM, s.cols = 32, s.layout = NIB_SCALES_SWIZZLED_128X4;
    s.rows = 9 + 2 * NIB_TRANSFORM_ENOUGH_BLOCKS
               * (NIB_TRANSFORM_THREADS / NIB_TRANSFORM_MIN_WIDTH);
    check(s, 4);
}

template <int held> static void check_sums()
{
    Random random(9);
    std::vector<float> lane(NIB_SUM_LANES + 1);
    for (int width = 4; width * held <= NIB_SUM_LANES; width *= 2) {
        const int height = width < 256 ? 256 / width : 1;
        for (size_t i = 0; i < lane.size(); i++) {
            lane[i] = (int)i < held * width ? ldexpf(unit(random), random.below(20)) : 0.0f;
        }
        const Device<float> on_device(lane), sum((size_t)(2 * width * height));
        NIB_LAUNCH(sum_rows<held>, 1, dim3((unsigned)width, (unsigned)height), 0, nullptr,
                   SumJob{ on_device, sum });
        const std::vector<float> got = sum.read();
        for (int turn = 0; turn < 2; turn++) {
            std::vector<float> copy(NIB_SUM_LANES); /* of the lanes that threads have */
            for (int i = 0; i < held * width; i++) copy[(size_t)i] = lane[(size_t)(turn + i)];
            const float right = nib_sum_lanes(copy.data());
            for (int i = 0; i < width * height; i++) {
                const float one = got[(size_t)(turn * width * height + i)];
                EXPECT(nib_bits_of(one) == nib_bits_of(right), "%d x %d lanes, turn %d: %g, not %g",
                       held, width, turn, (double)one, (double)right);
            }
        }
    }
}

NIB_TEST(TransformEmu, SumsAreTheSameForAnyNumberOfThreads)
{
    each_schedule([] { check_sums<2>(), check_sums<4>(); });
}

NIB_TEST(TransformEmu, LargerBlocksAreRefused)
{
    char          why[NIB_WHY_BYTES] = "";
    float         one = 1.0f;
    nib_launch    launch = {};
    launch.why = why;
    nib_transform t = {};
    nib_quantize_request r = {};
    const nib_matrix src = { &one, NIB_F32, 1, 1, 1 };
    const nib_packed dst = { sizeof dst, 0x00800000, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 1, 1,
                             (uint8_t *)&one, 1, (uint8_t *)&one, nullptr };
    EXPECT(nib_cuda_quantize_transformed(&launch, &t, &src, &r, &dst) == NIB_ERR_UNSUPPORTED
           && strstr(why, "128"), "%s", why);
}
