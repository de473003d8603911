#include "integration/cli/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "integration/cli/commands.h"
#include "integration/cli/message.h"

#define MAX_ARGS 32

/* Parse `line`, words separated by spaces, as the command's arguments. */
static bool parse(const command *cmd, const char *line, options *o, void *own, int *code)
{
    static char words[512]; /* options point into it */
    char *argv[MAX_ARGS + 1] = {(char *)cmd->name};
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word && argc < MAX_ARGS; word = strtok(NULL, " "))
        argv[argc++] = word;
    return options_parse(cmd, argc, argv, o, own, code);
}

static void check_rejected(const command *cmd, const char *line)
{
    options o;
    char own[64] = {0};
    int code = -1;
    if (parse(cmd, line, &o, own, &code))
        fail_msg("accepted: %s", line);
    assert_int_equal(code, EXIT_USAGE);
}

static void check_size(const char *text, uint64_t bytes)
{
    size_option size = {0};
    if (!value_size.parse(text, &size))
        fail_msg("not a size: %s", text);
    assert_true(size.given);
    assert_int_equal(size.bytes, bytes);
}

static void test_sizes_are_binary_and_may_have_fractions(void **state)
{
    (void)state;
    check_size("0", 0);
    check_size("4096", 4096);
    check_size("1K", 1024);
    check_size("3k", 3072);
    check_size("1M", 1 << 20);
    check_size("1.5M", 3 << 19);
    check_size("0.25G", 1 << 28);
    check_size("2G", 2ull << 30);
    check_size("1T", 1ull << 40);
    check_size("64MiB", 64 << 20);
    check_size("64MB", 64 << 20);
    check_size("512B", 512);
}

static void test_what_is_no_size_is_rejected(void **state)
{
    (void)state;
    const char *const texts[] = {"",
                                 "M",
                                 "-1",
                                 "+1",
                                 " 1",
                                 "1 M",
                                 "1Q",
                                 "1x",
                                 "1MM",
                                 "1KiX",
                                 "0x1",
                                 "1e3",
                                 "99999999999999999999",
                                 "18446744073709551615",
                                 "17179869184G"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_option size = {.bytes = 7};
        if (value_size.parse(texts[i], &size))
            fail_msg("a size: '%s'", texts[i]);
        assert_int_equal(size.bytes, 7);
    }
}

static void test_keep_rules(void **state)
{
    (void)state;
    keep_option keep = {9, 9};
    assert_true(value_keep.parse("all", &keep));
    assert_int_equal(keep.window, 0);
    assert_true(value_keep.parse("window:256", &keep));
    assert_int_equal(keep.window, 256);
    assert_int_equal(keep.sinks, 0);
    assert_true(value_keep.parse("window:256,sinks:4", &keep));
    assert_int_equal(keep.sinks, 4);
    const char *const wrong[] = {"",          "window",    "window:",         "window:0",
                                 "window:-1", "window:8,", "window:8,sinks:", "window:8,sinks:x",
                                 "sinks:4",   "window:8 ", "Window:8",        "window:8,sink:4"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (value_keep.parse(wrong[i], &keep))
            fail_msg("accepted: '%s'", wrong[i]);
    assert_int_equal(keep.window, 256);
}

static void test_beyond_rules(void **state)
{
    (void)state;
    beyond_option beyond = {0};
    assert_true(value_beyond.parse("stop", &beyond));
    assert_int_equal(beyond.kind, BEYOND_STOP);
    assert_true(value_beyond.parse("yarn", &beyond));
    assert_int_equal(beyond.kind, BEYOND_YARN);
    assert_true(value_beyond.parse("rolling:100", &beyond));
    assert_int_equal(beyond.kind, BEYOND_ROLLING);
    assert_int_equal(beyond.roll, 100);
    assert_true(value_beyond.parse("rolling", &beyond));
    assert_int_equal(beyond.kind, BEYOND_ROLLING);
    assert_int_equal(beyond.roll, 0);
    assert_true(value_beyond.parse("shift", &beyond));
    assert_int_equal(beyond.kind, BEYOND_SHIFT);
    const char *const wrong[] = {"",     "rolling:", "rolling:0", "rolling:x", "roll", "stop:1",
                                 "Yarn", "yarn:2",   "shift ",    "shift:100", "shif"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (value_beyond.parse(wrong[i], &beyond))
            fail_msg("accepted: '%s'", wrong[i]);
    assert_int_equal(beyond.kind, BEYOND_SHIFT);
}

static void test_defaults_are_those_of_the_help(void **state)
{
    (void)state;
    options o;
    char own[64] = {0};
    int code;
    assert_true(parse(&cmd_generate, "-m dir -p text", &o, own, &code));
    assert_string_equal(o.model_path, "dir");
    assert_string_equal(o.prompt, "text");
    assert_int_equal(o.kv_dtype, KVP_F16);
    assert_int_equal(o.weights, KVP_F32);
    assert_int_equal(o.n_new, 128);
    assert_true(o.sampler.temperature == 0 && o.sampler.top_p == 1);
    assert_int_equal(o.sampler.top_k, 0);
    assert_false(o.ram.given || o.zram.given || o.disk.given || o.json || o.ignore_eos);
    assert_null(o.placement);
    assert_int_equal(o.keep.window, 0);
    assert_int_equal(o.n_ctx, 0);
    assert_int_equal(o.beyond.kind, BEYOND_ROLLING);
}

static void test_every_option_reaches_its_value(void **state)
{
    (void)state;
    options o;
    char own[64] = {0};
    int code;
    assert_true(parse(&cmd_generate,
                      "--model=m --file f -n5 --ignore-eos --temp 0.5 --top-k 7 --top-p .9", &o,
                      own, &code));
    assert_string_equal(o.model_path, "m");
    assert_string_equal(o.file, "f");
    assert_int_equal(o.n_new, 5);
    assert_true(o.ignore_eos);
    assert_true(o.sampler.temperature == 0.5f && o.sampler.top_p == 0.9f);
    assert_int_equal(o.sampler.top_k, 7);
    assert_true(parse(&cmd_generate,
                      "-m m --ids i --seed 18446744073709551615 --ram 1M --zram 2M --disk 3M "
                      "--swap s --placement lru --trace t",
                      &o, own, &code));
    assert_string_equal(o.ids_file, "i");
    assert_true(o.sampler.seed == UINT64_MAX);
    assert_int_equal(o.ram.bytes, 1 << 20);
    assert_int_equal(o.zram.bytes, 2 << 20);
    assert_int_equal(o.disk.bytes, 3 << 20);
    assert_string_equal(o.swap, "s");
    assert_ptr_equal(o.placement, &kvp_placement_lru);
    assert_string_equal(o.trace, "t");
    assert_true(
        parse(&cmd_generate,
              "-m m -p t --page-tokens 16 --keep window:8 --beyond stop --ctx 99 --kv-dtype bf16 "
              "--weights bf16 --threads 3 --json",
              &o, own, &code));
    assert_int_equal(o.page_tokens, 16);
    assert_int_equal(o.keep.window, 8);
    assert_int_equal(o.n_ctx, 99);
    assert_int_equal(o.beyond.kind, BEYOND_STOP);
    assert_int_equal(o.kv_dtype, KVP_BF16);
    assert_int_equal(o.weights, KVP_BF16);
    assert_int_equal(o.n_threads, 3);
    assert_true(o.json);
}

static void test_own_options_of_a_command_do_not_touch_shared_ones(void **state)
{
    (void)state;
    options o;
    struct {
        uint64_t window, stride;
    } own = {0};
    int code;
    assert_true(parse(&cmd_perplexity, "-m m -p t --window 8 --stride 4", &o, &own, &code));
    assert_int_equal(own.window, 8);
    assert_int_equal(own.stride, 4);
    assert_string_equal(o.model_path, "m");
}

static void test_mistakes_are_usage_errors(void **state)
{
    (void)state;
    check_rejected(&cmd_generate, "-p t");
    check_rejected(&cmd_compare, "-m m");
    check_rejected(&cmd_compare, "-m m -p t -f f");
    check_rejected(&cmd_compare, "-m m -f f --ids i");
    check_rejected(&cmd_generate, "-m m -p t extra");
    check_rejected(&cmd_generate, "-m m -p t --no-such");
    check_rejected(&cmd_generate, "-m m -p t -z");
    check_rejected(&cmd_generate, "-m m -p t -n");
    check_rejected(&cmd_generate, "-m m -p t -n x");
    check_rejected(&cmd_generate, "-m m -p t -n -1");
    check_rejected(&cmd_generate, "-m m -p t --json=1");
    check_rejected(&cmd_generate, "-m m -p t --temp -1");
    check_rejected(&cmd_generate, "-m m -p t --temp nan");
    check_rejected(&cmd_generate, "-m m -p t --top-p 0");
    check_rejected(&cmd_generate, "-m m -p t --top-p 1.1");
    check_rejected(&cmd_generate, "-m m -p t --kv-dtype f8");
    check_rejected(&cmd_generate, "-m m -p t --weights q8");
    check_rejected(&cmd_generate, "-m m -p t --placement fifo");
    check_rejected(&cmd_generate, "-m m -p t --page-tokens 0");
    check_rejected(&cmd_generate, "-m m -p t --page-tokens 65536");
    check_rejected(&cmd_generate, "-m m -p t --threads 0");
    check_rejected(&cmd_generate, "-m m -p t --ram lots");
    check_rejected(&cmd_generate, "-m m -p t --swap s --disk 0");
    check_rejected(&cmd_tokenize, "-m m -p t --temp 1");
    check_rejected(&cmd_perplexity, "-m m -p t --window 0");
    check_rejected(&cmd_generate, "-m m -p t --ctx 0");
    check_rejected(&cmd_generate, "-m m -p t --ctx 4K");
    check_rejected(&cmd_generate, "-m m -p t --beyond yarn"); /* how far? */
    check_rejected(&cmd_tokenize, "-m m -p t --ctx 100");
}

static void test_near_names_are_suggested(void **state)
{
    (void)state;
    const char *const names[] = {"generate", "logits", "compare", NULL};
    assert_string_equal(closest_name("generat", names, 4), "generate");
    assert_string_equal(closest_name("logit", names, 4), "logits");
    assert_string_equal(closest_name("comapre", names, 4), "compare");
    assert_null(closest_name("frobnicate", names, 4));
    assert_null(closest_name("", names, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_binary_and_may_have_fractions),
        cmocka_unit_test(test_what_is_no_size_is_rejected),
        cmocka_unit_test(test_keep_rules),
        cmocka_unit_test(test_beyond_rules),
        cmocka_unit_test(test_defaults_are_those_of_the_help),
        cmocka_unit_test(test_every_option_reaches_its_value),
        cmocka_unit_test(test_own_options_of_a_command_do_not_touch_shared_ones),
        cmocka_unit_test(test_mistakes_are_usage_errors),
        cmocka_unit_test(test_near_names_are_suggested),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
