/* test_elementwise.c - norms and activations against float64; narrowing to bf16. */
#include "integration/models/elementwise.h"
#include "integration/models/convert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void test_gelu_equals_float64_everywhere(void **state)
{
    (void)state;
    static float x[24001];
    for (int i = 0; i <= 24000; i++)
        x[i] = (float)(i - 12000) / 1000.0f;
    gelu_tanh(MODEL_ISA_SCALAR, x, 24001);
    for (int i = 0; i <= 24000; i++) {
        double wanted = gelu((double)((float)(i - 12000) / 1000.0f));
        assert_true(fabs((double)x[i] - wanted) <= 1e-7 + 4e-7 * fabs(wanted));
    }
}

static void check_gelu_of_extremes(model_isa isa)
{
    float x[] = {0.0f, 50.0f, 1e10f, -50.0f, -1e10f, INFINITY};
    gelu_tanh(isa, x, 6);
    assert_true(x[0] == 0 && x[1] == 50 && x[2] == 1e10f && isinf(x[5]));
    assert_true(fabsf(x[3]) <= 1e-20f && fabsf(x[4]) <= 1e-20f);
    float nan = NAN;
    gelu_tanh(isa, &nan, 1);
    assert_true(isnan(nan));
}

static void test_gelu_of_extremes_is_itself_or_zero(void **state)
{
    (void)state;
    model_isa best;
    assert_int_equal(model_isa_find(&best), KVP_OK);
    for (model_isa isa = MODEL_ISA_SCALAR; isa <= best; isa++)
        check_gelu_of_extremes(isa);
}

/* Any length: a vector's lanes and what is left over are alike. */
static void test_instruction_sets_change_no_bit(void **state)
{
    (void)state;
    static float x[1003], scalar[1003], gelu[1003], silu[2][1003];
    model_isa best;
    assert_int_equal(model_isa_find(&best), KVP_OK);
    for (int i = 0; i < 1003; i++)
        x[i] = (float)((i * 7919) % 1003 - 501) / 17.0f;
    for (model_isa isa = MODEL_ISA_AVX2; isa <= best; isa++) {
        for (size_t n = 1; n <= 1003; n += n < 70 ? 1 : 311) {
            memcpy(scalar, x, sizeof x);
            memcpy(gelu, x, sizeof x);
            gelu_tanh(MODEL_ISA_SCALAR, scalar, n);
            gelu_tanh(isa, gelu, n);
            assert_memory_equal(scalar, gelu, sizeof x);
            gated_silu(MODEL_ISA_SCALAR, x, gelu, n, silu[0]);
            gated_silu(isa, x, gelu, n, silu[1]);
            assert_memory_equal(silu[0], silu[1], sizeof x);
        }
    }
}

static void test_layer_norm_equals_float64(void **state)
{
    (void)state;
    static const size_t widths[] = {1, 5, 16, 40, 257};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        size_t n = widths[k];
        float x[2 * 257], weight[257], bias[257], out[2 * 257];
        for (size_t i = 0; i < 2 * n; i++)
            x[i] = 100.0f + (float)((i * 7919) % 101) / 10.0f; /* a mean far from zero */
        for (size_t i = 0; i < n; i++) {
            weight[i] = 1.0f + (float)(i % 7) / 8.0f;
            bias[i] = (float)(i % 5) - 2.0f;
        }
        layer_norm(x, 2, n, weight, bias, 1e-5f, out);
        for (size_t r = 0; r < 2; r++) {
            double mean = 0, variance = 0;
            for (size_t i = 0; i < n; i++)
                mean += (double)x[r * n + i] / (double)n;
            for (size_t i = 0; i < n; i++)
                variance += pow((double)x[r * n + i] - mean, 2) / (double)n;
            for (size_t i = 0; i < n; i++) {
                double wanted =
                    ((double)x[r * n + i] - mean) / sqrt(variance + 1e-5) * (double)weight[i] +
                    (double)bias[i];
                assert_true(fabs((double)out[r * n + i] - wanted) <= 2e-5);
            }
        }
    }
}

static void test_rms_norm_equals_float64(void **state)
{
    (void)state;
    static const size_t widths[] = {1, 5, 16, 40, 257};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        size_t n = widths[k];
        float x[2 * 257], weight[257], out[2 * 257];
        for (size_t i = 0; i < 2 * n; i++)
            x[i] = (float)((i * 7919) % 101) / 10.0f - 3.0f;
        for (size_t i = 0; i < n; i++)
            weight[i] = 1.0f + (float)(i % 7) / 8.0f;
        rms_norm(x, 2, n, weight, 1e-2f, out);
        for (size_t r = 0; r < 2; r++) {
            double square = 0;
            for (size_t i = 0; i < n; i++)
                square += (double)x[r * n + i] * (double)x[r * n + i] / (double)n;
            for (size_t i = 0; i < n; i++) {
                double wanted =
                    (double)x[r * n + i] / sqrt(square + (double)1e-2f) * (double)weight[i];
                assert_true(fabs((double)out[r * n + i] - wanted) <= 1e-5);
            }
        }
    }
}

static void test_gated_silu_equals_float64_everywhere(void **state)
{
    (void)state;
    static float gate[24001], up[24001], out[24001];
    for (int i = 0; i <= 24000; i++) {
        gate[i] = (float)(i - 12000) / 100.0f;
        up[i] = (float)(i % 7) - 3.0f;
    }
    gated_silu(MODEL_ISA_SCALAR, gate, up, 24001, out);
    for (int i = 0; i <= 24000; i++) {
        double x = (double)gate[i], wanted = x / (1 + exp(-x)) * (double)up[i];
        assert_true(fabs((double)out[i] - wanted) <= 1e-30 + 6e-7 * fabs(wanted) ||
                    fabs(wanted) <= 1e-35);
    }
    gate[0] = NAN;
    gated_silu(MODEL_ISA_SCALAR, gate, up, 1, out);
    assert_true(isnan(out[0]));
}

static void test_relu_keeps_what_is_not_negative(void **state)
{
    (void)state;
    float x[] = {-1.0f, 0.0f, 2.5f, -INFINITY, INFINITY, NAN};
    relu(x, 6);
    assert_true(x[0] == 0 && x[1] == 0 && x[2] == 2.5f && x[3] == 0 && isinf(x[4]));
    assert_true(isnan(x[5]));
}

static void test_narrowing_rounds_to_nearest_even(void **state)
{
    (void)state;
    static const struct {
        uint32_t from;
        uint16_t to;
    } cases[] = {{0x3F800000u, 0x3F80}, {0x3F807FFFu, 0x3F80}, {0x3F808000u, 0x3F80},
                 {0x3F808001u, 0x3F81}, {0x3F818000u, 0x3F82}, {0xBF818000u, 0xBF82},
                 {0x7F7FFFFFu, 0x7F80}, {0x7F800000u, 0x7F80}, {0x00000001u, 0x0000},
                 {0x80000000u, 0x8000}, {0x7F800001u, 0x7FC0}, {0xFFC12345u, 0xFFC1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float from;
        uint16_t got;
        memcpy(&from, &cases[i].from, sizeof from);
        convert_f32_to_bf16(&from, &got, 1);
        assert_int_equal(got, cases[i].to);
    }
}

/* Halves are exact; what lies between two of them goes to the nearer one, to the even one from the
 * middle. */
static void test_every_half_survives_and_what_lies_between_is_rounded(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x7C00u; half++) {
        float low = convert_f16((uint16_t)half);
        float high = half == 0x7BFFu ? 65536.0f : convert_f16((uint16_t)(half + 1));
        float middle = low + (high - low) / 2;
        assert_int_equal(convert_narrow_f16(low), half);
        assert_int_equal(convert_narrow_f16(-low), half | 0x8000u);
        assert_int_equal(convert_narrow_f16(nextafterf(middle, 0)), half);
        assert_int_equal(convert_narrow_f16(nextafterf(middle, 1e9f)), half + 1);
        assert_int_equal(convert_narrow_f16(middle), half + (half & 1));
    }
    assert_int_equal(convert_narrow_f16(INFINITY), 0x7C00);
    assert_int_equal(convert_narrow_f16(-1e9f), 0xFC00);
    assert_true(isnan(convert_f16(convert_narrow_f16(NAN))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gelu_equals_float64_everywhere),
        cmocka_unit_test(test_gelu_of_extremes_is_itself_or_zero),
        cmocka_unit_test(test_instruction_sets_change_no_bit),
        cmocka_unit_test(test_layer_norm_equals_float64),
        cmocka_unit_test(test_rms_norm_equals_float64),
        cmocka_unit_test(test_gated_silu_equals_float64_everywhere),
        cmocka_unit_test(test_relu_keeps_what_is_not_negative),
        cmocka_unit_test(test_narrowing_rounds_to_nearest_even),
        cmocka_unit_test(test_every_half_survives_and_what_lies_between_is_rounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
