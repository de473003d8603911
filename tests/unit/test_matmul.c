/* test_matmul.c - products with weights against float64, for every dtype and all instructions that
 * this CPU has; rows that depend on nothing but themselves. */
#include "integration/models/matmul.h"
#include "integration/models/convert.h"
#include "tests/support/larger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct problem {
    size_t n_in, n_out, m;
    float *weights, *bias, *x;
    matrix w;
} problem;

static uint32_t random_state;

static float random_value(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(int)(random_state >> 8) / (float)(1 << 23) - 1.0f;
}

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    assert_non_null(p);
    return p;
}

/* Values that the dtype has exactly: then only sums are rounded. */
static float value(kvp_dtype dtype)
{
    float v = random_value();
    return dtype == KVP_F16    ? convert_f16(convert_narrow_f16(v))
           : dtype == KVP_BF16 ? convert_bits((uint32_t)convert_narrow(v) << 16)
                               : v;
}

static void make(problem *p, size_t n_in, size_t n_out, size_t m, bool is_out_major,
                 kvp_dtype dtype)
{
    *p = (problem){.n_in = n_in, .n_out = n_out, .m = m};
    p->weights = allocate(n_in * n_out * sizeof(float));
    p->bias = allocate(n_out * sizeof(float));
    p->x = allocate(m * n_in * sizeof(float));
    for (size_t i = 0; i < n_in * n_out; i++)
        p->weights[i] = value(dtype);
    for (size_t i = 0; i < n_out; i++)
        p->bias[i] = value(KVP_F32);
    for (size_t i = 0; i < m * n_in; i++)
        p->x[i] = value(dtype);
    p->w = (matrix){.n_in = n_in,
                    .n_out = n_out,
                    .is_out_major = is_out_major,
                    .dtype = dtype,
                    .bias = p->bias};
    p->w.data = allocate(matrix_bytes(&p->w));
    memset(p->w.data, 0, matrix_bytes(&p->w));
    size_t n_rows = is_out_major ? n_out : n_in, width = is_out_major ? n_in : n_out;
    for (size_t at = 0, n; at < n_rows; at += n) { /* in uneven portions, the last ones first */
        n = n_rows - at < 29 ? n_rows - at : 29;
        matrix_put(&p->w, n_rows - at - n, n, p->weights + (n_rows - at - n) * width);
    }
}

/* weights are as given: rows of outputs, or of inputs. */
static double weight_of(const problem *p, size_t i, size_t j)
{
    return (double)p->weights[p->w.is_out_major ? j * p->n_in + i : i * p->n_out + j];
}

static void fini(problem *p)
{
    free(p->weights);
    free(p->bias);
    free(p->x);
    free(p->w.data);
}

/* Largest difference to float64, relative to the sum of magnitudes. */
static double error_of(const problem *p, const float *y)
{
    double highest = 0;
    for (size_t r = 0; r < p->m; r++) {
        for (size_t j = 0; j < p->n_out; j++) {
            double sum = (double)p->bias[j], size = fabs(sum);
            for (size_t i = 0; i < p->n_in; i++) {
                double product = (double)p->x[r * p->n_in + i] * weight_of(p, i, j);
                sum += product;
                size += fabs(product);
            }
            highest = larger(highest, fabs((double)y[r * p->n_out + j] - sum) / size);
        }
    }
    return highest;
}

/* Shapes around the borders of panels (48 columns), with odd numbers of inputs. */
static const size_t shapes[][2] = {{1, 1}, {7, 3}, {64, 48}, {96, 145}, {41, 700}, {33, 2000}};
/* Around those of tiles: 8 rows, 6 rows. */
static const size_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 19};
static const char *const isas[] = {"scalar", "avx2", "avx512", ""};
#define N_ISAS (sizeof isas / sizeof *isas)

typedef struct product_of {
    kvp_pool *threads;
    model_isa isa;
    matmul *mm;
} product_of;

/* False: this CPU does not have it. */
static bool open_products(const char *isa, uint32_t n_threads, product_of *p)
{
    setenv("KVP_ISA", isa, 1);
    kvp_status status = model_isa_find(&p->isa);
    unsetenv("KVP_ISA");
    if (status) {
        assert_int_equal(status, KVP_E_UNSUPPORTED);
        assert_true(strcmp(isa, "scalar") != 0 && *isa);
        print_message("%s\n", kvp_error());
        return false;
    }
    assert_int_equal(kvp_pool_open(n_threads, NULL, NULL, &p->threads), KVP_OK);
    assert_int_equal(matmul_open(p->threads, p->isa, &p->mm), KVP_OK);
    return true;
}

static void close_products(product_of *p)
{
    matmul_close(p->mm);
    kvp_pool_close(p->threads);
}

static float *multiply(const product_of *p, const problem *q)
{
    float *y = allocate(q->m * q->n_out * sizeof *y);
    for (size_t i = 0; i < q->m * q->n_out; i++)
        y[i] = NAN;
    assert_int_equal(matmul_apply(p->mm, &q->w, q->x, q->m, y), KVP_OK);
    return y;
}

static double worst_error(const product_of *p, bool is_out_major, kvp_dtype dtype)
{
    double highest = 0;
    random_state = 1;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (size_t r = 0; r < sizeof row_counts / sizeof *row_counts; r++) {
            problem q;
            make(&q, shapes[s][0], shapes[s][1], row_counts[r], is_out_major, dtype);
            float *y = multiply(p, &q);
            double error = error_of(&q, y);
            highest = error <= highest ? highest : error;
            free(y);
            fini(&q);
        }
    }
    return highest;
}

static void test_products_equal_float64(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ISAS; i++) {
        product_of p;
        if (!open_products(isas[i], 2, &p))
            continue;
        assert_true(!*isas[i] || (i < 2 ? p.isa == i : p.isa >= MODEL_ISA_AVX512));
        for (kvp_dtype dtype = KVP_F32; dtype <= KVP_BF16; dtype++) {
            assert_true(worst_error(&p, false, dtype) <= 1e-6);
            assert_true(worst_error(&p, true, dtype) <= 1e-6);
        }
        close_products(&p);
    }
}

/* Of n floats: pairs that differ by more than one would expect of sums in another rounding. */
static size_t count_different(const float *a, const float *b, size_t n)
{
    size_t n_different = 0;
    for (size_t i = 0; i < n; i++)
        n_different += !(fabsf(a[i] - b[i]) <= 2e-5f);
    return n_different;
}

/* AVX2 and AVX-512 do the same operations in the same order, but for inputs that are bf16. */
static void test_instruction_sets_agree(void **state)
{
    (void)state;
    for (kvp_dtype dtype = KVP_F32; dtype <= KVP_BF16; dtype++) {
        problem q;
        make(&q, 301, 515, 11, true, dtype);
        size_t n = q.m * q.n_out;
        float *results[N_ISAS] = {0};
        for (size_t i = 0; i < N_ISAS; i++) {
            product_of p;
            if (!open_products(isas[i], 1, &p))
                continue;
            results[i] = multiply(&p, &q);
            assert_int_equal(count_different(results[0], results[i], n), 0);
            close_products(&p);
        }
        if (results[1] && results[2] && dtype != KVP_BF16)
            assert_memory_equal(results[1], results[2], n * sizeof(float));
        for (size_t i = 0; i < N_ISAS; i++)
            free(results[i]);
        fini(&q);
    }
}

static void test_rows_of_embeddings_come_back(void **state)
{
    (void)state;
    for (kvp_dtype dtype = KVP_F32; dtype <= KVP_BF16; dtype++) {
        problem p;
        float row[41];
        make(&p, 41, 300, 1, true, dtype);
        for (size_t i = 0; i < p.n_out; i++) {
            matrix_output(&p.w, i, row);
            assert_memory_equal(row, p.weights + i * p.n_in, sizeof row);
        }
        fini(&p);
    }
}

/* Rows [first, first + n) of the problem alone, compared with those of `all`. */
static size_t count_unlike(const product_of *p, const problem *q, const float *all, size_t first,
                           size_t n)
{
    problem part = *q;
    part.x = q->x + first * q->n_in;
    part.m = n;
    float *y = multiply(p, &part);
    size_t n_unlike = memcmp(y, all + first * q->n_out, n * q->n_out * sizeof *y) != 0;
    free(y);
    return n_unlike;
}

static size_t count_unlike_parts(const product_of *p, const problem *q, const float *all)
{
    size_t n_unlike = 0;
    for (size_t n = 1; n <= 20; n++) { /* all but the last n rows, and these, from any place on */
        n_unlike += count_unlike(p, q, all, n % 7, n);
        n_unlike += count_unlike(p, q, all, q->m - n, n);
        n_unlike += count_unlike(p, q, all, 0, q->m - n);
    }
    return n_unlike;
}

static void test_rows_depend_on_themselves_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ISAS; i++) {
        for (kvp_dtype dtype = KVP_F32; dtype <= KVP_BF16; dtype++) {
            float *all = NULL;
            for (uint32_t n_threads = 1; n_threads <= 4; n_threads++) {
                product_of p;
                problem q;
                random_state = 5;
                make(&q, 201, 515, 150, dtype == KVP_F16, dtype);
                if (open_products(isas[i], n_threads, &p)) {
                    if (!all)
                        all = multiply(&p, &q);
                    assert_int_equal(count_unlike(&p, &q, all, 0, q.m), 0);
                    assert_int_equal(count_unlike_parts(&p, &q, all), 0);
                    close_products(&p);
                }
                fini(&q);
            }
            free(all);
        }
    }
}

/* What is not a number in a row stays in it. */
static void test_nan_stays_in_its_row(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ISAS; i++) {
        for (kvp_dtype dtype = KVP_F32; dtype <= KVP_BF16; dtype++) {
            product_of p;
            problem q;
            if (!open_products(isas[i], 2, &p))
                continue;
            make(&q, 33, 50, 9, true, dtype);
            q.x[3 * q.n_in + 7] = NAN;
            float *y = multiply(&p, &q);
            for (size_t at = 0; at < q.m * q.n_out; at++)
                assert_true(isnan(y[at]) ? at / q.n_out == 3 : at / q.n_out != 3);
            free(y);
            fini(&q);
            close_products(&p);
        }
    }
}

static void test_reserved_products_take_no_more_scratch(void **state)
{
    (void)state;
    product_of p;
    problem q;
    make(&q, 64, 300, 130, true, KVP_BF16);
    float *y = allocate(q.m * q.n_out * sizeof *y);
    assert_true(open_products("", 2, &p));
    assert_int_equal(matmul_scratch_bytes(p.mm), 0);
    assert_int_equal(matmul_reserve(p.mm, &q.w, q.m), KVP_OK);
    size_t bytes = matmul_scratch_bytes(p.mm);
    assert_true(bytes > 0);
    assert_int_equal(matmul_apply(p.mm, &q.w, q.x, q.m, y), KVP_OK);
    assert_int_equal(matmul_apply(p.mm, &q.w, q.x, 1, y), KVP_OK);
    assert_int_equal(matmul_scratch_bytes(p.mm), bytes);
    close_products(&p);
    free(y);
    fini(&q);
}

static void test_unknown_instructions_are_refused(void **state)
{
    (void)state;
    model_isa isa;
    setenv("KVP_ISA", "avx9000", 1);
    assert_int_equal(model_isa_find(&isa), KVP_E_UNSUPPORTED);
    assert_non_null(strstr(kvp_error(), "KVP_ISA=avx9000"));
    unsetenv("KVP_ISA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_equal_float64),
        cmocka_unit_test(test_instruction_sets_agree),
        cmocka_unit_test(test_rows_of_embeddings_come_back),
        cmocka_unit_test(test_rows_depend_on_themselves_alone),
        cmocka_unit_test(test_nan_stays_in_its_row),
        cmocka_unit_test(test_reserved_products_take_no_more_scratch),
        cmocka_unit_test(test_unknown_instructions_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
