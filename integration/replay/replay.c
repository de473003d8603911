/* replay.c - a trace through a placement policy.
 *
 * As in the pager, a page that is in use is not in the policy. It is taken out when its use begins
 * and inserted when that ends: at the next use of another page, so that what is told of a page
 * while it is in use is known when it is inserted. */
#include "integration/replay/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is known of a page; its number may have belonged to another before. */
typedef struct page_state {
    kvp_placement_page facts;
    kvp_placement_node node;
    uint32_t memory;
    bool is_resident, has_mass;
    uint8_t octaves; /* of its mass */
} page_state;

typedef struct replay {
    const trace *t;
    const kvp_placement_ops *ops;
    kvp_placement *policy;
    page_state *pages; /* [t->n_pages] */
    uint32_t n_frames, n_resident;
    uint32_t in_use; /* KVP_PAGE_NONE: none */
    uint64_t n_hits;
} replay;

static void *alloc(void *opaque, size_t n, size_t align)
{
    (void)opaque;
    return aligned_alloc(align, (n + align - 1) / align * align);
}

static void give_back(void *opaque, void *p, size_t n)
{
    (void)opaque, (void)n;
    free(p);
}

static const kvp_mem memory = {.alloc = alloc, .free = give_back};

static kvp_placement_node *node_of(void *opaque, uint32_t page)
{
    return &((replay *)opaque)->pages[page].node;
}

static uint32_t *memory_of(void *opaque, uint32_t page)
{
    return &((replay *)opaque)->pages[page].memory;
}

static kvp_status open_replay(replay *r, const trace *t, const kvp_placement_ops *ops)
{
    kvp_placement_config cfg = {.mem = &memory,
                                .node = node_of,
                                .memory = memory_of,
                                .opaque = r,
                                .group_pages = t->group_pages};
    *r = (replay){.t = t, .ops = ops, .in_use = KVP_PAGE_NONE};
    r->pages = calloc((size_t)t->n_pages + 1, sizeof *r->pages);
    if (!r->pages)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %u pages", t->n_pages);
    return ops->open(&cfg, &r->policy);
}

static void close_replay(replay *r)
{
    if (r->policy)
        r->ops->close(r->policy);
    free(r->pages);
}

/* ---- pages ---- */

static void insert(replay *r, uint32_t page, bool is_used)
{
    kvp_placement_page *facts = &r->pages[page].facts;
    facts->is_used = is_used;
    r->ops->insert(r->policy, facts);
}

static void tell_mass(replay *r, uint32_t page)
{
    const page_state *s = &r->pages[page];
    if (s->has_mass && r->ops->mass)
        r->ops->mass(r->policy, page, ldexpf(1, -(int)s->octaves));
}

static void end_use(replay *r)
{
    if (r->in_use == KVP_PAGE_NONE)
        return;
    tell_mass(r, r->in_use);
    insert(r, r->in_use, true);
    r->in_use = KVP_PAGE_NONE;
}

static void lose_frame(replay *r, uint32_t page)
{
    r->ops->remove(r->policy, page, KVP_REMOVED_GONE);
    r->pages[page].is_resident = false;
    r->n_resident--;
}

static void take_frame(replay *r, uint32_t page)
{
    if (r->n_resident == r->n_frames)
        lose_frame(r, r->ops->victim(r->policy, KVP_PAGE_NONE));
    r->pages[page].is_resident = true;
    r->n_resident++;
}

static void begin_use(replay *r, uint32_t page)
{
    page_state *s = &r->pages[page];
    end_use(r);
    if (s->is_resident) {
        r->ops->remove(r->policy, page, KVP_REMOVED_FOR_USE);
        r->n_hits++;
    } else {
        take_frame(r, page);
    }
    s->facts.is_cold = false; /* not any more */
    r->in_use = page;
}

static void create(replay *r, uint32_t page, const trace_place *place)
{
    end_use(r);
    r->pages[page] = (page_state){
        .facts = {
            .page = page, .lane = place->lane, .lane_index = place->lane_index, .is_open = true}};
    take_frame(r, page);
    r->in_use = page;
}

static void destroy(replay *r, uint32_t page)
{
    end_use(r);
    if (r->pages[page].is_resident)
        lose_frame(r, page);
}

/* Something is known anew of a page. */
static void retell(replay *r, const trace_op *op)
{
    page_state *s = &r->pages[op->page];
    bool is_in = s->is_resident && r->in_use != op->page;
    if (is_in)
        r->ops->remove(r->policy, op->page, KVP_REMOVED_RETOLD);
    if (op->kind == KVP_TRACE_PAGE_SEALED || op->kind == KVP_TRACE_PAGE_OPENED)
        s->facts.is_open = op->kind == KVP_TRACE_PAGE_OPENED;
    else if (op->kind != KVP_TRACE_PAGE_COLD)
        s->facts.is_hot = op->kind == KVP_TRACE_PAGE_HOT;
    s->facts.is_cold = op->kind == KVP_TRACE_PAGE_COLD;
    if (is_in)
        insert(r, op->page, false);
}

static void play(replay *r, const trace_op *op)
{
    switch (op->kind) {
    case KVP_TRACE_PAGE_NEW:
        create(r, op->page, &r->t->places[op->number]);
        break;
    case KVP_TRACE_PAGE_USED:
        begin_use(r, op->page);
        break;
    case KVP_TRACE_PAGE_FREED:
        destroy(r, op->page);
        break;
    case KVP_TRACE_PAGE_MASS:
        r->pages[op->page].has_mass = true;
        r->pages[op->page].octaves = (uint8_t)op->number;
        break;
    case KVP_TRACE_PAGE_COLD: /* of a page in use nothing is cold; its use is over */
        end_use(r);
        if (r->pages[op->page].is_resident)
            retell(r, op);
        break;
    default:
        retell(r, op);
        break;
    }
}

kvp_status replay_policy(const trace *t, const kvp_placement_ops *ops, uint32_t n_frames,
                         uint64_t *n_hits)
{
    replay r;
    kvp_status status = open_replay(&r, t, ops);
    r.n_frames = n_frames;
    for (size_t i = 0; i < t->n_ops && !status; i++)
        play(&r, &t->ops[i]);
    *n_hits = r.n_hits;
    close_replay(&r);
    return status;
}
