/* test_sampler.c - tokens from logits. */
#include "integration/text/sampler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#define N 8u
#define DRAWS 40000

/* Probabilities 1/2, 1/4, 1/8 ... at temperature 1, best at id 3. */
static const float logits[N] = {-1.3862944f, -2.7725887f, -0.6931472f, 0.0f,
                                -2.0794415f, -3.4657359f, -4.1588831f, -INFINITY};

static sampler *create(float temperature, uint32_t top_k, float top_p, uint64_t seed)
{
    sampler *s = NULL;
    const sampler_options o = {
        .temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = seed};
    assert_int_equal(sampler_create(&o, N, &s), KVP_OK);
    return s;
}

static int32_t next(sampler *s, const float *from)
{
    int32_t id = -1;
    assert_int_equal(sampler_next(s, from, &id, NULL), KVP_OK);
    assert_true(id >= 0 && id < (int32_t)N);
    return id;
}

static void count(sampler *s, size_t counts[N])
{
    memset(counts, 0, N * sizeof *counts);
    for (int i = 0; i < DRAWS; i++)
        counts[next(s, logits)]++;
}

/* Frequencies of the ids in order of probability: ratios 1/2 among the first `kept`, 0 after. */
static void check_frequencies(const size_t counts[N], size_t kept, double ratio)
{
    static const size_t order[N] = {3, 2, 0, 4, 1, 5, 6, 7};
    double mass = 0;
    for (size_t i = 0; i < kept; i++)
        mass += pow(ratio, (double)i);
    for (size_t i = 0; i < N; i++) {
        double wanted = i < kept ? pow(ratio, (double)i) / mass : 0;
        double got = (double)counts[order[i]] / DRAWS;
        double tolerance = i < kept ? 5 * sqrt(wanted / DRAWS) : 0;
        assert_true(fabs(got - wanted) <= tolerance);
    }
}

static void test_greedy_takes_lowest_id_of_equal_maxima(void **state)
{
    (void)state;
    static const float equal[N] = {0, 2, 1, 2, -1, 2, 0, 0};
    sampler *s = create(0, 0, 1, 1);
    int32_t id;
    float margin = -1;
    assert_int_equal(sampler_next(s, equal, &id, &margin), KVP_OK);
    assert_int_equal(id, 1);
    assert_true(margin == 0);
    assert_int_equal(sampler_next(s, logits, &id, &margin), KVP_OK);
    assert_int_equal(id, 3);
    assert_true(fabsf(margin - 0.6931472f) <= 1e-6f);
    sampler_destroy(s);
}

static void test_margin_is_of_the_two_highest_wherever_they_are(void **state)
{
    (void)state;
    static const float first[N] = {5, 1, 2, 3, 4, 0, 0, 0}, last[N] = {1, 2, 4.5f, 3, 0, 0, 0, 6};
    sampler *s = create(0.5f, 0, 1, 1);
    int32_t id;
    float margin;
    assert_int_equal(sampler_next(s, first, &id, &margin), KVP_OK);
    assert_true(margin == 1);
    assert_int_equal(sampler_next(s, last, &id, &margin), KVP_OK);
    assert_true(margin == 1.5f);
    sampler_destroy(s);
}

static void test_draws_follow_the_distribution(void **state)
{
    (void)state;
    size_t counts[N];
    sampler *s = create(1, 0, 1, 42);
    count(s, counts);
    check_frequencies(counts, 7, 0.5);
    sampler_destroy(s);
}

static void test_temperature_flattens(void **state)
{
    (void)state;
    size_t counts[N];
    sampler *s = create(2, 0, 1, 43);
    count(s, counts);
    check_frequencies(counts, 7, sqrt(0.5));
    sampler_destroy(s);
}

static void test_top_k_keeps_k(void **state)
{
    (void)state;
    size_t counts[N];
    for (uint32_t k = 1; k <= 7; k += 2) {
        sampler *s = create(1, k, 1, 44 + k);
        count(s, counts);
        check_frequencies(counts, k, 0.5);
        sampler_destroy(s);
    }
}

/* The smallest set whose mass reaches top_p: of 64/127, 32/127, 16/127 ... */
static void test_top_p_keeps_the_smallest_set(void **state)
{
    (void)state;
    static const struct {
        float top_p;
        size_t kept;
    } cases[] = {{1e-6f, 1}, {0.5f, 1}, {0.51f, 2}, {0.75f, 2}, {0.76f, 3}, {0.999f, 7}};
    size_t counts[N];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sampler *s = create(1, 0, cases[i].top_p, 50 + i);
        count(s, counts);
        check_frequencies(counts, cases[i].kept, 0.5);
        sampler_destroy(s);
    }
}

/* top-p counts the mass that top-k left: of 4/7, 2/7, 1/7, 0.8 needs two. */
static void test_top_p_applies_after_top_k(void **state)
{
    (void)state;
    size_t counts[N];
    sampler *s = create(1, 3, 0.8f, 60);
    count(s, counts);
    check_frequencies(counts, 2, 0.5);
    sampler_destroy(s);
}

static void test_same_seed_gives_same_tokens(void **state)
{
    (void)state;
    sampler *a = create(1, 0, 0.95f, 7), *b = create(1, 0, 0.95f, 7), *c = create(1, 0, 0.95f, 8);
    int n_different = 0;
    for (int i = 0; i < 200; i++) {
        int32_t id = next(a, logits);
        assert_int_equal(id, next(b, logits));
        n_different += id != next(c, logits);
    }
    assert_true(n_different > 20);
    sampler_destroy(a);
    sampler_destroy(b);
    sampler_destroy(c);
}

static void test_not_a_number_is_an_error(void **state)
{
    (void)state;
    static const float values[] = {NAN, INFINITY};
    for (int temperature = 0; temperature < 2; temperature++) {
        for (size_t i = 0; i < 2; i++) {
            float bad[N] = {0};
            int32_t id = -5;
            bad[6] = values[i];
            sampler *s = create((float)temperature, 0, 1, 1);
            assert_int_equal(sampler_next(s, bad, &id, NULL), KVP_E_INVALID);
            assert_int_equal(id, -5);
            assert_non_null(strchr(kvp_error(), '6'));
            sampler_destroy(s);
        }
    }
}

static void test_bad_options_are_refused(void **state)
{
    (void)state;
    static const sampler_options bad[] = {
        {.temperature = -1, .top_p = 1},       {.temperature = NAN, .top_p = 1},
        {.temperature = INFINITY, .top_p = 1}, {.temperature = 1, .top_p = 0},
        {.temperature = 1, .top_p = 1.1f},     {.temperature = 1, .top_p = NAN}};
    sampler *s = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(sampler_create(&bad[i], N, &s), KVP_E_INVALID);
    assert_null(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_lowest_id_of_equal_maxima),
        cmocka_unit_test(test_margin_is_of_the_two_highest_wherever_they_are),
        cmocka_unit_test(test_draws_follow_the_distribution),
        cmocka_unit_test(test_temperature_flattens),
        cmocka_unit_test(test_top_k_keeps_k),
        cmocka_unit_test(test_top_p_keeps_the_smallest_set),
        cmocka_unit_test(test_top_p_applies_after_top_k),
        cmocka_unit_test(test_same_seed_gives_same_tokens),
        cmocka_unit_test(test_not_a_number_is_an_error),
        cmocka_unit_test(test_bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
