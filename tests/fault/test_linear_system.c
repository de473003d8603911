/* test_linear_system.c - linear views and what surrounds them: privileges, system calls, forks,
 * locked memory, descriptors, kernels that say no. Often in children, which give up rights for
 * good. */
#include "tests/support/child.h"
#include "tests/support/linear_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int read_in_child(void *arg)
{
    signal(SIGSEGV, SIG_DFL);
    return *(const volatile char *)((const kvp_linear *)arg)->base;
}

static void test_a_forked_child_has_no_view(void **state)
{
    (void)state;
    linear_fixture *f = linear_set_up(NULL);
    kvp_linear view = linear_view(f, 0, KVP_PLANE_K);
    int code = child_run(read_in_child, &view);
    assert_true(code == -SIGSEGV || code == 1 /* caught by a sanitizer */);
    kvp_linear_close(&view);
    linear_tear_down(f);
}

/* Can write(2) be given this row? */
static int write_row(const kvp_linear *view, uint64_t row)
{
    int ends[2];
    if (pipe(ends))
        return -1;
    errno = 0;
    int n = (int)write(ends[1], (const char *)view->base + row * ROW_BYTES, ROW_BYTES);
    int error = n < 0 ? errno : n == ROW_BYTES ? 0 : -1;
    close(ends[0]);
    close(ends[1]);
    return error;
}

static int view_without_privileges(void *arg)
{
    (void)arg;
    if (!child_limit_memlock(1 << 20))
        return 77;
    linear_fixture *f = linear_set_up(NULL);
    kvp_linear view = linear_view(f, 0, KVP_PLANE_K);
    uint16_t *expected = linear_expected(f, 0, KVP_PLANE_K);
    if (write_row(&view, 500) != (view.has_system_calls ? 0 : EFAULT))
        return 1;
    if (linear_try_row(&view, expected, 500) || write_row(&view, 500))
        return 2;
    for (uint64_t row = 0; row < TOKENS; row++)
        if (linear_try_row(&view, expected, row))
            return 3;
    kvp_linear_close(&view);
    free(expected);
    linear_tear_down(f);
    return view.has_system_calls ? 4 : 0;
}

static void test_views_work_without_privileges(void **state)
{
    (void)state;
    int code = child_run(view_without_privileges, NULL);
    if (code == 77 || code == 4) /* not root, or the sysctl gives everybody the privilege */
        skip();
    assert_int_equal(code, 0);
}

static void test_system_calls_may_read_where_the_view_says_so(void **state)
{
    (void)state;
    linear_fixture *f = linear_set_up(NULL);
    kvp_linear view = linear_view(f, 0, KVP_PLANE_K);
    assert_int_equal(write_row(&view, 700), view.has_system_calls ? 0 : EFAULT);
    kvp_linear_close(&view);
    linear_tear_down(f);
}

static int view_where_forbidden(void *arg)
{
    linear_fixture *f = linear_set_up(NULL);
    if (!child_deny_syscall(SYS_userfaultfd, *(int *)arg))
        return 77;
    kvp_linear view;
    if (kvp_linear_open(f->seq, &(kvp_linear_args){0}, &view) != KVP_E_UNSUPPORTED)
        return 1;
    if (!strstr(kvp_error(), "seccomp") || !strstr(kvp_error(), "pin pages"))
        return 2;
    if (kvp_pager_check(f->pager) || kvp_seq_truncate(f->seq, 0)) /* nothing is held */
        return 3;
    linear_tear_down(f);
    return 0;
}

static void test_a_kernel_that_says_no_is_reported(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        int code = child_run(view_where_forbidden, &(int[]){EPERM, ENOSYS}[i]);
        if (code == 77)
            skip();
        assert_int_equal(code, 0);
    }
}

static int view_in_locked_memory(void *arg)
{
    (void)arg;
    if (geteuid() || mlockall(MCL_FUTURE)) /* others may lock too little */
        return 77;
    linear_fixture *f = linear_set_up(NULL);
    kvp_linear view = linear_view(f, 0, KVP_PLANE_K);
    uint16_t *expected = linear_expected(f, 0, KVP_PLANE_K);
    for (uint64_t row = 0; row < TOKENS; row++)
        if (linear_try_row(&view, expected, row))
            return 1;
    kvp_linear_close(&view);
    free(expected);
    linear_tear_down(f);
    return 0;
}

static void test_a_program_that_locks_its_memory_reads_no_zeros(void **state)
{
    (void)state;
    int code = child_run(view_in_locked_memory, NULL);
    if (code == 77)
        skip();
    assert_int_equal(code, 0);
}

static size_t count_entries(const char *path)
{
    size_t n = 0;
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void test_nothing_is_left_of_views_that_were_closed(void **state)
{
    (void)state;
    linear_fixture *f = linear_set_up(NULL);
    uint16_t *expected[2] = {linear_expected(f, 0, KVP_PLANE_K),
                             linear_expected(f, 1, KVP_PLANE_V)};
    size_t n_fds = 0, n_threads = 0;
    for (uint32_t i = 0; i < 300; i++) {
        kvp_linear views[3];
        for (uint32_t j = 0; j < 3; j++) {
            views[j] = linear_view(f, j % 2, (kvp_plane)(j % 2));
            for (uint64_t row = i; row < TOKENS; row += 500)
                assert_int_equal(linear_try_row(&views[j], expected[j % 2], row), 0);
        }
        if (i == 0) {
            n_fds = count_entries("/proc/self/fd");
            n_threads = count_entries("/proc/self/task");
        }
        for (uint32_t j = 0; j < 3; j++)
            kvp_linear_close(&views[(i + j) % 3]);
    }
    assert_int_equal(count_entries("/proc/self/fd"), n_fds);
    assert_int_equal(count_entries("/proc/self/task"), n_threads);
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(f->pager, &s));
    assert_int_equal(s.linear_resident_bytes, 0);
    linear_view(f, 0, KVP_PLANE_K); /* closing the pager closes it */
    linear_tear_down(f);
    free(expected[0]);
    free(expected[1]);
}

int main(void)
{
    if (linear_is_unsupported())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_left_of_views_that_were_closed),
        cmocka_unit_test(test_a_forked_child_has_no_view),
        cmocka_unit_test(test_views_work_without_privileges),
        cmocka_unit_test(test_system_calls_may_read_where_the_view_says_so),
        cmocka_unit_test(test_a_kernel_that_says_no_is_reported),
        cmocka_unit_test(test_a_program_that_locks_its_memory_reads_no_zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
