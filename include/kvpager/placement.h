/* kvpager/placement.h - placement policies: which page leaves a tier first. Lossless.
 *
 * The pager keeps one instance per tier that it reclaims from. A policy decides; it neither counts
 * references nor moves bytes, allocates nothing after open, and is deterministic for a given call
 * sequence, so that traces replay. Pages are 32-bit numbers; the policy's per-page scratch is a
 * kvp_placement_node that the pager keeps for it. Calls are serialised by the pager's lock. */
#ifndef KVPAGER_PLACEMENT_H
#define KVPAGER_PLACEMENT_H

#include "kvpager/mem.h"
#include "kvpager/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_PAGE_NONE UINT32_MAX

/* The policy's own words about one page in one tier; zero before insert. */
typedef struct kvp_placement_node {
    uint32_t prev, next;
    uint32_t key;
} kvp_placement_node;

/* What a policy may know of a page. */
typedef struct kvp_placement_page {
    uint32_t page;       /* its number */
    uint32_t lane_index; /* ordinal in its lane: first position / page_tokens */
    uint32_t lane;       /* ordinal of the lane in its sequence */
    bool is_open;        /* the lane's last, mutable page */
    bool is_cold;        /* the caller will not use it soon: it leaves before all others */
    bool is_hot;         /* its layer is being filled: every further chunk reads it again */
} kvp_placement_page;

typedef struct kvp_placement kvp_placement;

typedef struct kvp_placement_config {
    const kvp_mem *mem;
    /* Scratch of page number `page`. */
    kvp_placement_node *(*node)(void *opaque, uint32_t page);
    void *opaque;
    uint32_t group_pages; /* neighbours of a lane that are kept or dropped together */
} kvp_placement_config;

typedef struct kvp_placement_ops {
    const char *name;
    kvp_status (*open)(const kvp_placement_config *cfg, kvp_placement **out);
    void (*close)(kvp_placement *p);
    /* The page has got a copy in the tier that may be reclaimed: it is new there, or unpinned after
     * use. */
    void (*insert)(kvp_placement *p, const kvp_placement_page *page);
    /* It is being used (pinned), or its copy is gone. */
    void (*remove)(kvp_placement *p, uint32_t page);
    /* Pages in the order in which they should leave: the first for KVP_PAGE_NONE, else the one
     * after `after`; KVP_PAGE_NONE at the end. */
    uint32_t (*victim)(kvp_placement *p, uint32_t after);
} kvp_placement_ops;

struct kvp_placement {
    const kvp_placement_ops *ops;
};

/* Keeps a fixed subset, spread evenly over each lane, and streams the rest (the default): decode is
 * a cyclic scan, where LRU has no hits at all as soon as the KV exceeds the budget. */
KVP_API extern const kvp_placement_ops kvp_placement_sticky;
/* Least recently used first. */
KVP_API extern const kvp_placement_ops kvp_placement_lru;

/* By name: "sticky", "lru"; NULL if there is no such policy. */
KVP_API const kvp_placement_ops *kvp_placement_find(const char *name);

#ifdef __cplusplus
}
#endif
#endif
