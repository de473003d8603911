/* kvpager/placement.h - placement policies: which page leaves a tier first. Lossless.
 *
 * The pager keeps one instance per tier that it reclaims from, and one more for each group or
 * sequence that has limits of its own there. A policy decides; it neither counts references nor
 * moves bytes, allocates nothing once it is open, and is deterministic for a given call sequence,
 * so that traces replay (kvpager replay, with these same functions). Pages are 32-bit numbers; what
 * the policy keeps of a page is a kvp_placement_node while it is in, and a word for as long as it
 * is the instance's; the pager has both. Calls are serialised by the pager's lock.
 *
 * Every policy keeps to this: cold pages leave before all others; after the others, if nothing
 * better is known of those, open ones, the least recently used first; and last of all hot ones. But
 * open pages of sequences that rest must not take all that there is. */
#ifndef KVPAGER_PLACEMENT_H
#define KVPAGER_PLACEMENT_H

#include "kvpager/mem.h"
#include "kvpager/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_PAGE_NONE UINT32_MAX
/* Of neighbours in a lane, so many bytes together are worth reading at once. */
#define KVP_GROUP_BYTES (512u << 10)

/* The policy's own words about one page in one tier; zero before a page that has got its copy is
 * inserted. It is kept until the copy is gone, also while the page is in use. */
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
    bool is_used;        /* it comes from being used; false: read ahead in vain, or told anew */
} kvp_placement_page;

/* Why a page is taken out. */
typedef enum kvp_removal {
    KVP_REMOVED_FOR_USE = 0, /* it is being used, and is inserted again when that ends */
    KVP_REMOVED_GONE,        /* its copy in the tier is gone; the page may come back */
    KVP_REMOVED_RETOLD,      /* as if it had not been inserted: what is known of it has changed, or
                                one only wanted to see where it stands */
} kvp_removal;

typedef struct kvp_placement kvp_placement;

typedef struct kvp_placement_config {
    const kvp_mem *mem;
    /* Scratch of page number `page`. */
    kvp_placement_node *(*node)(void *opaque, uint32_t page);
    /* What it remembers of page number `page`, in or not: zero at first, and again when the page
     * has gone for good. Only for policies that remember. */
    uint32_t *(*memory)(void *opaque, uint32_t page);
    void *opaque;
    /* Neighbours of a lane that are better kept or dropped together: as many pages as make
     * KVP_GROUP_BYTES, at least one. */
    uint32_t group_pages;
} kvp_placement_config;

typedef struct kvp_placement_ops {
    const char *name;
    kvp_status (*open)(const kvp_placement_config *cfg, kvp_placement **out);
    void (*close)(kvp_placement *p);
    /* The page has got a copy in the tier that may be reclaimed: it is new there, or unpinned after
     * use. */
    void (*insert)(kvp_placement *p, const kvp_placement_page *page);
    void (*remove)(kvp_placement *p, uint32_t page, kvp_removal why);
    /* Pages in the order in which they should leave: the first for KVP_PAGE_NONE, else the one
     * after `after`; KVP_PAGE_NONE at the end. */
    uint32_t (*victim)(kvp_placement *p, uint32_t after);
    /* NULL: it is not wanted. What share of the attention of its lane's queries the page had in its
     * last use: 0 .. 1. It is not in, but is about to be inserted if it has a copy. kvp_attend()
     * tells who has this. */
    void (*mass)(kvp_placement *p, uint32_t page, float mass);
    bool remembers; /* it uses kvp_placement_config.memory */
} kvp_placement_ops;

struct kvp_placement {
    const kvp_placement_ops *ops;
};

/* The default. Pages that come round again too late to be kept are thinned out to a fixed subset,
 * spread evenly over each lane: decode is a cyclic scan, where LRU has no hits at all as soon as
 * the KV exceeds the budget. Pages that come round soon enough stay, those overdue leave. */
KVP_API extern const kvp_placement_ops kvp_placement_sticky;
/* Least recently used first. */
KVP_API extern const kvp_placement_ops kvp_placement_lru;
/* Least frequently used first, with dynamic aging (LFU-DA). */
KVP_API extern const kvp_placement_ops kvp_placement_lfu;
/* First in, first out, with a second chance for pages that were used. */
KVP_API extern const kvp_placement_ops kvp_placement_clock;
/* S3-FIFO: a small queue filters what is used once, ghosts let pages back into the main queue. */
KVP_API extern const kvp_placement_ops kvp_placement_s3_fifo;
/* The page with the least attention mass first. */
KVP_API extern const kvp_placement_ops kvp_placement_attention_mass;

/* By name: "sticky", "lru", "lfu", "clock", "s3-fifo", "attention-mass"; NULL if there is no such
 * policy. */
KVP_API const kvp_placement_ops *kvp_placement_find(const char *name);
/* All of them, in this order: number i, NULL from the last one on. */
KVP_API const kvp_placement_ops *kvp_placement_at(size_t i);

#ifdef __cplusplus
}
#endif
#endif
