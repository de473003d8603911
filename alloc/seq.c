/* seq.c - sequences as tables; no bytes move here. */
#include "alloc/seq.h"

#include "alloc/mem.h"

static size_t struct_bytes(const kvpi_geometry *g)
{
    return sizeof(kvp_seq) + g->n_lanes * sizeof(kvpi_lane) + g->n_layers * sizeof(kvpi_trail);
}

kvp_status kvpi_seq_new(kvp_pager *pager, const kvpi_geometry *g, const kvp_mem *mem, kvp_seq **out)
{
    kvp_seq *seq;
    kvp_status status = kvpi_alloc(mem, struct_bytes(g), "sequence", &seq);
    if (status)
        return status;
    seq->pager = pager;
    seq->hot_layer = UINT32_MAX;
    seq->trails = (kvpi_trail *)&seq->lanes[g->n_lanes];
    *out = seq;
    return KVP_OK;
}

void kvpi_seq_delete(kvp_seq *seq, const kvpi_geometry *g, const kvp_mem *mem)
{
    for (uint32_t i = 0; i < g->n_lanes; i++)
        kvpi_lane_fini(&seq->lanes[i], mem);
    kvpi_free(mem, seq, struct_bytes(g));
}
