/* output_state.h: what output.c and output_data.c share; the replacing of folders by two renames
 * is here for its test. */
#ifndef NIB_OUTPUT_STATE_H
#define NIB_OUTPUT_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "host/io/output.h"
#include "host/io/output_journal.h"

struct nib_output_data {
    nib_output      *out;
    nib_output_data *next;
    char            *path;
    char            *name;       /* "/" for the output itself */
    uint64_t         file_bytes;
    int              fd;         /* -1 once commit has closed it */
};

struct nib_output {
    char *dst, *parent, *partial, *journal_path, *lock, *old;
    int   is_folder, force;
    int   lock_fd;
    nib_output_data *data;
    atomic_int       broken;        /* a write or sync failed: what is on disk is unknown */
    atomic_uint_fast64_t unsynced;  /* bytes written since the last sync, about */
    uint64_t         sync_bytes;    /* so many of them make done sync; tests make it small */

    pthread_mutex_t mutex;          /* of all below */
    nib_journal     journal;
    int             names_changed;  /* a file was created: its folder needs a sync too */
    struct timespec synced_at;
};

/* Syncs data, then names, then writes the journal's pending lines. Call with the mutex held, or
 * where no other thread can be. */
nib_status nib_output_sync(nib_output *out);

/* Removes files' handles; NIB_ERR_IO if closing one fails. */
nib_status nib_output_close_data(nib_output *out);

/* Puts partial in the place of the folder dst, which becomes old. Between the two renames there is
 * no dst; nib_output_begin repairs that. On failure dst is as it was. */
nib_status nib_replace_in_two_steps(const char *partial, const char *dst, const char *old);

#endif
