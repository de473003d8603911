/* test_slot_pool_end.c - the slot allocator when its end moves, and what else freezes magazines:
 * none of it may lose a slot, hand one out twice or hand out one beyond the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "alloc/slot_pool.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

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
    return pool;
}

/* ---- one thread ---- */

typedef struct held_slots {
    uint32_t *slots, n;
    bool *is_held; /* [n_slots] */
} held_slots;

static void hold(held_slots *h, uint32_t slot)
{
    assert_false(h->is_held[slot]);
    h->is_held[slot] = true;
    h->slots[h->n++] = slot;
}

static uint32_t release(held_slots *h, uint32_t i)
{
    uint32_t slot = h->slots[i];
    h->slots[i] = h->slots[--h->n];
    h->is_held[slot] = false;
    return slot;
}

static uint32_t count_above(const held_slots *h, uint32_t end)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < h->n; i++)
        n += h->slots[i] >= end;
    return n;
}

static void test_random_ends_match_a_set(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 64, 500, 1500, 5000};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        uint32_t n_slots = sizes[k], end = n_slots, n_full = 0, n_drained = 0;
        uint64_t seed = 99 + k;
        kvpi_slot_pool *pool = open_pool(n_slots);
        held_slots h = {calloc(n_slots, sizeof(uint32_t)), 0, calloc(n_slots, sizeof(bool))};
        for (uint32_t step = 0; step < 60000; step++) {
            uint64_t r = next_random(&seed);
            if (r % 500 == 0) {
                end = 1 + (uint32_t)(r >> 32) % n_slots;
                kvpi_slot_pool_set_end(pool, end);
            } else if (r % 100 < (step / 4000 % 2 ? 25u : 75u)) {
                uint32_t slot = kvpi_slot_pool_alloc(pool);
                bool is_full = h.n - count_above(&h, end) == end;
                assert_int_equal(slot == KVPI_NO_SLOT, is_full);
                n_full += is_full;
                if (is_full)
                    continue;
                assert_true(slot < end);
                hold(&h, slot);
            } else if (h.n > 0) {
                bool was_above = count_above(&h, end) > 0;
                kvpi_slot_pool_free(pool, release(&h, (uint32_t)(r >> 32) % h.n));
                n_drained += was_above && count_above(&h, end) == 0;
            }
            if (step % 64 == 0) {
                assert_int_equal(kvpi_slot_pool_n_above(pool), count_above(&h, end));
                assert_int_equal(kvpi_slot_pool_n_free(pool), end - (h.n - count_above(&h, end)));
            }
        }
        assert_true(n_full > 0 && (n_drained > 0 || n_slots == 1));
        free(h.slots);
        free(h.is_held);
        kvpi_slot_pool_close(pool);
    }
}

/* What a thread gets one after the other are neighbours, also when another takes turns with it. */
typedef struct turns {
    kvpi_slot_pool *pool;
    sem_t mine, theirs;
    uint32_t n;
} turns;

static uint32_t alloc_in_turns(kvpi_slot_pool *pool, sem_t *wait, sem_t *wake, uint32_t n)
{
    uint32_t last = KVPI_NO_SLOT - 1, n_neighbours = 0;
    for (uint32_t i = 0; i < n; i++) {
        sem_wait(wait);
        uint32_t slot = kvpi_slot_pool_alloc(pool);
        n_neighbours += slot == last + 1;
        last = slot;
        sem_post(wake);
    }
    return n_neighbours;
}

static void *take_turns(void *arg)
{
    turns *t = arg;
    return (void *)(uintptr_t)alloc_in_turns(t->pool, &t->theirs, &t->mine, t->n);
}

static void test_slots_of_each_thread_are_neighbours(void **state)
{
    (void)state;
    turns t = {.pool = open_pool(4096), .n = 600};
    pthread_t thread;
    void *theirs;
    sem_init(&t.mine, 0, 1);
    sem_init(&t.theirs, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, take_turns, &t), 0);
    uint32_t mine = alloc_in_turns(t.pool, &t.mine, &t.theirs, t.n);
    pthread_join(thread, &theirs);
    assert_in_range(mine, t.n * 9 / 10, t.n);
    assert_in_range((uintptr_t)theirs, t.n * 9 / 10, t.n);
    sem_destroy(&t.mine);
    sem_destroy(&t.theirs);
    kvpi_slot_pool_close(t.pool);
}

static void test_after_a_long_run_slots_are_neighbours_again(void **state)
{
    (void)state;
    enum { N = 4096 };
    static uint32_t held[N];
    kvpi_slot_pool *pool = open_pool(N);
    uint64_t seed = 5;
    for (uint32_t i = 0; i < N; i++)
        held[i] = kvpi_slot_pool_alloc(pool);
    for (uint32_t step = 0; step < 100000; step++) {
        uint32_t *slot = &held[next_random(&seed) % N];
        kvpi_slot_pool_free(pool, *slot);
        *slot = kvpi_slot_pool_alloc(pool);
        uint32_t other = (uint32_t)(next_random(&seed) % N), swap = *slot;
        *slot = held[other];
        held[other] = swap;
    }
    for (uint32_t i = 0; i < N; i++)
        kvpi_slot_pool_free(pool, held[i]);
    uint32_t n_neighbours = 0, last = kvpi_slot_pool_alloc(pool);
    for (uint32_t i = 1; i < N / 2; i++) {
        uint32_t slot = kvpi_slot_pool_alloc(pool);
        n_neighbours += slot == last + 1;
        last = slot;
    }
    assert_in_range(n_neighbours, N / 2 * 9 / 10, N / 2);
    kvpi_slot_pool_close(pool);
}

/* ---- threads ---- */

typedef struct parked {
    kvpi_slot_pool *pool;
    sem_t is_parked, go_on;
    uint32_t in_hand;
} parked;

/* With slots in its magazine, and one in hand. */
static void *fill_magazine_and_park(void *arg)
{
    parked *p = arg;
    uint32_t slots[40];
    for (int i = 0; i < 40; i++)
        slots[i] = kvpi_slot_pool_alloc(p->pool);
    for (int i = 1; i < 40; i++)
        kvpi_slot_pool_free(p->pool, slots[i]);
    p->in_hand = slots[0];
    sem_post(&p->is_parked);
    sem_wait(&p->go_on);
    kvpi_slot_pool_free(p->pool, kvpi_slot_pool_alloc(p->pool)); /* the magazine was emptied */
    kvpi_slot_pool_free(p->pool, slots[0]);
    return NULL;
}

static void test_slots_in_a_parked_threads_magazine_are_found(void **state)
{
    (void)state;
    enum { N = 2048 };
    parked p = {.pool = open_pool(N)};
    bool seen[N] = {false};
    pthread_t thread;
    sem_init(&p.is_parked, 0, 0);
    sem_init(&p.go_on, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, fill_magazine_and_park, &p), 0);
    sem_wait(&p.is_parked);
    assert_int_equal(kvpi_slot_pool_n_free(p.pool), N - 1);
    for (int i = 0; i < N - 1; i++) {
        uint32_t slot = kvpi_slot_pool_alloc(p.pool);
        assert_true(slot < N && slot != p.in_hand && !seen[slot]);
        seen[slot] = true;
    }
    assert_int_equal(kvpi_slot_pool_alloc(p.pool), KVPI_NO_SLOT);
    kvpi_slot_pool_free(p.pool, p.in_hand == 0 ? 1 : 0); /* one for the thread to find */
    sem_post(&p.go_on);
    pthread_join(thread, NULL);
    assert_int_equal(kvpi_slot_pool_n_free(p.pool), 2);
    sem_destroy(&p.is_parked);
    sem_destroy(&p.go_on);
    kvpi_slot_pool_close(p.pool);
}

/* Threads that hold few slots for a moment, marking each as theirs, while the test freezes their
 * magazines again and again. */
enum { N_SLOTS = 1024, N_THREADS = 3 };

typedef struct arena {
    kvpi_slot_pool *pool;
    atomic_uint owner[N_SLOTS]; /* 0: nobody */
    atomic_uint seen_end;       /* set before it grows and after it has shrunk */
    atomic_uint n_changes;      /* of it */
    atomic_bool is_over;
    atomic_uint n_shared, n_beyond, n_checked;
    uint32_t max_held;
} arena;

static void mark(arena *a, uint32_t slot, unsigned from, unsigned to)
{
    if (!atomic_compare_exchange_strong(&a->owner[slot], &from, to))
        atomic_fetch_add(&a->n_shared, 1);
}

/* A slot, which is below the end if that has not changed meanwhile. */
static uint32_t alloc_checked(arena *a)
{
    unsigned n_changes = atomic_load(&a->n_changes);
    uint32_t slot = kvpi_slot_pool_alloc(a->pool);
    bool is_settled = n_changes % 2 == 0 && atomic_load(&a->n_changes) == n_changes;
    if (slot != KVPI_NO_SLOT && is_settled) {
        atomic_fetch_add(&a->n_checked, 1);
        if (slot >= atomic_load(&a->seen_end) && atomic_load(&a->n_changes) == n_changes)
            atomic_fetch_add(&a->n_beyond, 1);
    }
    return slot;
}

static void *hold_for_a_moment(void *arg)
{
    arena *a = arg;
    static atomic_uint last_number;
    unsigned me = atomic_fetch_add(&last_number, 1) + 1000;
    uint32_t held[N_SLOTS / 4], n_held = 0;
    uint64_t seed = me;
    while (!atomic_load(&a->is_over)) {
        if (n_held < a->max_held && (n_held == 0 || next_random(&seed) % 2)) {
            uint32_t slot = alloc_checked(a);
            if (slot == KVPI_NO_SLOT)
                continue;
            mark(a, slot, 0, me);
            held[n_held++] = slot;
        } else {
            mark(a, held[--n_held], me, 0);
            kvpi_slot_pool_free(a->pool, held[n_held]);
        }
    }
    while (n_held > 0) {
        mark(a, held[--n_held], me, 0);
        kvpi_slot_pool_free(a->pool, held[n_held]);
    }
    return NULL;
}

/* Move the end `n` times between the two; after each, take what is lowest now: what a thread
 * believes to hold would be among it, had it been taken from under its hands. */
static void move_end(arena *a, uint32_t n, uint32_t low, uint32_t high)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end = i % 2 ? high : low, slots[4], n_slots = 0;
        atomic_fetch_add(&a->n_changes, 1);
        kvpi_slot_pool_set_end(a->pool, end);
        atomic_store(&a->seen_end, end);
        atomic_fetch_add(&a->n_changes, 1);
        for (; n_slots < 4; n_slots++) {
            slots[n_slots] = kvpi_slot_pool_alloc(a->pool);
            if (slots[n_slots] == KVPI_NO_SLOT)
                break;
            if (slots[n_slots] >= end)
                atomic_fetch_add(&a->n_beyond, 1);
            mark(a, slots[n_slots], 0, 1);
        }
        if (i % 64 == 0)
            sched_yield(); /* with slots in hand */
        while (n_slots > 0) {
            mark(a, slots[--n_slots], 1, 0);
            kvpi_slot_pool_free(a->pool, slots[n_slots]);
        }
    }
}

static void run_arena(uint32_t max_held, uint32_t n_moves, uint32_t low, uint32_t high)
{
    arena *a = calloc(1, sizeof *a);
    a->pool = open_pool(N_SLOTS);
    a->max_held = max_held;
    a->seen_end = N_SLOTS;
    pthread_t threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hold_for_a_moment, a), 0);
    move_end(a, n_moves, low, high);
    atomic_store(&a->is_over, true);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&a->n_shared), 0);
    assert_int_equal(atomic_load(&a->n_beyond), 0);
    assert_true(atomic_load(&a->n_checked) > 0);
    kvpi_slot_pool_set_end(a->pool, N_SLOTS);
    assert_int_equal(kvpi_slot_pool_n_above(a->pool), 0);
    assert_int_equal(kvpi_slot_pool_n_free(a->pool), N_SLOTS);
    for (uint32_t i = 0; i < N_SLOTS; i++)
        assert_int_not_equal(kvpi_slot_pool_alloc(a->pool), KVPI_NO_SLOT);
    kvpi_slot_pool_close(a->pool);
    free(a);
}

/* One slot at a time: the one that is hot. */
static void test_hot_slots_are_neither_lost_nor_shared_when_frozen(void **state)
{
    (void)state;
    run_arena(1, 8000, N_SLOTS, N_SLOTS);
}

static void test_stacks_are_neither_lost_nor_shared_when_frozen(void **state)
{
    (void)state;
    run_arena(30, 3000, N_SLOTS, N_SLOTS);
}

static void test_nobody_gets_slots_beyond_an_end_that_moves(void **state)
{
    (void)state;
    run_arena(1, 1500, 16, N_SLOTS);
    run_arena(200, 1500, 300, N_SLOTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_ends_match_a_set),
        cmocka_unit_test(test_slots_of_each_thread_are_neighbours),
        cmocka_unit_test(test_after_a_long_run_slots_are_neighbours_again),
        cmocka_unit_test(test_slots_in_a_parked_threads_magazine_are_found),
        cmocka_unit_test(test_hot_slots_are_neither_lost_nor_shared_when_frozen),
        cmocka_unit_test(test_stacks_are_neither_lost_nor_shared_when_frozen),
        cmocka_unit_test(test_nobody_gets_slots_beyond_an_end_that_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
