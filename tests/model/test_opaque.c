/* test_opaque.c - opaque layers: bytes encoded by the caller come back as they are from every tier,
 * whatever they would be as numbers; and only what knows nothing of numbers takes them. The random
 * operations of test_pager_model.c have opaque layers too. */
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 2, K_BYTES = 33, V_BYTES = 7, ODD = 5, TOKENS = 1000, PAGE_TOKENS = 32 };

static const kvp_layer_kind kinds[] = {
    {HEADS, K_BYTES, V_BYTES, KVP_OPAQUE}, {HEADS, 8, 8, KVP_F16}, {1, 70, 0, KVP_OPAQUE}};

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static void assert_fails(kvp_status got, kvp_status expected, const char *word)
{
    assert_int_equal(got, expected);
    if (!strstr(kvp_error(), word))
        fail_msg("\"%s\" does not say \"%s\"", kvp_error(), word);
}

static kvp_pager *open_pager(uint64_t zram_bytes, uint64_t disk_bytes)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = 3, .layers = kinds, .page_tokens = PAGE_TOKENS, .page_heads = HEADS};
    cfg.ram_bytes = 48000; /* 4 KiB pages: about 10 of 32 in each opaque layer */
    cfg.zram_bytes = zram_bytes;
    cfg.disk_bytes = disk_bytes;
    cfg.n_threads = 2;
    kvp_pager *pager;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

/* Every token's bytes: all 256 values, and with them infinities and NaNs of every dtype. */
static uint8_t byte_at(uint64_t token, uint32_t head, uint32_t i)
{
    return (uint8_t)(token % 3 ? token + 31 * head + i : 0xff);
}

/* Rows with room between tokens and between heads, at odd addresses. */
static void append_spread_rows(kvp_seq *seq, uint64_t first, size_t n)
{
    enum { K_HEAD = K_BYTES + ODD, V_HEAD = V_BYTES + ODD };
    enum { K_TOKEN = HEADS * K_HEAD + ODD, V_TOKEN = HEADS * V_HEAD + ODD };
    uint8_t *k = malloc(n * K_TOKEN + 1), *v = malloc(n * V_TOKEN + 1);
    for (size_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < HEADS; h++) {
            for (uint32_t i = 0; i < K_BYTES; i++)
                k[1 + t * K_TOKEN + h * K_HEAD + i] = byte_at(first + t, h, i);
            for (uint32_t i = 0; i < V_BYTES; i++)
                v[1 + t * V_TOKEN + h * V_HEAD + i] = byte_at(first + t, h, 100 + i);
        }
    must(kvp_seq_append_rows(seq, 0,
                             &(kvp_rows){.k = k + 1,
                                         .v = v + 1,
                                         .dtype = KVP_OPAQUE,
                                         .k_token_stride = K_TOKEN,
                                         .v_token_stride = V_TOKEN,
                                         .k_head_stride = K_HEAD,
                                         .v_head_stride = V_HEAD},
                             n));
    free(k);
    free(v);
}

static void check_page(const kvp_page_view *page)
{
    assert_int_equal(page->dtype, KVP_OPAQUE);
    for (uint32_t h = 0; h < page->n_heads; h++) {
        const uint8_t *k = kvp_page_k(page, h), *v = kvp_page_v(page, h);
        for (uint32_t row = 0; row < page->n_valid; row++) {
            for (uint32_t i = 0; i < K_BYTES; i++)
                assert_int_equal(*k++, byte_at(page->first_position + row, h, i));
            for (uint32_t i = 0; i < V_BYTES; i++)
                assert_int_equal(*v++, byte_at(page->first_position + row, h, 100 + i));
        }
    }
}

static void test_bytes_come_back_from_every_tier(void **state)
{
    (void)state;
    static const uint64_t zram_bytes[] = {0, 60000, 0, 16000}; /* beside a disk: too little */
    for (int tiers = 1; tiers <= 3; tiers++) {
        kvp_pager *pager = open_pager(zram_bytes[tiers], tiers & 2 ? KVP_UNLIMITED : 0);
        kvp_seq *seq;
        must(kvp_seq_create(pager, &seq));
        const uint64_t n_tokens = tiers == 1 ? TOKENS / 2 : TOKENS;
        for (uint64_t t = 0; t < n_tokens; t += 100)
            append_spread_rows(seq, t, 100);
        for (uint64_t t = 0; t < n_tokens; t += PAGE_TOKENS) {
            kvp_page_view page;
            kvp_view view = {.pages = &page, .max_pages = 1};
            must(kvp_seq_pin(seq, 0, t, 1, KVP_FOREVER, &view));
            check_page(&page);
            kvp_view_unpin(&view);
        }
        must(kvp_pager_check(pager));
        kvp_stats s = {.size = sizeof s};
        must(kvp_pager_stats(pager, &s));
        assert_int_equal(s.minor_faults > 0, (tiers & 1) != 0);
        assert_int_equal(s.major_faults > 0, (tiers & 2) != 0);
        assert_int_equal(s.checksum_failures, 0);
#ifdef KVP_HAVE_ZSTD
        assert_true(!(tiers & 1) || s.codec_stored_bytes < s.codec_raw_bytes * 3 / 4);
#endif
        kvp_pager_close(pager);
    }
}

static void test_layers_without_v_need_none(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(0, KVP_UNLIMITED);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    static float k[PAGE_TOKENS * 70];
    uint32_t salts[PAGE_TOKENS];
    for (uint32_t i = 0; i < PAGE_TOKENS; i++)
        salts[i] = i + 9;
    must(pattern_append(seq, 2, &kinds[2], salts, PAGE_TOKENS, k, NULL));
    kvp_page_view page;
    kvp_view view = {.pages = &page, .max_pages = 1};
    must(kvp_seq_pin(seq, 2, 0, 1, KVP_FOREVER, &view));
    assert_true(pattern_page_ok(&page, salts));
    kvp_view_unpin(&view);
    kvp_pager_close(pager);
}

static void test_bytes_and_numbers_do_not_mix(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(0, KVP_UNLIMITED);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    static float rows[HEADS * K_BYTES], out[HEADS * K_BYTES];
    assert_fails(kvp_seq_append(seq, 0, rows, rows, 1), KVP_E_INVALID, "KVP_OPAQUE");
    kvp_rows bytes = {.k = rows, .v = rows, .dtype = KVP_OPAQUE};
    assert_fails(kvp_seq_append_rows(seq, 1, &bytes, 1), KVP_E_INVALID, "KVP_F16");
    bytes.v = NULL; /* not of a layer that has V */
    assert_fails(kvp_seq_append_rows(seq, 0, &bytes, 1), KVP_E_INVALID, "NULL");
    assert_int_equal(kvp_seq_layer_length(seq, 0) + kvp_seq_layer_length(seq, 1), 0);

    append_spread_rows(seq, 0, 1);
    kvp_attend_args args = {.q = rows, .out = out, .n_queries = 1, .n_heads = 2, .scale = 1};
    assert_fails(kvp_attend(seq, 0, &args), KVP_E_UNSUPPORTED, "opaque");
    must(kvp_seq_append(seq, 1, rows, rows, 1));
    must(kvp_attend(seq, 1, &args));
    kvp_pager_close(pager);
}

static void test_only_opaque_layers_may_lack_v(void **state)
{
    (void)state;
    kvp_config cfg = kvp_config_default();
    kvp_layer_kind kind = {1, 8, 0, KVP_F32};
    cfg.geometry = (kvp_geometry){.n_layers = 1, .layers = &kind};
    kvp_pager *pager;
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_INVALID, "opaque");
    kind = (kvp_layer_kind){1, 0, 8, KVP_OPAQUE};
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_INVALID, "1 .. 65536");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_come_back_from_every_tier),
        cmocka_unit_test(test_layers_without_v_need_none),
        cmocka_unit_test(test_bytes_and_numbers_do_not_mix),
        cmocka_unit_test(test_only_opaque_layers_may_lack_v),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
