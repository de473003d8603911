/* test_plan.c - predictions against machines whose costs are known: each test computes by itself
 * what a run takes there, lets the probe see only its own few runs, and compares. */
#include "integration/cli/plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* SmolLM2's shape at 7,900 tokens. */
static plan_kv smol(uint64_t n_tokens)
{
    return (plan_kv){.n_tokens = n_tokens,
                     .n_layers = 30,
                     .n_lanes = 30,
                     .page_tokens = 64,
                     .slot_bytes = 48 << 10,
                     .token_bytes = 23040};
}

/* What things cost on a made-up machine, in seconds. */
typedef struct machine {
    double head, layer, row; /* of a decode step: once, per layer, per layer and token */
    double token, pair;      /* of a prefill, per layer */
    double page;             /* to bring one up */
    double stall;            /* of a step that is paged: per page in all, not overlapped */
    double write_per_second;
    double ring;
} machine;

static const machine usual = {.head = 5e-3,
                              .layer = 7e-4,
                              .row = 4e-8,
                              .token = 6e-5,
                              .pair = 2e-8,
                              .page = 3e-5,
                              .write_per_second = 1e9,
                              .ring = 14};

static double step_of(const machine *m, double layers, double tokens)
{
    return m->head + layers * (m->layer + tokens * m->row);
}

static double paged_step_of(const machine *m, double layers, double tokens, double pages,
                            double missing)
{
    return fmax(step_of(m, layers, tokens), pages * m->stall + missing * m->page);
}

static double missing_on(const machine *m, double pages, double frames)
{
    if (frames >= pages + m->ring)
        return 0;
    return fmin(pages, pages - frames + m->ring);
}

static plan_paged paged_on(const machine *m, const plan_probe *p, uint64_t n_frames)
{
    double missing = missing_on(m, (double)p->n_pages, (double)n_frames);
    return (plan_paged){.seconds = paged_step_of(m, (double)p->n_layers, (double)p->n_tokens,
                                                 (double)p->n_pages, missing),
                        .missing_pages = missing,
                        .n_frames = n_frames};
}

static double chunk_of(const machine *m, double layers, double first, double n)
{
    double seconds = 0;
    for (double i = first; i < first + n; i++)
        seconds += m->token + m->pair * (i + 0.5);
    return (layers - 1 + 0.15) * seconds; /* the last layer has no attention to compute */
}

/* A probe of `layers` layers and `tokens` tokens. */
static plan_probe probe_on(const machine *m, const plan_kv *kv, uint64_t layers, uint64_t tokens)
{
    plan_probe p = {.n_layers = layers,
                    .n_tokens = tokens,
                    .n_pages = (tokens + 63) / 64 * layers,
                    .step_alone = step_of(m, (double)layers, 0),
                    .step = step_of(m, (double)layers, (double)tokens),
                    .has_paged = true,
                    .few_layers = 4,
                    .few_step_alone = step_of(m, 4, 0),
                    .chunk_tokens = 256,
                    .chunk_position = tokens - 256,
                    .chunk_first = chunk_of(m, 4, 0, 256),
                    .chunk_last = chunk_of(m, 4, (double)tokens - 256, 256),
                    .write_bytes_per_second = m->write_per_second};
    assert_int_equal(kv->page_tokens, 64);
    p.paged[0] = paged_on(m, &p, p.n_pages / 2);
    p.paged[1] = paged_on(m, &p, p.n_pages / 8);
    return p;
}

static void assert_near(double a, double b, double part)
{
    if (!(fabs(a - b) <= part * fabs(b)))
        fail_msg("%.9g is not within %g of %.9g", a, part, b);
}

/* ---- sizes ---- */

static void test_sizes_are_whole_pages_of_whole_slots(void **state)
{
    (void)state;
    plan_kv kv = smol(7900);
    assert_int_equal(plan_pages(&kv), 30 * 124);
    assert_int_equal(plan_kv_bytes(&kv), 30 * 124 * 49152);
    kv = smol(64);
    assert_int_equal(plan_pages(&kv), 30);
    kv = smol(65);
    assert_int_equal(plan_pages(&kv), 60);
    kv = smol(1);
    assert_int_equal(plan_pages(&kv), 30);
}

static void test_every_page_is_written_once(void **state)
{
    (void)state;
    plan_kv kv = smol(7900);
    assert_int_equal(plan_written_bytes(&kv, 64), 30 * 49152);
    assert_int_equal(plan_written_bytes(&kv, 1000), 1000 * 30 * 49152 / 64);
    /* Slots that are larger than their pages are written whole. */
    kv.slot_bytes = 52 << 10;
    assert_int_equal(plan_written_bytes(&kv, 64), 30 * 52 * 1024);
}

/* ---- in RAM ---- */

static void test_probe_of_the_whole_model_is_its_own_prediction(void **state)
{
    (void)state;
    plan_kv kv = smol(7900);
    plan_probe p = probe_on(&usual, &kv, 30, 7900);
    p.few_step_alone = 1; /* nothing is extrapolated: noise in what it takes has no part in it */
    assert_true(plan_step_in_ram(&kv, &p) == p.step);
}

static void test_step_is_extrapolated_over_layers_and_context(void **state)
{
    (void)state;
    static const uint64_t layers[] = {5, 8, 30}, tokens[] = {1000, 7899, 20000};
    plan_kv kv = smol(32768);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            plan_probe p = probe_on(&usual, &kv, layers[i], tokens[j]);
            assert_near(plan_step_in_ram(&kv, &p), step_of(&usual, 30, 32768), 1e-9);
        }
}

static void test_prefill_is_extrapolated_over_layers_and_context(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {600, 7900, 32768};
    for (int i = 0; i < 3; i++) {
        plan_kv kv = smol(lengths[i]);
        plan_probe p = probe_on(&usual, &kv, 8, lengths[i] - 1);
        double whole = chunk_of(&usual, 30, 0, (double)lengths[i]);
        assert_near(plan_prefill_in_ram(&kv, &p), whole, 1e-6);
    }
}

static void test_short_context_has_one_kind_of_chunk(void **state)
{
    (void)state;
    plan_kv kv = smol(100);
    plan_probe p = probe_on(&usual, &kv, 8, 4000);
    p.chunk_tokens = 100;
    p.chunk_position = 0;
    p.chunk_first = p.chunk_last = chunk_of(&usual, 4, 0, 100);
    assert_near(plan_prefill_in_ram(&kv, &p), chunk_of(&usual, 30, 0, 100), 1e-9);
}

static void test_noise_does_not_make_more_work_faster(void **state)
{
    (void)state;
    plan_kv kv = smol(32768);
    plan_probe p = probe_on(&usual, &kv, 8, 7900);
    p.few_step_alone = 2 * p.step_alone;
    p.step = p.step_alone / 2;
    p.chunk_last = p.chunk_first / 2;
    assert_true(plan_step_in_ram(&kv, &p) >= p.step);
    assert_true(plan_prefill_in_ram(&kv, &p) >= p.chunk_first);
}

/* ---- under a budget ---- */

/* Of all budgets: the machine's own answer. */
static void check_budgets(const machine *m, const plan_kv *kv, const plan_probe *p, double part)
{
    double pages = (double)plan_pages(kv);
    for (uint64_t divisor = 16; divisor >= 2; divisor /= 2) {
        uint64_t n_frames = plan_pages(kv) / divisor;
        double missing = missing_on(m, pages, (double)n_frames);
        assert_near(plan_missing_pages(kv, p, n_frames), missing, 1e-9);
        assert_near(plan_step(kv, p, n_frames),
                    paged_step_of(m, 30, (double)kv->n_tokens, pages, missing), part);
    }
}

static void test_disk_decides_where_it_is_slower_than_computing(void **state)
{
    (void)state;
    machine m = usual;
    plan_kv kv = smol(7900);
    plan_probe p = probe_on(&m, &kv, 30, 7900);
    check_budgets(&m, &kv, &p, 1e-9);
    p = probe_on(&m, &kv, 10, 7900);
    check_budgets(&m, &kv, &p, 1e-9);
    m.stall = 1e-6; /* reading waits for something: the more, the more KV there is */
    p = probe_on(&m, &kv, 10, 7900);
    check_budgets(&m, &kv, &p, 1e-9);
}

static void test_computing_decides_where_the_disk_is_fast(void **state)
{
    (void)state;
    machine m = usual;
    m.page = 1e-7;
    plan_kv kv = smol(7900);
    plan_probe p = probe_on(&m, &kv, 30, 7900);
    check_budgets(&m, &kv, &p, 1e-9);
}

static void test_what_fits_is_as_fast_as_in_ram(void **state)
{
    (void)state;
    plan_kv kv = smol(7900);
    plan_probe p = probe_on(&usual, &kv, 30, 7900);
    uint64_t enough = plan_pages(&kv) + 14;
    assert_true(plan_missing_pages(&kv, &p, enough) == 0);
    assert_true(plan_step(&kv, &p, enough) == plan_step_in_ram(&kv, &p));
    assert_true(plan_prefill(&kv, &p, enough) == plan_prefill_in_ram(&kv, &p));
    assert_true(plan_missing_pages(&kv, &p, enough - 1) > 0);
}

static void test_less_ram_is_never_faster_and_misses_no_more_than_all(void **state)
{
    (void)state;
    plan_kv kv = smol(7900);
    plan_probe p = probe_on(&usual, &kv, 12, 5000);
    double step = 0, prefill = 0;
    for (uint64_t n_frames = plan_pages(&kv) + 100; n_frames > 50; n_frames -= 50) {
        double this_step = plan_step(&kv, &p, n_frames);
        double this_prefill = plan_prefill(&kv, &p, n_frames);
        assert_true(this_step >= step && this_prefill >= prefill);
        assert_true(plan_missing_pages(&kv, &p, n_frames) <= (double)plan_pages(&kv));
        step = this_step;
        prefill = this_prefill;
    }
}

static void test_prefill_reads_nothing_back_while_a_layer_fits(void **state)
{
    (void)state;
    plan_kv kv = smol(7900);
    plan_probe p = probe_on(&usual, &kv, 30, 7900);
    double in_ram = plan_prefill_in_ram(&kv, &p);
    assert_true(plan_prefill(&kv, &p, 124 + 14) == in_ram);
    machine slow = usual;
    slow.page = 1e-2;
    p = probe_on(&slow, &kv, 30, 7900);
    assert_true(plan_prefill(&kv, &p, 124 + 14) == in_ram);
    assert_true(plan_prefill(&kv, &p, 60) > 2 * in_ram);
}

static void test_prefill_waits_for_a_slow_disk(void **state)
{
    (void)state;
    machine m = usual;
    m.write_per_second = 1e5;
    plan_kv kv = smol(7900);
    plan_probe p = probe_on(&m, &kv, 30, 7900);
    double below = (double)(plan_pages(&kv) - 1000) * 49152;
    assert_near(plan_prefill(&kv, &p, 1000), below / 1e5, 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_whole_pages_of_whole_slots),
        cmocka_unit_test(test_every_page_is_written_once),
        cmocka_unit_test(test_probe_of_the_whole_model_is_its_own_prediction),
        cmocka_unit_test(test_step_is_extrapolated_over_layers_and_context),
        cmocka_unit_test(test_prefill_is_extrapolated_over_layers_and_context),
        cmocka_unit_test(test_short_context_has_one_kind_of_chunk),
        cmocka_unit_test(test_noise_does_not_make_more_work_faster),
        cmocka_unit_test(test_disk_decides_where_it_is_slower_than_computing),
        cmocka_unit_test(test_computing_decides_where_the_disk_is_fast),
        cmocka_unit_test(test_what_fits_is_as_fast_as_in_ram),
        cmocka_unit_test(test_less_ram_is_never_faster_and_misses_no_more_than_all),
        cmocka_unit_test(test_prefill_reads_nothing_back_while_a_layer_fits),
        cmocka_unit_test(test_prefill_waits_for_a_slow_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
