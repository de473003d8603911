/* test_open.c - tiny models whose files are changed, so that they contradict themselves or ask for
 * what is not there. GPT-2's: test_model.c. */
#include "integration/files/gguf.h"
#include "integration/models/model.h"
#include "tests/support/golden.h"
#include "tests/support/golden_model.h"
#include "tests/support/temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PATH 512
#define TINY KVP_SOURCE_DIR "/tests/data/tiny"

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

static unsigned char *read_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *n = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*n + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *n, file), *n);
    fclose(file);
    return bytes;
}

static void copy(const char *name, const char *file, const char *dir)
{
    char path[MAX_PATH];
    size_t n;
    snprintf(path, sizeof path, TINY "/%s/%s", name, file);
    unsigned char *bytes = read_file(path, &n);
    temp_dir_write(dir, file, bytes, n);
    free(bytes);
}

/* The folder, its config.json with other members (single quotes stand for double ones). */
static void change(const char *name, const char *dir, const char *members)
{
    char path[MAX_PATH], text[512];
    json_error_t error;
    snprintf(path, sizeof path, TINY "/%s/config.json", name);
    snprintf(text, sizeof text, "{%s}", members);
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    json_t *config = json_load_file(path, 0, &error), *changes = json_loads(text, 0, &error);
    assert_true(config && changes && json_object_update(config, changes) == 0);
    char *made = json_dumps(config, 0);
    temp_dir_write_text(dir, "config.json", made);
    copy(name, "model.safetensors", dir);
    free(made);
    json_decref(config);
    json_decref(changes);
}

/* model.gguf with `to` in place of what comes `skip` bytes behind the first `after`. */
static void change_gguf(const char *name, const char *dir, const char *after, size_t skip,
                        const char *to)
{
    char path[MAX_PATH];
    size_t n, m = strlen(after);
    snprintf(path, sizeof path, TINY "/%s/model.gguf", name);
    unsigned char *bytes = read_file(path, &n);
    for (size_t i = 0; i + m + skip + strlen(to) < n; i++) {
        if (memcmp(bytes + i, after, m) == 0) {
            memcpy(bytes + i + m + skip, to, strlen(to));
            temp_dir_write(dir, "model.gguf", bytes, n);
            free(bytes);
            return;
        }
    }
    fail_msg("%s is not in %s", after, path);
}

/* `to` in place of every `from` of model.safetensors; they are equally long. */
static void rename_tensors(const char *name, const char *dir, const char *from, const char *to)
{
    char path[MAX_PATH];
    size_t n, m = strlen(from), count = 0;
    assert_int_equal(strlen(to), m);
    snprintf(path, sizeof path, TINY "/%s/model.safetensors", name);
    unsigned char *bytes = read_file(path, &n);
    for (size_t i = 0; i + m <= n; i++) {
        if (memcmp(bytes + i, from, m) == 0) {
            memcpy(bytes + i, to, m);
            count++;
        }
    }
    assert_true(count > 0);
    temp_dir_write(dir, "model.safetensors", bytes, n);
    free(bytes);
}

static void refused(const char *dir, const char *file, const model_options *options,
                    kvp_status wanted, const char *message)
{
    char path[MAX_PATH];
    model *m = NULL;
    snprintf(path, sizeof path, "%s%s", dir, file);
    kvp_status status = model_open(path, options, &m);
    if (status != wanted || !strstr(kvp_error(), message))
        fail_msg("status %d, \"%s\"; \"%s\" was expected", (int)status, kvp_error(), message);
    assert_null(m);
    assert_true(model_open_hollow(path, options, 1, &m) == wanted && !m);
}

/* ---- folders --------------------------------------------------------------------------------- */

static void test_config_that_contradicts_weights_is_named(void **state)
{
    const char *dir = *state;
    change("qwen2", dir, "'vocab_size':132");
    refused(
        dir, "", NULL, KVP_E_INVALID,
        "\"model.embed_tokens.weight\" has the shape [131, 40]; config.json calls for [132, 40]");
    change("qwen2", dir, "'num_hidden_layers':3");
    refused(dir, "", NULL, KVP_E_INVALID, "model.layers.2.input_layernorm.weight");
    change("qwen2", dir, "'num_hidden_layers':1");
    refused(dir, "", NULL, KVP_E_INVALID, "which has 1 layers");
    change("qwen2", dir, "'num_key_value_heads':5");
    refused(dir, "", NULL, KVP_E_INVALID, "k_proj.weight\" has the shape [8, 40]");
    change("qwen2_tied", dir, "'tie_word_embeddings':false");
    refused(dir, "", NULL, KVP_E_INVALID, "\"lm_head.weight\", which config.json calls for");
    change("opt", dir, "'max_position_embeddings':255");
    refused(dir, "", NULL, KVP_E_INVALID, "embed_positions.weight\" has the shape [258, 48]");
}

static void test_biases_must_be_as_the_config_says(void **state)
{
    const char *dir = *state;
    change("llama_yarn", dir, "'attention_bias':true");
    refused(dir, "", NULL, KVP_E_INVALID, "self_attn.q_proj.bias");
    change("llama_linear", dir, "'attention_bias':false");
    refused(dir, "", NULL, KVP_E_UNSUPPORTED, "self_attn");
    change("llama_linear", dir, "'mlp_bias':false");
    refused(dir, "", NULL, KVP_E_UNSUPPORTED, "is not part of a layer of llama");
}

static void test_sliding_windows_must_not_matter(void **state)
{
    const char *dir = *state;
    model *m;
    const model_options few = {.n_ctx = 64};
    change("mistral", dir, "'sliding_window':64");
    refused(dir, "", NULL, KVP_E_UNSUPPORTED, "sliding window of 64 tokens");
    refused(dir, "", NULL, KVP_E_UNSUPPORTED, "--ctx 64 with --beyond rolling");
    need(model_open(dir, &few, &m));
    assert_int_equal(model_get_info(m)->n_ctx, 64);
    assert_string_equal(model_get_info(m)->architecture, "mistral");
    model_close(m);
    change("mistral", dir, "'sliding_window':256");
    need(model_open(dir, NULL, &m));
    model_close(m);
    change("qwen2", dir, "'use_sliding_window':true");
    refused(dir, "", NULL, KVP_E_UNSUPPORTED, "sliding window of 64 tokens");
}

/* White space before a name is none of it. */
static void test_outer_modules_may_lack_in_names(void **state)
{
    const char *dir = *state;
    model *m;
    copy("opt", "config.json", dir);
    rename_tensors("opt", dir, "\"model.decoder.", "      \"decoder.");
    need(model_open(dir, NULL, &m));
    model_close(m);
    rename_tensors("opt", dir, "\"model.decoder.", "              \"");
    need(model_open(dir, NULL, &m));
    model_close(m);
    rename_tensors("opt", dir, "\"model.decoder.", "\"other.decoder.");
    refused(dir, "", NULL, KVP_E_INVALID, "\"model.decoder.embed_tokens.weight\"");
}

/* Data of tensor `name` in the bytes of a safetensors file. */
static unsigned char *data_of(unsigned char *file, const char *name, size_t *n)
{
    uint64_t header;
    json_error_t error;
    memcpy(&header, file, sizeof header);
    json_t *root = json_loadb((char *)file + 8, header, 0, &error);
    const json_t *offsets = json_object_get(json_object_get(root, name), "data_offsets");
    assert_int_equal(json_array_size(offsets), 2);
    size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
    *n = (size_t)json_integer_value(json_array_get(offsets, 1)) - begin;
    json_decref(root);
    return file + 8 + header + begin;
}

static uint64_t weights_bytes(const char *dir)
{
    model *m;
    need(model_open(dir, NULL, &m));
    uint64_t bytes = model_get_info(m)->weights_bytes;
    model_close(m);
    return bytes;
}

static void test_a_head_of_its_own_is_not_tied(void **state)
{
    const char *dir = *state;
    size_t n, n_head, n_tokens;
    const uint64_t untied = weights_bytes(TINY "/qwen2");
    change("qwen2", dir, "'tie_word_embeddings':true");
    assert_int_equal(weights_bytes(dir), untied);
    unsigned char *file = read_file(TINY "/qwen2/model.safetensors", &n);
    unsigned char *head = data_of(file, "lm_head.weight", &n_head);
    const unsigned char *tokens = data_of(file, "model.embed_tokens.weight", &n_tokens);
    assert_int_equal(n_head, n_tokens);
    memcpy(head, tokens, n_head);
    temp_dir_write(dir, "model.safetensors", file, n);
    assert_true(weights_bytes(dir) < untied);
    head[n_head - 1] ^= 1;
    temp_dir_write(dir, "model.safetensors", file, n);
    assert_int_equal(weights_bytes(dir), untied);
    free(file);
}

static void test_end_tokens_come_from_both_files(void **state)
{
    const char *dir = *state;
    model *m;
    change("qwen2", dir, "'eos_token_id':5");
    temp_dir_write_text(dir, "generation_config.json", "{\"eos_token_id\":[9,5]}");
    need(model_open(dir, NULL, &m));
    assert_int_equal(model_get_info(m)->n_eos, 2);
    assert_true(model_is_eos(model_get_info(m), 5) && model_is_eos(model_get_info(m), 9));
    assert_false(model_is_eos(model_get_info(m), 0));
    model_close(m);
    temp_dir_write_text(dir, "generation_config.json", "{\"eos_token_id\":[131,7,-1]}");
    need(model_open(dir, NULL, &m)); /* the vocabulary ends at 130 */
    assert_int_equal(model_get_info(m)->n_eos, 2);
    assert_true(model_is_eos(model_get_info(m), 5) && model_is_eos(model_get_info(m), 7));
    model_close(m);
    temp_dir_write_text(dir, "generation_config.json", "{\"eos_token_id\":\"x\"}");
    refused(dir, "", NULL, KVP_E_INVALID, "generation_config.json: \"eos_token_id\" is not");
    temp_dir_write_text(dir, "generation_config.json", "{");
    refused(dir, "", NULL, KVP_E_INVALID, "generation_config.json: bad JSON");
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

static void test_gguf_of_other_models_is_refused(void **state)
{
    const char *dir = *state;
    change_gguf("llama_llama3", dir, "general.architecture", 12, "glama"); /* type, length */
    refused(dir, "/model.gguf", NULL, KVP_E_UNSUPPORTED,
            "\"glama\" is not supported (gpt2, llama, mistral, qwen2 and opt are)");
    change_gguf("llama_llama3", dir, "rope_freqs.weigh", 0, "s");
    refused(dir, "/model.gguf", NULL, KVP_E_UNSUPPORTED, "\"rope_freqs.weighs\" is not part of");
    change_gguf("llama_llama3", dir, "blk.1.attn_k.", 0, "w_ight");
    refused(dir, "/model.gguf", NULL, KVP_E_INVALID,
            "\"blk.1.attn_k.weight\", which the metadata calls for, is missing");
    change_gguf("llama_llama3", dir, "llama.block_count", 4, "\x01");
    refused(dir, "/model.gguf", NULL, KVP_E_INVALID,
            "contradicts the metadata, which has 1 layers");
    temp_dir_write_text(dir, "model.gguf", "GGUF");
    refused(dir, "/model.gguf", NULL, KVP_E_CORRUPT, "model.gguf");
    refused(dir, "/nothing.gguf", NULL, KVP_E_IO, "nothing.gguf");
}

/* Of folders, whose configs say so: test_architectures.c. */
static void test_positions_that_a_tensor_scales_are_not_stretched(void **state)
{
    const model_options some = {.n_ctx = 1024, .yarn = true};
    (void)state;
    refused(TINY "/llama_llama3", "/model.gguf", &some, KVP_E_RANGE,
            "scaled already (rope_freqs.weight)");
}

/* The last divider of llama_llama3 with another value. */
static void test_bad_rope_dividers_are_named(void **state)
{
    const char *dir = *state;
    static const float bad[] = {0, -0.0f, -1, NAN, INFINITY, -INFINITY};
    size_t n;
    gguf *g;
    unsigned char *bytes = read_file(TINY "/llama_llama3/model.gguf", &n);
    need(gguf_open_bytes(bytes, n, "model.gguf", &g));
    const gguf_tensor *t = gguf_find_tensor(g, "rope_freqs.weight");
    assert_int_equal(t->n_bytes, 8 * sizeof *bad);
    size_t at = (size_t)(t->data - bytes) + 7 * sizeof *bad;
    gguf_close(g);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memcpy(bytes + at, &bad[i], sizeof *bad);
        temp_dir_write(dir, "model.gguf", bytes, n);
        refused(dir, "/model.gguf", NULL, KVP_E_CORRUPT,
                "\"rope_freqs.weight\": element 7, which divides a frequency, is");
    }
    free(bytes);
}

/* ---- options --------------------------------------------------------------------------------- */

static uint64_t fingerprint_with(const model_options *options)
{
    model *m;
    need(model_open(TINY "/llama", options, &m));
    uint64_t fingerprint = model_get_info(m)->fingerprint;
    model_close(m);
    return fingerprint;
}

/* Of what K and V depend on, and of nothing else. */
static void test_fingerprint_knows_the_stretch(void **state)
{
    (void)state;
    const model_options threads = {.n_threads = 1}, fewer = {.n_ctx = 100};
    const model_options idle = {.n_ctx = 256, .yarn = true};
    const model_options some = {.n_ctx = 300, .yarn = true}, more = {.n_ctx = 400, .yarn = true};
    uint64_t plain = fingerprint_with(NULL);
    assert_true(plain == fingerprint_with(&threads));
    assert_true(plain == fingerprint_with(&fewer));
    assert_true(plain == fingerprint_with(&idle));
    assert_true(plain != fingerprint_with(&some));
    assert_true(fingerprint_with(&some) != fingerprint_with(&more));
}

static void test_hollow_models_have_some_layers(void **state)
{
    (void)state;
    model *m = NULL;
    assert_int_equal(model_open_hollow(TINY "/llama", NULL, 0, &m), KVP_E_INVALID);
    assert_null(m);
    need(model_open_hollow(TINY "/llama", NULL, 99, &m));
    assert_int_equal(model_get_info(m)->n_layers, 2);
    assert_true(model_get_info(m)->fingerprint == 0);
    model_close(m);
    model_close(NULL);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_config_that_contradicts_weights_is_named),
        CASE(test_biases_must_be_as_the_config_says),
        CASE(test_sliding_windows_must_not_matter),
        CASE(test_outer_modules_may_lack_in_names),
        CASE(test_a_head_of_its_own_is_not_tied),
        CASE(test_end_tokens_come_from_both_files),
        CASE(test_gguf_of_other_models_is_refused),
        CASE(test_positions_that_a_tensor_scales_are_not_stretched),
        CASE(test_bad_rope_dividers_are_named),
        CASE(test_fingerprint_knows_the_stretch),
        CASE(test_hollow_models_have_some_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
