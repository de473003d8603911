/* test_disk_compressed.c - pages that leave zram for disk take what they need there: more of them
 * fit than raw ones would, the budget holds, and all stay readable while the file is cleaned. */
#include "kvpager/placement.h"
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

#define PAGE_TOKENS 64u
#define PAGE_BYTES 32768u
#define N_SEQS 8u
#define MAX_TOKENS (PAGE_TOKENS * 400u)
#define DISK_BYTES (8192u + 256u * PAGE_BYTES)

static const kvp_layer_kind kind = {1, 128, 128, KVP_BF16};
static float k[PAGE_TOKENS * 128], v[PAGE_TOKENS * 128];
static uint32_t salts[MAX_TOKENS];

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static kvp_pager *open_pager(uint64_t zram_bytes)
{
    kvp_pager *pager;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = 128,
                                  .dtype = KVP_BF16,
                                  .page_tokens = PAGE_TOKENS};
    cfg.n_threads = 1;
    cfg.ram_bytes = 16 * PAGE_BYTES;
    cfg.zram_bytes = zram_bytes;
    cfg.disk_bytes = DISK_BYTES;
    cfg.placement = &kvp_placement_lru; /* the oldest in zram moves on, as it is */
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

static kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    assert_true(s.disk_peak_bytes <= DISK_BYTES);
    return s;
}

static bool append(kvp_seq *seq, uint32_t *length, uint32_t n)
{
    pattern_rows(&kind, salts + *length, n, k, v);
    kvp_status status = kvp_seq_append(seq, 0, k, v, n);
    if (status && status != KVP_E_NOSPACE)
        must(status);
    *length += status ? 0 : n;
    return !status;
}

static uint32_t read_all(kvp_seq *seq)
{
    kvp_scan *scan;
    kvp_scan_item item;
    kvp_page_view page;
    uint32_t n_pages = 0;
    must(kvp_scan_open(seq, &(kvp_scan_args){.max_parts = 1, .end = UINT64_MAX}, &scan));
    for (must(kvp_scan_claim(scan, 0, &item)); item.n_pages; must(kvp_scan_claim(scan, 0, &item)))
        for (uint32_t i = 0; i < item.n_pages; i++, n_pages++) {
            must(kvp_scan_next(scan, 0, &page));
            assert_true(pattern_page_ok(&page, salts));
        }
    kvp_scan_close(scan);
    return n_pages;
}

static uint32_t pages_that_fit(uint64_t zram_bytes)
{
    kvp_pager *pager = open_pager(zram_bytes);
    kvp_seq *seq;
    uint32_t length = 0;
    must(kvp_seq_create(pager, &seq));
    while (length + PAGE_TOKENS <= MAX_TOKENS && append(seq, &length, PAGE_TOKENS))
        continue;
    must(kvp_pager_check(pager));
    assert_int_equal(read_all(seq), length / PAGE_TOKENS);
    kvp_seq_destroy(seq);
    must(kvp_pager_check(pager));
    assert_int_equal(stats_of(pager).disk_bytes, 0);
    kvp_pager_close(pager);
    return length / PAGE_TOKENS;
}

static void test_compressed_pages_take_less_of_the_disk(void **state)
{
    (void)state;
    uint32_t n_raw = pages_that_fit(0), n_compressed = pages_that_fit(8 * PAGE_BYTES);
    print_message("%u pages, %u behind zram\n", n_raw, n_compressed);
    assert_true(n_raw >= 256);
#ifdef KVP_HAVE_ZSTD /* a palette alone saves less than a block of the disk */
    assert_true(n_compressed > n_raw + n_raw / 5);
#else
    assert_true(n_compressed >= n_raw);
#endif
}

typedef struct text {
    kvp_seq *seq;
    uint32_t length;
} text;

/* Sequences that grow by bits, fork, are cut and die, with the disk full most of the time. */
static void churn(kvp_pager *pager, text *texts, uint32_t n_steps)
{
    uint64_t random = 17;
    for (uint32_t step = 0; step < n_steps; step++) {
        text *t = &texts[(pattern_random(&random) >> 40) % N_SEQS];
        uint32_t dice = (uint32_t)(pattern_random(&random) >> 40) % 100;
        uint32_t n = 1 + (uint32_t)(pattern_random(&random) >> 40) % PAGE_TOKENS;
        if (!t->seq) {
            t->length = 0;
            must(kvp_seq_create(pager, &t->seq));
        } else if (dice < 1) {
            kvp_seq_destroy(t->seq);
            t->seq = NULL;
        } else if (dice < 3) {
            t->length -= t->length / 4;
            must(kvp_seq_truncate(t->seq, t->length));
        } else if (dice < 4) {
            text *other = &texts[(pattern_random(&random) >> 40) % N_SEQS];
            if (!other->seq && !kvp_seq_fork(t->seq, &other->seq))
                other->length = t->length;
        } else if (t->length + n <= MAX_TOKENS && !append(t->seq, &t->length, n)) {
            kvp_seq_destroy(t->seq);
            t->seq = NULL;
        }
        if (step % 256 == 0)
            must(kvp_pager_check(pager));
    }
}

static void test_full_disk_is_cleaned_and_stays_readable(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(8 * PAGE_BYTES);
    text texts[N_SEQS] = {0};
    churn(pager, texts, 20000);
    uint32_t n_read = 0;
    for (uint32_t i = 0; i < N_SEQS; i++)
        n_read += texts[i].seq ? read_all(texts[i].seq) : 0;
    kvp_stats s = stats_of(pager);
    print_message("%llu segments cleaned, %llu bytes moved beside %llu written\n",
                  (unsigned long long)s.disk_segments_cleaned,
                  (unsigned long long)s.disk_bytes_moved, (unsigned long long)s.bytes_written);
    assert_true(n_read > 50 && s.major_faults > 50);
    assert_true(s.disk_segments_cleaned > 5 && s.disk_bytes_moved > 0);
    assert_int_equal(s.checksum_failures + s.io_errors, 0);
    must(kvp_pager_check(pager));
    for (uint32_t i = 0; i < N_SEQS; i++)
        kvp_seq_destroy(texts[i].seq);
    assert_int_equal(stats_of(pager).disk_bytes, 0);
    kvp_pager_close(pager);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compressed_pages_take_less_of_the_disk),
        cmocka_unit_test(test_full_disk_is_cleaned_and_stays_readable),
    };
    for (uint32_t i = 0; i < MAX_TOKENS; i++)
        salts[i] = i * 7 + 3;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
