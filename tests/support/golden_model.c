/* golden_model.c - a model over a pager, beside what it must compute. */
#include "tests/support/golden_model.h"
#include "tests/support/larger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void need(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

void golden_model_open(golden_model *g, const char *path, const char *golden_dir, kvp_dtype weights)
{
    *g = (golden_model){.dir = golden_dir};
    const model_options options = {.weights = weights, .n_threads = 2};
    need(model_open(path, &options, &g->m));
    g->info = model_get_info(g->m);
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(g->m), KVP_F32, 0);
    need(kvp_pager_open(&cfg, &g->pager));
    need(kvp_seq_create(g->pager, &g->seq));
    g->golden = golden_load(golden_dir);
    g->tokens = golden_ids(g->golden, "first_token_ids", &g->n_tokens);
    g->logits = malloc(g->n_tokens * g->info->n_vocab * sizeof *g->logits);
    assert_non_null(g->logits);
}

void golden_model_close(golden_model *g)
{
    kvp_seq_destroy(g->seq);
    kvp_pager_close(g->pager);
    model_close(g->m);
    json_decref(g->golden);
    free(g->tokens);
    free(g->logits);
    *g = (golden_model){0};
}

void golden_model_forward(golden_model *g, const int32_t *tokens, size_t n, float *logits,
                          size_t n_logits)
{
    const model_forward_args args = {
        .tokens = tokens, .n_tokens = n, .logits = logits, .n_logits = n_logits};
    need(model_forward(g->m, g->seq, &args));
}

/* ---- logits ---- */

double golden_model_difference(const golden_model *g, size_t first, size_t *n_checked)
{
    size_t n, n_vocab = g->info->n_vocab;
    int32_t *positions = golden_ids(g->golden, "logits_positions", &n);
    float *golden = golden_logits(g->dir, n, n_vocab);
    double highest = 0;
    *n_checked = 0;
    for (size_t i = 0; i < n; i++) {
        if ((size_t)positions[i] < first)
            continue;
        highest = larger(highest, max_difference(g->logits + (size_t)positions[i] * n_vocab,
                                                 golden + i * n_vocab, n_vocab));
        ++*n_checked;
    }
    free(positions);
    free(golden);
    return highest;
}

void golden_model_check_top8(const golden_model *g, double tolerance)
{
    const json_t *ids = json_object_get(g->golden, "top8_ids");
    const json_t *logits = json_object_get(g->golden, "top8_logits");
    assert_int_equal(json_array_size(ids), g->n_tokens);
    for (size_t i = 0; i < g->n_tokens; i++) {
        const float *row = g->logits + i * g->info->n_vocab;
        for (size_t j = 0; j < 8; j++) {
            size_t id = (size_t)json_integer_value(json_array_get(json_array_get(ids, i), j));
            double golden = json_number_value(json_array_get(json_array_get(logits, i), j));
            assert_true(fabs((double)row[id] - golden) <= tolerance);
        }
    }
}

void golden_model_check_nll(const golden_model *g, double tolerance)
{
    size_t n;
    double *golden = golden_numbers(g->golden, "nll_per_token", &n);
    assert_int_equal(n, g->n_tokens - 1);
    for (size_t i = 0; i < n; i++) {
        double got = nll_of(g->logits + i * g->info->n_vocab, g->info->n_vocab, g->tokens[i + 1]);
        assert_true(fabs(got - golden[i]) <= tolerance);
    }
    free(golden);
}

/* ---- greedy tokens ---- */

/* One more token: past the context, the last `window` tokens start again at position 0. */
static void feed(golden_model *g, const int32_t *history, size_t n, size_t window,
                 size_t *n_restarts)
{
    if (kvp_seq_length(g->seq) < g->info->n_ctx) {
        golden_model_forward(g, history + n - 1, 1, g->logits, 1);
        return;
    }
    need(kvp_seq_truncate(g->seq, 0));
    golden_model_forward(g, history + n - window, window, g->logits, 1);
    ++*n_restarts;
}

size_t golden_model_check_greedy(golden_model *g, const json_t *golden, const int32_t *prompt,
                                 size_t window)
{
    size_t n_prompt = (size_t)json_integer_value(json_object_get(golden, "prompt_tokens"));
    size_t n_new, n_margins, n_clear = 0, n_restarts = 0;
    int32_t *new = golden_ids(golden, "new", &n_new);
    double *margins = golden_numbers(golden, "top2_margin", &n_margins);
    int32_t *history = malloc((n_prompt + n_new) * sizeof *history);
    memcpy(history, prompt, n_prompt * sizeof *history);
    memcpy(history + n_prompt, new, n_new * sizeof *history);
    assert_int_equal(n_new, n_margins);
    golden_model_forward(g, history, n_prompt, g->logits, 1);
    for (size_t i = 0; i < n_new; i++) {
        g->logits[g->info->eos_ids[0]] = -INFINITY; /* the goldens ignore it */
        if (margins[i] > CLEAR_MARGIN) {
            assert_int_equal(argmax(g->logits, g->info->n_vocab), new[i]);
            n_clear++;
        }
        feed(g, history, n_prompt + i + 1, window, &n_restarts);
    }
    assert_true(n_clear > n_new / 2);
    free(new);
    free(margins);
    free(history);
    return n_restarts;
}
