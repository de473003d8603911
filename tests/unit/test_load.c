/* test_load.c - a model whose matrices are large enough for threads to share their loading. */
#include "integration/models/model.h"
#include "tests/support/golden_model.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

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
    for (int i = 0; i < 2; i++) {
        kvp_dtype weights = i ? KVP_BF16 : KVP_F32;
        float *one = logits_with(dir, 1, weights), *four = logits_with(dir, 4, weights);
        assert_memory_equal(one, four, (size_t)N * N_VOCAB * sizeof *one);
        free(one);
        free(four);
    }
    temp_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads_that_load_change_no_bit)};
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
