/* test_shift.c - texts longer than a model with rotary positions was made for, of which sinks and a
 * window are kept: against a forward that rotates every key anew for every token (tiny_llama.h). */
#include "integration/cli/context.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 8u
#define N 200u         /* three times the context, and a little more */
#define TOLERANCE 1e-4 /* logits are below 10 */

typedef struct fixture {
    char dir[TEMP_DIR_BYTES];
    tiny_llama shape;
    model *m;
    int32_t tokens[N];
} fixture;

static void need(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->shape = tiny_llama_default();
    temp_dir_make(f->dir);
    tiny_llama_write(f->dir, &f->shape);
    const model_options options = {.n_threads = 2};
    need(model_open(f->dir, &options, &f->m));
    for (uint32_t i = 0, x = 12345; i < N; i++, x = x * 1664525u + 1013904223u)
        f->tokens[i] = (int32_t)((x >> 16) % f->shape.n_vocab);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    model_close(f->m);
    temp_dir_remove(f->dir);
    free(f);
    return 0;
}

static float *alloc_logits(const fixture *f)
{
    float *logits = calloc((size_t)N * f->shape.n_vocab, sizeof *logits);
    assert_non_null(logits);
    return logits;
}

/* ram_bytes 0: everything in RAM. */
static kvp_pager *open_pager(const fixture *f, uint64_t ram_bytes)
{
    kvp_pager *pager;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(f->m), KVP_F32, PAGE);
    if (ram_bytes) {
        cfg.ram_bytes = ram_bytes;
        cfg.disk_bytes = KVP_UNLIMITED;
    }
    need(kvp_pager_open(&cfg, &pager));
    return pager;
}

static uint64_t smallest_budget(const fixture *f)
{
    kvp_pager *pager;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(f->m), KVP_F32, PAGE);
    cfg.ram_bytes = 1;
    cfg.disk_bytes = KVP_UNLIMITED;
    assert_int_equal(kvp_pager_open(&cfg, &pager), KVP_E_BUDGET);
    const char *needs = strstr(kvp_error(), "needs at least ");
    assert_non_null(needs);
    return strtoull(needs + 15, NULL, 10);
}

/* What a run of n tokens leaves behind. */
typedef struct leftovers {
    kvp_stats stats;
    uint32_t n_pages; /* of a lane */
} leftovers;

/* Logits of all of the text's tokens by the rule: the first `first` at once, then one by one. */
static leftovers run(const fixture *f, const window_rule *rule, uint64_t ram_bytes, size_t first,
                     float *logits)
{
    leftovers left = {.stats.size = sizeof left.stats};
    kvp_pager *pager = open_pager(f, ram_bytes);
    context c;
    need(context_init(&c, f->m, pager, rule));
    need(context_extend(&c, f->tokens, first, logits, first));
    for (size_t i = first; i < N; i++)
        need(context_extend(&c, f->tokens, i + 1, logits + i * f->shape.n_vocab, 1));
    left.n_pages = kvp_seq_page_count(c.seq, 0);
    need(kvp_pager_stats(pager, &left.stats));
    context_fini(&c);
    kvp_pager_close(pager);
    return left;
}

static window_rule shift_rule(uint64_t keep, uint64_t sinks, uint64_t chunk)
{
    return (window_rule){
        .n_ctx = UINT64_MAX, .keep = keep, .sinks = sinks, .chunk = chunk, .shift = true};
}

static void check_logits(const fixture *f, const float *got, const double *wanted, size_t n)
{
    for (size_t i = 0; i < n * f->shape.n_vocab; i++) {
        bool ok = fabs((double)got[i] - wanted[i]) <= TOLERANCE;
        if (!ok)
            fail_msg("token %zu, logit %zu: %.7f, not %.7f", i / f->shape.n_vocab,
                     i % f->shape.n_vocab, (double)got[i], wanted[i]);
    }
}

static double *solve(const fixture *f, const tiny_view *view)
{
    double *wanted = calloc((size_t)N * f->shape.n_vocab, sizeof *wanted);
    assert_non_null(wanted);
    tiny_llama_forward(&f->shape, f->tokens, N, view, wanted);
    return wanted;
}

/* ---- the widest window --------------------------------------------------------------------- */

static uint64_t widest_shift(uint64_t n_ctx, uint64_t sinks, uint32_t size)
{
    const model_info info = {.n_ctx = (uint32_t)n_ctx};
    return model_widest_shift(&info, sinks, size);
}

/* The farthest that the query at `p` is from a key which it attends: whole pages, and no gap
 * between those of the sinks and those of the window. */
static uint64_t farthest_key(uint64_t p, uint64_t keep, uint64_t sinks, uint64_t size)
{
    uint64_t compact = 0, farthest = 0;
    for (uint64_t page = 0; page <= p / size; page++) {
        bool is_seen = (page + 1) * size - 1 + keep > p || page * size < sinks;
        compact += is_seen ? size : 0;
    }
    /* The query's own page is not full. */
    for (uint64_t page = 0; page <= p / size && !farthest; page++) {
        bool is_seen = (page + 1) * size - 1 + keep > p || page * size < sinks;
        farthest = is_seen ? compact - size + p % size : 0;
    }
    return farthest;
}

static void test_widest_shift_is_the_widest_that_stays_inside_the_context(void **state)
{
    (void)state;
    for (uint64_t n_ctx = 1; n_ctx <= 40; n_ctx++)
        for (uint64_t sinks = 0; sinks <= 9; sinks++)
            for (uint32_t size = 1; size <= 7; size++) {
                uint64_t widest = widest_shift(n_ctx, sinks, size);
                uint64_t inside = 0, outside = 0;
                for (uint64_t p = 60; p < 60 + 3 * size; p++) { /* far behind any gap's beginning */
                    uint64_t d = farthest_key(p, widest, sinks, size);
                    inside = d > inside ? d : inside;
                    d = farthest_key(p, widest + 1, sinks, size);
                    outside = d > outside ? d : outside;
                }
                assert_true(widest == 0 || inside < n_ctx);
                assert_true(outside >= n_ctx);
            }
    assert_int_equal(widest_shift(100, UINT64_MAX, 1), 0);
    assert_int_equal(widest_shift(100, UINT64_MAX, 64), 0);
}

/* ---- logits ---------------------------------------------------------------------------------- */

static void test_within_the_context_the_model_is_the_reference(void **state)
{
    const fixture *f = *state;
    float *logits = alloc_logits(f);
    const window_rule all = {.n_ctx = 64};
    kvp_pager *pager = open_pager(f, 0);
    context c;
    need(context_init(&c, f->m, pager, &all));
    need(context_extend(&c, f->tokens, 64, logits, 64));
    double *wanted = solve(f, &(tiny_view){.page_tokens = PAGE});
    check_logits(f, logits, wanted, 64);
    context_fini(&c);
    kvp_pager_close(pager);
    free(wanted);
    free(logits);
}

/* Nothing is cut yet: queries for sinks are those for the rest, and no bit differs. */
static void test_as_long_as_everything_is_in_reach_shift_changes_no_bit(void **state)
{
    const fixture *f = *state;
    const size_t n = 40; /* the window's */
    const window_rule shift = shift_rule(n, 4, 0), all = {.n_ctx = 64};
    const window_rule *const rules[] = {&all, &shift};
    float *logits[2];
    for (size_t i = 0; i < 2; i++) {
        logits[i] = alloc_logits(f);
        kvp_pager *pager = open_pager(f, 0);
        context c;
        need(context_init(&c, f->m, pager, rules[i]));
        need(context_extend(&c, f->tokens, 30, logits[i], 30));
        for (size_t k = 30; k < n; k++)
            need(context_extend(&c, f->tokens, k + 1, logits[i] + k * f->shape.n_vocab, 1));
        context_fini(&c);
        kvp_pager_close(pager);
    }
    assert_memory_equal(logits[0], logits[1], n * f->shape.n_vocab * sizeof(float));
    free(logits[0]);
    free(logits[1]);
}

/* Windows and sinks of whole and of partial pages, read at once, in chunks and token by token. */
static void test_a_cut_text_is_counted_as_if_it_were_compact(void **state)
{
    const fixture *f = *state;
    static const uint64_t shapes[][2] = {{40, 4}, {24, 8}, {17, 9}, {1, 1}, {49, 1}, {57, 0}};
    static const size_t feeds[][2] = {{N, 0}, {N, 50}, {90, 13}, {1, 0}}; /* first, chunk */
    float *logits = alloc_logits(f);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const uint64_t keep = shapes[i][0], sinks = shapes[i][1];
        assert_true(keep <= widest_shift(f->shape.n_ctx, sinks, PAGE));
        const tiny_view view = {keep, sinks, PAGE, true};
        double *wanted = solve(f, &view);
        for (size_t k = 0; k < sizeof feeds / sizeof *feeds; k++) {
            const window_rule rule = shift_rule(keep, sinks, feeds[k][1]);
            run(f, &rule, 0, feeds[k][0], logits);
            check_logits(f, logits, wanted, N);
        }
        free(wanted);
    }
    free(logits);
}

/* The compact count matters: the same keys at the positions of the text give other logits. */
static void test_without_the_compact_count_logits_differ(void **state)
{
    const fixture *f = *state;
    double *compact = solve(f, &(tiny_view){24, 8, PAGE, true});
    double *spread = solve(f, &(tiny_view){24, 8, PAGE, false});
    double most = 0;
    for (size_t i = 0; i < (size_t)N * f->shape.n_vocab; i++)
        most = fmax(most, fabs(compact[i] - spread[i]));
    assert_true(most > 100 * TOLERANCE);
    free(compact);
    free(spread);
}

static void test_where_pages_lie_changes_no_bit(void **state)
{
    const fixture *f = *state;
    const window_rule rule = shift_rule(40, 9, 50);
    float *resident = alloc_logits(f), *paged = alloc_logits(f);
    run(f, &rule, 0, 150, resident);
    leftovers left = run(f, &rule, smallest_budget(f), 150, paged);
    assert_true(left.stats.major_faults > 0);
    assert_memory_equal(resident, paged, (size_t)N * f->shape.n_vocab * sizeof(float));
    free(resident);
    free(paged);
}

static void test_pages_out_of_reach_are_freed(void **state)
{
    const fixture *f = *state;
    float *logits = alloc_logits(f);
    const window_rule rule = shift_rule(40, 9, 50);
    leftovers left = run(f, &rule, 0, 150, logits);
    /* Sinks in two pages; the last query's 40 positions in six. */
    assert_in_range(left.n_pages, 2 + 40 / PAGE, 2 + 40 / PAGE + 1);
    free(logits);
}

/* The tables of a text that goes on do not grow either. */
static void test_a_text_without_end_takes_no_more_memory(void **state)
{
    const fixture *f = *state;
    kvp_stats stats[2] = {{.size = sizeof stats[0]}, {.size = sizeof stats[1]}};
    const window_rule rule = shift_rule(40, 4, 64);
    int32_t *text = calloc(20000, sizeof *text);
    float logits[64];
    kvp_pager *pager = open_pager(f, 0);
    context c;
    assert_non_null(text);
    need(context_init(&c, f->m, pager, &rule));
    need(context_extend(&c, text, 400, logits, 1));
    need(kvp_pager_stats(pager, &stats[0]));
    need(context_extend(&c, text, 20000, logits, 1));
    need(kvp_pager_stats(pager, &stats[1]));
    assert_true(stats[1].table_bytes <= stats[0].table_bytes);
    assert_true(stats[1].ram_peak_bytes <= stats[0].ram_peak_bytes);
    for (size_t i = 0; i < f->shape.n_vocab; i++)
        assert_true(isfinite(logits[i]));
    context_fini(&c);
    kvp_pager_close(pager);
    free(text);
}

/* A window with which positions would leave the context is the model's to refuse, too. */
static void test_window_that_reaches_beyond_the_context_is_refused(void **state)
{
    const fixture *f = *state;
    float logits[64];
    for (uint64_t sinks = 0; sinks <= 9; sinks++) {
        uint64_t widest = widest_shift(f->shape.n_ctx, sinks, PAGE);
        kvp_pager *pager = open_pager(f, 0);
        kvp_seq *seq;
        need(kvp_seq_create(pager, &seq));
        model_forward_args args = {.tokens = f->tokens,
                                   .n_tokens = 100,
                                   .window = widest + 1,
                                   .sinks = sinks,
                                   .shift = true,
                                   .logits = logits,
                                   .n_logits = 1};
        assert_int_equal(model_forward(f->m, seq, &args), KVP_E_RANGE);
        args.window = widest;
        need(model_forward(f->m, seq, &args));
        kvp_seq_destroy(seq);
        kvp_pager_close(pager);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widest_shift_is_the_widest_that_stays_inside_the_context),
        cmocka_unit_test(test_within_the_context_the_model_is_the_reference),
        cmocka_unit_test(test_as_long_as_everything_is_in_reach_shift_changes_no_bit),
        cmocka_unit_test(test_a_cut_text_is_counted_as_if_it_were_compact),
        cmocka_unit_test(test_without_the_compact_count_logits_differ),
        cmocka_unit_test(test_where_pages_lie_changes_no_bit),
        cmocka_unit_test(test_pages_out_of_reach_are_freed),
        cmocka_unit_test(test_a_text_without_end_takes_no_more_memory),
        cmocka_unit_test(test_window_that_reaches_beyond_the_context_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown) != 0;
}
