/* codec.c - lossless compression of pages. The only file that knows zstd.
 *
 * KVPI_CODEC_PLANES stores a page as
 *
 *     u32  n           bytes of the page (all words little-endian)
 *     u32  n_live      of those, bytes outside of zero blocks
 *     u32  n_frame     bytes of the zstd frame; 0: the high plane is stored as it is
 *     map              a bit per 64-byte block; only if n_live is less than the page
 *     low planes       the mantissas and signs: noise, stored as they are
 *     rest             n_live modulo the element size, bytes that are no whole element
 *     high plane       the exponents: n_frame bytes of zstd, or raw
 *
 * zstd is told to find no matches and to Huffman-code the literals: matches in exponents are
 * accidents that cost more than they save (plain zstd level 1 reaches 1.27 on bf16 at half the
 * speed; this reaches the entropy bound of 1.47 to 1.50).
 *
 * KVPI_CODEC_ZSTD is plain zstd, for bytes that nothing is known of.
 *
 * Nothing is allocated after open: contexts live in the codec's own block. */
#include "tiers/codec.h"

#include "alloc/mem.h"
#include "tiers/planes.h"

#include <assert.h>
#include <string.h>

#ifdef KVP_HAVE_ZSTD
#define ZSTD_STATIC_LINKING_ONLY /* contexts in memory of ours, and the literals' mode */
#include <zstd.h>
#endif

enum { WORD_PAGE, WORD_LIVE, WORD_FRAME, N_WORDS };
#define HEADER_BYTES (N_WORDS * sizeof(uint32_t))
#define MIN_WINDOW_LOG 12u
#define MAX_WINDOW_LOG 14u
#define PLAIN_LEVEL 1 /* opaque pages are mostly quantised: what higher levels find is not there */

struct kvpi_codec {
    const kvp_mem *mem;
    size_t max_bytes;
    bool with_opaque;
    size_t block_bytes; /* of everything: this struct, and behind it what follows */
#ifdef KVP_HAVE_ZSTD
    ZSTD_CCtx *cctx;
    ZSTD_DCtx *dctx;
    uint8_t *high; /* [max_bytes / 2] */
    uint8_t *live; /* [max_bytes] */
    uint8_t *map;  /* [kvpi_block_map_bytes(max_bytes)] */
#endif
};

#ifdef KVP_HAVE_ZSTD

/* ---- contexts ---- */

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* zstd gives each block a Huffman table of its own, and makes blocks as long as the window. Half a
 * page's high plane: K and V have different exponents, and sharing a table costs 2 % of the ratio;
 * below 4 KiB the tables themselves cost more. */
static unsigned window_log(size_t n_high)
{
    unsigned log = MIN_WINDOW_LOG;
    while (log < MAX_WINDOW_LOG && (size_t)2 << log < n_high)
        log++;
    return log;
}

/* "Huffman only": a step so long that the match finder finds nothing. */
static ZSTD_compressionParameters parameters(void)
{
    return (ZSTD_compressionParameters){
        .windowLog = MAX_WINDOW_LOG,
        .chainLog = ZSTD_CHAINLOG_MIN,
        .hashLog = ZSTD_HASHLOG_MIN,
        .searchLog = ZSTD_SEARCHLOG_MIN,
        .minMatch = 7,
        .targetLength = ZSTD_TARGETLENGTH_MAX,
        .strategy = ZSTD_fast,
    };
}

static ZSTD_compressionParameters plain_parameters(size_t max_bytes)
{
    return ZSTD_getCParams(PLAIN_LEVEL, max_bytes, 0);
}

static bool configure(ZSTD_CCtx *cctx, const ZSTD_compressionParameters *p,
                      ZSTD_paramSwitch_e literals)
{
    (void)ZSTD_CCtx_reset(cctx, ZSTD_reset_session_only); /* the page before may not have fitted */
    const struct {
        ZSTD_cParameter name;
        int value;
    } settings[] = {
        {ZSTD_c_windowLog, (int)p->windowLog},   {ZSTD_c_hashLog, (int)p->hashLog},
        {ZSTD_c_chainLog, (int)p->chainLog},     {ZSTD_c_searchLog, (int)p->searchLog},
        {ZSTD_c_minMatch, (int)p->minMatch},     {ZSTD_c_targetLength, (int)p->targetLength},
        {ZSTD_c_strategy, (int)p->strategy},     {ZSTD_c_literalCompressionMode, (int)literals},
        {ZSTD_c_contentSizeFlag, 0 /* known */},
    };
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
        if (ZSTD_isError(ZSTD_CCtx_setParameter(cctx, settings[i].name, settings[i].value)))
            return false;
    return true;
}

static size_t compressor_bytes(size_t max_bytes, bool with_opaque)
{
    size_t planes = ZSTD_estimateCCtxSize_usingCParams(parameters());
    size_t plain =
        with_opaque ? ZSTD_estimateCCtxSize_usingCParams(plain_parameters(max_bytes)) : 0;
    return round64(planes > plain ? planes : plain);
}

kvp_status kvpi_codec_open(const kvp_mem *mem, size_t max_bytes, bool with_opaque, kvpi_codec **out,
                           size_t *workspace_bytes)
{
    assert(max_bytes <= UINT32_MAX);
    ZSTD_compressionParameters p = parameters();
    size_t cctx_bytes = compressor_bytes(max_bytes, with_opaque);
    size_t dctx_bytes = round64(ZSTD_estimateDCtxSize());
    size_t high_bytes = round64(max_bytes / 2), live_bytes = round64(max_bytes);
    size_t head_bytes = round64(sizeof(kvpi_codec));
    size_t n = head_bytes + cctx_bytes + dctx_bytes + high_bytes + live_bytes +
               kvpi_block_map_bytes(max_bytes);
    kvpi_codec *c = NULL;
    kvp_status status = kvpi_alloc(mem, n, "the page codec", &c);
    if (status)
        return status;
    uint8_t *at = (uint8_t *)c + head_bytes;
    *c = (kvpi_codec){
        .mem = mem, .max_bytes = max_bytes, .with_opaque = with_opaque, .block_bytes = n};
    c->cctx = ZSTD_initStaticCCtx(at, cctx_bytes);
    c->dctx = ZSTD_initStaticDCtx(at + cctx_bytes, dctx_bytes);
    c->high = at + cctx_bytes + dctx_bytes;
    c->live = c->high + high_bytes;
    c->map = c->live + live_bytes;
    if (!c->cctx || !c->dctx || !configure(c->cctx, &p, ZSTD_ps_enable)) {
        kvpi_codec_close(c);
        return kvp_fail(KVP_E_UNSUPPORTED, "this zstd (%s) refuses the page codec's parameters",
                        ZSTD_versionString());
    }
    *workspace_bytes = n;
    *out = c;
    return KVP_OK;
}

/* ---- layout ---- */

/* Where the parts of an encoded page are; the same arithmetic in both directions. */
typedef struct layout {
    size_t n_elements, n_rest;
    size_t map, low, rest, high; /* offsets */
} layout;

static layout lay_out(size_t n, size_t n_live, size_t element_bytes)
{
    layout l = {.n_elements = n_live / element_bytes, .n_rest = n_live % element_bytes};
    l.map = HEADER_BYTES;
    l.low = l.map + (n_live < n ? kvpi_block_map_bytes(n) : 0);
    l.rest = l.low + l.n_elements * (element_bytes - 1);
    l.high = l.rest + l.n_rest;
    return l;
}

/* ---- encode ---- */

/* The high plane into at most `room` bytes; false if it does not fit. *n_frame: the header's word.
 */
static bool encode_high(kvpi_codec *c, size_t n, uint8_t *dst, size_t room, size_t *n_dst,
                        uint32_t *n_frame)
{
    ZSTD_compressionParameters p = parameters();
    p.windowLog = window_log(n);
    (void)configure(c->cctx, &p, ZSTD_ps_enable); /* as at open */
    size_t packed = ZSTD_compress2(c->cctx, dst, room, c->high, n);
    if (!ZSTD_isError(packed) && packed < n) {
        *n_frame = (uint32_t)packed;
        *n_dst = packed;
        return true;
    }
    if (n > room)
        return false;
    memcpy(dst, c->high, n);
    *n_frame = 0;
    *n_dst = n;
    return true;
}

/* The encoded size, or 0 when nothing is gained. */
static size_t encode_planes(kvpi_codec *c, size_t element_bytes, const uint8_t *src, size_t n,
                            uint8_t *dst)
{
    size_t n_live = kvpi_blocks_find(src, n, c->map);
    layout l = lay_out(n, n_live, element_bytes);
    if (l.high >= n)
        return 0;
    const uint8_t *live = src;
    if (n_live < n) {
        kvpi_blocks_gather(src, n, c->map, c->live);
        live = c->live;
        memcpy(dst + l.map, c->map, kvpi_block_map_bytes(n));
    }
    kvpi_planes_split(live, l.n_elements, element_bytes, c->high, dst + l.low);
    memcpy(dst + l.rest, live + n_live - l.n_rest, l.n_rest);

    size_t n_high;
    uint32_t words[N_WORDS] = {[WORD_PAGE] = (uint32_t)n, [WORD_LIVE] = (uint32_t)n_live};
    if (!encode_high(c, l.n_elements, dst + l.high, n - 1 - l.high, &n_high, &words[WORD_FRAME]))
        return 0;
    memcpy(dst, words, HEADER_BYTES);
    return l.high + n_high;
}

/* The encoded size, or 0 when nothing is gained. */
static size_t encode_plain(kvpi_codec *c, const uint8_t *src, size_t n, uint8_t *dst)
{
    assert(c->with_opaque);
    ZSTD_compressionParameters p = plain_parameters(c->max_bytes);
    if (n == 0 || !configure(c->cctx, &p, ZSTD_ps_auto))
        return 0;
    size_t packed = ZSTD_compress2(c->cctx, dst, n - 1, src, n);
    return ZSTD_isError(packed) ? 0 : packed;
}

/* ---- decode ---- */

static kvp_status corrupt(const char *what)
{
    return kvp_fail(KVP_E_CORRUPT, "an encoded page is damaged: %s", what);
}

/* The high plane, in the source or decompressed into scratch; NULL if it is damaged. */
static const uint8_t *decode_high(kvpi_codec *c, const uint8_t *src, size_t n_src, size_t n,
                                  uint32_t n_frame)
{
    if (n_frame == 0)
        return n_src == n ? src : NULL;
    if (n_src != n_frame)
        return NULL;
    size_t unpacked = ZSTD_decompressDCtx(c->dctx, c->high, n, src, n_src);
    return !ZSTD_isError(unpacked) && unpacked == n ? c->high : NULL;
}

static kvp_status decode_planes(kvpi_codec *c, size_t element_bytes, const uint8_t *src,
                                size_t n_src, uint8_t *dst, size_t n)
{
    uint32_t words[N_WORDS];
    if (n_src < HEADER_BYTES)
        return corrupt("its header is cut off");
    memcpy(words, src, HEADER_BYTES);
    size_t n_live = words[WORD_LIVE], n_mapped;
    if (words[WORD_PAGE] != n || n_live > n)
        return corrupt("it is of another length");
    layout l = lay_out(n, n_live, element_bytes);
    if (n_src < l.high)
        return corrupt("it is cut off");
    if (n_live < n && (!kvpi_blocks_count(src + l.map, n, &n_mapped) || n_mapped != n_live))
        return corrupt("its map of zero blocks contradicts its length");
    const uint8_t *high =
        decode_high(c, src + l.high, n_src - l.high, l.n_elements, words[WORD_FRAME]);
    if (!high)
        return corrupt("its exponents do not decode to their length");

    uint8_t *live = n_live < n ? c->live : dst;
    kvpi_planes_merge(live, l.n_elements, element_bytes, high, src + l.low);
    memcpy(live + n_live - l.n_rest, src + l.rest, l.n_rest);
    if (n_live < n)
        kvpi_blocks_scatter(live, src + l.map, dst, n);
    return KVP_OK;
}

static kvp_status decode_plain(kvpi_codec *c, const uint8_t *src, size_t n_src, uint8_t *dst,
                               size_t n)
{
    size_t unpacked = ZSTD_decompressDCtx(c->dctx, dst, n, src, n_src);
    return !ZSTD_isError(unpacked) && unpacked == n ? KVP_OK
                                                    : corrupt("it does not decode to its length");
}

#else /* the bare build: pages are stored as they are */

kvp_status kvpi_codec_open(const kvp_mem *mem, size_t max_bytes, bool with_opaque, kvpi_codec **out,
                           size_t *workspace_bytes)
{
    kvpi_codec *c = NULL;
    kvp_status status = kvpi_alloc(mem, sizeof *c, "the page codec", &c);
    if (status)
        return status;
    *c = (kvpi_codec){
        .mem = mem, .max_bytes = max_bytes, .with_opaque = with_opaque, .block_bytes = sizeof *c};
    *workspace_bytes = sizeof *c;
    *out = c;
    return KVP_OK;
}

static size_t encode_planes(kvpi_codec *c, size_t element_bytes, const uint8_t *src, size_t n,
                            uint8_t *dst)
{
    (void)c, (void)element_bytes, (void)src, (void)n, (void)dst;
    return 0;
}

static size_t encode_plain(kvpi_codec *c, const uint8_t *src, size_t n, uint8_t *dst)
{
    (void)c, (void)src, (void)n, (void)dst;
    return 0;
}

static kvp_status decode_planes(kvpi_codec *c, size_t element_bytes, const uint8_t *src,
                                size_t n_src, uint8_t *dst, size_t n)
{
    (void)c, (void)element_bytes, (void)src, (void)n_src, (void)dst, (void)n;
    return kvp_fail(KVP_E_UNSUPPORTED, "a page is compressed, and this build has no zstd");
}

static kvp_status decode_plain(kvpi_codec *c, const uint8_t *src, size_t n_src, uint8_t *dst,
                               size_t n)
{
    return decode_planes(c, 1, src, n_src, dst, n);
}

#endif

void kvpi_codec_close(kvpi_codec *c)
{
    if (c)
        kvpi_free(c->mem, c, c->block_bytes);
}

void kvpi_codec_encode(kvpi_codec *c, kvp_dtype dtype, const void *src, size_t n, void *dst,
                       size_t *n_dst, kvpi_codec_id *codec)
{
    assert(n <= c->max_bytes);
    size_t packed = dtype == KVP_OPAQUE ? encode_plain(c, src, n, dst)
                                        : encode_planes(c, kvp_dtype_bytes(dtype), src, n, dst);
    *codec = !packed ? KVPI_CODEC_RAW : dtype == KVP_OPAQUE ? KVPI_CODEC_ZSTD : KVPI_CODEC_PLANES;
    *n_dst = packed ? packed : n;
    if (!packed)
        memcpy(dst, src, n);
}

kvp_status kvpi_codec_decode(kvpi_codec *c, kvpi_codec_id codec, kvp_dtype dtype, const void *src,
                             size_t n_src, void *dst, size_t n_dst)
{
    assert(n_dst <= c->max_bytes);
    if (codec == KVPI_CODEC_PLANES && dtype != KVP_OPAQUE && kvp_dtype_bytes(dtype))
        return decode_planes(c, kvp_dtype_bytes(dtype), src, n_src, dst, n_dst);
    if (codec == KVPI_CODEC_ZSTD && dtype == KVP_OPAQUE)
        return decode_plain(c, src, n_src, dst, n_dst);
    if (codec != KVPI_CODEC_RAW)
        return kvp_fail(KVP_E_CORRUPT, "no codec %d for dtype %d", (int)codec, (int)dtype);
    if (n_src != n_dst)
        return kvp_fail(KVP_E_CORRUPT, "a raw page of %zu bytes should have %zu", n_src, n_dst);
    memcpy(dst, src, n_dst);
    return KVP_OK;
}
