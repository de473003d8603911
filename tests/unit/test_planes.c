/* test_planes.c - the rearrangements in front of the entropy coder, against their definitions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tiers/planes.h"

#include <string.h>

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Byte `which` (0: least significant) of an element rotated left by one bit. */
static uint8_t rotated_byte(const uint8_t *element, size_t element_bytes, size_t which)
{
    uint64_t x = 0;
    for (size_t i = 0; i < element_bytes; i++)
        x |= (uint64_t)element[i] << (8 * i);
    unsigned bits = 8 * (unsigned)element_bytes;
    x = (x << 1 | x >> (bits - 1)) & ((UINT64_C(1) << bits) - 1);
    return (uint8_t)(x >> (8 * which));
}

static void test_planes_hold_rotated_bytes_and_merge_back(void **state)
{
    (void)state;
    enum { MAX = 1000 };
    static uint8_t src[4 * MAX + 1], back[4 * MAX], high[MAX], low[3 * MAX];
    uint64_t seed = 11;
    for (size_t i = 0; i < sizeof src; i++)
        src[i] = (uint8_t)next_random(&seed);
    for (size_t bytes = 2; bytes <= 4; bytes += 2)
        for (size_t n = 0; n <= MAX; n += n < 70 ? 1 : 93) {
            const uint8_t *from = src + n % 2; /* any alignment */
            kvpi_planes_split(from, n, bytes, high, low);
            for (size_t i = 0; i < n; i++) {
                assert_int_equal(high[i], rotated_byte(from + i * bytes, bytes, bytes - 1));
                for (size_t p = 0; p + 1 < bytes; p++)
                    assert_int_equal(low[p * n + i], rotated_byte(from + i * bytes, bytes, p));
            }
            memset(back, 0, sizeof back);
            kvpi_planes_merge(back, n, bytes, high, low);
            assert_memory_equal(back, from, n * bytes);
        }
}

static void test_exponents_of_bf16_and_f32_are_the_high_plane(void **state)
{
    (void)state;
    const float x[2] = {-1.5f, 0x1.8p-20f};
    uint8_t high[2], low[6];
    kvpi_planes_split(x, 2, 4, high, low);
    assert_int_equal(high[0], 127);
    assert_int_equal(high[1], 107);
    const uint16_t bf16[2] = {0xbfc0, 0x35c0}; /* the same values */
    kvpi_planes_split(bf16, 2, 2, high, low);
    assert_int_equal(high[0], 127);
    assert_int_equal(high[1], 107);
    assert_int_equal(low[0] & 1, 1); /* the sign */
}

static void test_zero_blocks_are_taken_out_and_put_back(void **state)
{
    (void)state;
    enum { MAX = 3000 };
    static uint8_t src[MAX], packed[MAX], back[MAX], map[MAX];
    uint64_t seed = 5;
    for (int round = 0; round < 2000; round++) {
        size_t n = next_random(&seed) % MAX + 1, n_live, n_expected = 0;
        memset(src, 0, n);
        for (size_t b = 0; b * KVPI_BLOCK_BYTES < n; b++) {
            size_t begin = b * KVPI_BLOCK_BYTES;
            size_t len = n - begin < KVPI_BLOCK_BYTES ? n - begin : KVPI_BLOCK_BYTES;
            if (next_random(&seed) % 2)
                continue;
            src[begin + next_random(&seed) % len] = (uint8_t)(next_random(&seed) | 1);
            memcpy(packed + n_expected, src + begin, len);
            n_expected += len;
        }
        static uint8_t expected[MAX];
        memcpy(expected, packed, n_expected);
        memset(map, 0xff, sizeof map);
        assert_int_equal(kvpi_blocks_find(src, n, map), n_expected);
        assert_int_equal(map[kvpi_block_map_bytes(n)], 0xff);
        assert_true(kvpi_blocks_count(map, n, &n_live));
        assert_int_equal(n_live, n_expected);
        memset(packed, 0xee, sizeof packed);
        kvpi_blocks_gather(src, n, map, packed);
        assert_memory_equal(packed, expected, n_expected);
        memset(back, 0xee, sizeof back);
        kvpi_blocks_scatter(packed, map, back, n);
        assert_memory_equal(back, src, n);
        for (size_t i = n; i < MAX; i++)
            assert_int_equal(back[i], 0xee);
    }
}

static void test_map_that_names_blocks_past_the_end_is_refused(void **state)
{
    (void)state;
    size_t n_live;
    const uint8_t just_inside[1] = {0x07}, past[1] = {0x0f};
    assert_true(kvpi_blocks_count(just_inside, 130, &n_live)); /* blocks of 64, 64 and 2 bytes */
    assert_int_equal(n_live, 130);
    assert_false(kvpi_blocks_count(past, 130, &n_live));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planes_hold_rotated_bytes_and_merge_back),
        cmocka_unit_test(test_exponents_of_bf16_and_f32_are_the_high_plane),
        cmocka_unit_test(test_zero_blocks_are_taken_out_and_put_back),
        cmocka_unit_test(test_map_that_names_blocks_past_the_end_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
