/* device_search_test.c: searched scales of whole blocks, aligned, on every backend: what CUDA does
 * in registers, and what it first estimates. */
#include <stdlib.h>

#include "kernels/packed.h"
#include "tests/device_case.h"

enum { ROWS = 24, COLS = 512, N = ROWS * COLS };

/* kind 0: of all sorts; 1: bell-shaped; 2: of few values, so that errors tie. */
static void fill(nib_dtype dtype, void *x, int kind)
{
    if (kind == 0) fill_matrix(dtype, x, N, 0);
    for (int i = 0; kind && i < N; i++) {
        const float bell = next_unit() + next_unit() + next_unit() + next_unit();
        const float few = 0.375f * (float)((int)(next_random() % 9) - 4);
        if (dtype == NIB_F32) ((float *)x)[i] = kind == 1 ? bell : few;
        else nib_store_f32((int)dtype, x, i, kind == 1 ? bell : few);
    }
}

NIB_TEST(OnDeviceSearch, EveryChoiceOfWholeBlocks)
{
    const nib_format formats[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16 };
    const nib_scale_choice choices[] = { NIB_SCALE_MSE, NIB_SCALE_FOUR_OVER_SIX_MSE,
                                         NIB_SCALE_FOUR_OVER_SIX_MAE };
    static float x[N];
    random_state = 46;
    for (int i = 0; i < 4 * 3 * 3 * 3 && !nib_test_failed(); i++) {
        const nib_format format = formats[i % 4];
        const int choice = i / 4 % 3, preset = i % 5 == 0 ? NIB_RULES_MODELOPT : NIB_RULES_TE;
        if (choice && nib_format_scale(format) != NIB_SCALE_E4M3) continue;
        setting s = setting_of(format, (nib_dtype)(i / 12 % 3), preset);
        s.choice = choices[choice];
        s.rows = ROWS, s.cols = COLS;
        s.tensor_scale = i % 3 ? 0.0f : 0.003f;
        s.layout = (nib_scale_layout)(i % 2);
        fill(s.dtype, x, i / 36);
        case_check(&s, x, 1);
    }
}

/* Pairs of blocks in which one element differs by the least that there is, and with it the scale
 * of least error: two errors lie nearer to each other than any estimate can tell. */
NIB_TEST(OnDeviceSearch, ErrorsThatAlmostTie)
{
    static float x[N];
    setting s = setting_of(NIB_NVFP4, NIB_F32, NIB_RULES_TE);
    s.choice = NIB_SCALE_MSE;
    s.tensor_scale = 1.0f;
    s.rows = ROWS, s.cols = COLS;
    const nib_block_rules rules = nib_block_rules_of(s.format, &s.rules, s.choice, s.dtype);
    const nib_tensor_math math = nib_tensor_math_of(&rules, nib_tensor_given(1.0f));
    random_state = 47;
    for (float *block = x; block < x + N;) {
        uint32_t low = nib_bits_of(0.5f), high = nib_bits_of(39.0f), best[2];
        for (int i = 0; i < 16; i++) block[i] = 16.0f * next_unit();
        block[0] = 40.0f;
        for (int i = 0; i < 2; i++) {
            block[3] = nib_float_of(i ? high : low);
            best[i] = nib_block_search(&math, NIB_SC_MSE, block, 16, 40.0f);
        }
        if (best[0] == best[1]) continue;
        while (high - low > 1) {
            const uint32_t middle = low + (high - low) / 2;
            block[3] = nib_float_of(middle);
            if (nib_block_search(&math, NIB_SC_MSE, block, 16, 40.0f) == best[0]) low = middle;
            else high = middle;
        }
        memcpy(block + 16, block, 16 * sizeof *block);
        block[3] = nib_float_of(low);
        block[19] = nib_float_of(high);
        block += 32;
    }
    case_check(&s, x, 0);
}
