/* test_gguf_config.c - metadata of GGUF files as config.json: what is said, what is refused. Whole
 * models: tests/parity/test_architectures.c. */
#include "integration/models/gguf_config.h"
#include "tests/support/gguf_writer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

/* GGUF's numbers of types. */
enum { U32 = 4, I32 = 5, F32 = 6, FLAG = 7, TEXT = 8 };

typedef struct file {
    gguf_writer body;
    uint64_t n_values;
} file;

static void put_int(file *f, const char *key, int32_t value)
{
    gguf_put_value(&f->body, key, I32, (uint32_t)value, 4);
    f->n_values++;
}

static void put_float(file *f, const char *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    gguf_put_value(&f->body, key, F32, bits, 4);
    f->n_values++;
}

static void put_text(file *f, const char *key, const char *text)
{
    gguf_put_key(&f->body, key, TEXT);
    gguf_put_text(&f->body, text);
    f->n_values++;
}

static void put_ints(file *f, const char *key)
{
    gguf_put_array(&f->body, key, I32, 2);
    gguf_put_u32(&f->body, 3);
    gguf_put_u32(&f->body, 4);
    f->n_values++;
}

/* A Llama's, but for keys that begin with `without`. */
static file llama_without(const char *without)
{
    static const struct {
        const char *key;
        int32_t value;
    } ints[] = {{"llama.block_count", 3},           {"llama.embedding_length", 96},
                {"llama.feed_forward_length", 200}, {"llama.context_length", 2048},
                {"llama.attention.head_count", 6},  {"llama.vocab_size", 300}};
    file f = {0};
    put_text(&f, "general.architecture", "llama");
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        if (!without || strncmp(ints[i].key, without, strlen(without)) != 0)
            put_int(&f, ints[i].key, ints[i].value);
    }
    put_float(&f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    return f;
}

/* Takes the file over. */
static kvp_status read(file *f, json_t **out)
{
    gguf_writer w = {0};
    gguf *g = NULL;
    gguf_put_header(&w, 0, f->n_values);
    gguf_put(&w, f->body.bytes, f->body.n);
    kvp_status status = gguf_open_bytes(w.bytes, w.n, "x.gguf", &g);
    if (!status)
        status = gguf_config(g, out);
    gguf_close(g);
    gguf_writer_fini(&w);
    gguf_writer_fini(&f->body);
    return status;
}

static json_t *good(file *f)
{
    json_t *config = NULL;
    if (read(f, &config))
        fail_msg("%s", kvp_error());
    return config;
}

static void refused(file *f, kvp_status wanted, const char *message)
{
    json_t *config = NULL;
    kvp_status status = read(f, &config);
    if (status != wanted || !strstr(kvp_error(), message) || !strstr(kvp_error(), "x.gguf"))
        fail_msg("status %d, \"%s\"; \"%s\" was expected", (int)status, kvp_error(), message);
    assert_null(config);
}

static json_int_t count(const json_t *config, const char *key)
{
    const json_t *json = json_object_get(config, key);
    assert_true(json_is_integer(json));
    return json_integer_value(json);
}

/* ---- what is said ---------------------------------------------------------------------------- */

static void test_sizes_get_the_names_of_config_json(void **state)
{
    (void)state;
    file f = llama_without(NULL);
    put_int(&f, "llama.attention.head_count_kv", 2);
    put_float(&f, "llama.rope.freq_base", 500000.0f);
    put_int(&f, "llama.rope.dimension_count", 16);
    json_t *c = good(&f);
    assert_true(json_is_text(json_object_get(c, "model_type"), "llama"));
    assert_int_equal(count(c, "num_hidden_layers"), 3);
    assert_int_equal(count(c, "hidden_size"), 96);
    assert_int_equal(count(c, "intermediate_size"), 200);
    assert_int_equal(count(c, "max_position_embeddings"), 2048);
    assert_int_equal(count(c, "num_attention_heads"), 6);
    assert_int_equal(count(c, "num_key_value_heads"), 2);
    assert_int_equal(count(c, "vocab_size"), 300);
    assert_true(json_number_value(json_object_get(c, "rope_theta")) == 500000);
    assert_true(json_is_true(json_object_get(c, "tie_word_embeddings"))); /* no output.weight */
    assert_true(json_is_false(json_object_get(c, "attention_bias")));
    assert_null(json_object_get(c, "rope.dimension_count")); /* all of a head */
    assert_null(json_object_get(c, "rope_scaling"));
    json_decref(c);
}

static void test_end_tokens_are_collected(void **state)
{
    (void)state;
    file f = llama_without(NULL);
    put_int(&f, "tokenizer.ggml.eos_token_id", 5);
    put_int(&f, "tokenizer.ggml.eot_token_id", 9);
    json_t *c = good(&f), *ids = json_object_get(c, "eos_token_id");
    assert_int_equal(json_array_size(ids), 2);
    assert_int_equal(json_integer_value(json_array_get(ids, 0)), 5);
    assert_int_equal(json_integer_value(json_array_get(ids, 1)), 9);
    json_decref(c);
}

static void test_rope_scaling_becomes_an_object(void **state)
{
    (void)state;
    file f = llama_without(NULL);
    put_text(&f, "llama.rope.scaling.type", "yarn");
    put_float(&f, "llama.rope.scaling.factor", 4.0f);
    put_int(&f, "llama.rope.scaling.original_context_length", 512);
    put_float(&f, "llama.rope.scaling.yarn_beta_fast", 8.0f);
    json_t *c = good(&f), *scaling = json_object_get(c, "rope_scaling");
    assert_true(json_is_text(json_object_get(scaling, "rope_type"), "yarn"));
    assert_true(json_number_value(json_object_get(scaling, "factor")) == 4);
    assert_true(json_number_value(json_object_get(scaling, "original_max_position_embeddings")) ==
                512);
    assert_true(json_number_value(json_object_get(scaling, "beta_fast")) == 8);
    assert_null(json_object_get(scaling, "beta_slow"));
    json_decref(c);
}

static void test_a_factor_alone_scales_linearly(void **state)
{
    (void)state;
    static const char *const keys[] = {"llama.rope.scaling.factor", "llama.rope.scale_linear"};
    for (size_t i = 0; i < 2; i++) {
        file f = llama_without(NULL);
        put_float(&f, keys[i], 2.5f);
        json_t *c = good(&f), *scaling = json_object_get(c, "rope_scaling");
        assert_true(json_is_text(json_object_get(scaling, "rope_type"), "linear"));
        assert_true(json_number_value(json_object_get(scaling, "factor")) == 2.5);
        json_decref(c);
        f = llama_without(NULL);
        put_float(&f, keys[i], (float)i); /* no scaling */
        c = good(&f);
        assert_null(json_object_get(c, "rope_scaling"));
        json_decref(c);
    }
}

static void test_partly_rotated_heads_are_said(void **state)
{
    (void)state;
    file f = llama_without(NULL);
    put_int(&f, "llama.rope.dimension_count", 10);
    json_t *c = good(&f);
    assert_int_equal(count(c, "rope.dimension_count"), 10);
    json_decref(c);
}

static void test_gpt2_has_names_of_its_own(void **state)
{
    (void)state;
    file f = {0};
    put_text(&f, "general.architecture", "gpt2");
    put_int(&f, "gpt2.block_count", 2);
    put_int(&f, "gpt2.embedding_length", 40);
    put_int(&f, "gpt2.feed_forward_length", 100);
    put_int(&f, "gpt2.context_length", 64);
    put_int(&f, "gpt2.attention.head_count", 5);
    put_float(&f, "gpt2.attention.layer_norm_epsilon", 1e-5f);
    put_text(&f, "tokenizer.ggml.model", "gpt2");
    gguf_put_array(&f.body, "tokenizer.ggml.tokens", TEXT, 2);
    gguf_put_text(&f.body, "a");
    gguf_put_text(&f.body, "b");
    f.n_values++;
    json_t *c = good(&f);
    assert_int_equal(count(c, "n_layer"), 2);
    assert_int_equal(count(c, "n_embd"), 40);
    assert_int_equal(count(c, "n_inner"), 100);
    assert_int_equal(count(c, "n_head"), 5);
    assert_int_equal(count(c, "n_positions"), 64);
    assert_int_equal(count(c, "vocab_size"), 2); /* of the tokenizer */
    assert_null(json_object_get(c, "num_attention_heads"));
    json_decref(c);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void test_missing_and_wrong_keys_are_named(void **state)
{
    (void)state;
    file f = {0};
    put_int(&f, "general.architecture", 1);
    refused(&f, KVP_E_INVALID, "\"general.architecture\" is missing or not a name");
    f = llama_without("llama.block_count");
    refused(&f, KVP_E_INVALID, "\"llama.block_count\" is missing");
    f = llama_without("llama.block_count");
    put_text(&f, "llama.block_count", "three");
    refused(&f, KVP_E_INVALID, "\"llama.block_count\" is not a whole number");
    f = llama_without(NULL);
    put_text(&f, "llama.rope.freq_base", "x");
    refused(&f, KVP_E_INVALID, "\"llama.rope.freq_base\" is not a number");
}

static void test_what_no_forward_here_has_is_named(void **state)
{
    (void)state;
    file f = llama_without("llama.attention.head_count");
    put_ints(&f, "llama.attention.head_count");
    refused(&f, KVP_E_UNSUPPORTED, "\"llama.attention.head_count\" differs by layer");
    f = llama_without(NULL);
    put_int(&f, "llama.expert_count", 8);
    refused(&f, KVP_E_UNSUPPORTED, "\"llama.expert_count\" is 8");
    f = llama_without(NULL);
    put_int(&f, "llama.attention.value_length", 8);
    refused(&f, KVP_E_UNSUPPORTED, "values of 8 elements");
    f = llama_without(NULL);
    put_float(&f, "llama.rope.scaling.attn_factor", 1.5f);
    refused(&f, KVP_E_UNSUPPORTED, "attn_factor\" is 1.5");
    f = llama_without(NULL);
    put_int(&f, "split.count", 3);
    refused(&f, KVP_E_UNSUPPORTED, "--merge");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_get_the_names_of_config_json),
        cmocka_unit_test(test_end_tokens_are_collected),
        cmocka_unit_test(test_rope_scaling_becomes_an_object),
        cmocka_unit_test(test_a_factor_alone_scales_linearly),
        cmocka_unit_test(test_partly_rotated_heads_are_said),
        cmocka_unit_test(test_gpt2_has_names_of_its_own),
        cmocka_unit_test(test_missing_and_wrong_keys_are_named),
        cmocka_unit_test(test_what_no_forward_here_has_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
