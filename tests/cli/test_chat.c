/* test_chat.c - generate --chat: turns from the command line, from stdin and from a terminal; KV
 * that stays from turn to turn, with the same bits under every budget.
 *
 * The model is the demo GPT-2, whose last two tokens became those of ChatML. It has never seen a
 * conversation, so its answers end at -n. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define TEMPLATE                                                                                   \
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "                   \
    "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"        \
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"

/* ---- the model ---- */

static void link_file(const char *dir, const char *name)
{
    char from[1024], to[512], cwd[256];
    const char *model = demo_model();
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(from, sizeof from, "%s/%s/%s", *model == '/' ? "" : cwd, model, name);
    snprintf(to, sizeof to, "%s/%s", dir, name);
    assert_int_equal(symlink(from, to), 0);
}

static void write_vocab(const char *dir)
{
    static const char *const names[][2] = {{"\xc4\xa0lect", "<|im_start|>"},
                                           {"\xc4\xa0"
                                            "clad",
                                            "<|im_end|>"}};
    char path[512];
    json_error_t error;
    snprintf(path, sizeof path, "%s/vocab.json", demo_model());
    json_t *vocab = json_load_file(path, 0, &error);
    assert_non_null(vocab);
    for (size_t i = 0; i < COUNT(names); i++) {
        json_t *id = json_incref(json_object_get(vocab, names[i][0]));
        assert_int_equal(json_integer_value(id), 8190 + i);
        json_object_del(vocab, names[i][0]);
        json_object_set_new(vocab, names[i][1], id);
    }
    snprintf(path, sizeof path, "%s/vocab.json", dir);
    assert_int_equal(json_dump_file(vocab, path, 0), 0);
    json_decref(vocab);
}

/* Without the two that make those tokens. */
static void write_merges(const char *dir)
{
    char path[512];
    size_t n;
    snprintf(path, sizeof path, "%s/merges.txt", demo_model());
    char *merges = read_file(path, &n);
    for (int i = 0; i < 3; i++) /* the last line has an end, too */
        n = (size_t)((char *)memrchr(merges, '\n', n) - merges);
    snprintf(path, sizeof path, "%s/merges.txt", dir);
    write_file(path, merges, n + 1);
    free(merges);
}

static const char *chat_model(void)
{
    const char *dir = scratch("chat");
    char path[512];
    if (mkdir(dir, 0700))
        return dir; /* it is there */
    link_file(dir, "config.json");
    link_file(dir, "model.safetensors");
    write_vocab(dir);
    write_merges(dir);
    json_t *config = json_pack("{s:s, s:[s, s], s:s, s:s}", "tokenizer_class", "GPT2Tokenizer",
                               "additional_special_tokens", "<|im_start|>", "<|im_end|>",
                               "eos_token", "<|im_end|>", "chat_template", TEMPLATE);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    return dir;
}

/* ---- conversations ---- */

typedef struct conversation {
    outcome outcome;
    json_t *turns;
} conversation;

/* stdin gets these bytes. */
static conversation talk_bytes(int code, const char *bytes, size_t n, const char *options)
{
    const char *path = scratch("turns");
    write_file(path, bytes, n);
    outcome o =
        run("", "generate -m %s --chat --json --ignore-eos %s <%s", chat_model(), options, path);
    if (o.code != code)
        fail_msg("exit code %d, not %d: %s", o.code, code, o.err);
    return (conversation){o, json_lines(&o)};
}

static conversation talk(int code, const char *turns, const char *options)
{
    return talk_bytes(code, turns, strlen(turns), options);
}

static void conversation_fini(conversation *c)
{
    json_decref(c->turns);
    outcome_free(&c->outcome);
}

static const json_t *turn(const conversation *c, size_t i)
{
    return json_array_get(c->turns, i);
}

static size_t n_turns(const conversation *c)
{
    return json_array_size(c->turns);
}

/* The turn's number of tokens is that of the text that apply_chat_template() makes, the special
 * tokens as one each. */
static void check_prompt(const conversation *c, size_t i, const char *text)
{
    write_file(scratch("text"), text, strlen(text));
    outcome o = run_expecting(0, "", "tokenize -m %s -f %s --json", chat_model(), scratch("text"));
    assert_int_equal(int_member(turn(c, i), "prompt_tokens"),
                     json_array_size(member(o.json, "ids")));
    outcome_free(&o);
}

#define ASSISTANT "<|im_end|>\n<|im_start|>assistant\n"
#define USER "<|im_start|>user\n"

static void test_turns_are_lines_of_stdin(void **state)
{
    (void)state;
    conversation c = talk(0, "Hello\n\n  \t\nWhat is a whale? \\\nAnd a ship?\r\nBye", "-n 4");
    assert_int_equal(n_turns(&c), 3);
    check_prompt(&c, 0, USER "Hello" ASSISTANT);
    /* The answer before was cut: its turn is ended first. */
    check_prompt(&c, 1, "<|im_end|>\n" USER "What is a whale? \nAnd a ship?" ASSISTANT);
    check_prompt(&c, 2, "<|im_end|>\n" USER "Bye" ASSISTANT);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(int_member(turn(&c, i), "turn"), i);
        assert_int_equal(json_array_size(member(turn(&c, i), "tokens")), 4);
        assert_string_equal(text_member(turn(&c, i), "stop_reason"), "length");
    }
    conversation_fini(&c);
}

static void test_first_turn_comes_from_the_command_line(void **state)
{
    (void)state;
    write_file(scratch("book"), "Call me Ishmael.\n\n", 18);
    char options[256];
    snprintf(options, sizeof options, "-n 3 -p 'Who?' -f %s --system 'Be brief.'", scratch("book"));
    conversation c = talk(0, "And then?\n", options);
    assert_int_equal(n_turns(&c), 2);
    check_prompt(&c, 0,
                 "<|im_start|>system\nBe brief.<|im_end|>\n" USER
                 "Call me Ishmael.\n\nWho?" ASSISTANT);
    conversation_fini(&c);
    c = talk(0, "", "-n 3 -p Hello");
    assert_int_equal(n_turns(&c), 1);
    check_prompt(&c, 0, USER "Hello" ASSISTANT);
    conversation_fini(&c);
    snprintf(options, sizeof options, "-n 3 -f %s", scratch("book"));
    c = talk(0, "", options);
    check_prompt(&c, 0, USER "Call me Ishmael.\n\n" ASSISTANT);
    conversation_fini(&c);
    outcome o = run("", "generate -m %s --chat --json -n 3 -p Hello <&-", chat_model());
    assert_int_equal(o.code, 0);
    c = (conversation){o, json_lines(&o)};
    assert_int_equal(n_turns(&c), 1);
    conversation_fini(&c);
}

static void test_special_tokens_in_what_users_say_are_text(void **state)
{
    (void)state;
    conversation c = talk(0, "a<|im_end|>b\nab\n", "-n 3");
    assert_true(int_member(turn(&c, 0), "prompt_tokens") >
                int_member(turn(&c, 1), "prompt_tokens"));
    conversation_fini(&c);
}

static void test_first_answer_is_that_to_the_formatted_text(void **state)
{
    (void)state;
    static const char text[] = USER "The sea" ASSISTANT;
    conversation c = talk(0, "The sea\n", "-n 12");
    write_file(scratch("text"), text, strlen(text));
    outcome o = run_expecting(0, "", "generate -m %s -f %s -n 12 --ignore-eos --json", chat_model(),
                              scratch("text"));
    assert_string_equal(text_member(turn(&c, 0), "logits_xxh3"),
                        text_member(o.json, "logits_xxh3"));
    assert_string_equal(text_member(turn(&c, 0), "text"), text_member(o.json, "text"));
    outcome_free(&o);
    conversation_fini(&c);
}

/* ---- what stays ---- */

static void test_only_what_is_new_is_read(void **state)
{
    (void)state;
    conversation c = talk(0, "One\nTwo two\nThree three three\nFour\n", "-n 10");
    int64_t text_tokens = 0;
    for (size_t i = 0; i < 4; i++) {
        const json_t *t = turn(&c, i);
        /* The last token of an answer is fed with the turn after it. */
        assert_int_equal(int_member(t, "prefill_tokens"), int_member(t, "prompt_tokens") + (i > 0));
        text_tokens += int_member(t, "prompt_tokens") + 10;
        assert_int_equal(int_member(t, "text_tokens"), text_tokens);
    }
    conversation_fini(&c);
    c = talk(0, "One\nTwo two\n", "-n 10 --no-cache");
    assert_int_equal(int_member(turn(&c, 1), "prefill_tokens"),
                     int_member(turn(&c, 1), "text_tokens") - 10);
    conversation_fini(&c);
}

/* The same answers as to the whole text, read at once. */
static void test_what_was_said_is_seen(void **state)
{
    (void)state;
    conversation c = talk(0, "The whale\nThe ship\n", "-n 8 --kv-dtype f32");
    char text[1024];
    snprintf(text, sizeof text,
             USER "The whale" ASSISTANT "%s<|im_end|>\n" USER "The ship" ASSISTANT,
             text_member(turn(&c, 0), "text"));
    write_file(scratch("text"), text, strlen(text));
    outcome o = run_expecting(0, "", "generate -m %s -f %s -n 8 --kv-dtype f32 --ignore-eos --json",
                              chat_model(), scratch("text"));
    assert_string_equal(text_member(turn(&c, 1), "text"), text_member(o.json, "text"));
    outcome_free(&o);
    o = run_expecting(0, "", "generate -m %s -p '" USER "The ship" ASSISTANT "' -n 8 --json",
                      chat_model());
    assert_true(
        strcmp(text_member(turn(&c, 1), "logits_xxh3"), text_member(o.json, "logits_xxh3")));
    outcome_free(&o);
    conversation_fini(&c);
}

static void test_budgets_change_no_bit(void **state)
{
    (void)state;
    static const char *const budgets[] = {"--ram 1M", "--ram 1M --zram 512K", "--ram 600K",
                                          "--ram 1M --placement lru"};
    char turns[4096] = "", options[128];
    for (int i = 0; i < 5; i++)
        strcat(turns, "It was the best of times, it was the worst of times, it was the age of "
                      "wisdom, it was the age of foolishness, it was the epoch of belief.\n");
    conversation resident = talk(0, turns, "-n 30");
    assert_int_equal(n_turns(&resident), 5);
    assert_int_equal(int_member(turn(&resident, 4), "stats.demotions"), 0);
    for (size_t b = 0; b < COUNT(budgets); b++) {
        snprintf(options, sizeof options, "-n 30 %s", budgets[b]);
        conversation c = talk(0, turns, options);
        for (size_t i = 0; i < 5; i++)
            assert_string_equal(text_member(turn(&c, i), "logits_xxh3"),
                                text_member(turn(&resident, i), "logits_xxh3"));
        assert_true(int_member(turn(&c, 4), "stats.major_faults") > 0);
        assert_true(int_member(turn(&c, 4), "stats.ram_peak_bytes") <=
                    int_member(turn(&c, 4), "stats.ram_budget_bytes"));
        conversation_fini(&c);
    }
    conversation_fini(&resident);
}

static void test_verify_repeats_the_conversation(void **state)
{
    (void)state;
    conversation c = talk(0, "One\nTwo\nThree\n", "-n 40 --ram 600K --verify --temp 1 --seed 3");
    assert_int_equal(n_turns(&c), 4);
    assert_true(json_is_true(member(turn(&c, 3), "identical")));
    assert_true(int_member(turn(&c, 2), "stats.major_faults") > 0);
    assert_non_null(
        strstr(c.outcome.err, "identical to all-in-RAM: yes (3 turns, 120 tokens and their"));
    conversation_fini(&c);
}

/* ---- the end of the context ---- */

static void test_full_context_rolls_and_says_so(void **state)
{
    (void)state;
    conversation c = talk(0, "One two three\nFour five six\nSeven eight nine\n",
                          "-n 30 --ctx 64 --beyond rolling:20 --verify --page-tokens 16");
    assert_int_equal(n_turns(&c), 4);
    assert_non_null(strstr(c.outcome.err, "the context of 64 tokens is full"));
    assert_true(json_is_true(member(turn(&c, 3), "identical")));
    conversation_fini(&c);
}

static void test_full_context_stops(void **state)
{
    (void)state;
    conversation c =
        talk(1, "One two three\nFour five six\nSeven eight nine\n", "-n 30 --ctx 64 --beyond stop");
    assert_int_equal(n_turns(&c), 2);
    assert_string_equal(text_member(turn(&c, 1), "stop_reason"), "context");
    assert_int_equal(int_member(turn(&c, 1), "text_tokens"), 64);
    assert_non_null(strstr(c.outcome.err, "is full: the answer ends here"));
    assert_non_null(strstr(c.outcome.err, "the context 64"));
    conversation_fini(&c);
    outcome o = run("", "generate -m %s --chat -p 'One two three four' --ctx 8 --beyond stop",
                    chat_model());
    expect_failure(&o, 1, "the context 8");
    assert_string_equal(o.out, "");
    outcome_free(&o);
}

/* ---- what cannot be said ---- */

static void test_turn_that_is_no_text_ends_the_conversation(void **state)
{
    (void)state;
    conversation c = talk(1, "Hello\nHel\xfflo\nBye\n", "-n 3");
    assert_int_equal(n_turns(&c), 1);
    expect_failure(&c.outcome, 1, "UTF-8: byte 3 (0xFF)");
    conversation_fini(&c);
    c = talk_bytes(1, "Hello\na\0b\nBye\n", 14, "-n 3");
    assert_int_equal(n_turns(&c), 1);
    expect_failure(&c.outcome, 1, "zero byte");
    conversation_fini(&c);
    c = talk(0, "", "-n 3");
    assert_int_equal(n_turns(&c), 0);
    conversation_fini(&c);
    c = talk(0, "\n \n", "-n 3");
    assert_int_equal(n_turns(&c), 0);
    conversation_fini(&c);
}

static void check_failure(int code, const char *text, const char *arguments)
{
    outcome o = run("", "generate -m %s %s </dev/null", demo_model(), arguments);
    expect_failure(&o, code, text);
    assert_string_equal(o.out, "");
    outcome_free(&o);
}

static void test_mistakes_are_refused(void **state)
{
    (void)state;
    static const char other[] = "{\"chat_template\": \"{% for m in messages %}<s>[INST] "
                                "{{ m['content'] }} [/INST]{% endfor %}\"}";
    check_failure(2, "no chat template", "--chat -p Hello");
    check_failure(2, "--ids", "--chat --ids x");
    check_failure(2, "--chat", "--system x -p Hello");
    check_failure(2, "--chat", "--system x --batch x");
    outcome o = run("", "generate -m %s --chat -p '' </dev/null", chat_model());
    expect_failure(&o, 2, "empty");
    outcome_free(&o);
    o = run("", "generate -m %s --chat -p Hello </dev/null",
            model_with("tokenizer_config.json", other, strlen(other)));
    expect_failure(&o, 2, "ChatML, Llama-3 and Zephyr");
    outcome_free(&o);
    o = run("", "generate -m %s --chat -f no-such-file </dev/null", chat_model());
    expect_failure(&o, 1, "no-such-file");
    outcome_free(&o);
    write_file(scratch("zero"), "a\0b", 3);
    o = run("", "generate -m %s --chat -f %s </dev/null", chat_model(), scratch("zero"));
    expect_failure(&o, 1, "zero byte");
    outcome_free(&o);
    write_file(scratch("latin1"), "  \xe9t\xe9", 5);
    o = run("", "generate -m %s --chat -f %s -p Hello </dev/null", chat_model(), scratch("latin1"));
    expect_failure(&o, 1, "latin1: the text is not UTF-8: byte 2 (0xE9)");
    outcome_free(&o);
}

static void test_every_prompt_of_a_batch_may_begin_a_conversation(void **state)
{
    (void)state;
    write_file(scratch("prompts"), "One\nTwo\n\"a\\u0000b\"\n", 19);
    outcome o = run("", "generate -m %s --chat --batch %s -n 6 --ignore-eos --parallel 1",
                    chat_model(), scratch("prompts"));
    assert_int_equal(o.code, 1);
    conversation batch = {o, json_lines(&o)}, c = talk(0, "Two\n", "-n 6");
    assert_int_equal(n_turns(&batch), 3);
    assert_non_null(strstr(text_member(turn(&batch, 0), "error"), "zero byte"));
    assert_string_equal(text_member(turn(&batch, 2), "logits_xxh3"),
                        text_member(turn(&c, 0), "logits_xxh3"));
    conversation_fini(&batch);
    conversation_fini(&c);
}

static void test_answers_stream_as_text(void **state)
{
    (void)state;
    conversation c = talk(0, "One\nTwo\n", "-n 5");
    outcome o =
        run("", "generate -m %s --chat --ignore-eos -n 5 <%s", chat_model(), scratch("turns"));
    char expected[512];
    snprintf(expected, sizeof expected, "%s\n%s\n", text_member(turn(&c, 0), "text"),
             text_member(turn(&c, 1), "text"));
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, expected);
    assert_string_equal(o.err, "");
    outcome_free(&o);
    conversation_fini(&c);
}

/* ---- a terminal ---- */

static char terminal_path[64];

static void use_terminal(void)
{
    int fd = open(terminal_path, O_RDWR | O_NOCTTY);
    if (fd < 0 || dup2(fd, 0) < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(126);
    close(fd);
}

typedef struct terminal {
    int fd;
    process p;
    char screen[1 << 16];
    size_t n, seen; /* bytes; of those, behind what was waited for */
} terminal;

static void open_terminal(terminal *t, const char *options)
{
    *t = (terminal){.fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
    assert_true(t->fd >= 0);
    assert_int_equal(grantpt(t->fd) | unlockpt(t->fd), 0);
    assert_int_equal(ptsname_r(t->fd, terminal_path, sizeof terminal_path), 0);
    t->p = start("TERM=dumb", use_terminal, "generate -m %s --chat --ignore-eos %s", chat_model(),
                 options);
}

/* Read on until the text is there, NULL: until the end. */
static void wait_for(terminal *t, const char *text)
{
    for (;;) {
        char *at = text ? strstr(t->screen + t->seen, text) : NULL;
        if (at) {
            t->seen = (size_t)(at - t->screen) + strlen(text);
            return;
        }
        ssize_t n = read(t->fd, t->screen + t->n, sizeof t->screen - 1 - t->n);
        if (n <= 0 && text)
            fail_msg("'%s' never came: %s", text, t->screen);
        if (n <= 0)
            return;
        t->n += (size_t)n;
        assert_true(t->n < sizeof t->screen - 1);
    }
}

static void type(terminal *t, const char *keys)
{
    assert_int_equal(write(t->fd, keys, strlen(keys)), strlen(keys));
}

static void close_terminal(terminal *t, int code)
{
    wait_for(t, NULL);
    outcome o = finish(&t->p);
    if (o.code != code)
        fail_msg("exit code %d, not %d: %s", o.code, code, t->screen);
    outcome_free(&o);
    close(t->fd);
}

static void test_terminal_asks_and_ctrl_d_ends(void **state)
{
    (void)state;
    static terminal t;
    open_terminal(&t, "-n 3");
    wait_for(&t, "> ");
    type(&t, "Hello \\\n");
    wait_for(&t, "\r\n  ");
    type(&t, "there\n");
    wait_for(&t, "\r\n> ");
    type(&t, "Hel\xfflo\n");
    wait_for(&t, "kvpager: ");
    wait_for(&t, "UTF-8");
    wait_for(&t, "\r\n> ");
    type(&t, "\n");
    wait_for(&t, "\r\n> ");
    type(&t, "Bye\n");
    wait_for(&t, "\r\n> ");
    type(&t, "\x04");
    wait_for(&t, "tokens/s");
    close_terminal(&t, 0);
}

static void test_interrupt_ends_the_answer_and_then_the_command(void **state)
{
    (void)state;
    static terminal t;
    open_terminal(&t, "-n 1000000 -p Hello");
    wait_for(&t, " "); /* of an answer without end */
    kill(t.p.pid, SIGINT);
    wait_for(&t, "\r\n> ");
    type(&t, "Go on\n");
    wait_for(&t, "\n");
    wait_for(&t, " ");
    kill(t.p.pid, SIGINT);
    wait_for(&t, "\r\n> ");
    kill(t.p.pid, SIGINT);
    wait_for(&t, "kvpager: interrupted");
    close_terminal(&t, 130);
}

static void test_other_signals_end_the_command(void **state)
{
    (void)state;
    static terminal t;
    open_terminal(&t, "-n 1000000 -p Hello");
    wait_for(&t, " ");
    kill(t.p.pid, SIGTERM);
    wait_for(&t, "kvpager: interrupted");
    close_terminal(&t, 128 + SIGTERM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns_are_lines_of_stdin),
        cmocka_unit_test(test_first_turn_comes_from_the_command_line),
        cmocka_unit_test(test_special_tokens_in_what_users_say_are_text),
        cmocka_unit_test(test_first_answer_is_that_to_the_formatted_text),
        cmocka_unit_test(test_only_what_is_new_is_read),
        cmocka_unit_test(test_what_was_said_is_seen),
        cmocka_unit_test(test_budgets_change_no_bit),
        cmocka_unit_test(test_verify_repeats_the_conversation),
        cmocka_unit_test(test_full_context_rolls_and_says_so),
        cmocka_unit_test(test_full_context_stops),
        cmocka_unit_test(test_turn_that_is_no_text_ends_the_conversation),
        cmocka_unit_test(test_mistakes_are_refused),
        cmocka_unit_test(test_every_prompt_of_a_batch_may_begin_a_conversation),
        cmocka_unit_test(test_answers_stream_as_text),
        cmocka_unit_test(test_terminal_asks_and_ctrl_d_ends),
        cmocka_unit_test(test_interrupt_ends_the_answer_and_then_the_command),
        cmocka_unit_test(test_other_signals_end_the_command),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
