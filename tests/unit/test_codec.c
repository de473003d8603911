/* test_codec.c - what goes in comes out, by every codec and on every instruction set; and what is
 * chosen is about the smallest. */
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

enum { MAX_BYTES = 96 << 10 };

static const kvp_dtype dtypes[] = {KVP_F32, KVP_F16, KVP_BF16, KVP_OPAQUE};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

/* Heads, tokens, widths: usual ones, and such as no vector register likes. */
static const kvpi_codec_shape shapes[] = {
    {.n_heads = 1, .n_tokens = 1, .k_width = 1, .v_width = 1},
    {.n_heads = 1, .n_tokens = 1, .k_width = 64, .v_width = 64},
    {.n_heads = 3, .n_tokens = 5, .k_width = 7, .v_width = 3},
    {.n_heads = 1, .n_tokens = 17, .k_width = 33, .v_width = 1},
    {.n_heads = 2, .n_tokens = 16, .k_width = 80, .v_width = 48},
    {.n_heads = 3, .n_tokens = 64, .k_width = 64, .v_width = 64},
    {.n_heads = 1, .n_tokens = 64, .k_width = 136, .v_width = 8},
    {.n_heads = 5, .n_tokens = 31, .k_width = 12, .v_width = 40},
    {.n_heads = 2, .n_tokens = 64, .k_width = 96, .v_width = 96},
    {.n_heads = 1, .n_tokens = 40, .k_width = 576, .v_width = 0}, /* a latent cache */
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static kvpi_codec_shape shape_of(size_t i, kvp_dtype dtype)
{
    kvpi_codec_shape s = shapes[i];
    s.dtype = dtype;
    return s;
}

/* A page as the pager has them by default. */
static kvpi_codec_shape usual(kvp_dtype dtype)
{
    return (kvpi_codec_shape){.dtype = dtype,
                              .n_heads = dtype == KVP_F32      ? 2
                                         : dtype == KVP_OPAQUE ? 8
                                                               : 4,
                              .n_tokens = 64,
                              .k_width = 64,
                              .v_width = 64};
}

static kvpi_codec *open_codec(const char *isa)
{
    kvpi_codec *c;
    size_t workspace_bytes = 0;
    if (isa)
        setenv("KVP_ISA", isa, 1);
    else
        unsetenv("KVP_ISA");
    assert_int_equal(kvpi_codec_open(&kvpi_mem_default, MAX_BYTES, true, &c, &workspace_bytes),
                     KVP_OK);
    assert_true(workspace_bytes > 0);
    unsetenv("KVP_ISA");
    return c;
}

/* ---- round trips ---- */

static unsigned char page[MAX_BYTES];

static void check_decode(kvpi_codec *c, kvpi_codec_id id, const kvpi_codec_shape *s,
                         const void *encoded, size_t n_encoded)
{
    size_t n = kvpi_shape_bytes(s);
    unsigned char *back = malloc(n); /* exact, as `encoded` is: ASan watches */
    memset(back, 0xee, n);
    assert_int_equal(kvpi_codec_decode(c, id, s, encoded, n_encoded, back), KVP_OK);
    assert_memory_equal(back, page, n);
    free(back);
}

/* Encode `page`, decode, compare; returns the encoded size. */
static size_t check_chosen(kvpi_codec *c, const kvpi_codec_shape *s, kvpi_codec_id *id)
{
    size_t n = kvpi_shape_bytes(s), n_dst = SIZE_MAX;
    unsigned char *dst = malloc(n);
    kvpi_codec_encode(c, s, page, dst, &n_dst, id);
    assert_true(n_dst <= n);
    assert_int_equal(*id == KVPI_CODEC_RAW, n_dst == n);
    unsigned char *exact = malloc(n_dst);
    memcpy(exact, dst, n_dst);
    check_decode(c, *id, s, exact, n_dst);
    free(exact);
    free(dst);
    return n_dst;
}

/* The page in every way that fits: one encodes it, another decodes. Both make the same bytes of it.
 * Returns the least size. */
static size_t check_all(kvpi_codec *c, kvpi_codec *other, const kvpi_codec_shape *s, size_t *n_ways)
{
    size_t n = kvpi_shape_bytes(s), least = n;
    for (int id = 0; id < KVPI_N_CODECS; id++)
        for (kvpi_predictor k = 0; k < KVPI_N_PREDICTORS; k++)
            for (kvpi_predictor v = 0; v < KVPI_N_PREDICTORS; v++) {
                kvpi_plan plan = {.codec = (kvpi_codec_id)id, .predictor = {k, v}};
                unsigned char *first = malloc(n), *second = malloc(n);
                size_t n_first, n_second;
                bool fits = kvpi_codec_encode_by(c, s, &plan, page, first, &n_first);
                assert_int_equal(kvpi_codec_encode_by(other, s, &plan, page, second, &n_second),
                                 fits);
                if (fits) {
                    assert_int_equal(n_first, n_second);
                    assert_memory_equal(first, second, n_first);
                    unsigned char *exact = malloc(n_first);
                    memcpy(exact, first, n_first);
                    check_decode(other, plan.codec, s, exact, n_first);
                    free(exact);
                    least = n_first < least ? n_first : least;
                    n_ways[id]++;
                }
                free(first);
                free(second);
                if (!kvpi_codec_can(c, plan.codec, s->dtype) || s->dtype == KVP_OPAQUE)
                    k = v = KVPI_N_PREDICTORS; /* predictors make no difference */
            }
    return least;
}

static void test_every_page_comes_back_by_every_codec(void **state)
{
    (void)state;
    kvpi_codec *best = open_codec(NULL), *scalar = open_codec("scalar");
    size_t n_ways[KVPI_N_CODECS] = {0};
    for (size_t d = 0; d < N_DTYPES; d++)
        for (int kind = 0; kind < N_PAGE_KINDS; kind++)
            for (size_t i = 0; i < N_SHAPES; i++) {
                kvpi_codec_shape s = shape_of(i, dtypes[d]);
                kvpi_codec_id id;
                page_fill(page, &s, (page_kind)kind, s.n_tokens, 99 + i);
                check_all(best, scalar, &s, n_ways);
                check_all(scalar, best, &s, n_ways);
                check_chosen(best, &s, &id);
            }
    for (int id = 0; id < KVPI_N_CODECS; id++)
        if (kvpi_codec_can(best, (kvpi_codec_id)id, id == KVPI_CODEC_ZSTD ? KVP_OPAQUE : KVP_F16))
            assert_true(n_ways[id] > 40);
    assert_true(n_ways[KVPI_CODEC_PALETTE] > 300);
    kvpi_codec_close(best);
    kvpi_codec_close(scalar);
}

static void test_open_pages_come_back_with_any_number_of_tokens(void **state)
{
    (void)state;
    kvpi_codec *best = open_codec(NULL), *scalar = open_codec("scalar");
    size_t n_ways[KVPI_N_CODECS] = {0};
    const bool has_entropy = kvpi_codec_can(best, KVPI_CODEC_ZSTD, KVP_OPAQUE);
    for (size_t d = 0; d < N_DTYPES; d++)
        for (size_t i = 2; i < N_SHAPES; i++) {
            kvpi_codec_shape s = shape_of(i, dtypes[d]);
            for (uint32_t n_valid = 0; n_valid <= s.n_tokens; n_valid++) {
                kvpi_codec_id id;
                page_fill(page, &s, PAGE_CHANNELS, n_valid, 7 * n_valid + 1);
                check_all(best, scalar, &s, n_ways);
                size_t n = check_chosen(best, &s, &id), full = kvpi_shape_bytes(&s);
                /* An empty row costs next to nothing; a palette's codes are all of one length. */
                if (full > 10000 && id != KVPI_CODEC_RAW && has_entropy)
                    assert_true(n < full * n_valid / s.n_tokens + full / 50 + s.n_heads * 256);
            }
        }
    kvpi_codec_close(best);
    kvpi_codec_close(scalar);
}

/* ---- choice ---- */

#ifdef KVP_HAVE_ZSTD
static void test_chosen_is_about_the_smallest(void **state)
{
    (void)state;
    kvpi_codec *c = open_codec(NULL), *scalar = open_codec("scalar");
    size_t n_ways[KVPI_N_CODECS] = {0}, n_chosen[KVPI_N_CODECS] = {0};
    for (size_t d = 0; d < N_DTYPES; d++)
        for (int kind = 0; kind < N_PAGE_KINDS; kind++)
            for (uint32_t n_valid = 64; n_valid >= 8; n_valid /= 2) {
                kvpi_codec_shape s = usual(dtypes[d]);
                kvpi_codec_id id, again;
                page_fill(page, &s, (page_kind)kind, n_valid, 5);
                size_t full = kvpi_shape_bytes(&s), n = check_chosen(c, &s, &id);
                size_t least = check_all(c, scalar, &s, n_ways);
                if (n > least + least / 50 + 64 && least < full - full / 64)
                    print_message("dtype %d kind %d, %u tokens: %zu, could be %zu\n", dtypes[d],
                                  kind, n_valid, n, least);
                assert_true(n <= least + least / 50 + 64 || least >= full - full / 64);
                assert_int_equal(check_chosen(scalar, &s, &again), n);
                assert_int_equal(again, id);
                n_chosen[id]++;
            }
    for (int id = 0; id < KVPI_N_CODECS; id++)
        assert_true(n_chosen[id] > 0);
    kvpi_codec_close(c);
    kvpi_codec_close(scalar);
}

static void test_ratios_are_near_the_entropy_bound(void **state)
{
    (void)state;
    static const struct {
        kvp_dtype dtype;
        page_kind kind;
        uint32_t n_valid;
        double min, max;
    } cases[] = {
        {KVP_F32, PAGE_NORMAL, 64, 1.19, 1.22},  {KVP_F16, PAGE_NORMAL, 64, 1.16, 1.20},
        {KVP_BF16, PAGE_NORMAL, 64, 1.48, 1.53}, {KVP_F32, PAGE_NORMAL, 8, 8.5, 10},
        {KVP_F16, PAGE_NORMAL, 8, 8.5, 10},      {KVP_BF16, PAGE_NORMAL, 8, 10.5, 12.5},
        {KVP_F16, PAGE_ZEROS, 64, 400, 600},     {KVP_OPAQUE, PAGE_NORMAL, 64, 1.5, 1.7},
        {KVP_OPAQUE, PAGE_TEXT, 64, 500, 2000},  {KVP_BF16, PAGE_CHANNELS, 64, 1.45, 1.51},
        {KVP_BF16, PAGE_DRIFT, 64, 1.7, 1.8},
    };
    kvpi_codec *c = open_codec(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kvpi_codec_id id;
        kvpi_codec_shape s = usual(cases[i].dtype);
        page_fill(page, &s, cases[i].kind, cases[i].n_valid, 7);
        double ratio = (double)kvpi_shape_bytes(&s) / (double)check_chosen(c, &s, &id);
        print_message("dtype %d kind %d: %.3f\n", s.dtype, cases[i].kind, ratio);
        assert_true(ratio >= cases[i].min && ratio <= cases[i].max);
    }
    kvpi_codec_close(c);
}

static void test_what_suits_a_page_is_chosen(void **state)
{
    (void)state;
    static const struct {
        page_kind kind;
        kvpi_predictor chosen;
    } cases[] = {{PAGE_NORMAL, KVPI_PREDICT_NONE},
                 {PAGE_CHANNELS, KVPI_PREDICT_SCALE},
                 {PAGE_DRIFT, KVPI_PREDICT_TOKEN}};
    kvpi_codec *c = open_codec(NULL);
    kvpi_codec_shape s = usual(KVP_BF16);
    kvpi_plan plan;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        page_fill(page, &s, cases[i].kind, s.n_tokens, 3);
        kvpi_codec_choose(c, &s, page, &plan);
        assert_int_equal(plan.codec, KVPI_CODEC_HUFFMAN);
        assert_int_equal(plan.predictor[0], cases[i].chosen);
        assert_int_equal(plan.predictor[1], cases[i].chosen);
    }
    page_fill(page, &s, PAGE_FEW, s.n_tokens, 3);
    kvpi_codec_choose(c, &s, page, &plan);
    assert_int_equal(plan.codec, KVPI_CODEC_PALETTE); /* as small, and faster to decode */
    kvpi_codec_close(c);
}
#endif

static void test_noise_stays_as_it_is(void **state)
{
    (void)state;
    kvpi_codec *c = open_codec(NULL);
    for (size_t d = 0; d < N_DTYPES; d++) {
        kvpi_codec_id id;
        kvpi_codec_shape s = usual(dtypes[d]);
        page_fill(page, &s, PAGE_NOISE, s.n_tokens, 7);
        assert_int_equal(check_chosen(c, &s, &id), kvpi_shape_bytes(&s));
        assert_int_equal(id, KVPI_CODEC_RAW);
    }
    kvpi_codec_close(c);
}

static void test_pages_far_larger_than_a_window_shrink_too(void **state)
{
    (void)state;
    kvpi_codec_shape s = usual(KVP_BF16);
    s.n_heads *= 16;
    size_t n = kvpi_shape_bytes(&s), n_dst, workspace_bytes;
    unsigned char *large = malloc(n), *dst = malloc(n), *back = malloc(n);
    kvpi_codec_id id;
    kvpi_codec *c;
    assert_int_equal(kvpi_codec_open(&kvpi_mem_default, n, true, &c, &workspace_bytes), KVP_OK);
    for (size_t d = 0; d < N_DTYPES; d++) {
        s.dtype = dtypes[d];
        s.n_tokens = d ? 64 : 32;
        size_t n_page = kvpi_shape_bytes(&s);
        page_fill(large, &s, PAGE_NORMAL, s.n_tokens, 7);
        kvpi_codec_encode(c, &s, large, dst, &n_dst, &id);
#ifdef KVP_HAVE_ZSTD
        assert_true(n_dst < n_page * 9 / 10);
#endif
        assert_int_equal(kvpi_codec_decode(c, id, &s, dst, n_dst, back), KVP_OK);
        assert_memory_equal(back, large, n_page);
    }
    kvpi_codec_close(c);
    free(large);
    free(dst);
    free(back);
}

static void test_encoding_is_deterministic_whatever_came_before(void **state)
{
    (void)state;
    static unsigned char first[MAX_BYTES], second[MAX_BYTES];
    kvpi_codec *c = open_codec(NULL), *fresh = open_codec(NULL);
    size_t n_first, n_second;
    kvpi_codec_id id, fresh_id;
    for (size_t d = 0; d < N_DTYPES; d++)
        for (int kind = 0; kind < N_PAGE_KINDS; kind++) /* noise does not fit, and so on */
            for (size_t o = 0; o < N_DTYPES; o++) {
                kvpi_codec_shape s = usual(dtypes[d]), other = shape_of(o + 3, dtypes[o]);
                page_fill(page, &other, (page_kind)kind, other.n_tokens, 2);
                kvpi_codec_encode(c, &other, page, first, &n_first, &id);
                page_fill(page, &s, PAGE_NORMAL, s.n_tokens, 1);
                kvpi_codec_encode(c, &s, page, first, &n_first, &id);
                kvpi_codec_encode(fresh, &s, page, second, &n_second, &fresh_id);
                assert_int_equal(id, fresh_id);
                assert_int_equal(n_first, n_second);
                assert_memory_equal(first, second, n_first);
            }
    kvpi_codec_close(c);
    kvpi_codec_close(fresh);
}

/* ---- the format ---- */

/* 1, -1; 2, 1.0078125: two tokens of keys, two channels. 0; -3: values, one channel. bf16. */
static const uint16_t small_page[] = {0x3f80, 0xbf80, 0x4000, 0x3f81, 0x0000, 0xc040};
static const kvpi_codec_shape small_shape = {
    .dtype = KVP_BF16, .n_heads = 1, .n_tokens = 2, .k_width = 2, .v_width = 1};

/* By hand, from CODECS.md: what is stored today must be read for ever. */
static void test_palette_format_is_as_documented(void **state)
{
    (void)state;
    static const char encoded[] = "\x08\0\0\0"
                                  "\x08\0\0\0"
                                  "\x11\0\0\0"
                                  "\x01\0\0\0"       /* K: bytes, live, packed, token */
                                  "\x00\x01\x00\x04" /* low bytes */
                                  "\x7f\x01\xfe\0\0\0\0\0\0\0\0\0\0\0\0" /* palette */
                                  "\x00\x21"                             /* places 0, 0, 1, 2 */
                                  "\x04\0\0\0"
                                  "\x04\0\0\0"
                                  "\x11\0\0\0"
                                  "\0\0\0\0"                         /* V */
                                  "\x00\x81"                         /* low bytes */
                                  "\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0" /* palette */
                                  "\x0f"                             /* an escape, place 0 */
                                  "\x00";                            /* the escape */
    unsigned char back[sizeof small_page];
    kvpi_codec *c = open_codec(NULL);
    assert_int_equal(
        kvpi_codec_decode(c, KVPI_CODEC_PALETTE, &small_shape, encoded, sizeof encoded - 1, back),
        KVP_OK);
    assert_memory_equal(back, small_page, sizeof small_page);
    kvpi_codec_close(c);
}

#ifdef KVP_HAVE_ZSTD
static void test_huffman_format_is_as_documented(void **state)
{
    (void)state;
    static const char encoded[] =
        "\x08\0\0\0"
        "\x08\0\0\0"
        "\x0d\0\0\0"
        "\x02\0\0\0"                                 /* K: bytes, live, packed, scale */
        "\x7f\x7f"                                   /* the channels' exponents */
        "\x00\x01\x00\x02"                           /* low bytes */
        "\x28\xb5\x2f\xfd\x20\x04\x21\0\0\0\0\x01\0" /* a zstd frame of 0, 0, 1, 0 */
        "\x04\0\0\0"
        "\x04\0\0\0"
        "\x0b\0\0\0"
        "\0\0\0\0"                                /* V */
        "\x00\x81"                                /* low bytes */
        "\x28\xb5\x2f\xfd\x20\x02\x11\0\0\0\x80"; /* a frame of 0, 0x80 */
    unsigned char back[sizeof small_page];
    kvpi_codec *c = open_codec(NULL);
    assert_int_equal(
        kvpi_codec_decode(c, KVPI_CODEC_HUFFMAN, &small_shape, encoded, sizeof encoded - 1, back),
        KVP_OK);
    assert_memory_equal(back, small_page, sizeof small_page);
    kvpi_codec_close(c);
}
#endif

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
    static unsigned char dst[MAX_BYTES];
    kvpi_codec_shape s = usual(KVP_BF16);
    kvpi_codec *c;
    size_t workspace_bytes = 0, n_dst;
    kvpi_codec_id id;
    n_allocs = asked_bytes = given_bytes = 0;
    assert_int_equal(kvpi_codec_open(&counting, 64 << 10, true, &c, &workspace_bytes), KVP_OK);
    assert_int_equal(asked_bytes, workspace_bytes);
    assert_true(workspace_bytes < 512 << 10);
    page_fill(page, &s, PAGE_NORMAL, s.n_tokens, 3);
    kvpi_codec_encode(c, &s, page, dst, &n_dst, &id);
    assert_int_equal(kvpi_codec_decode(c, id, &s, dst, n_dst, page), KVP_OK);
    assert_int_equal(n_allocs, 1);
    kvpi_codec_close(c);
    assert_int_equal(given_bytes, asked_bytes);
    kvpi_codec_close(NULL);
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

static void test_codecs_have_names(void **state)
{
    (void)state;
    for (int id = 0; id < KVPI_N_CODECS; id++)
        assert_true(kvpi_codec_name((kvpi_codec_id)id)[0]);
    assert_string_equal(kvpi_codec_name(KVPI_CODEC_PALETTE), "palette");
    assert_null(kvpi_codec_name(KVPI_N_CODECS));
    assert_null(kvpi_codec_name((kvpi_codec_id)-1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_page_comes_back_by_every_codec),
        cmocka_unit_test(test_open_pages_come_back_with_any_number_of_tokens),
#ifdef KVP_HAVE_ZSTD
        cmocka_unit_test(test_chosen_is_about_the_smallest),
        cmocka_unit_test(test_ratios_are_near_the_entropy_bound),
        cmocka_unit_test(test_what_suits_a_page_is_chosen),
#endif
        cmocka_unit_test(test_noise_stays_as_it_is),
        cmocka_unit_test(test_pages_far_larger_than_a_window_shrink_too),
        cmocka_unit_test(test_encoding_is_deterministic_whatever_came_before),
        cmocka_unit_test(test_palette_format_is_as_documented),
#ifdef KVP_HAVE_ZSTD
        cmocka_unit_test(test_huffman_format_is_as_documented),
#endif
        cmocka_unit_test(test_workspace_is_accounted_and_taken_once),
        cmocka_unit_test(test_no_memory_is_reported),
        cmocka_unit_test(test_codecs_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
