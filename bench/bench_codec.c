/* bench_codec.c - what becomes of real KV pages: ratio, and GB/s of encoding and decoding on one
 * thread (in CPU time), by each of kvpager's codecs and by what one would take otherwise: zstd,
 * LZ4, zstd behind a byte shuffle. Every page is decoded and compared before anything is timed.
 *
 * The bound is the entropy of the top bytes, K and V each by themselves, the rest taken as it is:
 * what no code of single bytes can beat without predicting them. */
#include "bench/harness.h"

#include "alloc/mem.h"
#include "tests/support/real_pages.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#ifdef KVP_HAVE_LZ4
#include <lz4.h>
#endif

#define MAX_PAGES ((size_t)128)

static void report(const bench *b);

static const bench_spec spec = {
    .name = "codec",
    .summary = "ratio and GB/s of compressing real KV pages, beside zstd and LZ4",
    .details =
        "Cases are <model>_<dtype>_<codec>_<ratio|encode|decode>. kvpager: what a page gets;\n"
        "huffman, palette: all pages by that codec, nothing predicted. Bars: kvpager's ratio\n"
        "1.45 (bf16) and 1.15 (f16); decoding 1.4 GB/s (huffman, bf16), 4 GB/s (palette, bf16).\n",
    .options = {{"--model", "PATH", "another model, e.g. $(sh models/smollm2/fetch.sh)", ""},
                {"--text", "FILE", "its text", "models/smollm2/book.txt"},
                {"--tokens", "N", "of the text, at most", "1024"}},
    .report = report,
};

/* ---- contenders -------------------------------------------------------------------------------*/

typedef struct work {
    kvpi_codec *codec;
    ZSTD_CCtx *cctx;
    ZSTD_DCtx *dctx;
    real_pages pages;
    uint8_t *shuffled;    /* [page_bytes] */
    uint8_t *room, *back; /* [room_bytes], [page_bytes] */
    size_t room_bytes;
    /* Encoded pages, one after the other in `stored`. */
    uint8_t *stored;
    size_t *sizes; /* [n] */
    kvpi_codec_id *ids;
} work;

struct contender;
typedef struct contender {
    const char *name;
    int level; /* of zstd; the kvpi_codec_id */
    size_t (*encode)(work *w, const struct contender *c, size_t i, const uint8_t *page);
    bool (*decode)(work *w, const struct contender *c, size_t i, const uint8_t *src, size_t n);
} contender;

static size_t encode_chosen(work *w, const contender *c, size_t i, const uint8_t *page)
{
    (void)c;
    size_t n;
    kvpi_codec_encode(w->codec, &w->pages.shape, page, w->room, &n, &w->ids[i]);
    return n;
}

static size_t encode_by(work *w, const contender *c, size_t i, const uint8_t *page)
{
    size_t n;
    const kvpi_plan plan = {.codec = (kvpi_codec_id)c->level};
    w->ids[i] = plan.codec;
    if (kvpi_codec_encode_by(w->codec, &w->pages.shape, &plan, page, w->room, &n))
        return n;
    w->ids[i] = KVPI_CODEC_RAW;
    memcpy(w->room, page, w->pages.page_bytes);
    return w->pages.page_bytes;
}

static bool decode_ours(work *w, const contender *c, size_t i, const uint8_t *src, size_t n)
{
    (void)c;
    return !kvpi_codec_decode(w->codec, w->ids[i], &w->pages.shape, src, n, w->back);
}

static size_t encode_zstd(work *w, const contender *c, size_t i, const uint8_t *page)
{
    (void)i;
    return ZSTD_compressCCtx(w->cctx, w->room, w->room_bytes, page, w->pages.page_bytes, c->level);
}

static bool decode_zstd(work *w, const contender *c, size_t i, const uint8_t *src, size_t n)
{
    (void)c, (void)i;
    return ZSTD_decompressDCtx(w->dctx, w->back, w->pages.page_bytes, src, n) ==
           w->pages.page_bytes;
}

/* Bytes of the same significance together, as Blosc and HDF5 have it. */
static void shuffle(uint8_t *restrict to, const uint8_t *restrict from, size_t n, size_t width)
{
    for (size_t byte = 0; byte < width; byte++)
        for (size_t i = 0; i < n / width; i++)
            to[byte * (n / width) + i] = from[i * width + byte];
}

static void unshuffle(uint8_t *restrict to, const uint8_t *restrict from, size_t n, size_t width)
{
    for (size_t byte = 0; byte < width; byte++)
        for (size_t i = 0; i < n / width; i++)
            to[i * width + byte] = from[byte * (n / width) + i];
}

static size_t encode_shuffled(work *w, const contender *c, size_t i, const uint8_t *page)
{
    shuffle(w->shuffled, page, w->pages.page_bytes, kvp_dtype_bytes(w->pages.shape.dtype));
    return encode_zstd(w, c, i, w->shuffled);
}

static bool decode_shuffled(work *w, const contender *c, size_t i, const uint8_t *src, size_t n)
{
    (void)c, (void)i;
    const real_pages *p = &w->pages;
    if (ZSTD_decompressDCtx(w->dctx, w->shuffled, p->page_bytes, src, n) != p->page_bytes)
        return false;
    unshuffle(w->back, w->shuffled, p->page_bytes, kvp_dtype_bytes(p->shape.dtype));
    return true;
}

#ifdef KVP_HAVE_LZ4
static size_t encode_lz4(work *w, const contender *c, size_t i, const uint8_t *page)
{
    (void)c, (void)i;
    return (size_t)LZ4_compress_default((const char *)page, (char *)w->room,
                                        (int)w->pages.page_bytes, (int)w->room_bytes);
}

static bool decode_lz4(work *w, const contender *c, size_t i, const uint8_t *src, size_t n)
{
    (void)c, (void)i;
    return LZ4_decompress_safe((const char *)src, (char *)w->back, (int)n,
                               (int)w->pages.page_bytes) == (int)w->pages.page_bytes;
}
#endif

static const contender contenders[] = {
    {"kvpager", 0, encode_chosen, decode_ours},
    {"huffman", KVPI_CODEC_HUFFMAN, encode_by, decode_ours},
    {"palette", KVPI_CODEC_PALETTE, encode_by, decode_ours},
    {"zstd-1", -1, encode_zstd, decode_zstd},
    {"zstd1", 1, encode_zstd, decode_zstd},
    {"zstd3", 3, encode_zstd, decode_zstd},
    {"shuffle+zstd1", 1, encode_shuffled, decode_shuffled},
#ifdef KVP_HAVE_LZ4
    {"lz4", 0, encode_lz4, decode_lz4},
#endif
};
enum { N_CONTENDERS = sizeof contenders / sizeof contenders[0] };

/* ---- results ----------------------------------------------------------------------------------*/

enum { RATIO, ENCODE, DECODE, N_FIGURES };
static const char *const figure_names[] = {"ratio", "encode", "decode"};

#define MAX_SETS 6

/* Pages of one model in one dtype. */
typedef struct set {
    char name[32]; /* "demo_bf16" */
    kvp_dtype dtype;
    size_t n_pages;
    double bound;
    bench_case *figures[N_CONTENDERS][N_FIGURES];
} set;

static set sets[MAX_SETS];
static size_t n_sets;

static double median(const set *s, size_t contender, size_t figure)
{
    const bench_case *c = s->figures[contender][figure];
    return c && c->n ? bench_median(c) : NAN;
}

static void report(const bench *b)
{
    (void)b;
    for (const set *s = sets; s < sets + n_sets; s++) {
        printf("%s, %zu pages; bound without prediction: %.3f\n", s->name, s->n_pages, s->bound);
        printf("  %-16s %8s %12s %12s\n", "codec", "ratio", "encode GB/s", "decode GB/s");
        for (size_t k = 0; k < N_CONTENDERS; k++)
            if (!isnan(median(s, k, RATIO)))
                printf("  %-16s %8.3f %12.2f %12.2f\n", contenders[k].name, median(s, k, RATIO),
                       median(s, k, ENCODE), median(s, k, DECODE));
    }
}

/* ---- the bound --------------------------------------------------------------------------------*/

static double entropy_bytes(const uint8_t *p, size_t n)
{
    double counts[256] = {0}, bits = 0;
    for (size_t i = 0; i < n; i++)
        counts[p[i]]++;
    for (size_t b = 0; b < 256; b++)
        if (counts[b] > 0)
            bits -= counts[b] * log2(counts[b] / (double)n);
    return bits / 8;
}

static double bound_of(work *w)
{
    const real_pages *p = &w->pages;
    const kvpi_plane_kernels *kernels = kvpi_plane_kernels_find();
    size_t bytes = kvp_dtype_bytes(p->shape.dtype), rows = p->shape.n_heads * p->shape.n_tokens;
    uint8_t *high = malloc(p->page_bytes), *low = malloc(p->page_bytes);
    double total = 0;
    for (size_t i = 0; i < p->n; i++) {
        const uint8_t *part = real_page(p, i);
        for (size_t v = 0; v < 2; v++) {
            size_t n = (size_t)rows * (v ? p->shape.v_width : p->shape.k_width);
            kvpi_plane_shape s = {.n = n, .n_slices = 1, .element_bytes = bytes, .width = n};
            kvpi_planes_split(kernels, &s, KVPI_PREDICT_NONE, part, NULL, high, low);
            total += entropy_bytes(high, n) + (double)(n * (bytes - 1));
            part += n * bytes;
        }
    }
    free(high);
    free(low);
    return (double)(p->n * p->page_bytes) / total;
}

/* ---- measuring --------------------------------------------------------------------------------*/

/* Every page, kept; returns the bytes that they take. */
static size_t encode_all(work *w, const contender *c, bool keep)
{
    size_t total = 0;
    for (size_t i = 0; i < w->pages.n; i++) {
        size_t n = c->encode(w, c, i, real_page(&w->pages, i));
        if (keep) {
            memcpy(w->stored + total, w->room, n);
            w->sizes[i] = n;
        }
        total += n;
    }
    return total;
}

static bool decode_all(work *w, const contender *c, bool compare)
{
    const uint8_t *at = w->stored;
    for (size_t i = 0; i < w->pages.n; at += w->sizes[i], i++)
        if (!c->decode(w, c, i, at, w->sizes[i]) ||
            (compare && memcmp(w->back, real_page(&w->pages, i), w->pages.page_bytes) != 0))
            return false;
    return true;
}

static void measure(bench *b, work *w, set *s, size_t k)
{
    const contender *c = &contenders[k];
    char name[64];
    for (size_t f = 0; f < N_FIGURES; f++) {
        snprintf(name, sizeof name, "%s_%s_%s", s->name, c->name, figure_names[f]);
        s->figures[k][f] = bench_case_new(b, name, f == RATIO ? "x" : "GB/s");
        bench_param_num(s->figures[k][f], "pages", (double)w->pages.n);
        bench_param_num(s->figures[k][f], "page_bytes", (double)w->pages.page_bytes);
        bench_param_num(s->figures[k][f], "bound", s->bound);
        if (k && f)
            bench_versus(s->figures[k][f], s->figures[0][f]);
    }
    const double bytes = (double)(w->pages.n * w->pages.page_bytes);
    bench_add(s->figures[k][RATIO], bytes / (double)encode_all(w, c, true));
    if (!decode_all(w, c, true)) {
        bench_fail(b, "%s_%s: a page does not come back as it was", s->name, c->name);
        return;
    }
    for (uint32_t rep = 0; rep < b->reps; rep++) {
        uint64_t begin = bench_cpu_ns();
        size_t total = encode_all(w, c, false);
        uint64_t middle = bench_cpu_ns();
        bool ok = decode_all(w, c, false);
        uint64_t end = bench_cpu_ns();
        bench_keep(&total);
        bench_keep(&ok);
        bench_add(s->figures[k][ENCODE], bytes / (double)(middle - begin));
        bench_add(s->figures[k][DECODE], bytes / (double)(end - middle));
    }
}

/* Of more pages than wanted, some from everywhere. */
static void thin_out(real_pages *p, size_t max)
{
    if (p->n <= max)
        return;
    for (size_t i = 0; i < max; i++)
        memmove(p->bytes + i * p->page_bytes, p->bytes + i * p->n / max * p->page_bytes,
                p->page_bytes);
    p->n = max;
}

static bool open_work(bench *b, work *w)
{
    size_t workspace_bytes, n = w->pages.page_bytes;
    w->room_bytes = ZSTD_compressBound(n) + n / 128 + 64;
    w->cctx = ZSTD_createCCtx();
    w->dctx = ZSTD_createDCtx();
    w->shuffled = malloc(n);
    w->room = malloc(w->room_bytes);
    w->back = malloc(n);
    w->stored = malloc(w->pages.n * w->room_bytes);
    w->sizes = calloc(w->pages.n, sizeof *w->sizes);
    w->ids = calloc(w->pages.n, sizeof *w->ids);
    bool ok = w->cctx && w->dctx && w->shuffled && w->room && w->back && w->stored && w->sizes &&
              w->ids && !kvpi_codec_open(&kvpi_mem_default, n, false, &w->codec, &workspace_bytes);
    if (!ok)
        bench_fail(b, "no memory");
    return ok;
}

static void close_work(work *w)
{
    kvpi_codec_close(w->codec);
    ZSTD_freeCCtx(w->cctx);
    ZSTD_freeDCtx(w->dctx);
    free(w->shuffled);
    free(w->room);
    free(w->back);
    free(w->stored);
    free(w->sizes);
    free(w->ids);
    real_pages_free(&w->pages);
}

static void bar(bench *b, const set *s, size_t contender, size_t figure, double least)
{
    double got = median(s, contender, figure);
    bool ok = got >= least;
    bench_note(b, "%s, %s of %s: %.3f (bar: %.2f)%s", s->name, figure_names[figure],
               contenders[contender].name, got, least, ok ? "" : ": SHORT");
}

static void measure_set(bench *b, const char *model_name, const char *model, const char *text,
                        kvp_dtype dtype)
{
    static const char *const dtype_names[] = {"f32", "f16", "bf16"};
    set *s = &sets[n_sets];
    work w = {0};
    size_t n_tokens = b->quick ? 128 : (size_t)bench_option_num(b, "--tokens");
    snprintf(s->name, sizeof s->name, "%s_%s", model_name, dtype_names[dtype]);
    s->dtype = dtype;
    if (!bench_wants(b, s->name))
        return;
    if (real_pages_make(model, text, n_tokens, dtype, true, &w.pages) || !w.pages.n) {
        bench_fail(b, "%s: %s", model, kvp_error());
        return;
    }
    thin_out(&w.pages, MAX_PAGES);
    if (open_work(b, &w)) {
        n_sets++;
        s->n_pages = w.pages.n;
        s->bound = bound_of(&w);
        for (size_t k = 0; k < N_CONTENDERS; k++)
            measure(b, &w, s, k);
        if (dtype != KVP_F32)
            bar(b, s, 0, RATIO, dtype == KVP_BF16 ? 1.45 : 1.15);
        if (dtype == KVP_BF16) {
            bar(b, s, 1, DECODE, 1.4);
            bar(b, s, 2, DECODE, 4);
        }
    }
    close_work(&w);
}

int main(int argc, char **argv)
{
    static const kvp_dtype dtypes[] = {KVP_BF16, KVP_F16, KVP_F32};
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    const char *model = bench_option_str(&b, "--model");
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)
        measure_set(&b, "demo", "models/demo", "models/demo/excerpt.txt", dtypes[d]);
    for (size_t d = 0; *model && d < sizeof dtypes / sizeof dtypes[0]; d++)
        measure_set(&b, "model", model, bench_option_str(&b, "--text"), dtypes[d]);
    bench_note(&b, "kernels: %s; GB/s of pages per thread, in CPU time",
               kvpi_plane_kernels_find()->name);
    return bench_finish(&b);
}
