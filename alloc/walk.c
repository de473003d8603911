/* walk.c - the order of pages. */
#include "alloc/walk.h"

static bool is_visited(const kvpi_walk *w, const kvpi_entry *e)
{
    uint64_t last = e->first_position + e->n_valid; /* exclusive */
    return e->first_position < w->sinks_end || (e->first_position < w->end && last > w->begin);
}

bool kvpi_walk_settle(const kvpi_walk *w, kvpi_cursor *c)
{
    for (; c->group < w->layer->n_groups; c->group++, c->entry = 0) {
        const kvpi_lane *lane = &w->lanes[c->group];
        while (c->entry < lane->n_entries) {
            const kvpi_entry *e = &lane->entries[c->entry];
            if (is_visited(w, e))
                return true;
            if (e->first_position >= w->end)
                break;
            uint32_t jump = kvpi_lane_find(lane, w->begin); /* over the gap behind the sinks */
            c->entry = jump > c->entry ? jump : c->entry + 1;
        }
    }
    return false;
}

uint32_t kvpi_walk_item(const kvpi_walk *w, kvpi_cursor from, kvpi_cursor *after)
{
    const kvpi_lane *lane = &w->lanes[from.group];
    uint64_t segment = lane->entries[from.entry].first_position / w->segment_tokens;
    uint32_t n = 0;
    for (*after = from; after->entry < lane->n_entries; after->entry++) {
        const kvpi_entry *e = &lane->entries[after->entry];
        if (e->first_position / w->segment_tokens != segment)
            break;
        n += is_visited(w, e);
    }
    return n;
}
