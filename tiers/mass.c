/* mass.c - attention mass, on its way from the kernels to the placement policies and the trace. */
#include "tiers/pager.h"
#include "tiers/trace.h"

bool kvp_pager_wants_mass(const kvp_pager *pager)
{
    return pager->cfg.placement->mass || pager->cfg.trace;
}

/* Of page i of a lane, whose query heads are [head, head_end). */
static float mean_mass(const float *page_mass, size_t n_pages, size_t i, size_t n_queries,
                       size_t n_heads, size_t head, size_t head_end)
{
    double sum = 0;
    for (size_t q = 0; q < n_queries; q++)
        for (size_t h = head; h < head_end; h++)
            sum += (double)page_mass[(q * n_heads + h) * n_pages + i];
    return (float)(sum / (double)(n_queries * (head_end - head)));
}

static void note_page(kvp_pager *p, uint32_t page, float mass)
{
    kvpi_trace(p, &(kvp_trace_event){.kind = KVP_TRACE_PAGE_MASS, .page = page, .mass = mass});
    if (p->cfg.placement->mass)
        kvpi_set_mass(p, page, mass);
}

void kvp_seq_note_mass(kvp_seq *seq, uint32_t layer, const float *page_mass, size_t n_queries,
                       uint32_t n_heads)
{
    kvp_pager *p = seq->pager;
    if (!kvp_pager_wants_mass(p) || layer >= p->geometry.n_layers || !n_queries)
        return;
    const kvpi_layer *l = &p->geometry.layers[layer];
    size_t heads_per_kv = n_heads / l->n_kv_heads, head = 0;
    kvpi_lock(p);
    for (uint32_t g = 0; g < l->n_groups && heads_per_kv; g++) {
        const kvpi_lane *lane = &seq->lanes[l->lane_base + g];
        size_t end = head + kvpi_layer_group_heads(l, g) * heads_per_kv;
        for (uint32_t i = 0; i < lane->n_entries; i++)
            note_page(p, lane->entries[i].page,
                      mean_mass(page_mass, lane->n_entries, i, n_queries, n_heads, head, end));
        head = end;
    }
    kvpi_unlock(p);
}
