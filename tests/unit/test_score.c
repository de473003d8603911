#include "integration/cli/score.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define MAX_TOKENS 40

static void test_nll_of_equal_logits_is_log_n(void **state)
{
    (void)state;
    const float logits[5] = {3, 3, 3, 3, 3};
    double diff = fabs(score_nll(logits, 5, 2) - log(5));
    assert_true(diff <= 1e-12);
}

static void test_nll_of_huge_logits_does_not_overflow(void **state)
{
    (void)state;
    const float logits[3] = {1e30f, 0, -1e30f};
    double first = fabs(score_nll(logits, 3, 0)), second = fabs(score_nll(logits, 3, 1) - 1e30);
    assert_true(first <= 1e-12);
    assert_true(second <= 1e24);
}

static void test_nll_matches_the_definition(void **state)
{
    (void)state;
    const float logits[4] = {0.5f, -1.25f, 2, 0};
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += exp((double)logits[i]);
    for (int i = 0; i < 4; i++) {
        double diff = fabs(exp(-score_nll(logits, 4, i)) - exp((double)logits[i]) / sum);
        assert_true(diff <= 1e-12);
    }
}

/* Hugging Face's loop, as published: which tokens are scored in which window. */
static void check_against_the_recipe(uint64_t n, uint64_t window, uint64_t stride)
{
    uint64_t previous_end = 0;
    score_window w = {0};
    for (uint64_t begin = 0; begin < n; begin += stride) {
        uint64_t end = begin + window < n ? begin + window : n;
        uint64_t target_len = end - previous_end;
        assert_true(score_next_window(&w, n, window, stride));
        assert_int_equal(w.begin, begin);
        assert_int_equal(w.end, end);
        /* Labels are the last target_len tokens, shifted by one: the first has no prediction. */
        uint64_t first = end - target_len;
        assert_int_equal(w.first_scored, first > begin ? first : begin + 1);
        previous_end = end;
        if (end == n)
            break;
    }
    assert_false(score_next_window(&w, n, window, stride));
}

static void test_windows_are_those_of_the_strided_recipe(void **state)
{
    (void)state;
    for (uint64_t n = 0; n <= MAX_TOKENS; n++)
        for (uint64_t window = 1; window <= 12; window++)
            for (uint64_t stride = 1; stride <= window; stride++)
                check_against_the_recipe(n, window, stride);
}

static void test_overlapping_windows_score_every_token_but_the_first_once(void **state)
{
    (void)state;
    int scored[MAX_TOKENS] = {0};
    score_window w = {0};
    while (score_next_window(&w, MAX_TOKENS, 10, 7))
        for (uint64_t t = w.first_scored; t < w.end; t++)
            scored[t]++;
    assert_int_equal(scored[0], 0);
    for (int t = 1; t < MAX_TOKENS; t++)
        assert_int_equal(scored[t], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nll_of_equal_logits_is_log_n),
        cmocka_unit_test(test_nll_of_huge_logits_does_not_overflow),
        cmocka_unit_test(test_nll_matches_the_definition),
        cmocka_unit_test(test_windows_are_those_of_the_strided_recipe),
        cmocka_unit_test(test_overlapping_windows_score_every_token_but_the_first_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
