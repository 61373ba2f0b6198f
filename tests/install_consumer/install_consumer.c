/* install_consumer.c: an outside program. Built against an installed nibble only. */
#include <nibble/nibble.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    /* On E2M1's grid, with block scale 1: comes back exactly. */
    float x[16] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.5f, -1, -1.5f, -2, -3, -4, -6, 0 };
    float scale = 1.0f, y[16];
    uint8_t codes[8], block_scale;

    nib_device *device = NULL;
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    if (nib_device_open(&options, &device) != NIB_OK) return puts(nib_last_error()), 1;
    const nib_exec exec = { .size = sizeof exec, .device = device };
    const nib_matrix in = { x, NIB_F32, 1, 16, 16 }, out = { y, NIB_F32, 1, 16, 16 };
    const nib_packed packed = { sizeof packed, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR,
                                1, 16, codes, 8, &block_scale, &scale };
    if (nib_quantize(&exec, &in, NULL, &packed) != NIB_OK ||
        nib_dequantize(&exec, &packed, &out) != NIB_OK)
        return puts(nib_last_error()), 1;
    nib_device_close(device);
    const int same = memcmp(x, y, sizeof x) == 0;
    printf("nibble %s: 16 numbers %s\n", nib_version(), same ? "came back" : "differ");
    return !same;
}
