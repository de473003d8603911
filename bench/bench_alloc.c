/* bench_alloc.c - ns per alloc+free pair of 64 KiB: the slot pool against glibc and jemalloc.
 *
 * All three run in one process, in turns. glibc's malloc is taken from the C library itself, since
 * a jemalloc in the process replaces the name; where there is none, the benchmark starts itself
 * again with libjemalloc preloaded. No block is touched: what is measured is the bookkeeping. */
#define _GNU_SOURCE 1
#include "harness.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc/mem.h"
#include "alloc/slot_pool.h"

#define BLOCK_BYTES 65536u
#define N_HELD 2048u        /* per thread, in the random workload */
#define N_SLOTS 16384u      /* of the pool */
#define RING 1024u          /* blocks under way from producer to consumer */
#define HANDED_PER_ROUND 64 /* polling for each would measure the polling */

static const bench_spec spec = {
    .name = "alloc",
    .summary = "ns per alloc+free pair of 64 KiB blocks",
    .details = "lifo: free what was just allocated. random: replace one of 2048 held blocks.\n"
               "cross: one thread allocates, another frees; cross_queue is the queue between them\n"
               "without blocks. With two threads a sample is the slower one's.\n",
    .options = {{"--pairs", "N", "pairs per thread and sample", "1000000"}},
};

/* ---- allocators: direct calls, so that the compiler may do with each what a user would get --- */

static kvpi_slot_pool *pool;
static void *(*glibc_malloc)(size_t);
static void (*glibc_free)(void *);
static void *(*jemalloc_malloc)(size_t);
static void (*jemalloc_free)(void *);

static inline void *pool_get(void)
{
    uint32_t slot;
    return kvpi_slot_pool_alloc(pool, &slot) ? NULL : (void *)((uintptr_t)slot + 1);
}

static inline void pool_put(void *p)
{
    kvpi_slot_pool_free(pool, (uint32_t)((uintptr_t)p - 1));
}

static inline void *glibc_get(void)
{
    return glibc_malloc(BLOCK_BYTES);
}

static inline void glibc_put(void *p)
{
    glibc_free(p);
}

static inline void *jemalloc_get(void)
{
    return jemalloc_malloc(BLOCK_BYTES);
}

static inline void jemalloc_put(void *p)
{
    jemalloc_free(p);
}

static inline void *nothing_get(void)
{
    return &pool;
}

static inline void nothing_put(void *p)
{
    bench_keep(p);
}

/* ---- workloads --------------------------------------------------------------------------------*/

typedef struct work {
    uint64_t n_pairs;
    bool failed;
    pthread_barrier_t start;
    /* From producer to consumer. */
    void *ring[RING];
    _Alignas(64) atomic_uint_fast64_t produced;
    _Alignas(64) atomic_uint_fast64_t consumed;
} work;

/* One thread's part: returns ns. */
typedef uint64_t part_fn(work *w);

#define INLINE static inline __attribute__((always_inline))

INLINE uint64_t lifo(work *w, void *(*get)(void), void (*put)(void *))
{
    pthread_barrier_wait(&w->start);
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0; i < w->n_pairs; i++) {
        void *p = get();
        bench_keep(p);
        put(p);
    }
    return bench_now_ns() - start_ns;
}

INLINE uint64_t replace_random(work *w, void *(*get)(void), void (*put)(void *))
{
    static _Thread_local void *held[N_HELD];
    uint32_t random = 12345; /* cheaper than what is measured */
    for (uint32_t i = 0; i < N_HELD; i++)
        if (!(held[i] = get()))
            w->failed = true;
    pthread_barrier_wait(&w->start);
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0; i < w->n_pairs; i++) {
        random = random * 1664525u + 1013904223u;
        void **p = &held[random / (UINT32_MAX / N_HELD + 1)];
        put(*p);
        *p = get();
    }
    uint64_t ns = bench_now_ns() - start_ns;
    for (uint32_t i = 0; i < N_HELD; i++)
        put(held[i]);
    return ns;
}

/* Spins while the other thread is running; lets it run where it shares this CPU. */
INLINE void wait_a_little(uint32_t *n_tries)
{
    if (++*n_tries % 256 == 0)
        sched_yield();
}

INLINE uint64_t produce(work *w, void *(*get)(void))
{
    pthread_barrier_wait(&w->start);
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0; i < w->n_pairs; i++) {
        for (uint32_t n = 0; i - atomic_load_explicit(&w->consumed, memory_order_acquire) >= RING;)
            wait_a_little(&n);
        if (!(w->ring[i % RING] = get()))
            w->failed = true;
        if (i % HANDED_PER_ROUND == HANDED_PER_ROUND - 1 || i + 1 == w->n_pairs)
            atomic_store_explicit(&w->produced, i + 1, memory_order_release);
    }
    return bench_now_ns() - start_ns;
}

INLINE uint64_t consume(work *w, void (*put)(void *))
{
    pthread_barrier_wait(&w->start);
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0, end; i < w->n_pairs;) {
        for (uint32_t n = 0; (end = atomic_load_explicit(&w->produced, memory_order_acquire)) == i;)
            wait_a_little(&n);
        for (; i < end; i++)
            put(w->ring[i % RING]);
        atomic_store_explicit(&w->consumed, i, memory_order_release);
    }
    return bench_now_ns() - start_ns;
}

#define PARTS(name)                                                                                \
    static uint64_t name##_lifo(work *w)                                                           \
    {                                                                                              \
        return lifo(w, name##_get, name##_put);                                                    \
    }                                                                                              \
    static uint64_t name##_random(work *w)                                                         \
    {                                                                                              \
        return replace_random(w, name##_get, name##_put);                                          \
    }                                                                                              \
    static uint64_t name##_produce(work *w)                                                        \
    {                                                                                              \
        return produce(w, name##_get);                                                             \
    }                                                                                              \
    static uint64_t name##_consume(work *w)                                                        \
    {                                                                                              \
        return consume(w, name##_put);                                                             \
    }
PARTS(pool)
PARTS(glibc)
PARTS(jemalloc)

static uint64_t queue_produce(work *w)
{
    return produce(w, nothing_get);
}

static uint64_t queue_consume(work *w)
{
    return consume(w, nothing_put);
}

/* ---- samples ----------------------------------------------------------------------------------*/

typedef struct part {
    work *w;
    part_fn *run;
    uint64_t ns;
} part;

static void *run_part(void *arg)
{
    part *p = arg;
    p->ns = p->run(p->w);
    return NULL;
}

/* ns per pair of the slower part; `second` NULL: one thread. */
static double sample(bench *b, uint64_t n_pairs, part_fn *first, part_fn *second)
{
    work *w = calloc(1, sizeof *w);
    pthread_t thread;
    if (!w) {
        bench_fail(b, "out of memory");
        return 0;
    }
    w->n_pairs = n_pairs;
    pthread_barrier_init(&w->start, NULL, second ? 2 : 1);
    part parts[2] = {{w, first, 0}, {w, second, 0}};
    if (second && pthread_create(&thread, NULL, run_part, &parts[1])) {
        bench_fail(b, "cannot start a thread");
        return 0;
    }
    run_part(&parts[0]);
    if (second)
        pthread_join(thread, NULL);
    if (w->failed)
        bench_fail(b, "an allocator ran out of blocks");
    pthread_barrier_destroy(&w->start);
    free(w);
    uint64_t ns = parts[0].ns > parts[1].ns ? parts[0].ns : parts[1].ns;
    return (double)ns / (double)n_pairs;
}

typedef struct workload {
    const char *name;
    uint32_t n_threads;
    struct {
        const char *name;
        part_fn *first, *second;
    } variants[4]; /* the one that the others are compared with first */
} workload;

static const workload workloads[] = {
    {"lifo_1t",
     1,
     {{"lifo_1t_pool", pool_lifo, NULL},
      {"lifo_1t_glibc", glibc_lifo, NULL},
      {"lifo_1t_jemalloc", jemalloc_lifo, NULL}}},
    {"lifo_2t",
     2,
     {{"lifo_2t_pool", pool_lifo, pool_lifo},
      {"lifo_2t_glibc", glibc_lifo, glibc_lifo},
      {"lifo_2t_jemalloc", jemalloc_lifo, jemalloc_lifo}}},
    {"random_1t",
     1,
     {{"random_1t_pool", pool_random, NULL},
      {"random_1t_glibc", glibc_random, NULL},
      {"random_1t_jemalloc", jemalloc_random, NULL}}},
    {"random_2t",
     2,
     {{"random_2t_pool", pool_random, pool_random},
      {"random_2t_glibc", glibc_random, glibc_random},
      {"random_2t_jemalloc", jemalloc_random, jemalloc_random}}},
    {"cross_2t",
     2,
     {{"cross_2t_pool", pool_produce, pool_consume},
      {"cross_2t_glibc", glibc_produce, glibc_consume},
      {"cross_2t_jemalloc", jemalloc_produce, jemalloc_consume},
      {"cross_2t_queue", queue_produce, queue_consume}}},
};
#define N_VARIANTS 4

static bool is_jemalloc(part_fn *f)
{
    return f == jemalloc_lifo || f == jemalloc_random || f == jemalloc_produce;
}

/* The variants in turns, so that other work on the machine hits them alike. */
static void run_workload(bench *b, const workload *w, uint64_t n_pairs)
{
    bench_case *cases[N_VARIANTS] = {0};
    for (int v = 0; v < N_VARIANTS; v++) {
        if (!w->variants[v].name || !bench_wants(b, w->variants[v].name) ||
            (is_jemalloc(w->variants[v].first) && !jemalloc_malloc))
            continue;
        cases[v] = bench_case_new(b, w->variants[v].name, "ns");
        bench_param_num(cases[v], "threads", w->n_threads);
        bench_param_num(cases[v], "pairs", (double)n_pairs);
        if (v > 0 && cases[0])
            bench_versus(cases[v], cases[0]);
    }
    for (uint32_t rep = 0; rep <= b->reps; rep++)
        for (int v = 0; v < N_VARIANTS; v++) {
            if (!cases[v])
                continue;
            double ns = sample(b, n_pairs, w->variants[v].first, w->variants[v].second);
            if (rep > 0) /* the first one warms up */
                bench_add(cases[v], ns);
        }
}

/* ---- the two others ---------------------------------------------------------------------------*/

/* dlsym() returns functions as data pointers; the two have one size on every POSIX system. */
static void look_up(void *library, const char *name, void *function, size_t n)
{
    void *address = dlsym(library, name);
    memcpy(function, &address, n);
}

static bool find_glibc(void)
{
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    if (!libc)
        return false;
    look_up(libc, "malloc", &glibc_malloc, sizeof glibc_malloc);
    look_up(libc, "free", &glibc_free, sizeof glibc_free);
    return glibc_malloc && glibc_free;
}

static bool has_jemalloc(void)
{
    return dlsym(RTLD_DEFAULT, "mallocx") != NULL;
}

/* Debian's cannot be loaded later: it has to be there from the start. */
static void restart_with_jemalloc(char **argv)
{
    if (has_jemalloc() || getenv("LD_PRELOAD"))
        return;
    setenv("LD_PRELOAD", "libjemalloc.so.2", 1);
    execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    restart_with_jemalloc(argv);
    uint64_t n_pairs = b.quick ? 20000 : bench_option_num(&b, "--pairs");
    if (!find_glibc())
        bench_fail(&b, "no libc.so.6 in this process");
    if (has_jemalloc()) {
        jemalloc_malloc = malloc;
        jemalloc_free = free;
    } else {
        bench_note(&b, "without jemalloc: libjemalloc.so.2 is not here");
    }
    if (n_pairs == 0)
        bench_fail(&b, "--pairs wants at least 1");
    if (!b.failed && kvpi_slot_pool_open(&kvpi_mem_default, N_SLOTS, &pool))
        bench_fail(&b, "%s", kvp_error());
    for (size_t i = 0; i < sizeof workloads / sizeof workloads[0] && !b.failed; i++)
        run_workload(&b, &workloads[i], n_pairs);
    kvpi_slot_pool_close(pool);
    return bench_finish(&b);
}
