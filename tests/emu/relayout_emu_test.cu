/* relayout_emu_test.cu: the CUDA backend's relayout of scales against the CPU's, whole buffers. */
#include "kernels/cuda/ops_cuda.cuh"
#include "kernels/packed.h"
#include "tests/emu/emu_test.h"

static int64_t scale_bytes(nib_scale_layout layout, int64_t rows, int64_t cols)
{
    return layout == NIB_SCALES_LINEAR ? rows * cols
                                       : nib_ceil_div(rows, 128) * nib_ceil_div(cols, 4) * 512;
}

/* before: bytes of the buffers in front of the scales. */
static void expect_equal(int64_t rows, int64_t cols, nib_scale_layout from, nib_scale_layout to,
                         int before, uint64_t seed)
{
    const int64_t from_bytes = before + scale_bytes(from, rows, cols);
    const int64_t to_bytes = before + scale_bytes(to, rows, cols) + 64;
    std::vector<uint8_t> src((size_t)from_bytes), want((size_t)to_bytes, 0xa5);
    Random random(seed);
    for (uint8_t &b : src) b = (uint8_t)random.next(); /* padding too, which must not pass */
    Device<uint8_t> d_src(src), d_dst(want);
    char why[NIB_WHY_BYTES] = "";
    const nib_launch on_cpu = { nullptr, nullptr, 0, 1, 0, 0, nullptr };
    const nib_launch on_device = { nullptr, nullptr, 0, 0, 0, (int32_t)(seed % 2), why };
    (void)nib_backend_cpu_portable.relayout_scales(&on_cpu, rows, cols, from, src.data() + before,
                                                   to, want.data() + before);
    const nib_status status = nib_cuda_relayout_scales(&on_device, rows, cols, from, d_src + before,
                                                       to, d_dst + before);
    EXPECT(status == NIB_OK, "%s", why);
    const std::vector<uint8_t> got = d_dst.read();
    size_t at = 0;
    while (at < got.size() && got[at] == want[at]) at++;
    EXPECT(at == got.size(), "%lld x %lld from %d to %d, %d before: byte %zu", (long long)rows,
           (long long)cols, (int)from, (int)to, before, at);
}

static void expect_layouts(int64_t rows, int64_t cols, int before, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        expect_equal(rows, cols, (nib_scale_layout)(i / 2), (nib_scale_layout)(i % 2), before,
                     seed);
    }
}

NIB_TEST(EmuRelayout, Edges)
{
    each_schedule([] {
        for (const int rows : { 1, 33, 128, 129 }) {
            for (const int cols : { 1, 3, 4, 36, 64, 65 }) expect_layouts(rows, cols, 0, 1);
        }
    });
}

NIB_TEST(EmuRelayout, RandomShapes)
{
    Random random(9);
    for (int i = 0; i < 60 && !nib_test_failed(); i++) {
        const int rows = 1 + random.below(500), cols = 1 + random.below(300);
        expect_layouts(rows, cols, i % 3 * random.below(17), (uint64_t)i);
    }
}

NIB_TEST(EmuRelayout, Large) { expect_layouts(1000, 512, 0, 4); }
