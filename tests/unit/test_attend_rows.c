/* test_attend_rows.c - the invariants of kvp_attend(): a row does not depend on what else is in the
 * call, nor on how the call is run; and what can be had beside the output: partials, of the whole
 * and of each page.
 *
 * The pages come from kv_source.h, as in test_attend.c. */
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

static size_t out_row(const problem *p)
{
    return p->n_heads * p->s.v_width;
}

static float *copy_of(const float *x, size_t n)
{
    float *copy = must_calloc(n, sizeof *copy);
    memcpy(copy, x, n * sizeof *copy);
    return copy;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

/* All queries of the problem, `chunk` to a call. */
static void run_chunks(problem *p, size_t chunk)
{
    const kvp_attend_args all = p->args;
    uint64_t *positions = must_calloc(p->s.n_queries, sizeof *positions);
    for (size_t i = 0; i < p->s.n_queries; i++)
        positions[i] = p->s.n_tokens - p->s.n_queries + i;
    p->args.page_mass = NULL;
    for (size_t i = 0; i < p->s.n_queries; i += chunk) {
        size_t left = p->s.n_queries - i;
        p->args.n_queries = left < chunk ? left : chunk;
        p->args.q = all.q + i * p->n_heads * p->s.k_width;
        p->args.out = all.out + i * out_row(p);
        p->args.positions = positions + i;
        problem_run(p);
    }
    p->args = all;
    free(positions);
}

static void check_chunks(shape s, const size_t *chunks, size_t n_chunks)
{
    for (size_t isa = 0; isa < PROBLEM_N_ISAS; isa++)
        for (kvp_attend_role role = KVP_DECODE; role <= KVP_PREFILL && problem_use_isa(isa);
             role++) {
            problem_seed(PROBLEM_SEED);
            problem p = problem_make(s);
            p.args.role = role;
            run_chunks(&p, s.n_queries);
            float *whole = copy_of(p.out, s.n_queries * out_row(&p));
            for (size_t i = 0; i < n_chunks; i++) {
                memset(p.out, 0xff, s.n_queries * out_row(&p) * sizeof *p.out);
                run_chunks(&p, chunks[i]);
                if (memcmp(whole, p.out, s.n_queries * out_row(&p) * sizeof *whole))
                    fail_msg("%s, role %d: chunks of %zu change bits", kvp_isa(), (int)role,
                             chunks[i]);
            }
            free(whole);
            problem_free(&p);
        }
}

static void test_chunks_change_no_bit(void **state)
{
    (void)state;
    static const size_t chunks[] = {1, 3, 16, 47, 49, 100};
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++)
        check_chunks((shape){.kv_heads = n_threads % 2 ? 1 : 3,
                             .group = n_threads,
                             .page_heads = 2,
                             .k_width = 24,
                             .dtype = (kvp_dtype)(n_threads % 3),
                             .page_tokens = 16,
                             .n_tokens = 330,
                             .n_queries = 300,
                             .window = n_threads == 3 ? 100 : 0,
                             .sinks = 20,
                             .n_threads = n_threads},
                     chunks, sizeof chunks / sizeof *chunks);
}

static void test_a_chunk_of_2048_is_2048_of_one(void **state)
{
    (void)state;
    static const size_t chunks[] = {1, 1000};
    check_chunks((shape){.kv_heads = 1,
                         .group = 1,
                         .k_width = 8,
                         .dtype = KVP_F16,
                         .n_tokens = 2048,
                         .n_queries = 2048,
                         .n_threads = 1},
                 chunks, 2);
}

/* ---- partials -------------------------------------------------------------------------------- */

static void test_partials_divided_are_the_output(void **state)
{
    (void)state;
    for (kvp_attend_role role = KVP_DECODE; role <= KVP_PREFILL; role++) {
        problem p = problem_make((shape){.group = 2, .n_tokens = 1100, .n_queries = 5});
        const size_t n_rows = 5 * p.n_heads;
        p.args.role = role;
        problem_run(&p);
        float *want = copy_of(p.out, n_rows * p.s.v_width);
        p.args.m = must_calloc(n_rows, sizeof(float));
        p.args.l = must_calloc(n_rows, sizeof(float));
        problem_run(&p);
        for (size_t r = 0; r < n_rows; r++) {
            assert_true(p.args.l[r] >= 1 && isfinite(p.args.m[r]));
            kvp_partial_finish(&(kvp_partial){&p.args.m[r], &p.args.l[r], p.out + r * p.s.v_width},
                               p.s.v_width);
        }
        assert_memory_equal(want, p.out, n_rows * p.s.v_width * sizeof *want);
        free(want);
        free(p.args.m);
        free(p.args.l);
        problem_free(&p);
    }
}

static void test_a_query_without_keys_has_an_empty_partial(void **state)
{
    (void)state;
    float m[2] = {1, 1}, l[2] = {1, 1};
    problem p = problem_make((shape){.n_queries = 1, .positions = (uint64_t[]){0}});
    p.args.m = m;
    p.args.l = l;
    problem_run(&p);
    assert_true(m[0] == -INFINITY && l[0] == 0 && p.out[0] == 0);
    float other_m = 2, other_l = 3, o[64] = {5};
    kvp_partial some = {&other_m, &other_l, o}, none = {m, l, p.out};
    assert_int_equal(kvp_partial_merge(&some, &none, 64), KVP_OK);
    assert_true(other_m == 2 && other_l == 3 && o[0] == 5);
    assert_int_equal(kvp_partial_merge(&none, &some, 64), KVP_OK);
    assert_true(m[0] == 2 && l[0] == 3 && p.out[0] == 5);
    problem_free(&p);
}

/* Attention over the first and the last keys, by two windows, merged: all keys. */
static void test_parts_of_the_keys_merge_to_the_whole(void **state)
{
    (void)state;
    for (size_t isa = 0; isa < PROBLEM_N_ISAS; isa++) {
        if (!problem_use_isa(isa))
            continue;
        problem p = problem_make((shape){.page_tokens = 16, .n_tokens = 160, .n_queries = 1});
        float m[2][2], l[2][2], out[2][128];
        uint64_t middle = 79, end = 159;
        problem_solve(&p);
        p.args.page_mass = NULL;
        for (int part = 0; part < 2; part++) {
            p.args.m = m[part];
            p.args.l = l[part];
            p.args.out = out[part];
            p.args.positions = part ? &end : &middle;
            p.args.window = part ? 80 : 0;
            problem_run(&p);
        }
        for (int h = 0; h < 2; h++) {
            kvp_partial into = {&m[0][h], &l[0][h], out[0] + 64 * h};
            kvp_partial next = {&m[1][h], &l[1][h], out[1] + 64 * h};
            assert_int_equal(kvp_partial_merge(&into, &next, 64), KVP_OK);
            kvp_partial_finish(&into, 64);
        }
        memcpy(p.out, out[0], sizeof out[0]);
        problem_assert_solved(&p);
        problem_free(&p);
    }
}

/* ---- pages ----------------------------------------------------------------------------------- */

static kvp_partial alloc_pages(const problem *p)
{
    size_t n = p->s.n_queries * p->n_heads * p->n_pages;
    return (kvp_partial){must_calloc(n, 4), must_calloc(n, 4), must_calloc(n * p->s.v_width, 4)};
}

static void free_pages(kvp_partial *pages)
{
    free(pages->m);
    free(pages->l);
    free(pages->o);
}

/* The output in float64 with no key of page `page`; zeros where there is no other. */
static void solve_without(problem *p, size_t page, double *out)
{
    const size_t n = p->s.n_queries * out_row(p);
    problem other = *p;
    other.s.evict_begin = page * p->s.page_tokens;
    other.s.evict_end = other.s.evict_begin + p->s.page_tokens;
    other.want = must_calloc(n, sizeof *other.want);
    other.want_mass = must_calloc(p->s.n_queries * p->n_heads * p->n_pages, sizeof(double));
    problem_solve(&other);
    memcpy(out, other.want, n * sizeof *out);
    free(other.want);
    free(other.want_mass);
}

static void check_changes(problem *p)
{
    const size_t n_rows = p->s.n_queries * p->n_heads, v_width = p->s.v_width;
    float *changes = must_calloc(p->n_pages, sizeof *changes);
    double *without = must_calloc(n_rows * v_width, sizeof *without);
    size_t n_moved = 0;
    for (size_t page = 0; page < p->n_pages; page++) {
        solve_without(p, page, without);
        for (size_t r = 0; r < n_rows; r++) {
            kvp_partial row = {p->args.pages.m + r * p->n_pages, p->args.pages.l + r * p->n_pages,
                               p->args.pages.o + r * p->n_pages * v_width};
            kvp_page_changes(&row, p->n_pages, v_width, p->out + r * v_width, changes);
            double square = 0;
            for (size_t c = 0; c < v_width; c++)
                square += pow(without[r * v_width + c] - p->want[r * v_width + c], 2);
            double diff = fabs((double)changes[page] - sqrt(square));
            bool ok = diff <= 1e-5 * (1 + sqrt(square));
            if (!ok)
                fail_msg("row %zu, page %zu: moves by %g, not %g", r, page, (double)changes[page],
                         sqrt(square));
            n_moved += square > 1e-6;
        }
    }
    assert_true(n_moved > 0);
    free(changes);
    free(without);
}

static void test_partials_of_pages_change_no_bit_and_tell_the_change(void **state)
{
    (void)state;
    static const uint32_t page_tokens[] = {16, 64, 100}; /* 100: two blocks */
    for (size_t isa = 0; isa < PROBLEM_N_ISAS; isa++)
        for (size_t i = 0; i < 3 && problem_use_isa(isa); i++)
            for (size_t n_tokens = 1; n_tokens <= 400; n_tokens += 133) {
                problem p = problem_make((shape){.page_tokens = page_tokens[i],
                                                 .group = 2,
                                                 .k_width = 40,
                                                 .dtype = KVP_F16,
                                                 .n_tokens = n_tokens,
                                                 .n_queries = 1 + n_tokens % 3 % n_tokens});
                const size_t n_out = p.s.n_queries * out_row(&p);
                problem_solve(&p);
                problem_run(&p);
                float *plain = copy_of(p.out, n_out);
                p.args.pages = alloc_pages(&p);
                problem_run(&p);
                problem_assert_solved(&p);
                assert_memory_equal(plain, p.out, n_out * sizeof *plain);
                check_changes(&p);
                free_pages(&p.args.pages);
                free(plain);
                problem_free(&p);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_change_no_bit),
        cmocka_unit_test(test_a_chunk_of_2048_is_2048_of_one),
        cmocka_unit_test(test_partials_divided_are_the_output),
        cmocka_unit_test(test_a_query_without_keys_has_an_empty_partial),
        cmocka_unit_test(test_parts_of_the_keys_merge_to_the_whole),
        cmocka_unit_test(test_partials_of_pages_change_no_bit_and_tell_the_change),
    };
    printf("seed %#llx\n", (unsigned long long)PROBLEM_SEED);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
