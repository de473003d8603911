/* test_usage.c - help, version, mistakes on the command line, and input that makes no sense. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

static void check_output(const char *arguments, const char *const *texts, size_t n)
{
    outcome o = run_expecting(0, "", "%s", arguments);
    assert_string_equal(o.err, "");
    for (size_t i = 0; i < n; i++)
        if (!strstr(o.out, texts[i]))
            fail_msg("kvpager %s does not say '%s'", arguments, texts[i]);
    outcome_free(&o);
}

#define CHECK_OUTPUT(arguments, ...)                                                               \
    check_output(arguments, (const char *const[]){__VA_ARGS__},                                    \
                 sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

static void check_outcome(outcome o, int code, const char *text)
{
    expect_failure(&o, code, text);
    assert_string_equal(o.out, "");
    outcome_free(&o);
}

static void check_failure(int code, const char *text, const char *arguments)
{
    check_outcome(run("", "%s", arguments), code, text);
}

/* With "-m <demo model>" in front of the arguments. */
static void check_model_failure(int code, const char *text, const char *command,
                                const char *arguments)
{
    check_outcome(run("", "%s -m %s %s", command, demo_model(), arguments), code, text);
}

static void test_version_and_help_go_to_stdout(void **state)
{
    (void)state;
    CHECK_OUTPUT("--version", "kvpager 0.");
    CHECK_OUTPUT("--help", "generate", "logits", "perplexity", "tokenize", "compare", "bench",
                 "KVP_ISA", "KVP_DISK_ENGINE", "130");
}

static void test_help_of_each_command_lists_its_options_with_defaults(void **state)
{
    (void)state;
    CHECK_OUTPUT("generate --help", "-m, --model PATH", "-p, --prompt", "-f, --file", "--ids",
                 "-n, ", "--ignore-eos", "--temp", "--top-k", "--top-p", "--seed", "--ram",
                 "--zram", "--disk", "--swap", "--placement", "--trace FILE", "--page-tokens",
                 "--keep", "--beyond", "--kv-dtype", "--weights", "--threads", "--no-cache",
                 "--map", "--json", "default f16", "default f32", "default 0", "default sticky",
                 "default 64", "window:N[,sinks:S]", "rolling[:W]", "stdin", "--chat",
                 "--system TEXT", "--batch FILE", "--parallel N", "default 8", "--in-order");
    CHECK_OUTPUT("logits --help", "-o, --output OUT.npy", "--ram", "--beyond");
    CHECK_OUTPUT("perplexity --help", "--window W", "--stride S", "--keep", "nll_sum");
    CHECK_OUTPUT("tokenize --help", "--decode", "--model");
    CHECK_OUTPUT("replay --help", "usage: kvpager replay FILE", "--policy LIST", "--frames LIST",
                 "--ram SIZE", "--format NAME", "mooncake", "optimum");
    CHECK_OUTPUT("bench --help", "usage: kvpager bench SUBJECT", "  sessions ", "SUBJECT --help");
    CHECK_OUTPUT("bench sessions --help", "usage: kvpager bench sessions [-m PATH]", "--sessions N",
                 "default 64", "--history N", "default 900", "--turn N", "default 16", "--rounds N",
                 "-m, --model PATH", "GPT-2 124M", "--ram SIZE", "an eighth", "--zram", "--disk",
                 "--swap", "--placement", "--trace FILE", "--page-tokens", "--kv-dtype",
                 "--weights", "--threads", "--json", "hit_rate", "stalls");
    outcome o = run_expecting(0, "", "tokenize --help");
    assert_null(strstr(o.out, "--ram"));
    assert_null(strstr(o.out, "--weights"));
    outcome_free(&o);
    o = run_expecting(0, "", "tokenize -m %s -p hello --ram 1M --weights bf16", demo_model());
    outcome_free(&o);
    CHECK_OUTPUT("compare --help", "speedup", "first_difference", "--temp");
}

static void test_mistakes_exit_2_with_a_hint(void **state)
{
    (void)state;
    check_failure(2, "--help", "");
    check_failure(2, "did you mean generate", "generat -m x");
    check_failure(2, "--help", "frobnicate");
    check_failure(2, "--help", "--frobnicate");
    check_failure(2, "did you mean --json", "generate -m x -p y --jason");
    check_failure(2, "-m PATH", "generate -p y");
    check_failure(2, "-p TEXT", "generate -m x");
    check_failure(2, "exactly one", "generate -m x -p y -f z");
    check_failure(2, "needs a value", "generate -m x -p y --ram");
    check_failure(2, "--ram: '12Q'", "generate -m x -p y --ram 12Q");
    check_failure(2, "twice", "generate -m x -p y -p z");
    check_failure(2, "--ram: '99999999999G' is too large", "generate -m x -p y --ram 99999999999G");
    check_failure(2, "-n: '99999999999999999999' is too large",
                  "generate -m x -p y -n 99999999999999999999");
    check_failure(2, "-o OUT.npy", "logits -m x -p y");
    check_failure(2, "-o -", "logits -m x -p y -o -");
    check_failure(2, "unexpected argument", "tokenize -m x -p y z");
    check_failure(2, "--batch FILE", "generate -m x -p y --parallel 2");
    check_failure(2, "--batch FILE", "generate -m x --chat --in-order");
}

static void test_values_that_contradict_the_model_exit_2(void **state)
{
    (void)state;
    check_model_failure(2, "1024", "generate", "-p hello --beyond rolling:1025");
    check_model_failure(2, "1024", "perplexity", "-p hello --window 1025");
    check_model_failure(2, "--stride", "perplexity", "-p hello --window 16 --stride 17");
}

/* What message.h says of exit codes: whatever the command, and the way in which it is noticed. */
static void test_mistakes_of_one_kind_have_one_code(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *text, *command, *arguments;
    } cases[] = {
        /* nothing to work on */
        {2, "empty", "generate", "-p ''"},
        {2, "empty", "compare", "-p ''"},
        {2, "no prompts", "generate", "--batch /dev/null"},
        /* not with this model */
        {2, "chat template", "generate", "--chat -p hello </dev/null"},
        {2, "learned", "generate", "-p hello --beyond shift"},
        {2, "table of 1024", "generate", "-p hello --beyond yarn --ctx 2000"},
        {2, "learned", "generate", "-p hello --beyond yarn --ctx 200"},
        {2, "table of 1024", "plan", "--beyond yarn --ctx 2000"},
        {2, "made for 1024", "generate", "-p hello --ctx 2000"},
        {2, "made for 1024", "plan", "--ctx 2000"},
        {2, "1024", "generate", "-p hello --beyond rolling:2000"},
        /* too long, or too little room */
        {1, "context 4", "generate", "-p 'one two three four five' --ctx 4 --beyond stop"},
        {1, "needs at least", "generate", "-p hello --ram 1"},
        {1, "needs at least", "generate", "-p hello --disk 1"},
        /* files */
        {1, "no-such-file", "generate", "-f no-such-file"},
        {1, "no-such-file", "generate", "--batch no-such-file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_model_failure(cases[i].code, cases[i].text, cases[i].command, cases[i].arguments);
}

static void test_empty_prompt_exits_2(void **state)
{
    (void)state;
    write_file(scratch("empty"), "", 0);
    write_file(scratch("empty.json"), "[]", 2);
    char arguments[512];
    check_model_failure(2, "empty", "generate", "-p ''");
    check_model_failure(2, "empty", "generate", "-f /dev/null");
    check_model_failure(2, "empty", "generate", "-f - </dev/null");
    snprintf(arguments, sizeof arguments, "-f %s", scratch("empty"));
    check_model_failure(2, "empty", "generate", arguments);
    snprintf(arguments, sizeof arguments, "--ids %s", scratch("empty.json"));
    check_model_failure(2, "empty", "generate", arguments);
}

static void test_input_that_cannot_be_read_exits_1(void **state)
{
    (void)state;
    check_model_failure(1, "no-such-file", "generate", "-f no-such-file");
    check_model_failure(1, "no-such-file", "generate", "--ids no-such-file");
    check_model_failure(1, "/: ", "generate", "-f /");
    char arguments[512];
    write_file(scratch("huge"), "", 0);
    assert_int_equal(truncate(scratch("huge"), 3ll << 30), 0); /* holes */
    snprintf(arguments, sizeof arguments, "-f %s", scratch("huge"));
    check_model_failure(1, "1 GiB", "generate", arguments);
    check_failure(1, "no-such-model: no such folder", "generate -m no-such-model -p hello");
    check_failure(1, "no-such-model: no such folder", "tokenize -m no-such-model -p hello");
}

static void test_invalid_utf8_exits_1_and_names_the_byte(void **state)
{
    (void)state;
    char arguments[512];
    write_file(scratch("invalid"), "0123456789\xff rest", 16);
    snprintf(arguments, sizeof arguments, "-f %s", scratch("invalid"));
    check_model_failure(1, "10", "generate", arguments);
    check_model_failure(1, "10", "tokenize", arguments);
    check_model_failure(1, "invalid", "perplexity", arguments);
}

static void check_ids(const char *text, const char *message)
{
    char arguments[512];
    write_file(scratch("ids.json"), text, strlen(text));
    snprintf(arguments, sizeof arguments, "--ids %s", scratch("ids.json"));
    check_model_failure(1, message, "generate", arguments);
}

static void test_ids_are_checked_and_the_index_named(void **state)
{
    (void)state;
    check_ids("[1, 2, 8192]", "element 2");
    check_ids("[-1]", "element 0");
    check_ids("[1, 2.5]", "element 1");
    check_ids("[1, \"2\"]", "element 1");
    check_ids("[99999999999999999999]", "JSON array of token ids");
    check_ids("{\"ids\": [1]}", "JSON array of token ids");
    check_ids("[1, 2", "JSON array of token ids");
    check_ids("", "JSON array of token ids");
}

static void check_broken(const char *name, const void *bytes, size_t n, const char *message)
{
    outcome o = run("", "generate -m %s -p hello -n 1", model_with(name, bytes, n));
    expect_failure(&o, 1, message);
    assert_string_equal(o.out, "");
    outcome_free(&o);
}

static void test_broken_model_folders_exit_1_and_name_the_file(void **state)
{
    (void)state;
    char path[512];
    size_t n;
    snprintf(path, sizeof path, "%s/model.safetensors", demo_model());
    char *weights = read_file(path, &n);
    check_broken("model.safetensors", weights, n - 1000, "model.safetensors");
    check_broken("model.safetensors", weights, 4, "model.safetensors");
    memset(weights, 0xff, 8); /* a header longer than the file */
    check_broken("model.safetensors", weights, n, "model.safetensors");
    free(weights);
    check_broken("model.safetensors", NULL, 0, "model.safetensors");
    check_broken("config.json", "{", 1, "config.json");
    check_broken("config.json", NULL, 0, "config.json");
    check_broken("vocab.json", "[]", 2, "vocab.json");
    check_broken("merges.txt", "", 0, "0 merges are too few");
    snprintf(path, sizeof path, "%s/merges.txt", demo_model());
    char *merges = read_file(path, &n);
    merges[n / 2] = 0;
    n = (size_t)(strrchr(merges, '\n') + 1 - merges); /* whole lines, but not all */
    check_broken("merges.txt", merges, n, "merges are too few");
    free(merges);
}

static void check_folder(const char *options, const char *message)
{
    outcome o = run("", "generate -m %s %s </dev/null", scratch("model"), options);
    expect_failure(&o, 1, message);
    assert_string_equal(o.out, "");
    outcome_free(&o);
}

/* With nothing of its tokenizer in the folder: of that the user should not hear. */
static void test_model_that_is_not_supported_is_what_is_named(void **state)
{
    (void)state;
    static const char *const inputs[] = {"-p hello", "--chat -p hello", "--batch /dev/null"};
    static const char config[] = "{\"model_type\": \"bert\"}";
    char path[512];
    snprintf(path, sizeof path, "%s/vocab.json", model_with("config.json", config, strlen(config)));
    unlink(path);
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        check_folder(inputs[i], "\"bert\" is not supported");
        check_folder(inputs[i], "gpt2, llama, mistral, qwen2 and opt are");
    }
    snprintf(path, sizeof path, "%s/config.json", scratch("model"));
    unlink(path);
    check_folder("-p hello", "no config.json");
}

static void test_tokenizers_that_are_not_supported_are_named(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer.model", model_with("vocab.json", NULL, 0));
    check_folder("-p hello", "neither tokenizer.json nor vocab.json");
    write_file(path, "", 0);
    check_folder("-p hello", "SentencePiece");
    check_folder("-p hello", "--ids");
    unlink(path);
}

static void test_config_that_contradicts_the_weights_exits_1(void **state)
{
    (void)state;
    char path[512], *at;
    size_t n;
    snprintf(path, sizeof path, "%s/config.json", demo_model());
    char *config = read_file(path, &n);
    at = strstr(config, "\"n_layer\": 6");
    assert_non_null(at);
    at[11] = '7';
    check_broken("config.json", config, n, NULL);
    at[11] = '6';
    at = strstr(config, "\"n_embd\": 256");
    assert_non_null(at);
    memcpy(at + 10, "128", 3);
    check_broken("config.json", config, n, NULL);
    memcpy(at + 10, "256", 3);
    at = strstr(config, "\"eos_token_id\": 0,\n  ");
    assert_non_null(at);
    memcpy(at + 14, ": 8192,", 7); /* into the white space */
    check_broken("config.json", config, n, "eos_token_id");
    free(config);
}

static void test_forced_isa_that_is_unknown_exits_1(void **state)
{
    (void)state;
    outcome o = run("KVP_ISA=vax", "generate -m %s -p hello -n 1", demo_model());
    expect_failure(&o, 1, "vax");
    outcome_free(&o);
    o = run("KVP_DISK_ENGINE=floppy", "generate -m %s -p hello -n 1 --ram 2M", demo_model());
    expect_failure(&o, 1, "floppy");
    outcome_free(&o);
    o = run("KVP_DISK_ENGINE=floppy", "generate -m %s -p hello -n 1", demo_model());
    expect_failure(&o, 1, "floppy");
    outcome_free(&o);
}

static void test_stdout_that_is_closed_exits_1(void **state)
{
    (void)state;
    outcome o = run("", "tokenize -m %s -p hello >/dev/full", demo_model());
    expect_failure(&o, 1, "stdout");
    outcome_free(&o);
    o = run("", "generate -m %s -p hello -n 3 --ignore-eos >/dev/full", demo_model());
    expect_failure(&o, 1, "stdout");
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_and_help_go_to_stdout),
        cmocka_unit_test(test_help_of_each_command_lists_its_options_with_defaults),
        cmocka_unit_test(test_mistakes_exit_2_with_a_hint),
        cmocka_unit_test(test_values_that_contradict_the_model_exit_2),
        cmocka_unit_test(test_mistakes_of_one_kind_have_one_code),
        cmocka_unit_test(test_empty_prompt_exits_2),
        cmocka_unit_test(test_input_that_cannot_be_read_exits_1),
        cmocka_unit_test(test_invalid_utf8_exits_1_and_names_the_byte),
        cmocka_unit_test(test_ids_are_checked_and_the_index_named),
        cmocka_unit_test(test_broken_model_folders_exit_1_and_name_the_file),
        cmocka_unit_test(test_model_that_is_not_supported_is_what_is_named),
        cmocka_unit_test(test_tokenizers_that_are_not_supported_are_named),
        cmocka_unit_test(test_config_that_contradicts_the_weights_exits_1),
        cmocka_unit_test(test_forced_isa_that_is_unknown_exits_1),
        cmocka_unit_test(test_stdout_that_is_closed_exits_1),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
