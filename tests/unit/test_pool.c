/* test_pool.c - every task of every run is done once, whoever does it; workers help between runs,
 * and nobody waits for them meanwhile. */
#include "tiers/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define MAX_TASKS 1000u
#define ROUNDS 200u

static const size_t sizes[] = {0, 1, 2, 3, MAX_TASKS};

typedef struct tally {
    atomic_uint counts[MAX_TASKS];
    atomic_uint busy[8]; /* tasks that run in this lane now */
    atomic_uint mistakes;
    uint32_t n_threads;
    kvp_pool *pool;
} tally;

/* A lane's scratch must never be used by two tasks at once. */
static void count_task(void *arg, size_t i)
{
    tally *t = arg;
    uint32_t lane = kvp_pool_lane();
    if (lane >= t->n_threads || atomic_fetch_add(&t->busy[lane], 1) != 0)
        atomic_fetch_add(&t->mistakes, 1);
    atomic_fetch_add(&t->counts[i], 1);
    if (lane < t->n_threads)
        atomic_fetch_sub(&t->busy[lane], 1);
}

static void run_rounds(tally *t)
{
    for (unsigned round = 0; round < ROUNDS; round++) { /* short runs: workers come and go late */
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            kvp_pool_run(t->pool, sizes[s], count_task, t);
    }
}

static void check_counts(tally *t)
{
    assert_int_equal(atomic_load(&t->mistakes), 0);
    for (size_t i = 0; i < MAX_TASKS; i++) {
        unsigned wanted = 0;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            wanted += i < sizes[s] ? ROUNDS : 0;
        assert_int_equal(atomic_load(&t->counts[i]), wanted);
    }
}

static void test_every_task_runs_once_in_a_lane_of_its_own(void **state)
{
    (void)state;
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++) {
        static tally t;
        memset(&t, 0, sizeof t);
        t.n_threads = n_threads;
        assert_int_equal(kvp_pool_open(n_threads, NULL, NULL, &t.pool), KVP_OK);
        assert_int_equal(kvp_pool_threads(t.pool), n_threads);
        run_rounds(&t);
        kvp_pool_close(t.pool);
        check_counts(&t);
    }
}

static void *run_in_thread(void *arg)
{
    run_rounds(arg);
    return NULL;
}

/* Two threads share one pool: each call does all of its own tasks, with or without help. */
static void test_two_callers_at_once_each_get_theirs_done(void **state)
{
    (void)state;
    static tally tallies[2];
    pthread_t threads[2];
    kvp_pool *pool;
    memset(tallies, 0, sizeof tallies);
    assert_int_equal(kvp_pool_open(3, NULL, NULL, &pool), KVP_OK);
    for (int i = 0; i < 2; i++) {
        tallies[i].pool = pool;
        tallies[i].n_threads = 3;
        assert_int_equal(pthread_create(&threads[i], NULL, run_in_thread, &tallies[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    kvp_pool_close(pool);
    check_counts(&tallies[0]);
    check_counts(&tallies[1]);
}

/* ---- help ---- */

typedef struct chore {
    kvpi_help help;
    atomic_uint n_left, n_done;
    atomic_bool has_begun, may_end;
} chore;

static bool do_some(void *arg)
{
    chore *c = arg;
    atomic_store(&c->has_begun, true);
    while (!atomic_load(&c->may_end))
        sched_yield();
    if (!atomic_load(&c->n_left))
        return false;
    atomic_fetch_sub(&c->n_left, 1);
    atomic_fetch_add(&c->n_done, 1);
    return true;
}

static void open_chore(chore *c, unsigned n, bool may_end)
{
    memset(c, 0, sizeof *c);
    c->help = (kvpi_help){.some = do_some, .arg = c};
    atomic_store(&c->n_left, n);
    atomic_store(&c->may_end, may_end);
}

static void test_idle_workers_help_until_nothing_is_left(void **state)
{
    (void)state;
    static chore c;
    kvp_pool *pool;
    assert_int_equal(kvp_pool_open(3, NULL, NULL, &pool), KVP_OK);
    open_chore(&c, 100, true);
    while (atomic_load(&c.n_left)) { /* an idle worker may not have gone to sleep yet */
        kvpi_pool_call(pool, &c.help);
        sched_yield();
    }
    kvpi_pool_retire(pool, &c.help);
    assert_int_equal(atomic_load(&c.n_done), 100);
    assert_int_equal(c.help.n_inside, 0);
    kvp_pool_close(pool);
}

/* The pool's only worker is stuck in what it helps with: runs go on without it. */
static void test_a_run_does_not_wait_for_a_worker_that_helps(void **state)
{
    (void)state;
    static chore c;
    static tally t;
    memset(&t, 0, sizeof t);
    t.n_threads = 2;
    assert_int_equal(kvp_pool_open(2, NULL, NULL, &t.pool), KVP_OK);
    open_chore(&c, 1000, false);
    while (!atomic_load(&c.has_begun)) {
        kvpi_pool_call(t.pool, &c.help);
        sched_yield();
    }
    run_rounds(&t);
    check_counts(&t);
    atomic_store(&c.may_end, true);
    kvpi_pool_retire(t.pool, &c.help);
    assert_true(atomic_load(&c.n_done) > 0);
    kvp_pool_close(t.pool);
}

typedef struct hold {
    kvp_pool *pool;
    atomic_uint n_begun;
    atomic_bool may_end;
} hold;

static void hold_task(void *arg, size_t i)
{
    hold *h = arg;
    (void)i;
    atomic_fetch_add(&h->n_begun, 1);
    while (!atomic_load(&h->may_end))
        sched_yield();
}

static void *hold_both(void *arg)
{
    hold *h = arg;
    kvp_pool_run(h->pool, 2, hold_task, h);
    return NULL;
}

static void test_workers_in_a_run_are_not_called(void **state)
{
    (void)state;
    static chore c;
    static hold h;
    pthread_t thread;
    memset(&h, 0, sizeof h);
    assert_int_equal(kvp_pool_open(2, NULL, NULL, &h.pool), KVP_OK);
    assert_int_equal(pthread_create(&thread, NULL, hold_both, &h), 0);
    while (atomic_load(&h.n_begun) < 2)
        sched_yield();
    open_chore(&c, 10, true);
    kvpi_pool_call(h.pool, &c.help);
    atomic_store(&h.may_end, true);
    pthread_join(thread, NULL);
    kvpi_pool_retire(h.pool, &c.help);
    assert_int_equal(atomic_load(&c.n_done), 0);
    kvpi_pool_call(NULL, &c.help); /* a pager that has no pool */
    kvpi_pool_retire(NULL, &c.help);
    kvp_pool_close(h.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_runs_once_in_a_lane_of_its_own),
        cmocka_unit_test(test_two_callers_at_once_each_get_theirs_done),
        cmocka_unit_test(test_idle_workers_help_until_nothing_is_left),
        cmocka_unit_test(test_a_run_does_not_wait_for_a_worker_that_helps),
        cmocka_unit_test(test_workers_in_a_run_are_not_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
