/* test_config.c - config.json of GPT-2: what is read, what is refused and how. */
#include "integration/models/arch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SIZES "\"n_layer\":12,\"n_head\":12,\"n_embd\":768,\"vocab_size\":50257"
#define GOOD SIZES ",\"n_positions\":1024"

static kvp_status read_config(const char *members, decoder_config *out)
{
    json_t *root = NULL;
    char text[1024];
    snprintf(text, sizeof text, "{%s}", members);
    assert_int_equal(json_parse_object(text, strlen(text), "config.json", KVP_E_INVALID, &root),
                     KVP_OK);
    const config_file file = {.root = root, .where = "config.json"};
    kvp_status status = gpt2_arch.read_config(&file, out);
    json_decref(root);
    return status;
}

static decoder_config good(const char *members)
{
    decoder_config c = {0};
    if (read_config(members, &c))
        fail_msg("%s: %s", members, kvp_error());
    return c;
}

static void refused(const char *members, kvp_status wanted, const char *message)
{
    decoder_config c = {.n_layers = 77};
    kvp_status status = read_config(members, &c);
    if (status != wanted || !strstr(kvp_error(), message) || !strstr(kvp_error(), "config.json"))
        fail_msg("%s: status %d, \"%s\"", members, (int)status, kvp_error());
    assert_int_equal(c.n_layers, 77);
}

/* The published model's config has no n_inner, no n_ctx in newer copies, no flags. */
static void test_published_config_takes_defaults(void **state)
{
    (void)state;
    decoder_config c = good(GOOD);
    assert_int_equal(c.n_layers, 12);
    assert_int_equal(c.n_heads, 12);
    assert_int_equal(c.d_model, 768);
    assert_int_equal(c.d_inner, 3072);
    assert_int_equal(c.n_ctx, 1024);
    assert_int_equal(c.n_vocab, 50257);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_ids[0], 50256);
    assert_true(fabsf(c.epsilon - 1e-5f) <= 1e-12f);
    assert_true(fabsf(c.scale - 0.125f) <= 1e-7f);
    assert_true(!c.scale_by_layer && c.tied);
}

static void test_members_override_defaults(void **state)
{
    (void)state;
    decoder_config c = good(GOOD ",\"n_inner\":100,\"layer_norm_epsilon\":1e-6,\"eos_token_id\":5,"
                                 "\"scale_attn_weights\":false,\"tie_word_embeddings\":false,"
                                 "\"scale_attn_by_inverse_layer_idx\":true,"
                                 "\"reorder_and_upcast_attn\":true,"
                                 "\"activation_function\":\"gelu_pytorch_tanh\"");
    assert_int_equal(c.d_inner, 100);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_ids[0], 5);
    assert_true(fabsf(c.epsilon - 1e-6f) <= 1e-13f);
    assert_true(c.scale == 1.0f && c.scale_by_layer && !c.tied);
    assert_int_equal(good(GOOD ",\"n_inner\":null").d_inner, 3072);
    assert_int_equal(good(GOOD ",\"eos_token_id\":null").n_eos, 0);
}

static void test_n_positions_goes_before_n_ctx(void **state)
{
    (void)state;
    assert_int_equal(good(SIZES ",\"n_ctx\":512").n_ctx, 512);
    assert_int_equal(good(GOOD ",\"n_ctx\":512").n_ctx, 1024);
}

static void test_wrong_members_are_named(void **state)
{
    (void)state;
    refused(SIZES, KVP_E_INVALID, "\"n_ctx\" is missing");
    refused("\"n_layer\":2", KVP_E_INVALID, "\"n_embd\" is missing");
    refused(SIZES ",\"n_positions\":0", KVP_E_INVALID, "\"n_positions\" is 0");
    refused(SIZES ",\"n_positions\":-1", KVP_E_INVALID, "\"n_positions\" is -1");
    refused(SIZES ",\"n_positions\":\"1024\"", KVP_E_INVALID, "not a whole number");
    refused(SIZES ",\"n_positions\":1024.0", KVP_E_INVALID, "not a whole number");
    refused(SIZES ",\"n_positions\":4294967297", KVP_E_INVALID, "must lie in");
    refused(GOOD ",\"layer_norm_epsilon\":0", KVP_E_INVALID, "layer_norm_epsilon");
    refused(GOOD ",\"layer_norm_epsilon\":\"x\"", KVP_E_INVALID, "not a number");
    refused(GOOD ",\"scale_attn_weights\":1", KVP_E_INVALID, "neither true nor false");
    refused(GOOD ",\"n_inner\":0", KVP_E_INVALID, "n_inner");
    refused(GOOD ",\"eos_token_id\":-1", KVP_E_INVALID, "eos_token_id");
    refused(GOOD ",\"eos_token_id\":50257", KVP_E_INVALID, "eos_token_id");
}

static void test_heads_must_divide_width(void **state)
{
    (void)state;
    refused("\"n_layer\":2,\"n_head\":5,\"n_embd\":768,\"vocab_size\":9,\"n_ctx\":8", KVP_E_INVALID,
            "\"n_embd\" 768 is not a multiple of \"n_head\" 5");
}

static void test_flags_this_forward_lacks_are_named(void **state)
{
    (void)state;
    refused(GOOD ",\"activation_function\":\"relu\"", KVP_E_UNSUPPORTED, "relu");
    refused(GOOD ",\"activation_function\":\"gelu\"", KVP_E_UNSUPPORTED, "gelu_new");
    refused(GOOD ",\"add_cross_attention\":true", KVP_E_UNSUPPORTED, "add_cross_attention");
    refused(GOOD ",\"pruned_heads\":{\"0\":[1]}", KVP_E_UNSUPPORTED, "pruned_heads");
    refused(GOOD ",\"quantization_config\":{\"bits\":4}", KVP_E_UNSUPPORTED, "quantization_config");
    refused(GOOD ",\"architectures\":[\"GPT2ForSequenceClassification\"]", KVP_E_UNSUPPORTED,
            "LMHeadModel");
    (void)good(GOOD ",\"architectures\":[\"GPT2Model\"],\"pruned_heads\":{},"
                    "\"add_cross_attention\":false,\"quantization_config\":null");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_config_takes_defaults),
        cmocka_unit_test(test_members_override_defaults),
        cmocka_unit_test(test_n_positions_goes_before_n_ctx),
        cmocka_unit_test(test_wrong_members_are_named),
        cmocka_unit_test(test_heads_must_divide_width),
        cmocka_unit_test(test_flags_this_forward_lacks_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
