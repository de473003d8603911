/* test_corruption.c - a page that is not what was written fails verification: flipped bits, pages
 * in each other's place, older contents, torn and cut-off ones; raw and encoded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "tiers/codec.h"
#include "tiers/format.h"

#define PAGE 4096u
#define N_PAGES 16u
#define N_FLIPS 1000000u
#define SECTOR 512u
#define SEED 2024u

typedef struct page {
    kvpi_page_record record;
    unsigned char raw[PAGE], stored[PAGE];
} page;

/* K and V of 64 tokens. */
static const kvpi_codec_shape shape = {
    .dtype = KVP_BF16, .n_heads = 1, .n_tokens = 64, .k_width = 16, .v_width = 16};
static page pages[N_PAGES];
static kvpi_codec *codec;
static uint64_t seed = SEED;
static uint64_t n_tried, n_detected, n_by_stored, n_by_raw;

static uint32_t draw(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % below;
}

/* Half-precision numbers of a few magnitudes: what the codec is for. */
static void fill(unsigned char *raw, uint32_t salt)
{
    for (uint32_t i = 0; i < PAGE; i += 2) {
        raw[i] = (unsigned char)draw(256);
        raw[i + 1] = (unsigned char)(0x3c + (salt + draw(4)) % 4);
    }
}

static void seal(page *p, bool is_encoded)
{
    size_t n = PAGE;
    kvpi_codec_id id = KVPI_CODEC_RAW;
    memcpy(p->stored, p->raw, PAGE);
    if (is_encoded) {
        kvpi_codec_encode(codec, &shape, p->raw, p->stored, &n, &id);
        assert_int_not_equal(id, KVPI_CODEC_RAW);
    }
    uint64_t s = kvpi_identity_seed(&p->record.identity);
    p->record.raw_bytes = PAGE;
    p->record.stored_bytes = (uint32_t)n;
    p->record.codec = (uint8_t)id;
    p->record.raw_sum = kvpi_checksum_raw(p->raw, PAGE, s);
    p->record.stored_sum = kvpi_checksum_stored(p->stored, n, p->record.codec, s);
}

/* Two sequences with the same tokens: their pages differ in the serial alone. */
static int set_up(void **state)
{
    (void)state;
    size_t workspace;
    assert_int_equal(kvpi_codec_open(&kvpi_mem_default, PAGE, true, &codec, &workspace), KVP_OK);
    for (uint32_t i = 0; i < N_PAGES; i++) {
        page *p = &pages[i];
        p->record.identity = (kvpi_identity){.store_id = 77,
                                             .fingerprint = 5,
                                             .serial = 100 + i,
                                             .first_position = i / 4 * 64u,
                                             .layer = i % 2,
                                             .format = KVP_BF16,
                                             .n_valid = 64};
        fill(p->raw, i / 4);
        seal(p, i % 4 < 2);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kvpi_codec_close(codec);
    return 0;
}

/* What whoever reads a page does: the stored bytes, then what they decode to. Both checks are made
 * on their own, so that each is seen to find it. */
static bool verify(const page *p, const unsigned char *stored)
{
    static unsigned char raw[PAGE];
    bool stored_ok = kvpi_record_verify_stored(&p->record, stored) == KVP_OK;
    bool raw_ok = kvpi_codec_decode(codec, (kvpi_codec_id)p->record.codec, &shape, stored,
                                    p->record.stored_bytes, raw) == KVP_OK &&
                  kvpi_record_verify_raw(&p->record, raw) == KVP_OK;
    if (raw_ok && stored_ok)
        assert_memory_equal(raw, p->raw, PAGE);
    n_by_stored += !stored_ok;
    n_by_raw += !raw_ok;
    return stored_ok && raw_ok;
}

static void try(const page *p, const unsigned char *stored)
{
    n_tried++;
    n_detected += !verify(p, stored);
}

static void report(const char *what)
{
    print_message("%s: %llu, found %llu; by the stored sum %llu, after decoding %llu\n", what,
                  (unsigned long long)n_tried, (unsigned long long)n_detected,
                  (unsigned long long)n_by_stored, (unsigned long long)n_by_raw);
    assert_int_equal(n_detected, n_tried);
    assert_int_equal(n_by_stored, n_tried);
    n_tried = n_detected = n_by_stored = n_by_raw = 0;
}

static void test_what_was_written_verifies(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < N_PAGES; i++)
        assert_true(verify(&pages[i], pages[i].stored));
    assert_int_equal(n_by_stored + n_by_raw, 0);
}

static void test_a_million_flipped_bits(void **state)
{
    (void)state;
    static unsigned char bytes[PAGE];
    for (uint32_t i = 0; i < N_PAGES; i++) {
        const page *p = &pages[i];
        memcpy(bytes, p->stored, PAGE);
        for (uint32_t k = 0; k < N_FLIPS / N_PAGES; k++) {
            uint32_t bit = draw(p->record.stored_bytes * 8);
            bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
            try(p, bytes);
            bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        }
    }
    assert_int_equal(n_tried, N_FLIPS / N_PAGES * N_PAGES);
    report("flips");
}

/* Also those of the same tokens in another sequence, whose bytes are equal. */
static void test_pages_in_each_others_place(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < N_PAGES; i++)
        for (uint32_t k = 0; k < N_PAGES; k++)
            if (k != i)
                try(&pages[i], pages[k].stored);
    report("misdirected");
    page twin = pages[2];
    twin.record.identity.serial++;
    seal(&twin, false);
    assert_memory_equal(twin.stored, pages[2].stored, PAGE);
    page swapped = pages[2];
    swapped.record.stored_sum = twin.record.stored_sum; /* its copy, with all that is said of it */
    swapped.record.raw_sum = twin.record.raw_sum;
    try(&swapped, twin.stored);
    report("twins");
}

static void test_older_contents(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < N_PAGES; i++) {
        page newer = pages[i];
        newer.record.identity.serial += 1000; /* whenever the content changes */
        newer.raw[draw(PAGE)] ^= 1;
        seal(&newer, i % 4 < 2);
        assert_true(verify(&newer, newer.stored));
        try(&newer, pages[i].stored);
    }
    report("stale");
}

/* Cut off, with zeros, or what was there before, behind it; at every sector, and every byte of the
 * last. */
static void test_torn_and_truncated_pages(void **state)
{
    (void)state;
    static unsigned char bytes[PAGE];
    for (uint32_t i = 0; i < N_PAGES; i++) {
        const page *p = &pages[i], *before = &pages[(i + 4) % N_PAGES];
        uint32_t n = p->record.stored_bytes;
        for (uint32_t cut = 0; cut < n; cut += cut + SECTOR < n ? SECTOR : 1) {
            memcpy(bytes, p->stored, PAGE);
            memset(bytes + cut, 0, PAGE - cut);
            if (memcmp(bytes, p->stored, n) != 0)
                try(p, bytes);
            memcpy(bytes + cut, before->stored + cut, PAGE - cut);
            if (memcmp(bytes, p->stored, n) != 0)
                try(p, bytes);
        }
    }
    assert_true(n_tried > 1000);
    report("torn");
}

/* The record itself: whatever it says the page is, the sums know better. */
static void test_flipped_bits_of_the_identity(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < N_PAGES; i++)
        for (uint32_t bit = 0; bit < 8 * sizeof(kvpi_identity); bit++) {
            page p = pages[i];
            ((unsigned char *)&p.record.identity)[bit / 8] ^= (unsigned char)(1u << bit % 8);
            try(&p, p.stored);
        }
    report("identities");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_written_verifies),
        cmocka_unit_test(test_a_million_flipped_bits),
        cmocka_unit_test(test_pages_in_each_others_place),
        cmocka_unit_test(test_older_contents),
        cmocka_unit_test(test_torn_and_truncated_pages),
        cmocka_unit_test(test_flipped_bits_of_the_identity),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down) != 0;
}
