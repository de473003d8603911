/* bench_products.c - products with weight matrices: of one row against the machine's read
 * bandwidth, of many against the peak of multiply-adds, and both against the fastest that oneDNN
 * has, whose rows depend on how many there are.
 *
 * Weights rotate over --total-mib, so that they come from DRAM. Samples alternate between all
 * cases, so that other work on the machine hits them alike; one thread's are in CPU time. */
#define _GNU_SOURCE 1
#include "harness.h"
#include "limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/models/isa.h"
#include "integration/models/matmul.h"
#if BENCH_HAVE_DNNL
#include "products_dnnl.h"
#endif

static const bench_spec spec = {
    .name = "products",
    .summary = "products with weights against memory bandwidth, FMA peak and oneDNN",
    .details = "Cases are own_<dtype>_<n_in>x<n_out>_<rows> and dnnl_... of the same: GB/s of\n"
               "weights up to 8 rows, GFLOP/s from there on; ..._of_read, ..._of_peak: the\n"
               "fraction of what the machine gives.\n",
    .options = {{"--threads", "N", "threads, 0: one per CPU", "0"},
                {"--total-mib", "N", "weights to rotate over", "128"}},
};

static const char *const dtype_names[] = {"f32", "f16", "bf16"};

typedef struct subject {
    size_t n_in, n_out, m;
    kvp_dtype dtype;
    size_t n_matrices, next;
    kvp_pool *pool;
    matmul *mm;
    matrix *matrices;
    float *x, *y;
#if BENCH_HAVE_DNNL
    dnnl_product *dnnl; /* NULL: it has none for the dtype */
    bench_case *peer;
#endif
    bench_case *own;
} subject;

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (!p) {
        fprintf(stderr, "bench_products: out of memory: %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

static double per_second(const subject *s, uint64_t ns)
{
    double weights = (double)s->n_in * (double)s->n_out;
    double work =
        s->m > 8 ? 2 * weights * (double)s->m : weights * (double)kvp_dtype_bytes(s->dtype);
    return work / (double)ns;
}

/* All matrices once. */
static double sample_own(subject *s)
{
    uint64_t start = limits_clock_ns(s->pool);
    for (size_t i = 0; i < s->n_matrices; i++) {
        if (matmul_apply(s->mm, &s->matrices[i], s->x, s->m, s->y))
            exit(1);
    }
    return per_second(s, limits_clock_ns(s->pool) - start) * (double)s->n_matrices;
}

#if BENCH_HAVE_DNNL
static double sample_dnnl(subject *s)
{
    uint64_t start = limits_clock_ns(s->pool);
    for (size_t i = 0; i < s->n_matrices; i++)
        dnnl_product_run(s->dnnl, i, s->x, s->y);
    return per_second(s, limits_clock_ns(s->pool) - start) * (double)s->n_matrices;
}
#endif

static void fill_matrices(subject *s, size_t total_bytes)
{
    uint64_t state = 7;
    matrix w = {.n_in = s->n_in, .n_out = s->n_out, .is_out_major = true, .dtype = s->dtype};
    float *row = allocate(s->n_in * sizeof *row);
    s->n_matrices = total_bytes / matrix_bytes(&w) + 1;
    s->matrices = allocate(s->n_matrices * sizeof w);
    for (size_t i = 0; i < s->n_matrices; i++) {
        s->matrices[i] = w;
        s->matrices[i].data = limits_map(matrix_bytes(&w));
        for (size_t j = 0; j < s->n_out; j++) {
            for (size_t k = 0; k < s->n_in && i == 0; k++)
                row[k] = (float)(bench_random(&state) >> 40) * 0x1p-23f - 1;
            if (i == 0)
                matrix_put(&s->matrices[0], j, 1, row);
        }
        if (i)
            memcpy(s->matrices[i].data, s->matrices[0].data, matrix_bytes(&w));
    }
    free(row);
}

static void make(subject *s, bench *b, kvp_pool *pool, model_isa isa, size_t total_bytes)
{
    char name[64];
    uint64_t state = 3;
    const char *unit = s->m > 8 ? "GFLOP/s" : "GB/s";
    fill_matrices(s, total_bytes);
    s->x = allocate(s->m * s->n_in * sizeof *s->x);
    s->y = allocate(s->m * s->n_out * sizeof *s->y);
    for (size_t i = 0; i < s->m * s->n_in; i++)
        s->x[i] = (float)(bench_random(&state) >> 40) * 0x1p-23f - 1;
    s->pool = pool;
    if (matmul_open(pool, isa, &s->mm))
        exit(1);
#if BENCH_HAVE_DNNL
    s->dnnl =
        dnnl_product_new(s->n_in, s->n_out, s->m, s->dtype, s->n_matrices, kvp_pool_threads(pool));
    if (s->dnnl) {
        snprintf(name, sizeof name, "dnnl_%s_%zux%zu_%zu", dtype_names[s->dtype], s->n_in, s->n_out,
                 s->m);
        s->peer = bench_case_new(b, name, unit);
    }
#endif
    snprintf(name, sizeof name, "own_%s_%zux%zu_%zu", dtype_names[s->dtype], s->n_in, s->n_out,
             s->m);
    s->own = bench_case_new(b, name, unit);
#if BENCH_HAVE_DNNL
    if (s->dnnl)
        bench_versus(s->own, s->peer);
#endif
}

static double sample(subject *s, bool counts)
{
#if BENCH_HAVE_DNNL
    double peer = s->dnnl ? sample_dnnl(s) : 0;
    if (s->dnnl && counts)
        bench_add(s->peer, peer);
#endif
    double own = sample_own(s);
    if (counts)
        bench_add(s->own, own);
    return own;
}

static void fini(subject *s)
{
    for (size_t i = 0; i < s->n_matrices; i++)
        limits_unmap(s->matrices[i].data, matrix_bytes(&s->matrices[i]));
    free(s->matrices);
    free(s->x);
    free(s->y);
    matmul_close(s->mm);
#if BENCH_HAVE_DNNL
    dnnl_product_free(s->dnnl);
#endif
}

static void run_subject(bench *b, subject s, limits *l, size_t total_bytes)
{
    const char *limit_name = s.m > 8 ? "peak" : "read";
    char name[64];
    make(&s, b, l->pool, l->isa, total_bytes);
    snprintf(name, sizeof name, "%.48s_of_%s", s.own->name, limit_name);
    bench_case *limit = bench_case_new(b, name, "of 1");
    for (uint32_t rep = 0; rep <= b->reps; rep++) { /* the first warms up */
        double most = s.m > 8 ? limits_multiply(l, s.dtype == KVP_BF16) : limits_read(l);
        double own = sample(&s, rep > 0);
        if (rep > 0)
            bench_add(limit, own / most);
    }
    fini(&s);
}

int main(int argc, char **argv)
{
    static const size_t shapes[][2] = {{768, 3072}, {3072, 768}};
    static const size_t rows[] = {1, 8, 128};
    bench b;
    int code;
    kvp_pool *pool;
    model_isa isa;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    if (model_isa_find(&isa) ||
        kvp_pool_open((uint32_t)bench_option_num(&b, "--threads"), NULL, NULL, &pool)) {
        fprintf(stderr, "bench_products: %s\n", kvp_error());
        return 1;
    }
    size_t total = b.quick ? 1 : (size_t)bench_option_num(&b, "--total-mib") << 20;
    limits l = limits_open(pool, isa, b.quick ? 1u << 20 : (size_t)128 << 20);
    for (size_t i = 0; i < 18; i++) {
        subject s = {.n_in = shapes[i % 2][0],
                     .n_out = shapes[i % 2][1],
                     .m = rows[i / 2 % 3],
                     .dtype = (kvp_dtype)(i / 6)};
        char name[64];
        snprintf(name, sizeof name, "%s_%zux%zu_%zu", dtype_names[s.dtype], s.n_in, s.n_out, s.m);
        if (bench_wants(&b, name))
            run_subject(&b, s, &l, s.m > 8 ? total / 4 : total);
    }
    limits_close(&l);
    kvp_pool_close(pool);
    return bench_finish(&b);
}
