/* test_api.c - what the public interface promises, call by call: errors that say what to do, pins
 * with and without waiting, budgets that work from exactly the bytes that the message names. */
#include "tests/support/faulty_disk.h"
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS 512u

static const kvp_layer_kind kind = {2, 32, 32, KVP_F16};

typedef struct fixture {
    kvp_pager *pager;
    kvp_seq *seq;
    uint32_t salts[TOKENS];
} fixture;

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

/* It failed with that status, and the message has the word. */
static void assert_fails(kvp_status got, kvp_status expected, const char *word)
{
    assert_int_equal(got, expected);
    if (!strstr(kvp_error(), word))
        fail_msg("\"%s\" does not say \"%s\"", kvp_error(), word);
}

/* 8 KiB pages. */
static kvp_config small_config(uint64_t ram_bytes)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = 2, .n_kv_heads = 2, .head_dim = 32, .dtype = KVP_F16, .page_tokens = 32};
    cfg.ram_bytes = ram_bytes;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 1;
    return cfg;
}

static void append(fixture *f, uint32_t layer, uint32_t n)
{
    static float k[TOKENS * 64], v[TOKENS * 64];
    uint64_t before = kvp_seq_layer_length(f->seq, layer);
    pattern_rows(&kind, f->salts + before, n, k, v);
    must(kvp_seq_append(f->seq, layer, k, v, n));
}

static fixture open_fixture(const kvp_config *cfg, uint32_t n_tokens)
{
    fixture f = {0};
    for (uint32_t i = 0; i < TOKENS; i++)
        f.salts[i] = i + 1;
    must(kvp_pager_open(cfg, &f.pager));
    must(kvp_seq_create(f.pager, &f.seq));
    for (uint32_t layer = 0; layer < 2 && n_tokens; layer++)
        append(&f, layer, n_tokens);
    return f;
}

static kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s;
}

/* ---- budgets ---- */

static uint64_t bytes_needed(kvp_config cfg)
{
    cfg.ram_bytes = 1;
    kvp_pager *pager;
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_BUDGET, "needs at least ");
    return strtoull(strstr(kvp_error(), "needs at least ") + 15, NULL, 10);
}

static void test_exactly_the_bytes_that_the_message_names_work(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        kvp_config cfg = small_config(1);
        cfg.zram_bytes = i == 1 ? 1 << 20 : 0;
        cfg.disk_bytes = i == 2 ? 0 : KVP_UNLIMITED;
        uint64_t needed = bytes_needed(cfg);
        kvp_pager *pager;
        cfg.ram_bytes = needed - 1;
        assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_BUDGET, "needs at least ");
        cfg.ram_bytes = needed;
        fixture f = open_fixture(&cfg, i == 2 ? 0 : TOKENS);
        float q[64] = {1}, out[64];
        if (i != 2)
            must(kvp_attend(
                f.seq, 1,
                &(kvp_attend_args){.q = q, .out = out, .n_queries = 1, .n_heads = 2, .scale = 1}));
        assert_true(stats_of(f.pager).ram_peak_bytes <= needed);
        must(kvp_pager_check(f.pager));
        kvp_pager_close(f.pager);
    }
}

static void test_bad_configurations_say_what_to_do(void **state)
{
    (void)state;
    kvp_pager *pager;
    kvp_config cfg = small_config(1 << 20);
    assert_fails(kvp_pager_open(NULL, &pager), KVP_E_INVALID, "NULL");
    cfg.size = 7;
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_INVALID, "kvp_config_default");
    cfg = small_config(1 << 20);
    cfg.disk_bytes = 0;
    cfg.disk_path = "x";
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_INVALID, "disk_bytes");
    cfg = small_config(1 << 20);
    cfg.disk_engine = "floppy";
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_INVALID, "uring-fixed");
    cfg = small_config(1 << 20);
    cfg.disk_path = "/nonexistent/folder/swap";
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_IO, "/nonexistent/folder/swap");
    cfg = small_config(1 << 20);
    cfg.geometry.n_kv_heads = 0;
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_INVALID, "n_kv_heads");
}

static void test_ram_alone_takes_what_it_holds_and_no_more(void **state)
{
    (void)state;
    kvp_config cfg = small_config(20 * 8192);
    cfg.disk_bytes = 0;
    fixture f = open_fixture(&cfg, 0);
    uint32_t n = 0;
    static float rows[32 * 64];
    while (!kvp_seq_append(f.seq, 0, rows, rows, 32))
        n++;
    assert_fails(kvp_seq_append(f.seq, 0, rows, rows, 32), KVP_E_NOSPACE, "disk");
    assert_int_equal(kvp_seq_layer_length(f.seq, 0), n * 32);
    assert_true(n >= 15 && n < 20);
    must(kvp_pager_check(f.pager));
    kvp_pager_close(f.pager);
}

/* ---- append ---- */

static void test_values_that_do_not_fit_the_dtype_are_refused(void **state)
{
    (void)state;
    kvp_config cfg = small_config(1 << 20);
    fixture f = open_fixture(&cfg, 40);
    static float k[8 * 64], v[8 * 64];
    static const float bad[] = {70000.0f, -1e30f, INFINITY, NAN};
    for (size_t i = 0; i < 4; i++) {
        v[5 * 64 + 3] = bad[i];
        assert_fails(kvp_seq_append(f.seq, 0, k, v, 8), KVP_E_RANGE, "f16");
        assert_int_equal(kvp_seq_layer_length(f.seq, 0), 40);
    }
    kvp_page_view pages[2];
    kvp_view view = {.pages = pages, .max_pages = 2};
    append(&f, 0, 8); /* what is there has not suffered */
    must(kvp_seq_pin(f.seq, 0, 0, 48, KVP_FOREVER, &view));
    assert_int_equal(view.n_pages, 2);
    assert_true(pattern_page_ok(&pages[0], f.salts) && pattern_page_ok(&pages[1], f.salts));
    assert_int_equal(pages[1].n_valid, 16);
    kvp_view_unpin(&view);
    kvp_pager_close(f.pager);
}

static void test_strided_rows_equal_dense_ones(void **state)
{
    (void)state;
    kvp_config cfg = small_config(1 << 20);
    fixture f = open_fixture(&cfg, 0);
    static float k[70 * 64], v[70 * 64], fused[70][3][64]; /* q, k, v of a fused projection */
    pattern_rows(&kind, f.salts, 70, k, v);
    for (size_t t = 0; t < 70; t++) {
        memcpy(fused[t][1], k + t * 64, sizeof fused[t][1]);
        memcpy(fused[t][2], v + t * 64, sizeof fused[t][2]);
    }
    kvp_rows rows = {.k = fused[0][1],
                     .v = fused[0][2],
                     .dtype = KVP_F32,
                     .k_token_stride = sizeof fused[0],
                     .v_token_stride = sizeof fused[0]};
    must(kvp_seq_append_rows(f.seq, 1, &rows, 70));
    kvp_page_view pages[3];
    kvp_view view = {.pages = pages, .max_pages = 3};
    must(kvp_seq_pin(f.seq, 1, 0, 70, KVP_FOREVER, &view));
    for (int i = 0; i < 3; i++)
        assert_true(pattern_page_ok(&pages[i], f.salts));
    kvp_view_unpin(&view);
    kvp_pager_close(f.pager);
}

static void test_rows_behind_the_tokens_are_zero_again_after_truncate_and_append(void **state)
{
    (void)state;
    kvp_config cfg = small_config(1 << 20);
    fixture f = open_fixture(&cfg, 30);
    must(kvp_seq_truncate(f.seq, 10));
    append(&f, 0, 5);
    kvp_page_view pages[1];
    kvp_view view = {.pages = pages, .max_pages = 1};
    must(kvp_seq_pin(f.seq, 0, 0, 15, KVP_FOREVER, &view));
    assert_int_equal(pages[0].n_valid, 15);
    assert_true(pattern_page_ok(&pages[0], f.salts));
    for (uint32_t h = 0; h < 2; h++) {
        const uint16_t *k = kvp_page_k(&pages[0], h), *v = kvp_page_v(&pages[0], h);
        for (size_t i = 15 * 32; i < 32 * 32; i++)
            assert_int_equal(k[i] | v[i], 0);
    }
    kvp_view_unpin(&view);
    kvp_pager_close(f.pager);
}

static void test_pinned_open_page_blocks_append_and_truncate(void **state)
{
    (void)state;
    kvp_config cfg = small_config(1 << 20);
    fixture f = open_fixture(&cfg, 40);
    static float row[64];
    kvp_page_view pages[2];
    kvp_view view = {.pages = pages, .max_pages = 2};
    must(kvp_seq_pin(f.seq, 0, 32, 8, KVP_FOREVER, &view));
    assert_fails(kvp_seq_append(f.seq, 0, row, row, 1), KVP_E_BUSY, "unpin");
    assert_fails(kvp_seq_truncate(f.seq, 3), KVP_E_BUSY, "unpin");
    assert_fails(kvp_seq_evict(f.seq, 0, 0, 32), KVP_E_BUSY, "unpin");
    kvp_view_unpin(&view);
    must(kvp_seq_append(f.seq, 0, row, row, 1));
    must(kvp_seq_truncate(f.seq, 3));
    assert_int_equal(kvp_seq_length(f.seq), 3);
    kvp_pager_close(f.pager);
}

/* ---- pins ---- */

/* Two, one after the other, that one thread reads side by side. */
static void test_open_scans_block_truncate_and_evict(void **state)
{
    (void)state;
    kvp_config cfg = small_config(KVP_UNLIMITED);
    cfg.disk_bytes = 0;
    fixture f = open_fixture(&cfg, 100);
    const kvp_scan_args args = {.max_parts = 1, .end = UINT64_MAX};
    kvp_scan *scans[2];
    for (int i = 0; i < 2; i++)
        must(kvp_scan_open(f.seq, &args, &scans[i]));
    for (int i = 0; i < 2; i++) {
        assert_fails(kvp_seq_truncate(f.seq, 3), KVP_E_BUSY, "close");
        assert_fails(kvp_seq_evict(f.seq, 0, 0, 64), KVP_E_BUSY, "close");
        assert_fails(kvp_seq_set_budget(f.seq, KVP_TIER_RAM, 0, 1u << 20, 0), KVP_E_BUSY, "scan");
        kvp_scan_close(scans[i]);
    }
    must(kvp_seq_evict(f.seq, 0, 0, 64));
    must(kvp_seq_truncate(f.seq, 65));
    must(kvp_seq_set_budget(f.seq, KVP_TIER_RAM, 0, 1u << 20, 0));
    must(kvp_pager_check(f.pager));
    kvp_pager_close(f.pager);
}

static void test_pin_without_waiting_says_again_and_then_succeeds(void **state)
{
    (void)state;
    kvp_config cfg = small_config(6 * 8192 + 4096);
    fixture f = open_fixture(&cfg, TOKENS);
    kvp_page_view pages[1];
    kvp_view view = {.pages = pages, .max_pages = 1};
    uint32_t n_again = 0;
    for (uint32_t t = 0; t < TOKENS; t += 32) {
        kvp_status status;
        while ((status = kvp_seq_pin(f.seq, 0, t, 1, 0, &view)) == KVP_E_AGAIN)
            n_again++;
        must(status);
        assert_true(pattern_page_ok(&pages[0], f.salts));
        kvp_view_unpin(&view);
    }
    assert_true(n_again > 0);
    assert_true(stats_of(f.pager).major_faults > 0);
    must(kvp_pager_check(f.pager));
    kvp_pager_close(f.pager);
}

static void test_pins_stay_while_everything_else_moves(void **state)
{
    (void)state;
    kvp_config cfg = small_config(9 * 8192 + 4096);
    fixture f = open_fixture(&cfg, 256);
    kvp_page_view pages[4];
    kvp_view view = {.pages = pages, .max_pages = 4};
    must(kvp_seq_pin(f.seq, 0, 64, 100, KVP_FOREVER, &view));
    const void *where = pages[0].k;
    append(&f, 1, 200); /* evicts whatever may be evicted */
    kvp_page_view other[1];
    kvp_view second = {.pages = other, .max_pages = 1};
    for (uint32_t t = 0; t < 256; t += 32) {
        must(kvp_seq_pin(f.seq, 1, t, 1, KVP_FOREVER, &second));
        kvp_view_unpin(&second);
    }
    assert_ptr_equal(pages[0].k, where);
    for (size_t i = 0; i < view.n_pages; i++)
        assert_true(pattern_page_ok(&pages[i], f.salts));
    assert_true(stats_of(f.pager).evictions > 0);
    kvp_view_unpin(&view);
    kvp_view_unpin(&view); /* twice is harmless */
    kvp_pager_close(f.pager);
}

static void test_pins_that_cannot_be_met_say_why(void **state)
{
    (void)state;
    kvp_config cfg = small_config(6 * 8192 + 4096);
    fixture f = open_fixture(&cfg, TOKENS);
    kvp_page_view pages[16];
    kvp_view view = {.pages = pages, .max_pages = 2};
    assert_fails(kvp_seq_pin(f.seq, 0, 0, 100, KVP_FOREVER, &view), KVP_E_INVALID, "4");
    assert_int_equal(view.n_pages, 4);
    view.max_pages = 16;
    assert_fails(kvp_seq_pin(f.seq, 0, 0, TOKENS, KVP_FOREVER, &view), KVP_E_NOSPACE, "scan");
    assert_fails(kvp_seq_pin(f.seq, 0, TOKENS, 1, KVP_FOREVER, &view), KVP_E_RANGE, "512");
    assert_fails(kvp_seq_pin(f.seq, 9, 0, 1, KVP_FOREVER, &view), KVP_E_INVALID, "layer 9");
    must(kvp_seq_pin(f.seq, 0, 0, 128, KVP_FOREVER, &view));
    kvp_view more = {.pages = pages + 4, .max_pages = 8};
    assert_fails(kvp_seq_pin(f.seq, 0, 128, 96, KVP_FOREVER, &more), KVP_E_NOSPACE, "pinned");
    kvp_view_unpin(&view);
    must(kvp_pager_check(f.pager));
    kvp_pager_close(f.pager);
}

/* ---- retention ---- */

static void test_evicted_tokens_are_gone_and_the_others_keep_their_positions(void **state)
{
    (void)state;
    kvp_config cfg = small_config(6 * 8192 + 4096);
    fixture f = open_fixture(&cfg, TOKENS);
    must(kvp_seq_evict(f.seq, KVP_ALL_LAYERS, 40, 200)); /* whole pages only: 64..191 */
    assert_int_equal(kvp_seq_page_count(f.seq, 0), 12);
    assert_int_equal(kvp_seq_length(f.seq), TOKENS);
    kvp_page_view pages[1];
    kvp_view view = {.pages = pages, .max_pages = 1};
    must(kvp_seq_pin(f.seq, 1, 200, 1, KVP_FOREVER, &view));
    assert_int_equal(pages[0].first_position, 192);
    assert_true(pattern_page_ok(&pages[0], f.salts));
    kvp_view_unpin(&view);
    assert_fails(kvp_seq_pin(f.seq, 1, 70, 8, KVP_FOREVER, &view), KVP_E_RANGE, "evicted");
    assert_fails(kvp_seq_truncate(f.seq, 100), KVP_E_RANGE, "evicted");
    must(kvp_seq_evict(f.seq, 0, 0, UINT64_MAX)); /* the last page stays */
    assert_int_equal(kvp_seq_page_count(f.seq, 0), 1);
    must(kvp_seq_truncate(f.seq, 0));
    append(&f, 0, 33);
    must(kvp_pager_check(f.pager));
    kvp_pager_close(f.pager);
}

/* ---- advice ---- */

static size_t count_resident(kvp_seq *seq)
{
    kvp_page_info infos[TOKENS / 32 * 2];
    size_t n, n_resident = 0;
    must(kvp_seq_pages(seq, infos, sizeof infos / sizeof *infos, &n));
    for (size_t i = 0; i < n; i++)
        n_resident += infos[i].tier == KVP_TIER_RAM;
    return n_resident;
}

/* Two sequences fill the RAM; what a third one needs comes from the cold one alone. */
static void test_cold_sequence_makes_room_for_others(void **state)
{
    (void)state;
    const uint32_t n_tokens = 5 * 32, n_pages = 2 * 5;
    kvp_config cfg = small_config(KVP_UNLIMITED);
    cfg.ram_bytes = bytes_needed(cfg) + 2 * n_pages * 8192;
    for (int cold = 0; cold < 2; cold++) {
        fixture f = open_fixture(&cfg, n_tokens);
        kvp_seq *seqs[3] = {f.seq};
        must(kvp_seq_create(f.pager, &seqs[1]));
        must(kvp_seq_create(f.pager, &seqs[2]));
        f.seq = seqs[1];
        append(&f, 0, n_tokens);
        append(&f, 1, n_tokens);
        assert_int_equal(count_resident(seqs[0]) + count_resident(seqs[1]), 2 * n_pages);
        must(kvp_seq_advise(seqs[cold], 0, UINT64_MAX, KVP_COLD));
        f.seq = seqs[2];
        append(&f, 0, n_tokens);
        append(&f, 1, n_tokens);
        assert_true(count_resident(seqs[cold]) < n_pages / 2);
        assert_true(count_resident(seqs[!cold]) >= n_pages - 2); /* while others are written */
        must(kvp_pager_check(f.pager));
        kvp_pager_close(f.pager);
    }
}

/* Which pages are in RAM, 0 or 1, when a third sequence has taken the room of half of those of two;
 * `first`: what was advised about no token of seqs[which] at that position. */
static void find_stayers(uint32_t which, uint64_t first, char stays[4 * 5 + 1])
{
    const uint32_t n_tokens = 5 * 32, n_pages = 2 * 5;
    kvp_config cfg = small_config(KVP_UNLIMITED);
    cfg.disk_bytes = 0; /* no device's timing in the choice */
    cfg.zram_bytes = 4 << 20;
    cfg.ram_bytes = bytes_needed(cfg) + 2 * n_pages * 8192;
    fixture f = open_fixture(&cfg, n_tokens);
    kvp_seq *seqs[3] = {f.seq};
    for (uint32_t i = 1; i < 3; i++) {
        must(kvp_seq_create(f.pager, &seqs[i]));
        f.seq = seqs[i];
        if (i == 2)
            must(kvp_seq_advise(seqs[which], first, 0, KVP_COLD));
        append(&f, 0, n_tokens);
        append(&f, 1, n_tokens);
    }
    for (uint32_t i = 0; i < 2 * n_pages; i++) {
        kvp_page_info infos[2 * 5];
        size_t n;
        must(kvp_seq_pages(seqs[i / n_pages], infos, n_pages, &n));
        stays[i] = infos[i % n_pages].tier == KVP_TIER_RAM ? '1' : '0';
    }
    stays[2 * n_pages] = '\0';
    kvp_pager_close(f.pager);
}

static void test_advice_about_no_token_has_no_effect(void **state)
{
    (void)state;
    char without[4 * 5 + 1], with[4 * 5 + 1];
    find_stayers(0, 0, without); /* nothing lies before position 0 */
    assert_true(strchr(without, '0') && strchr(without, '1'));
    for (uint32_t which = 0; which < 2; which++) {
        for (uint64_t first = 1; first < 5 * 32; first += 32) {
            find_stayers(which, first, with);
            assert_string_equal(with, without);
        }
    }
}

/* ---- attention ---- */

static void test_nan_in_a_query_is_seen_in_its_output_only(void **state)
{
    (void)state;
    kvp_config cfg = small_config(1 << 20);
    fixture f = open_fixture(&cfg, 100);
    static const size_t n_queries[] = {2, 20}; /* decode and prefill kernels */
    for (size_t i = 0; i < 2; i++) {
        static float q[20 * 64], out[20 * 64];
        memset(q, 0, sizeof q);
        q[64] = NAN; /* query 1, head 0 */
        must(kvp_attend(
            f.seq, 0,
            &(kvp_attend_args){
                .q = q, .out = out, .n_queries = n_queries[i], .n_heads = 2, .scale = 1}));
        for (size_t d = 0; d < n_queries[i] * 64; d++)
            assert_int_equal(isnan(out[d]) != 0, d >= 64 && d < 96);
    }
    kvp_pager_close(f.pager);
}

static void test_what_is_not_there_is_refused(void **state)
{
    (void)state;
    kvp_config cfg = small_config(1 << 20);
    fixture f = open_fixture(&cfg, 10);
    float row[64] = {0};
    assert_int_equal(kvp_seq_layer_length(f.seq, 7), 0);
    assert_int_equal(kvp_seq_page_count(f.seq, 7), 0);
    assert_fails(kvp_seq_append(f.seq, 7, row, row, 1), KVP_E_INVALID, "layer 7");
    assert_fails(kvp_seq_append(f.seq, 0, NULL, row, 1), KVP_E_INVALID, "NULL");
    assert_fails(kvp_seq_reserve(f.seq, UINT64_MAX), KVP_E_NOMEM, "too many");
    assert_fails(kvp_seq_reserve(NULL, 1), KVP_E_INVALID, "NULL");
    assert_fails(kvp_seq_evict(f.seq, 7, 0, 1), KVP_E_INVALID, "layer 7");
    assert_fails(kvp_seq_advise(f.seq, 0, 1, (kvp_advice)99), KVP_E_INVALID, "99");
    assert_fails(kvp_seq_advise(NULL, 0, 1, KVP_COLD), KVP_E_INVALID, "NULL");
    kvp_stats s = {.size = 3};
    assert_fails(kvp_pager_stats(f.pager, &s), KVP_E_INVALID, "sizeof");
    kvp_seq_destroy(NULL);
    kvp_pager_close(NULL);
    kvp_view_unpin(NULL);
    kvp_pager_close(f.pager);
}

/* A program that was built with an earlier, shorter kvp_stats. */
static void test_shorter_stats_are_filled_and_no_more(void **state)
{
    (void)state;
    kvp_config cfg = small_config(1 << 20);
    fixture f = open_fixture(&cfg, 100);
    const kvp_stats all = stats_of(f.pager);
    static const size_t sizes[] = {offsetof(kvp_stats, pages), offsetof(kvp_stats, disk_bytes),
                                   offsetof(kvp_stats, prefetches_used), sizeof all};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char untouched[sizeof all];
        kvp_stats s;
        memset(&s, 0xa5, sizeof s);
        memset(untouched, 0xa5, sizeof untouched);
        s.size = sizes[i];
        must(kvp_pager_stats(f.pager, &s));
        assert_int_equal(s.size, sizes[i]);
        const size_t past = sizeof s.size;
        assert_memory_equal((char *)&s + past, (const char *)&all + past, sizes[i] - past);
        assert_memory_equal((char *)&s + sizes[i], untouched, sizeof s - sizes[i]);
    }
    kvp_stats s = {.size = sizeof s + 1};
    assert_fails(kvp_pager_stats(f.pager, &s), KVP_E_INVALID, "sizeof");
    kvp_pager_close(f.pager);
}

/* ---- corruption ---- */

/* First token of a page of layer 0 that only the disk has, other than the first page. */
static uint64_t token_on_disk(fixture *f)
{
    kvp_page_info infos[TOKENS / 32 * 2];
    size_t n;
    must(kvp_seq_pages(f->seq, infos, sizeof infos / sizeof *infos, &n));
    assert_int_equal(n, TOKENS / 32 * 2);
    for (size_t i = 1; i < n; i++)
        if (infos[i].layer == 0 && infos[i].tier == KVP_TIER_DISK)
            return infos[i].first_position;
    fail_msg("no page is on disk");
    return 0;
}

static void test_corrupt_page_is_named_lost_for_ever_and_alone(void **state)
{
    (void)state;
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    kvp_config cfg = small_config(6 * 8192 + 4096);
    cfg.env = &disk.env;
    fixture f = open_fixture(&cfg, TOKENS);
    kvp_page_view pages[1];
    kvp_view view = {.pages = pages, .max_pages = 1};
    uint64_t t = token_on_disk(&f);
    char name[64];
    snprintf(name, sizeof name, "tokens %u..%u of sequence 0, layer 0", (unsigned)t,
             (unsigned)t + 31);
    faulty_disk_arm(&disk,
                    (faulty_plan){.kind = FAULT_FLIP, .op = FAULT_READS, .nth = 1, .flip_bit = 77});
    assert_fails(kvp_seq_pin(f.seq, 0, t, 1, KVP_FOREVER, &view), KVP_E_CORRUPT, name);
    assert_int_equal(faulty_disk_fired(&disk), 1);
    assert_fails(kvp_seq_pin(f.seq, 0, t, 1, KVP_FOREVER, &view), KVP_E_LOST, name);
    float q[64] = {1}, out[64];
    kvp_attend_args args = {.q = q, .out = out, .n_queries = 1, .n_heads = 2, .scale = 1};
    assert_fails(kvp_attend(f.seq, 0, &args), KVP_E_LOST, name);
    must(kvp_attend(f.seq, 1, &args)); /* other lanes do not suffer */
    must(kvp_seq_pin(f.seq, 0, t - 32, 1, KVP_FOREVER, &view));
    assert_true(pattern_page_ok(&pages[0], f.salts));
    kvp_view_unpin(&view);
    kvp_stats s = stats_of(f.pager);
    assert_int_equal(s.pages_lost, 1);
    assert_int_equal(s.checksum_failures, 1);
    uint64_t first, n;
    must(kvp_seq_lost(f.seq, &first, &n));
    assert_true(first == t && n == 32);
    must(kvp_seq_truncate(f.seq, first));
    must(kvp_seq_lost(f.seq, &first, &n));
    assert_int_equal(n, 0);
    append(&f, 0, 64); /* put back */
    must(kvp_seq_pin(f.seq, 0, t, 1, KVP_FOREVER, &view));
    assert_true(pattern_page_ok(&pages[0], f.salts));
    kvp_view_unpin(&view);
    must(kvp_pager_check(f.pager));
    kvp_pager_close(f.pager);
    faulty_disk_fini(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exactly_the_bytes_that_the_message_names_work),
        cmocka_unit_test(test_bad_configurations_say_what_to_do),
        cmocka_unit_test(test_ram_alone_takes_what_it_holds_and_no_more),
        cmocka_unit_test(test_values_that_do_not_fit_the_dtype_are_refused),
        cmocka_unit_test(test_strided_rows_equal_dense_ones),
        cmocka_unit_test(test_rows_behind_the_tokens_are_zero_again_after_truncate_and_append),
        cmocka_unit_test(test_pinned_open_page_blocks_append_and_truncate),
        cmocka_unit_test(test_open_scans_block_truncate_and_evict),
        cmocka_unit_test(test_pin_without_waiting_says_again_and_then_succeeds),
        cmocka_unit_test(test_pins_stay_while_everything_else_moves),
        cmocka_unit_test(test_pins_that_cannot_be_met_say_why),
        cmocka_unit_test(test_evicted_tokens_are_gone_and_the_others_keep_their_positions),
        cmocka_unit_test(test_cold_sequence_makes_room_for_others),
        cmocka_unit_test(test_advice_about_no_token_has_no_effect),
        cmocka_unit_test(test_nan_in_a_query_is_seen_in_its_output_only),
        cmocka_unit_test(test_what_is_not_there_is_refused),
        cmocka_unit_test(test_shorter_stats_are_filled_and_no_more),
        cmocka_unit_test(test_corrupt_page_is_named_lost_for_ever_and_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
