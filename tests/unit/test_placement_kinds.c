/* test_placement_kinds.c - what is particular to LFU, CLOCK, S3-FIFO and attention mass; the
 * others are in test_placement.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "placement_model.h"

#include <math.h>

/* Use a page again that is in. */
static void use(placement_model *m, uint32_t page)
{
    model_remove(m, page, KVP_REMOVED_FOR_USE);
    model_insert(m, &(kvp_placement_page){.page = page, .is_used = true});
}

static void insert_new(placement_model *m, uint32_t page)
{
    model_insert(m, &(kvp_placement_page){.page = page, .is_used = true});
}

/* The first victims are these, and then others or none. */
static void expect_order(placement_model *m, const uint32_t *pages, size_t n)
{
    uint32_t page = KVP_PAGE_NONE;
    for (size_t i = 0; i < n; i++) {
        page = model_victim(m, page);
        assert_int_equal(page, pages[i]);
    }
}
#define EXPECT_ORDER(m, ...)                                                                       \
    expect_order(m, (const uint32_t[]){__VA_ARGS__}, sizeof(uint32_t[]){__VA_ARGS__} / 4)

static void test_lfu_counts_uses_and_forgets_them_slowly(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_lfu, MODEL_MAX_PAGES, 1);
    for (uint32_t i = 0; i < 4; i++)
        insert_new(m, i);
    for (int i = 0; i < 2; i++)
        use(m, 1);
    use(m, 0);
    use(m, 3);
    EXPECT_ORDER(m, 2, 0, 3, 1, KVP_PAGE_NONE); /* twice each: the one used last stays */
    for (int i = 0; i < 200; i++)
        use(m, i % 2 ? 0U : 2U);
    EXPECT_ORDER(m, 3, 1); /* three uses long ago count less than one would now */
    insert_new(m, 4);
    EXPECT_ORDER(m, 3, 1, 4);
    model_close(m);
}

static void test_clock_gives_a_second_chance(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_clock, MODEL_MAX_PAGES, 1);
    for (uint32_t i = 0; i < 5; i++)
        insert_new(m, i);
    use(m, 0);
    use(m, 3);
    use(m, 1);
    EXPECT_ORDER(m, 2, 4, 0, 1, 3, KVP_PAGE_NONE); /* the hand passed 0 and 1: they are behind 4 */
    model_remove(m, 2, KVP_REMOVED_GONE);
    EXPECT_ORDER(m, 4, 0, 1, 3, KVP_PAGE_NONE); /* and now 3: none is marked any more */
    use(m, 0);
    use(m, 4);
    EXPECT_ORDER(m, 1, 3, 4, 0, KVP_PAGE_NONE);
    model_close(m);
}

/* A page in use keeps its place, and is passed over. */
static void test_clock_passes_over_pages_in_use(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_clock, MODEL_MAX_PAGES, 1);
    for (uint32_t i = 0; i < 3; i++)
        insert_new(m, i);
    model_remove(m, 1, KVP_REMOVED_FOR_USE);
    EXPECT_ORDER(m, 0, 2, KVP_PAGE_NONE);
    model_insert(m, &(kvp_placement_page){.page = 1}); /* read ahead in vain: no use */
    EXPECT_ORDER(m, 0, 1, 2, KVP_PAGE_NONE);
    for (uint32_t i = 0; i < 3; i++)
        model_remove(m, i, KVP_REMOVED_FOR_USE);
    EXPECT_ORDER(m, KVP_PAGE_NONE);
    model_close(m);
}

static void test_s3_fifo_filters_pages_that_are_used_once(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_s3_fifo, 20, 1);
    for (int round = 0; round < 3; round++) /* ten pages that are wanted, in the main queue soon */
        for (uint32_t i = 0; i < 10; i++)
            model_use(m, &(kvp_placement_page){.page = i});
    for (uint32_t i = 100; i < 1000; i++) /* and a long scan */
        model_use(m, &(kvp_placement_page){.page = i});
    for (uint32_t i = 0; i < 10; i++)
        assert_true(m->is_resident[i]);
    model_close(m);
}

static void test_s3_fifo_lets_ghosts_back_into_the_main_queue(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_s3_fifo, 10, 1);
    for (uint32_t i = 0; i < 12; i++)
        model_use(m, &(kvp_placement_page){.page = i});
    assert_false(m->is_resident[0] || m->is_resident[1]);
    model_use(m, &(kvp_placement_page){.page = 0}); /* a ghost */
    m->memories[1] = 0;                             /* freed: its number is another page's now */
    model_use(m, &(kvp_placement_page){.page = 1});
    for (uint32_t i = 100; i < 120; i++)
        model_use(m, &(kvp_placement_page){.page = i});
    assert_true(m->is_resident[0]);
    assert_false(m->is_resident[1]);
    model_close(m);
}

static void test_the_least_attention_mass_leaves_first(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_attention_mass, MODEL_MAX_PAGES, 1);
    const float masses[] = {0.5f, 0.01f, 0, 0.001f, NAN};
    for (uint32_t i = 0; i < 6; i++) { /* 5 is not told of */
        if (i < 5)
            m->ops->mass(m->policy, i, masses[i]);
        insert_new(m, i);
    }
    insert_new(m, 6);
    EXPECT_ORDER(m, 4, 2, 3, 1, 0, 6, 5, KVP_PAGE_NONE);
    model_remove(m, 3, KVP_REMOVED_RETOLD);
    for (int i = 0; i < 40; i++)
        m->ops->mass(m->policy, 3, 0.9f); /* the average follows */
    insert_new(m, 3);
    EXPECT_ORDER(m, 4, 2, 1, 0, 3);
    m->memories[1] = 0;
    use(m, 1); /* not measured: counts as heavy */
    EXPECT_ORDER(m, 4, 2, 0, 3);
    model_close(m);
}

static void test_attention_mass_fades_while_a_page_is_not_used(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_attention_mass, MODEL_MAX_PAGES, 1);
    for (uint32_t i = 0; i < 3; i++) {
        m->ops->mass(m->policy, i, i == 0 ? 0.5f : 0.1f);
        insert_new(m, i);
    }
    EXPECT_ORDER(m, 2, 1, 0);
    for (int i = 0; i < 200; i++)
        use(m, i % 2 ? 1U : 2U);
    EXPECT_ORDER(m, 0);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lfu_counts_uses_and_forgets_them_slowly),
        cmocka_unit_test(test_clock_gives_a_second_chance),
        cmocka_unit_test(test_clock_passes_over_pages_in_use),
        cmocka_unit_test(test_s3_fifo_filters_pages_that_are_used_once),
        cmocka_unit_test(test_s3_fifo_lets_ghosts_back_into_the_main_queue),
        cmocka_unit_test(test_the_least_attention_mass_leaves_first),
        cmocka_unit_test(test_attention_mass_fades_while_a_page_is_not_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
