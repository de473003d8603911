/* seq.h - a sequence's address space: the page tables of its lanes. */
#ifndef KVPI_ALLOC_SEQ_H
#define KVPI_ALLOC_SEQ_H

#include "alloc/geometry.h"
#include "alloc/lane.h"

struct kvp_seq {
    kvp_pager *pager;
    uint32_t id;          /* for messages: never used twice in a pager */
    uint32_t n_pins;      /* pages pinned by views */
    kvp_seq *prev, *next; /* the pager's list */
    kvpi_lane lanes[];    /* [geometry.n_lanes] */
};

/* A sequence without tokens. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_seq_new(kvp_pager *pager, const kvpi_geometry *g, const kvp_mem *mem,
                                      kvp_seq **out);
/* Frees the tables; the pages are the pager's business. */
void kvpi_seq_delete(kvp_seq *seq, const kvpi_geometry *g, const kvp_mem *mem);
/* Bytes that the tables take. */
size_t kvpi_seq_bytes(const kvp_seq *seq, const kvpi_geometry *g);

#endif
