/* walk.h - the order in which the pages of a layer are visited: lane by lane, in order of position,
 * cut into items (the pages of one lane in one segment). */
#ifndef KVPI_ALLOC_WALK_H
#define KVPI_ALLOC_WALK_H

#include "alloc/geometry.h"
#include "alloc/lane.h"

/* A place in that order: an entry of a lane of the layer. Zeroed: the beginning. */
typedef struct kvpi_cursor {
    uint32_t group, entry;
} kvpi_cursor;

/* What is visited: the layer's pages that hold a position in [0, sinks_end) or [begin, end), less
 * those that are passed over. */
typedef struct kvpi_walk {
    const kvpi_layer *layer;
    const kvpi_lane *lanes; /* [layer->n_groups] */
    uint64_t sinks_end, begin, end;
    uint32_t page_tokens, segment_pages;
    uint32_t first_group, end_group; /* lanes of these head groups only */
    const uint64_t *skip;            /* a bit per entry of a lane that is passed over; NULL: none */
} kvpi_walk;

/* Move to the first visited entry at or after `c`; false at the end of all lanes. */
bool kvpi_walk_settle(const kvpi_walk *w, kvpi_cursor *c);
/* Pages of the item that begins at the settled cursor `from`; *after is behind it. */
uint32_t kvpi_walk_item(const kvpi_walk *w, kvpi_cursor from, kvpi_cursor *after);

static inline uint32_t kvpi_walk_page(const kvpi_walk *w, kvpi_cursor c)
{
    return w->lanes[c.group].entries[c.entry].page;
}
static inline bool kvpi_cursor_is_before(kvpi_cursor a, kvpi_cursor b)
{
    return a.group < b.group || (a.group == b.group && a.entry < b.entry);
}

#endif
