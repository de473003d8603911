/* test_attend.c - kvp_attend() against attention computed in float64 over flat arrays.
 *
 * The problems and their solutions are attend_problem.h's. The pages come from kv_source.h: linked
 * with flat_scan.c this tests attention alone, linked with pager_source.c and the library it tests
 * the whole way of the data. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/attend_problem.h"
#include "tests/support/kv_source.h"
#include "tests/support/round.h"

/* ---- shapes, lengths, dtypes ---------------------------------------------------------- */

static const kvp_dtype dtypes[] = {KVP_F32, KVP_F16, KVP_BF16};
static const uint32_t widths[] = {64, 48, 80, 96, 128, 256, 40, 20, 1, 7};

static void check_widths(size_t n_queries)
{
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (size_t d = 0; d < 3; d++)
            for (uint32_t group = 1; group <= 4; group++)
                problem_check((shape){.k_width = widths[w],
                                      .dtype = dtypes[d],
                                      .kv_heads = group == 3 ? 1 : 2,
                                      .group = group,
                                      .n_tokens = 97,
                                      .n_queries = n_queries});
}

static void test_decode_every_width_matches_float64(void **state)
{
    (void)state;
    check_widths(1);
}

static void test_prefill_every_width_matches_float64(void **state)
{
    (void)state;
    check_widths(21);
}

static void test_k_and_v_of_different_width_match_float64(void **state)
{
    (void)state;
    static const uint32_t pairs[][2] = {{64, 128}, {128, 40}, {7, 300}, {300, 7}, {1, 16}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        for (size_t d = 0; d < 3; d++)
            for (size_t n = 1; n <= 33; n += 32)
                problem_check((shape){.k_width = pairs[i][0],
                                      .v_width = pairs[i][1],
                                      .dtype = dtypes[d],
                                      .group = 2,
                                      .n_tokens = 150,
                                      .n_queries = n});
}

static void test_lengths_around_a_page_match_float64(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 2, 15, 16, 17, 31, 32, 33, 17 * 16, 17 * 16 + 5, 40 * 16};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t n = 1; n <= lengths[i] && n <= 200; n = n * 3 + 1)
            problem_check((shape){.kv_heads = 3,
                                  .group = 2,
                                  .k_width = 16,
                                  .page_tokens = 16,
                                  .page_heads = 2,
                                  .dtype = KVP_F16,
                                  .n_tokens = lengths[i],
                                  .n_queries = n});
}

/* A page begins, and a block of a page that has several, after every number of keys. */
static void test_every_length_matches_float64(void **state)
{
    (void)state;
    for (size_t n_tokens = 1; n_tokens <= 3 * 80; n_tokens++)
        problem_check((shape){.kv_heads = 1,
                              .group = 1 + (uint32_t)n_tokens % 5,
                              .k_width = 16,
                              .page_tokens = n_tokens % 2 ? 16 : 80,
                              .dtype = dtypes[n_tokens % 3],
                              .n_tokens = n_tokens,
                              .n_queries = 1 + n_tokens % 3 % n_tokens});
}

static void test_page_sizes_match_float64(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 3, 63, 65, 100, 128, 200, 1000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t n = 1; n <= 50; n += 7)
            problem_check((shape){.k_width = 24,
                                  .group = 2,
                                  .page_tokens = sizes[i],
                                  .dtype = KVP_BF16,
                                  .n_tokens = 260,
                                  .n_queries = n});
}

static void test_gqa_mqa_and_uneven_lanes_match_float64(void **state)
{
    (void)state;
    static const uint32_t shapes[][4] = {/* kv_heads, group, page_heads, width */
                                         {12, 1, 4, 32}, {3, 3, 2, 32},  {8, 4, 3, 32},
                                         {1, 16, 1, 32}, {1, 71, 1, 32}, {2, 3, 2, 48},
                                         {2, 3, 1, 20},  {2, 7, 2, 64},  {2, 7, 1, 48}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t n = 1; n <= 65; n = n * 8 + 1)
            problem_check((shape){.kv_heads = shapes[i][0],
                                  .group = shapes[i][1],
                                  .page_heads = shapes[i][2],
                                  .k_width = shapes[i][3],
                                  .page_tokens = 16,
                                  .dtype = KVP_F16,
                                  .n_tokens = 300,
                                  .n_queries = n});
}

/* ---- positions, windows --------------------------------------------------------------- */

static void test_no_tokens_give_zeros(void **state)
{
    (void)state;
    static const uint64_t zeros[20];
    for (size_t n = 1; n <= 20; n += 19)
        problem_check((shape){.n_queries = n, .positions = zeros});
}

static void test_explicit_positions_match_float64(void **state)
{
    (void)state;
    /* Equal ones, gaps, the last token, and beyond it. */
    static const uint64_t positions[] = {0,  0,  1,  15, 16, 30,  31,  31,  40,  90,        91,
                                         92, 93, 94, 95, 99, 100, 101, 102, 500, UINT64_MAX};
    for (size_t n = 1; n <= 21; n += 4)
        for (uint64_t window = 0; window <= 20; window += 10)
            problem_check((shape){.page_tokens = 16,
                                  .n_tokens = 103,
                                  .n_queries = n,
                                  .window = window,
                                  .sinks = window / 2,
                                  .positions = positions});
}

static void test_window_and_sinks_see_whole_pages(void **state)
{
    (void)state;
    static const uint64_t windows[] = {1, 15, 16, 17, 64, 100, 1000};
    static const uint64_t sinks[] = {0, 1, 16, 17, 1000};
    for (size_t w = 0; w < 7; w++)
        for (size_t i = 0; i < 5; i++)
            for (size_t n = 1; n <= 90; n = n * 9)
                problem_check((shape){.page_tokens = 16,
                                      .k_width = 16,
                                      .n_tokens = 395,
                                      .n_queries = n,
                                      .window = windows[w],
                                      .sinks = sinks[i]});
}

static void test_pages_of_sinks_are_scored_with_queries_of_their_own(void **state)
{
    (void)state;
    static const uint64_t windows[] = {0, 1, 17, 100, 1000}; /* 0: sinks hide nothing */
    static const uint64_t sinks[] = {1, 16, 17, 40, 1000};   /* whole and partial pages */
    for (size_t w = 0; w < 5; w++)
        for (size_t i = 0; i < 5; i++)
            for (size_t n = 1; n <= 250; n = n * 6 + 1) /* both paths */
                problem_check((shape){.page_tokens = 16,
                                      .k_width = 16,
                                      .kv_heads = 2,
                                      .group = 3,
                                      .page_heads = 1,
                                      .dtype = KVP_F16,
                                      .n_tokens = 270,
                                      .n_queries = n,
                                      .window = windows[w],
                                      .sinks = sinks[i],
                                      .has_q_sinks = true,
                                      .stride_gap = n == 7 ? 5 : 0});
}

/* Where queries for sinks are those for the other pages, giving them changes no bit. */
static void test_equal_queries_for_sinks_change_no_bit(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 60; n += 59) {
        problem p = problem_make((shape){
            .page_tokens = 16, .n_tokens = 300, .n_queries = n, .window = 100, .sinks = 20});
        const size_t n_out = n * p.n_heads * 64, n_mass = n * p.n_heads * p.n_pages;
        float *out = must_calloc(n_out, sizeof *out), *mass = must_calloc(n_mass, sizeof *mass);
        problem_run(&p);
        memcpy(out, p.out, n_out * sizeof *out);
        memcpy(mass, p.mass, n_mass * sizeof *mass);
        p.args.q_sinks = p.q;
        problem_run(&p);
        assert_memory_equal(out, p.out, n_out * sizeof *out);
        assert_memory_equal(mass, p.mass, n_mass * sizeof *mass);
        free(out);
        free(mass);
        problem_free(&p);
    }
}

static void test_evicted_pages_are_not_seen(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 30; n += 29) {
        problem p = problem_make((shape){.page_tokens = 16,
                                         .n_tokens = 400,
                                         .n_queries = n,
                                         .evict_begin = 32,
                                         .evict_end = 320});
        assert_int_equal(kvp_seq_evict(p.seq, 0, 32, 320), KVP_OK);
        assert_int_equal(kvp_seq_page_count(p.seq, 0), 7);
        problem_solve(&p);
        /* The pages that are left move up: [..][25] of the oracle to [..][7]. */
        for (size_t row = 0; row < n * p.n_heads; row++)
            for (size_t page = 0; page < 7; page++)
                p.want_mass[row * 7 + page] = p.want_mass[row * 25 + page + (page < 2 ? 0 : 18)];
        p.n_pages = 7;
        problem_run(&p);
        problem_assert_solved(&p);
        problem_free(&p);
    }
}

static void test_strides_leave_the_gaps_alone(void **state)
{
    (void)state;
    for (size_t n = 2; n <= 40; n += 38) {
        problem p = problem_make((shape){.n_tokens = 80, .n_queries = n, .stride_gap = 5});
        const size_t row = p.n_heads * 64, stride = row + 5;
        float *before = must_calloc(n * stride, sizeof *before);
        memcpy(before, p.out, n * stride * sizeof *before);
        problem_solve(&p);
        problem_run(&p);
        problem_assert_solved(&p);
        for (size_t i = 0; i < n; i++)
            assert_memory_equal(p.out + i * stride + row, before + i * stride + row,
                                5 * sizeof *before);
        free(before);
        problem_free(&p);
    }
}

static void test_small_workspace_takes_several_passes(void **state)
{
    (void)state;
    /* Pages of 4 KiB hold (m, l) of 512 rows: by queries, by query heads, by planes. */
    static const uint32_t shapes[][4] = {/* kv_heads, group, width, queries */
                                         {1, 64, 16, 20},
                                         {1, 520, 2, 3},
                                         {530, 1, 1, 2},
                                         {260, 3, 1, 3},
                                         {1, 8, 256, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        problem_check((shape){.kv_heads = shapes[i][0],
                              .group = shapes[i][1],
                              .k_width = shapes[i][2],
                              .page_tokens = 2,
                              .dtype = KVP_F16,
                              .n_tokens = 21,
                              .n_queries = shapes[i][3]});
}

/* ---- exactness ------------------------------------------------------------------------ */

static const shape exact_shapes[] = {
    {.kv_heads = 4,
     .group = 3,
     .page_heads = 2,
     .page_tokens = 16,
     .dtype = KVP_F16,
     .n_tokens = 1500,
     .n_queries = 1},
    {.kv_heads = 2,
     .group = 1,
     .page_heads = 1,
     .page_tokens = 4,
     .dtype = KVP_BF16,
     .n_tokens = 700,
     .n_queries = 5,
     .window = 200,
     .sinks = 10},
    {.kv_heads = 2, .group = 2, .page_tokens = 16, .n_tokens = 300, .n_queries = 111},
};

/* Who runs the parts, and in which order. */
typedef struct order {
    uint32_t n_threads;
    bool runs_backwards, swaps_items;
} order;

static problem run_exact(size_t i, order o)
{
    problem_seed(PROBLEM_SEED + i);
    shape s = exact_shapes[i];
    s.n_threads = o.n_threads;
    s.runs_backwards = o.runs_backwards;
    s.swaps_items = o.swaps_items;
    problem p = problem_make(s);
    problem_run(&p);
    return p;
}

static void assert_same_bits(const problem *a, const problem *b)
{
    size_t n_out = a->s.n_queries * a->n_heads * a->s.v_width;
    size_t n_mass = a->s.n_queries * a->n_heads * a->n_pages;
    assert_memory_equal(a->out, b->out, n_out * sizeof(float));
    assert_memory_equal(a->mass, b->mass, n_mass * sizeof(float));
}

static void test_threads_and_their_order_change_no_bit(void **state)
{
    (void)state;
    static const order orders[] = {{2, false, false}, {4, false, false}, {3, true, false}};
    for (size_t isa = 0; isa < PROBLEM_N_ISAS; isa++)
        for (size_t i = 0; i < 3 && problem_use_isa(isa); i++) {
            problem one = run_exact(i, (order){.n_threads = 1});
            for (size_t k = 0; k < 3; k++) {
                problem other = run_exact(i, orders[k]);
                assert_same_bits(&one, &other);
                problem_free(&other);
            }
            problem_free(&one);
        }
}

static void test_segments_that_finish_out_of_order_change_no_bit(void **state)
{
    (void)state;
    problem one = run_exact(0, (order){.n_threads = 1});
    problem other = run_exact(0, (order){.n_threads = 2, .swaps_items = true});
    assert_same_bits(&one, &other);
    problem_free(&other);
    problem_free(&one);
}

/* 8 MiB of KV; ram_bytes 0: all of it in RAM. */
static problem run_large(size_t n_queries, uint32_t n_threads, uint64_t ram_bytes)
{
    problem_seed(PROBLEM_SEED);
    problem p = problem_make((shape){.kv_heads = 4,
                                     .dtype = KVP_F16,
                                     .n_tokens = 8192,
                                     .n_queries = n_queries,
                                     .n_threads = n_threads,
                                     .ram_bytes = ram_bytes});
    problem_run(&p);
    return p;
}

static void test_where_pages_lie_changes_no_bit(void **state)
{
    (void)state;
    static const uint32_t n_threads[] = {1, 2, 4};
    for (size_t n = 1; n <= 10; n += 9) {
        problem resident = run_large(n, 2, 0);
        for (size_t i = 0; i < 3; i++) {
            problem paged = run_large(n, n_threads[i], 1 << 20);
            uint64_t faults;
            if (kv_source_major_faults(paged.seq, &faults))
                assert_true(faults > 0);
            assert_same_bits(&resident, &paged);
            problem_free(&paged);
        }
        problem_free(&resident);
    }
}

static void test_page_mass_changes_no_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        problem p = run_exact(i, (order){.n_threads = 2});
        size_t n = p.s.n_queries * p.n_heads * p.s.v_width;
        float *with = must_calloc(n, sizeof *with);
        memcpy(with, p.out, n * sizeof *with);
        p.args.page_mass = NULL;
        problem_run(&p);
        assert_memory_equal(with, p.out, n * sizeof *with);
        free(with);
        problem_free(&p);
    }
}

static void test_page_mass_rows_sum_to_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        problem p = run_exact(i, (order){.n_threads = 2});
        for (size_t row = 0; row < p.s.n_queries * p.n_heads; row++) {
            double sum = 0;
            for (size_t page = 0; page < p.n_pages; page++)
                sum += (double)p.mass[row * p.n_pages + page];
            bool ok = fabs(sum - 1) <= 1e-6;
            assert_true(ok);
        }
        problem_free(&p);
    }
}

/* ---- numbers -------------------------------------------------------------------------- */

/* Flat attention over values of mean 1: what stagnates when outputs accumulate in f16. */
static void test_f16_at_65536_flat_tokens_is_within_1e_5(void **state)
{
    (void)state;
    for (size_t isa = 0; isa < PROBLEM_N_ISAS; isa++)
        for (size_t n = 1; n <= 9; n += 8) {
            if (!problem_use_isa(isa))
                continue;
            problem p = problem_make((shape){
                .kv_heads = 1, .k_width = 64, .dtype = KVP_F16, .n_tokens = 65536, .n_queries = n});
            p.args.role = n == 1 ? KVP_DECODE : KVP_PREFILL;
            kv_source_close(p.seq);
            double mean[64] = {0};
            for (size_t i = 0; i < 65536 * 64; i++) {
                p.k[i] = round_to(p.k[i] * 0.01f, KVP_F16);
                p.v[i] = round_to(1 + p.v[i], KVP_F16);
                mean[i % 64] += (double)p.v[i] / 65536;
            }
            problem_open(&p);
            p.args.page_mass = NULL;
            for (size_t c = 0; c < 64; c++)
                assert_true(fabs(mean[c] - 1) < 0.02); /* flat indeed */
            problem_solve(&p);
            problem_run(&p);
            double error = 0, norm = 0;
            for (size_t i = 0; i < n * 64; i++) {
                error += pow((double)p.out[i] - p.want[i], 2);
                norm += pow(p.want[i], 2);
            }
            printf("%s, %zu queries: relative error %.2g\n", kvp_isa(), n, sqrt(error / norm));
            bool ok = sqrt(error / norm) <= 1e-5;
            assert_true(ok);
            problem_free(&p);
        }
}

/* Logits of +-1e30 and beyond what float32 holds: the largest takes all. */
static void test_huge_logits_stay_finite(void **state)
{
    (void)state;
    for (size_t isa = 0; isa < PROBLEM_N_ISAS; isa++)
        for (size_t n = 1; n <= 17; n += 16)
            for (float size = 1e4f; size < 1e21f; size *= 1e15f) {
                if (!problem_use_isa(isa))
                    continue;
                problem p = problem_make((shape){.k_width = 16, .n_tokens = 90, .n_queries = n});
                kv_source_close(p.seq);
                for (size_t i = 0; i < 90 * 2 * 16; i++)
                    p.k[i] *= size;
                for (size_t i = 0; i < n * 2 * 16; i++)
                    p.q[i] *= size;
                problem_open(&p);
                problem_run(&p);
                for (size_t i = 0; i < n * 2 * 16; i++) {
                    bool ok = fabsf(p.out[i]) <= 1;
                    assert_true(ok);
                }
                problem_free(&p);
            }
}

static void test_equal_logits_give_the_mean(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 17; n += 16) {
        problem p = problem_make((shape){.k_width = 16, .n_tokens = 90, .n_queries = n});
        memset(p.q, 0, n * 2 * 16 * sizeof *p.q);
        problem_solve(&p);
        problem_run(&p);
        problem_assert_solved(&p);
        for (size_t h = 0; h < 2; h++) { /* of the last query, which sees all */
            double mean = 0;
            for (size_t j = 0; j < 90; j++)
                mean += (double)p.v[(j * 2 + h) * 16] / 90;
            double diff = fabs(mean - (double)p.out[((n - 1) * 2 + h) * 16]);
            bool ok = diff <= PROBLEM_TOLERANCE;
            assert_true(ok);
        }
        problem_free(&p);
    }
}

/* ---- errors --------------------------------------------------------------------------- */

static void assert_refused(problem *p, kvp_status status, const char *word)
{
    assert_int_equal(kvp_attend(p->seq, 0, &p->args), status);
    if (!strstr(kvp_error(), word))
        fail_msg("\"%s\" does not mention \"%s\"", kvp_error(), word);
}

static void test_bad_arguments_are_refused_with_a_message(void **state)
{
    (void)state;
    static const uint64_t falling[] = {5, 4};
    problem p = problem_make((shape){.n_tokens = 10, .n_queries = 2});
    const kvp_attend_args good = p.args;
    float one = 0;
    assert_int_equal(kvp_attend(NULL, 0, &good), KVP_E_INVALID);
    assert_int_equal(kvp_attend(p.seq, 0, NULL), KVP_E_INVALID);
    assert_int_equal(kvp_attend(p.seq, 7, &good), KVP_E_INVALID);
    p.args.n_heads = 3;
    assert_refused(&p, KVP_E_INVALID, "n_heads is 3");
    p.args.n_heads = 0;
    assert_refused(&p, KVP_E_INVALID, "n_heads is 0");
    p.args = good;
    p.args.q = NULL;
    assert_refused(&p, KVP_E_INVALID, "q is NULL");
    p.args = good;
    p.args.out = NULL;
    assert_refused(&p, KVP_E_INVALID, "out is NULL");
    p.args = good;
    p.args.scale = NAN;
    assert_refused(&p, KVP_E_INVALID, "scale");
    p.args = good;
    p.args.role = (kvp_attend_role)2;
    assert_refused(&p, KVP_E_INVALID, "role is 2");
    p.args = good;
    p.args.m = &one;
    assert_refused(&p, KVP_E_INVALID, "l is NULL");
    p.args = good;
    p.args.pages.o = &one;
    assert_refused(&p, KVP_E_INVALID, "pages.m");
    p.args.pages = (kvp_partial){&one, &one, &one};
    p.args.role = KVP_PREFILL;
    assert_refused(&p, KVP_E_INVALID, "KVP_DECODE");
    p.args = good;
    p.args.q_stride = 127;
    assert_refused(&p, KVP_E_INVALID, "q_stride is 127");
    p.args = good;
    p.args.out_stride = 127;
    assert_refused(&p, KVP_E_INVALID, "out_stride is 127");
    p.args = good;
    p.args.n_queries = 11;
    assert_refused(&p, KVP_E_RANGE, "11 queries");
    p.args = good;
    p.args.positions = falling;
    assert_refused(&p, KVP_E_RANGE, "positions[1] is 4");
    problem_free(&p);
}

static void test_no_queries_do_nothing(void **state)
{
    (void)state;
    problem p = problem_make((shape){.n_tokens = 10});
    p.args.q = NULL;
    p.args.out = NULL;
    p.args.page_mass = NULL;
    problem_run(&p);
    problem_free(&p);
}

static void test_unknown_isa_is_refused(void **state)
{
    (void)state;
    problem p = problem_make((shape){.n_tokens = 10, .n_queries = 1});
    setenv("KVP_ISA", "z80", 1);
    assert_null(kvp_isa());
    assert_non_null(strstr(kvp_error(), "scalar"));
    assert_refused(&p, KVP_E_UNSUPPORTED, "KVP_ISA=z80");
    unsetenv("KVP_ISA");
    assert_non_null(kvp_isa());
    problem_run(&p);
    problem_free(&p);
}

/* Every read fails once: the call reports it, with the text of the thread that met it, and the
 * next call works. */
static void test_failed_page_fails_the_call_only(void **state)
{
    (void)state;
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++)
        for (size_t n = 1; n <= 9; n += 8) {
            problem p = problem_make((shape){.page_tokens = 4,
                                             .page_heads = 1,
                                             .n_tokens = 400,
                                             .n_queries = n,
                                             .n_threads = n_threads});
            uint64_t n_reads = 2 * p.n_pages;
            if (!kv_source_fail_next(p.seq, 0)) { /* this source cannot */
                problem_free(&p);
                continue;
            }
            problem_solve(&p);
            for (uint64_t i = 1; i <= n_reads; i += 13) {
                kv_source_fail_next(p.seq, i);
                assert_refused(&p, KVP_E_IO, "injected");
            }
            kv_source_fail_next(p.seq, 0);
            problem_run(&p);
            problem_assert_solved(&p);
            problem_free(&p);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_every_width_matches_float64),
        cmocka_unit_test(test_prefill_every_width_matches_float64),
        cmocka_unit_test(test_k_and_v_of_different_width_match_float64),
        cmocka_unit_test(test_lengths_around_a_page_match_float64),
        cmocka_unit_test(test_every_length_matches_float64),
        cmocka_unit_test(test_page_sizes_match_float64),
        cmocka_unit_test(test_gqa_mqa_and_uneven_lanes_match_float64),
        cmocka_unit_test(test_no_tokens_give_zeros),
        cmocka_unit_test(test_explicit_positions_match_float64),
        cmocka_unit_test(test_window_and_sinks_see_whole_pages),
        cmocka_unit_test(test_pages_of_sinks_are_scored_with_queries_of_their_own),
        cmocka_unit_test(test_equal_queries_for_sinks_change_no_bit),
        cmocka_unit_test(test_evicted_pages_are_not_seen),
        cmocka_unit_test(test_strides_leave_the_gaps_alone),
        cmocka_unit_test(test_small_workspace_takes_several_passes),
        cmocka_unit_test(test_threads_and_their_order_change_no_bit),
        cmocka_unit_test(test_segments_that_finish_out_of_order_change_no_bit),
        cmocka_unit_test(test_where_pages_lie_changes_no_bit),
        cmocka_unit_test(test_page_mass_changes_no_bit),
        cmocka_unit_test(test_page_mass_rows_sum_to_one),
        cmocka_unit_test(test_f16_at_65536_flat_tokens_is_within_1e_5),
        cmocka_unit_test(test_huge_logits_stay_finite),
        cmocka_unit_test(test_equal_logits_give_the_mean),
        cmocka_unit_test(test_bad_arguments_are_refused_with_a_message),
        cmocka_unit_test(test_no_queries_do_nothing),
        cmocka_unit_test(test_unknown_isa_is_refused),
        cmocka_unit_test(test_failed_page_fails_the_call_only),
    };
    printf("seed %#llx\n", (unsigned long long)PROBLEM_SEED);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
