/* test_codec.c - what goes in comes out, and nothing else ever does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "tiers/codec.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 64 << 10 };

static const kvp_dtype dtypes[] = {KVP_F32, KVP_F16, KVP_BF16, KVP_OPAQUE};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

static kvpi_codec_id packed_by(kvp_dtype dtype)
{
    return dtype == KVP_OPAQUE ? KVPI_CODEC_ZSTD : KVPI_CODEC_PLANES;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static kvpi_codec *open_codec(size_t max_bytes)
{
    kvpi_codec *c;
    size_t workspace_bytes = 0;
    assert_int_equal(kvpi_codec_open(&kvpi_mem_default, max_bytes, true, &c, &workspace_bytes),
                     KVP_OK);
    assert_true(workspace_bytes > 0);
    return c;
}

/* ---- data ---- */

static float normal(uint64_t *seed)
{
    double u = (double)(next_random(seed) >> 11) * 0x1p-53 + 0x1p-54;
    double v = (double)(next_random(seed) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(2 * 3.14159265358979 * v));
}

static void store(void *page, size_t i, kvp_dtype dtype, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (dtype == KVP_OPAQUE) { /* quantised to some bits */
        ((signed char *)page)[i] = (signed char)(x * 8);
    } else if (dtype == KVP_F32) {
        memcpy((char *)page + 4 * i, &bits, 4);
    } else if (dtype == KVP_BF16) {
        uint16_t b = (uint16_t)(bits >> 16);
        memcpy((char *)page + 2 * i, &b, 2);
    } else { /* f16, cut off: values here are normal and small */
        uint32_t e = bits >> 23 & 0xff;
        uint16_t h = (uint16_t)(bits >> 16 & 0x8000);
        if (e > 112)
            h |= (uint16_t)((e - 112) << 10 | (bits >> 13 & 0x3ff));
        memcpy((char *)page + 2 * i, &h, 2);
    }
}

typedef enum kind { NORMAL, OPEN_PAGE, ZEROS, NOISE, CONSTANT, TEXT, N_KINDS } kind;

static void fill_page(unsigned char *page, size_t n, kvp_dtype dtype, kind k, uint64_t seed)
{
    size_t element_bytes = kvp_dtype_bytes(dtype);
    memset(page, 0, n);
    for (size_t i = 0; i < n; i++) {
        if (k == NOISE)
            page[i] = (unsigned char)(next_random(&seed) >> 17);
        else if (k == CONSTANT)
            page[i] = (unsigned char)seed;
        else if (k == TEXT)
            page[i] = (unsigned char)"the cache of keys and values "[i % 29];
    }
    if (k != NORMAL && k != OPEN_PAGE)
        return;
    for (size_t i = 0; i < n / element_bytes; i++)
        if (k == NORMAL || i * element_bytes % 8192 < 1024) /* planes of 8 KiB, an eighth filled */
            store(page, i, dtype, normal(&seed));
    for (size_t i = n / element_bytes * element_bytes; i < n; i++)
        page[i] = (unsigned char)next_random(&seed);
}

/* ---- round trips ---- */

/* Encode, decode and compare; returns the encoded size. */
static size_t check_round_trip(kvpi_codec *c, kvp_dtype dtype, const unsigned char *page, size_t n,
                               kvpi_codec_id *id)
{
    unsigned char *dst = malloc(n ? n : 1), *back = malloc(n ? n : 1); /* exact: ASan watches */
    size_t n_dst = SIZE_MAX;
    kvpi_codec_encode(c, dtype, page, n, dst, &n_dst, id);
    assert_true(n_dst <= n);
    assert_int_equal(*id, n_dst < n ? packed_by(dtype) : KVPI_CODEC_RAW);
    unsigned char *exact = malloc(n_dst ? n_dst : 1);
    memcpy(exact, dst, n_dst);
    memset(back, 0xee, n);
    assert_int_equal(kvpi_codec_decode(c, *id, dtype, exact, n_dst, back, n), KVP_OK);
    assert_memory_equal(back, page, n);
    free(exact);
    free(dst);
    free(back);
    return n_dst;
}

static void test_pages_of_every_kind_and_size_come_back(void **state)
{
    (void)state;
    static const size_t sizes[] = {0,     1,     2,     3,     4,     5,     63,   64,   65,
                                   127,   128,   129,   1000,  1023,  4095,  4096, 4097, 10240,
                                   16384, 30001, 32768, 65533, 65534, 65535, 65536};
    unsigned char *page = malloc(MAX_BYTES);
    kvpi_codec *c = open_codec(MAX_BYTES);
    size_t n_packed = 0, n_raw = 0;
    for (size_t d = 0; d < N_DTYPES; d++)
        for (int k = 0; k < N_KINDS; k++)
            for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
                kvpi_codec_id id;
                fill_page(page, sizes[s], dtypes[d], (kind)k, 99 + s);
                check_round_trip(c, dtypes[d], page, sizes[s], &id);
                *(id == KVPI_CODEC_RAW ? &n_raw : &n_packed) += 1;
            }
#ifdef KVP_HAVE_ZSTD
    assert_true(n_packed > 130);
#endif
    assert_true(n_raw > 30);
    kvpi_codec_close(c);
    free(page);
}

#ifdef KVP_HAVE_ZSTD
static void test_ratios_are_near_the_entropy_bound(void **state)
{
    (void)state;
    static const struct {
        kvp_dtype dtype;
        kind kind;
        double min, max;
    } cases[] = {
        {KVP_F32, NORMAL, 1.19, 1.22},  {KVP_F16, NORMAL, 1.16, 1.20},
        {KVP_BF16, NORMAL, 1.48, 1.53}, {KVP_F32, OPEN_PAGE, 8.5, 10},
        {KVP_F16, OPEN_PAGE, 8.5, 10},  {KVP_BF16, OPEN_PAGE, 10.5, 12.5},
        {KVP_F16, ZEROS, 400, 600},     {KVP_OPAQUE, NORMAL, 1.5, 1.7},
        {KVP_OPAQUE, TEXT, 500, 2000},
    };
    unsigned char *page = malloc(MAX_BYTES);
    kvpi_codec *c = open_codec(MAX_BYTES);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kvpi_codec_id id;
        fill_page(page, MAX_BYTES, cases[i].dtype, cases[i].kind, 7);
        double ratio =
            (double)MAX_BYTES / (double)check_round_trip(c, cases[i].dtype, page, MAX_BYTES, &id);
        print_message("dtype %d kind %d: %.3f\n", cases[i].dtype, cases[i].kind, ratio);
        assert_true(ratio >= cases[i].min && ratio <= cases[i].max);
    }
    fill_page(page, MAX_BYTES, KVP_F16, NOISE, 7);
    for (size_t d = 0; d < N_DTYPES; d++) {
        kvpi_codec_id id;
        assert_int_equal(check_round_trip(c, dtypes[d], page, MAX_BYTES, &id), MAX_BYTES);
        assert_int_equal(id, KVPI_CODEC_RAW);
    }
    kvpi_codec_close(c);
    free(page);
}

static void test_pages_far_larger_than_a_window_shrink_too(void **state)
{
    (void)state;
    enum { LARGE_BYTES = 1 << 20 };
    unsigned char *page = malloc(LARGE_BYTES);
    kvpi_codec *c = open_codec(LARGE_BYTES);
    for (size_t d = 0; d < N_DTYPES; d++) {
        kvpi_codec_id id;
        fill_page(page, LARGE_BYTES, dtypes[d], NORMAL, 7);
        assert_in_range(check_round_trip(c, dtypes[d], page, LARGE_BYTES, &id), LARGE_BYTES / 2,
                        LARGE_BYTES * 9 / 10);
    }
    kvpi_codec_close(c);
    free(page);
}

static void test_encoding_is_deterministic_whatever_came_before(void **state)
{
    (void)state;
    enum { N = 16384 };
    static unsigned char page[N], other[N], first[N], second[N];
    kvpi_codec *c = open_codec(N), *fresh = open_codec(N);
    size_t n_first, n_second, n_other;
    kvpi_codec_id id;
    static const kvp_dtype tried[] = {KVP_BF16, KVP_OPAQUE};
    for (size_t d = 0; d < 2; d++)
        for (int k = 0; k < N_KINDS; k++) /* noise does not fit, and other dtypes take turns */
            for (size_t o = 0; o < N_DTYPES; o++) {
                fill_page(page, N, tried[d], NORMAL, 1);
                fill_page(other, N, dtypes[o], (kind)k, 2);
                kvpi_codec_encode(c, dtypes[o], other, N, first, &n_other, &id);
                kvpi_codec_encode(c, tried[d], page, N, first, &n_first, &id);
                assert_int_equal(id, packed_by(tried[d]));
                kvpi_codec_encode(fresh, tried[d], page, N, second, &n_second, &id);
                assert_int_equal(id, packed_by(tried[d]));
                assert_int_equal(n_first, n_second);
                assert_memory_equal(first, second, n_first);
            }
    kvpi_codec_close(c);
    kvpi_codec_close(fresh);
}

/* ---- damaged input ---- */

/* Decoding damaged bytes may succeed with other values (the checksum's business), but returns only
 * OK or CORRUPT, and never reads or writes past the ends: allocations are exact, for ASan. */
static void decode_damaged(kvpi_codec *c, kvp_dtype dtype, const unsigned char *bytes, size_t n_src,
                           size_t n_page, size_t *n_refused)
{
    unsigned char *src = malloc(n_src ? n_src : 1), *back = malloc(n_page + 16);
    memcpy(src, bytes, n_src);
    memset(back + n_page, 0x77, 16);
    kvp_status status = kvpi_codec_decode(c, packed_by(dtype), dtype, src, n_src, back, n_page);
    assert_true(status == KVP_OK || status == KVP_E_CORRUPT);
    *n_refused += status == KVP_E_CORRUPT;
    for (int i = 0; i < 16; i++)
        assert_int_equal(back[n_page + (size_t)i], 0x77);
    free(src);
    free(back);
}

static void check_damage(kvpi_codec *c, kvp_dtype dtype, kind k, size_t n)
{
    unsigned char *page = malloc(n), *encoded = malloc(2 * n);
    size_t n_encoded, n_refused = 0, n_flips = 0;
    kvpi_codec_id id;
    uint64_t seed = 1234 + n;
    fill_page(page, n, dtype, k, seed);
    kvpi_codec_encode(c, dtype, page, n, encoded, &n_encoded, &id);
    assert_int_equal(id, packed_by(dtype));
    memset(encoded + n_encoded, 0, 2 * n - n_encoded);

    for (size_t cut = 0; cut < n_encoded; cut++) /* every truncation is noticed */
        decode_damaged(c, dtype, encoded, cut, n, &n_refused);
    assert_int_equal(n_refused, n_encoded);
    for (size_t more = 1; more < 20; more++) /* and every extension */
        decode_damaged(c, dtype, encoded, n_encoded + more, n, &n_refused);
    assert_int_equal(n_refused, n_encoded + 19);
    for (size_t wrong = n > 40 ? n - 40 : 0; wrong < n + 40; wrong++) { /* of another page size */
        size_t before = n_refused;
        if (wrong != n)
            decode_damaged(c, dtype, encoded, n_encoded, wrong, &n_refused);
        assert_true(wrong == n || n_refused == before + 1);
    }

    for (size_t bit = 0; bit < 8 * n_encoded; bit++) { /* every flipped bit */
        if (bit > 8 * 300 && bit % 7)
            continue;
        encoded[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        decode_damaged(c, dtype, encoded, n_encoded, n, &n_flips);
        encoded[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
    for (int round = 0; round < 300; round++) { /* and bursts of noise */
        unsigned char *copy = malloc(n_encoded);
        memcpy(copy, encoded, n_encoded);
        size_t at = next_random(&seed) % n_encoded, len = next_random(&seed) % 64 + 1;
        for (size_t i = at; i < n_encoded && i < at + len; i++)
            copy[i] = (unsigned char)next_random(&seed);
        decode_damaged(c, dtype, copy, n_encoded, n, &n_flips);
        free(copy);
    }
    assert_true(n_flips > 0);
    free(page);
    free(encoded);
}

static void test_damaged_pages_are_refused_or_decode_to_their_length(void **state)
{
    (void)state;
    kvpi_codec *c = open_codec(MAX_BYTES);
    for (size_t d = 0; d < N_DTYPES; d++) {
        check_damage(c, dtypes[d], NORMAL, 1400);
        check_damage(c, dtypes[d], NORMAL, 1403);
        check_damage(c, dtypes[d], OPEN_PAGE, 8192 + 1024 + 3);
        check_damage(c, dtypes[d], ZEROS, 1000);
    }
    kvpi_codec_close(c);
}

/* Lengths that agree with each other, but not with the parts. */
static void test_lies_about_lengths_are_refused(void **state)
{
    (void)state;
    enum { N = 8192 + 1024, HEADER = 12 };
    static unsigned char page[N], encoded[N], forged[N + 8], back[N + 8];
    kvpi_codec *c = open_codec(MAX_BYTES);
    size_t n_encoded;
    kvpi_codec_id id;

    fill_page(page, N, KVP_BF16, OPEN_PAGE, 4); /* header, map of 144 bits, and so on */
    kvpi_codec_encode(c, KVP_BF16, page, N, encoded, &n_encoded, &id);
    assert_int_equal(id, KVPI_CODEC_PLANES);
    for (size_t bit = 0; bit < N / 64; bit++) { /* one block more or less in the map */
        encoded[HEADER + bit / 8] ^= (unsigned char)(1u << (bit % 8));
        assert_int_equal(kvpi_codec_decode(c, id, KVP_BF16, encoded, n_encoded, back, N),
                         KVP_E_CORRUPT);
        encoded[HEADER + bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }

    /* An element more: a byte more of the low plane, but not of the compressed one. */
    fill_page(page, 1400, KVP_BF16, NORMAL, 4);
    kvpi_codec_encode(c, KVP_BF16, page, 1400, encoded, &n_encoded, &id);
    assert_int_equal(id, KVPI_CODEC_PLANES);
    memcpy(forged, encoded, HEADER + 700);
    memcpy(forged + HEADER + 701, encoded + HEADER + 700, n_encoded - HEADER - 700);
    memcpy(forged, (uint32_t[]){1402, 1402}, 8);
    assert_int_equal(kvpi_codec_decode(c, id, KVP_BF16, forged, n_encoded + 1, back, 1402),
                     KVP_E_CORRUPT);
    kvpi_codec_close(c);
}

static void test_noise_is_never_more_than_refused(void **state)
{
    (void)state;
    kvpi_codec *c = open_codec(4096);
    uint64_t seed = 77;
    size_t n_refused = 0;
    for (int round = 0; round < 20000; round++) {
        unsigned char bytes[256];
        size_t n = next_random(&seed) % sizeof bytes;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (unsigned char)next_random(&seed);
        if (round % 2) /* plausible words */
            memcpy(bytes, (uint32_t[]){4096, (uint32_t)(seed % 4096), (uint32_t)(seed >> 32) % 64},
                   12);
        decode_damaged(c, dtypes[round % N_DTYPES], bytes, n, 4096, &n_refused);
    }
    assert_true(n_refused > 19000);
    kvpi_codec_close(c);
}
#endif

static void test_wrong_lengths_and_codecs_are_corrupt(void **state)
{
    (void)state;
    kvpi_codec *c = open_codec(4096);
    unsigned char page[4096] = {0}, back[4096];
    assert_int_equal(kvpi_codec_decode(c, KVPI_CODEC_RAW, KVP_F16, page, 4095, back, 4096),
                     KVP_E_CORRUPT);
    assert_int_equal(kvpi_codec_decode(c, KVPI_CODEC_RAW, KVP_F16, page, 4096, back, 4095),
                     KVP_E_CORRUPT);
    assert_int_equal(kvpi_codec_decode(c, (kvpi_codec_id)2, KVP_F16, page, 4096, back, 4096),
                     KVP_E_CORRUPT);
    assert_int_equal(kvpi_codec_decode(c, KVPI_CODEC_PLANES, (kvp_dtype)9, page, 64, back, 4096),
                     KVP_E_CORRUPT);
    assert_non_null(strstr(kvp_error(), "codec"));
    kvpi_codec_close(c);
    kvpi_codec_close(NULL);
}

/* ---- memory ---- */

static size_t n_allocs, asked_bytes, given_bytes;

static void *counting_alloc(void *opaque, size_t n, size_t align)
{
    n_allocs++;
    asked_bytes += n;
    return opaque ? NULL : kvpi_mem_default.alloc(NULL, n, align);
}

static void counting_free(void *opaque, void *p, size_t n)
{
    (void)opaque;
    given_bytes += n;
    kvpi_mem_default.free(NULL, p, n);
}

static void test_workspace_is_accounted_and_taken_once(void **state)
{
    (void)state;
    const kvp_mem counting = {.alloc = counting_alloc, .free = counting_free};
    unsigned char *page = malloc(MAX_BYTES), *dst = malloc(MAX_BYTES);
    kvpi_codec *c;
    size_t workspace_bytes = 0, n_dst;
    kvpi_codec_id id;
    n_allocs = asked_bytes = given_bytes = 0;
    assert_int_equal(kvpi_codec_open(&counting, MAX_BYTES, true, &c, &workspace_bytes), KVP_OK);
    assert_int_equal(asked_bytes, workspace_bytes);
    assert_true(workspace_bytes < 512 << 10);
    fill_page(page, MAX_BYTES, KVP_BF16, NORMAL, 3);
    kvpi_codec_encode(c, KVP_BF16, page, MAX_BYTES, dst, &n_dst, &id);
    assert_int_equal(kvpi_codec_decode(c, id, KVP_BF16, dst, n_dst, page, MAX_BYTES), KVP_OK);
    assert_int_equal(n_allocs, 1);
    kvpi_codec_close(c);
    assert_int_equal(given_bytes, asked_bytes);
    free(page);
    free(dst);
}

static void test_no_memory_is_reported(void **state)
{
    (void)state;
    kvp_mem none = {.alloc = counting_alloc, .free = counting_free, .opaque = &none};
    kvpi_codec *c = NULL;
    size_t workspace_bytes = 5;
    assert_int_equal(kvpi_codec_open(&none, 4096, true, &c, &workspace_bytes), KVP_E_NOMEM);
    assert_null(c);
    assert_int_equal(workspace_bytes, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_of_every_kind_and_size_come_back),
#ifdef KVP_HAVE_ZSTD
        cmocka_unit_test(test_ratios_are_near_the_entropy_bound),
        cmocka_unit_test(test_pages_far_larger_than_a_window_shrink_too),
        cmocka_unit_test(test_encoding_is_deterministic_whatever_came_before),
        cmocka_unit_test(test_damaged_pages_are_refused_or_decode_to_their_length),
        cmocka_unit_test(test_lies_about_lengths_are_refused),
        cmocka_unit_test(test_noise_is_never_more_than_refused),
#endif
        cmocka_unit_test(test_wrong_lengths_and_codecs_are_corrupt),
        cmocka_unit_test(test_workspace_is_accounted_and_taken_once),
        cmocka_unit_test(test_no_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
