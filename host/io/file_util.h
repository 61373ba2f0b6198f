/* file_util.h: names, paths and whole-file operations that report in nibble's way. */
#ifndef NIB_FILE_UTIL_H
#define NIB_FILE_UTIL_H

#include <stdint.h>

#include "nibble/status.h"

/* 1 if name is a file's name without a folder: not empty, "." or "..", no '/', no control
 * characters, at most 255 bytes. */
int nib_is_plain_name(const char *name);

/* "folder/name", malloc'd; NULL: out of memory. */
char *nib_path_join(const char *folder, const char *name);

/* Copies text and makes each control character '?', so that a hostile file cannot steer the
 * terminal that shows an error. Returns dst; cuts at bytes - 1. */
char *nib_clean_text(char *dst, uint64_t bytes, const char *text);

/* Moves two texts of words, parted by one blank each, to the first word that differs, and tells its
 * length in both; where only one text goes on, to what it has more. */
void nib_differing_words(const char **a, int *a_bytes, const char **b, int *b_bytes);

/* Writes all bytes at offset, through interruptions and short writes. path: for the error. */
nib_status nib_write_all(int fd, const char *path, uint64_t offset, const void *data,
                         uint64_t bytes);

/* Appends the rest of from to to (both at their file positions). */
nib_status nib_copy_all(int from, const char *from_path, int to, const char *to_path);

/* Makes names that were created, renamed or removed in a folder durable. */
nib_status nib_sync_folder(const char *path);

/* Removes a file, or a folder that holds no other folder; symbolic links are removed, never
 * followed. Nothing there is NIB_OK. */
nib_status nib_remove(const char *path);

#endif
