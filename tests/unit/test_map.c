#include "integration/cli/map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define CHECK_ROW(expected, pages, n, page_tokens, n_forgotten)                                    \
    do {                                                                                           \
        char row_[64] = {0};                                                                       \
        size_t n_ = map_row(pages, n, page_tokens, n_forgotten, row_, sizeof row_ - 1);            \
        assert_string_equal(row_, expected);                                                       \
        assert_int_equal(n_, strlen(expected));                                                    \
    } while (0)

static void test_each_tier_has_its_letter(void **state)
{
    (void)state;
    const kvp_page_info pages[] = {
        {.first_position = 0, .n_valid = 4, .tier = KVP_TIER_RAM},
        {.first_position = 4, .n_valid = 4, .tier = KVP_TIER_ZRAM},
        {.first_position = 8, .n_valid = 4, .tier = KVP_TIER_DISK},
        {.first_position = 12, .n_valid = 4, .tier = KVP_TIER_VRAM},
        {.first_position = 16, .n_valid = 1, .tier = KVP_TIER_RAM, .is_lost = true},
    };
    CHECK_ROW("RZDV!", pages, 5, 4, 0);
}

static void test_evicted_and_forgotten_pages_are_dots(void **state)
{
    (void)state;
    const kvp_page_info pages[] = {
        {.first_position = 0, .n_valid = 4, .tier = KVP_TIER_RAM},
        {.first_position = 12, .n_valid = 4, .tier = KVP_TIER_DISK},
        {.first_position = 16, .n_valid = 2, .tier = KVP_TIER_RAM},
    };
    CHECK_ROW("R..DR", pages, 3, 4, 0);
    CHECK_ROW("...R..DR", pages, 3, 4, 3);
    CHECK_ROW(".DR", pages + 1, 2, 12, 0);
}

/* A text that goes on for ever keeps a map that can be read. */
static void test_dots_are_no_more_than_64_in_a_row(void **state)
{
    (void)state;
    const kvp_page_info pages[] = {
        {.first_position = 0, .n_valid = 4, .tier = KVP_TIER_RAM},
        {.first_position = (uint64_t)1 << 60, .n_valid = 4, .tier = KVP_TIER_DISK},
    };
    char row[256] = {0};
    assert_int_equal(map_row(pages, 2, 4, UINT64_MAX, row, sizeof row), 64 + 1 + 64 + 1);
    assert_int_equal(row[64], 'R');
    assert_int_equal(row[129], 'D');
}

static void test_row_longer_than_its_buffer_is_cut_but_counted(void **state)
{
    (void)state;
    const kvp_page_info page = {.first_position = 8, .n_valid = 4, .tier = KVP_TIER_RAM};
    char row[2] = {'x', 'x'};
    assert_int_equal(map_row(&page, 1, 4, 2, row, 1), 5);
    assert_int_equal(row[0], '.');
    assert_int_equal(row[1], 'x');
}

static void test_long_rows_are_broken(void **state)
{
    (void)state;
    char cells[200];
    memset(cells, 'R', 100);
    memset(cells + 100, 'D', 100);
    char labels[2][24] = {"0.0", "1.0"};
    const page_map map = {
        .n_rows = 2, .n_columns = 100, .cells = cells, .labels = labels, .page_tokens = 64};
    char text[2048] = {0};
    FILE *out = fmemopen(text, sizeof text, "w");
    map_print(&map, out);
    fclose(out);
    size_t n_r = 0, n_lines = 0;
    for (const char *p = strchr(text, '\n') + 1; *p; p++) { /* after the legend */
        n_r += *p == 'R';
        n_lines += *p == '\n';
    }
    assert_int_equal(n_r, 100);
    assert_int_equal(n_lines, 4);
    assert_non_null(strstr(text, "64 tokens"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_tier_has_its_letter),
        cmocka_unit_test(test_evicted_and_forgotten_pages_are_dots),
        cmocka_unit_test(test_dots_are_no_more_than_64_in_a_row),
        cmocka_unit_test(test_row_longer_than_its_buffer_is_cut_but_counted),
        cmocka_unit_test(test_long_rows_are_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
