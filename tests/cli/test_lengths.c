/* test_lengths.c - --ctx, --beyond and --keep with a model whose positions are rotary: texts that
 * are longer than it was made for. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support.h"
#include "tests/support/tiny_llama.h"

#define N_CTX 64 /* of the model */
#define N_TEXT 230
#define PAGED "--page-tokens 8 --kv-dtype f32 --ignore-eos"

static tiny_llama shape;

static int make_model(void **state)
{
    if (support_init(state))
        return -1;
    shape = tiny_llama_default();
    mkdir(scratch("llama"), 0700);
    tiny_llama_write(scratch("llama"), &shape);
    return 0;
}

static const char *llama(void)
{
    return scratch("llama");
}

/* A file with tokens [first, first + n) of a text. */
static const char *text(size_t first, size_t n)
{
    const char *path = scratch("text.json");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    uint32_t x = 12345;
    for (size_t i = 0; i < first + n; i++, x = x * 1664525u + 1013904223u)
        if (i >= first)
            fprintf(f, "%c%u", i == first ? '[' : ',', (x >> 16) % shape.n_vocab);
    fputs("]\n", f);
    fclose(f);
    return path;
}

static outcome generate(size_t n_text, const char *options)
{
    return run_expecting(0, "", "generate -m %s --ids %s " PAGED " --json %s", llama(),
                         text(0, n_text), options);
}

static void check_refused(int code, size_t n_text, const char *options, const char *const *words)
{
    outcome o =
        run("", "generate -m %s --ids %s " PAGED " -n 2 %s", llama(), text(0, n_text), options);
    for (size_t i = 0; words[i]; i++)
        expect_failure(&o, code, words[i]);
    assert_string_equal(o.out, "");
    outcome_free(&o);
}

#define CHECK_REFUSED(code, n_text, options, ...)                                                  \
    check_refused(code, n_text, options, (const char *const[]){__VA_ARGS__, NULL})

/* Logits of text tokens [first, first + n) as `options` show them. */
static float *logits(size_t first, size_t n, const char *options)
{
    size_t n_rows, n_columns;
    const char *path = scratch("logits.npy");
    outcome o =
        run_expecting(0, "", "logits -m %s --ids %s -o %s --page-tokens 8 --kv-dtype f32 %s",
                      llama(), text(first, n), path, options);
    float *rows = read_npy(path, &n_rows, &n_columns);
    assert_int_equal(n_rows, n);
    assert_int_equal(n_columns, shape.n_vocab);
    outcome_free(&o);
    return rows;
}

static void check_row(const float *got, const float *wanted)
{
    for (size_t v = 0; v < shape.n_vocab; v++) {
        bool ok = fabsf(got[v] - wanted[v]) <= 1e-4f;
        assert_true(ok);
    }
}

/* ---- --ctx ----------------------------------------------------------------------------------- */

/* With 32 positions, token 32 begins a window of 16 tokens: 17 .. 32. */
static void test_smaller_ctx_is_a_smaller_window(void **state)
{
    (void)state;
    float *small = logits(0, 40, "--ctx 32"), *whole = logits(0, 40, "");
    float *window = logits(17, 23, "");
    for (size_t i = 0; i < 32; i++)
        check_row(small + i * shape.n_vocab, whole + i * shape.n_vocab);
    for (size_t i = 32; i < 40; i++)
        check_row(small + i * shape.n_vocab, window + (i - 17) * shape.n_vocab);
    free(small);
    free(whole);
    free(window);
    outcome o = generate(20, "--ctx 32 --beyond stop -n 50");
    assert_string_equal(text_member(o.json, "stop_reason"), "context");
    assert_int_equal(json_array_size(member(o.json, "tokens")), 32 - 20);
    outcome_free(&o);
    CHECK_REFUSED(1, 33, "--ctx 32 --beyond stop", "33 tokens", "context 32", "--beyond rolling");
}

/* With 64 positions, token 99 is in a window that begins at 66. */
static void test_what_of_a_long_text_is_not_read_is_said(void **state)
{
    (void)state;
    outcome o = generate(100, "-n 2");
    assert_non_null(strstr(o.err, "100 tokens, the context 64: only the last 34 are read"));
    outcome_free(&o);
    static const char *const others[] = {"-n 40", "--beyond shift -n 40", "--keep window:8 -n 40"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        o = generate(64, others[i]);
        assert_null(strstr(o.err, "are read"));
        outcome_free(&o);
    }
}

static void test_ctx_beyond_the_model_needs_a_way(void **state)
{
    (void)state;
    CHECK_REFUSED(2, 20, "--ctx 65", "--ctx 65: ", "made for 64", "--beyond yarn", "--beyond shift",
                  "--beyond rolling");
    CHECK_REFUSED(2, 20, "--ctx 65 --beyond stop", "made for 64");
    CHECK_REFUSED(2, 20, "--beyond yarn", "needs --ctx N");
    CHECK_REFUSED(2, 20, "--ctx 99999999999 --beyond yarn", "--ctx 99999999999: ");
    outcome o = run("", "generate -m %s -p hello --ctx 1025", demo_model());
    expect_failure(&o, 2, "made for 1024");
    outcome_free(&o);
}

static size_t count(const char *text, const char *word)
{
    size_t n = 0;
    for (; (text = strstr(text, word)); text++)
        n++;
    return n;
}

/* What is offered for a --ctx that cannot be had, once each: what would work with that model. */
static void test_refused_ctx_offers_what_works(void **state)
{
    (void)state;
    static const char scaled[] = "tests/data/tiny/llama_llama3";
    const struct {
        const char *model, *options;
        size_t n_yarn, n_shift;
    } cases[] = {
        {llama(), "--ctx 65", 1, 1},
        {llama(), "--ctx 99999999 --beyond yarn", 0, 1},
        {scaled, "--ctx 300", 0, 1},
        {scaled, "--ctx 300 --beyond yarn", 0, 1},
        {"tests/data/tiny/llama_llama3/model.gguf", "--ctx 300", 0, 1},
        {demo_model(), "--ctx 1025", 0, 0},
        {demo_model(), "--ctx 1025 --beyond yarn", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome o =
            run("", "generate -m %s --ids %s %s", cases[i].model, text(0, 9), cases[i].options);
        expect_failure(&o, 2, "--beyond rolling");
        assert_int_equal(count(o.err, "--beyond yarn"), cases[i].n_yarn);
        assert_int_equal(count(o.err, "--beyond shift"), cases[i].n_shift);
        assert_int_equal(count(o.err, "--beyond rolling"), 1);
        assert_null(strstr(o.err, "YaRN"));
        outcome_free(&o);
    }
}

static void test_closing_says_what_is_approximate(void **state)
{
    (void)state;
    static const struct {
        const char *options, *words;
    } cases[] = {
        {"--beyond shift", "first 4, in whole pages (--beyond shift)"},
        {"--ctx 100 --beyond yarn", "64 positions, stretched to 100 (--beyond yarn)"},
        {"--keep window:16", "last 16 tokens and the first 0, in whole pages (--keep)"},
        {"--beyond rolling:16", NULL},
        {"--ctx 60 --beyond yarn -n 3", NULL},
        {"--beyond shift -n 3", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *n_new = strstr(cases[i].options, "-n") ? "" : "-n 40";
        outcome o = run_expecting(0, "", "generate -m %s --ids %s " PAGED " --stats %s %s", llama(),
                                  text(0, 40), n_new, cases[i].options);
        assert_int_equal(count(o.err, "approximate"), cases[i].words ? 1 : 0);
        assert_true(!cases[i].words || strstr(o.err, cases[i].words));
        outcome_free(&o);
    }
}

/* A model whose weights turn out wrong when they are read: whatever is refused without a word about
 * them was refused before. */
static void test_what_cannot_be_is_refused_before_weights_are_read(void **state)
{
    (void)state;
    static const struct {
        int code;
        size_t n_text;
        const char *options, *message;
    } cases[] = {
        {1, 20, "", "has the shape"},
        {2, 20, "--ctx 65", "made for 64"},
        {1, 65, "--beyond stop", "65 tokens"},
        {2, 20, "--beyond rolling:65", "more than the model's context of 64"},
        {2, 20, "--beyond shift --keep window:64", "needs --keep window:"},
        {1, 60, "--ram 1 --disk 0", "--ram 1 is too small: needs at least "},
        {1, 60, "--ram 1", "--ram 1 is too small: needs at least "},
        {1, 60, "--disk 1", "--disk 1 is too small: needs at least "},
    };
    char path[512];
    mkdir(scratch("lying"), 0700);
    tiny_llama_write(scratch("lying"), &shape);
    snprintf(path, sizeof path, "%s/config.json", scratch("lying"));
    json_t *config = json_load_file(path, 0, NULL);
    json_object_set_new(config, "intermediate_size", json_integer(shape.d_inner + 1));
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome o = run("", "generate -m %s --ids %s -n 2 --kv-dtype f32 %s", scratch("lying"),
                        text(0, cases[i].n_text), cases[i].options);
        expect_failure(&o, cases[i].code, cases[i].message);
        assert_true(i == 0 || !strstr(o.err, "shape"));
        outcome_free(&o);
    }
}

/* Sizes, and paths, are out of range as well. */
static void test_other_mistakes_are_not_blamed_on_ctx(void **state)
{
    (void)state;
    char path[4096] = "";
    const size_t n = strlen(scratch("llama")), longest = sizeof path - strlen("/model.safetensors");
    for (size_t i = 0; i + n < longest; i++)
        path[i] = '/';
    strcat(path, scratch("llama"));
    const char *large = model_with("config.json", "", 0);
    char config[512];
    snprintf(config, sizeof config, "%s/config.json", large);
    assert_int_equal(truncate(config, (off_t)1 << 30), 0);
    const char *const paths[] = {path, large};
    static const char *const messages[] = {"model.safetensors in the model folder is too long",
                                           "more than this file can sensibly have"};
    for (size_t i = 0; i < 2; i++) {
        outcome o = run("", "generate -m %s --ids %s -n 2 --ctx 32", paths[i], text(0, 20));
        expect_failure(&o, 1, messages[i]);
        assert_null(strstr(o.err, "--ctx"));
        outcome_free(&o);
    }
}

/* The tiny model as a Mistral that sees 24 tokens at a time. With --beyond shift, --ctx limits the
 * text and would be of no help. */
static void test_sliding_windows_say_what_works(void **state)
{
    (void)state;
    static const char *const refused[] = {"", "--beyond shift", "--beyond shift --ctx 24",
                                          "--beyond stop", "--beyond yarn --ctx 100"};
    char path[512];
    mkdir(scratch("mistral"), 0700);
    tiny_llama_write(scratch("mistral"), &shape);
    snprintf(path, sizeof path, "%s/config.json", scratch("mistral"));
    json_t *config = json_load_file(path, 0, NULL);
    json_object_set_new(config, "model_type", json_string("mistral"));
    json_object_set_new(config, "sliding_window", json_integer(24));
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        outcome o = run("", "generate -m %s --ids %s -n 2 " PAGED " %s", scratch("mistral"),
                        text(0, 20), refused[i]);
        expect_failure(&o, 1, "--ctx 24 with --beyond rolling");
        outcome_free(&o);
    }
    outcome o = run_expecting(0, "", "generate -m %s --ids %s -n 40 " PAGED " --json %s",
                              scratch("mistral"), text(0, 20), "--ctx 24 --beyond rolling");
    assert_int_equal(json_array_size(member(o.json, "tokens")), 40);
    outcome_free(&o);
}

static void test_learned_positions_neither_stretch_nor_shift(void **state)
{
    (void)state;
    outcome o = run("", "generate -m %s -p hello --beyond shift", demo_model());
    expect_failure(&o, 2, "learned");
    outcome_free(&o);
    o = run("", "generate -m %s -p hello --ctx 512 --beyond yarn", demo_model());
    expect_failure(&o, 2, "learned");
    outcome_free(&o);
    o = run("", "generate -m %s -p hello --ctx 2048 --beyond yarn", demo_model());
    expect_failure(&o, 2, "only rotary ones");
    outcome_free(&o);
}

/* ---- yarn ------------------------------------------------------------------------------------ */

static void test_yarn_goes_to_ctx_and_ends_there(void **state)
{
    (void)state;
    outcome o = generate(70, "--ctx 100 --beyond yarn -n 50");
    assert_string_equal(text_member(o.json, "stop_reason"), "context");
    assert_int_equal(json_array_size(member(o.json, "tokens")), 30);
    outcome_free(&o);
    CHECK_REFUSED(1, 101, "--ctx 100 --beyond yarn", "101 tokens", "context 100", "--ctx");
}

/* From the first token on, but only where it goes beyond what the model was made for. */
static void test_yarn_stretches_what_would_be_too_short(void **state)
{
    (void)state;
    outcome plain = generate(40, "-n 1"), stretched = generate(40, "-n 1 --ctx 65 --beyond yarn");
    outcome unstretched = generate(40, "-n 1 --ctx 64 --beyond yarn");
    const char *hash = text_member(plain.json, "logits_xxh3");
    assert_string_equal(text_member(unstretched.json, "logits_xxh3"), hash);
    assert_string_not_equal(text_member(stretched.json, "logits_xxh3"), hash);
    outcome_free(&plain);
    outcome_free(&stretched);
    outcome_free(&unstretched);
}

/* ---- shift ----------------------------------------------------------------------------------- */

static void test_shift_goes_on_past_the_context(void **state)
{
    (void)state;
    outcome o = generate(N_TEXT, "--beyond shift -n 100 --verify");
    assert_string_equal(text_member(o.json, "stop_reason"), "length");
    assert_int_equal(json_array_size(member(o.json, "tokens")), 100);
    /* Two layers of a lane each: sinks in one page, the window of 49 in up to eight. */
    assert_true(int_member(o.json, "stats.pages.ram") <= 2 * 9);
    outcome_free(&o);
    float *rows = logits(0, N_TEXT, "--beyond shift");
    for (size_t i = 0; i < N_TEXT * shape.n_vocab; i++)
        assert_true(isfinite(rows[i]));
    free(rows);
}

static void test_shift_keeps_the_widest_window_unless_told_otherwise(void **state)
{
    (void)state;
    outcome implied = generate(N_TEXT, "--beyond shift -n 3");
    outcome named = generate(N_TEXT, "--beyond shift -n 3 --keep window:49,sinks:4");
    outcome narrow = generate(N_TEXT, "--beyond shift -n 3 --keep window:24,sinks:8");
    const char *hash = text_member(implied.json, "logits_xxh3");
    assert_string_not_equal(text_member(narrow.json, "logits_xxh3"), hash);
    assert_string_equal(text_member(named.json, "logits_xxh3"), hash);
    outcome_free(&implied);
    outcome_free(&named);
    outcome_free(&narrow);
    CHECK_REFUSED(2, 20, "--beyond shift --keep window:50,sinks:4", "window:49,sinks:4",
                  "64 positions");
    CHECK_REFUSED(2, 20, "--beyond shift --page-tokens 64", "--page-tokens");
}

static void test_ctx_limits_a_shifted_text(void **state)
{
    (void)state;
    outcome o = generate(N_TEXT, "--beyond shift --ctx 240 -n 100");
    assert_string_equal(text_member(o.json, "stop_reason"), "context");
    assert_int_equal(json_array_size(member(o.json, "tokens")), 240 - N_TEXT);
    outcome_free(&o);
    CHECK_REFUSED(1, N_TEXT, "--beyond shift --ctx 229", "230 tokens", "context 229");
}

static void test_cached_and_recomputed_are_equal(void **state)
{
    (void)state;
    static const char *const options[] = {"--beyond shift", "--ctx 300 --beyond yarn",
                                          "--beyond shift --keep window:24,sinks:8"};
    for (size_t i = 0; i < 3; i++) {
        outcome o = run_expecting(0, "", "compare -m %s --ids %s -n 6 " PAGED " --json %s", llama(),
                                  text(0, N_TEXT), options[i]);
        assert_true(json_is_true(member(o.json, "equal")));
        outcome_free(&o);
    }
}

/* ---- budgets --------------------------------------------------------------------------------- */

static unsigned long long needed_bytes(const outcome *o)
{
    const char *needs = strstr(o->err, "needs at least ");
    assert_non_null(needs);
    return strtoull(needs + 15, NULL, 10);
}

/* RAM alone, and the smallest RAM with a disk. */
static void check_budgets(const char *options)
{
    const char *format = "generate -m %s --ids %s -n 90 " PAGED " --json %s %s%llu";
    const char *ids = text(0, N_TEXT);
    outcome resident =
        run_expecting(0, "", format, llama(), ids, options, "--disk 0 --ram ", 1ull << 30);
    outcome o = run("", format, llama(), ids, options, "--disk 0 --ram ", 1ull);
    expect_failure(&o, 1, "--ram 1 is too small");
    unsigned long long bytes = needed_bytes(&o);
    outcome_free(&o);
    o = run("", format, llama(), ids, options, "--disk 0 --ram ", bytes - 1);
    expect_failure(&o, 1, "needs at least ");
    outcome_free(&o);
    o = run_expecting(0, "", format, llama(), ids, options, "--disk 0 --ram ", bytes);
    outcome_free(&o);

    o = run("", format, llama(), ids, options, "--ram ", 1ull);
    bytes = needed_bytes(&o);
    outcome_free(&o);
    o = run_expecting(0, "", format, llama(), ids, options, "--ram ", bytes);
    assert_true(int_member(o.json, "stats.major_faults") > 0);
    assert_string_equal(text_member(o.json, "logits_xxh3"),
                        text_member(resident.json, "logits_xxh3"));
    outcome_free(&o);
    outcome_free(&resident);
}

static void test_budgets_of_long_texts_are_exact(void **state)
{
    (void)state;
    check_budgets("--beyond shift");
    check_budgets("--beyond shift --keep window:24,sinks:8");
    check_budgets("--ctx 320 --beyond yarn");
    check_budgets("--ctx 320 --beyond yarn --keep window:40");
    check_budgets("--ctx 48");
}

/* Pages of one token, each of which takes a whole OS page: 16 million of them are 122 GiB. */
static void test_text_that_the_machine_cannot_hold_is_refused(void **state)
{
    (void)state;
    long long machine = (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    if (machine > 100ll << 30) {
        print_message("skipped: this machine may hold it\n");
        return;
    }
    CHECK_REFUSED(1, 20, "--page-tokens 1 -n 16000000 --ctx 16777216 --beyond yarn",
                  "this machine's RAM", "needs at least ", "--ram SIZE");
}

/* ---- perplexity ------------------------------------------------------------------------------ */

static void check_perplexity(const char *options, long long window)
{
    outcome o = run_expecting(0, "",
                              "perplexity -m %s --ids %s --page-tokens 8 --kv-dtype f32 "
                              "--json %s",
                              llama(), text(0, N_TEXT), options);
    assert_int_equal(int_member(o.json, "window"), window);
    assert_int_equal(int_member(o.json, "scored_tokens"), N_TEXT - 1);
    float *rows = logits(0, N_TEXT, options);
    json_t *ids = json_load_file(text(0, N_TEXT), 0, NULL);
    double sum = 0;
    for (size_t i = 0; i + 1 < N_TEXT; i++)
        sum += nll(rows + i * shape.n_vocab, shape.n_vocab,
                   json_integer_value(json_array_get(ids, i + 1)));
    bool ok = fabs(real_member(o.json, "nll_sum") - sum) <= 1e-2;
    assert_true(ok);
    json_decref(ids);
    free(rows);
    outcome_free(&o);
}

static void test_perplexity_of_a_long_text_is_that_of_its_logits(void **state)
{
    (void)state;
    check_perplexity("--beyond shift", N_TEXT); /* one window: nothing begins anew */
    check_perplexity("--ctx 300 --beyond yarn", 300);
    /* Windows are no longer than the context, and a text may have many. */
    outcome o = run_expecting(0, "", "perplexity -m %s --ids %s --beyond stop --json", llama(),
                              text(0, N_TEXT));
    assert_int_equal(int_member(o.json, "window"), N_CTX);
    assert_int_equal(int_member(o.json, "scored_tokens"), N_TEXT - 1);
    outcome_free(&o);
    o = run("", "perplexity -m %s --ids %s --window 33 --ctx 32", llama(), text(0, 40));
    expect_failure(&o, 2, "32");
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smaller_ctx_is_a_smaller_window),
        cmocka_unit_test(test_what_of_a_long_text_is_not_read_is_said),
        cmocka_unit_test(test_ctx_beyond_the_model_needs_a_way),
        cmocka_unit_test(test_refused_ctx_offers_what_works),
        cmocka_unit_test(test_closing_says_what_is_approximate),
        cmocka_unit_test(test_what_cannot_be_is_refused_before_weights_are_read),
        cmocka_unit_test(test_other_mistakes_are_not_blamed_on_ctx),
        cmocka_unit_test(test_sliding_windows_say_what_works),
        cmocka_unit_test(test_learned_positions_neither_stretch_nor_shift),
        cmocka_unit_test(test_yarn_goes_to_ctx_and_ends_there),
        cmocka_unit_test(test_yarn_stretches_what_would_be_too_short),
        cmocka_unit_test(test_shift_goes_on_past_the_context),
        cmocka_unit_test(test_shift_keeps_the_widest_window_unless_told_otherwise),
        cmocka_unit_test(test_ctx_limits_a_shifted_text),
        cmocka_unit_test(test_cached_and_recomputed_are_equal),
        cmocka_unit_test(test_budgets_of_long_texts_are_exact),
        cmocka_unit_test(test_text_that_the_machine_cannot_hold_is_refused),
        cmocka_unit_test(test_perplexity_of_a_long_text_is_that_of_its_logits),
    };
    return cmocka_run_group_tests(tests, make_model, support_fini) != 0;
}
