/* test_page_facts.c - sizes that are said to be enough are, and one less is not: asked of the pager
 * itself, by filling it. */
#include "integration/cli/page_facts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { LAYERS = 3, HEADS = 2, DIM = 32, PAGE_TOKENS = 16, PAGES = 12 };

static kvp_config small_config(void)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = LAYERS,
                                  .n_kv_heads = HEADS,
                                  .head_dim = DIM,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS};
    return cfg;
}

/* Append PAGES pages to every lane. */
static kvp_status fill(const kvp_config *cfg)
{
    static const float row[PAGE_TOKENS * HEADS * DIM];
    kvp_pager *pager;
    kvp_seq *seq;
    kvp_status status = kvp_pager_open(cfg, &pager);
    if (status)
        return status;
    status = kvp_seq_create(pager, &seq);
    for (uint32_t i = 0; i < PAGES && !status; i++)
        for (uint32_t layer = 0; layer < LAYERS && !status; layer++)
            status = kvp_seq_append(seq, layer, row, row, PAGE_TOKENS);
    kvp_pager_close(pager);
    return status;
}

static void test_facts_are_those_of_the_geometry(void **state)
{
    (void)state;
    kvp_config cfg = small_config();
    page_facts facts;
    cfg.geometry.page_heads = 1;
    cfg.ram_bytes = 1 << 20;
    assert_int_equal(page_facts_learn(&cfg, &facts), KVP_OK);
    assert_int_equal(facts.n_lanes, LAYERS * HEADS);
    assert_int_equal(facts.page_tokens, PAGE_TOKENS);
    assert_int_equal(facts.slot_bytes, 4096); /* 2 KiB of K and V, rounded up */
    assert_in_range(facts.n_frames, 200, 256);
}

static void test_ram_that_is_said_to_hold_all_pages_does(void **state)
{
    (void)state;
    kvp_config cfg = small_config();
    uint64_t bytes;
    assert_int_equal(page_facts_ram(&cfg, LAYERS * PAGES, &bytes), KVP_OK);
    cfg.ram_bytes = bytes;
    assert_int_equal(fill(&cfg), KVP_OK);
    cfg.ram_bytes = bytes - 1;
    assert_int_equal(fill(&cfg), KVP_E_NOSPACE);
}

static void test_disk_that_is_said_to_take_the_rest_does(void **state)
{
    (void)state;
    kvp_config cfg = small_config();
    page_facts facts;
    cfg.ram_bytes = 128 << 10;
    cfg.disk_bytes = KVP_UNLIMITED;
    assert_int_equal(page_facts_learn(&cfg, &facts), KVP_OK);
    assert_true(facts.n_frames < LAYERS * PAGES);
    uint64_t bytes = page_facts_disk(&facts, page_facts_overflow(&facts, LAYERS * PAGES));
    cfg.disk_bytes = bytes;
    assert_int_equal(fill(&cfg), KVP_OK);
    cfg.disk_bytes = bytes - facts.slot_bytes;
    assert_int_equal(fill(&cfg), KVP_E_NOSPACE);
}

/* Budgets around what a disk makes enough: what is learned without one is what there is with it. */
static void test_facts_need_no_disk(void **state)
{
    (void)state;
    for (uint64_t zram_bytes = 0; zram_bytes <= 1 << 20; zram_bytes += 1 << 20) {
        kvp_config cfg = small_config();
        page_facts facts;
        uint64_t least = 0;
        cfg.disk_bytes = KVP_UNLIMITED;
        cfg.zram_bytes = zram_bytes;
        assert_int_equal(page_facts_least_ram(&cfg, &least), KVP_OK);
        for (cfg.ram_bytes = least; cfg.ram_bytes < least + 64 * 1024; cfg.ram_bytes += 1024) {
            kvp_pager *pager;
            kvp_stats stats = {.size = sizeof stats};
            assert_int_equal(kvp_pager_open(&cfg, &pager), KVP_OK);
            assert_int_equal(kvp_pager_stats(pager, &stats), KVP_OK);
            kvp_pager_close(pager);
            assert_int_equal(page_facts_learn(&cfg, &facts), KVP_OK);
            assert_int_equal(facts.n_frames, stats.n_frames);
            assert_int_equal(facts.slot_bytes, stats.slot_bytes);
        }
        cfg.ram_bytes = least - 1;
        assert_int_equal(page_facts_learn(&cfg, &facts), KVP_E_BUDGET);
        assert_non_null(strstr(kvp_error(), "needs at least "));
        cfg.ram_bytes = least;
        cfg.disk_path = "/no/such/folder/file";
        assert_int_equal(page_facts_learn(&cfg, &facts), KVP_OK);
    }
}

static void test_least_ram_opens_and_less_does_not(void **state)
{
    (void)state;
    kvp_config cfg = small_config();
    kvp_pager *pager;
    uint64_t bytes;
    cfg.disk_bytes = KVP_UNLIMITED;
    assert_int_equal(page_facts_least_ram(&cfg, &bytes), KVP_OK);
    cfg.ram_bytes = bytes;
    assert_int_equal(kvp_pager_open(&cfg, &pager), KVP_OK);
    kvp_pager_close(pager);
    cfg.ram_bytes = bytes - 1;
    assert_int_equal(kvp_pager_open(&cfg, &pager), KVP_E_BUDGET);
}

static void test_errors_of_the_pager_are_passed_on(void **state)
{
    (void)state;
    kvp_config cfg = small_config();
    page_facts facts;
    uint64_t bytes;
    cfg.geometry.n_layers = 0;
    assert_int_equal(page_facts_learn(&cfg, &facts), KVP_E_INVALID);
    assert_int_equal(page_facts_ram(&cfg, 1, &bytes), KVP_E_INVALID);
    assert_int_equal(page_facts_least_ram(&cfg, &bytes), KVP_E_INVALID);
    assert_non_null(strstr(kvp_error(), "n_layers"));
}

static void check_place(const char *swap, const char *expected)
{
    char folder[64];
    assert_string_equal(page_facts_swap_place(swap, folder, sizeof folder), expected);
}

static void test_place_of_the_swap_file_is_where_it_is_or_will_be(void **state)
{
    (void)state;
    char *before = getenv("TMPDIR") ? strdup(getenv("TMPDIR")) : NULL;
    check_place("/dev/null", "/dev/null");
    check_place("/dev/nothing", "/dev/");
    check_place("/nothing", "/");
    check_place("nothing", ".");
    unsetenv("TMPDIR");
    check_place(NULL, "/var/tmp");
    setenv("TMPDIR", "/dev/shm", 1);
    check_place(NULL, "/dev/shm");
    if (before)
        setenv("TMPDIR", before, 1);
    else
        unsetenv("TMPDIR");
    free(before);
}

static void test_free_bytes_are_unknown_where_there_is_no_such_place(void **state)
{
    (void)state;
    assert_true(page_facts_free_bytes("/dev/nothing/at/all") == UINT64_MAX);
    assert_true(page_facts_free_bytes(".") < UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts_are_those_of_the_geometry),
        cmocka_unit_test(test_ram_that_is_said_to_hold_all_pages_does),
        cmocka_unit_test(test_disk_that_is_said_to_take_the_rest_does),
        cmocka_unit_test(test_facts_need_no_disk),
        cmocka_unit_test(test_least_ram_opens_and_less_does_not),
        cmocka_unit_test(test_place_of_the_swap_file_is_where_it_is_or_will_be),
        cmocka_unit_test(test_free_bytes_are_unknown_where_there_is_no_such_place),
        cmocka_unit_test(test_errors_of_the_pager_are_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
