/* test_ticket.c - asynchronous pins: polled, waited for, announced by a descriptor, cancelled, and
 * what they say when a page cannot be had. */
#include "tests/support/faulty_disk.h"
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define TOKENS 512u
#define PAGE_TOKENS 32u
#define N_PAGES (TOKENS / PAGE_TOKENS)
#define PAGE_BYTES 8192u

static const kvp_layer_kind kind = {2, 32, 32, KVP_F16};

typedef struct fixture {
    kvp_pager *pager;
    kvp_seq *seq, *other;
    uint32_t salts[TOKENS];
} fixture;

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static kvp_config config(uint32_t n_frames)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = 2,
                                  .n_kv_heads = 2,
                                  .head_dim = 32,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS};
    cfg.ram_bytes = n_frames * (PAGE_BYTES + 128);
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 1;
    return cfg;
}

static void fill(const fixture *f, kvp_seq *seq)
{
    static float k[TOKENS * 64], v[TOKENS * 64];
    pattern_rows(&kind, f->salts, TOKENS, k, v);
    for (uint32_t layer = 0; layer < 2; layer++)
        must(kvp_seq_append(seq, layer, k, v, TOKENS));
}

/* A sequence that has left RAM: the other one is there. */
static fixture open_fixture(const kvp_config *cfg)
{
    fixture f = {0};
    for (uint32_t i = 0; i < TOKENS; i++)
        f.salts[i] = i + 1;
    must(kvp_pager_open(cfg, &f.pager));
    must(kvp_seq_create(f.pager, &f.seq));
    fill(&f, f.seq);
    must(kvp_seq_advise(f.seq, 0, TOKENS, KVP_COLD));
    must(kvp_seq_create(f.pager, &f.other));
    fill(&f, f.other);
    return f;
}

static uint64_t faults(const fixture *f)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(f->pager, &s));
    return s.major_faults;
}

static void assert_pages_ok(const fixture *f, const kvp_view *view, size_t n)
{
    assert_int_equal(view->n_pages, n);
    for (size_t i = 0; i < n; i++)
        assert_true(pattern_page_ok(&view->pages[i], f->salts));
}

/* ---- without the thread ---- */

static void test_a_ticket_becomes_ready_by_being_polled(void **state)
{
    (void)state;
    kvp_config cfg = config(24);
    fixture f = open_fixture(&cfg);
    kvp_page_view pages[8];
    kvp_ticket t = {.view = {.pages = pages, .max_pages = 8}};
    uint64_t before = faults(&f);
    must(kvp_seq_prepare(f.seq, 0, 0, 8 * PAGE_TOKENS, &t));
    assert_int_equal(kvp_seq_prepare(f.other, 0, 0, 1, &t), KVP_E_BUSY); /* it stays as it is */
    kvp_status status;
    while ((status = kvp_ticket_wait(&t, 0)) == KVP_E_AGAIN)
        must(kvp_pager_check(f.pager));
    must(status);
    assert_true(faults(&f) - before >= 8);
    assert_pages_ok(&f, &t.view, 8);
    assert_int_equal(kvp_seq_truncate(f.seq, 10), KVP_E_BUSY);
    kvp_view_unpin(&t.view);
    must(kvp_seq_truncate(f.seq, 10));
    kvp_pager_close(f.pager);
}

static void test_tickets_of_many_sequences_are_waited_for_in_any_order(void **state)
{
    (void)state;
    kvp_config cfg = config(40);
    fixture f = open_fixture(&cfg);
    kvp_page_view pages[6][4];
    kvp_ticket t[6];
    for (uint32_t i = 0; i < 6; i++) {
        t[i] = (kvp_ticket){.view = {.pages = pages[i], .max_pages = 4}};
        must(kvp_seq_prepare(i % 2 ? f.seq : f.other, i / 2 % 2, i * 64, 4 * PAGE_TOKENS, &t[i]));
    }
    must(kvp_pager_check(f.pager));
    for (uint32_t i = 6; i-- > 0;) {
        must(kvp_ticket_wait(&t[i], KVP_FOREVER));
        assert_pages_ok(&f, &t[i].view, 4);
        kvp_view_unpin(&t[i].view);
    }
    kvp_pager_close(f.pager);
}

static void test_a_ticket_without_frames_waits_for_those_of_others(void **state)
{
    (void)state;
    kvp_config cfg = config(12);
    fixture f = open_fixture(&cfg);
    kvp_page_view pages[2][8];
    kvp_ticket a = {.view = {.pages = pages[0], .max_pages = 8}};
    kvp_ticket b = {.view = {.pages = pages[1], .max_pages = 8}};
    must(kvp_seq_prepare(f.seq, 0, 0, 8 * PAGE_TOKENS, &a));
    must(kvp_ticket_wait(&a, KVP_FOREVER));
    must(kvp_seq_prepare(f.seq, 1, 0, 8 * PAGE_TOKENS, &b));
    for (int i = 0; i < 50; i++)
        assert_int_equal(kvp_ticket_wait(&b, 0), KVP_E_AGAIN);
    kvp_view_unpin(&a.view);
    must(kvp_ticket_wait(&b, KVP_FOREVER));
    assert_pages_ok(&f, &b.view, 8);
    kvp_view_unpin(&b.view);
    must(kvp_pager_check(f.pager));
    kvp_pager_close(f.pager);
}

static void test_a_cancelled_ticket_holds_nothing(void **state)
{
    (void)state;
    kvp_config cfg = config(12);
    fixture f = open_fixture(&cfg);
    kvp_page_view pages[8];
    for (int i = 0; i < 20; i++) {
        kvp_ticket t = {.view = {.pages = pages, .max_pages = 8}};
        must(kvp_seq_prepare(f.seq, (uint32_t)i % 2, 0, 8 * PAGE_TOKENS, &t));
        if (i % 3 == 0)
            (void)!kvp_ticket_wait(&t, 0);
        kvp_ticket_cancel(&t);
        kvp_view_unpin(&t.view);
        must(kvp_pager_check(f.pager));
    }
    must(kvp_seq_truncate(f.seq, 10));
    kvp_ticket_cancel(NULL);
    kvp_pager_close(f.pager);
}

static void test_what_a_ticket_cannot_be_is_said_at_once(void **state)
{
    (void)state;
    kvp_config cfg = config(12);
    fixture f = open_fixture(&cfg);
    kvp_page_view pages[32];
    kvp_ticket t = {.view = {.pages = pages, .max_pages = 4}};
    assert_int_equal(kvp_seq_prepare(f.seq, 0, 0, 8 * PAGE_TOKENS, &t), KVP_E_INVALID);
    assert_int_equal(t.view.n_pages, 8);
    assert_int_equal(kvp_ticket_wait(&t, 0), KVP_E_INVALID); /* not open */
    t.view.max_pages = 32;
    assert_int_equal(kvp_seq_prepare(f.seq, 9, 0, 1, &t), KVP_E_INVALID);
    assert_int_equal(kvp_seq_prepare(f.seq, 0, TOKENS, 1, &t), KVP_E_RANGE);
    assert_int_equal(kvp_seq_prepare(f.seq, 0, 0, TOKENS, &t), KVP_E_NOSPACE);
    assert_int_equal(kvp_seq_prepare(NULL, 0, 0, 1, &t), KVP_E_INVALID);
    kvp_pager_close(f.pager);
}

static void test_appending_goes_on_beside_a_ticket_but_not_to_its_page(void **state)
{
    (void)state;
    kvp_config cfg = config(24);
    fixture f = open_fixture(&cfg);
    must(kvp_seq_truncate(f.seq, TOKENS - 40)); /* an open page in either layer */
    float k[2 * 64], v[2 * 64];
    pattern_rows(&kind, f.salts + TOKENS - 40, 2, k, v);
    kvp_page_view pages[4];
    kvp_ticket t = {.view = {.pages = pages, .max_pages = 4}};
    must(kvp_seq_prepare(f.seq, 0, TOKENS - 42, 2, &t));
    assert_int_equal(kvp_seq_append(f.seq, 0, k, v, 2), KVP_E_BUSY);
    must(kvp_seq_append(f.seq, 1, k, v, 2));
    assert_int_equal(kvp_seq_truncate(f.seq, 5), KVP_E_BUSY);
    must(kvp_ticket_wait(&t, KVP_FOREVER));
    kvp_view_unpin(&t.view);
    must(kvp_seq_append(f.seq, 0, k, v, 2));
    kvp_pager_close(f.pager);
}

/* ---- with the thread ---- */

static void await_event(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t n;
    assert_int_equal(poll(&p, 1, 60000), 1);
    assert_int_equal(read(fd, &n, sizeof n), sizeof n);
}

static void test_the_descriptor_becomes_readable_while_nobody_calls(void **state)
{
    (void)state;
    kvp_config cfg = config(40);
    fixture f = open_fixture(&cfg);
    int fd, again;
    must(kvp_pager_eventfd(f.pager, &fd));
    must(kvp_pager_eventfd(f.pager, &again));
    assert_int_equal(fd, again);
    for (uint32_t round = 0; round < 10; round++) {
        kvp_page_view pages[5][4];
        kvp_ticket t[5];
        for (uint32_t i = 0; i < 5; i++) {
            t[i] = (kvp_ticket){.view = {.pages = pages[i], .max_pages = 4}};
            must(kvp_seq_prepare(round % 2 ? f.seq : f.other, 0, i * 96, 3 * PAGE_TOKENS, &t[i]));
        }
        for (uint32_t left = 5; left;) {
            await_event(fd);
            for (uint32_t i = 0; i < 5; i++) {
                if (!t[i].seq || kvp_ticket_wait(&t[i], 0) == KVP_E_AGAIN)
                    continue;
                assert_pages_ok(&f, &t[i].view, 3);
                kvp_view_unpin(&t[i].view);
                left--;
            }
        }
        must(kvp_pager_check(f.pager));
    }
    kvp_pager_close(f.pager);
}

static void test_the_thread_gives_way_to_waits_and_cancels(void **state)
{
    (void)state;
    kvp_config cfg = config(16);
    fixture f = open_fixture(&cfg);
    int fd;
    must(kvp_pager_eventfd(f.pager, &fd));
    for (uint32_t i = 0; i < 100; i++) {
        kvp_page_view pages[2][6];
        kvp_ticket a = {.view = {.pages = pages[0], .max_pages = 6}};
        kvp_ticket b = {.view = {.pages = pages[1], .max_pages = 6}};
        must(kvp_seq_prepare(f.seq, 0, i % 10 * 32, 6 * PAGE_TOKENS, &a));
        must(kvp_seq_prepare(f.other, 1, i % 9 * 32, 6 * PAGE_TOKENS, &b));
        if (i % 2)
            kvp_ticket_cancel(&b);
        must(kvp_ticket_wait(&a, KVP_FOREVER));
        assert_pages_ok(&f, &a.view, 6);
        kvp_view_unpin(&a.view);
        kvp_ticket_cancel(&b);
    }
    must(kvp_pager_check(f.pager));
    kvp_pager_close(f.pager);
}

/* ---- errors ---- */

static void test_a_ticket_says_what_could_not_be_read(void **state)
{
    (void)state;
    for (int with_thread = 0; with_thread < 2; with_thread++) {
        kvp_config cfg = config(24);
        faulty_disk disk;
        faulty_disk_init(&disk, NULL);
        cfg.env = &disk.env;
        fixture f = open_fixture(&cfg);
        int fd;
        if (with_thread)
            must(kvp_pager_eventfd(f.pager, &fd));
        kvp_page_view pages[8];
        kvp_ticket t = {.view = {.pages = pages, .max_pages = 8}};
        faulty_disk_arm(&disk, (faulty_plan){.kind = FAULT_FLIP,
                                             .op = FAULT_READS,
                                             .nth = 1,
                                             .is_persistent = true,
                                             .flip_bit = 77});
        must(kvp_seq_prepare(f.seq, 0, 0, 8 * PAGE_TOKENS, &t));
        assert_int_equal(kvp_ticket_wait(&t, KVP_FOREVER), KVP_E_CORRUPT);
        assert_non_null(strstr(kvp_error(), "checksum"));
        must(kvp_pager_check(f.pager));
        must(kvp_seq_truncate(f.seq, 0)); /* nothing is left open */
        kvp_pager_close(f.pager);
        assert_true(faulty_disk_fired(&disk) > 0);
        faulty_disk_fini(&disk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_ticket_becomes_ready_by_being_polled),
        cmocka_unit_test(test_tickets_of_many_sequences_are_waited_for_in_any_order),
        cmocka_unit_test(test_a_ticket_without_frames_waits_for_those_of_others),
        cmocka_unit_test(test_a_cancelled_ticket_holds_nothing),
        cmocka_unit_test(test_what_a_ticket_cannot_be_is_said_at_once),
        cmocka_unit_test(test_appending_goes_on_beside_a_ticket_but_not_to_its_page),
        cmocka_unit_test(test_the_descriptor_becomes_readable_while_nobody_calls),
        cmocka_unit_test(test_the_thread_gives_way_to_waits_and_cancels),
        cmocka_unit_test(test_a_ticket_says_what_could_not_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
