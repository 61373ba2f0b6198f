/* presets_test.c: each preset against what its package wrote, byte for byte, through the block
 * functions of kernels/common. tests/golden/presets.bin is made by
 * scripts/oracles/gen_presets.py, whose header describes the file. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/block.h"
#include "nibble/format.h"
#include "tests/shim.h"

_Static_assert(NIB_MX_RULE_FLOOR_LOG2 == (int)NIB_MX_FLOOR_LOG2
               && NIB_MX_RULE_EVEN_SOURCE == (int)NIB_MX_EVEN_SOURCE
               && NIB_Z_SOURCE == (int)NIB_ZERO_SOURCE, "rules that only presets use");

enum { MAX_TENSORS = 128 };

typedef struct tensor {
    uint32_t       dtype, n;
    const uint8_t *data;
} tensor;

typedef struct result {
    tensor         source;
    uint32_t       preset, format, encode, decode;
    const uint8_t *scales, *codes;
} result;

static uint8_t *read_golden(size_t *bytes)
{
    FILE *file = fopen("tests/golden/presets.bin", "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    const long size = ftell(file);
    rewind(file);
    uint8_t *data = malloc((size_t)size);
    *bytes = fread(data, 1, (size_t)size, file);
    fclose(file);
    return data;
}

static uint32_t read_u32(const uint8_t **at)
{
    const uint8_t *b = *at;
    *at += 4;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static nib_block_rules rules_of(const result *r)
{
    nib_rules p;
    EXPECT(nib_rules_fill((nib_rules_preset)r->preset, r->format, &p) == NIB_OK, "preset %u",
           r->preset);
    const nib_block_rules rules = {
        .element = (int)nib_format_element(r->format),
        .e4m3_scale = nib_format_scale(r->format) == NIB_SCALE_E4M3,
        .has_tensor_scale = nib_format_has_tensor_scale(r->format),
        .block = nib_format_block(r->format),
        .tensor = (int)p.tensor,
        .block_scale = (int)p.block,
        .factor = (int)p.element,
        .mx = (int)p.mx,
        .ties = (int)p.ties,
        .zero_sign = (int)p.zero_sign,
        .nonfinite = (int)p.nonfinite,
        .source = (int)r->source.dtype,
        .e4m3_zero = p.e4m3_zero,
        .e4m3_min = p.e4m3_min,
        .scale_max = 448.0f,
    };
    return rules;
}

/* bits at position i*width of a little-endian string */
static uint32_t code_at(const uint8_t *codes, int64_t i, int width)
{
    uint32_t code = 0;
    for (int b = 0; b < width; b++) {
        const int64_t bit = i * width + b;
        code |= (uint32_t)(codes[bit / 8] >> (bit % 8) & 1) << b;
    }
    return code;
}

static float load(const tensor *t, int64_t i)
{
    uint32_t word = 0; /* the file aligns nothing */
    const size_t width = t->dtype == NIB_DT_F32 ? 4 : 2;
    memcpy(&word, t->data + (size_t)i * width, width);
    return nib_load_f32((int)t->dtype, &word, 0);
}

static float amax_of(const tensor *t, int64_t from, int64_t to)
{
    float a = 0.0f;
    for (int64_t i = from; i < to; i++) {
        const float x = nib_abs(load(t, i));
        a = x > a ? x : a;
    }
    return a;
}

static void check_result(const result *r, int index)
{
    const nib_block_rules rules = rules_of(r);
    const nib_tensor_scales one = { 1.0f, 1.0f };
    const nib_tensor_scales s =
        rules.has_tensor_scale ? nib_tensor_factors(&rules, amax_of(&r->source, 0, r->source.n))
                               : one;
    const char *name = nib_rules_preset_name((nib_rules_preset)r->preset);
    EXPECT(r->encode == UINT32_MAX || r->encode == nib_bits_of(s.encode),
           "result %d, %s: S is %#x, the package has %#x", index, name, nib_bits_of(s.encode),
           r->encode);
    EXPECT(r->decode == UINT32_MAX || r->decode == nib_bits_of(s.decode),
           "result %d, %s: t is %#x, the package has %#x", index, name, nib_bits_of(s.decode),
           r->decode);

    const nib_tensor_math m = nib_tensor_math_of(&rules, s);
    const int bits = nib_format_element_bits(r->format);
    for (int64_t b = 0; b < r->source.n / (uint32_t)rules.block; b++) {
        const int64_t first = b * rules.block;
        const float a = amax_of(&r->source, first, first + rules.block);
        const uint32_t byte = nib_block_scale(&m, a);
        EXPECT(byte == r->scales[b],
               "result %d, %s %#x, dtype %u, block %d (amax %a): %#x, want %#x", index, name,
               r->format, r->source.dtype, (int)b, (double)a, byte, r->scales[b]);
        const nib_block_unit unit = nib_block_unit_of(&m, byte);
        for (int64_t i = first; i < first + rules.block; i++) {
            const float x = load(&r->source, i);
            const uint32_t code = nib_block_code(&m, unit, x, 0, 0);
            const uint32_t want = code_at(r->codes, i, bits);
            EXPECT(code == want, "result %d, %s %#x, dtype %u, %a under scale %#x: %#x, want %#x",
                   index, name, r->format, r->source.dtype, (double)x, byte, code, want);
        }
    }
}

NIB_TEST(Presets, BytesOfThePackages)
{
    size_t bytes = 0;
    uint8_t *golden = read_golden(&bytes);
    REQUIRE(golden, "tests/golden/presets.bin is missing");
    const uint8_t *at = golden + 8;
    const uint32_t tensors = read_u32(&at), results = read_u32(&at);
    EXPECT(memcmp(golden, "NIBPRE01", 8) == 0 && tensors <= MAX_TENSORS, "header");

    tensor all[MAX_TENSORS];
    for (uint32_t i = 0; i < tensors; i++) {
        all[i].dtype = read_u32(&at);
        all[i].n = read_u32(&at);
        all[i].data = at;
        at += (size_t)all[i].n * (all[i].dtype == NIB_DT_F32 ? 4 : 2);
    }
    int by_preset[5] = { 0 };
    for (uint32_t i = 0; i < results; i++) {
        result r = { .source = all[read_u32(&at)] };
        r.preset = read_u32(&at);
        r.format = read_u32(&at);
        r.encode = read_u32(&at);
        r.decode = read_u32(&at);
        r.scales = at;
        at += nib_scales_per_row(r.format, r.source.n);
        r.codes = at;
        at += nib_codes_row_bytes(r.format, r.source.n);
        check_result(&r, (int)i);
        by_preset[r.preset]++;
    }
    EXPECT(at == golden + bytes, "the file's length");
    for (int p = 0; p < 5; p++) EXPECT(by_preset[p] > 20, "preset %d: %d results", p, by_preset[p]);
    free(golden);
}
