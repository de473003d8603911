/* test_slot_pool.c - the slot allocator: against a set kept by hand, and between threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "alloc/slot_pool.h"
#include "tests/support/child.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static kvpi_slot_pool *open_pool(uint32_t n_slots)
{
    kvpi_slot_pool *pool;
    assert_int_equal(kvpi_slot_pool_open(&kvpi_mem_default, n_slots, &pool), KVP_OK);
    assert_int_equal(kvpi_slot_pool_n_free(pool), n_slots);
    return pool;
}

static uint32_t alloc_slot(kvpi_slot_pool *pool)
{
    uint32_t slot = kvpi_slot_pool_alloc(pool);
    assert_int_not_equal(slot, KVPI_NO_SLOT);
    return slot;
}

static void run_thread(void *(*body)(void *), void *arg)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, body, arg), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* ---- one thread ---- */

static void shuffle(uint32_t *items, uint32_t n, uint64_t *seed)
{
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = (uint32_t)(next_random(seed) % i), item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}

static void test_fresh_pool_hands_out_every_slot_in_order(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 3, 63, 64, 65, 128, 1000, 4096, 4097, 300000};
    uint64_t seed = 42;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        uint32_t n = sizes[k], slot;
        kvpi_slot_pool *pool = open_pool(n);
        uint32_t *held = malloc(n * sizeof *held);
        for (uint32_t i = 0; i < n; i++) {
            held[i] = alloc_slot(pool);
            assert_int_equal(held[i], i);
        }
        assert_int_equal(kvpi_slot_pool_alloc(pool), KVPI_NO_SLOT);
        assert_int_equal(kvpi_slot_pool_n_free(pool), 0);

        shuffle(held, n, &seed);
        for (uint32_t i = 0; i < n; i++)
            kvpi_slot_pool_free(pool, held[i]);
        assert_int_equal(kvpi_slot_pool_n_free(pool), n);
        bool *seen = calloc(n, sizeof *seen);
        for (uint32_t i = 0; i < n; i++) {
            slot = alloc_slot(pool);
            assert_true(slot < n);
            assert_false(seen[slot]);
            seen[slot] = true;
        }
        assert_int_equal(kvpi_slot_pool_alloc(pool), KVPI_NO_SLOT);
        free(seen);
        free(held);
        kvpi_slot_pool_close(pool);
    }
}

/* A set kept by hand, biased now towards full, now towards empty. */
static void check_random_operations(uint32_t n_slots, uint64_t seed)
{
    kvpi_slot_pool *pool = open_pool(n_slots);
    bool *is_held = calloc(n_slots, sizeof *is_held);
    uint32_t *held = malloc(n_slots * sizeof *held), n_held = 0, n_full = 0;
    for (uint32_t step = 0; step < 100000; step++) {
        uint64_t r = next_random(&seed);
        bool want_alloc = r % 100 < (step / 2000 % 2 ? 30u : 70u);
        uint32_t slot = UINT32_MAX;
        if (want_alloc) {
            slot = kvpi_slot_pool_alloc(pool);
            assert_int_equal(slot == KVPI_NO_SLOT, n_held == n_slots);
            n_full += slot == KVPI_NO_SLOT;
            if (slot == KVPI_NO_SLOT)
                continue;
            assert_true(slot < n_slots && !is_held[slot]);
            is_held[slot] = true;
            held[n_held++] = slot;
        } else if (n_held > 0) {
            uint32_t i = (uint32_t)(r >> 32) % n_held;
            slot = held[i];
            held[i] = held[--n_held];
            is_held[slot] = false;
            kvpi_slot_pool_free(pool, slot);
        }
        assert_int_equal(kvpi_slot_pool_n_free(pool), n_slots - n_held);
    }
    if (n_slots <= 500)
        assert_true(n_full > 0);
    free(held);
    free(is_held);
    kvpi_slot_pool_close(pool);
}

static void test_random_operations_match_a_set(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 3, 64, 65, 500, 20000};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++)
        for (uint64_t seed = 1; seed <= 2; seed++) {
            print_message("n_slots %u seed %u\n", sizes[k], (unsigned)seed);
            check_random_operations(sizes[k], seed);
        }
}

/* More pools than a thread remembers the magazines of. */
static void test_many_pools_in_one_thread_stay_apart(void **state)
{
    (void)state;
    enum { N_POOLS = 11, N_SLOTS = 200 };
    kvpi_slot_pool *pools[N_POOLS];
    for (int p = 0; p < N_POOLS; p++)
        pools[p] = open_pool(N_SLOTS);
    for (uint32_t i = 0; i < N_SLOTS; i++)
        for (int p = 0; p < N_POOLS; p++)
            assert_int_equal(alloc_slot(pools[p]), i);
    for (int p = 0; p < N_POOLS; p++) {
        assert_int_equal(kvpi_slot_pool_alloc(pools[p]), KVPI_NO_SLOT);
        kvpi_slot_pool_free(pools[p], (uint32_t)p);
        assert_int_equal(kvpi_slot_pool_n_free(pools[p]), 1);
        assert_int_equal(alloc_slot(pools[p]), p);
        kvpi_slot_pool_close(pools[p]);
    }
    kvpi_slot_pool_close(NULL);
}

/* ---- memory ---- */

static size_t asked_bytes, given_bytes;

static void *counting_alloc(void *opaque, size_t n, size_t align)
{
    asked_bytes += n;
    return opaque ? NULL : kvpi_mem_default.alloc(NULL, n, align);
}

static void counting_free(void *opaque, void *p, size_t n)
{
    (void)opaque;
    given_bytes += n;
    kvpi_mem_default.free(NULL, p, n);
}

static void test_bookkeeping_is_what_was_promised(void **state)
{
    (void)state;
    const kvp_mem counting = {.alloc = counting_alloc, .free = counting_free};
    static const uint32_t sizes[] = {1, 16, 64, 1024, 1u << 22};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        kvpi_slot_pool *pool;
        asked_bytes = given_bytes = 0;
        assert_int_equal(kvpi_slot_pool_open(&counting, sizes[k], &pool), KVP_OK);
        assert_int_equal(asked_bytes, kvpi_slot_pool_bytes(sizes[k]));
        kvpi_slot_pool_free(pool, alloc_slot(pool));
        kvpi_slot_pool_close(pool);
        assert_int_equal(asked_bytes, given_bytes);
    }
    assert_true(kvpi_slot_pool_bytes(1) <= 1024);
    assert_true(kvpi_slot_pool_bytes(1u << 22) <= (1u << 22) / 8 * 21 / 20 + 20000);
}

static void test_no_memory_is_reported(void **state)
{
    (void)state;
    kvp_mem none = {.alloc = counting_alloc, .free = counting_free, .opaque = &none};
    kvpi_slot_pool *pool = NULL;
    assert_int_equal(kvpi_slot_pool_open(&none, 100, &pool), KVP_E_NOMEM);
    assert_null(pool);
    assert_non_null(strstr(kvp_error(), "slot pool"));
}

/* ---- threads ---- */

enum { N_THREADS = 8 };

/* `n_contested` of the slots are free; a permit is taken around each that a thread holds, so
 * whoever has one may not be told "full". `owner` shows that no two have the same slot. */
typedef struct contest {
    kvpi_slot_pool *pool;
    uint32_t n_slots, max_held, n_rounds;
    sem_t permits;
    pthread_barrier_t start;
    atomic_uint *owner; /* [n_slots], 0: nobody */
    atomic_uint n_false_full, n_shared, n_contended;
} contest;

typedef struct contestant {
    contest *c;
    unsigned number; /* from 1 */
} contestant;

static void drop(contest *c, uint32_t slot, unsigned me)
{
    unsigned expected = me;
    if (!atomic_compare_exchange_strong(&c->owner[slot], &expected, 0))
        atomic_fetch_add(&c->n_shared, 1);
    kvpi_slot_pool_free(c->pool, slot);
    sem_post(&c->permits);
}

/* A permit; false: none there, and the caller holds slots that others may wait for. */
static bool get_permit(contest *c, bool may_wait)
{
    if (sem_trywait(&c->permits) == 0)
        return true;
    atomic_fetch_add(&c->n_contended, 1);
    return may_wait && sem_wait(&c->permits) == 0;
}

static void *contend(void *arg)
{
    contest *c = ((contestant *)arg)->c;
    unsigned me = ((contestant *)arg)->number;
    uint64_t seed = me;
    uint32_t *held = malloc(c->max_held * sizeof *held), n_held = 0;
    pthread_barrier_wait(&c->start);
    for (uint32_t round = 0; round < c->n_rounds; round++) {
        uint64_t r = next_random(&seed);
        if (n_held < c->max_held && (n_held == 0 || r % 3) && get_permit(c, n_held == 0)) {
            uint32_t slot = kvpi_slot_pool_alloc(c->pool);
            unsigned expected = 0;
            if (slot == KVPI_NO_SLOT) {
                atomic_fetch_add(&c->n_false_full, 1);
                sem_post(&c->permits);
                continue;
            }
            if (!atomic_compare_exchange_strong(&c->owner[slot], &expected, me))
                atomic_fetch_add(&c->n_shared, 1);
            held[n_held++] = slot;
        } else if (n_held > 0) {
            uint32_t i = (uint32_t)(r >> 32) % n_held;
            drop(c, held[i], me);
            held[i] = held[--n_held];
        }
        if (r >> 60 == 0)
            sched_yield(); /* with slots in hand, so that others run into it */
    }
    while (n_held > 0)
        drop(c, held[--n_held], me);
    free(held);
    return NULL;
}

static void run_contest(uint32_t n_slots, uint32_t n_contested, uint32_t max_held)
{
    contest c = {.pool = open_pool(n_slots),
                 .n_slots = n_slots,
                 .max_held = max_held,
                 .n_rounds = 10000,
                 .owner = calloc(n_slots, sizeof(atomic_uint))};
    for (uint32_t i = 0; i < n_slots - n_contested; i++)
        assert_int_equal(alloc_slot(c.pool), i);
    sem_init(&c.permits, 0, n_contested);
    pthread_barrier_init(&c.start, NULL, N_THREADS);
    pthread_t threads[N_THREADS];
    contestant who[N_THREADS];
    for (unsigned i = 0; i < N_THREADS; i++) {
        who[i] = (contestant){&c, i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, contend, &who[i]), 0);
    }
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&c.n_false_full), 0);
    assert_int_equal(atomic_load(&c.n_shared), 0);
    assert_true(atomic_load(&c.n_contended) > 0); /* all contested slots were in use at times */
    /* All threads are gone: nothing is stranded. */
    assert_int_equal(kvpi_slot_pool_n_free(c.pool), n_contested);
    for (uint32_t i = n_slots - n_contested; i < n_slots; i++)
        assert_int_equal(alloc_slot(c.pool), i);
    sem_destroy(&c.permits);
    pthread_barrier_destroy(&c.start);
    free(c.owner);
    kvpi_slot_pool_close(c.pool);
}

static void test_three_slots_and_eight_threads_are_never_falsely_full(void **state)
{
    (void)state;
    run_contest(3, 3, 1);
    run_contest(3, 3, 2);
}

/* Large enough for magazines: "full" means taking from those of all others. */
static void test_full_pool_with_magazines_is_never_falsely_full(void **state)
{
    (void)state;
    run_contest(64, 3, 1);
    run_contest(1024, 3, 1);
    run_contest(1024, 40, 20);
}

/* A number for which a single owner's magazine ends up fuller than two owners' may be. */
enum { N_SHARED = 1040 };

static void *alloc_all_free_backwards(void *arg)
{
    kvpi_slot_pool *pool = arg;
    for (uint32_t i = 0; i < N_SHARED; i++)
        alloc_slot(pool);
    for (uint32_t i = N_SHARED; i-- > 0;)
        kvpi_slot_pool_free(pool, i);
    return NULL;
}

static void *store_first(void *arg)
{
    void **args = arg;
    *(uint32_t *)args[1] = alloc_slot(args[0]);
    kvpi_slot_pool_free(args[0], *(uint32_t *)args[1]);
    return NULL;
}

/* Slots go to others lowest first, and this thread's magazine has the lowest: where the other's
 * begin shows how many that are. */
static void test_magazines_hold_at_most_their_share(void **state)
{
    (void)state;
    kvpi_slot_pool *pool = open_pool(N_SHARED);
    uint32_t first = UINT32_MAX;
    alloc_all_free_backwards(pool);
    run_thread(store_first, (void *[]){pool, &first});
    assert_in_range(first, 1, N_SHARED / (16 * 2));
    kvpi_slot_pool_close(pool);
}

static void test_ending_thread_gives_its_magazine_back(void **state)
{
    (void)state;
    kvpi_slot_pool *pool = open_pool(N_SHARED);
    run_thread(alloc_all_free_backwards, pool);
    for (uint32_t i = 0; i < N_SHARED; i++)
        assert_int_equal(alloc_slot(pool), i);
    kvpi_slot_pool_close(pool);
}

typedef struct outliving {
    kvpi_slot_pool *pool;
    sem_t used, go_on;
} outliving;

static void *use_twice(void *arg)
{
    outliving *o = arg;
    for (int i = 0; i < 2; i++) {
        kvpi_slot_pool_free(o->pool, alloc_slot(o->pool));
        sem_post(&o->used);
        sem_wait(&o->go_on);
    }
    return NULL;
}

static void test_thread_outlives_a_pool(void **state)
{
    (void)state;
    outliving o = {.pool = open_pool(1024)};
    pthread_t thread;
    sem_init(&o.used, 0, 0);
    sem_init(&o.go_on, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, use_twice, &o), 0);
    sem_wait(&o.used);
    kvpi_slot_pool_close(o.pool); /* the thread has a magazine in it */
    o.pool = open_pool(1024);     /* perhaps at the same address */
    sem_post(&o.go_on);
    sem_wait(&o.used);
    sem_post(&o.go_on);
    pthread_join(thread, NULL);
    assert_int_equal(kvpi_slot_pool_n_free(o.pool), 1024);
    for (uint32_t i = 0; i < 1024; i++)
        assert_int_equal(alloc_slot(o.pool), i);
    kvpi_slot_pool_close(o.pool);
    sem_destroy(&o.used);
    sem_destroy(&o.go_on);
}

static void *fill_and_wait(void *arg)
{
    void **args = arg;
    kvpi_slot_pool *pool = args[0];
    uint32_t slots[8];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 8; i++)
            slots[i] = alloc_slot(pool);
        for (int i = 0; i < 8; i++)
            kvpi_slot_pool_free(pool, slots[i]);
    }
    pthread_barrier_wait(args[1]); /* all of them alive at once */
    return NULL;
}

static void test_more_threads_than_magazines_all_get_slots(void **state)
{
    (void)state;
    enum { N = 80 };
    kvpi_slot_pool *pool = open_pool(4096); /* 64 magazines */
    pthread_barrier_t barrier;
    pthread_t threads[N];
    pthread_barrier_init(&barrier, NULL, N + 1);
    void *args[] = {pool, &barrier};
    for (int i = 0; i < N; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fill_and_wait, args), 0);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(kvpi_slot_pool_n_free(pool), 4096);
    for (uint32_t i = 0; i < 4096; i++)
        assert_int_equal(alloc_slot(pool), i);
    pthread_barrier_destroy(&barrier);
    kvpi_slot_pool_close(pool);
}

/* In a child: containers may forbid membarrier(2), and then there are no magazines. */
static int contend_without_membarrier(void *unused)
{
    (void)unused;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_pool_with_magazines_is_never_falsely_full),
        cmocka_unit_test(test_thread_outlives_a_pool),
    };
    if (!child_deny_syscall(__NR_membarrier, EPERM) ||
        syscall(__NR_membarrier, 0 /* query */, 0, 0) != -1)
        return 2;
    return cmocka_run_group_tests_name("without membarrier", tests, NULL, NULL) != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fresh_pool_hands_out_every_slot_in_order),
        cmocka_unit_test(test_random_operations_match_a_set),
        cmocka_unit_test(test_many_pools_in_one_thread_stay_apart),
        cmocka_unit_test(test_bookkeeping_is_what_was_promised),
        cmocka_unit_test(test_no_memory_is_reported),
        cmocka_unit_test(test_three_slots_and_eight_threads_are_never_falsely_full),
        cmocka_unit_test(test_full_pool_with_magazines_is_never_falsely_full),
        cmocka_unit_test(test_magazines_hold_at_most_their_share),
        cmocka_unit_test(test_ending_thread_gives_its_magazine_back),
        cmocka_unit_test(test_thread_outlives_a_pool),
        cmocka_unit_test(test_more_threads_than_magazines_all_get_slots),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    return child_run(contend_without_membarrier, NULL) != 0 || n_failed != 0;
}
