/* test_needle.c - a fact in a long text helps to answer a question about it, wherever it stands;
 * and where the pages lie changes no bit of the answer's likelihood.
 *
 * The text with the fact at one depth differs from that at another only from the first of them on,
 * so depths are visited from the last to the first: the sequence is cut back to where the fact goes
 * in, and only what follows is computed. Usually a shorter text and three depths;
 * KVP_TEST_FULL=1 takes 7,500 tokens and ten. */
#include "tests/support/golden_model.h"
#include "tests/support/smollm2.h"
#include "integration/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define FULL_TOKENS 7500
#define QUICK_TOKENS 1500
#define MAX_DEPTHS 10
#define BUDGET_DIVISOR 8

static const char fact[] =
    " Remember this: the password of the harbour master is violet anchor, and of nobody else. ";
static const char question[] = "\n\nQuestion: What is the password of the harbour master?\n"
                               "Answer: The password of the harbour master is";
static const char answer[] = " violet anchor";

typedef struct ids {
    int32_t *ids;
    size_t n;
} ids;

typedef struct fixture {
    model *m;
    size_t n_vocab, n_depths;
    ids text, fact, question, answer;
    float *logits; /* [answer.n + 1][n_vocab] */
} fixture;

static ids encode(const tokenizer *t, const char *text)
{
    ids out;
    need(tokenizer_encode(t, text, strlen(text), &out.ids, &out.n));
    return out;
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    tokenizer *t;
    const model_options options = {.n_threads = 2};
    bool is_full = getenv("KVP_TEST_FULL") != NULL;
    need(model_open(smollm2_path(), &options, &f->m));
    f->n_vocab = model_get_info(f->m)->n_vocab;
    f->n_depths = is_full ? MAX_DEPTHS : 3;
    json_t *golden = golden_load(SMOLLM2_GOLDEN);
    f->text.ids = golden_ids(json_object_get(golden, "perplexity"), "token_ids", &f->text.n);
    json_decref(golden);
    assert_true(f->text.n >= FULL_TOKENS);
    f->text.n = is_full ? FULL_TOKENS : QUICK_TOKENS;
    need(tokenizer_open(smollm2_path(), &t));
    f->fact = encode(t, fact);
    f->question = encode(t, question);
    f->answer = encode(t, answer);
    tokenizer_close(t);
    f->logits = malloc((f->answer.n + 1) * f->n_vocab * sizeof *f->logits);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    model_close(f->m);
    free(f->text.ids);
    free(f->fact.ids);
    free(f->question.ids);
    free(f->answer.ids);
    free(f->logits);
    free(f);
    return 0;
}

static void append(ids *to, const ids *from, size_t first)
{
    memcpy(to->ids + to->n, from->ids + first, (from->n - first) * sizeof *to->ids);
    to->n += from->n - first;
}

/* -log P(answer) after `depth` tokens of the text, which the sequence is cut to, the fact (if
 * wanted), the rest and the question. */
static double answer_nll(fixture *f, kvp_seq *seq, size_t depth, bool with_fact)
{
    ids rest = {
        .ids = malloc((f->text.n + f->fact.n + f->question.n + f->answer.n) * sizeof(int32_t))};
    if (with_fact)
        append(&rest, &f->fact, 0);
    append(&rest, &f->text, depth);
    append(&rest, &f->question, 0);
    append(&rest, &f->answer, 0);
    need(kvp_seq_truncate(seq, depth));
    const model_forward_args args = {
        .tokens = rest.ids, .n_tokens = rest.n, .logits = f->logits, .n_logits = f->answer.n + 1};
    need(model_forward(f->m, seq, &args));
    double nll = 0;
    for (size_t i = 0; i < f->answer.n; i++)
        nll += nll_of(f->logits + i * f->n_vocab, f->n_vocab, f->answer.ids[i]);
    free(rest.ids);
    return nll;
}

/* nll[0] without the fact, nll[1 + i] with it at depth i of n_depths. */
static void run_depths(fixture *f, uint64_t ram_bytes, double *nll, kvp_stats *stats)
{
    kvp_pager *pager;
    kvp_seq *seq;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(f->m), KVP_F16, 0);
    cfg.pool = model_pool(f->m);
    cfg.ram_bytes = ram_bytes;
    cfg.disk_bytes = ram_bytes == KVP_UNLIMITED ? 0 : KVP_UNLIMITED;
    need(kvp_pager_open(&cfg, &pager));
    need(kvp_seq_create(pager, &seq));
    nll[0] = answer_nll(f, seq, 0, false);
    for (size_t i = f->n_depths; i-- > 0;)
        nll[1 + i] = answer_nll(f, seq, f->text.n * i / f->n_depths, true);
    *stats = (kvp_stats){.size = sizeof *stats};
    need(kvp_pager_stats(pager, stats));
    kvp_seq_destroy(seq);
    kvp_pager_close(pager);
}

static void test_fact_is_found_and_paging_changes_no_bit(void **state)
{
    fixture *f = *state;
    double resident[MAX_DEPTHS + 1], paged[MAX_DEPTHS + 1];
    kvp_stats resident_stats, stats;
    run_depths(f, KVP_UNLIMITED, resident, &resident_stats);
    run_depths(f, resident_stats.ram_peak_bytes / BUDGET_DIVISOR, paged, &stats);
    size_t n_better = 0;
    for (size_t i = 0; i <= f->n_depths; i++) {
        assert_memory_equal(&resident[i], &paged[i], sizeof resident[i]);
        assert_true(resident[i] > 0 && resident[i] < 1000); /* no NaN */
        if (i)
            n_better += resident[i] < resident[0];
        print_message(i ? "fact after %zu %% of the text: -log P(answer) %.3f\n"
                        : "without the fact (%zu): -log P(answer) %.3f\n",
                      i ? 100 * (i - 1) / f->n_depths : 0, resident[i]);
    }
    assert_true(n_better * 10 >= f->n_depths * 8);
    assert_true(stats.major_faults > 0);
    assert_true(stats.demotions > 0);
    assert_true(stats.ram_peak_bytes <= stats.ram_budget_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fact_is_found_and_paging_changes_no_bit, setup,
                                        teardown),
    };
    smollm2_skip_if_missing();
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
