/* pins.c - the operations that take pages: pins, tickets, and that what is handed out is right. */
#include "tests/sim/player.h"

#include <string.h>

#include "tests/support/pattern.h"

/* ---- what a view must be ---- */

static bool check_page(sim_player *p, const sim_actor *a, const kvp_page_view *page, uint32_t layer,
                       uint32_t group, uint32_t index)
{
    const flat_seq *f = &a->flat;
    bool is_right = page->first_position == (uint64_t)index * f->page_tokens &&
                    page->layer == layer && page->page_tokens == f->page_tokens &&
                    page->first_head == group * p->cfg.geometry.page_heads &&
                    page->n_valid == flat_page_tokens(f, layer, index);
    if (!is_right)
        sim_fail(p, "layer %u, group %u: page %u is the page at token %llu with %u tokens", layer,
                 group, index, (unsigned long long)page->first_position, page->n_valid);
    else if (!pattern_page_ok(page, f->layers[layer].salts))
        sim_fail(p, "layer %u, group %u: page %u has wrong bytes", layer, group, index);
    p->out->tally.n_pages_checked++;
    return !p->out->has_failed;
}

/* Its pages, group by group, are those that hold a position in [first, first + n). */
static void check_view(sim_player *p, const sim_actor *a, const kvp_view *view, uint32_t layer,
                       uint32_t first, uint32_t n_tokens)
{
    uint32_t index = 0, n_groups = sim_n_groups(p, layer);
    uint32_t n = flat_pages_in(&a->flat, layer, first, first + n_tokens, &index);
    size_t at = 0;
    if (view->n_pages != (size_t)n * n_groups || view->n_groups != n_groups) {
        sim_fail(p, "%zu pages in %zu groups, should be %u in %u", view->n_pages, view->n_groups,
                 n * n_groups, n_groups);
        return;
    }
    for (uint32_t g = 0; g < n_groups; g++)
        for (uint32_t i = index; i < flat_page_count(&a->flat, layer); i++)
            if (flat_page_is_in(&a->flat, layer, i, 0, first, first + n_tokens) &&
                !check_page(p, a, &view->pages[at++], layer, g, i))
                return;
}

/* A lost page is one of those that were asked for, and the sequence knows. */
static void check_is_lost(sim_player *p, const sim_actor *a, uint32_t first, uint32_t n_tokens)
{
    uint64_t lost, n;
    uint64_t begin = first / a->flat.page_tokens * a->flat.page_tokens;
    kvp_status status = kvp_seq_lost(a->seq, &lost, &n);
    if (status || !n || lost >= (uint64_t)first + n_tokens || lost + n <= begin)
        sim_fail(p, "tokens %u..%u are lost, but the sequence says %llu + %llu", first,
                 first + n_tokens, (unsigned long long)lost, (unsigned long long)n);
}

/* ---- holding on ---- */

static void keep(sim_player *p, sim_actor *a, sim_hold hold, size_t n_pages)
{
    a->hold = hold;
    a->n_held = n_pages;
    p->n_held += n_pages;
    p->n_holders++;
}

static void forget(sim_player *p, sim_actor *a)
{
    a->hold = HOLDS_NOTHING;
    p->n_held -= a->n_held;
    p->n_holders--;
}

void sim_let_go(sim_player *p, sim_actor *a)
{
    if (a->hold == HOLDS_NOTHING)
        return;
    if (a->hold == HOLDS_VIEW) { /* nobody has moved or changed it meanwhile */
        for (size_t i = 0; i < a->view.n_pages; i++)
            if (!pattern_page_ok(&a->view.pages[i], a->flat.layers[a->layer].salts))
                sim_fail(p, "a pinned page changed");
        kvp_view_unpin(&a->view);
    } else {
        kvp_ticket_cancel(&a->ticket);
    }
    forget(p, a);
}

/* Of a few pages, and never so many that others find no frame. */
static bool may_keep(const sim_player *p, const sim_actor *a, size_t n_pages)
{
    return a->hold == HOLDS_NOTHING && p->n_held + n_pages <= p->n_frames / 3;
}

/* What the operation asks for; false: the layer is empty. */
static bool range_of(sim_player *p, const sim_actor *a, uint32_t *layer, uint32_t *first,
                     uint32_t *n_tokens, size_t *n_pages)
{
    uint32_t index;
    *layer = p->op->a % SIM_LAYERS;
    uint32_t length = a->flat.layers[*layer].length;
    if (!length)
        return false;
    *first = p->op->b % length;
    uint32_t most = length - *first, limit = 3 * a->flat.page_tokens;
    *n_tokens = 1 + (p->op->c & 0xffff) % (most < limit ? most : limit);
    *n_pages = (size_t)flat_pages_in(&a->flat, *layer, *first, *first + *n_tokens, &index) *
               sim_n_groups(p, *layer);
    return true;
}

/* KVP_E_RANGE if and only if all was evicted; KVP_E_NOSPACE if there can never be room. */
static void check_pin_status(sim_player *p, const sim_actor *a, uint32_t first, uint32_t n_tokens,
                             size_t n_pages, kvp_status status)
{
    if ((status == KVP_E_RANGE) != (n_pages == 0))
        sim_fail(p, "%s for a range with %zu pages", kvp_status_str(status), n_pages);
    if (status == KVP_E_RANGE || (status == KVP_E_NOSPACE && n_pages > p->n_frames / 2))
        return;
    sim_check_status(p, status);
    if (status == KVP_E_LOST)
        check_is_lost(p, a, first, n_tokens);
}

/* A deadline is kept to the nanosecond: the CPU takes no time here. */
static void check_deadline(sim_player *p, uint64_t start_ns, uint64_t deadline_ns,
                           kvp_status status)
{
    uint64_t now = p->world.now_ns;
    if (deadline_ns == 0 ? status == KVP_E_TIMEOUT : status == KVP_E_AGAIN)
        sim_fail(p, "%s with the deadline %llu", kvp_status_str(status),
                 (unsigned long long)deadline_ns);
    if (status == KVP_E_TIMEOUT && now < deadline_ns)
        sim_fail(p, "timed out %llu ns early", (unsigned long long)(deadline_ns - now));
    if (now > (deadline_ns > start_ns ? deadline_ns : start_ns))
        sim_fail(p, "%llu ns late", (unsigned long long)(now - deadline_ns));
}

/* ---- operations ---- */

bool sim_pin(sim_player *p, sim_actor *a, uint64_t deadline_ns, kvp_status *status)
{
    uint32_t layer, first, n_tokens;
    size_t n_pages;
    if (!range_of(p, a, &layer, &first, &n_tokens, &n_pages))
        return false;
    bool keeps = (p->op->c >> 16 & 1) && may_keep(p, a, n_pages);
    kvp_view view = {.pages = keeps ? a->pages : p->spare, .max_pages = SIM_MAX_PIN_PAGES};
    uint64_t start_ns = p->world.now_ns;
    *status = kvp_seq_pin(a->seq, layer, first, n_tokens, deadline_ns, &view);
    sim_detail(p, "layer %u tokens %u + %u", layer, first, n_tokens);
    check_deadline(p, start_ns, deadline_ns, *status);
    check_pin_status(p, a, first, n_tokens, n_pages, *status);
    if (*status)
        return true;
    check_view(p, a, &view, layer, first, n_tokens);
    if (!keeps) {
        kvp_view_unpin(&view);
        return true;
    }
    a->view = view;
    a->layer = layer;
    a->first = first;
    a->n_tokens = n_tokens;
    keep(p, a, HOLDS_VIEW, n_pages);
    return true;
}

bool sim_prepare(sim_player *p, sim_actor *a, kvp_status *status)
{
    uint32_t layer, first, n_tokens;
    size_t n_pages;
    if (!range_of(p, a, &layer, &first, &n_tokens, &n_pages) || !may_keep(p, a, n_pages))
        return false;
    a->ticket = (kvp_ticket){.view = {.pages = a->pages, .max_pages = SIM_MAX_PIN_PAGES}};
    *status = kvp_seq_prepare(a->seq, layer, first, n_tokens, &a->ticket);
    sim_detail(p, "layer %u tokens %u + %u", layer, first, n_tokens);
    check_pin_status(p, a, first, n_tokens, n_pages, *status);
    if (*status)
        return true;
    a->layer = layer;
    a->first = first;
    a->n_tokens = n_tokens;
    keep(p, a, HOLDS_TICKET, n_pages);
    return true;
}

bool sim_take(sim_player *p, sim_actor *a, uint64_t deadline_ns, kvp_status *status)
{
    if (a->hold != HOLDS_TICKET)
        return false;
    /* What other views hold only this thread could give back: waiting would be for itself. */
    if (deadline_ns && p->n_holders > 1)
        return false;
    uint64_t start_ns = p->world.now_ns;
    *status = kvp_ticket_wait(&a->ticket, deadline_ns);
    check_deadline(p, start_ns, deadline_ns, *status);
    check_pin_status(p, a, a->first, a->n_tokens, a->n_held, *status);
    if (*status == KVP_E_AGAIN || *status == KVP_E_TIMEOUT)
        return true;
    forget(p, a);
    if (*status)
        return true;
    p->out->tally.n_tickets++;
    a->view = a->ticket.view;
    check_view(p, a, &a->view, a->layer, a->first, a->n_tokens);
    keep(p, a, HOLDS_VIEW, a->n_held);
    if (p->op && p->op->c & 1)
        sim_let_go(p, a);
    return true;
}
