/* planes.c - walks slices and rows, and leaves the elements of a row to a kernel. */
#include "tiers/planes.h"

#include "kvpager/attention.h"

#include <string.h>

const kvpi_plane_kernels *kvpi_plane_kernels_find(void)
{
#if defined(__x86_64__)
    const char *isa = kvp_isa(); /* NULL: KVP_ISA asks for what is not here */
    if (isa && strcmp(isa, kvpi_plane_kernels_scalar.name) != 0)
        return &kvpi_plane_kernels_avx2; /* whatever else there is has AVX2 */
#endif
    return &kvpi_plane_kernels_scalar;
}

size_t kvpi_reference_bytes(const kvpi_plane_shape *s, kvpi_predictor p)
{
    return p == KVPI_PREDICT_SCALE ? s->n_slices * s->width : 0;
}

/* A piece of a stream that one call of a kernel handles. */
typedef struct span {
    size_t first, n;    /* elements */
    const uint8_t *ref; /* NULL: none */
} span;

/* The row that begins at element `at` of a slice; without a predictor, the whole slice. */
static span take_row(const kvpi_plane_shape *s, kvpi_predictor p, size_t slice, size_t at,
                     const uint8_t *refs, const uint8_t *elements)
{
    size_t slice_n = s->n / s->n_slices, left = slice_n - at;
    span row = {.first = slice * slice_n + at, .n = left < s->width ? left : s->width};
    if (p == KVPI_PREDICT_NONE)
        row.n = left;
    else if (p == KVPI_PREDICT_TOKEN)
        row.ref = at ? elements + (row.first - s->width) * s->element_bytes : NULL;
    else
        row.ref = refs + slice * s->width;
    return row;
}

static kvpi_against against(kvpi_predictor p, const span *row)
{
    return !row->ref                 ? KVPI_AGAINST_NOTHING
           : p == KVPI_PREDICT_SCALE ? KVPI_AGAINST_EXPONENT
                                     : KVPI_AGAINST_VALUE;
}

void kvpi_planes_split(const kvpi_plane_kernels *k, const kvpi_plane_shape *s, kvpi_predictor p,
                       const void *src, const void *refs, uint8_t *high, uint8_t *low)
{
    span row;
    for (size_t slice = 0; slice < s->n_slices; slice++)
        for (size_t at = 0; at < s->n / s->n_slices; at += row.n) {
            row = take_row(s, p, slice, at, refs, src);
            k->split[s->element_bytes == 4][against(p, &row)](
                (const uint8_t *)src + row.first * s->element_bytes, row.ref, row.n,
                high + row.first, low + row.first, s->n);
        }
}

void kvpi_planes_merge(const kvpi_plane_kernels *k, const kvpi_plane_shape *s, kvpi_predictor p,
                       void *dst, const void *refs, const uint8_t *high, const uint8_t *low)
{
    span row;
    for (size_t slice = 0; slice < s->n_slices; slice++)
        for (size_t at = 0; at < s->n / s->n_slices; at += row.n) {
            row = take_row(s, p, slice, at, refs, dst);
            k->merge[s->element_bytes == 4][against(p, &row)](
                (uint8_t *)dst + row.first * s->element_bytes, row.ref, row.n, high + row.first,
                low + row.first, s->n);
        }
}
