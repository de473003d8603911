/* account.h - who is charged for what: a tree of accounts. The root is the pager's, groups are
 * below, and sequences with a budget of their own are leaves.
 *
 * Two things are counted per tier. What is *used*: frames, compressed bytes, disk slots that pages
 * have, here and below. And what is *claimed*: what may come to be used without anybody asking
 * again, which is decided about before it is granted. In RAM those are frames reserved by holders
 * and pages that can go nowhere else (stuck); in zram, bytes and room for pages being encoded; on
 * disk, slots and those promised to dirty pages. An account commits to max(min, claims), its
 * parent to the sum of that.
 *
 * A page that is dirty and has no disk slot *needs* one. As many of an account's needs as there are
 * promised slots (and room in its budget) are *backed*; the others are stuck in RAM.
 *
 * Invariants (kvp_pager_check; but for an account whose budget is being changed)
 *  B1  used <= max, in every tier, at every account.
 *  B2  commitment <= max, likewise: a claim that was granted can be honoured, and so can every min.
 *      (Not zram as a whole where there is no disk: what is encoded there may turn out to fit.)
 *  B3  own, below, used and the rest add up from pages and holders.
 *  B4  Whoever can reach a page is in the account that it is charged to: a pin is counted there.
 *  B5  An account is a giver of a tier if its policy, or one below, has pages; hands are at givers:
 *      whoever looks for victims does not come by accounts from which there are none to be had. */
#ifndef KVPI_TIERS_ACCOUNT_H
#define KVPI_TIERS_ACCOUNT_H

#include "alloc/page.h"
#include "alloc/seq.h"
#include "kvpager/budget.h"

#define KVPI_ACCOUNT_NAME_BYTES 32
/* No tier has so many frames, bytes or slots: limits above are none, and sums do not overflow. */
#define KVPI_MOST_UNITS (UINT64_C(1) << 48)

/* Claims to one tier, in its unit: frames, bytes of zram, slots. */
typedef struct kvpi_quota {
    uint64_t min, max; /* less than KVPI_MOST_UNITS; max: or KVP_UNLIMITED */
    uint64_t own;      /* claimed by this account itself */
    uint64_t below;    /* what the accounts below commit to */
} kvpi_quota;

static inline uint64_t kvpi_quota_claims(const kvpi_quota *q)
{
    return q->own + q->below;
}
static inline uint64_t kvpi_quota_commitment(const kvpi_quota *q)
{
    return kvpi_quota_claims(q) > q->min ? kvpi_quota_claims(q) : q->min;
}
/* Of its min, what is not used up. */
static inline uint64_t kvpi_quota_slack(const kvpi_quota *q)
{
    return kvpi_quota_commitment(q) - kvpi_quota_claims(q);
}

/* The way round the accounts that may give pages of a tier. */
typedef struct kvpi_givers {
    uint64_t n_listed;                     /* pages in the account's own policy */
    kvp_group *first, *last, *prev, *next; /* children that are givers, and siblings */
    kvp_group *hand;                       /* where to begin; NULL: here */
} kvpi_givers;

struct kvp_group {
    kvp_pager *pager;
    kvp_group *parent, *first_child, *prev, *next; /* NULL: the root; siblings */
    uint32_t depth;
    uint32_t n_refs; /* handles, sequences, accounts below, pages, transfers */
    uint32_t n_seqs;
    uint16_t no;  /* what pages say */
    bool is_seq;  /* a sequence's own */
    bool is_gone; /* destroyed: it has no limits any more */
    char name[KVPI_ACCOUNT_NAME_BYTES];

    kvpi_quota quota[KVP_N_TIERS];
    uint64_t used[KVP_N_TIERS], peak[KVP_N_TIERS]; /* here and below */
    uint32_t held, held_user;                      /* frames reserved; of those, by views */
    uint32_t n_ahead;                              /* of those, for read-ahead: here and below */
    uint32_t n_needs, n_backed;                    /* pages, and those about to be */

    /* Of pages charged here, or below where there is no policy; NULL: they are in a parent's. */
    kvp_placement *policies[KVP_N_TIERS];
    kvpi_givers givers[KVP_N_TIERS];
    uint64_t n_pages; /* charged here */

    uint64_t minor_faults, major_faults, evictions_self, evictions_others; /* here and below */
};

static inline bool kvpi_is_giver(const kvp_group *g, kvp_tier_id tier)
{
    return g->givers[tier].n_listed || g->givers[tier].first;
}

/* All with the lock held. */

KVP_NODISCARD kvp_status kvpi_accounts_open(kvp_pager *p); /* the root */
void kvpi_accounts_close(kvp_pager *p);
/* Below `parent`, without limits; name NULL: by its number. Errors: KVP_E_NOMEM, KVP_E_INVALID too
 * many. */
KVP_NODISCARD kvp_status kvpi_account_new(kvp_pager *p, kvp_group *parent, bool is_seq,
                                          const char *name, kvp_group **out);
void kvpi_account_ref(kvp_group *g);
void kvpi_account_unref(kvp_group *g); /* the last one frees it */
/* a is b, or above it. */
bool kvpi_account_has(const kvp_group *a, const kvp_group *b);
/* The account after g in the tree below `top`, top itself first; NULL: that was the last. */
kvp_group *kvpi_account_next(const kvp_group *top, kvp_group *g);

/* The group that the sequence is in. */
static inline kvp_group *kvpi_seq_group(const kvp_seq *seq)
{
    return seq->account->is_seq ? seq->account->parent : seq->account;
}
/* Whom the page is charged to. */
kvp_group *kvpi_account_of(const kvp_pager *p, const kvpi_page *pg);
/* The page, new or about to go, is charged, or no more. */
void kvpi_account_add_page(kvp_pager *p, kvpi_page *pg, kvp_group *g);
void kvpi_account_drop_page(kvp_pager *p, kvpi_page *pg);

/* Used by the account from now on, or (less than 0) no more. */
void kvpi_account_use(kvp_group *g, kvp_tier_id tier, int64_t n);
/* Claimed by it; whether there is room is the caller's business. */
void kvpi_account_claim(kvp_group *g, kvp_tier_id tier, int64_t n);
void kvpi_account_set_limits(kvp_group *g, kvp_tier_id tier, uint64_t min, uint64_t max);
/* How much more it may claim. */
uint64_t kvpi_account_room(const kvp_group *g, kvp_tier_id tier);
void kvpi_account_hold(kvp_pager *p, kvp_group *g, int32_t n);

/* Pages, or admissions, that need a disk slot: so many more. Backs what can be. */
void kvpi_account_need(kvp_pager *p, kvp_group *g, int32_t n);
/* Back what has become possible to back. */
void kvpi_account_settle(kvp_pager *p, kvp_group *g);
void kvpi_accounts_settle(kvp_pager *p); /* of all */
/* How many more needs could be backed now. */
uint64_t kvpi_account_backable(const kvp_pager *p, const kvp_group *g);
static inline uint32_t kvpi_account_stuck(const kvp_group *g)
{
    return g->n_needs > g->n_backed ? g->n_needs - g->n_backed : 0;
}
/* A page of the account has taken a disk slot; is_needed: one that it needed, and that may have
 * been promised to it. Before, kvpi_account_may_take_slot() must have been true. */
void kvpi_account_take_slot(kvp_pager *p, kvp_group *g, bool is_needed);
bool kvpi_account_may_take_slot(kvp_pager *p, kvp_group *g, bool is_needed);
/* A disk slot is free again. */
void kvpi_account_free_slot(kvp_pager *p, kvp_group *g);

/* How much more the account above a sequence's would commit to if it had the sequence's pages: its
 * min is kept for it all the same. */
uint64_t kvpi_account_rise(const kvp_group *g, kvp_tier_id tier);

/* What the account would claim of RAM if less were held. */
typedef enum kvpi_holders {
    KVPI_ALL_HOLDERS,
    KVPI_BUT_READ_AHEAD,
    KVPI_VIEWS_ONLY,
    KVPI_NO_HOLDERS,
} kvpi_holders;
uint64_t kvpi_account_claims_if(const kvp_group *g, kvpi_holders holders);
/* Frames that the account can have at most. */
uint32_t kvpi_account_frames(const kvp_group *g);

/* ---- victims.c ---- */

/* Give the account a policy of its own for the tier, if it has none, and the pages in it.
 * Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_policy_open(kvp_pager *p, kvp_group *g, kvp_tier_id tier);
void kvpi_policies_close(kvp_group *g);
void kvpi_policy_insert(kvp_pager *p, kvp_tier_id tier, const kvp_placement_page *info);
void kvpi_policy_remove(kvp_pager *p, kvp_tier_id tier, uint32_t page, kvp_removal why);
/* To a policy that wants it, and that the page is not in. */
void kvpi_policy_mass(kvp_pager *p, kvp_tier_id tier, uint32_t page, float mass);
/* The page is about to be charged to another account. True: it has left the policy that it was in,
 * whose flag it still has, and what was known of it is forgotten; false: it stays where it is. */
bool kvpi_policy_moves(kvp_pager *p, kvp_tier_id tier, uint32_t page, kvp_group *to);
/* Words per page that the tiers' policies remember. */
uint32_t kvpi_policy_memories(const kvp_config *cfg);

/* Pages in the order in which they should leave the tier, of accounts in `scope`, so that `cause`,
 * an account in it, gets room there: those of others only while these are above their min. */
typedef struct kvpi_victims {
    kvp_tier_id tier;
    bool spares_seqs; /* they have mins too; false: only those of groups count */
    kvp_group *scope;
    const kvp_group *cause;
    kvp_group *first, *at; /* whose pages come first, and now */
    kvp_group *start,
        *walk;   /* where the way round the scope began, and goes on; NULL: it is over */
    bool is_cut; /* not all have been compared */
    uint32_t page;
} kvpi_victims;

kvpi_victims kvpi_victims_of(kvp_group *scope, const kvp_group *cause, kvp_tier_id tier,
                             bool spares_seqs);
uint32_t kvpi_victim_next(kvpi_victims *v); /* KVP_PAGE_NONE: there are no more */
/* One of them is about to leave: the next are looked for a little further on. */
void kvpi_victims_pass(const kvpi_victims *v);
/* Would the page, were it in zram, leave before the first of these victims? */
bool kvpi_policy_leaves_first(kvp_pager *p, uint32_t page, const kvpi_victims *v);

/* ---- resize.c ---- */

/* Change the limits, in the tier's unit, bringing down what is above. Errors: KVP_E_BUDGET,
 * KVP_E_NOMEM, KVP_E_NOSPACE, KVP_E_IO, KVP_E_TIMEOUT. */
KVP_NODISCARD kvp_status kvpi_account_resize(kvp_pager *p, kvp_group *g, kvp_tier_id tier,
                                             uint64_t min, uint64_t max, uint64_t deadline_ns);

#endif
