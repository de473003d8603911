/* test_gpt2.c - the demo model against Hugging Face transformers (float32 weights and KV).
 *
 * Linked twice: with the library (test_gpt2), and with tests/support/flat_kv.c in its place
 * (test_gpt2_flat), which tells apart errors of the model and errors of the pager. */
#include "tests/support/golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE 2e-3
/* Scores of this model reach 3,200, where float32 rounds to 2e-4: every float32 forward is some
 * 1e-3 off, the goldens too (2.8e-3 from float64 among the top-8 logits). */
#define GOLDEN_NOISE 6e-3

static int setup(void **state)
{
    *state = calloc(1, sizeof(golden_model));
    golden_model_open(*state, DEMO_DIR, DEMO_GOLDEN, KVP_F32);
    return 0;
}

static int setup_bf16(void **state)
{
    *state = calloc(1, sizeof(golden_model));
    golden_model_open(*state, DEMO_DIR, DEMO_GOLDEN, KVP_BF16);
    return 0;
}

static int teardown(void **state)
{
    golden_model_close(*state);
    free(*state);
    return 0;
}

/* ---- logits ---------------------------------------------------------------------------------- */

static void test_prefill_logits_equal_golden(void **state)
{
    golden_model *f = *state;
    size_t n_checked;
    golden_model_forward(f, f->tokens, f->n_tokens, f->logits, f->n_tokens);
    double difference = golden_model_difference(f, 0, &n_checked);
    print_message("largest logit error: %.2e\n", difference);
    assert_int_equal(n_checked, 8);
    assert_true(difference <= TOLERANCE);
    golden_model_check_top8(f, GOLDEN_NOISE);
    golden_model_check_nll(f, GOLDEN_NOISE);
}

static void test_decode_token_by_token_equals_golden(void **state)
{
    golden_model *f = *state;
    size_t n_checked, first = 60, n_vocab = f->info->n_vocab;
    golden_model_forward(f, f->tokens, first, NULL, 0);
    for (size_t i = first; i < f->n_tokens; i++)
        golden_model_forward(f, f->tokens + i, 1, f->logits + i * n_vocab, 1);
    double difference = golden_model_difference(f, first, &n_checked);
    print_message("largest logit error: %.2e\n", difference);
    assert_int_equal(n_checked, 6);
    assert_true(difference <= TOLERANCE);
    assert_int_equal(kvp_seq_length(f->seq), f->n_tokens);
}

/* Uneven pieces cross chunk and page borders in other places than one prefill does. */
static void test_prefill_in_pieces_equals_golden(void **state)
{
    golden_model *f = *state;
    static const size_t pieces[] = {1, 130, 63, 257, 61};
    size_t n_checked, at = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; at += pieces[i++])
        golden_model_forward(f, f->tokens + at, pieces[i], f->logits + at * f->info->n_vocab,
                             pieces[i]);
    assert_int_equal(at, f->n_tokens);
    assert_true(golden_model_difference(f, 0, &n_checked) <= TOLERANCE);
    assert_int_equal(n_checked, 8);
}

static void test_last_logits_alone_equal_those_of_all(void **state)
{
    golden_model *f = *state;
    static const size_t counts[] = {200, 1};
    size_t n_vocab = f->info->n_vocab;
    float *some = malloc(counts[0] * n_vocab * sizeof *some);
    golden_model_forward(f, f->tokens, f->n_tokens, f->logits, f->n_tokens);
    for (size_t i = 0; i < 2; i++) {
        need(kvp_seq_truncate(f->seq, 0));
        golden_model_forward(f, f->tokens, f->n_tokens, some, counts[i]);
        const float *all = f->logits + (f->n_tokens - counts[i]) * n_vocab;
        assert_true(max_difference(some, all, counts[i] * n_vocab) <= TOLERANCE / 10);
    }
    free(some);
}

static void test_same_calls_give_same_bits(void **state)
{
    golden_model *f = *state;
    size_t n_vocab = f->info->n_vocab;
    float *first = malloc(4 * n_vocab * sizeof *first);
    for (int round = 0; round < 2; round++) {
        float *to = round ? f->logits : first;
        need(kvp_seq_truncate(f->seq, 0));
        golden_model_forward(f, f->tokens, 300, to, 1);
        for (size_t i = 1; i < 4; i++)
            golden_model_forward(f, f->tokens + 299 + i, 1, to + i * n_vocab, 1);
    }
    assert_memory_equal(first, f->logits, 4 * n_vocab * sizeof *first);
    free(first);
}

/* ---- greedy tokens --------------------------------------------------------------------------- */

static void test_greedy_tokens_equal_golden(void **state)
{
    golden_model *f = *state;
    assert_int_equal(
        golden_model_check_greedy(f, json_object_get(f->golden, "greedy"), f->tokens, 0), 0);
}

static void test_greedy_tokens_past_context_equal_golden(void **state)
{
    golden_model *f = *state;
    const json_t *golden = json_object_get(f->golden, "greedy_past_context");
    size_t n_text, window = (size_t)json_integer_value(json_object_get(golden, "window"));
    int32_t *text = golden_ids(json_object_get(f->golden, "rolling"), "token_ids", &n_text);
    assert_true(n_text >= 1000);
    assert_int_equal(golden_model_check_greedy(f, golden, text, window), 1);
    free(text);
}

/* ---- bf16 weights ---------------------------------------------------------------------------- */

/* bf16 keeps 8 bits: predictions shift a little, and must not shift more. */
static void test_bf16_weights_predict_nearly_the_same(void **state)
{
    golden_model *f = *state;
    size_t n, n_vocab = f->info->n_vocab;
    double *golden = golden_numbers(f->golden, "nll_per_token", &n), difference = 0;
    golden_model_forward(f, f->tokens, f->n_tokens, f->logits, f->n_tokens);
    for (size_t i = 0; i < n; i++)
        difference += nll_of(f->logits + i * n_vocab, n_vocab, f->tokens[i + 1]) - golden[i];
    difference /= (double)n;
    print_message("mean NLL with bf16 weights: %+.4f\n", difference);
    assert_true(fabs(difference) <= 0.01);
    assert_true(f->info->weights_bytes < 16u << 20);
    free(golden);
}

/* ---- limits ---------------------------------------------------------------------------------- */

static void test_positions_beyond_context_are_refused(void **state)
{
    golden_model *f = *state;
    int32_t tokens[1025] = {0};
    model_forward_args args = {.tokens = tokens, .n_tokens = 1025};
    assert_int_equal(model_forward(f->m, f->seq, &args), KVP_E_RANGE);
    assert_int_equal(kvp_seq_length(f->seq), 0);
    args.n_tokens = 1024;
    need(model_forward(f->m, f->seq, &args));
    args.n_tokens = 1;
    assert_int_equal(model_forward(f->m, f->seq, &args), KVP_E_RANGE);
    assert_int_equal(kvp_seq_length(f->seq), 1024);
}

static void test_token_outside_vocabulary_is_refused(void **state)
{
    golden_model *f = *state;
    static const int32_t bad[] = {-1, 8192};
    for (size_t i = 0; i < 2; i++) {
        const int32_t tokens[] = {1, bad[i]};
        const model_forward_args args = {.tokens = tokens, .n_tokens = 2};
        assert_int_equal(model_forward(f->m, f->seq, &args), KVP_E_RANGE);
        assert_non_null(strstr(kvp_error(), "token 1"));
        assert_int_equal(kvp_seq_length(f->seq), 0);
    }
}

typedef struct progress {
    size_t calls, stop_after;
} progress;

static bool count_progress(void *opaque, size_t done, size_t total)
{
    progress *p = opaque;
    assert_int_equal(total, 6);
    assert_int_equal(done, ++p->calls);
    return p->calls < p->stop_after;
}

static void test_progress_reports_layers_and_can_stop(void **state)
{
    golden_model *f = *state;
    progress p = {.stop_after = 100};
    const model_forward_args args = {
        .tokens = f->tokens, .n_tokens = 10, .progress = count_progress, .progress_opaque = &p};
    need(model_forward(f->m, f->seq, &args));
    assert_int_equal(p.calls, 6);
    p = (progress){.stop_after = 2};
    assert_int_equal(model_forward(f->m, f->seq, &args), KVP_E_AGAIN);
    assert_int_equal(p.calls, 2);
    need(kvp_seq_truncate(f->seq, 10));
    assert_int_equal(kvp_seq_length(f->seq), 10);
}

static void test_info_and_workspace_are_real(void **state)
{
    golden_model *f = *state;
    assert_string_equal(f->info->architecture, "gpt2");
    assert_int_equal(f->info->n_layers, 6);
    assert_int_equal(f->info->head_dim, 64);
    assert_int_equal(f->info->n_eos, 1);
    assert_int_equal(f->info->eos_ids[0], 0);
    assert_true(f->info->weights_bytes >= 7098112u * 4 && f->info->weights_bytes < 29u << 20);
    assert_int_equal(model_workspace_bytes(f->m), 0);
    golden_model_forward(f, f->tokens, 400, NULL, 0);
    uint64_t bytes = model_workspace_bytes(f->m);
    assert_true(bytes >= 400u * 256 * 4);
    need(kvp_seq_truncate(f->seq, 0));
    golden_model_forward(f, f->tokens, 100, NULL, 0);
    assert_int_equal(model_workspace_bytes(f->m), bytes);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_prefill_logits_equal_golden),
        CASE(test_decode_token_by_token_equals_golden),
        CASE(test_prefill_in_pieces_equals_golden),
        CASE(test_last_logits_alone_equal_those_of_all),
        CASE(test_same_calls_give_same_bits),
        CASE(test_greedy_tokens_equal_golden),
        CASE(test_greedy_tokens_past_context_equal_golden),
        cmocka_unit_test_setup_teardown(test_bf16_weights_predict_nearly_the_same, setup_bf16,
                                        teardown),
        CASE(test_positions_beyond_context_are_refused),
        CASE(test_token_outside_vocabulary_is_refused),
        CASE(test_progress_reports_layers_and_can_stop),
        CASE(test_info_and_workspace_are_real),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
