/* kvpager/linear.h - linear views: the K or V rows of one KV head as one contiguous, read-only
 * address range, for code that cannot walk a table of pages.
 *
 *     cfg.linear_bytes = 1u << 20;                           of ram_bytes, when the pager is opened
 *     kvp_linear view;
 *     kvp_linear_open(seq, &(kvp_linear_args){.layer = 3, .kv_head = 1, .plane = KVP_PLANE_K},
 *                     &view);
 *     for (i = 0; i < view.n_rows; i++)      any code: row i is at base + i * row_bytes
 *         use((const char *)view.base + i * view.row_bytes);
 *     kvp_linear_close(&view);
 *
 * Nothing is copied at first (but the open page, see below). Touching rows that are not there stops
 * the thread for as long as it takes to fault their page in, verify it and copy the head's rows to
 * where they are expected (userfaultfd). A view keeps what was copied up to its share of RAM; then
 * what came first goes, and is copied again when it is wanted again. Readers that go through a view
 * in order are read ahead of.
 *
 * This is for compatibility. A copy of 8 KiB costs as much as thousands of steps through a page
 * table: code that can take pages pins them or scans (kvpager/view.h, kvpager/scan.h).
 *
 * What a view shows: the tokens that were there when it was opened. Tokens appended later are not
 * in it; truncating or evicting from the sequence is refused (KVP_E_BUSY) while it has a view, and
 * it may not be destroyed. Rows of the open page, to which tokens may still be appended, are copied
 * at open and stay.
 *
 * When a page cannot be had (damaged, lost, I/O error): the reader gets SIGBUS, as from a mapped
 * file that could not be read, never other bytes; kvp_linear_status() then says what happened. A
 * system call that is given such rows fails with EFAULT. This is for good, and includes rows that
 * share an OS page with those: to try again, open another view.
 *
 * Without privileges many kernels (sysctl vm.unprivileged_userfaultfd = 0) fill only what programs
 * touch themselves: then `has_system_calls` is false, and system calls that are given rows that are
 * not there, e.g. write(2), fail with EFAULT. Where userfaultfd is forbidden altogether (containers
 * do), kvp_linear_open() fails with KVP_E_UNSUPPORTED.
 *
 * A view does not exist in a forked child. It must not be written to, locked in memory, or given
 * back to the system by anyone else. */
#ifndef KVPAGER_LINEAR_H
#define KVPAGER_LINEAR_H

#include "kvpager.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kvp_plane { KVP_PLANE_K = 0, KVP_PLANE_V = 1 } kvp_plane;

/* Zero-initialise, then set what is needed. */
typedef struct kvp_linear_args {
    uint32_t layer, kv_head;
    kvp_plane plane;
    uint64_t first, n_tokens; /* positions [first, first + n_tokens); n_tokens 0: all from first */
    /* RAM that the view may take of kvp_config.linear_bytes, reserved until it is closed. It is
     * counted in pieces, a page's rows of the head rounded up to OS pages: one to three for the
     * view itself, and two for each thread that reads at a time. 0: what the whole view takes, or
     * else all that is left. */
    uint64_t max_bytes;
} kvp_linear_args;

typedef struct kvp_linear {
    const void *base; /* row 0: the token at args.first */
    size_t row_bytes; /* from a row to the next: that of K or of V in a page */
    uint64_t n_rows;
    bool has_system_calls;    /* system calls may read rows that nobody has touched before */
    struct kvpi_linear *view; /* private */
} kvp_linear;

/* Errors : KVP_E_INVALID no such layer, head or plane; KVP_E_RANGE no such tokens, or some of them
 *          were evicted; KVP_E_BUDGET linear_bytes or max_bytes is too small; KVP_E_UNSUPPORTED
 *          userfaultfd is missing or forbidden; KVP_E_NOSPACE every frame is pinned; KVP_E_NOMEM;
 *          KVP_E_CORRUPT, KVP_E_LOST, KVP_E_IO bringing the open page back.
 * Threads: a call on the sequence. Any number of threads may read the range until it is closed; the
 *          sequence may be appended to, attended, scanned and pinned meanwhile. */
KVP_API KVP_NODISCARD kvp_status kvp_linear_open(kvp_seq *seq, const kvp_linear_args *args,
                                                 kvp_linear *linear);
/* NULL, and what is not open, do nothing. Nobody should be reading: a thread that is gets SIGSEGV.
 */
KVP_API void kvp_linear_close(kvp_linear *linear);

/* KVP_OK, or why rows could not be had the first time that happened: KVP_E_CORRUPT, KVP_E_LOST,
 * KVP_E_IO, KVP_E_NOSPACE, KVP_E_NOMEM. Not for signal handlers: call it after siglongjmp(). */
KVP_API KVP_NODISCARD kvp_status kvp_linear_status(const kvp_linear *linear);

#ifdef __cplusplus
}
#endif
#endif
