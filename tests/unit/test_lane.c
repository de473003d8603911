/* test_lane.c - page tables: lookup by position, over gaps; and the geometry that pages come from.
 */
#include "alloc/geometry.h"
#include "alloc/lane.h"
#include "alloc/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#define PAGE_TOKENS 8u

/* A lane of n tokens; page numbers are 100, 101, ... */
static kvpi_lane lane_of(uint32_t n_tokens)
{
    kvpi_lane lane = {0};
    assert_int_equal(kvpi_lane_reserve(&lane, &kvpi_mem_default, 1), KVP_OK);
    for (uint32_t i = 0; lane.n_tokens < n_tokens; i++) {
        assert_null(kvpi_lane_open_entry(&lane, PAGE_TOKENS));
        assert_int_equal(kvpi_lane_reserve(&lane, &kvpi_mem_default, i + 1), KVP_OK);
        kvpi_lane_push(&lane, 100 + i, PAGE_TOKENS);
        uint64_t left = n_tokens - lane.n_tokens;
        lane.n_tokens += left < PAGE_TOKENS ? left : PAGE_TOKENS;
    }
    assert_null(kvpi_lane_check(&lane, PAGE_TOKENS));
    return lane;
}

static void test_find_gives_the_page_of_a_position(void **state)
{
    (void)state;
    for (uint32_t n = 1; n < 60; n++) {
        kvpi_lane lane = lane_of(n);
        for (uint32_t p = 0; p < n; p++)
            assert_int_equal(kvpi_lane_find(&lane, p, PAGE_TOKENS), p / PAGE_TOKENS);
        assert_int_equal(kvpi_lane_find(&lane, n, PAGE_TOKENS), lane.n_entries);
        kvpi_lane_fini(&lane, &kvpi_mem_default);
    }
}

static void test_find_over_evicted_pages_gives_the_next_one(void **state)
{
    (void)state;
    kvpi_lane lane = lane_of(80);
    kvpi_lane_remove(&lane, 2, 5); /* positions 16..39 are gone */
    assert_null(kvpi_lane_check(&lane, PAGE_TOKENS));
    for (uint32_t p = 0; p < 80; p++) {
        const kvpi_entry *e = &lane.entries[kvpi_lane_find(&lane, p, PAGE_TOKENS)];
        uint32_t expected = p < 16 || p >= 40 ? p / PAGE_TOKENS : 5;
        assert_int_equal(e->page, 100 + expected);
        assert_int_equal(e->index, expected);
    }
    kvpi_lane_fini(&lane, &kvpi_mem_default);
}

static void test_open_entry_is_the_last_that_is_not_full(void **state)
{
    (void)state;
    kvpi_lane lane = lane_of(19);
    kvpi_entry *open = kvpi_lane_open_entry(&lane, PAGE_TOKENS);
    assert_ptr_equal(open, &lane.entries[2]);
    assert_int_equal(kvpi_lane_n_valid(&lane, 2, PAGE_TOKENS), 3);
    assert_int_equal(kvpi_lane_n_valid(&lane, 1, PAGE_TOKENS), PAGE_TOKENS);
    kvpi_lane_fini(&lane, &kvpi_mem_default);
    assert_null(kvpi_lane_open_entry(&lane, PAGE_TOKENS));
}

static void test_check_names_what_is_broken(void **state)
{
    (void)state;
    kvpi_lane lane = lane_of(20);
    lane.entries[1].index = 0;
    assert_non_null(strstr(kvpi_lane_check(&lane, PAGE_TOKENS), "L1"));
    lane.entries[1].index = 1;
    lane.n_tokens = 15;
    assert_non_null(strstr(kvpi_lane_check(&lane, PAGE_TOKENS), "L3"));
    lane.n_tokens = 25;
    assert_non_null(strstr(kvpi_lane_check(&lane, PAGE_TOKENS), "L3"));
    kvpi_lane_fini(&lane, &kvpi_mem_default);
}

/* ---- geometry ---- */

static void test_geometry_makes_pages_of_about_64_kib(void **state)
{
    (void)state;
    static const struct {
        uint32_t heads, width;
        kvp_dtype dtype;
        uint32_t page_heads, n_groups;
        size_t slot_bytes;
    } cases[] = {
        {4, 64, KVP_F16, 4, 1, 65536},     {4, 64, KVP_F32, 2, 2, 65536},
        {12, 64, KVP_F16, 4, 3, 65536},    {8, 128, KVP_BF16, 2, 4, 65536},
        {1, 64, KVP_F16, 1, 1, 16384},     {3, 80, KVP_F16, 3, 1, 61440},
        {1, 4096, KVP_F32, 1, 1, 2097152},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvpi_geometry g;
        kvp_geometry in = {.n_layers = 2,
                           .n_kv_heads = cases[i].heads,
                           .head_dim = cases[i].width,
                           .dtype = cases[i].dtype};
        assert_int_equal(kvpi_geometry_init(&g, &in, &kvpi_mem_default), KVP_OK);
        assert_int_equal(g.page_tokens, 64);
        assert_int_equal(g.layers[1].page_heads, cases[i].page_heads);
        assert_int_equal(g.layers[1].n_groups, cases[i].n_groups);
        assert_int_equal(g.layers[1].lane_base, cases[i].n_groups);
        assert_int_equal(g.slot_bytes, cases[i].slot_bytes);
        kvpi_geometry_fini(&g, &kvpi_mem_default);
    }
}

static void test_last_group_has_the_heads_that_are_left(void **state)
{
    (void)state;
    kvpi_geometry g;
    kvp_geometry in = {
        .n_layers = 3, .n_kv_heads = 5, .head_dim = 8, .page_tokens = 16, .page_heads = 2};
    assert_int_equal(kvpi_geometry_init(&g, &in, &kvpi_mem_default), KVP_OK);
    assert_int_equal(g.n_lanes, 9);
    assert_int_equal(kvpi_layer_group_heads(&g.layers[0], 1), 2);
    assert_int_equal(kvpi_layer_group_heads(&g.layers[0], 2), 1);
    for (uint32_t lane = 0; lane < 9; lane++) {
        uint32_t layer;
        assert_ptr_equal(kvpi_geometry_layer_of(&g, lane, &layer), &g.layers[lane / 3]);
        assert_int_equal(layer, lane / 3);
    }
    kvpi_geometry_fini(&g, &kvpi_mem_default);
}

static void test_bad_geometry_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        kvp_geometry in;
        const char *word;
    } cases[] = {
        {{.n_layers = 0, .n_kv_heads = 1, .head_dim = 1}, "n_layers"},
        {{.n_layers = 1, .n_kv_heads = 0, .head_dim = 1}, "n_kv_heads"},
        {{.n_layers = 1, .n_kv_heads = 1, .head_dim = 0}, "width"},
        {{.n_layers = 1, .n_kv_heads = 1, .head_dim = 1, .dtype = (kvp_dtype)9}, "dtype"},
        {{.n_layers = 1, .n_kv_heads = 1, .head_dim = 1, .page_tokens = 70000}, "page_tokens"},
        {{.n_layers = 1, .n_kv_heads = 4096, .head_dim = 65536, .page_heads = 4096}, "page"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvpi_geometry g;
        assert_int_equal(kvpi_geometry_init(&g, &cases[i].in, &kvpi_mem_default), KVP_E_INVALID);
        assert_non_null(strstr(kvp_error(), cases[i].word));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_gives_the_page_of_a_position),
        cmocka_unit_test(test_find_over_evicted_pages_gives_the_next_one),
        cmocka_unit_test(test_open_entry_is_the_last_that_is_not_full),
        cmocka_unit_test(test_check_names_what_is_broken),
        cmocka_unit_test(test_geometry_makes_pages_of_about_64_kib),
        cmocka_unit_test(test_last_group_has_the_heads_that_are_left),
        cmocka_unit_test(test_bad_geometry_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
