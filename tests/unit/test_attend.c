/* test_attend.c - kvp_attend() against attention computed in float64 over flat arrays.
 *
 * The pages come from kv_source.h: linked with flat_scan.c this tests attention alone, linked with
 * pager_source.c and the library it tests the whole way of the data.
 *
 * Tolerances: values are uniform in [-1, 1], so outputs are below 1 in magnitude. float32
 * arithmetic over a few hundred keys of width 256 stays below 2e-5; masses are below 1 too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/kv_source.h"
#include "tests/support/round.h"

#define SEED UINT64_C(0x6b767061676572)
#define TOLERANCE 2e-5

static uint64_t rng_state = SEED;

static double uniform(void) /* [-1, 1), splitmix64 */
{
    uint64_t z = (rng_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (double)((z ^ z >> 31) >> 11) * 0x1p-52 - 1;
}

/* ---- a case ---------------------------------------------------------------------------------- */

/* What to attend; members that are 0 take the values of make_problem(). */
typedef struct shape {
    uint32_t kv_heads, group, k_width, v_width;
    kvp_dtype dtype;
    uint32_t page_tokens, page_heads;
    size_t n_tokens, n_queries;
    uint64_t window, sinks;
    uint32_t n_threads;
    bool runs_backwards, swaps_items;
    uint64_t ram_bytes;
    size_t evict_begin, evict_end; /* tokens that are gone; the case evicts them */
    size_t stride_gap;             /* floats between rows of q and of out */
    const uint64_t *positions;
} shape;

typedef struct problem {
    shape s;
    float *k, *v, *q, *out, *mass;
    double *want, *want_mass;
    kvp_seq *seq;
    kvp_attend_args args;
    size_t n_pages, n_heads;
} problem;

static void *must_calloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

static float *random_rows(size_t n, kvp_dtype dtype)
{
    float *x = must_calloc(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = round_to((float)uniform(), dtype);
    return x;
}

static void open_source(problem *p)
{
    const shape *s = &p->s;
    kv_source source = {
        .kind = {s->kv_heads, s->k_width, s->v_width, s->dtype},
        .page_tokens = s->page_tokens,
        .page_heads = s->page_heads,
        .n_tokens = s->n_tokens,
        .k = p->k,
        .v = p->v,
        .n_threads = s->n_threads,
        .runs_backwards = s->runs_backwards,
        .swaps_items = s->swaps_items,
        .ram_bytes = s->ram_bytes,
    };
    p->seq = kv_source_open(&source);
}

static problem make_problem(shape s)
{
    s.kv_heads = s.kv_heads ? s.kv_heads : 2;
    s.group = s.group ? s.group : 1;
    s.k_width = s.k_width ? s.k_width : 64;
    s.v_width = s.v_width ? s.v_width : s.k_width;
    s.page_tokens = s.page_tokens ? s.page_tokens : 64;
    s.page_heads = s.page_heads ? s.page_heads : s.kv_heads;
    s.n_threads = s.n_threads ? s.n_threads : 2;
    problem p = {.s = s, .n_heads = (size_t)s.kv_heads * s.group};
    p.k = random_rows(s.n_tokens * s.kv_heads * s.k_width, s.dtype);
    p.v = random_rows(s.n_tokens * s.kv_heads * s.v_width, s.dtype);
    size_t q_stride = p.n_heads * s.k_width + s.stride_gap;
    size_t out_stride = p.n_heads * s.v_width + s.stride_gap;
    p.q = random_rows(s.n_queries * q_stride, KVP_F32);
    p.out = random_rows(s.n_queries * out_stride, KVP_F32);
    p.want = must_calloc(s.n_queries * out_stride, sizeof *p.want);
    open_source(&p);
    p.n_pages = kvp_seq_page_count(p.seq, 0);
    p.mass = must_calloc(s.n_queries * p.n_heads * p.n_pages, sizeof *p.mass);
    p.want_mass = must_calloc(s.n_queries * p.n_heads * p.n_pages, sizeof *p.want_mass);
    p.args = (kvp_attend_args){
        .q = p.q,
        .out = p.out,
        .n_queries = s.n_queries,
        .n_heads = (uint32_t)p.n_heads,
        .scale = 1.0f / sqrtf((float)s.k_width),
        .q_stride = s.stride_gap ? q_stride : 0,
        .out_stride = s.stride_gap ? out_stride : 0,
        .positions = s.positions,
        .window = s.window,
        .sinks = s.sinks,
        .page_mass = p.mass,
    };
    return p;
}

static void free_problem(problem *p)
{
    kv_source_close(p->seq);
    free(p->k);
    free(p->v);
    free(p->q);
    free(p->out);
    free(p->mass);
    free(p->want);
    free(p->want_mass);
}

/* ---- the oracle ------------------------------------------------------------------------------ */

/* The rule of attention.h, token by token: causal, and by whole pages inside the window. */
static bool sees(const shape *s, uint64_t position, size_t token)
{
    if (token > position || (token >= s->evict_begin && token < s->evict_end))
        return false;
    size_t first = token / s->page_tokens * s->page_tokens;
    size_t last = first + s->page_tokens - 1;
    last = last < s->n_tokens ? last : s->n_tokens - 1;
    return s->window == 0 || last + s->window > position || first < s->sinks;
}

static uint64_t position_of(const shape *s, size_t query)
{
    return s->positions ? s->positions[query] : s->n_tokens - s->n_queries + query;
}

static void solve_row(const problem *p, size_t query, size_t head, double *score)
{
    const shape *s = &p->s;
    const size_t kv = head / s->group, n = s->n_tokens;
    const float *q = p->q + query * (p->n_heads * s->k_width + s->stride_gap) + head * s->k_width;
    double *out = p->want + query * (p->n_heads * s->v_width + s->stride_gap) + head * s->v_width;
    double *mass = p->want_mass + (query * p->n_heads + head) * p->n_pages;
    double top = -INFINITY, sum = 0;
    for (size_t j = 0; j < n; j++) {
        const float *k = p->k + (j * s->kv_heads + kv) * s->k_width;
        double dot = 0;
        for (size_t d = 0; d < s->k_width; d++)
            dot += (double)q[d] * (double)k[d];
        score[j] = sees(s, position_of(s, query), j) ? dot * (double)p->args.scale : -INFINITY;
        top = fmax(top, score[j]);
    }
    for (size_t j = 0; j < n && top > -INFINITY; j++)
        sum += exp(score[j] - top);
    for (size_t j = 0; j < n && top > -INFINITY; j++) {
        double weight = exp(score[j] - top) / sum;
        mass[j / s->page_tokens] += weight;
        const float *v = p->v + (j * s->kv_heads + kv) * s->v_width;
        for (size_t c = 0; weight > 0 && c < s->v_width; c++)
            out[c] += weight * (double)v[c];
    }
}

static void solve(problem *p)
{
    double *score = must_calloc(p->s.n_tokens, sizeof *score);
    for (size_t i = 0; i < p->s.n_queries; i++)
        for (size_t h = 0; h < p->n_heads; h++)
            solve_row(p, i, h, score);
    free(score);
}

/* ---- running and comparing ------------------------------------------------------------------- */

static const char *const isas[] = {"scalar", "avx2"};

static bool use_isa(const char *isa)
{
    setenv("KVP_ISA", isa, 1);
    return kvp_isa() != NULL;
}

static void run(problem *p)
{
    if (kvp_attend(p->seq, 0, &p->args))
        fail_msg("kvp_attend: %s", kvp_error());
}

static void assert_near(const float *got, const double *want, size_t n, double tolerance,
                        const char *what)
{
    for (size_t i = 0; i < n; i++) {
        double diff = fabs((double)got[i] - want[i]);
        bool ok = diff <= tolerance;
        if (!ok)
            fail_msg("%s[%zu] is %.9g, not %.9g (%s)", what, i, (double)got[i], want[i], kvp_isa());
    }
}

static void assert_solved(const problem *p)
{
    const shape *s = &p->s;
    const size_t row = p->n_heads * s->v_width, stride = row + s->stride_gap;
    for (size_t i = 0; i < s->n_queries; i++)
        assert_near(p->out + i * stride, p->want + i * stride, row, TOLERANCE, "out");
    if (p->args.page_mass)
        assert_near(p->mass, p->want_mass, s->n_queries * p->n_heads * p->n_pages, TOLERANCE,
                    "mass");
}

/* The case on every instruction set of this CPU. */
static void check(shape s)
{
    problem p = make_problem(s);
    solve(&p);
    for (size_t i = 0; i < 2; i++)
        if (use_isa(isas[i])) {
            run(&p);
            assert_solved(&p);
        }
    free_problem(&p);
}

/* ---- shapes, lengths, dtypes ----------------------------------------------------------------- */

static const kvp_dtype dtypes[] = {KVP_F32, KVP_F16, KVP_BF16};
static const uint32_t widths[] = {64, 80, 96, 128, 256, 40, 1, 7};

static void check_widths(size_t n_queries)
{
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (size_t d = 0; d < 3; d++)
            for (uint32_t group = 1; group <= 4; group++)
                check((shape){.k_width = widths[w],
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
                check((shape){.k_width = pairs[i][0],
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
            check((shape){.kv_heads = 3,
                          .group = 2,
                          .k_width = 16,
                          .page_tokens = 16,
                          .page_heads = 2,
                          .dtype = KVP_F16,
                          .n_tokens = lengths[i],
                          .n_queries = n});
}

static void test_page_sizes_match_float64(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 3, 63, 65, 100, 128, 200, 1000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t n = 1; n <= 50; n += 7)
            check((shape){.k_width = 24,
                          .group = 2,
                          .page_tokens = sizes[i],
                          .dtype = KVP_BF16,
                          .n_tokens = 260,
                          .n_queries = n});
}

static void test_gqa_mqa_and_uneven_lanes_match_float64(void **state)
{
    (void)state;
    static const uint32_t shapes[][3] = {/* kv_heads, group, page_heads */
                                         {12, 1, 4},
                                         {3, 3, 2},
                                         {8, 4, 3},
                                         {1, 16, 1},
                                         {1, 71, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t n = 1; n <= 65; n = n * 8 + 1)
            check((shape){.kv_heads = shapes[i][0],
                          .group = shapes[i][1],
                          .page_heads = shapes[i][2],
                          .k_width = 32,
                          .page_tokens = 16,
                          .dtype = KVP_F16,
                          .n_tokens = 300,
                          .n_queries = n});
}

/* ---- positions, windows ---------------------------------------------------------------------- */

static void test_no_tokens_give_zeros(void **state)
{
    (void)state;
    static const uint64_t zeros[20];
    for (size_t n = 1; n <= 20; n += 19)
        check((shape){.n_queries = n, .positions = zeros});
}

static void test_explicit_positions_match_float64(void **state)
{
    (void)state;
    /* Equal ones, gaps, the last token, and beyond it. */
    static const uint64_t positions[] = {0,  0,  1,  15, 16, 30,  31,  31,  40,  90,        91,
                                         92, 93, 94, 95, 99, 100, 101, 102, 500, UINT64_MAX};
    for (size_t n = 1; n <= 21; n += 4)
        for (uint64_t window = 0; window <= 20; window += 10)
            check((shape){.page_tokens = 16,
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
                check((shape){.page_tokens = 16,
                              .k_width = 16,
                              .n_tokens = 395,
                              .n_queries = n,
                              .window = windows[w],
                              .sinks = sinks[i]});
}

static void test_evicted_pages_are_not_seen(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 30; n += 29) {
        problem p = make_problem((shape){.page_tokens = 16,
                                         .n_tokens = 400,
                                         .n_queries = n,
                                         .evict_begin = 32,
                                         .evict_end = 320});
        assert_int_equal(kvp_seq_evict(p.seq, 0, 32, 320), KVP_OK);
        assert_int_equal(kvp_seq_page_count(p.seq, 0), 7);
        solve(&p);
        /* The pages that are left move up: [..][25] of the oracle to [..][7]. */
        for (size_t row = 0; row < n * p.n_heads; row++)
            for (size_t page = 0; page < 7; page++)
                p.want_mass[row * 7 + page] = p.want_mass[row * 25 + page + (page < 2 ? 0 : 18)];
        p.n_pages = 7;
        run(&p);
        assert_solved(&p);
        free_problem(&p);
    }
}

static void test_strides_leave_the_gaps_alone(void **state)
{
    (void)state;
    for (size_t n = 2; n <= 40; n += 38) {
        problem p = make_problem((shape){.n_tokens = 80, .n_queries = n, .stride_gap = 5});
        const size_t row = p.n_heads * 64, stride = row + 5;
        float *before = must_calloc(n * stride, sizeof *before);
        memcpy(before, p.out, n * stride * sizeof *before);
        solve(&p);
        run(&p);
        assert_solved(&p);
        for (size_t i = 0; i < n; i++)
            assert_memory_equal(p.out + i * stride + row, before + i * stride + row,
                                5 * sizeof *before);
        free(before);
        free_problem(&p);
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
        check((shape){.kv_heads = shapes[i][0],
                      .group = shapes[i][1],
                      .k_width = shapes[i][2],
                      .page_tokens = 2,
                      .dtype = KVP_F16,
                      .n_tokens = 21,
                      .n_queries = shapes[i][3]});
}

/* ---- exactness ------------------------------------------------------------------------------- */

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
    rng_state = SEED + i;
    shape s = exact_shapes[i];
    s.n_threads = o.n_threads;
    s.runs_backwards = o.runs_backwards;
    s.swaps_items = o.swaps_items;
    problem p = make_problem(s);
    run(&p);
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
    for (size_t isa = 0; isa < 2; isa++)
        for (size_t i = 0; i < 3 && use_isa(isas[isa]); i++) {
            problem one = run_exact(i, (order){.n_threads = 1});
            for (size_t k = 0; k < 3; k++) {
                problem other = run_exact(i, orders[k]);
                assert_same_bits(&one, &other);
                free_problem(&other);
            }
            free_problem(&one);
        }
}

static void test_segments_that_finish_out_of_order_change_no_bit(void **state)
{
    (void)state;
    problem one = run_exact(0, (order){.n_threads = 1});
    problem other = run_exact(0, (order){.n_threads = 2, .swaps_items = true});
    assert_same_bits(&one, &other);
    free_problem(&other);
    free_problem(&one);
}

/* 8 MiB of KV; ram_bytes 0: all of it in RAM. */
static problem run_large(size_t n_queries, uint32_t n_threads, uint64_t ram_bytes)
{
    rng_state = SEED;
    problem p = make_problem((shape){.kv_heads = 4,
                                     .dtype = KVP_F16,
                                     .n_tokens = 8192,
                                     .n_queries = n_queries,
                                     .n_threads = n_threads,
                                     .ram_bytes = ram_bytes});
    run(&p);
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
            free_problem(&paged);
        }
        free_problem(&resident);
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
        run(&p);
        assert_memory_equal(with, p.out, n * sizeof *with);
        free(with);
        free_problem(&p);
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
        free_problem(&p);
    }
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* Flat attention over values of mean 1: what stagnates when outputs accumulate in f16. */
static void test_f16_at_65536_flat_tokens_is_within_1e_4(void **state)
{
    (void)state;
    for (size_t isa = 0; isa < 2; isa++)
        for (size_t n = 1; n <= 9; n += 8) { /* both paths */
            if (!use_isa(isas[isa]))
                continue;
            problem p = make_problem((shape){
                .kv_heads = 1, .k_width = 8, .dtype = KVP_F16, .n_tokens = 65536, .n_queries = n});
            kv_source_close(p.seq);
            double mean[8] = {0};
            for (size_t i = 0; i < 65536 * 8; i++) {
                p.k[i] = round_to(p.k[i] * 0.01f, KVP_F16);
                p.v[i] = round_to(1 + p.v[i], KVP_F16);
                mean[i % 8] += (double)p.v[i] / 65536;
            }
            open_source(&p);
            p.args.page_mass = NULL;
            for (size_t c = 0; c < 8; c++)
                assert_true(fabs(mean[c] - 1) < 0.02); /* flat indeed */
            solve(&p);
            run(&p);
            double error = 0, norm = 0;
            for (size_t i = 0; i < n * 8; i++) {
                error += pow((double)p.out[i] - p.want[i], 2);
                norm += pow(p.want[i], 2);
            }
            bool ok = sqrt(error / norm) <= 1e-5; /* the bar is 1e-4 */
            assert_true(ok);
            free_problem(&p);
        }
}

/* Logits of +-1e30 and beyond what float32 holds: the largest takes all. */
static void test_huge_logits_stay_finite(void **state)
{
    (void)state;
    for (size_t isa = 0; isa < 2; isa++)
        for (size_t n = 1; n <= 17; n += 16)
            for (float size = 1e4f; size < 1e21f; size *= 1e15f) {
                if (!use_isa(isas[isa]))
                    continue;
                problem p = make_problem((shape){.k_width = 16, .n_tokens = 90, .n_queries = n});
                kv_source_close(p.seq);
                for (size_t i = 0; i < 90 * 2 * 16; i++)
                    p.k[i] *= size;
                for (size_t i = 0; i < n * 2 * 16; i++)
                    p.q[i] *= size;
                open_source(&p);
                run(&p);
                for (size_t i = 0; i < n * 2 * 16; i++) {
                    bool ok = fabsf(p.out[i]) <= 1;
                    assert_true(ok);
                }
                free_problem(&p);
            }
}

static void test_equal_logits_give_the_mean(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 17; n += 16) {
        problem p = make_problem((shape){.k_width = 16, .n_tokens = 90, .n_queries = n});
        memset(p.q, 0, n * 2 * 16 * sizeof *p.q);
        solve(&p);
        run(&p);
        assert_solved(&p);
        for (size_t h = 0; h < 2; h++) { /* of the last query, which sees all */
            double mean = 0;
            for (size_t j = 0; j < 90; j++)
                mean += (double)p.v[(j * 2 + h) * 16] / 90;
            double diff = fabs(mean - (double)p.out[((n - 1) * 2 + h) * 16]);
            bool ok = diff <= TOLERANCE;
            assert_true(ok);
        }
        free_problem(&p);
    }
}

/* ---- errors ---------------------------------------------------------------------------------- */

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
    problem p = make_problem((shape){.n_tokens = 10, .n_queries = 2});
    const kvp_attend_args good = p.args;
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
    free_problem(&p);
}

static void test_no_queries_do_nothing(void **state)
{
    (void)state;
    problem p = make_problem((shape){.n_tokens = 10});
    p.args.q = NULL;
    p.args.out = NULL;
    p.args.page_mass = NULL;
    run(&p);
    free_problem(&p);
}

static void test_unknown_isa_is_refused(void **state)
{
    (void)state;
    problem p = make_problem((shape){.n_tokens = 10, .n_queries = 1});
    setenv("KVP_ISA", "z80", 1);
    assert_null(kvp_isa());
    assert_non_null(strstr(kvp_error(), "scalar"));
    assert_refused(&p, KVP_E_UNSUPPORTED, "KVP_ISA=z80");
    unsetenv("KVP_ISA");
    assert_non_null(kvp_isa());
    run(&p);
    free_problem(&p);
}

/* Every read fails once: the call reports it, with the text of the thread that met it, and the
 * next call works. */
static void test_failed_page_fails_the_call_only(void **state)
{
    (void)state;
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++)
        for (size_t n = 1; n <= 9; n += 8) {
            problem p = make_problem((shape){.page_tokens = 4,
                                             .page_heads = 1,
                                             .n_tokens = 400,
                                             .n_queries = n,
                                             .n_threads = n_threads});
            uint64_t n_reads = 2 * p.n_pages;
            if (!kv_source_fail_next(p.seq, 0)) { /* this source cannot */
                free_problem(&p);
                continue;
            }
            solve(&p);
            for (uint64_t i = 1; i <= n_reads; i += 13) {
                kv_source_fail_next(p.seq, i);
                assert_refused(&p, KVP_E_IO, "injected");
            }
            kv_source_fail_next(p.seq, 0);
            run(&p);
            assert_solved(&p);
            free_problem(&p);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_every_width_matches_float64),
        cmocka_unit_test(test_prefill_every_width_matches_float64),
        cmocka_unit_test(test_k_and_v_of_different_width_match_float64),
        cmocka_unit_test(test_lengths_around_a_page_match_float64),
        cmocka_unit_test(test_page_sizes_match_float64),
        cmocka_unit_test(test_gqa_mqa_and_uneven_lanes_match_float64),
        cmocka_unit_test(test_no_tokens_give_zeros),
        cmocka_unit_test(test_explicit_positions_match_float64),
        cmocka_unit_test(test_window_and_sinks_see_whole_pages),
        cmocka_unit_test(test_evicted_pages_are_not_seen),
        cmocka_unit_test(test_strides_leave_the_gaps_alone),
        cmocka_unit_test(test_small_workspace_takes_several_passes),
        cmocka_unit_test(test_threads_and_their_order_change_no_bit),
        cmocka_unit_test(test_segments_that_finish_out_of_order_change_no_bit),
        cmocka_unit_test(test_where_pages_lie_changes_no_bit),
        cmocka_unit_test(test_page_mass_changes_no_bit),
        cmocka_unit_test(test_page_mass_rows_sum_to_one),
        cmocka_unit_test(test_f16_at_65536_flat_tokens_is_within_1e_4),
        cmocka_unit_test(test_huge_logits_stay_finite),
        cmocka_unit_test(test_equal_logits_give_the_mean),
        cmocka_unit_test(test_bad_arguments_are_refused_with_a_message),
        cmocka_unit_test(test_no_queries_do_nothing),
        cmocka_unit_test(test_unknown_isa_is_refused),
        cmocka_unit_test(test_failed_page_fails_the_call_only),
    };
    printf("seed %#llx\n", (unsigned long long)SEED);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
