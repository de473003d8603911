/* test_rows.c - a row of logits depends on the text before it and on its role alone: not on the
 * number of threads, on the calls that its prompt came in, or on what else is in a batch. On the
 * demo model (GPT-2) and on a Llama of random weights, for every dtype of weights. */
#include "integration/models/model.h"
#include "tests/support/golden_model.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BATCH ((size_t)16)
#define N_STEPS ((size_t)3)

typedef struct subject {
    model *m;
    kvp_pager *pager;
    uint32_t n_vocab;
} subject;

static subject open_subject(const char *dir, kvp_dtype weights, uint32_t n_threads)
{
    subject s = {0};
    const model_options options = {.weights = weights, .n_threads = n_threads};
    need(model_open(dir, &options, &s.m));
    s.n_vocab = model_get_info(s.m)->n_vocab;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(s.m), KVP_F16, 0);
    cfg.pool = model_pool(s.m);
    need(kvp_pager_open(&cfg, &s.pager));
    return s;
}

static void close_subject(subject *s)
{
    kvp_pager_close(s->pager);
    model_close(s->m);
}

static int32_t token_of(const subject *s, size_t text, size_t i)
{
    return (int32_t)((i * 7919 + text * 104729 + i * i % 31) % s->n_vocab);
}

static float *logits_for(const subject *s, size_t n)
{
    float *logits = malloc(n * s->n_vocab * sizeof *logits);
    assert_non_null(logits);
    for (size_t i = 0; i < n * s->n_vocab; i++)
        logits[i] = NAN;
    return logits;
}

static void check_same(const subject *s, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n * s->n_vocab; i++)
        assert_true(isfinite(a[i]));
    assert_memory_equal(a, b, n * s->n_vocab * sizeof *a);
    assert_memory_not_equal(a, a + s->n_vocab, s->n_vocab * sizeof *a); /* rows differ at all */
}

/* ---- prefill --------------------------------------------------------------------------------- */

/* Logits of text 0's n tokens, given in calls of `chunk`. */
static float *prefill(const subject *s, size_t n, size_t chunk)
{
    int32_t *tokens = malloc(n * sizeof *tokens);
    float *logits = logits_for(s, n);
    kvp_seq *seq;
    assert_non_null(tokens);
    for (size_t i = 0; i < n; i++)
        tokens[i] = token_of(s, 0, i);
    need(kvp_seq_create(s->pager, &seq));
    for (size_t at = 0, part; at < n; at += part) {
        part = n - at < chunk ? n - at : chunk;
        const model_forward_args args = {.tokens = tokens + at,
                                         .n_tokens = part,
                                         .logits = logits + at * s->n_vocab,
                                         .n_logits = part};
        need(model_forward(s->m, seq, &args));
    }
    kvp_seq_destroy(seq);
    free(tokens);
    return logits;
}

static void check_prefill(const char *dir, kvp_dtype weights, size_t n)
{
    static const size_t chunks[] = {2048, 64, 100, 128, 300};
    float *first = NULL;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        subject s = open_subject(dir, weights, (uint32_t)(i % 4) + 1);
        float *logits = prefill(&s, n, chunks[i]);
        if (first)
            check_same(&s, first, logits, n);
        close_subject(&s);
        if (first)
            free(logits);
        else
            first = logits;
    }
    free(first);
}

/* ---- decode ---------------------------------------------------------------------------------- */

static size_t prompt_length(size_t text)
{
    return 9 + text * 23 % 150;
}

/* Prompts of texts [0, n), each a call of its own. */
static void start_texts(const subject *s, size_t n, kvp_seq **seqs)
{
    int32_t tokens[160];
    for (size_t t = 0; t < n; t++) {
        for (size_t i = 0; i < prompt_length(t); i++)
            tokens[i] = token_of(s, t, i);
        const model_forward_args args = {.tokens = tokens, .n_tokens = prompt_length(t)};
        need(kvp_seq_create(s->pager, &seqs[t]));
        need(model_forward(s->m, seqs[t], &args));
    }
}

/* The next N_STEPS tokens of MAX_BATCH texts, in batches of up to n that begin with text `shift`;
 * logits [MAX_BATCH][N_STEPS]. */
static float *decode(const subject *s, size_t n, size_t shift)
{
    kvp_seq *seqs[MAX_BATCH];
    float *logits = logits_for(s, MAX_BATCH * N_STEPS);
    start_texts(s, MAX_BATCH, seqs);
    for (size_t step = 0; step < N_STEPS; step++) {
        for (size_t at = 0, part; at < MAX_BATCH; at += part) {
            model_item items[MAX_BATCH];
            int32_t tokens[MAX_BATCH];
            part = MAX_BATCH - at < n ? MAX_BATCH - at : n;
            float *rows = logits_for(s, part);
            for (size_t i = 0; i < part; i++) {
                size_t t = (at + i + shift) % MAX_BATCH;
                tokens[i] = token_of(s, t, prompt_length(t) + step);
                items[i] = (model_item){.seq = seqs[t],
                                        .args = {.tokens = &tokens[i],
                                                 .n_tokens = 1,
                                                 .logits = rows + i * s->n_vocab,
                                                 .n_logits = 1}};
            }
            need(model_forward_batch(s->m, items, part));
            for (size_t i = 0; i < part; i++)
                memcpy(logits + ((at + i + shift) % MAX_BATCH * N_STEPS + step) * s->n_vocab,
                       rows + i * s->n_vocab, s->n_vocab * sizeof *rows);
            free(rows);
        }
    }
    for (size_t t = 0; t < MAX_BATCH; t++)
        kvp_seq_destroy(seqs[t]);
    return logits;
}

static void check_decode(const char *dir, kvp_dtype weights)
{
    float *first = NULL;
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++) {
        subject s = open_subject(dir, weights, n_threads);
        for (size_t n = 1; n <= MAX_BATCH; n++) {
            float *logits = decode(&s, n, n_threads * n);
            if (!first) {
                first = logits;
                continue;
            }
            check_same(&s, first, logits, MAX_BATCH * N_STEPS);
            free(logits);
        }
        close_subject(&s);
    }
    free(first);
}

/* ---- both models ----------------------------------------------------------------------------- */

static int setup(void **state)
{
    const tiny_llama shape = {.n_layers = 2,
                              .n_heads = 3,
                              .n_kv_heads = 1,
                              .head_dim = 64,
                              .d_model = 192,
                              .d_inner = 512,
                              .n_ctx = 2048,
                              .n_vocab = 301};
    *state = malloc(TEMP_DIR_BYTES);
    assert_non_null(*state);
    temp_dir_make(*state);
    tiny_llama_write(*state, &shape);
    return 0;
}

static int teardown(void **state)
{
    temp_dir_remove(*state);
    free(*state);
    return 0;
}

static void test_prefill_does_not_depend_on_chunks_and_threads(void **state)
{
    for (kvp_dtype weights = KVP_F32; weights <= KVP_BF16; weights++) {
        check_prefill(*state, weights, weights == KVP_F32 ? 2048 : 409);
        check_prefill("models/demo", weights, 409);
    }
}

static void test_decode_does_not_depend_on_batch_and_threads(void **state)
{
    for (kvp_dtype weights = KVP_F32; weights <= KVP_BF16; weights++)
        check_decode(*state, weights);
    check_decode("models/demo", KVP_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefill_does_not_depend_on_chunks_and_threads),
        cmocka_unit_test(test_decode_does_not_depend_on_batch_and_threads),
    };
    return cmocka_run_group_tests(tests, setup, teardown) != 0;
}
