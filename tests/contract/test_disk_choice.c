/* test_disk_choice.c - which engine kvp_disk_open chooses, what it says when it cannot, and what it
 * leaves behind: in processes that lack rights, locked memory or memory. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "child.h"
#include "faulty_mem.h"
#include "disk_fixture.h"
#include "kvpager/env.h"
#include "kvpager/mem.h"
#include "tiers/disk_engine.h"

static void test_unknown_engine_is_refused_with_the_list(void **state)
{
    (void)state;
    kvp_disk_config cfg = disk_config(fx.fd, "floppy");
    kvp_disk *disk = NULL;
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_E_INVALID);
    assert_null(disk);
    assert_non_null(strstr(kvp_error(), "floppy"));
    for (size_t i = 0; i < 3; i++)
        assert_non_null(strstr(kvp_error(), disk_engines[i]));
    cfg.engine = NULL;
    setenv("KVP_DISK_ENGINE", "tape", 1);
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_E_INVALID);
    unsetenv("KVP_DISK_ENGINE");
    assert_non_null(strstr(kvp_error(), "KVP_DISK_ENGINE 'tape'"));
    cfg.max_depth = 0;
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_E_INVALID);
}

static void test_environment_variable_chooses_and_config_wins(void **state)
{
    (void)state;
    kvp_disk_config cfg = disk_config(fx.fd, NULL);
    kvp_disk *disk;
    setenv("KVP_DISK_ENGINE", "threads", 1);
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_OK);
    assert_string_equal(disk->ops->name, "threads");
    disk->ops->close(disk);
    setenv("KVP_DISK_ENGINE", "tape", 1);
    cfg.engine = "threads";
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_OK);
    disk->ops->close(disk);
    setenv("KVP_DISK_ENGINE", "", 1);
    cfg.engine = NULL;
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_OK);
    disk->ops->close(disk);
    unsetenv("KVP_DISK_ENGINE");
}

typedef struct choice {
    const char *engine;   /* to ask for; NULL: the best */
    const char *expected; /* its name, or a piece of the message */
    int n_pieces;
} choice;

/* In a child that has lost rights: 0 if the choice comes out as expected. */
static int check_choice(const choice *c)
{
    kvp_disk_config cfg = disk_config(fx.fd, c->engine);
    kvp_disk *disk = NULL;
    kvp_status s = kvp_disk_open(&cfg, &disk);
    if (c->engine) {
        bool ok = s == KVP_E_UNSUPPORTED && strstr(kvp_error(), c->expected) &&
                  strstr(kvp_error(), c->engine) && strstr(kvp_error(), "threads");
        if (!ok)
            fprintf(stderr, "status %d, message: %s\n", s, kvp_error());
        return ok ? 0 : 1;
    }
    if (s || strcmp(disk->ops->name, c->expected)) {
        fprintf(stderr, "status %d, engine %s: %s\n", s, s ? "" : disk->ops->name, kvp_error());
        return 1;
    }
    kvp_disk_io io = disk_request(KVP_IO_WRITE, fx.memory, BLOCK_BYTES, 0), *done = NULL;
    if (disk->ops->submit(disk, &io) || disk->ops->reap(disk, KVP_FOREVER, &done) || done != &io)
        return 2;
    disk->ops->close(disk);
    return io.status ? 3 : 0;
}

static int choose_without_uring_setup(void *arg)
{
    return child_deny_syscall(SYS_io_uring_setup, EPERM) ? check_choice(arg) : 10;
}

static int choose_without_uring_in_kernel(void *arg)
{
    return child_deny_syscall(SYS_io_uring_setup, ENOSYS) ? check_choice(arg) : 10;
}

static int choose_without_uring_enter(void *arg)
{
    return child_deny_syscall(SYS_io_uring_enter, EPERM) ? check_choice(arg) : 10;
}

static int choose_with_small_memlock(void *arg)
{
    return child_limit_memlock(65536) ? check_choice(arg) : 10;
}

static void test_forbidden_uring_falls_back_to_threads(void **state)
{
    (void)state;
    int (*const bodies[])(void *) = {choose_without_uring_setup, choose_without_uring_in_kernel,
                                     choose_without_uring_enter};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(child_run(bodies[i], &(choice){.expected = "threads"}), 0);
}

static bool has_uring(void)
{
    kvp_disk_config cfg = disk_config(fx.fd, "uring");
    kvp_disk *disk;
    if (kvp_disk_open(&cfg, &disk))
        return false;
    disk->ops->close(disk);
    return true;
}

static void test_forbidden_uring_named_explicitly_is_a_clear_error(void **state)
{
    (void)state;
    if (!has_uring())
        skip();
    for (size_t i = 0; i < 2; i++) {
        choice c = {.engine = disk_engines[i], .expected = strerror(EPERM)};
        assert_int_equal(child_run(choose_without_uring_setup, &c), 0);
        assert_int_equal(child_run(choose_without_uring_enter, &c), 0);
        c.expected = strerror(ENOSYS);
        assert_int_equal(child_run(choose_without_uring_in_kernel, &c), 0);
    }
}

static void test_small_memlock_falls_back_to_plain_uring(void **state)
{
    (void)state;
    if (geteuid() != 0 || !has_uring())
        skip();
    assert_int_equal(child_run(choose_with_small_memlock, &(choice){.expected = "uring"}), 0);
    choice c = {.engine = "uring-fixed", .expected = "RLIMIT_MEMLOCK"};
    assert_int_equal(child_run(choose_with_small_memlock, &c), 0);
}

/* Closing gives the locked memory back at once: the next engine gets it. */
static int reopen_where_one_fits(void *arg)
{
    (void)arg;
    if (!child_limit_memlock(REGISTERED_BYTES * 3 / 2))
        return 10;
    for (int i = 0; i < 8; i++) { /* the rings themselves do come back late */
        kvp_disk_config cfg = disk_config(fx.fd, "uring-fixed");
        kvp_disk *disk;
        if (kvp_disk_open(&cfg, &disk)) {
            fprintf(stderr, "the %d-th: %s\n", i, kvp_error());
            return 1;
        }
        disk->ops->close(disk);
    }
    return 0;
}

static void test_closed_engine_leaves_no_locked_memory(void **state)
{
    (void)state;
    if (geteuid() != 0 || !has_uring())
        skip();
    assert_int_equal(child_run(reopen_where_one_fits, NULL), 0);
}

/* A ring that dies after opening: requests come back failed, nothing hangs. */
static int lose_uring_enter(void *arg)
{
    (void)arg;
    kvp_disk_config cfg = disk_config(fx.fd, "uring");
    kvp_disk *disk;
    kvp_disk_io *done;
    if (kvp_disk_open(&cfg, &disk) || !child_deny_syscall(SYS_io_uring_enter, EPERM))
        return 1;
    for (size_t i = 0; i < 2 * DEPTH; i++) {
        fx.ios[i] = disk_request(KVP_IO_READ, fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, 0);
        if (disk->ops->submit(disk, &fx.ios[i]))
            return 2;
    }
    for (size_t i = 0; i < 2 * DEPTH; i++)
        if (disk->ops->reap(disk, KVP_FOREVER, &done) || done != &fx.ios[i] ||
            done->status != KVP_E_IO || done->native_error != EPERM)
            return 3;
    if (disk->ops->reap(disk, KVP_FOREVER, &done) || done)
        return 4;
    disk->ops->close(disk);
    return 0;
}

static void test_ring_that_breaks_fails_its_requests(void **state)
{
    (void)state;
    if (!has_uring())
        skip();
    assert_int_equal(child_run(lose_uring_enter, NULL), 0);
}

static void test_failing_nth_allocation_leaks_nothing(void **state)
{
    (void)state;
    for (size_t e = has_uring() ? 0 : 2; e < 3; e++) {
        size_t n_failures = 0;
        for (size_t n = 1;; n++) {
            faulty_mem m;
            faulty_mem_init(&m, n);
            kvp_disk_config cfg = disk_config(fx.fd, disk_engines[e]);
            cfg.mem = &m.mem;
            kvp_disk *disk = NULL;
            kvp_status status = kvp_disk_open(&cfg, &disk);
            if (status == KVP_OK)
                disk->ops->close(disk);
            assert_int_equal(m.outstanding_bytes, 0);
            if (status != KVP_E_NOMEM)
                break;
            n_failures++;
        }
        assert_true(n_failures >= 1);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(test_unknown_engine_is_refused_with_the_list, disk_set_up_file,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_environment_variable_chooses_and_config_wins,
                                    disk_set_up_file, disk_tear_down),
    cmocka_unit_test_setup_teardown(test_forbidden_uring_falls_back_to_threads, disk_set_up_file,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_forbidden_uring_named_explicitly_is_a_clear_error,
                                    disk_set_up_file, disk_tear_down),
    cmocka_unit_test_setup_teardown(test_small_memlock_falls_back_to_plain_uring, disk_set_up_file,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_closed_engine_leaves_no_locked_memory, disk_set_up_file,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_ring_that_breaks_fails_its_requests, disk_set_up_file,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_failing_nth_allocation_leaks_nothing, disk_set_up_file,
                                    disk_tear_down),
};

int main(void)
{
    fx.engine = "threads";
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
