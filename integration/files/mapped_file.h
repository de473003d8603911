/* mapped_file.h - a file mapped read-only, with messages that name it. */
#ifndef KVPAGER_FILES_MAPPED_FILE_H
#define KVPAGER_FILES_MAPPED_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "kvpager/status.h"

typedef struct mapped_file {
    char *path; /* for messages */
    const unsigned char *bytes;
    size_t n_bytes;
    bool is_borrowed; /* bytes are the caller's memory */
} mapped_file;

/* Errors: KVP_E_IO (missing, not a regular file, not readable), KVP_E_CORRUPT (empty),
 * KVP_E_NOMEM. */
KVP_NODISCARD kvp_status mapped_file_open(const char *path, mapped_file *out);
/* n bytes in memory as if they were the file; they must outlive it. */
KVP_NODISCARD kvp_status mapped_file_borrow(const void *bytes, size_t n, const char *path,
                                            mapped_file *out);
/* A zeroed one is fine. */
void mapped_file_close(mapped_file *m);

/* Bytes [begin, begin + n) of it will not be needed soon: what was mapped in for them leaves the
 * process's memory. Whoever reads them again gets them from the file. */
void mapped_file_release(const mapped_file *m, const unsigned char *begin, size_t n);

#endif
