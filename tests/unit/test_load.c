/* test_load.c - a model whose matrices are large enough for threads to share their loading. */
#include "integration/models/model.h"
#include "tests/support/golden_model.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_VOCAB 100000u /* of 16 floats each: 6 MiB, more than two threads' parts */
#define N 5u

static const int32_t tokens[N] = {0, 40000, 32783, 32784, N_VOCAB - 1}; /* of several parts */

static float *logits_with(const char *dir, uint32_t n_threads, kvp_dtype weights)
{
    model *m;
    kvp_pager *pager;
    kvp_seq *seq;
    const model_options options = {.n_threads = n_threads, .weights = weights};
    float *logits = calloc((size_t)N * N_VOCAB, sizeof *logits);
    assert_non_null(logits);
    need(model_open(dir, &options, &m));
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(m), KVP_F32, 0);
    cfg.pool = model_pool(m);
    need(kvp_pager_open(&cfg, &pager));
    need(kvp_seq_create(pager, &seq));
    const model_forward_args args = {
        .tokens = tokens, .n_tokens = N, .logits = logits, .n_logits = N};
    need(model_forward(m, seq, &args));
    kvp_pager_close(pager);
    model_close(m);
    return logits;
}

static void test_threads_that_load_change_no_bit(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES];
    tiny_llama shape = tiny_llama_default();
    shape.n_vocab = N_VOCAB;
    temp_dir_make(dir);
    tiny_llama_write(dir, &shape);
    for (kvp_dtype weights = KVP_F32; weights <= KVP_BF16; weights++) {
        float *one = logits_with(dir, 1, weights), *four = logits_with(dir, 4, weights);
        assert_memory_equal(one, four, (size_t)N * N_VOCAB * sizeof *one);
        free(one);
        free(four);
    }
    temp_dir_remove(dir);
}

/* The last number of the file belongs to a matrix. */
static void test_a_weight_beyond_f16_is_refused_as_f16_alone(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES], path[TEMP_DIR_BYTES + 32];
    const tiny_llama shape = tiny_llama_default();
    const float large = -65505;
    temp_dir_make(dir);
    tiny_llama_write(dir, &shape);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    for (int i = 0; i < 2; i++) {
        for (kvp_dtype dtype = KVP_F32; dtype <= KVP_BF16; dtype++) {
            const model_options options = {.n_threads = 2, .weights = dtype};
            bool is_refused = i && dtype == KVP_F16;
            model *m = NULL;
            assert_int_equal(model_open(dir, &options, &m),
                             is_refused ? KVP_E_UNSUPPORTED : KVP_OK);
            assert_true(!is_refused || strstr(kvp_error(), "65504, which f16 cannot hold"));
            model_close(m);
        }
        FILE *f = fopen(path, "r+b");
        assert_non_null(f);
        assert_int_equal(fseek(f, -(long)sizeof large, SEEK_END), 0);
        assert_int_equal(fwrite(&large, sizeof large, 1, f), 1);
        assert_int_equal(fclose(f), 0);
    }
    temp_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_that_load_change_no_bit),
        cmocka_unit_test(test_a_weight_beyond_f16_is_refused_as_f16_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
