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

static void test_chunks_cover_what_is_fed(void **state)
{
    (void)state;
    const window_rule whole = {.n_ctx = 64}, chunked = {.n_ctx = UINT64_MAX, .chunk = 5};
    assert_int_equal(window_stop(&whole, 3, 60), 60);
    assert_int_equal(window_stop(&chunked, 3, 60), 8);
    assert_int_equal(window_stop(&chunked, 58, 60), 60);
    assert_true(window_stop(&chunked, UINT64_MAX - 3, UINT64_MAX) == UINT64_MAX);
}

/* ---- peaks ----------------------------------------------------------------------------------- */

#define MAX_PAGES 512

/* Pages as a set of token positions, freed as the rule says. */
typedef struct simulation {
    const window_rule *rule;
    uint32_t size; /* of a page */
    uint64_t start, next, peak;
    bool is_there[MAX_PAGES];
} simulation;

static void simulate_chunk(simulation *s, uint64_t stop)
{
    for (uint64_t i = s->next; i < stop; i++)
        s->is_there[(i - s->start) / s->size] = true;
    uint64_t n = 0, begin, end, last = (stop - s->start - 1) / s->size;
    assert_true(last < MAX_PAGES);
    for (uint64_t p = 0; p <= last; p++)
        n += s->is_there[p];
    s->peak = n > s->peak ? n : s->peak;
    if (window_unreachable(s->rule, stop - s->start, &begin, &end))
        for (uint64_t p = 0; p < last; p++)
            s->is_there[p] &= p * s->size < begin || (p + 1) * s->size > end;
    s->next = stop;
}

static uint64_t simulated_peak(const window_rule *rule, const window_feed *feed, uint32_t size)
{
    simulation s = {.rule = rule, .size = size};
    for (uint64_t stop = feed->first; s.next < feed->end; stop += feed->step) {
        stop = stop < feed->end ? stop : feed->end;
        if (window_start(rule, stop - 1) != s.start) {
            s.next = s.start = window_start(rule, stop - 1);
            memset(s.is_there, 0, sizeof s.is_there);
        }
        uint64_t chunk = rule->chunk ? rule->chunk : stop;
        while (s.next < stop)
            simulate_chunk(&s, stop - s.next < chunk ? stop : s.next + chunk);
    }
    return s.peak;
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

/* Chunks, steps of several tokens, and texts that go on long after the peak. */
static void test_peak_without_an_end_matches_a_simulation(void **state)
{
    (void)state;
    for (uint64_t keep = 1; keep <= 17; keep += 2)
        for (uint64_t sinks = 0; sinks <= 5; sinks++)
            for (uint64_t chunk = 3; chunk <= 60; chunk += 19)
                for (uint64_t first = 1; first <= 90; first += 22)
                    for (uint64_t step = 1; step <= 7; step += 3)
                        for (uint32_t size = 1; size <= 5; size++) {
                            const window_rule rule = {.n_ctx = UINT64_MAX,
                                                      .keep = keep,
                                                      .sinks = sinks,
                                                      .chunk = chunk,
                                                      .shift = true};
                            const window_feed feed = {first, step, 300 + keep};
                            assert_int_equal(window_peak_pages(&rule, &feed, size),
                                             simulated_peak(&rule, &feed, size));
                        }
}

/* The peak of a text without an end is that of one that is long enough; and it is found at once. */
static void test_peak_of_a_boundless_text_is_found_at_once(void **state)
{
    (void)state;
    const window_rule rule = {
        .n_ctx = UINT64_MAX, .keep = 8000, .sinks = 4, .chunk = 8000, .shift = true};
    const window_feed longer = {100, 1, 1000000}, boundless = {100, 1, UINT64_MAX};
    assert_int_equal(window_peak_pages(&rule, &longer, 64), 8000 / 64 + 2);
    assert_int_equal(window_peak_pages(&rule, &boundless, 64), 8000 / 64 + 2);
    const window_rule wide = {
        .n_ctx = UINT64_MAX, .keep = UINT64_MAX, .sinks = UINT64_MAX, .chunk = 9, .shift = true};
    assert_int_equal(window_peak_pages(&wide, &longer, 64), 1000000 / 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens_within_the_context_see_everything),
        cmocka_unit_test(test_first_token_past_the_context_begins_a_window_of_w_tokens),
        cmocka_unit_test(test_every_shape_matches_a_simulation),
        cmocka_unit_test(test_keeping_all_leaves_nothing_unreachable),
        cmocka_unit_test(test_unreachable_positions_are_those_that_no_later_query_may_see),
        cmocka_unit_test(test_chunks_cover_what_is_fed),
        cmocka_unit_test(test_peak_of_pages_matches_a_simulation),
        cmocka_unit_test(test_peak_without_an_end_matches_a_simulation),
        cmocka_unit_test(test_peak_of_a_boundless_text_is_found_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
