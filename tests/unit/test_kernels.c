/* test_kernels.c - the promises of attention/kernels.h, on every instruction set of this CPU: a
 * block matches float64, AVX2 and AVX-512 give the same bits, a row depends neither on its
 * neighbours nor on what it does not see, nothing is read beyond the rows given. KVP_TEST_FULL=1:
 * 10^5 shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
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

/* ---- a block with rows ----------------------------------------------------------------------- */

/* What the numbers of a block are like. */
typedef enum values {
    UNIFORM,  /* in [-1, 1) */
    LARGE,    /* scores of +-1e5: one key takes all */
    EQUAL,    /* q is 0: all keys weigh the same */
    DENORMAL, /* K, V and q below what float32 holds normalised */
    N_VALUES
} values;

typedef struct block {
    kvpi_keys keys;
    kvp_dtype dtype;
    values values;
    size_t n_rows;
    kvpi_row rows[KVPI_BLOCK_ROWS];
    float *q, *o; /* [n_rows][width] */
} block;

static void set_elements(char *p, size_t n, kvp_dtype dtype, float factor)
{
    for (size_t i = 0; i < n; i++)
        store_element(p, i, dtype, round_to(uniform() * factor, dtype));
}

static block make_block(kvp_dtype dtype, size_t k_width, size_t v_width, size_t n_keys,
                        size_t n_rows, values v)
{
    const size_t e = kvp_dtype_bytes(dtype);
    const float least = dtype == KVP_F16 ? 0x1p-15f : 0x1p-127f;
    const float of_q = v == LARGE ? 1e5f : v == EQUAL ? 0 : v == DENORMAL ? 0x1p-127f : 1;
    block b = {.dtype = dtype, .n_rows = n_rows, .values = v};
    char *k = guarded_alloc(n_keys * k_width * e), *values = guarded_alloc(n_keys * v_width * e);
    b.q = (float *)guarded_alloc(n_rows * k_width * 4);
    b.o = (float *)guarded_alloc(n_rows * v_width * 4);
    set_elements(k, n_keys * k_width, dtype, v == DENORMAL ? least : 1);
    set_elements(values, n_keys * v_width, dtype, v == DENORMAL ? least : 1);
    set_elements((char *)b.q, n_rows * k_width, KVP_F32, of_q);
    set_elements((char *)b.o, n_rows * v_width, KVP_F32, 1);
    b.keys = (kvpi_keys){
        .k = k, .v = values, .n = n_keys, .k_width = k_width, .v_width = v_width, .scale = 0.5f};
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

static void fail_block(const block *b, const char *isa, size_t row, const char *what)
{
    fail_msg("%s, dtype %d, values %d, widths %zu and %zu, %zu keys: row %zu of %zu: %s", isa,
             (int)b->dtype, (int)b->values, b->keys.k_width, b->keys.v_width, b->keys.n, row,
             b->n_rows, what);
}

/* What a kernel made of the rows [first, first + n) of a block, which stays as it is. */
typedef struct results {
    kvpi_row rows[KVPI_BLOCK_ROWS];
    float o[KVPI_BLOCK_ROWS][MAX_WIDTH];
} results;

static void apply(const kvpi_kernels *kernels, const block *b, size_t first, size_t n, results *out)
{
    kvpi_row rows[KVPI_BLOCK_ROWS];
    memcpy(rows, b->rows + first, n * sizeof *rows);
    float *o = (float *)guarded_alloc(n * b->keys.v_width * sizeof *o);
    memcpy(o, b->o + first * b->keys.v_width, n * b->keys.v_width * sizeof *o);
    for (size_t r = 0; r < n; r++)
        rows[r].o = o + r * b->keys.v_width;
    kernels->attend[b->dtype](&b->keys, rows, n);
    for (size_t r = 0; r < n; r++) {
        out->rows[first + r] = rows[r];
        memcpy(out->o[first + r], rows[r].o, b->keys.v_width * sizeof *o);
    }
    guarded_free((char *)o, n * b->keys.v_width * sizeof *o);
}

static bool is_same_bits(const float *a, const float *b, size_t n)
{
    return memcmp(a, b, n * sizeof *a) == 0;
}

static void assert_same_bits(const block *b, const char *isa, const results *got,
                             const results *want)
{
    for (size_t r = 0; r < b->n_rows; r++) {
        const kvpi_row *x = &got->rows[r], *y = &want->rows[r];
        if (!is_same_bits(&x->m, &y->m, 1) || !is_same_bits(&x->l, &y->l, 1) ||
            !is_same_bits(&x->block_m, &y->block_m, 1) ||
            !is_same_bits(&x->block_l, &y->block_l, 1) ||
            !is_same_bits(got->o[r], want->o[r], b->keys.v_width))
            fail_block(b, isa, r, "other bits");
    }
}

/* ---- float64 --------------------------------------------------------------------------------- */

static double element(const void *p, size_t i, kvp_dtype dtype)
{
    if (dtype == KVP_F32)
        return (double)((const float *)p)[i];
    uint16_t code = ((const uint16_t *)p)[i];
    int bits = dtype == KVP_F16 ? 10 : 7, e = code >> bits & (dtype == KVP_F16 ? 31 : 255);
    int fraction = code & ((1 << bits) - 1), bias = dtype == KVP_F16 ? 15 : 127;
    double x =
        e ? ldexp(fraction + (1 << bits), e - bias - bits) : ldexp(fraction, 1 - bias - bits);
    return code >> 15 ? -x : x;
}

typedef struct oracle {
    double m, l, o[MAX_WIDTH];
    double slack; /* what rounding of the scores may change of a weight, relative */
} oracle;

/* The state of a row after the block, in float64 throughout. */
static void solve_row(const block *b, size_t r, oracle *x)
{
    const kvpi_row *row = &b->rows[r];
    const size_t k_width = b->keys.k_width, v_width = b->keys.v_width;
    double s[KVPI_BLOCK_KEYS], largest = 1;
    x->m = (double)row->m;
    for (size_t j = 0; j < row->n_visible; j++) {
        double dot = 0, size = 0;
        for (size_t d = 0; d < k_width; d++) {
            double product = (double)row->q[d] * element(b->keys.k, j * k_width + d, b->dtype);
            dot += product;
            size += fabs(product);
        }
        s[j] = dot * (double)b->keys.scale;
        largest = fmax(largest, size * (double)b->keys.scale);
        x->m = fmax(x->m, s[j]);
    }
    double old = row->m == -INFINITY ? 0 : exp((double)row->m - x->m);
    x->slack = 4 * largest * 0x1p-23 + 64 * 0x1p-24;
    x->l = (double)row->l * old;
    for (size_t c = 0; c < v_width; c++)
        x->o[c] = (double)b->o[r * v_width + c] * old;
    for (size_t j = 0; j < row->n_visible; j++) {
        double p = exp(s[j] - x->m);
        x->l += p;
        for (size_t c = 0; c < v_width; c++)
            x->o[c] += p * element(b->keys.v, j * v_width + c, b->dtype);
    }
}

/* Outputs are compared as a caller sees them: divided by l. */
static void assert_solved(const block *b, const char *isa, const results *got)
{
    static oracle want;
    for (size_t r = 0; r < b->n_rows; r++) {
        const kvpi_row *row = &got->rows[r];
        solve_row(b, r, &want);
        bool ok = want.m == (double)row->m ||
                  fabs(want.m - (double)row->m) <= want.slack * (1 + fabs(want.m));
        ok = ok && (want.l == (double)row->l ||
                    fabs(log((double)row->l) + (double)row->m - log(want.l) - want.m) <=
                        want.slack + fabs(want.m) * 0x1p-22);
        for (size_t c = 0; c < b->keys.v_width && ok && want.l > 0; c++)
            ok = fabs((double)(got->o[r][c] / row->l) - want.o[c] / want.l) <= want.slack;
        if (!ok)
            fail_block(b, isa, r, "far from float64");
    }
}

/* ---- tests ----------------------------------------------------------------------------------- */

static results reference, other; /* large */

static const kvpi_kernels *isa_at(size_t i)
{
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    setenv("KVP_ISA", names[i], 1);
    const kvpi_kernels *found = kvpi_kernels_find();
    unsetenv("KVP_ISA");
    assert_true(!found || strcmp(found->name, names[i]) == 0);
    return found;
}

#define N_ISAS ((size_t)3)

/* Every instruction set against float64; the two of x86 bit for bit. */
static void check_values(const block *b)
{
    bool has_simd = false;
    for (size_t i = 0; i < N_ISAS; i++) {
        const kvpi_kernels *kernels = isa_at(i);
        if (!kernels)
            continue;
        apply(kernels, b, 0, b->n_rows, &other);
        assert_solved(b, kernels->name, &other);
        if (i && has_simd)
            assert_same_bits(b, kernels->name, &other, &reference);
        reference = other;
        has_simd = i > 0;
    }
}

/* Row by row, and in groups of every size: the same bits. */
static void check_grouping(const block *b)
{
    for (size_t i = 0; i < N_ISAS; i++) {
        const kvpi_kernels *kernels = isa_at(i);
        for (size_t r = 0; r < b->n_rows && kernels; r++)
            apply(kernels, b, r, 1, &reference);
        for (size_t step = 2; step <= KVPI_BLOCK_ROWS && kernels; step += 1 + step / 3) {
            for (size_t r = 0; r < b->n_rows; r += step)
                apply(kernels, b, r, b->n_rows - r < step ? b->n_rows - r : step, &other);
            assert_same_bits(b, kernels->name, &other, &reference);
        }
    }
}

/* Rows that do not see the last key: alone, with no keys in the block but those they see; and
 * beside rows that do see it, and it is NaN. */
static void check_unseen(const block *b)
{
    for (size_t i = 0; i < N_ISAS; i++) {
        const kvpi_kernels *kernels = isa_at(i);
        if (!kernels)
            continue;
        block alone = *b;
        for (size_t r = 0; r < b->n_rows; r++) {
            alone.keys.n = b->rows[r].n_visible ? b->rows[r].n_visible : 1;
            apply(kernels, &alone, r, 1, &reference);
        }
        for (size_t d = 0; d < b->keys.k_width; d++)
            store_element((void *)(uintptr_t)b->keys.k, (b->keys.n - 1) * b->keys.k_width + d,
                          b->dtype, NAN);
        for (size_t d = 0; d < b->keys.v_width; d++)
            store_element((void *)(uintptr_t)b->keys.v, (b->keys.n - 1) * b->keys.v_width + d,
                          b->dtype, NAN);
        apply(kernels, b, 0, b->n_rows, &other);
        for (size_t r = 0; r < b->n_rows; r++) {
            if (b->rows[r].n_visible < b->keys.n)
                continue;
            assert_true(isnan(other.rows[r].l)); /* who sees it cannot miss it */
            other.rows[r] = reference.rows[r];
            memcpy(other.o[r], reference.o[r], sizeof other.o[r]);
        }
        assert_same_bits(b, kernels->name, &other, &reference);
        set_elements((char *)(uintptr_t)b->keys.k, b->keys.n * b->keys.k_width, b->dtype, 1);
        set_elements((char *)(uintptr_t)b->keys.v, b->keys.n * b->keys.v_width, b->dtype, 1);
    }
}

/* Folded at once, or into an empty state that is merged: the same bits; and what is handed out as
 * the block's own output is that state. */
static void check_merging(const block *b)
{
    for (size_t i = 0; i < N_ISAS; i++) {
        const kvpi_kernels *kernels = isa_at(i);
        if (!kernels)
            continue;
        apply(kernels, b, 0, b->n_rows, &reference);
        block empty = *b;
        empty.o = (float *)guarded_alloc(b->n_rows * b->keys.v_width * 4);
        memset(empty.o, 0, b->n_rows * b->keys.v_width * 4);
        float *apart = (float *)guarded_alloc(b->n_rows * b->keys.v_width * 4);
        for (size_t r = 0; r < b->n_rows; r++) {
            empty.rows[r].m = -INFINITY;
            empty.rows[r].l = 0;
            empty.rows[r].block_o = apart + r * b->keys.v_width;
        }
        apply(kernels, &empty, 0, b->n_rows, &other);
        for (size_t r = 0; r < b->n_rows; r++) {
            kvpi_row *row = &other.rows[r];
            if (row->n_visible && !is_same_bits(row->block_o, other.o[r], b->keys.v_width))
                fail_block(b, kernels->name, r, "the block's own output has other bits");
            float m = b->rows[r].m, l = b->rows[r].l;
            float *o = (float *)guarded_alloc(b->keys.v_width * 4);
            memcpy(o, b->o + r * b->keys.v_width, b->keys.v_width * 4);
            kernels->merge(&(kvp_partial){&m, &l, o}, &(kvp_partial){&row->m, &row->l, other.o[r]},
                           b->keys.v_width);
            row->m = m;
            row->l = l;
            memcpy(other.o[r], o, b->keys.v_width * 4);
            guarded_free((char *)o, b->keys.v_width * 4);
        }
        guarded_free((char *)empty.o, b->n_rows * b->keys.v_width * 4);
        guarded_free((char *)apart, b->n_rows * b->keys.v_width * 4);
        assert_same_bits(b, kernels->name, &other, &reference);
    }
}

static void for_each_block(void (*check)(const block *b))
{
    static const size_t widths[][2] = {{64, 64}, {128, 128}, {80, 96},  {96, 80}, {256, 256},
                                       {7, 17},  {1, 1},     {24, 300}, {300, 5}};
    static const size_t n_keys[] = {1, 5, 8, 63, 64};
    static const size_t n_rows[] = {1, 2, 3, 4, 6, 7, 15, 17, 48};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int dtype = KVP_F32; dtype <= KVP_BF16; dtype++)
            for (size_t k = 0; k < sizeof n_keys / sizeof *n_keys; k++)
                for (size_t r = 0; r < sizeof n_rows / sizeof *n_rows; r++) {
                    block b = make_block((kvp_dtype)dtype, widths[w][0], widths[w][1], n_keys[k],
                                         n_rows[r], UNIFORM);
                    check(&b);
                    free_block(&b);
                }
}

static void test_blocks_match_float64(void **state)
{
    (void)state;
    for_each_block(check_values);
}

static size_t random_below(size_t n)
{
    return (size_t)((double)(uniform() + 1) / 2 * (double)n);
}

static void test_random_blocks_match_float64(void **state)
{
    (void)state;
    static const size_t widths[] = {64, 80, 96, 128, 256};
    const size_t n_shapes = getenv("KVP_TEST_FULL") ? 100000 : 3000;
    for (size_t i = 0; i < n_shapes; i++) {
        size_t k_width = i % 2 ? widths[i / 2 % 5] : 1 + random_below(MAX_WIDTH);
        size_t v_width = i % 2 ? k_width : 1 + random_below(MAX_WIDTH);
        size_t n_rows = i % 16 ? 1 + random_below(9) : 1 + random_below(KVPI_BLOCK_ROWS);
        block b =
            make_block((kvp_dtype)random_below(3), k_width, v_width,
                       1 + random_below(KVPI_BLOCK_KEYS), n_rows, (values)random_below(N_VALUES));
        check_values(&b);
        free_block(&b);
    }
}

static void test_grouping_of_rows_changes_no_bit(void **state)
{
    (void)state;
    for_each_block(check_grouping);
}

static void test_keys_that_a_row_does_not_see_change_no_bit(void **state)
{
    (void)state;
    for_each_block(check_unseen);
}

static void test_merging_a_block_is_folding_it(void **state)
{
    (void)state;
    for_each_block(check_merging);
}

static void test_isa_can_be_forced(void **state)
{
    (void)state;
    const kvpi_kernels *best = &kvpi_kernels_scalar;
    for (size_t i = 0; i < N_ISAS; i++)
        best = isa_at(i) ? isa_at(i) : best;
    assert_ptr_equal(isa_at(0), &kvpi_kernels_scalar);
    assert_ptr_equal(kvpi_kernels_find(), best); /* KVP_ISA is not set */
    setenv("KVP_ISA", "", 1);
    assert_ptr_equal(kvpi_kernels_find(), best);
    setenv("KVP_ISA", "avx9000", 1);
    assert_null(kvpi_kernels_find());
    unsetenv("KVP_ISA");
}

/* exp of 63 numbers, as a kernel has it: V has a column per key, K is what the score is to be, and
 * the first key's is 0. */
static void exp_of(const kvpi_kernels *kernels, const float x[64], float y[64])
{
    static float v[64][64];
    const float one = 1;
    for (size_t j = 0; j < 64; j++)
        v[j][j] = 1;
    memset(y, 0, 64 * sizeof *y);
    kvpi_keys keys = {.k = x, .v = v, .n = 64, .k_width = 1, .v_width = 64, .scale = 1};
    kvpi_row row = {.q = &one, .o = y, .m = -INFINITY, .n_visible = 64};
    kernels->attend[KVP_F32](&keys, &row, 1);
}

static void check_exp(const kvpi_kernels *kernels)
{
    float x[64] = {0}, y[64];
    for (float start = 0; start > -90; start -= 0.0056f) {
        for (int i = 1; i < 64; i++)
            x[i] = start - 0.00008f * (float)i;
        exp_of(kernels, x, y);
        for (int i = 0; i < 64; i++) {
            double want = exp((double)x[i]), ulp = ldexp(1.0, ilogb(want) - 23);
            bool ok = want < 0x1p-126 * 1.00001 ? y[i] <= 0x1.1p-126f
                                                : fabs((double)y[i] - want) <= 2 * ulp;
            if (!ok)
                fail_msg("%s: exp(%.9g) is %.9g, not %.9g", kernels->name, (double)x[i],
                         (double)y[i], want);
        }
    }
    float special[64] = {0, -INFINITY, -1e30f, -0.0f, -200, -88};
    exp_of(kernels, special, y);
    assert_true(y[0] == 1 && y[1] == 0 && y[2] == 0 && y[3] == 1 && y[4] == 0);
    special[7] = NAN;
    exp_of(kernels, special, y);
    assert_true(isnan(y[7]));
}

static void test_exp_is_within_2_ulp(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ISAS; i++)
        if (isa_at(i))
            check_exp(isa_at(i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_match_float64),
        cmocka_unit_test(test_random_blocks_match_float64),
        cmocka_unit_test(test_grouping_of_rows_changes_no_bit),
        cmocka_unit_test(test_keys_that_a_row_does_not_see_change_no_bit),
        cmocka_unit_test(test_merging_a_block_is_folding_it),
        cmocka_unit_test(test_isa_can_be_forced),
        cmocka_unit_test(test_exp_is_within_2_ulp),
    };
    printf("seed %llu\n", (unsigned long long)SEED);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
