/* test_compression.c - pages that go through zram: each is encoded once, moves on as it is, and
 * comes back; lanes whose pages do not shrink are left alone, and looked at again; idle threads
 * decode for the one that waits, who does it himself when they have other work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec_pages.h"
#include "kvpager.h"
#include "kvpager/pool.h"
#include "tiers/codec_habit.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_TOKENS = 64, WIDTH = 64, PAGE_BYTES = PAGE_TOKENS * 2 * WIDTH * 2, SPAN = 20 };

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s", kvp_error());
}

/* What leaves its frames is in zram, and what has no room there on disk. */
static kvp_config small(uint32_t n_layers, uint64_t zram_bytes, uint64_t disk_bytes)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = n_layers,
                                  .n_kv_heads = 1,
                                  .head_dim = WIDTH,
                                  .dtype = KVP_BF16,
                                  .page_tokens = PAGE_TOKENS};
    cfg.ram_bytes = 14 * PAGE_BYTES;
    cfg.zram_bytes = zram_bytes;
    cfg.disk_bytes = disk_bytes;
    cfg.n_threads = 1;
    return cfg;
}

static kvp_pager *open_pager(const kvp_config *cfg)
{
    kvp_pager *pager;
    must(kvp_pager_open(cfg, &pager));
    return pager;
}

static kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s;
}

/* A page's worth of tokens, by its number and its layer. */
static void make_rows(uint16_t *rows, page_kind kind, uint32_t layer, uint64_t page)
{
    const kvpi_codec_shape s = {.dtype = KVP_BF16,
                                .n_heads = 1,
                                .n_tokens = PAGE_TOKENS,
                                .k_width = WIDTH,
                                .v_width = WIDTH};
    page_fill(rows, &s, kind, PAGE_TOKENS, 1000 * page + layer + 1);
    for (size_t i = 0; i < PAGE_BYTES / 2; i++) /* only finite values are taken */
        if ((rows[i] & 0x7f80) == 0x7f80)
            rows[i] ^= 0x0080;
}

static void append_pages(kvp_seq *seq, uint32_t layer, page_kind kind, uint64_t first, size_t n)
{
    static uint16_t rows[PAGE_BYTES / 2];
    for (uint64_t page = first; page < first + n; page++) {
        make_rows(rows, kind, layer, page);
        must(kvp_seq_append_rows(
            seq, layer, &(kvp_rows){.k = rows, .v = rows + PAGE_TOKENS * WIDTH, .dtype = KVP_BF16},
            PAGE_TOKENS));
    }
}

/* Pin `span` pages together. */
static void check_span(kvp_seq *seq, uint32_t layer, page_kind kind, uint64_t first, size_t span)
{
    static uint16_t rows[PAGE_BYTES / 2];
    static kvp_page_view pages[SPAN];
    kvp_view view = {.pages = pages, .max_pages = SPAN};
    must(kvp_seq_pin(seq, layer, first * PAGE_TOKENS, span * PAGE_TOKENS, KVP_FOREVER, &view));
    assert_int_equal(view.n_pages, span);
    for (uint64_t i = 0; i < span; i++) {
        make_rows(rows, kind, layer, first + i);
        assert_memory_equal(pages[i].k, rows, PAGE_BYTES / 2);
        assert_memory_equal(pages[i].v, rows + PAGE_TOKENS * WIDTH, PAGE_BYTES / 2);
    }
    kvp_view_unpin(&view);
}

static void check_pages(kvp_seq *seq, uint32_t layer, page_kind kind, uint64_t first, size_t n)
{
    for (uint64_t i = first; i < first + n; i++)
        check_span(seq, layer, kind, i, 1);
}

static uint32_t number_of(const char *codec)
{
    uint32_t i = 0;
    while (kvp_codec_name(i) && strcmp(kvp_codec_name(i), codec) != 0)
        i++;
    assert_true(i < KVP_MAX_CODECS);
    return i;
}

/* What ordinary pages are packed by: without zstd, the palette. */
static const kvp_codec_stats *packed(const kvp_stats *s)
{
    const kvp_codec_stats *huffman = &s->codecs[number_of("huffman")];
    return huffman->pages ? huffman : &s->codecs[number_of("palette")];
}

static void test_lanes_that_do_not_shrink_are_left_alone_and_looked_at_again(void **state)
{
    (void)state;
    enum { N = 240 };
    kvp_config cfg = small(2, 4 * N * PAGE_BYTES, 0);
    kvp_pager *pager = open_pager(&cfg);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    for (uint64_t i = 0; i < N; i++) {
        append_pages(seq, 0, PAGE_NOISE, i, 1);
        append_pages(seq, 1, PAGE_NORMAL, i, 1);
    }
    kvp_stats s = stats_of(pager);
    const kvp_codec_stats *raw = &s.codecs[number_of("raw")];
    assert_in_range(raw->pages, N - 14, N);
    assert_in_range(packed(&s)->pages, N - 14, N); /* the other lane has a habit of its own */
    assert_in_range(raw->pages - s.codec_untried, KVPI_HABIT_PATIENCE, KVPI_HABIT_PATIENCE + 3);
    assert_int_equal(raw->raw_bytes, raw->pages * PAGE_BYTES);
    assert_int_equal(raw->stored_bytes, raw->raw_bytes);
    assert_int_equal(packed(&s)->raw_bytes, packed(&s)->pages * PAGE_BYTES);
    assert_true(packed(&s)->stored_bytes < packed(&s)->raw_bytes * 4 / 5);
    assert_int_equal(s.codec_raw_bytes, raw->raw_bytes + packed(&s)->raw_bytes);
    assert_int_equal(s.codec_stored_bytes, raw->stored_bytes + packed(&s)->stored_bytes);
    assert_int_equal(raw->pages + packed(&s)->pages, s.demotions);

    append_pages(seq, 0, PAGE_NORMAL, N, KVPI_HABIT_LAST_PAUSE + 50); /* they shrink from now on */
    kvp_stats later = stats_of(pager);
    assert_true(packed(&later)->pages >= packed(&s)->pages + 50 - 14);
    assert_true(later.codec_untried > s.codec_untried);
    check_pages(seq, 0, PAGE_NOISE, 0, N);
    check_pages(seq, 0, PAGE_NORMAL, N, KVPI_HABIT_LAST_PAUSE + 50);
    check_pages(seq, 1, PAGE_NORMAL, 0, N);
    s = stats_of(pager);
    assert_true(packed(&s)->decoded >= N);
    assert_int_equal(s.codecs[number_of("raw")].decoded, 0);
    assert_int_equal(s.checksum_failures, 0);
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

static void test_pages_move_from_zram_to_disk_as_they_are(void **state)
{
    (void)state;
    enum { N = 200 };
    kvp_config cfg = small(1, 30 * PAGE_BYTES, 2 * N * PAGE_BYTES);
    kvp_pager *pager = open_pager(&cfg);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    append_pages(seq, 0, PAGE_NORMAL, 0, N);
    for (uint64_t i = 0; i < N; i++) /* again and again: they have been written once */
        check_pages(seq, 0, PAGE_NORMAL, i * 7 % N, 1);
    kvp_stats s = stats_of(pager);
    const kvp_codec_stats *p = packed(&s);
    uint64_t n_written = s.demotions - p->pages; /* to disk, from zram or raw */
    assert_true(p->pages > 40 && n_written > 100);
    assert_true(p->pages <= N); /* none was encoded twice, whatever came back and left again */
    assert_int_equal(s.codecs[number_of("raw")].pages, 0);
#ifdef KVP_HAVE_ZSTD /* those from zram take 12 KiB there, raw ones 16; by palette alone 13 */
    assert_true(s.bytes_written < n_written * PAGE_BYTES);
#endif
    assert_int_equal(s.bytes_written % 4096, 0);
    assert_true(s.major_faults > 100 && p->decoded > 50);
    assert_true(p->decoded > s.minor_faults); /* some of them were read from disk */
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

/* ---- who decodes ---- */

/* Frames for two spans and more units than one. */
static kvp_config for_spans(kvp_pool *pool, uint64_t zram_bytes, uint64_t disk_bytes)
{
    kvp_config cfg = small(1, zram_bytes, disk_bytes);
    cfg.ram_bytes = 80 * PAGE_BYTES;
    cfg.pool = pool;
    return cfg;
}

static void help_and_check(uint64_t zram_bytes, uint64_t disk_bytes)
{
    enum { N = 200, MAX_ROUNDS = 10000 };
    kvp_pool *pool;
    must(kvp_pool_open(3, NULL, NULL, &pool));
    kvp_config cfg = for_spans(pool, zram_bytes, disk_bytes);
    kvp_pager *pager = open_pager(&cfg);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    append_pages(seq, 0, PAGE_NORMAL, 0, N);
    kvp_stats before = stats_of(pager), s = before;
    uint64_t n_before = packed(&before)->decoded;
    unsigned round = 0; /* a worker may always come too late */
    for (; s.codec_helped < before.codec_helped + 20 && round < MAX_ROUNDS; round++) {
        check_span(seq, 0, PAGE_NORMAL, (uint64_t)round * SPAN % N, SPAN);
        s = stats_of(pager);
    }
    assert_true(s.codec_helped >= before.codec_helped + 20);
    assert_true(packed(&s)->decoded >= n_before + SPAN / 2);
    assert_true(packed(&s)->pages <= N); /* encoded once */
    uint64_t n_faults = s.minor_faults + s.major_faults;
    n_faults -= before.minor_faults + before.major_faults;
    /* None left before its turn, but for a few that were on their way down at first. */
    assert_true(n_faults <= (uint64_t)round * SPAN + SPAN / 4);
    assert_int_equal(s.checksum_failures, 0);
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
    kvp_pool_close(pool);
}

static void test_idle_threads_decode_pages_in_zram_for_who_waits(void **state)
{
    (void)state;
    help_and_check(400 * PAGE_BYTES, 0);
}

static void test_idle_threads_decode_pages_on_disk_for_who_waits(void **state)
{
    (void)state;
    help_and_check(40 * PAGE_BYTES, 400 * PAGE_BYTES);
}

typedef struct hold {
    kvp_pool *pool;
    atomic_uint n_begun;
    atomic_bool may_end;
} hold;

static void hold_task(void *arg, size_t i)
{
    hold *h = arg;
    (void)i;
    atomic_fetch_add(&h->n_begun, 1);
    while (!atomic_load(&h->may_end))
        sched_yield();
}

static void *hold_both(void *arg)
{
    hold *h = arg;
    kvp_pool_run(h->pool, 2, hold_task, h);
    return NULL;
}

static void test_who_waits_decodes_alone_while_all_workers_are_busy(void **state)
{
    (void)state;
    enum { N = 200 };
    static hold h;
    pthread_t thread;
    must(kvp_pool_open(2, NULL, NULL, &h.pool));
    assert_int_equal(pthread_create(&thread, NULL, hold_both, &h), 0);
    while (atomic_load(&h.n_begun) < 2)
        sched_yield();
    kvp_config cfg = for_spans(h.pool, 400 * PAGE_BYTES, 0);
    kvp_pager *pager = open_pager(&cfg);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    append_pages(seq, 0, PAGE_NORMAL, 0, N);
    for (uint64_t i = 0; i < N; i += SPAN)
        check_span(seq, 0, PAGE_NORMAL, i, SPAN);
    kvp_stats s = stats_of(pager);
    assert_true(packed(&s)->pages >= 100);
    assert_true(packed(&s)->decoded >= 100);
    assert_int_equal(s.codec_helped, 0);
    atomic_store(&h.may_end, true);
    pthread_join(thread, NULL);
    kvp_pager_close(pager);
    kvp_pool_close(h.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lanes_that_do_not_shrink_are_left_alone_and_looked_at_again),
        cmocka_unit_test(test_pages_move_from_zram_to_disk_as_they_are),
        cmocka_unit_test(test_idle_threads_decode_pages_in_zram_for_who_waits),
        cmocka_unit_test(test_idle_threads_decode_pages_on_disk_for_who_waits),
        cmocka_unit_test(test_who_waits_decodes_alone_while_all_workers_are_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
