/* test_quants.c - numbers of weights files, against the gguf package and the formats' definitions.
 */
#include "integration/models/quants.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/files/folder.h"
#include "integration/files/ggml_type.h"

#define DATA "tests/data/quants"

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The same bits, or both NaN: whose payload is nobody's promise. */
static void expect(float got, float wanted, const char *type, size_t i)
{
    if (isnan(wanted) ? !isnan(got) : bits_of(got) != bits_of(wanted))
        fail_msg("%s, element %zu: %a; %a was expected", type, i, (double)got, (double)wanted);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void *load(const char *type, const char *suffix, size_t *n)
{
    char name[64], *bytes;
    snprintf(name, sizeof name, "%s.%s", type, suffix);
    if (folder_read(DATA, name, 1 << 20, &bytes, n))
        fail_msg("%s", kvp_error());
    return bytes;
}

static void check_type(uint32_t number)
{
    const ggml_type *type = ggml_type_find(number);
    size_t n_bytes, n_float_bytes;
    unsigned char *blocks = load(type->name, "blocks", &n_bytes);
    float *wanted = load(type->name, "floats", &n_float_bytes);
    size_t n = n_float_bytes / sizeof *wanted, n_blocks = n / type->block_elements;
    assert_true(n >= 1024);
    assert_int_equal(n_bytes, n_blocks * type->block_bytes);

    /* At an odd address, with guards around the result. */
    unsigned char *odd = malloc(n_bytes + 1);
    float *got = malloc((n + 2) * sizeof *got);
    memcpy(odd + 1, blocks, n_bytes);
    got[0] = got[n + 1] = 12345.0f;
    quants_read(number, odd + 1, got + 1, n);
    size_t n_nan = 0;
    for (size_t i = 0; i < n; i++) {
        expect(got[1 + i], wanted[i], type->name, i);
        n_nan += isnan(wanted[i]) != 0;
    }
    assert_true(n_nan > 0 && n_nan < n / 2);
    assert_true(got[0] == 12345.0f && got[n + 1] == 12345.0f);

    /* One block alone. */
    size_t last = n_blocks - 1;
    quants_read(number, blocks + last * type->block_bytes, got, type->block_elements);
    for (size_t i = 0; i < type->block_elements; i++)
        expect(got[i], wanted[last * type->block_elements + i], type->name, i);
    quants_read(number, blocks, got, 0);
    free(got);
    free(odd);
    free(wanted);
    free(blocks);
}

static void test_blocks_give_the_reference_floats(void **state)
{
    (void)state;
    static const uint32_t types[] = {GGML_Q8_0, GGML_Q4_0, GGML_Q4_1, GGML_Q4_K, GGML_Q6_K};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        check_type(types[i]);
}

/* ---- plain numbers --------------------------------------------------------------------------- */

/* The formats by their definition. */
static float value_of(uint32_t x, int mantissa_bits, int bias)
{
    int exponent_mask = (1 << (15 - mantissa_bits)) - 1;
    int exponent = (int)(x >> mantissa_bits) & exponent_mask;
    double mantissa = (double)(x & ((1u << mantissa_bits) - 1)) * ldexp(1, -mantissa_bits);
    double magnitude = exponent ? ldexp(1 + mantissa, exponent - bias) : ldexp(mantissa, 1 - bias);
    if (exponent == exponent_mask)
        magnitude = mantissa > 0 ? NAN : INFINITY;
    return (float)(x & 0x8000 ? -magnitude : magnitude);
}

static void test_all_16_bit_numbers_are_exact(void **state)
{
    (void)state;
    static unsigned char bytes[2 * 65536 + 1];
    static float got[65536];
    for (uint32_t x = 0; x < 65536; x++) {
        bytes[1 + 2 * x] = (unsigned char)x;
        bytes[2 + 2 * x] = (unsigned char)(x >> 8);
    }
    quants_read(GGML_F16, bytes + 1, got, 65536);
    for (uint32_t x = 0; x < 65536; x++)
        expect(got[x], value_of(x, 10, 15), "F16", x);
    quants_read(GGML_BF16, bytes + 1, got, 65536);
    for (uint32_t x = 0; x < 65536; x++)
        expect(got[x], value_of(x, 7, 127), "BF16", x);
}

static void test_floats_come_as_they_are(void **state)
{
    (void)state;
    static const unsigned char bytes[] = {0, 0, 0, 0x80, 0x3F, 1, 0, 0, 0x80, 0, 0, 0x80, 0xFF};
    float got[3];
    quants_read(GGML_F32, bytes + 1, got, 3);
    assert_int_equal(bits_of(got[0]), 0x3F800000);
    assert_int_equal(bits_of(got[1]), 0x80000001);
    assert_int_equal(bits_of(got[2]), 0xFF800000);
}

static void test_readable_types_are_those_that_are_promised(void **state)
{
    (void)state;
    size_t n = 0;
    for (uint32_t number = 0; number < 300; number++) {
        assert_true(!quants_can_read(number) || ggml_type_find(number));
        n += quants_can_read(number);
    }
    assert_int_equal(n, 8);
    assert_false(quants_can_read(UINT32_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_give_the_reference_floats),
        cmocka_unit_test(test_all_16_bit_numbers_are_exact),
        cmocka_unit_test(test_floats_come_as_they_are),
        cmocka_unit_test(test_readable_types_are_those_that_are_promised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
