#include "integration/cli/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static int32_t tokens_a[4] = {5, 6, 7, 8}, tokens_b[4] = {5, 6, 9, 8};
static float wide[4] = {1, 1, 1, 1}, narrow[4] = {1, 1, 0.0005f, 1};

static void check(const run_result *a, const run_result *b, size_t n_ties, size_t n_others,
                  size_t first)
{
    for (int i = 0; i < 2; i++) {
        run_differences d = i ? run_compare(b, a) : run_compare(a, b);
        assert_int_equal(d.n_ties, n_ties);
        assert_int_equal(d.n_others, n_others);
        if (n_others)
            assert_int_equal(d.first, first);
    }
}

static void test_equal_runs_have_no_difference(void **state)
{
    (void)state;
    const run_result a = {.tokens = tokens_a, .margins = narrow, .n_new = 4};
    check(&a, &a, 0, 0, 0);
}

static void test_difference_is_a_tie_if_either_run_was_undecided(void **state)
{
    (void)state;
    const run_result a = {.tokens = tokens_a, .margins = wide, .n_new = 4};
    const run_result b = {.tokens = tokens_b, .margins = wide, .n_new = 4};
    const run_result tied = {.tokens = tokens_b, .margins = narrow, .n_new = 4};
    check(&a, &b, 0, 1, 2);
    check(&a, &tied, 1, 0, 0);
}

static void test_what_comes_after_a_tie_is_compared(void **state)
{
    (void)state;
    int32_t tokens[4] = {5, 6, 9, 1};
    const run_result a = {.tokens = tokens_a, .margins = wide, .n_new = 4};
    const run_result b = {.tokens = tokens, .margins = narrow, .n_new = 4};
    check(&a, &b, 1, 1, 3);
}

static void test_margin_of_a_thousandth_is_no_tie(void **state)
{
    (void)state;
    float limit[1] = {1e-3f}, below[1] = {0.000999f};
    int32_t other[1] = {4};
    const run_result a = {.tokens = tokens_a, .margins = limit, .n_new = 1};
    const run_result at_limit = {.tokens = other, .margins = limit, .n_new = 1};
    const run_result under = {.tokens = other, .margins = below, .n_new = 1};
    check(&a, &at_limit, 0, 1, 0);
    check(&a, &under, 1, 0, 0);
}

static void test_run_that_ended_earlier_differs_where_it_ended(void **state)
{
    (void)state;
    const run_result a = {.tokens = tokens_a, .margins = wide, .n_new = 4};
    const run_result b = {.tokens = tokens_a, .margins = narrow, .n_new = 3};
    check(&a, &b, 0, 1, 3);
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
        cmocka_unit_test(test_difference_is_a_tie_if_either_run_was_undecided),
        cmocka_unit_test(test_what_comes_after_a_tie_is_compared),
        cmocka_unit_test(test_margin_of_a_thousandth_is_no_tie),
        cmocka_unit_test(test_run_that_ended_earlier_differs_where_it_ended),
        cmocka_unit_test(test_every_stop_reason_has_the_name_of_the_interface),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
