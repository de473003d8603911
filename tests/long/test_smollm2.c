/* test_smollm2.c - SmolLM2-135M-Instruct (a Llama, Q4_1 in GGUF) against Hugging Face transformers
 * (float32 weights and KV). */
#include "tests/support/golden_model.h"
#include "tests/support/smollm2.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

#define TOLERANCE 5e-3

static int setup(void **state)
{
    *state = calloc(1, sizeof(golden_model));
    golden_model_open(*state, smollm2_path(), SMOLLM2_GOLDEN, KVP_F32);
    return 0;
}

static int teardown(void **state)
{
    golden_model_close(*state);
    free(*state);
    return 0;
}

static void test_shape_is_read(void **state)
{
    const golden_model *g = *state;
    assert_string_equal(g->info->architecture, "llama");
    assert_int_equal(g->info->n_layers, 30);
    assert_int_equal(g->info->n_heads, 9);
    assert_int_equal(g->info->n_kv_heads, 3);
    assert_int_equal(g->info->head_dim, 64);
    assert_int_equal(g->info->n_vocab, 49152);
    assert_int_equal(g->info->n_ctx, 8192);
    assert_true(g->info->has_rope);
    assert_true(g->info->weights_bytes >= 134515008u * 4u && g->info->weights_bytes < 515u << 20);
}

static void test_prefill_logits_equal_golden(void **state)
{
    golden_model *g = *state;
    size_t n_checked;
    golden_model_forward(g, g->tokens, g->n_tokens, g->logits, g->n_tokens);
    double difference = golden_model_difference(g, 0, &n_checked);
    print_message("largest logit error: %.2e\n", difference);
    assert_int_equal(n_checked, 8);
    assert_true(difference <= TOLERANCE);
    golden_model_check_top8(g, TOLERANCE);
    golden_model_check_nll(g, TOLERANCE);
}

static void test_decode_token_by_token_equals_golden(void **state)
{
    golden_model *g = *state;
    size_t n_checked, first = 480, n_vocab = g->info->n_vocab;
    golden_model_forward(g, g->tokens, first, NULL, 0);
    for (size_t i = first; i < g->n_tokens; i++)
        golden_model_forward(g, g->tokens + i, 1, g->logits + i * n_vocab, 1);
    double difference = golden_model_difference(g, first, &n_checked);
    print_message("largest logit error: %.2e\n", difference);
    assert_int_equal(n_checked, 2);
    assert_true(difference <= TOLERANCE);
}

static void test_greedy_tokens_equal_golden(void **state)
{
    golden_model *g = *state;
    const json_t *greedy = json_object_get(g->golden, "greedy");
    assert_int_equal(golden_model_check_greedy(g, greedy, g->tokens, 0), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_shape_is_read),
        CASE(test_prefill_logits_equal_golden),
        CASE(test_decode_token_by_token_equals_golden),
        CASE(test_greedy_tokens_equal_golden),
    };
    smollm2_skip_if_missing();
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
