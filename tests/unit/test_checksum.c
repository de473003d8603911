/* test_checksum.c - a page's checksum depends on every bit of it and of its identity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tiers/checksum.h"

static const kvpi_identity some_page = {.store_id = 0x1122334455667788,
                                        .fingerprint = 42,
                                        .serial = 7,
                                        .first_position = 64,
                                        .layer = 3,
                                        .group = 1,
                                        .format = 1,
                                        .n_valid = 64};

/* The swap format is XXH3-64: a published value of it. */
static void test_hash_is_xxh3(void **state)
{
    (void)state;
    assert_true(kvpi_checksum_raw("", 0, 0) == 0x2d06800538d394c2);
}

static void test_every_bit_of_the_identity_changes_the_seed(void **state)
{
    (void)state;
    uint64_t seed = kvpi_identity_seed(&some_page), seen[8 * sizeof(kvpi_identity)];
    for (size_t bit = 0; bit < 8 * sizeof some_page; bit++) {
        kvpi_identity other = some_page;
        ((unsigned char *)&other)[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        seen[bit] = kvpi_identity_seed(&other);
        assert_true(seen[bit] != seed);
        for (size_t i = 0; i < bit; i++)
            assert_true(seen[i] != seen[bit]);
    }
    kvpi_identity same = some_page;
    assert_true(kvpi_identity_seed(&same) == seed);
}

static void test_every_flipped_bit_is_noticed(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 8, 17, 130, 241, 1024, 4096};
    static unsigned char page[4096];
    for (size_t i = 0; i < sizeof page; i++)
        page[i] = (unsigned char)(i * 131 >> 3);
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        size_t n = sizes[k];
        uint64_t raw = kvpi_checksum_raw(page, n, 5), stored = kvpi_checksum_stored(page, n, 1, 5);
        for (size_t bit = 0; bit < 8 * n; bit++) {
            page[bit / 8] ^= (unsigned char)(1u << (bit % 8));
            assert_true(kvpi_checksum_raw(page, n, 5) != raw);
            assert_true(kvpi_checksum_stored(page, n, 1, 5) != stored);
            page[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        }
        assert_true(kvpi_checksum_raw(page, n, 5) == raw);
        assert_true(kvpi_checksum_stored(page, n, 1, 5) == stored);
    }
}

static void test_seed_length_codec_and_kind_all_count(void **state)
{
    (void)state;
    static const unsigned char page[4096];
    uint64_t sums[] = {
        kvpi_checksum_raw(page, 4096, 1),       kvpi_checksum_raw(page, 4095, 1),
        kvpi_checksum_raw(page, 4096, 2),       kvpi_checksum_stored(page, 4096, 0, 1),
        kvpi_checksum_stored(page, 4096, 1, 1), kvpi_checksum_stored(page, 4096, 0, 2),
        kvpi_checksum_stored(page, 4096, 1, 2), kvpi_checksum_stored(page, 4095, 0, 1),
    };
    for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++)
        for (size_t k = 0; k < i; k++)
            assert_true(sums[i] != sums[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_is_xxh3),
        cmocka_unit_test(test_every_bit_of_the_identity_changes_the_seed),
        cmocka_unit_test(test_every_flipped_bit_is_noticed),
        cmocka_unit_test(test_seed_length_codec_and_kind_all_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
