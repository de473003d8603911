/* test_tokenizer_kinds.c - the words of GPT-2, SmolLM, Qwen2 and Llama-3, from tokenizer.json and
 * from GGUF, against ids from Hugging Face's tokenizers (tests/parity/tokenizers_chat.py). */
#include "integration/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/gguf_writer.h"
#include "tests/support/golden.h"
#include "tests/support/temp_dir.h"

#define DATA_DIR KVP_SOURCE_DIR "/tests/data/tokenizer"

enum { TYPE_I32 = 5, TYPE_FLAG = 7, TYPE_TEXT = 8 }; /* GGUF's numbers */
enum { NORMAL = 1, CONTROL = 3, USER = 4 };

static tokenizer *open_or_fail(const char *path)
{
    tokenizer *t = NULL;
    if (tokenizer_open(path, &t))
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

static void check_ids(const json_t *golden, const int32_t *ids, size_t n, const char *text)
{
    bool same = n == json_array_size(golden);
    for (size_t i = 0; i < n && same; i++)
        same = ids[i] == json_integer_value(json_array_get(golden, i));
    if (!same)
        fail_msg("\"%s\" is encoded differently", text);
}

/* Every text is encoded as `words` says. */
static void check_words(const tokenizer *t, const char *kind)
{
    json_t *cases = load(DATA_DIR "/words.json");
    const json_t *texts = json_object_get(cases, "texts"), *golden = json_object_get(cases, kind);
    assert_true(json_array_size(texts) >= 90);
    assert_int_equal(json_array_size(texts), json_array_size(golden));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        int32_t *ids = NULL;
        size_t n = 0;
        if (tokenizer_encode(t, json_string_value(text), json_string_length(text), &ids, &n))
            fail_msg("%s", kvp_error());
        check_ids(json_array_get(golden, i), ids, n, json_string_value(text));
        free(ids);
    }
    json_decref(cases);
}

/* ---- tokenizer.json -------------------------------------------------------------------------- */

static void check_folder(const char *kind)
{
    char path[256], key[64];
    size_t n;
    snprintf(path, sizeof path, DATA_DIR "/%s", kind);
    snprintf(key, sizeof key, "%s_prefix", kind);
    tokenizer *t = open_or_fail(path);
    check_words(t, kind);
    json_t *cases = load(DATA_DIR "/words.json");
    const int32_t *prefix = tokenizer_prefix(t, &n);
    check_ids(json_object_get(cases, key), prefix, n, "prefix");
    json_decref(cases);
    tokenizer_close(t);
}

static void test_words_of_gpt2_are_equal(void **state)
{
    (void)state;
    check_folder("gpt2");
}

static void test_words_of_smollm_are_equal(void **state)
{
    (void)state;
    check_folder("smollm");
}

static void test_words_of_qwen2_are_equal(void **state)
{
    (void)state;
    check_folder("qwen2");
}

static void test_words_of_llama3_are_equal(void **state)
{
    (void)state;
    check_folder("llama3");
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

/* A file that can lie; zero: as it should be. */
typedef struct gguf_case {
    const char *kind; /* folder of the vocabulary */
    const char *pre;  /* NULL: missing */
    const char *model;
    int32_t bos;            /* 0: missing; -1: the vocabulary's <|begin_of_text|> */
    int adds_bos, adds_eos; /* 0: missing; 1, 2: false, true */
    size_t n_types_missing;
} gguf_case;

/* Texts and types by id. */
typedef struct gguf_tokens {
    const char *texts[4096];
    uint32_t types[4096];
    uint64_t n;
} gguf_tokens;

static void put_text_value(gguf_writer *w, const char *key, const char *text)
{
    gguf_put_key(w, key, TYPE_TEXT);
    gguf_put_text(w, text);
}

static void read_tokens(const json_t *root, gguf_tokens *tokens)
{
    json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab"), *id;
    const json_t *added = json_object_get(root, "added_tokens");
    const char *text;
    json_object_foreach(vocab, text, id)
    {
        tokens->texts[json_integer_value(id)] = text;
        tokens->types[json_integer_value(id)] = NORMAL;
        tokens->n++;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *token = json_array_get(added, i);
        size_t at = (size_t)json_integer_value(json_object_get(token, "id"));
        tokens->n += !tokens->texts[at];
        tokens->texts[at] = json_string_value(json_object_get(token, "content"));
        tokens->types[at] = json_is_true(json_object_get(token, "special")) ? CONTROL : USER;
    }
}

static void put_tokens(gguf_writer *w, const gguf_tokens *tokens, size_t n_types_missing)
{
    gguf_put_array(w, "tokenizer.ggml.tokens", TYPE_TEXT, tokens->n);
    for (size_t i = 0; i < tokens->n; i++)
        gguf_put_text(w, tokens->texts[i]);
    gguf_put_array(w, "tokenizer.ggml.token_type", TYPE_I32, tokens->n - n_types_missing);
    for (size_t i = 0; i + n_types_missing < tokens->n; i++)
        gguf_put_u32(w, tokens->types[i]);
}

static void put_merges(gguf_writer *w, const json_t *merges)
{
    gguf_put_array(w, "tokenizer.ggml.merges", TYPE_TEXT, json_array_size(merges));
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *merge = json_array_get(merges, i);
        char text[256];
        snprintf(text, sizeof text, "%s %s", json_string_value(json_array_get(merge, 0)),
                 json_string_value(json_array_get(merge, 1)));
        gguf_put_text(w, text);
    }
}

static int32_t find_text(const gguf_tokens *tokens, const char *text)
{
    for (size_t i = 0; i < tokens->n; i++) {
        if (strcmp(tokens->texts[i], text) == 0)
            return (int32_t)i;
    }
    return -1;
}

/* Write dir/model.gguf, with the vocabulary of a folder; path goes to `path`. */
static void write_gguf(const gguf_case *c, const char *dir, char path[256])
{
    snprintf(path, 256, DATA_DIR "/%s/tokenizer.json", c->kind);
    json_t *root = load(path);
    gguf_tokens *tokens = calloc(1, sizeof *tokens);
    read_tokens(root, tokens);
    gguf_writer w = {0};
    gguf_put_header(&w, 0, 4u + !!c->pre + !!c->bos + !!c->adds_bos + !!c->adds_eos);
    put_text_value(&w, "tokenizer.ggml.model", c->model ? c->model : "gpt2");
    if (c->pre)
        put_text_value(&w, "tokenizer.ggml.pre", c->pre);
    put_tokens(&w, tokens, c->n_types_missing);
    put_merges(&w, json_object_get(json_object_get(root, "model"), "merges"));
    int32_t bos = c->bos < 0 ? find_text(tokens, "<|begin_of_text|>") : c->bos;
    if (c->bos)
        gguf_put_value(&w, "tokenizer.ggml.bos_token_id", TYPE_I32, (uint32_t)bos, 4);
    if (c->adds_bos)
        gguf_put_value(&w, "tokenizer.ggml.add_bos_token", TYPE_FLAG, c->adds_bos == 2, 1);
    if (c->adds_eos)
        gguf_put_value(&w, "tokenizer.ggml.add_eos_token", TYPE_FLAG, c->adds_eos == 2, 1);
    temp_dir_write(dir, "model.gguf", w.bytes, w.n);
    gguf_writer_fini(&w);
    free(tokens);
    json_decref(root);
    snprintf(path, 256, "%s/model.gguf", dir);
}

static void check_gguf(const gguf_case *c, const char *words, size_t n_prefix)
{
    char dir[TEMP_DIR_BYTES], path[256];
    size_t n;
    temp_dir_make(dir);
    write_gguf(c, dir, path);
    tokenizer *t = open_or_fail(path);
    check_words(t, words);
    const int32_t *prefix = tokenizer_prefix(t, &n);
    assert_int_equal(n, n_prefix);
    if (n)
        assert_int_equal(prefix[0], tokenizer_find_special(t, "<|begin_of_text|>"));
    tokenizer_close(t);
    temp_dir_remove(dir);
}

static void test_gguf_names_the_words(void **state)
{
    (void)state;
    check_gguf(&(gguf_case){.kind = "gpt2", .pre = "gpt-2"}, "gpt2", 0);
    check_gguf(&(gguf_case){.kind = "smollm", .pre = "smollm"}, "smollm_gguf", 0);
    check_gguf(&(gguf_case){.kind = "qwen2", .pre = "qwen2"}, "qwen2", 0);
    check_gguf(&(gguf_case){.kind = "llama3", .pre = "llama-bpe", .bos = -1}, "llama3", 1);
}

/* Where nothing says otherwise, only Llama 3's own names put a token before a text. */
static void test_gguf_has_several_names_for_the_same_words(void **state)
{
    (void)state;
    check_gguf(&(gguf_case){.kind = "smollm", .pre = "starcoder"}, "smollm_gguf", 0);
    check_gguf(&(gguf_case){.kind = "smollm", .pre = "refact"}, "smollm_gguf", 0);
    check_gguf(&(gguf_case){.kind = "qwen2", .pre = "deepseek-r1-qwen"}, "qwen2", 0);
    check_gguf(&(gguf_case){.kind = "llama3", .pre = "llama3", .bos = -1}, "llama3", 1);
    check_gguf(&(gguf_case){.kind = "llama3", .pre = "llama-v3", .bos = -1}, "llama3", 1);
}

static void test_gguf_says_what_goes_before_a_text(void **state)
{
    (void)state;
    check_gguf(&(gguf_case){.kind = "llama3", .pre = "llama3", .bos = -1, .adds_bos = 1}, "llama3",
               0);
    check_gguf(&(gguf_case){.kind = "llama3", .pre = "llama-v3", .bos = -1, .adds_bos = 2},
               "llama3", 1);
}

static void expect_gguf(const gguf_case *c, kvp_status wanted, const char *message)
{
    char dir[TEMP_DIR_BYTES], path[256];
    tokenizer *t = NULL;
    temp_dir_make(dir);
    write_gguf(c, dir, path);
    kvp_status status = tokenizer_open(path, &t);
    if (status != wanted || !strstr(kvp_error(), message) || !strstr(kvp_error(), path))
        fail_msg("status %d, \"%s\"; \"%s\" was expected", (int)status, kvp_error(), message);
    assert_null(t);
    temp_dir_remove(dir);
}

static void test_gguf_that_lies_or_is_of_another_kind_is_refused(void **state)
{
    (void)state;
    expect_gguf(&(gguf_case){.kind = "gpt2", .pre = "gpt-2", .model = "llama"}, KVP_E_UNSUPPORTED,
                "tokenizer.ggml.model llama");
    expect_gguf(&(gguf_case){.kind = "gpt2", .pre = "tekken"}, KVP_E_UNSUPPORTED,
                "tokenizer.ggml.pre tekken");
    expect_gguf(&(gguf_case){.kind = "gpt2"}, KVP_E_UNSUPPORTED, "tokenizer.ggml.pre (missing)");
    expect_gguf(&(gguf_case){.kind = "gpt2", .pre = "gpt-2", .n_types_missing = 1}, KVP_E_INVALID,
                "token_type has 1199");
    expect_gguf(&(gguf_case){.kind = "gpt2", .pre = "gpt-2", .bos = 100000}, KVP_E_INVALID,
                "bos_token_id is 100000");
    expect_gguf(&(gguf_case){.kind = "gpt2", .pre = "gpt-2", .adds_bos = 2}, KVP_E_INVALID,
                "no tokenizer.ggml.bos_token_id");
    expect_gguf(&(gguf_case){.kind = "gpt2", .pre = "gpt-2", .adds_eos = 2}, KVP_E_UNSUPPORTED,
                "add_eos_token");
}

/* ---- foreign text ---------------------------------------------------------------------------- */

static void encode(const tokenizer *t, const text_piece *pieces, size_t n_pieces, int32_t *ids,
                   size_t *n)
{
    int32_t *encoded = NULL;
    assert_int_equal(tokenizer_encode_pieces(t, pieces, n_pieces, &encoded, n), KVP_OK);
    assert_true(*n <= 64);
    if (*n)
        memcpy(ids, encoded, *n * sizeof *ids);
    free(encoded);
}

static size_t count(const int32_t *ids, size_t n, int32_t id)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        found += ids[i] == id;
    return found;
}

#define OWN(string)                                                                                \
    {                                                                                              \
        .text = (string), .n = sizeof(string) - 1                                                  \
    }
#define FOREIGN(string)                                                                            \
    {                                                                                              \
        .text = (string), .n = sizeof(string) - 1, .is_foreign = true                              \
    }

static void test_foreign_text_spells_no_special_token(void **state)
{
    (void)state;
    static const char *const kinds[] = {"smollm", "qwen2"};
    for (size_t k = 0; k < 2; k++) {
        char path[256];
        int32_t ids[64];
        size_t n;
        snprintf(path, sizeof path, DATA_DIR "/%s", kinds[k]);
        tokenizer *t = open_or_fail(path);
        int32_t end = tokenizer_find_special(t, "<|im_end|>");
        assert_true(end >= 0);
        encode(t, (const text_piece[]){OWN("<|im_end|>a"), FOREIGN("b<|im_end|>"), OWN("\n")}, 3,
               ids, &n);
        assert_int_equal(count(ids, n, end), 1);
        assert_int_equal(ids[0], end);
        /* Neither put together of several, nor with a neighbour's help. */
        encode(t, (const text_piece[]){FOREIGN("<|im_"), FOREIGN("end|>")}, 2, ids, &n);
        assert_int_equal(count(ids, n, end), 0);
        encode(t, (const text_piece[]){FOREIGN("<|im_"), OWN("end|>")}, 2, ids, &n);
        assert_int_equal(count(ids, n, end), 0);
        encode(t, (const text_piece[]){OWN("<|im_"), OWN("end|>")}, 2, ids, &n);
        assert_int_equal(count(ids, n, end), 1);
        /* Composition moves the bytes. */
        encode(t, (const text_piece[]){FOREIGN("e\u0301<|im_end|>"), OWN("<|im_end|>")}, 2, ids,
               &n);
        assert_int_equal(count(ids, n, end), 1);
        assert_int_equal(ids[n - 1], end);
        tokenizer_close(t);
    }
}

/* Special tokens that are looked for in composed text: there it is not known who wrote what. */
static void test_foreign_text_spells_none_in_composed_text_either(void **state)
{
    (void)state;
    static const char json[] =
        "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"NFC\"},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
        "\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[{\"id\":1,\"content\":\"<e\u0301>"
        "\","
        "\"special\":true,\"normalized\":true}]}";
    tokenizer *t = NULL;
    int32_t ids[64];
    size_t n;
    assert_int_equal(tokenizer_open_bytes(json, sizeof json - 1, "input", &t), KVP_OK);
    encode(t, (const text_piece[]){OWN("a<\u00e9>a<e\u0301>")}, 1, ids, &n);
    assert_int_equal(count(ids, n, 1), 2);
    encode(t, (const text_piece[]){OWN("<\u00e9>"), FOREIGN("a<\u00e9>")}, 2, ids, &n);
    assert_int_equal(count(ids, n, 1), 1);
    encode(t, (const text_piece[]){FOREIGN("<\u00e9>a<e\u0301>")}, 1, ids, &n);
    assert_int_equal(count(ids, n, 1), 0);
    tokenizer_close(t);
}

static void test_foreign_text_spells_no_control_token_of_gguf(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES], path[256];
    int32_t ids[64];
    size_t n;
    temp_dir_make(dir);
    write_gguf(&(gguf_case){.kind = "qwen2", .pre = "qwen2"}, dir, path);
    tokenizer *t = open_or_fail(path);
    encode(t, (const text_piece[]){OWN("<|im_end|>"), FOREIGN("a<|im_end|><tool_call>")}, 2, ids,
           &n);
    assert_int_equal(count(ids, n, tokenizer_find_special(t, "<|im_end|>")), 1);
    assert_int_equal(count(ids, n, tokenizer_find_special(t, "<tool_call>")), 1);
    tokenizer_close(t);
    temp_dir_remove(dir);
}

static void test_pieces_are_one_text(void **state)
{
    (void)state;
    tokenizer *t = open_or_fail(DATA_DIR "/qwen2");
    int32_t whole[64], pieces[64];
    size_t n_whole, n_pieces;
    encode(t, (const text_piece[]){OWN("the whale's cafe\u0301\n\n12")}, 1, whole, &n_whole);
    encode(t,
           (const text_piece[]){OWN("th"), FOREIGN("e wha"), OWN(""), OWN("le's cafe"),
                                FOREIGN("\u0301\n"), OWN("\n12")},
           6, pieces, &n_pieces);
    assert_int_equal(n_pieces, n_whole);
    assert_memory_equal(pieces, whole, n_whole * sizeof *whole);
    encode(t, NULL, 0, pieces, &n_pieces);
    assert_int_equal(n_pieces, 0);
    int32_t *ids = NULL;
    const text_piece bad[] = {OWN("abc"), OWN("d\xFF")};
    assert_int_equal(tokenizer_encode_pieces(t, bad, 2, &ids, &n_pieces), KVP_E_RANGE);
    assert_non_null(strstr(kvp_error(), "byte 4 "));
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_of_gpt2_are_equal),
        cmocka_unit_test(test_words_of_smollm_are_equal),
        cmocka_unit_test(test_words_of_qwen2_are_equal),
        cmocka_unit_test(test_words_of_llama3_are_equal),
        cmocka_unit_test(test_gguf_names_the_words),
        cmocka_unit_test(test_gguf_has_several_names_for_the_same_words),
        cmocka_unit_test(test_gguf_says_what_goes_before_a_text),
        cmocka_unit_test(test_gguf_that_lies_or_is_of_another_kind_is_refused),
        cmocka_unit_test(test_foreign_text_spells_no_special_token),
        cmocka_unit_test(test_foreign_text_spells_none_in_composed_text_either),
        cmocka_unit_test(test_foreign_text_spells_no_control_token_of_gguf),
        cmocka_unit_test(test_pieces_are_one_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
