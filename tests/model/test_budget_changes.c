/* test_budget_changes.c - budgets of the pager that shrink and grow while its pages are in use. */
#include "budget_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* shadow memory stays */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* ---- live changes ---- */

static void test_ram_of_the_pager_shrinks_and_grows(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(60, 0, 200);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    append_pages(seq, 50);
    uint64_t at_open = stats_of(pager).ram_budget_bytes;
    must(kvp_pager_set_budget(pager, KVP_TIER_RAM, 20 * PAGE, KVP_FOREVER));
    kvp_stats s = stats_of(pager);
    assert_true(s.ram_bytes <= 20 * PAGE && s.n_frames < 20 && s.n_frames > 15);
    assert_int_equal(s.ram_budget_bytes, 20 * PAGE);
    for (int i = 0; i < 2; i++)
        read_all(seq);
    append_pages(seq, 10);
    assert_true(stats_of(pager).ram_bytes <= 20 * PAGE);
    must(kvp_pager_check(pager));
    must(kvp_pager_set_budget(pager, KVP_TIER_RAM, KVP_UNLIMITED, 0));
    s = stats_of(pager);
    assert_int_equal(s.n_frames, 60);
    assert_int_equal(s.ram_budget_bytes, at_open);
    for (int i = 0; i < 2; i++)
        read_all(seq);
    assert_int_equal(stats_of(pager).pages[KVP_TIER_RAM], 60);
    assert_fails(kvp_pager_set_budget(pager, KVP_TIER_RAM, at_open + 1, 0), KVP_E_INVALID,
                 "opened with");
    close_pager(pager);
}

/* Memory of this process in 4 KiB pages. */
static uint64_t resident_pages(void)
{
    unsigned long long total, resident;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%llu %llu", &total, &resident), 2);
    fclose(f);
    return resident;
}

static void test_shrinking_gives_memory_back(void **state)
{
    (void)state;
    for (int has_disk = 0; has_disk < 2; has_disk++) {
        kvp_pager *pager = open_pager(10000, 0, has_disk ? 100 : 0);
        kvp_seq *seqs[41];
        kvp_page_view page;
        kvp_view view = {.pages = &page, .max_pages = 1};
        for (int i = 0; i < 41; i++) {
            must(kvp_seq_create(pager, &seqs[i]));
            append_pages(seqs[i], i < 40 ? 240 : 20);
        }
        for (int i = 0; i < 40; i++) /* what is left lies at the end */
            kvp_seq_destroy(seqs[i]);
        uint64_t before = resident_pages(), n_frames = stats_of(pager).n_frames;
        must(kvp_seq_pin(seqs[40], 0, 0, 1, KVP_FOREVER, &view));
        assert_fails(kvp_pager_set_budget(pager, KVP_TIER_RAM, 100 * PAGE, KVP_FOREVER),
                     KVP_E_NOSPACE, "given back");
        kvp_view_unpin(&view);
        assert_int_equal(stats_of(pager).n_frames, n_frames);
        must(kvp_pager_set_budget(pager, KVP_TIER_RAM, 100 * PAGE, KVP_FOREVER));
        must(kvp_pager_check(pager));
        uint64_t after = resident_pages();
        if (!SANITIZED)
            assert_true(before - after > 8000);
        assert_int_equal(stats_of(pager).pages[KVP_TIER_RAM], 20);
        read_all(seqs[40]);
        must(kvp_pager_set_budget(pager, KVP_TIER_RAM, KVP_UNLIMITED, 0));
        append_pages(seqs[40], 200);
        read_all(seqs[40]);
        close_pager(pager);
    }
}

static void test_shrinking_that_cannot_be_leaves_the_old_budget(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200);
    kvp_group *g = group_of(pager, NULL, "g", 0, 20);
    kvp_seq *seq = seq_in(g);
    kvp_page_view pages[12];
    kvp_view view = {.pages = pages, .max_pages = 12};
    append_pages(seq, 30);
    must(kvp_seq_pin(seq, 0, 0, 12 * PAGE_TOKENS, KVP_FOREVER, &view));
    assert_fails(kvp_group_set_budget(g, KVP_TIER_RAM, 0, 10 * PAGE, KVP_FOREVER), KVP_E_NOSPACE,
                 "\"g\"");
    assert_int_equal(usage_of(g).max_bytes[KVP_TIER_RAM], 20 * PAGE);
    assert_fails(kvp_pager_set_budget(pager, KVP_TIER_RAM, 11 * PAGE, KVP_FOREVER), KVP_E_NOSPACE,
                 "old budget");
    assert_int_equal(stats_of(pager).n_frames, 40);
    must(kvp_group_set_budget(g, KVP_TIER_RAM, 0, 12 * PAGE, KVP_FOREVER));
    assert_true(pages_in(g, KVP_TIER_RAM) <= 12);
    kvp_view_unpin(&view);
    must(kvp_group_set_budget(g, KVP_TIER_RAM, 0, 10 * PAGE, KVP_FOREVER));
    assert_true(pages_in(g, KVP_TIER_RAM) <= 10);
    assert_fails(kvp_group_set_budget(g, KVP_TIER_DISK, 0, 5 * PAGE, KVP_FOREVER), KVP_E_NOSPACE,
                 "truncate or destroy");
    assert_int_equal(usage_of(g).max_bytes[KVP_TIER_DISK], KVP_UNLIMITED);
    read_all(seq);
    close_pager(pager);
}

static void test_dirty_pages_need_time_to_leave(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    kvp_status status = KVP_OK;
    for (int i = 0; i < 100 && !status; i++) { /* the disk may have been as fast as we */
        must(kvp_pager_set_budget(pager, KVP_TIER_RAM, 41 * PAGE - 1, KVP_FOREVER));
        must(kvp_seq_truncate(seq, 0));
        append_pages(seq, 36);
        status = kvp_pager_set_budget(pager, KVP_TIER_RAM, 8 * PAGE, 0);
    }
    assert_fails(status, KVP_E_TIMEOUT, "deadline");
    assert_int_equal(stats_of(pager).n_frames, 40);
    must(kvp_pager_set_budget(pager, KVP_TIER_RAM, 8 * PAGE, KVP_FOREVER));
    read_all(seq);
    close_pager(pager);
}

static void test_pages_that_have_nowhere_else_to_go_stop_shrinking(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 0);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    append_pages(seq, 30);
    assert_fails(kvp_pager_set_budget(pager, KVP_TIER_RAM, 25 * PAGE, KVP_FOREVER), KVP_E_NOSPACE,
                 "only RAM has");
    must(kvp_pager_set_budget(pager, KVP_TIER_RAM, 36 * PAGE, 0));
    read_all(seq);
    must(kvp_seq_truncate(seq, 4 * PAGE_TOKENS));
    must(kvp_pager_set_budget(pager, KVP_TIER_RAM, 10 * PAGE, 0));
    assert_fails(kvp_pager_set_budget(pager, KVP_TIER_RAM, 3 * PAGE, 0), KVP_E_BUDGET,
                 "needs at least");
    close_pager(pager);
}

static void test_zram_and_disk_of_the_pager_shrink(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(12, 40, 200);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    append_pages(seq, 60);
    assert_true(stats_of(pager).zram_bytes > 10 * PAGE);
    must(kvp_pager_set_budget(pager, KVP_TIER_ZRAM, 10 * PAGE, KVP_FOREVER));
    assert_true(stats_of(pager).zram_bytes <= 10 * PAGE);
    read_all(seq);
    append_pages(seq, 20);
    assert_true(stats_of(pager).zram_bytes <= 10 * PAGE);
    uint64_t disk_bytes = stats_of(pager).disk_bytes;
    assert_fails(kvp_pager_set_budget(pager, KVP_TIER_DISK, disk_bytes / 2, KVP_FOREVER),
                 KVP_E_NOSPACE, "no tier below");
    must(kvp_pager_set_budget(pager, KVP_TIER_DISK, disk_bytes + 22 * PAGE, KVP_FOREVER));
    fill(seq);
    assert_true(stats_of(pager).disk_peak_bytes <= disk_bytes + 20 * PAGE);
    read_all(seq);
    close_pager(pager);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ram_of_the_pager_shrinks_and_grows),
        cmocka_unit_test(test_shrinking_gives_memory_back),
        cmocka_unit_test(test_shrinking_that_cannot_be_leaves_the_old_budget),
        cmocka_unit_test(test_dirty_pages_need_time_to_leave),
        cmocka_unit_test(test_pages_that_have_nowhere_else_to_go_stop_shrinking),
        cmocka_unit_test(test_zram_and_disk_of_the_pager_shrink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
