/* dispatch.h: the steps between a public call of quantize.h and a backend's entry. */
#ifndef NIB_DISPATCH_H
#define NIB_DISPATCH_H

#include "internal.h"
#include "log.h"

#define NIB_NEED(ops, entry, what) \
    NIB_REQUIRE((ops)->entry, NIB_ERR_UNSUPPORTED, "%s: not in the %s backend", what, (ops)->name)

/* Passes a backend's status up, with a sentence: its own words, if launch->why has any. */
nib_status nib_dispatched(nib_status status, const char *what, const nib_backend *ops,
                          const nib_launch *launch);

nib_status nib_shape_check(const char *what, const nib_matrix *m, const nib_packed *p);

/* p is NULL or aligned to bytes: a pointer to a float or a uint64 where the device computes. */
nib_status nib_pointer_check(const void *p, size_t bytes, const char *what, const char *name);

/* Rows of bits, ld bytes apart, for a matrix of m's size; mask may be NULL. */
nib_status nib_mask_check(const uint8_t *mask, int64_t ld, const nib_matrix *m, const char *what);

nib_status nib_groups_check(const nib_groups *groups, const char *what);

/* b, called name in the text, is as large as a. */
nib_status nib_same_size_check(const char *what, const char *name, const nib_matrix *a,
                               const nib_matrix *b);

/* An input and an output of one size, which may take its place, but only element by element. */
nib_status nib_pair_check(const char *what, const char *from_name, const nib_matrix *from,
                          const char *to_name, const nib_matrix *to);

/* Checks o, which may be NULL, and fills in every default. */
nib_status nib_request_make(const char *what, const nib_quantize_options *o, nib_format format,
                            nib_quantize_request *request);

#endif
