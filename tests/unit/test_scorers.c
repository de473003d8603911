/* test_scorers.c - the promises of attention/score.h: scores are those of float64 within rounding,
 * do not depend on neighbours, and nothing is read beyond the rows given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attention/score.h"
#include "tests/support/round.h"

#define MAX_WIDTH 300u
#define MAX_QUERIES 11u

static uint64_t rng_state = UINT64_C(20260301);

static float uniform(void) /* [-1, 1), xorshift64* */
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return (float)((rng_state * UINT64_C(0x2545f4914f6cdd1d)) >> 40) * 0x1p-23f - 1;
}

/* Those that this CPU can run; [0] is the scalar one. */
static size_t available(const kvpi_scorers *list[3])
{
    size_t n = 0;
    list[n++] = &kvpi_scorers_scalar;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        list[n++] = &kvpi_scorers_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        list[n++] = &kvpi_scorers_avx512;
#endif
    return n;
}

/* Keys, the last byte of which lies before an OS page that must not be touched. */
typedef struct guarded {
    char *base, *k;
    size_t bytes;
    float values[KVPI_SCORE_KEYS * MAX_WIDTH]; /* the same as floats */
} guarded;

static void make_keys(guarded *g, size_t n_elements, kvp_dtype dtype)
{
    size_t os_page = (size_t)sysconf(_SC_PAGESIZE), n = n_elements * kvp_dtype_bytes(dtype);
    g->bytes = (n + os_page - 1) / os_page * os_page + os_page;
    g->base = mmap(NULL, g->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(g->base, MAP_FAILED);
    assert_int_equal(mprotect(g->base + g->bytes - os_page, os_page, PROT_NONE), 0);
    g->k = g->base + g->bytes - os_page - n;
    for (size_t i = 0; i < n_elements; i++)
        store_element(g->k, i, dtype, g->values[i] = round_to(uniform(), dtype));
}

static double product(const float *q, const float *k, size_t width)
{
    double sum = 0;
    for (size_t d = 0; d < width; d++)
        sum += (double)q[d] * k[d];
    return sum;
}

static void assert_near(float got, double want)
{
    bool is_near = fabs(got - want) <= 2e-5 + 1e-6 * fabs(want);
    if (!is_near)
        fail_msg("%.9g, not %.9g", (double)got, want);
}

static void check_shape(const kvpi_scorers *s, kvp_dtype dtype, size_t width, size_t n_keys,
                        size_t n_queries)
{
    float q[MAX_QUERIES][MAX_WIDTH], scores[MAX_QUERIES][KVPI_SCORE_KEYS], alone[KVPI_SCORE_KEYS];
    float squares[KVPI_SCORE_KEYS];
    const float *queries[MAX_QUERIES];
    static guarded g;
    make_keys(&g, n_keys * width, dtype);
    for (size_t i = 0; i < n_queries; i++) {
        for (size_t d = 0; d < width; d++)
            q[i][d] = uniform();
        queries[i] = q[i];
    }
    const kvpi_score_keys keys = {.k = g.k, .n = n_keys, .width = width};
    s->score[dtype](&keys, queries, n_queries, scores[0]);
    s->square[dtype](&keys, squares);
    for (size_t j = 0; j < n_keys; j++)
        assert_near(squares[j], product(g.values + j * width, g.values + j * width, width));
    for (size_t i = 0; i < n_queries; i++) {
        for (size_t j = 0; j < n_keys; j++)
            assert_near(scores[i][j], product(q[i], g.values + j * width, width));
        for (size_t j = 0; j < n_keys; j++) { /* one query and one key */
            const kvpi_score_keys one = {
                .k = g.k + j * width * kvp_dtype_bytes(dtype), .n = 1, .width = width};
            s->score[dtype](&one, &queries[i], 1, alone);
            assert_memory_equal(alone, &scores[i][j], sizeof *alone);
        }
    }
    munmap(g.base, g.bytes);
}

static void test_scores_are_those_of_float64_whatever_shares_the_call(void **state)
{
    (void)state;
    static const size_t widths[] = {1, 7, 8, 15, 16, 33, 64, 256, 300};
    static const size_t n_keys[] = {1, 2, 7, 64}, n_queries[] = {1, 3, 4, 11};
    const kvpi_scorers *list[3];
    for (size_t i = 0, n = available(list); i < n; i++)
        for (int dtype = KVP_F32; dtype <= KVP_BF16; dtype++)
            for (size_t w = 0; w < 9; w++)
                for (size_t k = 0; k < 4; k++)
                    check_shape(list[i], (kvp_dtype)dtype, widths[w], n_keys[k], n_queries[k]);
}

/* Small integers: every order of adding gives the same. */
static void test_exact_scores_are_equal_on_all_instruction_sets(void **state)
{
    (void)state;
    const kvpi_scorers *list[3];
    enum { WIDTH = 45 };
    float k[KVPI_SCORE_KEYS * WIDTH], q[WIDTH], want[KVPI_SCORE_KEYS], got[KVPI_SCORE_KEYS];
    const float *query = q;
    for (size_t i = 0; i < KVPI_SCORE_KEYS * WIDTH; i++)
        k[i] = (float)(i * 7 % 11) - 5;
    for (size_t i = 0; i < WIDTH; i++)
        q[i] = (float)(i % 5) - 2;
    const kvpi_score_keys keys = {.k = k, .n = KVPI_SCORE_KEYS, .width = WIDTH};
    size_t n = available(list);
    list[0]->score[KVP_F32](&keys, &query, 1, want);
    for (size_t i = 1; i < n; i++) {
        list[i]->score[KVP_F32](&keys, &query, 1, got);
        assert_memory_equal(got, want, sizeof want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_are_those_of_float64_whatever_shares_the_call),
        cmocka_unit_test(test_exact_scores_are_equal_on_all_instruction_sets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
