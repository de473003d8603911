/* test_segments.c - records lie where nothing else does, room is counted to the unit, and cleaning
 * makes one of what is scattered. A naive map of units is the oracle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "tiers/segments.h"

#define SLOT 4u
#define SEGMENT 32u
#define MAX_UNITS (64u * SEGMENT)
#define MAX_RECORDS MAX_UNITS
#define SEED 91u

static kvpi_segments s;
static uint64_t seed;

static uint32_t random_below(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static void extend(uint64_t n_units, uint64_t n_records)
{
    kvpi_segments_more more;
    assert_int_equal(kvpi_segments_prepare(&s, n_units, n_records, &more), KVP_OK);
    kvpi_segments_extend(&s, n_units, &more);
    kvpi_segments_finish(&s, &more);
}

static void open_segments(bool has_reserve, bool fills_holes, uint32_t n_segments)
{
    kvpi_segments_config cfg = {.segment_units = SEGMENT,
                                .slot_units = SLOT,
                                .fills_holes = fills_holes,
                                .mem = &kvpi_mem_default};
    seed = SEED;
    assert_int_equal(kvpi_segments_open(&cfg, &s), KVP_OK);
    extend((uint64_t)n_segments * SEGMENT, MAX_RECORDS);
    if (has_reserve)
        kvpi_segments_keep(&s, 0);
}

static int close_segments(void **state)
{
    (void)state;
    kvpi_segments_close(&s);
    return 0;
}

/* ---- the oracle: which record has which unit --------------------------------------------------*/

static uint32_t owner[MAX_UNITS];
static uint32_t held[MAX_RECORDS], n_held;

static void forget_all(void)
{
    memset(owner, 0xff, sizeof owner);
    n_held = 0;
}

static void hold(uint32_t record)
{
    const kvpi_extent *at = &kvpi_segments_at(&s, record)->at;
    uint64_t place = kvpi_segments_place(&s, at);
    assert_true(place + at->n_units <= s.n_units && at->unit + at->n_units <= SEGMENT);
    for (uint32_t i = 0; i < at->n_units; i++) {
        assert_int_equal(owner[place + i], KVPI_NONE);
        owner[place + i] = record;
    }
}

static void let_go(uint32_t record)
{
    const kvpi_extent *at = &kvpi_segments_at(&s, record)->at;
    for (uint32_t i = 0; i < at->n_units; i++) {
        uint32_t *unit = &owner[kvpi_segments_place(&s, at) + i];
        assert_int_equal(*unit, record);
        *unit = KVPI_NONE;
    }
}

static bool add(uint32_t n_units)
{
    uint32_t record;
    if (!kvpi_segments_alloc(&s, n_units, &record))
        return false;
    held[n_held++] = record;
    hold(record);
    return true;
}

static void drop(uint32_t i)
{
    let_go(held[i]);
    kvpi_segments_free(&s, held[i]);
    held[i] = held[--n_held];
}

static uint32_t runs_by_hand(void)
{
    uint32_t n_runs = 0;
    for (uint32_t i = 0; i < s.n_segments; i++) {
        uint32_t run = 0, n = 0;
        for (uint32_t k = 0; k < SEGMENT && i * SEGMENT + k < s.n_units; k++) {
            run = owner[i * SEGMENT + k] == KVPI_NONE ? run + 1 : 0;
            if (run == SLOT) {
                n++;
                run = 0;
            }
        }
        n_runs += n;
    }
    return n_runs;
}

static void check_counts(void)
{
    uint64_t n_used = 0;
    for (uint32_t i = 0; i < n_held; i++)
        n_used += kvpi_segments_at(&s, held[i])->at.n_units;
    assert_int_equal(s.n_used, n_used);
    assert_int_equal(s.n_in_use, n_held);
    if (s.cfg.fills_holes) {
        uint32_t kept = s.reserve != KVPI_NONE ? SEGMENT / SLOT : 0;
        assert_int_equal(kvpi_segments_runs(&s) + kept, runs_by_hand());
    }
}

/* Everything in the segment elsewhere. */
static void clean(uint32_t segment)
{
    uint64_t n_before = s.n_runs;
    kvpi_segments_clean_begin(&s, segment);
    for (uint32_t i = 0; i < n_held; i++) {
        if (kvpi_segments_at(&s, held[i])->at.segment != segment)
            continue;
        kvpi_extent to = kvpi_segments_move_begin(&s, held[i]);
        let_go(held[i]);
        kvpi_segments_moved(&s, held[i], &to);
        hold(held[i]);
    }
    kvpi_segments_clean_end(&s, segment);
    if (s.cfg.fills_holes)
        assert_true(s.n_runs > n_before);
    assert_int_not_equal(s.reserve, KVPI_NONE);
}

/* ---- records of one size ----------------------------------------------------------------------*/

static void test_records_follow_each_other(void **state)
{
    (void)state;
    open_segments(false, true, 8);
    forget_all();
    uint64_t expected = 0;
    for (; kvpi_segments_runs(&s); expected += SLOT) {
        assert_true(add(SLOT));
        assert_int_equal(kvpi_segments_place(&s, &kvpi_segments_at(&s, held[n_held - 1])->at),
                         expected);
    }
    assert_int_equal(expected, 8 * SEGMENT); /* to the last unit */
    assert_false(add(SLOT));
}

/* Whatever the order, a full slot is refused only when not one is free. */
static void test_equal_records_need_no_cleaning(void **state)
{
    (void)state;
    open_segments(false, true, 9);
    forget_all();
    uint32_t n_refused = 0;
    for (uint32_t step = 0; step < 20000; step++) {
        if (random_below(100) < 55) {
            bool ok = add(SLOT);
            assert_int_equal(ok, n_held <= 72 && (ok || n_held < 72));
            n_refused += !ok;
        } else if (n_held) {
            drop(random_below(n_held));
        }
        assert_int_equal(kvpi_segments_runs(&s), 72 - n_held);
    }
    check_counts();
    assert_true(n_refused > 100);
}

/* The file may end inside a segment, and go on later. */
static void test_file_grows_by_less_than_a_segment(void **state)
{
    (void)state;
    open_segments(false, true, 0);
    forget_all();
    for (uint32_t n_slots = 1; n_slots <= 40; n_slots += 1 + n_slots % 3) {
        extend(n_slots * SLOT, MAX_RECORDS);
        while (add(SLOT))
            continue;
        assert_int_equal(n_held, n_slots);
        drop(random_below(n_held));
        assert_int_equal(kvpi_segments_runs(&s), 1);
        assert_true(add(SLOT));
        check_counts();
    }
}

/* A sequence that dies whole leaves room in which the next one lies in one piece. */
static void test_what_is_freed_together_is_used_together(void **state)
{
    (void)state;
    open_segments(false, true, 8);
    forget_all();
    while (add(SLOT))
        continue;
    for (uint32_t i = n_held; i-- > 0;)
        if (kvpi_segments_at(&s, held[i])->at.segment == 3)
            drop(i);
    drop(5); /* and a hole elsewhere */
    uint32_t before = n_held;
    for (uint32_t i = 0; i < SEGMENT / SLOT; i++) {
        assert_true(add(SLOT));
        const kvpi_extent *at = &kvpi_segments_at(&s, held[before + i])->at;
        assert_int_equal(at->segment, 3);
        assert_int_equal(at->unit, i * SLOT);
    }
}

/* ---- records of any size ----------------------------------------------------------------------*/

/* Promised runs can be had, however small and scattered what comes between. */
static void test_a_smaller_record_costs_at_most_one_run(void **state)
{
    (void)state;
    open_segments(true, true, 10);
    forget_all();
    uint32_t n_steps = 0;
    for (uint32_t round = 0; round < 200; round++) {
        while (n_held > 20)
            drop(random_below(n_held));
        uint64_t promised = kvpi_segments_runs(&s);
        for (; promised; promised--, n_steps++) {
            assert_true(kvpi_segments_runs(&s) >= promised);
            assert_true(add(1 + random_below(SLOT)));
        }
        check_counts();
    }
    assert_true(n_steps > 1000);
}

/* Cleaning goes on until less than a slot per segment is lost, keeps what lives, and ends. */
static void test_cleaning_gathers_fragments(void **state)
{
    (void)state;
    open_segments(true, true, 12);
    forget_all();
    uint32_t n_cleaned = 0, n_full = 0;
    for (uint32_t step = 0; step < 30000; step++) {
        uint32_t n = 1 + random_below(SLOT), victim;
        if (random_below(100) < 58) {
            while (!kvpi_segments_runs(&s) && (victim = kvpi_segments_victim(&s)) != KVPI_NONE) {
                clean(victim);
                n_cleaned++;
            }
            if (!kvpi_segments_runs(&s)) {
                n_full++;
                assert_true(s.n_used > (s.n_segments - 1) * (SEGMENT - SLOT));
                drop(random_below(n_held));
                continue;
            }
            assert_true(add(n));
        } else if (n_held) {
            drop(random_below(n_held));
        }
        if (step % 64 == 0)
            check_counts();
    }
    assert_true(n_cleaned > 100 && n_full > 10);
}

/* Append only: room in a segment comes back when all of it is dead, or has been moved. */
static void test_a_log_writes_into_empty_segments_only(void **state)
{
    (void)state;
    open_segments(true, false, 12);
    forget_all();
    uint32_t n_cleaned = 0;
    uint64_t last_place[2] = {UINT64_MAX, UINT64_MAX};
    for (uint32_t step = 0; step < 30000; step++) {
        uint32_t victim;
        while (n_held && s.n_used > s.n_units * 7 / 10)
            drop(random_below(n_held));
        while (!kvpi_segments_runs(&s)) {
            victim = kvpi_segments_victim(&s);
            assert_int_not_equal(victim, KVPI_NONE);
            clean(victim);
            n_cleaned++;
        }
        assert_true(add(1 + random_below(SLOT)));
        const kvpi_extent *at = &kvpi_segments_at(&s, held[n_held - 1])->at;
        if (at->segment == last_place[0])
            assert_true(at->unit == last_place[1]);
        else
            assert_int_equal(at->unit, 0);
        last_place[0] = at->segment;
        last_place[1] = at->unit + at->n_units;
    }
    assert_true(n_cleaned > 100);
    check_counts();
}

/* Of two segments that are equally full the older is cleaned; of two equally old the emptier. */
static void test_victim_is_the_best_of_cost_and_benefit(void **state)
{
    (void)state;
    open_segments(true, false, 6);
    forget_all();
    for (uint32_t i = 0; i < 4 * SEGMENT / SLOT; i++)
        assert_true(add(SLOT));
    assert_true(add(SLOT)); /* segment 4 is the head now */
    for (uint32_t i = n_held; i-- > 0;) {
        const kvpi_extent at = kvpi_segments_at(&s, held[i])->at;
        if ((at.segment == 1 || at.segment == 2) && at.unit < SEGMENT / 2)
            drop(i);
    }
    assert_int_equal(kvpi_segments_victim(&s), 1);
    for (uint32_t i = n_held; i-- > 0;) {
        const kvpi_extent at = kvpi_segments_at(&s, held[i])->at;
        if (at.segment == 2 && at.unit < SEGMENT - SLOT)
            drop(i);
    }
    assert_int_equal(kvpi_segments_victim(&s), 2);
}

/* What could not be moved stays; its segment is left alone until it is empty. */
static void test_a_segment_that_cannot_be_cleaned_is_not_tried_again(void **state)
{
    (void)state;
    open_segments(true, true, 4);
    forget_all();
    for (uint32_t i = 0; i < 3 * SEGMENT; i++)
        assert_true(add(1));
    for (uint32_t i = n_held; i-- > 0;)
        if (kvpi_segments_at(&s, held[i])->at.unit % 2)
            drop(i);
    uint32_t victim = kvpi_segments_victim(&s), moved = KVPI_NONE;
    assert_int_not_equal(victim, KVPI_NONE);
    kvpi_segments_clean_begin(&s, victim);
    for (uint32_t i = 0; i < n_held && moved == KVPI_NONE; i++)
        if (kvpi_segments_at(&s, held[i])->at.segment == victim)
            moved = held[i];
    kvpi_extent from = kvpi_segments_at(&s, moved)->at, to = kvpi_segments_move_begin(&s, moved);
    kvpi_segments_not_moved(&s, moved, &to, true);
    kvpi_segments_clean_end(&s, victim);
    assert_memory_equal(&kvpi_segments_at(&s, moved)->at, &from, sizeof from);
    assert_int_equal(s.reserve, KVPI_NONE); /* a unit of it is bad */
    assert_int_equal(kvpi_segments_victim(&s), KVPI_NONE);
    for (uint32_t i = n_held; i-- > 0;)
        if (kvpi_segments_at(&s, held[i])->at.segment == victim)
            drop(i);
    kvpi_segments_keep(&s, kvpi_segments_runs(&s));
    assert_int_equal(s.reserve, KVPI_NONE); /* not at the expense of what was promised */
    kvpi_segments_keep(&s, kvpi_segments_runs(&s) - SEGMENT / SLOT);
    assert_int_equal(s.reserve, victim);
    assert_int_not_equal(kvpi_segments_victim(&s), KVPI_NONE);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_teardown(f, close_segments)
    const struct CMUnitTest tests[] = {
        CASE(test_records_follow_each_other),
        CASE(test_equal_records_need_no_cleaning),
        CASE(test_file_grows_by_less_than_a_segment),
        CASE(test_what_is_freed_together_is_used_together),
        CASE(test_a_smaller_record_costs_at_most_one_run),
        CASE(test_cleaning_gathers_fragments),
        CASE(test_a_log_writes_into_empty_segments_only),
        CASE(test_victim_is_the_best_of_cost_and_benefit),
        CASE(test_a_segment_that_cannot_be_cleaned_is_not_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
