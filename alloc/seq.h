/* seq.h - a sequence's address space: the page tables of its lanes. */
#ifndef KVPI_ALLOC_SEQ_H
#define KVPI_ALLOC_SEQ_H

#include "alloc/walk.h"
#include "kvpager/budget.h"

/* The last scan of a layer, and which scan was opened next; who holds its open pages. */
typedef struct kvpi_trail {
    uint64_t sinks_end, begin; /* as in kvpi_walk */
    uint32_t next_seq, next_layer;
    uint32_t n_open_pins; /* views of the sequence with the pages that are written to next */
    bool is_known;        /* next_* are set */
    bool is_sure;         /* they were the same the time before, or this was the first time */
} kvpi_trail;

/* Where read-ahead stands. */
typedef struct kvpi_outlook {
    kvpi_walk walk;
    kvpi_cursor at;
    uint32_t layer;
    uint32_t n_hops; /* guesses made since the last scan was opened */
    bool is_guess;   /* nobody has opened a scan of this layer since */
} kvpi_outlook;

struct kvp_seq {
    kvp_pager *pager;
    kvp_group *account;   /* the group's, or its own: whom its new pages are charged to */
    uint32_t id;          /* never used twice in a pager */
    uint32_t n_pins;      /* pages pinned by views */
    uint32_t n_tickets;   /* that are open */
    kvp_seq *prev, *next; /* the pager's list */
    kvp_seq *chained;     /* the next one in its chain, by number */
    struct {              /* of the advice KVP_WILLNEED: not fetched yet */
        uint64_t begin, end;
        uint32_t lane, entry; /* where to go on */
        kvp_seq *prev, *next; /* the pager's list */
        bool is_listed;
    } wanted;
    uint32_t n_scans;   /* open ones */
    uint32_t hot_layer; /* that is being filled; UINT32_MAX: none */
    kvpi_outlook ahead;
    kvpi_trail *trails; /* [geometry.n_layers] */
    kvpi_lane lanes[];  /* [geometry.n_lanes] */
};

/* A sequence without tokens. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_seq_new(kvp_pager *pager, const kvpi_geometry *g, const kvp_mem *mem,
                                      kvp_seq **out);
/* Frees the tables; the pages are the pager's business. */
void kvpi_seq_delete(kvp_seq *seq, const kvpi_geometry *g, const kvp_mem *mem);

#endif
