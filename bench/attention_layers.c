/* attention_layers.c - what bench_attention attends. */
#define _GNU_SOURCE 1
#include "attention_layers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIB ((size_t)1 << 20)

static void die(const char *what)
{
    fprintf(stderr, "bench_attention: %s: %s\n", what, kvp_error());
    exit(1);
}

/* Zeroed, backed by huge pages where there are any, like the pager's frames. */
static void *map(size_t n)
{
    void *p = mmap(NULL, n + 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("bench_attention: mmap");
        exit(1);
    }
    p = (void *)(((uintptr_t)p + 2 * MIB - 1) / (2 * MIB) * (2 * MIB));
    madvise(p, n, MADV_HUGEPAGE);
    return p;
}

static float *random_floats(size_t n)
{
    uint64_t state = 42;
    float *x = malloc(n * sizeof *x);
    if (!x)
        exit(1);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(bench_random(&state) >> 40) * 0x1p-23f - 1;
    return x;
}

/* ---- a set of layers, paged and contiguous --------------------------------------------------- */

size_t layers_bytes(const layers *x)
{
    return 2 * x->half_bytes;
}

/* Copy what the pager holds, so that both read the same bits. */
static void copy_layer(layers *x, uint32_t layer)
{
    const size_t row = x->s.width * kvp_dtype_bytes(x->dtype), plane = x->n_tokens * row;
    kvp_scan_args args = {.layer = layer, .max_parts = 1, .end = x->n_tokens};
    kvp_scan *scan;
    kvp_scan_item item;
    char *k = x->flat + layer * layers_bytes(x), *v = k + x->half_bytes;
    if (kvp_scan_open(x->seq, &args, &scan))
        die("scan");
    while (!kvp_scan_claim(scan, 0, &item) && item.n_pages)
        for (uint32_t i = 0; i < item.n_pages; i++) {
            kvp_page_view page;
            if (kvp_scan_next(scan, 0, &page))
                die("scan");
            for (uint32_t h = 0; h < page.n_heads; h++) {
                size_t at = (page.first_head + h) * plane + page.first_position * row;
                memcpy(k + at, kvp_page_k(&page, h), page.n_valid * row);
                memcpy(v + at, kvp_page_v(&page, h), page.n_valid * row);
            }
        }
    kvp_scan_close(scan);
}

layers layers_make(shape s, kvp_dtype dtype, uint32_t n_threads, size_t n_tokens,
                   size_t total_bytes, size_t n_queries)
{
    layers x = {.s = s,
                .dtype = dtype,
                .n_threads = n_threads,
                .n_tokens = n_tokens,
                .n_queries = n_queries,
                .role = n_queries > 16 ? KVP_PREFILL : KVP_DECODE};
    x.half_bytes = (size_t)s.kv_heads * n_tokens * s.width * kvp_dtype_bytes(dtype);
    x.n_layers = (uint32_t)(total_bytes / layers_bytes(&x)) + 1;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = x.n_layers, .n_kv_heads = s.kv_heads, .head_dim = s.width, .dtype = dtype};
    cfg.n_threads = n_threads;
    if (kvp_pager_open(&cfg, &x.pager) || kvp_seq_create(x.pager, &x.seq))
        die("open");
    size_t n = n_tokens * s.kv_heads * s.width;
    float *rows = random_floats(n);
    x.flat = map(x.n_layers * layers_bytes(&x));
    for (uint32_t layer = 0; layer < x.n_layers; layer++) {
        if (kvp_seq_append(x.seq, layer, rows, rows, n_tokens))
            die("append");
        copy_layer(&x, layer);
    }
    free(rows);
    x.q = random_floats(n_queries * s.heads * s.width);
    x.out = random_floats(n_queries * s.heads * s.width);
    x.kernel = kvpi_kernels_find()->attend[dtype];
    size_t n_segments = n_tokens / (64 * KVP_SEGMENT_PAGES) + 1;
    x.partials = malloc(n_segments * s.heads * (s.width + 2) * sizeof(float));
    x.n_pages = kvp_seq_page_count(x.seq, 0);
    n = n_queries * s.heads * x.n_pages;
    x.mass = random_floats(n);
    x.changes = random_floats(x.n_pages);
    x.pages = (kvp_partial){random_floats(n), random_floats(n), random_floats(n * s.width)};
    return x;
}

void layers_free(layers *x)
{
    kvp_pager_close(x->pager);
    munmap(x->flat, x->n_layers * layers_bytes(x));
    free(x->q);
    free(x->out);
    free(x->partials);
    free(x->mass);
    free(x->changes);
    free(x->pages.m);
    free(x->pages.l);
    free(x->pages.o);
}

uint64_t layers_clock_ns(const layers *x)
{
    return x->n_threads == 1 ? bench_cpu_ns() : bench_now_ns();
}

static void find_changes(layers *x)
{
    const size_t width = x->s.width;
    for (size_t row = 0; row < x->n_queries * x->s.heads; row++) {
        const size_t at = row * x->n_pages;
        const kvp_partial pages = {x->pages.m + at, x->pages.l + at, x->pages.o + at * width};
        kvp_page_changes(&pages, x->n_pages, width, x->out + row * width, x->changes);
    }
}

double layers_attend_paged(layers *x)
{
    uint32_t layer = x->next++ % x->n_layers;
    kvp_attend_args args = {.q = x->q,
                            .out = x->out,
                            .n_queries = x->n_queries,
                            .n_heads = x->s.heads,
                            .scale = 1 / sqrtf((float)x->s.width),
                            .role = x->role,
                            .page_mass = x->wants_mass ? x->mass : NULL};
    if (x->wants_changes)
        args.pages = x->pages;
    uint64_t begin = layers_clock_ns(x);
    if (kvp_attend(x->seq, layer, &args))
        die("attend");
    if (x->wants_changes)
        find_changes(x);
    return (double)(layers_clock_ns(x) - begin);
}

/* ---- the same kernels over contiguous memory ------------------------------------------------- */

#define SEGMENT_TOKENS ((size_t)64 * KVP_SEGMENT_PAGES)

typedef struct contiguous {
    layers *x;
    const char *k, *v;
    size_t n_segments, group;
} contiguous;

/* One segment of one KV head. */
static void attend_segment(void *arg, size_t task)
{
    contiguous *c = arg;
    layers *x = c->x;
    const size_t width = x->s.width, row = width * kvp_dtype_bytes(x->dtype);
    size_t head = task / c->n_segments, first = task % c->n_segments * SEGMENT_TOKENS;
    size_t end = first + SEGMENT_TOKENS < x->n_tokens ? first + SEGMENT_TOKENS : x->n_tokens;
    kvpi_row rows[KVPI_BLOCK_ROWS];
    for (size_t g = 0; g < c->group; g++) {
        float *partial = x->partials + (task * c->group + g) * (width + 2);
        memset(partial, 0, (width + 2) * sizeof *partial);
        rows[g] =
            (kvpi_row){.q = x->q + (head * c->group + g) * width, .o = partial + 2, .m = -INFINITY};
    }
    for (size_t j = first; j < end; j += KVPI_BLOCK_KEYS) {
        size_t n = end - j < KVPI_BLOCK_KEYS ? end - j : KVPI_BLOCK_KEYS;
        size_t at = (head * x->n_tokens + j) * row;
        kvpi_keys keys = {.k = c->k + at,
                          .v = c->v + at,
                          .n = n,
                          .next_k = c->k + at + n * row,
                          .next_v = c->v + at + n * row,
                          .k_width = width,
                          .v_width = width,
                          .scale = 1 / sqrtf((float)width)};
        for (size_t g = 0; g < c->group; g++)
            rows[g].n_visible = (uint32_t)n;
        x->kernel(&keys, rows, c->group);
    }
    for (size_t g = 0; g < c->group; g++) {
        float *partial = x->partials + (task * c->group + g) * (width + 2);
        partial[0] = rows[g].m;
        partial[1] = rows[g].l;
    }
}

static void merge_segments(const contiguous *c, size_t head)
{
    const layers *x = c->x;
    const size_t width = x->s.width, kv = head / c->group, g = head % c->group;
    float *out = x->out + head * width, top = -INFINITY, sum = 0;
    memset(out, 0, width * sizeof *out);
    for (int pass = 0; pass < 2; pass++)
        for (size_t s = 0; s < c->n_segments; s++) {
            const float *partial =
                x->partials + ((kv * c->n_segments + s) * c->group + g) * (width + 2);
            float factor = expf(partial[0] - top);
            if (pass == 0) {
                top = fmaxf(top, partial[0]);
                continue;
            }
            sum += partial[1] * factor;
            for (size_t i = 0; i < width; i++)
                out[i] += partial[2 + i] * factor;
        }
    for (size_t i = 0; i < width; i++)
        out[i] /= sum;
}

double layers_attend_contiguous(layers *x)
{
    uint32_t layer = x->next++ % x->n_layers;
    contiguous c = {.x = x, .group = x->s.heads / x->s.kv_heads};
    c.n_segments = (x->n_tokens + SEGMENT_TOKENS - 1) / SEGMENT_TOKENS;
    c.k = x->flat + layer * layers_bytes(x);
    c.v = c.k + x->half_bytes;
    uint64_t begin = layers_clock_ns(x);
    kvp_parallel_for(x->pager, x->s.kv_heads * c.n_segments, attend_segment, &c);
    for (size_t head = 0; head < x->s.heads; head++)
        merge_segments(&c, head);
    return (double)(layers_clock_ns(x) - begin);
}

void layers_check(bench *b, layers *x)
{
    size_t n = (size_t)x->s.heads * x->s.width;
    float *want = malloc(n * sizeof *want);
    x->next = 0;
    layers_attend_contiguous(x);
    memcpy(want, x->out, n * sizeof *want);
    x->next = 0;
    layers_attend_paged(x);
    for (size_t i = 0; i < n; i++) {
        bool ok = fabsf(want[i] - x->out[i]) <= 1e-5f;
        if (!ok) {
            bench_fail(b, "%s: paged %g, contiguous %g", x->s.name, (double)x->out[i],
                       (double)want[i]);
            break;
        }
    }
    free(want);
}
