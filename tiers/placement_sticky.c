/* placement_sticky.c - what comes round too late to be kept is thinned out to a fixed subset.
 *
 * Every page has a last use, kept by page number, and so at its next use an age: the time that it
 * takes to come round. Time is counted in pages that come by (a use soon after the last one is
 * none), so a page whose age is at most the number of pages that are here fits, as LRU would have
 * it. An order of leaving follows:
 *
 *  1. cold pages;
 *  2. overdue ones: unused for a quarter longer than they took to come round the last time. They
 *     belong to a sequence that rests, or a part that is not read any more;
 *  3. late ones, which do not fit: sparse, by rank;
 *  4. early ones, which fit, by rank;
 *  5. hot ones, whose layer is being filled: every chunk of a prefill reads them again, by rank;
 *  6. open ones, which are about to be written again, the least recently used first.
 *
 * Rank. Decode reads all pages in a cycle: all are late, none is overdue. Any subset that stays
 * gives hits of budget / size, as many as there can be, where LRU has none. A group of neighbours
 * has a rank in [0, 1) that depends on nothing but where it is: frac(group * golden ratio + lane *
 * sqrt 2). Pages of the highest ranks leave first, so what stays are those below budget / size, and
 *  - they are spread evenly over a lane, and over lanes that have only a few groups: computing on
 *    resident groups overlaps with reading the others;
 *  - the choice is nested: as a sequence grows the threshold sinks, groups are only ever dropped,
 *    and none is fetched back to keep the spread.
 * Ranks are quantised into buckets. Within one the page inserted last leaves first: that is one
 * that was just streamed through, while those that stay were there before it.
 *
 * Overdue pages are found by a wheel: time is cut into slots, a quarter of the usual age of late
 * pages, and a page is inserted into the list of its rank and of the slot in which it falls due.
 * When a slot is over its pages move to the overdue list, a few with every use.
 *
 * Invariant: pages due in the slot that is over are moved before its lists are used again. */
#include "kvpager/placement.h"

#include "alloc/mem.h"
#include "tiers/placement_lists.h"

#include <assert.h>

#define BUCKET_LOG 8u
#define N_BUCKETS (1u << BUCKET_LOG)
#define N_SLOTS 8u
#define N_AHEAD                                                                                    \
    (N_SLOTS - 2)        /* slots that a page may be due in: not now, nor in the one just over */
#define SLOTS_PER_AGE 4u /* slots in the usual age of late pages */
#define DRAIN 4u         /* pages moved with every use */

/* Lists, in the order of leaving. Those of late and early pages are [bucket][slot]. */
#define COLD 0u
#define OVERDUE 1u
#define LATE 64u /* so that a word of lists begins with slot 0 */
#define EARLY (LATE + N_BUCKETS * N_SLOTS)
#define HOT (EARLY + N_BUCKETS * N_SLOTS)
#define OPEN (HOT + N_BUCKETS)
#define N_LISTS (OPEN + 1)

/* Fractions of 2^32: multiplying by them takes the fractional part for free. */
#define GOLDEN_RATIO 0x9e3779b9u
#define SQRT_2 0x6a09e667u

#define AGE_UNKNOWN UINT32_MAX
#define AGE_ONE 65536 /* usual_age has 16 fractional bits */

typedef struct placement_sticky {
    kvp_placement placement;
    kvpi_page_lists lists;
    uint32_t group_pages;
    uint32_t n_pages;          /* here, and not in use */
    uint32_t now;              /* never 0 */
    kvpi_page_words last_used; /* 0: never */
    int64_t usual_age;         /* of late pages: a moving average; at least n_pages */
    uint32_t slot, n_in_slot;  /* the current slot, and the time since it began */
    uint32_t drain_word;       /* of `filled`: below it nothing is left to be moved */
    uint64_t filled[KVPI_LISTS_WORDS(N_LISTS)];
    kvpi_page_list list[N_LISTS];
} placement_sticky;

static kvp_status sticky_open(const kvp_placement_config *cfg, kvp_placement **out)
{
    placement_sticky *p = NULL;
    kvp_status status = kvpi_alloc(cfg->mem, sizeof *p, "the placement policy", &p);
    if (status)
        return status;
    p->placement.ops = &kvp_placement_sticky;
    kvpi_lists_init(&p->lists, cfg, p->list, p->filled, N_LISTS);
    p->group_pages = cfg->group_pages ? cfg->group_pages : 1;
    p->now = 1;
    *out = &p->placement;
    return KVP_OK;
}

static void sticky_close(kvp_placement *placement)
{
    placement_sticky *p = (placement_sticky *)placement;
    kvp_mem mem = *p->lists.cfg.mem;
    kvpi_page_words_fini(&p->last_used, &mem);
    kvpi_free(&mem, p, sizeof *p);
}

static kvp_status sticky_reserve(kvp_placement *placement, uint32_t n)
{
    placement_sticky *p = (placement_sticky *)placement;
    return kvpi_page_words_reserve(&p->last_used, p->lists.cfg.mem, n);
}

static void sticky_forget(kvp_placement *placement, uint32_t page)
{
    placement_sticky *p = (placement_sticky *)placement;
    if (page < p->last_used.n)
        p->last_used.words[page] = 0;
}

/* ---- time ---- */

static uint32_t usual_age(const placement_sticky *p)
{
    int64_t age = p->usual_age / AGE_ONE;
    return age > p->n_pages ? (uint32_t)age : p->n_pages + 1;
}

static uint32_t slot_length(const placement_sticky *p)
{
    return usual_age(p) / SLOTS_PER_AGE + 1;
}

static uint32_t slot_that_is_over(const placement_sticky *p)
{
    return (p->slot + N_SLOTS - 1) % N_SLOTS;
}

/* Move up to n pages that were due in the slot that is over. */
static void drain(placement_sticky *p, uint32_t n)
{
    const uint64_t slot_lists = UINT64_C(0x0101010101010101) << slot_that_is_over(p);
    while (n > 0 && p->drain_word < HOT / 64) {
        uint64_t bits = p->filled[p->drain_word] & slot_lists;
        if (!bits) {
            p->drain_word++;
            continue;
        }
        uint32_t page = p->list[p->drain_word * 64 + (uint32_t)__builtin_ctzll(bits)].head;
        kvpi_lists_take(&p->lists, page);
        kvpi_lists_push_back(&p->lists, OVERDUE, page);
        n--;
    }
}

static void tick(placement_sticky *p)
{
    p->now += p->now + 1 ? 1 : 2;
    if (++p->n_in_slot < slot_length(p))
        return;
    drain(p, UINT32_MAX); /* nothing is left of it, unless pages have become far fewer */
    p->n_in_slot = 0;
    p->slot = (p->slot + 1) % N_SLOTS;
    p->drain_word = LATE / 64;
}

/* A page came round at this age: what is usual moves a little, by one in n_pages for a late page;
 * early ones say only that there may be no late ones any more. */
static void learn(placement_sticky *p, uint32_t age)
{
    int64_t n = p->n_pages + 1, at = p->usual_age > n * AGE_ONE ? p->usual_age : n * AGE_ONE;
    int64_t seen = age <= p->n_pages ? n * AGE_ONE : (int64_t)age * AGE_ONE;
    int64_t most = 4 * at; /* one sequence that had rested long says little about others */
    seen = seen < most ? seen : most;
    p->usual_age = at + (seen - at) / (age <= p->n_pages ? 8 * n : n);
}

/* The page has been used: how long ago was the last time? */
static uint32_t touch(placement_sticky *p, uint32_t page)
{
    uint32_t last = page < p->last_used.n ? p->last_used.words[page] : 0;
    uint32_t age = last ? p->now - last : AGE_UNKNOWN;
    if (age >= p->n_pages / 8)
        tick(p);
    if (age != AGE_UNKNOWN)
        learn(p, age);
    if (page < p->last_used.n)
        p->last_used.words[page] = p->now;
    drain(p, DRAIN);
    return age;
}

/* ---- order ---- */

static uint32_t bucket_of(const placement_sticky *p, const kvp_placement_page *page)
{
    uint32_t group = page->lane_index / p->group_pages;
    uint32_t rank = group * GOLDEN_RATIO + page->lane * SQRT_2;
    return N_BUCKETS - 1 - (rank >> (32 - BUCKET_LOG));
}

/* The slot in which a page of this age falls due. */
static uint32_t due_slot(const placement_sticky *p, uint32_t age)
{
    uint64_t wait = age == AGE_UNKNOWN ? usual_age(p) : age;
    uint64_t n = (wait + wait / 4) / slot_length(p);
    return (p->slot + (uint32_t)(n < 1 ? 1 : n < N_AHEAD ? n : N_AHEAD)) % N_SLOTS;
}

static uint32_t list_for(const placement_sticky *p, const kvp_placement_page *page, uint32_t age)
{
    if (page->is_cold)
        return COLD;
    if (page->is_open)
        return OPEN;
    if (page->is_hot)
        return HOT + bucket_of(p, page);
    return (age <= p->n_pages ? EARLY : LATE) + bucket_of(p, page) * N_SLOTS + due_slot(p, age);
}

static void sticky_insert(kvp_placement *placement, const kvp_placement_page *page)
{
    placement_sticky *p = (placement_sticky *)placement;
    uint32_t age = page->is_used ? touch(p, page->page) : AGE_UNKNOWN;
    uint32_t list = list_for(p, page, age);
    if (list == OPEN || list == COLD)
        kvpi_lists_push_back(&p->lists, list, page->page);
    else
        kvpi_lists_push_front(&p->lists, list, page->page);
    p->n_pages++;
}

static void sticky_remove(kvp_placement *placement, uint32_t page, kvp_removal why)
{
    placement_sticky *p = (placement_sticky *)placement;
    (void)why;
    kvpi_lists_take(&p->lists, page);
    p->n_pages--;
}

static uint32_t sticky_victim(kvp_placement *placement, uint32_t after)
{
    return kvpi_lists_walk(&((placement_sticky *)placement)->lists, after);
}

const kvp_placement_ops kvp_placement_sticky = {
    .name = "sticky",
    .open = sticky_open,
    .close = sticky_close,
    .insert = sticky_insert,
    .remove = sticky_remove,
    .victim = sticky_victim,
    .reserve = sticky_reserve,
    .forget = sticky_forget,
};
