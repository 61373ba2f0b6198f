/* status.h: how every nibble function reports failure. */
#ifndef NIBBLE_STATUS_H
#define NIBBLE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* 0 is success. The values are ABI and are only ever appended to. */
typedef enum nib_status {
    NIB_OK                = 0,
    NIB_ERR_ARGUMENT      = 1,  /* NULL pointer, unknown enum, value out of its range          */
    NIB_ERR_SHAPE         = 2,  /* sizes are negative, disagree or break a stated multiple      */
    NIB_ERR_ALIGNMENT     = 3,  /* pointer or stride under the stated alignment                 */
    NIB_ERR_UNSUPPORTED   = 4,  /* valid request that this backend or target cannot hold        */
    NIB_ERR_OUT_OF_MEMORY = 5,
    NIB_ERR_DEVICE        = 6,  /* the device or its driver failed; the text has its words      */
    NIB_ERR_IO            = 7,  /* the system refused a read, write, rename or lock             */
    NIB_ERR_FORMAT        = 8,  /* a file breaks its format's rules                             */
    NIB_ERR_NONFINITE     = 9,  /* NaN or Inf where finite numbers are required                 */
    NIB_ERR_EXISTS        = 10, /* the output is there already, or another run is writing it    */
    NIB_ERR_CANCELLED     = 11, /* the caller's cancel flag was seen                            */
    NIB_ERR_NO_DEVICE     = 12, /* no CUDA device can be used; the text says what is missing    */
    NIB_ERR_NOT_PREPARED  = 13  /* a stream is being captured before nib_prepare, or before a
                                   product that has to run once: the text says which            */
} nib_status;

/* Returns a static string, never NULL: "NIB_ERR_SHAPE"; "NIB_ERR_?" for a value not above. */
const char *nib_status_name(nib_status status);

/* Returns one sentence, with the numbers, about this thread's last call that did not return
 * NIB_OK, or "". The text belongs to the library and lasts until the thread's next failing
 * call. Successful calls leave it alone. */
const char *nib_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
