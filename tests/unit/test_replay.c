/* test_replay.c - replay against a cache that is written down here, the optimum against every
 * choice there is, and the two readers against bad files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "integration/replay/replay.h"
#include "integration/replay/trace_format.h"
#include "integration/replay/trace_writer.h"
#include "pattern.h"
#include "temp_dir.h"

#include <stdlib.h>
#include <string.h>

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

/* ---- traces ---- */

enum { MAX_OPS = 4096 };

/* Pages come, are used and go, at random. */
static trace random_trace(uint64_t seed, uint32_t n_numbers, int n_ops, bool with_facts)
{
    trace t;
    bool is_live[64] = {false};
    must(trace_init(&t, "random"));
    for (int i = 0; i < n_ops; i++) {
        uint64_t r = pattern_random(&seed);
        uint32_t page = (uint32_t)(r % n_numbers), what = (uint32_t)(r >> 32) % 16;
        if (!is_live[page]) {
            must(trace_add_new(&t, page, page % 3, page / 3));
            if (!with_facts)
                must(trace_add(&t, KVP_TRACE_PAGE_SEALED, page, 0));
            is_live[page] = true;
        } else if (what == 0) {
            must(trace_add(&t, KVP_TRACE_PAGE_FREED, page, 0));
            is_live[page] = false;
        } else if (with_facts && what < 7) {
            static const kvp_trace_kind kinds[] = {KVP_TRACE_PAGE_SEALED, KVP_TRACE_PAGE_OPENED,
                                                   KVP_TRACE_PAGE_COLD,   KVP_TRACE_PAGE_HOT,
                                                   KVP_TRACE_PAGE_COOL,   KVP_TRACE_PAGE_MASS};
            must(trace_add(&t, kinds[what - 1], page, what == 6 ? (uint32_t)(r >> 40) % 20 : 0));
        } else {
            must(trace_add(&t, KVP_TRACE_PAGE_USED, page, 0));
        }
    }
    return t;
}

/* ---- replay ---- */

/* LRU, found by looking at all pages; it knows nothing of hot, cold and open ones. */
static uint64_t lru_hits(const trace *t, uint32_t n_frames)
{
    size_t last[64];
    bool is_there[64] = {false};
    uint32_t n = 0;
    uint64_t n_hits = 0;
    for (size_t i = 0; i < t->n_ops; i++) {
        uint32_t page = t->ops[i].page, victim = 0;
        if (t->ops[i].kind == KVP_TRACE_PAGE_FREED) {
            n -= is_there[page];
            is_there[page] = false;
        }
        if (t->ops[i].kind != KVP_TRACE_PAGE_USED && t->ops[i].kind != KVP_TRACE_PAGE_NEW)
            continue;
        n_hits += is_there[page];
        if (!is_there[page] && n == n_frames) {
            while (!is_there[victim])
                victim++;
            for (uint32_t p = victim; p < 64; p++)
                victim = is_there[p] && last[p] < last[victim] ? p : victim;
            is_there[victim] = false;
            n--;
        }
        n += !is_there[page];
        is_there[page] = true;
        last[page] = i;
    }
    return n_hits;
}

static void test_lru_replays_as_lru(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++) {
        trace t = random_trace(seed, 40, 3000, false);
        for (uint32_t n = 1; n < 42; n += 4) {
            uint64_t n_hits;
            must(replay_policy(&t, &kvp_placement_lru, n, &n_hits));
            assert_int_equal(n_hits, lru_hits(&t, n));
            assert_true(n_hits > 0 || n == 1);
        }
        trace_free(&t);
    }
}

/* The most hits from op i on, with these pages there: every victim is tried. */
static uint64_t best(const trace *t, size_t i, uint32_t there, uint32_t n_frames)
{
    if (i == t->n_ops)
        return 0;
    uint32_t bit = 1u << t->ops[i].page;
    uint64_t most = 0;
    if (t->ops[i].kind == KVP_TRACE_PAGE_FREED)
        return best(t, i + 1, there & ~bit, n_frames);
    if (t->ops[i].kind != KVP_TRACE_PAGE_USED && t->ops[i].kind != KVP_TRACE_PAGE_NEW)
        return best(t, i + 1, there, n_frames);
    if (there & bit)
        return 1 + best(t, i + 1, there, n_frames);
    if ((uint32_t)__builtin_popcount(there) < n_frames)
        return best(t, i + 1, there | bit, n_frames);
    for (uint32_t victims = there; victims; victims &= victims - 1) {
        uint32_t victim = victims & -victims;
        uint64_t n = best(t, i + 1, (there & ~victim) | bit, n_frames);
        most = n > most ? n : most;
    }
    return most;
}

static void test_the_optimum_is_the_best_of_all_choices(void **state)
{
    (void)state;
    uint64_t sum = 0;
    for (uint64_t seed = 1; seed < 60; seed++) {
        trace t = random_trace(seed, 6, 22, seed % 2);
        for (uint32_t n = 1; n < 5; n++) {
            uint64_t n_hits;
            must(replay_optimum(&t, n, &n_hits));
            assert_int_equal(n_hits, best(&t, 0, 0, n));
            sum += n_hits;
        }
        trace_free(&t);
    }
    assert_true(sum > 500);
}

static void test_no_policy_hits_more_than_the_optimum(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 12; seed++) {
        trace t = random_trace(seed, 50, 3000, true);
        for (uint32_t n = 1; n < 60; n += 7) {
            uint64_t optimum, n_hits;
            must(replay_optimum(&t, n, &optimum));
            for (size_t i = 0; kvp_placement_at(i); i++) {
                must(replay_policy(&t, kvp_placement_at(i), n, &n_hits));
                assert_true(n_hits <= optimum);
                if (n > 50) /* everything fits: the first use of each finds it there */
                    assert_true(n_hits == t.n_uses && optimum == t.n_uses);
            }
        }
        trace_free(&t);
    }
}

/* What is told of masses arrives: the page that has little leaves, the other stays. */
static void test_masses_are_replayed(void **state)
{
    (void)state;
    trace t;
    must(trace_init(&t, "masses"));
    for (uint32_t page = 0; page < 8; page++) {
        must(trace_add_new(&t, page, 0, page));
        must(trace_add(&t, KVP_TRACE_PAGE_SEALED, page, 0));
        must(trace_add(&t, KVP_TRACE_PAGE_MASS, page, page < 3 ? 1 : 9));
    }
    for (int round = 0; round < 50; round++)
        for (uint32_t page = 0; page < 8; page++)
            must(trace_add(&t, KVP_TRACE_PAGE_USED, page, 0));
    uint64_t n_hits;
    must(replay_policy(&t, &kvp_placement_attention_mass, 4, &n_hits));
    assert_true(n_hits >= 3 * 49 && n_hits <= 3 * 50 + 8);
    trace_free(&t);
}

/* ---- files ---- */

static void tell(const kvp_config *cfg, kvp_trace_kind kind, uint32_t page, float mass)
{
    const kvp_trace_event e = {.kind = kind,
                               .page = page,
                               .seq = 1,
                               .parent = 0,
                               .lane = page % 3,
                               .lane_index = page / 3,
                               .mass = mass};
    cfg->trace(cfg->trace_opaque, &e);
}

/* Write a file of the trace's events, each use of a page with a mass having it told before. */
static void write_trace(const trace *t, const char *path)
{
    kvp_config cfg = kvp_config_default();
    trace_writer *w;
    kvp_pager *pager;
    cfg.geometry =
        (kvp_geometry){.n_layers = 1, .n_kv_heads = 1, .head_dim = 256, .dtype = KVP_F16};
    cfg.ram_bytes = 1 << 20;
    must(trace_writer_open(path, &w));
    must(kvp_pager_open(&cfg, &pager));
    must(trace_writer_begin(w, pager));
    kvp_pager_close(pager);
    trace_writer_configure(w, &cfg);
    tell(&cfg, KVP_TRACE_SEQ_CREATED, 0, 0);
    tell(&cfg, KVP_TRACE_SEQ_FORKED, 0, 0);
    for (size_t i = 0; i < t->n_ops; i++)
        tell(&cfg, (kvp_trace_kind)t->ops[i].kind, t->ops[i].page,
             1.0f / (float)(1u << t->ops[i].number % 20));
    tell(&cfg, KVP_TRACE_SEQ_ENDED, 0, 0);
    must(trace_writer_close(w));
}

static unsigned char *read_whole(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    unsigned char *bytes = calloc(1, 1 << 20);
    assert_non_null(f);
    *n = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

/* A cyclic part, and a random one with everything in it. */
static trace mixed_trace(void)
{
    trace t = random_trace(5, 60, 1500, true);
    for (uint32_t page = 0; page < 60; page++)
        if (!t.is_live[page])
            must(trace_add_new(&t, page, page % 3, page / 3));
    for (int round = 0; round < 20; round++)
        for (uint32_t page = 0; page < 60; page++)
            must(trace_add(&t, KVP_TRACE_PAGE_USED, page, 0));
    return t;
}

static void test_files_have_what_was_told(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES], path[128];
    temp_dir_make(dir);
    snprintf(path, sizeof path, "%s/x.trace", dir);
    trace t = mixed_trace(), back;
    write_trace(&t, path);
    must(trace_read(path, &back));
    assert_int_equal(back.page_bytes, 65536);
    assert_int_equal(back.group_pages, 8);
    assert_int_equal(back.n_seqs, 2);
    assert_int_equal(back.n_uses, t.n_uses);
    assert_int_equal(back.n_new, t.n_new);
    assert_int_equal(back.peak_live, t.peak_live);
    assert_memory_equal(back.places, t.places, t.n_new * sizeof *t.places);
    size_t k = 0; /* masses that have not changed are left out */
    for (size_t i = 0; i < t.n_ops; i++) {
        bool is_same = k < back.n_ops && memcmp(&back.ops[k], &t.ops[i], sizeof *t.ops) == 0;
        assert_true(is_same || t.ops[i].kind == KVP_TRACE_PAGE_MASS);
        k += is_same;
    }
    assert_int_equal(k, back.n_ops);
    size_t n;
    free(read_whole(path, &n));
    assert_true(n < 7000); /* 1,200 uses of the cyclic part take few bytes */
    trace_free(&t);
    trace_free(&back);
    temp_dir_remove(dir);
}

static void expect_bad(const void *bytes, size_t n, const char *why)
{
    trace t;
    assert_int_not_equal(trace_parse(bytes, n, "x", &t), KVP_OK);
    assert_null(t.ops);
    if (why && !strstr(kvp_error(), why))
        fail_msg("no '%s' in: %s", why, kvp_error());
}

static void test_damaged_files_are_refused(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES], path[128];
    temp_dir_make(dir);
    snprintf(path, sizeof path, "%s/x.trace", dir);
    trace t = random_trace(3, 20, 300, true);
    size_t n;
    write_trace(&t, path);
    unsigned char *bytes = read_whole(path, &n);
    assert_true(n > 500);
    for (size_t i = 0; i < n; i++) {
        expect_bad(bytes, i, NULL);
        bytes[i] ^= (unsigned char)(1 << i % 8);
        expect_bad(bytes, n, NULL);
        bytes[i] ^= (unsigned char)(1 << i % 8);
    }
    trace back;
    must(trace_parse(bytes, n, "x", &back));
    trace_free(&back);
    bytes[n] = 0;
    expect_bad(bytes, n + 1, "nothing after them");
    bytes[TRACE_MAGIC_BYTES] = 2;
    expect_bad(bytes, n, "version 2");
    free(bytes);
    trace_free(&t);
    temp_dir_remove(dir);
}

#define EXPECT_BAD(why, ...)                                                                       \
    do {                                                                                           \
        const unsigned char file[] = {'K', 'V', 'P', 'T', 'R', 'A', 'C', 'E', 1, __VA_ARGS__};     \
        expect_bad(file, sizeof file, why);                                                        \
    } while (0)

static void test_records_that_make_no_sense_are_named(void **state)
{
    (void)state;
    expect_bad("KVPTRAC", 7, "at byte 0: no trace begins like this");
    expect_bad("{\"timestamp\": 1}", 16, "no trace begins like this");
    EXPECT_BAD("ends inside of a record", 0x80);
    EXPECT_BAD("pages of no bytes", 0, 1);
    EXPECT_BAD("groups of none", 1, 0);
    EXPECT_BAD("at byte 11: the file ends without an end", 1, 1);
    EXPECT_BAD("at byte 11: there is no such record", 1, 1, 14);
    EXPECT_BAD("at byte 11: page 0 is not there", 1, 1, 7, 0);
    EXPECT_BAD("at byte 11: page 0 is not there", 1, 1, 13, 1);
    EXPECT_BAD("at byte 16: page 3 is created, but it is there already", 1, 1, 4, 3, 0, 0, 0, 4, 3,
               0, 0, 0);
    EXPECT_BAD("there were only 0 so far", 1, 1, 4, 0xff, 0xff, 0x7f, 0, 0, 0);
    EXPECT_BAD("more than 32 bits", 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x7f);
    EXPECT_BAD("more than 63 bits", 1, 1, 13, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
    EXPECT_BAD("at byte 16: a mass of less than 2^-63", 1, 1, 4, 0, 0, 0, 0, 12, 0, 64);
    EXPECT_BAD("there should be 8 more bytes", 1, 1, 0, 1);
    EXPECT_BAD("the checksum is wrong", 1, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8);
}

static void test_a_trace_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    trace_writer *w;
    assert_int_equal(trace_writer_open("/nowhere/x.trace", &w), KVP_E_IO);
    assert_non_null(strstr(kvp_error(), "/nowhere/x.trace"));
    FILE *full = fopen("/dev/full", "wb");
    if (!full)
        return;
    fclose(full);
    kvp_config cfg = kvp_config_default();
    kvp_pager *pager;
    cfg.geometry = (kvp_geometry){.n_layers = 1, .n_kv_heads = 1, .head_dim = 8};
    cfg.ram_bytes = 1 << 20;
    must(trace_writer_open("/dev/full", &w));
    must(kvp_pager_open(&cfg, &pager));
    must(trace_writer_begin(w, pager));
    kvp_pager_close(pager);
    assert_int_equal(trace_writer_close(w), KVP_E_IO);
    assert_non_null(strstr(kvp_error(), "/dev/full"));
}

/* ---- mooncake ---- */

static void expect_bad_mooncake(const char *text, const char *why)
{
    trace t;
    assert_int_not_equal(trace_parse_mooncake(text, strlen(text), "m", &t), KVP_OK);
    if (!strstr(kvp_error(), why))
        fail_msg("no '%s' in: %s", why, kvp_error());
}

static void test_mooncake_blocks_become_pages(void **state)
{
    (void)state;
    trace t;
    const char *text = "{\"timestamp\": 0, \"hash_ids\": [46, 47, 99999999999]}\n"
                       "\n"
                       "{\"hash_ids\": []}\n"
                       "{\"hash_ids\": [46, 48, 46], \"input_length\": 7}";
    must(trace_parse_mooncake(text, strlen(text), "m", &t));
    assert_int_equal(t.n_seqs, 3);
    assert_int_equal(t.n_new, 4);
    assert_int_equal(t.n_uses, 2);
    assert_int_equal(t.peak_live, 4);
    assert_int_equal(t.page_bytes, 0);
    assert_int_equal(t.places[2].lane_index, 2);
    assert_int_equal(t.places[3].lane_index, 1);
    assert_int_equal(t.ops[6].kind, KVP_TRACE_PAGE_USED);
    assert_int_equal(t.ops[6].page, 0);
    uint64_t n_hits;
    must(replay_policy(&t, &kvp_placement_lru, 4, &n_hits));
    assert_int_equal(n_hits, 2);
    must(replay_policy(&t, &kvp_placement_lru, 2, &n_hits));
    assert_int_equal(n_hits, 1);
    trace_free(&t);
}

static void test_bad_mooncake_lines_are_named(void **state)
{
    (void)state;
    expect_bad_mooncake("{\"hash_ids\": [1]}\n{\"hash_ids\": [1, -1]}\n", "line 2: hash_ids[1]");
    expect_bad_mooncake("{\"hash_ids\": [1.5]}", "line 1: hash_ids[0]");
    expect_bad_mooncake("{\"hash_ids\": \"1\"}", "line 1: hash_ids is no array");
    expect_bad_mooncake("{\"input_length\": 1}", "line 1: hash_ids is no array");
    expect_bad_mooncake("\n[1, 2]\n", "line 2");
    expect_bad_mooncake("KVPTRACE", "line 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lru_replays_as_lru),
        cmocka_unit_test(test_the_optimum_is_the_best_of_all_choices),
        cmocka_unit_test(test_no_policy_hits_more_than_the_optimum),
        cmocka_unit_test(test_masses_are_replayed),
        cmocka_unit_test(test_files_have_what_was_told),
        cmocka_unit_test(test_damaged_files_are_refused),
        cmocka_unit_test(test_records_that_make_no_sense_are_named),
        cmocka_unit_test(test_a_trace_that_cannot_be_written_is_an_error),
        cmocka_unit_test(test_mooncake_blocks_become_pages),
        cmocka_unit_test(test_bad_mooncake_lines_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
