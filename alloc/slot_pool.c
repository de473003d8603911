/* slot_pool.c - hands out slot numbers: per-thread magazines over a shared depot.
 *
 * Owns which slots are free, and nothing about what lies in them. The depot (slot_depot.c) is a
 * bitmap; magazines (slot_magazine.h) are small stacks in front of it, each with the slot that is
 * handed out next, the hot one, in a word of its own.
 *
 * Invariants
 *  1. A slot is in one place: with a caller, in one magazine, or free in the depot. The bitmap
 *     says "taken" of the first two.
 *  2. The stack of a magazine is touched only by its owner between enter and leave, by its
 *     owner holding pool->lock, or by the holder of pool->lock while the magazine is frozen.
 *  3. The hot slot is taken and put by the owner with a plain store, after which it looks at the
 *     epoch; others take it with an exchange, after they have made the epoch odd and waited for a
 *     membarrier(2). So if both were at it, the owner finds the epoch changed, and finds out under
 *     pool->lock who came first: `stolen` is what the other took, or what was put is still there.
 *  4. Together the magazines hold at most a sixteenth of the slots: each at most
 *     end / (16 * owners), its hot one included. A pool too small for that has none.
 *  5. "Full" is said only while all magazines are frozen and empty, and the depot is too.
 *  6. No magazine holds a slot at or above the end. While any is with a caller, magazines have no
 *     room at all, so that it is given back through the lock, where it is looked at.
 *
 * Enter and leave are a lock that favours the owner, and so is 3: the owner pays for a few
 * stores and a load, while whoever freezes a magazine pays for a membarrier, which makes all other
 * CPUs' stores visible. A plain spinlock's two atomic exchanges per pair cost three times as much
 * as everything else. Where membarrier(2) is forbidden there are no magazines.
 *
 * Lock order: registry_lock, pool->lock. Neither is taken between enter and leave. */
#define _GNU_SOURCE
#include "alloc/slot_pool.h"

#include "alloc/mem.h"
#include "alloc/slot_depot.h"

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
#define MIN_MAGAZINE_SLOTS 4u /* smaller ones would not earn their keep */
#define MAGAZINE_SHARE 16u    /* a sixteenth of the slots may be in magazines */
#define MAX_MAGAZINES 64u     /* threads beyond that use the depot */

struct kvpi_slot_pool {
    /* Constant after open, except for `limit`. */
    kvpi_slot_pool_top top;
    const kvp_mem *mem;
    uint32_t n_slots, n_magazines;
    atomic_uint limit;           /* slots per magazine */
    kvpi_magazine *magazines;    /* [n_magazines] */
    struct kvpi_slot_pool *next; /* in the registry */

    alignas(CACHE_LINE) pthread_mutex_t lock; /* guards what follows */
    kvpi_slot_depot depot;
    uint32_t n_owners;             /* magazines that have one */
    uint64_t owner[MAX_MAGAZINES]; /* thread number; 0: nobody's */
};

/* ---- threads ----
 * The registry lets a thread that ends find the pools in which it has a magazine. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static kvpi_slot_pool *registry;
static atomic_uint_fast64_t last_pool_id, last_thread_number;

static pthread_once_t exit_once = PTHREAD_ONCE_INIT;
static pthread_key_t exit_key;
static bool has_exit_key;

/* A slow path that is inlined makes the fast one save registers, 2 ns per pair. */
#define NOINLINE __attribute__((noinline))
#define FAST_TLS _Thread_local __attribute__((tls_model("initial-exec")))
static FAST_TLS uint64_t thread_number; /* 0: has none yet */
FAST_TLS kvpi_slot_memo kvpi_slot_memos[KVPI_SLOT_MEMOS];

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* ---- magazines ---- */

/* Keep owners out of their magazines until thaw(), but for `own`, which is the caller's. */
static void freeze(kvpi_slot_pool *pool, const kvpi_magazine *own)
{
    if (pool->n_owners - (own ? 1 : 0) == 0)
        return;
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        if (&pool->magazines[i] != own)
            atomic_fetch_add(&pool->magazines[i].epoch, 1);
    long rc = syscall(__NR_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
    assert(rc == 0); /* it was registered when the pool was opened */
    (void)rc;
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        while (atomic_load(&pool->magazines[i].busy))
            sched_yield(); /* an owner stays inside for nanoseconds, unless it is descheduled */
}

static void thaw(kvpi_slot_pool *pool)
{
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        if (kvpi_load(&pool->magazines[i].epoch) % 2)
            atomic_fetch_add(&pool->magazines[i].epoch, 1);
}

/* Put the hot slot on the stack, where there is room for it (invariant 4). */
static void cool(kvpi_slot_pool *pool, kvpi_magazine *m)
{
    uint32_t hot =
        atomic_exchange(&m->hot, kvpi_load(&pool->limit) ? KVPI_HOT_NONE : KVPI_HOT_CLOSED);
    if (hot >= KVPI_HOT_CLOSED)
        return;
    if (kvpi_load(&m->epoch) % 2)
        m->stolen = hot;
    m->slots[kvpi_load(&m->n)] = hot;
    kvpi_store(&m->n, kvpi_load(&m->n) + 1);
}

/* Move the oldest slots of a magazine to the depot until `n_left` are left. */
static void flush(kvpi_slot_pool *pool, kvpi_magazine *m, uint32_t n_left)
{
    cool(pool, m);
    uint32_t n = kvpi_load(&m->n), n_out = n > n_left ? n - n_left : 0;
    kvpi_slot_depot_give(&pool->depot, m->slots, n_out);
    memmove(m->slots, m->slots + n_out, (n - n_out) * sizeof m->slots[0]);
    kvpi_store(&m->n, n - n_out);
}

static void flush_all(kvpi_slot_pool *pool, uint32_t n_left)
{
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        flush(pool, &pool->magazines[i], n_left);
}

/* Put free slots into the caller's empty magazine, the lowest on top. The scarcer they are the
 * fewer are taken: what lies in a magazine costs others a drain. */
static void refill(kvpi_slot_pool *pool, kvpi_magazine *own)
{
    uint32_t n = min_u32(kvpi_load(&pool->limit) / 2, pool->depot.n_free / (2 * pool->n_owners));
    kvpi_slot_depot_take(&pool->depot, own->slots, n);
    kvpi_store(&own->n, n);
}

/* ---- owners ---- */

static void set_limit(kvpi_slot_pool *pool)
{
    uint32_t n_owners = pool->n_owners ? pool->n_owners : 1;
    uint32_t limit = min_u32(KVPI_MAGAZINE_SLOTS, pool->depot.end / (MAGAZINE_SHARE * n_owners));
    kvpi_store(&pool->limit, pool->depot.n_above ? 0 : limit); /* invariant 6 */
}

static kvpi_magazine *find_magazine(kvpi_slot_pool *pool, uint64_t owner)
{
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        if (pool->owner[i] == owner)
            return &pool->magazines[i];
    return NULL;
}

static void leave_pool(kvpi_slot_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    kvpi_magazine *m = find_magazine(pool, thread_number);
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
    memset(kvpi_slot_memos, 0, sizeof kvpi_slot_memos);
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
        return pthread_getspecific(exit_key) || pthread_setspecific(exit_key, kvpi_slot_memos) == 0;
    pthread_once(&exit_once, make_exit_key);
    if (!has_exit_key || pthread_setspecific(exit_key, kvpi_slot_memos))
        return false;
    thread_number = atomic_fetch_add(&last_thread_number, 1) + 1;
    return true;
}

static kvpi_magazine *adopt_magazine(kvpi_slot_pool *pool)
{
    kvpi_magazine *m = find_magazine(pool, 0);
    if (!m)
        return NULL;
    assert(kvpi_magazine_count(m) == 0);
    pool->owner[m - pool->magazines] = thread_number;
    pool->n_owners++;
    set_limit(pool);
    /* Invariant 4: the others' share has shrunk. Room is left for a hot slot. */
    uint32_t limit = kvpi_load(&pool->limit);
    freeze(pool, m);
    flush_all(pool, limit ? limit - 1 : 0);
    thaw(pool);
    return m;
}

/* The owner holds the lock: from here on it knows of all that was done to its magazine. */
static void catch_up(kvpi_slot_pool *pool, kvpi_magazine *own)
{
    uint32_t hot = kvpi_load(&own->hot);
    if (hot >= KVPI_HOT_CLOSED)
        kvpi_store(&own->hot, kvpi_load(&pool->limit) ? KVPI_HOT_NONE : KVPI_HOT_CLOSED);
    own->stolen = KVPI_HOT_NONE;
    kvpi_slot_memos[pool->top.id % KVPI_SLOT_MEMOS] =
        (kvpi_slot_memo){pool->top.id, own, kvpi_load(&own->epoch)};
}

/* The caller's magazine, or NULL if it has to do without. Called with pool->lock held. */
static kvpi_magazine *join(kvpi_slot_pool *pool)
{
    if (pool->n_magazines == 0 || !prepare_thread())
        return NULL;
    kvpi_magazine *m = find_magazine(pool, thread_number);
    if (!m)
        m = adopt_magazine(pool);
    if (m)
        catch_up(pool, m);
    return m;
}

/* ---- open and close ---- */

static uint32_t magazines_for(uint32_t n_slots)
{
    return min_u32(MAX_MAGAZINES, n_slots / (MAGAZINE_SHARE * MIN_MAGAZINE_SLOTS));
}

size_t kvpi_slot_pool_bytes(uint32_t n_slots)
{
    return sizeof(kvpi_slot_pool) + magazines_for(n_slots) * sizeof(kvpi_magazine) +
           kvpi_slot_depot_words(n_slots) * sizeof(uint64_t);
}

kvp_status kvpi_slot_pool_open(const kvp_mem *mem, uint32_t n_slots, kvpi_slot_pool **out)
{
    assert(n_slots >= 1 && n_slots < UINT32_MAX);
    kvpi_slot_pool *pool = NULL;
    kvp_status status = kvpi_alloc(mem, kvpi_slot_pool_bytes(n_slots), "a slot pool", &pool);
    if (status)
        return status;
    pool->top.id = atomic_fetch_add(&last_pool_id, 1) + 1;
    pool->top.memo_offset = pool->top.id % KVPI_SLOT_MEMOS * sizeof(kvpi_slot_memo);
    pool->mem = mem;
    pool->n_slots = n_slots;
    if (syscall(__NR_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0)
        pool->n_magazines = magazines_for(n_slots);
    pool->magazines = (kvpi_magazine *)(pool + 1);
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        kvpi_store(&pool->magazines[i].hot, KVPI_HOT_NONE);
    kvpi_slot_depot_init(&pool->depot, n_slots,
                         (uint64_t *)(pool->magazines + magazines_for(n_slots)));
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
static uint32_t take(kvpi_slot_pool *pool, kvpi_magazine *own)
{
    if (own) {
        cool(pool, own);
        uint32_t slot = kvpi_magazine_pop(own);
        if (slot != KVPI_NO_SLOT)
            return slot;
    }
    if (pool->depot.n_free == 0)
        return KVPI_NO_SLOT;
    uint32_t slot;
    kvpi_slot_depot_take(&pool->depot, &slot, 1);
    if (own)
        refill(pool, own);
    return slot;
}

static NOINLINE uint32_t alloc_slow(kvpi_slot_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    kvpi_magazine *own = join(pool);
    uint32_t slot = take(pool, own);
    if (slot == KVPI_NO_SLOT) {
        freeze(pool, own);
        flush_all(pool, 0);
        slot = take(pool, own);
        thaw(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return slot;
}

uint32_t kvpi_slot_alloc_disturbed(kvpi_slot_pool *pool, uint32_t slot)
{
    pthread_mutex_lock(&pool->lock);
    kvpi_magazine *own = find_magazine(pool, thread_number);
    bool was_stolen = own->stolen == slot;
    catch_up(pool, own);
    pthread_mutex_unlock(&pool->lock);
    return was_stolen ? alloc_slow(pool) : slot;
}

uint32_t kvpi_slot_alloc_rest(kvpi_slot_pool *pool, const kvpi_slot_memo *memo)
{
    if (memo && KVPI_LIKELY(kvpi_magazine_enter(memo))) {
        uint32_t slot = kvpi_magazine_pop(memo->magazine);
        kvpi_magazine_leave(memo->magazine);
        if (KVPI_LIKELY(slot != KVPI_NO_SLOT))
            return slot;
    }
    return alloc_slow(pool);
}

/* Into the caller's magazine or the depot. Called with pool->lock held. */
static void put(kvpi_slot_pool *pool, kvpi_magazine *own, uint32_t slot)
{
    uint32_t limit = kvpi_load(&pool->limit);
    if (own && limit > 0) {
        if (kvpi_magazine_count(own) >= limit)
            flush(pool, own, limit / 2);
        cool(pool, own);
        kvpi_store(&own->hot, slot);
        return;
    }
    kvpi_slot_depot_give(&pool->depot, &slot, 1);
    if (limit == 0)
        set_limit(pool); /* it may have been the last above the end */
}

static NOINLINE void free_slow(kvpi_slot_pool *pool, uint32_t slot)
{
    pthread_mutex_lock(&pool->lock);
    put(pool, join(pool), slot);
    pthread_mutex_unlock(&pool->lock);
}

void kvpi_slot_free_disturbed(kvpi_slot_pool *pool, uint32_t slot)
{
    pthread_mutex_lock(&pool->lock);
    kvpi_magazine *own = find_magazine(pool, thread_number);
    bool is_here = kvpi_load(&own->hot) == slot; /* else it was put in time to be taken */
    if (is_here)
        kvpi_store(&own->hot, KVPI_HOT_NONE);
    catch_up(pool, own);
    if (is_here)
        put(pool, own, slot);
    pthread_mutex_unlock(&pool->lock);
}

void kvpi_slot_free_rest(kvpi_slot_pool *pool, const kvpi_slot_memo *memo, uint32_t slot)
{
    assert(slot < pool->n_slots);
    if (memo && KVPI_LIKELY(kvpi_magazine_enter(memo))) {
        bool was_pushed = kvpi_magazine_push(memo->magazine, slot, kvpi_load(&pool->limit));
        kvpi_magazine_leave(memo->magazine);
        if (KVPI_LIKELY(was_pushed))
            return;
    }
    free_slow(pool, slot);
}

/* ---- the end ---- */

void kvpi_slot_pool_set_end(kvpi_slot_pool *pool, uint32_t end)
{
    pthread_mutex_lock(&pool->lock);
    freeze(pool, NULL);
    kvpi_store(&pool->limit,
               0); /* what is flushed now is closed; owners open it when they catch up */
    flush_all(pool, 0);
    kvpi_slot_depot_set_end(&pool->depot, end);
    set_limit(pool);
    thaw(pool);
    pthread_mutex_unlock(&pool->lock);
}

static pthread_mutex_t *lock_of(const kvpi_slot_pool *pool)
{
    return (pthread_mutex_t *)(uintptr_t)&pool->lock; /* logically const */
}

uint32_t kvpi_slot_pool_n_free(const kvpi_slot_pool *pool)
{
    pthread_mutex_lock(lock_of(pool));
    uint32_t n = pool->depot.n_free;
    for (uint32_t i = 0; i < pool->n_magazines; i++)
        n += kvpi_magazine_count(&pool->magazines[i]);
    pthread_mutex_unlock(lock_of(pool));
    return n;
}

uint32_t kvpi_slot_pool_n_above(const kvpi_slot_pool *pool)
{
    pthread_mutex_lock(lock_of(pool));
    uint32_t n = pool->depot.n_above;
    pthread_mutex_unlock(lock_of(pool));
    return n;
}
