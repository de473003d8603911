/* test_format.c - what is written is read back, byte for byte as FORMAT.md says; whatever else the
 * bytes are is refused, by a message that names the place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tiers/format.h"

#define SEGMENT 65536u
#define MAX_RECORDS 100u
#define BLOCK KVPI_BLOCK_BYTES

static const kvpi_superblock some_file = {.kind = KVPI_FILE_STORE,
                                          .epoch = 5,
                                          .store_id = 0x1122334455667788,
                                          .fingerprint = 0x99aabbccddeeff00,
                                          .segment_bytes = SEGMENT,
                                          .n_segments = 7,
                                          .next_serial = 1000,
                                          .next_generation = 20,
                                          .slot_bytes = 16384};
static const kvpi_origin here = {"some.file", 0};
static unsigned char block[SEGMENT];
static kvpi_page_record records[MAX_RECORDS];

static bool says(const char *words)
{
    return strstr(kvp_error(), words) != NULL;
}

static uint64_t number_at(const unsigned char *bytes, size_t n)
{
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;)
        v = v << 8 | bytes[i];
    return v;
}

static void set_number(unsigned char *bytes, size_t n, uint64_t v)
{
    for (size_t i = 0; i < n; i++, v >>= 8)
        bytes[i] = (unsigned char)v;
}

/* ---- superblock -------------------------------------------------------------------------------*/

static void seal_superblock(void)
{
    set_number(block + BLOCK - 8, 8, kvpi_checksum_raw(block, BLOCK - 8, 0));
}

static void test_superblock_lies_as_documented(void **state)
{
    (void)state;
    kvpi_superblock_encode(&some_file, block);
    assert_memory_equal(block, "KVPAGER\n", 8);
    static const struct {
        size_t at, n;
        uint64_t value;
    } fields[] = {{8, 4, 1},      {12, 4, 2},
                  {16, 8, 5},     {24, 8, 0x1122334455667788},
                  {40, 8, 65536}, {32, 8, 0x99aabbccddeeff00},
                  {48, 8, 7},     {56, 8, 1000},
                  {64, 8, 20},    {72, 4, 16384}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        assert_true(number_at(block + fields[i].at, fields[i].n) == fields[i].value);
    assert_true(number_at(block + 4088, 8) == kvpi_checksum_raw(block, 4088, 0));
    unsigned char again[BLOCK];
    kvpi_superblock sb = {0};
    assert_int_equal(kvpi_superblock_decode(block, &here, &sb), KVP_OK);
    kvpi_superblock_encode(&sb, again);
    assert_memory_equal(again, block, BLOCK);
}

static void test_every_bit_of_a_superblock_counts(void **state)
{
    (void)state;
    kvpi_superblock sb;
    kvpi_superblock_encode(&some_file, block);
    for (size_t bit = 0; bit < 8 * BLOCK; bit++) {
        block[bit / 8] ^= (unsigned char)(1u << bit % 8);
        kvp_status status = kvpi_superblock_decode(block, &here, &sb);
        assert_int_equal(status, bit < 64 ? KVP_E_INVALID : KVP_E_CORRUPT);
        block[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    assert_int_equal(kvpi_superblock_decode(block, &here, &sb), KVP_OK);
}

static void test_superblock_fields_have_bounds(void **state)
{
    (void)state;
    static const struct {
        size_t at, n;
        uint64_t value;
        kvp_status status;
        const char *words;
    } cases[] = {
        {8, 4, 2, KVP_E_UNSUPPORTED, "version 2 of the format, this kvpager reads up to 1"},
        {8, 4, 0, KVP_E_CORRUPT, "version"},
        {12, 4, 3, KVP_E_CORRUPT, "kind"},
        {16, 8, 0, KVP_E_CORRUPT, "epoch"},
        {24, 8, 0, KVP_E_CORRUPT, "store id"},
        {40, 8, 0, KVP_E_CORRUPT, "segment_bytes"},
        {40, 8, 65537, KVP_E_CORRUPT, "segment_bytes"},
        {40, 8, (256 << 20) + 4096, KVP_E_CORRUPT, "segment_bytes"},
        {48, 8, UINT64_MAX, KVP_E_CORRUPT, "n_segments"},
        {48, 8, (uint64_t)1 << 47, KVP_E_CORRUPT, "n_segments"},
        {72, 4, 0, KVP_E_CORRUPT, "slot_bytes"},
        {72, 4, 4097, KVP_E_CORRUPT, "slot_bytes"},
        {72, 4, 69632, KVP_E_CORRUPT, "slot_bytes"},
        {76, 4, 1, KVP_E_CORRUPT, "reserves"},
        {4084, 4, 1, KVP_E_CORRUPT, "reserves"},
    };
    kvpi_superblock sb = {.epoch = 77};
    const kvpi_origin at_4096 = {"some.file", 4096};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvpi_superblock_encode(&some_file, block);
        set_number(block + cases[i].at, cases[i].n, cases[i].value);
        seal_superblock();
        assert_int_equal(kvpi_superblock_decode(block, &at_4096, &sb), cases[i].status);
        assert_true(says(cases[i].words) && says("some.file") && says("at byte 4096"));
    }
    assert_int_equal(sb.epoch, 77);
}

/* Two blocks; a NULL one is garbage. */
static kvp_status choose(const kvpi_superblock *a, const kvpi_superblock *b, uint64_t *epoch)
{
    static unsigned char two[2 * BLOCK];
    kvpi_superblock sb = {0};
    uint32_t which = 9;
    const kvpi_superblock *given[] = {a, b};
    memset(two, 0x5a, sizeof two);
    for (size_t i = 0; i < 2; i++)
        if (given[i])
            kvpi_superblock_encode(given[i], two + i * BLOCK);
    kvp_status status = kvpi_superblock_choose(two, &here, &sb, &which);
    *epoch = sb.epoch;
    if (!status)
        assert_int_equal(sb.epoch, given[which]->epoch);
    return status;
}

static void test_newest_sound_superblock_counts(void **state)
{
    (void)state;
    kvpi_superblock older = some_file, newer = some_file;
    uint64_t epoch;
    newer.epoch++;
    assert_int_equal(choose(&older, &newer, &epoch), KVP_OK);
    assert_int_equal(epoch, 6);
    assert_int_equal(choose(&newer, &older, &epoch), KVP_OK);
    assert_int_equal(epoch, 6);
    assert_int_equal(choose(&older, NULL, &epoch), KVP_OK);
    assert_int_equal(epoch, 5);
    assert_int_equal(choose(NULL, &older, &epoch), KVP_OK);
    assert_int_equal(epoch, 5);
    assert_int_equal(choose(NULL, NULL, &epoch), KVP_E_INVALID);
    assert_true(says("not a kvpager file"));
}

/* What an older kvpager understands of a newer one's file may be out of date. */
static void test_a_newer_superblock_beside_an_older_one_is_refused(void **state)
{
    (void)state;
    static unsigned char two[2 * BLOCK];
    kvpi_superblock sb;
    uint32_t which;
    kvpi_superblock_encode(&some_file, block);
    memcpy(two + BLOCK, block, BLOCK);
    set_number(block + 8, 4, 3);
    seal_superblock();
    memcpy(two, block, BLOCK);
    assert_int_equal(kvpi_superblock_choose(two, &here, &sb, &which), KVP_E_UNSUPPORTED);
    assert_true(says("version 3"));
    two[9] ^= 1; /* a damaged version is no version */
    assert_int_equal(kvpi_superblock_choose(two, &here, &sb, &which), KVP_OK);
    assert_int_equal(which, 1);
}

/* ---- summary ----------------------------------------------------------------------------------*/

/* A batch of n small records; its summary, alone, in block[]. */
static kvpi_summary make_summary(uint32_t n)
{
    uint32_t at = 8192 + kvpi_summary_bytes(n);
    kvpi_summary s = {.store_id = some_file.store_id,
                      .fingerprint = some_file.fingerprint,
                      .generation = 12,
                      .segment = 3,
                      .offset = 8192,
                      .n_records = n};
    for (uint32_t i = 0; i < n; i++) {
        records[i] = (kvpi_page_record){
            .identity = {.store_id = s.store_id,
                         .fingerprint = s.fingerprint,
                         .serial = 100 + i,
                         .first_position = 64 * i,
                         .layer = i % 3,
                         .group = i % 2,
                         .format = 1,
                         .n_valid = 64},
            .generation = 12,
            .raw_sum = 0x0102030405060708 + i,
            .stored_sum = 0xf1f2f3f4f5f6f7f8 - i,
            .raw_bytes = 4096,
            .stored_bytes = i % 2 ? 4096 : 3000,
            .offset = at,
            .codec = i % 2 ? 0 : 1,
        };
        at += 4096;
    }
    s.batch_bytes = at - s.offset;
    kvpi_summary_encode(&s, records, block);
    return s;
}

static void seal_summary(void)
{
    size_t n = (size_t)number_at(block + 44, 4) - 8;
    set_number(block + n, 8, kvpi_checksum_raw(block, n, some_file.store_id));
}

static kvp_status decode(size_t n, kvpi_summary *s)
{
    return kvpi_summary_decode(block, n, &some_file, 3, 8192, "some.file", s);
}

static void test_summary_lies_as_documented(void **state)
{
    (void)state;
    make_summary(2);
    assert_memory_equal(block, "KVPSUMM\n", 8);
    static const struct {
        size_t at, n;
        uint64_t value;
    } fields[] = {{8, 4, 1},
                  {12, 4, 2},
                  {16, 8, 0x1122334455667788},
                  {24, 8, 12},
                  {32, 8, 3},
                  {40, 4, 8192},
                  {44, 4, 4096},
                  {48, 4, 12288},
                  {160, 8, 101},
                  {168, 8, 64},
                  {176, 4, 1},
                  {180, 4, 1},
                  {184, 4, 1},
                  {188, 4, 64},
                  {192, 8, 12},
                  {200, 8, 0x0102030405060709},
                  {208, 8, 0xf1f2f3f4f5f6f7f7},
                  {216, 4, 4096},
                  {220, 4, 4096},
                  {224, 4, 16384},
                  {228, 1, 0},
                  {132, 1, 1}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        assert_true(number_at(block + fields[i].at, fields[i].n) == fields[i].value);
    assert_true(number_at(block + 4088, 8) == kvpi_checksum_raw(block, 4088, some_file.store_id));
}

static void test_summaries_of_any_length_are_read_back(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {1, 2, 11};
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        kvpi_summary s = make_summary(lengths[k]), got = {0};
        assert_int_equal(decode(kvpi_summary_bytes(lengths[k]), &got), KVP_OK);
        assert_true(got.generation == s.generation && got.segment == s.segment);
        assert_true(got.offset == s.offset && got.batch_bytes == s.batch_bytes);
        assert_int_equal(got.n_records, s.n_records);
        for (uint32_t i = 0; i < s.n_records; i++) {
            kvpi_page_record r;
            kvpi_summary_record(&got, block, i, &r);
            assert_memory_equal(&r.identity, &records[i].identity, sizeof r.identity);
            assert_true(r.raw_sum == records[i].raw_sum && r.stored_sum == records[i].stored_sum);
            assert_true(r.offset == records[i].offset && r.codec == records[i].codec);
            assert_int_equal(r.stored_bytes, records[i].stored_bytes);
        }
    }
    assert_int_equal(kvpi_summary_bytes(41), 4096); /* 64 + 96 * 41 + 8 = 4008 */
    assert_int_equal(kvpi_summary_bytes(42), 8192);
    assert_int_equal(kvpi_summary_bytes(UINT32_MAX), 0);
}

static void test_every_bit_of_a_summary_counts(void **state)
{
    (void)state;
    kvpi_summary s;
    make_summary(5);
    for (size_t bit = 0; bit < 8 * BLOCK; bit++) {
        block[bit / 8] ^= (unsigned char)(1u << bit % 8);
        assert_int_not_equal(decode(BLOCK, &s), KVP_OK);
        block[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    assert_int_equal(decode(BLOCK, &s), KVP_OK);
    assert_int_equal(decode(BLOCK - 1, &s), KVP_E_INVALID); /* torn */
}

static void test_a_summary_of_another_place_or_store_is_refused(void **state)
{
    (void)state;
    kvpi_summary s;
    kvpi_superblock other = some_file;
    make_summary(3);
    assert_int_equal(kvpi_summary_decode(block, BLOCK, &some_file, 4, 8192, "f", &s),
                     KVP_E_INVALID);
    assert_int_equal(kvpi_summary_decode(block, BLOCK, &some_file, 3, 4096, "f", &s),
                     KVP_E_INVALID);
    assert_true(says("wrong place"));
    other.store_id++;
    assert_int_equal(kvpi_summary_decode(block, BLOCK, &other, 3, 8192, "f", &s), KVP_E_INVALID);
    assert_true(says("another store's"));
}

static void test_summary_fields_have_bounds(void **state)
{
    (void)state;
    static const struct {
        size_t at, n;
        uint64_t value;
        kvp_status status;
        const char *words;
    } cases[] = {
        {8, 4, 2, KVP_E_UNSUPPORTED, "version 2"},
        {8, 4, 0, KVP_E_CORRUPT, "version"},
        {12, 4, 0, KVP_E_CORRUPT, "n_records"},
        {12, 4, 42, KVP_E_CORRUPT, "n_records"},
        {12, 4, UINT32_MAX, KVP_E_CORRUPT, "n_records"},
        {48, 4, 0, KVP_E_CORRUPT, "batch_bytes"},
        {48, 4, 12289, KVP_E_CORRUPT, "batch_bytes"},
        {48, 4, SEGMENT - 4096, KVP_E_CORRUPT, "batch_bytes"},
        {48, 4, 8192, KVP_E_CORRUPT, "offset"}, /* the second record lies behind it */
        {52, 4, 1, KVP_E_CORRUPT, "reserves"},
        {300, 4, 1, KVP_E_CORRUPT, "reserves"},
        {64 + 28, 4, 0, KVP_E_CORRUPT, "n_valid"},
        {64 + 56, 4, 0, KVP_E_CORRUPT, "raw_bytes"},
        {64 + 56, 4, 16385, KVP_E_CORRUPT, "raw_bytes"},
        {64 + 60, 4, 0, KVP_E_CORRUPT, "stored_bytes"},
        {64 + 60, 4, 4097, KVP_E_CORRUPT, "stored_bytes"},
        {160 + 60, 4, 4095, KVP_E_CORRUPT, "stored_bytes"}, /* raw ones are all there */
        {64 + 64, 4, 8192, KVP_E_CORRUPT, "offset"},        /* where the summary is */
        {160 + 64, 4, 12288, KVP_E_CORRUPT, "offset"},      /* where the first record is */
        {160 + 64, 4, 20480, KVP_E_CORRUPT, "offset"},
        {160 + 64, 4, 16385, KVP_E_CORRUPT, "offset"},
        {160 + 64, 4, UINT32_MAX - 4095, KVP_E_CORRUPT, "offset"},
        {160 + 69, 1, 1, KVP_E_CORRUPT, "reserves"},
        {160 + 95, 1, 1, KVP_E_CORRUPT, "reserves"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvpi_summary s = {.segment = 88};
        make_summary(2);
        set_number(block + cases[i].at, cases[i].n, cases[i].value);
        seal_summary();
        assert_int_equal(decode(BLOCK, &s), cases[i].status);
        if (!says(cases[i].words) || !says("some.file"))
            fail_msg("case %zu: %s", i, kvp_error());
        assert_int_equal(s.segment, 88);
    }
}

static void test_records_verify_what_belongs_to_them(void **state)
{
    (void)state;
    make_summary(2);
    static unsigned char raw[4096];
    kvpi_page_record r = records[1], other = records[0];
    uint64_t seed = kvpi_identity_seed(&r.identity);
    memset(raw, 0x3c, sizeof raw);
    r.raw_sum = kvpi_checksum_raw(raw, sizeof raw, seed);
    r.stored_sum = kvpi_checksum_stored(raw, sizeof raw, r.codec, seed);
    assert_int_equal(kvpi_record_verify_raw(&r, raw), KVP_OK);
    assert_int_equal(kvpi_record_verify_stored(&r, raw), KVP_OK);
    other.raw_sum = r.raw_sum; /* of another page with the same bytes */
    assert_int_equal(kvpi_record_verify_raw(&other, raw), KVP_E_CORRUPT);
    raw[4095] ^= 1;
    assert_int_equal(kvpi_record_verify_raw(&r, raw), KVP_E_CORRUPT);
    assert_int_equal(kvpi_record_verify_stored(&r, raw), KVP_E_CORRUPT);
    assert_true(says("page 101") && says("layer 1") && says("from token 64"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_superblock_lies_as_documented),
        cmocka_unit_test(test_every_bit_of_a_superblock_counts),
        cmocka_unit_test(test_superblock_fields_have_bounds),
        cmocka_unit_test(test_newest_sound_superblock_counts),
        cmocka_unit_test(test_a_newer_superblock_beside_an_older_one_is_refused),
        cmocka_unit_test(test_summary_lies_as_documented),
        cmocka_unit_test(test_summaries_of_any_length_are_read_back),
        cmocka_unit_test(test_every_bit_of_a_summary_counts),
        cmocka_unit_test(test_a_summary_of_another_place_or_store_is_refused),
        cmocka_unit_test(test_summary_fields_have_bounds),
        cmocka_unit_test(test_records_verify_what_belongs_to_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
