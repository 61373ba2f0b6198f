/* integers.h: compressed-tensors' pack-quantized, byte for byte: words of codes and of zero points,
 * from what step_codes.h has and back; and panels of integers on their way into a file.
 *
 *     word i of a row = sum over j of (q[i * n + j] - lo) << bits * j,   n = 32 / bits
 *
 * Words are little-endian; what stands behind the last code is 0. Zero points are packed alike, but
 * along columns.
 */
#ifndef NIB_INTEGERS_H
#define NIB_INTEGERS_H

#include "host/io/panels.h"
#include "nibble/step_codes.h"

/* Words of n codes of 4 or 8 bits. */
int64_t nib_integers_words(int bits, int64_t n);

/* Of a row: codes as step_codes.h has them, words as a file has. */
void nib_integers_pack(int bits, const uint8_t *codes, int64_t cols, uint8_t *words);
void nib_integers_unpack(int bits, const uint8_t *words, int64_t cols, uint8_t *codes);

/* zeros: rows x groups. words: nib_integers_words(bits, rows) x groups. */
void nib_integers_pack_zeros(int bits, const int8_t *zeros, int64_t rows, int64_t groups,
                             uint8_t *words);
/* The zero point of a row and group. */
int8_t nib_integers_zero(int bits, const uint8_t *words, int64_t groups, int64_t row,
                         int64_t group);

/* Groups of a row of cols elements. */
int64_t nib_integers_groups(nib_format format, int64_t cols);

/* The panel's integers, in its buffers; steps are of the type that is stored. */
nib_packed_steps nib_integers_of(const nib_panel *panel);

/* Adds the error of m, the panel's weights, to *error. What is counted is q - lo. Overwrites the
 * panel's blocks and, unless m lies there, rows. */
nib_status nib_integers_measure(const nib_panel *panel, const nib_matrix *m,
                                const nib_packed_steps *packed, nib_quantize_report *error);

/* Hands out what a file has of the panel: a role, where it begins there, and bytes that stay until
 * the next. A panel of asymmetric integers begins at a whole word of zero points. */
typedef nib_status nib_integers_write(void *context, int role, uint64_t at, const void *data,
                                      uint64_t bytes);
nib_status nib_integers_put(const nib_panel *panel, const nib_packed_steps *packed,
                            nib_integers_write *write, void *context);

#endif
