/* kvpager/trace.h - what happens to pages, told as it happens: kvp_config.trace.
 *
 * Enough to replay it against any placement policy and any budget: which pages there are, and in
 * which order they are used. Where they lie is not told: it depends on the budget. A use begins
 * with its event and is over before the next event about another page (with several threads, nearly
 * so).
 *
 * Called with the pager's lock held: it must be quick, and must not call the pager. */
#ifndef KVPAGER_TRACE_H
#define KVPAGER_TRACE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The members of the event that are set stand behind each. */
typedef enum kvp_trace_kind {
    KVP_TRACE_SEQ_CREATED = 1, /* seq */
    KVP_TRACE_SEQ_FORKED = 2,  /* seq, parent: shares all of its pages */
    KVP_TRACE_SEQ_ENDED = 3,   /* seq */
    KVP_TRACE_PAGE_NEW = 4,    /* page, seq, lane, lane_index: open, and being written */
    KVP_TRACE_PAGE_SEALED = 5, /* page: full */
    KVP_TRACE_PAGE_OPENED = 6, /* page: truncated, and being written again */
    KVP_TRACE_PAGE_USED = 7,   /* page: read by a scan or a view, or written again */
    KVP_TRACE_PAGE_FREED = 8,  /* page: its number may be given to another */
    KVP_TRACE_PAGE_COLD = 9,   /* page: the caller will not use it soon */
    KVP_TRACE_PAGE_HOT = 10,   /* page: its layer is being filled */
    KVP_TRACE_PAGE_COOL = 11,  /* page: it is not any more */
    KVP_TRACE_PAGE_MASS = 12,  /* page, mass: of its last use; where kvp_attend() is asked for it */
} kvp_trace_kind;

typedef struct kvp_trace_event {
    kvp_trace_kind kind;
    uint32_t seq, parent;
    uint32_t page;
    uint32_t lane;       /* ordinal in its sequence */
    uint32_t lane_index; /* ordinal of the page in its lane: first position / page_tokens */
    float mass;          /* share of its lane's attention: 0 .. 1 */
} kvp_trace_event;

#ifdef __cplusplus
}
#endif
#endif
