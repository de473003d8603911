/* test_nth_failure.c - fail the n-th allocation, the n-th read, the n-th write, for n = 1, 2, ...
 * until none fires: every failure is a clean error, nothing leaks, and what was not lost reads back
 * right (SQLite's do_faultsim_test, test/malloc_common.tcl, is the model). */
#include "tests/support/faulty_disk.h"
#include "tests/support/faulty_mem.h"
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS 640u
#define CHUNK 32u

static const kvp_layer_kind kind = {2, 32, 32, KVP_F16};

typedef struct outcome {
    bool opened;
    uint64_t n_fired;
    uint32_t n_errors, n_good_pages, n_bad_pages;
    kvp_stats stats;
} outcome;

static kvp_config scenario_config(const kvp_env *env, const kvp_mem *mem)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = 1, .n_kv_heads = 2, .head_dim = 32, .dtype = KVP_F16, .page_tokens = 32};
    cfg.ram_bytes = 70000; /* 8 KiB pages: 7 frames of 20 pages */
    cfg.zram_bytes = 40000;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 2;
    cfg.env = env;
    cfg.mem = mem;
    return cfg;
}

static bool is_clean_error(kvp_status status)
{
    return status == KVP_E_NOMEM || status == KVP_E_IO || status == KVP_E_NOSPACE ||
           status == KVP_E_CORRUPT || status == KVP_E_LOST;
}

/* Note an error; true if there was one. */
static bool failed(outcome *o, kvp_status status)
{
    if (!status)
        return false;
    if (!is_clean_error(status) || !kvp_error()[0])
        fail_msg("not a clean error: %s (%s)", kvp_status_str(status), kvp_error());
    o->n_errors++;
    return true;
}

static void fill(outcome *o, kvp_seq *seq, const uint32_t *salts)
{
    static float k[CHUNK * 64], v[CHUNK * 64];
    for (uint32_t try = 0; kvp_seq_length(seq) < TOKENS && try < 2 * TOKENS / CHUNK; try++) {
        uint64_t before = kvp_seq_length(seq);
        pattern_rows(&kind, salts + before, CHUNK, k, v);
        if (failed(o, kvp_seq_append(seq, 0, k, v, CHUNK)))
            assert_int_equal(kvp_seq_length(seq), before);
    }
}

static void read_back(outcome *o, kvp_seq *seq, const uint32_t *salts)
{
    kvp_page_view pages[1];
    for (uint64_t t = 0; t < kvp_seq_length(seq); t += 32) {
        kvp_view view = {.pages = pages, .max_pages = 1};
        if (failed(o, kvp_seq_pin(seq, 0, t, 1, KVP_FOREVER, &view))) {
            o->n_bad_pages++;
            continue;
        }
        assert_true(pattern_page_ok(&pages[0], salts));
        o->n_good_pages++;
        kvp_view_unpin(&view);
    }
}

static void attend(outcome *o, kvp_seq *seq)
{
    float q[64] = {1.0f}, out[64];
    failed(o, kvp_attend(seq, 0,
                         &(kvp_attend_args){
                             .q = q, .out = out, .n_queries = 1, .n_heads = 2, .scale = 0.1f}));
}

static outcome scenario(const kvp_env *env, const kvp_mem *mem, faulty_disk *disarm)
{
    static uint32_t salts[TOKENS];
    outcome o = {0};
    kvp_config cfg = scenario_config(env, mem);
    kvp_pager *pager;
    kvp_seq *seq = NULL;
    for (uint32_t i = 0; i < TOKENS; i++)
        salts[i] = i + 77;
    if (failed(&o, kvp_pager_open(&cfg, &pager)))
        return o;
    o.opened = true;
    if (!failed(&o, kvp_seq_create(pager, &seq))) {
        failed(&o, kvp_seq_reserve(seq, 96));
        fill(&o, seq, salts);
        attend(&o, seq);
        read_back(&o, seq, salts);
        assert_int_equal(kvp_pager_check(pager), KVP_OK);
        if (disarm) { /* what was not lost is still there */
            o.n_fired = faulty_disk_fired(disarm);
            faulty_disk_arm(disarm, (faulty_plan){0});
            uint32_t n_errors = o.n_errors;
            o.n_bad_pages = o.n_good_pages = 0;
            read_back(&o, seq, salts);
            o.n_errors = n_errors;
        }
        if (failed(&o, kvp_seq_truncate(seq, 100)))
            fail_msg("truncate failed: %s", kvp_error());
        assert_int_equal(kvp_pager_check(pager), KVP_OK);
        kvp_seq_destroy(seq);
    }
    o.stats.size = sizeof o.stats;
    assert_int_equal(kvp_pager_stats(pager, &o.stats), KVP_OK);
    kvp_pager_close(pager);
    return o;
}

static void test_nth_allocation_fails_cleanly(void **state)
{
    (void)state;
    uint64_t n = 1, n_errors = 0;
    for (;; n++) {
        faulty_mem m;
        faulty_mem_init(&m, n);
        outcome o = scenario(NULL, &m.mem, NULL);
        assert_int_equal(m.outstanding_bytes, 0);
        if (!m.n_failed) {
            assert_int_equal(o.n_errors, 0);
            break;
        }
        /* 0: it could do without, e.g. with another disk engine, or fewer slots ahead */
        assert_true(o.n_errors <= 1);
        n_errors += o.n_errors;
    }
    assert_true(n_errors > 10 && n_errors + 9 >= n - 1);
}

static uint64_t io_loop(fault_kind kind_, fault_ops ops, bool persistent)
{
    uint64_t n = 1;
    for (;; n++) {
        faulty_disk f;
        faulty_mem m;
        faulty_disk_init(&f, NULL);
        faulty_mem_init(&m, 0);
        faulty_disk_arm(&f, (faulty_plan){.kind = kind_,
                                          .op = ops,
                                          .nth = n,
                                          .is_persistent = persistent,
                                          .flip_bit = n * 997});
        outcome o = scenario(&f.env, &m.mem, &f);
        bool was_counted = o.stats.io_errors + o.stats.checksum_failures > 0;
        assert_int_equal(was_counted, o.n_fired > 0); /* none is swallowed */
        assert_true(o.opened);
        assert_int_equal(m.outstanding_bytes, 0);
        /* A transient error loses nothing; a flipped bit loses at most its page. */
        assert_true(o.n_bad_pages <= (kind_ == FAULT_FLIP ? 1u : 0u));
        assert_true(o.n_good_pages > 0 || persistent);
        faulty_disk_fini(&f);
        if (!o.n_fired)
            break;
        assert_true(n < 1000);
    }
    return n - 1; /* how many faults there were to inject */
}

static void test_nth_read_fails_cleanly(void **state)
{
    (void)state;
    assert_true(io_loop(FAULT_EIO, FAULT_READS, false) > 5);
    assert_true(io_loop(FAULT_SHORT, FAULT_READS, false) > 5);
    assert_true(io_loop(FAULT_EIO, FAULT_READS, true) > 5);
}

static void test_nth_write_fails_cleanly(void **state)
{
    (void)state;
    assert_true(io_loop(FAULT_EIO, FAULT_WRITES, false) > 5);
    assert_true(io_loop(FAULT_ENOSPC, FAULT_WRITES, false) > 5);
    assert_true(io_loop(FAULT_EIO, FAULT_WRITES, true) > 5);
}

static void test_flipped_bit_in_nth_read_is_never_handed_out(void **state)
{
    (void)state;
    assert_true(io_loop(FAULT_FLIP, FAULT_READS, false) > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nth_allocation_fails_cleanly),
        cmocka_unit_test(test_nth_read_fails_cleanly),
        cmocka_unit_test(test_nth_write_fails_cleanly),
        cmocka_unit_test(test_flipped_bit_in_nth_read_is_never_handed_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
