/* test_architectures.c - tiny random models of every architecture against Hugging Face transformers
 * (float32 weights and KV). tests/parity/make_tiny_models.py writes tests/data/tiny. */
#include "integration/models/model.h"
#include "tests/support/golden.h"
#include "tests/support/golden_model.h"
#include "tests/support/larger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the largest logit, which is about 10. float32 forwards differ by 1e-6 of it; transformers'
 * angles are float32 too, which makes 1e-5 at position 400. */
#define TOLERANCE 3e-5
#define BF16_TOLERANCE 0.15
#define MAX_PATH 512
#define MAX_SEQS 10u

static const char *const names[] = {"gpt2",         "llama",      "llama_linear",
                                    "llama_llama3", "llama_yarn", "mistral",
                                    "opt",          "qwen2",      "qwen2_tied"};
static const char *const gguf_names[] = {"gpt2", "llama", "llama_llama3", "qwen2"};

/* A model, sequences of it, and a case of its goldens. */
typedef struct tiny {
    char dir[MAX_PATH];
    model *m;
    const model_info *info;
    kvp_pager *pager;
    kvp_seq *seqs[MAX_SEQS];
    json_t *golden;
    int32_t *tokens, *positions;
    size_t n_tokens, n_positions;
    float *wanted; /* [n_positions][n_vocab] */
    float *logits; /* [n_tokens][n_vocab] */
} tiny;

static const model_options plain_options = {.n_threads = 2};

static void open_model(tiny *t, const char *name, const char *file, const model_options *options,
                       uint32_t page_tokens)
{
    char path[2 * MAX_PATH];
    snprintf(t->dir, sizeof t->dir, "%s/tests/data/tiny/%s", KVP_SOURCE_DIR, name);
    snprintf(path, sizeof path, "%s%s", t->dir, file);
    need(model_open(path, options, &t->m));
    t->info = model_get_info(t->m);
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(t->m), KVP_F32, page_tokens);
    need(kvp_pager_open(&cfg, &t->pager));
    for (size_t i = 0; i < MAX_SEQS; i++)
        need(kvp_seq_create(t->pager, &t->seqs[i]));
}

/* The logits of all cases lie one after the other. */
static void load_case(tiny *t, const char *name)
{
    t->golden = golden_load(t->dir);
    json_t *wanted = NULL, *one;
    size_t i, first = 0, rows = 0, n_vocab = t->info->n_vocab;
    json_array_foreach(json_object_get(t->golden, "cases"), i, one)
    {
        if (strcmp(json_string_value(json_object_get(one, "name")), name) == 0) {
            wanted = one;
            first = rows;
        }
        rows += json_array_size(json_object_get(one, "positions"));
    }
    assert_non_null(wanted);
    t->tokens = golden_ids(wanted, "tokens", &t->n_tokens);
    t->positions = golden_ids(wanted, "positions", &t->n_positions);
    float *all = golden_logits(t->dir, rows, n_vocab);
    memmove(all, all + first * n_vocab, t->n_positions * n_vocab * sizeof *all);
    t->wanted = all;
    t->logits = malloc(t->n_tokens * n_vocab * sizeof *t->logits);
    assert_non_null(t->logits);
}

static void open_tiny(tiny *t, const char *name, const char *file)
{
    *t = (tiny){0};
    open_model(t, name, file, &plain_options, 0);
    load_case(t, "plain");
}

static void close_tiny(tiny *t)
{
    for (size_t i = 0; i < MAX_SEQS; i++)
        kvp_seq_destroy(t->seqs[i]);
    kvp_pager_close(t->pager);
    model_close(t->m);
    json_decref(t->golden);
    free(t->tokens);
    free(t->positions);
    free(t->wanted);
    free(t->logits);
}

static model_forward_args piece(const tiny *t, size_t first, size_t n)
{
    return (model_forward_args){.tokens = t->tokens + first,
                                .n_tokens = n,
                                .logits = t->logits + first * t->info->n_vocab,
                                .n_logits = n};
}

static void forward(tiny *t, size_t first, size_t n)
{
    model_forward_args args = piece(t, first, n);
    need(model_forward(t->m, t->seqs[0], &args));
}

static double largest(const float *logits, size_t n)
{
    double highest = 0;
    for (size_t i = 0; i < n; i++)
        highest = larger(highest, fabs((double)logits[i]));
    return highest;
}

/* Error of t->logits at the golden positions, over the largest logit. */
static double error_of(const tiny *t)
{
    size_t n_vocab = t->info->n_vocab;
    double highest = 0, scale = largest(t->wanted, t->n_positions * n_vocab);
    for (size_t i = 0; i < t->n_positions; i++)
        highest = larger(highest, max_difference(t->logits + (size_t)t->positions[i] * n_vocab,
                                                 t->wanted + i * n_vocab, n_vocab));
    return highest / scale;
}

static void check(const tiny *t, const char *what, double tolerance)
{
    double error = error_of(t);
    print_message("%s, %s: error %.1e\n", strrchr(t->dir, '/') + 1, what, error);
    assert_true(error <= tolerance);
}

/* ---- folders --------------------------------------------------------------------------------- */

static void test_prefill_equals_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny t;
        open_tiny(&t, names[i], "");
        forward(&t, 0, t.n_tokens);
        check(&t, "prefill", TOLERANCE);
        close_tiny(&t);
    }
}

/* Wherever it is, it counts. */
static void test_nan_is_an_error(void **state)
{
    (void)state;
    tiny t;
    open_tiny(&t, "qwen2", "");
    forward(&t, 0, t.n_tokens);
    t.logits[(size_t)t.positions[0] * t.info->n_vocab] = NAN;
    assert_true(isnan(error_of(&t)));
    close_tiny(&t);
}

/* A prefill of more than a chunk, then token by token; and uneven pieces. */
static void test_decode_after_prefill_equals_transformers(void **state)
{
    (void)state;
    static const size_t pieces[] = {1, 62, 130, 7};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny t;
        open_tiny(&t, names[i], "");
        forward(&t, 0, 140);
        for (size_t p = 140; p < t.n_tokens; p++)
            forward(&t, p, 1);
        check(&t, "decode", TOLERANCE);
        need(kvp_seq_truncate(t.seqs[0], 0));
        memset(t.logits, 0, t.n_tokens * t.info->n_vocab * sizeof *t.logits);
        for (size_t k = 0, at = 0; k < 4; at += pieces[k++])
            forward(&t, at, pieces[k]);
        check(&t, "pieces", TOLERANCE);
        close_tiny(&t);
    }
}

/* Weights are float16 in the files; bf16 keeps 3 bits fewer. */
static void test_bf16_weights_are_near(void **state)
{
    (void)state;
    const model_options options = {.n_threads = 2, .weights = KVP_BF16};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny t = {0};
        open_model(&t, names[i], "", &options, 0);
        load_case(&t, "plain");
        forward(&t, 0, t.n_tokens);
        check(&t, "bf16 weights", BF16_TOLERANCE);
        close_tiny(&t);
    }
}

static void test_threads_do_not_change_a_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * sizeof names / sizeof *names; i++) {
        const char *name = names[i / 2];
        const kvp_dtype weights = i % 2 ? KVP_BF16 : KVP_F32;
        const model_options first = {.n_threads = 1, .weights = weights};
        const model_options second = {.n_threads = 3, .weights = weights};
        tiny one = {0}, two = {0};
        open_model(&one, name, "", &first, 0);
        load_case(&one, "plain");
        open_model(&two, name, "", &second, 0);
        load_case(&two, "plain");
        forward(&one, 0, one.n_tokens);
        forward(&two, 0, two.n_tokens);
        assert_memory_equal(one.logits, two.logits,
                            one.n_tokens * one.info->n_vocab * sizeof *one.logits);
        close_tiny(&one);
        close_tiny(&two);
    }
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

static void check_same_info(const model_info *a, const model_info *b)
{
    assert_string_equal(a->architecture, b->architecture);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->n_heads, b->n_heads);
    assert_int_equal(a->n_kv_heads, b->n_kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->d_model, b->d_model);
    assert_int_equal(a->n_ctx, b->n_ctx);
    assert_int_equal(a->n_vocab, b->n_vocab);
    assert_int_equal(a->has_rope, b->has_rope);
    assert_int_equal(a->weights_bytes - b->weights_bytes, 0);
}

/* KV too: rows of q and k go back to where they were. */
static void test_gguf_equals_folder(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof gguf_names / sizeof *gguf_names; i++) {
        tiny folder, file;
        open_tiny(&folder, gguf_names[i], "");
        open_tiny(&file, gguf_names[i], "/model.gguf");
        forward(&folder, 0, folder.n_tokens);
        forward(&file, 0, file.n_tokens);
        check(&file, "GGUF", TOLERANCE);
        if (strcmp(gguf_names[i], "llama_llama3") != 0) { /* has a tensor of dividers more */
            check_same_info(folder.info, file.info);
            assert_memory_equal(folder.logits, file.logits,
                                file.n_tokens * file.info->n_vocab * sizeof *file.logits);
        }
        close_tiny(&folder);
        close_tiny(&file);
    }
}

/* ---- positions beyond the trained ones ------------------------------------------------------- */

static void test_yarn_option_equals_transformers(void **state)
{
    (void)state;
    tiny t = {0};
    const model_options options = {.n_threads = 2, .n_ctx = 640, .yarn = true};
    open_model(&t, "llama", "", &options, 0);
    load_case(&t, "yarn");
    assert_int_equal(t.info->n_ctx, 640);
    assert_int_equal(t.info->n_ctx_trained, 256);
    assert_true(t.n_tokens > 256);
    forward(&t, 0, t.n_tokens);
    check(&t, "YaRN", TOLERANCE);
    close_tiny(&t);
}

/* Against keys that are rotated anew for every query, to where they would be without the gap. */
static void test_shifted_positions_equal_rotated_keys(void **state)
{
    (void)state;
    tiny t = {0};
    open_model(&t, "llama", "", &plain_options, 16);
    load_case(&t, "shift");
    assert_true(t.n_tokens > t.info->n_ctx);
    for (int round = 0; round < 2; round++) {
        model_forward_args args = piece(&t, 0, round ? 150 : t.n_tokens);
        args.window = 70;
        args.sinks = 5;
        args.shift = true;
        need(model_forward(t.m, t.seqs[round], &args));
        for (size_t p = args.n_tokens; p < t.n_tokens; p++) {
            args.tokens = t.tokens + p;
            args.logits = t.logits + p * t.info->n_vocab;
            args.n_tokens = args.n_logits = 1;
            need(model_forward(t.m, t.seqs[round], &args));
        }
        check(&t, round ? "shift, decode" : "shift, prefill", TOLERANCE);
    }
    close_tiny(&t);
}

static void test_shift_changes_nothing_while_all_is_in_reach(void **state)
{
    (void)state;
    tiny t;
    open_tiny(&t, "llama", "");
    size_t n = 100, bytes = n * t.info->n_vocab * sizeof *t.logits;
    float *plain = malloc(bytes);
    forward(&t, 0, n);
    memcpy(plain, t.logits, bytes);
    model_forward_args args = piece(&t, 0, n);
    args.window = 100;
    args.sinks = 4;
    args.shift = true;
    need(model_forward(t.m, t.seqs[1], &args));
    assert_memory_equal(plain, t.logits, bytes);
    free(plain);
    close_tiny(&t);
}

/* ---- batches --------------------------------------------------------------------------------- */

enum { N_BATCH = 5, BATCH_ROWS = 80 };
static const size_t batch_lengths[N_BATCH] = {70, 1, 129, 33, 100};
static const size_t batch_logits[N_BATCH] = {70, 1, 0, 5, 1};

/* Item i of a step; its logits at row `row` of `logits`. */
static model_item batch_item(const tiny *t, size_t i, size_t step, bool shift, float *logits,
                             size_t row)
{
    size_t first = step ? batch_lengths[i] + step - 1 : 0;
    bool is_shifted = shift && i % 2 == 0;
    return (model_item){.args = {.tokens = t->tokens + i + first,
                                 .n_tokens = step ? 1 : batch_lengths[i],
                                 .logits = logits + row * t->info->n_vocab,
                                 .n_logits = step ? 1 : batch_logits[i],
                                 .window = is_shifted ? 40 : 0,
                                 .sinks = is_shifted ? 3 : 0,
                                 .shift = is_shifted}};
}

/* One step of all items together, and of each alone. */
static void run_step(tiny *t, size_t step, bool shift, float *together, float *alone)
{
    model_item items[N_BATCH];
    for (size_t i = 0, row = 0; i < N_BATCH; i++) {
        items[i] = batch_item(t, i, step, shift, together, row);
        items[i].seq = t->seqs[i];
        model_item one = batch_item(t, i, step, shift, alone, row);
        need(model_forward(t->m, t->seqs[N_BATCH + i], &one.args));
        row += one.args.n_logits + (i == 1); /* a row between: not side by side with the next */
        assert_true(row <= BATCH_ROWS);
    }
    need(model_forward_batch(t->m, items, N_BATCH));
}

/* Sequences of different lengths, prefilled together (with all, some and no logits), then decoded
 * together. */
static void check_batch(const char *name, const char *file, bool shift)
{
    tiny t = {0};
    open_model(&t, name, file, &plain_options, 16);
    load_case(&t, "plain");
    size_t n = BATCH_ROWS * t.info->n_vocab;
    double highest = largest(t.wanted, t.n_positions * t.info->n_vocab);
    float *together = calloc(n, sizeof *together), *alone = calloc(n, sizeof *alone);
    for (size_t step = 0; step < 4; step++) {
        run_step(&t, step, shift, together, alone);
        assert_true(largest(together, n) > highest / 4);
        assert_true(max_difference(together, alone, n) <= TOLERANCE * highest);
    }
    free(together);
    free(alone);
    close_tiny(&t);
}

static void test_batch_equals_each_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_batch(names[i], "", false);
}

static void test_batch_may_mix_shifted_sequences_with_others(void **state)
{
    (void)state;
    check_batch("llama", "", true);
}

/* The next token of these sequences in one step, then undone. Returns the logits of the last one,
 * which lie in `rows`. */
static const float *step_and_undo(tiny *t, const size_t *which, size_t n, float *rows)
{
    model_item items[N_BATCH] = {0};
    for (size_t i = 0; i < n; i++) {
        items[i] = batch_item(t, which[i], 1, false, rows, i);
        items[i].seq = t->seqs[which[i]];
    }
    need(model_forward_batch(t->m, items, n));
    for (size_t i = 0; i < n; i++)
        need(kvp_seq_truncate(t->seqs[which[i]], batch_lengths[which[i]]));
    return rows + (n - 1) * t->info->n_vocab;
}

/* The last sequence's logits, alone and next to others. */
static void check_neighbours(const char *name, kvp_dtype weights)
{
    static const size_t batches[][N_BATCH] = {{2},       {0, 2},       {4, 2},
                                              {1, 3, 2}, {0, 1, 3, 2}, {4, 3, 1, 0, 2}};
    const size_t lengths[] = {1, 2, 2, 3, 4, 5};
    model_options options = plain_options;
    tiny t = {0};
    options.weights = weights;
    open_model(&t, name, "", &options, 16);
    load_case(&t, "plain");
    size_t row_bytes = t.info->n_vocab * sizeof(float);
    float *rows = calloc(N_BATCH, row_bytes), *first = calloc(1, row_bytes);
    for (size_t i = 0; i < N_BATCH; i++) {
        model_item one = batch_item(&t, i, 0, false, t.logits, 0);
        need(model_forward(t.m, t.seqs[i], &one.args));
    }
    memcpy(first, step_and_undo(&t, batches[0], 1, rows), row_bytes);
    assert_true(largest(first, t.info->n_vocab) > 0);
    for (size_t b = 1; b < sizeof lengths / sizeof *lengths; b++)
        assert_memory_equal(first, step_and_undo(&t, batches[b], lengths[b], rows), row_bytes);
    free(first);
    free(rows);
    close_tiny(&t);
}

static void test_a_batch_gives_the_same_bits_next_to_whomever(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_neighbours(names[i], KVP_F32);
    for (kvp_dtype weights = KVP_F16; weights <= KVP_BF16; weights++) {
        check_neighbours("llama", weights);
        check_neighbours("opt", weights);
    }
}

static void test_a_batch_with_a_bad_item_changes_nothing(void **state)
{
    (void)state;
    tiny t;
    open_tiny(&t, "llama", "");
    int32_t bad = (int32_t)t.info->n_vocab;
    model_item items[2] = {{.seq = t.seqs[0], .args = piece(&t, 0, 3)},
                           {.seq = t.seqs[1], .args = {.tokens = &bad, .n_tokens = 1}}};
    assert_int_equal(model_forward_batch(t.m, items, 2), KVP_E_RANGE);
    assert_int_equal(kvp_seq_length(t.seqs[0]), 0);
    need(model_forward_batch(t.m, items, 0));
    close_tiny(&t);
}

/* ---- hollow models --------------------------------------------------------------------------- */

static void test_hollow_model_has_the_real_ones_shape(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny real, t = {0};
        model *hollow = NULL;
        open_tiny(&real, names[i], "");
        snprintf(t.dir, sizeof t.dir, "%s", real.dir);
        need(model_open_hollow(t.dir, &plain_options, 1, &hollow));
        const model_info *info = model_get_info(hollow);
        assert_int_equal(info->n_layers, 1);
        assert_int_equal(model_real_layers(hollow), real.info->n_layers);
        assert_int_equal(model_real_layers(real.m), real.info->n_layers);
        assert_true(info->weights_bytes == real.info->weights_bytes);
        assert_int_equal(info->n_ctx, real.info->n_ctx);
        kvp_config cfg = kvp_config_default();
        cfg.geometry = model_geometry(model_get_info(hollow), KVP_F16, 0);
        need(kvp_pager_open(&cfg, &t.pager));
        need(kvp_seq_create(t.pager, &t.seqs[0]));
        model_forward_args args = piece(&real, 0, 50);
        need(model_forward(hollow, t.seqs[0], &args));
        double highest = largest(args.logits, 50 * info->n_vocab);
        assert_true(highest > 1e-6 && highest < 1e6);
        kvp_seq_destroy(t.seqs[0]);
        kvp_pager_close(t.pager);
        model_close(hollow);
        close_tiny(&real);
    }
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void refused(kvp_status status, kvp_status wanted, const char *message)
{
    if (status != wanted || !strstr(kvp_error(), message))
        fail_msg("status %d, \"%s\"; \"%s\" was expected", (int)status, kvp_error(), message);
}

static void refused_open(const char *name, const model_options *options, kvp_status wanted,
                         const char *message)
{
    char path[MAX_PATH];
    model *m = NULL;
    snprintf(path, sizeof path, "%s/tests/data/tiny/%s", KVP_SOURCE_DIR, name);
    refused(model_open(path, options, &m), wanted, message);
    assert_null(m);
}

static void test_positions_that_cannot_be_had_are_refused(void **state)
{
    (void)state;
    const model_options more = {.n_ctx = 257}, yarn = {.n_ctx = 257, .yarn = true};
    refused_open("llama", &more, KVP_E_RANGE,
                 "257 positions are wanted; the model was made for 256");
    refused_open("gpt2", &more, KVP_E_RANGE, "the model was made for 256");
    refused_open("gpt2", &yarn, KVP_E_RANGE, "only rotary ones can be stretched");
    refused_open("opt", &yarn, KVP_E_RANGE, "only rotary ones can be stretched");
    refused_open("llama_llama3", &yarn, KVP_E_RANGE, "256 positions are scaled already (llama3)");
}

static void test_fewer_positions_are_a_limit(void **state)
{
    (void)state;
    tiny t = {0};
    const model_options options = {.n_threads = 1, .n_ctx = 10, .yarn = true};
    open_model(&t, "llama", "", &options, 0);
    load_case(&t, "plain");
    model_forward_args args = piece(&t, 0, 11);
    refused(model_forward(t.m, t.seqs[0], &args), KVP_E_RANGE, "beyond the model's 10");
    args.n_tokens = args.n_logits = 10;
    need(model_forward(t.m, t.seqs[0], &args));
    close_tiny(&t);
}

static void test_shift_needs_rotary_positions_and_a_small_window(void **state)
{
    (void)state;
    tiny t;
    open_tiny(&t, "gpt2", "");
    model_forward_args args = piece(&t, 0, 3);
    args.shift = true;
    args.window = 16;
    refused(model_forward(t.m, t.seqs[0], &args), KVP_E_UNSUPPORTED, "only rotary ones");
    close_tiny(&t);
    open_tiny(&t, "llama", "");
    args = piece(&t, 0, 3);
    args.shift = true;
    refused(model_forward(t.m, t.seqs[0], &args), KVP_E_INVALID, "only with a window");
    args.window = 130;
    args.sinks = 4; /* their page is 64 long, the window's first begins up to 63 before it */
    refused(model_forward(t.m, t.seqs[0], &args), KVP_E_RANGE, "256 positions");
    args.window = UINT64_MAX;
    refused(model_forward(t.m, t.seqs[0], &args), KVP_E_RANGE, "256 positions");
    args.window = 129;
    need(model_forward(t.m, t.seqs[0], &args));
    close_tiny(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefill_equals_transformers),
        cmocka_unit_test(test_nan_is_an_error),
        cmocka_unit_test(test_decode_after_prefill_equals_transformers),
        cmocka_unit_test(test_bf16_weights_are_near),
        cmocka_unit_test(test_threads_do_not_change_a_bit),
        cmocka_unit_test(test_gguf_equals_folder),
        cmocka_unit_test(test_yarn_option_equals_transformers),
        cmocka_unit_test(test_shifted_positions_equal_rotated_keys),
        cmocka_unit_test(test_shift_changes_nothing_while_all_is_in_reach),
        cmocka_unit_test(test_batch_equals_each_alone),
        cmocka_unit_test(test_batch_may_mix_shifted_sequences_with_others),
        cmocka_unit_test(test_a_batch_gives_the_same_bits_next_to_whomever),
        cmocka_unit_test(test_a_batch_with_a_bad_item_changes_nothing),
        cmocka_unit_test(test_hollow_model_has_the_real_ones_shape),
        cmocka_unit_test(test_positions_that_cannot_be_had_are_refused),
        cmocka_unit_test(test_fewer_positions_are_a_limit),
        cmocka_unit_test(test_shift_needs_rotary_positions_and_a_small_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
