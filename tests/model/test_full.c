/* test_full.c - tiers that are full: refused cleanly, used to the last page, and never a dead end.
 *
 * Each case was once a hang or a false refusal. */
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>

#define PAGE_TOKENS 64u
#define PAGE_BYTES 4096u /* 64 tokens of one head, K and V 8 floats wide */
#define N_THREADS 4u

static const kvp_layer_kind kind = {1, 8, 8, KVP_F32};
static float k[PAGE_TOKENS * 8], v[PAGE_TOKENS * 8];
static uint32_t salts[PAGE_TOKENS * 512];

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static kvp_config config(uint32_t n_frames, uint64_t zram_bytes, uint32_t n_disk_slots)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = 8,
                                  .dtype = KVP_F32,
                                  .page_tokens = PAGE_TOKENS};
    cfg.n_threads = 1;
    cfg.zram_bytes = zram_bytes;
    cfg.disk_bytes = n_disk_slots ? (n_disk_slots + 2) * (uint64_t)PAGE_BYTES : 0;
    cfg.ram_bytes = (n_frames + 1 + (zram_bytes > 0)) * (uint64_t)PAGE_BYTES - 1;
    return cfg;
}

static kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s;
}

/* Pages appended until there is no room. */
static uint32_t fill(kvp_seq *seq)
{
    uint32_t n = 0;
    kvp_status status;
    do {
        pattern_rows(&kind, salts + n * PAGE_TOKENS, PAGE_TOKENS, k, v);
        status = kvp_seq_append(seq, 0, k, v, PAGE_TOKENS);
        n += !status;
    } while (!status && n < 500);
    assert_int_equal(status, KVP_E_NOSPACE);
    return n;
}

static void read_all(kvp_seq *seq)
{
    kvp_scan *scan;
    kvp_scan_item item;
    kvp_page_view page;
    must(kvp_scan_open(seq, &(kvp_scan_args){.max_parts = 1, .end = UINT64_MAX}, &scan));
    for (must(kvp_scan_claim(scan, 0, &item)); item.n_pages; must(kvp_scan_claim(scan, 0, &item)))
        for (uint32_t i = 0; i < item.n_pages; i++) {
            must(kvp_scan_next(scan, 0, &page));
            assert_true(pattern_page_ok(&page, salts));
        }
    kvp_scan_close(scan);
}

static void test_small_disk_is_used_to_the_last_slot(void **state)
{
    (void)state;
    for (uint32_t frames = 6; frames <= 66; frames += 5)
        for (uint32_t slots = 1; slots < frames; slots += 7) {
            kvp_config cfg = config(frames, 0, slots);
            kvp_pager *pager;
            kvp_seq *seq;
            must(kvp_pager_open(&cfg, &pager));
            must(kvp_seq_create(pager, &seq));
            uint32_t n = fill(seq);
            kvp_stats s = stats_of(pager);
            assert_int_equal(s.disk_bytes, slots * PAGE_BYTES);
            assert_int_equal(n, s.n_frames - 3 + slots);
            read_all(seq); /* full, and still readable */
            must(kvp_pager_check(pager));
            kvp_pager_close(pager);
        }
}

static void test_full_pager_stays_readable_after_open_pages_change(void **state)
{
    (void)state;
    uint64_t random = 88;
    for (uint32_t round = 0; round < 60; round++) {
        kvp_config cfg = config(5 + round % 9, round % 3 ? 0 : 3 * PAGE_BYTES, 2 + round % 7);
        kvp_pager *pager;
        kvp_seq *seqs[3];
        uint32_t length[3] = {0};
        must(kvp_pager_open(&cfg, &pager));
        for (int i = 0; i < 3; i++)
            must(kvp_seq_create(pager, &seqs[i]));
        for (uint32_t step = 0; step < 120; step++) {
            uint32_t i = (uint32_t)(pattern_random(&random) >> 40) % 3;
            uint32_t n = 1 + (uint32_t)(pattern_random(&random) >> 40) % 60;
            pattern_rows(&kind, salts + length[i], n, k, v);
            kvp_status status = kvp_seq_append(seqs[i], 0, k, v, n);
            if (!status)
                length[i] += n;
            else
                assert_int_equal(status, KVP_E_NOSPACE);
            read_all(seqs[i]);
            must(kvp_pager_check(pager));
        }
        kvp_pager_close(pager);
    }
}

static void test_pins_of_pages_that_only_ram_holds_are_not_counted_twice(void **state)
{
    (void)state;
    kvp_config cfg = config(40, 0, 0);
    kvp_pager *pager;
    kvp_seq *seq;
    kvp_page_view pages[64];
    kvp_view view = {.pages = pages, .max_pages = 64};
    must(kvp_pager_open(&cfg, &pager));
    must(kvp_seq_create(pager, &seq));
    uint32_t n = fill(seq);
    must(kvp_seq_pin(seq, 0, 0, n * PAGE_TOKENS, 0, &view)); /* all of them, at once */
    assert_int_equal(view.n_pages, n);
    for (uint32_t i = 0; i < n; i++)
        assert_true(pattern_page_ok(&pages[i], salts));
    must(kvp_pager_check(pager));
    kvp_view_unpin(&view);
    read_all(seq);
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

/* ---- threads that fill the pager at the same time ---- */

static void *fill_and_drop(void *arg)
{
    kvp_pager *pager = arg;
    kvp_status status = KVP_OK;
    float rows[PAGE_TOKENS * 8] = {1};
    for (uint32_t round = 0; round < 200; round++) {
        kvp_seq *seq;
        if (kvp_seq_create(pager, &seq))
            return "cannot create a sequence";
        do
            status = kvp_seq_append(seq, 0, rows, rows, PAGE_TOKENS);
        while (!status);
        kvp_seq_destroy(seq);
        if (status != KVP_E_NOSPACE)
            return "an append failed, but not for lack of room";
    }
    return NULL;
}

static void test_threads_that_fill_the_pager_together_all_come_to_an_end(void **state)
{
    (void)state;
    static const struct {
        uint64_t zram_bytes;
        uint32_t n_slots;
    } cases[] = {{0, 0}, {16384, 0}, {0, 8}, {20000, 16}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvp_config cfg = config(8, cases[i].zram_bytes, cases[i].n_slots);
        kvp_pager *pager;
        pthread_t threads[N_THREADS];
        must(kvp_pager_open(&cfg, &pager));
        for (uint32_t t = 0; t < N_THREADS; t++)
            assert_int_equal(pthread_create(&threads[t], NULL, fill_and_drop, pager), 0);
        for (uint32_t t = 0; t < N_THREADS; t++) {
            void *message;
            must(kvp_pager_check(pager)); /* at any time */
            pthread_join(threads[t], &message);
            if (message)
                fail_msg("%s", (const char *)message);
        }
        must(kvp_pager_check(pager));
        kvp_pager_close(pager);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_disk_is_used_to_the_last_slot),
        cmocka_unit_test(test_full_pager_stays_readable_after_open_pages_change),
        cmocka_unit_test(test_pins_of_pages_that_only_ram_holds_are_not_counted_twice),
        cmocka_unit_test(test_threads_that_fill_the_pager_together_all_come_to_an_end),
    };
    for (uint32_t i = 0; i < sizeof salts / sizeof *salts; i++)
        salts[i] = i + 5;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
