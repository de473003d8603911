/* play.c - one operation on the pager and on the model. */
#include "tests/sim/player.h"

#include <string.h>

#include "kvpager/scan.h"
#include "tests/support/pattern.h"

uint32_t sim_n_groups(const sim_player *p, uint32_t layer)
{
    uint32_t per_page = p->cfg.geometry.page_heads;
    return (p->w->kinds[layer].n_kv_heads + per_page - 1) / per_page;
}

/* ---- tokens ---- */

/* Is the page that is written to next pinned, or wanted by a ticket? */
static bool holds_open_page(const sim_actor *a, uint32_t layer)
{
    return a->hold != HOLDS_NOTHING && a->layer == layer &&
           a->flat.layers[layer].length % a->flat.page_tokens &&
           (a->first + a->n_tokens - 1) / a->flat.page_tokens + 1 >=
               flat_page_count(&a->flat, layer);
}

static bool append(sim_player *p, sim_actor *a, kvp_status *status)
{
    const sim_op *op = p->op;
    uint32_t layer = op->a % SIM_LAYERS, n = 1 + op->b % (op->c & 1 ? 3 : SIM_MAX_APPEND);
    flat_layer *l = &a->flat.layers[layer];
    if (l->length + n > SIM_MAX_TOKENS)
        return false;
    for (uint32_t i = 0; i < n; i++)
        l->salts[l->length + i] = p->next_salt++;
    pattern_rows(&p->w->kinds[layer], &l->salts[l->length], n, p->k, p->v);
    *status = kvp_seq_append(a->seq, layer, p->k, p->v, n);
    sim_detail(p, "layer %u tokens %u + %u", layer, l->length, n);
    bool is_busy = holds_open_page(a, layer);
    if ((*status == KVP_E_BUSY) != is_busy)
        sim_fail(p, "%s, but the open page is %s: %s", kvp_status_str(*status),
                 is_busy ? "pinned or wanted" : "free", kvp_error());
    p->out->tally.n_busy += is_busy;
    if (!is_busy)
        sim_check_status(p, *status);
    l->length += *status ? 0 : n;
    if (kvp_seq_layer_length(a->seq, layer) != l->length)
        sim_fail(p, "layer %u has %llu tokens, should have %u", layer,
                 (unsigned long long)kvp_seq_layer_length(a->seq, layer), l->length);
    return true;
}

/* While a view or a ticket is open, the sequence may not lose tokens. */
static bool is_refused(sim_player *p, const sim_actor *a, kvp_status status)
{
    if (a->hold == HOLDS_NOTHING)
        return false;
    if (status != KVP_E_BUSY)
        sim_fail(p, "%s, but pages are pinned or wanted", kvp_status_str(status));
    p->out->tally.n_busy++;
    return true;
}

static bool truncate_to(sim_player *p, sim_actor *a, uint64_t n, kvp_status *status)
{
    *status = kvp_seq_truncate(a->seq, n);
    sim_detail(p, "to %llu", (unsigned long long)n);
    if (is_refused(p, a, *status))
        return true;
    bool can = flat_can_truncate(&a->flat, n);
    if (*status != (can ? KVP_OK : KVP_E_RANGE))
        sim_fail(p, "truncate to %llu: %s", (unsigned long long)n, kvp_status_str(*status));
    else if (can)
        flat_truncate(&a->flat, n);
    return true;
}

static bool evict(sim_player *p, sim_actor *a, kvp_status *status)
{
    const sim_op *op = p->op;
    uint32_t layer = op->a % (SIM_LAYERS + 1);
    uint64_t begin = op->b % SIM_MAX_TOKENS, end = begin + op->c % 100;
    bool is_all = layer == SIM_LAYERS;
    *status = kvp_seq_evict(a->seq, is_all ? KVP_ALL_LAYERS : layer, begin, end);
    sim_detail(p, "%llu..%llu", (unsigned long long)begin, (unsigned long long)end);
    if (is_refused(p, a, *status))
        return true;
    sim_check_status(p, *status);
    for (uint32_t i = 0; i < SIM_LAYERS && !*status; i++)
        if (is_all || i == layer)
            flat_evict(&a->flat, i, begin, end);
    return true;
}

/* ---- scans ---- */

typedef struct scan_state {
    const kvp_scan_args *args;
    kvp_scan *scan;
    bool is_seen[4][FLAT_MAX_PAGES];
    uint32_t n_seen;
} scan_state;

static void see(sim_player *p, const sim_actor *a, scan_state *s, const kvp_page_view *page,
                const kvp_scan_item *item)
{
    const kvp_scan_args *args = s->args;
    uint32_t i = (uint32_t)(page->first_position / a->flat.page_tokens);
    if (!flat_page_is_in(&a->flat, args->layer, i, args->sinks_end, args->begin, args->end) ||
        s->is_seen[item->group][i])
        sim_fail(p, "a scan visits page %u of group %u twice, or at all", i, item->group);
    else if (page->n_valid != flat_page_tokens(&a->flat, args->layer, i) ||
             page->first_head != item->first_head ||
             !pattern_page_ok(page, a->flat.layers[args->layer].salts))
        sim_fail(p, "a scan: page %u of group %u has wrong bytes", i, item->group);
    s->is_seen[item->group][i] = true;
    s->n_seen++;
    p->out->tally.n_pages_checked++;
}

static kvp_status scan_item(sim_player *p, const sim_actor *a, scan_state *s, uint32_t part,
                            bool *is_done)
{
    kvp_scan_item item;
    kvp_status status = kvp_scan_claim(s->scan, part, &item);
    *is_done = !item.n_pages;
    for (uint32_t i = 0; i < item.n_pages && !status; i++) {
        kvp_page_view page;
        status = kvp_scan_next(s->scan, part, &page);
        if (!status)
            see(p, a, s, &page, &item);
    }
    return status;
}

static uint32_t pages_to_see(const sim_player *p, const sim_actor *a, const kvp_scan_args *args)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < flat_page_count(&a->flat, args->layer); i++)
        n += flat_page_is_in(&a->flat, args->layer, i, args->sinks_end, args->begin, args->end);
    return n * sim_n_groups(p, args->layer);
}

/* The parts take turns. */
static kvp_status scan_parts(sim_player *p, const sim_actor *a, scan_state *s)
{
    uint32_t n_parts = kvp_scan_parts(s->scan), n_done = 0;
    kvp_status status = KVP_OK;
    for (uint32_t part = 0; n_done < n_parts && !status; part = (part + 1) % n_parts) {
        bool is_done;
        status = scan_item(p, a, s, part, &is_done);
        n_done = is_done ? n_done + 1 : 0; /* all in a row: none is left */
    }
    return status;
}

bool sim_scan_all(sim_player *p, sim_actor *a, const kvp_scan_args *args, kvp_status *status)
{
    scan_state s = {.args = args};
    *status = kvp_scan_open(a->seq, args, &s.scan);
    if (!*status) {
        *status = scan_parts(p, a, &s);
        kvp_scan_close(s.scan);
        p->out->tally.n_scans++;
    }
    sim_check_status(p, *status);
    if (!*status && s.n_seen != pages_to_see(p, a, args))
        sim_fail(p, "a scan visited %u pages, should visit %u", s.n_seen, pages_to_see(p, a, args));
    return true;
}

static bool scan(sim_player *p, sim_actor *a, kvp_status *status)
{
    const sim_op *op = p->op;
    kvp_scan_args args = {.layer = op->a % SIM_LAYERS,
                          .max_parts = 1 + op->b % 3,
                          .end = UINT64_MAX,
                          .workspace_bytes = op->b >> 16 & 1 ? 4096 : 0};
    if (op->c % 3 == 0) {
        args.sinks_end = op->c >> 4 & 31;
        args.begin = (op->c >> 9) % SIM_MAX_TOKENS;
    }
    sim_detail(p, "layer %u parts %u from %llu", args.layer, args.max_parts,
               (unsigned long long)args.begin);
    return sim_scan_all(p, a, &args, status);
}

/* ---- sequences ---- */

/* O(pages) of metadata: no page is read, and nothing waited for. */
static bool fork_into(sim_player *p, sim_actor *a, kvp_status *status)
{
    sim_actor *child = &p->actors[p->op->a % p->w->n_actors];
    if (child == a || child->hold != HOLDS_NOTHING)
        return false;
    kvp_seq_destroy(child->seq);
    child->seq = NULL;
    uint64_t n_reads = p->world.n_reads, now_ns = p->world.now_ns;
    *status = kvp_seq_fork(a->seq, &child->seq);
    sim_detail(p, "to actor %u", (unsigned)(child - p->actors));
    sim_check_status(p, *status);
    /* One with a min may have to wait: what is shared is its group's, beside the min. */
    if (p->world.n_reads != n_reads || (p->world.now_ns != now_ns && !p->w->n_groups))
        sim_fail(p, "a fork read from the disk, or waited");
    if (*status) {
        flat_truncate(&child->flat, 0);
        if (sim_seq_create(p, child))
            sim_fail(p, "create: %s", kvp_error());
        return true;
    }
    child->flat = a->flat;
    if (p->w->is_planted && child->flat.layers[0].length > 20)
        child->flat.layers[0].salts[0]++;
    p->out->tally.n_forks++;
    return true;
}

static bool renew(sim_player *p, sim_actor *a, kvp_status *status)
{
    if (a->hold != HOLDS_NOTHING)
        return false;
    kvp_seq_destroy(a->seq);
    *status = sim_seq_create(p, a);
    sim_check_status(p, *status);
    flat_truncate(&a->flat, 0);
    return true;
}

/* Truncate to what is lost, again if more was found meanwhile (a truncate waits for what is in
 * flight): each time further to the front. */
static bool mend(sim_player *p, sim_actor *a, kvp_status *status)
{
    uint64_t first, n, before = UINT64_MAX;
    for (;;) {
        *status = kvp_seq_lost(a->seq, &first, &n);
        sim_check_status(p, *status);
        if (*status || !n || a->hold != HOLDS_NOTHING || p->out->has_failed)
            return before != UINT64_MAX;
        if (first >= before)
            sim_fail(p, "tokens %llu + %llu are lost after a truncate to %llu",
                     (unsigned long long)first, (unsigned long long)n, (unsigned long long)before);
        truncate_to(p, a, first, status);
        if (*status == KVP_E_RANGE) /* what was before it is evicted */
            truncate_to(p, a, first = 0, status);
        before = first;
        p->out->tally.n_mended++;
    }
}

static bool advise(sim_player *p, sim_actor *a, uint64_t first, uint64_t n, kvp_advice advice,
                   kvp_status *status)
{
    *status = kvp_seq_advise(a->seq, first, n, advice);
    sim_check_status(p, *status);
    sim_detail(p, "advice %d tokens %llu + %llu", (int)advice, (unsigned long long)first,
               (unsigned long long)n);
    return true;
}

static bool serve(sim_player *p, kvp_status *status)
{
    bool has_any = false;
    for (uint32_t i = 0; i < p->w->n_actors; i++)
        has_any = sim_take(p, &p->actors[i], 0, status) || has_any;
    return has_any;
}

static bool let_go(sim_player *p, sim_actor *a, sim_hold hold, kvp_status *status)
{
    if (a->hold != hold)
        return false;
    *status = KVP_OK;
    sim_let_go(p, a);
    return true;
}

/* ---- one operation ---- */

static bool think(sim_player *p, kvp_status *status)
{
    uint64_t ns = p->op->b % 20000000u;
    sim_advance(&p->world, p->op->a % 8 ? ns / 100 : ns);
    *status = KVP_OK;
    return true;
}

static bool reserve(sim_player *p, sim_actor *a, kvp_status *status)
{
    *status = kvp_seq_reserve(a->seq, p->op->b % SIM_MAX_TOKENS);
    sim_check_status(p, *status);
    return true;
}

static bool dispatch(sim_player *p, sim_actor *a, kvp_status *status)
{
    const sim_op *op = p->op;
    uint64_t deadline_ns = p->world.now_ns + 1 + (op->c >> 8) % 20000000u;
    switch ((sim_op_kind)op->kind) {
    case SIM_APPEND:
        return append(p, a, status);
    case SIM_PIN:
        return sim_pin(p, a, KVP_FOREVER, status);
    case SIM_PIN_NOW:
        return sim_pin(p, a, 0, status);
    case SIM_PIN_BY:
        return sim_pin(p, a, deadline_ns, status);
    case SIM_UNPIN:
        return let_go(p, a, HOLDS_VIEW, status);
    case SIM_PREPARE:
        return sim_prepare(p, a, status);
    case SIM_POLL:
        return sim_take(p, a, 0, status);
    case SIM_SERVE:
        return serve(p, status);
    case SIM_WAIT:
        return sim_take(p, a, deadline_ns, status);
    case SIM_CANCEL:
        return let_go(p, a, HOLDS_TICKET, status);
    case SIM_SCAN:
        return scan(p, a, status);
    case SIM_TRUNCATE:
        return truncate_to(p, a, op->b % SIM_MAX_TOKENS, status);
    case SIM_EVICT:
        return evict(p, a, status);
    case SIM_FORK:
        return fork_into(p, a, status);
    case SIM_RENEW:
        return renew(p, a, status);
    case SIM_RESERVE:
        return reserve(p, a, status);
    case SIM_ADVISE:
        return advise(p, a, op->a % SIM_MAX_TOKENS, op->b % SIM_MAX_TOKENS,
                      (kvp_advice)(KVP_COLD + op->c % KVP_NORMAL), status);
    case SIM_PARK:
        sim_let_go(p, a);
        return advise(p, a, 0, UINT64_MAX, KVP_DONTNEED, status);
    case SIM_RESUME:
        return advise(p, a, 0, UINT64_MAX, KVP_WILLNEED, status);
    case SIM_MEND:
        return mend(p, a, status);
    case SIM_LIMIT:
        return sim_limit(p, a, status);
    case SIM_THINK:
        return think(p, status);
    case SIM_N_OPS:
        break;
    }
    return false;
}

/* Nothing waits for the disk in these. */
static bool is_instant(uint32_t kind)
{
    switch (kind) {
    case SIM_PIN_NOW:
    case SIM_UNPIN:
    case SIM_PREPARE:
    case SIM_POLL:
    case SIM_SERVE:
    case SIM_CANCEL:
    case SIM_RESERVE:
    case SIM_ADVISE:
    case SIM_PARK:
    case SIM_RESUME:
        return true;
    default:
        return false;
    }
}

bool sim_play(sim_player *p, kvp_status *status)
{
    uint64_t start_ns = p->world.now_ns;
    bool is_done = dispatch(p, &p->actors[p->op->actor], status);
    if (is_instant(p->op->kind) && p->world.now_ns != start_ns)
        sim_fail(p, "took %llu ns, and may not wait",
                 (unsigned long long)(p->world.now_ns - start_ns));
    return is_done;
}
