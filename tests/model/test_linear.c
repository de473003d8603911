/* test_linear.c - linear views: what is read through one is what a pin of the page shows, whatever
 * is there at the moment, and within the RAM set aside for views. */
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { TOKENS = 2000, LAYERS = 4, PAGE_TOKENS = 64, OS_PAGE = 4096 };
enum { VIEWS_BYTES = 128 << 10 };

/* Strips of whole OS pages, of less than one, of one and a half, and of odd rows. */
static const kvp_layer_kind kinds[LAYERS] = {
    {4, 64, 64, KVP_F16}, {3, 5, 12, KVP_F16}, {2, 24, 32, KVP_F32}, {2, 37, 111, KVP_OPAQUE}};

typedef struct fixture {
    kvp_pager *pager;
    kvp_seq *seq;
    const kvp_layer_kind *kinds;
    uint32_t salts[2 * TOKENS];
} fixture;

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static void assert_fails(kvp_status got, kvp_status expected, const char *word)
{
    assert_int_equal(got, expected);
    if (!strstr(kvp_error(), word))
        fail_msg("\"%s\" does not say \"%s\"", kvp_error(), word);
}

static kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s;
}

static void append(fixture *f, uint32_t layer, uint64_t n)
{
    static float k[100 * 8 * 64], v[100 * 8 * 64];
    uint64_t at = kvp_seq_layer_length(f->seq, layer);
    for (uint64_t done = 0; done < n; done += n - done < 100 ? n - done : 100)
        must(pattern_append(f->seq, layer, &f->kinds[layer], f->salts + at + done,
                            n - done < 100 ? n - done : 100, k, v));
}

static kvp_config config(void)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = LAYERS, .layers = kinds, .page_tokens = PAGE_TOKENS, .page_heads = 2};
    cfg.ram_bytes = 400000 + VIEWS_BYTES; /* for 3.7 MB of KV */
    cfg.linear_bytes = VIEWS_BYTES;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 2;
    return cfg;
}

/* A pager with TOKENS tokens in every layer. */
static fixture *set_up(kvp_config cfg)
{
    fixture *f = calloc(1, sizeof *f);
    f->kinds = cfg.geometry.layers;
    for (uint32_t i = 0; i < 2 * TOKENS; i++)
        f->salts[i] = i + 5;
    must(kvp_pager_open(&cfg, &f->pager));
    must(kvp_seq_create(f->pager, &f->seq));
    for (uint32_t layer = 0; layer < cfg.geometry.n_layers; layer++)
        append(f, layer, TOKENS);
    return f;
}

static void tear_down(fixture *f)
{
    must(kvp_pager_check(f->pager));
    kvp_pager_close(f->pager);
    free(f);
}

/* Rows [begin, end) of the view are those of the pinned pages. */
static void compare_with_pins(fixture *f, const kvp_linear_args *args, const kvp_linear *view,
                              uint64_t begin, uint64_t end)
{
    kvp_layer_info info;
    must(kvp_seq_layer_info(f->seq, args->layer, &info));
    for (uint64_t row = begin; row < end;) {
        uint64_t position = args->first + row;
        kvp_page_view pages[8];
        kvp_view pinned = {.pages = pages, .max_pages = 8};
        must(kvp_seq_pin(f->seq, args->layer, position, 1, KVP_FOREVER, &pinned));
        const kvp_page_view *page = &pages[args->kv_head / info.page_heads];
        uint64_t in_page = position - page->first_position, n = page->n_valid - in_page;
        n = n < end - row ? n : end - row;
        uint32_t head = args->kv_head % info.page_heads;
        const char *rows =
            args->plane == KVP_PLANE_K ? kvp_page_k(page, head) : kvp_page_v(page, head);
        assert_true(pattern_page_ok(page, f->salts));
        assert_memory_equal((const char *)view->base + row * view->row_bytes,
                            rows + in_page * view->row_bytes, n * view->row_bytes);
        kvp_view_unpin(&pinned);
        row += n;
    }
}

/* What the kernel says is there of a view that begins with its row 0. */
static uint64_t os_bytes(const kvp_linear *view)
{
    unsigned char there[1024];
    size_t strip = view->row_bytes * PAGE_TOKENS, block = (strip + OS_PAGE - 1) / OS_PAGE * OS_PAGE;
    size_t n_blocks = (view->n_rows * view->row_bytes + block - 1) / block, n_there = 0;
    size_t n = n_blocks * (block / OS_PAGE);
    assert_true(n <= sizeof there);
    assert_int_equal(mincore((void *)view->base, n * OS_PAGE, there), 0);
    for (size_t i = 0; i < n; i++)
        n_there += there[i] & 1;
    return n_there * OS_PAGE;
}

/* They are counted, as soon as what is read ahead has come. */
static void assert_counted(const fixture *f, const kvp_linear *view)
{
    for (int i = 0; i < 100000; i++)
        if (os_bytes(view) == stats_of(f->pager).linear_resident_bytes)
            return;
    fail_msg("%llu bytes are there, %llu are counted", (unsigned long long)os_bytes(view),
             (unsigned long long)stats_of(f->pager).linear_resident_bytes);
}

static void test_a_view_shows_what_pins_show(void **state)
{
    (void)state;
    static const uint64_t max_kib[LAYERS][2] = {{48, 48}, {16, 20}, {44, 40}, {24, 40}};
    fixture *f = set_up(config());
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t head = 0; head < kinds[layer].n_kv_heads; head++)
            for (int plane = 0; plane < 2; plane++) {
                uint64_t evictions = stats_of(f->pager).linear_evictions;
                kvp_linear_args args = {.layer = layer,
                                        .kv_head = head,
                                        .plane = (kvp_plane)plane,
                                        .max_bytes = max_kib[layer][plane] << 10};
                kvp_linear view;
                must(kvp_linear_open(f->seq, &args, &view));
                assert_int_equal(view.n_rows, TOKENS);
                for (int round = 0; round < 2; round++) /* what was dropped comes again */
                    compare_with_pins(f, &args, &view, 0, view.n_rows);
                uint64_t random = layer + 1;
                for (int i = 0; i < 50; i++) {
                    uint64_t row = pattern_random(&random) % view.n_rows;
                    compare_with_pins(f, &args, &view, row, row + 1);
                }
                kvp_stats s = stats_of(f->pager);
                assert_true(s.linear_resident_bytes > 0);
                assert_counted(f, &view);
                assert_true(s.linear_resident_bytes < args.max_bytes);
                assert_true(s.linear_evictions > evictions);
                must(kvp_linear_status(&view));
                must(kvp_pager_check(f->pager));
                kvp_linear_close(&view);
                assert_int_equal(stats_of(f->pager).linear_resident_bytes, 0);
            }
    kvp_stats s = stats_of(f->pager);
    assert_true(s.linear_faults > 500 && s.linear_evictions > 500 && s.major_faults > 0);
    assert_true(s.ram_peak_bytes <= s.ram_budget_bytes);
    assert_true(s.disk_bytes > 7 * s.ram_budget_bytes / 2);
    tear_down(f);
}

static void test_who_reads_in_order_is_read_ahead_of(void **state)
{
    (void)state;
    static const kvp_layer_kind kind = {8, 64, 64, KVP_F16};
    kvp_config cfg = config();
    cfg.geometry =
        (kvp_geometry){.n_layers = 1, .layers = &kind, .page_tokens = 16, .page_heads = 1};
    cfg.ram_bytes = (512 << 10) + VIEWS_BYTES; /* 128 small frames, of 1,000 */
    fixture *f = set_up(cfg);
    kvp_linear_args args = {.kv_head = 5};
    kvp_linear view;
    must(kvp_linear_open(f->seq, &args, &view));
    const uint64_t n_blocks = TOKENS * 64 * 2 / OS_PAGE;
    for (int round = 0; round < 3; round++) {
        kvp_stats before = stats_of(f->pager);
        compare_with_pins(f, &args, &view, 0, view.n_rows);
        kvp_stats after = stats_of(f->pager);
        assert_in_range(after.linear_faults - before.linear_faults, n_blocks / 8, n_blocks / 4);
        assert_true(round == 0 || after.linear_evictions - before.linear_evictions >= n_blocks / 2);
    }
    uint64_t random = 5, faults = stats_of(f->pager).linear_faults;
    for (int i = 0; i < 200; i++) {
        uint64_t row = pattern_random(&random) % view.n_rows;
        compare_with_pins(f, &args, &view, row, row + 1);
    }
    assert_true(stats_of(f->pager).linear_faults > faults + 50); /* nobody is, who does not */
    kvp_linear_close(&view);
    tear_down(f);
}

static void test_a_view_may_be_of_some_tokens(void **state)
{
    (void)state;
    fixture *f = set_up(config());
    uint64_t random = 3;
    for (int i = 0; i < 60; i++) {
        uint64_t first = pattern_random(&random) % TOKENS;
        kvp_linear_args args = {.layer = (uint32_t)i % LAYERS,
                                .kv_head = 1,
                                .plane = KVP_PLANE_V,
                                .first = first,
                                .n_tokens = pattern_random(&random) % (TOKENS - first + 1)};
        kvp_linear view;
        must(kvp_linear_open(f->seq, &args, &view));
        assert_int_equal(view.n_rows, args.n_tokens ? args.n_tokens : TOKENS - first);
        compare_with_pins(f, &args, &view, 0, view.n_rows);
        kvp_linear_close(&view);
    }
    tear_down(f);
}

/* Reading them copies nothing. */
static void assert_there(const fixture *f, const kvp_linear *view, uint64_t begin, uint64_t end)
{
    uint64_t faults = stats_of(f->pager).linear_faults;
    const volatile char *rows = view->base;
    for (uint64_t row = begin; row < end; row++)
        (void)rows[row * view->row_bytes];
    assert_int_equal(stats_of(f->pager).linear_faults, faults);
}

static void test_a_view_is_of_the_tokens_that_were_there(void **state)
{
    (void)state;
    fixture *f = set_up(config());
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        kvp_linear_args args = {.layer = layer, .kv_head = 1, .max_bytes = 56 << 10};
        kvp_linear view;
        must(kvp_linear_open(f->seq, &args, &view));
        compare_with_pins(f, &args, &view, 0, TOKENS);
        for (uint64_t i = 0; i < 10; i++) { /* what was the open page is filled and sealed */
            assert_there(f, &view, TOKENS - TOKENS % PAGE_TOKENS, TOKENS);
            append(f, layer, 7 + 20 * i);
            compare_with_pins(f, &args, &view, TOKENS - 10, TOKENS);
            compare_with_pins(f, &args, &view, i * 100, i * 100 + 100);
        }
        assert_int_equal(view.n_rows, TOKENS);
        assert_fails(kvp_seq_truncate(f->seq, 10), KVP_E_BUSY, "linear view");
        assert_fails(kvp_seq_evict(f->seq, layer, 0, 100), KVP_E_BUSY, "linear view");
        kvp_linear_close(&view);
        kvp_linear_close(&view); /* does nothing */
    }
    must(kvp_seq_truncate(f->seq, 10));
    tear_down(f);
}

static void test_a_fork_has_views_of_its_own(void **state)
{
    (void)state;
    fixture *f = set_up(config());
    kvp_seq *parent = f->seq;
    must(kvp_seq_fork(parent, &f->seq));
    kvp_linear_args args = {.kv_head = 3, .plane = KVP_PLANE_V, .max_bytes = 48 << 10};
    kvp_linear view;
    must(kvp_linear_open(f->seq, &args, &view));
    must(kvp_seq_truncate(parent,
                          TOKENS - 100)); /* its next tokens are others, on pages of its own */
    static float k[100 * 4 * 64], v[100 * 4 * 64];
    must(pattern_append(parent, 0, &kinds[0], f->salts, 100, k, v));
    append(f, 0, 100);
    compare_with_pins(f, &args, &view, 0, TOKENS);
    kvp_seq_destroy(parent);
    compare_with_pins(f, &args, &view, 0, TOKENS);
    kvp_linear_close(&view);
    tear_down(f);
}

/* Its views are filled with frames of its own, which no pin of it can take. */
static void test_a_sequence_with_a_budget_reads_while_it_has_pinned_all_else(void **state)
{
    (void)state;
    fixture *f = set_up(config());
    const uint64_t max_frames = 8;
    must(kvp_seq_set_budget(f->seq, KVP_TIER_RAM, 0, max_frames * stats_of(f->pager).slot_bytes,
                            KVP_FOREVER));
    kvp_linear_args args = {.max_bytes = 40 << 10};
    kvp_linear views[2];
    must(kvp_linear_open(f->seq, &args, &views[0]));
    must(kvp_linear_open(f->seq, &args, &views[1]));
    kvp_page_view pages[8];
    kvp_view pinned = {.pages = pages, .max_pages = 8};
    uint64_t n_tokens = 8 * PAGE_TOKENS / 2;
    while (kvp_seq_pin(f->seq, 0, 0, n_tokens, KVP_FOREVER, &pinned)) {
        assert_true(n_tokens > PAGE_TOKENS); /* two heads to a page, of four */
        n_tokens -= PAGE_TOKENS;
    }
    assert_true(n_tokens < 8 * PAGE_TOKENS / 2);
    kvp_group_usage u = {.size = sizeof u};
    for (int i = 0; i < 2; i++) {
        uint64_t faults = stats_of(f->pager).linear_faults;
        volatile char sum = 0;
        for (uint64_t r = 0; r < views[1].n_rows; r++)
            sum = (char)(sum + ((const char *)views[1].base)[r * views[1].row_bytes]);
        assert_true(stats_of(f->pager).linear_faults > faults);
        must(kvp_linear_status(&views[1]));
        must(kvp_pager_check(f->pager));
        if (i == 0) /* the other holds the frames now */
            kvp_linear_close(&views[0]);
        must(kvp_pager_check(f->pager));
        must(kvp_seq_stats(f->seq, &u));
        assert_true(u.bytes[KVP_TIER_RAM] <= u.max_bytes[KVP_TIER_RAM]);
    }
    kvp_view_unpin(&pinned);
    compare_with_pins(f, &args, &views[1], 0, TOKENS);
    kvp_linear_close(&views[1]);
    tear_down(f);
}

static void test_evicted_tokens_are_refused(void **state)
{
    (void)state;
    fixture *f = set_up(config());
    kvp_linear view;
    must(kvp_seq_evict(f->seq, 0, 128, 512));
    kvp_linear_args args = {0};
    assert_fails(kvp_linear_open(f->seq, &args, &view), KVP_E_RANGE, "evicted");
    args.first = 500; /* in the gap */
    assert_fails(kvp_linear_open(f->seq, &args, &view), KVP_E_RANGE, "evicted");
    args = (kvp_linear_args){.n_tokens = 129}; /* into it */
    assert_fails(kvp_linear_open(f->seq, &args, &view), KVP_E_RANGE, "evicted");
    for (uint64_t first = 0; first <= 512; first += 512) {
        args = (kvp_linear_args){.first = first, .n_tokens = 128};
        must(kvp_linear_open(f->seq, &args, &view));
        compare_with_pins(f, &args, &view, 0, 128);
        kvp_linear_close(&view);
    }
    tear_down(f);
}

static void test_wrong_arguments_are_refused(void **state)
{
    (void)state;
    fixture *f = set_up(config());
    kvp_linear view = {0};
    static const struct {
        kvp_linear_args args;
        kvp_status status;
        const char *word;
    } cases[] = {
        {{.layer = LAYERS}, KVP_E_INVALID, "layer 4"},
        {{.kv_head = 4}, KVP_E_INVALID, "KV head 4"},
        {{.plane = (kvp_plane)2}, KVP_E_INVALID, "plane 2"},
        {{.first = TOKENS}, KVP_E_RANGE, "2000"},
        {{.first = 10, .n_tokens = TOKENS - 9}, KVP_E_RANGE, "2000"},
        {{.n_tokens = UINT64_MAX}, KVP_E_RANGE, "2000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_fails(kvp_linear_open(f->seq, &cases[i].args, &view), cases[i].status,
                     cases[i].word);
    assert_fails(kvp_linear_open(NULL, &cases[0].args, &view), KVP_E_INVALID, "NULL");
    assert_fails(kvp_linear_open(f->seq, NULL, &view), KVP_E_INVALID, "NULL");
    assert_fails(kvp_linear_status(&view), KVP_E_INVALID, "not open");
    kvp_linear_close(&view);
    kvp_linear_close(NULL);
    tear_down(f);
}

static uint64_t needed_bytes(void)
{
    const char *needs = strstr(kvp_error(), "needs at least ");
    assert_non_null(needs);
    return strtoull(needs + strlen("needs at least "), NULL, 10);
}

static void test_shares_are_reserved_and_no_more_than_there_is(void **state)
{
    (void)state;
    fixture *f = set_up(config());
    kvp_linear_args args = {.max_bytes = 1};
    kvp_linear view, rest, none;
    assert_fails(kvp_linear_open(f->seq, &args, &view), KVP_E_BUDGET, "needs at least");
    args.max_bytes = needed_bytes() - 1;
    assert_fails(kvp_linear_open(f->seq, &args, &view), KVP_E_BUDGET, "needs at least");
    args.max_bytes++;
    must(kvp_linear_open(f->seq, &args, &view)); /* exactly that many */
    compare_with_pins(f, &args, &view, 0, TOKENS);
    must(kvp_linear_open(f->seq, &(kvp_linear_args){.kv_head = 1}, &rest)); /* all that is left */
    assert_fails(kvp_linear_open(f->seq, &args, &none), KVP_E_BUDGET, "close other views");
    kvp_linear_close(&rest);
    must(kvp_linear_open(f->seq, &args, &rest));
    compare_with_pins(f, &args, &rest, 0, TOKENS);
    assert_true(stats_of(f->pager).linear_resident_bytes <= 2 * args.max_bytes);
    kvp_linear_close(&rest);
    kvp_linear_close(&view);
    tear_down(f);
}

static void test_a_pager_without_ram_for_views_says_so(void **state)
{
    (void)state;
    kvp_config cfg = config();
    cfg.linear_bytes = 0;
    fixture *f = set_up(cfg);
    kvp_linear view;
    assert_fails(kvp_linear_open(f->seq, &(kvp_linear_args){0}, &view), KVP_E_BUDGET,
                 "linear_bytes");
    kvp_pager *pager;
    cfg.linear_bytes = cfg.ram_bytes;
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_INVALID, "linear_bytes");
    cfg.linear_bytes = cfg.ram_bytes - 100; /* too little is left for frames */
    assert_int_equal(kvp_pager_open(&cfg, &pager), KVP_E_BUDGET);
    cfg.ram_bytes = needed_bytes();
    must(kvp_pager_open(&cfg, &pager));
    kvp_pager_close(pager);
    tear_down(f);
}

/* It says why. */
static bool is_unsupported(void)
{
    fixture *f = set_up(config());
    kvp_linear view;
    bool is = kvp_linear_open(f->seq, &(kvp_linear_args){0}, &view) == KVP_E_UNSUPPORTED;
    if (is)
        print_message("skipped: %s\n", kvp_error());
    tear_down(f);
    return is;
}

int main(void)
{
    if (is_unsupported())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_view_shows_what_pins_show),
        cmocka_unit_test(test_who_reads_in_order_is_read_ahead_of),
        cmocka_unit_test(test_a_view_may_be_of_some_tokens),
        cmocka_unit_test(test_a_view_is_of_the_tokens_that_were_there),
        cmocka_unit_test(test_a_fork_has_views_of_its_own),
        cmocka_unit_test(test_a_sequence_with_a_budget_reads_while_it_has_pinned_all_else),
        cmocka_unit_test(test_evicted_tokens_are_refused),
        cmocka_unit_test(test_wrong_arguments_are_refused),
        cmocka_unit_test(test_shares_are_reserved_and_no_more_than_there_is),
        cmocka_unit_test(test_a_pager_without_ram_for_views_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
