/* qat_fake.c: fake-quantize of weights and inputs by nibble's public calls.
 *
 * A format with a tensor scale takes it from the amax at hand: each step's for weights, each
 * batch's for inputs. Gradients go straight through weights, and through inputs as the caller
 * chose. */
#include "host/tools/qat_demo.h"

static void tried(nib_status status)
{
    if (status != NIB_OK) qat_die("%s", nib_last_error());
}

static nib_matrix matrix_of(int64_t rows, int64_t k, const float *x)
{
    return (nib_matrix){ (void *)(uintptr_t)x, NIB_F32, rows, k, k };
}

static float amax_of(void *user, int64_t rows, int64_t k, const float *x)
{
    const qat_fake_nibble *f = user;
    const nib_matrix src = matrix_of(rows, k, x);
    float amax = 0;
    if (nib_format_has_tensor_scale(f->format)) tried(nib_amax(&f->exec, &src, &amax, NULL));
    return amax;
}

static nib_fake_options options_of(const qat_fake_nibble *f, const nib_quantize_options *how,
                                   int64_t k, uint8_t *mask)
{
    return (nib_fake_options){ .size = sizeof(nib_fake_options), .format = f->format,
                               .quantize = how, .gradient = f->gradient, .mask = mask,
                               .ld_mask_bytes = (k + 7) / 8 };
}

static void values(void *user, int64_t rows, int64_t k, const float *x, float amax, float *y,
                   uint8_t *mask)
{
    const qat_fake_nibble *f = user;
    if (f->gradient == NIB_FAKE_IDENTITY) mask = NULL;
    const nib_matrix src = matrix_of(rows, k, x), dst = matrix_of(rows, k, y);
    const nib_quantize_options how = {
        .size = sizeof how,
        .tensor_amax = nib_format_has_tensor_scale(f->format) ? &amax : NULL,
    };
    const nib_fake_options options = options_of(f, &how, k, mask);
    tried(nib_fake_quantize(&f->exec, &src, &options, &dst));
}

static void gradient(void *user, int64_t rows, int64_t k, float *dx, uint8_t *mask)
{
    const qat_fake_nibble *f = user;
    const nib_matrix grad = matrix_of(rows, k, dx);
    const float any = 1; /* with a mask no scale is read */
    nib_fake_options options = options_of(f, NULL, k, mask);
    options.tensor_scale = nib_format_has_tensor_scale(f->format) ? &any : NULL;
    tried(nib_fake_quantize_backward(&f->exec, &grad, NULL, &options, &grad));
}

qat_fake qat_fake_by(qat_fake_nibble *user)
{
    return (qat_fake){ .user = user, .amax = amax_of, .values = values, .gradient = gradient };
}
