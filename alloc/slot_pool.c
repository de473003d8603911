/* slot_pool.c - hands out slot numbers: per-thread magazines over a shared depot.
 *
 * Owns which slots are free, and nothing about what lies in them. The depot is a bitmap with
 * summaries above it, an eighth of a byte per slot: the lowest free slots go first, so that slots
 * handed out one after the other are neighbours. Magazines are small stacks in front of it.
 *
 * Invariants
 *  1. A slot is in one place: with a caller, in one magazine, or free in the depot. The bitmap
 *     says "taken" of the first two.
 *  2. A magazine is touched only by its owner between enter() and leave(), by its owner holding
 *     pool->lock, or by the holder of pool->lock while the magazine is frozen.
 *  3. Together the magazines hold at most a sixteenth of the slots: each at most
 *     n_slots / (16 * owners). A pool too small for that has none.
 *  4. "Full" is said only while all magazines are frozen and empty, and the depot is too.
 *
 * enter() and leave() are a lock that favours the owner: it pays for two stores and a load, while
 * whoever freezes a magazine pays for a membarrier(2), which makes all other CPUs' stores visible.
 * A plain spinlock's two atomic exchanges per pair cost three times as much as everything else.
 *
 * Lock order: registry_lock, pool->lock. Neither is taken between enter() and leave(). */
#define _GNU_SOURCE
#include "alloc/slot_pool.h"

#include "alloc/mem.h"

#include <assert.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CACHE_LINE 64u
#define MAGAZINE_SLOTS 61u    /* with the three words before them: four cache lines */
#define MIN_MAGAZINE_SLOTS 4u /* smaller ones would not earn their keep */
#define MAGAZINE_SHARE 16u    /* a sixteenth of the slots may be in magazines */
#define MAX_MAGAZINES 64u     /* threads beyond that use the depot */
#define MAX_LEVELS 6u         /* 64^6 > 2^32 */
#define N_CACHED 4u           /* pools whose magazine a thread remembers */

typedef struct magazine {
    alignas(CACHE_LINE) atomic_uint busy; /* its owner is inside */
    atomic_uint frozen;                   /* its owner must stay outside */
    atomic_uint n;
    uint32_t slots[MAGAZINE_SLOTS]; /* [n], the top one is handed out next */
} magazine;

struct kvpi_slot_pool {
    /* Constant after open, except for `limit`. */
    uint64_t id; /* never used twice in a process */
    const kvp_mem *mem;
    uint32_t n_slots, n_magazines, n_levels;
    bool has_membarrier;
    atomic_uint limit;           /* slots per magazine */
    uint64_t *level[MAX_LEVELS]; /* [0]: a bit per slot, set: taken; [k]: a bit per word below,
                                    set: all taken */
    magazine *magazines;         /* [n_magazines] */
    struct kvpi_slot_pool *next; /* in the registry */

    alignas(CACHE_LINE) pthread_mutex_t lock; /* guards what follows */
    uint32_t n_depot;                         /* free slots in the depot */
    uint32_t n_owners;                        /* magazines that have one */
    uint64_t owner[MAX_MAGAZINES];            /* thread number; 0: nobody's */
};

/* ---- threads ----
 * The registry lets a thread that ends find the pools in which it has a magazine. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static kvpi_slot_pool *registry;
static atomic_uint_fast64_t last_pool_id, last_thread_number;

static pthread_once_t exit_once = PTHREAD_ONCE_INIT;
static pthread_key_t exit_key;
static bool has_exit_key;

/* Slow paths stay out of line: inlined, they make the fast ones save registers, 2 ns per pair. */
#define NOINLINE __attribute__((noinline))
#define FAST_TLS _Thread_local __attribute__((tls_model("initial-exec")))
static FAST_TLS uint64_t thread_number; /* 0: has none yet */
static FAST_TLS struct {
    uint64_t pool_id;
    magazine *magazine;
} cache[N_CACHED];

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* ---- depot: every function is called with pool->lock held ---- */

static size_t words_for(size_t n_bits)
{
    return (n_bits + 63) / 64;
}

static void mark_taken(kvpi_slot_pool *pool, size_t i)
{
    for (uint32_t k = 0; k < pool->n_levels; k++, i /= 64) {
        uint64_t *word = &pool->level[k][i / 64];
        *word |= UINT64_C(1) << (i % 64);
        if (*word != UINT64_MAX)
            break;
    }
}

static void mark_free(kvpi_slot_pool *pool, size_t i)
{
    for (uint32_t k = 0; k < pool->n_levels; k++, i /= 64) {
        uint64_t *word = &pool->level[k][i / 64];
        bool was_full = *word == UINT64_MAX;
        *word &= ~(UINT64_C(1) << (i % 64));
        if (!was_full)
            break;
    }
}

/* The lowest free slot; there is one. */
static uint32_t depot_take(kvpi_slot_pool *pool)
{
    assert(pool->n_depot > 0);
    size_t i = 0;
    for (uint32_t k = pool->n_levels; k-- > 0;)
        i = i * 64 + (size_t)__builtin_ctzll(~pool->level[k][i]);
    assert(i < pool->n_slots);
    mark_taken(pool, i);
    pool->n_depot--;
    return (uint32_t)i;
}

static void depot_give(kvpi_slot_pool *pool, uint32_t slot)
{
    assert(pool->level[0][slot / 64] >> (slot % 64) & 1); /* else it was given back twice */
    mark_free(pool, slot);
    pool->n_depot++;
}

/* ---- magazines ---- */

static inline void leave(magazine *m)
{
    atomic_store_explicit(&m->busy, 0, memory_order_release);
}

/* False, and not inside, while the magazine is frozen. */
static inline bool enter(const kvpi_slot_pool *pool, magazine *m)
{
    if (pool->has_membarrier) {
        atomic_store_explicit(&m->busy, 1, memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst); /* freeze() supplies the other CPUs' half */
    } else {
        atomic_exchange(&m->busy, 1);
    }
    if (atomic_load(&m->frozen) == 0)
        return true;
    leave(m);
    return false;
}

static inline uint32_t count(const magazine *m)
{
    return atomic_load_explicit(&m->n, memory_order_relaxed);
}

static inline void set_count(magazine *m, uint32_t n)
{
    atomic_store_explicit(&m->n, n, memory_order_relaxed);
}

/* Keep owners out of their magazines until thaw(). The caller's own needs none of it: the caller is
 * its owner, and here. */
static void freeze(kvpi_slot_pool *pool, const magazine *own)
{
    uint32_t n_others = pool->n_owners - (own ? 1 : 0);
    if (n_others == 0)
        return;
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        atomic_store(&pool->magazines[i].frozen, 1);
    if (pool->has_membarrier) {
        long rc = syscall(__NR_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
        assert(rc == 0); /* it was registered when the pool was opened */
        (void)rc;
    }
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        while (atomic_load(&pool->magazines[i].busy))
            sched_yield(); /* an owner stays inside for nanoseconds, unless it is descheduled */
}

static void thaw(kvpi_slot_pool *pool)
{
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        atomic_store_explicit(&pool->magazines[i].frozen, 0, memory_order_release);
}

/* Move the oldest slots of a magazine to the depot until `n_left` are left. */
static void flush(kvpi_slot_pool *pool, magazine *m, uint32_t n_left)
{
    uint32_t n = count(m);
    if (n <= n_left)
        return;
    uint32_t n_out = n - n_left;
    for (uint32_t i = 0; i < n_out; i++)
        depot_give(pool, m->slots[i]);
    memmove(m->slots, m->slots + n_out, n_left * sizeof m->slots[0]);
    set_count(m, n_left);
}

static void flush_all(kvpi_slot_pool *pool, uint32_t n_left)
{
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        flush(pool, &pool->magazines[i], n_left);
}

/* Put free slots into the caller's empty magazine, the lowest on top. The scarcer they are the
 * fewer are taken: what lies in a magazine costs others a drain. */
static void refill(kvpi_slot_pool *pool, magazine *own)
{
    uint32_t limit = atomic_load_explicit(&pool->limit, memory_order_relaxed);
    uint32_t n = min_u32(limit / 2, pool->n_depot / (2 * pool->n_owners));
    for (uint32_t i = n; i-- > 0;)
        own->slots[i] = depot_take(pool);
    set_count(own, n);
}

/* ---- owners ---- */

static void set_limit(kvpi_slot_pool *pool)
{
    uint32_t n_owners = pool->n_owners ? pool->n_owners : 1;
    uint32_t limit = min_u32(MAGAZINE_SLOTS, pool->n_slots / (MAGAZINE_SHARE * n_owners));
    atomic_store_explicit(&pool->limit, limit, memory_order_relaxed);
}

static magazine *find_magazine(kvpi_slot_pool *pool, uint64_t owner)
{
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        if (pool->owner[i] == owner)
            return &pool->magazines[i];
    return NULL;
}

static void leave_pool(kvpi_slot_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    magazine *m = find_magazine(pool, thread_number);
    if (m) {
        flush(pool, m, 0);
        pool->owner[m - pool->magazines] = 0;
        pool->n_owners--;
        set_limit(pool);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* A thread ends: its magazines go back to the pools that are still open. */
static void leave_pools(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&registry_lock);
    for (kvpi_slot_pool *pool = registry; pool; pool = pool->next)
        leave_pool(pool);
    pthread_mutex_unlock(&registry_lock);
    memset(cache, 0, sizeof cache);
}

static void make_exit_key(void)
{
    has_exit_key = pthread_key_create(&exit_key, leave_pools) == 0;
}

/* Threads may outlive the library, if a program unloads it. */
__attribute__((destructor)) static void delete_exit_key(void)
{
    if (has_exit_key)
        pthread_key_delete(exit_key);
}

/* A thread without an exit hook gets no magazine: its slots would be stranded when it ends. */
static bool prepare_thread(void)
{
    if (thread_number)
        return pthread_getspecific(exit_key) || pthread_setspecific(exit_key, cache) == 0;
    pthread_once(&exit_once, make_exit_key);
    if (!has_exit_key || pthread_setspecific(exit_key, cache))
        return false;
    thread_number = atomic_fetch_add(&last_thread_number, 1) + 1;
    return true;
}

static magazine *adopt_magazine(kvpi_slot_pool *pool)
{
    magazine *m = find_magazine(pool, 0);
    if (!m)
        return NULL;
    assert(count(m) == 0);
    pool->owner[m - pool->magazines] = thread_number;
    pool->n_owners++;
    set_limit(pool);
    /* Invariant 3: the others' share has shrunk. */
    freeze(pool, m);
    flush_all(pool, atomic_load_explicit(&pool->limit, memory_order_relaxed));
    thaw(pool);
    return m;
}

/* The caller's magazine, or NULL if it has to do without. Called with pool->lock held. */
static magazine *join(kvpi_slot_pool *pool)
{
    if (pool->n_magazines == 0 || !prepare_thread())
        return NULL;
    magazine *m = find_magazine(pool, thread_number);
    if (!m)
        m = adopt_magazine(pool);
    if (m) {
        cache[pool->id % N_CACHED].pool_id = pool->id;
        cache[pool->id % N_CACHED].magazine = m;
    }
    return m;
}

static inline magazine *cached_magazine(const kvpi_slot_pool *pool)
{
    size_t i = pool->id % N_CACHED;
    return cache[i].pool_id == pool->id ? cache[i].magazine : NULL;
}

/* ---- open and close ---- */

static uint32_t magazines_for(uint32_t n_slots)
{
    return min_u32(MAX_MAGAZINES, n_slots / (MAGAZINE_SHARE * MIN_MAGAZINE_SLOTS));
}

static size_t bitmap_words(uint32_t n_slots)
{
    size_t n_words = 0;
    for (size_t n = n_slots;; n = words_for(n)) {
        n_words += words_for(n);
        if (n <= 64)
            return n_words;
    }
}

size_t kvpi_slot_pool_bytes(uint32_t n_slots)
{
    return sizeof(kvpi_slot_pool) + magazines_for(n_slots) * sizeof(magazine) +
           bitmap_words(n_slots) * sizeof(uint64_t);
}

/* All free, but for the bits past the end of each level. */
static void init_depot(kvpi_slot_pool *pool, uint64_t *words)
{
    size_t n_bits = pool->n_slots;
    do {
        size_t n_words = words_for(n_bits);
        pool->level[pool->n_levels++] = words;
        if (n_bits % 64)
            words[n_words - 1] = UINT64_MAX << (n_bits % 64);
        words += n_words;
        n_bits = n_words;
    } while (n_bits > 1);
    pool->n_depot = pool->n_slots;
}

kvp_status kvpi_slot_pool_open(const kvp_mem *mem, uint32_t n_slots, kvpi_slot_pool **out)
{
    assert(n_slots >= 1 && n_slots < UINT32_MAX);
    kvpi_slot_pool *pool = NULL;
    kvp_status status = kvpi_alloc(mem, kvpi_slot_pool_bytes(n_slots), "a slot pool", &pool);
    if (status)
        return status;
    pool->id = atomic_fetch_add(&last_pool_id, 1) + 1;
    pool->mem = mem;
    pool->n_slots = n_slots;
    pool->n_magazines = magazines_for(n_slots);
    pool->magazines = (magazine *)(pool + 1);
    pool->has_membarrier =
        syscall(__NR_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
    init_depot(pool, (uint64_t *)(pool->magazines + pool->n_magazines));
    set_limit(pool);
    pthread_mutex_init(&pool->lock, NULL);

    pthread_mutex_lock(&registry_lock);
    pool->next = registry;
    registry = pool;
    pthread_mutex_unlock(&registry_lock);
    *out = pool;
    return KVP_OK;
}

void kvpi_slot_pool_close(kvpi_slot_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&registry_lock);
    kvpi_slot_pool **link = &registry;
    while (*link != pool)
        link = &(*link)->next;
    *link = pool->next;
    pthread_mutex_unlock(&registry_lock);
    pthread_mutex_destroy(&pool->lock);
    kvpi_free(pool->mem, pool, kvpi_slot_pool_bytes(pool->n_slots));
}

/* ---- alloc and free ---- */

/* From the caller's magazine or the depot. Called with pool->lock held. */
static bool take(kvpi_slot_pool *pool, magazine *own, uint32_t *slot)
{
    uint32_t n = own ? count(own) : 0;
    if (n > 0) {
        *slot = own->slots[n - 1];
        set_count(own, n - 1);
        return true;
    }
    if (pool->n_depot == 0)
        return false;
    *slot = depot_take(pool);
    if (own)
        refill(pool, own);
    return true;
}

static NOINLINE kvp_status alloc_slow(kvpi_slot_pool *pool, uint32_t *slot)
{
    pthread_mutex_lock(&pool->lock);
    magazine *own = join(pool);
    bool found = take(pool, own, slot);
    if (!found) {
        freeze(pool, own);
        flush_all(pool, 0);
        found = take(pool, own, slot);
        thaw(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return found ? KVP_OK : KVP_E_NOSPACE; /* an answer that reclaim waits for: no message */
}

kvp_status kvpi_slot_pool_alloc(kvpi_slot_pool *pool, uint32_t *slot)
{
    magazine *m = cached_magazine(pool);
    if (m && enter(pool, m)) {
        uint32_t n = count(m);
        if (n > 0) {
            *slot = m->slots[n - 1];
            set_count(m, n - 1);
        }
        leave(m);
        if (n > 0)
            return KVP_OK;
    }
    return alloc_slow(pool, slot);
}

static NOINLINE void free_slow(kvpi_slot_pool *pool, uint32_t slot)
{
    pthread_mutex_lock(&pool->lock);
    magazine *own = join(pool);
    if (own) {
        uint32_t limit = atomic_load_explicit(&pool->limit, memory_order_relaxed);
        if (count(own) >= limit)
            flush(pool, own, limit / 2);
        own->slots[count(own)] = slot;
        set_count(own, count(own) + 1);
    } else {
        depot_give(pool, slot);
    }
    pthread_mutex_unlock(&pool->lock);
}

void kvpi_slot_pool_free(kvpi_slot_pool *pool, uint32_t slot)
{
    assert(slot < pool->n_slots);
    magazine *m = cached_magazine(pool);
    if (m && enter(pool, m)) {
        uint32_t n = count(m);
        bool has_room = n < atomic_load_explicit(&pool->limit, memory_order_relaxed);
        if (has_room) {
            m->slots[n] = slot;
            set_count(m, n + 1);
        }
        leave(m);
        if (has_room)
            return;
    }
    free_slow(pool, slot);
}

uint32_t kvpi_slot_pool_n_free(const kvpi_slot_pool *pool)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&pool->lock; /* logically const */
    pthread_mutex_lock(lock);
    uint32_t n = pool->n_depot;
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        n += count(&pool->magazines[i]);
    pthread_mutex_unlock(lock);
    return n;
}
