/* kvpager/view.h - what a resident page looks like.
 *
 * A page holds K and V of up to `page_tokens` consecutive tokens of one lane. Its bytes are
 *
 *     K: [page_heads][page_tokens][k_width]   then   V: [page_heads][page_tokens][v_width]
 *
 * row-major in the layer's dtype, so that the rows of one KV head are contiguous. The page starts
 * at an address aligned to 4 KiB. Rows at or after `n_valid` are zero. Keys are stored as the
 * caller gave them (with RoPE: already rotated). Opaque rows are bytes that the caller has encoded:
 * an element is a byte, and nobody here looks at it. */
#ifndef KVPAGER_VIEW_H
#define KVPAGER_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kvp_dtype {
    KVP_F32 = 0,
    KVP_F16 = 1, /* IEEE 754 binary16 */
    KVP_BF16 = 2,
    KVP_OPAQUE = 3, /* bytes encoded by the caller, e.g. quantised: stored, never computed with */
} kvp_dtype;

/* Bytes per element; 0 for an unknown dtype. */
static inline size_t kvp_dtype_bytes(kvp_dtype dtype)
{
    return dtype == KVP_F32                        ? 4
           : dtype == KVP_F16 || dtype == KVP_BF16 ? 2
           : dtype == KVP_OPAQUE                   ? 1
                                                   : 0;
}

/* One pinned page. Read-only; borrowed from the pager until it is unpinned. */
typedef struct kvp_page_view {
    const void *k;           /* [page_heads][page_tokens][k_width] */
    const void *v;           /* [page_heads][page_tokens][v_width] */
    uint64_t first_position; /* of row 0; row i is the token at first_position + i */
    uint32_t n_valid;        /* rows that hold tokens */
    uint32_t index;          /* ordinal in its lane's page table */
    uint32_t layer;
    uint32_t first_head; /* the KV head that plane 0 belongs to */
    uint32_t n_heads;    /* planes of this page (the last lane of a layer may have fewer) */
    uint32_t page_tokens;
    uint32_t k_width, v_width;
    kvp_dtype dtype;
    bool has_opaque_v; /* V rows are v_width bytes */
    uint32_t handle;   /* private */
    /* Of a scan: where the part's next page lies, if it is in RAM now. For prefetching, not for
     * reading: it is not held. NULL: not known. */
    const void *next;
} kvp_page_view;

/* Rows of head plane `h` (0 .. n_heads - 1) of a page. */
static inline const void *kvp_page_k(const kvp_page_view *p, uint32_t h)
{
    size_t plane = (size_t)p->page_tokens * p->k_width * kvp_dtype_bytes(p->dtype);
    return (const char *)p->k + h * plane;
}

static inline const void *kvp_page_v(const kvp_page_view *p, uint32_t h)
{
    size_t row = (size_t)p->v_width * (p->has_opaque_v ? 1 : kvp_dtype_bytes(p->dtype));
    size_t plane = p->page_tokens * row;
    return (const char *)p->v + h * plane;
}

#ifdef __cplusplus
}
#endif
#endif
