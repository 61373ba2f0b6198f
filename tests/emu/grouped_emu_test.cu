/* grouped_emu_test.cu: a block finds its tile among any groups; and groups' kernels write what the
 * CPU's plain C writes, under every schedule. */
#include "kernels/cuda/grouped_tile.cuh"
#include "kernels/cuda/ops_cuda.cuh"
#include "kernels/packed.h"
#include "tests/emu/quantize_source.h"

#include <string.h>

namespace {

constexpr uint8_t poison = 0xa5;
typedef std::vector<uint8_t> Bytes;

__global__ void find_tiles(Groups groups, GroupTile *tiles)
{
    find_tile(groups, blockIdx.x, threadIdx.x, tiles[blockIdx.x]);
}

/* Offsets that rise, mostly. */
std::vector<int64_t> offsets_of(int64_t count, int64_t rows, Random &random)
{
    std::vector<int64_t> offsets((size_t)count + 1);
    int64_t at = random.below(3) ? 0 : random.below(5) - 2;
    for (int64_t &o : offsets) {
        o = random.below(40) ? at : random.below(2 * (int)rows + 9) - 4;
        at += random.below(3) ? random.below((int)(2 * rows / (count + 1)) + 2) : 0;
    }
    return offsets;
}

struct Setting {
    nib_format       format = NIB_NVFP4;
    nib_dtype        dtype = NIB_BF16;
    int64_t          count = 5, rows = 90, cols = 64;
    nib_scale_layout layout = NIB_SCALES_LINEAR;
    nib_rules_preset preset = NIB_RULES_TE;
    nib_rounding     rounding = NIB_ROUND_NEAREST;
};

void check(const Setting &s, uint64_t seed)
{
    Random        random(seed);
    const bool    has_tensor = nib_part_has_tensor_scale(s.format) != 0;
    const int64_t ld_codes = nib_code_bytes(nib_part_bits(s.format), s.cols);
    const int64_t scales_bytes = nib_grouped_scales_bytes(s.format, s.layout, s.count, s.rows,
                                                          s.cols);
    const std::vector<int64_t> offsets = offsets_of(s.count, s.rows, random);
    const std::vector<uint64_t> words = { random.next(), ~0ull - 5 };
    const Bytes x = source(s.dtype, (size_t)(s.rows * s.cols), random);
    Bytes codes((size_t)(s.rows * ld_codes) + guard, poison);
    Bytes scales((size_t)scales_bytes + guard, poison);
    std::vector<float> tensor((size_t)s.count, 9.0f), amax((size_t)s.count, 9.0f);
    const Device<int64_t>  d_offsets(offsets);
    const Device<uint64_t> d_words(words);
    const Device<uint8_t>  d_x(x), d_codes(codes), d_scales(scales);
    const Device<float>    d_tensor(tensor), d_amax(amax);

    char       why[NIB_WHY_BYTES] = "";
    nib_launch launch = {};
    launch.threads = 1;
    launch.why = why;
    nib_quantize_request r = {};
    (void)nib_rules_fill(s.preset, s.format, &r.rules);
    r.rounding = s.rounding;
    for (const bool cuda : { false, true }) {
        const nib_groups groups = { sizeof groups, s.count,
                                    cuda ? (int64_t *)d_offsets : offsets.data() };
        const nib_matrix src = { cuda ? (uint8_t *)d_x : (void *)x.data(), s.dtype, s.rows, s.cols,
                                 s.cols };
        float *const     most = cuda ? (float *)d_amax : amax.data();
        const nib_packed dst = {
            sizeof dst, s.format, NIB_CODES_PAIRS, s.layout, s.rows, s.cols,
            cuda ? (uint8_t *)d_codes : codes.data(), ld_codes,
            cuda ? (uint8_t *)d_scales : scales.data(),
            !has_tensor ? nullptr : cuda ? (float *)d_tensor : tensor.data()
        };
        r.tensor_amax = has_tensor ? most : nullptr;
        r.random = cuda ? (uint64_t *)d_words : words.data();
        const nib_backend &cpu = nib_backend_cpu_portable;
        nib_status status = (cuda ? nib_cuda_amax_grouped : cpu.amax_grouped)(&launch, &groups,
                                                                              &src, most);
        if (status == NIB_OK) {
            status = (cuda ? nib_cuda_quantize_grouped : cpu.quantize_grouped)(&launch, &groups,
                                                                               &src, &r, &dst);
        }
        EXPECT(status == NIB_OK, "status %d %s", status, why);
    }
    EXPECT(d_codes.read() == codes && d_scales.read() == scales && d_tensor.read() == tensor
           && d_amax.read() == amax,
           "seed %llu: codes %d scales %d tensor scales %d amax %d: format %#x dtype %d, %lld "
           "groups in %lld x %lld, layout %d preset %d rounding %d", (unsigned long long)seed,
           d_codes.read() == codes, d_scales.read() == scales, d_tensor.read() == tensor,
           d_amax.read() == amax, s.format, s.dtype, (long long)s.count, (long long)s.rows,
           (long long)s.cols, s.layout, s.preset, s.rounding);
}

} // namespace

/* Every tile of every group once, and none behind them. */
NIB_TEST(GroupedEmu, TilesAreThoseOfTheGroups)
{
    Random random(3);
    for (int turn = 0; turn < 60; turn++) {
        Groups g = {};
        g.count = 1 + random.below(turn % 2 ? 100 : 8);
        g.rows = random.below(400);
        g.padded = turn / 2 % 2;
        g.across = 1;
        const std::vector<int64_t> offsets = offsets_of(g.count, g.rows, random);
        const Device<int64_t> on_device(offsets);
        g.offsets = on_device;
        const unsigned blocks = tile_blocks(&g);
        const Device<GroupTile> tiles(blocks);
        NIB_LAUNCH(find_tiles, blocks, 32, 0, nullptr, g, (GroupTile *)tiles);
        const std::vector<GroupTile> got = tiles.read();
        int64_t begin = nib_group_next(0, offsets[0], g.rows), scales = 0;
        size_t  n = 0;
        for (int64_t group = 0; group < g.count; group++) {
            const int64_t end = nib_group_next(begin, offsets[(size_t)group + 1], g.rows);
            const int64_t rows = end - begin, padded = (rows + 127) / 128 * 128;
            for (int64_t row = 0; row < (g.padded ? padded : rows); row += NIB_TILE_ROWS, n++) {
                const GroupTile t = n < got.size() ? got[n] : GroupTile{ -2, 0, 0, 0, 0 };
                EXPECT(t.group == group && t.begin == begin && t.rows == rows && t.row == row
                       && t.scales_row == (g.padded ? scales : begin),
                       "turn %d: tile %zu of %u is row %lld of group %lld, not %lld of %lld", turn,
                       n, blocks, (long long)t.row, (long long)t.group, (long long)row,
                       (long long)group);
            }
            scales += padded;
            begin = end;
        }
        for (; n < got.size(); n++) EXPECT(got[n].group == NIB_TILE_NONE, "tile %zu", n);
    }
}

NIB_TEST(GroupedEmu, FormatsRulesTypesAndLayouts)
{
    Random random(4);
    for (uint64_t seed = 0; seed < 150; seed++) {
        Setting s;
        s.format = named[random.below(seed % 3 ? 4 : 15)];
        s.dtype = dtypes[random.below(3)];
        s.count = 1 + random.below(seed % 5 ? 9 : 80);
        s.rows = 1 + random.below(150);
        s.cols = random.below(2) ? 32 * (1 + random.below(5)) : 1 + random.below(150);
        s.layout = (nib_scale_layout)random.below(2);
        s.preset = (nib_rules_preset)(random.below(2) ? 0 : random.below(5));
        s.rounding = (nib_rounding)(random.below(4) == 0);
        check(s, seed);
    }
}

NIB_TEST(GroupedEmu, EveryScheduleOfTiles)
{
    each_schedule([] {
        for (int i = 0; i < 8; i++) {
            Setting s;
            s.format = i % 2 ? NIB_MXFP4 : NIB_NVFP4;
            s.layout = (nib_scale_layout)(i / 2 % 2);
            s.cols = i < 4 ? 288 : 4128 + i % 3; /* several blocks along; ragged */
            s.rows = i < 4 ? 200 : 40;
            check(s, (uint64_t)i);
        }
    });
}

NIB_TEST(GroupedEmu, TooManyTilesAndLargeBlocksAreRefused)
{
    char       why[NIB_WHY_BYTES] = "";
    float      one = 1.0f;
    int64_t    offset = 0;
    nib_launch launch = {};
    launch.why = why;
    nib_quantize_request r = {};
    const nib_groups groups = { sizeof groups, 1, &offset };
    const nib_matrix src = { &one, NIB_F32, (int64_t)1 << 37, 1, 1 };
    nib_packed dst = { sizeof dst, NIB_MXFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, src.rows, 1,
                       (uint8_t *)&one, 1, (uint8_t *)&one, nullptr };
    EXPECT(nib_cuda_quantize_grouped(&launch, &groups, &src, &r, &dst) == NIB_ERR_UNSUPPORTED
           && strstr(why, "137438953473"), "%s", why);
    EXPECT(nib_cuda_amax_grouped(&launch, &groups, &src, &one) == NIB_ERR_UNSUPPORTED
           && strstr(why, "137438953472 rows"), "%s", why);
    dst.format = 0x00800000; /* blocks of 128 */
    EXPECT(nib_cuda_quantize_grouped(&launch, &groups, &src, &r, &dst) == NIB_ERR_UNSUPPORTED
           && strstr(why, "128"), "%s", why);
}
