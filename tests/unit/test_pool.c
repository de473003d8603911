/* test_pool.c - every task of every run is done once, whoever does it. */
#include "kvpager/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_runs_once_in_a_lane_of_its_own),
        cmocka_unit_test(test_two_callers_at_once_each_get_theirs_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
