/* bench_search.c - GB/s of keys that kvp_search() looks through, beside the machine's read
 * bandwidth; GFLOP/s with many queries at a time; and what digests save where keys are clustered.
 * Everything is in RAM.
 *
 * Lanes are larger than the caches. Samples alternate between searching and plain reading, so that
 * other work on the machine hits them alike. */
#define _GNU_SOURCE 1
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvpager.h"

#define MIB ((size_t)1 << 20)

static const bench_spec spec = {
    .name = "search",
    .summary = "exact top-k over a lane against the machine's read bandwidth",
    .details =
        "Cases are search_<width>_<dtype>_<threads>t (one query, k 1024) with read_<threads>t\n"
        "(four streams per thread), in GB/s of keys; queries_... (64 at a time) in GFLOP/s; and\n"
        "clusters_all and clusters_digests, ms per query over clustered keys without digests and\n"
        "with them. Bar: search at 0.75 of read.\n",
    .options = {{"--keys-mib", "N", "keys of a lane", "128"}},
};

enum { K = 1024, BATCH = 64, PAGE_TOKENS = 128, CLUSTER = 256 };

static void die(const char *what)
{
    fprintf(stderr, "bench_search: %s: %s\n", what, kvp_error());
    exit(1);
}

static void *must_alloc(size_t n)
{
    void *p = malloc(n);
    if (!p)
        die("malloc");
    return p;
}

typedef struct lane {
    uint32_t width;
    kvp_dtype dtype;
    size_t n_keys;
    kvp_pager *pager;
    kvp_seq *seq;
    float *queries; /* [BATCH][width] */
    kvp_hit *hits;
    size_t n_hits[BATCH];
    char *flat; /* as many bytes as the keys have, to be read plainly */
    uint32_t n_threads;
    kvp_search_counts counts;
} lane;

static float uniform(uint64_t *state)
{
    return (float)(bench_random(state) >> 40) * 0x1p-23f - 1;
}

static void append_keys(lane *x, bool is_clustered)
{
    uint64_t state = 42;
    float *k = must_alloc(PAGE_TOKENS * x->width * sizeof *k);
    float *centre = must_alloc(x->width * sizeof *centre);
    for (size_t t = 0; t < x->n_keys; t += PAGE_TOKENS) {
        for (size_t d = 0; d < x->width && t % CLUSTER == 0; d++)
            centre[d] = uniform(&state);
        for (size_t i = 0; i < PAGE_TOKENS * x->width; i++)
            k[i] = is_clustered ? centre[i % x->width] + 0.1f * uniform(&state) : uniform(&state);
        if (kvp_seq_append(x->seq, 0, k, k, PAGE_TOKENS))
            die("append");
    }
    free(centre);
    free(k);
}

static lane make_lane(uint32_t width, kvp_dtype dtype, uint32_t n_threads, size_t bytes,
                      bool is_clustered, bool has_digests)
{
    lane x = {.width = width, .dtype = dtype, .n_threads = n_threads};
    const kvp_layer_kind kind = {.n_kv_heads = 1, .k_width = width, .dtype = dtype};
    const kvp_lookup_kind lookup = {.has_opaque_v = true, .has_digests = has_digests};
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = 1, .layers = &kind, .lookups = &lookup, .page_tokens = PAGE_TOKENS};
    cfg.n_threads = n_threads;
    if (kvp_pager_open(&cfg, &x.pager) || kvp_seq_create(x.pager, &x.seq))
        die("open");
    x.n_keys = bytes / (width * kvp_dtype_bytes(dtype)) / PAGE_TOKENS * PAGE_TOKENS;
    append_keys(&x, is_clustered);
    uint64_t state = 7;
    x.queries = must_alloc(BATCH * width * sizeof *x.queries);
    x.hits = must_alloc(BATCH * K * sizeof *x.hits);
    for (size_t i = 0; i < BATCH * width; i++)
        x.queries[i] = uniform(&state);
    x.flat =
        mmap(NULL, bytes + 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (x.flat == MAP_FAILED)
        die("mmap");
    madvise(x.flat, bytes + 2 * MIB, MADV_HUGEPAGE);
    memset(x.flat, 1, bytes + 2 * MIB);
    return x;
}

static void free_lane(lane *x, size_t bytes)
{
    kvp_pager_close(x->pager);
    munmap(x->flat, bytes + 2 * MIB);
    free(x->queries);
    free(x->hits);
}

/* ns */
static double search(lane *x, size_t n_queries)
{
    const kvp_search_args args = {.queries = x->queries,
                                  .n_queries = n_queries,
                                  .k = K,
                                  .hits = x->hits,
                                  .n_hits = x->n_hits,
                                  .counts = &x->counts};
    uint64_t begin = bench_now_ns();
    if (kvp_search(x->seq, 0, 0, &args))
        die("search");
    return (double)(bench_now_ns() - begin);
}

typedef float vec __attribute__((vector_size(32)));

typedef struct limit {
    const char *from;
    size_t n_bytes, n_threads;
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

static double read_plain(lane *x, size_t bytes)
{
    limit l = {.n_threads = x->n_threads, .n_bytes = bytes};
    l.from = (const char *)(((uintptr_t)x->flat + 2 * MIB - 1) / (2 * MIB) * (2 * MIB));
    uint64_t begin = bench_now_ns();
    kvp_parallel_for(x->pager, x->n_threads, read_streams, &l);
    return (double)(bench_now_ns() - begin);
}

static const char *const dtype_names[] = {"f32", "f16", "bf16"};

static bench_case *new_case(bench *b, const char *what, const lane *x, const char *unit)
{
    char name[64];
    snprintf(name, sizeof name, "%s_%u_%s_%ut", what, x->width, dtype_names[x->dtype],
             x->n_threads);
    bench_case *c = bench_case_new(b, name, unit);
    bench_param(c, "isa", kvp_isa());
    bench_param_num(c, "keys", (double)x->n_keys);
    return c;
}

static void resident(bench *b, uint32_t width, kvp_dtype dtype, uint32_t n_threads, size_t bytes)
{
    lane x = make_lane(width, dtype, n_threads, bytes, false, false);
    bench_case *limit = new_case(b, "read", &x, "GB/s"), *one = new_case(b, "search", &x, "GB/s");
    bench_case *many = new_case(b, "queries", &x, "GFLOP/s");
    bench_versus(one, limit);
    (void)search(&x, 1);
    (void)read_plain(&x, bytes);
    for (uint32_t i = 0; i < b->reps; i++) {
        bench_add(limit, (double)bytes / read_plain(&x, bytes));
        bench_add(one, (double)bytes / search(&x, 1));
    }
    for (uint32_t i = 0; i < b->reps; i++)
        bench_add(many, 2.0 * BATCH * (double)x.n_keys * width / search(&x, BATCH));
    free_lane(&x, bytes);
}

static void clusters(bench *b, size_t bytes)
{
    lane all = make_lane(256, KVP_F16, 2, bytes, true, false);
    lane digests = make_lane(256, KVP_F16, 2, bytes, true, true);
    bench_case *full = new_case(b, "clusters_all", &all, "ms");
    bench_case *pruned = new_case(b, "clusters_digests", &digests, "ms");
    bench_versus(pruned, full);
    for (uint32_t i = 0; i < b->reps; i++) {
        bench_add(full, search(&all, 1) * 1e-6);
        bench_add(pruned, search(&digests, 1) * 1e-6);
    }
    bench_note(b, "clusters_digests: %llu of %llu pages skipped",
               (unsigned long long)digests.counts.pages_skipped,
               (unsigned long long)digests.counts.pages);
    free_lane(&all, bytes);
    free_lane(&digests, bytes);
}

int main(int argc, char **argv)
{
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    size_t bytes = b.quick ? 4 * MIB : bench_option_num(&b, "--keys-mib") * MIB;
    for (kvp_dtype dtype = KVP_F32; dtype <= KVP_BF16; dtype++)
        for (uint32_t n_threads = 1; n_threads <= 2; n_threads++)
            resident(&b, 256, dtype, n_threads, bytes);
    resident(&b, 576, KVP_F16, 2, bytes);
    clusters(&b, bytes);
    return bench_finish(&b);
}
