/* walk.c - the order of pages. */
#include "alloc/walk.h"

static bool is_visited(const kvpi_walk *w, const kvpi_lane *lane, uint32_t i)
{
    if (w->skip && (w->skip[i / 64] >> i % 64 & 1))
        return false;
    uint64_t first = kvpi_lane_first_position(lane, i, w->page_tokens);
    return first < w->sinks_end ||
           (first < w->end && kvpi_lane_end_position(lane, i, w->page_tokens) > w->begin);
}

bool kvpi_walk_settle(const kvpi_walk *w, kvpi_cursor *c)
{
    if (c->group < w->first_group)
        *c = (kvpi_cursor){.group = w->first_group};
    for (; c->group < w->end_group; c->group++, c->entry = 0) {
        const kvpi_lane *lane = &w->lanes[c->group];
        while (c->entry < lane->n_entries) {
            if (is_visited(w, lane, c->entry))
                return true;
            if (kvpi_lane_first_position(lane, c->entry, w->page_tokens) >= w->end)
                break;
            /* over the gap behind the sinks */
            uint32_t jump = kvpi_lane_find(lane, w->begin, w->page_tokens);
            c->entry = jump > c->entry ? jump : c->entry + 1;
        }
    }
    return false;
}

uint32_t kvpi_walk_item(const kvpi_walk *w, kvpi_cursor from, kvpi_cursor *after)
{
    const kvpi_lane *lane = &w->lanes[from.group];
    uint32_t segment = lane->entries[from.entry].index / w->segment_pages;
    uint32_t n = 0;
    for (*after = from; after->entry < lane->n_entries; after->entry++) {
        if (lane->entries[after->entry].index / w->segment_pages != segment)
            break;
        n += is_visited(w, lane, after->entry);
    }
    return n;
}
