/* folder.h - files of a model folder: whole-file reads with messages that name the file. */
#ifndef KVPAGER_FILES_FOLDER_H
#define KVPAGER_FILES_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

#include "kvpager/status.h"

#define FOLDER_PATH_BYTES 4096

/* "dir/name". Errors: KVP_E_INVALID when that is longer than a path can be. */
KVP_NODISCARD kvp_status folder_path(const char *dir, const char *name,
                                     char path[FOLDER_PATH_BYTES]);
/* Errors: KVP_E_IO: there is no such folder. */
KVP_NODISCARD kvp_status folder_check(const char *dir);
/* Whether there is something called dir/name (of any kind, readable or not). */
bool folder_has(const char *dir, const char *name);
/* Read dir/name whole; *bytes is malloc'd, has a NUL after the last byte, and is the caller's.
 * Errors: KVP_E_IO (missing, a directory, not readable), KVP_E_INVALID (larger than limit_bytes),
 *         KVP_E_NOMEM. */
KVP_NODISCARD kvp_status folder_read(const char *dir, const char *name, size_t limit_bytes,
                                     char **bytes, size_t *n);

#endif
