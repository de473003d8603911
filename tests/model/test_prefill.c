/* test_prefill.c - prefill layer by layer under a budget of 1/8: what is written down is not read
 * back, as long as one layer fits; and results are those of a pager that has everything in RAM. */
#include "pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>

#define LAYERS 12u
#define HEADS 2u
#define DIM 32u
#define PAGE_TOKENS 32u
#define PAGE_BYTES (2u * PAGE_TOKENS * HEADS * DIM * 2u) /* 8 KiB */
#define CHUNK 64u
#define TOKENS 1024u /* 32 pages a layer */
#define KV_BYTES (LAYERS * (TOKENS / PAGE_TOKENS) * PAGE_BYTES)

static const kvp_layer_kind kind = {HEADS, DIM, DIM, KVP_F16};

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

static kvp_pager *open_pager(uint64_t ram_bytes, const kvp_placement_ops *placement)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = LAYERS,
                                  .n_kv_heads = HEADS,
                                  .head_dim = DIM,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS};
    cfg.ram_bytes = ram_bytes;
    cfg.disk_bytes = ram_bytes == KVP_UNLIMITED ? 0 : KVP_UNLIMITED;
    cfg.placement = placement;
    cfg.n_threads = 2;
    kvp_pager *pager;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

/* Every chunk through one layer, then the next layer. A hash of all outputs. */
static uint64_t prefill(kvp_seq *seq, uint32_t first, uint32_t n_tokens)
{
    static float k[CHUNK * HEADS * DIM], v[CHUNK * HEADS * DIM], q[CHUNK * HEADS * DIM];
    static float out[CHUNK * HEADS * DIM];
    uint64_t hash = 0;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t t = first; t < first + n_tokens; t += CHUNK) {
            uint32_t salts[CHUNK];
            for (uint32_t i = 0; i < CHUNK; i++)
                salts[i] = layer << 16 | (t + i);
            pattern_rows(&kind, salts, CHUNK, k, v);
            pattern_rows(&kind, salts, CHUNK, q, out);
            must(kvp_seq_append(seq, layer, k, v, CHUNK));
            must(kvp_attend(
                seq, layer,
                &(kvp_attend_args){
                    .q = q, .out = out, .n_queries = CHUNK, .n_heads = HEADS, .scale = 0.1f}));
            for (size_t i = 0; i < CHUNK * HEADS * DIM; i++)
                hash = (hash ^ (uint64_t)(int64_t)(out[i] * 65536.0f)) * 1099511628211u;
        }
    return hash;
}

static void test_pages_of_the_layer_that_is_built_stay(void **state)
{
    (void)state;
    kvp_pager *ram = open_pager(KVP_UNLIMITED, NULL), *paged = open_pager(KV_BYTES / 8, NULL);
    kvp_seq *in_ram, *seq;
    must(kvp_seq_create(ram, &in_ram));
    must(kvp_seq_create(paged, &seq));
    assert_int_equal(prefill(seq, 0, TOKENS), prefill(in_ram, 0, TOKENS));
    kvp_stats s = stats_of(paged);
    must(kvp_pager_check(paged));
    assert_true(s.bytes_written >= KV_BYTES / 2);
    assert_true(s.bytes_written <= KV_BYTES);
    assert_true(s.bytes_read * 20 <= KV_BYTES);
    assert_true(s.ram_peak_bytes <= KV_BYTES / 8);
    kvp_pager_close(ram);
    kvp_pager_close(paged);
}

/* Another turn: what the first one left on disk is read once, not once per chunk. */
static void test_older_pages_of_the_layer_are_read_once(void **state)
{
    (void)state;
    kvp_pager *ram = open_pager(KVP_UNLIMITED, NULL), *paged = open_pager(KV_BYTES / 8, NULL);
    kvp_seq *in_ram, *seq;
    must(kvp_seq_create(ram, &in_ram));
    must(kvp_seq_create(paged, &seq));
    prefill(in_ram, 0, TOKENS / 2);
    prefill(seq, 0, TOKENS / 2);
    uint64_t before = stats_of(paged).bytes_read;
    assert_int_equal(prefill(seq, TOKENS / 2, TOKENS / 2), prefill(in_ram, TOKENS / 2, TOKENS / 2));
    uint64_t n_read = stats_of(paged).bytes_read - before;
    assert_true(n_read >= KV_BYTES / 4);
    assert_true(n_read <= KV_BYTES / 2 + KV_BYTES / 20);
    must(kvp_pager_check(paged));
    kvp_pager_close(ram);
    kvp_pager_close(paged);
}

/* What was hot is a page like any other afterwards: decode reads what does not fit, no more. */
static void test_decode_after_prefill_hits_as_much_as_fits(void **state)
{
    (void)state;
    kvp_pager *paged = open_pager(KV_BYTES / 4, NULL);
    kvp_seq *seq;
    must(kvp_seq_create(paged, &seq));
    prefill(seq, 0, TOKENS);
    float q[HEADS * DIM] = {1.0f}, out[HEADS * DIM];
    uint64_t before = 0;
    for (int step = 0; step < 4; step++) {
        before = step == 3 ? stats_of(paged).bytes_read : 0;
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            must(kvp_seq_append(seq, layer, q, q, 1));
            must(kvp_attend(
                seq, layer,
                &(kvp_attend_args){
                    .q = q, .out = out, .n_queries = 1, .n_heads = HEADS, .scale = 0.1f}));
        }
    }
    kvp_stats s = stats_of(paged);
    uint64_t n_pages = LAYERS * (TOKENS / PAGE_TOKENS + 1);
    uint64_t n_moving = s.n_frames / 4 + 16; /* read-ahead, and what a part of the scan holds */
    assert_true(s.bytes_read - before <= (n_pages - s.n_frames + n_moving) * PAGE_BYTES);
    kvp_pager_close(paged);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_of_the_layer_that_is_built_stay),
        cmocka_unit_test(test_older_pages_of_the_layer_are_read_once),
        cmocka_unit_test(test_decode_after_prefill_hits_as_much_as_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
