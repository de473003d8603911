/* worker.c - the patterns. No block is touched in a timed one: what is measured is bookkeeping.
 *
 * Local patterns are timed by the CPU time of their threads, so that other work on the machine
 * disturbs less; handing over is timed by the clock, as waiting is part of it. */
#define _GNU_SOURCE 1
#include "bench/alloc/worker.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench/alloc/blocks.h"
#include "bench/harness.h"

#define RING 1024u          /* blocks under way from producer to consumer */
#define HANDED_PER_ROUND 64 /* polling for each would measure the polling */
#define MAX_THREADS 256u
#define OS_PAGE 4096u

typedef struct queue {
    void *ring[RING];
    _Alignas(64) atomic_uint_fast64_t produced;
    _Alignas(64) atomic_uint_fast64_t consumed;
} queue;

/* One thread's part of a sample. */
typedef struct part {
    uint64_t n_pairs;
    pthread_barrier_t *start;
    queue *q;
    bool failed; /* ran out of blocks */
    uint64_t ns; /* out */
    void (*run)(struct part *p);
} part;

#define INLINE static inline __attribute__((always_inline))

/* ---- patterns ---------------------------------------------------------------------------------*/

INLINE void lifo(part *w, void *(*get)(void), void (*put)(void *))
{
    pthread_barrier_wait(w->start);
    uint64_t start_ns = bench_cpu_ns();
    for (uint64_t i = 0; i < w->n_pairs; i++) {
        void *p = get();
        bench_keep(p);
        put(p);
    }
    w->ns = bench_cpu_ns() - start_ns;
}

INLINE void replace_random(part *w, void *(*get)(void), void (*put)(void *))
{
    static _Thread_local void *held[WORKER_N_HELD];
    uint32_t random = 12345; /* cheaper than what is measured */
    for (uint32_t i = 0; i < WORKER_N_HELD; i++)
        if (!(held[i] = get()))
            w->failed = true;
    pthread_barrier_wait(w->start);
    uint64_t start_ns = bench_cpu_ns();
    for (uint64_t i = 0; i < w->n_pairs; i++) {
        random = random * 1664525u + 1013904223u;
        void **p = &held[random / (UINT32_MAX / WORKER_N_HELD + 1)];
        put(*p);
        *p = get();
    }
    w->ns = bench_cpu_ns() - start_ns;
    for (uint32_t i = 0; i < WORKER_N_HELD; i++)
        put(held[i]);
}

INLINE void burst(part *w, void *(*get)(void), void (*put)(void *))
{
    static _Thread_local void *held[WORKER_BURST];
    uint64_t n = (w->n_pairs + WORKER_BURST - 1) / WORKER_BURST;
    w->n_pairs = n * WORKER_BURST;
    pthread_barrier_wait(w->start);
    uint64_t start_ns = bench_cpu_ns();
    while (n-- > 0) {
        for (uint32_t i = 0; i < WORKER_BURST; i++)
            held[i] = get();
        bench_keep(held);
        for (uint32_t i = 0; i < WORKER_BURST; i++)
            put(held[i]);
    }
    w->ns = bench_cpu_ns() - start_ns;
}

/* Spins while the other thread is running; lets it run where it shares this CPU. */
INLINE void wait_a_little(uint32_t *n_tries)
{
    if (++*n_tries % 256 == 0)
        sched_yield();
}

INLINE void produce(part *w, void *(*get)(void))
{
    queue *q = w->q;
    pthread_barrier_wait(w->start);
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0; i < w->n_pairs; i++) {
        for (uint32_t n = 0; i - atomic_load_explicit(&q->consumed, memory_order_acquire) >= RING;)
            wait_a_little(&n);
        if (!(q->ring[i % RING] = get()))
            w->failed = true;
        if (i % HANDED_PER_ROUND == HANDED_PER_ROUND - 1 || i + 1 == w->n_pairs)
            atomic_store_explicit(&q->produced, i + 1, memory_order_release);
    }
    w->ns = bench_now_ns() - start_ns;
}

INLINE void consume(part *w, void (*put)(void *))
{
    queue *q = w->q;
    pthread_barrier_wait(w->start);
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0, end; i < w->n_pairs;) {
        for (uint32_t n = 0; (end = atomic_load_explicit(&q->produced, memory_order_acquire)) == i;)
            wait_a_little(&n);
        for (; i < end; i++)
            put(q->ring[i % RING]);
        atomic_store_explicit(&q->consumed, i, memory_order_release);
    }
    w->ns = bench_now_ns() - start_ns;
}

/* ---- allocators -------------------------------------------------------------------------------*/

typedef struct allocator {
    const char *name;
    void *(*get)(void);
    void (*put)(void *);
    void *(*address)(const void *); /* of a handle */
    void (*lifo)(part *), (*random)(part *), (*burst)(part *), (*produce)(part *),
        (*consume)(part *);
} allocator;

#define PARTS(name)                                                                                \
    static void name##_lifo(part *w)                                                               \
    {                                                                                              \
        lifo(w, name##_get, name##_put);                                                           \
    }                                                                                              \
    static void name##_random(part *w)                                                             \
    {                                                                                              \
        replace_random(w, name##_get, name##_put);                                                 \
    }                                                                                              \
    static void name##_burst(part *w)                                                              \
    {                                                                                              \
        burst(w, name##_get, name##_put);                                                          \
    }                                                                                              \
    static void name##_produce(part *w)                                                            \
    {                                                                                              \
        produce(w, name##_get);                                                                    \
    }                                                                                              \
    static void name##_consume(part *w)                                                            \
    {                                                                                              \
        consume(w, name##_put);                                                                    \
    }
#define ALLOCATOR(name, address)                                                                   \
    {                                                                                              \
#name, name##_get, name##_put, address, name##_lifo, name##_random, name##_burst,          \
            name##_produce, name##_consume                                                         \
    }
PARTS(pool)
PARTS(malloc)
PARTS(treiber)
PARTS(bitmap)
PARTS(nothing)

static const allocator allocators[] = {
    ALLOCATOR(pool, slot_address), ALLOCATOR(malloc, own_address), ALLOCATOR(treiber, slot_address),
    ALLOCATOR(bitmap, slot_address), ALLOCATOR(nothing, own_address)};

static const allocator *find_allocator(const char *name)
{
    for (size_t i = 0; i < sizeof allocators / sizeof *allocators; i++)
        if (!strcmp(allocators[i].name, name))
            return &allocators[i];
    return NULL;
}

/* ---- samples ----------------------------------------------------------------------------------*/

static void *run_part(void *arg)
{
    part *p = arg;
    p->run(p);
    return NULL;
}

/* Every thread runs `first`; with `second` every other one that, joined to its neighbour by a
 * queue. ns per pair of the slowest; negative: it could not be done. */
static double sample(uint32_t n_threads, uint64_t n_pairs, void (*first)(part *),
                     void (*second)(part *))
{
    static part parts[MAX_THREADS];
    static queue *queues;
    pthread_t threads[MAX_THREADS];
    pthread_barrier_t start;
    if (!queues && second)
        queues = calloc(n_threads, sizeof *queues);
    if (second && !queues)
        return -1;
    pthread_barrier_init(&start, NULL, n_threads);
    for (uint32_t i = 0; i < n_threads; i++) {
        queue *q = second ? &queues[i / 2] : NULL;
        if (q && i % 2 == 0)
            q->produced = q->consumed = 0;
        parts[i] = (part){.n_pairs = n_pairs, .start = &start, .q = q};
        parts[i].run = second && i % 2 ? second : first;
    }
    for (uint32_t i = 1; i < n_threads; i++)
        if (pthread_create(&threads[i], NULL, run_part, &parts[i]))
            _exit(1); /* the others wait for it at the barrier */
    run_part(&parts[0]);
    double slowest = 0;
    bool failed = parts[0].failed;
    for (uint32_t i = 0; i < n_threads; i++) {
        if (i > 0)
            pthread_join(threads[i], NULL);
        double ns = (double)parts[i].ns / (double)parts[i].n_pairs;
        slowest = ns > slowest ? ns : slowest;
        failed = failed || parts[i].failed;
    }
    pthread_barrier_destroy(&start);
    return failed ? -1 : slowest;
}

/* ns per cycle of this core now: a chain of multiplications, three cycles each on every CPU that
 * the project runs on. */
static double calibrate(void)
{
    enum { N = 20000, UNROLLED = 8, LATENCY = 3 };
    uint64_t x = 3, best_ns = UINT64_MAX;
    for (int round = 0; round < 5; round++) {
        uint64_t start_ns = bench_cpu_ns();
        for (int i = 0; i < N; i++)
            for (int k = 0; k < UNROLLED; k++) {
                x *= 0x2545F4914F6CDD1Du;
                __asm__ volatile("" : "+r"(x));
            }
        uint64_t ns = bench_cpu_ns() - start_ns;
        best_ns = ns < best_ns ? ns : best_ns;
    }
    return (double)best_ns / N / UNROLLED / LATENCY;
}

/* As many pairs as take about `ms`. */
static uint64_t choose_pairs(uint32_t n_threads, uint64_t ms, void (*first)(part *),
                             void (*second)(part *))
{
    uint64_t n = 1024;
    for (;;) {
        double ns = sample(n_threads, n, first, second), wanted = (double)ms * 1e6 / 2;
        if (ns < 0 || ns * (double)n >= wanted || n >= 1u << 26)
            return n;
        double factor = ns > 0 ? wanted / (ns * (double)n) : 16;
        n = (uint64_t)((double)n * (factor > 16 ? 16 : factor < 2 ? 2 : factor));
    }
}

static int time_pattern(const allocator *a, const char *pattern, uint32_t n_threads, uint64_t ms)
{
    bool is_cross = !strcmp(pattern, "cross");
    void (*first)(part *) = is_cross                     ? a->produce
                            : !strcmp(pattern, "lifo")   ? a->lifo
                            : !strcmp(pattern, "random") ? a->random
                                                         : a->burst;
    void (*second)(part *) = is_cross ? a->consume : NULL;
    uint64_t n_pairs = choose_pairs(n_threads, ms, first, second);
    for (int i = 0; i < WORKER_SAMPLES; i++) {
        double ns_per_cycle = calibrate();
        double ns = sample(n_threads, n_pairs, first, second);
        if (ns < 0)
            return 1;
        printf("%.4f %.5f\n", ns, ns_per_cycle);
    }
    return 0;
}

/* ---- memory -----------------------------------------------------------------------------------*/

static double resident_bytes(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "Rss: %llu", &kib) != 1)
        continue;
    if (f)
        fclose(f);
    return (double)kib * 1024;
}

static void touch(char *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += OS_PAGE)
        ((volatile char *)p)[i] = 1;
}

#define WASTE_BYTES ((size_t)128 << 20) /* asked for in all */

static int measure_waste(const char *kind, const allocator *a, size_t block_bytes)
{
    size_t n = WASTE_BYTES / block_bytes;
    double before = resident_bytes();
    if (!blocks_open(kind, block_bytes, (uint32_t)n))
        return 1;
    for (size_t i = 0; i < n; i++) {
        void *handle = a->get();
        if (!handle)
            return 1;
        touch(a->address(handle), block_bytes);
    }
    printf("%.5f\n", (resident_bytes() - before) / (double)WASTE_BYTES - 1);
    return 0;
}

/* How many of the next blocks lie right behind the one before. */
static double adjacent_share(const allocator *a, size_t block_bytes)
{
    char *last = a->address(a->get());
    int n = 0;
    for (int i = 0; i < WORKER_ADJACENT_OF; i++) {
        char *p = a->address(a->get());
        n += p == last + block_bytes;
        last = p;
    }
    return (double)n / WORKER_ADJACENT_OF;
}

/* Random gets and puts, now mostly the one, now the other: up to 2,048 blocks held. */
static int measure_fragmentation(const char *kind, const allocator *a, size_t block_bytes)
{
    enum { N_STEPS = 1000000, STEPS_PER_PHASE = 8192, N_HELD = WORKER_N_HELD };
    static void *held[N_HELD];
    uint64_t seed = 20240607, n_held = 0, most_held = 0;
    double before = resident_bytes(), most = 0;
    if (!blocks_open(kind, block_bytes, 4 * N_HELD))
        return 1;
    for (uint32_t step = 0; step < N_STEPS; step++) {
        uint64_t r = bench_random(&seed);
        bool is_growing = step / STEPS_PER_PHASE % 2 == 0;
        if (step % STEPS_PER_PHASE == 0 && step) {
            double now = resident_bytes();
            most = now > most ? now : most;
        }
        if (n_held < N_HELD && (n_held == 0 || r % 100 < (is_growing ? 70 : 30))) {
            if (!(held[n_held] = a->get()))
                return 1;
            touch(a->address(held[n_held++]), block_bytes);
        } else {
            size_t i = (size_t)(r >> 32) % n_held;
            a->put(held[i]);
            held[i] = held[--n_held];
        }
        most_held = n_held > most_held ? n_held : most_held;
    }
    while (n_held > 0)
        a->put(held[--n_held]);
    printf("%.5f %.5f\n", (most - before) / ((double)most_held * (double)block_bytes) - 1,
           adjacent_share(a, block_bytes));
    return 0;
}

/* ---- main -------------------------------------------------------------------------------------*/

int alloc_worker(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    const char *kind = argv[0], *probe = argv[1], *pattern = argv[2];
    size_t block_bytes = strtoull(argv[3], NULL, 10);
    uint32_t n_threads = (uint32_t)strtoul(argv[4], NULL, 10);
    const allocator *a = find_allocator(kind);
    if (!a || n_threads < 1 || n_threads > MAX_THREADS)
        return 2;
    if (strcmp(probe, "-") != 0 && !dlsym(RTLD_DEFAULT, probe))
        return WORKER_IS_MISSING;
    if (!strcmp(pattern, "waste"))
        return measure_waste(kind, a, block_bytes);
    if (!strcmp(pattern, "fragmentation"))
        return measure_fragmentation(kind, a, block_bytes);
    if (!blocks_open(kind, block_bytes, 4 * (WORKER_N_HELD + RING) * n_threads))
        return 1;
    return time_pattern(a, pattern, n_threads, strtoull(argv[5], NULL, 10));
}
