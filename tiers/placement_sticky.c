/* placement_sticky.c - what comes round too late to be kept is thinned out to a fixed subset.
 *
 * Every page has a last use, kept by page number, and so at its next use an age: the time that it
 * took to come round. Time is counted in pages that come by (a use soon after the last one is
 * none), so a page whose age is at most the number of pages that are here fits, as LRU would have
 * it. An order of leaving follows:
 *
 *  1. cold pages;
 *  2. overdue ones: unused for a quarter longer than they took to come round the last time (open
 *     ones: for two rounds). They belong to a sequence that rests, or to a part that is not read
 *     any more;
 *  3. late ones, which do not fit: thinned out, by rank;
 *  4. open ones, which would have to be written down each time, the first to fall due first;
 *  5. early ones, which fit, by rank;
 *  6. hot ones, whose layer is being filled: every chunk of a prefill reads them again, by rank.
 *
 * A page that was early and comes late counts as early once more: it may be the first use of many,
 * as of a text that several sequences share, or of a conversation that goes on. One that has not
 * been used before counts as late.
 *
 * Rank. Decode reads all pages in a cycle: all are late, none is overdue. Any subset that stays
 * gives hits of budget / size, as many as there can be, where LRU has none. A group of neighbours
 * has a rank in [0, 1) that depends on nothing but where it is: frac(group * golden ratio + lane *
 * sqrt 2). Pages of the highest ranks leave first, so what stays are those below budget / size, and
 *  - they are spread evenly over a lane, and over lanes that have only a few groups: computing on
 *    resident groups overlaps with reading the others;
 *  - the choice is nested: as a sequence grows the threshold sinks, groups are only ever dropped,
 *    and none is fetched back to keep the spread.
 * Ranks are quantised into buckets. Within one the page that falls due last leaves first, and of
 * those the one inserted last: that is one that was just streamed through, while those that stay
 * were there before it.
 *
 * Hits on the traces of tests/data/traces with 1/8, 1/4 and 1/2 of their pages in RAM (kvpager
 * replay), in percent; "rank" is this policy without ages: nothing is overdue or early.
 *
 *                        optimum           sticky            rank              lru
 *     cyclic_decode    16.8 29.5 55.2    16.7 29.3 54.7    16.7 29.4 54.9     5.9  6.8  6.8
 *     chat_resume      67.2 97.2 100     66.0 96.7 99.8    20.9 32.5 57.3    13.0 49.0 99.5
 *     fork_heavy       73.5 81.5 92.6    56.4 77.4 85.1     6.3 21.6 64.6     6.0 61.1 82.6
 *     staggered_batch  30.8 46.6 75.7    30.0 45.5 74.2    30.5 46.0 75.1    16.1 29.0 34.8
 *
 * Overdue pages are found by a wheel of timers that never cascade: a level has eight slots, each
 * level's are four times as long as those of the one below. A page is inserted into the list of its
 * rank and of the slot in which it falls due; when a slot is over, its pages move to the overdue
 * list, a few with every use. Rounding makes them wait up to two thirds longer.
 *
 * Invariants
 *  1. Level 0 has early pages, all others late and open ones.
 *  2. Nothing is inserted into the slot of a level that was over last, and its pages have been
 *     moved when another one is. */
#include "kvpager/placement.h"

#include "alloc/mem.h"
#include "tiers/placement_lists.h"

#include <assert.h>

#define BUCKET_LOG 7u
#define N_BUCKETS (1u << BUCKET_LOG)
#define N_SLOTS 8u
#define MOST_SLOTS (N_SLOTS - 2) /* that a page may be due in, counted from the current one */
#define N_LEVELS 5u
#define LEVEL_SHIFT 2u     /* log2 of a slot's length in those of the level below */
#define SLOTS_PER_ROUND 4u /* of level 0, in the time in which as many pages come by as are here */
#define MOVED_PER_USE 4u

/* Lists, in the order of leaving. Those of late and early pages are [bucket][slot of a level],
 * those of open ones [slot of a level]. */
#define N_LATE_SLOTS (N_SLOTS * (N_LEVELS - 1))
#define COLD 0u
#define OVERDUE 1u
#define LATE 64u /* so that words of `filled` begin with slot 0 */
#define OPEN (LATE + N_BUCKETS * N_LATE_SLOTS)
#define EARLY (OPEN + 64u)
#define HOT (EARLY + N_BUCKETS * N_SLOTS)
#define N_LISTS (HOT + N_BUCKETS)

/* Fractions of 2^32: multiplying by them takes the fractional part for free. */
#define GOLDEN_RATIO 0x9e3779b9u
#define SQRT_2 0x6a09e667u

static inline bool is_open_list(uint32_t list)
{
    return list >= OPEN && list < EARLY;
}

#define AGE_UNKNOWN UINT32_MAX
#define TIME_MAX 0x7fffffffu

typedef struct placement_sticky {
    kvp_placement placement;
    kvpi_page_lists lists;
    uint32_t group_pages;
    uint32_t now;       /* 31 bits, never 0 */
    uint32_t late_age;  /* of the last sealed page that came by late twice in a row */
    uint32_t n_slots;   /* of level 0 that are over */
    uint32_t n_in_slot; /* time since the last of them was */
    uint32_t word;      /* of `filled`: before it nothing is left to be moved */
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
    kvpi_free(p->lists.cfg.mem, p, sizeof *p);
}

/* 2 * when the page was used last + was it early; 0: never. */
static uint32_t *last_used(const placement_sticky *p, uint32_t page)
{
    return p->lists.cfg.memory(p->lists.cfg.opaque, page);
}

/* ---- the wheel ---- */

static uint64_t slot_length(const placement_sticky *p, uint32_t level)
{
    return (uint64_t)(p->lists.n_pages / SLOTS_PER_ROUND + 1) << (LEVEL_SHIFT * level);
}

/* The current slot of a level. */
static uint32_t slot_of(const placement_sticky *p, uint32_t level)
{
    return (p->n_slots >> (LEVEL_SHIFT * level)) % N_SLOTS;
}

/* The one that was over last. */
static uint32_t slot_over(const placement_sticky *p, uint32_t level)
{
    return (slot_of(p, level) + N_SLOTS - 1) % N_SLOTS;
}

/* Time since the current slot of a level began. */
static uint64_t time_in_slot(const placement_sticky *p, uint32_t level)
{
    uint64_t n_slots = p->n_slots & ((1u << (LEVEL_SHIFT * level)) - 1);
    return n_slots * slot_length(p, 0) + p->n_in_slot;
}

/* Where a page goes that falls due after `wait`: its slot in levels `first` to `last`. */
static uint32_t due_slot(const placement_sticky *p, uint32_t first, uint32_t last, uint64_t wait)
{
    uint32_t level = first;
    uint64_t n;
    for (;; level++) {
        n = (wait + time_in_slot(p, level)) / slot_length(p, level);
        if (n <= MOST_SLOTS || level == last)
            break;
    }
    n = n < 1 ? 1 : n < MOST_SLOTS ? n : MOST_SLOTS;
    return (level - first) * N_SLOTS + (slot_of(p, level) + (uint32_t)n) % N_SLOTS;
}

/* The lists of a word that were due in slots that are over. */
static uint64_t lists_over(const placement_sticky *p, uint32_t word)
{
    uint64_t bits = 0;
    if (word >= EARLY / 64)
        return UINT64_C(0x0101010101010101) << slot_over(p, 0);
    for (uint32_t level = 1; level < N_LEVELS; level++)
        bits |= UINT64_C(1) << ((level - 1) * N_SLOTS + slot_over(p, level));
    return bits | bits << N_LATE_SLOTS;
}

/* Move up to n of their pages. */
static void move_overdue(placement_sticky *p, uint32_t n)
{
    while (n > 0 && p->word < HOT / 64) {
        uint64_t bits = p->filled[p->word] & lists_over(p, p->word);
        if (!bits) {
            p->word++;
            continue;
        }
        uint32_t page = p->list[p->word * 64 + (uint32_t)__builtin_ctzll(bits)].head;
        kvpi_lists_take(&p->lists, page);
        kvpi_lists_push_back(&p->lists, OVERDUE, page);
        n--;
    }
}

static void tick(placement_sticky *p)
{
    p->now = p->now < TIME_MAX ? p->now + 1 : 1;
    if (++p->n_in_slot < slot_length(p, 0))
        return;
    move_overdue(p, UINT32_MAX); /* nothing is left, unless pages have become far fewer */
    p->n_in_slot = 0;
    p->n_slots++;
    p->word = LATE / 64;
}

/* The page has been used: how long ago was the last time? A page that was early the last time is so
 * once more. */
static uint32_t touch(placement_sticky *p, uint32_t page, bool is_open)
{
    uint32_t *memory = last_used(p, page), last = *memory;
    uint32_t age = last ? (p->now - last / 2) & TIME_MAX : AGE_UNKNOWN;
    bool is_early = age <= p->lists.n_pages;
    if (age >= p->lists.n_pages / 8)
        tick(p);
    if (age != AGE_UNKNOWN && !is_early && last % 2 == 0 && !is_open)
        p->late_age = age;
    *memory = 2 * p->now + is_early;
    move_overdue(p, MOVED_PER_USE);
    return last % 2 && !is_early ? p->lists.n_pages : age;
}

/* ---- order ---- */

static uint32_t bucket_of(const placement_sticky *p, const kvp_placement_page *page)
{
    uint32_t group = page->lane_index / p->group_pages;
    uint32_t rank = group * GOLDEN_RATIO + page->lane * SQRT_2;
    return N_BUCKETS - 1 - (rank >> (32 - BUCKET_LOG));
}

/* A page of unknown age counts as late, and waits as long as others do. */
static uint32_t list_for(const placement_sticky *p, const kvp_placement_page *page, uint32_t age)
{
    if (page->is_cold)
        return COLD;
    uint64_t usual = p->late_age > p->lists.n_pages ? p->late_age : p->lists.n_pages;
    uint32_t bucket = bucket_of(p, page);
    if (page->is_hot)
        return HOT + bucket;
    if (page->is_open)
        return OPEN + due_slot(p, 1, N_LEVELS - 1, 2 * usual);
    if (age <= p->lists.n_pages)
        return EARLY + bucket * N_SLOTS + due_slot(p, 0, 0, age + age / 4);
    uint64_t wait = age != AGE_UNKNOWN ? age : usual;
    return LATE + bucket * N_LATE_SLOTS + due_slot(p, 1, N_LEVELS - 1, wait + wait / 4);
}

/* The lists of a bucket: `base` is the first. */
typedef struct bucket {
    uint32_t base, first_level, n_levels;
} bucket;

static bucket bucket_with(uint32_t list)
{
    if (list >= EARLY)
        return (bucket){list - (list - EARLY) % N_SLOTS, 0, 1};
    return (bucket){list - (list - LATE) % N_LATE_SLOTS, 1, N_LEVELS - 1};
}

/* Where a list stands in its bucket: the further, the later its pages fall due. */
static uint32_t standing(const placement_sticky *p, const bucket *b, uint32_t list)
{
    uint32_t level = (list - b->base) / N_SLOTS;
    return level * N_SLOTS + (list - b->base - slot_of(p, b->first_level + level)) % N_SLOTS;
}

/* The list that stands there. */
static uint32_t list_at(const placement_sticky *p, const bucket *b, uint32_t at)
{
    uint32_t level = at / N_SLOTS;
    return b->base + level * N_SLOTS + (slot_of(p, b->first_level + level) + at) % N_SLOTS;
}

/* The open page that falls due first, of the lists that stand at `at` or after it. */
static uint32_t first_due(const placement_sticky *p, uint32_t at)
{
    const bucket b = bucket_with(OPEN);
    for (; at < N_LATE_SLOTS; at++) {
        uint32_t page = p->list[list_at(p, &b, at)].head;
        if (page != KVP_PAGE_NONE)
            return page;
    }
    return KVP_PAGE_NONE;
}

static void sticky_insert(kvp_placement *placement, const kvp_placement_page *page)
{
    placement_sticky *p = (placement_sticky *)placement;
    uint32_t age = page->is_used ? touch(p, page->page, page->is_open) : AGE_UNKNOWN;
    uint32_t list = list_for(p, page, age);
    if (is_open_list(list) || list == COLD)
        kvpi_lists_push_back(&p->lists, list, page->page);
    else
        kvpi_lists_push_front(&p->lists, list, page->page);
}

static void sticky_remove(kvp_placement *placement, uint32_t page, kvp_removal why)
{
    placement_sticky *p = (placement_sticky *)placement;
    (void)why;
    kvpi_lists_take(&p->lists, page);
}

/* ---- who leaves ---- */

/* The page that falls due last, of the lists that stand before `end`. */
static uint32_t last_due(const placement_sticky *p, const bucket *b, uint32_t end)
{
    while (end-- > 0) {
        uint32_t page = p->list[list_at(p, b, end)].head;
        if (page != KVP_PAGE_NONE)
            return page;
    }
    return KVP_PAGE_NONE;
}

/* The first page of list `from` or a later one; of late and early pages, a bucket at a time. */
static uint32_t first_from(const placement_sticky *p, uint32_t from)
{
    uint32_t page = kvpi_lists_first(&p->lists, from);
    uint32_t list = page != KVP_PAGE_NONE ? kvpi_list_of(&p->lists, page) : COLD;
    if (list < LATE || list >= HOT)
        return page;
    if (is_open_list(list))
        return first_due(p, 0);
    bucket b = bucket_with(list);
    return last_due(p, &b, b.n_levels * N_SLOTS);
}

static uint32_t sticky_victim(kvp_placement *placement, uint32_t after)
{
    const placement_sticky *p = (placement_sticky *)placement;
    if (after == KVP_PAGE_NONE)
        return first_from(p, COLD);
    uint32_t next = kvpi_node(&p->lists, after)->next, list = kvpi_list_of(&p->lists, after);
    if (next != KVP_PAGE_NONE)
        return next;
    if (list < LATE || list >= HOT)
        return first_from(p, list + 1);
    bucket b = bucket_with(list);
    if (is_open_list(list)) {
        next = first_due(p, standing(p, &b, list) + 1);
        return next != KVP_PAGE_NONE ? next : first_from(p, EARLY);
    }
    next = last_due(p, &b, standing(p, &b, list));
    return next != KVP_PAGE_NONE ? next : first_from(p, b.base + b.n_levels * N_SLOTS);
}

const kvp_placement_ops kvp_placement_sticky = {
    .name = "sticky",
    .open = sticky_open,
    .close = sticky_close,
    .insert = sticky_insert,
    .remove = sticky_remove,
    .victim = sticky_victim,
    .remembers = true,
};
