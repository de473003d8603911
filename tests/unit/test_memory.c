/* test_memory.c - an output memory against NumPy (tests/parity/make_memory_case.py), wherever its
 * pages lie; how it reads a text; and the file of fitted values. */
#include "integration/recall/memory.h"
#include "integration/recall/bootstrap.h"
#include "integration/recall/tune.h"
#include "tests/support/golden.h"
#include "tests/support/temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CASE KVP_SOURCE_DIR "/tests/data/memory"
#define PAIRS 1500u
#define QUERIES 12u
#define WIDTH 24u
#define VOCABULARY 64u
#define SMALL_RAM ((uint64_t)512 << 10)

/* What make_memory_case.py wrote. */
typedef struct known {
    recall_fit fit;
    float *pairs, *queries, *model, *mixed;
    int32_t *tokens;
    double *best;
    json_t *golden;
} known;

static void need(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static void read_fit(known *k)
{
    size_t n_edges, n_lambda, n_centre;
    double *edges = golden_numbers(k->golden, "edges", &n_edges);
    double *lambda = golden_numbers(k->golden, "lambda", &n_lambda);
    double *centre = golden_numbers(k->golden, "centre", &n_centre);
    assert_int_equal(n_edges, RECALL_BUCKETS - 1);
    assert_int_equal(n_lambda, RECALL_BUCKETS);
    assert_int_equal(n_centre, WIDTH);
    need(recall_fit_default(1, WIDTH, &k->fit));
    k->fit.theta = json_real_value(json_object_get(k->golden, "theta"));
    for (size_t i = 0; i < n_edges; i++)
        k->fit.edges[i] = (float)edges[i];
    for (size_t i = 0; i < n_lambda; i++)
        k->fit.lambda[i] = lambda[i];
    for (size_t i = 0; i < n_centre; i++)
        k->fit.centre[i] = (float)centre[i];
    free(edges);
    free(lambda);
    free(centre);
}

static int setup(void **state)
{
    known *k = calloc(1, sizeof *k);
    size_t n;
    k->golden = golden_load(CASE);
    k->pairs = golden_logits(CASE "/pairs", PAIRS, WIDTH);
    k->queries = golden_logits(CASE "/queries", QUERIES, WIDTH);
    k->model = golden_logits(CASE "/model", QUERIES, VOCABULARY);
    k->mixed = golden_logits(CASE "/mixed", QUERIES, VOCABULARY);
    k->tokens = golden_ids(k->golden, "tokens", &n);
    assert_int_equal(n, PAIRS);
    k->best = golden_numbers(k->golden, "best", &n);
    assert_int_equal(n, QUERIES);
    read_fit(k);
    *state = k;
    return 0;
}

static int teardown(void **state)
{
    known *k = *state;
    json_decref(k->golden);
    recall_fit_fini(&k->fit);
    free(k->pairs);
    free(k->queries);
    free(k->model);
    free(k->mixed);
    free(k->tokens);
    free(k->best);
    free(k);
    return 0;
}

static memory *open_memory(const known *k, uint32_t n_vocab, uint64_t cap, uint64_t ram)
{
    memory_options options = {
        .fit = &k->fit, .n_vocab = n_vocab, .cap = cap, .base = kvp_config_default()};
    memory *m = NULL;
    options.base.n_threads = 2;
    if (ram) {
        options.base.ram_bytes = ram;
        options.base.disk_bytes = KVP_UNLIMITED;
    }
    need(memory_open(&options, &m));
    return m;
}

static kvp_stats stats_of(memory *m)
{
    kvp_stats stats = {.size = sizeof stats};
    need(kvp_pager_stats(memory_pager(m), &stats));
    return stats;
}

static void find_all(const known *k, memory *m)
{
    uint64_t ends[QUERIES];
    for (size_t i = 0; i < QUERIES; i++)
        ends[i] = PAIRS;
    need(memory_find(m, k->queries, QUERIES, NULL, ends));
}

/* ---- against NumPy --------------------------------------------------------------------------- */

/* Each pair has a token of its own, which tells what was found: the better, the more probable. */
static void test_hits_are_numpys_in_its_order(void **state)
{
    const known *k = *state;
    int32_t own[PAIRS];
    for (size_t i = 0; i < PAIRS; i++)
        own[i] = (int32_t)i;
    memory *m = open_memory(k, PAIRS, 0, 0);
    need(memory_add(m, k->pairs, own, PAIRS));
    find_all(k, m);
    for (size_t row = 0; row < QUERIES; row++) {
        const json_t *hits = json_array_get(json_object_get(k->golden, "hits"), row);
        bool is_hit[PAIRS] = {false};
        double before = INFINITY;
        float best;
        assert_int_equal(json_array_size(hits), RECALL_K);
        for (size_t i = 0; i < RECALL_K; i++) {
            int32_t id = (int32_t)json_integer_value(json_array_get(hits, i));
            double p = memory_probability(m, row, k->fit.theta, id);
            assert_true(p > 0 && p <= before * (1 + 1e-5)); /* float32 scores: ties */
            before = p;
            is_hit[id] = true;
        }
        for (int32_t id = 0; id < (int32_t)PAIRS; id++)
            assert_true(is_hit[id] || memory_probability(m, row, k->fit.theta, id) == 0);
        assert_true(memory_best(m, row, &best));
        assert_true(fabs((double)best - k->best[row]) <= 1e-6);
    }
    memory_close(m);
}

static void mix_all(const known *k, memory *m, float *logits)
{
    memcpy(logits, k->model, QUERIES * VOCABULARY * sizeof *logits);
    find_all(k, m);
    for (size_t row = 0; row < QUERIES; row++)
        memory_mix(m, row, logits + row * VOCABULARY);
}

static void test_mixture_is_numpys_wherever_pages_lie(void **state)
{
    const known *k = *state;
    float resident[QUERIES * VOCABULARY], paged[QUERIES * VOCABULARY];
    memory *m = open_memory(k, VOCABULARY, 0, 0);
    need(memory_add(m, k->pairs, k->tokens, PAIRS));
    mix_all(k, m, resident);
    memory_close(m);
    size_t n_mixed = 0;
    for (size_t row = 0; row < QUERIES; row++) {
        const float *logits = resident + row * VOCABULARY;
        n_mixed += memcmp(logits, k->model + row * VOCABULARY, VOCABULARY * sizeof *logits) != 0;
        for (int32_t w = 0; w < (int32_t)VOCABULARY; w++) {
            double p = exp(-nll_of(logits, VOCABULARY, w));
            assert_true(fabs(p - (double)k->mixed[row * VOCABULARY + (size_t)w]) <= 1e-5);
        }
    }
    assert_true(n_mixed >= QUERIES / 2 && n_mixed < QUERIES); /* one has a lambda of 0 */

    m = open_memory(k, VOCABULARY, 0, SMALL_RAM);
    need(memory_add(m, k->pairs, k->tokens, PAIRS));
    for (size_t i = 0; i < 12; i++) /* unseen, but they push the others out */
        need(memory_add(m, k->pairs, k->tokens, PAIRS));
    mix_all(k, m, paged);
    assert_memory_equal(paged, resident, sizeof paged);
    kvp_stats stats = stats_of(m);
    assert_true(stats.demotions > 0 && stats.major_faults > 0);
    assert_true(stats.ram_peak_bytes <= SMALL_RAM);
    memory_close(m);
}

static void test_lambda_0_changes_no_bit(void **state)
{
    known *k = *state;
    float logits[QUERIES * VOCABULARY];
    double lambda[RECALL_BUCKETS];
    memcpy(lambda, k->fit.lambda, sizeof lambda);
    memset(k->fit.lambda, 0, sizeof lambda);
    memory *m = open_memory(k, VOCABULARY, 0, 0);
    need(memory_add(m, k->pairs, k->tokens, PAIRS));
    mix_all(k, m, logits);
    assert_memory_equal(logits, k->model, sizeof logits);
    memcpy(k->fit.lambda, lambda, sizeof lambda);
    memory_close(m);
}

/* ---- as a text is read ----------------------------------------------------------------------- */

#define TEXT 300u

/* The text's rows, `piece` at a time. */
static void read_text(const known *k, memory *m, size_t piece, float *logits)
{
    for (size_t first = 0; first < TEXT; first += piece) {
        size_t n = TEXT - first < piece ? TEXT - first : piece;
        for (size_t i = first; i < first + n; i++)
            memcpy(logits + i * VOCABULARY, k->model + i % QUERIES * VOCABULARY,
                   VOCABULARY * sizeof *logits);
        const memory_rows rows = {.text = k->tokens + first,
                                  .first = first,
                                  .n = n,
                                  .hidden = k->pairs + first * WIDTH,
                                  .logits = logits + first * VOCABULARY};
        assert_int_equal(memory_next(m), first);
        need(memory_read(m, &rows));
    }
    assert_int_equal(memory_size(m), TEXT - 1);
}

/* Row i by row i: what is found among the pairs of the rows before it, the last `cap` at most. */
static void read_plainly(const known *k, size_t cap, float *logits)
{
    memory *m = open_memory(k, VOCABULARY, 0, 0);
    for (size_t i = 0; i < TEXT; i++) {
        const uint64_t end = i, begin = cap && i > cap ? i - cap : 0;
        memcpy(logits + i * VOCABULARY, k->model + i % QUERIES * VOCABULARY,
               VOCABULARY * sizeof *logits);
        need(memory_find(m, k->pairs + i * WIDTH, 1, &begin, &end));
        memory_mix(m, 0, logits + i * VOCABULARY);
        need(memory_add(m, k->pairs + i * WIDTH, k->tokens + i + 1, 1));
    }
    memory_close(m);
}

static void test_a_text_in_pieces_is_the_same_as_row_by_row(void **state)
{
    const known *k = *state;
    const size_t caps[] = {0, 100}, pieces[] = {1, 37, 129, TEXT};
    size_t bytes = TEXT * VOCABULARY * sizeof(float);
    float *got = malloc(bytes), *wanted = malloc(bytes);
    for (size_t c = 0; c < 2; c++) {
        read_plainly(k, caps[c], wanted);
        for (size_t i = 0; i < 4; i++) {
            memory *m = open_memory(k, VOCABULARY, caps[c], 0);
            read_text(k, m, pieces[i], got);
            assert_memory_equal(got, wanted, bytes);
            memory_close(m);
        }
    }
    free(got);
    free(wanted);
}

static void test_a_cap_frees_pages(void **state)
{
    const known *k = *state;
    memory *m = open_memory(k, VOCABULARY, 64, 0);
    const kvp_stats empty = stats_of(m);
    for (size_t i = 0; i < 8; i++) {
        const memory_rows rows = {
            .text = k->tokens, .first = i * (PAIRS - 1), .n = PAIRS - 1, .hidden = k->pairs};
        need(memory_read(m, &rows));
    }
    assert_true(memory_size(m) > 8 * 1400);
    assert_true(stats_of(m).pages[KVP_TIER_RAM] <= empty.pages[KVP_TIER_RAM] + 2);
    memory_close(m);
}

/* ---- fitting --------------------------------------------------------------------------------- */

static double random_unit(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53;
}

/* A token drawn from what the memory says of the row. */
static int32_t draw(const memory *m, size_t row, double theta, uint64_t *state)
{
    double left = random_unit(state);
    int32_t w = 0;
    while (w + 1 < (int32_t)VOCABULARY && (left -= memory_probability(m, row, theta, w)) > 0)
        w++;
    return w;
}

/* Of tokens of which the memory drew 3 of 10, and a uniform model the others. */
static void test_tune_finds_what_was_planted(void **state)
{
    const known *k = *state;
    const size_t n = 6000;
    const double planted = 0.3, theta = 12;
    uint64_t random = 5;
    tune *t = NULL;
    recall_fit fit;
    memory *m = open_memory(k, VOCABULARY, 0, 0);
    need(memory_add(m, k->pairs, k->tokens, PAIRS));
    find_all(k, m);
    need(tune_open(n, &t));
    for (size_t i = 0; i < n; i++) {
        size_t row = 2 + i % (QUERIES - 2);
        int32_t token = random_unit(&random) < planted
                            ? draw(m, row, theta, &random)
                            : (int32_t)(random_unit(&random) * VOCABULARY);
        tune_add(t, m, row, token, 1.0 / VOCABULARY);
    }
    need(recall_fit_default(1, WIDTH, &fit));
    tune_result r = tune_solve(t, &fit);
    assert_int_equal(r.n, n);
    assert_true(fabs(r.model - log(VOCABULARY)) < 1e-9);
    assert_true(r.mixed < r.model);
    double mean = 0;
    for (size_t i = 0; i < RECALL_BUCKETS; i++)
        mean += fit.lambda[i] / RECALL_BUCKETS;
    assert_true(mean > 0.2 && mean < 0.4);
    assert_true(fit.theta >= 6 && fit.theta <= 25);
    for (size_t i = 1; i + 1 < RECALL_BUCKETS; i++)
        assert_true(fit.edges[i] >= fit.edges[i - 1]);
    recall_fit_fini(&fit);
    tune_close(t);
    memory_close(m);
}

static void test_bootstrap_knows_the_error_of_a_mean(void **state)
{
    (void)state;
    enum { N = 4000 };
    double *x = malloc(N * sizeof *x), sum = 0;
    uint64_t random = 3;
    bootstrap_interval a, b;
    for (size_t i = 0; i < N; i++)
        sum += x[i] = random_unit(&random); /* standard deviation: 1 / sqrt(12) */
    need(bootstrap_mean(x, N, 16, 1000, 1, &a));
    need(bootstrap_mean(x, N, 16, 1000, 1, &b));
    assert_memory_equal(&a, &b, sizeof a);
    assert_true(fabs(a.mean - sum / N) < 1e-12);
    const double width = 2 * 1.96 / sqrt(12.0 * N);
    assert_true(a.low < a.mean && a.mean < a.high);
    assert_true(a.high - a.low > 0.75 * width && a.high - a.low < 1.25 * width);
    for (size_t i = 0; i < N; i++)
        x[i] = (double)(i / 200 % 2); /* runs: few independent numbers */
    need(bootstrap_mean(x, N, 300, 1000, 1, &b));
    need(bootstrap_mean(x, N, 1, 1000, 1, &a));
    assert_true(b.high - b.low > 3 * (a.high - a.low));
    for (size_t i = 0; i < N; i++)
        x[i] = 0.25;
    need(bootstrap_mean(x, N, 64, 1000, 1, &a));
    assert_true(a.low == 0.25 && a.mean == 0.25 && a.high == 0.25);
    free(x);
}

/* ---- the file -------------------------------------------------------------------------------- */

static void test_a_fit_comes_back_as_it_was_stored(void **state)
{
    const known *k = *state;
    char dir[TEMP_DIR_BYTES];
    recall_fit fit;
    bool is_fitted;
    temp_dir_make(dir);
    need(recall_fit_load(dir, 1, WIDTH, &fit, &is_fitted));
    assert_false(is_fitted);
    assert_true(fit.theta == 16 && fit.lambda[0] == 0.1 && fit.centre[0] == 0);
    recall_fit_fini(&fit);
    need(recall_fit_save(dir, &k->fit, "a text", 123));
    need(recall_fit_load(dir, 1, WIDTH, &fit, &is_fitted));
    assert_true(is_fitted);
    assert_true(fit.theta == k->fit.theta && fit.width == WIDTH);
    for (size_t i = 0; i < RECALL_BUCKETS; i++)
        assert_true(fabs(fit.lambda[i] - k->fit.lambda[i]) < 1e-8);
    assert_memory_equal(fit.edges, k->fit.edges, sizeof fit.edges);
    assert_memory_equal(fit.centre, k->fit.centre, WIDTH * sizeof *fit.centre);
    recall_fit_fini(&fit);
    temp_dir_remove(dir);
}

static void expect_refusal(const char *dir, uint64_t fingerprint, uint32_t width, const char *text)
{
    recall_fit fit;
    bool is_fitted;
    assert_int_equal(recall_fit_load(dir, fingerprint, width, &fit, &is_fitted), KVP_E_INVALID);
    recall_fit_fini(&fit);
    if (!strstr(kvp_error(), text) || !strstr(kvp_error(), "recall.json"))
        fail_msg("'%s' does not name the file and '%s'", kvp_error(), text);
}

static void test_a_fit_of_another_model_is_refused(void **state)
{
    const known *k = *state;
    char dir[TEMP_DIR_BYTES];
    temp_dir_make(dir);
    need(recall_fit_save(dir, &k->fit, "a text", 123));
    expect_refusal(dir, 2, WIDTH, "fingerprint");
    expect_refusal(dir, 1, WIDTH + 1, "centre");
    temp_dir_remove(dir);
}

#define HEAD "{\"format\":\"kvpager recall 1\",\"fingerprint\":\"0000000000000001\","
#define LAMBDA "\"lambda\":[0,0,0,0,0,0,0,0,0,0,0,0,0],"
#define EDGES "\"edges\":[0,0,0,0,0,0,0,0,0,0,0,0],"

static void test_a_malformed_fit_is_refused(void **state)
{
    static const struct {
        const char *text, *names;
    } bad[] = {
        {"{\"format\":\"kvpager recall 2\"}", "format"},
        {HEAD "\"theta\":1}", "lambda"},
        {HEAD "\"lambda\":[0,0,0,0,0,0,0,0,0,0,0,0,1.5]}", "lambda"},
        {HEAD "\"lambda\":[0,0,0,0,0,0,0,0,0,0,0,0,\"x\"]}", "lambda"},
        {HEAD LAMBDA "\"edges\":[0]}", "edges"},
        {HEAD LAMBDA "\"edges\":[0,1,0,0,0,0,0,0,0,0,0,0]}", "edges"},
        {HEAD LAMBDA EDGES "\"theta\":-1}", "theta"},
        {HEAD LAMBDA EDGES "\"theta\":1,\"centre\":[0,1e30]}", "centre"},
        {"{\"format\":", "line 1"},
    };
    char dir[TEMP_DIR_BYTES];
    (void)state;
    temp_dir_make(dir);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        temp_dir_write_text(dir, "recall.json", bad[i].text);
        expect_refusal(dir, 1, 2, bad[i].names);
    }
    temp_dir_remove(dir);
}

static void test_a_folder_that_cannot_be_written_is_named(void **state)
{
    const known *k = *state;
    assert_int_equal(recall_fit_save("/proc/self", &k->fit, "a text", 1), KVP_E_IO);
    assert_non_null(strstr(kvp_error(), "/proc/self/recall.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hits_are_numpys_in_its_order),
        cmocka_unit_test(test_mixture_is_numpys_wherever_pages_lie),
        cmocka_unit_test(test_lambda_0_changes_no_bit),
        cmocka_unit_test(test_a_text_in_pieces_is_the_same_as_row_by_row),
        cmocka_unit_test(test_a_cap_frees_pages),
        cmocka_unit_test(test_tune_finds_what_was_planted),
        cmocka_unit_test(test_bootstrap_knows_the_error_of_a_mean),
        cmocka_unit_test(test_a_fit_comes_back_as_it_was_stored),
        cmocka_unit_test(test_a_fit_of_another_model_is_refused),
        cmocka_unit_test(test_a_malformed_fit_is_refused),
        cmocka_unit_test(test_a_folder_that_cannot_be_written_is_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
