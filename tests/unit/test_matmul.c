/* test_matmul.c - products with weights against float64, on all three ways: float, bf16 where the
 * CPU multiplies it, and bf16 widened (in a child that hides the instructions from oneDNN). */
#include "integration/models/matmul.h"
#include "integration/models/convert.h"
#include "tests/support/child.h"
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

/* bf16 problems have values that bf16 has exactly: then only sums are rounded. */
static float value(bool is_bf16)
{
    float v = random_value();
    uint16_t half;
    if (is_bf16) {
        convert_f32_to_bf16(&v, &half, 1);
        convert_bf16_to_f32(&half, &v, 1);
    }
    return v;
}

static void make(problem *p, size_t n_in, size_t n_out, size_t m, bool is_out_major, bool is_bf16)
{
    *p = (problem){.n_in = n_in, .n_out = n_out, .m = m};
    p->weights = allocate(n_in * n_out * sizeof(float));
    p->bias = allocate(n_out * sizeof(float));
    p->x = allocate(m * n_in * sizeof(float));
    for (size_t i = 0; i < n_in * n_out; i++)
        p->weights[i] = value(is_bf16);
    for (size_t i = 0; i < n_out; i++)
        p->bias[i] = value(false);
    for (size_t i = 0; i < m * n_in; i++)
        p->x[i] = value(is_bf16);
    p->w = (matrix){.n_in = n_in,
                    .n_out = n_out,
                    .is_out_major = is_out_major,
                    .is_bf16 = is_bf16,
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

/* Shapes around the borders of panels (128 .. 512 columns) and of bf16 pieces (powers of two). */
static const size_t shapes[][2] = {{1, 1}, {7, 3}, {64, 128}, {96, 129}, {40, 700}, {33, 9000}};
static const size_t row_counts[] = {1, 2, 3, 17};

static double worst_error(uint32_t n_threads, bool is_out_major, bool is_bf16)
{
    double highest = 0;
    kvp_pool *threads;
    matmul *mm;
    random_state = 1;
    assert_int_equal(kvp_pool_open(n_threads, NULL, NULL, &threads), KVP_OK);
    assert_int_equal(matmul_open(threads, &mm), KVP_OK);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (size_t r = 0; r < sizeof row_counts / sizeof *row_counts; r++) {
            problem p;
            make(&p, shapes[s][0], shapes[s][1], row_counts[r], is_out_major, is_bf16);
            float *y = allocate(p.m * p.n_out * sizeof *y);
            for (size_t i = 0; i < p.m * p.n_out; i++)
                y[i] = NAN;
            assert_int_equal(matmul_apply(mm, &p.w, p.x, p.m, y), KVP_OK);
            double error = error_of(&p, y);
            highest = error <= highest ? highest : error;
            free(y);
            fini(&p);
        }
    }
    matmul_close(mm);
    kvp_pool_close(threads);
    return highest;
}

static void test_float_products_equal_float64(void **state)
{
    (void)state;
    assert_true(worst_error(2, false, false) <= 1e-6);
    assert_true(worst_error(2, true, false) <= 1e-6);
}

static void test_bf16_products_equal_float64(void **state)
{
    (void)state;
    assert_true(worst_error(2, true, true) <= 1e-6);
    assert_true(worst_error(2, false, true) <= 1e-6);
}

static void test_rows_of_embeddings_come_back(void **state)
{
    (void)state;
    for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) {
        problem p;
        float row[40];
        make(&p, 40, 300, 1, true, is_bf16);
        for (size_t i = 0; i < p.n_out; i++) {
            matrix_output(&p.w, i, row);
            assert_memory_equal(row, p.weights + i * p.n_in, sizeof row);
        }
        fini(&p);
    }
}

/* In a child: oneDNN decides once per process which instructions it uses. */
static int widened(void *arg)
{
    (void)arg;
    setenv("DNNL_MAX_CPU_ISA", "AVX2", 1);
    return worst_error(2, true, true) <= 1e-6 ? 0 : 1;
}

static void test_bf16_without_instructions_equals_float64(void **state)
{
    (void)state;
    assert_int_equal(child_run(widened, NULL), 0);
}

static float *product_with(uint32_t n_threads, const problem *p)
{
    kvp_pool *threads;
    matmul *mm;
    float *y = allocate(p->m * p->n_out * sizeof *y);
    assert_int_equal(kvp_pool_open(n_threads, NULL, NULL, &threads), KVP_OK);
    assert_int_equal(matmul_open(threads, &mm), KVP_OK);
    assert_int_equal(matmul_apply(mm, &p->w, p->x, p->m, y), KVP_OK);
    matmul_close(mm);
    kvp_pool_close(threads);
    return y;
}

static void test_threads_do_not_change_a_bit(void **state)
{
    (void)state;
    static const size_t rows[] = {1, 150};
    for (size_t r = 0; r < 4; r++) {
        problem p;
        make(&p, 200, 1500, rows[r % 2], r >= 2, r >= 2);
        float *one = product_with(1, &p);
        for (uint32_t n = 2; n <= 4; n += 2) {
            float *many = product_with(n, &p);
            assert_memory_equal(one, many, p.m * p.n_out * sizeof *one);
            free(many);
        }
        free(one);
        fini(&p);
    }
}

/* y of row `at` of m, which is the same row wherever it is put; the others are random. */
static void row_product(matmul *mm, problem *p, const float *row, size_t at, float *y)
{
    for (size_t i = 0; i < p->m * p->n_in; i++)
        p->x[i] = random_value();
    memcpy(p->x + at * p->n_in, row, p->n_in * sizeof *row);
    assert_int_equal(matmul_apply(mm, &p->w, p->x, p->m, y), KVP_OK);
    memmove(y, y + at * p->n_out, p->n_out * sizeof *y);
}

/* Rows of a product that do not get the same bits wherever they stand. */
static size_t count_unfair(matmul *mm, problem *p)
{
    size_t n_unfair = 0;
    float *y = allocate(p->m * p->n_out * sizeof *y), *first = allocate(p->n_out * sizeof *first);
    float *row = allocate(p->n_in * sizeof *row);
    for (size_t i = 0; i < p->n_in; i++)
        row[i] = random_value();
    row_product(mm, p, row, 0, y);
    memcpy(first, y, p->n_out * sizeof *first);
    for (size_t at = 0; at < p->m; at++) {
        row_product(mm, p, row, at, y);
        n_unfair += memcmp(first, y, p->n_out * sizeof *y) != 0;
    }
    free(row);
    free(first);
    free(y);
    return n_unfair;
}

static int check_fair_rows(void *isa)
{
    static const size_t shapes[][2] = {{96, 200}, {300, 515}};
    kvp_pool *threads;
    matmul *mm;
    size_t n_unfair = 0;
    if (isa)
        setenv("DNNL_MAX_CPU_ISA", isa, 1);
    assert_int_equal(kvp_pool_open(2, NULL, NULL, &threads), KVP_OK);
    assert_int_equal(matmul_open(threads, &mm), KVP_OK);
    for (size_t n = 1; n <= 64; n += n < 20 ? 1 : 11) {
        for (size_t s = 0; s < 8; s++) {
            problem p;
            make(&p, shapes[s / 4][0], shapes[s / 4][1], 128, s & 1, s & 2);
            p.m = matmul_fair_rows(mm, &p.w, n);
            assert_true(p.m >= n && p.m <= 2 * n && p.m <= 64);
            n_unfair += count_unfair(mm, &p);
            fini(&p);
        }
    }
    matmul_close(mm);
    kvp_pool_close(threads);
    return n_unfair != 0;
}

static void test_rows_of_a_fair_product_do_not_depend_on_their_place(void **state)
{
    (void)state;
    assert_int_equal(child_run(check_fair_rows, "SSE41"), 0);
    assert_int_equal(child_run(check_fair_rows, "AVX2"), 0);
    assert_int_equal(child_run(check_fair_rows, "AVX512_CORE"), 0);
    assert_int_equal(child_run(check_fair_rows, NULL), 0);
}

static void test_reserved_products_take_no_more_scratch(void **state)
{
    (void)state;
    kvp_pool *threads;
    matmul *mm;
    problem p;
    make(&p, 64, 300, 130, true, true);
    float *y = allocate(p.m * p.n_out * sizeof *y);
    assert_int_equal(kvp_pool_open(2, NULL, NULL, &threads), KVP_OK);
    assert_int_equal(matmul_open(threads, &mm), KVP_OK);
    assert_int_equal(matmul_scratch_bytes(mm), 0);
    assert_int_equal(matmul_reserve(mm, &p.w, p.m), KVP_OK);
    size_t bytes = matmul_scratch_bytes(mm);
    assert_true(bytes > 0);
    assert_int_equal(matmul_apply(mm, &p.w, p.x, p.m, y), KVP_OK);
    assert_int_equal(matmul_apply(mm, &p.w, p.x, 1, y), KVP_OK);
    assert_int_equal(matmul_scratch_bytes(mm), bytes);
    matmul_close(mm);
    kvp_pool_close(threads);
    free(y);
    fini(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16_without_instructions_equals_float64), /* first: it forks */
        cmocka_unit_test(test_rows_of_a_fair_product_do_not_depend_on_their_place),
        cmocka_unit_test(test_float_products_equal_float64),
        cmocka_unit_test(test_bf16_products_equal_float64),
        cmocka_unit_test(test_rows_of_embeddings_come_back),
        cmocka_unit_test(test_threads_do_not_change_a_bit),
        cmocka_unit_test(test_reserved_products_take_no_more_scratch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
