/* digest.c - centre, radius, norms and cone of a page's keys.
 *
 * A score is bounded in two ways (attention/search_bound.c): the keys lie in a ball around their
 * centre, and in a cone around its direction. The cone is the narrower one for keys of norm 1,
 * whose centre is inside the sphere. The centre is rounded to bf16 before distances are taken from
 * it, so that what is stored is true of what is stored. */
#include "tiers/digest.h"

#include "alloc/mem.h"
#include "tiers/convert.h"
#include "tiers/pager.h"

#include <math.h>
#include <string.h>

#define BLOCK 64u /* columns at a time */

/* A page's digest: this, then per KV head a head_digest and its centre. */
typedef struct page_digest {
    uint64_t serial; /* of the page that it describes; 0: of none */
} page_digest;

typedef struct head_digest {
    float radius, min_norm, max_norm, min_cosine;
    uint16_t centre[]; /* [k_width] */
} head_digest;

static size_t head_bytes(const kvpi_layer *l)
{
    return (sizeof(head_digest) + l->k_width * sizeof(uint16_t) + 7) / 8 * 8;
}

void kvpi_digests_open(kvp_pager *p)
{
    for (uint32_t i = 0; i < p->geometry.n_layers; i++) {
        const kvpi_layer *l = &p->geometry.layers[i];
        size_t stride = sizeof(page_digest) + l->page_heads * head_bytes(l);
        if (l->lookup.has_digests && stride > p->digests.stride)
            p->digests.stride = stride;
    }
}

void kvpi_digests_close(kvp_pager *p)
{
    kvpi_digests *d = &p->digests;
    for (uint32_t i = 0; i < d->n_chunks; i++)
        kvpi_free(&p->table_mem, d->chunks[i], KVPI_DIGEST_CHUNK * d->stride);
    kvpi_free(&p->table_mem, d->chunks, d->n_chunks * sizeof *d->chunks);
    *d = (kvpi_digests){0};
}

/* NULL: there is no chunk for the page. */
static page_digest *digest_of(const kvp_pager *p, uint32_t page)
{
    const kvpi_digests *d = &p->digests;
    uint32_t chunk = page / KVPI_DIGEST_CHUNK;
    if (chunk >= d->n_chunks || !d->chunks[chunk])
        return NULL;
    return (page_digest *)((char *)d->chunks[chunk] + page % KVPI_DIGEST_CHUNK * d->stride);
}

static kvp_status add_chunk(kvp_pager *p, uint32_t chunk)
{
    kvpi_digests *d = &p->digests;
    if (chunk >= d->n_chunks) {
        uint32_t n = chunk < 8 ? 16 : 2 * chunk;
        void **chunks;
        kvp_status status =
            kvpi_alloc(&p->table_mem, n * sizeof *chunks, "directory of digests", &chunks);
        if (status)
            return status;
        if (d->n_chunks)
            memcpy(chunks, d->chunks, d->n_chunks * sizeof *chunks);
        kvpi_free(&p->table_mem, d->chunks, d->n_chunks * sizeof *d->chunks);
        d->chunks = chunks;
        d->n_chunks = n;
    }
    return d->chunks[chunk] ? KVP_OK
                            : kvpi_alloc(&p->table_mem, KVPI_DIGEST_CHUNK * d->stride, "digests",
                                         &d->chunks[chunk]);
}

void *kvpi_digest_open(kvp_pager *p, uint32_t page)
{
    if (add_chunk(p, page / KVPI_DIGEST_CHUNK))
        return NULL;
    page_digest *digest = digest_of(p, page);
    digest->serial = 0;
    return digest;
}

void kvpi_digest_seal(kvp_pager *p, uint32_t page)
{
    const kvpi_page *pg = kvpi_page_at(&p->pages, page);
    uint32_t layer;
    page_digest *digest = digest_of(p, page);
    if (digest && kvpi_geometry_layer_of(&p->geometry, pg->lane, &layer)->lookup.has_digests)
        digest->serial = pg->serial;
}

/* ---- what is in it ---- */

static float from_bf16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* To the nearest, as long as that is finite. */
static uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t up = bits + 0x8000u;
    return (uint16_t)((up & 0x7f800000u) == 0x7f800000u ? bits >> 16 : up >> 16);
}

/* Keys of one KV head. */
typedef struct keys {
    const char *rows; /* [n][width] */
    uint32_t n, width;
    kvp_dtype dtype;
} keys;

/* Columns [at, at + return value) of row i. */
static uint32_t load_block(const keys *k, uint32_t i, uint32_t at, float *x)
{
    uint32_t n = k->width - at < BLOCK ? k->width - at : BLOCK;
    size_t element = kvp_dtype_bytes(k->dtype);
    const char *from = k->rows + ((size_t)i * k->width + at) * element;
    (void)kvpi_convert(x, KVP_F32, from, k->dtype, n); /* pages hold finite values only */
    return n;
}

static void find_centre(const keys *k, uint16_t *centre)
{
    for (uint32_t at = 0, n; at < k->width; at += n) {
        double sum[BLOCK] = {0};
        float x[BLOCK];
        n = 0;
        for (uint32_t i = 0; i < k->n; i++) {
            n = load_block(k, i, at, x);
            for (uint32_t c = 0; c < n; c++)
                sum[c] += x[c];
        }
        for (uint32_t c = 0; c < n; c++)
            centre[at + c] = to_bf16((float)(sum[c] / k->n));
    }
}

/* Squares of a key's norm, of its distance from the centre, and the product of the two. */
typedef struct measures {
    double norm2, distance2, product;
} measures;

static measures measure(const keys *k, uint32_t i, const uint16_t *centre)
{
    measures m = {0};
    for (uint32_t at = 0, n; at < k->width; at += n) {
        float x[BLOCK];
        n = load_block(k, i, at, x);
        for (uint32_t c = 0; c < n; c++) {
            double o = (double)from_bf16(centre[at + c]), d = x[c] - o;
            m.norm2 += (double)x[c] * x[c];
            m.distance2 += d * d;
            m.product += x[c] * o;
        }
    }
    return m;
}

static double norm_of(const uint16_t *x, uint32_t n)
{
    double norm2 = 0;
    for (uint32_t c = 0; c < n; c++)
        norm2 += (double)from_bf16(x[c]) * from_bf16(x[c]);
    return sqrt(norm2);
}

static float at_least(double x)
{
    return nextafterf((float)x, INFINITY);
}

static float at_most(double x)
{
    return nextafterf((float)x, -INFINITY);
}

static void make_head(const keys *k, head_digest *d)
{
    find_centre(k, d->centre);
    double centre_norm = norm_of(d->centre, k->width);
    double radius2 = 0, min2 = INFINITY, max2 = 0, cosine = 1;
    for (uint32_t i = 0; i < k->n; i++) {
        measures m = measure(k, i, d->centre);
        double lengths = sqrt(m.norm2) * centre_norm;
        radius2 = fmax(radius2, m.distance2);
        min2 = fmin(min2, m.norm2);
        max2 = fmax(max2, m.norm2);
        cosine = lengths > 0 ? fmin(cosine, m.product / lengths) : -1;
    }
    d->radius = at_least(sqrt(radius2));
    d->min_norm = fmaxf(at_most(sqrt(min2)), 0);
    d->max_norm = at_least(sqrt(max2));
    d->min_cosine = fmaxf(at_most(cosine), -1);
}

void kvpi_digest_make(const kvpi_layer *l, uint32_t group, uint32_t page_tokens, const void *frame,
                      void *digest)
{
    char *to = (char *)digest + sizeof(page_digest);
    for (uint32_t h = 0; h < kvpi_layer_group_heads(l, group); h++) {
        const keys k = {.rows = (const char *)frame + h * page_tokens * kvpi_layer_k_row(l),
                        .n = page_tokens,
                        .width = l->k_width,
                        .dtype = l->dtype};
        make_head(&k, (head_digest *)(to + h * head_bytes(l)));
    }
}

void kvp_seq_digests(kvp_seq *seq, uint32_t layer, uint32_t head, kvp_digest *digests)
{
    kvp_pager *p = seq->pager;
    const kvpi_layer *l = &p->geometry.layers[layer];
    const kvpi_lane *lane = &seq->lanes[l->lane_base + head / l->page_heads];
    kvpi_lock(p);
    for (uint32_t i = 0; i < lane->n_entries; i++) {
        uint32_t page = lane->entries[i].page;
        const page_digest *digest = digest_of(p, page);
        digests[i].first_position = kvpi_lane_first_position(lane, i, p->geometry.page_tokens);
        digests[i].centre = NULL;
        if (!digest || !l->lookup.has_digests ||
            digest->serial != kvpi_page_at(&p->pages, page)->serial)
            continue;
        const head_digest *d = (const head_digest *)((const char *)(digest + 1) +
                                                     head % l->page_heads * head_bytes(l));
        digests[i].centre = d->centre;
        digests[i].radius = d->radius;
        digests[i].min_norm = d->min_norm;
        digests[i].max_norm = d->max_norm;
        digests[i].min_cosine = d->min_cosine;
    }
    kvpi_unlock(p);
}
