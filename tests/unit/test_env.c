/* test_env.c - the real world behind kvp_env. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "child.h"
#include "kvpager/env.h"

static void test_clock_never_goes_back(void **state)
{
    (void)state;
    const kvp_env *env = kvp_env_default();
    uint64_t last = env->now_ns(env->opaque), first = last;
    for (int i = 0; i < 10000; i++) {
        uint64_t now = env->now_ns(env->opaque);
        assert_true(now >= last);
        last = now;
    }
    assert_true(last > first);
}

static void test_random_fills_all_bytes_and_differs(void **state)
{
    (void)state;
    const kvp_env *env = kvp_env_default();
    unsigned char a[1000] = {0}, b[1000] = {0};
    assert_int_equal(env->random(env->opaque, a, sizeof a), KVP_OK);
    assert_int_equal(env->random(env->opaque, b, sizeof b), KVP_OK);
    assert_true(memcmp(a, b, sizeof a) != 0);
    size_t n_zero = 0;
    for (size_t i = sizeof a - 100; i < sizeof a; i++)
        n_zero += a[i] == 0;
    assert_true(n_zero < 50); /* 2^-300 */
}

static void note_signals(void *arg)
{
    pthread_sigmask(SIG_BLOCK, NULL, arg);
}

static void test_thread_runs_with_signals_blocked_and_the_callers_stay(void **state)
{
    (void)state;
    const kvp_env *env = kvp_env_default();
    sigset_t in_thread, before, after;
    void *thread;
    sigemptyset(&in_thread);
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    assert_int_equal(env->thread_start(env->opaque, note_signals, &in_thread, &thread), KVP_OK);
    env->thread_join(env->opaque, thread);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    static const int signals[] = {SIGINT, SIGTERM, SIGUSR1, SIGALRM};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(sigismember(&in_thread, signals[i]), 1);
        assert_int_equal(sigismember(&after, signals[i]), sigismember(&before, signals[i]));
    }
}

static int start_without_clone(void *arg)
{
    (void)arg;
    const kvp_env *env = kvp_env_default();
    sigset_t mask;
    void *thread = NULL;
    if (!child_deny_syscall(SYS_clone3, EAGAIN) || !child_deny_syscall(SYS_clone, EAGAIN))
        return 2;
    kvp_status s = env->thread_start(env->opaque, note_signals, &mask, &thread);
    return s == KVP_E_NOMEM && !thread && strstr(kvp_error(), strerror(EAGAIN)) ? 0 : 1;
}

static void test_thread_that_cannot_start_is_an_error(void **state)
{
    (void)state;
    assert_int_equal(child_run(start_without_clone, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clock_never_goes_back),
        cmocka_unit_test(test_random_fills_all_bytes_and_differs),
        cmocka_unit_test(test_thread_runs_with_signals_blocked_and_the_callers_stay),
        cmocka_unit_test(test_thread_that_cannot_start_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
