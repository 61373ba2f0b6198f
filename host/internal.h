/* internal.h: the error idiom and the small things every host file shares. */
#ifndef NIB_INTERNAL_H
#define NIB_INTERNAL_H

#include "kernels/backend.h"

/* Sets this thread's error text and returns status. */
nib_status nib_fail(nib_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* State a precondition once, in words that the caller will read. */
#define NIB_REQUIRE(cond, status, ...) \
    do { if (!(cond)) return nib_fail((status), __VA_ARGS__); } while (0)

/* Pass a failure up unchanged. */
#define NIB_TRY(call) \
    do { const nib_status nib_try_ = (call); if (nib_try_ != NIB_OK) return nib_try_; } while (0)

struct nib_device {
    nib_backend_kind   kind;
    const nib_backend *ops;
    int32_t            max_threads;
    char               description[160];
};

/* Checks exec and fills in *launch and *ops. what: the public function, for the text. */
nib_status nib_exec_check(const nib_exec *exec, const char *what, nib_launch *launch,
                          const nib_backend **ops);

nib_status nib_matrix_check(const nib_matrix *matrix, const char *what, const char *name);
nib_status nib_packed_check(const nib_packed *packed, const char *what, const char *name);
nib_status nib_rules_check(const nib_rules *rules, const char *what);

#endif
