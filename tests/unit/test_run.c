#include "integration/cli/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static int32_t tokens_a[4] = {5, 6, 7, 8}, tokens_b[4] = {5, 6, 9, 8};
static float wide[4] = {1, 1, 1, 1}, narrow[4] = {1, 1, 0.0005f, 1};

static void test_equal_runs_have_no_difference(void **state)
{
    (void)state;
    const run_result a = {.tokens = tokens_a, .margins = wide, .n_new = 4};
    assert_int_equal(run_first_difference(&a, &a), 4);
    assert_false(run_is_tie(&a, &a, 4));
}

static void test_first_difference_counts_unless_either_run_was_undecided(void **state)
{
    (void)state;
    const run_result a = {.tokens = tokens_a, .margins = wide, .n_new = 4};
    const run_result b = {.tokens = tokens_b, .margins = wide, .n_new = 4};
    const run_result tied = {.tokens = tokens_b, .margins = narrow, .n_new = 4};
    assert_int_equal(run_first_difference(&a, &b), 2);
    assert_false(run_is_tie(&a, &b, 2));
    assert_true(run_is_tie(&a, &tied, 2));
    assert_true(run_is_tie(&tied, &a, 2));
}

static void test_margin_of_a_thousandth_is_no_tie(void **state)
{
    (void)state;
    float limit[1] = {1e-3f}, below[1] = {0.000999f};
    const run_result a = {.tokens = tokens_a, .margins = limit, .n_new = 1};
    const run_result b = {.tokens = tokens_a, .margins = below, .n_new = 1};
    assert_false(run_is_tie(&a, &a, 0));
    assert_true(run_is_tie(&b, &b, 0));
}

static void test_run_that_ended_earlier_differs_where_it_ended(void **state)
{
    (void)state;
    const run_result a = {.tokens = tokens_a, .margins = wide, .n_new = 4};
    const run_result b = {.tokens = tokens_a, .margins = narrow, .n_new = 3};
    assert_int_equal(run_first_difference(&a, &b), 3);
    assert_false(run_is_tie(&a, &b, 3));
}

static void test_every_stop_reason_has_the_name_of_the_interface(void **state)
{
    (void)state;
    assert_string_equal(stop_reason_name(STOP_LENGTH), "length");
    assert_string_equal(stop_reason_name(STOP_EOS), "eos");
    assert_string_equal(stop_reason_name(STOP_CONTEXT), "context");
    assert_string_equal(stop_reason_name(STOP_INTERRUPTED), "interrupted");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_runs_have_no_difference),
        cmocka_unit_test(test_first_difference_counts_unless_either_run_was_undecided),
        cmocka_unit_test(test_margin_of_a_thousandth_is_no_tie),
        cmocka_unit_test(test_run_that_ended_earlier_differs_where_it_ended),
        cmocka_unit_test(test_every_stop_reason_has_the_name_of_the_interface),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
