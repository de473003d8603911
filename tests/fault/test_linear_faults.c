/* test_linear_faults.c - linear views where things go wrong, or get in each other's way: damaged
 * pages, several readers, readers of a view that is closed, no memory. */
#include "tests/support/faulty_disk.h"
#include "tests/support/faulty_mem.h"
#include "tests/support/linear_fixture.h"
#include "tests/support/pattern.h"

#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

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
    linear_fixture *f = linear_set_up(NULL);
    kvp_linear views[2] = {linear_view(f, 0, KVP_PLANE_K), linear_view(f, 1, KVP_PLANE_V)};
    uint16_t *expected[2] = {linear_expected(f, 0, KVP_PLANE_K),
                             linear_expected(f, 1, KVP_PLANE_V)};
    reader readers[4];
    uint64_t before = linear_faults_of(f->pager);
    for (uint32_t i = 0; i < 4; i++) {
        readers[i] =
            (reader){.view = &views[i % 2], .expected = expected[i % 2], .seed = i / 2 * 7};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_rows, &readers[i]), 0);
    }
    float q[2 * WIDTH] = {1}, out[2 * WIDTH];
    for (uint32_t i = 0; i < TOKENS / CHUNK; i++) {
        linear_append(f, CHUNK);
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
    linear_tear_down(f);
}

/* ---- pages that cannot be had ---- */

static void check_failure(fault_kind fault, kvp_status status, const char *word)
{
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    linear_fixture *f = linear_set_up(&disk.env);
    kvp_linear view = linear_view(f, 1, KVP_PLANE_K);
    uint16_t *expected = linear_expected(f, 1, KVP_PLANE_K);
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
        signal = linear_try_row(&view, expected, row);
        if (!signal)
            continue;
        assert_int_equal(signal, SIGBUS);
        if (n_failed++ == 0) {
            faulty_disk_arm(&disk, (faulty_plan){0});
            assert_int_equal(kvp_linear_status(&view), status);
            if (!strstr(kvp_error(), word))
                fail_msg("\"%s\" does not say \"%s\"", kvp_error(), word);
        }
        assert_int_equal(linear_try_row(&view, expected, row), SIGBUS); /* and stays so */
    }
    /* The rest can be read. What was fetched together has failed together. */
    assert_in_range(n_failed, 1, 8 * PAGE_TOKENS);
    assert_int_equal(kvp_linear_status(&view), status);
    kvp_linear_close(&view);
    free(expected);
    linear_tear_down(f);
    faulty_disk_fini(&disk);
}

static void test_rows_that_cannot_be_had_raise_sigbus(void **state)
{
    (void)state;
    linear_catch_signals();
    check_failure(FAULT_FLIP, KVP_E_CORRUPT, "KV heads 1..1 failed its checksum");
    check_failure(FAULT_EIO, KVP_E_IO, "could not be read");
}

static kvp_tier_id tier_of_open_page(kvp_seq *seq)
{
    static kvp_page_info pages[2 * TOKENS / PAGE_TOKENS + 2];
    size_t n;
    must(kvp_seq_pages(seq, pages, sizeof pages / sizeof pages[0], &n));
    for (size_t i = 0; i < n; i++)
        if (pages[i].group == 0 && pages[i].is_open)
            return pages[i].tier;
    fail_msg("no page is open");
    return KVP_TIER_RAM;
}

static void test_an_open_page_that_cannot_be_had_is_an_error_of_open(void **state)
{
    (void)state;
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    linear_fixture *f = linear_set_up(&disk.env);
    uint16_t *expected = linear_expected(f, 0, KVP_PLANE_K);
    must(kvp_seq_advise(f->seq, TOKENS - 1, 1, KVP_COLD));
    for (uint64_t t = 0; tier_of_open_page(f->seq) != KVP_TIER_DISK; t += PAGE_TOKENS) {
        kvp_page_view pages[2]; /* others take its place, once it has been written down */
        kvp_view view = {.pages = pages, .max_pages = 2};
        assert_true(t < 1000 * (uint64_t)TOKENS);
        must(kvp_seq_pin(f->seq, 0, t % (TOKENS - PAGE_TOKENS), 1, KVP_FOREVER, &view));
        kvp_view_unpin(&view);
    }

    const faulty_plan no_reads = {
        .kind = FAULT_EIO, .op = FAULT_READS, .nth = 1, .is_persistent = true};
    faulty_disk_arm(&disk, no_reads);
    kvp_linear view;
    assert_int_equal(kvp_linear_open(f->seq, &(kvp_linear_args){0}, &view), KVP_E_IO);
    faulty_disk_arm(&disk, (faulty_plan){0});
    must(kvp_pager_check(f->pager));
    view = linear_view(f, 0, KVP_PLANE_K);
    faulty_disk_arm(&disk, no_reads); /* it is there for good */
    for (uint64_t row = TOKENS - TOKENS % PAGE_TOKENS; row < TOKENS; row++)
        assert_int_equal(linear_try_row(&view, expected, row), 0);
    must(kvp_linear_status(&view));
    kvp_linear_close(&view);
    free(expected);
    faulty_disk_arm(&disk, (faulty_plan){0});
    linear_tear_down(f);
    faulty_disk_fini(&disk);
}

/* ---- closing ---- */

typedef struct doomed {
    const kvp_linear *view;
    const uint16_t *expected;
    atomic_int n_begun;
} doomed;

/* Reads until the view is no more: the signal that this gives, or 0 for wrong bytes. */
static void *read_for_ever(void *arg)
{
    doomed *d = arg;
    const volatile uint16_t *rows = d->view->base;
    int signal = sigsetjmp(linear_on_signal, 1);
    if (signal)
        return (void *)(intptr_t)signal;
    linear_expects_signal = 1;
    size_t n = 0, at = 1;
    while (rows[at] == d->expected[at]) {
        at = (at + 7 * PAGE_TOKENS * WIDTH) % ((size_t)TOKENS * WIDTH);
        if (n++ == 0)
            atomic_fetch_add(&d->n_begun, 1);
    }
    linear_expects_signal = 0;
    return NULL;
}

static void test_closing_stops_whoever_reads(void **state)
{
    (void)state;
    linear_catch_signals();
    linear_fixture *f = linear_set_up(NULL);
    uint16_t *expected[2] = {linear_expected(f, 0, KVP_PLANE_K),
                             linear_expected(f, 1, KVP_PLANE_K)};
    for (uint32_t i = 0; i < 200; i++) {
        kvp_linear view = linear_view(f, i % 2, KVP_PLANE_K);
        doomed d = {.view = &view, .expected = expected[i % 2]};
        pthread_t threads[2];
        for (int t = 0; t < 2; t++)
            assert_int_equal(pthread_create(&threads[t], NULL, read_for_ever, &d), 0);
        uint64_t before = linear_faults_of(f->pager);
        while (atomic_load(&d.n_begun) < 2 || linear_faults_of(f->pager) < before + i % 50)
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
    linear_tear_down(f);
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
    kvp_config cfg = linear_config(&env);
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
    if (linear_is_unsupported())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_several_read_while_the_sequence_grows),
        cmocka_unit_test(test_rows_that_cannot_be_had_raise_sigbus),
        cmocka_unit_test(test_an_open_page_that_cannot_be_had_is_an_error_of_open),
        cmocka_unit_test(test_closing_stops_whoever_reads),
        cmocka_unit_test(test_open_without_memory_or_a_thread_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
