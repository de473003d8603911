/* view.c - what callers see of a page, and the end of a pin. */
#include "tiers/pager.h"

void kvpi_fill_view(kvp_pager *p, const kvp_seq *seq, uint32_t layer, uint32_t group,
                    uint32_t index, kvp_page_view *view)
{
    const kvpi_layer *l = &p->geometry.layers[layer];
    const kvpi_lane *lane = &seq->lanes[l->lane_base + group];
    uint32_t page = lane->entries[index].page;
    const char *frame = kvpi_frame_addr(p, kvpi_page_at(&p->pages, page)->frame);
    uint32_t n_heads = kvpi_layer_group_heads(l, group);
    size_t k_bytes = (size_t)n_heads * p->geometry.page_tokens * kvpi_layer_k_row(l);
    *view = (kvp_page_view){.k = frame,
                            .v = frame + k_bytes,
                            .first_position =
                                kvpi_lane_first_position(lane, index, p->geometry.page_tokens),
                            .n_valid = kvpi_lane_n_valid(lane, index, p->geometry.page_tokens),
                            .index = index,
                            .layer = layer,
                            .first_head = group * l->page_heads,
                            .n_heads = n_heads,
                            .page_tokens = p->geometry.page_tokens,
                            .k_width = l->k_width,
                            .v_width = l->v_width,
                            .dtype = l->dtype,
                            .has_opaque_v = l->lookup.has_opaque_v,
                            .handle = page};
}

/* Does it hold the layer's open pages? Append refuses to write to them meanwhile, so the answer
 * stays what it is. */
static bool has_open_pages(const kvp_view *view)
{
    const kvpi_geometry *g = &view->seq->pager->geometry;
    const kvp_page_view *last = &view->pages[view->n_pages / view->n_groups - 1];
    const kvpi_lane *lane = &view->seq->lanes[g->layers[last->layer].lane_base];
    return last->index + 1 == lane->n_entries && kvpi_lane_open_entry(lane, g->page_tokens);
}

void kvpi_view_begin(kvp_view *view)
{
    view->seq->n_pins += (uint32_t)view->n_pages;
    view->seq->trails[view->pages[0].layer].n_open_pins += has_open_pages(view);
}

void kvp_view_unpin(kvp_view *view)
{
    if (!view || !view->seq)
        return;
    kvp_pager *p = view->seq->pager;
    kvpi_lock(p);
    for (size_t i = 0; i < view->n_pages; i++)
        kvpi_unpin(p, view->pages[i].handle);
    view->seq->n_pins -= (uint32_t)view->n_pages;
    view->seq->trails[view->pages[0].layer].n_open_pins -= has_open_pages(view);
    kvpi_unhold(p, view->seq->account, view->held, true);
    kvpi_unlock(p);
    view->seq = NULL;
    view->n_pages = 0;
}
