/* geometry.c - checks a kvp_geometry and resolves its defaults. */
#include "alloc/geometry.h"

#include "alloc/mem.h"

#define TARGET_PAGE_BYTES                                                                          \
    (64u << 10) /* the disk is full at 64 KiB x 8 in flight; a fault stays short */
#define MAX_PAGE_BYTES (64u << 20)
#define DEFAULT_PAGE_TOKENS 64u
#define MAX_LAYERS 65536u

static size_t head_bytes(const kvpi_layer *l, uint32_t page_tokens)
{
    return page_tokens * (kvpi_layer_k_row(l) + kvpi_layer_v_row(l));
}

static kvp_status check_layer(const kvpi_layer *l, uint32_t layer)
{
    if (!kvp_dtype_bytes(l->dtype))
        return kvp_fail(KVP_E_INVALID, "geometry: layer %u: unknown dtype %d", layer,
                        (int)l->dtype);
    if (l->n_kv_heads < 1 || l->n_kv_heads > 65536)
        return kvp_fail(KVP_E_INVALID, "geometry: layer %u: n_kv_heads is %u, must be 1 .. 65536",
                        layer, l->n_kv_heads);
    uint32_t v_least = l->dtype == KVP_OPAQUE || l->lookup.has_opaque_v ? 0 : 1;
    if (l->k_width < 1 || l->k_width > 65536 || l->v_width < v_least || l->v_width > 65536)
        return kvp_fail(KVP_E_INVALID,
                        "geometry: layer %u: head widths are %u (K) and %u (V), must be 1 .. 65536 "
                        "(V of opaque layers: 0 .. 65536)",
                        layer, l->k_width, l->v_width);
    if (kvpi_layer_v_row(l) % kvp_dtype_bytes(l->dtype))
        return kvp_fail(KVP_E_INVALID,
                        "geometry: layer %u: opaque V has %u bytes per head, which must be a "
                        "multiple of the %zu of an element of K",
                        layer, l->v_width, kvp_dtype_bytes(l->dtype));
    if (l->lookup.has_digests && l->dtype == KVP_OPAQUE)
        return kvp_fail(KVP_E_INVALID,
                        "geometry: layer %u: keys of an opaque layer have no digests: only the "
                        "caller knows what their bytes mean",
                        layer);
    return KVP_OK;
}

/* As many heads as make pages of about 64 KiB, and a number that divides the heads where one is
 * near. */
static uint32_t default_page_heads(const kvpi_layer *l, uint32_t page_tokens)
{
    size_t fit = TARGET_PAGE_BYTES / head_bytes(l, page_tokens);
    uint32_t heads = fit < 1 ? 1 : fit > l->n_kv_heads ? l->n_kv_heads : (uint32_t)fit;
    for (uint32_t h = heads; h > heads / 2; h--)
        if (l->n_kv_heads % h == 0)
            return h;
    return heads;
}

static void take_layer(kvpi_layer *l, const kvp_geometry *in, uint32_t i)
{
    if (in->layers)
        *l = (kvpi_layer){.n_kv_heads = in->layers[i].n_kv_heads,
                          .k_width = in->layers[i].k_width,
                          .v_width = in->layers[i].v_width,
                          .dtype = in->layers[i].dtype};
    else
        *l = (kvpi_layer){.n_kv_heads = in->n_kv_heads,
                          .k_width = in->head_dim,
                          .v_width = in->head_dim,
                          .dtype = in->dtype};
    if (in->lookups)
        l->lookup = in->lookups[i];
}

static kvp_status resolve_layer(kvpi_geometry *g, const kvp_geometry *in, uint32_t i)
{
    kvpi_layer *l = &g->layers[i];
    take_layer(l, in, i);
    kvp_status status = check_layer(l, i);
    if (status)
        return status;
    l->page_heads = in->page_heads ? in->page_heads : default_page_heads(l, g->page_tokens);
    if (l->page_heads > l->n_kv_heads)
        l->page_heads = l->n_kv_heads;
    l->n_groups = (l->n_kv_heads + l->page_heads - 1) / l->page_heads;
    l->lane_base = g->n_lanes;
    if (l->n_groups > KVPI_MAX_LANES - g->n_lanes)
        return kvp_fail(KVP_E_INVALID,
                        "geometry: layer %u: more than %u lanes (head groups of all layers); raise "
                        "page_heads",
                        i, KVPI_MAX_LANES);
    g->n_lanes += l->n_groups;
    size_t bytes = kvpi_layer_page_bytes(g, l, 0);
    if (bytes > MAX_PAGE_BYTES)
        return kvp_fail(KVP_E_INVALID,
                        "geometry: layer %u: a page has %zu bytes, at most %u are possible; lower "
                        "page_tokens or page_heads",
                        i, bytes, MAX_PAGE_BYTES);
    if (bytes > g->slot_bytes)
        g->slot_bytes = bytes;
    return KVP_OK;
}

kvp_status kvpi_geometry_init(kvpi_geometry *g, const kvp_geometry *in, const kvp_mem *mem)
{
    *g = (kvpi_geometry){.n_layers = in->n_layers,
                         .page_tokens = in->page_tokens ? in->page_tokens : DEFAULT_PAGE_TOKENS};
    if (in->n_layers < 1 || in->n_layers > MAX_LAYERS)
        return kvp_fail(KVP_E_INVALID, "geometry: n_layers is %u, must be 1 .. %u", in->n_layers,
                        MAX_LAYERS);
    if (in->page_tokens > 65535)
        return kvp_fail(KVP_E_INVALID, "geometry: page_tokens is %u, must be 1 .. 65535 (0: %u)",
                        in->page_tokens, DEFAULT_PAGE_TOKENS);
    kvp_status status = kvpi_alloc(mem, g->n_layers * sizeof *g->layers, "geometry", &g->layers);
    for (uint32_t i = 0; i < g->n_layers && !status; i++)
        status = resolve_layer(g, in, i);
    if (status) {
        kvpi_geometry_fini(g, mem);
        return status;
    }
    g->slot_bytes = (g->slot_bytes + KVPI_SLOT_ALIGN - 1) / KVPI_SLOT_ALIGN * KVPI_SLOT_ALIGN;
    return KVP_OK;
}

void kvpi_geometry_fini(kvpi_geometry *g, const kvp_mem *mem)
{
    kvpi_free(mem, g->layers, g->n_layers * sizeof *g->layers);
    g->layers = NULL;
}

const kvpi_layer *kvpi_geometry_layer_of(const kvpi_geometry *g, uint32_t lane, uint32_t *layer)
{
    uint32_t low = 0, high = g->n_layers - 1;
    while (low < high) { /* the last layer whose lane_base is not above `lane` */
        uint32_t mid = (low + high + 1) / 2;
        if (g->layers[mid].lane_base <= lane)
            low = mid;
        else
            high = mid - 1;
    }
    *layer = low;
    return &g->layers[low];
}

uint32_t kvpi_layer_group_heads(const kvpi_layer *l, uint32_t group)
{
    uint32_t first = group * l->page_heads;
    uint32_t left = l->n_kv_heads - first;
    return left < l->page_heads ? left : l->page_heads;
}

size_t kvpi_layer_page_bytes(const kvpi_geometry *g, const kvpi_layer *l, uint32_t group)
{
    return head_bytes(l, g->page_tokens) * kvpi_layer_group_heads(l, group);
}
