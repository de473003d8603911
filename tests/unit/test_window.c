#include "integration/cli/window.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static void test_tokens_within_the_context_see_everything(void **state)
{
    (void)state;
    const window_rule rule = {.n_ctx = 1024, .roll = 512};
    assert_int_equal(window_start(&rule, 0), 0);
    assert_int_equal(window_start(&rule, 1023), 0);
}

static void test_first_token_past_the_context_begins_a_window_of_w_tokens(void **state)
{
    (void)state;
    const window_rule rule = {.n_ctx = 1024, .roll = 512};
    assert_int_equal(window_start(&rule, 1024), 513); /* 513 .. 1024: 512 tokens */
    assert_int_equal(window_start(&rule, 1536), 513); /* 513 .. 1536: 1,024 tokens */
    assert_int_equal(window_start(&rule, 1537), 1026);
}

/* The rule told as a story, without arithmetic: positions fill up, then the last W begin anew. */
static void test_every_shape_matches_a_simulation(void **state)
{
    (void)state;
    for (uint64_t n_ctx = 1; n_ctx <= 9; n_ctx++)
        for (uint64_t roll = 1; roll <= n_ctx; roll++) {
            const window_rule rule = {.n_ctx = n_ctx, .roll = roll};
            uint64_t start = 0;
            for (uint64_t i = 0; i < 100; i++) {
                if (i - start == n_ctx)
                    start = i - roll + 1;
                assert_int_equal(window_start(&rule, i), start);
            }
        }
}

static void test_keeping_all_leaves_nothing_unreachable(void **state)
{
    (void)state;
    const window_rule rule = {.n_ctx = 64, .roll = 32, .sinks = 4};
    uint64_t begin, end;
    assert_false(window_unreachable(&rule, 60, &begin, &end));
}

static void test_unreachable_positions_are_those_that_no_later_query_may_see(void **state)
{
    (void)state;
    for (uint64_t keep = 1; keep <= 6; keep++)
        for (uint64_t sinks = 0; sinks <= 8; sinks++)
            for (uint64_t next = 0; next <= 20; next++) {
                const window_rule rule = {.n_ctx = 64, .keep = keep, .sinks = sinks};
                uint64_t begin = 0, end = 0;
                bool any = window_unreachable(&rule, next, &begin, &end);
                bool found = false;
                for (uint64_t p = 0; p < next; p++) {
                    /* Visible to the query at `next`, or as a sink; later queries see less. */
                    bool is_seen = p + keep > next || p < sinks;
                    assert_int_equal(any && p >= begin && p < end, !is_seen);
                    found |= !is_seen;
                }
                assert_int_equal(any, found);
            }
}

/* Pages as a set of token positions, freed as the rule says. */
static uint64_t simulated_peak(const window_rule *rule, const window_feed *feed, uint32_t size)
{
    uint64_t peak = 0, start = 0, stop = feed->first;
    bool is_there[64] = {false};
    for (uint64_t next = 0; next < feed->end; next = stop, stop += feed->step) {
        stop = stop < feed->end ? stop : feed->end;
        if (window_start(rule, stop - 1) != start)
            next = start = window_start(rule, stop - 1), memset(is_there, 0, sizeof is_there);
        for (uint64_t i = next; i < stop; i++)
            is_there[(i - start) / size] = true;
        uint64_t n = 0, begin, end, last = (stop - start - 1) / size;
        for (uint64_t p = 0; p <= last; p++)
            n += is_there[p];
        peak = n > peak ? n : peak;
        if (window_unreachable(rule, stop - start, &begin, &end))
            for (uint64_t p = 0; p < last; p++)
                is_there[p] &= p * size < begin || (p + 1) * size > end;
    }
    return peak;
}

static void test_peak_of_pages_matches_a_simulation(void **state)
{
    (void)state;
    for (uint64_t keep = 0; keep <= 12; keep++)
        for (uint64_t sinks = 0; sinks <= 3; sinks++)
            for (uint64_t end = 0; end <= 70; end++)
                for (uint64_t first = 1; first <= end; first += 5)
                    for (uint32_t size = 1; size <= 4; size++) {
                        const window_rule rule = {
                            .n_ctx = 20, .roll = keep ? 5 : 9, .keep = keep, .sinks = sinks};
                        const window_feed feed = {first, 1, end};
                        assert_int_equal(window_peak_pages(&rule, &feed, size),
                                         simulated_peak(&rule, &feed, size));
                    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens_within_the_context_see_everything),
        cmocka_unit_test(test_first_token_past_the_context_begins_a_window_of_w_tokens),
        cmocka_unit_test(test_every_shape_matches_a_simulation),
        cmocka_unit_test(test_keeping_all_leaves_nothing_unreachable),
        cmocka_unit_test(test_unreachable_positions_are_those_that_no_later_query_may_see),
        cmocka_unit_test(test_peak_of_pages_matches_a_simulation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
