/* bench_attention.c - GB/s of K and V that decode attention reads through pages, beside the same
 * kernels over contiguous memory and the machine's read bandwidth; GFLOP/s of prefill beside the
 * peak of fused multiply-adds. Everything is in RAM.
 *
 * Decode rotates over layers, so that K and V come from DRAM. Samples alternate between paged,
 * contiguous and plain reading, so that other work on the machine hits them alike. */
#define _GNU_SOURCE 1
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attention/kernels.h"
#include "kvpager.h"

#define MIB ((size_t)1 << 20)

static const bench_spec spec = {
    .name = "attention",
    .summary = "attention over pages against contiguous memory and the machine's limits",
    .details =
        "Cases are decode_<heads>x<width>_<dtype>_<tokens>_<threads>t_<paged|contiguous>, with\n"
        "read_<threads>t (four streams per thread) for each, in GB/s of K and V; and\n"
        "prefill_... with fma_<threads>t, in GFLOP/s.\n",
    .options = {{"--tokens", "N", "context of the decode cases", "8192"},
                {"--total-mib", "N", "K and V to rotate over", "192"}},
};

typedef struct shape {
    const char *name;
    uint32_t heads, kv_heads, width;
} shape;

static const shape shapes[] = {
    {"12/12x64", 12, 12, 64}, {"9/3x64", 9, 3, 64}, {"32/8x128", 32, 8, 128}};
static const char *const dtype_names[] = {"f32", "f16", "bf16"};

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

typedef struct layers {
    shape s;
    kvp_dtype dtype;
    uint32_t n_layers, next;
    size_t n_tokens;
    kvp_pager *pager;
    kvp_seq *seq;
    char *flat;        /* [n_layers][K, V][kv_heads][n_tokens][width] */
    size_t half_bytes; /* K or V of a layer */
    float *q, *out;
    size_t n_queries;
    kvpi_kernel kernel;
    float *partials; /* contiguous: [kv_heads][segments][group][m, l, o] */
} layers;

static size_t layer_bytes(const layers *x)
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
    char *k = x->flat + layer * layer_bytes(x), *v = k + x->half_bytes;
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

static layers make_layers(shape s, kvp_dtype dtype, uint32_t n_threads, size_t n_tokens,
                          size_t total_bytes, size_t n_queries)
{
    layers x = {.s = s, .dtype = dtype, .n_tokens = n_tokens, .n_queries = n_queries};
    x.half_bytes = (size_t)s.kv_heads * n_tokens * s.width * kvp_dtype_bytes(dtype);
    x.n_layers = (uint32_t)(total_bytes / layer_bytes(&x)) + 1;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = x.n_layers, .n_kv_heads = s.kv_heads, .head_dim = s.width, .dtype = dtype};
    cfg.n_threads = n_threads;
    if (kvp_pager_open(&cfg, &x.pager) || kvp_seq_create(x.pager, &x.seq))
        die("open");
    size_t n = n_tokens * s.kv_heads * s.width;
    float *rows = random_floats(n);
    x.flat = map(x.n_layers * layer_bytes(&x));
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
    return x;
}

static void free_layers(layers *x)
{
    kvp_pager_close(x->pager);
    munmap(x->flat, x->n_layers * layer_bytes(x));
    free(x->q);
    free(x->out);
    free(x->partials);
}

static double attend_paged(layers *x)
{
    uint32_t layer = x->next++ % x->n_layers;
    kvp_attend_args args = {.q = x->q,
                            .out = x->out,
                            .n_queries = x->n_queries,
                            .n_heads = x->s.heads,
                            .scale = 1 / sqrtf((float)x->s.width)};
    uint64_t begin = bench_now_ns();
    if (kvp_attend(x->seq, layer, &args))
        die("attend");
    return (double)(bench_now_ns() - begin);
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

static double attend_contiguous(layers *x)
{
    uint32_t layer = x->next++ % x->n_layers;
    contiguous c = {.x = x, .group = x->s.heads / x->s.kv_heads};
    c.n_segments = (x->n_tokens + SEGMENT_TOKENS - 1) / SEGMENT_TOKENS;
    c.k = x->flat + layer * layer_bytes(x);
    c.v = c.k + x->half_bytes;
    uint64_t begin = bench_now_ns();
    kvp_parallel_for(x->pager, x->s.kv_heads * c.n_segments, attend_segment, &c);
    for (size_t head = 0; head < x->s.heads; head++)
        merge_segments(&c, head);
    return (double)(bench_now_ns() - begin);
}

static void check_equal(bench *b, layers *x)
{
    size_t n = (size_t)x->s.heads * x->s.width;
    float *want = malloc(n * sizeof *want);
    x->next = 0;
    attend_contiguous(x);
    memcpy(want, x->out, n * sizeof *want);
    x->next = 0;
    attend_paged(x);
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

/* ---- the machine's limits -------------------------------------------------------------------- */

typedef float vec __attribute__((vector_size(32), aligned(32)));

typedef struct limit {
    size_t n_threads, n_bytes; /* per call */
    const char *from;
} limit;

/* Four streams, a quarter of the thread's share each. */
__attribute__((target("avx2"))) static void read_streams(void *arg, size_t thread)
{
    const limit *l = arg;
    size_t n = l->n_bytes / l->n_threads / 4 / 128 * 128;
    const char *p = l->from + thread * 4 * n;
    vec sum[4] = {{0}};
    for (size_t i = 0; i < n; i += 128)
        for (size_t s = 0; s < 4; s++) {
            const vec *at = (const vec *)(p + s * n + i);
            sum[s] += at[0];
            sum[s] += at[1];
            sum[s] += at[2];
            sum[s] += at[3];
        }
    sum[0] += sum[1] + sum[2] + sum[3];
    bench_keep(&sum[0]);
}

static double read_plain(layers *x, size_t n_threads)
{
    uint32_t layer = x->next++ % x->n_layers;
    limit l = {.n_threads = n_threads,
               .n_bytes = layer_bytes(x),
               .from = x->flat + layer * layer_bytes(x)};
    uint64_t begin = bench_now_ns();
    kvp_parallel_for(x->pager, n_threads, read_streams, &l);
    return (double)(bench_now_ns() - begin);
}

#define FMA_ROUNDS ((size_t)1 << 20)

/* 12 chains of fused multiply-adds: what a core can do. */
__attribute__((target("avx2,fma"))) static void multiply_add(void *arg, size_t thread)
{
    (void)arg;
    (void)thread;
    vec a[12], x = {0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f};
    for (size_t i = 0; i < 12; i++)
        a[i] = x;
    for (size_t round = 0; round < FMA_ROUNDS; round++) {
#pragma GCC unroll 12
        for (size_t i = 0; i < 12; i++)
            a[i] = a[i] * x + x;
        __asm__ volatile("" : "+x"(x));
    }
    for (size_t i = 0; i < 12; i++)
        bench_keep(&a[i]);
}

static double multiply_add_plain(layers *x, size_t n_threads)
{
    uint64_t begin = bench_now_ns();
    kvp_parallel_for(x->pager, n_threads, multiply_add, NULL);
    return (double)(bench_now_ns() - begin);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static bench_case *new_case(bench *b, const layers *x, const char *kind, uint32_t n_threads,
                            const char *variant, const char *unit)
{
    char name[64];
    snprintf(name, sizeof name, "%s_%s_%s_%zu_%ut%s", kind, x->s.name, dtype_names[x->dtype],
             x->n_tokens, n_threads, variant);
    bench_case *c = bench_case_new(b, name, unit);
    bench_param(c, "isa", kvp_isa());
    return c;
}

static bool wants_any(const bench *b, const char *kind, const shape *s, kvp_dtype dtype)
{
    char name[64];
    snprintf(name, sizeof name, "%s_%s_%s", kind, s->name, dtype_names[dtype]);
    return !b->filter || strstr(name, b->filter) || strstr(b->filter, name);
}

/* Returns paged / contiguous; 0 if the case is not wanted. */
static double decode(bench *b, shape s, kvp_dtype dtype, uint32_t n_threads)
{
    if (!wants_any(b, "decode", &s, dtype))
        return 0;
    size_t n_tokens = b->quick ? 1024 : bench_option_num(b, "--tokens");
    size_t total = b->quick ? MIB : bench_option_num(b, "--total-mib") * MIB;
    layers x = make_layers(s, dtype, n_threads, n_tokens, total, 1);
    check_equal(b, &x);
    bench_case *limit = new_case(b, &x, "decode", n_threads, "_read", "GB/s");
    bench_case *flat = new_case(b, &x, "decode", n_threads, "_contiguous", "GB/s");
    bench_case *paged = new_case(b, &x, "decode", n_threads, "_paged", "GB/s");
    bench_versus(flat, limit);
    bench_versus(paged, limit);
    const double bytes = (double)layer_bytes(&x);
    for (uint32_t i = 0; i < b->reps * x.n_layers; i++) {
        bench_add(limit, bytes / read_plain(&x, n_threads));
        bench_add(flat, bytes / attend_contiguous(&x));
        bench_add(paged, bytes / attend_paged(&x));
    }
    free_layers(&x);
    return bench_median(paged) / bench_median(flat);
}

static void decode_all_dtypes(bench *b, shape s, uint32_t n_threads)
{
    double ratio[3];
    for (kvp_dtype dtype = KVP_F32; dtype <= KVP_BF16; dtype++)
        ratio[dtype] = decode(b, s, dtype, n_threads);
    if (ratio[0] > 0 && ratio[1] > 0 && ratio[2] > 0)
        bench_note(b, "paged / contiguous, %s, %u threads: f32 %.2f, f16 %.2f, bf16 %.2f", s.name,
                   n_threads, ratio[KVP_F32], ratio[KVP_F16], ratio[KVP_BF16]);
}

/* Prompt tokens that attend themselves, causally. */
static void prefill(bench *b, shape s, kvp_dtype dtype, uint32_t n_threads)
{
    if (!wants_any(b, "prefill", &s, dtype))
        return;
    size_t n = b->quick ? 128 : 1024;
    layers x = make_layers(s, dtype, n_threads, n, 0, n);
    bench_case *limit = new_case(b, &x, "prefill", n_threads, "_fma", "GFLOP/s");
    bench_case *paged = new_case(b, &x, "prefill", n_threads, "_paged", "GFLOP/s");
    bench_versus(paged, limit);
    const double flops = 4.0 * s.heads * s.width * (double)(n * (n + 1) / 2);
    const double peak_flops = (double)FMA_ROUNDS * 12 * 8 * 2 * n_threads;
    for (uint32_t i = 0; i < b->reps; i++) {
        bench_add(limit, peak_flops / multiply_add_plain(&x, n_threads));
        bench_add(paged, flops / attend_paged(&x));
    }
    free_layers(&x);
}

int main(int argc, char **argv)
{
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    if (!kvp_isa()) {
        bench_fail(&b, "%s", kvp_error());
        return bench_finish(&b);
    }
    const uint32_t n_cpus = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    for (uint32_t n_threads = 1; n_threads <= n_cpus;
         n_threads = n_threads < n_cpus ? n_cpus : n_cpus + 1)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            decode_all_dtypes(&b, shapes[i], n_threads);
            prefill(&b, shapes[i], KVP_F16, n_threads);
        }
    return bench_finish(&b);
}
