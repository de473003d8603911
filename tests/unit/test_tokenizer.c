/* test_tokenizer.c - byte-level BPE against ids from Hugging Face's tokenizers 0.23. */
#include "integration/text/tokenizer.h"
#include "tests/support/golden.h"
#include "tests/support/temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS_DIR KVP_SOURCE_DIR "/tests/data/tokenizer"

static tokenizer *open_or_fail(const char *dir)
{
    tokenizer *t = NULL;
    kvp_status status = tokenizer_open(dir, &t);
    if (status)
        fail_msg("%s", kvp_error());
    return t;
}

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!json)
        fail_msg("%s: %s", path, error.text);
    return json;
}

/* ---- encoding -------------------------------------------------------------------------------- */

static void check_case(const tokenizer *t, const json_t *item)
{
    const json_t *text = json_object_get(item, "text"), *golden = json_object_get(item, "ids");
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(
        tokenizer_encode(t, json_string_value(text), json_string_length(text), &ids, &n), KVP_OK);
    bool same = n == json_array_size(golden);
    for (size_t i = 0; i < n && same; i++)
        same = ids[i] == json_integer_value(json_array_get(golden, i));
    if (!same)
        fail_msg("\"%s\" is encoded differently", json_string_value(text));
    free(ids);
}

static void check_cases(const char *dir, const json_t *cases, size_t at_least)
{
    tokenizer *t = open_or_fail(dir);
    assert_true(json_array_size(cases) >= at_least);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(t, json_array_get(cases, i));
    tokenizer_close(t);
}

static void test_golden_cases_are_equal(void **state)
{
    (void)state;
    json_t *golden = golden_load(DEMO_GOLDEN);
    check_cases(DEMO_DIR, json_object_get(golden, "tokenizer_cases"), 14);
    json_decref(golden);
}

static void test_edge_cases_are_equal(void **state)
{
    (void)state;
    json_t *cases = load(KVP_SOURCE_DIR "/tests/data/demo/tokenizer_cases.json");
    check_cases(DEMO_DIR, cases, 100);
    json_decref(cases);
}

/* tokenizer.json whose added tokens have every flag: lstrip, rstrip, single_word, normalized. */
static void test_added_token_flags_are_equal(void **state)
{
    (void)state;
    json_t *cases = load(FLAGS_DIR "/cases.json");
    check_cases(FLAGS_DIR, cases, 140);
    json_decref(cases);
}

static char *read_excerpt(size_t *n)
{
    FILE *file = fopen(DEMO_DIR "/excerpt.txt", "rb");
    assert_non_null(file);
    char *text = malloc(1 << 16);
    *n = fread(text, 1, 1 << 16, file);
    fclose(file);
    return text;
}

static void test_excerpt_equals_golden_text_and_decodes_to_itself(void **state)
{
    (void)state;
    size_t n_text, n = 0, n_golden, n_back = 0;
    json_t *golden = golden_load(DEMO_GOLDEN);
    int32_t *wanted = golden_ids(json_object_get(golden, "rolling"), "token_ids", &n_golden);
    int32_t *ids = NULL;
    char *text = read_excerpt(&n_text), *back = malloc(n_text + 16);
    tokenizer *t = open_or_fail(DEMO_DIR);
    assert_int_equal(tokenizer_encode(t, text, n_text, &ids, &n), KVP_OK);
    assert_true(n >= 880 && n <= 920 && n <= n_golden);
    assert_memory_equal(ids, wanted, n * sizeof *ids);
    for (size_t i = 0, length; i < n; i++, n_back += length) {
        const char *bytes = tokenizer_token_bytes(t, ids[i], &length);
        assert_true(length > 0 && n_back + length <= n_text);
        memcpy(back + n_back, bytes, length);
    }
    assert_int_equal(n_back, n_text);
    assert_memory_equal(back, text, n_text);
    tokenizer_close(t);
    free(ids);
    free(wanted);
    free(text);
    free(back);
    json_decref(golden);
}

static void test_empty_text_has_no_ids(void **state)
{
    (void)state;
    tokenizer *t = open_or_fail(DEMO_DIR);
    int32_t *ids = NULL;
    size_t n = 1;
    assert_int_equal(tokenizer_encode(t, "", 0, &ids, &n), KVP_OK);
    assert_int_equal(n, 0);
    assert_null(ids);
    tokenizer_close(t);
}

/* Words that quadratic merging would not finish. */
static void test_long_words_finish(void **state)
{
    (void)state;
    static const char *const units[] = {"a", " ", ".", "th", "\xE3\x80\x80"};
    tokenizer *t = open_or_fail(FLAGS_DIR);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t length = strlen(units[u]), n_text = 300000 / length * length, n = 0;
        char *text = malloc(n_text);
        int32_t *ids = NULL;
        for (size_t i = 0; i < n_text; i += length)
            memcpy(text + i, units[u], length);
        assert_int_equal(tokenizer_encode(t, text, n_text, &ids, &n), KVP_OK);
        if (u == 0) /* "a" merges to "aaaa" */
            assert_int_equal(n, n_text / 4);
        assert_true(n > 0 && n <= n_text);
        free(ids);
        free(text);
    }
    tokenizer_close(t);
}

static void test_invalid_utf8_names_its_offset(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n, offset;
    } cases[] = {{"abc\xFF", 4, 3},
                 {"\x80", 1, 0},
                 {"a\xC3", 2, 1},
                 {"ab\xE2\x82", 4, 2},
                 {"\xC0\xAF", 2, 0},
                 {"x\xED\xA0\x80", 4, 1},
                 {"\xF4\x90\x80\x80", 4, 0},
                 {"\xF0\x9F\x99\x82\xF0\x9F", 6, 4}};
    tokenizer *t = open_or_fail(DEMO_DIR);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t *ids = NULL;
        size_t n = 0;
        char wanted[32];
        snprintf(wanted, sizeof wanted, "byte %zu ", cases[i].offset);
        assert_int_equal(utf8_valid_prefix(cases[i].text, cases[i].n), cases[i].offset);
        assert_int_equal(tokenizer_encode(t, cases[i].text, cases[i].n, &ids, &n), KVP_E_RANGE);
        assert_non_null(strstr(kvp_error(), wanted));
        assert_null(ids);
    }
    tokenizer_close(t);
}

static void test_lookups_answer_for_known_and_unknown(void **state)
{
    (void)state;
    size_t n = 7;
    tokenizer *t = open_or_fail(DEMO_DIR);
    assert_int_equal(tokenizer_n_vocab(t), 8192);
    assert_int_equal(tokenizer_find_special(t, "<|endoftext|>"), 0);
    assert_int_equal(tokenizer_find_special(t, "the"), -1);
    assert_memory_equal(tokenizer_token_bytes(t, 0, &n), "<|endoftext|>", 13);
    assert_int_equal(n, 13);
    assert_non_null(tokenizer_token_bytes(t, 8192, &n));
    assert_int_equal(n, 0);
    (void)tokenizer_token_bytes(t, -1, &n);
    assert_int_equal(n, 0);
    tokenizer_close(t);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void expect_open(const char *dir, kvp_status wanted, const char *message)
{
    tokenizer *t = NULL;
    kvp_status status = tokenizer_open(dir, &t);
    if (status != wanted || !strstr(kvp_error(), message))
        fail_msg("status %d, \"%s\"; \"%s\" was expected", (int)status, kvp_error(), message);
    assert_null(t);
}

static void test_bad_vocab_and_merges_are_named(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES];
    temp_dir_make(dir);
    expect_open(dir, KVP_E_IO, "neither tokenizer.json nor vocab.json");
    temp_dir_write_text(dir, "vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2}");
    expect_open(dir, KVP_E_IO, "merges.txt");
    temp_dir_write_text(dir, "merges.txt", "#version: 0.2\na b\na c\n");
    expect_open(dir, KVP_E_INVALID, "merge 2 (\"a c\"): its right side is not in the vocabulary");
    temp_dir_write_text(dir, "merges.txt", "a b\nb a\n");
    expect_open(dir, KVP_E_INVALID, "merge 2 (\"b a\"): what it makes is not in the vocabulary");
    temp_dir_write_text(dir, "merges.txt", "a b\nabc\n");
    expect_open(dir, KVP_E_INVALID, "merge 2 is not two tokens");
    temp_dir_write_text(dir, "merges.txt", "a b\n");
    temp_dir_write_text(dir, "vocab.json", "{\"a\": 0, \"b\": 1,");
    expect_open(dir, KVP_E_INVALID, "bad JSON at line 1");
    temp_dir_write_text(dir, "vocab.json", "{\"a\": 0, \"b\": 0, \"ab\": 2}");
    expect_open(dir, KVP_E_INVALID, "two tokens have the id 0");
    temp_dir_write_text(dir, "vocab.json", "{\"a\": 0, \"b\": -1, \"ab\": 2}");
    expect_open(dir, KVP_E_INVALID, "token id -1");
    temp_dir_write_text(dir, "vocab.json", "{\"a\": 0, \"b\": 99999999999, \"ab\": 2}");
    expect_open(dir, KVP_E_INVALID, "token id 99999999999");
    temp_dir_write_text(dir, "vocab.json", "{\"a\": 0, \"b\": \"1\", \"ab\": 2}");
    expect_open(dir, KVP_E_INVALID, "not an integer");
    temp_dir_remove(dir);
}

static void expect_ids(const tokenizer *t, const char *text, const int32_t *wanted, size_t n_wanted)
{
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), &ids, &n), KVP_OK);
    assert_int_equal(n, n_wanted);
    if (n)
        assert_memory_equal(ids, wanted, n * sizeof *ids);
    free(ids);
}

/* As Hugging Face does it: what stands around them merges. */
static void test_bytes_without_token_are_left_out(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES];
    temp_dir_make(dir);
    temp_dir_write_text(dir, "vocab.json", "{\"a\": 5, \"b\": 1, \"ab\": 2}");
    temp_dir_write_text(dir, "merges.txt", "a b\r\n");
    tokenizer *t = open_or_fail(dir);
    expect_ids(t, "abba", (const int32_t[]){2, 1, 5}, 3);
    expect_ids(t, "acb", (const int32_t[]){2}, 1);
    expect_ids(t, "c", NULL, 0);
    tokenizer_close(t);
    temp_dir_remove(dir);
}

static void test_bytes_without_token_are_the_unknown_one(void **state)
{
    (void)state;
    static const char json[] =
        "{\"model\":{\"vocab\":{\"a\":5,\"b\":1,\"ab\":2,\"<unk>\":7},\"merges\":[\"a b\"],"
        "\"unk_token\":\"<unk>\",\"fuse_unk\":%s},"
        "\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false}}";
    char dir[TEMP_DIR_BYTES], text[512];
    temp_dir_make(dir);
    snprintf(text, sizeof text, json, "false");
    temp_dir_write_text(dir, "tokenizer.json", text);
    tokenizer *t = open_or_fail(dir);
    expect_ids(t, "abcda", (const int32_t[]){2, 7, 7, 5}, 4);
    tokenizer_close(t);
    snprintf(text, sizeof text, json, "true");
    temp_dir_write_text(dir, "tokenizer.json", text);
    t = open_or_fail(dir);
    expect_ids(t, "abcda", (const int32_t[]){2, 7, 5}, 3);
    tokenizer_close(t);
    temp_dir_remove(dir);
}

static void test_special_tokens_come_from_the_small_files(void **state)
{
    (void)state;
    static const char config[] = "{\"bos_token\": {\"content\": \"<s>\", \"rstrip\": true}, "
                                 "\"eos_token\": \"</s>\", \"added_tokens_decoder\": "
                                 "{\"7\": {\"content\": \"<pad>\", \"special\": true}}}";
    static const char added[] = "{\"<more>\": 9}";
    static const char text[] = "a<s>  b</s>ab<pad><more>";
    static const int32_t wanted[] = {0, 8, 1, 3, 2, 7, 9};
    char dir[TEMP_DIR_BYTES];
    int32_t *ids = NULL;
    size_t n = 0;
    temp_dir_make(dir);
    temp_dir_write_text(dir, "vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2, \"</s>\": 3}");
    temp_dir_write_text(dir, "merges.txt", "a b\n");
    temp_dir_write_text(dir, "tokenizer_config.json", config);
    temp_dir_write_text(dir, "added_tokens.json", added);
    tokenizer *t = open_or_fail(dir);
    assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, &ids, &n), KVP_OK);
    assert_int_equal(n, 7);
    assert_memory_equal(ids, wanted, sizeof wanted);
    assert_int_equal(tokenizer_n_vocab(t), 10);
    assert_int_equal(tokenizer_find_special(t, "<pad>"), 7);
    free(ids);
    tokenizer_close(t);
    temp_dir_remove(dir);
}

/* vocab.json and merges.txt alone: tokenizer_config.json says the rest. */
static void test_config_says_what_goes_before_a_text(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES];
    tokenizer *t;
    size_t n;
    temp_dir_make(dir);
    temp_dir_write_text(dir, "vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2, \"</s>\": 3}");
    temp_dir_write_text(dir, "merges.txt", "a b\n");
    temp_dir_write_text(dir, "tokenizer_config.json",
                        "{\"bos_token\": \"</s>\", \"add_bos_token\": true}");
    t = open_or_fail(dir);
    const int32_t *prefix = tokenizer_prefix(t, &n);
    assert_int_equal(n, 1);
    assert_int_equal(prefix[0], 3);
    tokenizer_close(t);
    temp_dir_write_text(dir, "tokenizer_config.json", "{\"bos_token\": \"</s>\"}");
    t = open_or_fail(dir);
    (void)tokenizer_prefix(t, &n);
    assert_int_equal(n, 0);
    tokenizer_close(t);
    temp_dir_write_text(dir, "tokenizer_config.json", "{\"add_bos_token\": true}");
    expect_open(dir, KVP_E_INVALID, "there is no bos_token");
    temp_dir_write_text(dir, "tokenizer_config.json", "{\"add_eos_token\": true}");
    expect_open(dir, KVP_E_UNSUPPORTED, "add_eos_token");
    temp_dir_remove(dir);
}

static void test_config_names_the_class(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES];
    temp_dir_make(dir);
    temp_dir_write_text(dir, "vocab.json",
                        "{\"\u00c3\": 0, \"\u00a9\": 1, \"e\": 2, \"\u00cc\": 3, \"\u0123\": 4}");
    temp_dir_write_text(dir, "merges.txt", "");
    tokenizer *t = open_or_fail(dir);
    expect_ids(t, "e\u0301", (const int32_t[]){2, 3, 4}, 3);
    tokenizer_close(t);
    temp_dir_write_text(dir, "tokenizer_config.json", "{\"tokenizer_class\": \"Qwen2Tokenizer\"}");
    t = open_or_fail(dir);
    expect_ids(t, "e\u0301", (const int32_t[]){0, 1}, 2); /* composed */
    tokenizer_close(t);
    temp_dir_write_text(dir, "tokenizer_config.json", "{\"tokenizer_class\": \"LlamaTokenizer\"}");
    expect_open(dir, KVP_E_UNSUPPORTED, "LlamaTokenizer");
    temp_dir_remove(dir);
}

/* Which of several folders has the mistake? */
static void test_small_files_are_named_with_their_folder(void **state)
{
    static const char *const names[] = {"added_tokens.json", "special_tokens_map.json"};
    static const char *const texts[] = {"{\"<more>\": 1.5}", "{\"pad_token\": {\"content\": 7}}"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        char dir[TEMP_DIR_BYTES], where[2 * TEMP_DIR_BYTES];
        tokenizer *t = NULL;
        temp_dir_make(dir);
        temp_dir_write_text(dir, "vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2}");
        temp_dir_write_text(dir, "merges.txt", "a b\n");
        temp_dir_write_text(dir, names[i], texts[i]);
        snprintf(where, sizeof where, "%s/%s: ", dir, names[i]);
        assert_int_equal(tokenizer_open(dir, &t), KVP_E_INVALID);
        assert_ptr_equal(strstr(kvp_error(), where), kvp_error());
        temp_dir_remove(dir);
    }
}

static void test_other_kinds_are_unsupported_by_name(void **state)
{
    (void)state;
#define REST ",\"decoder\":{\"type\":\"ByteLevel\"}}"
#define PRE "\"pre_tokenizer\":{\"type\":\"ByteLevel\"}"
#define SEQUENCE(parts)                                                                            \
    "{\"model\":{},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[" parts "]}" REST
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"model\":{\"type\":\"WordPiece\"}," PRE REST, "WordPiece"},
        {"{\"model\":{\"type\":\"Unigram\"}," PRE REST, "Unigram"},
        {"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true}," PRE REST, "byte_fallback"},
        {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.1}," PRE REST, "dropout"},
        {"{\"model\":{\"end_of_word_suffix\":\"</w>\"}," PRE REST, "end_of_word_suffix"},
        {"{\"normalizer\":{\"type\":\"NFKC\"},\"model\":{}," PRE REST, "normalizer NFKC"},
        {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
         "{\"type\":\"Prepend\"}]},\"model\":{}," PRE REST,
         "normalizer Prepend"},
        {"{\"model\":{},\"pre_tokenizer\":{\"type\":\"Metaspace\"}" REST,
         "pre_tokenizer Metaspace"},
        {"{\"model\":{},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":false}" REST,
         "use_regex"},
        {SEQUENCE(""), "no pre_tokenizer"},
        {SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":false},{\"type\":\"ByteLevel\","
                  "\"add_prefix_space\":false}"),
         "pre_tokenizer Sequence"},
        {SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"ByteLevel\"}"),
         "pre_tokenizer Sequence"},
        {SEQUENCE("{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"a\"}},"
                  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"),
         "such a Split"},
        {"{\"model\":{}" REST, "pre_tokenizer"},
        {"{\"model\":{}," PRE ",\"decoder\":{\"type\":\"Metaspace\"}}", "decoder Metaspace"},
        {"{\"post_processor\":{\"type\":\"BertProcessing\"},\"model\":{}," PRE REST,
         "BertProcessing"},
        {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":"
         "{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"x\"}}]},\"model\":{}," PRE REST,
         "adds to the text's end"},
    };
    char dir[TEMP_DIR_BYTES];
    temp_dir_make(dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        temp_dir_write_text(dir, "tokenizer.json", cases[i].json);
        expect_open(dir, KVP_E_UNSUPPORTED, cases[i].message);
        expect_open(dir, KVP_E_UNSUPPORTED, "--ids"); /* how to do without */
    }
    temp_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_cases_are_equal),
        cmocka_unit_test(test_edge_cases_are_equal),
        cmocka_unit_test(test_added_token_flags_are_equal),
        cmocka_unit_test(test_excerpt_equals_golden_text_and_decodes_to_itself),
        cmocka_unit_test(test_empty_text_has_no_ids),
        cmocka_unit_test(test_long_words_finish),
        cmocka_unit_test(test_invalid_utf8_names_its_offset),
        cmocka_unit_test(test_lookups_answer_for_known_and_unknown),
        cmocka_unit_test(test_bad_vocab_and_merges_are_named),
        cmocka_unit_test(test_bytes_without_token_are_left_out),
        cmocka_unit_test(test_bytes_without_token_are_the_unknown_one),
        cmocka_unit_test(test_special_tokens_come_from_the_small_files),
        cmocka_unit_test(test_config_says_what_goes_before_a_text),
        cmocka_unit_test(test_config_names_the_class),
        cmocka_unit_test(test_small_files_are_named_with_their_folder),
        cmocka_unit_test(test_other_kinds_are_unsupported_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
