/* test_rope.c - frequencies of every scaling against the published formulas, angles and rotation
 * against complex numbers, all in float64. Whole models: tests/parity/test_architectures.c. */
#include "integration/models/rope.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DIM 32u
#define PI 3.14159265358979323846

static rope made(rope_config c, const float *dividers)
{
    rope r;
    c.dim = c.dim ? c.dim : DIM;
    c.theta = c.theta > 0 ? c.theta : 10000;
    assert_int_equal(rope_init(&c, dividers, &r), KVP_OK);
    assert_int_equal(r.n_freqs, c.dim / 2);
    return r;
}

static double plain(size_t i)
{
    return 1 / pow(10000, 2.0 * (double)i / DIM);
}

static void near(double got, double wanted)
{
    assert_true(fabs(got - wanted) <= 1e-12 * fabs(wanted));
}

static void test_frequencies_fall_from_one(void **state)
{
    (void)state;
    rope r = made((rope_config){.scaling = ROPE_UNSCALED, .factor = 3}, NULL);
    for (size_t i = 0; i < r.n_freqs; i++)
        near(r.freqs[i], plain(i));
    assert_true(r.attention_factor == 1.0f);
    rope_fini(&r);
}

static void test_linear_divides_every_frequency(void **state)
{
    (void)state;
    rope r = made((rope_config){.scaling = ROPE_LINEAR, .factor = 2.5}, NULL);
    for (size_t i = 0; i < r.n_freqs; i++)
        near(r.freqs[i], plain(i) / 2.5);
    rope_fini(&r);
}

static void test_dividers_divide_besides(void **state)
{
    (void)state;
    float dividers[DIM / 2];
    for (size_t i = 0; i < DIM / 2; i++)
        dividers[i] = 1.0f + (float)i;
    rope r = made((rope_config){.scaling = ROPE_LINEAR, .factor = 2}, dividers);
    for (size_t i = 0; i < r.n_freqs; i++)
        near(r.freqs[i], plain(i) / 2 / (1 + (double)i));
    rope_fini(&r);
}

/* transformers, _compute_llama3_parameters(). */
static void test_llama3_ramps_between_two_wavelengths(void **state)
{
    (void)state;
    double low = 2, high = 8, factor = 4, context = 1024;
    rope r = made((rope_config){.scaling = ROPE_LLAMA3,
                                .factor = factor,
                                .original_n_ctx = context,
                                .low_freq_factor = low,
                                .high_freq_factor = high},
                  NULL);
    size_t n_kept = 0, n_stretched = 0, n_between = 0;
    for (size_t i = 0; i < r.n_freqs; i++) {
        double f = plain(i), wavelength = 2 * PI / f, wanted;
        if (wavelength < context / high) {
            wanted = f;
            n_kept++;
        } else if (wavelength > context / low) {
            wanted = f / factor;
            n_stretched++;
        } else {
            double smooth = (context / wavelength - low) / (high - low);
            wanted = (1 - smooth) * f / factor + smooth * f;
            n_between++;
        }
        near(r.freqs[i], wanted);
    }
    assert_true(n_kept && n_stretched && n_between);
    rope_fini(&r);
}

/* YaRN, section 3.2: of index i, turns = context * f / 2 pi. */
static void check_yarn(bool truncate)
{
    double fast = 20, slow = 2, factor = 4, context = 1024;
    rope r = made((rope_config){.scaling = ROPE_YARN,
                                .factor = factor,
                                .original_n_ctx = context,
                                .beta_fast = fast,
                                .beta_slow = slow,
                                .truncate = truncate,
                                .attention_factor = 1.25},
                  NULL);
    double low = DIM * log(context / (fast * 2 * PI)) / (2 * log(10000));
    double high = DIM * log(context / (slow * 2 * PI)) / (2 * log(10000));
    low = truncate ? floor(low) : low;
    high = truncate ? ceil(high) : high;
    size_t n_between = 0;
    for (size_t i = 0; i < r.n_freqs; i++) {
        double stretch = fmin(fmax(((double)i - low) / (high - low), 0), 1);
        n_between += stretch > 0 && stretch < 1;
        near(r.freqs[i], plain(i) * (1 - stretch) + plain(i) / factor * stretch);
    }
    assert_true(n_between >= 2);
    assert_true(r.attention_factor == 1.25f);
    rope_fini(&r);
}

static void test_yarn_ramps_between_two_numbers_of_turns(void **state)
{
    (void)state;
    check_yarn(true);
    check_yarn(false);
}

/* A context so short that the ramp has no width. */
static void test_yarn_without_a_ramp_is_finite(void **state)
{
    (void)state;
    rope r = made((rope_config){.scaling = ROPE_YARN,
                                .factor = 4,
                                .original_n_ctx = 8,
                                .beta_fast = 32,
                                .beta_slow = 32,
                                .attention_factor = 1},
                  NULL);
    for (size_t i = 0; i < r.n_freqs; i++)
        assert_true(r.freqs[i] > 0 && r.freqs[i] <= 1);
    rope_fini(&r);
}

static void test_attention_factor_is_yarns(void **state)
{
    (void)state;
    near(rope_attention_factor(4), 0.1 * log(4) + 1);
    near(rope_attention_factor(1), 1);
    near(rope_attention_factor(0.5), 1);
}

/* ---- angles and rotation --------------------------------------------------------------------- */

/* Also far from the start, and in any order. */
static void test_angles_are_exact_at_any_position(void **state)
{
    (void)state;
    static const uint64_t positions[] = {0,     1,       127,      128, 129, 1000003,
                                         65535, 7777777, 16777215, 5,   127};
    enum { N = sizeof positions / sizeof *positions };
    rope r = made((rope_config){.scaling = ROPE_YARN,
                                .factor = 1,
                                .original_n_ctx = 64,
                                .beta_fast = 32,
                                .beta_slow = 1,
                                .attention_factor = 2},
                  NULL);
    float angles[N][2][DIM / 2], one[2][DIM / 2];
    rope_angles(&r, positions, N, &angles[0][0][0]);
    for (size_t k = 0; k < N; k++) {
        for (size_t i = 0; i < DIM / 2; i++) {
            double angle = (double)positions[k] * plain(i);
            assert_true(fabs((double)angles[k][0][i] - 2 * cos(angle)) <= 3e-7);
            assert_true(fabs((double)angles[k][1][i] - 2 * sin(angle)) <= 3e-7);
        }
        rope_angles(&r, &positions[k], 1, &one[0][0]);
        assert_memory_equal(one, angles[k], sizeof one);
    }
    rope_fini(&r);
}

static void test_rotation_leaves_what_is_behind_dim(void **state)
{
    (void)state;
    enum { HEAD = 10, HALF = 3, N_HEADS = 3 };
    float angles[2][HALF] = {{0.5f, -0.25f, 1.0f}, {0.75f, 0.5f, 0.0f}};
    float heads[N_HEADS][HEAD], was[N_HEADS][HEAD];
    for (size_t i = 0; i < N_HEADS * HEAD; i++)
        heads[i / HEAD][i % HEAD] = (float)((i * 37) % 11) - 5.0f;
    memcpy(was, heads, sizeof was);
    rope_rotate(&angles[0][0], HALF, &heads[0][0], N_HEADS, HEAD);
    for (size_t h = 0; h < N_HEADS; h++) {
        for (size_t i = 0; i < HALF; i++) {
            float a = was[h][i], b = was[h][i + HALF], c = angles[0][i], s = angles[1][i];
            assert_true(heads[h][i] == a * c - b * s);
            assert_true(heads[h][i + HALF] == b * c + a * s);
        }
        for (size_t i = 2 * HALF; i < HEAD; i++)
            assert_true(heads[h][i] == was[h][i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequencies_fall_from_one),
        cmocka_unit_test(test_linear_divides_every_frequency),
        cmocka_unit_test(test_dividers_divide_besides),
        cmocka_unit_test(test_llama3_ramps_between_two_wavelengths),
        cmocka_unit_test(test_yarn_ramps_between_two_numbers_of_turns),
        cmocka_unit_test(test_yarn_without_a_ramp_is_finite),
        cmocka_unit_test(test_attention_factor_is_yarns),
        cmocka_unit_test(test_angles_are_exact_at_any_position),
        cmocka_unit_test(test_rotation_leaves_what_is_behind_dim),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
