/* test_zero_blocks.c - blocks of zeros are found, taken out and put back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tiers/zero_blocks.h"

#include <string.h>

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
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
        cmocka_unit_test(test_zero_blocks_are_taken_out_and_put_back),
        cmocka_unit_test(test_map_that_names_blocks_past_the_end_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
