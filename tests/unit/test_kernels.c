/* test_kernels.c - the promises of attention/kernels.h: AVX2 agrees with the scalar reference, a
 * row does not depend on its neighbours, nothing is read beyond the rows given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attention/kernels.h"
#include "tests/support/round.h"
#if defined(__x86_64__)
#include "attention/avx2.h"
#endif

#define SEED UINT64_C(20240229)
#define MAX_WIDTH 320u

static uint64_t rng_state = SEED;

static float uniform(void) /* [-1, 1), xorshift64* */
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return (float)((rng_state * UINT64_C(0x2545f4914f6cdd1d)) >> 40) * 0x1p-23f - 1;
}

/* ---- memory that ends at a page which must not be touched ------------------------------------ */

static char *guarded_alloc(size_t n)
{
    size_t os_page = (size_t)sysconf(_SC_PAGESIZE), bytes = (n + os_page - 1) / os_page * os_page;
    char *p =
        mmap(NULL, bytes + os_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    assert_int_equal(mprotect(p + bytes, os_page, PROT_NONE), 0);
    return p + bytes - n;
}

static void guarded_free(char *p, size_t n)
{
    size_t os_page = (size_t)sysconf(_SC_PAGESIZE), bytes = (n + os_page - 1) / os_page * os_page;
    munmap(p + n - bytes, bytes + os_page);
}

/* n elements in [-1, 1), the last of which ends at the guard. */
static char *random_elements(size_t n, kvp_dtype dtype)
{
    char *p = guarded_alloc(n * kvp_dtype_bytes(dtype));
    for (size_t i = 0; i < n; i++)
        store_element(p, i, dtype, round_to(uniform(), dtype));
    return p;
}

/* ---- a block with rows ----------------------------------------------------------------------- */

typedef struct block {
    kvpi_keys keys;
    kvp_dtype dtype;
    size_t n_rows;
    kvpi_row rows[KVPI_MANY_ROWS];
    float *q, *o; /* [n_rows][width] */
} block;

static block make_block(kvp_dtype dtype, size_t k_width, size_t v_width, size_t n_keys,
                        size_t n_rows)
{
    block b = {.dtype = dtype, .n_rows = n_rows};
    b.q = (float *)random_elements(n_rows * k_width, KVP_F32);
    b.o = (float *)random_elements(n_rows * v_width, KVP_F32);
    b.keys = (kvpi_keys){.k = random_elements(n_keys * k_width, dtype),
                         .v = random_elements(n_keys * v_width, dtype),
                         .n = n_keys,
                         .k_width = k_width,
                         .v_width = v_width,
                         .scale = 0.5f};
    for (size_t r = 0; r < n_rows; r++) /* some have seen keys before, some see none now */
        b.rows[r] = (kvpi_row){.q = b.q + r * k_width,
                               .o = b.o + r * v_width,
                               .m = r % 3 ? uniform() : -INFINITY,
                               .l = r % 3 ? 2 + uniform() : 0,
                               .n_visible = (uint32_t)(r % 4 == 3 ? 0 : n_keys - r % n_keys)};
    for (size_t i = 0; i < n_rows * v_width; i++)
        b.o[i] = i / v_width % 3 ? b.o[i] : 0;
    return b;
}

static void free_block(block *b)
{
    const size_t e = kvp_dtype_bytes(b->dtype);
    guarded_free((char *)b->q, b->n_rows * b->keys.k_width * 4);
    guarded_free((char *)b->o, b->n_rows * b->keys.v_width * 4);
    guarded_free((char *)(uintptr_t)b->keys.k, b->keys.n * b->keys.k_width * e);
    guarded_free((char *)(uintptr_t)b->keys.v, b->keys.n * b->keys.v_width * e);
}

/* What a kernel made of the rows [first, first + n) of a block, which stays as it is. */
typedef struct results {
    kvpi_row rows[KVPI_MANY_ROWS];
    float o[KVPI_MANY_ROWS][MAX_WIDTH];
} results;

static void apply(kvpi_kernel kernel, const block *b, size_t first, size_t n, results *out)
{
    kvpi_row rows[KVPI_MANY_ROWS];
    memcpy(rows, b->rows + first, n * sizeof *rows);
    float *o = (float *)guarded_alloc(n * b->keys.v_width * sizeof *o);
    memcpy(o, b->o + first * b->keys.v_width, n * b->keys.v_width * sizeof *o);
    for (size_t r = 0; r < n; r++)
        rows[r].o = o + r * b->keys.v_width;
    kernel(&b->keys, rows, n);
    for (size_t r = 0; r < n; r++) {
        out->rows[first + r] = rows[r];
        memcpy(out->o[first + r], rows[r].o, b->keys.v_width * sizeof *o);
    }
    guarded_free((char *)o, n * b->keys.v_width * sizeof *o);
}

static bool is_near(float a, float b)
{
    return (isinf(a) && a == b) || fabsf(a - b) <= 1e-5f * (1 + fabsf(b));
}

static void assert_same(const block *b, const results *got, const results *want, bool exact)
{
    for (size_t r = 0; r < b->n_rows; r++) {
        const kvpi_row *x = &got->rows[r], *y = &want->rows[r];
        bool ok =
            exact ? x->m == y->m && x->l == y->l && x->block_l == y->block_l
                  : is_near(x->m, y->m) && is_near(x->l, y->l) && is_near(x->block_l, y->block_l);
        for (size_t c = 0; c < b->keys.v_width; c++)
            ok = ok && (exact ? memcmp(&got->o[r][c], &want->o[r][c], 4) == 0
                              : is_near(got->o[r][c], want->o[r][c]));
        if (!ok)
            fail_msg("dtype %d, widths %zu and %zu, %zu keys: row %zu of %zu", (int)b->dtype,
                     b->keys.k_width, b->keys.v_width, b->keys.n, r, b->n_rows);
    }
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void for_each_block(void (*check)(const block *b, const kvpi_kernels *kernels),
                           const kvpi_kernels *kernels)
{
    static const size_t widths[][2] = {{64, 64}, {128, 128}, {80, 96}, {7, 17},
                                       {1, 1},   {24, 300},  {300, 5}};
    static const size_t n_keys[] = {1, 5, 8, 63, 64};
    static const size_t n_rows[] = {1, 2, 3, 4, 6, 7, 15, 17, 48};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int dtype = KVP_F32; dtype <= KVP_BF16; dtype++)
            for (size_t k = 0; k < sizeof n_keys / sizeof *n_keys; k++)
                for (size_t r = 0; r < sizeof n_rows / sizeof *n_rows; r++) {
                    block b = make_block((kvp_dtype)dtype, widths[w][0], widths[w][1], n_keys[k],
                                         n_rows[r]);
                    check(&b, kernels);
                    free_block(&b);
                }
}

static results reference, other; /* large */

static void check_against_scalar(const block *b, const kvpi_kernels *kernels)
{
    apply(kvpi_kernels_scalar.few[b->dtype], b, 0, b->n_rows, &reference);
    apply(kernels->many[b->dtype], b, 0, b->n_rows, &other);
    assert_same(b, &other, &reference, false);
    for (size_t first = 0; first < b->n_rows; first += KVPI_FEW_ROWS) {
        size_t rest = b->n_rows - first;
        apply(kernels->few[b->dtype], b, first, rest < KVPI_FEW_ROWS ? rest : KVPI_FEW_ROWS,
              &other);
    }
    assert_same(b, &other, &reference, false);
}

/* Row by row, and in groups of every size: the same bits. */
static void check_grouping(const block *b, const kvpi_kernels *kernels)
{
    const kvpi_kernel both[] = {kernels->few[b->dtype], kernels->many[b->dtype]};
    for (size_t i = 0; i < 2; i++) {
        for (size_t r = 0; r < b->n_rows; r++)
            apply(both[i], b, r, 1, &reference);
        for (size_t step = 2; step <= (i ? KVPI_MANY_ROWS : KVPI_FEW_ROWS); step += step / 2) {
            for (size_t r = 0; r < b->n_rows; r += step)
                apply(both[i], b, r, b->n_rows - r < step ? b->n_rows - r : step, &other);
            assert_same(b, &other, &reference, true);
        }
    }
}

static const kvpi_kernels *best_kernels(void)
{
    unsetenv("KVP_ISA");
    return kvpi_kernels_find();
}

static void test_kernels_agree_with_the_reference(void **state)
{
    (void)state;
    for_each_block(check_against_scalar, best_kernels());
}

static void test_grouping_of_rows_changes_no_bit(void **state)
{
    (void)state;
    for_each_block(check_grouping, best_kernels());
    for_each_block(check_grouping, &kvpi_kernels_scalar);
}

static void test_isa_can_be_forced(void **state)
{
    (void)state;
    setenv("KVP_ISA", "scalar", 1);
    assert_ptr_equal(kvpi_kernels_find(), &kvpi_kernels_scalar);
    setenv("KVP_ISA", "", 1); /* as if it were not set */
    assert_ptr_equal(kvpi_kernels_find(), best_kernels());
    setenv("KVP_ISA", "avx9000", 1);
    assert_null(kvpi_kernels_find());
    unsetenv("KVP_ISA");
}

#if defined(__x86_64__)
KVPI_AVX2 static void exp_of_8(const float *x, float *y)
{
    _mm256_storeu_ps(y, exp8(_mm256_loadu_ps(x)));
}

static void test_exp_is_within_2_ulp(void **state)
{
    (void)state;
    if (best_kernels() != &kvpi_kernels_avx2)
        skip();
    for (float start = 0; start > -90; start -= 0.0007f) {
        float x[8], y[8];
        for (int i = 0; i < 8; i++)
            x[i] = start - 0.00008f * (float)i;
        exp_of_8(x, y);
        for (int i = 0; i < 8; i++) {
            double want = exp((double)x[i]), ulp = ldexp(1.0, ilogb(want) - 23);
            bool ok = want < 0x1p-126 * 1.00001 ? y[i] <= 0x1.1p-126f
                                                : fabs((double)y[i] - want) <= 2 * ulp;
            if (!ok)
                fail_msg("exp(%.9g) is %.9g, not %.9g", (double)x[i], (double)y[i], want);
        }
    }
    float special[8] = {-INFINITY, -1e30f, 0, -0.0f, NAN, -200, -88, -1}, y[8];
    exp_of_8(special, y);
    assert_true(y[0] == 0 && y[1] == 0 && y[2] == 1 && y[3] == 1 && isnan(y[4]) && y[5] == 0);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels_agree_with_the_reference),
        cmocka_unit_test(test_grouping_of_rows_changes_no_bit),
        cmocka_unit_test(test_isa_can_be_forced),
#if defined(__x86_64__)
        cmocka_unit_test(test_exp_is_within_2_ulp),
#endif
    };
    printf("seed %llu\n", (unsigned long long)SEED);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
