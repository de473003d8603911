/* test_advise.c - every hint has the effect that its description promises, and changes no byte. */
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <poll.h>
#include <string.h>

#define TOKENS 512u
#define PAGE_TOKENS 32u
#define N_PAGES (TOKENS / PAGE_TOKENS)
#define PAGE_BYTES 8192u
#define SEQS 4u

static const kvp_layer_kind kind = {2, 32, 32, KVP_F16};

/* Four sequences of 16 pages, RAM for some 24. */
typedef struct fixture {
    kvp_pager *pager;
    kvp_seq *seqs[SEQS];
    uint32_t salts[TOKENS];
} fixture;

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static void read_all(const fixture *f, uint32_t seq);

/* All pages have been written down: none has to be before it leaves. */
static fixture set_up(const kvp_placement_ops *placement)
{
    fixture f = {0};
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .n_kv_heads = 2,
                                  .head_dim = 32,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS};
    cfg.ram_bytes = 24 * (PAGE_BYTES + 128);
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 1;
    cfg.placement = placement;
    must(kvp_pager_open(&cfg, &f.pager));
    static float k[TOKENS * 64], v[TOKENS * 64];
    for (uint32_t i = 0; i < TOKENS; i++)
        f.salts[i] = i + 1;
    pattern_rows(&kind, f.salts, TOKENS, k, v);
    for (uint32_t i = 0; i < SEQS; i++) {
        must(kvp_seq_create(f.pager, &f.seqs[i]));
        must(kvp_seq_append(f.seqs[i], 0, k, v, TOKENS));
    }
    for (uint32_t i = 0; i < 2 * SEQS; i++)
        read_all(&f, i % SEQS);
    return f;
}

static void tear_down(fixture *f)
{
    must(kvp_pager_check(f->pager));
    kvp_pager_close(f->pager);
}

static kvp_stats stats_of(const fixture *f)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(f->pager, &s));
    return s;
}

/* Pages of tokens [first, end) that are in RAM. */
static uint32_t n_resident(const fixture *f, uint32_t seq, uint64_t first, uint64_t end)
{
    kvp_page_info infos[N_PAGES];
    size_t n;
    uint32_t n_in_ram = 0;
    must(kvp_seq_pages(f->seqs[seq], infos, N_PAGES, &n));
    for (size_t i = 0; i < n; i++)
        n_in_ram += infos[i].tier == KVP_TIER_RAM && infos[i].first_position >= first &&
                    infos[i].first_position < end;
    return n_in_ram;
}

/* Every byte of the sequence, one page after the other. */
static void read_all(const fixture *f, uint32_t seq)
{
    kvp_page_view page;
    for (uint32_t t = 0; t < TOKENS; t += PAGE_TOKENS) {
        kvp_view view = {.pages = &page, .max_pages = 1};
        must(kvp_seq_pin(f->seqs[seq], 0, t, 1, KVP_FOREVER, &view));
        assert_true(pattern_page_ok(&page, f->salts));
        kvp_view_unpin(&view);
    }
}

static const kvp_placement_ops *const policies[] = {&kvp_placement_sticky, &kvp_placement_lru};
#define FOR_EACH_POLICY(p) for (size_t p = 0; p < sizeof policies / sizeof *policies; p++)

static void test_cold_pages_leave_first(void **state)
{
    (void)state;
    FOR_EACH_POLICY(p)
    {
        fixture f = set_up(policies[p]);
        read_all(&f, 1);
        uint32_t before = n_resident(&f, 1, 0, TOKENS);
        must(kvp_seq_advise(f.seqs[1], 0, TOKENS, KVP_COLD));
        assert_true(before > 0 && n_resident(&f, 1, 0, TOKENS) == before); /* nothing moves yet */
        read_all(&f, 2);
        assert_int_equal(n_resident(&f, 1, 0, TOKENS), 0);
        read_all(&f, 1); /* used: like others again */
        assert_true(n_resident(&f, 1, 0, TOKENS) > 0);
        tear_down(&f);
    }
}

static void test_dontneed_sends_pages_away_at_once(void **state)
{
    (void)state;
    FOR_EACH_POLICY(p)
    {
        fixture f = set_up(policies[p]);
        read_all(&f, 1);
        read_all(&f, 2); /* whatever was dirty has been written by now */
        read_all(&f, 1);
        assert_true(n_resident(&f, 1, 0, TOKENS) > 0);
        uint64_t frame_bytes = stats_of(&f).frame_bytes;
        must(kvp_seq_advise(f.seqs[1], 0, TOKENS, KVP_DONTNEED));
        assert_int_equal(n_resident(&f, 1, 0, TOKENS), 0);
        assert_true(stats_of(&f).frame_bytes < frame_bytes);
        read_all(&f, 1);
        tear_down(&f);
    }
}

static void test_willneed_begins_what_others_find_done(void **state)
{
    (void)state;
    FOR_EACH_POLICY(p)
    {
        fixture f = set_up(policies[p]);
        must(kvp_seq_advise(f.seqs[1], 0, TOKENS, KVP_DONTNEED));
        kvp_stats before = stats_of(&f);
        must(kvp_seq_advise(f.seqs[1], 0, TOKENS, KVP_WILLNEED));
        assert_true(stats_of(&f).prefetches_advised > 0); /* nothing has been waited for */
        read_all(&f, 1);
        assert_int_equal(stats_of(&f).major_faults - before.major_faults, N_PAGES);
        assert_int_equal(n_resident(&f, 1, 0, TOKENS), N_PAGES);
        tear_down(&f);
    }
}

static void test_willneed_needs_nobody_where_there_is_the_thread(void **state)
{
    (void)state;
    fixture f = set_up(NULL);
    int fd;
    must(kvp_pager_eventfd(f.pager, &fd));
    must(kvp_seq_advise(f.seqs[1], 0, TOKENS, KVP_DONTNEED));
    must(kvp_seq_advise(f.seqs[1], 64, 256, KVP_WILLNEED));
    for (uint32_t i = 0; i < 60000 && n_resident(&f, 1, 64, 320) < 8; i++)
        poll(NULL, 0, 1);
    assert_int_equal(n_resident(&f, 1, 64, 320), 8);
    tear_down(&f);
}

/* More than RAM holds: what was fetched first is not displaced by the rest. */
static void test_willneed_fills_ram_and_stops(void **state)
{
    (void)state;
    fixture f = set_up(NULL);
    for (uint32_t i = 1; i < SEQS; i++)
        must(kvp_seq_advise(f.seqs[i], 0, TOKENS, KVP_DONTNEED));
    uint64_t before = stats_of(&f).major_faults;
    for (uint32_t i = 1; i < SEQS; i++)
        must(kvp_seq_advise(f.seqs[i], 0, TOKENS, KVP_WILLNEED));
    read_all(&f, 1);
    assert_int_equal(n_resident(&f, 1, 0, TOKENS), N_PAGES);
    kvp_stats s = stats_of(&f);
    assert_true(s.prefetches_advised >= N_PAGES && s.prefetches_advised < 2 * N_PAGES);
    assert_true(s.major_faults - before <= s.prefetches_advised);
    for (uint32_t i = 2; i < SEQS; i++)
        read_all(&f, i);
    tear_down(&f);
}

static void test_kept_pages_outlast_others_and_low_ones_do_not(void **state)
{
    (void)state;
    fixture f = set_up(NULL);
    must(kvp_seq_advise(f.seqs[1], 0, 256, KVP_KEEP));
    must(kvp_seq_advise(f.seqs[2], 0, TOKENS, KVP_LOW));
    for (uint32_t round = 0; round < 3; round++) {
        read_all(&f, 1);
        read_all(&f, 2);
        read_all(&f, 3);
        assert_int_equal(n_resident(&f, 1, 0, 256), 8);
        assert_true(n_resident(&f, 2, 0, TOKENS) <= 1);
    }
    must(kvp_seq_advise(f.seqs[1], 0, 256, KVP_NORMAL));
    must(kvp_seq_advise(f.seqs[1], 0, 256, KVP_COLD));
    read_all(&f, 3);
    read_all(&f, 0);
    assert_int_equal(n_resident(&f, 1, 0, 256), 0);
    tear_down(&f);
}

static void test_shared_pages_are_not_sent_away_for_one_sequence(void **state)
{
    (void)state;
    fixture f = set_up(NULL);
    kvp_seq *child;
    read_all(&f, 1);
    uint32_t before = n_resident(&f, 1, 0, TOKENS);
    must(kvp_seq_fork(f.seqs[1], &child));
    must(kvp_seq_advise(child, 0, TOKENS, KVP_DONTNEED));
    assert_true(before > 0 && n_resident(&f, 1, 0, TOKENS) == before);
    kvp_seq_destroy(child);
    tear_down(&f);
}

static void test_bad_advice_is_refused(void **state)
{
    (void)state;
    fixture f = set_up(NULL);
    assert_int_equal(kvp_seq_advise(f.seqs[0], 0, 1, (kvp_advice)0), KVP_E_INVALID);
    assert_int_equal(kvp_seq_advise(f.seqs[0], 0, 1, (kvp_advice)7), KVP_E_INVALID);
    assert_int_equal(kvp_seq_advise(NULL, 0, 1, KVP_COLD), KVP_E_INVALID);
    must(kvp_seq_advise(f.seqs[0], TOKENS + 9, 1, KVP_WILLNEED));
    must(kvp_seq_advise(f.seqs[0], 3, UINT64_MAX, KVP_WILLNEED));
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cold_pages_leave_first),
        cmocka_unit_test(test_dontneed_sends_pages_away_at_once),
        cmocka_unit_test(test_willneed_begins_what_others_find_done),
        cmocka_unit_test(test_willneed_needs_nobody_where_there_is_the_thread),
        cmocka_unit_test(test_willneed_fills_ram_and_stops),
        cmocka_unit_test(test_kept_pages_outlast_others_and_low_ones_do_not),
        cmocka_unit_test(test_shared_pages_are_not_sent_away_for_one_sequence),
        cmocka_unit_test(test_bad_advice_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
