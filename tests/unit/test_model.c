/* test_model.c - GPT-2 folders with the quirks of published ones, and folders that contradict
 * themselves. Links tests/support/flat_kv.c in place of the library. */
#include "integration/models/model.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_gpt2.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N 13u
#define MAX_LOGITS (N * 16u)

static const int32_t tokens[N] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 10};

static int setup(void **state)
{
    *state = malloc(TEMP_DIR_BYTES);
    temp_dir_make(*state);
    return 0;
}

static int teardown(void **state)
{
    temp_dir_remove(*state);
    free(*state);
    return 0;
}

static void need(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

/* Logits of all tokens, through the folder. */
static uint64_t run(const char *dir, const tiny_gpt2 *t, kvp_dtype weights, float *logits)
{
    model *m = NULL;
    kvp_pager *pager;
    kvp_seq *seq;
    const model_options options = {.weights = weights, .n_threads = 2};
    tiny_gpt2_write(dir, t);
    need(model_open(dir, &options, &m));
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(m), KVP_F32, 0);
    need(kvp_pager_open(&cfg, &pager));
    need(kvp_seq_create(pager, &seq));
    const model_forward_args args = {
        .tokens = tokens, .n_tokens = N, .logits = logits, .n_logits = N};
    need(model_forward(m, seq, &args));
    uint64_t fingerprint = model_get_info(m)->fingerprint;
    kvp_seq_destroy(seq);
    kvp_pager_close(pager);
    model_close(m);
    return fingerprint;
}

static void check(const char *dir, const tiny_gpt2 *t, bool by_width, bool by_layer)
{
    float got[MAX_LOGITS];
    double wanted[MAX_LOGITS];
    run(dir, t, KVP_F32, got);
    tiny_gpt2_forward(t, tokens, N, by_width, by_layer, wanted);
    for (size_t i = 0; i < N * t->n_vocab; i++)
        assert_true(fabs((double)got[i] - wanted[i]) <= 2e-5);
}

/* ---- what is computed ------------------------------------------------------------------------ */

static void test_forward_equals_float64(void **state)
{
    tiny_gpt2 t = tiny_gpt2_default();
    check(*state, &t, true, false);
    t.n_layers = 1;
    t.n_heads = 1;
    check(*state, &t, true, false);
}

static void test_inner_width_and_untied_head_are_used(void **state)
{
    tiny_gpt2 t = tiny_gpt2_default();
    t.d_inner = 20;
    check(*state, &t, true, false);
    t.is_untied = true;
    check(*state, &t, true, false);
}

static void test_attention_scale_flags_are_used(void **state)
{
    tiny_gpt2 t = tiny_gpt2_default();
    t.config_extra = ",\"scale_attn_weights\":false";
    check(*state, &t, false, false);
    t.config_extra = ",\"scale_attn_by_inverse_layer_idx\":true";
    check(*state, &t, true, true);
}

static void test_quirks_do_not_change_a_bit(void **state)
{
    float plain[MAX_LOGITS], quirky[MAX_LOGITS];
    tiny_gpt2 t = tiny_gpt2_default();
    size_t bytes = N * t.n_vocab * sizeof *plain;
    run(*state, &t, KVP_F32, plain);
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    for (size_t i = 0; i < 3; i++) {
        t.dtype = dtypes[i];
        t.prefix = i % 2 ? "transformer." : "";
        t.has_buffers = true;
        memset(quirky, 0, bytes);
        run(*state, &t, KVP_F32, quirky);
        assert_memory_equal(plain, quirky, bytes);
    }
}

static void test_unused_tensors_outside_layers_are_ignored(void **state)
{
    float plain[MAX_LOGITS], other[MAX_LOGITS];
    tiny_gpt2 t = tiny_gpt2_default();
    run(*state, &t, KVP_F32, plain);
    t.added = "score.weight";
    run(*state, &t, KVP_F32, other);
    assert_memory_equal(plain, other, N * t.n_vocab * sizeof *plain);
}

/* These weights are exact in bf16, so only activations are rounded. */
static void test_bf16_weights_are_near_whatever_the_file_has(void **state)
{
    float plain[MAX_LOGITS], first[MAX_LOGITS], got[MAX_LOGITS];
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    tiny_gpt2 t = tiny_gpt2_default();
    run(*state, &t, KVP_F32, plain);
    for (size_t k = 0; k < 3; k++) {
        t.dtype = dtypes[k];
        run(*state, &t, KVP_BF16, k ? got : first);
        for (size_t i = 0; i < N * t.n_vocab; i++)
            assert_true(fabsf(first[i] - plain[i]) <= 0.1f);
        if (k)
            assert_memory_equal(first, got, N * t.n_vocab * sizeof *got);
    }
}

static void test_fingerprint_tells_recipes_apart(void **state)
{
    float logits[MAX_LOGITS];
    tiny_gpt2 t = tiny_gpt2_default();
    uint64_t first = run(*state, &t, KVP_F32, logits);
    assert_true(first == run(*state, &t, KVP_F32, logits));
    assert_true(first != run(*state, &t, KVP_BF16, logits));
    t.config_extra = ",\"scale_attn_weights\":false";
    assert_true(first != run(*state, &t, KVP_F32, logits));
    t.config_extra = NULL;
    t.added = "more";
    assert_true(first != run(*state, &t, KVP_F32, logits));
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void refused(const char *dir, kvp_status wanted, const char *message)
{
    model *m = NULL;
    kvp_status status = model_open(dir, NULL, &m);
    if (status != wanted || !strstr(kvp_error(), message))
        fail_msg("status %d, \"%s\"; \"%s\" was expected", (int)status, kvp_error(), message);
    assert_null(m);
}

static void refused_tiny(const char *dir, const tiny_gpt2 *t, kvp_status wanted,
                         const char *message)
{
    tiny_gpt2_write(dir, t);
    refused(dir, wanted, message);
}

static void test_missing_tensors_are_named(void **state)
{
    static const char *const names[] = {"wte.weight", "wpe.weight", "h.0.attn.c_attn.weight",
                                        "h.1.mlp.c_proj.bias", "ln_f.bias"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny_gpt2 t = tiny_gpt2_default();
        t.left_out = names[i];
        refused_tiny(*state, &t, KVP_E_INVALID, names[i]);
    }
    tiny_gpt2 t = tiny_gpt2_default();
    t.is_untied = true;
    t.left_out = "lm_head.weight";
    refused_tiny(*state, &t, KVP_E_INVALID, "lm_head.weight");
}

static void test_config_that_contradicts_weights_is_named(void **state)
{
    tiny_gpt2 t = tiny_gpt2_default();
    t.config_layers = 3;
    refused_tiny(*state, &t, KVP_E_INVALID, "h.2.ln_1.weight");
    t.config_layers = 1;
    refused_tiny(*state, &t, KVP_E_INVALID, "h.1.");
    t = tiny_gpt2_default();
    t.config_extra = ",\"n_inner\":16";
    refused_tiny(*state, &t, KVP_E_INVALID,
                 "h.0.mlp.c_fc.weight\" has the shape [8, 32]; config.json calls for [8, 16]");
}

static void test_layer_parts_that_the_forward_lacks_are_named(void **state)
{
    static const char *const names[] = {"h.0.crossattention.c_attn.weight",
                                        "transformer.h.1.attn.c_attn.lora_A", "h.x.ln_1.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny_gpt2 t = tiny_gpt2_default();
        t.added = names[i];
        refused_tiny(*state, &t, KVP_E_UNSUPPORTED, names[i]);
    }
}

static void test_weights_that_are_no_floats_are_refused(void **state)
{
    tiny_gpt2 t = tiny_gpt2_default();
    t.dtype = "I16"; /* two bytes, as the writer makes them */
    refused_tiny(*state, &t, KVP_E_UNSUPPORTED, "is I16");
}

static void test_other_models_are_unsupported(void **state)
{
    const char *dir = *state;
    tiny_gpt2 t = tiny_gpt2_default();
    tiny_gpt2_write(dir, &t);
    temp_dir_write_text(dir, "config.json", "{\"model_type\":\"bert\"}");
    refused(dir, KVP_E_UNSUPPORTED,
            "\"bert\" is not supported (gpt2, llama, mistral, qwen2 and opt are)");
    temp_dir_write_text(dir, "config.json", "{}");
    refused(dir, KVP_E_UNSUPPORTED, "(none)");
    temp_dir_write_text(dir, "config.json", "{\"architectures\":[\"GPT2Model\"]}");
    refused(dir, KVP_E_INVALID, "\"n_layer\" is missing");
}

static void test_missing_files_are_named(void **state)
{
    const char *dir = *state;
    refused("/nonexistent", KVP_E_IO, "/nonexistent: no such folder");
    refused(dir, KVP_E_IO, "config.json");
    temp_dir_write_text(dir, "config.json", "{\"model_type\":\"gpt2\"");
    refused(dir, KVP_E_INVALID, "bad JSON");
    temp_dir_write_text(dir, "config.json", "{\"model_type\":\"gpt2\"}");
    refused(dir, KVP_E_IO, "model.safetensors: No such file");
    temp_dir_write_text(dir, "pytorch_model.bin", "");
    refused(dir, KVP_E_UNSUPPORTED, "convert it to model.safetensors");
    temp_dir_write_text(dir, "model.safetensors.index.json", "{}");
    refused(dir, KVP_E_INVALID, "names no tensors");
    temp_dir_write_text(dir, "model.safetensors", "x");
    refused(dir, KVP_E_CORRUPT, "too few");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_forward_equals_float64),
        CASE(test_inner_width_and_untied_head_are_used),
        CASE(test_attention_scale_flags_are_used),
        CASE(test_quirks_do_not_change_a_bit),
        CASE(test_unused_tensors_outside_layers_are_ignored),
        CASE(test_bf16_weights_are_near_whatever_the_file_has),
        CASE(test_fingerprint_tells_recipes_apart),
        CASE(test_missing_tensors_are_named),
        CASE(test_config_that_contradicts_weights_is_named),
        CASE(test_layer_parts_that_the_forward_lacks_are_named),
        CASE(test_weights_that_are_no_floats_are_refused),
        CASE(test_other_models_are_unsupported),
        CASE(test_missing_files_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
