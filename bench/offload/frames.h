/* frames.h - where the frames of an all-in-RAM pager lie, for the contenders that leave paging to
 * the kernel.
 *
 * The same program, kernels and page layout; only the memory under the frames is another one. The
 * seam is the linker's: this program's calls of mmap() and madvise(), the library's included, come
 * by here (--wrap, see CMakeLists.txt), and the one that reserves the region of frames is told by
 * its MAP_NORESERVE. Nothing in the library knows. */
#ifndef BENCH_OFFLOAD_FRAMES_H
#define BENCH_OFFLOAD_FRAMES_H

#include <stdbool.h>

#include "kvpager/status.h"

typedef struct frames_place {
    const char *file; /* a shared mapping of this file; NULL: anonymous memory */
    /* NULL: as the library asks for it, with huge pages. "small": without them. "sequential": small
     * and MADV_SEQUENTIAL, for a file. */
    const char *advice;
} frames_place;

/* For regions of frames that are reserved from now on; errors show when there is one. */
KVP_NODISCARD kvp_status frames_put(const frames_place *place);
/* Write the file's dirty pages, so that decoding finds it as if it had been read only. */
KVP_NODISCARD kvp_status frames_flush(void);

#endif
