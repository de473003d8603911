/* trace.h - what happened to pages, in memory: read from a file, or made of something else. */
#ifndef KVPAGER_REPLAY_TRACE_H
#define KVPAGER_REPLAY_TRACE_H

#include <stdbool.h>
#include <stddef.h>

#include "kvpager.h"

/* kind: a kvp_trace_kind of those that say something about a page; number: of PAGE_NEW its place,
 * of PAGE_MASS octaves (the mass is 2^-number), else 0. */
typedef struct trace_op {
    uint32_t page;
    uint32_t kind : 4, number : 28;
} trace_op;

typedef struct trace_place {
    uint32_t lane, lane_index;
} trace_place;

typedef struct trace {
    char *name;          /* for messages */
    uint64_t page_bytes; /* 0: not known */
    uint32_t group_pages;
    trace_op *ops;
    size_t n_ops, ops_capacity;
    trace_place *places; /* of new pages, in order */
    size_t n_new, places_capacity;
    uint32_t n_pages;           /* numbers are below */
    uint64_t n_uses, n_seqs;    /* n_seqs: that there were */
    uint32_t n_live, peak_live; /* pages at the same time */
    bool *is_live;              /* [live_capacity] by number */
    size_t live_capacity;
} trace;

/* Read a file of trace_format.h. Errors: KVP_E_IO, KVP_E_CORRUPT (the message says at which byte),
 * KVP_E_UNSUPPORTED (the version), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status trace_read(const char *path, trace *t);
/* The same of bytes in memory. */
KVP_NODISCARD kvp_status trace_parse(const void *bytes, size_t n, const char *name, trace *t);
/* Read the block hashes of the Mooncake traces (Qin et al., FAST 2025): JSON Lines, an object per
 * request with the ids of the blocks of 512 tokens that its prompt consists of. A block is a page:
 * new when it is first met, used when it comes again; nothing is ever freed.
 * Errors: KVP_E_IO, KVP_E_INVALID (the message says in which line), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status trace_read_mooncake(const char *path, trace *t);
KVP_NODISCARD kvp_status trace_parse_mooncake(const char *text, size_t n, const char *name,
                                              trace *t);
void trace_free(trace *t);

/* ---- for those who make one ---- */

KVP_NODISCARD kvp_status trace_init(trace *t, const char *name);
/* Add what happened to a page. Errors: KVP_E_CORRUPT it cannot have (the message says why, without
 * a place), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status trace_add_new(trace *t, uint32_t page, uint32_t lane, uint32_t lane_index);
KVP_NODISCARD kvp_status trace_add(trace *t, kvp_trace_kind kind, uint32_t page, uint32_t number);

#endif
