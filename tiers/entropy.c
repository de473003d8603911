/* entropy.c - the only file that knows zstd.
 *
 * "Huffman alone": zstd is told to find no matches (a step so long that it does not look for any)
 * and to Huffman-code the literals. Matches in exponents are accidents that cost more than they
 * save. The frame is one that any zstd reads.
 *
 * Nothing is allocated: contexts live in memory of the caller's. */
#include "tiers/entropy.h"

#ifdef KVP_HAVE_ZSTD
#define ZSTD_STATIC_LINKING_ONLY /* contexts in memory of ours, and the literals' mode */
#include <zstd.h>

/* A block has a Huffman table of its own and is as long as the window. Shorter ones gain nothing: a
 * table per head costs 0.5 to 1 % of the ratio of real pages. */
#define WINDOW_LOG 14u
#define PLAIN_LEVEL 1 /* opaque pages are mostly quantised: what higher levels find is not there */

struct kvpi_entropy {
    ZSTD_CCtx *cctx;
    ZSTD_DCtx *dctx;
    size_t max_bytes;
};

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static ZSTD_compressionParameters huffman_parameters(void)
{
    return (ZSTD_compressionParameters){
        .windowLog = WINDOW_LOG,
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
    (void)ZSTD_CCtx_reset(cctx, ZSTD_reset_session_only); /* the one before may not have fitted */
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

static size_t compressor_bytes(size_t max_bytes, bool with_plain)
{
    size_t huffman = ZSTD_estimateCCtxSize_usingCParams(huffman_parameters());
    size_t plain = with_plain ? ZSTD_estimateCCtxSize_usingCParams(plain_parameters(max_bytes)) : 0;
    return round64(huffman > plain ? huffman : plain);
}

size_t kvpi_entropy_bytes(size_t max_bytes, bool with_plain)
{
    return round64(sizeof(kvpi_entropy)) + compressor_bytes(max_bytes, with_plain) +
           round64(ZSTD_estimateDCtxSize());
}

kvpi_entropy *kvpi_entropy_init(void *at, size_t max_bytes, bool with_plain)
{
    kvpi_entropy *e = at;
    uint8_t *compressor = (uint8_t *)at + round64(sizeof *e);
    size_t n = compressor_bytes(max_bytes, with_plain);
    ZSTD_compressionParameters p = huffman_parameters();
    *e = (kvpi_entropy){.cctx = ZSTD_initStaticCCtx(compressor, n),
                        .dctx = ZSTD_initStaticDCtx(compressor + n, ZSTD_estimateDCtxSize()),
                        .max_bytes = max_bytes};
    return e->cctx && e->dctx && configure(e->cctx, &p, ZSTD_ps_enable) ? e : NULL;
}

const char *kvpi_entropy_version(void)
{
    return ZSTD_versionString();
}

static size_t pack(kvpi_entropy *e, const void *src, size_t n, void *dst, size_t room)
{
    size_t packed = ZSTD_compress2(e->cctx, dst, room, src, n);
    return ZSTD_isError(packed) ? 0 : packed;
}

size_t kvpi_pack_huffman(kvpi_entropy *e, const void *src, size_t n, void *dst, size_t room)
{
    ZSTD_compressionParameters p = huffman_parameters();
    return configure(e->cctx, &p, ZSTD_ps_enable) ? pack(e, src, n, dst, room) : 0;
}

size_t kvpi_pack_plain(kvpi_entropy *e, const void *src, size_t n, void *dst, size_t room)
{
    ZSTD_compressionParameters p = plain_parameters(e->max_bytes);
    return configure(e->cctx, &p, ZSTD_ps_auto) ? pack(e, src, n, dst, room) : 0;
}

bool kvpi_unpack(kvpi_entropy *e, const void *src, size_t n_src, void *dst, size_t n)
{
    size_t unpacked = ZSTD_decompressDCtx(e->dctx, dst, n, src, n_src);
    return !ZSTD_isError(unpacked) && unpacked == n;
}

#else /* without zstd */

size_t kvpi_entropy_bytes(size_t max_bytes, bool with_plain)
{
    (void)max_bytes, (void)with_plain;
    return 0;
}

kvpi_entropy *kvpi_entropy_init(void *at, size_t max_bytes, bool with_plain)
{
    (void)at, (void)max_bytes, (void)with_plain;
    return NULL;
}

const char *kvpi_entropy_version(void)
{
    return "none";
}

size_t kvpi_pack_huffman(kvpi_entropy *e, const void *src, size_t n, void *dst, size_t room)
{
    (void)e, (void)src, (void)n, (void)dst, (void)room;
    return 0;
}

size_t kvpi_pack_plain(kvpi_entropy *e, const void *src, size_t n, void *dst, size_t room)
{
    (void)e, (void)src, (void)n, (void)dst, (void)room;
    return 0;
}

bool kvpi_unpack(kvpi_entropy *e, const void *src, size_t n_src, void *dst, size_t n)
{
    (void)e, (void)src, (void)n_src, (void)dst, (void)n;
    return false;
}

#endif
