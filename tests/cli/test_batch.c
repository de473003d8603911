/* test_batch.c - generate --batch: a line for every prompt, places that are taken again, turns, and
 * the same bits under every budget and next to every other prompt. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char *prompts_file(const char *name, const char *text)
{
    const char *path = scratch(name);
    write_file(path, text, strlen(text));
    return path;
}

/* Pieces of the golden text, tens of words each: `n` of them, the i-th with `step` * i more bytes.
 */
static const char *long_prompts(const char *name, size_t n, size_t bytes, size_t step)
{
    char *path = (char *)scratch(name), model_text[512];
    size_t n_text;
    snprintf(model_text, sizeof model_text, "%s/excerpt.txt", demo_model());
    char *text = read_file(model_text, &n_text);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (size_t i = 0; i < n; i++) {
        size_t length = bytes + step * i, first = 61 * i;
        assert_true(first + length <= n_text);
        json_t *prompt = json_stringn(text + first, length);
        assert_non_null(prompt); /* the text is ASCII */
        assert_int_equal(json_dumpf(prompt, f, JSON_ENCODE_ANY), 0);
        fputc('\n', f);
        json_decref(prompt);
    }
    fclose(f);
    free(text);
    return path;
}

typedef struct batch {
    outcome outcome;
    json_t *lines, *summary;
} batch;

/* With --json: n_lines of results, in order, then the summary. */
static batch run_batch(int code, const char *setting, const char *file, size_t n_lines,
                       const char *options)
{
    outcome o =
        run(setting, "generate -m %s --batch %s --in-order --json %s", demo_model(), file, options);
    if (o.code != code)
        fail_msg("exit code %d, not %d: %s", o.code, code, o.err);
    json_t *lines = json_lines(&o);
    assert_int_equal(json_array_size(lines), n_lines + 1);
    return (batch){o, lines, json_array_get(lines, n_lines)};
}

static void batch_fini(batch *b)
{
    json_decref(b->lines);
    outcome_free(&b->outcome);
}

static const json_t *line(const batch *b, size_t i)
{
    return json_array_get(b->lines, i);
}

static void expect_same_line(const json_t *a, const json_t *b)
{
    assert_string_equal(text_member(a, "logits_xxh3"), text_member(b, "logits_xxh3"));
    assert_string_equal(text_member(a, "text"), text_member(b, "text"));
    expect_same_tokens(member(a, "tokens"), member(b, "tokens"));
}

/* ---- lines ---- */

static void test_every_prompt_gets_a_line(void **state)
{
    (void)state;
    const char *file = prompts_file("lines", "Call me Ishmael.\r\n\n\"The\\nship\"\n"
                                             "{\"prompt\": \"A whale\", \"id\": {\"n\": 7}}\n");
    batch b = run_batch(0, "", file, 3, "-n 5 --ignore-eos --parallel 1");
    static const char *const texts[] = {"'Call me Ishmael.'", "'The\nship'", "'A whale'"};
    static const int indexes[] = {0, 2, 3};
    for (size_t i = 0; i < 3; i++) {
        const json_t *l = line(&b, i);
        outcome alone = run_expecting(0, "", "generate -m %s -p %s -n 5 --ignore-eos --json",
                                      demo_model(), texts[i]);
        assert_int_equal(int_member(l, "index"), indexes[i]);
        assert_int_equal(int_member(l, "prompt_tokens"), int_member(alone.json, "prompt_tokens"));
        assert_int_equal(json_array_size(member(l, "tokens")), 5);
        assert_string_equal(text_member(l, "stop_reason"), "length");
        expect_same_line(l, alone.json); /* a batch of one is no batch */
        assert_int_equal(json_object_get(l, "id") != NULL, i == 2);
        outcome_free(&alone);
    }
    assert_int_equal(int_member(line(&b, 2), "id.n"), 7);
    assert_int_equal(int_member(b.summary, "prompts"), 3);
    assert_int_equal(int_member(b.summary, "failed"), 0);
    assert_int_equal(int_member(b.summary, "new_tokens"), 15);
    batch_fini(&b);
}

static void test_bad_lines_are_reported_and_the_others_go_on(void **state)
{
    (void)state;
    const char *file = prompts_file(
        "bad", "fine\n{\"prompt\": 1, \"id\": \"x\"}\n{bad\nalso \xff\n\"\"\n"
               "This one is longer than the context of sixteen tokens that it has to fit into, "
               "whatever happens.\nfine too\n");
    batch b = run_batch(1, "", file, 7, "-n 3 --ignore-eos --ctx 16 --beyond stop");
    static const char *const errors[] = {NULL,    "\"prompt\"", "column", "byte 5",
                                         "empty", "context 16", NULL};
    for (size_t i = 0; i < COUNT(errors); i++) {
        const json_t *l = line(&b, i);
        assert_int_equal(int_member(l, "index"), i);
        if (!errors[i])
            assert_int_equal(json_array_size(member(l, "tokens")), 3);
        else if (!strstr(text_member(l, "error"), errors[i]))
            fail_msg("line %zu: '%s' does not say '%s'", i, text_member(l, "error"), errors[i]);
    }
    assert_string_equal(text_member(line(&b, 1), "id"), "x");
    assert_int_equal(int_member(b.summary, "failed"), 5);
    assert_non_null(strstr(b.outcome.err, "5 of 7 prompts"));
    batch_fini(&b);
}

/* The tokenizer knows a token that the model does not. */
static void test_prompt_that_the_model_cannot_read_fails_alone(void **state)
{
    (void)state;
    static const char config[] =
        "{\"added_tokens_decoder\": {\"8192\": {\"content\": \"<|x|>\", \"special\": true}}}";
    outcome o = run("", "generate -m %s --batch %s --in-order -n 4 --ignore-eos --parallel 2",
                    model_with("tokenizer_config.json", config, strlen(config)),
                    prompts_file("foreign", "One\n<|x|>\nTwo\nThree <|x|>\nFour\n"));
    assert_int_equal(o.code, 1);
    json_t *lines = json_lines(&o);
    assert_int_equal(json_array_size(lines), 5);
    for (size_t i = 0; i < 5; i++) {
        const json_t *l = json_array_get(lines, i);
        if (i % 2 == 0)
            assert_int_equal(json_array_size(member(l, "tokens")), 4);
        else
            assert_non_null(strstr(text_member(l, "error"), "8192"));
    }
    assert_non_null(strstr(o.err, "2 of 5 prompts"));
    json_decref(lines);
    outcome_free(&o);
}

static void test_results_come_as_they_are_finished(void **state)
{
    (void)state;
    const char *file = prompts_file("order", "A whale swims in the deep\nA\n{\n");
    /* The context of 10 tokens ends the longer one first, and what is wrong is known before. */
    outcome o = run("", "generate -m %s --batch %s -n 9 --ignore-eos --ctx 10 --beyond stop",
                    demo_model(), file);
    assert_int_equal(o.code, 1);
    json_t *lines = json_lines(&o);
    assert_int_equal(json_array_size(lines), 3);
    assert_int_equal(int_member(json_array_get(lines, 0), "index"), 2);
    assert_int_equal(int_member(json_array_get(lines, 1), "index"), 0);
    assert_string_equal(text_member(json_array_get(lines, 1), "stop_reason"), "context");
    assert_int_equal(int_member(json_array_get(lines, 2), "index"), 1);
    json_decref(lines);
    outcome_free(&o);
}

static void test_prompts_come_from_stdin(void **state)
{
    (void)state;
    outcome o = run("", "generate -m %s --batch - -n 2 <%s", demo_model(),
                    prompts_file("stdin", "one\ntwo"));
    assert_int_equal(o.code, 0);
    json_t *lines = json_lines(&o);
    assert_int_equal(json_array_size(lines), 2);
    assert_string_equal(o.err, "");
    json_decref(lines);
    outcome_free(&o);
}

/* ---- places ---- */

/* Steps that n prompts take on `n_places`, when whoever has finished makes place at once. */
static size_t steps_of(const size_t *lengths, size_t n, size_t n_places)
{
    size_t busy_until[8] = {0}, last = 0;
    assert_true(n_places <= 8);
    for (size_t i = 0; i < n; i++) {
        size_t first = 0;
        for (size_t p = 1; p < n_places; p++)
            first = busy_until[p] < busy_until[first] ? p : first;
        busy_until[first] += lengths[i];
        last = busy_until[first] > last ? busy_until[first] : last;
    }
    return last;
}

static void test_a_finished_prompt_makes_place_for_the_next_at_once(void **state)
{
    (void)state;
    /* As long as the context of 60 tokens leaves room for. */
    const char *file = long_prompts("places", 7, 20, 24);
    size_t steps[7];
    batch b = run_batch(0, "", file, 7,
                        "-n 100 --ignore-eos --ctx 60 --beyond stop --parallel 3 --page-tokens 16");
    for (size_t i = 0; i < 7; i++) {
        size_t n_new = json_array_size(member(line(&b, i), "tokens"));
        assert_int_equal(n_new, 60 - int_member(line(&b, i), "prompt_tokens"));
        steps[i] = n_new - 1; /* the first one needs no step */
    }
    assert_true(steps[0] > 2 * steps[6]);
    assert_int_equal(int_member(b.summary, "steps"), steps_of(steps, 7, 3));
    assert_int_equal(int_member(b.summary, "together"), 3);
    assert_int_equal(int_member(b.summary, "turns"), 0);
    batch_fini(&b);
}

/* ---- exactness ---- */

static void test_neighbours_change_no_bit(void **state)
{
    (void)state;
    static const char *const settings[] = {"", "KVP_ISA=avx2"};
    for (size_t s = 0; s < COUNT(settings); s++) {
        batch all = run_batch(0, settings[s], prompts_file("abc", "A\n\nThe sea was\nWhales\n"), 3,
                              "-n 12 --ignore-eos --parallel 7");
        batch one = run_batch(0, settings[s], prompts_file("b", "The sea was\n"), 1,
                              "-n 12 --ignore-eos --parallel 7");
        expect_same_line(line(&all, 1), line(&one, 0));
        assert_int_equal(int_member(all.summary, "together"), 3);
        assert_int_equal(int_member(one.summary, "together"), 1);
        batch_fini(&all);
        batch_fini(&one);
    }
}

static void test_each_prompt_has_its_own_seed(void **state)
{
    (void)state;
    batch b = run_batch(0, "", prompts_file("seeds", "The sea\nThe sea\n\nThe sea\n"), 3,
                        "-n 12 --ignore-eos --temp 1 --seed 40 --parallel 1");
    static const int seeds[] = {40, 41, 43};
    for (size_t i = 0; i < 3; i++) {
        outcome alone = run_expecting(
            0, "", "generate -m %s -p 'The sea' -n 12 --ignore-eos --temp 1 --seed %d --json",
            demo_model(), seeds[i]);
        expect_same_line(line(&b, i), alone.json);
        outcome_free(&alone);
    }
    assert_true(strcmp(text_member(line(&b, 0), "text"), text_member(line(&b, 1), "text")) != 0);
    batch_fini(&b);
}

static void expect_same_batch(const batch *a, const batch *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        expect_same_line(line(a, i), line(b, i));
    assert_int_equal(int_member(b->summary, "stats.checksum_failures"), 0);
    assert_true(int_member(b->summary, "stats.demotions") > 0);
    assert_true(int_member(b->summary, "stats.ram_peak_bytes") <=
                int_member(b->summary, "stats.ram_budget_bytes"));
    assert_true(int_member(b->summary, "turns") > 1);
    assert_true(int_member(b->summary, "steps") > int_member(a->summary, "steps"));
}

/* Five prompts of 5 pages per lane and more, 6 lanes: 64 frames hold two of them, 32 one. */
static void test_turns_change_no_bit(void **state)
{
    (void)state;
    static const struct {
        const char *budget;
        int64_t together;
        bool has_zram;
    } cases[] = {
        {"--ram 5M", 2, false},
        {"--ram 3M --placement lru", 1, false},
        {"--ram 3M --zram 2M", 1, true},
        {"--ram 600K", 1, false},
        {"--ram 1M --zram 256K", 1, true},
    };
    const char *file = long_prompts("turns", 5, 900, 40);
    char options[192];
    batch resident = run_batch(0, "", file, 5, "-n 70 --ignore-eos --parallel 4");
    assert_int_equal(int_member(resident.summary, "turns"), 0);
    assert_int_equal(int_member(resident.summary, "together"), 4);
    assert_int_equal(int_member(resident.summary, "stats.demotions"), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        snprintf(options, sizeof options, "-n 70 --ignore-eos --parallel 4 %s", cases[i].budget);
        batch b = run_batch(0, "", file, 5, options);
        expect_same_batch(&resident, &b, 5);
        assert_int_equal(int_member(b.summary, "together"), cases[i].together);
        assert_true(int_member(b.summary, "stats.major_faults") > 0);
        assert_int_equal(int_member(b.summary, "stats.minor_faults") > 0, cases[i].has_zram);
        batch_fini(&b);
    }
    batch_fini(&resident);
}

/* Whose turn it is has its KV in RAM: it is brought back once in a round, not at every step. */
static void test_a_round_reads_its_kv_once(void **state)
{
    (void)state;
    batch b = run_batch(0, "", long_prompts("rounds", 3, 900, 0), 3,
                        "-n 97 --ignore-eos --parallel 3 --ram 3M");
    int64_t turns = int_member(b.summary, "turns"),
            faults = int_member(b.summary, "stats.major_faults");
    assert_int_equal(int_member(b.summary, "together"), 1);
    assert_int_equal(turns, 8); /* 3 rounds of 32 steps each, the first without a change */
    assert_true(faults > 0);
    print_message("%lld faults in %lld turns\n", (long long)faults, (long long)turns);
    assert_true(faults <= (turns + 1) * 7 * 6); /* pages of a prompt */
    batch_fini(&b);
}

static void test_windows_that_begin_anew_change_no_bit(void **state)
{
    (void)state;
    const char *file = long_prompts("rolling", 4, 300, 50);
    const char *options = "-n 90 --ignore-eos --ctx 128 --beyond rolling:40 --page-tokens 16";
    char paged[256];
    snprintf(paged, sizeof paged, "%s --parallel 3 --ram 400K", options);
    batch small = run_batch(0, "", file, 4, paged);
    snprintf(paged, sizeof paged, "%s --parallel 3", options);
    batch resident = run_batch(0, "", file, 4, paged);
    expect_same_batch(&resident, &small, 4);
    snprintf(paged, sizeof paged, "%s --parallel 1", options);
    batch alone = run_batch(0, "", file, 4, paged);
    for (size_t i = 0; i < 4; i++)
        expect_same_tokens(member(line(&alone, i), "tokens"), member(line(&small, i), "tokens"));
    batch_fini(&alone);
    batch_fini(&small);
    batch_fini(&resident);
}

static void test_verify_repeats_everything_in_ram(void **state)
{
    (void)state;
    outcome o = run("", "generate -m %s --batch %s -n 40 --ignore-eos --ram 2M --verify --json",
                    demo_model(), long_prompts("verify", 4, 700, 0));
    assert_int_equal(o.code, 0);
    json_t *lines = json_lines(&o);
    assert_true(json_is_true(member(json_array_get(lines, 4), "identical")));
    assert_true(int_member(json_array_get(lines, 4), "stats.major_faults") > 0);
    assert_non_null(strstr(o.err, "identical to all-in-RAM: yes (4 prompts, 160 tokens"));
    json_decref(lines);
    outcome_free(&o);
}

/* ---- budgets and mistakes ---- */

/* What the message names works, and a byte less is refused. */
static void check_budget(const char *file, const char *option, const char *rest)
{
    outcome o = run("", "generate -m %s --batch %s --parallel 3 -n 40 --ignore-eos %s %s 1",
                    demo_model(), file, rest, option);
    expect_failure(&o, 1, "needs at least ");
    assert_string_equal(o.out, "");
    unsigned long long bytes = strtoull(strstr(o.err, "needs at least ") + 15, NULL, 10);
    outcome_free(&o);
    o = run("", "generate -m %s --batch %s --parallel 3 -n 40 --ignore-eos %s %s %llu",
            demo_model(), file, rest, option, bytes - 1);
    expect_failure(&o, 1, "needs at least ");
    outcome_free(&o);
    o = run_expecting(0, "", "generate -m %s --batch %s --parallel 3 -n 40 --ignore-eos %s %s %llu",
                      demo_model(), file, rest, option, bytes);
    outcome_free(&o);
}

static void test_budgets_hold_for_the_prompts_that_need_most(void **state)
{
    (void)state;
    const char *file = long_prompts("budget", 5, 300, 150);
    check_budget(file, "--ram", "--disk 0");
    check_budget(file, "--disk", "--ram 1M");
}

static void check_failure(int code, const char *text, const char *arguments)
{
    outcome o = run("", "generate -m %s %s", demo_model(), arguments);
    expect_failure(&o, code, text);
    assert_string_equal(o.out, "");
    outcome_free(&o);
}

static void test_mistakes_are_refused(void **state)
{
    (void)state;
    char arguments[512];
    check_failure(2, "brings its own prompts", "--batch x -p y");
    check_failure(2, "brings its own prompts", "--batch x --ids y");
    check_failure(2, "--map", "--batch x --map");
    check_failure(2, "--no-cache", "--batch x --no-cache");
    check_failure(2, "--parallel", "--batch x --parallel 0");
    check_failure(2, "--parallel", "--batch x --parallel 65");
    check_failure(1, "no-such-file", "--batch no-such-file");
    snprintf(arguments, sizeof arguments, "--batch %s", prompts_file("none", "\n \n"));
    check_failure(2, "no prompts", arguments);
    check_failure(2, "stdin: no prompts", "--batch - </dev/null");
    check_failure(2, "no input", "");
}

/* ---- signals ---- */

static void test_interrupt_prints_what_there_is(void **state)
{
    (void)state;
    char first[1];
    process p = start("", NULL, "generate -m %s --batch %s -n 100000 --ignore-eos --parallel 2",
                      demo_model(), prompts_file("endless", "{\nA\nB\nC\n"));
    assert_int_equal(read(p.out, first, 1), 1); /* the line with the error: it is running */
    kill(p.pid, SIGINT);
    outcome o = finish(&p);
    assert_int_equal(o.code, 130);
    assert_non_null(strstr(o.err, "interrupted"));
    size_t n_interrupted = 0;
    for (const char *at = o.out; (at = strstr(at, "\"interrupted\"")); at++)
        n_interrupted++;
    assert_true(n_interrupted <= 2);
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_prompt_gets_a_line),
        cmocka_unit_test(test_bad_lines_are_reported_and_the_others_go_on),
        cmocka_unit_test(test_prompt_that_the_model_cannot_read_fails_alone),
        cmocka_unit_test(test_results_come_as_they_are_finished),
        cmocka_unit_test(test_prompts_come_from_stdin),
        cmocka_unit_test(test_a_finished_prompt_makes_place_for_the_next_at_once),
        cmocka_unit_test(test_neighbours_change_no_bit),
        cmocka_unit_test(test_each_prompt_has_its_own_seed),
        cmocka_unit_test(test_turns_change_no_bit),
        cmocka_unit_test(test_a_round_reads_its_kv_once),
        cmocka_unit_test(test_windows_that_begin_anew_change_no_bit),
        cmocka_unit_test(test_verify_repeats_everything_in_ram),
        cmocka_unit_test(test_budgets_hold_for_the_prompts_that_need_most),
        cmocka_unit_test(test_mistakes_are_refused),
        cmocka_unit_test(test_interrupt_prints_what_there_is),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
