/* test_fork.c - forked sequences: what is shared, what is copied and when, and that nothing of one
 * ever shows in another. */
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define PAGE_TOKENS 32u
#define MAX_TOKENS 1024u
#define LAYERS 2u

static const kvp_layer_kind kind = {2, 32, 32, KVP_F16};

/* A sequence and what its tokens are. */
typedef struct told_seq {
    kvp_seq *seq;
    uint32_t salts[MAX_TOKENS];
    uint32_t n;
} told_seq;

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static kvp_pager *open_pager(uint64_t ram_bytes, uint64_t zram_bytes)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = LAYERS,
                                  .n_kv_heads = 2,
                                  .head_dim = 32,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS};
    cfg.ram_bytes = ram_bytes;
    cfg.zram_bytes = zram_bytes;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 1;
    kvp_pager *pager;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

static kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s;
}

static uint64_t n_pages(const kvp_stats *s)
{
    return s->pages[KVP_TIER_RAM] + s->pages[KVP_TIER_ZRAM] + s->pages[KVP_TIER_DISK];
}

static kvp_status try_append(told_seq *t, uint32_t n, uint32_t salt)
{
    float k[64 * 64], v[64 * 64];
    assert_true(n <= 64 && t->n + n <= MAX_TOKENS);
    for (uint32_t i = 0; i < n; i++)
        t->salts[t->n + i] = salt + i;
    pattern_rows(&kind, t->salts + t->n, n, k, v);
    kvp_status status = KVP_OK;
    for (uint32_t layer = 0; layer < LAYERS && !status; layer++)
        status = kvp_seq_append(t->seq, layer, k, v, n);
    t->n += n;
    return status;
}

static void append(told_seq *t, uint32_t n, uint32_t salt)
{
    must(try_append(t, n, salt));
}

static told_seq seq_of(kvp_pager *pager, uint32_t n)
{
    told_seq t = {0};
    must(kvp_seq_create(pager, &t.seq));
    while (t.n < n)
        append(&t, n - t.n < 64 ? n - t.n : 64, t.n + 1);
    return t;
}

static told_seq fork_of(const told_seq *parent)
{
    told_seq child = *parent;
    must(kvp_seq_fork(parent->seq, &child.seq));
    return child;
}

/* Every token of every page, through a scan. */
static bool has_its_tokens(const told_seq *t)
{
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        kvp_scan_args args = {.layer = layer, .max_parts = 1, .end = UINT64_MAX};
        kvp_scan *scan;
        uint32_t n = 0;
        must(kvp_scan_open(t->seq, &args, &scan));
        for (kvp_scan_item item; kvp_scan_claim(scan, 0, &item) == KVP_OK && item.n_pages;) {
            for (uint32_t i = 0; i < item.n_pages; i++) {
                kvp_page_view page;
                must(kvp_scan_next(scan, 0, &page));
                if (!pattern_page_ok(&page, t->salts))
                    return false;
                n += page.n_valid;
            }
        }
        kvp_scan_close(scan);
        if (n != t->n)
            return false;
    }
    return true;
}

static void test_fork_of_a_swapped_out_sequence_reads_nothing(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(100000, 0);
    told_seq parent = seq_of(pager, 1000);
    told_seq other = seq_of(pager, 500); /* the parent leaves RAM */
    kvp_stats before = stats_of(pager);
    assert_true(before.pages[KVP_TIER_DISK] > 0);
    told_seq child = fork_of(&parent);
    kvp_stats after = stats_of(pager);
    assert_int_equal(after.major_faults, before.major_faults);
    assert_int_equal(after.bytes_read, before.bytes_read);
    assert_int_equal(after.bytes_written, before.bytes_written);
    assert_int_equal(n_pages(&after), n_pages(&before));
    assert_int_equal(after.disk_bytes, before.disk_bytes);
    assert_int_equal(after.pages_shared, LAYERS * ((1000 + PAGE_TOKENS - 1) / PAGE_TOKENS));
    assert_true(has_its_tokens(&child) && has_its_tokens(&parent) && has_its_tokens(&other));
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

static void test_only_the_open_page_is_copied_by_whoever_writes_first(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(100000, 0);
    told_seq parent = seq_of(pager, 500); /* 500 % 32 = 20 tokens in the open page */
    told_seq child = fork_of(&parent);
    uint64_t pages = 0;
    kvp_stats s = stats_of(pager);
    pages = n_pages(&s);
    append(&child, 5, 7000);
    s = stats_of(pager);
    assert_int_equal(s.copies_on_write, LAYERS);
    assert_int_equal(n_pages(&s), pages + LAYERS);
    append(&parent, 9, 9000); /* alone with its page by now */
    append(&child, 1, 7100);
    s = stats_of(pager);
    assert_int_equal(s.copies_on_write, LAYERS);
    assert_int_equal(n_pages(&s), pages + LAYERS);
    assert_true(has_its_tokens(&parent) && has_its_tokens(&child));
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

static void test_fork_at_a_page_border_copies_nothing(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(100000, 0);
    told_seq parent = seq_of(pager, 10 * PAGE_TOKENS);
    told_seq child = fork_of(&parent);
    append(&child, 40, 7000);
    append(&parent, 3, 9000);
    assert_int_equal(stats_of(pager).copies_on_write, 0);
    assert_true(has_its_tokens(&parent) && has_its_tokens(&child));
    kvp_pager_close(pager);
}

static void test_truncate_into_a_shared_page_costs_no_io_and_the_next_append_copies(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(100000, 0);
    told_seq parent = seq_of(pager, 20 * PAGE_TOKENS);
    told_seq child = fork_of(&parent), other = seq_of(pager, 500);
    kvp_stats before = stats_of(pager);
    must(kvp_seq_truncate(child.seq, 100)); /* 4 tokens into the fourth page */
    child.n = 100;
    kvp_stats after = stats_of(pager);
    assert_int_equal(after.bytes_read, before.bytes_read);
    assert_int_equal(after.bytes_written, before.bytes_written);
    assert_int_equal(n_pages(&after), n_pages(&before));
    assert_int_equal(after.pages_shared, LAYERS * 4);
    append(&child, 50, 7000);
    assert_int_equal(stats_of(pager).copies_on_write, LAYERS);
    assert_true(has_its_tokens(&parent) && has_its_tokens(&child) && has_its_tokens(&other));
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

static void test_pages_live_as_long_as_somebody_has_them(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(100000, 60000);
    told_seq seqs[40];
    uint64_t random = 11;
    seqs[0] = seq_of(pager, 300);
    for (uint32_t i = 1; i < 40; i++) {
        seqs[i] = fork_of(&seqs[pattern_random(&random) % i]);
        append(&seqs[i], 1 + (uint32_t)(pattern_random(&random) % 40), i << 16);
    }
    for (uint32_t left = 40; left > 0; left--) {
        uint32_t i = (uint32_t)(pattern_random(&random) % left);
        kvp_seq_destroy(seqs[i].seq);
        seqs[i] = seqs[left - 1];
        must(kvp_pager_check(pager));
        if (left > 1)
            assert_true(has_its_tokens(&seqs[pattern_random(&random) % (left - 1)]));
    }
    kvp_stats s = stats_of(pager);
    assert_true(s.copies_on_write > 0);
    assert_int_equal(n_pages(&s), 0);
    assert_int_equal(s.disk_bytes + s.zram_bytes + s.frame_bytes + s.pages_shared, 0);
    kvp_pager_close(pager);
}

static void test_a_refused_append_leaves_the_fork_as_it_was(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(100000, 0);
    told_seq parent = seq_of(pager, 100), child = fork_of(&parent);
    float rows[64] = {[5] = 1e9f};
    assert_int_equal(kvp_seq_append(child.seq, 1, rows, rows, 1), KVP_E_RANGE);
    assert_int_equal(kvp_seq_length(child.seq), 100);
    assert_true(has_its_tokens(&parent) && has_its_tokens(&child));
    append(&child, 3, 7000);
    assert_true(has_its_tokens(&parent) && has_its_tokens(&child));
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

static void test_a_shared_page_that_is_pinned_can_be_written_by_its_copy(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(100000, 0);
    told_seq parent = seq_of(pager, 50), child = fork_of(&parent);
    kvp_page_view pages[4];
    kvp_view view = {.pages = pages, .max_pages = 4};
    must(kvp_seq_pin(parent.seq, 0, 40, 1, KVP_FOREVER, &view));
    append(&child, 3, 7000);
    assert_true(pattern_page_ok(&pages[0], parent.salts));
    kvp_view_unpin(&view);
    assert_true(has_its_tokens(&parent) && has_its_tokens(&child));
    kvp_pager_close(pager);
}

/* Else the page would be the child's alone, who knows nothing of the view. */
static void test_who_has_pinned_a_shared_page_stays_with_it(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(100000, 0);
    told_seq parent = seq_of(pager, 50), child = fork_of(&parent);
    float rows[64] = {0};
    kvp_page_view pages[4];
    kvp_view view = {.pages = pages, .max_pages = 4};
    must(kvp_seq_pin(parent.seq, 0, 40, 1, KVP_FOREVER, &view));
    assert_int_equal(kvp_seq_append(parent.seq, 0, rows, rows, 1), KVP_E_BUSY);
    must(kvp_seq_truncate(child.seq, 0));
    must(kvp_pager_check(pager));
    assert_true(pattern_page_ok(&pages[0], parent.salts));
    kvp_view_unpin(&view);
    append(&parent, 3, 7000);
    assert_true(has_its_tokens(&parent));
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

/* Descriptors, entries, and the pages of a sequence's own tables. */
static void test_a_page_takes_less_than_96_bytes_of_tables(void **state)
{
    (void)state;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = 1, .n_kv_heads = 1, .head_dim = 1, .dtype = KVP_F16, .page_tokens = 1};
    cfg.ram_bytes = 100 << 20;
    cfg.n_threads = 1;
    kvp_pager *pager;
    kvp_seq *seq;
    must(kvp_pager_open(&cfg, &pager));
    must(kvp_seq_create(pager, &seq));
    uint64_t before = stats_of(pager).table_bytes;
    float row = 1;
    const uint32_t n = 5000;
    for (uint32_t i = 0; i < n; i++)
        must(kvp_seq_append(seq, 0, &row, &row, 1));
    uint64_t bytes = stats_of(pager).table_bytes - before;
    assert_true(bytes >= n * 88u && bytes <= n * 96u);
    kvp_pager_close(pager);
}

/* ---- threads: each writes to a fork of its own ---- */

typedef struct branch {
    told_seq t;
    uint32_t id;
    bool ok;
    char message[256];
} branch;

static void *grow(void *arg)
{
    branch *b = arg;
    for (uint32_t i = 0; i < 60; i++) {
        kvp_seq *grown = b->t.seq, *fork;
        kvp_status status = try_append(&b->t, 1 + i % 7, b->id << 20 | i << 8);
        if (!status && i % 10 == 9) /* go on with a fork of the fork */
            status = kvp_seq_fork(grown, &fork);
        if (status) {
            snprintf(b->message, sizeof b->message, "%s", kvp_error());
            return NULL;
        }
        if (i % 10 == 9) {
            kvp_seq_destroy(grown);
            b->t.seq = fork;
        }
    }
    b->ok = has_its_tokens(&b->t);
    return NULL;
}

static void test_threads_that_grow_forks_of_one_sequence(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(250000, 0);
    told_seq parent = seq_of(pager, 300);
    branch branches[8];
    pthread_t threads[8];
    for (uint32_t i = 0; i < 8; i++)
        branches[i] = (branch){.t = fork_of(&parent), .id = i + 1};
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, grow, &branches[i]), 0);
    for (uint32_t i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < 8; i++)
        if (!branches[i].ok)
            fail_msg("branch %u: %s", i, branches[i].message);
    assert_true(has_its_tokens(&parent));
    assert_true(stats_of(pager).copies_on_write > 0 && stats_of(pager).major_faults > 0);
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fork_of_a_swapped_out_sequence_reads_nothing),
        cmocka_unit_test(test_only_the_open_page_is_copied_by_whoever_writes_first),
        cmocka_unit_test(test_fork_at_a_page_border_copies_nothing),
        cmocka_unit_test(test_truncate_into_a_shared_page_costs_no_io_and_the_next_append_copies),
        cmocka_unit_test(test_pages_live_as_long_as_somebody_has_them),
        cmocka_unit_test(test_a_refused_append_leaves_the_fork_as_it_was),
        cmocka_unit_test(test_a_shared_page_that_is_pinned_can_be_written_by_its_copy),
        cmocka_unit_test(test_who_has_pinned_a_shared_page_stays_with_it),
        cmocka_unit_test(test_a_page_takes_less_than_96_bytes_of_tables),
        cmocka_unit_test(test_threads_that_grow_forks_of_one_sequence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
