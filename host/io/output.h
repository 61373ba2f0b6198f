/* output.h: files that appear under their final name whole or not at all.
 *
 * An output is written aside and renamed. For the destination folder/NAME there are, all in
 * folder and all gone after commit:
 *
 *   .NAME.nibble-lock      held (flock) by the run that writes; freed when the process ends
 *   .NAME.nibble-partial   the file, or the folder of files, under construction
 *   .NAME.nibble-journal   what of it is durable: one line per step, so that a run that was killed
 *                          can be resumed. A step's line is written after its data are on disk.
 *   .NAME.nibble-old       only while a folder is replaced on a file system without
 *                          renameat2(RENAME_EXCHANGE): the folder that was there before
 *
 * A kill at any moment, and a loss of power, leaves either nothing or a whole output under the
 * final name. (In the fallback named last there is a moment without either; the next
 * nib_output_begin puts the old folder back.) Errors are NIB_ERR_IO with path, offset and the
 * system's words where nothing else is said. After a failed write or sync the output is broken:
 * done and commit refuse, abort is what is left.
 */
#ifndef NIB_OUTPUT_H
#define NIB_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

#include "nibble/status.h"

typedef struct nib_output      nib_output;
typedef struct nib_output_data nib_output_data; /* one large file of an output */

/* Begins to write dst, a file or a folder (is_folder) of plain files.
 *
 *   force        1: replace dst if it exists. A file replaces a file; a folder replaces a folder
 *                that holds no folders. Nothing else is ever replaced, symbolic links included.
 *   resume       1: go on with what an earlier run of the same fingerprint left, if it left
 *                anything. 0: remove what an earlier run left.
 *   fingerprint  one line of text that names the source and all options that decide the bytes;
 *                words "key=value" make the error name the first one that differs
 *
 * Returns NIB_ERR_EXISTS if dst exists (see force), another run is writing it, or with resume
 * the fingerprints differ; NIB_ERR_ARGUMENT for a dst whose last part is empty, "." or "..", or a
 * fingerprint that is empty or has a line break; NIB_ERR_IO. On failure *out is NULL and nothing
 * has changed but stale leftovers. */
nib_status nib_output_begin(const char *dst, int is_folder, int force, int resume,
                            const char *fingerprint, nib_output **out);

/* What nib_output_begin says of dst before it creates anything: that it is no name to write under,
 * or that what stands there is not replaced. Where an earlier run left something, begin alone can
 * tell. */
nib_status nib_output_check(const char *dst, int is_folder, int force);

/* Creates a file of file_bytes that begins with header and reads as zero behind it; on resume
 * opens the one that is there. name: NULL for an output that is a file itself, a plain name
 * within a folder else (NIB_ERR_ARGUMENT). The disk space is reserved where the file system can, so
 * that a full disk is seen here. NIB_ERR_EXISTS: on resume the file has another size or header
 * than the run that wrote its journalled steps gave it. *data belongs to out. Not thread-safe. */
nib_status nib_output_file(nib_output *out, const char *name, const void *header,
                           uint64_t header_bytes, uint64_t file_bytes, nib_output_data **data);

/* Writes bytes at offset, within file_bytes (NIB_ERR_ARGUMENT). Any number of threads may write
 * disjoint ranges at the same time. */
nib_status nib_output_write(nib_output_data *data, uint64_t offset, const void *bytes,
                            uint64_t n_bytes);

/* Says that all writes of this step have returned. step: a line of text without line breaks
 * (NIB_ERR_ARGUMENT), such as a tensor's name. The data are synced and the step journalled once
 * 256 MiB were written or 2 s went by since the last time, and on commit and abort: a kill may
 * cost that much work, no more. Thread-safe, together with write. */
nib_status nib_output_done(nib_output *out, const char *step);

/* 1 if this run or the one that is resumed said so. Thread-safe. */
int nib_output_is_done(nib_output *out, const char *step);

/* What follows first_words and a space in a step that was said, or NULL; out's. Thread-safe. */
const char *nib_output_step(nib_output *out, const char *first_words);

/* Steps that an earlier run finished. */
size_t nib_output_resumed(const nib_output *out);

/* A small file of a folder, written at once and synced. Resuming writes it again. */
nib_status nib_output_text(nib_output *out, const char *name, const void *text, size_t bytes);

/* Copies a regular file into the folder. */
nib_status nib_output_copy(nib_output *out, const char *name, const char *src_path);

/* Syncs everything, renames to dst, removes what was there before, journal and lock, and frees
 * out. On failure out stays for nib_output_abort; dst is then as it was, or whole and new if only
 * the removing failed. NIB_ERR_EXISTS: without force, dst appeared meanwhile. Whether every byte
 * of the files was written is the caller's knowledge: commit does not count steps. */
nib_status nib_output_commit(nib_output *out);

/* Gives up and frees out (NULL is allowed). keep: 1 leaves partial and journal for a resume, as far
 * as they can still be made durable; 0 removes them. dst is as it was. Leaves nib_last_error's
 * text alone. */
void nib_output_abort(nib_output *out, int keep);

#endif
