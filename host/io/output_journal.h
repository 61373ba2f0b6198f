/* output_journal.h: the lines of an output's journal; output*.c only.
 *
 *   nibble-journal 1 KIND FINGERPRINT     KIND: file or folder
 *   file NAME                             created with its size and header ("/": the output)
 *   step STEP
 *   commit DEVICE INODE                   of the partial, about to be renamed
 *
 * A last line without a line break was torn by a kill and does not count. */
#ifndef NIB_OUTPUT_JOURNAL_H
#define NIB_OUTPUT_JOURNAL_H

#include <stddef.h>
#include <sys/types.h>

#include "nibble/status.h"

typedef struct nib_journal {
    char  *path;          /* borrowed */
    int    fd;            /* -1: not open for writing */
    char  *identity;      /* "KIND FINGERPRINT", or NULL: there was no valid journal */
    void  *lines;         /* tsearch's tree of malloc'd strings, pending ones included */
    size_t steps;         /* that were read */
    size_t whole_bytes;   /* of the file, without a torn line */
    int    has_commit;
    dev_t  device;        /* of the last commit line */
    ino_t  inode;
    char  *pending;       /* lines whose data are not durable yet */
    size_t pending_bytes, pending_room;
} nib_journal;

/* Reads what is there; no valid journal is NIB_OK with identity NULL. */
nib_status nib_journal_read(char *path, nib_journal *journal);
/* Goes on behind the whole lines of what was read. */
nib_status nib_journal_resume(nib_journal *journal);
/* Begins a new one, durably but for its name. */
nib_status nib_journal_create(char *path, const char *identity, nib_journal *journal);
void       nib_journal_close(nib_journal *journal);

/* Line "word text" counts from now on and is written by the next flush. */
nib_status nib_journal_add(nib_journal *journal, const char *word, const char *text);
int        nib_journal_has(const nib_journal *journal, const char *word, const char *text);
/* Rest of a line "word text REST", or NULL; the journal's. */
const char *nib_journal_find(const nib_journal *journal, const char *word, const char *text);
nib_status nib_journal_flush(nib_journal *journal);

#endif
