/* test_codec_damage.c - whatever the bytes are, decoding refuses them or gives a page: never a byte
 * more, never a byte beyond. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "codec_pages.h"
#include "tiers/codec.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 64 << 10 };

static kvpi_codec *c;
static bool have_zstd;

static int open_codec(void **state)
{
    (void)state;
    size_t workspace_bytes;
    if (kvpi_codec_open(&kvpi_mem_default, MAX_BYTES, true, &c, &workspace_bytes))
        return -1;
    have_zstd = kvpi_codec_can(c, KVPI_CODEC_HUFFMAN, KVP_F16);
    return 0;
}

static int close_codec(void **state)
{
    (void)state;
    kvpi_codec_close(c);
    return 0;
}

/* Decoding damaged bytes may succeed with other values (the checksum's business), but returns only
 * OK or CORRUPT, and never reads or writes past the ends: allocations are exact, for ASan. Returns
 * whether they were refused. */
static bool is_refused(kvpi_codec_id id, const kvpi_codec_shape *s, const unsigned char *bytes,
                       size_t n_src)
{
    size_t n = kvpi_shape_bytes(s);
    unsigned char *src = malloc(n_src + !n_src), *back = malloc(n + 16);
    memcpy(src, bytes, n_src);
    memset(back + n, 0x77, 16);
    kvp_status status = kvpi_codec_decode(c, id, s, src, n_src, back);
    assert_true(status == KVP_OK || status == KVP_E_CORRUPT);
    for (size_t i = 0; i < 16; i++)
        assert_int_equal(back[n + i], 0x77);
    free(src);
    free(back);
    return status == KVP_E_CORRUPT;
}

/* An encoded page, with room behind it. */
typedef struct blob {
    kvpi_codec_shape shape;
    kvpi_codec_id codec;
    unsigned char bytes[MAX_BYTES + 64];
    size_t n;
} blob;

static blob *make_blob(const kvpi_codec_shape *s, const kvpi_plan *plan, page_kind kind,
                       uint32_t n_valid)
{
    blob *b = calloc(1, sizeof *b);
    unsigned char *page = malloc(kvpi_shape_bytes(s));
    page_fill(page, s, kind, n_valid, 1234);
    b->shape = *s;
    b->codec = plan->codec;
    assert_true(kvpi_codec_encode_by(c, s, plan, page, b->bytes, &b->n));
    assert_false(is_refused(b->codec, s, b->bytes, b->n));
    free(page);
    return b;
}

/* ---- lengths ---- */

static void check_lengths(blob *b)
{
    for (size_t cut = 0; cut < b->n; cut++) /* every truncation is noticed */
        assert_true(is_refused(b->codec, &b->shape, b->bytes, cut));
    for (size_t more = 1; more < 20; more++) /* and every extension */
        assert_true(is_refused(b->codec, &b->shape, b->bytes, b->n + more));
    for (uint32_t wrong = 1; wrong < 40; wrong++) { /* and a page of another size */
        kvpi_codec_shape s = b->shape;
        s.n_tokens = wrong;
        assert_int_equal(is_refused(b->codec, &s, b->bytes, b->n), wrong != b->shape.n_tokens);
    }
}

/* ---- content ---- */

static void check_flips(blob *b)
{
    uint64_t seed = 99 + b->n;
    size_t n_refused = 0;
    for (size_t bit = 0; bit < 8 * b->n; bit++) { /* every flipped bit */
        if (bit > 8 * 300 && bit % 7)
            continue;
        b->bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        n_refused += is_refused(b->codec, &b->shape, b->bytes, b->n);
        b->bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
    unsigned char *copy = malloc(b->n);
    for (int round = 0; round < 300; round++) { /* and bursts of noise */
        memcpy(copy, b->bytes, b->n);
        size_t at = page_random(&seed) % b->n, len = page_random(&seed) % 64 + 1;
        for (size_t i = at; i < b->n && i < at + len; i++)
            copy[i] = (unsigned char)page_random(&seed);
        n_refused += is_refused(b->codec, &b->shape, copy, b->n);
    }
    free(copy);
    assert_true(n_refused > 0);
}

static void test_damaged_pages_are_refused_or_decode_to_their_length(void **state)
{
    (void)state;
    static const kvp_dtype dtypes[] = {KVP_F32, KVP_F16, KVP_BF16, KVP_OPAQUE};
    size_t n_blobs = 0;
    for (int id = KVPI_CODEC_RAW + 1; id < KVPI_N_CODECS; id++)
        for (size_t d = 0; d < 4; d++)
            for (kvpi_predictor p = 0; p < KVPI_N_PREDICTORS; p++)
                for (uint32_t n_valid = 20; n_valid >= 17; n_valid -= 3) {
                    kvpi_codec_shape s = {.dtype = dtypes[d],
                                          .n_heads = 2,
                                          .n_tokens = 20,
                                          .k_width = 24,
                                          .v_width = 7};
                    kvpi_plan plan = {.codec = (kvpi_codec_id)id, .predictor = {p, p}};
                    if (!kvpi_codec_can(c, plan.codec, s.dtype) || (s.dtype == KVP_OPAQUE && p))
                        continue;
                    blob *b = make_blob(&s, &plan, s.dtype == KVP_F16 ? PAGE_DRIFT : PAGE_NORMAL,
                                        n_valid);
                    check_lengths(b);
                    check_flips(b);
                    free(b);
                    n_blobs++;
                }
    assert_int_equal(n_blobs, have_zstd ? 2 * 18 + 2 : 18);
}

/* ---- lies ---- */

enum { BYTES = 0, LIVE = 4, HIGH = 8, PREDICTOR = 12, HEADER = 16 };

static uint32_t word(const unsigned char *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static void check_lie(const blob *b, size_t offset, uint32_t value)
{
    blob *copy = malloc(sizeof *copy);
    *copy = *b;
    memcpy(copy->bytes + offset, &value, sizeof value);
    assert_true(is_refused(b->codec, &b->shape, copy->bytes, b->n));
    assert_non_null(strstr(kvp_error(), "damaged"));
    free(copy);
}

static void test_headers_that_lie_are_refused(void **state)
{
    (void)state;
    const kvpi_codec_shape s = {
        .dtype = KVP_BF16, .n_heads = 2, .n_tokens = 64, .k_width = 32, .v_width = 32};
    const kvpi_plan plan = {.codec = KVPI_CODEC_PALETTE,
                            .predictor = {KVPI_PREDICT_SCALE, KVPI_PREDICT_NONE}};
    blob *b = make_blob(&s, &plan, PAGE_NORMAL, 20);
    uint32_t n_live = word(b->bytes + LIVE), n_high = word(b->bytes + HIGH);
    assert_int_equal(n_live, 2 * 20 * 32 * 2);
    static const uint32_t large[] = {UINT32_MAX, UINT32_MAX - 1, 0x80000000u, 0x7fffffffu, 8192};
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        check_lie(b, LIVE, large[i]);
        check_lie(b, HIGH, large[i]);
    }
    for (uint32_t d = 1; d < 100; d++) {
        check_lie(b, BYTES, 8192 + d);
        check_lie(b, BYTES, 8192 - d);
        check_lie(b, LIVE, n_live + d);
        check_lie(b, LIVE, n_live - d);
        check_lie(b, HIGH, n_high + d);
        check_lie(b, HIGH, n_high - d);
    }
    check_lie(b, LIVE, 0);
    check_lie(b, HIGH, 0);
    for (uint32_t p = KVPI_N_PREDICTORS; p < 300; p++)
        check_lie(b, PREDICTOR, p);
    check_lie(b, PREDICTOR, 0x10000u | KVPI_PREDICT_SCALE); /* the bytes behind it are zero */
    for (size_t bit = 0; bit < 8192 / 64; bit++) {          /* a block more or less in the map */
        b->bytes[HEADER + bit / 8] ^= (unsigned char)(1u << (bit % 8));
        assert_true(is_refused(b->codec, &s, b->bytes, b->n));
        b->bytes[HEADER + bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
    free(b);
}

static void test_a_palette_with_wrong_escapes_is_refused(void **state)
{
    (void)state;
    const kvpi_codec_shape s = {
        .dtype = KVP_BF16, .n_heads = 1, .n_tokens = 64, .k_width = 3, .v_width = 3};
    const kvpi_plan plan = {.codec = KVPI_CODEC_PALETTE};
    blob *b = make_blob(&s, &plan, PAGE_CHANNELS, 64);
    size_t n = 64 * 3, nibbles = HEADER + n + KVPI_PALETTE_COLOURS, n_refused = 0;
    for (size_t i = 0; i < n / 2; i++) { /* a nibble more or less that is an escape */
        unsigned char before = b->bytes[nibbles + i];
        b->bytes[nibbles + i] = before == 0xff ? 0xf0 : 0xff;
        n_refused += is_refused(b->codec, &s, b->bytes, b->n);
        b->bytes[nibbles + i] = before;
    }
    assert_int_equal(n_refused, n / 2);
    free(b);
}

static void test_noise_is_never_more_than_refused(void **state)
{
    (void)state;
    static const kvp_dtype dtypes[] = {KVP_F32, KVP_F16, KVP_BF16, KVP_OPAQUE};
    uint64_t seed = 77;
    size_t n_refused = 0;
    for (int round = 0; round < 40000; round++) {
        unsigned char bytes[256];
        size_t n = page_random(&seed) % sizeof bytes;
        kvpi_codec_shape s = {.dtype = dtypes[round % 4],
                              .n_heads = 1 + (uint32_t)round % 3,
                              .n_tokens = 1 + (uint32_t)(page_random(&seed) % 16),
                              .k_width = 1 + (uint32_t)(page_random(&seed) % 8),
                              .v_width = 4};
        for (size_t i = 0; i < n; i++)
            bytes[i] = (unsigned char)page_random(&seed);
        if (round % 2) { /* plausible words */
            size_t k = (size_t)s.n_heads * s.n_tokens * s.k_width * kvp_dtype_bytes(s.dtype);
            uint32_t words[4] = {(uint32_t)k, (uint32_t)(round % 4 ? k : k / 8 * 4),
                                 (uint32_t)(page_random(&seed) % 64), (uint32_t)round % 3};
            memcpy(bytes, words, sizeof words);
        }
        n_refused += is_refused((kvpi_codec_id)(round / 4 % 5), &s, bytes, n);
    }
    assert_true(n_refused > 39900);
}

static void test_wrong_lengths_and_codecs_are_corrupt(void **state)
{
    (void)state;
    const kvpi_codec_shape s = {
        .dtype = KVP_F16, .n_heads = 1, .n_tokens = 64, .k_width = 16, .v_width = 16};
    unsigned char page[4096] = {0};
    kvpi_codec_shape other = s;
    assert_true(is_refused(KVPI_CODEC_RAW, &s, page, 4095));
    assert_true(is_refused(KVPI_CODEC_RAW, &s, page, 4097 - 2));
    assert_false(is_refused(KVPI_CODEC_RAW, &s, page, 4096));
    assert_true(is_refused(KVPI_CODEC_ZSTD, &s, page, 64)); /* for opaque pages only */
    assert_true(is_refused((kvpi_codec_id)77, &s, page, 64));
    assert_non_null(strstr(kvp_error(), "codec 77"));
    other.dtype = KVP_OPAQUE;
    assert_true(is_refused(KVPI_CODEC_PALETTE, &other, page, 64));
    other.dtype = (kvp_dtype)9;
    assert_true(is_refused(KVPI_CODEC_PALETTE, &other, page, 64));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damaged_pages_are_refused_or_decode_to_their_length),
        cmocka_unit_test(test_headers_that_lie_are_refused),
        cmocka_unit_test(test_a_palette_with_wrong_escapes_is_refused),
        cmocka_unit_test(test_noise_is_never_more_than_refused),
        cmocka_unit_test(test_wrong_lengths_and_codecs_are_corrupt),
    };
    return cmocka_run_group_tests(tests, open_codec, close_codec) != 0;
}
