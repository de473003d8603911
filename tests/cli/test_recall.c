/* test_recall.c - --beyond recall, memory-fit and memory-test from outside: what a memory changes,
 * what it must not change, and what it refuses. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

#define BOOK "models/smollm2/book.txt"
#define OTHER "models/demo/other.txt"
#define N_BOOK 4500

/* ---- a memory that has no say ---------------------------------------------------------------- */

/* A model like the demo's, whose fit says that the memory is worth nothing. */
static const char *model_without_faith(void)
{
    char path[512];
    size_t n;
    json_t *zeros = json_array();
    snprintf(path, sizeof path, "%s/recall.json", demo_model());
    char *text = read_file(path, &n);
    json_t *fit = json_loads(text, 0, NULL);
    assert_non_null(fit);
    for (size_t i = 0; i < json_array_size(json_object_get(fit, "lambda")); i++)
        json_array_append_new(zeros, json_real(0));
    json_object_set_new(fit, "lambda", zeros);
    char *changed = json_dumps(fit, 0);
    const char *dir = model_with("recall.json", changed, strlen(changed));
    json_decref(fit);
    free(changed);
    free(text);
    return dir;
}

static void test_lambda_0_is_rolling_bit_for_bit(void **state)
{
    (void)state;
    const char *model = model_without_faith(), *ids = ids_file("rolling.token_ids", 0, 420);
    outcome rolling = run_expecting(
        0, "", "generate -m %s --ids %s --ctx 128 -n 20 --ignore-eos --json", model, ids);
    outcome recall = run_expecting(
        0, "", "generate -m %s --ids %s --ctx 128 -n 20 --ignore-eos --json --beyond recall", model,
        ids);
    expect_same_tokens(member(rolling.json, "tokens"), member(recall.json, "tokens"));
    assert_string_equal(text_member(rolling.json, "logits_xxh3"),
                        text_member(recall.json, "logits_xxh3"));
    assert_true(int_member(recall.json, "memory.searches") >= 20);
    assert_true(int_member(recall.json, "memory.tokens") >= 430);
    outcome_free(&rolling);
    outcome_free(&recall);

    rolling = run_expecting(0, "", "perplexity -m %s --ids %s --ctx 128 --json", model, ids);
    recall = run_expecting(0, "", "perplexity -m %s --ids %s --ctx 128 --json --beyond recall",
                           model, ids);
    assert_true(real_member(rolling.json, "nll_sum") == real_member(recall.json, "nll_sum"));
    assert_true(int_member(recall.json, "memory.searches") > 400);
    outcome_free(&rolling);
    outcome_free(&recall);
}

/* ---- one that has ---------------------------------------------------------------------------- */

static outcome logits_of(const char *beyond, const char *file, size_t n)
{
    return run_expecting(0, "",
                         "logits -m %s --ids %s --ctx 128 --beyond %s --ram 1500K -o %s --json",
                         demo_model(), ids_file("rolling.token_ids", 0, n), beyond, scratch(file));
}

/* Rows of recall are log probabilities; a capped memory is the same until the cap matters. */
static void test_rows_are_mixtures_and_a_cap_is_one(void **state)
{
    (void)state;
    size_t n_rows, n_vocab;
    outcome o = logits_of("recall", "all.npy", 400);
    outcome_free(&o);
    o = logits_of("recall:100", "capped.npy", 400);
    outcome_free(&o);
    float *all = read_npy(scratch("all.npy"), &n_rows, &n_vocab);
    float *capped = read_npy(scratch("capped.npy"), &n_rows, &n_vocab);
    assert_int_equal(n_rows, 400);
    assert_memory_equal(all, capped, 101 * n_vocab * sizeof *all);
    assert_memory_not_equal(all + 300 * n_vocab, capped + 300 * n_vocab,
                            100 * n_vocab * sizeof *all);
    for (size_t i = 1; i < n_rows; i++) {
        double sum = 0;
        for (size_t w = 0; w < n_vocab; w++)
            sum += exp((double)all[i * n_vocab + w]);
        assert_true(fabs(sum - 1) < 1e-4);
    }
    free(all);
    free(capped);
}

static void test_where_pages_lie_changes_nothing(void **state)
{
    (void)state;
    outcome o = run_expecting(0, "",
                              "generate -m %s -f %s --ctx 128 -n 12 --ignore-eos --ram 1M "
                              "--beyond recall --verify --json",
                              demo_model(), OTHER);
    assert_true(json_is_true(member(o.json, "identical")));
    assert_true(int_member(o.json, "memory.major_faults") > 0);
    assert_true(int_member(o.json, "memory.demotions") > 0);
    assert_true(int_member(o.json, "memory.tokens") > 5000);
    assert_true(int_member(o.json, "memory.ram_peak_bytes") +
                    int_member(o.json, "stats.ram_peak_bytes") <=
                1 << 20);
    outcome_free(&o);
}

/* ---- what it is worth ------------------------------------------------------------------------ */

static double gain(const outcome *o, const char *arm, const char *bound)
{
    char path[96];
    snprintf(path, sizeof path, "arms.%s.recall_gains.%s", arm, bound);
    return real_member(o->json, path);
}

static void test_it_is_this_book_that_helps(void **state)
{
    (void)state;
    size_t n;
    outcome o = run_expecting(0, "",
                              "memory-test -m %s -f %s --other %s --ctx 256 --tokens %d --ram 1M "
                              "--seed 1 --svg %s --json",
                              demo_model(), BOOK, OTHER, N_BOOK, scratch("arms.svg"));
    assert_int_equal(int_member(o.json, "scored_tokens"), N_BOOK - 1);
    assert_true(gain(&o, "rolling", "low") > 0);
    assert_true(gain(&o, "reset", "low") > 0);
    assert_true(gain(&o, "other_book", "low") > 0);
    assert_true(gain(&o, "window_only", "low") > 0);
    assert_true(real_member(o.json, "arms.other_book.nats") >=
                real_member(o.json, "arms.rolling.nats"));
    assert_true(real_member(o.json, "arms.last_1024.nats") <
                real_member(o.json, "arms.window_only.nats"));
    assert_true(real_member(o.json, "arms.last_16384.nats") ==
                real_member(o.json, "arms.recall.nats"));
    assert_true(int_member(o.json, "arms.recall.faults") > 0);
    assert_true(int_member(o.json, "arms.recall.bytes_read") > 0);
    assert_int_equal(int_member(o.json, "arms.recall.searches"), N_BOOK - 1);
    assert_true(int_member(o.json, "ram_peak_bytes") <= 1 << 20);
    outcome_free(&o);
    char *svg = read_file(scratch("arms.svg"), &n);
    size_t n_curves = 0;
    for (const char *at = svg; (at = strstr(at, "<polyline")); at++)
        n_curves++;
    assert_int_equal(n_curves, 9);
    assert_non_null(strstr(svg, "</svg>"));
    free(svg);
}

/* ---- fitting --------------------------------------------------------------------------------- */

static void test_a_fit_is_stored_and_used(void **state)
{
    (void)state;
    const char *model = model_with("recall.json", NULL, 0);
    outcome o =
        run_expecting(0, "", "perplexity -m %s -p 'Call me Ishmael.' --beyond recall", model);
    assert_non_null(strstr(o.err, "no fitted values"));
    assert_non_null(strstr(o.err, "theta 16, lambda 0.1"));
    assert_non_null(strstr(o.out, "approximate"));
    outcome_free(&o);
    o = run_expecting(0, "", "memory-fit -m %s -f %s --ctx 128 --tokens 1500 --json", model, OTHER);
    assert_int_equal(int_member(o.json, "tokens"), 1500);
    assert_true(real_member(o.json, "perplexity_with") < real_member(o.json, "perplexity_without"));
    outcome_free(&o);
    o = run_expecting(0, "", "perplexity -m %s -p 'Call me Ishmael.' --beyond recall", model);
    assert_string_equal(o.err, "");
    outcome_free(&o);
    /* It is of these weights: with others it is refused. */
    o = run("", "perplexity -m %s -p 'Call me' --beyond recall --weights bf16", model);
    expect_failure(&o, 1, "fingerprint");
    outcome_free(&o);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void expect(int code, const char *text, const char *arguments)
{
    outcome o = run("", "%s", arguments);
    expect_failure(&o, code, text);
    outcome_free(&o);
}

static void test_what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    char arguments[1024];
    static const struct {
        const char *before, *after, *text;
    } bad[] = {
        {"compare", "-p x --beyond recall", "generate, perplexity and logits"},
        {"generate", "-p x --chat --beyond recall", "--beyond recall does not go with --chat"},
        {"generate", "--batch /dev/null --beyond recall",
         "--beyond recall does not go with --batch"},
        {"generate", "-p x --beyond recall:0", "recall:TOKENS"},
        {"plan", "--beyond recall", "is not planned"},
        {"memory-test", "-p x", "memory-test needs a book"},
        {"memory-test", "-f " BOOK " --tokens 3", "too few"},
        {"memory-fit", "-f " BOOK " --tokens 20", "too few"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(arguments, sizeof arguments, "%s -m %s %s", bad[i].before, demo_model(),
                 bad[i].after);
        expect(2, bad[i].text, arguments);
    }
}

static void test_a_budget_that_is_too_small_says_what_works(void **state)
{
    (void)state;
    char arguments[512];
    snprintf(arguments, sizeof arguments, "--beyond recall --ignore-eos");
    uint64_t bytes = smallest_budget("", arguments);
    outcome o = run_expecting(0, "", "generate -m %s -p x -n 2 --ram %llu %s", demo_model(),
                              (unsigned long long)bytes, arguments);
    outcome_free(&o);
    snprintf(arguments, sizeof arguments,
             "generate -m %s -f %s -n 2 --ctx 64 --beyond recall --ram 1500K --disk 0",
             demo_model(), OTHER);
    expect(1, "for KV and memory, which get half of it each: it needs at least", arguments);
    snprintf(arguments, sizeof arguments,
             "generate -m %s -f %s -n 2 --ctx 64 --beyond recall --ram 1500K --disk 1M",
             demo_model(), OTHER);
    expect(1, "--disk 1M is too small", arguments);
}

static void test_a_fit_that_is_broken_is_named(void **state)
{
    (void)state;
    char arguments[512];
    const char *model = model_with("recall.json", "{\"format\":1}", 12);
    snprintf(arguments, sizeof arguments, "generate -m %s -p x --beyond recall", model);
    expect(1, "recall.json: format", arguments);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lambda_0_is_rolling_bit_for_bit),
        cmocka_unit_test(test_rows_are_mixtures_and_a_cap_is_one),
        cmocka_unit_test(test_where_pages_lie_changes_nothing),
        cmocka_unit_test(test_it_is_this_book_that_helps),
        cmocka_unit_test(test_a_fit_is_stored_and_used),
        cmocka_unit_test(test_what_makes_no_sense_is_refused),
        cmocka_unit_test(test_a_budget_that_is_too_small_says_what_works),
        cmocka_unit_test(test_a_fit_that_is_broken_is_named),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini);
}
