/* test_slot_depot.c - the bitmap of free slots against an array of bools. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/slot_depot.h"

#include <stdbool.h>
#include <stdlib.h>

typedef struct model {
    kvpi_slot_depot depot;
    uint64_t *words;
    bool *is_taken; /* [n_slots] */
    uint32_t *taken, n_taken;
} model;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static model open_model(uint32_t n_slots)
{
    model m = {.words = calloc(kvpi_slot_depot_words(n_slots), sizeof(uint64_t)),
               .is_taken = calloc(n_slots, sizeof(bool)),
               .taken = calloc(n_slots, sizeof(uint32_t))};
    kvpi_slot_depot_init(&m.depot, n_slots, m.words);
    return m;
}

static void close_model(model *m)
{
    free(m->words);
    free(m->is_taken);
    free(m->taken);
}

static void check_counts(const model *m)
{
    uint32_t n_free = 0, n_above = 0;
    for (uint32_t i = 0; i < m->depot.n_slots; i++) {
        n_free += i < m->depot.end && !m->is_taken[i];
        n_above += i >= m->depot.end && m->is_taken[i];
    }
    assert_int_equal(m->depot.n_free, n_free);
    assert_int_equal(m->depot.n_above, n_above);
}

/* The lowest free ones, the lowest last. */
static void take(model *m, uint32_t n)
{
    uint32_t *got = malloc((n ? n : 1) * sizeof *got), slot = 0;
    kvpi_slot_depot_take(&m->depot, got, n);
    for (uint32_t i = n; i-- > 0;) {
        while (m->is_taken[slot])
            slot++;
        assert_int_equal(got[i], slot);
        m->is_taken[slot] = true;
        m->taken[m->n_taken++] = slot;
    }
    free(got);
}

static void give_some(model *m, uint32_t n, uint64_t *seed)
{
    uint32_t *given = malloc((n ? n : 1) * sizeof *given);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = (uint32_t)(next_random(seed) % m->n_taken);
        given[i] = m->taken[k];
        m->taken[k] = m->taken[--m->n_taken];
        m->is_taken[given[i]] = false;
    }
    kvpi_slot_depot_give(&m->depot, given, n);
    free(given);
}

static void test_random_operations_match_an_array(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 63, 64, 65, 128, 4095, 4097, 5000};
    uint64_t seed = 4711;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        uint32_t n_slots = sizes[k], n_ends = 0;
        model m = open_model(n_slots);
        for (int step = 0; step < 600; step++) {
            uint64_t r = next_random(&seed);
            uint32_t n = (uint32_t)(r >> 40) % 90;
            if (r % 16 == 0) {
                kvpi_slot_depot_set_end(&m.depot, (uint32_t)(r >> 8) % (n_slots + 1));
                n_ends++;
            } else if (r % 2) {
                take(&m, n < m.depot.n_free ? n : m.depot.n_free);
            } else {
                give_some(&m, n < m.n_taken ? n : m.n_taken, &seed);
            }
            check_counts(&m);
        }
        assert_true(n_ends > 10);
        kvpi_slot_depot_set_end(&m.depot, n_slots);
        take(&m, m.depot.n_free);
        assert_int_equal(m.n_taken, n_slots);
        close_model(&m);
    }
}

static void test_levels_take_no_more_than_a_seventh_of_a_byte_per_slot(void **state)
{
    (void)state;
    assert_int_equal(kvpi_slot_depot_words(1), 1);
    assert_int_equal(kvpi_slot_depot_words(64), 1);
    assert_int_equal(kvpi_slot_depot_words(65), 3);
    assert_int_equal(kvpi_slot_depot_words(4096), 65);
    assert_true(kvpi_slot_depot_words(1u << 22) * 8 < (1u << 22) / 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations_match_an_array),
        cmocka_unit_test(test_levels_take_no_more_than_a_seventh_of_a_byte_per_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
