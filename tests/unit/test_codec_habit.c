/* test_codec_habit.c - how long nothing is tried where nothing shrinks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tiers/codec_habit.h"

/* n pages of a lane, of which all shrink or none; returns how many were tried. */
static unsigned play(kvpi_habit *h, unsigned n, bool shrinks)
{
    unsigned n_tried = 0;
    for (unsigned i = 0; i < n; i++)
        if (kvpi_habit_tries(h)) {
            kvpi_habit_learn(h, shrinks);
            n_tried++;
        }
    return n_tried;
}

static void test_pages_that_shrink_are_all_tried(void **state)
{
    (void)state;
    kvpi_habit h = {0};
    assert_int_equal(play(&h, 1000, true), 1000);
    for (int i = 0; i < 100; i++) { /* three failures in a row are no habit */
        assert_int_equal(play(&h, KVPI_HABIT_PATIENCE - 1, false), KVPI_HABIT_PATIENCE - 1);
        assert_int_equal(play(&h, 1, true), 1);
    }
}

static void test_pauses_double_up_to_the_longest(void **state)
{
    (void)state;
    kvpi_habit h = {0};
    assert_int_equal(play(&h, KVPI_HABIT_PATIENCE, false), KVPI_HABIT_PATIENCE);
    for (unsigned pause = KVPI_HABIT_FIRST_PAUSE, round = 0; round < 10; round++) {
        assert_int_equal(play(&h, pause, false), 0);
        assert_int_equal(play(&h, 1, false), 1);
        pause = 2 * pause < KVPI_HABIT_LAST_PAUSE ? 2 * pause : KVPI_HABIT_LAST_PAUSE;
    }
}

static void test_one_page_that_shrinks_ends_it(void **state)
{
    (void)state;
    kvpi_habit h = {0};
    play(&h, 5000, false);
    unsigned n_tried = play(&h, KVPI_HABIT_LAST_PAUSE + 100, true);
    assert_in_range(n_tried, 100, KVPI_HABIT_LAST_PAUSE + 100);
    assert_int_equal(play(&h, 100, true), 100);
    assert_int_equal(play(&h, KVPI_HABIT_PATIENCE, false), KVPI_HABIT_PATIENCE);
    assert_int_equal(play(&h, KVPI_HABIT_FIRST_PAUSE, false), 0); /* from the beginning */
    assert_int_equal(play(&h, 1, true), 1);
}

static void test_failures_that_were_under_way_do_not_lengthen_a_pause(void **state)
{
    (void)state;
    kvpi_habit h = {0};
    for (unsigned i = 0; i < KVPI_HABIT_PATIENCE + 3; i++)
        kvpi_habit_learn(&h, false);
    assert_int_equal(play(&h, KVPI_HABIT_FIRST_PAUSE, false), 0);
    assert_int_equal(play(&h, 1, false), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_that_shrink_are_all_tried),
        cmocka_unit_test(test_pauses_double_up_to_the_longest),
        cmocka_unit_test(test_one_page_that_shrinks_ends_it),
        cmocka_unit_test(test_failures_that_were_under_way_do_not_lengthen_a_pause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
