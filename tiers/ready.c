/* ready.c - transfers whose next step needs only the CPU, and which thread takes which.
 *
 * Whoever waits for a page takes its transfer, or while that is on its way another. As long as
 * there are more than he can do by himself, idle workers of the pool take part: they encode and
 * decode what he would come to last. So two waiting threads decode two pages, a thread that waits
 * alone is helped, one whose pool is busy helps itself, and what nobody waits for in the library is
 * done by the thread behind kvp_pager_eventfd().
 *
 * A pin of 16 pages of 64 KiB in zram takes 24 us for each on one thread, 16 with an idle worker.
 * Losing designs: a worker takes the only page that is left (a pin of 4 pages: 25 us for each
 * instead of 20, waking him takes as long as decoding a page); pins whose pages may leave before
 * their turn (60 to 78 us). */
#include "tiers/pager.h"

void kvpi_transfer_ready(kvp_pager *p, kvpi_transfer *t)
{
    t->next = NULL;
    *p->ready_end = t;
    p->ready_end = &t->next;
}

static kvpi_transfer *take_out(kvp_pager *p, kvpi_transfer **at)
{
    kvpi_transfer *t = *at;
    *at = t->next;
    if (p->ready_end == &t->next)
        p->ready_end = at;
    return t;
}

/* ---- for who waits ---- */

/* Just a checksum away from somebody who will read the page next, and then has it in his cache. */
static bool is_for_its_user(const kvpi_transfer *t)
{
    return t->kind == KVPI_PROMOTE && t->lower == KVPI_DISK && !t->unit &&
           (kvpi_page_is(t->pg, KVPI_PAGE_AHEAD) || t->pg->pins);
}

static kvpi_transfer **find_for(kvp_pager *p, uint32_t page)
{
    bool is_coming =
        page != KVP_PAGE_NONE && kvpi_page_is(kvpi_page_at(&p->pages, page), KVPI_PAGE_LOADING);
    kvpi_transfer **found = NULL;
    for (kvpi_transfer **at = &p->ready_first; *at; at = &(*at)->next) {
        if ((*at)->page == page)
            return at;
        if (!found && !(is_coming && is_for_its_user(*at)))
            found = at;
    }
    return found;
}

bool kvpi_ready_finish(kvp_pager *p, uint32_t page)
{
    kvpi_transfer **found = find_for(p, page);
    if (found)
        kvpi_transfer_step(p, take_out(p, found));
    return found != NULL;
}

/* ---- for who helps ---- */

bool kvpi_ready_is_spare(const kvp_pager *p)
{
    uint32_t n = 0;
    for (const kvpi_transfer *t = p->ready_first; t && n < 2; t = t->next)
        n += t->unit != NULL;
    return n == 2; /* one for who waits: he does not sleep until the other is done */
}

bool kvpi_ready_finish_spare(kvp_pager *p)
{
    if (!kvpi_ready_is_spare(p))
        return false;
    kvpi_transfer **last = NULL;
    for (kvpi_transfer **at = &p->ready_first; *at; at = &(*at)->next)
        if ((*at)->unit)
            last = at;
    p->stats.codec_helped++;
    kvpi_transfer_step(p, take_out(p, last));
    return true;
}
