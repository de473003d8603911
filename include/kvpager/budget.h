/* kvpager/budget.h - budgets in a tree: the pager, groups of sequences (tenants), sequences.
 *
 * Each has, per tier, a `max` and a `min`. `max` is hard: never is more than that charged, also
 * while bytes are on their way. `min` is protected: what a group has up to there does not leave the
 * tier because of others, and is kept free for it while it has less.
 *
 * What is charged: in RAM, frames of slot_bytes (kvp_stats) each, those that scans use beside pages
 * included; in zram, compressed bytes; on disk, slots of slot_bytes each. RAM and disk budgets are
 * rounded down to whole slots.
 *
 * To whom: a page is charged to the sequence that created it (if that has a budget of its own), its
 * group, and all groups above. When another sequence shares the page (kvp_seq_fork), it is charged
 * to their group alone, and stays so when they end: no sequence is held up by pins of another, and
 * none has to pay for what outlives it.
 *
 * Who gives way: a frame comes from where there is no room; if several could give one, from the
 * account that is furthest above its min, in the order of its placement policy. (Of 64 accounts,
 * where more could give one: which 64 goes round.)
 *
 *     kvp_budget b = kvp_budget_default();
 *     b.name = "tenant 7";
 *     b.max[KVP_TIER_RAM] = 64u << 20;
 *     b.min[KVP_TIER_RAM] = 16u << 20;
 *     if (kvp_group_create(pager, NULL, &b, &group) || kvp_seq_create_in(group, &seq))
 *         die(kvp_error());
 *
 * Threads: any call at any time. */
#ifndef KVPAGER_BUDGET_H
#define KVPAGER_BUDGET_H

#include "kvpager.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvp_group kvp_group;

/* Indexed by tier; KVP_TIER_VRAM has no meaning yet. */
typedef struct kvp_budget {
    size_t size;               /* set by kvp_budget_default() */
    const char *name;          /* for messages; up to 31 bytes are copied. NULL: "group 3" */
    uint64_t min[KVP_N_TIERS]; /* bytes; 0: nothing is protected */
    uint64_t max[KVP_N_TIERS]; /* bytes; KVP_UNLIMITED: whatever the groups above leave */
} kvp_budget;

/* No limits, nothing protected. */
KVP_API kvp_budget kvp_budget_default(void);

/* A group below `parent` (NULL: below the pager). budget NULL: kvp_budget_default().
 * Errors: KVP_E_INVALID; KVP_E_BUDGET min is more than max, the mins in a group are together more
 *         than its max, or a RAM max holds too few frames; KVP_E_NOSPACE the min is pinned by views
 *         of others now; KVP_E_NOMEM. */
KVP_API KVP_NODISCARD kvp_status kvp_group_create(kvp_pager *pager, kvp_group *parent,
                                                  const kvp_budget *budget, kvp_group **group);
/* Its limits end. Sequences and groups that are still in it go on, bounded by the groups above.
 * NULL does nothing. kvp_pager_close() destroys all groups. */
KVP_API void kvp_group_destroy(kvp_group *group);

/* A sequence in the group. One that is forked from it is in the same group. Errors: as for
 * kvp_seq_create(). */
KVP_API KVP_NODISCARD kvp_status kvp_seq_create_in(kvp_group *group, kvp_seq **seq);

/* Change a budget, live. One that shrinks moves pages down and waits for frames in use, until
 * everything fits. On failure the old budget is in force, as it was all the time.
 * deadline_ns: on kvp_env.now_ns()'s clock; 0: do not wait, KVP_FOREVER: as long as it takes.
 * Errors: as for kvp_group_create(); KVP_E_TIMEOUT; KVP_E_NOSPACE what is charged cannot leave the
 *         tier (pinned by views; no room below it); KVP_E_IO. */
KVP_API KVP_NODISCARD kvp_status kvp_group_set_budget(kvp_group *group, kvp_tier_id tier,
                                                      uint64_t min_bytes, uint64_t max_bytes,
                                                      uint64_t deadline_ns);
/* The first call gives the sequence an account of its own, to which the pages that it does not
 * share are charged from then on. Errors: KVP_E_BUSY pages are pinned, or scanned, during that
 * first call.
 * Threads: a call on the sequence. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_set_budget(kvp_seq *seq, kvp_tier_id tier,
                                                    uint64_t min_bytes, uint64_t max_bytes,
                                                    uint64_t deadline_ns);
/* In place of ram_bytes, zram_bytes or disk_bytes of kvp_config, which are the most that is
 * possible: RAM and zram are reserved at open. KVP_UNLIMITED: as much as at open. Shrinking RAM
 * also narrows read-ahead. */
KVP_API KVP_NODISCARD kvp_status kvp_pager_set_budget(kvp_pager *pager, kvp_tier_id tier,
                                                      uint64_t bytes, uint64_t deadline_ns);

/* What is charged to a group, and what happened to its pages. Set `size` before the call. */
typedef struct kvp_group_usage {
    size_t size;
    uint64_t bytes[KVP_N_TIERS], peak_bytes[KVP_N_TIERS]; /* charged now, and the most ever */
    uint64_t min_bytes[KVP_N_TIERS], max_bytes[KVP_N_TIERS];
    uint64_t minor_faults, major_faults;
    uint64_t evictions_self;   /* frames given up for pages of the group, or for its own budget */
    uint64_t evictions_others; /* for others, or a budget above */
    uint64_t n_seqs;           /* in it, not counting groups below */
} kvp_group_usage;

/* Errors: KVP_E_INVALID usage->size is not one this library knows. */
KVP_API KVP_NODISCARD kvp_status kvp_group_stats(kvp_group *group, kvp_group_usage *usage);
/* Of a sequence with a budget of its own. Errors: KVP_E_INVALID it has none: its pages are in its
 * group's figures. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_stats(kvp_seq *seq, kvp_group_usage *usage);

#ifdef __cplusplus
}
#endif
#endif
