/* codec_parts.c - what all codecs of floats have in common: a page is K and V, each of them
 *
 *     u32  n          bytes of the part (all words little-endian)
 *     u32  n_live     of those, bytes outside of zero blocks
 *     u32  n_high     bytes that the top bytes were packed into
 *     u8   predictor  kvpi_predictor
 *     u8   0, 0, 0
 *     map             a bit per 64-byte block; only if n_live is less than the part
 *     references      kvpi_reference_bytes()
 *     low planes      mantissas and signs: noise, stored as they are
 *     top bytes       the exponents, packed: what differs between codecs
 *
 * Elements are those of the live blocks, one after the other. Their slices are the page's heads if
 * those divide their number (a page in which every head has as many tokens), else all are one. */
#include "tiers/codec_impl.h"

#include "tiers/zero_blocks.h"

#include <string.h>

enum { AT_BYTES = 0, AT_LIVE = 4, AT_HIGH = 8, AT_PREDICTOR = 12, HEADER_BYTES = 16 };
#define CHANNELS ((size_t)128) /* at a time */
#define MAX_ROWS ((size_t)64)  /* that a reference row is the mean of */

static void put32(uint8_t *p, size_t x)
{
    for (size_t i = 0; i < 4; i++)
        p[i] = (uint8_t)(x >> (8 * i));
}

static size_t get32(const uint8_t *p)
{
    return (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
}

/* ---- a part ---- */

static size_t part_bytes(const kvpi_codec_shape *s, size_t which)
{
    return (size_t)s->n_heads * s->n_tokens * (which ? s->v_width : s->k_width) *
           kvp_dtype_bytes(s->dtype);
}

static kvpi_plane_shape planes_of(const kvpi_codec_shape *s, size_t which, size_t n_live)
{
    size_t element_bytes = kvp_dtype_bytes(s->dtype), n = n_live / element_bytes;
    return (kvpi_plane_shape){.n = n,
                              .n_slices = n % s->n_heads ? 1 : s->n_heads,
                              .element_bytes = element_bytes,
                              .width = which ? s->v_width : s->k_width};
}

void kvpi_parts_take(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src)
{
    const uint8_t *from = src;
    uint8_t *live = c->live, *map = c->map, *refs = c->refs;
    for (size_t which = 0; which < 2; which++) {
        kvpi_part *p = &c->parts[which];
        *p = (kvpi_part){.bytes = part_bytes(shape, which), .live = from, .map = map};
        p->n_live = kvpi_blocks_find(from, p->bytes, map);
        p->planes = planes_of(shape, which, p->n_live);
        p->refs = refs;
        if (p->n_live < p->bytes) {
            kvpi_blocks_gather(from, p->bytes, map, live);
            p->live = live;
        }
        from += p->bytes;
        live += p->bytes;
        map += kvpi_block_map_bytes(p->bytes);
        refs += kvpi_reference_room(p->bytes);
    }
}

/* ---- references ---- */

/* Add what the top bytes of a row will be to sums. */
static void add_tops(uint32_t *sums, const uint8_t *row, size_t n, size_t bytes)
{
    for (size_t i = 0; bytes == 2 && i < n; i++) {
        uint16_t x;
        memcpy(&x, row + 2 * i, sizeof x);
        sums[i] += x >> 7 & 0xff;
    }
    for (size_t i = 0; bytes == 4 && i < n; i++) {
        uint32_t x;
        memcpy(&x, row + 4 * i, sizeof x);
        sums[i] += x >> 23 & 0xff;
    }
}

/* The means of n channels at `first`, over rows spread over the slice: more precise than medians
 * of the few rows that these could afford. */
static void refer_channels(const kvpi_plane_shape *s, const uint8_t *slice, size_t first, size_t n,
                           uint8_t *ref)
{
    uint32_t sums[CHANNELS] = {0};
    size_t n_rows = s->n / s->n_slices / s->width;
    uint32_t n_taken = (uint32_t)(n_rows < MAX_ROWS ? n_rows : MAX_ROWS);
    for (uint32_t k = 0; k < n_taken; k++)
        add_tops(sums, slice + (k * n_rows / n_taken * s->width + first) * s->element_bytes, n,
                 s->element_bytes);
    for (size_t i = 0; i < n; i++)
        ref[first + i] = (uint8_t)((sums[i] + n_taken / 2) / n_taken);
}

bool kvpi_part_refer(kvpi_part *part, kvpi_predictor p)
{
    const kvpi_plane_shape *s = &part->planes;
    size_t slice_n = s->n / s->n_slices;
    if (p != KVPI_PREDICT_SCALE || part->has_refs)
        return true;
    if (slice_n < KVPI_REFERENCE_ROWS * s->width)
        return false;
    for (size_t slice = 0; slice < s->n_slices; slice++)
        for (size_t first = 0; first < s->width; first += CHANNELS) {
            size_t left = s->width - first;
            refer_channels(s, part->live + slice * slice_n * s->element_bytes, first,
                           left < CHANNELS ? left : CHANNELS, part->refs + slice * s->width);
        }
    part->has_refs = true;
    return true;
}

/* ---- layout ---- */

/* Where the pieces of an encoded part are; the same arithmetic in both directions. */
typedef struct layout {
    size_t map, refs, low, high; /* offsets */
} layout;

static layout lay_out(size_t part_bytes, size_t n_live, const kvpi_plane_shape *s, kvpi_predictor p)
{
    layout l = {.map = HEADER_BYTES};
    l.refs = l.map + (n_live < part_bytes ? kvpi_block_map_bytes(part_bytes) : 0);
    l.low = l.refs + kvpi_reference_bytes(s, p);
    l.high = l.low + s->n * (s->element_bytes - 1);
    return l;
}

/* ---- encode ---- */

static size_t encode_part(kvpi_codec *c, const kvpi_high_coder *coder, kvpi_part *part,
                          kvpi_predictor p, uint8_t *dst, size_t room)
{
    if (!part->planes.n)
        p = KVPI_PREDICT_NONE;
    layout l = lay_out(part->bytes, part->n_live, &part->planes, p);
    if (l.high > room || !kvpi_part_refer(part, p))
        return 0;
    size_t n_high = 0;
    if (part->planes.n) {
        kvpi_planes_split(c->kernels, &part->planes, p, part->live, part->refs, c->high,
                          dst + l.low);
        n_high = coder->pack(c, c->high, part->planes.n, dst + l.high, room - l.high);
        if (!n_high)
            return 0;
    }
    put32(dst + AT_BYTES, part->bytes);
    put32(dst + AT_LIVE, part->n_live);
    put32(dst + AT_HIGH, n_high);
    put32(dst + AT_PREDICTOR, p);
    memcpy(dst + l.map, part->map, l.refs - l.map);
    memcpy(dst + l.refs, part->refs, l.low - l.refs);
    return l.high + n_high;
}

size_t kvpi_parts_encode(kvpi_codec *c, const kvpi_high_coder *coder, const kvpi_plan *plan,
                         uint8_t *dst, size_t room)
{
    size_t done = 0;
    for (size_t which = 0; which < 2; which++) {
        size_t n = encode_part(c, coder, &c->parts[which], plan->predictor[which], dst + done,
                               room - done);
        if (!n)
            return 0;
        done += n;
    }
    return done;
}

/* ---- decode: nothing in src is to be trusted ---- */

/* What the header of a part says, once it is known to be possible. */
typedef struct header {
    size_t n_live, n_high;
    kvpi_predictor predictor;
    kvpi_plane_shape planes;
    layout at;
} header;

/* NULL, or what is wrong. */
static const char *read_header(const kvpi_codec_shape *shape, size_t which, const uint8_t *src,
                               size_t n_src, header *h)
{
    size_t bytes = part_bytes(shape, which), n_mapped;
    if (n_src < HEADER_BYTES)
        return "its header is cut off";
    h->n_live = get32(src + AT_LIVE);
    h->n_high = get32(src + AT_HIGH);
    size_t predictor = get32(src + AT_PREDICTOR);
    if (predictor >= KVPI_N_PREDICTORS)
        return "there is no such predictor";
    h->predictor = (kvpi_predictor)predictor;
    if (get32(src + AT_BYTES) != bytes || h->n_live > bytes ||
        h->n_live % kvp_dtype_bytes(shape->dtype))
        return "it is of another length";
    h->planes = planes_of(shape, which, h->n_live);
    h->at = lay_out(bytes, h->n_live, &h->planes, h->predictor);
    if (h->at.high > n_src || h->n_high > n_src - h->at.high)
        return "it is cut off";
    if (h->n_live < bytes &&
        (!kvpi_blocks_count(src + h->at.map, bytes, &n_mapped) || n_mapped != h->n_live))
        return "its map of zero blocks contradicts its length";
    return h->planes.n || !h->n_high ? NULL : "it has exponents of no elements";
}

/* NULL, or what is wrong. */
static const char *decode_part(kvpi_codec *c, const kvpi_high_coder *coder, const header *h,
                               const uint8_t *src, uint8_t *dst, size_t bytes)
{
    uint8_t *live = h->n_live < bytes ? c->live : dst;
    if (h->planes.n && !coder->unpack(c, src + h->at.high, h->n_high, c->high, h->planes.n))
        return "its exponents do not decode to their length";
    kvpi_planes_merge(c->kernels, &h->planes, h->predictor, live, src + h->at.refs, c->high,
                      src + h->at.low);
    if (h->n_live < bytes)
        kvpi_blocks_scatter(live, src + h->at.map, dst, bytes);
    return NULL;
}

kvp_status kvpi_parts_decode(kvpi_codec *c, const kvpi_high_coder *coder,
                             const kvpi_codec_shape *shape, const uint8_t *src, size_t n_src,
                             uint8_t *dst)
{
    for (size_t which = 0; which < 2; which++) {
        header h;
        size_t bytes = part_bytes(shape, which);
        const char *wrong = read_header(shape, which, src, n_src, &h);
        if (!wrong)
            wrong = decode_part(c, coder, &h, src, dst, bytes);
        if (wrong)
            return kvpi_codec_corrupt(wrong);
        src += h.at.high + h.n_high;
        n_src -= h.at.high + h.n_high;
        dst += bytes;
    }
    return n_src == 0 ? KVP_OK : kvpi_codec_corrupt("something follows it");
}
