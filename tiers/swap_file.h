/* swap_file.h - the file behind the disk tier: a superblock, then segments (FORMAT.md).
 *
 * A swap file lives as long as the pager. A named one is visible, locked while open and removed at
 * close; what an unclean exit left behind is discarded and reused. Any other existing file is
 * refused. Without a name it has none: nobody else can open it, and it goes when the process goes.
 */
#ifndef KVPI_TIERS_SWAP_FILE_H
#define KVPI_TIERS_SWAP_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/env.h"

typedef struct kvpi_swap_file {
    int fd;
    bool is_direct;      /* O_DIRECT */
    uint64_t size_bytes; /* of the file now, header included */
    uint64_t max_bytes;  /* never grows beyond */
    uint64_t store_id;   /* random */
    size_t slot_bytes, segment_bytes;
    char *path; /* of the file or, if it has no name, of its folder */
    bool is_named;
    int owner; /* the process that removes it */
    const kvp_mem *mem;
    const kvp_env *env;
} kvpi_swap_file;

/* Open the file, with its header written, in *f. `path` NULL: an unlinked file in $TMPDIR or
 * /var/tmp. Errors: KVP_E_INVALID the path is another kind of file; KVP_E_BUSY another process has
 * it open; KVP_E_IO; KVP_E_NOSPACE; KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_swap_file_open(const char *path, size_t slot_bytes,
                                             size_t segment_bytes, uint64_t max_bytes,
                                             const kvp_mem *mem, const kvp_env *env,
                                             kvpi_swap_file *f);
/* Removes the file. */
void kvpi_swap_file_close(kvpi_swap_file *f);

/* Make the file at least `bytes` long, with the room on the device allocated; takes more, in
 * chunks, where max_bytes and the device allow. `bytes` <= max_bytes.
 * Threads: one at a time; I/O may go on. Errors: KVP_E_NOSPACE (the message says what is full). */
KVP_NODISCARD kvp_status kvpi_swap_file_grow(kvpi_swap_file *f, uint64_t bytes);

#endif
