/* bench_attention.c - GB/s of K and V that decode attention reads through pages, beside the same
 * kernels over contiguous memory and the machine's read bandwidth; GFLOP/s of prefill beside the
 * peak of fused multiply-adds; what several queries, statistics of pages, and a busy neighbour on
 * each CPU cost. Everything is in RAM.
 *
 * Decode rotates over layers, so that K and V come from DRAM. Samples alternate between cases, so
 * that other work on the machine hits them alike; one thread's are in CPU time. */
#define _GNU_SOURCE 1
#include "attention_layers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static const bench_spec spec = {
    .name = "attention",
    .summary = "attention over pages against contiguous memory and the machine's limits",
    .details =
        "Cases are decode_<heads>x<width>_<dtype>_<tokens>_<threads>t_<paged|contiguous>, with\n"
        "read_<threads>t (four streams per thread) for each, in GB/s of K and V; and\n"
        "prefill_... with fma_<threads>t, in GFLOP/s. verify_..._<n>q: n queries, to one;\n"
        "pages_..._mass, _changes: with statistics of pages, to none; neighbour_..._busy: with a\n"
        "busy process on each CPU, to none; all in us.\n",
    .options = {{"--tokens", "N", "context of the decode cases", "8192"},
                {"--total-mib", "N", "K and V to rotate over", "192"}},
};

static const shape shapes[] = {
    {"12/12x64", 12, 12, 64}, {"9/3x64", 9, 3, 64}, {"32/8x128", 32, 8, 128}};
static const char *const dtype_names[] = {"f32", "f16", "bf16"};

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
               .n_bytes = layers_bytes(x),
               .from = x->flat + layer * layers_bytes(x)};
    uint64_t begin = layers_clock_ns(x);
    kvp_parallel_for(x->pager, n_threads, read_streams, &l);
    return (double)(layers_clock_ns(x) - begin);
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

typedef float vec16 __attribute__((vector_size(64), aligned(64)));

__attribute__((target("avx512f"))) static void multiply_add_16(void *arg, size_t thread)
{
    (void)arg;
    (void)thread;
    vec16 a[12], x = {0.5f};
    for (size_t i = 0; i < 12; i++)
        a[i] = x;
    for (size_t round = 0; round < FMA_ROUNDS; round++) {
#pragma GCC unroll 12
        for (size_t i = 0; i < 12; i++)
            a[i] = a[i] * x + x;
        __asm__ volatile("" : "+v"(x));
    }
    for (size_t i = 0; i < 12; i++)
        bench_keep(&a[i]);
}

/* GFLOP/s in the vectors that the kernels use. */
static double multiply_add_plain(layers *x, size_t n_threads)
{
    const bool is_wide = strcmp(kvp_isa(), "avx512") == 0;
    const double flops = (double)FMA_ROUNDS * 12 * (is_wide ? 16 : 8) * 2 * (double)n_threads;
    uint64_t begin = layers_clock_ns(x);
    kvp_parallel_for(x->pager, n_threads, is_wide ? multiply_add_16 : multiply_add, NULL);
    return flops / (double)(layers_clock_ns(x) - begin);
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
    layers x = layers_make(s, dtype, n_threads, n_tokens, total, 1);
    layers_check(b, &x);
    bench_case *limit = new_case(b, &x, "decode", n_threads, "_read", "GB/s");
    bench_case *flat = new_case(b, &x, "decode", n_threads, "_contiguous", "GB/s");
    bench_case *paged = new_case(b, &x, "decode", n_threads, "_paged", "GB/s");
    bench_versus(flat, limit);
    bench_versus(paged, limit);
    const double bytes = (double)layers_bytes(&x);
    for (uint32_t i = 0; i < b->reps * x.n_layers; i++) {
        bench_add(limit, bytes / read_plain(&x, n_threads));
        bench_add(flat, bytes / layers_attend_contiguous(&x));
        bench_add(paged, bytes / layers_attend_paged(&x));
    }
    layers_free(&x);
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
    layers x = layers_make(s, dtype, n_threads, n, 0, n);
    bench_case *limit = new_case(b, &x, "prefill", n_threads, "_fma", "GFLOP/s");
    bench_case *paged = new_case(b, &x, "prefill", n_threads, "_paged", "GFLOP/s");
    bench_versus(paged, limit);
    const double flops = 4.0 * s.heads * s.width * (double)(n * (n + 1) / 2);
    for (uint32_t i = 0; i < b->reps; i++) {
        bench_add(limit, multiply_add_plain(&x, n_threads));
        bench_add(paged, flops / layers_attend_paged(&x));
    }
    layers_free(&x);
}

/* ---- what costs extra ------------------------------------------------------------------------ */

/* Tokens that are to be verified, in one call: each a step more, or hardly more than one? */
static void verify(bench *b, shape s, uint32_t n_threads)
{
    static const size_t n_queries[] = {1, 2, 4, 8, 16};
    enum { N = sizeof n_queries / sizeof *n_queries };
    if (!wants_any(b, "verify", &s, KVP_F16))
        return;
    size_t n_tokens = b->quick ? 1024 : bench_option_num(b, "--tokens");
    layers x = layers_make(s, KVP_F16, n_threads, n_tokens, b->quick ? MIB : 64 * MIB, 16);
    bench_case *cases[N];
    for (size_t i = 0; i < N; i++) {
        char variant[16];
        snprintf(variant, sizeof variant, "_%zuq", n_queries[i]);
        cases[i] = new_case(b, &x, "verify", n_threads, variant, "us");
        bench_versus(cases[i], cases[0]);
    }
    for (uint32_t rep = 0; rep < b->reps * x.n_layers; rep++)
        for (size_t i = 0; i < N; i++) {
            x.n_queries = n_queries[i];
            bench_add(cases[i], layers_attend_paged(&x) * 1e-3);
        }
    x.n_queries = 16;
    layers_free(&x);
}

/* Attention masses of pages, and how far the output would move without each. */
static void statistics(bench *b, shape s, uint32_t n_threads)
{
    if (!wants_any(b, "pages", &s, KVP_F16))
        return;
    size_t n_tokens = b->quick ? 1024 : bench_option_num(b, "--tokens");
    layers x = layers_make(s, KVP_F16, n_threads, n_tokens, b->quick ? MIB : 64 * MIB, 1);
    bench_case *plain = new_case(b, &x, "pages", n_threads, "_plain", "us");
    bench_case *mass = new_case(b, &x, "pages", n_threads, "_mass", "us");
    bench_case *changes = new_case(b, &x, "pages", n_threads, "_changes", "us");
    bench_versus(mass, plain);
    bench_versus(changes, plain);
    for (uint32_t rep = 0; rep < 2 * b->reps * x.n_layers; rep++) {
        x.wants_mass = x.wants_changes = false;
        bench_add(plain, layers_attend_paged(&x) * 1e-3);
        x.wants_mass = true;
        bench_add(mass, layers_attend_paged(&x) * 1e-3);
        x.wants_mass = false;
        x.wants_changes = true;
        bench_add(changes, layers_attend_paged(&x) * 1e-3);
    }
    layers_free(&x);
}

static void *keep_busy(void *arg)
{
    atomic_bool *stop = arg;
    while (!atomic_load(stop))
        for (volatile int i = 0; i < 1000; i++)
            ;
    return NULL;
}

/* Steps with nobody else, and with as many busy threads as there are CPUs. */
static void neighbour(bench *b, shape s, uint32_t n_threads)
{
    enum { MOST = 64 };
    if (n_threads < 2 || n_threads > MOST || !wants_any(b, "neighbour", &s, KVP_F16))
        return;
    size_t n_tokens = b->quick ? 1024 : bench_option_num(b, "--tokens");
    layers x = layers_make(s, KVP_F16, n_threads, n_tokens, b->quick ? MIB : 64 * MIB, 1);
    bench_case *alone = new_case(b, &x, "neighbour", n_threads, "_alone", "us");
    bench_case *busy = new_case(b, &x, "neighbour", n_threads, "_busy", "us");
    bench_versus(busy, alone);
    for (uint32_t rep = 0; rep < b->reps; rep++) {
        pthread_t threads[MOST];
        atomic_bool stop = false;
        for (uint32_t i = 0; i < 8 * x.n_layers; i++)
            bench_add(alone, layers_attend_paged(&x) * 1e-3);
        for (uint32_t i = 0; i < n_threads; i++)
            if (pthread_create(&threads[i], NULL, keep_busy, &stop)) {
                bench_fail(b, "neighbour: no thread could be started");
                _exit(1);
            }
        for (uint32_t i = 0; i < 8 * x.n_layers; i++)
            bench_add(busy, layers_attend_paged(&x) * 1e-3);
        stop = true;
        for (uint32_t i = 0; i < n_threads; i++)
            pthread_join(threads[i], NULL);
    }
    layers_free(&x);
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
            verify(&b, shapes[i], n_threads);
            statistics(&b, shapes[i], n_threads);
            neighbour(&b, shapes[i], n_threads);
        }
    return bench_finish(&b);
}
