/* test_readahead.c - pages are fetched before they are asked for, across scans; a wrong guess harms
 * nobody. Whatever is read ahead, results are those of a pager that has everything in RAM. */
#include "faulty_disk.h"
#include "pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 4u
#define HEADS 2u
#define DIM 32u
#define PAGE_TOKENS 32u
#define PAGE_BYTES (2u * PAGE_TOKENS * HEADS * DIM * 2u) /* 8 KiB */
#define TOKENS 2048u                                     /* 64 pages a layer, 256 in all */
#define MAX_SEQS 3u

static const kvp_layer_kind kind = {HEADS, DIM, DIM, KVP_F16};

typedef struct fixture {
    kvp_pager *ram, *paged;
    kvp_seq *in_ram[MAX_SEQS], *seqs[MAX_SEQS];
    uint32_t n_seqs, salt;
} fixture;

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s;
}

static kvp_pager *open_pager(uint64_t ram_bytes, const kvp_env *env, uint32_t n_threads)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = LAYERS,
                                  .n_kv_heads = HEADS,
                                  .head_dim = DIM,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS};
    cfg.ram_bytes = ram_bytes;
    cfg.disk_bytes = ram_bytes == KVP_UNLIMITED ? 0 : KVP_UNLIMITED;
    cfg.n_threads = n_threads;
    cfg.env = env;
    kvp_pager *pager;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

/* The same rows for both pagers. */
static void append(fixture *f, uint32_t s, uint32_t layer, uint32_t n)
{
    static float k[256 * HEADS * DIM], v[256 * HEADS * DIM];
    uint32_t salts[256];
    for (uint32_t i = 0; i < n; i++)
        salts[i] = f->salt++;
    pattern_rows(&kind, salts, n, k, v);
    must(kvp_seq_append(f->in_ram[s], layer, k, v, n));
    must(kvp_seq_append(f->seqs[s], layer, k, v, n));
}

/* With two threads, which of them runs first decides what is there in time. */
static uint32_t n_threads = 1;

static fixture set_up(uint32_t n_seqs, uint64_t ram_bytes, const kvp_env *env)
{
    fixture f = {.ram = open_pager(KVP_UNLIMITED, NULL, 1),
                 .paged = open_pager(ram_bytes, env, n_threads),
                 .n_seqs = n_seqs,
                 .salt = 1};
    for (uint32_t s = 0; s < n_seqs; s++) {
        must(kvp_seq_create(f.ram, &f.in_ram[s]));
        must(kvp_seq_create(f.paged, &f.seqs[s]));
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t t = 0; t < TOKENS; t += 256)
                append(&f, s, layer, 256);
    }
    return f;
}

static void tear_down(fixture *f)
{
    kvp_pager_close(f->ram);
    kvp_pager_close(f->paged);
}

static void attend_one(kvp_seq *seq, uint32_t layer, float *out)
{
    float q[HEADS * DIM];
    for (uint32_t i = 0; i < HEADS * DIM; i++)
        q[i] = pattern_value(layer + 7, false, 0, i);
    must(kvp_attend(
        seq, layer,
        &(kvp_attend_args){.q = q, .out = out, .n_queries = 1, .n_heads = HEADS, .scale = 0.1f}));
}

static void attend(fixture *f, uint32_t s, uint32_t layer)
{
    float expected[HEADS * DIM], out[HEADS * DIM];
    attend_one(f->in_ram[s], layer, expected);
    attend_one(f->seqs[s], layer, out);
    assert_memory_equal(out, expected, sizeof out);
    must(kvp_pager_check(f->paged));
}

static void decode(fixture *f, uint32_t n_steps)
{
    for (uint32_t i = 0; i < n_steps; i++)
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t s = 0; s < f->n_seqs; s++) {
                append(f, s, layer, 1);
                attend(f, s, layer);
            }
}

/* Fetched, or on their way, and neither used nor given up. */
static uint64_t in_window(const kvp_stats *s)
{
    return s->prefetches - s->prefetches_used - s->prefetches_wasted;
}

#define QUARTER (256u * PAGE_BYTES / 4) /* of the KV of one sequence */

static void test_decode_is_served_by_read_ahead(void **state)
{
    (void)state;
    fixture f = set_up(1, QUARTER, NULL);
    decode(&f, 2);
    kvp_stats before = stats_of(f.paged);
    decode(&f, 4);
    kvp_stats after = stats_of(f.paged);
    uint64_t faults = after.major_faults - before.major_faults;
    uint64_t used = after.prefetches_used - before.prefetches_used;
    assert_true(faults > 4 * 150);        /* three quarters of 256 pages, four times */
    assert_true(used * 10 >= faults * 9); /* and hardly any was waited for without being ahead */
    assert_true(after.ram_peak_bytes <= QUARTER);
    tear_down(&f);
}

static void test_the_next_layer_is_fetched_before_it_is_asked_for(void **state)
{
    (void)state;
    fixture f = set_up(1, QUARTER, NULL);
    decode(&f, 2);
    for (uint32_t layer = 0; layer < LAYERS; layer++) { /* the last one's next is the first */
        attend(&f, 0, layer);
        kvp_stats s = stats_of(f.paged);
        assert_true(in_window(&s) > 0);
    }
    kvp_stats before = stats_of(f.paged);
    attend(&f, 0, 0);
    kvp_stats after = stats_of(f.paged);
    assert_true(after.prefetches_used - before.prefetches_used >= in_window(&before));
    assert_int_equal(after.prefetches_wasted, before.prefetches_wasted);
    tear_down(&f);
}

static void test_the_order_of_a_batch_is_learnt(void **state)
{
    (void)state;
    fixture f = set_up(3, QUARTER, NULL);
    decode(&f, 2); /* first guesses are wrong: the next layer of the same sequence */
    kvp_stats before = stats_of(f.paged);
    decode(&f, 3);
    kvp_stats after = stats_of(f.paged);
    assert_true(after.prefetches_used > before.prefetches_used);
    uint64_t wasted = after.prefetches_wasted - before.prefetches_wasted;
    assert_true(wasted * 20 <= after.prefetches - before.prefetches);
    tear_down(&f);
}

static void test_pages_of_a_destroyed_sequence_leave_the_window(void **state)
{
    (void)state;
    fixture f = set_up(2, QUARTER, NULL);
    decode(&f, 3);
    attend(&f, 0, 0); /* sequence 1 is expected next */
    kvp_stats before = stats_of(f.paged);
    assert_true(in_window(&before) > 0);
    kvp_seq_destroy(f.seqs[1]);
    must(kvp_pager_check(f.paged));
    kvp_stats after = stats_of(f.paged);
    assert_true(after.prefetches_wasted > before.prefetches_wasted);
    f.n_seqs = 1;
    decode(&f, 3);
    tear_down(&f);
}

static void test_truncated_and_evicted_pages_leave_the_window(void **state)
{
    (void)state;
    fixture f = set_up(1, QUARTER, NULL);
    decode(&f, 2);
    attend(&f, 0, 1);
    must(kvp_seq_evict(f.seqs[0], 2, 0, 512)); /* what is expected next */
    must(kvp_seq_evict(f.in_ram[0], 2, 0, 512));
    must(kvp_pager_check(f.paged));
    decode(&f, 1);
    attend(&f, 0, 1);
    must(kvp_seq_truncate(f.seqs[0], 1000));
    must(kvp_seq_truncate(f.in_ram[0], 1000));
    must(kvp_pager_check(f.paged));
    decode(&f, 2);
    tear_down(&f);
}

static void test_a_pin_takes_the_frames_of_the_window(void **state)
{
    (void)state;
    fixture f = set_up(1, QUARTER, NULL);
    decode(&f, 2);
    attend(&f, 0, 0);
    kvp_stats before = stats_of(f.paged);
    assert_true(in_window(&before) > 0);
    kvp_page_view pages[64];
    kvp_view view = {.pages = pages, .max_pages = 64};
    uint32_t n = (uint32_t)before.n_frames; /* all there are */
    must(kvp_seq_pin(f.seqs[0], 3, 0, (uint64_t)n * PAGE_TOKENS, KVP_FOREVER, &view));
    assert_int_equal(view.n_pages, n);
    must(kvp_pager_check(f.paged));
    kvp_stats after = stats_of(f.paged);
    assert_int_equal(in_window(&after), 0);
    kvp_view_unpin(&view);
    decode(&f, 1);
    tear_down(&f);
}

static void test_the_smallest_budgets_decode(void **state)
{
    (void)state;
    for (uint64_t n_frames = 3; n_frames <= 6; n_frames++) {
        fixture f = set_up(2, n_frames * PAGE_BYTES + PAGE_BYTES / 2, NULL);
        assert_int_equal(stats_of(f.paged).n_frames, n_frames);
        decode(&f, 2);
        kvp_stats s = stats_of(f.paged);
        assert_true(s.prefetches_used * 4 >= s.major_faults);
        assert_true(s.ram_peak_bytes <= s.ram_budget_bytes);
        tear_down(&f);
    }
}

static void test_two_threads_share_the_window(void **state)
{
    (void)state;
    n_threads = 2;
    for (uint64_t ram_bytes = QUARTER / 4; ram_bytes <= QUARTER; ram_bytes *= 2) {
        fixture f = set_up(2, ram_bytes, NULL);
        decode(&f, 4);
        assert_true(stats_of(f.paged).prefetches_used > 0);
        tear_down(&f);
    }
    n_threads = 1;
}

/* A read that nobody had asked for fails: whoever asks later tries again. */
static void test_a_failed_prefetch_is_not_the_callers_failure(void **state)
{
    (void)state;
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    fixture f = set_up(1, QUARTER, &disk.env);
    decode(&f, 2);
    for (uint64_t nth = 1; nth < 120; nth += 7) {
        faulty_disk_arm(&disk, (faulty_plan){.kind = FAULT_EIO, .op = FAULT_READS, .nth = nth});
        decode(&f, 1);
        assert_int_equal(faulty_disk_fired(&disk), 1);
    }
    assert_true(stats_of(f.paged).io_errors > 0);
    tear_down(&f);
    faulty_disk_fini(&disk);
}

/* Nothing but read-ahead reads: a scan that visits no page, of a layer before the one expected. */
static void read_ahead_only(fixture *f, faulty_disk *disk, fault_kind kind_of_fault)
{
    kvp_page_view pages[64];
    kvp_view view = {.pages = pages, .max_pages = 64};
    uint64_t n = stats_of(f->paged).n_frames;
    must(kvp_seq_pin(f->seqs[0], 3, 0, n * PAGE_TOKENS, KVP_FOREVER, &view)); /* no other is left */
    kvp_view_unpin(&view);
    kvp_scan *scan;
    kvp_scan_args nothing = {.layer = 0, .max_parts = 1};
    faulty_disk_arm(
        disk,
        (faulty_plan){.kind = kind_of_fault, .op = FAULT_READS, .nth = 1, .is_persistent = true});
    must(kvp_scan_open(f->seqs[0], &nothing, &scan));
    kvp_scan_close(scan);
    assert_true(faulty_disk_fired(disk) > 0);
    faulty_disk_arm(disk, (faulty_plan){0});
}

/* What fails on the way is an error only for whoever wants the page, and only if it is lost. */
static void test_failed_prefetches_are_met_when_they_are_wanted(void **state)
{
    (void)state;
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    fixture f = set_up(1, QUARTER, &disk.env);
    decode(&f, 2);
    read_ahead_only(&f, &disk, FAULT_EIO);
    attend(&f, 0, 1);
    assert_true(stats_of(f.paged).io_errors > 0);
    read_ahead_only(&f, &disk, FAULT_FLIP);
    attend(&f, 0, 2); /* which nobody had read ahead */
    attend(&f, 0, 3);
    float q[HEADS * DIM] = {0}, out[HEADS * DIM];
    kvp_attend_args args = {.q = q, .out = out, .n_queries = 1, .n_heads = HEADS, .scale = 0.1f};
    assert_int_equal(kvp_attend(f.seqs[0], 1, &args), KVP_E_CORRUPT);
    assert_true(stats_of(f.paged).pages_lost > 0);
    must(kvp_pager_check(f.paged));
    tear_down(&f);
    faulty_disk_fini(&disk);
}

/* What had been fetched for a scan, but was displaced before it was opened, is read ahead again. */
static void test_a_guess_that_was_displaced_starts_over(void **state)
{
    (void)state;
    fixture f = set_up(1, QUARTER, NULL);
    decode(&f, 2);
    attend(&f, 0, 0); /* layer 1 is being read ahead */
    kvp_page_view pages[64];
    kvp_view view = {.pages = pages, .max_pages = 64};
    uint64_t n = stats_of(f.paged).n_frames;
    must(kvp_seq_pin(f.seqs[0], 3, 0, n * PAGE_TOKENS, KVP_FOREVER, &view));
    kvp_view_unpin(&view);
    kvp_stats before = stats_of(f.paged);
    attend(&f, 0, 1);
    kvp_stats after = stats_of(f.paged);
    assert_true((after.prefetches_used - before.prefetches_used) * 10 >= TOKENS / PAGE_TOKENS * 9);
    tear_down(&f);
}

/* Pages of scans that never came do not fill the window for good. */
static void test_the_window_is_cleared_of_scans_that_did_not_come(void **state)
{
    (void)state;
    fixture f = set_up(2, QUARTER, NULL);
    decode(&f, 3);
    attend(&f, 0, 0); /* sequence 1 is expected next, and not used again */
    kvp_stats s = stats_of(f.paged);
    assert_true(in_window(&s) > 0);
    for (uint32_t i = 0; i < 4 * LAYERS; i++)
        attend(&f, 0, i % LAYERS);
    kvp_stats before = stats_of(f.paged);
    for (uint32_t i = 0; i < LAYERS; i++)
        attend(&f, 0, i);
    kvp_stats after = stats_of(f.paged);
    uint64_t faults = after.major_faults - before.major_faults;
    assert_true(faults > 100);
    assert_true((after.prefetches_used - before.prefetches_used) * 10 >= faults * 9);
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_is_served_by_read_ahead),
        cmocka_unit_test(test_the_next_layer_is_fetched_before_it_is_asked_for),
        cmocka_unit_test(test_the_order_of_a_batch_is_learnt),
        cmocka_unit_test(test_pages_of_a_destroyed_sequence_leave_the_window),
        cmocka_unit_test(test_truncated_and_evicted_pages_leave_the_window),
        cmocka_unit_test(test_a_pin_takes_the_frames_of_the_window),
        cmocka_unit_test(test_the_smallest_budgets_decode),
        cmocka_unit_test(test_two_threads_share_the_window),
        cmocka_unit_test(test_a_failed_prefetch_is_not_the_callers_failure),
        cmocka_unit_test(test_failed_prefetches_are_met_when_they_are_wanted),
        cmocka_unit_test(test_a_guess_that_was_displaced_starts_over),
        cmocka_unit_test(test_the_window_is_cleared_of_scans_that_did_not_come),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
