/* test_linear_faults.c - linear views where things go wrong, or get in each other's way: damaged
 * pages, several readers, readers of a view that is closed, kernels that say no. */
#define _GNU_SOURCE 1
#include "tests/support/child.h"
#include "tests/support/faulty_disk.h"
#include "tests/support/faulty_mem.h"
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TOKENS = 2040, WIDTH = 64, ROW_BYTES = 2 * WIDTH, PAGE_TOKENS = 64, CHUNK = 128 };
enum { VIEWS_BYTES = 256 << 10, SHARE_BYTES = 64 << 10 };

/* Two lanes: a page has one head. The last page of each is open. */
static const kvp_layer_kind kind = {2, WIDTH, WIDTH, KVP_F16};

typedef struct fixture {
    kvp_pager *pager;
    kvp_seq *seq;
    uint32_t salts[2 * TOKENS];
} fixture;

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static void append(fixture *f, uint64_t n)
{
    static float k[CHUNK * 2 * WIDTH], v[CHUNK * 2 * WIDTH];
    for (uint64_t done = 0; done < n; done += CHUNK)
        must(pattern_append(f->seq, 0, &kind, f->salts + kvp_seq_length(f->seq),
                            n - done < CHUNK ? n - done : CHUNK, k, v));
}

static kvp_config config(const kvp_env *env)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .n_kv_heads = 2,
                                  .head_dim = WIDTH,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS,
                                  .page_heads = 1};
    cfg.ram_bytes = (128 << 10) + VIEWS_BYTES; /* an eighth of the KV, and views */
    cfg.linear_bytes = VIEWS_BYTES;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 2;
    cfg.env = env;
    return cfg;
}

static fixture *set_up(const kvp_env *env)
{
    fixture *f = calloc(1, sizeof *f);
    for (uint32_t i = 0; i < 2 * TOKENS; i++)
        f->salts[i] = i + 5;
    kvp_config cfg = config(env);
    must(kvp_pager_open(&cfg, &f->pager));
    must(kvp_seq_create(f->pager, &f->seq));
    append(f, TOKENS);
    return f;
}

static void tear_down(fixture *f)
{
    must(kvp_pager_check(f->pager));
    kvp_pager_close(f->pager);
    free(f);
}

static uint64_t faults_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s.linear_faults;
}

static kvp_linear open_view(fixture *f, uint32_t head, kvp_plane plane)
{
    kvp_linear_args args = {.kv_head = head, .plane = plane, .max_bytes = SHARE_BYTES};
    kvp_linear view;
    must(kvp_linear_open(f->seq, &args, &view));
    return view;
}

/* What the view's rows must be, all of them. */
static uint16_t *expected_rows(const fixture *f, uint32_t head, kvp_plane plane)
{
    uint16_t *rows = malloc(TOKENS * ROW_BYTES), *to = rows;
    for (uint64_t t = 0; t < TOKENS; t++)
        for (uint32_t d = 0; d < WIDTH; d++) {
            /* eighths of 7 bits: exact, and normal unless 0 */
            float x = pattern_value(f->salts[t], plane == KVP_PLANE_V, head, d);
            uint32_t bits;
            memcpy(&bits, &x, sizeof bits);
            uint32_t exponent = bits >> 23 & 255;
            *to++ = x == 0 ? 0
                           : (uint16_t)(bits >> 16 & 0x8000u) |
                                 (uint16_t)((exponent - 112) << 10 | (bits >> 13 & 1023));
        }
    return rows;
}

/* ---- readers ---- */

typedef struct reader {
    const kvp_linear *view;
    const uint16_t *expected;
    uint64_t seed; /* 0: in order */
    uint32_t n_wrong;
    pthread_t thread;
} reader;

static void *read_rows(void *arg)
{
    reader *r = arg;
    for (uint64_t i = 0; i < 2 * TOKENS; i++) {
        uint64_t row = (r->seed ? pattern_random(&r->seed) : i) % TOKENS;
        r->n_wrong += memcmp((const char *)r->view->base + row * ROW_BYTES,
                             r->expected + row * WIDTH, ROW_BYTES) != 0;
    }
    return NULL;
}

static void test_several_read_while_the_sequence_grows(void **state)
{
    (void)state;
    fixture *f = set_up(NULL);
    kvp_linear views[2] = {open_view(f, 0, KVP_PLANE_K), open_view(f, 1, KVP_PLANE_V)};
    uint16_t *expected[2] = {expected_rows(f, 0, KVP_PLANE_K), expected_rows(f, 1, KVP_PLANE_V)};
    reader readers[4];
    uint64_t before = faults_of(f->pager);
    for (uint32_t i = 0; i < 4; i++) {
        readers[i] =
            (reader){.view = &views[i % 2], .expected = expected[i % 2], .seed = i / 2 * 7};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_rows, &readers[i]), 0);
    }
    float q[2 * WIDTH] = {1}, out[2 * WIDTH];
    for (uint32_t i = 0; i < TOKENS / CHUNK; i++) {
        append(f, CHUNK);
        kvp_attend_args args = {.q = q, .out = out, .n_queries = 1, .n_heads = 2, .scale = 0.1f};
        must(kvp_attend(f->seq, 0, &args));
        must(kvp_pager_check(f->pager));
    }
    for (uint32_t i = 0; i < 4; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_int_equal(readers[i].n_wrong, 0);
    }
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(f->pager, &s));
    assert_true(s.linear_faults > before + 100 && s.linear_evictions > 100);
    assert_true(s.linear_resident_bytes <= 2 * SHARE_BYTES);
    assert_true(s.ram_peak_bytes <= s.ram_budget_bytes);
    for (uint32_t i = 0; i < 2; i++) {
        must(kvp_linear_status(&views[i]));
        kvp_linear_close(&views[i]);
        free(expected[i]);
    }
    tear_down(f);
}

/* ---- signals ---- */

static _Thread_local sigjmp_buf on_signal;
static _Thread_local volatile sig_atomic_t expects_signal;

static void jump(int signal)
{
    if (!expects_signal)
        _exit(99);
    expects_signal = 0;
    siglongjmp(on_signal, signal);
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = jump};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
}

/* Compare a row; the signal that this got, or 0. */
static int try_row(const kvp_linear *view, const uint16_t *expected, uint64_t row)
{
    int signal = sigsetjmp(on_signal, 1);
    if (signal)
        return signal;
    expects_signal = 1;
    int difference =
        memcmp((const char *)view->base + row * ROW_BYTES, expected + row * WIDTH, ROW_BYTES);
    expects_signal = 0;
    assert_int_equal(difference, 0);
    return 0;
}

/* ---- pages that cannot be had ---- */

static void check_failure(fault_kind fault, kvp_status status, const char *word)
{
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    fixture *f = set_up(&disk.env);
    kvp_linear view = open_view(f, 1, KVP_PLANE_K);
    uint16_t *expected = expected_rows(f, 1, KVP_PLANE_K);
    must(kvp_linear_status(&view));
    uint32_t n_failed = 0;
    int signal = 0;
    for (uint64_t row = 0; row < TOKENS; row++) {
        if (row == TOKENS / 2 + 10) { /* all reads from here on, until a page has failed */
            faulty_disk_arm(&disk, (faulty_plan){.kind = fault,
                                                 .op = FAULT_READS,
                                                 .nth = 1,
                                                 .is_persistent = true,
                                                 .flip_bit = 12345});
        }
        signal = try_row(&view, expected, row);
        if (!signal)
            continue;
        assert_int_equal(signal, SIGBUS);
        if (n_failed++ == 0) {
            faulty_disk_arm(&disk, (faulty_plan){0});
            assert_int_equal(kvp_linear_status(&view), status);
            if (!strstr(kvp_error(), word))
                fail_msg("\"%s\" does not say \"%s\"", kvp_error(), word);
        }
        assert_int_equal(try_row(&view, expected, row), SIGBUS); /* and stays so */
    }
    /* The rest can be read. What was fetched together has failed together. */
    assert_in_range(n_failed, 1, 3 * PAGE_TOKENS);
    assert_int_equal(kvp_linear_status(&view), status);
    kvp_linear_close(&view);
    free(expected);
    tear_down(f);
    faulty_disk_fini(&disk);
}

static void test_rows_that_cannot_be_had_raise_sigbus(void **state)
{
    (void)state;
    catch_signals();
    check_failure(FAULT_FLIP, KVP_E_CORRUPT, "KV heads 1..1 failed its checksum");
    check_failure(FAULT_EIO, KVP_E_IO, "could not be read");
}

static void test_an_open_page_that_cannot_be_had_is_an_error_of_open(void **state)
{
    (void)state;
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    fixture *f = set_up(&disk.env);
    float k[2 * WIDTH], v[2 * WIDTH];
    must(pattern_append(f->seq, 0, &kind, &f->salts[TOKENS], 1, k, v));
    float q[2 * WIDTH] = {1}, out[2 * WIDTH];
    kvp_attend_args args = {.q = q, .out = out, .n_queries = 1, .n_heads = 2, .scale = 0.1f};
    must(kvp_seq_advise(f->seq, TOKENS, 1, KVP_COLD));
    for (int i = 0; i < 3; i++) /* moves the open page out */
        must(kvp_attend(f->seq, 0, &args));
    faulty_disk_arm(
        &disk,
        (faulty_plan){.kind = FAULT_EIO, .op = FAULT_READS, .nth = 1, .is_persistent = true});
    kvp_linear view;
    kvp_status status = KVP_OK;
    for (uint32_t head = 0; head < 2 && !status; head++) {
        status = kvp_linear_open(f->seq, &(kvp_linear_args){.kv_head = head}, &view);
        if (!status)
            kvp_linear_close(&view);
    }
    if (faulty_disk_fired(&disk))
        assert_int_equal(status, KVP_E_IO);
    faulty_disk_arm(&disk, (faulty_plan){0});
    must(kvp_linear_open(f->seq, &(kvp_linear_args){0}, &view));
    kvp_linear_close(&view);
    tear_down(f);
    faulty_disk_fini(&disk);
}

/* ---- closing ---- */

typedef struct doomed {
    const kvp_linear *view;
    const uint16_t *expected;
    atomic_bool has_begun;
} doomed;

/* Reads until the view is no more: the signal that this gives, or 0 for wrong bytes. */
static void *read_for_ever(void *arg)
{
    doomed *d = arg;
    const volatile uint16_t *rows = d->view->base;
    int signal = sigsetjmp(on_signal, 1);
    if (signal)
        return (void *)(intptr_t)signal;
    expects_signal = 1;
    size_t at = 1;
    while (rows[at] == d->expected[at]) {
        at = (at + 7 * PAGE_TOKENS * WIDTH) % ((size_t)TOKENS * WIDTH);
        atomic_store(&d->has_begun, true);
    }
    expects_signal = 0;
    return NULL;
}

static void test_closing_stops_whoever_reads(void **state)
{
    (void)state;
    catch_signals();
    fixture *f = set_up(NULL);
    uint16_t *expected[2] = {expected_rows(f, 0, KVP_PLANE_K), expected_rows(f, 1, KVP_PLANE_K)};
    for (uint32_t i = 0; i < 200; i++) {
        kvp_linear view = open_view(f, i % 2, KVP_PLANE_K);
        doomed d = {.view = &view, .expected = expected[i % 2]};
        pthread_t threads[2];
        for (int t = 0; t < 2; t++)
            assert_int_equal(pthread_create(&threads[t], NULL, read_for_ever, &d), 0);
        uint64_t before = faults_of(f->pager);
        while (!atomic_load(&d.has_begun) || faults_of(f->pager) < before + i % 50)
            continue;
        kvp_linear_close(&view);
        for (int t = 0; t < 2; t++) {
            void *signal;
            pthread_join(threads[t], &signal);
            assert_int_equal((intptr_t)signal, SIGSEGV);
        }
    }
    free(expected[0]);
    free(expected[1]);
    tear_down(f);
}

/* ---- the system ---- */

static int read_in_child(void *arg)
{
    signal(SIGSEGV, SIG_DFL);
    return *(const volatile char *)((const kvp_linear *)arg)->base;
}

static void test_a_forked_child_has_no_view(void **state)
{
    (void)state;
    fixture *f = set_up(NULL);
    kvp_linear view = open_view(f, 0, KVP_PLANE_K);
    int code = child_run(read_in_child, &view);
    assert_true(code == -SIGSEGV || code == 1 /* caught by a sanitizer */);
    kvp_linear_close(&view);
    tear_down(f);
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
    fixture *f = set_up(NULL);
    kvp_linear view = open_view(f, 0, KVP_PLANE_K);
    uint16_t *expected = expected_rows(f, 0, KVP_PLANE_K);
    if (write_row(&view, 500) != (view.has_system_calls ? 0 : EFAULT))
        return 1;
    if (try_row(&view, expected, 500) || write_row(&view, 500))
        return 2;
    for (uint64_t row = 0; row < TOKENS; row++)
        if (try_row(&view, expected, row))
            return 3;
    kvp_linear_close(&view);
    free(expected);
    tear_down(f);
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
    fixture *f = set_up(NULL);
    kvp_linear view = open_view(f, 0, KVP_PLANE_K);
    assert_int_equal(write_row(&view, 700), view.has_system_calls ? 0 : EFAULT);
    kvp_linear_close(&view);
    tear_down(f);
}

static int view_where_forbidden(void *arg)
{
    fixture *f = set_up(NULL);
    if (!child_deny_syscall(SYS_userfaultfd, *(int *)arg))
        return 77;
    kvp_linear view;
    if (kvp_linear_open(f->seq, &(kvp_linear_args){0}, &view) != KVP_E_UNSUPPORTED)
        return 1;
    if (!strstr(kvp_error(), "seccomp") || !strstr(kvp_error(), "pin pages"))
        return 2;
    if (kvp_pager_check(f->pager) || kvp_seq_truncate(f->seq, 0)) /* nothing is held */
        return 3;
    tear_down(f);
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
    if (mlockall(MCL_FUTURE | MCL_ONFAULT) || munlockall() || mlockall(MCL_FUTURE))
        return 77;
    fixture *f = set_up(NULL);
    kvp_linear view = open_view(f, 0, KVP_PLANE_K);
    uint16_t *expected = expected_rows(f, 0, KVP_PLANE_K);
    for (uint64_t row = 0; row < TOKENS; row++)
        if (try_row(&view, expected, row))
            return 1;
    kvp_linear_close(&view);
    free(expected);
    tear_down(f);
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

/* ---- open, failing ---- */

static bool threads_fail;

static kvp_status start_or_fail(void *opaque, void (*run)(void *arg), void *arg, void **thread)
{
    if (threads_fail)
        return kvp_fail(KVP_E_NOMEM, "no thread");
    return kvp_env_default()->thread_start(opaque, run, arg, thread);
}

/* Fail the n-th allocation of an open, or (n is 0) its thread; false: there are fewer. */
static bool fail_open(uint64_t n)
{
    kvp_env env = *kvp_env_default();
    env.thread_start = start_or_fail;
    faulty_mem mem;
    faulty_mem_init(&mem, 0);
    kvp_config cfg = config(&env);
    cfg.mem = &mem.mem;
    kvp_pager *pager;
    kvp_seq *seq;
    must(kvp_pager_open(&cfg, &pager));
    must(kvp_seq_create(pager, &seq));
    float rows[2 * WIDTH] = {0};
    must(kvp_seq_append(seq, 0, rows, rows, 1));

    mem.fail_at = n ? mem.n_allocs + n : 0;
    threads_fail = n == 0;
    kvp_linear view;
    kvp_status status = kvp_linear_open(seq, &(kvp_linear_args){0}, &view);
    threads_fail = false;
    must(kvp_pager_check(pager));
    assert_int_equal(status, n == 0 || mem.n_failed ? KVP_E_NOMEM : KVP_OK);
    if (status) /* and nothing stands in the way of another try */
        must(kvp_linear_open(seq, &(kvp_linear_args){0}, &view));
    kvp_linear_close(&view);
    must(kvp_seq_truncate(seq, 0));
    kvp_pager_close(pager);
    assert_int_equal(mem.outstanding_bytes, 0);
    return status != KVP_OK;
}

static void test_open_without_memory_or_a_thread_leaves_nothing(void **state)
{
    (void)state;
    uint64_t n = 0;
    while (fail_open(n))
        n++;
    assert_true(n > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_forked_child_has_no_view),
        cmocka_unit_test(test_views_work_without_privileges),
        cmocka_unit_test(test_system_calls_may_read_where_the_view_says_so),
        cmocka_unit_test(test_a_kernel_that_says_no_is_reported),
        cmocka_unit_test(test_a_program_that_locks_its_memory_reads_no_zeros),
        cmocka_unit_test(test_several_read_while_the_sequence_grows),
        cmocka_unit_test(test_rows_that_cannot_be_had_raise_sigbus),
        cmocka_unit_test(test_an_open_page_that_cannot_be_had_is_an_error_of_open),
        cmocka_unit_test(test_closing_stops_whoever_reads),
        cmocka_unit_test(test_open_without_memory_or_a_thread_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
