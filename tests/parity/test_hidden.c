/* test_hidden.c - hidden states: what logits are products of, row by row, and asking for them
 * changes no logit, in whatever batch. On the demo model. */
#include "integration/models/model.h"
#include "integration/models/weights.h"
#include "tests/support/golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_TOKENS 150u /* more than a chunk of the forward */
#define N_ITEMS 4u

typedef struct subject {
    model *m;
    kvp_pager *pager;
    size_t n_vocab, d_model;
    int32_t tokens[N_TOKENS];
    float *logits, *hidden; /* of all tokens, asked for alone: [N_TOKENS][] */
} subject;

static float *rows_of(size_t n, size_t width)
{
    float *rows = malloc(n * width * sizeof *rows);
    assert_non_null(rows);
    for (size_t i = 0; i < n * width; i++)
        rows[i] = NAN;
    return rows;
}

static void forward(const subject *s, size_t n_logits, float *logits, size_t n_hidden,
                    float *hidden)
{
    kvp_seq *seq;
    const model_forward_args args = {.tokens = s->tokens,
                                     .n_tokens = N_TOKENS,
                                     .logits = logits,
                                     .n_logits = n_logits,
                                     .hidden = hidden,
                                     .n_hidden = n_hidden};
    need(kvp_seq_create(s->pager, &seq));
    need(model_forward(s->m, seq, &args));
    kvp_seq_destroy(seq);
}

static int setup(void **state)
{
    subject *s = calloc(1, sizeof *s);
    const model_options options = {.n_threads = 2};
    need(model_open(DEMO_DIR, &options, &s->m));
    s->n_vocab = model_get_info(s->m)->n_vocab;
    s->d_model = model_get_info(s->m)->d_model;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(s->m), KVP_F16, 0);
    need(kvp_pager_open(&cfg, &s->pager));
    for (size_t i = 0; i < N_TOKENS; i++)
        s->tokens[i] = (int32_t)((i * 7919 + 17) % s->n_vocab);
    s->logits = rows_of(N_TOKENS, s->n_vocab);
    s->hidden = rows_of(N_TOKENS, s->d_model);
    forward(s, N_TOKENS, s->logits, 0, NULL);
    forward(s, 0, NULL, N_TOKENS, s->hidden);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    subject *s = *state;
    kvp_pager_close(s->pager);
    model_close(s->m);
    free(s->logits);
    free(s->hidden);
    free(s);
    return 0;
}

/* The head is the embedding of tokens. */
static void test_logits_are_products_of_hidden_states(void **state)
{
    const subject *s = *state;
    weights *w = NULL;
    need(weights_open(DEMO_DIR, &w));
    const tensor *embedding = weights_find(w, "transformer.wte.weight");
    assert_non_null(embedding);
    float *row = malloc(s->d_model * sizeof *row);
    for (size_t id = 0; id < s->n_vocab; id += 97) {
        weights_read_rows(embedding, id, 1, row);
        for (size_t i = 0; i < N_TOKENS; i++) {
            double sum = 0;
            for (size_t d = 0; d < s->d_model; d++)
                sum += (double)row[d] * (double)s->hidden[i * s->d_model + d];
            assert_true(fabs(sum - (double)s->logits[i * s->n_vocab + id]) <= 1e-4);
        }
    }
    free(row);
    weights_close(w);
}

static void check_rows(const float *got, const float *all, size_t n, size_t width)
{
    assert_memory_equal(got, all + (N_TOKENS - n) * width, n * width * sizeof *got);
}

static void test_both_at_once_are_the_same_bits(void **state)
{
    const subject *s = *state;
    float *logits = rows_of(N_TOKENS, s->n_vocab), *hidden = rows_of(N_TOKENS, s->d_model);
    static const size_t n[][2] = {{N_TOKENS, N_TOKENS}, {3, 140}, {140, 3}, {1, 1}, {0, 5}};
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        forward(s, n[i][0], logits, n[i][1], hidden);
        check_rows(logits, s->logits, n[i][0], s->n_vocab);
        check_rows(hidden, s->hidden, n[i][1], s->d_model);
    }
    free(logits);
    free(hidden);
}

/* Logits side by side in memory, of items that keep more or fewer hidden states. */
static void test_items_of_a_batch_may_differ(void **state)
{
    const subject *s = *state;
    static const size_t n_logits[N_ITEMS] = {2, 0, 5, 4}, n_hidden[N_ITEMS] = {9, 7, 0, 2};
    float *logits = rows_of(11, s->n_vocab), *hidden = rows_of(18, s->d_model);
    model_item items[N_ITEMS];
    size_t row = 0, at = 0;
    for (size_t i = 0; i < N_ITEMS; i++) {
        items[i] = (model_item){.args = {.tokens = s->tokens,
                                         .n_tokens = N_TOKENS,
                                         .logits = logits + row * s->n_vocab,
                                         .n_logits = n_logits[i],
                                         .hidden = hidden + at * s->d_model,
                                         .n_hidden = n_hidden[i]}};
        need(kvp_seq_create(s->pager, &items[i].seq));
        row += n_logits[i];
        at += n_hidden[i];
    }
    need(model_forward_batch(s->m, items, N_ITEMS));
    for (size_t i = 0; i < N_ITEMS; i++) {
        check_rows(items[i].args.logits, s->logits, n_logits[i], s->n_vocab);
        check_rows(items[i].args.hidden, s->hidden, n_hidden[i], s->d_model);
        kvp_seq_destroy(items[i].seq);
    }
    free(logits);
    free(hidden);
}

static void test_more_than_there_are_is_refused(void **state)
{
    const subject *s = *state;
    kvp_seq *seq;
    model_forward_args args = {
        .tokens = s->tokens, .n_tokens = 3, .hidden = s->hidden, .n_hidden = 4};
    need(kvp_seq_create(s->pager, &seq));
    assert_int_equal(model_forward(s->m, seq, &args), KVP_E_INVALID);
    assert_non_null(strstr(kvp_error(), "4 hidden states of 3 tokens"));
    args.n_hidden = 2;
    args.hidden = NULL;
    assert_int_equal(model_forward(s->m, seq, &args), KVP_E_INVALID);
    kvp_seq_destroy(seq);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_are_products_of_hidden_states),
        cmocka_unit_test(test_both_at_once_are_the_same_bits),
        cmocka_unit_test(test_items_of_a_batch_may_differ),
        cmocka_unit_test(test_more_than_there_are_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
