/* test_conversation.c - SmolLM2 in a conversation, and a batch of questions to it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cli/support.h"
#include "tests/support/smollm2.h"

static json_t *run_lines(const char *words, outcome *o)
{
    *o = run("", "generate -m %s --threads 2 %s", demo_model(), words);
    if (o->code != 0)
        fail_msg("exit code %d: %s", o->code, o->err);
    return json_lines(o);
}

static void test_conversation_is_answered_and_its_kv_stays(void **state)
{
    (void)state;
    outcome o;
    static const char turns[] = "What is the capital of France?\nThanks. What is the capital of "
                                "Italy?\n";
    write_file(scratch("turns"), turns, sizeof turns - 1);
    char words[256];
    snprintf(words, sizeof words, "--chat --json --verify -n 60 --ram 2M <%s", scratch("turns"));
    json_t *lines = run_lines(words, &o);
    assert_int_equal(json_array_size(lines), 3);
    const json_t *first = json_array_get(lines, 0), *second = json_array_get(lines, 1);
    assert_non_null(strstr(text_member(first, "text"), "Paris"));
    assert_non_null(strstr(text_member(second, "text"), "Rome"));
    assert_string_equal(text_member(first, "stop_reason"), "eos");
    assert_string_equal(text_member(second, "stop_reason"), "eos");
    assert_int_equal(int_member(second, "prefill_tokens"), int_member(second, "prompt_tokens") + 1);
    assert_true(int_member(second, "prefill_tokens") < int_member(first, "text_tokens"));
    assert_true(int_member(second, "stats.major_faults") > 0);
    assert_true(json_is_true(member(json_array_get(lines, 2), "identical")));
    json_decref(lines);
    outcome_free(&o);
}

static void test_batch_of_questions_takes_turns(void **state)
{
    (void)state;
    outcome o;
    static const char prompts[] = "What is the capital of France?\nName three colours.\n"
                                  "Write a sentence about the sea.\nWhat is 2 + 2?\n"
                                  "Who wrote Moby-Dick?\n";
    write_file(scratch("prompts"), prompts, sizeof prompts - 1);
    char words[256];
    snprintf(words, sizeof words,
             "--chat --batch %s --json --verify -n 60 --ignore-eos --parallel 4 --in-order "
             "--ram 8M",
             scratch("prompts"));
    json_t *lines = run_lines(words, &o);
    assert_int_equal(json_array_size(lines), 6);
    const json_t *summary = json_array_get(lines, 5);
    assert_non_null(strstr(text_member(json_array_get(lines, 0), "text"), "Paris"));
    assert_int_equal(int_member(summary, "new_tokens"), 300);
    assert_true(int_member(summary, "together") == 2);
    assert_true(int_member(summary, "turns") > 1);
    assert_true(int_member(summary, "stats.major_faults") > 0);
    assert_true(json_is_true(member(summary, "identical")));
    json_decref(lines);
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversation_is_answered_and_its_kv_stays),
        cmocka_unit_test(test_batch_of_questions_takes_turns),
    };
    smollm2_skip_if_missing();
    setenv("KVP_DEMO_MODEL", smollm2_path(), 1);
    setenv("KVP_DEMO_GOLDEN", "tests/data/smollm2", 1);
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
