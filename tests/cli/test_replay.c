/* test_replay.c - kvpager replay, and --trace of the commands that run a model. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

#include "kvpager/placement.h"

#define CYCLIC "tests/data/traces/cyclic_decode.trace"

static const json_t *budget(const outcome *o, size_t i)
{
    const json_t *row = json_array_get(member(o->json, "budgets"), i);
    assert_non_null(row);
    return row;
}

static double hit_rate(const json_t *row, const char *policy)
{
    char path[64];
    snprintf(path, sizeof path, "policies.%s.rate", policy);
    return real_member(row, path);
}

static void test_all_policies_stand_beside_the_optimum(void **state)
{
    (void)state;
    outcome o = run_expecting(0, "", "replay " CYCLIC " --json");
    assert_int_equal(json_array_size(member(o.json, "budgets")), 5);
    assert_int_equal(int_member(o.json, "page_bytes"), 65536);
    assert_int_equal(int_member(o.json, "sequences"), 1);
    int64_t n_pages = int_member(o.json, "pages_at_a_time"), n_uses = int_member(o.json, "uses");
    for (size_t i = 0; i < 5; i++) {
        const json_t *row = budget(&o, i);
        assert_int_equal(json_object_size(member(row, "policies")), 6);
        assert_true(int_member(row, "frames") < n_pages);
        int64_t hits = int_member(row, "optimum.hits");
        assert_true(hits > 0 && hits < n_uses);
        for (size_t k = 0; kvp_placement_at(k); k++)
            assert_true(hit_rate(row, kvp_placement_at(k)->name) <=
                        real_member(row, "optimum.rate"));
    }
    outcome_free(&o);
}

static void test_table_has_the_same_figures(void **state)
{
    (void)state;
    outcome json = run_expecting(0, "", "replay " CYCLIC " --policy lru,sticky --frames 40 --json");
    outcome table = run_expecting(0, "", "replay --frames 40 " CYCLIC " --policy lru,sticky");
    const json_t *row = budget(&json, 0);
    char line[128];
    snprintf(line, sizeof line, "%.4f   %.4f   %.4f\n", real_member(row, "optimum.rate"),
             hit_rate(row, "lru"), hit_rate(row, "sticky"));
    assert_int_equal(json_object_size(member(row, "policies")), 2);
    if (!strstr(table.out, line) || !strstr(table.out, "lru   sticky\n"))
        fail_msg("no '%s' in: %s", line, table.out);
    outcome_free(&json);
    outcome_free(&table);
}

static void test_budgets_in_bytes_and_lists(void **state)
{
    (void)state;
    outcome o = run_expecting(0, "", "replay " CYCLIC " --ram 4M --json");
    assert_int_equal(int_member(budget(&o, 0), "frames"), 64);
    assert_int_equal(json_array_size(member(o.json, "budgets")), 1);
    outcome_free(&o);
    o = run_expecting(0, "", "replay " CYCLIC " --frames 3,1000 --policy clock --json");
    assert_int_equal(int_member(budget(&o, 0), "frames"), 3);
    assert_true(hit_rate(budget(&o, 1), "clock") == 1);
    outcome_free(&o);
}

static void test_mooncake(void **state)
{
    (void)state;
    outcome o = run_expecting(0, "",
                              "replay tests/data/traces/mooncake.jsonl --format mooncake "
                              "--frames 12,4 --json");
    assert_int_equal(int_member(o.json, "sequences"), 7);
    assert_int_equal(int_member(o.json, "pages"), 12);
    assert_int_equal(int_member(o.json, "uses"), 18);
    assert_true(json_is_null(member(o.json, "page_bytes")));
    assert_int_equal(int_member(budget(&o, 0), "policies.lru.hits"), 18);
    assert_true(int_member(budget(&o, 1), "optimum.hits") < 18);
    outcome_free(&o);
}

/* What a run uses is what its trace has: decode reads every page of every layer at each step. */
static void test_a_run_is_recorded(void **state)
{
    (void)state;
    const char *generate = "generate -m %s --ids %s -n 60 --ignore-eos --threads 1 --json "
                           "--placement attention-mass --trace %s %s";
    const char *path = scratch("run.trace");
    const char *ids = ids_file("rolling.token_ids", 0, 500);
    outcome resident = run_expecting(0, "", "generate -m %s --ids %s -n 60 --ignore-eos --json",
                                     demo_model(), ids);
    outcome o = run_expecting(0, "", generate, demo_model(), ids, path, "--ram 1M");
    expect_same_tokens(resident.json, o.json);
    outcome in_ram = run_expecting(0, "", generate, demo_model(), ids, scratch("ram.trace"), "");
    outcome replayed = run_expecting(0, "", "replay %s --json", path);
    outcome replayed_ram = run_expecting(0, "", "replay %s --json", scratch("ram.trace"));
    /* Six layers; 500 tokens and more are eight pages of 64, and nine in the end. */
    assert_int_equal(int_member(replayed.json, "pages"), 6 * 9);
    assert_true(int_member(replayed.json, "uses") >= 59 * 6 * (8 + 1));
    assert_true(json_equal(member(replayed.json, "budgets"), member(replayed_ram.json, "budgets")));
    outcome_free(&resident);
    outcome_free(&o);
    outcome_free(&in_ram);
    outcome_free(&replayed);
    outcome_free(&replayed_ram);
}

static void test_batches_and_conversations_are_recorded(void **state)
{
    (void)state;
    const char *prompts = "one prompt\nanother prompt, which is longer\n";
    write_file(scratch("prompts.txt"), prompts, strlen(prompts));
    outcome o = run_expecting(0, "", "generate -m %s --batch %s -n 8 --trace %s", demo_model(),
                              scratch("prompts.txt"), scratch("batch.trace"));
    outcome replayed = run_expecting(0, "", "replay %s --json", scratch("batch.trace"));
    assert_int_equal(int_member(replayed.json, "sequences"), 2);
    outcome_free(&o);
    outcome_free(&replayed);
}

static void test_mistakes_are_explained(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *arguments, *text;
    } mistakes[] = {
        {2, "", "no FILE"},
        {2, CYCLIC " " CYCLIC, "unexpected argument"},
        {2, CYCLIC " --policy fifo", "--policy"},
        {2, CYCLIC " --policy lru,", "--policy"},
        {2, CYCLIC " --frames 0", "--frames"},
        {2, CYCLIC " --frames 1,,2", "--frames"},
        {2, CYCLIC " --format csv", "kvpager or mooncake"},
        {2, CYCLIC " --frames 3 --ram 1M", "not both"},
        {1, CYCLIC " --ram 1000", "is no number of pages of 65536 bytes"},
        {1, "nowhere.trace", "nowhere.trace"},
        {1, "README.md", "no trace begins like this"},
        {1, "README.md --format mooncake", "line 1"},
        {1, "tests/data/traces/mooncake.jsonl --format mooncake --ram 1M", "give --frames"},
    };
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        outcome o = run("", "replay %s", mistakes[i].arguments);
        expect_failure(&o, mistakes[i].code, mistakes[i].text);
        outcome_free(&o);
    }
    outcome o = run("", "generate -m %s -p x -n 1 --trace /nowhere/x.trace", demo_model());
    expect_failure(&o, 1, "/nowhere/x.trace");
    outcome_free(&o);
    o = run("", "generate -m %s -p x -n 1 --trace /dev/full", demo_model());
    expect_failure(&o, 1, "the trace could not be written");
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_policies_stand_beside_the_optimum),
        cmocka_unit_test(test_table_has_the_same_figures),
        cmocka_unit_test(test_budgets_in_bytes_and_lists),
        cmocka_unit_test(test_mooncake),
        cmocka_unit_test(test_a_run_is_recorded),
        cmocka_unit_test(test_batches_and_conversations_are_recorded),
        cmocka_unit_test(test_mistakes_are_explained),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
