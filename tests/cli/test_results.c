/* test_results.c - what the commands compute, against Hugging Face's results and each other's. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support.h"

#define N_CTX 1024

/* ---- generate ---- */

static void check_stats(const json_t *json)
{
    static const char *const counts[] = {
        "stats.pages.vram",    "stats.pages.ram",       "stats.pages.zram",   "stats.pages.disk",
        "stats.minor_faults",  "stats.major_faults",    "stats.demotions",    "stats.bytes_read",
        "stats.bytes_written", "stats.ram_peak_bytes",  "stats.zram_bytes",   "stats.disk_bytes",
        "stats.weights_bytes", "stats.direct_reclaims", "stats.stalls.ram.n", "stats.stalls.zram.n",
        "stats.stalls.disk.n"};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        assert_true(int_member(json, counts[i]) >= 0);
    assert_true(real_member(json, "stats.stalls.disk.some_seconds") >= 0);
    member(json, "stats.ram_budget_bytes");
    member(json, "stats.compression_ratio");
    assert_true(real_member(json, "seconds.prefill") > 0);
    assert_true(real_member(json, "seconds.decode") >= 0);
}

static void test_json_of_a_resident_run_has_every_member(void **state)
{
    (void)state;
    outcome o =
        run_expecting(0, "", "generate -m %s -p 'Call me' -n 5 --ignore-eos --json", demo_model());
    assert_int_equal(json_array_size(member(o.json, "tokens")), 5);
    assert_true(strlen(text_member(o.json, "text")) > 0);
    assert_true(int_member(o.json, "prompt_tokens") > 0);
    assert_string_equal(text_member(o.json, "stop_reason"), "length");
    assert_int_equal(strlen(text_member(o.json, "logits_xxh3")), 16);
    check_stats(o.json);
    assert_true(json_is_null(member(o.json, "stats.ram_budget_bytes")));
    assert_true(json_is_null(member(o.json, "stats.compression_ratio")));
    assert_int_equal(int_member(o.json, "stats.major_faults"), 0);
    assert_int_equal(int_member(o.json, "stats.pages.disk"), 0);
    assert_true(int_member(o.json, "stats.pages.ram") > 0);
    assert_string_equal(o.err, "");
    outcome_free(&o);
}

static void test_json_of_a_bounded_run_has_budget_and_ratio(void **state)
{
    (void)state;
    outcome o =
        run_expecting(0, "", "generate -m %s --ids %s -n 4 --ignore-eos --ram 1M --zram 1M --json",
                      demo_model(), ids_file("rolling.token_ids", 0, 900));
    check_stats(o.json);
    assert_int_equal(int_member(o.json, "stats.ram_budget_bytes"), 1 << 20);
    assert_true(int_member(o.json, "stats.ram_peak_bytes") <= 1 << 20);
    assert_true(int_member(o.json, "stats.zram_bytes") <= 1 << 20);
    assert_true(real_member(o.json, "stats.compression_ratio") > 1);
    assert_true(int_member(o.json, "stats.pages.zram") > 0);
    assert_true(int_member(o.json, "stats.pages.disk") > 0);
    assert_true(int_member(o.json, "stats.disk_bytes") > 0);
    outcome_free(&o);
}

static void test_text_is_the_same_streamed_and_in_json(void **state)
{
    (void)state;
    outcome json =
        run_expecting(0, "", "generate -m %s -p 'Call me' -n 40 --ignore-eos --json", demo_model());
    outcome text =
        run_expecting(0, "", "generate -m %s -p 'Call me' -n 40 --ignore-eos", demo_model());
    assert_string_equal(text.out, text_member(json.json, "text"));
    assert_string_equal(text.err, "");
    outcome_free(&json);
    outcome_free(&text);
}

static void test_prompt_may_come_from_argument_file_stdin_or_ids(void **state)
{
    (void)state;
    write_file(scratch("prompt.txt"), "Call me Ishmael.", 16);
    const char *path = scratch("prompt.txt");
    outcome by_argument =
        run_expecting(0, "", "generate -m %s -p 'Call me Ishmael.' -n 6 --json", demo_model());
    outcome by_file = run_expecting(0, "", "generate -m %s -f %s -n 6 --json", demo_model(), path);
    outcome by_stdin =
        run_expecting(0, "", "generate -m %s -f - -n 6 --json <%s", demo_model(), path);
    outcome ids = run_expecting(0, "", "tokenize -m %s -f %s", demo_model(), path);
    write_file(scratch("prompt.json"), ids.out, ids.n_out);
    outcome by_ids = run_expecting(0, "", "generate -m %s --ids %s -n 6 --json", demo_model(),
                                   scratch("prompt.json"));
    const outcome *const others[] = {&by_file, &by_stdin, &by_ids};
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(text_member(others[i]->json, "logits_xxh3"),
                            text_member(by_argument.json, "logits_xxh3"));
    outcome_free(&by_argument);
    outcome_free(&by_file);
    outcome_free(&by_stdin);
    outcome_free(&ids);
    outcome_free(&by_ids);
}

/* Tokens equal as long as the golden run was not undecided. Returns how many were compared. */
static size_t check_greedy(const json_t *tokens, const json_t *expected)
{
    const json_t *ids = member(expected, "new"), *margins = member(expected, "top2_margin");
    size_t n = json_array_size(ids);
    assert_int_equal(json_array_size(tokens), n);
    for (size_t i = 0; i < n; i++) {
        if (json_integer_value(json_array_get(tokens, i)) ==
            json_integer_value(json_array_get(ids, i)))
            continue;
        if (json_number_value(json_array_get(margins, i)) > 1e-2)
            fail_msg("token %zu differs", i);
        return i;
    }
    return n;
}

static void check_golden_greedy(const char *name, size_t at_least, const char *options)
{
    const json_t *expected = member(golden(), name);
    size_t n_prompt = (size_t)int_member(expected, "prompt_tokens");
    outcome o =
        run_expecting(0, "", "generate -m %s --ids %s -n %zu --ignore-eos --kv-dtype f32 --json %s",
                      demo_model(), ids_file("rolling.token_ids", 0, n_prompt),
                      json_array_size(member(expected, "new")), options);
    assert_true(check_greedy(member(o.json, "tokens"), expected) >= at_least);
    assert_int_equal(int_member(o.json, "prompt_tokens"), n_prompt);
    outcome_free(&o);
}

/* Ids in, ids out: as an array that --ids takes. */
static void test_ids_need_no_tokenizer(void **state)
{
    (void)state;
    const char *ids = ids_file("rolling.token_ids", 0, 20);
    outcome with =
        run_expecting(0, "", "generate -m %s --ids %s -n 7 --ignore-eos --json", demo_model(), ids);
    const char *model = model_with("vocab.json", NULL, 0);
    outcome o = run_expecting(0, "", "generate -m %s --ids %s -n 7 --ignore-eos", model, ids);
    assert_non_null(strstr(o.err, "token ids will be printed, not text: "));
    json_t *array = json_loadb(o.out, o.n_out, 0, NULL);
    expect_same_tokens(array, member(with.json, "tokens"));
    json_decref(array);
    outcome_free(&o);
    o = run_expecting(0, "", "generate -m %s --ids %s -n 7 --ignore-eos --json", model, ids);
    expect_same_tokens(member(o.json, "tokens"), member(with.json, "tokens"));
    assert_true(json_is_null(member(o.json, "text")));
    outcome_free(&o);
    o = run_expecting(0, "", "generate -m %s --ids %s -n 0", model, ids);
    assert_string_equal(o.out, "[]\n");
    outcome_free(&o);
    o = run_expecting(0, "", "perplexity -m %s --ids %s", model, ids);
    assert_string_equal(o.err, "");
    outcome_free(&o);
    o = run("", "generate -m %s -p hello -n 7", model);
    expect_failure(&o, 1, "vocab.json");
    outcome_free(&o);
    outcome_free(&with);
}

static void test_greedy_tokens_equal_the_reference(void **state)
{
    (void)state;
    check_golden_greedy("greedy", 160, "");
}

static void test_greedy_tokens_past_the_context_equal_the_reference(void **state)
{
    (void)state;
    check_golden_greedy("greedy_past_context", 160, "");
    check_golden_greedy("greedy_past_context", 160, "--ram 2M --zram 1M");
}

static void test_sampling_repeats_with_its_seed_and_differs_with_another(void **state)
{
    (void)state;
    outcome o[3];
    for (int i = 0; i < 3; i++)
        o[i] = run_expecting(
            0, "", "generate -m %s -p 'The sea' -n 24 --ignore-eos --temp 1 --seed %d --json",
            demo_model(), i == 2 ? 8 : 7);
    expect_same_tokens(member(o[0].json, "tokens"), member(o[1].json, "tokens"));
    assert_false(json_equal(member(o[0].json, "tokens"), member(o[2].json, "tokens")));
    for (int i = 0; i < 3; i++)
        outcome_free(&o[i]);
}

static void test_stop_reason_tells_what_ended_it(void **state)
{
    (void)state;
    const char *ids = ids_file("rolling.token_ids", 0, 1020);
    outcome o = run_expecting(
        0, "", "generate -m %s --ids %s -n 9 --ignore-eos --beyond stop --json", demo_model(), ids);
    assert_string_equal(text_member(o.json, "stop_reason"), "context");
    assert_int_equal(json_array_size(member(o.json, "tokens")), N_CTX - 1020);
    outcome_free(&o);
    o = run_expecting(0, "", "generate -m %s --ids %s -n 4 --ignore-eos --beyond stop --json",
                      demo_model(), ids);
    assert_string_equal(text_member(o.json, "stop_reason"), "length");
    outcome_free(&o);
    o = run("", "generate -m %s --ids %s -n 4 --beyond stop", demo_model(),
            ids_file("rolling.token_ids", 0, N_CTX + 1));
    expect_failure(&o, 1, "1024");
    outcome_free(&o);
}

/* The demo model hardly ever ends a text: here its config calls the fifth new token the end. */
static void test_end_of_text_ends_unless_ignored(void **state)
{
    (void)state;
    enum { END = 4, N = 12 };
    char path[256], config[1024];
    size_t n;
    snprintf(path, sizeof path, "%s/config.json", demo_model());
    char *text = read_file(path, &n), *at = strstr(text, "\"eos_token_id\": 0");
    assert_non_null(at);
    outcome plain = run_expecting(0, "", "generate -m %s -p 'It is' -n %d --ignore-eos --json",
                                  demo_model(), N);
    const json_t *all = member(plain.json, "tokens");
    int64_t end = json_integer_value(json_array_get(all, END));
    for (size_t i = 0; i < END; i++)
        assert_int_not_equal(json_integer_value(json_array_get(all, i)), end);
    int n_config = snprintf(config, sizeof config, "%.*s\"eos_token_id\": %lld%s", (int)(at - text),
                            text, (long long)end, at + 17);
    const char *model = model_with("config.json", config, (size_t)n_config);
    outcome on = run_expecting(0, "", "generate -m %s -p 'It is' -n %d --json", model, N);
    outcome off =
        run_expecting(0, "", "generate -m %s -p 'It is' -n %d --ignore-eos --json", model, N);
    assert_string_equal(text_member(on.json, "stop_reason"), "eos");
    assert_string_equal(text_member(off.json, "stop_reason"), "length");
    expect_same_tokens(member(off.json, "tokens"), all);
    const json_t *some = member(on.json, "tokens");
    assert_int_equal(json_array_size(some), END + 1); /* with the token that ends it ... */
    assert_int_equal(json_integer_value(json_array_get(some, END)), end);
    size_t n_text = strlen(text_member(on.json, "text")); /* ... whose text is not printed */
    assert_true(n_text < strlen(text_member(off.json, "text")));
    assert_memory_equal(text_member(on.json, "text"), text_member(off.json, "text"), n_text);
    free(text);
    outcome_free(&plain);
    outcome_free(&on);
    outcome_free(&off);
}

static void test_verify_repeats_the_run_in_ram(void **state)
{
    (void)state;
    outcome o = run_expecting(
        0, "",
        "generate -m %s --ids %s -n 40 --ignore-eos --ram 1M --zram 1M --verify --map --stats",
        demo_model(), ids_file("rolling.token_ids", 0, 1000));
    static const char *const texts[] = {"identical to all-in-RAM: yes",
                                        "prefill",
                                        "decode",
                                        "tokens/s",
                                        "minor",
                                        "major",
                                        "read",
                                        "written",
                                        "compression",
                                        "weights",
                                        "KV frames",
                                        "metadata",
                                        "workspace",
                                        "whole process",
                                        "the last 512 tokens",
                                        "older text is forgotten",
                                        "Z compressed"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!strstr(o.err, texts[i]))
            fail_msg("the report does not say '%s':\n%s", texts[i], o.err);
    outcome_free(&o);
}

/* ---- keep ---- */

static void test_keep_frees_pages_and_cached_equals_recomputed(void **state)
{
    (void)state;
    const char *ids = ids_file("rolling.token_ids", 0, 300);
    const char *keep = "--keep window:64,sinks:4 --page-tokens 16 --kv-dtype f32";
    outcome all =
        run_expecting(0, "", "generate -m %s --ids %s -n 24 --ignore-eos --page-tokens 16 --json",
                      demo_model(), ids);
    outcome kept = run_expecting(0, "", "generate -m %s --ids %s -n 24 --ignore-eos %s --json",
                                 demo_model(), ids, keep);
    assert_true(int_member(kept.json, "stats.pages.ram") <
                int_member(all.json, "stats.pages.ram") / 2);
    outcome o = run_expecting(0, "", "compare -m %s --ids %s -n 24 --ignore-eos %s --json",
                              demo_model(), ids, keep);
    assert_true(json_is_true(member(o.json, "equal")));
    outcome_free(&all);
    outcome_free(&kept);
    outcome_free(&o);
}

/* With keep:window:N, N < W, N tokens begin the new window: the rule's W is N. */
static void test_keep_bounds_what_a_new_window_prefills(void **state)
{
    (void)state;
    const char *format = "generate -m %s --ids %s -n 30 --ignore-eos --page-tokens 16 "
                         "--keep window:100,sinks:16 %s --json";
    const char *ids = ids_file("rolling.token_ids", 0, 1010);
    outcome implied = run_expecting(0, "", format, demo_model(), ids, "");
    outcome named = run_expecting(0, "", format, demo_model(), ids, "--beyond rolling:100");
    assert_string_equal(text_member(implied.json, "logits_xxh3"),
                        text_member(named.json, "logits_xxh3"));
    outcome_free(&implied);
    outcome_free(&named);
}

/* ---- compare ---- */

static void test_compare_finds_cached_and_recomputed_equal(void **state)
{
    (void)state;
    outcome o = run_expecting(
        0, "", "compare -m %s --ids %s -n 16 --ignore-eos --kv-dtype f32 --ram 2M --json",
        demo_model(), ids_file("rolling.token_ids", 0, 1018));
    assert_true(json_is_true(member(o.json, "equal")));
    assert_true(json_is_null(member(o.json, "first_difference")));
    assert_int_equal(int_member(o.json, "ties"), 0);
    assert_int_equal(int_member(o.json, "compared_tokens"), 16);
    assert_true(real_member(o.json, "speedup") > 1);
    check_stats(o.json);
    outcome_free(&o);
}

/* ---- logits ---- */

/* logits.npy lies beside golden.json: full rows at some positions of the first 512 tokens. */
static void test_logits_equal_the_reference(void **state)
{
    (void)state;
    const char *path = scratch("first.npy");
    const json_t *positions = member(golden(), "logits_positions");
    size_t n_expected, n_rows, n_columns, n_vocab, i;
    float *expected = read_npy(golden_file("logits.npy"), &n_expected, &n_vocab);
    outcome o = run_expecting(0, "", "logits -m %s --ids %s --kv-dtype f32 -o %s", demo_model(),
                              ids_file("first_token_ids", 0, 512), path);
    float *logits = read_npy(path, &n_rows, &n_columns);
    assert_int_equal(n_rows, 512);
    assert_int_equal(n_columns, n_vocab);
    assert_int_equal(n_expected, json_array_size(positions));
    const json_t *position;
    json_array_foreach(positions, i, position)
    {
        const float *row = logits + (size_t)json_integer_value(position) * n_vocab;
        for (size_t v = 0; v < n_vocab; v++) {
            bool ok = fabsf(row[v] - expected[i * n_vocab + v]) <= 2e-3f;
            if (!ok)
                fail_msg("position %lld, token %zu: %f", (long long)json_integer_value(position), v,
                         (double)row[v]);
        }
    }
    assert_true(i > 0);
    free(expected);
    free(logits);
    outcome_free(&o);
}

static void test_logits_past_the_context_follow_the_rolling_rule(void **state)
{
    (void)state;
    const size_t n = 1600; /* two windows begin, at 1024 and 1537 */
    const json_t *expected = member(golden(), "rolling.nll_of_next_token");
    const json_t *ids = member(golden(), "rolling.token_ids");
    const char *path = scratch("rolling.npy");
    outcome o = run_expecting(0, "", "logits -m %s --ids %s --kv-dtype f32 -o %s --json",
                              demo_model(), ids_file("rolling.token_ids", 0, n), path);
    size_t n_rows, n_columns;
    float *logits = read_npy(path, &n_rows, &n_columns);
    assert_int_equal(n_rows, n);
    assert_int_equal(json_integer_value(json_array_get(member(o.json, "shape"), 0)), n);
    assert_int_equal(json_integer_value(json_array_get(member(o.json, "shape"), 1)), n_columns);
    for (size_t i = 0; i < n; i++) {
        double got =
            nll(logits + i * n_columns, n_columns, json_integer_value(json_array_get(ids, i + 1)));
        double diff = fabs(got - json_number_value(json_array_get(expected, i)));
        bool ok = diff <= 5e-3;
        if (!ok)
            fail_msg("row %zu: nll %f off by %f", i, got, diff);
    }
    free(logits);
    outcome_free(&o);
}

static void test_logits_do_not_depend_on_where_pages_lie(void **state)
{
    (void)state;
    const char *ids = ids_file("rolling.token_ids", 0, 1100);
    const char *resident = scratch("resident.npy"), *paged = scratch("paged.npy");
    outcome a = run_expecting(0, "", "logits -m %s --ids %s -o %s", demo_model(), ids, resident);
    outcome b = run_expecting(0, "", "logits -m %s --ids %s -o %s --ram 1M --json", demo_model(),
                              ids, paged);
    assert_true(int_member(b.json, "stats.bytes_read") > 0);
    size_t n_a, n_b;
    char *bytes_a = read_file(resident, &n_a), *bytes_b = read_file(paged, &n_b);
    assert_int_equal(n_a, n_b);
    assert_true(memcmp(bytes_a, bytes_b, n_a) == 0);
    free(bytes_a);
    free(bytes_b);
    outcome_free(&a);
    outcome_free(&b);
}

static size_t count_scratch_files(const char *prefix)
{
    size_t n = 0;
    DIR *dir = opendir(scratch(""));
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
    closedir(dir);
    return n;
}

static void test_failed_logits_leave_no_file_and_spare_the_old_one(void **state)
{
    (void)state;
    const char *format = "logits -m %s --ids %s -o %s --ram 1M --zram 2500K --disk 128K";
    const char *ids = ids_file("rolling.token_ids", 0, 1000), *path = scratch("partial.npy");
    outcome o = run("", format, demo_model(), ids, path);
    expect_failure(&o, 1, "the KV does not fit");
    assert_int_equal(count_scratch_files("partial.npy"), 0);
    outcome_free(&o);
    write_file(path, "precious", 8);
    o = run("", format, demo_model(), ids, path);
    expect_failure(&o, 1, "the KV does not fit");
    size_t n;
    char *bytes = read_file(path, &n);
    assert_string_equal(bytes, "precious");
    assert_int_equal(count_scratch_files("partial.npy"), 1);
    free(bytes);
    outcome_free(&o);
    o = run("", "logits -m %s -p hello -o %s", demo_model(), scratch("no/such/folder.npy"));
    expect_failure(&o, 1, "folder.npy");
    outcome_free(&o);
}

static void test_logits_replace_a_file_and_keep_its_permissions(void **state)
{
    (void)state;
    const char *path = scratch("again.npy");
    struct stat st;
    size_t n_rows, n_columns;
    write_file(path, "old", 3);
    assert_int_equal(chmod(path, 0640), 0);
    outcome o = run_expecting(0, "", "logits -m %s -p hello -o %s", demo_model(), path);
    free(read_npy(path, &n_rows, &n_columns));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(count_scratch_files("again.npy"), 1);
    outcome_free(&o);
}

/* ---- perplexity ---- */

static void test_perplexity_of_one_window_equals_the_reference(void **state)
{
    (void)state;
    outcome o = run_expecting(0, "", "perplexity -m %s --ids %s --kv-dtype f32 --json",
                              demo_model(), ids_file("first_token_ids", 0, 512));
    double sum = real_member(o.json, "nll_sum"), n = (double)int_member(o.json, "scored_tokens");
    double diff = fabs(sum / n - real_member(golden(), "nll_mean"));
    assert_int_equal(n, 511);
    assert_true(diff <= 1e-3);
    assert_true(fabs(real_member(o.json, "perplexity") / exp(sum / n) - 1) <= 1e-9);
    outcome_free(&o);
}

/* The recipe's windows, each by the logits command. */
static double strided_nll(size_t n, size_t window, size_t stride)
{
    const json_t *ids = member(golden(), "rolling.token_ids");
    double sum = 0;
    for (size_t begin = 0, scored = 1;; begin += stride) {
        size_t end = begin + window < n ? begin + window : n, n_rows, n_columns;
        const char *path = scratch("window.npy");
        outcome o = run_expecting(0, "", "logits -m %s --ids %s --kv-dtype f32 -o %s", demo_model(),
                                  ids_file("rolling.token_ids", begin, end - begin), path);
        float *logits = read_npy(path, &n_rows, &n_columns);
        for (; scored < end; scored++)
            sum += nll(logits + (scored - 1 - begin) * n_columns, n_columns,
                       json_integer_value(json_array_get(ids, scored)));
        free(logits);
        outcome_free(&o);
        if (end == n)
            return sum;
    }
}

static void test_strided_perplexity_is_the_sum_over_windows(void **state)
{
    (void)state;
    outcome o = run_expecting(
        0, "", "perplexity -m %s --ids %s --kv-dtype f32 --window 100 --stride 60 --json",
        demo_model(), ids_file("rolling.token_ids", 0, 250));
    double diff = fabs(real_member(o.json, "nll_sum") - strided_nll(250, 100, 60));
    assert_int_equal(int_member(o.json, "scored_tokens"), 249);
    assert_true(diff <= 1e-2);
    outcome_free(&o);
}

static void test_perplexity_of_nothing_is_null(void **state)
{
    (void)state;
    outcome o = run_expecting(0, "", "perplexity -m %s --ids %s --json", demo_model(),
                              ids_file("rolling.token_ids", 0, 1));
    assert_true(json_is_null(member(o.json, "perplexity")));
    assert_int_equal(int_member(o.json, "scored_tokens"), 0);
    outcome_free(&o);
}

/* ---- tokenize ---- */

static void test_tokenizer_cases_equal_the_reference_both_ways(void **state)
{
    (void)state;
    size_t i;
    const json_t *one;
    const char *text = scratch("case.txt"), *ids = scratch("case.json");
    json_array_foreach(member(golden(), "tokenizer_cases"), i, one)
    {
        const json_t *s = member(one, "text");
        write_file(text, json_string_value(s), json_string_length(s));
        outcome o = run_expecting(0, "", "tokenize -m %s -f %s", demo_model(), text);
        write_file(ids, o.out, o.n_out);
        json_t *array = json_loadb(o.out, o.n_out, 0, NULL);
        expect_same_tokens(array, member(one, "ids"));
        json_decref(array);
        outcome_free(&o);
        o = run_expecting(0, "", "tokenize --decode -m %s --ids %s", demo_model(), ids);
        assert_int_equal(o.n_out, json_string_length(s));
        assert_memory_equal(o.out, json_string_value(s), o.n_out);
        outcome_free(&o);
    }
    assert_true(i >= 10);
}

/* What generate sees: tests/data/tokenizer/ has what tokenizer(text) gives in transformers. */
static void test_tokenize_shows_what_goes_before_a_text(void **state)
{
    (void)state;
    outcome o = run_expecting(0, "", "tokenize -m tests/data/tokenizer/llama3 -p a");
    json_t *with = json_loadb(o.out, o.n_out, 0, NULL);
    outcome_free(&o);
    o = run_expecting(0, "", "tokenize -m tests/data/tokenizer/gpt2 -p a");
    json_t *without = json_loadb(o.out, o.n_out, 0, NULL);
    outcome_free(&o);
    assert_int_equal(json_array_size(with), 2);
    assert_int_equal(json_array_size(without), 1);
    json_decref(with);
    json_decref(without);
}

static void test_tokenize_of_an_empty_file_prints_an_empty_array(void **state)
{
    (void)state;
    outcome o = run_expecting(0, "", "tokenize -m %s -f /dev/null", demo_model());
    assert_string_equal(o.out, "[]\n");
    outcome_free(&o);
    o = run_expecting(0, "", "tokenize -m %s -f /dev/null --json", demo_model());
    assert_int_equal(json_array_size(member(o.json, "ids")), 0);
    assert_true(json_is_null(member(o.json, "stats.pages.ram")));
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_of_a_resident_run_has_every_member),
        cmocka_unit_test(test_json_of_a_bounded_run_has_budget_and_ratio),
        cmocka_unit_test(test_text_is_the_same_streamed_and_in_json),
        cmocka_unit_test(test_prompt_may_come_from_argument_file_stdin_or_ids),
        cmocka_unit_test(test_ids_need_no_tokenizer),
        cmocka_unit_test(test_greedy_tokens_equal_the_reference),
        cmocka_unit_test(test_greedy_tokens_past_the_context_equal_the_reference),
        cmocka_unit_test(test_sampling_repeats_with_its_seed_and_differs_with_another),
        cmocka_unit_test(test_stop_reason_tells_what_ended_it),
        cmocka_unit_test(test_end_of_text_ends_unless_ignored),
        cmocka_unit_test(test_verify_repeats_the_run_in_ram),
        cmocka_unit_test(test_keep_frees_pages_and_cached_equals_recomputed),
        cmocka_unit_test(test_keep_bounds_what_a_new_window_prefills),
        cmocka_unit_test(test_compare_finds_cached_and_recomputed_equal),
        cmocka_unit_test(test_logits_equal_the_reference),
        cmocka_unit_test(test_logits_past_the_context_follow_the_rolling_rule),
        cmocka_unit_test(test_logits_do_not_depend_on_where_pages_lie),
        cmocka_unit_test(test_failed_logits_leave_no_file_and_spare_the_old_one),
        cmocka_unit_test(test_logits_replace_a_file_and_keep_its_permissions),
        cmocka_unit_test(test_perplexity_of_one_window_equals_the_reference),
        cmocka_unit_test(test_strided_perplexity_is_the_sum_over_windows),
        cmocka_unit_test(test_perplexity_of_nothing_is_null),
        cmocka_unit_test(test_tokenizer_cases_equal_the_reference_both_ways),
        cmocka_unit_test(test_tokenize_shows_what_goes_before_a_text),
        cmocka_unit_test(test_tokenize_of_an_empty_file_prints_an_empty_array),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
