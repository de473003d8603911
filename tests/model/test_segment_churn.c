/* test_segment_churn.c - write amplification: sequences that grow, fork and die whole, with 80 % of
 * the file in use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "segment_churn.h"

/* Records of 36 to 64 KiB in 128 segments of 2 MiB, in blocks of 4 KiB. */
static const segment_churn_spec some = {.n_segments = 128,
                                        .segment_units = 512,
                                        .slot_units = 16,
                                        .least_units = 9,
                                        .burst = 16,
                                        .utilisation = 0.81,
                                        .capacities = 3,
                                        .fills_holes = true,
                                        .seed = 3};

static void run(const segment_churn_spec *spec, segment_churn_result *r)
{
    segment_churn(spec, r);
    print_message("%.3f in use, %.3f written for each, %llu segments cleaned, %llu deaths, %llu "
                  "forks, %.2f neighbours\n",
                  r->utilisation, r->amplification, (unsigned long long)r->n_cleaned,
                  (unsigned long long)r->n_deaths, (unsigned long long)r->n_forks, r->neighbours);
    assert_int_equal(r->n_failed, 0);
    assert_true(r->utilisation >= 0.8);
    assert_true(r->units_written >= (uint64_t)(2.9 * 128 * 512));
}

static void test_sequences_in_a_swap_file(void **state)
{
    (void)state;
    segment_churn_result r;
    run(&some, &r);
    assert_true(r.n_deaths > 100 && r.n_forks > 10 && r.n_shared > 10);
    assert_true(r.amplification <= 1.5);
    assert_true(r.neighbours >= 0.7);
}

/* Nothing but whole segments, as a store has to, and 16 MiB at a time. */
static void test_batches_in_a_log(void **state)
{
    (void)state;
    segment_churn_spec spec = some;
    segment_churn_result r;
    spec.fills_holes = false;
    spec.burst = 256;
    run(&spec, &r);
    assert_true(r.n_deaths > 50 && r.n_forks > 5 && r.n_shared > 10);
    assert_true(r.amplification <= 1.5);
    assert_true(r.neighbours >= 0.9);
}

/* The worst case: cleaning goes on all the time. */
static void test_pages_that_die_at_random(void **state)
{
    (void)state;
    segment_churn_spec spec = some;
    segment_churn_result swap, log;
    spec.is_uniform = true;
    spec.utilisation = 0.9;
    run(&spec, &swap);
    spec.utilisation = 0.81;
    spec.fills_holes = false;
    run(&spec, &log);
    assert_true(swap.n_cleaned > 100 && log.n_cleaned > 100);
    assert_true(swap.amplification < 3.5 && log.amplification < 3.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sequences_in_a_swap_file),
        cmocka_unit_test(test_batches_in_a_log),
        cmocka_unit_test(test_pages_that_die_at_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
