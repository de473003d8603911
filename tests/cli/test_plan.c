/* test_plan.c - kvpager plan: sizes against the model's own shape and against what generate takes
 * and refuses. Of speeds only that there are some. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support.h"
#include "tests/support/tiny_llama.h"

/* The demo model. */
enum { LAYERS = 6, WIDTH = 256, PAGE_TOKENS = 64, PAGE_BYTES = 64 << 10 };
enum { PROMPT = 600, NEW = 51, TOKENS = PROMPT + NEW - 1 }; /* the last one is not fed back */

static outcome plan(int code, const char *more)
{
    return run_expecting(code, "", "plan -m %s --ctx %d --json %s", demo_model(), TOKENS, more);
}

static const json_t *row(const outcome *o, const char *budget)
{
    const json_t *rows = member(o->json, "budgets");
    for (size_t i = 0; i < json_array_size(rows); i++)
        if (strcmp(text_member(json_array_get(rows, i), "budget"), budget) == 0)
            return json_array_get(rows, i);
    fail_msg("no budget %s", budget);
    return NULL;
}

static void expect_refused(const outcome *o, const char *budget, const char *why)
{
    const json_t *r = row(o, budget);
    assert_true(json_is_false(member(r, "works")));
    assert_true(json_is_null(member(r, "decode_tokens_per_second")));
    assert_true(json_is_null(member(r, "prefill_tokens_per_second")));
    if (!strstr(text_member(r, "why"), why))
        fail_msg("no '%s' in: %s", why, text_member(r, "why"));
}

/* Does generate take these budgets? With code 1, it says how many bytes would do. */
static uint64_t generate(int code, const char *format, uint64_t ram, uint64_t disk)
{
    char budgets[96];
    uint64_t needed = 0;
    snprintf(budgets, sizeof budgets, format, (unsigned long long)ram, (unsigned long long)disk);
    outcome o = run_expecting(code, "", "generate -m %s --ids %s -n %d --ignore-eos %s",
                              demo_model(), ids_file("rolling.token_ids", 0, PROMPT), NEW, budgets);
    const char *needs = strstr(o.err, "needs at least ");
    if (code) {
        assert_non_null(needs);
        needed = strtoull(needs + strlen("needs at least "), NULL, 10);
    }
    outcome_free(&o);
    return needed;
}

/* ---- sizes ---- */

static void check_sizes(const outcome *o)
{
    int pages = LAYERS * ((TOKENS + PAGE_TOKENS - 1) / PAGE_TOKENS);
    assert_int_equal(int_member(o->json, "layers"), LAYERS);
    assert_int_equal(int_member(o->json, "tokens"), TOKENS);
    assert_int_equal(int_member(o->json, "kv_bytes_per_token"), LAYERS * WIDTH * 2 * 2);
    assert_int_equal(int_member(o->json, "page_bytes"), PAGE_BYTES);
    assert_int_equal(int_member(o->json, "pages"), pages);
    assert_int_equal(int_member(o->json, "kv_bytes"), pages * PAGE_BYTES);
    assert_int_equal(int_member(o->json, "bytes_written_per_1000_tokens"),
                     1000 * LAYERS * PAGE_BYTES / PAGE_TOKENS);
    assert_int_equal(int_member(o->json, "hidden_bytes"), TOKENS * WIDTH * 4);
    assert_string_equal(text_member(o->json, "architecture"), "gpt2");
}

static void check_rows(const outcome *o)
{
    static const char *const names[] = {"1/16", "1/8", "1/4", "1/2", "all"};
    int64_t kv = int_member(o->json, "kv_bytes"), weights = int_member(o->json, "weights_bytes");
    for (int i = 0; i < 5; i++) {
        const json_t *r = row(o, names[i]);
        int64_t ram = int_member(r, "ram_bytes");
        assert_true(json_is_true(member(r, "works")));
        assert_true(real_member(r, "decode_tokens_per_second") > 0);
        assert_true(real_member(r, "prefill_tokens_per_second") > 0);
        assert_true(int_member(r, "process_bytes") > weights + ram);
        if (i < 4)
            assert_int_equal(ram, kv >> (4 - i));
        assert_int_equal(real_member(r, "bytes_read_per_token") > 0, i < 4);
        assert_int_equal(int_member(r, "disk_bytes") > 0, i < 4);
    }
    assert_int_equal(json_array_size(member(o->json, "budgets")), 6); /* and --ram */
}

/* What plan says is needed is what generate takes; what is one page or byte less, it refuses. */
static void check_needs(const outcome *o)
{
    uint64_t least = (uint64_t)int_member(o->json, "least_ram_bytes");
    uint64_t all = (uint64_t)int_member(row(o, "all"), "ram_bytes");
    uint64_t ram = (uint64_t)int_member(row(o, "--ram"), "ram_bytes");
    uint64_t disk = (uint64_t)int_member(row(o, "--ram"), "disk_bytes");
    generate(0, "--ram %llu --disk %llu", ram, disk);
    assert_int_equal(generate(1, "--ram %llu --disk %llu", ram, disk - PAGE_BYTES), disk);
    generate(0, "--ram %llu --disk 0", all, 0);
    assert_int_equal(generate(1, "--ram %llu --disk 0", all - 1, 0), all);
    generate(0, "--ram %llu", least, 0);
    assert_int_equal(generate(1, "--ram %llu", least - 1, 0), least);
}

/* It runs as it is printed: words that a shell would take apart are quoted. */
static void check_command(const outcome *o)
{
    static const char start[] = "kvpager generate ", name[] = " FILE ";
    const char *text = text_member(o->json, "command"), *file = strstr(text, name);
    assert_memory_equal(text, start, strlen(start));
    assert_non_null(file);
    const char *prompt = scratch("plan.txt");
    write_file(prompt, "Call me Ishmael.", 16);
    outcome ran = run_expecting(0, "", "generate %.*s %s %s -n 4 --stats",
                                (int)(file - text - (long)strlen(start)), text + strlen(start),
                                prompt, file + strlen(name));
    assert_true(ran.n_out > 0);
    outcome_free(&ran);
}

static void test_sizes_are_those_that_generate_needs(void **state)
{
    (void)state;
    outcome o = plan(0, "--ram 1M");
    check_sizes(&o);
    check_rows(&o);
    check_needs(&o);
    check_command(&o);
    assert_non_null(strstr(text_member(o.json, "command"), " --ram 1M"));
    assert_true(real_member(o.json, "probe.seconds") > 0);
    assert_int_equal(int_member(o.json, "probe.layers"), LAYERS); /* a small model: all of it */
    assert_int_equal(int_member(o.json, "probe.tokens"), TOKENS);
    outcome_free(&o);
}

static void test_options_of_pages_change_sizes(void **state)
{
    (void)state;
    outcome o = plan(0, "--kv-dtype f32 --page-tokens 32 --weights bf16 --disk 0");
    assert_int_equal(int_member(o.json, "kv_bytes_per_token"), LAYERS * WIDTH * 2 * 4);
    assert_int_equal(int_member(o.json, "pages"), LAYERS * ((TOKENS + 31) / 32));
    assert_non_null(strstr(text_member(o.json, "command"), " --kv-dtype f32 --weights bf16"));
    /* Nowhere to page to: only what is all in RAM works. */
    expect_refused(&o, "1/2", "(less with --zram or --disk)");
    assert_true(json_is_true(member(row(&o, "all"), "works")));
    assert_null(strstr(text_member(o.json, "command"), "--ram"));
    outcome_free(&o);
}

static void test_command_quotes_the_path_of_the_model(void **state)
{
    (void)state;
    char cwd[256] = "", target[512];
    const char *link = scratch("it's a $model"), *model = demo_model();
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(target, sizeof target, "%s/%s", *model == '/' ? "" : cwd, model);
    assert_int_equal(symlink(target, link), 0);
    outcome o = run_expecting(0, "", "plan -m \"%s/it's a \\$model\" --ctx 100 --disk 0 --json",
                              scratch(""));
    check_command(&o);
    outcome_free(&o);
}

/* ---- what does not work ---- */

static void test_budgets_that_generate_would_refuse_say_why(void **state)
{
    (void)state;
    outcome o = plan(0, "--ram 100K --disk 3M");
    expect_refused(&o, "--ram", "--ram 100K is too small: needs at least ");
    expect_refused(&o, "1/16", "--disk 3M is too small: needs at least ");
    expect_refused(&o, "1/4", "--disk 3M is too small: needs at least ");
    assert_true(json_is_true(member(row(&o, "1/2"), "works")));
    outcome_free(&o);
}

/* Word by word. */
static void expect_words_of_generate(const char *options, const char *why)
{
    outcome o = run("", "generate -m %s --ids %s -n %d --ignore-eos %s", demo_model(),
                    ids_file("rolling.token_ids", 0, PROMPT), NEW, options);
    if (!strstr(o.err, why))
        fail_msg("no '%s' in: %s", why, o.err);
    outcome_free(&o);
}

static void test_refusals_are_in_the_words_of_generate(void **state)
{
    (void)state;
    static const char *const budgets[] = {"--ram 100K", "--ram 1M --disk 0", "--ram 1M --disk 1M"};
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
        outcome o = plan(0, budgets[i]);
        expect_words_of_generate(budgets[i], text_member(row(&o, "--ram"), "why"));
        outcome_free(&o);
    }
    static const char *const lengths[] = {"--ctx 2000", "--beyond rolling:5000", "--beyond yarn",
                                          "--ctx 2000 --beyond yarn"};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        outcome o = run("", "plan -m %s %s", demo_model(), lengths[i]);
        assert_true(o.code != 0);
        expect_words_of_generate(lengths[i], o.err);
        outcome_free(&o);
    }
}

static void test_command_goes_beyond_as_the_plan_does(void **state)
{
    (void)state;
    static const char *const rules[] = {"--beyond stop", "--beyond rolling:7"};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        outcome o = plan(0, rules[i]);
        assert_non_null(strstr(text_member(o.json, "command"), rules[i]));
        check_command(&o);
        outcome_free(&o);
    }
}

/* Hardly any weights, and 768 GiB of KV for 16 Mi positions: more than most machines have. */
static const char *model_of_much_kv(void)
{
    tiny_llama shape = tiny_llama_default();
    shape.n_layers = 256;
    const char *path = scratch("large");
    mkdir(path, 0700);
    tiny_llama_write(path, &shape);
    return path;
}

/* As much RAM and disk as the plan says is there, is there for a run. */
static bool fits(const outcome *o, const json_t *r)
{
    return int_member(r, "process_bytes") <= int_member(o->json, "memory_free_bytes") &&
           int_member(r, "disk_bytes") <= int_member(o->json, "disk_free_bytes");
}

static void test_what_the_machine_has_no_room_for_does_not_work(void **state)
{
    (void)state;
    outcome o = run_expecting(
        0, "", "plan -m %s --ctx 16777216 --beyond yarn --kv-dtype f32 --ram 10M --json",
        model_of_much_kv());
    const json_t *rows = member(o.json, "budgets"), *all = row(&o, "all");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *r = json_array_get(rows, i);
        assert_int_equal(json_is_true(member(r, "works")), fits(&o, r));
    }
    if (fits(&o, all))
        skip();
    expect_refused(&o, "all", "bytes of this machine's RAM are free: the process needs ");
    const char *command = json_string_value(member(o.json, "command"));
    assert_true(!command || strstr(command, " --ram "));
    outcome_free(&o);
}

static void test_budget_beyond_the_kv_stays_unused(void **state)
{
    (void)state;
    outcome o = plan(0, "--ram 100G");
    assert_int_equal(int_member(row(&o, "--ram"), "process_bytes"),
                     int_member(row(&o, "all"), "process_bytes"));
    outcome_free(&o);
}

static void test_nonsense_is_refused_before_the_probe(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *words, *text;
    } cases[] = {
        {2, "--ctx 2000", "--ctx 2000"},
        {2, "--ctx 0", "--ctx"},
        {2, "--ctx 900 --beyond shift",
         "--beyond: 'shift' is not rolling, rolling:W, stop or yarn"},
        {2, "--keep window:100", "unknown option"},
        {2, "--beyond yarn", "--beyond yarn needs --ctx"},
        {2, "--ctx 2000 --beyond yarn", "stretched"},
        {2, "--ctx 900 --ram much", "--ram"},
        {2, "-p hello", "unknown option"},
        {1, "--swap models/demo/config.json", "models/demo/config.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome o = run("", "plan -m %s %s", demo_model(), cases[i].words);
        expect_failure(&o, cases[i].code, cases[i].text);
        assert_int_equal(o.n_out, 0);
        outcome_free(&o);
    }
    outcome o = run("", "plan --ctx 10");
    expect_failure(&o, 2, "-m PATH");
    outcome_free(&o);
    o = run("", "plan -m %s", scratch("nothing"));
    expect_failure(&o, 1, "nothing");
    outcome_free(&o);
}

static void test_interrupted_probe_leaves_no_file(void **state)
{
    (void)state;
    const char *swap = scratch("probe.swap");
    int watch = watch_scratch();
    process p = start("", NULL, "plan -m %s --swap %s", demo_model(), swap);
    wait_for_file(watch, "probe.swap");
    kill(p.pid, SIGINT);
    outcome o = finish(&p);
    close(watch);
    expect_failure(&o, 130, "interrupted");
    assert_int_equal(o.n_out, 0);
    assert_int_equal(access(swap, F_OK), -1);
    assert_int_equal(access(scratch("probe.swap.2"), F_OK), -1);
    outcome_free(&o);
}

/* ---- for people ---- */

static void test_table_has_a_row_per_budget_and_a_command(void **state)
{
    (void)state;
    const char *swap = scratch("plan.swap");
    outcome o =
        run_expecting(0, "", "plan -m %s --ctx 200 --swap %s --ram 500K", demo_model(), swap);
    static const char *const texts[] = {
        "1/16",     "1/8", "1/4", "1/2", "all", "--ram", "kvpager generate", "6.00 KiB per token",
        "free here"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!strstr(o.out, texts[i]))
            fail_msg("no '%s' in: %s", texts[i], o.out);
    assert_string_equal(o.err, "");
    assert_int_equal(access(swap, F_OK), -1); /* the probe's are gone */
    assert_int_equal(access(scratch("plan.swap.2"), F_OK), -1);
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_those_that_generate_needs),
        cmocka_unit_test(test_options_of_pages_change_sizes),
        cmocka_unit_test(test_command_quotes_the_path_of_the_model),
        cmocka_unit_test(test_budgets_that_generate_would_refuse_say_why),
        cmocka_unit_test(test_refusals_are_in_the_words_of_generate),
        cmocka_unit_test(test_command_goes_beyond_as_the_plan_does),
        cmocka_unit_test(test_what_the_machine_has_no_room_for_does_not_work),
        cmocka_unit_test(test_budget_beyond_the_kv_stays_unused),
        cmocka_unit_test(test_nonsense_is_refused_before_the_probe),
        cmocka_unit_test(test_interrupted_probe_leaves_no_file),
        cmocka_unit_test(test_table_has_a_row_per_budget_and_a_command),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
