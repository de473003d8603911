/* geometry.h - what a kvp_geometry means in lanes and bytes. */
#ifndef KVPI_ALLOC_GEOMETRY_H
#define KVPI_ALLOC_GEOMETRY_H

#include "kvpager.h"

#define KVPI_SLOT_ALIGN 4096u
#define KVPI_MAX_LANES 65536u /* page descriptors have 16 bits for it */

/* One layer, resolved. Its lanes (head groups) are lane_base .. lane_base + n_groups - 1. */
typedef struct kvpi_layer {
    uint32_t n_kv_heads, k_width, v_width;
    kvp_dtype dtype;
    kvp_lookup_kind lookup;
    uint32_t page_heads; /* KV heads per page */
    uint32_t n_groups;   /* lanes: n_kv_heads / page_heads, rounded up */
    uint32_t lane_base;
} kvpi_layer;

typedef struct kvpi_geometry {
    uint32_t n_layers, n_lanes, page_tokens;
    size_t slot_bytes;  /* of the largest page, rounded up to 4 KiB */
    kvpi_layer *layers; /* [n_layers] */
} kvpi_geometry;

/* Check and resolve. Errors: KVP_E_INVALID (the message names the member), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_geometry_init(kvpi_geometry *g, const kvp_geometry *in,
                                            const kvp_mem *mem);
void kvpi_geometry_fini(kvpi_geometry *g, const kvp_mem *mem);

/* The layer that a lane belongs to. */
const kvpi_layer *kvpi_geometry_layer_of(const kvpi_geometry *g, uint32_t lane, uint32_t *layer);
/* KV heads of group `group`: the last group may have fewer than page_heads. */
uint32_t kvpi_layer_group_heads(const kvpi_layer *l, uint32_t group);
/* Bytes of a row of one head. */
static inline size_t kvpi_layer_k_row(const kvpi_layer *l)
{
    return (size_t)l->k_width * kvp_dtype_bytes(l->dtype);
}
static inline size_t kvpi_layer_v_row(const kvpi_layer *l)
{
    return (size_t)l->v_width * (l->lookup.has_opaque_v ? 1 : kvp_dtype_bytes(l->dtype));
}
/* Bytes of one page of group `group`, K and V. */
size_t kvpi_layer_page_bytes(const kvpi_geometry *g, const kvpi_layer *l, uint32_t group);

#endif
